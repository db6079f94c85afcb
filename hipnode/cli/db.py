"""`hipnode db`: prepare the database, and say which revision it has."""

from typing import Annotated

import typer

from hipnode import migrations
from hipnode.settings import load_settings

db = typer.Typer(no_args_is_help=True, help="The database: prepare it, look at its revision.")


@db.command()
def upgrade(revision: Annotated[str, typer.Argument(help="Revision to go to.")] = "head") -> None:
    """Bring the database to the newest revision. Safe to repeat."""
    typer.echo(f"The database is at revision {migrations.upgrade(load_settings().database, revision)}.")


@db.command()
def downgrade(revision: Annotated[str, typer.Argument(help="Revision to go back to: -1, base, ...")]) -> None:
    """Go back to an older revision. What the older tables cannot hold is lost: back up first."""
    now = migrations.downgrade(load_settings().database, revision)
    typer.echo(f"The database is at revision {now or 'base: it holds no tables'}.")


@db.command()
def current() -> None:
    """Print the database's revision."""
    revision = migrations.current(load_settings().database)
    typer.echo(revision or "none: run `hipnode db upgrade`")
    if revision is None:
        raise typer.Exit(1)


@db.command()
def check() -> None:
    """Check that the database is at the newest revision and its tables are this program's."""
    url = load_settings().database
    migrations.require_head(url)
    problems = migrations.check(url)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo("The database fits this version of hipnode.")
