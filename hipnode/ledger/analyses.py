"""Analyses: the one mover of their status, and what workers claim and give back."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, false, func, or_, select, update
from sqlalchemy.orm import Session

from hipnode.errors import IllegalTransition
from hipnode.findings import Reason
from hipnode.ledger.events import note
from hipnode.ledger.instances import last_sender, open_analysis, sources_of_study
from hipnode.ledger.mover import Before, advance
from hipnode.ledger.records import Claim, Holder, Image, ImageDecision, OpenAnalysis
from hipnode.status import TERMINAL, AnalysisStatus, ReasonCode
from hipnode.tables import Analysis, AnalysisImage, Instance, Study, Worker

WORKER_ALIVE_S = 60.0
"""A worker whose last heartbeat is older than this counts as gone."""


def studies_due_to_close(
    session: Session,
    now: datetime,
    stable_age_s: float,
    stable_cap_s: float,
    held: Collection[str] = (),
    limit: int = 100,
) -> list[OpenAnalysis]:
    """Analyses whose study is stable: nothing new for `stable_age_s`, or open for `stable_cap_s`.

    held: Study Instance UIDs with a transfer under way; they wait, up to the cap.
    An instant in the future (the clock was set back) counts as long past, so that nothing waits for it.
    """
    age, cap = timedelta(seconds=stable_age_s), timedelta(seconds=stable_cap_s)
    quiet = or_(Analysis.last_instance_at <= now - age, Analysis.last_instance_at > now + age)
    if held:
        quiet = and_(quiet, Study.study_instance_uid.not_in(list(held)))
    over = or_(Analysis.receiving_since <= now - cap, Analysis.receiving_since > now + cap)
    rows = session.execute(
        select(
            Analysis.id, Analysis.study_id, Study.study_instance_uid, Analysis.number, Analysis.fence, over
        )
        .join(Study, Study.id == Analysis.study_id)
        .where(Analysis.status == AnalysisStatus.RECEIVING, or_(quiet, over))
        .order_by(Analysis.last_instance_at, Analysis.id)
        .limit(limit)
    )
    return [OpenAnalysis(*row) for row in rows]


def queue_analysis(
    session: Session,
    opened: OpenAnalysis,
    package_id: str,
    package_sha256: str | None,
    decisions: Sequence[ImageDecision],
    now: datetime,
    seen: Collection[int] = (),
) -> None:
    """RECEIVING -> QUEUED: pin the package and the images, due now.

    package_sha256 None: this process does not have the package; the worker that claims pins its own.
    Raises IllegalTransition when an image came since `opened` was read: the study is not stable. With
    `opened.over` it is closed all the same, and the next number opened for what came.
    seen: ids of instances looked at that have no decision here, because another package reads them.
    """
    if opened.over:
        opened = _as_it_is(session, opened)
    advance(
        session,
        opened,
        AnalysisStatus.QUEUED,
        now,
        values={"package_id": package_id, "package_sha256": package_sha256, "queued_at": now, "due_at": now},
    )
    _keep_decisions(session, opened.analysis_id, decisions)
    if opened.over:
        _open_for_late(session, opened, {*seen, *(d.instance_id for d in decisions)}, now)


def _as_it_is(session: Session, opened: OpenAnalysis) -> OpenAnalysis:
    session.execute(select(Study.id).where(Study.id == opened.study_id).with_for_update(key_share=True))
    still = (Analysis.id == opened.analysis_id, Analysis.status == AnalysisStatus.RECEIVING)
    fence = session.scalar(select(Analysis.fence).where(*still))
    if fence is None:
        raise IllegalTransition(f"analysis {opened.analysis_id} is closed already")
    return replace(opened, fence=fence)


def _open_for_late(session: Session, opened: OpenAnalysis, decided: Collection[int], now: datetime) -> None:
    if any(image.instance_id not in decided for image in sources_of_study(session, opened.study_id)):
        open_analysis(
            session, opened.study_id, opened.owner, now, why="images came while the study was closed"
        )


def queue_sibling(
    session: Session,
    opened: OpenAnalysis,
    package_id: str,
    package_sha256: str | None,
    decisions: Sequence[ImageDecision],
    now: datetime,
) -> int:
    """A second package looks at the same images: another analysis with the same number, QUEUED. Its id."""
    sibling = Analysis(
        study_id=opened.study_id,
        number=opened.number,
        package_id=package_id,
        package_sha256=package_sha256,
        status=AnalysisStatus.QUEUED,
        receiving_since=now,
        last_instance_at=now,
        queued_at=now,
        due_at=now,
        created_at=now,
        updated_at=now,
    )
    session.add(sibling)
    session.flush()
    note(
        session,
        now,
        opened.owner,
        "analysis",
        study_id=opened.study_id,
        analysis_id=sibling.id,
        became=AnalysisStatus.QUEUED,
        why=f"package {package_id} looks as well",
    )
    _keep_decisions(session, sibling.id, decisions)
    return sibling.id


def end_not_applicable(
    session: Session,
    holder: Holder,
    reason: Reason,
    decisions: Sequence[ImageDecision],
    now: datetime,
) -> None:
    """RECEIVING or ANALYSING -> NOT_APPLICABLE: no image of the study is one we read.

    Images that came meanwhile: see `queue_analysis`.
    """
    if isinstance(holder, OpenAnalysis) and holder.over:
        holder = _as_it_is(session, holder)
    advance(session, holder, AnalysisStatus.NOT_APPLICABLE, now, reason)
    _keep_decisions(session, holder.analysis_id, decisions)
    if isinstance(holder, OpenAnalysis) and holder.over:
        _open_for_late(session, holder, {d.instance_id for d in decisions}, now)


def fail(session: Session, holder: Holder, reason: Reason, now: datetime) -> None:
    """RECEIVING, QUEUED or DELIVERING -> FAILED with no notice: there is nothing one could be built from."""
    advance(session, holder, AnalysisStatus.FAILED, now, reason)


def _keep_decisions(session: Session, analysis_id: int, decisions: Sequence[ImageDecision]) -> None:
    session.execute(delete(AnalysisImage).where(AnalysisImage.analysis_id == analysis_id))
    session.add_all(
        AnalysisImage(
            analysis_id=analysis_id,
            instance_id=d.instance_id,
            decision=d.decision,
            rule=d.rule[:128],
            flags=[[f.code.value, f.sentence] for f in d.flags],
            reason_code=d.reason.code,
            reason=d.reason.sentence,
        )
        for d in decisions
    )
    session.flush()


def images_of(session: Session, analysis_id: int) -> list[Image]:
    """The images selected for an analysis, in order of arrival. Bytes: the revision pinned on QUEUED."""
    rows = session.execute(
        select(
            Instance.id,
            Instance.sop_instance_uid,
            Instance.relative_path,
            Instance.sha256,
            AnalysisImage.flags,
            Instance.reason_code,
        )
        .join(AnalysisImage, AnalysisImage.instance_id == Instance.id)
        .where(AnalysisImage.analysis_id == analysis_id, AnalysisImage.decision != "skip")
        .order_by(Instance.id)
    )
    return [
        Image(
            id_,
            uid,
            path or "",
            sha,
            tuple(Reason(ReasonCode(code), sentence) for code, sentence in flags),
            reason_code is ReasonCode.SPOOL_MISSING or path is None,
        )
        for id_, uid, path, sha, flags, reason_code in rows
    ]


def claim_analyses(
    session: Session,
    packages: Mapping[str, str],
    limit: int,
    lease_s: float,
    owner: str,
    now: datetime,
    max_attempts: int = 3,
) -> list[Claim]:
    """Take up to `limit` due analyses of the packages this worker has loaded (id -> sha256).

    The attempt is counted before work starts, so that a kill counts too. An analysis that was tried
    before is taken alone: what brought a worker down must not use up the attempts of its neighbours.
    """
    if not packages:
        return []
    rows = session.execute(
        candidates(now)
        .where(asks_for(packages.items()), Analysis.attempts < max_attempts)
        .order_by(Analysis.due_at, Analysis.id)
        .limit(limit)
    ).all()
    alone = bool(rows) and rows[0].attempts > 0
    rows = rows[:1] if alone else [row for row in rows if row.attempts == 0]
    claims = []
    for row in rows:
        assert row.package_id is not None  # noqa: S101  (the query asked for it)
        sha256 = packages[row.package_id]
        claim = as_claim(
            session, row, row.attempts + 1, owner, now + timedelta(seconds=lease_s), sha256, None
        )
        before = Before(row.id, row.fence, owner)
        values: dict[str, Any] = {"fence": claim.fence, "attempts": claim.attempts, "package_sha256": sha256}
        values |= {"lease_until": claim.lease_until, "lease_owner": owner}
        advance(session, before, AnalysisStatus.ANALYSING, now, values=values)
        claims.append(claim)
    return claims


def release(
    session: Session,
    claim: Claim,
    reason: Reason,
    now: datetime,
    backoff_s: float,
    max_attempts: int = 3,
    free_for_s: float = 0.0,
) -> bool:
    """ANALYSING -> QUEUED after a failure, due again after `backoff_s`, doubled with each attempt.

    free_for_s: for trouble that is the machine's and not the study's (a full disk): so long after the
        study was queued the attempt does not count.
    False: that was the last attempt; the failure notice is due at once.
    """
    queued_at = session.scalar(select(Analysis.queued_at).where(Analysis.id == claim.analysis_id))
    waited_s = (now - queued_at).total_seconds() if queued_at else free_for_s
    attempts = claim.attempts - (1 if 0 <= waited_s < free_for_s else 0)
    again = attempts < max_attempts
    pause = backoff_s * 2 ** max(attempts - 1, 0) if again else 0.0
    due_at = now + timedelta(seconds=pause)
    values = {"due_at": due_at, "fence": claim.fence + 1, "attempts": attempts}
    advance(session, claim, AnalysisStatus.QUEUED, now, reason, values=values)
    return again


def hold(session: Session, claim: Claim, lease_s: float, now: datetime) -> Claim:
    """Extend a lease for work that takes long. Raises IllegalTransition when it is lost already."""
    until = now + timedelta(seconds=lease_s)
    kept = session.scalar(
        update(Analysis)
        .where(Analysis.id == claim.analysis_id, Analysis.fence == claim.fence)
        .values(lease_until=until)
        .returning(Analysis.id)
    )
    if kept is None:
        raise IllegalTransition(f"the lease on analysis {claim.analysis_id} is lost")
    return replace(claim, lease_until=until)


def expire_leases(session: Session, now: datetime, lease_s: float) -> int:
    """ANALYSING -> QUEUED where the lease ran out (or lies further ahead than any lease reaches)."""
    over = or_(Analysis.lease_until < now, Analysis.lease_until > now + timedelta(seconds=2 * lease_s))
    rows = session.execute(
        select(Analysis.id, Analysis.fence)
        .where(Analysis.status == AnalysisStatus.ANALYSING, or_(over, Analysis.lease_until.is_(None)))
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    for row in rows:
        advance(
            session,
            Before(row.id, row.fence, "sweep"),
            AnalysisStatus.QUEUED,
            now,
            Reason.of(ReasonCode.WORKER_LOST),
            values={"due_at": now, "fence": row.fence + 1},
        )
    return len(rows)


def live_packages(session: Session, now: datetime) -> set[tuple[str, str]] | None:
    """(id, sha256) of the packages living analyse workers have loaded; None: no analyse worker lives."""
    since = now - timedelta(seconds=WORKER_ALIVE_S)
    rows = session.scalars(
        select(Worker.packages).where(Worker.kind == "analyse", Worker.seen_at >= since)
    ).all()
    return {pair for packages in rows for pair in packages.items()} if rows else None


def analyses_due(session: Session, now: datetime, max_attempts: int = 3) -> int:
    """How many analyses wait for an analyse worker now."""
    return how_many(session, candidates(now, lock=False).where(Analysis.attempts < max_attempts))


def backlog(session: Session) -> int:
    """How many analyses are not at their end: the SCP refuses with A700 above a limit."""
    open_ = [s for s in AnalysisStatus if s not in TERMINAL]
    return session.scalar(select(func.count()).select_from(Analysis).where(Analysis.status.in_(open_))) or 0


def how_many(session: Session, query: Select[*tuple[Any, ...]]) -> int:
    """The rows a query would give."""
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0


def candidates(now: datetime, lock: bool = True) -> Select[*tuple[Any, ...]]:
    """QUEUED, due, held by nobody."""
    query = (
        select(
            Analysis.id,
            Analysis.study_id,
            Study.study_instance_uid,
            Analysis.number,
            Analysis.fence,
            Analysis.attempts,
            Analysis.notice_attempts,
            Analysis.package_id,
            Analysis.package_sha256,
            Analysis.reason_code,
            Analysis.reason,
        )
        .join(Study, Study.id == Analysis.study_id)
        .where(
            Analysis.status == AnalysisStatus.QUEUED,
            Analysis.due_at <= now,
            or_(Analysis.lease_until.is_(None), Analysis.lease_until < now),
        )
    )
    return query.with_for_update(key_share=True, of=Analysis, skip_locked=True) if lock else query


def asks_for(packages: Iterable[tuple[str, str]]) -> ColumnElement[bool]:
    """The analysis' package is one of these (id, sha256); one queued without a hash takes any."""
    return or_(
        false(),
        *(
            and_(Analysis.package_id == id_, func.coalesce(Analysis.package_sha256, sha256) == sha256)
            for id_, sha256 in sorted(packages)
        ),
    )


def as_claim(
    session: Session,
    row: Any,
    attempts: int,
    owner: str,
    lease_until: datetime,
    package_sha256: str | None,
    reason: Reason | None,
) -> Claim:
    """A row of `candidates` as its new holder has it; the caller writes it."""
    calling_ae_title, peer_address = last_sender(session, row.study_id)
    return Claim(
        analysis_id=row.id,
        study_id=row.study_id,
        study_instance_uid=row.study_instance_uid,
        number=row.number,
        fence=row.fence + 1,
        attempts=attempts,
        owner=owner,
        lease_until=lease_until,
        package_id=row.package_id,
        package_sha256=package_sha256,
        calling_ae_title=calling_ae_title,
        peer_address=peer_address,
        reason=reason,
    )
