"""What becomes of an object that arrives: kept, acknowledged and dropped, or refused (PS3.4 B.2.3).

Success is a promise: it is answered after the file is fsynced and renamed, its folder fsynced, and
the row committed. Every other end is a status that tells the sender what to do next.
"""

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import structlog
from sqlalchemy.orm import Session, sessionmaker

from hipnode import faults, ledger
from hipnode.errors import (
    BacklogFull,
    IdentityUnreadable,
    OutOfResources,
    SOPClassMismatch,
    StoreRefused,
)
from hipnode.identity import Identity, has_marker, is_uid, peek_study_uid, read_identity
from hipnode.logs import hashed
from hipnode.results import codes
from hipnode.results.identity import CODING_SCHEME_UID, MANUFACTURER
from hipnode.scp.association import SUCCESS
from hipnode.scp.contexts import RADIOGRAPH_CLASSES, SECONDARY_CAPTURE
from hipnode.scp.messages import StoreRequest, TransferTooLarge
from hipnode.scp.server import Limits
from hipnode.spool import Incoming, Spool
from hipnode.status import ReasonCode

logger = structlog.get_logger(__name__)

# Bytes looked at while a transfer is under way, to know which study it holds back from closing.
_PEEK_BYTES = (4 * 1024, 64 * 1024, 512 * 1024)
# How much more than `max_instance_bytes` an object may have whose bytes are not kept: refusing one
# (a long video, a tomosynthesis) would make a router send its study again and again.
_DROPPED_FACTOR = 4
_BACKLOG_EVERY_S = 1.0

Role = Literal["source", "ignored", "own"]
_REASONS: dict[Role, ReasonCode] = {
    "ignored": ReasonCode.NOT_A_RADIOGRAPH,
    "own": ReasonCode.OWN_OUTPUT,
}


@dataclass(frozen=True)
class OwnMarks:
    """How we recognise what we made: bytes that stand in it, and the Manufacturer it names."""

    markers: tuple[bytes, ...] = ()
    manufacturer: str = ""

    def on(self, identity: Identity, data: memoryview) -> bool:
        """Whether the object carries one of them."""
        ours = identity.manufacturer.casefold() == self.manufacturer.casefold()
        return (bool(self.manufacturer) and ours) or has_marker(data, self.markers)


def own_marks(device_uid: str = "") -> OwnMarks:
    """What every object of ours carries: Manufacturer, our coding scheme, the device of this installation.

    A forward through a PACS may rewrite one of them, hardly all.
    """
    markers = (codes.SCHEME, CODING_SCHEME_UID, device_uid)
    return OwnMarks(tuple(m.encode("ascii") for m in markers if m), MANUFACTURER)


class Transfers:
    """The studies that have a transfer under way: intake holds them open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._studies: Counter[str] = Counter()

    def begin(self, study_instance_uid: str) -> None:
        """One more transfer of this study."""
        with self._lock:
            self._studies[study_instance_uid] += 1

    def end(self, study_instance_uid: str) -> None:
        """One less."""
        with self._lock:
            self._studies[study_instance_uid] -= 1
            if self._studies[study_instance_uid] <= 0:
                del self._studies[study_instance_uid]

    def studies(self) -> set[str]:
        """Their Study Instance UIDs now."""
        with self._lock:
            return set(self._studies)


class Arrival:
    """The data set of one C-STORE while it arrives: written to the spool as it comes.

    Trouble with the disk is remembered, the rest of the bytes passes by, and the answer tells it.
    """

    def __init__(self, request: StoreRequest, spool: Spool, transfers: Transfers, limits: Limits) -> None:
        self.request = request
        self.is_radiograph = request.sop_class_uid in RADIOGRAPH_CLASSES
        self.refusal: StoreRefused | None = None
        self.incoming: Incoming | None = None
        self._spool = spool
        self._transfers = transfers
        self._study: str | None = None
        self._start: bytearray | None = bytearray()  # until the study is known
        self._size = 0
        self._limit = limits.max_instance_bytes * (1 if self.is_radiograph else _DROPPED_FACTOR)
        try:
            self.incoming = spool.begin(
                "instances",
                sop_class_uid=_fit(request.sop_class_uid),
                sop_instance_uid=_fit(request.sop_instance_uid),
                transfer_syntax_uid=request.transfer_syntax_uid,
            )
        except (OutOfResources, OSError) as error:
            self._refuse(error)

    @property
    def study_instance_uid(self) -> str | None:
        """Its study, as soon as the bytes that came tell it."""
        return self._study

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes. Raises TransferTooLarge."""
        self._size += len(fragment)
        if self._size > self._limit:
            raise TransferTooLarge(f"a data set of more than {self._limit} bytes")
        if self._start is not None:
            self._peek(fragment)
        if self.incoming is None:
            return
        try:
            self.incoming.write(fragment)
        except (OutOfResources, OSError) as error:
            self._refuse(error)

    def _refuse(self, error: OutOfResources | OSError) -> None:
        if not isinstance(error, OutOfResources):
            error = OutOfResources(f"the spool cannot be written ({type(error).__name__})")
        self.refusal = error
        if self.incoming is not None:
            self.incoming.discard()
            self.incoming = None

    def _peek(self, fragment: memoryview) -> None:
        start = self._start
        if start is None:
            return
        before = len(start)
        start += fragment[: _PEEK_BYTES[-1] - before]
        if any(before < size <= len(start) for size in _PEEK_BYTES):
            self._study = peek_study_uid(start, self.request.transfer_syntax_uid)
            if self._study is not None:
                self._transfers.begin(self._study)
        if self._study is not None or len(start) >= _PEEK_BYTES[-1]:
            self._start = None

    def discard(self) -> None:
        """Forget it: no byte stays behind, the study is held no longer. Idempotent."""
        if self.incoming is not None:
            self.incoming.discard()
            self.incoming = None
        if self._study is not None:
            self._transfers.end(self._study)
            self._study = None

    def identity(self, marks: OwnMarks) -> tuple[Identity, bool]:
        """Who the object is, and whether it carries our marks. The whole data set has arrived.

        Raises IdentityUnreadable, with a copy in quarantine; SOPClassMismatch; OutOfResources.
        """
        if self.refusal is not None:
            raise self.refusal
        incoming, request = self.incoming, self.request
        assert incoming is not None  # noqa: S101  only a refusal leaves none
        try:
            with incoming.data_set() as data:
                _check_uids(request)
                identity = read_identity(data, request.transfer_syntax_uid)
                own = marks.on(identity, data)
        except IdentityUnreadable as error:
            with incoming.data_set() as data:
                self._spool.quarantine(data, str(error))
            raise
        if identity.sop_class_uid != request.sop_class_uid:
            raise SOPClassMismatch("SOP Class UID of the data set is not that of the request")
        if identity.sop_instance_uid != request.sop_instance_uid:
            raise SOPClassMismatch("SOP Instance UID of the data set is not that of the request")
        if self._study is None:
            self._study = identity.study_instance_uid
            self._transfers.begin(self._study)
        return identity, own


def _study(arrival: object) -> dict[str, str]:
    """The study's key for a log line, where the bytes that came told it."""
    known = arrival.study_instance_uid if isinstance(arrival, Arrival) else None
    return {"study": hashed(known)} if known else {}


def _check_uids(request: StoreRequest) -> None:
    for uid in (request.sop_class_uid, request.sop_instance_uid):
        if not is_uid(uid):
            raise IdentityUnreadable("a UID of the C-STORE request is missing or no UID")


def _fit(uid: str) -> str:
    """A UID for our file meta group; what is none is refused later and stands there as empty."""
    return uid if is_uid(uid) else ""


class StoreHandler:
    """Answers C-STORE requests: spool, then ledger, then Success."""

    def __init__(
        self,
        spool: Spool,
        sessions: sessionmaker[Session],
        *,
        limits: Limits,
        marks: OwnMarks,
        on_stored: Callable[[ledger.Recorded], None] | None = None,
    ) -> None:
        self.transfers = Transfers()
        self._spool = spool
        self._sessions = sessions
        self._limits = limits
        self._marks = marks
        self._on_stored = on_stored
        # SQLite takes one writer at a time, and those that poll for their turn starve each other (16
        # senders: up to 4 s for one row, 0.9 s with a turn of their own). PostgreSQL needs none.
        sqlite = sessions.kw["bind"].dialect.name == "sqlite"
        self.turn: AbstractContextManager[object] = threading.Lock() if sqlite else nullcontext()
        self._backlog_lock = threading.Lock()
        self._backlog_due = 0.0
        self._backlog = 0

    def begin(self, request: StoreRequest) -> Arrival:
        """A place for the data set of this request."""
        return Arrival(request, self._spool, self.transfers, self._limits)

    def finish(self, request: StoreRequest) -> int:
        """Keep, drop or refuse what arrived; returns the DIMSE status."""
        arrival = request.reception
        try:
            if not isinstance(arrival, Arrival):
                raise IdentityUnreadable("the request came without a data set")  # noqa: TRY301
            self._keep(request, arrival)
        except StoreRefused as refusal:
            logger.warning(
                "instance.refused",
                status=f"0x{refusal.dimse_status:04X}",
                why=str(refusal),
                peer=request.peer_address,
                calling_ae_title=request.calling_ae_title,
                instance=hashed(request.sop_instance_uid),
                **_study(arrival),
            )
            return refusal.dimse_status
        except Exception as error:  # noqa: BLE001  whatever it is, the sender must try again, not give up
            where = traceback.extract_tb(error.__traceback__)[-1]
            logger.error(  # noqa: TRY400  its text may hold values of the data set
                "instance.failed",
                error=type(error).__name__,
                where=f"{where.filename}:{where.lineno}",
                peer=request.peer_address,
                instance=hashed(request.sop_instance_uid),
                **_study(arrival),
            )
            return OutOfResources.dimse_status
        finally:
            if arrival is not None:
                arrival.discard()
        return SUCCESS

    def _keep(self, request: StoreRequest, arrival: Arrival) -> None:
        identity, marked = arrival.identity(self._marks)
        self._check_backlog()  # also: does the database answer, before anything is kept
        role = self._role(arrival, identity, marked)
        incoming = arrival.incoming
        assert incoming is not None  # noqa: S101  it has an identity
        sha256, size_bytes = incoming.sha256, incoming.size_bytes
        faults.point("scp.received")
        path = incoming.keep().relative_path if role == "source" else None
        faults.point("scp.written")
        received = ledger.ReceivedInstance(
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            patient_id=identity.patient_id,
            accession_number=identity.accession_number,
            calling_ae_title=request.calling_ae_title,
            peer_address=request.peer_address,
            sha256=sha256,
            size_bytes=size_bytes,
            relative_path=path,
            role=role,
            reason_code=_REASONS.get(role),
        )
        recorded: ledger.Recorded | None = None
        try:
            with self.turn, ledger.transaction(self._sessions) as session:
                recorded = ledger.record_instance(session, received, datetime.now(UTC), self._spool.holds)
        except Exception:
            # A file whose COMMIT fails stays: whether it failed is not always known, and the sender comes
            # again. The reconciliation at start finds what has no row. Before that, nothing refers to it.
            if recorded is None and path is not None:
                self._spool.remove(path)
            raise
        faults.point("scp.recorded")
        if recorded.spare is not None:
            self._spool.remove(recorded.spare)
        logger.info(
            "instance.stored" if role == "source" else "instance.acknowledged",
            study=hashed(identity.study_instance_uid),
            study_id=recorded.study_id,
            instance_id=recorded.instance_id,
            role=role,
            fresh=recorded.fresh,
            revision=recorded.revision,
            bytes=size_bytes,
            calling_ae_title=request.calling_ae_title,
            seconds=round(time.monotonic() - request.begun, 3),
        )
        if self._on_stored is not None:
            self._on_stored(recorded)

    def _role(self, arrival: Arrival, identity: Identity, marked: bool) -> Role:
        if marked:
            return "own"
        # What we emit are never CR or DX objects: for those the question is spared.
        if not arrival.is_radiograph or identity.sop_class_uid == SECONDARY_CAPTURE:
            with ledger.reading(self._sessions) as session:
                if ledger.known_result_uid(session, identity.sop_instance_uid, identity.series_instance_uid):
                    return "own"
        return "source" if arrival.is_radiograph else "ignored"

    def _check_backlog(self) -> None:
        """Raise BacklogFull above the limit, LedgerDown without a database; asks once a second."""
        with self._backlog_lock:
            if time.monotonic() >= self._backlog_due:
                with ledger.reading(self._sessions) as session:
                    self._backlog = ledger.backlog(session)
                self._backlog_due = time.monotonic() + _BACKLOG_EVERY_S
            if self._backlog >= self._limits.backlog_limit:
                raise BacklogFull(f"{self._backlog} analyses wait, {self._limits.backlog_limit} are allowed")
