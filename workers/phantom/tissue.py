"""Soft tissue: trunk, thighs and fat as elliptical columns with closed-form path lengths."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.phantom.random import truncated_normal


@dataclass(frozen=True)
class SoftTissue:
    """Sizes in mm. Thickness 160 to 260 mm at the hip, plus lateral fat."""

    trunk_half_width: float  #: muscle, from the midline
    trunk_half_depth: float
    thigh_half_width: float
    thigh_half_depth: float
    fat: float  #: lateral
    fat_front: float
    crotch: float  #: y of the perineum
    belly: float  #: growth of depth per mm upwards


def draw_tissue(rng: np.random.Generator, midline: float) -> SoftTissue:
    """A patient around the bones."""
    stout = float(rng.normal(0, 1))
    return SoftTissue(
        trunk_half_width=midline + truncated_normal(rng, 70.0 + 6 * stout, 8.0, 45.0, 110.0),
        trunk_half_depth=truncated_normal(rng, 92.0 + 12 * stout, 9.0, 66.0, 135.0),
        thigh_half_width=truncated_normal(rng, 76.0 + 8 * stout, 7.0, 52.0, 110.0),
        thigh_half_depth=truncated_normal(rng, 76.0 + 8 * stout, 8.0, 52.0, 110.0),
        fat=float(np.clip(np.exp(rng.normal(3.3 + 0.35 * stout, 0.4)), 8.0, 85.0)),
        fat_front=float(np.clip(np.exp(rng.normal(2.5 + 0.4 * stout, 0.4)), 4.0, 50.0)),
        crotch=truncated_normal(rng, -78.0, 14.0, -125.0, -48.0),
        belly=float(rng.uniform(-0.08, 0.18)),
    )


def _chord(offset: Tensor, half_width: Tensor | float, half_depth: Tensor | float) -> Tensor:
    return 2.0 * half_depth * torch.sqrt((1.0 - (offset / half_width).square()).clamp_min(0.0))


def lengths(tissue: SoftTissue, x: Tensor, y: Tensor, midline: float, lean: float) -> tuple[Tensor, Tensor]:
    """(muscle, fat) path lengths in mm for world x (1, columns), y (rows, 1) in the plane z = 0.

    lean: tangent of the leg's abduction.
    """
    middle = x + midline
    folded = middle.abs() - midline
    depth = tissue.trunk_half_depth * (1.0 + (y * (tissue.belly / 100.0)).clamp(-0.15, 0.25))
    bottom = torch.sigmoid((y - tissue.crotch + middle.abs() * 0.35) * (1.0 / 16.0)).sqrt()
    top = torch.sigmoid((25.0 - y) * (1.0 / 22.0)).sqrt()
    own = x - 14.0 + y.clamp_max(0.0) * lean
    other = folded - 14.0 + y.clamp_max(0.0) * 0.04
    off = torch.where(middle > 0, own, other)
    power = 5.0

    def joined(fat: float, front: float) -> Tensor:
        trunk = _chord(middle, tissue.trunk_half_width + fat, depth + front) * bottom
        taper = 1.0 + y.clamp(-260.0, 0.0) * 0.0006
        thigh = (
            _chord(off, (tissue.thigh_half_width + fat * 0.8) * taper, tissue.thigh_half_depth + front) * top
        )
        return (trunk.pow(power) + thigh.pow(power) + 1e-3).pow(1.0 / power)

    muscle = joined(0.0, 0.0)
    return muscle, (joined(tissue.fat, tissue.fat_front) - muscle).clamp_min(0.0)
