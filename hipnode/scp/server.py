"""The listening side: who gets a connection, a slot, an association; start and stop.

Hardened against what pynetdicom's server leaves open: the accept loop never waits for a peer, every
connection has a deadline for its handshake, and peers that connect and say nothing take no slot of
those that store.
"""

import socket
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import structlog
from pynetdicom import AE
from pynetdicom.transport import AddressInformation, RequestHandler, ThreadedAssociationServer

from hipnode.scp.association import PeerAssociation, Rejection, StoreService
from hipnode.scp.knocks import Knocks
from hipnode.scp.peers import AllowedPeers
from hipnode.scp.wire import DeadlineSocket

logger = structlog.get_logger(__name__)

_POLL_S = 0.05  #: the accept loop looks this often whether it is to end
# result, source, diagnostic (PS3.8 table 9-21)
_NOT_ALLOWED = Rejection((0x01, 0x01, 0x03), "NOT_ALLOWED", "not in the list of allowed peers")
_CALLED_AE_TITLE = Rejection((0x01, 0x01, 0x07), "CALLED_AE_TITLE", "called AE title is not ours")
_TOO_MANY = Rejection((0x02, 0x03, 0x02), "TOO_MANY", "too many associations")
_STOPPING = Rejection((0x02, 0x03, 0x02), "STOPPING", "stopping")

MAXIMUM_LENGTH = 128 * 1024  #: of a P-DATA-TF PDU, as we advertise it (PS3.8 annex D.1)


@dataclass(frozen=True)
class Limits:
    """What a peer may use of us. Seconds and bytes."""

    max_associations: int = 16  #: served at the same time; one more is rejected as transient
    max_connections_per_peer: int = 32  #: from one IP address
    max_unassociated: int = 64  #: connections not (yet) an association; a quarter for unlisted addresses
    handshake_s: float = 10.0  #: from connection to a complete A-ASSOCIATE-RQ (TLS: the same again)
    pdu_deadline_s: float = 20.0  #: from the first byte of a PDU to its last
    transfer_s: float = 600.0  #: from a C-STORE request to the end of its data set
    idle_s: float = 120.0  #: an association on which nothing comes is aborted
    max_associate_bytes: int = 256 * 1024  #: of a PDU that is no P-DATA-TF
    max_pdu_bytes: int = 2**20  #: of a P-DATA-TF; we advertise MAXIMUM_LENGTH
    max_instance_bytes: int = 512 * 2**20  #: of a data set that is kept
    backlog_limit: int = 10_000  #: unfinished analyses above which C-STORE is refused with A700


class HardServer(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom has no types
    """Accepts connections; each goes its own way in a thread of its own."""

    request_queue_size = 64
    daemon_threads = True

    def __init__(
        self,
        ae: Any,
        address: tuple[str, int],
        *,
        limits: Limits,
        peers: AllowedPeers,
        service: StoreService,
        knocks: Knocks,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.limits = limits
        self.knocks = knocks
        self.peers = peers
        self.service = service
        self.stopping = False
        self._lock = threading.Lock()
        self._connections: Counter[str] = Counter()  # by IP address
        self._associated: set[PeerAssociation] = set()
        self._unassociated = 0
        self._strangers = 0  # connections from addresses that no entry of the allow list covers
        self.associations: set[PeerAssociation] = set()
        self.accept_thread: threading.Thread | None = None
        super().__init__(ae, address, ae.ae_title, [], ssl_context, request_handler=_ConnectionHandler)

    @property
    def associated(self) -> int:
        """How many associations are open."""
        return len(self._associated)

    @property
    def accepting(self) -> bool:
        """Whether connections are taken: the loop runs and its socket is open."""
        thread = self.accept_thread
        return thread is not None and thread.is_alive() and self.socket.fileno() >= 0

    def _bind_defaults(self) -> None:
        pass  # associations bind their own; the defaults would log data sets

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept. No byte of the peer is waited for here: the loop serves everybody."""
        try:
            connection, address = self.socket.accept()
        except OSError:
            time.sleep(0.05)  # out of file descriptors: do not spin until one is free
            raise
        connection.settimeout(self.limits.handshake_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection, address

    def verify_request(self, request: socket.socket, client_address: Any) -> bool:  # noqa: ARG002
        """Whether a connection gets a place; one that does not is closed at once."""
        ip = client_address[0]
        stranger = not self.peers.knows_address(ip)
        with self._lock:
            if self.stopping:
                return False
            if self._connections[ip] >= self.limits.max_connections_per_peer:
                why = "too many connections from this address"
            elif self._unassociated >= self.limits.max_unassociated:
                why = "too many connections without an association"
            elif stranger and self._strangers >= max(1, self.limits.max_unassociated // 4):
                why = "too many connections from addresses that are not allowed"
            else:
                self._connections[ip] += 1
                self._unassociated += 1
                self._strangers += stranger
                return True
        logger.warning("connection.refused", peer=ip, why=why)
        self.knocks.refused(_TOO_MANY.code, ip)
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands (TLS) and start the association, in this connection's own thread."""
        try:
            if self.ssl_context is not None:
                request = self.ssl_context.wrap_socket(
                    request, server_side=True, do_handshake_on_connect=False
                )
                request.do_handshake()
            self.finish_request(request, client_address)
        except Exception as error:  # noqa: BLE001  a connection that cannot start ends; nothing else does
            logger.warning("connection.broken", peer=client_address[0], error=type(error).__name__)
            if isinstance(error, ssl.SSLError):
                self.knocks.refused("TLS", client_address[0])
            self.shutdown_request(request)
            self._give_back(client_address[0])

    def rejection(self, assoc: PeerAssociation) -> Rejection | None:
        """Why this association is rejected; None: it is not.

        One that is not rejected has its slot until `left`.
        """
        if not self.peers.allows(assoc.calling_ae_title, assoc.peer_address):
            return _NOT_ALLOWED
        if assoc.called_ae_title != self.ae_title.strip():
            return _CALLED_AE_TITLE
        with self._lock:
            if self.stopping:
                return _STOPPING
            if len(self._associated) >= self.limits.max_associations:
                return _TOO_MANY
            self._associated.add(assoc)
            self._unassociated -= 1
        return None

    def joined(self, assoc: PeerAssociation) -> None:
        """A connection has its association object; from here on `left` gives its place back."""
        with self._lock:
            self.associations.add(assoc)

    def left(self, assoc: PeerAssociation) -> None:
        """A connection has ended."""
        with self._lock:
            self.associations.discard(assoc)
            associated = assoc in self._associated
            self._associated.discard(assoc)
        self._give_back(assoc.peer_address, associated)

    def _give_back(self, ip: str, associated: bool = False) -> None:
        with self._lock:
            self._connections[ip] -= 1
            if self._connections[ip] <= 0:
                del self._connections[ip]
            if not associated:
                self._unassociated -= 1
            if not self.peers.knows_address(ip):
                self._strangers -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """socketserver prints a traceback; we keep to one line."""
        logger.warning("connection.broken", peer=client_address[0])

    def service_actions(self) -> None:
        """pynetdicom collects garbage here; ended associations of ours hold no cycle that lasts."""


class _ConnectionHandler(RequestHandler):  # type: ignore[misc]
    """Turns one connection into one `PeerAssociation`."""

    def handle(self) -> None:
        server: HardServer = self.server
        assoc = PeerAssociation(server, self.client_address[0])
        assoc.set_socket(DeadlineSocket(assoc, self.request, server.limits.pdu_deadline_s))
        assoc.acceptor.maximum_length = MAXIMUM_LENGTH
        assoc.acceptor.ae_title = server.ae_title
        assoc.acceptor.address_info = AddressInformation.from_tuple(server.server_address)
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.requestor.address_info = AddressInformation.from_tuple(self.client_address)
        server.joined(assoc)
        try:
            assoc.start()
        except RuntimeError:  # no thread to be had
            assoc.dul.release_resources()
            server.associations.discard(assoc)
            raise


def listen(
    ae_title: str,
    host: str,
    port: int,
    *,
    limits: Limits,
    peers: AllowedPeers,
    service: StoreService,
    knocks: Knocks,
    ssl_context: ssl.SSLContext | None = None,
) -> HardServer:
    """Bind, listen, and accept in a thread. Raises OSError when the address cannot be had."""
    ae = AE(ae_title=ae_title)
    ae.maximum_pdu_size = MAXIMUM_LENGTH
    ae.maximum_associations = 10**9  # counted here: pynetdicom counts silent connections as well
    server = HardServer(
        ae,
        (host, port),
        limits=limits,
        peers=peers,
        service=service,
        knocks=knocks,
        ssl_context=ssl_context,
    )
    ae._servers.append(server)
    server.accept_thread = threading.Thread(
        target=server.serve_forever, args=(_POLL_S,), name="hipnode-scp", daemon=True
    )
    server.accept_thread.start()
    return server


def stop(server: HardServer, grace_s: float) -> None:
    """Take no new connection, let transfers under way end for up to `grace_s`, then end the rest."""
    if server.stopping:
        return
    server.stopping = True
    server.shutdown()
    end = time.monotonic() + grace_s
    while time.monotonic() < end:
        waiting = list(server.associations)
        for assoc in waiting:
            if not assoc.is_established:
                assoc.dul.socket.cut()
            assoc.news.set()  # an idle one sees that the node stops
        if not waiting:
            return
        time.sleep(0.02)
    for assoc in list(server.associations):
        assoc.dul.socket.cut()
        assoc.dul.kill_dul()
        assoc.news.set()
    for assoc in list(server.associations):
        assoc.join(server.limits.pdu_deadline_s)
