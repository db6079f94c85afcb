"""Intake: what a busy machine, several packages and the cap must not do to a study."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hipnode import ledger
from hipnode.children import CRASHED
from hipnode.errors import ImageRejected
from hipnode.findings import Reason
from hipnode.intake import Reconciled, reconcile
from hipnode.selection import Decision, Facts
from hipnode.status import AnalysisStatus, ReasonCode
from tests.factories import make_radiograph
from tests.ledger_steps import empty_sqlite, make, postgres_ledger
from tests.test_intake import HASTY, PACKAGE, SELECTION, Node, node

__all__ = ["empty_sqlite", "make", "node", "postgres_ledger"]

A = AnalysisStatus


def test_a_killed_reading_child_does_not_cost_the_study(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    read, kills = node.reader.read_facts, iter([True])

    def killed_once(path: Path) -> Facts:
        if next(kills, False):
            raise ImageRejected(ReasonCode.DECODE_FAILED, CRASHED)
        return read(path)

    monkeypatch.setattr(node.reader, "read_facts", killed_once)
    node.store()
    node.later(11)
    intake = node.another(pace=HASTY)
    assert intake.tick() == 0
    assert node.show().summary.status is A.RECEIVING
    time.sleep(0.02)
    assert intake.tick() == 1


class TwoPackages:
    """Selection that gives each image of a study to a package of its own."""

    def decide(self, facts: Facts) -> Decision:
        package = "one" if facts.sop_instance_uid == make_radiograph(instance=1).SOPInstanceUID else "two"
        return replace(SELECTION.decide(facts), package=package)


def test_at_the_cap_two_packages_are_two_analyses_and_no_third(node: Node) -> None:
    node.store(instance=1)
    node.store(instance=2)
    node.later(301)
    assert node.another(selection=TwoPackages()).tick() == 1
    assert sorted((a.number, a.package_id, a.status) for a in node.show().analyses) == [
        (1, "one", A.QUEUED),
        (1, "two", A.QUEUED),
    ]


def test_what_cannot_be_moved_out_of_the_spool_does_not_keep_the_node_from_starting(node: Node) -> None:
    node.store()
    (path,) = node.spool.files("instances")
    shard = node.spool.path(path).parent
    (shard / "folder").mkdir()
    (shard / "rubbish.dcm").write_bytes(b"rubbish")
    node.spool.low_water_bytes = 1 << 60
    later = datetime.now(UTC) + timedelta(seconds=10)
    assert reconcile(node.make, node.spool, later) == Reconciled()
    node.spool.low_water_bytes = 0
    assert reconcile(node.make, node.spool, later) == Reconciled(quarantined=1)


def test_a_clock_set_back_does_not_leave_a_notice_to_a_worker_that_died(node: Node) -> None:
    node.store()
    node.later(11)
    node.intake.tick()
    (claim,) = node.do(ledger.claim_analyses, {PACKAGE: "a" * 64}, 1, 120, "w:1", node.now)
    node.do(ledger.release, claim, Reason.of(ReasonCode.INTERNAL), node.now, 0, 1)
    assert node.notices(max_attempts=1)
    node.later(-86400)
    node.intake.sweep()
    node.later(1)
    node.notices(max_attempts=1)
    assert node.show().summary.status is A.FAILED
