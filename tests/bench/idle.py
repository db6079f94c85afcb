"""What an idle node costs: the CPU time of every process of `hipnode up` over half a minute, by /proc."""

import os
import tempfile
import time
from pathlib import Path

import typer

from tests.bench import site
from tests.pacs import pacs

SECONDS = 30
ROUNDS = 3
SETTLE_S = 15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processes(root: int) -> dict[int, str]:
    """Process id -> what it is, for `root` and all below it (Linux)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
    below, found = [root], {}
    while below:
        process = below.pop()
        found[process] = _name(process)
        below += [child for child, parent in parents.items() if parent == process]
    return found


def _stat(process: int) -> list[str]:
    """/proc/PID/stat after the command's name, proc(5): state, parent, ..., utime (11), stime (12)."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _name(process: int) -> str:
    words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
    if "hipnode" in words:
        return " ".join(word for word in words[words.index("hipnode") :] if word)
    program = " ".join(words)
    if "multiprocessing.spawn" in program:
        return "children that decode"
    return "resource tracker" if "resource_tracker" in program else words[0]


def cpu_s(process: int) -> float:
    """CPU seconds a process has used."""
    fields = _stat(process)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def measure(root: int, seconds: float = SECONDS) -> dict[str, float]:
    """Share of one core in per cent, by process and for `all`."""
    before = {process: cpu_s(process) for process in processes(root)}
    begun = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begun
    shares: dict[str, float] = {}
    for process, name in processes(root).items():
        share = 100 * (cpu_s(process) - before.get(process, 0.0)) / passed
        shares[name] = shares.get(name, 0.0) + share
    shares["all"] = sum(shares.values())
    return shares


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, pacs() as archive:
        package = site.package(Path(name))
        typer.echo(f"Idle: `hipnode up` on SQLite and files, {ROUNDS} x {SECONDS} s; {site.load()}")
        with site.node_as_shipped(Path(name, "node"), archive.port, **package.settings) as node:
            root = node.start("up").pid
            node.listens()
            site.wait_for_workers(node, "up")
            time.sleep(SETTLE_S)
            rounds = [measure(root) for _ in range(ROUNDS)]
    typer.echo(f"{'process':<36} {'% of a core, median (min..max)':>30}")
    for what in rounds[-1]:
        typer.echo(f"{what:<36} {site.spread([one.get(what, 0.0) for one in rounds]):>30}")


if __name__ == "__main__":
    main()
