"""The published tables: their own arithmetic, one's own cases in their form, and PelviXNet's public numbers."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hipnode.evaluation.assemble import Options, evaluate
from hipnode.evaluation.provenance import provenance
from hipnode.evaluation.published import bjj2025, others, sections
from hipnode.evaluation.published.printed import PELVIXNET_COUNTS, PELVIXNET_FOUND, wald
from hipnode.evaluation.record import ClassPlaces, Evaluation, Point, Question, StratumRow
from hipnode.evaluation.report.document import Table
from hipnode.evaluation.statistics.agreement import cohen_kappa
from hipnode.evaluation.statistics.calibration import brier, ece
from hipnode.evaluation.statistics.classes import Boxes
from hipnode.evaluation.statistics.counts import Counts, class_table, one_hot
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.localisation import box_masks, jaccard_summary, match, per_detection
from hipnode.evaluation.statistics.operating import at_threshold, youden
from hipnode.evaluation.statistics.roc import auc, average_precision, delong, roc_curve
from hipnode.evaluation.tables import load
from tests.evaluation_files import four_classes

OUTCOMES = ("DF", "VF", "SF", "UF", "N")
# vector 2 of the specification: 20 cases, no outcome N in the reference
TRUTH = ["VF"] * 4 + ["DF"] * 6 + ["SF"] * 5 + ["UF"] * 5
CALLED = ["VF", "VF", "DF", "N"] + ["DF"] * 4 + ["VF", "N"] + ["SF"] * 4 + ["UF"] + ["UF"] * 4 + ["SF"]
PELVIXNET_CSV = "HIPNODE_PELVIXNET_CSV"


def rows_of(table: Table) -> dict[str, dict[str, object]]:
    return {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def single(truth: list[str], called: list[str]):
    return class_table(one_hot(truth, OUTCOMES), one_hot(called, OUTCOMES), OUTCOMES, seed=1, resamples=50)


def question(labels: np.ndarray, scores: np.ndarray, cut: float) -> Question:
    def point(threshold: float, rule: str) -> Point:
        counts = at_threshold(labels, scores, threshold).counts
        return Point(rule, "given", threshold, counts, counts.proportions(), None)

    best = youden(labels, scores)
    assert best is not None
    empty = np.zeros(0)
    return Question(
        "any", point(cut, "in use"), (point(best.threshold, "Youden"),), roc_curve(labels, scores),
        auc(labels, scores, resamples=50), average_precision(labels, scores, resamples=50),
        (empty, empty, empty), None, None, "", (),
    )  # fmt: skip


def test_table_ii_of_the_paper_does_not_count_cases():
    verdicts = {name: row["Verdict"] for name, row in rows_of(bjj2025.table_two_check()).items()}
    assert verdicts["DF"] == verdicts["VF"] == "not counted per case"
    assert verdicts["SF"] == "can be cases, at the edge of rounding"
    assert verdicts["UF"] == "no 2 x 2 table: accuracy is not between sensitivity and specificity"


def test_accuracy_per_case_of_the_printed_rows_is_the_weighted_mean():
    rows = rows_of(bjj2025.table_two_check())
    assert rows["DF"]["Accuracy per case would be"] == f"{1 - 1410 / 4158 * 0.21:.3f}"
    assert rows["VF"]["Accuracy per case would be"] == f"{1 - 720 / 4158 * 0.20:.3f}"


def test_printed_dice_fits_the_printed_iou_but_for_one_row():
    fits = {
        name: "not fit" not in str(row["Dice from printed IoU"])
        for name, row in rows_of(bjj2025.table_two_check()).items()
    }
    assert fits == {"DF": True, "VF": True, "SF": False, "UF": True}  # 2 * .83 / 1.83 = .907, printed .89


def test_table_iii_of_the_paper_divides_by_five_and_only_its_first_surgeon_can_be_regenerated():
    verdicts = {name: row["Verdict"] for name, row in rows_of(bjj2025.table_three_check()).items()}
    fits = {name for name, verdict in verdicts.items() if verdict == "fits"}
    assert {f"{s}: Macro Se, sum of four rows / 5" for s in "ABC"} < fits
    assert {f"{s}: Micro Sp, 1 - (1 - printed micro Se) / 4" for s in "ABC"} < fits
    assert not {f"{s}: Macro Se, sum of four rows / 4" for s in "ABC"} & fits
    assert [f"{s}: Micro Se from the rows and the class mix" in fits for s in "ABC"] == [True, False, False]
    possible = [verdicts[f"{s}: false calls, never more than misses"] == "possible" for s in "ABC"]
    assert possible == [True, False, False]


def test_micro_of_the_printed_rows_is_what_hand_arithmetic_gives():
    rows = rows_of(bjj2025.table_three_check())
    middle = {s: str(rows[f"{s}: Micro Se from the rows and the class mix"]["Range"]) for s in "ABC"}
    assert middle == {"A": "0.828 to 0.838", "B": "0.857 to 0.867", "C": "0.906 to 0.916"}


def test_compat_counts_the_empty_class_as_zero_beside_the_right_average():
    table = bjj2025.table_three({"A": single(TRUTH, CALLED)}, "hip", "t3", "Table III", compat=True)
    rows = rows_of(table)
    assert rows["Micro over 5 outcomes"]["A Se"].value == pytest.approx(0.70)
    assert rows["Micro over 5 outcomes"]["A Sp"].value == pytest.approx(0.925)
    assert rows["Macro over the 4 outcomes that occur"]["A Se"].value == pytest.approx(0.6917, abs=5e-5)
    assert rows["Macro over the 4 outcomes that occur"]["A Sp"].value == pytest.approx(0.9265, abs=5e-5)
    compat = rows["Macro, compat bjj2025 (K = 5, empty class 0)"]
    assert compat["A Se"] == pytest.approx(0.5533, abs=5e-5)
    assert compat["A Sp"] == pytest.approx(0.9265, abs=5e-5)
    assert any("never use it" in note for note in table.notes)


def test_without_compat_nothing_counts_an_empty_class():
    table = bjj2025.table_three({"A": single(TRUTH, CALLED)}, "hip", "t3", "Table III")
    assert not [name for name in rows_of(table) if "compat" in name]
    empty = rows_of(table)["N (no fracture)"]
    assert (empty["A Se"].value, empty["Events"]) == (None, 0)


def test_mean_and_sd_over_readers_are_of_one_value_each():
    all_right = single(TRUTH, TRUTH)
    table = bjj2025.table_three({"A": single(TRUTH, CALLED), "B": all_right}, "hip", "t3", "T", printed=True)
    row = rows_of(table)["VF"]
    assert (row["n"], row["Events"]) == (40, 8)
    assert (row["Mean Se"], row["SD Se"]) == (pytest.approx(0.75), pytest.approx(0.5 / 2**0.5))
    printed = next(values for name, values in rows_of(table).items() if name.startswith("VF, printed"))
    assert (printed["Mean Se"], printed["A Se"]) == (
        "0.89",
        None,
    )  # the paper's surgeons are none of these readers


def box_study():
    """Two images of 100 x 200 pixels: one box of class 0 hit by half, one missed."""
    reference = Boxes.of([(0, 0, (10, 10, 50, 50), 1.0), (1, 0, (0, 0, 20, 20), 1.0)])
    predicted = Boxes.of([(0, 0, (10, 10, 50, 40), 0.9)])
    matches = match(reference, predicted)
    overlap = per_detection(reference, matches, seed=1, resamples=50)
    pixels = box_masks(reference, predicted, 0, [(100, 200)] * 2, seed=1, resamples=50)
    return ClassPlaces("DF", 2, overlap, pixels, None, None, wilson(1, 2), wilson(1, 2))


def test_table_ii_stands_per_case_and_per_pixel_each_with_its_unit():
    truth = np.array([[True], [True], [False], [False]])
    called = np.array([[True], [False], [False], [False]])
    cases = bjj2025.table_two_cases(
        class_table(truth, called, ["DF"], seed=1, resamples=50), [box_study()], "image"
    )
    pixels = bjj2025.table_two_pixels([box_study()])
    assert pixels is not None
    per_case, pooled = rows_of(cases)["DF"], rows_of(pixels)["DF, all pixels"]
    assert (cases.unit, pixels.unit) == ("image", "pixel")
    assert (per_case["n"], per_case["Events"]) == (4, 2)
    assert (per_case["Accuracy"].value, per_case["Sensitivity"].value) == (0.75, 0.5)
    assert (per_case["IoU of found lesions"].value, per_case["IoU of found lesions"].n) == (0.75, 1)
    # 1,600 and 400 pixels of reference, 1,200 of them painted, of 40,000
    assert pooled["Accuracy"].value == pytest.approx((40_000 - 800) / 40_000)
    assert pooled["Sensitivity"].value == pytest.approx(1200 / 2000)
    assert pooled["IoU"].value == pytest.approx(1200 / 2000)
    mean = rows_of(pixels)["DF, mean of images with it"]
    assert mean["Sensitivity"].value == pytest.approx((0.75 + 0) / 2)
    assert (pooled["Images"], mean["Events (images with the class)"]) == (2, 2)
    assert rows_of(cases)["DF, printed"]["Sensitivity"] == "0.79"


def test_table_ii_per_pixel_needs_pixels():
    assert bjj2025.table_two_pixels([replace(box_study(), pixels=None)]) is None


def test_gain_over_readers_is_given_in_points_and_relative():
    kappa = cohen_kappa(TRUTH, CALLED)
    table = others.bath("hip", wilson(92, 100), kappa, {"N": auc([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.1], resamples=50)},
                        jaccard_summary([0.6, 0.9, 0.8]), [wilson(775, 1000)])  # fmt: skip
    rows = rows_of(table)
    assert (rows["Gain over them, points"]["Here"], rows["Gain over them, points"]["Printed"]) == (
        "14.5",
        "14.5",
    )
    assert (rows["Gain over them, relative %"]["Here"], rows["Gain over them, relative %"]["Printed"]) == (
        "18.7",
        "18.7",
    )
    assert rows["Jaccard index above 0.7"]["Here"].value == pytest.approx(2 / 3)
    assert rows["Jaccard index, mean of reference boxes"]["Here"] == "0.77 (SD 0.15)"
    assert rows["Cohen's kappa against the reference"]["Here"].value == pytest.approx(0.6104, abs=5e-5)


def test_without_readers_there_is_no_gain():
    table = others.bath("hip", wilson(92, 100), cohen_kappa(TRUTH, CALLED), {}, None)
    assert not [name for name in rows_of(table) if "Gain" in name or "Jaccard" in name]
    assert "No reads without AI were given, so that no gain over readers can be told." in table.notes


def test_pelvixnet_counts_give_what_the_paper_prints():
    found = PELVIXNET_COUNTS.proportions()
    printed = {
        "accuracy": (0.9243, 0.9114, 0.9354),
        "sensitivity": (0.9079, 0.8826, 0.9282),
        "specificity": (0.9322, 0.9171, 0.9448),
        "ppv": (0.8673, 0.839, 0.891),
        "npv": (0.9540, 0.941, 0.964),
    }
    for name, (value, low, high) in printed.items():
        digits = 4 if name in ("accuracy", "sensitivity", "specificity") else 3
        assert round(found[name].value, 4) == value
        assert (round(found[name].low, digits), round(found[name].high, digits)) == (low, high)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(1745, 1888, 0.9123, 0.9362), (1183, 1269, 0.9184, 0.9461), (562, 619, 0.8851, 0.9307)],
)
def test_printed_limits_of_pelvixnet_are_walds_within_a_thousandth(successes, n, low, high):
    assert [round(limit, 4) for limit in wald(successes, n)] == [low, high]


def test_printed_upper_limit_of_sensitivity_is_found_to_be_a_misprint():
    labels = np.repeat([True, False], [PELVIXNET_COUNTS.positives, PELVIXNET_COUNTS.negatives])
    scores = np.repeat([0.9, 0.1, 0.9, 0.1], [562, 57, 86, 1183])
    table = others.pelvixnet(question(labels, scores, 0.15), "image")
    rows = rows_of(table)
    assert rows["Accuracy"]["Here"].value == pytest.approx(1745 / 1888)
    assert rows["Sensitivity"]["Wald limits"] == "0.885-0.931"
    assert rows["Sensitivity"]["Printed"] == "0.908 (0.885-0.908)"
    (misprint,) = [note for note in table.notes if "cannot be a limit" in note]
    assert "0.908, is the value itself" in misprint


def test_findings_are_shares_called_whatever_the_class():
    hip = StratumRow(
        "y_class", "DF", "any", 10, 10, Counts(8, 2, 0, 0), wilson(8, 10), wilson(0, 0), 0.9, None, ()
    )
    none = replace(hip, value="N", events=0)
    table = others.pelvixnet_findings([hip, none], "image")
    assert table is not None
    rows = rows_of(table)
    assert (rows["DF"]["n"], rows["DF"]["Events (called)"]) == (10, 8)
    assert "N" not in rows
    shares = {name: rows[f"{name}, printed"]["Called of all"].value for name in PELVIXNET_FOUND}
    assert round(shares["hip fracture"], 3) == 0.944
    assert (round(shares["intracapsular"], 3), round(shares["extracapsular"], 3)) == (0.913, 0.971)
    assert round(shares["pelvic"], 3) == 0.844
    assert others.pelvixnet_findings([none], "image") is None


def test_wrist_table_has_the_limits_its_counts_allow():
    labels = np.repeat([True, False], 50)
    scores = np.r_[np.repeat([0.9, 0.2], [45, 5]), np.repeat([0.9, 0.2], [6, 44])]
    rows = rows_of(others.wrist(question(labels, scores, 0.5), "image"))
    told = "Printed, with the limits its counts allow"
    assert [round(x, 3) for x in (rows["Sensitivity"][told].low, rows["Sensitivity"][told].high)] == [
        0.786,
        0.957,
    ]
    assert [round(x, 3) for x in (rows["Specificity"][told].low, rows["Specificity"][told].high)] == [
        0.762,
        0.944,
    ]
    assert [round(x, 3) for x in (rows["AUC"][told].low, rows["AUC"][told].high)] == [0.911, 0.997]
    assert (rows["Sensitivity"]["Here"].value, rows["Specificity"]["Here"].value) == (0.9, 0.88)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """200 films of four classes with boxes, read by two readers without and with AI; none of them has UF."""
    folder = tmp_path_factory.mktemp("study")
    labels, predictions = four_classes(folder, 200, seed=3)
    frame = pd.read_csv(labels)
    frame.loc[frame.y_class == "UF", "y_class"] = "SF"
    frame["boxes"] = frame["boxes"].fillna("")
    frame.to_csv(labels, index=False)
    films = frame[frame.split == "test"]
    rows = [
        (case, reader, condition, truth if (i + shift) % step else "N")
        for reader, shift in (("a", 0), ("b", 1))
        for condition, step in (("no_ai", 3), ("ai", 6))
        for i, (case, truth) in enumerate(zip(films.case_id, films.y_class, strict=True))
    ]
    reads = folder / "reads.csv"
    pd.DataFrame(rows, columns=["case_id", "reader_id", "condition", "y_read"]).to_csv(reads, index=False)
    tables = load(labels, predictions, OUTCOMES[:4], reads)
    return evaluate(
        tables, Options(resamples=50), provenance(tables, seed=1, resamples=50, command="hipnode evaluate")
    )


def test_every_paper_has_its_section_and_every_table_its_unit(study):
    made = sections(study)
    assert [s.title.partition("(")[2][:12] for s in made] == [
        "Bone Joint J", "Sci Rep 2022", "Nat Commun 2", "Clin Radiol ",
    ]  # fmt: skip
    tables = [part for section in made for part in section.parts]
    assert all(table.unit in ("image", "pixel") for table in tables)
    assert all("n" in table.columns or "Images" in table.columns for table in tables)
    assert all(any(column.startswith("Events") for column in table.columns) for table in tables)
    assert [table.name for table in tables] == [
        "bjj2025-table-2-cases", "bjj2025-table-2-pixels", "bjj2025-table-2-check", "bjj2025-table-3-model",
        "bjj2025-table-3-no-ai", "bjj2025-table-3-ai", "bjj2025-table-3-check", "bath2022", "pelvixnet2021",
        "pelvixnet2021-findings", "wrist2018",
    ]  # fmt: skip


def test_gain_is_over_the_mean_of_the_readers_without_ai(study):
    (table,) = sections(study)[1].parts
    rows = rows_of(table)
    assert study.readers is not None
    alone = [t.micro["sensitivity"].value for (_, c), t in study.readers.tables.items() if c == "no_ai"]
    assert rows["Accuracy of 2 readers without AI, mean"]["Here"] == pytest.approx(sum(alone) / 2)
    points = 100 * (study.models[0].accuracy.value - sum(alone) / 2)
    assert rows["Gain over them, points"]["Here"] == f"{points:.1f}"


def test_compat_changes_only_what_it_names(study):
    plain = {p.name: p for s in sections(study) for p in s.parts}
    compat = {p.name: p for s in sections(study, compat_bjj2025=True) for p in s.parts}
    changed = {name for name in plain if plain[name] != compat[name]}
    assert changed == {"bjj2025-table-3-model", "bjj2025-table-3-no-ai", "bjj2025-table-3-ai"}
    rows = rows_of(compat["bjj2025-table-3-model"])
    right = rows["Macro over the 4 outcomes that occur"]["m 2 Se"].value  # of five, UF is empty
    assert rows["Macro, compat bjj2025 (K = 5, empty class 0)"]["m 2 Se"] == pytest.approx(right * 4 / 5)


def test_findings_add_up_to_any_fracture(study):
    table = next(p for s in sections(study) for p in s.parts if p.name == "pelvixnet2021-findings")
    own = [row for row in table.rows if "printed" not in str(row[0])]
    used = study.models[0].any_fracture.used.counts
    assert sorted(str(row[0]) for row in own) == ["DF", "SF", "VF"]
    assert (sum(row[1] for row in own), sum(row[2] for row in own)) == (used.positives, used.tp)


@pytest.mark.skipif(PELVIXNET_CSV not in os.environ, reason=f"{PELVIXNET_CSV} names no local copy")
def test_the_public_table_of_pelvixnet_gives_all_of_its_numbers():
    """data/PXR_analysis.csv of github.com/atong89130/PelviXNet (MIT), which is not kept here."""
    with Path(os.environ[PELVIXNET_CSV]).open(newline="", encoding="utf-8") as stream:
        films = [row for row in csv.DictReader(stream) if row["datasplit"] == "test" and row["prob"] != "NA"]
    labels = np.array([row["Abnormal"] == "TRUE" for row in films])
    scores = np.array([float(row["prob"]) for row in films])
    assert at_threshold(labels, scores, 0.15).counts == PELVIXNET_COUNTS
    area = delong(labels, scores)
    assert [round(x, 4) for x in (area.value, area.low, area.high)] == [0.9729, 0.9647, 0.9811]
    precision = average_precision(labels, scores, seed=1)
    assert round(precision.value, 5) == 0.96331
    assert (precision.low, precision.high) == (pytest.approx(0.954, abs=2e-3), pytest.approx(0.972, abs=2e-3))
    best = youden(labels, scores)
    assert best is not None
    assert (round(best.youden, 3), round(best.threshold, 3)) == (0.848, 0.294)
    assert round(ece(labels, scores, resamples=10).value, 3) == 0.030
    assert round(brier(labels, scores, resamples=10).value, 3) == 0.051
    columns = {"hip fracture": "Hipfx", "intracapsular": "hipfx_intracapsular", "extracapsular": "hipfx_extracapsular",
               "pelvic": "Pelvicfx", "femoral shaft": "FShaftfx", "dislocation": "Dislocation",
               "periprosthetic": "Periprothesis"}  # fmt: skip
    for name, (found, n) in PELVIXNET_FOUND.items():
        there = np.array([row[columns[name]] == "1" for row in films])
        assert (int((there & (scores >= 0.15)).sum()), int(there.sum())) == (found, n)
    hip = np.array([row["Hipfx"] == "1" for row in films])
    assert round(delong(hip[hip | ~labels], scores[hip | ~labels]).value, 4) == 0.9853
