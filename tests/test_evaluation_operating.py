"""Thresholds: Youden with its ties, fixed sensitivity and specificity, two levels, predictive values."""

import itertools

import numpy as np
import pytest

from hipnode.evaluation.statistics.counts import Counts
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.operating import (
    OperatingPoint,
    at_sensitivity,
    at_specificity,
    at_threshold,
    predictive_values,
    two_levels,
    youden,
)

TEN_LABELS = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
TEN_SCORES = [0.9, 0.8, 0.7, 0.4, 0.35, 0.6, 0.3, 0.2, 0.1, 0.05]
PELVIS = OperatingPoint(0.15, Counts(tp=562, fn=57, fp=86, tn=1183), rule="published")


def scored(seed, n=200):
    generator = np.random.default_rng(seed)
    labels = generator.random(n) < 0.4
    return labels, np.round(generator.normal(size=n) + labels, 1)


def rates(labels, scores, threshold):
    called = np.asarray(scores) >= threshold
    labels = np.asarray(labels, dtype=bool)
    return (called & labels).sum() / labels.sum(), (~called & ~labels).sum() / (~labels).sum()


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(45, 50, 0.786, 0.957), (44, 50, 0.762, 0.944), (89, 100, 0.814, 0.937)],
)
def test_wilson_is_as_published(successes, n, low, high):
    estimate = wilson(successes, n)
    assert (round(estimate.low, 3), round(estimate.high, 3)) == (low, high)


def test_nothing_of_nothing_is_undefined():
    assert (wilson(0, 0).value, wilson(0, 0).method) == (None, "undefined: 0 of 0")
    with pytest.raises(ValueError, match="5 of 3"):
        wilson(5, 3)


def test_the_published_films_have_their_published_proportions():
    # 1,888 films, 619 positive, at 0.15
    found = [PELVIS.estimates["accuracy"], PELVIS.estimates["sensitivity"], PELVIS.estimates["specificity"]]
    assert [round(e.value, 4) for e in found] == [0.9243, 0.9079, 0.9322]
    limits = [(round(e.low, 4), round(e.high, 4)) for e in found]
    assert limits == [(0.9114, 0.9354), (0.8826, 0.9282), (0.9171, 0.9448)]
    assert (round(PELVIS.estimates["ppv"].value, 4), round(PELVIS.estimates["npv"].value, 4)) == (
        0.8673,
        0.9540,
    )
    assert (round(PELVIS.estimates["ppv"].low, 3), round(PELVIS.estimates["ppv"].high, 3)) == (0.839, 0.891)
    assert (round(PELVIS.estimates["npv"].low, 3), round(PELVIS.estimates["npv"].high, 3)) == (0.941, 0.964)


def test_the_ten_cases_have_their_published_youden_point():
    point = youden(TEN_LABELS, TEN_SCORES)
    assert (point.threshold, point.youden) == (0.35, pytest.approx(0.8))
    assert (point.counts.tp, point.counts.fn, point.counts.fp, point.counts.tn) == (5, 0, 1, 4)


def test_equal_youden_takes_the_higher_sensitivity():
    # .9: 1 of 2 found, 0 of 2 alarmed, J = .5; .2: 2 of 2 and 1 of 2, J = .5
    point = youden([1, 0, 1, 0], [0.9, 0.5, 0.2, 0.1])
    assert (point.threshold, point.counts.tp, point.counts.fp) == (0.2, 2, 1)


@pytest.mark.parametrize("runs", [3, 7, 11, 13, 49])
def test_equal_youden_is_not_decided_by_the_last_binary_digit(runs):
    # two positives, one negative, and again: J is 1 / runs after each pair of positives
    labels = [1, 1, 0] * runs
    point = youden(labels, list(range(len(labels), 0, -1)))
    assert (point.threshold, point.counts.tp, point.counts.fp) == (2, 2 * runs, runs - 1)


@pytest.mark.parametrize("seed", range(6))
def test_points_are_the_best_of_all_observed_thresholds(seed):
    labels, scores = scored(seed)
    points = {t: rates(labels, scores, t) for t in np.unique(scores)}
    best = youden(labels, scores)
    assert best.youden == pytest.approx(max(se + sp - 1 for se, sp in points.values()))
    sensitive = at_sensitivity(labels, scores, 0.95)
    assert sensitive.threshold == max(t for t, (se, _) in points.items() if se >= 0.95)
    specific = at_specificity(labels, scores, 0.90)
    assert specific.threshold == min(t for t, (_, sp) in points.items() if sp >= 0.90)
    for point in (best, sensitive, specific):
        assert (point.estimates["sensitivity"].value, point.estimates["specificity"].value) == pytest.approx(
            points[point.threshold]
        )
        assert point.counts.tp + point.counts.fn + point.counts.fp + point.counts.tn == 200
        low, high = sorted((point.estimates["sensitivity"].value, point.estimates["specificity"].value))
        assert low <= point.estimates["accuracy"].value <= high


def test_nineteen_of_twenty_is_ninety_five_per_cent():
    labels, scores = [1] * 20 + [0], [*range(30, 10, -1), 5]
    assert at_sensitivity(labels, scores, 0.95).counts.tp == 19
    assert at_specificity([0] * 10 + [1], [*range(10), 99], 0.9).counts.fp == 1


def test_a_specificity_that_no_score_reaches_is_none():
    assert at_specificity([1, 0, 0], [0.5, 0.9, 0.9], 0.9) is None
    assert at_specificity([1, 1], [0.5, 0.9], 0.9) is None
    assert at_sensitivity([0, 0], [0.5, 0.9]) is None


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0]])
def test_one_class_has_no_youden_point(labels):
    assert youden(labels, [0.3, 0.4][: len(labels)]) is None
    point = at_threshold(labels, [0.3, 0.4][: len(labels)], 0.35)
    assert point.youden is None
    assert None in (point.estimates["sensitivity"].value, point.estimates["specificity"].value)


def test_two_levels_share_out_every_case():
    shown = two_levels(TEN_LABELS, TEN_SCORES, 0.3, 0.65)
    assert [(level.name, level.positives, level.negatives) for level in shown.levels] == [
        ("none", 0, 3),
        ("possible", 2, 2),
        ("definite", 3, 0),
    ]
    assert (shown.possible.counts.fp, shown.definite.counts.fp) == (2, 0)
    assert [level.likelihood_ratio for level in shown.levels] == [0.0, pytest.approx(1.0), None]
    assert shown.levels[2].share_positive.value == 1.0
    with pytest.raises(ValueError, match="use one threshold"):
        two_levels(TEN_LABELS, TEN_SCORES, 0.6, 0.6)


@pytest.mark.parametrize("seed", range(3))
def test_at_their_own_prevalence_predictive_values_are_the_counts(seed):
    labels, scores = scored(seed)
    point = youden(labels, scores)
    ppv, npv = predictive_values(point, labels.mean())
    assert ppv.value == pytest.approx(point.estimates["ppv"].value)
    assert npv.value == pytest.approx(point.estimates["npv"].value)
    assert ppv.low < ppv.value < ppv.high
    assert npv.low < npv.value < npv.high


def test_ppv_falls_and_npv_rises_where_fractures_are_rarer():
    values = [predictive_values(PELVIS, share) for share in (0.02, 0.1, 0.3278, 0.6)]
    assert all(a[0].value < b[0].value and a[1].value > b[1].value for a, b in itertools.pairwise(values))
    # se .9079, sp .9322 at 2 %: .018158 / (.018158 + .066414)
    assert values[0][0].value == pytest.approx(0.2146, abs=5e-4)


def test_the_logit_interval_is_that_of_a_parametric_bootstrap():
    generator = np.random.default_rng(1)
    tp, tn = generator.binomial(619, 562 / 619, 20000), generator.binomial(1269, 1183 / 1269, 20000)
    found, alarmed = tp / 619 * 0.1, (1 - tn / 1269) * 0.9
    low, high = np.percentile(found / (found + alarmed), [2.5, 97.5])
    ppv, _ = predictive_values(PELVIS, 0.1)
    assert (ppv.low, ppv.high) == pytest.approx((low, high), abs=0.006)


def test_an_empty_cell_still_has_an_honest_interval():
    perfect = OperatingPoint(0.5, Counts(tp=20, fn=0, fp=0, tn=30), rule="given")
    ppv, npv = predictive_values(perfect, 0.2)
    assert (ppv.value, npv.value) == (1.0, 1.0)
    assert ppv.low < 0.9 < ppv.high == 1.0
    assert "adjusted" in ppv.method
    silent = OperatingPoint(0.5, Counts(tp=0, fn=20, fp=0, tn=30), rule="given")
    assert predictive_values(silent, 0.2)[0].value is None
    assert predictive_values(perfect, 0.0)[0].value is None
    with pytest.raises(ValueError, match="prevalence lies between 0 and 1"):
        predictive_values(perfect, 20)
