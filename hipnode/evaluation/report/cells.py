"""How a table's cells read, and what its notes must say by themselves. Pure; both page writers use it."""

from collections import defaultdict
from dataclasses import dataclass

from hipnode.evaluation.estimates import Estimate
from hipnode.evaluation.report.document import Cell, Table
from hipnode.evaluation.report.words import NONE, count, interval, listed, number, support

FEW = "†"


@dataclass(frozen=True)
class Shown:
    """A cell as it is printed: the text, and for an Estimate its interval and what stands behind it."""

    text: str
    interval: str = ""
    support: str = ""
    is_number: bool = False


def shown(cell: Cell) -> Shown:
    """The cell's words. An Estimate of few events carries a dagger, which the notes explain."""
    if isinstance(cell, Estimate):
        if cell.value is None:
            return Shown(NONE, is_number=True)
        mark = FEW if cell.few_events else ""
        return Shown(number(cell.value) + mark, interval(cell), support(cell), True)
    if cell is None:
        return Shown(NONE, is_number=True)
    if isinstance(cell, bool):
        return Shown("yes" if cell else "no")
    if isinstance(cell, int):
        return Shown(count(cell), is_number=True)
    if isinstance(cell, float):
        return Shown(number(cell), is_number=True)
    return Shown(cell)


def notes(table: Table) -> tuple[str, ...]:
    """The sentences under a table: how its intervals were made, few events, why a value is missing, its own notes."""
    estimates = [(c, cell) for row in table.rows for c, cell in zip(table.columns, row, strict=True)]
    methods: dict[str, list[str]] = defaultdict(list)
    reasons: list[str] = []
    few = False
    for column, cell in estimates:
        if not isinstance(cell, Estimate):
            continue
        few |= cell.few_events and cell.value is not None
        if cell.value is None or cell.low is None:
            if cell.method not in reasons:
                reasons.append(cell.method)
        elif column not in methods[cell.method]:
            methods[cell.method].append(column)
    said = []
    if methods:
        ways = [
            method if len(methods) == 1 else f"{method} ({listed(columns)})"
            for method, columns in methods.items()
        ]
        said.append(f"Under each value its 95 % interval, then events/n. Intervals: {'; '.join(ways)}.")
    if few:
        said.append(f"{FEW} fewer than 10 events: one case more or less changes this value much.")
    if reasons:
        said.append(f"{NONE} or no interval: {'; '.join(reasons)}.")
    return (*said, *table.notes)
