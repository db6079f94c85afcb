"""A monitoring report as a document: what moved first, then the weeks, the classes and the reports."""

from collections.abc import Sequence

from hipnode.evaluation.report.document import Cell, Document, Figure, Section, Table
from hipnode.evaluation.report.words import count, listed, plural, slug
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.monitoring import Agreement, Drift
from hipnode.evaluation.watch.records import ANY, Agreed, ErrorWatch, Flow, PackageWatch, Rate, Watch

UNIT = "study"
BRIEF = 20  # rows of the longest list on a terminal
_MONITORED = (
    "Numbers of the node's own ledger. They say that something changed, not that the package is right: only final "
    "reports, or an acceptance run, can say that."
)


def document(
    watch: Watch, facts: Sequence[tuple[str, str]], figures: Sequence[tuple[Figure, ...]] | None = None
) -> Document:
    """The report. figures: of each package of `watch.packages` in order (`drawn.figures`).

    Without figures it is for a terminal, and the longest lists are cut.
    """
    drawn = [()] * len(watch.packages) if figures is None else figures
    title = f"Monitoring, {watch.first} to {watch.last}"
    if not any(flow.period.studies for flow in (*watch.weeks, watch.rolling)):
        return Document(title, _summary(watch), (), tuple(facts), watch.notes)
    one = len(watch.packages) == 1
    sections = [_node(watch)]
    for package, pictures in zip(watch.packages, drawn, strict=True):
        sections.append(
            _package(
                package, watch, "" if one else f"-{slug(str(package.package))}", pictures, figures is None
            )
        )
    sections.append(_by_sender(watch))
    return Document(title, _summary(watch), tuple(sections), tuple(facts), watch.notes)


def _summary(watch: Watch) -> Section:
    flows = watch.weeks
    studies = sum(f.period.studies for f in flows)
    if not studies:
        return Section("In short", ("No look at a study ended in this time, so there is nothing to judge.",))
    read = studies - sum(f.period.refused + f.period.failed for f in flows)
    said = [
        f"{count(studies, UNIT)} came in {count(len(flows), 'week')}: {read:,} were read, "
        f"{sum(f.period.refused for f in flows):,} left to others and {sum(f.period.failed for f in flows):,} "
        f"failed."
    ]
    for package in watch.packages:
        said.append(_in_short(package))
    if watch.alarms:
        said.append(
            f"{count(len(watch.alarms), 'alarm')}. Each is a reason to look, and below it stands where to begin."
        )
        return Section("In short", (*said, _MONITORED), (_alarms(watch),))
    said.append(
        "No alarm: nothing moved by more than chance gives."
        if watch.comparisons
        else "No alarm, because nothing can be judged yet: the first 500 studies set the limits."
    )
    return Section("In short", (*said, _MONITORED))


def _in_short(package: PackageWatch) -> str:
    """One package in a sentence or two."""
    share = package.rates[0].chart.points
    hits, n = sum(p.positives for p in share), sum(p.n for p in share)
    said = f"{package.package} named a fracture in {hits:,} of {count(n, UNIT)} it read"
    centre = package.rates[0].chart.centre
    said += (
        f" ({hits / n:.0%}; in its first 500 studies {centre:.0%})."
        if n and centre is not None
        else f"; it has {package.baseline} of the 500 studies that set limits."
    )
    agreed = [a for a in package.agreement if a.name == ANY and " to " in a.stretch]
    if not agreed:
        return f"{said} No final report of these studies is known."
    counts = agreed[-1].agreement.counts
    return (
        f"{said} Of {counts.positives:,} that the final report calls fractured it named {counts.tp:,}; of "
        f"{counts.negatives:,} it calls free of fracture it marked {counts.fp:,}."
    )


def _alarms(watch: Watch) -> Table:
    return Table(
        "alarms",
        "What moved",
        UNIT,
        ("what", "package", "what was found", "what to do"),
        tuple(
            (alarm.what, str(alarm.package or "node"), _sentence(alarm.says), alarm.do)
            for alarm in watch.alarms
        ),
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _node(watch: Watch) -> Section:
    rates = [(*_flow_cells(flow), _week_moved(place, watch.rates)) for place, flow in enumerate(watch.weeks)]
    rolling = (*_flow_cells(watch.rolling), _rolling_moved(watch.rates))
    weeks = Table(
        "weeks",
        "Studies by week",
        UNIT,
        (
            "week",
            "studies",
            "refused",
            "failed",
            "partly read",
            "not delivered",
            "median s",
            "95 % within s",
            "moved",
        ),
        (*rates, rolling),
        (
            "Weeks run from Monday to Sunday (UTC) and hold the studies whose first image came then. A study counts "
            "once, by the last look at it that ended; a replay takes the place of the look before it.",
            "Seconds run from a study's last image to the end of its deliveries; replays have none.",
            f"Refused, failed and not delivered are held against {_limits(watch.rates[0])}.",
        ),
    )
    reasons = Table(
        "reasons",
        "Why studies were not read or not delivered",
        UNIT,
        ("reason", "says", "kind", "these weeks", watch.rolling.name),
        watch.reasons,
    )
    return Section("The node", parts=(weeks, reasons) if watch.reasons else (weeks,))


def _limits(rate: Rate) -> str:
    if rate.chart.centre is None:
        return f"nothing yet: {rate.chart.baseline} of the 500 studies that set the limits have ended"
    return "the first 500 studies of this node"


def _flow_cells(flow: Flow) -> tuple[Cell, ...]:
    p = flow.period
    name = flow.name if flow.whole else f"{flow.name} so far"
    return (
        name, p.studies, p.refused_share, p.failed_share, flow.partial, flow.undelivered,
        p.median_latency_s, p.p95_latency_s,
    )  # fmt: skip


def _week_moved(place: int, rates: Sequence[Rate]) -> str:
    """Which shares left their limits in a week, and whether chance gives as much."""
    said = []
    for rate in rates:
        point, centre = rate.chart.points[place], rate.chart.centre
        if centre is None or point.share is None:
            continue
        if not rate.judged[place]:
            return "sets the limits"
        if point.outside:
            where = "high" if point.share > centre else "low"
            said.append(f"{rate.name} {where}" + ("" if point.alarm else " (chance)"))
    return ", ".join(said)


def _rolling_moved(rates: Sequence[Rate]) -> str:
    return ", ".join(
        f"{r.name} {'high' if (r.rolling.now.value or 0) > (r.rolling.baseline.value or 0) else 'low'}"
        for r in rates
        if r.rolling.alarm
    )


def _package(
    package: PackageWatch, watch: Watch, suffix: str, figures: Sequence[Figure], brief: bool
) -> Section:
    shadow = "Its answers were kept and sent nowhere (shadow). " if package.package.shadow else ""
    says = (
        f"{shadow}{count(package.read, UNIT)} read in these weeks, {package.baseline} of the first 500 that set "
        f"limits for how often classes fire, and {package.scored} of the first 500 with kept scores."
    )
    parts: list[Table | Figure] = [_rates(package, watch, suffix), _psi(package, watch, suffix), *figures]
    if package.agreement:
        parts.append(_agreement(package, suffix))
        parts += [_meaning(package, suffix)] if package.bands else []
        parts.append(_errors(package, suffix))
    if package.disagreements:
        parts.append(_disagreements(package, suffix, brief))
    reports = () if package.agreement else (
        "No final report of these studies is known, so nothing here says whether the package was right. "
        "'hipnode monitor import-reports FILE.csv' brings them.",
    )  # fmt: skip
    return Section(str(package.package), (says, *reports), tuple(parts))


def _rates(package: PackageWatch, watch: Watch, suffix: str) -> Table:
    """A row a week; the share of each class, and what left its limits."""
    rows: list[tuple[Cell, ...]] = []
    for place, flow in enumerate(watch.weeks):
        points = [rate.chart.points[place] for rate in package.rates]
        shares = [wilson(p.positives, p.n) for p in points]
        rows.append((flow.name, points[0].n, *shares, _week_moved(place, package.rates)))
    now = [rate.rolling.now for rate in package.rates]
    rows.append((watch.rolling.name, now[0].n, *now, _rolling_moved(package.rates)))
    first = [rate.rolling.baseline for rate in package.rates]
    rows.append(("first studies", first[0].n, *first, ""))
    return Table(
        f"positives{suffix}",
        "How often each class fired",
        UNIT,
        ("week", "read", *(rate.name for rate in package.rates), "moved"),
        tuple(rows),
        (
            "A study counts for a class that fired in one of its images. Moved: outside 3 standard deviations of the "
            "share among the first 500 studies; (chance): two samples of these sizes differ so much too often to "
            "speak of a change (Fisher's exact test). The 90 days leave out the studies that set the limits.",
        ),
    )


def _psi(package: PackageWatch, watch: Watch, suffix: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for place, flow in enumerate(watch.weeks):
        rows.append((flow.name, *_drifts([s.weeks[place] for s in package.scores], package)))
    rows.append((watch.rolling.name, *_drifts([s.rolling for s in package.scores], package)))
    notes = [
        "Population stability index of the best score of each class in each study, also below its threshold, against "
        "the first 500 studies; behind it what 1 of 370 pairs of samples of these sizes exceed without any drift. "
        "Moved: above 0.2 and above chance, from 30 studies on.",
    ]
    if package.scored < 500:
        notes.append(
            f"No index yet: scores are kept of {package.scored} of the 500 studies that set the baseline."
        )
    columns = ("week", "scored", *(score.name for score in package.scores), "moved")
    return Table(
        f"scores{suffix}", "Whether the scores moved (PSI)", UNIT, columns, tuple(rows), tuple(notes)
    )


def _drifts(drifts: Sequence[Drift], package: PackageWatch) -> tuple[Cell, ...]:
    n = max((sum(d.observed) for d in drifts), default=0)
    cells = [
        None if d.value is None or d.by_chance is None else f"{d.value:.2f} (chance {d.by_chance:.2f})"
        for d in drifts
    ]
    moved = [s.name for s, d in zip(package.scores, drifts, strict=True) if d.alarm]
    return (n, *cells, ", ".join(moved))


def _agreement(package: PackageWatch, suffix: str) -> Table:
    columns = (
        "class", "studies of", "with report", "right positive", "missed", "false alarm", "right negative",
        "sensitivity", "specificity", "PPV", "NPV",
    )  # fmt: skip
    return Table(
        f"agreement{suffix}",
        "Package and final report",
        UNIT,
        columns,
        tuple(_agreed_row(a) for a in package.agreement),
        (
            "The report is not the truth: its reader may have seen the package's answer, and then both miss the same "
            "fracture. Reports that name no class count for any fracture only.",
        ),
    )


def _agreed_row(agreed: Agreed) -> tuple[Cell, ...]:
    a: Agreement = agreed.agreement
    c, e = a.counts, a.estimates
    return (
        agreed.name, agreed.stretch, a.reported, c.tp, c.fn, c.fp, c.tn,
        e["sensitivity"], e["specificity"], e["ppv"], e["npv"],
    )  # fmt: skip


def _meaning(package: PackageWatch, suffix: str) -> Table:
    return Table(
        f"meaning{suffix}",
        "Whether a score still means what it meant",
        UNIT,
        ("best score", "fractured, first studies", "fractured, last 90 days", "moved"),
        tuple(
            (
                f"{band.low:g} to {band.high:g}",
                band.fractured.baseline,
                band.fractured.now,
                "yes" if band.fractured.alarm else "",
            )
            for band in package.bands
        ),
        (
            "Studies by their best score of any class, and of these the share whose report names a fracture. Moved: "
            "more than chance gives (Fisher's exact test).",
        ),
    )


def _errors(package: PackageWatch, suffix: str) -> Table:
    return Table(
        f"errors{suffix}",
        "Whether errors became more frequent (CUSUM)",
        UNIT,
        (
            "errors",
            "in the first reports",
            "last 90 days",
            "cases since",
            "level",
            "alarm at",
            "alarms in these weeks",
            "says",
        ),
        tuple(_error_row(e) for e in package.errors),
        (
            "Each error raises the level, each right answer lowers it; at the limit it alarms and begins again at 0. "
            "It looks for twice the odds (Page 1954; Steiner et al. 2000) of the upper limit of the rate among the "
            "first 500 reports. Missed fractures are counted among the studies whose report names one, false alarms "
            "among the others.",
        ),
    )


def _error_row(error: ErrorWatch) -> tuple[Cell, ...]:
    return (
        plural(error.name), error.errors.baseline, error.errors.now, error.cases, error.level, error.limit,
        listed([f"{day} (study {study})" for day, study in error.alarms]) or "none", error.says,
    )  # fmt: skip


def _disagreements(package: PackageWatch, suffix: str, brief: bool) -> Table:
    here = package.disagreements[:BRIEF] if brief else package.disagreements
    return Table(
        f"disagreements{suffix}",
        "Studies to read again: package and report disagree about any fracture",
        UNIT,
        ("study", "received", "package says", "report says", "kind"),
        tuple(
            (
                str(d.study_id),
                str(d.received),
                " ".join(d.model) or "nothing fired",
                "fracture" if d.report is None else " ".join(d.report) or "no fracture",
                d.kind,
            )
            for d in here
        ),
        (
            f"The newest {count(len(here), UNIT)}; 'hipnode studies show ID' shows one of them"
            f"{', and --out writes more of them' if len(here) < len(package.disagreements) else ''}.",
        ),
    )


def _by_sender(watch: Watch) -> Section:
    columns = (
        "sender",
        "studies",
        "refused",
        "failed",
        "positive",
        "sensitivity",
        "PPV",
        "interval leaves out all's",
    )
    table = Table(
        "senders",
        "By sender",
        UNIT,
        columns,
        tuple(
            (s.name, s.studies, s.refused, s.failed, s.positive, s.sensitivity, s.ppv, ", ".join(s.differs))
            for s in watch.senders
        ),
        (
            "The ledger knows the AE title that sent the films, not the X-ray device or its manufacturer. Units differ "
            "in their patients, so a difference is a question and no fault; sensitivity and PPV are against reports.",
        ),
    )
    return Section("By sender", parts=(table,))
