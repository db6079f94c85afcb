"""One study at a time through a warm node: how long each stage takes, and stable to delivered.

The node is `hipnode up` on SQLite and files, as it comes but for a shorter wait for stability,
which is taken off. `looked` is the network, `delivered` the way from results on disk to the PACS' answer.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import typer

from tests.bench import site
from tests.node import Node
from tests.pacs import pacs
from tests.peers import wait_for

STUDIES = 7
STAGES = {
    "received": "C-STORE of 15.7 MB, until 0x0000",
    "closed": "noticed as stable, headers read, queued",
    "claimed": "bell heard, claimed by the worker",
    "decoded": "file verified, pixels decoded in a child",
    "looked": "network and decision rule",
    "told": "SR and SC built, checked, written, booked",
    "delivered": "sent, answered by the PACS, booked",
}
TOTAL = "stable to delivered"


def one_study(node: Node, films: site.Films) -> dict[str, float]:
    """Send a study, wait for its end. Seconds by stage."""
    film = films.fresh()
    uid = str(film.StudyInstanceUID)
    begun = time.perf_counter()
    if node.store(film) != 0x0000:
        raise RuntimeError("the node did not take the film")
    received = time.perf_counter() - begun

    def ended() -> bool:
        return node.studies()[uid]["status"] in site.ENDED

    wait_for(ended, "the study ends", 180, every_s=0.25)
    at = site.times(node, uid)
    wait_for(lambda: site.said(node, "up", "study.analysed"), "the log tells of it")
    batch, told = (site.said(node, "up", event)[-1] for event in ("batch.analysed", "study.analysed"))
    stable_to_queued = site.seconds(at.queued, at.last_instance) - site.STABLE_AGE_S
    return {
        "received": received,
        "closed": stable_to_queued,
        "claimed": site.seconds(at.claimed, at.queued),
        "decoded": batch["read_s"],
        "looked": batch["look_s"],
        "told": told["tell_s"],
        "delivered": site.seconds(at.ended, at.told),
        TOTAL: stable_to_queued + site.seconds(at.ended, at.queued),
    }


def measure(folder: Path, package: site.Package, studies: int = STUDIES) -> Iterator[dict[str, float]]:
    """Seconds by stage, for each of several studies."""
    films = site.Films()
    settings = {"HIPNODE_STABLE_AGE_S": str(site.STABLE_AGE_S), **package.settings}
    with pacs() as archive, site.node_as_shipped(folder / "node", archive.port, **settings) as node:
        node.start("up")
        node.listens()
        site.wait_for_workers(node, "up")
        one_study(node, films)  # warms up
        for _ in range(studies):
            yield one_study(node, films)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        package = site.package(Path(name))
        typer.echo(f"Latency: {STUDIES} studies one at a time, {package.what}; {site.load()}")
        rounds = list(measure(Path(name), package))
    typer.echo(f"{'stage':<20} {'s, median (min..max)':>22}")
    for stage in (*STAGES, TOTAL):
        values = site.spread([one[stage] for one in rounds])
        typer.echo(f"{stage:<20} {values:>22}  {STAGES.get(stage, 'without the wait for stability')}")


if __name__ == "__main__":
    main()
