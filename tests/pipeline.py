"""A node without its SCP, in one process: spool, ledger on SQLite, jobs and a fake detector."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from sqlalchemy.orm import Session

from hipnode import ledger, queue
from hipnode.children import Children
from hipnode.destinations import Destination, DestinationsFile
from hipnode.findings import Detections, Reason
from hipnode.ledger import AnalysisDetail, ImageDecision, ReceivedInstance
from hipnode.packages import ModelPackage, write_package
from hipnode.results import Installation
from hipnode.spool import Spool
from hipnode.status import ReasonCode
from hipnode.tables import Base
from tests.factories import encoded
from workers.analyse_job import AnalyseJob, Loaded
from workers.deliver_job import DeliverJob
from workers.rooms import Policy, Rooms

CLASSES = [
    ("DF", "Displaced femoral neck fracture", "HN-DFN"),
    ("VF", "Valgus-impacted femoral neck fracture", "HN-VFN"),
    ("SF", "Stable intertrochanteric fracture", "HN-SIT"),
    ("UF", "Unstable intertrochanteric fracture", "HN-UIT"),
]


def make_package(folder: Path, id_: str = "hip-test", **changes: Any) -> ModelPackage:
    """A package whose weights are never looked at."""
    content: dict[str, Any] = {
        "id": id_,
        "version": "1.0.0",
        "name": "Hip test package",
        "manufacturer": "hipnode project",
        "origin": "Made for a test; it has never seen an image.",
        "recipe": "none",
        "task": "detect",
        "network": "damoyolo_t",
        "body_parts": ["HIP", "PELVIS"],
        "views": ["AP"],
        "laterality_handling": "none",
        "limits": ["Research use only."],
        "classes": [
            {"name": name, "meaning": meaning, "code": code, "scheme": "99HIPNODE"}
            for name, meaning, code in CLASSES
        ],
        "input": {"width": 512, "height": 512},
        "weights": {"licence": "Apache-2.0", "training_data": "none"},
        "decision": {"thresholds": {name: 0.5 for name, _, _ in CLASSES}},
        **changes,
    }
    return write_package(folder / id_, content, b"no weights", "# A test package\n")


class FakeDetector:
    """Sees one displaced fracture in each image whose middle is bright enough."""

    def __init__(self, score: float = 0.9) -> None:
        self.score = score
        self.calls: list[int] = []
        self.before: Callable[[Sequence[NDArray[np.uint8]]], None] = lambda images: None

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        self.calls.append(len(images))
        self.before(images)
        return [
            Detections(
                np.array([[0.2, 0.2, 0.6, 0.5]], np.float32) * np.array([*i.shape[::-1]] * 2, np.float32),
                np.array([self.score], np.float32),
                np.array([0], np.int64),
            )
            for i in images
        ]


class Clock:
    """Real time, moved ahead by hand."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def forward(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class Node:
    """What a test handles: put studies in, run the jobs, look at the ledger."""

    folder: Path
    rooms: Rooms
    package: ModelPackage
    detector: FakeDetector
    analyse: AnalyseJob
    deliver: DeliverJob
    clock: Clock
    rung: list[str] = field(default_factory=list)

    def receive(self, ds: Dataset, calling: str = "CR_ROOM") -> tuple[int, int]:
        """Store one instance as the SCP does. Row ids of the study and of the instance."""
        rooms = self.rooms
        stored = rooms.spool.write_instance(
            encoded(ds),
            sop_class_uid=ds.SOPClassUID,
            sop_instance_uid=ds.SOPInstanceUID,
            transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
        )
        received = ReceivedInstance(
            study_instance_uid=ds.StudyInstanceUID,
            series_instance_uid=ds.SeriesInstanceUID,
            sop_instance_uid=ds.SOPInstanceUID,
            sop_class_uid=ds.SOPClassUID,
            transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
            patient_id=ds.PatientID,
            accession_number=ds.AccessionNumber,
            calling_ae_title=calling,
            peer_address="127.0.0.1",
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            relative_path=stored.relative_path,
        )
        with ledger.transaction(rooms.sessions) as session:
            recorded = ledger.record_instance(session, received, self.clock())
        return recorded.study_id, recorded.instance_id

    def queue_studies(self, package_id: str | None = None, flags: Sequence[Reason] = ()) -> list[int]:
        """Close every study that is RECEIVING, all its images selected. Analysis ids."""
        self.clock.forward(11)
        queued = []
        with ledger.transaction(self.rooms.sessions) as session:
            for opened in ledger.studies_due_to_close(session, self.clock(), 10, 300, set()):
                decisions = [
                    ImageDecision(
                        image.instance_id,
                        "analyse_flag" if flags else "analyse",
                        "test",
                        Reason.of(ReasonCode.HIP_AP),
                        tuple(flags),
                    )
                    for image in ledger.sources_of_study(session, opened.study_id)
                ]
                ledger.queue_analysis(
                    session, opened, package_id or self.package.id, None, decisions, self.clock()
                )
                queued.append(opened.analysis_id)
        return queued

    def put(self, *datasets: Dataset, **options: Any) -> int:
        """One study in, queued. Its analysis id."""
        for ds in datasets:
            self.receive(ds)
        (analysis_id,) = self.queue_studies(**options)
        return analysis_id

    def analysis(self, analysis_id: int) -> AnalysisDetail:
        """Everything the ledger says of an analysis."""
        with ledger.reading(self.rooms.sessions) as session:
            study_id = self._study_of(session, analysis_id)
            detail = ledger.show_study(session, study_id)
        assert detail is not None
        return next(a for a in detail.analyses if a.analysis_id == analysis_id)

    def beat(self, name: str = "analyse@test:1") -> None:
        """A heartbeat of an analyse worker with the package."""
        with ledger.transaction(self.rooms.sessions) as session:
            beat = ledger.WorkerBeat(name, "analyse", {self.package.id: self.package.sha256}, "cpu")
            ledger.heartbeat(session, beat, self.clock())

    def sweep(self) -> ledger.SweepReport:
        """What the sweep finds and does."""
        policy = self.rooms.policy
        with ledger.transaction(self.rooms.sessions) as session:
            return ledger.sweep(
                session, self.clock(), policy.lease_s, policy.max_attempts, policy.analysis_deadline_s
            )

    def results_on_disk(self) -> list[str]:
        """Relative paths of all result files."""
        return list(self.rooms.spool.files("results"))

    @staticmethod
    def _study_of(session: Session, analysis_id: int) -> int:
        from hipnode.tables import Analysis

        return session.get_one(Analysis, analysis_id).study_id


def destinations_toml(*destinations: Destination) -> str:
    """The text of a destinations.toml."""
    parts = []
    for one in destinations:
        parts.append(
            f'[[destination]]\nname = "{one.name}"\nport = {one.port}\n'
            + (f'ae_title = "{one.ae_title}"\n' if one.ae_title else "")
            + ("sender = true\n" if one.sender else f'host = "{one.host}"\n')
            + f"kinds = {list(one.kinds)!r}\n".replace("'", '"')
            + f'sr_class = "{one.sr_class}"\nsc_max_px = {one.sc_max_px}\n'
        )
    return "\n".join(parts)


@contextmanager
def node(
    folder: Path, children: Children, *destinations: Destination, policy: Policy | None = None, **options: Any
) -> Iterator[Node]:
    """A node whose results go to `destinations`; its bells are noted in `rung` and reach nobody."""
    data = folder / "data"
    data.mkdir()
    file = data / "destinations.toml"
    file.write_text(destinations_toml(*destinations))
    sessions = ledger.sessions(f"sqlite:///{data / 'hipnode.db'}")
    Base.metadata.create_all(sessions.kw["bind"])
    clock = Clock()
    rooms = Rooms(
        sessions=sessions,
        spool=Spool(data / "spool"),
        children=children,
        destinations=DestinationsFile(file),
        installation=Installation("2.25.1234", "HIPNODE"),
        owner="test:1",
        policy=policy or Policy(delivery_retry_s=30, dimse_timeout_s=2),
        clock=clock,
    )
    package = make_package(folder / "packages")
    detector = FakeDetector()
    job = AnalyseJob(rooms, {package.id: Loaded(package, detector)}, options.get("batch_size", 4))
    deliver = DeliverJob(rooms, {package.id: package}, jitter=lambda: 0.0)
    made = Node(folder, rooms, package, detector, job, deliver, clock)
    queue.configure("filesystem://", data / "broker")
    try:
        yield made
    finally:
        queue.bell().close()
        sessions.kw["bind"].dispose()


def wait_until(ready: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Call `ready` until it gives something true."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := ready():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")
