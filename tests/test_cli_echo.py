"""`hipnode echo` and `hipnode send`: destinations called by name, and what each said."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation
from structlog.testing import capture_logs

from hipnode import ledger, scu
from hipnode.cli import echo as command
from hipnode.cli.sending import MOST_CONTEXTS, _groups
from tests.encoded import EXPLICIT
from tests.factories import make_radiograph, save
from tests.node import ROOT
from tests.pacs import pacs
from tests.peers import free_port
from tests.scp_node import running_scp
from tests.test_cli import ended, ledger_site, run, site

__all__ = ["ledger_site", "site"]

DX = str(DigitalXRayImageStorageForPresentation)
QUICK = scu.Timeouts(connect_s=2, acse_s=1, dimse_s=1, network_s=1)


@pytest.fixture
def destinations(site: Path) -> Callable[..., None]:
    """Write destinations.toml: name -> port, or a table of further fields."""

    def write(**places: object) -> None:
        lines = []
        for name, place in places.items():
            fields = {"ae_title": "PACS", "host": "127.0.0.1"}
            fields |= place if isinstance(place, dict) else {"port": place}
            lines += ["[[destination]]", f'name = "{name}"']
            lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items() if value != ""]
        (site / "data").mkdir(exist_ok=True)
        (site / "data" / "destinations.toml").write_text("\n".join(lines))

    return write


def film(path: Path, **keywords) -> Path:
    save(make_radiograph(**keywords), path)
    return path


# --- echo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("echo",), ("echo", "PACS"), ("send", "PACS", ".")])
def test_without_destinations_it_says_where_to_write_one(site, monkeypatch, capsys, arguments):
    film(site / "film.dcm")
    code, error = ended(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "There are no destinations." in error
    assert "destinations.toml" in error


@pytest.mark.parametrize("arguments", [("echo", "PACKS"), ("send", "PACKS", ".")])
def test_an_unknown_destination_is_wrong_use(site, destinations, monkeypatch, capsys, arguments):
    destinations(PACS=104, TEACHING=105)
    film(site / "film.dcm")
    code, error = ended(monkeypatch, capsys, *arguments)
    assert code == 2
    said = " ".join(error.replace("│", " ").split())
    assert "No destination is called PACKS; there are: PACS, TEACHING" in said


def test_a_destination_that_answers_is_told_with_its_time(destinations):
    with pacs() as archive:
        destinations(PACS=archive.port)
        result = run("echo", "PACS")
        assert result.exit_code == 0
        assert f"PACS (PACS at 127.0.0.1:{archive.port}) answers in 0." in result.output
        (told,) = json.loads(run("echo", "--json").output)
    assert (told["name"], told["ok"], told["trouble"], told["cure"]) == ("PACS", True, None, None)
    assert 0 < told["seconds"] < 30
    assert archive.requests[0] == "HIPNODE>PACS"


def test_without_a_name_all_are_called_and_one_that_fails_is_exit_1(destinations, monkeypatch):
    closed = free_port()
    with pacs() as archive:
        destinations(PACS=archive.port, DOWN=closed)
        result = run("echo")
        assert result.exit_code == 1
        first, second = result.output.splitlines()
        assert first.startswith("PACS (")
        assert second.startswith(
            f"DOWN (PACS at 127.0.0.1:{closed}): 127.0.0.1 is there, but nothing listens"
        )
        assert "destinations.toml" in second
        assert run("echo", "PACS").exit_code == 0


@pytest.mark.parametrize(
    ("options", "trouble", "cure"),
    [
        ({"require_calling": ["OTHER"]}, "calling_ae_title", "add HIPNODE"),
        ({"require_called": True}, "called_ae_title", "Correct `ae_title` in"),
    ],
)
def test_a_peer_that_turns_us_away_says_why(destinations, options, trouble, cure):
    with pacs(**options) as archive:
        destinations(PACS={"ae_title": "PAKS", "port": archive.port})
        result = run("echo", "--json")
    (told,) = json.loads(result.output)
    assert result.exit_code == 1
    assert (told["ok"], told["trouble"]) == (False, trouble)
    assert cure in told["cure"]


def test_a_name_without_address_and_a_peer_without_dicom_are_told_apart(destinations, monkeypatch):
    monkeypatch.setattr(command, "_PATIENCE", QUICK)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        destinations(
            LOST={"host": "pacs.invalid", "port": 104}, SILENT=silent.getsockname()[1],
        )  # fmt: skip
        told = {one["name"]: one for one in json.loads(run("echo", "--json").output)}
    assert (told["LOST"]["trouble"], told["SILENT"]["trouble"]) == ("host_unknown", "no_answer")
    assert "/etc/hosts" in told["LOST"]["cure"]
    assert "TLS" in told["SILENT"]["cure"]


def test_back_to_the_sender_calls_those_that_sent(ledger_site, destinations):
    with pacs() as archive:
        destinations(BACK={"ae_title": "", "host": "", "sender": True, "port": archive.port})
        result = run("echo")
        assert result.exit_code == 0
        assert "BACK: the sender of each study, and nobody has sent one yet." in result.output
        sessions = ledger.sessions(f"sqlite:///{ledger_site / 'data' / 'hipnode.db'}")
        with ledger.transaction(sessions) as session:
            seen = [ledger.PeerSeen("PACS", "127.0.0.1", "HIPNODE", 1, instances=3)]
            seen.append(ledger.PeerSeen("PROBE", "127.0.0.9", "HIPNODE", 1))  # sent nothing
            ledger.record_peers(session, seen, datetime.now(UTC))
        (told,) = json.loads(run("echo", "--json").output)
    assert (told["ok"], told["ae_title"], told["host"]) == (True, "PACS", "127.0.0.1")


# --- send ----------------------------------------------------------------------------------------


def send(*arguments: object) -> tuple[int, list[dict]]:
    with capture_logs():  # of this process; hipnode's own go to stderr, see the last test
        result = run("send", *map(str, arguments), "--json")
    return result.exit_code, json.loads(result.output)


def test_files_go_as_they_are_stored(site, destinations):
    paths = [film(site / "in" / f"{n}.dcm", seed=n) for n in range(3)]
    with pacs(takes=(DX,)) as archive:
        destinations(PACS=archive.port)
        code, told = send("PACS", site / "in")
        text = run("send", "PACS", str(paths[0])).output
    assert code == 0
    assert [(one["file"], one["verdict"], one["status"]) for one in told] == [
        (str(path), "stored", "0x0000") for path in paths
    ]
    assert "1 of 1 files are stored in PACS." in text
    for path, got in zip(paths, archive.received, strict=False):
        assert path.read_bytes().endswith(got.data_set)
        assert got.transfer_syntax_uid == dcmread(path).file_meta.TransferSyntaxUID


def test_a_peer_that_does_not_take_the_transfer_syntax_gets_no_other(site, destinations):
    explicit = film(site / "plain.dcm")
    jpegls = film(site / "small.dcm", seed=2, transfer_syntax=JPEGLSLossless)
    with pacs(takes=(DX,), syntaxes=(ImplicitVRLittleEndian,)) as archive:
        destinations(PACS=archive.port)
        code, told = send("PACS", explicit, jpegls)
    assert code == 1
    assert archive.received == []
    assert [one["verdict"] for one in told] == ["not taken", "not taken"]
    assert "Explicit VR Little Endian, and nothing is re-encoded" in told[0]["says"]
    assert "JPEG-LS Lossless" in told[1]["says"]


@pytest.mark.parametrize(
    ("status", "verdict", "code", "words"),
    [
        (0xB000, "stored", 0, "coerced data elements"),
        (0xA700, "not stored", 1, "out of room"),
        (0xA901, "refused", 1, "dciodvfy"),
        (0xC123, "refused", 1, "log says which"),
        (0x0124, "refused", 1, "does not let our AE title store"),
        (0x0110, "not stored", 1, "conformance statement"),
    ],
)
def test_each_answer_is_told_with_what_to_do(site, destinations, status, verdict, code, words):
    first, second = film(site / "1.dcm", seed=1), film(site / "2.dcm", seed=2)
    with pacs(takes=(DX,), answers={DX: [0x0000, status]}) as archive:
        destinations(PACS=archive.port)
        exit_code, told = send("PACS", first, second)
    assert exit_code == code
    assert (told[0]["verdict"], told[0]["says"]) == ("stored", "")
    assert (told[1]["verdict"], told[1]["status"]) == (verdict, f"0x{status:04X}")
    assert words in told[1]["says"]


def test_what_is_no_dicom_file_is_named_and_the_others_go(site, destinations):
    (site / "in").mkdir()
    (site / "in" / "notes.txt").write_text("no DICOM")
    (site / "in" / "empty.dcm").touch()
    (site / "in" / "half.dcm").write_bytes(bytes(128) + b"DICM")
    film(site / "in" / "film.dcm")
    with pacs(takes=(DX,)) as archive:
        destinations(PACS=archive.port)
        code, told = send("PACS", site / "in")
        result = run("send", "PACS", str(site / "in"))
    assert code == result.exit_code == 1
    assert {Path(one["file"]).name: one["verdict"] for one in told} == {
        "notes.txt": "not readable", "empty.dcm": "not readable", "half.dcm": "not readable", "film.dcm": "stored",
    }  # fmt: skip
    assert "notes.txt: not readable, It is no DICOM file" in result.output
    assert "1 of 4 files are stored in PACS." in result.output


def test_a_destination_that_is_down_is_told_once_with_the_cure(site, destinations, monkeypatch, capsys):
    paths = [film(site / f"{n}.dcm", seed=n) for n in range(2)]
    destinations(PACS=free_port())
    code, error = ended(monkeypatch, capsys, "send", "PACS", *map(str, paths))
    assert code == 1
    assert error.count("Nothing was sent. PACS (PACS at 127.0.0.1:") == 1
    assert "Start the DICOM service" in error
    code, told = send("PACS", *paths)
    assert code == 1
    assert [one["verdict"] for one in told] == ["not stored", "not stored"]


def test_there_is_no_one_sender_to_send_to(site, destinations, monkeypatch, capsys):
    destinations(BACK={"ae_title": "", "host": "", "sender": True, "port": 104})
    code, error = ended(monkeypatch, capsys, "send", "BACK", str(film(site / "film.dcm")))
    assert code == 2
    assert "is the sender of each study" in " ".join(error.replace("│", " ").split())


def test_files_that_are_not_there_are_wrong_use(site, destinations):
    destinations(PACS=104)
    assert run("send", "PACS", str(site / "nowhere.dcm")).exit_code == 2
    assert run("send", "PACS").exit_code == 2


def test_more_kinds_of_files_than_an_association_has_contexts_go_over_several() -> None:
    assert _groups({}) == []
    one = _groups(dict.fromkeys(range(500), (DX, EXPLICIT)))
    assert [len(group) for group in one] == [500]
    many = _groups({n: (f"1.2.{n % 250}", EXPLICIT) for n in range(1000)})
    assert sum(len(group) for group in many) == 1000
    assert all(len({n % 250 for n in group}) <= MOST_CONTEXTS for group in many)


def test_a_node_takes_what_send_sends_and_the_answer_is_all_that_is_printed(site, destinations):
    paths = [film(site / f"{n}.dcm", seed=n) for n in range(2)]
    with running_scp(site / "node", peers="SENDER@127.0.0.1") as node:
        destinations(NODE={"ae_title": "HIPNODE", "port": node.port})
        done = subprocess.run(
            [sys.executable, "-m", "hipnode", "send", "NODE", *map(str, paths), "--json"],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "HIPNODE_DATA": str(site / "data"), "HIPNODE_AE_TITLE": "SENDER"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [one["status"] for one in json.loads(done.stdout)] == ["0x0000", "0x0000"]
        assert done.stderr == ""
        assert len(node.rows()) == len(node.files()) == 2
        assert {row.calling_ae_title for row in node.rows()} == {"SENDER"}
