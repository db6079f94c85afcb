"""One yes/no question at a time: counts, ROC, operating points, two levels, calibration. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hipnode.evaluation.record import Calibration, ChosenOn, Point, Question, Threshold
from hipnode.evaluation.splitting import SplitRefused, folds
from hipnode.evaluation.statistics import calibration as calibrating
from hipnode.evaluation.statistics.calibration import Calibrator, Method
from hipnode.evaluation.statistics.counts import count, proportions_by_patient
from hipnode.evaluation.statistics.intervals import Method as Interval
from hipnode.evaluation.statistics.operating import (
    OperatingPoint,
    TwoLevels,
    at_sensitivity,
    at_specificity,
    predictive_values,
    two_levels,
    youden,
)
from hipnode.evaluation.statistics.resampling import Resamples
from hipnode.evaluation.statistics.roc import auc, average_precision, roc_curve
from hipnode.evaluation.thresholds import Labelled, on_other_cases, worst_of

METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")
CROSS_FITTED = "cross-fitted"
FOLDS = 5
HISTOGRAM_BINS = 20
RULES: tuple[Callable[[ArrayLike, ArrayLike], OperatingPoint | None], ...] = (
    youden,
    partial(at_sensitivity, target=0.95),
    partial(at_specificity, target=0.90),
)


@dataclass(frozen=True, eq=False)
class Asked:
    """What a question is asked of, n units.

    truth: (n,) bool; score: (n,) in 0..1; called: (n,) bool, by the thresholds in use
    patients: (n,) int64 numbers of patients; clustered: whether one has several units
    validation: truth and scores of the validation units; None without
    """

    name: str
    truth: NDArray[np.bool_]
    score: NDArray[np.float64]
    called: NDArray[np.bool_]
    patients: NDArray[np.int64]
    clustered: bool
    validation: Labelled | None
    resampled: Resamples
    prevalence: float | None
    seed: int
    interval: Interval = "wilson"


def answer(asked: Asked, thresholds: Sequence[Threshold], constants: Sequence[float]) -> Question:
    """All about a question. thresholds: in use; several where each class fires at its own."""
    truth, score = asked.truth, asked.score
    patients = asked.patients if asked.clustered else None
    chosen = worst_of(thresholds)
    one = thresholds[0] if len(thresholds) == 1 else None
    used = _point(
        asked, "in use" if one is None else one.says, chosen, None if one is None else one.value, asked.called
    )
    points = []
    for find in RULES:
        found, where = on_other_cases(find, asked.validation, (truth, score))
        if found is not None:
            called = score >= found.threshold
            rule = f"{found.rule}; calls every case" if called.all() else found.rule
            points.append(_point(asked, rule, where, found.threshold, called))
    points += [_point(asked, f"constant {c:g}", "given", c, score >= c) for c in constants]
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    levels, levels_on, levels_says = _levels(asked)
    return Question(
        name=asked.name,
        used=used,
        points=tuple(points),
        curve=roc_curve(truth, score),
        auc=auc(truth, score, patients, resampled=asked.resampled),
        average_precision=average_precision(truth, score, patients, resampled=asked.resampled),
        score_counts=(edges, np.histogram(score[truth], edges)[0], np.histogram(score[~truth], edges)[0]),
        levels=levels,
        levels_chosen_on=levels_on,
        levels_says=levels_says,
        calibration=_calibrations(asked),
    )


def _point(
    asked: Asked, rule: str, chosen_on: ChosenOn, threshold: float | None, called: NDArray[np.bool_]
) -> Point:
    counts = count(asked.truth, called)
    estimates = proportions_by_patient(asked.truth, called, asked.patients, asked.interval)
    restated = None
    if asked.prevalence is not None:
        restated = predictive_values(OperatingPoint(threshold or 0.0, counts, rule), asked.prevalence)
    return Point(rule, chosen_on, threshold, counts, estimates, restated)


def _levels(asked: Asked) -> tuple[TwoLevels | None, ChosenOn | None, str]:
    same = (asked.truth, asked.score)
    low, low_on = on_other_cases(RULES[1], asked.validation, same)
    high, high_on = on_other_cases(RULES[2], asked.validation, same)
    if low is None or high is None:
        return None, None, "There are no cases with and without it to choose two thresholds on."
    if (asked.score >= low.threshold).all():
        return None, None, "Only by calling every case is a sensitivity of 95 % reached."
    if low.threshold >= high.threshold:
        says = (
            f"The threshold for a sensitivity of 95 % ({low.threshold:.4g}) is not below the one for a specificity "
            f"of 90 % ({high.threshold:.4g}): one threshold reaches both, and two levels would tell nothing."
        )
        return None, None, says
    where: ChosenOn = low_on if low_on == high_on else "same cases"
    return two_levels(*same, low.threshold, high.threshold), where, ""


def _calibrations(asked: Asked) -> tuple[Calibration, ...]:
    """The scores as given, and after each method; what could not be fitted says why."""
    fitted_on, apply = ("validation", _on_validation) if asked.validation else (CROSS_FITTED, _cross_fitted)
    scores: dict[str, tuple[NDArray[np.float64], Calibrator | None]] = {"as given": (asked.score, None)}
    failed: dict[str, str] = {}
    for method in METHODS:
        try:
            scores[method] = apply(asked, method)
        except (ValueError, SplitRefused) as error:
            failed[method] = f"It could not be fitted: {error}."
    all_errors = calibrating.errors(asked.truth, [p for p, _ in scores.values()], asked.resampled)
    made = {}
    for (name, (p, calibrator)), (ece, brier, log_loss) in zip(scores.items(), all_errors, strict=True):
        made[name] = Calibration(
            name, None if name == "as given" else fitted_on, "", calibrator, ece,
            calibrating.mce(asked.truth, p), brier, log_loss, calibrating.calibration_line(asked.truth, p),
            {bins: calibrating.reliability(asked.truth, p, bins, "width") for bins in (10, 15)},
            {bins: calibrating.reliability(asked.truth, p, bins, "count") for bins in (10, 15)},
        )  # fmt: skip
    for name, says in failed.items():
        made[name] = Calibration(name, fitted_on, says, None, None, None, None, None, None, {}, {})
    return tuple(made[name] for name in ("as given", *METHODS))


def _on_validation(asked: Asked, method: Method) -> tuple[NDArray[np.float64], Calibrator | None]:
    if asked.validation is None:
        raise ValueError("there is no validation part")
    calibrator = calibrating.fit(method, *asked.validation)
    return calibrator(asked.score), calibrator


def _cross_fitted(asked: Asked, method: Method) -> tuple[NDArray[np.float64], Calibrator | None]:
    """Scores of each fold of patients, calibrated on the other folds; there is no one calibrator to keep."""
    names = [str(code) for code in asked.patients.tolist()]
    fold = np.array(folds(names, [str(y) for y in asked.truth.tolist()], FOLDS, seed=asked.seed))
    calibrated = np.zeros(len(fold))
    for i in range(FOLDS):
        here = fold == i
        calibrated[here] = calibrating.fit(method, asked.truth[~here], asked.score[~here])(asked.score[here])
    return calibrated, None
