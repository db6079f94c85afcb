"""Reading pools and varying pictures: boxes stay on what they mark, one seed gives one picture."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from workers.training import data
from workers.training.augment import (
    affine_matrix,
    cut_square,
    flip,
    join_four,
    keep_visible,
    mirrored_classes,
    move,
    vary,
    warp_boxes,
)
from workers.training.data import EpochPlan, Shelf, epoch_order, hip_centre, load_letterboxed, load_picture
from workers.training.folders import read_pool
from workers.training.picture import Picture
from workers.training.recipes import RECIPES, Augmentation, recipe_named
from workers.training.samples import DataError, pixels_of

NAMES = ("VF", "DF", "SF", "UF")
PHANTOM = RECIPES["phantom-short"].augmentation


def write_pool(folder, count, rows=80, columns=64, first=None):
    """Dark pictures, four of five with a bright rectangle that is the box; with `first` they are numbered."""
    folder.mkdir(exist_ok=True)
    lines = []
    rng = np.random.default_rng(5)
    for i in range(count):
        name = (*NAMES, "none")[i % 5]
        pixels = np.full((rows, columns), 30, np.uint8)
        boxes = []
        if name != "none":
            x, y = int(rng.integers(4, columns - 30)), int(rng.integers(4, rows - 34))
            pixels[y : y + 28, x : x + 20] = 220
            boxes = [[x, y, x + 20, y + 28]]
        Image.fromarray(pixels).save(folder / f"{i}.png")
        record = {"file": f"{i}.png", "class": name, "boxes": boxes, "seed": 7}
        lines.append(json.dumps(record if first is None else {**record, "index": first + i}) + "\n")
    (folder / "labels.jsonl").write_text("".join(lines))
    return folder


def bright_box(pixels):
    rows, columns = np.nonzero(pixels > 125)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_pool_is_read_in_order_and_may_grow(tmp_path):
    pool = write_pool(tmp_path / "pool", 5)
    samples = read_pool(pool, NAMES)
    assert [s.labels.tolist() for s in samples] == [[0], [1], [2], [3], []]
    assert samples[4].boxes.shape == (0, 4)
    with (pool / "labels.jsonl").open("a") as file:
        file.write('{"file": "5.png", "class": "no')  # still being written
    assert len(read_pool(pool, NAMES)) == 5


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("", "JSONDecodeError"),
        ('{"class": "VF", "boxes": [[1, 1, 2, 2]]}', "file"),
        ('{"file": "a.png", "class": "XX", "boxes": [[1, 1, 2, 2]]}', "ValueError"),
        ('{"file": "a.png", "class": "VF", "boxes": []}', "0 boxes"),
        ('{"file": "a.png", "class": "none", "boxes": [[1, 1, 2, 2]]}', "1 boxes"),
        ('{"file": "a.png", "class": "VF", "boxes": [[5, 1, 2, 2]]}', "without area"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, word):
    (tmp_path / "labels.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=rf"labels.jsonl:1.*{word}"):
        read_pool(tmp_path, NAMES)


def test_a_folder_without_labels_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no labels"):
        read_pool(tmp_path, NAMES)


def test_boxes_follow_the_stretch(tmp_path):
    sample = read_pool(write_pool(tmp_path / "pool", 1), NAMES)[0]
    picture = load_picture(sample, 128)
    assert picture.pixels.shape == (128, 128)
    np.testing.assert_allclose(picture.boxes[0], bright_box(picture.pixels), atol=1.01)


def test_a_letterboxed_picture_keeps_its_shape(tmp_path):
    sample = read_pool(write_pool(tmp_path / "pool", 1), NAMES)[0]  # 64 x 80
    picture = load_letterboxed(sample, 160)
    assert picture.pixels.shape == (160, 160)
    assert (picture.pixels[:, 128:] == 114).all()
    np.testing.assert_allclose(picture.boxes[0], 2 * sample.boxes[0])
    np.testing.assert_allclose(picture.boxes[0], bright_box(picture.pixels), atol=1.01)


def test_a_shelf_gives_the_same_pictures_and_no_more_than_fit(tmp_path, monkeypatch):
    samples = read_pool(write_pool(tmp_path / "pool", 4), NAMES)
    plain = [load_picture(sample, 64) for sample in samples]
    read = []
    monkeypatch.setattr(data, "pixels_of", lambda path: read.append(path.name) or pixels_of(path))
    shelf = Shelf(3 * 64 * 64)
    for _ in range(2):
        for sample, picture in zip(samples, plain, strict=True):
            kept = shelf.picture(sample, 64)
            np.testing.assert_array_equal(kept.pixels, picture.pixels)
            np.testing.assert_array_equal(kept.boxes, picture.boxes)
    assert read == ["0.png", "1.png", "2.png", "3.png", "3.png"], "three fit"
    assert shelf.picture(samples[0], 32).pixels.shape == (32, 32)
    assert read[-1] == "0.png"
    plan = EpochPlan(samples, RECIPES["bjj2025"], 1, 0, 4, 64, False)
    one, other = (next(iter(replace(plan, shelf=s).batches())) for s in (None, Shelf()))
    assert torch.equal(one.pixels, other.pixels)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(one.truths, other.truths, strict=True))


def square(size=96):
    pixels = np.zeros((size, size), np.uint8)
    pixels[30:60, 20:70] = 255
    return Picture(pixels, np.array([[20, 30, 70, 60]], np.float32), np.array([2]))


def test_flipping_twice_changes_nothing():
    once = flip(square())
    np.testing.assert_allclose(once.boxes[0], bright_box(once.pixels))
    twice = flip(once)
    np.testing.assert_array_equal(twice.pixels, square().pixels)
    np.testing.assert_array_equal(twice.boxes, square().boxes)


def test_a_mirror_keeps_left_and_right_true():
    """The class that names a side changes it, as the hip itself does."""
    names = ("hip-L", "hip-R", "VF", "other-L")
    mirrored = mirrored_classes(names)
    assert mirrored.tolist() == [1, 0, 2, 3]
    picture = square()._replace(
        boxes=np.array([[70, 30, 90, 60], [5, 30, 25, 60], [40, 40, 50, 50]], np.float32),
        labels=np.array([0, 1, 2]),  # a film: the patient's left is on the right
    )
    once = flip(picture, mirrored)
    columns = {names[k]: box[0] for k, box in zip(once.labels, once.boxes, strict=True)}
    assert columns == {"hip-R": 96 - 90, "hip-L": 96 - 25, "VF": 96 - 50}
    assert flip(once, mirrored).labels.tolist() == [0, 1, 2]
    a = Augmentation(flip=1.0)
    varied = vary([picture], a, 96, np.random.default_rng(1), mirrored=mirrored)
    assert varied.labels.tolist() == once.labels.tolist()
    assert mirrored_classes(NAMES).tolist() == [0, 1, 2, 3], "no fracture class names a side"


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_scale_and_shift(seed):
    a = Augmentation(scale=(0.6, 1.2), shift=0.1)
    moved = move(square(), a, 96, np.random.default_rng(seed))
    np.testing.assert_allclose(moved.boxes[0], bright_box(moved.pixels), atol=1.01)


def test_a_map_and_its_inverse_bring_boxes_back():
    matrix = affine_matrix(Augmentation(scale=(0.5, 2), shift=0.2), 96, np.random.default_rng(3), 48)
    there = warp_boxes(square().boxes, matrix)
    np.testing.assert_allclose(warp_boxes(there, np.linalg.inv(matrix)), square().boxes, atol=1e-3)


def test_turned_boxes_hold_the_ellipse_or_the_corners():
    angle = np.deg2rad(45)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    box = np.array([[-10, -10, 10, 10]], np.float32)
    np.testing.assert_allclose(warp_boxes(box, turn), box, atol=1e-4)  # a circle stays one
    np.testing.assert_allclose(warp_boxes(box, turn, corners=True), box * np.sqrt(2), atol=1e-4)


def test_slivers_and_boxes_outside_are_dropped():
    boxes = np.array([[-50, 0, -1, 10], [-95, 0, 5, 40], [10, 10, 30, 30], [5, 5, 6, 50]], np.float32)
    kept, labels = keep_visible(boxes, np.arange(4), 96)
    assert labels.tolist() == [2]
    assert kept.tolist() == [[10, 10, 30, 30]]
    empty, none = keep_visible(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 96)
    assert empty.shape == (0, 4)
    assert none.shape == (0,)


def test_a_mosaic_keeps_the_pictures_in_their_quarters():
    joined = join_four([square()] * 4, 96, np.random.default_rng(1))
    assert joined.pixels.shape == (192, 192)
    for box in joined.boxes:
        column, row = ((box[:2] + box[2:]) / 2).astype(int)
        assert joined.pixels[row, column] == 255


@pytest.mark.parametrize("name", RECIPES)
def test_one_seed_gives_one_picture(name):
    a = RECIPES[name].augmentation
    one, two, other = (vary([square()] * 5, a, 96, np.random.default_rng(s)) for s in (4, 4, 5))
    np.testing.assert_array_equal(one.pixels, two.pixels)
    np.testing.assert_array_equal(one.boxes, two.boxes)
    assert (one.pixels != other.pixels).any()


def test_the_last_part_of_a_run_has_no_mosaic():
    plain = vary([square()] * 5, RECIPES["bjj2025"].augmentation, 96, np.random.default_rng(0), plain=True)
    assert len(plain.boxes) == 1
    np.testing.assert_allclose(plain.boxes[0, 2:] - plain.boxes[0, :2], [50, 30])


def test_an_epoch_shows_everything_once_before_anything_twice():
    order = epoch_order(10, 25, seed=1, epoch=2)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert len(order) == 25
    assert (epoch_order(10, 25, 1, 2) == order).all()
    assert (epoch_order(10, 25, 1, 3) != order).any()


def test_batches_are_the_same_from_any_start_and_in_any_share(tmp_path):
    samples = read_pool(write_pool(tmp_path / "pool", 10), NAMES)
    recipe = RECIPES["phantom-short"]

    def plan(rank=0, world=1):
        return EpochPlan(samples, recipe, 1, 0, 32, 64, False, rank, world)

    whole = list(plan().batches())
    assert [len(b.truths) for b in whole] == [8, 8, 8, 8]
    assert whole[0].pixels.shape == (8, 3, 64, 64)
    late = list(plan().batches(16))
    assert torch.equal(late[0].pixels, whole[2].pixels)
    shares = [next(iter(plan(rank, 2).batches())) for rank in (0, 1)]
    first_sixteen = torch.cat([whole[0].pixels, whole[1].pixels])
    assert torch.equal(shares[0].pixels, first_sixteen[0::2])
    assert torch.equal(shares[1].pixels, first_sixteen[1::2])


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(Exception, match="bjj2025"):
        recipe_named("yolo")


def test_the_published_recipe_has_the_published_numbers():
    recipe = recipe_named("bjj2025")
    assert recipe.lr_per_image * recipe.batch == pytest.approx(0.01)
    assert (recipe.input_size, recipe.batch, recipe.epochs, recipe.warmup_epochs) == (1024, 64, 430, 5)
    assert (recipe.momentum, recipe.weight_decay, recipe.min_lr_ratio, recipe.hold_epochs) == (
        0.9,
        5e-4,
        0.05,
        16,
    )


def test_squares_are_cut_about_the_hip_and_keep_their_boxes(tmp_path):
    sample = read_pool(write_pool(tmp_path / "pool", 1), NAMES)[0]
    assert hip_centre(sample, 128) is None
    points = {"head_centre": [16.0, 20.0], "greater_tip": [48.0, 60.0]}
    known = replace(sample, record={**sample.record, "key_points": points, "columns": 64, "rows": 80})
    np.testing.assert_allclose(hip_centre(known, 128), [64, 64])
    for seed in range(4):
        cut = cut_square(square(), np.array([45.0, 45.0]), 64, np.random.default_rng(seed))
        assert cut.pixels.shape == (64, 64)
        np.testing.assert_allclose(cut.boxes[0], bright_box(cut.pixels))
    corner = cut_square(square(), np.array([96.0, 96.0]), 32, np.random.default_rng(0))
    assert len(corner.boxes) == 0  # too little of it is left
