"""Ingest beside other archives: 15 MB radiographs by C-STORE, one and four senders at a time.

Every number is a ratio on the same machine: the targets take turns, round by round, and the table
shows medians. hipnode answers after fsync and commit; Orthanc and DCMTK's storescp answer when the
file is written, without fsync: their column is what the network and the sender alone would allow.
"""

import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import typer

from hipnode import logs
from hipnode.scp import AllowedPeers, Limits, start_scp
from hipnode.spool import Spool
from tests.bench.site import load
from tests.factories import make_radiograph
from tests.peers import Orthanc, find_program, free_port, running, wait_for
from tests.scp_node import open_ledger

ROWS, COLUMNS = 3072, 2560  # 16 bits: 15.7 MB
IMAGES_PER_SENDER = 4
SENDERS = (1, 4)
_UID_ROOT = b"1.2.826.0.1.3680043.8.498."


@dataclass(frozen=True)
class Target:
    """Someone to send to. `clear` removes what it stored."""

    name: str
    ae_title: str
    port: int
    clear: Callable[[], None]


class Films:
    """15 MB films in files, each time under new SOP Instance UIDs of the same length."""

    def __init__(self, folder: Path, count: int) -> None:
        picture = np.random.default_rng(1).random((ROWS, COLUMNS))
        film = make_radiograph(picture=picture)
        self._uid = (_UID_ROOT + b"9" * 20).decode()
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = self._uid
        self._template = folder / "template.dcm"
        film.save_as(self._template, enforce_file_format=True)
        data = self._template.read_bytes()
        self._places = []
        start = data.find(self._uid.encode())
        while start >= 0:
            self._places.append(start + len(_UID_ROOT))
            start = data.find(self._uid.encode(), start + 1)
        self.megabytes = len(data) / 1e6
        self._files = [folder / f"{n}.dcm" for n in range(count)]
        for file in self._files:
            shutil.copyfile(self._template, file)
        self._number = 10**19

    def fresh(self, senders: int) -> list[list[Path]]:
        """Files for each sender, none of which was sent before."""
        groups = [self._files[n * IMAGES_PER_SENDER : (n + 1) * IMAGES_PER_SENDER] for n in range(senders)]
        for file in (file for group in groups for file in group):
            self._number += 1
            with file.open("r+b") as opened:
                for place in self._places:
                    opened.seek(place)
                    opened.write(b"%d" % self._number)
        return groups


def _serve(folder: Path, pipe: Connection) -> None:
    sys.stderr = (folder / "serve.log").open("w")  # it logs as a node does, but not into the table
    logs.configure(json_lines=True)
    spool = Spool(folder / "spool")
    sessions = open_ledger(f"sqlite:///{folder / 'ledger.db'}")
    scp = start_scp(
        "HIPNODE", "127.0.0.1", 0,
        spool=spool, sessions=sessions, peers=AllowedPeers.parse("*@127.0.0.0/8"), limits=Limits(),
    )  # fmt: skip
    pipe.send(scp.port)
    pipe.recv()
    scp.stop()


@contextmanager
def hipnode(folder: Path) -> Iterator[Target]:
    """Our SCP with spool and SQLite ledger, in a process of its own."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(folder, there))
    process.start()

    def clear() -> None:
        for film in (folder / "spool" / "instances").rglob("*.dcm"):
            film.unlink()

    try:
        yield Target("hipnode", "HIPNODE", here.recv(), clear)
    finally:
        here.send("stop")
        process.join()


@contextmanager
def orthanc(folder: Path) -> Iterator[Target]:
    """Orthanc with its own index and storage, as it comes."""
    server = Orthanc(folder)
    server.start()

    def clear() -> None:
        for study in server.get("/studies"):
            server.request("DELETE", f"/studies/{study}")

    try:
        yield Target("Orthanc", server.ae_title, server.dicom_port, clear)
    finally:
        server.stop()


@contextmanager
def storescp(folder: Path, program: Path) -> Iterator[Target]:
    """DCMTK's storescp, one process per association, bytes kept as received."""
    port, received = free_port(), folder / "received"
    received.mkdir()
    command = [
        str(program),
        "--fork",
        "--bit-preserving",
        "+xa",
        "-pdu",
        "131072",
        "-od",
        str(received),
        str(port),
    ]
    with running(command, folder, "storescp.log", env={**os.environ, "TCP_NODELAY": "1"}):
        wait_for(lambda: _listens(port), "storescp answers")

        def clear() -> None:
            for file in received.iterdir():
                file.unlink()

        yield Target("storescp", "STORESCP", port, clear)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def send(target: Target, groups: list[list[Path]], storescu: Path) -> float:
    """Seconds until every sender has the last of its answers. Each has one association."""
    environment = {**os.environ, "TCP_NODELAY": "1"}
    begun = time.perf_counter()
    processes = [
        subprocess.Popen(
            [storescu, "-aec", target.ae_title, "-pdu", "131072", "127.0.0.1", str(target.port), *group],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for group in groups
    ]  # fmt: skip
    for process in processes:
        said, _ = process.communicate(timeout=300)
        if process.returncode != 0:
            raise RuntimeError(f"storescu to {target.name}: {said.decode(errors='replace')[-400:]}")
    return time.perf_counter() - begun


def measure(rounds: int = 7) -> dict[int, dict[str, list[float]]]:
    """Films per second, by number of senders and target, one value a round."""
    storescu, program = find_program("storescu"), find_program("storescp")
    if storescu is None:
        raise SystemExit("storescu (dcmtk) is not installed: nothing can be measured.")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folders = {who: folder / who for who in ("films", "hipnode", "orthanc", "storescp")}
        for each in folders.values():
            each.mkdir()
        films = Films(folders["films"], max(SENDERS) * IMAGES_PER_SENDER)
        targets = [stack.enter_context(hipnode(folders["hipnode"]))]
        if find_program("Orthanc") is not None:
            targets.append(stack.enter_context(orthanc(folders["orthanc"])))
        if program is not None:
            targets.append(stack.enter_context(storescp(folders["storescp"], program)))
        speeds = {n: {target.name: [] for target in targets} for n in SENDERS}
        for turn in range(rounds + 1):
            for senders in SENDERS:
                for target in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
                    seconds = send(target, films.fresh(senders), storescu)
                    target.clear()
                    os.sync()  # nobody's dirty pages slow down whoever is next
                    if turn:  # the first round warms up
                        speed = senders * IMAGES_PER_SENDER / seconds
                        speeds[senders][target.name].append(speed)
    return speeds


def table(speeds: dict[int, dict[str, list[float]]]) -> str:
    """Medians, their spread, and the ratio to hipnode in the same round."""
    lines = [
        f"{'senders':>7}  {'archive':<9} {'films/s':>8} {'MB/s':>6} {'min..max':>13}  {'hipnode is':>10}"
    ]
    megabytes = ROWS * COLUMNS * 2 / 1e6
    for senders, by_target in speeds.items():
        for name, values in by_target.items():
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(by_target["hipnode"], values, strict=True)
            )
            middle = statistics.median(values)
            spread = f"{min(values):.1f}..{max(values):.1f}"
            lines.append(
                f"{senders:>7}  {name:<9} {middle:>8.1f} {middle * megabytes:>6.0f} {spread:>13}  {ratio:>9.2f}x"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    typer.echo(f"Ingest: 15.7 MB DX films, an association per sender, storescu, TCP_NODELAY=1; {load()}")
    typer.echo("hipnode answers after fsync and commit; the others after writing.")
    typer.echo(table(measure()))


if __name__ == "__main__":
    main()
