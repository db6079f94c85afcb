"""Tables as CSV with every count, unrounded, so that any printed cell can be audited. Pure."""

import csv
from io import StringIO

from hipnode.evaluation.estimates import Estimate
from hipnode.evaluation.report.document import Cell, Table

PARTS = ("low", "high", "n", "events", "method")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(table: Table) -> str:
    """The table as CSV (comma, UTF-8, a header); a column with an Estimate becomes six: value, low, high, n,
    events and method. The last column repeats the unit.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    wide = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    header: list[str] = []
    for column, is_wide in zip(table.columns, wide, strict=True):
        header += [column, *(f"{column} {part}" for part in PARTS)] if is_wide else [column]
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*map(_text, header), "unit"])
    for row in table.rows:
        line: list[str] = []
        for cell, is_wide in zip(row, wide, strict=True):
            line += _expanded(cell) if is_wide else [_plain(cell)]
        writer.writerow([*line, _text(table.unit)])
    return buffer.getvalue()


def _expanded(cell: Cell) -> list[str]:
    if isinstance(cell, Estimate):
        numbers = (cell.value, cell.low, cell.high, cell.n, cell.events)
        return [*map(_plain, numbers), _text(cell.method)]
    return [_plain(cell), "", "", "", "", ""]


def _plain(cell: Cell) -> str:
    if cell is None or isinstance(cell, Estimate):
        return ""
    return _text(cell) if isinstance(cell, str) else str(cell)


def _text(text: str) -> str:
    return "'" + text if text.startswith(FORMULA) else text
