"""The weights and inputs of the golden figures, drawn tensor by tensor.

Each tensor has a generator of its own, PCG64 seeded with (seed, CRC-32 of its name): the order of
drawing does not matter, and a tensor can be drawn without the others.
"""

import zlib
from collections.abc import Callable
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
FIGURES = FOLDER / "golden_nc4_seed1.npz"

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], Any]


def generator(seed: int, name: str) -> np.random.Generator:
    """The generator of one named tensor."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def shapes(form: str = "train", num_classes: int = 4) -> dict[str, Shape]:
    """{key: shape} of the training form ("train", 586 keys) or of the fused one ("deploy", 346)."""
    found = {}
    for line in (FOLDER / "STATE_DICT.tsv").read_text("utf-8").splitlines():
        if not line or line.startswith(("#", "key\t")):
            continue
        key, shape, _, occurs, _ = line.split("\t")
        if occurs in ("both", form):
            sizes = [] if shape == "scalar" else shape.split("x")
            found[key] = tuple(num_classes if size == "NC" else int(size) for size in sizes)
    return found


def _normal(mean: float, deviation: float) -> Draw:
    return lambda g, shape: mean + deviation * g.standard_normal(shape)


def _uniform(low: float, high: float) -> Draw:
    return lambda g, shape: g.uniform(low, high, shape)


def _kernel(gain: float) -> Draw:
    """Normal with variance gain^2 / fan-in, every filter shifted to a sum of zero."""

    def draw(g: np.random.Generator, shape: Shape) -> Any:
        values = g.standard_normal(shape)
        values -= values.mean(axis=(1, 2, 3), keepdims=True)
        return gain * sqrt(1 / prod(shape[1:])) * values

    return draw


def _rule(key: str, shape: Shape) -> Draw:
    """How a tensor is drawn, by what it is."""
    if len(shape) == 4:
        if key == "backbone.block_list.0.conv.conv.weight":
            return _stem
        return _kernel(2.0 if key.startswith("head.gfl_reg.") else 1.25)
    if key.startswith("head.scales."):
        return _uniform(0.8, 1.25)
    if key.endswith("running_var"):
        return _uniform(0.5, 1.5)
    if key.endswith(".weight"):  # of a BatchNorm
        return _uniform(0.8, 1.2)
    if key.startswith("head.gfl_cls."):
        return _normal(-3.0, 0.5)
    if key.startswith("head.gfl_reg."):
        return _normal(0.0, 0.5)
    return _normal(0.0, 0.1)  # running_mean, and the bias of a BatchNorm


def _stem(g: np.random.Generator, shape: Shape) -> Any:
    # The input is 0..255. The deviation is divided, not the values: that is the rounding of the figures.
    values = g.standard_normal(shape)
    values -= values.mean(axis=(1, 2, 3), keepdims=True)
    return sqrt(1 / prod(shape[1:])) / 64 * values


def state_dict(seed: int, num_classes: int = 4) -> dict[str, NDArray[Any]]:
    """The seeded weights in training form, as numpy arrays."""
    drawn: dict[str, NDArray[Any]] = {}
    for key, shape in shapes("train", num_classes).items():
        if key.endswith("num_batches_tracked"):
            drawn[key] = np.zeros(shape, np.int64)
        elif key.endswith("integral.project"):  # constant
            drawn[key] = np.arange(shape[0], dtype=np.float32)
        else:
            values = _rule(key, shape)(generator(seed, key), shape)
            drawn[key] = np.asarray(values, np.float32).reshape(shape)
    return drawn


def picture(shape: Shape, seed: int) -> NDArray[np.float32]:
    """A batch (b, c, h, w) of whole numbers 0..255: 32 px blocks, noise and two ramps, 2:1:1:1."""
    b, c, h, w = shape
    g = generator(seed, "input:" + "x".join(map(str, shape)))
    blocks = g.integers(0, 256, (b, c, h // 32, w // 32)).repeat(32, axis=2).repeat(32, axis=3)
    noise = g.integers(0, 256, shape)
    down = (np.arange(h) * 255 // max(h - 1, 1))[:, None]
    across = np.arange(w) * 255 // max(w - 1, 1)
    return ((2 * blocks + noise + down + (255 - across)) // 5).astype(np.float32)
