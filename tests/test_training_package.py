"""Numbers of an evaluation, thresholds, calibration, and a package that the node loads."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipnode.decision import DecisionRule, iou
from hipnode.evaluation.tables import load
from hipnode.findings import Algorithm, Box, Detections
from hipnode.packages import find_packages, load_package
from tests import labelled
from tests.test_training_data import write_pool
from tests.test_training_loop import TINY
from workers.detector import load_detector
from workers.detector.damoyolo import damoyolo_t
from workers.training.evaluate import Case, as_markdown, measure
from workers.training.loop import train
from workers.training.package import (
    CLASSES,
    BuildRefused,
    BuildSettings,
    build_package,
    checkpoint_of,
    parts_of,
)
from workers.training.recipes import RECIPES, changed
from workers.training.run import CHECKPOINT, Run, TrainSettings, read_data
from workers.training.samples import Sample, pixels_of
from workers.training.splits import LeakingSplit, data_hash
from workers.training.starts import StartError, start_from
from workers.training.thresholds import TooFewCases, calibrate, choose_thresholds, definite_thresholds

NAMES = [c.name for c in CLASSES]
ALGORITHM = Algorithm("", "", "", "", "", CLASSES)
BOX = (10.0, 10.0, 30.0, 40.0)
NUMBERS = itertools.count()


def case(truth, *found):
    """A picture of class `truth` with detections (class index, score, box)."""
    n = len(found)
    detections = Detections(
        np.array([f[2] for f in found], np.float32).reshape(n, 4),
        np.array([f[1] for f in found], np.float32),
        np.array([f[0] for f in found], np.int64),
    )
    labels = np.array([] if truth is None else [truth], np.int64)
    boxes = np.array([BOX] * len(labels), np.float32).reshape(-1, 4)
    sample = Sample(Path(f"{next(NUMBERS)}.png"), boxes, labels)
    return Case(sample, truth, None if truth is None else Box(*BOX), detections, (64, 64))


def test_iou_by_hand():
    assert iou(Box(100, 100, 300, 260), Box(140, 120, 320, 280)) == pytest.approx(0.5833, abs=1e-4)
    assert iou(Box(0, 0, 1, 1), Box(2, 2, 3, 3)) == 0


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
    assert numbers["any"]["auc"]["value"] == 0.6875  # 5.5 of 8 pairs
    assert numbers["classes"]["VF"]["auc"] == {
        "value": 1.0, "low": numbers["classes"]["VF"]["auc"]["low"], "high": 1.0, "n": 6, "positives": 2,
        "method": "Newcombe method 5",
    }  # fmt: skip
    assert numbers["classes"]["UF"]["auc"]["value"] is None
    text = as_markdown(numbers)
    assert "| any fracture | 0.500 (0.150-0.850; 2/4) | 0.500 (0.095-0.905; 1/2)" in text
    assert "| UF | - | 0.833 (0.436-0.970; 5/6) | - | - |" in text


def test_a_picture_with_two_fractures_counts_for_both_classes():
    both = case(0, (1, 0.9, BOX))
    both = replace(both, sample=replace(both.sample, boxes=np.array([BOX, BOX]), labels=np.array([0, 1])))
    numbers = measure([both, case(None)], ALGORITHM, DecisionRule(dict.fromkeys(NAMES, 0.5)))
    assert [numbers["classes"][name]["sensitivity"]["of"] for name in NAMES] == [1, 1, 0, 0]
    assert numbers["classes"]["DF"]["sensitivity"]["hits"] == 1


def test_thresholds_keep_the_specificity_and_gain_the_most():
    rng = np.random.default_rng(0)
    normals = [case(None, (i % 4, 0.1 + 0.2 * rng.random(), BOX)) for i in range(99)]
    normals.append(case(None, (0, 0.9, BOX)))  # one outlier
    fractured = [case(i % 4, (i % 4, 0.4 + 0.4 * rng.random(), BOX)) for i in range(100)]
    chosen = choose_thresholds(normals + fractured, NAMES)
    assert chosen.sensitivity == 1
    assert chosen.specificity >= 0.95
    assert all(0.05 <= tau <= 0.45 for tau in chosen.by_class.values())


def test_thresholds_need_a_fracture():
    for cases in ([], [case(None)]):
        with pytest.raises(TooFewCases):
            choose_thresholds(cases, NAMES)


def test_where_every_picture_is_fractured_classes_are_judged_against_each_other():
    cases = [case(k, (k, 0.6 + 0.01 * i, BOX), ((k + 1) % 3, 0.3, BOX)) for k in range(3) for i in range(5)]
    chosen = choose_thresholds(cases, NAMES)
    assert chosen.specificity is None
    assert chosen.by_class == {"VF": 0.6, "DF": 0.6, "SF": 0.6, "UF": 0.5}
    assert chosen.sensitivity == 1


def test_a_definite_threshold_needs_fifty_others_and_lies_above_the_firing_one():
    rng = np.random.default_rng(2)
    cases = [case(0, (0, 0.5 + 0.4 * rng.random(), BOX)) for _ in range(30)]
    cases += [case(None, (0, 0.6 * rng.random(), BOX)) for _ in range(49)]
    firing = dict.fromkeys(NAMES, 0.3)
    assert "VF" not in definite_thresholds(cases, NAMES, firing)
    cases.append(case(None, (0, 0.1, BOX)))
    found = definite_thresholds(cases, NAMES, firing)
    assert found["VF"] > 0.3
    others = [c.class_scores(4)[0] for c in cases if c.truth is None]
    assert sum(score >= found["VF"] for score in others) <= 1, "98 % of 50"
    assert definite_thresholds(cases, NAMES, dict.fromkeys(NAMES, 0.95))["VF"] == 0.95


def test_calibration_learns_from_validation_and_needs_enough():
    few = [case(k % 4, (k % 4, 0.5, BOX)) for k in range(9)]
    assert calibrate(few, NAMES, "auto").entry == {"method": "none"}
    assert "9 positive answers of 36" in calibrate(few, NAMES, "auto").why_not
    assert calibrate(few, NAMES, "none").entry == {"method": "none"}
    rng = np.random.default_rng(3)
    cases = [
        case(0, (0, s, BOX)) if rng.random() < s**2 else case(None, (0, s, BOX)) for s in rng.random(300)
    ]
    positives = sum(c.truth is not None for c in cases)
    auto = calibrate(cases, NAMES, "auto")
    assert (auto.entry["method"], auto.entry["n"], auto.entry["positives"]) == (
        "temperature",
        1200,
        positives,
    )
    isotonic = calibrate(cases, NAMES, "isotonic")
    values = isotonic.entry["values"]
    assert 0 < values[0] < values[-1] <= (positives + 1) / (positives + 2)
    assert isotonic.fitted(0.9) == pytest.approx(0.81, abs=0.15)
    assert calibrate(cases * 3, NAMES, "auto").entry["method"] == "isotonic"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A toy data set as LabelImg leaves it, and a short run on it."""
    folder = tmp_path_factory.mktemp("films")
    names = [f"{i:02d}" for i in range(50)]
    rows = ["file,patient"]
    for i, name in enumerate(names):
        truth = [(NAMES[i % 5], (8 + i % 7, 12, 40, 50))] if i % 5 < 4 else []
        pixels = np.random.default_rng(i).integers(20, 60, (labelled.ROWS, labelled.COLUMNS)).astype(np.uint8)
        for _, (x0, y0, x1, y1) in truth:
            pixels[y0:y1, x0:x1] = 220
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.xml").write_text(labelled.voc(name, truth))
        rows.append(f"{name}.png,Patient {i // 2}")
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")
    run = tmp_path_factory.mktemp("run")
    recipe = changed(replace(RECIPES["bjj2025"], bf16=False), epochs=1, size=64, batch=8)
    train(TrainSettings(folder, run, recipe, split=True, threads=1))
    return folder, run


@pytest.fixture(scope="module")
def site(films, tmp_path_factory):
    """The package of that run, and what was said while it was made."""
    said = []
    settings = BuildSettings(
        films[1],
        tmp_path_factory.mktemp("packages") / "p",
        "2026-01-31",
        id="hip-site",
        data_name="films of a test site",
        calibration="platt",
    )
    return build_package(settings, said.append), settings, said


def test_a_run_on_labelled_films_becomes_a_package_the_node_loads(films, site):
    folder, run = films
    built, settings, said = site
    package = load_package(settings.out)
    assert package.rule.thresholds == built.thresholds.by_class
    assert package.algorithm.origin.startswith("Weights trained on 34 labelled films (films of a test site);")
    card = package.model_card.read_text("utf-8")
    assert "phantom" not in card + (package.folder / "model.toml").read_text("utf-8")
    assert "Patient" not in card, "no patient leaves the run"
    for words in (
        "begun from random weights", "| train | 34 | 17 | ", "looked at once", "| any fracture |",
        "films of a test site; accuracy at another site", f"`{data_hash_of(folder, run, 'test')[:16]}`",
    ):  # fmt: skip
        assert words in card, words
    record = json.loads((package.folder / "evaluation.json").read_text("utf-8"))
    assert record["test"] == built.numbers
    assert record["weights_sha256"] == package.sha256
    assert said[0].startswith("thresholds on 8 validation pictures: VF ")
    with pytest.raises(BuildRefused, match="holds a package already"):
        build_package(settings)


def data_hash_of(folder, run, part):
    state = checkpoint_of(run)
    parts = read_data(folder, None, NAMES, split=True, seed=state["seed"])
    assert state["parts"][part]["sha256"] == data_hash(parts[part])
    return data_hash(parts[part])


def test_the_tables_of_a_run_are_read_by_the_evaluation(films, site):
    folder = films[1] / "evaluation"
    tables = load(folder / "labels.jsonl", folder / "predictions.jsonl", NAMES)
    assert [label.split for label in tables.labels] == ["validation"] * 8 + ["test"] * 8
    assert {p.model_id for p in tables.predictions} == {site[0].package.id}
    assert {p.case_id for p in tables.predictions} == {label.case_id for label in tables.labels}
    assert {label.patient_id for label in tables.labels} <= {f"Patient {i}" for i in range(25)}


def test_fused_weights_answer_alike_and_cannot_be_trained(films, site, tmp_path):
    built, settings, _ = site
    again = build_package(replace(settings, out=tmp_path / "fused", form="fused", calibration="none"))
    assert "for the 2. time" in again.package.model_card.read_text("utf-8")
    assert again.package.weights_file.stat().st_size < built.package.weights_file.stat().st_size
    pixels = [pixels_of(films[0] / f"{i:02d}.png") for i in range(3)]
    training, fused = (load_detector(b.package, threads=1).detect(pixels) for b in (built, again))
    for one, other in zip(training, fused, strict=True):
        best = [max(d.scores, default=0) for d in (one, other)]
        assert best[0] == pytest.approx(best[1], abs=0.02)
    with pytest.raises(StartError, match="do not fit"):
        start_from(again.package.weights_file, damoyolo_t(4))


def test_what_cannot_be_built_says_why(films, tmp_path):
    folder, run = films
    with pytest.raises(BuildRefused, match=r"holds no checkpoint\.pt"):
        build_package(BuildSettings(tmp_path, tmp_path / "p", "2026-01-31"))
    with pytest.raises(BuildRefused, match="leave --validation out"):
        build_package(BuildSettings(run, tmp_path / "p", "2026-01-31", validation=folder))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert parts_of(BuildSettings(run, tmp_path / "p", "2026-01-31", data=moved), checkpoint_of(run))["test"]
    text = (moved / "00.xml").read_text().replace("<ymax>50", "<ymax>51")
    (moved / "00.xml").write_text(text)
    with pytest.raises(BuildRefused, match="are not those the run was trained with"):
        build_package(BuildSettings(run, tmp_path / "p", "2026-01-31", data=moved))
    assert not (tmp_path / "p").exists()


def test_a_run_on_phantoms_says_that_it_is_no_more(tmp_path):
    pools = [write_pool(tmp_path / name, 10, first=10 * i) for i, name in enumerate(("train", "val", "test"))]
    run = tmp_path / "run"
    train(TrainSettings(pools[0], run, replace(TINY, images=4), threads=1))
    with pytest.raises(BuildRefused, match="name others for validation"):
        build_package(BuildSettings(run, tmp_path / "p", "2026-01-31"))
    with pytest.raises(LeakingSplit, match="phantom 7-0 is in train"):
        build_package(BuildSettings(run, tmp_path / "p", "2026-01-31", validation=pools[0], test=pools[2]))
    built = build_package(
        BuildSettings(run, tmp_path / "p", "2026-01-31", validation=pools[1], test=pools[2], id="p")
    )
    assert "synthetic phantoms" in built.package.algorithm.origin
    card = built.package.model_card.read_text("utf-8")
    assert "no clinical validity" in card.splitlines()[0]
    untested = build_package(BuildSettings(run, tmp_path / "q", "2026-01-31", validation=pools[1], id="q"))
    assert untested.numbers is None
    assert "Not tested: the data had no test part." in untested.package.model_card.read_text("utf-8")
    assert untested.package.manifest.validation is None
    start = Run(TrainSettings(pools[0], run, TINY, weights=built.package.weights_file), 1)
    kept = torch.load(run / CHECKPOINT, weights_only=True)["ema"]
    for key, value in start.model.state_dict().items():
        torch.testing.assert_close(value, kept[key], rtol=1e-3, atol=1e-4)


def test_the_shipped_package_says_where_its_weights_come_from():
    shipped = find_packages([])
    if "hip-damoyolo-t-phantom" not in shipped:
        pytest.skip("no weights ship with this checkout")
    package = shipped["hip-damoyolo-t-phantom"]
    assert "phantom" in package.algorithm.origin
    assert "no clinical validity" in package.model_card.read_text("utf-8").splitlines()[0]
    assert package.weights_file.stat().st_size < 20e6
