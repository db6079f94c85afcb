"""The tick (1 s) finds stable studies, lets selection decide which images are ours, and queues them.

The sweep (10 s) takes back expired leases and rings for whatever is due, so that a lost bell, worker or
broker costs time and never a study.
"""

import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy.orm import Session, sessionmaker

from hipnode import faults, ledger, queue
from hipnode.children import PERHAPS_NOT_THE_IMAGE
from hipnode.errors import IllegalTransition, ImageRejected, LedgerDown
from hipnode.findings import Reason
from hipnode.intake.looks import FactsReader, Look, Looks
from hipnode.ledger import Image, ImageDecision, OpenAnalysis
from hipnode.logs import about
from hipnode.selection import Facts, Selection, select_study
from hipnode.spool import Spool
from hipnode.status import ReasonCode

logger = structlog.get_logger(__name__)

_AT_ONCE = 100
_LIMIT_TRIES = 3
_TROUBLE_TRIES = 8
_TIDY_EVERY_S = 600.0


@dataclass(frozen=True)
class Pace:
    """How long to wait for what, seconds; see hipnode.settings for each."""

    stable_age_s: float = 10
    stable_cap_s: float = 300
    tick_s: float = 1
    sweep_s: float = 10
    lease_s: float = 120
    max_attempts: int = 3
    deadline_s: float = 3600
    give_up_s: float = 86400
    longest_pause_s: float = 900


class Intake:
    """The thread that ticks and sweeps.

    packages: id -> sha256 of the model packages this machine has; one that it lacks is queued without
        a hash, and the worker that has it pins its own.
    receiving: Study Instance UIDs with a transfer under way, at this moment.
    """

    def __init__(
        self,
        *,
        sessions: sessionmaker[Session],
        spool: Spool,
        children: FactsReader,
        selection: Selection,
        packages: Mapping[str, str],
        receiving: Callable[[], Collection[str]] = frozenset,
        pace: Pace | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sessions, self._spool = sessions, spool
        self._selection, self._packages, self._receiving = selection, packages, receiving
        self._pace, self._clock = pace or Pace(), clock
        self._put_off: dict[int, _PutOff] = {}
        self._looks = Looks(sessions, spool, children, self._clock)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Start ticking; `reconcile` is to have run before."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the study under way; headers that are still read are left to the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._looks.stop()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        sweep_at = tidy_at = time.monotonic()
        while not self._stopping.wait(self._pace.tick_s):
            with _kept_going("tick"):
                self.tick(self._pace.tick_s)
            if time.monotonic() >= sweep_at:
                with _kept_going("sweep"):
                    self.sweep()
                sweep_at = time.monotonic() + self._pace.sweep_s
            if time.monotonic() >= tidy_at:
                with _kept_going("tidying"):
                    self._spool.sweep_parts()
                    queue.purge_stale()
                tidy_at = time.monotonic() + _TIDY_EVERY_S

    def tick(self, patience_s: float | None = None) -> int:
        """Close every study that is stable. How many were queued.

        patience_s: how long to wait for headers; a study whose files take longer is closed by a later
            tick. None: as long as they take.
        """
        pace = self._pace
        if not self._spool.present:
            logger.error("spool.missing", path=str(self._spool.root))
            return 0
        with ledger.reading(self._sessions) as session:
            opened = ledger.studies_due_to_close(
                session,
                self._clock(),
                pace.stable_age_s,
                pace.stable_cap_s,
                self._receiving(),
                _AT_ONCE + len(self._put_off) + len(self._looks),
            )
        self._put_off = {one.analysis_id: p for one in opened if (p := self._put_off.get(one.analysis_id))}
        looks = {self._looks.of(one): one for one in opened if not self._waits(one)}
        queued = 0
        with suppress(TimeoutError):
            for look in as_completed(looks, patience_s):
                if self._stopping.is_set():
                    break
                queued += self._closed(looks[look], look)
        self._looks.forget({one.analysis_id for one in opened})
        return queued

    def _waits(self, one: OpenAnalysis) -> bool:
        put_off = self._put_off.get(one.analysis_id)
        return put_off is not None and time.monotonic() < put_off.until

    def _closed(self, one: OpenAnalysis, look: Future[Look]) -> bool:
        """Close one study that was looked at, and ring; trouble with it is its own, and bounded."""
        one = replace(self._looks.take(one.analysis_id), over=one.over)
        with about(one.study_instance_uid, analysis_id=one.analysis_id):
            try:
                queued = self._close(one, look.result())
            except LedgerDown as error:
                logger.warning("ledger.down", why=str(error))
                return False
            except Exception as error:  # noqa: BLE001  whatever it is, the study comes to an end
                _log(error, "closing a study")
                if not self._again(one, _TROUBLE_TRIES):
                    with _kept_going("closing a study"):
                        self._end(one, Reason.of(ReasonCode.INTERNAL))
                return False
        if queued:
            queue.ring_analyse()
        return queued

    def _again(self, one: OpenAnalysis, tries: int) -> bool:
        """Put a study off, longer each time; False when it was tried often enough."""
        done = self._put_off[one.analysis_id].tries + 1 if one.analysis_id in self._put_off else 1
        self._put_off[one.analysis_id] = _PutOff(done, time.monotonic() + self._pace.tick_s * 2**done)
        return done < tries

    def sweep(self) -> ledger.SweepReport:
        """Take back expired leases, end what is past every deadline, ring for what is due."""
        pace = self._pace
        with ledger.transaction(self._sessions) as session:
            report = ledger.sweep(
                session,
                self._clock(),
                pace.lease_s,
                pace.max_attempts,
                pace.deadline_s,
                pace.give_up_s,
                pace.longest_pause_s,
            )
        if report.leases_expired or report.overdue:
            logger.warning("work.taken_back", leases=report.leases_expired, overdue=report.overdue)
        if report.analyses_due:
            queue.ring_analyse()
        if report.notices_due or report.deliveries_due:
            queue.ring_deliver()
        return report

    def _close(self, opened: OpenAnalysis, look: Look) -> bool:
        """Queue a stable study, or end it. False when it was not queued."""
        if not look.images:
            self._end(opened, Reason.of(ReasonCode.REVISION_CONFLICT))
            return False
        # a limit that was hit, or a child that was killed, may be the machine's fault and not the file's
        perhaps_not_the_file = any(
            error.code is ReasonCode.DECODE_LIMIT or error.sentence in PERHAPS_NOT_THE_IMAGE
            for error in look.rejected.values()
        )
        unsure = not look.whole or (not look.facts and perhaps_not_the_file)
        if unsure and self._again(opened, _LIMIT_TRIES):
            return False
        if not look.facts:
            first = next(iter(look.rejected.values()))
            self._end(opened, Reason(first.code, first.sentence))
            return False
        faults.point("intake.looked")
        return self._book(opened, _choose(self._selection, look.images, look.facts, look.rejected))

    def _book(self, opened: OpenAnalysis, chosen: "_Chosen") -> bool:
        now = self._clock()
        try:
            with ledger.transaction(self._sessions) as session:
                if not chosen.packages:
                    ledger.end_not_applicable(session, opened, chosen.reason, chosen.decisions, now)
                seen = [decision.instance_id for decision in chosen.decisions]
                for number, package_id in enumerate(chosen.packages):
                    sha256, mine = self._packages.get(package_id), chosen.for_package(package_id)
                    if number:
                        ledger.queue_sibling(session, opened, package_id, sha256, mine, now)
                    else:
                        ledger.queue_analysis(session, opened, package_id, sha256, mine, now, seen)
        except IllegalTransition:  # an image came meanwhile, or another node was quicker
            return False
        faults.point("intake.booked")
        logger.info(
            "study.closed",
            images=len(chosen.decisions),
            packages=chosen.packages,
            reason=None if chosen.packages else chosen.reason.code.value,
        )
        return bool(chosen.packages)

    def _end(self, opened: OpenAnalysis, reason: Reason) -> None:
        try:
            with ledger.transaction(self._sessions) as session:
                ledger.fail(session, opened, reason, self._clock())
        except IllegalTransition:
            return
        logger.warning("study.failed", reason=reason.code.value)


@dataclass(frozen=True)
class _PutOff:
    """A study that could not be closed: how often, and when (monotonic) it is its turn again."""

    tries: int
    until: float


@dataclass(frozen=True)
class _Chosen:
    """What becomes of a study: its images' decisions, and which packages look at which (in order)."""

    decisions: tuple[ImageDecision, ...]
    package_of: Mapping[int, str]  #: instance id -> package id, kept images only
    packages: tuple[str, ...]
    reason: Reason  #: of the study, where no image is kept

    def for_package(self, package_id: str) -> list[ImageDecision]:
        """The decisions as one package's analysis keeps them: what others read is not its own."""
        return [d for d in self.decisions if self.package_of.get(d.instance_id, package_id) == package_id]


def _choose(
    selection: Selection,
    images: Sequence[Image],
    facts: Mapping[int, Facts],
    rejected: Mapping[int, ImageRejected],
) -> _Chosen:
    """Decide image by image, then over the study.

    An image whose header cannot be read is nobody's to leave out in silence: it is selected, and its
    analysis says why it was not read. That needs another image of the study that is ours.
    """
    readable = [image for image in images if image.instance_id in facts]
    films = [(facts[image.instance_id], selection.decide(facts[image.instance_id])) for image in readable]
    study = select_study(films)
    package_of = {readable[i].instance_id: study.decisions[i].package for i in study.kept}
    decisions = [
        ImageDecision(image.instance_id, d.decision, d.rule, d.reason, (*d.flags, *image.flags))
        for image, d in zip(readable, study.decisions, strict=True)
    ]
    packages = tuple(dict.fromkeys(package_of.values()))
    for instance_id, error in rejected.items():
        if packages:
            package_of[instance_id] = packages[0]
        why = Reason(error.code, error.sentence)
        decisions.append(
            ImageDecision(instance_id, "analyse" if packages else "skip", "header not readable", why)
        )
    reason = study.reason or Reason.of(ReasonCode.NOT_A_RADIOGRAPH)
    return _Chosen(tuple(decisions), package_of, packages, reason)


@contextmanager
def _kept_going(what: str) -> Iterator[None]:
    """Trouble with one thing is logged, and the next is done: intake must not end."""
    try:
        yield
    except LedgerDown as error:
        logger.warning("ledger.down", at=what, why=str(error))
    except Exception as error:  # noqa: BLE001  the next tick may do better
        _log(error, what)


def _log(error: Exception, what: str) -> None:
    """Where an error was raised; its text may hold values of a data set."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    logger.error("intake.failed", at=what, error=type(error).__name__, where=place)
