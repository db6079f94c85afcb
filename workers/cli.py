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
from hipnode.cli.needs import need_evaluation
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
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoint, metrics and decoded films; not in a repository.")
    ],
    data: Annotated[
        Path,
        typer.Option(help="Folder of labelled pictures: LabelImg, YOLO, COCO, labels.csv or labels.jsonl."),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="bjj2025 (paper), bjj2025-literal (ablation) or phantom-short (the shipped weights')."
        ),
    ] = "bjj2025",
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Another such folder for validation; unset: --data is parted by patient, 80/10/10."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from: a package's model.safetensors, a run's checkpoint.pt, or DAMO-YOLO's."
        ),
    ] = None,
    unlabelled: Annotated[
        Literal["refuse", "none", "skip"],
        typer.Option(help="Pictures without a label: a mistake, without a fracture, or left out."),
    ] = "refuse",
    epochs: Annotated[float | None, typer.Option(help="Shorten the recipe to so many epochs.")] = None,
    size: Annotated[int | None, typer.Option(help="Input size in pixels, a multiple of 32.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures per step; the learning rate follows.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="End when validation has not improved for so many epochs.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda:N; under torchrun each process has its own.")
    ] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the parts and of the run.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads; unset leaves them to torch.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Only algorithms that give the same numbers each time.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read and check the data, and stop.")] = False,
) -> None:
    """Train the detector on labelled films. SIGTERM saves a checkpoint; `--resume` goes on from it.

    Example: `hipnode train --recipe bjj2025 --data films/ --out runs/first`; docs/training.md has the rest.
    """
    need_torch()
    from workers.training.loop import train as run
    from workers.training.recipes import changed, recipe_named
    from workers.training.run import TrainSettings, describe

    settings = TrainSettings(
        data=data,
        out=out,
        recipe=changed(recipe_named(recipe), epochs=epochs, size=size, batch=batch),
        validation=validation,
        split=validation is None,
        unlabelled=unlabelled,
        weights=weights,
        seed=seed,
        device=device,
        threads=threads,
        patience=patience,
        deterministic=deterministic,
        resume=resume,
    )
    if check:
        for part, told in describe(settings.parts(), settings.class_names).items():
            typer.echo(f"{part}: {_part(told)}")
        return
    with counting("training") as steps:
        checkpoint = run(settings, progress=lambda report: typer.echo(report.line()), steps=steps)
    typer.echo(
        f"The run is in {checkpoint.parent}; `hipnode models build {checkpoint.parent} --out DIR` packs it."
    )


def _part(told: dict[str, Any]) -> str:
    classes = ", ".join(f"{name} {count}" for name, count in sorted(told["classes"].items()))
    owners = f"{told['patients']} patients" if told["patients_known"] else "patients not named"
    return f"{told['pictures']} pictures ({classes}), {owners}"


def build_model(
    run: Annotated[Path, typer.Argument(help="Folder that `hipnode train` wrote.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the new package; its name is the package's id, unless --id gives one."),
    ],
    id_: Annotated[str | None, typer.Option("--id", help="Name of the package in selection.toml.")] = None,
    version: Annotated[str, typer.Option(help="Version of the package.")] = "0.1.0",
    name: Annotated[str, typer.Option(help="What results call it.")] = "",
    manufacturer: Annotated[str, typer.Option(help="Who made it, as results write it.")] = "",
    data_name: Annotated[
        str, typer.Option(help="The data in words, without patient names; stands in results and card.")
    ] = "the data of one site",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "not given",
    data: Annotated[Path | None, typer.Option(help="Where the training data lies now, if it moved.")] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Folder for thresholds and calibration, where the run drew no part.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Folder for the test, where the run drew no part.")
    ] = None,
    form: Annotated[
        Literal["training", "fused"], typer.Option(help="training can be trained further; fused is smaller.")
    ] = "training",
    calibration: Annotated[
        Literal["auto", "none", "temperature", "platt", "isotonic"],
        typer.Option(
            help="How scores become certainties; auto: isotonic from 200 fractures, else temperature."
        ),
    ] = "auto",
    notes: Annotated[Path | None, typer.Option(help="Markdown for the end of the model card.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda:N.")] = "cpu",
) -> None:
    """Make a model package of a training RUN: weights, thresholds, calibration and a filled model card.

    Thresholds and calibration come from the validation part alone; the test part is looked at once, for the card.

    Example: `hipnode models build runs/first --out packages/hip-somewhere --data-name "films of Somewhere, 2019-2024"`
    """
    need_torch()
    need_evaluation()
    from workers.training.package import BuildSettings, build_package

    settings = BuildSettings(
        run=run,
        out=out,
        date=datetime.now(UTC).date().isoformat(),
        data=data,
        validation=validation,
        test=test,
        id=id_ or out.resolve().name,
        version=version,
        name=name,
        manufacturer=manufacturer,
        licence=licence,
        data_name=data_name,
        form=form,
        calibration=calibration,
        notes=notes.read_text("utf-8") if notes else "",
        device=device,
    )
    with Console(stderr=True).status("Reading validation and test ..."):
        built = build_package(settings, say=typer.echo)
    typer.echo(f"The package {built.package.id} {built.package.version} is in {out}.")
    tables = run / "evaluation"
    typer.echo(f"Read {built.package.model_card}; labels and predictions for `hipnode evaluate`: {tables}.")
