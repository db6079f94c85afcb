"""Readings, an algorithm and an installation for tests of results."""

from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from hipnode.findings import (
    Algorithm,
    Alternative,
    Box,
    Finding,
    FindingClass,
    ImageReading,
    KnownSide,
    Reason,
    Side,
    StudyReading,
    combine,
)
from hipnode.images import Radiograph
from hipnode.results import BuiltResult, Installation, ResultKind, build_results, codes
from hipnode.results.codes import CLASSES
from hipnode.status import Outcome, ReasonCode
from tests.factories import hip_picture, make_radiograph

INSTALLATION = Installation("2.25.301545230912345678901234567890", "HIPNODE", "NODE-1")
ANALYSED_AT = datetime(2026, 11, 20, 21, 10, 8, tzinfo=UTC)
ALGORITHM = Algorithm(
    name="Hip fracture detector",
    version="0.1.0",
    manufacturer="hipnode",
    package_id="hip-test",
    sha256="ab" * 32,
    classes=tuple(
        FindingClass(name, code.meaning, code.value, code.scheme_designator) for name, code in CLASSES.items()
    ),
    thresholds={"DF": 0.35, "VF": 0.3, "SF": 0.4, "UF": 0.4},
    origin="The weights were trained on synthetic phantoms only and have no clinical validity.",
    limits=("Reads AP views of the hip or pelvis of adults.",),
)
RIGHT = KnownSide(Side.RIGHT, "PatientOrientation")
LEFT = KnownSide(Side.LEFT, "ImageLaterality")
DISPLACED = Finding("DF", 0.9312, Box(101.2, 150.5, 260.75, 310.0), RIGHT)
AMBIGUOUS = Finding(
    "VF", 0.52, Box(300.0, 160.1, 410.3, 320.9), LEFT, Alternative("DF", 0.47), "valgus before displaced"
)
NO_SIDE = Finding("UF", 0.61, Box(10.0, 400.0, 120.0, 520.0))


def image(ds: Dataset, *findings: Finding, flags: tuple[ReasonCode, ...] = ()) -> ImageReading:
    """An image that was read."""
    outcome = Outcome.FINDINGS if findings else Outcome.NONE
    return ImageReading(
        ds.SOPInstanceUID, outcome, None, findings, (), tuple(Reason.of(code) for code in flags)
    )


def failed(ds: Dataset, code: ReasonCode = ReasonCode.DECODE_FAILED) -> ImageReading:
    """An image that could not be read."""
    return ImageReading(ds.SOPInstanceUID, Outcome.ERROR, Reason.of(code))


def refused(ds: Dataset, code: ReasonCode = ReasonCode.PACKAGE_VETO) -> ImageReading:
    """An image the package does not read."""
    return ImageReading(ds.SOPInstanceUID, Outcome.NOT_ANALYSED, Reason.of(code))


def study(*images: ImageReading) -> StudyReading:
    """The reading of these images."""
    return combine(images)


@lru_cache
def _display(rows: int, columns: int) -> NDArray[np.uint8]:
    small = Image.fromarray(np.round(hip_picture(640, 512) * 255).astype(np.uint8))
    pixels = np.asarray(small if (rows, columns) == (640, 512) else small.resize((columns, rows)))
    pixels.flags.writeable = False
    return pixels


def radiograph(ds: Dataset, rows: int = 640, columns: int = 512) -> Radiograph:
    """Display pixels for a source."""
    return radiograph_of(str(ds.SOPInstanceUID), rows, columns)


def radiograph_of(sop_instance_uid: str, rows: int = 640, columns: int = 512) -> Radiograph:
    """The same by its UID."""
    return Radiograph(_display(rows, columns), sop_instance_uid)


def header_of(ds: Dataset) -> Dataset:
    """A source as results get it: without its pixels."""
    bare = Dataset(ds)
    if "PixelData" in bare:
        del bare.PixelData
    return bare


FIRST = header_of(make_radiograph("DX"))
SECOND = header_of(make_radiograph("DX", instance=2))
NOTICE = StudyReading(Outcome.ERROR, Reason.of(ReasonCode.WORKER_LOST), ())

READINGS = {
    "none": ([FIRST], study(image(FIRST))),
    "findings": ([FIRST], study(image(FIRST, DISPLACED, AMBIGUOUS, NO_SIDE))),
    "flagged": ([FIRST], study(image(FIRST, DISPLACED, flags=(ReasonCode.VIEW_PA,)))),
    "not analysed": ([FIRST], study(refused(FIRST))),
    "bad quality": ([FIRST], study(refused(FIRST, ReasonCode.IMAGE_QUALITY))),
    "partial with findings": ([FIRST, SECOND], study(image(FIRST, DISPLACED), failed(SECOND))),
    "partial without": ([FIRST, SECOND], study(failed(FIRST, ReasonCode.DECODE_LIMIT), image(SECOND))),
    "two read": ([FIRST, SECOND], study(image(FIRST, DISPLACED), image(SECOND))),
    "error": ([FIRST], study(failed(FIRST))),
    "notice without images": ([FIRST, SECOND], NOTICE),
}


def build(
    sources: list[Dataset], reading: StudyReading, algorithm: Algorithm | None = ALGORITHM, **more: object
) -> list[BuiltResult]:
    """Build with display pixels for every image that was looked at."""
    looked = {i.sop_instance_uid for i in reading.images if i.outcome is not Outcome.ERROR}
    pictures = {ds.SOPInstanceUID: radiograph(ds) for ds in sources if ds.SOPInstanceUID in looked}
    arguments = {"number": 1, "analysed_at": ANALYSED_AT, "images": pictures} | more
    return build_results(sources, reading, algorithm, INSTALLATION, **arguments)  # type: ignore[arg-type]


def report(results: list[BuiltResult]) -> Dataset:
    return next(r.dataset for r in results if r.kind is ResultKind.SR)


def overlays(results: list[BuiltResult]) -> list[Dataset]:
    return [r.dataset for r in results if r.kind is ResultKind.SC]


def texts(ds: Dataset, name: Code = codes.COMMENT) -> list[str]:
    """Every TEXT of this name, anywhere in a report."""
    return [
        str(item.TextValue)
        for item in items_of(ds)
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == name.value
    ]


def items_of(ds: Dataset) -> list[Dataset]:
    found = []
    for item in ds.get("ContentSequence") or []:
        found += [item, *items_of(item)]
    return found
