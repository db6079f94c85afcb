"""The assembled record: published vectors through the whole path, and what limits the numbers, said."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hipnode.evaluation.assemble import Options, evaluate
from hipnode.evaluation.provenance import command_line, content_sha256, provenance
from hipnode.evaluation.record import ANY
from hipnode.evaluation.review import as_csv
from hipnode.evaluation.statistics.intervals import clopper_pearson, wilson
from hipnode.evaluation.tables import Label, Prediction, Read, TableBox, Tables, TablesUnusable
from hipnode.evaluation.thresholds import Wanted

FOUR = ("DF", "VF", "SF", "UF")
FEW = Options(resamples=200)


def run(tables, options=FEW):
    return evaluate(tables, options, provenance(tables, seed=1, resamples=200, command="hipnode evaluate"))


def rows(classes, truth, scores, model="m", **columns):
    labels = [
        Label(i + 2, f"c{i:04d}", f"p{i}", (y,) if y != "N" else (), **{k: v[i] for k, v in columns.items()})
        for i, y in enumerate(truth)
    ]
    said = [
        Prediction(i + 2, f"c{i:04d}", model, "1", dict(zip(classes, row, strict=True)))
        for i, row in enumerate(scores)
    ]
    return Tables(classes, tuple(labels), tuple(said), ())


def five_outcomes():
    """Vector 2 of the published hand-worked set: twenty cases of four classes, one answer each."""
    letters = {"V": "VF", "D": "DF", "S": "SF", "U": "UF", "N": "N"}
    truth = [letters[c] for c in "VVVVDDDDDDSSSSSUUUUU"]
    answers = [letters[c] for c in "VVDNDDDDVNSSSSUUUUUS"]
    return rows(FOUR, truth, [[0.9 if c == a else 0.0 for c in FOUR] for a in answers])


def two_classes(n=60, seed=2):
    """Noise around the truth; every other case is of the validation part."""
    rng = np.random.default_rng(seed)
    truth = [("DF", "VF", "N")[i % 3] for i in range(n)]
    scores = np.clip(
        rng.normal(0.35, 0.15, (n, 2)) + 0.3 * np.array([[y == c for c in ("DF", "VF")] for y in truth]), 0, 1
    )
    splits = ["validation" if i % 2 else "test" for i in range(n)]
    return rows(("DF", "VF"), truth, scores.tolist(), split=splits), truth, scores


def test_one_answer_per_case_gives_the_hand_worked_table():
    model = run(five_outcomes(), replace(FEW, thresholds=Wanted(all=0.5))).models[0]
    single = model.single_label
    assert model.accuracy.value == pytest.approx(0.70)
    assert single.micro["sensitivity"].value == pytest.approx(0.70)
    assert single.micro["specificity"].value == pytest.approx(0.925)
    assert single.macro["sensitivity"].value == pytest.approx(0.6917, abs=5e-5)
    assert model.kappa.value == pytest.approx(0.6104, abs=5e-5)
    vf = next(row for row in single.rows if row.name == "VF").counts
    assert (vf.tp, vf.fn, vf.fp, vf.tn) == (2, 2, 1, 15)
    assert model.confusion.sum() == 20
    assert model.outcomes[-1] == "N"


def test_the_binary_vector_has_its_area_and_its_youden_threshold():
    p = [0.9, 0.8, 0.7, 0.4, 0.35, 0.6, 0.3, 0.2, 0.1, 0.05]
    found = run(rows(("fracture",), ["fracture"] * 5 + ["N"] * 5, [[x] for x in p]))
    model = found.models[0]
    question = model.classes[0]
    assert question.auc.value == pytest.approx(0.92)
    assert model.thresholds[0].value == 0.35
    assert question.used.youden == pytest.approx(0.8)
    assert question.calibration[0].brier.value == pytest.approx(0.1425)
    # one class: any fracture is that class
    assert model.any_fracture.used.counts == question.used.counts
    assert model.any_fracture.used.threshold == 0.35


def test_numbers_are_those_of_the_test_part_and_of_other_software():
    tables, truth, scores = two_classes()
    model = run(tables).models[0]
    judged = slice(0, None, 2)
    y = np.array(truth)[judged]
    for k, question in enumerate(model.classes):
        assert question.auc.value == pytest.approx(roc_auc_score(y == question.name, scores[judged, k]))
        expected = average_precision_score(y == question.name, scores[judged, k])
        assert question.average_precision.value == pytest.approx(expected)
        called = scores[judged, k] >= question.used.threshold
        assert question.used.counts.tp == int((called & (y == question.name)).sum())
        assert question.used.chosen_on == "validation"
        assert {p.chosen_on for p in question.points} == {"validation"}
    assert model.any_fracture.auc.value == pytest.approx(roc_auc_score(y != "N", scores[judged].max(axis=1)))


def test_the_order_of_rows_changes_nothing_and_a_seed_gives_the_same_record():
    tables, _, _ = two_classes()
    back = replace(tables, labels=tables.labels[::-1], predictions=tables.predictions[::-1])
    one, two = run(tables), run(back)
    assert (one.provenance, one.warnings) == (two.provenance, two.warnings)
    for a, b in zip(one.models[0].classes, two.models[0].classes, strict=True):
        assert (a.used, a.points, a.auc, a.average_precision) == (
            b.used,
            b.points,
            b.auc,
            b.average_precision,
        )
    assert one.models[0].multi_label == two.models[0].multi_label


def test_a_threshold_from_the_judged_cases_is_said_to_be_too_good():
    tables, _, _ = two_classes()
    alone = replace(tables, labels=tuple(replace(x, split=None) for x in tables.labels))
    found = run(alone)
    assert found.models[0].optimistic
    assert found.models[0].any_fracture.used.chosen_on == "same cases"
    half = run(alone, replace(FEW, thresholds=Wanted({"DF": 0.5})))
    assert [q.used.chosen_on for q in (half.models[0].any_fracture, *half.models[0].classes)] == [
        "same cases", "given", "same cases",
    ]  # fmt: skip
    assert any("the threshold of DF, VF was chosen on the cases it is judged on" in w for w in found.warnings)
    assert any("name no split" in w for w in found.warnings)
    given = run(alone, replace(FEW, thresholds=Wanted(all=0.5)))
    assert not given.models[0].optimistic
    assert any("other operating points" in w for w in given.warnings)
    calibrated = found.models[0].classes[0].calibration
    assert [(c.name, c.fitted_on, c.calibrator) for c in calibrated[1:]] == [
        (name, "cross-fitted", None) for name in ("temperature", "platt", "isotonic")
    ]


def test_a_sensitivity_that_only_calling_every_case_reaches_is_said_to_be_that():
    scores = [[s] for s in (0.9, 0.8, 0.0, 0.0, 0.7, 0.0)]  # as of boxes: two fractures have none
    model = run(rows(("F",), ["F", "F", "F", "F", "N", "N"], scores)).models[0]
    point = next(p for p in model.any_fracture.points if p.rule.startswith("sensitivity"))
    assert point.rule == "sensitivity at least 0.95; calls every case"
    assert (point.counts.tp, point.counts.fp) == (4, 2)
    assert model.any_fracture.levels is None
    assert model.any_fracture.levels_says.startswith("Only by calling every case")


def test_every_error_is_listed_by_its_case():
    scores = [[0.9, 0.1], [0.2, 0.1], [0.1, 0.8], [0.1, 0.7], [0.0, 0.2]]
    tables = rows(("DF", "VF"), ["DF", "DF", "DF", "N", "N"], scores)
    silent = Prediction(6, "c0004", "m", "1", {}, not_read="refused")
    tables = replace(tables, predictions=tables.predictions[:4], unread=(silent,))
    found = run(tables, replace(FEW, thresholds=Wanted(all=0.5))).models[0].errors
    assert [(e.case_id, e.what, e.reference, e.called, e.score) for e in found] == [
        ("c0001", "missed", ("DF",), (), 0.2),
        ("c0002", "another class", ("DF",), ("VF",), 0.8),
        ("c0003", "false alarm", (), ("VF",), 0.7),
        ("c0004", "not read", (), (), None),
    ]
    lines = as_csv(found).splitlines()
    assert lines[0] == "case_id,what,reference,called,highest_score,cause,harm,mitigation"
    assert lines[2] == "c0002,another class,DF,VF,0.8000,,,"
    assert lines[4] == "c0004,not read,N,,,,,"


def test_calibrators_are_fitted_on_validation_and_kept():
    tables, _, _ = two_classes(n=400)
    for question in run(tables).models[0].classes:
        before, *after = question.calibration
        assert all(c.fitted_on == "validation" and c.calibrator.n == 200 for c in after)
        assert all(c.ece.value < before.ece.value for c in after)


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        (["DF"] * 10, "Every image has a fracture"),
        (["N"] * 10, "No image has a fracture"),
        (["DF"] * 5 + ["N"] * 5, "No image has VF: how often it is found is undefined"),
        (["DF", "VF"] * 4 + ["N"] * 2, "Fewer than 10 images have DF (4), VF (4)"),
        (["DF", "VF"] * 4 + ["N"] * 2, "Only 2 images without a fracture"),
        (["DF", "VF"] * 4 + ["N"] * 2, "Only 10 images to judge by"),
    ],
)
def test_ten_cases_and_empty_classes_are_no_silent_numbers(truth, says):
    rng = np.random.default_rng(1)
    found = run(rows(("DF", "VF"), truth, rng.random((10, 2)).round(3).tolist()))
    assert any(warning.startswith(says) for warning in found.warnings)
    for question in (found.models[0].any_fracture, *found.models[0].classes):
        positives = question.used.counts.positives
        assert (question.used.estimates["sensitivity"].value is None) == (positives == 0)
        assert (question.auc.value is None) == (positives in (0, 10))
    assert all(identity.holds for identity in found.identities)


def test_hips_of_one_patient_widen_the_intervals():
    tables, _, _ = two_classes(n=120)
    alone = tuple(replace(label, split=None) for label in tables.labels)
    pairs = tuple(replace(label, patient_id=f"p{i // 30}") for i, label in enumerate(alone))
    apart, together = (run(replace(tables, labels=labels)) for labels in (alone, pairs))
    one, two = (found.models[0].any_fracture for found in (apart, together))
    counts = one.used.counts
    assert one.used.estimates["sensitivity"] == wilson(counts.tp, counts.positives)
    assert "of 4 patients" in two.used.estimates["sensitivity"].method
    assert "of 4 patients" in two.average_precision.method
    assert any("120 images of 4 patients" in warning for warning in together.warnings)


def test_clopper_pearson_on_request_is_in_every_table_of_proportions():
    tables, _, _ = two_classes()
    model = run(tables, replace(FEW, interval="clopper-pearson")).models[0]
    shares = [
        *model.any_fracture.used.estimates.values(),
        *(p.estimates["sensitivity"] for p in model.any_fracture.points),
        *(row.estimates["specificity"] for row in (*model.multi_label.rows, *model.single_label.rows)),
        model.accuracy,
        *(row.sensitivity for row in model.strata.rows if row.sensitivity.n),
    ]
    assert {estimate.method for estimate in shares} == {"Clopper-Pearson"}
    assert model.accuracy == clopper_pearson(model.accuracy.events, model.accuracy.n)


def test_units_that_were_not_read_count_as_missed_in_the_other_sensitivity():
    tables = rows(("DF",), ["DF"] * 20 + ["N"] * 20, [[0.9]] * 20 + [[0.1]] * 20)
    silent = tuple(replace(p, probabilities={}, not_read="BODY_PART") for p in tables.predictions[:5])
    found = run(replace(tables, predictions=tables.predictions[5:], unread=silent))
    unread = found.models[0].unread
    assert (unread.units, unread.positives[ANY], unread.reasons) == (5, 5, (("BODY_PART", 5, 5),))
    assert found.models[0].any_fracture.used.estimates["sensitivity"].value == 1.0
    assert unread.sensitivity_of_all == wilson(15, 20)
    assert any("did not read 5 of 40 images, 5 of them with a fracture" in w for w in found.warnings)
    nothing = replace(
        tables, predictions=(), unread=tuple(replace(p, probabilities={}) for p in tables.predictions)
    )
    with pytest.raises(TablesUnusable, match="has no answer to any of the 40 judged cases"):
        run(nothing)


def test_two_models_are_compared_on_the_cases_both_read():
    tables, truth, _ = two_classes(n=200)
    better = [
        replace(p, row=p.row + 500, model_id="b", probabilities={c: float(c == y) for c in ("DF", "VF")})
        for p, y in zip(tables.predictions, truth, strict=True)
    ]
    found = run(
        replace(
            tables,
            predictions=(*tables.predictions, *better[1:]),
            unread=(replace(better[0], not_read="x", probabilities={}),),
        )
    )
    assert [m.name for m in found.models] == ["m 1", "b 1"]
    first = found.comparisons[0]
    assert (first.first, first.second, first.question) == ("m 1", "b 1", ANY)
    assert [c.question for c in found.comparisons] == [ANY, "DF", "VF"]
    assert first.areas.difference.n == 99
    assert first.areas.difference.value < 0
    for difference in first.differences:
        assert difference.difference.value == pytest.approx(difference.first.value - difference.second.value)
        assert difference.mcnemar.lost == 0  # the second model is never wrong
        assert difference.difference.events == difference.mcnemar.gained


def boxed(tables, score=0.8, **sized):
    box = TableBox("DF", (100.0, 100.0, 300.0, 260.0), 1.0)
    seen = TableBox("DF", (140.0, 120.0, 320.0, 280.0), score)
    labels = tuple(replace(x, boxes=(box,) if x.classes else (), **sized) for x in tables.labels)
    said = tuple(
        replace(p, probabilities={}, boxes=(seen,) if x.classes else ())
        for p, x in zip(tables.predictions, tables.labels, strict=True)
    )
    return replace(tables, labels=labels, predictions=said)


def test_boxes_have_their_overlap_and_without_sizes_no_pixels():
    plain = rows(("DF",), ["DF"] * 12 + ["N"] * 12, [[0.0]] * 24)
    options = replace(FEW, thresholds=Wanted(all=0.5))
    found = run(boxed(plain), options).models[0].localisation
    assert found.classes[0].overlap.iou_matched.value == pytest.approx(0.5833, abs=5e-5)
    assert found.classes[0].overlap.dice_matched.value == pytest.approx(0.7368, abs=5e-5)
    assert (found.classes[0].pixels, found.classes[0].right_place.value) == (None, 1.0)
    assert any("size of every image" in says for says in found.says)
    sized = run(boxed(plain, size=(500, 500)), options).models[0].localisation
    assert sized.classes[0].pixels.pooled["iou"].value == pytest.approx(0.5833, abs=5e-5)
    assert sized.froc_at[0.1].value == 1.0
    # below the threshold no mark fires, and the candidates still rank
    low = run(boxed(plain, score=0.3), options).models[0].localisation
    assert (low.classes[0].right_place.value, low.classes[0].ap50.value) == (0.0, 1.0)
    assert run(plain, options).models[0].localisation.says == ("No localisation: the labels have no boxes.",)


def test_units_with_a_class_and_no_box_are_left_out_of_localisation():
    plain = boxed(rows(("DF",), ["DF"] * 12 + ["N"] * 12, [[0.0]] * 24))
    labels = (replace(plain.labels[0], boxes=()), *plain.labels[1:])
    found = run(replace(plain, labels=labels)).models[0].localisation
    assert (found.units, found.classes[0].lesions) == (23, 11)
    assert found.says[0].startswith("1 of 24 images have a class without a reference box")


def read(i, reader, condition, yes, phase=None, seconds=None):
    return Read(i, f"c{i:04d}", reader, condition, "DF" if yes else "N", phase, None, None, seconds)


def test_readers_with_known_discordances():
    """Vector 6 of the hand-worked set: b = 4, c = 15 among the fractures, exact p .0192."""
    tables = rows(("DF",), ["DF"] * 40 + ["N"] * 30, [[0.9]] * 40 + [[0.1]] * 30)
    before = [i >= 15 for i in range(40)] + [False] * 30  # 15 missed without AI
    after = [i < 36 for i in range(40)] + [False] * 30  # and 4 others with it
    reads = [read(i, "r1", "no_ai", yes, "I", 30.0) for i, yes in enumerate(before)]
    reads += [read(i, "r1", "ai", yes, "II", 20.0) for i, yes in enumerate(after)]
    reads += [read(i, "r1", "no_ai", yes, "III") for i, yes in enumerate(before)]  # the same again
    found = run(replace(tables, reads=tuple(reads))).readers
    difference = next(d for d in found.questions[0].differences if d.reader and d.metric == "sensitivity")
    assert (difference.mcnemar.lost, difference.mcnemar.gained) == (4, 15)
    assert difference.mcnemar.p == pytest.approx(0.0192, abs=5e-5)
    assert difference.difference.value == pytest.approx(11 / 40)
    again = next(k for k in found.kappas if k.kind == "intra-observer")
    assert (again.condition, again.kappa.value) == ("no_ai", 1.0)
    assert found.times[0].median_difference == -10.0
    assert [q.name for q in found.questions] == [ANY]
    assert any("70 reads repeat a case" in says for says in found.says)
    changed = {(c.fracture, c.ai_right): (c.harmed, c.corrected) for c in found.questions[0].changes}
    assert changed[True, True] == (4, 15)
    assert found.imrmc_text is not None
    assert len(found.mrmcaov.rows) == 140


def test_reads_of_cases_that_are_not_judged_are_set_aside():
    tables, _, _ = two_classes()
    reads = [
        Read(i, f"c{i:04d}", reader, "no_ai", "DF", None, None, None, None)
        for i in range(60)
        for reader in ("a", "b")
    ]
    found = run(replace(tables, reads=tuple(reads))).readers
    assert (found.cases, found.readers) == (30, ("a", "b"))
    assert found.says[0] == "60 reads are of cases that are not judged here and are set aside."
    assert found.questions[0].differences == ()
    fleiss = next(k for k in found.kappas if k.kind == "fleiss")
    assert fleiss.kappa.value is None  # only one answer was ever given
    assert {len(table.rows) for table in found.tables.values()} == {3}


def test_provenance_hashes_content_and_shows_no_folder():
    tables, _, _ = two_classes()
    moved = tuple(replace(label, row=label.row + 7) for label in reversed(tables.labels))
    assert content_sha256(moved) == content_sha256(tables.labels)
    changed = (replace(moved[0], split="train"), *moved[1:])
    assert content_sha256(changed) != content_sha256(tables.labels)
    words = [
        "hipnode",
        "evaluate",
        "--labels",
        "/home/someone/labels.csv",
        "--out=C:\\Users\\me\\out",
        "--seed",
        "1",
    ]
    assert command_line(words) == "hipnode evaluate --labels labels.csv --out=out --seed 1"
