"""Intervals against the formulas written out, scipy's exact binomial, and resampling done row by row."""

import numpy as np
import pytest
from scipy.stats import binomtest

from hipnode.evaluation.statistics.intervals import (
    clopper_pearson,
    from_sums,
    number_of_patients,
    resampled_sums,
    sample_size,
    share_by_patient,
    strata_when_few,
    wilson,
)
from hipnode.evaluation.statistics.resampling import Resamples, bootstrap_weights, codes_of


def ratio(sums):
    return sums[..., 0] / sums[..., 1]


@pytest.mark.parametrize("limits", [wilson, clopper_pearson])
def test_a_proportion_of_nothing_has_no_value_and_no_interval(limits):
    nothing = limits(0, 0)
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)
    assert nothing.method == "undefined: 0 of 0"


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(45, 50, 0.786, 0.957), (44, 50, 0.762, 0.944), (89, 100, 0.814, 0.937)],
)
def test_wilson_gives_published_limits(successes, n, low, high):
    seen = wilson(successes, n)
    assert (round(seen.low, 3), round(seen.high, 3)) == (low, high)
    assert (seen.value, seen.n, seen.events, seen.method) == (successes / n, n, successes, "Wilson")


@pytest.mark.parametrize(
    ("successes", "n", "value", "low", "high"),
    [
        (562 + 1183, 1888, 0.9243, 0.9114, 0.9354),
        (562, 619, 0.9079, 0.8826, 0.9282),
        (1183, 1269, 0.9322, 0.9171, 0.9448),
        (562, 648, 0.867, 0.839, 0.891),
        (1183, 1240, 0.954, 0.941, 0.964),
    ],
)
def test_wilson_gives_the_limits_of_1888_public_films(successes, n, value, low, high):
    seen = wilson(successes, n)
    digits = 4 if value != round(value, 3) else 3
    assert round(seen.value, digits) == value
    assert (round(seen.low, digits), round(seen.high, digits)) == (low, high)


def test_wilson_is_its_formula_for_every_count_up_to_40():
    z = 1.959963984540054
    for n in range(1, 41):
        for k in range(n + 1):
            p, seen = k / n, wilson(k, n)
            half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
            middle, scale = p + z**2 / (2 * n), 1 + z**2 / n
            assert seen.low == pytest.approx((middle - half) / scale, abs=1e-12)
            assert seen.high == pytest.approx((middle + half) / scale, abs=1e-12)
            assert 0 <= seen.low <= seen.value <= seen.high <= 1


def test_clopper_pearson_is_that_of_scipy_for_every_count_up_to_30():
    for n in range(1, 31):
        for k in range(n + 1):
            seen, known = clopper_pearson(k, n), binomtest(k, n).proportion_ci(0.95, method="exact")
            assert (seen.low, seen.high) == pytest.approx((known.low, known.high), abs=1e-9)
            assert seen.low <= seen.value <= seen.high


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (1, 0)])
def test_what_is_no_proportion_is_refused(successes, n):
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(successes, n)


def test_few_successes_are_said_to_be_few():
    assert wilson(9, 100).few_events
    assert not wilson(10, 100).few_events


@pytest.mark.parametrize(
    ("expected", "half_width", "n"),
    [(0.9, 0.05, 139), (0.9, 0.03, 385), (0.5, 0.01, 9604), (0.5, 0.05, 385)],
)
def test_the_sample_size_is_the_published_one(expected, half_width, n):
    assert sample_size(expected, half_width) == n


@pytest.mark.parametrize(("expected", "half_width"), [(0, 0.1), (1, 0.1), (0.5, 0), (0.5, 1)])
def test_a_sample_size_of_certainty_is_refused(expected, half_width):
    with pytest.raises(ValueError, match="between 0 and 1"):
        sample_size(expected, half_width)


def test_resampled_sums_are_those_of_rows_repeated_patient_by_patient():
    rng = np.random.default_rng(5)
    table, patients = rng.random((12, 3)), np.array(list("aabbbcdeeffg"))
    sums = resampled_sums(table, patients, seed=3, resamples=40)
    codes = codes_of(patients, 12)
    weights = np.concatenate(list(bootstrap_weights(codes, seed=3, resamples=40)))
    for row, seen in zip(weights.astype(int), sums, strict=True):
        assert seen == pytest.approx(np.repeat(table, row, axis=0).sum(axis=0))
        for patient in set(patients):  # a patient comes with all of its units or not at all
            assert len(set(row[patients == patient])) == 1
    assert np.array_equal(sums, resampled_sums(table, patients, seed=3, resamples=40))


def test_the_bootstrap_of_a_proportion_comes_close_to_wilson():
    hits = np.arange(400) < 300
    table = np.column_stack([hits, np.ones(400)])
    seen = from_sums(ratio, table, resampled_sums(table, seed=1, resamples=4000), patients=400, events=300)
    known = wilson(300, 400)
    assert seen.value == known.value
    assert (seen.low, seen.high) == pytest.approx((known.low, known.high), abs=0.005)
    assert seen.method == "bootstrap of 400 patients (4000)"


def test_units_of_one_patient_that_agree_widen_the_interval():
    hits = np.repeat(np.arange(100) < 75, 4)
    table = np.column_stack([hits, np.ones(400)])

    def width(patients):
        seen = from_sums(ratio, table, resampled_sums(table, patients, seed=1), patients=100)
        return seen.high - seen.low

    assert width(np.repeat(np.arange(100), 4)) == pytest.approx(2 * width(None), rel=0.1)


def test_a_statistic_of_nothing_is_undefined():
    table = np.zeros((5, 2))
    seen = from_sums(ratio, table, resampled_sums(table, seed=0, resamples=10), patients=5)
    assert (seen.value, seen.method) == (None, "undefined: 0 of 0")


def test_outcomes_are_strata_only_where_one_is_rare():
    assert strata_when_few([0] * 20 + [1] * 20) is None
    assert strata_when_few([0] * 50) is None
    assert strata_when_few(["a"] * 30 + ["b"] * 19).tolist() == [0] * 30 + [1] * 19
    assert strata_when_few([[1, 0]] * 30 + [[1, 1]] * 2).tolist() == [0] * 30 + [1] * 2


def test_patients_are_counted_once():
    assert number_of_patients(["a", "a", "b"], 3) == 2
    assert number_of_patients(None, 3) == 3
    assert number_of_patients(None, 0) == 0


def test_a_table_of_one_dimension_is_refused():
    with pytest.raises(ValueError, match="two dimensions"):
        resampled_sums([1, 2], seed=0)


def test_one_unit_a_patient_gives_wilson_whatever_their_names():
    hits = [True] * 45 + [False] * 5
    assert share_by_patient(hits) == wilson(45, 50)
    assert share_by_patient(hits, [f"p{i}" for i in range(50)]) == wilson(45, 50)
    assert share_by_patient([]).value is None


def test_two_hips_that_always_agree_are_one_observation():
    """The design effect of pairs alike is 2: the interval is that of half as many units."""
    hits, patients = np.repeat([True] * 45 + [False] * 5, 2), np.repeat(np.arange(50), 2)
    seen, half = share_by_patient(hits, patients), wilson(45, 50)
    assert (seen.value, seen.n, seen.events) == (0.9, 100, 90)
    assert (seen.low, seen.high) == pytest.approx((half.low, half.high), abs=0.002)
    assert "of 50 patients" in seen.method


def test_the_interval_by_patient_is_never_narrower_than_wilson():
    apart = share_by_patient([True, False] * 50, np.repeat(np.arange(50), 2))  # hips of a patient never agree
    assert (apart.low, apart.high) == (wilson(50, 100).low, wilson(50, 100).high)
    alike = share_by_patient([True] * 100, np.repeat(np.arange(50), 2))
    assert (alike.low, alike.high) == (pytest.approx(wilson(50, 50).low), 1.0)
    assert share_by_patient([True, False], ["p", "p"]).low is None


def test_shared_resamples_are_those_of_the_plain_bootstrap():
    rng = np.random.default_rng(5)
    patients, table = rng.integers(0, 9, 20), rng.normal(size=(20, 3))
    shared = Resamples.draw(patients, 20, seed=7, resamples=30)
    assert np.allclose(shared.sums(table), resampled_sums(table, patients, seed=7, resamples=30))
    assert np.allclose(shared.draws(lambda w: w @ table[:, 0]), shared.sums(table)[:, 0])
    order = rng.permutation(20)
    assert np.allclose(shared.draws(lambda w: w @ table[order, 0], order), shared.sums(table)[:, 0])


def test_both_intervals_know_the_patients():
    hits, patients = np.repeat([True] * 45 + [False] * 5, 2), np.repeat(np.arange(50), 2)
    assert share_by_patient(hits, None, "clopper-pearson") == clopper_pearson(90, 100)
    seen, half = share_by_patient(hits, patients, "clopper-pearson"), clopper_pearson(45, 50)
    assert (seen.low, seen.high) == pytest.approx((half.low, half.high), abs=0.002)
