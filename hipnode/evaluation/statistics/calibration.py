"""Whether a score means what it says, and how to make it so. Pure.

p: (n,) probabilities or detector scores in 0..1; y: (n,) whether the class was there. Calibrators are fitted
on validation cases, kept as a record (JSON) beside the model, and judged on other cases.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, logit
from sklearn.isotonic import IsotonicRegression

from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.resampling import (
    DEFAULT_RESAMPLES,
    Resamples,
    bootstrap,
    codes_of,
    percentile_interval,
)
from hipnode.evaluation.statistics.roc import checked

NEAREST = 1e-6  # a score of 0 or 1 has no logit; it is moved this far inside
WORST_CONDITION = 1e12  # of the matrix that Newton's step solves; above, its digits mean nothing
NO_CASES = "undefined: no cases"
Method = Literal["temperature", "platt", "isotonic"]
Spacing = Literal["width", "count"]


@dataclass(frozen=True)
class Bin:
    """One bar of the reliability plot: its edges, how many cases, how many positive, and their mean score.

    mean_score and share_positive are None where the bin is empty.
    """

    low: float
    high: float
    n: int
    positives: int
    mean_score: float | None
    share_positive: float | None


@dataclass(frozen=True)
class CalibrationLine:
    """Cox's line logit P(y) = intercept + slope * logit(p) (Biometrika 1958;45:562-5), maximum likelihood.

    in_the_large: the intercept where the slope is held at 1: above 0 the scores are too low on the whole.
    slope below 1: too extreme. Each is None, with the reason in `says`, where it does not exist.
    """

    intercept: float | None
    slope: float | None
    in_the_large: float | None
    n: int
    positives: int
    says: str


@dataclass(frozen=True)
class Calibrator:
    """A monotone map from score to probability with its numbers; `record` and `from_record` store it.

    temperature: p' = expit(logit(p) / temperature) (Guo et al., ICML 2017)
    platt: p' = expit(slope * logit(p) + intercept) (Platt 1999; on the logit, as Kull et al. 2017 advise)
    isotonic: p' by straight lines between (scores[i], values[i]) (Zadrozny and Elkan 2002)
    n, positives: the validation cases it was fitted on
    """

    method: Method
    numbers: dict[str, float | list[float]]
    n: int
    positives: int

    def __call__(self, p: ArrayLike) -> NDArray[np.float64]:
        """The calibrated probabilities."""
        scores = np.asarray(p, dtype=np.float64)
        numbers = {name: np.asarray(number) for name, number in self.numbers.items()}
        if self.method == "isotonic":
            return np.asarray(np.interp(scores, numbers["scores"], numbers["values"]))
        if self.method == "temperature":
            return np.asarray(expit(_logit(scores) / numbers["temperature"]))
        return np.asarray(expit(numbers["slope"] * _logit(scores) + numbers["intercept"]))

    def record(self) -> dict[str, Any]:
        """What goes into the model package; plain JSON."""
        return {
            "method": self.method,
            "numbers": dict(self.numbers),
            "n": self.n,
            "positives": self.positives,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Calibrator":
        """The calibrator of a record. Raises ValueError with the reason where it is not one."""
        wanted = {
            "temperature": {"temperature"},
            "platt": {"slope", "intercept"},
            "isotonic": {"scores", "values"},
        }
        method, numbers = record.get("method"), record.get("numbers")
        if method not in wanted:
            raise ValueError(f"a calibration is temperature, platt or isotonic, not {method!r}")
        if not isinstance(numbers, Mapping) or set(numbers) != wanted[method]:
            raise ValueError(f"a {method} calibration has the numbers {', '.join(sorted(wanted[method]))}")
        try:
            arrays = {name: np.asarray(value, dtype=np.float64) for name, value in numbers.items()}
            n, positives = int(record["n"]), int(record["positives"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the {method} calibration lacks a number: {error}") from error
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError(f"the numbers of the {method} calibration are not all finite")
        if method == "temperature" and not float(numbers["temperature"]) > 0:
            raise ValueError("a temperature is above 0")
        if method == "isotonic":
            scores, values = arrays["scores"], arrays["values"]
            rising = scores.ndim == 1 and scores.shape == values.shape and len(scores) > 0
            if not (rising and (np.diff(scores) > 0).all() and (np.diff(values) >= 0).all()):
                raise ValueError(
                    "an isotonic calibration has rising scores and as many values that do not fall"
                )
            return cls(method, {"scores": scores.tolist(), "values": values.tolist()}, n, positives)
        return cls(method, {name: float(array) for name, array in arrays.items()}, n, positives)


def reliability(y: ArrayLike, p: ArrayLike, bins: int = 15, spacing: Spacing = "width") -> tuple[Bin, ...]:
    """The bars of the reliability plot, each with its counts.

    spacing: "width" for bins (low, high] of equal width over 0..1, the first with 0; "count" for bins between
        quantiles of the scores, where equal scores stay together, so that there may be fewer bins.
    """
    labels, scores = _probabilities(y, p)
    edges = _edges(scores, bins, spacing)
    which = _bin_of(scores, edges)
    count = np.bincount(which, minlength=len(edges) - 1)
    hits = np.bincount(which, labels, minlength=len(edges) - 1)
    total = np.bincount(which, scores, minlength=len(edges) - 1)
    return tuple(
        Bin(
            float(edges[i]),
            float(edges[i + 1]),
            int(n),
            int(hits[i]),
            float(total[i] / n) if n else None,
            float(hits[i] / n) if n else None,
        )
        for i, n in enumerate(count)
    )


def ece(
    y: ArrayLike,
    p: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    bins: int = 15,
    spacing: Spacing = "width",
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> Estimate:
    """Expected calibration error: sum over bins of n_b / n |share positive - mean score| (Naeini, AAAI 2015).

    It is never negative, so it and its bootstrap lie above the truth for few cases. Bins stay those of the
    data in all resamples.
    """
    labels, scores = _probabilities(y, p)
    which = (
        np.eye(bins + 1)[_bin_of(scores, _edges(scores, bins, spacing))] if len(scores) else np.zeros((0, 1))
    )
    gaps = (labels - scores)[:, None] * which

    def errors(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1))

    return _estimate(errors, labels, patients, f"{bins} bins of equal {spacing}, ", seed, resamples)


def mce(y: ArrayLike, p: ArrayLike, bins: int = 15, spacing: Spacing = "width") -> float | None:
    """Maximum calibration error: the largest |share positive - mean score| of a bin with cases; None without."""
    gaps = [
        abs(b.share_positive - b.mean_score)
        for b in reliability(y, p, bins, spacing)
        if b.share_positive is not None and b.mean_score is not None
    ]
    return max(gaps, default=None)


def brier(
    y: ArrayLike,
    p: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> Estimate:
    """Brier score: mean of (p - y) squared (Brier, Mon Weather Rev 1950;78:1-3)."""
    labels, scores = _probabilities(y, p)
    return _mean((scores - labels) ** 2, labels, patients, seed, resamples)


def log_loss(
    y: ArrayLike,
    p: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> Estimate:
    """Mean of -log of the probability of what was there, natural; scores of 0 and 1 are moved 1e-6 inside."""
    labels, scores = _probabilities(y, p)
    return _mean(-log_expit(np.where(labels, 1, -1) * _logit(scores)), labels, patients, seed, resamples)


def errors(
    y: ArrayLike, all_p: Sequence[ArrayLike], resampled: Resamples, bins: int = 15
) -> list[tuple[Estimate, Estimate, Estimate]]:
    """ECE (bins of equal width), Brier score and log loss of several scores of the same units.

    Intervals come from resamples that are shared; one pass over them serves all scores.
    """
    tables = []
    for p in all_p:
        labels, scores = _probabilities(y, p)
        gaps = np.zeros((len(labels), bins))
        gaps[np.arange(len(labels)), _bin_of(scores, _edges(scores, bins, "width"))] = labels - scores
        loss = -log_expit(np.where(labels, 1, -1) * _logit(scores))
        tables.append(np.column_stack([gaps, (scores - labels) ** 2, loss]))
    n, positives = len(resampled.codes), int(np.asarray(y).sum())
    if not n:
        nothing = undefined(0, 0, NO_CASES)
        return [(nothing, nothing, nothing)] * len(tables)
    draws = resampled.sums(np.column_stack([*tables, np.ones(n)]))
    draws = draws[:, :-1] / draws[:, -1:]

    def estimate(words: str, value: float, drawn: NDArray[np.float64]) -> Estimate:
        low, high, method = percentile_interval(drawn, f"{resampled.patients} patients")
        return Estimate(value, low, high, n, positives, words + method)

    made = []
    for place, table in enumerate(tables):
        mean = table.mean(axis=0)
        here = draws[:, place * (bins + 2) : (place + 1) * (bins + 2)]
        ece_drawn = np.abs(here[:, :bins]).sum(axis=1)
        made.append(
            (
                estimate(f"{bins} bins of equal width, ", float(np.abs(mean[:bins]).sum()), ece_drawn),
                estimate("", float(mean[bins]), here[:, bins]),
                estimate("", float(mean[bins + 1]), here[:, bins + 1]),
            )
        )
    return made


def calibration_line(y: ArrayLike, p: ArrayLike) -> CalibrationLine:
    """Calibration intercept and slope; see `CalibrationLine`."""
    labels, scores = _probabilities(y, p)
    n, positives = len(labels), int(labels.sum())
    if not positives or positives == n:
        return CalibrationLine(None, None, None, n, positives, "undefined: one class only")
    steps = _logit(scores)
    intercept_alone = _newton(np.ones((n, 1)), labels, steps)
    large = None if intercept_alone is None else float(intercept_alone[0])
    if float(np.ptp(steps)) == 0:
        return CalibrationLine(None, None, large, n, positives, "no slope: one score only")
    if steps[labels].min() >= steps[~labels].max() or steps[labels].max() <= steps[~labels].min():
        return CalibrationLine(None, None, large, n, positives, "no slope: the classes separate fully")
    line = _newton(np.stack([np.ones(n), steps], axis=1), labels, np.zeros(n))
    if line is None:
        return CalibrationLine(None, None, large, n, positives, "no slope: the scores do not determine it")
    intercept, slope = line
    return CalibrationLine(float(intercept), float(slope), large, n, positives, "maximum likelihood")


def fit(method: Method, y: ArrayLike, p: ArrayLike) -> Calibrator:
    """Fit a calibrator on validation cases.

    Raises ValueError for one class only. Platt's targets are his smoothed ones, (n+ + 1) / (n+ + 2) and
    1 / (n- + 2), so that full separation has an answer.
    """
    labels, scores = _probabilities(y, p)
    n, positives = len(labels), int(labels.sum())
    if not positives or positives == n:
        raise ValueError(
            f"calibration needs validation cases with and without the class; here {positives} of {n} have it"
        )
    steps = _logit(scores)
    if method == "temperature":
        sign = np.where(labels, 1.0, -1.0)
        found = minimize_scalar(
            lambda log_t: float(-log_expit(sign * steps / math.exp(log_t)).mean()),
            bounds=(-5, 5),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return Calibrator(method, {"temperature": math.exp(found.x)}, n, positives)
    if method == "platt":
        target = np.where(labels, (positives + 1) / (positives + 2), 1 / (n - positives + 2))

        def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            z = line[0] * steps + line[1]
            wrong = expit(z) - target
            return float(-(target * log_expit(z) + (1 - target) * log_expit(-z)).mean()), np.array(
                [(wrong * steps).mean(), wrong.mean()]
            )

        slope, intercept = minimize(loss, [1.0, 0.0], jac=True, method="BFGS", options={"gtol": 1e-9}).x
        return Calibrator(method, {"slope": float(slope), "intercept": float(intercept)}, n, positives)
    if method == "isotonic":
        curve = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
            scores, labels.astype(float)
        )
        numbers = {"scores": curve.X_thresholds_.tolist(), "values": curve.y_thresholds_.tolist()}
        return Calibrator(method, numbers, n, positives)
    raise ValueError(f"a calibration is temperature, platt or isotonic, not {method!r}")


def _newton(
    design: NDArray[np.float64], labels: NDArray[np.bool_], offset: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Maximum likelihood of a logistic regression by BFGS on a convex function, then Newton to the last digit.

    None where the cases do not determine it: the likelihood is flat.
    """

    def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = design @ line + offset
        return float(-log_expit(np.where(labels, z, -z)).mean()), design.T @ (expit(z) - labels) / len(z)

    line = np.asarray(minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS").x)
    for _ in range(5):
        share = expit(design @ line + offset)
        curvature = design.T @ (design * (share * (1 - share))[:, None])
        if np.linalg.cond(curvature) > WORST_CONDITION:
            return None
        line = line - np.linalg.solve(curvature, design.T @ (share - labels))
    return line


def _probabilities(y: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels, scores = checked(y, p)
    outside = int(((scores < 0) | (scores > 1)).sum())
    if outside:
        raise ValueError(
            f"{outside} scores are outside 0..1; calibration needs probabilities or scores in 0..1"
        )
    return labels, scores


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(p, NEAREST, 1 - NEAREST)))


def _edges(scores: NDArray[np.float64], bins: int, spacing: Spacing) -> NDArray[np.float64]:
    if bins < 1:
        raise ValueError(f"a reliability plot needs at least one bin, not {bins}")
    if spacing == "width" or not len(scores):
        return np.linspace(0.0, 1.0, bins + 1)
    inner = np.quantile(scores, np.arange(1, bins) / bins)
    return np.unique(np.r_[0.0, inner, 1.0])


def _bin_of(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each score: (low, high], as torchmetrics and Guo et al. have it; 0 is in the first."""
    return np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, len(edges) - 2).astype(np.int64)


def _mean(
    values: NDArray[np.float64],
    labels: NDArray[np.bool_],
    patients: ArrayLike | None,
    seed: int,
    resamples: int,
) -> Estimate:
    return _estimate(lambda w: np.asarray(w @ values / w.sum(axis=1)), labels, patients, "", seed, resamples)


def _estimate(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    labels: NDArray[np.bool_],
    patients: ArrayLike | None,
    words: str,
    seed: int,
    resamples: int,
) -> Estimate:
    n, positives = len(labels), int(labels.sum())
    if not n:
        return undefined(0, 0, NO_CASES)
    codes = codes_of(patients, n)
    value = float(statistic(np.ones((1, n)))[0])
    drawn = f"{n} units" if patients is None else f"{codes.max() + 1} patients"
    draws = bootstrap(statistic, codes, seed=seed, resamples=resamples)
    low, high, method = percentile_interval(draws, drawn)
    return Estimate(value, low, high, n, positives, words + method)
