"""Counts and averages against hand-worked vectors, published tables, identities and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hipnode.evaluation.statistics.counts import (
    METRICS,
    Counts,
    class_table,
    confusion,
    count,
    macro_with_zero,
    micro_specificity,
    one_hot,
    share_of_positives,
)

OUTCOMES = ("V", "D", "S", "U", "N")
TRUTH = list("VVVVDDDDDDSSSSSUUUUU")
CALLED = list("VVDNDDDDVNSSSSUUUUUS")


def table(truth=TRUTH, called=CALLED, outcomes=OUTCOMES, **more):
    kept = {"seed": 1, "resamples": 200} | more
    return class_table(one_hot(truth, outcomes), one_hot(called, outcomes), outcomes, **kept)


def test_no_unit_at_all_has_no_number():
    nothing = count([], [])
    assert nothing == Counts(0, 0, 0, 0)
    assert [nothing.value(metric) for metric in METRICS] == [None] * len(METRICS)
    assert all(e.value is None for e in nothing.proportions().values())
    empty = table([], [])
    assert all(e.value is None for e in (*empty.micro.values(), *empty.macro.values()))


def test_the_twenty_cases_give_the_hand_worked_numbers():
    seen = table()
    v = seen.rows[0]
    assert v.counts == Counts(2, 2, 1, 15)
    assert v.estimates["accuracy"].value == 0.85
    assert seen.micro["sensitivity"].value == pytest.approx(0.70)
    assert seen.micro["specificity"].value == pytest.approx(0.925)
    assert round(seen.macro["sensitivity"].value, 4) == 0.6917
    assert round(seen.macro["specificity"].value, 4) == 0.9265
    assert (seen.micro_over, seen.macro_over["sensitivity"], seen.macro_over["specificity"]) == (5, 4, 5)
    counts = [row.counts for row in seen.rows]
    assert round(macro_with_zero(counts, "sensitivity", 5), 4) == 0.5533
    assert seen.rows[4].estimates["sensitivity"].value is None


def test_the_confusion_matrix_is_that_of_scikit_learn():
    known = confusion_matrix(TRUTH, CALLED, labels=OUTCOMES)
    assert np.array_equal(confusion(TRUTH, CALLED, OUTCOMES), known)


def test_the_averages_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    truth, called = rng.choice(OUTCOMES, (2, 400))
    seen = table(list(truth), list(called))
    for average, mine in (("micro", seen.micro), ("macro", seen.macro)):
        ppv, se, f1, _ = precision_recall_fscore_support(truth, called, average=average)
        assert [mine[m].value for m in ("ppv", "sensitivity", "f1")] == pytest.approx([ppv, se, f1])
    _, _, f1, _ = precision_recall_fscore_support(truth, called, labels=OUTCOMES)
    assert [row.estimates["f1"].value for row in seen.rows] == pytest.approx(list(f1))


@pytest.mark.parametrize("seed", range(20))
def test_accuracy_lies_between_sensitivity_and_specificity(seed):
    counts = Counts(*(int(x) for x in np.random.default_rng(seed).integers(1, 40, 4)))
    a, s, c = (counts.value(metric) for metric in METRICS[:3])
    assert min(s, c) - 1e-12 <= a <= max(s, c) + 1e-12
    share = counts.positives / counts.n
    assert a == pytest.approx(share * s + (1 - share) * c)


@pytest.mark.parametrize("seed", range(10))
def test_one_call_per_unit_ties_the_micro_averages_to_the_accuracy(seed):
    truth, called = np.random.default_rng(seed).choice(OUTCOMES, (2, 60))
    seen, accuracy = table(list(truth), list(called), resamples=5), float(np.mean(truth == called))
    assert seen.micro["sensitivity"].value == pytest.approx(accuracy)
    assert seen.micro["specificity"].value == pytest.approx(micro_specificity(accuracy, 5))


def test_the_published_counts_of_1888_films():
    counts = Counts(562, 57, 86, 1183)
    assert [round(counts.value(m), 4) for m in METRICS[:3]] == [0.9243, 0.9079, 0.9322]
    assert [round(counts.value(m), 4) for m in ("ppv", "npv")] == [0.8673, 0.9540]
    assert counts.n == 1888


def test_intervals_hold_the_value_and_come_back_with_the_seed():
    rng = np.random.default_rng(4)
    truth = rng.choice(OUTCOMES, 300)
    called = np.where(rng.random(300) < 0.8, truth, rng.choice(OUTCOMES, 300))
    first, again = (table(list(truth), list(called), resamples=500) for _ in range(2))
    for estimates in (first.micro, first.macro, *(row.estimates for row in first.rows)):
        for estimate in estimates.values():
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert first == again
    assert first != table(list(truth), list(called), resamples=500, seed=2)


def test_two_hips_of_one_patient_are_no_two_observations():
    truth, called = ["V", "N"] * 100, (["V", "N"] * 3 + ["N", "V"]) * 25
    patients = np.repeat(np.arange(100), 2)
    one, two = (table(truth, called, ("V", "N"), patients=p, resamples=2000) for p in (None, patients))
    widths = [t.micro["sensitivity"].high - t.micro["sensitivity"].low for t in (one, two)]
    assert widths[1] > 1.3 * widths[0]
    assert two.micro["sensitivity"].method.startswith("bootstrap of 100 patients")


@pytest.mark.parametrize(
    ("rows", "printed"),
    [((0.88, 0.80, 0.84, 0.86), 0.68), ((0.75, 0.93, 0.89, 0.80), 0.67), ((0.86, 0.94, 0.92, 0.89), 0.72)],
)
def test_four_sensitivities_over_five_outcomes_give_the_published_macro(rows, printed):
    counts = [Counts(round(100 * s), 100 - round(100 * s), 0, 0) for s in rows]
    assert round(macro_with_zero(counts, "sensitivity", 5), 2) == printed
    assert macro_with_zero(counts, "sensitivity", 4) == pytest.approx(np.mean(rows))


def test_the_published_table_of_the_detector_is_no_table_of_cases():
    low, high = share_of_positives("1.0", "0.79", "1.0")
    assert (low, high) == (0.0, pytest.approx(0.05 / 0.215, abs=0.02))
    assert share_of_positives("1.00", "0.98", "0.99") is None
    assert share_of_positives("0.850", "0.500", "0.938") == pytest.approx((0.198, 0.203), abs=0.003)


@pytest.mark.parametrize("seed", range(30))
def test_the_share_of_a_real_table_is_among_those_that_fit(seed):
    counts = Counts(*(int(x) for x in np.random.default_rng(seed).integers(1, 60, 4)))
    fits = share_of_positives(*(f"{counts.value(m):.2f}" for m in METRICS[:3]))
    assert fits is not None
    assert fits[0] - 1e-9 <= counts.positives / counts.n <= fits[1] + 1e-9


def test_what_does_not_fit_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="unknown outcome X"):
        confusion(["V"], ["X"], OUTCOMES)
    with pytest.raises(ValueError, match="not one row"):
        count([1, 0], [1])
    with pytest.raises(ValueError, match="none of"):
        Counts(1, 1, 1, 1).value("dice")
    with pytest.raises(ValueError, match="negative"):
        Counts(-1, 0, 0, 0)
    with pytest.raises(ValueError, match="do not fit"):
        macro_with_zero([Counts(1, 1, 1, 1)] * 3, "sensitivity", 2)


def test_averages_carry_the_counts_they_are_made_of():
    truth = one_hot(["a"] * 12 + ["b"] * 3, ("a", "b", "c"))
    called = one_hot(["a"] * 11 + ["b"] * 4, ("a", "b", "c"))
    seen = class_table(truth, called, ("a", "b", "c"), seed=1, resamples=50)
    assert (seen.micro["sensitivity"].events, seen.micro["sensitivity"].n) == (14, 15)
    assert (seen.micro["specificity"].events, seen.micro["specificity"].n) == (29, 30)
    assert (seen.micro["ppv"].events, seen.micro["ppv"].n) == (14, 15)
    assert seen.micro["sensitivity"].value == pytest.approx(14 / 15)
    assert seen.macro["sensitivity"].events == 3  # of b; nobody has c
    assert seen.macro["sensitivity"].few_events
    assert seen.macro["specificity"].events == 3
