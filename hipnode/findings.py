"""Value types of a look at images: detections, findings, readings. No I/O, no torch.

Boxes are in image coordinates: pixels of the stored image, (0.0, 0.0) at the top left
corner of the top left pixel (PS3.3 C.10.5), (column_min, row_min, column_max, row_max).
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hipnode.status import Outcome, ReasonCode


@dataclass(frozen=True, eq=False)
class Detections:
    """What the detector saw in one image.

    boxes: (n, 4) float32, (column_min, row_min, column_max, row_max) in image
        coordinates: pixels of the stored image, (0.0, 0.0) at the top left
        corner of the top left pixel (PS3.3 C.10.5).
    scores: (n,) float32 in 0..1
    class_ids: (n,) int64, index into the package's classes
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.class_ids.shape != (n,):
            raise ValueError(
                f"shapes do not agree: boxes {self.boxes.shape}, scores {self.scores.shape}, "
                f"class_ids {self.class_ids.shape}"
            )

    @classmethod
    def empty(cls) -> "Detections":
        """No detection: shapes (0, 4), (0,), (0,)."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in image coordinates (pixels of the stored image, corner origin)."""

    column_min: float
    row_min: float
    column_max: float
    row_max: float

    @property
    def centre(self) -> tuple[float, float]:
        """(column, row) of the middle."""
        return (self.column_min + self.column_max) / 2, (self.row_min + self.row_max) / 2


class Side(StrEnum):
    """The patient's side (CID 244)."""

    RIGHT = "R"
    LEFT = "L"


@dataclass(frozen=True)
class KnownSide:
    """A side and the attribute it is known from, e.g. "ImageLaterality" or "PatientOrientation"."""

    side: Side
    source: str


@dataclass(frozen=True)
class Reason:
    """A reason code and the sentence a person reads. The sentence never names a patient."""

    code: ReasonCode
    sentence: str

    @classmethod
    def of(cls, code: ReasonCode) -> "Reason":
        """The code with its own sentence."""
        return cls(code, code.sentence)


@dataclass(frozen=True)
class FindingClass:
    """One class of a package: short name ("DF"), meaning and its code (value, scheme)."""

    name: str
    meaning: str
    code_value: str
    coding_scheme: str


@dataclass(frozen=True)
class Candidate:
    """A detection above tau_min, fired or not."""

    class_name: str
    score: float
    box: Box
    side: KnownSide | None = None


@dataclass(frozen=True)
class Alternative:
    """The other class a finding may be, with its score."""

    class_name: str
    score: float
    certainty: float | None = None  #: as of Finding


class Level(StrEnum):
    """The two answers of a package that has two thresholds for a class."""

    POSSIBLE = "possible"
    DEFINITE = "definite"


@dataclass(frozen=True)
class Finding:
    """One hip in which a class fired."""

    class_name: str
    score: float
    box: Box
    side: KnownSide | None = None
    alternative: Alternative | None = None
    rule: str | None = None  #: the decision rule that chose the class, where it was not the score
    certainty: float | None = (
        None  #: calibrated probability of the class, 0..1; None: the package is not calibrated
    )
    level: Level | None = None  #: None: the package has one threshold for the class


@dataclass(frozen=True)
class ImageReading:
    """What was seen in one image, or why nothing could be said."""

    sop_instance_uid: str
    outcome: Outcome  #: FINDINGS, NONE, NOT_ANALYSED or ERROR
    reason: Reason | None = None
    findings: tuple[Finding, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    flags: tuple[Reason, ...] = ()  #: selection flags: "analysed although ..."

    @property
    def best_scores(self) -> dict[str, float]:
        """Class name -> the best score among its candidates, fired or not; a class without one is left out."""
        best: dict[str, float] = {}
        for candidate in self.candidates:
            best[candidate.class_name] = max(candidate.score, best.get(candidate.class_name, candidate.score))
        return best


@dataclass(frozen=True)
class StudyReading:
    """What one package says of one study."""

    outcome: Outcome
    reason: Reason | None = None
    images: tuple[ImageReading, ...] = ()


@dataclass(frozen=True)
class Algorithm:
    """Who looked: the model package as results name it.

    Where nobody looked and the package is not at hand: its id as the name, and "" for what is not known.
    """

    name: str
    version: str
    manufacturer: str
    package_id: str
    sha256: str  #: of model.safetensors
    classes: tuple[FindingClass, ...]
    thresholds: dict[str, float] = field(default_factory=dict)  #: class name -> score
    calibrated: bool = False  #: only then findings have a certainty
    origin: str = ""  #: one sentence on where the weights come from; stands in every result
    limits: tuple[str, ...] = ()  #: sentences that stand in every result

    def class_named(self, name: str) -> FindingClass:
        """The class called `name`. Raises KeyError."""
        for known in self.classes:
            if known.name == name:
                return known
        raise KeyError(name)


def combine(images: tuple[ImageReading, ...]) -> StudyReading:
    """The study's outcome from those of its selected images (DESIGN: its outcome).

    Any image that failed beside one that was read makes PARTIAL. With none read, an image
    in ERROR makes ERROR, otherwise NOT_ANALYSED, with the first such reason. With all read,
    FINDINGS if any class fired, else NONE.
    """
    read = [i for i in images if i.outcome in (Outcome.FINDINGS, Outcome.NONE)]
    errors = [i for i in images if i.outcome is Outcome.ERROR]
    refused = [i for i in images if i.outcome is Outcome.NOT_ANALYSED]
    failed = errors or refused
    if failed:
        outcome = Outcome.PARTIAL if read else failed[0].outcome
        return StudyReading(outcome, failed[0].reason, images)
    if not read:
        return StudyReading(Outcome.ERROR, Reason.of(ReasonCode.INTERNAL), images)
    fired = any(i.outcome is Outcome.FINDINGS for i in read)
    return StudyReading(Outcome.FINDINGS if fired else Outcome.NONE, None, images)
