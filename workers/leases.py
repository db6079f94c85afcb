"""Leases kept alive while work is under way, and lost ones noticed."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.errors import IllegalTransition, LedgerDown

logger = structlog.get_logger(__name__)

Extend = Callable[[Session, datetime], object]
"""Extends one lease in an open session; raises IllegalTransition when it is lost."""


def utc_now() -> datetime:
    """This instant, aware."""
    return datetime.now(UTC)


class Leases:
    """A context in which a thread extends leases three times per lease length.

    It stops after `longest_s`: work that hangs must not be held for ever. `lost` holds the keys
    of leases that went to another worker; the fence refuses their late writes in any case.
    subjects: what log lines about a key name, such as its study.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        extends: Mapping[int, Extend],
        lease_s: float,
        longest_s: float,
        clock: Callable[[], datetime] = utc_now,
        subjects: Mapping[int, Mapping[str, object]] | None = None,
    ) -> None:
        self._sessions, self._extends, self._clock = sessions, dict(extends), clock
        self._every_s, self._longest_s = lease_s / 3, longest_s
        self._subjects = dict(subjects or {})
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self.lost: set[int] = set()

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        end = time.monotonic() + self._longest_s
        while not self._done.wait(self._every_s) and time.monotonic() < end:
            for key, extend in self._extends.items():
                if key not in self.lost and not self._done.is_set():
                    self._extend(key, extend)

    def _extend(self, key: int, extend: Extend) -> None:
        try:
            with ledger.transaction(self._sessions) as session:
                extend(session, self._clock())
        except IllegalTransition:
            self.lost.add(key)
            logger.warning("lease.lost", **self._subjects.get(key, {}))
        except LedgerDown as error:
            logger.warning("lease.not_extended", why=str(error), **self._subjects.get(key, {}))
