"""Studies as people look at them: the worklist, one study in full, and finding one by what is typed."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from hipnode.findings import Reason
from hipnode.ledger.records import (
    AnalysisDetail,
    DeliveryRow,
    EventRow,
    FindingRow,
    ImageRow,
    InstanceRow,
    ResultRow,
    StudyDetail,
    StudySummary,
)
from hipnode.status import TERMINAL, AnalysisStatus, DeliveryStatus, ReasonCode
from hipnode.tables import (
    Analysis,
    AnalysisDelivery,
    AnalysisImage,
    AnalysisResult,
    Delivery,
    Event,
    Finding,
    Instance,
    Result,
    Study,
)


def list_studies(
    session: Session,
    status: Collection[AnalysisStatus] = (),
    since: datetime | None = None,
    limit: int | None = None,
    *,
    until: datetime | None = None,
    reasons: Collection[ReasonCode] = (),
    accession_number: str | None = None,
) -> list[StudySummary]:
    """The worklist: each study with its latest analysis, what changed last first.

    Of several packages that looked under the same number, one that failed is shown.
    status: only studies whose latest analysis is in one of these; since, until: only those changed then;
    reasons: only those with one of these; accession_number: only this one, `*` for any characters.
    A study without an analysis (no radiograph in it) has status None and its instances' reason.
    """
    changed = func.coalesce(Analysis.updated_at, Study.updated_at)
    wanted: list[ColumnElement[bool]] = []
    if status:
        wanted.append(Analysis.status.in_(list(status)))
    if since is not None:
        wanted.append(changed >= since)
    if until is not None:
        wanted.append(changed <= until)
    if reasons:
        without = and_(Analysis.id.is_(None), _first_reason().in_(list(reasons)))
        wanted.append(or_(Analysis.reason_code.in_(list(reasons)), without))
    if accession_number is not None:
        wanted.append(_like(Study.accession_number, accession_number.strip()))
    query = _summaries().where(*wanted).order_by(changed.desc(), Study.id.desc())
    return [_summary(row) for row in session.execute(query.limit(limit))]


def newest_studies(session: Session, limit: int) -> list[StudySummary]:
    """The studies that came last, newest first; quick however many there are."""
    rows = session.execute(_summaries().order_by(Study.id.desc()).limit(limit))
    return [_summary(row) for row in rows]


def count_ended(session: Session, since: datetime) -> Counter[AnalysisStatus]:
    """How many analyses ended since then, and how."""
    ended = (Event.at >= since, Event.what == "analysis", Event.became.in_(sorted(TERMINAL)))
    rows = session.execute(select(Event.became, func.count()).where(*ended).group_by(Event.became))
    return Counter({AnalysisStatus(str(became)): count for became, count in rows})


def _like(column: ColumnElement[str] | InstrumentedAttribute[str], text: str) -> ColumnElement[bool]:
    if "*" not in text:
        return column == text
    for mark in "\\%_":
        text = text.replace(mark, "\\" + mark)
    return column.ilike(text.replace("*", "%"), escape="\\")


def resolve_study(session: Session, text: str) -> list[int]:
    """Ids of the studies `text` names: as Study Instance UID, else accession number, else row id."""
    text = text.strip()
    for where in (Study.study_instance_uid == text, Study.accession_number == text):
        found = session.scalars(select(Study.id).where(where).order_by(Study.id)).all()
        if found and text:
            return list(found)
    if text.isascii() and text.isdigit() and len(text) < 10:
        return list(session.scalars(select(Study.id).where(Study.id == int(text))))
    return []


def show_study(session: Session, study_id: int) -> StudyDetail | None:
    """Everything the ledger knows of a study; None where there is no such id."""
    row = session.execute(_summaries().where(Study.id == study_id)).one_or_none()
    if row is None:
        return None
    analyses = session.scalars(
        select(Analysis)
        .where(Analysis.study_id == study_id)
        .order_by(Analysis.number.desc(), Analysis.id.desc())
    ).all()
    ids = [a.id for a in analyses]
    images, results = _images(session, ids), _results(session, ids)
    return StudyDetail(
        summary=_summary(row),
        instances=_instances(session, study_id),
        analyses=tuple(_detail(a, images[a.id], results[a.id]) for a in analyses),
        events=_events(session, study_id),
    )


def _summaries() -> Select[*tuple[Any, ...]]:
    latest = aliased(Analysis)
    failed = case((latest.status == AnalysisStatus.FAILED, 1), else_=0)
    latest_id = (
        select(latest.id)
        .where(latest.study_id == Study.id)
        .order_by(latest.number.desc(), failed.desc(), latest.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    images = (
        select(func.count())
        .where(AnalysisImage.analysis_id == Analysis.id, AnalysisImage.decision != "skip")
        .scalar_subquery()
    )
    findings = (
        select(func.count(Finding.id))
        .join(AnalysisImage, AnalysisImage.id == Finding.analysis_image_id)
        .where(AnalysisImage.analysis_id == Analysis.id)
        .scalar_subquery()
    )
    entered = (  # its present status
        select(func.max(Event.at))
        .where(
            Event.study_id == Study.id,
            Event.analysis_id == Analysis.id,
            Event.what == "analysis",
            Event.became == Analysis.status,
        )
        .scalar_subquery()
    )
    send_at = (
        select(func.min(Delivery.due_at))
        .join(AnalysisDelivery, AnalysisDelivery.delivery_id == Delivery.id)
        .where(AnalysisDelivery.analysis_id == Analysis.id, Delivery.status == DeliveryStatus.DUE)
        .scalar_subquery()
    )
    return select(Study, Analysis, images, findings, _first_reason(), entered, send_at).join(
        Analysis, and_(Analysis.study_id == Study.id, Analysis.id == latest_id), isouter=True
    )


def _first_reason() -> ScalarSelect[Any]:
    """The reason of a study's first instance that has one."""
    return (
        select(Instance.reason_code)
        .where(Instance.study_id == Study.id, Instance.reason_code.is_not(None))
        .order_by(Instance.id)
        .limit(1)
        .scalar_subquery()
    )


def _summary(row: Any) -> StudySummary:
    study, analysis, images, findings, first_reason, entered, send_at = row
    code = analysis.reason_code if analysis else first_reason
    return StudySummary(
        study_id=study.id,
        study_instance_uid=study.study_instance_uid,
        accession_number=study.accession_number,
        analysis_id=analysis.id if analysis else None,
        number=analysis.number if analysis else None,
        status=analysis.status if analysis else None,
        outcome=analysis.outcome if analysis else None,
        reason_code=code,
        reason=(analysis.reason if analysis else None) or (code.sentence if code else None),
        package_id=analysis.package_id if analysis else None,
        attempts=analysis.attempts if analysis else 0,
        status_since=(entered or analysis.created_at) if analysis else None,
        due_at=_next_attempt(analysis, send_at) if analysis else None,
        images=images or 0,
        findings=findings or 0,
        received_at=study.received_at,
        updated_at=max(analysis.updated_at, study.updated_at) if analysis else study.updated_at,
    )


def _next_attempt(analysis: Analysis, send_at: datetime | None) -> datetime | None:
    if analysis.status is AnalysisStatus.QUEUED:
        return analysis.due_at
    return send_at if analysis.status is AnalysisStatus.DELIVERING else None


def _detail(a: Analysis, images: Sequence[ImageRow], results: Sequence[ResultRow]) -> AnalysisDetail:
    return AnalysisDetail(
        analysis_id=a.id,
        number=a.number,
        package_id=a.package_id,
        package_sha256=a.package_sha256,
        status=a.status,
        outcome=a.outcome,
        reason_code=a.reason_code,
        reason=a.reason,
        attempts=a.attempts,
        due_at=a.due_at,
        lease_until=a.lease_until,
        lease_owner=a.lease_owner,
        created_at=a.created_at,
        queued_at=a.queued_at,
        analysed_at=a.analysed_at,
        ended_at=a.ended_at,
        asked_by=a.asked_by,
        images=tuple(images),
        results=tuple(results),
    )


def _images(session: Session, analysis_ids: Sequence[int]) -> dict[int, list[ImageRow]]:
    findings = defaultdict(list)
    for f in session.scalars(
        select(Finding)
        .join(AnalysisImage, AnalysisImage.id == Finding.analysis_image_id)
        .where(AnalysisImage.analysis_id.in_(analysis_ids))
        .order_by(Finding.id)
    ):
        box = (f.column_min, f.row_min, f.column_max, f.row_max)
        row = FindingRow(f.hip, f.class_name, f.score, f.alternative_class, f.alternative_score, box)
        findings[f.analysis_image_id].append(row)
    images = defaultdict(list)
    for i, uid in session.execute(
        select(AnalysisImage, Instance.sop_instance_uid)
        .join(Instance, Instance.id == AnalysisImage.instance_id)
        .where(AnalysisImage.analysis_id.in_(analysis_ids))
        .order_by(AnalysisImage.instance_id)
    ):
        flags = tuple(Reason(ReasonCode(code), sentence) for code, sentence in i.flags)
        images[i.analysis_id].append(
            ImageRow(
                instance_id=i.instance_id,
                sop_instance_uid=uid,
                decision=i.decision,
                rule=i.rule,
                flags=flags,
                outcome=i.outcome,
                reason_code=i.reason_code,
                reason=i.reason,
                findings=tuple(findings[i.id]),
            )
        )
    return images


def _results(session: Session, analysis_ids: Sequence[int]) -> dict[int, list[ResultRow]]:
    deliveries = defaultdict(list)
    for analysis_id, d in session.execute(
        select(AnalysisDelivery.analysis_id, Delivery)
        .join(Delivery, Delivery.id == AnalysisDelivery.delivery_id)
        .where(AnalysisDelivery.analysis_id.in_(analysis_ids))
        .order_by(Delivery.id)
    ):
        deliveries[analysis_id, d.result_id].append(
            DeliveryRow(
                delivery_id=d.id,
                destination=d.destination,
                status=d.status,
                reason_code=d.reason_code,
                reason=d.reason,
                attempts=d.attempts,
                due_at=d.due_at,
                peer_status=d.peer_status,
                delivered_at=d.delivered_at,
                committed_at=d.committed_at,
            )
        )
    results = defaultdict(list)
    for analysis_id, r in session.execute(
        select(AnalysisResult.analysis_id, Result)
        .join(Result, Result.id == AnalysisResult.result_id)
        .where(AnalysisResult.analysis_id.in_(analysis_ids))
        .order_by(Result.id)
    ):
        results[analysis_id].append(
            ResultRow(
                result_id=r.id,
                kind=r.kind,
                variant=r.variant,
                series_instance_uid=r.series_instance_uid,
                sop_instance_uid=r.sop_instance_uid,
                sop_class_uid=r.sop_class_uid,
                relative_path=r.relative_path,
                sha256=r.sha256,
                deliveries=tuple(deliveries[analysis_id, r.id]),
            )
        )
    return results


def _instances(session: Session, study_id: int) -> tuple[InstanceRow, ...]:
    rows = session.scalars(select(Instance).where(Instance.study_id == study_id).order_by(Instance.id))
    return tuple(
        InstanceRow(
            instance_id=i.id,
            sop_instance_uid=i.sop_instance_uid,
            revision=i.revision,
            role=i.role.value,
            sop_class_uid=i.sop_class_uid,
            reason_code=i.reason_code,
            relative_path=i.relative_path,
            sha256=i.sha256,
            size_bytes=i.size_bytes,
            calling_ae_title=i.calling_ae_title,
            received_at=i.received_at,
        )
        for i in rows
    )


def _events(session: Session, study_id: int) -> tuple[EventRow, ...]:
    rows = session.scalars(select(Event).where(Event.study_id == study_id).order_by(Event.id))
    return tuple(
        EventRow(e.at, e.who, e.what, e.analysis_id, e.delivery_id, e.was, e.became, e.why) for e in rows
    )
