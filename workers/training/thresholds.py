"""Class thresholds from a validation pool.

Rule: each class may fire on the same share of pictures without a fracture. That share is the one
which gives the largest Youden index (sensitivity + specificity - 1, any fracture) among those with a
specificity of at least 0.95; of equals, the strictest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hipnode.errors import HipnodeError
from workers.training.evaluate import Case

LEAST_SPECIFICITY = 0.95
TAU_MIN = 0.05
TAU_MAX = 0.95
DIGITS = 3


class TooFewCases(HipnodeError):
    """A validation pool lacks pictures with or without a fracture."""


@dataclass(frozen=True)
class Thresholds:
    """Score from which each class fires, and what it gave on the pool it was chosen on."""

    by_class: dict[str, float]
    sensitivity: float
    specificity: float
    cases: int


def choose_thresholds(
    cases: Sequence[Case], names: Sequence[str], least_specificity: float = LEAST_SPECIFICITY
) -> Thresholds:
    """The thresholds of the module's rule, in 0.05..0.95, rounded to 3 digits. Raises TooFewCases."""
    scores = np.array([c.class_scores(len(names)) for c in cases]).reshape(len(cases), len(names))
    fractured = np.array([c.truth is not None for c in cases], bool)
    if fractured.all() or not fractured.any():
        raise TooFewCases("thresholds need validation pictures with and without a fracture")
    normal = -np.sort(-scores[~fractured], axis=0)  # (n, classes), best first
    best: Thresholds | None = None
    for allowed in range(len(normal)):
        tau = _taus(scores, normal, allowed)
        fired: NDArray[np.bool_] = np.any(scores >= tau, axis=1)
        specificity = float((~fired[~fractured]).mean())
        sensitivity = float(fired[fractured].mean())
        if specificity < least_specificity and best is not None:
            break
        if best is None or sensitivity + specificity > best.sensitivity + best.specificity + 1e-12:
            by_class = {name: float(t) for name, t in zip(names, tau, strict=True)}
            best = Thresholds(by_class, sensitivity, specificity, len(cases))
    if best is None:
        raise TooFewCases("thresholds need validation pictures without a fracture")
    return best


def _taus(scores: NDArray[np.float64], normal: NDArray[np.float64], allowed: int) -> NDArray[np.float64]:
    """(classes,) thresholds at which each class fires on `allowed` of the pictures without a fracture.

    In the middle between the first of them that must not fire and the next higher score of any picture.
    """
    silent = normal[allowed]
    above = np.where(scores > silent, scores, 1.0).min(0)
    return np.round(((silent + above) / 2).clip(TAU_MIN, TAU_MAX), DIGITS)
