"""What a run says while it goes on: a line an epoch, metrics.csv, and TensorBoard where it is installed."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

METRICS = "metrics.csv"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class EpochReport:
    """One epoch: means over it, and how far the run is."""

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


class Journal:
    """metrics.csv and the TensorBoard events of a run folder, from an epoch on.

    after: epochs the run has behind it; rows of later ones, written by a run that was killed since its last
        checkpoint, are taken back
    """

    def __init__(self, folder: Path, after: int) -> None:
        self.path = folder / METRICS
        names = [f.name for f in fields(EpochReport)]
        kept = [names]
        if after and self.path.is_file():
            rows = list(csv.reader(self.path.read_text("utf-8").splitlines()))[1:]
            kept += [row for row in rows if len(row) == len(names) and int(row[0]) <= after]
        part = self.path.with_suffix(".part")
        part.write_text("".join(_as_line(row) for row in kept), encoding="utf-8")
        part.replace(self.path)
        self._events: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / TENSORBOARD), purge_step=after + 1)

    def write(self, report: EpochReport) -> None:
        """Add an epoch."""
        values = asdict(report)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_as_line(["" if v is None else v for v in values.values()]))
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._events.add_scalar(name, value, report.epoch)
            self._events.flush()

    def close(self) -> None:
        """End the events file."""
        if self._events is not None:
            self._events.close()


def _as_line(row: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue()
