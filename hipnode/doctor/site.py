"""The installation under examination: its settings, and what several checks want to know of it.

Each look is made once, by the check that asks first; the others wait for it. Nothing here raises for
what is broken: what cannot be had is empty, and the check of that subject says why.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.destinations import Destination, load_destinations
from hipnode.doctor.database import Database, look_at_database
from hipnode.doctor.nodes import NodeSeen, look_at_node
from hipnode.errors import HipnodeError, SettingsError
from hipnode.ledger import PeerRow, WorkerRow
from hipnode.scu import Timeouts
from hipnode.selection import Selection
from hipnode.settings import Settings

T = TypeVar("T")

PATIENCE = Timeouts(connect_s=4, acse_s=4, dimse_s=4, network_s=4)
"""For a C-ECHO: a peer that is well answers within a second."""

ALIVE_S = 60.0
"""A worker not heard for so long is dead; the ledger counts in the same way (WORKER_ALIVE_S)."""

PEERS_SINCE = timedelta(days=7)


def utc_now() -> datetime:
    """The instant."""
    return datetime.now(UTC)


class Once(Generic[T]):
    """A value looked up when first asked for, and kept."""

    def __init__(self, look: Callable[[], T]) -> None:
        self._look, self._lock = look, threading.Lock()
        self._found: list[T] = []

    def __call__(self) -> T:
        """The value; who asks while it is looked up waits."""
        with self._lock:
            if not self._found:
                self._found.append(self._look())
            return self._found[0]

    @property
    def known(self) -> T | None:
        """The value, if it was looked up."""
        return self._found[0] if self._found else None


class Site:
    """One installation, as its settings describe it.

    wrong_settings: sentences on settings that could not be used; their defaults stand in `settings`.
    unknown_settings: names beginning with HIPNODE_ that are no setting.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        wrong_settings: Sequence[str] = (),
        unknown_settings: Sequence[str] = (),
        clock: Callable[[], datetime] = utc_now,
        timeouts: Timeouts = PATIENCE,
    ) -> None:
        self.settings = settings
        self.wrong_settings, self.unknown_settings = wrong_settings, unknown_settings
        self.clock, self.timeouts = clock, timeouts
        self.database: Once[Database] = Once(lambda: look_at_database(settings.database))
        self.node: Once[NodeSeen] = Once(lambda: look_at_node(settings, timeouts))
        self.destinations: Once[list[Destination]] = Once(self._destinations)
        self.package_ids: Once[list[str]] = Once(self._package_ids)
        self.peers: Once[list[PeerRow]] = Once(self._peers)
        self.workers: Once[list[WorkerRow]] = Once(self._workers)

    @property
    def sessions(self) -> sessionmaker[Session] | None:
        """Sessions on the ledger; None where it cannot be asked, or is at another revision."""
        return self.database().sessions

    def close(self) -> None:
        """Let go of the database."""
        if (found := self.database.known) is not None:
            found.close()

    def live_workers(self, kind: str) -> list[WorkerRow]:
        """The workers of one kind that were heard of within ALIVE_S."""
        since = self.clock() - timedelta(seconds=ALIVE_S)
        return [row for row in self.workers() if row.kind == kind and row.seen_at >= since]

    def _destinations(self) -> list[Destination]:
        try:
            return load_destinations(self.settings.destinations)
        except (SettingsError, OSError):
            return []

    def _package_ids(self) -> list[str]:
        """Ids of the model packages the selection names, the site's own first."""
        try:
            book = Selection.load(self.settings.selection_file).book
        except (SettingsError, OSError):
            return []
        named = [str(book.site.get("package", "")), *(rule.package for rule in book.rules)]
        return [id_ for id_ in dict.fromkeys(named) if id_]

    def _peers(self) -> list[PeerRow]:
        return self._read(lambda session: ledger.list_peers(session, self.clock() - PEERS_SINCE))

    def _workers(self) -> list[WorkerRow]:
        return self._read(ledger.workers)

    def _read(self, ask: Callable[[Session], list[T]]) -> list[T]:
        if self.sessions is None:
            return []
        try:
            with ledger.reading(self.sessions) as session:
                return ask(session)
        except HipnodeError:  # it went away between two questions
            return []
