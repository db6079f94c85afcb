"""From detector signal to a picture: log, percentiles, tone, edge boost, field, grain, collimation.

A look is how one maker's system develops films; it is drawn as a whole, then varied.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from workers.phantom.filters import blur, cloud, normal
from workers.phantom.random import truncated_normal


@dataclass(frozen=True)
class Look:
    """A chain of display processing. Lengths in mm on the detector."""

    name: str
    unsharp: float  #: amount, structures under unsharp_mm
    unsharp_mm: float
    middle: float  #: amount, structures under middle_mm
    middle_mm: float
    flatten: float  #: share of the coarse picture taken away
    flatten_mm: float
    equalise: float  #: share of local histogram equalisation
    median: float  #: grey the middle of the body is brought to
    shoulder: float  #: gain of a sigmoid; 0 for none
    black: float  #: grey of the thinnest tissue
    white: float  #: grey of the densest bone
    grain: float  #: SD of near-white grain at mid grey, for a picture of 1024 columns
    grain_power: float
    softness_px: float  #: blur of the finished picture, for 1024 columns


def draw_look(rng: np.random.Generator) -> Look:
    """One of four makers' looks, varied. Names say what is done, not who does it."""
    kind = str(rng.choice(["plain", "sharp", "multiscale", "equalised"], p=[0.3, 0.25, 0.3, 0.15]))
    u = rng.uniform
    unsharp = {
        "plain": u(0.0, 0.3),
        "sharp": u(0.4, 1.1),
        "multiscale": u(0.0, 0.5),
        "equalised": u(0.0, 0.5),
    }[kind]
    middle = {
        "plain": u(0.1, 0.6),
        "sharp": u(0.2, 0.8),
        "multiscale": u(0.6, 1.5),
        "equalised": u(0.1, 0.7),
    }[kind]
    flatten = {
        "plain": u(0.2, 0.5),
        "sharp": u(0.3, 0.65),
        "multiscale": u(0.45, 0.8),
        "equalised": u(0.2, 0.5),
    }
    return Look(
        name=kind,
        unsharp=float(unsharp),
        unsharp_mm=float(u(0.7, 2.5)),
        middle=float(middle),
        middle_mm=float(u(4.0, 11.0)),
        flatten=float(flatten[kind]),
        flatten_mm=float(u(24.0, 60.0)),
        equalise=float(u(0.25, 0.6)) if kind == "equalised" else 0.0,
        median=truncated_normal(rng, 0.39, 0.055, 0.26, 0.58),
        shoulder=float(u(3.0, 6.0)) if rng.random() < 0.3 else 0.0,
        black=float(u(0.04, 0.16)),
        white=float(u(0.64, 0.98)),
        grain=float(np.exp(rng.normal(math.log(0.0225), 0.2))),
        grain_power=float(u(0.9, 1.5)),
        softness_px=float(u(0.28, 0.48)),
    )


def develop(
    signal: Tensor, inside: Tensor, look: Look, rng: np.random.Generator, pitch_mm: float
) -> tuple[Tensor, dict[str, float]]:
    """Picture 0..1 with bone bright from the detector signal; also what was drawn.

    inside: (rows, columns), 1 where the body lies in the open field; percentiles are taken there, as a good
    system does, with jitter.
    """
    rows, columns = signal.shape
    density = -torch.log(signal.clamp_min(2e-3))
    limits = torch.tensor([float(rng.uniform(0.003, 0.02)), float(rng.uniform(0.98, 0.998))])
    chosen = inside[::4, ::4] > 0.5
    low, high = _ends(density, chosen, limits)
    value = ((density - low) / max(high - low, 0.05)).clamp_(-1.2, 2.5)
    if look.flatten > 0:
        coarse = blur(value.clamp(-0.3, 1.3), look.flatten_mm / pitch_mm)
        value = value - look.flatten * (coarse - 0.5)
    if look.middle > 0.02:
        value = value + look.middle * (value - blur(value, look.middle_mm / pitch_mm))
    if look.unsharp > 0.02:
        value = value + look.unsharp * (value - blur(value, look.unsharp_mm / pitch_mm))
    low2, high2 = _ends(value, chosen, limits)
    value = ((value - low2) / max(high2 - low2, 0.05)).clamp_min(-0.8)
    if look.equalise > 0:
        value = (1.0 - look.equalise) * value + look.equalise * _equalised(value, chosen)
    value = value + _field(rng, rows, columns)
    if look.shoulder > 0:
        value = _sigmoid(value, look.shoulder, float(rng.uniform(0.42, 0.6)))
    value = _soft_ends(value)
    thin = torch.sigmoid((density - low + 0.5) * 3.5)  # air around the body goes black
    value = value.clamp_min(1e-4)
    middle, _ = _ends(value, chosen, torch.tensor([0.5, 0.5]))
    wanted = (look.median - look.black) / (look.white - look.black)
    gamma = min(2.4, max(0.5, math.log(wanted) / math.log(min(max(middle, 0.05), 0.95))))
    picture = look.black * thin + (look.white - look.black) * value.pow(gamma)
    fine = columns / 1024.0
    # grain belongs to the film: shrinking it to half the size halves it
    sd = look.grain * max(fine, 0.55)
    picture = picture + sd * normal(rng, rows, columns) * (picture.clamp(0.02, 1.5) / 0.38).pow(
        look.grain_power
    )
    picture = blur(picture, look.softness_px * fine)
    return picture.clamp_(0.0, 1.0), {"window_low": low, "window_high": high, "gamma": gamma}


def _ends(value: Tensor, chosen: Tensor, limits: Tensor) -> tuple[float, float]:
    sample = value[::4, ::4][chosen]
    if len(sample) < 16:
        sample = value[::4, ::4].reshape(-1)
    low, high = torch.quantile(sample, limits).tolist()
    return low, high


def _sigmoid(value: Tensor, gain: float, centre: float) -> Tensor:
    """A sigmoid that keeps 0 and 1."""
    foot, head = 1 / (1 + math.exp(gain * centre)), 1 / (1 + math.exp(-gain * (1 - centre)))
    return (torch.sigmoid((value - centre) * gain) - foot) / (head - foot)


def _soft_ends(value: Tensor) -> Tensor:
    """A soft toe and shoulder instead of clipping: nothing of the body is pure black or white."""
    value = value - functional.softplus((value - 0.95) * 8.0) * 0.065
    return functional.softplus(value * 12.0) / 12.0


def _equalised(value: Tensor, chosen: Tensor) -> Tensor:
    """Each grey as its rank among the greys of the body, smoothed: a coarse histogram equalisation."""
    sample = value[::4, ::4][chosen]
    if len(sample) < 64:
        return value
    levels = torch.quantile(sample, torch.linspace(0.0, 1.0, 17)).contiguous()
    k = torch.searchsorted(levels, value.contiguous()).clamp(1, 16)
    low, high = levels[k - 1], levels[k]
    return ((k - 1) + ((value - low) / (high - low).clamp_min(1e-4)).clamp(-1.0, 1.5)) / 16.0


def _field(rng: np.random.Generator, rows: int, columns: int) -> Tensor:
    """An uneven field: plane, quadratic and a coarse cloud."""
    if rng.random() > 0.7:
        return torch.zeros(1, 1)
    column = torch.linspace(-1, 1, columns)[None, :]
    row = torch.linspace(-1, 1, rows)[:, None]
    k = (rng.normal(0, 1.0, 5) * [0.06, 0.05, 0.04, 0.04, 0.03]).tolist()
    field = k[0] * column + k[1] * row + k[2] * column**2 + k[3] * row**2 + k[4] * column * row
    return field + 0.03 * float(rng.random()) * cloud(rng, rows, columns, 3, 1, 1.0)


@dataclass(frozen=True)
class Collimation:
    """An open field inside the picture: half-planes (nx, ny, c), open where nx*col + ny*row > c px."""

    edges: tuple[tuple[float, float, float], ...]
    white: bool  #: unexposed parts shown white instead of black
    softness_px: float

    def opening(self, rows: int, columns: int) -> Tensor:
        """1 in the open field, 0 under the blades; (rows, columns)."""
        column = (torch.arange(columns, dtype=torch.float32) + 0.5)[None, :]
        row = (torch.arange(rows, dtype=torch.float32) + 0.5)[:, None]
        gate = torch.ones(rows, columns)
        for nx, ny, c in self.edges:
            gate = gate * torch.sigmoid((column * nx + row * ny - c) * (2.0 / self.softness_px))
        return gate


def draw_collimation(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    keep: tuple[float, float],
    reach_px: tuple[float, float],
    often: float,
) -> Collimation:
    """0 to 4 blades; none comes nearer to `keep` (column, row) than `reach_px` (across, down)."""
    edges: list[tuple[float, float, float]] = []
    if rng.random() < often:
        tilt = float(rng.normal(0, 0.012))
        for k in range(4):
            share = float(abs(rng.normal(0, 0.04)))
            if rng.random() < 0.2:
                share = float(rng.uniform(0.05, 0.18))
            if rng.random() < 0.35:
                continue
            nx, ny = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)][k]
            nx, ny = nx - ny * tilt, ny + nx * tilt
            extent = columns if k < 2 else rows
            corner = (0.0 if nx > 0 else columns * abs(nx)) * (1 if nx > 0 else -1) + (
                -rows if ny < -0.5 else 0.0
            )
            limit = keep[0] * nx + keep[1] * ny - reach_px[0 if k < 2 else 1]
            edges.append((nx, ny, min(corner + share * extent, limit)))
    white = bool(rng.random() < 0.1)
    softness = float(np.exp(rng.uniform(math.log(0.8), math.log(4.0))))
    return Collimation(tuple(edges), white, softness * columns / 512.0)


def close_blades(
    picture: Tensor, collimation: Collimation, opening: Tensor, rng: np.random.Generator
) -> Tensor:
    """The picture with what lies under the blades made dark or white."""
    level = float(rng.uniform(0.95, 1.0)) if collimation.white else float(rng.uniform(0.0, 0.05))
    return picture * opening + level * (1.0 - opening)
