"""Pools of phantoms on disk: PNG or DICOM files and `labels.jsonl`, one line a phantom.

`hipnode train` and `hipnode evaluate --data` take such a folder as it is, if its films are of one view.
A pool grows index by index, can be read while it grows, and goes on where it stopped: a line is
written after its file, and an index that has a line is not made again.
"""

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hipnode.errors import HipnodeError
from workers.phantom.breaks import FractureOutcome

if TYPE_CHECKING:
    from workers.phantom.film import Phantom, View

LABELS_FILE = "labels.jsonl"
#: seeds of the pools the shipped weights were made with; a demo or a kept-back set takes another one
SEEDS = {"train": 21, "val": 22, "test": 23, "demo": 24}

#: visibility (truth.visibility_of) below which a fracture counts as subtle: about a quarter of them. It is that
#: of pixels of SUBTLE_PITCH_MM; bigger pixels catch more quanta, so that visibility grows with their width.
SUBTLE_BELOW = 200.0
SUBTLE_PITCH_MM = 0.143


class PoolError(HipnodeError):
    """A pool of phantoms cannot be written; the text names the file."""


@dataclass(frozen=True)
class PoolRequest:
    """What to make: phantoms (seed, first) to (seed, first + count - 1)."""

    folder: Path
    count: int
    seed: int
    first: int = 0
    dicom: bool = False
    outcome: FractureOutcome | None = None
    split: str | None = None  #: "train", "validation" or "test", written into each record
    columns: int | None = None  #: picture width; None: 512 for PNG, DICOM_COLUMNS for DICOM
    view: "View" = "hip_ap"
    mix: str = "train"  #: shares of the outcomes, a key of film.MIXES
    box_margin_mm: float = 8.0  #: around the projected fracture, in the patient
    masks: bool = False  #: write NAME.masks.png beside each picture, bit k for the k-th of MASKS

    def name(self, index: int) -> str:
        """File name of one phantom."""
        return f"{self.seed:04d}-{index:06d}.{'dcm' if self.dicom else 'png'}"


def known_indices(folder: Path, seed: int) -> set[int]:
    """Indices of `seed` that the pool already holds. A torn last line is cut off. Raises PoolError."""
    listing = folder / LABELS_FILE
    if not listing.is_file():
        return set()
    text = listing.read_bytes()
    if text and not text.endswith(b"\n"):
        text = text[: text.rfind(b"\n") + 1]
        listing.write_bytes(text)
    known = set()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            if record["seed"] == seed:
                known.add(int(record["index"]))
        except (ValueError, KeyError) as error:
            raise PoolError(f"{listing}:{number} is no record of a phantom: {error}") from error
    return known


def make_one(request: PoolRequest, index: int) -> dict[str, Any]:
    """Make one phantom, write its file under its final name, and give its record."""
    from workers.phantom.film import COLUMNS, generate, outcome_of

    columns = request.columns or (DICOM_COLUMNS if request.dicom else COLUMNS)
    outcome = request.outcome or outcome_of(request.seed, index, request.mix)
    phantom = generate(
        request.seed, index, outcome, columns, view=request.view, box_margin_mm=request.box_margin_mm
    )
    path = request.folder / request.name(index)
    part = path.with_name(path.name + ".part")
    image_uid = None
    if request.dicom:
        from workers.phantom.dicom import to_dicom

        film = to_dicom(phantom)
        film.save_as(part, enforce_file_format=True)
        image_uid = str(film.SOPInstanceUID)
    else:
        Image.fromarray(phantom.pixels).save(part, format="PNG", compress_level=1)
    part.replace(path)
    if request.masks:
        Image.fromarray(packed_masks(phantom.masks)).save(path.with_suffix(".masks.png"), format="PNG")
    return {"file": path.name, **_label(request, phantom, image_uid), **phantom.record()}


def _label(request: PoolRequest, phantom: "Phantom", image_uid: str | None) -> dict[str, Any]:
    """The columns by which `hipnode evaluate --data` knows a case; every scene is a patient of its own.

    A film of one hip is a row of that hip. A pelvis film is a row without hip, judged as a whole film: the
    other hip is never broken, so the film's class is that of its only fracture.
    """
    outcome = phantom.outcome
    femur = phantom.parameters["femur"]
    name = f"{phantom.seed:04d}-{phantom.index:06d}"
    label = {
        "case_id": name,
        "patient_id": f"SYN-{name}",
        "image_uid": image_uid,
        "hip": phantom.side if phantom.view == "hip_ap" else None,
        "y_class": "N" if outcome is FractureOutcome.NONE else outcome.value,
        "split": request.split,
        "sex": "F" if femur["female"] else "M",
        "age": int(femur["age_years"]),
        "difficulty": _difficulty(phantom.visibility, phantom.pixel_mm) if phantom.visibility else None,
    }
    return {column: value for column, value in label.items() if value is not None}


def _difficulty(visibility: float, pixel_mm: float) -> str:
    """The same word for the same film at any resolution."""
    return "subtle" if visibility * SUBTLE_PITCH_MM / pixel_mm < SUBTLE_BELOW else "obvious"


#: bits of a mask picture, from the lowest; bones overlap on a film, so a pixel may carry several
MASKS = ("femur_L", "femur_R", "hip_bone_L", "hip_bone_R", "metal")


def packed_masks(masks: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Masks by name as one (rows, columns) picture, bit k set where MASKS[k] is."""
    shape = next(iter(masks.values())).shape
    packed = np.zeros(shape, np.uint8)
    for bit, name in enumerate(MASKS):
        if name in masks:
            packed |= masks[name].astype(np.uint8) << bit
    return packed


def prepare_process() -> None:
    """Once in each process: one thread, and memory that is kept.

    The pool is parallel over phantoms. glibc gives big tensors back to the kernel after each
    operation and takes them anew page by page, which costs more than the arithmetic; M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD and M_TOP_PAD (mallopt(3)) let the process keep them.
    """
    import torch

    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-3, 1 << 30), (-1, 2_000_000_000), (-2, 256 << 20)):
            mallopt(option, value)


def write_pool(
    request: PoolRequest,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make what the pool lacks; gives the number made now.

    progress(done, count) is called after each phantom, once at the start for what was there.
    workers: processes, None for one per CPU. Raises PoolError when the folder cannot be written.
    """
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PoolError(f"{request.folder} cannot be made: {error.strerror}") from error
    wanted = range(request.first, request.first + request.count)
    known = known_indices(request.folder, request.seed)
    missing = [index for index in wanted if index not in known]
    done = request.count - len(missing)
    if progress is not None:
        progress(done, request.count)
    workers = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    with (request.folder / LABELS_FILE).open("a", encoding="utf-8") as listing:
        for record in _records(request, missing, workers):
            listing.write(json.dumps(record, separators=(",", ":")) + "\n")
            listing.flush()
            done += 1
            if progress is not None:
                progress(done, request.count)
    return len(missing)


def _records(request: PoolRequest, indices: Sequence[int], workers: int) -> Iterator[dict[str, Any]]:
    """Records in index order; a few phantoms ahead are under way."""
    if not indices:
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=prepare_process) as pool:
        todo = iter(indices)
        under_way: list[Future[dict[str, Any]]] = [
            pool.submit(make_one, request, index) for index in islice(todo, 3 * workers)
        ]
        while under_way:
            yield under_way.pop(0).result()
            under_way.extend(pool.submit(make_one, request, index) for index in islice(todo, 1))


#: width of phantoms that are written as DICOM: films of about 0.23 mm a pixel
DICOM_COLUMNS = 1024


def write_demo_studies(folder: Path, seed: int = SEEDS["demo"]) -> dict[str, Path]:
    """One DX file for each outcome, named VF.dcm to none.dcm, from seeds no weights were made with.

    Gives the path of each outcome. Nothing is picked: they are the phantoms (seed, 0) to (seed, 4).
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = list(FractureOutcome)
    workers = min(len(outcomes), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=prepare_process) as pool:
        under_way = [pool.submit(_demo_study, folder, seed, index) for index in range(len(outcomes))]
        return {outcome.value: one.result() for outcome, one in zip(outcomes, under_way, strict=True)}


def _demo_study(folder: Path, seed: int, index: int) -> Path:
    from workers.phantom.dicom import to_dicom
    from workers.phantom.generate import generate

    outcome = list(FractureOutcome)[index]
    path = folder / f"{outcome.value}.dcm"
    to_dicom(generate(seed, index, outcome, DICOM_COLUMNS)).save_as(path, enforce_file_format=True)
    return path
