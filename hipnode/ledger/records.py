"""What goes into the ledger and comes out of it: plain values, safe to keep after the session ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from hipnode.findings import Reason
from hipnode.status import AnalysisStatus, DeliveryStatus, Outcome, ReasonCode


class Holder(Protocol):
    """Whoever may move an analysis: the fence says since when."""

    @property
    def analysis_id(self) -> int:
        """Row id of the analysis."""

    @property
    def fence(self) -> int:
        """The fence under which it is held; an older one moves nothing."""

    @property
    def owner(self) -> str:
        """Who holds it, as events name them."""


@dataclass(frozen=True)
class ReceivedInstance:
    """An instance as the SCP has it: identity read, bytes on disk (or not kept)."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    patient_id: str
    accession_number: str
    calling_ae_title: str
    peer_address: str
    sha256: str  #: of the data set as received, without group 2
    size_bytes: int
    relative_path: str | None  #: in the spool; None: bytes not kept
    role: Literal["source", "ignored", "own"] = "source"
    reason_code: ReasonCode | None = None


@dataclass(frozen=True)
class Recorded:
    """What became of a received instance.

    fresh: False when these bytes under this SOP Instance UID were already in the books and on disk.
    revision: 1, or more when other bytes arrived earlier under the same UID.
    spare: the file the caller wrote and may remove, because an equal one is kept; None: it is kept.
    """

    instance_id: int
    study_id: int
    fresh: bool
    revision: int
    spare: str | None = None


@dataclass(frozen=True)
class OpenAnalysis:
    """An analysis still RECEIVING, as the tick closes it.

    over: it was open for the cap; it closes even if images keep coming.
    """

    analysis_id: int
    study_id: int
    study_instance_uid: str
    number: int
    fence: int
    over: bool = False
    owner: str = "intake"


@dataclass(frozen=True)
class Image:
    """A stored source image: where its bytes are, and what selection said of it."""

    instance_id: int
    sop_instance_uid: str
    relative_path: str
    sha256: str
    flags: tuple[Reason, ...] = ()
    missing: bool = False  #: the file is known to be lost


SelectedImage = Image


@dataclass(frozen=True)
class ImageDecision:
    """What selection decided about one image."""

    instance_id: int
    decision: Literal["analyse", "analyse_flag", "skip"]
    rule: str
    reason: Reason
    flags: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Claim:
    """An analysis a worker holds until `lease_until`.

    reason: for a failure notice, why it is written; None for work to be analysed.
    calling_ae_title, peer_address: who sent the study's last source image.
    """

    analysis_id: int
    study_id: int
    study_instance_uid: str
    number: int
    fence: int
    attempts: int
    owner: str
    lease_until: datetime
    package_id: str | None
    package_sha256: str | None
    calling_ae_title: str
    peer_address: str
    reason: Reason | None = None


@dataclass(frozen=True)
class ResultFile:
    """A result object as it lies in the spool."""

    kind: str
    variant: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    relative_path: str
    sha256: str


@dataclass(frozen=True)
class Route:
    """A destination and what it takes. variants: kind -> the one variant wanted; other kinds take any."""

    destination: str
    kinds: tuple[str, ...]
    variants: Mapping[str, str] = field(default_factory=dict)

    def takes(self, kind: str, variant: str) -> bool:
        """Whether a result of this kind and variant goes there."""
        return kind in self.kinds and self.variants.get(kind, variant) == variant


@dataclass(frozen=True)
class RecordedResults:
    """What became of an analysis' results.

    due: deliveries now waiting. spare: files the caller wrote that an earlier, equal object replaces.
    """

    status: AnalysisStatus
    due: int
    spare: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeliveryItem:
    """One result of a batch on its way out."""

    delivery_id: int
    fence: int
    attempts: int
    kind: str
    variant: str
    sop_class_uid: str
    sop_instance_uid: str
    relative_path: str
    sha256: str


@dataclass(frozen=True)
class DeliveryBatch:
    """Everything due of one study for one destination: one association."""

    analysis_id: int
    study_id: int
    study_instance_uid: str
    destination: str
    owner: str
    items: tuple[DeliveryItem, ...]
    calling_ae_title: str  #: who sent the study's last source image, for "back to the sender"
    peer_address: str


@dataclass(frozen=True)
class StoreOutcome:
    """What a destination answered to one result.

    verdict: delivered (0x0000 or a warning) | retry (no answer, 0xA7xx) | refused (for good) |
        unsupported (it takes no such kind)
    """

    delivery_id: int
    verdict: Literal["delivered", "retry", "refused", "unsupported"]
    peer_status: int | None = None
    warning: str | None = None


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found and did. overdue: analyses and deliveries ended because nobody came for them."""

    analyses_due: int
    notices_due: int
    deliveries_due: int
    leases_expired: int
    overdue: int = 0


@dataclass(frozen=True)
class Due:
    """Work that waits now."""

    analyses: int
    notices: int
    deliveries: int


@dataclass(frozen=True)
class Replay:
    """What a replay did: the analysis it opened (None: nothing), and a sentence that says so."""

    analysis_id: int | None
    number: int | None
    said: str


@dataclass(frozen=True)
class WorkerBeat:
    """A worker's heartbeat. packages: id -> sha256 of the weights it has loaded."""

    name: str
    kind: Literal["analyse", "deliver", "node"]
    packages: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    bell_at: datetime | None = None  #: when it last answered a bell; None: no news of that


@dataclass(frozen=True)
class WorkerRow:
    """A worker as the ledger last heard of it."""

    name: str
    kind: str
    packages: Mapping[str, str]
    device: str | None
    started_at: datetime
    seen_at: datetime
    bell_at: datetime | None  #: when it last answered a bell


@dataclass(frozen=True)
class StudySummary:
    """One line of the worklist: a study and its latest analysis (status None: it has none)."""

    study_id: int
    study_instance_uid: str
    accession_number: str
    analysis_id: int | None
    number: int | None
    status: AnalysisStatus | None
    outcome: Outcome | None
    reason_code: ReasonCode | None
    reason: str | None
    package_id: str | None
    attempts: int
    status_since: datetime | None  #: when it entered its present status
    due_at: datetime | None  #: of the next attempt, to analyse or to send; None: none waits
    images: int
    findings: int
    received_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class FindingRow:
    """One finding. box: (column_min, row_min, column_max, row_max), stored pixels, corner origin."""

    hip: str | None
    class_name: str
    score: float
    alternative_class: str | None
    alternative_score: float | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageRow:
    """One image in one analysis."""

    instance_id: int
    sop_instance_uid: str
    decision: str
    rule: str
    flags: tuple[Reason, ...]
    outcome: Outcome | None
    reason_code: ReasonCode | None
    reason: str | None
    findings: tuple[FindingRow, ...]


@dataclass(frozen=True)
class DeliveryRow:
    """One result on its way to one destination."""

    delivery_id: int
    destination: str
    status: DeliveryStatus
    reason_code: ReasonCode | None
    reason: str | None
    attempts: int
    due_at: datetime | None
    peer_status: int | None
    delivered_at: datetime | None
    committed_at: datetime | None


@dataclass(frozen=True)
class ResultRow:
    """One result object and its deliveries for this analysis."""

    result_id: int
    kind: str
    variant: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    relative_path: str
    sha256: str
    deliveries: tuple[DeliveryRow, ...]


@dataclass(frozen=True)
class AnalysisDetail:
    """One analysis with everything that hangs on it."""

    analysis_id: int
    number: int
    package_id: str | None
    package_sha256: str | None
    status: AnalysisStatus
    outcome: Outcome | None
    reason_code: ReasonCode | None
    reason: str | None
    attempts: int
    due_at: datetime | None
    lease_until: datetime | None
    lease_owner: str | None
    created_at: datetime
    queued_at: datetime | None
    analysed_at: datetime | None
    ended_at: datetime | None
    asked_by: str | None
    images: tuple[ImageRow, ...]
    results: tuple[ResultRow, ...]


@dataclass(frozen=True)
class InstanceRow:
    """One instance of a study as it arrived."""

    instance_id: int
    sop_instance_uid: str
    revision: int
    role: str
    sop_class_uid: str
    reason_code: ReasonCode | None
    relative_path: str | None
    sha256: str
    size_bytes: int
    calling_ae_title: str
    received_at: datetime


@dataclass(frozen=True)
class EventRow:
    """One line of a study's history."""

    at: datetime
    who: str
    what: str
    analysis_id: int | None
    delivery_id: int | None
    was: str | None
    became: str | None
    why: str | None


@dataclass(frozen=True)
class StudyDetail:
    """A study with its instances, analyses (latest first) and history."""

    summary: StudySummary
    instances: tuple[InstanceRow, ...]
    analyses: tuple[AnalysisDetail, ...]
    events: tuple[EventRow, ...]
