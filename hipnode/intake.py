"""Intake: closes studies that are complete, and keeps work moving. It runs beside the SCP.

The tick (1 s) finds stable studies, lets selection decide which images are ours, and queues them.
The sweep (10 s) takes back expired leases and rings for whatever is due, so that a lost bell, worker or
broker costs time and never a study.
"""

import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog
from sqlalchemy.orm import Session, sessionmaker

from hipnode import faults, ledger, queue
from hipnode.children import PERHAPS_NOT_THE_IMAGE
from hipnode.errors import (
    IllegalTransition,
    ImageRejected,
    LedgerDown,
    OutOfResources,
    SpoolMissing,
    StoreRefused,
)
from hipnode.findings import Reason
from hipnode.identity import read_identity
from hipnode.ledger import Image, ImageDecision, OpenAnalysis, ReceivedInstance
from hipnode.logs import hashed
from hipnode.selection import Facts, Selection, select_study
from hipnode.spool import Spool, data_set_sha256
from hipnode.status import ReasonCode

logger = structlog.get_logger(__name__)

_AT_ONCE = 100
_LIMIT_TRIES = 3
_TROUBLE_TRIES = 8
_TIDY_EVERY_S = 600.0
_ORPHAN_RESULT_S = 3600.0


class FactsReader(Protocol):
    """Reads header facts in a killable child (hipnode.children.Children)."""

    def read_facts(self, path: Path) -> Facts:
        """Header facts of one stored file. Raises ImageRejected."""


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
        self._sessions, self._spool, self._children = sessions, spool, children
        self._selection, self._packages, self._receiving = selection, packages, receiving
        self._pace, self._clock = pace or Pace(), clock
        self._put_off: dict[int, _PutOff] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Start ticking; `reconcile` is to have run before."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the study under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        sweep_at = tidy_at = time.monotonic()
        while not self._stopping.wait(self._pace.tick_s):
            with _kept_going("tick"):
                self.tick()
            if time.monotonic() >= sweep_at:
                with _kept_going("sweep"):
                    self.sweep()
                sweep_at = time.monotonic() + self._pace.sweep_s
            if time.monotonic() >= tidy_at:
                with _kept_going("tidying"):
                    self._spool.sweep_parts()
                    queue.purge_stale()
                tidy_at = time.monotonic() + _TIDY_EVERY_S

    def tick(self) -> int:
        """Close every study that is stable. How many were queued."""
        pace = self._pace
        if not self._spool.present:
            logger.error("spool missing", path=str(self._spool.root))
            return 0
        with ledger.reading(self._sessions) as session:
            opened = ledger.studies_due_to_close(
                session,
                self._clock(),
                pace.stable_age_s,
                pace.stable_cap_s,
                self._receiving(),
                _AT_ONCE + len(self._put_off),
            )
        self._put_off = {one.analysis_id: p for one in opened if (p := self._put_off.get(one.analysis_id))}
        return sum(self._closed(one) for one in opened if not self._stopping.is_set())

    def _closed(self, one: OpenAnalysis) -> bool:
        """Close one study and ring; trouble with it is its own, and bounded."""
        waits = self._put_off.get(one.analysis_id)
        if waits is not None and time.monotonic() < waits.until:
            return False
        try:
            queued = self._close(one)
        except LedgerDown as error:
            logger.warning("ledger down", analysis=one.analysis_id, why=str(error))
            return False
        except Exception as error:  # noqa: BLE001  whatever it is, the study comes to an end
            _log(error, "closing a study", analysis=one.analysis_id)
            if not self._again(one, _TROUBLE_TRIES):
                with _kept_going("closing a study", analysis=one.analysis_id):
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
            logger.warning("work taken back", leases=report.leases_expired, overdue=report.overdue)
        if report.analyses_due:
            queue.ring_analyse()
        if report.notices_due or report.deliveries_due:
            queue.ring_deliver()
        return report

    def _close(self, opened: OpenAnalysis) -> bool:
        """Queue a stable study, or end it. False when it was not queued."""
        with ledger.reading(self._sessions) as session:
            images = ledger.sources_of_study(session, opened.study_id)
        if not images:
            self._end(opened, Reason.of(ReasonCode.REVISION_CONFLICT))
            return False
        facts, rejected = self._look(images)
        if not facts:
            # a limit that was hit, or a child that was killed, may be the machine's fault and not the file's
            perhaps_not_the_file = any(
                error.code is ReasonCode.DECODE_LIMIT or error.sentence in PERHAPS_NOT_THE_IMAGE
                for error in rejected.values()
            )
            if not perhaps_not_the_file or not self._again(opened, _LIMIT_TRIES):
                first = next(iter(rejected.values()))
                self._end(opened, Reason(first.code, first.sentence))
            return False
        faults.point("intake.looked")
        return self._book(opened, _choose(self._selection, images, facts, rejected))

    def _look(self, images: Sequence[Image]) -> tuple[dict[int, Facts], dict[int, ImageRejected]]:
        """Header facts by instance id, and why the others have none."""
        facts: dict[int, Facts] = {}
        rejected: dict[int, ImageRejected] = {}
        for image in images:
            try:
                facts[image.instance_id] = self._children.read_facts(self._path(image))
            except ImageRejected as error:
                rejected[image.instance_id] = error
        return facts, rejected

    def _path(self, image: Image) -> Path:
        """Where the image lies. Raises ImageRejected, with a note in the books, when it does not."""
        missing = image.missing or not self._spool.holds(image.relative_path)
        if image.missing and image.relative_path:  # it was missed once: is it back, and whole?
            with suppress(SpoolMissing):
                self._spool.verify(image.relative_path, image.sha256)
                missing = False
        if missing != image.missing:
            noted = ledger.mark_missing if missing else ledger.mark_found
            with ledger.transaction(self._sessions) as session:
                noted(session, image.instance_id, "intake", self._clock())
        if missing:
            raise ImageRejected(ReasonCode.SPOOL_MISSING)
        return self._spool.path(image.relative_path)

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
            "study closed",
            study=hashed(opened.study_instance_uid),
            analysis=opened.analysis_id,
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
        logger.warning("study failed", analysis=opened.analysis_id, reason=reason.code.value)


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


@dataclass(frozen=True)
class Reconciled:
    """What `reconcile` did: files put into the books, doubles and orphans removed, lost and found ones."""

    adopted: int = 0
    removed: int = 0
    quarantined: int = 0
    missing: int = 0
    found: int = 0


def reconcile(
    sessions: sessionmaker[Session], spool: Spool, now: datetime, settled_before: datetime | None = None
) -> Reconciled:
    """Make spool and ledger agree, before the SCP listens.

    A file without a row was kept but never acknowledged: it is put into the books, or into quarantine
    when it cannot be read. A row without a file is marked SPOOL_MISSING; sent again, it comes back.
    A result without a row can be built again and is removed after an hour.
    settled_before: files written later are left alone (another node may be writing them); default `now`.
    """
    before = (settled_before or now).timestamp()
    with ledger.reading(sessions) as session:
        kept = {file.relative_path: file for file in ledger.kept_files(session)}
    adopted = removed = quarantined = missing = found = 0
    for path in spool.files("instances"):
        if path not in kept and _written(spool, path) <= before:
            what = _adopt(sessions, spool, path, now)
            adopted, removed = adopted + (what == "adopted"), removed + (what == "removed")
            quarantined += what == "quarantined"
    for path in spool.files("results"):
        if path not in kept and _written(spool, path) <= before - _ORPHAN_RESULT_S:
            spool.remove(path)
            removed += 1
    for file in kept.values():
        if file.instance_id is not None and (noted := _agree(spool, file)):
            with ledger.transaction(sessions) as session:
                noted(session, file.instance_id, "reconcile", now)
            missing, found = missing + (noted is ledger.mark_missing), found + (noted is ledger.mark_found)
    done = Reconciled(adopted, removed, quarantined, missing, found)
    if done != Reconciled():
        logger.warning("spool and ledger reconciled", **done.__dict__)
    return done


def _agree(spool: Spool, file: ledger.KeptFile) -> Callable[[Session, int, str, datetime], None] | None:
    """What is to be noted so that the books agree with the disk; None when they do."""
    if not file.marked_missing:
        return None if spool.holds(file.relative_path) else ledger.mark_missing
    try:
        spool.verify(file.relative_path, file.sha256)
    except SpoolMissing:
        return None
    return ledger.mark_found


def _adopt(sessions: sessionmaker[Session], spool: Spool, path: str, now: datetime) -> str:
    try:
        with spool.data_set(path) as (data_set, transfer_syntax_uid):
            identity, size_bytes = read_identity(data_set, transfer_syntax_uid), len(data_set)
    except (StoreRefused, SpoolMissing):
        return _quarantine(spool, path)
    received = ReceivedInstance(
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        patient_id=identity.patient_id,
        accession_number=identity.accession_number,
        calling_ae_title="",  # the sender had no answer and comes again; then it is known
        peer_address="",
        sha256=data_set_sha256(spool.path(path)),
        size_bytes=size_bytes,
        relative_path=path,
    )
    with ledger.transaction(sessions) as session:
        recorded = ledger.record_instance(session, received, now, spool.holds)
    if recorded.spare is not None:
        spool.remove(recorded.spare)
        return "removed"
    return "adopted"


def _quarantine(spool: Spool, path: str) -> str:
    try:
        spool.quarantine(spool.path(path).read_bytes(), "found in the spool without a row, and not readable")
        spool.remove(path)
    except (OSError, OutOfResources) as error:  # no room now, or no file: studies come in all the same
        logger.warning("file without a row left where it is", path=path, error=type(error).__name__)
        return "left"
    return "quarantined"


def _written(spool: Spool, path: str) -> float:
    try:
        return spool.path(path).stat().st_mtime
    except FileNotFoundError:  # another node was quicker
        return float("inf")


@contextmanager
def _kept_going(what: str, **ids: int) -> Iterator[None]:
    """Trouble with one thing is logged, and the next is done: intake must not end."""
    try:
        yield
    except LedgerDown as error:
        logger.warning("ledger down", at=what, why=str(error), **ids)
    except Exception as error:  # noqa: BLE001  the next tick may do better
        _log(error, what, **ids)


def _log(error: Exception, what: str, **ids: int) -> None:
    """Where an error was raised; its text may hold values of a data set."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    logger.error("intake failed", at=what, error=type(error).__name__, where=place, **ids)
