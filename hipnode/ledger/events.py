"""The ledger's history: written with the change it tells of, in the same transaction, never changed."""

from datetime import datetime

from sqlalchemy.orm import Session

from hipnode.findings import Reason
from hipnode.tables import Event


def note(
    session: Session,
    at: datetime,
    who: str,
    what: str,
    *,
    study_id: int | None = None,
    analysis_id: int | None = None,
    delivery_id: int | None = None,
    was: str | None = None,
    became: str | None = None,
    why: Reason | str | None = None,
) -> None:
    """Add one line. `why` must not name a patient."""
    session.add(
        Event(
            at=at,
            who=who[:128],
            what=what,
            study_id=study_id,
            analysis_id=analysis_id,
            delivery_id=delivery_id,
            was=was,
            became=became,
            why=f"{why.code}: {why.sentence}" if isinstance(why, Reason) else why,
        )
    )
