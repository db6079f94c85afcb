"""From the detector's boxes to a class per unit, in both views the tables use. Pure.

Many units at once, with the rule and the rounding of `hipnode.decision`: on a unit that shows one hip both
name the same class. Where the unit is an image with two hips, the node names a class per hip, and the
tables here the best of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import DISPLACED, VALGUS_IMPACTED, DecisionRule

NO_FRACTURE = "N"
SCORE_DIGITS = 4  # scores are rounded before any comparison, as the node does


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of many units in one row of arrays; the reference's have no scores (all 1).

    unit: (m,) int64, index of the unit (image or hip) a box belongs to
    class_id: (m,) int64, index into the classes
    corners: (m, 4) float64, (column_min, row_min, column_max, row_max), pixels of the stored image,
        half-open
    score: (m,) float64
    """

    unit: NDArray[np.int64]
    class_id: NDArray[np.int64]
    corners: NDArray[np.float64]
    score: NDArray[np.float64]

    def __post_init__(self) -> None:
        m = len(self.unit)
        shapes = (self.unit.shape, self.class_id.shape, self.corners.shape, self.score.shape)
        if shapes != ((m,), (m,), (m, 4), (m,)):
            raise ValueError(f"shapes of unit, class_id, corners, score do not agree: {shapes}")
        if not (np.isfinite(self.corners).all() and np.isfinite(self.score).all()):
            raise ValueError("a corner or a score is not finite")
        if (self.corners[:, :2] >= self.corners[:, 2:]).any():
            raise ValueError("a box is inverted or empty: column_min < column_max and row_min < row_max")

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, tuple[float, float, float, float], float]]) -> "Boxes":
        """Boxes from (unit, class_id, corners, score) rows."""
        return cls(
            np.array([r[0] for r in rows], np.int64),
            np.array([r[1] for r in rows], np.int64),
            np.array([r[2] for r in rows], np.float64).reshape(-1, 4),
            np.array([r[3] for r in rows], np.float64),
        )

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "Boxes":
        """Those of a mask or of indices."""
        return Boxes(self.unit[which], self.class_id[which], self.corners[which], self.score[which])


def areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m,) square pixels of (m, 4) half-open boxes."""
    return np.asarray((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]))


def iou_matrix(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(a), len(b)) intersection over union of (., 4) boxes: I / (A + B - I)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    return np.asarray(shared / (areas(a)[:, None] + areas(b)[None, :] - shared))


def keep(boxes: Boxes, rule: DecisionRule) -> Boxes:
    """The candidates: rounded scores of at least tau_min, then per unit and class greedy NMS at nms_iou.

    Order: by unit, within it best score first. A box that overlaps a better one by more than nms_iou goes.
    """
    scores = np.round(boxes.score, SCORE_DIGITS)
    boxes = Boxes(boxes.unit, boxes.class_id, boxes.corners, scores).take(scores >= rule.tau_min)
    boxes = boxes.take(np.lexsort((-boxes.score, boxes.class_id, boxes.unit)))
    stays = np.ones(len(boxes), dtype=np.bool_)
    new = (np.diff(boxes.unit) != 0) | (np.diff(boxes.class_id) != 0)
    edges = [0, *(np.flatnonzero(new) + 1).tolist(), len(boxes)]
    for start, stop in pairwise(edges):
        if stop - start > 1:
            overlaps = iou_matrix(boxes.corners[start:stop], boxes.corners[start:stop]) > rule.nms_iou
            here = stays[start:stop]
            for i in range(stop - start):
                if here[i]:
                    here[i + 1 :] &= ~overlaps[i, i + 1 :]
    boxes = boxes.take(stays)
    return boxes.take(np.lexsort((-boxes.score, boxes.unit)))


def class_scores(boxes: Boxes, units: int, classes: int) -> NDArray[np.float64]:
    """(units, classes) the best score of each class in each unit, 0 where it has no box.

    Raises ValueError for a unit or a class out of range.
    """
    for name, ids, end in (("unit", boxes.unit, units), ("class_id", boxes.class_id, classes)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < end:
            raise ValueError(f"a {name} lies outside 0..{end - 1}")
    scores = np.zeros((units, classes))
    np.maximum.at(scores, (boxes.unit, boxes.class_id), boxes.score)
    return scores


def multi_label(
    scores: NDArray[np.float64],
    names: Sequence[str],
    rule: DecisionRule,
    digits: int | None = SCORE_DIGITS,
) -> NDArray[np.bool_]:
    """(units, classes) bool, the multi-label view: class k is positive from its own threshold.

    digits: scores are rounded as the node does; None for scores of others, which are compared as they are.
    Raises KeyError for a class without threshold. A class without box is never positive, also where its
    threshold is 0.
    """
    thresholds = np.array([rule.thresholds[name] for name in names])
    rounded = scores if digits is None else np.round(scores, digits)
    return np.asarray((rounded >= thresholds) & (rounded > 0))


def single_label(
    scores: NDArray[np.float64],
    names: Sequence[str],
    rule: DecisionRule,
    digits: int | None = SCORE_DIGITS,
) -> list[str]:
    """(units,) the single-label view: the best class that fired, N where none did.

    Equal scores: the class that comes first in names. With the rule's valgus priority VF is named before
    DF from that score of VF on.
    """
    fired = multi_label(scores, names, rule, digits)
    rounded = scores if digits is None else np.round(scores, digits)
    best = np.where(fired, rounded, -1.0).argmax(axis=1) if len(names) else np.zeros(len(scores), np.int64)
    if rule.valgus_priority is not None and VALGUS_IMPACTED in names and DISPLACED in names:
        valgus, displaced = names.index(VALGUS_IMPACTED), names.index(DISPLACED)
        score = rounded[:, valgus]
        # > 0: without a box of VF there is nothing to name first
        first = (best == displaced) & (score >= rule.valgus_priority) & (score > 0)
        best = np.where(first, valgus, best)
    found: list[bool] = np.asarray(fired.any(axis=1)).tolist()
    return [
        names[k] if any_ else NO_FRACTURE for k, any_ in zip(np.asarray(best).tolist(), found, strict=True)
    ]
