"""A labelled picture, its pixels, and what is said when labels cannot be used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hipnode.decoders import read_stored
from hipnode.errors import HipnodeError, ImageRejected
from hipnode.headers import read_object
from hipnode.images import display_pixels

NO_FRACTURE = "none"
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
DICOM = frozenset({".dcm", ".dicom", ".ima"})
OTHERS = frozenset({".xml", ".txt", ".csv", ".json", ".jsonl", ".md", ".toml", ".part"})
TURNED = 274  # EXIF's Orientation; 1 is upright
EIGHT_BITS = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})  # modes that become gray without loss of range
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file; line None: with the file as a whole."""

    file: str
    line: int | None
    says: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.says}" if self.line else f"{self.file}: {self.says}"


class DataError(HipnodeError):
    """Training data cannot be used; the text has one line for each problem, with file and line."""

    def __init__(self, problems: str | Sequence[Problem]) -> None:
        self.problems = () if isinstance(problems, str) else tuple(problems)
        if not isinstance(problems, str):
            problems = "\n".join(str(p) for p in problems)
        super().__init__(problems)


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled picture.

    path: a DICOM film, or an 8-bit picture
    boxes: (m, 4) float32 in pixels of that picture, corner origin; (0, 4) without a fracture
    labels: (m,) int64 class index
    record: what else the labels say: the whole line of a labels.jsonl (seed, parameters of the phantom)
    patient: in the data's own terms, "" where nothing tells
    split: "train", "validation" or "test" where the labels say so, else ""
    sha256: of the file, "" where it was not read
    """

    path: Path
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    record: dict[str, Any] = field(default_factory=dict)
    patient: str = ""
    split: str = ""
    sha256: str = ""

    @property
    def owner(self) -> str:
        """The patient; a picture of an unknown one is a patient of its own."""
        return self.patient or str(self.path)

    def class_name(self, names: Sequence[str]) -> str:
        """The class of its first box, "none" without one."""
        return names[int(self.labels[0])] if len(self.labels) else NO_FRACTURE


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM film: by its name, or by its first bytes where the name says nothing.

    Archives name files by UID, so that the last number looks like a suffix.
    """
    suffix = path.suffix.lower()
    if suffix in DICOM or suffix in PICTURES or suffix in OTHERS:
        return suffix in DICOM
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture that becomes gray without loss. Raises ValueError with the reason."""
    try:
        with Image.open(path) as image:
            if image.mode not in EIGHT_BITS:
                raise ValueError(
                    f"the picture has pixels of kind {image.mode}, not 8 bits; export it again, or give DICOM"
                )
            if image.getexif().get(TURNED, 1) != 1:
                raise ValueError(
                    "the picture is stored turned (EXIF orientation); save it upright, and label that"
                )
            yield image
    except OSError as error:
        raise ValueError("the picture cannot be read") from error


def pixels_of(path: Path) -> NDArray[np.uint8]:
    """The picture as the detector sees it: (rows, columns) uint8 display values, bone bright.

    A DICOM film goes through the node's own pipeline (hipnode.images). Raises ValueError with the reason.
    """
    if not is_dicom(path):
        with opened(path) as image:
            return np.array(image.convert("L"))
    try:
        ds, transfer_syntax = read_object(path, pixels=True)
        return display_pixels(ds, read_stored(ds, transfer_syntax, MAX_PIXELS))
    except ImageRejected as error:
        raise ValueError(error.sentence) from error
    except Exception as error:  # malformed files raise a dozen types, and their texts quote the header
        raise ValueError(f"the film is damaged ({type(error).__name__})") from error
