"""/metrics and the log of a node: what they count and name, and what never stands in them."""

import ast
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hipnode import __version__, ledger
from hipnode.errors import LedgerDown
from hipnode.ledger import PeerSeen, figures
from hipnode.logs import hashed
from hipnode.web import Answer, Metrics, Watched, metrics
from tests.factories import make_radiograph
from tests.ledger_steps import Journey
from tests.node import FAKE_PARTS, ROOT, Node, running_node, site_selection
from tests.pacs import pacs
from tests.peers import wait_for
from tests.pipeline import make_package
from tests.scp_node import Bench, associated, engine_of, open_ledger, running_scp
from tests.test_web import get

Sample = tuple[str, frozenset[tuple[str, str]]]


def parsed(page: bytes | str) -> dict[Sample, float]:
    """Every sample of a page, by name and labels. The page must be whole and name none twice."""
    text = page.decode() if isinstance(page, bytes) else page
    samples: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type != "unknown"
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def of(samples: dict[Sample, float], name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def going_up(page: bytes | str) -> dict[Sample, float]:
    """The samples that count: of counters and histograms."""
    text = page.decode() if isinstance(page, bytes) else page
    names = {
        sample.name
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }
    return {key: value for key, value in parsed(page).items() if key[0] in names}


# --- The page ------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Bench]:
    with running_scp(tmp_path, peers="CT_1@127.0.0.1/32,*@10.0.0.0/8") as running:
        yield running


@pytest.fixture
def watched(node: Bench) -> Watched:
    return Watched(
        node.sessions, node.spool, node.scp, packages=lambda: {"hip": None}, destinations=lambda: ["pacs"],
        peers={"CT_1"}, backlog_limit=77, max_associations=5,
    )  # fmt: skip


@pytest.fixture
def journey(node: Bench) -> Journey:
    return Journey(node.sessions)


def look(watched: Watched, made: Metrics | None = None) -> dict[Sample, float]:
    made = made or Metrics(watched)
    made._page_at = -metrics.KEPT_S  # not the page of a moment ago
    return parsed(made.page({"disk": Answer(True, "Room."), "analyse": Answer(False, "None.")}))


def test_a_node_that_has_done_nothing_shows_zeros(watched: Watched) -> None:
    samples = look(watched)
    assert of(samples, "hipnode_build_info", version=__version__) == 1
    assert (of(samples, "hipnode_check", check="disk"), of(samples, "hipnode_check", check="analyse")) == (
        1,
        0,
    )
    assert of(samples, "hipnode_ledger_readable") == of(samples, "hipnode_history_counted") == 1
    for status in ("receiving", "queued", "analysing", "delivering"):
        assert of(samples, "hipnode_analyses_open", status=status, reason="") == 0
    for status in ("completed", "not_applicable", "failed"):
        assert of(samples, "hipnode_analyses_ended_total", status=status, reason="") == 0
    assert of(samples, "hipnode_analyses_ended_total", status="failed", reason="NO_PACKAGE") == 0
    assert of(samples, "hipnode_deliveries_ended_total", destination="pacs", status="failed") == 0
    assert of(samples, "hipnode_last_delivered_timestamp_seconds", destination="pacs") == 0
    assert of(samples, "hipnode_last_received_timestamp_seconds", role="source") == 0
    assert of(samples, "hipnode_queue_oldest_age_seconds", queue="analyse") == 0
    assert of(samples, "hipnode_workers_alive", kind="analyse") == 0
    assert of(samples, "hipnode_package_workers", package="hip") == 0
    assert (of(samples, "hipnode_backlog"), of(samples, "hipnode_backlog_limit")) == (0, 77)
    assert (of(samples, "hipnode_associations_open"), of(samples, "hipnode_associations_limit")) == (0, 5)
    assert of(samples, "hipnode_stage_duration_seconds_count", stage="total") == 0
    assert (of(samples, "hipnode_disk_free_bytes") or 0) > 0
    assert (of(samples, "process_start_time_seconds") or 0) > 1e9


def test_what_is_open_has_its_age_and_its_reason(watched: Watched, journey: Journey) -> None:
    watched = replace(watched, clock=lambda: journey.now)
    journey.receive("1.3")
    journey.later(12)
    journey.close()
    journey.later(30)
    journey.receive("1.4")
    journey.later(5)
    samples = look(watched)
    assert of(samples, "hipnode_queue_oldest_age_seconds", queue="receive") == 5
    assert of(samples, "hipnode_queue_oldest_age_seconds", queue="analyse") == 35
    assert of(samples, "hipnode_backlog") == 2
    (claim,) = journey.claim()
    journey.tell(claim, routes=(ledger.Route("pacs", ("SR",)), ledger.Route("gone", ("SR",))))
    journey.later(7)
    journey.send("retry")
    journey.later(1)
    samples = look(watched)
    waiting = {"status": "due", "reason": "DESTINATION_DOWN"}
    assert of(samples, "hipnode_deliveries_open", destination="pacs", **waiting) == 1
    assert of(samples, "hipnode_delivery_oldest_age_seconds", destination="pacs") == 8
    # a destination the site does not have any more has no name
    assert of(samples, "hipnode_deliveries_open", destination="other", **waiting) == 1
    assert of(samples, "hipnode_delivery_retries_total", destination="other") == 1


def test_a_destination_that_left_the_configuration_keeps_its_counts(
    watched: Watched, journey: Journey
) -> None:
    journey.delivering("1.2")
    journey.send("delivered")
    assert of(look(watched), "hipnode_deliveries_ended_total", destination="pacs", status="delivered") == 2
    samples = look(replace(watched, destinations=lambda: ["new"]))
    assert of(samples, "hipnode_deliveries_ended_total", destination="pacs", status="delivered") is None
    assert of(samples, "hipnode_deliveries_ended_total", destination="other", status="delivered") == 2
    assert of(samples, "hipnode_deliveries_ended_total", destination="new", status="delivered") == 0


def test_workers_and_their_packages_are_counted_while_they_live(watched: Watched, journey: Journey) -> None:
    for name, kind, packages in (
        ("a:1", "analyse", {"hip": "f"}),
        ("a:2", "analyse", {}),
        ("d:1", "deliver", {}),
    ):
        journey.do(ledger.heartbeat, ledger.WorkerBeat(name, kind, packages), journey.now)
    journey.later(50)
    journey.do(ledger.heartbeat, ledger.WorkerBeat("a:2", "analyse", {"hip": "f", "knee": "f"}), journey.now)
    journey.later(12)
    samples = look(replace(watched, clock=lambda: journey.now))
    assert of(samples, "hipnode_workers_alive", kind="analyse") == 1
    assert of(samples, "hipnode_workers_alive", kind="deliver") == 0
    assert of(samples, "hipnode_worker_heartbeat_age_seconds", kind="analyse") == 12
    assert of(samples, "hipnode_worker_heartbeat_age_seconds", kind="deliver") == 62
    assert of(samples, "hipnode_package_workers", package="hip") == 1
    assert of(samples, "hipnode_package_workers", package="knee") == 1


def test_peers_the_site_does_not_name_have_no_label_of_their_own(watched: Watched, journey: Journey) -> None:
    made = Metrics(watched)
    look(watched, made)
    journey.now = watched.clock()
    strangers = [
        PeerSeen(f"CANARY{n}", f"10.0.0.{n}", "X", refusals=2, last_refusal="NOT_ALLOWED") for n in range(30)
    ]
    journey.do(ledger.record_peers, strangers, journey.now)
    journey.do(ledger.record_peers, [PeerSeen("CT_1", "127.0.0.1", "HIPNODE", associations=3)], journey.now)
    samples = look(watched, made)
    assert of(samples, "hipnode_associations_accepted_total", calling_ae_title="CT_1") == 3
    assert of(samples, "hipnode_associations_refused_total", calling_ae_title="other") == 60
    assert of(samples, "hipnode_peers_refused_lately", reason="NOT_ALLOWED") == 30
    assert "CANARY" not in str(samples)
    assert "10.0.0." not in str(samples)


def test_peers_that_are_forgotten_are_not_counted_down(watched: Watched, journey: Journey) -> None:
    journey.now = watched.clock()
    stranger = PeerSeen("X", "10.0.0.1", "", refusals=2, last_refusal="NOT_ALLOWED")
    journey.do(ledger.record_peers, [stranger], journey.now)
    journey.later(1)
    made = Metrics(replace(watched, clock=lambda: journey.now))
    name = "hipnode_associations_refused_total"
    assert of(look(watched, made), name, calling_ae_title="other") == 0  # since the start
    journey.do(ledger.record_peers, [stranger], journey.now)
    assert of(look(watched, made), name, calling_ae_title="other") == 2
    journey.later(1)
    others = [PeerSeen(f"Y{n}", "10.0.0.1", "", refusals=1, last_refusal="NOT_ALLOWED") for n in range(20)]
    journey.do(ledger.record_peers, others, journey.now)
    with ledger.reading(journey.make) as session:
        assert "X" not in [row.calling_ae_title for row in ledger.list_peers(session)]  # pushed out
    assert of(look(watched, made), name, calling_ae_title="other") == 22
    journey.later(1)
    journey.do(ledger.record_peers, [stranger], journey.now)
    assert of(look(watched, made), name, calling_ae_title="other") == 24


def test_a_long_history_is_shown_when_all_of_it_is_counted(
    watched: Watched, journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        journey.delivering(f"1.{number + 2}")
        journey.send("delivered")
    at_once = going_up(Metrics(watched).page({}))
    monkeypatch.setattr(metrics, "SLICE", 10)
    monkeypatch.setattr(metrics, "HOLD_BACK", 5)
    monkeypatch.setattr(metrics, "CATCH_UP_S", 0.0)
    made, scrapes = Metrics(watched), 1
    samples = look(watched, made)
    while of(samples, "hipnode_history_counted") == 0:
        assert of(samples, "hipnode_analyses_ended_total", status="completed", reason="") is None
        assert of(samples, "hipnode_backlog") == 0
        samples, scrapes = look(watched, made), scrapes + 1
    assert scrapes > 5
    ledgers = {key: value for key, value in at_once.items() if not key[0].startswith("process_")}
    assert {key: samples[key] for key in ledgers} == ledgers
    assert of(samples, "hipnode_analyses_ended_total", status="completed", reason="") == 6


def test_a_slow_database_is_asked_for_less_at_a_time(
    watched: Watched, journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        journey.delivering(f"1.{number + 2}")
        journey.send("delivered")
    happened = figures.happened

    def slow(session: Any, after: figures.Marks, upto: figures.Marks) -> figures.Happened:
        if upto.event - after.event > 12:
            raise LedgerDown("it took too long")
        return happened(session, after, upto)

    monkeypatch.setattr(figures, "happened", slow)
    monkeypatch.setattr(metrics, "LEAST_SLICE", 5)
    monkeypatch.setattr(metrics, "SLICE", 40)
    monkeypatch.setattr(metrics, "HOLD_BACK", 5)
    made = Metrics(watched)
    assert [of(look(watched, made), "hipnode_ledger_readable") for _ in range(3)] == [0, 0, 1]
    assert of(look(watched, made), "hipnode_analyses_ended_total", status="completed", reason="") == 4


def test_what_has_settled_is_counted_once(
    watched: Watched, journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SETTLED_S", 0.0)
    asked: list[tuple[figures.Marks, figures.Marks]] = []
    happened = figures.happened

    def spy(session: Any, after: figures.Marks, upto: figures.Marks) -> figures.Happened:
        asked.append((after, upto))
        return happened(session, after, upto)

    monkeypatch.setattr(figures, "happened", spy)
    made = Metrics(watched)
    for number in range(3):
        journey.delivering(f"1.{number + 2}")
        journey.send("delivered")
        assert (
            of(look(watched, made), "hipnode_analyses_ended_total", status="completed", reason="")
            == number + 1
        )
    settled = [(after.event, upto.event) for after, upto in asked if upto != after]
    assert len(settled) == 3
    assert [upto for _, upto in settled][:-1] == [after for after, _ in settled][1:]


def test_a_ledger_restored_from_a_copy_is_counted_anew(
    watched: Watched, journey: Journey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SETTLED_S", 0.0)
    older = Journey(open_ledger(f"sqlite:///{tmp_path / 'older.db'}"))
    older.delivering("1.2")
    older.send("delivered")
    for number in range(3):
        journey.delivering(f"1.{number + 2}")
        journey.send("delivered")
    made = Metrics(watched)
    assert of(look(watched, made), "hipnode_analyses_ended_total", status="completed", reason="") == 3
    made._node = replace(watched, sessions=older.make)
    assert of(look(watched, made), "hipnode_analyses_ended_total", status="completed", reason="") == 1
    engine_of(older.make).dispose()


def test_without_its_database_a_node_still_shows_its_disk(watched: Watched, tmp_path: Path) -> None:
    gone = ledger.sessions(f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}")
    samples = look(replace(watched, sessions=gone))
    assert of(samples, "hipnode_ledger_readable") == 0
    assert (of(samples, "hipnode_disk_free_bytes") or 0) > 0
    assert of(samples, "hipnode_backlog") is None


def test_a_page_is_kept_for_a_moment(watched: Watched, journey: Journey) -> None:
    made = Metrics(watched)
    before = made.page({})
    journey.receive("1.2")
    assert made.page({}) == before
    assert of(look(watched, made), "hipnode_received_instances_total", role="source") == 1


# --- The log's words -----------------------------------------------------------------------------

KEYS = {
    # what a line is about, see hipnode.logs
    "study", "study_id", "analysis_id", "delivery_id", "instance_id", "instance", "package", "packages",
    "destination", "queue", "peer", "calling_ae_title", "called_ae_title", "part", "path", "device",
    # why
    "reason", "why", "error", "where", "at", "status", "peer_status", "verdict", "outcome", "exit_code",
    # how much
    "attempt", "again", "bytes", "count", "deliveries", "fresh", "images", "in_s", "leases", "look_s", "overdue",
    "read_s", "results", "revision", "role", "seconds", "studies", "tell_s", "associated",
    # the node
    "ae_title", "data", "expected", "host", "http_port", "pid", "port",
}  # fmt: skip


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for file in [*(ROOT / "hipnode").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("logger", "log", "_log")
                and node.func.attr in ("debug", "info", "warning", "error", "critical", "exception", "log")
            ):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_events_and_their_keys_have_one_name_in_all_rooms() -> None:
    calls = list(log_calls())
    assert len(calls) > 40
    for place, call in calls:
        events = [
            c.value
            for a in call.args
            for c in ast.walk(a)
            if isinstance(c, ast.Constant) and isinstance(c.value, str)
        ]
        assert any(re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", e) for e in events), (
            f"{place}: {events}"
        )
        unknown = {keyword.arg for keyword in call.keywords if keyword.arg} - KEYS
        assert not unknown, f"{place}: {unknown}; see hipnode.logs for the names in use"


# --- A whole node --------------------------------------------------------------------------------

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
