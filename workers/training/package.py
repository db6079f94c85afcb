"""From a finished run to a model package: thresholds, one look at the test pool, card, files."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hipnode.decision import DecisionRule
from hipnode.findings import Algorithm, FindingClass
from hipnode.packages import ModelPackage, write_package
from workers.detector.checkpoint import load_weights, weights_bytes
from workers.detector.damoyolo import damoyolo_t
from workers.detector.inference import DamoYoloDetector
from workers.training.evaluate import as_markdown, look, measure
from workers.training.folders import read_pool
from workers.training.run import CHECKPOINT
from workers.training.samples import Sample
from workers.training.thresholds import LEAST_SPECIFICITY, Thresholds, choose_thresholds

#: name, meaning and code (scheme 99HIPNODE, docs/codes.md) of the four classes, in the network's order
CLASSES = (
    FindingClass("VF", "Valgus-impacted femoral neck fracture", "HN-VFN", "99HIPNODE"),
    FindingClass("DF", "Displaced femoral neck fracture", "HN-DFN", "99HIPNODE"),
    FindingClass("SF", "Stable intertrochanteric fracture", "HN-SIT", "99HIPNODE"),
    FindingClass("UF", "Unstable intertrochanteric fracture", "HN-UIT", "99HIPNODE"),
)
FIRST_LINE = (
    "**These weights were trained on synthetic phantoms only and have no clinical validity.** "
    "They show that the node works from end to end; they are not for diagnosis."
)
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class BuildSettings:
    """What a package is built from.

    run: folder of a training run (checkpoint.pt); out: the package's folder
    validation: pool the thresholds come from; test: pool looked at once, for the card
    date: of the test, YYYY-MM-DD
    """

    run: Path
    validation: Path
    test: Path
    out: Path
    date: str
    id: str = "hip-damoyolo-t-phantom"
    version: str = "0.1.0"
    notes: str = ""  #: Markdown for the end of the card
    precision: str = "fp32"


@dataclass(frozen=True)
class Built:
    """The package, the thresholds and the test's numbers (workers.training.evaluate.measure)."""

    package: ModelPackage
    thresholds: Thresholds
    numbers: dict[str, Any]


def averaged_weights(run: Path) -> tuple[bytes, dict[str, Any]]:
    """The run's averaged weights as a safetensors file, and the run's facts (recipe, images, pool)."""
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    facts = {k: v for k, v in state.items() if k not in ("model", "ema", "optimiser", "sums")}
    return weights_bytes(state["ema"]), facts


def detector_for(weights: bytes, facts: dict[str, Any], precision: str = "fp32") -> DamoYoloDetector:
    """The detector as the package will load it: from the stored half-precision weights."""
    network = damoyolo_t(len(facts["class_names"]))
    load_weights(network, weights)
    size = facts["recipe"]["input_size"]
    return DamoYoloDetector(network, (size, size), precision=precision)


def build_package(settings: BuildSettings, say: Callable[[str], None] = lambda _: None) -> Built:
    """Choose thresholds on the validation pool, test once, write the package.

    Raises DataError, TooFewCases, PackageError.
    """
    weights, facts = averaged_weights(settings.run)
    names = facts["class_names"]
    detector = detector_for(weights, facts, settings.precision)
    validation = read_pool(settings.validation, names)
    chosen = choose_thresholds(look(validation, detector.detect), names)
    say(f"thresholds {chosen.by_class}: validation {chosen.sensitivity:.3f} / {chosen.specificity:.3f}")
    test = read_pool(settings.test, names)
    algorithm = Algorithm("", "", "", settings.id, "", CLASSES)
    numbers = measure(look(test, detector.detect), algorithm, DecisionRule(chosen.by_class))
    say(as_markdown(numbers))
    card = card_text(settings, facts, chosen, numbers, (_train_samples(facts), validation, test))
    content = manifest(settings, facts, chosen, test)
    package = write_package(settings.out, content, weights, card)
    (settings.out / EVALUATION).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return Built(package, chosen, numbers)


def _train_samples(facts: dict[str, Any]) -> Sequence[Sample]:
    data = facts.get("data")
    if not data or not Path(data).is_dir():
        return []
    return read_pool(Path(data), facts["class_names"])[: facts["pool"]]


def manifest(
    settings: BuildSettings, facts: dict[str, Any], chosen: Thresholds, test: Sequence[Sample]
) -> dict[str, Any]:
    """The content of model.toml (the weights' hash is filled in when it is written)."""
    size = facts["recipe"]["input_size"]
    return {
        "id": settings.id,
        "version": settings.version,
        "name": "hipnode DAMO-YOLO-T (phantom)",
        "manufacturer": "hipnode project",
        "origin": "Weights trained on synthetic phantoms only, without any patient image; no clinical validity.",
        "recipe": facts["recipe"]["name"],
        "task": "detect",
        "network": "damoyolo_t",
        "body_parts": ["HIP", "PELVIS"],
        "views": ["AP"],
        "laterality_handling": "Boxes carry no side; the side comes from the image's attributes.",
        "limits": [
            "Research use only. Not for diagnosis.",
            "Trained on simulated AP films of a single hip; accuracy on patients' films is not known.",
            "Occult fractures, other views and hips with implants are outside training.",
        ],
        "classes": [
            {"name": c.name, "meaning": c.meaning, "code": c.code_value, "scheme": c.coding_scheme}
            for c in CLASSES
        ],
        "input": {"width": size, "height": size},
        "weights": {
            "licence": "Apache-2.0",
            "training_data": f"{facts['pool']} synthetic hip AP phantoms (workers/phantom), no patient image",
        },
        "decision": {"thresholds": chosen.by_class},
        "validation": {
            "data_set": f"{len(test)} unseen phantoms",
            "date": settings.date,
            "images_per_class": dict(sorted(Counter(s.record["class"] for s in test).items())),
        },
    }


def _seeds(samples: Sequence[Sample]) -> str:
    seeds = sorted({int(s.record["seed"]) for s in samples if "seed" in s.record})
    return ", ".join(str(s) for s in seeds) or "not recorded"


def _mix(samples: Sequence[Sample]) -> str:
    return ", ".join(f"{k} {v}" for k, v in sorted(Counter(s.record["class"] for s in samples).items()))


def _facts_table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())])


def card_text(
    settings: BuildSettings,
    facts: dict[str, Any],
    chosen: Thresholds,
    numbers: dict[str, Any],
    pools: tuple[Sequence[Sample], Sequence[Sample], Sequence[Sample]],
) -> str:
    """The model card, Markdown; its first line says what the weights are not.

    pools: training (empty where it is no longer there), validation, test
    """
    trained, validation, test = pools
    recipe = facts["recipe"]
    seen = facts["epoch"] * facts["epoch_images"] + facts["drawn"]
    taus = ", ".join(f"{k} {v:g}" for k, v in chosen.by_class.items())
    mix = _mix(trained) or "not recorded"
    planned = facts["total_images"]
    whole = "to its end" if seen >= planned else f"and stopped early, {planned} were planned"
    size = recipe["input_size"]
    rows = {
        "task": "boxes and four classes of hip fracture on AP films: VF valgus-impacted neck, DF displaced "
        "neck, SF stable and UF unstable intertrochanteric",
        "network": f"DAMO-YOLO-T, {size} x {size} input, from scratch (no pretrained weights)",
        "training data": f"{facts['pool']} phantoms of `workers/phantom` ({mix}; seed {_seeds(trained)}); "
        "no patient image",
        "recipe": f"`{recipe['name']}`: {recipe['optimiser']}, batch {recipe['batch']}, {seen} pictures seen "
        f"{whole}; averaged weights",
        "thresholds": f"{taus}; from {len(validation)} validation phantoms "
        f"({_mix(validation)}; seed {_seeds(validation)})",
        "test": f"{len(test)} phantoms ({_mix(test)}; seed {_seeds(test)}), looked at once on {settings.date}",
        "scores": "not calibrated: a score is no probability",
    }
    return (
        f"""{FIRST_LINE}

# {settings.id} {settings.version}

{_facts_table(rows)}

## Threshold rule

Each class may fire on the same share of validation pictures without a fracture. The share is the one
with the largest Youden index for any fracture at a specificity of at least {LEAST_SPECIFICITY:g}. On the validation
pool that gave sensitivity {chosen.sensitivity:.3f} at specificity {chosen.specificity:.3f}.

## Test on unseen phantoms

95 % Wilson intervals. A class counts as answered when it is the best finding of the picture; specificity
of a class is over all other pictures. IoU is of the best finding with the true box.

{as_markdown(numbers)}

These numbers speak of phantoms that come from the same generator as the training pictures. They say
nothing about films of patients.

## Made with

```
hipnode phantom --out DATA/train --count {facts["pool"]} --seed {_seeds(trained)}
hipnode phantom --out DATA/val --count {len(validation)} --seed {_seeds(validation)}
hipnode phantom --out DATA/test --count {len(test)} --seed {_seeds(test)}
hipnode train --data DATA/train --out RUN --recipe {recipe["name"]}
```
and `workers.training.package.build_package` for thresholds, test and this folder.

{settings.notes}""".rstrip()
        + "\n"
    )
