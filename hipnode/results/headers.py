"""Reads source headers, however poor, and carries patient and study over into a result.

A source is a data set some modality wrote. Its values may be missing, of another VR, over-long, in an
undeclared character set, or garbage: each of them reads as the nearest legal value or as empty, and
never as an error, because the failure notice must be buildable from the poorest header. Values are
taken as raw bytes where pydicom has not converted them yet, so nothing here warns either.
"""

import re
from collections.abc import Iterable
from typing import Literal

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from hipnode.results.charsets import codecs_of, decode, printable

#: Longest value of a text VR, in characters (PS3.5 table 6.2-1).
MAX_LENGTH = {
    "AE": 16,
    "CS": 16,
    "LO": 64,
    "SH": 16,
    "ST": 1024,
    "LT": 10240,
    "UI": 64,
    "UC": 2**31,
    "UT": 2**31,
}
_ONE_VALUE = ("ST", "LT", "UT")  #: here a backslash is a character

MAX_SEQUENCE_ITEMS = 20  #: of a source's sequence that are carried over


class SourceHeader:
    """A data set, or an item of one, read without ever raising."""

    def __init__(self, ds: Dataset, codecs: tuple[str, ...] = ()) -> None:
        self._ds = ds
        self._codecs = codecs
        self._codecs = codecs_of(self._strings("SpecificCharacterSet")) or codecs

    def has(self, keyword: str) -> bool:
        """Whether the attribute is there, empty or not."""
        return keyword in self._ds

    def text(self, keyword: str) -> str:
        """The first value that is not empty, legal for the attribute's VR; "" if there is none."""
        vr = dictionary_VR(keyword)
        values = self._strings(keyword)
        for value in values if vr not in _ONE_VALUE else ["\\".join(values)]:
            legal = clean(value, vr)
            if legal:
                return legal
        return ""

    def texts(self, keyword: str) -> list[str]:
        """All values, legal for the VR; an illegal one reads as ""."""
        return [clean(value, dictionary_VR(keyword)) for value in self._strings(keyword)]

    def integer(self, keyword: str) -> int | None:
        """A whole number, or None."""
        value = self._raw_value(keyword)
        if isinstance(value, bytes) and dictionary_VR(keyword) in ("US", "UL", "SS"):
            return int.from_bytes(value[:2], self._byte_order(keyword)) if len(value) >= 2 else None
        try:
            return int(self._strings(keyword)[0])
        except (IndexError, ValueError):
            return None

    def decimals(self, keyword: str) -> list[float]:
        """Numbers; [] if any of them is none."""
        try:
            return [float(value) for value in self._strings(keyword)]
        except ValueError:
            return []

    def items(self, keyword: str) -> list["SourceHeader"]:
        """The items of a sequence; [] where there is none that can be read."""
        try:
            element = self._ds[keyword]
            found = list(element.value) if element.VR == "SQ" else []
        except Exception:  # noqa: BLE001  # pydicom raises a dozen kinds of error on a damaged sequence
            return []
        return [
            SourceHeader(item, self._codecs)
            for item in found[:MAX_SEQUENCE_ITEMS]
            if isinstance(item, Dataset)
        ]

    def _element(self, keyword: str) -> DataElement | RawDataElement | None:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in self._ds:
            return None
        element = self._ds.get_item(tag)
        return element if isinstance(element, DataElement | RawDataElement) else None

    def _byte_order(self, keyword: str) -> Literal["big", "little"]:
        element = self._element(keyword)
        big = isinstance(element, RawDataElement) and not element.is_little_endian
        return "big" if big else "little"

    def _raw_value(self, keyword: str) -> object:
        element = self._element(keyword)
        return None if element is None else element.value

    def _strings(self, keyword: str) -> list[str]:
        value = self._raw_value(keyword)
        if value is None or isinstance(value, Sequence):
            return []
        values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
        found = []
        for one in values:
            if isinstance(one, PersonName):
                raw = one.original_string  # bytes where it was read and not yet decoded
                one = raw if isinstance(raw, bytes) else str(one)
            text = decode(one, self._codecs) if isinstance(one, bytes) else str(one)
            # NUL and blanks pad; a backslash in bytes separates values.
            found += text.strip("\0 ").split("\\")
        return found


def clean(value: str, vr: str) -> str:
    """`value` made legal for a VR, or "" where it cannot be (PS3.5 table 6.2-1)."""
    value = printable(value).strip()
    if vr == "PN":
        return _person_name(value)
    if vr == "DA":
        return _date(value)
    if vr == "TM":
        return _time(value)
    if vr == "AS":
        return value if re.fullmatch(r"\d{3}[DWMY]", value) else ""
    if vr == "UI":
        return value if re.fullmatch(r"[0-9.]{1,64}", value) else ""
    if vr == "CS":
        value = value.upper()
        return value if re.fullmatch(r"[A-Z0-9_ ]{1,16}", value) else ""
    limit = MAX_LENGTH.get(vr)
    return value[:limit].strip() if limit else value


def _person_name(value: str) -> str:
    """Up to three groups (alphabetic, ideographic, phonetic) of up to five components and 64 characters."""
    groups = [
        "^".join(component.strip() for component in group.split("^")[:5]).rstrip("^")[:64].rstrip("^ ")
        for group in value.split("=")[:3]
    ]
    return "=".join(groups).rstrip("=")


def _date(value: str) -> str:
    """YYYYMMDD, also from the YYYY.MM.DD of old and YYYY-MM-DD of careless senders."""
    match = re.fullmatch(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)", value)
    if not match or not (1 <= int(match[2]) <= 12 and 1 <= int(match[3]) <= 31):
        return ""
    return "".join(match.groups())


def _time(value: str) -> str:
    """HHMMSS.FFFFFF or a beginning of it, also from HH:MM:SS."""
    match = re.fullmatch(r"([01]\d|2[0-3]):?(?:([0-5]\d):?(?:([0-5]\d|60)(\.\d{1,6})?)?)?", value)
    return "".join(part for part in match.groups() if part) if match else ""


def put(ds: Dataset, keyword: str, value: object, vr: str | None = None) -> None:
    """Set an attribute without pydicom's own validation, which would warn; `check_result` is the judge."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword  # noqa: S101  # keywords are ours
    ds.add(DataElement(tag, vr or dictionary_VR(tag), value, validation_mode=config.IGNORE))


def carry(ds: Dataset, source: SourceHeader, keywords: Iterable[str], always: bool = False) -> None:
    """Copy single-valued attributes; with `always`, an unknown one is written empty (type 2)."""
    for keyword in keywords:
        value = source.text(keyword)
        if value or always:
            put(ds, keyword, value)


def carry_patient_and_study(ds: Dataset, source: SourceHeader, study_uid: str) -> None:
    """The Patient, General Study and Patient Study attributes by which archives file a result."""
    carry(ds, source, ("PatientID", "PatientName", "PatientBirthDate"), always=True)
    carry(ds, source, ("IssuerOfPatientID",))
    sex = source.text("PatientSex")
    put(ds, "PatientSex", sex if sex in ("M", "F", "O") else "")
    put(ds, "StudyInstanceUID", study_uid)
    carry(
        ds,
        source,
        ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
        always=True,
    )
    carry(ds, source, ("StudyDescription", "PatientAge"))
    issuers = [
        issuer for item in source.items("IssuerOfAccessionNumberSequence")[:1] if (issuer := _issuer(item))
    ]
    if issuers:
        ds.IssuerOfAccessionNumberSequence = issuers


def _issuer(item: SourceHeader) -> Dataset | None:
    """HL7v2 Hierarchic Designator (PS3.3 10.14): a local name, or a universal id with its type."""
    issuer = Dataset()
    carry(issuer, item, ("LocalNamespaceEntityID",))
    if item.text("UniversalEntityID") and item.text("UniversalEntityIDType"):
        carry(issuer, item, ("UniversalEntityID", "UniversalEntityIDType"))
    return issuer if len(issuer) else None


def coded(item: SourceHeader) -> Dataset | None:
    """A code of the source (PS3.3 8.8), or None where it is not whole."""
    value, long_value = item.text("CodeValue"), item.text("LongCodeValue")
    scheme, meaning = item.text("CodingSchemeDesignator"), item.text("CodeMeaning")
    if not ((value or long_value) and scheme and meaning):
        return None
    code = Dataset()
    put(code, "CodeValue" if value else "LongCodeValue", value or long_value)
    put(code, "CodingSchemeDesignator", scheme)
    carry(code, item, ("CodingSchemeVersion",))
    put(code, "CodeMeaning", meaning)
    return code


def codes_in(source: SourceHeader, keyword: str) -> list[Dataset]:
    """The whole codes of a code sequence."""
    return [code for item in source.items(keyword) if (code := coded(item)) is not None]
