"""Studies per minute of a backlog: films stored and queued while no worker runs, then the workers start.

Counted from the first claim to the last delivery, and from the start of the processes (torch and
the network load meanwhile). On SQLite and files with one analyse worker; on PostgreSQL and Redis,
where they are installed, with one and with two.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer

from tests.bench import site
from tests.node import Node
from tests.pacs import pacs
from tests.peers import Postgres, Redis, find_program, wait_for

STUDIES = 100
NEIGHBOURS = "PostgreSQL and Redis"


@dataclass(frozen=True)
class Run:
    """One backlog: seconds from the first claim, and from the start of the workers, to the last end."""

    studies: int
    working_s: float
    started_s: float


@contextmanager
def neighbours(folder: Path) -> Iterator[dict[str, str]]:
    """A database and a broker of this run's own."""
    folder.mkdir()
    database, broker = Postgres(folder), Redis(folder)
    try:
        database.start()
        broker.start()
        yield {"HIPNODE_DATABASE_URL": database.database(), "HIPNODE_BROKER_URL": broker.url}
    finally:
        broker.kill()
        database.kill()


def work_off(node: Node, films: site.Films, studies: int, analysers: int) -> Run:
    """Store the backlog, start the workers, wait for the last study's end."""
    node.start("serve")
    node.listens()
    for _ in range(studies):
        if node.store(films.fresh()) != 0x0000:
            raise RuntimeError("the node did not take a film")
    wait_for(
        lambda: sum(row["status"] == "queued" for row in node.studies().values()) == studies,
        "every study is queued", 300, every_s=1,
    )  # fmt: skip
    begun = datetime.now(UTC)
    for part in ("deliver", *(f"analyse-{n + 1}" for n in range(analysers))):
        node.start(part)

    def ended() -> bool:
        return all(row["status"] in site.ENDED for row in node.studies().values())

    wait_for(ended, "the backlog is worked off", 3600, every_s=2)
    at = [site.times(node, uid) for uid in node.studies()]
    last = max(one.ended for one in at)
    return Run(studies, site.seconds(last, min(one.claimed for one in at)), site.seconds(last, begun))


def measure(folder: Path, package: site.Package, studies: int) -> Iterator[tuple[str, int, Run]]:
    """What it ran on, the number of analyse workers, and the run."""
    films = site.Films()
    settings = {"HIPNODE_STABLE_AGE_S": str(site.STABLE_AGE_S), **package.settings}
    folder.mkdir()
    with pacs() as archive, site.node_as_shipped(folder / "files", archive.port, **settings) as node:
        yield "SQLite and files", 1, work_off(node, films, studies, 1)
    if find_program("initdb") is None or find_program("redis-server") is None:
        typer.echo(f"{NEIGHBOURS} are not installed: left out.")
        return
    for analysers in (1, 2):
        with (
            neighbours(folder / f"neighbours-{analysers}") as urls,
            pacs() as archive,
            site.node_as_shipped(folder / f"node-{analysers}", archive.port, **settings, **urls) as node,
        ):
            yield NEIGHBOURS, analysers, work_off(node, films, studies, analysers)


def main(studies: int = STUDIES) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        package = site.package(Path(name))
        typer.echo(f"Backlog: {studies} studies of one 15.7 MB film, {package.what}; {site.load()}")
        typer.echo(f"{'on':<21} {'workers':>7} {'studies/min':>11} {'with start':>10} {'load':>5}")
        for on, analysers, run in measure(Path(name, "runs"), package, studies):
            typer.echo(
                f"{on:<21} {analysers:>7} {60 * studies / run.working_s:>11.1f}"
                f" {60 * studies / run.started_s:>10.1f} {site.busy():>5.1f}"
            )


if __name__ == "__main__":
    main()
