"""Encoded data sets for tests: sound ones by pydicom, and others byte by byte."""

import struct

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
UNDEFINED = 0xFFFFFFFF
UID_TAGS = {
    "SOP Class UID": 0x00080016,
    "SOP Instance UID": 0x00080018,
    "Study Instance UID": 0x0020000D,
    "Series Instance UID": 0x0020000E,
}


def encode(ds: Dataset, syntax: str = EXPLICIT) -> bytes:
    """A data set without file meta group, as it travels in a C-STORE."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == IMPLICIT
    write_dataset(buffer, Dataset(ds))
    return buffer.getvalue()


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One explicit VR element; `length` may lie."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC"):
        return head + struct.pack("<HL", 0, length) + value
    return head + struct.pack("<H", length) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length) + value


def uids(**changed: bytes | None) -> dict[int, bytes]:
    """The four UIDs by tag; a keyword such as Study=b"..." replaces one, None leaves it out."""
    values = {}
    for number, (name, tag) in enumerate(UID_TAGS.items()):
        value = changed.get(name.split(" ")[0] + ("Class" if "Class" in name else ""), b"1.2.%d" % number)
        if value is not None:
            values[tag] = value
    return values


def data_set(before: bytes = b"", after: bytes = b"", **changed: bytes | None) -> bytes:
    """A small explicit VR data set; `before` stands between SOP Instance UID and Study Instance UID."""
    values = uids(**changed)
    first = b"".join(element(t, b"UI", v) for t, v in values.items() if t >> 16 == 0x0008)
    last = b"".join(element(t, b"UI", v) for t, v in values.items() if t >> 16 == 0x0020)
    return first + before + last + after
