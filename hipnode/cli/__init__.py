"""The command line: the place that wires the rooms together.

Each command is imported when it is asked for, so that `hipnode studies list` does not wait for rooms it
has no use for. The entry points `hipnode.commands` add what lives outside the node, such as the commands
that need torch. Exit codes: 0 done, 1 something failed and was named, 2 wrong use.
"""

import logging
import os
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from hipnode import __version__, logs
from hipnode.errors import DeviceMissing, HipnodeError, LedgerDown, PackageUnknown, SettingsError

_COMMANDS = {
    "up": "hipnode.cli.node:up",
    "serve": "hipnode.cli.node:serve",
    "doctor": "hipnode.cli.doctor:doctor",
    "studies": "hipnode.cli.studies:studies",
    "replay": "hipnode.cli.replay:replay",
    "peers": "hipnode.cli.peers:peers",
    "echo": "hipnode.cli.echo:echo",
    "send": "hipnode.cli.send:send",
    "explain": "hipnode.cli.explain:explain",
    "models": "hipnode.cli.models:models",
    "evaluate": "hipnode.cli.evaluate:evaluate",
    "monitor": "hipnode.cli.monitor:monitor",
    "accept": "hipnode.cli.accept:accept",
    "db": "hipnode.cli.db:db",
    "install": "hipnode.cli.install:install",
    "demo": "hipnode.demo:demo",
}


class _Commands(TyperGroup):
    """The commands by name; each module is loaded when its command is."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # click's signature
        return [*_COMMANDS, *(entry.name for entry in entry_points(group="hipnode.commands"))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name in _COMMANDS:
            module, _, name = _COMMANDS[cmd_name].partition(":")
            return _as_command(cmd_name, getattr(import_module(module), name))
        for entry in entry_points(group="hipnode.commands", name=cmd_name):
            return _as_command(cmd_name, entry.load())
        return None


def _as_command(name: str, what: Any) -> Any:
    if isinstance(what, typer.Typer):
        # not get_command: it would offer to install shell completion below each of our commands
        command: Any = typer.main.get_group(what)
    else:
        single = typer.Typer(add_completion=False)
        single.command(name)(what)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
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


def _stop(message: str, code: int) -> NoReturn:
    typer.secho(message, err=True, fg=typer.colors.RED)
    sys.exit(code)


_DATABASE_ADVICE = (
    "Check HIPNODE_DATABASE_URL (where it is empty: hipnode.db in HIPNODE_DATA); "
    "`hipnode db upgrade` prepares a new database."
)


def _of_another_version() -> str:
    """What to say of a database that answers, but at another revision than this version needs; else ""."""
    from hipnode import migrations  # only trouble waits for it
    from hipnode.settings import load_settings

    try:
        migrations.require_head(load_settings().database)
    except SettingsError as error:
        return str(error)
    except Exception:  # noqa: BLE001  it does not answer this either
        return ""
    return ""


def main() -> None:
    """Run the command line; whatever goes wrong ends as a sentence and an exit code."""
    # What a short command prints is its answer; the parts of a node say more, when they start.
    logs.configure(json_lines=False, level=logging.WARNING)
    if os.environ.get("HIPNODE_DEBUG") == "1":
        app()
    try:
        app()
    except (SettingsError, DeviceMissing, PackageUnknown) as error:
        _stop(str(error), 2)
    except LedgerDown as error:
        _stop(_of_another_version() or f"{error} {_DATABASE_ADVICE}", 1)
    except HipnodeError as error:
        _stop(str(error), 1)
    except OSError as error:
        if not error.strerror:
            raise
        _stop(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.", 1)
    except Exception as error:  # noqa: BLE001  # the last door: a user gets a sentence, never a traceback
        _stop(
            f"Internal error ({type(error).__name__}). Set HIPNODE_DEBUG=1 and run it again to see where.", 1
        )
