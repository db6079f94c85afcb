"""A PACS for the demo: Orthanc in a process of its own where it is installed, else a small archive AE of ours.

The small one is no product: no query, no index, files in one folder.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

from hipnode.errors import HipnodeError
from hipnode.logs import hashed


class Archive(Protocol):
    """What the demo asks of a PACS."""

    name: str
    port: int

    def files(self, study_instance_uid: str) -> list[Path]:
        """DICOM files of the study as the archive holds them."""

    def stop(self) -> None:
        """End it."""


class OrthancArchive:
    """Orthanc with a configuration and a folder of its own, on the loopback interface."""

    def __init__(self, folder: Path, ae_title: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port, self._http = folder, _free_port(), _free_port()
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "Name": "hipnode demo PACS",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "DicomAet": ae_title,
                    "DicomPort": self.port,
                    "HttpPort": self._http,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "Plugins": [],
                }
            )
        )
        program = self.program()
        if program is None:
            raise HipnodeError("Orthanc is not installed.")
        with (folder / "orthanc.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, folder / "orthanc.json"], stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 30
        while True:
            try:
                version = self._get("/system")["Version"]
                break
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.stop()
                    raise HipnodeError("Orthanc is installed but did not start.") from error
                time.sleep(0.1)
        self.name = f"Orthanc {version}"

    @staticmethod
    def program() -> str | None:
        """Where Orthanc is installed; Debian keeps it outside a user's PATH."""
        return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")

    def _request(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}{path}", data, timeout=30) as answer:
            return bytes(answer.read())

    def _get(self, path: str) -> Any:
        return json.loads(self._request(path))

    def files(self, study_instance_uid: str) -> list[Path]:
        """DICOM files of the study, fetched over REST."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        found = []
        for instance in json.loads(self._request("/tools/find", query)):
            path = self.folder / f"{instance}.dcm"
            path.write_bytes(self._request(f"/instances/{instance}/file"))
            found.append(path)
        return found

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SmallArchive:
    """C-STORE and C-ECHO SCP on the loopback interface that writes each instance once."""

    name = "a small archive AE of hipnode's own"

    def __init__(self, folder: Path, ae_title: str, port: int = 0) -> None:
        self.folder, self.ae_title = folder, ae_title
        folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=ae_title)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax)
        ae.add_supported_context(Verification)
        server = ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
        )
        assert isinstance(server, ThreadedAssociationServer)  # noqa: S101  # block=False gives the server
        self._server = server
        self.port: int = server.server_address[1]

    def _keep(self, event: evt.Event) -> int:
        path = self.folder / f"{hashed(str(event.request.AffectedSOPInstanceUID))}.dcm"
        if not path.exists():
            event.dataset  # noqa: B018  # raises here, not later, if the data set cannot be read
            path.write_bytes(event.encoded_dataset())
        return 0x0000

    def files(self, study_instance_uid: str) -> list[Path]:
        """The kept files of a study."""
        return [p for p in sorted(self.folder.glob("*.dcm")) if self._study_of(p) == study_instance_uid]

    @staticmethod
    def _study_of(path: Path) -> str:
        header: Dataset = dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
        return str(header.get("StudyInstanceUID", ""))

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
