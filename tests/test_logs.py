"""What the log may say: nothing of a patient."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.node import ROOT

SCRIPT = """
import sys
from hipnode import logs
logs.configure(json_lines=sys.argv[1] == "json")
from pydicom import Dataset
import structlog
ds = Dataset()
ds.PatientID, ds.PatientName, ds.StudyDate = "CANARY" * 20, "CANARY=B=C=D", "CANARY"
ds.StudyInstanceUID = "1.2.CANARY"
structlog.get_logger("x").info("said", study=logs.hashed("1.2.3"))
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_pydicom_does_not_quote_values_in_our_log(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, form], capture_output=True, text=True, check=True, timeout=120
    )
    assert "said" in done.stderr
    assert "CANARY" not in done.stderr + done.stdout


TROUBLE = """
import logging, threading, warnings
from hipnode import logs
logs.configure(json_lines=True)
import structlog
def fail():
    try:
        int("CANARY")
    except ValueError as error:
        raise RuntimeError("CANARY again") from error
try:
    fail()
except RuntimeError:
    logging.getLogger("some.library").exception("it broke")
    structlog.get_logger("hipnode.x").error("thing.broke", exc_info=True)
warnings.warn("CANARY in a warning", RuntimeWarning)
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
"""


def test_errors_and_warnings_leave_their_place_and_no_text() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TROUBLE], capture_output=True, text=True, check=True, timeout=120
    )
    assert "CANARY" not in done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["it broke", "thing.broke", "python.warned", "thread.died"]
    place = r"RuntimeError at <string>:\d+ < <string>:\d+; because of ValueError at <string>:\d+"
    for line in (lines[0], lines[1]):
        assert re.fullmatch(place, line["where"])
    assert (lines[2]["error"], lines[2]["where"].partition(":")[0]) == ("RuntimeWarning", "<string>")
    assert (lines[3]["part"], lines[3]["where"].partition(" ")[0]) == ("worker", "RuntimeError")


# --- Names ---------------------------------------------------------------------------------------

KEYS = {
    # what a line is about, see hipnode.logs
    "study", "study_id", "analysis_id", "delivery_id", "instance_id", "instance", "package", "packages",
    "destination", "queue", "peer", "calling_ae_title", "called_ae_title", "part", "path", "device",
    # why
    "reason", "why", "error", "where", "at", "status", "peer_status", "verdict", "outcome", "exit_code",
    # how much
    "attempt", "again", "bytes", "count", "deliveries", "fresh", "images", "in_s", "leases", "look_s", "overdue",
    "read_s", "results", "revision", "role", "seconds", "studies", "tell_s", "associated",
    # the node
    "ae_title", "data", "expected", "host", "http_port", "pid", "port",
}  # fmt: skip


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for file in [*(ROOT / "hipnode").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("logger", "log", "_log")
                and node.func.attr in ("debug", "info", "warning", "error", "critical", "exception", "log")
            ):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_events_and_their_keys_have_one_name_in_all_rooms() -> None:
    calls = list(log_calls())
    assert len(calls) > 40
    for place, call in calls:
        events = [
            c.value
            for a in call.args
            for c in ast.walk(a)
            if isinstance(c, ast.Constant) and isinstance(c.value, str)
        ]
        assert any(re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", e) for e in events), (
            f"{place}: {events}"
        )
        unknown = {keyword.arg for keyword in call.keywords if keyword.arg} - KEYS
        assert not unknown, f"{place}: {unknown}; see hipnode.logs for the names in use"
