"""Every case of selection-cases.csv: headers as they are met, and what becomes of them."""

import csv
from pathlib import Path
from typing import Any

import pydicom.uid
import pytest
from pydicom.dataset import Dataset

from hipnode.selection import Selection, facts_of

CASES = list(csv.DictReader((Path(__file__).parent / "selection-cases.csv").read_text("utf-8").splitlines()))
_NOT_ATTRIBUTES = {"id", "expected_decision", "expected_reason", "note"}
_SEQUENCES = {
    "AnatomicRegion": "AnatomicRegionSequence",
    "ViewCode": "ViewCodeSequence",
    "PerformedProtocolCode": "PerformedProtocolCodeSequence",
    "ProcedureCode": "ProcedureCodeSequence",
}


def items(text: str) -> list[Dataset]:
    made = []
    for code in text.split("\\"):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.split("^")
        made.append(item)
    return made


def dataset_of(row: dict[str, str]) -> Dataset:
    """The header a row describes; empty columns are absent attributes."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    given = {k: v for k, v in row.items() if v and k not in _NOT_ATTRIBUTES}
    for column, text in given.items():
        value: Any = text
        if column == "SOPClass":
            ds.SOPClassUID = getattr(pydicom.uid, text)
        elif column in _SEQUENCES:
            setattr(ds, _SEQUENCES[column], items(text))
        elif column != "ViewModifier":
            if column in ("Rows", "Columns", "SamplesPerPixel"):
                value = int(text)
            elif column in ("ImageType", "PatientOrientation"):
                value = text.split("\\")
            setattr(ds, column, value)
    if "ViewModifier" in given:
        if "ViewCodeSequence" not in ds:
            ds.ViewCodeSequence = [Dataset()]
        ds.ViewCodeSequence[0].ViewModifierCodeSequence = items(given["ViewModifier"])
    return ds


@pytest.fixture(scope="module")
def selection() -> Selection:
    return Selection.load(None)


@pytest.mark.parametrize("row", CASES, ids=[row["id"] for row in CASES])
def test_the_shipped_rules_decide_as_the_case_says(row: dict[str, str], selection: Selection) -> None:
    decision = selection.decide(facts_of(dataset_of(row)))
    assert (decision.decision, decision.reason.code) == (row["expected_decision"], row["expected_reason"]), (
        row["note"]
    )
