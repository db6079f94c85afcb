"""Stored values become what a viewer shows: upright, bone bright, with the contrast that was meant."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut

from hipnode.decoders import read_stored
from hipnode.findings import Box, KnownSide, Side
from hipnode.headers import read_object
from hipnode.images import Radiograph, display_pixels, side_at, to_radiograph
from tests.factories import hip_picture, make_radiograph


def film(**keywords: Any) -> Dataset:
    return make_radiograph("CR", **{"Rows": 320, "Columns": 256, **keywords})


def shown(ds: Dataset, stored: NDArray[Any] | None = None) -> NDArray[np.uint8]:
    return display_pixels(ds, ds.pixel_array if stored is None else stored)


def likeness(ds: Dataset) -> float:
    """Correlation of what is shown with the picture the film was made from."""
    picture = hip_picture(*ds.pixel_array.shape)
    return float(np.corrcoef(shown(ds).ravel(), picture.ravel())[0, 1])


def ramp(**keywords: Any) -> Dataset:
    """A film whose stored values run from 0 to 4095 along the rows, without border or window."""
    ds = Dataset()
    ds.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in keywords.items():
        setattr(ds, keyword, value)
    return ds


RAMP = np.tile(np.arange(4096, dtype=np.uint16), (8, 1))


# Contrast


@pytest.mark.parametrize("kind", ["DX", "CR", "SC", "DX-PROCESSING"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_bone_is_bright_however_it_is_stored(kind: str, photometric: str, bits: int) -> None:
    ds = make_radiograph(kind, Rows=320, Columns=256, PhotometricInterpretation=photometric, bits_stored=bits)
    assert likeness(ds) > 0.97


def test_signed_pixels_are_shown_like_unsigned_ones() -> None:
    assert np.abs(shown(film(PixelRepresentation=1)).astype(int) - shown(film())).max() <= 1


def test_the_picture_is_neither_turned_nor_mirrored() -> None:
    pixels = shown(film())
    assert pixels[: 320 // 3, : 256 // 2].mean() > pixels[: 320 // 3, 256 // 2 :].mean()
    assert pixels[-20:, 170:190].mean() > pixels[-20:, 60:80].mean()


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1500.5, 800.25), (40, 400), (2000, 2)])
def test_a_window_is_applied_as_the_standard_says(function: str | None, centre: float, width: float) -> None:
    ds = ramp(WindowCenter=centre, WindowWidth=width, BitsStored=12, PixelRepresentation=0)
    if function:
        ds.VOILUTFunction = function
    if width > 100:  # narrower ones do not show a film, see below
        expected = apply_voi_lut(RAMP, ds) / 4095 * 255
        assert np.abs(shown(ds, RAMP) - expected).max() <= 0.51
    else:
        assert shown(ds, RAMP).std() > 60


def test_the_first_of_several_windows_is_used() -> None:
    one = ramp(WindowCenter=1000, WindowWidth=900)
    several = ramp(WindowCenter=[1000, 2000], WindowWidth=[900, 4000])
    assert np.array_equal(shown(one, RAMP), shown(several, RAMP))


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -4000},
        {"WindowCenter": 100000, "WindowWidth": 400},
        {"WindowCenter": -5000, "WindowWidth": 4000},
        {"WindowCenter": 32768, "WindowWidth": 10_000_000},
        {"WindowCenter": 2000, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR"},
        {"WindowCenter": 2000},
        {"WindowCenter": float("nan"), "WindowWidth": 4000},
    ],
    ids=str,
)
def test_an_absurd_window_gives_way_to_percentiles(window: dict[str, Any]) -> None:
    ds = ramp()
    for keyword, value in window.items():
        if value != value:
            continue
        setattr(ds, keyword, value)
    pixels = shown(ds, RAMP)
    assert pixels[0, 100] < 12
    assert pixels[0, 2048] in range(120, 136)
    assert pixels[0, 4000] > 243


def test_a_modality_lut_comes_before_the_window() -> None:
    ds = ramp(WindowCenter=500, WindowWidth=1000, PixelRepresentation=0)
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 10]
    item["LUTDescriptor"].VR = "US"
    item.ModalityLUTType = "US"
    item.LUTData = (1023 - np.arange(4096) // 4).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    ds.ModalityLUTSequence = [item]
    expected = np.clip((1023 - RAMP // 4 - 499.5) / 999 + 0.5, 0, 1) * 255
    assert np.abs(shown(ds, RAMP) - expected).max() <= 0.51


def test_rescale_comes_before_the_window() -> None:
    ds = ramp(RescaleSlope=-2, RescaleIntercept=100, WindowCenter=-4000, WindowWidth=8000)
    expected = apply_voi_lut(
        RAMP * -2.0 + 100,
        ramp(
            RescaleSlope=1,
            RescaleIntercept=0,
            WindowCenter=-4000,
            WindowWidth=8000,
            BitsStored=14,
            PixelRepresentation=1,
        ),
    )
    expected = (expected - expected.min()) / (expected.max() - expected.min()) * 255
    assert np.abs(shown(ds, RAMP) - expected).max() <= 1


def test_a_slope_of_zero_is_no_slope() -> None:
    assert shown(ramp(RescaleSlope=0, RescaleIntercept=5), RAMP).std() > 60


@pytest.mark.parametrize(("bits", "as_bytes"), [(8, True), (12, True), (16, True), (12, False)])
def test_a_voi_lut_is_preferred_to_a_window(bits: int, as_bytes: bool) -> None:
    ds = ramp(WindowCenter=500, WindowWidth=100)
    item = Dataset()
    data = (np.arange(2048) * ((1 << bits) - 1) / 2047).round().astype("<u2")
    item.LUTDescriptor = [2048, 1000, bits]
    item["LUTDescriptor"].VR = "US"
    if as_bytes:
        item.LUTData = (data.astype("u1") if bits == 8 else data).tobytes()
        item["LUTData"].VR = "OW"
    else:
        item.LUTData = data.tolist()
        item["LUTData"].VR = "US"
    ds.VOILUTSequence = [item]
    pixels = shown(ds, RAMP)
    assert pixels[0, 900] == 0
    assert pixels[0, 1000 + 1024] in (127, 128)
    assert pixels[0, 3100] == 255


def test_a_useless_voi_lut_gives_way() -> None:
    for descriptor, data in [([2, 0, 12], [5, 5]), ([4, 60000, 12], [0, 1, 2, 3]), ([3], [1, 2])]:
        ds = ramp(WindowCenter=2048, WindowWidth=4096)
        item = Dataset()
        item.LUTDescriptor = descriptor
        item["LUTDescriptor"].VR = "US"
        item.LUTData = data
        item["LUTData"].VR = "US"
        ds.VOILUTSequence = [item]
        assert shown(ds, RAMP)[0, 2048] in (127, 128)


def test_inverse_shape_and_monochrome1_never_cancel_out() -> None:
    plain = shown(ramp(), RAMP)
    for keywords in (
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
    ):
        assert np.abs(255 - shown(ramp(**keywords), RAMP).astype(int) - plain).max() <= 1


def test_values_of_a_header_that_are_no_numbers_are_no_window() -> None:
    ds = ramp()
    ds.add_new("WindowCenter", "LO", "middle")
    ds.add_new("WindowWidth", "LO", "wide")
    assert shown(ds, RAMP)[0, 2048] in range(120, 136)


def test_a_film_of_one_value_is_shown_without_error() -> None:
    assert shown(ramp(), np.full((20, 20), 7, np.uint16)).shape == (20, 20)
    assert shown(ramp(WindowCenter=7, WindowWidth=4), np.full((20, 20), 7, np.uint16)).std() == 0


# Collimation and padding


def collimated(value: int, how: str) -> tuple[Dataset, NDArray[np.uint16]]:
    """A film without window, values 1000 to 2000, in a border of `value`."""
    stored = (1000 + 1000 * hip_picture(320, 256)).astype(np.uint16)
    y, x = np.mgrid[0:320, 0:256]
    outside = {
        "sides": (x < 60) | (x > 215),
        "all round": (x < 40) | (x > 215) | (y < 50) | (y > 290),
        "oblique": (x + y < 150) | (x + y > 420),
        "round": np.hypot(x - 128, y - 160) > 150,
    }[how]
    stored[outside] = value
    return ramp(), stored


@pytest.mark.parametrize("how", ["sides", "all round", "oblique", "round"])
@pytest.mark.parametrize("value", [0, 4095])
def test_borders_do_not_take_the_contrast(value: int, how: str) -> None:
    pixels = shown(*collimated(value, how))[120:220, 90:190]
    free = shown(ramp(), (1000 + 1000 * hip_picture(320, 256)).astype(np.uint16))[120:220, 90:190]
    assert pixels.std() > 0.8 * free.std()


def test_padding_is_black_and_takes_no_contrast() -> None:
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        ds = ramp(PhotometricInterpretation=photometric)
        ds.add_new("PixelPaddingValue", "US", 4000)
        ds.add_new("PixelPaddingRangeLimit", "US", 4095)
        _, stored = collimated(4050, "oblique")
        pixels = shown(ds, stored)
        assert (pixels[stored == 4050] == 0).all()
        assert pixels[120:220, 90:190].std() > 20


def test_nothing_but_padding_is_shown_without_error() -> None:
    ds = ramp()
    ds.add_new("PixelPaddingValue", "US", 7)
    assert (shown(ds, np.full((20, 20), 7, np.uint16)) == 0).all()


def test_raw_exposures_are_shown_as_their_logarithm() -> None:
    ds = ramp(
        PresentationIntentType="FOR PROCESSING",
        PixelIntensityRelationship="LIN",
        PhotometricInterpretation="MONOCHROME1",
    )
    stored = np.round(16000 * np.exp(-5 * hip_picture(320, 256))).astype(np.uint16)
    assert np.corrcoef(shown(ds, stored).ravel(), hip_picture(320, 256).ravel())[0, 1] > 0.97


def test_a_large_film_takes_a_fraction_of_a_second() -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (3000, 2500)).astype(np.uint16)  # 15 MB
    before = time.thread_time()
    shown(ramp(), stored)
    assert time.thread_time() - before < 0.6


# What the header says


def test_a_radiograph_carries_what_the_header_says() -> None:
    ds = make_radiograph()
    radiograph = to_radiograph(ds, ds.pixel_array)
    assert radiograph.pixels.shape == (640, 512)
    assert radiograph.sop_instance_uid == ds.SOPInstanceUID
    assert radiograph.side == KnownSide(Side.LEFT, "ImageLaterality")
    assert radiograph.patient_orientation == ("L", "F")
    assert (radiograph.body_part, radiograph.view) == ("HIP", "AP")


def test_a_silent_header_gives_a_silent_radiograph() -> None:
    ds = film(Laterality=None, PatientOrientation=None, BodyPartExamined=None, ViewPosition=None)
    radiograph = to_radiograph(ds, ds.pixel_array)
    assert radiograph.side is None
    assert radiograph.patient_orientation is None
    assert (radiograph.body_part, radiograph.view) == ("", "")


def test_pixels_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Radiograph(np.zeros((4, 4), np.uint16), "1.2")  # type: ignore[arg-type]


LEFT_HALF = Box(10, 10, 30, 30)
RIGHT_HALF = Box(70, 10, 90, 30)


@pytest.mark.parametrize(
    ("header", "left_half", "right_half"),
    [
        ({}, None, None),
        # one hip: the laterality, wherever the box is
        ({"ImageLaterality": "R"}, "R", "R"),
        ({"Laterality": "L"}, "L", "L"),
        ({"Laterality": "L", "PatientOrientation": ["L", "F"]}, "L", "L"),
        ({"ImageLaterality": "R", "Laterality": "R"}, "R", "R"),
        ({"ImageLaterality": "R", "Laterality": "L"}, None, None),
        # one hip, no laterality: the half of the image says nothing
        ({"PatientOrientation": ["L", "F"], "BodyPartExamined": "HIP"}, None, None),
        # both hips: the half, by the orientation
        ({"BodyPartExamined": "PELVIS", "PatientOrientation": ["L", "F"]}, "R", "L"),
        ({"BodyPartExamined": "PELVIS", "PatientOrientation": ["R", "F"]}, "L", "R"),
        ({"BodyPartExamined": "PELVIS", "PatientOrientation": ["R", "F"], "Laterality": "R"}, "L", "R"),
        ({"BodyPartExamined": "HIP", "ImageLaterality": "B", "PatientOrientation": ["L", "F"]}, "R", "L"),
        ({"BodyPartExamined": "PELVIS"}, None, None),
        ({"BodyPartExamined": "PELVIS", "Laterality": "L"}, None, None),
        ({"BodyPartExamined": "PELVIS", "PatientOrientation": ["P", "F"]}, None, None),
        ({"BodyPartExamined": "PELVIS", "PatientOrientation": ["L", "A"]}, None, None),
        ({"BodyPartExamined": "PELVIS", "PatientOrientation": "L"}, None, None),
    ],
)
def test_the_side_of_a_box_is_known_or_none(
    header: dict[str, Any], left_half: str | None, right_half: str | None
) -> None:
    ds = ramp(**header)
    radiograph = to_radiograph(ds, np.arange(12000, dtype=np.uint16).reshape(120, 100))
    sides = [side_at(radiograph, box) for box in (LEFT_HALF, RIGHT_HALF)]
    assert [known and str(known.side) for known in sides] == [left_half, right_half]
    assert all(known is None or known.source in header for known in sides)


def test_a_wide_film_without_laterality_shows_both_hips() -> None:
    ds = ramp(PatientOrientation=["L", "F"], BodyPartExamined="HIP")
    radiograph = to_radiograph(ds, np.arange(8000, dtype=np.uint16).reshape(80, 100))
    known = side_at(radiograph, LEFT_HALF)
    assert known == KnownSide(Side.RIGHT, "PatientOrientation")
    assert side_at(radiograph, Box(45, 10, 56, 20)) is None, "in the middle it is neither side"


# Real films


@pytest.mark.films
def test_a_real_hip_comes_out_upright_with_contrast_in_spite_of_its_white_borders(films: Path) -> None:
    ds, syntax = read_object(films / "RG2_hip_JPLL.dcm", pixels=True)
    stored = read_stored(ds, syntax, 10**8)
    for window in (True, False):
        if not window:
            del ds.WindowCenter, ds.WindowWidth
        pixels = to_radiograph(ds, stored).pixels
        hip, gap, border = pixels[600:1100, 600:1000], pixels[1600:1900, 300:900], pixels[:, 20:120]
        assert border.mean() > 210, "the collimation is white in the film and stays so"
        assert gap.mean() < 20, "air between the legs is black"
        assert 90 < hip.mean() < 200
        assert hip.std() > 20
        head, soft = pixels[760:840, 820:900], pixels[1250:1350, 800:900]
        assert head.mean() > soft.mean() + 20, "bone is brighter than flesh"


@pytest.mark.films
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_monochrome1_films_come_out_with_bright_bone(films: Path) -> None:
    ds, syntax = read_object(films / "RG3_leg_J2KR.dcm", pixels=True)
    leg = to_radiograph(ds, read_stored(ds, syntax, 10**8))
    assert leg.pixels[500:900, 780:900].mean() > leg.pixels[500:900, 510:640].mean() + 60
    assert leg.side == KnownSide(Side.RIGHT, "Laterality")
    ds, syntax = read_object(films / "CR_teeth_ModalityLUT_JPLL.dcm", pixels=True)
    teeth = to_radiograph(ds, read_stored(ds, syntax, 10**8)).pixels
    assert teeth[:500].mean() < 5, "the unexposed film around the picture is black"
    assert teeth[700:1300, 300:1700].std() > 30
