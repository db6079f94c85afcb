"""One phantom: draw a scene, expose it, develop it, and say what is true.

A phantom is a pure function of (seed, index, outcome, view, columns). Boxes and points are pixels of the
picture, corner origin; the patient's left is at the right of the picture.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.beam import Exposure, expose, mono_beam, poly_beam, transmit
from workers.phantom.breaks import Break, FractureOutcome, intact
from workers.phantom.layers import Layers
from workers.phantom.litter import write_marks
from workers.phantom.looks import close_blades, develop, draw_collimation, draw_look
from workers.phantom.random import stream
from workers.phantom.rays import Geometry
from workers.phantom.scene import SIDES, SIGN, Scene, add_target, draw_scene, fill, world_points
from workers.phantom.truth import BOX_MARGIN_MM, Truth, fracture_truth, hip_box, visibility_of

View = Literal["hip_ap", "pelvis_ap"]
VIEWS: tuple[View, ...] = ("hip_ap", "pelvis_ap")
COLUMNS = 512
#: share of each outcome when none is asked for: one mix for each use
MIXES: dict[str, dict[str, float]] = {
    "train": {"none": 0.28, "VF": 0.18, "DF": 0.18, "SF": 0.18, "UF": 0.18},
    "balanced": {"none": 0.2, "VF": 0.2, "DF": 0.2, "SF": 0.2, "UF": 0.2},
    "cohort": {"none": 0.0, "VF": 0.17, "DF": 0.34, "SF": 0.25, "UF": 0.24},
    "screening": {"none": 0.85, "VF": 0.0255, "DF": 0.051, "SF": 0.0375, "UF": 0.036},
}
#: below this visibility a reader has no chance; such a fracture is drawn again, but for the hairline cases
VISIBILITY_FLOOR = 25.0
HAIRLINE_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic hip or pelvis film with its truth.

    pixels: (rows, columns) uint8, bone bright; picture: (rows, columns) float32 0..1, the same before
    rounding; boxes: (n, 4) float64 (column_min, row_min, column_max, row_max), n is 0 or 1.
    """

    seed: int
    index: int
    view: View
    outcome: FractureOutcome
    subtype: str
    side: str  #: "L" or "R": the hip in view, of a pelvis the side that is or would be broken
    pixels: NDArray[np.uint8]
    picture: NDArray[np.float32]
    boxes: NDArray[np.float64]
    point: tuple[float, float] | None  #: middle of the fracture
    hip_boxes: dict[str, tuple[float, float, float, float]]
    key_points: dict[str, dict[str, tuple[float, float]]]  #: by side
    visibility: float  #: contrast-to-noise x length, 0 for none
    ambiguous: tuple[str, ...]  #: why a reader may disagree: "hairline", "VF/DF"
    pixel_mm: float  #: at the detector
    magnification: float
    masks: dict[str, NDArray[np.bool_]]
    parameters: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """Everything but pixels and masks, for JSON."""
        mine = self.key_points[self.side]
        return {
            "seed": self.seed,
            "index": self.index,
            "view": self.view,
            "class": self.outcome.value,
            "subtype": self.subtype,
            "side": self.side,
            "boxes": [[round(float(v), 2) for v in box] for box in self.boxes],
            "point": self.point and [round(v, 1) for v in self.point],
            "hip_boxes": {side: [round(v, 1) for v in box] for side, box in self.hip_boxes.items()},
            "visibility": round(self.visibility, 2),
            "ambiguous": list(self.ambiguous),
            "rows": self.pixels.shape[0],
            "columns": self.pixels.shape[1],
            "pixel_mm": round(self.pixel_mm, 5),
            "magnification": round(self.magnification, 4),
            "key_points": {k: [round(v[0], 1), round(v[1], 1)] for k, v in mine.items()},
            "key_points_by_side": {
                side: {k: [round(v[0], 1), round(v[1], 1)] for k, v in points.items()}
                for side, points in self.key_points.items()
            },
            "parameters": self.parameters,
        }


def outcome_of(seed: int, index: int, mix: str = "train") -> FractureOutcome:
    """The outcome a phantom has when none is asked for."""
    shares = MIXES[mix]
    return FractureOutcome(str(stream(seed, index, "outcome").choice(list(shares), p=list(shares.values()))))


def draw_geometry(
    rng: np.random.Generator, view: View, columns: int, hip_mm: tuple[float, float]
) -> Geometry:
    """Tube, table and field. A pelvis film is about 43 x 35 cm, a hip film 24 x 30, centred on hip_mm (x, y)."""
    sid, oid = float(rng.uniform(1000.0, 1200.0)), float(rng.uniform(95.0, 150.0))
    zoom = float(np.exp(rng.normal(0.0, 0.07)))
    shape, jitter = float(rng.uniform(0.80, 0.90)), rng.normal(0.0, 1.0, 4)
    if view == "pelvis_ap":
        rows = round(columns * (0.86 if shape > 0.815 else shape))
        field_mm = 420.0 * zoom
        centre = (float(9.0 * jitter[0]), float(28.0 + 18.0 * jitter[1]))
    else:
        rows = columns * 5 // 4
        field_mm = 240.0 * zoom * float(np.exp(0.06 * jitter[2]))
        out = 1.0 if hip_mm[0] > 0 else -1.0
        centre = (
            hip_mm[0] + out * (16.0 + 12.0 * float(jitter[0])),
            hip_mm[1] - 28.0 + 14.0 * float(jitter[1]),
        )
    at = (columns * (0.5 + 0.02 * float(jitter[3])), rows * 0.5)
    return Geometry(sid, oid, field_mm / columns, rows, columns, centre, at)


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Scatter with and without grid, exposure control to the detector's working point, several detectors."""
    return Exposure(
        scatter_to_primary=float(np.exp(rng.uniform(math.log(0.2), math.log(1.5)))),
        scatter_sigma_mm=float(rng.uniform(40.0, 80.0)),
        quanta=float(np.exp(rng.uniform(math.log(500.0), math.log(3000.0)))),
        focal_spot_mm=float(rng.uniform(0.6, 1.2)),
        mtf_sigma_mm=float(rng.uniform(0.12, 0.19)),
        electronic=float(rng.uniform(1.0, 3.0)),
        white_grain=float(rng.uniform(0.2, 0.9)),
        motion_mm=float(np.exp(rng.uniform(math.log(0.22), math.log(0.75)))),
    )


def generate(
    seed: int,
    index: int,
    outcome: FractureOutcome | None = None,
    columns: int = COLUMNS,
    *,
    view: View = "hip_ap",
    box_margin_mm: float = BOX_MARGIN_MM,
    mono: bool = False,
    device: str = "cpu",
) -> Phantom:
    """The phantom (seed, index). `columns` sets the resolution of the same film.

    Everything but the fracture is drawn from streams that do not know the outcome; without `outcome` it is
    that of outcome_of(seed, index). box_margin_mm: around the projected fracture, in the patient. mono: one
    energy of 55 keV instead of a spectrum. device: where torch computes.
    """
    # the device context costs a tenth of the time, so that the CPU goes without
    where = torch.device(device) if device != "cpu" else nullcontext()
    with torch.inference_mode(), where:
        return _generate(seed, index, outcome or outcome_of(seed, index), columns, view, box_margin_mm, mono)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What the fracture's redraws end with."""

    scene: Scene
    layers: Layers
    femur: Tensor
    truth: Truth
    visibility: float
    attempt: int
    hairline: bool


def _generate(
    seed: int, index: int, outcome: FractureOutcome, columns: int, view: View, margin_mm: float, mono: bool
) -> Phantom:
    scene = draw_scene(seed, index, outcome)
    target = scene.target
    hip = scene.hips[target].place.centre
    geometry = draw_geometry(
        stream(seed, index, f"geometry {view}"), view, columns, (float(hip[0]), float(hip[1]))
    )
    exposure = draw_exposure(stream(seed, index, "exposure"))
    tube = stream(seed, index, "tube")
    kvp, filter_mm = float(round(tube.uniform(70.0, 85.0))), float(tube.choice([2.5, 3.0]))
    filled = fill(scene, geometry)
    drawn = _break_target(scene, outcome, geometry, exposure, filled.layers, margin_mm)
    scene = drawn.scene

    beam = mono_beam() if mono else poly_beam(kvp, filter_mm)
    # clutter may ask for more gas than there is tissue
    mm = drawn.layers.mm.clamp_min_(0.0)
    signal, _ = expose(transmit(mm, beam), geometry, exposure, stream(seed, index, "quanta"))
    hip_px = geometry.project(hip[None])[0]
    reach = (0.40 * columns, 0.40 * columns) if view == "hip_ap" else (0.62 * columns, 0.30 * columns)
    blades = draw_collimation(
        stream(seed, index, "collimation"),
        geometry.rows,
        columns,
        (float(hip_px[0]), float(hip_px[1])),
        reach,
        0.6 if view == "hip_ap" else 0.3,
    )
    opening = blades.opening(geometry.rows, columns)
    look = draw_look(stream(seed, index, "look"))
    display = stream(seed, index, "display")
    picture, tone = develop(signal, opening * (filled.tissue > 60.0), look, display, geometry.pitch_mm)
    picture = close_blades(picture, blades, opening, display).contiguous()
    shown = target if view == "hip_ap" else None
    marks = write_marks(picture, shown, stream(seed, index, "marks"))
    points = {
        side: {name: _pixel(geometry, at) for name, at in world_points(scene, side).items()} for side in SIDES
    }
    sides = (target,) if view == "hip_ap" else SIDES
    parameters = {
        "patient": _rounded(asdict(scene.patient)),
        "femur": {"female": scene.patient.female, "age_years": round(scene.patient.age_years, 1),
                  **_rounded(asdict(scene.hips[target].femur))},
        "hips": {s: _hip_record(scene, s) for s in SIDES}, "body": _rounded(asdict(scene.body)),
        "pelvic_tilt_rotation_cant_deg": [round(t, 2) for t in scene.pose_deg], "kvp": kvp, "filter_mm_al": filter_mm,
        "exposure": _rounded(asdict(exposure)), "look": _rounded(asdict(look)), "tone": _rounded(tone),
        "sid_mm": round(geometry.sid_mm, 1), "oid_mm": round(geometry.oid_mm, 1), "blades": len(blades.edges),
        "white_border": blades.white, "clutter": [*filled.things, *marks], "bowel": filled.bowel, "folds": filled.folds,
        "fracture": _rounded(scene.hips[target].broken.drawn), "attempt": drawn.attempt,
        "vf_df_border": scene.hips[target].broken.border_margin,
    }  # fmt: skip
    pixels = (picture * 255.0 + 0.5).to(torch.uint8).cpu().numpy()
    femurs = {**filled.femurs, target: drawn.femur}
    return Phantom(
        seed, index, view, outcome, scene.hips[target].broken.subtype, target, pixels, picture.cpu().numpy(),
        drawn.truth.boxes, drawn.truth.point, {s: hip_box(geometry, scene, s) for s in sides},
        {s: points[s] for s in sides}, drawn.visibility, _ambiguous(scene.hips[target].broken, drawn.hairline),
        geometry.pitch_mm, geometry.magnification,
        _masks(femurs, filled.hip_bones, filled.metal, sides), parameters,
    )  # fmt: skip


def _break_target(
    scene: Scene,
    outcome: FractureOutcome,
    geometry: Geometry,
    exposure: Exposure,
    layers: Layers,
    margin_mm: float,
) -> _Drawn:
    """Add the target's femur; a fracture nobody could see is drawn again, unless it is to be a hairline."""
    if outcome is FractureOutcome.NONE:
        depth = add_target(layers, geometry, scene, scene.hips[scene.target].broken)
        return _Drawn(scene, layers, depth, Truth.nothing(), 0.0, 0, False)
    plain = Layers.empty(geometry)
    hip = scene.hips[scene.target]
    add_target(plain, geometry, scene, intact(hip.femur, hip.leg))
    hairline = bool(stream(scene.seed, scene.index, "hairline").random() < HAIRLINE_SHARE)
    for attempt in range(4):
        if attempt:
            scene = draw_scene(scene.seed, scene.index, outcome, attempt)
        hip = scene.hips[scene.target]
        own = Layers.empty(geometry)
        depth = add_target(own, geometry, scene, hip.broken)
        truth = fracture_truth(geometry, hip.femur, hip.broken, hip.place, margin_mm)
        score = visibility_of(own, plain, truth.boxes, geometry, exposure)
        if score >= VISIBILITY_FLOOR or hairline:
            break
    layers.mm.add_(own.mm)
    return _Drawn(scene, layers, depth, truth, score, attempt, score < VISIBILITY_FLOOR)


def _ambiguous(broken: Break, hairline: bool) -> tuple[str, ...]:
    border = broken.border_margin is not None and "border" in broken.subtype
    return (*(("hairline",) if hairline else ()), *(("VF/DF",) if border else ()))


def _masks(
    femurs: Mapping[str, Tensor], hip_bones: Mapping[str, Tensor], metal: Tensor, sides: tuple[str, ...]
) -> dict[str, NDArray[np.bool_]]:
    """Where each bone is in the beam; metal too."""
    masks = {f"femur_{s}": (femurs[s] > 0.5).cpu().numpy() for s in sides}
    masks |= {f"hip_bone_{s}": (hip_bones[s] > 0.5).cpu().numpy() for s in sides}
    if bool((metal > 0.2).any()):
        masks["metal"] = (metal > 0.2).cpu().numpy()
    return masks


def _hip_record(scene: Scene, side: str) -> dict[str, object]:
    hip = scene.hips[side]
    return {
        "leg": _rounded(asdict(hip.leg)),
        "implant": hip.implant.name if hip.implant else None,
        "neck_shaft_angle_deg": round(hip.femur.neck_shaft_angle_deg, 2),
        "anteversion_deg": round(hip.femur.anteversion_deg, 2),
        "head_radius": round(hip.femur.head_radius, 3),
        "sign": SIGN[side],
    }


def _pixel(geometry: Geometry, at: NDArray[np.float64]) -> tuple[float, float]:
    q = geometry.project(at)[0]
    return float(q[0]), float(q[1])


def _rounded(values: Mapping[str, object]) -> dict[str, object]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
