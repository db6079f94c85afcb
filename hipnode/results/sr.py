"""The Structured Report: TID 1500 as Comprehensive or Comprehensive 3D SR, one per study and package.

The tree is assembled from highdicom's content items; its MeasurementReport template demands a
measurement group and knows no row 12 (Qualitative Evaluations), which an answer without boxes is
made of. Two constraints come from OHIF: a group always holds an SCOORD directly, and a series holds
one report.
"""

from collections.abc import Sequence

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    ScoordContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from hipnode import __version__
from hipnode.findings import Algorithm, StudyReading
from hipnode.results import codes, headers
from hipnode.results.charsets import printable
from hipnode.results.common import Source, Study, references
from hipnode.results.headers import SourceHeader, put
from hipnode.results.identity import MANUFACTURER, MODEL_NAME, Installation, tracking_uid
from hipnode.results.wording import Mark, Statement
from hipnode.status import Outcome, ReasonCode

_CONTAINS = "CONTAINS"
_MODIFIES = "HAS CONCEPT MOD"
_OBSERVES = "HAS OBS CONTEXT"
_ACQUIRED = "HAS ACQ CONTEXT"
_FROM = "SELECTED FROM"

#: outcome -> CID 6047; PARTIAL depends on whether anything was found.
_SUMMARY = {
    Outcome.FINDINGS: codes.ALL_WITH_FINDINGS,
    Outcome.NONE: codes.ALL_WITHOUT_FINDINGS,
    Outcome.NOT_ANALYSED: codes.NONE_SUCCEEDED,
    Outcome.ERROR: codes.NONE_SUCCEEDED,
}


def make_report(
    ds: Dataset,
    study: Study,
    installation: Installation,
    reading: StudyReading,
    marks: Sequence[Mark],
    said: Statement,
    algorithm: Algorithm | None,
) -> None:
    """Add the SR Document modules to `ds`, which holds the modules every result has."""
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY"
    requests = _requests(study)
    if requests:
        ds.ReferencedRequestSequence = requests
    ds.PerformedProcedureCodeSequence = []
    evidence = _evidence(study)
    if evidence:
        ds.CurrentRequestedProcedureEvidenceSequence = evidence
    root = _tree(study, installation, reading, marks, said, algorithm)
    for element in root:
        ds.add(element)


def _tree(
    study: Study,
    installation: Installation,
    reading: StudyReading,
    marks: Sequence[Mark],
    said: Statement,
    algorithm: Algorithm | None,
) -> ContainerContentItem:
    root = _container(codes.IMAGING_MEASUREMENT_REPORT, None, template="1500")
    children = [
        _code(codes.LANGUAGE, codes.ENGLISH, _MODIFIES),
        *_observer(installation),
        _code(codes.PROCEDURE_REPORTED, _procedure(study), _MODIFIES),
    ]
    if study.referable:
        library = _container(codes.IMAGE_LIBRARY, _CONTAINS)
        group = _container(codes.IMAGE_LIBRARY_GROUP, _CONTAINS)
        group.ContentSequence = ContentSequence([_library_entry(source) for source in study.referable])
        library.ContentSequence = ContentSequence([group])
        children.append(library)
    if marks:
        measurements = _container(codes.IMAGING_MEASUREMENTS, _CONTAINS)
        measurements.ContentSequence = ContentSequence([_group(mark, study, algorithm) for mark in marks])
        children.append(measurements)
    children.append(_evaluations(reading, marks, said, algorithm))
    root.ContentSequence = ContentSequence(children)
    return root


def _observer(installation: Installation) -> list[ContentItem]:
    """TID 1002 and 1004: the installation, by a UID that stays."""
    texts = [
        (codes.DEVICE_NAME, installation.ae_title),
        (codes.DEVICE_MANUFACTURER, MANUFACTURER),
        (codes.DEVICE_MODEL, f"{MODEL_NAME} {__version__}"),
        (codes.DEVICE_SERIAL, installation.device_uid),
        (codes.DEVICE_LOCATION, installation.station),
    ]
    return [
        _code(codes.OBSERVER_TYPE, codes.DEVICE, _OBSERVES),
        UIDRefContentItem(codes.concept(codes.DEVICE_UID), installation.device_uid, _OBSERVES),
        *(_text(name, value, _OBSERVES) for name, value in texts if value),
    ]


def _procedure(study: Study) -> Code:
    """The procedure as the source codes it, else plain radiography."""
    for source in study.sources:
        for keyword in ("ProcedureCodeSequence", "RequestedProcedureCodeSequence"):
            places = [source.header, *source.header.items("RequestAttributesSequence")]
            for code in (code for place in places for code in headers.codes_in(place, keyword)):
                if "CodeValue" in code:
                    return Code(code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)
    return codes.PLAIN_RADIOGRAPHY


def _library_entry(source: Source) -> ImageContentItem:
    """TID 1601 to 1603: what the header gives, nothing invented."""
    header = source.header
    item = _image(source, _CONTAINS)
    modality = codes.MODALITIES.get(source.sop_class_uid, codes.OTHER_MODALITY)
    described: list[ContentItem] = [_code(codes.MODALITY, modality, _ACQUIRED)]
    for name, keyword in ((codes.PIXEL_ROWS, "Rows"), (codes.PIXEL_COLUMNS, "Columns")):
        count = header.integer(keyword)
        if count:
            described.append(_number(name, count, codes.PIXELS, _ACQUIRED))
    orientation = header.texts("PatientOrientation")
    if len(orientation) == 2 and all(orientation):
        described.append(_text(codes.ORIENTATION_ROW, orientation[0], _ACQUIRED))
        described.append(_text(codes.ORIENTATION_COLUMN, orientation[1], _ACQUIRED))
    spacing = header.decimals("ImagerPixelSpacing")
    if len(spacing) == 2 and all(0 < value < 100 for value in spacing):
        described.append(_number(codes.HORIZONTAL_SPACING, spacing[1], codes.MILLIMETRE, _ACQUIRED))
        described.append(_number(codes.VERTICAL_SPACING, spacing[0], codes.MILLIMETRE, _ACQUIRED))
    item.ContentSequence = ContentSequence(described)
    return item


def _group(mark: Mark, study: Study, algorithm: Algorithm | None) -> ContainerContentItem:
    """TID 1410: one box."""
    finding, known = mark.finding, mark.known
    class_code = Code(known.code_value, known.coding_scheme, known.meaning[:64])
    site = _code(codes.FINDING_SITE, codes.finding_site(known.code_value, known.coding_scheme), _MODIFIES)
    described: list[ContentItem] = []
    if finding.side:
        side = _code(codes.LATERALITY, codes.SIDES[finding.side.side], _MODIFIES)
        site.ContentSequence = ContentSequence([side])
        described.append(_text(codes.SIDE_SOURCE, finding.side.source, _CONTAINS))
    uid = tracking_uid(mark.image_uid, study.package_sha256, finding)
    group = _container(codes.MEASUREMENT_GROUP, _CONTAINS, template="1410")
    group.ContentSequence = ContentSequence(
        [
            _text(codes.TRACKING_IDENTIFIER, mark.tracking_identifier, _OBSERVES),
            UIDRefContentItem(codes.concept(codes.TRACKING_UID), uid, _OBSERVES),
            _code(codes.FINDING_CATEGORY, codes.ABNORMAL_STRUCTURE, _CONTAINS),
            _code(codes.FINDING, class_code, _CONTAINS),
            site,
            *_algorithm(algorithm, _MODIFIES),
            *_scores(mark, class_code),
            _code(codes.MORPHOLOGY, codes.FRACTURE, _CONTAINS),
            _region(mark, study),
            *described,
            *_alternative(mark),
            _text(codes.COMMENT, mark.sentence, _CONTAINS),
        ]
    )
    return group


def _scores(mark: Mark, class_code: Code) -> list[ContentItem]:
    """The score twice: named with the class, which is what OHIF prints, and as what it is."""
    if mark.finding.certainty is not None:
        percent = 100 * mark.finding.certainty
        return [
            _number(class_code, percent, codes.PERCENT, _CONTAINS),
            _number(codes.CERTAINTY, percent, codes.PERCENT, _CONTAINS),
        ]
    return [
        _number(class_code, mark.finding.score, codes.NO_UNITS, _CONTAINS),
        _number(codes.SCORE, mark.finding.score, codes.NO_UNITS, _CONTAINS),
    ]


def _alternative(mark: Mark) -> list[ContentItem]:
    """The other class it may be, with its score, and the rule that chose."""
    found: list[ContentItem] = []
    other, known = mark.finding.alternative, mark.alternative
    if other and known:
        code = Code(known.code_value, known.coding_scheme, known.meaning[:64])
        found.append(_code(codes.ALTERNATIVE, code, _CONTAINS))
        if other.certainty is not None:
            percent = 100 * other.certainty
            found.append(_number(codes.ALTERNATIVE_CERTAINTY, percent, codes.PERCENT, _CONTAINS))
        else:
            found.append(_number(codes.ALTERNATIVE_SCORE, other.score, codes.NO_UNITS, _CONTAINS))
    if mark.finding.rule:
        found.append(_text(codes.RULE, mark.finding.rule, _CONTAINS))
    return found


def _region(mark: Mark, study: Study) -> ScoordContentItem:
    """The box as a closed polyline of five points, (column, row) from the top left corner (PS3.3 C.10.5)."""
    box = mark.finding.box
    corners = np.array(
        [
            (box.column_min, box.row_min),
            (box.column_max, box.row_min),
            (box.column_max, box.row_max),
            (box.column_min, box.row_max),
            (box.column_min, box.row_min),
        ],
        dtype=np.float64,
    )
    region = ScoordContentItem(
        codes.concept(codes.IMAGE_REGION), "POLYLINE", corners, relationship_type=_CONTAINS
    )
    region.ContentSequence = ContentSequence([_image(study.source_of(mark.image_uid), _FROM)])
    return region


def _evaluations(
    reading: StudyReading, marks: Sequence[Mark], said: Statement, algorithm: Algorithm | None
) -> ContainerContentItem:
    """TID 1500 row 12: the study's answer, also where there is no box. CODE and TEXT items only."""
    partial = codes.SOME_WITH_FINDINGS if marks else codes.SOME_WITHOUT_FINDINGS
    items = [_code(codes.SUMMARY, _SUMMARY.get(reading.outcome, partial), _CONTAINS)]
    if marks:
        items.append(_code(codes.FRACTURE, codes.PRESENT, _CONTAINS))
    elif reading.outcome is Outcome.NONE:
        items.append(_code(codes.FRACTURE, codes.ABSENT, _CONTAINS))
    reasons = [reading.reason, *(image.reason for image in reading.images)]
    given = dict.fromkeys(reason.code for reason in reasons if reason)
    if ReasonCode.IMAGE_QUALITY in given:
        items.append(_code(codes.QUALITY_ASSESSMENT, codes.UNUSABLE, _CONTAINS))
    items += [_code(codes.REASON, codes.reason_code(code), _CONTAINS) for code in given]
    flags = dict.fromkeys(flag.code for image in reading.images for flag in image.flags)
    items += [_code(codes.FLAG, codes.reason_code(code), _CONTAINS) for code in flags]
    items += (
        _algorithm(algorithm, _CONTAINS)
        if algorithm
        else [_text(codes.ALGORITHM_NAME, MANUFACTURER, _CONTAINS)]
    )
    sentences = (said.summary, *said.findings, *said.notes, *said.provenance)
    items += [_text(codes.COMMENT, sentence, _CONTAINS) for sentence in sentences]
    container = _container(codes.QUALITATIVE_EVALUATIONS, _CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container


def _algorithm(algorithm: Algorithm | None, relationship: str) -> list[ContentItem]:
    """TID 4019."""
    if algorithm is None:
        return []
    parameters = [
        f"package {algorithm.package_id}",
        *([f"weights SHA-256 {algorithm.sha256}"] if algorithm.sha256 else []),
        *(f"threshold {name} {value:.4g}" for name, value in sorted(algorithm.thresholds.items())),
    ]
    texts = [
        (codes.ALGORITHM_NAME, algorithm.name),
        (codes.ALGORITHM_VERSION, algorithm.version),
        (codes.ALGORITHM_MANUFACTURER, algorithm.manufacturer),
        *((codes.ALGORITHM_PARAMETERS, parameter) for parameter in parameters),
    ]
    return [_text(name, value, relationship) for name, value in texts if value]


def _requests(study: Study) -> list[Dataset]:
    """Referenced Request Sequence (PS3.3 C.17.2) from the sources' Request Attributes Sequence."""
    found: dict[str, Dataset] = {}
    for source in study.sources:
        for request in source.header.items("RequestAttributesSequence"):
            procedure = request.text("RequestedProcedureID")
            if not procedure or procedure in found:
                continue
            item = Dataset()
            put(item, "StudyInstanceUID", request.text("StudyInstanceUID") or study.study_uid)
            item.ReferencedStudySequence = []
            put(
                item,
                "AccessionNumber",
                request.text("AccessionNumber") or source.header.text("AccessionNumber"),
            )
            put(item, "PlacerOrderNumberImagingServiceRequest", _order(source.header, request, "Placer"))
            put(item, "FillerOrderNumberImagingServiceRequest", _order(source.header, request, "Filler"))
            put(item, "RequestedProcedureID", procedure)
            headers.carry(item, request, ("RequestedProcedureDescription",), always=True)
            item.RequestedProcedureCodeSequence = headers.codes_in(request, "RequestedProcedureCodeSequence")[
                :1
            ]
            found[procedure] = item
    return list(found.values())


def _order(header: SourceHeader, request: SourceHeader, who: str) -> str:
    keyword = f"{who}OrderNumberImagingServiceRequest"
    return request.text(keyword) or header.text(keyword)


def _evidence(study: Study) -> list[Dataset]:
    """Current Requested Procedure Evidence Sequence (PS3.3 C.17.2.1): every image looked at."""
    by_series: dict[str, list[Source]] = {}
    for source in study.referable:
        if source.series_uid:
            by_series.setdefault(source.series_uid, []).append(source)
    if not by_series:
        return []
    item = Dataset()
    put(item, "StudyInstanceUID", study.study_uid)
    item.ReferencedSeriesSequence = []
    for series_uid, sources in by_series.items():
        series = Dataset()
        put(series, "SeriesInstanceUID", series_uid)
        series.ReferencedSOPSequence = references(sources)
        item.ReferencedSeriesSequence.append(series)
    return [item]


def _image(source: Source, relationship: str) -> ImageContentItem:
    item = ImageContentItem(codes.concept(codes.SOURCE), "", "", relationship_type=relationship)
    item.ReferencedSOPSequence = references([source])
    return item


def _container(name: Code, relationship: str | None, template: str | None = None) -> ContainerContentItem:
    return ContainerContentItem(
        codes.concept(name), is_content_continuous=False, template_id=template, relationship_type=relationship
    )


def _code(name: Code, value: Code, relationship: str) -> CodeContentItem:
    return CodeContentItem(codes.concept(name), codes.concept(value), relationship)


def _text(name: Code, value: str, relationship: str) -> TextContentItem:
    return TextContentItem(codes.concept(name), printable(value), relationship)


def _number(name: Code, value: float, unit: Code, relationship: str) -> NumContentItem:
    return NumContentItem(codes.concept(name), value, codes.concept(unit), relationship_type=relationship)
