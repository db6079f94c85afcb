"""Who a result object is: its UIDs, its equipment, and how we know our own objects again.

A SOP Instance UID is `2.25.<uuid5>` of (kind, variant, source SOP Instance UIDs, package hash,
SHA-256 of the canonical content). The canonical content is what the object says: outcome, reasons,
findings and wording. Scores count to three decimals and boxes to a tenth of a pixel, so that the
last bits of a float (another batch, another processor) do not make a new object of the same answer.
Demographics, the instant of the analysis and its number do not count either: the same answer at a
later number arrives at the same UID, and the ledger keeps the bytes that were built first.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)

from hipnode import __version__
from hipnode.findings import Algorithm, Box, Finding, ImageReading, StudyReading
from hipnode.results import headers

NAMESPACE = uuid.UUID("6ceed704-1f20-42d7-900b-aecf7449fe1e")  #: of every UID of this project
MANUFACTURER = "hipnode"
MODEL_NAME = "hipnode hip fracture node"
IMPLEMENTATION_VERSION_NAME = f"HIPNODE_{__version__}"[:16]


def _uid(*what: object) -> UID:
    """2.25.<uuid5> of a JSON list (PS3.5 B.2): the same words give the same UID."""
    name = json.dumps([str(part) for part in what], ensure_ascii=True)
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, name).int}")


IMPLEMENTATION_CLASS_UID = _uid("implementation class")
CODING_SCHEME_UID = _uid("coding scheme", "99HIPNODE")


class ResultKind(StrEnum):
    """The kinds of object hipnode returns."""

    SR = "SR"
    SC = "SC"


SR_CLASSES: Mapping[str, UID] = {
    "comprehensive": ComprehensiveSRStorage,
    "comprehensive3d": Comprehensive3DSRStorage,
}
SERIES_NUMBER = {ResultKind.SR: 1, ResultKind.SC: 2}
SERIES_DESCRIPTION = {ResultKind.SR: "AI hip fracture: report", ResultKind.SC: "AI hip fracture: overlay"}
MODALITY = {ResultKind.SR: "SR", ResultKind.SC: "OT"}


@dataclass(frozen=True)
class Installation:
    """The node that makes the objects.

    device_uid: stable per installation; the SR's device observer and (0018,1002).
    zone: UTC offset "&ZZXX" (PS3.5 6.2, e.g. "+0900") in which times are written where the source states
        none (TimezoneOffsetFromUTC). "+0000" where the site does not say.
    """

    device_uid: str
    ae_title: str
    station: str = ""
    zone: str = "+0000"


@dataclass(frozen=True)
class ResultIdentity:
    """What a result object is called."""

    kind: ResultKind
    variant: str
    sop_class_uid: UID
    study_uid: str
    series_uid: UID
    series_number: int
    sop_uid: UID
    instance_number: int


def variant_of(kind: ResultKind | str, sr_class: str = "comprehensive", max_size_px: int = 0) -> str:
    """The form of an object: the SR's class, or "full" or "max<pixels>" for the overlay."""
    if ResultKind(kind) is ResultKind.SR:
        if sr_class not in SR_CLASSES:
            raise ValueError(f"sr_class is {sr_class!r}; it can be {' or '.join(SR_CLASSES)}")
        return sr_class
    return f"max{max_size_px}" if max_size_px else "full"


def identify(
    kind: ResultKind,
    variant: str,
    *,
    study_uid: str,
    source_uids: Iterable[str],
    package_sha256: str,
    content: Mapping[str, object],
    number: int,
    instance_number: int,
) -> ResultIdentity:
    """Name a result object. See the module's own words for what its UID is made of.

    The series is that of (study, package, kind, number); an SR of another class or an overlay of another
    size than usual gets its own, because a viewer shows one SR of a series.
    """
    digest = hashlib.sha256(canonical_bytes(content)).hexdigest()
    usual = variant in ("comprehensive", "full")
    series = ("series", study_uid, package_sha256, kind, number, *([] if usual else [variant]))
    sop_class = SR_CLASSES[variant] if kind is ResultKind.SR else SecondaryCaptureImageStorage
    return ResultIdentity(
        kind=kind,
        variant=variant,
        sop_class_uid=sop_class,
        study_uid=study_uid,
        series_uid=_uid(*series),
        series_number=9000 + 10 * (number - 1) + SERIES_NUMBER[kind],
        sop_uid=_uid("instance", kind, variant, *sorted(source_uids), package_sha256, digest),
        instance_number=instance_number,
    )


def tracking_uid(image_uid: str, package_sha256: str, finding: Finding) -> UID:
    """The Tracking Unique Identifier of a finding: equal in every object that shows it."""
    return _uid("tracking", image_uid, package_sha256, finding.class_name, *_canonical_box(finding.box))


def canonical_bytes(content: Mapping[str, object]) -> bytes:
    """The one spelling of a content."""
    return json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def canonical_study(
    reading: StudyReading, images: Iterable[ImageReading], wording: Iterable[str]
) -> dict[str, object]:
    """What an object says of a study, without the parts that may differ between equal answers."""
    return {
        "outcome": reading.outcome,
        "reason": [reading.reason.code, reading.reason.sentence] if reading.reason else None,
        "images": [_canonical_image(image) for image in sorted(images, key=lambda i: i.sop_instance_uid)],
        "wording": list(wording),
    }


def canonical_algorithm(algorithm: Algorithm | None) -> dict[str, object] | None:
    """What an object says of the algorithm (its hash is part of the UID by itself)."""
    if algorithm is None:
        return None
    return {
        "name": algorithm.name,
        "version": algorithm.version,
        "manufacturer": algorithm.manufacturer,
        "thresholds": {name: round(value, 6) for name, value in algorithm.thresholds.items()},
        "calibrated": algorithm.calibrated,
    }


def _canonical_image(image: ImageReading) -> dict[str, object]:
    return {
        "image": image.sop_instance_uid,
        "outcome": image.outcome,
        "reason": [image.reason.code, image.reason.sentence] if image.reason else None,
        "flags": [[flag.code, flag.sentence] for flag in image.flags],
        "findings": [
            {
                "class": finding.class_name,
                "score": f"{finding.score:.3f}",
                "box": _canonical_box(finding.box),
                "side": [finding.side.side, finding.side.source] if finding.side else None,
                "alternative": [finding.alternative.class_name, f"{finding.alternative.score:.3f}"]
                if finding.alternative
                else None,
                "rule": finding.rule,
                **_told_of(finding),
            }
            for finding in image.findings
        ],
    }


def _told_of(finding: Finding) -> dict[str, object]:
    """What only some packages tell; absent otherwise, so that what others say keeps its identity."""
    told: dict[str, object] = {"level": finding.level} if finding.level else {}
    for name, said in (("certainty", finding), ("alternative certainty", finding.alternative)):
        if said is not None and said.certainty is not None:
            told[name] = f"{said.certainty:.3f}"
    return told


def _canonical_box(box: Box) -> list[str]:
    return [f"{edge:.1f}" for edge in (box.column_min, box.row_min, box.column_max, box.row_max)]


# --- Knowing our own objects again ---------------------------------------------------------------

#: What a reader of headers needs to hand to `is_own_header`.
OWN_HEADER_KEYWORDS = ("Manufacturer", "ManufacturerModelName", "DeviceUID", "DeviceSerialNumber")


def is_own_header(header: Mapping[str, object], device_uids: Iterable[str] = ()) -> bool:
    """Whether a flat header (keyword -> text) is of an object hipnode made.

    Manufacturer alone is enough: no modality calls itself hipnode. `device_uids` are those of this
    installation, for an archive that rewrites the manufacturer.
    """
    if str(header.get("Manufacturer") or "").strip("\0 ").casefold() == MANUFACTURER:
        return True
    known = set(device_uids)
    return any(
        str(header.get(keyword) or "").strip("\0 ") in known
        for keyword in ("DeviceUID", "DeviceSerialNumber")
    )


def is_own_output(ds: Dataset, device_uids: Iterable[str] = ()) -> bool:
    """Whether hipnode made this object: by its equipment, its coding scheme, or its device observer.

    Works on a data set of any origin: what cannot be read speaks for nothing.
    """
    known = set(device_uids)
    header = headers.SourceHeader(ds)
    if is_own_header({keyword: header.text(keyword) for keyword in OWN_HEADER_KEYWORDS}, known):
        return True
    for scheme in header.items("CodingSchemeIdentificationSequence"):
        if scheme.text("CodingSchemeUID") == CODING_SCHEME_UID:
            return True
    return any(item.text("UID") in known for item in header.items("ContentSequence"))
