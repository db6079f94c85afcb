"""Who knocks: what peers send and are refused, counted in memory and written to the ledger behind them.

Counting takes microseconds and never waits for the database, so a C-STORE gets no slower. What is held
is bounded: of one address only so many AE titles are told apart, of all addresses so many are kept.
"""

import threading
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.errors import LedgerDown

logger = structlog.get_logger(__name__)

WRITE_EVERY_S = 2.0
"""Counts are written at most this often, and only when there are any."""

MOST_PEERS = 500
"""So many peers are held between two writes."""

MOST_TITLES = 20
"""So many AE titles of one address are told apart between two writes; more count for the address alone."""

_Key = tuple[str, str, str]  # calling AE title, address, called AE title


@dataclass
class _Count:
    """What one peer did since the last write."""

    associations: int = 0
    refusals: int = 0
    instances: int = 0
    stores_refused: int = 0
    last_refusal: str | None = None
    seen_at: datetime | None = None
    refused_at: datetime | None = None

    @property
    def only_refused(self) -> bool:
        return not self.associations and not self.instances


class Knocks:
    """Counts what peers do. Its methods may be called from any thread; none of them raises or waits."""

    def __init__(self, sessions: sessionmaker[Session], turn: AbstractContextManager[object]) -> None:
        """`turn`: held while writing, as those who store instances do."""
        self._sessions = sessions
        self._turn = turn
        self._lock = threading.Lock()
        self._counts: dict[_Key, _Count] = {}
        self._titles: Counter[str] = Counter()  #: addresses -> keys in _counts
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._run, name="hipnode-scp-knocks", daemon=True)
        self._thread.start()

    def accepted(self, calling_ae_title: str, address: str, called_ae_title: str) -> None:
        """An association was accepted."""
        now = datetime.now(UTC)
        with self._lock:
            if count := self._of((calling_ae_title, address, called_ae_title), friend=True):
                count.associations += 1
                count.seen_at = now
        self._news.set()

    def refused(self, code: str, address: str, calling_ae_title: str = "", called_ae_title: str = "") -> None:
        """An association was rejected or aborted, or a connection dropped, for the reason `code`."""
        now = datetime.now(UTC)
        with self._lock:
            if count := self._of((calling_ae_title, address, called_ae_title)):
                count.refusals += 1
                count.last_refusal = code
                count.seen_at = count.refused_at = now
        self._news.set()

    def stored(self, calling_ae_title: str, address: str, called_ae_title: str, refusal: str | None) -> None:
        """A C-STORE ended: with Success, or with `refusal`, a DIMSE status such as A700 or another code."""
        now = datetime.now(UTC)
        with self._lock:
            if count := self._of((calling_ae_title, address, called_ae_title), friend=True):
                count.seen_at = now
                if refusal is None:
                    count.instances += 1
                else:
                    count.stores_refused += 1
                    count.last_refusal, count.refused_at = refusal, now
        self._news.set()

    def write(self) -> None:
        """Write what was counted. Does not raise; without a database it waits for the next time."""
        with self._lock:
            counts, self._counts = self._counts, {}
            self._titles.clear()
        if not counts:
            return
        seen = [ledger.PeerSeen(*key, **vars(count)) for key, count in counts.items()]
        try:
            with self._turn, ledger.transaction(self._sessions) as session:
                ledger.record_peers(session, seen, datetime.now(UTC))
        except LedgerDown as error:
            self._put_back(counts)
            if not self._told:
                logger.warning("peers.not_written", why=str(error))
            self._told = True
        except Exception as error:  # noqa: BLE001  figures for people; storing goes on without them
            logger.error("peers.not_written", error=type(error).__name__)  # noqa: TRY400
        else:
            self._told = False

    def stop(self) -> None:
        """Write the rest and end."""
        self._stopping.set()
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._news.wait()
            self._stopping.wait(WRITE_EVERY_S)  # and collect
            self._news.clear()
            self.write()

    def _of(self, key: _Key, friend: bool = False) -> _Count | None:
        """The count of this peer, or of its address where it has too many titles; None: no room."""
        count = self._counts.get(key)
        if count is None and self._titles[key[1]] >= MOST_TITLES:
            key = ("", key[1], "")
            count = self._counts.get(key)
        if count is None and len(self._counts) >= MOST_PEERS:
            # strangers make room for a peer that is let in
            stranger = next((k for k, c in self._counts.items() if c.only_refused), None) if friend else None
            if stranger is None:
                return None
            del self._counts[stranger]
            self._titles[stranger[1]] -= 1
        if count is None:
            count = self._counts[key] = _Count()
            self._titles[key[1]] += 1
        return count

    def _put_back(self, counts: dict[_Key, _Count]) -> None:
        with self._lock:
            for key, old in counts.items():
                count = self._of(key, friend=not old.only_refused)
                if count is None:
                    continue
                count.associations += old.associations
                count.refusals += old.refusals
                count.instances += old.instances
                count.stores_refused += old.stores_refused
                count.last_refusal = count.last_refusal or old.last_refusal
                count.seen_at = count.seen_at or old.seen_at
                count.refused_at = count.refused_at or old.refused_at
        self._news.set()
