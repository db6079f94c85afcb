"""The node's own check of its objects: it passes what is sound and names what is broken."""

import copy
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom.dataset import Dataset

from hipnode.errors import SelfCheckFailed
from hipnode.results import build_results, check_result, codes
from hipnode.status import ReasonCode
from tests.factories import make_radiograph
from tests.readings import (
    ALGORITHM,
    ANALYSED_AT,
    DISPLACED,
    INSTALLATION,
    header_of,
    image,
    radiograph,
    study,
)

SOURCE = header_of(make_radiograph("DX"))
REPORT, OVERLAY = (
    result.dataset
    for result in build_results(
        [SOURCE],
        study(image(SOURCE, DISPLACED)),
        ALGORITHM,
        INSTALLATION,
        1,
        ANALYSED_AT,
        images={SOURCE.SOPInstanceUID: radiograph(SOURCE)},
    )
)


def child(ds: Dataset, name: str) -> Dataset:
    """The item of a content sequence with this code value."""
    return next(i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == name)


def group(ds: Dataset) -> Dataset:
    return child(child(ds, codes.IMAGING_MEASUREMENTS.value), codes.MEASUREMENT_GROUP.value)


def drop(ds: Dataset, name: str) -> None:
    """Remove the item of a content sequence with this code value."""
    kept = [i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue != name]
    del ds["ContentSequence"]
    ds.ContentSequence = kept


def region(ds: Dataset) -> Dataset:
    return child(group(ds), codes.IMAGE_REGION.value)


def without(keyword: str) -> Callable[[Dataset], None]:
    return lambda ds: ds.__delattr__(keyword)


def having(keyword: str, value: Any) -> Callable[[Dataset], None]:
    return lambda ds: ds.__setattr__(keyword, value)


BROKEN_REPORTS: dict[str, Callable[[Dataset], None]] = {
    "PatientName": without("PatientName"),
    "StudyInstanceUID": having("StudyInstanceUID", ""),
    "ContentDate": without("ContentDate"),
    "CompletionFlag": having("CompletionFlag", ""),
    "PerformedProcedureCodeSequence": without("PerformedProcedureCodeSequence"),
    "SpecificCharacterSet": having("SpecificCharacterSet", "ISO_IR 100"),
    "SOPInstanceUID": having("SOPInstanceUID", "1.2.3"),
    "SOPClassUID": having("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
    "Manufacturer": having("Manufacturer", "somebody"),
    "DeviceUID": without("DeviceUID"),
    "TimezoneOffsetFromUTC": without("TimezoneOffsetFromUTC"),
    "CodingSchemeIdentificationSequence": without("CodingSchemeIdentificationSequence"),
    "CurrentRequestedProcedureEvidenceSequence": without("CurrentRequestedProcedureEvidenceSequence"),
    "TemplateIdentifier": lambda ds: ds.ContentTemplateSequence[0].__setattr__("TemplateIdentifier", "1411"),
    "Language of Content": lambda ds: drop(ds, codes.LANGUAGE.value),
    "Qualitative Evaluations": lambda ds: drop(ds, codes.QUALITATIVE_EVALUATIONS.value),
    "state the outcome": lambda ds: drop(child(ds, codes.QUALITATIVE_EVALUATIONS.value), codes.SUMMARY.value),
    "Tracking Unique Identifier": lambda ds: drop(group(ds), codes.TRACKING_UID.value),
    "SCOORD": lambda ds: drop(group(ds), codes.IMAGE_REGION.value),
    "GraphicData": lambda ds: region(ds).__setattr__("GraphicData", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    "coordinate": lambda ds: region(ds).__setattr__("GraphicData", [float("nan")] * 10),
    "one image": lambda ds: region(ds).__delattr__("ContentSequence"),
    "CodeMeaning": lambda ds: child(ds, "121058").ConceptCodeSequence[0].__delattr__("CodeMeaning"),
    "MeasurementUnitsCodeSequence": lambda ds: (
        child(group(ds), codes.SCORE.value)
        .MeasuredValueSequence[0]
        .__delattr__("MeasurementUnitsCodeSequence")
    ),
    "TextValue": lambda ds: child(group(ds), codes.COMMENT.value).__setattr__("TextValue", ""),
    "RelationshipType": lambda ds: group(ds).__delattr__("RelationshipType"),
    "MediaStorageSOPInstanceUID": lambda ds: ds.file_meta.__setattr__("MediaStorageSOPInstanceUID", "2.25.1"),
}

BROKEN_OVERLAYS: dict[str, Callable[[Dataset], None]] = {
    "PatientID": without("PatientID"),
    "ConversionType": without("ConversionType"),
    "Modality": having("Modality", "DX"),
    "Rows": having("Rows", None),
    "PixelData": lambda ds: ds.__setattr__("PixelData", ds.PixelData[:-2]),
    "PlanarConfiguration": without("PlanarConfiguration"),
    "PhotometricInterpretation": having("PhotometricInterpretation", "YBR_FULL"),
    "Laterality": without("Laterality"),
    "BurnedInAnnotation": having("BurnedInAnnotation", "NO"),
    "ImageType": having("ImageType", ["ORIGINAL", "PRIMARY"]),
    "PixelSpacing": having("PixelSpacing", [0.1, 0.1]),
    "ReferencedSOPInstanceUID": lambda ds: ds.SourceImageSequence[0].__delattr__("ReferencedSOPInstanceUID"),
    "PurposeOfReferenceCodeSequence": lambda ds: ds.SourceImageSequence[0].__delattr__(
        "PurposeOfReferenceCodeSequence"
    ),
    "LossyImageCompression": without("LossyImageCompression"),
}


@pytest.mark.parametrize("ds", [REPORT, OVERLAY], ids=["report", "overlay"])
def test_a_sound_object_passes(ds: Dataset) -> None:
    check_result(ds)


def same(ds: Dataset) -> Dataset:
    """A copy that may be broken."""
    made = copy.deepcopy(ds)
    made.file_meta = copy.deepcopy(ds.file_meta)
    return made


@pytest.mark.parametrize("attribute", BROKEN_REPORTS)
def test_a_broken_report_is_refused_and_the_attribute_named(attribute: str) -> None:
    ds = same(REPORT)
    BROKEN_REPORTS[attribute](ds)
    with pytest.raises(SelfCheckFailed, match=attribute) as caught:
        check_result(ds)
    assert caught.value.code is ReasonCode.SELF_CHECK_FAILED


@pytest.mark.parametrize("attribute", BROKEN_OVERLAYS)
def test_a_broken_overlay_is_refused_and_the_attribute_named(attribute: str) -> None:
    ds = same(OVERLAY)
    BROKEN_OVERLAYS[attribute](ds)
    with pytest.raises(SelfCheckFailed, match=attribute):
        check_result(ds)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the values that are set wrong on purpose
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "7" * 65),
        ("AccessionNumber", "A" * 17),
        ("StudyDate", "2025-03-14"),
        ("StudyTime", "noon"),
        ("StudyDescription", "a\x07b"),
        ("StudyInstanceUID", "1.2.x"),
        ("PatientID", ["A", "B"]),
        ("PatientName", "L" * 65),
        ("StudyID", "\ud800"),
    ],
)
def test_a_value_its_vr_does_not_allow_is_refused(keyword: str, value: Any) -> None:
    ds = same(OVERLAY)
    setattr(ds, keyword, value)
    with pytest.raises(SelfCheckFailed, match=keyword):
        check_result(ds)


def test_no_sentence_of_a_refusal_repeats_a_value() -> None:
    ds = same(OVERLAY)
    ds.PatientBirthDate = "19460211"
    ds.StudyDescription = "CANARY" * 11
    with pytest.raises(SelfCheckFailed) as caught:
        check_result(ds)
    assert "CANARY" not in str(caught.value)


def test_the_attribute_types_are_those_of_the_standard() -> None:
    """Regenerate attribute_types.json from what this computes when highdicom brings a newer standard."""
    classes, modules, attributes = get_sop_class_iod_map(), get_iod_module_map(), get_module_attribute_map()
    stored = json.loads(
        resources.files("hipnode.results").joinpath("attribute_types.json").read_text("utf-8")
    )
    assert set(stored["iods"]) == {REPORT.SOPClassUID, OVERLAY.SOPClassUID, "1.2.840.10008.5.1.4.1.1.88.34"}
    expected: dict[str, dict[str, Any]] = {"iods": {}, "modules": {}}
    for uid in stored["iods"]:
        # The table of SR Document Content lists every value type's attributes as if all applied at once.
        keys = [
            module["key"]
            for module in modules[classes[uid]]
            if (module["usage"] == "M" and module["key"] != "sr-document-content")
            or module["key"] == "general-equipment"
        ]
        expected["iods"][uid] = keys
        for key in keys:
            expected["modules"][key] = {
                "/".join([*row["path"], row["keyword"]]): row["type"]
                for row in attributes[key]
                if row["type"] in ("1", "2")
            }
    assert stored == expected


def test_the_published_code_list_is_the_one_in_use() -> None:
    page = (Path(__file__).parents[1] / "docs" / "codes.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| HN-")
    ]
    published = {row[0]: row[1] for row in rows}
    assert published == {code.value: code.meaning for code in codes.private_codes()}


def test_private_codes_are_legal_and_different() -> None:
    private = codes.private_codes()
    assert len({code.value for code in private}) == len(private)
    assert all(len(code.value) <= 16 and 0 < len(code.meaning) <= 64 for code in private)
    for code in ReasonCode:
        assert codes.reason_code(code).scheme_designator == codes.SCHEME
