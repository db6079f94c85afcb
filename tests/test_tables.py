"""The tables: instants, words, and the promises of the two databases."""

import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import CheckConstraint, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.errors import LedgerDown
from hipnode.status import AnalysisStatus, DeliveryStatus, Outcome, ReasonCode
from hipnode.tables import Analysis, Base, Event, Instance, Role, Study
from tests.ledger_steps import START, empty_sqlite, make, postgres_ledger

__all__ = ["empty_sqlite", "make", "postgres_ledger"]


def study(uid: str = "1.2", **changes) -> Study:
    values = {"study_instance_uid": uid, "accession_number": "", "patient_id": ""}
    return Study(**values | {"received_at": START, "updated_at": START} | changes)


def analysis(study_id: int, **changes) -> Analysis:
    values = {
        "study_id": study_id,
        "number": 1,
        "status": AnalysisStatus.RECEIVING,
        "receiving_since": START,
        "last_instance_at": START,
        "created_at": START,
        "updated_at": START,
    }
    return Analysis(**values | changes)


@pytest.mark.parametrize(
    "instant",
    [
        START,
        datetime(2026, 7, 1, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=9))),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-11))),
    ],
)
def test_an_instant_comes_back_as_the_same_instant_in_utc(
    make: sessionmaker[Session], instant: datetime
) -> None:
    with make.begin() as session:
        session.add(study(received_at=instant))
    with make.begin() as session:
        back = session.get_one(Study, 1).received_at
    assert back == instant
    assert back.tzinfo is UTC


def test_instants_compare_in_the_database_across_zones(make: sessionmaker[Session]) -> None:
    early = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=9)))  # 03:00 UTC
    with make.begin() as session:
        session.add(study(received_at=early))
        noon = datetime(2026, 1, 1, 4, tzinfo=UTC)
        assert session.query(Study).filter(Study.received_at < noon).count() == 1


def test_a_naive_instant_is_refused(make: sessionmaker[Session]) -> None:
    with pytest.raises(StatementError), make.begin() as session:
        session.add(study(received_at=datetime(2026, 1, 1)))


def test_no_table_has_a_check_constraint() -> None:
    checks = [
        c for t in Base.metadata.tables.values() for c in t.constraints if isinstance(c, CheckConstraint)
    ]
    assert checks == []


def test_words_are_stored_by_value(make: sessionmaker[Session]) -> None:
    with make.begin() as session:
        session.add(study())
        session.flush()
        session.add(analysis(1, outcome=Outcome.NOT_ANALYSED, reason_code=ReasonCode.NO_PACKAGE))
    with make.begin() as session:
        row = session.execute(text("SELECT status, outcome, reason_code FROM analyses")).one()
    assert tuple(row) == ("receiving", "not_analysed", "NO_PACKAGE")


@pytest.mark.parametrize("enum", [AnalysisStatus, DeliveryStatus, Outcome, ReasonCode, Role])
def test_every_word_fits_its_column(enum) -> None:
    assert max(len(word.value) for word in enum) <= 32


def test_a_study_has_one_analysis_receiving(make: sessionmaker[Session]) -> None:
    with make.begin() as session:
        session.add(study())
        session.flush()
        session.add(analysis(1))
    with pytest.raises(IntegrityError), make.begin() as session:
        session.add(analysis(1, number=2))
    with make.begin() as session:
        session.add(analysis(1, number=2, status=AnalysisStatus.QUEUED))


def test_the_same_bytes_under_one_uid_are_one_row(make: sessionmaker[Session]) -> None:
    def instance(**changes) -> Instance:
        values = dict.fromkeys(
            ("series_instance_uid", "sop_class_uid", "transfer_syntax_uid", "peer_address"), "1"
        )
        values |= {"study_id": 1, "sop_instance_uid": "1.2.3", "sha256": "a", "calling_ae_title": ""}
        rest = {"revision": 1, "size_bytes": 3 << 32, "role": Role.SOURCE, "received_at": START}
        return Instance(**values | rest | changes)

    with make.begin() as session:
        session.add(study())
        session.flush()
        session.add(instance())
        session.add(instance(sha256="b", revision=2))
    with pytest.raises(IntegrityError), make.begin() as session:
        session.add(instance())


def test_a_row_must_belong_to_something(make: sessionmaker[Session]) -> None:
    with pytest.raises(IntegrityError), make.begin() as session:
        session.add(analysis(99))


def test_no_column_holds_a_name() -> None:
    words = [f"{t.name}.{c.name}" for t in Base.metadata.tables.values() for c in t.columns]
    assert not [w for w in words if "patient" in w and w != "studies.patient_id"]
    assert not [w for w in words if "birth" in w or "sex" in w]


def test_sqlite_is_set_to_survive_power_loss(tmp_path: Path) -> None:
    sessions = ledger.sessions(f"sqlite:///{tmp_path / 'x.db'}")
    with ledger.transaction(sessions) as session:
        pragmas = {
            p: session.scalar(text(f"PRAGMA {p}")) for p in ("journal_mode", "synchronous", "foreign_keys")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        assert session.scalar(text("PRAGMA busy_timeout")) == 10000
    sessions.kw["bind"].dispose()


def test_postgresql_is_set_to_survive_power_loss(postgres_url: str) -> None:
    sessions = ledger.sessions(postgres_url)
    with ledger.transaction(sessions) as session:
        assert session.scalar(text("SHOW synchronous_commit")) == "on"
        assert session.scalar(text("SHOW TimeZone")) == "UTC"
        assert session.scalar(text("SHOW lock_timeout")) != "0"
    with ledger.reading(sessions) as session:
        assert session.scalar(text("SHOW transaction_read_only")) == "on"
    with ledger.transaction(sessions) as session:
        assert session.scalar(text("SHOW transaction_read_only")) == "off"
    sessions.kw["bind"].dispose()


def test_a_reader_waits_for_no_writer_on_sqlite(tmp_path: Path) -> None:
    sessions = ledger.sessions(f"sqlite:///{tmp_path / 'x.db'}", busy_timeout_s=0.1)
    Base.metadata.create_all(sessions.kw["bind"])
    with ledger.transaction(sessions) as writer:
        writer.add(study())
        writer.flush()
        with ledger.reading(sessions) as reader:
            assert reader.query(Study).count() == 0
        with pytest.raises(LedgerDown), ledger.transaction(sessions) as other:
            other.add(study("1.3"))
    sessions.kw["bind"].dispose()


def test_a_postgres_that_cut_us_off_is_down_and_then_back(postgres_url: str) -> None:
    sessions = ledger.sessions(postgres_url)
    Base.metadata.create_all(sessions.kw["bind"])

    def cut_in_the_middle() -> None:
        with ledger.transaction(sessions) as session:
            session.add(study("1.2"))
            session.flush()
            cut_off(postgres_url)

    with pytest.raises(LedgerDown):
        cut_in_the_middle()
    with ledger.transaction(sessions) as session:
        session.add(study("1.3"))
    cut_off(postgres_url)  # while the connection waits in the pool
    with ledger.reading(sessions) as session:
        assert [s.study_instance_uid for s in session.query(Study)] == ["1.3"]
    sessions.kw["bind"].dispose()


def cut_off(url: str) -> None:
    """End all connections to a database, as a server that restarts does."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_what_is_wrong_with_us_is_no_ledger_down(make: sessionmaker[Session]) -> None:
    with ledger.transaction(make) as session:
        session.add(study())
    with pytest.raises(IntegrityError), ledger.transaction(make) as session:
        session.add(study())


def test_an_error_of_the_database_quotes_no_patient(make: sessionmaker[Session]) -> None:
    with pytest.raises(IntegrityError) as refusal, make.begin() as session:
        session.add_all([study(patient_id="CANARY"), study(patient_id="CANARY")])
    assert "CANARY" not in str(refusal.value)


def test_an_event_needs_nothing_but_who_what_and_when(make: sessionmaker[Session]) -> None:
    with ledger.transaction(make) as session:
        session.add(Event(at=START, who="x", what="start"))
    with ledger.reading(make) as session:
        kept = session.scalars(select(Event)).one()
        assert (kept.who, kept.what, kept.at) == ("x", "start", START)


def test_writers_take_turns_on_sqlite(tmp_path: Path) -> None:
    sessions = ledger.sessions(f"sqlite:///{tmp_path / 'x.db'}")
    Base.metadata.create_all(sessions.kw["bind"])
    written, end = [0] * 6, time.monotonic() + 3

    def write(n: int) -> None:
        while time.monotonic() < end:
            with ledger.transaction(sessions) as session:
                session.add(Event(at=START, who=str(n), what="turn"))
                session.flush()
                time.sleep(0.002)
            written[n] += 1

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(written) > max(written) / 5
    sessions.kw["bind"].dispose()
