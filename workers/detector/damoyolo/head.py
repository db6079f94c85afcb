"""The head: class scores and box distances at every point of three levels ("ZeroHead").

Source: tinyvision/DAMO-YOLO, damo/base_models/heads/zero_head.py.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
REG_MAX = 16  # distances of 0..16 strides, hence 17 bins
PRIOR = 0.01  # score of an untrained class


class HeadOutputs(NamedTuple):
    """What the head says at each of n points, before any decoding. This is what losses need.

    Points run level by level (strides 8, 16, 32), within a level row by row:
    n = h/8*w/8 + h/16*w/16 + h/32*w/32.

    class_logits: (b, n, classes), before the sigmoid
    box_logits: (b, n, 4, 17), before the softmax over the bins, the level's scale already
        multiplied on; sides are left, top, right, bottom, bins are distances of 0..16 strides.
        At least float32, also under autocast.
    points: (n, 2) column, row of each point in input pixels, without a half-cell offset
    strides: (n,) input pixels per stride unit at each point
    """

    class_logits: Tensor
    box_logits: Tensor
    points: Tensor
    strides: Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


def level_points(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """(height * width, 2) column and row of a level's cells in input pixels: (x * s, y * s)."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype) * stride
    columns = torch.arange(width, device=like.device, dtype=like.dtype) * stride
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([column.reshape(-1), row.reshape(-1)], 1)


def boxes_of(box_logits: Tensor, points: Tensor, strides: Tensor, project: Tensor) -> Tensor:
    """(b, n, 4) column_min, row_min, column_max, row_max in input pixels, not clipped.

    box_logits (b, n, 4, 17), points (n, 2), strides (n,) as in HeadOutputs; project (17,) is
    the distance each bin stands for, in strides. Differentiable in box_logits.
    """
    # A product and a sum, not a matrix product: autocast would run that one in bf16.
    distances = (box_logits.softmax(-1) * project.to(box_logits.dtype)).sum(-1)  # (b, n, 4)
    distances = distances * strides[:, None]
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


class Integral(nn.Module):
    """Holds `project`, the distances 0..16 the bins stand for (a buffer of upstream's checkpoint)."""

    project: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("project", torch.arange(bins, dtype=torch.float32))


class Scale(nn.Module):
    """One learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """The input times the factor."""
        return x * self.scale


class ZeroHead(nn.Module):
    """One 3x3 convolution per level for classes and one for boxes; levels share nothing."""

    def __init__(self, num_classes: int, channels: Sequence[int], strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.bins = REG_MAX + 1
        self.integral = Integral(self.bins)
        self.gfl_cls = nn.ModuleList(nn.Conv2d(c, num_classes, 3, padding=1) for c in channels)
        self.gfl_reg = nn.ModuleList(nn.Conv2d(c, 4 * self.bins, 3, padding=1) for c in channels)
        self.scales = nn.ModuleList(Scale() for _ in channels)
        self._initialise()

    def _initialise(self) -> None:
        for layers, bias in ((self.gfl_cls, -math.log((1 - PRIOR) / PRIOR)), (self.gfl_reg, 0.0)):
            for layer in layers:
                nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
                nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def outputs(self, features: Sequence[Tensor]) -> HeadOutputs:
        """The undecoded answer for feature maps [(b, c, h/s, w/s) per level]."""
        classes, boxes, points, strides = [], [], [], []
        for i, (x, stride) in enumerate(zip(features, self.strides, strict=True)):
            batch, _, height, width = x.shape
            logits = at_least_float32(self.gfl_cls[i](x))  # (b, classes, h, w)
            # Cast first: a bf16 map times a 0-d float32 scale would stay bf16.
            sides = self.scales[i](at_least_float32(self.gfl_reg[i](x)))  # (b, 4 * 17, h, w)
            classes.append(logits.flatten(2).transpose(1, 2))
            boxes.append(sides.flatten(2).transpose(1, 2).reshape(batch, height * width, 4, self.bins))
            points.append(level_points(height, width, stride, sides))
            strides.append(sides.new_full((height * width,), stride))
        return HeadOutputs(torch.cat(classes, 1), torch.cat(boxes, 1), torch.cat(points), torch.cat(strides))

    def decode(self, outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
        """(scores (b, n, classes) in 0..1, boxes (b, n, 4) in input pixels) of the raw outputs."""
        boxes = boxes_of(outputs.box_logits, outputs.points, outputs.strides, self.integral.project)
        return outputs.class_logits.sigmoid(), boxes

    def forward(self, features: Sequence[Tensor]) -> HeadOutputs | tuple[Tensor, Tensor]:
        """HeadOutputs in training mode, (scores, boxes) in eval mode."""
        outputs = self.outputs(features)
        return outputs if self.training else self.decode(outputs)
