"""A data folder: labels and films in, predictions of a model package out.

The folder holds `labels.csv`, `labels.jsonl`, `labels.ndjson` or `labels.parquet`, and films as DICOM or 8-bit
gray PNG, in subfolders too. A row names its film in the column `file` (a path inside the folder) or, for DICOM,
by `image_uid`. The network needs torch, so what reads the films is found through the entry point group
`hipnode.predict`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from hipnode.errors import HipnodeError
from hipnode.evaluation.films.runs import Order, Progress, Run, Runner, Stress, Unit
from hipnode.evaluation.tables import Label, Problem, TablesUnusable, load_labels
from hipnode.packages import find_packages, named_package
from hipnode.settings import Settings

LABELS = ("labels.csv", "labels.jsonl", "labels.ndjson", "labels.parquet")


class NoRunner(HipnodeError):
    """What reads films is not installed."""


@dataclass(frozen=True)
class Data:
    """A data folder whose labels are in order and name films that are there (by path; a UID is not looked up).

    units: of the rows to be read; what the model was trained on (split train) is not
    """

    folder: Path
    labels_file: Path
    labels: tuple[Label, ...]
    units: tuple[Unit, ...]


def read_data(folder: Path, classes: Sequence[str]) -> Data:
    """The labels of a data folder and the film of each row. Raises TablesUnusable with every problem."""
    listing = find_labels(folder)
    labels = load_labels(listing, classes)
    problems, units = [], []
    for label in labels:
        if label.split == "train":
            continue
        file, says = _film_of(label, folder)
        if says:
            problems.append(Problem(listing.name, label.row, says))
            continue
        hip = label.hip if label.hip in ("L", "R") else None
        judged = label.split != "validation"
        units.append(Unit(label.row, label.case_id, hip, file, label.image_uid, judged))
    first: dict[tuple[object, ...], Unit] = {}
    for unit in units:
        before = first.setdefault((unit.file, unit.image_uid if unit.file is None else None, unit.hip), unit)
        if before is not unit:
            says = f"names the film and hip of row {before.row} again"
            problems.append(Problem(listing.name, unit.row, says))
    if problems:
        raise TablesUnusable(problems)
    return Data(folder, listing, labels, tuple(units))


def find_labels(folder: Path) -> Path:
    """The one labels file of a data folder. Raises TablesUnusable."""
    if not folder.is_dir():
        says = (
            "does not exist"
            if not folder.exists()
            else "is no folder; name the one that holds labels and films"
        )
        raise TablesUnusable([Problem(folder.name, None, says)])
    there = [folder / name for name in LABELS if (folder / name).is_file()]
    if len(there) != 1:
        names = ", ".join(path.name for path in there) or "no labels"
        says = f"holds {names}; put one of {', '.join(LABELS)} there"
        raise TablesUnusable([Problem(folder.name, None, says)])
    return there[0]


def _film_of(label: Label, folder: Path) -> tuple[Path | None, str]:
    """The path of a row's film, and what is wrong with it ("" when nothing is)."""
    if label.file is None:
        return None, "" if label.image_uid else "names no film: fill in file or image_uid"
    path = folder / label.file
    if not path.resolve().is_relative_to(folder.resolve()):
        return None, "file lies outside the data folder"
    return path, "" if path.is_file() else "file is not in the data folder"


def predict_folder(
    folder: Path,
    package_id: str,
    out: Path,
    settings: Settings,
    *,
    device: str = "cpu",
    stresses: Sequence[Stress] = (),
    progress: Progress | None = None,
) -> Run:
    """Read the films of a data folder with a package and write `predictions.jsonl` (and `stress.jsonl`) into `out`.

    A second call with the same folder, package and `out` goes on where the first one stopped. Labels and
    package are checked before the first film is read. Raises TablesUnusable, DataUnusable, PackageUnknown,
    PackageError, DeviceMissing, SettingsError, NoRunner.
    """
    read = _runner()
    package = named_package(find_packages(settings.package_folders), package_id, settings.data / "packages")
    data = read_data(folder, [c.name for c in package.algorithm.classes])
    order = Order(folder, data.labels_file, data.units, package_id, out, device, tuple(stresses))
    return read(order, settings, progress)


def _runner() -> Runner:
    for entry in entry_points(group="hipnode.predict"):
        runner: Runner = entry.load()
        return runner
    raise NoRunner("Nothing here can read films: install hipnode[worker] (see the README on its size).")
