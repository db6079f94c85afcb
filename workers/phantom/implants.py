"""Metal in a hip: prosthesis, nail, plate with screws, cannulated screws, wires.

Everything is given in the femur's neck frame as rods and balls; a rod's path length is its chord across
the axis over the sine of its slope to the ray.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.breaks import Break, Cut, Piece
from workers.phantom.femur import Femur
from workers.phantom.fields import Vec
from workers.phantom.layers import Layers
from workers.phantom.patient import Place
from workers.phantom.rays import Geometry


@dataclass(frozen=True)
class Rod:
    """A rod with round ends; `thread` is the depth of its thread, 0 for a smooth one. mm."""

    start: Vec
    end: Vec
    radius: float
    radius_end: float
    thread: float = 0.0
    hollow: float = 0.0  #: radius of a bore


@dataclass(frozen=True)
class Shell:
    """Part of a ball on one side of a plane through its centre: a cup or a head."""

    centre: Vec
    radius: float
    inner: float  #: radius of the hollow, 0 for a full ball
    opening: Vec | None = None  #: the side that is missing; None for the whole ball


@dataclass(frozen=True)
class Implant:
    """Metal of one hip and the cut that took the bone away, if any."""

    name: str
    material: str  #: layer it is added to
    rods: tuple[Rod, ...]
    shells: tuple[Shell, ...] = ()
    resection: Cut | None = None
    drawn: dict[str, float] = field(default_factory=dict)


def draw_implant(rng: np.random.Generator, femur: Femur) -> Implant:
    """One of five kinds, as they are met on films of old hips."""
    makers = (_prosthesis, _nail, _plate, _screws, _prosthesis)
    return makers[int(rng.integers(len(makers)))](rng, femur)


def _on_neck(femur: Femur, along: float, across: float, z: float) -> Vec:
    nx, ny = femur.neck_axis
    return along * nx - across * ny, along * ny + across * nx, z


def _metal(rng: np.random.Generator) -> str:
    return "titanium" if rng.random() < 0.5 else "steel"


def _prosthesis(rng: np.random.Generator, femur: Femur) -> Implant:
    nx, ny = femur.neck_axis
    along = femur.neck_length * float(rng.uniform(0.55, 0.72))
    cut = Cut((nx * along, ny * along, 0.0), (0.72, -0.69, 0.0), ((0.3, 0.4, 0.3, 0.0),))
    shaft_x, low = femur.offset - 1.0, -femur.lesser_level + float(rng.uniform(50.0, 110.0))
    wide = femur.shaft_radius * float(rng.uniform(0.52, 0.68))
    shoulder = (shaft_x - 3.0, femur.neck_base[1] - 4.0, 0.0)
    rods = [
        Rod(shoulder, (shaft_x, femur.lesser_level, 0.0), wide * 1.25, wide),
        Rod((shaft_x, femur.lesser_level, 0.0), (shaft_x, -low, 0.0), wide, wide * 0.5),
        Rod((0.0, 0.0, 0.0), shoulder, 6.5, 8.0),
        Rod(shoulder, (nx * along * 1.05, ny * along * 1.05 - 6.0, 0.0), wide * 1.2, wide * 0.9),
    ]
    shells = []
    total = rng.random() < 0.65
    opening = (0.66, -0.70, 0.26)
    if total:
        cup = femur.head_radius + float(rng.uniform(2.0, 5.0))
        shells = [
            Shell((0.0, 0.0, 0.0), cup, cup - float(rng.uniform(2.5, 5.0)), opening),
            Shell((0.0, 0.0, 0.0), float(rng.uniform(14.0, 18.0)), 0.0),
        ]
        for _ in range(int(rng.integers(0, 3))):
            turn = float(rng.normal(0.0, 0.4))
            tip = (-0.2 * cup + 30 * math.sin(turn) - 6.0, cup + 22.0, -8.0 + float(rng.normal(0, 8)))
            rods.append(Rod((0.75 * cup * math.sin(turn), 0.9 * cup, 0.0), tip, 3.0, 2.4, 0.7))
    else:
        shells = [
            Shell((0.0, 0.0, 0.0), femur.head_radius, float(rng.choice([0.0, 0.6 * femur.head_radius])))
        ]
    if rng.random() < 0.25:
        rods += _wires(rng, femur)
    return Implant("total prosthesis" if total else "half prosthesis", "steel" if rng.random() < 0.6 else "titanium",
                   tuple(rods), tuple(shells), cut)  # fmt: skip


def _wires(rng: np.random.Generator, femur: Femur) -> list[Rod]:
    """Cerclage wires: rings around the shaft as twelve short rods each."""
    out = []
    for _ in range(int(rng.integers(1, 4))):
        level, lean = femur.lesser_level - float(rng.uniform(-25.0, 45.0)), float(rng.normal(0.0, 0.12))
        r = femur.shaft_radius + femur.flare * 0.6 + 1.2
        ring = [
            (
                femur.offset + r * math.cos(t),
                level + lean * r * math.cos(t) + 0.1 * r * math.sin(t),
                r * math.sin(t),
            )
            for t in np.linspace(0.0, 2 * math.pi, 13)
        ]
        out += [Rod(a, b, 0.8, 0.8) for a, b in pairwise(ring)]
    return out


def _lag(rng: np.random.Generator, femur: Femur, lateral_reach: float) -> tuple[Vec, Vec]:
    """Ends of a screw up the neck: lateral cortex and a point in the head."""
    low = float(rng.normal(-3.0, 2.0))
    tip = _on_neck(femur, -femur.head_radius * float(rng.uniform(0.35, 0.7)), low, 0.0)
    far = _on_neck(femur, femur.neck_length + lateral_reach, low, 0.0)
    return tip, far


def _nail(rng: np.random.Generator, femur: Femur) -> Implant:
    radius = float(rng.uniform(4.8, 6.2))
    top = (femur.offset + 5.0, femur.trochanter_tip - 1.0, -4.0)
    bend = (femur.offset, femur.lesser_level + 10.0, 0.0)
    low = (femur.offset + 1.0, -float(rng.uniform(150.0, 300.0)), 0.0)
    tip, far = _lag(rng, femur, femur.shaft_radius + 6.0)
    rods = [
        Rod(top, bend, radius + 2.6, radius + 2.0, hollow=2.2),
        Rod(bend, low, radius + 1.0, radius, hollow=2.2),
        Rod(far, tip, 5.2, 5.0),
        Rod(_between(far, tip, 0.78), tip, 5.6, 5.4, 1.2),
    ]
    lock = low[1] + 22.0
    rods.append(Rod((femur.offset - 17.0, lock, 0.0), (femur.offset + 21.0, lock, 0.0), 2.5, 2.5, 0.4))
    if rng.random() < 0.3:
        rods.append(Rod((far[0], far[1] + 11.0, 3.0), (tip[0] + 6.0, tip[1] + 12.0, 3.0), 2.8, 2.8))
    return Implant("nail", _metal(rng), tuple(rods))


def _plate(rng: np.random.Generator, femur: Femur) -> Implant:
    tip, far = _lag(rng, femur, femur.shaft_radius + 2.0)
    out = femur.offset + femur.shaft_radius + femur.flare * 0.35 + 2.5
    low = -float(rng.uniform(120.0, 170.0))
    rods = [
        Rod(far, _between(far, tip, 0.55), 6.6, 6.4, hollow=3.2),
        Rod(far, tip, 4.0, 4.0),
        Rod(_between(far, tip, 0.74), tip, 6.2, 6.0, 1.5),
        Rod((out + 1.0, far[1] + 10.0, 0.0), (out - 1.0, low, 0.0), 3.4, 3.0),
        Rod((out + 1.0, far[1] + 6.0, 5.0), (out - 1.0, low, 5.0), 2.8, 2.8),
    ]
    count = int(rng.integers(2, 6))
    for level in np.linspace(far[1] - 24.0, low + 8.0, count):
        rods.append(
            Rod(
                (out + 2.0, float(level), 0.0),
                (out - 2.0 * femur.shaft_radius - 6.0, float(level) + 1.0, 0.0),
                2.2,
                2.1,
                0.5,
            )
        )
        rods.append(Rod((out + 2.5, float(level), 0.0), (out - 1.0, float(level), 0.0), 3.8, 3.8))
    return Implant("plate and screw", _metal(rng), tuple(rods))


def _screws(rng: np.random.Generator, femur: Femur) -> Implant:
    rods = []
    w = 0.5 * femur.neck_half_width
    for across, z in ((-w, 0.0), (0.55 * w, 5.0), (0.55 * w, -6.0))[: int(rng.integers(2, 4))]:
        tip = _on_neck(femur, -femur.head_radius * float(rng.uniform(0.3, 0.65)), across * 0.8, z)
        far = _on_neck(
            femur, femur.neck_length + femur.shaft_radius + float(rng.uniform(2, 9)), across * 1.1, z
        )
        rods.append(Rod(far, tip, 3.2, 3.2, hollow=1.4))
        rods.append(Rod(_between(far, tip, 0.82), tip, 3.7, 3.6, 0.8, hollow=1.4))
        rods.append(Rod(far, _between(far, tip, 0.05), 4.4, 4.4))
    return Implant("screws", _metal(rng), tuple(rods))


def _between(a: Vec, b: Vec, share: float) -> Vec:
    x, y, z = (u + (v - u) * share for u, v in zip(a, b, strict=True))
    return x, y, z


def resected(broken: Break, femur: Femur, implant: Implant) -> Break:
    """The femur without the head and neck a prosthesis replaced."""
    if implant.resection is None:
        return broken
    piece = broken.pieces[0]
    cut = implant.resection
    beside = Cut((femur.offset - 5.0, 0.0, 0.0), (1.0, 0.0, 0.0))  # the greater trochanter stays
    kept = Piece(piece.name, piece.turn, piece.shift, (*piece.sides, (cut, -1.0)))
    greater = Piece("greater", piece.turn, piece.shift, (*piece.sides, (cut, 1.0), (beside, -1.0)))
    return Break(broken.outcome, broken.subtype, (kept, greater))


def add_implant(layers: Layers, geometry: Geometry, implant: Implant, piece: Piece, place: Place) -> Tensor:
    """Add the metal to its layer; gives its path length (rows, columns) mm."""
    metal = torch.zeros(geometry.rows, geometry.columns)
    for rod in implant.rods:
        ends = place.to_world(piece.to_world(np.array([rod.start, rod.end])))
        _add_rod(metal, geometry, ends, rod)
    for shell in implant.shells:
        centre = place.to_world(piece.to_world(np.array([shell.centre])))[0]
        axis = None
        if shell.opening is not None:  # a cup keeps to the pelvis, whatever the leg does
            axis = place.turn @ (np.array(shell.opening) * [place.side, 1, 1])
        _add_shell(metal, geometry, centre, shell, axis)
    layers[implant.material].add_(metal)
    return metal


def _cells(
    geometry: Geometry, low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[slice, slice] | None:
    c0, r0 = max(0, math.floor(low[0])), max(0, math.floor(low[1]))
    c1, r1 = min(geometry.columns, math.ceil(high[0])), min(geometry.rows, math.ceil(high[1]))
    return (slice(r0, r1), slice(c0, c1)) if c1 > c0 and r1 > r0 else None


def _add_rod(metal: Tensor, geometry: Geometry, ends: NDArray[np.float64], rod: Rod) -> None:
    pixels = geometry.project(ends)
    step = (
        geometry.pitch_mm * (geometry.sid_mm - geometry.oid_mm - float(ends[:, 2].mean())) / geometry.sid_mm
    )
    reach = (max(rod.radius, rod.radius_end) + 1.0) / step
    where = _cells(geometry, pixels.min(0) - reach, pixels.max(0) + reach)
    if where is None:
        return
    row = (torch.arange(where[0].start, where[0].stop, dtype=torch.float32) + 0.5)[:, None]
    column = (torch.arange(where[1].start, where[1].stop, dtype=torch.float32) + 0.5)[None, :]
    (ax, ay), (bx, by) = pixels.tolist()
    ex, ey = bx - ax, by - ay
    t = (((column - ax) * ex + (row - ay) * ey) / (ex * ex + ey * ey + 1e-6)).clamp(0.0, 1.0)
    far = ((column - ax - t * ex).square() + (row - ay - t * ey).square()) * step**2
    radius = rod.radius + (rod.radius_end - rod.radius) * t
    span = float(np.linalg.norm(ends[1] - ends[0]))
    if rod.thread > 0:
        radius = radius - rod.thread * torch.remainder(t * (span / 2.6), 1.0)
    slope = math.hypot(*(ends[1] - ends[0])[:2]) / max(span, 1e-6)
    # a ray along the rod passes it end to end: the chord is bounded by its length
    bound = span / max(math.sqrt(1.0 - slope * slope), 1e-3)
    chord = (
        (radius.square() - far).clamp_min(0.0).sqrt() - (rod.hollow**2 - far).clamp_min(0.0).sqrt()
    ) * 2.0
    chord = (chord / max(slope, 0.1)).clamp(0.0, max(bound, 2.0 * rod.radius))
    metal[where] = torch.maximum(metal[where], chord)


def _add_shell(
    metal: Tensor,
    geometry: Geometry,
    centre: NDArray[np.float64],
    shell: Shell,
    axis: NDArray[np.float64] | None,
) -> None:
    at = geometry.project(centre[None])[0]
    step = geometry.pitch_mm * (geometry.sid_mm - geometry.oid_mm - float(centre[2])) / geometry.sid_mm
    where = _cells(geometry, at - shell.radius / step - 1, at + shell.radius / step + 1)
    if where is None:
        return
    y = (
        -((torch.arange(where[0].start, where[0].stop, dtype=torch.float32) + 0.5)[:, None] - float(at[1]))
        * step
    )
    x = (
        (torch.arange(where[1].start, where[1].stop, dtype=torch.float32) + 0.5)[None, :] - float(at[0])
    ) * step
    across = x.square() + y.square()
    outer = (shell.radius**2 - across).clamp_min(0.0).sqrt()
    inner = (shell.inner**2 - across).clamp_min(0.0).sqrt()
    low, high = -outer, outer
    if axis is None:
        metal[where] = torch.maximum(metal[where], 2.0 * (outer - inner))
        return
    # behind the plane: x a + y b + z c < 0
    a, b, c = (float(v) for v in axis)
    c = c if abs(c) > 0.02 else 0.02
    limit = -(x * a + y * b) / c
    if c > 0:
        high = torch.minimum(high, limit)
    else:
        low = torch.maximum(low, limit)
    part = (high - low).clamp_min(0.0)
    hole = (torch.minimum(high, inner) - torch.maximum(low, -inner)).clamp_min(0.0)
    metal[where] = torch.maximum(metal[where], part - hole)
