"""Whether the detector looked at the right place: overlaps, AP, FROC, location-correct sensitivity. Pure.

Two things are called IoU in published tables, and both are here under their own name: that of matched
boxes (`per_detection`), and that of box masks counted in pixels (`box_masks`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hipnode.evaluation.statistics.classes import Boxes, areas
from hipnode.evaluation.statistics.counts import metric_of
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import (
    Sums,
    from_sums,
    number_of_patients,
    resampled_sums,
    share_by_patient,
    wilson,
)
from hipnode.evaluation.statistics.resampling import DEFAULT_RESAMPLES, Resamples

COCO_IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
COCO_RECALLS = np.linspace(0, 1, 101)
FROC_RATES = (0.1, 0.25, 0.5, 1.0, 2.0)
PIXEL_METRICS = ("accuracy", "sensitivity", "specificity", "iou", "dice")


@dataclass(frozen=True, eq=False)
class Matches:
    """Which reference box each prediction took.

    taken: (predictions,) int64 index of the reference, -1: none
    iou: (references,) float64 overlap with the prediction that took it, 0: missed
    """

    taken: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Predictions beside reference boxes of the same unit and class: (pairs,) indices of both, and the IoU."""

    predicted: NDArray[np.int64]
    reference: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class Overlap:
    """Per-detection overlap of one class, or of all. SDs are sample SDs (n - 1), None below two values."""

    iou_matched: Estimate
    iou_matched_sd: float | None
    dice_matched: Estimate
    dice_matched_sd: float | None
    iou_all: Estimate  #: over all lesions, a miss counts 0
    dice_all: Estimate


@dataclass(frozen=True)
class PixelTable:
    """Box-mask metrics of one class by name (PIXEL_METRICS): pooled over all images, and mean per image.

    pooled: pixel counts of all images added
    per_image: mean over the images that contain the class in the reference
    """

    pooled: dict[str, Estimate]
    per_image: dict[str, Estimate]


@dataclass(frozen=True, eq=False)
class Froc:
    """Sensitivity per lesion against false marks per image, one point per distinct score.

    at: false marks per image -> the highest sensitivity reached at no more than that; None without lesions
    """

    false_marks_per_image: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    at: dict[float, float | None]
    lesions: int
    images: int


@dataclass(frozen=True)
class JaccardSummary:
    """Overlap of a crop stage: mean and sample SD, and the shares of crops above 0.5 and above 0.7."""

    mean: float | None
    sd: float | None
    above_half: Estimate
    above_seven_tenths: Estimate


def dice_of(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dice from IoU of one pair: 2 IoU / (1 + IoU), the same as 2I / (A + B)."""
    return np.asarray(2 * iou / (1 + iou))


def match(reference: Boxes, predicted: Boxes, at_least: float = 0.5) -> Matches:
    """Greedy one-to-one matching within unit and class: best score first takes the best free reference.

    COCO's rule (Lin et al., ECCV 2014): overlap of at least `at_least`; equal scores in the order given.
    """
    return match_pairs(pairs_of(reference, predicted), len(reference), predicted, at_least)


def pairs_of(reference: Boxes, predicted: Boxes) -> Pairs:
    """Every prediction beside every reference box of its unit and class, by prediction."""
    key = [
        b.unit * (1 + max(_last(reference), _last(predicted))) + b.class_id for b in (reference, predicted)
    ]
    order = np.argsort(key[0], kind="stable")
    first = np.searchsorted(key[0][order], key[1], side="left")
    count = np.searchsorted(key[0][order], key[1], side="right") - first
    p = np.repeat(np.arange(len(predicted)), count)
    within = np.arange(len(p)) - np.repeat(np.cumsum(count) - count, count)
    r = order[np.repeat(first, count) + within]
    a, b = predicted.corners[p], reference.corners[r]
    shared = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    return Pairs(p, r, shared / (areas(a) + areas(b) - shared))


def match_pairs(pairs: Pairs, references: int, predicted: Boxes, at_least: float) -> Matches:
    """`match` from pairs that are known: for several overlaps the pairs are made once."""
    taken = np.full(len(predicted), -1, np.int64)
    overlap = np.zeros(references)
    free = np.ones(references, dtype=np.bool_)
    rank = np.empty(len(predicted), np.int64)
    rank[np.argsort(-predicted.score, kind="stable")] = np.arange(len(predicted))
    near = np.flatnonzero(pairs.iou >= at_least)
    # best score first; of one prediction the best overlap first, then the first reference
    near = near[np.lexsort((pairs.reference[near], -pairs.iou[near], rank[pairs.predicted[near]]))]
    chosen = (pairs.predicted[near].tolist(), pairs.reference[near].tolist(), pairs.iou[near].tolist())
    for p, r, iou in zip(*chosen, strict=True):
        if taken[p] < 0 and free[r]:
            taken[p], free[r], overlap[r] = r, False, iou
    return Matches(taken, overlap)


def per_detection(
    reference: Boxes,
    matches: Matches,
    *,
    seed: int,
    patients: ArrayLike | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    resampled: Resamples | None = None,
) -> Overlap:
    """IoU and Dice over matched lesions and over all lesions (misses 0); n counts lesions.

    patients: one per unit; None: every unit is its own
    resampled: resamples of the units to use; None draws them from seed, among patients with a lesion
    """
    iou = matches.iou
    found = iou > 0
    dice = dice_of(iou)
    table = np.column_stack([iou, dice, found, np.ones(len(iou))])
    owners = reference.unit if patients is None else np.asarray(patients)[reference.unit]
    if resampled is None:
        draws = resampled_sums(table, owners, seed=seed, resamples=resamples)
        drawn = number_of_patients(owners, len(iou))
    else:
        draws, drawn = resampled.of_units(reference.unit).sums(table), resampled.patients
    hits = int(found.sum())
    means = partial(from_sums, table=table, draws=draws, patients=drawn, events=hits)
    return Overlap(
        means(partial(_quotient, 0, 2), n=hits),
        _sd(iou[found]),
        means(partial(_quotient, 1, 2), n=hits),
        _sd(dice[found]),
        means(partial(_quotient, 0, 3)),
        means(partial(_quotient, 1, 3)),
    )


def pixel_counts(
    reference: NDArray[np.float64], predicted: NDArray[np.float64], rows: int, columns: int
) -> tuple[float, float, float, float]:
    """Pixel tp, fn, fp, tn of the union of (., 4) reference boxes against that of the predicted ones.

    Exact areas of half-open boxes clipped to the image; for whole-pixel corners those of a raster.
    """
    limits = np.array([columns, rows, columns, rows], dtype=float)
    a, b = np.clip(reference, 0, limits), np.clip(predicted, 0, limits)
    both = np.concatenate([a, b])
    xs = np.unique(np.concatenate([both[:, 0], both[:, 2], [0.0, columns]]))
    ys = np.unique(np.concatenate([both[:, 1], both[:, 3], [0.0, rows]]))
    cell = np.diff(ys)[:, None] * np.diff(xs)[None, :]
    truth, seen = _painted(a, xs, ys), _painted(b, xs, ys)
    return (
        float(cell[truth & seen].sum()),
        float(cell[truth & ~seen].sum()),
        float(cell[~truth & seen].sum()),
        float(cell[~truth & ~seen].sum()),
    )


def box_masks(
    reference: Boxes,
    predicted: Boxes,
    class_id: int,
    sizes: Sequence[tuple[int, int]],
    *,
    seed: int,
    patients: ArrayLike | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    resampled: Resamples | None = None,
) -> PixelTable:
    """Pixel metrics of the box masks of one class; the unit is the image, sizes are its (rows, columns).

    resampled: resamples of the units to use; None draws them from seed.

    Pooled numbers weigh every pixel alike, so that accuracy and specificity are near 1 wherever boxes are
    small: they are no per-case numbers.
    """
    truth, seen = _by_unit(reference, class_id), _by_unit(predicted, class_id)
    none = np.zeros((0, 4))
    cells = np.zeros((len(sizes), 4))
    cells[:, 3] = [rows * columns for rows, columns in sizes]  # an image without a box is all tn
    for u in truth.keys() | seen.keys():
        cells[u] = pixel_counts(truth.get(u, none), seen.get(u, none), *sizes[u])
    has = np.array([u in truth for u in range(len(sizes))], dtype=np.bool_)
    each = np.column_stack([_pixel_metric(m, cells) for m in PIXEL_METRICS])
    defined = np.isfinite(each) & has[:, None]
    table = np.column_stack([cells, np.where(defined, each, 0), defined])
    if resampled is None:
        draws = resampled_sums(table, patients, seed=seed, resamples=resamples)
    else:
        draws = resampled.sums(table)
    drawn, images = number_of_patients(patients, len(sizes)), int(has.sum())
    estimate = partial(from_sums, table=table, draws=draws, patients=drawn, events=images)
    pooled = {m: estimate(partial(_pixel_metric, m)) for m in PIXEL_METRICS}
    k = len(PIXEL_METRICS)
    mean = {
        m: estimate(partial(_quotient, 4 + i, 4 + k + i), n=int(defined[:, i].sum()))
        for i, m in enumerate(PIXEL_METRICS)
    }
    return PixelTable(pooled, mean)


def average_precision_at(reference: Boxes, predicted: Boxes, class_id: int, iou: float) -> float | None:
    """COCO's AP of one class: precision made monotone, read at 101 recalls; None without a reference box.

    Lin et al., ECCV 2014, as pycocotools computes it, without its limits on size and number of boxes.
    """
    truth = reference.take(reference.class_id == class_id)
    seen = predicted.take(predicted.class_id == class_id)
    if not len(truth):
        return None
    order = np.argsort(-seen.score, kind="stable")
    hit = match(truth, seen, iou).taken[order] >= 0
    tp, fp = np.cumsum(hit), np.cumsum(~hit)
    precision = np.maximum.accumulate((tp / np.maximum(tp + fp, 1))[::-1])[::-1]
    at = np.searchsorted(tp / len(truth), COCO_RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())


def coco_average_precision(reference: Boxes, predicted: Boxes, class_id: int) -> float | None:
    """The mean of AP over IoU 0.5, 0.55, ... 0.95; None without a reference box."""
    values = [average_precision_at(reference, predicted, class_id, iou) for iou in COCO_IOUS]
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def froc(reference: Boxes, predicted: Boxes, images: int, at_least: float = 0.5) -> Froc:
    """The FROC curve of all classes given: a mark is true when it takes a lesion of its class.

    Chakraborty and Winter, Radiology 1990;174:873-81. A second mark on a found lesion is a false mark.
    Raises ValueError without images.
    """
    if images < 1:
        raise ValueError("false marks per image need an image")
    order = np.argsort(-predicted.score, kind="stable")
    hit = match(reference, predicted, at_least).taken[order] >= 0
    scores = predicted.score[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, np.int64)
    lesions = len(reference)
    false = np.cumsum(~hit)[last] / images
    found = np.cumsum(hit)[last] / max(lesions, 1)
    at: dict[float, float | None] = {}
    for rate in FROC_RATES:
        reached = found[false <= rate]
        at[rate] = (float(reached[-1]) if len(reached) else 0.0) if lesions else None
    return Froc(false, found, scores[last], at, lesions, images)


def location_correct(
    reference: Boxes,
    predicted: Boxes,
    at_least: float = 0.5,
    *,
    centre: bool = False,
    patients: ArrayLike | None = None,
) -> Estimate:
    """Share of lesions with a prediction of the right class at the right place; n counts lesions.

    predicted: those that fired only; centre: the place is right when the predicted centre lies in the
    reference box, for detectors whose boxes have another size by design. Two marks cannot share a lesion,
    two lesions may share no mark. patients: one per unit, for the interval; None: lesions are independent.
    """
    found = _centre_inside(reference, predicted) if centre else match(reference, predicted, at_least).iou > 0
    return share_by_patient(found, None if patients is None else np.asarray(patients)[reference.unit])


def _centre_inside(reference: Boxes, predicted: Boxes) -> NDArray[np.bool_]:
    """(references,) which lesions have the centre of a mark in them; the first lesion takes the best mark."""
    pairs = pairs_of(reference, predicted)
    middle = (predicted.corners[:, :2] + predicted.corners[:, 2:])[pairs.predicted] / 2
    box = reference.corners[pairs.reference]
    inside = np.flatnonzero(((middle >= box[:, :2]) & (middle < box[:, 2:])).all(axis=1))
    inside = inside[
        np.lexsort(
            (pairs.predicted[inside], -predicted.score[pairs.predicted[inside]], pairs.reference[inside])
        )
    ]
    found, free = np.zeros(len(reference), dtype=np.bool_), np.ones(len(predicted), dtype=np.bool_)
    for p, r in zip(pairs.predicted[inside].tolist(), pairs.reference[inside].tolist(), strict=True):
        if free[p] and not found[r]:
            free[p], found[r] = False, True
    return found


def peak_within(points: ArrayLike, peaks: ArrayLike, radius_px: float) -> Estimate:
    """Share of (n, 2) reference points whose heat-map peak lies within radius_px; NaN: no peak, a miss."""
    away = np.linalg.norm(
        np.asarray(points, float).reshape(-1, 2) - np.asarray(peaks, float).reshape(-1, 2), axis=1
    )
    return wilson(int((away <= radius_px).sum()), len(away))  # NaN is within nothing


def jaccard_summary(iou: ArrayLike) -> JaccardSummary:
    """Mean, SD and shares above 0.5 and 0.7 of the crops' (n,) overlaps."""
    values = np.asarray(iou, dtype=float)
    shares = [wilson(int((values > cut).sum()), len(values)) for cut in (0.5, 0.7)]
    return JaccardSummary(float(values.mean()) if len(values) else None, _sd(values), *shares)


def _painted(boxes: NDArray[np.float64], xs: Sums, ys: Sums) -> NDArray[np.bool_]:
    mask = np.zeros((len(ys) - 1, len(xs) - 1), dtype=np.bool_)
    for x0, y0, x1, y1 in boxes:
        i, j = np.searchsorted(ys, (y0, y1)), np.searchsorted(xs, (x0, x1))
        mask[i[0] : i[1], j[0] : j[1]] = True
    return mask


def _by_unit(boxes: Boxes, class_id: int) -> dict[int, NDArray[np.float64]]:
    groups: dict[int, list[int]] = {}
    for place in np.flatnonzero(boxes.class_id == class_id).tolist():
        groups.setdefault(int(boxes.unit[place]), []).append(place)
    return {unit: boxes.corners[places] for unit, places in groups.items()}


def _pixel_metric(metric: str, sums: Sums) -> NDArray[np.float64]:
    cells = sums[..., :4]
    if metric == "dice":
        return metric_of("f1", cells)
    if metric == "iou":
        tp, fn, fp, _ = np.moveaxis(cells, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(tp / (tp + fn + fp))
    return metric_of(metric, cells)


def _quotient(above: int, below: int, sums: Sums) -> NDArray[np.float64]:
    return np.asarray(sums[..., above] / sums[..., below])


def _last(boxes: Boxes) -> int:
    return int(boxes.class_id.max()) if len(boxes) else 0


def _sd(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
