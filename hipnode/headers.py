"""Part 10 files -> data sets, for the processes that may parse untrusted bytes (`hipnode.children`)."""

from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from hipnode.errors import ImageRejected
from hipnode.status import ReasonCode


def read_object(path: Path, pixels: bool) -> tuple[Dataset, UID]:
    """A stored object and its transfer syntax; without `pixels` the data set ends before Pixel Data.

    A file without preamble is read too, if it begins like a data set. Raises ImageRejected for
    deflated and big endian files (before any of the data set is parsed) and for what is no DICOM;
    OSError, and whatever pydicom raises on a malformed file, pass through.
    """
    try:
        transfer_syntax = read_file_meta_info(path).get("TransferSyntaxUID") or ImplicitVRLittleEndian
    except InvalidDicomError:
        return _without_preamble(path, pixels)
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        # pydicom inflates such a file whole, 298 KiB to 600 MiB if it is meant to.
        raise ImageRejected(ReasonCode.DECODE_FAILED, "Deflated data sets are not read.")
    if transfer_syntax == ExplicitVRBigEndian:
        raise ImageRejected(ReasonCode.DECODE_FAILED, "Big endian data sets are not read.")
    return dcmread(path, stop_before_pixels=not pixels), UID(transfer_syntax)


def _without_preamble(path: Path, pixels: bool) -> tuple[Dataset, UID]:
    with path.open("rb") as file:
        begins = file.read(4)
    # A data set begins in group 0008, or 0002 where the writer left only the preamble out. pydicom
    # would take any text for elements with lengths of gigabytes.
    if len(begins) < 4 or begins[:2] not in (b"\x02\0", b"\x08\0"):
        raise ImageRejected(ReasonCode.DECODE_FAILED, "The file is not DICOM.")
    ds = dcmread(path, force=True, stop_before_pixels=not pixels)
    if not ds.get("SOPClassUID"):
        raise ImageRejected(ReasonCode.DECODE_FAILED, "The file is not DICOM.")
    return ds, UID(ds.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian)
