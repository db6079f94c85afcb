"""Read the films of a data folder and write what the detector says of each case, row by row.

The same way as in the node: header facts, selection study by study, decoding in killable children, the
package's veto, the decision rule's candidates. Found through the entry point group `hipnode.predict`.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from hipnode.children import PERHAPS_NOT_THE_IMAGE, Children
from hipnode.errors import ImageRejected
from hipnode.evaluation.films.runs import (
    PREDICTIONS,
    STRESSED,
    DataUnusable,
    Order,
    Progress,
    Run,
    SideProblem,
    Stress,
    Unit,
)
from hipnode.findings import Box, Candidate, Reason
from hipnode.images import Radiograph, shows_both_hips, side_at
from hipnode.packages import ModelPackage, find_packages, named_package, sha256_of
from hipnode.selection import Facts, Selection, select_films
from hipnode.settings import Settings
from hipnode.status import Outcome, ReasonCode
from workers.analysis import Detector, DetectorFailed, StudyImage, StudyImages, analyse_each
from workers.detector import load_detector, need_torch
from workers.pictures import is_png, read_png
from workers.predictions import Key, Row, Rows

FILMS_AT_ONCE = 8


@dataclass(eq=False)
class _Film:
    """One file and the label rows that mean it. facts: None for a PNG, which has no header."""

    path: Path
    units: list[Unit] = field(default_factory=list)
    facts: Facts | None = None
    refused: str | None = None  #: a reason code, where selection refused it or its header could not be read
    flags: tuple[Reason, ...] = ()

    def bears(self, stress: Stress) -> bool:
        """Whether a stress test is made with this film: some of it is judged, and what changes is there."""
        return any(u.judged for u in self.units) and (self.facts is not None or not stress.changes_header)


def predict_films(order: Order, settings: Settings, progress: Progress | None = None) -> Run:
    """Read what is not read yet (see hipnode.evaluation.films.runs.Runner)."""
    need_torch()
    package = named_package(
        find_packages(settings.package_folders), order.package_id, settings.data / "packages"
    )
    selection = Selection.load(settings.selection_file)
    order.out.mkdir(parents=True, exist_ok=True)
    limits = (settings.decode_timeout_s, settings.decode_memory_bytes, settings.decode_max_pixels)
    with (
        Rows(order.out / PREDICTIONS, package) as plain,
        Rows(order.out / STRESSED, package, needed=bool(order.stresses)) as stressed,
        Children(settings.decode_children, *limits) as children,
        ThreadPoolExecutor(settings.decode_children) as threads,
    ):
        films = _find(order, selection, children, threads)
        plain.check(((unit.case_id, film.path) for film in films for unit in film.units), order.labels.name)
        todo = [film for film in films if _wanted(film, order.stresses, plain) - plain.keys - stressed.keys]
        there = len(films) - len(todo)
        if progress is not None:
            progress(there, len(films))
        started = time.monotonic()
        if todo:
            look = _Look(package, load_detector(package, order.device), selection, children, order.stresses)
            for done, rows in enumerate(look.at(todo, threads), start=there + 1):
                for row in rows:
                    (stressed if row.get("stress") else plain).add(row)
                if progress is not None:
                    progress(done, len(films))
        not_read = Counter(code for code in plain.not_read.values() if code)
    return Run(
        labels=order.labels,
        predictions=order.out / PREDICTIONS,
        stressed=order.out / STRESSED if order.stresses else None,
        package_id=package.id,
        package_version=package.version,
        package_sha256=package.sha256,
        selection_sha256=_hash_of_rules(settings.selection_file),
        units=len(order.units),
        not_read=not_read,
        films=len(films),
        films_now=len(todo),
        seconds=time.monotonic() - started,
    )


def _find(order: Order, selection: Selection, children: Children, threads: ThreadPoolExecutor) -> list[_Film]:
    """The films of the order, each once, in the order of the labels. Raises DataUnusable with every problem."""
    named = [unit.file for unit in order.units if unit.file is not None]
    listed = list(dict.fromkeys(named if len(named) == len(order.units) else [*named, *_all_files(order)]))
    headers = [path for path in listed if not is_png(path)]
    facts = dict(zip(headers, threads.map(lambda path: _facts(path, children), headers), strict=True))
    by_uid: dict[str, list[Path]] = {}
    for path, found in facts.items():
        if isinstance(found, Facts):
            by_uid.setdefault(found.sop_instance_uid, []).append(path)
    films: dict[Path, _Film] = {}
    problems = []
    for unit in order.units:
        place, says = _path_of(unit, facts, by_uid)
        if place is not None:
            film = films.setdefault(place, _Film(place))
            again = next((other.row for other in film.units if other.hip == unit.hip), None)
            says = f"names the film and hip of row {again} again" if again is not None else ""
            film.units.append(unit)
        if says:
            problems.append(f"{order.labels.name}, row {unit.row}: {says}")
    if problems:
        raise DataUnusable("\n".join(problems))
    # All films of a study decide on each other (twins), those without a label too.
    known = {path: found for path, found in facts.items() if isinstance(found, Facts)}
    decisions = dict(zip(known, select_films(list(known.values()), selection), strict=True))
    for film in films.values():
        header = facts.get(film.path)
        if isinstance(header, ImageRejected):
            film.refused = header.code
        elif header is not None:
            film.facts, decision = header, decisions[film.path]
            film.refused, film.flags = (decision.reason.code if decision.skipped else None), decision.flags
    return list(films.values())


def _all_files(order: Order) -> list[Path]:
    """Every file of the data folder but the labels and what the run itself writes."""
    own = {order.labels.resolve(), *(order.out.resolve() / name for name in (PREDICTIONS, STRESSED))}
    return sorted(p for p in order.folder.rglob("*") if p.is_file() and p.resolve() not in own)


def _facts(path: Path, children: Children) -> Facts | ImageRejected:
    """What the header says. A film the node would not take in, for want of a UID, is rejected here too."""
    try:
        facts = children.read_facts(path)
    except ImageRejected as rejection:
        return rejection
    if not (facts.sop_instance_uid and facts.first("StudyInstanceUID") and facts.first("SeriesInstanceUID")):
        return ImageRejected(ReasonCode.IDENTITY_UNREADABLE)
    return facts


def _path_of(
    unit: Unit, facts: dict[Path, Facts | ImageRejected], by_uid: dict[str, list[Path]]
) -> tuple[Path | None, str]:
    """The path of a row's film, and what is wrong with it."""
    if unit.file is not None:
        found = facts.get(unit.file)
        if unit.image_uid and isinstance(found, Facts) and found.sop_instance_uid != unit.image_uid:
            return None, "the film in file has another SOP Instance UID than image_uid"
        return unit.file, ""
    paths = by_uid.get(unit.image_uid or "", [])
    if not paths:
        return None, "no film in the data folder has this image_uid"
    if len({sha256_of(path) for path in paths}) > 1:
        return None, f"{len(paths)} different films have this image_uid; name one in the column file"
    return paths[0], ""


def _wanted(film: _Film, stresses: Sequence[Stress], plain: Rows) -> set[Key]:
    """The rows a film must have: one for each unit, and one for each judged unit that was read and each stress."""
    cases = {unit.case_id for unit in film.units}
    read = {unit.case_id for unit in film.units if unit.judged and not plain.not_read.get(unit.case_id)}
    fit = [stress for stress in stresses if film.refused is None and film.bears(stress)]
    return {(case, "") for case in cases} | {(case, stress.name) for case in read for stress in fit}


def _hash_of_rules(site_file: Path | None) -> str:
    """SHA-256 over the shipped selection.toml and the site's."""
    shipped = resources.files("hipnode").joinpath("selection.toml").read_bytes()
    return sha256(shipped + (site_file.read_bytes() if site_file else b"")).hexdigest()


@dataclass(eq=False)
class _Look:
    """The detector and all that stands between a film and its rows."""

    package: ModelPackage
    detector: Detector
    selection: Selection
    children: Children
    stresses: Sequence[Stress]

    def at(self, films: Sequence[_Film], threads: ThreadPoolExecutor) -> Iterator[list[Row]]:
        """The rows of each film in turn; the next films are decoded while the detector looks."""
        coming = iter(films)
        waiting: deque[tuple[_Film, Future[tuple[str, Radiograph | ImageRejected]]]] = deque()

        def fetch(count: int) -> None:
            for film in islice(coming, count):
                waiting.append((film, threads.submit(self._read, film)))

        fetch(2 * FILMS_AT_ONCE)
        while waiting:
            part = [waiting.popleft() for _ in range(min(FILMS_AT_ONCE, len(waiting)))]
            fetch(len(part))
            yield from self._rows([(film, *future.result()) for film, future in part])

    def _read(self, film: _Film) -> tuple[str, Radiograph | ImageRejected]:
        """SHA-256 of the file, and its picture."""
        digest = sha256_of(film.path)
        if film.refused is not None:
            return digest, ImageRejected(ReasonCode(film.refused))
        picture = self._decoded(film)
        if isinstance(picture, ImageRejected) and picture.sentence in PERHAPS_NOT_THE_IMAGE:
            picture = self._decoded(film)
        return digest, picture

    def _decoded(self, film: _Film) -> Radiograph | ImageRejected:
        try:
            if film.facts is not None:
                return self.children.read_radiograph(film.path)
            return Radiograph(self.children.call(read_png, str(film.path), self.children.max_pixels), "")
        except ImageRejected as rejection:
            return rejection

    def _rows(self, part: Sequence[tuple[_Film, str, Radiograph | ImageRejected]]) -> list[list[Row]]:
        answers = self._answers([(picture, film.flags) for film, _, picture in part])
        rows: list[list[Row]] = []
        read: list[tuple[int, _Film, str, Radiograph]] = []
        for place, ((film, digest, picture), answer) in enumerate(zip(part, answers, strict=True)):
            rows.append(self._of_film(film, digest, picture, answer))
            if isinstance(picture, Radiograph) and answer.not_read is None:
                read.append((place, film, digest, picture))
        for stress in self.stresses:
            changed = [
                (place, film, digest, self._changed(film, picture, stress))
                for place, film, digest, picture in read
                if film.bears(stress)
            ]
            answers = self._answers([(picture, film.flags) for _, film, _, picture in changed])
            for (place, film, digest, picture), answer in zip(changed, answers, strict=True):
                rows[place] += self._of_film(film, digest, picture, answer, stress.name)
        return rows

    def _changed(self, film: _Film, picture: Radiograph, stress: Stress) -> Radiograph | ImageRejected:
        """The film under a stress, as the node would meet it; a rejection where selection refuses it then."""
        if not stress.changes_header or film.facts is None:
            return replace(picture, pixels=stress.film(picture.pixels))
        facts = stress.header(film.facts)
        decision = self.selection.decide(facts)
        if decision.skipped:
            return ImageRejected(decision.reason.code)
        return replace(picture, body_part=facts.first("BodyPartExamined").strip().upper())

    def _answers(
        self, pictures: Sequence[tuple[Radiograph | ImageRejected, tuple[Reason, ...]]]
    ) -> "list[_Answer]":
        """What the package says of each picture, each as a study of its own."""
        started = time.perf_counter()
        studies = [StudyImages((StudyImage("", picture, flags),)) for picture, flags in pictures]
        readings = analyse_each(studies, self.detector, self.package)
        shown = sum(isinstance(picture, Radiograph) for picture, _ in pictures)
        each_ms = (time.perf_counter() - started) * 1000 / max(shown, 1)
        answers = []
        for reading in readings:
            if isinstance(reading, DetectorFailed):
                answers.append(_Answer((), ReasonCode.INTERNAL, each_ms))
                continue
            image = reading.images[0]
            looked = image.outcome in (Outcome.FINDINGS, Outcome.NONE)
            code = None if looked else image.reason.code if image.reason else ReasonCode.INTERNAL
            answers.append(_Answer(image.candidates, code, each_ms))
        return answers

    def _of_film(
        self,
        film: _Film,
        digest: str,
        picture: Radiograph | ImageRejected,
        answer: "_Answer",
        stress: str = "",
    ) -> list[Row]:
        """One row for each unit of a film."""
        rows = []
        for unit in (unit for unit in film.units if unit.judged or not stress):
            candidates: Sequence[Candidate] = ()
            not_read: str | None = answer.not_read
            if isinstance(picture, Radiograph) and not_read is None:
                candidates, not_read = of_hip(
                    answer.candidates, picture, unit.hip, alone=len(film.units) == 1
                )
            row: Row = {
                "case_id": unit.case_id,
                "model_id": self.package.id,
                "model_version": self.package.version,
                **({"stress": stress} if stress else {}),
                "boxes": [_box(candidate) for candidate in candidates],
                "not_read": str(not_read) if not_read else None,
                "flags": [str(flag.code) for flag in film.flags],
            }
            if isinstance(picture, Radiograph):
                row |= {"rows": picture.pixels.shape[0], "columns": picture.pixels.shape[1]}
                row["runtime_ms"] = round(answer.each_ms, 2)
            rows.append(row | {"film_sha256": digest, "package_sha256": self.package.sha256})
        return rows


@dataclass(frozen=True)
class _Answer:
    """What the package said of one picture. each_ms: time of detection, shared by the pictures of one call."""

    candidates: tuple[Candidate, ...]
    not_read: str | None
    each_ms: float


def of_hip(
    candidates: Sequence[Candidate], radiograph: Radiograph, hip: str | None, *, alone: bool
) -> tuple[Sequence[Candidate], SideProblem | None]:
    """The candidates of one hip of a film, by the sides the decision rule gives them; or why there are none.

    hip: "L", "R", or None for the whole film. alone: no other label means this film, so that a film of one hip
    without laterality is of the hip the label says. A candidate at the midline of a pelvis belongs to neither.
    """
    if hip is None:
        return candidates, None
    rows, columns = radiograph.pixels.shape
    if not shows_both_hips(radiograph):
        if radiograph.side is None:
            return (candidates, None) if alone else ((), SideProblem.SIDE_UNKNOWN)
        return (candidates, None) if radiograph.side.side == hip else ((), SideProblem.OTHER_SIDE)
    if side_at(radiograph, Box(0, 0, columns / 2, rows)) is None:
        return (), SideProblem.SIDE_UNKNOWN
    return [c for c in candidates if c.side is not None and c.side.side == hip], None


def _box(candidate: Candidate) -> dict[str, Any]:
    box = candidate.box
    return {
        "xyxy": [box.column_min, box.row_min, box.column_max, box.row_max],
        "class": candidate.class_name,
        "score": candidate.score,
    }
