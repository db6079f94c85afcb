"""The parametric hip: one proximal femur, the pelvis around it and the soft tissue.

Frames, all in mm for a LEFT hip (a right hip is the mirrored picture): origin in the head centre,
x lateral, y towards the head of the patient, z anterior. The femur's own ("neck") frame has the
shaft along -y and the neck in the plane z = 0; turning it about y by anteversion plus external
rotation brings it into the patient.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.phantom.fields import Coordinates, Vec, blend, capsule, ellipsoid, smooth_step, sphere
from workers.phantom.random import truncated_normal


@dataclass(frozen=True)
class Femur:
    """Shape and bone quality of a proximal femur. Lengths in mm, angles in degrees."""

    female: bool
    age_years: float
    head_radius: float
    neck_shaft_angle_deg: float
    anteversion_deg: float
    offset: float
    neck_half_width: float  #: superior-inferior half width at the waist
    neck_half_depth: float
    shaft_radius: float
    trochanter_tip: float  #: height of the greater trochanter over the head centre
    trochanter_breadth: float  #: factor on its size
    lesser_level: float  #: y of the lesser trochanter
    lesser_size: float  #: how proud it is
    lesser_angle_deg: float  #: behind the neck plane
    cortex_shaft: float
    cortex_calcar: float
    cortex_thin: float  #: head, trochanters, superior neck
    bvf_head: float  #: bone volume fractions of the spongiosa
    bvf_neck: float
    bvf_ward: float
    bvf_trochanter: float

    @property
    def neck_axis(self) -> tuple[float, float]:
        """Unit vector (x, y) from the head centre along the neck."""
        angle = math.radians(self.neck_shaft_angle_deg)
        return math.sin(angle), math.cos(angle)

    @property
    def neck_length(self) -> float:
        """Head centre to the shaft axis, along the neck."""
        return self.offset / self.neck_axis[0]

    @property
    def neck_base(self) -> Vec:
        """Where neck axis and shaft axis meet."""
        return self.offset, self.neck_length * self.neck_axis[1], 0.0

    @property
    def lesser_centre(self) -> Vec:
        """Middle of the lesser trochanter's body."""
        angle = math.radians(self.lesser_angle_deg)
        reach = self.shaft_radius * 0.55 + self.lesser_size
        return self.offset - 2.0 - reach * math.cos(angle), self.lesser_level, -reach * math.sin(angle)

    def distance(self, p: Coordinates) -> Tensor:
        """Signed distance of the periosteal surface; p in the neck frame."""
        x, y, z = p
        nx, ny = self.neck_axis
        length, base_y = self.neck_length, self.neck_base[1]
        along = x * nx + y * ny
        across = x * -ny + y * nx
        waist = 0.48 * length
        flare = ((along - waist) * (1.0 / length)).square() * (0.75 * self.neck_half_width)
        stretched = z * (self.neck_half_width / self.neck_half_depth)
        neck = torch.sqrt(across.square() + stretched.square()) - self.neck_half_width - flare
        neck = torch.maximum(neck, (along - waist).abs() - 0.56 * length)
        below = (self.lesser_level - y).clamp_min(0.0)
        radius = self.shaft_radius + 4.2 * torch.exp(below * (-1.0 / 32.0))
        lean = 2.5 * torch.exp(below * (-1.0 / 25.0))
        bow = below.square() * 1.2e-4
        shaft = torch.sqrt((x - self.offset + lean).square() + (z - bow).square()) - radius
        shaft = torch.maximum(shaft, y - (base_y + 2.0))
        tip, b, lesser = self.trochanter_tip, self.trochanter_breadth, self.lesser_centre
        parts = [
            sphere(p, (0.0, 0.0, 0.0), self.head_radius),
            neck,
            shaft,
            ellipsoid(p, (self.offset + 8.0, tip - 20.0, -6.0), (13.5 * b, 19.0 * b, 17.0 * b)),
            ellipsoid(p, (self.offset + 6.0, base_y - 8.0, -2.0), (17.0 * b, 24.0, 17.0 * b)),
            ellipsoid(p, (self.offset + 2.0, tip - 9.0, -13.0), (9.0 * b, 9.5, 9.0 * b)),
            ellipsoid(p, lesser, (self.lesser_size, self.lesser_size * 1.35, self.lesser_size)),
            capsule(
                p, (self.offset + 4.0, tip - 20.0, -17.0), (lesser[0] + 6, lesser[1] + 8, lesser[2]), 6.0
            ),
        ]
        return blend(parts, 1.9)

    def cortex(self, p: Coordinates) -> Tensor:
        """Thickness of the cortical shell at p (neck frame)."""
        x, y, _ = p
        nx, ny = self.neck_axis
        along = x * nx + y * ny
        across = x * -ny + y * nx
        shaft = torch.sigmoid((self.lesser_level + 2.0 - y) * (1.0 / 11.0))
        medial = torch.sigmoid((self.offset - x) * 0.25)
        calcar = smooth_step(-across, 0.35 * self.neck_half_width, 2.5)
        calcar = calcar * torch.sigmoid((along - 0.95 * self.head_radius) * 0.3) * medial
        calcar = calcar * torch.sigmoid((y - self.lesser_level + 20.0) * 0.2)
        shaft_thickness = self.cortex_shaft * (0.86 + 0.14 * medial)
        thin = self.cortex_thin
        return thin + (shaft_thickness - thin) * shaft + (self.cortex_calcar - thin) * calcar * (1.0 - shaft)


def draw_femur(rng: np.random.Generator) -> Femur:
    """A femur of a hip-fracture cohort: about 80 years old, mostly female (PHANTOM tables).

    Sex moves all lengths; age moves cortex, spongiosa and neck-shaft angle.
    """
    while True:
        female = bool(rng.random() < 0.7)
        age = truncated_normal(rng, 76.0, 13.0, 40.0, 99.0)
        old = (age - 76.0) / 13.0
        head = truncated_normal(rng, 21.6 if female else 24.2, 1.2, 18.5, 28.0)
        size = head / 22.0
        # one draw of bone quality moves all of it; tails reach the nearly invisible trochanters of real films
        quality = float(np.exp(rng.normal(-0.12 * old, 0.33)))
        femur = Femur(
            female=female,
            age_years=age,
            head_radius=head,
            neck_shaft_angle_deg=truncated_normal(
                rng, (126.0 if female else 124.0) - 1.0 * old, 5.5, 108.0, 145.0
            ),
            anteversion_deg=truncated_normal(rng, 16.0 if female else 12.0, 9.0, -15.0, 45.0),
            offset=truncated_normal(rng, 42.9 * size**0.7, 4.5, 30.0, 58.0),
            neck_half_width=head * truncated_normal(rng, 0.70, 0.04, 0.61, 0.82),
            neck_half_depth=head * truncated_normal(rng, 0.62, 0.05, 0.50, 0.76),
            shaft_radius=truncated_normal(rng, 13.1 if female else 14.1, 1.0, 10.5, 17.0),
            trochanter_tip=truncated_normal(rng, -1.0, 5.5, -14.0, 13.0),
            trochanter_breadth=truncated_normal(rng, 1.0 * size**0.7, 0.08, 0.78, 1.25),
            lesser_level=truncated_normal(rng, -64.0 * size**0.6, 4.0, -80.0, -50.0),
            lesser_size=truncated_normal(rng, 9.5 * size, 1.4, 6.0, 13.5),
            lesser_angle_deg=truncated_normal(rng, 42.0, 8.0, 18.0, 65.0),
            cortex_shaft=float(np.clip(truncated_normal(rng, 6.2, 0.8, 3.5, 9.0) * quality**0.5, 2.2, 9.0)),
            cortex_calcar=float(np.clip(truncated_normal(rng, 3.2, 0.6, 1.5, 5.5) * quality**0.5, 1.0, 5.5)),
            cortex_thin=float(np.clip(truncated_normal(rng, 0.85, 0.25, 0.3, 1.7) * quality**0.5, 0.3, 1.7)),
            bvf_head=float(np.clip(0.22 * quality * rng.uniform(0.75, 1.25), 0.05, 0.42)),
            bvf_neck=float(np.clip(0.115 * quality * rng.uniform(0.7, 1.3), 0.03, 0.25)),
            bvf_ward=float(np.clip(0.05 * quality * rng.uniform(0.6, 1.4), 0.01, 0.12)),
            bvf_trochanter=float(np.clip(0.09 * quality * rng.uniform(0.7, 1.3), 0.02, 0.22)),
        )
        if femur.neck_half_width >= 0.6 * head and femur.trochanter_tip > femur.neck_base[1] + 12.0:
            return femur


@dataclass(frozen=True)
class Pelvis:
    """Shape and bone quality of the pelvis, hip centre at the origin. mm and degrees."""

    head_radius: float
    joint_space: float
    midline: float  #: hip centre to the midplane
    inclination_deg: float
    anteversion_deg: float
    cover: float  #: how much less than a hemisphere the socket is, as sine
    wing_flare: float
    wing_height: float
    ramus_radius: float
    ischium_radius: float
    pubis_drop: float  #: symphysis below the hip centre
    cortex: float
    cortex_roof: float
    bvf: float

    @property
    def opening(self) -> Vec:
        """Unit vector along which the socket opens: lateral, down and a little forward."""
        tilt, turn = math.radians(self.inclination_deg), math.radians(self.anteversion_deg)
        return (
            math.sin(tilt) * math.cos(turn),
            -math.cos(tilt) * math.cos(turn),
            math.sin(turn),
        )

    def distance(self, p: Coordinates) -> tuple[Tensor, Tensor, Tensor]:
        """Signed distances of the uncut bone and of the socket's cut, and the cortex along the cut.

        p in the pelvis frame. The bone is where both distances are negative; its spongiosa where
        bone + self.cortex and cut + shell are.

        Space is folded at the midplane, so the other half stands where the field reaches it.
        """
        m = self.midline
        x = (p[0] + m).abs() - m
        y, z = p[1], p[2]
        q = (x, y, z)
        socket = self.head_radius + self.joint_space
        drop, flare = self.pubis_drop, self.wing_flare
        ramus, ischium = self.ramus_radius, self.ischium_radius
        # the wing is a plate between two parallel surfaces, cut out by an ellipse in its own plane
        wx, wz = 0.74, 0.67
        depth_along = x * wx + z * wz
        normal = (x - flare * (y - 20.0)) * wz - z * wx
        thickness = 5.0 + 9.0 * torch.exp((y - 22.0) * (-1.0 / 22.0)).clamp_max(1.2)
        outline = torch.sqrt(
            ((depth_along + 16.0 - 0.10 * y) * (1.0 / 66.0)).square()
            + ((y - 0.42 * self.wing_height) * (1.0 / (0.60 * self.wing_height))).square()
        )
        wing = -blend([thickness - (normal + 13.0).abs(), (1.0 - outline) * 60.0], 2.5)
        parts = [
            sphere(q, (-5.0, 4.0, -4.0), socket + 7.5),
            wing,
            capsule(q, (-10.0, 24.0, -6.0), (-64.0, 98.0, -58.0), 15.0, 12.0),  # towards the sacrum
            ellipsoid(q, (-m, 72.0, -58.0), (46.0, 66.0, 15.0)),  # sacrum
            capsule(q, (-24.0, 6.0, 12.0), (15.0 - m, 6.0 - drop, 40.0), ramus + 3.0, ramus),
            ellipsoid(q, (11.0 - m, -4.0 - drop, 40.0), (9.5, 19.0, 8.0)),
            capsule(q, (13.0 - m, -20.0 - drop, 36.0), (-34.0, -60.0, -20.0), ramus - 1.5, ramus + 1.0),
            capsule(q, (-14.0, -14.0, -20.0), (-30.0, -62.0, -24.0), ischium, ischium * 0.86),
            ellipsoid(q, (-27.0, -52.0, -22.0), (16.0, 21.0, 15.0)),
            capsule(q, (-22.0, -6.0, -26.0), (-42.0, -16.0, -36.0), 7.0, 3.0),  # ischial spine
        ]
        body = blend(parts, 2.2)
        ox, oy, oz = self.opening
        out = x * ox + y * oy + z * oz
        radial = torch.sqrt(x * x + y * y + z * z + 1e-9)
        beside = torch.sqrt((radial.square() - out.square()).clamp_min(1e-6))
        hollow = torch.where(out > 0.0, beside, radial) - socket  # the socket and what lies before it
        rim = (out + self.cover * socket) * 1.0
        cut = torch.maximum(-hollow, torch.minimum(rim, -(beside - socket - 11.0)))
        roof = torch.exp(-((radial - socket).square()) * (1.0 / 60.0)) * torch.sigmoid(y * 0.2)
        shell = self.cortex + (self.cortex_roof - self.cortex) * roof
        return body, cut, shell


def draw_pelvis(rng: np.random.Generator, femur: Femur) -> Pelvis:
    """A pelvis that fits the femur."""
    size = femur.head_radius / 22.0
    quality = float(np.clip(femur.bvf_head / 0.22, 0.3, 1.7))
    return Pelvis(
        head_radius=femur.head_radius,
        joint_space=truncated_normal(rng, 3.8, 0.8, 1.2, 5.8),
        midline=truncated_normal(rng, 88.0, 5.0, 74.0, 102.0),
        inclination_deg=truncated_normal(rng, 38.0, 4.5, 27.0, 50.0),
        anteversion_deg=truncated_normal(rng, 17.0, 6.5, 0.0, 35.0),
        cover=truncated_normal(rng, 0.16, 0.09, -0.10, 0.40),
        wing_flare=truncated_normal(rng, 0.30, 0.08, 0.10, 0.50),
        wing_height=truncated_normal(rng, 138.0 * size**0.6, 8.0, 110.0, 165.0),
        ramus_radius=truncated_normal(rng, 7.3 * size, 0.9, 5.0, 10.0),
        ischium_radius=truncated_normal(rng, 15.0 * size, 1.4, 11.5, 19.0),
        pubis_drop=truncated_normal(rng, 27.0, 6.0, 12.0, 42.0),
        cortex=float(np.clip(truncated_normal(rng, 1.5, 0.35, 0.7, 2.6) * quality**0.4, 0.4, 2.0)),
        cortex_roof=truncated_normal(rng, 2.4, 0.6, 1.2, 4.5),
        bvf=float(np.clip(0.14 * quality * rng.uniform(0.7, 1.3), 0.03, 0.25)),
    )
