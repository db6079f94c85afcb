"""Films to be read and what came of it: the words the command and the prediction runner share.

Nothing of the extra `hipnode[evaluation]` is imported here, so that the runner, which stands behind torch
in the workers, needs none of it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hipnode.errors import HipnodeError
from hipnode.selection import Facts
from hipnode.settings import Settings
from hipnode.status import ReasonCode

#: (films done, films in all), after each film and once at the start for what was there already
Progress = Callable[[int, int], None]

PREDICTIONS = "predictions.jsonl"
STRESSED = "stress.jsonl"


class DataUnusable(HipnodeError):
    """Labels and films do not fit each other; the text has one line for each problem."""


class SideProblem(StrEnum):
    """Why the boxes of a film could not be given to the hip of a label."""

    SIDE_UNKNOWN = "SIDE_UNKNOWN"
    OTHER_SIDE = "OTHER_SIDE"

    @property
    def sentence(self) -> str:
        """What to say of it."""
        return _SIDE_SENTENCES[self]


_SIDE_SENTENCES = {
    SideProblem.SIDE_UNKNOWN: "The film may show both hips, and its header does not say which half is which side.",
    SideProblem.OTHER_SIDE: "The film shows the other hip than the label names.",
}

#: Codes that say something went wrong; every other code is a refusal by selection or by the package.
_FAILURES = frozenset(
    {
        ReasonCode.IDENTITY_UNREADABLE, ReasonCode.DECODE_FAILED, ReasonCode.DECODE_LIMIT,
        ReasonCode.PIXELS_MISSING, ReasonCode.INTERNAL, *SideProblem,
    }
)  # fmt: skip


def kind_of(not_read: str) -> Literal["refused", "failed"]:
    """Whether a film that was not read was refused (selection, package) or failed (damaged, no side)."""
    return "failed" if not_read in _FAILURES else "refused"


def sentence_of(not_read: str) -> str:
    """The sentence of a `not_read` code; other words are given back as they are. Never quotes a header."""
    for codes in (ReasonCode, SideProblem):
        if not_read in {code.value for code in codes}:
            return str(codes(not_read).sentence)
    return not_read


@dataclass(frozen=True)
class Unit:
    """One row of the labels, as far as its film is concerned.

    hip: "L" or "R" where one hip of the film is meant; file: its path; image_uid: its SOP Instance UID.
    At least one of file and image_uid is given. judged: not there to choose thresholds; stress tests are of these.
    """

    row: int
    case_id: str
    hip: str | None
    file: Path | None
    image_uid: str | None
    judged: bool = True


class Stress(Protocol):
    """A change made to a film before it is read (`hipnode.evaluation.films.stress` has them)."""

    @property
    def name(self) -> str:
        """Unique, as the rows of stress.jsonl carry it, e.g. "rotation 10"."""

    @property
    def changes_header(self) -> bool:
        """Whether it changes what selection is told, and leaves the pixels; it passes a PNG by then."""

    def film(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(rows, columns) uint8 display values, bone bright -> the same kind; the size may differ."""

    def header(self, facts: Facts) -> Facts:
        """What selection is told of the film."""


@dataclass(frozen=True)
class Order:
    """What is to be read. `labels` names the labels file in problems; `out` is the folder of what is written."""

    folder: Path
    labels: Path
    units: tuple[Unit, ...]
    package_id: str
    out: Path
    device: str = "cpu"
    stresses: Sequence[Stress] = ()


@dataclass(frozen=True)
class Run:
    """What a run wrote and met.

    labels: the labels file; predictions: one row for each of its units, as tables.load takes it; stressed: one
        for each judged unit that was read and each stress, with a column `stress`, None without stresses
    package_id, version, sha256: who read; selection_sha256: of the selection rules in force
    units: rows of the labels; not_read: units by code (see kind_of, sentence_of)
    films: films in all; films_now: those read in this call; seconds: it took for them, decoding included
    """

    labels: Path
    predictions: Path
    stressed: Path | None
    package_id: str
    package_version: str
    package_sha256: str
    selection_sha256: str
    units: int
    not_read: Counter[str]
    films: int
    films_now: int
    seconds: float

    @property
    def refused(self) -> int:
        """Units whose film selection or the package refused."""
        return sum(n for code, n in self.not_read.items() if kind_of(code) == "refused")

    @property
    def failed(self) -> int:
        """Units whose film could not be read."""
        return sum(n for code, n in self.not_read.items() if kind_of(code) == "failed")

    @property
    def said(self) -> str:
        """One sentence for the screen."""
        speed = f", {self.films_now / self.seconds:.1f} films/s" if self.films_now and self.seconds else ""
        before = self.films - self.films_now
        there = f" ({before} were there already)" if before else ""
        why = ", ".join(f"{code} {n}" for code, n in sorted(self.not_read.items()))
        return (
            f"{self.package_id} {self.package_version} looked at {self.films} films{there}{speed}: {self.units} cases, "
            f"{self.refused} refused, {self.failed} failed{f' ({why})' if why else ''}."
        )


class Runner(Protocol):
    """What the entry point group `hipnode.predict` names."""

    def __call__(self, order: Order, settings: Settings, progress: Progress | None = None) -> Run:
        """Read the films; go on where an earlier call of the same order stopped.

        Raises DataUnusable, PackageUnknown, PackageError, DeviceMissing, SettingsError.
        """
