"""`hipnode monitor`: what moved at this node, whether chance explains it, and what to do; final reports."""

import getpass
from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy.orm import Session, sessionmaker

from hipnode import __version__, ledger
from hipnode.cli.doors import open_ledger
from hipnode.cli.needs import need_evaluation
from hipnode.cli.screen import as_json
from hipnode.cli.times import instant
from hipnode.ledger import monitoring, reports
from hipnode.packages import find_packages
from hipnode.settings import Settings, load_settings

if TYPE_CHECKING:
    from hipnode.evaluation.watch.records import Watch

monitor = typer.Typer(
    no_args_is_help=False,
    help="Watch the node's package: weeks, limits, drifts and final reports, from the ledger alone.",
)

READ_WITHIN_S = 300.0
"""A year of a large hospital is read in seconds; a database that takes longer is out of order."""


@monitor.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    since: Annotated[
        str, typer.Option("--since", help="From the week of: 30d, 90d ago or 2026-09-01 (UTC).")
    ] = "90d",
    until: Annotated[
        str | None, typer.Option("--until", help="Up to this day, included; today without it.")
    ] = None,
    limits_from: Annotated[
        str | None,
        typer.Option(
            "--limits-from",
            help="Let the first 500 studies from this day on set the limits, after a change that is to stay.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", file_okay=False, help="Write report.html, report.md and tables here."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Print what moved by ISO week and over the last 90 days, and what to do about it.

    Examples: `hipnode monitor --since 90d`, `hipnode monitor --since 2026-01-01 --out report`
    """
    if context.invoked_subcommand is not None:
        return
    need_evaluation()
    from hipnode.evaluation.watch import pages

    now = datetime.now(UTC)
    end, start = instant(until, now) or now, instant(since, now)
    assert start is not None  # noqa: S101  (it has a default)
    if start > end:
        raise typer.BadParameter(f"--since {since} lies after --until {until or 'now'}.")
    watch = _watched(open_ledger(load_settings()), start, end, instant(limits_from, now), now)
    facts = [
        ("made", f"{now:%Y-%m-%d %H:%M} UTC by hipnode {__version__}"),
        ("days", f"{watch.first} to {watch.last}"),
        ("limits from", limits_from or "the first 500 studies of the node and of each package"),
        *((f"package {place}", str(p.package)) for place, p in enumerate(watch.packages, start=1)),
    ]
    if out is not None:
        from hipnode.evaluation.report.writing import write
        from hipnode.evaluation.watch.drawn import figures

        page = write(pages.document(watch, facts, figures(watch)), out)
        typer.echo(f"The report is {page}.", err=True)
    if json_:
        typer.echo(as_json(_finite(asdict(watch))))
    else:
        from hipnode.cli.pages import print_document

        print_document(pages.document(watch, facts))


def _watched(
    make: sessionmaker[Session], start: datetime, end: datetime, limits_from: datetime | None, now: datetime
) -> "Watch":
    """Read the ledger as of one moment and count."""
    from hipnode.evaluation.statistics.monitoring import BASELINE_STUDIES
    from hipnode.evaluation.watch.assemble import first_day_needed, packages_in, watch
    from hipnode.evaluation.watch.records import History

    since, until = start.astimezone(UTC).date(), end.astimezone(UTC).date()
    first_instant = datetime.combine(first_day_needed(since, until), time(), UTC)
    monday = datetime.combine(since - timedelta(days=since.weekday()), time(), UTC)
    day_after = datetime.combine(until + timedelta(days=1), time(), UTC)
    with ledger.snapshot(make, READ_WITHIN_S) as session:
        studies = monitoring.watched(session, first_instant, day_after)
        first = monitoring.first_ended(session, BASELINE_STUDIES, limits_from)
        histories = {
            package: History(
                monitoring.first_read(session, package, BASELINE_STUDIES, limits_from),
                monitoring.first_read(session, package, BASELINE_STUDIES, limits_from, scored=True),
                monitoring.reported(session, package, day_after, limits_from),
                monitoring.last_acceptance(session, package),
            )
            for package in packages_in(studies)
        }
        left_out = monitoring.not_counted(session, monday, day_after)
    return watch(studies, first, histories, left_out, since, until, over=until < now.date())


def _finite(value: Any) -> Any:
    """The same without infinities, which JSON has no word for: the outer edges of bins become null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


@monitor.command("import-reports")
def import_reports(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet; a row a study.")],
) -> None:
    """Bring in what final reports say, so that the package can be held against them.

    A column study_instance_uid or accession_number names the study, a column class holds a class of the
    package (several with ; between them), `fracture` where the class is not said, or N for no fracture. Other
    columns are not looked at. All problems are listed and nothing is kept until the file is right; the same
    file may come again, and a row that says something new takes the place of the one before.
    """
    need_evaluation()
    from hipnode.evaluation.tables import Problem, TablesUnusable
    from hipnode.evaluation.watch.imports import parse_reports

    settings = load_settings()
    make = open_ledger(settings)
    with ledger.reading(make) as session:
        classes = {*monitoring.classes_seen(session), *_installed(settings)}
    rows, problems = parse_reports(file, sorted(classes))
    with ledger.transaction(make) as session:
        matched = reports.match_reports(session, rows)
        problems += [Problem(file.name, row, says) for row, says in matched.problems]
        if problems:
            raise TablesUnusable(sorted(problems, key=lambda p: p.row or 0))
        if not matched.found:
            says = "no row names a study this node received; is it the right column, and the right node?"
            raise TablesUnusable([Problem(file.name, None, says)])
        done = reports.record_reports(session, matched, _user(), datetime.now(UTC))
    typer.echo(f"Reports: {done.new:,} new, {done.changed:,} changed, {done.same:,} known already.")
    if done.unknown:
        named = ", ".join(map(str, done.unknown[:10])) + (", ..." if len(done.unknown) > 10 else "")
        typer.echo(
            f"Left out, because this node never received their study: {len(done.unknown):,} of {len(rows):,} rows "
            f"(row {named}).",
            err=True,
        )


def _installed(settings: Settings) -> set[str]:
    """The classes of the packages that are installed, of which none may have fired yet."""
    found = find_packages(settings.package_folders, verify=False, problems=[])
    return {one.name for package in found.values() for one in package.algorithm.classes}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without name, as in a container
        return "someone"
