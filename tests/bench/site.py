"""What the measurements share: films of full size, a package, a node as a site runs it, a study's times."""

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from hipnode.packages import find_packages
from tests.factories import hip_picture, make_radiograph
from tests.node import PARTS, Node, site_selection
from tests.packages import make_package
from tests.peers import wait_for

SHIPPED = "hip-damoyolo-t-phantom"
STABLE_AGE_S = 2.0
ENDED = ("completed", "failed", "not_applicable")


@dataclass(frozen=True)
class Package:
    """The model package of a measurement; `settings` make a node use it."""

    what: str
    settings: dict[str, str]


def package(folder: Path) -> Package:
    """The shipped package, or else the real network at 1,024 x 1,024 with random weights."""
    shipped = find_packages([], problems=[]).get(SHIPPED)
    if shipped is not None:
        width, height = shipped.input_size
        return Package(f"{shipped.id} {shipped.version}, input {width} x {height}", {})
    import torch

    from workers.detector.checkpoint import weights_bytes
    from workers.detector.damoyolo import damoyolo_t

    torch.manual_seed(1)
    weights = weights_bytes(damoyolo_t(4).state_dict())
    make_package(folder / "packages" / "hip-test", weights, input={"width": 1024, "height": 1024})
    return Package(
        "damoyolo_t with random weights, input 1024 x 1024",
        {
            "HIPNODE_PACKAGES": str(folder / "packages"),
            "HIPNODE_SELECTION_FILE": str(site_selection(folder, "hip-test")),
        },
    )


class Films:
    """One film of 15.7 MB, each time as another patient's study."""

    def __init__(self) -> None:
        self._film = make_radiograph(picture=hip_picture(3072, 2560))
        self._number = 0

    def fresh(self) -> FileDataset:
        """The film under new UIDs. The data set is the same object each time: send it before the next."""
        self._number += 1
        film = self._film
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(film, keyword, generate_uid())
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
        film.PatientID = film.AccessionNumber = f"B{self._number}"
        return film


@contextmanager
def node_as_shipped(folder: Path, pacs_port: int, **settings: str) -> Iterator[Node]:
    """A node with the settings it comes with, and not those that hurry tests; nothing is started yet."""
    node = Node(folder, pacs_port)
    ours = {name: node.environment[f"HIPNODE_{name}"] for name in ("DATA", "PORT", "HTTP_PORT")}
    ours |= {"DESTINATIONS_FILE": str(node.destinations), "ENV_FILE": os.devnull, "LOG_JSON": "1"}
    node.environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HIPNODE_")},
        "OMP_WAIT_POLICY": "passive",  # as `hipnode up` gives it to its parts
        **{f"HIPNODE_{name}": value for name, value in ours.items()},
        **settings,
    }
    node.parts = PARTS | {"up": ["-m", "hipnode", "up"]}
    node.hipnode("db", "upgrade")
    try:
        yield node
    finally:
        node.stop()


def said(node: Node, part: str, event: str) -> list[dict[str, Any]]:
    """The lines of a part's log that tell of `event`."""
    path = node.folder / f"{part}.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines if f'"{event}"' in line and line.startswith("{"))
    return [line for line in found if line.get("event") == event]


def wait_for_workers(node: Node, *parts: str) -> None:
    """Wait until each part's worker has loaded what it needs and listens."""
    expected = 2 if parts == ("up",) else 1
    for part in parts:
        wait_for(
            lambda part=part: len(said(node, part, "worker.started")) >= expected, f"{part} starts", 180, 0.5
        )


@dataclass(frozen=True)
class Times:
    """When a study's one analysis came to its statuses, by the node's clock."""

    last_instance: datetime
    queued: datetime
    claimed: datetime
    told: datetime
    ended: datetime


def times(node: Node, study_uid: str) -> Times:
    """A completed study's times. RuntimeError when it ended otherwise."""
    study = node.show(study_uid)
    (analysis,) = study["analyses"]
    if analysis["status"] != "completed":
        raise RuntimeError(f"a study ended {analysis['status']}: {analysis['reason']}")
    became = {
        event["became"]: datetime.fromisoformat(event["at"])
        for event in study["events"]
        if event["what"] == "analysis"
    }
    received = max(datetime.fromisoformat(i["received_at"]) for i in study["instances"])
    return Times(received, became["queued"], became["analysing"], became["delivering"], became["completed"])


def seconds(later: datetime, earlier: datetime) -> float:
    """From `earlier` to `later`."""
    return (later - earlier).total_seconds()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (min..max)`."""
    middle, low, high = (round(v, digits) for v in (statistics.median(values), min(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def busy() -> float:
    """The machine's load average of the last minute."""
    return os.getloadavg()[0]


def load() -> str:
    """How busy the machine is, in words."""
    return f"{os.cpu_count()} cores, load average {busy():.1f}"
