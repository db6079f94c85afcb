"""Analyse files without a node: DICOM in, SR, overlay and PNG preview out (`hipnode analyse`)."""

import filecmp
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from hipnode.children import Children
from hipnode.errors import ImageRejected, PackageError
from hipnode.findings import Box, ImageReading, KnownSide, Reason
from hipnode.images import Radiograph
from hipnode.logs import hashed
from hipnode.packages import ModelPackage, find_packages, named_package
from hipnode.results import BuiltResult, Installation, ResultKind, build_results, preview_png, result_text
from hipnode.selection import Decision, Facts, Selection, select_films
from hipnode.settings import Settings
from hipnode.status import Outcome, ReasonCode
from workers.analysis import Detector, StudyImage, StudyImages, analyse
from workers.detector import load_detector
from workers.headers import read_header

# One installation for every `hipnode analyse`: without a node there is no data folder that could keep its own.
_DEVICE_UID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'analyse.hipnode').int}"


@dataclass(frozen=True, eq=False)
class _Film:
    """One file whose header could be read."""

    path: Path
    header: Dataset
    facts: Facts


def analyse_files(
    paths: Sequence[Path],
    out: Path,
    settings: Settings,
    package_id: str | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Analyse each study among the files; write its results to a folder of its own under `out`.

    Returns one plain object per file, in order: file, status (analysed, skipped, failed), outcome, reason,
    sentence, flags, findings, candidates, package, outputs. Boxes are in stored pixels, corner origin.
    A study whose package is not installed fails with NO_PACKAGE, the others are read. Raises PackageUnknown
    for a `package_id` that is not installed, PackageError for a package that cannot be used, DeviceMissing,
    SettingsError.
    """
    selection = Selection.load(settings.selection_file)
    look = _Look(settings, device)
    if package_id:
        look.known(package_id)
    out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    limits = (settings.decode_timeout_s, settings.decode_memory_bytes, settings.decode_max_pixels)
    answers: dict[Path, dict[str, Any]] = {}
    copies: dict[Path, Path] = {}
    with Children(settings.decode_children, *limits) as children:
        films: list[_Film] = []
        first: dict[str, Path] = {}
        for path in paths:
            try:
                film = _film(path, children)
                if first.setdefault(film.facts.sop_instance_uid, path) is path:
                    films.append(film)
                else:
                    copies[path] = first[film.facts.sop_instance_uid]
            except ImageRejected as error:
                answers[path] = _answer(path, "failed", Reason(error.code, error.sentence))
        decisions = select_films([film.facts for film in films], selection)
        studies: dict[str, dict[str, list[tuple[_Film, Decision]]]] = defaultdict(lambda: defaultdict(list))
        for film, decision in zip(films, decisions, strict=True):
            if decision.skipped:
                answers[film.path] = _answer(film.path, "skipped", decision.reason, decision.flags)
            else:
                study_uid = film.facts.first("StudyInstanceUID")
                studies[study_uid][package_id or decision.package].append((film, decision))
        for study_uid, chosen in studies.items():
            for package, wanted in chosen.items():
                try:
                    look.known(package)
                except PackageError as error:
                    missing = Reason(ReasonCode.NO_PACKAGE, str(error))
                    answers |= {
                        film.path: _answer(film.path, "failed", missing, decision.flags)
                        for film, decision in wanted
                    }
                    continue
                # Two packages may look at one study; each has results of its own.
                folder = out / hashed(study_uid)
                answers |= look.at_study(
                    wanted, package, folder if len(chosen) == 1 else folder / package, children
                )
    for path, read in copies.items():
        answers[path] = _of_copy(path, read, answers[read])
    return [answers[path] for path in paths]


def _film(path: Path, children: Children) -> _Film:
    """The film of a file. Raises ImageRejected, also where results could not refer to it."""
    header = read_header(children, path)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if not header.get(keyword):
            raise ImageRejected(ReasonCode.IDENTITY_UNREADABLE, f"The file has no {keyword}.")
    return _Film(path, header, children.read_facts(path))


class _Look:
    """Packages and their detectors, each loaded when the first study asks for it."""

    def __init__(self, settings: Settings, device: str) -> None:
        self._settings, self._device = settings, device
        self._packages = find_packages(settings.package_folders)
        self._detectors: dict[str, Detector] = {}

    def at_study(
        self, films: list[tuple[_Film, Decision]], package_id: str, folder: Path, children: Children
    ) -> dict[Path, dict[str, Any]]:
        """Read one study and write its results; the answer of each of its files."""
        package, detector = self._loaded(package_id)
        decoded = children.read_radiographs([film.path for film, _ in films])
        images = tuple(
            StudyImage(film.facts.sop_instance_uid, picture, decision.flags)
            for (film, decision), picture in zip(films, decoded, strict=True)
        )
        reading = analyse([StudyImages(images)], detector, package)[0]
        pictures = {i.sop_instance_uid: i.picture for i in images if isinstance(i.picture, Radiograph)}
        now = datetime.now(UTC)
        built = build_results(
            [film.header for film, _ in films],
            reading,
            package.algorithm,
            Installation(_DEVICE_UID, self._settings.ae_title),
            1,
            now,
            images=pictures,
        )
        outputs = _write(folder, built, result_text(reading, package.algorithm, now))
        return {
            film.path: _of_reading(film.path, image, package, outputs)
            for (film, _), image in zip(films, reading.images, strict=True)
        }

    def known(self, package_id: str) -> ModelPackage:
        """The package of this id. Raises PackageUnknown where it is not installed."""
        return named_package(self._packages, package_id, self._settings.data / "packages")

    def _loaded(self, package_id: str) -> tuple[ModelPackage, Detector]:
        package = self.known(package_id)
        if package_id not in self._detectors:
            self._detectors[package_id] = load_detector(package, self._device)
        return package, self._detectors[package_id]


def _write(folder: Path, built: Sequence[BuiltResult], text: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    outputs = []

    def keep(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        outputs.append(str(folder / name))

    overlays = [result for result in built if result.kind is ResultKind.SC]
    for result in built:
        if result.kind is ResultKind.SR:
            keep("sr.dcm", result.encode())
            keep("sr.txt", text.encode())
        else:
            number = overlays.index(result) + 1
            stem = "overlay" if number == 1 else f"overlay-{number}"
            keep(f"{stem}.dcm", result.encode())
            keep(f"{stem}.png", preview_png(result.dataset))
    return outputs


def _answer(path: Path, status: str, reason: Reason | None, flags: Sequence[Reason] = ()) -> dict[str, Any]:
    return {
        "file": str(path),
        "status": status,
        "outcome": None,
        "reason": reason.code.value if reason else None,
        "sentence": reason.sentence if reason else None,
        "flags": [flag.code.value for flag in flags],
        "findings": [],
        "candidates": [],
        "package": None,
        "outputs": [],
    }


def _of_copy(path: Path, read: Path, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of a file with the SOP Instance UID of another that was read."""
    if filecmp.cmp(path, read, shallow=False):
        return answer | {"file": str(path)}
    other = f"Other bytes than {read} under the same SOP Instance UID; not read."
    return _answer(path, "failed", Reason(ReasonCode.REVISION_CONFLICT, other))


def _of_reading(path: Path, image: ImageReading, package: ModelPackage, outputs: list[str]) -> dict[str, Any]:
    failed = image.outcome is Outcome.ERROR
    return _answer(path, "failed" if failed else "analysed", image.reason, image.flags) | {
        "outcome": image.outcome.value,
        "findings": [
            _region(f.class_name, f.score, f.box, f.side)
            | {
                "alternative": {"class": f.alternative.class_name, "score": f.alternative.score}
                if f.alternative
                else None,
                "rule": f.rule,
                "certainty": f.certainty,
                "level": f.level,
            }
            for f in image.findings
        ],
        "candidates": [_region(c.class_name, c.score, c.box, c.side) for c in image.candidates],
        "package": {"id": package.id, "version": package.version, "sha256": package.sha256},
        "outputs": outputs,
    }


def _region(class_name: str, score: float, box: Box, side: KnownSide | None) -> dict[str, Any]:
    return {
        "class": class_name,
        "score": round(float(score), 4),
        "box": [round(float(v), 1) for v in (box.column_min, box.row_min, box.column_max, box.row_max)],
        "side": side.side.value if side else None,
        "side_source": side.source if side else None,
    }
