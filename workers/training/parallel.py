"""Several processes on one run, started by torchrun; one process is the same with nothing to do.

Each process takes its share of every batch; DistributedDataParallel averages the gradients. On CUDA the
BatchNorms see the whole micro-batch (SyncBatchNorm); on CPUs, which torch has none for, each process's own,
and those of the first are kept.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=10)


CPU = torch.device("cpu")
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class World:
    """Which process this is (rank 0..size-1), its device, and the talk between them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def joined(cls, device: torch.device) -> "World":
        """The world torchrun describes in RANK and WORLD_SIZE; a world of one without it.

        device: on CUDA each process takes the GPU of its own LOCAL_RANK instead
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        return cls(int(os.environ["RANK"]), size, device)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def leave(self) -> None:
        """End the talk; nothing may be asked of the others afterwards."""
        if self.size > 1:
            distributed.destroy_process_group()

    def share(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training: itself, or wrapped so that gradients are averaged."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def prepared(self, model: _Module) -> _Module:
        """The model on the device, its BatchNorms common to all processes where that can be."""
        if self.size > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model.to(self.device)

    @staticmethod
    def quiet(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Within it a backward pass does not average, unless it is the last of the step."""
        if last or not isinstance(model, DistributedDataParallel):
            return nullcontext()
        return model.no_sync()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes of a value without gradient."""
        if self.size == 1:
            return value
        value = value.detach().clone().float()
        distributed.all_reduce(value)
        return value / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def from_first(self, number: int) -> int:
        """The first process's number, in all of them."""
        if self.size == 1:
            return number
        value = torch.tensor([number], dtype=torch.int64, device=self.device)
        distributed.broadcast(value, 0)
        return int(value[0])
