"""`advance`: the one place where the status of an analysis changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hipnode.errors import IllegalTransition
from hipnode.findings import Reason
from hipnode.ledger.events import note
from hipnode.ledger.records import Holder
from hipnode.status import TERMINAL, AnalysisStatus, sources_of
from hipnode.tables import Analysis


@dataclass(frozen=True)
class Before:
    """The holder of an analysis as a query of this transaction found it."""

    analysis_id: int
    fence: int
    owner: str


def advance(
    session: Session,
    holder: Holder,
    to: AnalysisStatus,
    now: datetime,
    reason: Reason | None = None,
    why: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Move one analysis to `to`, and write the event of it.

    reason: stands in the analysis and in the event; why: in the event only; values: further columns.
    Raises IllegalTransition when the status does not allow it, or another process moved it since
    (the fence is not `holder.fence` any more): the caller stops.
    """
    # Row locks leave the key alone (key_share: FOR NO KEY UPDATE), or the event that refers to a study
    # would wait for whoever holds that study and may wait for this analysis.
    mine = (Analysis.id == holder.analysis_id, Analysis.fence == holder.fence)
    was = session.scalar(select(Analysis.status).where(*mine).with_for_update(key_share=True))
    columns: dict[str, Any] = {"status": to, "updated_at": now, "lease_until": None, "lease_owner": None}
    if to in TERMINAL:
        columns |= {"ended_at": now, "due_at": None}
    if reason is not None:
        columns |= {"reason_code": reason.code, "reason": reason.sentence}
    study_id = session.scalar(
        update(Analysis)
        .where(*mine, Analysis.status.in_(sources_of(to)))
        .values(columns | dict(values or {}))
        .returning(Analysis.study_id)
        .execution_options(synchronize_session=False)
    )
    if study_id is None:
        raise IllegalTransition(f"analysis {holder.analysis_id} cannot become {to}")
    note(
        session,
        now,
        holder.owner,
        "analysis",
        study_id=study_id,
        analysis_id=holder.analysis_id,
        was=was,
        became=to,
        why=reason or why,
    )
