"""Installations for the tests of the doctor: sound but for what a test breaks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hipnode import ledger, migrations
from hipnode.destinations import Destination
from hipnode.doctor import Record, Site, State
from hipnode.ledger import PeerSeen
from hipnode.scu import Timeouts
from hipnode.settings import Settings
from tests.node import ROOT
from tests.peers import free_port
from tests.pipeline import destinations_toml

NOBODY = 65534
EVERYWHERE = "0.0.0.0"  # noqa: S104
QUICK = Timeouts(connect_s=3, acse_s=3, dimse_s=3, network_s=3)


def settings(folder: Path, *destinations: Destination, **changes: Any) -> Settings:
    """Settings of an installation in `folder`/data."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    if destinations:
        (data / "destinations.toml").write_text(destinations_toml(*destinations))
    values = {"data": data, "port": free_port(), "http_port": free_port(), "low_water_bytes": 0, **changes}
    return Settings(_env_file=None, **values)


@contextmanager
def site(folder: Path, *destinations: Destination, prepared: bool = True, **changes: Any) -> Iterator[Site]:
    """An installation whose database is at the newest revision, unless it is not `prepared`.

    clock: of the doctor; the other changes are settings.
    """
    options = {"clock": changes.pop("clock")} if "clock" in changes else {}
    found = settings(folder, *destinations, **changes)
    if prepared:
        migrations.upgrade(found.database)
    examined = Site(found, timeouts=QUICK, **options)
    try:
        yield examined
    finally:
        examined.close()


def the(records: Sequence[Record], check: str) -> Record:
    """The one record of a check."""
    (found,) = [record for record in records if record.check == check]
    return found


def failed(records: Sequence[Record]) -> list[str]:
    """The sentences of what failed."""
    return [f"{record.check}: {record.says}" for record in records if record.state is State.FAIL]


def command(
    folder: Path, *options: str, prefix: tuple[str, ...] = (), **environment: str
) -> tuple[int, str, str]:
    """`hipnode doctor` in a process of its own, on the installation in `folder`/data: exit code, output, error.

    The error is on one line: how a box wraps it depends on how long the folder's name is.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HIPNODE_")}
    given = {
        "HIPNODE_DATA": str(folder / "data"),
        "HIPNODE_PORT": str(free_port()),
        "HIPNODE_HTTP_PORT": str(free_port()),
        "HIPNODE_LOW_WATER_BYTES": "0",
        "HIPNODE_ENV_FILE": os.devnull,
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "hipnode", "doctor", *options],
        env=kept | given, cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, " ".join(done.stderr.replace("│", " ").split())


def records_of(folder: Path, *options: str, **more: Any) -> tuple[int, list[Record]]:
    code, out, err = command(folder, "--json", *options, **more)
    assert err == ""
    found = json.loads(out)
    records = [Record(**{**one, "state": State(one["state"])}) for one in found["records"]]
    assert sum(found["summary"].values()) == len(records)
    return code, records


def seen(one: Site, *peers: PeerSeen) -> None:
    assert one.sessions is not None
    with ledger.transaction(one.sessions) as session:
        ledger.record_peers(session, peers, one.clock())


def beat(one: Site, kind: Any, ago_s: float, **packages: str) -> None:
    assert one.sessions is not None
    with ledger.transaction(one.sessions) as session:
        name = f"{kind}@elsewhere:7"
        at = one.clock() - timedelta(seconds=ago_s)
        ledger.heartbeat(session, ledger.WorkerBeat(name, kind, packages), at)


def arrive(one: Site, at: datetime, size_bytes: int = 1000, **changes: Any) -> None:
    assert one.sessions is not None
    values: dict[str, Any] = {
        "study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.4", "sop_instance_uid": "1.2.3.4.5",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1", "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_id": "P1", "accession_number": "A1", "calling_ae_title": "PACS", "peer_address": "10.0.0.1",
        "sha256": "0" * 64, "size_bytes": size_bytes, "relative_path": "instances/00/0.dcm", **changes,
    }  # fmt: skip
    with ledger.transaction(one.sessions) as session:
        ledger.record_instance(session, ledger.ReceivedInstance(**values), at)
