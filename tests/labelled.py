"""The same few pictures with labels in each format; `write` gives the folder."""

import json

import numpy as np
from PIL import Image

from tests.factories import make_radiograph, save

NAMES = ("VF", "DF", "SF", "UF")
COLUMNS, ROWS = 64, 80
#: picture -> (class, box) of each fracture in it
TRUTH = {
    "a": [("VF", (10, 12, 30, 40))],
    "b": [("UF", (4, 8, 24, 28)), ("DF", (36, 10, 60, 50))],
    "c": [],
}


def pixels(name):
    picture = np.random.default_rng(ord(name[0])).integers(20, 60, (ROWS, COLUMNS)).astype(np.uint8)
    for _, (x0, y0, x1, y1) in TRUTH.get(name, []):
        picture[y0:y1, x0:x1] = 220
    return picture


def voc(name, boxes, *, filename=None, size=(COLUMNS, ROWS)):
    """An XML as LabelImg lays it out, two lines of each object before its box."""
    objects = "".join(
        f"\t<object>\n\t\t<name>{k}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{b[0]}</xmin>\n\t\t\t<ymin>{b[1]}</ymin>\n"
        f"\t\t\t<xmax>{b[2]}</xmax>\n\t\t\t<ymax>{b[3]}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for k, b in boxes
    )
    return (
        f"<annotation>\n\t<folder>films</folder>\n\t<filename>{filename or name + '.png'}</filename>\n"
        f"\t<path>C:\\films\\{name}.png</path>\n\t<source>\n\t\t<database>Unknown</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n\t\t<depth>1</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def pictures(folder, names=TRUTH):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(pixels(name)).save(folder / f"{name}.png")


def labelimg(folder):
    pictures(folder)
    for name, boxes in TRUTH.items():
        (folder / f"{name}.xml").write_text(voc(name, boxes))


def labelimg_apart(folder):
    """The layout of Pascal VOC itself."""
    pictures(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for name, boxes in TRUTH.items():
        (folder / "Annotations" / f"{name}.xml").write_text(voc(name, boxes))


def yolo(folder):
    pictures(folder / "images")
    (folder / "labels").mkdir()
    order = ("UF", "SF", "DF", "VF")
    (folder / "classes.txt").write_text("\n".join(order) + "\n")
    for name, boxes in TRUTH.items():
        lines = [
            f"{order.index(k)} {(b[0] + b[2]) / 2 / COLUMNS:.6f} {(b[1] + b[3]) / 2 / ROWS:.6f} "
            f"{(b[2] - b[0]) / COLUMNS:.6f} {(b[3] - b[1]) / ROWS:.6f}\n"
            for k, b in boxes
        ]
        (folder / "labels" / f"{name}.txt").write_text("".join(lines))


def coco(folder):
    pictures(folder)
    ids = {name: 7 + i for i, name in enumerate(TRUTH)}
    content = {
        "images": [
            {"id": i, "file_name": f"{n}.png", "width": COLUMNS, "height": ROWS} for n, i in ids.items()
        ],
        "categories": [{"id": 3 + i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {"id": 1, "image_id": ids[name], "category_id": 3 + NAMES.index(k),
             "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]}
            for name, boxes in TRUTH.items() for k, b in boxes
        ],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(content))


def csv(folder):
    """DICOM films: their own size, the same boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,class,x0,y0,x1,y1"]
    for name, boxes in TRUTH.items():
        ds = make_radiograph(Rows=ROWS, Columns=COLUMNS, seed=ord(name), PatientID=f"ID-{name}")
        save(ds, folder / f"{name}.dcm")
        lines += [f"{name}.dcm,{k},{','.join(map(str, b))}" for k, b in boxes] or [f"{name}.dcm,none,,,,"]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


FORMATS = {f.__name__: f for f in (labelimg, labelimg_apart, yolo, coco, csv)}
