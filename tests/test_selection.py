"""How facts are worked out of headers: each paragraph of docs/selection.md, with headers of its own."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
)

from hipnode.selection import Decision, Selection, facts_of, select_study
from hipnode.status import ReasonCode
from tests.factories import make_radiograph

R = ReasonCode


@pytest.fixture(scope="module")
def selection() -> Selection:
    return Selection.load(None)


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


# Principles


def test_silence_raises_no_flag(selection: Selection) -> None:
    decision = decide(selection, BodyPartExamined="HIP")
    assert (decision.decision, decision.flags) == ("analyse", ())
    assert decision.package == "hip-damoyolo-t-phantom"
    assert decision.rule == "hip AP"


def test_all_flags_are_kept_and_the_first_is_the_reason(selection: Selection) -> None:
    decision = decide(
        selection,
        SOPClassUID=DigitalXRayImageStorageForProcessing,
        BodyPartExamined="CHEST",
        SeriesDescription="Pelvis",
        ViewPosition="PA",
    )
    assert decision.decision == "analyse_flag"
    assert [flag.code for flag in decision.flags] == [R.FOR_PROCESSING, R.REGION_CONFLICT, R.VIEW_PA]
    assert decision.reason == decision.flags[0]
    assert decision.matched == ("raw pixels", "region contradicts", "PA", "hip AP")


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        (
            {"BodyPartExamined": "ABDOMEN", "SeriesDescription": "Pelvis AP"},
            "SeriesDescription says PELVIS, BodyPartExamined says ABDOMEN.",
        ),
        (
            {"BodyPartExamined": "HIP", "SeriesDescription": "Knee ap"},
            "BodyPartExamined says HIP, SeriesDescription says KNEE.",
        ),
        (
            {"BodyPartExamined": "HIP", "ViewPosition": "AP", "SeriesDescription": "Hip axial left"},
            "ViewPosition says AP, SeriesDescription says AXIAL.",
        ),
        ({"BodyPartExamined": "KNEE"}, "The header names KNEE, not hip or pelvis."),
        ({"BodyPartExamined": "HIP", "SeriesDescription": "Frosch / frog-leg"}, "FROG: not a straight AP."),
        ({"BodyPartExamined": "HIP", "Modality": "US"}, "Modality US is not projection radiography."),
        ({"BodyPartExamined": "HIP", "Rows": 100}, "100 x 1760 is under 512 px."),
        (
            {"SOPClassUID": CTImageStorage},
            "Only CR, DX and digitised films are read; this is CT Image Storage.",
        ),
        (
            {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"},
            "Secondary capture of a screen, report or workstation (none).",
        ),
        ({"BodyPartExamined": "HIP", "PatientAge": "004Y"}, "Patient under 18."),
    ],
)
def test_sentences_name_the_witnesses(selection: Selection, keywords: dict[str, Any], sentence: str) -> None:
    assert decide(selection, **keywords).reason.sentence == sentence


def test_every_attribute_looked_at_has_a_vote(selection: Selection) -> None:
    votes = {
        v.attribute: v
        for v in decide(
            selection, BodyPartExamined="HIP", SeriesDescription="Hip ap/lat", PatientAge="070Y"
        ).votes
    }
    assert votes["BodyPartExamined"].vote == "region hip"
    assert votes["SeriesDescription"].vote == "region hip; view list"
    assert votes["SeriesDescription"].value == "Hip ap/lat"
    assert votes["StudyDescription"].value == votes["StudyDescription"].vote == ""
    assert votes["PatientAge"].value == "70 years"


# Folding and matching


@pytest.mark.parametrize(
    "text",
    [
        "hip",
        "HipAP",
        "hip_ap",
        "HÜFTE",
        "Hu\u0308fte rechts",
        "hoftled",
        "Høfte",
        "Höft",
        "BECKENÜBERSICHT",
        "Kyčel",
        "Kyčle",
        "Biodro prawe",
        "KALÇA",
        "kalça grafisi",
        "Łódź: biodro",
        "ЛЕВЫЙ ТАЗОБЕДРЕННЫЙ",
        "шейка бедра",
        "Ισχίο",
        "両股関節",
        "左股関節正面",
        "大腿骨頸部 正面",
        "骨盆平片",
        "고관절AP",
        "대퇴골경부",
        "الحوض",
        "אגן",
        "ข้อสะโพก",
        "khớp háng",
        "Neck of femur AP",
        "Col du fémur",
        "Proximal Femur",
        "Femoral head",
        "ＰＥＬＶＩＳ　ＡＰ",
    ],
)
def test_hip_is_read_in_many_languages(selection: Selection, text: str) -> None:
    assert reason(selection, SeriesDescription=text) == "HIP_AP"


@pytest.mark.parametrize("text", ["SHIP", "WHIPLASH", "CHIPS", "AI", "CAD", "UHIP1", "Philips AP"])
def test_words_are_whole(selection: Selection, text: str) -> None:
    assert reason(selection, SeriesDescription=text) == "NO_HIP_SIGN"


@pytest.mark.parametrize("beam", ["A.P.", "a.p.", "a.-p.", "A/P", "A-P", "ap", "a. p.", "AP."])
def test_the_beam_has_many_spellings(selection: Selection, beam: str) -> None:
    decision = decide(selection, SeriesDescription=f"Hüfte li {beam} stehend", ViewPosition="LL")
    assert decision.reason.code == R.VIEW_CONFLICT


@pytest.mark.parametrize("beam", ["P.A.", "p.a.", "P/A", "PA"])
def test_the_beam_from_behind_too(selection: Selection, beam: str) -> None:
    assert reason(selection, SeriesDescription=f"Pelvis {beam}") == "VIEW_PA"


def test_a_phrase_swallows_the_shorter_word(selection: Selection) -> None:
    assert reason(selection, SeriesDescription="Femoral head") == "HIP_AP"
    assert reason(selection, SeriesDescription="Head") == "OTHER_REGION"
    assert reason(selection, SeriesDescription="Distal femur") == "OTHER_REGION"
    assert reason(selection, SeriesDescription="Femur") == "FEMUR_ONLY"
    assert reason(selection, SeriesDescription="大腿骨頚部") == "HIP_AP"
    assert reason(selection, SeriesDescription="大腿骨") == "FEMUR_ONLY"
    assert reason(selection, SeriesDescription="Hanche faux profil") == "VIEW_TILTED"


def test_utf_8_without_a_character_set_is_read(selection: Selection) -> None:
    ds = header(SeriesDescription="Hüfte".encode().decode("latin-1"))
    assert selection.decide(facts_of(ds)).reason.code == R.HIP_AP


# Region


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        # nothing at all, nothing known, a bucket
        ({}, "NO_REGION_GIVEN"),
        ({"SeriesDescription": "AP"}, "NO_HIP_SIGN"),
        ({"BodyPartExamined": "ABDOMENPELVIS", "SeriesDescription": "Pelvis"}, "HIP_AP"),
        ({"BodyPartExamined": "WHOLEBODY", "StudyDescription": "Hip"}, "HIP_AP"),
        # 1. a text says other, none says hip
        ({"SeriesDescription": "Knee"}, "OTHER_REGION"),
        ({"BodyPartExamined": "HIP", "SeriesDescription": "Knee"}, "REGION_CONFLICT"),
        ({"BodyPartExamined": "PELVIS", "SeriesDescription": "Sacrum"}, "OTHER_REGION"),
        ({"BodyPartExamined": "FEMUR", "SeriesDescription": "Knee"}, "OTHER_REGION"),
        ({"SeriesDescription": "Knee", "StudyDescription": "Hip"}, "OTHER_REGION"),
        # 2. texts say both
        ({"SeriesDescription": "Hip", "ProtocolName": "Knee"}, "REGION_CONFLICT"),
        ({"SeriesDescription": "Pelvis", "ProtocolName": "Sacrum"}, "REGION_CONFLICT"),
        # 3. a text says hip
        ({"BodyPartExamined": "CHEST", "SeriesDescription": "Hip"}, "REGION_CONFLICT"),
        ({"BodyPartExamined": "HIP KNEE", "SeriesDescription": "Hip"}, "REGION_CONFLICT"),
        ({"BodyPartExamined": "FEMUR", "SeriesDescription": "Hip"}, "HIP_AP"),
        ({"BodyPartExamined": "SSPINE", "SeriesDescription": "Pelvis"}, "REGION_CONFLICT"),
        ({"SeriesDescription": "Hip", "StudyDescription": "Chest and hip"}, "HIP_AP"),
        # 4. only a list
        ({"BodyPartExamined": "HIP", "SeriesDescription": "Hip + Knee"}, "HIP_AP"),
        ({"BodyPartExamined": "KNEE", "SeriesDescription": "Hip + Knee"}, "OTHER_REGION"),
        ({"SeriesDescription": "Hip + Knee"}, "REGION_UNCLEAR"),
        ({"SeriesDescription": "Pelvis, sacrum"}, "REGION_UNCLEAR"),
        ({"SeriesDescription": "Pelvis sacrum"}, "OTHER_REGION"),
        ({"SeriesDescription": "股関節と膝"}, "REGION_UNCLEAR"),
        ({"SeriesDescription": "Hip femur"}, "HIP_AP"),
        ({"SeriesDescription": "Femur knee"}, "OTHER_REGION"),
        # 5. no text vote
        ({"BodyPartExamined": "KNEE"}, "OTHER_REGION"),
        ({"BodyPartExamined": "KNEE", "StudyDescription": "Hip"}, "REGION_CONFLICT"),
        ({"BodyPartExamined": "KNEE", "StudyDescription": "Hip and knee"}, "OTHER_REGION"),
        (
            {"BodyPartExamined": "KNEE", "StudyDescription": "Hip", "RequestedProcedureDescription": "Foot"},
            "OTHER_REGION",
        ),
        ({"BodyPartExamined": "HIP", "StudyDescription": "Knee"}, "HIP_AP"),
        ({"BodyPartExamined": "HIP AND KNEE"}, "REGION_UNCLEAR"),
        ({"BodyPartExamined": "FEMUR"}, "FEMUR_ONLY"),
        ({"BodyPartExamined": "THIGH", "StudyDescription": "Hip"}, "REGION_UNCLEAR"),
        ({"SeriesDescription": "Thigh", "StudyDescription": "Hip"}, "REGION_UNCLEAR"),
        ({"BodyPartExamined": "HIP", "SeriesDescription": "Femur AP"}, "HIP_AP"),
        # the order
        ({"StudyDescription": "Hip"}, "HIP_AP"),
        ({"StudyDescription": "Hip", "RequestedProcedureDescription": "Knee"}, "REGION_UNCLEAR"),
        ({"StudyDescription": "Knee"}, "OTHER_REGION"),
        ({"StudyDescription": "Thigh"}, "FEMUR_ONLY"),
        ({"StudyDescription": "Fall"}, "NO_HIP_SIGN"),
        ({"ProcedureCodeSequence": "1^99X^Pelvis views"}, "HIP_AP"),
        ({"RequestedProcedureCodeSequence": "1^99X^Hip"}, "HIP_AP"),
    ],
    ids=str,
)
def test_region(selection: Selection, keywords: dict[str, Any], expected: str) -> None:
    assert reason(selection, **keywords) == expected


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"AnatomicRegionSequence": "24136001^SCT^Hip joint"}, "HIP_AP"),
        ({"AnatomicRegionSequence": "T-15710^SRT^"}, "HIP_AP"),
        ({"AnatomicRegionSequence": "1^99X^Hüfte"}, "HIP_AP"),
        ({"AnatomicRegionSequence": "72696002^SCT^Knee"}, "OTHER_REGION"),
        ({"AnatomicRegionSequence": "71341001^SCT^Femur"}, "FEMUR_ONLY"),
        ({"AnatomicRegionSequence": "71341001^SCT^Femur", "BodyPartExamined": "HIP"}, "HIP_AP"),
        ({"AnatomicRegionSequence": "29836001^SCT^Hip", "BodyPartExamined": "FEMUR"}, "HIP_AP"),
        ({"AnatomicRegionSequence": "72696002^SCT^Knee", "BodyPartExamined": "HIP"}, "REGION_UNCLEAR"),
        ({"AnatomicRegionSequence": "61685007^SCT^Lower limb", "BodyPartExamined": "HIP"}, "HIP_AP"),
        ({"AnatomicRegionSequence": "61685007^SCT^Lower limb", "SeriesDescription": "Hip"}, "HIP_AP"),
    ],
    ids=str,
)
def test_the_coded_region_is_one_vote_with_body_part(
    selection: Selection, keywords: dict[str, Any], expected: str
) -> None:
    assert reason(selection, **keywords) == expected


def test_a_request_inside_the_header_is_the_order(selection: Selection) -> None:
    item = Dataset()
    item.RequestedProcedureDescription = "XR hip left"
    assert reason(selection, RequestAttributesSequence=[item]) == "HIP_AP"


# View


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, "HIP_AP"),
        ({"ViewPosition": "AP"}, "HIP_AP"),
        ({"ViewPosition": "L"}, "HIP_AP"),
        ({"ViewPosition": "LL"}, "VIEW_LATERAL"),
        ({"ViewPosition": "RLAT"}, "VIEW_LATERAL"),
        ({"ViewPosition": "LLD"}, "VIEW_TILTED"),
        ({"ViewPosition": "LPO"}, "VIEW_TILTED"),
        ({"ViewPosition": "AP AXIAL"}, "VIEW_TILTED"),
        ({"ViewPosition": "XTABLE LATERAL"}, "VIEW_LATERAL"),
        ({"SeriesDescription": "LL hip"}, "HIP_AP"),
        ({"SeriesDescription": "Hips bilateral"}, "HIP_AP"),
        # side by side, joined, counted
        ({"SeriesDescription": "AP LAT"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "AP + LAT"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "ap und axial"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "ap axial"}, "VIEW_TILTED"),
        ({"SeriesDescription": "AP frog"}, "VIEW_TILTED"),
        ({"SeriesDescription": "AP & frog"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "AP/PA"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "AP PA"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "正面側面"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "正面斜位"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "正面 斜位"}, "VIEW_TILTED"),
        ({"SeriesDescription": "正面・斜位"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "frog lateral"}, "VIEW_TILTED"),
        ({"SeriesDescription": "2 views"}, "VIEW_UNCLEAR"),
        ({"SeriesDescription": "lateral, 2 views"}, "VIEW_LATERAL"),
        ({"SeriesDescription": "AP 2 views"}, "HIP_AP"),
        # several witnesses
        ({"ViewPosition": "AP", "SeriesDescription": "AP/LAT"}, "HIP_AP"),
        ({"ViewPosition": "LL", "SeriesDescription": "AP/LAT"}, "VIEW_LATERAL"),
        ({"ViewPosition": "AP", "SeriesDescription": "lateral"}, "VIEW_CONFLICT"),
        ({"ViewPosition": "PA", "SeriesDescription": "lateral"}, "VIEW_CONFLICT"),
        ({"ViewPosition": "AP", "SeriesDescription": "PA"}, "VIEW_PA"),
        ({"ViewPosition": "LL", "SeriesDescription": "inlet"}, "VIEW_TILTED"),
        ({"BodyPartExamined": "HIP LAT"}, "VIEW_LATERAL"),
        ({"PatientOrientation": ["A", "F"]}, "VIEW_LATERAL"),
        ({"PatientOrientation": ["P", "H"]}, "VIEW_LATERAL"),
        ({"PatientOrientation": ["R", "F"]}, "HIP_AP"),
        ({"PatientOrientation": ["A", "R"]}, "HIP_AP"),
        # codes
        ({"ViewCodeSequence": "399033003^SCT^frontal"}, "HIP_AP"),
        ({"ViewCodeSequence": "R-102CD^SRT^"}, "VIEW_LATERAL"),
        ({"ViewCodeSequence": "399352003^SCT^lateral-medial"}, "VIEW_LATERAL"),
        ({"ViewCodeSequence": "399312000^SCT^antero-posterior oblique"}, "VIEW_TILTED"),
        ({"ViewCodeSequence": "272479007^SCT^postero-anterior"}, "VIEW_PA"),
        ({"ViewCodeSequence": "1^99X^Frog leg"}, "VIEW_TILTED"),
        # the order only raises a doubt
        ({"StudyDescription": "Hip lateral"}, "VIEW_UNCLEAR"),
        ({"StudyDescription": "Hip frog"}, "VIEW_UNCLEAR"),
        ({"StudyDescription": "Hip ap and lateral"}, "HIP_AP"),
        ({"StudyDescription": "Hip lateral, 2 views"}, "HIP_AP"),
        ({"StudyDescription": "Hip lateral", "ViewPosition": "AP"}, "HIP_AP"),
    ],
    ids=str,
)
def test_view(selection: Selection, keywords: dict[str, Any], expected: str) -> None:
    assert reason(selection, **{"BodyPartExamined": "HIP", **keywords}) == expected


def test_a_view_modifier_stands_in_its_view(selection: Selection) -> None:
    ds = header(BodyPartExamined="HIP", ViewCodeSequence="399348003^SCT^antero-posterior")
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = [code("399196006^SCT^cephalad")]
    assert selection.decide(facts_of(ds)).reason.code == R.VIEW_TILTED


def test_face_is_a_view_in_a_text_and_none_in_body_part(selection: Selection) -> None:
    assert reason(selection, SeriesDescription="Hanche face", ViewPosition="LL") == "VIEW_CONFLICT"
    assert reason(selection, BodyPartExamined="FACE") == "NO_HIP_SIGN"
    assert reason(selection, BodyPartExamined="FACE", SeriesDescription="Hanche profil") == "VIEW_LATERAL"


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
