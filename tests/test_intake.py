"""Intake: complete studies are closed, selected and queued; spool and ledger agree after a crash."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger, queue
from hipnode.children import Children
from hipnode.errors import ImageRejected, LedgerDown
from hipnode.intake import Intake, Pace, Reconciled, reconcile
from hipnode.selection import Facts, Selection, facts_of
from hipnode.spool import Spool, StoredFile
from hipnode.status import AnalysisStatus, ReasonCode
from tests.factories import make_radiograph
from tests.ledger_steps import Journey, empty_sqlite, make, postgres_ledger
from tests.peers import wait_for

__all__ = ["empty_sqlite", "make", "postgres_ledger"]

A = AnalysisStatus
SELECTION = Selection.load(None)
HASTY = Pace(tick_s=1e-3)
PACKAGE = "hip-damoyolo-t-phantom"


class Reader:
    """Reads headers in this process; `rejects` names files (by SOP Instance UID) it rejects, and why."""

    def __init__(self) -> None:
        self.rejects: dict[str, ReasonCode] = {}
        self.before: Callable[[], None] = lambda: None
        self.read = 0

    def read_facts(self, path: Path) -> Facts:
        self.read += 1
        self.before()
        ds = dcmread(path, stop_before_pixels=True)
        if code := self.rejects.get(ds.SOPInstanceUID):
            raise ImageRejected(code)
        return facts_of(ds)


class Node(Journey):
    """A journey with a spool and an intake."""

    def __init__(self, make: sessionmaker[Session], folder: Path) -> None:
        super().__init__(make)
        self.spool, self.reader, self.holding = Spool(folder / "spool"), Reader(), set[str]()
        queue.configure("filesystem://", folder / "broker")
        self.bells = folder / "broker" / "messages"
        self.intake = self.another()

    def another(self, **changes: Any) -> Intake:
        values: dict[str, Any] = {
            "sessions": self.make,
            "spool": self.spool,
            "children": self.reader,
            "selection": SELECTION,
            "packages": {PACKAGE: "a" * 64},
            "receiving": lambda: self.holding,
            "clock": lambda: self.now,
        }
        return Intake(**values | changes)

    def keep(self, ds: Dataset) -> StoredFile:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        return self.spool.write_instance(
            buffer.getvalue(),
            sop_class_uid=ds.SOPClassUID,
            sop_instance_uid=ds.SOPInstanceUID,
            transfer_syntax_uid=str(ExplicitVRLittleEndian),
        )

    def store(self, **keywords: Any) -> ledger.Recorded:
        ds = make_radiograph(rows=600, columns=520, **keywords)
        file = self.keep(ds)
        return super().receive(
            ds.StudyInstanceUID,
            ds.SOPInstanceUID,
            relative_path=file.relative_path,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            series_instance_uid=ds.SeriesInstanceUID,
            sop_class_uid=ds.SOPClassUID,
        )

    def rung(self) -> list[str]:
        names = [p.name.split(".")[1] for p in self.bells.iterdir()]
        for path in self.bells.iterdir():
            path.unlink()
        return sorted(names)


@pytest.fixture
def node(make: sessionmaker[Session], tmp_path: Path) -> Iterator[Node]:
    yield Node(make, tmp_path)
    queue.bell().close()


def test_a_tick_without_studies_does_nothing(node: Node) -> None:
    assert node.intake.tick() == 0
    assert (node.reader.read, node.rung()) == (0, [])


def test_a_stable_hip_is_queued_and_the_bell_rung(node: Node) -> None:
    node.store()
    assert node.intake.tick() == 0
    node.later(10)
    assert node.intake.tick() == 1
    (analysis,) = node.show().analyses
    assert (analysis.status, analysis.package_id, analysis.package_sha256) == (A.QUEUED, PACKAGE, "a" * 64)
    assert analysis.images[0].decision in ("analyse", "analyse_flag")
    assert node.rung() == ["analyse"]
    assert node.intake.tick() == 0


def test_a_package_this_machine_lacks_is_queued_without_a_hash(node: Node) -> None:
    node.store()
    node.later(11)
    assert node.another(packages={}).tick() == 1
    assert node.show().analyses[0].package_sha256 is None


def test_a_knee_is_not_applicable_and_says_why(node: Node) -> None:
    node.store(BodyPartExamined="KNEE", SeriesDescription="Knie ap", StudyDescription="Knie")
    node.later(11)
    assert node.intake.tick() == 0
    summary = node.show().summary
    assert (summary.status, summary.reason_code) == (A.NOT_APPLICABLE, ReasonCode.OTHER_REGION)
    assert "KN" in summary.reason.upper()
    assert node.rung() == []


def test_a_hip_beside_a_knee_is_analysed_alone(node: Node) -> None:
    node.store(instance=1)
    node.store(instance=2, BodyPartExamined="KNEE", SeriesDescription="Knie ap", StudyDescription=None)
    node.later(11)
    assert node.intake.tick() == 1
    assert len(node.do(ledger.images_of, 1)) == 1
    assert len(node.show().analyses[0].images) == 2


def test_a_transfer_under_way_holds_the_study(node: Node) -> None:
    node.store()
    node.holding = {node.show().summary.study_instance_uid}
    node.later(11)
    assert node.intake.tick() == 0
    node.later(300)
    assert node.intake.tick() == 1, "up to the cap"


def test_flags_of_selection_and_revision_reach_the_images(node: Node) -> None:
    node.store(ViewPosition="PA", seed=1)
    node.store(ViewPosition="PA", seed=1, PatientName="Changed^Name")
    node.later(11)
    assert node.intake.tick() == 1
    (image,) = node.do(ledger.images_of, 1)
    assert [f.code for f in image.flags] == [ReasonCode.VIEW_PA, ReasonCode.REVISION_CONFLICT]


def test_an_image_that_comes_while_headers_are_read_is_not_lost(node: Node) -> None:
    node.store(instance=1)
    node.later(11)
    node.reader.before = lambda: (setattr(node.reader, "before", lambda: None), node.store(instance=2))[0]
    assert node.intake.tick() == 0
    assert node.show().analyses[0].status is A.RECEIVING
    node.later(11)
    assert node.intake.tick() == 1
    assert len(node.do(ledger.images_of, 1)) == 2


class TestHeaders:
    @pytest.mark.parametrize("code", [ReasonCode.DECODE_FAILED, ReasonCode.PIXELS_MISSING])
    def test_a_study_nobody_can_read_fails_with_the_reason(self, node: Node, code: ReasonCode) -> None:
        node.reader.rejects = {make_radiograph().SOPInstanceUID: code}
        node.store()
        node.later(11)
        assert node.intake.tick() == 0
        summary = node.show().summary
        assert (summary.status, summary.reason_code) == (A.FAILED, code)

    def test_a_limit_may_be_the_machines_fault_and_is_tried_again(self, node: Node) -> None:
        node.reader.rejects = {make_radiograph().SOPInstanceUID: ReasonCode.DECODE_LIMIT}
        node.store()
        node.later(11)
        statuses = []
        intake = node.another(pace=HASTY)
        for _ in range(3):
            intake.tick()
            time.sleep(0.02)
            statuses.append(node.show().summary.status)
        assert statuses == [A.RECEIVING, A.RECEIVING, A.FAILED]
        assert node.show().summary.reason_code is ReasonCode.DECODE_LIMIT

    def test_a_limit_that_passes_is_forgotten(self, node: Node) -> None:
        node.reader.rejects = {make_radiograph().SOPInstanceUID: ReasonCode.DECODE_LIMIT}
        node.store()
        node.later(11)
        intake = node.another(pace=HASTY)
        intake.tick()
        time.sleep(0.02)
        node.reader.rejects = {}
        assert intake.tick() == 1

    def test_an_unreadable_image_beside_a_readable_one_is_not_passed_over_in_silence(
        self, node: Node
    ) -> None:
        node.reader.rejects = {make_radiograph(instance=2).SOPInstanceUID: ReasonCode.DECODE_FAILED}
        node.store(instance=1)
        node.store(instance=2)
        node.later(11)
        assert node.intake.tick() == 1
        assert len(node.do(ledger.images_of, 1)) == 2
        image = node.show().analyses[0].images[1]
        assert (image.rule, image.reason_code) == ("header not readable", ReasonCode.DECODE_FAILED)

    def test_a_lost_file_fails_the_study_until_it_is_sent_again(self, node: Node) -> None:
        node.store()
        (path,) = node.spool.files("instances")
        node.spool.remove(path)
        node.later(11)
        assert node.intake.tick() == 0
        assert node.show().summary.reason_code is ReasonCode.SPOOL_MISSING
        assert node.store().fresh
        node.later(11)
        assert node.intake.tick() == 1
        assert [(a.number, a.status) for a in node.show().analyses] == [(2, A.QUEUED), (1, A.FAILED)]

    def test_one_bad_study_does_not_stop_the_others(self, node: Node) -> None:
        for seed in range(3):
            node.store(seed=seed)
        node.later(11)
        calls = iter([RuntimeError("Patient^Name"), None, None])

        def trouble() -> None:
            error = next(calls)
            if error:
                raise error

        node.reader.before = trouble
        assert node.intake.tick() == 2
        statuses = sorted(node.show(n).summary.status for n in (1, 2, 3))
        assert statuses == [A.QUEUED, A.QUEUED, A.RECEIVING]

    def test_a_study_that_is_put_off_is_not_tried_at_every_tick(self, node: Node) -> None:
        node.reader.rejects = {make_radiograph().SOPInstanceUID: ReasonCode.DECODE_LIMIT}
        node.store()
        node.later(11)
        for _ in range(5):
            node.intake.tick()
        assert node.reader.read == 1

    def test_trouble_without_end_comes_to_an_end(self, node: Node) -> None:
        node.store()
        node.later(11)

        def trouble() -> None:
            raise RuntimeError

        node.reader.before = trouble
        intake = node.another(pace=Pace(tick_s=1e-5))
        for _ in range(8):
            assert node.show().summary.status is A.RECEIVING
            intake.tick()
            time.sleep(0.01)
        summary = node.show().summary
        assert (summary.status, summary.reason_code) == (A.FAILED, ReasonCode.INTERNAL)

    def test_a_spool_that_went_away_fails_no_study(self, node: Node) -> None:
        node.store()
        node.later(11)
        node.spool.root.rename(node.spool.root.with_name("away"))
        assert node.intake.tick() == 0
        assert node.show().summary.status is A.RECEIVING
        node.spool.root.with_name("away").rename(node.spool.root)
        assert node.intake.tick() == 1

    def test_a_file_that_was_missed_and_is_back_is_read(self, node: Node) -> None:
        recorded = node.store()
        node.do(ledger.mark_missing, recorded.instance_id, "test", node.now)
        node.later(11)
        assert node.intake.tick() == 1
        assert node.show().instances[0].reason_code is None
        assert not node.do(ledger.images_of, 1)[0].missing

    def test_a_file_that_was_missed_and_is_back_changed_is_not(self, node: Node) -> None:
        recorded = node.store()
        node.do(ledger.mark_missing, recorded.instance_id, "test", node.now)
        (path,) = node.spool.files("instances")
        with node.spool.path(path).open("ab") as file:
            file.write(b"more")
        node.later(11)
        assert node.intake.tick() == 0
        assert node.show().summary.reason_code is ReasonCode.SPOOL_MISSING

    def test_trouble_is_logged_without_its_text(self, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
        node.store()
        node.later(11)

        def trouble() -> None:
            raise RuntimeError("Patient^Name")

        node.reader.before = trouble
        node.intake.tick()
        said = "".join(capsys.readouterr())
        assert "RuntimeError" in said
        assert "Patient" not in said

    def test_real_children_read_the_headers(self, node: Node) -> None:
        node.store(seed=1)
        ds = make_radiograph(seed=2)
        file = node.spool.write_instance(
            b"\x08\x00\x05\x00CS\xff\xff" + os.urandom(400),
            sop_class_uid=ds.SOPClassUID,
            sop_instance_uid=ds.SOPInstanceUID,
            transfer_syntax_uid=str(ExplicitVRLittleEndian),
        )
        names = {"relative_path": file.relative_path, "sha256": file.sha256}
        names["series_instance_uid"] = ds.SeriesInstanceUID
        Journey.receive(node, ds.StudyInstanceUID, ds.SOPInstanceUID, **names)
        node.later(11)
        with Children(1, 60, 2 << 30, 10**8) as children:
            assert node.another(children=children).tick() == 1
        assert node.show(1).summary.status is A.QUEUED
        assert node.show(2).summary.status in (A.FAILED, A.NOT_APPLICABLE)
        assert node.show(2).summary.reason_code is not None

    def test_a_study_of_conflicts_only_has_an_end(self, node: Node) -> None:
        node.store(seed=1)
        node.store(seed=1, StudyInstanceUID="1.2.3.4")
        node.later(11)
        assert node.intake.tick() == 1
        summary = node.show(2).summary
        assert (summary.status, summary.reason_code) == (A.FAILED, ReasonCode.REVISION_CONFLICT)


class TestSweep:
    def test_nothing_due_rings_nothing(self, node: Node) -> None:
        node.intake.sweep()
        assert node.rung() == []

    def test_one_bell_for_each_queue_with_work(self, node: Node) -> None:
        node.queued("1.2")
        node.intake.sweep()
        assert node.rung() == ["analyse"]
        node.tell(node.claim()[0])
        node.intake.sweep()
        assert node.rung() == ["deliver"]

    def test_a_notice_rings_the_deliver_workers(self, node: Node) -> None:
        node.queued()
        node.later(3600)
        node.intake.sweep()
        assert node.rung() == ["analyse", "deliver"]

    def test_a_lost_worker_is_noticed(self, node: Node) -> None:
        node.queued()
        node.claim(lease_s=120)
        node.later(121)
        assert node.intake.sweep().leases_expired == 1
        assert node.rung() == ["analyse"]

    def test_a_broker_that_is_gone_does_not_matter(self, node: Node) -> None:
        queue.configure("redis://127.0.0.1:1/0", node.bells.parent)
        node.store()
        node.later(11)
        assert node.intake.tick() == 1
        node.intake.sweep()
        queue.configure("filesystem://", node.bells.parent)
        node.intake.sweep()
        assert node.rung() == ["analyse"]


class TestThread:
    def test_a_due_study_is_queued_within_about_a_second(self, node: Node) -> None:
        intake = node.another(pace=Pace(stable_age_s=0.2))
        intake.start()
        try:
            node.now += timedelta(days=1)
            node.store()
            node.later(1)
            start = time.monotonic()
            wait_for(lambda: node.show().summary.status is A.QUEUED, "the study is queued")
            assert time.monotonic() - start < 5  # 1 s and what a busy machine takes
        finally:
            intake.stop()
        assert not intake.alive

    def test_the_thread_survives_a_ledger_that_is_down(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = threading.Event()

        def down(*_: object, **__: object) -> None:
            asked.set()
            raise LedgerDown("gone")

        monkeypatch.setattr(ledger, "studies_due_to_close", down)
        monkeypatch.setattr(ledger, "sweep", down)
        intake = node.another(pace=Pace(tick_s=0.01, sweep_s=0.01))
        intake.start()
        assert asked.wait(5)
        monkeypatch.undo()
        node.store()
        node.later(11)
        wait_for(lambda: node.show().summary.status is A.QUEUED, "the study is queued")
        intake.stop()

    def test_stopping_before_starting_is_no_trouble(self, node: Node) -> None:
        node.intake.stop()
        assert not node.intake.alive

    def test_idle_costs_next_to_nothing(self, node: Node) -> None:
        node.intake.tick()
        node.intake.sweep()
        start = time.thread_time()
        for _ in range(20):
            node.intake.tick()
        node.intake.sweep()
        node.intake.sweep()
        # 20 s of an idle node's life
        assert time.thread_time() - start < 20 * 0.01


class TestReconcile:
    def later_than_files(self, node: Node) -> Node:
        node.now = node.now.now(node.now.tzinfo) + timedelta(seconds=5)
        return node

    def test_what_agrees_is_left_alone(self, node: Node) -> None:
        node.store()
        assert reconcile(node.make, node.spool, self.later_than_files(node).now) == Reconciled()

    def test_a_file_without_a_row_is_put_into_the_books(self, node: Node) -> None:
        ds = make_radiograph(PatientID="77", AccessionNumber="ACC")
        file = node.keep(ds)
        assert reconcile(node.make, node.spool, self.later_than_files(node).now) == Reconciled(adopted=1)
        detail = node.show()
        assert (detail.summary.study_instance_uid, detail.summary.accession_number) == (
            ds.StudyInstanceUID,
            "ACC",
        )
        assert (detail.instances[0].relative_path, detail.instances[0].sha256) == (
            file.relative_path,
            file.sha256,
        )
        assert detail.summary.status is A.RECEIVING
        assert reconcile(node.make, node.spool, node.now) == Reconciled()

    def test_the_sender_who_comes_again_finds_its_image_kept(self, node: Node) -> None:
        file = node.keep(make_radiograph(rows=600, columns=520))
        reconcile(node.make, node.spool, self.later_than_files(node).now)
        again = node.store()
        assert (again.fresh, again.spare is not None) == (False, True)
        assert node.spool.holds(file.relative_path)

    def test_a_double_of_what_is_in_the_books_is_removed(self, node: Node) -> None:
        node.store()
        node.keep(make_radiograph(rows=600, columns=520))
        assert reconcile(node.make, node.spool, self.later_than_files(node).now) == Reconciled(removed=1)
        assert len(list(node.spool.files("instances"))) == 1

    @pytest.mark.parametrize("data", [b"", b"rubbish" * 100])
    def test_what_cannot_be_read_goes_to_quarantine(self, node: Node, data: bytes) -> None:
        node.spool.write_instance(data, sop_class_uid="1", sop_instance_uid="2", transfer_syntax_uid="1.2")
        assert reconcile(node.make, node.spool, self.later_than_files(node).now) == Reconciled(quarantined=1)
        assert list(node.spool.files("instances")) == []
        assert len(list(node.spool.files("quarantine"))) == 2

    def test_a_row_without_a_file_is_marked(self, node: Node) -> None:
        node.store()
        (path,) = node.spool.files("instances")
        node.spool.remove(path)
        assert reconcile(node.make, node.spool, node.now) == Reconciled(missing=1)
        assert reconcile(node.make, node.spool, node.now) == Reconciled()
        assert node.show().instances[0].reason_code is ReasonCode.SPOOL_MISSING

    def test_a_file_that_is_back_is_found(self, node: Node) -> None:
        recorded = node.store()
        node.do(ledger.mark_missing, recorded.instance_id, "test", node.now)
        assert reconcile(node.make, node.spool, node.now) == Reconciled(found=1)
        assert reconcile(node.make, node.spool, node.now) == Reconciled()

    def test_young_files_may_be_another_nodes_work(self, node: Node) -> None:
        node.keep(make_radiograph())
        assert reconcile(node.make, node.spool, node.now, node.now - timedelta(days=1000)) == Reconciled()

    def test_an_orphaned_result_is_removed_after_an_hour(self, node: Node) -> None:
        file = node.spool.write_result(make_radiograph())
        self.later_than_files(node)
        assert reconcile(node.make, node.spool, node.now) == Reconciled()
        old = time.time() - 4000
        os.utime(node.spool.path(file.relative_path), (old, old))
        assert reconcile(node.make, node.spool, node.now) == Reconciled(removed=1)

    def test_results_in_the_books_stay(self, node: Node) -> None:
        file = node.spool.write_result(make_radiograph())
        kept = ledger.ResultFile("SR", "", "1.1", "1.2", "1.3", file.relative_path, file.sha256)
        node.delivering(files=[kept])
        old = time.time() - 4000
        os.utime(node.spool.path(file.relative_path), (old, old))
        reconcile(node.make, node.spool, self.later_than_files(node).now)
        assert node.spool.holds(file.relative_path)
