"""What augmentation works on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FILL = 114  # gray of what lies outside, where a mosaic or a turned part leaves a gap


class Picture(NamedTuple):
    """A picture with its truth: pixels (h, w) uint8, boxes (m, 4) float32, labels (m,) int64."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
