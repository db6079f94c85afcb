"""A run learns, can be cut anywhere, and stops politely."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.test_training_data import write_pool
from workers.training import loop
from workers.training.loop import (
    CHECKPOINT,
    METRICS,
    Run,
    TrainingError,
    TrainSettings,
    make_optimiser,
    train,
)
from workers.training.recipes import RECIPES

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
def whole(pool, tmp_path_factory):
    """An uncut run: its folder and its reports."""
    out, reports = tmp_path_factory.mktemp("whole"), []
    train(settings_for(pool, out, validation=pool), reports.append)
    return out, reports


def state(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)


def test_a_run_reports_each_epoch(whole):
    out, reports = whole
    assert [r.images for r in reports] == [4, 8, 12]
    assert [r.finished for r in reports] == [False, False, True]
    assert "epoch 3" in reports[2].line()
    lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(line["validation_loss"] > 0 for line in lines)


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
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

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


def test_sigterm_saves_a_checkpoint(pool, tmp_path):
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from workers.training.loop import train\n"
        "from tests.test_training_loop import TINY, settings_for\n"
        "recipe = replace(TINY, images=100000, epoch_images=2)\n"
        "train(settings_for(Path(sys.argv[1]), Path(sys.argv[2]), recipe=recipe),\n"
        "      lambda r: print('epoch', flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(pool), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    timer = threading.Timer(60, process.kill)
    timer.start()
    try:
        assert process.stdout.readline() == "epoch\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert state(tmp_path)["step"] >= 1
