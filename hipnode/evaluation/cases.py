"""From checked tables to the arrays that are evaluated: one part of the labels, one model's answers. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import DecisionRule
from hipnode.evaluation.record import ANY, CaseFacts, SplitFacts
from hipnode.evaluation.statistics.classes import NO_FRACTURE, Boxes, class_scores, keep
from hipnode.evaluation.statistics.resampling import codes_of
from hipnode.evaluation.tables import (
    PROBABILITY,
    Label,
    Problem,
    TableBox,
    Tables,
    TablesUnusable,
    read_rows,
)

FOUR_CLASSES = ("DF", "VF", "SF", "UF")
TEST, VALIDATION, TRAIN, ALL = "test", "validation", "train", "all"
AGE_BANDS = ((50, "<50"), (65, "50-64"), (75, "65-74"), (85, "75-84"), (1000, "85+"))
FIRST_COLUMNS = ("age", "sex", "site", "manufacturer", "implant", "image_quality", "view_ok", "hip", "y_class",
                 "displacement", "difficulty")  # fmt: skip
MOST_VALUES = 12  # a column with more is no stratum; it may also be an identifier


@dataclass(frozen=True)
class Unread:
    """A judged unit on which the model gave no answer."""

    case_id: str
    patient: str
    classes: tuple[str, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Cases:
    """The units of one part that one model read, n of them, in the order of the labels.

    patients: (n,) str; codes: (n,) int64, the number of each unit's patient from 0
    truth: (n, K) bool; scores: (n, K) in 0..1, of boxes 0 where a class has none
    score_from: "p columns" or "boxes"
    reference: boxes of the labels; predicted: candidates, by unit and best score first; unit indexes 0..n-1
    sizes: (n, 2) int64 rows and columns of the image; 0 where not known
    points: (m, 3) unit, column, row; peaks: (n, 2) column, row of the heat map's highest, NaN where not given
    columns: stratum column -> (n,) text or None; not_strata: why other columns are none
    runtime_ms: (n,) NaN where not given
    """

    classes: tuple[str, ...]
    case_ids: tuple[str, ...]
    patients: NDArray[np.str_]
    codes: NDArray[np.int64]
    truth: NDArray[np.bool_]
    scores: NDArray[np.float64]
    score_from: str
    reference: Boxes
    predicted: Boxes
    with_boxes: bool
    sizes: NDArray[np.int64]
    points: NDArray[np.float64]
    peaks: NDArray[np.float64]
    columns: dict[str, tuple[str | None, ...]]
    not_strata: tuple[str, ...]
    runtime_ms: NDArray[np.float64]
    unread: tuple[Unread, ...]

    def __len__(self) -> int:
        return len(self.case_ids)

    @property
    def any_truth(self) -> NDArray[np.bool_]:
        """(n,) whether there is any fracture."""
        return np.asarray(self.truth.any(axis=1))

    @property
    def any_score(self) -> NDArray[np.float64]:
        """(n,) the best class's score."""
        return np.asarray(self.scores.max(axis=1)) if len(self) else np.zeros(0)


def classes_in(predictions: Path) -> tuple[str, ...]:
    """The classes of a predictions file by its p_ columns, else the four of the published detector.

    Raises TablesUnusable where the file cannot be read.
    """
    rows = read_rows(predictions)
    named = dict.fromkeys(
        c.removeprefix(PROBABILITY) for _, v in rows for c in v if c.startswith(PROBABILITY)
    )
    return tuple(name for name in named if name and name != NO_FRACTURE) or FOUR_CLASSES


def judged_split(tables: Tables) -> str:
    """The part whose cases are judged: test where the labels name splits, else all. Raises TablesUnusable."""
    named = [label.split for label in tables.labels if label.split]
    if not named:
        return ALL
    file = tables.files[0]
    problems = [
        Problem(file, label.row, "split is empty, and other rows have one; give every row its split")
        for label in tables.labels
        if not label.split
    ]
    if TEST not in named:
        parts = ", ".join(sorted(set(named)))
        says = (
            f"no row is of split test (there is {parts}); only cases that no choice was made on can be judged"
        )
        problems.append(Problem(file, None, says))
    if problems:
        raise TablesUnusable(problems)
    return TEST


def models_in(tables: Tables) -> tuple[tuple[str, str], ...]:
    """(model id, version) in the order of the predictions."""
    rows = sorted([*tables.predictions, *tables.unread], key=lambda p: p.row)
    return tuple(dict.fromkeys((p.model_id, p.model_version) for p in rows))


def check(tables: Tables) -> list[Problem]:
    """What is wrong with predictions that are each well-formed: models that answer in two ways, or for part
    of the classes. A missing probability is no 0."""
    problems = []
    file = tables.files[1]
    if ANY in tables.classes:
        says = f"a class is called {ANY}, which stands for all classes together here; give it another name"
        problems.append(Problem(file, None, says))
    for model in models_in(tables):
        rows = [p for p in tables.predictions if (p.model_id, p.model_version) == model]
        given = {name for p in rows for name in p.probabilities} - {NO_FRACTURE}
        if not given:
            continue
        name = " ".join(model).rstrip()
        never = [c for c in tables.classes if c not in given]
        if never:
            columns = ", ".join(PROBABILITY + c for c in never)
            says = f"model {name} has no {columns}; add it, or name the classes to evaluate with --classes"
            problems.append(Problem(file, None, says))
        for p in rows:
            lacking = [PROBABILITY + c for c in tables.classes if c in given and c not in p.probabilities]
            if lacking:
                problems.append(
                    Problem(file, p.row, f"{', '.join(lacking)} is empty; a missing score is no 0")
                )
    return problems


def gather(tables: Tables, model: tuple[str, str], split: str, rule: DecisionRule) -> Cases:
    """The cases of a split (ALL: every label) as one model saw them. rule: its tau_min and NMS for boxes."""
    labels = [label for label in tables.labels if split in (ALL, label.split)]
    answers = {p.case_id: p for p in tables.predictions if (p.model_id, p.model_version) == model}
    silent = {p.case_id: p for p in tables.unread if (p.model_id, p.model_version) == model}
    read = [label for label in labels if label.case_id in answers]
    said = [answers[label.case_id] for label in read]
    places = {name: k for k, name in enumerate(tables.classes)}
    truth = np.zeros((len(read), len(places)), dtype=np.bool_)
    for i, label in enumerate(read):
        truth[i, [places[name] for name in label.classes]] = True
    predicted = keep(_boxes([p.boxes for p in said], places), rule)
    from_p = any(set(p.probabilities) - {NO_FRACTURE} for p in answers.values())
    if from_p:
        table = [[p.probabilities[name] for name in tables.classes] for p in said]
        scores = np.array(table, dtype=np.float64).reshape(len(read), len(places))
    else:
        scores = class_scores(predicted, len(read), len(places))
    columns, not_strata = stratum_columns(read)
    return Cases(
        classes=tables.classes,
        case_ids=tuple(label.case_id for label in read),
        patients=np.array([label.patient_id for label in read], dtype=np.str_),
        codes=codes_of([label.patient_id for label in read], len(read)),
        truth=truth,
        scores=scores,
        score_from="p columns" if from_p else "boxes",
        reference=_boxes([label.boxes for label in read], places),
        predicted=predicted,
        with_boxes=any(p.boxes for p in answers.values()),
        sizes=np.array(
            [label.size or p.size or (0, 0) for label, p in zip(read, said, strict=True)], dtype=np.int64
        ).reshape(-1, 2),
        points=np.array([(i, *xy) for i, label in enumerate(read) for xy in label.points]).reshape(-1, 3),
        peaks=np.array([p.peak or (np.nan, np.nan) for p in said], dtype=np.float64).reshape(-1, 2),
        columns=columns,
        not_strata=not_strata,
        runtime_ms=np.array(
            [np.nan if p.runtime_ms is None else p.runtime_ms for p in said], dtype=np.float64
        ),
        unread=tuple(
            Unread(label.case_id, label.patient_id, label.classes, silent[label.case_id].not_read or "")
            for label in labels
            if label.case_id in silent
        ),
    )


def _boxes(rows: Sequence[Sequence[TableBox]], places: dict[str, int]) -> Boxes:
    return Boxes.of(
        [(i, places[b.class_name], b.corners, b.score) for i, row in enumerate(rows) for b in row]
    )


def facts_of(tables: Tables, unit: str | None = None) -> CaseFacts:
    """What the labels hold, part by part. unit: None takes it from the hip column."""
    split = judged_split(tables)
    unit = unit or unit_of(tables.labels)
    parts = (ALL,) if split == ALL else (TEST, VALIDATION, TRAIN)
    found = {part: [x for x in tables.labels if part in (ALL, x.split)] for part in parts}
    splits = tuple(_split_facts(part, rows, tables.classes, unit) for part, rows in found.items() if rows)
    several = sum(len(label.classes) > 1 for label in found[split])
    return CaseFacts(unit, tables.classes, splits[0], splits, several)


def unit_of(labels: Sequence[Label]) -> str:
    """hip where every row names a hip, image where none does; "hip or image" where the labels mix them."""
    sides = [label.hip in ("L", "R") for label in labels]
    if sides and all(sides):
        return "hip"
    return "hip or image" if any(sides) else "image"


def _split_facts(name: str, labels: Sequence[Label], classes: Sequence[str], unit: str) -> SplitFacts:
    positives = {ANY: sum(bool(label.classes) for label in labels)}
    positives |= {c: sum(c in label.classes for label in labels) for c in classes}
    films = [label.image_uid or label.file for label in labels]
    images = len(labels) if unit == "image" else len(set(films)) if all(films) else None
    return SplitFacts(name, len(labels), len({x.patient_id for x in labels}), images, positives)


def stratum_columns(labels: Sequence[Label]) -> tuple[dict[str, tuple[str | None, ...]], tuple[str, ...]]:
    """The columns by which cases can be told apart, ages as bands, and sentences on columns that are none.

    A column with one value tells nothing apart, and one with more than 12 is a number, a text or a name. A column
    of the site's own that divides the cases as another does would only say it twice, and one with more values than
    half of the patients may name them.
    """
    found: dict[str, tuple[str | None, ...]] = {
        "site": tuple(label.site for label in labels),
        "hip": tuple(None if label.hip == "none" else label.hip for label in labels),
        "y_class": tuple(";".join(label.classes) or NO_FRACTURE for label in labels),
    }
    named = dict.fromkeys(column for label in labels for column in label.strata)
    for column in named:
        values = tuple(label.strata.get(column) for label in labels)
        found[column] = tuple(map(age_band, values)) if column == "age" else values
    patients = len({label.patient_id for label in labels})
    order = [c for c in FIRST_COLUMNS if c in found] + sorted(c for c in found if c not in FIRST_COLUMNS)
    kept: dict[str, tuple[str | None, ...]] = {}
    says = []
    for column in order:
        count = len(Counter(v for v in found[column] if v is not None))
        if count > MOST_VALUES:
            says.append(f"Column {column} has {count} different values and is not used as a stratum.")
        elif column not in FIRST_COLUMNS and 2 * count > patients and count > 1:
            # of few cases a name or a number of a patient has few values, and must not be printed
            says.append(f"Column {column} differs between most patients and is not used as a stratum.")
        elif count > 1 or (count and None in found[column]):
            parts = _parts(found[column])
            twin = next((other for other, values in kept.items() if _parts(values) == parts), None)
            if twin is None or column in FIRST_COLUMNS:
                kept[column] = found[column]
            else:
                says.append(f"Column {column} divides the cases as {twin} does and is not shown again.")
    return kept, tuple(says)


def _parts(values: Sequence[str | None]) -> list[int]:
    """Which values are alike: for each, the place of the first like it."""
    first: dict[str | None, int] = {}
    return [first.setdefault(value, place) for place, value in enumerate(values)]


def age_band(age: str | None) -> str | None:
    """<50, 50-64, 65-74, 75-84 or 85+ from years such as 77, 77.5 or DICOM's 077Y; None where it is no age."""
    digits = re.fullmatch(r"\s*(\d{1,3})(?:[.,]\d+)?\s*(?:[Yy]|\+)?\s*", age or "")
    return None if digits is None else next(name for end, name in AGE_BANDS if int(digits[1]) < end)
