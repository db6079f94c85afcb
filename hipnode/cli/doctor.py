"""`hipnode doctor`: what is wrong with this installation, and what to do about it."""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values
from rich.console import Console

from hipnode import logs
from hipnode.destinations import Destination
from hipnode.doctor import (
    Record,
    Site,
    State,
    environment_names,
    examine,
    guarded,
    sentence,
    summary,
    unknown_names,
    write_bundle,
)
from hipnode.doctor import write_back as send_test_object
from hipnode.settings import load_usable_settings

_COLOURS = {
    State.OK: typer.colors.GREEN,
    State.NOTE: typer.colors.BLUE,
    State.WARN: typer.colors.YELLOW,
    State.FAIL: typer.colors.RED,
}


def doctor(
    write_back: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also send one marked test object to this destination."),
    ] = None,
    support_bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write what a supporter asks for, without patient data."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Examine this installation: what is wrong, and what to do about it.

    Run it as the user hipnode runs as, with the same settings. It works while the node or the database is
    down, and changes nothing. Exit code 1 when something failed.

    Examples: `hipnode doctor`, `hipnode doctor --json | jq '.records[] | select(.state == "fail")'`,
    `hipnode doctor --write-back PACS`
    """
    logs.configure(False)
    logging.disable(logging.CRITICAL)  # the findings say what the log would
    settings, wrong = load_usable_settings()
    site = Site(settings, wrong_settings=wrong, unknown_settings=unknown_names(_names()))
    records: list[Record] = []
    try:
        destination = _named(site, write_back) if write_back else None
        if support_bundle and not _is_free(support_bundle):
            raise typer.BadParameter(f"{support_bundle} is no empty folder; name a new one.")
        with Console(stderr=True).status("Examining ..."):
            records = examine(site)
            if destination is not None:
                records += guarded("write-back", lambda: send_test_object(site, destination))
        written = write_bundle(site, records, support_bundle) if support_bundle else []
    finally:
        site.close()
    if json_:
        found = {"summary": summary(records), "records": [asdict(record) for record in records]}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for record in records:
            _print(record)
        if written:
            typer.echo(
                f"{len(written)} files for the supporter are in {support_bundle}; they hold no patient data."
            )
        typer.echo(sentence(summary(records)))
    if any(record.state is State.FAIL for record in records):
        raise typer.Exit(1)


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _print(record: Record) -> None:
    word = typer.style(f"{record.state.value:<5}", fg=_COLOURS[record.state], bold=record.state is State.FAIL)
    typer.echo(f"{word} {record.check:<18} {record.says}")
    if record.cure:
        typer.echo(f"      {'':<18} -> {record.cure}")


def _named(site: Site, name: str) -> Destination:
    found = {destination.name: destination for destination in site.destinations()}
    if name not in found:
        there = ", ".join(sorted(found)) or "none"
        raise typer.BadParameter(
            f"No destination is called {name} in {site.settings.destinations}; there are: {there}."
        )
    return found[name]


def _names() -> list[str]:
    """The names that are set, in the environment and in the settings file."""
    file = Path(os.environ.get("HIPNODE_ENV_FILE") or "hipnode.env")
    try:
        given = dotenv_values(file) if file.is_file() else {}
    except (OSError, UnicodeDecodeError):
        given = {}
    return [*environment_names(), *given]
