"""The look itself: images of studies in, readings out. No file, clock, database or network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import name_findings
from hipnode.errors import ReasonedError
from hipnode.findings import Detections, ImageReading, Reason, StudyReading, combine
from hipnode.images import Radiograph
from hipnode.packages import ModelPackage
from hipnode.status import Outcome


class Detector(Protocol):
    """What looks at pixels. `workers.detector.load_detector` gives the real one."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """One Detections per image, boxes in pixels of that image.

        images: (rows, columns) uint8 display values, bone bright; their sizes may differ.
        """


@dataclass(frozen=True, eq=False)
class StudyImage:
    """One selected image of a study: its picture, or why there is none."""

    sop_instance_uid: str
    picture: Radiograph | ReasonedError
    flags: tuple[Reason, ...] = ()  #: what selection says of it: "analysed although ..."


@dataclass(frozen=True, eq=False)
class StudyImages:
    """The selected images of one study, in the order of their arrival."""

    images: tuple[StudyImage, ...]


class DetectorFailed(Exception):
    """The detector raised on this study alone; the cause is chained."""


def analyse(studies: Sequence[StudyImages], detector: Detector, package: ModelPackage) -> list[StudyReading]:
    """Read a batch of studies: findings per image and hip, one call of the detector for all.

    An image that could not be decoded is an ERROR with its reason, one the package does not
    read is NOT_ANALYSED; the detector sees neither. Raises what the detector raises.
    """
    answers: dict[int, ImageReading] = {}
    shown: list[tuple[StudyImage, Radiograph]] = []
    for image in (image for study in studies for image in study.images):
        if isinstance(image.picture, ReasonedError):
            reason = Reason(image.picture.code, image.picture.sentence)
            answers[id(image)] = ImageReading(image.sop_instance_uid, Outcome.ERROR, reason)
        elif (veto := package.veto(image.picture, image.flags)) is not None:
            answers[id(image)] = ImageReading(image.sop_instance_uid, Outcome.NOT_ANALYSED, veto)
        else:
            shown.append((image, image.picture))
    if shown:
        detections = detector.detect([picture.pixels for _, picture in shown])
        for (image, picture), seen in zip(shown, detections, strict=True):
            answers[id(image)] = name_findings(seen, picture, package.algorithm, package.rule)

    def reading(image: StudyImage) -> ImageReading:
        answer = answers[id(image)]
        return replace(answer, sop_instance_uid=image.sop_instance_uid, flags=image.flags + answer.flags)

    return [combine(tuple(reading(image) for image in study.images)) for study in studies]


def analyse_each(
    studies: Sequence[StudyImages], detector: Detector, package: ModelPackage
) -> list[StudyReading | DetectorFailed]:
    """`analyse`, but one study the detector fails on does not take the others with it.

    The batch is tried at once; if that raises, each study is tried alone, and those that
    raise again come back as DetectorFailed.
    """
    try:
        return list(analyse(studies, detector, package))
    except Exception as error:  # noqa: BLE001  # whatever a network raises over one batch
        if len(studies) == 1:
            return [_failed(error)]
    answers: list[StudyReading | DetectorFailed] = []
    for study in studies:
        try:
            answers += analyse([study], detector, package)
        except Exception as error:  # noqa: BLE001
            answers.append(_failed(error))
    return answers


def _failed(error: Exception) -> DetectorFailed:
    failed = DetectorFailed(type(error).__name__)
    failed.__cause__ = error
    return failed
