"""The labels of a pool in the formats that other tools read: COCO, YOLO, Pascal VOC.

All three are made from the records of labels.jsonl, so they can be written at any time and again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from workers.phantom import DOMAIN_GAP
from workers.phantom.dataset import LABELS_FILE, PoolError

Format = Literal["coco", "yolo", "voc"]
FORMATS: tuple[Format, ...] = ("coco", "yolo", "voc")
CLASS_NAMES = ("VF", "DF", "SF", "UF")
Record = dict[str, Any]


def read_records(folder: Path) -> list[Record]:
    """The records of a pool, in order. Raises PoolError with the file and line."""
    listing = folder / LABELS_FILE
    if not listing.is_file():
        raise PoolError(f"{folder} holds no {LABELS_FILE}")
    records = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            record["file"], record["class"], record["boxes"], record["rows"], record["columns"]
        except (ValueError, KeyError, TypeError) as error:
            raise PoolError(f"{listing}:{number} is no record of a phantom: {error}") from error
        records.append(record)
    return records


def write_labels(folder: Path, form: Format) -> list[Path]:
    """Write the labels of the pool in `folder`; gives the files.

    coco: coco.json; yolo: NAME.txt beside each picture and classes.txt; voc: NAME.xml beside each picture,
    as LabelImg writes it. Raises PoolError.
    """
    records = read_records(folder)
    try:
        return {"coco": _coco, "yolo": _yolo, "voc": _voc}[form](folder, records)
    except OSError as error:
        raise PoolError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def _coco(folder: Path, records: Sequence[Record]) -> list[Path]:
    """Boxes as (column, row, width, height) in pixels, categories from 1; hips and points are extras."""
    images: list[Record] = []
    annotations: list[Record] = []
    for number, record in enumerate(records, 1):
        images.append(
            {"id": number, "file_name": record["file"], "width": record["columns"], "height": record["rows"]}
        )
        for x0, y0, x1, y1 in record["boxes"]:
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number,
                    "category_id": CLASS_NAMES.index(record["class"]) + 1,
                    "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)], "area": round((x1 - x0) * (y1 - y0), 2),
                    "iscrowd": 0, "side": record.get("side"), "point": record.get("point"),
                    "visibility": record.get("visibility"), "ambiguous": record.get("ambiguous", []),
                }
            )  # fmt: skip
    categories = [
        {"id": k, "name": name, "supercategory": "hip fracture"} for k, name in enumerate(CLASS_NAMES, 1)
    ]
    whole = {
        "info": {"description": f"Synthetic phantoms, no patients. {DOMAIN_GAP}"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return [path]


def _yolo(folder: Path, records: Sequence[Record]) -> list[Path]:
    """One line a box: class index, centre and size as shares of width and height."""
    paths = [folder / "classes.txt"]
    paths[0].write_text("".join(f"{name}\n" for name in CLASS_NAMES), encoding="utf-8")
    for record in records:
        w, h = record["columns"], record["rows"]
        lines = [
            f"{CLASS_NAMES.index(record['class'])} {(x0 + x1) / 2 / w:.6f} {(y0 + y1) / 2 / h:.6f} "
            f"{(x1 - x0) / w:.6f} {(y1 - y0) / h:.6f}\n"
            for x0, y0, x1, y1 in record["boxes"]
        ]
        paths.append((folder / record["file"]).with_suffix(".txt"))
        paths[-1].write_text("".join(lines), encoding="utf-8")
    return paths


def _voc(folder: Path, records: Sequence[Record]) -> list[Path]:
    """Whole pixels, the first pixel being 1, as Pascal VOC counts."""
    paths = []
    for record in records:
        root = ElementTree.Element("annotation")
        _add(root, "folder", folder.name)
        _add(root, "filename", record["file"])
        size = ElementTree.SubElement(root, "size")
        for name, value in (("width", record["columns"]), ("height", record["rows"]), ("depth", 1)):
            _add(size, name, value)
        for x0, y0, x1, y1 in record["boxes"]:
            item = ElementTree.SubElement(root, "object")
            _add(item, "name", record["class"])
            _add(item, "truncated", 0)
            _add(item, "difficult", int(bool(record.get("ambiguous"))))
            box = ElementTree.SubElement(item, "bndbox")
            corners = (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1))
            for name, value in corners:
                _add(box, name, round(value))
        paths.append((folder / record["file"]).with_suffix(".xml"))
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(paths[-1], encoding="utf-8")
    return paths


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
