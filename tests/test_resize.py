"""Stretching a film, and boxes there and back."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from workers.detector.resize import Method, Stretch, stretch

SIZES = [((64, 64), (64, 64)), ((100, 60), (64, 96)), ((3001, 2457), (512, 512)), ((169, 211), (1024, 1024))]


def film(rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def by_torch(pixels: NDArray[np.uint8], size: tuple[int, int], antialias: bool) -> NDArray[np.float64]:
    """An independent bilinear resize with half-pixel centres."""
    x = torch.from_numpy(pixels).double()[None, None]
    return functional.interpolate(x, size[::-1], mode="bilinear", antialias=antialias)[0, 0].numpy()


@pytest.mark.parametrize("method", ["antialias", "bilinear"])
@pytest.mark.parametrize(("shape", "size"), SIZES, ids=str)
def test_pixels_are_interpolated_between_half_pixel_centres(
    method: Method, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = film(*shape)
    small, _ = stretch(pixels, size, method)
    assert small.shape == size[::-1]
    assert small.dtype == np.uint8
    wanted = by_torch(pixels, size, antialias=method == "antialias")
    assert np.abs(small - wanted).max() < 1.01  # rounding to 8 bits, at most twice


@pytest.mark.parametrize(("shape", "size"), SIZES, ids=str)
def test_boxes_go_there_and_back(shape: tuple[int, int], size: tuple[int, int]) -> None:
    _, mapping = stretch(film(*shape), size)
    rows, columns = shape
    g = np.random.default_rng(1)
    low = g.uniform(0, 0.9, (50, 2))
    boxes = np.concatenate([low, low + g.uniform(0, 0.1, (50, 2))], 1) * [columns, rows, columns, rows]
    there = mapping.to_input(boxes)
    assert there.dtype == np.float32
    assert (there >= 0).all()
    assert (there <= np.array([*size, *size]) + 1e-3).all()
    np.testing.assert_allclose(mapping.to_image(there), boxes, rtol=0, atol=1e-3)


def test_the_corners_of_the_film_are_the_corners_of_the_input() -> None:
    mapping = Stretch(columns=300, rows=200, width=96, height=64)
    whole = np.array([[0, 0, 300, 200]], np.float32)
    np.testing.assert_array_equal(mapping.to_input(whole), [[0, 0, 96, 64]])
    assert mapping.to_input(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize("method", ["antialias", "bilinear"])
@pytest.mark.parametrize("size", [(96, 160), (512, 512), (1024, 992)], ids=str)
def test_what_is_seen_in_the_input_lies_where_it_was_in_the_film(
    method: Method, size: tuple[int, int]
) -> None:
    pixels = np.zeros((700, 450), np.uint8)
    truth = np.array([[123, 250, 311, 402]], np.float32)  # columns 123..310, rows 250..401
    pixels[250:402, 123:311] = 255
    small, mapping = stretch(pixels, size, method)
    # Every edge at the place where the brightness passes half, between pixel centres.
    profile_across, profile_down = small.max(0).astype(float), small.max(1).astype(float)
    edges = [*_edges(profile_across), *_edges(profile_down)]
    seen = np.array([[edges[0], edges[2], edges[1], edges[3]]], np.float32)
    one_input_pixel = max(450 / size[0], 700 / size[1])
    np.testing.assert_allclose(mapping.to_image(seen), truth, rtol=0, atol=0.5 * one_input_pixel)


def _edges(profile: NDArray[np.float64]) -> tuple[float, float]:
    bright = np.flatnonzero(profile >= 127.5)
    first, last = bright[0], bright[-1]
    rise = first + 0.5 - (profile[first] - 127.5) / max(profile[first] - profile[first - 1], 1)
    fall = last + 0.5 + (profile[last] - 127.5) / max(profile[last] - profile[last + 1], 1)
    return rise, fall


def test_a_thin_line_survives_wherever_it_lies_only_with_antialiasing() -> None:
    faintest = {}
    for method in ("antialias", "bilinear"):
        contrast = []
        for column in range(1500, 1506):
            pixels = np.full((300, 3000), 100, np.uint8)
            pixels[:, column] = 220
            contrast.append(int(stretch(pixels, (512, 64), method)[0].max()) - 100)  # type: ignore[arg-type]
        faintest[method] = min(contrast)
    assert faintest["antialias"] >= 10
    assert faintest["bilinear"] == 0


def test_enlarging_is_the_same_either_way() -> None:
    pixels = film(40, 50)
    a, _ = stretch(pixels, (128, 96), "antialias")
    b, _ = stretch(pixels, (128, 96), "bilinear")
    assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((0, 5), np.uint8), np.zeros((5, 5), np.uint16), np.zeros((5, 5, 3), np.uint8)],
    ids=str,
)
def test_what_is_no_film_is_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="a film is"):
        stretch(pixels, (64, 64))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="cubic"):
        stretch(film(5, 5), (64, 64), "cubic")  # type: ignore[arg-type]


def test_a_view_of_another_array_is_read_rightly() -> None:
    pixels = film(300, 200)
    turned = pixels[::-1, ::2]
    for method in ("antialias", "bilinear"):
        expected, _ = stretch(turned.copy(), (64, 64), method)  # type: ignore[arg-type]
        np.testing.assert_array_equal(stretch(turned, (64, 64), method)[0], expected)  # type: ignore[arg-type]
