"""What moved, in words: which numbers left their limits, whether chance explains it, and what to do."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hipnode.evaluation.report.words import count, listed, plural
from hipnode.evaluation.statistics.monitoring import CHANCE, Drift, Shift
from hipnode.evaluation.watch.records import ANY, Alarm, ErrorWatch, PackageWatch, Rate, ScoreDrift, Watch
from hipnode.status import AcceptanceOutcome
from hipnode.watched import LastAcceptance, WatchedStudy

FEWEST_LATENCIES = 20
FEWEST_WEEKLY = 10  # studies of a usual week below which a quiet one says nothing
_LISTED = 4  # weeks named in one sentence

MORE = (
    "Read some of the films it marked: are there more fractures, or more false marks? Ask whether another "
    "unit or device sends now."
)
LESS = (
    "Look for missed fractures first: import the final reports of these weeks and read the films they call "
    "fractured. Ask whether a unit stopped sending."
)
SCORES = (
    "Ask what changed in the pictures: a device, its processing, the exposure, another kind of patient. Then "
    "compare with final reports; a new acceptance run shows whether the package still keeps its promise."
)
MEANING = (
    "Thresholds and any calibration rest on what a score meant. If the reports are right, 'hipnode evaluate' on recent "
    "films shows by how much they are off, and 'hipnode accept' whether the package may stay."
)
ERRORS = (
    "Read the studies that are listed as disagreements. If the reports are right, tell the readers, and have the "
    "package pass 'hipnode accept' on recent cases before it is relied on further."
)


def alarms_of(
    watch: Watch, baseline: Sequence[WatchedStudy]
) -> tuple[tuple[Alarm, ...], tuple[str, ...], int]:
    """The alarms, most urgent first; notes that limit the numbers; how many comparisons with chance were made."""
    comparisons = 0
    delivery: list[Alarm] = []
    moved: list[Alarm] = []
    errors: list[Alarm] = []
    if unseen := sum(flow.unseen for flow in watch.weeks):
        says = f"results never reached a destination, of {count(unseen, 'study')} with a finding"
        do = "Look at 'hipnode studies list --status failed', mend the destination, then 'hipnode replay' them."
        delivery.append(Alarm("findings not delivered", None, says, do))
    delivery += _volume(watch, baseline) + _latency(watch, baseline)
    for rate in watch.rates:
        comparisons += _asked(rate)
        moved += _node_rate(rate, watch, baseline)
    for package in watch.packages:
        for rate in package.rates:
            comparisons += _asked(rate)
            moved += _class_rate(rate, package)
        for drift in package.scores:
            comparisons += sum(d.by_chance is not None for d in (*drift.weeks, drift.rolling))
            moved += _drift(drift, package, watch)
        comparisons += sum(band.fractured.chance is not None for band in package.bands)
        moved += _meaning(package)
        for error in package.errors:
            comparisons += error.level is not None and error.errors.chance is not None
            if said := _more_errors(error):
                errors.append(Alarm(plural(error.name), package.package, said, ERRORS))
    return (*errors, *delivery, *moved), _notes(watch, comparisons), comparisons


def _more_errors(error: ErrorWatch) -> str:
    """Whether errors against the reports became more frequent, as a sentence; "" where not."""
    now, before = error.errors.now, error.errors.baseline
    rose = error.level is not None and error.errors.alarm and (now.value or 0.0) > (before.value or 0.0)
    if not rose and not error.alarms:
        return ""
    became = "became more frequent" if rose else "were more frequent for a time"
    says = (
        f"{plural(error.name)} {became}: {now.events} of {now.n} in the last 90 days, {before.events} of "
        f"{before.n} in the first reports"
    )
    if error.alarms:
        days = listed([str(day) for day, _ in error.alarms[-_LISTED:]])
        says += f"; the CUSUM crossed its limit on {days}"
    return says


def _volume(watch: Watch, baseline: Sequence[WatchedStudy]) -> list[Alarm]:
    """Whole weeks, after that in which the node began, with under half the studies of a usual one."""
    begun = baseline[0].received_at.date() if baseline else watch.last
    weeks = [f for f in watch.weeks if f.whole and f.period.first > begun]
    if len(weeks) < 4:
        return []
    usual = float(np.median([f.period.studies for f in weeks]))
    if usual < FEWEST_WEEKLY:
        return []
    quiet = [f for f in weeks if f.period.studies < usual / 2 and f.period.studies < usual - 3 * usual**0.5]
    if not quiet:
        return []
    named = listed([f"{f.name} ({f.period.studies})" for f in quiet[-_LISTED:]])
    says = f"few studies came in {named}, where a usual week brings {usual:.0f}"
    do = "Ask whether the sender was down or its route changed: 'hipnode peers list' says who came last and when."
    return [Alarm("volume", None, says, do)]


def _latency(watch: Watch, baseline: Sequence[WatchedStudy]) -> list[Alarm]:
    """Weeks whose median is above what 95 % of the first studies took."""
    before = [s.latency_s for s in baseline if s.latency_s is not None]
    if len(before) < FEWEST_LATENCIES:
        return []
    usual, slow = np.percentile(before, [50, 95])
    last = baseline[-1].received_at.date()
    late = [
        flow
        for flow in watch.weeks
        if flow.period.first > last
        and (median := flow.period.median_latency_s) is not None
        and flow.period.studies - flow.period.refused - flow.period.failed >= FEWEST_LATENCIES
        and median > slow
    ]
    if not late:
        return []
    named = listed([f"{f.name} ({f.period.median_latency_s:.0f} s)" for f in late[-_LISTED:]])
    says = (
        f"answers came late: half of the studies took longer in {named} than 95 of 100 of the first ones "
        f"({slow:.0f} s; their median was {usual:.0f} s)"
    )
    do = (
        "See 'hipnode studies watch' and 'hipnode doctor': a missing worker, a slow destination, a full disk?"
    )
    return [Alarm("latency", None, says, do)]


def _node_rate(rate: Rate, watch: Watch, baseline: Sequence[WatchedStudy]) -> list[Alarm]:
    says, up = _moved(rate)
    if not says:
        return []
    said = f"the share of studies {rate.name} {says}"
    if not up:
        return [Alarm(rate.name, None, said, "Nothing to mend, unless what should be refused is now read.")]
    here = [(code, sentence, n) for code, sentence, kind, n, _ in watch.reasons if kind == rate.name and n]
    before = Counter(s.reason_code.value for s in baseline if s.reason_code is not None)
    total = sum(flow.period.studies for flow in watch.weeks)
    grown = max(here, key=lambda r: r[2] / max(total, 1) - before[r[0]] / max(len(baseline), 1), default=None)
    do = "'hipnode doctor' looks for the cause."
    if grown is not None:
        code, sentence, n = grown
        do = (
            f"What grew most: {sentence.rstrip('.')} ({n} studies in these weeks). "
            f"'hipnode studies list --reason {code}' shows them."
        )
    return [Alarm(rate.name, None, said, do)]


def _class_rate(rate: Rate, package: PackageWatch) -> list[Alarm]:
    says, up = _moved(rate)
    if not says:
        return []
    what = "fractures of any class" if rate.name == ANY else rate.name
    said = f"the share of studies in which {what} fired {says}"
    return [Alarm(f"{rate.name}: how often", package.package, said, MORE if up else LESS)]


def _moved(rate: Rate) -> tuple[str, bool]:
    """What moved as the end of a sentence, and whether it rose; "" where nothing did."""
    centre = rate.chart.centre
    if centre is None:
        return "", False
    weeks = [p for p, judged in zip(rate.chart.points, rate.judged, strict=True) if judged and p.alarm]
    up = [p for p in weeks if p.share is not None and p.share > centre]
    rose = rate.rolling.alarm and (rate.rolling.now.value or 0.0) > centre
    if not weeks and not rate.rolling.alarm:
        return "", False
    parts = []
    for points, where in ((up, "above"), ([p for p in weeks if p not in up], "below")):
        if points:
            last = points[-1]
            limit = last.upper if where == "above" else last.lower
            named = listed([p.period for p in points[-_LISTED:]])
            parts.append(
                f"was {where} its limits in {named} (last {last.positives} of {last.n}, {last.share:.1%}; "
                f"limit {limit:.1%})"
            )
    if rate.rolling.alarm:
        parts.append(f"is {_against(rate.rolling)} over the last 90 days")
    return " and ".join(parts), rose or (not rate.rolling.alarm and bool(up))


def _against(shift: Shift) -> str:
    now, before = shift.now, shift.baseline
    return (
        f"{now.value:.1%} ({now.events} of {now.n}) against {before.value:.1%} ({before.events} of {before.n}) "
        "in the first studies"
    )


def _drift(drift: ScoreDrift, package: PackageWatch, watch: Watch) -> list[Alarm]:
    weeks = [(f.name, d) for f, d in zip(watch.weeks, drift.weeks, strict=True) if d.alarm]
    parts = []
    if weeks:
        parts.append(f"in {listed([name for name, _ in weeks[-_LISTED:]])} (last {_index(weeks[-1][1])})")
    if drift.rolling.alarm:
        parts.append(f"over the last 90 days ({_index(drift.rolling)})")
    if not parts:
        return []
    says = f"the scores of {drift.name} are not those of the first studies: {' and '.join(parts)}"
    return [Alarm(f"{drift.name}: scores", package.package, says, SCORES)]


def _meaning(package: PackageWatch) -> list[Alarm]:
    moved = [band for band in package.bands if band.fractured.alarm]
    if not moved:
        return []
    parts = [f"of {band.low:g} to {band.high:g} {_against(band.fractured)}" for band in moved]
    says = f"a score does not mean what it meant: the share with a reported fracture among studies {'; '.join(parts)}"
    return [Alarm("meaning of scores", package.package, says, MEANING)]


def _index(drift: Drift) -> str:
    return f"PSI {drift.value:.2f}; chance gives up to {drift.by_chance:.2f}"


def _asked(rate: Rate) -> int:
    """How often a rate was held against chance."""
    if rate.chart.centre is None:
        return 0
    weeks = sum(judged and p.n > 0 for p, judged in zip(rate.chart.points, rate.judged, strict=True))
    return weeks + (rate.rolling.chance is not None)


def _notes(watch: Watch, comparisons: int) -> tuple[str, ...]:
    notes = []
    if comparisons:
        notes.append(
            f"{comparisons} comparisons were made; without any change about {comparisons * CHANCE:.1f} of them "
            "raise an alarm by chance."
        )
    left_out = watch.not_counted
    for n, why in (
        (left_out.open, "Not counted, because no look at them has ended yet"),
        (left_out.without_radiograph, "Not counted, because they brought no radiograph"),
        (watch.never_read, "With a fracture in the final report, and yet never read (refused or failed)"),
    ):
        if n:
            notes.append(f"{why}: {count(n, 'study')}.")
    sent = [p for p in watch.packages if not p.package.shadow]
    notes += [f"{p.package}: {_trust(p.accepted)}" for p in sent if _trust(p.accepted)]
    for package in sent:
        if package.first_day and watch.first <= package.first_day and len(sent) > 1:
            notes.append(
                f"{package.package} began on {package.first_day}. A new package or other thresholds change every "
                "rate: run 'hipnode accept' again, and wait for its own first studies."
            )
        notes += _of_reports(package)
    return tuple(notes)


def _trust(accepted: LastAcceptance | None) -> str:
    """What to know before these numbers are believed; "" where the package passed its last acceptance run."""
    if accepted is None:
        return (
            "no acceptance run of these weights is recorded at this node. That nothing moved says little as long as "
            "nobody knows where it began: 'hipnode accept' measures it on this site's own films."
        )
    if accepted.outcome is AcceptanceOutcome.PASS:
        return ""
    words = {AcceptanceOutcome.FAIL: "failed", AcceptanceOutcome.NOT_ENOUGH: "had too few cases to judge"}
    return f"its last acceptance run ({accepted.protocol}, {accepted.day}) {words[accepted.outcome]}."


def _of_reports(package: PackageWatch) -> list[str]:
    """Where more positive than negative studies have a report, sensitivity looks better than it is."""
    checked = package.verification
    if not any(a.agreement.reported.events for a in package.agreement) or not checked.alarm:
        return []
    positive, other = checked.now, checked.baseline
    effect = "too high" if (positive.value or 0) > (other.value or 0) else "too low"
    return [
        f"{package.package}: {positive.events} of {positive.n} positive studies have a final report, and "
        f"{other.events} of {other.n} others. Sensitivity against reports is {effect} for that reason alone; import "
        "the reports of all studies, or of a sample drawn without looking at the answer."
    ]
