"""The evaluation's numbers against R (pROC, psych, vcd, epiR, rms, survey) on data with ties; see tests/golden/r."""

import csv
import json
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hipnode.evaluation.statistics.agreement import answer_counts, cohen_kappa, fleiss_kappa
from hipnode.evaluation.statistics.calibration import brier, calibration_line, ece, fit, log_loss, mce
from hipnode.evaluation.statistics.counts import Counts
from hipnode.evaluation.statistics.intervals import clopper_pearson, sample_size, share_by_patient, wilson
from hipnode.evaluation.statistics.operating import (
    OperatingPoint,
    at_sensitivity,
    at_specificity,
    at_threshold,
    predictive_values,
    youden,
)
from hipnode.evaluation.statistics.readers import mcnemar, reading_time
from hipnode.evaluation.statistics.roc import area, compare_areas, delong, hanley_mcneil

HERE = Path(__file__).parent / "golden" / "r"
R: dict[str, Any] = json.loads((HERE / "values.json").read_text())
ROWS = list(csv.DictReader((HERE / "cases.csv").read_text().splitlines()))
Y = np.array([row["y"] == "1" for row in ROWS])
A, B = (np.array([float(row[name]) for row in ROWS]) for name in "ab")
PATIENTS = [row["patient"] for row in ROWS]
ALMOST_R = 1e-9


def close(value: float, digits: float = ALMOST_R) -> Any:
    return pytest.approx(value, abs=digits)


def column(name: str) -> list[str]:
    return [row[name] for row in ROWS]


@pytest.mark.parametrize(("name", "scores"), [("a", A), ("b", B)])
def test_area_and_delong_are_those_of_proc(name: str, scores: np.ndarray) -> None:
    found, told = delong(Y, scores), R["delong"][name]
    assert (found.value, found.low, found.high) == tuple(map(close, (told["auc"], told["low"], told["high"])))


def test_delong_of_few_cases_ends_at_one_as_proc_has_it() -> None:
    few = np.r_[np.flatnonzero(Y)[:9], np.flatnonzero(~Y)[:14]]
    found, told = delong(Y[few], A[few]), R["delong"]["few"]
    assert (found.value, found.low, found.high) == (close(told["auc"]), close(told["low"]), 1.0)


def test_area_is_the_mann_whitney_statistic() -> None:
    assert area(Y, A) == close(R["mann_whitney"])


def test_paired_delong_is_that_of_proc() -> None:
    found, told = compare_areas(Y, A, B), R["paired"]
    assert (found.z, found.p) == (close(told["z"]), close(told["p"]))
    assert (found.difference.low, found.difference.high) == (close(told["low"]), close(told["high"]))


def test_clustered_area_is_obuchowskis() -> None:
    found = delong(Y, A, PATIENTS)
    half = 1.959963984540054 * R["clustered_variance"] ** 0.5
    assert (found.low, found.high) == (close(found.value - half), close(found.value + half))


def test_operating_points_have_the_counts_of_proc() -> None:
    def cells(point: OperatingPoint | None) -> dict[str, int]:
        assert point is not None
        return {name: getattr(point.counts, name) for name in ("tp", "fn", "fp", "tn")}

    assert cells(youden(Y, A)) == R["points"]["youden"]
    assert cells(at_sensitivity(Y, A, 0.95)) == R["points"]["sensitivity95"]
    assert cells(at_specificity(Y, A, 0.90)) == R["points"]["specificity90"]


@pytest.mark.parametrize(("method", "name"), [("wilson", "wilson"), ("clopper-pearson", "exact")])
def test_two_by_two_is_that_of_epir(method: Any, name: str) -> None:
    point = at_threshold(Y, A, 0.5)
    assert point.counts == Counts(**R["two_by_two"]["counts"])
    words = {
        "accuracy": "diag.ac",
        "sensitivity": "se",
        "specificity": "sp",
        "ppv": "pv.pos",
        "npv": "pv.neg",
    }
    found = point.counts.proportions(method)
    for ours, theirs in words.items():
        (told,) = R["two_by_two"][name][theirs]
        each = (found[ours].value, found[ours].low, found[ours].high)
        assert each == (close(told["est"]), close(told["lower"]), close(told["upper"])), ours


@pytest.mark.parametrize("told", R["shares"], ids=lambda told: f"{told['x']}of{told['n']}")
def test_limits_of_proportions_are_those_of_prop_test_and_binom_test(told: dict[str, Any]) -> None:
    for made, name in ((wilson, "wilson"), (clopper_pearson, "exact")):
        found = made(told["x"], told["n"])
        assert [found.low, found.high] == [close(limit) for limit in told[name]]


@pytest.mark.parametrize(("name", "rows"), [("all", Y | True), ("positive", Y), ("negative", ~Y)])
def test_shares_by_patient_have_the_design_effect_of_survey(name: str, rows: np.ndarray) -> None:
    found = share_by_patient((A >= 0.5)[rows], np.array(PATIENTS)[rows])
    told = R["by_patient"][name]
    assert [found.low, found.high] == [close(limit) for limit in told["limits"]]
    assert f"design effect {told['effect']:.2f} " in found.method


@pytest.mark.parametrize("told", R["mcnemar"], ids=lambda told: f"{told['lost']}-{told['gained']}")
def test_mcnemar_is_that_of_r(told: dict[str, Any]) -> None:
    exact = told["lost"] + told["gained"] < 25
    assert mcnemar(told["lost"], told["gained"]).p == close(told["exact" if exact else "corrected"])


@pytest.mark.parametrize("pair", list(R["kappa"]))
def test_kappa_is_that_of_psych_vcd_and_epir(pair: str) -> None:
    found, told = cohen_kappa(*(column(name) for name in pair.split("_"))), R["kappa"][pair]
    assert [found.low, found.value, found.high] == [close(x) for x in told["psych"]]
    assert found.value == close(told["vcd"][0])
    assert found.value == close(told["epi"])
    assert found.high - found.value == close(1.959963984540054 * told["vcd"][1])


def test_fleiss_kappa_is_that_of_r() -> None:
    counts = answer_counts([column(name) for name in ("r1", "r2", "r3")])
    assert fleiss_kappa(counts, resamples=10).value == close(R["fleiss"])


def test_reading_time_is_that_of_wilcox_test() -> None:
    before, after = ([float(x) for x in column(name)] for name in ("before", "after"))
    found = reading_time("r", before, after)
    assert found.p == close(R["wilcoxon"])
    assert found.without_ai == tuple(close(x) for x in R["quartiles"])


def test_calibration_is_that_of_glm_and_val_prob() -> None:
    line, told = calibration_line(Y, A), R["calibration"]
    assert (line.intercept, line.slope) == (close(told["intercept"]), close(told["slope"]))
    assert line.in_the_large == close(told["in_the_large"])
    assert line.slope == close(told["val_prob_slope"], 1e-6)
    assert brier(Y, A, resamples=10).value == close(told["brier"])
    assert log_loss(Y, A, resamples=10).value == close(told["log_loss"])
    assert ece(Y, A, resamples=10).value == close(R["ece15"])
    assert mce(Y, A) == close(R["mce15"])


def test_calibrators_are_those_of_r() -> None:
    told = R["calibration"]
    assert fit("temperature", Y, A).numbers["temperature"] == close(told["temperature"], 1e-6)
    platt = fit("platt", Y, A).numbers
    assert [platt["intercept"], platt["slope"]] == [close(x, 1e-6) for x in told["platt"]]
    isotonic = fit("isotonic", Y, A)
    assert isotonic(R["isotonic"]["score"]) == pytest.approx(R["isotonic"]["value"], abs=ALMOST_R)


def test_predictive_values_at_another_prevalence_are_mercaldos() -> None:
    found = predictive_values(at_threshold(Y, A, 0.5), 0.1)
    for estimate, name in zip(found, ("ppv", "npv"), strict=True):
        assert [estimate.value, estimate.low, estimate.high] == [close(x) for x in R["mercaldo"][name]]


@pytest.mark.parametrize("told", R["hanley"], ids=lambda told: str(told["auc"]))
def test_hanley_mcneil_is_that_of_r(told: dict[str, Any]) -> None:
    found = hanley_mcneil(told["auc"], told["m"], told["n"])
    assert [found.low, found.high] == [close(limit) for limit in told["limits"]]


@pytest.mark.parametrize("told", R["sample_size"], ids=lambda told: f"{told['p']}-{told['d']}")
def test_sample_size_is_that_of_epir(told: dict[str, Any]) -> None:
    assert sample_size(told["p"], told["d"]) == ceil(told["n"])
