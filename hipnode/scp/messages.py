"""DIMSE messages from a peer (PS3.7): C-STORE is read here, C-ECHO by pynetdicom, no other is served.

pynetdicom keeps a whole data set in memory and does not answer a C-STORE whose UIDs it cannot
take. Here the data set goes fragment by fragment into a `Reception`, and every request is answered.
"""

import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from hipnode.identity import is_uid

if TYPE_CHECKING:
    from hipnode.scp.association import PeerAssociation

logger = structlog.get_logger(__name__)

MAX_COMMAND_BYTES = 64 * 1024

_C_STORE_RQ, _C_STORE_RSP, _C_ECHO_RQ, _C_CANCEL_RQ = 0x0001, 0x8001, 0x0030, 0x0FFF
_NO_DATA_SET = 0x0101
# Elements of the command set (PS3.7 annex E).
_AFFECTED_SOP_CLASS = 0x0002
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_AFFECTED_SOP_INSTANCE = 0x1000


class ProtocolError(Exception):
    """A peer sends what DIMSE does not allow here; the association is aborted."""


class TransferTooLarge(ProtocolError):
    """A data set passed the limit on its size."""


class Reception(Protocol):
    """Where the data set of one C-STORE goes while it arrives."""

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes. Raises TransferTooLarge; every other trouble waits for the answer."""

    def discard(self) -> None:
        """Forget the transfer: nothing of it stays behind."""


@dataclass(eq=False)
class StoreRequest:
    """One C-STORE request. The UIDs are as sent: untrusted text, "" where absent."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    context_id: int
    calling_ae_title: str
    peer_address: str
    begun: float = field(default_factory=time.monotonic)
    reception: Reception | None = None  #: None: the request came without a data set

    msg_type = "C-STORE"  #: as pynetdicom's primitives call themselves


def read_command(encoded: bytes) -> dict[int, bytes]:
    """The elements of a command set, element number -> value (PS3.7 section 6.3.1).

    Implicit little endian, group 0000, flat. Raises ProtocolError.
    """
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(encoded):
        if position + 8 > len(encoded):
            raise ProtocolError("command set is cut off")
        group, element, length = struct.unpack_from("<HHL", encoded, position)
        position += 8
        if group != 0 or position + length > len(encoded):
            raise ProtocolError("command set is malformed")
        elements[element] = encoded[position : position + length]
        position += length
    return elements


def store_response(request: StoreRequest, status: int) -> bytes:
    """The command set of a C-STORE-RSP (PS3.7 table 9.3-2), implicit little endian.

    Both UIDs are optional in it; what is no UID is not echoed.
    """
    short = struct.Struct("<H").pack
    elements = {
        _COMMAND_FIELD: short(_C_STORE_RSP),
        _MESSAGE_ID_RESPONDED_TO: short(request.message_id),
        _DATA_SET_TYPE: short(_NO_DATA_SET),
        _STATUS: short(status),
    }
    for element, uid in (
        (_AFFECTED_SOP_CLASS, request.sop_class_uid),
        (_AFFECTED_SOP_INSTANCE, request.sop_instance_uid),
    ):
        if is_uid(uid):
            elements[element] = uid.encode("ascii") + b"\0" * (len(uid) % 2)
    body = b"".join(struct.pack("<HHL", 0, e, len(v)) + v for e, v in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _number(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise ProtocolError(f"command set has no valid (0000,{element:04X})")
    return int.from_bytes(value, "little")


def _uid(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("latin-1").strip(" ").rstrip("\0").strip(" ")


class Messages(DIMSEServiceProvider):  # type: ignore[misc]  # pynetdicom has no types
    """Puts together the messages of one association."""

    def __init__(self, assoc: "PeerAssociation") -> None:
        super().__init__(assoc)
        self._command = bytearray()
        self._command_context = 0
        self._request: StoreRequest | None = None  # whose data set is arriving
        self._waiting: list[StoreRequest] = []  # complete, not yet taken by the association

    @property
    def receiving_since(self) -> float | None:
        """Monotonic time at which the data set under way began; None if none is."""
        request = self._request
        return None if request is None else request.begun

    def receive_primitive(self, primitive: Any) -> None:
        """Take the fragments of one P-DATA (PS3.8 annex E). What breaks the protocol aborts."""
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                control = fragment[0]
                if control & 1:
                    self._take_command(context_id, fragment[1:], last=bool(control & 2))
                else:
                    self._take_data(context_id, fragment[1:], last=bool(control & 2))
        except ProtocolError as error:
            logger.warning(
                "association.aborted",
                peer=self.assoc.peer_address,
                calling_ae_title=self.assoc.calling_ae_title,
                why=str(error),
            )
            if isinstance(error, TransferTooLarge):
                self.assoc.note_store("TOO_LARGE")
            else:
                self.assoc.note_refusal("PROTOCOL")
            self.discard()
            self.dul.event_queue.put("Evt19")

    def discard(self) -> None:
        """Forget what is under way: the association has ended."""
        for request in (self._request, *self._waiting):
            if request is not None and request.reception is not None:
                request.reception.discard()
        self._request = None
        self._waiting.clear()
        self._command.clear()

    def taken(self, request: StoreRequest) -> None:
        """The association serves this request; from here on it is its own to end."""
        self._waiting.remove(request)

    def answer(self, request: StoreRequest, status: int) -> None:
        """Send the C-STORE-RSP. Encoded here: pydicom would warn about, and print, many a UID."""
        response = P_DATA()
        response.presentation_data_value_list = [
            [request.context_id, b"\x03" + store_response(request, status)]
        ]
        self.dul.send_pdu(response)

    def _take_command(self, context_id: int, fragment: memoryview, last: bool) -> None:
        if self._request is not None:
            raise ProtocolError("a command inside a data set")
        if self._command and context_id != self._command_context:
            raise ProtocolError("a command in two presentation contexts")
        self._command_context = context_id
        self._command += fragment
        if len(self._command) > MAX_COMMAND_BYTES:
            raise ProtocolError(f"a command of more than {MAX_COMMAND_BYTES} bytes")
        if not last:
            return
        encoded = bytes(self._command)
        self._command.clear()
        elements = read_command(encoded)
        kind = _number(elements, _COMMAND_FIELD)
        has_data = _number(elements, _DATA_SET_TYPE) != _NO_DATA_SET
        if kind == _C_STORE_RQ:
            self._begin_store(context_id, elements, has_data)
        elif kind == _C_ECHO_RQ and not has_data:
            whole = P_DATA()
            whole.presentation_data_value_list = [[context_id, b"\x03" + encoded]]
            super().receive_primitive(whole)
        elif kind != _C_CANCEL_RQ:
            raise ProtocolError(f"no service for DIMSE command 0x{kind:04X}")

    def _begin_store(self, context_id: int, elements: dict[int, bytes], has_data: bool) -> None:
        context = self.assoc.accepted_context(context_id)
        if context is None:
            raise ProtocolError(f"presentation context {context_id} was not accepted")
        request = StoreRequest(
            message_id=_number(elements, _MESSAGE_ID),
            sop_class_uid=_uid(elements, _AFFECTED_SOP_CLASS),
            sop_instance_uid=_uid(elements, _AFFECTED_SOP_INSTANCE),
            transfer_syntax_uid=str(context.transfer_syntax[0]),
            context_id=context_id,
            calling_ae_title=self.assoc.calling_ae_title,
            peer_address=self.assoc.peer_address,
        )
        if has_data:
            request.reception = self.assoc.service.begin(request)
            self._request = request
        else:
            self._queue(request)

    def _take_data(self, context_id: int, fragment: memoryview, last: bool) -> None:
        request = self._request
        if request is None or request.reception is None:
            raise ProtocolError("a data set without a command")
        if context_id != request.context_id:
            raise ProtocolError("a data set in another presentation context than its command")
        request.reception.write(fragment)
        if last:
            self._request = None
            self._queue(request)

    def _queue(self, request: StoreRequest) -> None:
        self._waiting.append(request)
        self.msg_queue.put((request.context_id, request))
