"""Signed distance fields of simple solids, on torch tensors. Negative inside, mm.

All functions take coordinates x, y, z as tensors that broadcast against each other and give the
distance in the broadcast shape. "Distance" is exact near the surface and approximate elsewhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Vec = tuple[float, float, float]
Coordinates = tuple[Tensor, Tensor, Tensor]


def ellipsoid(p: Coordinates, centre: Vec, radii: Vec) -> Tensor:
    """Ellipsoid with semi-axes `radii` along x, y, z."""
    a, b, c = ((v - m) / r for v, m, r in zip(p, centre, radii, strict=True))
    length = torch.sqrt(a * a + b * b + c * c + 1e-9)
    slope = torch.sqrt((a / radii[0]) ** 2 + (b / radii[1]) ** 2 + (c / radii[2]) ** 2 + 1e-9)
    return length * (length - 1.0) / slope


def sphere(p: Coordinates, centre: Vec, radius: float) -> Tensor:
    """Sphere."""
    x, y, z = (v - m for v, m in zip(p, centre, strict=True))
    return torch.sqrt(x * x + y * y + z * z + 1e-9) - radius


def capsule(p: Coordinates, start: Vec, end: Vec, radius: float, radius_end: float | None = None) -> Tensor:
    """Rod with round ends from `start` to `end`; its radius changes linearly to `radius_end`."""
    d = [e - s for s, e in zip(start, end, strict=True)]
    x, y, z = (v - s for v, s in zip(p, start, strict=True))
    t = ((x * d[0] + y * d[1] + z * d[2]) / (d[0] ** 2 + d[1] ** 2 + d[2] ** 2)).clamp_(0.0, 1.0)
    x, y, z = x - t * d[0], y - t * d[1], z - t * d[2]
    distance = torch.sqrt(x * x + y * y + z * z + 1e-9)
    if radius_end is None:
        return distance - radius
    return distance - (radius + t * (radius_end - radius))


def blend(parts: Sequence[Tensor], softness_mm: float) -> Tensor:
    """Union of solids with rounded grooves: -k log(sum(exp(-d / k)))."""
    total = torch.exp(parts[0] * (-1.0 / softness_mm))
    for part in parts[1:]:
        total = total + torch.exp(part * (-1.0 / softness_mm))
    return torch.log(total.clamp_min_(1e-12)).mul_(-softness_mm)


def smooth_step(value: Tensor, centre: float, width: float) -> Tensor:
    """0 below, 1 above `centre`, in a logistic step of about 4 x `width`."""
    return torch.sigmoid((value - centre) * (1.0 / width))
