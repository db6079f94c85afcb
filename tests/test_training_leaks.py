"""The leak check hides the fracture, and nothing but the fracture; then a detector must be at chance."""

import json

import numpy as np
import pytest
from PIL import Image

from hipnode.findings import Detections
from workers.training.folders import read_pool
from workers.training.leaks import boxes_to_hide, leak_check, paint
from workers.training.samples import DataError, Sample

NAMES = ("VF", "DF", "SF", "UF")
ROWS, COLUMNS = 160, 128
#: of a bone in its own frame, millimetres: x lateral, y down
HEAD, GREATER, LESSER, BREAK = (0.0, 0.0), (60.0, 10.0), (25.0, 70.0), (30.0, 35.0)


class Bone:
    """Where a toy femur lies: scale, turn and side are drawn."""

    def __init__(self, rng):
        self.scale, self.turn = rng.uniform(0.5, 0.7), rng.uniform(-0.2, 0.2)
        self.mirror = rng.choice([-1, 1])
        self.origin = np.array([64 - 15 * self.mirror, 50]) + rng.uniform(-8, 8, 2)

    def at(self, point):
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        x, y = point[0] * self.mirror, point[1]
        return self.origin + self.scale * np.array([cos * x - sin * y, sin * x + cos * y])

    def box(self, size=24.0):
        middle, half = self.at(BREAK), size * self.scale / 2
        return [*(middle - half), *(middle + half)]


def toy_pool(folder, count=60, leak=False):
    """Gray pictures; two of three have a bright spot in the box, and with `leak` a bright corner as well."""
    folder.mkdir()
    rng = np.random.default_rng(11)
    lines = []
    for i in range(count):
        name = (*NAMES, "none", "none")[i % 6]
        bone = Bone(rng)
        pixels = rng.integers(60, 120, (ROWS, COLUMNS)).astype(np.uint8)
        if name != "none":
            column, row = bone.at(BREAK).astype(int)
            pixels[row - 2 : row + 3, column - 2 : column + 3] = 240
            if leak:
                pixels[0, 0] = 250
        points = {"head_centre": HEAD, "greater_tip": GREATER, "lesser": LESSER}
        record = {
            "file": f"{i}.png",
            "class": name,
            "boxes": [] if name == "none" else [bone.box()],
            "key_points": {key: list(bone.at(point)) for key, point in points.items()},
            "magnification": 1.2,
            "pixel_mm": 1.2 / bone.scale,
        }
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(json.dumps(record) + "\n")
    (folder / "labels.jsonl").write_text("".join(lines))
    return read_pool(folder, NAMES)


def brightest(pictures):
    """A detector that scores the brightest pixel, and by a hair the mean of a part without anything."""
    return [
        Detections(
            np.array([[0, 0, 9, 9]], np.float32),
            np.array([p.max() / 256 + p[-20:].mean() / 1e5], np.float32),
            np.array([0], np.int64),
        )
        for p in pictures
    ]


def test_with_the_fracture_hidden_a_fair_pool_is_chance(tmp_path):
    numbers = leak_check(toy_pool(tmp_path / "pool"), brightest, NAMES)
    assert (numbers["pictures"], numbers["fractured"]) == (60, 40)
    assert numbers["seen"]["auc"] == 1.0
    assert numbers["hidden"]["low"] <= 0.5 <= numbers["hidden"]["high"]
    assert abs(numbers["hidden"]["auc"] - 0.5) < 0.2
    assert set(numbers["hidden"]["classes"]) == set(NAMES)


def test_what_gives_the_class_away_beside_the_fracture_is_seen(tmp_path):
    numbers = leak_check(toy_pool(tmp_path / "pool", leak=True), brightest, NAMES)
    assert numbers["hidden"]["auc"] == 1.0
    assert numbers["hidden"]["low"] > 0.5


def test_a_borrowed_box_lies_on_the_same_place_of_the_bone(tmp_path):
    samples = toy_pool(tmp_path / "pool")
    rng = np.random.default_rng(11)
    boxes, made_for = boxes_to_hide(samples, 3)
    own = [len(sample.boxes) > 0 for sample in samples]
    assert made_for[own].tolist() == [int(s.labels[0]) for s in samples if len(s.boxes)]
    for sample, hidden in zip(samples, boxes, strict=True):
        bone = Bone(rng)
        rng.integers(60, 120, (ROWS, COLUMNS))
        assert hidden == pytest.approx(bone.box(), abs=1e-3)
        if len(sample.boxes):
            assert hidden == pytest.approx(sample.boxes[0], abs=1e-3)


def test_boxes_are_borrowed_evenly_and_one_seed_gives_the_same(tmp_path):
    samples = toy_pool(tmp_path / "pool")
    lender = samples[0]
    few = [lender, *(s for s in samples if not len(s.boxes))]
    boxes, made_for = boxes_to_hide(few, 3)
    assert len(boxes) == len(few), "one lender serves all"
    assert set(made_for) == {lender.labels[0]}
    assert np.array_equal(boxes_to_hide(samples, 3)[0], boxes_to_hide(samples, 3)[0])
    assert not np.array_equal(boxes_to_hide(samples, 3)[0], boxes_to_hide(samples, 4)[0])


def test_paint_covers_the_box_and_leaves_the_rest(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 40)).astype(np.uint8)
    painted = paint(pixels, np.array([10.0, 20.0, 30.0, 30.0]))
    assert (painted[20:30, 10:30] == round(float(np.median(pixels)))).all()
    outside = np.ones_like(pixels, bool)
    outside[19:31, 9:31] = False  # a twentieth more on each side
    assert np.array_equal(painted[outside], pixels[outside])
    assert np.array_equal(paint(pixels, np.array([-90.0, -90.0, -50.0, -50.0])), pixels)


def test_a_pool_that_cannot_be_checked_says_why(tmp_path):
    samples = toy_pool(tmp_path / "pool")
    with pytest.raises(DataError, match="No picture of the pool has a fracture"):
        boxes_to_hide([s for s in samples if not len(s.boxes)], 0)
    bare = Sample(samples[4].path, samples[4].boxes, samples[4].labels, {})
    with pytest.raises(DataError, match="no key points"):
        boxes_to_hide([samples[0], bare], 0)
