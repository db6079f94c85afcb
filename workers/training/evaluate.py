"""How well a detector does on a labelled pool: per-case numbers with intervals.

Every picture goes through the same decision rule as in the node. Definitions:
  any fracture   sensitivity: fractured pictures with at least one finding; specificity: pictures
                 without a fracture and without a finding
  class k        the picture's answer is the class of its best finding; sensitivity: pictures of
                 class k answered k; specificity: all others not answered k
  IoU            best finding against the true box, over fractured pictures with a finding
  located        fractured pictures whose best finding has its centre inside the true box
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import DecisionRule, name_findings
from hipnode.findings import Algorithm, Box, Detections, Finding
from hipnode.images import Radiograph
from workers.training.samples import Sample, pixels_of

Z95 = 1.959963984540054
Detect = Callable[[Sequence[NDArray[np.uint8]]], list[Detections]]
Change = Callable[[Sample, NDArray[np.uint8]], NDArray[np.uint8]]
PICTURES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Case:
    """A labelled picture and what the detector saw in it.

    truth: class index, None without a fracture; box: the true one, picture pixels
    """

    sample: Sample
    truth: int | None
    box: Box | None
    detections: Detections
    shape: tuple[int, int]

    def class_scores(self, classes: int) -> NDArray[np.float64]:
        """(classes,) best score of each class, 0 where it has no candidate."""
        best = np.zeros(classes)
        np.maximum.at(best, self.detections.class_ids, self.detections.scores.astype(np.float64))
        return best


def look(samples: Sequence[Sample], detect: Detect, change: Change | None = None) -> list[Case]:
    """Run the detector over a pool, a few pictures at a time.

    change: what is done to each picture (rows, columns) before the detector sees it; same shape.
    """
    cases = []
    for start in range(0, len(samples), PICTURES_AT_ONCE):
        part = samples[start : start + PICTURES_AT_ONCE]
        pictures = []
        for sample in part:
            pixels = pixels_of(sample.path)
            pictures.append(change(sample, pixels) if change else pixels)
        for sample, picture, found in zip(part, pictures, detect(pictures), strict=True):
            fractured = len(sample.labels) > 0
            box = Box(*(float(v) for v in sample.boxes[0])) if fractured else None
            truth = int(sample.labels[0]) if fractured else None
            cases.append(Case(sample, truth, box, found, (picture.shape[0], picture.shape[1])))
    return cases


def wilson(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson score); (0, 1) when nothing was counted."""
    if of == 0:
        return 0.0, 1.0
    share, z2 = hits / of, Z95**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive scores above a negative, ties half; nan where one kind is missing."""
    high, low = scores[positive], scores[~positive]
    if len(high) == 0 or len(low) == 0:
        return math.nan
    difference = high[:, None] - low[None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def auc_interval(value: float, positives: int, negatives: int) -> tuple[float, float]:
    """95 % interval of an AUC (Hanley and McNeil, Radiology 1982;143:29-36), clipped to 0..1."""
    if not positives or not negatives:
        return 0.0, 1.0
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    half = Z95 * math.sqrt(max(variance, 0.0) / (positives * negatives))
    return max(value - half, 0.0), min(value + half, 1.0)


def best_finding(case: Case, algorithm: Algorithm, rule: DecisionRule) -> Finding | None:
    """The finding with the best score, as the node would name it."""
    picture = Radiograph(
        pixels=np.zeros(case.shape, np.uint8),
        sop_instance_uid="",
        side=None,
        patient_orientation=None,
        body_part="",
        view="",
    )
    reading = name_findings(case.detections, picture, algorithm, rule)
    return reading.findings[0] if reading.findings else None


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes of one frame."""
    width = min(a.column_max, b.column_max) - max(a.column_min, b.column_min)
    height = min(a.row_max, b.row_max) - max(a.row_min, b.row_min)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x.column_max - x.column_min) * (x.row_max - x.row_min) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def _share(hits: int, of: int) -> dict[str, Any]:
    low, high = wilson(hits, of)
    value = round(hits / of, 4) if of else None
    return {"hits": hits, "of": of, "value": value, "low": round(low, 4), "high": round(high, 4)}


def measure(cases: Sequence[Case], algorithm: Algorithm, rule: DecisionRule) -> dict[str, Any]:
    """All numbers of the module's definitions, fit for JSON."""
    names = [c.name for c in algorithm.classes]
    answers = [best_finding(case, algorithm, rule) for case in cases]
    truths = [None if c.truth is None else names[c.truth] for c in cases]
    given = [None if a is None else a.class_name for a in answers]
    fractured = np.array([t is not None for t in truths])
    fired = np.array([g is not None for g in given])
    scores = np.array([c.class_scores(len(names)).max(initial=0.0) for c in cases])
    overlaps: list[float] = []
    located = 0
    by_class: dict[str, list[float]] = {name: [] for name in names}
    for case, answer, truth in zip(cases, answers, truths, strict=True):
        if case.box is not None and answer is not None and truth is not None:
            overlaps.append(box_iou(case.box, answer.box))
            by_class[truth].append(overlaps[-1])
            column, row = answer.box.centre
            box = case.box
            located += box.column_min <= column <= box.column_max and box.row_min <= row <= box.row_max
    classes = {}
    for name in names:
        own = [t == name for t in truths]
        said = [g == name for g in given]
        classes[name] = {
            "sensitivity": _share(sum(s for s, o in zip(said, own, strict=True) if o), sum(own)),
            "specificity": _share(
                sum(not s for s, o in zip(said, own, strict=True) if not o), len(own) - sum(own)
            ),
            "found_as_any": _share(
                sum(g is not None for g, o in zip(given, own, strict=True) if o), sum(own)
            ),
            "mean_iou": round(float(np.mean(by_class[name])), 4) if by_class[name] else None,
        }
    return {
        "cases": len(cases),
        "any": {
            "sensitivity": _share(int((fired & fractured).sum()), int(fractured.sum())),
            "specificity": _share(int((~fired & ~fractured).sum()), int((~fractured).sum())),
            "auc": round(auc(scores, fractured), 4),
            "located": _share(located, int(fractured.sum())),
        },
        "classes": classes,
        "mean_iou": round(float(np.mean(overlaps)), 4) if overlaps else None,
        "answers": {
            truth: dict.fromkeys([*names, "none"], 0) | _counts(truths, given, truth)
            for truth in [*names, "none"]
        },
    }


def _counts(truths: Sequence[str | None], given: Sequence[str | None], truth: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for t, g in zip(truths, given, strict=True):
        if (t or "none") == truth:
            counts[g or "none"] = counts.get(g or "none", 0) + 1
    return counts


def _text(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "-"
    return f"{share['value']:.3f} ({share['low']:.3f}-{share['high']:.3f}; {share['hits']}/{share['of']})"


def as_markdown(numbers: dict[str, Any]) -> str:
    """The numbers as two Markdown tables: shares with 95 % Wilson intervals, and truth against answer."""
    lines = [
        "| | sensitivity | specificity | mean IoU |",
        "| --- | --- | --- | --- |",
        f"| any fracture | {_text(numbers['any']['sensitivity'])} | {_text(numbers['any']['specificity'])} "
        f"| {numbers['mean_iou'] or 0:.3f} |",
    ]
    for name, row in numbers["classes"].items():
        iou = "-" if row["mean_iou"] is None else f"{row['mean_iou']:.3f}"
        lines.append(f"| {name} | {_text(row['sensitivity'])} | {_text(row['specificity'])} | {iou} |")
    columns = list(numbers["answers"])
    lines += [
        "",
        f"AUC of the best score, any fracture: {numbers['any']['auc']:.3f}. "
        f"Fractures whose best finding lies on the true box: {_text(numbers['any']['located'])}.",
        "",
        "| truth \\ answer | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for truth, row in numbers["answers"].items():
        lines.append(f"| {truth} | " + " | ".join(str(row[c]) for c in columns) + " |")
    return "\n".join(lines)
