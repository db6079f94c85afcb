"""A whole node for tests: real processes of `hipnode`, each started again when it was killed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pydicom.dataset import FileDataset
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger, scu
from hipnode.cli.screen import as_json
from hipnode.destinations import RemoteAE
from tests.peers import free_port, stop, wait_for

PARTS = {
    "serve": ["-m", "hipnode", "serve"],
    "analyse-1": ["-m", "hipnode", "worker", "analyse"],
    "analyse-2": ["-m", "hipnode", "worker", "analyse"],
    "deliver": ["-m", "hipnode", "worker", "deliver"],
}
# The same processes with a detector that needs no torch, for tests that start them often.
FAKE_PARTS = PARTS | {name: ["-m", "tests.worker_process", "analyse"] for name in ("analyse-1", "analyse-2")}
ROOT = Path(__file__).parents[1]
_PATIENCE = scu.Timeouts(connect_s=5, acse_s=10, dimse_s=20, network_s=20)


def site_selection(folder: Path, package: str) -> Path:
    """The shipped selection rules with another model package."""
    shipped = (ROOT / "hipnode" / "selection.toml").read_text(encoding="utf-8")
    changed = re.sub(r'^package = ".*?"', f'package = "{package}"', shipped, count=1, flags=re.MULTILINE)
    assert changed != shipped
    path = folder / "selection.toml"
    path.write_text(changed, encoding="utf-8")
    return path


class Node:
    """hipnode in a data folder of the test's own. `environment` adds or overrides settings."""

    def __init__(self, folder: Path, pacs_port: int, **environment: str) -> None:
        self.folder, self.port, self.http_port = folder, free_port(), free_port()
        (folder / "data").mkdir(parents=True)
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.destinations = folder / "destinations.toml"
        self.destinations.write_text(
            f'[[destination]]\nname = "PACS"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs_port}\n'
        )
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HIPNODE_")},
            "OMP_NUM_THREADS": "1",
            "HIPNODE_DATA": str(folder / "data"),
            "HIPNODE_PORT": str(self.port),
            "HIPNODE_HTTP_PORT": str(self.http_port),
            "HIPNODE_DESTINATIONS_FILE": str(self.destinations),
            "HIPNODE_STABLE_AGE_S": "0.5",
            "HIPNODE_TICK_S": "0.2",
            "HIPNODE_SWEEP_S": "1",
            "HIPNODE_LEASE_S": "3",
            "HIPNODE_RETRY_S": "0.5",
            "HIPNODE_DELIVERY_RETRY_S": "0.5",
            "HIPNODE_LOW_WATER_BYTES": "0",
            "HIPNODE_DECODE_CHILDREN": "1",
            "HIPNODE_ENV_FILE": os.devnull,
            "HIPNODE_FAULT_MARKS": str(self.marks),
            **environment,
        }
        self.parts, self.faults = PARTS, ""
        self._restarting = threading.Lock()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: str) -> "subprocess.Popen[bytes]":
        """Start one part."""
        with (self.folder / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(
                [sys.executable, *self.parts[part]],
                cwd=ROOT,
                env={**self.environment, "HIPNODE_FAULTS": self.faults},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.processes[part]

    def keep_running(self) -> list[str]:
        """Start again what died. Returns the names of the parts that had died."""
        with self._restarting:  # several senders may notice at the same time
            died = [name for name, process in self.processes.items() if process.poll() is not None]
            for name in died:
                self.start(name)
        return died

    def hipnode(self, *arguments: str, check: bool = True) -> str:
        """Run a command of the command line against this node's data."""
        done = subprocess.run(
            [sys.executable, "-m", "hipnode", *arguments],
            env=self.environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    def listens(self) -> None:
        """Wait until the SCP takes a C-ECHO."""
        wait_for(self.echo, "the node answers C-ECHO", 60)

    def echo(self) -> bool:
        """Whether the SCP answers a C-ECHO now."""
        return scu.echo(self._remote, "TESTER", _PATIENCE).ok

    def store(self, ds: FileDataset, calling: str = "MODALITY") -> int | None:
        """Send one instance; the peer's status, or None when the connection was lost."""
        path = self.folder / f"{uuid.uuid4().hex}.dcm"
        ds.save_as(path, enforce_file_format=True)
        (outcome,) = scu.send([scu.Outgoing(0, path)], self._remote, calling, timeouts=_PATIENCE)
        path.unlink()
        return outcome.peer_status

    @property
    def _remote(self) -> RemoteAE:
        return RemoteAE("HIPNODE", "127.0.0.1", self.port)

    def store_until_kept(self, ds: FileDataset, timeout_s: float = 60) -> int:
        """Send as a modality would: again until the node says 0x0000. Returns how often it was sent."""
        end, sent = time.monotonic() + timeout_s, 0
        while time.monotonic() < end:
            sent += 1
            if self.store(ds) == 0x0000:
                return sent
            self.keep_running()
            time.sleep(0.3)
        raise AssertionError("the node never said 0x0000")

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the ledger."""
        return (
            self.environment.get("HIPNODE_DATABASE_URL") or f"sqlite:///{self.folder / 'data' / 'hipnode.db'}"
        )

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        """Sessions on the ledger, until `stop`."""
        return ledger.sessions(self.database)

    def studies(self) -> dict[str, dict[str, Any]]:
        """The worklist by Study Instance UID, as `hipnode studies list --json` prints it."""
        with ledger.reading(self.sessions) as session:
            rows = ledger.list_studies(session)
        return {row.study_instance_uid: json.loads(as_json(row)) for row in rows}

    def show(self, study: str) -> dict[str, Any]:
        """One study in full, as `hipnode studies show --json` prints it."""
        with ledger.reading(self.sessions) as session:
            (study_id,) = ledger.resolve_study(session, study)
            return dict(json.loads(as_json(ledger.show_study(session, study_id))))

    def stop(self) -> None:
        """End every process."""
        if "sessions" in self.__dict__:
            self.sessions.kw["bind"].dispose()
        for process in self.processes.values():
            stop(process, signal.SIGTERM)

    def kill(self, part: str) -> None:
        """SIGKILL one part now."""
        self.processes[part].kill()
        self.processes[part].wait()


@contextmanager
def running_node(
    folder: Path,
    pacs_port: int,
    parts: Mapping[str, list[str]] = PARTS,
    faults: str = "",
    **environment: str,
) -> Iterator[Node]:
    """A prepared and started node; ended on leaving.

    faults: in the environment of every part, also when it is started again; each fires once.
    """
    node = Node(folder, pacs_port, **environment)
    node.parts, node.faults = dict(parts), faults
    node.hipnode("db", "upgrade")
    try:
        for part in parts:
            node.start(part)
        if "serve" in parts:
            node.listens()
        yield node
    finally:
        node.stop()
