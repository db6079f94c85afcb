"""Whether one model looked at the right place: every localisation number of its cases. Pure."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.cases import Cases
from hipnode.evaluation.record import ANY, ClassPlaces, Localisation
from hipnode.evaluation.statistics.classes import Boxes
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.localisation import (
    box_masks,
    froc,
    jaccard_summary,
    location_correct,
    match,
    pairs_of,
    peak_within,
    per_detection,
)
from hipnode.evaluation.statistics.ranking import average_precisions, froc_estimates
from hipnode.evaluation.statistics.resampling import Resamples


def localise(
    cases: Cases,
    thresholds: NDArray[np.float64],
    resampled: Resamples,
    unit: str,
    peak_radius_px: float | None,
) -> Localisation:
    """The localisation of a model. thresholds: (K,) in use; marks are boxes that score at least theirs."""
    says: list[str] = []
    peaks = _peaks(cases, peak_radius_px, says)
    boxed = np.zeros_like(cases.truth)
    boxed[cases.reference.unit, cases.reference.class_id] = True
    whole = (boxed == cases.truth).all(axis=1)
    if not len(cases.reference) or not cases.with_boxes:
        whose = "labels" if not len(cases.reference) else "predictions"
        says.append(f"No localisation: the {whose} have no boxes.")
        return Localisation(tuple(says), 0, (), None, {}, None, peaks, peak_radius_px)
    units = np.flatnonzero(whole)
    if len(units) < len(cases):
        says.append(
            f"{len(cases) - len(units)} of {len(cases)} {unit}s have a class without a reference box and are left "
            "out: a mark on them could be right or wrong."
        )
    reference, predicted = (_of_units(b, units, len(cases)) for b in (cases.reference, cases.predicted))
    fired = predicted.take(predicted.score >= thresholds[predicted.class_id])
    resampled = resampled.of_units(units)
    sizes = [(int(r), int(c)) for r, c in cases.sizes[units]]
    sized = all(rows and columns for rows, columns in sizes)
    if not sized:
        says.append(
            "No pixel numbers: the labels do not give the size of every image (columns `rows` and `columns`)."
        )
    patients = cases.codes[units]
    made = []
    for k, name in (*enumerate(cases.classes), (None, ANY)):
        truth, marks = (b if k is None else b.take(b.class_id == k) for b in (reference, fired))
        ap50, ap50_95 = None, None
        if k is not None:
            ap50, ap50_95 = average_precisions(reference, predicted, k, len(units), resampled)
        pixels = None
        if sized:
            a, b = (_alike(boxes) if k is None else boxes for boxes in (truth, marks))
            pixels = box_masks(a, b, k or 0, sizes, seed=0, patients=patients, resampled=resampled)
        overlap = per_detection(truth, match(truth, marks), seed=0, patients=patients, resampled=resampled)
        right = location_correct(truth, marks, patients=patients)
        centre = location_correct(truth, marks, centre=True, patients=patients)
        made.append(ClassPlaces(name, len(truth), overlap, pixels, ap50, ap50_95, right, centre))
    return Localisation(
        says=tuple(says),
        units=len(units),
        classes=tuple(made),
        froc=froc(reference, predicted, len(units)),
        froc_at=froc_estimates(reference, predicted, len(units), resampled),
        jaccard=jaccard_summary(_best_overlaps(reference, fired)),
        peaks=peaks,
        peak_radius_px=peak_radius_px,
    )


def _peaks(cases: Cases, radius: float | None, says: list[str]) -> Estimate | None:
    if not len(cases.points):
        return None
    if np.isnan(cases.peaks).all():
        says.append("The labels have points, and the predictions no heatmap_max_xy to hold against them.")
        return None
    if radius is None:
        says.append("Points and heat maps are there; --peak-radius says how near in pixels is right.")
        return None
    units = cases.points[:, 0].astype(np.int64)
    return peak_within(cases.points[:, 1:], cases.peaks[units], radius)


def _of_units(boxes: Boxes, units: NDArray[np.int64], count: int) -> Boxes:
    """The boxes of some units, which are numbered anew in their order."""
    place = np.full(count, -1, np.int64)
    place[units] = np.arange(len(units))
    kept = boxes.take(place[boxes.unit] >= 0)
    return replace(kept, unit=place[kept.unit])


def _alike(boxes: Boxes) -> Boxes:
    return replace(boxes, class_id=np.zeros_like(boxes.class_id))


def _best_overlaps(reference: Boxes, marks: Boxes) -> NDArray[np.float64]:
    """(references,) the best IoU of any mark of the unit, whatever its class; 0 without one."""
    pairs = pairs_of(_alike(reference), _alike(marks))
    best = np.zeros(len(reference))
    np.maximum.at(best, pairs.reference, pairs.iou)
    return best
