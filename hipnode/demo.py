"""The one-command tour: a node, a PACS beside it, a worklist of studies, and what came back.

Real parts throughout: `hipnode up` in processes of its own, C-STORE over TCP, Orthanc as the PACS
where it is installed. Films are synthetic phantoms; a class the shipped weights miss shows as missed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import JPEGLSLossless, generate_uid
from pynetdicom import AE, build_context
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from hipnode import ledger
from hipnode.archive import Archive, OrthancArchive, SmallArchive
from hipnode.errors import HipnodeError
from hipnode.status import TERMINAL

_OUTCOME_NAMES = {"findings", "none"}


class DemoFailed(HipnodeError):
    """The tour did not end as it should; the text says at which study."""


@dataclass
class DemoStudy:
    """One study of the worklist and how it should end."""

    name: str
    tells: str
    files: list[Path]
    status: str
    outcomes: set[str] = field(default_factory=set)
    reason: str | None = None
    sent_as: str = "DEMO_CR"
    times: int = 1
    truth: str = ""
    seconds: float | None = None

    @property
    def study_instance_uid(self) -> str:
        """StudyInstanceUID of its first file."""
        return str(dcmread(self.files[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for what came back; made anew.")] = Path("demo-out"),
    films: Annotated[
        Path | None, typer.Option(help="A folder of your own DICOM films to send as well.")
    ] = None,
) -> None:
    """Start a node and a PACS on this machine, send studies, show what comes back, and stop both."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    began = time.monotonic()
    if out.exists() and any(out.iterdir()) and not (out / ".hipnode-demo").exists():
        raise DemoFailed(f"{out} holds files that are not the demo's; name another folder with --out.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / ".hipnode-demo").touch()
    with tempfile.TemporaryDirectory(prefix="hipnode-demo-") as temporary:
        tour = _Tour(console, Path(temporary), out)
        try:
            studies = tour.make_studies(films)
            with tour.node():
                wrong = tour.run(studies)
        finally:
            tour.pacs.stop()
    console.print(f"{time.monotonic() - began:.0f} s in all. What came back is in {out}/<study>/.")
    if wrong:
        raise DemoFailed("Not as expected: " + "; ".join(wrong))


class _Tour:
    def __init__(self, console: Console, work: Path, out: Path) -> None:
        self.console, self.work, self.out = console, work, out
        self.port, late = _free_port(), _free_port()
        self.pacs: Archive = (
            OrthancArchive(work / "pacs", "PACS")
            if OrthancArchive.program()
            else SmallArchive(work / "pacs", "PACS")
        )
        self.late_port = late
        data = work / "data"
        data.mkdir()
        (data / "destinations.toml").write_text(
            f'[[destination]]\nname = "PACS"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {self.pacs.port}\n'
            'sources = ["DEMO_CR"]\n\n'
            f'[[destination]]\nname = "LATE_PACS"\nae_title = "LATE_PACS"\nhost = "127.0.0.1"\nport = {late}\n'
            'sources = ["DEMO_LATE"]\n'
        )
        self._sessions = ledger.sessions(f"sqlite:///{data / 'hipnode.db'}")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HIPNODE_")},
            "HIPNODE_DATA": str(data),
            "HIPNODE_PORT": str(self.port),
            "HIPNODE_HTTP_PORT": str(_free_port()),
            "HIPNODE_STABLE_AGE_S": "2",
            "HIPNODE_SWEEP_S": "2",
            "HIPNODE_RETRY_S": "1",
            "HIPNODE_DELIVERY_RETRY_S": "2",
            "HIPNODE_DELIVERY_GIVE_UP_S": "20",
            # a data folder of its own must not inherit a hipnode.env of the current folder
            "HIPNODE_ENV_FILE": os.devnull,
        }

    # --- the worklist ---

    def make_studies(self, films: Path | None) -> list[DemoStudy]:
        """Write the worklist's DICOM files and say how each study should end."""
        folder = self.work / "phantoms"
        self.console.print("Making phantom studies from seeds the shipped weights have not seen ...")
        self._hipnode("phantom", "--demo", "--out", str(folder))
        phantoms = {p.stem: p for p in sorted(folder.glob("*.dcm"))}
        if len(phantoms) != 5:
            raise DemoFailed(f"Five phantoms were expected, {len(phantoms)} were made.")
        seen = set(_OUTCOME_NAMES)
        studies = [
            DemoStudy(f"phantom-{name}", f"phantom, {name}", [path], "completed", seen, truth=name)
            for name, path in phantoms.items()
        ]
        base = dcmread(phantoms["UF"])
        other = self.work / "others"
        other.mkdir()

        compressed = _as_new_study(base)
        compressed.compress(JPEGLSLossless, generate_instance_uid=False)
        studies.append(
            DemoStudy("compressed", "JPEG-LS lossless", [_save(compressed, other)], "completed", seen)
        )

        knee = _as_new_study(base)
        knee.BodyPartExamined, knee.SeriesDescription, knee.StudyDescription = "KNEE", "Knee AP", "Knee"
        for keyword in ("ProtocolName", "AnatomicRegionSequence", "AcquisitionDeviceProcessingDescription"):
            if keyword in knee:
                delattr(knee, keyword)
        studies.append(
            DemoStudy("knee", "a knee", [_save(knee, other)], "not_applicable", reason="OTHER_REGION")
        )

        damaged = _as_new_study(base)
        damaged.compress(JPEGLSLossless, generate_instance_uid=False)
        damaged.PixelData = damaged.PixelData[: len(damaged.PixelData) // 3 // 2 * 2] + bytes(64)
        studies.append(
            DemoStudy(
                "damaged", "damaged pixel data", [_save(damaged, other)], "failed", {"error"}, "DECODE_FAILED"
            )
        )

        twice = _as_new_study(base)
        studies.append(DemoStudy("twice", "sent twice", [_save(twice, other)], "completed", seen, times=2))

        late = _as_new_study(base)
        studies.append(
            DemoStudy(
                "late",
                "its destination is down",
                [_save(late, other)],
                "failed",
                seen,
                "DESTINATION_DOWN",
                "DEMO_LATE",
            )
        )
        return studies + _own_films(films)

    # --- the node ---

    @contextmanager
    def node(self) -> Iterator[None]:
        """`hipnode up` in a process group of its own, ended on leaving."""
        with (self.out / "node.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hipnode", "up"],
                env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                self._wait_for_echo(process)
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def _wait_for_echo(self, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if process.poll() is not None:
                raise DemoFailed(f"The node ended at once; {self.out / 'node.log'} says why.")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise DemoFailed(f"The node did not answer within 60 s; see {self.out / 'node.log'}.")

    def _hipnode(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hipnode", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(
                f"hipnode {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-400:]}"
            )
        return done.stdout

    def _ledger(self) -> dict[str, ledger.StudySummary]:
        with ledger.reading(self._sessions) as session:
            return {row.study_instance_uid: row for row in ledger.list_studies(session)}

    # --- the tour ---

    def run(self, studies: list[DemoStudy]) -> list[str]:
        """Send, wait, replay, show; returns what was not as expected."""
        self.console.print(f"The PACS is {self.pacs.name}; the node listens on port {self.port}.")
        sent = {}
        for study in studies:
            for _ in range(study.times):
                _send(study.files, self.port, study.sent_as)
            sent[study.study_instance_uid] = time.monotonic()
        self._wait(studies, sent)
        rows = self._ledger()
        self._show(studies, rows, "What the node says")
        wrong = self._compare(studies, rows)
        wrong += self._bring_home(studies)
        self._collect(studies)
        return wrong

    def _wait(self, studies: list[DemoStudy], sent: dict[str, float]) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("waiting")
            end = time.monotonic() + 150
            while time.monotonic() < end:
                rows = self._ledger()
                open_ = []
                for study in studies:
                    row = rows.get(study.study_instance_uid)
                    if row is None or (row.status is not None and row.status not in TERMINAL):
                        open_.append(study.name)
                    elif study.seconds is None:
                        study.seconds = time.monotonic() - sent[study.study_instance_uid]
                if not open_:
                    return
                progress.update(
                    task,
                    description=f"{len(studies) - len(open_)} of {len(studies)} done, waiting for {', '.join(open_)}",
                )
                time.sleep(0.5)

    def _show(self, studies: list[DemoStudy], rows: dict[str, ledger.StudySummary], title: str) -> None:
        table = Table(
            "study", "what it is", "status", "outcome", "reason", "findings", "seconds", title=title
        )
        for study in studies:
            row = rows.get(study.study_instance_uid)
            table.add_row(
                study.name,
                study.tells,
                *((row.status, row.outcome, row.reason_code) if row else ("missing", "", "")),
                self._findings(study),
                f"{study.seconds:.0f}" if study.seconds is not None else "",
            )
        self.console.print(table)

    def _findings(self, study: DemoStudy) -> str:
        with ledger.reading(self._sessions) as session:
            ids = ledger.resolve_study(session, study.study_instance_uid)
            detail = ledger.show_study(session, ids[0]) if ids else None
        found = [
            f"{f.hip or ''} {f.class_name} {f.score:.2f}".strip()
            for image in (detail.analyses[0].images if detail and detail.analyses else ())
            for f in image.findings
        ]
        missed = study.truth not in ("", "none") and not any(study.truth in f for f in found)
        return ", ".join(found) + (f" (missed: {study.truth})" if missed else "")

    def _compare(self, studies: list[DemoStudy], rows: dict[str, ledger.StudySummary]) -> list[str]:
        wrong = []
        for study in studies:
            row = rows.get(study.study_instance_uid)
            if row is None:
                wrong.append(f"{study.name} is not in the ledger")
            elif study.status and row.status != study.status:
                wrong.append(f"{study.name} is {row.status}, not {study.status}")
            elif study.reason and row.reason_code != study.reason:
                wrong.append(f"{study.name} has reason {row.reason_code}, not {study.reason}")
            elif study.outcomes and row.outcome not in study.outcomes:
                wrong.append(f"{study.name} has outcome {row.outcome}")
            if study.times > 1 and len(self._back(study, self.pacs)) != 2:
                wrong.append(
                    f"{study.name}: {len(self._back(study, self.pacs))} results in the PACS, not one SR and one SC"
                )
            if study.name == "damaged" and len(self._back(study, self.pacs)) != 2:
                wrong.append("damaged: its notice is not in the PACS")
        return wrong

    def _bring_home(self, studies: list[DemoStudy]) -> list[str]:
        late = next(s for s in studies if s.name == "late")
        self.console.print(
            "Now the missing destination comes up, and the administrator types:\n[bold]$ hipnode replay --failed[/bold]"
        )
        archive = SmallArchive(self.work / "late", "LATE_PACS", self.late_port)
        try:
            self.console.print(self._hipnode("replay", "--failed").strip(), highlight=False)
            waiting = [s for s in studies if s.status == "failed"]
            end = time.monotonic() + 60
            while time.monotonic() < end:
                rows = self._ledger()
                if all(rows[s.study_instance_uid].status in TERMINAL for s in waiting):
                    break
                time.sleep(0.5)
            self._show(waiting, rows, "After the replay")
            status, back = rows[late.study_instance_uid].status, self._back(late, archive)
            self._keep(late, back)
        finally:
            archive.stop()
        if status != "completed" or len(back) != 2:
            return [f"late is {status} with {len(back)} results after the replay"]
        return []

    def _back(self, study: DemoStudy, archive: Archive) -> list[FileDataset]:
        return [dcmread(path) for path in archive.files(study.study_instance_uid)]

    def _collect(self, studies: list[DemoStudy]) -> None:
        for study in studies:
            original = self.out / study.name / "original"
            original.mkdir(parents=True, exist_ok=True)
            for path in study.files:
                shutil.copy(path, original / path.name)
            if study.name != "late":
                self._keep(study, self._back(study, self.pacs))

    def _keep(self, study: DemoStudy, objects: list[FileDataset]) -> None:
        folder = self.out / study.name
        folder.mkdir(parents=True, exist_ok=True)
        overlays = 0
        for ds in objects:
            if ds.Modality == "SR":
                ds.save_as(folder / "sr.dcm")
                (folder / "sr.txt").write_text(sr_text(ds), encoding="utf-8")
            else:
                overlays += 1
                stem = "overlay" if overlays == 1 else f"overlay-{overlays}"
                ds.save_as(folder / f"{stem}.dcm")
                Image.fromarray(np.asarray(ds.pixel_array)).save(folder / f"{stem}.png")


def _own_films(folder: Path | None) -> list[DemoStudy]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise DemoFailed(f"{folder} is no folder; --films takes a folder of DICOM files.")
    by_study: dict[str, list[Path]] = {}
    left_out: list[str] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            ds = dcmread(path, specific_tags=["StudyInstanceUID", "SOPClassUID"], stop_before_pixels=True)
            by_study.setdefault(str(ds.StudyInstanceUID), []).append(path)
        except (InvalidDicomError, AttributeError):
            left_out.append(path.name)  # a folder of films holds other files too
    if not by_study:
        raise DemoFailed(f"{folder} holds no DICOM file; {len(left_out)} other files were passed over.")
    return [
        DemoStudy(f"film-{number}", ", ".join(p.name for p in paths)[:40], paths, "")
        for number, paths in enumerate(by_study.values(), 1)
    ]


def _as_new_study(ds: FileDataset) -> FileDataset:
    new = deepcopy(ds)
    new.StudyInstanceUID, new.SeriesInstanceUID, new.SOPInstanceUID = (
        generate_uid(),
        generate_uid(),
        generate_uid(),
    )
    new.file_meta.MediaStorageSOPInstanceUID = new.SOPInstanceUID
    return new


def _save(ds: FileDataset, folder: Path) -> Path:
    path = folder / f"{len(list(folder.iterdir())):03d}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _send(files: list[Path], port: int, calling_ae_title: str) -> None:
    """C-STORE each file in the transfer syntax it has."""
    ae = AE(ae_title=calling_ae_title)
    headers = [dcmread(path, stop_before_pixels=True) for path in files]
    wanted = {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in headers}
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in sorted(wanted)]
    assoc = ae.associate("127.0.0.1", port, contexts=contexts, ae_title="HIPNODE")
    if not assoc.is_established:
        raise DemoFailed("The node did not accept the association.")
    try:
        for path in files:
            status = assoc.send_c_store(path)
            if "Status" not in status or status.Status != 0x0000:
                raise DemoFailed(f"The node answered {status.get('Status')} to {path.name}.")
    finally:
        assoc.release()


def sr_text(ds: FileDataset) -> str:
    """The content tree of a Structured Report, one content item a line, as a reader would see it."""
    lines: list[str] = []

    def walk(item: Any, depth: int) -> None:
        name = (
            item.ConceptNameCodeSequence[0].CodeMeaning
            if item.get("ConceptNameCodeSequence")
            else item.ValueType
        )
        lines.append("  " * depth + f"{name}{_value(item)}")
        for child in item.get("ContentSequence") or ():
            walk(child, depth + 1)

    walk(ds, 0)
    return "\n".join(lines) + "\n"


def _value(item: Any) -> str:
    match item.ValueType:
        case "TEXT":
            return f": {item.TextValue}"
        case "CODE":
            return f": {item.ConceptCodeSequence[0].CodeMeaning}"
        case "NUM":
            measured = item.MeasuredValueSequence[0]
            return f": {measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeMeaning}"
        case "UIDREF":
            return f": {item.UID}"
        case "PNAME":
            return f": {item.PersonName}"
        case "IMAGE":
            return f": {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID}"
        case "SCOORD":
            return f": {item.GraphicType} {' '.join(f'{v:.1f}' for v in item.GraphicData)}"
        case _:
            return ""
