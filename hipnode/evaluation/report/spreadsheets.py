"""Tables as CSV with every count, unrounded, so that any printed cell can be audited. Pure."""

import csv
import re
from io import StringIO

from hipnode.evaluation.report.document import Cell, Table
from hipnode.evaluation.statistics.estimates import Estimate

PARTS = ("low", "high", "n", "events", "method")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(table: Table) -> str:
    """The table as CSV (comma, UTF-8, a header); a column with an Estimate becomes six: value, low, high, n,
    events and method. The last column repeats the unit.

    Text is `guarded`.
    """
    wide = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    header: list[str] = []
    for column, is_wide in zip(table.columns, wide, strict=True):
        header += [column, *(f"{column} {part}" for part in PARTS)] if is_wide else [column]
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*map(guarded, header), "unit"])
    for row in table.rows:
        line: list[str] = []
        for cell, is_wide in zip(row, wide, strict=True):
            line += _expanded(cell) if is_wide else [_plain(cell)]
        writer.writerow([*line, guarded(table.unit)])
    return buffer.getvalue()


def guarded(text: str) -> str:
    """The text with an apostrophe in front where a spreadsheet would take it for a formula; numbers stay."""
    return "'" + text if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def _expanded(cell: Cell) -> list[str]:
    if isinstance(cell, Estimate):
        numbers = (cell.value, cell.low, cell.high, cell.n, cell.events)
        return [*map(_plain, numbers), guarded(cell.method)]
    return [_plain(cell), "", "", "", "", ""]


def _plain(cell: Cell) -> str:
    if cell is None or isinstance(cell, Estimate):
        return ""
    return guarded(cell) if isinstance(cell, str) else str(cell)
