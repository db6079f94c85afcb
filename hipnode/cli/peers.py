"""`hipnode peers`: who connected, what they sent, what was refused and why."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hipnode import ledger
from hipnode.cli.doors import open_ledger
from hipnode.cli.screen import as_json, plain, screen
from hipnode.cli.times import instant, span
from hipnode.scp import entry_for, explain_refusal
from hipnode.settings import Settings, load_settings

_EXPLAINED = 10  #: so many refusals are put into words, the latest ones


def peers(
    since: Annotated[
        str | None,
        typer.Option(
            help="Only peers seen since (with --refused: refused since): 30m, 12h, 7d, or an instant."
        ),
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only peers something was refused to.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Show who called this node: what each sent, what it was refused, why, and how to let it in.

    Counts are written every few seconds while `hipnode serve` runs.

    Examples: `hipnode peers`, `hipnode peers --refused --since 1h`
    """
    settings, now = load_settings(), datetime.now(UTC)
    with ledger.reading(open_ledger(settings)) as session:
        rows = ledger.list_peers(session, instant(since, now), refused_only=refused)
    if json_:
        typer.echo(as_json([_as_dict(row, settings) for row in rows]))
        return
    if not rows:
        typer.echo(_nobody(settings, refused, since))
        return
    table = Table(box=None)
    for name in ("AE title", "address", "called"):
        table.add_column(name, overflow="fold")
    for name in ("associations", "refused", "stored", "not stored", "seen"):
        table.add_column(name, justify="right")
    table.add_column("last refusal")
    for row in rows:
        last = f"{plain(row.last_refusal)}, {span(row.last_refused_at, now)} ago" if row.last_refusal else ""
        table.add_row(
            plain(row.calling_ae_title) or "-", plain(row.address), plain(row.called_ae_title) or "-",
            str(row.associations), _count(row.refusals), str(row.instances), _count(row.stores_refused),
            f"{span(row.last_seen_at, now)} ago", last,
        )  # fmt: skip
    console = screen()
    console.print(table)
    _print_refusals(console, [row for row in rows if row.last_refusal], settings)


def _print_refusals(console: Console, rows: Sequence[ledger.PeerRow], settings: Settings) -> None:
    for row in rows[:_EXPLAINED]:
        says, cure = _explained(row, settings)
        who = f"{row.calling_ae_title or 'a peer without AE title'} at {row.address}"
        console.print(f"{plain(who)}: {plain(says)}. {plain(cure)}", soft_wrap=True)
    if len(rows) > _EXPLAINED:
        console.print(f"{len(rows) - _EXPLAINED} more were refused; --json explains all of them.")


def _count(number: int) -> str:
    return f"[red]{number}[/red]" if number else "0"


def _nobody(settings: Settings, refused: bool, since: str | None) -> str:
    within = f" since {since}" if since else ""
    if refused:
        return f"Nobody was refused{within}."
    return (
        f"Nobody called{within}. This node is {settings.ae_title} at {settings.host} port {settings.port}; "
        "is `hipnode serve` or `hipnode up` running?"
    )


def _explained(row: ledger.PeerRow, settings: Settings) -> tuple[str, str]:
    return explain_refusal(row, settings.ae_title, settings.allowed_peers)


def _as_dict(row: ledger.PeerRow, settings: Settings) -> dict[str, object]:
    says, cure = _explained(row, settings)
    entry = entry_for(row.calling_ae_title, row.address) if row.last_refusal == "NOT_ALLOWED" else None
    return asdict(row) | {"refusal": says or None, "cure": cure or None, "allowed_peers_entry": entry}
