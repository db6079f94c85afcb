"""`hipnode models`: the model packages this installation has. Needs no torch."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from hipnode.cli.screen import screen
from hipnode.errors import PackageError
from hipnode.packages import ModelPackage, find_packages
from hipnode.settings import load_settings

models = typer.Typer(
    no_args_is_help=True, help="The model packages: what is installed, and whether it is whole."
)


def _installed(verify: bool) -> tuple[dict[str, ModelPackage], list[PackageError]]:
    problems: list[PackageError] = []
    return find_packages(load_settings().package_folders, verify=verify, problems=problems), problems


def _named(id_: str) -> ModelPackage:
    found, _ = _installed(verify=False)
    if id_ not in found:
        raise typer.BadParameter(
            f"No package is called {id_}; there are: {', '.join(sorted(found)) or 'none'}."
        )
    return found[id_]


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
def list_(json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    """List the packages in the data folder, in HIPNODE_PACKAGES and those shipped."""
    found, problems = _installed(verify=False)
    if json_:
        typer.echo(json.dumps([_facts(p) for p in found.values()], indent=2, ensure_ascii=False))
    else:
        table = Table("id", "version", "sha256", "classes", "origin", box=None)
        for package in found.values():
            facts = _facts(package)
            table.add_row(
                facts["id"],
                facts["version"],
                facts["sha256"][:12],
                " ".join(facts["classes"]),
                facts["origin"],
            )
        screen().print(table if found else "No model package is installed.")
    for problem in problems:
        typer.secho(str(problem), err=True, fg=typer.colors.RED)
    if problems:
        raise typer.Exit(1)


@models.command()
def show(package: Annotated[str, typer.Argument(metavar="ID", help="The package's id.")]) -> None:
    """Print the model card of a package."""
    typer.echo(_named(package).model_card.read_text(encoding="utf-8"))


@models.command()
def verify() -> None:
    """Hash the weights of every package and compare them with its manifest."""
    found, problems = _installed(verify=True)
    for package in found.values():
        typer.echo(f"{package.id} {package.version}: the weights are the manifest's ({package.sha256[:12]}).")
    for problem in problems:
        typer.secho(str(problem), err=True, fg=typer.colors.RED)
    if problems:
        raise typer.Exit(1)
    if not found:
        typer.echo("No model package is installed.")
