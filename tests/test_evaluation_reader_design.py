"""Design checks of a reader study, and its tables for R."""

import dataclasses

import pytest

from hipnode.evaluation.statistics.reader_design import (
    Read,
    design_checks,
    imrmc_table,
    imrmc_text,
    mrmcaov_table,
)

TRUTH = {"a": True, "b": False, "c": True, "d": False}


def good_study():
    """Two readers, four cases, two phases; reader 1 begins without AI and reader 2 with it."""
    orders = {
        ("1", "I"): "abcd",
        ("1", "II"): "dbac",
        ("2", "I"): "cadb",
        ("2", "II"): "bdca",
    }
    reads = []
    for (reader, phase), cases in orders.items():
        condition = "no_ai" if (reader == "1") == (phase == "I") else "ai"
        reads += [Read(c, reader, condition, TRUTH[c], phase, i, 3.5) for i, c in enumerate(cases)]
    return reads


def checks(reads, **words):
    return {check.name: check for check in design_checks(reads, TRUTH, **words)}


def test_a_crossed_counterbalanced_study_passes_every_check():
    found = checks(good_study(), washout_days=30, clinic_prevalence=0.4)
    assert {check.state for check in found.values()} == {"ok"}
    assert found["crossed"].says == "Every one of 2 readers read all 4 cases in both conditions."
    assert "4 of 8 pairs" in found["counterbalancing"].says


def test_what_is_not_stated_is_said():
    bare = [dataclasses.replace(r, phase=None, order=None) for r in good_study()]
    found = checks(bare)
    assert "not known for 8 of 8 pairs" in found["counterbalancing"].says
    assert "not recorded" in found["case-order"].says
    assert "not stated" in found["washout"].says
    assert found["prevalence"].says.startswith("2 of 4 cases (50%)")
    assert {check.state for name, check in found.items() if name != "crossed"} == {"note"}


def test_missing_reads_are_counted():
    assert "1 of 16 reads are missing" in checks(good_study()[1:])["crossed"].says


def test_ai_always_second_is_not_counterbalanced():
    reads = [dataclasses.replace(r, phase="I" if r.condition == "no_ai" else "II") for r in good_study()]
    found = checks(reads)["counterbalancing"]
    assert (found.state, found.says.split(";")[0]) == (
        "note",
        "Not counterbalanced: 8 of 8 pairs were read without AI first",
    )


def test_ai_shown_in_the_same_look_is_named():
    reads = [dataclasses.replace(r, phase="I") for r in good_study()]
    assert "same look" in checks(reads)["washout"].says


def test_one_order_for_everybody_is_noted():
    reads = [dataclasses.replace(r, order="abcd".index(r.case_id)) for r in good_study()]
    assert "All 4 lists of cases have the same order" in checks(reads)["case-order"].says


def test_a_short_washout_and_another_prevalence_are_noted():
    found = checks(good_study(), washout_days=7, clinic_prevalence=0.05)
    assert "7 days" in found["washout"].says
    assert "5.0% in the clinic" in found["prevalence"].says
    assert (found["washout"].state, found["prevalence"].state) == ("note", "note")


def test_reads_with_ai_only_say_nothing_about_change():
    found = checks([r for r in good_study() if r.condition == "ai"])
    assert "all reads are with AI; they say nothing about what AI changes" in found["crossed"].says
    assert found["counterbalancing"].state == "note"
    nothing = {check.name: check for check in design_checks([], {})}
    assert nothing["crossed"].says == "No case was read at all."
    assert nothing["prevalence"].says == "There are no cases."


def test_the_long_table_has_a_row_per_read():
    table = mrmcaov_table(good_study(), TRUTH)
    assert table.columns == ("reader", "treatment", "case", "truth", "rating")
    assert len(table.rows) == 16
    assert table.rows[0] == ("1", "ai", "a", 1, 3.5)
    unsure = [dataclasses.replace(good_study()[0], confidence=None), *good_study()[1:]]
    assert {row[4] for row in mrmcaov_table(unsure, TRUTH).rows} == {0, 1}


def test_imrmc_gets_the_truth_as_a_reader():
    table = imrmc_table(good_study()[:6], TRUTH)
    assert table.columns == ("readerID", "caseID", "modalityID", "score")
    assert table.rows[:4] == tuple(("truth", case, "truth", int(there)) for case, there in TRUTH.items())
    assert len(table.rows) == 4 + 6
    with pytest.raises(ValueError, match="another name"):
        imrmc_table([dataclasses.replace(good_study()[0], reader_id="truth")], TRUTH)


def test_the_imrmc_file_has_numbers_for_names_and_every_read():
    lines = imrmc_text(good_study(), TRUTH).splitlines()
    assert lines[2:6] == ["NR: 2", "N0: 2", "N1: 2", "NM: 2"]
    data = lines[lines.index("BEGIN DATA:") + 1 :]
    assert data[:5] == ["-1,1,0,1", "-1,2,0,0", "-1,3,0,1", "-1,4,0,0", "1,1,1,3.5"]
    assert len(data) == 4 + 16
    with pytest.raises(ValueError, match="15 of 16 reads are there, 0 twice"):
        imrmc_text(good_study()[1:], TRUTH)
    with pytest.raises(ValueError, match="16 of 16 reads are there, 1 twice"):
        imrmc_text([*good_study(), good_study()[0]], TRUTH)
    with pytest.raises(ValueError, match="0 of 0"):
        imrmc_text([], TRUTH)


def test_bad_reads_are_refused_in_words():
    stray = [Read("x", "1", "ai", True)]
    for export in (mrmcaov_table, imrmc_table, imrmc_text):
        with pytest.raises(ValueError, match="case x was read and has no reference"):
            export(stray, TRUTH)
    with pytest.raises(ValueError, match="not assisted"):
        design_checks([Read("a", "1", "assisted", True)], TRUTH)
    with pytest.raises(ValueError, match="not at 20"):
        design_checks([], TRUTH, clinic_prevalence=20)
