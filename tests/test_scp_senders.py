"""The way in beside real senders and through a life: DCMTK, Orthanc, TLS, start and stop."""

import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from hipnode.scp import Limits
from tests.encoded import encode
from tests.factories import make_radiograph
from tests.peers import need, wait_for
from tests.scp_node import (
    DX,
    EXPLICIT,
    IMPLICIT,
    RawPeer,
    associated,
    pdata,
    report,
    running_scp,
    status_of,
    store_rq,
)

# --- start and stop ------------------------------------------------------------------------------


def test_stop_waits_for_a_transfer_and_takes_no_new_connection(tmp_path: Path) -> None:
    film = make_radiograph(Rows=200, Columns=200)
    sent = encode(film)
    with running_scp(tmp_path) as node, RawPeer(node.port).associate() as peer, RawPeer(node.port) as idle:
        peer.send(pdata(3, store_rq(film.SOPInstanceUID.encode())))
        peer.send(pdata(0, sent[:5000]))
        wait_for(node.scp.receiving, "the transfer began", 5)
        stopping = threading.Thread(target=node.scp.stop, args=(5,))
        stopping.start()
        wait_for(lambda: not node.scp.listening, "the node takes no connection", 5)
        assert idle.is_cut(2)
        with pytest.raises(ConnectionRefusedError):
            RawPeer(node.port)
        peer.send(pdata(2, sent[5000:]))
        assert status_of(peer.answer()) == 0x0000
        stopping.join(5)
        assert not stopping.is_alive()
        assert len(node.rows()) == 1


def test_stop_cuts_a_transfer_that_does_not_end(tmp_path: Path) -> None:
    with running_scp(tmp_path, limits=Limits(pdu_deadline_s=20)) as node:
        with RawPeer(node.port).associate() as peer:
            peer.send(pdata(3, store_rq(b"1.2.3")))
            peer.send(pdata(0, bytes(1000))[:200])
            wait_for(node.parts, "the transfer began", 5)
            begun = time.monotonic()
            node.scp.stop(0.3)
            assert time.monotonic() - begun < 3
        assert node.parts() == node.rows() == []


def test_tls_is_served_beside_silent_peers(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=certificate)
    with running_scp(tmp_path, ssl_context=context, limits=Limits(handshake_s=2)) as node:
        silent = [RawPeer(node.port) for _ in range(6)]
        film = make_radiograph(Rows=300, Columns=300)
        with associated(node.port, [(DX, [EXPLICIT])], tls_args=(client, "localhost")) as assoc:
            assert assoc.send_c_store(film).Status == 0x0000
        for peer in silent:
            peer.socket.close()
        assert len(node.rows()) == 1


# --- real senders --------------------------------------------------------------------------------

STORESCU_OPTIONS = {
    EXPLICIT: "-xe", IMPLICIT: "-xi", RLELossless: "-xr", JPEGBaseline8Bit: "-xy", JPEGExtended12Bit: "-xx",
    JPEGLosslessSV1: "-xs", JPEGLSLossless: "-xt", JPEGLSNearLossless: "-xu", JPEG2000Lossless: "-xv",
    JPEG2000: "-xw",
}  # fmt: skip


@pytest.mark.parametrize("syntax", STORESCU_OPTIONS)
def test_storescu_sends_every_syntax_as_it_is(tmp_path: Path, syntax: str) -> None:
    storescu = need("storescu")
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    film = make_radiograph(Rows=64, Columns=64, bits_stored=bits, transfer_syntax=syntax)
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with running_scp(tmp_path) as node:
        subprocess.run(
            [storescu, "-aec", "HIPNODE", STORESCU_OPTIONS[syntax], "127.0.0.1", str(node.port), "film.dcm"],
            check=True, capture_output=True, cwd=tmp_path, timeout=30,
        )  # fmt: skip
        (row,), (file,) = node.rows(), node.files()
        assert row.transfer_syntax_uid == syntax
        assert dcmread(file).PixelData == film.PixelData


@pytest.mark.films
def test_storescu_sends_real_films(tmp_path: Path, films: Path) -> None:
    storescu = need("storescu")
    sent = 0
    with running_scp(tmp_path) as node:
        for file in sorted(films.glob("*.dcm")):
            syntax = str(dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID)
            if syntax not in STORESCU_OPTIONS:
                continue  # DCMTK's storescu cannot propose JPEG lossless with other predictors alone
            command = [
                storescu,
                "-R",
                "-aec",
                "HIPNODE",
                STORESCU_OPTIONS[syntax],
                "127.0.0.1",
                str(node.port),
                file,
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            sent += 1
            assert node.rows()[-1].transfer_syntax_uid == syntax
        assert sent >= 8
        assert len(node.rows()) == len(node.files()) == sent


def test_orthanc_routes_a_whole_study_once(tmp_path: Path, orthanc: Any) -> None:
    syntaxes = (EXPLICIT, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1, RLELossless)
    films = [
        make_radiograph(Rows=64, Columns=64, instance=n, transfer_syntax=s) for n, s in enumerate(syntaxes, 1)
    ]
    for n, ds in enumerate([*films, report()]):
        ds.save_as(tmp_path / f"{n}.dcm", enforce_file_format=True)
        orthanc.post("/instances", (tmp_path / f"{n}.dcm").read_bytes())
    with running_scp(tmp_path) as node:
        orthanc.know("hipnode", "HIPNODE", node.port)
        (study,) = orthanc.get("/studies")
        answer = orthanc.post("/modalities/hipnode/store", {"Resources": [study], "Synchronous": True})
        assert answer["FailedInstancesCount"] == 0
        rows = node.rows()
        assert sorted(r.role for r in rows) == ["ignored"] + ["source"] * 5
        assert {r.transfer_syntax_uid for r in rows if r.role == "source"} == {
            str(ds.file_meta.TransferSyntaxUID) for ds in films
        }
        assert {r.calling_ae_title for r in rows} == {"ORTHANC"}
