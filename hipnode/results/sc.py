"""The Secondary Capture overlay: header of the object whose pixels `overlay` draws.

Modality is OT so that hanging protocols for films do not pick it. Pixel spacing is left out, full
size or not: the overlay is no image to measure in. Laterality (type 2C) and BodyPartExamined belong
to the series, so they say what holds for every overlay in it: PELVIS without a side, otherwise the
side where it is one and known, or an empty Laterality.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from hipnode import __version__
from hipnode.results import codes, headers
from hipnode.results.common import Instant, Source, Study, references
from hipnode.results.headers import SourceHeader, put
from hipnode.results.identity import MANUFACTURER, MODEL_NAME, Installation
from hipnode.results.wording import Statement

if TYPE_CHECKING:
    from hipnode.images import Radiograph

_PELVIS = frozenset({"816092008"})  # CID 4, PS3.16 annex L
_HIP = frozenset({"24136001", "29836001"})


def make_overlay(
    ds: Dataset,
    study: Study,
    shown: Sequence[Source],
    rgb: NDArray[np.uint8],
    said: Statement,
    now: Instant,
    installation: Installation,
    anatomy: tuple[str, str | None],
    with_picture: bool,
) -> None:
    """Add the SC modules (PS3.3 A.8.1) to `ds`, which holds the modules every result has.

    shown: the sources this overlay speaks of; anatomy: `anatomy_of` the series.
    """
    body_part, laterality = anatomy
    if body_part:
        ds.BodyPartExamined = body_part
    if laterality is not None:
        ds.Laterality = laterality
    requests = [item for source in study.sources for item in _requests(source.header)]
    if requests:
        ds.RequestAttributesSequence = requests[: headers.MAX_SEQUENCE_ITEMS]
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.ConversionType = "WSD"
    put(ds, "SecondaryCaptureDeviceID", headers.clean(installation.device_uid, "LO"))
    ds.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    ds.SecondaryCaptureDeviceManufacturerModelName = MODEL_NAME
    ds.SecondaryCaptureDeviceSoftwareVersions = __version__
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = now.date, now.time
    orientation = shown[0].header.texts("PatientOrientation") if with_picture and shown else []
    put(ds, "PatientOrientation", orientation if len(orientation) == 2 and all(orientation) else None)
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    put(ds, "DerivationDescription", headers.clean(_derivation(said, with_picture), "ST"))
    _lossy(ds, shown)
    referable = [source for source in shown if source in study.referable]
    if referable:
        ds.SourceImageSequence = references(referable)
        for item in ds.SourceImageSequence:
            item.PurposeOfReferenceCodeSequence = [codes.concept(codes.SOURCE_OF_PROCESSING)]
    _pixels(ds, rgb)


def overlay_pixels(ds: Dataset) -> NDArray[np.uint8]:
    """The picture of an overlay this module made: (rows, columns, 3) uint8 RGB."""
    count = ds.Rows * ds.Columns * 3
    return np.frombuffer(ds.PixelData, np.uint8, count).reshape(ds.Rows, ds.Columns, 3)


def preview_png(ds: Dataset) -> bytes:
    """The same picture as a PNG file. It holds no patient data."""
    buffer = BytesIO()
    Image.fromarray(overlay_pixels(ds)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def anatomy_of(study: Study, images: "Mapping[str, Radiograph]") -> tuple[str, str | None]:
    """(BodyPartExamined or "", Laterality: "R", "L", "" for unknown, None for not paired) of the series."""
    parts = {_body_part(source.header) for source in study.sources}
    part = parts.pop() if len(parts) == 1 else ""
    if part == "PELVIS":
        return part, None
    sides = {_side(source, images) for source in study.sources}
    return part, sides.pop() if len(sides) == 1 else ""


def _body_part(header: SourceHeader) -> str:
    region = {item.text("CodeValue") for item in header.items("AnatomicRegionSequence")}
    named = header.text("BodyPartExamined")
    if region & _PELVIS or (not region & _HIP and "PELVIS" in named):
        return "PELVIS"
    return "HIP" if region & _HIP or "HIP" in named else ""


def _side(source: Source, images: "Mapping[str, Radiograph]") -> str:
    radiograph = images.get(source.sop_instance_uid)
    if radiograph is not None and radiograph.side is not None:
        return str(radiograph.side.side)
    for keyword in ("ImageLaterality", "Laterality"):
        if source.header.text(keyword) in ("R", "L"):
            return source.header.text(keyword)
    return ""


def _requests(header: SourceHeader) -> list[Dataset]:
    """Request Attributes Sequence (PS3.3 10.6), the rows that name the order."""
    found = []
    for request in header.items("RequestAttributesSequence"):
        if not request.text("RequestedProcedureID"):
            continue
        item = Dataset()
        keywords = ("RequestedProcedureID", "AccessionNumber", "RequestedProcedureDescription")
        headers.carry(item, request, keywords)
        headers.carry(item, request, ("ScheduledProcedureStepID", "ScheduledProcedureStepDescription"))
        found.append(item)
    return found


def _derivation(said: Statement, with_picture: bool) -> str:
    what = (
        "AI overlay: marks and text burned into a copy of the displayed film" if with_picture else "AI notice"
    )
    return f"{what}. {said.summary} {' '.join(said.provenance)}"


def _lossy(ds: Dataset, shown: Sequence[Source]) -> None:
    """What was lost stays lost (PS3.3 C.7.6.1.1.5): carry the sources' lossy compression."""
    lossy = [source for source in shown if source.lossy]
    ds.LossyImageCompression = "01" if lossy else "00"
    for source in lossy[:1]:
        ratios = source.header.decimals("LossyImageCompressionRatio")
        methods = [text for text in source.header.texts("LossyImageCompressionMethod") if text]
        if ratios and all(0 < ratio < 1e6 for ratio in ratios):
            put(ds, "LossyImageCompressionRatio", [f"{ratio:.6g}" for ratio in ratios])
        if methods:
            put(ds, "LossyImageCompressionMethod", methods)


def _pixels(ds: Dataset, rgb: NDArray[np.uint8]) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = rgb.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    data = np.ascontiguousarray(rgb).tobytes()
    put(ds, "PixelData", data + b"\0" * (len(data) % 2), "OB")
