"""An SCP with its own spool and ledger for tests, and peers that speak raw PDUs to it."""

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset, FileDataset
from pydicom.uid import ComprehensiveSRStorage
from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy import Engine, select

from hipnode import ledger
from hipnode.scp import AllowedPeers, Limits, Scp, start_scp
from hipnode.spool import Spool
from hipnode.tables import Base, Instance
from tests.encoded import EXPLICIT, IMPLICIT
from tests.factories import make_radiograph

DX = "1.2.840.10008.5.1.4.1.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
SR = str(ComprehensiveSRStorage)

#: Small deadlines: a test of a slow peer is over in a second.
QUICK = Limits(handshake_s=1, pdu_deadline_s=1, transfer_s=2, idle_s=30)


@dataclass
class Bench:
    """A running SCP and what lies behind it."""

    scp: Scp
    spool: Spool
    sessions: Any
    stored: list[ledger.Recorded] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.scp.port

    def rows(self) -> list[Instance]:
        with ledger.reading(self.sessions) as session:
            return list(session.scalars(select(Instance).order_by(Instance.id)))

    def files(self, folder: str = "instances") -> list[Path]:
        return [self.spool.path(name) for name in self.spool.files(folder)]

    def parts(self) -> list[Path]:
        """Files of transfers that are not whole."""
        return list((self.spool.root / "incoming").iterdir())


def open_ledger(url: str) -> Any:
    """Sessions on a fresh ledger."""
    sessions = ledger.sessions(url)
    Base.metadata.create_all(engine_of(sessions))
    return sessions


def engine_of(sessions: Any) -> Engine:
    engine: Engine = sessions.kw["bind"]
    return engine


def report(**keywords: Any) -> Dataset:
    """A structured report of the study of `make_radiograph`, with just enough in it."""
    film = make_radiograph()
    ds = FileDataset("", {}, file_meta=film.file_meta, preamble=bytes(128))
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.SOPClassUID, ds.SOPInstanceUID = SR, "1.2.3.77"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = film.StudyInstanceUID, "1.2.3.7"
    ds.PatientID, ds.Modality = film.PatientID, "SR"
    for keyword, value in keywords.items():
        setattr(ds, keyword, value)
    return ds


@contextmanager
def running_scp(
    folder: Path,
    *,
    peers: str = "*@127.0.0.0/8",
    limits: Limits = Limits(),  # noqa: B008  frozen
    low_water_bytes: int = 0,
    ssl_context: ssl.SSLContext | None = None,
    database_url: str | None = None,
    **options: Any,
) -> Iterator[Bench]:
    """A node's way in, in this process, on a free port."""
    spool = Spool(folder / "spool", low_water_bytes)
    sessions = open_ledger(database_url or f"sqlite:///{folder / 'ledger.db'}")
    stored: list[ledger.Recorded] = []
    scp = start_scp(
        "HIPNODE",
        "127.0.0.1",
        0,
        spool=spool,
        sessions=sessions,
        peers=AllowedPeers.parse(peers),
        limits=limits,
        on_stored=stored.append,
        ssl_context=ssl_context,
        **options,
    )
    try:
        yield Bench(scp, spool, sessions, stored)
    finally:
        scp.stop(grace_s=2)
        engine_of(sessions).dispose()


@contextmanager
def associated(
    port: int,
    contexts: list[tuple[str, list[str]]],
    *,
    calling: str = "MODALITY",
    called: str = "HIPNODE",
    **options: Any,
) -> Iterator[Association]:
    """A pynetdicom association with the node; whether it was accepted is for the test to ask."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    for abstract, syntaxes in contexts:
        ae.add_requested_context(abstract, syntaxes)
    assoc = ae.associate("127.0.0.1", port, ae_title=called, **options)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def send(port: int, *datasets: Dataset, calling: str = "MODALITY") -> list[int | None]:
    """Store data sets over one association; the status of each, None where no answer came."""
    contexts: dict[tuple[str, str], None] = {}
    for ds in datasets:
        contexts[str(ds.SOPClassUID), str(syntax_of(ds))] = None
    with associated(port, [(c, [s]) for c, s in contexts], calling=calling) as assoc:
        return [getattr(assoc.send_c_store(ds), "Status", None) for ds in datasets]


def syntax_of(ds: Dataset) -> str:
    meta = getattr(ds, "file_meta", None)
    return str(meta.TransferSyntaxUID) if meta is not None else EXPLICIT


def echo(port: int, **options: Any) -> int | None:
    """The status of a C-ECHO; None where there was no association or no answer."""
    with associated(port, [(VERIFICATION, [IMPLICIT])], **options) as assoc:
        return getattr(assoc.send_c_echo(), "Status", None) if assoc.is_established else None


# --- Raw PDUs (PS3.8 section 9.3) ----------------------------------------------------------------


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def associate_rq(
    called: str = "HIPNODE", calling: str = "RAW", abstract: str = DX, syntax: str = EXPLICIT
) -> bytes:
    """An A-ASSOCIATE-RQ with presentation context 1."""
    proposal = item(0x30, abstract.encode()) + item(0x40, syntax.encode())
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4")
    body = struct.pack(">HH", 1, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, b"\1\0\0\0" + proposal) + item(0x50, user)
    return pdu(0x01, body)


def command(elements: dict[int, bytes]) -> bytes:
    """A command set (PS3.7 section 6.3.1)."""
    body = b"".join(struct.pack("<HHL", 0, e, len(v)) + v for e, v in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def store_rq(
    sop_instance_uid: bytes, sop_class_uid: bytes = DX.encode(), message_id: int = 1, data: int = 1
) -> bytes:
    """The command set of a C-STORE-RQ; `data` 0x0101 announces no data set."""
    number = struct.Struct("<H").pack
    return command(
        {
            0x0002: sop_class_uid + b"\0" * (len(sop_class_uid) % 2),
            0x0100: number(1),
            0x0110: number(message_id),
            0x0700: number(0),
            0x0800: number(data),
            0x1000: sop_instance_uid + b"\0" * (len(sop_instance_uid) % 2),
        }
    )


def pdata(control: int, fragment: bytes, context_id: int = 1) -> bytes:
    """A P-DATA-TF with one fragment. control: 1 command, 2 last."""
    return pdu(0x04, struct.pack(">LBB", len(fragment) + 2, context_id, control) + fragment)


class RawPeer:
    """A peer that may say anything."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def associate(self, **options: str) -> "RawPeer":
        self.socket.sendall(associate_rq(**options))
        kind, _ = self.receive()
        assert kind == 0x02, f"PDU type {kind}"
        return self

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: its type and body; (0, b"") when the node closed the connection."""
        try:
            head = self._exactly(6)
            return (head[0], self._exactly(int.from_bytes(head[2:], "big"))) if head else (0, b"")
        except ConnectionResetError:
            return 0, b""

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                return b""
            data += piece
        return data

    def store(self, data_set: bytes, sop_instance_uid: bytes, **options: Any) -> dict[int, bytes]:
        """C-STORE `data_set`; the elements of the answer's command set."""
        self.send(pdata(3, store_rq(sop_instance_uid, **options)))
        for start in range(0, len(data_set) or 1, 16000):
            piece = data_set[start : start + 16000]
            self.send(pdata(2 if start + 16000 >= len(data_set) else 0, piece))
        return self.answer()

    def answer(self) -> dict[int, bytes]:
        """The command set of the next message."""
        kind, body = self.receive()
        assert kind == 0x04, f"PDU type {kind}"
        elements, position = {}, 6
        while position < len(body):
            _, number, length = struct.unpack_from("<HHL", body, position)
            elements[number] = body[position + 8 : position + 8 + length]
            position += 8 + length
        return elements

    def is_cut(self, within_s: float) -> bool:
        """Whether the node ends the connection within this time (an abort before is all right)."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                if not self.socket.recv(4096):
                    return True
            except ConnectionResetError:
                return True
            except TimeoutError:
                return False
        return False


def status_of(answer: dict[int, bytes]) -> int:
    return int.from_bytes(answer[0x0900], "little")
