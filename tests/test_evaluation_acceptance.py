"""The judgement of an acceptance run: what passes, what does not, and what cannot be said."""

from pathlib import Path

import numpy as np
import pytest

from hipnode.decision import DecisionRule
from hipnode.evaluation.acceptance.cases import (
    NoThreshold,
    answers_of,
    keys_of,
    problems_before,
    shortages,
    thresholds_of,
)
from hipnode.evaluation.acceptance.judgement import (
    Answers,
    Verdict,
    case_key,
    held,
    judge,
    judge_hypothesis,
    judge_refusal,
    judge_stress,
    measured,
    paired_difference,
)
from hipnode.evaluation.acceptance.protocol import Hypothesis, Stress, parse_protocol
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.tables import Tables, load
from hipnode.status import AcceptanceOutcome
from tests.test_evaluation_protocol import SMALL

CLASSES = ("DF", "VF")
RULE = DecisionRule({"DF": 0.5, "VF": 0.5})


def protocol(*changes: tuple[str, str]):
    text = SMALL
    for was, became in changes:
        assert was in text
        text = text.replace(was, became, 1)
    return parse_protocol(text)


def answers(tp: int, fn: int, fp: int, tn: int, unread: int = 0, per_patient: int = 1) -> Answers:
    """Any fracture (all of class DF) in so many hips; the last `unread` positives were not read."""
    truth = np.repeat([True, True, False, False], [tp, fn, fp, tn])
    called = np.repeat([True, False, True, False], [tp, fn, fp, tn])
    n = len(truth)
    both = np.zeros((n, 2), dtype=bool)
    reference, said = both.copy(), both.copy()
    reference[:, 0], said[:, 0] = truth, called
    read = np.ones(n, dtype=bool)
    read[tp + fn - unread : tp + fn] = False
    patients = np.array([f"p{i // per_patient}" for i in range(n)])
    return Answers(CLASSES, patients, reference, said * 0.9, said, None, read)


def outcome(given: Answers, *changes: tuple[str, str]) -> AcceptanceOutcome:
    return judge(protocol(*changes), given, {}).outcome


def test_a_package_passes_when_every_lower_limit_is_above_its_bound():
    found = judge(protocol(), answers(95, 5, 10, 190), {})
    assert (found.outcome, found.reasons) == (AcceptanceOutcome.PASS, ())
    assert [j.verdict for j in found.judgements] == [Verdict.HOLDS, Verdict.HOLDS]
    assert found.judgements[0].estimate == wilson(95, 100)
    assert (found.judgements[0].positives, found.judgements[0].negatives) == (100, 200)
    assert found.judgements[0].says == (
        "sensitivity for any fracture: lower 95 % limit above 0.85: holds. Found 95 of 100, 0.950 (95 % "
        "interval 0.888 to 0.978)."
    )


def test_a_value_above_the_bound_is_not_enough_where_chance_may_have_made_it():
    found = judge(protocol(), answers(90, 10, 10, 190), {})
    assert found.outcome is AcceptanceOutcome.FAIL
    assert found.judgements[0].verdict is Verdict.NOT_SHOWN  # 0.90, interval from 0.826
    assert "not shown" in found.reasons[0]
    by_value = ("bound = 0.85", 'bound = 0.85\nby = "value"')
    assert outcome(answers(90, 10, 10, 190), by_value) is AcceptanceOutcome.PASS


def test_one_hypothesis_that_does_not_hold_fails_the_run():
    found = judge(protocol(), answers(99, 1, 60, 140), {})
    assert [j.verdict for j in found.judgements] == [Verdict.HOLDS, Verdict.DOES_NOT_HOLD]
    assert found.outcome is AcceptanceOutcome.FAIL
    assert len(found.reasons) == 1


def test_too_few_cases_are_neither_a_pass_nor_a_fail():
    found = judge(protocol(), answers(49, 0, 0, 200), {})
    assert found.outcome is AcceptanceOutcome.NOT_ENOUGH
    assert found.reasons == (
        "sensitivity for any fracture: lower 95 % limit above 0.85: not enough cases; 49 patients with a fracture "
        "of 50 needed.",
    )
    # too few to say the one, enough to know that the other does not hold: all must hold, so it is a fail
    assert outcome(answers(49, 0, 100, 100)) is AcceptanceOutcome.FAIL


def test_patients_count_and_not_their_films():
    """Sixty films of thirty patients are thirty patients."""
    assert outcome(answers(60, 0, 0, 300, per_patient=2)) is AcceptanceOutcome.NOT_ENOUGH
    wide = judge(protocol(), answers(95, 5, 10, 190, per_patient=5), {}).judgements
    single = judge(protocol(), answers(95, 5, 10, 190), {}).judgements
    assert wide[0].positives == 20
    assert wide[1].estimate.low < single[1].estimate.low


def test_a_film_without_an_answer_is_a_wrong_one_unless_the_protocol_says_else():
    given = answers(95, 5, 10, 190, unread=5)  # the five are those that were missed anyway
    strict, lenient = (
        judge_hypothesis(p, p.hypotheses[0], given).estimate
        for p in (protocol(), protocol(("[minimum]", 'not_read = "left out"\n[minimum]')))
    )
    assert (strict.events, strict.n) == (95, 100)
    assert (lenient.events, lenient.n) == (95, 95)
    refusing = Answers(
        CLASSES, given.patients, given.truth, given.scores, given.called, None, np.zeros(300, dtype=bool)
    )
    assert measured(protocol(), "sensitivity", "any", refusing).value == 0
    assert measured(protocol(), "specificity", "any", refusing).value == 0  # no answer is no "no fracture"
    assert measured(protocol(), "auc", "any", refusing).value == 0
    unread = measured(protocol(), "unread", "any", given)
    assert (unread.events, unread.n) == (5, 300)


def test_units_left_out_no_longer_count_for_the_minimum():
    p = protocol(("[minimum]", 'not_read = "left out"\n[minimum]'))
    found = judge(p, answers(50, 3, 0, 200, unread=4), {})
    assert found.outcome is AcceptanceOutcome.NOT_ENOUGH
    assert "49 patients with a fracture of 50" in found.reasons[0]


@pytest.mark.parametrize(
    ("value", "low", "high", "by", "below", "verdict"),
    [
        (None, None, None, "value", False, Verdict.TOO_FEW),
        (0.9, None, None, "lower limit", False, Verdict.TOO_FEW),
        (0.9, 0.86, 0.95, "lower limit", False, Verdict.HOLDS),
        (0.9, 0.85, 0.95, "lower limit", False, Verdict.NOT_SHOWN),  # on the bound is not above it
        (0.85, 0.80, 0.95, "value", False, Verdict.DOES_NOT_HOLD),
        (0.02, 0.01, 0.84, "lower limit", True, Verdict.HOLDS),
        (0.02, 0.01, 0.86, "lower limit", True, Verdict.NOT_SHOWN),
        (0.90, 0.80, 0.95, "lower limit", True, Verdict.DOES_NOT_HOLD),
    ],
)
def test_the_bound_itself_is_on_the_wrong_side(value, low, high, by, below, verdict):
    assert held(Estimate(value, low, high, 10, 5, ""), 0.85, by, below=below) is verdict


def test_a_class_is_judged_on_its_own_cases():
    given = answers(95, 5, 10, 190)
    assert measured(protocol(), "sensitivity", "DF", given) == wilson(95, 100)
    assert measured(protocol(), "sensitivity", "VF", given).value is None
    one = Hypothesis.model_validate({"metric": "sensitivity", "class": "VF", "bound": 0.8})
    assert judge_hypothesis(protocol(), one, given).verdict is Verdict.TOO_FEW
    no_boxes = Hypothesis.model_validate({"metric": "right_place", "bound": 0.8})
    assert "no boxes" in judge_hypothesis(protocol(), no_boxes, given).says


def test_the_chance_that_a_package_on_the_bound_passes_is_about_one_in_forty():
    """1,000 packages whose sensitivity is the bound, on 300 fractures: about 25 may pass (one-sided 2.5 %)."""
    rng = np.random.default_rng(11)
    hits = rng.binomial(300, 0.85, 1000)
    passes = sum(held(wilson(int(h), 300), 0.85, "lower limit") is Verdict.HOLDS for h in hits)
    assert 10 <= passes <= 45


def test_a_stratum_that_is_worse_is_flagged_and_fails_only_where_the_protocol_says_so():
    given = answers(180, 20, 10, 390)
    sex = ["F" if i < 40 or i >= 200 else "M" for i in range(600)]
    bad = ["old" if 170 <= i < 200 else None for i in range(600)]  # 10 of 30 found
    note = protocol(("bound = 0.80", 'bound = 0.80\n[strata]\ncolumns = ["sex", "bone"]'))
    fail = protocol(("bound = 0.80", 'bound = 0.80\n[strata]\nflagged = "fail"\ncolumns = ["sex", "bone"]'))
    found = judge(note, given, {"sex": sex, "bone": bad})
    flagged = {(r.column, r.value, r.metric): r.flagged for r in found.strata if r.flagged}
    assert flagged == {
        ("bone", "old", "sensitivity"): "worse",
        ("bone", "(not given)", "sensitivity"): "better",
        ("sex", "F", "sensitivity"): "better",
    }
    assert found.outcome is AcceptanceOutcome.PASS
    failing = judge(fail, given, {"sex": sex, "bone": bad})
    assert failing.outcome is AcceptanceOutcome.FAIL
    assert failing.reasons[0].startswith("bone old: sensitivity 10 of 30, 0.333")
    larger = protocol(
        ("bound = 0.80", 'bound = 0.80\n[strata]\nfewest = 31\nflagged = "fail"\ncolumns = ["sex", "bone"]')
    )
    assert judge(larger, given, {"sex": sex, "bone": bad}).outcome is AcceptanceOutcome.PASS


def test_stress_is_judged_on_the_same_films_before_and_after():
    stress = Stress.model_validate({"transform": "rotation", "levels": [5], "largest_drop": 0.05})
    before, after = answers(95, 5, 10, 190), answers(89, 11, 10, 190)
    sensitivity, specificity = judge_stress(stress, 5, before, after)
    assert sensitivity.difference.value == pytest.approx(-0.06)
    assert (sensitivity.difference.n, sensitivity.difference.events) == (100, 6)
    assert (sensitivity.verdict, specificity.verdict) == (Verdict.DOES_NOT_HOLD, Verdict.HOLDS)
    found = judge(protocol(), before, {}, (sensitivity, specificity))
    assert found.outcome is AcceptanceOutcome.FAIL
    assert found.reasons[0].startswith("rotation 5: sensitivity changes by -0.060")
    edge = judge_stress(stress, 5, before, answers(90, 10, 10, 190))[0]
    assert edge.verdict is Verdict.HOLDS  # the largest drop that is allowed
    strict = stress.model_copy(update={"by": "lower limit"})
    assert judge_stress(strict, 5, before, answers(91, 9, 10, 190))[0].verdict is Verdict.NOT_SHOWN


def test_films_that_must_be_refused_are_judged_by_the_share_that_was():
    stress = Stress.model_validate({"transform": "wrong_body_part", "levels": [1], "refused": 1})
    assert judge_refusal(stress, 1, wilson(50, 50)).verdict is Verdict.HOLDS
    missed = judge_refusal(stress, 1, wilson(49, 50))
    assert missed.verdict is Verdict.DOES_NOT_HOLD
    assert missed.says.startswith("wrong body part 1: 49 of 50, 0.980")
    assert judge(protocol(), answers(95, 5, 10, 190), {}, [missed]).outcome is AcceptanceOutcome.FAIL
    none = judge_refusal(stress, 1, wilson(0, 0))
    assert judge(protocol(), answers(95, 5, 10, 190), {}, [none]).outcome is AcceptanceOutcome.NOT_ENOUGH


def test_the_paired_interval_is_that_of_agresti_and_min():
    """Ratings of 1,600 voters, Agresti, Categorical Data Analysis 2002, 10.1.1: -0.04 (-0.06 to -0.02)."""
    first = np.repeat([True, True, False, False], [794, 150, 86, 570])
    second = np.repeat([True, False, True, False], [794, 150, 86, 570])
    voters = np.array([f"p{i}" for i in range(1600)])
    found = paired_difference(second, first, voters)
    assert (found.value, found.events) == (pytest.approx(-0.04), 236)
    assert (found.low, found.high) == pytest.approx((-0.0587, -0.0212), abs=0.0003)
    # by hand, b = 2, c = 0, n = 20: centre 2/22, SE = sqrt(3 - 4/22)/22
    few = paired_difference(np.arange(20) < 12, np.arange(20) < 10, voters[:20])
    se = np.sqrt(2.5 + 0.5 - 2**2 / 22) / 22
    assert (few.low, few.high) == pytest.approx((2 / 22 - 1.96 * se, 2 / 22 + 1.96 * se))


def test_no_unit_that_differs_is_no_certainty_and_hips_of_a_patient_are_not_independent():
    same = np.ones(40, dtype=bool)
    alone, pairs = np.array([f"p{i}" for i in range(40)]), np.array([f"p{i // 2}" for i in range(40)])
    one, two = paired_difference(same, same, alone), paired_difference(same, same, pairs)
    assert (one.value, one.low, one.high) == (0, pytest.approx(-1.96 / 42), pytest.approx(1.96 / 42))
    assert two.high == pytest.approx(1.96 / 22)  # as of twenty patients
    changed = np.arange(40) >= 4  # both hips of two patients lost
    assert paired_difference(changed, same, pairs).low < paired_difference(changed, same, alone).low
    assert "20 patients" in paired_difference(changed, same, pairs).method
    assert paired_difference(same[:0], same[:0], alone[:0]).value is None


def test_the_paired_interval_holds_the_truth_about_as_often_as_it_says():
    """2,000 samples of 60 pairs, of which 6 % lose and 2 % gain: about 95 % of intervals hold -0.04."""
    rng = np.random.default_rng(3)
    names = np.array([f"p{i}" for i in range(60)])
    held_it = 0
    for _ in range(2000):
        kind = rng.choice(4, 60, p=[0.06, 0.02, 0.80, 0.12])  # lost, gained, both, neither
        found = paired_difference((kind == 1) | (kind == 2), (kind == 0) | (kind == 2), names)
        held_it += found.low <= -0.04 <= found.high
    assert 0.93 <= held_it / 2000 <= 0.985


def test_a_case_is_known_by_its_image_and_not_by_its_name():
    assert case_key("1.2.3", "a.dcm", "L", "case-1") == case_key("1.2.3", "b.dcm", "L", "case-2")
    assert case_key("1.2.3", None, "L", "x") != case_key("1.2.3", None, "R", "x")
    assert case_key(None, "a.png", None, "x") == case_key(None, "a.png", None, "y")
    assert case_key(None, None, None, "x") != case_key(None, None, None, "y")


HEADER = "case_id,patient_id,y_class,hip,split,sex,boxes"


def tables(tmp_path: Path, labels: list[str], predictions: list[str], header: str = HEADER) -> Tables:
    (tmp_path / "labels.csv").write_text("\n".join([header, *labels]) + "\n")
    (tmp_path / "predictions.csv").write_text(
        "\n".join(["case_id,model_id,p_DF,p_VF,boxes,not_read", *predictions]) + "\n"
    )
    return load(tmp_path / "labels.csv", tmp_path / "predictions.csv", CLASSES)


BOX = '"[[10,10,30,30]]"'
LABELS = [
    f"c1,a,DF,L,test,F,{BOX}", "c2,a,N,R,test,F,", f"c3,b,VF,L,test,M,{BOX}", f"c4,c,DF,L,test,,{BOX}",
    "v1,v,N,L,validation,F,", f"v2,w,VF,L,validation,F,{BOX}", "t1,t,N,L,train,F,",
]  # fmt: skip
NEAR = '"[{""xyxy"": [10,10,30,28], ""class"": ""DF"", ""score"": 0.8}]"'
FAR = '"[{""xyxy"": [50,50,70,70], ""class"": ""VF"", ""score"": 0.7}]"'
PREDICTIONS = [
    f"c1,hip-test,0.8,0.6,{NEAR},", "c2,hip-test,0.5,0.1,,", f"c3,hip-test,0.1,0.7,{FAR},",
    "c4,hip-test,,,,DECODE_FAILED", "v1,hip-test,0.1,0.2,,", "v2,hip-test,0.1,0.4,,",
]  # fmt: skip


def test_the_answers_are_those_of_the_test_part_in_the_view_of_the_protocol(tmp_path):
    both = tables(tmp_path, LABELS, PREDICTIONS)
    given, labels = answers_of(protocol(), both, ("hip-test", ""), RULE)
    assert [x.case_id for x in labels] == ["c1", "c2", "c3", "c4"]
    assert given.patients.tolist() == ["a", "a", "b", "c"]
    assert given.truth.tolist() == [[True, False], [False, False], [False, True], [True, False]]
    assert given.called.tolist() == [[True, False], [True, False], [False, True], [False, False]]
    assert given.read.tolist() == [True, True, True, False]
    assert given.placed.tolist() == [[True, False], [False, False], [False, False], [False, False]]
    multi = protocol(("[minimum]", 'view = "multi-label"\n[minimum]'))
    assert answers_of(multi, both, ("hip-test", ""), RULE)[0].called[0].tolist() == [True, True]
    place = measured(protocol(), "right_place", "any", given)
    assert (place.events, place.n) == (1, 3)
    assert measured(protocol(), "right_place", "VF", given).value == 0


def test_thresholds_come_from_where_the_protocol_says_with_the_shift(tmp_path):
    both = tables(tmp_path, LABELS, PREDICTIONS)
    model = ("hip-test", "")
    own = thresholds_of(protocol(), both, model, RULE)
    assert [(t.class_name, t.used, t.package, t.estimated) for t in own] == [
        ("DF", 0.5, 0.5, None), ("VF", 0.5, 0.5, 0.4),
    ]  # fmt: skip
    said = protocol(
        ("[minimum]", '[thresholds]\nfrom = "protocol"\nvalues = {DF = 0.2, VF = 0.3}\n[minimum]')
    )
    assert [t.used for t in thresholds_of(said, both, model, None)] == [0.2, 0.3]
    chosen = protocol(("[minimum]", '[thresholds]\nfrom = "validation"\nsensitivity = 0.9\n[minimum]'))
    with pytest.raises(NoThreshold, match="DF"):
        thresholds_of(chosen, both, model, RULE)
    with pytest.raises(NoThreshold, match="package"):
        thresholds_of(protocol(), both, model, None)


def test_what_can_be_known_before_a_film_is_read_is_told_before(tmp_path):
    both = tables(tmp_path, LABELS, PREDICTIONS)
    assert problems_before(protocol(), both.labels, CLASSES) == []
    lacking = shortages(protocol(), both.labels, CLASSES)
    assert lacking[0].endswith("not enough cases; 3 patients with a fracture of 50 needed.")
    assert lacking[1].endswith("not enough cases; 1 patients without a fracture of 100 needed.")
    hard = protocol(
        ('unit = "hip"', 'unit = "image"'),
        ("bound = 0.80", 'bound = 0.80\n[[hypotheses]]\nmetric = "right_place"\nbound = 0.5'),
        ("[minimum]", '[strata]\ncolumns = ["sex", "bone"]\n[minimum]'),
        ("[minimum]", '[thresholds]\nfrom = "validation"\n[minimum]'),
    )  # fmt: skip
    broken = [*LABELS[:3], "c4,c,DF;VF,L,test,,", *LABELS[4:]]
    said = " | ".join(problems_before(hard, tables(tmp_path, broken, PREDICTIONS).labels, CLASSES))
    for words in (
        "unit of the protocol is image, that of the labels hip", "no column bone",
        "right_place: 1 rows with a class have no box of it, first row 5",
        "1 rows have more than one class, first row 5", "0 patients of split validation have DF",
    ):  # fmt: skip
        assert words in said, said
    only_training = [x for x in both.labels if x.split == "train"]
    assert "no row is of split test" in problems_before(protocol(), only_training, CLASSES)[0]
    two_films = protocol(('unit = "hip"', 'unit = "patient"'))
    plain = tables(
        tmp_path, ["c1,a,DF", "c2,a,N"], ["c1,m,1,0,,", "c2,m,0,0,,"], "case_id,patient_id,y_class"
    )
    assert "a patient has more than one row" in problems_before(two_films, plain.labels, CLASSES)[0]
    assert len(keys_of(both.labels)) == 7
