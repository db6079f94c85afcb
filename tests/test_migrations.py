"""Migrations: up, checked, used, down; found from the checkout (from a wheel: test_wheel.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from hipnode import ledger, migrations
from hipnode.errors import LedgerDown, SettingsError
from hipnode.status import AcceptanceOutcome, AnalysisStatus, DeliveryStatus, Outcome, ReasonCode
from hipnode.tables import (
    Acceptance,
    AcceptanceCase,
    AnalysisImage,
    Base,
    Delivery,
    FinalReport,
    Result,
    Role,
    Worker,
)
from tests.test_tables import START, analysis, study

ROOT = Path(__file__).resolve().parents[1]
HEAD = "0004"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new folder' / 'ledger.db'}"
    return request.getfixturevalue("postgres_url")


def tables(url: str) -> set[str]:
    sessions = ledger.sessions(url)
    with ledger.transaction(sessions) as session:
        names = set(inspect(session.connection()).get_table_names()) - {"alembic_version"}
    sessions.kw["bind"].dispose()
    return names


def test_up_check_every_status_and_down(url: str) -> None:
    assert migrations.upgrade(url) == migrations.head() == HEAD
    assert migrations.current(url) == HEAD
    assert migrations.check(url) == []
    assert tables(url) == set(Base.metadata.tables)
    sessions = ledger.sessions(url)
    with ledger.transaction(sessions) as session:
        session.add(study())
        session.flush()
        for number, status in enumerate(AnalysisStatus):
            session.add(analysis(1, number=number, status=status))
        session.flush()
        session.add(
            Result(
                study_id=1, analysis_id=1, kind="SR", variant="", series_instance_uid="1", sop_instance_uid="2",
                sop_class_uid="3", relative_path="r", sha256="0", created_at=START,
            )
        )  # fmt: skip
        session.flush()
        for status in DeliveryStatus:
            session.add(
                Delivery(
                    result_id=1, destination=status.value, status=status, opened_at=START, updated_at=START
                )
            )
    with ledger.reading(sessions) as session:
        assert {row.status for row in session.query(Delivery)} == set(DeliveryStatus)
        assert len(ledger.list_studies(session)) == 1
    sessions.kw["bind"].dispose()
    assert migrations.downgrade(url, "base") == ""
    assert tables(url) == set()
    assert migrations.current(url) is None


Shape = dict[str, list[str]]


def shape(url: str) -> Shape:
    """The columns of each table of a database as it is."""
    sessions = ledger.sessions(url)
    with ledger.reading(sessions) as session:
        seen = inspect(session.connection())
        found = {
            name: [c["name"] for c in seen.get_columns(name)]
            for name in seen.get_table_names()
            if name != "alembic_version"
        }
    sessions.kw["bind"].dispose()
    return found


def rows(url: str, of: Shape) -> dict[str, list[tuple[str, ...]]]:
    """All rows of these columns, in the order of their first (the key, or the first half of it)."""
    sessions = ledger.sessions(url)
    found = {}
    with ledger.reading(sessions) as session:
        for name, columns in of.items():
            order = ", ".join(c.name for c in Base.metadata.tables[name].primary_key)
            query = text(f"SELECT {', '.join(columns)} FROM {name} ORDER BY {order}")  # noqa: S608
            found[name] = [tuple(map(str, row)) for row in session.execute(query)]
    sessions.kw["bind"].dispose()
    return found


def fill(url: str) -> None:
    """Rows in every table of a database at the newest revision, in every state there is."""
    from tests.ledger_steps import Journey

    sessions = ledger.sessions(url)
    Journey(sessions).delivering("1.2")
    with ledger.transaction(sessions) as session:
        for number, status in enumerate(AnalysisStatus, start=10):
            session.add(analysis(1, number=number, status=status))
        for status in DeliveryStatus:
            session.add(
                Delivery(
                    result_id=1, destination=status.value, status=status, opened_at=START, updated_at=START
                )
            )
        for kind in ("analyse", "deliver", "node"):
            session.add(
                Worker(name=f"{kind}@host:1", kind=kind, packages={}, started_at=START, seen_at=START)
            )
        ledger.record_peers(session, [ledger.PeerSeen("PACS", "10.1.2.3", "HIPNODE", associations=1)], START)
        for number, outcome in enumerate((None, *AcceptanceOutcome), start=1):
            session.add(
                Acceptance(
                    id=number, package_id="p", package_version="1", package_sha256="0", protocol_name="yearly",
                    protocol_sha256="1", protocol="name = 'yearly'", data_sha256="2", code_version="0.1",
                    frozen_at=START, frozen_by="who", outcome=outcome, results={"n": 3} if outcome else None,
                )
            )  # fmt: skip
            session.flush()
            session.add(AcceptanceCase(acceptance_id=number, case_sha256="c"))
        session.add(
            FinalReport(study_id=1, fracture=True, classes=["DF"], imported_at=START, imported_by="who")
        )
    sessions.kw["bind"].dispose()


@pytest.mark.parametrize("older", ["0001", "0002", "0003"])
def test_rows_in_every_state_survive_the_way_down_up_and_down_again(url: str, older: str) -> None:
    migrations.upgrade(url)
    fill(url)
    assert all(rows(url, shape(url)).values()), "a table without a row shows nothing"

    assert migrations.downgrade(url, older) == older
    then = shape(url)
    before = rows(url, then)
    assert all(before.values()), before
    assert "final_reports" not in then
    assert migrations.upgrade(url) == HEAD
    assert rows(url, then) == before
    assert migrations.check(url) == []
    assert migrations.downgrade(url, older) == older
    assert shape(url) == then
    assert rows(url, then) == before
    assert migrations.upgrade(url) == HEAD  # and there again
    assert rows(url, then) == before


def test_the_migrated_tables_serve_the_ledger(url: str) -> None:
    from tests.ledger_steps import Journey

    migrations.upgrade(url)
    journey = Journey(ledger.sessions(url))
    journey.delivering()
    assert set(journey.send("delivered").values()) == {AnalysisStatus.COMPLETED}
    journey.make.kw["bind"].dispose()


def test_upgrade_is_safe_to_repeat(url: str) -> None:
    assert migrations.upgrade(url) == migrations.upgrade(url)


def test_four_processes_that_upgrade_at_once_all_succeed(url: str) -> None:
    # alembic keeps one context a process, so real processes it is
    code = f"from hipnode import migrations; print(migrations.upgrade({url!r}))"
    ups = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        )
        for _ in range(4)
    ]
    said = [(up.communicate(), up.returncode) for up in ups]
    assert [(out.strip(), code) for (out, _), code in said] == [(HEAD.encode(), 0)] * 4, said


def test_an_empty_place_has_no_revision_and_stays_empty(tmp_path: Path) -> None:
    assert migrations.current(f"sqlite:///{tmp_path / 'none.db'}") is None
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_a_later_version_is_left_alone(url: str) -> None:
    migrations.upgrade(url)
    sessions = ledger.sessions(url)
    with ledger.transaction(sessions) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match="9999"):
        migrations.upgrade(url)
    sessions.kw["bind"].dispose()


def test_a_changed_table_is_named_by_check(url: str) -> None:
    migrations.upgrade(url)
    sessions = ledger.sessions(url)
    with ledger.transaction(sessions) as session:
        session.execute(text("ALTER TABLE events ADD COLUMN stray INTEGER"))
    assert any("stray" in line for line in migrations.check(url))
    sessions.kw["bind"].dispose()


def test_a_database_that_does_not_answer_is_down() -> None:
    with pytest.raises(LedgerDown):
        migrations.upgrade("postgresql+psycopg://nobody@127.0.0.1:1/x")


def test_an_older_version_reads_words_it_knows_beside_a_column_without_check(url: str) -> None:
    migrations.upgrade(url)
    sessions = ledger.sessions(url)
    with ledger.transaction(sessions) as session:
        session.add(study())
        session.flush()
        session.add(analysis(1))
        session.flush()
        session.execute(text("UPDATE analyses SET status = 'a later word'"))
        assert session.scalar(text("SELECT status FROM analyses")) == "a later word"
    sessions.kw["bind"].dispose()


def test_migrations_are_found_in_the_checkout() -> None:
    assert migrations.migrations_folder() == ROOT / "alembic"
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_alembic_itself_works_on_the_settings(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", "alembic/alembic.ini", "upgrade", "head"],
        cwd=ROOT,
        env={**os.environ, "HIPNODE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert migrations.current(f"sqlite:///{tmp_path / 'hipnode.db'}") == HEAD


def test_a_place_without_migrations_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(migrations, "__file__", str(tmp_path / "hipnode" / "migrations.py"))
    with pytest.raises(SettingsError, match="install"):
        migrations.migrations_folder()


def test_the_words_of_the_migration_are_wide_enough() -> None:
    words = [
        w.value
        for e in (AnalysisStatus, DeliveryStatus, Outcome, AcceptanceOutcome, ReasonCode, Role)
        for w in e
    ]
    assert max(map(len, words)) <= 32
    assert AnalysisImage.__table__.c.decision.type.length >= len("analyse_flag")
