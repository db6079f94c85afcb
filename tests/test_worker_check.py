"""`hipnode worker check`, the health check of a worker's container."""

from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from hipnode import ledger, migrations
from hipnode.ledger import WorkerBeat
from tests.node import PARTS, running_node
from tests.peers import free_port, stop, wait_for
from workers.cli import worker
from workers.names import worker_name


@pytest.fixture
def database(monkeypatch, tmp_path):
    """The URL of a ledger that the commands of this test read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPNODE_DATA", str(tmp_path))
    url = f"sqlite:///{tmp_path / 'hipnode.db'}"
    migrations.upgrade(url)
    return url


def beat(database: str, name: str, age_s: float) -> None:
    make = ledger.sessions(database)
    with ledger.transaction(make) as session:
        ledger.heartbeat(session, WorkerBeat(name, "analyse"), datetime.now(UTC) - timedelta(seconds=age_s))
    make.kw["bind"].dispose()


def check(kind: str) -> str:
    """What the check says: "" when it is content, else its sentence."""
    result = CliRunner().invoke(worker, ["check", kind])
    return "" if result.exit_code == 0 else str(result.exception)


def test_nobody_here_is_no_health(database):
    assert "No analyse worker" in check("analyse")


def test_a_worker_of_another_machine_or_another_kind_does_not_count(database):
    beat(database, "analyse@elsewhere:1", 1)
    beat(database, worker_name("deliver"), 1)
    assert "No analyse worker" in check("analyse")


def test_a_young_heartbeat_of_this_machine_is_health_and_an_old_one_is_not(database):
    beat(database, worker_name("analyse"), 90)
    assert "wrote its last heartbeat" in check("analyse")
    beat(database, worker_name("analyse"), 5)
    assert check("analyse") == ""


def test_a_running_worker_is_found_until_it_ends(tmp_path):
    with running_node(tmp_path, free_port(), {"deliver": PARTS["deliver"]}) as node:
        wait_for(
            lambda: "heartbeat" in node.hipnode("worker", "check", "deliver", check=False), "a heartbeat", 60
        )
        stop(node.processes["deliver"])
        assert node.hipnode("worker", "check", "deliver", check=False) == ""
