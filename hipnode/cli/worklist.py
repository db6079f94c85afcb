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


def study_table(rows: Sequence[ledger.StudySummary], now: datetime) -> Table:
    """The worklist as people read it."""
    table = Table(box=None)
    for name in ("id", "accession", "study", "status", "outcome", "reason"):
        table.add_column(name, overflow="fold")
    for name in ("images", "findings", "tries", "age", "in status", "next"):
        table.add_column(name, justify="right")
    for row in rows:
        colour = COLOURS.get(row.status, "yellow") if row.status else "bright_black"
        table.add_row(
            str(row.study_id), plain(row.accession_number) or "-", "…" + plain(row.study_instance_uid[-12:]),
            f"[{colour}]{row.status or 'no image'}[/{colour}]", str(row.outcome or ""), str(row.reason_code or ""),
            str(row.images), str(row.findings), str(row.attempts),
            span(row.received_at, now), span(row.status_since, now), _next(row, now),
        )  # fmt: skip
    return table


def _next(row: ledger.StudySummary, now: datetime) -> str:
    """When it is tried next; what is due already waits for a worker."""
    if row.due_at is None:
        return ""
    return "now" if row.due_at <= now else span(row.due_at, now)
