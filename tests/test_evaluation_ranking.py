"""Intervals of AP and FROC by weights are those of a report that matched every resample anew."""

import numpy as np
import pytest

from hipnode.evaluation.statistics.classes import Boxes
from hipnode.evaluation.statistics.localisation import average_precision_at, coco_average_precision, froc
from hipnode.evaluation.statistics.ranking import average_precisions, froc_estimates
from hipnode.evaluation.statistics.resampling import Resamples

UNITS = 12


def some(rng, count):
    low = rng.uniform(0, 30, (count, 2))
    corners = np.concatenate([low, low + rng.uniform(20, 60, (count, 2))], axis=1)
    return Boxes(
        rng.integers(0, UNITS, count), np.zeros(count, np.int64), corners, rng.permutation(count) / count
    )


def repeated(boxes, times):
    """The boxes of a resample, each drawn unit under a number of its own."""
    rows, place = [], 0
    for unit, count in enumerate(times):
        for _ in range(count):
            here = boxes.take(boxes.unit == unit)
            rows += [(place, 0, tuple(c), s) for c, s in zip(here.corners, here.score, strict=True)]
            place += 1
    return Boxes.of(rows)


@pytest.fixture
def drawn():
    rng = np.random.default_rng(3)
    return some(rng, 14), some(rng, 30), Resamples.draw(None, UNITS, seed=4, resamples=40)


def test_without_boxes_there_is_no_value():
    none, resampled = Boxes.of([]), Resamples.draw(None, 3, seed=1, resamples=5)
    assert [e.value for e in average_precisions(none, none, 0, 3, resampled)] == [None, None]
    assert {e.value for e in froc_estimates(none, none, 3, resampled).values()} == {None}


def test_average_precision_of_resamples_is_that_of_the_repeated_boxes(drawn):
    reference, predicted, resampled = drawn
    again = [(repeated(reference, t), repeated(predicted, t)) for t in resampled.times]
    half, all_ = average_precisions(reference, predicted, 0, UNITS, resampled)
    for estimate, function in (
        (half, lambda a, b: average_precision_at(a, b, 0, 0.5)),
        (all_, lambda a, b: coco_average_precision(a, b, 0)),
    ):
        assert estimate.value == pytest.approx(function(reference, predicted))
        limits = np.percentile([function(a, b) for a, b in again], [2.5, 97.5])
        # repeats of a box are ranked one after the other there and together here
        assert (estimate.low, estimate.high) == pytest.approx(limits, abs=0.03)
    assert (half.n, half.events) == (UNITS, 14)


def test_froc_of_resamples_is_that_of_the_repeated_boxes(drawn):
    reference, predicted, resampled = drawn
    curves = [froc(repeated(reference, t), repeated(predicted, t), UNITS).at for t in resampled.times]
    for rate, estimate in froc_estimates(reference, predicted, UNITS, resampled).items():
        assert estimate.value == froc(reference, predicted, UNITS).at[rate]
        limits = np.percentile([curve[rate] for curve in curves], [2.5, 97.5])
        assert (estimate.low, estimate.high) == pytest.approx(limits)
