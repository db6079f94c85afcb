"""`make bench`: every measurement one after the other, or `python -m tests.bench idle latency`."""

import logging
import sys

import typer

from hipnode import logs
from tests.bench import backlog, coverage, evaluation, idle, ingest, latency, monitoring

BENCHES = {
    "ingest": ingest.main,
    "latency": latency.main,
    "backlog": backlog.main,
    "idle": idle.main,
    "coverage": coverage.main,
    "evaluation": evaluation.main,
    "monitoring": monitoring.main,
}


def main(names: list[str]) -> None:
    """Run the named ones, or all."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        raise SystemExit(f"No such measurement: {', '.join(unknown)}. There are: {', '.join(BENCHES)}.")
    logs.configure(json_lines=False, level=logging.WARNING)  # what goes well is in the tables
    for name in names or BENCHES:
        BENCHES[name]()
        typer.echo("")


if __name__ == "__main__":
    main(sys.argv[1:])
