"""Replay: put a study back to work. It opens the next analysis; what has ended stays as it ended."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import case, inspect, select, update
from sqlalchemy.orm import Session

from hipnode.ledger.deliveries import settle
from hipnode.ledger.events import note
from hipnode.ledger.instances import open_analysis, sources_of_study
from hipnode.ledger.mover import Before, advance
from hipnode.ledger.records import Replay, Route
from hipnode.ledger.results import results_of, routes_of, send_results
from hipnode.status import TERMINAL, AnalysisStatus, Outcome, ReasonCode
from hipnode.tables import Analysis, AnalysisImage, AnalysisResult, Base, Finding, Study

_DELIVERY_REASONS = (
    ReasonCode.NO_DESTINATION,
    ReasonCode.DESTINATION_DOWN,
    ReasonCode.DESTINATION_REFUSED,
    ReasonCode.KIND_UNSUPPORTED,
    ReasonCode.NOT_COMMITTED,
    ReasonCode.STALE,
)


def plan_replay(session: Session, study_id: int, from_: Literal["analyse", "deliver"] = "analyse") -> Replay:
    """What `open_replay` would do, without doing it."""
    return _plan(session, study_id, from_)[0]


def open_replay(
    session: Session,
    study_id: int,
    from_: Literal["analyse", "deliver"],
    asked_by: str,
    now: datetime,
    routes: Sequence[Route] | None = None,
) -> Replay:
    """Open analysis number n + 1 of a study, or say why not.

    analyse: selection, analysis and delivery anew; the tick closes it at once.
    deliver: directly DELIVERING with the results of the last analysis that has some, to `routes`
        (None: where they went before). What was delivered is not sent again.
    While an analysis of the study is open nothing is done.
    """
    session.execute(select(Study.id).where(Study.id == study_id).with_for_update(key_share=True))
    plan, last = _plan(session, study_id, from_)
    if plan.number is None:
        note(session, now, asked_by, "replay", study_id=study_id, why=plan.said)
        return plan
    if from_ == "analyse":
        analysis_id, number = open_analysis(session, study_id, asked_by, now, asked_by, why="replay")
        # nothing is on its way: the study counts as stable at once
        long_ago = now - timedelta(days=1)
        session.execute(update(Analysis).where(Analysis.id == analysis_id).values(last_instance_at=long_ago))
        return Replay(analysis_id, number, plan.said)
    assert last is not None  # noqa: S101  (the plan found its results)
    return _redeliver(session, last, plan, asked_by, now, routes)


def _plan(session: Session, study_id: int, from_: str) -> tuple[Replay, int | None]:
    analyses = session.execute(
        select(Analysis.id, Analysis.number, Analysis.status)
        .where(Analysis.study_id == study_id)
        .order_by(Analysis.number.desc(), Analysis.id.desc())
    ).all()
    open_ = [a for a in analyses if a.status not in TERMINAL]
    if open_:
        return Replay(None, None, f"Nothing done: analysis {open_[0].number} is {open_[0].status}."), None
    number = (analyses[0].number if analyses else 0) + 1
    if from_ == "analyse":
        if not sources_of_study(session, study_id):
            return Replay(None, None, "Nothing done: the study has no image that was kept."), None
        return Replay(None, number, f"Analysis {number}: selection, analysis and delivery anew."), None
    failed = case((Analysis.status == AnalysisStatus.FAILED, 1), else_=0)  # of several packages' looks
    with_results = session.scalar(
        select(Analysis.id)
        .where(Analysis.study_id == study_id, Analysis.id.in_(select(AnalysisResult.analysis_id)))
        .order_by(Analysis.number.desc(), failed.desc(), Analysis.id.desc())
        .limit(1)
    )
    if with_results is None:
        return Replay(None, None, "Nothing done: the study has no results; replay it from analyse."), None
    source = next(a.number for a in analyses if a.id == with_results)
    return Replay(
        None, number, f"Analysis {number}: delivery of the results of analysis {source}."
    ), with_results


def _redeliver(
    session: Session, last: int, plan: Replay, asked_by: str, now: datetime, routes: Sequence[Route] | None
) -> Replay:
    before = session.get_one(Analysis, last)
    number = plan.number or 1
    # a failed delivery is over with this replay; what the look itself gave stays
    own_reason = before.reason_code not in _DELIVERY_REASONS or before.outcome is Outcome.ERROR
    again = Analysis(
        study_id=before.study_id,
        number=number,
        package_id=before.package_id,
        package_sha256=before.package_sha256,
        shadow=before.shadow,
        status=AnalysisStatus.QUEUED,
        outcome=before.outcome,
        reason_code=before.reason_code if own_reason else None,
        reason=before.reason if own_reason else None,
        receiving_since=now,
        last_instance_at=before.last_instance_at,
        queued_at=now,
        analysed_at=before.analysed_at,
        asked_by=asked_by,
        created_at=now,
        updated_at=now,
    )
    session.add(again)
    session.flush()
    _copy_images(session, last, again.id)
    advance(session, Before(again.id, 0, asked_by), AnalysisStatus.DELIVERING, now, why="replay of delivery")
    where = routes_of(session, last) if routes is None else routes
    count = send_results(session, again.id, results_of(session, last), where, asked_by, now)
    end = settle(session, again.id, asked_by, now)
    said = f"{plan.said} {count} to send." if end is None else f"{plan.said} Nothing was left to send: {end}."
    return Replay(again.id, number, said)


def _copy_images(session: Session, last: int, analysis_id: int) -> None:
    for image in session.scalars(select(AnalysisImage).where(AnalysisImage.analysis_id == last)).all():
        copy = AnalysisImage(**_columns(image) | {"analysis_id": analysis_id})
        session.add(copy)
        session.flush()
        for finding in session.scalars(select(Finding).where(Finding.analysis_image_id == image.id)).all():
            session.add(Finding(**_columns(finding) | {"analysis_image_id": copy.id}))


def _columns(row: Base) -> dict[str, Any]:
    return {c.key: getattr(row, c.key) for c in inspect(row).mapper.column_attrs if c.key != "id"}
