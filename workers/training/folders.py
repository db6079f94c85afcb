"""A folder of labelled pictures -> samples, whatever the labels' format, with every problem listed at once.

    labels.jsonl              a pool of phantoms (`hipnode phantom`); may grow while it is read
    labels.csv                rows for DICOM films or pictures
    *.json with annotations   COCO
    *.xml                     LabelImg (Pascal VOC)
    *.txt and classes.txt     YOLO

Beside any of them may lie patients.csv (columns file, patient, and if wanted split). Where nothing names the
patient, DICOM films have their PatientID, and every other picture is a patient of its own.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hipnode.errors import ImageRejected
from hipnode.headers import read_object
from workers.training.formats import (
    CLASSES_TXT,
    LABELS_CSV,
    Marked,
    coco_files,
    csv_rows,
    read_coco,
    read_label_csv,
    read_labelimg,
    read_yolo,
)
from workers.training.samples import (
    NO_FRACTURE,
    PICTURES,
    DataError,
    Problem,
    Sample,
    is_dicom,
    opened,
)

LABELS_FILE = "labels.jsonl"
PATIENTS_CSV = "patients.csv"
SPLITS = ("train", "validation", "test")
EDGE_PX = 1.0  # a corner this far outside is rounding, and is moved to the edge
Unlabelled = Literal["refuse", "none", "skip"]
Reader = Callable[[Path, list[Problem]], Iterator[Marked]]
READERS: dict[str, Reader] = {
    "label CSV": read_label_csv,
    "COCO": read_coco,
    "LabelImg": read_labelimg,
    "YOLO": read_yolo,
}
EXPECTED = (
    f"{LABELS_FILE} (phantoms), {LABELS_CSV} (DICOM films), LabelImg's XML files, COCO's JSON, "
    f"or YOLO's text files with {CLASSES_TXT}"
)


def format_of(folder: Path) -> str:
    """ "pool" or a name in READERS. Raises DataError where there is none, or more than one.

    A pool's other labels are copies of its labels.jsonl, which counts.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    if (folder / LABELS_FILE).is_file():
        return "pool"
    there = {
        "label CSV": (folder / LABELS_CSV).is_file(),
        "COCO": bool(coco_files(folder)),
        "LabelImg": any(folder.rglob("*.xml")),
        "YOLO": (folder / CLASSES_TXT).is_file()
        and any(p.name != CLASSES_TXT for p in folder.rglob("*.txt")),
    }
    found = [name for name, is_there in there.items() if is_there]
    if not found:
        raise DataError(f"{folder} holds no labels; it needs {EXPECTED}")
    if len(found) > 1:
        raise DataError(f"{folder} holds labels of more than one format: {', '.join(found)}; keep one")
    return found[0]


def read_folder(folder: Path, class_names: Sequence[str], unlabelled: Unlabelled = "refuse") -> list[Sample]:
    """The samples of a folder in a stable order.

    unlabelled: a picture without a label is a mistake, is taken as one without a fracture, or is left out
    Raises DataError with one line for each problem: boxes outside or inverted, unknown classes, missing,
    unreadable, unlabelled and repeated pictures, repeated boxes, sizes that do not agree.
    """
    kind = format_of(folder)
    if kind == "pool":
        return read_pool(folder, class_names)
    problems: list[Problem] = []
    marked = list(READERS[kind](folder, problems))
    index = _Pictures(folder)
    patients = _patients(folder, index, problems)
    taken: dict[Path, Marked] = {}
    samples = []
    for one in marked:
        where = _place(folder, one)
        path = index.by_uid(one.image_uid) if one.image_uid else index.find(one.names)
        if path is None:
            problems.append(Problem(*where, f"the picture {one.names[1] or one.names[-1]} is not there"))
        elif path in taken:
            first = _place(folder, taken[path])
            says = f"labels {index.name(path)}, which {first[0]}:{first[1] or 1} labels as well"
            problems.append(Problem(*where, says))
        else:
            taken[path] = one
            samples += _sample(folder, path, one, class_names, patients, problems)
    bare = sorted(set(index.all) - set(taken))
    if unlabelled == "none":
        for path in bare:
            one = Marked(path, None, (str(path), path.name))
            samples += _sample(folder, path, one, class_names, patients, problems)
    elif unlabelled == "refuse" and bare:
        problems += [Problem(index.name(path), None, "has no label") for path in bare]
        says = (
            f"{len(bare)} pictures have no label: label them, or say with --unlabelled none that they show no "
            "fracture, or with --unlabelled skip that they are left out"
        )
        problems.append(Problem(str(folder), None, says))
    problems += _copies(folder, samples)
    if problems:
        raise DataError(problems)
    if not samples:
        raise DataError(f"{folder} holds no labelled picture")
    return samples


class _Pictures:
    """The pictures of a folder, and how labels name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and not path.name.startswith(".")
            and (path.suffix.lower() in PICTURES or is_dicom(path))
        ]
        self._by_name: dict[str, list[Path]] = {}
        self._by_uid: dict[str, list[Path]] | None = None  # headers are read when the first UID is asked for
        for path in self.all:
            whole, here = str(path), str(path.relative_to(folder))
            for key in {whole, here, path.name, str(path.with_suffix("")), path.stem}:
                self._by_name.setdefault(key, []).append(path)

    def find(self, names: Iterable[str]) -> Path | None:
        """The picture that the first of these names fits, if it fits one only."""
        for name in names:
            fits = self._by_name.get(name, [])
            if len(fits) == 1:
                return fits[0]
        return None

    def by_uid(self, uid: str) -> Path | None:
        """The film with this SOP Instance UID, if there is one only."""
        if self._by_uid is None:
            self._by_uid = {}
            for path in self.all:
                if is_dicom(path):
                    self._by_uid.setdefault(_uid_of(path), []).append(path)
        fits = self._by_uid.get(uid, [])
        return fits[0] if len(fits) == 1 else None

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def _place(folder: Path, one: Marked) -> tuple[str, int | None]:
    return str(one.source.relative_to(folder)), one.line


def _patients(folder: Path, index: _Pictures, problems: list[Problem]) -> dict[Path, tuple[str, str]]:
    """Picture -> (patient, split) of patients.csv; empty where there is none."""
    path = folder / PATIENTS_CSV
    if not path.is_file():
        return {}
    said: dict[Path, tuple[str, str]] = {}
    before = len(problems)
    for line, row in csv_rows(path, ("file", "patient"), problems):
        picture = index.find((row["file"],))
        if picture is None:
            problems.append(Problem(PATIENTS_CSV, line, f"the picture {row['file']} is not there"))
        elif picture in said:
            problems.append(Problem(PATIENTS_CSV, line, f"names {row['file']} again"))
        elif not row["patient"]:
            problems.append(Problem(PATIENTS_CSV, line, "names no patient"))
        else:
            said[picture] = row["patient"], row.get("split", "")
            if row.get("split", "") not in ("", *SPLITS):
                problems.append(Problem(PATIENTS_CSV, line, f"split is none of {', '.join(SPLITS)}"))
    if len(problems) == before:
        problems += [
            Problem(index.name(p), None, f"is not in {PATIENTS_CSV}") for p in index.all if p not in said
        ]
    return said


def _uid_of(path: Path) -> str:
    """SOP Instance UID, "" where the header cannot be read (which is told when the film is looked at)."""
    try:
        return str(read_object(path, pixels=False)[0].get("SOPInstanceUID", ""))
    except Exception:  # noqa: BLE001  # malformed files raise a dozen types
        return ""


def _facts_of(path: Path) -> tuple[int, int, str]:
    """(columns, rows, PatientID). Raises ValueError."""
    if not is_dicom(path):
        with opened(path) as image:
            return *image.size, ""
    try:
        ds, _ = read_object(path, pixels=False)
        return int(ds.Columns), int(ds.Rows), str(ds.get("PatientID", "") or "").strip()
    except ImageRejected as error:
        raise ValueError(error.sentence) from error
    except Exception as error:  # malformed files raise a dozen types, and their texts quote the header
        raise ValueError(f"the film is damaged ({type(error).__name__})") from error


def _sample(
    folder: Path,
    path: Path,
    one: Marked,
    class_names: Sequence[str],
    patients: dict[Path, tuple[str, str]],
    problems: list[Problem],
) -> list[Sample]:
    """The checked sample, or none with its problems noted."""
    name, line = _place(folder, one)
    try:
        columns, rows, patient_id = _facts_of(path)
    except ValueError as error:
        problems.append(Problem(str(path.relative_to(folder)), None, str(error)))
        return []
    before = len(problems)
    if one.size is not None and one.size != (columns, rows):
        says = f"is for {one.size[0]} x {one.size[1]} pixels, the picture has {columns} x {rows}"
        problems.append(Problem(name, line, says))
    if one.split not in ("", *SPLITS):
        problems.append(Problem(name, line, f"split is none of {', '.join(SPLITS)}"))
    boxes: list[NDArray[np.float64]] = []
    labels: list[int] = []
    limits = np.array([columns, rows, columns, rows], float)
    for box in one.boxes:
        at = box.line or line
        corners = np.array(box.corners) * (limits if one.relative else 1.0)
        if box.class_name not in class_names:
            says = f"unknown class {box.class_name[:40]!r}; known are {', '.join(class_names)}"
            problems.append(Problem(name, at, says))
        elif not np.isfinite(corners).all():
            problems.append(Problem(name, at, "a corner of the box is not a finite number"))
        elif not (corners[2:] > corners[:2]).all():
            problems.append(Problem(name, at, f"the box {_shown(corners)} is inverted or empty"))
        elif (corners < -EDGE_PX).any() or (corners > limits + EDGE_PX).any():
            says = f"the box {_shown(corners)} lies outside the picture of {columns} x {rows} pixels"
            problems.append(Problem(name, at, says))
        elif any(np.array_equal(corners, other) for other in boxes):
            problems.append(Problem(name, at, f"the box {_shown(corners)} stands there twice"))
        else:
            boxes.append(corners)
            labels.append(list(class_names).index(box.class_name))
    if len(problems) > before:
        return []
    kept = np.array(boxes, np.float32).reshape(-1, 4).clip(0, limits.astype(np.float32))
    said_patient, said_split = patients.get(path, ("", ""))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    patient, split = one.patient or said_patient or patient_id, one.split or said_split
    return [Sample(path, kept, np.array(labels, np.int64), {}, patient, split, digest)]


def _shown(corners: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in corners.round(2)) + ")"


def _copies(folder: Path, samples: Sequence[Sample]) -> list[Problem]:
    """Pictures that are the same file under two names: one film would be two patients' or in two splits."""
    first: dict[str, Sample] = {}
    problems = []
    for sample in samples:
        other = first.setdefault(sample.sha256, sample)
        if other is not sample:
            says = f"is the same picture as {other.path.relative_to(folder)}"
            problems.append(Problem(str(sample.path.relative_to(folder)), None, says))
    return problems


# Pools of phantoms


def read_pool(folder: Path, class_names: Sequence[str]) -> list[Sample]:
    """The samples of a labels.jsonl in the order they were written. Raises DataError.

    One JSON object a line: `file`, `class`, `boxes`, and if wanted `patient_id` and `split` (else each picture
    is a patient of its own); `workers/phantom/dataset.py` writes it. It may grow while it is read: a last line still
    being written (no line end) is left for the next look. Pictures are not opened.
    """
    listing = folder / LABELS_FILE
    if not listing.is_file():
        raise DataError(f"{folder} holds no {LABELS_FILE}")
    samples: list[Sample] = []
    problems: list[Problem] = []
    first: dict[str, int] = {}
    with listing.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                break
            try:
                sample = _pool_sample(folder, json.loads(line), class_names)
            except (ValueError, KeyError, TypeError) as error:
                problems.append(Problem(str(listing), number, f"{type(error).__name__}: {error}"))
                continue
            before = first.setdefault(sample.record["file"], number)
            if before != number:
                problems.append(
                    Problem(str(listing), number, f"names {sample.record['file']}, as line {before} does")
                )
            samples.append(sample)
    if problems:
        raise DataError(problems)
    return samples


def _pool_sample(folder: Path, record: dict[str, Any], class_names: Sequence[str]) -> Sample:
    name = record["class"]
    boxes = np.array(record["boxes"], np.float32).reshape(-1, 4)
    if (name == NO_FRACTURE) != (len(boxes) == 0):
        raise ValueError(f"class {name} with {len(boxes)} boxes")
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        raise ValueError(f"a box without area: {boxes.tolist()}")
    if name != NO_FRACTURE and name not in class_names:
        raise ValueError(f"unknown class {name!r}; known are {', '.join(class_names)}")
    label = 0 if name == NO_FRACTURE else list(class_names).index(name)
    path = folder / record["file"]
    labels = np.full(len(boxes), label, np.int64)
    patient = str(record.get("patient") or record.get("patient_id") or "")
    if not patient and "seed" in record and "index" in record:
        patient = f"phantom {record['seed']}-{record['index']}"
    return Sample(path, boxes, labels, record, patient, str(record.get("split") or ""))
