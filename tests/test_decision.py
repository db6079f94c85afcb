"""The decision rule, table by table; each table begins with the empty case."""

import numpy as np
import pytest

from hipnode.decision import Calibration, DecisionRule, group_hips, name_findings, same_hip
from hipnode.evaluation.statistics import calibration
from hipnode.findings import (
    Algorithm,
    Alternative,
    Box,
    Candidate,
    Detections,
    FindingClass,
    ImageReading,
    KnownSide,
    Level,
    Side,
)
from hipnode.images import Radiograph
from hipnode.status import Outcome

NAMES = ("DF", "VF", "SF", "UF")
THRESHOLDS = {"DF": 0.5, "VF": 0.4, "SF": 0.5, "UF": 0.5}
RULE = DecisionRule(THRESHOLDS)
VALGUS_FIRST = DecisionRule(THRESHOLDS, valgus_priority=0.2)
ALGORITHM = Algorithm(
    "detector", "1", "maker", "id", "0" * 64, tuple(FindingClass(n, n, n, "99HIPNODE") for n in NAMES)
)
RIGHT_HIP = (100.0, 200.0, 300.0, 420.0)
RIGHT_HIP_TOO = (110.0, 190.0, 310.0, 400.0)  # IoU 0.79 with it
LEFT_HIP = (600.0, 210.0, 810.0, 430.0)

Seen = tuple[str, float, tuple[float, float, float, float]]


def detections(*seen: Seen) -> Detections:
    return Detections(
        np.array([box for _, _, box in seen], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in seen], np.float32),
        np.array([NAMES.index(name) for name, _, _ in seen], np.int64),
    )


def radiograph(rows: int = 800, columns: int = 1000, **header: object) -> Radiograph:
    return Radiograph(np.zeros((rows, columns), np.uint8), "1.2.3", **header)  # type: ignore[arg-type]


def read(*seen: Seen, rule: DecisionRule = RULE, image: Radiograph | None = None) -> ImageReading:
    return name_findings(detections(*seen), image or radiograph(), ALGORITHM, rule)


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([], []),
        ([("DF", 0.49, RIGHT_HIP)], []),
        ([("DF", 0.5, RIGHT_HIP)], [("DF", 0.5, None)]),  # at the threshold it fires
        ([("VF", 0.41, RIGHT_HIP)], [("VF", 0.41, None)]),  # each class has its own
        ([("DF", 0.41, RIGHT_HIP)], []),
        # The best score of a class in a hip counts.
        ([("DF", 0.6, RIGHT_HIP), ("DF", 0.8, RIGHT_HIP_TOO)], [("DF", 0.8, None)]),
        # A second class that fires in the same hip is the alternative; one that does not fire is not.
        ([("DF", 0.8, RIGHT_HIP), ("UF", 0.6, RIGHT_HIP_TOO)], [("DF", 0.8, ("UF", 0.6))]),
        ([("DF", 0.8, RIGHT_HIP), ("UF", 0.4, RIGHT_HIP_TOO)], [("DF", 0.8, None)]),
        # A better class that does not fire is not named.
        ([("DF", 0.45, RIGHT_HIP), ("VF", 0.42, RIGHT_HIP_TOO)], [("VF", 0.42, None)]),
        # Three fire: first and second are named.
        (
            [("SF", 0.5, RIGHT_HIP), ("DF", 0.8, RIGHT_HIP), ("UF", 0.6, RIGHT_HIP)],
            [("DF", 0.8, ("UF", 0.6))],
        ),
        # Two hips, two findings, the better first.
        ([("UF", 0.6, RIGHT_HIP), ("DF", 0.9, LEFT_HIP)], [("DF", 0.9, None), ("UF", 0.6, None)]),
    ],
)
def test_what_is_named_in_each_hip(
    seen: list[Seen], found: list[tuple[str, float, tuple[str, float] | None]]
) -> None:
    reading = read(*seen)
    assert reading.outcome is (Outcome.FINDINGS if found else Outcome.NONE)
    assert [
        (f.class_name, f.score, f.alternative and (f.alternative.class_name, f.alternative.score))
        for f in reading.findings
    ] == found
    assert {f.rule for f in reading.findings} <= {None}
    assert len(reading.candidates) == len(seen)


@pytest.mark.parametrize(
    ("seen", "named", "alternative", "by_rule"),
    [
        ([], None, None, False),
        ([("DF", 0.9, RIGHT_HIP)], "DF", None, False),
        ([("DF", 0.9, RIGHT_HIP), ("VF", 0.19, RIGHT_HIP)], "DF", None, False),
        ([("DF", 0.9, RIGHT_HIP), ("VF", 0.2, RIGHT_HIP_TOO)], "VF", "DF", True),
        ([("DF", 0.9, RIGHT_HIP), ("VF", 0.5, RIGHT_HIP_TOO)], "VF", "DF", True),
        ([("VF", 0.9, RIGHT_HIP), ("DF", 0.6, RIGHT_HIP_TOO)], "VF", "DF", False),  # the score chose
        ([("DF", 0.3, RIGHT_HIP), ("VF", 0.3, RIGHT_HIP)], None, None, False),  # nothing fires: no finding
        ([("UF", 0.9, RIGHT_HIP), ("VF", 0.3, RIGHT_HIP)], "UF", None, False),  # only DF gives way
        ([("DF", 0.9, RIGHT_HIP), ("VF", 0.3, LEFT_HIP)], "DF", None, False),  # another hip
    ],
)
def test_valgus_priority(seen: list[Seen], named: str | None, alternative: str | None, by_rule: bool) -> None:
    findings = read(*seen, rule=VALGUS_FIRST).findings
    assert [f.class_name for f in findings] == ([named] if named else [])
    for finding in findings:
        assert (finding.alternative and finding.alternative.class_name) == alternative
        assert (finding.rule is not None) == by_rule


def test_the_priority_names_itself_and_keeps_both_scores() -> None:
    (finding,) = read(("DF", 0.9, RIGHT_HIP), ("VF", 0.3, RIGHT_HIP_TOO), rule=VALGUS_FIRST).findings
    assert (finding.class_name, finding.score) == ("VF", 0.3)
    assert finding.alternative == Alternative("DF", 0.9)
    assert finding.box == Box(*RIGHT_HIP_TOO)
    assert finding.rule == "valgus priority: VF is named before DF from a score of 0.2"
    (plain,) = read(("DF", 0.9, RIGHT_HIP), ("VF", 0.3, RIGHT_HIP_TOO)).findings
    assert (plain.class_name, plain.rule) == ("DF", None)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (Box(0, 0, 0, 0), Box(5, 5, 5, 5), False),
        (Box(0, 0, 100, 100), Box(0, 0, 100, 100), True),
        (Box(0, 0, 100, 100), Box(0, 0, 100, 50), True),  # IoU 0.5
        (Box(0, 0, 100, 100), Box(30, 30, 60, 60), True),  # a small box inside: its centre
        (Box(0, 0, 100, 100), Box(60, 60, 300, 300), False),  # a corner only
        (Box(0, 0, 100, 100), Box(200, 0, 300, 100), False),
        (Box(0, 0, 400, 100), Box(150, 10, 390, 90), True),  # the centre of either
    ],
)
def test_which_boxes_show_one_hip(a: Box, b: Box, same: bool) -> None:
    assert same_hip(a, b) is same
    assert same_hip(b, a) is same


def test_a_weak_box_across_both_hips_does_not_join_them() -> None:
    across = (120.0, 200.0, 790.0, 425.0)
    found = read(("DF", 0.9, RIGHT_HIP), ("UF", 0.8, LEFT_HIP), ("SF", 0.6, across)).findings
    assert [(f.class_name, f.box.column_min) for f in found[:2]] == [("DF", 100.0), ("UF", 600.0)]


def test_a_better_box_that_does_not_fire_does_not_swallow_a_finding() -> None:
    rule = DecisionRule({**THRESHOLDS, "SF": 0.95})
    wide = (90.0, 100.0, 820.0, 500.0)
    found = read(("SF", 0.94, wide), ("DF", 0.9, RIGHT_HIP), ("UF", 0.8, LEFT_HIP), rule=rule).findings
    assert [f.class_name for f in found] == ["DF", "UF"]


def test_no_candidate_makes_no_hip() -> None:
    assert group_hips([], RULE) == []
    assert group_hips([Candidate("DF", 0.1, Box(*RIGHT_HIP))], RULE) == []


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((0, 0, 0, 0), None),
        ((-10, -20, 50, 60), Box(0, 0, 50, 60)),
        ((900, 700, 1200, 900), Box(900, 700, 1000, 800)),
        ((-5, -5, 2000, 2000), Box(0, 0, 1000, 800)),
        ((1001, 10, 1100, 20), None),  # outside
        ((-100, 10, 0.5, 20), None),  # half a pixel is left
        ((50, 60, 40, 70), None),  # turned over
        ((10.004, 20.006, 30.5, 40.25), Box(10.0, 20.01, 30.5, 40.25)),
    ],
)
def test_boxes_are_clipped_to_the_image_and_empty_ones_dropped(
    box: tuple[float, float, float, float], clipped: Box | None
) -> None:
    reading = read(("DF", 0.9, box))
    assert [c.box for c in reading.candidates] == ([clipped] if clipped else [])
    assert reading.outcome is (Outcome.FINDINGS if clipped else Outcome.NONE)


def test_candidates_stand_best_first_down_to_tau_min() -> None:
    rule = DecisionRule(THRESHOLDS, tau_min=0.1)
    reading = read(
        ("SF", 0.1, LEFT_HIP),
        ("UF", 0.0999, LEFT_HIP),
        ("DF", 0.3, RIGHT_HIP),
        ("VF", 0.2, RIGHT_HIP),
        rule=rule,
    )
    assert [(c.class_name, c.score) for c in reading.candidates] == [("DF", 0.3), ("VF", 0.2), ("SF", 0.1)]
    assert reading.outcome is Outcome.NONE


def test_the_score_a_reader_sees_is_the_one_that_decided() -> None:
    (finding,) = read(("DF", 0.49996, RIGHT_HIP)).findings
    assert finding.score == 0.5
    assert read(("DF", 0.49994, RIGHT_HIP)).findings == ()


def test_each_finding_and_candidate_has_its_side_where_the_header_says_so() -> None:
    pelvis = radiograph(patient_orientation=("L", "F"), body_part="PELVIS")
    reading = read(("DF", 0.9, RIGHT_HIP), ("UF", 0.8, LEFT_HIP), image=pelvis)
    assert [f.side for f in reading.findings] == [
        KnownSide(Side.RIGHT, "PatientOrientation"),
        KnownSide(Side.LEFT, "PatientOrientation"),
    ]
    assert [c.side for c in reading.candidates] == [f.side for f in reading.findings]
    silent = read(("DF", 0.9, RIGHT_HIP), image=radiograph(1000, 800))
    assert silent.findings[0].side is None


def test_the_reading_names_the_image() -> None:
    assert read().sop_instance_uid == "1.2.3"
    assert read().candidates == ()


@pytest.mark.parametrize(
    "wrong",
    [
        Detections(np.full((1, 4), np.nan, np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)),
        Detections(np.zeros((1, 4), np.float32), np.full(1, np.inf, np.float32), np.zeros(1, np.int64)),
        Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.full(1, 4, np.int64)),
        Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.full(1, -1, np.int64)),
    ],
    ids=["box", "score", "class above", "class below"],
)
def test_numbers_that_mean_nothing_are_refused(wrong: Detections) -> None:
    with pytest.raises(ValueError, match="the detector gave"):
        name_findings(wrong, radiograph(), ALGORITHM, RULE)


def test_certainty_and_level_are_told_and_decide_nothing() -> None:
    seen = [("DF", 0.8, RIGHT_HIP), ("VF", 0.6, RIGHT_HIP_TOO), ("SF", 0.5, LEFT_HIP)]
    rule = DecisionRule(
        THRESHOLDS, definite={"DF": 0.8, "SF": 0.9}, calibration=Calibration("temperature", temperature=0.5)
    )
    plain, told = read(*seen), read(*seen, rule=rule)
    assert [(f.class_name, f.score, f.box) for f in told.findings] == [
        (f.class_name, f.score, f.box) for f in plain.findings
    ]
    assert [(f.certainty, f.level) for f in plain.findings] == [(None, None)] * 2
    assert [(f.certainty, f.level) for f in told.findings] == [(0.941, Level.DEFINITE), (0.5, Level.POSSIBLE)]
    alternative = told.findings[0].alternative
    assert alternative is not None
    assert alternative.certainty == pytest.approx(0.692)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_the_node_maps_scores_as_the_evaluation_fitted_them(method: str) -> None:
    rng = np.random.default_rng(5)
    scores = rng.random(200).round(4)
    fitted = calibration.fit(method, rng.random(200) < scores**2, scores)
    applied = Calibration(
        fitted.method, **{k: v if isinstance(v, float) else tuple(v) for k, v in fitted.numbers.items()}
    )
    some = np.array([0.0, 1e-9, 0.05, 0.3, 0.5, 0.77, 0.9999, 1.0])
    expected = fitted(some)
    assert [applied.certainty(float(s)) for s in some] == pytest.approx(expected, abs=5.1e-4)
