"""What a run is made of: its settings, its data, and the state that a checkpoint holds."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hipnode.errors import HipnodeError
from workers.detector.damoyolo import DamoYolo, HeadOutputs, damoyolo_t
from workers.detector.damoyolo.model import NECK_CHANNELS
from workers.training.assignment import Truth
from workers.training.data import Batch, Shelf
from workers.training.folders import Unlabelled, read_folder
from workers.training.losses import Losses, detection_losses
from workers.training.parallel import World
from workers.training.recipes import Recipe
from workers.training.schedule import CosineSchedule, Ema, EmaSchedule
from workers.training.splits import Parts, data_hash, read_parts, refuse_leaks
from workers.training.starts import start_from

CLASS_NAMES = ("VF", "DF", "SF", "UF")
CHECKPOINT = "checkpoint.pt"
FILMS = "films"  # of a run: its DICOM films as pictures


class TrainingError(HipnodeError):
    """A run cannot start, go on or be resumed; the text says why."""


@dataclass(frozen=True)
class TrainSettings:
    """What a run needs beside its recipe.

    data: labelled pictures for training; a pool of phantoms is looked at anew each epoch (it may grow)
    out: folder for checkpoint, metrics and decoded films; kept outside the repository
    validation: labelled pictures whose loss is measured each epoch, or None
    split: draw the parts from `data` (see splits.read_parts), where there is no `validation`
    resume: go on from the checkpoint in `out`; without one it is a fresh start
    threads: torch's CPU threads, None leaves them alone. On a shared machine one is best: with two,
        each operation waits for the thread that others hold up (measured: 210 against 620 ms an image)
    checkpoint_every_s: seconds between checkpoints; one is also written at the end and on SIGTERM
    patience: epochs without a better validation loss after which the run ends; None: to its end
    deterministic: only algorithms that give the same numbers each time
    """

    data: Path
    out: Path
    recipe: Recipe
    validation: Path | None = None
    split: bool = False
    unlabelled: Unlabelled = "refuse"
    seed: int = 1
    resume: bool = False
    device: str = "cpu"
    threads: int | None = None
    checkpoint_every_s: float = 180.0
    class_names: tuple[str, ...] = CLASS_NAMES
    weights: Path | None = None  #: what a fresh run starts from (see starts.start_from)
    patience: int | None = None
    deterministic: bool = False
    max_steps: int | None = None  #: stop (resumably) after so many optimiser steps of this call

    def parts(self) -> Parts:
        """The data, in parts. Raises DataError, LeakingSplit."""
        return read_data(
            self.data,
            self.validation,
            self.class_names,
            split=self.split,
            seed=self.seed,
            unlabelled=self.unlabelled,
        )


def read_data(
    data: Path,
    validation: Path | None,
    class_names: Sequence[str],
    *,
    split: bool,
    seed: int,
    unlabelled: Unlabelled = "refuse",
) -> Parts:
    """The parts of a run's data; "train" is always there. Raises DataError, LeakingSplit."""
    if validation is not None:
        parts = {
            "train": read_folder(data, class_names, unlabelled),
            "validation": read_folder(validation, class_names, unlabelled),
        }
        refuse_leaks(parts)
        return parts
    if split:
        return read_parts(data, class_names, seed=seed, unlabelled=unlabelled)
    return {"train": read_folder(data, class_names, unlabelled)}


def describe(parts: Parts, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Part -> pictures, patients, patients known, pictures of each class, hash; no identifier."""
    return {
        part: {
            "pictures": len(samples),
            "patients": len({s.owner for s in samples}),
            "patients_known": all(s.patient for s in samples),
            "classes": dict(Counter(s.class_name(class_names) for s in samples)),
            "sha256": data_hash(samples),
        }
        for part, samples in parts.items()
    }


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


class Trained(nn.Module):
    """What is trained: the detector, and the help where the recipe has one. One forward for both."""

    def __init__(self, model: DamoYolo, picture_head: PictureHead | None) -> None:
        super().__init__()
        self.model, self.picture_head = model, picture_head

    def forward(self, pixels: Tensor) -> tuple[HeadOutputs, Tensor | None]:
        """The detector's raw outputs, and the logits of the help."""
        features = self.model.neck(self.model.backbone(pixels))
        help_ = self.picture_head(features) if self.picture_head is not None else None
        return self.model.head.outputs(features), help_


def picture_labels(truths: Sequence[Truth], classes: int) -> Tensor:
    """(b,) the class of each picture's first truth, `classes` where it has none."""
    return torch.tensor([int(t.labels[0]) if len(t.labels) else classes for t in truths])


class Run:
    """The state of a run; everything in it that changes is in the checkpoint."""

    def __init__(self, settings: TrainSettings, pool: int, world: World | None = None) -> None:
        recipe = settings.recipe
        torch.manual_seed(settings.seed)
        self.settings, self.recipe, self.world = settings, recipe, world or World()
        classes = len(settings.class_names)
        model = damoyolo_t(classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.start = start_from(settings.weights, model) if settings.weights else "random weights"
        help_ = PictureHead(classes) if recipe.picture_weight else None
        self.trained = self.world.prepared(Trained(model, help_))
        self.model = self.trained.model
        self.optimiser = make_optimiser(self.trained, recipe)
        self.called = self.world.share(self.trained)
        self.ema = Ema(self.model, EmaSchedule(recipe.ema_momentum, recipe.ema_ramp))
        self.epoch, self.drawn, self.step, self.pool = 0, 0, 0, pool
        self.epoch_images = recipe.epoch_images or pool
        self.total_images = recipe.images or round(recipe.epochs * self.epoch_images)
        self.sums = [0.0] * 6  # total, classes, boxes, distances, positives, batches of this epoch
        self.saved = time.monotonic()  # when the checkpoint was written last
        self.shelf = Shelf(processes=self.world.size)
        self.parts: dict[str, dict[str, Any]] = {}
        #: epoch, loss and averaged weights of the lowest validation loss
        self.best: dict[str, Any] | None = None
        self.ended = False  # before the recipe's end, for lack of progress

    @property
    def images(self) -> int:
        """Pictures seen since the start."""
        return self.epoch * self.epoch_images + self.drawn

    def schedule(self) -> CosineSchedule:
        """The learning rate in optimiser steps."""
        recipe, batch = self.recipe, self.recipe.batch

        def steps(images: int | None, epochs: float) -> int:
            pictures = round(epochs * self.epoch_images) if images is None else images
            whole, rest = divmod(pictures, self.epoch_images)  # an epoch's last batch may be smaller
            return whole * -(-self.epoch_images // batch) + -(-rest // batch)

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
        recipe, help_ = asdict(self.recipe), self.trained.picture_head
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
            "validation": str(self.settings.validation) if self.settings.validation else None,
            "split": self.settings.split,
            "unlabelled": self.settings.unlabelled,
            "start": self.start,
            "parts": self.parts,
            "best": self.best,
            "ended": self.ended,
            "model": self.model.state_dict(),
            "picture_head": help_.state_dict() if help_ is not None else {},
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
        own = asdict(self.recipe)
        other = [k for k in ("input_size", "batch", "epochs") if state["recipe"][k] != own[k]]
        if other:
            told = ", ".join(f"{k} {state['recipe'][k]:g} instead of {own[k]:g}" for k in other)
            raise TrainingError(f"{path} was begun with {told}; give the same again")
        if state["seed"] != self.settings.seed:
            raise TrainingError(f"{path} was started with seed {state['seed']}, not {self.settings.seed}")
        parts = state.get("parts", {})
        if self.settings.split and {k: v["sha256"] for k, v in parts.items()} != {
            k: v["sha256"] for k, v in self.parts.items()
        }:
            raise TrainingError(
                f"The pictures or labels in {self.settings.data} changed since {path} was begun."
            )
        self.model.load_state_dict(state["model"])
        if self.trained.picture_head is not None:
            self.trained.picture_head.load_state_dict(state["picture_head"])
        self.start, self.best = state.get("start", self.start), state.get("best")
        self.ended = bool(state.get("ended"))
        self.ema.model.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.drawn, self.step = state["epoch"], state["drawn"], state["step"]
        self.pool, self.epoch_images, self.sums = state["pool"], state["epoch_images"], state["sums"]
        self.total_images = self.recipe.images or state["total_images"]

    def _losses(self, batch: Batch) -> tuple[Losses, Tensor | float]:
        """The detector's losses, and what the help in training adds."""
        recipe, world = self.recipe, self.world
        batch = batch.to(world.device)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=recipe.bf16):
            outputs, logits = self.called(batch.pixels)
        project = self.model.head.integral.project
        losses = detection_losses(outputs, project, batch.truths, recipe.focal_beta, world.mean)
        if logits is None:
            return losses, 0.0
        labels = picture_labels(batch.truths, len(self.settings.class_names)).to(world.device)
        return losses, recipe.picture_weight * functional.cross_entropy(logits, labels)

    def judge(self, loss: float) -> None:
        """Take note of the validation loss after an epoch: keep the best weights, end a run that stands still."""
        if self.best is None or loss < self.best["loss"]:
            weights = {k: v.detach().cpu().clone() for k, v in self.ema.model.state_dict().items()}
            self.best = {"epoch": self.epoch, "loss": loss, "weights": weights}
        patience = self.settings.patience
        self.ended = patience is not None and self.epoch - self.best["epoch"] >= patience

    def train_step(self, batches: list[Batch], learning_rate: float) -> None:
        """One optimiser step over micro-batches that make up the batch."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.model.train()
        pictures = sum(len(b.truths) for b in batches)
        for at, batch in enumerate(batches, 1):
            with self.world.quiet(self.called, last=at == len(batches)):
                losses, extra = self._losses(batch)
                share = len(batch.truths) / pictures
                ((losses.total + extra) * share).backward()
            parts = losses.total, losses.classes, losses.boxes, losses.distances
            for i, part in enumerate(parts):
                self.sums[i] += float(part.detach()) * share
            self.sums[4] += losses.positives
        self.sums[5] += 1
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.world.first:
            self.ema.update(self.model, self.step)
        self.step += 1
