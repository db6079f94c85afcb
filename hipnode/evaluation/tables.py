"""The tables a site brings: labels, predictions and reads, checked with every problem listed at once.

CSV (comma or semicolon, UTF-8), JSON lines (.jsonl, .ndjson) and Parquet. Rows count as a spreadsheet
shows them: in a CSV the header is row 1, in the others the first record is row 1. Problems name file, row
and column and never repeat an identifier of a patient. `table_files` reads the files.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.table_files import Problem as Problem
from hipnode.evaluation.table_files import TablesUnusable as TablesUnusable
from hipnode.evaluation.table_files import read_rows as read_rows

SPLITS = ("train", "validation", "test")
HIPS = ("L", "R", "none")
CONDITIONS = ("no_ai", "ai")
LABEL_COLUMNS = (
    "case_id", "patient_id", "study_uid", "image_uid", "file", "hip", "y_class", "boxes", "points", "split", "site",
    "rows", "columns",
)  # fmt: skip
LABELS_NEED = ("case_id", "patient_id", "y_class")
PROBABILITY = "p_"
ALL_CLASSES = "any"  # `record.ANY`: any fracture
T = TypeVar("T")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class TableBox:
    """A box of a class in pixels of the stored image, half-open; the reference's have score 1."""

    class_name: str
    corners: Corners
    score: float


@dataclass(frozen=True)
class Label:
    """The reference of one unit (hip or image). classes: empty for no fracture.

    file: its film, a path inside the data folder, where it is not found by image_uid
    size: (rows, columns) of the image in pixels
    """

    row: int
    case_id: str
    patient_id: str
    classes: tuple[str, ...]
    hip: str | None = None
    study_uid: str | None = None
    image_uid: str | None = None
    boxes: tuple[TableBox, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    split: str | None = None
    site: str | None = None
    strata: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Prediction:
    """What one model said of one unit.

    not_read: why it said nothing (a reason code, or words); there are no boxes or probabilities then. Such a
        unit is no negative: it is told apart from the units that were read.
    size: (rows, columns) of the image in pixels, as the model met it
    """

    row: int
    case_id: str
    model_id: str
    model_version: str
    probabilities: Mapping[str, float]
    boxes: tuple[TableBox, ...] = ()
    peak: tuple[float, float] | None = None
    runtime_ms: float | None = None
    not_read: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Read:
    """What one reader said of one unit in one condition. y_read: a class, or N."""

    row: int
    case_id: str
    reader_id: str
    condition: str
    y_read: str
    phase: str | None = None
    order: float | None = None
    confidence: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Tables:
    """Labels, predictions and reads that fit one another.

    predictions: of the units that were read; unread: of those a model refused or failed on. Both together
        name every case once for each model, but for those of the train split.
    files: names of the three tables, for what is found wrong later
    """

    classes: tuple[str, ...]
    labels: tuple[Label, ...]
    predictions: tuple[Prediction, ...]
    reads: tuple[Read, ...]
    unread: tuple[Prediction, ...] = ()
    files: tuple[str, str, str] = ("labels", "predictions", "reads")


def load_labels(path: Path, classes: Sequence[str]) -> tuple[Label, ...]:
    """The labels alone, checked. Raises TablesUnusable with every problem."""
    problems: list[Problem] = []
    labels = _parsed(path, tuple(classes), _label, LABELS_NEED, problems)
    problems += check_labels(labels, path.name)
    if problems:
        raise TablesUnusable(problems)
    return tuple(labels)


def load_stressed(path: Path, classes: Sequence[str]) -> dict[str, tuple[Prediction, ...]]:
    """The predictions of changed films by the column `stress`. Raises TablesUnusable with every problem."""
    problems: list[Problem] = []
    rows = _parsed(
        path,
        tuple(classes),
        lambda cells: (cells.needed("stress"), _prediction(cells)),
        ("stress",),
        problems,
    )
    keys = [(p.row, (p.case_id, p.model_id, p.model_version, stress)) for stress, p in rows]
    problems += _repeated(keys, path.name, "case, model, version and stress are")
    if problems:
        raise TablesUnusable(problems)
    return {
        name: tuple(p for stress, p in rows if stress == name) for name in dict.fromkeys(s for s, _ in rows)
    }


def load(labels: Path, predictions: Path, classes: Sequence[str], reads: Path | None = None) -> Tables:
    """The tables, read and checked against each other. Raises TablesUnusable with every problem."""
    problems: list[Problem] = []
    kept = tuple(classes)
    if ALL_CLASSES in kept:
        problems.append(
            Problem(predictions.name, None, f"no class can be called {ALL_CLASSES}; that means all of them")
        )
    label_rows = _parsed(labels, kept, _label, LABELS_NEED, problems)
    prediction_rows = _parsed(predictions, kept, _prediction, ("case_id", "model_id"), problems)
    read_rows: list[Read] = []
    if reads is not None:
        needed = ("case_id", "reader_id", "condition", "y_read")
        read_rows = _parsed(reads, kept, _read, needed, problems)
    problems += check_labels(label_rows, labels.name)
    keys = [(p.row, (p.case_id, p.model_id, p.model_version)) for p in prediction_rows]
    problems += _repeated(keys, predictions.name, "case, model and version are")
    problems += _repeated(
        [(r.row, (r.case_id, r.reader_id, r.condition, r.phase)) for r in read_rows],
        reads.name if reads else "",
        "case, reader, condition and phase are",
    )
    files = (labels.name, predictions.name, reads.name if reads else "")
    if label_rows and prediction_rows and (reads is None or read_rows):  # else every case would be a stranger
        problems += _strangers(label_rows, prediction_rows, read_rows, files)
    if problems:
        raise TablesUnusable(problems)
    read, unread = ([p for p in prediction_rows if bool(p.not_read) == why] for why in (False, True))
    return Tables(kept, tuple(label_rows), tuple(read), tuple(read_rows), tuple(unread), files)


def check_labels(labels: Sequence[Label], file: str) -> list[Problem]:
    """Duplicated cases, also under another name, and patients whose cases stand in more than one split."""
    problems = _repeated([(label.row, (label.case_id,)) for label in labels], file, "case_id is")
    films = [(x.row, (x.image_uid, x.hip or "none")) for x in labels if x.image_uid]
    problems += _repeated(films, file, "image_uid and hip are")
    homes: dict[str, Label] = {}
    for label in (label for label in labels if label.patient_id):
        first = homes.setdefault(label.patient_id, label)
        if first.split != label.split:
            says = (
                f"its patient is in split {label.split or '(none)'} here and in {first.split or '(none)'} at "
                f"row {first.row}; a patient belongs to one split"
            )
            problems.append(Problem(file, label.row, says))
    return problems


class _Cells:
    """One row being read; what is wrong with it is collected and the row goes on."""

    def __init__(self, file: str, row: int, values: dict[str, Any], classes: tuple[str, ...]) -> None:
        self.file, self.row, self.values, self.classes = file, row, values, classes
        self.problems: list[Problem] = []

    def wrong(self, says: str) -> None:
        self.problems.append(Problem(self.file, self.row, says))

    def text(self, column: str, *, needed: bool = False) -> str | None:
        value = self.values.get(column)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of whole numbers with gaps: 7.0 is case 7
        if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
            if needed:
                self.wrong(f"{column} is empty")
            return None
        return str(value).strip()

    def needed(self, column: str) -> str:
        return self.text(column, needed=True) or ""

    def choice(self, column: str, known: Sequence[str], *, needed: bool = False) -> str | None:
        text = self.text(column, needed=needed)
        if text is not None and text not in known:
            self.wrong(f"{column} is {text[:40]!r}; known are {', '.join(known)}")
        return text

    def number(self, column: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        text = self.text(column)
        return None if text is None else self.finite(text, column, low, high)

    def finite(
        self, value: object, what: str, low: float = -math.inf, high: float = math.inf
    ) -> float | None:
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            self.wrong(f"{what} is {str(value)[:40]!r}, not a number (decimals take a point)")
            return None
        if not math.isfinite(number) or not low <= number <= high:
            between = f" in {low:g}..{high:g}" if math.isfinite(low) and math.isfinite(high) else ""
            self.wrong(f"{what} is {number:g}, not a number{between or ' we can use'}")
            return None
        return number

    def listed(self, column: str) -> list[Any]:
        value = self.values.get(column)
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except (
                ValueError,
                RecursionError,
            ):  # also numbers of thousands of digits, lists in lists in lists
                self.wrong(f"{column} is not JSON, as in [[x0, y0, x1, y1]]")
                return []
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return []
        if not isinstance(value, list | tuple):
            self.wrong(f"{column} is not a list")
            return []
        return list(value)

    def numbers(self, value: object, count: int, what: str) -> list[float] | None:
        if not isinstance(value, list | tuple) or len(value) != count:
            self.wrong(f"{what} has not {count} numbers")
            return None
        found = [self.finite(each, what) for each in value]
        kept = [each for each in found if each is not None]
        return kept if len(kept) == count else None

    def size(self) -> tuple[int, int] | None:
        """Rows and columns of the image, where both are given."""
        rows, columns = (self.number(column, 1, 1e6) for column in ("rows", "columns"))
        if rows is None or columns is None:
            return None
        if rows % 1 or columns % 1:
            self.wrong("rows and columns are whole numbers of pixels")
        return int(rows), int(columns)

    def boxes(self, own: Sequence[str], *, scored: bool) -> tuple[TableBox, ...]:
        """The row's boxes. own: its classes, of which a box without class takes the only one."""
        made = []
        for place, item in enumerate(self.listed("boxes"), start=1):
            what = f"box {place}"
            entry = item if isinstance(item, dict) else {"xyxy": item}
            corners = self.numbers(entry.get("xyxy"), 4, what)
            name = entry.get("class") or (own[0] if len(own) == 1 else None)
            if name not in self.classes:
                says = "has no class" if name is None else f"has the unknown class {str(name)[:40]!r}"
                self.wrong(f"{what} {says}; known are {', '.join(self.classes)}")
            score: float | None = 1.0
            if scored and entry.get("score") is None:
                self.wrong(f"{what} has no score")
                score = None
            elif scored:
                score = self.finite(entry["score"], f"score of {what}", 0, 1)
            if corners is None:
                continue
            x0, y0, x1, y1 = corners
            if x0 >= x1 or y0 >= y1:
                self.wrong(f"{what} is inverted or empty: x0 < x1 and y0 < y1 in x0, y0, x1, y1")
            elif name in self.classes and score is not None:
                made.append(TableBox(str(name), (x0, y0, x1, y1), score))
        return tuple(made)


def _label(cells: _Cells) -> Label:
    names = [name.strip() for name in cells.needed("y_class").split(";") if name.strip()]
    for name in dict.fromkeys(names):
        if name not in (*cells.classes, NO_FRACTURE):
            known = ", ".join((*cells.classes, NO_FRACTURE))
            cells.wrong(f"y_class has the unknown class {name[:40]!r}; known are {known}")
    if NO_FRACTURE in names and len(names) > 1:
        cells.wrong(f"y_class names {NO_FRACTURE} (no fracture) beside a class")
    own = tuple(dict.fromkeys(name for name in names if name != NO_FRACTURE))
    points = [cells.numbers(point, 2, "a point") for point in cells.listed("points")]
    boxes = cells.boxes(own, scored=False)
    for name in dict.fromkeys(box.class_name for box in boxes):
        if name not in own:
            cells.wrong(f"it has a box of {name}, and its y_class does not name {name}")
    plain = {c for c, value in cells.values.items() if not isinstance(value, dict | list)}
    strata = {c: cells.text(c) for c in cells.values if c in plain and c not in LABEL_COLUMNS}
    return Label(
        cells.row, cells.needed("case_id"), cells.needed("patient_id"), own, cells.choice("hip", HIPS),
        cells.text("study_uid"), cells.text("image_uid"), boxes,
        tuple((p[0], p[1]) for p in points if p), cells.choice("split", SPLITS), cells.text("site"),
        {column: text for column, text in strata.items() if text is not None}, cells.text("file"),
        cells.size(),
    )  # fmt: skip


def _prediction(cells: _Cells) -> Prediction:
    chances = {}
    for column in cells.values:
        if not column.startswith(PROBABILITY):
            continue
        name = column.removeprefix(PROBABILITY)
        value = cells.number(column, 0, 1)
        if name in (*cells.classes, NO_FRACTURE) and value is not None:
            chances[name] = value
    not_read = cells.text("not_read")
    boxes = cells.boxes((), scored=True)
    if not_read and (chances or boxes):
        cells.wrong("it says why the case was not read, and yet has an answer: leave one of them empty")
    if (
        not not_read
        and not chances.keys() - {NO_FRACTURE}
        and "boxes" not in cells.values
        and not cells.problems
    ):
        empty = [PROBABILITY + name for name in cells.classes if PROBABILITY + name in cells.values]
        if empty:
            cells.wrong(
                f"{', '.join(empty)} is empty; a missing score is no 0. Give it, or say why in not_read"
            )
        else:
            known = ", ".join(cells.classes)
            cells.wrong(f"it has neither boxes nor a p_ column of a class; known classes are {known}")
    peak = cells.listed("heatmap_max_xy")
    xy = cells.numbers(peak, 2, "heatmap_max_xy") if peak else None
    return Prediction(
        cells.row, cells.needed("case_id"), cells.needed("model_id"), cells.text("model_version") or "",
        chances, boxes, (xy[0], xy[1]) if xy else None, cells.number("runtime_ms", 0, 1e12), not_read,
        cells.size(),
    )  # fmt: skip


def _read(cells: _Cells) -> Read:
    y_read = cells.choice("y_read", (*cells.classes, NO_FRACTURE), needed=True)
    condition = cells.choice("condition", CONDITIONS, needed=True)
    return Read(
        cells.row, cells.needed("case_id"), cells.needed("reader_id"), condition or "", y_read or "",
        cells.text("phase"), cells.number("order"), cells.number("confidence"),
        cells.number("seconds", 0, 1e6),
    )  # fmt: skip


def _parsed(
    path: Path,
    classes: tuple[str, ...],
    read: Callable[[_Cells], T],
    needed: Sequence[str],
    problems: list[Problem],
) -> list[T]:
    """The rows, what could not be read left empty; what is wrong with file and rows goes to problems."""
    try:
        rows = read_rows(path)
    except TablesUnusable as error:
        problems += error.problems
        return []
    columns = {column for _, values in rows for column in values}
    lacking = [column for column in needed if column not in columns]
    if not rows:
        problems.append(Problem(path.name, None, "has no rows"))
        return []
    if lacking:
        says = f"has no column {', '.join(lacking)}"
        if path.suffix.lower() == ".csv":
            says += "; row 1 must name the columns, with comma or semicolon between them"
        problems.append(Problem(path.name, None, says))
        return []
    for column in sorted(columns):
        if column.startswith(PROBABILITY) and column.removeprefix(PROBABILITY) not in (*classes, NO_FRACTURE):
            says = f"column {column[:40]} is of an unknown class; known are {', '.join(classes)}"
            problems.append(Problem(path.name, None, says))
    made = []
    for row, values in rows:
        cells = _Cells(path.name, row, values, classes)
        made.append(read(cells))  # also with something wrong in it: the row still names its case and patient
        problems += cells.problems
    return made


def _repeated(keys: Sequence[tuple[int, tuple[object, ...]]], file: str, what: str) -> list[Problem]:
    first: dict[tuple[object, ...], int] = {}
    named = [(row, key) for row, key in keys if key[0]]  # an empty name was told already
    again = [(row, first[key]) for row, key in named if first.setdefault(key, row) != row]
    return [Problem(file, row, f"its {what} in row {before} already") for row, before in again]


def _outside(file: str, row: int, boxes: Sequence[TableBox], size: tuple[int, int] | None) -> list[Problem]:
    """Boxes with no pixel on the film; those that only leave it are cut at its edge."""
    if size is None:
        return []
    rows, columns = size
    return [
        Problem(file, row, f"box {place} lies outside its film of {rows} rows and {columns} columns")
        for place, (x0, y0, x1, y1) in enumerate((box.corners for box in boxes), start=1)
        if x1 <= 0 or y1 <= 0 or x0 >= columns or y0 >= rows
    ]


def _strangers(
    labels: Sequence[Label], predictions: Sequence[Prediction], reads: Sequence[Read], files: Sequence[str]
) -> list[Problem]:
    """Predictions and reads of cases without label, cases a model left out, films of another size,
    and boxes outside their film."""
    known = {label.case_id: label for label in labels}
    problems = []
    for label in labels:
        problems += _outside(files[0], label.row, label.boxes, label.size)
    for prediction in predictions:
        met, size = prediction.size, known[prediction.case_id].size if prediction.case_id in known else None
        if size and met and size != met:
            says = (
                f"the model met a film of {met[0]} rows and {met[1]} columns, {files[0]} says "
                f"{size[0]} and {size[1]}; boxes of the two are not of the same pixels"
            )
            problems.append(Problem(files[1], prediction.row, says))
        else:
            problems += _outside(files[1], prediction.row, prediction.boxes, size or met)
    for file, rows in ((files[1], predictions), (files[2], reads)):
        for each in rows:
            if each.case_id and each.case_id not in known:
                problems.append(Problem(file, each.row, f"its case is not in {files[0]}"))
    seen: dict[tuple[str, str], set[str]] = {}
    for prediction in predictions:
        model = (prediction.model_id, prediction.model_version)
        seen.setdefault(model, set()).add(prediction.case_id)
    for (model_id, version), cases in seen.items():
        judged = [label for label in labels if label.split != "train"]  # train cases are never judged
        left_out = [label.row for label in judged if label.case_id not in cases]
        if left_out:
            says = (
                f"model {model_id} {version}".rstrip()
                + f" has no prediction for {len(left_out)} of {len(judged)} cases, the first at row "
                f"{left_out[0]} of {files[0]}; a case without an answer is no negative"
            )
            problems.append(Problem(files[1], None, says))
    return problems
