"""The way in: what a peer sends is kept as sent, acknowledged, or refused with the right status."""

import hashlib
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from sqlalchemy import event, select

from hipnode import ledger
from hipnode.errors import LedgerDown, OutOfResources
from hipnode.results.identity import MANUFACTURER
from hipnode.scp import Limits
from hipnode.scp.messages import Messages
from hipnode.spool import data_set_offset
from hipnode.status import ReasonCode
from hipnode.tables import Analysis, Result
from tests.encoded import data_set, element, encode
from tests.factories import make_radiograph
from tests.peers import wait_for
from tests.scp_node import (
    DX,
    EXPLICIT,
    IMPLICIT,
    RawPeer,
    associated,
    echo,
    engine_of,
    pdata,
    report,
    running_scp,
    send,
    status_of,
    store_rq,
)

ALL_SYNTAXES = [
    EXPLICIT, IMPLICIT, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1,
    JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000,
]  # fmt: skip


# --- kept ----------------------------------------------------------------------------------------


def test_an_echo_is_answered(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node:
        assert echo(node.port) == 0x0000


@pytest.mark.parametrize("syntax", ALL_SYNTAXES)
def test_a_radiograph_is_kept_byte_for_byte(tmp_path: Path, syntax: str) -> None:
    eight_bit = syntax in (JPEGBaseline8Bit,)
    ds = make_radiograph(Rows=64, Columns=48, bits_stored=8 if eight_bit else 12, transfer_syntax=syntax)
    sent = encode(ds, syntax)
    with running_scp(tmp_path) as node:
        with RawPeer(node.port).associate(syntax=syntax) as peer:
            assert status_of(peer.store(sent, ds.SOPInstanceUID.encode())) == 0x0000
        (row,), (file,) = node.rows(), node.files()
    whole = file.read_bytes()
    assert whole[data_set_offset(whole[:144]) :] == sent
    assert whole[:128] == bytes(128)
    assert (row.sha256, row.size_bytes) == (hashlib.sha256(sent).hexdigest(), len(sent))
    assert (row.role, row.reason_code, row.revision) == ("source", None, 1)
    assert (row.calling_ae_title, row.peer_address) == ("RAW", "127.0.0.1")
    assert row.transfer_syntax_uid == syntax
    assert dcmread(file).file_meta.TransferSyntaxUID == syntax
    assert dcmread(file).pixel_array.shape == (64, 48) if syntax in (EXPLICIT, IMPLICIT) else True


@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
def test_every_radiograph_class_is_kept(tmp_path: Path, kind: str) -> None:
    with running_scp(tmp_path) as node:
        assert send(node.port, make_radiograph(kind, Rows=32, Columns=32)) == [0x0000]
        assert [r.role for r in node.rows()] == ["source"]
        assert len(node.stored) == len(node.files()) == 1


def test_the_row_and_the_file_are_there_when_success_arrives(tmp_path: Path) -> None:
    films = [make_radiograph(Rows=32, Columns=32, instance=n) for n in range(1, 6)]
    with running_scp(tmp_path) as node, associated(node.port, [(DX, [EXPLICIT])]) as assoc:
        for count, film in enumerate(films, 1):
            assert assoc.send_c_store(film).Status == 0x0000
            assert len(node.rows()) == len(node.files()) == count
            node.spool.verify(node.rows()[-1].relative_path or "", node.rows()[-1].sha256)
        assert not node.parts()


def test_success_is_answered_after_fsync_rename_fsync_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is what a power loss cannot break; here it is watched at the calls themselves."""
    said: list[str] = []
    fsync, rename, answer = os.fsync, Path.rename, Messages.answer

    def watched_fsync(descriptor: int) -> None:
        what = Path(f"/proc/self/fd/{descriptor}").readlink()
        fsync(descriptor)
        said.append("fsync folder" if what.is_dir() else f"fsync {what.suffix}")

    def watched_rename(self: Path, target: Path) -> Path:
        renamed = rename(self, target)
        said.append("rename")
        return renamed

    def watched_answer(self: Messages, request: Any, status: int) -> None:
        said.append(f"answer {status:04X}")
        answer(self, request, status)

    def watched_commit(_connection: object) -> None:
        if threading.current_thread().name != "hipnode-scp-knocks":  # it counts peers, behind the answers
            said.append("commit")

    with running_scp(tmp_path) as node:
        event.listen(engine_of(node.sessions), "commit", watched_commit)
        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(Path, "rename", watched_rename)
        monkeypatch.setattr(Messages, "answer", watched_answer)
        assert send(node.port, make_radiograph(Rows=32, Columns=32)) == [0x0000]
        with node.sessions() as session:
            assert session.connection().exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    assert said[-1] == "answer 0000"
    assert said[-2] == "commit"
    kept = said.index("fsync .part")
    assert said[kept : kept + 2] in (["fsync .part", "rename"], ["fsync .part", "fsync folder"])
    assert said.index("rename") > kept
    assert "fsync folder" in said[said.index("rename") : -2]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_odd_identifiers_go_into_both_databases(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgres" else None
    odd = [
        b"",
        b"A" * 200,
        b"^\\ ^",
        b"P\0\x1b1",
        "환자".encode(),
        b"\xff\xfe\xfd",
        b"'; DROP TABLE studies; --",
    ]
    with running_scp(tmp_path, database_url=url) as node, RawPeer(node.port).associate() as peer:
        for number, value in enumerate(odd):
            uid = b"1.2.8.%d" % number
            texts = element(0x00100020, b"LO", value) + element(0x00080050, b"SH", value)
            sent = data_set(SOPClass=DX.encode(), SOP=uid, Study=uid + b".1", before=texts)
            assert status_of(peer.store(sent, uid)) == 0x0000
        assert len(node.rows()) == len(node.files()) == len(odd)


def test_the_same_bytes_again_are_nothing_new(tmp_path: Path) -> None:
    film = make_radiograph(Rows=32, Columns=32)
    with running_scp(tmp_path) as node:
        assert send(node.port, film, film) == [0x0000, 0x0000]
        assert send(node.port, film) == [0x0000]
        assert len(node.rows()) == len(node.files()) == 1
        assert [r.fresh for r in node.stored] == [True, False, False]


def test_the_same_bytes_at_the_same_time_are_one(tmp_path: Path) -> None:
    film = make_radiograph(Rows=64, Columns=64)
    with running_scp(tmp_path) as node:
        threads = [threading.Thread(target=send, args=(node.port, film)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(node.rows()) == len(node.files()) == 1
        assert sorted(r.fresh for r in node.stored) == [False] * 5 + [True]


def test_other_bytes_under_a_known_uid_are_a_revision_beside_the_first(tmp_path: Path) -> None:
    first = make_radiograph(Rows=32, Columns=32, PatientName="A^B")
    second = make_radiograph(Rows=32, Columns=32, PatientName="C^D")
    with running_scp(tmp_path) as node:
        assert send(node.port, first, second) == [0x0000, 0x0000]
        assert [(r.revision, r.reason_code) for r in node.rows()] == [
            (1, None),
            (2, ReasonCode.REVISION_CONFLICT),
        ]
        assert len(node.files()) == 2


def test_a_lost_file_comes_back_with_the_same_bytes(tmp_path: Path) -> None:
    film = make_radiograph(Rows=32, Columns=32)
    with running_scp(tmp_path) as node:
        send(node.port, film)
        node.files()[0].unlink()
        assert send(node.port, film) == [0x0000]
        assert len(node.rows()) == len(node.files()) == 1
        node.spool.verify(node.rows()[0].relative_path or "", node.rows()[0].sha256)


def test_a_study_is_held_from_its_first_bytes_to_its_row(tmp_path: Path) -> None:
    film = make_radiograph(Rows=200, Columns=200)
    sent = encode(film)
    with running_scp(tmp_path) as node, RawPeer(node.port).associate() as peer:
        assert node.scp.receiving() == set()
        peer.send(pdata(3, store_rq(film.SOPInstanceUID.encode())))
        peer.send(pdata(0, sent[:6000]))
        wait_for(lambda: node.scp.receiving() == {film.StudyInstanceUID}, "the study is held", 5)
        peer.send(pdata(2, sent[6000:]))
        assert status_of(peer.answer()) == 0x0000
        wait_for(lambda: not node.scp.receiving(), "the study is held no longer", 5)
        assert node.scp.associations == 1


# --- acknowledged and not kept -------------------------------------------------------------------


def test_what_is_no_radiograph_is_acknowledged_and_not_kept(tmp_path: Path) -> None:
    ct = make_radiograph(Rows=32, Columns=32, SOPClassUID=CTImageStorage, SOPInstanceUID="1.2.3.9")
    ct.file_meta.MediaStorageSOPClassUID = CTImageStorage
    with running_scp(tmp_path) as node:
        assert send(node.port, report(), ct, report()) == [0x0000] * 3
        assert [(r.role, r.reason_code, r.relative_path) for r in node.rows()] == [
            ("ignored", ReasonCode.NOT_A_RADIOGRAPH, None)
        ] * 2
        assert node.files() == node.parts() == []


def test_a_class_nobody_knows_is_taken_and_not_kept(tmp_path: Path) -> None:
    private = "1.3.12.2.1107.5.9.1"
    ds = report(SOPClassUID=private)
    with running_scp(tmp_path) as node:
        assert send(node.port, ds) == [0x0000]
        assert [r.role for r in node.rows()] == ["ignored"]


def test_every_storage_class_is_negotiated_and_no_other_service(tmp_path: Path) -> None:
    from pynetdicom.sop_class import _QR_CLASSES, _STORAGE_CLASSES

    storage = sorted(set(_STORAGE_CLASSES.values()))
    others = [*sorted(set(_QR_CLASSES.values())), "1.2.840.10008.5.1.4.31", "1.2.840.10008.1.20.1"]
    with running_scp(tmp_path) as node:
        for batch in (storage[:120], storage[120:]):
            with associated(node.port, [(c, [EXPLICIT, IMPLICIT]) for c in batch]) as assoc:
                assert {c.abstract_syntax for c in assoc.accepted_contexts} == set(batch)
        with associated(node.port, [(c, [EXPLICIT]) for c in others]) as assoc:
            assert not assoc.accepted_contexts


def test_our_own_output_is_known_by_its_manufacturer(tmp_path: Path) -> None:
    overlay = make_radiograph("SC", Rows=32, Columns=32, Manufacturer=MANUFACTURER)
    with running_scp(tmp_path) as node:
        assert send(node.port, overlay, report(Manufacturer=MANUFACTURER)) == [0x0000, 0x0000]
        assert [(r.role, r.reason_code) for r in node.rows()] == [("own", ReasonCode.OWN_OUTPUT)] * 2
        assert node.files() == []


def test_our_own_output_is_known_by_its_codes_when_the_manufacturer_was_rewritten(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "DF", "99HIPNODE", "Displaced"
    ds = report(Manufacturer="ARCHIVE", ConceptNameCodeSequence=[code])
    with running_scp(tmp_path) as node:
        assert send(node.port, ds) == [0x0000]
        assert [r.role for r in node.rows()] == ["own"]


@pytest.mark.parametrize("kept_uid", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_our_own_output_is_known_by_the_uids_we_gave_it(tmp_path: Path, kept_uid: str) -> None:
    film, overlay = make_radiograph(Rows=32, Columns=32), make_radiograph("SC", Rows=32, Columns=32, seed=5)
    emitted = {"SOPInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.5", kept_uid: overlay[kept_uid].value}
    with running_scp(tmp_path) as node:
        send(node.port, film)
        with ledger.transaction(node.sessions) as session:
            session.add(
                Result(
                    study_id=node.rows()[0].study_id,
                    analysis_id=session.scalars(select(Analysis.id)).one(),
                    kind="SC",
                    variant="v",
                    series_instance_uid=emitted["SeriesInstanceUID"],
                    sop_instance_uid=emitted["SOPInstanceUID"],
                    sop_class_uid=overlay.SOPClassUID,
                    relative_path="results/00/0.dcm",
                    sha256="0" * 64,
                    created_at=datetime.now(UTC),
                )
            )
        assert send(node.port, overlay) == [0x0000]
        assert [r.role for r in node.rows()] == ["source", "own"]
        assert len(node.files()) == 1


# --- refused -------------------------------------------------------------------------------------


def test_a_class_that_is_not_the_requests_is_a900(tmp_path: Path) -> None:
    ds = make_radiograph("CR", Rows=32, Columns=32)
    with running_scp(tmp_path) as node:
        with RawPeer(node.port).associate() as peer:
            assert status_of(peer.store(encode(ds), ds.SOPInstanceUID.encode())) == 0xA900
            assert status_of(peer.store(data_set(SOPClass=DX.encode()), b"1.2.99")) == 0xA900
        assert node.rows() == node.files() == node.parts() == []


@pytest.mark.parametrize(
    ("uid", "study"),
    [
        (b"", b"1.2.2"),
        (b"../../../../tmp/hipnode-escaped", b"1.2.2"),
        (b"/abs/x", b"1.2.2"),
        (b"1.2\0.3", b"1.2.2"),
        (b"1." + b"2" * 80, b"1.2.2"),
        (b"1.2.1", None),
        (b"1.2.1", b""),
        (b"1.2.1", b"../../x"),
        (b"1.2.1", b"1" * 65),
    ],
)
def test_an_object_without_a_usable_identity_is_c000_and_in_quarantine(
    tmp_path: Path, uid: bytes, study: bytes | None
) -> None:
    sent = data_set(SOPClass=DX.encode(), SOP=uid, Study=study)
    with running_scp(tmp_path) as node:
        with RawPeer(node.port).associate() as peer:
            answer = peer.store(sent, uid)
            assert status_of(answer) == 0xC000
            assert answer.get(0x1000, b"").rstrip(b"\0") in (b"", b"1.2.1")
        assert node.rows() == node.files() == node.parts() == []
        (copy,) = [f for f in node.files("quarantine") if f.suffix == ".dcm"]
        assert copy.read_bytes() == sent
        assert copy.stem.isalnum()
    assert not (Path("/tmp") / "hipnode-escaped").exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"spool", "ledger.db", "ledger.db-wal", "ledger.db-shm"}


def test_a_request_without_a_data_set_is_c000(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node, RawPeer(node.port).associate() as peer:
        peer.send(pdata(3, store_rq(b"1.2.3", data=0x0101)))
        assert status_of(peer.answer()) == 0xC000


def test_leading_zeros_in_uids_are_taken(tmp_path: Path) -> None:
    sent = data_set(SOPClass=DX.encode(), SOP=b"1.02.003", Study=b"1.0002")
    with running_scp(tmp_path) as node:
        with RawPeer(node.port).associate() as peer:
            assert status_of(peer.store(sent, b"1.02.003")) == 0x0000
        assert [r.sop_instance_uid for r in node.rows()] == ["1.02.003"]


def test_a_full_disk_is_a700_and_recovers_alone(tmp_path: Path) -> None:
    film = make_radiograph(Rows=32, Columns=32)
    with running_scp(tmp_path, low_water_bytes=2**60) as node:
        assert send(node.port, film) == [0xA700]
        assert node.rows() == node.files() == node.parts() == []
        node.spool.low_water_bytes = 0
        assert send(node.port, film) == [0x0000]


def test_a_disk_that_fills_up_in_the_middle_is_a700(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hipnode.spool

    film, write = make_radiograph(Rows=600, Columns=400), hipnode.spool._write

    def full(file: Any, view: memoryview) -> None:
        if file.tell() > 20_000:
            raise OSError(28, "No space left on device")
        write(file, view)

    with running_scp(tmp_path) as node:
        monkeypatch.setattr(hipnode.spool, "_write", full)
        assert send(node.port, film) == [0xA700]
        assert node.rows() == node.files() == node.parts() == []
        monkeypatch.undo()
        assert send(node.port, film) == [0x0000]


def test_a_backlog_at_its_limit_is_a700(tmp_path: Path) -> None:
    one, two = (make_radiograph(Rows=32, Columns=32, seed=seed) for seed in (1, 2))
    with running_scp(tmp_path, limits=Limits(backlog_limit=1)) as node:
        assert send(node.port, one) == [0x0000]
        time.sleep(1.1)  # the backlog is asked for once a second
        assert send(node.port, two) == [0xA700]
        assert len(node.rows()) == 1


def test_a_database_that_does_not_answer_is_a700(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any) -> None:
        raise LedgerDown("The database does not answer.")

    with running_scp(tmp_path) as node:
        monkeypatch.setattr(ledger, "backlog", down)
        assert send(node.port, make_radiograph(Rows=32, Columns=32)) == [OutOfResources.dimse_status]
        assert node.files() == node.parts() == []


def test_an_unexpected_error_is_retryable_and_tells_no_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_session: Any, received: Any, *_: Any) -> None:
        raise ValueError(f"cannot take {received.patient_id}")

    film = make_radiograph(Rows=32, Columns=32, PatientID="CANARY-7", PatientName="CANARY^NAME")
    with running_scp(tmp_path) as node:
        monkeypatch.setattr(ledger, "record_instance", broken)
        assert send(node.port, film) == [0xA700]
        monkeypatch.undo()
        assert send(node.port, film) == [0x0000]
    said = "".join(capfd.readouterr())
    assert "ValueError" in said
    for secret in ("CANARY", film.SOPInstanceUID, film.StudyInstanceUID):
        assert secret not in said


def test_what_cannot_be_booked_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any) -> None:
        raise LedgerDown("The database is busy.")

    film = make_radiograph(Rows=32, Columns=32)
    with running_scp(tmp_path) as node:
        monkeypatch.setattr(ledger, "record_instance", busy)
        assert send(node.port, film) == [0xA700]
        assert node.files() == node.parts() == []
        monkeypatch.undo()
        assert send(node.port, film) == [0x0000]
        assert len(node.files()) == 1
