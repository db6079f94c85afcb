"""Scale-aware augmentation: what is moved takes its truth along, and nothing happens before its time."""

from collections import Counter

import numpy as np
import pytest

from workers.training import scale_aware
from workers.training.picture import Picture
from workers.training.scale_aware import POLICIES, Policy, vary_boxes

SIZE = 256
BOX = [100, 90, 160, 150]


def picture():
    """A noisy picture with a bright thing in its one box, left half of it brighter."""
    pixels = np.random.default_rng(3).integers(30, 40, (SIZE, SIZE)).astype(np.uint8)
    pixels[90:150, 100:160] = 200
    pixels[90:150, 100:130] = 250
    return Picture(pixels, np.array([BOX], np.float32), np.array([2]))


def only(monkeypatch, policy):
    monkeypatch.setattr(scale_aware, "POLICIES", (policy,))


def applied(seed=0, share=1.0):
    return vary_boxes(
        picture(), share, 9.0, np.random.default_rng(seed)
    )  # 9 / 3 and 9 / 13: nearly every box


def test_nothing_happens_at_the_beginning_of_a_run():
    for seed in range(20):
        same = vary_boxes(picture(), 0.0, 9.0, np.random.default_rng(seed))
        np.testing.assert_array_equal(same.pixels, picture().pixels)
        np.testing.assert_array_equal(same.boxes, picture().boxes)


def test_a_picture_without_boxes_stays(monkeypatch):
    bare = Picture(picture().pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for policy in POLICIES:
        only(monkeypatch, policy._replace(colour_chance=1.0, geometry_chance=1.0))
        same = vary_boxes(bare, 1.0, 0.3, np.random.default_rng(1))
        np.testing.assert_array_equal(same.pixels, bare.pixels)
        assert same.boxes.shape == (0, 4)


@pytest.mark.parametrize(("how", "amount", "step"), [("right", 48.0, (48, 0)), ("down", 96.0, (0, 96))])
def test_a_moved_box_leaves_a_copy_with_its_class(monkeypatch, how, amount, step):
    only(monkeypatch, Policy(None, 0, how, amount, 1.0))
    seen = set()
    for seed in range(12):
        moved = applied(seed)
        assert moved.labels.tolist() == [2, 2]
        offset = moved.boxes[1, :2] - moved.boxes[0, :2]
        sign = int(np.sign(offset.sum()))
        seen.add(sign)
        expected = np.array(BOX) + sign * np.array(step * 2)
        np.testing.assert_allclose(moved.boxes[1], expected, atol=6)  # 6: cut off at the upper edge
        column, row = ((moved.boxes[1, :2] + moved.boxes[1, 2:]) / 2).astype(int)
        assert moved.pixels[row, column] > 180, "the thing is in the middle of its new box"
    assert seen == {-1, 1}


def test_a_mirrored_box_keeps_its_place_and_a_turned_one_is_filled(monkeypatch):
    only(monkeypatch, Policy(None, 0, "mirror", 0.0, 1.0))
    mirrored = applied()
    np.testing.assert_array_equal(mirrored.boxes, picture().boxes)
    assert mirrored.pixels[120, 145] > 240 > 210 > mirrored.pixels[120, 128], (
        "the brighter half changed sides"
    )
    for how, amount in (("turn", 30.0), ("lean", 30.0)):
        only(monkeypatch, Policy(None, 0, how, amount, 1.0))
        turned = applied()
        assert (turned.pixels != picture().pixels).any()
        outside = np.ones((SIZE, SIZE), bool)
        outside[90:150, 100:160] = False
        np.testing.assert_array_equal(turned.pixels[outside], picture().pixels[outside])
        assert 190 <= turned.pixels[120, 135] <= 255


@pytest.mark.parametrize(("how", "sign"), [("darken", -1), ("lift", 0)])
def test_a_colour_step_is_strongest_in_the_box(monkeypatch, how, sign):
    only(monkeypatch, Policy(how, 1.0, "mirror", 0.0, 0.0))
    before, after = picture().pixels.astype(int), None
    for seed in range(30):
        after = applied(seed).pixels.astype(int)
        if (after != before).any():
            break
    change = after - before
    inside = abs(change[110:130, 120:140]).mean()
    far = abs(change[:20, :20]).mean()
    if sign:
        assert np.sign(change[120, 130]) == sign
        assert inside > 5 * far
    else:
        assert inside == 0, "what is bright stays"
        assert change.max() > 5, "what is dark beside it becomes brighter"


def test_softening_keeps_the_mean_and_takes_from_the_noise(monkeypatch):
    only(monkeypatch, Policy("soften", 1.0, "mirror", 0.0, 0.0))
    gray = np.random.default_rng(1).random((40, 40), np.float32)
    soft = scale_aware._recolour(gray, "soften")
    assert soft.mean() == pytest.approx(gray.mean(), abs=0.01)
    assert soft.std() < 0.8 * gray.std()


def test_small_boxes_are_coloured_more_often(monkeypatch):
    only(monkeypatch, Policy("darken", 1.0, "mirror", 0.0, 0.0))
    counts = Counter()
    for name, side in (("small", 16), ("large", 120)):
        box = np.array([[100, 100, 100 + side, 100 + side]], np.float32)
        one = Picture(picture().pixels, box, np.array([0]))
        for seed in range(300):
            varied = vary_boxes(one, 1.0, 0.3, np.random.default_rng(seed))
            counts[name] += (varied.pixels != one.pixels).any()
    assert counts["small"] > 2 * counts["large"] > 0
