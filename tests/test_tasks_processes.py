"""Worker processes: they hear bells, look by themselves, end in good order, and notice when they are deaf."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hipnode import ledger, queue
from hipnode.children import Children
from hipnode.errors import LedgerDown
from hipnode.status import AnalysisStatus
from tests.factories import make_radiograph
from tests.pacs import Pacs, pacs
from tests.peers import Redis, stop, wait_for
from tests.pipeline import Node, node
from workers import runtime
from workers.runtime import Worker

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children(1, 30, 2 * 2**30, 64 * 10**6) as pool:
        yield pool


@pytest.fixture
def archive() -> Iterator[Pacs]:
    with pacs() as made:
        yield made


@pytest.fixture
def one(tmp_path: Path, children: Children, archive: Pacs) -> Iterator[Node]:
    with node(tmp_path, children, archive.destination()) as made:
        yield made


@contextmanager
def worker(made: Node, kind: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process of this node; its log is <folder>/<kind>.log."""
    variables = {
        "HIPNODE_DATA": str(made.folder / "data"),
        "HIPNODE_PACKAGES": str(made.folder / "packages"),
        "HIPNODE_LOW_WATER_BYTES": "0",
        "HIPNODE_DELIVERY_RETRY_S": "0.5",
        "HIPNODE_LEASE_S": "3",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    with (made.folder / f"{kind}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker_process", kind],
            cwd=ROOT,
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            stop(process)


def put(made: Node, seed: int = 0) -> int:
    """A study that has been due for a while by the clock of the processes."""
    made.clock.forward(-60)
    analysis_id = made.put(make_radiograph(seed=seed))
    made.clock.forward(60 - 11)
    return analysis_id


def log_of(made: Node, kind: str) -> str:
    return (made.folder / f"{kind}.log").read_text()


def ended(made: Node, analysis_id: int) -> Callable[[], bool]:
    return lambda: made.analysis(analysis_id).status is AnalysisStatus.COMPLETED


def heard(made: Node) -> set[str]:
    """The kinds of workers that have answered a bell."""
    with ledger.reading(made.rooms.sessions) as session:
        return {row.kind for row in ledger.workers(session) if row.bell_at is not None}


def test_a_study_goes_through_two_processes_and_they_end_in_good_order(one: Node, archive: Pacs) -> None:
    before = put(one)  # no bell is rung for this one: workers look by themselves
    with worker(one, "analyse") as analyse, worker(one, "deliver") as deliver:
        wait_for(ended(one, before), "the study that waited is delivered", 60)
        after = put(one, seed=1)
        rung = time.monotonic()
        assert queue.ring_analyse()
        wait_for(ended(one, after), "the study that was rung for is delivered", 30)
        took = time.monotonic() - rung
        wait_for(lambda: heard(one) == {"analyse", "deliver"}, "both have written down their bells", 30)
        with ledger.reading(one.rooms.sessions) as session:
            workers = {row.kind: row for row in ledger.workers(session)}
        assert workers["analyse"].packages == {one.package.id: one.package.sha256}
        assert workers["analyse"].device == "fake"
        assert "deliver" in workers
        for process in (analyse, deliver):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in (analyse, deliver)] == [0, 0]
    assert took < 10
    assert len(archive.kept) == 4
    assert archive.repeats == 0
    with ledger.reading(one.rooms.sessions) as session:
        assert ledger.workers(session) == []
    for kind in ("analyse", "deliver"):
        said = log_of(one, kind)
        assert "worker.started" in said
        assert "worker.ended" in said
        for unwanted in ("Traceback", "Warning", "Müller", "P1000", "celery@"):
            assert unwanted not in said, said


@pytest.mark.parametrize("point", ["analyse.written", "analyse.recorded"])
def test_a_killed_analyse_worker_costs_a_lease_and_nothing_else(
    one: Node, archive: Pacs, tmp_path: Path, point: str
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    analysis_id = put(one)
    faults = {"HIPNODE_FAULTS": f"{point}=kill", "HIPNODE_FAULT_MARKS": str(marks)}
    with worker(one, "analyse", **faults) as first:
        assert first.wait(60) == -signal.SIGKILL
    assert [mark.name for mark in marks.iterdir()] == [f"{point}.kill"]
    time.sleep(3.2)  # the lease of the killed worker
    one.sweep()
    with worker(one, "analyse", **faults), worker(one, "deliver"):
        wait_for(ended(one, analysis_id), "another worker finished the study", 60)
    assert len(archive.kept) == 2
    assert archive.repeats == 0
    assert one.analysis(analysis_id).attempts == (1 if point == "analyse.recorded" else 2)


def test_sigterm_lets_the_batch_under_way_finish(one: Node, archive: Pacs) -> None:
    analysis_id = put(one)
    with worker(one, "analyse", HIPNODE_TEST_LOOK_S="2") as process:
        wait_for(
            lambda: one.analysis(analysis_id).status is AnalysisStatus.ANALYSING, "the study is claimed", 60
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert one.analysis(analysis_id).status is AnalysisStatus.DELIVERING


def test_a_worker_hears_again_soon_after_its_broker_was_away(one: Node, archive: Pacs, redis: Redis) -> None:
    with (
        worker(one, "analyse", HIPNODE_BROKER_URL=redis.url),
        worker(one, "deliver", HIPNODE_BROKER_URL=redis.url),
    ):
        wait_for(ended(one, put(one)), "the first study is delivered", 90)
        redis.kill()
        queue.configure(redis.url, one.folder / "data" / "broker")
        analysis_id = put(one, seed=1)
        assert not queue.ring_analyse()
        time.sleep(12)
        redis.start()

        def swept() -> bool:  # what the sweep does every ten seconds
            queue.ring_analyse()
            queue.ring_deliver()
            return ended(one, analysis_id)()

        wait_for(swept, "the study is delivered", 30, every_s=1)
    assert archive.repeats == 0


def test_workers_are_wired_without_torch() -> None:
    code = "import sys, workers.runtime, workers.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- The watchdog ----------------------------------------------------------------------------------


class Watched(Worker):
    """A worker that notes why it would end."""

    left: list[str]

    def _leave(self, why: str) -> Any:
        self.__dict__.setdefault("left", []).append(why)


@pytest.fixture
def watched(one: Node) -> Watched:
    beat = ledger.WorkerBeat("analyse@test:1", "analyse")
    made = Watched(queue.ANALYSE, one.analyse, one.rooms, beat)
    made.left = []
    return made


def test_a_worker_without_work_may_be_silent_for_ever(watched: Watched) -> None:
    start = time.monotonic()
    for minutes in range(100):
        watched.look_after(0, start + 60 * minutes)
    assert watched.left == []


def test_a_worker_that_hears_no_bell_while_work_waits_ends(watched: Watched) -> None:
    start = time.monotonic()
    for seconds in range(0, 120, 10):
        watched.look_after(1, start + seconds)
    assert watched.left == []
    watched.look_after(1, start + runtime.DEAF_S + 1)
    assert len(watched.left) == 1
    assert "no bell was heard" in watched.left[0]


def test_a_bell_counts_as_heard_even_if_nothing_could_be_done(watched: Watched) -> None:
    start = time.monotonic()
    watched.look_after(1, start)
    watched.answer()
    later = time.monotonic()
    watched.look_after(1, later + 110)
    watched.look_after(1, later + 200)
    assert watched.left == []


def test_a_bell_answered_stands_in_the_ledger_before_the_next_heartbeat(
    watched: Watched, one: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beat() -> ledger.WorkerRow | None:
        with ledger.reading(one.rooms.sessions) as session:
            return next(iter(ledger.workers(session)), None)

    watched.beat_s = 3600
    watching = threading.Thread(target=watched._watch)
    watching.start()
    try:
        wait_for(beat, "the first heartbeat", 30)
        assert beat().bell_at is None
        rung = one.rooms.clock()
        watched.answer_bell()
        wait_for(lambda: beat().bell_at, "the bell is written down", 30)
        assert rung <= beat().bell_at <= one.rooms.clock()

        tried = threading.Event()

        def fail(*_: object) -> None:
            tried.set()
            raise LedgerDown("the database is away")

        with monkeypatch.context() as patch:
            patch.setattr(ledger, "heartbeat", fail)
            watched.answer_bell()  # nobody hears of it, and nothing breaks
            assert tried.wait(30)
        again = one.rooms.clock()
        watched.answer_bell()
        wait_for(lambda: beat().bell_at >= again, "the next one is written down", 30)
    finally:
        one.rooms.stopping.set()
        watching.join()


def test_a_job_that_does_not_come_back_ends_the_process(watched: Watched, one: Node) -> None:
    one.put(make_radiograph())

    def look(images: object) -> None:
        watched.look_after(5, time.monotonic() + runtime.DEAF_S + 1)
        assert watched.left == []  # busy is not deaf
        watched.look_after(5, time.monotonic() + runtime.STUCK_S + 1)

    one.detector.before = look
    watched.answer()
    assert len(watched.left) == 1
    assert "has not come back" in watched.left[0]


def test_an_answer_raises_nothing_and_says_where(
    watched: Watched, one: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise ValueError("Müller^Jörg")

    monkeypatch.setattr(one.analyse, "run", fail)
    watched.answer()
    said = capsys.readouterr().out
    assert "ValueError at" in said
    assert "Müller" not in said
