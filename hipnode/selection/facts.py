"""Header facts of one object: plain values that travel between processes, no words weighed yet."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydicom.config import disable_value_validation
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

#: What hipnode writes into each of its objects (hipnode.results), so that they are known again.
OWN_MANUFACTURER = "hipnode"
OWN_CODING_SCHEME = "99HIPNODE"

#: Sequences of codes that say something of region, view or procedure.
CODE_SEQUENCES = (
    "AnatomicRegionSequence",
    "ViewCodeSequence",
    "ViewModifierCodeSequence",
    "PerformedProtocolCodeSequence",
    "ProcedureCodeSequence",
    "RequestedProcedureCodeSequence",
    "PatientSpeciesCodeSequence",
)

_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "SH", "SL", "SS"})
_OTHER_VRS = frozenset({"ST", "TM", "UC", "UI", "UL", "US", "UT"})
_MAX_TEXT = 1024
_MAX_VALUES = 64
_MAX_ITEMS = 16
#: Group 0010 describes the patient; of it only these leave the header.
_PATIENT_ATTRIBUTES = frozenset({"PatientAge", "PatientSex", "PatientSpeciesDescription"})
_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}


@dataclass(frozen=True)
class Code:
    """One code of a header."""

    value: str
    scheme: str
    meaning: str

    @property
    def key(self) -> str:
        """As selection.toml names it."""
        return f"{self.value}^{self.scheme}"


@dataclass(frozen=True)
class Facts:
    """What selection may know of one object. Picklable; holds no name, id or birth date of a patient.

    attributes: keyword -> values of the top level attributes (texts, numbers as texts).
    codes: keyword -> codes of the sequences in CODE_SEQUENCES.
    age_years: at the study, from birth date and study date, else from PatientAge; None if unknown.
    source_uids: SOP Instance UIDs of the images this one was made from.
    own_code: a code of hipnode's own coding scheme stands in the header.
    """

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    codes: dict[str, tuple[Code, ...]] = field(default_factory=dict)
    age_years: float | None = None
    source_uids: tuple[str, ...] = ()
    own_code: bool = False

    @property
    def sop_class_name(self) -> str:
        """The SOP class as the standard names it, or its UID."""
        return UID(self.sop_class_uid).name if self.sop_class_uid else "no SOP class"

    def values(self, keyword: str) -> tuple[str, ...]:
        """The values of an attribute that are not empty."""
        return tuple(v for v in self.attributes.get(keyword, ()) if v)

    def first(self, keyword: str) -> str:
        """The first value of an attribute, "" when absent or empty."""
        values = self.attributes.get(keyword, ())
        return values[0] if values else ""

    def integer(self, keyword: str) -> int | None:
        """The first value as a number; None when it is none."""
        try:
            return int(float(self.first(keyword)))
        except (ValueError, OverflowError):
            return None


def may_be_asked(keyword: str) -> bool:
    """Whether a rule may ask for this attribute: it exists and does not tell who the patient is."""
    tag = tag_for_keyword(keyword)
    return tag is not None and (tag >> 16 != 0x0010 or keyword in _PATIENT_ATTRIBUTES)


def facts_of(ds: Dataset) -> Facts:
    """The facts of a header. An attribute that cannot be read is no evidence, so it is left out."""
    with disable_value_validation():  # free text in coded attributes is what headers are like
        return _facts_of(ds)


def _facts_of(ds: Dataset) -> Facts:
    attributes = dict(_attributes(ds))
    # Many devices write the order's texts only into the request.
    for item in _items(ds, "RequestAttributesSequence"):
        for keyword, text in _attributes(item):
            if keyword == "RequestedProcedureDescription":
                attributes.setdefault(keyword, text)
    return Facts(
        sop_class_uid=_text(ds, "SOPClassUID"),
        sop_instance_uid=_text(ds, "SOPInstanceUID"),
        attributes=attributes,
        codes={keyword: codes for keyword in CODE_SEQUENCES if (codes := tuple(_codes(ds, keyword)))},
        age_years=_age_years(ds),
        source_uids=tuple(
            _text(item, "ReferencedSOPInstanceUID") for item in _items(ds, "SourceImageSequence")
        ),
        own_code=any(
            _text(item, "CodingSchemeDesignator") == OWN_CODING_SCHEME
            for item in _items(ds, "CodingSchemeIdentificationSequence")
        ),
    )


def _attributes(ds: Dataset) -> Iterator[tuple[str, tuple[str, ...]]]:
    for tag in ds.keys():  # noqa: SIM118 - iterating the data set itself would convert every value at once
        keyword = keyword_for_tag(tag)
        if not keyword or tag.group >= 0x7FE0 or (tag.group == 0x0010 and keyword not in _PATIENT_ATTRIBUTES):
            continue
        value = _value(ds, keyword)
        if value is not None:
            yield keyword, _texts(value)


def _value(ds: Dataset, keyword: str) -> Any:
    """The value of an attribute; None when absent, of a VR without texts, or unreadable."""
    try:
        element = ds[keyword]
        if element.VR in _TEXT_VRS or element.VR in _OTHER_VRS:
            return element.value
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - pydicom converts here, and raises as it meets malformed values
        return None
    return None


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return tuple(_mended(str(v))[:_MAX_TEXT] if v is not None else "" for v in list(values)[:_MAX_VALUES])


def _mended(text: str) -> str:
    """UTF-8 that was read as Latin-1, because the header names no character set, read again."""
    text = text.strip("\0 \t\r\n")
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text


def _text(ds: Dataset, keyword: str) -> str:
    value = _value(ds, keyword)
    texts = _texts(value) if value is not None else ()
    return texts[0] if texts else ""


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    try:
        items = ds.get(keyword)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a damaged sequence says nothing
        return []
    return list(items)[:_MAX_ITEMS] if isinstance(items, Sequence) else []


def _codes(ds: Dataset, keyword: str) -> Iterator[Code]:
    items = _items(ds, keyword)
    if keyword == "ViewModifierCodeSequence":  # it stands inside the items of View Code Sequence
        items += [inner for view in _items(ds, "ViewCodeSequence") for inner in _items(view, keyword)]
    for item in items:
        value = _text(item, "CodeValue") or _text(item, "LongCodeValue") or _text(item, "URNCodeValue")
        code = Code(value, _text(item, "CodingSchemeDesignator"), _text(item, "CodeMeaning"))
        if code.value or code.meaning:
            yield code


def _age_years(ds: Dataset) -> float | None:
    born, study = _date(_text(ds, "PatientBirthDate")), _date(_text(ds, "StudyDate"))
    if born is not None and study is not None:
        years = study.year - born.year - ((study.month, study.day) < (born.month, born.day))
        if 0 <= years <= 130:
            return float(years)
    match = re.fullmatch(r"(\d{1,3})([DWMY])", _text(ds, "PatientAge").upper())
    if match is None or match.group() in ("000Y", "00Y", "0Y"):  # what anonymisers write
        return None
    return int(match[1]) / _PER_YEAR[match[2]]


def _date(text: str) -> datetime.date | None:
    digits = text.replace(".", "")[:8]  # ACR-NEMA wrote 1942.11.03
    try:
        return datetime.datetime.strptime(digits, "%Y%m%d").date() if len(digits) == 8 else None
    except ValueError:
        return None
