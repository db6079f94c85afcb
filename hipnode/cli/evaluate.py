"""`hipnode evaluate`: the tables and figures of a model on a site's own cases, from labels and predictions."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from hipnode.cli.needs import need_evaluation
from hipnode.cli.progress import counting
from hipnode.cli.screen import plain, screen
from hipnode.errors import HipnodeError, PackageError
from hipnode.packages import ModelPackage, find_packages, named_package
from hipnode.settings import load_settings

if TYPE_CHECKING:
    from hipnode.evaluation.assemble import Options
    from hipnode.evaluation.films.runs import Run
    from hipnode.evaluation.record import Evaluation, ModelResult
    from hipnode.evaluation.report.document import Section
    from hipnode.evaluation.tables import Tables, TablesUnusable
    from hipnode.evaluation.thresholds import Wanted

evaluate = typer.Typer(invoke_without_command=True)


class NotEvaluated(HipnodeError):
    """Nothing was evaluated, or split; the text says why."""


@evaluate.callback(invoke_without_command=True)
def _evaluate(
    context: typer.Context,
    labels: Annotated[
        Path | None, typer.Option(help="Table of the reference: .csv, .jsonl or .parquet.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="Table of what the model said.")] = None,
    reads: Annotated[Path | None, typer.Option(help="Table of what human readers said.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; made if it is not there.")] = None,
    package: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A model package: its thresholds, and with --data its answers."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with labels and films, which --package reads first.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where --package computes: cpu, or cuda:N.")] = "cpu",
    stress: Annotated[
        bool,
        typer.Option(
            "--stress", help="With --data: read the films again turned, cut, noisy, under a wrong header."
        ),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(help="Names with commas. Else those of the p_ columns, else DF,VF,SF,UF."),
    ] = None,
    unit: Annotated[
        Literal["hip", "image", "patient"] | None,
        typer.Option(help="What a row is: hip, image or patient. Else the hip column tells."),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Score from which a class is called: 0.15, or DF=0.3; may be repeated."),
    ] = None,
    also_at: Annotated[
        list[float] | None, typer.Option(help="A threshold to judge beside those in use; may be repeated.")
    ] = None,
    prevalence: Annotated[
        float | None, typer.Option(help="Share of fractures in your patients, for predictive values.")
    ] = None,
    peak_radius: Annotated[
        float | None, typer.Option(help="Pixels from a point label within which a heat map's peak is right.")
    ] = None,
    washout_days: Annotated[
        float | None, typer.Option(help="Days between a reader's two readings of a case.")
    ] = None,
    interval: Annotated[
        Literal["wilson", "clopper-pearson"], typer.Option(help="Of proportions; clopper-pearson is wider.")
    ] = "wilson",
    compat: Annotated[
        Literal["bjj2025"] | None,
        typer.Option(help="bjj2025: also the macro average of that paper, beside the right one."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 1,
    resamples: Annotated[int, typer.Option(min=100, max=20_000, help="Bootstrap resamples.")] = 2000,
) -> None:
    """Write every table and figure of a model on your own cases, with intervals, as HTML, Markdown and CSV.

    Example: `hipnode evaluate --labels labels.csv --predictions predictions.csv --out report`.
    With `--package ID --data FOLDER` the package reads the films first. Cases of the split test are judged,
    those of validation choose thresholds, those of train are left out.
    """
    if context.invoked_subcommand is not None:
        return
    need_evaluation()
    if out is None:
        raise typer.BadParameter("Name a folder for the report: --out.")
    by_files = labels is not None or predictions is not None
    if by_files == (data is not None) or (by_files and (labels is None or predictions is None)):
        raise typer.BadParameter("Give --labels and --predictions, or --package and --data.")
    if data is not None and package is None:
        raise typer.BadParameter("--data needs the --package that reads it.")
    if stress and data is None:
        raise typer.BadParameter("--stress changes films, so that it needs --package and --data.")
    if prevalence is not None and not 0 < prevalence < 1:
        raise typer.BadParameter(f"--prevalence is a share above 0 and below 1, not {prevalence:g}.")
    for value in also_at or []:
        _in_unit("--also-at", value)
    made = named(package) if package is not None else None
    _writable(out)
    from hipnode.evaluation.assemble import Options
    from hipnode.evaluation.tables import TablesUnusable

    options = Options(
        unit=unit,
        constants=tuple(dict.fromkeys(also_at or [])),
        prevalence=prevalence,
        seed=seed,
        resamples=resamples,
        peak_radius_px=peak_radius,
        washout_days=washout_days,
        interval=interval,
    )
    try:
        run = _predicted(data, made, out, device, stress) if data is not None and made is not None else None
        if run is not None:
            labels, predictions = run.labels, run.predictions
        tables = _tables(labels, predictions, reads, made, classes)
        options = replace(options, thresholds=_thresholds(threshold or [], tables, made))
        evaluation = _run(tables, options, made, _command(context.params))
        more = [_stressed(tables, run.stressed, evaluation)] if run is not None and run.stressed else []
    except TablesUnusable as error:
        _tell(error)
        raise typer.Exit(1) from error
    cautions = made.cautions if made is not None and run is not None else ()
    page = _write(evaluation, out, compat, more, cautions)
    _headlines(evaluation, page, cautions)


@evaluate.command()
def split(
    labels: Annotated[Path, typer.Option(help="Table of the reference, without splits.")],
    out: Annotated[
        Path, typer.Option(help="The same table with a column split: .csv or .jsonl, a new file.")
    ],
    shares: Annotated[str, typer.Option(help="Parts and their shares.")] = "validation=0.3,test=0.7",
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Deal cases to validation and test (and train), all cases of a patient to one, classes spread evenly.

    Do it once, before a model has seen the cases: a test part that is dealt again until the numbers please is none.
    """
    need_evaluation()
    from hipnode.evaluation.splitting import split_labels
    from hipnode.evaluation.tables import SPLITS, TablesUnusable

    if out.suffix not in (".csv", ".jsonl"):
        raise typer.BadParameter("--out is a new .csv or .jsonl file.")
    if out.exists():
        raise NotEvaluated(f"{out} is there already; name a new file.")
    try:
        parts = {name: float(share) for name, share in (part.split("=") for part in shares.split(","))}
    except ValueError as error:
        raise typer.BadParameter("--shares is like validation=0.3,test=0.7.") from error
    if not set(parts) <= set(SPLITS):
        raise typer.BadParameter(f"--shares names parts among {', '.join(SPLITS)}.")
    try:
        rows = split_labels(labels, parts, seed=seed)
    except TablesUnusable as error:
        _tell(error)
        raise typer.Exit(1) from error
    out.write_text(
        _as_lines(rows) if out.suffix == ".jsonl" else _as_csv(rows), encoding="utf-8", newline="\n"
    )
    for part in parts:
        here = [row for row in rows if row["split"] == part]
        classes = Counter(str(row["y_class"]).strip() for row in here)
        patients = len({str(row["patient_id"]).strip() for row in here})
        words = ", ".join(f"{name} {count}" for name, count in sorted(classes.items()))
        typer.echo(f"{part}: {len(here)} cases of {patients} patients ({words})")
    typer.echo(f"Labels with splits, seed {seed}: {out}")


def _as_lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(column) for column in columns)
        writer.writerow([json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in cells])
    return text.getvalue()


def named(id_: str) -> ModelPackage:
    """The package of this id. Raises PackageError: why it cannot be used, or that there is none."""
    settings = load_settings()
    problems: list[PackageError] = []
    found = find_packages(settings.package_folders, verify=False, problems=problems)
    for problem in problems:
        if problem.package_id == id_ and id_ not in found:
            raise problem
    return named_package(found, id_, settings.data / "packages")


def _predicted(data: Path, package: ModelPackage, out: Path, device: str, stress: bool) -> "Run":
    from hipnode.evaluation.films.data import predict_folder
    from hipnode.evaluation.films.stress import standard

    changes = standard() if stress else ()
    with counting("films") as progress:
        run = predict_folder(
            data, package.id, out, load_settings(), device=device, stresses=changes, progress=progress
        )
    typer.echo(run.said, err=True)
    return run


def _tables(
    labels: Path | None,
    predictions: Path | None,
    reads: Path | None,
    package: ModelPackage | None,
    classes: str | None,
) -> "Tables":
    from hipnode.evaluation.cases import classes_in
    from hipnode.evaluation.tables import load

    if labels is None or predictions is None:
        raise typer.BadParameter("Give --labels and --predictions, or --package and --data.")
    names = tuple(dict.fromkeys(name.strip() for name in (classes or "").split(",") if name.strip()))
    of_package = tuple(c.name for c in package.algorithm.classes) if package is not None else ()
    return load(labels, predictions, names or of_package or classes_in(predictions), reads)


def _stressed(tables: "Tables", path: Path, evaluation: "Evaluation") -> "Section":
    from hipnode.evaluation.films.stress import standard
    from hipnode.evaluation.films.stressed import stress_rows, stress_section, stressed_tables

    typer.echo("stress tests ...", err=True)
    model, facts = evaluation.models[0], evaluation.facts
    under = stressed_tables(tables, path)
    who = (model.model_id, model.version)
    return stress_section(
        stress_rows(tables, under, standard(), who, facts.judged.name, model.rule), facts.unit
    )


def _thresholds(texts: Sequence[str], tables: "Tables", package: ModelPackage | None) -> "Wanted":
    from hipnode.evaluation.thresholds import wanted

    try:
        return wanted(texts, tables.classes, package.rule if package is not None else None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _run(tables: "Tables", options: "Options", package: ModelPackage | None, command: str) -> "Evaluation":
    from hipnode.evaluation.assemble import evaluate as assemble
    from hipnode.evaluation.provenance import provenance

    source = provenance(
        tables,
        seed=options.seed,
        resamples=options.resamples,
        command=command,
        package=None if package is None else (package.id, package.version, package.sha256),
    )
    return assemble(tables, options, source, lambda what: typer.echo(f"{what} ...", err=True))


def _write(
    evaluation: "Evaluation",
    out: Path,
    compat: str | None,
    more: "Sequence[Section]",
    cautions: Sequence[str],
) -> Path:
    from hipnode.evaluation.published.assemble import sections
    from hipnode.evaluation.report.evaluation import evaluation_document
    from hipnode.evaluation.report.writing import write

    typer.echo("report ...", err=True)
    published = sections(evaluation, compat_bjj2025=compat is not None)
    document = evaluation_document(evaluation, [*more, *published])
    return write(replace(document, warnings=(*cautions, *document.warnings)), out)


def _command(given: dict[str, Any]) -> str:
    """The command with all that decided the numbers, files by their base names."""
    from hipnode.evaluation.provenance import command_line

    words = ["hipnode", "evaluate"]
    for name, value in given.items():
        if name == "device" and given["data"] is None:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is True:
                words.append(f"--{name.replace('_', '-')}")
            elif one is not None and one is not False:
                words += [f"--{name.replace('_', '-')}", str(one)]
    return command_line(words)


def _in_unit(option: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter(f"{option} is a share between 0 and 1, not {value:g}.")


def _writable(out: Path) -> None:
    """Learn before minutes of work that the report has no place. Raises NotEvaluated."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".hipnode-writable"
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise NotEvaluated(f"{out} is a file; name a folder for the report with --out.") from error
    except OSError as error:
        raise NotEvaluated(f"Nothing can be written to {out}: {error.strerror}.") from error


def _tell(error: "TablesUnusable") -> None:
    typer.secho(str(error), err=True, fg=typer.colors.RED)
    count = "One problem" if len(error.problems) == 1 else f"{len(error.problems)} problems"
    typer.echo(f"{count}; nothing was done.", err=True)


def _headlines(evaluation: "Evaluation", page: Path, cautions: Sequence[str]) -> None:
    console = screen()
    for warning in (*cautions, *evaluation.warnings):
        console.print(plain(f"Note: {warning}"), style="yellow")
    for identity in evaluation.identities:
        if not identity.holds:
            console.print(plain(f"Error of this report, please tell us: {identity.says}"), style="red")
    for model in evaluation.models:
        _numbers(console, model, evaluation.facts.unit)
    console.print(f"Report: {plain(page)}", soft_wrap=True)


def _numbers(console: Console, model: "ModelResult", unit: str) -> None:
    from hipnode.evaluation.report.words import count, with_interval

    question = model.any_fracture
    counts = question.used.counts
    too_good = ", too good: threshold chosen on these cases" if model.optimistic else ""
    sensitivity, specificity = (question.used.estimates[name] for name in ("sensitivity", "specificity"))
    console.print(plain(f"{model.name}, {count(counts.n, unit)}, any fracture{too_good}:"))
    for name, estimate, of in (
        ("sensitivity", sensitivity, f"{counts.tp} of {counts.positives}"),
        ("specificity", specificity, f"{counts.tn} of {counts.negatives}"),
        ("AUC", question.auc, f"{counts.positives} against {counts.negatives}"),
    ):
        console.print(plain(f"  {name} {with_interval(estimate)}, {of}"))
