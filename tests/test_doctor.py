"""hipnode doctor on broken installations: each fault is named, with what to do about it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from hipnode import ledger, migrations
from hipnode.destinations import Destination
from hipnode.doctor import Site, State, examine, unknown_names, write_back
from hipnode.doctor.bundle import settings_without_secrets
from hipnode.doctor.clock import check_ledger_clock
from hipnode.doctor.database import check_database, check_database_clock, compare_clocks
from hipnode.doctor.destinations import check_destinations
from hipnode.doctor.network import check_node, check_ports
from hipnode.doctor.packages import check_packages, check_torch
from hipnode.doctor.records import Record, ok
from hipnode.doctor.refusals import check_refusals
from hipnode.doctor.running import run_checks
from hipnode.doctor.sitefiles import (
    check_allow_list,
    check_destinations_file,
    check_selection,
    check_settings,
)
from hipnode.doctor.storage import check_disk, check_folders, check_leftovers
from hipnode.doctor.work import check_arrivals, check_failures, check_queue
from hipnode.doctor.workers import check_broker, check_workers
from hipnode.ledger import PeerSeen
from hipnode.spool import Spool
from tests.doctor_site import failed, site, the
from tests.node import ROOT, site_selection
from tests.pacs import SecondaryCaptureImageStorage, pacs
from tests.peers import Orthanc, Postgres, Redis, free_port, need
from tests.pipeline import make_package

NOBODY = 65534
EVERYWHERE = "0.0.0.0"  # noqa: S104


def command(
    folder: Path, *options: str, prefix: tuple[str, ...] = (), **environment: str
) -> tuple[int, str, str]:
    """`hipnode doctor` in a process of its own, on the installation in `folder`/data."""
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
    return done.returncode, done.stdout, done.stderr


def records_of(folder: Path, *options: str, **more: Any) -> tuple[int, list[Record]]:
    code, out, err = command(folder, "--json", *options, **more)
    assert err == ""
    found = json.loads(out)
    records = [Record(**{**one, "state": State(one["state"])}) for one in found["records"]]
    assert sum(found["summary"].values()) == len(records)
    return code, records


# --- Settings and site files -----------------------------------------------------------------------


def test_wrong_settings_are_named_and_the_rest_is_still_examined(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    migrations.upgrade(f"sqlite:///{tmp_path / 'data' / 'hipnode.db'}")
    wrong = {"HIPNODE_AE_TITLE": "LONGER_THAN_SIXTEEN", "HIPNODE_BROKER_URL": "http://me:secret@host"}
    code, records = records_of(tmp_path, **wrong, HIPNODE_ALOWED_PEERS="*@10.0.0.0/8")
    said = {r.says.split(":")[0]: r for r in records if r.check == "settings"}
    assert code == 1
    assert said["HIPNODE_AE_TITLE"].state == said["HIPNODE_BROKER_URL"].state == "fail"
    (typo,) = [r for r in said.values() if r.state == "warn"]
    assert (typo.says.split()[0], typo.cure) == ("HIPNODE_ALOWED_PEERS", "Write HIPNODE_ALLOWED_PEERS.")
    assert "secret" not in json.dumps([r.says for r in records])
    assert the(records, "migration").state == "ok"


def test_names_that_are_no_settings_are_found() -> None:
    names = ["PATH", "HIPNODE_PORT", "HIPNODE_ENV_FILE", "hipnode_data", "HIPNODE_PROT"]
    assert unknown_names(names) == ["HIPNODE_PROT"]
    assert unknown_names([]) == []


@pytest.mark.parametrize(
    ("changes", "state", "cure"),
    [
        ({"host": EVERYWHERE, "allowed_peers": "PACS@10.1.2.3/32"}, "ok", ""),
        ({}, "note", "HIPNODE_HOST=0.0.0.0"),
        ({"allowed_peers": ""}, "fail", "PACS@10.1.2.3/32"),
        ({"allowed_peers": "PACS"}, "fail", "HIPNODE_ALLOWED_PEERS"),
        ({"host": EVERYWHERE, "allowed_peers": "*@0.0.0.0/0"}, "warn", "PACS@10.1.2.3/32"),
        ({"host": "127.0.0.1", "allowed_peers": "PACS@10.1.2.3/32"}, "fail", "HIPNODE_HOST=0.0.0.0"),
        ({"host": EVERYWHERE}, "warn", "PACS@10.1.2.3/32"),
    ],
)
def test_the_allow_list_is_compared_with_the_address(
    tmp_path: Path, changes: dict[str, str], state: str, cure: str
) -> None:
    with site(tmp_path, prepared=False, **changes) as one:
        (found,) = check_allow_list(one)
    assert found.state == state
    assert cure in found.cure


def test_a_pacs_elsewhere_needs_an_address_it_can_reach(tmp_path: Path) -> None:
    with site(tmp_path, Destination("PACS", "PACS", "10.1.2.3", 104), prepared=False) as one:
        (found,) = check_allow_list(one)
    assert found.state == "warn"
    assert "PACS is on another one" in found.says
    assert "HIPNODE_HOST=0.0.0.0" in found.cure


def test_site_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        assert the(check_destinations_file(one), "destinations-file").state == "warn"
        one.settings.destinations.write_text('[[destination]]\nname = "PACS"\nprot = 104\n')
        broken = the(check_destinations_file(one), "destinations-file")
        assert broken.state == "fail"
        assert "is 'port' meant?" in broken.says
        assert the(check_selection(one), "selection-file").state == "ok"
    rules = tmp_path / "selection.toml"
    rules.write_text("[site]\nimplant = 'perhaps'\n")
    with site(tmp_path, prepared=False, selection_file=rules, destinations_file=tmp_path / "no.toml") as one:
        assert "site.implant is 'perhaps'" in the(check_selection(one), "selection-file").says
        assert "does not start" in the(check_destinations_file(one), "destinations-file").says


def test_a_destination_that_is_this_node_is_a_loop(tmp_path: Path) -> None:
    port = free_port()
    us = Destination("BACK", "HIPNODE", "localhost", port)
    with site(tmp_path, us, prepared=False, port=port) as one:
        assert the(check_destinations_file(one), "destination-loop").state == "fail"
    with site(tmp_path, Destination("PACS", "PACS", "localhost", port), prepared=False, port=port) as one:
        assert [r.check for r in check_destinations_file(one)] == ["destinations-file"]


# --- Ports -----------------------------------------------------------------------------------------


def test_a_port_another_program_holds_is_named_with_that_program(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with site(tmp_path, prepared=False, port=port, http_port=port) as one:
            for check in ("port-scp", "port-health"):
                found = the(check_ports(one), check)
                assert found.state == "fail"
                assert f"pid {os.getpid()}" in found.says
            assert the(check_node(one), "node").state == "warn"
    with site(tmp_path, prepared=False, host="192.0.2.1") as one:
        assert "no address of this machine" in the(check_ports(one), "port-scp").says
    with site(tmp_path, prepared=False, port=0) as one:
        assert the(check_ports(one), "port-scp").state == "note"


# --- Destinations ----------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_each_way_not_to_reach_a_destination_has_its_own_cure(tmp_path: Path, silent: int) -> None:
    with pacs(require_calling=["OTHER"], require_called=True) as archive, pacs() as well:
        destinations = [
            Destination("down", "PACS", "127.0.0.1", free_port()),
            Destination("lost", "PACS", "no-such-host.invalid", 104),
            Destination("dumb", "PACS", "127.0.0.1", silent),
            Destination("misnamed", "PASC", "127.0.0.1", archive.port),
            Destination("stranger", "PACS", "127.0.0.1", archive.port),
            well.destination("well"),
        ]
        with site(tmp_path, *destinations, prepared=False) as one:
            records = check_destinations(one)
    said = [(r.says.split(" ")[0], r.state.value) for r in records]
    assert said == [(d.name, "fail") for d in destinations[:5]] + [("well", "ok")]
    down, lost, dumb, misnamed, stranger, _ = records
    assert "nothing listens on port" in down.says
    assert "has no address" in lost.says
    assert "no DICOM answer" in dumb.says
    assert "Correct `ae_title`" in misnamed.cure or "add HIPNODE" in misnamed.cure
    assert "does not know our AE title HIPNODE" in stranger.says
    assert "Let the PACS add HIPNODE" in stranger.cure
    assert all(str(tmp_path) in r.cure for r in (down, lost, dumb))


def test_a_destination_that_hangs_does_not_hang_the_doctor(tmp_path: Path, silent: int) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    destination = f'[[destination]]\nname = "PACS"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {silent}\n'
    (tmp_path / "data" / "destinations.toml").write_text(destination)
    code, records = records_of(tmp_path)
    assert code == 1
    assert "no DICOM answer" in the(records, "destination-echo").says
    late = [r for r in records if "was not known after" in r.says]
    assert late == []


@pytest.mark.peers("orthanc")
def test_orthanc_is_asked_by_a_wrong_name_and_stores_the_test_object(tmp_path: Path) -> None:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    server = Orthanc(folder, DicomCheckCalledAet=True)
    server.start()
    try:
        right = Destination("PACS", server.ae_title, "127.0.0.1", server.dicom_port)
        wrong = Destination("WRONG", "ORTHANK", "127.0.0.1", server.dicom_port)
        with site(tmp_path, right, wrong) as one:
            answers, misnamed = [r for r in check_destinations(one) if r.check == "destination-echo"]
            assert (answers.state, misnamed.state) == ("ok", "fail")
            assert "not called ORTHANK" in misnamed.says
            records = write_back(one, right)
        assert [r.state for r in records] == ["ok", "note"]
        (kept,) = server.instances(PatientID="HIPNODE-TEST")
        tags = server.get(f"/instances/{kept}/simplified-tags")
        assert (tags["PatientName"], tags["Manufacturer"]) == ("HIPNODE^TEST", "hipnode")
        assert tags["SOPInstanceUID"] in records[0].says
        assert tags["StudyInstanceUID"] in records[0].says
    finally:
        server.stop()


def test_a_test_object_that_is_not_taken_says_which_status(tmp_path: Path) -> None:
    with (
        pacs(answers={SecondaryCaptureImageStorage: [0xA700]}) as archive,
        site(tmp_path, archive.destination(), prepared=False) as one,
    ):
        (full,) = write_back(one, archive.destination())
        assert (full.state, "0xA700" in full.says) == ("fail", True)
    with (
        pacs(takes=("1.2.840.10008.5.1.4.1.1.88.33",)) as archive,
        site(tmp_path, archive.destination(), prepared=False) as one,
    ):
        (unsupported,) = write_back(one, archive.destination())
        assert 'kinds = ["SR"]' in unsupported.cure


def test_a_destination_nobody_named_and_a_full_folder_are_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    code, out, err = command(tmp_path, "--write-back", "PASC")
    assert (code, out) == (2, "")
    assert "No destination is called PASC" in err
    code, out, err = command(tmp_path, "--support-bundle", str(tmp_path))
    assert (code, out) == (2, "")
    assert "is no empty folder" in err


def test_whether_a_destination_ever_called_us(tmp_path: Path) -> None:
    with pacs() as archive, site(tmp_path, archive.destination()) as one:
        assert the(check_destinations(one), "destination-route").state == "note"
    with pacs() as archive, site(tmp_path, archive.destination()) as one:
        seen(one, PeerSeen("PACS", "127.0.0.1", "HIPNODE", associations=3, instances=12))
        found = the(check_destinations(one), "destination-route")
        assert found.state == "ok"
        assert "sent 12 objects" in found.says


# --- Who was refused -------------------------------------------------------------------------------


def seen(one: Site, *peers: PeerSeen) -> None:
    assert one.sessions is not None
    with ledger.transaction(one.sessions) as session:
        ledger.record_peers(session, peers, one.clock())


def test_refused_peers_are_named_until_they_get_in(tmp_path: Path) -> None:
    knock = PeerSeen("CR_ROOM", "10.1.2.7", "HIPNODE", refusals=3, last_refusal="NOT_ALLOWED")
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32") as one:
        assert [r.state for r in check_refusals(one)] == ["ok"]
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32") as one:
        seen(one, knock, PeerSeen("a,b", "10.1.2.8", "HIPNODE", refusals=1, last_refusal="NOT_ALLOWED"))
        first, second = sorted(check_refusals(one), key=lambda r: r.says, reverse=True)
        assert first.state == "fail"  # nothing comes from anybody else
        assert "add *@10.1.2.8/32" in first.cure
        assert "HIPNODE_ALLOWED_PEERS='PACS@10.1.2.3/32,CR_ROOM@10.1.2.7/32'" in second.cure
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32,CR_ROOM@10.1.2.0/24") as one:
        seen(one, PeerSeen("PACS", "10.1.2.3", "HIPNODE", associations=1, instances=1))
        assert [r.state for r in check_refusals(one)] == [
            "note",
            "warn",
        ]  # allowed now; a stranger beside a PACS
        seen(one, PeerSeen("PACS", "10.1.2.3", "HIPNODE", stores_refused=2, last_refusal="A700"))
    later = datetime.now(UTC) + timedelta(minutes=5)
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32", clock=lambda: later) as one:
        full = next(r for r in check_refusals(one) if r.says.startswith("PACS"))
        assert "out of resources" in full.says
        seen(one, PeerSeen("CR_ROOM", "10.1.2.7", "HIPNODE", associations=1))
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32", clock=lambda: later) as one:
        assert not [r for r in check_refusals(one) if "CR_ROOM" in r.says]


# --- Database --------------------------------------------------------------------------------------


def test_a_schema_that_is_behind_ahead_or_missing_is_told_apart(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        assert "hipnode db upgrade" in the(check_database(one), "migration").cure
    with site(tmp_path) as one:
        assert [r.state for r in check_database(one)] == ["ok", "ok"]
        url = one.settings.database
    migrations.downgrade(url, "0001")
    with site(tmp_path, prepared=False) as one:
        behind = the(check_database(one), "migration")
        assert (behind.state, "behind" in behind.says) == ("fail", True)
        assert check_workers(one) == check_queue(one) == check_refusals(one) == []
    make = ledger.sessions(url)
    with ledger.transaction(make) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    make.kw["bind"].dispose()
    with site(tmp_path, prepared=False) as one:
        ahead = the(check_database(one), "migration")
        assert (ahead.state, "ahead" in ahead.says) == ("fail", True)
        assert "Install the hipnode version" in ahead.cure


def test_a_stale_schema_is_named_on_the_command_line(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        migrations.downgrade(one.settings.database, "0001")
    code, out, _ = command(tmp_path)
    lines = out.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("fail  migration"))
    assert code == 1
    assert "-> Back up the database, then run `hipnode db upgrade`." in lines[place + 1]
    assert lines[-1].startswith("1 failed, ")


def test_what_keeps_a_postgres_away_is_told_apart(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.database()
    place = url.partition("@")[2]
    faults = {
        f"postgresql+psycopg://nobody_here:pw@{place}": "does not know this user",
        url.rpartition("/")[0] + "/no_such_database": "has no database of this name",
        f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/hip": "does not run",
        "postgresql+psycopg://me:secret@no-such-host.invalid/hip": "has no address",
    }
    for wrong, meaning in faults.items():
        with site(tmp_path, prepared=False, database_url=wrong) as one:
            found = the(check_database(one), "database")
            assert (found.state, meaning in found.says) == ("fail", True), found
            assert "secret" not in found.says + found.cure
            assert check_workers(one) == []
    with site(tmp_path, database_url=url) as one:
        assert failed(check_database(one)) == []
        assert the(check_database_clock(one), "clock-database").state == "ok"


def test_urls_that_are_none_are_named_and_not_shown(tmp_path: Path) -> None:
    database = "postgresql+psycopg://me:se/cr@et@host:port/hip"
    with site(
        tmp_path, prepared=False, database_url=database, broker_url="redis://:secret@host:port/0"
    ) as one:
        records = [the(check_database(one), "database"), the(check_broker(one), "broker")]
        shown = settings_without_secrets(one)
    assert [r.state for r in records] == ["fail", "fail"]
    assert shown["HIPNODE_DATABASE_URL"] == "postgresql+psycopg://me:***@host:port/hip"
    assert "se/cr" not in str([records, shown])
    assert "secret" not in str([records, shown])


def test_a_database_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        (one.settings.data / "hipnode.db").write_bytes(b"no database at all, " * 100)
        found = the(check_database(one), "database")
    assert found.state == "fail"
    assert "no SQLite file" in found.says


# --- Broker and workers ----------------------------------------------------------------------------


def test_a_dead_broker_a_wrong_password_and_a_missing_one_are_told_apart(
    tmp_path: Path, redis: Redis
) -> None:
    with site(tmp_path, prepared=False, broker_url=redis.url) as one:
        assert [r.state for r in check_broker(one)] == ["ok", "ok"]
    redis.kill()
    with site(tmp_path, prepared=False, broker_url=redis.url) as one:
        dead = the(check_broker(one), "broker")
        assert (dead.state, "nothing listens there" in dead.says) == ("fail", True)
        assert "Start it" in dead.cure
    redis.start("--requirepass", "right")
    for user, says in (("", "asks for a password"), (":wrong@", "does not accept")):
        with site(tmp_path, prepared=False, broker_url=f"redis://{user}127.0.0.1:{redis.port}/0") as one:
            refused = the(check_broker(one), "broker")
            assert (refused.state, says in refused.says) == ("fail", True), refused
            assert "wrong" not in refused.says + refused.cure
    with site(tmp_path, prepared=False, broker_url=f"redis://:right@127.0.0.1:{redis.port}/0") as one:
        assert failed(check_broker(one)) == []


def beat(one: Site, kind: Any, ago_s: float, **packages: str) -> None:
    assert one.sessions is not None
    with ledger.transaction(one.sessions) as session:
        name = f"{kind}@elsewhere:7"
        at = one.clock() - timedelta(seconds=ago_s)
        ledger.heartbeat(session, ledger.WorkerBeat(name, kind, packages), at)


def test_a_worker_that_died_and_a_package_nobody_holds_are_named(tmp_path: Path) -> None:
    chosen = site_selection(tmp_path, "hip-ours")
    with site(tmp_path, selection_file=chosen) as one:
        assert [r.state for r in check_workers(one)] == [
            "warn",
            "warn",
        ]  # not started yet, and no node either
    with site(tmp_path, selection_file=chosen) as one:
        beat(one, "deliver", ago_s=1)
        beat(one, "analyse", ago_s=300)
        dead = next(r for r in check_workers(one) if "analyse" in r.says)
        assert (dead.state, "analyse@elsewhere:7 was last heard 5 min ago" in dead.says) == ("fail", True)
        assert "hipnode worker analyse" in dead.cure
    with site(tmp_path, selection_file=chosen) as one:
        beat(one, "analyse", ago_s=1, **{"hip-old": "0" * 64})
        missing = the(check_workers(one), "worker-packages")
        assert missing.state == "fail"
        assert "names hip-ours" in missing.says
        assert "they have: hip-old" in missing.says


# --- Packages --------------------------------------------------------------------------------------


def test_missing_weights_a_wrong_hash_and_a_package_that_is_not_there(tmp_path: Path) -> None:
    chosen = site_selection(tmp_path, "hip-ours")
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        assert any("hip-ours, and it is not on this disk" in said for said in failed(check_packages(one)))
    package = make_package(tmp_path / "data" / "packages", "hip-ours")
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        assert failed(check_packages(one)) == []
        shipped = next(r for r in check_packages(one) if r.check == "model-weights")
        assert "no clinical validity" in shipped.says
    package.weights_file.write_bytes(b"other weights")
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        wrong = [r for r in check_packages(one) if r.state == "fail"]
        assert any("SHA-256 differs" in r.says and "hipnode models verify" in r.cure for r in wrong)
    package.weights_file.unlink()
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        assert any("model.safetensors is missing" in said for said in failed(check_packages(one)))


def test_weights_a_worker_has_loaded_are_compared_with_the_disk(tmp_path: Path) -> None:
    package = make_package(tmp_path / "data" / "packages", "hip-ours")
    with site(tmp_path, selection_file=site_selection(tmp_path, "hip-ours")) as one:
        beat(one, "analyse", ago_s=1, **{"hip-ours": "0" * 64})
        assert "other weights of hip-ours" in the(check_packages(one), "worker-packages").says
        assert package.sha256 != "0" * 64


def test_torch_is_asked_in_a_child(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        records = check_torch(one)
    assert [(r.check, r.state) for r in records][:1] == [("torch", "ok")]
    assert {r.check for r in records} == {"torch", "gpu"}


def test_a_gpu_this_torch_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "bin" / "nvidia-smi"  # as the driver's own program prints it
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.86.15, 143771 MiB'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    with site(tmp_path, prepared=False) as one:
        gpu = next(r for r in check_torch(one) if r.check == "gpu")
    if "torch can use" in gpu.says:
        pytest.skip("this machine has a GPU that torch can use")
    assert gpu.state == "warn"
    assert "NVIDIA H200, driver 570.86.15, 143771 MiB" in gpu.says
    assert "CUDA" in gpu.cure


# --- Disk, folders, clock --------------------------------------------------------------------------


def test_a_full_disk_is_named_with_its_mark(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False, low_water_bytes=2**60) as one:
        full = the(check_disk(one), "disk-space")
    assert (full.state, "C-STORE is refused with A700" in full.says) == ("fail", True)
    assert "HIPNODE_LOW_WATER_BYTES" in full.cure


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB with nothing free."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        (place / "data").mkdir(mode=0o700)
        with pytest.raises(OSError, match="No space left"):
            (place / "film").write_bytes(bytes(8 * 2**20))
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_without_a_byte_left_is_named_and_not_taken_for_a_lack_of_rights(small_disk: Path) -> None:
    with site(small_disk, prepared=False) as one:
        assert the(check_disk(one), "disk-space").state == "fail"
        folder = the(check_folders(one), "data-folder")
    assert (folder.state, "no space left on device" in folder.says) == ("fail", True)
    assert "Free space" in folder.cure
    assert "chown" not in folder.cure


def test_the_days_left_follow_from_the_last_week(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with site(tmp_path) as one:
        assert "days are left" not in the(check_disk(one), "disk-space").says  # no history yet
        arrive(one, one.clock() - timedelta(days=4), size_bytes=free)
        soon = the(check_disk(one), "disk-space")
    assert soon.state == "warn"
    assert "about 4 days are left" in soon.says


def arrive(one: Site, at: datetime, size_bytes: int = 1000, **changes: str) -> None:
    assert one.sessions is not None
    values: dict[str, Any] = {
        "study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.4", "sop_instance_uid": "1.2.3.4.5",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1", "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_id": "P1", "accession_number": "A1", "calling_ae_title": "PACS", "peer_address": "10.0.0.1",
        "sha256": "0" * 64, "size_bytes": size_bytes, "relative_path": "instances/00/0.dcm", **changes,
    }  # fmt: skip
    with ledger.transaction(one.sessions) as session:
        ledger.record_instance(session, ledger.ReceivedInstance(**values), at)


def test_a_folder_open_to_others_or_with_files_of_others_is_named(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        assert [r.state for r in check_folders(one)] == ["ok"]
        one.settings.data.chmod(0o755)
        assert the(check_folders(one), "data-folder").cure == f"chmod 700 {one.settings.data}"
        one.settings.data.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(one.settings.data / "hipnode.db", NOBODY, NOBODY)
            assert "that do not belong to root: 1," in the(check_folders(one), "data-folder-owner").says
    with site(tmp_path / "..", prepared=False, data=tmp_path / "not" / "yet") as one:
        assert the(check_folders(one), "data-folder").state == "note"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_user_who_may_not_write_the_data_folder_is_told_whose_it_is(tmp_path: Path) -> None:
    need("setpriv")
    with site(tmp_path):
        pass
    for path in (tmp_path / "data", *(tmp_path / "data").iterdir()):
        os.chown(path, NOBODY, NOBODY)
    # Root without its right to pass permissions by: the interpreter may lie where nobody else can read it.
    drop = "-dac_override,-dac_read_search"
    code, records = records_of(tmp_path, prefix=("setpriv", f"--inh-caps={drop}", f"--bounding-set={drop}"))
    assert code == 1
    folder = the(records, "data-folder")
    assert folder.state == "fail"
    assert "cannot be written by this user (root): permission denied" in folder.says
    assert "Run hipnode as nobody" in folder.cure
    assert "sudo -u nobody hipnode doctor" in the(records, "data-folder-user").cure
    assert the(records, "database").state == "fail"
    assert not [r for r in records if "itself failed" in r.says]


def test_what_is_in_quarantine_is_counted(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        assert check_leftovers(one) == []
        Spool(one.settings.spool).quarantine(b"no identity", "Study Instance UID is missing")
        assert "could not be read: 1, the newest" in the(check_leftovers(one), "quarantine").says


def test_a_ledger_from_the_future_tells_of_a_clock_that_is_off(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        assert the(check_ledger_clock(one), "clock-ledger").state == "ok"
        arrive(one, one.clock() + timedelta(hours=5))
    code, records = records_of(tmp_path)
    off = the(records, "clock-ledger")
    assert (code, off.state) == (1, "fail")
    assert "5 hours in the future" in off.says
    assert "NTP" in off.cure


def test_clocks_of_two_machines_are_compared() -> None:
    assert [compare_clocks("clock", "Redis", s).state for s in (0.5, -3, 40)] == ["ok", "warn", "fail"]
    assert "3.0 s behind" in compare_clocks("clock", "Redis", -3).says


# --- Work ------------------------------------------------------------------------------------------


def test_what_waits_too_long_and_what_does_not_arrive_is_named(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        assert the(check_arrivals(one), "arrivals").state == "warn"
        assert {r.state for r in check_queue(one)} == {"ok"}
        assert the(check_failures(one), "failures").state == "ok"
        arrive(one, one.clock() - timedelta(hours=2))
        assert the(check_arrivals(one), "arrivals").state == "ok"
        stuck = next(r for r in check_queue(one) if r.state == "fail")
        assert "still open for more images after 2 hours" in stuck.says
        queue_all(one, ago_s=2000)
        waits = the(check_queue(one), "queue-age")
        assert (waits.state, "analyse worker: 1, the oldest" in waits.says) == ("fail", True)
    with site(tmp_path, analysis_deadline_s=1e6) as one:
        assert the(check_queue(one), "queue-age").state == "warn"


def queue_all(one: Site, ago_s: float) -> None:
    assert one.sessions is not None
    with ledger.transaction(one.sessions) as session:
        at = one.clock() - timedelta(seconds=ago_s)
        session.execute(
            text("UPDATE analyses SET status = 'queued', due_at = :at, queued_at = :at"), {"at": at}
        )


# --- The whole -------------------------------------------------------------------------------------


@contextmanager
def hanging() -> Iterator[threading.Event]:
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def test_a_check_that_hangs_or_breaks_does_not_take_the_others_with_it() -> None:
    def breaks() -> list[Record]:
        raise ValueError("PatientName Doe")

    def unreadable() -> list[Record]:
        return [ok("never", Path("/no/such/file").read_text())]

    with hanging() as event:
        checks = [
            ("hangs", lambda: [ok("hangs", str(event.wait(60)))]),
            ("breaks", breaks),
            ("unreadable", unreadable),
            ("well", lambda: [ok("well", "All is well.")]),
        ]
        records = run_checks(checks, within_s=1)
    assert [(r.check, r.state) for r in records] == [
        ("hangs", "warn"), ("breaks", "fail"), ("unreadable", "fail"), ("well", "ok"),
    ]  # fmt: skip
    assert "Doe" not in str(records)
    assert "ValueError at test_doctor.py:" in records[1].says
    assert "/no/such/file: No such file or directory" in records[2].says
    assert run_checks([], within_s=1) == []


def test_every_finding_that_is_not_well_has_a_cure(tmp_path: Path) -> None:
    broken = Destination("PACS", "PACS", "127.0.0.1", free_port())
    with site(tmp_path, broken, prepared=False, low_water_bytes=2**60, allowed_peers="") as one:
        records = examine(one)
    assert len(failed(records)) >= 4
    assert [r for r in records if r.state in ("warn", "fail") and not r.cure] == []
    assert [r for r in records if r.state == "ok" and r.cure] == []
    assert all(r.says.endswith((".", ")")) and "\n" not in r.says for r in records)


def test_settings_are_all_well_without_wrong_ones(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        assert [r.state for r in check_settings(one)] == ["ok"]
