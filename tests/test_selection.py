"""How facts are worked out of headers: each paragraph of docs/selection.md, with headers of its own."""

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from hipnode.selection import Selection, facts_of
from hipnode.status import ReasonCode
from tests.headers import code, decide, header, reason

R = ReasonCode


@pytest.fixture(scope="module")
def selection() -> Selection:
    return Selection.load(None)


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
