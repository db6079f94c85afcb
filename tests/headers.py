"""Headers of few words, and what selection makes of them."""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from hipnode.selection import Decision, Selection, facts_of


def code(text: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = text.split("^")
    return item


def header(**keywords: Any) -> Dataset:
    """A CR that says nothing but what is given; text for a sequence is code^scheme^meaning."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.Modality = "CR"
    ds.Rows, ds.Columns = 2140, 1760
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.SamplesPerPixel = 1
    for keyword, value in keywords.items():
        if keyword.endswith("Sequence") and isinstance(value, str):
            value = [code(text) for text in value.split("\\")]
        setattr(ds, keyword, value)
    return ds


def decide(selection: Selection, **keywords: Any) -> Decision:
    return selection.decide(facts_of(header(**keywords)))


def reason(selection: Selection, **keywords: Any) -> str:
    return str(decide(selection, **keywords).reason.code)
