"""Overlaps and distances of boxes (column_min, row_min, column_max, row_max), in torch."""

import torch
from torch import Tensor

EPS = 1e-6


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes; a union under 1e-6 counts as 1e-6."""
    a, b = a[:, None], b[None]
    intersection = _intersection(a, b)
    return intersection / (_area(a) + _area(b) - intersection).clamp(min=EPS)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """(n,) generalised IoU of box i of (n, 4) with box i of (n, 4), in -1..1 (Rezatofighi 2019)."""
    intersection = _intersection(a, b)
    union = (_area(a) + _area(b) - intersection).clamp(min=EPS)
    hull = torch.cat([torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])], -1)
    hull_area = _area(hull).clamp(min=EPS)
    return intersection / union - (hull_area - union) / hull_area


def distances_to(points: Tensor, boxes: Tensor, largest: float, margin: float = 0.1) -> Tensor:
    """(n, 4) left, top, right, bottom distance from points (n, 2) to box edges, in 0..largest - margin.

    Points and boxes share one unit; the distances come in it. With strides as the unit these are
    the targets of the distribution focal loss.
    """
    raw = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], -1)
    return raw.clamp(min=0, max=largest - margin)
