"""A ledger as years of work leave it: rows of studies that were read or refused, with scores and findings."""

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.status import AnalysisStatus, Outcome, ReasonCode
from hipnode.tables import Analysis, AnalysisImage, Base, FinalReport, Finding, Instance, Role, Study

_AT_ONCE = 5000
Row = dict[str, Any]


def fill(
    sessions: sessionmaker[Session],
    studies: int,
    days: float,
    now: datetime,
    *,
    changed: int = 0,
    classes: Sequence[str] = ("DF",),
    reported: bool = False,
) -> None:
    """Studies spread evenly over the days up to `now`, ids from 1, Study Instance UIDs 1.2.<id>.

    One in ten is refused. A class fires in one of five studies that were read, in three of five of the last
    `changed`. With reports, nine of ten of those that fired are fractured, and one in twenty of the others.
    """
    generator = random.Random(3)
    for start in range(1, studies + 1, _AT_ONCE):
        made: dict[type[Base], list[Row]] = {}
        for i in range(start, min(start + _AT_ONCE, studies + 1)):
            at = now - timedelta(days=days * (1 - i / studies))
            chance = 0.6 if i > studies - changed else 0.2
            for table, row in _study(i, at, chance, classes, reported, generator):
                made.setdefault(table, []).append(row)
        with ledger.transaction(sessions) as session:
            for table in (Study, Instance, Analysis, AnalysisImage, Finding, FinalReport):
                if table in made:
                    session.execute(insert(table), made[table])


def _study(
    i: int, at: datetime, chance: float, classes: Sequence[str], reported: bool, generator: random.Random
) -> Iterator[tuple[type[Base], Row]]:
    refused = generator.random() < 0.1
    name = None if refused or generator.random() >= chance else generator.choice(classes)
    outcome = None if refused else Outcome.NONE if name is None else Outcome.FINDINGS
    scores = {each: round(generator.random() / 3, 4) for each in classes} | ({name: 0.9} if name else {})
    yield (
        Study,
        {
            "id": i,
            "study_instance_uid": f"1.2.{i}",
            "accession_number": f"A{i}",
            "patient_id": "P",
            "received_at": at,
            "updated_at": at,
        },
    )
    yield (
        Instance,
        {
            "id": i,
            "study_id": i,
            "sop_instance_uid": f"1.3.{i}",
            "revision": 1,
            "series_instance_uid": "1",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "sha256": f"{i:064d}",
            "size_bytes": 1,
            "relative_path": "r",
            "role": Role.SOURCE,
            "reason_code": None,
            "calling_ae_title": generator.choice(("PACS", "PACS", "EMERGENCY")),
            "peer_address": "10.0.0.1",
            "received_at": at,
        },
    )
    yield (
        Analysis,
        {
            "id": i,
            "study_id": i,
            "number": 1,
            "package_id": None if refused else "hip",
            "package_sha256": None if refused else "f" * 64,
            "shadow": False,
            "status": AnalysisStatus.NOT_APPLICABLE if refused else AnalysisStatus.COMPLETED,
            "outcome": outcome,
            "reason_code": ReasonCode.IMPLANT if refused else None,
            "reason": None,
            "receiving_since": at,
            "last_instance_at": at,
            "queued_at": at,
            "analysed_at": at,
            "ended_at": at + timedelta(seconds=generator.gammavariate(4, 5)),
            "asked_by": None,
            "created_at": at,
            "updated_at": at,
        },
    )
    yield (
        AnalysisImage,
        {
            "id": i,
            "analysis_id": i,
            "instance_id": i,
            "decision": "skip" if refused else "analyse",
            "rule": "r",
            "flags": [],
            "outcome": outcome,
            "reason_code": None,
            "reason": None,
            "scores": None if refused else scores,
        },
    )
    if name:
        corners = {"column_min": 0, "row_min": 0, "column_max": 1, "row_max": 1}
        yield Finding, {"analysis_image_id": i, "class_name": name, "score": 0.9, **corners}
    if reported:
        fracture = generator.random() < (0.9 if name else 0.05)
        said = ([name] if name else None) if fracture else []
        yield (
            FinalReport,
            {
                "study_id": i,
                "fracture": fracture,
                "classes": said,
                "imported_at": at,
                "imported_by": "someone",
            },
        )
