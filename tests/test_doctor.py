"""hipnode doctor on broken settings and taken ports, and as a whole: each fault is named, with its cure."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hipnode import migrations
from hipnode.destinations import Destination
from hipnode.doctor import examine, unknown_names
from hipnode.doctor.network import check_node, check_ports
from hipnode.doctor.records import Record, ok
from hipnode.doctor.running import run_checks
from hipnode.doctor.sitefiles import (
    check_allow_list,
    check_destinations_file,
    check_selection,
    check_settings,
)
from tests.doctor_site import EVERYWHERE, failed, records_of, site, the
from tests.node import ROOT
from tests.peers import free_port, need

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may listen below 1024")
def test_a_low_port_the_service_holds_is_seen_by_a_user_who_may_not_have_it() -> None:
    ask = "from hipnode.doctor.nodes import look_at_port as at; import sys; print(at('127.0.0.1', int(sys.argv[1])))"
    drop = "-net_bind_service"
    less = [need("setpriv"), f"--inh-caps={drop}", f"--bounding-set={drop}", sys.executable, "-c", ask]
    with socket.socket() as taken:
        port = next(port for port in range(1023, 512, -1) if _bound(taken, port))
        taken.listen()
        held = subprocess.run([*less, str(port)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"error={errno.EADDRINUSE}" in held
    assert f"pid={os.getpid()}" in held


def _bound(listener: socket.socket, port: int) -> bool:
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


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
