"""Every file of the node: whole, durable, ours by name, or not there."""

import errno
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from hipnode import spool as spool_module
from hipnode.errors import OutOfResources, SpoolFull, SpoolMissing
from hipnode.spool import Spool, data_set_sha256
from tests.factories import make_radiograph

UIDS = {
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
    "sop_instance_uid": "1.2.3.4.5",
    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
}
BIG = bytes(range(256)) * 20_000  # 5 MB: takes the way of large films


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def files(spool: Spool) -> list[Path]:
    return [p for p in spool.root.rglob("*") if p.is_file()]


@pytest.mark.parametrize("data", [b"", b"x", b"odd", BIG], ids=["empty", "one", "odd", "big"])
@pytest.mark.parametrize(
    "how",
    [bytes, bytearray, memoryview, lambda d: [d[:7], d[7:]]],
    ids=["bytes", "bytearray", "view", "pieces"],
)
def test_a_data_set_is_kept_as_it_came(spool: Spool, data: bytes, how) -> None:
    stored = spool.write_instance(how(data), **UIDS)
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    whole = spool.path(stored.relative_path).read_bytes()
    assert whole.endswith(data)
    with spool.data_set(stored.relative_path) as (view, syntax):
        assert (bytes(view), syntax) == (data, UIDS["transfer_syntax_uid"])
    assert spool.verify(stored.relative_path, stored.sha256) == spool.path(stored.relative_path)
    assert not list((spool.root / "incoming").iterdir())


def test_a_stored_instance_is_readable_from_the_spool(spool: Spool) -> None:
    ds = make_radiograph(PatientName="Müller^Jörg")
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    uids = UIDS | {"sop_class_uid": ds.SOPClassUID, "sop_instance_uid": ds.SOPInstanceUID}
    stored = spool.write_instance(buffer.getvalue(), **uids)
    back = pydicom.dcmread(spool.path(stored.relative_path))
    assert back == ds
    assert back.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert back.file_meta.FileMetaInformationVersion == b"\0\1"
    assert back.preamble == bytes(128)


@pytest.mark.parametrize("uid", ["", "1.2.3", "x" * 300, "../../etc/passwd", "1.2\0", "ünï"])
def test_uids_are_data_and_no_paths(spool: Spool, uid: str) -> None:
    stored = spool.write_instance(b"data", **UIDS | {"sop_instance_uid": uid})
    path = spool.path(stored.relative_path).resolve()
    assert path.is_relative_to(spool.root.resolve())
    assert uid == "" or uid not in stored.relative_path
    assert spool.verify(stored.relative_path, stored.sha256)


def test_two_files_of_one_uid_are_two_files(spool: Spool) -> None:
    one, two = (spool.write_instance(b"same", **UIDS) for _ in range(2))
    assert one.relative_path != two.relative_path
    assert one.sha256 == two.sha256


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "spool")
        spool.write_instance(b"data", **UIDS)
        spool.quarantine(b"data", "why")
    finally:
        os.umask(before)
    for path in [spool.root, *spool.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_spool_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)
    assert stat.S_IMODE(Spool(tmp_path / "spool").root.stat().st_mode) == 0o700


def test_a_result_is_kept_in_explicit_little_endian(spool: Spool) -> None:
    ds = make_radiograph()
    del ds.file_meta
    stored = spool.write_result(ds)
    assert stored.relative_path.startswith("results/")
    back = pydicom.dcmread(spool.path(stored.relative_path))
    assert back.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert back == ds
    buffer = io.BytesIO()
    back.save_as(buffer)
    assert spool.write_result(pydicom.dcmread(io.BytesIO(buffer.getvalue()))).sha256 == stored.sha256


class TestMissing:
    @pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
    def test_a_path_that_leaves_the_spool_is_missing(self, spool: Spool, path: str) -> None:
        with pytest.raises(SpoolMissing):
            spool.path(path)

    def test_a_file_that_is_gone_is_missing(self, spool: Spool) -> None:
        stored = spool.write_instance(b"data", **UIDS)
        assert spool.holds(stored.relative_path)
        spool.remove(stored.relative_path)
        spool.remove(stored.relative_path)
        assert not spool.holds(stored.relative_path)
        with pytest.raises(SpoolMissing):
            spool.verify(stored.relative_path, stored.sha256)
        with pytest.raises(SpoolMissing), spool.data_set(stored.relative_path):
            pass

    @pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 500])
    def test_a_file_that_is_not_ours_any_more_is_missing(self, spool: Spool, damage: bytes) -> None:
        stored = spool.write_instance(b"data", **UIDS)
        spool.path(stored.relative_path).write_bytes(damage)
        with pytest.raises(SpoolMissing):
            spool.verify(stored.relative_path, stored.sha256)
        with pytest.raises(SpoolMissing), spool.data_set(stored.relative_path):
            pass

    def test_one_changed_bit_is_noticed(self, spool: Spool) -> None:
        stored = spool.write_instance(BIG, **UIDS)
        path = spool.path(stored.relative_path)
        whole = bytearray(path.read_bytes())
        whole[-1000] ^= 1
        path.write_bytes(whole)
        with pytest.raises(SpoolMissing):
            spool.verify(stored.relative_path, stored.sha256)

    def test_the_meta_group_is_not_part_of_the_hash(self, spool: Spool) -> None:
        one = spool.write_instance(b"data", **UIDS)
        two = spool.write_instance(b"data", **UIDS | {"sop_instance_uid": "1.2"})
        assert one.sha256 == two.sha256 == data_set_sha256(spool.path(two.relative_path))


class TestFull:
    def test_below_the_low_water_mark_nothing_is_begun(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool", low_water_bytes=1 << 60)
        with pytest.raises(SpoolFull) as refusal:
            spool.write_instance(b"data", **UIDS)
        assert refusal.value.dimse_status == 0xA700
        assert files(spool) == []

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
    @pytest.mark.parametrize("call", ["write", "fsync", "rename", "fsync folder", "open"])
    def test_a_disk_that_fails_leaves_nothing(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int, call: str
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        if call == "write":
            monkeypatch.setattr(spool_module, "_write", fail)
        elif call == "fsync":
            monkeypatch.setattr(spool_module.os, "fsync", fail)
        elif call == "fsync folder":
            monkeypatch.setattr(spool_module, "_sync_folder", fail)
        elif call == "rename":
            monkeypatch.setattr(Path, "rename", fail)
        else:
            monkeypatch.setattr(spool_module.os, "open", fail)
        with pytest.raises(OutOfResources) as refusal:
            spool.write_instance(BIG, **UIDS)
        monkeypatch.undo()
        assert isinstance(refusal.value, SpoolFull) == (code in (errno.ENOSPC, errno.EDQUOT))
        assert refusal.value.dimse_status == 0xA700
        assert files(spool) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
    def test_a_real_disk_that_fills_up_recovers_alone(self, tmp_path: Path) -> None:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip("mounting is not allowed here")
        try:
            spool = Spool(tmp_path / "spool")
            kept = spool.write_instance(bytes(1 << 20), **UIDS)
            with pytest.raises(SpoolFull):
                spool.write_instance(BIG, **UIDS)
            assert files(spool) == [spool.path(kept.relative_path)]
            spool.remove(kept.relative_path)
            assert spool.write_instance(bytes(2 << 20), **UIDS).size_bytes == 2 << 20
        finally:
            subprocess.run(["umount", tmp_path], check=True)


class TestIncoming:
    def test_a_transfer_that_is_cut_leaves_nothing(self, spool: Spool) -> None:
        with spool.begin("instances", **UIDS) as incoming:
            incoming.write(b"half")
            assert len(files(spool)) == 1
        assert files(spool) == []

    def test_a_sender_that_raises_leaves_nothing(self, spool: Spool) -> None:
        def pieces():
            yield b"one"
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            spool.write_instance(pieces(), **UIDS)
        assert files(spool) == []

    def test_what_is_written_can_be_looked_at_before_it_is_kept(self, spool: Spool) -> None:
        with spool.begin("instances", **UIDS) as incoming:
            incoming.write(b"one ")
            incoming.write(b"two")
            with incoming.data_set() as view:
                assert bytes(view) == b"one two"
            assert (incoming.size_bytes, incoming.sha256) == (7, hashlib.sha256(b"one two").hexdigest())
            assert incoming.keep().size_bytes == 7

    def test_after_keep_there_is_nothing_to_discard(self, spool: Spool) -> None:
        with spool.begin("instances", **UIDS) as incoming:
            incoming.write(b"data")
            stored = incoming.keep()
            incoming.discard()
        assert spool.holds(stored.relative_path)
        with pytest.raises(ValueError, match="closed"):
            incoming.write(b"more")

    def test_parts_left_by_a_crash_are_swept_after_an_hour(self, spool: Spool) -> None:
        old, young = (spool.root / "incoming" / f"{name}.part" for name in ("old", "young"))
        for part in (old, young):
            part.write_bytes(b"half")
        os.utime(old, (time.time() - 4000, time.time() - 4000))
        assert spool.sweep_parts() == 1
        assert (old.exists(), young.exists()) == (False, True)

    def test_sixteen_senders_at_once(self, spool: Spool) -> None:
        stored: list[tuple[bytes, spool_module.StoredFile]] = []

        def send(n: int) -> None:
            data = bytes([n]) * (1000 + n)
            stored.extend((data, spool.write_instance(data, **UIDS)) for _ in range(5))

        threads = [threading.Thread(target=send, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(spool.files("instances"))) == len(stored) == 80
        for data, file in stored:
            assert spool.verify(file.relative_path, hashlib.sha256(data).hexdigest())


class TestOrder:
    """What power loss may take: nothing that was promised. The calls stand in this order."""

    def test_bytes_are_on_disk_before_the_name_and_the_name_before_the_promise(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        fsync, rename, mkdir = os.fsync, Path.rename, Path.mkdir

        def note_fsync(descriptor: int) -> None:
            place = Path(f"/proc/self/fd/{descriptor}").readlink()
            kind = "part" if place.suffix == ".part" else place.relative_to(spool.root).parts[0]
            calls.append(f"fsync {kind}{' shard' if len(place.relative_to(spool.root).parts) == 2 else ''}")
            fsync(descriptor)

        monkeypatch.setattr(spool_module.os, "fsync", note_fsync)
        monkeypatch.setattr(Path, "rename", lambda p, to: (calls.append("rename"), rename(p, to))[1])
        monkeypatch.setattr(Path, "mkdir", lambda p, *a, **k: (calls.append("mkdir"), mkdir(p, *a, **k))[1])
        spool.write_instance(b"data", **UIDS)
        wanted = ["fsync part shard", "mkdir", "mkdir", "fsync instances", "rename", "fsync instances shard"]
        assert calls == ["fsync part shard" if c.startswith("fsync part") else c for c in wanted]

    @pytest.mark.parametrize("point", ["spool.written", "spool.synced", "spool.renamed"])
    def test_a_kill_leaves_a_whole_file_or_a_part(self, tmp_path: Path, point: str) -> None:
        code = (
            "from pathlib import Path; from hipnode.spool import Spool;"
            f"Spool(Path({str(tmp_path)!r})).write_instance(b'data' * 1000, **{UIDS!r})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "HIPNODE_FAULTS": f"{point}=kill"}
        )
        assert done.returncode == -9
        spool = Spool(tmp_path)
        kept, parts = list(spool.files("instances")), list((tmp_path / "incoming").iterdir())
        assert (len(kept), len(parts)) == ((1, 0) if point == "spool.renamed" else (0, 1))
        for path in kept:
            assert spool.verify(path, hashlib.sha256(b"data" * 1000).hexdigest())


class TestQuarantine:
    def test_bytes_and_reason_stand_side_by_side(self, spool: Spool) -> None:
        path = spool.path(spool.quarantine(b"\0rubbish", "SOP Instance UID is missing"))
        assert path.read_bytes() == b"\0rubbish"
        note = json.loads(path.with_suffix(".json").read_text())
        assert (note["why"], note["size_bytes"]) == ("SOP Instance UID is missing", 8)

    def test_the_oldest_go_so_that_nobody_fills_the_disk_with_rubbish(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spool_module, "_QUARANTINE_LIMIT", 3)
        kept = []
        for n in range(5):
            kept.append(spool.quarantine(bytes([n]), "why"))
            os.utime(spool.path(kept[-1]), (n, n))
        assert sorted(p for p in spool.files("quarantine") if p.endswith(".dcm")) == sorted(kept[2:])
        assert len(list(spool.files("quarantine"))) == 6

    def test_few_large_ones_do_not_fill_the_disk_either(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spool_module, "_QUARANTINE_BYTES", 250)
        paths = []
        for number in range(4):
            paths.append(spool.path(spool.quarantine(bytes([number]) * 100, "test")))
            os.utime(paths[-1], (number, number))
        assert [path.exists() for path in paths] == [False, False, True, True]
        assert len(list((spool.root / "quarantine").glob("*.json"))) == 2
