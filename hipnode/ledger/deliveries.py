"""Deliveries: each result's way to each destination, and how an analysis ends when they have ended."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from hipnode.errors import IllegalTransition
from hipnode.findings import Reason
from hipnode.ledger.events import note
from hipnode.ledger.instances import last_sender
from hipnode.ledger.mover import Before, advance
from hipnode.ledger.records import DeliveryBatch, DeliveryItem, StoreOutcome
from hipnode.status import AnalysisStatus, DeliveryStatus, Outcome, ReasonCode, delivery_sources_of
from hipnode.tables import Analysis, AnalysisDelivery, Delivery, Result, Study

ENDED_WELL = (DeliveryStatus.DELIVERED, DeliveryStatus.COMMITTED)
UNDER_WAY = (DeliveryStatus.DUE, DeliveryStatus.SENDING)

Backoff = Callable[[int], float]
"""Attempts so far (1, 2, ...) -> seconds until the next."""


def exponential(first_s: float, cap_s: float, jitter: Callable[[], float]) -> Backoff:
    """Pauses that double from `first_s` to `cap_s`, each between half and all of that (jitter: 0..1)."""

    def pause(attempts: int) -> float:
        whole = min(cap_s, first_s * 2.0 ** min(attempts - 1, 60))
        return whole * (0.5 + 0.5 * jitter())

    return pause


def move_delivery(
    session: Session,
    delivery_id: int,
    fence: int,
    to: DeliveryStatus,
    who: str,
    now: datetime,
    reason: Reason | None = None,
    values: Mapping[str, Any] | None = None,
) -> bool:
    """Move one delivery, and write the event of it: the one place where a delivery changes its status.

    False when another process moved it since.
    """
    mine = (Delivery.id == delivery_id, Delivery.fence == fence)
    was = session.scalar(select(Delivery.status).where(*mine).with_for_update(key_share=True))
    columns: dict[str, Any] = {"status": to, "updated_at": now, "lease_until": None, "lease_owner": None}
    columns |= {"reason_code": reason.code if reason else None, "reason": reason.sentence if reason else None}
    result_id = session.scalar(
        update(Delivery)
        .where(*mine, Delivery.status.in_(delivery_sources_of(to)))
        .values(columns | dict(values or {}))
        .returning(Delivery.result_id)
        .execution_options(synchronize_session=False)
    )
    if result_id is None:
        return False
    study_id = session.scalar(select(Result.study_id).where(Result.id == result_id))
    note(
        session,
        now,
        who,
        "delivery",
        study_id=study_id,
        delivery_id=delivery_id,
        was=was,
        became=to,
        why=reason,
    )
    return True


def open_delivery(
    session: Session, analysis_id: int, result: Result, destination: str, who: str, now: datetime
) -> DeliveryStatus:
    """Make an analysis wait for a result's delivery: a new one, or the one there is. Its status now.

    One that ended well stays so: an object already delivered is not sent again. One that failed
    is opened again, with the whole time allowed before it.
    """
    row = session.execute(
        select(Delivery.id, Delivery.status, Delivery.fence)
        .where(Delivery.result_id == result.id, Delivery.destination == destination)
        .with_for_update(key_share=True)
    ).one_or_none()
    if row is None:
        delivery = Delivery(
            result_id=result.id,
            destination=destination,
            status=DeliveryStatus.DUE,
            opened_at=now,
            due_at=now,
            updated_at=now,
        )
        session.add(delivery)
        session.flush()
        delivery_id, status = delivery.id, DeliveryStatus.DUE
        note(
            session,
            now,
            who,
            "delivery",
            study_id=result.study_id,
            analysis_id=analysis_id,
            delivery_id=delivery_id,
            became=status,
        )
    else:
        delivery_id, status = row.id, row.status
        if status is DeliveryStatus.FAILED:
            status = DeliveryStatus.DUE
            afresh = {
                "attempts": 0,
                "opened_at": now,
                "due_at": now,
                "fence": row.fence + 1,
                "peer_status": None,
            }
            move_delivery(session, delivery_id, row.fence, status, who, now, values=afresh)
    session.merge(AnalysisDelivery(analysis_id=analysis_id, delivery_id=delivery_id))
    return status


def claim_deliveries(
    session: Session,
    limit: int,
    lease_s: float,
    owner: str,
    now: datetime,
    skip: Collection[str] = (),
) -> list[DeliveryBatch]:
    """Take up to `limit` batches; each is all that is due of one study for one destination.

    The newest results go first: after an outage, today's patients do not wait for yesterday's.
    skip: destinations that are known to be down. The attempt is counted before anything is sent.
    """
    if limit <= 0:
        return []
    wanted = [Delivery.status == DeliveryStatus.DUE, Delivery.due_at <= now]
    if skip:
        wanted.append(Delivery.destination.not_in(list(skip)))
    heads = session.execute(
        select(Result.study_id, Delivery.destination)
        .join(Result, Result.id == Delivery.result_id)
        .where(*wanted)
        .group_by(Result.study_id, Delivery.destination)
        .order_by(func.max(Delivery.opened_at).desc(), Result.study_id)
        .limit(2 * limit)  # another worker may hold some of them
    ).all()
    batches: list[DeliveryBatch] = []
    for study_id, destination in heads:
        rows = session.execute(
            select(Delivery, Result)
            .join(Result, Result.id == Delivery.result_id)
            .where(*wanted, Result.study_id == study_id, Delivery.destination == destination)
            .order_by(Delivery.id)
            .with_for_update(key_share=True, of=Delivery, skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()
        items = [_sending(session, d, r, owner, now, now + timedelta(seconds=lease_s)) for d, r in rows]
        taken = tuple(item for item in items if item is not None)
        if taken:
            analysis_id = _analysis_of(session, taken[-1].delivery_id)
            sender = last_sender(session, study_id)
            uid = session.scalar(select(Study.study_instance_uid).where(Study.id == study_id)) or ""
            batches.append(DeliveryBatch(analysis_id, study_id, uid, destination, owner, taken, *sender))
        if len(batches) == limit:
            break
    return batches


def hold_sending(session: Session, batch: DeliveryBatch, lease_s: float, now: datetime) -> None:
    """Extend the leases of a batch whose transfer takes long. Raises IllegalTransition when all are lost."""
    kept = 0
    for item in batch.items:
        extended = session.scalar(
            update(Delivery)
            .where(
                Delivery.id == item.delivery_id,
                Delivery.fence == item.fence,
                Delivery.status == DeliveryStatus.SENDING,
            )
            .values(lease_until=now + timedelta(seconds=lease_s))
            .returning(Delivery.id)
        )
        kept += extended is not None
    if not kept:
        raise IllegalTransition(f"the leases on the deliveries of study {batch.study_id} are lost")


def _sending(
    session: Session, delivery: Delivery, result: Result, owner: str, now: datetime, lease_until: datetime
) -> DeliveryItem | None:
    fence, attempts = delivery.fence + 1, delivery.attempts + 1
    held = {"fence": fence, "attempts": attempts, "lease_until": lease_until, "lease_owner": owner}
    if not move_delivery(
        session, delivery.id, delivery.fence, DeliveryStatus.SENDING, owner, now, values=held
    ):
        return None
    return DeliveryItem(
        delivery_id=delivery.id,
        fence=fence,
        attempts=attempts,
        kind=result.kind,
        variant=result.variant,
        sop_class_uid=result.sop_class_uid,
        sop_instance_uid=result.sop_instance_uid,
        relative_path=result.relative_path,
        sha256=result.sha256,
    )


def _analysis_of(session: Session, delivery_id: int) -> int:
    latest = select(func.max(AnalysisDelivery.analysis_id)).where(AnalysisDelivery.delivery_id == delivery_id)
    return session.scalar(latest) or 0


def record_outcomes(
    session: Session,
    batch: DeliveryBatch,
    outcomes: Sequence[StoreOutcome],
    now: datetime,
    give_up_s: float,
    backoff: Backoff,
) -> dict[int, AnalysisStatus]:
    """Write what the destination answered, and settle the analyses that waited for it (id -> end).

    An item without an outcome, and one that is to be tried again, is due after `backoff(attempts)`, or
    FAILED with DESTINATION_DOWN once `give_up_s` are over since it was opened. An item whose lease
    went to another worker is left alone.
    """
    said = {outcome.delivery_id: outcome for outcome in outcomes}
    pause = backoff(max(item.attempts for item in batch.items))  # one pause: they go out together again
    for item in batch.items:
        outcome = said.get(item.delivery_id) or StoreOutcome(item.delivery_id, "retry")
        _record_outcome(session, batch, item, outcome, now, give_up_s, pause)
    return _settle_waiting(session, [item.delivery_id for item in batch.items], batch.owner, now)


def _record_outcome(
    session: Session,
    batch: DeliveryBatch,
    item: DeliveryItem,
    outcome: StoreOutcome,
    now: datetime,
    give_up_s: float,
    pause_s: float,
) -> None:
    name, status = batch.destination, outcome.peer_status
    answer = f" (0x{status:04X})" if status is not None else ""
    values: dict[str, Any] = {"peer_status": status}
    reason = None
    if outcome.verdict == "delivered":
        to = DeliveryStatus.DELIVERED
        values |= {"delivered_at": now, "due_at": None}
    elif outcome.verdict == "retry":
        opened_at = session.scalar(select(Delivery.opened_at).where(Delivery.id == item.delivery_id)) or now
        over = now - opened_at >= timedelta(seconds=give_up_s)
        to = DeliveryStatus.FAILED if over else DeliveryStatus.DUE
        sentence = (
            f"{name} did not take the result{answer}; tried {item.attempts} times."
            if over
            else (f"{name} did not take the result{answer}; it is tried again.")
        )
        reason = Reason(ReasonCode.DESTINATION_DOWN, sentence)
        values |= {
            "due_at": None
            if over
            else min(now + timedelta(seconds=pause_s), opened_at + timedelta(seconds=give_up_s))
        }
    else:
        to = DeliveryStatus.FAILED
        values |= {"due_at": None}
        reason = Reason(ReasonCode.DESTINATION_REFUSED, f"{name} refused the result for good{answer}.")
        if outcome.verdict == "unsupported":
            reason = Reason(ReasonCode.KIND_UNSUPPORTED, f"{name} does not take {item.kind}{answer}.")
    if (
        move_delivery(session, item.delivery_id, item.fence, to, batch.owner, now, reason, values)
        and outcome.warning
    ):
        note(
            session,
            now,
            batch.owner,
            "warning",
            study_id=batch.study_id,
            delivery_id=item.delivery_id,
            why=outcome.warning,
        )


def fail_delivery(
    session: Session, batch: DeliveryBatch, delivery_id: int, reason: Reason, now: datetime
) -> dict[int, AnalysisStatus]:
    """SENDING -> FAILED for a cause on our side (SPOOL_MISSING, STALE, ...), and settle."""
    item = next(item for item in batch.items if item.delivery_id == delivery_id)
    move_delivery(
        session, delivery_id, item.fence, DeliveryStatus.FAILED, batch.owner, now, reason, {"due_at": None}
    )
    return _settle_waiting(session, [delivery_id], batch.owner, now)


def record_committed(session: Session, delivery_ids: Sequence[int], who: str, now: datetime) -> int:
    """DELIVERED -> COMMITTED (storage commitment, PS3.4 J). How many moved."""
    moved = 0
    for delivery_id in delivery_ids:
        fence = session.scalar(select(Delivery.fence).where(Delivery.id == delivery_id))
        if fence is not None:
            to = DeliveryStatus.COMMITTED
            moved += move_delivery(session, delivery_id, fence, to, who, now, values={"committed_at": now})
    return moved


def expire_sending(session: Session, now: datetime, lease_s: float) -> int:
    """SENDING -> DUE where the lease ran out (or lies further ahead than any lease reaches)."""
    over = or_(Delivery.lease_until < now, Delivery.lease_until > now + timedelta(seconds=2 * lease_s))
    rows = session.execute(
        select(Delivery.id, Delivery.fence)
        .where(Delivery.status == DeliveryStatus.SENDING, or_(over, Delivery.lease_until.is_(None)))
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    lost = Reason(ReasonCode.WORKER_LOST, "The worker stopped while sending; the result is sent again.")
    for row in rows:
        afresh = {"due_at": now, "fence": row.fence + 1}
        move_delivery(session, row.id, row.fence, DeliveryStatus.DUE, "sweep", now, lost, afresh)
    return len(rows)


def fail_overdue_deliveries(session: Session, now: datetime, after_s: float) -> int:
    """DUE -> FAILED where nobody came to send the result, and settle. How many."""
    rows = session.execute(
        select(Delivery.id, Delivery.fence, Delivery.destination)
        .where(Delivery.status == DeliveryStatus.DUE, Delivery.opened_at <= now - timedelta(seconds=after_s))
        .limit(100)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    for row in rows:
        why = Reason(ReasonCode.DESTINATION_DOWN, f"No worker sent the result to {row.destination} in time.")
        move_delivery(session, row.id, row.fence, DeliveryStatus.FAILED, "sweep", now, why, {"due_at": None})
    _settle_waiting(session, [row.id for row in rows], "sweep", now)
    return len(rows)


def deliveries_due(session: Session, now: datetime) -> int:
    """How many deliveries wait to be sent now."""
    due = (
        select(func.count())
        .select_from(Delivery)
        .where(Delivery.status == DeliveryStatus.DUE, Delivery.due_at <= now)
    )
    return session.scalar(due) or 0


def _settle_waiting(
    session: Session, delivery_ids: Sequence[int], who: str, now: datetime
) -> dict[int, AnalysisStatus]:
    waiting = session.scalars(
        select(Analysis.id)
        .join(AnalysisDelivery, AnalysisDelivery.analysis_id == Analysis.id)
        .where(AnalysisDelivery.delivery_id.in_(delivery_ids), Analysis.status == AnalysisStatus.DELIVERING)
        .distinct()
        .order_by(Analysis.id)
    ).all()
    ends = {analysis_id: settle(session, analysis_id, who, now) for analysis_id in waiting}
    return {analysis_id: end for analysis_id, end in ends.items() if end is not None}


def settle(session: Session, analysis_id: int, who: str, now: datetime) -> AnalysisStatus | None:
    """End a DELIVERING analysis whose deliveries have all ended; None while one is under way.

    COMPLETED when every destination took everything but kinds it does not support, and at least one
    thing; with NO_DESTINATION when nobody was to get anything. FAILED when the outcome is ERROR
    (the notice has gone its way; the reason stays), or when a destination is left without.
    """
    # the lock makes the last of several concurrent deliveries the one that sees them all ended
    row = session.execute(
        select(Analysis.status, Analysis.fence, Analysis.outcome, Analysis.reason_code, Analysis.reason)
        .where(Analysis.id == analysis_id)
        .with_for_update(key_share=True)
    ).one()
    if row.status is not AnalysisStatus.DELIVERING:
        return None
    deliveries = session.execute(
        select(Delivery.destination, Delivery.status, Delivery.reason_code, Delivery.reason)
        .join(AnalysisDelivery, AnalysisDelivery.delivery_id == Delivery.id)
        .where(AnalysisDelivery.analysis_id == analysis_id)
        .order_by(Delivery.id)
    ).all()
    if any(d.status in UNDER_WAY for d in deliveries):
        return None
    holder = Before(analysis_id, row.fence, who)
    if row.outcome is Outcome.ERROR:
        code = row.reason_code or ReasonCode.INTERNAL
        end: AnalysisStatus = AnalysisStatus.FAILED
        reason: Reason | None = Reason(code, row.reason or code.sentence)
    else:
        end, reason = _end(deliveries, row.reason_code)
    try:
        advance(session, holder, end, now, reason)
    except IllegalTransition:
        return None  # another delivery of the same analysis settled it
    return end


def _end(deliveries: Sequence[Any], had: ReasonCode | None) -> tuple[AnalysisStatus, Reason | None]:
    if not deliveries:
        # a reason the look itself gave (PACKAGE_VETO, ...) says more to the reader
        return AnalysisStatus.COMPLETED, Reason.of(ReasonCode.NO_DESTINATION) if had is None else None
    for destination in dict.fromkeys(d.destination for d in deliveries):
        its = [d for d in deliveries if d.destination == destination]
        arrived = any(d.status in ENDED_WELL for d in its)
        bad = [d for d in its if d.status not in ENDED_WELL]
        if arrived:
            bad = [d for d in bad if d.reason_code is not ReasonCode.KIND_UNSUPPORTED]
        if bad:
            code = bad[0].reason_code or ReasonCode.DESTINATION_DOWN
            return AnalysisStatus.FAILED, Reason(code, bad[0].reason or code.sentence)
    return AnalysisStatus.COMPLETED, None
