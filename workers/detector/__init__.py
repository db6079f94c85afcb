"""The door to the detector: torch is imported behind it, when a detector is loaded."""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hipnode.errors import HipnodeError
from hipnode.packages import ModelPackage

if TYPE_CHECKING:
    from workers.detector.inference import DamoYoloDetector


class WorkerExtraMissing(HipnodeError):
    """What was asked for needs the worker extra."""


def need_torch() -> None:
    """Raise a sentence where torch is not installed."""
    if find_spec("torch") is None:
        raise WorkerExtraMissing(
            "This command needs torch: install hipnode[worker] (see the README on its size)."
        )


def find_device(name: str) -> None:
    """Raise DeviceMissing unless the device called "cpu" or "cuda:N" is there."""
    from workers.detector import inference  # torch starts here

    inference.find_device(name)


def load_detector(
    package: ModelPackage,
    device: str = "cpu",
    precision: str = "auto",
    *,
    batch_size: int | None = None,
    threads: int | None = None,
) -> "DamoYoloDetector":
    """The detector of a model package on one device, warmed up. Load it once per process.

    device: "cpu" or "cuda:N"; precision: "auto", "fp32", "bf16" or "fp16" (CUDA only)
    batch_size: films through the network at once; None (or 0) chooses by device
    threads: CPU threads of this process; None leaves torch's choice, one per core
    Raises PackageError, DeviceMissing, SettingsError.
    """
    # Threads of torch that wait for each other by spinning lose most of a CPU they share: beside
    # other busy processes on 2 cores a film took 2.1 to 2.9 s, and 0.4 s when they sleep instead.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    from workers.detector.inference import detector_of  # torch starts here

    return detector_of(package, device=device, precision=precision, batch_size=batch_size, threads=threads)
