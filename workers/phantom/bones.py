"""Bones into layers: each solid marched along the rays, its spongiosa given a pattern."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from workers.phantom.breaks import Break, Piece
from workers.phantom.femur import Femur
from workers.phantom.layers import Layers
from workers.phantom.patient import Place
from workers.phantom.pelvis import HipBone
from workers.phantom.rays import Geometry, Slab
from workers.phantom.spine import Sacrum, Vertebra
from workers.phantom.trabeculae import look_up

STEP_MM, DEPTH_STEP_MM = 1.9, 3.4  #: lattice for the femur; the pelvis takes a coarser one


@dataclass(frozen=True, eq=False)
class Grain:
    """Two periodic tiles of noise that stand for spongiosa seen through: streaks and isotropic grain."""

    streak: Tensor  #: (size, size), SD 1, streaks along the rows
    cloud: Tensor
    streak_amount: float
    cloud_amount: float
    tile_mm: float = 96.0

    def at(self, x: Tensor, y: Tensor, turn_deg: float, shift: float) -> Tensor:
        """Factor on the bone volume fraction at (x, y) mm; streaks run at turn_deg from x."""
        c, s = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
        u, v = x * c + y * s + shift, y * c - x * s - 0.7 * shift
        half = 2.0 / self.tile_mm
        grid = torch.stack(torch.broadcast_tensors(u * half, v * half), dim=-1)
        grid = torch.remainder(grid + 1.0, 2.0) - 1.0
        tile = torch.stack([self.streak, self.cloud])[None]
        found = functional.grid_sample(
            tile, grid[None], mode="bilinear", padding_mode="border", align_corners=False
        )[0]
        factor = 1.0 + self.streak_amount * found[0] + self.cloud_amount * found[1]
        return factor.clamp(0.1, 3.0)


def draw_grain(rng: np.random.Generator) -> Grain:
    """Spongiosa of one patient: spectrum falling as a power of frequency, streaks of 1 to 3 mm."""
    size = 192
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    white = rng.standard_normal((2, size, size))
    power = float(rng.uniform(0.9, 1.5))
    fall = 1.0 / np.hypot(np.hypot(fx, fy), 0.02) ** power
    streak = np.exp(-((fx / 0.05) ** 2)) / np.hypot(fy, 0.06) ** float(rng.uniform(0.3, 1.0))
    tiles = []
    for noise, shape in zip(white, (streak, fall), strict=True):
        tile = np.fft.ifft2(np.fft.fft2(noise) * shape).real
        tiles.append(
            torch.as_tensor(tile / tile.std(), dtype=torch.float32, device=torch.get_default_device())
        )
    return Grain(tiles[0], tiles[1], float(rng.uniform(0.02, 0.13)), float(rng.uniform(0.06, 0.22)))


def add_hip_bone(
    layers: Layers, geometry: Geometry, bone: HipBone, place: Place, grain: Grain
) -> Tensor | None:
    """Add a hip bone; gives its path length (rows, columns), None when it is not in the field."""
    slab = Slab.around(geometry, place.to_world(bone.corners()), 3.2, 4.8)
    if slab is None:
        return None
    p = place.to_bone(slab.lattice(geometry))
    outer, inner, cut, shell = bone.distance(p, bone.maps())
    bent = slab.obliquity(geometry)
    whole = slab.length(outer, inner, cut) * bent
    spongy = slab.length(outer + bone.cortex, inner + bone.cortex, cut + shell) * bent
    x, y = slab.plane(geometry, float(place.centre[2]))
    x, y = (x - float(place.centre[0])) * place.side, y - float(place.centre[1])
    dense = 1.0 + 0.8 * torch.exp(-((x - 6.0).square() + (y - 30.0).square()) / 22.0**2)  # above the roof
    fraction = bone.bvf * grain.at(x, y, 62.0, 11.0 * place.side) * dense
    layers.add_bone(slab, whole, spongy, fraction.clamp(0.01, 0.6))
    full = torch.zeros(geometry.rows, geometry.columns)
    slab.add_to(full, whole)
    return full


def add_axial(
    layers: Layers, geometry: Geometry, sacrum: Sacrum, lumbar: list[Vertebra], place: Place, grain: Grain
) -> None:
    """Add sacrum, coccyx and lumbar vertebrae."""
    slab = Slab.around(geometry, place.to_world(sacrum.corners()), 3.0, 4.5)
    if slab is not None:
        solid, cut = sacrum.distance(place.to_bone(slab.lattice(geometry)))
        bent = slab.obliquity(geometry)
        whole = slab.length(solid, cut) * bent
        spongy = slab.length(solid + sacrum.cortex, cut + 0.3 * sacrum.cortex) * bent
        x, y = slab.plane(geometry, sacrum.front - 0.6 * sacrum.curve)
        layers.add_bone(slab, whole, spongy, (sacrum.bvf * grain.at(x, y, 35.0, 40.0)).clamp(0.01, 0.5))
    for number, bone in enumerate(lumbar):
        slab = Slab.around(geometry, place.to_world(bone.corners()), 2.6, 4.0)
        if slab is None:
            continue
        solid = bone.distance(place.to_bone(slab.lattice(geometry)))
        bent = slab.obliquity(geometry)
        whole, spongy = slab.length(solid) * bent, slab.length(solid + bone.cortex) * bent
        x, y = slab.plane(geometry, bone.centre[2])
        fraction = bone.bvf * grain.at(x, y, 90.0, 17.0 * number)
        layers.add_bone(slab, whole, spongy, fraction.clamp(0.01, 0.5))


@dataclass(frozen=True, eq=False)
class Shaft:
    """One femur in the world: its shape, pattern, place of the head centre and pieces."""

    femur: Femur
    pattern: Tensor
    place: Place
    broken: Break


def add_femur(layers: Layers, geometry: Geometry, shaft: Shaft) -> Tensor:
    """Add a femur, broken or not; gives its path length in bone, (rows, columns) mm.

    Pieces driven into each other add up to 1.3 times what one hip can hold, no more.
    """
    cover = shaft.femur.cover()
    own = Layers.empty(geometry)
    depth = torch.zeros(geometry.rows, geometry.columns)
    for piece in shaft.broken.pieces:
        _add_piece(own, depth, geometry, shaft, piece, cover)
    limit = 1.3 * (2.0 * shaft.femur.head_radius + 6.0)
    layers.mm.add_(own.mm * torch.where(depth > limit, limit / depth.clamp_min(1.0), 1.0))
    return depth


def _add_piece(
    own: Layers, depth: Tensor, geometry: Geometry, shaft: Shaft, piece: Piece, cover: NDArray[np.float64]
) -> None:
    """Add one piece to `own` and its length to `depth`, in place."""
    bounds = piece.bounds(as_tensors(cover))
    chosen = cover if bounds is None else cover[(bounds < 7.0).cpu().numpy()]
    if len(chosen) == 0:
        return
    world = shaft.place.to_world(piece.to_world(chosen))
    pixels = geometry.project(world)
    reach = 14.0 / geometry.pitch_mm
    seen = (pixels > -reach).all(1) & (pixels < np.array([geometry.columns, geometry.rows]) + reach).all(1)
    slab = Slab.around(geometry, world[seen], STEP_MM, DEPTH_STEP_MM) if seen.any() else None
    if slab is None:
        return
    bone = piece.to_bone(shaft.place.to_bone(slab.lattice(geometry)))
    distance = shaft.femur.distance(bone)
    fields = [distance]
    cut = piece.bounds(bone)
    if cut is not None:
        fields.append(cut)
    bent = slab.obliquity(geometry)
    whole = slab.length(*fields) * bent
    inner = slab.length(distance + shaft.femur.cortex(bone), *fields[1:]) * bent
    middle = float(np.median(world[seen][:, 2]))
    x, y = slab.plane(geometry, middle)
    bx, by, bz = piece.to_bone(shaft.place.to_bone((x, y, torch.tensor(middle))))
    fraction = look_up(shaft.pattern, bx, by)
    if shaft.broken.impaction > 0 and piece.sides:
        near = piece.sides[0][0]((bx, by, bz * 0.3))
        fraction = fraction + shaft.broken.impaction * torch.exp(-((near * (1.0 / 3.5)).square()))
    own.add_bone(slab, whole, inner, fraction)
    slab.add_to(depth, whole)


def as_tensors(points: NDArray[np.float64]) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 3) to three float32 tensors on the present device."""
    x, y, z = torch.as_tensor(points.T.copy(), dtype=torch.float32, device=torch.get_default_device())
    return x, y, z
