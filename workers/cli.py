"""The commands that run behind the queue or need torch; hipnode's command line finds them here.

torch is imported inside the commands that use it, so that the others run where it is not installed.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from hipnode import ledger, logs, migrations
from hipnode.cli.doors import make_data_folder, open_ledger
from hipnode.cli.progress import counting
from hipnode.errors import HipnodeError, LedgerDown
from hipnode.settings import Settings, load_settings
from workers.detector import need_torch
from workers.names import here

worker = typer.Typer(no_args_is_help=True, help="A worker behind the queue.")


def _worker_settings() -> Settings:
    settings = load_settings()
    logs.configure(settings.log_json)
    make_data_folder(settings)
    with suppress(LedgerDown):  # a worker waits for its database; one that was never prepared is a mistake
        migrations.require_head(settings.database)
    return settings


@worker.command("analyse")
def worker_analyse(
    device: Annotated[str, typer.Option(help="cpu, or cuda:N; an absent device is an error.")] = "cpu",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="auto chooses by device.")
    ] = "auto",
) -> None:
    """Analyse queued studies on one device until told to stop. Start one per device.

    Example: `hipnode worker analyse --device cuda:0`
    """
    need_torch()
    from workers.runtime import start_analyse_worker

    settings = _worker_settings()
    start_analyse_worker(settings, device=device, precision=precision)


@worker.command("deliver")
def worker_deliver() -> None:
    """Deliver results, and write failure notices, until told to stop. Needs no torch."""
    from workers.runtime import start_deliver_worker

    settings = _worker_settings()
    start_deliver_worker(settings)


@worker.command("check")
def worker_check(
    kind: Annotated[Literal["analyse", "deliver"], typer.Argument(help="Which worker.")],
    within_s: Annotated[float, typer.Option(min=1, help="Seconds its last heartbeat may be old.")] = 60,
) -> None:
    """Say whether a worker of this machine wrote its heartbeat lately: the health check of a container.

    Exit code 1 when none did, or when the database does not answer. Example: `hipnode worker check analyse`
    """
    with ledger.reading(open_ledger(load_settings())) as session:
        rows = [row for row in ledger.workers(session) if row.name.startswith(here(kind))]
    ages = [(datetime.now(UTC) - row.seen_at).total_seconds() for row in rows]
    if not ages:
        raise HipnodeError(f"No {kind} worker of this machine is known: it has not started, or it ended.")
    if min(ages) > within_s:
        raise HipnodeError(
            f"The {kind} worker of this machine wrote its last heartbeat {min(ages):.0f} s ago."
        )
    typer.echo(f"The {kind} worker of this machine wrote its heartbeat {min(ages):.0f} s ago.")


def analyse(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for SR, overlay and PNG.")],
    package: Annotated[
        str | None, typer.Option(help="Model package id; unset is the one the selection rule names.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda:N.")] = "cpu",
    json_: Annotated[
        bool, typer.Option("--json", help="One object an image: status, reason, findings, every candidate.")
    ] = False,
) -> None:
    """Analyse DICOM FILES without a node: SR, overlay and PNG preview into a folder.

    Example: `hipnode analyse export/ --out results/ --json | jq '.[] | {file, status}'`
    """
    need_torch()
    from hipnode.cli.paths import dicom_files
    from workers.offline import analyse_files

    settings = load_settings()
    console = Console(stderr=True)
    with console.status("Analysing ..."):
        answers = analyse_files(dicom_files(files), out, settings, package_id=package, device=device)
    if json_:
        typer.echo(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        for answer in answers:
            typer.echo(f"{answer['file']}: {_said(answer)}")
        if any(answer["outputs"] for answer in answers):
            typer.echo(f"Results are in {out}.")
    if any(a["status"] == "failed" for a in answers):
        raise typer.Exit(1)


def _said(answer: dict[str, Any]) -> str:
    if answer["outcome"] == "none":
        return f"{answer['status']}, no fracture detected; does not exclude fracture"
    if answer["outcome"] == "findings":
        return f"{answer['status']}, " + ", ".join(
            f"{f['side'] or 'side not given'} {f['class']} {f['score']:.2f}" for f in answer["findings"]
        )
    return f"{answer['status']}, {answer['reason']}: {answer['sentence']}"


def phantom(
    out: Annotated[Path, typer.Option(help="Folder for the files and labels.jsonl; a second call goes on.")],
    count: Annotated[int, typer.Option(min=1, help="How many phantoms.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pixels.")] = 1,
    view: Annotated[
        Literal["hip_ap", "pelvis_ap"], typer.Option(help="One hip, or the whole pelvis, of the same scene.")
    ] = "hip_ap",
    outcome: Annotated[
        Literal["VF", "DF", "SF", "UF", "none"] | None, typer.Option(help="One outcome only; unset is a mix.")
    ] = None,
    mix: Annotated[
        Literal["train", "balanced", "cohort", "screening"], typer.Option(help="Shares of the outcomes.")
    ] = "train",
    columns: Annotated[
        int | None, typer.Option(min=128, max=4096, help="Width in pixels; unset: 512, of DICOM 1024.")
    ] = None,
    box_margin: Annotated[
        float, typer.Option(min=0, max=50, help="Millimetres around the fracture that its box takes in.")
    ] = 8.0,
    labels: Annotated[
        Literal["coco", "yolo", "voc"] | None,
        typer.Option(help="Also write labels in this format; a second call adds another."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Also write bone and metal masks.")] = False,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="DX files, marked synthetic, instead of PNG.")
    ] = False,
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option(help="Written into the labels; `hipnode evaluate` chooses thresholds on validation."),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="The five DICOM studies of `make demo`.")] = False,
) -> None:
    """Render synthetic hip radiographs with known truth.

    They serve to exercise the path and to train; they say nothing about patients.

    Example: `hipnode phantom --count 1000 --out phantoms/`
    """
    need_torch()
    from workers.phantom.breaks import FractureOutcome
    from workers.phantom.dataset import PoolRequest, write_demo_studies, write_pool
    from workers.phantom.labels import write_labels

    if demo:
        write_demo_studies(out)
        return
    request = PoolRequest(
        out, count, seed, dicom=dicom, outcome=FractureOutcome(outcome) if outcome else None, columns=columns,
        view=view, mix=mix, box_margin_mm=box_margin, masks=masks, split=split,
    )  # fmt: skip
    with counting(f"phantoms, {view}") as progress:
        made = write_pool(request, progress=progress)
    if labels:
        write_labels(out, labels)
    typer.echo(f"{made} phantoms made in {out}, {count - made} were there.")


def train(
    data: Annotated[
        Path, typer.Option(help="Folder of pictures with labels.jsonl, as `hipnode phantom` writes it.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the checkpoint and metrics.jsonl; not in a repository.")
    ],
    recipe: Annotated[
        str, typer.Option(help="bjj2025 (paper) or phantom-short (the shipped weights').")
    ] = "bjj2025",
    validation: Annotated[Path | None, typer.Option(help="Folder whose loss is measured each epoch.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from these: model.safetensors of a package, or a checkpoint.pt."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads; unset leaves them to torch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train the detector. SIGTERM saves a checkpoint; `--resume` goes on from it.

    Example: `hipnode train --data phantoms/train --validation phantoms/val --out runs/first --recipe phantom-short`
    """
    need_torch()
    from workers.training.loop import TrainSettings
    from workers.training.loop import train as run
    from workers.training.recipes import recipe_named

    settings = TrainSettings(
        data=data,
        out=out,
        recipe=recipe_named(recipe),
        validation=validation,
        weights=weights,
        seed=seed,
        threads=threads,
        resume=resume,
    )
    checkpoint = run(settings, progress=lambda report: typer.echo(report.line()))
    typer.echo(f"The weights are in {checkpoint}.")
