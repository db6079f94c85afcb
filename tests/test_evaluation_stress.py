"""Stress tests: what each change does to a film, what it must leave, and how its effect is counted."""

import json

import numpy as np
import pytest

from hipnode.decision import DecisionRule
from hipnode.evaluation.films.stress import TRANSFORMS, StressUnknown, change, standard
from hipnode.evaluation.films.stressed import stress_rows, stress_section, stressed_tables
from hipnode.evaluation.tables import TablesUnusable, load
from hipnode.selection import Selection, facts_of
from hipnode.status import ReasonCode
from tests.factories import hip_picture, make_radiograph

FILM = np.round(hip_picture(160, 128) * 255).astype(np.uint8)
RULE = DecisionRule({"DF": 0.5, "VF": 0.5})


@pytest.mark.parametrize("one", standard(), ids=lambda one: one.name)
def test_a_change_of_pixels_gives_another_film_and_the_same_each_time(one):
    before = FILM.copy()
    changed = one.film(FILM)
    assert (changed.dtype, changed.ndim) == (np.uint8, 2)
    assert (before == FILM).all()
    assert np.array_equal(changed, one.film(FILM))
    assert one.changes_header == np.array_equal(changed, FILM)
    assert one.changes_header == one.transform.must_refuse


@pytest.mark.parametrize(("name", "level"), [("rotation", 0), ("crop", 0), ("exposure", 1), ("noise", 0)])
def test_the_level_of_no_change_changes_nothing(name, level):
    assert np.array_equal(change(name, level).film(FILM), FILM)


def test_a_rotation_turns_about_the_middle_and_brings_in_black():
    spot = np.zeros((101, 101), np.uint8)
    spot[50, 90] = 255
    turned = change("rotation", 90).film(spot)
    assert np.unravel_index(turned.argmax(), turned.shape) == (10, 50)  # counter-clockwise: right goes up
    white = change("rotation", 45).film(np.full((101, 101), 255, np.uint8))
    assert (white[0, 0], white[50, 50]) == (0, 255)


def test_a_crop_takes_the_same_share_from_opposite_sides():
    rows, columns = np.indices((100, 80)).astype(np.uint8)
    cut = change("crop", 0.2)
    assert (cut.film(rows).shape, cut.film(rows)[0, 0], cut.film(columns)[0, 0]) == ((80, 64), 10, 8)


def test_exposure_inversion_and_noise_do_what_they_say():
    half = np.full((200, 200), 128, np.uint8)
    assert change("exposure", 2).film(half)[0, 0] == 64
    assert change("exposure", 0.5).film(half)[0, 0] == 181
    assert (change("inversion", 1).film(half) == 127).all()
    noisy = change("noise", 10).film(half).astype(float)
    assert (noisy.mean(), noisy.std()) == (pytest.approx(128, abs=0.2), pytest.approx(10, abs=0.2))


def test_text_is_written_and_more_lines_write_more():
    black = np.zeros((400, 400), np.uint8)
    inked = [int((change("burnt_in_text", lines).film(black) > 0).sum()) for lines in (1, 4)]
    assert 0 < inked[0] < inked[1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("wrong_body_part", ReasonCode.OTHER_REGION), ("implant_named", ReasonCode.IMPLANT)],
)
def test_a_hip_film_whose_header_says_otherwise_is_refused(name, reason):
    selection = Selection.load(None)
    for kind in ("DX", "CR"):
        facts = facts_of(make_radiograph(kind))
        assert not selection.decide(facts).skipped
        decision = selection.decide(change(name, 1).header(facts))
        assert (decision.skipped, decision.reason.code) == (True, reason)


@pytest.mark.parametrize(
    ("name", "level", "says"),
    [("blur", 1, "There is no stress test 'blur'; there are rotation, crop"),
     ("crop", 0.9, "it is the share of height and width that is lost and lies in 0 to 0.8")],
)  # fmt: skip
def test_unknown_stress_tests_and_levels_are_named(name, level, says):
    with pytest.raises(StressUnknown, match=says):
        change(name, level)


def test_names_and_levels_are_unique_and_within_their_limits():
    names = [one.name for one in standard()]
    assert len(set(names)) == len(names)
    assert {one.name.split()[0] for one in standard()} == set(TRANSFORMS)
    assert all(change(one.transform.name, one.level) == one for one in standard())


@pytest.fixture
def brought(tmp_path):
    """Six fractures and four without, untouched and under two changes."""
    truth = ["DF"] * 6 + ["N"] * 4
    untouched = [0.9] * 5 + [0.1] + [0.1] * 3 + [0.8]  # sensitivity 5/6, specificity 3/4
    turned = [0.9] * 3 + [0.2] * 3 + [0.1] * 4  # 3/6 and 4/4
    labels = [
        {"case_id": f"c{i}", "patient_id": f"p{i}", "y_class": name, "hip": "L"}
        for i, name in enumerate(truth)
    ]

    def row(i, score, **more):
        box = {"xyxy": [1, 1, 9, 9], "class": "DF", "score": score}
        return {"case_id": f"c{i}", "model_id": "m", "model_version": "1", "boxes": [box], **more}

    changed = [row(i, score, stress="rotation 20") for i, score in enumerate(turned)]
    gone = {"model_id": "m", "model_version": "1", "boxes": [], "stress": "wrong_body_part 1"}
    changed += [gone | {"case_id": f"c{i}", "not_read": "OTHER_REGION"} for i in range(9)]
    changed += [gone | {"case_id": "c9", "not_read": "DECODE_FAILED"}]
    for name, rows in (
        ("labels", labels), ("predictions", [row(i, s) for i, s in enumerate(untouched)]), ("stress", changed)
    ):  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_the_effect_is_counted_in_pairs(brought):
    tables = load(brought / "labels.jsonl", brought / "predictions.jsonl", ("DF", "VF"))
    changes = [change("rotation", 20), change("wrong_body_part", 1), change("noise", 5)]
    under = stressed_tables(tables, brought / "stress.jsonl")
    turned, knee = stress_rows(tables, under, changes, ("m", "1"), "all", RULE)  # no film was made noisy
    assert (turned.n, turned.refused.value, turned.failed) == (10, 0, 0)
    assert (turned.sensitivity.value, turned.specificity.value) == (0.5, 1)
    assert turned.sensitivity_change.value == pytest.approx(3 / 6 - 5 / 6)
    assert turned.specificity_change.value == pytest.approx(0.25)
    assert turned.sensitivity_change.events == 2  # discordant pairs
    assert turned.sensitivity_change.low < 0 < turned.specificity_change.high
    assert (knee.n, knee.refused.value, knee.refused.events, knee.failed) == (10, 0.9, 9, 1)
    assert (knee.sensitivity.value, knee.sensitivity_change.value) == (None, None)
    section = stress_section([turned, knee], "hip")
    assert section.paragraphs[1:] == (
        "When the header says knee and nothing of a hip, the film must be refused: of 10 hips only 9 were refused, "
        "0.900 (0.596–0.982).",
        "In none of 2 comparisons is the whole interval on the side of a loss.",
    )
    (table,) = section.parts
    assert [row[:3] for row in table.rows] == [("rotation", "20", 10), ("wrong body part", "1", 10)]
    assert any("missing side marker is not tested" in note for note in table.notes)


def test_what_a_change_takes_beyond_chance_is_said(brought):
    label = {"y_class": "DF", "hip": "L"}
    box = {"xyxy": [1, 1, 9, 9], "class": "DF"}
    rows = {"labels": [], "predictions": [], "stress": []}
    for i in range(40):
        ids = {"case_id": f"c{i}"}
        said = ids | {"model_id": "m", "model_version": "1"}
        rows["labels"].append(ids | label | {"patient_id": f"p{i}"})
        rows["predictions"].append(said | {"boxes": [box | {"score": 0.9}]})
        rows["stress"].append(
            said | {"stress": "noise 20", "boxes": [box | {"score": 0.9 if i < 30 else 0.1}]}
        )
        rows["stress"].append(said | {"stress": "wrong_body_part 1", "boxes": [], "not_read": "OTHER_REGION"})
    for name, lines in rows.items():
        (brought / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tables = load(brought / "labels.jsonl", brought / "predictions.jsonl", ("DF", "VF"))
    under = stressed_tables(tables, brought / "stress.jsonl")
    changes = [change("noise", 20), change("wrong_body_part", 1)]
    section = stress_section(stress_rows(tables, under, changes, ("m", "1"), "all", RULE), "hip")
    assert section.paragraphs[1:] == (
        "When the header says knee and nothing of a hip, the film must be refused: of 40 hips all were refused, "
        "1.000 (0.912–1.000).",
        "The whole interval is on the side of a loss for sensitivity by 25 points under noise 20. Of 1 comparisons "
        "about one in forty would be by chance alone.",
    )


def test_a_case_without_an_untouched_answer_has_no_pair(brought):
    lines = (brought / "predictions.jsonl").read_text().splitlines()
    unread = {"case_id": "c0", "model_id": "m", "model_version": "1", "not_read": "IMPLANT"}
    (brought / "predictions.jsonl").write_text("\n".join([json.dumps(unread), *lines[1:]]))
    tables = load(brought / "labels.jsonl", brought / "predictions.jsonl", ("DF", "VF"))
    under = stressed_tables(tables, brought / "stress.jsonl")
    (turned,) = stress_rows(tables, under, [change("rotation", 20)], ("m", "1"), "all", RULE)
    assert (turned.n, turned.sensitivity.n, turned.sensitivity.value) == (9, 5, 0.4)


def test_a_file_of_changed_films_without_that_column_is_named(brought):
    tables = load(brought / "labels.jsonl", brought / "predictions.jsonl", ("DF", "VF"))
    with pytest.raises(TablesUnusable, match=r"predictions\.jsonl: has no column stress"):
        stressed_tables(tables, brought / "predictions.jsonl")
