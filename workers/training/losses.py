"""The three losses of DAMO-YOLO's head: quality focal, GIoU, distribution focal.

Written from tinyvision/DAMO-YOLO, damo/base_models/heads/zero_head.py (loss) and
damo/base_models/losses/gfocal_loss.py. Everything runs in float32, also under autocast, and
cross-entropies take logits: on probabilities they are unsafe in 16 bits.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from workers.detector.damoyolo.head import HeadOutputs, boxes_of
from workers.training.assignment import Assignment, Truth, assign
from workers.training.boxes import distances_to, giou

CLASS_WEIGHT, BOX_WEIGHT, DISTANCE_WEIGHT = 1.0, 2.0, 0.25


class Losses(NamedTuple):
    """Scalars of one batch, weighted: total = classes + boxes + distances.

    positives: how many points answer for a truth.
    """

    total: Tensor
    classes: Tensor
    boxes: Tensor
    distances: Tensor
    positives: int


def quality_focal(logits: Tensor, labels: Tensor, qualities: Tensor, beta: float = 2.0) -> Tensor:
    """Sum of the quality focal loss (Li 2020; its beta is 2).

    logits (n, classes); labels (n,) class index or the number of classes for background;
    qualities (n,) the IoU a positive's class score should reach.
    """
    classes = logits.shape[-1]
    target = functional.one_hot(labels, classes + 1)[:, :classes].to(logits.dtype) * qualities[:, None]
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (bce * (target - logits.sigmoid()).abs().pow(beta)).sum()


def distribution_focal(box_logits: Tensor, targets: Tensor) -> Tensor:
    """(n, 4) cross-entropy to the two bins around each distance, weighted linearly (Li 2020).

    box_logits (n, 4, bins); targets (n, 4) distances in strides, under bins - 1.
    """
    log_probabilities = box_logits.log_softmax(-1)
    low = targets.floor().long()
    share_of_high = targets - low
    at_low = log_probabilities.gather(-1, low[..., None])[..., 0]
    at_high = log_probabilities.gather(-1, low[..., None] + 1)[..., 0]
    return -(at_low * (1 - share_of_high) + at_high * share_of_high)


Mean = Callable[[Tensor], Tensor]


def detection_losses(
    outputs: HeadOutputs,
    project: Tensor,
    truths: Sequence[Truth],
    beta: float = 2.0,
    mean: Mean = lambda value: value,
) -> Losses:
    """The losses of a batch: truths[i] is what is in picture i (it may be nothing).

    project (17,): `model.head.integral.project`. Sums are divided by what the whole batch holds:
    the class loss by the number of positives, the others by the sum of their weights (the largest
    class score of each positive), each averaged over the processes by `mean` and at least 1. Without
    positives the box losses are 0, with a gradient of 0.
    """
    logits, box_logits = outputs.class_logits, outputs.box_logits
    boxes = boxes_of(box_logits, outputs.points, outputs.strides, project)
    found = [
        assign(logits[i].detach(), boxes[i].detach(), outputs.points, outputs.strides, truth)
        for i, truth in enumerate(truths)
    ]
    return losses_of(outputs, boxes, truths, found, beta, mean)


def losses_of(
    outputs: HeadOutputs,
    boxes: Tensor,
    truths: Sequence[Truth],
    found: Sequence[Assignment],
    beta: float = 2.0,
    mean: Mean = lambda value: value,
) -> Losses:
    """The losses for a given assignment; boxes (b, n, 4) are the decoded ones."""
    logits = outputs.class_logits
    labels = torch.stack([a.labels for a in found])  # (b, n)
    ious = torch.stack([a.ious for a in found])
    positive = labels < logits.shape[-1]
    count = int(positive.sum())
    weight = logits.detach()[positive].sigmoid().amax(-1)  # (positives,)
    # Every process asks for both means, whatever it found: they wait for each other.
    norms = mean(torch.stack([positive.sum().to(weight.dtype), weight.sum()])).clamp(min=1)
    classes = quality_focal(logits.flatten(0, 1), labels.flatten(), ious.flatten(), beta) / norms[0]
    if count == 0:
        nothing = outputs.box_logits.sum() * 0
        return Losses(CLASS_WEIGHT * classes + nothing, CLASS_WEIGHT * classes, nothing, nothing, 0)
    at = torch.cat(
        [t.boxes[a.truths[a.labels < logits.shape[-1]]] for t, a in zip(truths, found, strict=True)]
    )
    box = ((1 - giou(boxes[positive], at)) * weight).sum() / norms[1]
    stride = outputs.strides.expand(positive.shape)[positive][:, None]
    points = outputs.points.expand(*positive.shape, 2)[positive]
    box_logits = outputs.box_logits[positive]  # (positives, 4, bins)
    distances = distances_to(points / stride, at / stride, box_logits.shape[-1] - 1)
    dfl = (distribution_focal(box_logits, distances) * weight[:, None]).sum() / (4 * norms[1])
    parts = CLASS_WEIGHT * classes, BOX_WEIGHT * box, DISTANCE_WEIGHT * dfl
    return Losses(parts[0] + parts[1] + parts[2], *parts, count)
