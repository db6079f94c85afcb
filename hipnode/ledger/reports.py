"""Final reports of studies: matched to what this node received, kept without their text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import insert, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from hipnode.ledger.events import note
from hipnode.tables import FinalReport, Study
from hipnode.watched import Imported, Reported, ReportRow

T = TypeVar("T")
_AT_ONCE = 500  # bound parameters of one query; SQLite allows 32,766


@dataclass(frozen=True)
class Matched:
    """Rows of an import and the studies they mean.

    found: study id -> the row that speaks of it; unknown: rows of studies this node never received
    problems: (row, what is wrong and what to do), which names no study
    """

    found: dict[int, ReportRow]
    unknown: tuple[int, ...]
    problems: tuple[tuple[int, str], ...]


def match_reports(session: Session, rows: Sequence[ReportRow]) -> Matched:
    """Find the study of each row: by Study Instance UID where the row has one, else by accession number."""
    by_uid = dict(_lookup(session, Study.study_instance_uid, (r.study_instance_uid for r in rows)))
    by_number: dict[str, list[Study]] = {}
    for number, study in _lookup(session, Study.accession_number, (r.accession_number for r in rows)):
        by_number.setdefault(number, []).append(study)
    found: dict[int, ReportRow] = {}
    unknown, problems = [], []
    for row in rows:
        if row.study_instance_uid:
            known = by_uid.get(row.study_instance_uid)
            studies = [known] if known else []
            if known and row.accession_number and known.accession_number not in ("", row.accession_number):
                says = (
                    "its Study Instance UID and its accession number belong to two studies; mend one of them"
                )
                problems.append((row.row, says))
                continue
        else:
            studies = by_number.get(row.accession_number, [])
        if len(studies) > 1:
            says = f"its accession number is that of {len(studies)} studies; give the Study Instance UID"
            problems.append((row.row, says))
        elif not studies:
            unknown.append(row.row)
        elif (before := found.setdefault(studies[0].id, row)).report != row.report:
            says = (
                f"row {before.row} says something else of the same study; give one row for each study, "
                "several classes with ; between them"
            )
            problems.append((row.row, says))
    return Matched(found, tuple(unknown), tuple(problems))


def record_reports(session: Session, matched: Matched, who: str, now: datetime) -> Imported:
    """Keep the reports of an import; one that says something new takes the place of the one before.

    An import leaves one line in the history, and one at each study whose report changed.
    """
    known = {
        report.study_id: report
        for some in _batches(matched.found)
        for report in session.scalars(select(FinalReport).where(FinalReport.study_id.in_(some)))
    }
    fresh, changed, same, by = [], 0, 0, who[:128]
    for study_id, row in matched.found.items():
        fracture = row.report.fracture
        classes = None if row.report.classes is None else list(row.report.classes)
        before = known.get(study_id)
        if before is None:
            fresh.append(
                {"study_id": study_id, "fracture": fracture, "classes": classes, "imported_at": now}
                | {"imported_by": by}
            )
        elif said(before) == row.report:
            same += 1
        else:
            changed += 1
            why = f"the final report says {_words(row.report)}, it said {_words(said(before))}"
            note(session, now, who, "report", study_id=study_id, why=why)
            before.fracture, before.classes = fracture, classes
            before.imported_at, before.imported_by = now, by
    if fresh:
        session.execute(insert(FinalReport), fresh)
    imported = Imported(len(fresh), changed, same, matched.unknown)
    why = f"import: {imported.new} new, {imported.changed} changed, {imported.same} known"
    note(session, now, who, "reports", why=why)
    return imported


def said(report: FinalReport) -> Reported:
    """A report of the ledger as a plain value."""
    return Reported(report.fracture, None if report.classes is None else tuple(report.classes))


def _words(report: Reported) -> str:
    if report.classes is None:
        return "fracture"
    return ", ".join(report.classes) or "no fracture"


def _lookup(
    session: Session, column: InstrumentedAttribute[str], values: Iterable[str]
) -> Iterator[tuple[str, Study]]:
    """(value, study) of the studies that have one of these values, "" left out."""
    for some in _batches({value for value in values if value}):
        for study in session.scalars(select(Study).where(column.in_(some)).order_by(Study.id)):
            yield getattr(study, column.key), study


def _batches(values: Iterable[T]) -> Iterator[list[T]]:
    listed = list(values)
    for start in range(0, len(listed), _AT_ONCE):
        yield listed[start : start + _AT_ONCE]
