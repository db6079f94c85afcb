"""Strata: the counts of each, what is flagged, and columns that are none."""

import numpy as np
import pytest

from hipnode.evaluation.cases import age_band, stratum_columns
from hipnode.evaluation.record import ANY
from hipnode.evaluation.strata import stratify
from hipnode.evaluation.tables import Label


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (None, None), ("", None), ("old", None), ("49", "<50"), ("49.9", "<50"), ("50", "50-64"), ("64", "50-64"),
        ("74,5", "65-74"), ("075Y", "75-84"), ("84", "75-84"), ("85", "85+"), ("90+", "85+"), ("101", "85+"),
        ("-3", None), ("030M", None),
    ],
)  # fmt: skip
def test_ages_become_bands(age, band):
    assert age_band(age) == band


def label(i, **strata):
    return Label(i, f"c{i}", f"p{i}", ("DF",) if i % 2 else (), strata=strata)


def test_a_column_with_one_value_or_with_very_many_is_no_stratum():
    labels = [
        label(i, sex="F", remark=f"text {i}", age=str(40 + i), implant="yes" if i < 3 else "")
        for i in range(30)
    ]
    columns, says = stratum_columns(labels)
    assert list(columns) == ["age", "implant", "y_class"]
    assert says == ("Column remark has 30 different values and is not used as a stratum.",)
    assert set(columns["age"]) == {"<50", "50-64", "65-74"}


def test_each_value_has_its_counts_and_the_one_that_stands_apart_is_flagged():
    truth = np.array([True] * 100 + [False] * 100)
    called = truth.copy()
    called[:30] = False  # every miss is in site A
    site = tuple(["A"] * 30 + ["B"] * 70 + ["A", "B"] * 50)
    found = stratify({"site": site}, [(ANY, truth, called)], np.arange(200))
    a, b = found.rows
    assert (a.column, a.value, a.n, a.events) == ("site", "A", 80, 30)
    assert (a.counts.tp, a.counts.fn, a.counts.tn, a.counts.fp) == (0, 30, 50, 0)
    assert (a.overall_sensitivity, a.overall_specificity) == (0.7, 1.0)
    assert (a.flagged, b.flagged) == (("sensitivity",), ("sensitivity",))
    assert found.intervals == 4


def test_units_without_a_value_are_a_stratum_of_their_own_and_come_last():
    truth = np.array([True, False, True])
    found = stratify({"age": ("85+", None, "<50")}, [(ANY, truth, truth)], np.arange(3))
    assert [(row.value, row.n) for row in found.rows] == [("<50", 1), ("85+", 1), ("not stated", 1)]
    assert found.rows[2].sensitivity.value is None
    assert found.intervals == 3


def test_the_fracture_type_asks_for_any_fracture_only():
    truth = np.array([True, False])
    asked = [(ANY, truth, truth), ("DF", truth, truth)]
    found = stratify({"y_class": ("DF", "N"), "sex": ("F", "M")}, asked, np.arange(2))
    assert [(row.column, row.value, row.question) for row in found.rows] == [
        ("y_class", "DF", ANY), ("y_class", "N", ANY),
        ("sex", "F", ANY), ("sex", "F", "DF"), ("sex", "M", ANY), ("sex", "M", "DF"),
    ]  # fmt: skip
