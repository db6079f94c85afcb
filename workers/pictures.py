"""Films as PNG, read where it is safe to: in a killable child."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hipnode.errors import ImageRejected
from hipnode.status import ReasonCode

_MAGIC = b"\x89PNG\r\n\x1a\n"


def is_png(path: Path) -> bool:
    """Whether a file begins like a PNG, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_png(path: str, max_pixels: int) -> NDArray[np.uint8]:
    """(rows, columns) uint8 display values, bone bright, of an 8-bit gray PNG; for `Children.call`.

    Colour that is gray is taken as gray. Raises ImageRejected for what has no one way to be shown.
    """
    with Image.open(path, formats=("PNG",)) as image:
        if image.width * image.height > max_pixels:
            raise ImageRejected(ReasonCode.DECODE_LIMIT)
        if image.mode == "L":
            return np.array(image)
        if image.mode != "RGB":
            raise ImageRejected(ReasonCode.DECODE_FAILED, f"A PNG of mode {image.mode}; 8-bit gray is read.")
        pixels = np.array(image)
    if (pixels != pixels[..., :1]).any():
        raise ImageRejected(ReasonCode.NOT_GRAYSCALE)
    return np.ascontiguousarray(pixels[..., 0])
