"""Readers without and with AI: tables, tests on discordant pairs, changed decisions, reading time."""

import itertools
from math import comb

import numpy as np
import pytest

from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.readers import (
    AI,
    CONDITIONS,
    NO_AI,
    UNREAD,
    changed_decisions,
    mcnemar,
    mcnemar_of,
    mean_difference,
    panel,
    per_reader,
    reader_difference,
    reading_time,
    spread,
)


def study(seed=0, cases=120, readers=4, before=0.75, after=0.88, skill=0.05):
    """A panel whose readers are right with these chances, and truth by case."""
    generator = np.random.default_rng(seed)
    truth = {f"c{i:03}": bool(i % 2) for i in range(cases)}
    rows = []
    for r in range(readers):
        own = generator.normal(0, skill)
        for (case, there), (condition, chance) in itertools.product(
            truth.items(), zip(CONDITIONS, (before, after), strict=True)
        ):
            right = generator.random() < chance + own
            rows.append((case, f"r{r}", condition, there == right))
    return rows, truth


def panel_of(rows, truth, patients=None):
    return panel(*zip(*rows, strict=True), truth, patients)


def by_rows(rows, truth, reader, condition):
    reads = {case: yes for case, r, c, yes in rows if (r, c) == (reader, condition)}
    return {case: yes == truth[case] for case, yes in reads.items()}


def known_discordances():
    """One reader, 40 fractures and 20 others: 4 fractures lost and 15 gained, 3 others lost and 1 gained."""
    truth = {f"f{i}": True for i in range(40)} | {f"n{i}": False for i in range(20)}
    rows = []
    for i, case in enumerate(truth):
        before, after = True, True
        if case[0] == "f":
            before, after = (True, False) if i < 4 else (False, True) if i < 19 else (True, True)
        else:
            place = i - 40
            before, after = (True, False) if place < 3 else (False, True) if place < 4 else (True, True)
        rows += [(case, "A", NO_AI, truth[case] == before), (case, "A", AI, truth[case] == after)]
    return rows, truth


def test_each_reader_has_a_table_per_condition():
    rows, truth = study()
    results = {(r.reader, r.condition): r for r in per_reader(panel_of(rows, truth))}
    assert len(results) == 8
    for (reader, condition), result in results.items():
        right = by_rows(rows, truth, reader, condition)
        fractures = [right[case] for case in truth if truth[case]]
        others = [right[case] for case in truth if not truth[case]]
        assert (result.counts.tp, result.counts.fn) == (sum(fractures), len(fractures) - sum(fractures))
        assert (result.counts.tn, result.counts.fp) == (sum(others), len(others) - sum(others))
        assert result.estimates["sensitivity"].value == pytest.approx(np.mean(fractures))
        assert result.estimates["accuracy"].n == 120
        assert result.estimates["sensitivity"].method == "Wilson"


def test_mean_and_sd_over_readers_are_of_the_sample():
    rows, truth = study()
    reads = panel_of(rows, truth)
    values = [r.estimates["sensitivity"].value for r in per_reader(reads) if r.condition == AI]
    summary = spread(reads, "sensitivity", AI)
    assert (summary.mean, summary.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert summary.readers == 4


def test_the_published_discordances_have_their_published_p():
    assert mcnemar(4, 15).p == pytest.approx(0.0192, abs=5e-5)
    rows, truth = known_discordances()
    reads = panel_of(rows, truth)
    sensitivity = mcnemar_of(reads, "A", "sensitivity")
    assert (sensitivity.lost, sensitivity.gained, sensitivity.method) == (4, 15, "exact")
    specificity = mcnemar_of(reads, "A", "specificity")
    assert (specificity.lost, specificity.gained) == (3, 1)
    assert specificity.p == pytest.approx(2 * (comb(4, 0) + comb(4, 1)) / 16)
    both = mcnemar_of(reads, "A", "accuracy")
    assert (both.lost, both.gained) == (7, 16)


@pytest.mark.parametrize(("lost", "gained"), [(0, 1), (3, 3), (5, 19), (0, 24), (12, 12)])
def test_few_discordant_pairs_are_counted_exactly(lost, gained):
    n, few = lost + gained, min(lost, gained)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(few + 1)) / 2**n)
    assert mcnemar(lost, gained).p == pytest.approx(expected)
    assert mcnemar(gained, lost).p == mcnemar(lost, gained).p


def test_many_discordant_pairs_take_chi_square_with_correction():
    result = mcnemar(5, 20)
    assert result.method == "chi-square with correction"
    # (|5 - 20| - 1)^2 / 25 = 7.84
    assert result.p == pytest.approx(0.005110, abs=1e-6)
    assert mcnemar(0, 0).p is None
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(-1, 3)


def test_a_readers_difference_is_that_of_the_paired_cases():
    rows, truth = known_discordances()
    estimate = reader_difference(panel_of(rows, truth), "A", "sensitivity", seed=1)
    assert estimate.value == pytest.approx(11 / 40)
    assert (estimate.n, estimate.events) == (40, 19)
    # the paired standard error: sqrt(b + c - (b - c)^2 / n) / n
    error = (19 - 11**2 / 40) ** 0.5 / 40
    assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(error, rel=0.08)


def test_two_way_difference_is_the_mean_of_the_readers_and_wider_than_with_fixed_readers():
    rows, truth = study(3, readers=6, skill=0.1)
    reads = panel_of(rows, truth)
    each = [reader_difference(reads, r, "accuracy", resamples=5).value for r in reads.readers]
    both = mean_difference(reads, "accuracy", seed=1)
    assert both.value == pytest.approx(np.mean(each))
    assert both.n == 6 * 120
    assert both.method == "two-way bootstrap of 6 readers and 120 patients (2000)"
    per_case = (reads.answers == reads.truth).astype(float)
    fixed = (per_case[1] - per_case[0]).mean(axis=0).std() / 120**0.5
    assert both.high - both.low > 2 * 1.96 * fixed
    assert mean_difference(reads, "accuracy", seed=1) == both
    assert mean_difference(reads, "accuracy", seed=2) != both


def test_the_two_way_variance_is_that_of_resampled_tables():
    rows, truth = study(4, cases=40, readers=3)
    reads = panel_of(rows, truth)
    right = (reads.answers == reads.truth).astype(float)
    gain = right[1] - right[0]
    generator = np.random.default_rng(0)
    draws = [
        gain[np.ix_(generator.integers(0, 3, 3), generator.integers(0, 40, 40))].mean() for _ in range(4000)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    estimate = mean_difference(reads, "accuracy", resamples=4000)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.02)


def test_no_change_has_a_difference_of_nought():
    truth = {"a": True, "b": False, "c": True}
    rows = [(c, r, k, True) for c in truth for r in "xy" for k in CONDITIONS]
    estimate = mean_difference(panel_of(rows, truth), "sensitivity")
    assert (estimate.value, estimate.events) == (0.0, 0)


def test_decisions_changed_by_a_right_and_by_a_wrong_ai():
    truth = {"a": True, "b": True, "c": True, "d": False, "e": False}
    before = dict(zip(truth, [True, False, True, False, True], strict=True))
    after = dict(zip(truth, [True, True, False, True, True], strict=True))
    rows = [(c, "A", NO_AI, before[c]) for c in truth] + [(c, "A", AI, after[c]) for c in truth]
    changes = {
        (c.fracture, c.ai_right): c
        for c in changed_decisions(panel_of(rows, truth), [True, True, False, True, False])
    }
    told_right, told_wrong = changes[True, True], changes[True, False]
    assert (told_right.stayed_right, told_right.corrected) == (1, 1)
    assert (told_wrong.harmed, told_wrong.harm.value) == (1, 1.0)
    assert told_wrong.benefit.value is None
    false_alarm, still_wrong = changes[False, False], changes[False, True]
    assert (false_alarm.harmed, still_wrong.stayed_wrong) == (1, 1)
    everything = sum(c.stayed_right + c.harmed + c.corrected + c.stayed_wrong for c in changes.values())
    assert everything == 5


def test_changes_add_up_to_mcnemars_pairs():
    rows, truth = study(5)
    reads = panel_of(rows, truth)
    changes = changed_decisions(reads, np.random.default_rng(1).random(120) < 0.5)
    for reader in reads.readers:
        pairs = mcnemar_of(reads, reader, "sensitivity")
        own = [c for c in changes if c.reader == reader and c.fracture]
        assert (sum(c.harmed for c in own), sum(c.corrected for c in own)) == (pairs.lost, pairs.gained)


def test_only_cases_read_in_both_conditions_are_compared():
    rows, truth = known_discordances()
    gone = [row for row in rows if row[:3] != ("f0", "A", AI)]
    reads = panel_of(gone, truth)
    assert (reads.answers == UNREAD).sum() == 1
    assert mcnemar_of(reads, "A", "sensitivity").lost == 3
    assert reader_difference(reads, "A", "sensitivity").n == 39


def test_a_study_with_ai_only_has_tables_and_no_differences():
    rows, truth = study()
    reads = panel_of([row for row in rows if row[2] == AI], truth)
    assert {r.condition for r in per_reader(reads)} == {AI}
    assert reader_difference(reads, "r0", "accuracy").value is None
    assert mean_difference(reads, "accuracy").method == "undefined: no such case was read"
    assert spread(reads, "accuracy", NO_AI).mean is None
    assert mcnemar_of(reads, "r0", "accuracy").p is None


def test_one_reader_is_no_sample_of_readers():
    rows, truth = known_discordances()
    estimate = mean_difference(panel_of(rows, truth), "sensitivity")
    assert (estimate.low, estimate.method) == (None, "no interval: one reader only")
    assert spread(panel_of(rows, truth), "sensitivity", AI).sd is None


def test_cases_of_one_patient_are_drawn_together():
    rows, truth = study(6, cases=60)
    twice = [(f"{c}{s}", r, k, y) for c, r, k, y in rows for s in "lr"]
    both = {f"{c}{s}": t for c, t in truth.items() for s in "lr"}
    aware = panel_of(twice, both, {case: case[:4] for case in both})
    single, doubled = (reader_difference(p, "r0", "accuracy", seed=3) for p in (panel_of(rows, truth), aware))
    assert (single.low, single.high) == pytest.approx((doubled.low, doubled.high), abs=0.02)
    assert "60 patients" in doubled.method


def test_all_that_is_wrong_with_the_reads_is_said_at_once():
    with pytest.raises(ValueError, match="read twice") as error:
        panel(["a", "a", "x", "a"], ["A"] * 4, [AI, AI, AI, "with"], [True] * 4, {"a": True}, {})
    for words in ("x of reader A has no reference", "'with' of case a", "a has no patient"):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="no reader 'Z'"):
        panel(["a"], ["A"], [AI], [True], {"a": True}).row("Z")


def test_reading_times_are_compared_case_by_case():
    time = reading_time("A", [10, 20, 30, 40, np.nan, 50], [8, 15, 31, 30, 9, 49])
    assert time.n == 5
    assert (time.without_ai, time.with_ai) == ((20, 30, 40), (15, 30, 31))
    assert time.median_difference == -2
    # signed ranks of -2 -5 +1 -10 -1: ranks 3 4 1.5 5 1.5
    assert 0 < time.p < 0.3
    exact = reading_time("A", [11, 22, 33, 44, 55], [10, 20, 30, 40, 50])
    assert exact.p == pytest.approx(2 / 2**5)
    assert reading_time("A", [5, 6], [5, 6]).p is None
    assert reading_time("A", [], []).without_ai is None
    with pytest.raises(ValueError, match="not negative"):
        reading_time("A", [1], [-1])


def test_two_hips_of_a_patient_that_a_reader_calls_alike_are_no_two_observations():
    cases = [f"c{i}" for i in range(80)]
    yes = [i % 20 >= 4 for i in range(80)]  # calls and misses come in pairs
    truth = dict.fromkeys(cases, True)
    apart = panel(cases, ["r"] * 80, ["no_ai"] * 80, yes, truth)
    pairs = panel(
        cases, ["r"] * 80, ["no_ai"] * 80, yes, truth, {c: f"p{i // 2}" for i, c in enumerate(cases)}
    )
    (one,), (two,) = per_reader(apart), per_reader(pairs)
    assert one.estimates["sensitivity"] == wilson(64, 80)
    assert one.counts == two.counts
    assert two.estimates["sensitivity"].high - two.estimates["sensitivity"].low > 0.2
    assert "of 40 patients" in two.estimates["sensitivity"].method
