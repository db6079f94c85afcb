"""The command line: the place that wires the rooms together.

`hipnode.commands` entry points add what lives outside the node, such as the commands that need torch.
Exit codes: 0 done, 1 something failed and was named, 2 wrong use.
"""

import os
import sys
from importlib.metadata import entry_points
from typing import NoReturn

import click
import typer
from sqlalchemy.exc import OperationalError

from hipnode import __version__
from hipnode.cli.db import db
from hipnode.cli.explain import explain
from hipnode.cli.node import serve, up
from hipnode.cli.studies import replay, studies
from hipnode.demo import demo
from hipnode.errors import HipnodeError, SettingsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="A DICOM node that reads hip AP radiographs and answers with SR and overlay.\n\n"
    "Research use only. Start with `hipnode up`, route images to it, look with `hipnode studies list`.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hipnode {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


app.command()(up)
app.command()(serve)
app.add_typer(studies, name="studies")
app.command()(replay)
app.command()(explain)
app.add_typer(db, name="db")
app.command()(demo)
for _entry in entry_points(group="hipnode.commands"):
    _entry.load()(app)


def _stop(message: str, code: int) -> NoReturn:
    typer.secho(message, err=True, fg=typer.colors.RED)
    sys.exit(code)


def main() -> None:
    """Run the command line; whatever goes wrong ends as a sentence and an exit code."""
    if os.environ.get("HIPNODE_DEBUG") == "1":
        app()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _stop("Stopped.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except SettingsError as error:
        _stop(str(error), 2)
    except HipnodeError as error:
        _stop(str(error), 1)
    except OperationalError as error:
        _stop(
            f"The database does not answer or is not prepared ({error.orig.__class__.__name__}). "
            "Check HIPNODE_DATABASE_URL and run `hipnode db upgrade`.",
            1,
        )
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  # the last door: a user gets a sentence, never a traceback
        _stop(
            f"Internal error ({type(error).__name__}). Set HIPNODE_DEBUG=1 and run it again to see where.", 1
        )
