"""Model packages for tests."""

from pathlib import Path
from typing import Any

from hipnode.packages import ModelPackage, write_package

CLASSES = {
    "DF": ("Displaced femoral neck fracture", "HN-DFN"),
    "VF": ("Valgus-impacted femoral neck fracture", "HN-VFN"),
    "SF": ("Stable intertrochanteric fracture", "HN-SIT"),
    "UF": ("Unstable intertrochanteric fracture", "HN-UIT"),
}


def content(**changes: Any) -> dict[str, Any]:
    """A manifest that is right, but for `changes`; a change to None leaves the field out."""
    whole: dict[str, Any] = {
        "id": "hip-test",
        "version": "1.0.0",
        "name": 'Hip "test" package — Größe',
        "manufacturer": "hipnode project",
        "origin": "Seeded random weights; they have never seen an image.",
        "recipe": "none",
        "task": "detect",
        "network": "damoyolo_t",
        "body_parts": ["HIP", "PELVIS"],
        "views": ["AP"],
        "laterality_handling": "The side comes from the header.",
        "limits": ["Research use only.", "Reads AP views only."],
        "classes": [
            {"name": name, "meaning": meaning, "code": code, "scheme": "99HIPNODE"}
            for name, (meaning, code) in CLASSES.items()
        ],
        "input": {"width": 256, "height": 192},
        "weights": {"licence": "Apache-2.0", "training_data": "none"},
        "decision": {"thresholds": {"DF": 0.4, "VF": 0.3, "SF": 0.5, "UF": 0.5}},
        "validation": {
            "data_set": "none",
            "date": "2026-11-20",
            "images_per_class": {"DF": 0, "without fracture": 0},
        },
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


def make_package(folder: Path, weights: bytes = b"no weights", **changes: Any) -> ModelPackage:
    """A package in `folder`; its weights are not looked at before a detector loads them."""
    return write_package(folder, content(**changes), weights, "# A test package\n")


def make_seeded_package(folder: Path, **changes: Any) -> ModelPackage:
    """A package of the real network with seeded random weights and an input of 128 x 128. Needs torch.

    Its thresholds are so low that it finds something on every film.
    """
    import torch

    from workers.detector.checkpoint import weights_bytes
    from workers.detector.damoyolo import damoyolo_t

    torch.manual_seed(1)
    weights = weights_bytes(damoyolo_t(len(CLASSES)).state_dict())
    decision = {"thresholds": dict.fromkeys(CLASSES, 0.0005), "tau_min": 0.0001}
    return make_package(folder, weights, input={"width": 128, "height": 128}, decision=decision, **changes)
