"""The check every object passes before it leaves: attributes, references, UIDs, text, template.

attribute_types.json holds the type 1 and 2 attributes of the modules of our IODs (PS3.3 annex A), taken
from the tables highdicom carries (22 MB of JSON, too much to load in every worker); a test
compares the two. Conditional attributes that our objects need are checked by name below.

Values carried over from a source are judged as what they may be: a source's UID may have a
leading zero and must still be referred to as it is.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, SecondaryCaptureImageStorage

from hipnode.errors import SelfCheckFailed
from hipnode.results import codes
from hipnode.results.headers import MAX_LENGTH, clean
from hipnode.results.identity import CODING_SCHEME_UID, MANUFACTURER, SR_CLASSES

#: Value type -> the attribute that holds its value (PS3.3 table C.17.3-1).
_VALUE_OF = {
    "CODE": "ConceptCodeSequence",
    "CONTAINER": "ContinuityOfContent",
    "IMAGE": "ReferencedSOPSequence",
    "NUM": "MeasuredValueSequence",
    "SCOORD": "GraphicData",
    "TEXT": "TextValue",
    "UIDREF": "UID",
}
_OUR_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "MediaStorageSOPInstanceUID")
_TEXT_VRS = frozenset({"CS", "LO", "SH", "ST", "LT", "UT", "UC", "PN", "DA", "TM", "AS", "AE"})


def check_result(ds: Dataset) -> None:
    """Judge a finished object. Raises SelfCheckFailed whose sentence names the attribute."""
    _check_types(ds)
    _check_values(ds, ())
    _check_identity(ds)
    _check_schemes(ds)
    if ds.SOPClassUID == SecondaryCaptureImageStorage:
        _check_overlay(ds)
    else:
        _check_report(ds)


def _fail(what: str, path: tuple[str, ...] | str) -> SelfCheckFailed:
    parts = (path,) if isinstance(path, str) else path
    return SelfCheckFailed(f"{'/'.join(parts)}: {what}.")


@lru_cache(1)
def _tables() -> dict[str, dict[str, str]]:
    """SOP Class UID -> attribute path -> type, of the modules our objects use."""
    text = resources.files("hipnode.results").joinpath("attribute_types.json").read_text("utf-8")
    raw = json.loads(text)
    return {
        uid: {path: kind for module in modules for path, kind in raw["modules"][module].items()}
        for uid, modules in raw["iods"].items()
    }


def _check_types(ds: Dataset) -> None:
    table = _tables().get(str(ds.get("SOPClassUID", "")))
    if table is None:
        raise _fail("is not a class of object hipnode makes", "SOPClassUID")
    for path, kind in table.items():
        *sequences, keyword = path.split("/")
        for item in _items_at(ds, sequences):
            if keyword not in item:
                raise _fail(f"is missing (type {kind})", (*sequences, keyword))
            if kind == "1" and _is_empty(item[keyword]):
                raise _fail("is empty (type 1)", (*sequences, keyword))


def _items_at(ds: Dataset, sequences: list[str]) -> Iterator[Dataset]:
    if not sequences:
        yield ds
        return
    for item in ds.get(sequences[0]) or []:
        yield from _items_at(item, sequences[1:])


def _is_empty(element: DataElement) -> bool:
    value = element.value
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _check_values(ds: Dataset, path: tuple[str, ...]) -> None:
    """Length, form and number of every value (PS3.5 table 6.2-1)."""
    for element in ds:
        here = (*path, element.keyword or str(element.tag))
        if element.VR == "SQ":
            for item in element.value:
                _check_values(item, here)
            continue
        values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
        if dictionary_VM(element.tag) == "1" and len(values) > 1:
            raise _fail("has several values and may have one", here)
        for value in values:
            if value in (None, ""):
                continue
            _check_value(element.VR, value, here)


def _check_value(vr: str, value: object, here: tuple[str, ...]) -> None:
    if vr == "UI":
        if not re.fullmatch(r"[0-9.]{1,64}", str(value)):
            raise _fail("is no UID", here)
    elif vr in _TEXT_VRS:
        text = str(value)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _fail("cannot be written in ISO_IR 192", here) from error
        if clean(text, vr) != text.strip():
            what = f"is not a {vr} value"
            if len(text) > MAX_LENGTH.get(vr, len(text)):
                what = f"is longer than the {MAX_LENGTH[vr]} characters of {vr}"
            raise _fail(what, here)


def _check_identity(ds: Dataset) -> None:
    if ds.get("SpecificCharacterSet") != "ISO_IR 192":
        raise _fail("is not ISO_IR 192, in which the text is written", "SpecificCharacterSet")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        uid = UID(str(ds[keyword].value))
        if not (uid.is_valid and uid.startswith("2.25.")):
            raise _fail("is not a UID of hipnode", keyword)
    if ds.get("Manufacturer") != MANUFACTURER:
        raise _fail("does not name hipnode, so the object would not be known again", "Manufacturer")
    for keyword in ("ManufacturerModelName", "SoftwareVersions", "DeviceUID", "TimezoneOffsetFromUTC"):
        if not ds.get(keyword):
            raise _fail("is missing", keyword)
    meta = getattr(ds, "file_meta", None)
    if meta is None or meta.get("MediaStorageSOPInstanceUID") != ds.SOPInstanceUID:
        raise _fail("is not the object's SOP Instance UID", "MediaStorageSOPInstanceUID")
    if meta.get("MediaStorageSOPClassUID") != ds.SOPClassUID:
        raise _fail("is not the object's SOP Class UID", "MediaStorageSOPClassUID")


def _check_schemes(ds: Dataset) -> None:
    """Codes are whole (PS3.3 8.8), and the private scheme is identified."""
    listed = {
        item.get("CodingSchemeDesignator"): item.get("CodingSchemeUID")
        for item in ds.get("CodingSchemeIdentificationSequence") or []
    }
    if listed.get(codes.SCHEME) != CODING_SCHEME_UID:
        raise _fail(f"does not identify {codes.SCHEME}", "CodingSchemeIdentificationSequence")
    for path, item in _walk(ds, ()):
        if "CodeMeaning" not in item and "CodeValue" not in item:
            continue
        if not item.get("CodeMeaning"):
            raise _fail("is missing", (*path, "CodeMeaning"))
        if not item.get("CodingSchemeDesignator"):
            raise _fail("is missing", (*path, "CodingSchemeDesignator"))
        if not (item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")):
            raise _fail("is missing", (*path, "CodeValue"))


def _walk(ds: Dataset, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Dataset]]:
    yield path, ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from _walk(item, (*path, element.keyword))


# --- Overlay -------------------------------------------------------------------------------------


def _check_overlay(ds: Dataset) -> None:
    if ds.get("PhotometricInterpretation") != "RGB" or ds.get("SamplesPerPixel") != 3:
        raise _fail("is not RGB", "PhotometricInterpretation")
    if "PlanarConfiguration" not in ds:
        raise _fail("is missing (type 1C)", "PlanarConfiguration")
    count = ds.Rows * ds.Columns * 3
    if len(ds.get("PixelData") or b"") != count + count % 2:
        raise _fail("does not hold Rows x Columns x 3 bytes", "PixelData")
    if ds.get("BodyPartExamined") != "PELVIS" and "Laterality" not in ds:
        raise _fail("is missing (type 2C for a paired body part)", "Laterality")
    if ds.get("Laterality") not in (None, "", "R", "L"):
        raise _fail("is neither R nor L", "Laterality")
    expected = {"Modality": "OT", "ConversionType": "WSD", "BurnedInAnnotation": "YES"}
    for keyword, value in expected.items():
        if ds.get(keyword) != value:
            raise _fail(f"is not {value}", keyword)
    if list(ds.get("ImageType") or [])[:2] != ["DERIVED", "SECONDARY"]:
        raise _fail("does not begin with DERIVED, SECONDARY", "ImageType")
    if ds.get("LossyImageCompression") not in ("00", "01"):
        raise _fail("is neither 00 nor 01", "LossyImageCompression")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if keyword in ds:
            raise _fail("invites to measure in an overlay", keyword)
    for item in ds.get("SourceImageSequence") or []:
        _check_reference(item, ("SourceImageSequence",))
        if not item.get("PurposeOfReferenceCodeSequence"):
            raise _fail("is missing", ("SourceImageSequence", "PurposeOfReferenceCodeSequence"))
    if not ds.get("DerivationDescription"):
        raise _fail("is missing", "DerivationDescription")


def _check_reference(item: Dataset, path: tuple[str, ...]) -> None:
    for keyword in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"):
        if not item.get(keyword):
            raise _fail("is missing (type 1)", (*path, keyword))


# --- Report --------------------------------------------------------------------------------------


def _check_report(ds: Dataset) -> None:
    """TID 1500 as we write it."""
    if ds.SOPClassUID not in SR_CLASSES.values():
        raise _fail("is not a class of report hipnode makes", "SOPClassUID")
    root = ("ContentSequence",)
    if _name(ds) != codes.IMAGING_MEASUREMENT_REPORT.value or ds.get("ValueType") != "CONTAINER":
        raise _fail("is not (126000, DCM, Imaging Measurement Report)", "ConceptNameCodeSequence")
    template = (ds.get("ContentTemplateSequence") or [Dataset()])[0]
    if template.get("TemplateIdentifier") != "1500" or template.get("MappingResource") != "DCMR":
        raise _fail("is not TID 1500 of DCMR", ("ContentTemplateSequence", "TemplateIdentifier"))
    top = {_name(item): item for item in ds.get("ContentSequence") or []}
    needed = (
        codes.LANGUAGE,
        codes.OBSERVER_TYPE,
        codes.DEVICE_UID,
        codes.PROCEDURE_REPORTED,
        codes.QUALITATIVE_EVALUATIONS,
    )
    for code in needed:
        if code.value not in top:
            raise _fail(f"has no {code.meaning}", root)
    evaluations = top[codes.QUALITATIVE_EVALUATIONS.value].get("ContentSequence") or []
    if any(item.get("ValueType") not in ("CODE", "TEXT") for item in evaluations):
        raise _fail("holds more than CODE and TEXT (TID 1500 row 12)", (*root, "Qualitative Evaluations"))
    said = {_name(item): item for item in evaluations}
    if codes.SUMMARY.value not in said or codes.COMMENT.value not in said:
        raise _fail("does not state the outcome", (*root, "Qualitative Evaluations"))
    measurements = top.get(codes.IMAGING_MEASUREMENTS.value)
    groups = (measurements.get("ContentSequence") or []) if measurements is not None else []
    if measurements is not None and not groups:
        raise _fail("is empty", (*root, "Imaging Measurements"))
    for group in groups:
        _check_group(group, (*root, "Imaging Measurements", "Measurement Group"))
    _check_items(ds, root, _evidence_of(ds))


def _check_group(group: Dataset, path: tuple[str, ...]) -> None:
    children = group.get("ContentSequence") or []
    names = [_name(item) for item in children]
    for code in (codes.TRACKING_IDENTIFIER, codes.TRACKING_UID, codes.FINDING, codes.ALGORITHM_NAME):
        if code.value not in names:
            raise _fail(f"has no {code.meaning}", path)
    regions = [item for item in children if item.get("ValueType") == "SCOORD"]
    if len(regions) != 1:
        raise _fail("does not hold one SCOORD, without which viewers fail", path)
    region = regions[0]
    points = list(region.get("GraphicData") or [])
    if region.get("GraphicType") != "POLYLINE" or len(points) != 10 or points[:2] != points[-2:]:
        raise _fail("is not a closed polyline of five points", (*path, "GraphicData"))
    if any(not abs(value) < 1e6 for value in points):
        raise _fail("holds a value that is no coordinate", (*path, "GraphicData"))
    inner = region.get("ContentSequence") or []
    if [item.get("ValueType") for item in inner] != ["IMAGE"]:
        raise _fail("is not selected from one image", (*path, "Image Region"))


def _check_items(item: Dataset, path: tuple[str, ...], evidence: set[tuple[str, str]]) -> None:
    for child in item.get("ContentSequence") or []:
        kind = child.get("ValueType")
        if not child.get("RelationshipType"):
            raise _fail("is missing (type 1)", (*path, "RelationshipType"))
        if kind not in _VALUE_OF:
            raise _fail(f"is {kind!r}", (*path, "ValueType"))
        if not _name(child):
            raise _fail("is missing (type 1C)", (*path, "ConceptNameCodeSequence"))
        if not child.get(_VALUE_OF[kind]):
            raise _fail("is missing", (*path, _VALUE_OF[kind]))
        if kind == "NUM" and not child.MeasuredValueSequence[0].get("MeasurementUnitsCodeSequence"):
            raise _fail("is missing", (*path, "MeasuredValueSequence", "MeasurementUnitsCodeSequence"))
        if kind == "IMAGE":
            reference = child.ReferencedSOPSequence[0]
            _check_reference(reference, (*path, "ReferencedSOPSequence"))
            if (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) not in evidence:
                raise _fail("does not list an image of the tree", "CurrentRequestedProcedureEvidenceSequence")
        _check_items(child, (*path, "ContentSequence"), evidence)


def _evidence_of(ds: Dataset) -> set[tuple[str, str]]:
    return {
        (reference.get("ReferencedSOPClassUID"), reference.get("ReferencedSOPInstanceUID"))
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence") or []
        for series in study.get("ReferencedSeriesSequence") or []
        for reference in series.get("ReferencedSOPSequence") or []
    }


def _name(item: Dataset) -> str:
    found = item.get("ConceptNameCodeSequence") or []
    return str(found[0].get("CodeValue", "")) if found else ""
