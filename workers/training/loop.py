"""The training run: batches in, averaged weights out, resumable at any step."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from workers.detector.damoyolo import DamoYolo
from workers.detector.inference import find_device
from workers.training.data import Batch, EpochPlan, develop
from workers.training.folders import LABELS_FILE, read_pool
from workers.training.losses import detection_losses
from workers.training.parallel import World
from workers.training.recipes import Recipe
from workers.training.reports import EpochReport, Journal
from workers.training.run import CHECKPOINT, FILMS, Run, TrainingError, TrainSettings, describe
from workers.training.samples import Sample
from workers.training.splits import Parts


@contextmanager
def stop_on_sigterm(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at SIGTERM or SIGINT while inside (in the main thread; elsewhere nothing changes)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(n, lambda *_: stop.set()) for n in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@torch.no_grad()
def validation_loss(model: DamoYolo, samples: list[Sample], recipe: Recipe) -> float:
    """Mean loss of the averaged model over a pool, unvaried pictures; not comparable across batch sizes."""
    plain = replace(recipe, augmentation=type(recipe.augmentation)(flip=0.0))
    plan = EpochPlan(samples, plain, seed=0, epoch=0, draws=len(samples), size=recipe.input_size, plain=True)
    device = next(model.parameters()).device
    total = 0.0
    for loaded in plan.batches():
        batch = loaded.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            outputs = model.outputs(batch.pixels)
        losses = detection_losses(outputs, model.head.integral.project, batch.truths)
        total += float(losses.total) * len(batch.truths)
    return total / max(len(samples), 1)


Progress = Callable[[EpochReport], None]
Steps = Callable[[int, int], None]


def train(settings: TrainSettings, progress: Progress | None = None, steps: Steps | None = None) -> Path:
    """Train until the recipe's end, SIGTERM or `max_steps`; returns the checkpoint's path.

    progress: called after each epoch; steps: with (pictures seen, pictures in all) after each step
    Writes checkpoint.pt (every few minutes, at the end, on SIGTERM), metrics.csv (one line an epoch) and
    TensorBoard's events into settings.out. With `resume`, a run that was cut anywhere, by a kill as well, ends
    with the weights of an uncut one (same data, same number of threads). Raises DataError, TrainingError,
    StartError, DeviceMissing.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)  # the moments of unused weights sink into denormals, many times slower
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS has no other way to be so
        torch.use_deterministic_algorithms(True)
    world = World.joined(find_device(settings.device))
    path = settings.out / CHECKPOINT
    if path.exists() and not settings.resume:
        raise TrainingError(f"{path} exists: resume it, or give another folder")
    parts = settings.parts()
    _refuse_small(settings, parts, world)
    settings.out.mkdir(parents=True, exist_ok=True)
    run = Run(settings, len(parts["train"]), world)
    run.parts = describe(parts, settings.class_names)
    if path.exists():
        run.load(path)
        if run.pool > len(parts["train"]):
            raise TrainingError(
                f"the run saw {run.pool} pictures, {settings.data} holds {len(parts['train'])}"
            )
    shown = {
        part: develop(samples, settings.out / FILMS) for part, samples in parts.items() if part != "test"
    }
    journal = Journal(settings.out, run.epoch) if world.first else None
    stop = threading.Event()
    try:
        with stop_on_sigterm(stop):
            _epochs(run, shown, stop, path, _Told(journal, progress, steps))
    finally:
        if journal:
            journal.close()
    if world.first:
        run.save(path)
    world.leave()
    return path


def _refuse_small(settings: TrainSettings, parts: Parts, world: World) -> None:
    """Several processes need a whole batch in an epoch, in equal shares. Raises TrainingError."""
    recipe, count = settings.recipe, len(parts["train"])
    if not count:
        raise TrainingError(f"{settings.data} holds no picture yet")
    if world.size == 1:
        return
    if recipe.batch % world.size:
        raise TrainingError(f"A batch of {recipe.batch} cannot be shared by {world.size} processes alike.")
    if (recipe.epoch_images or count) < recipe.batch:
        raise TrainingError(
            f"{world.size} processes need an epoch of at least {recipe.batch} pictures, one batch."
        )


@dataclass(frozen=True)
class _Told:
    """Who hears of the run."""

    journal: Journal | None
    progress: Progress | None
    steps: Steps | None


def _epochs(run: Run, parts: Parts, stop: threading.Event, path: Path, told: _Told) -> None:
    settings, samples = run.settings, parts["train"]
    validation = parts.get("validation", [])
    grows = not settings.split and (settings.data / LABELS_FILE).is_file()
    last_step = run.step + settings.max_steps if settings.max_steps is not None else None
    while run.images < run.total_images and not run.ended:
        if grows:
            samples = read_pool(settings.data, settings.class_names)
        if run.drawn == 0:
            run.pool = run.world.from_first(len(samples))
            run.sums = [0.0] * 6
        started, before = time.monotonic(), run.images
        if not _one_epoch(run, samples[: run.pool], stop, path, last_step, told.steps):
            return
        seconds = time.monotonic() - started
        learning_rate = run.optimiser.param_groups[0]["lr"]
        run.epoch, run.drawn = run.epoch + 1, 0
        loss = None
        if run.world.first and validation:
            loss = validation_loss(run.ema.model, validation, run.recipe)  # type: ignore[arg-type]
            run.judge(loss)
        run.ended = run.world.any(run.ended)
        total, classes, boxes, distances, positives = (v / max(run.sums[5], 1) for v in run.sums[:5])
        report = EpochReport(
            epoch=run.epoch,
            images=min(run.images, run.total_images),  # an epoch may be cut short
            total_images=run.total_images,
            pool=run.pool,
            learning_rate=learning_rate,
            loss=total,
            loss_classes=classes,
            loss_boxes=boxes,
            loss_distances=distances,
            positives=positives,
            validation_loss=loss,
            images_per_second=(run.images - before) / max(seconds, 1e-9),
            finished=run.images >= run.total_images or run.ended,
        )
        if told.journal:
            told.journal.write(report)
        if told.progress and run.world.first:
            told.progress(report)


def _one_epoch(
    run: Run,
    samples: list[Sample],
    stop: threading.Event,
    path: Path,
    last_step: int | None,
    steps: Steps | None,
) -> bool:
    """Run one epoch on from where it stands; False when it was asked to stop."""
    recipe, schedule = run.recipe, run.schedule()
    begun = run.epoch * run.epoch_images
    draws = min(run.epoch_images, run.total_images - begun)
    plain = schedule.hold > 0 and run.step >= schedule.total - schedule.hold
    done = begun / run.total_images
    world = run.world
    if world.size > 1:  # every process must have a share in every step
        draws -= draws % recipe.batch
    plan = EpochPlan(
        samples,
        recipe,
        run.settings.seed,
        run.epoch,
        draws,
        recipe.size_at(done),
        plain,
        rank=world.rank,
        world=world.size,
        crop=recipe.crop_size if done < recipe.crop_until else None,
        class_names=run.settings.class_names,
        shelf=run.shelf,
        shares=(done, (begun + draws) / run.total_images),
    )
    gathered: list[Batch] = []
    for batch in plan.batches(run.drawn):
        gathered.append(batch)
        held = sum(len(b.truths) for b in gathered) * world.size
        if held < recipe.batch and run.drawn + held < draws:
            continue
        run.train_step(gathered, schedule.at(run.step))
        run.drawn += held
        gathered = []
        if steps and world.first:
            steps(run.images, run.total_images)
        if world.any(stop.is_set()) or run.step == last_step:
            return False
        if world.first and run.save_due():
            run.save(path)
    return True
