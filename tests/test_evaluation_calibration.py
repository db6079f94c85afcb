"""Reliability, calibration errors and the three calibrators."""

import json

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from hipnode.evaluation.statistics.calibration import (
    Calibrator,
    brier,
    calibration_line,
    ece,
    errors,
    fit,
    log_loss,
    mce,
    reliability,
)
from hipnode.evaluation.statistics.resampling import Resamples
from hipnode.evaluation.statistics.roc import area

TEN_LABELS = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
TEN_SCORES = [0.9, 0.8, 0.7, 0.4, 0.35, 0.6, 0.3, 0.2, 0.1, 0.05]


def overconfident(seed, n=4000, temperature=2.5, shift=0.0):
    """Labels drawn from the truth, and scores whose logits are `temperature` times too large."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(-0.5, 1.2, n)
    return generator.random(n) < expit(honest), expit(temperature * honest + shift)


def test_the_ten_cases_have_their_published_brier_score():
    estimate = brier(TEN_LABELS, TEN_SCORES)
    assert estimate.value == pytest.approx(0.1425)
    assert estimate.low < 0.1425 < estimate.high
    assert (estimate.n, estimate.events) == (10, 5)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    y, p = overconfident(seed, n=500, temperature=1.0)
    assert brier(y, p, resamples=5).value == pytest.approx(brier_score_loss(y, p))
    assert log_loss(y, p, resamples=5).value == pytest.approx(sklearn_log_loss(y, p))
    shares, means = calibration_curve(y, p, n_bins=10)
    bars = [b for b in reliability(y, p, 10) if b.n]
    assert [b.share_positive for b in bars] == pytest.approx(shares)
    assert [b.mean_score for b in bars] == pytest.approx(means)


def test_ece_and_mce_by_hand():
    y, p = [0, 1, 1, 1, 0], [0.1, 0.15, 0.9, 0.8, 0.85]
    # bin 0..0.5: share 1/2, mean .125; bin 0.5..1: share 2/3, mean .85
    assert ece(y, p, bins=2).value == pytest.approx(2 / 5 * 0.375 + 3 / 5 * (0.85 - 2 / 3))
    assert mce(y, p, bins=2) == pytest.approx(0.375)
    assert ece(y, p, bins=2, resamples=7).method == "2 bins of equal width, bootstrap of 5 units (7)"


@pytest.mark.parametrize("spacing", ["width", "count"])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_bins_hold_every_case_once_and_add_up_to_the_ece(spacing, bins):
    y, p = overconfident(4, n=777)
    bars = reliability(y, p, bins, spacing)
    assert sum(b.n for b in bars) == 777
    assert sum(b.positives for b in bars) == y.sum()
    assert (bars[0].low, bars[-1].high) == (0.0, 1.0)
    gap = sum(b.n / 777 * abs(b.share_positive - b.mean_score) for b in bars if b.n)
    estimate = ece(y, p, bins=bins, spacing=spacing, resamples=3)
    assert estimate.value == pytest.approx(gap)
    if spacing == "count":
        assert max(b.n for b in bars) - min(b.n for b in bars) <= 1
    if bins == 1:
        assert estimate.value == pytest.approx(abs(y.mean() - p.mean()))


def test_equal_scores_stay_in_one_bin():
    bars = reliability([0, 1] * 50, [0.2] * 60 + [0.7] * 40, 15, "count")
    assert sorted(b.n for b in bars if b.n) == [40, 60]


def test_the_scores_nought_and_one_are_cases_too():
    bars = reliability([0, 1, 1], [0.0, 1.0, 1.0], 10)
    assert (bars[0].n, bars[-1].n) == (1, 2)
    assert np.isfinite(log_loss([0, 1, 0], [0.0, 1.0, 1.0], resamples=5).value)


def test_the_line_is_that_of_statsmodels():
    y, p = overconfident(5, n=900, shift=0.4)
    line = calibration_line(y, p)
    both = sm.GLM(y.astype(float), sm.add_constant(logit(p)), family=sm.families.Binomial()).fit().params
    large = sm.GLM(y.astype(float), np.ones(900), family=sm.families.Binomial(), offset=logit(p)).fit().params
    assert (line.intercept, line.slope) == pytest.approx(tuple(both), rel=1e-6)
    assert line.in_the_large == pytest.approx(large[0], rel=1e-6)
    assert line.slope < 0.6  # 2.5 times too extreme


def test_a_calibrated_score_has_slope_one_on_its_own_cases():
    y, p = overconfident(6, shift=0.3)
    line = calibration_line(
        y, expit(calibration_line(y, p).intercept + calibration_line(y, p).slope * logit(p))
    )
    assert (line.intercept, line.slope, line.in_the_large) == pytest.approx((0, 1, 0), abs=1e-6)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_what_validation_taught_helps_on_other_cases(method):
    calibrator = fit(method, *overconfident(7))
    y, p = overconfident(8)
    before, after = ece(y, p, resamples=50), ece(y, calibrator(p), resamples=50)
    assert after.value < 0.4 * before.value
    assert brier(y, calibrator(p), resamples=5).value < brier(y, p, resamples=5).value
    assert log_loss(y, calibrator(p), resamples=5).value < log_loss(y, p, resamples=5).value
    assert (calibrator.n, calibrator.positives) == (4000, int(overconfident(7)[0].sum()))


def test_the_fit_finds_the_numbers_the_scores_were_made_with():
    y, p = overconfident(9, n=40000)
    assert fit("temperature", y, p).numbers["temperature"] == pytest.approx(2.5, rel=0.05)
    y, p = overconfident(9, n=40000, shift=0.5)
    platt = fit("platt", y, p).numbers
    assert platt["slope"] == pytest.approx(0.4, rel=0.05)
    assert platt["intercept"] == pytest.approx(-0.2, abs=0.03)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_a_smooth_calibrator_keeps_the_order_of_the_cases(method):
    y, p = overconfident(10, n=500, temperature=1.5)
    assert area(y, fit(method, y, p)(p)) == pytest.approx(area(y, p))


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_a_stored_calibrator_gives_the_same_numbers(method):
    y, p = overconfident(11, n=300)
    calibrator = fit(method, y, p)
    again = Calibrator.from_record(json.loads(json.dumps(calibrator.record())))
    assert again == calibrator
    np.testing.assert_array_equal(again(np.linspace(0, 1, 101)), calibrator(np.linspace(0, 1, 101)))
    assert ((again([0.0, 0.5, 1.0]) >= 0) & (again([0.0, 0.5, 1.0]) <= 1)).all()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "temperature, platt or isotonic"),
        ({"method": "platt", "numbers": {"slope": 1}, "n": 1, "positives": 1}, "intercept, slope"),
        ({"method": "temperature", "numbers": {"temperature": 0}, "n": 1, "positives": 1}, "above 0"),
        (
            {"method": "temperature", "numbers": {"temperature": "hot"}, "n": 1, "positives": 1},
            "lacks a number",
        ),
        (
            {"method": "temperature", "numbers": {"temperature": float("nan")}, "n": 1, "positives": 1},
            "finite",
        ),
        ({"method": "temperature", "numbers": {"temperature": 1}}, "lacks a number"),
        (
            {"method": "isotonic", "numbers": {"scores": [1, 0], "values": [0, 1]}, "n": 1, "positives": 1},
            "rising",
        ),
    ],
)
def test_a_broken_record_is_refused_in_words(record, words):
    with pytest.raises(ValueError, match=words):
        Calibrator.from_record(record)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize("y", [[], [1, 1], [0, 0]])
def test_one_class_cannot_be_fitted(method, y):
    with pytest.raises(ValueError, match="with and without the class"):
        fit(method, y, [0.5] * len(y))


def test_full_separation_has_a_platt_fit_and_no_line():
    y, p = [0] * 5 + [1] * 5, np.linspace(0.05, 0.95, 10)
    line = calibration_line(y, p)
    assert (line.intercept, line.slope, line.says) == (None, None, "no slope: the classes separate fully")
    assert np.isfinite(list(fit("platt", y, p).numbers.values())).all()
    assert calibration_line(y, [0.3] * 10).says == "no slope: one score only"
    assert calibration_line([1, 1], [0.3, 0.4]).in_the_large is None


def test_no_cases_and_scores_out_of_range_are_said():
    assert brier([], []).value is None
    assert ece([], []).method == "undefined: no cases"
    assert mce([], []) is None
    with pytest.raises(ValueError, match=r"1 scores are outside 0\.\.1"):
        brier([1, 0], [1.2, 0.1])
    with pytest.raises(ValueError, match="at least one bin"):
        reliability([1, 0], [0.2, 0.1], 0)


def test_patients_widen_the_interval_where_their_films_repeat():
    y, p = overconfident(12, n=300)
    blind = brier(np.repeat(y, 3), np.repeat(p, 3), resamples=400)
    aware = brier(np.repeat(y, 3), np.repeat(p, 3), np.repeat(np.arange(300), 3), resamples=400)
    assert aware.high - aware.low > 1.4 * (blind.high - blind.low)


def test_scores_that_do_not_determine_a_slope_have_none():
    """All but one score are 0 or 1 and right: the likelihood is flat as far as digits go."""
    y = np.array([0] * 5 + [1] * 5 + [1, 0])
    line = calibration_line(y, np.array([0.0] * 5 + [1.0] * 5 + [0.0, 1.0]))
    assert line.slope is not None  # two of twelve are wrong, which fixes it
    apart = calibration_line(y[:11], np.array([0.0] * 5 + [1.0] * 5 + [0.0]))
    assert apart.slope is None
    assert apart.says.startswith("no slope")


def test_shared_resamples_give_the_errors_that_the_single_functions_give():
    rng = np.random.default_rng(4)
    p = rng.random(120)
    y = rng.random(120) < p
    patients = rng.integers(0, 40, 120)
    shared = Resamples.draw(patients, 120, seed=3, resamples=100)
    alone = [f(y, p, patients, seed=3, resamples=100) for f in (ece, brier, log_loss)]
    both = errors(y, [1 - p, p], shared)
    assert both[0][1].value == pytest.approx(brier(y, 1 - p, resamples=5).value)
    for one, other in zip(both[1], alone, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
        assert (one.n, one.events, one.method) == (other.n, other.events, other.method)
