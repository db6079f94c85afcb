"""`hipnode replay`: put studies back to work."""

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer
from sqlalchemy.orm import Session

from hipnode import ledger
from hipnode.cli.doors import open_ledger, ring_bells
from hipnode.cli.screen import as_json
from hipnode.cli.studies import AsJson, Since, find_study
from hipnode.cli.times import instant
from hipnode.destinations import Destination, load_destinations, routes_for
from hipnode.settings import load_settings
from hipnode.status import AnalysisStatus, Outcome, ReasonCode


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
            rows = ledger.list_studies(session, [AnalysisStatus.FAILED], instant(since, now))
        else:
            rows = [find_study(session, s).summary for s in study or []]
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
