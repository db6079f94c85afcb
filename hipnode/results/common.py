"""What every result object shares: the study it belongs to, its header, its bytes.

Times. `analysed_at` is UTC. Dates and times of an object are read in its TimezoneOffsetFromUTC
(0008,0201), the copied StudyDate and StudyTime included. So where the source states its offset, the
object states the same one and our own dates and times are converted to it. Where the source states
none, the installation's zone is written, "+0000" unless the site sets another: a time without an
offset would be read as local time by everyone.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from hipnode import __version__
from hipnode.errors import SelfCheckFailed
from hipnode.results import codes, headers
from hipnode.results.headers import SourceHeader, put
from hipnode.results.identity import (
    CODING_SCHEME_UID,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MODALITY,
    MODEL_NAME,
    SERIES_DESCRIPTION,
    Installation,
    ResultIdentity,
)

_LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000})


@dataclass(frozen=True)
class Source:
    """One source image, as its header gives it. UIDs are "" where the header has none."""

    header: SourceHeader
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    lossy: bool

    @classmethod
    def of(cls, ds: Dataset) -> "Source":
        """Read the references of a source data set."""
        header = SourceHeader(ds)
        syntax = getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", "")
        return cls(
            header,
            header.text("SOPClassUID"),
            header.text("SOPInstanceUID"),
            header.text("SeriesInstanceUID"),
            header.text("LossyImageCompression") == "01" or syntax in _LOSSY,
        )


@dataclass(frozen=True)
class Study:
    """The sources of one study.

    sources: the images looked at, one for each SOP Instance UID (the latest revision).
    demographics: the header patient and study attributes come from: that of the latest instance.
    """

    study_uid: str
    sources: tuple[Source, ...]
    demographics: SourceHeader
    package_sha256: str

    @property
    def referable(self) -> tuple[Source, ...]:
        """The sources a reference can be made to."""
        return tuple(s for s in self.sources if s.sop_class_uid and s.sop_instance_uid and s.series_uid)

    def source_of(self, sop_instance_uid: str) -> Source:
        """The source with this UID. Raises SelfCheckFailed where a reference to it cannot be made."""
        for source in self.referable:
            if source.sop_instance_uid == sop_instance_uid:
                return source
        raise SelfCheckFailed("A finding lies in an image that is not among the sources (SOPInstanceUID).")


def study_of(datasets: Sequence[Dataset], image_uids: Sequence[str], package_sha256: str) -> Study:
    """Sort out the sources. `image_uids`: the images looked at, in order; empty means all.

    Raises SelfCheckFailed where no source names the study: a result could not be filed.
    """
    found = [Source.of(ds) for ds in datasets]
    latest = {source.sop_instance_uid: source for source in found}
    chosen = [latest[uid] for uid in dict.fromkeys(image_uids) if uid in latest] or list(latest.values())
    studies = [uid for source in reversed(found) if (uid := source.header.text("StudyInstanceUID"))]
    if not studies:
        raise SelfCheckFailed("No source carries a StudyInstanceUID, so a result cannot be filed.")
    demographics = next(s for s in reversed(found) if s.header.text("StudyInstanceUID"))
    return Study(studies[0], tuple(chosen), demographics.header, package_sha256)


@dataclass(frozen=True)
class Instant:
    """A moment as DICOM writes it, in one offset from UTC."""

    date: str  #: DA
    time: str  #: TM
    offset: str  #: "&ZZXX"
    words: str  #: for a reader, with its offset


def instant_of(analysed_at: datetime, study: Study, installation: Installation) -> Instant:
    """`analysed_at` in the source's offset, or in the installation's. Raises ValueError without a zone."""
    if analysed_at.tzinfo is None:
        raise ValueError("analysed_at has no zone; it is a UTC instant")
    for text in (study.demographics.text("TimezoneOffsetFromUTC"), installation.zone, "+0000"):
        match = re.fullmatch(r"([+-])(0\d|1[0-4])([0-5]\d)", text.strip())
        if match:
            break
    assert match is not None  # noqa: S101  # "+0000" matches
    delta = timedelta(hours=int(match[2]), minutes=int(match[3])) * (-1 if match[1] == "-" else 1)
    local = analysed_at.astimezone(timezone(delta))
    spoken = "UTC" if not delta else f"UTC{match[1]}{match[2]}:{match[3]}"
    offset = "+0000" if not delta else "".join(match.groups())  # PS3.3 C.12.1.1.8 forbids -0000
    return Instant(f"{local:%Y%m%d}", f"{local:%H%M%S}", offset, f"{local:%Y-%m-%d %H:%M} {spoken}")


def start_object(study: Study, identity: ResultIdentity, installation: Installation, now: Instant) -> Dataset:
    """The Patient, General Study, Series, General Equipment and SOP Common modules."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    headers.carry_patient_and_study(ds, study.demographics, study.study_uid)
    put(ds, "TimezoneOffsetFromUTC", now.offset)
    ds.SOPClassUID = identity.sop_class_uid
    ds.SOPInstanceUID = identity.sop_uid
    ds.InstanceCreationDate, ds.InstanceCreationTime = now.date, now.time
    ds.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    ds.InstanceNumber = identity.instance_number
    ds.ContentDate, ds.ContentTime = now.date, now.time
    ds.Modality = MODALITY[identity.kind]
    ds.SeriesInstanceUID = identity.series_uid
    ds.SeriesNumber = identity.series_number
    ds.SeriesDescription = SERIES_DESCRIPTION[identity.kind]
    ds.SeriesDate, ds.SeriesTime = now.date, now.time
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = MODEL_NAME
    ds.SoftwareVersions = __version__
    put(ds, "DeviceSerialNumber", headers.clean(installation.device_uid, "LO"))
    put(ds, "DeviceUID", installation.device_uid)
    put(ds, "StationName", headers.clean(installation.station or installation.ae_title, "SH"))
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.SCHEME
    scheme.CodingSchemeUID = CODING_SCHEME_UID
    scheme.CodingSchemeName = codes.SCHEME_NAME
    scheme.CodingSchemeVersion = codes.SCHEME_VERSION
    scheme.CodingSchemeResponsibleOrganization = codes.RESPONSIBLE
    ds.CodingSchemeIdentificationSequence = [scheme]
    return ds


def finish_object(ds: Dataset) -> Dataset:
    """Add the file meta information: Explicit VR Little Endian, our implementation."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta
    return ds


def encode(ds: Dataset) -> bytes:
    """The Part 10 file: the same data set gives the same bytes."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def references(sources: Iterable[Source]) -> list[Dataset]:
    """SOP Instance Reference items (PS3.3 10.8)."""
    items = []
    for source in sources:
        item = Dataset()
        put(item, "ReferencedSOPClassUID", source.sop_class_uid)
        put(item, "ReferencedSOPInstanceUID", source.sop_instance_uid)
        items.append(item)
    return items
