"""`hipnode studies`: the worklist in a terminal."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy.orm import Session

from hipnode import ledger
from hipnode.cli import watching
from hipnode.cli.doors import open_ledger
from hipnode.cli.screen import as_json, plain, screen
from hipnode.cli.times import instant, span
from hipnode.cli.worklist import COLOURS, study_table
from hipnode.settings import load_settings
from hipnode.status import AnalysisStatus, ReasonCode

studies = typer.Typer(no_args_is_help=True, help="The worklist: every study, where it stands, and why.")

Since = Annotated[
    str | None, typer.Option("--since", help="Only studies changed since: 30m, 12h, 7d or 2026-11-20T08:00.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="StudyInstanceUID, accession number or id.")]


@studies.command("list")
def list_(
    status: Annotated[
        list[AnalysisStatus] | None, typer.Option(help="Only these statuses; may be repeated.")
    ] = None,
    reason: Annotated[
        list[ReasonCode] | None,
        typer.Option(
            help="Only these reason codes; may be repeated.",
            case_sensitive=False,
            metavar="CODE",
            show_choices=False,
        ),
    ] = None,
    since: Since = None,
    until: Annotated[
        str | None,
        typer.Option("--until", help="Only studies not changed after: 30m, 12h, 7d ago or an instant."),
    ] = None,
    accession: Annotated[
        str | None, typer.Option(help="Only this accession number; * stands for any characters.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, those changed last first.")] = 200,
    json_: AsJson = False,
) -> None:
    """List studies, those changed last first: how old each is, how long it has been where it is, what is next.

    Examples: `hipnode studies list --status failed --since 24h`,
    `hipnode studies list --reason destination_down --json | jq .`
    """
    now = datetime.now(UTC)
    with ledger.reading(open_ledger(load_settings())) as session:
        rows = ledger.list_studies(
            session,
            status or (),
            instant(since, now),
            limit,
            until=instant(until, now),
            reasons=reason or (),
            accession_number=accession,
        )
    if json_:
        typer.echo(as_json([_line(row, now) for row in rows]))
        return
    if not rows:
        filtered = any((status, reason, since, until, accession))
        typer.echo("No studies. " + ("Ask for more of them." if filtered else "Route some to this node."))
        return
    console = screen()
    console.print(study_table(rows, now, console.width))
    if len(rows) == limit:
        typer.echo(f"These are the last {limit}; --limit shows more.", err=True)


def _line(row: ledger.StudySummary, now: datetime) -> dict[str, Any]:
    """A line of the worklist, with its times in seconds as well."""
    since = row.status_since
    return asdict(row) | {
        "age_s": round((now - row.received_at).total_seconds(), 1),
        "in_status_s": round((now - since).total_seconds(), 1) if since else None,
        "next_attempt_s": round((row.due_at - now).total_seconds(), 1) if row.due_at else None,
    }


@studies.command()
def watch(
    once: Annotated[bool, typer.Option("--once", help="Print one look and end.")] = False,
) -> None:
    """Watch the node at work: statuses, how long the queue waits, workers, the newest studies. Ctrl-C ends.

    On a terminal one view that renews itself every 2 s; anywhere else plain lines, one look after the other.
    """
    watching.watch(open_ledger(load_settings()), once)


@studies.command()
def show(study: Study, json_: AsJson = False) -> None:
    """Show everything known of one STUDY: images, analyses, results, deliveries, history."""
    with ledger.reading(open_ledger(load_settings())) as session:
        detail = find_study(session, study)
    if json_:
        typer.echo(as_json(detail))
        return
    console, now = screen(), datetime.now(UTC)
    head = detail.summary
    console.print(
        f"[bold]study {head.study_id}[/bold]  {head.study_instance_uid}  "
        f"accession {plain(head.accession_number) or '-'}"
    )
    for instance in detail.instances:
        console.print(
            f"  instance …{instance.sop_instance_uid[-12:]} revision {instance.revision} {instance.role} "
            f"{instance.reason_code or ''} {instance.size_bytes / 2**20:.1f} MiB "
            f"from {plain(instance.calling_ae_title)}, {span(instance.received_at, now)} ago"
        )
    for analysis in detail.analyses:
        _print_analysis(console, analysis, now)
    console.print("[bold]history[/bold]")
    for event in detail.events:
        moved = f"{event.was or ''} -> {event.became}" if event.became else ""
        console.print(
            f"  {event.at:%Y-%m-%d %H:%M:%S} {plain(event.who):<12} {event.what} {moved} {plain(event.why or '')}"
        )


def _print_analysis(console: Console, analysis: ledger.AnalysisDetail, now: datetime) -> None:
    colour = COLOURS.get(analysis.status, "yellow")
    console.print(
        f"[bold]analysis {analysis.number}[/bold] by {analysis.package_id or 'no package yet'}: "
        f"[{colour}]{analysis.status}[/{colour}] {analysis.outcome or ''} "
        f"{analysis.reason_code or ''} {plain(analysis.reason or '')} (tries {analysis.attempts})"
    )
    for image in analysis.images:
        console.print(
            f"  image …{image.sop_instance_uid[-12:]} {image.decision} by rule '{plain(image.rule)}' "
            f"{image.outcome or ''} {plain(image.reason or '')} {plain(' '.join(f.sentence for f in image.flags))}"
        )
        for finding in image.findings:
            other = (
                f", or {finding.alternative_class} {finding.alternative_score:.2f}"
                if finding.alternative_class
                else ""
            )
            box = " ".join(f"{v:.0f}" for v in finding.box)
            console.print(
                f"    {finding.hip or '-'} {finding.class_name} {finding.score:.2f}{other}  box {box}"
            )
    for result in analysis.results:
        for delivery in result.deliveries:
            peer = "" if delivery.peer_status is None else f"peer 0x{delivery.peer_status:04X}"
            console.print(
                f"  {result.kind} to {plain(delivery.destination)}: {delivery.status} "
                f"{plain(delivery.reason or '')} {peer} "
                f"(tries {delivery.attempts}{', next ' + span(delivery.due_at, now) if delivery.due_at else ''})"
            )
        if not result.deliveries:
            console.print(f"  {result.kind} …{result.sop_instance_uid[-12:]}: no destination takes it")


def find_study(session: Session, study: str) -> ledger.StudyDetail:
    """The one study that is named. Wrong names are a usage error."""
    found = ledger.resolve_study(session, study)
    if len(found) > 1:
        ids = ", ".join(map(str, found))
        raise typer.BadParameter(
            f"{len(found)} studies have accession number {study}; name one by id: {ids}."
        )
    detail = ledger.show_study(session, found[0]) if found else None
    if detail is None:
        raise typer.BadParameter(f"No study is called {study}; see `hipnode studies list`.")
    return detail
