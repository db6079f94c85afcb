"""Greedy non-maximum suppression per class. numpy only: it runs on the CPU, after the scores are filtered.

Upstream: tinyvision/DAMO-YOLO, damo/utils/boxes.py (multiclass_nms, postprocess).
"""

import numpy as np
from numpy.typing import NDArray

from hipnode.findings import Detections

SCORE_THRESHOLD = 0.05
IOU_THRESHOLD = 0.7
MAX_DETECTIONS = 500


_BLOCK = 256  # candidates looked at together: a small matrix instead of a square one of all


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, m) intersection over union of boxes (n, 4) with boxes (m, 4), all corner to corner.

    Areas are width times height, without + 1; two empty boxes have 0.
    """
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    union = area_a[:, None] + area_b[None, :] - shared
    overlap: NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    iou_threshold: float = IOU_THRESHOLD,
    limit: int = MAX_DETECTIONS,
) -> NDArray[np.int64]:
    """The indices of the boxes (n, 4) that stay, best score (n,) first, at most `limit`.

    A box goes when its IoU with a better one that stayed is greater than `iou_threshold`.
    Equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(0, np.int64)
    for start in range(0, len(order), _BLOCK):
        if len(kept) >= limit:
            break
        block = order[start : start + _BLOCK]
        block = block[~(iou(boxes[block], boxes[kept]) > iou_threshold).any(axis=1)]
        overlaps = iou(boxes[block], boxes[block]) > iou_threshold
        stays = np.ones(len(block), bool)
        for i in range(len(block)):
            if stays[i]:
                stays[i + 1 :] &= ~overlaps[i, i + 1 :]
        kept = np.concatenate([kept, block[stays]])
    return kept[:limit]


def multiclass_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    iou_threshold: float = IOU_THRESHOLD,
    limit: int = MAX_DETECTIONS,
) -> Detections:
    """What stays of candidates (n, 4), (n,), (n,), each class by itself; best score first.

    A candidate is a (point, class) pair, so one point may bring several classes.
    """
    # The first `limit` of all classes together are among the first `limit` of each.
    stay = [np.zeros(0, np.int64)]
    for class_id in np.unique(class_ids):
        own = np.flatnonzero(class_ids == class_id)
        stay.append(own[nms(boxes[own], scores[own], iou_threshold, limit)])
    kept = np.concatenate(stay)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:limit]
    return Detections(boxes[kept], scores[kept], class_ids[kept])


def candidates(
    scores: NDArray[np.float32], boxes: NDArray[np.float32], score_threshold: float = SCORE_THRESHOLD
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (k, 4), scores (k,), class ids (k,) of all (point, class) pairs above the threshold.

    scores (n, classes) and boxes (n, 4) are one image's network outputs; pairs stand point by point.
    """
    points, class_ids = np.nonzero(scores > score_threshold)
    return boxes[points], scores[points, class_ids], class_ids.astype(np.int64)
