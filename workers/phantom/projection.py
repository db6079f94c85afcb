"""Cone-beam projection: path lengths through solids, Beer-Lambert at 55 keV, scatter and noise.

55 keV is the effective energy behind 20 cm of patient at 80 kVp, 3 mm Al. Linear attenuation
coefficients are interpolated (log-log) from the ICRU-44 / NIST values at 50 and 60 keV.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from workers.phantom.fields import Coordinates

#: linear attenuation in 1/cm at 50 and 60 keV
TABLE: dict[str, tuple[float, float]] = {
    "cortical": (0.815, 0.604),
    "muscle": (0.238, 0.215),
    "fat": (0.202, 0.188),
    "marrow": (0.207, 0.193),
    "water": (0.227, 0.206),
}


def attenuation(material: str, energy_kev: float = 55.0) -> float:
    """Linear attenuation coefficient in 1/cm, for 50 to 60 keV."""
    low, high = TABLE[material]
    share = math.log(energy_kev / 50.0) / math.log(60.0 / 50.0)
    return low * (high / low) ** share


MU = {name: attenuation(name) for name in TABLE}


@dataclass(frozen=True)
class Geometry:
    """A vertical beam on a flat detector. World: x, y, z as in anatomy.py, mm; tube at +z.

    centre_mm is the (x, y) of the central ray, which hits the detector at centre_px (column, row,
    corner origin). The plane z = 0 lies oid_mm above the detector.
    """

    sid_mm: float
    oid_mm: float
    pitch_mm: float  #: detector pixel
    rows: int
    columns: int
    centre_mm: tuple[float, float]
    centre_px: tuple[float, float]

    @property
    def magnification(self) -> float:
        """Of the plane z = 0."""
        return self.sid_mm / (self.sid_mm - self.oid_mm)

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3) mm in the world to (n, 2) pixels (column, row), corner origin."""
        scale = self.sid_mm / (self.sid_mm - self.oid_mm - points[:, 2]) / self.pitch_mm
        column = self.centre_px[0] + (points[:, 0] - self.centre_mm[0]) * scale
        row = self.centre_px[1] - (points[:, 1] - self.centre_mm[1]) * scale
        return np.stack([column, row], axis=1)

    def plane(self, z_mm: float = 0.0) -> tuple[Tensor, Tensor]:
        """World x (1, columns) and y (rows, 1) of every pixel centre in the plane z, mm."""
        scale = (self.sid_mm - self.oid_mm - z_mm) / self.sid_mm * self.pitch_mm
        column = torch.arange(self.columns, dtype=torch.float32) + 0.5
        row = torch.arange(self.rows, dtype=torch.float32) + 0.5
        x = (column - self.centre_px[0]) * scale + self.centre_mm[0]
        y = (self.centre_px[1] - row) * scale + self.centre_mm[1]
        return x[None, :], y[:, None]


@dataclass(frozen=True)
class Slab:
    """A window of the detector, seen through evenly spaced planes z: where rays are marched.

    Distances are computed on a lattice of every `stride`-th pixel and `depth_step_mm` and are
    interpolated between; surfaces bend too little for that to matter (sagitta under 0.2 mm).
    """

    column: int
    row: int
    width: int  #: in lattice cells
    height: int
    stride: int
    z_min: float
    depth_step_mm: float
    planes: int

    @classmethod
    def around(
        cls, geometry: Geometry, points: NDArray[np.float64], stride: int, step: float
    ) -> "Slab | None":
        """The slab that holds `points` (n, 3) mm, clipped to the detector; None when it misses it."""
        pixels = geometry.project(points)
        low = np.maximum(np.floor(pixels.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(pixels.max(0)).astype(int), [geometry.columns - 1, geometry.rows - 1])
        if (high <= low).any():
            return None
        cells = -(-(high - low) // stride)
        z_min, z_max = float(points[:, 2].min()), float(points[:, 2].max())
        planes = max(2, math.ceil((z_max - z_min) / step) + 1)
        return cls(int(low[0]), int(low[1]), int(cells[0]), int(cells[1]), stride, z_min, step, planes)

    def lattice(self, geometry: Geometry) -> Coordinates:
        """World coordinates of the lattice: x (planes, 1, w + 1), y (planes, h + 1, 1), z (planes, 1, 1)."""
        z = self.z_min + torch.arange(self.planes, dtype=torch.float32) * self.depth_step_mm
        scale = ((geometry.sid_mm - geometry.oid_mm - z) * (geometry.pitch_mm / geometry.sid_mm))[:, None]
        column = self.column + 0.5 + torch.arange(self.width + 1, dtype=torch.float32) * self.stride
        row = self.row + 0.5 + torch.arange(self.height + 1, dtype=torch.float32) * self.stride
        x = (column - geometry.centre_px[0])[None] * scale + geometry.centre_mm[0]
        y = (geometry.centre_px[1] - row)[None] * scale + geometry.centre_mm[1]
        return x[:, None, :], y[:, :, None], z[:, None, None]

    def obliquity(self, geometry: Geometry) -> Tensor:
        """Ray length per mm of depth, (h x stride, w x stride)."""
        u = (
            self.column + 0.5 + torch.arange(self.width * self.stride) - geometry.centre_px[0]
        ) * geometry.pitch_mm
        v = (
            self.row + 0.5 + torch.arange(self.height * self.stride) - geometry.centre_px[1]
        ) * geometry.pitch_mm
        return torch.sqrt(1.0 + (u[None, :].square() + v[:, None].square()) / geometry.sid_mm**2)

    def add_to(self, image: Tensor, patch: Tensor) -> None:
        """Add a patch of this window to the whole picture, in place."""
        target = image[self.row : self.row + patch.shape[0], self.column : self.column + patch.shape[1]]
        target += patch[: target.shape[0], : target.shape[1]]

    def length(self, distance: Tensor, edge: Tensor | None = None) -> Tensor:
        """mm of depth inside a solid given on the lattice, (h x stride, w x stride) pixels.

        The distance is bilinear in a lattice cell and linear between planes: the part of a step that
        is inside is -min(d0, d1) / |d1 - d0|, at least 0 and at most 1. `edge` is a second field, the
        solid ends where it is positive; the two are interpolated apart, so that a cut stays sharp.
        Only cells that a surface passes are looked at pixel by pixel.
        """
        fields = [distance] if edge is None else [distance, edge.expand_as(distance)]
        low, high = _extremes(fields[0])
        if edge is not None:
            low, high = (torch.maximum(a, b) for a, b in zip((low, high), _extremes(fields[1]), strict=True))
        low, high = torch.minimum(low[1:], low[:-1]), torch.maximum(high[1:], high[:-1])
        passed = ((low < 0.0) & (high > 0.0)).flatten(1)  # (planes - 1, cells)
        fine = (high <= 0.0).sum(0, dtype=torch.float32).view(-1, 1).repeat(1, self.stride**2)
        flat = [f.flatten(1) for f in fields]
        weights = self._weights()
        for step in range(self.planes - 1):
            cells = passed[step].nonzero()[:, 0]
            if len(cells) == 0:
                continue
            corner = cells + torch.div(
                cells, self.width, rounding_mode="floor"
            )  # lattice rows are one longer
            ends = []
            for plane in (step, step + 1):
                values = [_mix(f[plane], corner, self.width + 1, weights) for f in flat]
                ends.append(values[0] if edge is None else torch.maximum(values[0], values[1]))
            rise = (ends[1] - ends[0]).abs_().add_(1e-3)
            fine[cells] += torch.minimum(ends[0], ends[1]).neg_().div_(rise).clamp_(0.0, 1.0)
        fine = fine.mul_(self.depth_step_mm).view(self.height, self.width, self.stride, self.stride)
        return fine.permute(0, 2, 1, 3).reshape(self.height * self.stride, self.width * self.stride)

    def _weights(self) -> Tensor:
        """(4, stride x stride) bilinear weights of a cell's corners for its pixels."""
        t = torch.arange(self.stride, dtype=torch.float32) / self.stride
        low, high = 1.0 - t, t
        pairs = [(low, low), (low, high), (high, low), (high, high)]
        return torch.stack([(r[:, None] * c[None, :]).reshape(-1) for r, c in pairs])


def _extremes(lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest corner of each cell: (planes, h + 1, w + 1) to (planes, h, w) twice."""
    above, below = lattice[:, :-1], lattice[:, 1:]
    low, high = torch.minimum(above, below), torch.maximum(above, below)
    return torch.minimum(low[..., :-1], low[..., 1:]), torch.maximum(high[..., :-1], high[..., 1:])


def _mix(plane: Tensor, corner: Tensor, below: int, weights: Tensor) -> Tensor:
    """Pixels (n, m) of the cells whose upper left corners are `corner`, summed in a fixed order."""
    total = plane.index_select(0, corner)[:, None] * weights[0]
    for k, step in ((1, 1), (2, below), (3, below + 1)):
        total = torch.addcmul(total, plane.index_select(0, corner + step)[:, None], weights[k])
    return total


def blur(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of a (rows, columns) picture, edges repeated; wide ones on a smaller copy."""
    if sigma_px < 0.05:
        return image
    shrink = max(1, int(sigma_px / 4.0))
    rows, columns = image.shape
    work = image[None, None]
    if shrink > 1:
        small = (max(4, rows // shrink), max(4, columns // shrink))
        work = functional.interpolate(work, size=small, mode="area")
        sigma_px = sigma_px * small[0] / rows
    radius = max(1, math.ceil(3.0 * sigma_px))
    radius = min(radius, work.shape[2] - 1, work.shape[3] - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma_px) ** 2)
    shares: list[float] = (taps / taps.sum()).tolist()
    work = _convolve(work[0, 0], shares, 0)
    work = _convolve(work, shares, 1)[None, None]
    if shrink > 1:
        work = functional.interpolate(work, size=(rows, columns), mode="bilinear", align_corners=False)
    return work[0, 0]


def _convolve(image: Tensor, taps: list[float], axis: int) -> Tensor:
    """Shifted sums in a fixed order: the same pixels whatever the number of threads."""
    radius = len(taps) // 2
    pad = (0, 0, radius, radius) if axis == 0 else (radius, radius, 0, 0)
    wide = functional.pad(image[None, None], pad, mode="replicate")[0, 0]
    size = image.shape[axis]
    total = wide.narrow(axis, radius, size) * taps[radius]
    for k in range(radius):
        pair = wide.narrow(axis, k, size) + wide.narrow(axis, 2 * radius - k, size)
        total.add_(pair, alpha=taps[k])
    return total


@dataclass(frozen=True)
class Exposure:
    """How the detector sees the beam."""

    scatter_to_primary: float
    scatter_sigma_mm: float
    quanta: float  #: detected per pixel of 0.143 mm behind the middle of the hip, after DQE
    focal_spot_mm: float
    mtf_sigma_mm: float  #: of the scintillator
    electronic: float  #: noise in quanta
    white_grain: float  #: share of the quantum noise that is not blurred


def expose(
    thickness: Tensor, geometry: Geometry, exposure: Exposure, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(signal, noise SD) in units of the mean signal in the middle; thickness = sum of mu x L.

    Beer-Lambert, focal-spot and scintillator blur, scatter as a wide blur of the primary scaled to
    the scatter-to-primary ratio, quantum noise blurred as the signal is, electronic noise white.
    """
    primary = torch.exp(-thickness)
    rows, columns = primary.shape
    middle = primary[rows // 4 : 3 * rows // 4, columns // 4 : 3 * columns // 4]
    level = max(float(middle.double().cpu().numpy().mean()), 1e-9)  # torch's mean depends on the threads
    primary = (primary / level).clamp_max_(40.0)
    mtf_px = exposure.mtf_sigma_mm / geometry.pitch_mm
    spot_px = 0.42 * exposure.focal_spot_mm * (geometry.magnification - 1.0) / geometry.pitch_mm
    scatter = (
        blur(primary.clamp_max(8.0), exposure.scatter_sigma_mm / geometry.pitch_mm)
        * exposure.scatter_to_primary
    )
    signal = blur(primary, math.hypot(mtf_px, spot_px)) + scatter
    signal = signal / (1.0 + exposure.scatter_to_primary)
    quanta = exposure.quanta * (geometry.pitch_mm / 0.143) ** 2
    deviation = torch.sqrt(signal / quanta + (exposure.electronic / quanta) ** 2)
    grain = torch.from_numpy(rng.standard_normal((rows, columns), dtype=np.float32))
    soft = blur(torch.from_numpy(rng.standard_normal((rows, columns), dtype=np.float32)), mtf_px)
    share = exposure.white_grain
    return signal + deviation * (share * grain + (1.0 - share) * soft), deviation
