"""From a run to a model package: thresholds and calibration from validation, one look at the test part, a card."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hipnode import __version__
from hipnode.decision import DecisionRule
from hipnode.errors import HipnodeError
from hipnode.evaluation.statistics.calibration import ece
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.findings import Algorithm, FindingClass
from hipnode.packages import ModelPackage, write_package
from workers.detector.checkpoint import load_weights, weights_bytes
from workers.detector.damoyolo import damoyolo_t
from workers.detector.inference import DamoYoloDetector
from workers.training.card import CardFacts, Words, card_text, words_for
from workers.training.data import develop
from workers.training.evaluate import Case, look, measure, scores_of
from workers.training.folders import read_folder
from workers.training.run import CHECKPOINT, FILMS, describe, read_data
from workers.training.samples import Sample
from workers.training.splits import Parts, refuse_leaks
from workers.training.thresholds import (
    Calibrated,
    Thresholds,
    calibrate,
    choose_thresholds,
    definite_thresholds,
    truth_of,
)

#: name, meaning and code (scheme 99HIPNODE, docs/codes.md) of the four classes, in the network's order
CLASSES = (
    FindingClass("VF", "Valgus-impacted femoral neck fracture", "HN-VFN", "99HIPNODE"),
    FindingClass("DF", "Displaced femoral neck fracture", "HN-DFN", "99HIPNODE"),
    FindingClass("SF", "Stable intertrochanteric fracture", "HN-SIT", "99HIPNODE"),
    FindingClass("UF", "Unstable intertrochanteric fracture", "HN-UIT", "99HIPNODE"),
)
EVALUATION = "evaluation.json"
TABLES = "evaluation"  # of a run: labels.jsonl and predictions.jsonl as `hipnode evaluate` reads them
LOOKS = "test-looks.jsonl"
Form = Literal["training", "fused"]


class BuildRefused(HipnodeError):
    """A run cannot become a package; the text says why."""


@dataclass(frozen=True)
class BuildSettings:
    """What a package is built from.

    run: folder of a training run (checkpoint.pt); out: the package's folder
    data, validation, test: where the pictures are now; None: where the run found them. A run that drew its parts
        from one folder has all three in `data`; test may be None (the package is then untested)
    date: of the test, YYYY-MM-DD
    data_name: what to call the data in words, e.g. "films of Somewhere Hospital, 2019 to 2024"
    form: "training" can be trained further, "fused" is smaller and cannot
    calibration: none, temperature, platt, isotonic or auto
    """

    run: Path
    out: Path
    date: str
    data: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    id: str = "hip-local"
    version: str = "0.1.0"
    name: str = ""
    manufacturer: str = ""
    licence: str = "not given"
    data_name: str = "the data of one site"
    form: Form = "training"
    calibration: str = "auto"
    notes: str = ""  #: Markdown for the end of the card
    precision: str = "fp32"
    device: str = "cpu"


@dataclass(frozen=True)
class Built:
    """The package, the thresholds and the test's numbers (evaluate.measure), None without a test part."""

    package: ModelPackage
    thresholds: Thresholds
    calibrated: Calibrated
    numbers: dict[str, Any] | None


def checkpoint_of(run: Path) -> dict[str, Any]:
    """The content of a run's checkpoint. Raises BuildRefused."""
    path = run / CHECKPOINT
    if not path.is_file():
        raise BuildRefused(f"{run} holds no {CHECKPOINT}: it is no folder that `hipnode train` wrote.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def weights_of(state: Mapping[str, Any], form: Form) -> bytes:
    """The run's averaged weights, of its best epoch where validation told one, as a safetensors file."""
    averaged = state["best"]["weights"] if state.get("best") else state["ema"]
    if form == "training":
        return weights_bytes(averaged)
    network = damoyolo_t(len(state["class_names"]))
    network.load_state_dict(averaged)
    return weights_bytes(network.eval().fuse().state_dict())


def detector_for(weights: bytes, state: Mapping[str, Any], settings: BuildSettings) -> DamoYoloDetector:
    """The detector as the package will load it: from the stored half-precision weights."""
    network = damoyolo_t(len(state["class_names"]))
    if settings.form == "fused":
        network.fuse()
    load_weights(network, weights)
    size = state["recipe"]["input_size"]
    return DamoYoloDetector(network, (size, size), precision=settings.precision, device=settings.device)


def parts_of(settings: BuildSettings, state: Mapping[str, Any]) -> Parts:
    """The run's parts as they lie there now. Raises DataError, LeakingSplit, BuildRefused when they changed."""
    data = settings.data or Path(state["data"])
    validation = settings.validation or (Path(state["validation"]) if state.get("validation") else None)
    names = tuple(state["class_names"])
    unlabelled = state.get("unlabelled", "refuse")
    split = bool(state.get("split"))
    if split and validation is not None:
        raise BuildRefused("The run drew its own validation part from its data; leave --validation out.")
    if validation is None and not split:
        raise BuildRefused(
            "The run was trained on all its pictures; name others for validation: --validation."
        )
    parts = read_data(data, validation, names, split=split, seed=state["seed"], unlabelled=unlabelled)
    if validation is not None:
        parts["train"] = parts["train"][: state["pool"]]  # a pool may have grown since
    if settings.test is not None:
        parts["test"] = read_folder(settings.test, names, unlabelled)
    refuse_leaks(parts)
    recorded = state.get("parts", {})
    now = describe(parts, names)
    named = {"validation": settings.validation, "test": settings.test}  # others than the run had, and said so
    changed = [
        part
        for part in recorded
        if part in now and recorded[part]["sha256"] != now[part]["sha256"] and not named.get(part)
    ]
    if changed and (split or "validation" in changed):  # a pool to train on may have grown
        raise BuildRefused(
            f"The pictures or labels of {', '.join(changed)} are not those the run was trained with; "
            "train again, or put them back."
        )
    if not parts.get("validation"):
        raise BuildRefused(
            "There is no validation part to choose thresholds on: train with one, or name --validation."
        )
    return parts


def build_package(settings: BuildSettings, say: Callable[[str], None] = lambda _: None) -> Built:
    """Choose on validation, test once, write the package, and the tables of both parts into the run.

    Raises BuildRefused, DataError, TooFewCases, PackageError.
    """
    if (settings.out / "model.toml").exists():
        raise BuildRefused(f"{settings.out} holds a package already; name another folder.")
    state = checkpoint_of(settings.run)
    if list(state["class_names"]) != [c.name for c in CLASSES]:
        known = ", ".join(c.name for c in CLASSES)
        raise BuildRefused(f"The run's classes are {', '.join(state['class_names'])}; packages have {known}.")
    names = state["class_names"]
    parts = parts_of(settings, state)
    weights = weights_of(state, settings.form)
    detector = detector_for(weights, state, settings)

    def looked(part: str) -> list[Case]:
        return look(develop(parts[part], settings.run / FILMS), detector.detect)

    validation = looked("validation")
    chosen = choose_thresholds(validation, names)
    definite = definite_thresholds(validation, names, chosen.by_class)
    calibrated = calibrate(validation, names, settings.calibration)
    say(f"thresholds on {len(validation)} validation pictures: {_listed(chosen.by_class)}")
    test = looked("test") if parts.get("test") else []
    rule = DecisionRule(chosen.by_class)
    numbers = measure(test, Algorithm("", "", "", settings.id, "", CLASSES), rule) if test else None
    errors = _calibration_error(test, names, calibrated)
    described = describe(parts, names)
    words = words_for(described, _are_phantoms(parts["train"]), settings.data_name)
    content = manifest(settings, state, words, described)
    content["decision"] = {"thresholds": chosen.by_class, "definite": definite}
    content["calibration"] = calibrated.entry
    looks = _note_look(settings, described) if test else 0
    card = card_text(
        CardFacts(
            f"{settings.id} {settings.version}", state, described, words, chosen, definite, calibrated, numbers,
            looks, settings.date, errors.get("said", ""), settings.notes,
        )
    )  # fmt: skip
    package = write_package(settings.out, content, weights, card)
    record = {
        "parts": {part: told["sha256"] for part, told in described.items()},
        "weights_sha256": package.sha256,
        "hipnode": __version__,
        "seed": state["seed"],
        "date": settings.date,
        "looks_at_test": looks,
        "calibration_error": errors.get("values"),
        "test": numbers,
    }
    (settings.out / EVALUATION).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _write_tables(settings, package, {"validation": validation, "test": test}, parts)
    return Built(package, chosen, calibrated, numbers)


def manifest(
    settings: BuildSettings, state: Mapping[str, Any], words: Words, parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of model.toml but for decision and calibration (the weights' hash is filled in when written)."""
    size = state["recipe"]["input_size"]
    content: dict[str, Any] = {
        "id": settings.id,
        "version": settings.version,
        "name": settings.name or f"hipnode DAMO-YOLO-T ({settings.id})"[:64],
        "manufacturer": settings.manufacturer or "not named",
        "origin": words.origin,
        "recipe": state["recipe"]["name"],
        "task": "detect",
        "network": "damoyolo_t",
        "body_parts": ["HIP", "PELVIS"],
        "views": ["AP"],
        "laterality_handling": "Boxes carry no side; the side comes from the image's attributes.",
        "limits": list(words.limits),
        "classes": [
            {"name": c.name, "meaning": c.meaning, "code": c.code_value, "scheme": c.coding_scheme}
            for c in CLASSES
        ],
        "input": {"width": size, "height": size},
        "weights": {
            "form": settings.form,
            "licence": settings.licence,
            "training_data": words.training_data,
        },
    }
    if "test" in parts and parts["test"]["pictures"]:
        content["validation"] = {
            "data_set": f"{parts['test']['pictures']} unseen {words.picture}s",
            "date": settings.date,
            "images_per_class": dict(sorted(parts["test"]["classes"].items())),
        }
    return content


def _are_phantoms(samples: Sequence[Sample]) -> bool:
    return bool(samples) and all("seed" in sample.record for sample in samples)


def _listed(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in numbers.items())


def _calibration_error(test: Sequence[Case], names: Sequence[str], calibrated: Calibrated) -> dict[str, Any]:
    """ECE over the test's answers, of scores and of certainties; empty without a test or a calibration."""
    if not test or calibrated.fitted is None:
        return {}
    truth, scores = truth_of(test, len(names)).ravel(), scores_of(test, len(names)).ravel()
    owners = np.repeat([case.owner for case in test], len(names))
    before = ece(truth, scores, owners)
    after = ece(truth, calibrated.fitted(scores), owners)
    values = {
        name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "method": e.method}
        for name, e in (("scores", before), ("certainties", after))
    }
    said = (
        f"Expected calibration error over {before.n} test answers: {_in_words(before)} of scores, "
        f"{_in_words(after)} of certainties."
    )
    return {"values": values, "said": said}


def _in_words(estimate: Estimate) -> str:
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


def _note_look(settings: BuildSettings, parts: Mapping[str, Mapping[str, Any]]) -> int:
    """Write down that the test part is looked at, and say for which time with this run."""
    path = settings.run / LOOKS
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    look_ = {
        "date": settings.date,
        "package": f"{settings.id} {settings.version}",
        "test": parts["test"]["sha256"],
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(look_) + "\n")
    same = [line for line in lines if json.loads(line)["test"] == look_["test"]]
    return len(same) + 1


def _write_tables(
    settings: BuildSettings, package: ModelPackage, cases: Mapping[str, Sequence[Case]], parts: Parts
) -> None:
    """labels.jsonl and predictions.jsonl in the run, for `hipnode evaluate`; they name patients and stay there."""
    folder = settings.run / TABLES
    folder.mkdir(exist_ok=True)
    labels, predictions = [], []
    for part, looked in cases.items():
        for case, sample in zip(looked, parts.get(part, []), strict=True):
            name = f"{part}/{sample.path.name}"
            own = sorted({CLASSES[int(k)].name for k in sample.labels})
            size = {"rows": case.shape[0], "columns": case.shape[1]}
            labels.append({
                "case_id": name, "patient_id": sample.owner, "y_class": ";".join(own) or "N", "split": part, **size,
                "boxes": [{"xyxy": box.tolist(), "class": CLASSES[int(k)].name}
                          for box, k in zip(sample.boxes, sample.labels, strict=True)],
            })  # fmt: skip
            seen = case.detections
            predictions.append({
                "case_id": name, "model_id": package.id, "model_version": package.version, **size,
                "boxes": [{"xyxy": [round(float(v), 2) for v in box], "class": CLASSES[int(k)].name,
                           "score": round(float(score), 4)}
                          for box, score, k in zip(seen.boxes, seen.scores, seen.class_ids, strict=True)],
            })  # fmt: skip
    for file, rows in (("labels.jsonl", labels), ("predictions.jsonl", predictions)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / file).write_text(text, encoding="utf-8")
