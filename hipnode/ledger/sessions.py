"""Doors to the database: SQLite and PostgreSQL made to keep the same promises.

A committed transaction survives power loss on both (WAL with synchronous=FULL;
synchronous_commit=on), no statement waits without end, and no error quotes a value (hide_parameters).
"""

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.orm import Session, sessionmaker

from hipnode.errors import LedgerDown

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another before the sender is told to try again."""

_POSTGRES = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20000,
    "options": (
        "-c synchronous_commit=on -c lock_timeout=10s -c statement_timeout=30s "
        "-c idle_in_transaction_session_timeout=60s -c timezone=UTC"
    ),
}


def sessions(database_url: str, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sessionmaker[Session]:
    """A maker of sessions on the database at `database_url` (SQLAlchemy URL). It connects when first used."""
    url = make_url(database_url)
    common: dict[str, Any] = {"hide_parameters": True}
    if url.database not in (None, "", ":memory:"):
        # as many as associations may write at once; idle ones beyond five are closed
        common |= {"pool_size": 5, "max_overflow": 27, "pool_timeout": 10}
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, **common)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", partial(_begin_sqlite, patience_s=busy_timeout_s))
    else:
        engine = create_engine(url, connect_args=dict(_POSTGRES), pool_pre_ping=True, **common)
    return sessionmaker(engine, expire_on_commit=False)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours to say, see _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection, patience_s: float) -> None:
    if connection.get_execution_options().get("postgresql_readonly"):
        connection.exec_driver_sql("BEGIN")
        return
    # A write that begins as a read fails at once with "database is locked" when another came
    # between; IMMEDIATE waits its turn. SQLite itself lets those who wait long ask ever more rarely,
    # so that under load they starve: here everyone asks as often as everyone else.
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)  # noqa: S101  (the dialect says so)
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        end = time.monotonic() + patience_s
        while not _begun(raw) and time.monotonic() < end:
            time.sleep(random.uniform(0.0002, 0.0015))  # noqa: S311  (nothing secret)
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
    if not raw.in_transaction:
        raise LedgerDown("The database is busy.")


def _begun(raw: sqlite3.Connection) -> bool:
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


@contextmanager
def transaction(make: sessionmaker[Session]) -> Iterator[Session]:
    """A session in one write transaction, committed at the end.

    Raises LedgerDown when the database does not answer; nothing is committed then, or (only when
    the connection broke during COMMIT itself) it is unknown, and the caller must act as if it was not.
    """
    with _answering(), make.begin() as session:
        yield session


@contextmanager
def reading(make: sessionmaker[Session]) -> Iterator[Session]:
    """A session that only reads and waits for no writer. Raises LedgerDown."""
    with _answering(), make.begin() as session:
        session.connection(execution_options={"postgresql_readonly": True})
        yield session


@contextmanager
def snapshot(make: sessionmaker[Session], within_s: float) -> Iterator[Session]:
    """A session that only reads, all of it as of one moment, and not for longer than about `within_s`.

    Raises LedgerDown, also when the time is over (on PostgreSQL: that of one statement).
    """
    with _answering(), make.begin() as session:
        options: dict[str, Any] = {"postgresql_readonly": True}
        if session.get_bind().dialect.name == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
            connection = session.connection(execution_options=options)
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(within_s * 1000)}")
            yield session
            return
        raw = session.connection(execution_options=options).connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)  # noqa: S101  (the dialect says so)
        end = time.monotonic() + within_s
        raw.set_progress_handler(lambda: int(time.monotonic() > end), 20_000)
        try:
            yield session
        finally:
            raw.set_progress_handler(None, 0)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise LedgerDown("The database does not answer.") from error
    except sqlite3.Error as error:
        raise LedgerDown(f"The database does not answer ({type(error).__name__}).") from error
    except (OperationalError, InterfaceError) as error:
        raise LedgerDown(f"The database does not answer ({type(error.orig).__name__}).") from error
    except DBAPIError as error:
        if type(error) is DatabaseError or error.connection_invalidated:
            raise LedgerDown(f"The database is out of order ({type(error.orig).__name__}).") from error
        raise
