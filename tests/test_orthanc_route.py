"""The whole node as a hospital meets it: Orthanc routes stable studies to `hipnode up`, results come back.

The network is real with seeded random weights, so that what it finds says nothing; what comes back,
how fast, whether it is valid and whether it starts a loop is what is looked at.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.dicom_checks import check_file
from tests.factories import make_radiograph
from tests.node import PARTS, ROOT, Node, site_selection
from tests.packages import make_package
from tests.peers import Orthanc, Postgres, Redis, stop, wait_for

# What a PACS does that knows no better: the whole study, and again when our results arrive. A loop would show.
CLUMSY_ROUTE = """
function OnStableStudy(studyId, tags, metadata)
   RestApiPost('/modalities/hipnode/store', DumpJson({ Resources = { studyId }, Synchronous = false }))
end
"""
SHIPPED_ROUTE = (ROOT / "deploy" / "orthanc" / "route.lua").read_text(encoding="utf-8")
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "jpeg-ls": JPEGLSLossless,
    "j2k-lossless": JPEG2000Lossless,
    "j2k": JPEG2000,
}
WITHIN_S = float(os.environ.get("HIPNODE_RESULTS_WITHIN_S", "30"))
DONE = ("completed", "failed", "not_applicable")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of the real network, small input, seeded random weights."""
    torch = pytest.importorskip("torch")
    from workers.detector.checkpoint import weights_bytes
    from workers.detector.damoyolo import damoyolo_t

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("packages")
    weights = weights_bytes(damoyolo_t(4).state_dict())
    make_package(folder / "hip-test", weights, input={"width": 128, "height": 128})
    return folder


@dataclass(frozen=True)
class Site:
    """How the node runs: its processes, where database and broker are; and Orthanc's way of routing to it."""

    parts: dict[str, list[str]]
    settings: dict[str, str]
    route: str


@pytest.fixture(params=["embedded", "production"])
def site(request: pytest.FixtureRequest) -> Site:
    """`hipnode up` on SQLite and files; or single parts, two analyse workers, on PostgreSQL and Redis."""
    if request.param == "embedded":
        return Site({"up": ["-m", "hipnode", "up"]}, {}, CLUMSY_ROUTE)
    postgres: Postgres = request.getfixturevalue("postgres")
    redis: Redis = request.getfixturevalue("redis")
    settings = {"HIPNODE_DATABASE_URL": postgres.database(), "HIPNODE_BROKER_URL": redis.url}
    return Site(PARTS, settings, SHIPPED_ROUTE)


@contextmanager
def routed_node(tmp_path: Path, package: Path, site: Site) -> Iterator[tuple[Orthanc, Node]]:
    """Orthanc with the route, and a node that sends back to it."""
    folder = tmp_path / "orthanc"
    folder.mkdir()
    orthanc = Orthanc(folder, lua=site.route)
    orthanc.ae_title = "PACS"
    node = Node(
        tmp_path / "node",
        orthanc.dicom_port,
        HIPNODE_PACKAGES=str(package),
        HIPNODE_SELECTION_FILE=str(site_selection(tmp_path, "hip-test")),
        HIPNODE_STABLE_AGE_S="2",
        HIPNODE_LEASE_S="60",
        **site.settings,
    )
    node.parts = site.parts
    orthanc.start()
    try:
        orthanc.know("hipnode", "HIPNODE", node.port)
        if "serve" in site.parts:
            node.hipnode("db", "upgrade")
        for part in site.parts:
            node.start(part)
        node.listens()
        yield orthanc, node
    finally:
        node.stop()
        orthanc.stop()


def results_of(orthanc: Orthanc, study_uid: str) -> list[bytes]:
    """The SR and SC objects of a study in the archive."""
    found = orthanc.instances(StudyInstanceUID=study_uid)
    tags = {i: orthanc.get(f"/instances/{i}/simplified-tags") for i in found}
    return [orthanc.file(i) for i, t in tags.items() if t.get("Manufacturer") == "hipnode"]


def check_results_of(orthanc: Orthanc, study_uid: str, tmp_path: Path) -> Counter[str]:
    """Judge each result of a study; counts them by modality."""
    kinds: Counter[str] = Counter()
    for number, content in enumerate(results_of(orthanc, study_uid)):
        path = tmp_path / f"{study_uid[-8:]}-{number}.dcm"
        path.write_bytes(content)
        kinds[str(check_file(path).Modality)] += 1
    return kinds


def jobs(orthanc: Orthanc) -> list[dict[str, Any]]:
    return list(orthanc.get("/jobs?expand"))


def settle(orthanc: Orthanc, node: Node, studies: list[str]) -> dict[str, dict[str, Any]]:
    """Wait until every study is at its end, its results have been routed to the node again, and no job runs."""
    wait_for(lambda: all(u in node.studies() for u in studies), "every study arrives", 120, every_s=1)

    def ended() -> bool:
        rows = node.studies()
        return all(rows[u]["status"] in DONE for u in studies)

    wait_for(ended, "every study ends", 120, every_s=1)

    def quiet() -> bool:
        before = len(jobs(orthanc))
        if any(job["State"] in ("Pending", "Running") for job in jobs(orthanc)):
            return False
        time.sleep(3.5)  # longer than Orthanc's StableAge and the node's stable_age_s together
        return len(jobs(orthanc)) == before

    wait_for(quiet, "the route falls quiet", 120, every_s=0.5)
    return node.studies()


def stable_to_delivered_s(node: Node, study_uid: str) -> float:
    """Seconds from QUEUED to the end, by the node's own clock."""
    analysis = node.show(study_uid)["analyses"][0]
    queued, ended = (datetime.fromisoformat(analysis[k]) for k in ("queued_at", "ended_at"))
    return (ended - queued).total_seconds()


def test_routed_studies_come_back_once_and_valid_in_every_transfer_syntax(
    tmp_path: Path, package: Path, site: Site
):
    films = {
        name: make_radiograph(seed=10 + n, transfer_syntax=syntax, AccessionNumber=name)
        for n, (name, syntax) in enumerate(SYNTAXES.items())
    }
    knee = make_radiograph(
        seed=40, BodyPartExamined="KNEE", SeriesDescription="Knee", StudyDescription="Knee"
    )
    for keyword in ("ProtocolName", "AnatomicRegionSequence", "ViewCodeSequence"):
        if keyword in knee:
            delattr(knee, keyword)
    with routed_node(tmp_path, package, site) as (orthanc, node):
        for ds in (*films.values(), knee):
            path = tmp_path / "film.dcm"
            ds.save_as(path, enforce_file_format=True)
            orthanc.post("/instances", path.read_bytes())
        uids = [str(ds.StudyInstanceUID) for ds in films.values()]
        rows = settle(orthanc, node, [*uids, str(knee.StudyInstanceUID)])
        for name, uid in zip(films, uids, strict=True):
            assert rows[uid]["status"] == "completed", (name, rows[uid])
            assert check_results_of(orthanc, uid, tmp_path) == {"SR": 1, "OT": 1}, name
            assert stable_to_delivered_s(node, uid) < WITHIN_S
            detail = node.show(uid)
            assert len(detail["analyses"]) == 1, "our own results started another analysis"
            # the clumsy route sent our own results back to us, the shipped one did not
            expected = {"source", "own"} if site.route == CLUMSY_ROUTE else {"source"}
            assert {i["role"] for i in detail["instances"]} == expected
        assert rows[str(knee.StudyInstanceUID)]["reason_code"] == "OTHER_REGION"
        assert results_of(orthanc, str(knee.StudyInstanceUID)) == []
        assert [job for job in jobs(orthanc) if job["State"] == "Failure"] == []
        assert all(process.poll() is None for process in node.processes.values())


def test_real_films_come_back_analysed(tmp_path: Path, package: Path, films: Path):
    """RG2 is a hip without view or side, in three compressions of one SOP Instance: a revision each."""
    paths = sorted(films.glob("RG*.dcm"))
    embedded = Site({"up": ["-m", "hipnode", "up"]}, {}, SHIPPED_ROUTE)
    with routed_node(tmp_path, package, embedded) as (orthanc, node):
        for path in paths:
            if not path.name.startswith("RG2") or "JPLL" in path.name:
                orthanc.post("/instances", path.read_bytes())
        hip = str(dcmread(films / "RG2_hip_JPLL.dcm", specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
        uids = {str(dcmread(p, specific_tags=["StudyInstanceUID"]).StudyInstanceUID) for p in paths}
        rows = settle(orthanc, node, sorted(uids))
        assert rows[hip]["status"] == "completed", rows[hip]
        assert rows[hip]["outcome"] in ("findings", "none")
        assert check_results_of(orthanc, hip, tmp_path) == {"SR": 1, "OT": 1}
        assert stable_to_delivered_s(node, hip) < WITHIN_S
        assert all(rows[u]["status"] == "not_applicable" for u in uids - {hip}), rows
        assert [job for job in jobs(orthanc) if job["State"] == "Failure"] == []


def test_a_node_without_torch_serves(tmp_path: Path):
    """`hipnode serve` in an interpreter that cannot import torch takes a study and keeps it."""
    blocker = tmp_path / "site"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    node = Node(tmp_path / "node", 1, PYTHONPATH=str(blocker))
    try:
        check = subprocess.run(
            [sys.executable, "-c", "import torch"], env=node.environment, capture_output=True, check=False
        )
        assert check.returncode == 1, "torch is meant to be out of reach here"
        node.hipnode("db", "upgrade")
        node.start("serve")
        node.start("deliver")
        node.listens()
        ds = make_radiograph()
        assert node.store(ds) == 0x0000
        wait_for(lambda: node.studies(), "the study is in the worklist", 30, every_s=0.5)
        time.sleep(1)
        assert node.processes["serve"].poll() is None
        assert node.processes["deliver"].poll() is None
    finally:
        for process in node.processes.values():
            stop(process, signal.SIGTERM)


@pytest.mark.parametrize("page", ["README.md", "deploy/routing.md"])
def test_the_route_that_is_shown_is_the_one_that_was_tried(page: str):
    assert SHIPPED_ROUTE.strip() in (ROOT / page).read_text(encoding="utf-8")
