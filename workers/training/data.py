"""Reading labelled pictures, and serving them as batches.

A pool is a folder with `labels.jsonl` (one JSON object a line: `file`, `class`, `boxes`)
and the pictures it names; `workers/phantom/dataset.py` writes it. It may grow while it is read.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hipnode.errors import HipnodeError
from workers.detector.resize import stretch
from workers.training.assignment import Truth
from workers.training.augment import Picture, cut_square, vary
from workers.training.recipes import Recipe

NO_FRACTURE = "none"
LABELS_FILE = "labels.jsonl"
LOADERS = 2
PICTURES_FOR_A_MOSAIC = 5
HIP_POINTS = ("head_centre", "greater_tip", "lesser")  # key points of a phantom's record
ANYWHERE = 0.12  # share of squares cut from anywhere in the picture


class DataError(HipnodeError):
    """Training data cannot be used; the text names the file and the line."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled picture.

    path: an 8-bit grayscale picture
    boxes: (m, 4) float32 in pixels of that picture, corner origin; (0, 4) without a fracture
    labels: (m,) int64 class index
    record: the whole line of labels.jsonl (seed, parameters of the phantom)
    """

    path: Path
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    record: dict[str, Any]


def read_pool(folder: Path, class_names: Sequence[str]) -> list[Sample]:
    """The samples of a pool in the order they were written. Raises DataError.

    A last line still being written (no line end) is left for the next look.
    """
    listing = folder / LABELS_FILE
    if not listing.is_file():
        raise DataError(f"{folder} holds no {LABELS_FILE}")
    samples = []
    with listing.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                break
            try:
                samples.append(_sample(folder, json.loads(line), class_names))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{listing}:{number}: {type(error).__name__}: {error}") from error
    return samples


def _sample(folder: Path, record: dict[str, Any], class_names: Sequence[str]) -> Sample:
    name = record["class"]
    boxes = np.array(record["boxes"], np.float32).reshape(-1, 4)
    if (name == NO_FRACTURE) != (len(boxes) == 0):
        raise ValueError(f"class {name} with {len(boxes)} boxes")
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        raise ValueError(f"a box without area: {boxes.tolist()}")
    label = 0 if name == NO_FRACTURE else list(class_names).index(name)
    return Sample(folder / record["file"], boxes, np.full(len(boxes), label, np.int64), record)


def load_picture(sample: Sample, size: int) -> Picture:
    """The picture stretched to (size, size) exactly as inference does it, boxes along with it."""
    with Image.open(sample.path) as image:
        pixels = np.array(image.convert("L"))
    stretched, mapping = stretch(pixels, (size, size))
    return Picture(stretched, mapping.to_input(sample.boxes), sample.labels)


def hip_centre(sample: Sample, size: int) -> NDArray[np.float64] | None:
    """Where the hip is, (column, row) in the picture stretched to (size, size); None where nothing says so.

    From the record's key points, which a picture has with and without a fracture.
    """
    points = sample.record.get("key_points", {})
    known = [points[name] for name in HIP_POINTS if name in points]
    if known:
        scale = np.array([size / sample.record["columns"], size / sample.record["rows"]])
        return np.array(known, np.float64).mean(0) * scale
    return None


class Batch(NamedTuple):
    """A micro-batch as the network takes it: pixels (b, 3, size, size) float32, and its truths."""

    pixels: Tensor
    truths: list[Truth]


def as_batch(pictures: Sequence[Picture]) -> Batch:
    """Pictures of one size -> a batch, channels last in memory."""
    gray = torch.from_numpy(np.stack([p.pixels for p in pictures]))[:, None]  # (b, 1, h, w)
    pixels = gray.float().expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    truths = [Truth(torch.from_numpy(p.boxes), torch.from_numpy(p.labels)) for p in pictures]
    return Batch(pixels, truths)


def epoch_order(count: int, draws: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which of `count` samples an epoch draws: all once before any twice, shuffled by (seed, epoch)."""
    rng = np.random.default_rng([seed, epoch])
    rounds = [rng.permutation(count) for _ in range(-(-draws // count))]
    return np.concatenate(rounds)[:draws]


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch shows: drawn by (seed, epoch) alone, so that a resumed run sees the same."""

    samples: Sequence[Sample]
    recipe: Recipe
    seed: int
    epoch: int
    draws: int
    size: int  #: pixels of the square input
    plain: bool  #: without mosaic and mixup
    rank: int = 0  #: which share of each batch
    world: int = 1  #: of how many
    crop: int | None = None  #: see only a square of so many pixels, mostly about the hip

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Micro-batches from draw number `start` on, prepared by threads a little ahead."""
        order = epoch_order(len(self.samples), self.draws, self.seed, self.epoch)
        size = self.recipe.micro_batch * self.world
        with ThreadPoolExecutor(LOADERS) as pool:
            waiting = [
                [pool.submit(self._picture, order, at) for at in chunk] for chunk in self._ahead(start, size)
            ]
            following = self._chunks(start + len(waiting) * size, size)
            while waiting:
                yield as_batch([f.result() for f in waiting.pop(0)])
                waiting.extend(
                    [pool.submit(self._picture, order, at) for at in c] for c in islice(following, 1)
                )

    def _ahead(self, start: int, size: int) -> list[list[int]]:
        return list(islice(self._chunks(start, size), 2))

    def _chunks(self, start: int, size: int) -> Iterator[list[int]]:
        for first in range(start, self.draws, size):
            yield list(range(first, min(first + size, self.draws)))[self.rank :: self.world]

    def _picture(self, order: NDArray[np.int64], at: int) -> Picture:
        rng = np.random.default_rng([self.seed, self.epoch, at])
        a, size = self.recipe.augmentation, self.size
        joins = bool(a.mosaic or a.mixup) and not self.plain
        others: list[int] = (
            rng.integers(0, len(self.samples), PICTURES_FOR_A_MOSAIC - 1).tolist() if joins else []
        )
        chosen = [self.samples[i] for i in (order[at], *others)]
        pictures = [load_picture(sample, size) for sample in chosen]
        if self.crop is not None:
            pictures = [self._cut(s, p, rng) for s, p in zip(chosen, pictures, strict=True)]
        return vary(pictures, a, self.crop or size, rng, plain=self.plain)

    def _cut(self, sample: Sample, picture: Picture, rng: np.random.Generator) -> Picture:
        centre = hip_centre(sample, self.size)
        if centre is None or rng.random() < ANYWHERE:
            centre = rng.uniform(0, self.size, 2)
        return cut_square(picture, centre, self.crop or self.size, rng)
