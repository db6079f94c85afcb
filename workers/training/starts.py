"""The weights a run begins with: a package's, a run's, or an upstream checkpoint."""

import pickle
from pathlib import Path
from typing import Any

import torch

from hipnode.errors import HipnodeError, PackageError
from workers.detector.checkpoint import load_weights
from workers.detector.damoyolo import DamoYolo

HEAD = "head."


class StartError(HipnodeError):
    """Weights to start from cannot be used; the text says why."""


def start_from(weights: Path, model: DamoYolo) -> str:
    """Fill the model, and say with what, for the model card.

    model.safetensors of a package, and checkpoint.pt of a run: every key. A checkpoint of
    tinyvision/DAMO-YOLO (a file with the entry `model`, 80 classes): backbone and neck; its head starts anew,
    as upstream's own fine-tuning does. Nothing but tensors and plain values is unpickled. Raises StartError.
    """
    if weights.suffix == ".safetensors":
        try:
            load_weights(model, weights.read_bytes())
        except PackageError as error:
            raise StartError(f"{weights.name}: {error}") from error
        return f"the weights {weights.name} of {weights.parent.name}"
    try:
        content: Any = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise StartError(f"{weights} is no checkpoint that can be read safely.") from error
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        _fill(weights, model, content["ema"])
        return f"the run {weights.parent.name}"
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise StartError(f"{weights} is neither a checkpoint of a run nor one of DAMO-YOLO.")
    body = {k: v for k, v in content["model"].items() if not k.startswith(HEAD)}
    head = {k: v for k, v in model.state_dict().items() if k.startswith(HEAD)}
    _fill(weights, model, body | head)
    return f"the DAMO-YOLO checkpoint {weights.name}, head from scratch"


def _fill(weights: Path, model: DamoYolo, state: dict[str, torch.Tensor]) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise StartError(f"{weights} does not fit DAMO-YOLO-T in training form.") from error
