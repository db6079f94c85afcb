"""The worklist as a table."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from hipnode import ledger
from hipnode.cli.screen import plain
from hipnode.cli.times import span
from hipnode.status import AnalysisStatus

COLOURS = {
    AnalysisStatus.COMPLETED: "green",
    AnalysisStatus.FAILED: "red",
    AnalysisStatus.NOT_APPLICABLE: "bright_black",
}

_WIDE = 120


def study_table(rows: Sequence[ledger.StudySummary], now: datetime, width: int) -> Table:
    """The worklist as people read it; on a narrow terminal (width in characters) without the figures."""
    table = Table(box=None, pad_edge=False)
    wide = width >= _WIDE
    for name in ("id", "accession", "study", "status", "outcome", "reason", "images", "findings", "tries"):
        if wide or name not in ("study", "images", "findings", "tries"):
            folds = name in ("accession", "reason")
            right = name in ("images", "findings", "tries")
            table.add_column(
                name,
                overflow="fold" if folds else "ellipsis",
                no_wrap=not folds,
                justify="right" if right else "left",
            )
    for name in ("age", "in status", "next"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        colour = COLOURS.get(row.status, "yellow") if row.status else "bright_black"
        accession = plain(row.accession_number) or "-"
        status = f"[{colour}]{row.status or 'no image'}[/{colour}]"
        outcome, reason = str(row.outcome or ""), str(row.reason_code or "")
        cells = [str(row.study_id), accession, status, outcome, reason]
        if wide:
            study = "…" + plain(row.study_instance_uid[-12:])
            figures = [str(row.images), str(row.findings), str(row.attempts)]
            cells = [str(row.study_id), accession, study, status, outcome, reason, *figures]
        table.add_row(*cells, span(row.received_at, now), span(row.status_since, now), _next(row, now))
    return table


def _next(row: ledger.StudySummary, now: datetime) -> str:
    """When it is tried next; what is due already waits for a worker."""
    if row.due_at is None:
        return ""
    return "now" if row.due_at <= now else span(row.due_at, now)
