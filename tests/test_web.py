"""The health page tells whether the node lives, and whether it can take a study and finish it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hipnode import __version__
from hipnode.web import Web, make_app, start_web
from tests.scp_node import Bench, open_ledger, running_scp


def get(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()) if error.code == 503 else None


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Bench]:
    with running_scp(tmp_path) as running:
        yield running


@pytest.fixture
def web(node: Bench) -> Iterator[Web]:
    server = start_web("127.0.0.1", 0, sessions=node.sessions, spool=node.spool, scp=node.scp)
    yield server
    server.stop()


def serve(checks: dict[str, Any], within_s: float = 3) -> Web:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Web(make_app(checks, within_s), listener)
    server.start()
    return server


def test_a_node_that_can_work_is_alive_and_ready(web: Web) -> None:
    assert get(web.port, "/healthz") == (200, {"status": "alive", "version": __version__})
    checks = {"database": "ok", "disk": "ok", "scp": "ok"}
    assert get(web.port, "/readyz") == (200, {"status": "ready", "checks": checks})


def test_a_disk_below_its_low_water_mark_is_not_ready(node: Bench, web: Web) -> None:
    node.spool.low_water_bytes = 2**60
    code, body = get(web.port, "/readyz")
    assert (code, body["status"]) == (503, "not ready")
    assert "MiB free" in body["checks"]["disk"]
    assert body["checks"]["database"] == body["checks"]["scp"] == "ok"
    assert get(web.port, "/healthz")[0] == 200


def test_an_scp_that_has_ended_is_not_ready(node: Bench, web: Web) -> None:
    node.scp.stop()
    code, body = get(web.port, "/readyz")
    assert (code, body["checks"]["scp"]) == (503, "the SCP does not listen")


def test_a_database_that_is_gone_is_not_ready_and_the_answer_holds_no_secret(
    tmp_path: Path, node: Bench
) -> None:
    gone = open_ledger(f"sqlite:///{tmp_path / 'other.db'}")
    gone.kw["bind"].dispose()
    (tmp_path / "other.db").unlink()
    (tmp_path / "other.db").mkdir()
    server = start_web("127.0.0.1", 0, sessions=gone, spool=node.spool, scp=node.scp)
    try:
        code, body = get(server.port, "/readyz")
    finally:
        server.stop()
    assert code == 503
    assert body["checks"]["database"].startswith("The database")
    assert str(tmp_path) not in json.dumps(body)


def test_a_check_that_hangs_is_answered_in_time_and_not_started_twice() -> None:
    started, go_on = [], threading.Event()

    def hangs() -> str:
        started.append(1)
        go_on.wait(20)
        return ""

    server = serve({"database": hangs, "disk": lambda: ""}, within_s=0.3)
    try:
        begun = time.monotonic()
        for _ in range(3):
            code, body = get(server.port, "/readyz")
            assert (code, body["checks"]) == (503, {"database": "no answer within 0.3 s", "disk": "ok"})
        assert time.monotonic() - begun < 3
        assert len(started) == 1
        assert get(server.port, "/healthz")[0] == 200
    finally:
        go_on.set()
        server.stop()


def test_a_check_that_breaks_names_its_error_only() -> None:
    def breaks() -> str:
        raise ValueError("CANARY")

    server = serve({"database": breaks})
    try:
        code, body = get(server.port, "/readyz")
    finally:
        server.stop()
    assert (code, body["checks"]["database"]) == (503, "the check failed (ValueError)")


def test_nothing_else_is_served(web: Web) -> None:
    assert get(web.port, "/")[0] == 404
    assert get(web.port, "/studies")[0] == 404


def test_a_port_in_use_is_told_at_once(node: Bench, web: Web) -> None:
    with pytest.raises(OSError, match="in use"):
        start_web("127.0.0.1", web.port, sessions=node.sessions, spool=node.spool, scp=node.scp)
