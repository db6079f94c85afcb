"""Bytes from a peer: the socket with deadlines, and the upper layer (PS3.8) that reads PDUs from it.

pynetdicom's own reader waits for ever for the rest of a PDU, allocates whatever length a peer
declares, polls each idle association a thousand times a second and leaves closed sockets open.
These subclasses replace that reader and its loop; the state machine stays pynetdicom's.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.timer import Timer
from pynetdicom.transport import AssociationSocket

if TYPE_CHECKING:
    from hipnode.scp.association import PeerAssociation

logger = structlog.get_logger(__name__)

_ASSOCIATE_RQ, _P_DATA_TF, _ABORT = 0x01, 0x04, 0x07
# Events of the local user, each with its primitive at the head of to_provider_queue (PS3.8 table 9-10).
_USER_EVENTS = frozenset({"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
_LINGER_S = 1.0
_LINGER_BYTES = 4 * 2**20


class WireLimits(Protocol):
    """What the wire needs of `hipnode.scp.Limits`."""

    @property
    def handshake_s(self) -> float: ...  # noqa: D102
    @property
    def pdu_deadline_s(self) -> float: ...  # noqa: D102
    @property
    def max_associate_bytes(self) -> int: ...  # noqa: D102
    @property
    def max_pdu_bytes(self) -> int: ...  # noqa: D102


class PduRefused(OSError):
    """A peer declares a PDU longer than we take, or one that makes no sense here."""


class DeadlineSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom has no types
    """A connected socket on which nothing waits longer than told."""

    def __init__(self, assoc: "PeerAssociation", client_socket: socket.socket, send_s: float) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._send_s = send_s

    @property
    def ready(self) -> bool:
        """Whether bytes (or the end of the stream) can be read at once."""
        return self.readable_within(0)

    def readable_within(self, seconds: float, other: socket.socket | None = None) -> bool:
        """Wait up to `seconds` until bytes can be read, or until `other` can be."""
        sock = self.socket
        poll = select.poll()
        if other is not None:
            poll.register(other, select.POLLIN)
        if sock is not None:
            if isinstance(sock, ssl.SSLSocket) and sock.pending():
                return True  # already decrypted: poll does not see it
            poll.register(sock, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
        return sock is not None and sock.fileno() in ready

    def read_exactly(self, view: memoryview, deadline: float) -> None:
        """Fill `view` before the monotonic `deadline`. Raises TimeoutError, or EOFError at the end."""
        sock = self.socket
        if sock is None:
            raise EOFError
        while view:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            count = sock.recv_into(view)
            if count == 0:
                raise EOFError
            view = view[count:]

    def send(self, bytestream: bytes) -> None:
        """Send all of `bytestream`, or report the connection as closed (Evt17)."""
        try:
            if self.socket is None:
                raise EOFError  # noqa: TRY301  the same answer as any other closed connection
            self.socket.settimeout(self._send_s)
            self.socket.sendall(bytestream)
        except (OSError, EOFError):
            self.event_queue.put("Evt17")

    def finish(self) -> None:
        """End our direction, read away what is still under way, and close.

        Closing with unread bytes would reset the connection, and the peer could lose our last PDU.
        """
        sock = self.socket
        if sock is not None:
            end, count, waste = time.monotonic() + _LINGER_S, 0, bytearray(65536)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
                while count < _LINGER_BYTES and (left := end - time.monotonic()) > 0:
                    sock.settimeout(left)
                    received = sock.recv_into(waste)
                    if not received:
                        break
                    count += received
        self.close()

    def cut(self) -> None:
        """End the connection from another thread: who waits for bytes wakes up. Closes nothing."""
        sock = self.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _shutdown_socket(self) -> None:
        """Shut down and close: pynetdicom leaves the socket open when the peer closed first."""
        sock = self.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class MonotonicTimer(Timer):  # type: ignore[misc]
    """pynetdicom's timer on the monotonic clock: a clock set forward ends no transfer."""

    _due: float | None = None

    def start(self) -> None:
        """Start, or start again."""
        self._due = None if self.timeout is None else time.monotonic() + self.timeout

    def stop(self) -> None:
        """Stop; a stopped timer does not expire."""
        self._due = None

    @property
    def expired(self) -> bool:
        """Whether it runs and its time is over."""
        return self._due is not None and time.monotonic() > self._due

    @property
    def remaining(self) -> float:
        """Seconds to go; 1 if it does not run."""
        return 1.0 if self._due is None else self._due - time.monotonic()


class _DataPdu:
    """A P-DATA-TF PDU (PS3.8 section 9.3.5) and its primitive; values are views into the receive buffer."""

    def __init__(self, body: memoryview) -> None:
        self.presentation_data_value_list: list[tuple[int, memoryview]] = []
        position = 0
        while position < len(body):
            if position + 6 > len(body):
                raise PduRefused("presentation data value item is cut off")
            length, context_id = struct.unpack_from(">LB", body, position)
            end = position + 4 + length
            if length < 2 or end > len(body):
                raise PduRefused("length of a presentation data value is wrong")
            self.presentation_data_value_list.append((context_id, body[position + 5 : end]))
            position = end
        if not self.presentation_data_value_list:
            raise PduRefused("P-DATA-TF without a presentation data value")

    def to_primitive(self) -> "_DataPdu":
        """What the state machine hands on: pynetdicom's P_DATA would take no views."""
        return self


class UpperLayer(DULServiceProvider):  # type: ignore[misc]
    """The upper layer of one accepted connection; woken by bytes, primitives and timers."""

    def __init__(self, assoc: "PeerAssociation", limits: WireLimits) -> None:
        super().__init__(assoc)
        self.daemon = True  # a peer that sends half a PDU must not hold up the end of the process
        self._limits = limits
        self._associate_by = time.monotonic() + limits.handshake_s
        self._idle_timer = MonotonicTimer(None)
        self.artim_timer = MonotonicTimer(None)
        self._bell, self._ringer = socket.socketpair()
        self._ringer.setblocking(False)
        self._buffer = bytearray(6)

    def wake(self) -> None:
        """Let the loop look around at once."""
        with contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
            self._ringer.send(b"!")

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer."""
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        """Ask the loop to end."""
        super().kill_dul()
        self.wake()

    def stop_dul(self) -> bool:
        """End the loop if the state machine is idle again; whether it was."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        self.join(self._limits.pdu_deadline_s + 1)
        return True

    def release_resources(self) -> None:
        """Close the socket and the bell. For a connection whose thread never ran, too."""
        if self.socket is not None:
            self.socket.close()
        self._bell.close()
        self._ringer.close()

    def run_reactor(self) -> None:
        """One event, then the next: from the queue, else from the local user, the timer or the peer."""
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                if not self.event_queue.empty():
                    self._act(self.event_queue.get())
                elif not self._look():
                    self._wait()
        except Exception as error:  # noqa: BLE001  pynetdicom's actions raise anything; the connection ends
            logger.warning("association.broken", peer=self.assoc.peer_address, error=type(error).__name__)
            self.to_user_queue.put(A_P_ABORT())
        finally:
            if self.to_user_queue.empty():
                self.to_user_queue.put(A_P_ABORT())  # whoever waits for the peer waits in vain
            self.release_resources()
            self.assoc.news.set()

    def _act(self, event: str) -> None:
        """Give one event to the state machine; one that makes no sense in this state is dropped."""
        if (event, self.state_machine.current_state) in TRANSITION_TABLE:
            self.state_machine.do_action(event)
        elif event in _USER_EVENTS:
            self.to_provider_queue.get()  # too late: the connection is closing
        elif event == "Evt18":
            self.artim_timer.stop()
        self.assoc.news.set()

    def _look(self) -> bool:
        """Queue the next event; False if there is none."""
        if self.artim_timer.expired:
            self.event_queue.put("Evt18")
        elif self._process_recv_primitive():
            pass
        elif self.state_machine.current_state == "Sta13":
            self.socket.finish()
            self.event_queue.put("Evt17")
        elif self._listens() and self.socket.ready:
            self._read_pdu_data()
            self._idle_timer.restart()
        else:
            return False
        return True

    def _listens(self) -> bool:
        # While a request is being served its sender has to wait: nothing queues up in memory.
        return self.socket.socket is not None and not self.assoc.busy

    def _wait(self) -> None:
        seconds = min(1.0, self.artim_timer.remaining)
        if self._listens():
            self.socket.readable_within(seconds, self._bell)
        else:
            poll = select.poll()
            poll.register(self._bell, select.POLLIN)
            poll.poll(max(0.0, seconds) * 1000)
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096, socket.MSG_DONTWAIT)

    def _read_pdu_data(self) -> None:
        """Read one PDU: its length is checked before a byte of it is allocated or waited for."""
        associated = self.state_machine.current_state != "Sta2"
        deadline = time.monotonic() + self._limits.pdu_deadline_s if associated else self._associate_by
        try:
            header = memoryview(self._buffer)[:6]
            self.socket.read_exactly(header, deadline)
            kind, _, length = struct.unpack(">BBL", header)
            self._check_length(kind, length, associated)
            if len(self._buffer) < 6 + length:
                self._buffer = bytearray(header) + bytes(length)
            pdu = memoryview(self._buffer)[: 6 + length]
            self.socket.read_exactly(pdu[6:], deadline)
        except PduRefused as error:
            logger.warning("pdu.refused", peer=self.assoc.peer_address, why=str(error))
            self.assoc.note_refusal("PROTOCOL" if associated else "NOT_DICOM")
            self.event_queue.put("Evt19")
        except TimeoutError:
            logger.warning("pdu.late", peer=self.assoc.peer_address, associated=associated)
            self.assoc.note_refusal("TOO_SLOW")
            self.event_queue.put("Evt17")
        except (OSError, EOFError):
            self.event_queue.put("Evt17")
        else:
            self._queue_pdu(kind, pdu)

    def _check_length(self, kind: int, length: int, associated: bool) -> None:
        """Raise PduRefused unless a PDU of this type and length may come now."""
        if not 0x01 <= kind <= 0x07:
            raise PduRefused(f"unknown PDU type 0x{kind:02X}")
        if not associated and kind not in (_ASSOCIATE_RQ, _ABORT):
            raise PduRefused(f"PDU type 0x{kind:02X} before an association")
        cap = self._limits.max_pdu_bytes if kind == _P_DATA_TF else self._limits.max_associate_bytes
        if length > cap:
            raise PduRefused(f"PDU type 0x{kind:02X} of {length} bytes, {cap} are taken")

    def _queue_pdu(self, kind: int, pdu: memoryview) -> None:
        try:
            if kind == _P_DATA_TF:
                decoded, event = _DataPdu(pdu[6:]), "Evt10"
            else:
                decoded, event = self._decode_pdu(pdu)
        except Exception as error:  # noqa: BLE001  pynetdicom's decoders raise anything on odd bytes
            logger.warning("pdu.unreadable", peer=self.assoc.peer_address, error=type(error).__name__)
            self.assoc.note_refusal("PROTOCOL" if self.assoc.calling_ae_title else "NOT_DICOM")
            self.event_queue.put("Evt19")
            return
        self._recv_pdu.put(decoded)
        self.event_queue.put(event)
