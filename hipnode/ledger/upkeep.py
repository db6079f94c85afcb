"""Upkeep: what the sweep does every few seconds, and the workers' heartbeats."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from hipnode.ledger.analyses import analyses_due, expire_leases
from hipnode.ledger.deliveries import deliveries_due, expire_sending, fail_overdue_deliveries
from hipnode.ledger.notices import fail_overdue_notices, notices_due
from hipnode.ledger.records import Due, SweepReport, WorkerBeat, WorkerRow
from hipnode.status import AnalysisStatus, DeliveryStatus
from hipnode.tables import Analysis, Delivery, Worker


def due(session: Session, now: datetime, max_attempts: int = 3, deadline_s: float = 3600.0) -> Due:
    """What waits now: a worker rings again when it took less than this."""
    return Due(
        analyses_due(session, now, max_attempts),
        notices_due(session, now, max_attempts, deadline_s),
        deliveries_due(session, now),
    )


def sweep(
    session: Session,
    now: datetime,
    lease_s: float = 120.0,
    max_attempts: int = 3,
    deadline_s: float = 3600.0,
    give_up_s: float = 86400.0,
    longest_pause_s: float = 900.0,
) -> SweepReport:
    """Take back leases that ran out, end what is past every deadline, and count what is due.

    Past every deadline: a delivery no worker took within `give_up_s` and an hour, a study whose failure
    notice nobody built within 25 times `deadline_s`. They end here, so that nothing waits for ever.
    longest_pause_s: no back-off is longer; a due_at further ahead comes from a clock that was set back.
    """
    expired = expire_leases(session, now, lease_s) + expire_sending(session, now, lease_s)
    far = now + timedelta(seconds=longest_pause_s)
    session.execute(
        update(Analysis)
        .where(Analysis.status == AnalysisStatus.QUEUED, Analysis.due_at > far)
        .values(due_at=now)
    )
    session.execute(
        update(Delivery)
        .where(Delivery.status == DeliveryStatus.DUE, Delivery.due_at > far)
        .values(due_at=now)
    )
    never = now + timedelta(seconds=2 * lease_s)
    session.execute(  # a notice under way, by that clock; its builder, if it lives, is refused by the fence
        update(Analysis)
        .where(Analysis.status == AnalysisStatus.QUEUED, Analysis.lease_until > never)
        .values(lease_until=None, lease_owner=None, fence=Analysis.fence + 1)
    )
    overdue = fail_overdue_notices(session, now, 25 * deadline_s, max_attempts)
    overdue += fail_overdue_deliveries(session, now, give_up_s + 3600)
    waits = due(session, now, max_attempts, deadline_s)
    return SweepReport(waits.analyses, waits.notices, waits.deliveries, expired, overdue)


def heartbeat(session: Session, beat: WorkerBeat, now: datetime) -> None:
    """Note that a worker lives. Rows of workers unheard of for a day go."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {"kind": beat.kind, "packages": dict(beat.packages), "device": beat.device, "seen_at": now}
    if beat.bell_at is not None:
        values["bell_at"] = beat.bell_at
    session.execute(
        insert(Worker)
        .values(name=beat.name, started_at=now, **values)
        .on_conflict_do_update(index_elements=["name"], set_=values)
    )
    session.execute(delete(Worker).where(Worker.seen_at < now - timedelta(days=1)))


def goodbye(session: Session, name: str) -> None:
    """A worker ends in good order: nobody waits for its package any more."""
    session.execute(delete(Worker).where(Worker.name == name))


def workers(session: Session) -> list[WorkerRow]:
    """The workers as last heard of, latest first."""
    rows = session.execute(
        select(
            Worker.name,
            Worker.kind,
            Worker.packages,
            Worker.device,
            Worker.started_at,
            Worker.seen_at,
            Worker.bell_at,
        ).order_by(Worker.seen_at.desc())
    )
    return [WorkerRow(*row) for row in rows]
