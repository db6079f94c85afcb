"""Two-by-two counts per class, the proportions made of them, and micro and macro averages. Pure.

A proportion of nothing (0/0) has no value and is left out of averages; `zero_division=0.0` exists only to
reproduce a published table that counted it as 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import (
    Method,
    Sums,
    from_sums,
    number_of_patients,
    proportion,
    resampled_sums,
    share_by_patient,
    strata_when_few,
)
from hipnode.evaluation.statistics.resampling import DEFAULT_RESAMPLES, Resamples, codes_of

METRICS = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "balanced_accuracy")
AVERAGED = ("sensitivity", "specificity", "ppv", "f1")


@dataclass(frozen=True)
class Counts:
    """The two-by-two table of one class against the rest."""

    tp: int
    fn: int
    fp: int
    tn: int

    def __post_init__(self) -> None:
        if min(self.tp, self.fn, self.fp, self.tn) < 0:
            raise ValueError(f"a count is negative: {self}")

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fn + other.fn, self.fp + other.fp, self.tn + other.tn)

    @property
    def n(self) -> int:
        """All units."""
        return self.tp + self.fn + self.fp + self.tn

    @property
    def positives(self) -> int:
        """Units that have the class."""
        return self.tp + self.fn

    @property
    def negatives(self) -> int:
        """Units that do not have it."""
        return self.fp + self.tn

    def value(self, metric: str, zero_division: float | None = None) -> float | None:
        """One of METRICS; `zero_division` (None: undefined) where it is 0/0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = float(metric_of(metric, np.array([self.tp, self.fn, self.fp, self.tn], dtype=float)))
        return found if np.isfinite(found) else zero_division

    def proportions(self, method: Method = "wilson") -> dict[str, Estimate]:
        """Accuracy, sensitivity, specificity, PPV and NPV with their intervals, by name."""
        return {
            "accuracy": proportion(self.tp + self.tn, self.n, method),
            "sensitivity": proportion(self.tp, self.positives, method),
            "specificity": proportion(self.tn, self.negatives, method),
            "ppv": proportion(self.tp, self.tp + self.fp, method),
            "npv": proportion(self.tn, self.tn + self.fn, method),
        }


@dataclass(frozen=True)
class ClassRow:
    """One class against the rest; F1 and balanced accuracy carry the bootstrap interval."""

    name: str
    counts: Counts
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class ClassTable:
    """Rows per class, and averages over them.

    micro: counts of all classes added, then divided; n and events are those of the sums
    macro: unweighted means over the classes in which the number is defined, and for sensitivity and F1
        over the classes with at least one positive; macro_over says over how many, and events are those of
        the smallest of these classes, which the mean trusts as much as the largest
    micro_over: K, the classes whose counts were added
    """

    rows: tuple[ClassRow, ...]
    micro_counts: Counts
    micro: dict[str, Estimate]
    macro: dict[str, Estimate]
    micro_over: int
    macro_over: dict[str, int]


def metric_of(metric: str, sums: Sums) -> NDArray[np.float64]:
    """(...,) one of METRICS from (..., 4) sums of tp, fn, fp, tn; NaN where it is 0/0."""
    tp, fn, fp, tn = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        match metric:
            case "accuracy":
                made = (tp + tn) / (tp + fn + fp + tn)
            case "sensitivity":
                made = tp / (tp + fn)
            case "specificity":
                made = tn / (tn + fp)
            case "ppv":
                made = tp / (tp + fp)
            case "npv":
                made = tn / (tn + fn)
            case "f1":
                made = 2 * tp / (2 * tp + fp + fn)
            case "balanced_accuracy":
                made = (tp / (tp + fn) + tn / (tn + fp)) / 2
            case _:
                raise ValueError(f"{metric!r} is none of {', '.join(METRICS)}")
    return np.asarray(made)


def count(reference: ArrayLike, called: ArrayLike) -> Counts:
    """The two-by-two table of (n,) bool reference against (n,) bool called."""
    truth, seen = np.asarray(reference, dtype=np.bool_), np.asarray(called, dtype=np.bool_)
    if truth.shape != seen.shape or truth.ndim != 1:
        raise ValueError(f"reference {truth.shape} and called {seen.shape} are not one row of units each")
    tp, fn, fp, tn = (int(c.sum()) for c in _cells(truth, seen))
    return Counts(tp, fn, fp, tn)


def proportions_by_patient(
    reference: ArrayLike, called: ArrayLike, patients: ArrayLike | None = None, method: Method = "wilson"
) -> dict[str, Estimate]:
    """What `Counts.proportions` gives, with intervals that know which units are of one patient."""
    truth, seen = np.asarray(reference, dtype=np.bool_), np.asarray(called, dtype=np.bool_)
    owners = codes_of(patients, len(truth))
    asked = {
        "accuracy": (truth == seen, np.ones_like(truth)),
        "sensitivity": (seen, truth),
        "specificity": (~seen, ~truth),
        "ppv": (truth, seen),
        "npv": (~truth, ~seen),
    }
    return {name: share_by_patient(hit[among], owners[among], method) for name, (hit, among) in asked.items()}


def confusion(reference: Sequence[str], called: Sequence[str], outcomes: Sequence[str]) -> NDArray[np.int64]:
    """(K, K) units by reference (row) and called (column), in the order of outcomes.

    Raises ValueError for an outcome that is not among them.
    """
    k = len(outcomes)
    truth, seen = _codes(reference, outcomes), _codes(called, outcomes)
    if len(truth) != len(seen):
        raise ValueError(f"{len(truth)} references and {len(seen)} calls are not of the same units")
    return np.bincount(truth * k + seen, minlength=k * k).reshape(k, k).astype(np.int64)


def one_hot(names: Sequence[str], outcomes: Sequence[str]) -> NDArray[np.bool_]:
    """(n, K) bool: which outcome each unit has. Raises ValueError for one that is not among them."""
    return np.asarray(_codes(names, outcomes)[:, None] == np.arange(len(outcomes)))


def class_table(
    reference: ArrayLike,
    called: ArrayLike,
    names: Sequence[str],
    *,
    seed: int,
    patients: ArrayLike | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    method: Method = "wilson",
    resampled: Resamples | None = None,
) -> ClassTable:
    """The table of classes with intervals: proportions by `method`, all else by bootstrap of patients.

    Proportions are wider where a patient has several units: `intervals.share_by_patient`.
    resampled: resamples of these units to use; None draws them from seed
    reference, called: (n, K) bool, several classes per unit allowed; a single-label table comes from
        `one_hot` over all outcomes, no fracture among them.
    """
    truth, seen = np.asarray(reference, dtype=np.bool_), np.asarray(called, dtype=np.bool_)
    if truth.shape != seen.shape or truth.ndim != 2 or truth.shape[1] != len(names):
        raise ValueError(f"reference {truth.shape} and called {seen.shape} are not (n, {len(names)}) each")
    cells = np.stack(_cells(truth, seen), axis=2)  # (n, K, 4)
    table = cells.reshape(len(cells), 4 * len(names)).astype(float)
    if resampled is None:
        strata = strata_when_few(truth)
        draws = resampled_sums(table, patients, seed=seed, resamples=resamples, strata=strata)
    else:
        draws = resampled.sums(table)
    drawn = number_of_patients(patients, len(truth))
    estimate = partial(from_sums, table=table, draws=draws, patients=drawn)
    totals = [Counts(*(int(x) for x in row)) for row in cells.sum(axis=0)]
    rows = []
    for k, (name, counts) in enumerate(zip(names, totals, strict=True)):
        estimates = proportions_by_patient(truth[:, k], seen[:, k], patients, method)
        for metric in ("f1", "balanced_accuracy"):
            estimates[metric] = estimate(partial(_of_class, metric, k), events=counts.positives)
        rows.append(ClassRow(name, counts, estimates))
    together = sum(totals, Counts(0, 0, 0, 0))
    positives = int(truth.any(axis=1).sum()) if len(truth) else 0
    of_all = {
        "sensitivity": (together.tp, together.positives),
        "specificity": (together.tn, together.negatives),
        "ppv": (together.tp, together.tp + together.fp),
        "f1": (positives, len(truth)),
    }
    micro, macro = {}, {}
    for metric in AVERAGED:
        events, n = of_all[metric]
        micro[metric] = estimate(partial(_micro, metric), events=events, n=n)
        macro[metric] = estimate(partial(_macro, metric), events=_fewest(metric, totals))
    over = {m: int(np.isfinite(_per_class(m, table.sum(axis=0))).sum()) for m in AVERAGED}
    return ClassTable(tuple(rows), together, micro, macro, len(names), over)


def macro_with_zero(counts: Sequence[Counts], metric: str, outcomes: int) -> float:
    """The macro average that counts an undefined class as 0 and divides by all outcomes.

    For reproducing Bone Joint J 2025;107-B:213-220, whose macro sensitivity is a sum of four divided by
    five outcomes; never the right average of a class that has no positive.
    """
    if not 0 < len(counts) <= outcomes:
        raise ValueError(f"{len(counts)} classes do not fit {outcomes} outcomes")
    return sum(c.value(metric, zero_division=0.0) or 0.0 for c in counts) / outcomes


def micro_specificity(accuracy: float, outcomes: int) -> float:
    """What micro specificity must be for one call per unit among K outcomes: 1 - (1 - a)/(K - 1)."""
    if outcomes < 2:
        raise ValueError("a choice has at least two outcomes")
    return 1 - (1 - accuracy) / (outcomes - 1)


def share_of_positives(accuracy: str, sensitivity: str, specificity: str) -> tuple[float, float] | None:
    """Which shares of positives make three printed proportions one two-by-two table; None: no share does.

    The texts as printed ("0.98"): each stands for all that rounds to it. Accuracy is the mean of
    sensitivity and specificity weighted by the share of positives, so that it never lies outside them.
    """
    (a0, a1), (s0, s1), (c0, c1) = map(rounds_to, (accuracy, sensitivity, specificity))
    # a = c + w (s - c), at the corners of the box of (s, c); w in 0..1 is where the two bands of a meet
    lows: list[Fraction] = []
    highs: list[Fraction] = []
    for low_side, bound, limits in ((True, (s1, c1), a0), (False, (s0, c0), a1)):
        s, c = bound  # the mean is at most w s1 + (1-w) c1 and at least w s0 + (1-w) c0
        slope, gap = s - c, limits - c
        if slope == 0:
            if (gap >= 0) if low_side else (gap <= 0):
                return None
            continue
        upward = (slope > 0) == low_side  # w must be above gap / slope
        (lows if upward else highs).append(gap / slope)
    low, high = max([Fraction(0), *lows]), min([Fraction(1), *highs])
    outside = low > high or (low == high and (low in lows or high in highs))
    return None if outside else (float(low), float(high))


def rounds_to(text: str) -> tuple[Fraction, Fraction]:
    """The proportions that print as this text: "0.98" stands for 0.975 to 0.985."""
    value = Fraction(text)
    digits = len(text.partition(".")[2])
    half = Fraction(1, 2 * 10**digits)
    return max(value - half, Fraction(0)), min(value + half, Fraction(1))


def _cells(truth: NDArray[np.bool_], seen: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    return truth & seen, truth & ~seen, ~truth & seen, ~truth & ~seen


def _codes(names: Sequence[str], outcomes: Sequence[str]) -> NDArray[np.int64]:
    places = {name: place for place, name in enumerate(outcomes)}
    unknown = sorted({str(name) for name in names} - places.keys())
    if unknown:
        raise ValueError(f"unknown outcome {', '.join(unknown)}; known are {', '.join(outcomes)}")
    return np.array([places[str(name)] for name in names], dtype=np.int64)


def _by_class(sums: Sums) -> Sums:
    return sums.reshape(*sums.shape[:-1], -1, 4)


def _per_class(metric: str, sums: Sums) -> NDArray[np.float64]:
    """(..., K) the metric of each class; NaN where 0/0, and where an empty class has no say."""
    cells = _by_class(sums)
    values = metric_of(metric, cells)
    if metric in ("sensitivity", "f1", "ppv"):
        values = np.where(cells[..., 0] + cells[..., 1] > 0, values, np.nan)
    return values


def _fewest(metric: str, counts: Sequence[Counts]) -> int:
    """Positives (for specificity negatives) of the class in a macro average that has the fewest."""
    sizes = [c.negatives if metric == "specificity" else c.positives for c in counts]
    return min((size for size in sizes if size), default=0)


def _of_class(metric: str, k: int, sums: Sums) -> NDArray[np.float64]:
    return metric_of(metric, sums[..., 4 * k : 4 * k + 4])


def _micro(metric: str, sums: Sums) -> NDArray[np.float64]:
    return metric_of(metric, _by_class(sums).sum(axis=-2))


def _macro(metric: str, sums: Sums) -> NDArray[np.float64]:
    values = _per_class(metric, sums)
    there = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(there, values, 0).sum(axis=-1) / there.sum(axis=-1))
