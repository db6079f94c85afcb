"""How well a detector does on a labelled pool: per-case numbers with intervals.

Every picture goes through the same decision rule as in the node. Definitions:
  any fracture   sensitivity: fractured pictures with at least one finding; specificity: pictures
                 without a fracture and without a finding
  class k        the picture's answer is the class of its best finding; sensitivity: pictures of
                 class k answered k; specificity: all others not answered k
  IoU            best finding against the true box, over fractured pictures with a finding
  located        fractured pictures whose best finding has its centre inside the true box
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import DecisionRule, iou, name_findings
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.roc import auc
from hipnode.findings import Algorithm, Box, Detections, Finding
from hipnode.images import Radiograph
from workers.training.samples import Sample, pixels_of

Detect = Callable[[Sequence[NDArray[np.uint8]]], list[Detections]]
Change = Callable[[Sample, NDArray[np.uint8]], NDArray[np.uint8]]
PICTURES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Case:
    """A labelled picture and what the detector saw in it.

    truth: class index of the first fracture, None without one; box: that fracture's, picture pixels
    """

    sample: Sample
    truth: int | None
    box: Box | None
    detections: Detections
    shape: tuple[int, int]

    @property
    def classes(self) -> set[int]:
        """Every class that is in the picture."""
        return {int(label) for label in self.sample.labels}

    @property
    def owner(self) -> str:
        """Its patient."""
        return self.sample.owner

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


def scores_of(cases: Sequence[Case], classes: int) -> NDArray[np.float64]:
    """(cases, classes) best score of each class in each picture, 0 where it has no candidate."""
    return np.array([case.class_scores(classes) for case in cases]).reshape(len(cases), classes)


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


def _share(hits: int, of: int) -> dict[str, Any]:
    return {"hits": hits, "of": of, **_told(wilson(hits, of))}


def _told(estimate: Estimate) -> dict[str, Any]:
    """Value and 95 % interval for JSON, None where there is none."""
    rounded = {name: getattr(estimate, name) for name in ("value", "low", "high")}
    return {name: None if value is None else round(value, 4) for name, value in rounded.items()}


def judged(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], patients: Sequence[str]
) -> dict[str, Any]:
    """An AUC with its 95 % interval and method, for JSON; pictures of one patient count as one draw."""
    estimate = auc(positive, scores, np.asarray(patients))
    return {**_told(estimate), "n": estimate.n, "positives": estimate.events, "method": estimate.method}


def measure(cases: Sequence[Case], algorithm: Algorithm, rule: DecisionRule) -> dict[str, Any]:
    """All numbers of the module's definitions, fit for JSON."""
    names = [c.name for c in algorithm.classes]
    answers = [best_finding(case, algorithm, rule) for case in cases]
    truths = [None if c.truth is None else names[c.truth] for c in cases]
    given = [None if a is None else a.class_name for a in answers]
    fractured = np.array([t is not None for t in truths])
    fired = np.array([g is not None for g in given])
    each = scores_of(cases, len(names))
    scores, owners = each.max(axis=1, initial=0.0), [case.owner for case in cases]
    overlaps: list[float] = []
    located = 0
    by_class: dict[str, list[float]] = {name: [] for name in names}
    for case, answer, truth in zip(cases, answers, truths, strict=True):
        if case.box is not None and answer is not None and truth is not None:
            overlaps.append(iou(case.box, answer.box))
            by_class[truth].append(overlaps[-1])
            column, row = answer.box.centre
            box = case.box
            located += box.column_min <= column <= box.column_max and box.row_min <= row <= box.row_max
    classes = {}
    for k, name in enumerate(names):
        own = np.array([k in case.classes for case in cases], bool)
        said = [g == name for g in given]
        classes[name] = {
            "sensitivity": _share(sum(s for s, o in zip(said, own, strict=True) if o), int(own.sum())),
            "specificity": _share(
                sum(not s for s, o in zip(said, own, strict=True) if not o), int((~own).sum())
            ),
            "found_as_any": _share(
                sum(g is not None for g, o in zip(given, own, strict=True) if o), int(own.sum())
            ),
            "auc": judged(own, each[:, k], owners),
            "mean_iou": round(float(np.mean(by_class[name])), 4) if by_class[name] else None,
        }
    return {
        "cases": len(cases),
        "any": {
            "sensitivity": _share(int((fired & fractured).sum()), int(fractured.sum())),
            "specificity": _share(int((~fired & ~fractured).sum()), int((~fractured).sum())),
            "auc": judged(fractured, scores, owners),
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


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_interval(number: dict[str, Any]) -> str:
    if number["value"] is None:
        return "-"
    limits = "" if number["low"] is None else f" ({number['low']:.3f}-{number['high']:.3f})"
    return f"{number['value']:.3f}{limits}"


def _text(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "-"
    return f"{share['value']:.3f} ({share['low']:.3f}-{share['high']:.3f}; {share['hits']}/{share['of']})"


def as_markdown(numbers: dict[str, Any]) -> str:
    """The numbers as two Markdown tables: 95 % intervals (shares: Wilson), and truth against answer."""
    lines = [
        "| | sensitivity | specificity | AUC | mean IoU |",
        "| --- | --- | --- | --- | --- |",
        f"| any fracture | {_text(numbers['any']['sensitivity'])} | {_text(numbers['any']['specificity'])} "
        f"| {_with_interval(numbers['any']['auc'])} | {_plain(numbers['mean_iou'])} |",
    ]
    for name, row in numbers["classes"].items():
        shares = f"{_text(row['sensitivity'])} | {_text(row['specificity'])}"
        lines.append(f"| {name} | {shares} | {_with_interval(row['auc'])} | {_plain(row['mean_iou'])} |")
    columns = list(numbers["answers"])
    lines += [
        "",
        "AUC of any fracture is of the best score. "
        f"Fractures whose best finding lies on the true box: {_text(numbers['any']['located'])}.",
        "",
        "| truth \\ answer | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for truth, row in numbers["answers"].items():
        lines.append(f"| {truth} | " + " | ".join(str(row[c]) for c in columns) + " |")
    return "\n".join(lines)
