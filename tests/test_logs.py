"""What the log may say: nothing of a patient."""

import json
import re
import subprocess
import sys

import pytest

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
