"""Studies as monitoring sees them: each once, by the last look at it that ended. Only reads.

A replay takes the place of the look before it, in the week the study came. Several packages that looked
under the same number each have their look; shadow looks stand apart from the others.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, exists, func, literal, null, select
from sqlalchemy.orm import Session, aliased

from hipnode.status import TERMINAL, AcceptanceOutcome, AnalysisStatus, Outcome
from hipnode.tables import Acceptance, Analysis, AnalysisImage, FinalReport, Finding, Instance, Role, Study
from hipnode.watched import Ending, LastAcceptance, NotCounted, Package, Reported, WatchedStudy

_ENDED = sorted(TERMINAL)
_READ = (Outcome.FINDINGS, Outcome.NONE, Outcome.PARTIAL)


def watched(session: Session, since: datetime, until: datetime) -> list[WatchedStudy]:
    """The studies received from `since` to before `until`, in the order they came."""
    return _studies(session, (Study.received_at >= since, Study.received_at < until))


def first_ended(session: Session, limit: int, since: datetime | None = None) -> list[WatchedStudy]:
    """The first `limit` studies (received from `since` on) whose look ended, no matter how, without shadow."""
    where: list[ColumnElement[bool]] = [Analysis.shadow.is_(False)]
    if since is not None:
        where.append(Study.received_at >= since)
    return _studies(session, where, limit, light=True)


def first_read(
    session: Session, package: Package, limit: int, since: datetime | None = None, *, scored: bool = False
) -> list[WatchedStudy]:
    """The first `limit` studies a package read (received from `since` on). scored: only those with scores."""
    where = [*_by(package), Analysis.outcome.in_(_READ)]
    if since is not None:
        where.append(Study.received_at >= since)
    if scored:
        image = aliased(AnalysisImage)
        where.append(exists().where(image.analysis_id == Analysis.id, image.scores.is_not(null())))
    return _studies(session, where, limit)


def reported(
    session: Session, package: Package, until: datetime, since: datetime | None = None
) -> list[WatchedStudy]:
    """All studies a package read that have a final report, received before `until`; without their scores."""
    where = [*_by(package), Analysis.outcome.in_(_READ), FinalReport.id.is_not(None)]
    where.append(Study.received_at < until)
    if since is not None:
        where.append(Study.received_at >= since)
    return _studies(session, where, light=True)


def not_counted(session: Session, since: datetime, until: datetime) -> NotCounted:
    """How many studies received in that time `watched` leaves out."""
    came = (Study.received_at >= since, Study.received_at < until)
    looked = exists().where(Analysis.study_id == Study.id)
    ended = exists().where(Analysis.study_id == Study.id, Analysis.status.in_(_ENDED))
    without = select(func.count()).select_from(Study).where(*came, ~looked)
    still = select(func.count()).select_from(Study).where(*came, looked, ~ended)
    return NotCounted(session.scalar(without) or 0, session.scalar(still) or 0)


def _by(package: Package) -> list[ColumnElement[bool]]:
    return [
        Analysis.package_id == package.package_id,
        func.coalesce(Analysis.package_sha256, "") == package.sha256,
        Analysis.shadow.is_(package.shadow),
    ]


def _studies(
    session: Session, where: Sequence[ColumnElement[bool]], limit: int | None = None, *, light: bool = False
) -> list[WatchedStudy]:
    """light: without scores and senders, which weigh most."""
    looks = _looks(where, limit, light)
    rows = session.execute(looks).all()
    ids = looks.with_only_columns(Analysis.id, maintain_column_froms=True).subquery()
    classes: dict[int, set[str]] = defaultdict(set)
    for analysis_id, name in session.execute(
        select(AnalysisImage.analysis_id, Finding.class_name)
        .join(Finding, Finding.analysis_image_id == AnalysisImage.id)
        .where(AnalysisImage.analysis_id.in_(select(ids.c.id)))
    ):
        classes[analysis_id].add(name)
    scores = {} if light else _scores(session, select(ids.c.id))
    packages: dict[tuple[str | None, str | None, bool], Package | None] = {}
    return [_study(row, classes.get(row[0], ()), scores.get(row[0]), packages) for row in rows]


def _looks(where: Sequence[ColumnElement[bool]], limit: int | None, light: bool) -> Select[*tuple[Any, ...]]:
    later = aliased(Analysis)
    superseded = exists().where(
        later.study_id == Analysis.study_id,
        later.shadow == Analysis.shadow,
        later.number > Analysis.number,
        later.status.in_(_ENDED),
    )
    sender = (
        select(Instance.calling_ae_title)
        .where(Instance.study_id == Study.id, Instance.role == Role.SOURCE)
        .order_by(Instance.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return (
        select(
            Analysis.id,
            Analysis.study_id,
            Study.received_at,
            Analysis.package_id,
            Analysis.package_sha256,
            Analysis.shadow,
            Analysis.status,
            Analysis.outcome,
            Analysis.reason_code,
            Analysis.asked_by,
            Analysis.last_instance_at,
            Analysis.ended_at,
            literal("") if light else sender,
            FinalReport.fracture,
            FinalReport.classes,
        )
        .join(Study, Study.id == Analysis.study_id)
        .join(FinalReport, FinalReport.study_id == Study.id, isouter=True)
        .where(Analysis.status.in_(_ENDED), ~superseded, *where)
        .order_by(Study.received_at, Study.id, Analysis.id)
        .limit(limit)
    )


def _scores(session: Session, ids: Select[tuple[int]]) -> dict[int, dict[str, float]]:
    """Per analysis the best score of each class over its images that were looked at."""
    best: dict[int, dict[str, float]] = {}
    for analysis_id, scores in session.execute(
        select(AnalysisImage.analysis_id, AnalysisImage.scores).where(
            AnalysisImage.analysis_id.in_(ids), AnalysisImage.scores.is_not(null())
        )
    ):
        mine = best.setdefault(analysis_id, {})
        for name, score in scores.items():
            mine[name] = max(score, mine.get(name, score))
    return best


def _study(
    row: Row[Any],
    classes: Collection[str],
    scores: dict[str, float] | None,
    packages: dict[tuple[str | None, str | None, bool], Package | None],
) -> WatchedStudy:
    """A row of `_looks`. packages: those made so far, so that each is made once."""
    _, study_id, received_at, package_id, sha256, shadow, status, outcome, reason_code, *rest = tuple(row)
    asked_by, last_instance_at, ended_at, sender, fracture, said = rest
    ending = Ending.FAILED
    if outcome in _READ:
        ending = Ending.READ
    elif status is AnalysisStatus.NOT_APPLICABLE or outcome is Outcome.NOT_ANALYSED:
        ending = Ending.REFUSED
    delivered = status is not AnalysisStatus.FAILED
    latency_s = None
    if ending is Ending.READ and delivered and asked_by is None and ended_at is not None:
        latency_s = max(0.0, (ended_at - last_instance_at).total_seconds())
    key = (package_id, sha256, shadow)
    if key not in packages:
        packages[key] = Package(package_id, sha256 or "", shadow) if package_id else None
    return WatchedStudy(
        study_id=study_id,
        received_at=received_at,
        package=packages[key],
        ending=ending,
        reason_code=reason_code,
        partial=outcome is Outcome.PARTIAL,
        delivered=delivered,
        latency_s=latency_s,
        sender=sender or "",
        classes=tuple(sorted(classes)),
        scores=scores,
        report=None if fracture is None else Reported(fracture, None if said is None else tuple(said)),
    )


def last_acceptance(session: Session, package: Package) -> LastAcceptance | None:
    """The last run that came to a verdict on these weights; None where there is none, or they are not known."""
    row = session.execute(
        select(Acceptance.outcome, Acceptance.protocol_name, Acceptance.ended_at)
        .where(
            Acceptance.package_sha256 == package.sha256,
            Acceptance.package_sha256 != "",
            Acceptance.outcome.is_not(None),
            Acceptance.outcome != AcceptanceOutcome.ABANDONED,
            Acceptance.ended_at.is_not(None),
        )
        .order_by(Acceptance.ended_at.desc(), Acceptance.id.desc())
        .limit(1)
    ).one_or_none()
    return LastAcceptance(row.outcome, row.protocol_name, row.ended_at.date()) if row else None


def classes_seen(session: Session) -> tuple[str, ...]:
    """The classes that fired in any look, by name."""
    return tuple(session.scalars(select(Finding.class_name).distinct().order_by(Finding.class_name)))
