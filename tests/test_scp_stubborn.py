"""Peers that stay, do not read, come from everywhere, or speak TLS badly: each loses its own place only."""

import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hipnode.scp import Limits
from tests.encoded import EXPLICIT, data_set
from tests.factories import make_radiograph
from tests.peers import wait_for
from tests.scp_node import (
    DX,
    QUICK,
    VERIFICATION,
    Bench,
    RawPeer,
    associate_rq,
    associated,
    command,
    echo,
    item,
    pdata,
    pdu,
    running_scp,
    store_rq,
)
from tests.test_scp_attacks import ABORT, REJECT, everybody_is_gone

ACCEPT, RELEASE_RQ, RELEASE_RP = 0x02, 0x05, 0x06
NUMBER = struct.Struct("<H").pack
ECHO_RQ = command(
    {0x0002: VERIFICATION.encode() + b"\0", 0x0100: NUMBER(0x30), 0x0110: NUMBER(1), 0x0800: NUMBER(0x0101)}
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Bench]:
    with running_scp(tmp_path, limits=QUICK) as running:
        yield running


def send_on(peer: RawPeer, piece: bytes, times: int) -> None:
    for _ in range(times):
        peer.send(piece)


# --- peers that stay -----------------------------------------------------------------------------


def test_a_rejected_peer_that_does_not_hang_up_is_cut(node: Bench) -> None:
    with RawPeer(node.port) as peer:
        peer.send(associate_rq(called="ANOTHER"))
        assert peer.receive()[0] == REJECT
        assert peer.is_cut(10)
        everybody_is_gone(node)


def test_a_peer_that_releases_and_does_not_hang_up_is_cut(node: Bench) -> None:
    with RawPeer(node.port).associate() as peer:
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert peer.receive()[0] == RELEASE_RP
        assert peer.is_cut(10)
        everybody_is_gone(node)


def test_an_aborted_peer_that_does_not_hang_up_is_cut(node: Bench) -> None:
    with RawPeer(node.port).associate() as peer:
        peer.send(pdu(0x09, bytes(4)))
        assert peer.receive()[0] == ABORT
        assert peer.is_cut(10)
        everybody_is_gone(node)


def test_a_peer_that_never_reads_its_answers_is_cut(node: Bench) -> None:
    # what the system would hold back for it is kept small, so that the test is short
    node.scp._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with RawPeer(node.port) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate(abstract=VERIFICATION)
        peer.socket.settimeout(20)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_on(peer, pdata(3, ECHO_RQ) * 100, 10_000)
        assert echo(node.port) == 0x0000
    everybody_is_gone(node)


def test_a_sender_that_goes_before_the_answer_has_stored_its_film(node: Bench) -> None:
    sent = data_set(SOPClass=DX.encode())
    with RawPeer(node.port).associate() as peer:
        peer.send(pdata(3, store_rq(b"1.2.1")) + pdata(2, sent))
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        wait_for(node.rows, "the row is committed", 10)
    everybody_is_gone(node)
    assert len(node.rows()) == len(node.files()) == 1
    with RawPeer(node.port).associate() as again:
        again.store(sent, b"1.2.1")
    assert len(node.rows()) == len(node.files()) == 1


# --- peers from everywhere -----------------------------------------------------------------------


def is_closed(peer: socket.socket) -> bool:
    """Whether the node has ended this connection already."""
    peer.settimeout(0.05)
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_silent_peers_of_many_addresses_have_a_share_together(tmp_path: Path) -> None:
    limits = Limits(max_unassociated=4, max_connections_per_peer=3, handshake_s=2)
    with running_scp(tmp_path, limits=limits) as node:
        flood = [
            socket.create_connection(("127.0.0.1", node.port), 10, source_address=(f"127.0.0.{n}", 0))
            for n in range(2, 14)
        ]
        server = node.scp._server
        wait_for(lambda: server._unassociated == 4, "four have a place", 5)
        assert len(server.associations) <= 4
        assert sum(is_closed(peer) for peer in flood) >= 8
        wait_for(lambda: server._unassociated == 0, "the time of the four is over", 20)
        assert echo(node.port) == 0x0000
        for peer in flood:
            peer.close()
        everybody_is_gone(node)


def test_addresses_that_may_not_connect_leave_room_for_those_that_may(tmp_path: Path) -> None:
    limits = Limits(max_unassociated=8, handshake_s=30)
    with running_scp(tmp_path, limits=limits, peers="*@127.0.0.1/32") as node:
        strangers = [
            socket.create_connection(("127.0.0.1", node.port), 10, source_address=(f"127.0.0.{n}", 0))
            for n in range(2, 22)
        ]
        wait_for(lambda: sum(is_closed(peer) for peer in strangers) == 18, "two of them have a place", 10)
        assert echo(node.port) == 0x0000
        for peer in strangers:
            peer.close()
        places_are_free(node)
        with socket.create_connection(("127.0.0.1", node.port), 10, source_address=("127.0.0.9", 0)) as one:
            one.sendall(associate_rq())
            assert one.recv(1) == bytes([REJECT]), "one that asks still hears why"


# --- requests that are large without being long --------------------------------------------------

_PROPOSAL = item(0x30, DX.encode()) + item(0x40, EXPLICIT.encode())
LARGE_REQUESTS = {
    "twenty thousand empty items": item(0x21, b"") * 20_000,
    "three thousand presentation contexts": item(0x20, b"\1\0\0\0" + _PROPOSAL) * 3_000,
    "one context with ten thousand syntaxes": item(
        0x20, b"\3\0\0\0" + item(0x30, DX.encode()) + item(0x40, b"1.2") * 9_000
    ),
    "twenty thousand user items": item(0x50, item(0x55, b"") * 16_000),
    "a hundred user informations": item(0x50, item(0x51, struct.pack(">L", 1))) * 100,
}


@pytest.mark.parametrize("items", LARGE_REQUESTS.values(), ids=LARGE_REQUESTS)
def test_a_large_association_request_costs_little_and_others_are_served(node: Bench, items: bytes) -> None:
    body = associate_rq()[6:] + items
    assert len(body) < QUICK.max_associate_bytes
    with RawPeer(node.port) as peer:
        begun = time.process_time()
        peer.send(pdu(0x01, body))
        assert peer.receive()[0] in (0, ACCEPT, REJECT, ABORT)
        assert time.process_time() - begun < 5
        assert echo(node.port) == 0x0000
    everybody_is_gone(node)


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, for both ends, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def is_refused(peer: RawPeer, context: ssl.SSLContext) -> bool:
    """Whether TLS with the node fails; with TLS 1.3 the client hears of it after its own handshake."""
    try:
        with context.wrap_socket(peer.socket, server_hostname="localhost") as tls:
            tls.sendall(associate_rq())
            return tls.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def places_are_free(node: Bench) -> None:
    """As `everybody_is_gone`; a connection that ends in its TLS handshake never was an association."""
    wait_for(lambda: not node.scp._server._connections, "all connections have ended", 20)
    everybody_is_gone(node)


@pytest.fixture
def mutual(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """A server that wants a certificate of its peers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_with_mutual_tls_films_go_in_beside_silent_peers(
    tmp_path: Path, certificate: tuple[Path, Path], mutual: ssl.SSLContext
) -> None:
    client = ssl.create_default_context(cafile=certificate[0])
    client.load_cert_chain(*certificate)
    films = [make_radiograph(instance=n, PixelData=bytes(10 << 20)) for n in range(1, 6)]
    with running_scp(tmp_path, ssl_context=mutual, limits=Limits(handshake_s=5)) as node:
        silent = [RawPeer(node.port) for _ in range(6)]
        with associated(node.port, [(DX, [EXPLICIT])], tls_args=(client, "localhost")) as assoc:
            assert [assoc.send_c_store(film).Status for film in films] == [0x0000] * 5
        for peer in silent:
            peer.socket.close()
        assert len(node.rows()) == 5
        places_are_free(node)


def test_without_a_client_certificate_nobody_is_served(
    tmp_path: Path, certificate: tuple[Path, Path], mutual: ssl.SSLContext
) -> None:
    bare = ssl.create_default_context(cafile=certificate[0])
    with running_scp(tmp_path, ssl_context=mutual, limits=QUICK) as node:
        with RawPeer(node.port) as peer:
            assert is_refused(peer, bare)
        with RawPeer(node.port) as plain:
            plain.send(associate_rq())
            assert plain.is_cut(10)
        places_are_free(node)


def send_bytewise(peer: RawPeer, data: bytes) -> None:
    for byte in data:
        peer.send(bytes([byte]))
        time.sleep(0.1)


def test_a_trickle_does_not_prolong_the_tls_handshake(tmp_path: Path, mutual: ssl.SSLContext) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    with running_scp(tmp_path, ssl_context=mutual, limits=QUICK) as node, RawPeer(node.port) as peer:
        begun = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_bytewise(peer, outgoing.read())
        assert time.monotonic() - begun < 8
        places_are_free(node)
