"""Numbers to watch a model by: counts per period, p-chart, score drift, agreement with reports. Pure.

Thresholds of alarms are arguments with the usual value; an alarm is a reason to look, not a proof. Alarms
of shares and scores ask first whether chance gives as much: without any change 1 comparison of 370 raises
one, as often as 3 standard deviations are left (CHANCE).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import fisher_exact

from hipnode.evaluation.statistics.counts import Counts
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import wilson

BASELINE_STUDIES = 500
PSI_ALARM = 0.2
PSI_BINS = 10
PSI_FLOOR = 1e-4  # share given to an empty bin, whose logarithm would be infinite
PSI_DRAWS = 4000
PSI_FEWEST = 30  # scores on a side; fewer fill ten bins too thinly to tell drift from chance
CHANCE = 0.0027  # two-sided, 3 standard deviations


@dataclass(frozen=True)
class ChartPoint:
    """One period of a p-chart: positives of n, and the limits that n allows; share None without studies.

    outside: beyond the limits; they take the baseline's share for certain and a binomial for normal
    chance: where outside, how often two samples of these sizes from one rate differ so much (Fisher's exact
        test against the baseline); else None
    """

    period: str
    positives: int
    n: int
    share: float | None
    lower: float
    upper: float
    outside: bool
    chance: float | None = None

    @property
    def alarm(self) -> bool:
        """Outside, and not by chance: neither few studies nor a small baseline explain it."""
        return self.chance is not None and self.chance < CHANCE


@dataclass(frozen=True)
class PChart:
    """A chart of shares with limits from a baseline. centre is None where the baseline is too small; says why."""

    centre: float | None
    baseline: int
    points: tuple[ChartPoint, ...]
    says: str


@dataclass(frozen=True)
class Drift:
    """Population stability index of scores against a baseline. value None where a side has no scores.

    by_chance: what 1 of 370 pairs of samples of these sizes exceed without any drift; simulated
    alarm: the value is above the threshold and above by_chance
    edges: (k + 1,) of the bins; expected, observed: counts per bin, so that any cell can be checked
    """

    value: float | None
    alarm: bool
    edges: tuple[float, ...]
    expected: tuple[int, ...]
    observed: tuple[int, ...]
    by_chance: float | None = None


@dataclass(frozen=True)
class Shift:
    """A share of one stretch against that of the baseline. chance: Fisher's exact test, two-sided; None without n."""

    now: Estimate
    baseline: Estimate
    chance: float | None

    @property
    def alarm(self) -> bool:
        """Whether the difference is more than chance gives."""
        return self.chance is not None and self.chance < CHANCE


@dataclass(frozen=True)
class Cusum:
    """A Bernoulli CUSUM. path: the statistic after each case; alarms: indices of cases at which it crossed.

    After an alarm the statistic starts again at 0, so that each alarm is a new one.
    """

    path: tuple[float, ...]
    alarms: tuple[int, ...]
    acceptable: float
    unacceptable: float
    limit: float


@dataclass(frozen=True)
class Agreement:
    """The model against final reports, on the studies that have one.

    estimates: sensitivity, specificity, ppv, npv and accuracy (Wilson); reported: share of studies with a report
    """

    counts: Counts
    estimates: dict[str, Estimate]
    reported: Estimate


@dataclass(frozen=True)
class Period:
    """What happened in one stretch of days, first and last included."""

    first: date
    last: date
    studies: int
    refused: int
    failed: int
    positives: int
    refused_share: Estimate
    failed_share: Estimate
    positive_share: Estimate
    median_latency_s: float | None
    p95_latency_s: float | None


def week_of(day: date) -> tuple[date, date]:
    """Monday and Sunday of the ISO week of a day."""
    monday = day - timedelta(days=day.weekday())
    return monday, monday + timedelta(days=6)


def rolling_days(until: date, days: int = 90) -> tuple[date, date]:
    """The stretch of so many days that ends with `until`."""
    if days < 1:
        raise ValueError(f"a stretch has at least one day, not {days}")
    return until - timedelta(days=days - 1), until


def period(
    first: date,
    last: date,
    days: Sequence[date],
    outcomes: Sequence[str],
    positive: Sequence[bool],
    latency_s: Sequence[float | None],
) -> Period:
    """Volume, refusals, failures, positive rate and latency of the studies of a stretch of days.

    outcomes: "read", "refused" or "failed" per study; positive counts among the read ones only
    latency_s: seconds from the study's last image to its results, None where there are none
    """
    here = [i for i, day in enumerate(days) if first <= day <= last]
    unknown = sorted({outcomes[i] for i in here} - {"read", "refused", "failed"})
    if unknown:
        raise ValueError(f"an outcome is read, refused or failed, not {', '.join(unknown)}")
    read = [i for i in here if outcomes[i] == "read"]
    refused = sum(outcomes[i] == "refused" for i in here)
    failed = len(here) - len(read) - refused
    hits = sum(bool(positive[i]) for i in read)
    waits = [s for i in here if (s := latency_s[i]) is not None]
    middle, slow = np.percentile(waits, [50, 95]) if waits else (None, None)
    return Period(
        first,
        last,
        len(here),
        refused,
        failed,
        hits,
        wilson(refused, len(here)),
        wilson(failed, len(here)),
        wilson(hits, len(read)),
        None if middle is None else float(middle),
        None if slow is None else float(slow),
    )


def p_chart(
    periods: Sequence[str],
    positives: Sequence[int],
    studies: Sequence[int],
    baseline: Sequence[bool],
    baseline_studies: int = BASELINE_STUDIES,
) -> PChart:
    """A p-chart of a positive rate: limits centre +- 3 sqrt(centre (1 - centre) / n), within 0..1.

    baseline: whether each of the first `baseline_studies` studies was positive, in order; more are not used.
    Source: Shewhart 1931; Montgomery, Introduction to Statistical Quality Control, section 7.2. With a large
    period these limits are too narrow, because the baseline is a sample itself, and with a small share they
    are too low: hence `ChartPoint.chance`.
    """
    for name, hits, n in zip(periods, positives, studies, strict=True):
        if not 0 <= hits <= n:
            raise ValueError(f"period {name}: {hits} positives of {n} studies")
    first = np.asarray(baseline[:baseline_studies], dtype=np.bool_)
    shares = [hits / n if n else None for hits, n in zip(positives, studies, strict=True)]
    if len(first) < baseline_studies:
        why = f"no limits yet: {len(first)} of the {baseline_studies} studies that set them"
        open_points = tuple(
            ChartPoint(name, hits, n, share, 0.0, 1.0, outside=False)
            for name, hits, n, share in zip(periods, positives, studies, shares, strict=True)
        )
        return PChart(None, len(first), open_points, why)
    centre = float(first.mean())
    points = []
    for name, hits, n, share in zip(periods, positives, studies, shares, strict=True):
        half = 3 * math.sqrt(centre * (1 - centre) / n) if n else 1.0
        lower, upper = max(centre - half, 0.0), min(centre + half, 1.0)
        outside = share is not None and not lower - 1e-12 <= share <= upper + 1e-12
        chance = shift(hits, n, int(first.sum()), len(first)).chance if outside else None
        points.append(ChartPoint(name, hits, n, share, lower, upper, outside, chance))
    says = f"limits from the first {len(first)} studies"
    if centre in (0.0, 1.0):
        says += f", all of which were {'positive' if centre else 'negative'}: every other answer is outside"
    return PChart(centre, len(first), tuple(points), says)


def shift(hits: int, n: int, baseline_hits: int, baseline_n: int) -> Shift:
    """hits of n against the baseline's, with Wilson limits and Fisher's exact test (J R Stat Soc 1922;85:87-94)."""
    chance = None
    if n and baseline_n:
        table = [[hits, n - hits], [baseline_hits, baseline_n - baseline_hits]]
        chance = float(fisher_exact(table).pvalue)
    return Shift(wilson(hits, n), wilson(baseline_hits, baseline_n), chance)


def psi(baseline: ArrayLike, current: ArrayLike, bins: int = PSI_BINS, alarm: float = PSI_ALARM) -> Drift:
    """Population stability index: sum of (o - e) ln(o / e) over bins of equal count of the baseline.

    Equal baseline scores stay in one bin, so there may be fewer. A share of 0 counts as 1e-4. For few scores
    the index is large by chance: about (bins - 1)(1/n + 1/m) is expected without any drift (Yurdakul and
    Naranjo, J Risk Model Valid 2020;14(4)), so that 50 scores pass 0.2 every third
    time: no alarm then, nor for fewer than 30 scores.
    """
    before, after = (np.asarray(x, dtype=np.float64) for x in (baseline, current))
    if before.ndim != 1 or after.ndim != 1 or bins < 2:
        raise ValueError("a stability index compares two lists of scores in two bins at least")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("scores must be finite numbers; leave the missing ones out")
    if not len(before) or not len(after):
        return Drift(None, False, (), (), ())
    inner = np.unique(np.quantile(before, np.arange(1, bins) / bins))
    expected, observed = (_counts(x, inner) for x in (before, after))
    value = float(_index(expected, observed))
    pooled = (expected + observed) / (len(before) + len(after))
    generator = np.random.default_rng(1)
    draws = [generator.multinomial(len(x), pooled, PSI_DRAWS) for x in (before, after)]
    by_chance = float(np.quantile(_index(*draws), 1 - CHANCE))
    drifted = value > max(alarm, by_chance) and min(len(before), len(after)) >= PSI_FEWEST
    edges = (-math.inf, *inner.tolist(), math.inf)
    return Drift(value, drifted, edges, tuple(expected.tolist()), tuple(observed.tolist()), by_chance)


def cusum(wrong: Sequence[bool], acceptable: float, unacceptable: float, limit: float = 4.0) -> Cusum:
    """Bernoulli CUSUM of errors in order of time (Page, Biometrika 1954;41:100-15; Steiner, Biostatistics 2000).

    acceptable: the error rate at acceptance; unacceptable: the rate to be found soon, a higher one
    limit: the log likelihood ratio at which to look; a higher one alarms later and less often falsely
    """
    if not 0 < acceptable < unacceptable < 1 or limit <= 0:
        raise ValueError("a CUSUM needs 0 < acceptable < unacceptable < 1 and a limit above 0")
    step_wrong = math.log(unacceptable / acceptable)
    step_right = math.log((1 - unacceptable) / (1 - acceptable))
    path, alarms, level = [], [], 0.0
    for i, bad in enumerate(wrong):
        level = max(0.0, level + (step_wrong if bad else step_right))
        path.append(level)
        if level >= limit:
            alarms.append(i)
            level = 0.0
    return Cusum(tuple(path), tuple(alarms), acceptable, unacceptable, limit)


def agreement(model: Sequence[bool], report: Sequence[bool | None]) -> Agreement:
    """The model's answers against the final reports, Wilson limits. report: None where there is none (yet).

    A report is not the truth: its reader may have seen the model's answer.
    """
    if len(model) != len(report):
        raise ValueError(f"{len(model)} answers and {len(report)} reports; there must be one for each study")
    pairs = [(bool(m), bool(r)) for m, r in zip(model, report, strict=True) if r is not None]
    counts = Counts(
        tp=pairs.count((True, True)),
        fn=pairs.count((False, True)),
        fp=pairs.count((True, False)),
        tn=pairs.count((False, False)),
    )
    return Agreement(counts, counts.proportions(), wilson(len(pairs), len(report)))


def _counts(values: NDArray[np.float64], inner: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(inner, values, side="left"), minlength=len(inner) + 1)


def _index(expected: NDArray[np.int64], observed: NDArray[np.int64]) -> NDArray[np.float64]:
    """(..., bins) counts of two samples -> (...) stability index."""
    e, o = (np.maximum(c / c.sum(axis=-1, keepdims=True), PSI_FLOOR) for c in (expected, observed))
    return np.asarray(((o - e) * np.log(o / e)).sum(axis=-1))
