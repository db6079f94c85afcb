"""The training run: batches in, averaged weights out, resumable at any step."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hipnode.errors import HipnodeError
from workers.detector.checkpoint import load_weights
from workers.detector.damoyolo import DamoYolo, damoyolo_t
from workers.detector.damoyolo.model import NECK_CHANNELS
from workers.training.assignment import Truth
from workers.training.data import Batch, EpochPlan
from workers.training.folders import read_pool
from workers.training.losses import Losses, detection_losses
from workers.training.parallel import World
from workers.training.recipes import Recipe
from workers.training.samples import DataError, Sample
from workers.training.schedule import CosineSchedule, Ema, EmaSchedule

CLASS_NAMES = ("VF", "DF", "SF", "UF")
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"


class TrainingError(HipnodeError):
    """A run cannot start, go on or be resumed; the text says why."""


@dataclass(frozen=True)
class TrainSettings:
    """What a run needs beside its recipe.

    data: pool for training, looked at anew each epoch (it may grow)
    out: folder for checkpoint and metrics.jsonl; kept outside the repository
    validation: pool whose loss is measured each epoch, or None
    resume: go on from the checkpoint in `out`; without one it is a fresh start
    threads: torch's CPU threads, None leaves them alone. On a shared machine one is best: with two,
        each operation waits for the thread that others hold up (measured: 210 against 620 ms an image)
    checkpoint_every_s: seconds between checkpoints; one is also written at the end and on SIGTERM
    """

    data: Path
    out: Path
    recipe: Recipe
    validation: Path | None = None
    seed: int = 1
    resume: bool = False
    threads: int | None = None
    checkpoint_every_s: float = 180.0
    class_names: tuple[str, ...] = CLASS_NAMES
    weights: Path | None = None  #: a package's model.safetensors or a checkpoint.pt a fresh run starts from
    max_steps: int | None = None  #: stop (resumably) after so many optimiser steps of this call


@dataclass(frozen=True)
class EpochReport:
    """One line of progress: means over the epoch so far."""

    epoch: int
    images: int
    total_images: int
    pool: int
    learning_rate: float
    loss: float
    loss_classes: float
    loss_boxes: float
    loss_distances: float
    positives: float
    validation_loss: float | None
    images_per_second: float
    finished: bool

    def line(self) -> str:
        """The report as one line of text."""
        left = (self.total_images - self.images) / max(self.images_per_second, 1e-9) / 60
        validation = "" if self.validation_loss is None else f" val {self.validation_loss:.3f}"
        return (
            f"epoch {self.epoch} images {self.images}/{self.total_images} pool {self.pool} "
            f"loss {self.loss:.3f} (class {self.loss_classes:.3f} box {self.loss_boxes:.3f} "
            f"dfl {self.loss_distances:.3f}){validation} lr {self.learning_rate:.2e} "
            f"{self.images_per_second:.1f} images/s, {left:.0f} min left"
        )


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov or AdamW; no decay on BatchNorms and biases (upstream's three groups in two)."""
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        free = id(parameter) in norms or name.endswith("bias")
        (plain if free else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, 0.999), fused=True)
    raise TrainingError(f"recipe {recipe.name}: no optimiser is called {recipe.optimiser!r}")


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


class PictureHead(nn.Module):
    """A class for the whole picture, from the neck's coarser levels pooled; only a help in training.

    features: the neck's three levels; gives (b, classes + 1) logits, the last for no fracture.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(sum(NECK_CHANNELS[1:]), classes + 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits in float32."""
        pooled = torch.cat([f.float().mean((2, 3)) for f in features[1:]], 1)
        return functional.linear(pooled, self.linear.weight, self.linear.bias)


def start_from(weights: Path, model: DamoYolo) -> None:
    """Fill the model with a package's model.safetensors, or the averaged weights of a checkpoint.pt."""
    if weights.suffix == ".safetensors":
        load_weights(model, weights.read_bytes())
    else:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)["ema"])


def picture_labels(truths: Sequence[Truth], classes: int) -> Tensor:
    """(b,) the class of each picture's first truth, `classes` where it has none."""
    return torch.tensor([int(t.labels[0]) if len(t.labels) else classes for t in truths])


class Run:
    """The state of a run; everything in it that changes is in the checkpoint."""

    def __init__(self, settings: TrainSettings, pool: int, world: World | None = None) -> None:
        recipe = settings.recipe
        torch.manual_seed(settings.seed)
        self.settings, self.recipe, self.world = settings, recipe, world or World()
        self.model = damoyolo_t(len(settings.class_names)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.picture_head = PictureHead(len(settings.class_names))
        self.trained = nn.ModuleList([self.model, self.picture_head])
        self.optimiser = make_optimiser(self.trained, recipe)
        if settings.weights is not None:
            start_from(settings.weights, self.model)
        self.ema = Ema(self.model, EmaSchedule(recipe.ema_momentum, recipe.ema_ramp))
        self.epoch, self.drawn, self.step, self.pool = 0, 0, 0, pool
        self.epoch_images = recipe.epoch_images or pool
        self.total_images = recipe.images or round(recipe.epochs * self.epoch_images)
        self.sums = [0.0] * 6  # total, classes, boxes, distances, positives, batches of this epoch
        self.saved = time.monotonic()  # when the checkpoint was written last

    @property
    def images(self) -> int:
        """Pictures seen since the start."""
        return self.epoch * self.epoch_images + self.drawn

    def schedule(self) -> CosineSchedule:
        """The learning rate in optimiser steps."""
        recipe, batch = self.recipe, self.recipe.batch

        def steps(images: int | None, epochs: float) -> int:
            return round((epochs * self.epoch_images if images is None else images) / batch)

        return CosineSchedule(
            base=recipe.lr_per_image * batch,
            warmup=steps(recipe.warmup_images, recipe.warmup_epochs),
            total=steps(self.total_images, 0),
            hold=steps(recipe.hold_images, recipe.hold_epochs),
            floor_ratio=recipe.min_lr_ratio,
        )

    def save_due(self) -> bool:
        """Whether the last checkpoint is older than the settings allow, however short the epochs are."""
        return time.monotonic() - self.saved > self.settings.checkpoint_every_s

    def save(self, path: Path) -> None:
        """Write the checkpoint; a reader meets a whole one or the one before."""
        recipe = asdict(self.recipe)
        state = {
            "epoch": self.epoch,
            "drawn": self.drawn,
            "step": self.step,
            "pool": self.pool,
            "epoch_images": self.epoch_images,
            "total_images": self.total_images,
            "sums": self.sums,
            "seed": self.settings.seed,
            "class_names": list(self.settings.class_names),
            "data": str(self.settings.data),
            "recipe": recipe,
            "model": self.model.state_dict(),
            "picture_head": self.picture_head.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self.saved = time.monotonic()

    def load(self, path: Path) -> None:
        """Take up a checkpoint. Raises TrainingError when it belongs to another run."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"]["name"] != self.recipe.name or state["class_names"] != list(
            self.settings.class_names
        ):
            raise TrainingError(
                f"{path} is of recipe {state['recipe']['name']} and classes {state['class_names']}"
            )
        if state["seed"] != self.settings.seed:
            raise TrainingError(f"{path} was started with seed {state['seed']}, not {self.settings.seed}")
        self.model.load_state_dict(state["model"])
        self.picture_head.load_state_dict(state["picture_head"])
        self.ema.model.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.drawn, self.step = state["epoch"], state["drawn"], state["step"]
        self.pool, self.epoch_images, self.sums = state["pool"], state["epoch_images"], state["sums"]
        self.total_images = self.recipe.images or state["total_images"]

    def _losses(self, batch: Batch) -> tuple[Losses, Tensor | float]:
        """The detector's losses, and what the help in training adds."""
        recipe, model = self.recipe, self.model
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            features = model.neck(model.backbone(batch.pixels))
            outputs = model.head.outputs(features)
        losses = detection_losses(outputs, model.head.integral.project, batch.truths, recipe.focal_beta)
        if not recipe.picture_weight:
            return losses, 0.0
        labels = picture_labels(batch.truths, len(self.settings.class_names))
        return losses, recipe.picture_weight * functional.cross_entropy(self.picture_head(features), labels)

    def train_step(self, batches: list[Batch], learning_rate: float) -> None:
        """One optimiser step over micro-batches that make up the batch."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.model.train()
        pictures = sum(len(b.truths) for b in batches)
        for batch in batches:
            losses, extra = self._losses(batch)
            share = len(batch.truths) / pictures
            ((losses.total + extra) * share).backward()
            parts = losses.total, losses.classes, losses.boxes, losses.distances
            for i, part in enumerate(parts):
                self.sums[i] += float(part.detach()) * share
            self.sums[4] += losses.positives
        self.sums[5] += 1
        self.world.average_gradients(self.trained)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.world.first:
            self.ema.update(self.model, self.step)
        self.step += 1


@torch.no_grad()
def validation_loss(model: DamoYolo, samples: list[Sample], recipe: Recipe) -> float:
    """Mean loss of the averaged model over a pool, unvaried pictures; not comparable across batch sizes."""
    plain = replace(recipe, augmentation=type(recipe.augmentation)(flip=0.0), micro_batch=recipe.batch)
    plan = EpochPlan(samples, plain, seed=0, epoch=0, draws=len(samples), size=recipe.input_size, plain=True)
    total = 0.0
    for batch in plan.batches():
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            outputs = model.outputs(batch.pixels)
        losses = detection_losses(outputs, model.head.integral.project, batch.truths)
        total += float(losses.total) * len(batch.truths)
    return total / max(len(samples), 1)


def train(settings: TrainSettings, progress: Callable[[EpochReport], None] | None = None) -> Path:
    """Train until the recipe's end, SIGTERM or `max_steps`; returns the checkpoint's path.

    Writes checkpoint.pt (every few minutes, at the end, on SIGTERM) and metrics.jsonl (one line an
    epoch) into settings.out. With `resume`, a run that was cut anywhere ends with the weights of an
    uncut one (same pool, same number of threads). Raises DataError and TrainingError.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)  # the moments of unused weights sink into denormals, many times slower
    settings.out.mkdir(parents=True, exist_ok=True)
    world = World.joined()
    path = settings.out / CHECKPOINT
    if path.exists() and not settings.resume:
        raise TrainingError(f"{path} exists: resume it, or give another folder")
    samples = read_pool(settings.data, settings.class_names)
    if not samples:
        raise DataError(f"{settings.data} holds no picture yet")
    run = Run(settings, len(samples), world)
    if path.exists():
        run.load(path)
        if run.pool > len(samples):
            raise DataError(f"the run saw {run.pool} pictures, {settings.data} holds {len(samples)}")
    stop = threading.Event()
    with stop_on_sigterm(stop):
        _epochs(run, stop, path, progress)
    if world.first:
        run.save(path)
    return path


def _epochs(
    run: Run, stop: threading.Event, path: Path, progress: Callable[[EpochReport], None] | None
) -> None:
    settings = run.settings
    measured = settings.validation if run.world.first else None
    validation = read_pool(measured, settings.class_names) if measured else []
    last_step = run.step + settings.max_steps if settings.max_steps is not None else None
    while run.images < run.total_images:
        samples = read_pool(settings.data, settings.class_names)
        if run.drawn == 0:
            run.pool = run.world.from_first(len(samples))
            run.sums = [0.0] * 6
        started, before = time.monotonic(), run.images
        if not _one_epoch(run, samples[: run.pool], stop, path, last_step):
            return
        seconds = time.monotonic() - started
        learning_rate = run.optimiser.param_groups[0]["lr"]
        run.epoch, run.drawn = run.epoch + 1, 0
        loss = validation_loss(run.ema.model, validation, run.recipe) if validation else None  # type: ignore[arg-type]
        total, classes, boxes, distances, positives = (v / max(run.sums[5], 1) for v in run.sums[:5])
        report = EpochReport(
            epoch=run.epoch,
            images=run.images,
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
            finished=run.images >= run.total_images,
        )
        if not run.world.first:
            continue
        with (settings.out / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        if progress:
            progress(report)


def _one_epoch(
    run: Run, samples: list[Sample], stop: threading.Event, path: Path, last_step: int | None
) -> bool:
    """Run one epoch on from where it stands; False when it was asked to stop."""
    recipe, schedule = run.recipe, run.schedule()
    draws = min(run.epoch_images, run.total_images - run.epoch * run.epoch_images)
    plain = schedule.hold > 0 and run.step >= schedule.total - schedule.hold
    done = run.epoch * run.epoch_images / run.total_images
    size = recipe.size_at(done)
    crop = recipe.crop_size if done < recipe.crop_until else None
    world = run.world
    if world.size > 1:  # every process must have a share in every step
        draws -= draws % recipe.batch
    plan = EpochPlan(
        samples,
        recipe,
        run.settings.seed,
        run.epoch,
        draws,
        size,
        plain,
        rank=world.rank,
        world=world.size,
        crop=crop,
        class_names=run.settings.class_names,
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
        if world.any(stop.is_set()) or run.step == last_step:
            return False
        if world.first and run.save_due():
            run.save(path)
    return True
