"""`hipnode accept`: hold a model package against a protocol that was written before, once, and keep the outcome."""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as Grid

from hipnode import ledger, migrations
from hipnode.cli.doors import open_ledger
from hipnode.cli.needs import need_evaluation
from hipnode.cli.screen import as_json, plain, screen
from hipnode.errors import HipnodeError, PackageError, PackageUnknown
from hipnode.ledger import AcceptanceRow
from hipnode.packages import ModelPackage, find_packages, named_package
from hipnode.settings import Settings, load_settings
from hipnode.status import AcceptanceOutcome

if TYPE_CHECKING:
    from hipnode.evaluation.acceptance.judgement import Acceptance

accept = typer.Typer(
    help="Accept a model package: a protocol written before, run once, its outcome kept.\n\n"
    "`hipnode accept plan` says how many cases it takes and writes a protocol to start from.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Number = Annotated[int, typer.Argument(metavar="RUN", help="The run's number in `hipnode accept list`.")]
WORDS = {
    AcceptanceOutcome.PASS: "pass",
    AcceptanceOutcome.FAIL: "fail",
    AcceptanceOutcome.NOT_ENOUGH: "not enough cases",
    AcceptanceOutcome.ABANDONED: "abandoned",
}


@accept.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    protocol: Annotated[Path | None, typer.Option(help="The protocol, a TOML file.")] = None,
    out: Annotated[Path | None, typer.Option(help="An empty folder for report and answers.")] = None,
    package: Annotated[
        str | None, typer.Option(metavar="ID", help="The package; without it the one the protocol names.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with labels and films, which the package reads.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels, for predictions made elsewhere.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Those predictions.")] = None,
    again: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="Why test cases are used again; kept, and printed on the report."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who runs it; without it the login name.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the package computes: cpu, cuda.")] = "cpu",
) -> None:
    """Run a protocol once.

    Example: `hipnode accept --package ID --data FOLDER --protocol protocol.toml --out report`.
    The protocol, the labels and the test cases are written into the ledger before a film is read, the outcome
    before a number is shown. A run that was killed is finished by the same command. Exit code 0: pass, 1: fail,
    not enough cases, or it could not be run, 2: wrong use.
    """
    if context.invoked_subcommand is not None:
        return
    need_evaluation()
    if protocol is None or out is None:
        raise typer.BadParameter(
            "Give --protocol and --out; `hipnode accept plan` writes a protocol to start from."
        )
    by_files = labels is not None or predictions is not None
    if by_files == (data is not None) or (by_files and (labels is None or predictions is None)):
        raise typer.BadParameter("Give --data, or --labels and --predictions made elsewhere.")
    if again is not None and not again.strip():
        raise typer.BadParameter("--again needs a reason in words.")
    from hipnode.cli.acceptance_page import Request
    from hipnode.cli.acceptance_run import run_acceptance
    from hipnode.evaluation.acceptance.protocol import load_protocol
    from hipnode.evaluation.cases import classes_in

    settings = load_settings()
    agreed, text = load_protocol(protocol)
    one = _package(package or agreed.package, settings, needed=data is not None or package is not None)
    classes = tuple(c.name for c in one.algorithm.classes) if one is not None else ()
    if not classes and predictions is not None:
        classes = classes_in(predictions)
    request = Request(
        agreed, text, protocol.name, one, classes, data, labels, predictions, out, by or _login(),
        again.strip() if again else None, device, _command(protocol, out, package, data, labels, predictions, again),
    )  # fmt: skip
    make = open_ledger(settings)
    migrations.require_head(settings.database)
    outcomes: list[AcceptanceOutcome] = []

    def tell(number: int, found: "Acceptance") -> None:
        outcomes.append(found.outcome)
        said = [j.says for j in found.judgements]
        console.print(f"[bold]{plain(WORDS[found.outcome]).upper()}[/bold]")
        for line in dict.fromkeys([*said, *found.reasons]):
            console.print(plain(line), soft_wrap=True)
        console.print(f"Run {number} in the ledger.")

    console = screen()
    try:
        page = run_acceptance(request, make, settings, tell)
    finally:
        make.kw["bind"].dispose()
    console.print(f"Report: {plain(page)}", soft_wrap=True)
    if outcomes != [AcceptanceOutcome.PASS]:
        raise typer.Exit(1)


@accept.command()
def plan(
    expect: Annotated[float, typer.Option(help="The share the package is expected to get right.")] = 0.92,
    bound: Annotated[float, typer.Option(help="The bound that the lower 95 % limit must be above.")] = 0.85,
    power: Annotated[float, typer.Option(help="The chance to pass if it is as good as expected.")] = 0.8,
    half_width: Annotated[
        float, typer.Option(help="Half width of the interval, where that is what counts.")
    ] = 0.05,
    write: Annotated[Path | None, typer.Option(help="Write a protocol with these numbers here.")] = None,
    package: Annotated[str | None, typer.Option(metavar="ID", help="The package it is for.")] = None,
) -> None:
    """Say how many patients a hypothesis needs, and write a protocol to start from.

    The numbers are patients with the finding for a sensitivity, patients without it for a specificity, for each
    class that has a hypothesis of its own.
    """
    need_evaluation()
    from hipnode.evaluation.acceptance.planning import NoPlan, patients_needed, steps, template
    from hipnode.evaluation.acceptance.protocol import fewest_to_pass
    from hipnode.evaluation.statistics.intervals import sample_size

    try:
        needed = patients_needed(expect, bound, power)
        wide = sample_size(expect, half_width)
    except (NoPlan, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    console = screen()
    console.print(
        f"{needed:,} patients: then a package that is right in {expect:g} passes the bound {bound:g} in at least "
        f"{power:.0%} of such runs.\n"
        f"{fewest_to_pass(bound):,} patients: with fewer not even a package without a mistake passes.\n"
        f"{wide:,} patients: for an interval of about plus or minus {half_width:g} (z² p (1-p) / d²)."
    )
    grid = Grid("patients", "of them right", "95 % interval", "chance to pass", box=None)
    for step in steps(expect, bound):
        grid.add_row(
            f"{step.n:,}", f"{step.found:,}", f"{step.low:.3f} to {step.high:.3f}", f"{step.chance:.2f}"
        )
    console.print(grid)
    console.print(
        "Per class and hypothesis, one unit of each patient. All hypotheses must hold: two that hold with a chance of "
        f"{power:g} each, independently, hold together with {power * power:.2f}."
    )
    if write is None:
        return
    settings = load_settings()
    if package is None:
        raise typer.BadParameter("--write needs the --package the protocol is for.")
    one = _package(package, settings, needed=True)
    assert one is not None  # noqa: S101  (needed)
    if write.exists():
        raise HipnodeError(f"{write} exists; give another name, or remove it.")
    text = template(one.id, one.sha256, tuple(c.name for c in one.algorithm.classes), bound, needed, needed)
    write.write_text(text.replace("2000-01-01", datetime.now(UTC).date().isoformat()), encoding="utf-8")
    console.print(
        f"Wrote {plain(write)}: read it line by line, change it, and have it signed before the run."
    )


@accept.command("list")
def list_(
    package: Annotated[str | None, typer.Option(metavar="ID", help="Only runs of this package.")] = None,
    json_: AsJson = False,
) -> None:
    """List the acceptance runs in the ledger, oldest first."""
    rows = runs_of(load_settings(), package)
    if json_:
        typer.echo(as_json([_facts(row) for row in rows]))
        return
    grid = Grid("run", "package", "weights", "protocol", "frozen", "by", "outcome", "again", box=None)
    for row in rows:
        grid.add_row(
            str(row.id), plain(f"{row.package_id} {row.package_version}"), row.package_sha256[:12] or "not known",
            plain(f"{row.protocol_name} ({row.protocol_sha256[:12]})"), f"{row.frozen_at:%Y-%m-%d %H:%M}",
            plain(row.frozen_by), said_of(row), plain(row.again or ""),
        )  # fmt: skip
    screen().print(grid if rows else "There is no acceptance run.")


@accept.command()
def show(number: Number, json_: AsJson = False) -> None:
    """Print what the ledger keeps of a run: its protocol, hashes, and what came of each hypothesis."""
    row = next((row for row in runs_of(load_settings()) if row.id == number), None)
    if row is None:
        raise HipnodeError(f"There is no acceptance run {number}; see `hipnode accept list`.")
    if json_:
        typer.echo(as_json(_facts(row)))
        return
    console = screen()
    console.print(f"[bold]Run {row.id}: {said_of(row)}[/bold]")
    for name, value in (
        ("package", f"{row.package_id} {row.package_version}"), ("weights", row.package_sha256 or "not known"),
        ("protocol", f"{row.protocol_name} ({row.protocol_sha256})"), ("data", row.data_sha256),
        ("hipnode", row.code_version), ("frozen", f"{row.frozen_at:%Y-%m-%d %H:%M} UTC by {row.frozen_by}"),
        ("ended", f"{row.ended_at:%Y-%m-%d %H:%M} UTC" if row.ended_at else "no outcome yet; no result was shown"),
        ("used again because", row.again or ""), ("seal", row.seal or ""),
    ):  # fmt: skip
        if value:
            console.print(f"[bold]{name}[/bold] {plain(value)}", soft_wrap=True)
    results = row.results or {}
    for each in results.get("hypotheses", []):
        limits = "" if each["low"] is None else f" ({each['low']:.3f} to {each['high']:.3f})"
        value = "-" if each["value"] is None else f"{each['value']:.3f}{limits}, n {each['n']}"
        console.print(plain(f"{each['says']}: {each['verdict']}, {value}"), soft_wrap=True)
    said = tuple(each["says"] for each in results.get("hypotheses", []))
    rest = [*results.get("stress", []), *results.get("reasons", []), results.get("why", "")]
    for reason in dict.fromkeys(line for line in rest if line and not line.startswith(said)):
        console.print(plain(reason), soft_wrap=True)
    console.print("\n[bold]The protocol as it was frozen[/bold]")
    for line in row.protocol.splitlines():
        console.print(plain(line), soft_wrap=True)


@accept.command()
def abandon(
    number: Number,
    why: Annotated[str, typer.Option(metavar="WHY", help="The reason; kept in the ledger.")],
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who; without it the login name.")] = None,
) -> None:
    """Give up a run that has no outcome. Its test cases count as used."""
    if not why.strip():
        raise typer.BadParameter("--why needs a reason in words.")
    make = open_ledger(load_settings())
    try:
        with ledger.transaction(make) as session:
            ledger.abandon_acceptance(session, number, by or _login(), why.strip(), datetime.now(UTC))
    finally:
        make.kw["bind"].dispose()
    typer.echo(f"Run {number} is given up.")


def runs_of(settings: Settings, package: str | None = None) -> list[AcceptanceRow]:
    """The runs in the site's ledger. Raises SettingsError where there is no ledger, or an older one."""
    make = open_ledger(settings)
    migrations.require_head(settings.database)
    try:
        with ledger.reading(make) as session:
            return ledger.list_acceptances(session, package)
    finally:
        make.kw["bind"].dispose()


def said_of(row: AcceptanceRow) -> str:
    """The outcome of a run in words, and whether its record was changed afterwards."""
    word = WORDS[row.outcome] if row.outcome is not None else "no outcome yet"
    return word if row.intact else f"{word}, BUT THE RECORD WAS CHANGED AFTERWARDS"


def _facts(row: AcceptanceRow) -> dict[str, object]:
    names = [
        name
        for name in AcceptanceRow.__dataclass_fields__
        if not name.startswith("lease") and name != "fence"
    ]
    return {name: getattr(row, name) for name in names}


def _package(id_: str, settings: Settings, *, needed: bool) -> ModelPackage | None:
    """The package, its weights hashed; None where it is not installed and not needed."""
    problems: list[PackageError] = []
    found = find_packages(settings.package_folders, problems=problems)
    for problem in problems:
        if problem.package_id == id_ and id_ not in found:
            raise problem
    try:
        return named_package(found, id_, settings.data / "packages")
    except PackageUnknown:
        if needed:
            raise
        return None


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "not known"


def _command(protocol: Path, out: Path, package: str | None, data: Path | None, labels: Path | None,
             predictions: Path | None, again: str | None) -> str:  # fmt: skip
    from hipnode.evaluation.provenance import command_line

    words = ["hipnode", "accept"]
    for name, value in (
        ("package", package), ("data", data), ("labels", labels), ("predictions", predictions),
        ("protocol", protocol), ("out", out), ("again", again),
    ):  # fmt: skip
        if value is not None:
            words += [f"--{name}", str(value)]
    return command_line(words)
