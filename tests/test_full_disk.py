"""A disk that is full while results are written: nothing is lost, left behind or counted against a study."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hipnode.children import Children
from hipnode.errors import LedgerDown
from hipnode.status import AnalysisStatus, Outcome, ReasonCode
from tests.factories import make_radiograph
from tests.pacs import pacs
from tests.pipeline import Node, node
from workers.rooms import Policy

A = AnalysisStatus


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children(1, 30, 2 * 2**30, 64 * 10**6) as pool:
        yield pool


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def full(disk: Path, left_bytes: int) -> Iterator[None]:
    """Somebody else takes the disk, but for so many bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - left_bytes)
    try:
        yield
    finally:
        ballast.unlink()


@pytest.fixture
def small(disk: Path, children: Children) -> Iterator[Node]:
    with pacs() as archive, node(disk, children, archive.destination(), policy=POLICY) as made:
        yield made


POLICY = Policy(analysis_deadline_s=600, delivery_retry_s=5)
ROOM_FOR_A_REPORT = 400 << 10  #: and for the ledger, but not for an overlay of 512 x 700 x 3 bytes


def end_of(made: Node, analysis_id: int) -> tuple[AnalysisStatus, Outcome | None, int]:
    seen = made.analysis(analysis_id)
    return seen.status, seen.outcome, seen.attempts


def parts(made: Node) -> list[Path]:
    return list((made.rooms.spool.root / "incoming").iterdir())


def test_a_full_disk_is_no_attempt_of_the_study(small: Node, disk: Path) -> None:
    analysis_id = small.put(make_radiograph())
    with full(disk, ROOM_FOR_A_REPORT):
        for _ in range(5):
            assert small.analyse.run() == 1
            seen = small.analysis(analysis_id)
            assert (seen.status, seen.attempts) == (A.QUEUED, 0)
            assert seen.reason == "The results could not be written. The disk of the spool is full."
            assert (small.results_on_disk(), parts(small)) == ([], []), "what was written is removed again"
            assert small.analyse.run() == 0, "not at once again"
            small.clock.forward(31)
    small.analyse.run()
    small.deliver.run()
    assert end_of(small, analysis_id) == (A.COMPLETED, Outcome.FINDINGS, 1)
    assert small.analysis(analysis_id).reason is None


def test_one_batch_finds_out_that_the_disk_is_full_and_the_others_wait(small: Node, disk: Path) -> None:
    small.analyse.batch_size = 2
    for seed in range(6):
        small.receive(make_radiograph(seed=seed))
    small.queue_studies()
    with full(disk, ROOM_FOR_A_REPORT):
        assert small.analyse.run() == 2
    assert small.detector.calls == [2]
    small.clock.forward(31)
    assert small.analyse.run() == 6


def test_a_disk_without_a_byte_loses_and_counts_nothing(small: Node, disk: Path) -> None:
    analysis_id = small.put(make_radiograph())
    with full(disk, 0), pytest.raises(LedgerDown):  # the ledger lies there as well
        small.analyse.run()
    assert end_of(small, analysis_id) == (A.QUEUED, None, 0)
    small.analyse.run()
    assert end_of(small, analysis_id) == (A.DELIVERING, Outcome.FINDINGS, 1)


def test_a_disk_that_stays_full_ends_in_a_notice_once_there_is_room(small: Node, disk: Path) -> None:
    analysis_id = small.put(make_radiograph())
    small.beat()
    with full(disk, ROOM_FOR_A_REPORT):
        small.clock.forward(POLICY.analysis_deadline_s)
        for attempt in (1, 2, 3):
            assert small.analyse.run() == 1
            assert end_of(small, analysis_id) == (A.QUEUED, None, attempt)
            small.clock.forward(200)
        assert small.analyse.run() == 0
        for _ in range(5):
            assert small.deliver.run() == 1
            assert end_of(small, analysis_id) == (A.QUEUED, None, 3)
            assert (small.results_on_disk(), parts(small)) == ([], [])
            assert small.deliver.run() == 0
            small.clock.forward(31)
    small.deliver.run()
    seen = small.analysis(analysis_id)
    assert (seen.status, seen.outcome, seen.reason_code) == (A.FAILED, Outcome.ERROR, ReasonCode.INTERNAL)
    assert seen.reason == "The results could not be written. The disk of the spool is full."
    assert len(seen.results) == 2


def test_a_notice_for_which_there_is_never_room_ends_all_the_same(small: Node, disk: Path) -> None:
    analysis_id = small.put(make_radiograph(), package_id="not-here")
    small.clock.forward(POLICY.analysis_deadline_s)
    with full(disk, ROOM_FOR_A_REPORT):
        assert small.deliver.run() == 1
        small.clock.forward(25 * POLICY.analysis_deadline_s)
        assert small.sweep().overdue == 1
    assert end_of(small, analysis_id) == (A.FAILED, None, 0)
    assert small.analysis(analysis_id).reason_code is ReasonCode.NO_PACKAGE
