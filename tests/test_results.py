"""What comes back from a look at a study: every kind and outcome, judged by other people's tools."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import highdicom
import numpy as np
import pytest
from highdicom.sr import MeasurementReport
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from hipnode.errors import SelfCheckFailed
from hipnode.findings import Algorithm, Level, Reason, StudyReading
from hipnode.results import (
    ResultKind,
    codes,
    encode,
    is_own_header,
    is_own_output,
    result_text,
    variant_of,
)
from hipnode.status import Outcome, ReasonCode
from tests.dicom_checks import check_results
from tests.factories import make_radiograph
from tests.readings import (
    ALGORITHM,
    AMBIGUOUS,
    ANALYSED_AT,
    DISPLACED,
    FIRST,
    INSTALLATION,
    READINGS,
    SECOND,
    build,
    failed,
    header_of,
    image,
    items_of,
    overlays,
    report,
    study,
    texts,
)


def evaluation(ds: Dataset, name: Code) -> list[str]:
    """Code values of this name among the Qualitative Evaluations."""
    container = ds.ContentSequence[-1]
    assert container.ConceptNameCodeSequence[0].CodeValue == codes.QUALITATIVE_EVALUATIONS.value
    return [
        str(item.ConceptCodeSequence[0].CodeValue)
        for item in container.ContentSequence
        if item.ValueType == "CODE" and item.ConceptNameCodeSequence[0].CodeValue == name.value
    ]


# --- Validity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sr_class", ["comprehensive", "comprehensive3d"])
@pytest.mark.parametrize("case", READINGS)
def test_every_kind_and_outcome_is_valid(case: str, sr_class: str, tmp_path: Path) -> None:
    sources, reading = READINGS[case]
    results = build(sources, reading, sr_class=sr_class)
    read = check_results(results, tmp_path)
    assert [r.kind for r in results].count(ResultKind.SR) == 1
    for result, ds in zip(results, read, strict=True):
        assert encode(ds) == result.encode()
        assert not is_own_output(sources[0])
        assert is_own_output(ds)


def minimal(kind: str = "CR") -> Dataset:
    """The poorest header that still names study, series and instance."""
    full = make_radiograph(kind)
    ds = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, full[keyword].value)
    return ds


SOURCES = {
    "minimal": minimal(),
    "DX MONOCHROME1": make_radiograph("DX", PhotometricInterpretation="MONOCHROME1"),
    "DX for processing": make_radiograph("DX-PROCESSING"),
    "CR MONOCHROME2": make_radiograph("CR"),
    "CR no orientation, spacing, side": make_radiograph(
        "CR", PatientOrientation=None, ImagerPixelSpacing=None, Laterality=None
    ),
    "CR pelvis": make_radiograph("CR", BodyPartExamined="PELVIS", Laterality=None),
    "CR pelvis with side": make_radiograph("CR", BodyPartExamined="PELVIS", Laterality="R"),
    "CR no body part": make_radiograph("CR", BodyPartExamined=None),
    "CR no body part, no side": make_radiograph("CR", BodyPartExamined=None, Laterality=None),
    "SC": make_radiograph("SC"),
    "lossy": make_radiograph("DX", transfer_syntax="1.2.840.10008.1.2.4.50", bits_stored=8),
}


@pytest.mark.parametrize("outcome", ["findings", "none", "error"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_valid_objects(name: str, outcome: str, tmp_path: Path) -> None:
    ds = header_of(SOURCES[name])
    ds.file_meta = getattr(SOURCES[name], "file_meta", None) or make_radiograph().file_meta
    reading = {
        "findings": study(image(ds, DISPLACED)),
        "none": study(image(ds)),
        "error": study(failed(ds)),
    }[outcome]
    results = build([ds], reading)
    check_results(results, tmp_path)
    assert overlays(results)[0].LossyImageCompression == ("01" if name == "lossy" else "00")


def test_a_notice_needs_no_package(tmp_path: Path) -> None:
    reading = StudyReading(Outcome.ERROR, Reason.of(ReasonCode.NO_PACKAGE), ())
    results = build([minimal()], reading, algorithm=None)
    check_results(results, tmp_path)
    assert evaluation(report(results), codes.REASON) == ["HN-R-NOPACKAGE"]
    assert any("No worker has the model package" in text for text in texts(report(results)))
    assert len(overlays(results)) == 1


@pytest.mark.parametrize("sha256", ["", "ab" * 32])
def test_a_notice_may_know_no_more_of_a_package_than_its_id(sha256: str, tmp_path: Path) -> None:
    pinned = Algorithm("hip-test", "", "", "hip-test", sha256, ())
    reading = StudyReading(Outcome.ERROR, Reason.of(ReasonCode.WORKER_LOST), ())
    results = build([FIRST], reading, pinned)
    check_results(results, tmp_path)
    assert texts(report(results), codes.ALGORITHM_NAME) == ["hip-test"]
    written = result_text(reading, pinned, ANALYSED_AT)
    assert ("weights SHA-256" in written) == bool(sha256)
    assert "For research use only; not for diagnosis." in written


# --- The report ----------------------------------------------------------------------------------


def test_the_report_is_read_back_into_the_same_findings(tmp_path: Path) -> None:
    sources, reading = READINGS["findings"]
    path = tmp_path / "sr.dcm"
    path.write_bytes(build(sources, reading)[0].encode())
    content = highdicom.sr.srread(path).content
    assert isinstance(content, MeasurementReport)
    groups = content.get_planar_roi_measurement_groups()
    assert len(groups) == 3
    for number, (group, finding) in enumerate(zip(groups, reading.images[0].findings, strict=True), 1):
        known = ALGORITHM.class_named(finding.class_name)
        assert group.finding_type == Code(known.code_value, known.coding_scheme, known.meaning)
        points = group.roi.value
        box = finding.box
        expected = np.float32([box.column_min, box.row_min, box.column_max, box.row_max])
        np.testing.assert_array_equal(np.float32([*points.min(0), *points.max(0)]), expected)
        assert len(points) == 5
        [score] = group.get_measurements(name=codes.SCORE)
        assert score.value == pytest.approx(finding.score, abs=1e-9)
        [named] = group.get_measurements(name=group.finding_type)
        assert named.value == score.value
        [site] = group.finding_sites
        side = {"R": "24028007", "L": "7771000"}[finding.side.side] if finding.side else None
        assert (site.laterality.value if site.laterality else None) == side
        assert group.tracking_identifier.startswith(f"AI-{number}")
        [uid] = {i.referenced_sop_instance_uid for i in group.roi.ContentSequence}
        assert uid == sources[0].SOPInstanceUID


def test_an_ambiguous_finding_names_both_classes_their_scores_and_the_rule() -> None:
    sources, reading = READINGS["findings"]
    ds = report(build(sources, reading, kinds=["SR"]))
    [sentence] = [text for text in texts(ds) if text.startswith("AI-2") and "Class chosen" in text][:1]
    for part in (
        "Valgus-impacted",
        "0.52",
        "displaced femoral neck",
        "0.47",
        "valgus before displaced",
        "left",
    ):
        assert part in sentence
    [alternative] = [
        item for item in items_of(ds) if item.ConceptNameCodeSequence[0].CodeValue == codes.ALTERNATIVE.value
    ]
    assert alternative.ConceptCodeSequence[0].CodeValue == "HN-DFN"
    assert texts(ds, codes.RULE) == ["valgus before displaced"]
    assert texts(ds, codes.SIDE_SOURCE) == ["PatientOrientation", "ImageLaterality"]


OUTCOMES = {
    "none": ("111241", ["272519000"], []),
    "findings": ("111242", ["52101004"], []),
    "not analysed": ("111245", [], ["HN-R-VETO"]),
    "bad quality": ("111245", [], ["HN-R-QUALITY"]),
    "partial with findings": ("111244", ["52101004"], ["HN-R-DECODE"]),
    "partial without": ("111243", [], ["HN-R-LIMIT"]),
    "error": ("111245", [], ["HN-R-DECODE"]),
    "notice without images": ("111245", [], ["HN-R-WORKER"]),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_each_outcome_has_its_own_codes(case: str) -> None:
    ds = report(build(*READINGS[case], kinds=["SR"]))
    summary, fracture, reasons = OUTCOMES[case]
    assert evaluation(ds, codes.SUMMARY) == [summary]
    assert evaluation(ds, codes.FRACTURE) == fracture
    assert evaluation(ds, codes.REASON) == reasons
    assert evaluation(ds, codes.QUALITY_ASSESSMENT) == (["111235"] if case == "bad quality" else [])
    assert (
        codes.IMAGING_MEASUREMENTS.value
        in [i.ConceptNameCodeSequence[0].CodeValue for i in ds.ContentSequence]
    ) == (fracture == ["52101004"])


@pytest.mark.parametrize("case", READINGS)
def test_nothing_is_called_normal_and_origin_and_limits_stand_everywhere(case: str) -> None:
    sources, reading = READINGS[case]
    results = build(sources, reading)
    everything = " ".join(texts(report(results))).lower()
    written = [everything, result_text(reading, ALGORITHM, ANALYSED_AT).lower()]
    written += [ds.DerivationDescription.lower() for ds in overlays(results)]
    for text in written:
        assert "normal" not in text.replace("abnormal", "")
        for sentence in (ALGORITHM.origin, *ALGORITHM.limits, "for research use only", "not for measurement"):
            assert sentence.lower() in text


def test_a_negative_answer_says_what_it_does_not_exclude() -> None:
    sources, reading = READINGS["none"]
    results = build(sources, reading)
    sentence = "No fracture detected by Hip fracture detector 0.1.0; does not exclude fracture."
    assert sentence in texts(report(results))
    assert sentence in overlays(results)[0].DerivationDescription
    assert sentence in result_text(reading, ALGORITHM, ANALYSED_AT)


def test_an_answer_that_was_not_given_makes_no_statement_on_fracture() -> None:
    for case in ("not analysed", "error", "notice without images"):
        sources, reading = READINGS[case]
        text = " ".join(texts(report(build(sources, reading, kinds=["SR"]))))
        assert "No statement about fracture is made." in text
        assert reading.reason is not None
        assert reading.reason.sentence in text
        assert "No fracture detected" not in text


def test_a_flag_is_said_and_coded() -> None:
    results = build(*READINGS["flagged"])
    assert evaluation(report(results), codes.FLAG) == ["HN-R-VIEWPA"]
    assert "Analysed although: PA: sides may be mirrored." in texts(report(results))


def test_only_a_calibrated_package_states_a_certainty() -> None:
    sources, reading = READINGS["findings"]
    names = {
        i.ConceptNameCodeSequence[0].CodeValue
        for i in items_of(report(build(sources, reading, kinds=["SR"])))
    }
    assert codes.SCORE.value in names
    assert codes.CERTAINTY.value not in names
    only = reading.images[0]
    findings = tuple(
        replace(
            f,
            certainty=0.812,
            level=Level.POSSIBLE,
            alternative=f.alternative and replace(f.alternative, certainty=0.998),
        )
        for f in only.findings
    )
    told = replace(reading, images=(replace(only, findings=findings),))
    calibrated = report(build(sources, told, replace(ALGORITHM, calibrated=True), kinds=["SR"]))
    names = {i.ConceptNameCodeSequence[0].CodeValue for i in items_of(calibrated)}
    assert codes.CERTAINTY.value in names
    assert codes.SCORE.value not in names
    said = texts(calibrated)
    assert any("certainty 81 %, possible by the package's two thresholds" in text for text in said)
    assert any("certainty 99 %" in text for text in said), "never 100"
    assert not any("AI score" in text for text in said)
    values = {
        i.ConceptNameCodeSequence[0].CodeValue: float(i.MeasuredValueSequence[0].NumericValue)
        for i in items_of(calibrated)
        if i.ValueType == "NUM"
    }
    assert values[codes.CERTAINTY.value] == pytest.approx(81.2)
    assert values[codes.ALTERNATIVE_CERTAINTY.value] == pytest.approx(99.8)


def test_the_report_lists_every_image_that_was_looked_at() -> None:
    ds = report(build(*READINGS["partial with findings"], kinds=["SR"]))
    listed = [
        reference.ReferencedSOPInstanceUID
        for series in ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
    assert listed == [FIRST.SOPInstanceUID, SECOND.SOPInstanceUID]


def test_request_and_procedure_come_from_the_source() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "36581-7", "LN", "Hip AP"
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.RequestedProcedureDescription = "Hüfte ap"
    request.ScheduledProcedureStepID = "SPS1"
    request.RequestedProcedureCodeSequence = [code]
    ds = header_of(make_radiograph("DX", RequestAttributesSequence=[request]))
    results = build([ds], study(image(ds)))
    [referenced] = report(results).ReferencedRequestSequence
    assert referenced.RequestedProcedureID == "RP1"
    assert referenced.AccessionNumber == ds.AccessionNumber
    assert referenced.StudyInstanceUID == ds.StudyInstanceUID
    [procedure] = [
        item.ConceptCodeSequence[0]
        for item in report(results).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == codes.PROCEDURE_REPORTED.value
    ]
    assert (procedure.CodeValue, procedure.CodingSchemeDesignator) == ("36581-7", "LN")
    assert overlays(results)[0].RequestAttributesSequence[0].RequestedProcedureID == "RP1"


def test_a_class_the_package_does_not_declare_is_refused() -> None:
    unknown = replace(DISPLACED, class_name="XX")
    with pytest.raises(SelfCheckFailed, match="XX"):
        build([FIRST], study(image(FIRST, unknown)))


# --- Identity ------------------------------------------------------------------------------------


def test_the_same_answer_gives_the_same_bytes() -> None:
    for sources, reading in READINGS.values():
        first, second = build(sources, reading), build(sources, reading)
        assert [r.encode() for r in first] == [r.encode() for r in second]


def test_the_same_answer_at_a_later_number_has_the_same_uid_in_another_series() -> None:
    sources, reading = READINGS["findings"]
    later = build(sources, reading, number=2, analysed_at=ANALYSED_AT + timedelta(days=1))
    for old, new in zip(build(sources, reading), later, strict=True):
        assert new.sop_instance_uid == old.sop_instance_uid
        assert new.series_instance_uid != old.series_instance_uid


CHANGES = {
    "score": lambda f: replace(f, score=0.94),
    "class": lambda f: replace(f, class_name="SF"),
    "box": lambda f: replace(f, box=replace(f.box, row_max=f.box.row_max + 1)),
    "side": lambda f: replace(f, side=None),
    "alternative": lambda f: replace(f, alternative=AMBIGUOUS.alternative),
    "rule": lambda f: replace(f, rule="another"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_answer_has_other_uids(what: str) -> None:
    before = build([FIRST], study(image(FIRST, DISPLACED)))
    after = build([FIRST], study(image(FIRST, CHANGES[what](DISPLACED))))
    assert {r.sop_instance_uid for r in before}.isdisjoint(r.sop_instance_uid for r in after)


def test_the_last_bits_of_a_float_make_no_new_object() -> None:
    noisy = replace(DISPLACED, score=DISPLACED.score + 1e-6, box=replace(DISPLACED.box, row_min=150.5001))
    before = build([FIRST], study(image(FIRST, DISPLACED)))
    after = build([FIRST], study(image(FIRST, noisy)))
    assert [r.sop_instance_uid for r in before] == [r.sop_instance_uid for r in after]


def test_every_object_of_any_outcome_package_and_form_has_its_own_uid() -> None:
    other = replace(ALGORITHM, sha256="cd" * 32)
    results = [r for sources, reading in READINGS.values() for r in build(sources, reading)]
    sources, reading = READINGS["findings"]
    results += build(sources, reading, other)
    results += build(sources, reading, sr_class="comprehensive3d", max_size_px=300)
    uids = [r.sop_instance_uid for r in results]
    # "two read" and "partial with findings" share the overlay of their first image, and say the same there.
    repeated = {uid for uid in uids if uids.count(uid) > 1}
    assert len(repeated) <= 3
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def test_each_kind_and_form_has_its_own_series() -> None:
    sources, reading = READINGS["two read"]
    usual = build(sources, reading)
    other = build(sources, reading, sr_class="comprehensive3d", max_size_px=300)
    assert len({r.series_instance_uid for r in usual}) == 2
    assert {r.series_instance_uid for r in usual}.isdisjoint(r.series_instance_uid for r in other)
    assert {r.variant for r in usual} == {variant_of("SR"), variant_of("SC")} == {"comprehensive", "full"}
    assert {r.variant for r in other} == {"comprehensive3d", "max300"}
    assert [ds.InstanceNumber for ds in overlays(usual)] == [1, 2]


def test_own_objects_are_known_by_a_flat_header_too() -> None:
    [first, *_] = build(*READINGS["none"])
    flat = {"Manufacturer": "HIPNODE ", "ManufacturerModelName": None}
    assert is_own_header(flat)
    assert is_own_header({"DeviceUID": INSTALLATION.device_uid}, [INSTALLATION.device_uid])
    assert not is_own_header(
        {"Manufacturer": "Lantern", "DeviceSerialNumber": "0042"}, [INSTALLATION.device_uid]
    )
    assert not is_own_header({})
    renamed = dcmread_bytes(first.encode())
    renamed.Manufacturer = "ARCHIVE"
    assert is_own_output(renamed)  # by its coding scheme
    del renamed.CodingSchemeIdentificationSequence, renamed.DeviceUID, renamed.DeviceSerialNumber
    assert is_own_output(renamed, [INSTALLATION.device_uid])  # by its device observer
    assert not is_own_output(renamed)


def dcmread_bytes(data: bytes) -> Dataset:
    from io import BytesIO

    return dcmread(BytesIO(data))
