"""The proximal femur: shape, cortical shell and bone quality.

The femur's own ("neck") frame, mm, for a LEFT hip: origin in the head centre, x lateral, shaft along -y,
the neck in the plane z = 0, z anterior. Turning it about y by anteversion plus external rotation brings it
into the patient.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.fields import Coordinates, Vec, blend, capsule, ellipsoid, smooth_step, sphere
from workers.phantom.patient import Patient
from workers.phantom.random import truncated_normal


@dataclass(frozen=True)
class Femur:
    """Shape and bone quality of a proximal femur. Lengths in mm, angles in degrees."""

    head_radius: float
    neck_shaft_angle_deg: float
    anteversion_deg: float
    offset: float
    neck_half_width: float  #: superior-inferior half width at the waist
    neck_half_depth: float
    shaft_radius: float
    flare: float  #: how much wider the canal and the bone are at the lesser trochanter
    trochanter_tip: float  #: height of the greater trochanter over the head centre
    trochanter_breadth: float  #: factor on its size
    lesser_level: float  #: y of the lesser trochanter
    lesser_size: float  #: how proud it is
    lesser_angle_deg: float  #: behind the neck plane
    cortex_shaft: float
    cortex_calcar: float  #: infero-anterior neck
    cortex_superior: float  #: supero-posterior neck
    cortex_thin: float  #: head and trochanters
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
    def greater_tip(self) -> Vec:
        """Highest point of the greater trochanter."""
        return self.offset + 4.0, self.trochanter_tip, -12.0

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
        waist = 0.46 * length
        beyond = (along - waist) * (1.0 / length)
        flare = beyond.square() * (0.80 * self.neck_half_width)
        # the neck sits a little behind and below the head's middle (head-neck offset)
        stretched = (z + 1.5) * (self.neck_half_width / self.neck_half_depth)
        neck = torch.sqrt((across - 0.4).square() + stretched.square()) - self.neck_half_width - flare
        neck = torch.maximum(neck, (along - waist).abs() - 0.54 * length)
        below = (self.lesser_level - y).clamp_min(0.0)
        radius = self.shaft_radius + self.flare * torch.exp(below * (-1.0 / 30.0))
        lean = 2.5 * torch.exp(below * (-1.0 / 25.0))
        bow = below.square() * 1.2e-4
        above = (y - base_y + 14.0).clamp_min(0.0)
        shaft = torch.sqrt((x - self.offset + lean).square() + (z - bow).square() + above.square()) - radius
        tip, b, lesser = self.trochanter_tip, self.trochanter_breadth, self.lesser_centre
        parts = [
            sphere(p, (0.0, 0.0, 0.0), self.head_radius),
            neck,
            shaft,
            ellipsoid(p, (self.offset + 8.5, tip - 20.0, -7.0), (12.5 * b, 19.0 * b, 16.5 * b)),
            ellipsoid(p, (self.offset + 7.0, base_y - 8.0, -2.0), (16.0 * b, 25.0, 16.5 * b)),
            ellipsoid(p, (self.offset + 1.0, tip - 9.5, -14.0), (9.5 * b, 9.5, 8.5 * b)),
            ellipsoid(p, lesser, (self.lesser_size, self.lesser_size * 1.45, self.lesser_size)),
            capsule(  # intertrochanteric crest
                p, (self.offset + 3.0, tip - 17.0, -18.0), (lesser[0] + 5, lesser[1] + 9, lesser[2]), 5.5
            ),
            capsule(  # linea aspera
                p, (lesser[0] + 7, lesser[1] - 8, -self.shaft_radius + 1), (self.offset, -240.0, -11.0), 3.5
            ),
        ]
        return blend(parts, 1.8)

    def cortex(self, p: Coordinates) -> Tensor:
        """Thickness of the cortical shell at p (neck frame): thick shaft and calcar, thin superior neck."""
        x, y, _ = p
        nx, ny = self.neck_axis
        along = x * nx + y * ny
        across = (x * -ny + y * nx) * (1.0 / self.neck_half_width)
        below = (self.lesser_level + 2.0 - y) * (1.0 / 11.0)
        shaft = torch.sigmoid(below)
        medial = torch.sigmoid((self.offset - x) * 0.25)
        on_neck = torch.sigmoid((along - 0.92 * self.head_radius) * 0.35) * medial * (1.0 - shaft)
        lower = smooth_step(-across, 0.25, 0.16) * torch.sigmoid((y - self.lesser_level + 20.0) * 0.2)
        thin = self.cortex_thin
        neck = self.cortex_superior + (self.cortex_calcar - self.cortex_superior) * lower
        # the shaft goes on thickening for some centimetres below the lesser trochanter
        deep = 0.72 + 0.28 * torch.sigmoid(below * 0.5 - 1.2)
        shaft_thickness = self.cortex_shaft * (0.84 + 0.16 * medial) * deep
        return thin + (shaft_thickness - thin) * shaft + (neck - thin) * on_neck

    def cover(self) -> NDArray[np.float64]:
        """A coarse cloud that covers the bone, (n, 3) in the neck frame: where rays have to be marched."""
        spans = ((-36.0, 92.0), (-250.0, 42.0), (-48.0, 42.0))
        x, y, z = torch.meshgrid(*(torch.arange(low, high, 6.0) for low, high in spans), indexing="ij")
        near = self.distance((x, y, z)) < 6.0
        return torch.stack([axis[near] for axis in (x, y, z)], dim=1).double().cpu().numpy()


def draw_femur(rng: np.random.Generator, patient: Patient) -> Femur:
    """The patient's femur. Sex moves all lengths; age moves cortex, spongiosa and neck-shaft angle."""
    old, size, quality = patient.old, patient.size, patient.quality
    while True:
        head = truncated_normal(rng, (21.6 if patient.female else 24.2) * size, 0.6, 18.5, 28.0)
        length = head / 22.0
        superior = (0.33 + (85.0 - patient.age_years) * 0.0217) * quality**0.5  # 1.63 mm at 25, 0.33 at 85
        calcar = (3.3 + (85.0 - patient.age_years) * 0.010) * quality**0.4  # 3.9 mm at 25, 3.3 at 85
        femur = Femur(
            head_radius=head,
            neck_shaft_angle_deg=truncated_normal(
                rng, (124.5 if patient.female else 123.0) - 1.0 * old, 5.5, 105.0, 145.0
            ),
            anteversion_deg=truncated_normal(rng, 16.0 if patient.female else 12.0, 9.0, -15.0, 45.0),
            offset=truncated_normal(rng, 42.9 * length**0.7, 4.5, 30.0, 58.0),
            neck_half_width=head * truncated_normal(rng, 0.70, 0.04, 0.61, 0.82),
            neck_half_depth=head * truncated_normal(rng, 0.61, 0.05, 0.50, 0.76),
            shaft_radius=truncated_normal(rng, 13.1 if patient.female else 14.1, 1.0, 10.5, 17.0),
            flare=truncated_normal(rng, 4.6 - 0.5 * old, 1.0, 2.0, 8.0),
            trochanter_tip=truncated_normal(rng, -1.0, 5.5, -14.0, 13.0),
            trochanter_breadth=truncated_normal(rng, 1.0 * length**0.7, 0.08, 0.78, 1.25),
            lesser_level=truncated_normal(rng, -64.0 * length**0.6, 4.0, -80.0, -50.0),
            lesser_size=truncated_normal(rng, 9.5 * length, 1.4, 6.0, 13.5),
            lesser_angle_deg=truncated_normal(rng, 42.0, 8.0, 18.0, 65.0),
            cortex_shaft=float(np.clip(truncated_normal(rng, 6.0, 0.9, 3.2, 9.5) * quality**0.55, 2.4, 9.5)),
            cortex_calcar=float(np.clip(truncated_normal(rng, calcar, 0.5, 1.0, 5.5), 1.0, 5.5)),
            cortex_superior=float(np.clip(truncated_normal(rng, superior, 0.2, -0.5, 2.5), 0.3, 2.2)),
            cortex_thin=float(np.clip(truncated_normal(rng, 0.75, 0.25, 0.3, 1.7) * quality**0.6, 0.3, 1.6)),
            bvf_head=float(np.clip(0.21 * quality * rng.uniform(0.7, 1.3), 0.05, 0.42)),
            bvf_neck=float(np.clip(0.135 * quality * rng.uniform(0.7, 1.3), 0.03, 0.30)),
            bvf_ward=float(np.clip(0.05 * quality * rng.uniform(0.6, 1.4), 0.01, 0.12)),
            bvf_trochanter=float(np.clip(0.11 * quality * rng.uniform(0.7, 1.3), 0.02, 0.25)),
        )
        if femur.neck_half_width >= 0.6 * head and femur.trochanter_tip > femur.neck_base[1] + 12.0:
            return femur


def vary_femur(rng: np.random.Generator, femur: Femur) -> Femur:
    """The other side of the same patient: alike within a few percent and degrees."""
    few = {
        name: getattr(femur, name) * float(np.exp(rng.normal(0.0, spread)))
        for name, spread in (
            ("head_radius", 0.01), ("offset", 0.03), ("neck_half_width", 0.02), ("neck_half_depth", 0.02),
            ("shaft_radius", 0.02), ("lesser_size", 0.08), ("cortex_shaft", 0.06), ("cortex_calcar", 0.08),
            ("bvf_head", 0.06), ("bvf_neck", 0.08), ("bvf_ward", 0.10), ("bvf_trochanter", 0.08),
        )
    }  # fmt: skip
    return replace(
        femur,
        **few,
        neck_shaft_angle_deg=femur.neck_shaft_angle_deg + float(rng.normal(0, 1.5)),
        anteversion_deg=femur.anteversion_deg + float(rng.normal(0, 4.0)),
        trochanter_tip=femur.trochanter_tip + float(rng.normal(0, 1.5)),
        lesser_level=femur.lesser_level + float(rng.normal(0, 1.5)),
    )
