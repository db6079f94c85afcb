"""p-chart, stability index, CUSUM, agreement with reports, and what happened in a stretch of days."""

import math
from datetime import date, timedelta

import numpy as np
import pytest
from scipy.stats import chi2, fisher_exact

from hipnode.evaluation.statistics.counts import Counts
from hipnode.evaluation.statistics.monitoring import (
    agreement,
    cusum,
    p_chart,
    period,
    psi,
    rolling_days,
    shift,
    week_of,
)

BASELINE = [i % 5 == 0 for i in range(500)]  # 20 %


def test_limits_are_three_deviations_of_the_periods_own_size():
    chart = p_chart(["w1", "w2", "w3"], [20, 40, 3], [100, 100, 4], BASELINE)
    assert (chart.centre, chart.baseline) == (0.2, 500)
    first, second, third = chart.points
    assert (first.lower, first.upper) == pytest.approx((0.2 - 3 * 0.04, 0.2 + 3 * 0.04))
    assert (first.outside, second.outside) == (False, True)
    assert (third.lower, third.upper) == pytest.approx((0.0, 0.8))
    assert not third.outside


def test_only_the_first_studies_set_the_limits():
    assert p_chart([], [], [], BASELINE + [True] * 300).centre == 0.2
    early = p_chart(["w1"], [9], [10], BASELINE[:120])
    assert (early.centre, early.points[0].outside) == (None, False)
    assert early.says == "no limits yet: 120 of the 500 studies that set them"


def test_a_week_without_studies_has_no_share():
    point = p_chart(["w1"], [0], [0], BASELINE).points[0]
    assert (point.share, point.outside) == (None, False)
    with pytest.raises(ValueError, match="week 7: 3 positives of 2"):
        p_chart(["week 7"], [3], [2], BASELINE)


def test_outside_by_chance_is_no_alarm():
    rare = [i < 10 for i in range(500)]  # 2 %
    week, quarter = p_chart(["week", "quarter"], [4, 260], [50, 9000], rare).points
    assert (week.outside, week.alarm) == (True, False), "4 of 50 where 1 is expected: chance gives that"
    assert (quarter.outside, quarter.alarm) == (True, False), "2.9 %: 10 of 500 do not know the rate so well"
    assert week.chance == pytest.approx(fisher_exact([[4, 46], [10, 490]]).pvalue)
    (plain,) = p_chart(["week"], [14], [50], rare).points
    assert plain.alarm
    assert p_chart(["week"], [1], [50], rare).points[0].chance is None


def test_false_alarms_of_large_weeks_against_a_small_baseline_are_few():
    generator = np.random.default_rng(6)
    outside = alarms = 0
    for _ in range(150):
        baseline = (generator.random(500) < 0.2).tolist()
        (point,) = p_chart(["w"], [int(generator.binomial(2000, 0.2))], [2000], baseline).points
        outside, alarms = outside + point.outside, alarms + point.alarm
    assert outside > 15
    assert alarms <= 2


def test_a_shift_tells_both_shares_and_how_often_chance_gives_it():
    worse = shift(60, 100, 100, 500)
    assert (worse.now.value, worse.baseline.value, worse.alarm) == (0.6, 0.2, True)
    assert shift(21, 100, 100, 500).chance > 0.5
    assert (shift(0, 0, 100, 500).chance, shift(0, 0, 100, 500).alarm) == (None, False)


def test_a_class_never_seen_in_the_baseline_is_said():
    chart = p_chart(["w1", "w2"], [0, 1], [50, 50], [False] * 500)
    assert [p.outside for p in chart.points] == [False, True]
    assert "all of which were negative" in chart.says


def test_the_false_alarms_of_a_steady_rate_are_few():
    generator = np.random.default_rng(1)
    weeks = generator.binomial(200, 0.2, 400)
    chart = p_chart([str(i) for i in range(400)], weeks.tolist(), [200] * 400, BASELINE)
    assert sum(p.outside for p in chart.points) <= 5


def test_the_stability_index_by_hand():
    drift = psi([0.1, 0.2, 0.3, 0.4], [0.1, 0.35, 0.35, 0.4], bins=2)
    # halves of the baseline at .25: (.5, .5) became (.25, .75)
    expected = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert drift.value == pytest.approx(expected)
    assert (drift.expected, drift.observed) == ((2, 2), (1, 3))
    assert drift.value > 0.2
    assert not drift.alarm, "four scores against four"
    many = psi([0.1, 0.2, 0.3, 0.4] * 50, [0.1, 0.35, 0.35, 0.4] * 50, bins=2)
    assert (many.value, many.alarm) == (pytest.approx(expected), True)


def test_the_index_is_nought_for_the_same_scores_and_the_same_either_way_round():
    generator = np.random.default_rng(2)
    before, after = generator.beta(2, 5, 1000), generator.beta(2, 4, 1000)
    assert psi(before, before).value == 0.0
    drift = psi(before, after)
    e, o = np.array(drift.expected) / 1000, np.array(drift.observed) / 1000
    assert drift.value == pytest.approx(float(((e - o) * np.log(e / o)).sum()))
    assert sum(drift.expected) == sum(drift.observed) == 1000


def test_without_drift_the_index_is_what_chance_gives():
    generator = np.random.default_rng(3)
    values = [psi(generator.random(1000), generator.random(1000)).value for _ in range(200)]
    assert np.mean(values) == pytest.approx(9 * (2 / 1000), rel=0.1)


def test_an_index_that_chance_gives_raises_no_alarm():
    generator = np.random.default_rng(5)
    before = generator.beta(2, 5, 500)
    weeks = [psi(before, generator.beta(2, 5, 50)) for _ in range(100)]
    assert sum(w.value > 0.2 for w in weeks) > 20, "the plain threshold would alarm every few weeks"
    assert sum(w.alarm for w in weeks) <= 2
    # chi-square with 9 degrees of freedom times (1/n + 1/m) is near it for samples of this size
    large = psi(before, generator.beta(2, 5, 2000))
    assert large.by_chance == pytest.approx(chi2.ppf(1 - 0.0027, 9) * (1 / 500 + 1 / 2000), rel=0.1)
    assert psi(before, generator.beta(3, 4, 60)).alarm


def test_a_class_the_baseline_never_scored_takes_more_than_one_study_to_alarm():
    assert not psi([0.0] * 500, [0.0, 0.0, 0.6]).alarm
    assert not psi([0.0] * 500, [0.0] * 39 + [0.6]).alarm
    assert psi([0.0] * 500, [0.0] * 50 + [0.6] * 10).alarm


def test_scores_that_left_a_bin_count_and_stay_finite():
    drift = psi(np.linspace(0, 1, 100), [0.99] * 50)
    assert math.isfinite(drift.value)
    assert drift.alarm
    same = psi([0.0] * 90 + [0.9] * 10, [0.0] * 45 + [0.9] * 5)
    assert (sum(same.expected), same.value) == (100, pytest.approx(0.0))
    assert psi([], [0.1]).value is None
    with pytest.raises(ValueError, match="finite"):
        psi([0.1, math.nan], [0.1])


def test_cusum_by_hand():
    # steps: wrong ln(.2/.1) = .6931, right ln(.8/.9) = -.1178
    chart = cusum([False, True, True, False, True], 0.1, 0.2, limit=1.9)
    assert chart.path == pytest.approx((0, 0.693147, 1.386294, 1.268511, 1.961659), abs=1e-6)
    assert chart.alarms == (4,)
    assert cusum([True] * 6, 0.1, 0.2, limit=1.3).alarms == (1, 3, 5)
    assert cusum([], 0.1, 0.2).path == ()


def test_cusum_finds_a_worse_rate_and_leaves_the_accepted_one():
    generator = np.random.default_rng(4)
    assert cusum((generator.random(400) < 0.05).tolist(), 0.05, 0.15).alarms == ()
    delays = [cusum((generator.random(2000) < 0.15).tolist(), 0.05, 0.15).alarms[0] for _ in range(200)]
    drift = 0.15 * math.log(3) + 0.85 * math.log(0.85 / 0.95)  # gained per case, on average
    assert 4 / drift * 0.9 < np.mean(delays) < 4 / drift * 1.3


@pytest.mark.parametrize(("acceptable", "unacceptable", "limit"), [(0.2, 0.1, 4), (0, 0.1, 4), (0.1, 0.2, 0)])
def test_rates_of_a_cusum_must_make_sense(acceptable, unacceptable, limit):
    with pytest.raises(ValueError, match="acceptable < unacceptable"):
        cusum([True], acceptable, unacceptable, limit)


def test_agreement_counts_only_studies_with_a_report():
    result = agreement([True, True, False, False, True], [True, False, True, False, None])
    assert result.counts == Counts(1, 1, 1, 1)
    assert (result.reported.value, result.reported.n) == (0.8, 5)
    assert [result.estimates[name].value for name in ("sensitivity", "ppv", "accuracy")] == [0.5, 0.5, 0.5]
    many = agreement([True] * 50, [True] * 45 + [False] * 5).estimates["ppv"]
    assert (round(many.low, 3), round(many.high, 3)) == (0.786, 0.957)
    none = agreement([], [])
    assert (none.estimates["sensitivity"].value, none.reported.value) == (None, None)
    with pytest.raises(ValueError, match="1 answers and 0 reports"):
        agreement([True], [])


def test_a_stretch_of_days_counts_its_own_studies():
    monday, sunday = week_of(date(2026, 3, 5))
    assert (monday, sunday) == (date(2026, 3, 2), date(2026, 3, 8))
    days = [monday - timedelta(1), monday, monday, sunday, sunday, sunday + timedelta(1)]
    outcomes = ["read", "read", "refused", "failed", "read", "read"]
    week = period(monday, sunday, days, outcomes, [True] * 6, [1.0, 2.0, None, None, 4.0, 9.0])
    assert (week.studies, week.refused, week.failed, week.positives) == (4, 1, 1, 2)
    assert (week.positive_share.n, week.refused_share.value) == (2, 0.25)
    assert (week.median_latency_s, week.p95_latency_s) == pytest.approx((3.0, 3.9))
    empty = period(sunday, sunday - timedelta(1), days, outcomes, [True] * 6, [None] * 6)
    assert (empty.studies, empty.positive_share.value, empty.median_latency_s) == (0, None, None)
    with pytest.raises(ValueError, match="not lost"):
        period(monday, sunday, [monday], ["lost"], [False], [None])


def test_ninety_days_end_with_today():
    assert rolling_days(date(2026, 3, 31)) == (date(2026, 1, 1), date(2026, 3, 31))
    with pytest.raises(ValueError, match="at least one day"):
        rolling_days(date(2026, 3, 31), 0)
