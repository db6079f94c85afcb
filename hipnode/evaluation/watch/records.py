"""What monitoring comes to, as plain values: everything the pages and the JSON output print."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.monitoring import Agreement, Drift, PChart, Period, Shift
from hipnode.watched import LastAcceptance, NotCounted, Package, WatchedStudy

ROLLING_DAYS = 90
ANY = "any fracture"


@dataclass(frozen=True)
class History:
    """What a package did before and beside the time that is watched.

    first: the first 500 studies it read; scored: the first 500 it read of which scores are kept
    reported: all it read that have a final report, in order of time
    accepted: its last acceptance run with a verdict, None where there is none
    """

    first: Sequence[WatchedStudy] = ()
    scored: Sequence[WatchedStudy] = ()
    reported: Sequence[WatchedStudy] = ()
    accepted: LastAcceptance | None = None


@dataclass(frozen=True)
class Flow:
    """A stretch of days at the node, each study once.

    whole: it is over, to its last day. partial: read although an image failed; undelivered: read, and a result
    never reached its destination; unseen: of those, with a class that fired
    """

    name: str
    whole: bool
    period: Period
    partial: int
    undelivered: int
    unseen: int


@dataclass(frozen=True)
class Rate:
    """A share followed over the weeks and the rolling days, against that of the first studies.

    judged: per week, whether it came after the studies that set the limits
    """

    name: str
    chart: PChart
    judged: tuple[bool, ...]
    rolling: Shift


@dataclass(frozen=True)
class ScoreDrift:
    """The scores of one class over the weeks and the rolling days, against those of the first studies."""

    name: str
    weeks: tuple[Drift, ...]
    rolling: Drift


@dataclass(frozen=True)
class Agreed:
    """Agreement with final reports in one class over one stretch."""

    name: str
    stretch: str
    agreement: Agreement


@dataclass(frozen=True)
class Band:
    """Studies whose best score lies in low..high (below high, but 1 included), and the share the reports call
    fractured: over the rolling days, against the first studies with scores."""

    low: float
    high: float
    fractured: Shift


@dataclass(frozen=True)
class ErrorWatch:
    """A CUSUM of errors against the reports, in order of time. level None: not begun, and `says` why.

    errors: over the rolling days, against the first 500 studies with a report
    cases: since those 500, of the kind that can be wrong so
    level: of the statistic after the last case, which alarms at limit; alarms: (day, study id) in the weeks
    acceptable, unacceptable: error rates, the usual one and the one that is looked for
    """

    name: str
    errors: Shift
    cases: int
    alarms: tuple[tuple[date, int], ...]
    says: str
    level: float | None = None
    limit: float | None = None
    acceptable: float | None = None
    unacceptable: float | None = None


@dataclass(frozen=True)
class Disagreement:
    """A study in which package and report disagree about any fracture. Its id is that of `hipnode studies show`."""

    study_id: int
    received: date
    model: tuple[str, ...]
    report: tuple[str, ...] | None
    kind: str


@dataclass(frozen=True)
class PackageWatch:
    """One package: how often each class fired, its scores, and what the reports say of it.

    read: studies it read in the weeks; baseline, scored: studies that set limits so far
    verification: the share of positive studies with a report, against that of the others
    """

    package: Package
    read: int
    first_day: date | None
    baseline: int
    scored: int
    rates: tuple[Rate, ...]
    scores: tuple[ScoreDrift, ...]
    agreement: tuple[Agreed, ...]
    bands: tuple[Band, ...]
    errors: tuple[ErrorWatch, ...]
    disagreements: tuple[Disagreement, ...]
    verification: Shift
    accepted: LastAcceptance | None


@dataclass(frozen=True)
class Sender:
    """The studies of one AE title in the weeks. differs: the shares whose interval leaves out that of all."""

    name: str
    studies: int
    refused: Estimate
    failed: Estimate
    positive: Estimate
    sensitivity: Estimate
    ppv: Estimate
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Alarm:
    """What moved, in words, and what to do about it. package: None for what concerns the node."""

    what: str
    package: Package | None
    says: str
    do: str


@dataclass(frozen=True)
class Watch:
    """All numbers of a monitoring report.

    weeks: the ISO weeks (UTC) from the first day to the last; rolling: the 90 days that end with the last
    reasons: (code, sentence, kind, studies in the weeks, in the 90 days)
    never_read: studies with a fracture in the report that were refused or failed in the weeks
    comparisons: how many times it was asked whether something moved more than by chance
    """

    first: date
    last: date
    weeks: tuple[Flow, ...]
    rolling: Flow
    rates: tuple[Rate, ...]
    reasons: tuple[tuple[str, str, str, int, int], ...]
    packages: tuple[PackageWatch, ...]
    senders: tuple[Sender, ...]
    not_counted: NotCounted
    never_read: int
    alarms: tuple[Alarm, ...]
    notes: tuple[str, ...]
    comparisons: int
