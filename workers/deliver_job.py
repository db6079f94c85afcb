"""One bell of the deliver queue: failure notices that are due, then results to their destinations."""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.orm import Session

from hipnode import faults, ledger, queue, scu
from hipnode.destinations import Destination, Sender
from hipnode.errors import IllegalTransition, LedgerDown, OutOfResources, ReasonedError, SpoolMissing
from hipnode.findings import Algorithm, Reason
from hipnode.ledger import Claim, DeliveryBatch, DeliveryItem, StoreOutcome
from hipnode.logs import about, hashed
from hipnode.packages import ModelPackage
from hipnode.scu import Outgoing, Timeouts, Verdict
from hipnode.status import AnalysisStatus, ReasonCode
from workers.leases import Leases
from workers.rooms import LONGEST_JOB_S, NO_ROOM_PAUSE_S, ROUND_S, Rooms, where
from workers.tell import failed_reading, remove, sources_of, tell, whole

logger = structlog.get_logger(__name__)

AT_ONCE_PER_DESTINATION = 2
"""Associations one process keeps open to one destination at the same time."""


@dataclass
class DeliverJob:
    """Builds failure notices and sends results. Several threads may run one job.

    packages: what is known of the model packages, so that a notice can name the one that was pinned;
        their weights are not needed.
    """

    rooms: Rooms
    packages: Mapping[str, ModelPackage] = field(default_factory=dict)
    jitter: Callable[[], float] = random.random
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _under_way: Counter[str] = field(default_factory=Counter)
    _silent_since: dict[str, datetime] = field(default_factory=dict)  #: destination -> its last silence

    def run(self) -> int:
        """Work until nothing is due, or for ROUND_S and then ring again. How many things were done.

        Raises LedgerDown when the database does not answer; leases then run out by themselves.
        """
        done = 0
        end = time.monotonic() + ROUND_S
        while not self.rooms.stopping.is_set():
            worked = self._notices() + self._deliveries()
            if not worked:
                return done
            done += worked
            if time.monotonic() > end:
                queue.ring_deliver()
                return done
        return done

    # --- Failure notices -----------------------------------------------------------------------

    def _notices(self) -> int:
        rooms, policy = self.rooms, self.rooms.policy
        with ledger.transaction(rooms.sessions) as session:
            claims = ledger.claim_notices(
                session,
                1,
                policy.lease_s,
                rooms.owner,
                rooms.clock(),
                policy.max_attempts,
                policy.analysis_deadline_s,
            )
        for claim in claims:
            faults.point("notice.claimed")
            with about(claim.study_instance_uid, analysis_id=claim.analysis_id):
                self._try_notice(claim)
        return len(claims)

    def _try_notice(self, claim: Claim) -> None:
        try:
            self._notice(claim)
        except IllegalTransition:
            logger.warning("lease.lost")
        except LedgerDown:
            raise
        except OutOfResources as error:
            self._put_back(claim, str(error))
        except ReasonedError as error:
            self._end_without_notice(claim, error)
        except Exception as error:  # noqa: BLE001  # the lease runs out; the ledger bounds the tries
            logger.error("notice.failed", where=where(error))  # noqa: TRY400

    def _notice(self, claim: Claim) -> None:
        rooms = self.rooms
        reason = claim.reason or Reason.of(ReasonCode.WORKER_LOST)
        with ledger.reading(rooms.sessions) as session:
            images = ledger.images_of(session, claim.analysis_id)
        reading = failed_reading(images, reason)
        sources = sources_of(rooms, claim, images)
        told = tell(rooms, claim, reading, self._algorithm(claim), sources, {}, rooms.clock())
        faults.point("notice.written")
        told_at, now = told.analysed_at, rooms.clock()
        try:
            with ledger.transaction(rooms.sessions) as session:
                recorded = ledger.record_results(
                    session, claim, reading, told.files, told.routes, told_at, now, partial(whole, rooms)
                )
        except IllegalTransition:
            remove(rooms, [file.relative_path for file in told.files])
            raise
        remove(rooms, recorded.spare)
        logger.warning(
            "notice.written",
            reason=reason.code.value,
            deliveries=recorded.due,
        )

    def _algorithm(self, claim: Claim) -> Algorithm | None:
        """What the analysis was pinned to. Weights that lie here under the same id now are not what it was."""
        if claim.package_id is None:
            return None
        package = self.packages.get(claim.package_id)
        if package is not None and package.sha256 == claim.package_sha256:
            return package.algorithm
        return Algorithm(
            name=claim.package_id,
            version="",
            manufacturer="",
            package_id=claim.package_id,
            sha256=claim.package_sha256 or "",
            classes=(),
        )

    def _put_back(self, claim: Claim, why: str) -> None:
        """The notice waits for room on the disk."""
        rooms = self.rooms
        logger.error("notice.not_written", why=why)
        try:
            with ledger.transaction(rooms.sessions) as session:
                ledger.release_notice(session, claim, rooms.clock(), NO_ROOM_PAUSE_S)
        except IllegalTransition:
            logger.warning("lease.lost")

    def _end_without_notice(self, claim: Claim, error: ReasonedError) -> None:
        """FAILED at once: there is nothing a notice could be built from."""
        rooms = self.rooms
        # A lost file is what the site has to mend; any other trouble adds nothing to the first reason.
        own = error.code is ReasonCode.SPOOL_MISSING or claim.reason is None
        reason = Reason(error.code, error.sentence) if own else claim.reason
        try:
            with ledger.transaction(rooms.sessions) as session:
                ledger.fail(session, claim, reason or Reason.of(error.code), rooms.clock())
        except IllegalTransition:
            logger.warning("lease.lost")
            return
        logger.error("study.failed", reason=error.code.value, why="without a notice")

    # --- Deliveries ----------------------------------------------------------------------------

    def _deliveries(self) -> int:
        rooms = self.rooms
        with self._lock:
            busy = [name for name, count in self._under_way.items() if count >= AT_ONCE_PER_DESTINATION]
            with ledger.transaction(rooms.sessions) as session:
                batches = ledger.claim_deliveries(
                    session, 1, rooms.policy.lease_s, rooms.owner, rooms.clock(), busy
                )
            self._under_way.update(batch.destination for batch in batches)
        for batch in batches:
            try:
                with about(
                    batch.study_instance_uid, analysis_id=batch.analysis_id, destination=batch.destination
                ):
                    self._deliver(batch)
            finally:
                with self._lock:
                    self._under_way[batch.destination] -= 1
        return len(batches)

    def _deliver(self, batch: DeliveryBatch) -> None:
        faults.point("deliver.claimed")
        rooms, lease_s = self.rooms, self.rooms.policy.lease_s
        ready = tuple(item for item in batch.items if self._whole(batch, item))
        if not ready:
            return
        batch = replace(batch, items=ready)  # the others have ended

        def extend(session: Session, now: datetime) -> None:
            ledger.hold_sending(session, batch, lease_s, now)

        key = ready[0].delivery_id
        subject = {"study": hashed(batch.study_instance_uid), "destination": batch.destination}
        with Leases(rooms.sessions, {key: extend}, lease_s, LONGEST_JOB_S, rooms.clock, {key: subject}):
            outcomes = self._send(batch)
            faults.point("deliver.sent")
            self._record(batch, outcomes)
        faults.point("deliver.recorded")

    def _whole(self, batch: DeliveryBatch, item: DeliveryItem) -> bool:
        """Whether the result's file is there and unchanged; where it is not, its delivery ends."""
        rooms = self.rooms
        try:
            rooms.spool.verify(item.relative_path, item.sha256)
        except SpoolMissing as error:
            with ledger.transaction(rooms.sessions) as session:
                reason = Reason(error.code, "The result's file is missing or changed; replay the study.")
                ledger.fail_delivery(session, batch, item.delivery_id, reason, rooms.clock())
            logger.error("result.missing", delivery_id=item.delivery_id)  # noqa: TRY400
            return False
        return True

    def _send(self, batch: DeliveryBatch) -> list[scu.StoreOutcome]:
        rooms = self.rooms
        destination = self._destination(batch)
        if destination is None:
            logger.warning("destination.unknown", why="it is not in destinations.toml")
            return [scu.StoreOutcome(item.delivery_id, Verdict.RETRY) for item in batch.items]
        if self._resting(batch.destination):
            # It did not answer a moment ago: the pause counts, and no thread waits for it again.
            return [scu.StoreOutcome(item.delivery_id, Verdict.RETRY) for item in batch.items]
        outgoing = [Outgoing(item.delivery_id, rooms.spool.path(item.relative_path)) for item in batch.items]
        outcomes = scu.send(
            outgoing,
            destination.remote,
            rooms.installation.ae_title,
            timeouts=Timeouts(dimse_s=rooms.policy.dimse_timeout_s),
            budget_s=LONGEST_JOB_S / 2,
        )
        silent = all(one.verdict is Verdict.RETRY and one.peer_status is None for one in outcomes)
        if silent:
            why = outcomes[0].detail
            logger.warning("destination.silent", why=why)
            with self._lock:
                self._silent_since[batch.destination] = rooms.clock()
        return outcomes

    def _destination(self, batch: DeliveryBatch) -> Destination | None:
        known = self.rooms.destinations.named(batch.destination)
        return known.of_sender(Sender(batch.calling_ae_title, batch.peer_address)) if known else None

    def _resting(self, name: str) -> bool:
        with self._lock:
            silent_since = self._silent_since.get(name)
        if silent_since is None:
            return False
        # A clock that was set back must not make a pause of hours.
        pause_s = (self.rooms.clock() - silent_since).total_seconds()
        return 0 <= pause_s < self.rooms.policy.delivery_retry_s

    def _record(self, batch: DeliveryBatch, outcomes: list[scu.StoreOutcome]) -> None:
        rooms, policy = self.rooms, self.rooms.policy
        backoff = ledger.exponential(policy.delivery_retry_s, policy.delivery_retry_cap_s, self.jitter)
        said = [
            StoreOutcome(one.delivery_id, one.verdict.value, one.peer_status, one.warning) for one in outcomes
        ]
        with ledger.transaction(rooms.sessions) as session:
            ends = ledger.record_outcomes(
                session, batch, said, rooms.clock(), policy.delivery_give_up_s, backoff
            )
        for analysis_id, status in ends.items():
            level = logging.WARNING if status is AnalysisStatus.FAILED else logging.INFO
            logger.log(level, "analysis.ended", analysis_id=analysis_id, status=status.value)
