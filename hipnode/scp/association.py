"""One association with a peer: admission, negotiation, and requests served one after the other."""

import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

from hipnode.scp.contexts import supported_contexts
from hipnode.scp.messages import Messages, Reception, StoreRequest
from hipnode.scp.wire import UpperLayer

if TYPE_CHECKING:
    from hipnode.scp.server import HardServer

logger = structlog.get_logger(__name__)

SUCCESS = 0x0000

_LOOK_S = 1.0  #: an association looks at its timers at least this often


@dataclass(frozen=True)
class Rejection:
    """Why an association is rejected."""

    answer: tuple[int, int, int]  #: result, source, diagnostic (PS3.8 table 9-21)
    code: str  #: as the ledger keeps it
    why: str


class StoreService(Protocol):
    """Who keeps what arrives."""

    def begin(self, request: StoreRequest) -> Reception:
        """Where the data set of this request goes. Does not raise."""

    def finish(self, request: StoreRequest) -> int:
        """Keep or refuse what arrived; returns the DIMSE status. Does not raise."""


class _Admission(ACSE):  # type: ignore[misc]  # pynetdicom has no types
    """Answers association requests: who may connect is asked before anything is negotiated."""

    def _negotiate_as_acceptor(self) -> None:
        request = self.requestor.primitive
        assoc = self.assoc
        assoc.calling_ae_title = _printable(request.calling_ae_title)
        assoc.called_ae_title = _printable(request.called_ae_title)
        rejection = assoc.server.rejection(assoc)
        if rejection is not None:
            logger.warning(
                "association.rejected",
                peer=assoc.peer_address,
                calling_ae_title=assoc.calling_ae_title,
                called_ae_title=assoc.called_ae_title,
                why=rejection.why,
            )
            assoc.note_refusal(rejection.code)
            self.send_reject(*rejection.answer)
            assoc.kill()
            return
        self.acceptor.supported_contexts = supported_contexts(request.presentation_context_definition_list)
        super()._negotiate_as_acceptor()
        assoc.note_negotiated()
        logger.info("association.accepted", peer=assoc.peer_address, calling_ae_title=assoc.calling_ae_title)


class PeerAssociation(Association):  # type: ignore[misc]
    """An accepted connection, from its first byte to its last."""

    def __init__(self, server: "HardServer", peer_address: str) -> None:
        self.server = server
        self.service: StoreService = server.service
        self.peer_address = peer_address
        self.calling_ae_title = ""
        self.called_ae_title = ""  #: as asked for
        self.news = threading.Event()  #: something to look at: a message, a release, an end
        self.serving = False
        super().__init__(server.ae, MODE_ACCEPTOR)
        limits = server.limits
        self.dul = UpperLayer(self, limits)
        self.dimse = Messages(self)
        self.acse = _Admission(self)
        self.acse_timeout = limits.handshake_s
        self.network_timeout = limits.idle_s
        self._server = server
        self.name = f"AcceptorThread@{datetime.now():%Y%m%d%H%M%S}"  # pynetdicom finds it by this

    def _bind_defaults(self) -> None:
        # Only the handlers that answer; those that log would print data sets and names.
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def note_refusal(self, code: str) -> None:
        """Count that this connection was refused or aborted."""
        self.server.knocks.refused(code, self.peer_address, self.calling_ae_title, self.called_ae_title)

    def note_store(self, refusal: str | None) -> None:
        """Count a C-STORE: kept, or refused and why."""
        self.server.knocks.stored(self.calling_ae_title, self.peer_address, self.called_ae_title, refusal)

    def note_negotiated(self) -> None:
        """Count an association that was let in; one in which nothing can be sent counts as refused as well."""
        self.server.knocks.accepted(self.calling_ae_title, self.peer_address, self.called_ae_title)
        if not self._accepted_cx:
            self.note_refusal("NO_CONTEXT")

    @property
    def busy(self) -> bool:
        """Whether a request is waiting or being served."""
        return self.serving or not self.dimse.msg_queue.empty()

    @property
    def transferring(self) -> bool:
        """Whether a data set is arriving, or one that arrived is being kept."""
        return self.busy or self.dimse.receiving_since is not None

    def accepted_context(self, context_id: int) -> Any:
        """The accepted presentation context of this id, or None."""
        return self._accepted_cx.get(context_id)

    def run_reactor(self) -> None:
        """Wait for the request, answer it, serve until the end, and leave nothing behind."""
        try:
            self.dul.start()
            self._started_dul = True
            primitive = self.dul.receive_pdu(wait=True, timeout=self.acse_timeout + _LOOK_S)
            if isinstance(primitive, A_ASSOCIATE):
                self.requestor.primitive = primitive
                self.acse.negotiate_association()
                if self.is_established:
                    self._run_reactor()
        except Exception as error:  # noqa: BLE001  whatever a peer provokes ends this association only
            logger.warning("association.broken", peer=self.peer_address, error=type(error).__name__)
        finally:
            self._leave()

    def _leave(self) -> None:
        self.is_established = False
        self.dul.kill_dul()
        if self.dul.ident is not None:
            self.dul.join(self.server.limits.pdu_deadline_s + _LOOK_S)
        else:
            self.dul.release_resources()
        self.dimse.discard()
        self.server.left(self)

    def _run_reactor(self) -> None:
        """Serve what comes in until release, abort, silence or the end of the server."""
        self._is_paused = False
        while not self._kill:
            self.news.wait(_LOOK_S)
            self.news.clear()
            context_id, message = self.dimse.get_msg(block=False)
            if message is not None:
                self._serve(message, context_id)
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.is_established = False
                self.kill()
            elif self.acse.is_aborted():
                self.is_aborted = True
                self.is_established = False
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif why := self._overdue():
                if self.dimse.receiving_since is not None:
                    self.note_store("TOO_SLOW")
                logger.warning(
                    "association.aborted",
                    peer=self.peer_address,
                    calling_ae_title=self.calling_ae_title,
                    why=why,
                )
                self._abort_nonblocking()
                self.kill()

    def _overdue(self) -> str:
        since = self.dimse.receiving_since
        if since is not None and time.monotonic() - since > self.server.limits.transfer_s:
            return f"a transfer took longer than {self.server.limits.transfer_s:g} s"
        if self.dul.idle_timer_expired():
            return f"nothing came for {self.network_timeout:g} s"
        if self.server.stopping and not self.transferring:
            return "the node is stopping"
        return ""

    def _serve(self, message: Any, context_id: int) -> None:
        self.serving = True
        try:
            if isinstance(message, StoreRequest):
                self.dimse.taken(message)
                status = self.service.finish(message)
                self.note_store(None if status == SUCCESS else f"{status:04X}")
                self.dimse.answer(message, status)
            else:
                self._serve_request(message, context_id)
        finally:
            self.serving = False
            self.dul._idle_timer.restart()
            self.dul.wake()
            self.news.set()  # a release may have come meanwhile


def _printable(ae_title: str) -> str:
    """An AE title fit for a log line."""
    return "".join(c if c.isprintable() else "?" for c in str(ae_title)).strip()
