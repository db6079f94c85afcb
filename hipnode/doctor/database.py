"""Is the database there, may we write it, and does its schema fit this version."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.runtime.migration import MigrationContext
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger, migrations
from hipnode.doctor.records import Record, fail, ok, warn
from hipnode.errors import HipnodeError, LedgerDown

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

BUSY_S = 3.0  #: how long we wait for another writer of an SQLite file

#: What a driver says -> (what that means, what to do). The first that is found in its text holds.
_MEANINGS = (
    ("password authentication failed", "refuses the password", "Correct the password in HIPNODE_DATABASE_URL."),
    ("no password supplied", "asks for a password", "Put the password into HIPNODE_DATABASE_URL."),
    (
        "no pg_hba.conf entry",
        "does not let this machine in",
        "Add a line for this host, database and user to the server's pg_hba.conf and reload it.",
    ),
    ('role "', "does not know this user", "Create the role on the server, or correct HIPNODE_DATABASE_URL."),
    (
        "does not exist",
        "has no database of this name",
        "Create it (createdb), then run `hipnode db upgrade`; or correct HIPNODE_DATABASE_URL.",
    ),
    (
        "refused",
        "does not run: nothing listens there",
        "Start PostgreSQL, or correct host and port in HIPNODE_DATABASE_URL.",
    ),
    (
        "translate host name",
        "cannot be found: its host name has no address",
        "Correct the host in HIPNODE_DATABASE_URL, or the DNS.",
    ),
    ("resolve host", "cannot be found: its host name has no address", "Correct the host in HIPNODE_DATABASE_URL."),
    (
        "timeout",
        "does not answer in time",
        "Check that its host is up and that no firewall drops the connection.",
    ),
    (
        "busy",
        "is busy: another program holds it for writing",
        "Run this again; if it stays so, look for a program beside hipnode that has the file open (`fuser`).",
    ),
    ("too many clients", "has no connection left", "Raise max_connections of the server, or end idle clients."),
    ("starting up", "is starting up", "Wait until it has started."),
    (
        "readonly",
        "cannot be written by this user",
        "Run this as the user who owns the data folder, or give the file back to it with chown.",
    ),
    (
        "unable to open",
        "cannot be opened by this user",
        "Run this as the user who owns the data folder, or give the folder back to it with chown.",
    ),
    (
        "not a database",
        "is no SQLite file, or a damaged one",
        "Stop the node and restore the file from a back-up; without one, move it away and run `hipnode db upgrade`.",
    ),
    (
        "malformed",
        "is damaged",
        "Stop the node and restore the file from a back-up (see the back-up page of deploy/README.md).",
    ),
    ("disk i/o", "cannot be read from its disk", "Look at the kernel's log (dmesg) for the disk, then restore."),
    ("is full", "has no disk space left", "Free space on the file system of the database."),
)  # fmt: skip
_UNKNOWN = ("does not answer", "Check HIPNODE_DATABASE_URL, and the log of the database server.")


@dataclass(frozen=True)
class Database:
    """What was found. sessions: None where the ledger cannot be asked.

    trouble: what does not work, "" for nothing; missing: it was never prepared.
    """

    name: str
    sessions: sessionmaker[Session] | None = None
    trouble: str = ""
    cure: str = ""
    missing: bool = False
    revision: str | None = None

    def close(self) -> None:
        """Let go of the connections."""
        if self.sessions is not None:
            self.sessions.kw["bind"].dispose()


def name_of(database_url: str) -> str:
    """The database for people: kind and place, without user and password."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return f"SQLite in {url.database}"
    return f"PostgreSQL {url.database} on {url.host or 'this machine'}:{url.port or 5432}"


def look_at_database(database_url: str) -> Database:
    """Connect, read the revision, and begin a write that changes nothing. Does not raise."""
    try:
        name, url = name_of(database_url), make_url(database_url)
    except (ArgumentError, ValueError):
        cure = "Write postgresql://user:password@host:5432/name, with signs like @ / : in the password as %40 %2F %3A."
        return Database("HIPNODE_DATABASE_URL", trouble="is no URL of a database", cure=cure)
    if url.get_backend_name() == "sqlite" and url.database:
        try:
            if not Path(url.database).exists():
                return Database(name, missing=True)
        except PermissionError:
            meaning, cure = _meaning(LedgerDown("unable to open"))
            return Database(name, trouble=meaning, cure=cure)
    make = ledger.sessions(database_url, BUSY_S)
    try:
        with ledger.reading(make) as session:
            revision = MigrationContext.configure(session.connection()).get_current_revision()
        if revision is None:
            make.kw["bind"].dispose()
            return Database(name, missing=True)
        with ledger.transaction(make) as session:
            standby = url.get_backend_name() != "sqlite" and session.scalar(
                text("SELECT pg_is_in_recovery()")
            )
    except HipnodeError as error:
        make.kw["bind"].dispose()
        meaning, cure = _meaning(error)
        return Database(name, trouble=meaning, cure=cure)
    if standby:
        make.kw["bind"].dispose()
        return Database(
            name, trouble="is a standby that only reads", cure="Point HIPNODE_DATABASE_URL at the primary."
        )
    if revision != migrations.head():
        make.kw["bind"].dispose()
        return Database(name, revision=revision)
    return Database(name, sessions=make, revision=revision)


def check_database(site: "Site") -> list[Record]:
    """Reachable, writable, at our revision."""
    found, head = site.database(), migrations.head()
    if found.trouble:
        left_out = "Workers, peers and queue are not looked at."
        return [fail("database", f"{found.name} {found.trouble}. {left_out}", found.cure)]
    if found.missing:
        cure = "Run `hipnode db upgrade` (`hipnode up` does it by itself), or point HIPNODE_DATA at the node's folder."
        new = not site.settings.database_url and not site.settings.data.exists()
        return [
            (warn if new else fail)(
                "migration", f"{found.name} was never prepared: it holds no tables.", cure
            )
        ]
    records = [ok("database", f"{found.name} answers and can be written.")]
    if found.revision == head:
        return [*records, ok("migration", f"The schema is at revision {head}, as this version needs it.")]
    if migrations.knows(str(found.revision)):
        says = (
            f"The schema is at revision {found.revision}, behind this version of hipnode, which needs {head}."
        )
        cure = "Back up the database, then run `hipnode db upgrade`."
    else:
        says = f"The schema is at revision {found.revision}, ahead of this version of hipnode, which knows {head}."
        cure = (
            "Install the hipnode version that upgraded it, or restore the back-up made before that upgrade."
        )
    return [*records, fail("migration", f"{says} Workers, peers and queue are not looked at.", cure)]


def check_database_clock(site: "Site") -> list[Record]:
    """The database server's clock against ours."""
    if site.sessions is None or site.sessions.kw["bind"].dialect.name == "sqlite":
        return []
    try:
        with ledger.reading(site.sessions) as session:
            ahead_s = (session.scalars(text("SELECT clock_timestamp()")).one() - site.clock()).total_seconds()
    except HipnodeError as error:
        return [
            warn("clock-database", f"The database server did not tell its time: {error}", "Run this again.")
        ]
    return [compare_clocks("clock-database", "The database server", ahead_s)]


def compare_clocks(check: str, whose: str, ahead_s: float) -> Record:
    """A record on another machine's clock that is `ahead_s` seconds ahead of ours."""
    way = "ahead of" if ahead_s > 0 else "behind"
    says = f"{whose}'s clock is {abs(ahead_s):.1f} s {way} this machine's"
    cure = "Let both machines take their time from the same NTP server (`timedatectl set-ntp true`)."
    if abs(ahead_s) > 30:
        return fail(check, f"{says}: leases and deadlines run out too early or too late.", cure)
    if abs(ahead_s) > 2:
        return warn(check, f"{says}.", cure)
    return ok(check, f"{whose}'s clock agrees with this machine's.")


def _meaning(error: BaseException) -> tuple[str, str]:
    """What a refusal of the database means. Its text names hosts and users of the site, so it is not quoted."""
    said = ""
    cause: BaseException | None = error
    while cause is not None:
        said += f"{cause} {getattr(cause, 'orig', '')} ".lower()
        cause = cause.__cause__
    return next(((meaning, cure) for words, meaning, cure in _MEANINGS if words in said), _UNKNOWN)
