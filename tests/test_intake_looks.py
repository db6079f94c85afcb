"""Headers that take for ever hold up their own study: others are closed meanwhile, and the sweep goes on."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hipnode import ledger
from hipnode.children import Children
from hipnode.intake import Pace, looks
from hipnode.selection import Facts
from hipnode.status import AnalysisStatus, ReasonCode
from tests.factories import make_radiograph
from tests.ledger_steps import empty_sqlite, make, postgres_ledger
from tests.peers import wait_for
from tests.test_intake import HASTY, Node, Reader, node

__all__ = ["empty_sqlite", "make", "node", "postgres_ledger"]

A = AnalysisStatus


class Stuck(Reader):
    """Hangs on every file of a study until it is freed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.stuck_on = {make_radiograph(seed=seed, instance=n).SOPInstanceUID for n in (1, 2)}
        self.freed, self.hanging = threading.Event(), 0

    def read_facts(self, path: Path) -> Facts:
        facts = super().read_facts(path)
        if facts.sop_instance_uid in self.stuck_on and not self.freed.is_set():
            self.hanging += 1
            assert self.freed.wait(60)
        return facts


@pytest.fixture
def stuck(node: Node) -> Iterator[Stuck]:
    node.reader = Stuck(seed=1)
    node.intake = node.another()
    yield node.reader
    node.reader.freed.set()


def status(node: Node, study_id: int) -> AnalysisStatus | None:
    return node.show(study_id).summary.status


def test_a_study_that_hangs_does_not_keep_the_next_one_from_closing(node: Node, stuck: Stuck) -> None:
    node.store(seed=1)
    node.store(seed=2)
    node.later(11)
    wait_for(lambda: node.intake.tick(0.05) == 1, "one of the two is queued")
    assert (status(node, 1), status(node, 2)) == (A.RECEIVING, A.QUEUED)
    stuck.freed.set()
    assert node.intake.tick() == 1
    assert status(node, 1) is A.QUEUED


def test_a_study_under_way_is_looked_at_once(node: Node, stuck: Stuck) -> None:
    node.store(seed=1)
    node.later(11)
    for _ in range(5):
        assert node.intake.tick(0.01) == 0
    wait_for(lambda: stuck.hanging, "the look has begun")
    assert stuck.hanging == 1


def test_an_image_that_comes_while_a_look_hangs_is_looked_at_too(node: Node, stuck: Stuck) -> None:
    node.store(seed=1)
    node.later(11)
    node.intake.tick(0.01)
    wait_for(lambda: stuck.hanging, "the look has begun")
    node.store(seed=1, instance=2)
    assert node.intake.tick(0.01) == 0  # not due, and the look is kept until it ends
    node.later(11)
    assert node.intake.tick(0.01) == 0
    assert stuck.hanging == 1
    stuck.freed.set()
    assert node.intake.tick() == 0, "a look at half a study books nothing"
    assert node.intake.tick() == 1
    assert len(node.do(ledger.images_of, 1)) == 2


def test_at_the_cap_a_study_that_hung_closes_with_what_was_seen(node: Node, stuck: Stuck) -> None:
    node.store(seed=1)
    node.later(11)
    node.intake.tick(0.01)
    wait_for(lambda: stuck.hanging, "the look has begun")
    node.later(300).store(seed=1, instance=2)
    stuck.freed.set()
    assert node.intake.tick() == 1
    assert [(a.number, a.status) for a in node.show().analyses] == [(2, A.RECEIVING), (1, A.QUEUED)]


@pytest.mark.parametrize("readable", [0, 1])
def test_the_headers_of_a_study_have_a_limit_of_time_together(
    node: Node, monkeypatch: pytest.MonkeyPatch, readable: int
) -> None:
    """Tried three times; then what was read decides, and nothing read is a failure with its reason."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(looks, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def slowly() -> None:
        clock.now += 40.0

    node.reader.before = slowly
    uids = [make_radiograph(instance=n).SOPInstanceUID for n in range(1, 6)]
    node.reader.rejects = dict.fromkeys(uids[readable:], ReasonCode.DECODE_LIMIT)
    for instance in range(1, 6):
        node.store(instance=instance)
    node.later(11)
    intake = node.another(pace=HASTY)
    for _ in range(2):
        assert intake.tick() == 0
        assert status(node, 1) is A.RECEIVING
        time.sleep(0.02)  # longer than it is put off
    assert intake.tick() == readable
    assert node.reader.read == 3 * 2, "of five, the first two took all the time there is"
    summary, (analysis,) = node.show().summary, node.show().analyses
    if readable:
        assert (summary.status, len(analysis.images)) == (A.QUEUED, 5)
        assert [image.reason_code for image in analysis.images[1:]] == [ReasonCode.DECODE_LIMIT] * 4
    else:
        assert (summary.status, summary.reason_code) == (A.FAILED, ReasonCode.DECODE_LIMIT)


class HangingChildren(Children):
    """Real children that never come back from some files."""

    hang_on: frozenset[Path] = frozenset()

    def read_facts(self, path: Path) -> Facts:
        if path in self.hang_on:
            self.call(time.sleep, 3600)
        return super().read_facts(path)


def test_a_study_of_twenty_files_that_hang_real_children_comes_to_its_end_beside_the_others(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "STUDY_S", 1.0)
    lost = node.queued("1.2.3")
    node.claim(lease_s=60)
    for instance in range(20):
        node.store(seed=1, instance=instance + 1)
    hanging = frozenset(node.spool.path(path) for path in node.spool.files("instances"))
    node.store(seed=2)
    node.later(61)
    with HangingChildren(2, 3.0, 2 << 30, 10**8) as children:
        children.hang_on = hanging
        children.call(int, "7")  # they have started
        intake = node.another(children=children, pace=Pace(tick_s=0.05, sweep_s=0.05))
        intake.start()
        try:
            wait_for(lambda: status(node, 3) is A.QUEUED, "the other study is queued", 30)
            assert status(node, 2) is A.RECEIVING
            wait_for(lambda: node.status(lost) is A.QUEUED, "the sweep took the lost lease back", 30)
            assert status(node, 2) is A.RECEIVING
            wait_for(lambda: status(node, 2) is A.FAILED, "the study that hangs has its end", 60)
        finally:
            intake.stop()
    assert node.show(2).summary.reason_code is ReasonCode.DECODE_LIMIT


def test_a_node_that_stops_does_not_wait_for_files_that_hang(node: Node) -> None:
    for instance in range(3):
        node.store(seed=1, instance=instance + 1)
    node.later(61)
    with HangingChildren(1, 600.0, 2 << 30, 10**8) as children:
        children.hang_on = frozenset(node.spool.path(path) for path in node.spool.files("instances"))
        intake = node.another(children=children, pace=Pace(tick_s=0.05))
        before = set(threading.enumerate())
        intake.start()
        wait_for(lambda: looking() - before, "the look is under way")
        intake.stop()
        assert looking() - before, "it is still under way"
    wait_for(lambda: not looking() - before, "the look has ended with the children")
    assert status(node, 1) is A.RECEIVING


def looking() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("headers")}
