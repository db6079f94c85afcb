"""The decision rule: detections of one image become findings per hip. Pure.

Steps, as published for the four-class hip detector (Bone Joint J 2025;107-B:213-220) and completed where
the paper gives no number: keep what scores at least tau_min, gather the boxes of one hip, let each
class fire at its own threshold, name the best that fired. No class fired is "nothing found by this
package", never "normal".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hipnode.findings import Algorithm, Alternative, Box, Candidate, Detections, Finding, ImageReading, Level
from hipnode.images import Radiograph, side_at
from hipnode.status import Outcome

VALGUS_IMPACTED = "VF"
DISPLACED = "DF"
SAME_HIP_IOU = 0.5
NEAREST = 1e-6  # a score of 0 or 1 has no logit; it is moved this far inside
SMALLEST_SIDE_PX = 1.0  # a box narrower than this after clipping shows nothing


@dataclass(frozen=True)
class Calibration:
    """A map from score to probability that never falls, the same for every class of a package.

    temperature: expit(logit(score) / temperature) (Guo et al., ICML 2017)
    platt: expit(slope * logit(score) + intercept) (Platt 1999)
    isotonic: straight lines between (scores[i], values[i])
    It is fitted by hipnode.evaluation.statistics.calibration, which has the same formulas for many scores at once.
    """

    method: Literal["temperature", "platt", "isotonic"]
    temperature: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0
    scores: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def certainty(self, score: float) -> float:
        """The probability, rounded to 3 digits."""
        if self.method == "isotonic":
            return round(float(np.interp(score, self.scores, self.values)), 3)
        inside = min(max(score, NEAREST), 1 - NEAREST)
        logit = math.log(inside / (1 - inside))
        line = (
            logit / self.temperature if self.method == "temperature" else self.slope * logit + self.intercept
        )
        return round(1 / (1 + math.exp(-min(max(line, -700.0), 700.0))), 3)


@dataclass(frozen=True)
class DecisionRule:
    """The numbers of the rule; a model package's manifest brings them.

    thresholds: class name -> score from which the class fires
    tau_min: score from which a box is a candidate at all
    nms_iou: boxes of one class that overlap more than this were one (the detector applies it)
    valgus_priority: score of VF from which VF is named first although DF scores higher in the
        same hip, because early fixation prevents displacement and replacement can wait; None: off
    definite: class name -> score from which a finding is called definite, and below it possible; a class
        without one has no levels. Levels and certainty are told with a finding and decide nothing.
    calibration: how a score becomes a certainty; None: it does not
    """

    thresholds: dict[str, float] = field(default_factory=dict)
    tau_min: float = 0.05
    nms_iou: float = 0.7
    valgus_priority: float | None = None
    definite: dict[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None

    def fires(self, class_name: str, score: float) -> bool:
        """Whether a class fires at this score. Raises KeyError for a class without threshold."""
        return score >= self.thresholds[class_name]

    def level(self, class_name: str, score: float) -> Level | None:
        """The level of a class that fired at this score."""
        if class_name not in self.definite:
            return None
        return Level.DEFINITE if score >= self.definite[class_name] else Level.POSSIBLE

    def certainty(self, score: float) -> float | None:
        """The calibrated probability of a score."""
        return None if self.calibration is None else self.calibration.certainty(score)


def name_findings(
    detections: Detections, radiograph: Radiograph, algorithm: Algorithm, rule: DecisionRule
) -> ImageReading:
    """The reading of one image: a finding per hip in which a class fired, and every candidate.

    Outcome FINDINGS or NONE. Findings and candidates stand best score first. Boxes are clipped to the
    image; one that has no pixel in it is no candidate. Scores are rounded to 4 digits and boxes to
    0.01 px before any comparison, so that the number a reader sees is the number that decided.
    Raises ValueError for a class id the package does not have and for numbers that are not finite.
    """
    candidates = _candidates(detections, radiograph, algorithm, rule)
    findings = [_finding(hip, rule) for hip in group_hips(candidates, rule)]
    findings.sort(key=lambda f: -f.score)
    outcome = Outcome.FINDINGS if findings else Outcome.NONE
    return ImageReading(
        radiograph.sop_instance_uid, outcome, findings=tuple(findings), candidates=tuple(candidates)
    )


def _candidates(
    detections: Detections, radiograph: Radiograph, algorithm: Algorithm, rule: DecisionRule
) -> list[Candidate]:
    if not (np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()):
        raise ValueError("the detector gave numbers that are not finite")
    if len(detections) and not 0 <= detections.class_ids.min() <= detections.class_ids.max() < len(
        algorithm.classes
    ):
        raise ValueError(f"the detector gave a class id outside 0..{len(algorithm.classes) - 1}")
    rows, columns = radiograph.pixels.shape
    candidates = []
    for corners, score, class_id in zip(
        detections.boxes, detections.scores, detections.class_ids, strict=True
    ):
        box = _clipped(corners, rows, columns)
        value = round(float(score), 4)
        if box is not None and value >= rule.tau_min:
            name = algorithm.classes[class_id].name
            candidates.append(Candidate(name, value, box, side_at(radiograph, box)))
    return sorted(candidates, key=lambda c: -c.score)


def _clipped(corners: NDArray[np.float32], rows: int, columns: int) -> Box | None:
    limits = (columns, rows, columns, rows)
    box = Box(
        *(
            round(min(max(float(value), 0.0), float(limit)), 2)
            for value, limit in zip(corners, limits, strict=True)
        )
    )
    wide = box.column_max - box.column_min >= SMALLEST_SIDE_PX
    high = box.row_max - box.row_min >= SMALLEST_SIDE_PX
    return box if wide and high else None


def group_hips(candidates: Sequence[Candidate], rule: DecisionRule) -> list[list[Candidate]]:
    """The candidates of each hip in which a class fired; in each group best score first.

    The best candidate that fired makes a hip and takes the others that lie on it; then the best
    that fired of what is left. A candidate joins through that first box only: a large weak box
    across both hips cannot make one hip of two.
    """
    left = sorted(candidates, key=lambda c: -c.score)
    hips = []
    for seed in [c for c in left if rule.fires(c.class_name, c.score)]:
        if seed not in left:
            continue
        hip = [c for c in left if c is seed or same_hip(seed.box, c.box)]
        left = [c for c in left if c not in hip]
        hips.append(hip)
    return hips


def same_hip(a: Box, b: Box) -> bool:
    """Whether two boxes show one hip: IoU at least 0.5, or the centre of one inside the other."""
    return iou(a, b) >= SAME_HIP_IOU or _inside(a.centre, b) or _inside(b.centre, a)


def _finding(hip: Sequence[Candidate], rule: DecisionRule) -> Finding:
    """The finding of one hip; at least one of its candidates fired."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(hip, key=lambda c: -c.score):
        best.setdefault(candidate.class_name, candidate)
    fired = [c for c in best.values() if rule.fires(c.class_name, c.score)]  # best first
    first, second, why = fired[0], fired[1] if len(fired) > 1 else None, None
    valgus = best.get(VALGUS_IMPACTED)
    if (
        rule.valgus_priority is not None
        and first.class_name == DISPLACED
        and valgus is not None
        and valgus.score >= rule.valgus_priority
    ):
        why = (
            f"valgus priority: {VALGUS_IMPACTED} is named before {DISPLACED} "
            f"from a score of {rule.valgus_priority:g}"
        )
        first, second = valgus, first
    alternative = (
        Alternative(second.class_name, second.score, rule.certainty(second.score)) if second else None
    )
    return Finding(
        first.class_name,
        first.score,
        first.box,
        first.side,
        alternative,
        why,
        rule.certainty(first.score),
        rule.level(first.class_name, first.score),
    )


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes of one frame."""
    width = min(a.column_max, b.column_max) - max(a.column_min, b.column_min)
    height = min(a.row_max, b.row_max) - max(a.row_min, b.row_min)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(a) + _area(b) - shared)


def _area(box: Box) -> float:
    return (box.column_max - box.column_min) * (box.row_max - box.row_min)


def _inside(point: tuple[float, float], box: Box) -> bool:
    column, row = point
    return box.column_min <= column <= box.column_max and box.row_min <= row <= box.row_max
