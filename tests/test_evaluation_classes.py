"""Boxes to classes, against the node's own rule and against suppression written out."""

import numpy as np
import pytest

from hipnode.decision import DecisionRule, name_findings
from hipnode.evaluation.statistics.classes import (
    Boxes,
    class_scores,
    iou_matrix,
    keep,
    multi_label,
    single_label,
)
from hipnode.findings import Algorithm, Detections, FindingClass
from hipnode.images import Radiograph

NAMES = ("DF", "VF", "SF", "UF")
RULE = DecisionRule({"DF": 0.5, "VF": 0.4, "SF": 0.5, "UF": 0.5})
VALGUS_FIRST = DecisionRule(RULE.thresholds, valgus_priority=0.2)
HIP = (100.0, 200.0, 300.0, 420.0)
ALGORITHM = Algorithm("d", "1", "m", "i", "0" * 64, tuple(FindingClass(n, n, n, "99HIPNODE") for n in NAMES))


def test_no_box_is_no_class():
    none = keep(Boxes.of([]), RULE)
    assert len(none) == 0
    scores = class_scores(none, 3, 4)
    assert scores.tolist() == [[0.0] * 4] * 3
    assert single_label(scores, NAMES, RULE) == ["N"] * 3
    assert not multi_label(scores, NAMES, RULE).any()
    assert single_label(np.zeros((0, 4)), NAMES, RULE) == []


def test_a_class_without_a_box_is_not_positive_at_a_threshold_of_zero():
    assert not multi_label(np.zeros((1, 1)), ["DF"], DecisionRule({"DF": 0.0})).any()


@pytest.mark.parametrize(
    ("scores", "multi", "single"),
    [
        ((0.49, 0, 0, 0), "", "N"),
        ((0.5, 0, 0, 0), "DF", "DF"),  # at the threshold it fires
        ((0, 0.41, 0, 0), "VF", "VF"),  # each class has its own
        ((0.45, 0.42, 0, 0), "VF", "VF"),  # a better class that does not fire is not named
        ((0.8, 0, 0, 0.6), "DF UF", "DF"),
        ((0.8, 0, 0.8, 0), "DF SF", "DF"),  # equal: the first of the names
        ((0.49996, 0, 0, 0), "DF", "DF"),  # rounded to four digits first
    ],
)
def test_both_views(scores, multi, single):
    row = np.array([scores], dtype=float)
    assert " ".join(np.array(NAMES)[multi_label(row, NAMES, RULE)[0]]) == multi
    assert single_label(row, NAMES, RULE) == [single]


@pytest.mark.parametrize(
    ("scores", "single"),
    [
        ((0.8, 0.2, 0, 0), "VF"),
        ((0.8, 0.19, 0, 0), "DF"),
        ((0.8, 0.2, 0.9, 0), "SF"),  # only before DF
        ((0.49, 0.3, 0, 0), "N"),  # it reorders what fired and fires nothing itself
    ],
)
def test_valgus_priority(scores, single):
    assert single_label(np.array([scores], dtype=float), NAMES, VALGUS_FIRST) == [single]


@pytest.mark.parametrize("rule", [RULE, VALGUS_FIRST])
def test_one_hip_gets_the_name_the_node_gives_it(rule):
    rng = np.random.default_rng(6)
    image = Radiograph(np.zeros((800, 1000), np.uint8), "1.2.3")
    named, rows = [], []
    for unit in range(300):
        m = int(rng.integers(0, 6))
        # all boxes near one another: one hip
        corners = np.array(HIP) + rng.uniform(-5, 5, (m, 4))
        score, class_id = rng.random(m).astype(np.float32), rng.integers(0, 4, m)
        seen = Detections(corners.astype(np.float32), score, class_id)
        findings = name_findings(seen, image, ALGORITHM, rule).findings
        assert len(findings) <= 1
        named.append(findings[0].class_name if findings else "N")
        rows += [(unit, int(k), tuple(c), float(s)) for k, c, s in zip(class_id, corners, score, strict=True)]
    scores = class_scores(keep(Boxes.of(rows), rule), 300, 4)
    assert single_label(scores, NAMES, rule) == named
    assert set(named) == {*NAMES, "N"}


def test_suppression_is_greedy_within_unit_and_class():
    rng = np.random.default_rng(8)
    rows = []
    for _ in range(200):
        x, y = rng.uniform(0, 20, 2)
        corners = (x, y, x + rng.uniform(30, 40), y + rng.uniform(30, 40))
        rows.append((int(rng.integers(5)), int(rng.integers(2)), corners, round(float(rng.random()), 4)))
    left, expected = sorted((r for r in rows if r[3] >= 0.05), key=lambda r: -r[3]), []
    while left:
        best, *others = left
        expected.append(best)
        left = [
            r
            for r in others
            if r[:2] != best[:2] or iou_matrix(np.array([r[2]]), np.array([best[2]]))[0, 0] <= RULE.nms_iou
        ]
    seen = keep(Boxes.of(rows), RULE)
    assert len(expected) < 150
    assert [(u, k, s) for u, k, s in zip(seen.unit, seen.class_id, seen.score, strict=True)] == [
        (u, k, s) for u, k, _, s in sorted(expected, key=lambda r: (r[0], -r[3]))
    ]


def test_two_known_boxes_overlap_as_worked_by_hand():
    a, b = np.array([[100.0, 100, 300, 260]]), np.array([[140.0, 120, 320, 280]])
    assert round(iou_matrix(a, b)[0, 0], 4) == 0.5833
    assert iou_matrix(a, a)[0, 0] == 1
    assert iou_matrix(a, a + 200)[0, 0] == 0  # they touch at most
    assert iou_matrix(a[:0], b).shape == (0, 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((0, 0, (10, 10, 5, 20), 0.5), "inverted"),
        ((0, 0, (10, 10, 10, 20), 0.5), "inverted"),
        ((0, 0, (10, 10, float("nan"), 20), 0.5), "not finite"),
        ((0, 0, (10, 10, 20, 20), float("nan")), "not finite"),
    ],
)
def test_boxes_that_are_none_are_refused(row, why):
    with pytest.raises(ValueError, match=why):
        Boxes.of([row])


@pytest.mark.parametrize("row", [(2, 0, HIP, 0.5), (0, 4, HIP, 0.5), (-1, 0, HIP, 0.5)])
def test_a_unit_or_class_out_of_range_is_refused(row):
    with pytest.raises(ValueError, match=r"outside 0\.\."):
        class_scores(Boxes.of([row]), 2, 4)
