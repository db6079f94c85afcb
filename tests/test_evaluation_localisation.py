"""Overlaps against hand-worked boxes, real rasters, and AP and FROC worked out by hand."""

import numpy as np
import pytest

from hipnode.evaluation.statistics.classes import Boxes, iou_matrix
from hipnode.evaluation.statistics.localisation import (
    FROC_RATES,
    PIXEL_METRICS,
    average_precision_at,
    box_masks,
    coco_average_precision,
    dice_of,
    froc,
    jaccard_summary,
    location_correct,
    match,
    peak_within,
    per_detection,
    pixel_counts,
)

A = (100.0, 100.0, 300.0, 260.0)
B = (140.0, 120.0, 320.0, 280.0)  # IoU 0.5833 with A
FAR = (600.0, 600.0, 700.0, 700.0)
NONE = Boxes.of([])


def boxes(*rows):
    return Boxes.of([(u, k, c, s) for u, k, c, s in rows])


def some_boxes(rng, m, units=4, classes=2):
    low = rng.integers(0, 40, (m, 2))
    corners = np.hstack([low, low + rng.integers(1, 25, (m, 2))]).astype(float)
    ids = rng.integers(units, size=m), rng.integers(classes, size=m)
    return Boxes(*ids, corners, np.round(rng.random(m), 1))


def test_without_boxes_nothing_has_a_value():
    assert average_precision_at(NONE, NONE, 0, 0.5) is None
    assert coco_average_precision(NONE, NONE, 0) is None
    assert location_correct(NONE, NONE).value is None
    seen = per_detection(NONE, match(NONE, NONE), seed=0, resamples=5)
    assert (seen.iou_matched.value, seen.iou_all.value, seen.iou_matched_sd) == (None, None, None)
    assert froc(NONE, NONE, 1).at == dict.fromkeys(FROC_RATES)
    assert jaccard_summary([]).mean is None
    masks = box_masks(NONE, NONE, 0, [(100, 100)], seed=0, resamples=5)
    assert masks.pooled["iou"].value is None
    assert masks.pooled["specificity"].value == 1
    assert masks.per_image["specificity"].value is None  # no image contains the class


def test_the_two_known_boxes():
    seen = match(boxes((0, 0, A, 1)), boxes((0, 0, B, 0.9)))
    assert seen.taken.tolist() == [0]
    assert round(seen.iou[0], 4) == 0.5833
    assert round(float(dice_of(seen.iou)[0]), 4) == 0.7368
    assert pixel_counts(np.array([A]), np.array([B]), 400, 400)[0] == 22400


@pytest.mark.parametrize(
    ("predicted", "taken"),
    [
        ([], []),
        ([(0, 0, FAR, 0.9)], [-1]),
        ([(0, 1, A, 0.9)], [-1]),  # another class
        ([(1, 0, A, 0.9)], [-1]),  # another image
        ([(0, 0, B, 0.9), (0, 0, A, 0.8)], [0, -1]),  # the better score, not the better box, takes it
        ([(0, 0, B, 0.8), (0, 0, A, 0.9)], [-1, 0]),
    ],
)
def test_who_takes_the_lesion(predicted, taken):
    assert match(boxes((0, 0, A, 1)), boxes(*predicted)).taken.tolist() == taken


def test_a_prediction_takes_the_better_of_two_lesions():
    assert match(boxes((0, 0, B, 1), (0, 0, A, 1)), boxes((0, 0, A, 0.9))).taken.tolist() == [1]


def test_misses_count_zero_only_over_all_lesions():
    reference = boxes((0, 0, A, 1), (1, 0, A, 1), (2, 0, A, 1))
    seen = per_detection(reference, match(reference, boxes((0, 0, A, 0.9), (1, 0, B, 0.9))), seed=1)
    assert seen.iou_matched.value == pytest.approx((1 + 0.58333) / 2, abs=1e-4)
    assert seen.iou_all.value == pytest.approx((1 + 0.58333) / 3, abs=1e-4)
    assert seen.dice_matched.value == pytest.approx((1 + 0.73684) / 2, abs=1e-4)
    assert seen.iou_matched_sd == pytest.approx(np.std([1, 0.58333], ddof=1), abs=1e-4)
    assert (seen.iou_matched.n, seen.iou_all.n, seen.iou_all.events) == (2, 3, 2)
    assert seen.iou_all.low <= seen.iou_all.value <= seen.iou_all.high


@pytest.mark.parametrize("seed", range(15))
def test_pixels_are_those_of_a_raster(seed):
    rng = np.random.default_rng(seed)
    reference, predicted = (some_boxes(rng, m).corners for m in (3, 2))
    masks = []
    for corners in (reference, predicted):
        mask = np.zeros((50, 60), dtype=bool)  # some boxes leave the image
        for x0, y0, x1, y1 in corners.astype(int):
            mask[y0:y1, x0:x1] = True
        masks.append(mask)
    truth, seen = masks
    cells = [truth & seen, truth & ~seen, ~truth & seen, ~truth & ~seen]
    assert pixel_counts(reference, predicted, 50, 60) == tuple(float(c.sum()) for c in cells)


def test_box_masks_are_pooled_over_pixels_and_averaged_over_images_of_the_class():
    reference = boxes((0, 0, (0, 0, 10, 10), 1), (1, 0, (0, 0, 20, 20), 1), (2, 1, (0, 0, 5, 5), 1))
    predicted = boxes((0, 0, (0, 0, 10, 5), 0.9), (1, 0, (0, 0, 20, 20), 0.9), (2, 0, (0, 0, 10, 10), 0.9))
    seen = box_masks(reference, predicted, 0, [(100, 100)] * 3, seed=0, resamples=50)
    assert seen.pooled["iou"].value == pytest.approx(450 / 600)
    assert seen.pooled["dice"].value == pytest.approx(900 / 1050)
    assert seen.pooled["sensitivity"].value == pytest.approx(450 / 500)
    assert seen.per_image["iou"].value == pytest.approx((0.5 + 1) / 2)  # image 2 has none of class 0
    assert seen.per_image["iou"].n == 2
    assert set(seen.pooled) == set(seen.per_image) == set(PIXEL_METRICS)


@pytest.mark.parametrize("seed", range(10))
def test_dice_of_pixels_follows_from_iou_and_accuracy_lies_between(seed):
    rng = np.random.default_rng(seed)
    seen = box_masks(some_boxes(rng, 15), some_boxes(rng, 15), 0, [(70, 70)] * 4, seed=0, resamples=5).pooled
    iou = seen["iou"].value
    assert seen["dice"].value == pytest.approx(2 * iou / (1 + iou))
    ends = sorted((seen["sensitivity"].value, seen["specificity"].value))
    assert ends[0] - 1e-12 <= seen["accuracy"].value <= ends[1] + 1e-12


def test_average_precision_worked_by_hand():
    reference = boxes((0, 0, A, 1), (1, 0, A, 1))
    assert average_precision_at(reference, NONE, 0, 0.5) == 0
    assert average_precision_at(reference, reference, 0, 0.5) == pytest.approx(1)
    # hit, false, hit: precision 1 to recall 0.5 (51 of the 101 recalls), then 2/3 (50)
    predicted = boxes((0, 0, A, 0.9), (0, 0, FAR, 0.8), (1, 0, A, 0.7))
    assert average_precision_at(reference, predicted, 0, 0.5) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # one of two found: nothing above recall 0.5
    assert average_precision_at(reference, boxes((0, 0, A, 0.9)), 0, 0.5) == pytest.approx(51 / 101)
    assert average_precision_at(reference, reference, 1, 0.5) is None


def test_average_precision_over_ten_overlaps():
    reference, predicted = boxes((0, 0, A, 1)), boxes((0, 0, B, 0.9))
    assert coco_average_precision(reference, predicted, 0) == pytest.approx(0.2)  # IoU 0.5833: 0.5, 0.55


def test_froc_worked_by_hand():
    reference = boxes((0, 0, A, 1), (1, 0, A, 1))
    predicted = boxes((0, 0, A, 0.9), (2, 0, A, 0.8), (3, 0, A, 0.8), (0, 0, A, 0.7), (1, 0, B, 0.6))
    seen = froc(reference, predicted, 4)
    assert seen.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert seen.sensitivity.tolist() == [0.5, 0.5, 0.5, 1.0]
    assert seen.false_marks_per_image.tolist() == [0, 0.5, 0.75, 0.75]  # a second mark on a lesion is false
    assert seen.at == {0.1: 0.5, 0.25: 0.5, 0.5: 0.5, 1.0: 1.0, 2.0: 1.0}
    assert froc(reference, NONE, 4).at[2.0] == 0
    with pytest.raises(ValueError, match="need an image"):
        froc(reference, predicted, 0)


@pytest.mark.parametrize("seed", range(5))
def test_froc_points_are_those_of_a_fresh_count_at_each_threshold(seed):
    rng = np.random.default_rng(seed)
    reference, predicted = some_boxes(rng, 12), some_boxes(rng, 30)
    seen = froc(reference, predicted, 4, 0.1)
    for t, se, fp in zip(seen.thresholds, seen.sensitivity, seen.false_marks_per_image, strict=True):
        taken = match(reference, predicted.take(predicted.score >= t), 0.1).taken
        assert (se, fp) == ((taken >= 0).sum() / 12, (taken < 0).sum() / 4)


def test_location_correct_sensitivity():
    reference = boxes((0, 0, A, 1), (1, 0, A, 1), (2, 0, A, 1))
    small = (150.0, 150.0, 160.0, 160.0)
    predicted = boxes((0, 0, B, 0.9), (1, 1, A, 0.9), (2, 0, small, 0.9))
    assert (location_correct(reference, predicted).value, location_correct(reference, NONE).value) == (
        1 / 3,
        0,
    )
    assert location_correct(reference, predicted, centre=True).value == 2 / 3
    twice = boxes((0, 0, A, 1), (0, 0, A, 1))
    assert location_correct(twice, boxes((0, 0, A, 0.9)), centre=True).value == 0.5


def test_a_peak_counts_within_the_radius():
    seen = peak_within([(0, 0), (0, 0), (0, 0)], [(3, 4), (4, 4), (np.nan, 0)], 5)
    assert (seen.value, seen.n, seen.events) == (1 / 3, 3, 1)
    assert peak_within([], [], 5).value is None


def test_the_summary_of_a_crop_stage():
    seen = jaccard_summary([0.5, 0.6, 0.8, 0.9])
    assert seen.mean == pytest.approx(0.7)
    assert seen.sd == pytest.approx(0.18257, abs=1e-5)
    assert (seen.above_half.value, seen.above_seven_tenths.value) == (0.75, 0.5)


def test_average_precision_is_that_of_pycocotools():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 300, (60, 2))
    corners = np.hstack([low, low + rng.uniform(40, 90, (60, 2))])
    reference = Boxes(rng.integers(0, 20, 60), rng.integers(0, 2, 60), corners, np.ones(60))
    moved = [corners + rng.uniform(-12, 12, (60, 4)), corners[:30] + rng.uniform(-60, 60, (30, 1))]
    ids = (np.concatenate([i, i[:30]]) for i in (reference.unit, reference.class_id))
    predicted = Boxes(*ids, np.concatenate(moved), rng.random(90))
    known = (
        (0.809083281302, 0.281889320411),
        (0.689928876609, 0.282969443245),
    )  # COCOeval of pycocotools 2.0.11, all areas, 100 boxes
    for class_id, (half, over_all) in enumerate(known):
        assert average_precision_at(reference, predicted, class_id, 0.5) == pytest.approx(half, abs=1e-9)
        assert coco_average_precision(reference, predicted, class_id) == pytest.approx(over_all, abs=1e-9)


def test_matching_many_boxes_is_the_greedy_rule_one_by_one():
    rng = np.random.default_rng(8)
    for _ in range(20):
        reference, predicted = some_boxes(rng, 12), some_boxes(rng, 25)
        free, taken = set(range(len(reference))), [-1] * len(predicted)
        for p in sorted(range(len(predicted)), key=lambda i: -predicted.score[i]):
            near = [
                (float(iou_matrix(predicted.corners[[p]], reference.corners[[r]])[0, 0]), -r)
                for r in free
                if reference.unit[r] == predicted.unit[p] and reference.class_id[r] == predicted.class_id[p]
            ]
            if near and max(near)[0] >= 0.1:
                taken[p] = -max(near)[1]
                free.remove(taken[p])
        assert match(reference, predicted, 0.1).taken.tolist() == taken
