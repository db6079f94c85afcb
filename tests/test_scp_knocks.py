"""Who knocked stands in the ledger: what was taken, what was refused and why, and never too much of it."""

import re
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hipnode import ledger, scp
from hipnode.scp import AllowedPeers, Limits, entry_for, explain_refusal
from hipnode.scp.knocks import MOST_PEERS, MOST_TITLES, Knocks
from tests.encoded import IMPLICIT
from tests.factories import make_radiograph
from tests.peers import wait_for
from tests.scp_node import (
    QUICK,
    VERIFICATION,
    Bench,
    RawPeer,
    associate_rq,
    associated,
    echo,
    open_ledger,
    pdata,
    running_scp,
    send,
    status_of,
    store_rq,
)

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def peers(node: Bench) -> list[ledger.PeerRow]:
    """The peers in the ledger once the SCP has ended, as it writes them with its last breath."""
    node.scp.stop()
    return rows(node.sessions)


def rows(sessions) -> list[ledger.PeerRow]:
    with ledger.reading(sessions) as session:
        return ledger.list_peers(session)


def test_an_scp_nobody_knocked_at_has_no_peers(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node:
        assert peers(node) == []


def test_what_a_peer_sent_is_counted_under_its_title_address_and_whom_it_called(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node:
        assert send(node.port, make_radiograph(), make_radiograph(), calling="PACS") == [0, 0]
        assert echo(node.port, calling="PACS") == 0
        assert echo(node.port, calling="CT") == 0
        by_title = {p.calling_ae_title: p for p in peers(node)}
    pacs = by_title["PACS"]
    assert (pacs.address, pacs.called_ae_title) == ("127.0.0.1", "HIPNODE")
    assert (pacs.associations, pacs.refusals, pacs.instances, pacs.stores_refused) == (2, 0, 2, 0)
    assert (pacs.last_refusal, pacs.last_refused_at) == (None, None)
    assert (by_title["CT"].associations, by_title["CT"].instances) == (1, 0)


def test_they_stand_in_the_ledger_while_the_node_runs(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node:
        echo(node.port)
        wait_for(lambda: rows(node.sessions), "the peer stands in the ledger", 30)
        assert rows(node.sessions)[0].associations == 1


@pytest.mark.parametrize(
    ("allowed", "calling", "called", "code"),
    [
        ("", "MODALITY", "HIPNODE", "NOT_ALLOWED"),
        ("PACS@127.0.0.1", "MODALITY", "HIPNODE", "NOT_ALLOWED"),
        ("*@10.0.0.0/8", "MODALITY", "OTHER", "NOT_ALLOWED"),
        ("*@127.0.0.1", "MODALITY", "HIPNOD", "CALLED_AE_TITLE"),
    ],
)
def test_a_rejected_association_is_counted_with_its_reason(
    tmp_path: Path, allowed: str, calling: str, called: str, code: str
) -> None:
    with running_scp(tmp_path, peers=allowed) as node:
        assert echo(node.port, calling=calling, called=called) is None
        (peer,) = peers(node)
    assert (peer.calling_ae_title, peer.called_ae_title) == (calling, called)
    assert (peer.associations, peer.refusals, peer.last_refusal) == (0, 1, code)
    assert peer.last_refused_at == peer.last_seen_at


def test_one_association_too_many_is_counted(tmp_path: Path) -> None:
    contexts = [(VERIFICATION, [IMPLICIT])]
    with running_scp(tmp_path, limits=Limits(max_associations=1)) as node:
        with associated(node.port, contexts, calling="FIRST") as first:
            assert first.is_established
            assert echo(node.port, calling="SECOND") is None
        by_title = {p.calling_ae_title: p for p in peers(node)}
    assert (by_title["FIRST"].refusals, by_title["SECOND"].refusals) == (0, 1)
    assert by_title["SECOND"].last_refusal == "TOO_MANY"


def test_one_connection_too_many_is_counted_by_its_address(tmp_path: Path) -> None:
    with (
        running_scp(tmp_path, limits=Limits(max_connections_per_peer=1)) as node,
        RawPeer(node.port).associate(),
        RawPeer(node.port) as second,
    ):
        assert second.receive() == (0, b"")
        by_title = {p.calling_ae_title: p for p in peers(node)}
    assert by_title[""].last_refusal == "TOO_MANY"
    assert (by_title[""].address, by_title[""].called_ae_title) == ("127.0.0.1", "")
    assert by_title["RAW"].associations == 1


def test_an_association_in_which_nothing_can_be_sent_is_counted_as_refused_too(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node:
        with associated(node.port, [(FIND, [IMPLICIT])]):
            pass
        (peer,) = peers(node)
    assert (peer.associations, peer.refusals, peer.last_refusal) == (1, 1, "NO_CONTEXT")


def test_a_refused_store_is_counted_with_its_status(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits(backlog_limit=0)) as node:
        assert send(node.port, make_radiograph()) == [0xA700]
        (peer,) = peers(node)
    assert (peer.associations, peer.instances, peer.stores_refused, peer.refusals) == (1, 0, 1, 0)
    assert peer.last_refusal == "A700"


def test_the_last_refusal_is_the_one_that_is_told(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node, RawPeer(node.port).associate() as peer:
        assert status_of(peer.store(b"no data set", b"1.2.3")) == 0xC000
        film = make_radiograph(SOPInstanceUID="1.2.4")
        assert send(node.port, film, calling="RAW") == [0]
        (known,) = peers(node)
    assert (known.associations, known.instances, known.stores_refused) == (2, 1, 1)
    assert known.last_refusal == "C000"
    assert known.last_refused_at <= known.last_seen_at


def test_a_data_set_too_large_is_counted(tmp_path: Path) -> None:
    with (
        running_scp(tmp_path, limits=Limits(max_instance_bytes=1000)) as node,
        RawPeer(node.port).associate() as peer,
    ):
        peer.send(pdata(3, store_rq(b"1.2.3")) + pdata(0, bytes(2000)))
        assert peer.is_cut(10)
        (known,) = peers(node)
    assert (known.stores_refused, known.last_refusal) == (1, "TOO_LARGE")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "NOT_DICOM"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "NOT_DICOM"),  # the hello of TLS
        (b"\x01\x00\x00\x00", "TOO_SLOW"),  # half a header, and silence
    ],
)
def test_what_is_no_association_request_is_counted_by_its_address(
    tmp_path: Path, said: bytes, code: str
) -> None:
    with running_scp(tmp_path, limits=QUICK) as node:
        with RawPeer(node.port) as peer:
            peer.send(said)
            assert peer.is_cut(10)
        (known,) = peers(node)
    assert (known.calling_ae_title, known.address, known.refusals) == ("", "127.0.0.1", 1)
    assert known.last_refusal == code


def test_who_connects_and_goes_leaves_no_row(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node:
        with RawPeer(node.port):
            pass  # as a load balancer looks whether a port is open
        assert echo(node.port) == 0
        assert [p.calling_ae_title for p in peers(node)] == ["MODALITY"]


def test_titles_from_the_wire_are_clean_in_the_ledger(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node, RawPeer(node.port) as peer:
        peer.send(associate_rq(calling="A\x1b[2J\x07B", called="HIP\nNODE"))
        assert peer.receive()[0] in (3, 7)  # rejected, or not even read
        (known,) = peers(node)
    assert known.calling_ae_title.isascii()
    assert known.calling_ae_title.isprintable()
    assert known.called_ae_title.isascii()
    assert known.called_ae_title.isprintable()
    assert known.refusals == 1


def test_many_titles_of_one_address_become_one_row(tmp_path: Path) -> None:
    knocks = 3 * MOST_TITLES
    with running_scp(tmp_path, peers="PACS@127.0.0.1") as node:
        assert echo(node.port, calling="PACS") == 0
        for n in range(knocks):
            with RawPeer(node.port) as peer:
                peer.send(associate_rq(calling=f"X{n}"))
                assert peer.receive()[0] == 3
        known = peers(node)
    assert len(known) <= 2 * MOST_TITLES  # a write may have come between
    assert "PACS" in {p.calling_ae_title for p in known}
    by_address_alone = [p for p in known if not p.calling_ae_title]
    assert len(by_address_alone) == 1
    assert by_address_alone[0].refusals > 0


class TestKnocks:
    """The counting itself, without a wire."""

    @pytest.fixture
    def sessions(self, tmp_path: Path):
        made = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        yield made
        made.kw["bind"].dispose()

    @pytest.fixture
    def knocks(self, sessions, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("hipnode.scp.knocks.WRITE_EVERY_S", 3600)  # the test writes
        made = Knocks(sessions, nullcontext())
        yield made
        made.stop()

    def test_what_is_held_is_bounded_and_a_peer_that_is_let_in_has_room(self, knocks, sessions) -> None:
        for n in range(3 * MOST_PEERS):
            knocks.refused("NOT_ALLOWED", f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", "X", "HIPNODE")
        assert len(knocks._counts) == MOST_PEERS
        knocks.accepted("PACS", "10.9.9.9", "HIPNODE")
        assert len(knocks._counts) == MOST_PEERS
        knocks.write()
        assert len(rows(sessions)) == MOST_PEERS
        assert "PACS" in {p.calling_ae_title for p in rows(sessions)}
        assert not knocks._counts
        assert not knocks._titles

    def test_without_a_database_the_counts_wait(self, tmp_path: Path, sessions, monkeypatch) -> None:
        monkeypatch.setattr("hipnode.scp.knocks.WRITE_EVERY_S", 3600)
        impatient = ledger.sessions(f"sqlite:///{tmp_path / 'ledger.db'}", busy_timeout_s=0.1)
        knocks = Knocks(impatient, nullcontext())
        knocks.accepted("PACS", "10.1.2.3", "HIPNODE")
        with ledger.transaction(sessions):  # somebody holds the database
            knocks.write()
            knocks.stored("PACS", "10.1.2.3", "HIPNODE", None)
            knocks.stored("PACS", "10.1.2.3", "HIPNODE", "A700")
        knocks.stop()
        (row,) = rows(sessions)
        assert (row.associations, row.instances, row.stores_refused) == (1, 1, 1)
        impatient.kw["bind"].dispose()


def known(last_refusal: str | None, **changes: str) -> ledger.PeerRow:
    names = {"calling_ae_title": "PACS", "address": "10.1.2.3", "called_ae_title": "HIPNODE"} | changes
    now = datetime(2026, 11, 21, tzinfo=UTC)
    at = now if last_refusal else None
    return ledger.PeerRow(
        **names, first_seen_at=now, last_seen_at=now, associations=0, refusals=1, instances=0,
        stores_refused=0, last_refusal=last_refusal, last_refused_at=at,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("peer", "says", "cure"),
    [
        (known(None), "", ""),
        (known("NOT_ALLOWED"), "not in HIPNODE_ALLOWED_PEERS", "add PACS@10.1.2.3/32 to"),
        (known("NOT_ALLOWED", calling_ae_title=""), "not in HIPNODE_ALLOWED_PEERS", "add *@10.1.2.3/32 to"),
        (known("NOT_ALLOWED", address="10.9.9.9"), "as it was then", "It is now"),
        (known("CALLED_AE_TITLE", called_ae_title="HIPNOD"), "it called HIPNOD", "to HIPNODE (case counts)"),
        (known("0110"), "answered 0x0110", "log"),
    ],
)
def test_a_refusal_is_told_with_what_to_do(peer: ledger.PeerRow, says: str, cure: str) -> None:
    said, todo = explain_refusal(peer, "HIPNODE", "CT@10.0.0.0/8,*@10.9.9.9")
    assert says in said
    assert cure in todo


def test_every_code_the_scp_writes_has_words_of_its_own() -> None:
    source = "".join(file.read_text() for file in Path(scp.__file__).parent.glob("*.py"))
    codes = set(re.findall(r'note_refusal\("(\w+)"|note_store\("(\w+)"|refused\("(\w+)"', source))
    codes |= set(re.findall(r'Rejection\([^"]*"(\w+)"', source))
    written = {one for each in codes for one in ([each] if isinstance(each, str) else each) if one}
    assert written >= {"NOT_ALLOWED", "TOO_MANY", "TLS", "TOO_LARGE", "NO_CONTEXT"}
    unknown = explain_refusal(known("XXXX"), "HIPNODE", "")[1]
    for code in written | {"A700", "A900", "C000"}:
        assert explain_refusal(known(code), "HIPNODE", "")[1] != unknown, code


@pytest.mark.parametrize(
    ("ae_title", "address", "entry"),
    [
        ("", "10.1.2.3", "*@10.1.2.3/32"),
        ("PACS", "10.1.2.3", "PACS@10.1.2.3/32"),
        (" PACS 1 ", "::ffff:10.1.2.3", "PACS 1@10.1.2.3/32"),
        ("A@B", "fe80::1%eth0", "A@B@fe80::1/128"),
        ("A,B", "10.1.2.3", "*@10.1.2.3/32"),
        ("M?LLER", "10.1.2.3", "*@10.1.2.3/32"),
        ("PACS", "", ""),
    ],
)
def test_the_entry_that_lets_a_peer_in(ae_title: str, address: str, entry: str) -> None:
    assert entry_for(ae_title, address) == entry
    assert AllowedPeers.parse(entry).allows(ae_title.strip(), address) is bool(entry)
