"""Cone-beam rays through solids: where points fall on the detector, and path lengths.

World frame, mm: origin midway between the hip centres, x towards the patient's left (the right of the
picture), y towards the head, z towards the tube. Solids are signed distances, negative inside, sampled
on a lattice that follows the rays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.fields import Coordinates


@dataclass(frozen=True)
class Geometry:
    """A vertical beam on a flat detector.

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
        cls, geometry: Geometry, points: NDArray[np.float64], step_mm: float, depth_step_mm: float
    ) -> "Slab | None":
        """The slab that holds `points` (n, 3) mm, clipped to the detector; None when they miss it.

        step_mm: lattice step in the patient, across the rays.
        """
        stride = max(2, round(step_mm * geometry.magnification / geometry.pitch_mm))
        pixels = geometry.project(points)
        low = np.maximum(np.floor(pixels.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(pixels.max(0)).astype(int), [geometry.columns - 1, geometry.rows - 1])
        if (high <= low).any():
            return None
        cells = -(-(high - low) // stride)
        z_min, z_max = float(points[:, 2].min()), float(points[:, 2].max())
        planes = max(2, math.ceil((z_max - z_min) / depth_step_mm) + 1)
        return cls(
            int(low[0]), int(low[1]), int(cells[0]), int(cells[1]), stride, z_min, depth_step_mm, planes
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a patch of this window."""
        return self.height * self.stride, self.width * self.stride

    def lattice(self, geometry: Geometry) -> Coordinates:
        """World coordinates of the lattice: x (planes, 1, w + 1), y (planes, h + 1, 1), z (planes, 1, 1)."""
        z = self.z_min + torch.arange(self.planes, dtype=torch.float32) * self.depth_step_mm
        scale = ((geometry.sid_mm - geometry.oid_mm - z) * (geometry.pitch_mm / geometry.sid_mm))[:, None]
        column = self.column + 0.5 + torch.arange(self.width + 1, dtype=torch.float32) * self.stride
        row = self.row + 0.5 + torch.arange(self.height + 1, dtype=torch.float32) * self.stride
        x = (column - geometry.centre_px[0])[None] * scale + geometry.centre_mm[0]
        y = (geometry.centre_px[1] - row)[None] * scale + geometry.centre_mm[1]
        return x[:, None, :], y[:, :, None], z[:, None, None]

    def plane(self, geometry: Geometry, z_mm: float) -> tuple[Tensor, Tensor]:
        """World x (1, columns) and y (rows, 1) of the patch's pixel centres in the plane z, mm."""
        x, y = geometry.plane(z_mm)
        rows, columns = self.shape
        step = (geometry.sid_mm - geometry.oid_mm - z_mm) / geometry.sid_mm * geometry.pitch_mm
        first_x, first_y = float(x[0, 0]), float(y[0, 0])
        across = (torch.arange(columns, dtype=torch.float32) + self.column) * step + first_x
        down = (torch.arange(rows, dtype=torch.float32) + self.row) * -step + first_y
        return across[None, :], down[:, None]

    def obliquity(self, geometry: Geometry) -> Tensor:
        """Ray length per mm of depth, (h x stride, w x stride)."""
        rows, columns = self.shape
        u = (self.column + 0.5 + torch.arange(columns) - geometry.centre_px[0]) * geometry.pitch_mm
        v = (self.row + 0.5 + torch.arange(rows) - geometry.centre_px[1]) * geometry.pitch_mm
        return torch.sqrt(1.0 + (u[None, :].square() + v[:, None].square()) / geometry.sid_mm**2)

    def add_to(self, image: Tensor, patch: Tensor) -> None:
        """Add a patch of this window to the whole picture, in place."""
        target = image[self.row : self.row + patch.shape[0], self.column : self.column + patch.shape[1]]
        target += patch[: target.shape[0], : target.shape[1]]

    def length(self, *fields: Tensor) -> Tensor:
        """mm of depth inside all of `fields` (each on the lattice), as (h x stride, w x stride) pixels.

        A field is bilinear in a lattice cell and linear between two planes; the parts of a step that are
        inside each field are cut with each other, so thin plates and sharp cuts keep their thickness.
        Only cells that a surface passes are looked at pixel by pixel.
        """
        whole = [f.expand(self.planes, self.height + 1, self.width + 1) for f in fields]
        low, high = _extremes(whole[0])
        solid = torch.maximum(high[1:], high[:-1]) <= 0.0
        empty = torch.minimum(low[1:], low[:-1]) >= 0.0
        for f in whole[1:]:
            low, high = _extremes(f)
            solid &= torch.maximum(high[1:], high[:-1]) <= 0.0
            empty |= torch.minimum(low[1:], low[:-1]) >= 0.0
        fine = solid.sum(0, dtype=torch.float32).view(-1, 1).repeat(1, self.stride**2)
        pairs = (~(solid | empty)).flatten(1).t().nonzero()  # (n, 2): cell and step, sorted by cell
        if len(pairs):
            cell, step = pairs[:, 0], pairs[:, 1]
            first = torch.searchsorted(cell, cell)
            rank = torch.arange(len(cell)) - first
            for turn in range(int(rank.max()) + 1):  # one step of each cell at a time: a fixed order
                chosen = rank == turn
                part = self._parts(whole, cell[chosen], step[chosen])
                fine.index_copy_(0, cell[chosen], fine.index_select(0, cell[chosen]).add_(part))
        fine = fine.mul_(self.depth_step_mm).view(self.height, self.width, self.stride, self.stride)
        return fine.permute(0, 2, 1, 3).reshape(self.height * self.stride, self.width * self.stride)

    def _parts(self, fields: Sequence[Tensor], cell: Tensor, step: Tensor) -> Tensor:
        """Share of a step inside all fields for each pixel of the cells, (n, stride x stride)."""
        weights = self._weights()
        row = torch.div(cell, self.width, rounding_mode="floor")
        column = cell - row * self.width
        start: Tensor | None = None
        end: Tensor | None = None
        for f in fields:
            d0 = _mix(f, step, row, column, weights)
            d1 = _mix(f, step + 1, row, column, weights)
            rise = d1.sub_(d0)
            falling = rise < 0.0
            cross = d0.div_(rise.abs_().add_(1e-4)).mul_(torch.where(falling, 1.0, -1.0)).clamp_(0.0, 1.0)
            enter, leave = cross * falling, torch.where(falling, 1.0, cross)
            start = enter if start is None else torch.maximum(start, enter)
            end = leave if end is None else torch.minimum(end, leave)
        assert start is not None  # noqa: S101  (there is at least one field)
        assert end is not None  # noqa: S101
        return (end - start).clamp_min_(0.0)

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


def _mix(field: Tensor, plane: Tensor, row: Tensor, column: Tensor, weights: Tensor) -> Tensor:
    """Pixels (n, m) of the cells at (plane, row, column), summed in a fixed order."""
    flat = field.reshape(-1)
    wide = field.shape[2]
    corner = (plane * field.shape[1] + row) * wide + column
    total = flat.index_select(0, corner)[:, None] * weights[0]
    for k, step in ((1, 1), (2, wide), (3, wide + 1)):
        total = torch.addcmul(total, flat.index_select(0, corner + step)[:, None], weights[k])
    return total
