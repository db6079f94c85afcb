"""`hipnode send`: DICOM files to a destination by name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hipnode import scu
from hipnode.cli.echo import AsJson, ask, line, named
from hipnode.cli.paths import dicom_files
from hipnode.cli.screen import plain, screen
from hipnode.cli.sending import Sent, send_files
from hipnode.destinations import Destination
from hipnode.errors import HipnodeError
from hipnode.settings import load_settings


def send(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Destination.")],
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    json_: AsJson = False,
) -> None:
    """Send DICOM FILES to a destination as they are stored, and say what it answered for each.

    Nothing is re-encoded: a file the destination does not take in its own transfer syntax is not sent.
    Exit code 0: all were stored, 1: one was not, 2: there is no such destination.

    Example: `hipnode send PACS overlay.dcm sr.dcm`
    """
    settings, paths = load_settings(), dicom_files(files)
    (destination,) = named(settings, name)
    if destination.sender:
        raise typer.BadParameter(
            f"{name} is the sender of each study: there is no one place to send to. Name a destination with a host."
        )
    # One call ahead tells best why there is no association. A peer without C-ECHO may still store.
    answer = ask(settings, destination)
    if answer.report is None or answer.report.trouble in (None, scu.Trouble.NO_CONTEXT):
        sent = send_files(paths, destination.remote, settings.ae_title, settings.dimse_timeout_s)
    elif json_:
        sent = [Sent(str(path), "not stored", None, line(answer)) for path in paths]
    else:
        raise HipnodeError(f"Nothing was sent. {line(answer)}")
    if json_:
        typer.echo(json.dumps([one.as_dict() for one in sent], indent=2, ensure_ascii=False))
    else:
        _print_sent(screen(), destination, sent)
    if any(one.failed for one in sent):
        raise typer.Exit(1)


def _print_sent(console: Console, destination: Destination, sent: Sequence[Sent]) -> None:
    colours = {"stored": "green", "skipped": "bright_black"}
    for one in sent:
        colour = colours.get(one.verdict, "red")
        words = f"[{colour}]{one.verdict}[/{colour}]" + (f", {plain(one.says)}" if one.says else "")
        console.print(f"{plain(one.file)}: {words}", soft_wrap=True)
    stored = sum(one.verdict == "stored" for one in sent)
    console.print(f"{stored} of {len(sent)} files are stored in {plain(destination.name)}.")
