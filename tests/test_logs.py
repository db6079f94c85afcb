"""What the log may say: nothing of a patient."""

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
