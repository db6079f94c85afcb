"""Serving labelled pictures as batches.

What one epoch shows is drawn by (seed, epoch) alone, so that a resumed run sees the same.
"""

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workers.detector.resize import Stretch, stretch
from workers.training.assignment import Truth
from workers.training.augment import cut_square, mirrored_classes, vary
from workers.training.picture import FILL, Picture
from workers.training.recipes import Recipe
from workers.training.samples import DataError, Problem, Sample, is_dicom, pixels_of

LOADERS = max(2, min(16, os.cpu_count() or 1))
PICTURES_FOR_A_MOSAIC = 5
HIP_POINTS = ("head_centre", "greater_tip", "lesser")  # key points of a phantom's record
ANYWHERE = 0.12  # share of squares cut from anywhere in the picture


def develop(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The samples with their DICOM films as 8-bit PNG in `folder`, decoded once instead of in every epoch.

    Other pictures stay where they are. Raises DataError that names every film that cannot be decoded.
    """
    developed, problems = [], []
    for sample in samples:
        if not is_dicom(sample.path):
            developed.append(sample)
            continue
        name = sample.sha256 or hashlib.sha256(str(sample.path).encode()).hexdigest()
        path = folder / f"{name}.png"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"{name}.{os.getpid()}.part"
            try:
                Image.fromarray(pixels_of(sample.path)).save(part, format="PNG", compress_level=1)
            except ValueError as error:
                problems.append(Problem(sample.path.name, None, str(error)))
                continue
            part.replace(path)
        developed.append(replace(sample, path=path))
    if problems:
        raise DataError(problems)
    return developed


def load_picture(sample: Sample, size: int) -> Picture:
    """The picture stretched to (size, size) exactly as inference does it, boxes along with it."""
    stretched, mapping = stretch(pixels_of(sample.path), (size, size))
    return Picture(stretched, mapping.to_input(sample.boxes), sample.labels)


class Shelf:
    """Stretched pixels kept in memory, so that a film is decoded once and not five times an epoch.

    most_bytes: what came first stays until this is full; another size clears the shelf. None: a quarter of the
        machine's memory, at most 8 GB, shared by `processes`
    """

    def __init__(self, most_bytes: int | None = None, processes: int = 1) -> None:
        quarter = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
        self.most_bytes = min(quarter, 8 << 30) // processes if most_bytes is None else most_bytes
        self._size, self._held = 0, 0
        self._kept: dict[Path, tuple[NDArray[np.uint8], Stretch]] = {}
        self._lock = threading.Lock()

    def picture(self, sample: Sample, size: int) -> Picture:
        """As `load_picture`; the pixels must not be written to."""
        with self._lock:
            if size != self._size:
                self._size, self._held = size, 0
                self._kept.clear()
            found = self._kept.get(sample.path)
        if found is None:
            found = stretch(pixels_of(sample.path), (size, size))
            found[0].flags.writeable = False
            with self._lock:
                if size == self._size and self._held + found[0].nbytes <= self.most_bytes:
                    self._held += found[0].nbytes if sample.path not in self._kept else 0
                    self._kept[sample.path] = found
        return Picture(found[0], found[1].to_input(sample.boxes), sample.labels)


def load_letterboxed(sample: Sample, size: int) -> Picture:
    """The picture with its aspect ratio kept, at the top left of (size, size), gray beside it."""
    pixels = pixels_of(sample.path)
    scale = size / max(pixels.shape)
    width, height = (max(1, int(n * scale)) for n in (pixels.shape[1], pixels.shape[0]))
    small, mapping = stretch(pixels, (width, height))
    canvas = np.full((size, size), FILL, np.uint8)
    canvas[:height, :width] = small
    return Picture(canvas, mapping.to_input(sample.boxes), sample.labels)


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

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        if device.type == "cpu":
            return self
        truths = [Truth(t.boxes.to(device), t.labels.to(device)) for t in self.truths]
        return Batch(self.pixels.to(device, non_blocking=True), truths)


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
    class_names: Sequence[str] = ()  #: those that name a side change it in a mirror
    shelf: Shelf | None = None  #: keeps what was decoded from epoch to epoch
    shares: tuple[float, float] = (
        0.0,
        0.0,
    )  #: how much of the run is done at its beginning and its end, 0..1

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
        load = self.shelf.picture if self.shelf else load_picture
        pictures = [load(sample, size) for sample in chosen[: PICTURES_FOR_A_MOSAIC - 1]]
        pictures += [load_letterboxed(sample, size) for sample in chosen[PICTURES_FOR_A_MOSAIC - 1 :]]
        if self.crop is not None:
            pictures = [self._cut(s, p, rng) for s, p in zip(chosen, pictures, strict=True)]
        mirrored = mirrored_classes(self.class_names) if self.class_names else None
        share = self.shares[0] + (self.shares[1] - self.shares[0]) * at / max(self.draws, 1)
        whole = self.crop or size
        return vary(pictures, a, whole, rng, share=share, plain=self.plain, mirrored=mirrored)

    def _cut(self, sample: Sample, picture: Picture, rng: np.random.Generator) -> Picture:
        centre = hip_centre(sample, self.size)
        if centre is None or rng.random() < ANYWHERE:
            centre = rng.uniform(0, self.size, 2)
        return cut_square(picture, centre, self.crop or self.size, rng)
