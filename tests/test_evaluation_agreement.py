"""Cohen's and Fleiss' kappa."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from hipnode.evaluation.statistics.agreement import answer_counts, cohen_kappa, fleiss_kappa
from hipnode.evaluation.statistics.resampling import Resamples

TRUTH = list("VVVVDDDDDDSSSSSUUUUU")
PREDICTION = list("VVDNDDDDVNSSSSUUUUUS")
SIX_CASES = [[3, 0, 0], [2, 1, 0], [0, 3, 0], [0, 1, 2], [0, 0, 3], [1, 1, 1]]


def two_readers(seed, n=150, answers=4, same=0.6):
    generator = np.random.default_rng(seed)
    first = generator.integers(0, answers, n)
    return first, np.where(generator.random(n) < same, first, generator.integers(0, answers, n))


def test_the_twenty_cases_have_their_published_kappa():
    assert cohen_kappa(TRUTH, PREDICTION).value == pytest.approx(0.6104, abs=5e-5)


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_that_of_scikit_learn(seed):
    first, second = two_readers(seed)
    assert cohen_kappa(first, second).value == pytest.approx(cohen_kappa_score(first, second))
    assert cohen_kappa(second, first).value == pytest.approx(cohen_kappa(first, second).value)


def test_the_asymptotic_interval_is_the_textbooks():
    # Fleiss, Levin, Paik, Statistical Methods for Rates and Proportions, 3rd ed., table 18.1: kappa .676, se .088
    table = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(table[i][j])]
    estimate = cohen_kappa(*zip(*pairs, strict=True))
    assert round(estimate.value, 2) == 0.68
    assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(0.087, abs=0.001)
    assert (estimate.n, estimate.events) == (100, 89)


def test_both_intervals_agree_on_many_independent_cases():
    first, second = two_readers(5, n=600)
    asymptotic = cohen_kappa(first, second)
    drawn = cohen_kappa(first, second, interval="bootstrap", seed=1)
    assert (drawn.low, drawn.high) == pytest.approx((asymptotic.low, asymptotic.high), abs=0.012)
    assert drawn.method == "bootstrap of 600 cases (2000)"


def test_cases_of_one_patient_are_drawn_together():
    first, second = two_readers(6)
    doubled = cohen_kappa(np.repeat(first, 2), np.repeat(second, 2), np.repeat(np.arange(150), 2), seed=2)
    single = cohen_kappa(first, second, interval="bootstrap", seed=2)
    assert (doubled.value, doubled.low, doubled.high) == pytest.approx(
        (single.value, single.low, single.high)
    )
    assert doubled.method == "bootstrap of 150 patients (2000)"


def test_the_six_cases_have_their_published_fleiss_kappa():
    estimate = fleiss_kappa(SIX_CASES)
    assert estimate.value == pytest.approx(0.4167, abs=5e-5)
    assert (estimate.n, estimate.events) == (6, 3)
    assert estimate.low < estimate.value < estimate.high


def test_fleiss_kappa_of_ten_subjects_and_fourteen_raters():
    table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert fleiss_kappa(table, resamples=10).value == pytest.approx(0.210, abs=5e-4)


def test_answers_are_counted_per_case():
    counts = answer_counts([["n", "f", "f"], ["n", "n", "f"]])
    np.testing.assert_array_equal(counts, [[0, 2], [1, 1], [2, 0]])


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [([], [], "no cases"), (["n", "n"], ["n", "n"], "only one answer")],
)
def test_no_kappa_where_there_is_nothing_to_agree_on(first, second, words):
    estimate = cohen_kappa(first, second)
    assert estimate.value is None
    assert words in estimate.method


def test_full_agreement_has_a_kappa_of_one_and_no_made_up_interval():
    estimate = cohen_kappa([1, 0, 1], [1, 0, 1])
    assert (estimate.value, estimate.low) == (1.0, None)
    everybody = fleiss_kappa([[2, 0], [0, 2]])
    assert (everybody.value, everybody.low) == (1.0, None)


def test_readers_missing_from_a_case_are_named():
    with pytest.raises(ValueError, match="between 2 and 3 read a case"):
        fleiss_kappa([[3, 0], [1, 1]])
    with pytest.raises(ValueError, match="one length"):
        cohen_kappa([1, 0], [1])
    assert fleiss_kappa([[3, 0], [3, 0]]).method == "undefined: only one answer was ever given"


@pytest.mark.parametrize("patients", [None, [0, 0, 1, 1, 2, 2]])
def test_one_who_always_answers_alike_has_a_kappa_of_0_and_no_interval(patients):
    seen = cohen_kappa(list("NNNNNN"), list("NNDNDN"), patients)
    assert (seen.value, seen.low, seen.high, seen.n, seen.events) == (0.0, None, None, 6, 4)
    assert "only one answer" in seen.method


def test_shared_resamples_give_the_interval_of_resamples_drawn_for_it():
    rng = np.random.default_rng(9)
    first = rng.integers(0, 3, 90)
    second = np.where(rng.random(90) < 0.6, first, rng.integers(0, 3, 90))
    patients = np.repeat(np.arange(30), 3)
    shared = Resamples.draw(patients, 90, seed=2, resamples=200)
    assert cohen_kappa(first, second, resampled=shared) == cohen_kappa(
        first, second, patients, seed=2, resamples=200
    )
    half = cohen_kappa(first[:30], second[:30], resampled=shared.of_units(np.arange(30)))
    assert "of 10 patients" in half.method
    assert half.low < half.value < half.high
