"""A whole node as one who watches it sees it: its pages while it works, and its log afterwards."""

import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest

from hipnode.logs import hashed
from tests.factories import make_radiograph
from tests.node import FAKE_PARTS, Node, running_node, site_selection
from tests.pacs import pacs
from tests.peers import wait_for
from tests.pipeline import make_package
from tests.scp_node import associated
from tests.test_metrics import going_up, of, parsed
from tests.test_web import get

CANARIES = {
    "PatientName": "CANARY^NAME", "PatientID": "CANARYID", "PatientBirthDate": "19310203",
    "StudyDescription": "CANARY STUDY", "SeriesDescription": "CANARY SERIES", "InstitutionName": "CANARY CLINIC",
    "ReferringPhysicianName": "CANARY^DOCTOR", "OperatorsName": "CANARY^TECH", "StudyID": "CANARYSTUDY",
}  # fmt: skip


@dataclass
class Story:
    """What was seen of a node that took four studies, was restarted, and replayed one."""

    pages: list[str] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)  #: pages while studies were stored
    statuses: list[int | None] = field(default_factory=list)
    log: str = ""
    films: dict[str, Any] = field(default_factory=dict)
    ready: list[tuple[int, Any]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)  #: SOP Instance UIDs the PACS got


def page(node: Node) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def answers(node: Node) -> None:
    """Wait for SCP and pages; the SCP listens first."""

    def alive() -> bool:
        try:
            return get(node.http_port, "/healthz")[0] == 200
        except urllib.error.URLError:
            return False

    node.listens()
    wait_for(alive, "the health page answers", 60)


def page_when(node: Node, ended: float) -> str:
    """The page, as soon as so many analyses have ended by it and its peers are counted (it is kept a moment)."""
    last = ""

    def there() -> bool:
        nonlocal last
        last = page(node)
        samples = parsed(last)
        each = [n for (name, _), n in samples.items() if name == "hipnode_analyses_ended_total"]
        return (
            sum(each) == ended and of(samples, "hipnode_peers_refused_lately", reason="CALLED_AE_TITLE") == 1
        )

    wait_for(there, f"{ended:g} analyses have ended", 60, every_s=0.5)
    return last


def send_while_scraped(node: Node, story: Story) -> None:
    """Four studies, and pages fetched all the while."""
    films = {
        "hip": make_radiograph(seed=1, AccessionNumber="CANARYACC1", **CANARIES),
        "late": make_radiograph(seed=2, AccessionNumber="CANARYACC2", **CANARIES),
        "hand": make_radiograph(
            seed=3,
            AccessionNumber="CANARYACC3",
            BodyPartExamined="HAND",
            **CANARIES | {"SeriesDescription": "HAND"},
        ),
        "broken": make_radiograph(seed=4, AccessionNumber="CANARYACC4", PixelData=b"\0" * 100, **CANARIES),
    }
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            story.under_way.append(page(node))
            done.wait(0.05)

    scraping = threading.Thread(target=scrape)
    scraping.start()
    for name, film in films.items():
        story.statuses.append(node.store(film, "STRANGER_CANARY" if name == "late" else "MODALITY"))
    done.set()
    scraping.join()
    with associated(
        node.port, [("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])], called="CANARYCALLED"
    ) as refused:
        assert not refused.is_established
    story.films = films


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    told, folder = Story(), tmp_path_factory.mktemp("story")
    make_package(folder / "packages")
    parts = {part: FAKE_PARTS[part] for part in ("serve", "analyse-1", "deliver")}
    settings = {
        "HIPNODE_PACKAGES": str(folder / "packages"),
        "HIPNODE_SELECTION_FILE": str(site_selection(folder, "hip-test")),
        "HIPNODE_ALLOWED_PEERS": "MODALITY@127.0.0.1,*@127.0.0.0/8",
        "HIPNODE_LOG_JSON": "true",
    }
    with pacs() as archive, running_node(folder / "node", archive.port, parts, **settings) as node:
        answers(node)
        told.pages.append(page(node))
        send_while_scraped(node, told)
        ends = ("completed", "failed", "not_applicable")

        def all_ended(analyses: int) -> bool:
            shown = [node.show(uid)["analyses"] for uid in node.studies()]
            return sum(a["status"] in ends for each in shown for a in each) == analyses

        wait_for(lambda: all_ended(4), "every study ends", 120, every_s=0.5)
        told.pages.append(page_when(node, ended=4))
        node.kill("serve")
        node.start("serve")
        answers(node)
        told.pages.append(page_when(node, ended=4))
        wait_for(lambda: get(node.http_port, "/readyz")[1]["status"] == "ready", "the node is ready", 60)
        told.ready.append(get(node.http_port, "/readyz"))
        node.hipnode("replay", str(told.films["hip"].StudyInstanceUID))
        wait_for(lambda: all_ended(5), "the replay ends", 120, every_s=0.5)
        told.pages.append(page_when(node, ended=5))
        told.results = [stored.sop_instance_uid for stored in archive.received]
        node.processes["analyse-1"].terminate()
        node.processes["analyse-1"].wait(60)
        told.ready.append(get(node.http_port, "/readyz"))
    told.log = "".join(log.read_text() for log in sorted((folder / "node").glob("*.log")))
    return told


def test_stores_succeed_while_metrics_are_scraped(story: Story) -> None:
    assert story.statuses == [0x0000] * 4
    assert len(story.under_way) >= 2
    assert all(of(parsed(each), "hipnode_ledger_readable") == 1 for each in story.under_way)


def test_the_page_says_what_became_of_the_studies(story: Story) -> None:
    samples = parsed(story.pages[1])
    assert of(samples, "hipnode_analyses_ended_total", status="completed", reason="") == 2
    assert of(samples, "hipnode_analyses_ended_total", status="not_applicable", reason="OTHER_REGION") == 1
    ended = {key: n for key, n in samples.items() if key[0] == "hipnode_analyses_ended_total"}
    failed = {key: n for key, n in ended.items() if ("status", "failed") in key[1]}
    assert sum(failed.values()) == 1
    assert of(samples, "hipnode_outcomes_total", package="hip-test", outcome="findings") == 2
    assert of(samples, "hipnode_received_instances_total", role="source") == 4
    assert of(samples, "hipnode_deliveries_ended_total", destination="PACS", status="delivered") == 6
    assert of(samples, "hipnode_finding_score_count", package="hip-test", **{"class": "DF"}) == 2
    assert of(samples, "hipnode_stage_duration_seconds_count", stage="analysing") == 2
    assert of(samples, "hipnode_associations_accepted_total", calling_ae_title="MODALITY") == 3
    assert (of(samples, "hipnode_associations_accepted_total", calling_ae_title="other") or 0) >= 1
    assert of(samples, "hipnode_peers_refused_lately", reason="CALLED_AE_TITLE") == 1
    assert of(samples, "hipnode_workers_alive", kind="analyse") == 1
    assert of(samples, "hipnode_package_workers", package="hip-test") == 1


def test_no_count_goes_down_over_a_kill_and_a_replay(story: Story) -> None:
    since_start = re.compile(r"process_|hipnode_(associations|stores)_")
    for before, after in zip(story.pages, story.pages[1:], strict=False):
        now = going_up(after)
        down = {key: (n, now.get(key)) for key, n in going_up(before).items() if now.get(key, -1) < n}
        assert {key: n for key, n in down.items() if not since_start.match(key[0])} == {}


def test_readyz_says_plainly_when_the_analyse_worker_is_away(story: Story) -> None:
    (code, body), (later, then) = story.ready
    assert (code, body["status"]) == (200, "ready")
    assert "broker" in body["checks"]
    assert (later, then["status"], then["finishes_studies"]) == (200, "degraded", False)
    assert "hipnode worker analyse" in then["says"]


def lines(story: Story) -> list[dict[str, Any]]:
    return [json.loads(line) for line in story.log.splitlines()]


def test_every_line_of_the_log_is_json(story: Story) -> None:
    said = lines(story)
    assert len(said) > 30
    assert all({"event", "level", "timestamp"} <= set(line) for line in said)


def test_one_key_follows_a_study_from_reception_to_delivery(story: Story) -> None:
    def events(name: str) -> list[str]:
        key = hashed(story.films[name].StudyInstanceUID)
        return [
            line["event"]
            for line in sorted(lines(story), key=lambda each: str(each["timestamp"]))
            if line.get("study") == key
        ]

    way = [
        "instance.stored",
        "study.closed",
        "study.claimed",
        "study.analysed",
        "result.sent",
        "analysis.ended",
    ]
    assert list(dict.fromkeys(events("late"))) == way
    assert events("hip").count("study.analysed") == 2  # the replay too
    assert events("hand") == ["instance.stored", "study.closed"]
    assert {"study.claimed", "result.sent", "analysis.ended"} <= set(events("broken"))


def test_lines_about_a_study_name_it(story: Story) -> None:
    rooms = ("instance.", "study.", "result.", "results.", "notice.", "analysis.", "lease.", "child.")
    about = [line for line in lines(story) if line["event"].startswith(rooms)]
    assert len(about) > 20
    assert [line for line in about if not re.fullmatch("[0-9a-f]{12}", line.get("study", ""))] == []


def test_nothing_of_a_patient_stands_in_log_or_metrics(story: Story) -> None:
    everything = "\n".join([story.log, *story.pages, *story.under_way])
    for film in story.films.values():
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientBirthDate"):
            assert film[keyword].value not in everything
    without_titles = re.sub(
        r'"(calling|called)_ae_title": "[^"]*"', "", everything
    )  # the log names who knocked
    assert "CANARY" not in without_titles
    assert "CANARY" not in "\n".join([*story.pages, *story.under_way])
    assert len(story.results) >= 6
    assert [uid for uid in story.results if uid in everything] == []
