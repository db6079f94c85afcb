"""Keep a few processes of one node running: start them, start again what died, end them together."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from hipnode.errors import SettingsError

log = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG = 1  # prctl(2)
_RESTART_AFTER_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_AFTER_S = 60.0
_WRONG_USE = 2


@dataclass
class _Part:
    name: str
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = field(default=0)
    starts: int = 0


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, so that a killed `hipnode up` leaves nobody."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Supervisor:
    """Runs `hipnode <arguments>` for each part, in process groups of their own."""

    def __init__(self, parts: Sequence[tuple[str, list[str]]], stop_s: float = 20.0) -> None:
        self._parts = [_Part(name, arguments) for name, arguments in parts]
        self._stop_s = stop_s
        self._ending = threading.Event()

    def run(self) -> None:
        """Watch the parts until SIGTERM or SIGINT, then end them.

        Raises SettingsError when a part says at its first start that its settings cannot be used: to start
        it again would not help. Later the others are worth more than a quick end.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ending.set())
        try:
            while not self._ending.is_set():
                for part in self._parts:
                    self._watch(part)
                self._ending.wait(0.2)
        finally:
            self._end_all()

    def _watch(self, part: _Part) -> None:
        now = time.monotonic()
        if part.process is not None:
            code = part.process.poll()
            if code is None:
                return
            if code == _WRONG_USE and part.starts == 1:
                raise SettingsError(f"hipnode {' '.join(part.arguments)} cannot start; it says why above.")
            if now - part.started > _HEALTHY_AFTER_S:
                part.failures = 0
            pause = _RESTART_AFTER_S[min(part.failures, len(_RESTART_AFTER_S) - 1)]
            part.failures += 1
            part.process, part.due = None, now + pause
            log.warning("part.ended", part=part.name, exit_code=code, in_s=pause)
        if part.process is None and now >= part.due:
            part.started, part.starts = now, part.starts + 1
            part.process = subprocess.Popen(
                [sys.executable, "-m", "hipnode", *part.arguments],
                # torch's threads wait by spinning unless told otherwise, and starve their neighbours
                env={"OMP_WAIT_POLICY": "passive", **os.environ},
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # one thread here
            )
            log.info("part.started", part=part.name, pid=part.process.pid)

    def _end_all(self) -> None:
        living = [p.process for p in self._parts if p.process is not None and p.process.poll() is None]
        for process in living:
            process.send_signal(signal.SIGTERM)
        end = time.monotonic() + self._stop_s
        for process in living:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
