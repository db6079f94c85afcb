"""The spool: every file of the node. A name in it is ours, a file in it is whole and on the disk.

`write_*` return only after the bytes are fsynced, the file is renamed into place and its folder is
fsynced. Folders are 0700, files 0600; the 128-byte preamble is zero (PS3.10 7.1), whatever came.
"""

import ctypes
import errno
import hashlib
import io
import json
import mmap
import os
import secrets
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import TYPE_CHECKING

from hipnode import faults
from hipnode.errors import OutOfResources, SpoolFull, SpoolMissing

if TYPE_CHECKING:
    from pydicom import Dataset

IMPLEMENTATION_CLASS_UID = "2.25.158317562217062180893396513152098341077"
IMPLEMENTATION_VERSION_NAME = "HIPNODE"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

Buffer = bytes | bytearray | memoryview

_CHUNK = 1 << 20
_WRITEBACK_EVERY = 4 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_QUARANTINE_LIMIT = 1000
_QUARANTINE_BYTES = 4 << 30


@dataclass(frozen=True)
class StoredFile:
    """A file of the spool. sha256, size_bytes: of the data set, without preamble and group 2."""

    relative_path: str
    sha256: str
    size_bytes: int


class Spool:
    """The files under one folder; several processes may share it.

    low_water_bytes: with less space left, nothing more is received; results are still written.
    instances/ what was received · results/ what was built · incoming/ `*.part`, not whole yet ·
    quarantine/ what could not be identified, each with a `.json` that says why
    """

    def __init__(self, root: Path, low_water_bytes: int = 0) -> None:
        self.root = root
        self.low_water_bytes = low_water_bytes
        for folder in (root, *(root / name for name in ("incoming", "instances", "results", "quarantine"))):
            _make_folder(folder)
        if root.stat().st_mode & 0o077:
            root.chmod(0o700)

    def free_bytes(self) -> int:
        """Free space of the file system, bytes."""
        stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize

    @property
    def present(self) -> bool:
        """Whether the spool's folders are there: a share that went away takes all files with it at once."""
        return (self.root / "instances").is_dir()

    def begin(
        self, folder: str, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> "Incoming":
        """Start a DICOM file in `instances` or `results`, to be written piece by piece. Raises SpoolFull."""
        meta = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        return Incoming(self, folder, secrets.token_hex(16), bytes(128) + b"DICM" + meta)

    def write_instance(
        self,
        data_set: Buffer | Iterable[bytes],
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> StoredFile:
        """Keep a data set as received (bytes, or pieces of it), behind file meta information of ours.

        Raises SpoolFull below the low-water mark and when the disk is full, OutOfResources when it
        cannot be written at all; nothing is left behind then.
        """
        uids = {"sop_class_uid": sop_class_uid, "sop_instance_uid": sop_instance_uid}
        with self.begin("instances", transfer_syntax_uid=transfer_syntax_uid, **uids) as incoming:
            incoming.write_all(data_set)
            return incoming.keep()

    def write_result(self, dataset: "Dataset") -> StoredFile:
        """Keep a result object, in its own transfer syntax or explicit VR little endian.

        Raises SpoolFull when the disk is full; the low-water mark does not hold it up.
        """
        syntax = (
            getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None) or EXPLICIT_LITTLE_ENDIAN
        )
        if syntax == "1.2.840.10008.1.2":  # implicit: results carry private tags, whose VR it would lose
            syntax = EXPLICIT_LITTLE_ENDIAN
        uids = {
            "sop_class_uid": str(dataset.SOPClassUID),
            "sop_instance_uid": str(dataset.SOPInstanceUID),
            "transfer_syntax_uid": str(syntax),
        }
        encoded = _encode(dataset)
        with self.begin("results", **uids) as incoming:
            incoming.write_all(encoded)
            return incoming.keep()

    def quarantine(self, data: Buffer, why: str) -> str:
        """Keep bytes nobody could identify, with a reason free of patient data. Returns the relative path.

        The oldest go when there are a thousand, or more than 4 GiB. Raises SpoolFull.
        """
        newest_first = sorted((self.root / "quarantine").glob("*.dcm"), key=_modified, reverse=True)
        room = _QUARANTINE_BYTES - len(data)
        for number, old in enumerate(newest_first, 1):
            with suppress(FileNotFoundError):  # another process was quicker
                room -= old.stat().st_size
            if number >= _QUARANTINE_LIMIT or room < 0:
                old.unlink(missing_ok=True)
                old.with_suffix(".json").unlink(missing_ok=True)
        with Incoming(self, "quarantine", secrets.token_hex(16), b"") as incoming:
            incoming.write_all(data)
            stored = incoming.keep()
        note = {"why": why, "size_bytes": stored.size_bytes, "sha256": stored.sha256}
        beside = self.path(stored.relative_path).with_suffix(".json")
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(note, file)
        return stored.relative_path

    def path(self, relative_path: str) -> Path:
        """Where a file of the spool lies. Raises SpoolMissing for a path that leaves the spool."""
        pure = PurePosixPath(relative_path)
        if not relative_path or pure.is_absolute() or ".." in pure.parts or "\0" in relative_path:
            raise SpoolMissing("A stored path does not lie in the spool.")
        return self.root / pure

    def holds(self, relative_path: str) -> bool:
        """Whether the file is there (its bytes are not looked at)."""
        return self.path(relative_path).is_file()

    def verify(self, relative_path: str, sha256: str) -> Path:
        """The path of a file whose data set has this SHA-256. Raises SpoolMissing."""
        path = self.path(relative_path)
        try:
            if data_set_sha256(path) == sha256:
                return path
        except (OSError, ValueError) as error:
            raise SpoolMissing from error
        raise SpoolMissing

    @contextmanager
    def data_set(self, relative_path: str) -> Iterator[tuple[memoryview, str]]:
        """A stored data set, mapped and not copied, and its transfer syntax UID. Raises SpoolMissing."""
        try:
            with self.path(relative_path).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise SpoolMissing from error
        with mapped, memoryview(mapped) as whole:
            try:
                start = data_set_offset(bytes(whole[:144]))
                transfer_syntax_uid = _transfer_syntax_uid(bytes(whole[144:start]))
            except (ValueError, struct.error) as error:
                raise SpoolMissing("A file in the spool is not one of ours.") from error
            with whole[start:] as view:
                yield view, transfer_syntax_uid

    def remove(self, relative_path: str) -> None:
        """Remove a file; one that is not there is no error."""
        self.path(relative_path).unlink(missing_ok=True)

    def sweep_parts(self, older_than_s: float = 3600.0) -> int:
        """Remove `*.part` of transfers that were cut, last written more than `older_than_s` ago. How many."""
        limit, removed = time.time() - older_than_s, 0
        for part in (self.root / "incoming").iterdir():
            with suppress(FileNotFoundError):  # its writer was quicker
                if part.stat().st_mtime < limit:
                    part.unlink()
                    removed += 1
        return removed

    def files(self, folder: str) -> Iterator[str]:
        """The relative paths of all files in `instances`, `results` or `quarantine`."""
        for shard in sorted((self.root / folder).iterdir()):
            if shard.is_dir():
                yield from sorted(f"{folder}/{shard.name}/{entry.name}" for entry in shard.iterdir())
            else:
                yield f"{folder}/{shard.name}"


class Incoming:
    """One file being written: `*.part` until `keep`, gone when the `with` block ends without it."""

    def __init__(self, spool: Spool, folder: str, name: str, head: bytes) -> None:
        self._spool = spool
        shard = "" if folder == "quarantine" else f"{name[:2]}/"
        self._relative = f"{folder}/{shard}{name}.dcm"
        self._part = spool.root / "incoming" / f"{name}.part"
        self._digest = hashlib.sha256()
        self._size = 0
        self._head_bytes = len(head)
        self._handed_over = 0  #: bytes the disk was asked to begin with
        self._file: io.FileIO | None = None
        try:
            free = spool.free_bytes()
            # Results pass: what is in the house must come to its end, and its answer is small.
            if folder != "results" and free < spool.low_water_bytes:
                raise SpoolFull(f"The disk of the spool has {free >> 20} MiB left, below its low-water mark.")
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = io.FileIO(os.open(self._part, flags, 0o600), "wb")
            _write(self._file, memoryview(head))
        except OSError as error:
            self.discard()
            raise _refused(error) from error

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    @property
    def sha256(self) -> str:
        """SHA-256 of the data set as far as it is written."""
        return self._digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of the data set written so far."""
        return self._size

    @contextmanager
    def data_set(self) -> Iterator[memoryview]:
        """The data set as far as it is written, mapped and not copied. Before `keep` or `discard`."""
        try:
            with self._part.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _refused(error) from error
        with mapped, memoryview(mapped) as whole, whole[self._head_bytes :] as view:
            yield view

    def write(self, piece: Buffer) -> None:
        """Append a piece of the data set. Raises SpoolFull, OutOfResources; the file is gone then."""
        view = memoryview(piece).cast("B")
        self._digest.update(view)
        self._append(view)

    def write_all(self, data: Buffer | Iterable[bytes]) -> None:
        """Append a whole data set, bytes or pieces. Raises SpoolFull, OutOfResources."""
        if not isinstance(data, bytes | bytearray | memoryview):
            for piece in data:
                self.write(piece)
            return
        view = memoryview(data).cast("B")
        if len(view) < _CHUNK:
            self.write(view)
            return
        # hashing and writing both leave the interpreter: side by side they cost the slower of the two
        hashing = Thread(target=self._digest.update, args=(view,))
        hashing.start()
        try:
            self._append(view)
            self._sync()
        finally:
            hashing.join()

    def keep(self) -> StoredFile:
        """Make the file durable and give it its name. Raises SpoolFull, OutOfResources."""
        path = self._spool.root / self._relative
        faults.point("spool.written")
        self._sync()
        faults.point("spool.synced")
        try:
            _make_folder(path.parent)
            self._part.rename(path)
            faults.point("spool.renamed")
            _sync_folder(path.parent)
            self._close()
        except OSError as error:
            self.discard()
            path.unlink(missing_ok=True)
            raise _refused(error) from error
        return StoredFile(self._relative, self._digest.hexdigest(), self._size)

    def discard(self) -> None:
        """Drop what was written; after `keep` there is nothing to drop."""
        if self._file is not None:
            with suppress(OSError):  # the error that led here is the one to tell
                self._close()
            self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _append(self, view: memoryview) -> None:
        if self._file is None:
            raise ValueError("the file is closed")
        try:
            _write(self._file, view)
        except OSError as error:
            self.discard()
            raise _refused(error) from error
        self._size += len(view)
        if self._size - self._handed_over >= _WRITEBACK_EVERY:
            _begin_writeback(self._file.fileno(), self._handed_over, self._size - self._handed_over)
            self._handed_over = self._size

    def _sync(self) -> None:
        if self._file is None:
            raise ValueError("the file is closed")
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.discard()
            raise _refused(error) from error


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """File meta information of ours for a data set (PS3.10 7.1), explicit VR little endian."""
    elements = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    for element, vr, value in (
        (0x0002, b"UI", sop_class_uid),
        (0x0003, b"UI", sop_instance_uid),
        (0x0010, b"UI", transfer_syntax_uid),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
    ):
        text = value.encode("ascii", "replace")[:64]
        text += (b"\0" if vr == b"UI" else b" ") * (len(text) % 2)
        elements += struct.pack("<HH2sH", 2, element, vr, len(text)) + text
    return struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


def data_set_offset(head: bytes) -> int:
    """Where the data set begins in a file of ours, from its first 144 bytes. Raises ValueError."""
    if len(head) < 144 or head[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("not a file of the spool")
    return 144 + int.from_bytes(head[140:144], "little")


def _transfer_syntax_uid(meta: bytes) -> str:
    position = 0
    while position + 8 <= len(meta):
        tag, vr, length = struct.unpack_from("<I2sH", meta, position)
        position += 8
        if vr == b"OB":
            (length,) = struct.unpack_from("<I", meta, position)
            position += 4
        if tag == 0x00100002:  # (0002,0010), group first
            return meta[position : position + length].rstrip(b"\0 ").decode("ascii", "replace")
        position += length
    raise ValueError("no transfer syntax")


def data_set_sha256(path: Path) -> str:
    """SHA-256 of a stored file's data set. Raises OSError, ValueError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(data_set_offset(file.read(144)))
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _encode(dataset: "Dataset") -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _write(file: io.FileIO, view: memoryview) -> None:
    while view:
        written = file.write(view)
        view = view[written or 0 :]


def _begin_writeback(descriptor: int, offset: int, length: int) -> None:
    """Let the disk begin with these bytes while more are on their way: the fsync at the end is shorter.

    A hint (Linux, sync_file_range(2) with SYNC_FILE_RANGE_WRITE): it promises nothing, and what it
    answers does not matter.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), 2)


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def _refused(error: OSError) -> OutOfResources:
    if error.errno in _FULL:
        return SpoolFull("The disk of the spool is full.")
    return OutOfResources(f"The spool cannot be written: {os.strerror(error.errno or 0)}.")


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another process was quicker
        folder.mkdir(mode=0o700)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
