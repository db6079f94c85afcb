"""Sacrum, coccyx and the lower lumbar vertebrae.

Frame, mm: that of the whole pelvis, origin midway between the hip centres, x to the patient's left, y
towards the head, z anterior. All parts are symmetric about x = 0 but for a tilt.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.fields import Coordinates, blend, capsule, ellipsoid
from workers.phantom.patient import Patient
from workers.phantom.random import truncated_normal


@dataclass(frozen=True)
class Sacrum:
    """Shape and bone quality of sacrum and coccyx, mm."""

    size: float
    top: float  #: y of the promontory
    front: float  #: z of the promontory
    width: float  #: half width at the first segment
    curve: float  #: how far it goes back
    foramen: float  #: radius
    cortex: float
    bvf: float

    def distance(self, p: Coordinates) -> tuple[Tensor, Tensor]:
        """Signed distances of front and back, and of sides and holes, which have no cortex to speak of."""
        x, y, z = p
        across = x.abs()
        down = (self.top - y) * (1.0 / self.size)  # 0 at the promontory, about 110 at the coccyx
        axis = self.front - self.curve * torch.sin((down * (1.9 / 112.0)).clamp(-0.3, 2.1))
        thick = 5.0 + 9.0 * torch.exp(-(down.clamp_min(0.0)) / 42.0)
        taper = 0.60 * torch.sigmoid((down - 56.0) * 0.085) + 0.17 * torch.sigmoid((down - 86.0) * 0.4)
        wide = self.width * (1.0 - taper - 0.0012 * down.clamp_min(0.0))
        hump = (
            4.0 * torch.exp(-((across / 7.0).square())) * torch.sigmoid((90.0 - down) * 0.2)
        )  # median crest
        rough = 1.6 * torch.sin(y * 0.21 + 1.0) + 1.0 * torch.sin(y * 0.47 + x * 0.02)
        thick = thick * (1.0 - 0.45 * (across / (wide + 1.0)).square().clamp_max(1.0))
        plate = ((z - axis + hump * 0.5).abs() - thick - hump * 0.5) * 0.8
        side = (across - wide - rough) * 0.85
        top = (y - self.top) * 0.80 + (z - self.front) * 0.55 + 0.34 * (across - 22.0).clamp_min(0.0)
        bottom = down - 104.0
        k = 2.2
        solid = torch.logaddexp(plate.clamp(-60, 60) / k, torch.maximum(top, bottom).clamp(-60, 60) / k) * k
        cut = torch.full_like(solid, -60.0)
        for level, out, share in ((24.0, 23.0, 1.0), (43.0, 20.0, 0.9), (60.0, 17.5, 0.8), (75.0, 15.0, 0.7)):
            hole = torch.sqrt(
                (across - out).square() * 0.7 + (down - level - 0.5 * (out - across)).square() + 1e-6
            )
            cut = torch.maximum(cut, self.foramen * share - hole)
        # what is seen of the holes is their front half
        return solid, torch.maximum(side, torch.minimum(cut, z - axis + 2.0))

    def corners(self) -> NDArray[np.float64]:
        """Corners of a box around it, (8, 3)."""
        spans = ((-self.width - 3, self.width + 3), (self.top - 120.0 * self.size, self.top + 24.0),
                 (self.front - self.curve - 22.0, self.front + 18.0))  # fmt: skip
        return np.array([[a, b, c] for a in spans[0] for b in spans[1] for c in spans[2]])


@dataclass(frozen=True)
class Vertebra:
    """A lumbar vertebra; centre of its body in the pelvis frame, mm and degrees."""

    centre: tuple[float, float, float]
    lean: float  #: scoliosis, tangent
    half_width: float
    half_depth: float
    half_height: float
    waist: float
    spur: float  #: height of the rim spurs
    cortex: float
    bvf: float

    def distance(self, p: Coordinates) -> Tensor:
        """Signed distance of body, arch and processes."""
        x, y, z = (v - c for v, c in zip(p, self.centre, strict=True))
        y = y - x * self.lean
        rim = ((y.abs() / self.half_height).clamp_max(1.1)).pow(3)
        radius = 1.0 - self.waist * (1.0 - rim) + self.spur / self.half_width * rim * rim
        body = (
            torch.sqrt((x / self.half_width).square() + (z / self.half_depth).square() + 1e-6) - radius
        ) * (0.8 * self.half_depth)
        ends = y.abs() - self.half_height
        body = torch.logaddexp(body.clamp(-40, 40) / 1.2, ends.clamp(-40, 40) / 1.2) * 1.2
        q = (x.abs(), y, z)
        w, d = self.half_width, self.half_depth
        parts = [
            body,
            capsule(q, (0.58 * w, 5.0, -d + 2), (0.66 * w, 3.0, -d - 16), 5.2),  # pedicle
            capsule(q, (0.66 * w, 3.0, -d - 14), (1.55 * w, 5.0, -d - 12), 4.4, 3.4),  # transverse process
            capsule(q, (0.66 * w, 0.0, -d - 16), (0.10 * w, -9.0, -d - 26), 4.6, 4.0),  # lamina
            ellipsoid(q, (0.66 * w, -13.0, -d - 17), (5.5, 9.0, 6.0)),  # joints
            ellipsoid(q, (0.62 * w, 12.0, -d - 15), (5.0, 7.0, 5.0)),
            ellipsoid(q, (0.0, -11.0, -d - 34), (3.6, 10.5, 14.0)),  # spinous process
        ]
        return blend(parts, 1.6)

    def corners(self) -> NDArray[np.float64]:
        """Corners of a box around it, (8, 3) in the pelvis frame."""
        reach = 1.75 * self.half_width + 5.0
        spans = ((-reach, reach), (-28.0, 26.0), (-self.half_depth - 50.0, self.half_depth + 5.0))
        box = np.array([[a, b, c] for a in spans[0] for b in spans[1] for c in spans[2]])
        return box + np.asarray(self.centre)


def draw_sacrum(rng: np.random.Generator, patient: Patient) -> Sacrum:
    """The patient's sacrum."""
    size = patient.size * truncated_normal(rng, 1.0, 0.04, 0.88, 1.12)
    return Sacrum(
        size=size,
        top=truncated_normal(rng, 92.0 * size, 5.0, 76.0, 108.0),
        front=truncated_normal(rng, -34.0, 5.0, -48.0, -20.0),
        width=truncated_normal(rng, 50.0 * size, 2.5, 43.0, 58.0),
        curve=truncated_normal(rng, 58.0, 7.0, 40.0, 74.0),
        foramen=truncated_normal(rng, 5.2, 0.8, 3.5, 7.5),
        cortex=float(np.clip(truncated_normal(rng, 0.9, 0.2, 0.5, 1.5) * patient.quality**0.4, 0.4, 1.5)),
        bvf=float(np.clip(0.14 * patient.quality * rng.uniform(0.7, 1.3), 0.03, 0.22)),
    )


def draw_lumbar(rng: np.random.Generator, patient: Patient, sacrum: Sacrum, count: int = 4) -> list[Vertebra]:
    """The lower lumbar vertebrae from the fifth upwards, with scoliosis, disc loss and spurs."""
    lean, drift = float(rng.normal(0.0, 0.03)), 0.0
    bend = float(rng.normal(0.0, 0.035))
    half_height = truncated_normal(rng, 14.3 * patient.size, 0.8, 11.0, 16.5)
    half_width = truncated_normal(rng, (25.0 if patient.female else 27.5) * patient.size, 1.4, 20.0, 31.0)
    y, z = sacrum.top + half_height - 9.0, sacrum.front + 2.0
    out = []
    worn = float(abs(rng.normal(0.0, 2.2)) * (1.0 + 0.5 * max(patient.old, -1.0)))
    for _ in range(count):
        disc = truncated_normal(rng, 9.5 - 0.5 * worn, 1.8, 2.5, 13.0)
        y += disc * 0.5
        crush = 1.0 - (float(rng.uniform(0.1, 0.45)) if rng.random() < 0.06 else 0.0)
        out.append(
            Vertebra(
                centre=(drift, y, z), lean=lean, half_width=half_width, half_depth=0.70 * half_width,
                half_height=half_height * crush, waist=truncated_normal(rng, 0.12, 0.03, 0.04, 0.2),
                spur=min(7.0, worn * float(rng.uniform(0.3, 1.6))),
                cortex=float(np.clip(rng.normal(0.65, 0.15) * patient.quality**0.4, 0.3, 1.1)),
                bvf=float(np.clip(0.15 * patient.quality * rng.uniform(0.8, 1.2), 0.03, 0.25)),
            )
        )  # fmt: skip
        step = 2.0 * half_height * crush + disc * 0.5
        y, drift, z = y + step, drift + step * lean, z + step * 0.10
        lean += bend
        half_width *= 0.98
    return out
