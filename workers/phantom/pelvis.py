"""The hip bone: iliac wing, socket, ischium and pubis as one solid with a cortical shell.

Frame, mm, for a LEFT hip bone: origin in the hip centre, x lateral, y towards the head, z anterior. The
front of the pelvis (both spines, symphysis) stands upright. The wing is a bent plate: its outline, middle
surface and thickness are maps over (s, y), s running along the plate from behind to the front.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from workers.phantom.fields import Coordinates, Vec, blend, capsule, ellipsoid
from workers.phantom.patient import Patient
from workers.phantom.random import truncated_normal

#: direction of the wing in the horizontal plane (x, z): from the posterior to the anterior spine
WING = (0.46, 0.888)
WING_MAP = (-128.0, 92.0, 150.0, -44.0)  #: s from, s to, y from (top), y to (bottom), mm
MAP_STEP_MM = 2.0
#: outline of the wing at unit size, (s, y) mm: crest from front to back, notch, column, front edge
OUTLINE = (
    (61.0, 70.0), (60.0, 82.0), (50.0, 96.0), (34.0, 109.0), (12.0, 120.0), (-14.0, 124.0), (-44.0, 119.0),
    (-74.0, 104.0), (-97.0, 86.0), (-106.0, 71.0), (-97.0, 54.0), (-82.0, 44.0), (-66.0, 36.0), (-54.0, 24.0),
    (-45.0, 4.0), (-40.0, -20.0), (-18.0, -26.0), (14.0, -12.0), (30.0, 14.0), (38.0, 30.0), (43.0, 42.0),
    (45.0, 50.0), (52.0, 60.0),
)  # fmt: skip


@dataclass(frozen=True)
class HipBone:
    """Shape and bone quality of one hip bone. Lengths in mm, angles in degrees."""

    size: float  #: factor on everything but the socket
    socket_radius: float
    midline: float  #: hip centre to the midplane
    inclination_deg: float
    anteversion_deg: float
    cover: float  #: how much less than a hemisphere the socket is, as sine
    rim_wave: float  #: how much farther the posterior wall reaches than the anterior one
    flare: float  #: how far the crest bends outwards, mm
    fossa_thickness: float
    crest: float  #: thickness of the crest
    outline: tuple[tuple[float, float], ...]
    ramus_radius: float
    ischium_radius: float
    pubis_drop: float  #: middle of the symphysis below the hip centre
    symphysis_gap: float
    cortex: float
    cortex_roof: float
    bvf: float

    @property
    def opening(self) -> Vec:
        """Unit vector along which the socket opens: lateral, down and a little forward."""
        tilt, turn = math.radians(90.0 - self.inclination_deg), math.radians(self.anteversion_deg)
        return math.cos(tilt) * math.cos(turn), -math.sin(tilt) * math.cos(turn), math.sin(turn)

    def maps(self) -> Tensor:
        """(3, rows, columns) over WING_MAP: outline distance, middle surface, half thickness; mm."""
        s0, s1, y0, y1 = WING_MAP
        s = torch.arange(s0, s1, MAP_STEP_MM) + 0.5 * MAP_STEP_MM
        y = torch.arange(y0, y1, -MAP_STEP_MM) - 0.5 * MAP_STEP_MM
        s, y = s[None, :], y[:, None]
        outline = _polygon_distance(_smooth_closed(np.asarray(self.outline), 4), s, y)
        rise = 1.0 - torch.exp(-(y - 22.0).clamp_min(0.0) / 48.0)
        middle = self.flare * rise * torch.exp(-(((s - 16.0) / 56.0).square()))
        middle = middle - 10.0 * torch.exp(-(((s + 72.0) / 26.0).square()) - (((y - 72.0) / 28.0).square()))
        rim = torch.exp(outline / 5.0).clamp_max(1.0)
        pillar = torch.exp(-(((s - 12.0 - 0.22 * (y - 30.0)) / 11.0).square())) * (y > 10.0)
        body = torch.exp(-((y - 16.0).clamp_min(0.0) / 22.0)) * torch.exp(-((s / 52.0).square()))
        sacral = torch.exp(-(((s + 72.0) / 22.0).square()) - (((y - 64.0) / 30.0).square()))
        front = torch.exp(-(((s - 55.0) / 12.0).square()) - (((y - 64.0) / 22.0).square()))
        thick = (
            self.fossa_thickness
            + self.crest * rim * (y > 58.0) * torch.sigmoid((s + 62.0) * 0.12)
            + 3.0 * rim * (y <= 58.0)
        )
        thick = thick * (0.45 + 0.55 * torch.sigmoid((s + 72.0) * 0.14))  # behind the sacrum it is faint
        thick = thick + 4.0 * pillar + 20.0 * body.clamp_max(1.0) + 1.5 * sacral + 5.0 * front
        return torch.stack([outline, middle.expand_as(outline), 0.5 * thick.expand_as(outline)])

    def distance(self, p: Coordinates, maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outer table, inner table and cut as signed distances, and the cortex along the cut.

        The bone is where all three are negative; its spongiosa where outer + self.cortex, inner +
        self.cortex and cut + shell are. p in the hip bone's frame; maps as self.maps() gives them.
        """
        g = 1.0 / self.size
        x, y, z = p[0] * g, p[1] * g, p[2] * g
        q = (x, y, z)
        m, socket = self.midline * g, self.socket_radius * g
        sx, sz = WING
        s, n = x * sx + z * sz, x * sz - z * sx
        s, y_full, n = torch.broadcast_tensors(s, y, n)
        s0, s1, y0, y1 = WING_MAP
        grid = torch.stack([(s - s0) * (2 / (s1 - s0)) - 1, (y0 - y_full) * (2 / (y0 - y1)) - 1], dim=-1)
        found = functional.grid_sample(
            maps[None], grid.reshape(1, 1, -1, 2), mode="bilinear", padding_mode="border", align_corners=False
        ).reshape(3, *s.shape)
        outline = found[0]
        off = n - found[1]
        k = 1.6
        outer = torch.logaddexp((off - found[2]).clamp(-60, 60) / k, outline.clamp(-60, 60) / k) * k
        inner = torch.logaddexp((-off - found[2]).clamp(-60, 60) / k, outline.clamp(-60, 60) / k) * k
        rest = self._rods(q, socket, m)
        k = 3.0
        shared = torch.exp(rest.clamp_min(-60.0) * (-1.0 / k))
        outer = torch.log(shared + torch.exp(outer * (-1.0 / k))) * -k
        inner = torch.log(shared + torch.exp(inner * (-1.0 / k))) * -k
        cut, shell = self._socket(q, socket)
        gap = 0.5 * self.symphysis_gap - (p[0] + self.midline)
        return outer * self.size, inner * self.size, torch.maximum(cut * self.size, gap), shell

    def _rods(self, q: Coordinates, socket: float, m: float) -> Tensor:
        """Everything but the wing, in the frame of unit size."""
        r, i, low = self.ramus_radius, self.ischium_radius, -self.pubis_drop
        centre = (-5.0, 3.0, -5.0)  # what holds the socket narrows towards the sacral joint and into the wing
        towards = (
            capsule(q, centre, (-38.0, 58.0, -52.0), socket + 6.0, 7.0),
            capsule(q, centre, (11.0, 44.0, 2.0), socket + 6.0, 9.0),
        )
        ball = torch.minimum(*towards)
        # quadrilateral surface: the inner pelvis is flat, and runs up to the sacral joint as the arcuate line
        rise = (q[1] - 8.0).clamp_min(0.0)
        wall = -(q[0] + 0.10 * q[2] + 0.06 * q[1] + 0.60 * rise) - socket - 1.0
        centre = (-5.0, 3.0, -5.0)  # what holds the socket narrows towards the sacral joint and into the wing
        towards = (
            capsule(q, centre, (-38.0, 58.0, -52.0), socket + 6.0, 7.0),
            capsule(q, centre, (11.0, 44.0, 2.0), socket + 6.0, 9.0),
        )
        ball = torch.minimum(*towards)
        # quadrilateral surface: the inner pelvis is flat, and runs up to the sacral joint as the arcuate line
        wall = -(q[0] + 0.10 * q[2] + 0.06 * q[1] + 0.75 * (q[1] - 14.0).clamp_min(0.0)) - socket - 3.6
        ball = torch.logaddexp(ball.clamp(-60, 60) / 2.0, wall.clamp(-60, 60) / 2.0) * 2.0
        parts = [
            ball,
            # pubis: upper ramus, body, lower ramus
            capsule(q, (-22.0, 3.0, 14.0), (-45.0, low + 20.0, 33.0), r + 4.5, r - 0.5),
            capsule(q, (-45.0, low + 20.0, 33.0), (19.0 - m, low + 8.0, 44.0), r, r + 1.5),
            ellipsoid(q, (11.5 - m, low, 44.0), (10.0, 19.5, 7.5)),
            capsule(q, (13.0 - m, low - 12.0, 40.0), (-50.0, low - 28.0, 8.0), r - 0.8, r - 1.8),
            capsule(q, (-50.0, low - 28.0, 8.0), (-30.0, -65.0, -22.0), r - 1.8, r + 1.5),
            # ischium: posterior column, body, tuberosity, spine
            capsule(q, (-17.0, 16.0, -34.0), (-16.0, -14.0, -30.0), 11.0, i),
            capsule(q, (-15.0, -12.0, -24.0), (-22.0, -48.0, -33.0), i + 1.0, i - 1.0),
            ellipsoid(q, (-22.0, -51.0, -34.0), (15.5, 23.0, 14.0)),
            capsule(q, (-25.0, -2.0, -40.0), (-36.0, -10.0, -47.0), 6.5, 2.5),
        ]
        return blend(parts, 2.6)

    def _socket(self, q: Coordinates, socket: float) -> tuple[Tensor, Tensor]:
        """What the socket takes away (negative outside of it) and the cortex along it."""
        x, y, z = q
        ox, oy, oz = self.opening
        out = x * ox + y * oy + z * oz
        radial = torch.sqrt(x * x + y * y + z * z + 1e-9)
        beside = torch.sqrt((radial.square() - out.square()).clamp_min(1e-6))
        behind = (-z * (1.0 - oz * oz) + oz * (x * ox + y * oy)) / beside.clamp_min(1.0)
        low = torch.sigmoid((-y - 0.78 * beside) * 0.4)  # the notch below
        edge = -self.cover * socket + self.rim_wave * behind - 9.0 * low
        # what lies before the rim goes too; above the hip in a widening bevel, below it the ischium stays
        bevel = 0.9 * torch.sigmoid(y * 0.25) * (out - edge).clamp_min(0.0)
        front = torch.maximum(edge - out, beside - socket - 9.0 - bevel)
        hollow = -blend([(radial - socket).clamp_min(-40.0), front.clamp_min(-40.0)], 1.6)
        near = torch.exp(-((radial - socket).square()) * (1.0 / 60.0))
        roof = near * torch.sigmoid((y - 0.45 * radial) * 0.3)
        return hollow, 0.7 * self.cortex + (self.cortex_roof - 0.7 * self.cortex) * roof

    def corners(self) -> NDArray[np.float64]:
        """Corners of a box around the bone, (8, 3) in its frame."""
        g = self.size
        spans = ((-self.midline - 2.0, 66.0 * g), (-90.0 * g, 136.0 * g), (-112.0 * g, 72.0 * g))
        return np.array([[a, b, c] for a in spans[0] for b in spans[1] for c in spans[2]])


def _smooth_closed(points: NDArray[np.float64], times: int) -> NDArray[np.float64]:
    """A closed polygon through `points` as a Catmull-Rom spline, `times` pieces per side."""
    t = (np.arange(times) / times)[None, :, None]
    p0, p1, p2, p3 = (np.roll(points, k, axis=0)[:, None, :] for k in (1, 0, -1, -2))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return curve.reshape(-1, 2)


def _polygon_distance(polygon: NDArray[np.float64], x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a closed polygon (n, 2), negative inside; x (1, w), y (h, 1)."""
    following = np.roll(polygon, -1, axis=0)
    nearest = torch.full((y.shape[0], x.shape[1]), 1e9)
    inside = torch.zeros(nearest.shape, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(polygon.tolist(), following.tolist(), strict=True):
        ex, ey = bx - ax, by - ay
        dx, dy = x - ax, y - ay
        t = ((dx * ex + dy * ey) / (ex * ex + ey * ey + 1e-9)).clamp(0.0, 1.0)
        nearest = torch.minimum(nearest, (dx - t * ex).square() + (dy - t * ey).square())
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / (by - ay) + ax)
    root = nearest.sqrt()
    return torch.where(inside, -root, root)


def draw_hip_bones(
    rng: np.random.Generator, patient: Patient, heads: tuple[float, float]
) -> tuple[HipBone, HipBone]:
    """Left and right hip bone of the patient, for head radii (left, right); alike, not mirrored."""
    female, quality = patient.female, patient.quality
    size = patient.size * truncated_normal(rng, 0.98 if female else 1.03, 0.03, 0.9, 1.12)
    space = truncated_normal(rng, 3.5 - 0.3 * patient.old, 0.8, 0.8, 5.5)
    shared = {
        "midline": truncated_normal(rng, 91.0 * patient.size, 4.0, 76.0, 102.0),
        "inclination_deg": truncated_normal(rng, 39.0, 4.0, 30.0, 50.0),
        "anteversion_deg": truncated_normal(rng, 18.0, 6.5, 2.0, 35.0),
        "cover": truncated_normal(rng, 0.13, 0.08, -0.05, 0.35),
        "flare": truncated_normal(rng, 36.0 if female else 33.0, 6.0, 20.0, 52.0),
        "pubis_drop": truncated_normal(rng, 29.0, 5.0, 16.0, 42.0),
        "cortex": float(np.clip(truncated_normal(rng, 1.0, 0.22, 0.5, 1.7) * quality**0.4, 0.4, 1.9)),
        "bvf": float(np.clip(0.21 * quality * rng.uniform(0.7, 1.3), 0.04, 0.36)),
    }
    warp = rng.normal(0.0, 2.0, (len(OUTLINE), 2)) + rng.normal(0.0, 3.0, 2)
    out = []
    for head in heads:
        own = {name: value * float(np.exp(rng.normal(0.0, 0.02))) for name, value in shared.items()}
        outline = np.asarray(OUTLINE) + warp + rng.normal(0.0, 1.2, (len(OUTLINE), 2))
        out.append(
            HipBone(
                size=size,
                socket_radius=head + max(0.8, space + float(rng.normal(0.0, 0.3))),
                rim_wave=truncated_normal(rng, 0.12, 0.06, -0.05, 0.3),
                fossa_thickness=truncated_normal(rng, 3.3, 0.8, 1.8, 5.5),
                crest=truncated_normal(rng, 8.0, 1.2, 5.0, 12.0),
                outline=tuple((float(a), float(b)) for a, b in outline),
                ramus_radius=truncated_normal(rng, 7.5, 0.6, 5.6, 9.5),
                ischium_radius=truncated_normal(rng, 13.0, 1.0, 10.5, 16.5),
                symphysis_gap=truncated_normal(rng, 3.6, 1.0, 1.5, 7.0),
                cortex_roof=truncated_normal(rng, 1.6, 0.5, 0.7, 3.2),
                **own,
            )
        )
    return out[0], out[1]
