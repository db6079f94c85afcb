"""The ledger's figures: what is open is counted as it is, what happened never goes down."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.errors import LedgerDown
from hipnode.findings import Reason
from hipnode.ledger import figures
from hipnode.ledger.figures import Happened, Marks
from hipnode.status import Outcome, ReasonCode
from tests.ledger_steps import (
    PACS,
    START,
    Journey,
    empty_sqlite,
    journey,
    make,
    postgres_ledger,
    result,
)
from tests.scp_node import open_ledger

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]


def counted(made: sessionmaker[Session], after: Marks = Marks(), upto: Marks | None = None) -> Happened:  # noqa: B008
    with ledger.snapshot(made, 10) as session:
        return figures.happened(session, after, upto or figures.marks(session))


def open_work(made: sessionmaker[Session]) -> figures.OpenWork:
    with ledger.snapshot(made, 10) as session:
        return figures.open_work(session)


def at_most(buckets: figures.Buckets, bounds: tuple[float, ...], bound: float) -> int:
    return buckets.at_most[bounds.index(bound)]


def test_an_empty_ledger_has_empty_figures(make: sessionmaker[Session]) -> None:
    assert counted(make) == Happened()
    work = open_work(make)
    assert (work.analyses, work.since, work.deliveries, work.deliveries_since) == ({}, {}, {}, {})


def test_a_study_is_counted_from_its_first_instance_to_its_delivery(journey: Journey) -> None:
    journey.receive("1.2")
    journey.receive("1.2", role="ignored", size_bytes=50)
    work = open_work(journey.make)
    assert (work.analyses, work.since) == ({("receiving", ""): 1}, {"receiving": START})
    journey.later(12)
    journey.close()
    work = open_work(journey.make)
    assert (work.analyses, work.since) == ({("queued", ""): 1}, {"queued": journey.now})
    journey.later(3)
    (claim,) = journey.claim()
    journey.later(1.5)
    journey.tell(claim)
    sent_at = journey.now
    work = open_work(journey.make)
    assert work.analyses == {("delivering", ""): 1}
    assert (work.deliveries, work.deliveries_since) == ({("pacs", "due", ""): 2}, {"pacs": sent_at})
    journey.later(40)
    journey.send("delivered")
    assert (open_work(journey.make).analyses, open_work(journey.make).deliveries) == ({}, {})
    done = counted(journey.make)
    assert done.ended == {("completed", ""): 1}
    assert done.outcomes == {("hip", "findings"): 1}
    assert (done.delivered, done.given_up, done.sent_again, done.retries) == ({"pacs": 2}, {}, {}, 0)
    assert done.delivered_at == {"pacs": journey.now}
    assert (done.instances, done.bytes) == ({"source": 1, "ignored": 1}, {"source": 1000, "ignored": 50})
    assert done.received_at == {"source": START, "ignored": START}
    seconds = {stage: (b.count, pytest.approx(b.total)) for stage, b in done.stages.items()}
    assert seconds == {
        "receiving": (1, 12.0), "queued": (1, 3.0), "analysing": (1, 1.5), "delivering": (1, 40.0), "total": (1, 56.5),
    }  # fmt: skip
    queued = done.stages["queued"]
    assert [at_most(queued, figures.STAGE_BOUNDS_S, s) for s in (2, 5)] == [0, 1]
    (scores,) = [b for key, b in done.scores.items() if key == ("hip", "DF")]
    assert (scores.count, scores.total) == (1, pytest.approx(0.93))
    assert [at_most(scores, figures.SCORE_BOUNDS, s) for s in (0.9, 0.95)] == [0, 1]


def test_a_value_on_a_bound_is_at_most_that_bound(journey: Journey) -> None:
    journey.queued()
    journey.later(2)  # exactly the bound
    (claim,) = journey.claim()
    journey.tell(claim, routes=())
    queued = counted(journey.make).stages["queued"]
    assert [at_most(queued, figures.STAGE_BOUNDS_S, s) for s in (1, 2)] == [0, 1]


def test_clocks_that_disagree_give_no_negative_time(journey: Journey) -> None:
    journey.queued()
    journey.now = START  # the worker's clock is behind the node's
    with ledger.transaction(journey.make) as session:
        session.execute(text("UPDATE analyses SET due_at = created_at"))
    (claim,) = journey.claim()
    journey.tell(claim, routes=())
    stages = counted(journey.make).stages
    assert stages["queued"].total == 0.0
    assert all(buckets.total >= 0 for buckets in stages.values())


def test_tries_are_counted_where_they_failed(journey: Journey) -> None:
    journey.queued()
    (claim,) = journey.claim()
    journey.do(ledger.release, claim, Reason.of(ReasonCode.DECODE_LIMIT), journey.now, 1.0)
    assert open_work(journey.make).analyses == {("queued", "DECODE_LIMIT"): 1}
    journey.later(2)
    (claim,) = journey.claim()
    journey.tell(claim)
    journey.send("retry")
    assert open_work(journey.make).deliveries == {("pacs", "due", "DESTINATION_DOWN"): 2}
    journey.later(200)
    journey.send("retry")
    done = counted(journey.make)
    assert (done.retries, done.sent_again, done.given_up, done.delivered) == (1, {"pacs": 2}, {"pacs": 2}, {})
    assert done.ended == {("failed", "DESTINATION_DOWN"): 1}


def test_a_repeated_delivery_and_a_notice_are_no_looks(journey: Journey) -> None:
    journey.delivering("1.2")
    journey.send("refused")
    before = counted(journey.make)
    journey.do(ledger.open_replay, 1, "deliver", "admin", journey.now)
    journey.send("delivered")
    after = counted(journey.make)
    assert after.ended == {("failed", "DESTINATION_REFUSED"): 1, ("completed", ""): 1}
    assert (after.outcomes, after.scores) == (before.outcomes, before.scores)
    assert {stage: b.count for stage, b in after.stages.items()} == dict.fromkeys(figures.STAGES, 0)
    journey.queued("1.3")
    journey.later(7200)
    (claim,) = journey.notices()
    journey.tell(claim, outcome=Outcome.ERROR, reason=claim.reason)
    journey.send("delivered")
    last = counted(journey.make)
    assert last.ended["failed", "NO_PACKAGE"] == 1
    assert last.outcomes == before.outcomes


def values(done: Happened) -> dict[Any, float]:
    """Every number that must not go down, by what it counts."""
    flat: dict[Any, float] = {"retries": done.retries}
    for name in ("ended", "outcomes", "delivered", "given_up", "sent_again", "instances", "bytes"):
        flat |= {(name, key): count for key, count in getattr(done, name).items()}
    for name in ("delivered_at", "received_at"):
        flat |= {(name, key): at.timestamp() for key, at in getattr(done, name).items()}
    for name in ("stages", "scores"):
        for key, buckets in getattr(done, name).items():
            flat |= {(name, key, i): n for i, n in enumerate(buckets.at_most)}
            flat |= {(name, key, "count"): buckets.count, (name, key, "sum"): buckets.total}
    return flat


def wander(journey: Journey, rng: random.Random) -> Callable[[], None]:
    """One step of many studies' ways, chosen by chance."""
    claims: list[ledger.Claim] = []

    def tell() -> None:
        if claims:
            claim = claims.pop()
            journey.tell(claim, [result(f"{claim.study_id} {rng.randint(1, 2)}")], (PACS,))

    def give_back() -> None:
        if claims:
            journey.do(ledger.release, claims.pop(), Reason.of(ReasonCode.INTERNAL), journey.now, 0)

    def replay() -> None:
        study_id = rng.randint(1, 6)
        with ledger.reading(journey.make) as session:
            known = ledger.show_study(session, study_id) is not None
        if known:
            journey.do(ledger.open_replay, study_id, rng.choice(["analyse", "deliver"]), "admin", journey.now)

    steps: list[Callable[[], Any]] = [
        lambda: journey.receive(f"1.{rng.randint(2, 7)}"),
        lambda: journey.later(rng.uniform(11, 30)).close(),
        lambda: claims.extend(journey.claim(2)),
        tell,
        give_back,
        lambda: journey.send(rng.choice(["delivered", "refused", "retry"])),
        replay,
    ]
    return lambda: (rng.choice(steps)(), None)[1]


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_happened_is_counted_down_again(journey: Journey, seed: int) -> None:
    step = wander(journey, random.Random(seed))
    before = values(counted(journey.make))
    for _ in range(150):
        step()
        now = values(counted(journey.make))
        assert {key: n for key, n in before.items() if now.get(key, 0) < n - 1e-6} == {}
        before = now
    # the walk came somewhere
    assert {"completed", "failed"} <= {key[1][0] for key in before if key[0] == "ended"}


def test_slices_add_up(journey: Journey) -> None:
    step = wander(journey, random.Random(3))
    for _ in range(60):
        step()
    with ledger.snapshot(journey.make, 10) as session:
        upto = figures.marks(session)
    whole = values(counted(journey.make))
    added = Happened()
    for start in range(0, upto.event, 7):
        after = Marks(start, min(start, upto.instance))
        until = Marks(min(start + 7, upto.event), min(start + 7, upto.instance))
        added.add(counted(journey.make, after, until))
    assert values(added) == pytest.approx(whole)


def test_a_snapshot_holds_no_writer_up_and_sees_nothing_of_it(journey: Journey) -> None:
    journey.receive("1.2")
    with ledger.snapshot(journey.make, 10) as session:
        before = figures.marks(session)
        writing = threading.Thread(target=journey.receive, args=("1.3",))
        writing.start()
        writing.join(20)
        assert not writing.is_alive()
        assert figures.marks(session) == before
    assert counted(journey.make).instances == {"source": 2}


def test_a_snapshot_that_takes_too_long_is_stopped(journey: Journey) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(LedgerDown), ledger.snapshot(journey.make, 0.3) as session:
        session.execute(text(endless))
    journey.receive("1.2")  # and the connection serves on
    assert counted(journey.make).instances == {"source": 1}


def test_looking_asks_indexes_only(tmp_path: Path) -> None:
    """No figure of what is open, and none of a slice, walks through a whole table."""
    plans: list[str] = []
    journey = Journey(open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    journey.delivering()
    with ledger.snapshot(journey.make, 10) as session:
        connection = session.connection()
        asked: list[tuple[str, Any]] = []
        event.listen(connection, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        figures.open_work(session)
        figures.happened(session, Marks(1, 0), figures.marks(session))
        ledger.backlog(session)
        for statement, parameters in list(asked):
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans += [row[3] for row in rows]
    journey.make.kw["bind"].dispose()
    assert any("SEARCH events USING INTEGER PRIMARY KEY" in plan for plan in plans)
    assert [plan for plan in plans if plan.startswith("SCAN")] == []
