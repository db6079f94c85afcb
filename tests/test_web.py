"""The health page tells whether the node lives, and whether it can take a study and finish it."""

import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from hipnode import __version__, ledger, migrations, queue
from hipnode.ledger import WorkerBeat
from hipnode.web import Answer, Check, Watched, Web, make_app, start_web
from hipnode.web.server import KEPT_S
from tests.peers import free_port
from tests.scp_node import Bench, open_ledger, running_scp

PACKAGE, WEIGHTS = "hip-test", "f" * 64


def get(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()) if error.code == 503 else None


def stamp(sessions: Any, revision: str) -> None:
    """Say that the database is at this revision."""
    with ledger.transaction(sessions) as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32))"))
        session.execute(text("DELETE FROM alembic_version"))
        session.execute(text("INSERT INTO alembic_version VALUES (:r)"), {"r": revision})


def beat(sessions: Any, kind: str, packages: dict[str, str] | None = None, ago_s: float = 0) -> None:
    """A worker of this kind was last heard of `ago_s` ago."""
    seen_at = datetime.now(UTC) - timedelta(seconds=ago_s)
    with ledger.transaction(sessions) as session:
        ledger.heartbeat(session, WorkerBeat(f"{kind}@here:1", kind, packages or {}), seen_at)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Bench]:
    with running_scp(tmp_path) as running:
        stamp(running.sessions, migrations.head())
        yield running


@pytest.fixture
def watched(node: Bench) -> Watched:
    """A node whose workers live."""
    beat(node.sessions, "analyse", {PACKAGE: WEIGHTS})
    beat(node.sessions, "deliver")
    return Watched(node.sessions, node.spool, node.scp, packages=lambda: {PACKAGE: WEIGHTS})


@pytest.fixture
def page(watched: Watched) -> Iterator[Callable[..., Any]]:
    """Asks /readyz of the node, changed by keywords."""
    servers = []

    def ask(**changes: Any) -> tuple[int, Any]:
        servers.append(start_web("127.0.0.1", 0, replace(watched, **changes)))
        return get(servers[-1].port, "/readyz")

    yield ask
    for server in servers:
        server.stop()


@pytest.fixture
def web(watched: Watched) -> Iterator[Web]:
    server = start_web("127.0.0.1", 0, watched)
    yield server
    server.stop()


def serve(checks: dict[str, Check], within_s: float = 3) -> Web:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Web(make_app(checks, within_s=within_s), listener)
    server.start()
    return server


def test_a_node_that_can_work_is_alive_and_ready(web: Web) -> None:
    assert get(web.port, "/healthz") == (200, {"status": "alive", "version": __version__})
    code, body = get(web.port, "/readyz")
    assert (code, body["status"], body["says"]) == (200, "ready", "Studies are taken and finished.")
    assert (body["takes_studies"], body["finishes_studies"]) == (True, True)
    parts = ["analyse", "backlog", "database", "deliver", "disk", "intake", "schema", "scp", "spool"]
    assert sorted(body["checks"]) == parts
    assert all(part["ok"] and part["says"].endswith(".") for part in body["checks"].values())


def refused(answer: tuple[int, Any], part: str) -> str:
    """The sentence of the one part that makes the node refuse studies."""
    code, body = answer
    assert (code, body["status"]) == (503, "not ready")
    assert (body["takes_studies"], body["finishes_studies"]) == (False, False)
    assert [n for n, p in body["checks"].items() if not p["ok"] and p["needed_to"] == "take"] == [part]
    says = body["checks"][part]["says"]
    assert body["says"] == f"Studies cannot be taken: {says}"
    return str(says)


def waits(answer: tuple[int, Any], part: str) -> str:
    """The sentence of the one part for which studies wait."""
    code, body = answer
    assert (code, body["status"]) == (200, "degraded")
    assert (body["takes_studies"], body["finishes_studies"]) == (True, False)
    assert [name for name, p in body["checks"].items() if not p["ok"]] == [part]
    says = body["checks"][part]["says"]
    assert body["says"].startswith("Studies are taken and kept safely; ")
    assert body["says"].endswith(says)
    return str(says)


def test_a_disk_below_its_low_water_mark_is_not_ready(node: Bench, page: Callable[..., Any]) -> None:
    node.spool.low_water_bytes = 2**60
    assert "MiB free" in refused(page(), "disk")


def test_an_scp_that_has_ended_is_not_ready(node: Bench, page: Callable[..., Any]) -> None:
    node.scp.stop()
    assert "does not listen" in refused(page(), "scp")


def test_a_schema_that_is_behind_is_not_ready(node: Bench, page: Callable[..., Any]) -> None:
    stamp(node.sessions, "0001")
    assert "hipnode db upgrade" in refused(page(), "schema")


def test_a_newer_schema_serves_on(node: Bench, page: Callable[..., Any]) -> None:
    stamp(node.sessions, "9999")
    code, body = page()
    assert (code, body["status"]) == (200, "ready")
    assert "newer version" in body["checks"]["schema"]["says"]


def test_a_spool_that_is_gone_is_not_ready(node: Bench, page: Callable[..., Any]) -> None:
    shutil.rmtree(node.spool.root / "instances")
    assert "mounted" in refused(page(), "spool")


def test_a_spool_that_cannot_be_written_is_not_ready(node: Bench, page: Callable[..., Any]) -> None:
    (node.spool.root / "incoming").rmdir()
    (node.spool.root / "incoming").write_bytes(b"")  # root may write any folder; this is none
    assert "cannot be written" in refused(page(), "spool")


def test_a_full_backlog_is_not_ready(page: Callable[..., Any]) -> None:
    assert "C-STORE is refused" in refused(page(backlog_limit=0), "backlog")


def test_without_intake_studies_wait(page: Callable[..., Any]) -> None:
    assert "restart the node" in waits(page(intake_alive=lambda: False), "intake")


@pytest.mark.parametrize("kind", ["analyse", "deliver"])
def test_without_a_living_worker_studies_wait(node: Bench, page: Callable[..., Any], kind: str) -> None:
    beat(node.sessions, kind, {PACKAGE: WEIGHTS}, ago_s=61)
    assert f"start `hipnode worker {kind}`" in waits(page(), kind)


def test_a_package_no_worker_has_makes_studies_wait(page: Callable[..., Any]) -> None:
    answer = page(packages=lambda: {PACKAGE: WEIGHTS, "pelvis": None})
    assert "has the package pelvis" in waits(answer, "analyse")


def test_other_weights_than_the_nodes_make_studies_wait(page: Callable[..., Any]) -> None:
    assert "other weights" in waits(page(packages=lambda: {PACKAGE: "0" * 64}), "analyse")
    assert page(packages=lambda: {PACKAGE: None})[1]["status"] == "ready"  # not installed beside the node


def test_a_dead_broker_makes_studies_wait(tmp_path: Path, page: Callable[..., Any]) -> None:
    queue.configure(f"redis://127.0.0.1:{free_port()}/0", tmp_path)
    bell = queue.Bell()
    try:
        assert "broker does not answer" in waits(page(bell=bell), "broker")
        queue.configure("filesystem://", tmp_path / "broker")
        assert page(bell=bell)[1]["checks"]["broker"]["ok"]
    finally:
        bell.close()
        queue.configure("filesystem://", tmp_path / "broker")


def test_a_database_that_is_gone_is_not_ready_and_the_answer_holds_no_secret(
    tmp_path: Path, watched: Watched
) -> None:
    gone = open_ledger(f"sqlite:///{tmp_path / 'other.db'}")
    gone.kw["bind"].dispose()
    (tmp_path / "other.db").unlink()
    (tmp_path / "other.db").mkdir()
    server = start_web("127.0.0.1", 0, replace(watched, sessions=gone))
    try:
        code, body = get(server.port, "/readyz")
    finally:
        server.stop()
    assert code == 503
    assert body["checks"]["database"]["says"].startswith("The database")
    assert str(tmp_path) not in json.dumps(body)


def test_who_asks_without_end_makes_no_more_work() -> None:
    asked = []

    def count() -> Answer:
        asked.append(1)
        return Answer(True, "Room.")

    server = serve({"disk": Check("take", count)})
    try:
        begun = time.monotonic()
        for _ in range(60):
            assert get(server.port, "/readyz")[0] == 200
        assert len(asked) <= 1 + (time.monotonic() - begun) / KEPT_S
    finally:
        server.stop()


def test_a_check_that_hangs_is_answered_in_time_and_not_started_twice() -> None:
    started, go_on = [], threading.Event()

    def hangs() -> Answer:
        started.append(1)
        go_on.wait(20)
        return Answer(True, "It came back.")

    checks = {"database": Check("take", hangs), "disk": Check("take", lambda: Answer(True, "Room."))}
    server = serve(checks, within_s=0.3)
    try:
        for _ in range(3):
            time.sleep(KEPT_S)  # or the last answer is given again
            code, body = get(server.port, "/readyz")
            assert (code, body["checks"]["database"]["says"]) == (503, "No answer within 0.3 s.")
            assert body["checks"]["disk"]["ok"]
        assert len(started) == 1
        assert get(server.port, "/healthz")[0] == 200
    finally:
        go_on.set()
        server.stop()


def test_a_check_that_breaks_names_its_error_only() -> None:
    def breaks() -> Answer:
        raise ValueError("CANARY")

    server = serve({"database": Check("take", breaks)})
    try:
        code, body = get(server.port, "/readyz")
    finally:
        server.stop()
    assert (code, body["checks"]["database"]["says"]) == (503, "The check failed (ValueError).")


def test_nothing_else_is_served(web: Web) -> None:
    assert get(web.port, "/")[0] == 404
    assert get(web.port, "/studies")[0] == 404


def test_a_port_in_use_is_told_at_once(watched: Watched, web: Web) -> None:
    with pytest.raises(OSError, match="in use"):
        start_web("127.0.0.1", web.port, watched)
