"""From studies to the numbers of a monitoring report: weeks, rolling days, limits, drifts, agreement."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.monitoring import (
    BASELINE_STUDIES,
    Agreement,
    Shift,
    agreement,
    cusum,
    p_chart,
    period,
    psi,
    rolling_days,
    shift,
    week_of,
)
from hipnode.evaluation.watch.alarms import alarms_of
from hipnode.evaluation.watch.meaning import after, bands
from hipnode.evaluation.watch.records import (
    ANY,
    ROLLING_DAYS,
    Agreed,
    Disagreement,
    ErrorWatch,
    Flow,
    History,
    PackageWatch,
    Rate,
    ScoreDrift,
    Sender,
    Watch,
)
from hipnode.watched import Ending, NotCounted, Package, WatchedStudy

FEWEST_ERRORS_OF = 20
"""Reported fractures (or films without) among the first reported studies below which no CUSUM begins."""
ODDS = 2.0  # a CUSUM looks for twice the odds of an error (Steiner et al., Biostatistics 2000;1:441-52)
MOST_DISAGREEMENTS = 200
MOST_SENDERS = 30
_SUNDAY = 6
MISSED, FALSE_ALARM = "missed fracture", "false alarm"

Studies = Sequence[WatchedStudy]
Stretch = tuple[str, date, date]


def first_day_needed(since: date, until: date) -> date:
    """The day from which studies are needed: the Monday of the first week, or that of the rolling days."""
    return min(week_of(since)[0], rolling_days(until, ROLLING_DAYS)[0])


def packages_in(studies: Iterable[WatchedStudy]) -> tuple[Package, ...]:
    """The packages that read any of these studies, those whose answers were sent first, by name."""
    seen = {s.package for s in studies if s.package is not None and s.ending is Ending.READ}
    return tuple(sorted(seen, key=lambda p: (p.shadow, p.package_id, p.sha256)))


def watch(
    studies: Studies,
    first: Studies,
    histories: Mapping[Package, History],
    not_counted: NotCounted,
    since: date,
    until: date,
    *,
    over: bool = True,
) -> Watch:
    """The report of the weeks from `since` to `until`, and of the 90 days that end with `until`.

    studies: one row per study and package (`packages_in`), received from `first_day_needed` to `until`
    first: the first 500 studies of the node whose look ended, which set the limits of refusals and failures
    histories: of each package in `packages_in(studies)`
    over: the last day is over; else the last week may fill up yet
    """
    weeks = _weeks(since, until)
    rolling = (f"last {ROLLING_DAYS} days", *rolling_days(until, ROLLING_DAYS))
    node = _once(s for s in studies if not (s.package and s.package.shadow))
    by_week = _split(node, weeks)
    shown = [s for week in by_week for s in week]
    last_days = _within(node, rolling)
    baseline = _once(first)
    packages = tuple(
        _package(p, [s for s in studies if s.package == p], histories[p], weeks, rolling)
        for p in packages_in(studies)
    )
    made = Watch(
        first=weeks[0][1],
        last=until,
        weeks=tuple(
            _flow(stretch, some, whole=stretch[2].weekday() == _SUNDAY and (over or stretch[2] < until))
            for stretch, some in zip(weeks, by_week, strict=True)
        ),
        rolling=_flow(rolling, last_days, whole=True),
        rates=tuple(
            _rate(name, of, by_week, last_days, baseline, weeks)
            for name, of in (
                ("refused", lambda s: s.ending is Ending.REFUSED),
                ("failed", lambda s: s.ending is Ending.FAILED),
                ("not delivered", lambda s: s.ending is Ending.READ and not s.delivered),
            )
        ),
        reasons=_reasons(shown, last_days),
        packages=packages,
        senders=_senders(shown),
        not_counted=not_counted,
        never_read=sum(s.ending is not Ending.READ and bool(s.report and s.report.fracture) for s in shown),
        alarms=(),
        notes=(),
        comparisons=0,
    )
    alarms, notes, comparisons = alarms_of(made, baseline)
    return replace(made, alarms=alarms, notes=notes, comparisons=comparisons)


def _weeks(since: date, until: date) -> list[Stretch]:
    """The ISO weeks that hold the days from `since` to `until`; the last one ends with `until`."""
    if since > until:
        raise ValueError("the first day lies after the last")
    weeks = []
    monday = week_of(since)[0]
    while monday <= until:
        year, week, _ = monday.isocalendar()
        weeks.append((f"{year}-W{week:02d}", monday, min(monday + timedelta(days=6), until)))
        monday += timedelta(days=7)
    return weeks


def _day(study: WatchedStudy) -> date:
    return study.received_at.date()  # the ledger's instants are UTC


def _within(studies: Iterable[WatchedStudy], stretch: Stretch) -> list[WatchedStudy]:
    return [s for s in studies if stretch[1] <= _day(s) <= stretch[2]]


def _split(studies: Iterable[WatchedStudy], weeks: Sequence[Stretch]) -> list[list[WatchedStudy]]:
    """The studies of each week."""
    split: list[list[WatchedStudy]] = [[] for _ in weeks]
    start, end = weeks[0][1], weeks[-1][2]
    for study in studies:
        if start <= (day := _day(study)) <= end:
            split[(day - start).days // 7].append(study)
    return split


def _once(studies: Iterable[WatchedStudy]) -> list[WatchedStudy]:
    """Each study once: of several packages' looks one that failed, else one that read, with all their classes."""
    ranks = {Ending.FAILED: 2, Ending.READ: 1, Ending.REFUSED: 0}
    kept: dict[int, WatchedStudy] = {}
    for study in studies:
        before = kept.get(study.study_id)
        if before is None:
            kept[study.study_id] = study
            continue
        more = max(before, study, key=lambda s: ranks[s.ending])
        classes = tuple(sorted({*before.classes, *study.classes}))
        kept[study.study_id] = more._replace(classes=classes)
    return list(kept.values())


def _flow(stretch: Stretch, studies: Studies, *, whole: bool) -> Flow:
    name, first, last = stretch
    lost = [s for s in studies if s.ending is Ending.READ and not s.delivered]
    return Flow(
        name,
        whole,
        period(
            first,
            last,
            [_day(s) for s in studies],
            [s.ending.value for s in studies],
            [bool(s.classes) for s in studies],
            [s.latency_s for s in studies],
        ),
        sum(s.partial for s in studies),
        len(lost),
        sum(bool(s.classes) for s in lost),
    )


def _rate(
    name: str,
    of: Callable[[WatchedStudy], bool],
    by_week: Sequence[Studies],
    last_days: Studies,
    baseline: Studies,
    weeks: Sequence[Stretch],
) -> Rate:
    """A share over weeks and rolling days; the studies that set the limits are not held against them."""
    flags = [of(s) for s in baseline]
    chart = p_chart(
        [week[0] for week in weeks],
        [sum(of(s) for s in some) for some in by_week],
        [len(some) for some in by_week],
        flags,
    )
    set_ = len(baseline) >= BASELINE_STUDIES
    later = after(last_days, baseline) if set_ else []
    judged = tuple(set_ and len(after(some, baseline)) == len(some) for some in by_week)
    rolling = shift(sum(of(s) for s in later), len(later), sum(flags), len(flags))
    return Rate(name, chart, judged, rolling)


def _package(
    package: Package, studies: Studies, history: History, weeks: Sequence[Stretch], rolling: Stretch
) -> PackageWatch:
    read = [s for s in studies if s.ending is Ending.READ]
    by_week, last_days = _split(read, weeks), _within(read, rolling)
    shown = [s for some in by_week for s in some]
    classes = _classes([*shown, *last_days, *history.first, *history.scored, *history.reported])
    return PackageWatch(
        package=package,
        read=len(shown),
        first_day=_day(history.first[0]) if history.first else None,
        baseline=len(history.first),
        scored=len(history.scored),
        rates=tuple(
            _rate(name, _fired(name), by_week, last_days, history.first, weeks) for name in (ANY, *classes)
        ),
        scores=tuple(_drift(name, by_week, last_days, history.scored) for name in classes),
        agreement=_agreement(classes, by_week, last_days, weeks, rolling[0]),
        bands=bands(history.scored, last_days),
        errors=_errors(history.reported, rolling, weeks),
        disagreements=_disagreements(shown),
        verification=_verification(shown),
        accepted=history.accepted,
    )


def _classes(studies: Iterable[WatchedStudy]) -> tuple[str, ...]:
    """The classes a package ever gave a candidate for in what we have of it."""
    names: set[str] = set()
    for study in studies:
        names.update(study.classes, study.scores or ())
    return tuple(sorted(names))


def _fired(name: str) -> Callable[[WatchedStudy], bool]:
    return (lambda s: bool(s.classes)) if name == ANY else (lambda s: name in s.classes)


def _drift(name: str, by_week: Sequence[Studies], last_days: Studies, baseline: Studies) -> ScoreDrift:
    """Against the first 500 studies with scores; a class without candidate counts as 0."""
    before = _scores(baseline, name) if len(baseline) >= BASELINE_STUDIES else []

    def against(studies: Studies) -> list[float]:
        return _scores(after(studies, baseline), name)

    weeks = tuple(psi(before, against(some)) for some in by_week)
    return ScoreDrift(name, weeks, psi(before, against(last_days)))


def _scores(studies: Studies, name: str) -> list[float]:
    return [s.scores.get(name, 0.0) for s in studies if s.scores is not None]


def _agreement(
    classes: Sequence[str],
    by_week: Sequence[Studies],
    last_days: Studies,
    weeks: Sequence[Stretch],
    rolling: str,
) -> tuple[Agreed, ...]:
    """Any fracture per week, rolling and over all weeks; each class rolling and over all weeks."""
    shown = [s for some in by_week for s in some]
    every = f"{weeks[0][0]} to {weeks[-1][0]}"
    made = [
        Agreed(ANY, week[0], _agreed(some, ANY))
        for week, some in zip(weeks, by_week, strict=True)
        if any(s.report for s in some)
    ]
    for name in (ANY, *classes):
        for stretch, some in ((every, shown), (rolling, last_days)):
            if any(s.report for s in some):
                made.append(Agreed(name, stretch, _agreed(some, name)))
    return tuple(made)


def _agreed(studies: Studies, name: str) -> Agreement:
    fired = _fired(name)
    return agreement([fired(s) for s in studies], [_says(s, name) for s in studies])


def _says(study: WatchedStudy, name: str) -> bool | None:
    """What the report says of a class; None where it does not."""
    report = study.report
    if report is None or name == ANY:
        return None if report is None else report.fracture
    return None if report.classes is None else name in report.classes


def _errors(reported: Studies, rolling: Stretch, weeks: Sequence[Stretch]) -> tuple[ErrorWatch, ...]:
    """Missed fractures and false alarms, in order of time, beginning after the first 500 with a report."""
    first, later = reported[:BASELINE_STUDIES], reported[BASELINE_STUDIES:]
    made = []
    for name, fracture in ((MISSED, True), (FALSE_ALARM, False)):
        before, after = (
            [s for s in some if s.report is not None and s.report.fracture is fracture]
            for some in (first, later)
        )
        recent = _within(after, rolling)
        errors = shift(_wrongs(recent), len(recent), _wrongs(before), len(before))
        shown = ErrorWatch(name, errors, len(after), (), "")
        kind = "with" if fracture else "without"
        if len(reported) < BASELINE_STUDIES:
            says = f"not begun: {len(reported)} of the {BASELINE_STUDIES} studies with a report that set the rate"
            made.append(replace(shown, says=says))
        elif len(before) < FEWEST_ERRORS_OF:
            says = (
                f"not begun: only {len(before)} of the first {BASELINE_STUDIES} reports are {kind} fracture"
            )
            made.append(replace(shown, says=says))
        else:
            made.append(_cusum(shown, after, weeks))
    return tuple(made)


def _cusum(shown: ErrorWatch, after: Studies, weeks: Sequence[Stretch]) -> ErrorWatch:
    """The upper limit of the first studies' rate is acceptable: held against the rate itself, which is a sample's,
    a package that never changes would alarm again and again."""
    rate = min(shown.errors.baseline.high or 0.5, 0.5)
    odds = ODDS * rate / (1 - rate)
    chart = cusum([_wrong(s) for s in after], rate, odds / (1 + odds))
    crossed = [(_day(after[i]), after[i].study_id) for i in chart.alarms]
    return replace(
        shown,
        alarms=tuple(each for each in crossed if weeks[0][1] <= each[0] <= weeks[-1][2]),
        says=f"looks for {chart.unacceptable:.1%} where up to {chart.acceptable:.1%} was usual",
        level=chart.path[-1] if chart.path else 0.0,
        limit=chart.limit,
        acceptable=chart.acceptable,
        unacceptable=chart.unacceptable,
    )


def _wrongs(studies: Studies) -> int:
    return sum(_wrong(s) for s in studies)


def _wrong(study: WatchedStudy) -> bool:
    return study.report is not None and study.report.fracture is not bool(study.classes)


def _disagreements(studies: Studies) -> tuple[Disagreement, ...]:
    made = [
        Disagreement(
            s.study_id,
            _day(s),
            s.classes,
            s.report.classes,
            MISSED if s.report.fracture else FALSE_ALARM,
        )
        for s in studies
        if s.report is not None and _wrong(s)
    ]
    return tuple(sorted(made, key=lambda d: (d.received, d.study_id), reverse=True)[:MOST_DISAGREEMENTS])


def _verification(studies: Studies) -> Shift:
    """The share with a report among positive studies, against that among the others."""
    positive, other = (
        [s.report is not None for s in studies if bool(s.classes) is fired] for fired in (True, False)
    )
    return shift(sum(positive), len(positive), sum(other), len(other))


def _reasons(shown: Studies, last_days: Studies) -> tuple[tuple[str, str, str, int, int], ...]:
    """Why studies were refused or failed, or their results not delivered; most frequent first."""

    def counted(studies: Studies) -> Counter[tuple[str, str, str]]:
        return Counter(
            (s.reason_code.value, s.reason_code.sentence, _kind(s))
            for s in studies
            if s.reason_code is not None and _kind(s)
        )

    here, rolling = counted(shown), counted(last_days)
    order = sorted({*here, *rolling}, key=lambda r: (-here[r], -rolling[r], r))
    return tuple((*reason, here[reason], rolling[reason]) for reason in order)


def _kind(study: WatchedStudy) -> str:
    if study.ending is not Ending.READ:
        return study.ending.value
    return "" if study.delivered else "not delivered"


def _senders(studies: Studies) -> tuple[Sender, ...]:
    """By AE title, the busiest first; those beyond the 30th together."""
    by_title: dict[str, list[WatchedStudy]] = defaultdict(list)
    for study in studies:
        by_title[study.sender or "unknown"].append(study)
    order = sorted(by_title, key=lambda title: (-len(by_title[title]), title))
    if len(order) > MOST_SENDERS:
        rest = [s for title in order[MOST_SENDERS - 1 :] for s in by_title[title]]
        order = [*order[: MOST_SENDERS - 1], f"{len(order) - MOST_SENDERS + 1} others"]
        by_title[order[-1]] = rest
    every = _sender("all", studies, None)
    return (*(_sender(title, by_title[title], every) for title in order), every)


def _sender(name: str, studies: Studies, every: Sender | None) -> Sender:
    read = [s for s in studies if s.ending is Ending.READ]
    agreed = _agreed(read, ANY).estimates
    shares = {
        "refused": wilson(sum(s.ending is Ending.REFUSED for s in studies), len(studies)),
        "failed": wilson(sum(s.ending is Ending.FAILED for s in studies), len(studies)),
        "positive": wilson(sum(bool(s.classes) for s in read), len(read)),
        "sensitivity": agreed["sensitivity"],
        "ppv": agreed["ppv"],
    }
    differs: tuple[str, ...] = ()
    if every is not None:
        differs = tuple(
            column
            for column, share in shares.items()
            if (of_all := getattr(every, column).value) is not None
            and share.low is not None
            and share.high is not None
            and not share.low <= of_all <= share.high
        )
    return Sender(name, len(studies), differs=differs, **shares)
