"""Who knocked: counted, cleaned, and never more rows than a disk should hold."""

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.ledger.peers import MAX_ROWS, MAX_STRANGERS
from tests.ledger_steps import START, empty_sqlite, make, postgres_ledger

__all__ = ["empty_sqlite", "make", "postgres_ledger"]

PACS = ledger.PeerSeen("PACS", "10.1.2.3", "HIPNODE", associations=1, instances=4)


def record(make: sessionmaker[Session], *seen: ledger.PeerSeen, after_s: float = 0) -> None:
    with ledger.transaction(make) as session:
        ledger.record_peers(session, seen, START + timedelta(seconds=after_s))


def peers(make: sessionmaker[Session], *arguments: object, **options: object) -> list[ledger.PeerRow]:
    with ledger.reading(make) as session:
        return ledger.list_peers(session, *arguments, **options)


def test_nothing_seen_is_no_row(make: sessionmaker[Session]) -> None:
    record(make)
    assert peers(make) == []


def test_what_a_peer_did_adds_up_in_one_row(make: sessionmaker[Session]) -> None:
    record(make, PACS)
    refused = ledger.PeerSeen("PACS", "10.1.2.3", "HIPNODE", stores_refused=2, last_refusal="A700")
    record(make, refused, after_s=5)
    record(make, PACS, after_s=9)
    assert peers(make) == [
        ledger.PeerRow(
            "PACS", "10.1.2.3", "HIPNODE", START, START + timedelta(seconds=9), 2, 0, 8, 2,
            "A700", START + timedelta(seconds=5),
        )
    ]  # fmt: skip


def test_another_title_address_or_called_title_is_another_peer(make: sessionmaker[Session]) -> None:
    others = [("MODALITY", "10.1.2.3", "HIPNODE"), ("PACS", "10.1.2.4", "HIPNODE"), ("PACS", "10.1.2.3", "X")]
    record(make, PACS, *(ledger.PeerSeen(*key, refusals=1, last_refusal="NOT_ALLOWED") for key in others))
    assert len(peers(make)) == 4


def test_the_moment_may_lie_before_the_recording(make: sessionmaker[Session]) -> None:
    early, later = START - timedelta(minutes=2), START - timedelta(minutes=1)
    record(
        make,
        ledger.PeerSeen("A", "::1", refusals=1, last_refusal="TOO_MANY", seen_at=later, refused_at=early),
    )
    (row,) = peers(make)
    assert (row.first_seen_at, row.last_seen_at, row.last_refused_at) == (later, later, early)


def test_the_list_begins_with_the_latest_and_can_be_cut(make: sessionmaker[Session]) -> None:
    record(make, PACS)
    record(make, ledger.PeerSeen("LOST", "10.9.9.9", refusals=1, last_refusal="NOT_ALLOWED"), after_s=60)
    record(
        make, ledger.PeerSeen("CT", "10.1.2.9", associations=1, stores_refused=1, last_refusal="C000"),
        after_s=120,
    )  # fmt: skip
    record(make, ledger.PeerSeen("CT", "10.1.2.9", associations=1), after_s=300)
    assert [p.calling_ae_title for p in peers(make)] == ["CT", "LOST", "PACS"]
    assert [p.calling_ae_title for p in peers(make, START + timedelta(seconds=60))] == ["CT", "LOST"]
    assert [p.calling_ae_title for p in peers(make, refused_only=True)] == ["CT", "LOST"]
    # refused since: CT came again later, but was not refused then
    assert peers(make, START + timedelta(seconds=121), refused_only=True) == []


@pytest.mark.parametrize(
    ("title", "kept"),
    [
        ("", ""),
        ("  PACS ", "PACS"),
        ("A\x00B\x1b[2J\n", "A?B?[2J?"),
        ("MÜLLER\N{RIGHT-TO-LEFT OVERRIDE}", "M?LLER?"),
        ("SEVENTEEN-LETTERS", "SEVENTEEN-LETTER"),
    ],
)
def test_titles_are_cleaned_before_they_stand_in_the_ledger(
    make: sessionmaker[Session], title: str, kept: str
) -> None:
    record(make, ledger.PeerSeen(title, "10.1.2.3", title, refusals=1, last_refusal="NOT_ALLOWED"))
    (row,) = peers(make)
    assert (row.calling_ae_title, row.called_ae_title) == (kept, kept)


def test_titles_made_up_at_one_address_push_nobody_out(make: sessionmaker[Session]) -> None:
    record(make, PACS, ledger.PeerSeen("LOST", "10.9.9.9", refusals=1, last_refusal="NOT_ALLOWED"))
    for second in range(1, 6):
        record(
            make,
            *(
                ledger.PeerSeen(f"X{second}-{n}", "10.6.6.6", refusals=1, last_refusal="NOT_ALLOWED")
                for n in range(50)
            ),
            after_s=second,
        )
    rows = peers(make)
    assert {p.address for p in rows} == {"10.1.2.3", "10.9.9.9", "10.6.6.6"}
    strangers = [p.calling_ae_title for p in rows if p.address == "10.6.6.6"]
    assert len(strangers) == MAX_STRANGERS
    assert {title.partition("-")[0] for title in strangers} == {"X5"}  # the latest


def test_there_are_never_more_rows_than_allowed_and_strangers_go_first(make: sessionmaker[Session]) -> None:
    record(make, PACS)
    strangers = [
        ledger.PeerSeen("X", f"10.6.{n // 250}.{n % 250}", refusals=1, last_refusal="NOT_ALLOWED")
        for n in range(MAX_ROWS + 50)
    ]
    record(make, *strangers, after_s=60)
    rows = peers(make)
    assert len(rows) == MAX_ROWS
    assert "PACS" in {p.calling_ae_title for p in rows}
    friends = [ledger.PeerSeen(f"AE{n}", "10.1.2.3", associations=1) for n in range(MAX_ROWS + 7)]
    record(make, *friends, after_s=120)
    rows = peers(make)
    assert len(rows) == MAX_ROWS
    assert {p.address for p in rows} == {"10.1.2.3"}
