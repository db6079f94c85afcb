"""`hipnode echo`: call the destinations by name."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from hipnode import ledger, scu
from hipnode.cli.doors import open_ledger
from hipnode.cli.screen import plain, screen
from hipnode.destinations import Destination, Sender, load_destinations
from hipnode.errors import HipnodeError, SettingsError
from hipnode.settings import Settings, load_settings
from hipnode.troubles import explain_trouble

_PATIENCE = scu.Timeouts(connect_s=5, acse_s=10, dimse_s=10, network_s=10)
_SENDERS = 3  #: of "back to the sender", so many that sent something last are called

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@dataclass(frozen=True)
class Answer:
    """A destination and what its C-ECHO came to; no report where there is nobody to call."""

    destination: Destination
    report: scu.EchoReport | None
    says: str
    cure: str


def echo(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Destination; without it, all of them.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Ask destinations for a C-ECHO: how long each takes to answer, or why it does not and what to do.

    Exit code 0: all answered, 1: one did not, 2: there is no such destination.

    Examples: `hipnode echo`, `hipnode echo PACS`
    """
    settings = load_settings()
    called = [one for each in named(settings, name) for one in _resolved(settings, each)]
    with ThreadPoolExecutor(len(called)) as pool:
        answers = list(pool.map(lambda one: ask(settings, one), called))
    if json_:
        typer.echo(json.dumps([_as_dict(answer) for answer in answers], indent=2, ensure_ascii=False))
    else:
        console = screen()
        for answer in answers:
            console.print(_said(answer), soft_wrap=True)
    if not all(answer.report is None or answer.report.ok for answer in answers):
        raise typer.Exit(1)


def named(settings: Settings, name: str | None) -> list[Destination]:
    """The destination of this name, or all. An unknown name is wrong use; SettingsError where there is none."""
    known = load_destinations(settings.destinations)
    if not known:
        raise SettingsError(
            f"There are no destinations. Write one into {settings.destinations}: [[destination]] with name, "
            "ae_title, host and port."
        )
    found = [one for one in known if name is None or one.name == name]
    if not found:
        names = ", ".join(one.name for one in known)
        raise typer.BadParameter(
            f"No destination is called {name}; there are: {names} (in {settings.destinations})."
        )
    return found


def _resolved(settings: Settings, destination: Destination) -> list[Destination]:
    """The destination itself; for "back to the sender" those that sent something last, or itself for none."""
    if not destination.sender:
        return [destination]
    try:
        with ledger.reading(open_ledger(settings)) as session:
            peers = ledger.list_peers(session)
    except HipnodeError:
        peers = []
    senders = [p for p in peers if p.instances and destination.serves(p.calling_ae_title)][:_SENDERS]
    filled = [destination.of_sender(Sender(p.calling_ae_title, p.address)) for p in senders]
    return [replace(one, sender=False) for one in filled] or [destination]


def ask(settings: Settings, destination: Destination) -> Answer:
    """A C-ECHO to a destination, with words on what came of it."""
    if destination.sender:
        says = "the sender of each study, and nobody has sent one yet"
        return Answer(destination, None, says, "Send a study to this node, and ask again.")
    report = scu.echo(destination.remote, settings.ae_title, _PATIENCE)
    says, cure = explain_trouble(
        report, destination.remote, settings.ae_title, settings.port, settings.destinations
    )
    return Answer(destination, report, says, cure)


def line(answer: Answer) -> str:
    """An answer in one line."""
    one = answer.destination
    where = f"{one.name} ({one.ae_title} at {one.host}:{one.port})" if answer.report else one.name
    if answer.report is not None and answer.report.ok:
        return f"{where} answers in {answer.report.seconds:.3f} s."
    return f"{where}: {answer.says}. {answer.cure}"


def _said(answer: Answer) -> str:
    colour = "yellow" if answer.report is None else "green" if answer.report.ok else "red"
    return f"[{colour}]{plain(line(answer))}[/{colour}]"


def _as_dict(answer: Answer) -> dict[str, Any]:
    one, report = answer.destination, answer.report
    return {
        "name": one.name,
        "ae_title": one.ae_title or None,
        "host": one.host or None,
        "port": one.port,
        "ok": report.ok if report else None,
        "seconds": round(report.seconds, 4) if report else None,
        "trouble": report.trouble.value if report and report.trouble else None,
        "says": answer.says or None,
        "cure": answer.cure or None,
    }
