"""Failure notices: which analyses no worker will finish, and whose turn it is to say so."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, not_, or_, update
from sqlalchemy.orm import Session

from hipnode.errors import IllegalTransition
from hipnode.findings import Reason
from hipnode.ledger.analyses import WORKER_ALIVE_S, as_claim, asks_for, candidates, how_many, live_packages
from hipnode.ledger.mover import Before, advance
from hipnode.ledger.records import Claim
from hipnode.status import AnalysisStatus, ReasonCode
from hipnode.tables import Analysis


def claim_notices(
    session: Session,
    limit: int,
    lease_s: float,
    owner: str,
    now: datetime,
    max_attempts: int = 3,
    deadline_s: float = 3600.0,
    no_package_after_s: float = WORKER_ALIVE_S,
) -> list[Claim]:
    """Take QUEUED analyses that no worker will finish; their failure notice is to be built and sent.

    That is: the attempts are used up; or no living worker has its package, and it waited `deadline_s`,
    or `no_package_after_s` when analyse workers live that have others; or it waited 24 times
    `deadline_s` in spite of workers that could (a long queue alone is no failure). An analysis whose
    notice could not be built `max_attempts` times becomes FAILED here, without one.
    """
    if limit <= 0:
        return []
    known = live_packages(session, now)
    rows = session.execute(
        _unfinishable(now, max_attempts, deadline_s, no_package_after_s, known)
        .order_by(Analysis.queued_at, Analysis.id)
        .limit(limit)
    ).all()
    claims = []
    for row in rows:
        if row.notice_attempts >= max_attempts:
            advance(
                session,
                Before(row.id, row.fence, owner),
                AnalysisStatus.FAILED,
                now,
                _why(row, max_attempts, known),
            )
            continue
        reason = _why(row, max_attempts, known)
        claim = as_claim(
            session, row, row.attempts, owner, now + timedelta(seconds=lease_s), row.package_sha256, reason
        )
        session.execute(
            update(Analysis)
            .where(Analysis.id == row.id, Analysis.fence == row.fence)
            .values(
                fence=claim.fence,
                notice_attempts=row.notice_attempts + 1,
                lease_until=claim.lease_until,
                lease_owner=owner,
            )
        )
        claims.append(claim)
    return claims


def release_notice(session: Session, claim: Claim, now: datetime, pause_s: float) -> None:
    """Give a notice back that could not be built for want of room on the disk; the try does not count.

    The sweep ends what was never built, however often this happened. Raises IllegalTransition when the
    claim is lost.
    """
    given_back = session.scalar(
        update(Analysis)
        .where(
            Analysis.id == claim.analysis_id,
            Analysis.fence == claim.fence,
            Analysis.status == AnalysisStatus.QUEUED,
        )
        .values(
            fence=claim.fence + 1,
            notice_attempts=Analysis.notice_attempts - 1,
            lease_until=None,
            lease_owner=None,
            due_at=now + timedelta(seconds=pause_s),
        )
        .returning(Analysis.id)
    )
    if given_back is None:
        raise IllegalTransition(f"the notice of analysis {claim.analysis_id} is another's now")


def fail_overdue_notices(session: Session, now: datetime, after_s: float, max_attempts: int) -> int:
    """QUEUED -> FAILED, without a notice, where nobody came to build one. How many."""
    known = live_packages(session, now)
    rows = session.execute(
        candidates(now).where(Analysis.queued_at <= now - timedelta(seconds=after_s)).limit(100)
    ).all()
    for row in rows:
        why = _why(row, max_attempts, known)
        advance(session, Before(row.id, row.fence, "sweep"), AnalysisStatus.FAILED, now, why)
    return len(rows)


def notices_due(
    session: Session,
    now: datetime,
    max_attempts: int = 3,
    deadline_s: float = 3600.0,
    no_package_after_s: float = WORKER_ALIVE_S,
) -> int:
    """How many failure notices wait to be built now."""
    known = live_packages(session, now)
    return how_many(
        session, _unfinishable(now, max_attempts, deadline_s, no_package_after_s, known, lock=False)
    )


def _unfinishable(
    now: datetime,
    max_attempts: int,
    deadline_s: float,
    no_package_after_s: float,
    known: set[tuple[str, str]] | None,
    lock: bool = True,
) -> Select[*tuple[Any, ...]]:
    patience_s = deadline_s if known is None else min(no_package_after_s, deadline_s)
    waited = Analysis.queued_at <= now - timedelta(seconds=patience_s)
    why = [
        Analysis.attempts >= max_attempts,
        and_(not_(asks_for(known)), waited) if known else waited,
        Analysis.queued_at <= now - timedelta(seconds=24 * deadline_s),
    ]
    return candidates(now, lock).where(or_(*why))


def _why(row: Any, max_attempts: int, known: set[tuple[str, str]] | None) -> Reason:
    if row.attempts >= max_attempts:
        code = row.reason_code or ReasonCode.WORKER_LOST
        return Reason(code, row.reason or code.sentence)
    if any(id_ == row.package_id and row.package_sha256 in (sha256, None) for id_, sha256 in known or ()):
        return Reason(ReasonCode.WORKER_LOST, "No worker finished the study in the time allowed.")
    return Reason(
        ReasonCode.NO_PACKAGE, f"No worker has the model package {row.package_id}; install it and replay."
    )
