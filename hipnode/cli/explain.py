"""`hipnode explain`: would this image be analysed, and why or why not."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hipnode import selection as rules
from hipnode.children import Children
from hipnode.cli.paths import dicom_files
from hipnode.cli.screen import screen
from hipnode.settings import load_settings


def explain(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects instead of text.")] = False,
) -> None:
    """Say which selection rule decides about each FILE, and what it looked at. Needs only the header.

    Example: `hipnode explain film.dcm` or `hipnode explain --json export/ | jq .`
    """
    settings = load_settings()
    selection = rules.Selection.load(settings.selection_file)
    with Children(
        1, settings.decode_timeout_s, settings.decode_memory_bytes, settings.decode_max_pixels
    ) as children:
        explained = list(rules.explain(dicom_files(files), selection, children.read_facts))
    if as_json:
        typer.echo(json.dumps([e.as_dict() for e in explained], indent=2, ensure_ascii=False))
    else:
        console = screen()
        for one in explained:
            _print(console, one)
    if any(e.decision is None for e in explained):
        raise typer.Exit(1)


def _print(console: Console, one: rules.Explanation) -> None:
    made = one.decision
    if made is None:
        console.print(f"[red]{escape(one.error)}[/red]", soft_wrap=True)
        return
    console.print(f"[bold]{escape(str(one.file))}[/bold]: {made.decision} {made.reason.code}", soft_wrap=True)
    console.print(f"  {escape(made.reason.sentence)} (rule: {escape(made.rule)})")
    for flag in made.flags:
        console.print(f"  [yellow]flag {flag.code}[/yellow]: {escape(flag.sentence)}")
    table = Table("attribute", "value", "vote", box=None, padding=(0, 2))
    for vote in made.votes:
        table.add_row(vote.attribute, escape(str(vote.value)), escape(str(vote.vote)))
    console.print(table)
