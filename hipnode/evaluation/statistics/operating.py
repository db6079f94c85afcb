"""Operating points: which threshold, and what it does to the cases. Pure.

The rule for positive is score >= threshold. Thresholds are chosen on validation cases and judged on others;
`at_threshold` judges one that is given, the other functions choose one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from hipnode.evaluation.statistics.counts import Counts
from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.roc import Z_95, RocCurve, checked, roc_curve

SLACK = 1e-12  # 19 of 20 is 95 %, whatever the last binary digit says


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold with its whole 2 x 2 table. rule: how the threshold was found, for the table's row."""

    threshold: float
    counts: Counts
    rule: str

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Accuracy, sensitivity, specificity, PPV and NPV (the last two at the prevalence of these cases)."""
        return self.counts.proportions()

    @property
    def youden(self) -> float | None:
        """Sensitivity plus specificity minus 1; None where one of them is undefined."""
        found = [self.estimates[name].value for name in ("sensitivity", "specificity")]
        return None if found[0] is None or found[1] is None else found[0] + found[1] - 1


@dataclass(frozen=True)
class Level:
    """One answer of a two-level display: how many positives and negatives got it.

    likelihood_ratio: how much more often a positive gets this answer than a negative; None without negatives
        that got it (infinite) or without one of the classes
    """

    name: str
    positives: int
    negatives: int
    share_positive: Estimate
    likelihood_ratio: float | None


@dataclass(frozen=True)
class TwoLevels:
    """A display that says none, possible or definite: both thresholds, each with its 2 x 2, and the three answers."""

    possible: OperatingPoint
    definite: OperatingPoint
    levels: tuple[Level, Level, Level]


def at_threshold(
    positive: ArrayLike, score: ArrayLike, threshold: float, rule: str = "given"
) -> OperatingPoint:
    """The 2 x 2 table of a threshold that is given: a published one, or one fixed on validation."""
    labels, scores = checked(positive, score)
    if math.isnan(threshold):
        raise ValueError("the threshold is not a number")
    called = scores >= threshold
    tp, fp = int((called & labels).sum()), int((called & ~labels).sum())
    fn, tn = int(labels.sum()) - tp, int((~labels).sum()) - fp
    return OperatingPoint(float(threshold), Counts(tp, fn, fp, tn), rule)


def youden(positive: ArrayLike, score: ArrayLike) -> OperatingPoint | None:
    """The observed score with the highest sensitivity + specificity - 1 (Youden, Cancer 1950;3:32-5).

    Ties: the higher sensitivity, then the lower threshold. None for one class only.
    """
    curve = roc_curve(positive, score)
    if not curve.positives or not curve.negatives:
        return None
    # J times positives times negatives: whole numbers, so that ties are ties
    gain = curve.true_positives * curve.negatives - curve.false_positives * curve.positives
    observed = range(1, len(gain))
    best = max(
        observed, key=lambda i: (int(gain[i]), int(curve.true_positives[i]), -float(curve.thresholds[i]))
    )
    return _point(curve, best, "Youden")


def at_sensitivity(positive: ArrayLike, score: ArrayLike, target: float = 0.95) -> OperatingPoint | None:
    """The highest observed threshold with at least this sensitivity; None without positives."""
    _check_share(target, "sensitivity")
    curve = roc_curve(positive, score)
    if not curve.positives:
        return None
    reached = np.flatnonzero(curve.true_positives[1:] >= (target - SLACK) * curve.positives)
    return _point(curve, int(reached[0]) + 1, f"sensitivity at least {target:g}")


def at_specificity(positive: ArrayLike, score: ArrayLike, target: float = 0.90) -> OperatingPoint | None:
    """The lowest observed threshold with at least this specificity.

    None without negatives, and where even the highest score is too often a negative's.
    """
    _check_share(target, "specificity")
    curve = roc_curve(positive, score)
    if not curve.negatives:
        return None
    true_negatives = curve.negatives - curve.false_positives[1:]
    reached = np.flatnonzero(true_negatives >= (target - SLACK) * curve.negatives)
    return _point(curve, int(reached[-1]) + 1, f"specificity at least {target:g}") if len(reached) else None


def two_levels(positive: ArrayLike, score: ArrayLike, possible: float, definite: float) -> TwoLevels:
    """Judge a display that says possible from one threshold and definite from a higher one.

    Raises ValueError where `possible` is not the lower: a model that good needs one threshold only.
    """
    if not possible < definite:
        raise ValueError(
            f"the threshold for possible ({possible:g}) must be below the one for definite ({definite:g}); "
            "use one threshold if they cross"
        )
    low = at_threshold(positive, score, possible, "possible")
    high = at_threshold(positive, score, definite, "definite")
    some, sure = low.counts, high.counts
    answers = (
        ("none", some.fn, some.tn),
        ("possible", some.tp - sure.tp, some.fp - sure.fp),
        ("definite", sure.tp, sure.fp),
    )
    first, second, third = (
        _level(name, hits, misses, some.positives, some.negatives) for name, hits, misses in answers
    )
    return TwoLevels(low, high, (first, second, third))


def predictive_values(point: OperatingPoint, prevalence: float) -> tuple[Estimate, Estimate]:
    """PPV and NPV at a site's own prevalence, from the sensitivity and specificity of a point (Bayes).

    The prevalence counts as known. Interval: logit limits of Mercaldo, Lau and Zhou (Stat Med
    2007;26:2170-83); where a cell of the 2 x 2 is empty their adjusted form, which adds z squared / 2 to
    each cell for the limits only.
    """
    _check_share(prevalence, "prevalence")
    table = point.counts
    if not table.positives or not table.negatives:
        why = "undefined: one class only"
        return undefined(table.n, table.tp, why), undefined(table.n, table.tn, why)
    counts = np.array([table.tp, table.fn, table.fp, table.tn], dtype=np.float64)
    values = _bayes(counts, prevalence)
    adjusted = bool((counts == 0).any())
    cells = counts + Z_95**2 / 2 if adjusted else counts
    centres = _bayes(cells, prevalence)
    tp, fn, fp, tn = cells
    # variances of the logits: ppv has log(se / (1 - sp)), npv log(sp / (1 - se))
    spreads = (fn / tp / (tp + fn) + tn / fp / (fp + tn), tp / fn / (tp + fn) + fp / tn / (fp + tn))
    method = f"at prevalence {prevalence:g}, logit{' adjusted' if adjusted else ''} (Mercaldo)"
    answers = []
    for value, centre, spread, events in zip(values, centres, spreads, (table.tp, table.tn), strict=True):
        if value is None or centre is None or not 0 < prevalence < 1:
            answers.append(Estimate(value, None, None, table.n, events, f"at prevalence {prevalence:g}"))
            continue
        low, high = expit(logit(centre) + np.array([-1, 1]) * Z_95 * math.sqrt(spread))
        answers.append(
            Estimate(value, min(float(low), value), max(float(high), value), table.n, events, method)
        )
    return answers[0], answers[1]


def _bayes(cells: NDArray[np.float64], prevalence: float) -> tuple[float | None, float | None]:
    tp, fn, fp, tn = cells
    sensitivity, specificity = tp / (tp + fn), tn / (fp + tn)
    found, alarmed = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    cleared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    ppv = float(found / (found + alarmed)) if found + alarmed > 0 else None
    npv = float(cleared / (cleared + missed)) if cleared + missed > 0 else None
    return ppv, npv


def _level(name: str, hits: int, misses: int, positives: int, negatives: int) -> Level:
    ratio = (hits / positives) / (misses / negatives) if misses and positives else None
    return Level(name, hits, misses, wilson(hits, hits + misses), ratio)


def _point(curve: RocCurve, index: int, rule: str) -> OperatingPoint:
    tp, fp = int(curve.true_positives[index]), int(curve.false_positives[index])
    threshold = float(curve.thresholds[index])
    return OperatingPoint(threshold, Counts(tp, curve.positives - tp, fp, curve.negatives - fp), rule)


def _check_share(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"a {name} lies between 0 and 1, not at {value:g}")
