"""Areas under ROC and precision-recall curves, their intervals, and two models compared."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from hipnode.evaluation.statistics.resampling import (
    bootstrap,
    bootstrap_weights,
    codes_of,
    percentile_interval,
)
from hipnode.evaluation.statistics.roc import (
    area,
    auc,
    average_precision,
    bootstrap_areas,
    compare_areas,
    delong,
    hanley_mcneil,
    roc_curve,
    trapezoid_precision,
)

TEN_LABELS = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
TEN_SCORES = [0.9, 0.8, 0.7, 0.4, 0.35, 0.6, 0.3, 0.2, 0.1, 0.05]


def scored(seed, n=300, digits=2, gap=1.0, share=0.35):
    generator = np.random.default_rng(seed)
    labels = generator.random(n) < share
    return labels, np.round(generator.normal(size=n) + gap * labels, digits)  # rounding makes ties


def psi(x, y):
    return 1.0 if x > y else 0.5 if x == y else 0.0


def delong_by_hand(labels, *models):
    """Areas and covariance by the definition of DeLong 1988: every pair, loops, no ranks."""
    hits, misses = np.flatnonzero(labels), np.flatnonzero(~labels)
    tables = [np.array([[psi(s[i], s[j]) for j in misses] for i in hits]) for s in models]
    first = np.stack([t.mean(axis=1) for t in tables])
    second = np.stack([t.mean(axis=0) for t in tables])
    return [t.mean() for t in tables], np.cov(first) / len(hits) + np.cov(second) / len(misses)


def test_the_ten_cases_have_their_published_area():
    assert area(TEN_LABELS, TEN_SCORES) == pytest.approx(0.92)
    assert auc(TEN_LABELS, TEN_SCORES).value == pytest.approx(0.92)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [0, 1, 6])
def test_areas_are_those_of_scikit_learn_with_and_without_ties(seed, digits):
    labels, scores = scored(seed, digits=digits)
    assert area(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert delong(labels, scores).value == pytest.approx(roc_auc_score(labels, scores))
    ap = average_precision(labels, scores, resamples=20)
    assert ap.value == pytest.approx(average_precision_score(labels, scores))
    assert ap.method == "step-wise, bootstrap of 300 units (20)"
    curve = roc_curve(labels, scores)
    false_rate, true_rate, thresholds = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.sensitivity, true_rate)
    np.testing.assert_allclose(1 - curve.specificity, false_rate)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert np.trapezoid(curve.sensitivity, 1 - curve.specificity) == pytest.approx(area(labels, scores))


def test_reversing_scores_mirrors_the_area_and_a_monotone_change_leaves_it():
    labels, scores = scored(1)
    assert area(labels, -scores) == pytest.approx(1 - area(labels, scores))
    assert delong(labels, np.exp(scores)) == delong(labels, scores)


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_delong_is_the_definition_counted_pair_by_pair(digits):
    labels, first = scored(3, n=90, digits=digits)
    second = np.round(first + np.random.default_rng(9).normal(size=90), digits)
    (value_a, value_b), covariance = delong_by_hand(labels, first, second)
    a, b = delong(labels, first), delong(labels, second)
    assert (a.value, b.value) == pytest.approx((value_a, value_b))
    assert (a.high - a.low) / 2 == pytest.approx(norm.ppf(0.975) * covariance[0, 0] ** 0.5)
    assert (b.high - b.low) / 2 == pytest.approx(norm.ppf(0.975) * covariance[1, 1] ** 0.5)
    compared = compare_areas(labels, first, second)
    error = (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) ** 0.5
    assert compared.z == pytest.approx((value_a - value_b) / error)
    assert compared.p == pytest.approx(math.erfc(abs(compared.z) / 2**0.5))
    assert compared.difference.value == pytest.approx(value_a - value_b)
    other_way = compare_areas(labels, second, first)
    assert other_way.z == pytest.approx(-compared.z)
    assert other_way.p == pytest.approx(compared.p)


def test_delong_agrees_with_scipys_bootstrap_of_units():
    labels, scores = scored(4, n=400, digits=3)
    estimate = delong(labels, scores)
    draws = scipy_bootstrap(
        (scores[labels], scores[~labels]),
        lambda x, y: roc_auc_score(np.r_[np.ones(len(x)), np.zeros(len(y))], np.r_[x, y]),
        n_resamples=500,
        vectorized=False,
        rng=np.random.default_rng(5),
    )
    assert (estimate.high - estimate.low) / (2 * norm.ppf(0.975)) == pytest.approx(
        draws.standard_error, rel=0.12
    )


def test_a_patient_for_every_unit_changes_nothing():
    labels, scores = scored(6)
    names = [f"p{i}" for i in range(len(labels))]
    clustered, plain = delong(labels, scores, names), delong(labels, scores)
    # Obuchowski's sums divide by the patients that hold the class, as DeLong's do
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))
    assert clustered.method == "DeLong, clustered by 300 patients"


def test_every_unit_twice_under_its_patient_is_no_more_evidence():
    labels, scores = scored(7)
    single = delong(labels, scores)
    twice = delong(np.repeat(labels, 2), np.repeat(scores, 2), np.repeat(np.arange(300), 2))
    blind = delong(np.repeat(labels, 2), np.repeat(scores, 2))
    assert (twice.low, twice.high) == pytest.approx((single.low, single.high), abs=1e-4)
    assert blind.high - blind.low < 0.75 * (twice.high - twice.low)


def test_clustered_delong_agrees_with_the_bootstrap_of_patients():
    generator = np.random.default_rng(8)
    patients = np.repeat(np.arange(250), 2)
    frail = np.repeat(generator.normal(size=250), 2)
    labels = generator.random(500) < 1 / (1 + np.exp(-frail))
    scores = labels + frail + generator.normal(size=500)
    estimate = delong(labels, scores, patients)
    draws = bootstrap_areas(labels, scores, patients, seed=1)
    assert (estimate.high - estimate.low) / (2 * norm.ppf(0.975)) == pytest.approx(draws.std(), rel=0.06)


def test_few_units_in_a_class_take_the_bootstrap_and_many_delong():
    labels, scores = scored(10, n=100, share=0.3)
    assert auc(labels, scores, resamples=50).method == "bootstrap of 100 units (50)"
    assert auc(labels, scores, np.arange(100) // 2, resamples=50).method == "bootstrap of 50 patients (50)"
    many, many_scores = scored(10, n=400)
    assert auc(many, many_scores) == delong(many, many_scores)


def test_the_bootstrap_is_its_seeds():
    labels, scores = scored(11, n=60)
    assert auc(labels, scores, seed=3, resamples=200) == auc(labels, scores, seed=3, resamples=200)
    assert auc(labels, scores, seed=3, resamples=200) != auc(labels, scores, seed=4, resamples=200)


def test_weighted_areas_are_those_of_the_repeated_rows():
    labels, scores = scored(12, n=40, digits=1)
    patients = np.arange(40) // 2
    draws = bootstrap_areas(labels[:40], scores, patients, seed=2, resamples=30)
    order = np.argsort(scores, kind="stable")
    weights = np.concatenate(
        list(bootstrap_weights(codes_of(patients, 40)[order], seed=2, resamples=30, strata=labels[order]))
    )
    for row, draw in zip(weights, draws, strict=True):
        rows = np.repeat(order, row.astype(int))
        assert draw == pytest.approx(area(labels[rows], scores[rows]))


def test_perfect_separation_has_an_interval_with_width():
    labels = [1] * 10 + [0] * 12
    scores = list(range(22, 0, -1))
    best = auc(labels, scores)
    assert (best.value, best.high, best.method) == (1.0, 1.0, "Newcombe method 5")
    assert 0.75 < best.low < 0.9
    worst = auc(labels, scores[::-1])
    assert (worst.value, worst.low) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - best.low, abs=0.01)
    assert delong([1] * 60 + [0] * 60, list(range(120, 0, -1))).low > best.low


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [0, 0]])
def test_one_class_only_is_undefined_in_words(labels):
    scores = np.linspace(0, 1, len(labels))
    for estimate in (auc(labels, scores), delong(labels, scores)):
        assert (estimate.value, estimate.low, estimate.method) == (None, None, "undefined: one class only")
    assert area(labels, scores) is None
    assert compare_areas(labels, scores, scores).p is None
    if not any(labels):
        assert average_precision(labels, scores).value is None
        assert trapezoid_precision(labels, scores) is None


def test_models_that_rank_alike_have_no_p():
    labels, scores = scored(13)
    compared = compare_areas(labels, scores, 2 * scores + 1)
    assert (compared.difference.value, compared.z, compared.p) == (pytest.approx(0.0), None, None)
    assert compared.difference.method == "no interval: the difference has no variance"


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([1, 0], [0.5], "one length"),
        ([1, 2], [0.5, 0.1], "true or false"),
        ([1, 0], [0.5, math.nan], "1 scores are not finite"),
    ],
)
def test_bad_input_is_refused_in_words(labels, scores, words):
    with pytest.raises(ValueError, match=words):
        auc(labels, scores)


def test_a_published_area_gets_the_interval_of_its_counts():
    estimate = hanley_mcneil(0.954, 50, 50)
    assert (round(estimate.low, 3), round(estimate.high, 3)) == (0.911, 0.997)


def test_trapezoids_never_fall_below_a_straight_reading_by_hand():
    # points (sensitivity, precision): (.5, 1), (.5, .5), (1, 2/3), (1, .5)
    assert trapezoid_precision([1, 0, 1, 0], [4, 3, 2, 1]) == pytest.approx(0.5 + 0.5 * (0.5 + 2 / 3) / 2)
    assert average_precision([1, 0, 1, 0], [4, 3, 2, 1], resamples=5).value == pytest.approx((1 + 2 / 3) / 2)


def test_every_resample_holds_whole_patients_and_as_many_as_there_are():
    patients = codes_of(["a", "b", "b", "c", "d", "d"], 6)
    for weights in bootstrap_weights(patients, seed=1, resamples=50):
        assert (weights[:, 1] == weights[:, 2]).all()
        assert (weights[:, 4] == weights[:, 5]).all()
        assert (weights[:, [0, 1, 3, 4]].sum(axis=1) == 4).all()


def test_strata_keep_their_number_of_patients_in_every_resample():
    labels = np.array([True] * 3 + [False] * 20)
    (weights,) = bootstrap_weights(codes_of(None, 23), seed=1, resamples=40, strata=labels)
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 3:].sum(axis=1) == 20).all()


def test_resamples_are_uniform_over_small_samples():
    (weights,) = bootstrap_weights(codes_of(None, 2), seed=7, resamples=4000)
    seen = {pair: int((weights == pair).all(axis=1).sum()) for pair in itertools.product((0, 1, 2), repeat=2)}
    assert seen[(1, 1)] == pytest.approx(2000, abs=130)
    assert seen[(2, 0)] == pytest.approx(1000, abs=110)
    assert sum(seen.values()) == seen[(1, 1)] + seen[(2, 0)] + seen[(0, 2)] == 4000


def test_resamples_without_a_value_take_the_interval_with_them():
    few = np.r_[np.full(10, np.nan), np.linspace(0, 1, 90)]
    assert percentile_interval(few, "9 patients") == (
        None,
        None,
        "no interval: 10 of 100 resamples have no value",
    )
    rare = np.r_[np.nan, np.linspace(0, 1, 99)]
    assert percentile_interval(rare, "9 patients")[2] == "bootstrap of 9 patients (100, 1 without a value)"


def test_ten_cases_without_an_error_have_no_interval_of_no_width():
    found = average_precision([True] * 5 + [False] * 5, np.arange(10.0)[::-1], resamples=50)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert found.method == "no interval: every resample of 10 units gives the same value"


def test_the_bootstrap_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(3).normal(size=200)
    draws = bootstrap(lambda w: w @ values / w.sum(axis=1), codes_of(None, 200), seed=1)
    assert draws.std() == pytest.approx(values.std() / 200**0.5, rel=0.05)
