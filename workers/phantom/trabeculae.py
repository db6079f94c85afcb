"""The trabecular pattern of the femur as a map of bone volume fraction seen from in front."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from workers.phantom.femur import Femur
from workers.phantom.fields import smooth_step
from workers.phantom.filters import cloud, normal

Window = tuple[float, float, float, float]

#: the trabecular map covers this part of the neck frame: x from, x to, y from (top), y to (bottom), mm
MAP_MM: Window = (-40.0, 88.0, 44.0, -236.0)
MAP_STEP_MM = 0.5


def trabecular_map(femur: Femur, rng: np.random.Generator) -> Tensor:
    """Bone volume fraction seen from in front, (rows, columns) over MAP_MM in the neck frame.

    Principal compressive group (calcar to the top of the head), principal tensile group (an arch over
    the neck), trochanteric group; Ward's triangle between them nearly empty; yellow marrow in the shaft.
    """
    x0, x1, y0, y1 = MAP_MM
    columns, rows = int((x1 - x0) / MAP_STEP_MM), int((y0 - y1) / MAP_STEP_MM)
    x = (x0 + (torch.arange(columns) + 0.5) * MAP_STEP_MM)[None, :]
    y = (y0 - (torch.arange(rows) + 0.5) * MAP_STEP_MM)[:, None]
    nx, ny = femur.neck_axis
    length, radius = femur.neck_length, femur.head_radius
    along, across = x * nx + y * ny, x * -ny + y * nx
    in_head = torch.sigmoid((radius + 1.0 - torch.sqrt(x * x + y * y)) * 0.35)
    in_shaft = torch.sigmoid((femur.lesser_level + 4.0 - y) * 0.12)
    in_trochanter = smooth_step(x, femur.offset - 2.0, 4.0) * (1.0 - in_shaft)
    ward = torch.exp(-(((along - 0.80 * length) / 11.0).square() + ((across + 1.5) / 7.5).square()))
    base = femur.bvf_neck + (femur.bvf_head - femur.bvf_neck) * in_head
    base = base + (femur.bvf_trochanter - base) * in_trochanter
    base = base + (femur.bvf_ward - base) * ward.clamp_max(1.0)
    base = base + (0.012 - base) * in_shaft
    # compressive group: a fan out of the calcar
    cx, cy = femur.offset - 0.9 * femur.shaft_radius, femur.lesser_level + 2.0
    fan = torch.atan2(x - cx, y - cy)
    reach = torch.sqrt((x - cx).square() + (y - cy).square())
    axis = math.atan2(-2.0 - cx, radius - cy)
    compressive = (
        torch.exp(-(((fan - axis) / 0.16).square())) * smooth_step(reach, 12.0, 5.0) * (1.0 - in_shaft)
    )
    # tensile group: circles about a point below the neck
    qx, qy = 0.45 * femur.offset, femur.neck_base[1] - 20.0
    arch = torch.sqrt((x - qx).square() + (y - qy).square())
    turn = torch.atan2(x - qx, y - qy)
    tensile = torch.exp(-(((arch - 0.86 * (femur.neck_half_width + 22.0)) / 5.0).square())) * torch.exp(
        -(turn / 1.3).square()
    )
    group = float(rng.uniform(0.1, 0.9))
    base = base * (1.0 + group * (0.5 * compressive + 0.45 * tensile))
    streak = float(rng.uniform(0.05, 0.45))
    grain = float(rng.uniform(0.03, 0.13))
    spacing = float(rng.uniform(0.7, 1.3))
    lines = _streaks(rng, fan * 45.0 / spacing, reach / 14.0) * (0.35 + compressive)
    arches = _streaks(rng, arch / spacing, turn * 4.0) * (0.25 + tensile)
    wild = cloud(rng, rows, columns, 28, 4, float(rng.uniform(0.6, 0.95)))
    factor = 1.0 + streak * 0.5 * (lines + arches) + grain * wild
    return (base * factor.clamp(0.1, 3.0)).clamp_(0.0, 0.7)


def _streaks(rng: np.random.Generator, across: Tensor, along: Tensor) -> Tensor:
    """Noise with one unit per streak `across` and one unit per streak length `along`."""
    table = normal(rng, 64, 96)[None, None]
    u = torch.remainder(across * (2.0 / 96.0), 2.0) - 1.0
    v = torch.remainder(along * (2.0 / 64.0), 2.0) - 1.0
    u, v = torch.broadcast_tensors(u, v)
    grid = torch.stack([u, v], dim=-1)[None]
    return functional.grid_sample(table, grid, mode="bilinear", padding_mode="border", align_corners=False)[
        0, 0
    ]


def look_up(pattern: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of the trabecular map at neck-frame x, y (same shape), mm."""
    x0, x1, y0, y1 = MAP_MM
    grid = torch.stack([(x - x0) * (2.0 / (x1 - x0)) - 1.0, (y0 - y) * (2.0 / (y0 - y1)) - 1.0], dim=-1)[None]
    return functional.grid_sample(
        pattern[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
