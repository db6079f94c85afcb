"""AlignOTA: which points of the network should answer for which true box.

Written from tinyvision/DAMO-YOLO, damo/base_models/core/ota_assigner.py (AlignOTAAssigner).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from workers.training.boxes import pairwise_iou

CENTRE_RADIUS = 2.5  # in strides
CANDIDATES = 10  # largest IoUs that vote on how many points a truth takes
IOU_WEIGHT = 3.0
OUTSIDE_COST = 1e8


class Truth(NamedTuple):
    """What is in one picture.

    boxes: (m, 4) float32 column_min, row_min, column_max, row_max in input pixels
    labels: (m,) int64 class index
    """

    boxes: Tensor
    labels: Tensor


class Assignment(NamedTuple):
    """What each of n points of one picture should say.

    labels: (n,) int64 class index, or the number of classes for background
    ious: (n,) IoU of the point's prediction with its truth; 0 for background
    truths: (n,) int64 index of the truth; -1 for background
    """

    labels: Tensor
    ious: Tensor
    truths: Tensor


def _inside(points: Tensor, strides: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(n, m) whether a point lies inside a box, and whether near its centre; both strictly."""
    point = points[:, None, :]  # (n, 1, 2)
    edges = torch.cat([point - boxes[None, :, :2], boxes[None, :, 2:] - point], -1)  # (n, m, 4)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    offset = (point - centres[None]).abs().amax(-1)  # (n, m)
    return edges.amin(-1) > 0, offset < CENTRE_RADIUS * strides[:, None]


def _class_cost(logits: Tensor, labels: Tensor, ious: Tensor) -> Tensor:
    """(v, m) quality focal cost of v points' class answers against m truths."""
    classes = logits.shape[-1]
    target = functional.one_hot(labels, classes).to(logits.dtype)[None] * ious[..., None]  # (v, m, classes)
    logits = logits[:, None, :].expand_as(target)
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (bce * (target - logits.sigmoid()).square()).sum(-1)


@torch.no_grad()
def assign(class_logits: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, truth: Truth) -> Assignment:
    """Assign the points of one picture on this step's predictions.

    class_logits (n, classes), boxes (n, 4) and points (n, 2) in input pixels, strides (n,), all
    float32. A point counts as valid inside any truth or within 2.5 strides of any truth's centre.
    Each truth takes as many points as its ten largest IoUs add up to (at least one), the cheapest
    first; a point wanted by several goes to its cheapest truth. Everything else is background.
    """
    n, classes = class_logits.shape
    labels = torch.full((n,), classes, dtype=torch.int64, device=boxes.device)
    ious = boxes.new_zeros(n)
    truths = torch.full((n,), -1, dtype=torch.int64, device=boxes.device)
    inside, near = _inside(points, strides, truth.boxes)
    valid = (inside | near).any(1).nonzero()[:, 0] if len(truth.labels) else labels[:0]
    if len(valid) == 0:
        return Assignment(labels, ious, truths)
    iou = pairwise_iou(boxes[valid], truth.boxes)  # (v, m)
    cost = _class_cost(class_logits[valid], truth.labels, iou) - IOU_WEIGHT * (iou + 1e-7).log()
    cost = cost + OUTSIDE_COST * ~(inside & near)[valid]
    taken = torch.zeros_like(iou, dtype=torch.bool)
    wanted = iou.topk(min(CANDIDATES, len(valid)), dim=0).values.sum(0).int().clamp(min=1)  # (m,)
    for index, k in enumerate(wanted.tolist()):
        taken[cost[:, index].topk(k, largest=False).indices, index] = True
    contested = taken.sum(1) > 1
    cheapest = functional.one_hot(cost.argmin(1), len(truth.labels)).bool()
    taken[contested] = cheapest[contested]
    positive, owner = taken.any(1), taken.int().argmax(1)
    at = valid[positive]
    truths[at] = owner[positive]
    labels[at] = truth.labels[owner[positive]]
    ious[at] = iou[positive, owner[positive]]
    return Assignment(labels, ious, truths)
