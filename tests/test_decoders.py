"""Every transfer syntax gives the stored values, and two decoders agree on them; damage is named."""

import io
import subprocess
from pathlib import Path
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import openjpeg
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from hipnode import codestreams
from hipnode.decoders import pixel_format, read_stored, stored_values
from hipnode.errors import ImageRejected
from hipnode.headers import read_object
from hipnode.status import ReasonCode
from hipnode.transfer_syntaxes import RADIOGRAPH_SYNTAXES
from tests.factories import encode_frame, make_radiograph, save
from tests.peers import need

MAX_PIXELS = 64 * 10**6
LOSSLESS = [JPEGLosslessSV1, JPEGLossless, JPEGLSLossless, RLELossless, JPEG2000Lossless]
LOSSY = [(JPEGLSNearLossless, 2), (JPEG2000, 60), (JPEGExtended12Bit, 60), (JPEGBaseline8Bit, 6)]


def read(ds: Any) -> NDArray[Any]:
    return read_stored(ds, ds.file_meta.TransferSyntaxUID, MAX_PIXELS)


def rejection(ds: Any, max_pixels: int = MAX_PIXELS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        read_stored(ds, ds.file_meta.TransferSyntaxUID, max_pixels)
    return caught.value


def code_of(ds: Any, max_pixels: int = MAX_PIXELS) -> ReasonCode:
    return rejection(ds, max_pixels).code


def small(**keywords: Any) -> Any:
    return make_radiograph(**{"Rows": 48, "Columns": 40, **keywords})


# Values


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.keyword)
def test_a_lossless_syntax_gives_the_values_of_its_uncompressed_twin(syntax: UID, bits: int) -> None:
    plain = small(bits_stored=bits)
    assert np.array_equal(read(small(bits_stored=bits, transfer_syntax=syntax)), read(plain))
    assert np.array_equal(read(plain), plain.pixel_array)


@pytest.mark.parametrize("syntax", [*LOSSLESS, ImplicitVRLittleEndian], ids=lambda s: s.keyword)
def test_signed_pixels_keep_their_sign(syntax: UID) -> None:
    plain = small(PixelRepresentation=1)
    assert plain.pixel_array.min() < 0
    assert np.array_equal(read(small(PixelRepresentation=1, transfer_syntax=syntax)), plain.pixel_array)


@pytest.mark.parametrize(("syntax", "most"), LOSSY, ids=lambda s: getattr(s, "keyword", None))
def test_a_lossy_syntax_stays_near_its_uncompressed_twin(syntax: UID, most: int) -> None:
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    plain = read(make_radiograph(Rows=200, Columns=160, bits_stored=bits)).astype(int)
    lossy = read(make_radiograph(Rows=200, Columns=160, bits_stored=bits, transfer_syntax=syntax))
    assert abs(lossy.astype(int) - plain).mean() < most
    assert lossy.max() < 1 << bits


def test_every_syntax_offered_is_decoded() -> None:
    for syntax in map(UID, RADIOGRAPH_SYNTAXES):
        bits = 8 if syntax == JPEGBaseline8Bit else 12
        assert read(small(transfer_syntax=syntax, bits_stored=bits)).shape == (48, 40)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_two_decoders_agree(bits: int) -> None:
    picture = np.linspace(0, 1, 48 * 40).reshape(48, 40)
    stored = np.round(picture * ((1 << bits) - 1)).astype("u1" if bits == 8 else "<u2")
    frame = encode_frame(stored, JPEGLosslessSV1, bits)
    assert np.array_equal(imagecodecs.jpeg8_decode(frame), imagecodecs.jpegsof3_decode(frame))
    assert np.array_equal(imagecodecs.jpeg8_decode(frame), imagecodecs.ljpeg_decode(frame))
    frame = encode_frame(stored, JPEGLSLossless, bits)
    ours = imagecodecs.jpegls_decode(frame)
    assert np.array_equal(ours, jpeg_ls.decode(np.frombuffer(frame, np.uint8)))
    frame = encode_frame(stored, JPEG2000Lossless, bits)
    assert np.array_equal(imagecodecs.jpeg2k_decode(frame), openjpeg.decode(io.BytesIO(frame)))
    rle = small(picture=picture, bits_stored=bits, transfer_syntax=RLELossless)
    rle.pixel_array_options(decoding_plugin="pydicom")
    assert np.array_equal(read(rle), rle.pixel_array)


@pytest.mark.peers("dcmtk")
@pytest.mark.parametrize(
    ("tool", "options", "syntax"),
    [
        ("dcmcjpeg", ["+e1"], JPEGLosslessSV1),
        ("dcmcjpeg", ["+el"], JPEGLossless),
        ("dcmcjpls", [], JPEGLSLossless),
        ("dcmcrle", [], RLELossless),
    ],
)
def test_what_dcmtk_encodes_is_read_back(tool: str, options: list[str], syntax: UID, tmp_path: Path) -> None:
    program = need(tool)
    plain = make_radiograph(Rows=120, Columns=101)
    save(plain, tmp_path / "plain.dcm")
    subprocess.run([program, *options, tmp_path / "plain.dcm", tmp_path / "packed.dcm"], check=True)
    packed = dcmread(tmp_path / "packed.dcm")
    assert packed.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read(packed), plain.pixel_array)


@pytest.mark.peers("dcmtk")
@pytest.mark.parametrize(
    ("tool", "syntax"),
    [
        ("dcmdjpeg", JPEGLosslessSV1),
        ("dcmdjpeg", JPEGLossless),
        ("dcmdjpls", JPEGLSLossless),
        ("dcmdrle", RLELossless),
    ],
)
def test_dcmtk_reads_the_same_values(tool: str, syntax: UID, tmp_path: Path) -> None:
    program = need(tool)
    packed = make_radiograph(Rows=120, Columns=101, transfer_syntax=syntax)
    save(packed, tmp_path / "packed.dcm")
    subprocess.run([program, tmp_path / "packed.dcm", tmp_path / "plain.dcm"], check=True)
    assert np.array_equal(dcmread(tmp_path / "plain.dcm").pixel_array, read(packed))


# Bits


def test_overlay_bits_above_the_stored_ones_are_masked() -> None:
    ds = small()
    cells = ds.pixel_array | 0x8000
    ds.PixelData = cells.astype("<u2").tobytes()
    assert np.array_equal(read(ds), cells & 0x0FFF)
    ds.PixelData = encapsulate([encode_frame(cells.astype("<u2"), JPEGLosslessSV1, 16)])
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    assert np.array_equal(read(ds), cells & 0x0FFF)


def test_a_high_bit_above_the_stored_bits_shifts() -> None:
    ds = small(HighBit=15)
    values = ds.pixel_array.copy()
    ds.PixelData = (values << 4).astype("<u2").tobytes()
    assert np.array_equal(read(ds), values)


def test_signed_values_extend_from_the_highest_stored_bit() -> None:
    ds = small(PixelRepresentation=1, PixelData=b"")
    form = pixel_format(ds, MAX_PIXELS)
    cells = np.array([[0x0FFF, 0x0800, 0x07FF, 0]], "<u2")
    assert stored_values(cells, form).tolist() == [[-1, -2048, 2047, 0]]


# Encapsulation


def test_offset_tables_fragments_and_padding_do_not_matter() -> None:
    plain = small()
    frame = encode_frame(plain.pixel_array, JPEGLSLossless, 12)
    wrapped = [
        encapsulate([frame], has_bot=False),
        encapsulate([frame], has_bot=True),
        encapsulate([frame], fragments_per_frame=3),
        encapsulate([frame + b"\0" * 3]),
        encapsulate_extended([frame])[0],
        encapsulate([frame])[:8] + b"\x77" * 4 + encapsulate([frame])[12:],
    ]
    for data in wrapped:
        assert np.array_equal(read(small(transfer_syntax=JPEGLSLossless, PixelData=data)), plain.pixel_array)


def test_pixel_data_may_be_padded_but_not_longer_than_that() -> None:
    odd = make_radiograph(Rows=31, Columns=31, bits_stored=8)
    assert len(odd.PixelData) == 962
    assert read(odd).shape == (31, 31)
    assert read(small(PixelData=small().PixelData + b"\0" * 500)).shape == (48, 40)
    assert code_of(small(PixelData=small().PixelData + b"\0" * 100_000)) == ReasonCode.DECODE_FAILED


# Damage: each has its reason, before memory is spent


@pytest.mark.parametrize("keywords", [{"Rows": 0}, {"Columns": 0}])
def test_no_rows_are_refused(keywords: dict[str, int]) -> None:
    ds = small()
    for keyword, value in keywords.items():
        setattr(ds, keyword, value)
    assert code_of(ds) == ReasonCode.DECODE_FAILED


def test_missing_attributes_are_named() -> None:
    for keyword in ("Rows", "Columns"):
        ds = small()
        delattr(ds, keyword)
        assert keyword in rejection(ds).sentence


def test_more_pixels_than_allowed_are_a_limit() -> None:
    ds = small()
    ds.Rows = ds.Columns = 65535
    assert code_of(ds) == ReasonCode.DECODE_LIMIT
    assert code_of(small(), max_pixels=1000) == ReasonCode.DECODE_LIMIT


def test_a_tall_lie_is_pixels_missing() -> None:
    ds = small()
    ds.Rows = 65535
    assert code_of(ds) == ReasonCode.PIXELS_MISSING


@pytest.mark.parametrize(
    "wrong",
    [
        {"BitsAllocated": 12},
        {"BitsAllocated": 32},
        {"BitsStored": 0},
        {"BitsStored": 17},
        {"HighBit": 3},
        {"HighBit": 16},
        {"PixelRepresentation": 2},
        {"SamplesPerPixel": 3},
        {"NumberOfFrames": 24},
    ],
    ids=str,
)
def test_attributes_that_do_not_fit_together_are_refused(wrong: dict[str, int]) -> None:
    ds = small()
    for keyword, value in wrong.items():
        setattr(ds, keyword, value)
    assert code_of(ds) == ReasonCode.DECODE_FAILED


def test_absent_empty_and_short_pixel_data_is_missing() -> None:
    assert code_of(small(PixelData=None)) == ReasonCode.PIXELS_MISSING
    assert code_of(small(PixelData=b"")) == ReasonCode.PIXELS_MISSING
    assert code_of(small(PixelData=small().PixelData[:-2])) == ReasonCode.PIXELS_MISSING


def test_float_pixels_are_refused() -> None:
    ds = small(PixelData=None)
    ds.FloatPixelData = b"\0" * (48 * 40 * 4)
    assert code_of(ds) == ReasonCode.DECODE_FAILED


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, UID("1.2.3")])
def test_other_transfer_syntaxes_are_refused(syntax: UID) -> None:
    ds = small()
    ds.file_meta.TransferSyntaxUID = syntax
    assert code_of(ds) == ReasonCode.DECODE_FAILED


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    ds = small()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(ds, tmp_path / "deflated.dcm")
    with pytest.raises(ImageRejected, match="Deflated"):
        read_object(tmp_path / "deflated.dcm", pixels=False)


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGExtended12Bit, JPEG2000], ids=lambda s: s.keyword)
def test_a_stream_cut_off_anywhere_is_refused(syntax: UID) -> None:
    frame = encode_frame(small().pixel_array, syntax, 12)
    for share in (0.02, 0.3, 0.6, 0.9):
        ds = small(transfer_syntax=syntax, PixelData=encapsulate([frame[: int(len(frame) * share)]]))
        assert code_of(ds) in (ReasonCode.DECODE_FAILED, ReasonCode.PIXELS_MISSING), share


@pytest.mark.parametrize(
    "syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.keyword
)
def test_a_stream_of_another_size_than_its_header_is_refused(syntax: UID) -> None:
    bomb = bytearray(encode_frame(small().pixel_array, syntax, 12))
    if syntax == JPEG2000Lossless:
        bomb[8:16] = (60000).to_bytes(4, "big") * 2
    else:
        at = bomb.find(b"\xff\xc3" if syntax == JPEGLosslessSV1 else b"\xff\xf7")
        bomb[at + 5 : at + 9] = b"\xea\x60\xea\x60"
    ds = small(transfer_syntax=syntax, PixelData=encapsulate([bytes(bomb)]))
    assert "60000 x 60000" in rejection(ds).sentence


def test_an_rle_header_bomb_is_refused() -> None:
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 4_000_000_000
    run = b"\x81\x00" * 50  # each pair would write 128 bytes
    ds = small(transfer_syntax=RLELossless, PixelData=encapsulate([header.tobytes() + run]))
    assert code_of(ds) == ReasonCode.DECODE_FAILED
    ds.Rows = ds.Columns = 65535
    assert code_of(ds) == ReasonCode.DECODE_LIMIT
    header[:3] = 15, 64, 80
    ds = small(transfer_syntax=RLELossless, PixelData=encapsulate([header.tobytes() + run]))
    assert code_of(ds) == ReasonCode.DECODE_FAILED


def test_streams_under_a_wrong_name_are_refused() -> None:
    ds = small(transfer_syntax=JPEGLSLossless)
    for syntax in (JPEGLosslessSV1, JPEG2000, RLELossless, ExplicitVRLittleEndian):
        ds.file_meta.TransferSyntaxUID = syntax
        assert code_of(ds) in (ReasonCode.DECODE_FAILED, ReasonCode.PIXELS_MISSING)
    native = small()
    native.file_meta.TransferSyntaxUID = JPEGLSLossless
    assert code_of(native) == ReasonCode.DECODE_FAILED


@pytest.mark.parametrize("reader", [codestreams.jpeg, codestreams.jpeg_ls, codestreams.jpeg_2000])
@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc3\0\x01", b"\xff\x4f\xff\x51", b"\0" * 99]
)
def test_what_is_no_codestream_is_none(reader: Any, data: bytes) -> None:
    assert reader(data) is None


# Real films


@pytest.mark.films
def test_real_films_decode_in_every_syntax(films: Path) -> None:
    seen = {}
    for path in sorted(films.glob("*.dcm")):
        ds, syntax = read_object(path, pixels=True)
        stored = read_stored(ds, syntax, MAX_PIXELS)
        assert stored.shape == (ds.Rows, ds.Columns)
        seen[path.name] = stored.astype(int)
    lossless = seen["RG2_hip_JPLL.dcm"]
    assert np.array_equal(lossless, seen["RG2_hip_JLSL.dcm"])
    # The 12-bit film with a non-conformant scan header, which most decoders refuse.
    assert abs(seen["RG2_hip_JPLY.dcm"] - lossless).mean() < 4
    assert abs(seen["RG3_leg_J2KI.dcm"] - seen["RG3_leg_J2KR.dcm"]).mean() < 4
