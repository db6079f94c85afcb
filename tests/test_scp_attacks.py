"""What hostile, slow and broken peers do to the SCP: they are cut, and everybody else is served."""

import random
import resource
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hipnode.scp import Limits
from tests.encoded import data_set, encode
from tests.factories import make_radiograph
from tests.peers import wait_for
from tests.scp_node import (
    DX,
    IMPLICIT,
    QUICK,
    Bench,
    RawPeer,
    associate_rq,
    associated,
    command,
    echo,
    pdata,
    pdu,
    running_scp,
    send,
    status_of,
    store_rq,
)

ABORT, REJECT = 0x07, 0x03


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Bench]:
    with running_scp(tmp_path, limits=QUICK) as running:
        yield running


def everybody_is_gone(node: Bench) -> None:
    """All places are free again, and no thread or file of a transfer is left."""
    server = node.scp._server
    wait_for(lambda: not server.associations, "all connections have ended", 20)
    assert server.associated == server._unassociated == 0
    assert not server._connections
    wait_for(lambda: not node.parts(), "no file of a transfer is left", 2)
    assert node.scp.receiving() == set()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# --- peers that say nothing, or not enough -------------------------------------------------------


def test_silent_peers_keep_nobody_waiting_and_are_cut(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits(handshake_s=2)) as node:
        silent = [RawPeer(node.port) for _ in range(12)]
        assert echo(node.port) == 0x0000
        assert send(node.port, make_radiograph(Rows=32, Columns=32)) == [0x0000]
        assert len(node.scp._server.associations) >= 12  # both were served beside the silent ones
        for peer in silent:
            assert peer.is_cut(20)
            peer.socket.close()
        everybody_is_gone(node)


def test_silent_peers_take_no_slot_of_those_that_store(tmp_path: Path) -> None:
    limits = Limits(max_associations=2, max_connections_per_peer=40, handshake_s=5)
    with running_scp(tmp_path, limits=limits) as node:
        silent = [RawPeer(node.port) for _ in range(30)]
        assert [echo(node.port) for _ in range(3)] == [0x0000] * 3
        for peer in silent:
            peer.socket.close()
        everybody_is_gone(node)


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 7, 60])
def test_half_a_request_is_cut_at_the_handshake_deadline(node: Bench, cut: int) -> None:
    with RawPeer(node.port) as peer:
        begun = time.monotonic()
        peer.send(associate_rq()[:cut])
        assert peer.is_cut(10)
        assert time.monotonic() - begun > 0.3
    everybody_is_gone(node)


def test_a_trickle_of_bytes_does_not_prolong_the_handshake(node: Bench) -> None:
    with RawPeer(node.port) as peer:
        begun = time.monotonic()
        try:
            for byte in associate_rq():
                peer.send(bytes([byte]))
                time.sleep(0.1)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert peer.is_cut(10)
        assert time.monotonic() - begun < 8
    everybody_is_gone(node)


def test_half_pdus_of_associated_peers_are_cut_and_their_slots_freed(tmp_path: Path) -> None:
    limits = Limits(max_associations=3, handshake_s=1, pdu_deadline_s=0.5)
    with running_scp(tmp_path, limits=limits) as node:
        slow = [RawPeer(node.port).associate() for _ in range(3)]
        for number, peer in enumerate(slow):
            peer.send(pdata(3, store_rq(b"1.2.3")))
            peer.send(pdata(0, bytes(9000))[: 4 + 2000 * number])
        assert echo(node.port) is None  # the slots are taken
        for peer in slow:
            assert peer.is_cut(10)
            peer.socket.close()
        everybody_is_gone(node)
        assert echo(node.port) == 0x0000


def test_a_trickle_inside_a_pdu_is_cut_at_its_deadline(node: Bench) -> None:
    with RawPeer(node.port).associate() as peer:
        begun = time.monotonic()
        try:
            for byte in pdata(3, store_rq(b"1.2.3")):
                peer.send(bytes([byte]))
                time.sleep(0.1)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert peer.is_cut(10)
        assert time.monotonic() - begun < 8
    everybody_is_gone(node)


def test_a_transfer_of_many_small_pdus_has_a_deadline_too(node: Bench) -> None:
    with RawPeer(node.port).associate() as peer:
        begun = time.monotonic()
        peer.send(pdata(3, store_rq(b"1.2.3")))
        try:
            while time.monotonic() - begun < 20:
                peer.send(pdata(0, b"xx"))
                time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert time.monotonic() - begun < 15
    everybody_is_gone(node)


def test_an_idle_association_is_ended(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits(idle_s=0.3)) as node, RawPeer(node.port).associate() as peer:
        assert peer.receive()[0] == ABORT
        assert peer.is_cut(10)
        everybody_is_gone(node)


def test_connections_that_close_at_once_free_their_place_at_once(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits(handshake_s=30, max_unassociated=8)) as node:
        for _ in range(40):
            RawPeer(node.port).socket.close()
            wait_for(lambda: not node.scp._server.associations, "its place is free", 2, 0.005)
        assert echo(node.port) == 0x0000
        everybody_is_gone(node)


# --- peers that say too much ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0x01, 0x04, 0x07, 0x00, 0xFF])
def test_a_pdu_of_four_gigabytes_is_refused_before_it_is_allocated(node: Bench, kind: int) -> None:
    before = resident_bytes()
    peers = [RawPeer(node.port) for _ in range(5)]
    for peer in peers:
        peer.send(pdu(kind, bytes(1000), 0xFFFFFFFF))
    for peer in peers:
        assert peer.receive()[0] in (ABORT, 0)
        assert peer.is_cut(10)
        peer.socket.close()
    assert resident_bytes() - before < 50 * 2**20
    everybody_is_gone(node)


def test_a_data_pdu_over_the_cap_is_refused_inside_an_association(node: Bench) -> None:
    with RawPeer(node.port).associate() as peer:
        peer.send(pdu(0x04, bytes(1000), 2**20 + 1))
        assert peer.receive()[0] == ABORT
        assert peer.is_cut(10)
    with RawPeer(node.port) as peer:
        peer.send(pdu(0x01, bytes(1000), 256 * 1024 + 1))
        assert peer.is_cut(10)
    everybody_is_gone(node)


def test_a_flood_of_connections_from_one_address_is_capped(tmp_path: Path) -> None:
    limits = Limits(max_connections_per_peer=5, handshake_s=5)
    with running_scp(tmp_path, limits=limits) as node:
        flood = [RawPeer(node.port) for _ in range(30)]
        wait_for(lambda: len(node.scp._server.associations) == 5, "five have a place", 2)
        assert sum(peer.is_cut(0.05) for peer in flood) == 25
        for peer in flood:
            peer.socket.close()
        everybody_is_gone(node)
        assert echo(node.port) == 0x0000


def test_one_association_more_than_allowed_is_rejected_as_transient(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits(max_associations=2)) as node:
        first, second = (RawPeer(node.port).associate() for _ in range(2))
        with RawPeer(node.port) as third:
            third.send(associate_rq())
            kind, body = third.receive()
            assert (kind, body[1:]) == (REJECT, b"\2\3\2")  # transient, local limit exceeded
        second.socket.close()
        wait_for(lambda: node.scp.associations == 1, "a slot is free", 3)
        assert echo(node.port) == 0x0000
        first.socket.close()


def test_a_data_set_over_the_limit_is_aborted_and_leaves_nothing(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits(max_instance_bytes=100_000)) as node:
        with RawPeer(node.port).associate() as peer:
            peer.send(pdata(3, store_rq(b"1.2.3")))
            try:
                for _ in range(2000):
                    peer.send(pdata(0, bytes(16000)))
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert peer.is_cut(10)
        everybody_is_gone(node)
        assert node.rows() == node.files() == []
        assert send(node.port, make_radiograph(Rows=32, Columns=32)) == [0x0000]


def test_what_is_not_kept_may_be_larger(tmp_path: Path) -> None:
    ct = "1.2.840.10008.5.1.4.1.1.2"
    large = data_set(
        SOPClass=ct.encode(), after=b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<L", 200_000) + bytes(200_000)
    )
    with running_scp(tmp_path, limits=Limits(max_instance_bytes=100_000)) as node:
        with RawPeer(node.port).associate(abstract=ct) as peer:
            assert status_of(peer.store(large, b"1.2.1", sop_class_uid=ct.encode())) == 0x0000
        assert [(r.role, r.size_bytes) for r in node.rows()] == [("ignored", len(large))]


def test_a_command_without_end_is_aborted(node: Bench) -> None:
    with RawPeer(node.port).associate() as peer:
        try:
            for _ in range(20):
                peer.send(pdata(1, bytes(8000)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert peer.is_cut(10)
    everybody_is_gone(node)


def test_requests_without_waiting_for_answers_wait_in_the_network(node: Bench) -> None:
    sent = data_set(SOPClass=DX.encode())
    count = 30
    with RawPeer(node.port).associate() as peer:
        for number in range(count):
            uid = b"1.2.7.%d" % number
            peer.send(pdata(3, store_rq(uid, message_id=number)))
            peer.send(pdata(2, data_set(SOPClass=DX.encode(), SOP=uid)))
        answers = [peer.answer() for _ in range(count)]
    assert [status_of(a) for a in answers] == [0x0000] * count
    assert [int.from_bytes(a[0x0120], "little") for a in answers] == list(range(count))
    assert len(node.rows()) == count
    assert len(sent) < 200
    everybody_is_gone(node)


# --- peers that break the protocol ---------------------------------------------------------------

NUMBER = struct.Struct("<H").pack
BROKEN_MESSAGES = {
    "nothing in a P-DATA-TF": pdu(0x04, b""),
    "an empty presentation data value": pdu(0x04, struct.pack(">LB", 1, 1)),
    "a length past the end of the PDU": pdu(0x04, struct.pack(">LBB", 900, 1, 3)),
    "a data set without a command": pdata(2, b"1234"),
    "a command in a context not accepted": pdata(3, store_rq(b"1.2.3"), context_id=7),
    "a command that is cut off": pdata(3, store_rq(b"1.2.3")[:-5]),
    "a command of another group": pdata(3, struct.pack("<HHL", 8, 0, 4) + bytes(4)),
    "a command that nests": pdata(3, struct.pack("<HHL", 0, 0, 0xFFFFFFFF) * 200),
    "a command without a field": pdata(3, command({0x0800: NUMBER(0x0101)})),
    "a command without a message id": pdata(3, command({0x0100: NUMBER(1), 0x0800: NUMBER(1)})),
    "a command inside a data set": pdata(3, store_rq(b"1.2.3")) + pdata(0, b"12") + pdata(3, store_rq(b"1.2")),
    "a data set in another context": pdata(3, store_rq(b"1.2.3")) + pdata(2, b"12", context_id=3),
    "a C-FIND": pdata(3, command({0x0100: NUMBER(0x20), 0x0110: NUMBER(1), 0x0800: NUMBER(1)})),
    "an N-EVENT-REPORT": pdata(3, command({0x0100: NUMBER(0x100), 0x0110: NUMBER(1), 0x0800: NUMBER(1)})),
    "a response nobody waits for": pdata(3, command({0x0100: NUMBER(0x8001), 0x0800: NUMBER(0x0101)})),
    "a second association request": associate_rq(),
    "an association accept": pdu(0x02, bytes(68)),
    "a PDU type that does not exist": pdu(0x08, bytes(4)),
    "random bytes": random.Random(1).randbytes(300),
}  # fmt: skip


@pytest.mark.parametrize("message", BROKEN_MESSAGES.values(), ids=BROKEN_MESSAGES)
def test_a_broken_message_ends_its_association_only(node: Bench, message: bytes) -> None:
    with RawPeer(node.port).associate() as good, RawPeer(node.port).associate() as bad:
        bad.send(message)
        assert bad.is_cut(10)
        assert status_of(good.store(data_set(SOPClass=DX.encode()), b"1.2.1")) == 0x0000
    everybody_is_gone(node)
    assert len(node.rows()) == len(node.files()) == 1


@pytest.mark.parametrize("what", ["cut", "reset", "abort"])
@pytest.mark.parametrize("at", [0, 1, 70_000])
def test_a_transfer_that_breaks_off_leaves_nothing(node: Bench, at: int, what: str) -> None:
    film = make_radiograph(Rows=300, Columns=300)
    sent = encode(film)
    with RawPeer(node.port).associate() as peer:
        peer.send(pdata(3, store_rq(film.SOPInstanceUID.encode())))
        for start in range(0, at, 16000):
            peer.send(pdata(0, sent[start : min(at, start + 16000)]))
        if at:
            wait_for(node.parts, "the transfer began", 3)
        if what == "abort":
            peer.send(pdu(ABORT, bytes(4)))
        elif what == "reset":
            peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: RST
    everybody_is_gone(node)
    assert node.rows() == node.files() == []
    assert send(node.port, film) == [0x0000]


def test_mutated_association_requests_and_messages_leave_the_node_answering(node: Bench) -> None:
    rng = random.Random(31)
    good = associate_rq()
    message = pdata(3, store_rq(b"1.2.3")) + pdata(2, data_set(SOPClass=DX.encode()))
    for number in range(150):
        try:
            with RawPeer(node.port) as peer:
                if number % 2:
                    peer.associate()
                    changed = bytearray(message)
                else:
                    changed = bytearray(good)
                for _ in range(rng.randint(1, 4)):
                    changed[rng.randrange(len(changed))] = rng.randrange(256)
                peer.send(bytes(changed[: rng.randrange(1, len(changed) + 1)]))
        except (BrokenPipeError, ConnectionResetError):
            pass
        if number % 25 == 0:
            begun = time.monotonic()
            assert echo(node.port) == 0x0000
            assert time.monotonic() - begun < 8
    wait_for(lambda: not node.scp._server.associations, "all connections have ended", 20)
    assert echo(node.port) == 0x0000
    assert all(row.sop_class_uid == DX for row in node.rows())


# --- what stays behind ---------------------------------------------------------------------------


def test_names_on_disk_are_ours_and_modes_are_private(node: Bench) -> None:
    film = make_radiograph(Rows=32, Columns=32, PatientID="CANARY")
    send(node.port, film)
    for path in node.spool.root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        assert "CANARY" not in str(path)
        assert film.SOPInstanceUID not in str(path)
        assert path.is_dir() or path.stem.isalnum()


def test_threads_and_file_descriptors_stay_flat(node: Bench) -> None:
    film = make_radiograph(Rows=32, Columns=32)

    def visit() -> None:
        send(node.port, film)
        with RawPeer(node.port) as peer:
            peer.send(associate_rq()[:40])
        with RawPeer(node.port).associate() as peer:
            peer.send(pdata(3, store_rq(b"1.2.3")) + pdata(0, bytes(100)))
        with associated(node.port, [(DX, [IMPLICIT])], called="WRONG"):
            pass

    visit()
    everybody_is_gone(node)
    threads, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(8):
        visit()
    everybody_is_gone(node)
    wait_for(lambda: threading.active_count() <= threads, "no thread is left", 5)
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2


def test_an_open_but_idle_association_costs_no_cpu(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits()) as node:
        peers = [RawPeer(node.port).associate() for _ in range(8)]
        begun = time.process_time()
        time.sleep(1)
        assert time.process_time() - begun < 0.15  # pynetdicom's own loops take about 0.4 s here
        for peer in peers:
            peer.socket.close()


def test_quick_limits_are_only_for_tests() -> None:
    assert Limits().pdu_deadline_s > QUICK.pdu_deadline_s
    assert Limits().pdu_deadline_s <= 30  # a slot is free again within 30 s of a silent drop
