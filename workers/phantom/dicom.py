"""A phantom as a DX For Presentation object that says in its attributes that it is synthetic.

Needs numpy and pydicom only. Pixels are stored with 12 or 16 bits and a window that restores the
picture; one phantom in ten is MONOCHROME1. The manufacturer is not hipnode's, so that a node does not
take the film for its own output, and image attributes name the hip, so that it is analysed.
"""

import json
import uuid
from datetime import date, timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from workers.phantom.random import stream

MANUFACTURER = "Synthetic phantom"
#: namespace of the UIDs of phantoms: the same phantom has the same UIDs everywhere
NAMESPACE = uuid.UUID("5b0c9a0e-7c3c-4f0e-9a55-0d1b1f1a6d52")


class PhantomLike(Protocol):
    """What is needed of generate.Phantom."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def side(self) -> str: ...  # noqa: D102
    @property
    def picture(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def pixel_mm(self) -> float: ...  # noqa: D102
    @property
    def magnification(self) -> float: ...  # noqa: D102
    @property
    def parameters(self) -> dict[str, object]: ...  # noqa: D102
    def record(self) -> dict[str, object]: ...  # noqa: D102


def _uid(*parts: object) -> str:
    """2.25.<uuid5> (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def to_dicom(phantom: PhantomLike, *, with_truth: bool = False) -> FileDataset:
    """The phantom as a DX For Presentation object (PS3.3 A.26), ready for save_as.

    with_truth writes the record of the phantom, its boxes and class included, as JSON into Image
    Comments; otherwise nothing in the header depends on the outcome.
    """
    rng = stream(phantom.seed, phantom.index, "dicom")
    key = (phantom.seed, phantom.index)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid("instance", *key, phantom.picture.shape)  # type: ignore[assignment]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = _uid("study", *key)
    ds.SeriesInstanceUID = _uid("series", *key)
    _describe(ds, phantom, rng)
    _acquire(ds, phantom)
    _store_pixels(ds, phantom.picture, rng)
    comment = "Synthetic phantom, made by a computer; no patient."
    ds.ImageComments = f"{comment} {json.dumps(phantom.record())}" if with_truth else comment
    return ds


def _describe(ds: Dataset, phantom: PhantomLike, rng: np.random.Generator) -> None:
    """Patient, study, series, equipment."""
    femur = phantom.parameters["femur"]
    assert isinstance(femur, dict)  # noqa: S101  (a plain record, written by generate)
    day = date(2020, 1, 6) + timedelta(days=int(rng.integers(0, 1500)))
    age = int(femur["age_years"])
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"SYNTHETIC^{phantom.seed:04d}-{phantom.index:06d}"
    ds.PatientID = f"SYN-{phantom.seed:04d}-{phantom.index:06d}"
    ds.PatientBirthDate = f"{day.year - age:04d}0101"
    ds.PatientSex = "F" if femur["female"] else "M"
    ds.PatientAge = f"{age:03d}Y"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = (
        f"{int(rng.integers(7, 22)):02d}{phantom.index % 60:02d}00"
    )
    ds.AccessionNumber = f"S{phantom.seed:04d}{phantom.index:06d}"
    ds.ReferringPhysicianName = ""
    ds.StudyID = f"{phantom.index}"
    part = _part(phantom)
    ds.StudyDescription = f"{part} (synthetic phantom)"
    ds.SeriesDescription = f"{part} AP (synthetic phantom)"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = "Parametric hip"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.ContentQualification = "RESEARCH"
    ds.ImageType = ["DERIVED", "PRIMARY", ""]
    ds.DerivationDescription = "Simulated projection of a parametric hip"
    ds.AcquisitionContextSequence = Sequence()


def _part(phantom: PhantomLike) -> str:
    """Body Part Examined of the view."""
    return "PELVIS" if getattr(phantom, "view", "hip_ap") == "pelvis_ap" else "HIP"


def _acquire(ds: Dataset, phantom: PhantomLike) -> None:
    """Anatomy, positioning, detector."""
    hip = _part(phantom) == "HIP"
    ds.BodyPartExamined = _part(phantom)
    ds.ViewPosition = "AP"
    ds.ImageLaterality = phantom.side if hip else "B"
    ds.PatientOrientation = ["L", "F"]
    region = _code("24136001", "SCT", "Hip joint") if hip else _code("12921003", "SCT", "Pelvis")
    ds.AnatomicRegionSequence = Sequence([region])
    view = _code("399348003", "SCT", "antero-posterior")
    view.ViewModifierCodeSequence = Sequence()
    ds.ViewCodeSequence = Sequence([view])
    ds.PatientOrientationCodeSequence = Sequence([_code("102538003", "SCT", "recumbent")])
    ds.PositionerType = "COLUMN"
    pitch = f"{phantom.pixel_mm:.6g}"
    ds.ImagerPixelSpacing = [pitch, pitch]
    ds.DetectorType = "SCINTILLATOR"
    sid = float(str(phantom.parameters["sid_mm"]))
    ds.DistanceSourceToDetector = f"{sid:.1f}"
    ds.DistanceSourceToPatient = f"{sid - float(str(phantom.parameters['oid_mm'])):.1f}"
    ds.EstimatedRadiographicMagnificationFactor = f"{phantom.magnification:.4f}"
    ds.KVP = f"{float(str(phantom.parameters.get('kvp', 80.0))):g}"


def _store_pixels(ds: Dataset, picture: NDArray[np.float32], rng: np.random.Generator) -> None:
    """picture (rows, columns) 0..1 as unsigned integers with a linear window that gives it back."""
    bits = int(rng.choice([12, 12, 14, 16]))
    inverted = bool(rng.random() < 0.10)
    top = 2**bits - 1
    low, high = round(float(rng.uniform(0.0, 0.12)) * top), round(float(rng.uniform(0.85, 1.0)) * top)
    shown = 1.0 - picture if inverted else picture
    stored = np.rint(low + shown.astype(np.float64) * (high - low)).astype("<u2")
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if inverted else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    # PS3.3 C.11.2.1.2.1: centre - 0.5 is the middle, width - 1 the span
    ds.WindowCenter, ds.WindowWidth = f"{(low + high) / 2 + 0.5:g}", f"{high - low + 1}"
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "NO"
    ds.PixelData = stored.tobytes()
