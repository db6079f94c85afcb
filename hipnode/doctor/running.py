"""Runs checks side by side within a deadline; a check that breaks or hangs is a finding itself."""

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hipnode.doctor.records import Record, fail, warn

Check = Callable[[], list[Record]]


def run_checks(checks: Sequence[tuple[str, Check]], within_s: float) -> list[Record]:
    """The records of all checks, in the order the checks are given. Does not raise.

    A check that has not ended after `within_s` seconds is left behind in its thread.
    """
    found: list[list[Record] | None] = [None] * len(checks)

    def run(place: int, name: str, check: Check) -> None:
        found[place] = guarded(name, check)

    threads = [
        threading.Thread(target=run, args=(place, name, check), name=name, daemon=True)
        for place, (name, check) in enumerate(checks)
    ]
    end = time.monotonic() + within_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    records: list[Record] = []
    for (name, _), answer in zip(checks, found, strict=True):
        if answer is None:
            says = f"This was not known after {within_s:g} s."
            cure = "Something it asks hangs (a disk, a name server, a database); see the other findings, run it again."
            answer = [warn(name, says, cure)]
        records += answer
    return records


def guarded(name: str, check: Check) -> list[Record]:
    """The records of a check, or one that says where it broke; its error may quote a value, and is not told."""
    try:
        return check()
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        cure = "Run this as the user hipnode runs as, and look at the folder or host it names."
        return [fail(name, f"This could not be looked at ({what}).", cure)]
    except Exception as error:  # noqa: BLE001  # a check that breaks must not take the others with it
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        return [fail(name, f"This check itself failed ({where}).", "Report it to the makers of hipnode.")]
