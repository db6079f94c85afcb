"""ROC and precision-recall: areas with intervals, and the comparison of two models. Pure.

positive: (n,) bool, the reference; score: (n,) float, higher means more likely positive. A unit is called
positive when score >= threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.intervals import strata_when_few
from hipnode.evaluation.statistics.resampling import (
    DEFAULT_RESAMPLES,
    Resamples,
    bootstrap,
    codes_of,
    percentile_interval,
)

Z_95 = float(norm.ppf(0.975))
FEW_UNITS = 50  # in a class; below, the normal limit of DeLong is not to be trusted
ONE_CLASS = "undefined: one class only"


@dataclass(frozen=True, eq=False)
class RocCurve:
    """The empirical ROC curve, one point per distinct score from the highest to the lowest.

    thresholds: (k,) float; the first is infinity (nothing called positive)
    true_positives, false_positives: (k,) int, units with score >= threshold
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    positives: int
    negatives: int

    @property
    def sensitivity(self) -> NDArray[np.float64]:
        """(k,) true positives over positives; NaN without positives."""
        return _ratio(self.true_positives, self.positives)

    @property
    def specificity(self) -> NDArray[np.float64]:
        """(k,) true negatives over negatives; NaN without negatives."""
        return _ratio(self.negatives - self.false_positives, self.negatives)

    @property
    def precision(self) -> NDArray[np.float64]:
        """(k,) true positives over called; 1 at the first point, where nothing is called (convention)."""
        called = self.true_positives + self.false_positives
        return np.where(called > 0, self.true_positives / np.maximum(called, 1), 1.0)


@dataclass(frozen=True)
class AreaComparison:
    """Two models on the same cases: areas, and first minus second with the two-sided p of paired DeLong."""

    first: Estimate
    second: Estimate
    difference: Estimate
    z: float | None
    p: float | None


def checked(positive: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Both as arrays of one length. Raises ValueError for other lengths, other labels, numbers not finite."""
    labels = np.asarray(positive)
    scores = np.asarray(score, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be two lists of one length")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} scores are not finite numbers; leave them out")
    if labels.dtype != np.bool_:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("labels must be true or false, 1 or 0")
        labels = labels.astype(np.bool_)
    return labels, scores


def roc_curve(positive: ArrayLike, score: ArrayLike) -> RocCurve:
    """The ROC curve with its counts; ties are one point."""
    labels, scores = checked(positive, score)
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], labels[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True]) if len(ranked) else np.zeros(0, np.int64)
    true_positives = np.r_[0, np.cumsum(hits)[last]].astype(np.int64)
    called = np.r_[0, last + 1].astype(np.int64)
    total = int(labels.sum())
    thresholds = np.r_[np.inf, ranked[last]]
    return RocCurve(thresholds, true_positives, called - true_positives, total, len(labels) - total)


def area(positive: ArrayLike, score: ArrayLike) -> float | None:
    """Area under the ROC curve: the Mann-Whitney statistic, ties count one half. None for one class only."""
    labels, scores = checked(positive, score)
    m, n = int(labels.sum()), int((~labels).sum())
    if not m or not n:
        return None
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - m * (m + 1) / 2) / (m * n))


def auc(
    positive: ArrayLike,
    score: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    resampled: Resamples | None = None,
) -> Estimate:
    """AUC with the interval that fits the number of units: DeLong, or for fewer than 50 in a class bootstrap.

    patients: (n,) names; units of one patient are not independent, so DeLong becomes Obuchowski's
        clustered form and the bootstrap draws patients. None: every unit is its own patient.
    resampled: resamples of these units to use; None draws them from seed
    A perfect separation leaves both without width; then the limits are Newcombe's.
    """
    labels, scores = checked(positive, score)
    m, n = int(labels.sum()), int((~labels).sum())
    if min(m, n) >= FEW_UNITS:
        return delong(labels, scores, patients)
    if not m or not n:
        return undefined(m + n, m, ONE_CLASS)
    value = _structural_components(labels, scores)[0]
    if value in (0.0, 1.0):
        return _newcombe(value, m, n)
    if resampled is None:
        draws = bootstrap_areas(labels, scores, patients, seed=seed, resamples=resamples)
    else:
        draws = _ranked(_areas, labels, scores, resampled)
    low, high, method = percentile_interval(draws, _drawn(patients, m + n))
    return Estimate(value, low, high, m + n, m, method)


def delong(positive: ArrayLike, score: ArrayLike, patients: ArrayLike | None = None) -> Estimate:
    """AUC with the 95 % interval of DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837-45).

    Computed from mid-ranks (Sun and Xu, IEEE Signal Process Lett 2014;21:1389-93). With `patients` the
    variance is Obuchowski's for clustered data (Biometrics 1997;53:567-78), the same where each patient
    has one unit.
    """
    labels, scores = checked(positive, score)
    m, n = int(labels.sum()), int((~labels).sum())
    if not m or not n:
        return undefined(m + n, m, ONE_CLASS)
    value, components = _structural_components(labels, scores)
    if min(m, n) < 2:
        return Estimate(value, None, None, m + n, m, "no interval: one unit in a class")
    if value in (0.0, 1.0):
        return _newcombe(value, m, n)
    clusters = None if patients is None else codes_of(patients, len(labels))
    variance = _covariance(labels, components[None, :], clusters)[0, 0]
    half = Z_95 * float(np.sqrt(variance))
    method = "DeLong" if clusters is None else f"DeLong, clustered by {clusters.max() + 1} patients"
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), m + n, m, method)


def compare_areas(
    positive: ArrayLike, first: ArrayLike, second: ArrayLike, patients: ArrayLike | None = None
) -> AreaComparison:
    """Paired DeLong: two models' scores of the same units; sources as in `delong`.

    z and p are None where the two rank every unit alike (no variance).
    """
    labels, a = checked(positive, first)
    _, b = checked(positive, second)
    m, n = int(labels.sum()), int((~labels).sum())
    estimates = delong(labels, a, patients), delong(labels, b, patients)
    if min(m, n) < 2:
        why = ONE_CLASS if not m or not n else "undefined: one unit in a class"
        return AreaComparison(*estimates, undefined(m + n, m, why), None, None)
    (value_a, parts_a), (value_b, parts_b) = (
        _structural_components(labels, a),
        _structural_components(labels, b),
    )
    clusters = None if patients is None else codes_of(patients, len(labels))
    covariance = _covariance(labels, np.stack([parts_a, parts_b]), clusters)
    gap = value_a - value_b
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-15:
        alike = Estimate(gap, None, None, m + n, m, "no interval: the difference has no variance")
        return AreaComparison(*estimates, alike, None, None)
    error = float(np.sqrt(variance))
    z = gap / error
    method = (
        "paired DeLong" if clusters is None else f"paired DeLong, clustered by {clusters.max() + 1} patients"
    )
    difference = Estimate(gap, gap - Z_95 * error, gap + Z_95 * error, m + n, m, method)
    return AreaComparison(*estimates, difference, z, float(2 * norm.sf(abs(z))))


def hanley_mcneil(area_under_curve: float, positives: int, negatives: int) -> Estimate:
    """The interval that a published AUC and its two counts allow (Hanley and McNeil, Radiology 1982;143:29-36).

    For comparison with a paper only: it assumes the shape of the curve.
    """
    if not 0 <= area_under_curve <= 1 or positives < 1 or negatives < 1:
        raise ValueError("an AUC lies in 0..1 and needs at least one positive and one negative")
    half = Z_95 * float(np.sqrt(_hanley_variance(area_under_curve, positives, negatives)))
    low, high = max(area_under_curve - half, 0.0), min(area_under_curve + half, 1.0)
    return Estimate(area_under_curve, low, high, positives + negatives, positives, "Hanley-McNeil")


def average_precision(
    positive: ArrayLike,
    score: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    resampled: Resamples | None = None,
) -> Estimate:
    """AUPRC as average precision: the sum of precision times the step in sensitivity, interval by bootstrap.

    resampled: resamples of these units to use; None draws them from seed
    """
    labels, scores = checked(positive, score)
    m = int(labels.sum())
    if not m:
        return undefined(len(labels), 0, "undefined: no positive")
    value = float(_average_precisions(labels, scores, np.ones((1, len(labels))))[0])
    if m == len(labels):
        return Estimate(value, None, None, len(labels), m, "no interval: no negative")
    if resampled is None:
        draws = _resampled(_average_precisions, labels, scores, patients, seed, resamples)
    else:
        draws = _ranked(_average_precisions, labels, scores, resampled)
    low, high, method = percentile_interval(draws, _drawn(patients, len(labels)))
    return Estimate(value, low, high, len(labels), m, method if low is None else f"step-wise, {method}")


def trapezoid_precision(positive: ArrayLike, score: ArrayLike) -> float | None:
    """AUPRC by trapezoids, too high between points (Davis and Goadrich, ICML 2006): only to replicate a paper."""
    curve = roc_curve(positive, score)
    if not curve.positives:
        return None
    precision = curve.precision.copy()
    precision[0] = precision[1]  # R's PRROC and others begin at the precision of the first point
    return float(np.trapezoid(precision, curve.sensitivity))


def bootstrap_areas(
    positive: ArrayLike,
    score: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> NDArray[np.float64]:
    """(resamples,) the AUC of every resample of the patients; NaN where a resample has one class only."""
    labels, scores = checked(positive, score)
    return _resampled(_areas, labels, scores, patients, seed, resamples)


def _resampled(
    statistic: Callable[[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    patients: ArrayLike | None,
    seed: int,
    resamples: int,
) -> NDArray[np.float64]:
    """The statistic of the resamples; by outcome where a class has few units, as a rare class would be lost."""
    order = np.argsort(scores, kind="stable")  # once, not for every block
    labels, scores = labels[order], scores[order]
    codes = codes_of(patients, len(order))[order]
    return bootstrap(
        lambda weights: statistic(labels, scores, weights),
        codes,
        seed=seed,
        resamples=resamples,
        strata=strata_when_few(labels),
    )


def _ranked(
    statistic: Callable[[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    resampled: Resamples,
) -> NDArray[np.float64]:
    """The statistic of shared resamples, the units in the order of their scores."""
    order = np.argsort(scores, kind="stable")
    labels, scores = labels[order], scores[order]
    return resampled.draws(lambda weights: statistic(labels, scores, weights), order)


def _areas(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(b,) Mann-Whitney areas under (b, n) weights."""
    order, first = _tied(scores)
    weights = weights[:, order]
    hits = np.add.reduceat(weights * labels[order], first, axis=1)
    misses = np.add.reduceat(weights * ~labels[order], first, axis=1)
    below = np.cumsum(misses, axis=1) - misses / 2
    pairs = hits.sum(axis=1) * misses.sum(axis=1)
    return _quotient((hits * below).sum(axis=1), pairs)


def _average_precisions(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(b,) step-wise average precisions under (b, n) weights."""
    order, first = _tied(-scores)
    weights = weights[:, order]
    hits = np.add.reduceat(weights * labels[order], first, axis=1)
    called = np.cumsum(np.add.reduceat(weights, first, axis=1), axis=1)
    precision = np.divide(np.cumsum(hits, axis=1), called, out=np.zeros_like(called), where=called > 0)
    return _quotient((hits * precision).sum(axis=1), hits.sum(axis=1))


def _tied(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order that sorts the values, and where in it each run of equal values begins."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    return order, np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])


def _structural_components(
    labels: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The area, and per unit the share of the other class that it stands right to (V10 and V01)."""
    m, n = int(labels.sum()), int((~labels).sum())
    among_all = rankdata(scores)
    parts = np.empty(len(scores))
    parts[labels] = (among_all[labels] - rankdata(scores[labels])) / n
    parts[~labels] = 1 - (among_all[~labels] - rankdata(scores[~labels])) / m
    return float(parts[labels].mean()), parts


def _covariance(
    labels: NDArray[np.bool_], parts: NDArray[np.float64], clusters: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """(k, k) covariance of k areas from their (k, n) structural components."""
    of_positive, of_negative = parts[:, labels], parts[:, ~labels]
    m, n = of_positive.shape[1], of_negative.shape[1]
    if clusters is None:
        return np.asarray(np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n)
    ours, theirs = (
        np.stack([np.bincount(clusters[side], row, int(clusters.max()) + 1) for row in centred])
        for side, centred in (
            (labels, of_positive - of_positive.mean(axis=1, keepdims=True)),
            (~labels, of_negative - of_negative.mean(axis=1, keepdims=True)),
        )
    )  # (k, clusters), sums of centred components
    with_positive, with_negative = len(np.unique(clusters[labels])), len(np.unique(clusters[~labels]))
    together = ours @ theirs.T * _bessel(ours.shape[1]) / (m * n)
    return np.asarray(
        ours @ ours.T * _bessel(with_positive) / m**2
        + theirs @ theirs.T * _bessel(with_negative) / n**2
        + together
        + together.T
    )


def _bessel(clusters: int) -> float:
    return clusters / (clusters - 1) if clusters > 1 else float("nan")


def _newcombe(value: float, m: int, n: int) -> Estimate:
    """The interval of an area of 0 or 1, where the variance at the estimate is nought.

    Limits are the areas whose own Hanley-McNeil variance just reaches the estimate (Newcombe, Stat Med
    2006;25:559-73, method 5).
    """

    def gap(limit: float) -> float:
        middle = (m + n) / 2 - 1
        spread = 1 + middle * (1 - limit) / (2 - limit) + middle * limit / (1 + limit)
        return abs(value - limit) - Z_95 * float(np.sqrt(limit * (1 - limit) * spread / (m * n)))

    if value == 1.0:
        return Estimate(1.0, float(brentq(gap, 1e-12, 1 - 1e-12)), 1.0, m + n, m, "Newcombe method 5")
    return Estimate(0.0, 0.0, float(brentq(gap, 1e-12, 1 - 1e-12)), m + n, m, "Newcombe method 5")


def _hanley_variance(value: float, m: int, n: int) -> float:
    two_positives, two_negatives = value / (2 - value), 2 * value**2 / (1 + value)
    spread = (m - 1) * (two_positives - value**2) + (n - 1) * (two_negatives - value**2)
    return (value * (1 - value) + spread) / (m * n)


def _drawn(patients: ArrayLike | None, units: int) -> str:
    if patients is None:
        return f"{units} units"
    return f"{len(np.unique(np.asarray(patients)))} patients"


def _ratio(counts: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    return counts / total if total else np.full(len(counts), np.nan)


def _quotient(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
