"""Average precision of boxes and FROC with intervals: boxes are matched once, and resamples weigh them. Pure.

Matching is a matter of one unit, so that a resample of patients changes how often each box counts, and not
which lesion it takes. A resample's curve is then a matter of weighted sums.
"""

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.statistics.classes import Boxes
from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.localisation import (
    COCO_IOUS,
    COCO_RECALLS,
    FROC_RATES,
    average_precision_at,
    coco_average_precision,
    froc,
    match_pairs,
    pairs_of,
)
from hipnode.evaluation.statistics.resampling import Resamples, percentile_interval

NO_LESION = "undefined: no reference box"
BLOCK = 100  # resamples at a time


def average_precisions(
    reference: Boxes, predicted: Boxes, class_id: int, units: int, resampled: Resamples
) -> tuple[Estimate, Estimate]:
    """COCO's AP of one class at IoU 0.5, and its mean over 0.5, 0.55, ... 0.95; intervals by patient.

    n counts units, events lesions. units: how many there are, with boxes or without
    """
    truth = reference.take(reference.class_id == class_id)
    seen = predicted.take(predicted.class_id == class_id)
    lesions = len(truth)
    if not lesions:
        return undefined(units, 0, NO_LESION), undefined(units, 0, NO_LESION)
    pairs = pairs_of(truth, seen)
    order = np.argsort(-seen.score, kind="stable")
    hits = [np.flatnonzero(match_pairs(pairs, lesions, seen, iou).taken[order] >= 0) for iou in COCO_IOUS]
    draws = _ap_draws(hits, seen.unit[order], truth.unit, resampled)
    values = (
        average_precision_at(reference, predicted, class_id, 0.5),
        coco_average_precision(reference, predicted, class_id),
    )
    made = []
    for value, spread in zip(values, (draws[0], draws.mean(axis=0)), strict=True):
        low, high, method = percentile_interval(spread, f"{resampled.patients} patients")
        made.append(Estimate(value, low, high, units, lesions, method))
    return made[0], made[1]


def _ap_draws(
    hits: list[NDArray[np.int64]],
    units: NDArray[np.int64],
    lesion_units: NDArray[np.int64],
    resampled: Resamples,
) -> NDArray[np.float64]:
    """(overlaps, resamples) AP of boxes, best score first, whose units are given; NaN without lesions.

    hits: for each overlap, which boxes took a lesion. Between two hits the precision only falls, so that it
    is computed at hits alone.
    """
    total = resampled.sums(np.bincount(lesion_units, minlength=len(resampled.codes))[:, None])[:, 0]
    last = max((int(h[-1]) + 1 for h in hits if len(h)), default=0)
    owners = resampled.codes[units[:last]]
    made = np.full((len(hits), len(total)), np.nan)
    for start in range(0, len(total), BLOCK):
        weights = resampled.times[start : start + BLOCK].astype(np.float32)[:, owners]
        called = np.cumsum(weights, axis=1)
        for i, here in enumerate(hits):
            found = np.cumsum(weights[:, here], axis=1)
            precision = found / np.maximum(called[:, here], 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            padded = np.concatenate([envelope, np.zeros((len(found), 1))], axis=1)
            for row, lesions in enumerate(total[start : start + BLOCK].tolist()):
                if lesions:
                    # as recall >= r, but for a last digit that differs from that of found / lesions
                    at = np.searchsorted(found[row], COCO_RECALLS * lesions - 1e-9, side="left")
                    made[i, start + row] = padded[row, at].mean()
    return made


def froc_estimates(
    reference: Boxes, predicted: Boxes, units: int, resampled: Resamples, at_least: float = 0.5
) -> dict[float, Estimate]:
    """False marks per unit -> sensitivity per lesion at no more than that (`localisation.froc`); by patient."""
    point = froc(reference, predicted, units, at_least)
    order = np.argsort(-predicted.score, kind="stable")
    hit = match_pairs(pairs_of(reference, predicted), len(reference), predicted, at_least).taken[order] >= 0
    scores = predicted.score[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, np.int64)
    owners = resampled.codes[predicted.unit[order]]
    counted = np.column_stack([np.bincount(reference.unit, minlength=units), np.ones(units)])
    totals = resampled.sums(counted)  # lesions, units
    spreads: dict[float, list[NDArray[np.float64]]] = {rate: [] for rate in FROC_RATES}
    for start in range(0, len(totals), BLOCK):
        weights = resampled.times[start : start + BLOCK].astype(np.float32)[:, owners]
        false = np.cumsum(weights * ~hit, axis=1)[:, last]
        found = np.cumsum(weights * hit, axis=1)[:, last]
        lesions, images = totals[start : start + BLOCK].T
        for rate, spread in spreads.items():
            reached = (false <= rate * images[:, None] + 1e-9).sum(axis=1)  # false marks only rise
            padded = np.concatenate([np.zeros((len(found), 1)), found], axis=1)
            best = padded[np.arange(len(found)), reached]
            spread.append(np.divide(best, lesions, out=np.full(len(best), np.nan), where=lesions > 0))
    made = {}
    for rate, value in point.at.items():
        if value is None:
            made[rate] = undefined(0, 0, NO_LESION)
            continue
        low, high, method = percentile_interval(
            np.concatenate(spreads[rate]), f"{resampled.patients} patients"
        )
        made[rate] = Estimate(value, low, high, point.lesions, round(value * point.lesions), method)
    return made
