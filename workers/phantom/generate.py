"""One phantom: draw a patient, break the femur or not, project, develop, and say what is true.

A phantom is a pure function of (seed, index, outcome, columns). A left hip is built; a right hip is
its mirrored picture. Boxes are pixels of the picture, corner origin.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom import clutter
from workers.phantom.anatomy import Femur, Pelvis, draw_femur, draw_pelvis
from workers.phantom.display import close_blades, develop, draw_collimation
from workers.phantom.fields import Coordinates
from workers.phantom.fracture import (
    Break,
    Cut,
    FractureOutcome,
    Leg,
    Piece,
    draw_break,
    draw_leg,
    intact,
    rotation,
)
from workers.phantom.projection import MU, Exposure, Geometry, Slab, blur, expose
from workers.phantom.random import stream, truncated_normal
from workers.phantom.texture import cloud, look_up, trabecular_map
from workers.phantom.tissue import draw_tissue, lengths

BOX_MARGIN_MM = 8.0
COLUMNS, ROWS = 512, 640
MIX = {"none": 0.28, "VF": 0.18, "DF": 0.18, "SF": 0.18, "UF": 0.18}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic hip AP film with its truth.

    pixels: (rows, columns) uint8, bone bright; picture: (rows, columns) float32 0..1, the same before
    rounding; boxes: (n, 4) float64 (column_min, row_min, column_max, row_max), n is 0 or 1.
    """

    seed: int
    index: int
    outcome: FractureOutcome
    subtype: str
    side: str  #: "L" or "R"
    pixels: NDArray[np.uint8]
    picture: NDArray[np.float32]
    boxes: NDArray[np.float64]
    visibility: float  #: contrast-to-noise x length, 0 for none
    pixel_mm: float  #: at the detector
    magnification: float
    key_points: dict[str, tuple[float, float]]  #: pixels
    parameters: dict[str, object] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """Everything but the pixels, for JSON."""
        return {
            "seed": self.seed,
            "index": self.index,
            "class": self.outcome.value,
            "subtype": self.subtype,
            "side": self.side,
            "boxes": [[round(float(v), 2) for v in box] for box in self.boxes],
            "visibility": round(self.visibility, 2),
            "rows": self.pixels.shape[0],
            "columns": self.pixels.shape[1],
            "pixel_mm": round(self.pixel_mm, 5),
            "magnification": round(self.magnification, 4),
            "key_points": {k: [round(v[0], 1), round(v[1], 1)] for k, v in self.key_points.items()},
            "parameters": self.parameters,
        }


def outcome_of(seed: int, index: int) -> FractureOutcome:
    """The outcome a phantom has when none is asked for: MIX."""
    names = list(MIX)
    return FractureOutcome(str(stream(seed, index, "outcome").choice(names, p=list(MIX.values()))))


def draw_geometry(rng: np.random.Generator, columns: int) -> Geometry:
    """A hip AP film of about 24 x 30 cm with zoom and centring, without looking at the outcome."""
    rows = columns * ROWS // COLUMNS
    field_mm = 240.0 * float(np.exp(rng.normal(0.0, 0.10)))
    centre = (float(rng.normal(18.0, 14.0)), float(rng.normal(-30.0, 16.0)))
    at = (columns * float(rng.uniform(0.47, 0.53)), rows * float(rng.uniform(0.46, 0.54)))
    oid = float(rng.uniform(90.0, 160.0))
    return Geometry(float(rng.uniform(1000.0, 1200.0)), oid, field_mm / columns, rows, columns, centre, at)


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Scatter with and without grid, AEC to the detector's working point, several detectors."""
    return Exposure(
        scatter_to_primary=float(np.exp(rng.uniform(math.log(0.2), math.log(1.5)))),
        scatter_sigma_mm=float(rng.uniform(35.0, 80.0)),
        quanta=float(np.exp(rng.uniform(math.log(180.0), math.log(1600.0)))),
        focal_spot_mm=float(rng.uniform(0.6, 1.2)),
        mtf_sigma_mm=float(rng.uniform(0.10, 0.26)),
        electronic=float(rng.uniform(1.0, 3.0)),
        white_grain=float(rng.uniform(0.2, 0.9)),
    )


def bone_points(femur: Femur) -> NDArray[np.float64]:
    """A coarse cloud that covers the femur, (n, 3) in the neck frame: where rays have to be marched."""
    spans = ((-36.0, 90.0), (-250.0, 42.0), (-48.0, 42.0))
    x, y, z = torch.meshgrid(*(torch.arange(low, high, 6.0) for low, high in spans), indexing="ij")
    near = femur.distance((x, y, z)) < 6.0
    return torch.stack([axis[near] for axis in (x, y, z)], dim=1).double().numpy()


def _tensors(points: NDArray[np.float64]) -> Coordinates:
    """(n, 3) to three float32 tensors."""
    x, y, z = (torch.from_numpy(points[:, k].astype(np.float32)) for k in range(3))
    return x, y, z


def project_piece(
    piece: Piece,
    femur: Femur,
    pattern: Tensor,
    skeleton: NDArray[np.float64],
    geometry: Geometry,
    impaction: float,
    stride: int,
) -> tuple[Slab, Tensor, Tensor] | None:
    """A piece of femur as (window, sum of mu x L over muscle, length of bone mm); None outside the field."""
    bounds = piece.bounds(_tensors(skeleton))
    chosen = skeleton if bounds is None else skeleton[(bounds < 7.0).numpy()]
    if len(chosen) == 0:
        return None
    world = piece.to_world(chosen)
    pixels = geometry.project(world)
    reach = 14.0 / geometry.pitch_mm
    seen = (pixels > -reach).all(1) & (pixels < np.array([geometry.columns, geometry.rows]) + reach).all(1)
    if not seen.any():
        return None
    slab = Slab.around(geometry, world[seen], stride, 3.5)
    if slab is None:
        return None
    bone = piece.to_bone(slab.lattice(geometry))
    distance = femur.distance(bone)
    inner_distance = distance + femur.cortex(bone)
    cut = piece.bounds(bone)
    bent = slab.obliquity(geometry)
    whole, inner = slab.length(distance, cut) * bent, slab.length(inner_distance, cut) * bent
    middle = float(np.median(world[seen][:, 2]))
    scale = (geometry.sid_mm - geometry.oid_mm - middle) / geometry.sid_mm * geometry.pitch_mm
    column = slab.column + 0.5 + torch.arange(whole.shape[1], dtype=torch.float32)
    row = slab.row + 0.5 + torch.arange(whole.shape[0], dtype=torch.float32)
    x = ((column - geometry.centre_px[0]) * scale + geometry.centre_mm[0])[None, :]
    y = ((geometry.centre_px[1] - row) * scale + geometry.centre_mm[1])[:, None]
    bx, by, bz = piece.to_bone((x, y, torch.tensor(middle)))
    fraction = look_up(pattern, bx, by)
    if impaction > 0 and piece.sides:
        near = piece.sides[0][0]((bx, by, bz * 0.3))
        fraction = fraction + impaction * torch.exp(-((near * (1.0 / 3.5)).square()))
    spongy = fraction * MU["cortical"] + (1.0 - fraction) * MU["marrow"]
    added = (whole - inner).clamp_min(0.0) * MU["cortical"] + inner * spongy - whole * MU["muscle"]
    return slab, added * 0.1, whole


def project_femur(broken: Break, femur: Femur, pattern: Tensor, geometry: Geometry, stride: int) -> Tensor:
    """Sum of mu x L of the whole femur over muscle, (rows, columns). Where pieces overlap, less than both."""
    total = torch.zeros(geometry.rows, geometry.columns)
    depth = torch.zeros_like(total)
    skeleton = bone_points(femur)
    for piece in broken.pieces:
        part = project_piece(piece, femur, pattern, skeleton, geometry, broken.impaction, stride)
        if part is not None:
            slab, added, whole = part
            slab.add_to(total, added)
            slab.add_to(depth, whole)
    # two pieces on one ray that are longer than any hip is deep are driven into each other: cap
    limit = 2.0 * femur.head_radius + 12.0
    return total * torch.where(depth > limit, limit / depth.clamp_min(1.0), torch.ones_like(depth)).pow(0.5)


def project_pelvis(
    pelvis: Pelvis, turn: NDArray[np.float64], geometry: Geometry, rng: np.random.Generator, stride: int
) -> Tensor:
    """Sum of mu x L of the pelvis over muscle, (rows, columns)."""
    total = torch.zeros(geometry.rows, geometry.columns)
    m = pelvis.midline
    corners = np.array([[x, y, z] for x in (-2.0 * m, 66.0) for y in (-92.0, 150.0) for z in (-66.0, 62.0)])
    slab = Slab.around(geometry, corners @ turn.T, round(1.5 * stride), 5.5)
    if slab is None:
        return total
    piece = Piece("pelvis", turn, np.zeros(3))
    body, cut, shell = pelvis.distance(piece.to_bone(slab.lattice(geometry)))
    bent = slab.obliquity(geometry)
    whole = slab.length(body, cut) * bent
    spongy = slab.length(body + pelvis.cortex, cut + shell) * bent
    noise = cloud(rng, whole.shape[0], whole.shape[1], 24, 4, 0.85)
    fraction = (pelvis.bvf * (1.0 + float(rng.uniform(0.05, 0.3)) * noise)).clamp(0.01, 0.5)
    mu = fraction * MU["cortical"] + (1.0 - fraction) * MU["marrow"]
    slab.add_to(
        total, ((whole - spongy).clamp_min(0.0) * MU["cortical"] + spongy * mu - whole * MU["muscle"]) * 0.1
    )
    return total


def fracture_box(
    broken: Break, femur: Femur, geometry: Geometry, margin_mm: float = BOX_MARGIN_MM
) -> NDArray[np.float64]:
    """(1, 4) box around the projected fracture surfaces with a margin, clipped to the picture; (0, 4) for none.

    The margin is in mm of the patient (plane z = 0).
    """
    found = []
    for surface, carriers in broken.zones:
        points = surface.points()
        p = _tensors(points)
        inside = femur.distance(p) < 0.3
        for other, _ in broken.zones:
            if isinstance(surface, Cut) and not isinstance(other, Cut):
                inside &= other(p) > -1.0
        points = points[inside.numpy()]
        found += [geometry.project(broken.pieces[k].to_world(points)) for k in carriers if len(points)]
    if not found:
        return np.zeros((0, 4))
    pixels = np.concatenate(found)
    margin = margin_mm * geometry.magnification / geometry.pitch_mm
    low, high = pixels.min(0) - margin, pixels.max(0) + margin
    box = np.array([[low[0], low[1], high[0], high[1]]])
    box[:, 0::2] = box[:, 0::2].clip(0, geometry.columns)
    box[:, 1::2] = box[:, 1::2].clip(0, geometry.rows)
    return box


def generate(
    seed: int,
    index: int,
    outcome: FractureOutcome | None = None,
    columns: int = COLUMNS,
    *,
    box_margin_mm: float = BOX_MARGIN_MM,
) -> Phantom:
    """The phantom (seed, index). `columns` sets the resolution of the same film; rows follow (5 : 4).

    Everything but the fracture is drawn from streams that do not know the outcome; without `outcome`
    it is that of outcome_of(seed, index). box_margin_mm: around the projected fracture, in the patient.
    """
    with torch.inference_mode():
        return _generate(seed, index, outcome or outcome_of(seed, index), columns, box_margin_mm)


def _generate(seed: int, index: int, outcome: FractureOutcome, columns: int, box_margin_mm: float) -> Phantom:
    femur = draw_femur(stream(seed, index, "femur"))
    pelvis = draw_pelvis(stream(seed, index, "pelvis"), femur)
    tissue = draw_tissue(stream(seed, index, "tissue"), pelvis.midline)
    leg = draw_leg(stream(seed, index, "leg"))
    pose = stream(seed, index, "pose")
    tilt = [truncated_normal(pose, 0.0, s, -2.2 * s, 2.2 * s) for s in (7.0, 4.0, 3.5)]
    turn = rotation((0, 0, 1), tilt[2]) @ rotation((0, 1, 0), tilt[1]) @ rotation((1, 0, 0), tilt[0])
    geometry = draw_geometry(stream(seed, index, "geometry"), columns)
    exposure = draw_exposure(stream(seed, index, "exposure"))
    stride = max(2, round(2.0 / geometry.pitch_mm))
    pattern = trabecular_map(femur, stream(seed, index, "texture"))

    x, y = geometry.plane()
    muscle, fat = lengths(tissue, x, y, pelvis.midline, math.tan(math.radians(leg.abduction)))
    rest = muscle * (0.1 * MU["muscle"]) + fat * (0.1 * MU["fat"])
    rest += project_pelvis(pelvis, turn, geometry, stream(seed, index, "pelvis texture"), stride)
    clutter.add_mottle(rest, muscle + fat, stream(seed, index, "mottle"))
    gas = clutter.add_gas(rest, x, y, stream(seed, index, "gas"))
    folds = clutter.add_folds(rest, x, y, stream(seed, index, "folds"))
    things = clutter.add_small_things(rest, x, y, geometry.pitch_mm, stream(seed, index, "things"))

    broken, femur_sum, visibility, attempt = _break(
        seed, index, outcome, femur, leg, geometry, pattern, exposure, stride
    )
    signal, _ = expose((rest + femur_sum).clamp_min_(0.0), geometry, exposure, stream(seed, index, "quanta"))
    blades = draw_collimation(
        stream(seed, index, "collimation"),
        geometry.rows,
        columns,
        tuple(geometry.project(np.zeros((1, 3)))[0]),
    )
    opening = blades.opening(geometry.rows, columns)
    look = stream(seed, index, "display")
    picture, tone = develop(signal, opening * (muscle + fat > 70.0), look, geometry.pitch_mm)
    picture = close_blades(picture, blades, opening, look)
    boxes = fracture_box(broken, femur, geometry, box_margin_mm)
    points = _key_points(femur, pelvis, broken, turn, geometry)
    side = "R" if stream(seed, index, "side").random() < 0.5 else "L"
    if side == "R":
        picture = picture.flip(1)
        boxes = boxes.copy()
        boxes[:, [0, 2]] = columns - boxes[:, [2, 0]]
        points = {k: (columns - c, r) for k, (c, r) in points.items()}
    picture = picture.contiguous()
    marks = clutter.write_marks(picture, side, stream(seed, index, "marks"))
    parameters: dict[str, object] = {
        "femur": _rounded(asdict(femur)), "pelvis": _rounded(asdict(pelvis)), "tissue": _rounded(asdict(tissue)),
        "leg": _rounded(asdict(leg)), "pelvic_tilt_rotation_cant_deg": [round(t, 2) for t in tilt],
        "exposure": _rounded(asdict(exposure)), "tone": _rounded(tone), "sid_mm": round(geometry.sid_mm, 1),
        "oid_mm": round(geometry.oid_mm, 1), "blades": len(blades.edges), "white_border": blades.white,
        "clutter": [*things, *marks], "gas": gas, "folds": folds, "fracture": _rounded(broken.drawn),
        "attempt": attempt, "vf_df_border": broken.border_margin,
    }  # fmt: skip
    pixels = (picture * 255.0 + 0.5).to(torch.uint8).numpy()
    return Phantom(
        seed, index, outcome, broken.subtype, side, pixels, picture.numpy(), boxes, visibility,
        geometry.pitch_mm, geometry.magnification, points, parameters,
    )  # fmt: skip


#: below this a reader has no chance; such a fracture is drawn again (SIM2REAL section 5)
VISIBILITY_FLOOR = 25.0


def _break(
    seed: int, index: int, outcome: FractureOutcome, femur: Femur, leg: Leg, geometry: Geometry,
    pattern: Tensor, exposure: Exposure, stride: int,
) -> tuple[Break, Tensor, float, int]:  # fmt: skip
    """The femur with its outcome, projected; its visibility; how often it was drawn again."""
    if outcome is FractureOutcome.NONE:
        broken = intact(femur, leg)
        return broken, project_femur(broken, femur, pattern, geometry, stride), 0.0, 0
    whole = project_femur(intact(femur, leg), femur, pattern, geometry, stride)
    for attempt in range(4):
        broken = draw_break(stream(seed, index, f"fracture {attempt}"), femur, leg, outcome)
        image = project_femur(broken, femur, pattern, geometry, stride)
        score = visibility_of(image - whole, fracture_box(broken, femur, geometry), geometry, exposure)
        if score >= VISIBILITY_FLOOR:
            break
    return broken, image, score, attempt


def visibility_of(
    change: Tensor, boxes: NDArray[np.float64], geometry: Geometry, exposure: Exposure
) -> float:
    """Contrast-to-noise ratio of what the fracture changes in its box, times its diagonal in mm.

    Contrast: RMS of the change of mu x L at structures under about 8 mm, lessened by scatter; noise: the
    quantum noise of one pixel.
    """
    if len(boxes) == 0:
        return 0.0
    c0, r0, c1, r1 = (int(v) for v in boxes[0])
    part = change[r0:r1, c0:c1]
    if part.numel() < 16 or min(part.shape) < 8:
        return 0.0
    fine = part - blur(part, 4.0 / geometry.pitch_mm)
    contrast = math.sqrt(float(fine.double().square().cpu().numpy().mean())) / (
        1.0 + exposure.scatter_to_primary
    )
    noise = 1.0 / math.sqrt(exposure.quanta * (geometry.pitch_mm / 0.143) ** 2)
    return contrast / noise * math.hypot(c1 - c0, r1 - r0) * geometry.pitch_mm


def _key_points(
    femur: Femur, pelvis: Pelvis, broken: Break, turn: NDArray[np.float64], geometry: Geometry
) -> dict[str, tuple[float, float]]:
    """Head centre, trochanter tips (where their piece is) and symphysis in pixels."""
    by_name = {piece.name: piece for piece in broken.pieces}
    distal = by_name.get("distal", broken.pieces[0])
    tip = np.array([[femur.offset + 4.0, femur.trochanter_tip, -10.0]])
    places = {
        "head_centre": np.zeros((1, 3)),
        "greater_tip": by_name.get("greater", distal).to_world(tip),
        "lesser": by_name.get("lesser", distal).to_world(np.array([femur.lesser_centre])),
        "symphysis": np.array([[-pelvis.midline, -4.0 - pelvis.pubis_drop, 40.0]]) @ turn.T,
    }
    return {
        name: (float(q[0, 0]), float(q[0, 1]))
        for name, q in ((n, geometry.project(v)) for n, v in places.items())
    }


def _rounded(values: Mapping[str, object]) -> dict[str, object]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
