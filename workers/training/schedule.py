"""Learning rate over iterations, and the moving average of the weights.

Written from tinyvision/DAMO-YOLO, damo/apis/detector_trainer.py and damo/utils/cosine_scheduler.py,
damo/utils/ema.py (numbers of both are tests).
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class CosineSchedule:
    """Quadratic warm-up from 0, half a cosine down, then a hold.

    base: learning rate at the end of the warm-up
    warmup, total, hold: iterations; the floor is reached at total - hold and kept
    floor_ratio: the floor as a share of base
    """

    base: float
    warmup: int
    total: int
    hold: int = 0
    floor_ratio: float = 0.05

    def at(self, iteration: int) -> float:
        """The learning rate of iteration 0, 1, ..."""
        if iteration < self.warmup:
            return self.base * (iteration / self.warmup) ** 2
        floor = self.base * self.floor_ratio
        end = self.total - self.hold
        if iteration >= end:
            return floor
        share = (iteration - self.warmup) / max(end - self.warmup, 1)
        return floor + (self.base - floor) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class EmaSchedule:
    """Momentum of the moving average: limit * (1 - exp(-i / ramp)); 0 at the first update, which copies."""

    limit: float = 0.9998
    ramp: float = 2000

    def at(self, iteration: int) -> float:
        """The momentum of update 0, 1, ..."""
        return self.limit * (1 - math.exp(-iteration / self.ramp))


class Ema:
    """A moving average over all floating entries of a model, BatchNorm statistics included.

    `model` is the averaged one, in eval mode; it is what is evaluated and shipped. Counters
    (num_batches_tracked) are copied.
    """

    def __init__(self, model: nn.Module, schedule: EmaSchedule) -> None:
        self.schedule = schedule
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, iteration: int) -> None:
        """Take in the model after `iteration` (0, 1, ...)."""
        momentum = self.schedule.at(iteration)
        averages, values = [], []
        now = model.state_dict()
        for key, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(now[key].detach())
            else:
                average.copy_(now[key])
        torch._foreach_lerp_(averages, values, 1 - momentum)
