"""Patient and study carried over: every character set, and headers nobody should have written."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from hipnode.errors import SelfCheckFailed
from hipnode.findings import Reason, StudyReading
from hipnode.results import build_results
from hipnode.results.charsets import codecs_of, decode
from hipnode.results.headers import SourceHeader, clean
from hipnode.status import Outcome, ReasonCode
from tests.dicom_checks import check_results
from tests.factories import make_radiograph
from tests.readings import (
    ALGORITHM,
    ANALYSED_AT,
    DISPLACED,
    INSTALLATION,
    header_of,
    image,
    radiograph,
    study,
)


def raw(ds: Dataset, keyword: str, value: bytes, vr: str | None = None) -> None:
    """Put a value as it comes off the wire: bytes nobody has looked at."""
    tag = Tag(keyword)
    from pydicom.datadict import dictionary_VR

    ds[tag] = RawDataElement(tag, vr or dictionary_VR(tag), len(value), value, 0, False, True)  # type: ignore[assignment]


def source(**values: bytes) -> Dataset:
    """A header with raw values."""
    ds = header_of(make_radiograph("DX"))
    for keyword, value in values.items():
        raw(ds, keyword, value)
    return ds


def results_of(ds: Dataset, **more: Any) -> list[Any]:
    return build_results(
        [ds], study(image(ds, DISPLACED)), ALGORITHM, INSTALLATION, 1, ANALYSED_AT,
        images={ds.SOPInstanceUID: radiograph(ds)}, **more,
    )  # fmt: skip


# --- Character sets ------------------------------------------------------------------------------

#: name -> (SpecificCharacterSet, PatientName as bytes, as text). PS3.5 annexes H, I, J, K have the first ones.
NAMES = {
    "ascii": (b"", b"Doe^Jane", "Doe^Jane"),
    "latin-1 german": (b"ISO_IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
    "latin-1 by code extension": (b"ISO 2022 IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
    "latin-2 polish": (b"ISO_IR 101", b"\xa3ukasz^\xa3", "Łukasz^Ł"),
    "cyrillic": (b"ISO_IR 144", bytes("Люк", "iso8859_5"), "Люк"),
    "greek": (b"ISO_IR 126", bytes("Διονυσιος", "iso8859_7"), "Διονυσιος"),
    "thai": (b"ISO_IR 166", bytes("นามสกุล", "tis_620"), "นามสกุล"),
    "korean": (
        rb"\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "korean without escape sequences": (
        rb"ISO 2022 IR 149",
        b"Hong^Gildong=\xfb\xf3^\xd1\xce\xd4\xd7=\xc8\xab^\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "korean, illegal name of the set": (b"ISO_IR 149", b"=\xfb\xf3^\xd1\xce\xd4\xd7", "=洪^吉洞"),
    "japanese": (
        rb"\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "japanese with katakana": (
        rb"ISO 2022 IR 13\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "japanese supplementary": (
        rb"\ISO 2022 IR 87\ISO 2022 IR 159",
        b"Sato=" + "丂".encode("iso2022_jp_2"),
        "Sato=丂",
    ),
    "utf-8": (b"ISO_IR 192", "Wang^XiaoDong=王^小東=홍".encode(), "Wang^XiaoDong=王^小東=홍"),
    "gb18030": (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    "gb18030 with delimiters inside characters": (b"GB18030", "乗^乗".encode("gb18030"), "乗^乗"),
    "gbk": (b"GBK", "王^小东".encode("gbk"), "王^小东"),
    "chinese by code extension": (rb"\ISO 2022 IR 58", b"Zhang=\x1b$)A\xd5\xc5", "Zhang=张"),
    "misspelt utf-8": (b"ISO IR 192", "Müller".encode(), "Müller"),
    "no set, utf-8 bytes": (b"", "Müller^Jörg".encode(), "Müller^Jörg"),
    "no set, latin-1 bytes": (b"", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
    "unknown set": (b"KLINGON", b"M\xfcller", "Müller"),
    "wrong set": (b"ISO_IR 192", b"M\xfcller", "Müller"),
    "wrong escape": (rb"\ISO 2022 IR 149", b"\x1b$ZM\xfcller", "$ZMüller"),
    "broken japanese": (rb"\ISO 2022 IR 87", b"A^\x1b$B;", "A^$B;"),
}


JUDGED = ("korean", "japanese with katakana", "latin-1 german", "gb18030", "thai", "wrong escape")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_every_character_set_arrive_as_utf_8(name: str, tmp_path: Path) -> None:
    charset, stored, expected = NAMES[name]
    ds = source(SpecificCharacterSet=charset, PatientName=stored, StudyDescription=b"Hip")
    results = results_of(ds, kinds=["SR"])
    read = check_results(results, tmp_path) if name in JUDGED else [dcmread(BytesIO(results[0].encode()))]
    for made in read:
        assert str(made.PatientName) == expected
        assert made.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize("name", ["korean", "japanese", "latin-1 german", "gb18030", "utf-8"])
def test_a_header_read_by_pydicom_gives_the_same_name(name: str) -> None:
    charset, stored, expected = NAMES[name]
    buffer = BytesIO()
    ds = source(SpecificCharacterSet=charset, PatientName=stored)
    ds.file_meta = make_radiograph().file_meta
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    read = dcmread(buffer)
    lazily = SourceHeader(read).text("PatientName")
    assert read.PatientName is not None  # converts it in place
    assert SourceHeader(read).text("PatientName") == lazily == expected


def test_text_of_nested_items_follows_the_set_of_the_data_set() -> None:
    request = Dataset()
    request.RequestedProcedureID = "1"
    raw(request, "RequestedProcedureDescription", b"H\xfcfte")
    ds = source(SpecificCharacterSet=b"ISO_IR 100")
    ds.RequestAttributesSequence = [request]
    [made] = results_of(ds, kinds=["SR"])
    assert made.dataset.ReferencedRequestSequence[0].RequestedProcedureDescription == "Hüfte"


def test_decoding_takes_any_bytes_in_any_set() -> None:
    import random

    dice = random.Random(5)
    sets = [*{charset.decode() for charset, _, _ in NAMES.values()}, "ISO 2022 IR 6", "ISO_IR 13", "x\\y"]
    for _ in range(3000):
        stored = dice.randbytes(dice.randrange(12)) + dice.choice([b"", b"\x1b$)C", b"\x1b(J", b"\x1b"])
        assert isinstance(decode(stored, codecs_of(dice.choice(sets).split("\\"))), str)


# --- Odd headers ---------------------------------------------------------------------------------

IDENTIFYING = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientOrientation",
    "BodyPartExamined",
)
ODD: dict[str, dict[str, bytes]] = {
    "nothing known": dict.fromkeys(IDENTIFYING, b""),
    "several patient ids": {"PatientID": rb"A1\B2"},
    "over-long": {
        "PatientID": b"7" * 90,
        "PatientName": b"L" * 90 + b"^" + b"F" * 90,
        "AccessionNumber": b"A" * 40,
        "StudyID": b"S" * 30,
        "StudyDescription": b"D" * 200,
        "IssuerOfPatientID": b"I" * 70,
        "BodyPartExamined": b"H" * 30,
    },
    "patient id at the limit": {"PatientID": b"9" * 64},
    "not dates": {
        "StudyDate": b"yesterday",
        "StudyTime": b"noon",
        "PatientBirthDate": b"00000000",
        "PatientAge": b"79",
    },
    "old dates": {"StudyDate": b"2025.03.14", "StudyTime": b"10:15:00"},
    "controls": {
        "PatientID": b"A\x00B\x07\r\n",
        "PatientName": b"Doe\x1b^Jane\x00",
        "StudyDescription": b"a\tb",
    },
    "many carets": {"PatientName": b"a^b^c^d^e^f^g=h=i=j"},
    "sex in words": {"PatientSex": b"FEMALE"},
    "orientation of one": {"PatientOrientation": b"L"},
    "orientation in words": {"PatientOrientation": rb"links\unten"},
    "spacing of nonsense": {"ImagerPixelSpacing": rb"-1\abc", "Rows": b"\x00", "Columns": b""},
    "lossy without numbers": {"LossyImageCompression": b"01", "LossyImageCompressionRatio": b"about ten"},
    "uids with a leading zero": {"StudyInstanceUID": b"1.2.03.4", "SOPInstanceUID": b"1.2.03.4.05"},
}


@pytest.mark.parametrize("name", ODD)
def test_no_header_stops_a_result(name: str, tmp_path: Path) -> None:
    ds = source(**ODD[name])
    uid = SourceHeader(ds).text("SOPInstanceUID")
    reading = StudyReading(Outcome.ERROR, Reason.of(ReasonCode.WORKER_LOST), ())
    built = build_results([ds], reading, ALGORITHM, INSTALLATION, 1, ANALYSED_AT)
    if name == "uids with a leading zero":  # carried as they are: the result must stand beside its study
        assert {b.dataset.StudyInstanceUID for b in built} == {"1.2.03.4"}
        assert built[1].dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == uid == "1.2.03.4.05"
    else:
        check_results(built, tmp_path)


def test_values_are_cut_or_chosen_as_the_vr_allows() -> None:
    made = results_of(source(**ODD["over-long"]))[0].dataset
    assert made.PatientID == "7" * 64
    assert made.AccessionNumber == "A" * 16
    assert str(made.PatientName) == "L" * 64
    assert results_of(source(PatientID=rb"A1\B2"))[0].dataset.PatientID == "A1"
    made = results_of(source(**ODD["old dates"]))[0].dataset
    assert (made.StudyDate, made.StudyTime) == ("20250314", "101500")
    made = results_of(source(**ODD["controls"]))[0].dataset
    assert made.PatientID == "AB"
    assert str(made.PatientName) == "Doe^Jane"


def test_values_of_another_vr_are_taken_as_text_or_left_out() -> None:
    ds = header_of(make_radiograph("DX"))
    ds[Tag("PatientID")] = DataElement(Tag("PatientID"), "US", 12345)
    ds[Tag("StudyDescription")] = DataElement(Tag("StudyDescription"), "SQ", Sequence([Dataset()]))
    ds[Tag("AccessionNumber")] = DataElement(Tag("AccessionNumber"), "OB", b"A77")
    raw(ds, "RequestAttributesSequence", b"no sequence at all", "UN")
    raw(ds, "ProcedureCodeSequence", struct.pack("<HHI", 0xFFFE, 0xE000, 1 << 31), "SQ")
    made = results_of(ds)[0].dataset
    assert (made.PatientID, made.AccessionNumber) == ("12345", "A77")
    assert "StudyDescription" not in made


def test_patient_and_study_come_from_the_latest_instance() -> None:
    old = header_of(make_radiograph("DX", PatientName="Old^Name"))
    new = header_of(make_radiograph("DX", instance=2, PatientName="New^Name", PatientID="P2"))
    [made] = build_results(
        [old, new], study(image(old), image(new)), ALGORITHM, INSTALLATION, 1, ANALYSED_AT, kinds=["SR"]
    )
    assert (str(made.dataset.PatientName), made.dataset.PatientID) == ("New^Name", "P2")


def test_the_issuers_of_patient_id_and_accession_are_carried() -> None:
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    ds = header_of(
        make_radiograph("DX", IssuerOfPatientID="CLINIC", IssuerOfAccessionNumberSequence=[issuer])
    )
    for built in results_of(ds):
        assert built.dataset.IssuerOfPatientID == "CLINIC"
        assert built.dataset.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"


def test_a_study_without_uid_cannot_get_a_result() -> None:
    ds = source(StudyInstanceUID=b"../../etc")
    with pytest.raises(SelfCheckFailed, match="StudyInstanceUID"):
        results_of(ds)


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("LO", "", ""),
        ("LO", "  a  ", "a"),
        ("CS", "hip rt", "HIP RT"),
        ("CS", "HÜFTE", ""),
        ("DA", "20251301", ""),
        ("TM", "1015", "1015"),
        ("TM", "101500.123456", "101500.123456"),
        ("TM", "2515", ""),
        ("AS", "079Y", "079Y"),
        ("UI", "1.2.840.x", ""),
        ("PN", "a^b^^=", "a^b"),
        ("PN", "\ud800a", "a"),
    ],
)
def test_values_are_made_legal(vr: str, value: str, expected: str) -> None:
    assert clean(value, vr) == expected
