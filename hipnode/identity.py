"""The small bounded reader: who an instance is, from its bytes as received (PS3.5 section 7).

It takes a handful of attributes from an implicit or explicit little endian data set, without
recursion, without looking at pixel data and without a decoder. It looks at no more than MAX_STEPS
elements and copies no more than MAX_VALUE_BYTES of each; a declared length costs nothing, however
long. It raises IdentityUnreadable and nothing else.
"""

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from hipnode.errors import IdentityUnreadable

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"

MAX_STEPS = 50_000  #: elements and items looked at; a radiograph's header has a few hundred
MAX_VALUE_BYTES = 1024  #: of a value that is kept
MAX_MARKER_BYTES = 256 * 1024  #: of the header searched for marks of our own

Bytes = bytes | bytearray | memoryview | mmap.mmap

_CHARACTER_SET = 0x00080005
_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_ACCESSION_NUMBER = 0x00080050
_MANUFACTURER = 0x00080070
_MODEL = 0x00081090
_PATIENT_ID = 0x00100020
_STUDY = 0x0020000D
_SERIES = 0x0020000E
_WANTED = frozenset(
    {
        _CHARACTER_SET,
        _SOP_CLASS,
        _SOP_INSTANCE,
        _ACCESSION_NUMBER,
        _MANUFACTURER,
        _MODEL,
        _PATIENT_ID,
        _STUDY,
        _SERIES,
    }
)
_NAMES = {
    _SOP_CLASS: "SOP Class UID",
    _SOP_INSTANCE: "SOP Instance UID",
    _STUDY: "Study Instance UID",
    _SERIES: "Series Instance UID",
}

# VRs whose length field has 16 bits (PS3.5 table 7.1-2); every other VR, also one unknown to us,
# has two reserved bytes and 32 bits (PS3.5 section 6.2, note on VRs to come).
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_PIXEL_GROUP = 0x7FE0

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # leading zeros are common in the field and accepted
_CONTROLS = dict.fromkeys((*range(0x20), 0x7F))

# Defined terms of Specific Character Set without code extensions (PS3.3 C.12.1.1.2).
_CODECS = {
    "ISO_IR 100": "iso8859_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 203": "iso8859_15",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 166": "iso8859_11",
    "ISO_IR 192": "utf_8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}


@dataclass(frozen=True)
class Identity:
    """Who an instance is. The UIDs are valid: digits and dots, 1 to 64 characters."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str  #: decoded, controls removed, at most 64 characters; "" where absent
    accession_number: str  #: the same
    manufacturer: str
    manufacturer_model_name: str


def is_uid(text: str) -> bool:
    """Whether `text` can be a UID: dotted digits, 1 to 64 characters (PS3.5 section 9)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def read_identity(data: Bytes, transfer_syntax_uid: str) -> Identity:
    """Read the identity of a data set as received, without file meta group.

    A value that appears twice must be the same twice. Raises IdentityUnreadable when a UID is
    missing, empty, too long or no UID; its text holds no value of the data set.
    """
    found = _scan(data, transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN)
    character_set = found.get(_CHARACTER_SET, b"")
    return Identity(
        sop_class_uid=_uid(found, _SOP_CLASS),
        sop_instance_uid=_uid(found, _SOP_INSTANCE),
        study_instance_uid=_uid(found, _STUDY),
        series_instance_uid=_uid(found, _SERIES),
        patient_id=_text(found.get(_PATIENT_ID, b""), character_set),
        accession_number=_text(found.get(_ACCESSION_NUMBER, b""), character_set),
        manufacturer=_text(found.get(_MANUFACTURER, b""), character_set),
        manufacturer_model_name=_text(found.get(_MODEL, b""), character_set),
    )


def peek_study_uid(start: Bytes, transfer_syntax_uid: str) -> str | None:
    """The Study Instance UID from the first bytes of a data set, or None if it is not in them."""
    try:
        return _uid(_scan(start, transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN), _STUDY)
    except IdentityUnreadable:
        return None


def has_marker(data: Bytes, markers: tuple[bytes, ...]) -> bool:
    """Whether the first MAX_MARKER_BYTES hold one of `markers` (a coding scheme, a device UID).

    A plain search of bytes: it finds them in any depth of sequences without parsing those.
    """
    start = bytes(data[:MAX_MARKER_BYTES])
    return any(marker in start for marker in markers)


def _uid(found: Mapping[int, bytes], tag: int) -> str:
    """The UID of `tag`, its padding (NUL, and the space some senders use) removed."""
    name = _NAMES[tag]
    value = found.get(tag)
    if value is None:
        raise IdentityUnreadable(f"{name} is missing")
    text = value.decode("latin-1").strip(" ").rstrip("\0").strip(" ")
    if not text:
        raise IdentityUnreadable(f"{name} is empty")
    if not is_uid(text):
        raise IdentityUnreadable(f"{name} is no UID ({len(value)} bytes)")
    return text


def _scan(data: Bytes, implicit: bool) -> dict[int, bytes]:
    """Walk the top level of a data set and return the wanted values as they stand.

    Stops after Series Instance UID when all UIDs are known; unordered data sets are walked
    further, up to the pixel data. Truncated bytes end the walk.
    """
    found: dict[int, bytes] = {}
    end = len(data)
    position = 0
    steps = 0
    while position + 8 <= end:
        steps += 1
        if steps > MAX_STEPS:
            raise IdentityUnreadable(f"more than {MAX_STEPS} elements before the identity was known")
        tag, start, length = _element(data, position, implicit)
        if tag >> 16 >= _PIXEL_GROUP or (tag > _SERIES and _NAMES.keys() <= found.keys()):
            break
        if length == _UNDEFINED:
            is_un = not implicit and bytes(data[position + 4 : position + 6]) == b"UN"
            position, steps = _skip_sequence(data, start, implicit or is_un, steps)
            continue
        if tag in _WANTED:
            value = bytes(data[start : min(start + length, end, start + MAX_VALUE_BYTES)])
            if start + length > end:
                break  # the value itself is cut off
            if found.setdefault(tag, value) != value:
                raise IdentityUnreadable(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) appears twice and differs")
        position = start + length
    return found


def _element(data: Bytes, position: int, implicit: bool) -> tuple[int, int, int]:
    """(tag, where its value starts, its length) of the element at `position`; 8 bytes are there."""
    group, element, length = struct.unpack_from("<HHL", data, position)
    tag = group << 16 | element
    if (implicit and group != 0x0002) or group == 0xFFFE:
        return tag, position + 8, length
    vr = bytes(data[position + 4 : position + 6])
    if vr in _SHORT_VRS:
        return tag, position + 8, length >> 16
    if not (vr.isalpha() and vr.isupper()):
        return tag, position + 8, length  # an implicit element among explicit ones
    if position + 12 > len(data):
        return tag, len(data), 0
    return tag, position + 12, struct.unpack_from("<L", data, position + 8)[0]


def _skip_sequence(data: Bytes, position: int, implicit: bool, steps: int) -> tuple[int, int]:
    """Walk over a sequence of undefined length, however deep; returns (where it ends, steps).

    The stack holds, for each open sequence or item, whether its content is implicit VR (that of
    an UN of undefined length is, PS3.5 section 6.2.2) and whether it is an item.
    """
    end = len(data)
    stack = [(implicit, False)]
    while stack:
        steps += 1
        if steps > MAX_STEPS:
            raise IdentityUnreadable(f"more than {MAX_STEPS} elements before the identity was known")
        if position + 8 > end:
            return end, steps
        inner, is_item = stack[-1]
        tag, start, length = _element(data, position, inner)
        if tag in (_ITEM_END, _SEQUENCE_END):
            stack.pop()
            position = start
        elif length != _UNDEFINED:
            position = start + length
        else:
            if is_item:
                inner = inner or bytes(data[position + 4 : position + 6]) == b"UN"
            stack.append((inner, not is_item))
            position = start
    return position, steps


def _text(value: bytes, character_set: bytes) -> str:
    """Decode a short text by the first value of Specific Character Set; controls are removed.

    Code extensions (ISO 2022) are not followed: identifiers are written in the first set, and the
    ledger's copy is for finding a study, not for results. Without a set we know, UTF-8 is what
    senders mean when the bytes are valid in it; Latin-1 takes any other.
    """
    first = character_set.split(b"\\")[0].decode("latin-1").strip(" \0")
    codec = _CODECS.get(first.replace("ISO 2022 IR ", "ISO_IR ").replace("ISO IR ", "ISO_IR "))
    if codec is not None:
        text = value.decode(codec, errors="replace")
    else:
        try:
            text = value.decode("utf_8")
        except UnicodeDecodeError:
            text = value.decode("latin-1")
    return text.translate(_CONTROLS).strip(" ")[:64]
