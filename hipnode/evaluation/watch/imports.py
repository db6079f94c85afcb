"""Final reports as a site exports them: a row a study, with the class the report comes to."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.tables import Problem, TablesUnusable, read_rows
from hipnode.watched import Reported, ReportRow

FRACTURE = "fracture"
"""What stands in the class column where a report names a fracture and not its class."""
UID_COLUMNS = ("study_instance_uid", "StudyInstanceUID", "study_uid")
NUMBER_COLUMNS = ("accession_number", "AccessionNumber", "accession")
CLASS_COLUMNS = ("class", "classes", "y_class")

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")  # PS3.5 section 9.1
_SPREADSHEET = re.compile(r"[0-9][.,]?[0-9]*[eE]\+[0-9]+")


def parse_reports(path: Path, classes: Collection[str]) -> tuple[list[ReportRow], list[Problem]]:
    """The rows that can be used, and what is wrong with the others. Other columns are not looked at.

    classes: names the class column may use, next to N (no fracture) and "fracture"
    """
    try:
        rows = read_rows(path)
    except TablesUnusable as error:
        return [], list(error.problems)
    if not rows:
        return [], [Problem(path.name, None, "has no rows")]
    columns = list(dict.fromkeys(column for _, values in rows for column in values))
    uid, number, said = (_column(columns, names) for names in (UID_COLUMNS, NUMBER_COLUMNS, CLASS_COLUMNS))
    problems = []
    if uid is None and number is None:
        says = f"has no column that names the study; call it {UID_COLUMNS[0]} or {NUMBER_COLUMNS[0]}"
        problems.append(Problem(path.name, None, says))
    if said is None:
        says = f"has no column {CLASS_COLUMNS[0]}; it holds {_words(classes)}"
        problems.append(Problem(path.name, None, says))
    if problems or said is None:
        return [], problems
    made = []
    for row, values in rows:
        study_uid, accession = (_text(values, column) for column in (uid, number))
        report, wrong = _report(_text(values, said), classes)
        wrong += _names(study_uid, accession)
        problems += [Problem(path.name, row, says) for says in wrong]
        if report is not None and not wrong:
            made.append(ReportRow(row, study_uid, accession, report))
    return made, problems


def _column(columns: Collection[str], names: Collection[str]) -> str | None:
    """The column of one of these names, however it is written: StudyInstanceUID, study_instance_uid, ..."""
    wanted = {_letters(name) for name in names}
    return next((column for column in columns if _letters(column) in wanted), None)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _text(values: dict[str, Any], column: str | None) -> str:
    value = values.get(column) if column else None
    return "" if value is None else str(value).strip()


def _names(study_uid: str, accession: str) -> list[str]:
    """What is wrong with how a row names its study; the names themselves are never repeated."""
    if not study_uid and not accession:
        return ["names no study"]
    if study_uid and not (_UID.fullmatch(study_uid) and len(study_uid) <= 64):
        return ["its Study Instance UID is none (digits and points, 64 at most)"]
    if not study_uid and _SPREADSHEET.fullmatch(accession):
        return ["a spreadsheet has rounded its accession number; format that column as text and export again"]
    return []


def _report(text: str, classes: Collection[str]) -> tuple[Reported | None, list[str]]:
    known = {name.lower(): name for name in (*classes, NO_FRACTURE, FRACTURE)}
    words = [word for word in re.split(r"[;,|/+ ]+", text) if word]
    if not words:
        return None, [f"its class is empty; it holds {_words(classes)}"]
    strange = [word for word in words if word.lower() not in known]
    if strange:
        # not repeated: a column of free text may have been taken for the classes
        return None, [f"its class is not known; it holds {_words(classes)}"]
    names = list(dict.fromkeys(known[word.lower()] for word in words))
    if NO_FRACTURE in names and len(names) > 1:
        return None, [f"it says {NO_FRACTURE} (no fracture) beside a class"]
    own = tuple(sorted(name for name in names if name not in (NO_FRACTURE, FRACTURE)))
    if FRACTURE in names and not own:
        return Reported(fracture=True, classes=None), []
    return Reported(fracture=bool(own), classes=own), []


def _words(classes: Collection[str]) -> str:
    named = ", ".join(sorted(classes))
    return f"{named + ', ' if named else ''}{FRACTURE} (class not said) or {NO_FRACTURE} (no fracture)"
