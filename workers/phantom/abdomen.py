"""Bowel gas, stool and uneven soft tissue: what lies over the pelvis on nearly every film."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from workers.phantom.filters import cloud
from workers.phantom.layers import Layers
from workers.phantom.rays import Geometry

Path = list[tuple[float, float]]
#: where bowel runs on a film, mm from the middle between the hips
COURSES: dict[str, Path] = {
    "caecum": [(-88.0, 40.0), (-102.0, 75.0), (-110.0, 120.0), (-112.0, 175.0)],
    "descending": [(112.0, 180.0), (108.0, 125.0), (92.0, 80.0), (62.0, 52.0)],
    "sigmoid": [(62.0, 52.0), (34.0, 66.0), (8.0, 48.0), (-22.0, 62.0), (-10.0, 30.0)],
    "rectum": [(0.0, 42.0), (4.0, 18.0), (-2.0, -6.0), (0.0, -22.0)],
}


def window(x: Tensor, y: Tensor, cx: float, cy: float, reach: float) -> tuple[slice, slice] | None:
    """Row and column slices within `reach` mm of (cx, cy)."""
    columns = ((x[0] - cx).abs() < reach).nonzero()
    rows = ((y[:, 0] - cy).abs() < reach).nonzero()
    if not len(columns) or not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _along(course: Path, share: float) -> tuple[float, float]:
    at = share * (len(course) - 1)
    k = min(int(at), len(course) - 2)
    f = at - k
    return (
        course[k][0] * (1 - f) + course[k + 1][0] * f,
        course[k][1] * (1 - f) + course[k + 1][1] * f,
    )


def _bubble(
    gas: Tensor,
    wall: Tensor,
    x: Tensor,
    y: Tensor,
    rng: np.random.Generator,
    at: tuple[float, float],
    size: float,
) -> None:
    """Blow one bubble of about `size` mm radius into `gas` (mm); its wall into `wall`."""
    stretch = float(np.exp(rng.normal(0.0, 0.25)))
    a, b = size * stretch, size / stretch
    turn, phase, lobes = rng.uniform(0, math.pi), rng.uniform(0, 6.3, 2), rng.uniform(0.0, 0.16, 2)
    where = window(x, y, at[0], at[1], 1.5 * max(a, b))
    if where is None:
        return
    dx, dy = x[:, where[1]] - at[0], y[where[0]] - at[1]
    u = (dx * math.cos(turn) + dy * math.sin(turn)) / a
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / b
    angle = torch.atan2(v, u)
    bulge = 1.0 + lobes[0] * torch.sin(2.0 * angle + phase[0]) + lobes[1] * torch.sin(3.0 * angle + phase[1])
    radius = torch.sqrt(u * u + v * v + 1e-9) / bulge
    flat = float(rng.uniform(2.0, 5.0))
    deep = (1.0 - radius.pow(flat)).clamp_min(0.0).pow(1.0 / flat) * (
        float(rng.uniform(0.7, 1.6)) * min(a, b)
    )
    gas[where] = torch.maximum(gas[where], deep)
    rim = torch.exp(-(((radius - 1.0) * (size / 2.2) - 0.6).square()))
    wall[where] = torch.maximum(wall[where], rim * float(rng.uniform(1.0, 4.0)))


def add_bowel(layers: Layers, geometry: Geometry, rng: np.random.Generator) -> dict[str, int]:
    """Gas along colon and rectum, small bowel loops, mottled stool. Gives the number of bubbles of each."""
    x, y = geometry.plane(30.0)
    gas, wall = torch.zeros(geometry.rows, geometry.columns), torch.zeros(geometry.rows, geometry.columns)
    stool = torch.zeros_like(gas)
    counts: dict[str, int] = {}
    gassy = float(rng.beta(1.8, 1.0))
    for name, course in COURSES.items():
        shift, spread = rng.normal(0.0, 9.0, 2), rng.normal(0.0, 6.0, (len(course), 2))
        bent = [
            (cx + shift[0] + d[0], cy + shift[1] + d[1]) for (cx, cy), d in zip(course, spread, strict=True)
        ]
        if rng.random() < 0.3 + 0.65 * gassy:
            count = int(rng.integers(2, 5 + int(12 * gassy)))
            start, caliber = float(rng.uniform(0.0, 0.7)), float(np.exp(rng.normal(2.25, 0.35)))
            for k in range(count):
                at = _along(bent, min(1.0, start + k * 0.9 * caliber / 150.0))
                _bubble(gas, wall, x, y, rng, (at[0] + rng.normal(0, 5.0), at[1] + rng.normal(0, 4.0)),
                        caliber * float(np.exp(rng.normal(0.0, 0.3))))  # fmt: skip
            counts[name] = count
        if rng.random() < 0.45:
            for share in np.linspace(float(rng.uniform(0, 0.5)), 1.0, 6):
                cx, cy = _along(bent, float(share))
                where = window(x, y, cx, cy, 40.0)
                if where is not None:
                    d = (x[:, where[1]] - cx).square() + (y[where[0]] - cy).square()
                    stool[where] = torch.maximum(stool[where], torch.exp(-d / 16.0**2))
            counts[name + " stool"] = 6
    if rng.random() < gassy:
        loops = int(rng.integers(2, 14))
        for _ in range(loops):
            cx, cy, r, turn = (
                rng.uniform(-75, 75),
                rng.uniform(35, 160),
                rng.uniform(12, 38),
                rng.uniform(0, 6.3),
            )
            size = float(rng.uniform(4.5, 10.0))
            for k in range(int(rng.integers(3, 9))):
                angle = turn + k * 1.3 * size / r
                _bubble(gas, wall, x, y, rng, (cx + r * math.cos(angle), cy + r * math.sin(angle)), size)
        counts["small bowel"] = loops
    if stool.max() > 0:
        grain = cloud(rng, geometry.rows, geometry.columns, 40, 3, 0.9)
        stool = stool * ((grain - 0.1).clamp_min(0.0) * float(rng.uniform(4.0, 12.0)) - 1.5)
    strength = float(rng.uniform(0.8, 1.5))
    layers["muscle"].sub_((gas * strength + stool - wall).mul_(0.9))
    layers["muscle"].add_(
        _loops(x, y, rng, geometry), alpha=float(np.exp(rng.uniform(math.log(2.0), math.log(11.0))))
    )
    return counts


def _loops(x: Tensor, y: Tensor, rng: np.random.Generator, geometry: Geometry) -> Tensor:
    """Collapsed bowel: winding walls with gas and fat between them, over the upper pelvis; SD about 1."""
    rows, columns = geometry.rows, geometry.columns
    per_film = columns * geometry.pitch_mm / geometry.magnification
    winding = cloud(rng, rows, columns, max(3, round(per_film / float(rng.uniform(28.0, 50.0)))), 3, 0.55)
    walls = torch.exp(-((winding * (1.0 / 0.28)).square())) - 0.35
    patchy = torch.sigmoid(3.0 * cloud(rng, rows, columns, 3, 2, 0.6) + 0.5)
    return (
        walls
        * patchy
        * torch.sigmoid((y - float(rng.uniform(5.0, 45.0))) / 14.0)
        * torch.sigmoid((130.0 - x.abs()) / 12.0)
    )


def add_mottle(layers: Layers, tissue: Tensor, rng: np.random.Generator) -> float:
    """Uneven muscle and fat: clouds in proportion to the tissue (mm). Gives the amount drawn."""
    rows, columns = tissue.shape
    amount = float(np.exp(rng.uniform(math.log(0.008), math.log(0.022))))
    pattern = cloud(rng, rows, columns, 5, 6, float(rng.uniform(0.5, 0.72)))
    layers["muscle"].add_(pattern * tissue, alpha=amount)
    return amount


def add_folds(layers: Layers, geometry: Geometry, rng: np.random.Generator) -> int:
    """Skin and muscle edges: long soft steps that may cross neck and trochanter. Gives the count."""
    count = int(rng.integers(0, 7))
    x, y = geometry.plane(0.0)
    x, y = x[:, ::2], y[::2]  # half the resolution is enough for soft edges
    total = torch.zeros(y.shape[0], x.shape[1])
    for _ in range(count):
        turn = float(rng.normal(0.0, 0.5)) if rng.random() < 0.6 else float(rng.uniform(0, math.pi))
        cx, cy = float(rng.uniform(-190, 190)), float(rng.uniform(-170, 120))
        bend = float(rng.normal(0, 0.003))
        dx, dy = x - cx, y - cy
        along = dx * math.cos(turn) + dy * math.sin(turn)
        across = dy * math.cos(turn) - dx * math.sin(turn) + bend * along.square()
        width = float(np.exp(rng.uniform(math.log(0.6), math.log(5.0))))
        fade = float(np.exp(rng.uniform(math.log(6.0), math.log(90.0))))
        reach = torch.exp(-((along / float(rng.uniform(40, 160))).square()) - across.clamp_min(0.0) / fade)
        step = torch.sigmoid(across * (2.0 / width)) * reach
        total.add_(step, alpha=float(rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 6.0)))
    wide = functional.interpolate(
        total[None, None], size=(geometry.rows, geometry.columns), mode="bilinear", align_corners=False
    )[0, 0]
    layers["muscle"].add_(wide)
    return count
