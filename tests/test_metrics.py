"""/metrics: what it counts and names, and what never stands in it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from hipnode import __version__, ledger
from hipnode.errors import LedgerDown
from hipnode.ledger import PeerSeen, figures
from hipnode.spool import Spool
from hipnode.web import Answer, Metrics, Watched, metrics
from tests.ledger_steps import START, Journey, postgres_ledger, received
from tests.scp_node import Bench, engine_of, open_ledger, running_scp

__all__ = ["postgres_ledger"]

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


@dataclass
class Silent:
    """An SCP without peers."""

    listening: bool = True
    associations: int = 0


def test_what_is_committed_late_is_counted(postgres_ledger: sessionmaker[Session], tmp_path: Path) -> None:
    """PostgreSQL gives ids before it commits: a lower one may come to light after a higher one."""
    watched = Watched(postgres_ledger, Spool(tmp_path / "spool"), Silent())
    before = of(look(watched), "hipnode_received_instances_total", role="source") or 0
    made = Metrics(watched)
    late = postgres_ledger()
    ledger.record_instance(late, received("1.99.1", "1.99.1.1"), START)
    with ledger.transaction(postgres_ledger) as session:
        ledger.record_instance(session, received("1.99.2", "1.99.2.1"), START)
    assert of(look(watched, made), "hipnode_received_instances_total", role="source") == before + 1
    late.commit()
    late.close()
    assert of(look(watched, made), "hipnode_received_instances_total", role="source") == before + 2
