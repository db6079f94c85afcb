"""How long `hipnode evaluate` takes and what it needs: films of two per patient, 2,000 resamples, two cores."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer

from tests.evaluation_files import four_classes, published_films, reader_study

CORES = 2
RESAMPLES = 2000


def measure(*arguments: str | Path) -> tuple[float, float]:
    """Wall seconds and CPU seconds of one run of the command on two cores. Raises where it fails."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(CORES))
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "hipnode", "evaluate", *map(str, arguments), "--resamples", str(RESAMPLES)],
        check=True,
        capture_output=True,
        env={**os.environ, **threads},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one line for each kind of table."""
    typer.echo(f"hipnode evaluate, {RESAMPLES} resamples, {CORES} cores     wall s   CPU s")
    with tempfile.TemporaryDirectory() as made:
        for name, films, boxes in (
            ("20,000 films, 4 classes, boxes", 20_000, True),
            ("20,000 films, 4 classes, p columns", 20_000, False),
        ):
            folder = Path(made) / name.replace(" ", "")
            folder.mkdir()
            labels, predictions = four_classes(folder, films, boxes=boxes)
            _line(name, "--labels", labels, "--predictions", predictions, "--out", folder / "out")
        folder = Path(made) / "one"
        folder.mkdir()
        labels, predictions = published_films(folder)
        _line(
            "1,888 films, 1 class", "--labels", labels, "--predictions", predictions, "--out", folder / "out"
        )
        folder = Path(made) / "reads"
        folder.mkdir()
        labels, predictions, reads = reader_study(folder)
        arguments = (
            "--labels",
            labels,
            "--predictions",
            predictions,
            "--reads",
            reads,
            "--out",
            folder / "out",
        )
        _line("120 films, 3 readers", *arguments)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    typer.echo(f"most memory of a run: {peak:.0f} MB")


def _line(name: str, *arguments: str | Path) -> None:
    wall, cpu = measure(*arguments)
    typer.echo(f"{name:<44} {wall:>9.1f} {cpu:>7.1f}")


if __name__ == "__main__":
    main()
