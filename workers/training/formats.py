"""The label files hospitals have: LabelImg (Pascal VOC XML), YOLO, COCO, and a CSV beside DICOM films.

Each reader only says what stands in the files, with the line; `folders.py` checks it.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from workers.training.samples import NO_FRACTURE, Problem

Corners = tuple[float, float, float, float]
LABELS_CSV = "labels.csv"
CLASSES_TXT = "classes.txt"
CSV_CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class MarkedBox:
    """A box as the label file gives it: column_min, row_min, column_max, row_max."""

    class_name: str
    corners: Corners
    line: int | None


@dataclass
class Marked:
    """What the label files say of one picture.

    names: what may name the picture, the first that exists counts: a path, or a bare file name
    size: (columns, rows) the label file believes; None: it does not say
    relative: corners are shares of the size, not pixels
    """

    source: Path
    line: int | None
    names: tuple[str, ...]
    boxes: list[MarkedBox] = field(default_factory=list)
    size: tuple[int, int] | None = None
    relative: bool = False
    patient: str = ""
    split: str = ""
    image_uid: str = ""  #: SOP Instance UID, which then names the picture


class _Refused(Exception):
    """One entry cannot be read; line and reason."""

    def __init__(self, line: int | None, says: str) -> None:
        self.line, self.says = line, says
        super().__init__(says)


def _number(text: object, what: str, line: int | None) -> float:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise _Refused(line, f"{what} is {str(text)[:40]!r}, not a number") from None


# LabelImg


@dataclass
class _Element:
    tag: str
    line: int
    text: str = ""
    children: list["_Element"] = field(default_factory=list)

    def child(self, tag: str) -> "_Element | None":
        return next((c for c in self.children if c.tag == tag), None)

    def said(self, *path: str) -> str:
        here: _Element | None = self
        for tag in path:
            here = here.child(tag) if here else None
        return here.text.strip() if here else ""


def _element_tree(data: bytes) -> _Element:
    """The annotation with its lines. Raises _Refused for what is none, no XML, or declares entities."""
    parser = expat.ParserCreate()
    open_: list[_Element] = [_Element("", 0)]

    def start(tag: str, _: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentLineNumber)
        open_[-1].children.append(element)
        open_.append(element)

    def text(data: str) -> None:
        open_[-1].text += data

    def entity(*_: object) -> None:
        raise _Refused(parser.CurrentLineNumber, "declares an entity, which labels have no use for")

    parser.StartElementHandler, parser.EndElementHandler = start, lambda _: open_.pop()
    parser.CharacterDataHandler, parser.EntityDeclHandler = text, entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _Refused(error.lineno, f"is no XML: {expat.ErrorString(error.code)}") from error
    root = open_[0].children[0]
    if root.tag != "annotation":
        raise _Refused(root.line, f"is no LabelImg file: it begins with <{root.tag}>")
    return root


def read_labelimg(folder: Path, problems: list[Problem]) -> Iterator[Marked]:
    """One XML a picture, as LabelImg saves it (Pascal VOC). Corners are taken as they stand."""
    for path in sorted(folder.rglob("*.xml")):
        name = str(path.relative_to(folder))
        try:
            root = _element_tree(path.read_bytes())
            marked = Marked(path, root.line, (str(path.with_suffix("")), root.said("filename"), path.stem))
            sides = [root.said("size", side) for side in ("width", "height")]
            if all(side.isdigit() and int(side) for side in sides):
                marked.size = int(sides[0]), int(sides[1])
        except _Refused as refused:
            problems.append(Problem(name, refused.line, refused.says))
            continue
        for one in root.children:
            if one.tag != "object":
                continue
            try:
                corners = [
                    _number(one.said("bndbox", side), side, one.line)
                    for side in ("xmin", "ymin", "xmax", "ymax")
                ]
            except _Refused as refused:
                problems.append(Problem(name, refused.line, refused.says))
                continue
            marked.boxes.append(
                MarkedBox(one.said("name"), (corners[0], corners[1], corners[2], corners[3]), one.line)
            )
        yield marked


# YOLO


def read_yolo(folder: Path, problems: list[Problem]) -> Iterator[Marked]:
    """One text file a picture, "class column row width height" a line in shares of the picture; classes.txt.

    An empty file is a picture without a fracture. Pictures lie beside the text files, or in `images` where
    these lie in `labels`.
    """
    names = (folder / CLASSES_TXT).read_text("utf-8-sig").split("\n")
    names = [name.strip() for name in names if name.strip()]
    for path in sorted(folder.rglob("*.txt")):
        if path.name == CLASSES_TXT:
            continue
        here = path.relative_to(folder)
        aside = Path(*("images" if part == "labels" else part for part in here.parts))
        stems = (str(path.with_suffix("")), str((folder / aside).with_suffix("")), path.stem)
        marked = Marked(path, None, stems, relative=True)
        for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), 1):
            if not line.strip():
                continue
            try:
                marked.boxes.append(_yolo_box(line.split(), names, number))
            except _Refused as refused:
                problems.append(Problem(str(here), refused.line, refused.says))
        yield marked


def _yolo_box(parts: list[str], names: list[str], line: int) -> MarkedBox:
    if len(parts) != 5:
        raise _Refused(line, f"has {len(parts)} values; it needs class, column, row, width, height")
    if not parts[0].isdigit() or int(parts[0]) >= len(names):
        raise _Refused(line, f"class {parts[0]} is not in {CLASSES_TXT}, which has {len(names)} classes")
    x, y, w, h = (_number(v, "a value", line) for v in parts[1:])
    return MarkedBox(names[int(parts[0])], (x - w / 2, y - h / 2, x + w / 2, y + h / 2), line)


# COCO


def coco_files(folder: Path) -> list[Path]:
    """The JSON files at the top, and in `annotations`, that are COCO's."""
    found = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    return [path for path in found if b'"annotations"' in path.read_bytes()]


def read_coco(folder: Path, problems: list[Problem]) -> Iterator[Marked]:
    """COCO's instances: images, annotations with [column, row, width, height], categories.

    JSON has no lines to name; the place is the entry's id. Annotations marked iscrowd are refused.
    """
    for path in coco_files(folder):
        name = str(path.relative_to(folder))
        try:
            content = json.loads(path.read_text("utf-8-sig"))
            images = {image["id"]: _coco_image(path, image) for image in content["images"]}
            categories = {c["id"]: str(c["name"]) for c in content["categories"]}
            annotations = content["annotations"]
        except (ValueError, KeyError, TypeError) as error:
            problems.append(Problem(name, None, f"is no COCO file ({type(error).__name__}: {error})"))
            continue
        if len(images) < len(content["images"]):
            problems.append(Problem(name, None, "gives the same id to two images"))
        for at, one in enumerate(annotations):
            try:
                box = _coco_box(one, f"annotation {one.get('id', at)}", images, categories)
                images[one["image_id"]].boxes.append(box)
            except _Refused as refused:
                problems.append(Problem(name, refused.line, refused.says))
        yield from images.values()


def _coco_box(
    one: dict[str, Any], what: str, images: dict[Any, Marked], categories: dict[Any, str]
) -> MarkedBox:
    if one.get("iscrowd"):
        raise _Refused(None, f"{what} is a crowd; give each hip its box")
    if one.get("image_id") not in images:
        raise _Refused(None, f"{what} names the image {one.get('image_id')!r}, which is not there")
    box = one.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise _Refused(None, f"{what} has no bbox of four numbers")
    x, y, w, h = (_number(v, f"{what}: a number of bbox", None) for v in box)
    category = categories.get(one.get("category_id"), f"category {one.get('category_id')}")
    return MarkedBox(category, (x, y, x + w, y + h), None)


def _coco_image(path: Path, image: dict[str, Any]) -> Marked:
    name = str(image["file_name"])
    size = (int(image["width"]), int(image["height"])) if image.get("width") and image.get("height") else None
    marked = Marked(path, None, (str(path.parent / name), name, Path(name).name), size=size)
    marked.patient = str(image.get("patient_id", ""))
    return marked


# CSV


def csv_rows(
    path: Path, needed: tuple[str, ...], problems: list[Problem]
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, values by column, stripped) of a CSV with comma or semicolon, UTF-8."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        problems.append(Problem(path.name, None, "is not UTF-8; save it as CSV UTF-8"))
        return
    header = text.partition("\n")[0]
    reader = csv.reader(
        text.splitlines(), delimiter=";" if header.count(";") > header.count(",") else ",", strict=True
    )
    columns = [c.strip() for c in next(reader, [])]
    missing = [c for c in needed if c not in columns]
    if missing:
        problems.append(Problem(path.name, 1, f"lacks the column {', '.join(missing)}"))
        return
    for values in reader:
        if not any(v.strip() for v in values):
            continue
        if len(values) != len(columns):
            says = f"has {len(values)} values, the header {len(columns)}"
            problems.append(Problem(path.name, reader.line_num, says))
            continue
        yield reader.line_num, {c: v.strip() for c, v in zip(columns, values, strict=True)}


def read_label_csv(folder: Path, problems: list[Problem]) -> Iterator[Marked]:
    """labels.csv: a row a box with file, class, x0, y0, x1, y1 in stored pixels; class none: no fracture.

    `file` is a path inside the folder; in its place may stand a column `image_uid`, the SOP Instance UID.
    Optional columns patient and split.
    """
    path = folder / LABELS_CSV
    seen: dict[str, Marked] = {}
    normal: dict[str, int] = {}
    for line, row in csv_rows(path, ("class", *CSV_CORNERS), problems):
        name, class_name = row.get("file") or row.get("image_uid", ""), row["class"]
        if not name:
            problems.append(Problem(LABELS_CSV, line, "names no film: fill in file or image_uid"))
            continue
        uid = "" if row.get("file") else name
        marked = seen.setdefault(name, Marked(path, line, (str(folder / name), name), image_uid=uid))
        for column in ("patient", "split"):
            said, before = row.get(column, ""), getattr(marked, column)
            if marked.line != line and said != before:
                says = f"says {column} {said!r} of a file of which line {marked.line} says {before!r}"
                problems.append(Problem(LABELS_CSV, line, says))
            setattr(marked, column, before or said)
        if class_name == NO_FRACTURE:
            if any(row[c] for c in CSV_CORNERS):
                problems.append(Problem(LABELS_CSV, line, f"class {NO_FRACTURE} has a box"))
            if name in normal:
                problems.append(Problem(LABELS_CSV, line, f"says again what line {normal[name]} says"))
            normal[name] = line
            continue
        try:
            corners = [_number(row[c], c, line) for c in CSV_CORNERS]
        except _Refused as refused:
            problems.append(Problem(LABELS_CSV, refused.line, refused.says))
            continue
        box = MarkedBox(class_name, (corners[0], corners[1], corners[2], corners[3]), line)
        marked.boxes.append(box)
    for name, line in normal.items():
        if seen[name].boxes:
            problems.append(Problem(LABELS_CSV, line, f"class {NO_FRACTURE} beside a box of the same film"))
    yield from seen.values()
