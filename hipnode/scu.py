"""The way out: stored result files to a peer by C-STORE, and what the peer said of each.

The bytes of a result are sent as they are stored. Nothing here raises for what a peer or a
network does: every instance comes back with a verdict, and an unknown outcome is a retry,
which is harmless because an instance keeps its UID and its bytes.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationSocket

from hipnode.destinations import RemoteAE
from hipnode.logs import hashed

logger = structlog.get_logger(__name__)

# With a path, pynetdicom then sends the file's data set byte for byte; otherwise it decodes
# and encodes it anew. It changes nothing for those who hand over a data set.
_config.STORE_SEND_CHUNKED_DATASET = True

# A transfer may take its size at this rate beyond the time for an answer: pynetdicom's DIMSE
# timeout starts when the data set is queued, not when its last byte has left.
SLOWEST_BYTES_PER_S = 256 * 1024


class Verdict(StrEnum):
    """What a peer's answer means for one instance."""

    DELIVERED = "delivered"  #: the peer has it, perhaps with a warning
    RETRY = "retry"  #: not now, or nobody knows: send it again later
    REFUSED = "refused"  #: refused for good
    UNSUPPORTED = "unsupported"  #: the peer does not take this SOP class


@dataclass(frozen=True)
class Outgoing:
    """A result file to send: a DICOM file with its file meta information."""

    delivery_id: int
    path: Path


@dataclass(frozen=True)
class StoreOutcome:
    """What became of one instance."""

    delivery_id: int
    verdict: Verdict
    peer_status: int | None = None  #: DIMSE status the peer answered, None without an answer
    warning: str | None = None  #: what the peer changed or left out of a stored instance
    detail: str = ""  #: one sentence for people, without patient data


@dataclass(frozen=True)
class Timeouts:
    """How long a peer may take, in seconds."""

    connect_s: float = 10
    acse_s: float = 15  #: to answer an association request or release
    dimse_s: float = 30  #: to answer one message, beyond the time its bytes need
    network_s: float = 30  #: to take or send the next bytes


class Trouble(StrEnum):
    """Why there is no association with a peer, or no answer over it."""

    HOST_UNKNOWN = "host_unknown"  #: the name has no address
    CONNECTION_REFUSED = "connection_refused"  #: the host is there and nothing listens on the port
    UNREACHABLE = "unreachable"  #: the network has no way there
    TIMEOUT = "timeout"  #: the connection was not taken in time
    CALLED_AE_TITLE = "called_ae_title"  #: the peer has another AE title (PS3.8 table 9-21)
    CALLING_AE_TITLE = "calling_ae_title"  #: the peer does not know ours
    REJECTED = "rejected"  #: the association was rejected for another reason
    NO_CONTEXT = "no_context"  #: the peer takes none of what was proposed
    NO_ANSWER = "no_answer"  #: connected, and then silence or an abort
    FAILED = "failed"  #: answered with a failure status


_REJECTIONS = {(1, 7): Trouble.CALLED_AE_TITLE, (1, 3): Trouble.CALLING_AE_TITLE}  # (source, diagnostic)


@dataclass(frozen=True)
class EchoReport:
    """The answer to a C-ECHO. `ok` is a 0x0000; `detail` and `trouble` say what went wrong otherwise."""

    ok: bool
    detail: str
    seconds: float
    trouble: Trouble | None = None


def send(
    items: Sequence[Outgoing],
    remote: RemoteAE,
    our_ae_title: str,
    *,
    timeouts: Timeouts = Timeouts(),
    budget_s: float | None = None,
    as_stored: bool = False,
    told: Callable[[StoreOutcome], None] = lambda _: None,
) -> list[StoreOutcome]:
    """Send all `items` over one association; one outcome for each, in their order.

    A peer that breaks the association over one instance is called again for those after it,
    so that an instance it cannot bear does not hold up the others. After `budget_s` seconds
    nothing new is begun and what was not sent is a retry.
    as_stored: in the transfer syntax of the file or not at all; otherwise explicit little endian goes as
    implicit to a peer that takes only that. told: called with the outcome of each that was sent, at once.
    """
    end = time.monotonic() + (budget_s if budget_s is not None else float("inf"))
    outcomes: list[StoreOutcome] = []
    left = []
    for item in items:
        try:
            left.append(_Stored(item, as_stored))
        except (OSError, ValueError, AttributeError, InvalidDicomError) as error:
            # Our own file: the caller checks its hash first, so this is a disk that fails now.
            outcomes.append(
                StoreOutcome(
                    item.delivery_id, Verdict.RETRY, None, None, f"The file is not readable: {error}"
                )
            )
    while left:
        if time.monotonic() >= end:
            outcomes += _all(left, Verdict.RETRY, "Time was up before it was sent.")
            break
        done = _send_over_one_association(left, remote, our_ae_title, timeouts, end, told)
        outcomes += done
        if len(done) == len(left) or not done:
            break
        left = left[len(done) :]
    order = {item.delivery_id: place for place, item in enumerate(items)}
    return sorted(outcomes, key=lambda outcome: order[outcome.delivery_id])


def echo(
    remote: RemoteAE,
    our_ae_title: str,
    timeouts: Timeouts = Timeouts(),
) -> EchoReport:
    """Ask a peer for a C-ECHO (PS3.4 annex A). Does not raise for what the peer does."""
    start = time.monotonic()

    def report(detail: str, trouble: Trouble | None) -> EchoReport:
        return EchoReport(trouble is None, detail, time.monotonic() - start, trouble)

    with _Call(remote, our_ae_title, [build_context(Verification)], timeouts) as call:
        if call.assoc is None:
            return report(call.trouble, call.kind)
        status = call.assoc.send_c_echo()
        if "Status" not in status:
            silence = "The peer accepted the association and did not answer the C-ECHO."
            return report(silence, Trouble.NO_ANSWER)
        code = int(status.Status)
        if code:
            return report(f"The peer answered 0x{code:04X}.", Trouble.FAILED)
        return report("The peer answered.", None)


def verdict_of(status: int) -> Verdict:
    """What a C-STORE response status means for us (PS3.4 B.2.3, PS3.7 annex C).

    A status nobody defined is a retry: the time allowed for a delivery bounds it.
    """
    if status in (0x0000, 0x0001, 0x0107, 0x0116) or 0xB000 <= status <= 0xBFFF:
        return Verdict.DELIVERED
    if status == 0x0111:  # duplicate SOP instance: it kept what an earlier, unanswered try brought
        return Verdict.DELIVERED
    if status == 0x0122:
        return Verdict.UNSUPPORTED
    if 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF:
        return Verdict.REFUSED
    if status in (0x0105, 0x0106, 0x0115, 0x0117, 0x0118, 0x0119, 0x0120, 0x0121, 0x0124, 0x0211, 0x0212):
        return Verdict.REFUSED
    return Verdict.RETRY  # A7xx out of resources, 0110 processing failure, 0210, FE00, unknown


class _Stored:
    """A file to send and what its file meta information says of it."""

    def __init__(self, item: Outgoing, as_stored: bool) -> None:
        meta, offset = split_dataset(item.path)
        self.item = item
        self.sop_class_uid = str(meta.MediaStorageSOPClassUID)
        self.sop_instance_uid = str(meta.MediaStorageSOPInstanceUID)
        self.transfer_syntax_uid = str(meta.TransferSyntaxUID)
        self.size_bytes = item.path.stat().st_size - offset
        self.may_be_implicit = self.transfer_syntax_uid == ExplicitVRLittleEndian and not as_stored

    def outcome(
        self, verdict: Verdict, detail: str, peer_status: int | None = None, warning: str | None = None
    ) -> StoreOutcome:
        """The outcome of this instance."""
        return StoreOutcome(self.item.delivery_id, verdict, peer_status, warning, detail)


def _all(stored: Sequence[_Stored], verdict: Verdict, detail: str) -> list[StoreOutcome]:
    return [one.outcome(verdict, detail) for one in stored]


def _contexts(stored: Sequence[_Stored]) -> list[PresentationContext]:
    """One presentation context for each SOP class and transfer syntax.

    A context with several transfer syntaxes lets the peer pick one, and then only that one
    may be used; on its own, the syntax of the stored bytes is refused or accepted by itself.
    Implicit little endian is what every application entity must take (PS3.5 10.1).
    """
    wanted: dict[tuple[str, str], None] = {}
    for one in stored:
        wanted[one.sop_class_uid, one.transfer_syntax_uid] = None
        if one.may_be_implicit:
            wanted[one.sop_class_uid, ImplicitVRLittleEndian] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def _send_over_one_association(
    stored: Sequence[_Stored],
    remote: RemoteAE,
    our_ae_title: str,
    timeouts: Timeouts,
    end: float,
    told: Callable[[StoreOutcome], None],
) -> list[StoreOutcome]:
    """Send until all are answered or the association breaks; outcomes of those tried, in order."""
    outcomes: list[StoreOutcome] = []
    with _Call(remote, our_ae_title, _contexts(stored), timeouts) as call:
        if call.assoc is None:
            verdict = Verdict.UNSUPPORTED if call.all_refused else Verdict.RETRY
            return _all(stored, verdict, call.trouble)
        accepted = {(cx.abstract_syntax, cx.transfer_syntax[0]) for cx in call.assoc.accepted_contexts}
        for number, one in enumerate(stored, 1):
            if time.monotonic() >= end or not call.assoc.is_established:
                break
            outcome = _send_one(call, call.assoc, one, number, accepted, timeouts)
            logger.info(
                "result.sent",
                delivery_id=one.item.delivery_id,
                instance=hashed(one.sop_instance_uid),
                verdict=outcome.verdict.value,
                peer_status=None if outcome.peer_status is None else f"0x{outcome.peer_status:04X}",
            )
            outcomes.append(outcome)
            told(outcome)
            if outcome.peer_status is None and outcome.verdict is Verdict.RETRY:
                call.broken = True
                break  # whatever is left of this association cannot be trusted
    # An association the peer closed before its first instance is no reason to call again at once.
    return outcomes or _all(stored, Verdict.RETRY, "The association ended before anything was sent.")


def _send_one(
    call: "_Call",
    assoc: Association,
    one: _Stored,
    message_id: int,
    accepted: set[tuple[str, str]],
    timeouts: Timeouts,
) -> StoreOutcome:
    if (one.sop_class_uid, one.transfer_syntax_uid) in accepted:
        data_set: Path | Dataset = one.item.path
    elif one.may_be_implicit and (one.sop_class_uid, str(ImplicitVRLittleEndian)) in accepted:
        # The same elements in the syntax every peer must take; the values are not touched.
        data_set = dcmread(one.item.path)
    else:
        return one.outcome(Verdict.UNSUPPORTED, "The peer accepted the association, but not this SOP class.")
    limit_s = timeouts.dimse_s + one.size_bytes / SLOWEST_BYTES_PER_S
    assoc.dimse_timeout = limit_s
    call.cut_after(limit_s + timeouts.acse_s)
    try:
        status = assoc.send_c_store(data_set, msg_id=message_id)
    except RuntimeError:
        # pynetdicom's word for "the association ended between two messages".
        return one.outcome(Verdict.RETRY, "The association ended before it was sent.")
    if "Status" not in status:
        return one.outcome(
            Verdict.RETRY, "The connection was lost, or no answer came in time; the outcome is unknown."
        )
    code = int(status.Status)
    verdict = verdict_of(code)
    if verdict is Verdict.DELIVERED and code != 0:
        return one.outcome(verdict, f"Stored; the peer answered 0x{code:04X}.", code, _remark(status))
    return one.outcome(verdict, f"The peer answered 0x{code:04X}.", code)


def _remark(status: Dataset) -> str:
    """What a warning status says: the elements it names. Comments may hold patient data."""
    elements = getattr(status, "OffendingElement", None)
    named = [elements] if isinstance(elements, int) else list(elements or [])
    tags = ", ".join(f"({int(tag) >> 16:04X},{int(tag) & 0xFFFF:04X})" for tag in named)
    words = {0xB000: "coerced data elements", 0xB006: "discarded elements", 0x0111: "had it already"}
    code = int(getattr(status, "Status", 0))
    said = words.get(code, f"warned with 0x{code:04X}")
    return f"The peer {said}{': ' + tags if tags else ''}."


class _TellingSocket(socket.socket):
    """A socket that remembers why it could not connect: pynetdicom only logs it."""

    error: OSError | None = None

    def connect(self, address: Any) -> None:
        """As socket.connect."""
        try:
            super().connect(address)
        except OSError as error:
            self.error = error
            raise


class _CallingAE(AE):  # type: ignore[misc]  # pynetdicom is untyped here
    """An AE that keeps its sockets: pynetdicom leaves one open when nobody takes the connection."""

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title)
        self.sockets: list[_TellingSocket] = []

    def _create_socket(self, *arguments: Any) -> AssociationSocket:
        made = super()._create_socket(*arguments)
        made.socket = _TellingSocket(fileno=made.socket.detach())
        made.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(made.socket)
        return made


class _Call:
    """One association with its timeouts. `assoc` is None when there is none; `trouble` says why.

    pynetdicom takes the timeout off the socket once it is connected, and its abort waits for
    the send queue: a peer that stops reading would hold the caller for ever. So the socket
    keeps a timeout, and a timer closes it when everything else took too long.
    """

    def __init__(
        self,
        remote: RemoteAE,
        our_ae_title: str,
        contexts: Sequence[PresentationContext],
        timeouts: Timeouts,
    ) -> None:
        self.remote, self.timeouts, self.contexts = remote, timeouts, list(contexts)
        self.assoc: Association | None = None
        self.trouble = ""
        self.kind: Trouble | None = None  #: the same for programs
        self.all_refused = False  #: the peer accepted the association and none of its contexts
        self.broken = False  #: set by the caller when the association is to be aborted
        self._connected = False
        self._timer: threading.Timer | None = None
        self._ae = _CallingAE(ae_title=our_ae_title)
        self._ae.connection_timeout = timeouts.connect_s
        self._ae.acse_timeout = timeouts.acse_s
        self._ae.dimse_timeout = timeouts.dimse_s
        self._ae.network_timeout = timeouts.network_s

    def __enter__(self) -> "_Call":
        if not self.remote.host:  # to the resolver that would be this machine
            self._no("The peer's address is not known.", Trouble.HOST_UNKNOWN)
            return self
        self.cut_after(self.timeouts.connect_s + 2 * self.timeouts.acse_s)
        try:
            assoc = self._ae.associate(
                self.remote.host,
                self.remote.port,
                self.contexts,
                ae_title=self.remote.ae_title,
                evt_handlers=[(evt.EVT_CONN_OPEN, self._opened)],
            )
        except (OSError, UnicodeError) as error:  # the host's name is not known, or is none
            self._no(f"{self.remote.host} cannot be found: {error}.", Trouble.HOST_UNKNOWN)
            self._close()
            return self
        except ValueError:  # a sender may call itself what no AE title can be
            what = f"{self.remote.ae_title!r} is no AE title that can be called."
            self._no(what, Trouble.CALLED_AE_TITLE)
            self._close()
            return self
        if assoc.is_established:
            self.assoc = assoc
        else:
            self._no(*self._why_not(assoc))
            self._close()
        return self

    def __exit__(self, *_: object) -> None:
        if self.assoc is not None and self.assoc.is_established:
            self.cut_after(2 * self.timeouts.acse_s)
            if self.broken:
                self.assoc.abort()
            else:
                self.assoc.release()
        self._close()

    def cut_after(self, seconds: float) -> None:
        """Close the socket in `seconds`, unless called again before."""
        self._stop_timer()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _opened(self, event: evt.Event) -> None:
        self._connected = True
        event.assoc.dul.socket.socket.settimeout(self.timeouts.network_s)

    def _no(self, trouble: str, kind: Trouble) -> None:
        self.trouble, self.kind = trouble, kind

    def _why_not(self, assoc: Association) -> tuple[str, Trouble]:
        if assoc.is_rejected:
            answer = assoc.acceptor.primitive
            kind = _REJECTIONS.get((answer.result_source, answer.diagnostic), Trouble.REJECTED)
            return f"The peer rejected the association: {answer.reason_str}.", kind
        if assoc.rejected_contexts:
            self.all_refused = True
            return "The peer accepted the association, but none of its SOP classes.", Trouble.NO_CONTEXT
        if not self._connected:
            return f"{self.remote.host}:{self.remote.port} does not take connections.", self._unconnected()
        return "The peer did not answer the association request, or aborted it.", Trouble.NO_ANSWER

    def _unconnected(self) -> Trouble:
        error = next((raw.error for raw in self._ae.sockets if raw.error is not None), None)
        if isinstance(error, ConnectionRefusedError):
            return Trouble.CONNECTION_REFUSED
        if isinstance(error, socket.gaierror):
            return Trouble.HOST_UNKNOWN
        return Trouble.TIMEOUT if error is None or isinstance(error, TimeoutError) else Trouble.UNREACHABLE

    def _cut(self) -> None:
        logger.warning("peer.cut", called_ae_title=self.remote.ae_title, why="it does not move")
        for raw in self._ae.sockets:
            with contextlib.suppress(OSError):  # it is closed already
                raw.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        self._stop_timer()
        for raw in self._ae.sockets:
            raw.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
