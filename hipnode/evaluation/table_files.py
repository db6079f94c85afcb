"""The rows of a table's file: CSV, JSON lines or Parquet, and what can be wrong with them.

Rows count as a spreadsheet shows them: in a CSV the header is row 1, in the others the first record is row 1.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from hipnode.errors import HipnodeError

MOST_RANGES = 100  # in one line


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; row None: the file as a whole."""

    file: str
    row: int | None
    says: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.says}" if self.row else f"{self.file}: {self.says}"


class TablesUnusable(HipnodeError):
    """Tables cannot be evaluated; `problems` lists all that is wrong, the text as `told`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(told(problems)))


def told(problems: Sequence[Problem], of_a_kind: int = 5) -> list[str]:
    """The problems as lines, of each kind in each file the first few, then rows only: none hides another."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kind = re.sub(r"'.*?'|[0-9.,]+", "", problem.says)
        kinds.setdefault((problem.file, kind), []).append(problem)
    lines = []
    for (file, _), alike in kinds.items():
        lines += [str(problem) for problem in alike[:of_a_kind]]
        if more := [problem.row for problem in alike[of_a_kind:] if problem.row is not None]:
            lines.append(f"{file}: {len(more)} more with this problem, rows {_ranges(more)}")
    return lines


def _ranges(rows: Sequence[int]) -> str:
    """Row numbers in words, "3, 7 to 9"; of very many the first and how many more."""
    ranges: list[list[int]] = []
    for row in sorted(set(rows)):
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    said = [str(first) if first == last else f"{first} to {last}" for first, last in ranges[:MOST_RANGES]]
    left = sum(last - first + 1 for first, last in ranges[MOST_RANGES:])
    return ", ".join(said) + (f" and {left} more" if left else "")


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(row number, values by column) of a CSV, JSON lines or Parquet file. Raises TablesUnusable."""
    readers: dict[str, Callable[[Path], list[tuple[int, dict[str, Any]]]]] = {
        ".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows, ".parquet": _parquet_rows,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _whole(path, f"is no table we read; give one of {', '.join(readers)}")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise _whole(path, "does not exist") from error
    except IsADirectoryError as error:
        raise _whole(path, "is a folder; give the file in it") from error
    except UnicodeDecodeError as error:
        raise _whole(path, "is not UTF-8; save it as CSV UTF-8") from error
    except csv.Error as error:
        says = "is no whole CSV: a quote is not closed, or a field has more than 131,072 characters"
        raise _whole(path, says) from error
    except (OSError, pyarrow.ArrowException) as error:
        raise _whole(path, f"cannot be read as {path.suffix.lower()} ({type(error).__name__})") from error


def _csv_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        semicolon = header.count(";") > header.count(",")
        rows = list(csv.reader(stream, delimiter=";" if semicolon else ",", strict=True))
    if not rows:
        return []
    names = [name.strip() for name in rows[0]]
    while names and not names[-1] and not any("".join(row[len(names) - 1 :]).strip() for row in rows[1:]):
        names.pop()  # what spreadsheets leave right of the table
    for name in names:
        places = [place for place, each in enumerate(names, start=1) if each == name]
        if not name or len(places) > 1:
            # the name stays unsaid: in a file without header it would be a value of a patient
            which = f"column{'s' if len(places) > 1 else ''} {', '.join(map(str, places))}"
            raise _whole(path, f"{which}: row 1 must give every column a name of its own")
    rows = [row if "".join(row[len(names) :]).strip() else row[: len(names)] for row in rows]
    problems = [
        Problem(path.name, row, f"has {len(values)} fields, the header {len(names)}")
        for row, values in enumerate(rows[1:], start=2)
        if values and len(values) != len(names)
    ]
    if problems:
        raise TablesUnusable(problems)
    return [(row, dict(zip(names, v, strict=True))) for row, v in enumerate(rows[1:], start=2) if v]


def _json_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows, problems = [], []
    for row, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            rows.append((row, record))
        else:
            problems.append(Problem(path.name, row, "is no JSON object; JSON lines has one in each line"))
    if problems:
        raise TablesUnusable(problems)
    return rows


def _parquet_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    table = parquet.read_table(path)
    if len(set(table.column_names)) < len(table.column_names):
        raise _whole(path, "has two columns of one name")
    own = [
        name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)
    ]  # pandas' row numbers
    return list(enumerate(table.select(own).to_pylist(), start=1))


def _whole(path: Path, says: str) -> TablesUnusable:
    return TablesUnusable([Problem(path.name, None, says)])
