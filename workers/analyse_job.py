"""One bell of the analyse queue: claim what is due, look at it, tell, keep."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import structlog

from hipnode import faults, ledger, queue
from hipnode.children import PERHAPS_NOT_THE_IMAGE
from hipnode.errors import (
    IllegalTransition,
    LedgerDown,
    OutOfResources,
    ReasonedError,
    SelfCheckFailed,
    SpoolMissing,
)
from hipnode.findings import Reason, StudyReading
from hipnode.images import Radiograph
from hipnode.ledger import Claim, Image
from hipnode.logs import about, hashed
from hipnode.packages import ModelPackage
from hipnode.status import Outcome, ReasonCode
from workers.analysis import Detector, DetectorFailed, StudyImage, StudyImages, analyse_each
from workers.leases import Leases
from workers.rooms import LONGEST_JOB_S, NO_ROOM_PAUSE_S, ROUND_S, Rooms, where
from workers.tell import Told, failed_reading, missing, remove, sources_of, tell, whole

logger = structlog.get_logger(__name__)

FAILURES_IN_A_ROW = 5
"""Studies the detector may fail on, one after the other, before the process counts as broken."""


@dataclass(frozen=True)
class Loaded:
    """A package and its network, resident on a device."""

    package: ModelPackage
    detector: Detector


@dataclass(frozen=True, eq=False)
class _Work:
    """One claimed study on its way through the job."""

    claim: Claim
    images: tuple[Image, ...]
    study: StudyImages

    @property
    def pictures(self) -> dict[str, Radiograph]:
        """SOP Instance UID -> what was decoded."""
        return {
            image.sop_instance_uid: image.picture
            for image in self.study.images
            if not isinstance(image.picture, ReasonedError)
        }


@dataclass
class AnalyseJob:
    """Analyses due studies of the packages in `loaded` (id -> package and detector)."""

    rooms: Rooms
    loaded: Mapping[str, Loaded]
    batch_size: int
    detector_failures: int = field(default=0)  #: in a row; at FAILURES_IN_A_ROW the worker should end
    _no_room: bool = field(default=False)  #: results could not be written: this round ends

    @property
    def packages(self) -> dict[str, str]:
        """Package id -> SHA-256 of its weights."""
        return {id_: one.package.sha256 for id_, one in self.loaded.items()}

    @property
    def broken(self) -> bool:
        """Whether the detector fails on everything: a new process may do better."""
        return self.detector_failures >= FAILURES_IN_A_ROW

    def run(self) -> int:
        """Work until nothing is due, or for ROUND_S and then ring again. How many studies were claimed.

        Raises LedgerDown when the database does not answer; leases then run out by themselves.
        """
        taken = 0
        end = time.monotonic() + ROUND_S
        self._no_room = False
        while not (self.rooms.stopping.is_set() or self.broken or self._no_room):
            claims = self._claim()
            if not claims:
                return taken
            taken += len(claims)
            self._work(claims)
            if time.monotonic() > end:
                queue.ring_analyse()
                return taken
        return taken

    def _claim(self) -> list[Claim]:
        rooms, policy = self.rooms, self.rooms.policy
        if not self.loaded:
            return []
        with ledger.transaction(rooms.sessions) as session:
            claims = ledger.claim_analyses(
                session,
                self.packages,
                self.batch_size,
                policy.lease_s,
                rooms.owner,
                rooms.clock(),
                policy.max_attempts,
            )
        for claim in claims:
            with _about(claim):
                logger.info("study.claimed", attempt=claim.attempts, package=claim.package_id)
        return claims

    def _work(self, claims: Sequence[Claim]) -> None:
        rooms, lease_s = self.rooms, self.rooms.policy.lease_s
        faults.point("analyse.claimed")
        extends = {
            claim.analysis_id: lambda session, now, claim=claim: ledger.hold(session, claim, lease_s, now)
            for claim in claims
        }
        subjects = {
            claim.analysis_id: {"study": hashed(claim.study_instance_uid), "analysis_id": claim.analysis_id}
            for claim in claims
        }
        with Leases(rooms.sessions, extends, lease_s, LONGEST_JOB_S, rooms.clock, subjects) as leases:
            start = time.monotonic()
            work = [one for claim in claims if (one := self._look_up(claim)) is not None]
            read_s = time.monotonic() - start
            faults.point("analyse.decoded")
            for package_id in dict.fromkeys(one.claim.package_id for one in work):
                batch = [one for one in work if one.claim.package_id == package_id]
                loaded = self.loaded[package_id or ""]
                start = time.monotonic()
                answers = analyse_each([one.study for one in batch], loaded.detector, loaded.package)
                look_s = time.monotonic() - start
                faults.point("analyse.looked")
                for one, answer in zip(batch, answers, strict=True):
                    if one.claim.analysis_id not in leases.lost:
                        with _about(one.claim):
                            self._finish(one, answer, loaded)
                logger.info(
                    "batch.analysed", studies=len(batch), read_s=round(read_s, 3), look_s=round(look_s, 3)
                )

    def _look_up(self, claim: Claim) -> _Work | None:
        """The claim's images, decoded in killable children; None when that failed and was dealt with."""
        with _about(claim):
            try:
                with ledger.reading(self.rooms.sessions) as session:
                    images = ledger.images_of(session, claim.analysis_id)
                pictures = self._read(images)
            except LedgerDown:
                raise
            except Exception as error:  # noqa: BLE001  # one study must not take its neighbours with it
                self._unexpected(claim, error)
                return None
        study = StudyImages(
            tuple(
                StudyImage(image.sop_instance_uid, picture, image.flags)
                for image, picture in zip(images, pictures, strict=True)
            )
        )
        return _Work(claim, tuple(images), study)

    def _read(self, images: Sequence[Image]) -> list[Radiograph | ReasonedError]:
        rooms = self.rooms
        pictures: list[Radiograph | ReasonedError | None] = []
        for image in images:
            try:
                rooms.spool.verify(image.relative_path, image.sha256)
                pictures.append(None)
            except SpoolMissing as error:
                missing(rooms, image)
                pictures.append(error)
        whole = [image for image, picture in zip(images, pictures, strict=True) if picture is None]
        paths = [rooms.spool.path(image.relative_path) for image in whole]
        decoded = iter(rooms.children.read_radiographs(paths))
        return [next(decoded) if picture is None else picture for picture in pictures]

    def _finish(self, one: _Work, answer: StudyReading | DetectorFailed, loaded: Loaded) -> None:
        """Tell and keep one study's reading; whatever goes wrong ends in the ledger, not here."""
        claim = one.claim
        if isinstance(answer, DetectorFailed):
            self.detector_failures += 1
            self._unexpected(claim, answer)
            return
        self.detector_failures = 0
        if self._worth_another_try(one, answer):
            self._release(claim, answer.reason or Reason.of(ReasonCode.DECODE_LIMIT))
            return
        try:
            self._keep(one, answer, loaded)
        except IllegalTransition:
            logger.warning("lease.lost")
        except LedgerDown:
            raise
        except OutOfResources as error:
            logger.error("results.not_written", why=str(error))  # noqa: TRY400
            self._no_room = True
            self._put_back(claim, str(error))
        except ReasonedError as error:
            self._end_without_results(claim, Reason(error.code, error.sentence))
        except Exception as error:  # noqa: BLE001
            self._unexpected(claim, error)

    def _worth_another_try(self, one: _Work, answer: StudyReading) -> bool:
        """Whether a study of which nothing was read may do better later, on a less busy machine."""
        if answer.outcome is not Outcome.ERROR or one.claim.attempts >= self.rooms.policy.max_attempts:
            return False
        reasons = [image.reason for image in answer.images if image.reason is not None]
        return any(
            reason.code is ReasonCode.DECODE_LIMIT or reason.sentence in PERHAPS_NOT_THE_IMAGE
            for reason in reasons
        )

    def _keep(self, one: _Work, answer: StudyReading, loaded: Loaded) -> None:
        rooms, claim = self.rooms, one.claim
        analysed_at = rooms.clock()
        start = time.monotonic()
        sources = sources_of(rooms, claim, one.images)
        algorithm = loaded.package.algorithm
        try:
            told = tell(rooms, claim, answer, algorithm, sources, one.pictures, analysed_at)
        except SelfCheckFailed as error:
            logger.error("result.check_failed", why=error.sentence)  # noqa: TRY400
            answer = failed_reading(one.images, Reason(error.code, error.sentence))
            told = tell(rooms, claim, answer, algorithm, sources, {}, analysed_at)
        faults.point("analyse.written")
        self._record(claim, answer, told, time.monotonic() - start)

    def _record(self, claim: Claim, answer: StudyReading, told: Told, tell_s: float) -> None:
        rooms = self.rooms
        told_at, now = told.analysed_at, rooms.clock()
        try:
            with ledger.transaction(rooms.sessions) as session:
                recorded = ledger.record_results(
                    session, claim, answer, told.files, told.routes, told_at, now, partial(whole, rooms)
                )
                faults.point("analyse.recording")
        except IllegalTransition:
            remove(rooms, [file.relative_path for file in told.files])
            raise
        faults.point("analyse.recorded")
        remove(rooms, recorded.spare)
        logger.info(
            "study.analysed",
            outcome=answer.outcome.value,
            reason=answer.reason.code.value if answer.reason else None,
            results=len(told.files),
            deliveries=recorded.due,
            tell_s=round(tell_s, 3),
        )
        if recorded.due:
            queue.ring_deliver()

    def _unexpected(self, claim: Claim, error: BaseException) -> None:
        logger.error("analysis.failed", where=where(error))
        self._release(claim, Reason.of(ReasonCode.INTERNAL))

    def _release(
        self, claim: Claim, reason: Reason, pause_s: float | None = None, free_for_s: float = 0.0
    ) -> None:
        """Back to the queue after a pause; when the attempts are used up the notice is due."""
        rooms, policy = self.rooms, self.rooms.policy
        pause_s = policy.retry_s if pause_s is None else pause_s
        try:
            with ledger.transaction(rooms.sessions) as session:
                again = ledger.release(
                    session, claim, reason, rooms.clock(), pause_s, policy.max_attempts, free_for_s
                )
        except IllegalTransition:
            logger.warning("lease.lost")
            return
        logger.info("study.given_back", reason=reason.code.value, again=again)
        if not again:
            queue.ring_deliver()

    def _put_back(self, claim: Claim, why: str) -> None:
        """Back to the queue without counting the attempt, until the study has waited for its deadline."""
        reason = Reason(ReasonCode.INTERNAL, f"The results could not be written. {why}")
        self._release(claim, reason, NO_ROOM_PAUSE_S, self.rooms.policy.analysis_deadline_s)

    def _end_without_results(self, claim: Claim, reason: Reason) -> None:
        """No result can be built, now or later: FAILED with its reason."""
        rooms = self.rooms
        now = rooms.clock()
        try:
            with ledger.transaction(rooms.sessions) as session:
                ledger.release(session, claim, reason, now, 0, 0)
                ledger.fail(session, _Released(claim.analysis_id, claim.fence + 1, claim.owner), reason, now)
        except IllegalTransition:
            logger.warning("lease.lost")
            return
        logger.error("study.failed", reason=reason.code.value, why="without results")


def _about(claim: Claim) -> AbstractContextManager[None]:
    return about(claim.study_instance_uid, analysis_id=claim.analysis_id)


@dataclass(frozen=True)
class _Released:
    """The holder of an analysis just given back in the same transaction (release moves the fence by one)."""

    analysis_id: int
    fence: int
    owner: str
