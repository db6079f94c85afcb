"""The whole patient on the table: bones of both sides, soft tissue, implants, what lies around.

A scene is drawn from named streams of (seed, index) that do not know the outcome; only the break of one hip
does. Both views, hip and pelvis, are films of the same scene.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom import abdomen, litter
from workers.phantom.body import Body, Strap, Thigh, add_body, add_straps, draw_body, draw_straps, thigh_of
from workers.phantom.bones import Grain, Shaft, add_axial, add_femur, add_hip_bone, draw_grain
from workers.phantom.breaks import Break, FractureOutcome, Leg, draw_break, draw_leg, intact, rotation
from workers.phantom.femur import Femur, draw_femur, vary_femur
from workers.phantom.implants import Implant, add_implant, draw_implant, resected
from workers.phantom.layers import Layers
from workers.phantom.patient import Patient, Place, draw_patient
from workers.phantom.pelvis import HipBone, draw_hip_bones
from workers.phantom.random import stream, truncated_normal
from workers.phantom.rays import Geometry
from workers.phantom.spine import Sacrum, Vertebra, draw_lumbar, draw_sacrum
from workers.phantom.trabeculae import trabecular_map

SIDES = ("L", "R")
SIGN = {"L": 1, "R": -1}
IMPLANT_SHARE = 0.27  #: of scenes, whatever the outcome


@dataclass(frozen=True, eq=False)
class Hip:
    """One hip of the scene."""

    side: str
    femur: Femur
    bone: HipBone
    leg: Leg
    pattern: Tensor
    place: Place  #: of the head centre; its turn is that of the world, the leg's own is in the pieces
    broken: Break
    implant: Implant | None


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything in the beam."""

    seed: int
    index: int
    patient: Patient
    hips: dict[str, Hip]
    sacrum: Sacrum
    lumbar: list[Vertebra]
    pose_deg: tuple[float, float, float]  #: pelvic tilt, axial rotation, cant
    pelvis_turn: NDArray[np.float64]
    midline: float
    body: Body
    thighs: tuple[Thigh, Thigh]
    straps: list[Strap]
    grain: Grain
    target: str  #: the side that is broken, or would be

    def pelvis_place(self, side: str) -> Place:
        """Place of a hip bone; "L" also serves the axial skeleton when its centre is set to 0."""
        hip = self.hips[side]
        return Place(SIGN[side], hip.place.centre, self.pelvis_turn)


def draw_scene(seed: int, index: int, outcome: FractureOutcome, attempt: int = 0) -> Scene:
    """The scene (seed, index) with this outcome at its target side."""
    patient = draw_patient(stream(seed, index, "patient"))
    first = draw_femur(stream(seed, index, "femur"), patient)
    femurs = {"L": first, "R": vary_femur(stream(seed, index, "other femur"), first)}
    bones = dict(
        zip(
            SIDES,
            draw_hip_bones(
                stream(seed, index, "pelvis"), patient, (femurs["L"].head_radius, femurs["R"].head_radius)
            ),
            strict=True,
        )
    )
    midline = 0.5 * (bones["L"].midline + bones["R"].midline)
    bones = {side: replace(bone, midline=midline) for side, bone in bones.items()}
    sacrum = draw_sacrum(stream(seed, index, "sacrum"), patient)
    pose = stream(seed, index, "pose")
    tilt, turn, cant = (truncated_normal(pose, 0.0, s, -2.4 * s, 2.4 * s) for s in (5.5, 4.5, 3.5))
    tilt += 6.0  # lying, the inlet is seen wide and the obturator foramina low
    world = rotation((0, 0, 1), cant) @ rotation((0, 1, 0), turn) @ rotation((1, 0, 0), tilt)
    target = "R" if stream(seed, index, "side").random() < 0.5 else "L"
    body = draw_body(stream(seed, index, "body"), patient, midline)
    implant_side = _implant_side(stream(seed, index, "implant"), target, outcome)
    hips = {}
    for side in SIDES:
        leg = draw_leg(stream(seed, index, f"leg {side}"))
        centre = world @ np.array([SIGN[side] * midline, 0.0, 0.0])
        broken = intact(femurs[side], leg)
        if side == target and outcome is not FractureOutcome.NONE:
            broken = draw_break(stream(seed, index, f"fracture {attempt}"), femurs[side], leg, outcome)
        implant = draw_implant(stream(seed, index, "metal"), femurs[side]) if side == implant_side else None
        if implant is not None:
            broken = resected(broken, femurs[side], implant)
        pattern = trabecular_map(femurs[side], stream(seed, index, f"texture {side}"))
        hips[side] = Hip(
            side,
            femurs[side],
            bones[side],
            leg,
            pattern,
            Place(SIGN[side], centre, np.eye(3)),
            broken,
            implant,
        )
    thighs = tuple(
        thigh_of(hips[s].place.centre, SIGN[s], body, hips[s].leg.abduction, hips[s].leg.flexion)
        for s in SIDES
    )
    return Scene(
        seed, index, patient, hips, sacrum, draw_lumbar(stream(seed, index, "lumbar"), patient, sacrum),
        (tilt, turn, cant), world, midline, body, (thighs[0], thighs[1]),
        draw_straps(stream(seed, index, "straps"), body, midline, patient), draw_grain(stream(seed, index, "grain")),
        target,
    )  # fmt: skip


def _implant_side(rng: np.random.Generator, target: str, outcome: FractureOutcome) -> str | None:
    """Which hip holds metal: as often with a fracture as without, never in the broken hip itself."""
    other = "L" if target == "R" else "R"
    chance, pick = rng.random(), rng.random()
    if chance > IMPLANT_SHARE:
        return None
    return other if outcome is not FractureOutcome.NONE or pick < 0.5 else target


@dataclass(frozen=True, eq=False)
class Filled:
    """A scene in one geometry: its layers and where its parts are."""

    layers: Layers
    tissue: Tensor  #: soft tissue, mm
    femurs: dict[str, Tensor]  #: path length in each femur, mm
    hip_bones: dict[str, Tensor]
    metal: Tensor
    things: list[str]
    bowel: dict[str, int]
    folds: int


def fill(scene: Scene, geometry: Geometry) -> Filled:
    """Everything of the scene in the beam of `geometry`, but the femur of the target side (add_target)."""
    key = (scene.seed, scene.index)
    layers = Layers.empty(geometry)
    tissue = add_body(layers, geometry, scene.body, scene.thighs)
    add_straps(layers, geometry, scene.straps)
    abdomen.add_mottle(layers, tissue, stream(*key, "mottle"))
    bowel = abdomen.add_bowel(layers, geometry, stream(*key, "bowel"))
    folds = abdomen.add_folds(layers, geometry, stream(*key, "folds"))
    bones, femurs = {}, {}
    metal = torch.zeros(geometry.rows, geometry.columns)
    for side in SIDES:
        found = add_hip_bone(layers, geometry, scene.hips[side].bone, scene.pelvis_place(side), scene.grain)
        bones[side] = torch.zeros_like(metal) if found is None else found
        hip = scene.hips[side]
        if side != scene.target:
            femurs[side] = add_femur(layers, geometry, Shaft(hip.femur, hip.pattern, hip.place, hip.broken))
        if hip.implant is not None:
            metal = metal + add_implant(layers, geometry, hip.implant, hip.broken.pieces[0], hip.place)
    axial = Place(1, np.zeros(3), scene.pelvis_turn)
    add_axial(layers, geometry, scene.sacrum, scene.lumbar, axial, scene.grain)
    things = litter.add_calcifications(layers, geometry, scene.midline, stream(*key, "calcifications"))
    things += litter.add_objects(layers, geometry, scene.midline, stream(*key, "objects"))
    return Filled(layers, tissue, femurs, bones, metal, things, bowel, folds)


def add_target(layers: Layers, geometry: Geometry, scene: Scene, broken: Break) -> Tensor:
    """Add the target side's femur in this state; gives its path length, (rows, columns) mm."""
    hip = scene.hips[scene.target]
    return add_femur(layers, geometry, Shaft(hip.femur, hip.pattern, hip.place, broken))


def world_points(scene: Scene, side: str) -> dict[str, NDArray[np.float64]]:
    """Key points of one hip in the world, each (1, 3) mm: head centre, trochanters (of their own piece), teardrop."""
    hip = scene.hips[side]
    by_name = {piece.name: piece for piece in hip.broken.pieces}
    distal = by_name.get("distal", hip.broken.pieces[0])
    femur, bone = hip.femur, hip.bone
    r = bone.socket_radius
    pelvis = scene.pelvis_place(side)
    greater, lesser = by_name.get("greater", distal), by_name.get("lesser", distal)
    return {
        "head_centre": hip.place.to_world(by_name.get("head", distal).to_world(np.zeros((1, 3)))),
        "greater_tip": hip.place.to_world(greater.to_world(np.array([femur.greater_tip]))),
        "lesser": hip.place.to_world(lesser.to_world(np.array([femur.lesser_centre]))),
        "teardrop": pelvis.to_world(np.array([[-r - 1.0, -0.62 * r, 4.0]])),
        "symphysis": pelvis.to_world(np.array([[-scene.midline, -bone.pubis_drop, 44.0]])),
    }
