"""The plainer facts of a header, what travels of them, and the films of a study seen together."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
)

from hipnode.selection import Selection, facts_of, select_study
from hipnode.status import ReasonCode
from tests.factories import make_radiograph
from tests.headers import header, reason

R = ReasonCode


@pytest.fixture(scope="module")
def selection() -> Selection:
    return Selection.load(None)


# Age, calibration, modality, object, own, derived, long leg, implant, exam


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"PatientAge": "017Y"}, "PAEDIATRIC"),
        ({"PatientAge": "018Y"}, "HIP_AP"),
        ({"PatientAge": "216M"}, "HIP_AP"),
        ({"PatientAge": "215M"}, "PAEDIATRIC"),
        ({"PatientAge": "000Y"}, "HIP_AP"),
        ({"PatientAge": "000Y", "SeriesDescription": "Hip child"}, "PAEDIATRIC"),
        ({"PatientAge": "070Y", "SeriesDescription": "Hip child"}, "HIP_AP"),
        ({"StudyDescription": "Hip child"}, "HIP_AP"),
        ({"PatientBirthDate": "20070315", "StudyDate": "20250314"}, "PAEDIATRIC"),
        ({"PatientBirthDate": "20070314", "StudyDate": "20250314"}, "HIP_AP"),
        ({"PatientBirthDate": "20070314", "StudyDate": "20250314", "PatientAge": "004Y"}, "HIP_AP"),
        ({"PatientBirthDate": "20300314", "StudyDate": "20250314", "PatientAge": "004Y"}, "PAEDIATRIC"),
        ({"PatientBirthDate": "20200314"}, "HIP_AP"),
    ],
    ids=str,
)
def test_age(selection: Selection, keywords: dict[str, Any], expected: str) -> None:
    assert reason(selection, **{"BodyPartExamined": "HIP", **keywords}) == expected


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"QualityControlImage": "YES", "BodyPartExamined": "HIP"}, "CALIBRATION"),
        ({"SeriesDescription": "Phantom"}, "CALIBRATION"),
        ({"BodyPartExamined": "PHANTOM"}, "CALIBRATION"),
        ({"SeriesDescription": "Phantom pelvis"}, "HIP_AP"),
        ({"SeriesDescription": "Phantom", "BodyPartExamined": "HIP"}, "HIP_AP"),
        ({"StudyDescription": "Hip", "SeriesDescription": "Flat field"}, "CALIBRATION"),
        ({"Modality": "RF", "BodyPartExamined": "HIP"}, "MODALITY_UNUSUAL"),
        ({"Modality": "DR", "BodyPartExamined": "HIP"}, "HIP_AP"),
        ({"Modality": "CT", "BodyPartExamined": "HIP"}, "OTHER_MODALITY"),
        ({"SOPClassUID": XRayAngiographicImageStorage, "BodyPartExamined": "HIP"}, "OTHER_MODALITY"),
        ({"SOPClassUID": SecondaryCaptureImageStorage, "BodyPartExamined": "HIP"}, "SECONDARY_CAPTURE"),
        (
            {"SOPClassUID": SecondaryCaptureImageStorage, "BodyPartExamined": "HIP", "Modality": "OT"},
            "SCREEN_CAPTURE",
        ),
        (
            {
                "SOPClassUID": SecondaryCaptureImageStorage,
                "BodyPartExamined": "HIP",
                "Modality": "OT",
                "ConversionType": "DF",
            },
            "SECONDARY_CAPTURE",
        ),
        (
            {"SOPClassUID": SecondaryCaptureImageStorage, "BodyPartExamined": "HIP", "ConversionType": "SI"},
            "SCREEN_CAPTURE",
        ),
        (
            {
                "SOPClassUID": SecondaryCaptureImageStorage,
                "BodyPartExamined": "HIP",
                "PhotometricInterpretation": "RGB",
                "SamplesPerPixel": 3,
            },
            "SCREEN_CAPTURE",
        ),
        ({"Rows": None, "SOPClassUID": CTImageStorage}, "NOT_AN_IMAGE"),
        (
            {"BodyPartExamined": "HIP", "PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
            "NOT_GRAYSCALE",
        ),
        ({"BodyPartExamined": "HIP", "NumberOfFrames": "2"}, "MULTI_FRAME"),
        ({"BodyPartExamined": "HIP", "NumberOfFrames": "1"}, "HIP_AP"),
        ({"BodyPartExamined": "HIP", "ImageType": ["DERIVED", "SECONDARY", "OVERLAY"]}, "DERIVED_RESULT"),
        ({"BodyPartExamined": "HIP", "ImageType": ["DERIVED", "SECONDARY", "", "COMPRESSED"]}, "HIP_AP"),
        ({"BodyPartExamined": "HIP", "ManufacturerModelName": "TraumaCad 2.5"}, "DERIVED_RESULT"),
        ({"BodyPartExamined": "HIP", "Manufacturer": "OrthoView"}, "DERIVED_RESULT"),
        ({"BodyPartExamined": "HIP", "ImageType": ["DERIVED", "PRIMARY", "STITCHED"]}, "LONG_LEG"),
        ({"BodyPartExamined": "HIP", "Rows": 5290}, "LONG_LEG"),
        ({"BodyPartExamined": "HIP", "Rows": 5280}, "HIP_AP"),
        ({"BodyPartExamined": "HIP", "StudyDescription": "Leg length"}, "HIP_AP"),
        ({"BodyPartExamined": "HIP", "StudyDescription": "DXA"}, "BONE_DENSITY"),
        ({"BodyPartExamined": "HIP", "StudyDescription": "MR arthrogram"}, "SPECIAL_EXAM"),
        ({"BodyPartExamined": "HIP", "StudyDescription": "C-arm"}, "SPECIAL_EXAM"),
        ({"BodyPartExamined": "HIP", "StudyDescription": "Control after gamma nail"}, "IMPLANT"),
        ({"BodyPartExamined": "HIP", "SeriesDescription": "Hip post-op"}, "IMPLANT"),
        (
            {"BodyPartExamined": "HIP", "SeriesDescription": "THA", "StudyDescription": "fracture?"},
            "IMPLANT_WITH_QUESTION",
        ),
        ({"BodyPartExamined": "HIP", "SeriesDescription": "THA fracture"}, "IMPLANT"),
        ({"BodyPartExamined": "HIP", "PatientSpeciesDescription": "Dog"}, "NOT_HUMAN"),
        ({"BodyPartExamined": "HIP", "PatientSpeciesDescription": "HUMAN"}, "HIP_AP"),
        ({"BodyPartExamined": "HIP", "PatientSpeciesCodeSequence": "448771007^SCT^Canis lupus"}, "NOT_HUMAN"),
        ({"BodyPartExamined": "HIP", "PatientSpeciesCodeSequence": "337915000^SCT^homo sapiens"}, "HIP_AP"),
        ({"BodyPartExamined": "HIP", "Manufacturer": "HIPNODE "}, "OWN_OUTPUT"),
        ({"BodyPartExamined": "HIP", "SecondaryCaptureDeviceManufacturer": "hipnode"}, "OWN_OUTPUT"),
        ({"BodyPartExamined": "HIP", "SOPClassUID": DigitalXRayImageStorageForProcessing}, "FOR_PROCESSING"),
    ],
    ids=str,
)
def test_the_other_facts(selection: Selection, keywords: dict[str, Any], expected: str) -> None:
    assert reason(selection, **keywords) == expected


def test_the_caller_may_know_an_object_as_ours(selection: Selection) -> None:
    facts = facts_of(header(BodyPartExamined="HIP"))
    assert selection.decide(facts, own=True).reason.code == R.OWN_OUTPUT
    ds = header(BodyPartExamined="HIP")
    scheme = Dataset()
    scheme.CodingSchemeDesignator = "99HIPNODE"
    ds.CodingSchemeIdentificationSequence = [scheme]
    assert selection.decide(facts_of(ds)).reason.code == R.OWN_OUTPUT


# Facts


def test_facts_travel_and_name_no_patient() -> None:
    facts = facts_of(make_radiograph(OtherPatientIDs="X123", PatientAddress="Somewhere 7"))
    assert pickle.loads(pickle.dumps(facts)) == facts  # noqa: S301
    told = repr(facts)
    for secret in ("Jörg", "P1000", "19460211", "X123", "Somewhere"):
        assert secret not in told
    assert facts.age_years == 79


def test_values_that_cannot_be_read_are_no_evidence(selection: Selection) -> None:
    ds = header(BodyPartExamined="HIP")
    ds.add_new("ViewPosition", "US", 7)
    ds.add_new("PatientOrientation", "LO", "everywhere")
    ds.add_new("NumberOfFrames", "LO", "one")
    ds.add_new("PatientAge", "LO", "old")
    ds.add_new("ImageType", "OB", b"\0\1")
    ds.add_new("AnatomicRegionSequence", "LO", "hip")
    ds.add_new("StudyDate", "LO", "today")
    assert selection.decide(facts_of(ds)).reason.code == R.HIP_AP
    assert selection.decide(facts_of(Dataset())).reason.code == R.NOT_AN_IMAGE


# Studies


def study_of(selection: Selection, *headers: dict[str, Any]) -> list[Any]:
    made = [facts_of(header(**keywords)) for keywords in headers]
    return [(facts, selection.decide(facts)) for facts in made]


RAW = {
    "SOPClassUID": DigitalXRayImageStorageForProcessing,
    "SOPInstanceUID": "1.2.1",
    "BodyPartExamined": "HIP",
    "AcquisitionDate": "20250314",
    "AcquisitionTime": "101500",
}
SHOWN = {**RAW, "SOPClassUID": DigitalXRayImageStorageForPresentation, "SOPInstanceUID": "1.2.2"}


def test_the_raw_twin_of_a_film_is_left_out(selection: Selection) -> None:
    study = select_study(study_of(selection, RAW, SHOWN))
    assert study.kept == (1,)
    assert study.decisions[0].reason.code == R.TWIN_FOR_PRESENTATION
    assert study.reason is None


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ({"AcquisitionTime": "101900"}, (0, 1)),
        ({"IrradiationEventUID": "1.9"}, (1,)),
        ({"ViewPosition": "LL"}, (0,)),
        ({"AcquisitionTime": None}, (1,)),
        ({"AcquisitionTime": None, "ImageLaterality": "L"}, (0, 1)),
    ],
    ids=str,
)
def test_twins_are_one_exposure(selection: Selection, other: dict[str, Any], kept: tuple[int, ...]) -> None:
    assert select_study(study_of(selection, RAW, {**SHOWN, **other})).kept == kept


def test_a_reference_makes_a_twin(selection: Selection) -> None:
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.1"
    derived = {**SHOWN, "AcquisitionTime": "235959", "SourceImageSequence": [item]}
    assert select_study(study_of(selection, RAW, derived)).kept == (1,)
    assert select_study(study_of(selection, RAW)).kept == (0,), "a raw film alone is analysed, flagged"


def test_a_study_without_our_films_has_the_reason_of_the_nearest_miss(selection: Selection) -> None:
    knee, lateral, screen = (
        {"BodyPartExamined": "KNEE"},
        {"BodyPartExamined": "HIP", "ViewPosition": "LL"},
        {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"},
    )
    for order in ((knee, lateral, screen), (screen, lateral, knee)):
        study = select_study(study_of(selection, *order))
        assert study.kept == ()
        assert study.reason is not None
        assert study.reason.code == R.VIEW_LATERAL
    assert select_study([]).reason is not None


# Real films


@pytest.mark.films
@pytest.mark.filterwarnings("ignore")
def test_real_films_are_decided_as_a_reader_would(selection: Selection, films: Path) -> None:
    from hipnode.headers import read_object

    decided = {
        path.name: str(selection.decide(facts_of(read_object(path, pixels=False)[0])).reason.code)
        for path in sorted(films.glob("*.dcm"))
    }
    expected = {
        "RG2_hip": "HIP_AP",
        "RG3_leg": "OTHER_REGION",
        "RG1_chest": "OTHER_REGION",
        "CR_teeth": "NO_HIP_SIGN",
        "DX_vet": "NOT_HUMAN",
        "CR_cspine": "TOO_SMALL",
    }
    for name, why in decided.items():
        assert why == next(v for k, v in expected.items() if name.startswith(k)), name
