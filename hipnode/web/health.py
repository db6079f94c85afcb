"""What the node needs to take a study, and what it needs to finish one.

Without the first kind a C-STORE is refused (or nobody listens): the node is not ready, /readyz answers
503. Without the second kind studies are taken and kept safely, and finished when what is missing comes
back: the node is degraded, and /readyz answers 200, for a sender that is turned away loses more than one
that waits. The page's JSON names each part with a sentence.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, Protocol

from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger, migrations, queue
from hipnode.errors import HipnodeError
from hipnode.ledger.analyses import WORKER_ALIVE_S
from hipnode.spool import Spool

_NOBODY = "No {kind} worker was heard of for a minute: start `hipnode worker {kind}`; `hipnode doctor` looks closer."


class Answer(NamedTuple):
    """What a check found: whether the part is well, and a sentence fit to show."""

    ok: bool
    says: str


@dataclass(frozen=True)
class Check:
    """One part. to: what the node cannot do without it."""

    to: Literal["take", "finish"]
    ask: Callable[[], Answer]


class Listener(Protocol):
    """What the web door needs to know of the SCP."""

    @property
    def listening(self) -> bool:
        """Whether it takes connections."""

    @property
    def associations(self) -> int:
        """How many associations are open."""


@dataclass(frozen=True)
class Watched:
    """The node as the web door sees it.

    packages: ids of the model packages the selection names -> SHA-256 as installed here, None where not.
    destinations: names of the configured destinations; peers: calling AE titles the allow list names.
        Only these stand in metrics by name.
    bell: asks the broker; its connection is not the one intake rings with.
    """

    sessions: sessionmaker[Session]
    spool: Spool
    scp: Listener
    intake_alive: Callable[[], bool] = lambda: True
    packages: Callable[[], Mapping[str, str | None]] = dict
    destinations: Callable[[], Collection[str]] = tuple
    peers: Collection[str] = ()
    backlog_limit: int = 10_000
    max_associations: int = 16
    bell: queue.Bell | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


def checks_of(node: Watched) -> dict[str, Check]:
    """The parts the node needs, by name."""
    parts = _Parts(node)
    take = {
        "database": parts.database,
        "schema": parts.schema,
        "disk": parts.disk,
        "spool": parts.spool,
        "scp": parts.scp,
        "backlog": parts.backlog,
    }
    finish = {"intake": parts.intake, "analyse": parts.analyse, "deliver": parts.deliver}
    if node.bell is not None:
        finish["broker"] = parts.broker
    checks = {name: Check("take", ask) for name, ask in take.items()}
    return checks | {name: Check("finish", ask) for name, ask in finish.items()}


class _Parts:
    """The checks. None raises anything but HipnodeError, which `Answer` turns into its sentence."""

    def __init__(self, node: Watched) -> None:
        self._node = node

    def database(self) -> Answer:
        try:
            with ledger.reading(self._node.sessions) as session:
                session.execute(text("SELECT 1"))
        except HipnodeError as error:
            return Answer(False, f"{error} `hipnode doctor` looks closer.")
        return Answer(True, "The database answers.")

    def schema(self) -> Answer:
        with ledger.reading(self._node.sessions) as session:
            found = MigrationContext.configure(session.connection()).get_current_revision()
        head = migrations.head()
        if found == head:
            return Answer(True, f"The database is at revision {head}, as this version needs it.")
        if found is not None and not migrations.knows(found):
            return Answer(
                True, f"The database is at revision {found}, of a newer version; restart this node on it."
            )
        return Answer(
            False,
            f"The database is at revision {found or 'none'}, this version needs {head}: `hipnode db upgrade`.",
        )

    def disk(self) -> Answer:
        spool = self._node.spool
        try:
            free = spool.free_bytes()
        except OSError:
            return Answer(False, "The spool's file system does not answer.")
        said = f"{free >> 20} MiB free, {spool.low_water_bytes >> 20} MiB are needed"
        if free < spool.low_water_bytes:
            return Answer(False, f"The disk of the spool is full: {said}. C-STORE is refused with A700.")
        return Answer(True, f"The disk of the spool has room: {said}.")

    def spool(self) -> Answer:
        spool = self._node.spool
        if not spool.present:
            return Answer(False, "The spool's folders are gone; is its file system mounted?")
        try:
            with tempfile.TemporaryFile(dir=spool.root / "incoming") as file:
                file.write(b"hipnode")
                file.flush()
        except OSError as error:
            return Answer(False, f"The spool cannot be written: {error.strerror}.")
        return Answer(True, "The spool can be written.")

    def scp(self) -> Answer:
        if self._node.scp.listening:
            return Answer(True, "The SCP listens.")
        return Answer(False, "The SCP does not listen; restart the node.")

    def backlog(self) -> Answer:
        with ledger.reading(self._node.sessions) as session:
            waiting = ledger.backlog(session)
        said = f"{waiting} analyses are unfinished, {self._node.backlog_limit} are allowed"
        if waiting >= self._node.backlog_limit:
            return Answer(False, f"{said}: C-STORE is refused with A700 until there are fewer.")
        return Answer(True, f"{said}.")

    def intake(self) -> Answer:
        if self._node.intake_alive():
            return Answer(True, "Intake closes studies that are complete.")
        return Answer(False, "Intake has ended, no study is closed any more; restart the node.")

    def broker(self) -> Answer:
        bell = self._node.bell
        if bell is None or bell.waiting(queue.ANALYSE) is not None:
            return Answer(True, "The broker answers.")
        return Answer(
            False, "The broker does not answer: workers hear of no new work. See HIPNODE_BROKER_URL."
        )

    def analyse(self) -> Answer:
        node = self._node
        with ledger.reading(node.sessions) as session:
            loaded = ledger.live_packages(session, node.clock())
        if loaded is None:
            return Answer(False, _NOBODY.format(kind="analyse"))
        for id_, sha256 in sorted(node.packages().items()):
            its = {sha for name, sha in loaded if name == id_}
            if not its:
                return Answer(
                    False,
                    f"No living analyse worker has the package {id_}: install it there, restart the worker.",
                )
            if sha256 is not None and sha256 not in its:
                return Answer(
                    False,
                    f"The analyse workers have other weights of the package {id_} than this node: "
                    "restart them, or install the same package.",
                )
        return Answer(True, "An analyse worker lives and has the packages the selection names.")

    def deliver(self) -> Answer:
        node = self._node
        since = node.clock() - timedelta(seconds=WORKER_ALIVE_S)
        with ledger.reading(node.sessions) as session:
            if any(row.kind == "deliver" and row.seen_at >= since for row in ledger.workers(session)):
                return Answer(True, "A deliver worker lives.")
        return Answer(False, _NOBODY.format(kind="deliver"))


def verdict(checks: Mapping[str, Check], answers: Mapping[str, Answer]) -> dict[str, object]:
    """The page's JSON: the whole, and each part."""
    bad = {name for name, answer in answers.items() if not answer.ok}
    takes = not any(checks[name].to == "take" for name in bad)
    finishes = takes and not bad
    status = "ready" if finishes else "degraded" if takes else "not ready"
    says = {
        "ready": "Studies are taken and finished.",
        "degraded": "Studies are taken and kept safely; they are finished when this is mended: ",
        "not ready": "Studies cannot be taken: ",
    }[status]
    first = [name for name in sorted(bad) if takes or checks[name].to == "take"]
    return {
        "status": status,
        "says": says + " ".join(answers[name].says for name in first),
        "takes_studies": takes,
        "finishes_studies": finishes,
        "checks": {
            name: {"ok": answer.ok, "needed_to": checks[name].to, "says": answer.says}
            for name, answer in sorted(answers.items())
        },
    }
