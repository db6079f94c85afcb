"""The bounded reader: right on sound data sets, and nothing but IdentityUnreadable on any other."""

import random
import struct
import time
from io import BytesIO

import pytest
from pydicom import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLSLossless

from hipnode.errors import IdentityUnreadable
from hipnode.identity import MAX_STEPS, has_marker, is_uid, peek_study_uid, read_identity
from tests.encoded import EXPLICIT, IMPLICIT, UID_TAGS, UNDEFINED, data_set, element, encode, implicit, uids
from tests.factories import make_radiograph


def study_of(data: bytes, syntax: str = EXPLICIT) -> str:
    return read_identity(data, syntax).study_instance_uid


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, str(JPEGLSLossless)])
@pytest.mark.parametrize("kind", ["DX", "CR", "SC"])
def test_a_radiograph_is_who_pydicom_says_it_is(kind: str, syntax: str) -> None:
    ds: FileDataset = make_radiograph(kind, PatientID="P-1", AccessionNumber="A7", Manufacturer="ACME")
    found = read_identity(encode(ds, IMPLICIT if syntax == IMPLICIT else EXPLICIT), syntax)
    assert found.sop_class_uid == ds.SOPClassUID
    assert found.sop_instance_uid == ds.SOPInstanceUID
    assert found.study_instance_uid == ds.StudyInstanceUID
    assert found.series_instance_uid == ds.SeriesInstanceUID
    assert (found.patient_id, found.accession_number, found.manufacturer) == ("P-1", "A7", "ACME")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", False),
        ("1", True),
        ("1.2.840.10008.1.2", True),
        ("1.02.3", True),  # leading zeros are common in the field
        ("1." + "2" * 62, True),
        ("1." + "2" * 63, False),
        ("1..2", False),
        (".1", False),
        ("1.2.", False),
        ("../../etc/passwd", False),
        ("/abs/1", False),
        ("1.2\0.3", False),
        ("1.2 .3", False),
        ("1.2.a", False),
        ("1.2\n", False),
        ("1.٢", False),  # a digit of another script
    ],
)
def test_a_uid_is_dotted_digits(text: str, answer: bool) -> None:
    assert is_uid(text) is answer


@pytest.mark.parametrize("name", UID_TAGS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\0\0",
        b"  ",
        b"1." + b"2" * 63,
        b"../../x\0",
        b"1.2\\1.3\0",
        b"1.2\0.3\0",
        b"abc\0",
        b"1" * 5000,
    ],
)
def test_a_missing_or_unusable_uid_is_named(name: str, value: bytes | None) -> None:
    key = name.split(" ")[0] + ("Class" if "Class" in name else "")
    with pytest.raises(IdentityUnreadable, match=name) as caught:
        read_identity(data_set(**{key: value}), EXPLICIT)
    assert "../" not in str(caught.value)
    assert "1.2" not in str(caught.value)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0\0", b" \0", b"\0 "])
def test_padding_is_no_part_of_a_uid(padding: bytes) -> None:
    assert study_of(data_set(Study=b"1.02.3" + padding)) == "1.02.3"


def test_sequences_are_walked_over() -> None:
    inner = Dataset()
    inner.StudyInstanceUID = "9.9.9"  # as in a Request Attributes Sequence
    inner.PatientID = "WRONG"
    outer = Dataset()
    outer.RequestAttributesSequence = Sequence([inner])
    ds = make_radiograph(PatientID="RIGHT")
    ds.ReferencedStudySequence = Sequence([outer])
    ds.AnatomicRegionSequence = Sequence([inner, inner])
    for undefined in (False, True):
        for sequence in (ds["ReferencedStudySequence"], outer["RequestAttributesSequence"]):
            sequence.is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
        for syntax in (EXPLICIT, IMPLICIT):
            found = read_identity(encode(ds, syntax), syntax)
            assert (found.study_instance_uid, found.patient_id) == (ds.StudyInstanceUID, "RIGHT")


def test_undefined_length_is_followed_in_any_depth_without_recursion() -> None:
    depth = 10_000
    start = element(0x00081110, b"SQ", b"", UNDEFINED) + struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    assert study_of(data_set(before=start * depth + end * depth)) == "1.2.2"
    with pytest.raises(IdentityUnreadable):
        read_identity(data_set(before=start * 10 * MAX_STEPS), EXPLICIT)


def test_an_unknown_vr_of_undefined_length_holds_implicit_elements() -> None:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED) + implicit(0x00080100, b"ABCD")
    item += struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    content = item + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    assert study_of(data_set(before=element(0x00091010, b"UN", content, UNDEFINED))) == "1.2.2"


@pytest.mark.parametrize("vr", [b"OB", b"UN", b"ZZ", b"OV"])
def test_long_values_of_any_vr_are_stepped_over(vr: bytes) -> None:
    blob = bytes(3 * 2**20)
    head = struct.pack("<HH", 0x0009, 0x1001) + vr + struct.pack("<HL", 0, len(blob))
    assert study_of(data_set(before=head + blob)) == "1.2.2"


def test_an_implicit_element_among_explicit_ones_is_read() -> None:
    assert study_of(data_set(before=implicit(0x00091001, b"\1\2\3\4"))) == "1.2.2"


def test_group_lengths_that_lie_and_file_meta_in_the_data_set_do_no_harm() -> None:
    group2 = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
    lie = element(0x00080000, b"UL", struct.pack("<L", 0xFFFFFF00))
    assert study_of(group2 + lie + data_set()) == "1.2.2"
    meta_explicit = group2 + b"".join(implicit(t, v) for t, v in uids().items())
    assert study_of(meta_explicit, IMPLICIT) == "1.2.2"


def test_unordered_elements_are_found() -> None:
    values = b"".join(element(t, b"UI", v) for t, v in reversed(list(uids().items())))
    assert study_of(values) == "1.2.2"


def test_what_stands_twice_must_be_the_same_twice() -> None:
    study = UID_TAGS["Study Instance UID"]
    same, other = element(study, b"UI", b"1.2.2"), element(study, b"UI", b"1.2.9")
    assert study_of(data_set(before=same)) == "1.2.2"
    with pytest.raises(IdentityUnreadable, match="twice"):
        read_identity(data_set(before=other), EXPLICIT)


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("vr", [b"OB", b"UN", b"SQ"])
def test_a_length_of_gigabytes_costs_nothing(vr: bytes, length: int) -> None:
    begun = time.thread_time()
    with pytest.raises(IdentityUnreadable, match="missing"):
        read_identity(data_set(before=element(0x00091001, vr, b"xx", length)), EXPLICIT)
    assert time.thread_time() - begun < 1


def test_every_truncation_is_unreadable_or_right() -> None:
    whole = data_set(before=element(0x00100020, b"LO", b"P1"), after=element(0x00280010, b"US", b"\1\0"))
    needed = whole.index(b"\x28\x00\x10\x00")
    for end in range(len(whole)):
        if end < needed:
            with pytest.raises(IdentityUnreadable):
                read_identity(whole[:end], EXPLICIT)
        else:
            assert study_of(whole[:end]) == "1.2.2"


def test_identifiers_are_decoded_and_made_fit_for_a_column() -> None:
    def patient_id(value: bytes, charset: bytes = b"") -> str:
        texts = element(0x00080005, b"CS", charset) if charset else b""
        return read_identity(data_set(before=texts + element(0x00100020, b"LO", value)), EXPLICIT).patient_id

    assert patient_id("Jörg-1".encode("latin-1"), b"ISO_IR 100") == "Jörg-1"
    assert patient_id("Jörg-1".encode("latin-1")) == "Jörg-1"
    assert patient_id("Jörg-1".encode()) == "Jörg-1"
    assert patient_id("김-1".encode(), b"ISO_IR 192") == "김-1"
    assert patient_id("환자-1".encode("latin-1", "replace"), b"ISO IR 192") == "??-1"
    assert patient_id(b"\xff\xfe", b"ISO_IR 192") == "��"
    assert patient_id(b" A\0B\x1b\r\n ", b"ISO 2022 IR 87") == "AB"
    assert patient_id(b"A" * 200) == "A" * 64
    assert patient_id(b"") == ""


def test_the_study_is_known_from_the_first_bytes() -> None:
    ds = make_radiograph()
    encoded = encode(ds)
    assert peek_study_uid(encoded[:4096], EXPLICIT) == ds.StudyInstanceUID
    assert peek_study_uid(encoded[:100], EXPLICIT) is None
    assert peek_study_uid(b"", EXPLICIT) is None
    assert peek_study_uid(data_set(Study=b"../x"), EXPLICIT) is None


def test_a_mark_of_ours_is_found_in_any_depth_but_not_in_pixel_data() -> None:
    nested = element(0x00080102, b"SH", b"99HIPNODE ")
    for _ in range(5):
        nested = element(0x0040A730, b"SQ", struct.pack("<HHL", 0xFFFE, 0xE000, len(nested)) + nested)
    assert has_marker(data_set(after=nested), (b"99HIPNODE",))
    assert has_marker(memoryview(data_set(after=nested)), (b"1.2.3.4", b"99HIPNODE"))
    assert not has_marker(data_set(after=nested), (b"99OTHER",))
    assert not has_marker(data_set(after=bytes(2**20) + b"99HIPNODE"), (b"99HIPNODE",))
    assert not has_marker(data_set(), ())


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few things that go wrong with bytes: flips, cuts, doubled and swapped pieces, wild lengths."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        position = rng.randrange(len(changed) or 1)
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[position : position + rng.randrange(1, 64)]
        elif kind == 2:
            piece = changed[position : position + rng.randrange(1, 200)]
            changed[rng.randrange(len(changed) + 1) : 0] = piece
        elif kind == 3:
            wild = rng.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, len(changed)))
            changed[position : position + 4] = struct.pack("<L", wild)
        elif kind == 4:
            tag = rng.choice((0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010, 0x0020000D))
            changed[position : position + 4] = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        else:
            changed = changed[:position] or changed
    return bytes(changed)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_no_mutant_breaks_the_reader(syntax: str) -> None:
    inner = Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "T-1", "SRT", "Hip"
    ds = make_radiograph(Rows=8, Columns=8)
    ds.AnatomicRegionSequence = Sequence([inner])
    ds["AnatomicRegionSequence"].is_undefined_length = True
    whole = encode(ds, syntax)
    rng = random.Random(20)
    outcomes = {"read": 0, "unreadable": 0}
    slowest = 0.0
    for _ in range(6_000):
        mutant = mutated(rng, whole)
        begun = time.perf_counter()
        try:
            found = read_identity(mutant, syntax)
        except IdentityUnreadable:
            outcomes["unreadable"] += 1
        else:
            outcomes["read"] += 1
            for uid in (found.sop_class_uid, found.sop_instance_uid, found.study_instance_uid):
                assert is_uid(uid)
            assert len(found.patient_id) <= 64
            assert "\0" not in found.patient_id
        peek_study_uid(mutant[:500], syntax)
        slowest = max(slowest, time.perf_counter() - begun)
    assert min(outcomes.values()) > 300, outcomes
    assert slowest < 1


def test_random_bytes_are_unreadable() -> None:
    rng = random.Random(7)
    for _ in range(1_000):
        with pytest.raises(IdentityUnreadable):
            read_identity(
                BytesIO(rng.randbytes(rng.randrange(600))).getvalue(), rng.choice((EXPLICIT, IMPLICIT))
            )
