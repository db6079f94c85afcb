"""Class thresholds, second thresholds and calibration, all from the validation part.

Rule: each class may fire on the same share of pictures without a fracture. That share is the one
which gives the largest Youden index (sensitivity + specificity - 1, any fracture) among those with a
specificity of at least 0.95; of equals, the strictest. Where every picture has a fracture (as in the
published training set), each class has its own Youden threshold against the other classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipnode.errors import HipnodeError
from hipnode.evaluation.statistics.calibration import Calibrator, fit
from hipnode.evaluation.statistics.operating import at_specificity, youden
from workers.training.evaluate import Case, scores_of

LEAST_SPECIFICITY = 0.95
TAU_MIN = 0.05
TAU_MAX = 0.95
TAU_LAST = 0.999
WITHOUT_CASES = 0.5  # of a class that no validation picture shows
DIGITS = 3
DEFINITE_SPECIFICITY = 0.98
LEAST_OTHERS = 50
LEAST_ANSWERS = 10
ENOUGH_FOR_ISOTONIC = 200


class TooFewCases(HipnodeError):
    """A validation pool lacks pictures with or without a fracture."""


@dataclass(frozen=True)
class Thresholds:
    """Score from which each class fires, and what it gave on the pool it was chosen on."""

    by_class: dict[str, float]
    sensitivity: float
    specificity: float | None  #: None: no picture is without a fracture
    cases: int


def choose_thresholds(
    cases: Sequence[Case], names: Sequence[str], least_specificity: float = LEAST_SPECIFICITY
) -> Thresholds:
    """The thresholds of the module's rule, in 0.05..0.95, rounded to 3 digits. Raises TooFewCases."""
    scores = scores_of(cases, len(names))
    fractured = np.array([c.truth is not None for c in cases], bool)
    if not fractured.any():
        raise TooFewCases("thresholds need validation pictures with a fracture; there are none")
    if fractured.all():
        return _against_each_other(cases, scores, names)
    normal = -np.sort(-scores[~fractured], axis=0)  # (n, classes), best first
    best: Thresholds | None = None
    best_sum = -1.0
    for allowed in range(len(normal)):
        tau = _taus(scores, normal, allowed)
        fired: NDArray[np.bool_] = np.any(scores >= tau, axis=1)
        specificity = float((~fired[~fractured]).mean())
        sensitivity = float(fired[fractured].mean())
        if specificity < least_specificity and best is not None:
            break
        if sensitivity + specificity > best_sum + 1e-12:
            best_sum = sensitivity + specificity
            by_class = {name: float(t) for name, t in zip(names, tau, strict=True)}
            best = Thresholds(by_class, sensitivity, specificity, len(cases))
    if best is None:
        raise TooFewCases("thresholds need validation pictures without a fracture")
    return best


def _against_each_other(
    cases: Sequence[Case], scores: NDArray[np.float64], names: Sequence[str]
) -> Thresholds:
    by_class = {}
    for k, name in enumerate(names):
        point = youden(truth_of(cases, len(names))[:, k], scores[:, k])
        tau = WITHOUT_CASES if point is None else point.threshold
        by_class[name] = round(min(max(tau, TAU_MIN), TAU_MAX), DIGITS)
    fired = np.any(scores >= np.array(list(by_class.values())), axis=1)
    return Thresholds(by_class, float(fired.mean()), None, len(cases))


def truth_of(cases: Sequence[Case], classes: int) -> NDArray[np.bool_]:
    """(cases, classes) whether a class is in a picture."""
    return np.array([[k in case.classes for k in range(classes)] for case in cases], bool).reshape(
        -1, classes
    )


def definite_thresholds(
    cases: Sequence[Case], names: Sequence[str], firing: Mapping[str, float]
) -> dict[str, float]:
    """Class -> score from which it is definite: the lowest with a specificity of at least 0.98 against all other
    pictures, and not below the one it fires at. A class with fewer than 50 others has none: without a false
    alarm in 50 the true rate may still be 6 % (three in n).
    """
    truth, scores = truth_of(cases, len(names)), scores_of(cases, len(names))
    found = {}
    for k, name in enumerate(names):
        if int((~truth[:, k]).sum()) < LEAST_OTHERS:
            continue
        point = at_specificity(truth[:, k], scores[:, k], DEFINITE_SPECIFICITY)
        if point is not None:
            tau = min(math.ceil(point.threshold * 10**DIGITS) / 10**DIGITS, TAU_LAST)
            found[name] = max(tau, firing[name])
    return found


@dataclass(frozen=True)
class Calibrated:
    """The manifest's entry, what was fitted (None: nothing), and why not."""

    entry: dict[str, Any]
    fitted: Calibrator | None
    why_not: str = ""


def calibrate(cases: Sequence[Case], names: Sequence[str], method: str) -> Calibrated:
    """One map from score to probability for all classes, over the answers "this class is in this picture".

    method: none, temperature, platt, isotonic, or auto: isotonic from 200 positive answers, temperature below.
    Fewer than 10 of either kind are too few for any. Isotonic values stay off 0 and 1 as far as the number of
    answers allows (Laplace's rule of succession).
    """
    truth, scores = truth_of(cases, len(names)).ravel(), scores_of(cases, len(names)).ravel()
    positives = int(truth.sum())
    if method == "none":
        return Calibrated({"method": "none"}, None, "not asked for")
    if min(positives, len(truth) - positives) < LEAST_ANSWERS:
        why = f"{positives} positive answers of {len(truth)} on validation; {LEAST_ANSWERS} of either kind are needed"
        return Calibrated({"method": "none"}, None, why)
    if method == "auto":
        method = "isotonic" if positives >= ENOUGH_FOR_ISOTONIC else "temperature"
    fitted = fit(method, truth, scores)  # type: ignore[arg-type]
    numbers = dict(fitted.numbers)
    if fitted.method == "platt" and not float(numbers["slope"]) > 0:  # type: ignore[arg-type]
        return Calibrated({"method": "none"}, None, "higher scores were no more often right on validation")
    if fitted.method == "isotonic":
        low, high = 1 / (len(truth) - positives + 2), (positives + 1) / (positives + 2)
        values = np.clip(np.asarray(numbers["values"]), low, high).round(6).tolist()
        numbers["values"] = values
        fitted = replace(fitted, numbers=numbers)
    return Calibrated({"method": fitted.method, **numbers, "n": fitted.n, "positives": positives}, fitted)


def _taus(scores: NDArray[np.float64], normal: NDArray[np.float64], allowed: int) -> NDArray[np.float64]:
    """(classes,) thresholds at which each class fires on `allowed` of the pictures without a fracture.

    In the middle between the first of them that must not fire and the next higher score of any picture.
    """
    silent = normal[allowed]
    above = np.where(scores > silent, scores, 1.0).min(0)
    return np.round(((silent + above) / 2).clip(TAU_MIN, TAU_MAX), DIGITS)
