"""`hipnode models`: the model packages this installation has. Needs no torch."""

import json
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from hipnode import ledger, migrations
from hipnode.cli.accept import said_of
from hipnode.cli.doors import open_ledger
from hipnode.cli.screen import plain, screen
from hipnode.errors import LedgerDown, PackageError, SettingsError
from hipnode.ledger import AcceptanceRow
from hipnode.packages import ModelPackage, check_weights, find_packages, named_package
from hipnode.settings import load_settings

_OUTSIDE = "hipnode.commands.models"  # entry points: commands of this group that need torch


class _Commands(TyperGroup):
    """The commands below, and those that live outside the node; these are loaded when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(entry.name for entry in entry_points(group=_OUTSIDE))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for entry in entry_points(group=_OUTSIDE, name=cmd_name):
            single = typer.Typer(add_completion=False)
            single.command(cmd_name)(entry.load())
            return typer.main.get_command(single)
        return super().get_command(ctx, cmd_name)


models = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    help="The model packages: what is installed, what it reads, and whether it is whole.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class _Installed:
    """What is installed, and what lies there but cannot be used."""

    def __init__(self) -> None:
        settings = load_settings()
        self.own_folder = settings.data / "packages"
        self.problems: list[PackageError] = []
        self.found = find_packages(settings.package_folders, verify=False, problems=self.problems)

    def named(self, id_: str) -> ModelPackage:
        """The package of this id. Raises PackageError: why it cannot be used, or that there is none."""
        if id_ not in self.found:
            for problem in self.problems:
                if problem.package_id == id_:
                    raise problem
        return named_package(self.found, id_, self.own_folder)


def _facts(package: ModelPackage) -> dict[str, Any]:
    return {
        "id": package.id,
        "version": package.version,
        "sha256": package.sha256,
        "classes": [c.name for c in package.algorithm.classes],
        "origin": package.algorithm.origin,
        "folder": str(package.folder),
    }


@models.command("list")
def list_(json_: AsJson = False) -> None:
    """List the packages in the data folder, in HIPNODE_PACKAGES and those shipped."""
    installed = _Installed()
    if json_:
        typer.echo(json.dumps([_facts(p) for p in installed.found.values()], indent=2, ensure_ascii=False))
    else:
        table = Table("id", "version", "sha256", "classes", "origin", box=None)
        for package in installed.found.values():
            facts = _facts(package)
            table.add_row(
                facts["id"],
                facts["version"],
                facts["sha256"][:12],
                " ".join(facts["classes"]),
                plain(facts["origin"]),
            )
        screen().print(table if installed.found else "No model package is installed.")
    _tell(installed.problems)


@models.command()
def show(
    package: Annotated[str, typer.Argument(metavar="ID", help="The package's id.")], json_: AsJson = False
) -> None:
    """Print what a package reads and answers, where it comes from and what it is for; then its model card."""
    one = _Installed().named(package)
    card = one.model_card.read_text(encoding="utf-8", errors="replace")
    if json_:
        runs = [
            {"id": r.id, "outcome": r.outcome, "frozen_at": r.frozen_at.isoformat(), "protocol": r.protocol_name,
             "protocol_sha256": r.protocol_sha256, "package_sha256": r.package_sha256, "intact": r.intact}
            for r in _acceptances(one)[0]
        ]  # fmt: skip
        said = {"folder": str(one.folder), **one.manifest.model_dump(mode="json"), "acceptances": runs}
        said["model_card"] = card
        typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in [*_rows(one), *_accepted(one)]:
        table.add_row(name, plain(value))
    screen().print(table)
    typer.echo(f"\n{card}")


def _rows(package: ModelPackage) -> list[tuple[str, str]]:
    m = package.manifest
    rows = [
        ("id", f"{m.id} {m.version}"),
        ("name", f"{m.name}, by {m.manufacturer}"),
        ("intended use", " ".join(m.limits)),
        ("origin", m.origin),
        ("training data", f"{m.weights.training_data} (recipe {m.recipe}, licence {m.weights.licence})"),
        ("reads", f"BodyPartExamined {_any(m.body_parts)}; ViewPosition {_any(m.views)}"),
        ("side", m.laterality_handling),
        ("input", f"{m.input.width} x {m.input.height} pixels, {m.network}"),
    ]
    for one in m.classes:
        fires = f"fires at {m.decision.thresholds[one.name]:g}"
        if one.name in m.decision.definite:
            fires += f", definite from {m.decision.definite[one.name]:g}"
        rows.append((f"class {one.name}", f"{one.meaning} ({one.scheme} {one.code}), {fires}"))
    if m.decision.valgus_priority is not None:
        rows.append(("valgus priority", f"{m.decision.valgus_priority:g}"))
    calibrated = f"calibrated ({m.calibration.method}): results tell a certainty, classes fire by score"
    none = m.calibration.method == "none"
    rows.append(("scores", "not calibrated: no probabilities" if none else calibrated))
    if m.validation is not None:
        counts = ", ".join(f"{name} {count}" for name, count in m.validation.images_per_class.items())
        rows.append(("tested", f"on {m.validation.data_set}, {m.validation.date} ({counts})"))
    rows += [
        ("answers with", ", ".join(m.outputs)),
        ("sha256", package.sha256),
        ("folder", str(package.folder)),
    ]
    return rows


def _acceptances(package: ModelPackage) -> tuple[list[AcceptanceRow], str]:
    """The acceptance runs of this package's id or weights, and why they are not known ("" where they are)."""
    settings = load_settings()
    try:
        make = open_ledger(settings)
        migrations.require_head(settings.database)
        with ledger.reading(make) as session:
            rows = ledger.list_acceptances(session)
        make.kw["bind"].dispose()
    except SettingsError as error:  # a machine that only lists packages has no ledger
        return [], str(error) if migrations.current(settings.database) else ""
    except LedgerDown as error:
        return [], str(error)
    return [r for r in rows if package.id == r.package_id or package.sha256 == r.package_sha256], ""


def _accepted(package: ModelPackage) -> list[tuple[str, str]]:
    runs, unknown = _acceptances(package)
    rows = [("acceptance", f"not known: {unknown}")] if unknown else []
    for run in runs:
        notes = [f"{run.frozen_at:%Y-%m-%d}", f"protocol {run.protocol_name} ({run.protocol_sha256[:12]})"]
        if run.package_sha256 and run.package_sha256 != package.sha256:
            notes.append("of other weights")
        elif not run.package_sha256:
            notes.append("predictions made elsewhere, weights not known")
        used = (run.results or {}).get("thresholds")
        if used and used != package.manifest.decision.thresholds:
            notes.append("with other thresholds than the package has now")
        if run.again:
            notes.append(f"test cases used again: {run.again}")
        rows.append((f"acceptance run {run.id}", f"{said_of(run)}, {', '.join(notes)}"))
    return rows


def _any(terms: tuple[str, ...]) -> str:
    return " or ".join(terms) or "any"


@models.command()
def verify(
    packages: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Packages to verify; without one, all of them."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Hash the weights of packages and compare them with what their manifests name.

    Exit code 0: all are whole, 1: one is not, 2: there is no such package.
    """
    installed = _Installed()
    ids = list(dict.fromkeys(packages or installed.found))
    problems = [p for p in installed.problems if not packages or p.package_id in ids]
    unusable = {problem.package_id for problem in problems} - set(installed.found)
    whole: list[ModelPackage] = []
    # an unknown id is wrong use, and told before minutes of hashing
    for package in [installed.named(id_) for id_ in ids if id_ not in unusable]:
        try:
            check_weights(package)
        except PackageError as error:
            problems.append(error)
        else:
            whole.append(package)
    if json_:
        broken = [{"id": p.package_id, "whole": False, "problem": str(p)} for p in problems]
        said = [{"id": p.id, "whole": True, "problem": None} for p in whole] + broken
        typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        for package in whole:
            typer.echo(
                f"{package.id} {package.version}: the weights are the manifest's ({package.sha256[:12]})."
            )
        if not whole and not problems:
            typer.echo("No model package is installed.")
    _tell(problems)


def _tell(problems: list[PackageError]) -> None:
    for problem in problems:
        typer.secho(str(problem), err=True, fg=typer.colors.RED)
    if problems:
        raise typer.Exit(1)
