"""Judges of DICOM objects: dciodvfy, dsrdump, pydicom in strict mode, highdicom's reader.

`check_file` runs all that apply and returns what it read. A judge that is not installed skips the
test by name (fails it where neighbours are required).
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import highdicom
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from hipnode.results import BuiltResult
from hipnode.results.identity import CODING_SCHEME_UID
from tests.peers import need

#: Warnings of dciodvfy that an object of ours may cause, each with its reason.
ALLOWED_WARNINGS = (
    r"Unrecognized defined term = <99HIPNODE>",  # a private scheme is private
    rf"Unrecognized defined term = <{re.escape(CODING_SCHEME_UID)}>",
    r"Laterality\(0020,0060\).*(Empty|empty|zero length|Missing value)",  # type 2C: the side is not known
    r"Value dubious for this VR \[PN\].*Retired Person Name form",  # the source writes names in one component
    r"Value dubious for this VR \[PN\].*",  # letters outside ASCII in a name
    r"would be needed to build DICOMDIR",  # the source has no patient id, date or study id
    r"^(ComprehensiveSR|Comprehensive3DSR|SCImage)$",  # the IOD it found
)


def check_results(results: list[BuiltResult], folder: Path) -> list[Dataset]:
    """Write each object to `folder` and judge it as another system would; gives them as read back."""
    read = []
    for number, result in enumerate(results, 1):
        path = folder / f"{number}-{result.kind}.dcm"
        path.write_bytes(result.encode())
        read.append(check_file(path))
    return read


def check_file(path: Path) -> Dataset:
    """Judge one file; gives the data set."""
    problems = dciodvfy(path)
    assert not problems, f"dciodvfy on {path.name}:\n" + "\n".join(problems)
    ds = strictly_read(path)
    if ds.SOPClassUID in (ComprehensiveSRStorage, Comprehensive3DSRStorage):
        tree = dsrdump(path)
        assert "Imaging Measurement Report" in tree
        highdicom.sr.srread(path)
    return ds


def dciodvfy(path: Path) -> list[str]:
    """The errors of dciodvfy, and the warnings that are not allowed."""
    done = subprocess.run(
        [need("dciodvfy"), "-new", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    assert lines, "dciodvfy said nothing, not even the IOD"
    return [line for line in lines if not any(re.search(allowed, line) for allowed in ALLOWED_WARNINGS)]


def dsrdump(path: Path) -> str:
    """The tree as DCMTK prints it. Fails where DCMTK finds it invalid."""
    done = subprocess.run(
        [need("dsrdump"), "+Pl", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    complaints = [
        line
        for line in done.stderr.splitlines()
        if line.strip() and "does not support this Specific Character Set" not in line
    ]
    assert done.returncode == 0, done.stderr
    assert not complaints, "\n".join(complaints)
    return done.stdout


def strictly_read(path: Path) -> Dataset:
    """Read with every value of every level validated by pydicom."""
    with _strict():
        ds = dcmread(path)
        for _ in ds.iterall():
            pass
    return ds


@contextmanager
def _strict() -> Iterator[None]:
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        yield
    finally:
        config.settings.reading_validation_mode = before
