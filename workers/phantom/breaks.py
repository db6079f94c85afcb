"""Five outcomes: how a femur is cut into pieces, and where each piece goes.

VF valgus-impacted neck fracture (Garden I), DF displaced neck fracture (Garden III, IV), SF stable
trochanteric fracture (AO A1), UF unstable (AO A2, A3), or none. Frames and units: femur.py; the world here is
that of a left hip, its head centre the origin.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.femur import Femur
from workers.phantom.fields import Coordinates, Vec, ellipsoid
from workers.phantom.random import truncated_normal


class FractureOutcome(StrEnum):
    """What is true of a phantom's hip."""

    VF = "VF"
    DF = "DF"
    SF = "SF"
    UF = "UF"
    NONE = "none"


Matrix = NDArray[np.float64]


def rotation(axis: Sequence[float], angle_deg: float) -> Matrix:
    """Right-handed rotation matrix (Rodrigues)."""
    k = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    angle = math.radians(angle_deg)
    turned: Matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return turned


def leg_rotation(turn_deg: float, flexion_deg: float, abduction_deg: float) -> Matrix:
    """Neck frame to world. turn_deg = anteversion + external rotation; it takes the trochanter back."""
    turned: Matrix = (
        rotation((0, 0, 1), abduction_deg) @ rotation((1, 0, 0), -flexion_deg) @ rotation((0, 1, 0), turn_deg)
    )
    return turned


@dataclass(frozen=True)
class Cut:
    """A rough plane through `point` (neck frame), positive on the side `normal` points to."""

    point: Vec
    normal: Vec
    waves: tuple[tuple[float, float, float, float], ...] = ()  #: amplitude mm, two wave numbers 1/mm, phase

    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Normal and two unit vectors in the plane; the first of the two is the line seen from in front."""
        m = np.asarray(self.normal, float)
        m = m / np.linalg.norm(m)
        a = np.array([-m[1], m[0], 0.0])
        a /= np.linalg.norm(a)
        return m, a, np.cross(m, a)

    def __call__(self, p: Coordinates) -> Tensor:
        """Signed distance to the rough surface."""
        m, a, b = self.axes()
        x, y, z = (v - c for v, c in zip(p, self.point, strict=True))
        distance = x * m[0] + y * m[1] + z * m[2]
        if self.waves:
            along = x * a[0] + y * a[1] + z * a[2]
            across = x * b[0] + y * b[1] + z * b[2]
            for amplitude, ka, kb, phase in self.waves:
                distance = distance + torch.sin(along * ka + (across * kb + phase)) * amplitude
        return distance

    def points(self, half_size: float = 45.0, step: float = 1.5) -> NDArray[np.float64]:
        """Points of the rough surface around `point`, (n, 3) in the neck frame."""
        m, a, b = self.axes()
        s, t = np.meshgrid(np.arange(-half_size, half_size, step), np.arange(-half_size, half_size, step))
        s, t = s.ravel(), t.ravel()
        rough = np.zeros_like(s)
        for amplitude, ka, kb, phase in self.waves:
            rough += amplitude * np.sin(s * ka + t * kb + phase)
        return np.asarray(self.point) + s[:, None] * a + t[:, None] * b - rough[:, None] * m


@dataclass(frozen=True)
class Chunk:
    """An ellipsoidal piece around a trochanter, positive outside."""

    centre: Vec
    radii: Vec
    waves: tuple[tuple[float, float, float, float], ...] = ()

    def __call__(self, p: Coordinates) -> Tensor:
        """Signed distance to its rough surface."""
        distance = ellipsoid(p, self.centre, self.radii)
        for amplitude, ka, kb, phase in self.waves:
            distance = distance + torch.sin((p[0] + p[2]) * ka + (p[1] * kb + phase)) * amplitude
        return distance

    def points(self) -> NDArray[np.float64]:
        """Points of its smooth surface, (n, 3) in the neck frame."""
        k = np.arange(500) + 0.5
        polar, turn = np.arccos(1 - 2 * k / 500), np.pi * (1 + 5**0.5) * k
        unit = np.stack([np.cos(turn) * np.sin(polar), np.cos(polar), np.sin(turn) * np.sin(polar)], axis=1)
        return np.asarray(self.centre) + unit * np.asarray(self.radii)


Side = tuple[Callable[[Coordinates], Tensor], float]


@dataclass(frozen=True)
class Piece:
    """A part of the femur and its rigid place: world = turn @ p + shift."""

    name: str
    turn: Matrix
    shift: NDArray[np.float64]
    sides: tuple[Side, ...] = ()  #: (surface, sign): inside where sign x surface < 0

    def to_bone(self, p: Coordinates) -> Coordinates:
        """World coordinates to the neck frame."""
        x, y, z = (v - float(s) for v, s in zip(p, self.shift, strict=True))
        r = self.turn
        return (
            x * r[0, 0] + y * r[1, 0] + z * r[2, 0],
            x * r[0, 1] + y * r[1, 1] + z * r[2, 1],
            x * r[0, 2] + y * r[1, 2] + z * r[2, 2],
        )

    def to_world(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3) of the neck frame to the world."""
        moved: NDArray[np.float64] = points @ self.turn.T + self.shift
        return moved

    def bounds(self, p: Coordinates) -> Tensor | None:
        """The cuts as one signed distance, negative in this piece; None for a whole bone."""
        total: Tensor | None = None
        for surface, sign in self.sides:
            value = surface(p) * sign
            total = value if total is None else torch.maximum(total, value)
        return total


@dataclass(frozen=True)
class Break:
    """A femur with its outcome: pieces in place, the surfaces that are the truth, and what was drawn."""

    outcome: FractureOutcome
    subtype: str
    pieces: tuple[Piece, ...]
    zones: tuple[tuple[Cut | Chunk, tuple[int, ...]], ...] = ()  #: fracture surface, pieces that carry it
    impaction: float = 0.0  #: extra bone volume fraction beside the main surface
    border_margin: float | None = None  #: VF/DF: 0 on the border between the two, 1 at a typical case
    drawn: dict[str, float] = field(default_factory=dict)


def _waves(rng: np.random.Generator, rms_mm: float) -> tuple[tuple[float, float, float, float], ...]:
    """Roughness of about `rms_mm`: a few waves of 5 to 40 mm, the long ones higher."""
    lengths = np.exp(rng.uniform(math.log(5.0), math.log(40.0), 6))
    weights = lengths**0.6
    weights *= rms_mm * math.sqrt(2.0) / math.sqrt(float((weights**2).sum()))
    turns, phases = rng.uniform(0, math.pi, 6), rng.uniform(0, 2 * math.pi, 6)
    return tuple(
        (float(w), 2 * math.pi / float(n) * math.cos(t), 2 * math.pi / float(n) * math.sin(t), float(f))
        for w, n, t, f in zip(weights, lengths, turns, phases, strict=True)
    )


@dataclass(frozen=True)
class Leg:
    """How the leg lies, drawn without looking at the outcome. Degrees."""

    external_rotation: float
    flexion: float
    abduction: float


def draw_leg(rng: np.random.Generator) -> Leg:
    """30 % of legs lie more than 25 degrees externally rotated, as real normal hips do."""
    far_out = rng.random() < 0.30
    external = float(rng.uniform(25.0, 58.0)) if far_out else truncated_normal(rng, -3.0, 13.0, -22.0, 25.0)
    abduction = (
        float(rng.uniform(10.0, 33.0))
        if rng.random() < 0.12
        else truncated_normal(rng, 3.0, 5.0, -10.0, 20.0)
    )
    return Leg(external, abs(truncated_normal(rng, 0.0, 6.0, -22.0, 22.0)), abduction)


def intact(femur: Femur, leg: Leg) -> Break:
    """The whole femur as the leg lies."""
    turn = leg_rotation(femur.anteversion_deg + leg.external_rotation, leg.flexion, leg.abduction)
    return Break(FractureOutcome.NONE, "none", (Piece("femur", turn, np.zeros(3)),))


def draw_break(rng: np.random.Generator, femur: Femur, leg: Leg, outcome: FractureOutcome) -> Break:
    """A fracture of this kind; the leg keeps its pose but for what the fracture itself forces."""
    if outcome is FractureOutcome.NONE:
        return intact(femur, leg)
    makers = {
        FractureOutcome.VF: _valgus,
        FractureOutcome.DF: _displaced,
        FractureOutcome.SF: _trochanteric,
        FractureOutcome.UF: _unstable,
    }
    return makers[outcome](rng, femur, leg)


def _place(
    femur: Femur,
    leg: Leg,
    cut: Cut,
    pivot: Vec,
    tilt: Matrix,
    extra_external: float,
    shift: NDArray[np.float64],
) -> tuple[Piece, Piece]:
    """Head piece turned by `tilt` (neck frame) about the head centre; the distal piece follows the pivot.

    The head stays in its socket; `shift` (world) moves the distal piece away from contact at the pivot.
    """
    lying = leg_rotation(femur.anteversion_deg + leg.external_rotation, leg.flexion, leg.abduction)
    head_turn = lying @ tilt
    total = min(leg.external_rotation + extra_external, max(66.0, leg.external_rotation))
    distal_turn = leg_rotation(femur.anteversion_deg + total, leg.flexion, leg.abduction)
    at = np.asarray(pivot)
    offset = head_turn @ at + shift - distal_turn @ at
    head = Piece("head", head_turn, np.zeros(3), ((cut, 1.0),))
    distal = Piece("distal", distal_turn, offset, ((cut, -1.0),))
    return head, distal


def _neck_cut(rng: np.random.Generator, femur: Femur, along: float, pauwels_deg: float) -> tuple[Cut, Vec]:
    """A cut across the neck, `along` mm from the head centre, and its inferior edge."""
    nx, ny = femur.neck_axis
    angle = math.radians(pauwels_deg)
    normal = (math.sin(angle), -math.cos(angle), float(np.tan(np.radians(rng.normal(0, 9)))))
    cut = Cut((nx * along, ny * along, 0.0), normal, _waves(rng, float(rng.uniform(0.7, 1.6))))
    reach = 0.85 * femur.neck_half_width
    _, line, _ = cut.axes()
    down = -line if line[1] > 0 else line
    pivot = (nx * along + down[0] * reach, ny * along + down[1] * reach, 0.0)
    return cut, pivot


def _junction(femur: Femur) -> float:
    """Where the head ends and the neck begins, mm along the neck axis."""
    return math.sqrt(max(femur.head_radius**2 - femur.neck_half_width**2, 1.0))


def _valgus(rng: np.random.Generator, femur: Femur, leg: Leg) -> Break:
    border = rng.random() < 0.08
    valgus = float(rng.uniform(0.0, 4.0)) if border else truncated_normal(rng, 10.0, 5.0, 3.0, 25.0)
    tilt_back = truncated_normal(rng, 14.0, 10.0, 0.0, 45.0)
    impacted = truncated_normal(rng, 3.6, 1.6, 1.0 if border else 2.0, 8.0)
    cut, pivot = _neck_cut(
        rng, femur, _junction(femur) + float(rng.uniform(0.0, 12.0)), float(rng.uniform(35, 65))
    )
    nx, ny = femur.neck_axis
    # valgus: the neck end of the head piece dips; posterior tilt: it comes forward
    tilt = rotation((0, 0, 1), -valgus) @ rotation((-ny, nx, 0), -tilt_back)
    lying = leg_rotation(femur.anteversion_deg + leg.external_rotation, leg.flexion, leg.abduction)
    shift = lying @ np.array([-nx, -ny, 0.0]) * impacted
    head, distal = _place(femur, leg, cut, pivot, tilt, float(rng.uniform(0.0, 10.0)), shift)
    drawn = {"valgus_deg": valgus, "posterior_tilt_deg": tilt_back, "impaction_mm": impacted}
    return Break(
        FractureOutcome.VF,
        "garden I border" if border else "garden I",
        (head, distal),
        ((cut, (0, 1)),),
        impaction=float(rng.uniform(0.03, 0.16)),
        border_margin=min(1.0, valgus / 10.0),
        drawn=drawn,
    )


def _displaced(rng: np.random.Generator, femur: Femur, leg: Leg) -> Break:
    pick = rng.random()
    pauwels = float(rng.uniform(30, 70))
    along = _junction(femur) + float(rng.uniform(0.0, 9.0))
    if rng.random() < 0.3:  # transcervical
        along = femur.neck_length * float(rng.uniform(0.48, 0.66))
    cut, pivot = _neck_cut(rng, femur, along, pauwels)
    if pick < 0.08:
        subtype, varus, slide, up = "garden III border", rng.uniform(3, 9), rng.uniform(1.5, 4), 0.0
        extra = rng.uniform(0, 12)
    elif pick < 0.54:
        subtype, varus, slide, up = "garden III", rng.uniform(10, 35), rng.uniform(3, 12), rng.uniform(0, 6)
        extra = rng.uniform(5, 35)
    else:
        subtype, varus, slide, up = "garden IV", rng.normal(0, 6), rng.uniform(3, 16), rng.uniform(10, 30)
        extra = rng.uniform(20, 60)
    tilt = rotation((0, 0, 1), float(varus)) @ rotation((1, 0, 0), float(rng.normal(0, 10)))
    if subtype == "garden IV":
        tilt = tilt @ rotation((0, 1, 0), float(rng.normal(0, 15)))
    _, line, _ = cut.axes()
    line = line if line[1] > 0 else -line
    # the distal piece slides up along the fracture; apart by little, so that Garden III keeps contact
    shift = line * float(slide) * (0.8 if subtype != "garden IV" else 0.3) + np.array([0.0, float(up), 0.0])
    lateral = float(rng.uniform(0.0, 2.0) if subtype != "garden IV" else rng.uniform(0.0, 14.0))
    shift = shift + np.array([lateral, 0.0, float(rng.normal(0, 4))])
    head, distal = _place(femur, leg, cut, pivot, tilt, float(extra), shift)
    drawn = {"varus_deg": float(varus), "slide_mm": float(slide), "proximal_mm": float(up), "lateral_mm": lateral,
             "extra_external_deg": float(extra), "pauwels_deg": pauwels}  # fmt: skip
    margin = min(1.0, float(abs(varus)) / 15.0) if subtype != "garden IV" else 1.0
    return Break(FractureOutcome.DF, subtype, (head, distal), ((cut, (0, 1)),), 0.0, margin, drawn)


def _oblique_cut(rng: np.random.Generator, femur: Femur) -> tuple[Cut, Vec]:
    """Along the intertrochanteric line, and the medial contact point."""
    lesser = femur.lesser_centre
    top = np.array([femur.offset + rng.uniform(-6.0, 7.0), femur.trochanter_tip - rng.uniform(9.0, 22.0)])
    low = np.array([femur.offset - femur.shaft_radius - 2.0, lesser[1] + rng.uniform(-4.0, 14.0)])
    line = top - low
    line /= np.linalg.norm(line)
    normal = (float(line[1]), float(-line[0]), float(np.tan(np.radians(rng.normal(0, 12)))))
    middle = (top + low) / 2
    cut = Cut((float(middle[0]), float(middle[1]), -3.0), normal, _waves(rng, float(rng.uniform(0.8, 2.0))))
    return cut, (float(low[0]), float(low[1]), 0.0)


def _trochanteric(rng: np.random.Generator, femur: Femur, leg: Leg) -> Break:
    cut, pivot = _oblique_cut(rng, femur)
    varus = float(rng.uniform(0.0, 10.0))
    gap, slide = float(rng.uniform(0.4, 3.0)), float(rng.uniform(-1.5, 4.0))
    tilt = rotation((0, 0, 1), varus)
    m, line, _ = cut.axes()
    lying = leg_rotation(femur.anteversion_deg + leg.external_rotation, leg.flexion, leg.abduction)
    # varus closes the medial and opens the lateral side about the pivot
    shift = lying @ (m * gap + line * (slide if line[1] > 0 else -slide))
    head, distal = _place(femur, leg, cut, pivot, tilt, float(rng.uniform(0.0, 15.0)), shift)
    drawn = {"varus_deg": varus, "gap_mm": gap, "slide_mm": slide}
    return Break(
        FractureOutcome.SF, "A1", (head, distal), ((cut, (0, 1)),), float(rng.uniform(0.0, 0.05)), None, drawn
    )


def _unstable(rng: np.random.Generator, femur: Femur, leg: Leg) -> Break:
    return _reverse(rng, femur, leg) if rng.random() < 0.22 else _postero_medial(rng, femur, leg)


def _postero_medial(rng: np.random.Generator, femur: Femur, leg: Leg) -> Break:
    """A2: the oblique line and a free lesser trochanter, often a piece of the greater too."""
    cut, pivot = _oblique_cut(rng, femur)
    share = float(
        rng.uniform(0.0, 1.0)
    )  # 0: medial contact, 1: contact in the middle, the medial side driven in
    pivot = tuple((1 - share) * a + share * b for a, b in zip(pivot, cut.point, strict=True))  # type: ignore[assignment]
    varus, shortening = float(rng.uniform(8.0, 35.0)), float(rng.uniform(0.0, 14.0))
    lateral, extra = float(rng.uniform(-7.0, 6.0)), float(rng.uniform(5.0, 50.0))
    tilt = rotation((0, 0, 1), varus) @ rotation((1, 0, 0), float(rng.normal(0, 7)))
    shift = np.array([lateral, shortening, float(rng.normal(0, 4))])
    head, distal = _place(femur, leg, cut, pivot, tilt, extra, shift)
    lesser = femur.lesser_centre
    chunk = Chunk(
        (lesser[0] - 2.0, lesser[1] + float(rng.uniform(-2, 4)), lesser[2]),
        (float(rng.uniform(12, 16)), float(rng.uniform(15, 21)), float(rng.uniform(12, 17))),
        _waves(rng, 1.5),
    )
    pull = np.array([-float(rng.uniform(2.0, 16.0)), float(rng.uniform(3.0, 19.0)), 0.0])
    spin = rotation((0, 0, 1), float(rng.normal(0, 18))) @ distal.turn
    centre = np.asarray(chunk.centre)
    free = Piece("lesser", spin, distal.turn @ centre + distal.shift + pull - spin @ centre, ((chunk, 1.0),))
    head = Piece("head", head.turn, head.shift, (*head.sides, (chunk, -1.0)))
    sides: tuple[Side, ...] = (*distal.sides, (chunk, -1.0))
    pieces = [head, Piece("distal", distal.turn, distal.shift, sides), free]
    zones: list[tuple[Cut | Chunk, tuple[int, ...]]] = [(cut, (0, 1)), (chunk, (1, 2))]
    if rng.random() < 0.45:
        base = femur.neck_base[1]
        point = (femur.offset + 6.0, base + float(rng.uniform(-14.0, 6.0)), -4.0)
        roof = Cut(
            point, (-0.25 + float(rng.normal(0, 0.25)), -1.0, float(rng.normal(0, 0.2))), _waves(rng, 1.2)
        )
        up = np.array([float(rng.uniform(-2, 8)), float(rng.uniform(2, 10)), 0.0])
        pieces[1] = Piece("distal", distal.turn, distal.shift, (*sides, (roof, -1.0)))
        pieces.append(Piece("greater", distal.turn, distal.shift + up, (*sides, (roof, 1.0))))
        zones.append((roof, (1, 3)))
    drawn = {"varus_deg": varus, "shortening_mm": shortening, "lateral_mm": lateral, "extra_external_deg": extra,
             "lesser_shift_mm": float(np.linalg.norm(pull))}  # fmt: skip
    impaction = float(rng.uniform(0.0, 0.06))
    return Break(FractureOutcome.UF, "A2", tuple(pieces), tuple(zones), impaction, None, drawn)


def _reverse(rng: np.random.Generator, femur: Femur, leg: Leg) -> Break:
    """A3: from medial above the lesser trochanter to lateral below the vastus ridge, or transverse."""
    inner = np.array([femur.offset - femur.shaft_radius, femur.lesser_level + rng.uniform(4.0, 16.0)])
    outer = np.array([femur.offset + femur.shaft_radius, femur.lesser_level - rng.uniform(-10.0, 16.0)])
    line = outer - inner
    line /= np.linalg.norm(line)
    normal = (float(line[1]), float(-line[0]), float(rng.normal(0, 0.25)))
    middle = (inner + outer) / 2
    cut = Cut((float(middle[0]), float(middle[1]), 0.0), normal, _waves(rng, float(rng.uniform(1.0, 2.4))))
    varus, medial = float(rng.uniform(10.0, 35.0)), float(rng.uniform(0.0, 20.0))
    shortening, extra = float(rng.uniform(2.0, 20.0)), float(rng.uniform(10.0, 50.0))
    tilt = rotation((0, 0, 1), varus) @ rotation((1, 0, 0), float(rng.normal(0, 8)))
    shift = np.array([-medial, shortening, float(rng.normal(0, 5))])
    head, distal = _place(femur, leg, cut, cut.point, tilt, extra, shift)
    drawn = {
        "varus_deg": varus,
        "medial_mm": medial,
        "shortening_mm": shortening,
        "extra_external_deg": extra,
    }
    return Break(FractureOutcome.UF, "A3", (head, distal), ((cut, (0, 1)),), 0.0, None, drawn)
