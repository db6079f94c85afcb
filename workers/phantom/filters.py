"""Blurs and noise fields that are the same for the same seed, whatever the threads."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def normal(rng: np.random.Generator, rows: int, columns: int) -> Tensor:
    """White noise (rows, columns) on the present device; drawn on the CPU, so that it is the same everywhere."""
    return torch.from_numpy(rng.standard_normal((rows, columns), dtype=np.float32)).to(
        torch.get_default_device()
    )


def cloud(rng: np.random.Generator, rows: int, columns: int, cells: int, octaves: int, fall: float) -> Tensor:
    """Smooth random field (rows, columns) of SD about 1; the coarsest octave has `cells` cells a side."""
    total = torch.zeros(rows, columns)
    power = 0.0
    for octave in range(octaves):
        n = cells * 2**octave
        if n > min(rows, columns):
            break
        fine = normal(rng, n + 2, n + 2)[None, None]
        if 8 * n < min(rows, columns):  # smooth by bicubic first, then linear: a quarter of the work
            fine = functional.interpolate(fine, size=(4 * n, 4 * n), mode="bicubic", align_corners=True)
            mode = "bilinear"
        else:
            mode = "bicubic"
        fine = functional.interpolate(fine, size=(rows, columns), mode=mode, align_corners=True)[0, 0]
        weight = fall**octave
        total.add_(fine, alpha=weight)
        power += weight * weight
    return total / math.sqrt(max(power, 1e-6) * 0.6)


def blur(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of a (rows, columns) picture, edges repeated; wide ones on a smaller copy."""
    if sigma_px < 0.05:
        return image
    shrink = max(1, int(sigma_px / 4.0))
    rows, columns = image.shape
    work = image[None, None]
    if shrink > 1:
        small = (max(4, rows // shrink), max(4, columns // shrink))
        work = functional.interpolate(work, size=small, mode="area")
        sigma_px = sigma_px * small[0] / rows
    radius = max(1, math.ceil(3.0 * sigma_px))
    radius = min(radius, work.shape[2] - 1, work.shape[3] - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma_px) ** 2)
    shares: list[float] = (taps / taps.sum()).tolist()
    work = _convolve(work[0, 0], shares, 0)
    work = _convolve(work, shares, 1)[None, None]
    if shrink > 1:
        work = functional.interpolate(work, size=(rows, columns), mode="bilinear", align_corners=False)
    return work[0, 0]


def _convolve(image: Tensor, taps: list[float], axis: int) -> Tensor:
    """Shifted sums in a fixed order: the same pixels whatever the number of threads."""
    radius = len(taps) // 2
    pad = (0, 0, radius, radius) if axis == 0 else (radius, radius, 0, 0)
    wide = functional.pad(image[None, None], pad, mode="replicate")[0, 0]
    size = image.shape[axis]
    total = wide.narrow(axis, radius, size) * taps[radius]
    for k in range(radius):
        pair = wide.narrow(axis, k, size) + wide.narrow(axis, 2 * radius - k, size)
        total.add_(pair, alpha=taps[k])
    return total
