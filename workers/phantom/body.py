"""Soft tissue of a patient lying on the back: trunk, buttocks, thighs, belly apron; muscle inside fat.

World frame (rays.py). The skin and the muscle below it are smooth unions of a few solids marched on a wide
lattice; single muscles, bladder and genitals are lens-shaped additions on the film.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.fields import Coordinates, Vec, ellipsoid
from workers.phantom.layers import Layers
from workers.phantom.patient import Patient
from workers.phantom.random import truncated_normal
from workers.phantom.rays import Geometry, Slab


@dataclass(frozen=True)
class Body:
    """Sizes in mm. Thickness of 160 to 260 mm at the hip; `fat` is what lies over the muscle at the side."""

    hip_width: float  #: half width of the muscle at the trochanters
    waist: float  #: share of it that is left 150 mm above the hips
    depth: float  #: half depth of the muscle
    fat: float
    fat_front: float
    crotch: float  #: y of the perineum
    thigh_radius: float
    thigh_depth: float
    thigh_inward: float  #: how far the thigh's axis lies inside the femur's
    buttock: float
    table: float  #: z of the table's surface
    apron: tuple[float, float, float, float] | None  #: centre y, half width, half height, depth


def draw_body(rng: np.random.Generator, patient: Patient, midline: float) -> Body:
    """A patient around the bones."""
    stout, size = patient.stout, patient.size
    fat = float(np.clip(np.exp(rng.normal(3.1 + 0.45 * stout, 0.35)), 8.0, 80.0))
    depth = truncated_normal(rng, 84.0 + 10.0 * stout, 8.0, 62.0, 122.0)
    apron = None
    if rng.random() < 0.25 + 0.25 * (stout > 0.3):
        apron = (
            float(rng.uniform(70.0, 130.0)), float(rng.uniform(80.0, 135.0)), float(rng.uniform(60.0, 130.0)),
            float(rng.uniform(8.0, 38.0)),
        )  # fmt: skip
    return Body(
        hip_width=midline + truncated_normal(rng, 70.0 * size + 5.0 * stout, 6.0, 52.0, 100.0),
        waist=truncated_normal(rng, 0.86 + 0.03 * stout, 0.06, 0.68, 1.05),
        depth=depth,
        fat=fat,
        fat_front=float(np.clip(fat * np.exp(rng.normal(-0.7, 0.4)), 4.0, 60.0)),
        crotch=truncated_normal(rng, -98.0, 9.0, -125.0, -80.0),
        thigh_radius=truncated_normal(rng, 78.0 + 5.0 * stout, 6.0, 56.0, 102.0),
        thigh_depth=truncated_normal(rng, 0.95, 0.08, 0.75, 1.15),
        thigh_inward=truncated_normal(rng, 30.0, 7.0, 8.0, 48.0),
        buttock=truncated_normal(rng, 66.0 + 6.0 * stout, 6.0, 48.0, 92.0),
        table=-truncated_normal(rng, 0.92 * depth + 12.0, 5.0, 60.0, 150.0),
        apron=apron,
    )


@dataclass(frozen=True)
class Thigh:
    """Where a thigh runs: from the hip centre along a unit vector, world frame."""

    start: Vec
    along: Vec


def _merge(parts: list[Tensor], softness_mm: float) -> Tensor:
    total = parts[0].clamp(-200.0, 200.0) * (-1.0 / softness_mm)
    for part in parts[1:]:
        total = torch.logaddexp(total, part.clamp(-200.0, 200.0) * (-1.0 / softness_mm))
    return total * -softness_mm


def _trunk(body: Body, p: Coordinates, fat: float, front: float) -> Tensor:
    x, y, z = p
    share = ((y + 20.0) / 170.0).clamp(0.0, 1.6)
    width = (
        body.hip_width * (1.0 + (body.waist - 1.0) * share * share * (3.0 - 2.0 * share.clamp_max(1.0))) + fat
    )
    depth = body.depth + front
    ring = ((x / width).abs().pow(2.4) + (z / depth).abs().pow(2.4) + 1e-6).pow(1.0 / 2.4)
    side = (ring - 1.0) * (0.75 * depth)
    floor = (body.crotch + 16.0 - y + 0.30 * x.abs() + 0.10 * z) * 0.9
    return torch.logaddexp(side.clamp(-150, 150) / 20.0, floor.clamp(-150, 150) / 20.0) * 20.0


def _thigh(body: Body, thigh: Thigh, p: Coordinates, fat: float) -> Tensor:
    x, y, z = (v - c for v, c in zip(p, thigh.start, strict=True))
    ax, ay, az = thigh.along
    t = (x * ax + y * ay + z * az).clamp(-40.0, 400.0)
    radius = (body.thigh_radius + 0.6 * fat) * (1.0 - 0.0006 * t)
    off = torch.sqrt(
        (x - t * ax).square() + (y - t * ay).square() + ((z - t * az) / body.thigh_depth).square() + 1e-6
    )
    return off - radius


def skin(body: Body, thighs: tuple[Thigh, Thigh], p: Coordinates) -> Tensor:
    """Signed distance of the skin, (planes, rows, columns)."""
    parts = [_trunk(body, p, body.fat, body.fat_front)]
    parts += [_thigh(body, thigh, p, body.fat) for thigh in thighs]
    folded = (p[0].abs(), p[1], p[2])
    b = body.buttock
    solid = _merge(parts, 12.0)
    # no softness here: the fold below the buttock is a line on the film
    seat = ellipsoid(folded, (70.0, body.crotch + 34.0, -0.55 * body.depth), (b + 14.0, b, 0.62 * body.depth))
    solid = torch.minimum(solid, seat)
    if body.apron is not None:
        level, width, height, depth = body.apron
        front = body.depth + body.fat_front
        belly = ellipsoid(p, (0.0, level, front - 12.0), (width, height, depth + 12.0))
        solid = torch.minimum(solid, belly)
    flat = body.table - p[2]
    return torch.logaddexp(solid.clamp(-90, 90) / 4.0, flat.clamp(-90, 90) / 4.0) * 4.0


def muscle(body: Body, thighs: tuple[Thigh, Thigh], p: Coordinates) -> Tensor:
    """Signed distance of the muscle compartment."""
    parts = [_trunk(body, p, 0.0, 0.0), *(_thigh(body, thigh, p, 0.0) for thigh in thighs)]
    flat = body.table + 0.5 * body.fat_front + 4.0 - p[2]
    return torch.maximum(_merge(parts, 7.0), flat)


def add_body(layers: Layers, geometry: Geometry, body: Body, thighs: tuple[Thigh, Thigh]) -> Tensor:
    """Add muscle and fat; gives the path length of both, (rows, columns) mm."""
    front = body.depth + body.fat_front + (body.apron[3] if body.apron else 0.0) + 8.0
    low = min(body.table, -body.buttock)
    corners = np.array([[x, y, z] for x in (-600.0, 600.0) for y in (-600.0, 600.0) for z in (low, front)])
    slab = Slab.around(geometry, corners, 7.0, 10.0)
    assert slab is not None  # noqa: S101  (it covers the detector)
    p = slab.lattice(geometry)
    bent = slab.obliquity(geometry)
    outer = skin(body, thighs, p)
    whole = slab.length(outer) * bent
    lean = slab.length(torch.maximum(muscle(body, thighs, p), outer + 2.0)) * bent
    slab.add_to(layers["muscle"], lean)
    slab.add_to(layers["fat"], whole - lean)
    full = torch.zeros(geometry.rows, geometry.columns)
    slab.add_to(full, whole)
    return full


@dataclass(frozen=True)
class Strap:
    """A muscle between fat planes, or a pelvic organ: a capsule seen from in front, world mm."""

    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    depth: float  #: thickness that is muscle instead of fat, in the middle
    material: str = "muscle"


def draw_straps(rng: np.random.Generator, body: Body, midline: float, patient: Patient) -> list[Strap]:
    """Iliopsoas, gluteal and adductor groups of both sides, bladder, genitals of a man."""
    out = []
    for side in (-1.0, 1.0):
        groups = (
            ((46.0, 130.0), (midline + 6.0, -62.0), 20.0),  # iliopsoas
            ((midline + 26.0, 70.0), (midline + 58.0, -4.0), 24.0),  # gluteus medius
            ((16.0, -40.0), (midline + 2.0, -140.0), 26.0),  # adductors
            ((24.0, -46.0), (midline - 22.0, -200.0), 22.0),
            ((midline + 30.0, -60.0), (midline + 34.0, -240.0), 30.0),  # vastus
        )
        for start, end, radius in groups:
            jitter = rng.normal(0.0, 5.0, 4)
            out.append(
                Strap(
                    (side * (start[0] + jitter[0]), start[1] + jitter[1]),
                    (side * (end[0] + jitter[2]), end[1] + jitter[3]),
                    radius * float(rng.uniform(0.75, 1.25)), float(rng.uniform(3.0, 22.0)),
                )
            )  # fmt: skip
    if rng.random() < 0.6:
        y = float(rng.uniform(-5.0, 35.0))
        wide = float(rng.uniform(8.0, 30.0))
        contrast = "cortical" if rng.random() < 0.05 else "muscle"
        depth = float(rng.uniform(1.5, 6.0)) if contrast == "cortical" else float(rng.uniform(10.0, 45.0))
        out.append(
            Strap(
                (-wide, y), (wide, y + float(rng.normal(0, 4))), float(rng.uniform(18, 38)), depth, contrast
            )
        )
    if not patient.female and rng.random() < 0.8:
        x = float(rng.normal(0.0, 14.0))
        for shift in (-14.0, 14.0):
            top, low = (x + shift, body.crotch - 8.0), (x + 1.4 * shift, body.crotch - 34.0)
            out.append(Strap(top, low, float(rng.uniform(17, 27)), 34.0, "outside"))
        tip = (x + float(rng.normal(0, 26)), body.crotch - float(rng.uniform(30, 70)))
        out.append(Strap((x, body.crotch + 10.0), tip, float(rng.uniform(13, 18)), 28.0, "outside"))
    return out


def add_straps(layers: Layers, geometry: Geometry, straps: list[Strap], z_mm: float = 20.0) -> None:
    """Add them in place: muscle for fat, more of it outside the trunk, contrast medium in the bladder."""
    x, y = geometry.plane(z_mm)
    for strap in straps:
        reach = strap.radius + 1.0
        (ax, ay), (bx, by) = strap.start, strap.end
        columns = ((x[0] > min(ax, bx) - reach) & (x[0] < max(ax, bx) + reach)).nonzero()
        rows = ((y[:, 0] > min(ay, by) - reach) & (y[:, 0] < max(ay, by) + reach)).nonzero()
        if not len(columns) or not len(rows):
            continue
        window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        dx, dy = x[:, window[1]] - ax, y[window[0]] - ay
        ex, ey = bx - ax, by - ay
        t = ((dx * ex + dy * ey) / (ex * ex + ey * ey + 1e-6)).clamp(0.0, 1.0)
        far = ((dx - t * ex).square() + (dy - t * ey).square()) / strap.radius**2
        lens = strap.depth * (1.0 - far).clamp_min(0.0).sqrt()
        if strap.material == "cortical":
            layers["cortical"][window] += lens
        else:
            layers["muscle"][window] += lens
            if strap.material == "muscle":
                layers["fat"][window] -= torch.minimum(lens, layers["fat"][window].clamp_min(0.0))


def thigh_of(
    hip: NDArray[np.float64], side: int, body: Body, abduction_deg: float, flexion_deg: float
) -> Thigh:
    """The thigh around a leg that lies so; hip (3,) mm world, degrees."""
    out, up = math.radians(abduction_deg - 5.0), math.radians(flexion_deg)
    along = (side * math.sin(out) * math.cos(up), -math.cos(out) * math.cos(up), math.sin(up))
    lateral = 42.0 - body.thigh_inward
    start = (
        float(hip[0]) + side * lateral * math.cos(out),
        float(hip[1]) + lateral * math.sin(out) - 20.0,
        -4.0,
    )
    return Thigh(start, along)
