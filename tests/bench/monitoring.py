"""How long `hipnode monitor` takes on a ledger of 100,000 studies of a year, all with a final report."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import typer

from hipnode import ledger, migrations
from tests.bench import site
from tests.peers import Postgres
from tests.watched_ledger import fill

STUDIES = 100_000
CLASSES = ("DF", "SF", "UF", "VF")


def main() -> None:
    """Print one line for each database and stretch of time."""
    typer.echo(
        f"hipnode monitor, {STUDIES:,} studies in a year, load {site.load()}     wall s   CPU s   peak MiB"
    )
    with tempfile.TemporaryDirectory() as made:
        for name, url in _databases(Path(made)):
            migrations.upgrade(url)
            sessions = ledger.sessions(url)
            fill(sessions, STUDIES, 365, datetime.now(UTC), classes=CLASSES, reported=True)
            sessions.kw["bind"].dispose()
            for since, out in (("90d", False), ("365d", False), ("365d", True)):
                arguments = ["--since", since, *(["--out", str(Path(made) / "out")] if out else [])]
                wall, cpu, peak = measure(url, *arguments)
                what = f"{name}, --since {since}{' --out' if out else ''}"
                typer.echo(f"{what:<60}{wall:>7.1f}{cpu:>8.1f}{peak:>11.0f}")


def measure(url: str, *arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in MiB of one run of the command. Raises where it fails."""
    run = [sys.executable, "-m", "hipnode", "monitor", *arguments]
    begun = time.monotonic()
    process = subprocess.Popen(
        run, stdout=subprocess.DEVNULL, env={**os.environ, "HIPNODE_DATABASE_URL": url}
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"hipnode monitor ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, _mib(used)


def _mib(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / 1024  # getrusage(2): KiB on Linux


def _databases(folder: Path) -> Iterator[tuple[str, str]]:
    yield "SQLite", f"sqlite:///{folder / 'ledger.db'}"
    server = Postgres(folder)
    server.start()
    try:
        yield "PostgreSQL", server.database()
    finally:
        server.kill()


if __name__ == "__main__":
    main()
