"""Does anything beside the fracture tell the classes apart? A check of the pool, made with a detector.

In every picture a box is painted gray: over the fracture, and in a picture without one over a box borrowed
from a fractured picture, at the same place of the bone and of the same size. What a detector scores then
must be chance (AUC about 0.5): more would mean that the picture around the fracture, or the way it was
made, gives the answer away. A displaced fracture moves the bone outside its box as well; that is a sign
of the fracture and no leak, so the numbers are also told class by class: each class against the pictures
whose box was borrowed from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.training.evaluate import Detect, judged, look, scores_of
from workers.training.samples import DataError, Sample

MARGIN = 0.05
"""The painted box is larger than the labelled one by this share of its sides, on each side."""


@dataclass(frozen=True, eq=False)
class _Bone:
    """Where a femur lies in its picture: a frame of its own, from the record's key points.

    origin: centre of the head; along: towards the lesser trochanter; across: 90 degrees to it, towards the
    greater trochanter. Both vectors are as long as a millimetre of the patient (pixels): what the bone
    itself measures in the picture depends on the fracture.
    """

    origin: NDArray[np.float64]
    along: NDArray[np.float64]
    across: NDArray[np.float64]

    @classmethod
    def of(cls, sample: Sample) -> "_Bone":
        try:
            points, record = sample.record["key_points"], sample.record
            millimetre = float(record["magnification"]) / float(record["pixel_mm"])
            head, greater, lesser = (
                np.array(points[name], np.float64) for name in ("head_centre", "greater_tip", "lesser")
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"{sample.path.name}: the record has no key points of the femur") from error
        along = (lesser - head) * millimetre / np.hypot(*(lesser - head))
        across = np.array([-along[1], along[0]])
        return cls(head, along, across if across @ (greater - head) > 0 else -across)

    @property
    def millimetre(self) -> float:
        """Pixels."""
        return float(np.hypot(*self.along))

    def borrow(self, box: NDArray[np.float32], of: "_Bone") -> NDArray[np.float64]:
        """The box (4,) of another picture's bone, at the same place of this one."""
        away = (box[:2] + box[2:]) / 2 - of.origin
        down, out = away @ of.along / of.millimetre**2, away @ of.across / of.millimetre**2
        centre = self.origin + down * self.along + out * self.across
        half = (box[2:] - box[:2]) / 2 * (self.millimetre / of.millimetre)
        return np.concatenate([centre - half, centre + half])


def boxes_to_hide(
    samples: Sequence[Sample], seed: int
) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """For each sample the box to paint, (4,) pixels, and the class index of the fracture it is made for.

    The box is the sample's own, or borrowed from a fractured sample; those are drawn without repetition as
    long as there are enough. Raises DataError when no sample is fractured.
    """
    lenders = [sample for sample in samples if len(sample.boxes)]
    if not lenders:
        raise DataError("No picture of the pool has a fracture whose box could be hidden.")
    rng = np.random.default_rng(seed)
    normal = len(samples) - len(lenders)
    rounds = [rng.permutation(len(lenders)) for _ in range(-(-normal // len(lenders)))]
    drawn = iter(np.concatenate(rounds) if rounds else ())
    hidden, made_for = [], []
    for sample in samples:
        if len(sample.boxes):
            lender = sample
            hidden.append(sample.boxes[0].astype(np.float64))
        else:
            lender = lenders[next(drawn)]
            hidden.append(_Bone.of(sample).borrow(lender.boxes[0], _Bone.of(lender)))
        made_for.append(int(lender.labels[0]))
    return hidden, np.array(made_for, np.int64)


def paint(pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A copy in which the box, MARGIN larger, has the median gray of the picture.

    pixels: (rows, columns); box: (4,) as in Detections, clipped to the picture
    """
    margin = MARGIN * np.tile(box[2:] - box[:2], 2) * (-1, -1, 1, 1)
    left, top, right, bottom = np.rint(box + margin).astype(int)
    painted = pixels.copy()
    painted[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = round(float(np.median(pixels)))
    return painted


def leak_check(
    samples: Sequence[Sample], detect: Detect, names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """AUC of the best score, fractured against not, as the pictures are and with the fracture hidden.

    Fit for JSON: {"pictures", "fractured", "seen": {"auc", "low", "high"}, "hidden": the same, and
    "classes": the same with each class alone}.
    """
    boxes, made_for = boxes_to_hide(samples, seed)
    hidden = {id(s): box for s, box in zip(samples, boxes, strict=True)}

    def hide(sample: Sample, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return paint(pixels, hidden[id(sample)])

    truth = np.array([int(s.labels[0]) if len(s.labels) else -1 for s in samples])
    numbers: dict[str, Any] = {"pictures": len(samples), "fractured": int((truth >= 0).sum())}
    for name, change in (("seen", None), ("hidden", hide)):
        cases = look(samples, detect, change)
        scores = scores_of(cases, len(names)).max(axis=1, initial=0.0)
        owners = np.array([case.owner for case in cases])
        told, normal = partial(_told, scores, owners), truth < 0
        numbers[name] = told(truth >= 0, normal) | {
            "classes": {
                class_name: told(truth == k, normal & (made_for == k) if change else normal)
                for k, class_name in enumerate(names)
            }
        }
    return numbers


def _told(
    scores: NDArray[np.float64],
    owners: NDArray[np.str_],
    positive: NDArray[np.bool_],
    negative: NDArray[np.bool_],
) -> dict[str, Any]:
    counted = positive | negative
    found = judged(positive[counted], scores[counted], owners[counted].tolist())
    return {"auc": found["value"], "low": found["low"], "high": found["high"]}
