"""The tables of the ledger, for SQLite and PostgreSQL. Only `hipnode.ledger` reads and writes them.

Statuses are strings without a CHECK (a later version may know more of them); times are UTC.
UIDs and PatientID stand here and in the spool, nowhere else; names never.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from hipnode.status import AcceptanceOutcome, AnalysisStatus, DeliveryStatus, Outcome, ReasonCode


class Role(StrEnum):
    """What an instance is to us."""

    SOURCE = "source"  #: a radiograph: kept, and opens an analysis
    IGNORED = "ignored"  #: no radiograph: acknowledged, no bytes kept
    OWN = "own"  #: our own output come back: acknowledged, no bytes kept


class Utc(TypeDecorator[datetime]):
    """An instant, stored in UTC and read back aware. SQLite would drop the offset silently."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Aware instant -> UTC. A naive one raises ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the ledger")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """What the database gives -> aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _words(enum: type[StrEnum]) -> Enum:
    # without CHECK: `alembic check` does not see one, and an older version must be able to read on
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda e: [m.value for m in e],
    )


class Base(DeclarativeBase):
    """Root of the tables; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads it from the class)
        datetime: Utc,
        AnalysisStatus: _words(AnalysisStatus),
        DeliveryStatus: _words(DeliveryStatus),
        Outcome: _words(Outcome),
        AcceptanceOutcome: _words(AcceptanceOutcome),
        ReasonCode: _words(ReasonCode),
        Role: _words(Role),
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class Study(Base):
    """A study some instance of which has arrived."""

    __tablename__ = "studies"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    accession_number: Mapped[str] = mapped_column(String(64), index=True)
    patient_id: Mapped[str] = mapped_column(String(64))  #: of the instance stored last
    received_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class Instance(Base):
    """One set of bytes that arrived under a SOP Instance UID."""

    __tablename__ = "instances"
    __table_args__ = (UniqueConstraint("sop_instance_uid", "sha256"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]  #: 1 for the first bytes under this SOP Instance UID
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))  #: of the data set as received, without group 2
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    relative_path: Mapped[str | None] = mapped_column(String(255))  #: in the spool; null: not kept
    role: Mapped[Role]
    reason_code: Mapped[ReasonCode | None]
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]


class Analysis(Base):
    """One package's look at one study."""

    __tablename__ = "analyses"
    __table_args__ = (
        UniqueConstraint("study_id", "package_id", "number"),
        Index("ix_analyses_status_due_at", "status", "due_at"),
        # two associations that bring the same study open one analysis between them
        Index(
            "uq_analyses_receiving",
            "study_id",
            unique=True,
            sqlite_where=text("status = 'receiving'"),
            postgresql_where=text("status = 'receiving'"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]
    package_id: Mapped[str | None] = mapped_column(String(128))  #: null while RECEIVING
    package_sha256: Mapped[str | None] = mapped_column(String(64))
    shadow: Mapped[bool] = mapped_column(default=False)
    status: Mapped[AnalysisStatus]
    outcome: Mapped[Outcome | None]
    reason_code: Mapped[ReasonCode | None]
    reason: Mapped[str | None] = mapped_column(Text)
    receiving_since: Mapped[datetime]  #: start of this wait for stability
    last_instance_at: Mapped[datetime]
    queued_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]  #: when a worker may take it
    lease_until: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    notice_attempts: Mapped[int] = mapped_column(default=0)  #: tries to build the failure notice
    analysed_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    asked_by: Mapped[str | None] = mapped_column(String(128))  #: who asked for this replay
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AnalysisImage(Base):
    """One image in one analysis: what selection decided, and what the look came to."""

    __tablename__ = "analysis_images"
    __table_args__ = (UniqueConstraint("analysis_id", "instance_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"))
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    decision: Mapped[str] = mapped_column(String(16))  #: analyse, analyse_flag or skip
    rule: Mapped[str] = mapped_column(String(128))
    flags: Mapped[list[Any]]  #: [[reason code, sentence], ...]
    outcome: Mapped[Outcome | None]
    reason_code: Mapped[ReasonCode | None]
    reason: Mapped[str | None] = mapped_column(Text)
    #: class -> its best score, fired or not; a class without candidate is left out, null: not looked at
    scores: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Finding(Base):
    """One hip in which a class fired. Box: pixels of the stored image, corner origin (PS3.3 C.10.5)."""

    __tablename__ = "findings"
    id: Mapped[int] = mapped_column(primary_key=True)
    analysis_image_id: Mapped[int] = mapped_column(
        ForeignKey("analysis_images.id", ondelete="CASCADE"), index=True
    )
    hip: Mapped[str | None] = mapped_column(String(1))  #: R, L or unknown
    hip_source: Mapped[str | None] = mapped_column(String(64))  #: attribute the side is known from
    class_name: Mapped[str] = mapped_column(String(64))
    score: Mapped[float]
    alternative_class: Mapped[str | None] = mapped_column(String(64))
    alternative_score: Mapped[float | None]
    rule: Mapped[str | None] = mapped_column(String(128))
    column_min: Mapped[float]
    row_min: Mapped[float]
    column_max: Mapped[float]
    row_max: Mapped[float]


class Result(Base):
    """One result object. Built once; an analysis that comes to the same UID uses this row and its bytes."""

    __tablename__ = "results"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"), index=True)  #: that first built it
    kind: Mapped[str] = mapped_column(String(16))
    variant: Mapped[str] = mapped_column(String(128))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    relative_path: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class AnalysisResult(Base):
    """Which results an analysis came to (several analyses may come to the same one)."""

    __tablename__ = "analysis_results"
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"), primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("results.id"), primary_key=True, index=True)


class Delivery(Base):
    """One result on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_deliveries_status_due_at", "status", "due_at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("results.id"))
    destination: Mapped[str] = mapped_column(String(64))
    status: Mapped[DeliveryStatus]
    reason_code: Mapped[ReasonCode | None]
    reason: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    opened_at: Mapped[datetime]  #: the time allowed for delivery runs from here
    due_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    fence: Mapped[int] = mapped_column(default=0)
    peer_status: Mapped[int | None]  #: last DIMSE status of the peer
    delivered_at: Mapped[datetime | None]
    committed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]


class AnalysisDelivery(Base):
    """Which deliveries an analysis waits for; its end follows from theirs."""

    __tablename__ = "analysis_deliveries"
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analyses.id"), primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), primary_key=True, index=True)


class Event(Base):
    """What happened, append only: who, what, when, from, to, why. No patient data."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(String(128))
    what: Mapped[str] = mapped_column(String(32))
    study_id: Mapped[int | None] = mapped_column(ForeignKey("studies.id"), index=True)
    analysis_id: Mapped[int | None] = mapped_column(ForeignKey("analyses.id"))
    delivery_id: Mapped[int | None] = mapped_column(ForeignKey("deliveries.id"))
    was: Mapped[str | None] = mapped_column(String(32))
    became: Mapped[str | None] = mapped_column(String(32))
    why: Mapped[str | None] = mapped_column(Text)


class Worker(Base):
    """A process behind the queue, by its last heartbeat."""

    __tablename__ = "workers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)  #: host:pid
    kind: Mapped[str] = mapped_column(String(16))  #: analyse, deliver or node
    packages: Mapped[dict[str, Any]]  #: package id -> sha256 of its weights
    device: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    bell_at: Mapped[datetime | None]  #: when it last answered a bell


class Peer(Base):
    """Who knocked at the SCP: one calling AE title at one address that asked for one called AE title.

    Titles are printable ASCII, empty where a connection ended before it named them.
    """

    __tablename__ = "peers"
    __table_args__ = (UniqueConstraint("calling_ae_title", "address", "called_ae_title"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    address: Mapped[str] = mapped_column(String(45))
    called_ae_title: Mapped[str] = mapped_column(String(16))
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime] = mapped_column(index=True)
    associations: Mapped[int] = mapped_column(BigInteger)  #: accepted
    refusals: Mapped[int] = mapped_column(BigInteger)  #: associations rejected, connections dropped
    instances: Mapped[int] = mapped_column(BigInteger)  #: C-STORE answered 0x0000
    stores_refused: Mapped[int] = mapped_column(BigInteger)  #: C-STORE answered with a failure
    last_refusal: Mapped[str | None] = mapped_column(String(32))  #: NOT_ALLOWED, TOO_MANY, A700, ...
    last_refused_at: Mapped[datetime | None]


class Acceptance(Base):
    """One run of a frozen protocol against one package; the row is there before any result is."""

    __tablename__ = "acceptances"
    __table_args__ = (
        Index(  # two runs of one package cannot both begin
            "uq_acceptances_open",
            "package_id",
            unique=True,
            sqlite_where=text("outcome IS NULL"),
            postgresql_where=text("outcome IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    package_id: Mapped[str] = mapped_column(String(128))
    package_version: Mapped[str] = mapped_column(String(64))
    package_sha256: Mapped[str] = mapped_column(
        String(64), index=True
    )  #: empty where the weights are elsewhere
    protocol_name: Mapped[str] = mapped_column(String(128))
    protocol_sha256: Mapped[str] = mapped_column(String(64))
    protocol: Mapped[str] = mapped_column(Text)  #: the file as it was frozen
    data_sha256: Mapped[str] = mapped_column(String(64))
    code_version: Mapped[str] = mapped_column(String(128))
    frozen_at: Mapped[datetime]
    frozen_by: Mapped[str] = mapped_column(String(128))
    again: Mapped[str | None] = mapped_column(Text)  #: why test cases were used that an earlier run had used
    fence: Mapped[int] = mapped_column(default=0)  #: how often the run was taken up
    lease_until: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    ended_at: Mapped[datetime | None]
    outcome: Mapped[AcceptanceOutcome | None]
    results: Mapped[dict[str, Any] | None]  #: the verdict on each hypothesis, and headline numbers
    seal: Mapped[str | None] = mapped_column(String(64))  #: SHA-256 of all the row says, once it ended


class AcceptanceCase(Base):
    """A test case an acceptance run touches, as a hash of what identifies it."""

    __tablename__ = "acceptance_cases"
    acceptance_id: Mapped[int] = mapped_column(ForeignKey("acceptances.id"), primary_key=True)
    case_sha256: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class FinalReport(Base):
    """What the radiologists' final report says of a study, as imported; its text is never kept."""

    __tablename__ = "final_reports"
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), unique=True)
    fracture: Mapped[bool]
    #: class names, empty without fracture; null: a fracture whose class is not said
    classes: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    imported_at: Mapped[datetime]  #: by the import that first said so
    imported_by: Mapped[str] = mapped_column(String(128))
