"""Places where a test may break a process: `faults.point("after_claim")`.

Without HIPNODE_FAULTS in the environment a point does nothing. With it, a comma separated list
of `point=action` or `point=action@n` (the n-th time this process passes there; default 1):

    kill    SIGKILL this process, as the out-of-memory killer would
    stop    SIGSTOP this process: it keeps its sockets and wakes up late (SIGCONT)
    raise   raise FaultInjected
    sleep:S sleep S seconds

HIPNODE_FAULT_MARKS names a folder: each fault then fires once over all processes that share
it, and leaves a file `<point>.<action>` there, so that the process started next gets past it.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hipnode.errors import SettingsError

_ACTIONS = ("kill", "stop", "raise", "sleep")


class FaultInjected(RuntimeError):
    """A fault a test asked for."""


@dataclass
class _Fault:
    point: str
    action: str
    seconds: float
    nth: int
    passed: int = 0


def point(name: str) -> None:
    """Break here if the environment asked for it."""
    if _plan:
        _pass(name)


def parse(text: str) -> list[_Fault]:
    """The faults a plan names. Raises SettingsError with the part that cannot be read."""
    faults = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        name, _, rest = part.partition("=")
        action, _, nth = rest.partition("@")
        action, _, seconds = action.partition(":")
        try:
            fault = _Fault(name.strip(), action.strip(), float(seconds or 0), int(nth or 1))
        except ValueError as error:
            raise SettingsError(f"HIPNODE_FAULTS: {part!r} is not point=action[@n].") from error
        if fault.action not in _ACTIONS or not fault.point:
            raise SettingsError(f"HIPNODE_FAULTS: {part!r}; an action is one of {', '.join(_ACTIONS)}.")
        faults.append(fault)
    return faults


def arm(text: str, marks: Path | None = None) -> None:
    """Replace the plan of this process; "" is none."""
    global _plan, _marks  # one plan a process, set once before work starts
    _plan, _marks = parse(text), marks


def _pass(name: str) -> None:
    for fault in _plan:
        if fault.point != name:
            continue
        with _lock:
            fault.passed += 1
            due = fault.passed == fault.nth
        if due and _first(fault):
            _break(fault)


def _first(fault: _Fault) -> bool:
    if _marks is None:
        return True
    try:
        os.close(
            os.open(_marks / f"{fault.point}.{fault.action}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        )
    except FileExistsError:
        return False
    return True


def _break(fault: _Fault) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.action == "sleep":
        time.sleep(fault.seconds)
    else:
        raise FaultInjected(f"fault at {fault.point}")


_lock = threading.Lock()
_plan = parse(os.environ.get("HIPNODE_FAULTS", ""))
_marks = Path(os.environ["HIPNODE_FAULT_MARKS"]) if os.environ.get("HIPNODE_FAULT_MARKS") else None
