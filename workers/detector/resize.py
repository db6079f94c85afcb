"""Stretch a film to the network's input size, and take boxes there and back.

The aspect ratio is not kept, as upstream does it in training and test: columns and rows have a
factor each. Training and inference call the same function, on the same 8-bit display values.

Two ways, both bilinear with half-pixel centres (the centre of output pixel i lies at
(i + 0.5) * factor - 0.5 of the input):
  antialias  the triangle is as wide as the output pixel. The default: a 3,000 px film becomes 512
             px, and plain interpolation would look at 2 of every 6 pixels in each direction, so
             the noise of single pixels stays and whether a thin fracture line is met depends on
             where the grid falls.
  bilinear   reads the four nearest pixels whatever the factor: cv2's INTER_LINEAR, for weights
             that were trained by upstream's code on films stretched that way.
When enlarging they are the same.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Method = Literal["antialias", "bilinear"]


@dataclass(frozen=True)
class Stretch:
    """The map between a stored image and the network's input.

    Both frames have the origin (0.0, 0.0) at the top left corner of the top left pixel, so the
    map is one factor per axis and nothing else.

    columns, rows: size of the stored image, pixels
    width, height: size of the network's input, pixels
    """

    columns: int
    rows: int
    width: int
    height: int

    def to_input(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, 4) boxes of the stored image -> of the network's input; column, row, column, row."""
        return self._scaled(boxes, self.width / self.columns, self.height / self.rows)

    def to_image(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, 4) boxes of the network's input -> of the stored image; column, row, column, row."""
        return self._scaled(boxes, self.columns / self.width, self.rows / self.height)

    @staticmethod
    def _scaled(boxes: NDArray[np.floating], across: float, down: float) -> NDArray[np.float32]:
        scaled = boxes.astype(np.float64) * np.array([across, down, across, down])
        return scaled.astype(np.float32)


def stretch(
    pixels: NDArray[np.uint8], size: tuple[int, int], method: Method = "antialias"
) -> tuple[NDArray[np.uint8], Stretch]:
    """A film (rows, columns) uint8 -> (height, width) uint8, and the map of its boxes.

    size: (width, height) of the network's input, pixels
    Raises ValueError for an empty image or one that is not two-dimensional uint8.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(f"a film is (rows, columns) uint8, not {pixels.shape} {pixels.dtype}")
    rows, columns = pixels.shape
    width, height = size
    mapping = Stretch(columns, rows, width, height)
    if (columns, rows) == size:
        return np.ascontiguousarray(pixels), mapping
    if method == "bilinear":
        return _bilinear(pixels, width, height), mapping
    if method != "antialias":
        raise ValueError(f"resize method {method!r} is neither 'antialias' nor 'bilinear'")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(image.resize(size, Image.Resampling.BILINEAR)), mapping


def _neighbours(length: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each output pixel the two input pixels beside its centre, and the weight of the second."""
    centre = (np.arange(wanted) + 0.5) * (length / wanted) - 0.5
    centre = np.clip(centre, 0, length - 1)
    first = np.floor(centre).astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (centre - first).astype(np.float32)


def _bilinear(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    top, bottom, down = _neighbours(pixels.shape[0], height)
    left, right, across = _neighbours(pixels.shape[1], width)
    upper, lower = (
        pixels[rows][:, left] * (1 - across) + pixels[rows][:, right] * across for rows in (top, bottom)
    )
    mixed = upper * (1 - down[:, None]) + lower * down[:, None]
    return np.rint(mixed).astype(np.uint8)
