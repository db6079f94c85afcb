"""Which cases are judged, by which scores, and which thresholds: from tables to arrays."""

from dataclasses import replace

import pytest

from hipnode.decision import DecisionRule
from hipnode.evaluation.cases import (
    ALL,
    TEST,
    check,
    classes_in,
    facts_of,
    gather,
    judged_split,
    models_in,
    stratum_columns,
)
from hipnode.evaluation.record import ANY
from hipnode.evaluation.tables import Label, Prediction, TableBox, Tables, TablesUnusable
from hipnode.evaluation.thresholds import Wanted, choose, wanted

CLASSES = ("DF", "VF")
MODEL = ("m", "1")
RULE = DecisionRule()


def label(i, *classes, **more):
    return Label(i + 2, f"c{i}", more.pop("patient", f"p{i}"), classes, **more)


def said(i, df=0.0, vf=0.0, model="m", **more):
    return Prediction(i + 2, f"c{i}", model, "1", {"DF": df, "VF": vf}, **more)


def boxed(i, *boxes):
    made = tuple(TableBox(name, (x, 0.0, x + 10, 10.0), score) for name, x, score in boxes)
    return Prediction(i + 2, f"c{i}", "m", "1", {}, made)


def tables(labels, predictions, **more):
    return Tables(CLASSES, tuple(labels), tuple(predictions), (), **more)


def problems(function, *given):
    with pytest.raises(TablesUnusable) as refused:
        function(*given)
    return [str(problem) for problem in refused.value.problems]


def test_without_splits_all_cases_are_judged_and_with_them_the_test_part():
    labels = [label(0, "DF"), label(1)]
    assert judged_split(tables(labels, [])) == ALL
    parts = [replace(labels[0], split="test"), replace(labels[1], split="validation")]
    assert judged_split(tables(parts, [])) == TEST


def test_half_a_split_is_no_split():
    mixed = tables([label(0, split="test"), label(1), label(2)], [])
    assert problems(judged_split, mixed) == [
        f"labels, row {row}: split is empty, and other rows have one; give every row its split"
        for row in (3, 4)
    ]
    (only,) = problems(judged_split, tables([label(0, split="train")], []))
    assert "no row is of split test (there is train)" in only


def test_probabilities_are_scores_as_they_are_and_boxes_give_the_best_of_each_class():
    labels = [label(0, "DF"), label(1, "DF", "VF")]
    exact = gather(tables(labels, [said(0, 0.123456, 0.2), said(1)]), MODEL, ALL, RULE)
    assert exact.scores.tolist() == [[0.123456, 0.2], [0.0, 0.0]]
    assert (exact.score_from, exact.truth.tolist()) == ("p columns", [[True, False], [True, True]])
    of_boxes = gather(
        tables(labels, [boxed(0, ("DF", 0, 0.3), ("DF", 50, 0.6), ("VF", 0, 0.04)), boxed(1)]),
        MODEL,
        ALL,
        RULE,
    )
    assert of_boxes.scores.tolist() == [[0.6, 0.0], [0.0, 0.0]]  # 0.04 is below tau_min
    assert (of_boxes.score_from, len(of_boxes.predicted)) == ("boxes", 2)


def test_a_missing_probability_is_named_and_no_zero():
    half = replace(said(1), probabilities={"DF": 0.3})
    assert [str(p) for p in check(tables([label(0), label(1)], [said(0), half]))] == [
        "predictions, row 3: p_VF is empty; a missing score is no 0"
    ]
    only_one = [replace(said(i), probabilities={"DF": 0.3}) for i in range(2)]
    (problem,) = check(tables([label(0), label(1)], only_one))
    assert "model m 1 has no p_VF; add it, or name the classes to evaluate with --classes" in str(problem)


def test_a_class_cannot_be_called_as_all_of_them_are():
    odd = Tables((ANY,), (label(0),), (), ())
    assert [str(p) for p in check(odd)] == [
        "predictions: a class is called any, which stands for all classes together here; give it another name"
    ]


def test_units_that_were_not_read_are_apart():
    silent = Prediction(3, "c1", "m", "1", {}, not_read="BODY_PART")
    cases = gather(tables([label(0, "DF"), label(1, "VF")], [said(0)], unread=(silent,)), MODEL, ALL, RULE)
    assert len(cases) == 1
    assert [(u.classes, u.reason) for u in cases.unread] == [(("VF",), "BODY_PART")]


@pytest.mark.parametrize(
    ("hips", "unit"),
    [
        ((None, None), "image"),
        (("none", "none"), "image"),
        (("L", "R"), "hip"),
        (("L", None), "hip or image"),
    ],
)
def test_the_unit_is_what_the_hip_column_says(hips, unit):
    facts = facts_of(tables([label(i, hip=hip) for i, hip in enumerate(hips)], []))
    assert facts.unit == unit
    assert facts_of(tables([label(0)], []), "patient").unit == "patient"


def test_facts_count_units_patients_images_and_classes():
    labels = [
        label(0, "DF", patient="a", hip="L", image_uid="1", split="test"),
        label(1, "DF", "VF", patient="a", hip="R", image_uid="1", split="test"),
        label(2, patient="b", hip="L", image_uid="2", split="validation"),
    ]
    facts = facts_of(tables(labels, []))
    judged = facts.judged
    assert (judged.name, judged.units, judged.patients, judged.images) == ("test", 2, 1, 1)
    assert judged.positives == {ANY: 2, "DF": 2, "VF": 1}
    assert (facts.several_classes, facts.clustered, [s.name for s in facts.splits]) == (
        1,
        True,
        ["test", "validation"],
    )


def test_classes_come_from_the_columns_of_the_predictions(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("case_id,model_id,p_fracture,p_N\nc,m,0.1,0.9\n")
    assert classes_in(file) == ("fracture",)
    file.write_text("case_id,model_id,boxes\nc,m,\n")
    assert classes_in(file) == ("DF", "VF", "SF", "UF")


def test_models_come_in_the_order_of_their_rows():
    both = [said(0, model="b"), replace(said(1, model="a"), row=9)]
    assert models_in(tables([], both)) == (("b", "1"), ("a", "1"))


def of(truth, scores):
    """Cases of one class that has these scores, beside one without a case."""
    labels = [label(i, *(("DF",) if y else ())) for i, y in enumerate(truth)]
    return gather(tables(labels, [said(i, s) for i, s in enumerate(scores)]), MODEL, ALL, RULE)


CASES = of([1, 1, 0, 0], [0.9, 0.6, 0.5, 0.1])
VALIDATION = of([1, 0, 0], [0.4, 0.3, 0.2])


def test_a_threshold_that_is_given_comes_before_the_package_and_any_choice():
    rule = DecisionRule({"DF": 0.7, "VF": 0.8})
    df, vf = choose(CASES, VALIDATION, wanted(["DF=0.25"], CLASSES, rule))
    assert (df.value, df.chosen_on, vf.value, vf.chosen_on) == (0.25, "given", 0.8, "package")
    df, vf = choose(CASES, VALIDATION, wanted(["0.15", "VF=0.2"], CLASSES, rule))
    assert (df.value, vf.value, df.optimistic) == (0.15, 0.2, False)


def test_validation_chooses_and_without_it_the_same_cases_are_said_to():
    df, vf = choose(CASES, VALIDATION, Wanted())
    assert (df.value, df.chosen_on, df.says) == (0.4, "validation", "Youden on validation")
    assert (vf.value, vf.chosen_on) == (0.5, "convention")  # nobody has VF
    df, _ = choose(CASES, None, Wanted())
    assert (df.value, df.chosen_on, df.optimistic) == (0.6, "same cases", True)
    assert "too good" in df.says


def test_thresholds_that_are_none_are_all_named():
    with pytest.raises(ValueError, match="is no number") as refused:
        wanted(["half", "XF=0.3", "1.5", "0.1", "0.2", "DF=0.1", "DF=0.2"], CLASSES)
    lines = str(refused.value).splitlines()
    assert [line.split(" is ")[1][:12] for line in lines] == [
        "no number; w", "of an unknow", "not in 0..1", "the second f", "the second f",
    ]  # fmt: skip


def test_a_column_that_only_says_another_again_is_no_stratum():
    rows = [("L", "left", "a"), ("R", "right", "a"), ("L", "left", "b")] * 2
    labels = [
        label(i, hip=hip, strata={"side": side, "ward": ward}) for i, (hip, side, ward) in enumerate(rows)
    ]
    columns, says = stratum_columns(labels)
    assert (tuple(columns), says) == (
        ("hip", "ward"),
        ("Column side divides the cases as hip does and is not shown again.",),
    )


def test_a_column_that_may_name_patients_is_no_stratum():
    labels = [label(i, strata={"patient_name": f"Name{i}", "sex": "FM"[i % 2]}) for i in range(10)]
    columns, says = stratum_columns(labels)
    assert tuple(columns) == ("sex",)
    assert says == ("Column patient_name differs between most patients and is not used as a stratum.",)
