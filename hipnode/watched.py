"""A study as monitoring sees it: plain values, from the ledger to the evaluation. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple

from hipnode.status import AcceptanceOutcome, ReasonCode


class Ending(StrEnum):
    """What a look that ended was for its patient."""

    READ = "read"  #: the package answered, also where one of several images failed
    REFUSED = "refused"  #: selection or the package leaves the study to others
    FAILED = "failed"  #: it should have been read and was not


@dataclass(frozen=True)
class Reported:
    """What a final report says. classes: empty without fracture; None: a fracture whose class is not said."""

    fracture: bool
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Package:
    """A package as it looked. shadow: its answers were kept and sent nowhere."""

    package_id: str
    sha256: str
    shadow: bool = False

    def __str__(self) -> str:
        return (
            f"{self.package_id} ({self.sha256[:8] or 'unknown weights'}{', shadow' if self.shadow else ''})"
        )


class WatchedStudy(NamedTuple):  # there are hundreds of thousands; a dataclass takes thrice the time to make
    """The last look at a study that ended, by one package.

    study_id: row id in the ledger, which names no patient
    received_at: when its first instance came
    package: None where selection left the study out before any package was asked
    partial: one of its images failed, another was read
    delivered: of a study that was read, all results reached their destinations
    latency_s: from its last image to the end of the deliveries; None for a replay and what was not delivered
    sender: AE title the films came from; "" where unknown
    classes: those that fired in one of its images
    scores: class -> best score over its images; a class without candidate is left out; None: not kept
    """

    study_id: int
    received_at: datetime
    package: Package | None
    ending: Ending
    reason_code: ReasonCode | None = None
    partial: bool = False
    delivered: bool = True
    latency_s: float | None = None
    sender: str = ""
    classes: tuple[str, ...] = ()
    scores: Mapping[str, float] | None = None
    report: Reported | None = None


@dataclass(frozen=True)
class LastAcceptance:
    """How the last acceptance run of a package's weights that came to a verdict ended."""

    outcome: AcceptanceOutcome
    protocol: str
    day: date


@dataclass(frozen=True)
class NotCounted:
    """Studies of a stretch of time that no number counts.

    without_radiograph: none of their objects is a radiograph; open: no look at them has ended yet
    """

    without_radiograph: int = 0
    open: int = 0


@dataclass(frozen=True)
class ReportRow:
    """One row of an import: the study by its Study Instance UID or accession number, and what the report says.

    row: as a spreadsheet counts, for what is said about it
    """

    row: int
    study_instance_uid: str
    accession_number: str
    report: Reported


@dataclass(frozen=True)
class Imported:
    """What an import of final reports did. unknown: rows of studies this node never received."""

    new: int
    changed: int
    same: int
    unknown: tuple[int, ...] = field(default=())
