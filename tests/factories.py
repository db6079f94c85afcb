"""Synthetic radiographs: valid DX and CR data sets with a hip-like picture, built by keyword.

`make_radiograph()` gives the same data set every time; `seed` makes another patient and study,
`instance` another image of the same study. Any DICOM keyword may be given: a value replaces the
default, None deletes the attribute.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import FileDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

SOP_CLASSES = {
    "DX": DigitalXRayImageStorageForPresentation,
    "DX-PROCESSING": DigitalXRayImageStorageForProcessing,
    "CR": ComputedRadiographyImageStorage,
    "SC": SecondaryCaptureImageStorage,
}

LOSSY = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
}


def hip_picture(rows: int = 640, columns: int = 512, seed: int = 0) -> NDArray[np.float64]:
    """A picture like half a pelvis: head, neck and shaft as smooth blobs. (rows, columns), 0..1, bone bright.

    The femoral head lies in the upper half left of the middle, the shaft runs down to the right:
    upright and unmirrored can be told from the picture.
    """
    y, x = np.mgrid[0:rows, 0:columns]
    y, x = y / rows, x / columns

    def blob(cx: float, cy: float, rx: float, ry: float) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(np.clip(12 * (np.hypot((x - cx) / rx, (y - cy) / ry) - 1), -50, 50)))

    def bar(x0: float, y0: float, x1: float, y1: float, half_width: float) -> NDArray[np.float64]:
        length = np.hypot(x1 - x0, y1 - y0)
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length**2, 0, 1)
        away = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        return 1 / (1 + np.exp(np.clip(40 * (away - half_width) / half_width / 4, -50, 50)))

    flesh = 0.35 * blob(0.5, 0.5, 0.52, 0.55)
    bone = np.maximum.reduce(
        [
            blob(0.36, 0.34, 0.11, 0.09),
            0.9 * bar(0.38, 0.36, 0.62, 0.47, 0.05),
            bar(0.63, 0.45, 0.72, 1.1, 0.07),
            0.8 * blob(0.22, 0.22, 0.2, 0.12),
        ]
    )
    noise = np.random.default_rng(seed).normal(0, 0.01, (rows, columns))
    return np.clip(0.05 + flesh + 0.45 * bone + noise, 0, 1)


def make_radiograph(
    kind: str = "DX",
    *,
    seed: int = 0,
    instance: int = 1,
    bits_stored: int = 12,
    picture: NDArray[np.float64] | None = None,
    transfer_syntax: UID | str = ExplicitVRLittleEndian,
    **keywords: Any,
) -> FileDataset:
    """A data set that dciodvfy finds no error in.

    kind: "DX" (FOR PRESENTATION), "DX-PROCESSING", "CR" or "SC" (gray, digitised film).
    bits_stored: 8 to 16; 8 is stored in 8 bits, more in 16.
    picture: (Rows, Columns) of 0..1, bone bright; `hip_picture` where not given.
    transfer_syntax: the pixel data is encoded in it (the compressed ones by imagecodecs).
    keywords: DICOM keywords; Rows, Columns, PhotometricInterpretation and PixelRepresentation
        shape the pixel data too. PixelData=... puts other bytes in its place.
    """
    rows, columns = keywords.get("Rows") or 640, keywords.get("Columns") or 512
    if picture is not None:
        rows, columns = picture.shape
    else:
        picture = hip_picture(rows, columns, seed)
    inverted = keywords.get("PhotometricInterpretation") == "MONOCHROME1"
    signed = keywords.get("PixelRepresentation") == 1
    transfer_syntax = UID(transfer_syntax)
    ds = FileDataset("", _header(kind, seed, instance), preamble=b"\0" * 128)
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated = 8 if bits_stored <= 8 else 16
    ds.BitsStored, ds.HighBit = bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(signed)
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    if kind.startswith("DX"):
        ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    if kind == "DX":
        ds.WindowCenter, ds.WindowWidth = _window(bits_stored, signed)
    stored = _stored_values(picture, bits_stored, inverted, signed)
    if not transfer_syntax.is_compressed:
        ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    else:
        ds.PixelData = encapsulate([encode_frame(stored, transfer_syntax, bits_stored)])
        if transfer_syntax in LOSSY:
            ds.LossyImageCompression = "01"
            ds.LossyImageCompressionRatio = 10
            ds.LossyImageCompressionMethod = LOSSY[transfer_syntax]
    ds["PixelData"].VR = "OB" if transfer_syntax.is_compressed or bits_stored <= 8 else "OW"
    for keyword, value in keywords.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "")
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    return ds


def encoded(ds: Dataset) -> bytes:
    """The data set as it goes over the wire: no preamble, no file meta group."""
    buffer = BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    bare = Dataset(ds)
    bare.save_as(
        buffer,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        enforce_file_format=False,
    )
    return buffer.getvalue()


def save(ds: Dataset, path: Path) -> Path:
    """Write a Part 10 file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def encode_frame(stored: NDArray[Any], transfer_syntax: UID | str, bits_stored: int) -> bytes:
    """One frame of `stored` (rows, columns) in a compressed transfer syntax. Signed values as their bits."""
    bits = stored.view(f"u{stored.itemsize}")
    if transfer_syntax == RLELossless:
        planes = bits.reshape(-1, 1).view(np.uint8)[:, ::-1].reshape(*bits.shape, -1)
        segments = [_packbits_rows(planes[..., i]) for i in range(planes.shape[-1])]
        offsets = np.cumsum([64] + [len(s) for s in segments])[:-1]
        header = np.zeros(16, "<u4")
        header[0] = len(segments)
        header[1 : 1 + len(segments)] = offsets
        return header.tobytes() + b"".join(segments)
    if transfer_syntax in (JPEGLossless, JPEGLosslessSV1):
        return bytes(
            imagecodecs.jpeg8_encode(bits, lossless=True, predictor=1, bitspersample=max(bits_stored, 2))
        )
    if transfer_syntax == JPEGBaseline8Bit:
        return bytes(imagecodecs.jpeg8_encode(bits, level=95))
    if transfer_syntax == JPEGExtended12Bit:
        return bytes(imagecodecs.jpeg8_encode(bits, level=98, bitspersample=12 if bits_stored > 8 else 8))
    if transfer_syntax in (JPEGLSLossless, JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(bits, level=2 if transfer_syntax == JPEGLSNearLossless else 0))
    if transfer_syntax in (JPEG2000Lossless, JPEG2000):
        return bytes(
            imagecodecs.jpeg2k_encode(
                stored,
                codecformat="j2k",
                reversible=transfer_syntax == JPEG2000Lossless,
                level=0 if transfer_syntax == JPEG2000Lossless else 60,
                bitspersample=bits_stored,
            )
        )
    raise ValueError(f"no encoder for {transfer_syntax}")


def _packbits_rows(plane: NDArray[np.uint8]) -> bytes:
    """One RLE segment; each row is packed by itself (PS3.5 G.3.1), the whole padded to even length."""
    packed = b"".join(imagecodecs.packbits_encode(np.ascontiguousarray(row).tobytes()) for row in plane)
    return packed + b"\0" * (len(packed) % 2)


def _window(bits_stored: int, signed: bool) -> tuple[int, int]:
    full = 1 << bits_stored
    return (0 if signed else full // 2), full


def _stored_values(picture: NDArray[np.float64], bits: int, inverted: bool, signed: bool) -> NDArray[Any]:
    top = (1 << bits) - 1
    values = np.round((1 - picture if inverted else picture) * top).astype(np.int64)
    if signed:
        values -= 1 << (bits - 1)
    return values.astype(f"<{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _header(kind: str, seed: int, instance: int) -> Dataset:
    """Patient, study, series and equipment of the IOD (PS3.3 A.26, A.2), without the pixels."""

    def uid(*what: object) -> UID:
        return generate_uid(entropy_srcs=["hipnode tests", *map(str, what)])

    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY"] if kind == "CR" else ["ORIGINAL", "PRIMARY", ""]
    if kind == "SC":
        ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.SOPClassUID = SOP_CLASSES[kind]
    ds.SOPInstanceUID = uid("instance", kind, seed, instance)
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20250314"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "101500"
    ds.AccessionNumber = f"A{1000 + seed}"
    ds.Modality = "CR" if kind in ("CR", "SC") else "DX"
    ds.Manufacturer = "Lantern Radiography"
    ds.ManufacturerModelName = "Test Stand 3"
    ds.DeviceSerialNumber = "0042"
    ds.SoftwareVersions = "1.0"
    ds.ReferringPhysicianName = "Curie^Marie"
    ds.StudyDescription = "Hip"
    ds.SeriesDescription = "Hip AP"
    ds.PatientName = "Müller^Jörg"
    ds.PatientID = f"P{1000 + seed}"
    ds.PatientBirthDate = "19460211"
    ds.PatientSex = "F"
    ds.PatientAge = "079Y"
    ds.BodyPartExamined = "HIP"
    ds.StudyInstanceUID = uid("study", seed)
    ds.SeriesInstanceUID = uid("series", kind, seed)
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.InstanceNumber = instance
    ds.PatientOrientation = ["L", "F"]
    ds.SamplesPerPixel = 1
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "NO"
    if kind in ("CR", "SC"):
        ds.Laterality = "L"
    if kind == "CR":
        ds.ViewPosition = "AP"
        ds.ImagerPixelSpacing = [0.2, 0.2]
    if kind == "SC":
        ds.ConversionType = "DF"
    if kind.startswith("DX"):
        ds.PresentationIntentType = "FOR PROCESSING" if kind == "DX-PROCESSING" else "FOR PRESENTATION"
        ds.ImageLaterality = "L"
        ds.AnatomicRegionSequence = [_code("24136001", "SCT", "Hip joint")]
        ds.ViewPosition = "AP"
        ds.ViewCodeSequence = [_code("399348003", "SCT", "antero-posterior")]
        ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
        ds.PositionerType = "NONE"
        ds.DetectorType = "DIRECT"
        ds.ImagerPixelSpacing = [0.2, 0.2]
        ds.PixelIntensityRelationship = "LOG"
        ds.PixelIntensityRelationshipSign = 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
        ds.AcquisitionContextSequence = []
    return ds
