"""A PACS for tests: a collecting storage SCP whose answers follow a script."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from hipnode.destinations import Destination, RemoteAE

HANG = "hang"  # no answer until the test ends
ABORT = "abort"  # A-ABORT in place of an answer
CUT = "cut"  # the TCP connection closed in place of an answer

TAKEN = (ComprehensiveSRStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
BOTH = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass
class Stored:
    """One C-STORE the PACS met: what it answered and what came in."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    answer: Any
    data_set: bytes  #: as encoded on the wire, without file meta information
    association: int

    @property
    def dataset(self) -> Dataset:
        syntax = self.transfer_syntax_uid
        return dcmread(BytesIO(self.file), force=True) if syntax else Dataset()

    @property
    def file(self) -> bytes:
        from pydicom.dataset import FileMetaDataset
        from pydicom.filewriter import write_file_meta_info

        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = self.sop_class_uid
        meta.MediaStorageSOPInstanceUID = self.sop_instance_uid
        meta.TransferSyntaxUID = self.transfer_syntax_uid
        buffer = BytesIO()
        buffer.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(buffer, meta, enforce_standard=False)
        return buffer.getvalue() + self.data_set


@dataclass
class Pacs:
    """Answers 0x0000, or what `answers` holds: a status, a Dataset, HANG, ABORT or CUT.

    `answers` maps a SOP Class UID to a list taken from the front; the last one stays.
    """

    answers: dict[str, list[Any]] = field(default_factory=dict)
    received: list[Stored] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  #: "calling>called" of each association request
    port: int = 0
    ae_title: str = "PACS"
    release: threading.Event = field(default_factory=threading.Event)
    _associations: dict[int, int] = field(default_factory=dict)

    @property
    def remote(self) -> RemoteAE:
        return RemoteAE(self.ae_title, "127.0.0.1", self.port)

    def destination(self, name: str = "pacs", **options: Any) -> Destination:
        return Destination(name, self.ae_title, "127.0.0.1", self.port, **options)

    @property
    def kept(self) -> dict[str, Stored]:
        """What the archive holds: the first object that came under each SOP Instance UID."""
        kept: dict[str, Stored] = {}
        for one in self.received:
            if isinstance(one.answer, int) and (one.answer == 0 or one.answer >> 12 == 0xB):
                kept.setdefault(one.sop_instance_uid, one)
        return kept

    def kept_of(self, sop_class_uid: str) -> list[Stored]:
        return [one for one in self.kept.values() if one.sop_class_uid == sop_class_uid]

    @property
    def repeats(self) -> int:
        """How many objects were stored more than once."""
        return sum(n - 1 for n in Counter(one.sop_instance_uid for one in self.received).values())

    def next_answer(self, sop_class_uid: str) -> Any:
        script = self.answers.get(sop_class_uid) or self.answers.get("*") or [0x0000]
        return script.pop(0) if len(script) > 1 else script[0]

    def handle_store(self, event: evt.Event) -> Any:
        request = event.request
        answer = self.next_answer(str(request.AffectedSOPClassUID))
        status = answer.Status if isinstance(answer, Dataset) else answer
        number = self._associations.setdefault(id(event.assoc), len(self._associations) + 1)
        self.received.append(
            Stored(
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                status,
                request.DataSet.getvalue(),
                number,
            )
        )
        if answer == HANG:
            self.release.wait(30)
            return 0x0000
        if answer == ABORT:
            event.assoc.abort()
            return 0x0000
        if answer == CUT:
            event.assoc.dul.socket.close()
            time.sleep(0.1)
            return 0x0000
        return answer

    def handle_requested(self, event: evt.Event) -> None:
        asked = event.assoc.requestor.primitive
        self.requests.append(f"{asked.calling_ae_title}>{asked.called_ae_title}")


@contextmanager
def pacs(
    *,
    takes: tuple[str, ...] = TAKEN,
    syntaxes: tuple[str, ...] = BOTH,
    answers: dict[str, list[Any]] | None = None,
    require_calling: list[str] | None = None,
    require_called: bool = False,
    on_data: Callable[[evt.Event], None] | None = None,
    port: int = 0,
) -> Iterator[Pacs]:
    """Run a PACS on a free port (or `port`) until the block ends."""
    archive = Pacs(answers=answers or {})
    ae = AE(ae_title=archive.ae_title)
    for sop_class in takes:
        ae.add_supported_context(sop_class, list(syntaxes))
    ae.add_supported_context(Verification)
    ae.require_calling_aet = require_calling or []
    ae.require_called_aet = require_called
    handlers: list[Any] = [
        (evt.EVT_C_STORE, archive.handle_store),
        (evt.EVT_REQUESTED, archive.handle_requested),
    ]
    if on_data is not None:
        handlers.append((evt.EVT_DATA_RECV, on_data))
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    archive.port = int(server.server_address[1])
    try:
        yield archive
    finally:
        archive.release.set()
        server.shutdown()
