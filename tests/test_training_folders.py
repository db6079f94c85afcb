"""Labels of every format become the same samples; what is wrong is told at once, with file and line."""

import json

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from tests import labelled
from tests.factories import make_radiograph, save
from tests.labelled import FORMATS, NAMES, TRUTH, voc
from workers.training.data import develop, load_picture
from workers.training.folders import format_of, read_folder, read_pool
from workers.training.samples import DataError, pixels_of
from workers.training.splits import (
    LeakingSplit,
    data_hash,
    read_parts,
    refuse_leaks,
    split_by_patient,
)


def told(folder, **more):
    with pytest.raises(DataError) as caught:
        read_folder(folder, NAMES, **more)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_samples(tmp_path, kind):
    FORMATS[kind](tmp_path)
    samples = {s.path.stem: s for s in read_folder(tmp_path, NAMES)}
    assert set(samples) == set(TRUTH)
    for name, boxes in TRUTH.items():
        assert sorted(NAMES[k] for k in samples[name].labels) == sorted(k for k, _ in boxes)
        by_class = {NAMES[k]: b for k, b in zip(samples[name].labels, samples[name].boxes, strict=True)}
        for k, box in boxes:
            np.testing.assert_allclose(by_class[k], box, atol=1e-3)
        assert samples[name].boxes.shape == (len(boxes), 4)
        assert len(samples[name].sha256) == 64


def test_films_have_the_patient_of_their_header_and_the_pixels_of_the_node(tmp_path):
    labelled.csv(tmp_path)
    samples = read_folder(tmp_path, NAMES)
    assert [s.patient for s in samples] == ["ID-a", "ID-b", "ID-c"]
    assert samples[0].owner == "ID-a"
    developed = develop(samples, tmp_path / "out")
    assert [s.path.suffix for s in developed] == [".png"] * 3
    np.testing.assert_array_equal(pixels_of(developed[1].path), pixels_of(samples[1].path))
    assert load_picture(developed[1], 64).pixels.shape == (64, 64)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    develop(samples, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before, "decoded once"


def test_films_that_cannot_be_decoded_are_all_named(tmp_path):
    labelled.csv(tmp_path)
    for name in ("a", "c"):
        broken = make_radiograph(Rows=labelled.ROWS, Columns=labelled.COLUMNS, seed=ord(name))
        del broken.PixelData
        save(broken, tmp_path / f"{name}.dcm")
    with pytest.raises(DataError, match=r"(?s)a.dcm: .*c.dcm: "):
        develop(read_folder(tmp_path, NAMES), tmp_path / "out")


def test_a_folder_without_labels_or_with_two_kinds_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no labels; it needs labels\.jsonl"):
        format_of(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        format_of(tmp_path / "away")
    labelled.labelimg(tmp_path)
    labelled.coco(tmp_path)
    with pytest.raises(DataError, match="more than one format: COCO, LabelImg"):
        format_of(tmp_path)
    (tmp_path / "labels.jsonl").write_text("")
    assert format_of(tmp_path) == "pool", "a pool of phantoms may hold copies of its labels"


def test_everything_that_is_wrong_with_labelimg_files_is_told_at_once(tmp_path):
    labelled.labelimg(tmp_path)
    write = {
        "outside": voc("outside", [("VF", (10, 10, 70, 40))]),
        "inverted": voc("inverted", [("VF", (30, 10, 10, 40))]),
        "unknown": voc("unknown", [("df", (1, 1, 9, 9))]),
        "twice": voc("twice", [("SF", (1, 1, 9, 9)), ("SF", (1, 1, 9, 9))]),
        "small": voc("small", [("SF", (1, 1, 9, 9))], size=(32, 40)),
        "letters": voc("letters", [("SF", (1, 1, "x", 9))]),
    }
    labelled.pictures(tmp_path, write)
    for i, (name, text) in enumerate(write.items()):  # no two pictures alike
        Image.fromarray(labelled.pixels(name) + np.uint8(i)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(text)
    (tmp_path / "missing.xml").write_text(voc("missing", []))
    (tmp_path / "again.xml").write_text(voc("again", [], filename="a.png"))
    (tmp_path / "broken.xml").write_text("<annotation>\n<object>\n</annotation>")
    (tmp_path / "bomb.xml").write_text('<!DOCTYPE a [\n<!ENTITY b "c">]>\n<annotation>&b;</annotation>')
    Image.fromarray(labelled.pixels("a")).save(tmp_path / "copy.png")
    (tmp_path / "copy.xml").write_text(voc("copy", []))
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(tmp_path / "bare.png")
    Image.fromarray(np.full((80, 64), 3000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "deep.xml").write_text(voc("deep", []))
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    (tmp_path / "torn.xml").write_text(voc("torn", []))
    lines = told(tmp_path)
    for words in (
        "outside.xml:14: the box (10, 10, 70, 40) lies outside the picture of 64 x 80 pixels",
        "inverted.xml:14: the box (30, 10, 10, 40) is inverted or empty",
        "unknown.xml:14: unknown class 'df'; known are VF, DF, SF, UF",
        "twice.xml:26: the box (1, 1, 9, 9) stands there twice",
        "small.xml:1: is for 32 x 40 pixels, the picture has 64 x 80",
        "letters.xml:14: xmax is 'x', not a number",
        "missing.xml:1: the picture missing.png is not there",
        "again.xml:1: labels a.png, which a.xml:1 labels as well",
        "broken.xml:3: is no XML: mismatched tag",
        "bomb.xml:2: declares an entity, which labels have no use for",
        "copy.png: is the same picture as a.png",
        "deep.png: the picture has pixels of kind I;16, not 8 bits; export it again, or give DICOM",
        "torn.png: the picture cannot be read",
    ):
        assert words in lines
    assert "bare.png: has no label" in lines
    assert lines[-2].startswith(f"{tmp_path}: 1 pictures have no label: label them, or say with --unlabelled")
    assert len(lines) == 15


def test_a_picture_without_label_is_a_normal_one_only_where_that_is_said(tmp_path):
    labelled.labelimg(tmp_path)
    (tmp_path / "c.xml").unlink()
    assert told(tmp_path)[0] == "c.png: has no label"
    taken = read_folder(tmp_path, NAMES, "none")
    assert {s.path.name: len(s.boxes) for s in taken} == {"a.png": 1, "b.png": 2, "c.png": 0}
    assert {s.path.name for s in read_folder(tmp_path, NAMES, "skip")} == {"a.png", "b.png"}


def test_bad_lines_of_yolo_files_are_named(tmp_path):
    labelled.yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5\n9 .5 .5 .1 .1\n\n1 .5 x .1 .1\n1 .9 .5 .4 .1\n")
    lines = told(tmp_path)
    assert lines[0] == "labels/a.txt:1: has 3 values; it needs class, column, row, width, height"
    assert lines[1] == "labels/a.txt:2: class 9 is not in classes.txt, which has 4 classes"
    assert lines[2] == "labels/a.txt:4: a value is 'x', not a number"
    assert lines[3].startswith("labels/a.txt:5: the box (44.8, 36, 70.4, 44) lies outside")
    assert len(lines) == 4


def test_bad_entries_of_coco_are_named(tmp_path):
    labelled.coco(tmp_path)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "id": 8, "image_id": 99},
        {**first, "id": 9, "category_id": 50},
        {**first, "id": 10, "bbox": [1, 2]},
        {**first, "id": 11, "iscrowd": 1},
    ]
    path.write_text(json.dumps(content))
    assert sorted(told(tmp_path)) == [
        "instances.json: annotation 10 has no bbox of four numbers",
        "instances.json: annotation 11 is a crowd; give each hip its box",
        "instances.json: annotation 8 names the image 99, which is not there",
        "instances.json: unknown class 'category 50'; known are VF, DF, SF, UF",
    ]
    path.write_text('{"annotations": 3}')
    assert told(tmp_path)[0].startswith("instances.json: is no COCO file (KeyError")


def test_bad_rows_of_a_label_csv_are_named(tmp_path):
    labelled.csv(tmp_path)
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("a.dcm,none,,,,\nz.dcm,VF,1,1,9,9\nc.dcm,none,,,,\nb.dcm,UF,1,1,9\nc.dcm,none,1,,,\n")
    lines = told(tmp_path)
    assert "labels.csv:6: class none beside a box of the same film" in lines
    assert "labels.csv:7: the picture z.dcm is not there" in lines
    assert "labels.csv:8: says again what line 5 says" in lines
    assert "labels.csv:9: has 5 values, the header 6" in lines
    assert "labels.csv:10: class none has a box" in lines
    (tmp_path / "labels.csv").write_text("file;class\n")
    assert told(tmp_path)[0] == "labels.csv:1: lacks the column x0, y0, x1, y1"
    (tmp_path / "labels.csv").write_text("class,x0,y0,x1,y1\nVF,1,1,9,9\n")
    assert told(tmp_path)[0] == "labels.csv:2: names no film: fill in file or image_uid"


def test_films_are_found_by_uid_and_by_their_first_bytes(tmp_path):
    labelled.csv(tmp_path)
    uids = {name: str(dcmread(tmp_path / f"{name}.dcm").SOPInstanceUID) for name in TRUTH}
    rows = ["image_uid;class;x0;y0;x1;y1;patient"]
    for name, boxes in TRUTH.items():
        (tmp_path / f"{name}.dcm").rename(tmp_path / uids[name])  # the last number is no suffix
        rows += [f"{uids[name]};{k};{';'.join(map(str, b))};P-{name}" for k, b in boxes]
        rows += [] if boxes else [f"{uids[name]};none;;;;;P-{name}"]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    samples = {s.patient: s for s in read_folder(tmp_path, NAMES)}
    assert {p: len(s.boxes) for p, s in samples.items()} == {"P-a": 1, "P-b": 2, "P-c": 0}
    assert samples["P-a"].path.name == uids["a"]
    (tmp_path / "labels.csv").write_text(rows[0] + "\n1.2.3;none;;;;;P\n")
    assert told(tmp_path)[0] == "labels.csv:2: the picture 1.2.3 is not there"


def test_a_picture_that_viewers_turn_is_refused(tmp_path):
    labelled.labelimg(tmp_path)
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(labelled.pixels("a")).save(tmp_path / "a.png", exif=exif)
    assert told(tmp_path) == [
        "a.png: the picture is stored turned (EXIF orientation); save it upright, and label that"
    ]


def test_a_table_of_patients_must_name_each_picture_once(tmp_path):
    labelled.labelimg(tmp_path)
    (tmp_path / "patients.csv").write_text("file,patient\na.png,P1\na.png,P1\nz.png,P2\nb.png,\n")
    assert told(tmp_path) == [
        "patients.csv:3: names a.png again",
        "patients.csv:4: the picture z.png is not there",
        "patients.csv:5: names no patient",
    ]
    (tmp_path / "patients.csv").write_text("file,patient,split\na.png,P1,train\nb.png,P1,here\n")
    assert told(tmp_path) == ["patients.csv:3: split is none of train, validation, test"]
    (tmp_path / "patients.csv").write_text("file,patient\na.png,P1\nb.png,P1\n")
    assert told(tmp_path) == ["c.png: is not in patients.csv"]
    (tmp_path / "patients.csv").write_text("file,patient\na,P1\nb.png,P1\nc,P2\n")
    assert [s.owner for s in read_folder(tmp_path, NAMES)] == ["P1", "P1", "P2"]


def many(tmp_path, count=60):
    """Samples of 30 patients, two each."""
    return [
        labelled_sample(tmp_path, i, NAMES[(i // 2) % 5] if (i // 2) % 5 < 4 else None) for i in range(count)
    ]


def labelled_sample(folder, i, name):
    from workers.training.samples import Sample

    boxes = np.array([[1, 1, 9, 9]] if name else [], np.float32).reshape(-1, 4)
    labels = np.array([NAMES.index(name)] if name else [], np.int64)
    return Sample(folder / f"{i:03d}.png", boxes, labels, {}, f"P{i // 2}", sha256=f"{i:064d}")


def test_parts_are_drawn_by_patient_and_keep_the_mix(tmp_path):
    samples = many(tmp_path, 100)
    parts = split_by_patient(samples, NAMES, seed=4)
    refuse_leaks(parts)
    assert {part: len(s) for part, s in parts.items()} == {"train": 80, "validation": 10, "test": 10}
    for part in parts.values():
        counts = [sum(s.class_name(NAMES) == name for s in part) for name in (*NAMES, "none")]
        assert len(set(counts)) == 1, "stratified"
    names = {part: [s.path.name for s in theirs] for part, theirs in parts.items()}
    again = split_by_patient(samples[::-1], NAMES, seed=4)
    assert {part: [s.path.name for s in theirs] for part, theirs in again.items()} == names
    other = split_by_patient(samples, NAMES, seed=5)
    assert [s.path.name for s in other["test"]] != names["test"]


@pytest.mark.parametrize(
    ("patients", "expected"), [(0, (0, 0, 0)), (1, (1, 0, 0)), (3, (1, 1, 1)), (9, (7, 1, 1))]
)
def test_few_patients_are_parted_as_well_as_can_be(tmp_path, patients, expected):
    samples = [labelled_sample(tmp_path, 2 * i, "VF") for i in range(patients)]
    parts = split_by_patient(samples, NAMES, seed=1)
    assert tuple(len(parts[p]) for p in ("train", "validation", "test")) == expected


def test_leaking_parts_are_refused_with_the_patients(tmp_path):
    labelled.labelimg(tmp_path)
    table = tmp_path / "patients.csv"
    table.write_text("file,patient,split\na.png,P1,train\nb.png,P1,test\nc.png,P2,train\n")
    with pytest.raises(LeakingSplit, match=r"patient P1 is in train: a\.png; test: b\.png"):
        read_parts(tmp_path, NAMES, seed=1)
    table.write_text("file,patient,split\na.png,P1,train\nb.png,P1,train\nc.png,P2,test\n")
    parts = read_parts(tmp_path, NAMES, seed=1)
    assert {part: len(s) for part, s in parts.items()} == {"train": 2, "test": 1}
    table.write_text("file,patient,split\na.png,P1,train\nb.png,P1,\nc.png,P2,test\n")
    with pytest.raises(DataError, match=r"1 of 3 pictures have no split, the first is b\.png"):
        read_parts(tmp_path, NAMES, seed=1)


def test_the_same_film_in_two_folders_is_a_leak(tmp_path):
    labelled.labelimg(tmp_path / "train")
    labelled.labelimg(tmp_path / "val")
    (tmp_path / "val" / "c.png").unlink()
    (tmp_path / "val" / "c.xml").unlink()
    with pytest.raises(
        LeakingSplit, match=r"(?s)same picture is in train: a\.png; validation: a\.png.*b\.png"
    ):
        read_parts(tmp_path, NAMES, seed=1)


def test_folders_of_parts_tell_their_problems_together(tmp_path):
    for part, wrong in (("train", "x"), ("test", "y")):
        labelled.labelimg(tmp_path / part)
        (tmp_path / part / f"{wrong}.xml").write_text(voc(wrong, []))
    with pytest.raises(DataError, match=r"(?s)train:\nx\.xml:1.*test:\ny\.xml:1"):
        read_parts(tmp_path, NAMES, seed=1)


def test_a_pool_tells_all_bad_lines_and_knows_its_phantoms(tmp_path):
    good = {"class": "none", "boxes": [], "seed": 3}
    lines = [
        json.dumps({**good, "file": "a.png", "index": 4}),
        "{",
        json.dumps({**good, "file": "a.png", "class": "XX", "boxes": [[1, 1, 2, 2]]}),
        json.dumps({**good, "file": "a.png"}),
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        read_pool(tmp_path, NAMES)
    assert [p.line for p in caught.value.problems] == [2, 3, 4]
    assert "names a.png, as line 1 does" in str(caught.value)
    path.write_text(lines[0] + "\n")
    assert read_pool(tmp_path, NAMES)[0].owner == "phantom 3-4"


def test_the_hash_of_data_changes_with_boxes_and_not_with_order(tmp_path):
    labelled.labelimg(tmp_path)
    samples = read_folder(tmp_path, NAMES)
    assert data_hash(samples) == data_hash(samples[::-1])
    (tmp_path / "a.xml").write_text(voc("a", [("VF", (10, 12, 30, 41))]))
    assert data_hash(read_folder(tmp_path, NAMES)) != data_hash(samples)
