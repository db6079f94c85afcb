"""hipnode doctor beside a running node: all is well; and what breaks there is named, with its cure."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from hipnode import ledger, scu
from hipnode.destinations import RemoteAE
from hipnode.doctor import Site
from hipnode.doctor.workers import check_bells, check_workers
from hipnode.settings import Settings
from tests.dicom_checks import check_file
from tests.node import FAKE_PARTS, Node, running_node, site_selection
from tests.pacs import Pacs, pacs
from tests.peers import Postgres, Redis, wait_for
from tests.pipeline import make_package

ALLOWED = ",".join(f"{name}@127.0.0.1/32" for name in ("TESTER", "MODALITY", "HIPNODE", "PACS"))


@pytest.fixture(scope="module")
def archive() -> Iterator[Pacs]:
    with pacs() as made:
        yield made


@contextmanager
def whole_node(folder: Path, archive: Pacs, **environment: str) -> Iterator[Node]:
    package = make_package(folder / "packages")
    settings = {
        **environment,
        "HIPNODE_PACKAGES": str(folder / "packages"),
        "HIPNODE_SELECTION_FILE": str(site_selection(folder, package.id)),
        "HIPNODE_ALLOWED_PEERS": ALLOWED,
    }
    parts = {name: FAKE_PARTS[name] for name in ("serve", "analyse-1", "deliver")}
    with running_node(folder / "node", archive.port, parts, **settings) as node:
        wait_for(lambda: len(live(node)) == 2, "both workers live", 90)
        yield node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, archive: Pacs) -> Iterator[Node]:
    with whole_node(tmp_path_factory.mktemp("doctor"), archive) as running:
        yield running


def live(node: Node) -> list[ledger.WorkerRow]:
    with ledger.reading(node.sessions) as session:
        return ledger.workers(session)


def doctor(node: Node, *options: str) -> tuple[int, list[dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "hipnode", "doctor", "--json", *options],
        env=node.environment, cwd=node.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["records"]


def settled(node: Node) -> tuple[int, list[dict[str, str]]]:
    """What the doctor says once its deadlines were long enough for a busy machine."""

    def asked() -> tuple[int, list[dict[str, str]]] | None:
        code, records = doctor(node)
        late = [
            r for r in records if "was not known after" in r["says"] or "has not answered a bell" in r["says"]
        ]
        return None if late else (code, records)

    code, records = wait_for(asked, "the doctor has all its answers in time", 120)
    return code, records


def of(records: list[dict[str, str]], check: str) -> list[dict[str, str]]:
    return [record for record in records if record["check"] == check]


def test_a_healthy_node_fails_in_nothing(node: Node, archive: Pacs) -> None:
    code, records = settled(node)
    assert [record for record in records if record["state"] == "fail"] == []
    assert code == 0
    for check in ("port-scp", "port-health", "node", "database", "migration", "broker", "destination-echo"):
        assert [record["state"] for record in of(records, check)] == ["ok"], check
    assert "answers C-ECHO as HIPNODE" in of(records, "port-scp")[0]["says"]
    assert {record["state"] for record in of(records, "workers")} == {"ok"}
    heard = " ".join(record["says"] for record in of(records, "bells") if record["state"] == "ok")
    assert all(worker.name in heard for worker in live(node))
    assert "hip-test is loaded" in of(records, "worker-packages")[0]["says"]
    assert f"HIPNODE>{archive.ae_title}" in [r.replace(" ", "") for r in archive.requests]


def refused(node: Node, **wanted: str) -> Any:
    """Wait until the node has noted a refusal."""

    def noted() -> Any:
        with ledger.reading(node.sessions) as session:
            rows = ledger.list_peers(session, refused_only=True)
        return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]

    return wait_for(noted, f"a refusal {wanted} is in the ledger", 30)


def test_a_refused_peer_is_named_with_the_entry_that_lets_it_in(node: Node) -> None:
    report = scu.echo(RemoteAE("HIPNODE", "127.0.0.1", node.port), "CT_ROOM_3")
    assert report.trouble is scu.Trouble.CALLING_AE_TITLE
    refused(node, calling_ae_title="CT_ROOM_3")
    code, records = settled(node)
    (found,) = [r for r in of(records, "refused-peers") if "CT_ROOM_3" in r["says"]]
    assert (code, found["state"]) == (1, "fail")  # nobody else has sent anything
    assert f"HIPNODE_ALLOWED_PEERS='{ALLOWED},CT_ROOM_3@127.0.0.1/32'" in found["cure"]


def test_a_peer_that_calls_us_by_another_name_is_told_both_names(node: Node) -> None:
    report = scu.echo(RemoteAE("HIP_NODE", "127.0.0.1", node.port), "MODALITY")
    assert report.trouble is scu.Trouble.CALLED_AE_TITLE
    refused(node, called_ae_title="HIP_NODE")
    _, records = settled(node)
    (found,) = [r for r in of(records, "refused-peers") if "HIP_NODE" in r["says"]]
    assert "it called HIP_NODE, and our AE title is HIPNODE" in found["says"]
    assert "HIPNODE_AE_TITLE=HIP_NODE" in found["cure"]


def test_the_doctor_of_another_installation_does_not_take_this_node_for_its_own(node: Node) -> None:
    other = {**node.environment, "HIPNODE_AE_TITLE": "OTHER", "HIPNODE_ALLOWED_PEERS": "*@127.0.0.1/32"}
    done = subprocess.run(
        [sys.executable, "-m", "hipnode", "doctor"],
        env=other, cwd=node.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if " port-scp " in line)
    assert line.startswith("fail")
    assert "whose AE title is not OTHER" in line or "that bars us" in line
    assert f"pid {node.processes['serve'].pid}" in line


def test_a_test_object_is_stored_and_known_as_ours_when_it_comes_back(
    node: Node, archive: Pacs, tmp_path: Path
) -> None:
    code, records = doctor(node, "--write-back", "PACS")
    (stored,) = [r for r in of(records, "write-back") if r["state"] == "ok"]
    (removal,) = of(records, "write-back-removal")
    (sent,) = [one for one in archive.received if one.sop_instance_uid in stored["says"]]
    assert sent.dataset.StudyInstanceUID in stored["says"]
    assert "HIPNODE-TEST" in removal["cure"]
    path = tmp_path / "test.dcm"
    sent.dataset.save_as(path, enforce_file_format=True)
    ds = check_file(path)
    assert (ds.PatientID, str(ds.PatientName)) == ("HIPNODE-TEST", "HIPNODE^TEST")
    assert "may be deleted" in ds.StudyDescription
    assert ds.SOPClassUID == SecondaryCaptureImageStorage
    assert node.store(ds, calling="PACS") == 0x0000  # the PACS routes it back
    instance = node.show(ds.StudyInstanceUID)["instances"][0]
    assert (instance["role"], instance["relative_path"]) == ("own", None)
    _, again = doctor(node, "--write-back", "PACS")
    (second,) = of(again, "write-back")
    assert sent.dataset.StudyInstanceUID in second["says"]  # one study to delete
    assert sent.sop_instance_uid not in second["says"]
    assert code in (0, 1)


def test_what_dies_on_redis_and_postgres_is_named_at_once(
    tmp_path: Path, archive: Pacs, redis: Redis, postgres: Postgres
) -> None:
    urls = {"HIPNODE_DATABASE_URL": postgres.database(), "HIPNODE_BROKER_URL": redis.url}
    with whole_node(tmp_path, archive, **urls) as node:
        code, records = settled(node)
        assert [record for record in records if record["state"] == "fail"] == []
        assert code == 0
        for check in ("database", "broker", "clock-database", "clock-broker", "bells"):
            assert {record["state"] for record in of(records, check)} == {"ok"}, check

        (victim,) = [w for w in live(node) if w.kind == "deliver"]
        node.kill("deliver")
        code, records = doctor(node)
        (silent,) = [r for r in of(records, "bells") if r["state"] == "fail"]
        assert code == 1
        assert victim.name in silent["says"]
        assert "systemctl restart 'hipnode-deliver*'" in silent["cure"]
        dead_later(node, victim.name)

        redis.kill()
        code, records = doctor(node)
        (dead,) = of(records, "broker")
        assert (code, dead["state"]) == (1, "fail")
        assert "nothing listens there" in dead["says"]
        assert of(records, "bells") == []  # who rings without a broker learns nothing
        redis.start()


def dead_later(node: Node, name: str) -> None:
    """A minute on, the heartbeat says it too; who answers all the same has a clock that is behind."""
    settings = Settings(
        _env_file=None,
        data=node.folder / "data",
        database_url=node.database,
        broker_url=node.environment["HIPNODE_BROKER_URL"],
    )
    later = Site(settings, clock=lambda: datetime.now(UTC) + timedelta(seconds=90))
    try:
        (dead,) = [r for r in check_workers(later) if "deliver" in r.says]
        assert dead.state == "fail"
        assert name in dead.says
        assert "hipnode worker deliver" in dead.cure
        heard, clock = check_bells(later)
        assert (heard.check, heard.state) == ("bells", "ok")
        assert (clock.check, clock.state) == ("clock-worker", "fail")
        assert "analyse@" in clock.says
        assert "behind" in clock.says
    finally:
        later.close()
