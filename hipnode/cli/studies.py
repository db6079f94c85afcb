"""`hipnode studies` and `hipnode replay`: the worklist in a terminal."""

import getpass
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from hipnode import ledger
from hipnode.cli.doors import open_ledger, ring_bells
from hipnode.cli.screen import screen
from hipnode.destinations import Destination, load_destinations, routes_for
from hipnode.settings import load_settings
from hipnode.status import AnalysisStatus, Outcome, ReasonCode

studies = typer.Typer(no_args_is_help=True, help="The worklist: every study, where it stands, and why.")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_COLOURS = {
    AnalysisStatus.COMPLETED: "green",
    AnalysisStatus.FAILED: "red",
    AnalysisStatus.NOT_APPLICABLE: "bright_black",
}

Since = Annotated[
    str | None, typer.Option("--since", help="Only studies changed since: 30m, 12h, 7d or 2026-11-20T08:00.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="StudyInstanceUID, accession number or id.")]


def since_instant(text: str | None, now: datetime) -> datetime | None:
    """`30m`, `12h`, `7d`, or an ISO date and time (UTC where it names no offset) as an instant."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+)([smhd])", text.strip()):
        try:
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError as error:
            raise typer.BadParameter(f"{text} ago is before the calendar begins.") from error
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither like 30m, 12h, 7d nor a date and time.") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def as_json(value: Any) -> str:
    """Records of the ledger as JSON: instants in ISO 8601, keys as the fields are called."""
    return json.dumps(
        asdict(value) if hasattr(value, "__dataclass_fields__") else value, indent=2, default=_plain
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return str(value)


def _age(at: datetime | None, now: datetime) -> str:
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    sign, seconds = ("in ", -seconds) if seconds < 0 else ("", seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{sign}{seconds / size:.0f} {unit}"
    return f"{sign}{seconds:.0f} s"


@studies.command("list")
def list_(
    status: Annotated[
        list[AnalysisStatus] | None, typer.Option(help="Only these statuses; may be repeated.")
    ] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 200,
    json_: AsJson = False,
) -> None:
    """List studies, newest first.

    Examples: `hipnode studies list --status failed --since 24h`, `hipnode studies list --json | jq .`
    """
    now = datetime.now(UTC)
    with ledger.reading(open_ledger(load_settings())) as session:
        rows = ledger.list_studies(session, status or (), since_instant(since, now), limit)
    if json_:
        typer.echo(as_json([asdict(r) for r in rows]))
        return
    if not rows:
        typer.echo("No studies. Route some to this node, or widen --since.")
        return
    table = Table(
        "id",
        "accession",
        "study",
        "status",
        "outcome",
        "reason",
        "images",
        "findings",
        "tries",
        "next",
        "changed",
        box=None,
    )
    for row in rows:
        colour = _COLOURS.get(row.status, "yellow") if row.status else "bright_black"
        table.add_row(
            str(row.study_id), row.accession_number or "-", "…" + row.study_instance_uid[-12:],
            f"[{colour}]{row.status or 'no image'}[/{colour}]", str(row.outcome or ""), str(row.reason_code or ""),
            str(row.images), str(row.findings), str(row.attempts), _age(row.due_at, now),
            _age(row.updated_at, now) + " ago",
        )  # fmt: skip
    screen().print(table)


@studies.command()
def show(study: Study, json_: AsJson = False) -> None:
    """Show everything known of one STUDY: images, analyses, results, deliveries, history."""
    with ledger.reading(open_ledger(load_settings())) as session:
        detail = _find(session, study)
    if json_:
        typer.echo(as_json(detail))
        return
    console, now = screen(), datetime.now(UTC)
    head = detail.summary
    console.print(
        f"[bold]study {head.study_id}[/bold]  {head.study_instance_uid}  accession {head.accession_number or '-'}"
    )
    for instance in detail.instances:
        console.print(
            f"  instance …{instance.sop_instance_uid[-12:]} revision {instance.revision} {instance.role} "
            f"{instance.reason_code or ''} {instance.size_bytes / 2**20:.1f} MiB from {instance.calling_ae_title}, "
            f"{_age(instance.received_at, now)} ago"
        )
    for analysis in detail.analyses:
        _print_analysis(console, analysis, now)
    console.print("[bold]history[/bold]")
    for event in detail.events:
        moved = f"{event.was or ''} -> {event.became}" if event.became else ""
        console.print(
            f"  {event.at:%Y-%m-%d %H:%M:%S} {event.who:<12} {event.what} {moved} {event.why or ''}"
        )


def _print_analysis(console: Console, analysis: ledger.AnalysisDetail, now: datetime) -> None:
    colour = _COLOURS.get(analysis.status, "yellow")
    console.print(
        f"[bold]analysis {analysis.number}[/bold] by {analysis.package_id or 'no package yet'}: "
        f"[{colour}]{analysis.status}[/{colour}] {analysis.outcome or ''} "
        f"{analysis.reason_code or ''} {analysis.reason or ''} (tries {analysis.attempts})"
    )
    for image in analysis.images:
        console.print(
            f"  image …{image.sop_instance_uid[-12:]} {image.decision} by rule '{image.rule}' "
            f"{image.outcome or ''} {image.reason or ''} {' '.join(f.sentence for f in image.flags)}"
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
                f"  {result.kind} to {delivery.destination}: {delivery.status} {delivery.reason or ''} {peer} "
                f"(tries {delivery.attempts}{', next ' + _age(delivery.due_at, now) if delivery.due_at else ''})"
            )
        if not result.deliveries:
            console.print(f"  {result.kind} …{result.sop_instance_uid[-12:]}: no destination takes it")


def _find(session: Session, study: str) -> ledger.StudyDetail:
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


def replay(
    study: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="StudyInstanceUIDs, accession numbers or ids."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All studies that ended FAILED.")] = False,
    since: Since = None,
    from_: Annotated[
        Literal["auto", "analyse", "deliver"],
        typer.Option("--from", help="Look again, or send again what was found; auto chooses by what failed."),
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")] = False,
    json_: AsJson = False,
) -> None:
    """Put studies back to work, and say what was done.

    Replaying twice is harmless: while an analysis of a study is open, nothing more is opened.

    Examples: `hipnode replay --failed --since 24h --dry-run`, `hipnode replay A0012345 --from deliver`
    """
    if bool(study) == failed:
        raise typer.BadParameter("Name studies, or say --failed (not both).")
    now, settings = datetime.now(UTC), load_settings()
    make, destinations = open_ledger(settings), load_destinations(settings.destinations)
    with ledger.reading(make) as session:
        if failed:
            rows = ledger.list_studies(session, [AnalysisStatus.FAILED], since_instant(since, now))
        else:
            rows = [_find(session, s).summary for s in study or []]
    said = []
    for row in rows:
        step = _step(row) if from_ == "auto" else from_
        with ledger.reading(make) if dry_run else ledger.transaction(make) as session:
            done = (
                ledger.plan_replay(session, row.study_id, step)
                if dry_run
                else ledger.open_replay(
                    session,
                    row.study_id,
                    step,
                    getpass.getuser(),
                    now,
                    _routes(session, row.study_id, destinations),
                )
            )
        said.append({"study_id": row.study_id, "from": step, "number": done.number, "said": done.said})
    if said and not dry_run:
        ring_bells(settings)
    if json_:
        typer.echo(as_json(said))
    elif not said:
        typer.echo("Nothing to replay.")
    else:
        for one in said:
            typer.echo(f"study {one['study_id']}: {one['said']}")


def _routes(
    session: Session, study_id: int, destinations: Sequence[Destination]
) -> list[ledger.Route] | None:
    """Where results that never went anywhere are to go now; None for those that did: to the same places."""
    detail = ledger.show_study(session, study_id)
    results = [result for analysis in detail.analyses for result in analysis.results] if detail else []
    if not results or any(result.deliveries for result in results):
        return None
    from hipnode.results import variant_of  # the other commands need not wait for it

    return [
        ledger.Route(one.name, one.kinds, {k: variant_of(k, one.sr_class, one.sc_max_px) for k in one.kinds})
        for one in routes_for(destinations, *ledger.last_sender(session, study_id))
    ]


_NOT_DELIVERED = {
    ReasonCode.DESTINATION_DOWN, ReasonCode.DESTINATION_REFUSED, ReasonCode.KIND_UNSUPPORTED,
    ReasonCode.NOT_COMMITTED, ReasonCode.NO_DESTINATION, ReasonCode.STALE,
}  # fmt: skip


def _step(row: ledger.StudySummary) -> Literal["analyse", "deliver"]:
    """Send again what was found when only the way out failed; otherwise look again."""
    analysed = row.outcome in (Outcome.FINDINGS, Outcome.NONE, Outcome.NOT_ANALYSED, Outcome.PARTIAL)
    return "deliver" if analysed and row.reason_code in _NOT_DELIVERED else "analyse"
