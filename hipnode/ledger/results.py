"""Results of a look: kept once, and put on their way to every destination that takes them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hipnode.errors import IllegalTransition
from hipnode.findings import ImageReading, StudyReading
from hipnode.ledger.deliveries import open_delivery, settle
from hipnode.ledger.mover import advance
from hipnode.ledger.records import Claim, RecordedResults, ResultFile, Route
from hipnode.status import AnalysisStatus, DeliveryStatus, Outcome
from hipnode.tables import AnalysisImage, AnalysisResult, Delivery, Finding, Instance, Result


def record_results(
    session: Session,
    claim: Claim,
    reading: StudyReading,
    built: Sequence[ResultFile],
    routes: Sequence[Route],
    analysed_at: datetime,
    now: datetime,
    whole: Callable[[str, str], bool] = lambda _path, _sha256: True,
) -> RecordedResults:
    """ANALYSING (or QUEUED, for a notice) -> DELIVERING: keep what was read and built, open deliveries.

    A result whose SOP Instance UID is known is the earlier one: its row and bytes serve, and where it
    was delivered it is not sent again. Nothing to send ends the analysis here (settle).
    whole: whether a file of the spool is there and has this SHA-256; the new bytes take the place of lost
    ones.
    Raises IllegalTransition when the claim is lost; nothing is written then.
    """
    values: dict[str, Any] = {"outcome": reading.outcome, "analysed_at": analysed_at, "due_at": None}
    if reading.reason is None:
        values |= {"reason_code": None, "reason": None}
    advance(session, claim, AnalysisStatus.DELIVERING, now, reading.reason, values=values)
    for image in reading.images:
        _record_image(session, claim.analysis_id, image)
    results, spare = [], []
    for file in built:
        result, made = _keep(session, claim, file, now, whole)
        results.append(result)
        if not made and file.relative_path != result.relative_path:
            spare.append(file.relative_path)
    due = send_results(session, claim.analysis_id, results, routes, claim.owner, now)
    status = settle(session, claim.analysis_id, claim.owner, now) or AnalysisStatus.DELIVERING
    return RecordedResults(status, due, tuple(spare))


def send_results(
    session: Session,
    analysis_id: int,
    results: Sequence[Result],
    routes: Sequence[Route],
    who: str,
    now: datetime,
) -> int:
    """Tie results to an analysis and open what deliveries they still need. How many are open."""
    open_ = 0
    for result in results:
        session.merge(AnalysisResult(analysis_id=analysis_id, result_id=result.id))
        for route in routes:
            if route.takes(result.kind, result.variant):
                status = open_delivery(session, analysis_id, result, route.destination, who, now)
                open_ += status in (DeliveryStatus.DUE, DeliveryStatus.SENDING)
    session.flush()
    return open_


def results_of(session: Session, analysis_id: int) -> list[Result]:
    """The results an analysis came to."""
    return list(
        session.scalars(
            select(Result)
            .join(AnalysisResult, AnalysisResult.result_id == Result.id)
            .where(AnalysisResult.analysis_id == analysis_id)
            .order_by(Result.id)
        )
    )


def routes_of(session: Session, analysis_id: int) -> list[Route]:
    """Where an analysis' results went, as routes."""
    rows = session.execute(
        select(Delivery.destination, Result.kind, Result.variant)
        .join(Result, Result.id == Delivery.result_id)
        .join(AnalysisResult, AnalysisResult.result_id == Result.id)
        .where(AnalysisResult.analysis_id == analysis_id)
    ).all()
    return [Route(destination, (kind,), {kind: variant}) for destination, kind, variant in rows]


def _record_image(session: Session, analysis_id: int, image: ImageReading) -> None:
    row_id = session.scalar(
        select(AnalysisImage.id)
        .join(Instance, Instance.id == AnalysisImage.instance_id)
        .where(AnalysisImage.analysis_id == analysis_id, Instance.sop_instance_uid == image.sop_instance_uid)
        .order_by(Instance.id.desc())
        .limit(1)
    )
    if row_id is None:
        raise IllegalTransition(f"analysis {analysis_id} was read from an image it does not have")
    values: dict[str, Any] = {"outcome": image.outcome}
    if image.outcome in (Outcome.FINDINGS, Outcome.NONE):
        values["scores"] = image.best_scores  # rounded by the decision rule: the numbers that decided
    if image.reason is not None:
        values |= {"reason_code": image.reason.code, "reason": image.reason.sentence}
    session.execute(update(AnalysisImage).where(AnalysisImage.id == row_id).values(values))
    for finding in image.findings:
        box, side, other = finding.box, finding.side, finding.alternative
        session.add(
            Finding(
                analysis_image_id=row_id,
                hip=side.side.value if side else None,
                hip_source=side.source if side else None,
                class_name=finding.class_name,
                score=float(finding.score),
                alternative_class=other.class_name if other else None,
                alternative_score=float(other.score) if other else None,
                rule=finding.rule,
                column_min=float(box.column_min),
                row_min=float(box.row_min),
                column_max=float(box.column_max),
                row_max=float(box.row_max),
            )
        )


def _keep(
    session: Session, claim: Claim, file: ResultFile, now: datetime, whole: Callable[[str, str], bool]
) -> tuple[Result, bool]:
    known = session.scalar(select(Result).where(Result.sop_instance_uid == file.sop_instance_uid))
    if known is not None:
        if known.study_id != claim.study_id:
            raise IllegalTransition(
                f"result {known.id} belongs to study {known.study_id}, not {claim.study_id}"
            )
        if file.relative_path != known.relative_path and not whole(known.relative_path, known.sha256):
            known.relative_path, known.sha256 = file.relative_path, file.sha256
            session.flush()
        return known, False
    result = Result(
        study_id=claim.study_id,
        analysis_id=claim.analysis_id,
        kind=file.kind,
        variant=file.variant,
        series_instance_uid=file.series_instance_uid,
        sop_instance_uid=file.sop_instance_uid,
        sop_class_uid=file.sop_class_uid,
        relative_path=file.relative_path,
        sha256=file.sha256,
        created_at=now,
    )
    session.add(result)
    session.flush()
    return result, True
