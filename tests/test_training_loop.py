"""A run learns, can be cut anywhere, and stops politely."""

import csv
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hipnode.errors import SettingsError
from tests.test_training_data import write_pool
from workers.detector.damoyolo import damoyolo_t
from workers.training import loop, run
from workers.training.loop import train
from workers.training.recipes import RECIPES, changed
from workers.training.reports import METRICS, Journal
from workers.training.run import CHECKPOINT, Run, TrainingError, TrainSettings, make_optimiser
from workers.training.starts import StartError, start_from

TINY = replace(
    RECIPES["phantom-short"],
    input_size=64,
    crop_until=0.5,
    crop_size=32,
    batch=2,
    micro_batch=2,
    images=10,
    epoch_images=4,
    warmup_images=2,
    hold_images=2,
    bf16=False,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("data") / "pool", 10)


def settings_for(pool, out, **changes):
    return replace(TrainSettings(pool, out, TINY, threads=1), **changes)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A pool for validation."""
    return write_pool(tmp_path_factory.mktemp("seen") / "pool", 5)


@pytest.fixture(scope="module")
def whole(pool, seen, tmp_path_factory):
    """An uncut run: its folder and its reports."""
    out, reports = tmp_path_factory.mktemp("whole"), []
    train(settings_for(pool, out, validation=seen), reports.append)
    return out, reports


def state(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)


def test_a_run_reports_each_epoch(whole):
    out, reports = whole
    assert [r.images for r in reports] == [4, 8, 10]
    assert [r.finished for r in reports] == [False, False, True]
    assert "epoch 3" in reports[2].line()
    with (out / METRICS).open() as file:
        lines = list(csv.DictReader(file))
    assert [line["epoch"] for line in lines] == ["1", "2", "3"]
    assert [float(line["validation_loss"]) for line in lines] == [r.validation_loss for r in reports]


def test_a_cut_run_ends_with_the_weights_of_an_uncut_one(pool, tmp_path, whole):
    for steps in (1, 2, None):  # cut inside the first epoch, then after the first step of the second
        train(settings_for(pool, tmp_path, resume=True, max_steps=steps))
    cut, uncut = state(tmp_path), state(whole[0])
    assert (cut["epoch"], cut["step"]) == (uncut["epoch"], uncut["step"]) == (3, 5)
    for kind in ("model", "ema"):
        for key, value in uncut[kind].items():
            assert torch.equal(value, cut[kind][key]), key


def test_a_checkpoint_is_written_in_time_though_every_epoch_is_shorter(pool, tmp_path, monkeypatch):
    clock, written = [0.0], []
    for module in (loop, run):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def after_an_epoch(_):
        written.append((tmp_path / CHECKPOINT).exists())
        clock[0] += 100

    train(settings_for(pool, tmp_path, checkpoint_every_s=150), after_an_epoch)
    assert written == [False, False, True]


def test_a_finished_run_is_not_overwritten(pool, whole):
    with pytest.raises(TrainingError, match="resume"):
        train(settings_for(pool, whole[0]))


def test_a_checkpoint_of_another_recipe_or_seed_is_refused(pool, whole):
    with pytest.raises(TrainingError, match="recipe"):
        train(settings_for(pool, whole[0], resume=True, recipe=replace(TINY, name="other")))
    with pytest.raises(TrainingError, match="seed"):
        train(settings_for(pool, whole[0], resume=True, seed=2))


def test_norms_and_biases_do_not_decay():
    run = Run(TrainSettings(None, None, TINY), 1)
    decayed, plain = make_optimiser(run.model, TINY).param_groups
    assert plain["weight_decay"] == 0
    names = {id(p): n for n, p in run.model.named_parameters()}
    kept = {names[id(p)] for p in decayed["params"]}
    assert "head.scales.0.scale" in kept
    assert not [n for n in kept if n.endswith("bias") or ".bn." in n]
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_a_run_with_other_sizes_is_not_gone_on_with(pool, whole):
    with pytest.raises(TrainingError, match="input_size 64 instead of 96"):
        train(settings_for(pool, whole[0], resume=True, recipe=replace(TINY, input_size=96)))


def test_a_small_last_batch_counts_as_a_step():
    recipe = replace(
        TINY, images=0, epochs=3, epoch_images=None, batch=4, warmup_images=None, hold_images=None
    )
    recipe = replace(recipe, warmup_epochs=1, hold_epochs=1)
    schedule = Run(TrainSettings(None, None, recipe), 10).schedule()
    assert (schedule.warmup, schedule.total, schedule.hold) == (3, 9, 3)


def test_a_shortened_recipe_keeps_its_shape():
    recipe = changed(RECIPES["bjj2025"], epochs=43, size=320, batch=8)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.hold_epochs) == pytest.approx((43, 0.5, 1.6))
    assert (recipe.input_size, recipe.batch, recipe.micro_batch) == (320, 8, 8)
    assert recipe.lr_per_image == RECIPES["bjj2025"].lr_per_image
    for wrong in ({"epochs": 0}, {"size": 100}, {"size": 0}, {"batch": 0}):
        with pytest.raises(SettingsError):
            changed(RECIPES["bjj2025"], **wrong)
    with pytest.raises(SettingsError, match="counts pictures"):
        changed(RECIPES["phantom-short"], epochs=3)


def test_the_literal_recipe_differs_by_its_rate_alone():
    recipe = RECIPES["bjj2025-literal"]
    assert recipe.lr_per_image * recipe.batch == pytest.approx(0.05)
    assert replace(recipe, name="bjj2025", lr_per_image=0.01 / 64) == RECIPES["bjj2025"]


def test_a_run_that_stands_still_ends_and_keeps_its_best_weights(pool, seen, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.0, 9.0])
    monkeypatch.setattr(loop, "validation_loss", lambda *_: next(losses))
    kept = []

    def note(report):
        kept.append(report)
        if report.epoch == 2:
            train_state["second"] = {k: v.clone() for k, v in runs[0].ema.model.state_dict().items()}

    train_state, runs = {}, []
    monkeypatch.setattr(loop, "Run", lambda *a: runs.append(Run(*a)) or runs[-1])
    recipe = replace(TINY, images=40)
    train(settings_for(pool, tmp_path, recipe=recipe, validation=seen, patience=2), note)
    assert [r.epoch for r in kept] == [1, 2, 3, 4], "two epochs without a fall after the second"
    assert kept[-1].finished
    best = state(tmp_path)["best"]
    assert (best["epoch"], best["loss"]) == (2, 2.0)
    for key, value in best["weights"].items():
        assert torch.equal(value, train_state["second"][key]), key
    train(settings_for(pool, tmp_path, recipe=recipe, validation=seen, patience=2, resume=True), note)
    assert len(kept) == 4, "a run that ended has ended"


def test_rows_written_after_the_last_checkpoint_are_taken_back(whole, tmp_path):
    _, reports = whole
    journal = Journal(tmp_path, 0)
    for report in reports:
        journal.write(report)
    journal.close()
    before = (tmp_path / METRICS).read_text().splitlines()
    Journal(tmp_path, 2).close()
    assert (tmp_path / METRICS).read_text().splitlines() == before[:3]
    Journal(tmp_path, 0).close()
    assert (tmp_path / METRICS).read_text().splitlines() == before[:1]


def test_tensorboard_has_the_losses_of_each_epoch(whole):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, reports = whole
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("validation_loss")] == pytest.approx(
        [r.validation_loss for r in reports]
    )


def test_parts_drawn_from_one_folder_are_the_same_after_a_resume(tmp_path):
    labels = write_pool(tmp_path / "pool", 40)
    out = tmp_path / "run"
    seen = []
    few = replace(TINY, epoch_images=2, images=6)
    train(settings_for(labels, out, split=True, recipe=few, max_steps=2), seen.append)
    parts = state(out)["parts"]
    assert {k: v["pictures"] for k, v in parts.items()} == {"train": 30, "validation": 5, "test": 5}
    assert parts["train"]["classes"] == dict.fromkeys(("VF", "DF", "SF", "UF", "none"), 6)
    assert seen[0].validation_loss > 0
    train(settings_for(labels, out, split=True, recipe=few, resume=True, max_steps=1))
    assert state(out)["parts"] == parts
    lines = (labels / "labels.jsonl").read_text().replace('"class": "VF"', '"class": "DF"')
    (labels / "labels.jsonl").write_text(lines)
    with pytest.raises(TrainingError, match="changed since"):
        train(settings_for(labels, out, split=True, recipe=few, resume=True))


def test_an_upstream_checkpoint_gives_all_but_the_head(tmp_path):
    upstream = damoyolo_t(80)
    path = tmp_path / "upstream.pth"
    torch.save({"epoch": 299, "model": upstream.state_dict(), "optimizer": {}}, path)
    model = damoyolo_t(4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert "head from scratch" in start_from(path, model)
    own, other = model.state_dict(), upstream.state_dict()
    for key, value in own.items():
        expected = before if key.startswith("head.") else other
        assert torch.equal(value, expected[key]), key


def test_weights_that_cannot_be_used_are_refused_with_a_sentence(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"no pickle")
    with pytest.raises(StartError, match="no checkpoint that can be read"):
        start_from(path, damoyolo_t(4))
    torch.save({"state": 3}, path)
    with pytest.raises(StartError, match="neither a checkpoint"):
        start_from(path, damoyolo_t(4))
    torch.save({"model": {"backbone.x": torch.zeros(1)}}, path)
    with pytest.raises(StartError, match="does not fit"):
        start_from(path, damoyolo_t(4))
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(StartError, match=r"x\.safetensors: "):
        start_from(tmp_path / "x.safetensors", damoyolo_t(4))


def test_a_run_killed_at_a_random_step_ends_with_the_weights_of_an_uncut_one(pool, whole, tmp_path):
    """SIGKILL, right after a checkpoint or while the next is written; the same numbers in each process."""
    code = (
        "import sys; from pathlib import Path\n"
        "from workers.training.loop import train\n"
        "from tests.test_training_loop import settings_for\n"
        "settings = settings_for(Path(sys.argv[1]), Path(sys.argv[2]), deterministic=True, checkpoint_every_s=0.0)\n"
        "train(settings, steps=lambda *_: print('step', flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(pool), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    timer = threading.Timer(90, process.kill)
    timer.start()
    try:
        for _ in range(random.Random(7).randint(2, 4)):
            assert process.stdout.readline() == "step\n"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        timer.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
    assert 1 <= state(tmp_path)["step"] < 5
    train(settings_for(pool, tmp_path, resume=True))
    cut, uncut = state(tmp_path), state(whole[0])
    assert (cut["epoch"], cut["step"]) == (uncut["epoch"], uncut["step"]) == (3, 5)
    for kind in ("model", "ema"):
        for key, value in uncut[kind].items():
            assert torch.equal(value, cut[kind][key]), key


def test_two_processes_share_a_run(pool, tmp_path):
    """torchrun on CPUs: as many steps, each process half of every batch, and both end with one model."""
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from workers.training import loop\n"
        "from tests.test_training_loop import TINY, settings_for\n"
        "recipe = replace(TINY, batch=8, images=16, epoch_images=8)\n"
        "runs = []; make = loop.Run\n"
        "loop.Run = lambda *a: runs.append(make(*a)) or runs[-1]\n"
        "loop.train(settings_for(Path(sys.argv[1]), Path(sys.argv[2]), recipe=recipe))\n"
        "total = sum(p.double().sum() for p in runs[0].model.parameters())\n"
        "print(runs[0].world.rank, runs[0].step, repr(float(total)), flush=True)\n"
    )
    script = tmp_path / "two.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(pool), str(tmp_path / "run")],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([".", *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = sorted(line.split() for line in done.stdout.splitlines())
    assert [line[:2] for line in said] == [["0", "2"], ["1", "2"]]
    assert said[0][2] == said[1][2]
    assert state(tmp_path / "run")["step"] == 2


def test_sigterm_saves_a_checkpoint(pool, tmp_path):
    recipe = replace(TINY, images=100000)
    train(
        settings_for(pool, tmp_path, recipe=recipe),
        steps=lambda *_: os.kill(os.getpid(), signal.SIGTERM),
    )
    assert state(tmp_path)["step"] == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
