"""What a diagnosis asks the ledger: growth, failures, times that cannot be, and counts without patients."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hipnode.status import TERMINAL, AnalysisStatus, DeliveryStatus, ReasonCode
from hipnode.tables import Analysis, Delivery, Event, Instance, Result, Role, Worker

RESULTS_LOOKED_AT = 200


@dataclass(frozen=True)
class Growth:
    """What was kept since an instant.

    first_at: the first instance since then. result_paths: of the newest of the `results`, in the spool.
    """

    first_at: datetime | None
    instances: int
    instance_bytes: int
    results: int
    result_paths: tuple[str, ...]


@dataclass(frozen=True)
class BareEvent:
    """An event without its free text: `code` is the reason code its text begins with."""

    at: datetime
    who: str
    what: str
    study_id: int | None
    analysis_id: int | None
    delivery_id: int | None
    was: str | None
    became: str | None
    code: str | None


def growth(session: Session, since: datetime) -> Growth:
    """Files kept since then. Whose bytes were not kept do not count."""
    kept = (Instance.received_at >= since, Instance.relative_path.is_not(None))
    first, count, size = session.execute(
        select(func.min(Instance.received_at), func.count(), func.sum(Instance.size_bytes)).where(*kept)
    ).one()
    built = Result.created_at >= since
    results = session.scalar(select(func.count()).select_from(Result).where(built)) or 0
    newest = select(Result.relative_path).where(built).order_by(Result.id.desc()).limit(RESULTS_LOOKED_AT)
    return Growth(first, count, int(size or 0), results, tuple(session.scalars(newest)))


def ends(session: Session, since: datetime) -> Counter[tuple[AnalysisStatus, str]]:
    """Analyses that ended since then, by status and reason code ("" for none)."""
    rows = session.execute(
        select(Analysis.status, Analysis.reason_code, func.count())
        .where(Analysis.status.in_(sorted(TERMINAL)), Analysis.ended_at >= since)
        .group_by(Analysis.status, Analysis.reason_code)
    )
    return Counter({(status, code.value if code else ""): count for status, code, count in rows})


def arrived(session: Session, since: datetime) -> tuple[datetime | None, Counter[str]]:
    """When the last radiograph came in, ever; and how many objects came in since then, by role."""
    last = session.scalar(select(func.max(Instance.received_at)).where(Instance.role == Role.SOURCE))
    rows = session.execute(
        select(Instance.role, func.count()).where(Instance.received_at >= since).group_by(Instance.role)
    )
    return last, Counter({role.value: count for role, count in rows})


def latest_instant(session: Session) -> datetime | None:
    """The newest instant anybody wrote into events, instances and heartbeats."""
    asked = (func.max(Event.at), func.max(Instance.received_at), func.max(Worker.seen_at))
    found = [session.scalar(select(newest)) for newest in asked]
    return max((at for at in found if at is not None), default=None)


def holders(session: Session, now: datetime) -> set[str]:
    """The workers that hold something now, by name."""
    held: set[str] = set()
    for table, status in ((Analysis, AnalysisStatus.ANALYSING), (Delivery, DeliveryStatus.SENDING)):
        rows = session.scalars(
            select(table.lease_owner).where(table.status == status, table.lease_until >= now).distinct()
        )
        held.update(name for name in rows if name)
    return held


def counts(session: Session) -> dict[str, Any]:
    """How many of everything there are, by status and reason. No UID, no name."""
    analyses = session.execute(
        select(Analysis.status, Analysis.outcome, Analysis.reason_code, Analysis.package_id, func.count())
        .group_by(Analysis.status, Analysis.outcome, Analysis.reason_code, Analysis.package_id)
        .order_by(Analysis.status)
    )
    deliveries = session.execute(
        select(
            Delivery.destination, Delivery.status, Delivery.reason_code, Delivery.peer_status, func.count()
        )
        .group_by(Delivery.destination, Delivery.status, Delivery.reason_code, Delivery.peer_status)
        .order_by(Delivery.destination, Delivery.status)
    )
    instances = session.execute(
        select(Instance.role, Instance.reason_code, Instance.sop_class_uid, func.count())
        .group_by(Instance.role, Instance.reason_code, Instance.sop_class_uid)
        .order_by(Instance.role)
    )
    return {
        "analyses": _rows(analyses, "status", "outcome", "reason", "package", "count"),
        "deliveries": _rows(deliveries, "destination", "status", "reason", "peer_status", "count"),
        "instances": _rows(instances, "role", "reason", "sop_class_uid", "count"),
    }


def last_events(session: Session, limit: int) -> list[BareEvent]:
    """The newest events, latest first."""
    rows = session.scalars(select(Event).order_by(Event.id.desc()).limit(limit))
    return [
        BareEvent(
            e.at, e.who, e.what, e.study_id, e.analysis_id, e.delivery_id, e.was, e.became, _code(e.why)
        )
        for e in rows
    ]


def _code(why: str | None) -> str | None:
    word = (why or "").partition(":")[0]
    return word if word in ReasonCode.__members__ else None


def _rows(found: Any, *names: str) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in found]
