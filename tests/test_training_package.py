"""Numbers of an evaluation, thresholds, and a package that the node loads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hipnode.decision import DecisionRule
from hipnode.findings import Algorithm, Box, Detections
from hipnode.packages import find_packages, load_package
from tests.test_training_data import write_pool
from tests.test_training_loop import TINY
from workers.training.evaluate import Case, as_markdown, auc, box_iou, measure, wilson
from workers.training.loop import train
from workers.training.package import CLASSES, FIRST_LINE, BuildSettings, build_package
from workers.training.run import CHECKPOINT, Run, TrainSettings
from workers.training.thresholds import TooFewCases, choose_thresholds

NAMES = [c.name for c in CLASSES]
ALGORITHM = Algorithm("", "", "", "", "", CLASSES)
BOX = (10.0, 10.0, 30.0, 40.0)


def case(truth, *found):
    """A picture of class `truth` with detections (class index, score, box)."""
    n = len(found)
    detections = Detections(
        np.array([f[2] for f in found], np.float32).reshape(n, 4),
        np.array([f[1] for f in found], np.float32),
        np.array([f[0] for f in found], np.int64),
    )
    return Case(None, truth, None if truth is None else Box(*BOX), detections, (64, 64))


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(0, 0, 0, 1), (45, 50, 0.786, 0.957), (44, 50, 0.762, 0.944), (89, 100, 0.814, 0.937)],
)
def test_wilson_intervals_by_known_values(hits, of, low, high):
    assert wilson(hits, of) == pytest.approx((low, high), abs=5e-4)


def test_auc_counts_ties_half():
    scores = np.array([0.9, 0.8, 0.7, 0.4, 0.35, 0.6, 0.3, 0.2, 0.1, 0.05])
    positive = np.arange(10) < 5
    assert auc(scores, positive) == pytest.approx(0.92)
    assert auc(np.zeros(4), np.array([True, False, True, False])) == 0.5
    assert np.isnan(auc(np.zeros(2), np.array([True, True])))


def test_iou_by_hand():
    assert box_iou(Box(100, 100, 300, 260), Box(140, 120, 320, 280)) == pytest.approx(0.5833, abs=1e-4)
    assert box_iou(Box(0, 0, 1, 1), Box(2, 2, 3, 3)) == 0


def test_numbers_of_a_small_pool():
    rule = DecisionRule(dict.fromkeys(NAMES, 0.5))
    cases = [
        case(0, (0, 0.9, BOX)),  # right
        case(0, (1, 0.8, BOX), (0, 0.6, BOX)),  # found as another class
        case(1),  # missed
        case(2, (2, 0.4, BOX)),  # under the threshold
        case(None, (3, 0.7, BOX)),  # false alarm
        case(None),
    ]
    numbers = measure(cases, ALGORITHM, rule)
    assert (numbers["any"]["sensitivity"]["hits"], numbers["any"]["sensitivity"]["of"]) == (2, 4)
    assert (numbers["any"]["specificity"]["hits"], numbers["any"]["specificity"]["of"]) == (1, 2)
    assert numbers["classes"]["VF"]["sensitivity"]["value"] == 0.5
    assert numbers["classes"]["VF"]["found_as_any"]["value"] == 1
    assert numbers["classes"]["DF"]["specificity"]["hits"] == 4
    assert numbers["classes"]["UF"]["sensitivity"]["value"] is None
    assert numbers["mean_iou"] == 1
    assert numbers["answers"]["VF"] == {"VF": 1, "DF": 1, "SF": 0, "UF": 0, "none": 0}
    assert "| any fracture | 0.500" in as_markdown(numbers)


def test_thresholds_keep_the_specificity_and_gain_the_most():
    rng = np.random.default_rng(0)
    normals = [case(None, (i % 4, 0.1 + 0.2 * rng.random(), BOX)) for i in range(99)]
    normals.append(case(None, (0, 0.9, BOX)))  # one outlier
    fractured = [case(i % 4, (i % 4, 0.4 + 0.4 * rng.random(), BOX)) for i in range(100)]
    chosen = choose_thresholds(normals + fractured, NAMES)
    assert chosen.sensitivity == 1
    assert chosen.specificity >= 0.95
    assert all(0.05 <= tau <= 0.45 for tau in chosen.by_class.values())


def test_thresholds_need_both_kinds_of_pictures():
    for cases in ([], [case(None)], [case(0, (0, 0.5, BOX))]):
        with pytest.raises(TooFewCases):
            choose_thresholds(cases, NAMES)


def test_a_run_becomes_a_package_the_node_loads(tmp_path):
    pool = write_pool(tmp_path / "pool", 10)
    run = tmp_path / "run"
    train(TrainSettings(pool, run, replace(TINY, images=4), threads=1))
    said = []
    built = build_package(
        BuildSettings(run, pool, pool, tmp_path / "packages" / "p", "2026-01-31", id="p"), said.append
    )
    package = load_package(tmp_path / "packages" / "p")
    assert package.sha256 == built.package.sha256
    assert [c.name for c in package.algorithm.classes] == NAMES
    assert "synthetic phantoms" in package.algorithm.origin
    assert package.rule.thresholds == built.thresholds.by_class
    assert package.weights_file.stat().st_size < 20e6
    card = package.model_card.read_text("utf-8")
    assert card.startswith(FIRST_LINE)
    assert "no clinical validity" in card.splitlines()[0]
    assert json.loads((package.folder / "evaluation.json").read_text("utf-8")) == built.numbers
    assert len(said) == 2
    again = Run(TrainSettings(pool, run, TINY, weights=package.weights_file), 1)
    kept = torch.load(run / CHECKPOINT, weights_only=True)["ema"]
    for key, value in again.model.state_dict().items():
        torch.testing.assert_close(value, kept[key], rtol=1e-3, atol=1e-4)


def test_the_shipped_package_says_where_its_weights_come_from():
    shipped = find_packages([])
    if "hip-damoyolo-t-phantom" not in shipped:
        pytest.skip("no weights ship with this checkout")
    package = shipped["hip-damoyolo-t-phantom"]
    assert "phantom" in package.algorithm.origin
    assert "no clinical validity" in package.model_card.read_text("utf-8").splitlines()[0]
    assert package.weights_file.stat().st_size < 20e6
