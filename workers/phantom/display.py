"""From detector signal to a picture: log, percentiles, tone, edge boost, field, grain, collimation."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.phantom.projection import blur
from workers.phantom.texture import cloud

#: width of the picture that pixel sizes below are meant for; others scale with it
REFERENCE_COLUMNS = 512


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
            gate *= torch.sigmoid((column * nx + row * ny - c) * (2.0 / self.softness_px))
        return gate


def draw_collimation(
    rng: np.random.Generator, rows: int, columns: int, keep: tuple[float, float]
) -> Collimation:
    """0 to 4 blades; none comes near `keep`, the hip centre (column, row)."""
    edges: list[tuple[float, float, float]] = []
    if rng.random() < 0.65:
        tilt = float(rng.normal(0, 0.012))
        for k in range(4):
            share = float(abs(rng.normal(0, 0.05)))
            if rng.random() < 0.25:
                share = float(rng.uniform(0.05, 0.20))
            if rng.random() < 0.3:
                continue
            nx, ny = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)][k]
            nx, ny = nx - ny * tilt, ny + nx * tilt
            extent = columns if k < 2 else rows
            corner = (0.0 if nx > 0 else columns * abs(nx)) * (1 if nx > 0 else -1) + (
                -rows if ny < -0.5 else 0.0
            )
            limit = keep[0] * nx + keep[1] * ny - 0.40 * columns
            edges.append((nx, ny, min(corner + share * extent, limit)))
    white = bool(rng.random() < 0.18)
    softness = float(np.exp(rng.uniform(math.log(0.8), math.log(5.0))))
    return Collimation(tuple(edges), white, softness * columns / REFERENCE_COLUMNS)


def develop(
    signal: Tensor, opening: Tensor, rng: np.random.Generator, pitch_mm: float
) -> tuple[Tensor, dict[str, float]]:
    """Picture 0..1 with bone bright from the detector signal; also what was drawn.

    Percentiles are taken inside the open field, as a good system does, with jitter.
    """
    rows, columns = signal.shape
    density = -torch.log(signal.clamp_min(2e-3))
    sample = density[::4, ::4][opening[::4, ::4] > 0.5]
    limits = torch.tensor([float(rng.uniform(0.003, 0.03)), float(rng.uniform(0.975, 0.998))])
    low, high = (float(v) for v in torch.quantile(sample, limits))
    value = ((density - low) / max(high - low, 0.05)).clamp_min(-1.0)
    if rng.random() < 0.7:  # unsharp and multi-scale contrast
        sharp = float(rng.uniform(0.0, 1.6))
        value = value + sharp * (value - blur(value, float(rng.uniform(0.5, 2.5)) / pitch_mm))
    middle = float(rng.uniform(0.0, 1.0))
    value = value + middle * (value - blur(value, float(rng.uniform(3.0, 9.0)) / pitch_mm))
    wide = float(rng.uniform(0.25, 0.85))
    coarse = blur(value, float(rng.uniform(14.0, 40.0)) / pitch_mm)
    value = value - wide * (coarse - 0.5)
    ends = torch.quantile(value[::4, ::4][opening[::4, ::4] > 0.5], limits)
    value = ((value - ends[0]) / (ends[1] - ends[0]).clamp_min(0.05)).clamp_min(-0.6)
    if rng.random() < 0.7:
        column = torch.linspace(-1, 1, columns)[None, :]
        row = torch.linspace(-1, 1, rows)[:, None]
        k = rng.normal(0, 0.06, 5).tolist()
        value = value + k[0] * column + k[1] * row + k[2] * column**2 + k[3] * row**2 + k[4] * column * row
    gamma = float(np.exp(rng.normal(0.0, 0.22)))
    if rng.random() < 0.35:
        gain, centre = float(rng.uniform(3.0, 7.0)), float(rng.uniform(0.4, 0.65))
        value = torch.sigmoid((value - centre) * gain)
        foot, head = 1 / (1 + math.exp(gain * centre)), 1 / (1 + math.exp(-gain * (1 - centre)))
        value = (value - foot) / (head - foot)
    # a soft toe and shoulder instead of clipping: nothing of the body is pure black or white
    value = value - torch.nn.functional.softplus((value - 0.95) * 8.0) * 0.11
    value = torch.nn.functional.softplus(value * 12.0) / 12.0
    black = float(rng.uniform(0.03, 0.14))
    white = float(rng.uniform(0.58, 1.0))
    picture = black * torch.sigmoid((density + 1.9) * 3.0) + (white - black) * value.clamp_min(1e-4).pow(
        gamma
    )
    grain = float(np.exp(rng.uniform(math.log(0.005), math.log(0.028))))
    noise = torch.from_numpy(rng.standard_normal((rows, columns), dtype=np.float32))
    power = float(rng.uniform(0.5, 1.5))
    finer = columns / REFERENCE_COLUMNS  # grain belongs to the film, so that shrinking gives the same
    picture = picture + grain * finer * noise * (picture.clamp(0.02, 1.5) / 0.45).pow(power)
    if rng.random() < 0.3:
        picture = blur(picture, float(rng.uniform(0.2, 0.9)) * finer)
    if rng.random() < 0.3:
        picture = picture * torch.exp(0.12 * cloud(rng, rows, columns, 3, 1, 1.0))
    drawn = {
        "gamma": gamma,
        "black": black,
        "white": white,
        "grain": grain,
        "window_low": low,
        "window_high": high,
    }
    return picture.clamp_(0.0, 1.0), drawn


def close_blades(
    picture: Tensor, collimation: Collimation, opening: Tensor, rng: np.random.Generator
) -> Tensor:
    """The picture with what lies under the blades made dark or white."""
    level = float(rng.uniform(0.95, 1.0)) if collimation.white else float(rng.uniform(0.0, 0.05))
    return picture * opening + level * (1.0 - opening)
