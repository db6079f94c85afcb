"""How a table's cells read, and what its notes must say by themselves. Pure; both page writers use it."""

import re
from collections import defaultdict
from dataclasses import dataclass

from hipnode.evaluation.report.document import Cell, Table
from hipnode.evaluation.report.words import NONE, count, interval, listed, number, support
from hipnode.evaluation.statistics.estimates import Estimate

FEW = "†"
LONGEST_LEAD = 32
MOST_NAMED = 8  # columns that a note lists by name
_NUMBER = re.compile(r"\d+(?:[,.]\d+)*")


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


def lead(paragraph: str) -> tuple[str, str]:
    """The words before the colon that open a paragraph ("False alarms:"), printed bold, and the rest."""
    words, colon, rest = paragraph.partition(": ")
    opens = bool(colon) and len(words) <= LONGEST_LEAD and "." not in words
    return (f"{words}:", f" {rest}") if opens else ("", paragraph)


def notes(table: Table) -> tuple[str, ...]:
    """The sentences under a table: how its intervals were made, few events, why a value is missing, its own notes."""
    estimates = [(c, cell) for row in table.rows for c, cell in zip(table.columns, row, strict=True)]
    methods: dict[str, list[str]] = defaultdict(list)
    reasons: dict[str, list[str]] = {}
    few = False
    for column, cell in estimates:
        if not isinstance(cell, Estimate):
            continue
        few |= cell.few_events and cell.value is not None
        if cell.value is None or cell.low is None:
            reasons[cell.method] = [column]
        elif column not in methods[cell.method]:
            methods[cell.method].append(column)
    said = []
    if methods:
        merged = _merged(methods)
        ways = [way if len(merged) == 1 else f"{way} ({_where(columns)})" for way, columns in merged]
        said.append(f"With each value its 95 % interval and events/n. Intervals: {'; '.join(ways)}.")
    if few:
        said.append(f"{FEW} fewer than 10 events: one case more or less changes this value much.")
    if reasons:
        said.append(f"{NONE} or no interval: {'; '.join(way for way, _ in _merged(reasons))}.")
    return (*said, *table.notes)


def _merged(methods: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Methods that differ in their numbers only become one, each number the range of all: "of 62 to 515 patients"."""
    alike: dict[str, list[str]] = defaultdict(list)
    for method in methods:
        alike[_NUMBER.sub("#", method)].append(method)
    made = []
    for group in alike.values():
        columns = list(dict.fromkeys(c for method in group for c in methods[method]))
        numbers = iter(zip(*(_NUMBER.findall(method) for method in group), strict=True))
        made.append((_NUMBER.sub(lambda _, n=numbers: _range(next(n)), group[0]), columns))  # type: ignore[misc]
    return made


def _where(columns: list[str]) -> str:
    return listed(columns) if len(columns) <= MOST_NAMED else f"{len(columns)} columns"


def _range(numbers: tuple[str, ...]) -> str:
    ordered = sorted(set(numbers), key=lambda text: float(text.replace(",", "")))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
