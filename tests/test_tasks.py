"""The analyse job: from a due study in the spool to result files and due deliveries."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from pydicom import Dataset, dcmread
from pynetdicom.sop_class import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from hipnode import faults, ledger
from hipnode.children import Children
from hipnode.destinations import Destination
from hipnode.errors import LedgerDown
from hipnode.findings import Reason
from hipnode.ledger import AnalysisDetail
from hipnode.results import check_result
from hipnode.spool import StoredFile
from hipnode.status import AnalysisStatus, Outcome, ReasonCode
from hipnode.tables import Analysis
from tests.factories import make_radiograph
from tests.pipeline import Node, node
from workers.rooms import Policy

PACS = Destination("pacs", "PACS", "127.0.0.1", 1)

OF_THE_BATCH = ("analyse.claimed", "analyse.decoded", "analyse.looked")  #: where no single study is at fault


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children(2, 30, 2 * 2**30, 64 * 10**6) as pool:
        yield pool


@pytest.fixture
def one(tmp_path: Path, children: Children) -> Iterator[Node]:
    with node(tmp_path, children, PACS) as made:
        yield made


def test_a_bell_without_work_returns_at_once(one: Node) -> None:
    assert one.analyse.run() == 0
    assert one.detector.calls == []


def test_a_due_study_is_analysed_and_its_results_are_due(one: Node) -> None:
    analysis_id = one.put(make_radiograph())
    assert one.analyse.run() == 1
    seen = one.analysis(analysis_id)
    assert (seen.status, seen.outcome) == (AnalysisStatus.DELIVERING, Outcome.FINDINGS)
    assert [(r.kind, [d.destination for d in r.deliveries]) for r in seen.results] == [
        ("SR", ["pacs"]),
        ("SC", ["pacs"]),
    ]
    for result in seen.results:
        path = one.rooms.spool.verify(result.relative_path, result.sha256)
        ds = dcmread(path)
        check_result(ds)
        assert (ds.PatientName, ds.StudyInstanceUID) == ("Müller^Jörg", make_radiograph().StudyInstanceUID)
    (image,) = seen.images
    assert (image.outcome, image.findings[0].class_name) == (Outcome.FINDINGS, "DF")


def test_a_second_bell_finds_nothing(one: Node) -> None:
    one.put(make_radiograph())
    assert [one.analyse.run(), one.analyse.run()] == [1, 0]
    assert one.detector.calls == [1]


def test_studies_that_wait_together_are_one_batch(one: Node) -> None:
    for seed in range(3):
        one.receive(make_radiograph(seed=seed))
    assert len(one.queue_studies()) == 3
    assert one.analyse.run() == 3
    assert one.detector.calls == [3]


def test_several_images_of_a_study_are_one_report_with_an_overlay_each(one: Node) -> None:
    analysis_id = one.put(make_radiograph(), make_radiograph(instance=2))
    one.analyse.run()
    assert [r.kind for r in one.analysis(analysis_id).results] == ["SR", "SC", "SC"]


def test_without_destination_the_study_is_complete_and_its_results_are_kept(
    tmp_path: Path, children: Children
) -> None:
    with node(tmp_path, children) as alone:
        analysis_id = alone.put(make_radiograph())
        alone.analyse.run()
        seen = alone.analysis(analysis_id)
        assert (seen.status, seen.reason_code) == (AnalysisStatus.COMPLETED, ReasonCode.NO_DESTINATION)
        assert len(seen.results) == 2


def test_each_destination_gets_the_form_it_takes(tmp_path: Path, children: Children) -> None:
    places = (
        PACS,
        Destination("three", "D", "127.0.0.1", 1, sr_class="comprehensive3d", sc_max_px=128),
        Destination("reports", "R", "127.0.0.1", 1, kinds=("SR",)),
        Destination("elsewhere", "E", "127.0.0.1", 1, sources=frozenset({"ANOTHER"})),
    )
    with node(tmp_path, children, *places[:3]) as forms:
        analysis_id = forms.put(make_radiograph())
        forms.analyse.run()
        going = {
            (r.kind, r.variant): {d.destination for d in r.deliveries}
            for r in forms.analysis(analysis_id).results
        }
    assert going == {
        ("SR", "comprehensive"): {"pacs", "reports"},
        ("SR", "comprehensive3d"): {"three"},
        ("SC", "full"): {"pacs"},
        ("SC", "max128"): {"three"},
    }


def test_damaged_pixels_end_at_once_with_a_notice(one: Node) -> None:
    analysis_id = one.put(make_radiograph(PixelData=b"\0" * 100))
    one.analyse.run()
    seen = one.analysis(analysis_id)
    assert (seen.status, seen.outcome, seen.reason_code) == (
        AnalysisStatus.DELIVERING,
        Outcome.ERROR,
        ReasonCode.PIXELS_MISSING,
    )
    assert seen.attempts == 1
    assert {r.sop_class_uid for r in seen.results} == {ComprehensiveSRStorage, SecondaryCaptureImageStorage}


def test_one_damaged_image_makes_the_study_partial(one: Node) -> None:
    analysis_id = one.put(make_radiograph(), make_radiograph(instance=2, PixelData=b"\0" * 100))
    one.analyse.run()
    seen = one.analysis(analysis_id)
    assert seen.outcome is Outcome.PARTIAL
    assert [i.outcome for i in seen.images] == [Outcome.FINDINGS, Outcome.ERROR]


def test_a_view_the_package_does_not_read_is_not_analysed(one: Node) -> None:
    analysis_id = one.put(make_radiograph(ViewPosition="LL", ViewCodeSequence=None))
    one.analyse.run()
    seen = one.analysis(analysis_id)
    assert (seen.outcome, seen.reason_code) == (Outcome.NOT_ANALYSED, ReasonCode.PACKAGE_VETO)


def test_a_lost_file_ends_failed_and_says_so(one: Node) -> None:
    analysis_id = one.put(make_radiograph())
    for path in one.rooms.spool.files("instances"):
        one.rooms.spool.remove(path)
    one.analyse.run()
    seen = one.analysis(analysis_id)
    assert (seen.status, seen.reason_code) == (AnalysisStatus.FAILED, ReasonCode.SPOOL_MISSING)


def test_a_changed_file_is_not_read(one: Node) -> None:
    analysis_id = one.put(make_radiograph())
    (path,) = (one.rooms.spool.path(p) for p in one.rooms.spool.files("instances"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    one.analyse.run()
    assert one.analysis(analysis_id).reason_code is ReasonCode.SPOOL_MISSING


def test_a_detector_that_fails_on_one_study_gives_that_one_back(one: Node) -> None:
    first, second = [
        one.put(make_radiograph(seed=0)),
        one.put(make_radiograph(seed=1, Rows=64, Columns=64)),
    ]

    def choke(images: object) -> None:
        if any(i.shape == (64, 64) for i in images):  # type: ignore[attr-defined]
            raise RuntimeError("no memory")

    one.detector.before = choke
    one.analyse.run()
    assert one.analysis(first).status is AnalysisStatus.DELIVERING
    back = one.analysis(second)
    assert (back.status, back.attempts, back.reason_code) == (AnalysisStatus.QUEUED, 1, ReasonCode.INTERNAL)
    assert one.analyse.run() == 0  # it waits for its pause
    one.detector.before = lambda images: None
    one.clock.forward(60)
    assert one.analyse.run() == 1
    assert one.analysis(second).outcome is Outcome.FINDINGS


def test_a_detector_that_always_fails_uses_up_the_attempts_and_then_the_process_counts_as_broken(
    one: Node,
) -> None:
    def choke(images: object) -> None:
        raise RuntimeError("device lost")

    one.detector.before = choke
    for seed in range(2):
        one.put(make_radiograph(seed=seed))
    for _ in range(10):
        one.clock.forward(200)
        one.analyse.run()
    assert one.analyse.broken


def test_the_log_of_a_failure_quotes_no_data_set(one: Node, capsys: pytest.CaptureFixture[str]) -> None:
    def choke(images: object) -> None:
        raise RuntimeError("Müller^Jörg")

    one.detector.before = choke
    one.put(make_radiograph())
    one.analyse.run()
    said = capsys.readouterr()
    assert "RuntimeError at" in said.out + said.err
    assert "Müller" not in said.out + said.err


def test_a_worker_that_slept_past_its_lease_writes_nothing(one: Node) -> None:
    analysis_id = one.put(make_radiograph())

    def sleep(images: object) -> None:
        one.detector.before = lambda images: None
        one.clock.forward(500)
        assert one.sweep().leases_expired == 1
        assert one.analyse.run() == 1  # another worker, in between

    one.detector.before = sleep
    one.analyse.run()
    seen = one.analysis(analysis_id)
    assert (seen.status, seen.attempts, len(seen.results)) == (AnalysisStatus.DELIVERING, 2, 2)
    assert len(one.results_on_disk()) == 2


def test_a_lease_is_extended_while_work_takes_long(tmp_path: Path, children: Children) -> None:
    with node(tmp_path, children, PACS, policy=Policy(lease_s=0.6)) as slow:
        analysis_id = slow.put(make_radiograph())
        until: list[datetime | None] = []

        def look(images: object) -> None:
            time.sleep(1.5)
            until.append(slow.analysis(analysis_id).lease_until)
            assert slow.sweep().leases_expired == 0

        slow.detector.before = look
        slow.analyse.run()
        assert until[0] is not None
        assert until[0] > datetime.now(UTC)
        assert slow.analysis(analysis_id).attempts == 1


def test_a_repeated_look_comes_to_the_same_objects_and_sends_nothing_twice(one: Node) -> None:
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    study_id = 1
    with ledger.transaction(one.rooms.sessions) as session:
        session.get_one(Analysis, analysis_id).status = AnalysisStatus.COMPLETED
        session.flush()
        replay = ledger.open_replay(session, study_id, "analyse", "test", one.clock())
    assert replay.analysis_id is not None
    one.queue_studies()
    one.analyse.run()
    first, second = one.analysis(analysis_id), one.analysis(replay.analysis_id)
    assert [r.sop_instance_uid for r in first.results] == [r.sop_instance_uid for r in second.results]
    assert [r.sha256 for r in first.results] == [r.sha256 for r in second.results]
    assert len(one.results_on_disk()) == 2


def test_results_carry_the_demographics_of_the_latest_image(one: Node) -> None:
    analysis_id = one.put(
        make_radiograph(),
        make_radiograph(instance=2, PatientName="Schmidt^Jörg", SpecificCharacterSet="ISO_IR 100"),
    )
    one.analyse.run()
    for result in one.analysis(analysis_id).results:
        assert dcmread(one.rooms.spool.path(result.relative_path)).PatientName == "Schmidt^Jörg"


def test_flags_of_selection_stand_in_the_ledger(one: Node) -> None:
    flag = Reason.of(ReasonCode.VIEW_UNCLEAR)
    analysis_id = one.put(make_radiograph(), flags=[flag])
    one.analyse.run()
    assert one.analysis(analysis_id).images[0].flags == (flag,)


def test_an_analysis_of_another_package_is_left_alone(one: Node) -> None:
    one.put(make_radiograph(), package_id="another")
    assert one.analyse.run() == 0


def test_a_worker_without_packages_takes_nothing(one: Node) -> None:
    one.put(make_radiograph())
    one.analyse.loaded = {}
    assert one.analyse.run() == 0


def test_a_stopping_worker_takes_nothing_more(one: Node) -> None:
    one.put(make_radiograph())
    one.rooms.stopping.set()
    assert one.analyse.run() == 0


@pytest.mark.parametrize(
    "point", ["analyse.claimed", "analyse.decoded", "analyse.looked", "analyse.written", "analyse.recording"]
)
def test_a_fault_at_any_step_costs_an_attempt_and_no_result(one: Node, point: str) -> None:
    analysis_id = one.put(make_radiograph())
    faults.arm(f"{point}=raise")
    try:
        with pytest.raises(faults.FaultInjected) if point in OF_THE_BATCH else nullcontext():
            one.analyse.run()
    finally:
        faults.arm("")
    for _ in range(3):
        one.clock.forward(200)
        one.sweep()
        one.analyse.run()
    seen = one.analysis(analysis_id)
    assert (seen.status, seen.attempts, len(seen.results)) == (AnalysisStatus.DELIVERING, 2, 2)


def test_a_database_that_does_not_answer_is_said_and_not_swallowed(one: Node) -> None:
    one.put(make_radiograph())
    gone = ledger.sessions(f"sqlite:///{one.folder / 'nowhere' / 'hipnode.db'}")
    one.analyse.rooms = replace(one.rooms, sessions=gone)
    with pytest.raises(LedgerDown):
        one.analyse.run()


def test_a_killed_decoding_child_costs_an_attempt_and_not_the_study(tmp_path: Path) -> None:
    with Children(1, 30, 2 * 2**30, 64 * 10**6) as pool, node(tmp_path, pool, PACS) as made:
        pool.call(os.getpid)
        analysis_id = made.put(make_radiograph())
        working = threading.Thread(target=made.analyse.run)
        working.start()
        while working.is_alive():  # the out-of-memory killer comes back and back
            for child in multiprocessing.active_children():
                child.kill()
            time.sleep(0.01)
        back = made.analysis(analysis_id)
        assert (back.status, back.reason_code) == (AnalysisStatus.QUEUED, ReasonCode.DECODE_FAILED)
        made.clock.forward(60)
        made.analyse.run()
        assert made.analysis(analysis_id).outcome is Outcome.FINDINGS


def test_an_image_that_takes_too_long_is_tried_again_and_then_ends_with_its_reason(tmp_path: Path) -> None:
    with Children(1, 30, 2 * 2**30, 1000) as pool, node(tmp_path, pool, PACS) as made:
        analysis_id = made.put(make_radiograph())
        made.analyse.run()
        assert made.analysis(analysis_id).status is AnalysisStatus.QUEUED
        for _ in range(2):
            made.clock.forward(60)
            made.analyse.run()
        seen = made.analysis(analysis_id)
        assert (seen.status, seen.outcome) == (AnalysisStatus.DELIVERING, Outcome.ERROR)
        assert (seen.reason_code, seen.attempts) == (ReasonCode.DECODE_LIMIT, 3)


def replayed(
    made: Node, analysis_id: int, from_: Literal["analyse", "deliver"] = "analyse"
) -> AnalysisDetail:
    """The analysis ends, is replayed and looked at again."""
    with ledger.transaction(made.rooms.sessions) as session:
        session.get_one(Analysis, analysis_id).status = AnalysisStatus.COMPLETED
        session.flush()
        replay = ledger.open_replay(session, 1, from_, "test", made.clock())
    assert replay.analysis_id is not None
    made.queue_studies()
    made.analyse.run()
    return made.analysis(replay.analysis_id)


@pytest.mark.parametrize("trouble", ["gone", "changed"])
def test_a_replay_brings_back_result_files_that_were_lost(one: Node, trouble: str) -> None:
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    for path in map(one.rooms.spool.path, one.results_on_disk()):
        content = path.read_bytes()
        path.unlink()
        if trouble == "changed":
            path.write_bytes(content[:-1] + b"?")
    seen = replayed(one, analysis_id)
    assert len(seen.results) == 2
    for result in seen.results:
        assert one.rooms.spool.verify(result.relative_path, result.sha256)


def test_the_instant_in_the_books_is_the_one_in_the_objects(
    one: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis_id = one.put(make_radiograph())
    write = one.rooms.spool.write_result

    def slowly(dataset: Dataset) -> StoredFile:
        one.clock.forward(60)
        return write(dataset)

    monkeypatch.setattr(one.rooms.spool, "write_result", slowly)
    one.analyse.run()
    seen = one.analysis(analysis_id)
    report = dcmread(one.rooms.spool.path(seen.results[0].relative_path))
    assert seen.analysed_at is not None
    assert seen.analysed_at.strftime("%H%M%S") == str(report.ContentTime)[:6]
