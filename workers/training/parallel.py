"""Several processes on one run, started by torchrun; one process is the same with nothing to do.

Each process takes its share of every batch, and gradients are averaged before each step. BatchNorm
statistics are each process's own; those of the first are kept. Losses are normalised per process.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """Which process this is (rank 0..size-1), and the talk between them."""

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> "World":
        """The world torchrun describes in RANK and WORLD_SIZE; a world of one without it."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("gloo", timeout=TIMEOUT)
        return cls(int(os.environ["RANK"]), size)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def average_gradients(self, model: nn.Module) -> None:
        """Every gradient becomes the mean over the processes."""
        if self.size == 1:
            return
        gradients = []
        for parameter in model.parameters():
            if parameter.grad is None:  # the same buckets everywhere, used or not
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([g.reshape(-1) for g in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        offset = 0
        for gradient in gradients:
            gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
            offset += gradient.numel()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)])
        distributed.all_reduce(votes)
        return bool(votes[0] > 0)

    def from_first(self, number: int) -> int:
        """The first process's number, in all of them."""
        if self.size == 1:
            return number
        value = torch.tensor([number], dtype=torch.int64)
        distributed.broadcast(value, 0)
        return int(value[0])
