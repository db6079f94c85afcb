"""`hipnode studies watch`: the node at work, looked at again and again. It only reads."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.cli.screen import plain, screen
from hipnode.cli.times import span
from hipnode.cli.worklist import COLOURS, study_table
from hipnode.errors import LedgerDown
from hipnode.ledger import figures
from hipnode.ledger.analyses import WORKER_ALIVE_S
from hipnode.ledger.studies import count_ended, newest_studies
from hipnode.status import TERMINAL, AnalysisStatus

EVERY_S = 2.0
_NEWEST = 15
_LATELY = timedelta(hours=24)


@dataclass(frozen=True)
class Look:
    """What one look at the ledger saw."""

    at: datetime
    open: dict[AnalysisStatus, tuple[int, datetime | None]]  #: how many, and since when the oldest waits
    ended: Counter[AnalysisStatus]  #: within the last 24 h
    unsent: dict[str, tuple[int, datetime]]  #: destination -> results on the way, and since when the oldest
    workers: list[ledger.WorkerRow]
    newest: list[ledger.StudySummary]


def look(session: Session, now: datetime) -> Look:
    """Look once."""
    work = figures.open_work(session)
    counts: Counter[str] = Counter()
    for (status, _), count in work.analyses.items():
        counts[status] += count
    unsent: Counter[str] = Counter()
    for (destination, _, _), count in work.deliveries.items():
        unsent[destination] += count
    return Look(
        at=now,
        open={s: (counts[s], work.since.get(s)) for s in AnalysisStatus if s not in TERMINAL},
        ended=count_ended(session, now - _LATELY),
        unsent={name: (count, work.deliveries_since[name]) for name, count in sorted(unsent.items())},
        workers=ledger.workers(session),
        newest=newest_studies(session, _NEWEST),
    )


def watch(sessions: sessionmaker[Session], once: bool) -> None:
    """Look every EVERY_S until Ctrl-C, or once. Raises LedgerDown when the first look finds no database."""
    looks, console = _looks(sessions), screen()
    first = next(looks)
    if isinstance(first, LedgerDown):
        raise first
    try:
        if not sys.stdout.isatty():
            _print_lines(first)
        elif once:
            console.print(view(first, console.width))
        if once:
            return
        if sys.stdout.isatty():
            with Live(view(first, console.width), console=console, screen=True, auto_refresh=False) as live:
                for seen in looks:
                    live.update(view(seen, console.width), refresh=True)
        else:
            for seen in looks:
                _print_lines(seen)
    except KeyboardInterrupt:
        return


def _looks(sessions: sessionmaker[Session]) -> Iterator[Look | LedgerDown]:
    while True:
        try:
            with ledger.reading(sessions) as session:
                seen: Look | LedgerDown = look(session, datetime.now(UTC))
        except LedgerDown as error:
            seen = error
        yield seen
        time.sleep(EVERY_S)


def view(seen: Look | LedgerDown, width: int) -> RenderableType:
    """One look as it stands on a terminal of this width, characters."""
    if isinstance(seen, LedgerDown):
        return Panel(Text(f"{seen} Asked again every {EVERY_S:g} s; `hipnode doctor` looks closer.", "red"))
    statuses = Table("status", box=None)
    statuses.add_column("studies", justify="right")
    statuses.add_column("oldest waits", justify="right")
    for status, (count, since) in seen.open.items():
        statuses.add_row(
            f"[yellow]{status}[/yellow]" if count else status.value, str(count), span(since, seen.at)
        )
    for status in sorted(TERMINAL):
        colour = COLOURS[status]
        statuses.add_row(f"[{colour}]{status}[/{colour}]", str(seen.ended[status]), "in 24 h")
    workers = Table("worker", "device", "packages", "heard of", "last bell", box=None)
    for worker in seen.workers:
        colour = "green" if _alive(worker, seen.at) else "red"
        workers.add_row(
            f"[{colour}]{plain(worker.name)}[/{colour}]", plain(worker.device or "-"),
            plain(" ".join(worker.packages)) or "-", _ago(worker.seen_at, seen.at), _ago(worker.bell_at, seen.at),
        )  # fmt: skip
    side = Table.grid(padding=(0, 4))
    side.add_row(statuses, workers if seen.workers else "[red]no worker has been heard of[/red]")
    unsent = [
        f"{plain(name)}: {count} results to send, the oldest for {span(since, seen.at)}"
        for name, (count, since) in seen.unsent.items()
    ]
    title = f"hipnode, {seen.at.astimezone():%Y-%m-%d %H:%M:%S}, Ctrl-C ends"
    newest = study_table(seen.newest, seen.at, width) if seen.newest else "No studies yet."
    return Group(Text(title, "bold"), side, *unsent, "", newest)


def lines(seen: Look | LedgerDown) -> list[str]:
    """One look as plain lines."""
    if isinstance(seen, LedgerDown):
        return [str(seen)]
    now = seen.at
    waits = [
        f"{status} {count}" + (f" (oldest {span(since, now)})" if since else "")
        for status, (count, since) in seen.open.items()
    ]
    ended = [f"{status} {seen.ended[status]}" for status in sorted(TERMINAL)]
    alive = [w for w in seen.workers if _alive(w, now)]
    kinds = Counter(w.kind for w in alive)
    found = [f"{now:%Y-%m-%dT%H:%M:%SZ} {', '.join(waits)}; in 24 h {', '.join(ended)}"]
    found.append(
        "workers: " + (", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "none alive")
    )
    for name, (count, since) in seen.unsent.items():
        found.append(f"to send to {name}: {count} (oldest {span(since, now)})")
    for row in seen.newest:
        words = [f"study {row.study_id}", row.status or "no image", row.outcome, row.reason_code]
        where = f"for {span(row.status_since, now)}" if row.status_since else ""
        found.append(" ".join(str(w) for w in [*words, where] if w) + f", {span(row.received_at, now)} old")
    return found


def _print_lines(seen: Look | LedgerDown) -> None:
    typer.echo("\n".join(lines(seen)))
    sys.stdout.flush()


def _alive(worker: ledger.WorkerRow, now: datetime) -> bool:
    return (now - worker.seen_at).total_seconds() <= WORKER_ALIVE_S


def _ago(at: datetime | None, now: datetime) -> str:
    return f"{span(at, now)} ago" if at else "-"
