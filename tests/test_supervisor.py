"""The supervisor: parts run, come back, and end together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.peers import stop, wait_for

# Each part writes its pid and sleeps; the supervisor starts `python -m hipnode ARGUMENTS`, so a
# package of that name in front of the path stands in for the command line only.
PART = """
import os, sys, time
from pathlib import Path
with Path(sys.argv[1]).open("a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(60)
"""
RUN = """
import sys
from hipnode import supervisor
supervisor.Supervisor([("a", [sys.argv[1]]), ("b", [sys.argv[2]])]).run()
"""


def start(tmp_path: Path, part: str = PART) -> tuple["subprocess.Popen[bytes]", Path, Path]:
    package = tmp_path / "hipnode"
    package.mkdir()
    real = Path(__file__).parent.parent / "hipnode"
    (package / "__init__.py").write_text(f"__path__.append({str(real)!r})\n")
    (package / "__main__.py").write_text(part)
    a, b = tmp_path / "a", tmp_path / "b"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(a), str(b)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    return process, a, b


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_part_comes_back_and_the_others_stay(tmp_path):
    process, a, b = start(tmp_path)
    try:
        wait_for(lambda: pids(a) and pids(b), "both parts run")
        os.kill(pids(a)[0], signal.SIGKILL)
        wait_for(lambda: len(pids(a)) == 2, "the part comes back")
        assert len(pids(b)) == 1
    finally:
        stop(process)
    assert not any(alive(pid) for pid in pids(a) + pids(b))


def test_no_part_outlives_a_killed_supervisor(tmp_path):
    process, a, b = start(tmp_path)
    wait_for(lambda: pids(a) and pids(b), "both parts run")
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids(a) + pids(b)), "the parts end")
    assert process.returncode == -signal.SIGKILL


def test_a_part_that_cannot_use_its_settings_ends_the_others_at_the_start(tmp_path):
    process, a, b = start(
        tmp_path, PART.replace("time.sleep", "sys.argv[1].endswith('b') and sys.exit(2)\ntime.sleep")
    )
    assert process.wait(20) == 1
    assert len(pids(b)) == 1
    assert not any(alive(pid) for pid in pids(a))
