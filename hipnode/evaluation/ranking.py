"""Average precision of boxes and FROC with intervals: boxes are matched once, and resamples weigh them. Pure.

Matching is a matter of one unit, so that a resample of patients changes how often each box counts, and not
which lesion it takes. A resample's curve is then a matter of weighted sums.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hipnode.evaluation.classes import Boxes
from hipnode.evaluation.estimates import Estimate, undefined
from hipnode.evaluation.localisation import (
    COCO_IOUS,
    COCO_RECALLS,
    FROC_RATES,
    average_precision_at,
    coco_average_precision,
    froc,
    match_pairs,
    pairs_of,
)
from hipnode.evaluation.resampling import Resamples, percentile_interval

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
    draws = []
    for iou in COCO_IOUS:
        hit = match_pairs(pairs, lesions, seen, iou).taken[order] >= 0
        draws.append(_ap_draws(hit, seen.unit[order], truth.unit, resampled))
    values = (
        average_precision_at(reference, predicted, class_id, 0.5),
        coco_average_precision(reference, predicted, class_id),
    )
    made = []
    for value, spread in zip(values, (draws[0], np.mean(draws, axis=0)), strict=True):
        low, high, method = percentile_interval(spread, f"{resampled.patients} patients")
        made.append(Estimate(value, low, high, units, lesions, method))
    return made[0], made[1]


def _ap_draws(
    hit: NDArray[np.bool_], units: NDArray[np.int64], lesion_units: NDArray[np.int64], resampled: Resamples
) -> NDArray[np.float64]:
    """(resamples,) AP of boxes, best score first: hit says whether each took a lesion, units whose it is.

    Between two hits the precision only falls, so that it is computed at hits alone. NaN without lesions.
    """
    codes, hits = resampled.codes, np.flatnonzero(hit)
    total = resampled.sums(np.bincount(lesion_units, minlength=len(codes))[:, None])[:, 0]
    if not len(hits):
        return np.where(total > 0, 0.0, np.nan)
    before = hits[-1] + 1  # boxes after the last hit change no precision that is read
    segment = np.searchsorted(hits, np.arange(before), side="left")
    ones = np.ones(before)
    marks = csr_matrix((ones, (codes[units[:before]], segment)), shape=(resampled.patients, len(hits)))
    owners = codes[units[hits]]
    draws = []
    for start in range(0, len(total), BLOCK):
        times = resampled.times[start : start + BLOCK].astype(np.float64)
        called = np.cumsum(np.asarray((marks.T @ times.T).T), axis=1)
        found = np.cumsum(times[:, owners], axis=1)
        precision = np.divide(found, called, out=np.zeros_like(called), where=called > 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row, lesions in enumerate(total[start : start + BLOCK]):
            if not lesions:
                draws.append(np.nan)
                continue
            at = np.searchsorted(found[row] / lesions, COCO_RECALLS, side="left")
            draws.append(float(np.append(envelope[row], 0.0)[at].mean()))
    return np.array(draws)


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
