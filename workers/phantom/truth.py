"""What is true of a film: boxes and points of the fracture, hip boxes, how visible it is."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.phantom.beam import Exposure, attenuation
from workers.phantom.bones import as_tensors
from workers.phantom.breaks import Break, Cut
from workers.phantom.femur import Femur
from workers.phantom.filters import blur
from workers.phantom.layers import MATERIALS, Layers
from workers.phantom.patient import Place
from workers.phantom.rays import Geometry
from workers.phantom.scene import Scene, world_points

BOX_MARGIN_MM = 8.0
HIP_MARGIN_MM = 26.0


@dataclass(frozen=True, eq=False)
class Truth:
    """boxes (n, 4) pixels, n is 0 or 1; point (column, row): middle of the fracture's surface."""

    boxes: NDArray[np.float64]
    point: tuple[float, float] | None

    @classmethod
    def nothing(cls) -> "Truth":
        """No fracture."""
        return cls(np.zeros((0, 4)), None)


def fracture_truth(
    geometry: Geometry, femur: Femur, broken: Break, place: Place, margin_mm: float = BOX_MARGIN_MM
) -> Truth:
    """Box around the projected fracture surfaces with a margin, clipped to the picture, and their middle.

    The margin is in mm of the patient (plane z = 0). A fracture outside the picture has no box.
    """
    found = []
    for surface, carriers in broken.zones:
        points = surface.points()
        p = as_tensors(points)
        inside = femur.distance(p) < 0.3
        for other, _ in broken.zones:
            if isinstance(surface, Cut) and not isinstance(other, Cut):
                inside &= other(p) > -1.0
        points = points[inside.cpu().numpy()]
        for k in carriers if len(points) else ():
            found.append(geometry.project(place.to_world(broken.pieces[k].to_world(points))))
    if not found:
        return Truth.nothing()
    pixels = np.concatenate(found)
    margin = margin_mm * geometry.magnification / geometry.pitch_mm
    box = np.concatenate([pixels.min(0) - margin, pixels.max(0) + margin])[None]
    box = box.clip(0, [[geometry.columns, geometry.rows] * 2])
    if box[0, 2] - box[0, 0] < 2 or box[0, 3] - box[0, 1] < 2:
        return Truth.nothing()
    middle = pixels.mean(0)
    return Truth(box, (float(middle[0]), float(middle[1])))


def hip_box(geometry: Geometry, scene: Scene, side: str) -> tuple[float, float, float, float]:
    """Box around head and trochanters of one hip with HIP_MARGIN_MM, clipped to the picture, pixels."""
    places = world_points(scene, side)
    points = np.concatenate([places[name] for name in ("head_centre", "greater_tip", "lesser")])
    pixels = geometry.project(points)
    margin = HIP_MARGIN_MM * geometry.magnification / geometry.pitch_mm
    low = np.maximum(pixels.min(0) - margin, 0)
    high = np.minimum(pixels.max(0) + margin, [geometry.columns, geometry.rows])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def visibility_of(
    broken: Layers, plain: Layers, boxes: NDArray[np.float64], geometry: Geometry, exposure: Exposure
) -> float:
    """Contrast-to-noise ratio of what the fracture changes in its box, times its diagonal in mm.

    Contrast: RMS of the change of the sum of mu x L (55 keV) in structures under about 8 mm, lessened by
    scatter; noise: the quantum noise of one pixel. Zero for a fracture without a box.
    """
    if len(boxes) == 0:
        return 0.0
    c0, r0, c1, r1 = (int(v) for v in boxes[0])
    if r1 - r0 < 8 or c1 - c0 < 8:
        return 0.0
    change = sum(
        (b - p) * (0.1 * attenuation(m))
        for m, b, p in zip(MATERIALS, broken.mm[:, r0:r1, c0:c1], plain.mm[:, r0:r1, c0:c1], strict=True)
    )
    fine = change - blur(change, 4.0 / geometry.pitch_mm)
    contrast = math.sqrt(float(np.mean(fine.double().cpu().numpy() ** 2))) / (
        1.0 + exposure.scatter_to_primary
    )
    noise = 1.0 / math.sqrt(exposure.quanta * (geometry.pitch_mm / 0.143) ** 2)
    return contrast / noise * math.hypot(c1 - c0, r1 - r0) * geometry.pitch_mm
