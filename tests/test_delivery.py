"""The deliver job: results and failure notices on their way, and how a study ends."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)

from hipnode import faults, ledger
from hipnode.children import Children
from hipnode.destinations import Destination
from hipnode.packages import ModelPackage
from hipnode.results import codes
from hipnode.status import AnalysisStatus, DeliveryStatus, Outcome, ReasonCode
from tests.factories import make_radiograph
from tests.pacs import ABORT, CUT, HANG, Pacs, pacs
from tests.peers import Orthanc, free_port
from tests.pipeline import Node, node
from tests.readings import texts
from workers.rooms import Policy

SR, SC = ComprehensiveSRStorage, SecondaryCaptureImageStorage


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children(2, 30, 2 * 2**30, 64 * 10**6) as pool:
        yield pool


@pytest.fixture
def archive() -> Iterator[Pacs]:
    with pacs() as made:
        yield made


@pytest.fixture
def one(tmp_path: Path, children: Children, archive: Pacs) -> Iterator[Node]:
    with node(tmp_path, children, archive.destination()) as made:
        yield made


def end_of(made: Node, analysis_id: int) -> tuple[AnalysisStatus, ReasonCode | None]:
    seen = made.analysis(analysis_id)
    return seen.status, seen.reason_code


def deliveries(
    made: Node, analysis_id: int
) -> dict[tuple[str, str], tuple[DeliveryStatus, ReasonCode | None]]:
    return {
        (result.kind, delivery.destination): (delivery.status, delivery.reason_code)
        for result in made.analysis(analysis_id).results
        for delivery in result.deliveries
    }


def test_a_bell_without_work_returns_at_once(one: Node, archive: Pacs) -> None:
    assert one.deliver.run() == 0
    assert archive.requests == []


def test_a_study_goes_from_the_spool_to_the_pacs(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    assert one.deliver.run() == 1
    assert end_of(one, analysis_id) == (AnalysisStatus.COMPLETED, None)
    assert len(archive.requests) == 1
    for result in one.analysis(analysis_id).results:
        stored = archive.kept[result.sop_instance_uid]
        assert one.rooms.spool.path(result.relative_path).read_bytes().endswith(stored.data_set)
    assert {str(s.dataset.PatientName) for s in archive.kept.values()} == {"Müller^Jörg"}


def test_duplicate_bells_send_nothing_twice(one: Node, archive: Pacs) -> None:
    for seed in range(3):
        one.receive(make_radiograph(seed=seed))
    one.queue_studies()
    threads = [threading.Thread(target=one.analyse.run) for _ in range(2)]
    threads += [threading.Thread(target=one.deliver.run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.deliver.run()
    assert len(archive.kept) == 6
    assert archive.repeats == 0


def test_a_kind_the_destination_does_not_negotiate_fails_alone(tmp_path: Path, children: Children) -> None:
    with pacs(takes=(SC,)) as half, node(tmp_path, children, half.destination()) as made:
        analysis_id = made.put(make_radiograph())
        made.analyse.run()
        made.deliver.run()
        assert deliveries(made, analysis_id) == {
            ("SR", "pacs"): (DeliveryStatus.FAILED, ReasonCode.KIND_UNSUPPORTED),
            ("SC", "pacs"): (DeliveryStatus.DELIVERED, None),
        }
        assert end_of(made, analysis_id)[0] is AnalysisStatus.COMPLETED


@pytest.mark.parametrize("status", [0xA900, 0xC000])
def test_a_result_refused_for_good_fails_and_the_other_arrives(one: Node, archive: Pacs, status: int) -> None:
    archive.answers[SR] = [status]
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    one.deliver.run()
    assert deliveries(one, analysis_id) == {
        ("SR", "pacs"): (DeliveryStatus.FAILED, ReasonCode.DESTINATION_REFUSED),
        ("SC", "pacs"): (DeliveryStatus.DELIVERED, None),
    }
    assert end_of(one, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.DESTINATION_REFUSED)
    assert {d.peer_status for r in one.analysis(analysis_id).results for d in r.deliveries} == {0, status}


@pytest.mark.parametrize("first", [0xA700, 0x0110, ABORT, CUT, HANG])
def test_a_result_without_an_answer_is_sent_again_with_the_same_bytes(
    one: Node, archive: Pacs, first: Any
) -> None:
    archive.answers[SR] = [first, 0x0000]
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    one.deliver.run()
    archive.release.set()
    assert deliveries(one, analysis_id)["SR", "pacs"][0] is DeliveryStatus.DUE
    assert deliveries(one, analysis_id)["SC", "pacs"][0] is DeliveryStatus.DELIVERED
    one.clock.forward(40)
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.COMPLETED, None)
    before, after = (s for s in archive.received if s.sop_class_uid == SR)
    assert (before.sop_instance_uid, before.data_set) == (after.sop_instance_uid, after.data_set)


def test_a_coercion_completes_the_study_and_stands_in_its_history(one: Node, archive: Pacs) -> None:
    archive.answers["*"] = [0xB000]
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    one.deliver.run()
    assert end_of(one, analysis_id)[0] is AnalysisStatus.COMPLETED
    with ledger.reading(one.rooms.sessions) as session:
        shown = ledger.show_study(session, 1)
    assert shown is not None
    assert "The peer coerced data elements." in {event.why for event in shown.events}


def test_a_destination_that_is_down_gets_its_results_when_it_is_back(
    tmp_path: Path, children: Children
) -> None:
    port = free_port()
    with node(tmp_path, children, Destination("pacs", "PACS", "127.0.0.1", port)) as made:
        analysis_id = made.put(make_radiograph())
        made.analyse.run()
        made.deliver.run()
        assert end_of(made, analysis_id)[0] is AnalysisStatus.DELIVERING
        made.clock.forward(40)
        with pacs(port=port) as archive:
            made.deliver.run()
        assert end_of(made, analysis_id) == (AnalysisStatus.COMPLETED, None)
        assert len(archive.kept) == 2


def test_a_destination_that_stays_down_ends_the_study_failed(tmp_path: Path, children: Children) -> None:
    policy = Policy(delivery_retry_s=5, delivery_give_up_s=20)
    down = Destination("pacs", "PACS", "127.0.0.1", free_port())
    with node(tmp_path, children, down, policy=policy) as made:
        analysis_id = made.put(make_radiograph())
        made.analyse.run()
        for _ in range(4):
            made.deliver.run()
            made.clock.forward(8)
        assert end_of(made, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.DESTINATION_DOWN)
        with ledger.transaction(made.rooms.sessions) as session:
            replay = ledger.open_replay(session, 1, "deliver", "test", made.clock())
        assert replay.analysis_id is not None
        with pacs(port=down.port) as archive:
            made.deliver.run()
        assert end_of(made, replay.analysis_id) == (AnalysisStatus.COMPLETED, None)
        assert len(archive.kept) == 2


def test_a_silent_destination_does_not_hold_up_another(
    tmp_path: Path, children: Children, archive: Pacs
) -> None:
    with pacs(answers={"*": [HANG]}) as silent:
        slow = Destination("slow", "PACS", "127.0.0.1", silent.port)
        policy = Policy(delivery_retry_s=60, dimse_timeout_s=0.5)
        with node(tmp_path, children, slow, archive.destination(), policy=policy) as made:
            for seed in range(4):
                made.receive(make_radiograph(seed=seed))
            made.queue_studies()
            made.analyse.run()
            start = time.monotonic()
            made.deliver.run()
            took = time.monotonic() - start
            silent.release.set()
        assert len(archive.kept) == 8
        # one study was tried, two instances over two associations; the others only waited
        assert len(silent.received) == 2
        assert took < 20


def test_each_destination_counts_by_itself(tmp_path: Path, children: Children, archive: Pacs) -> None:
    with pacs(answers={"*": [0xC000]}) as refusing:
        other = Destination("other", "PACS", "127.0.0.1", refusing.port)
        with node(tmp_path, children, archive.destination(), other) as made:
            analysis_id = made.put(make_radiograph())
            made.analyse.run()
            made.deliver.run()
            assert end_of(made, analysis_id)[0] is AnalysisStatus.FAILED
            assert deliveries(made, analysis_id)["SR", "pacs"][0] is DeliveryStatus.DELIVERED
            assert deliveries(made, analysis_id)["SR", "other"][0] is DeliveryStatus.FAILED


def test_back_to_the_sender(tmp_path: Path, children: Children, archive: Pacs) -> None:
    back = Destination("back", "", "", archive.port, sender=True)
    with node(tmp_path, children, back) as made:
        analysis_id = made.put(make_radiograph())
        made.analyse.run()
        made.deliver.run()
        assert end_of(made, analysis_id) == (AnalysisStatus.COMPLETED, None)
    assert archive.requests == ["HIPNODE>CR_ROOM"]


def test_a_destination_of_comprehensive_3d_gets_it(tmp_path: Path, children: Children, archive: Pacs) -> None:
    place = archive.destination(sr_class="comprehensive3d", sc_max_px=600)
    with node(tmp_path, children, place) as made:
        analysis_id = made.put(make_radiograph())
        made.analyse.run()
        made.deliver.run()
        assert [r.variant for r in made.analysis(analysis_id).results] == ["comprehensive3d", "max600"]
    assert {s.sop_class_uid for s in archive.kept.values()} == {Comprehensive3DSRStorage, SC}


def test_a_result_file_that_is_gone_fails_its_delivery(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    report = one.analysis(analysis_id).results[0]
    one.rooms.spool.remove(report.relative_path)
    one.deliver.run()
    assert deliveries(one, analysis_id) == {
        ("SR", "pacs"): (DeliveryStatus.FAILED, ReasonCode.SPOOL_MISSING),
        ("SC", "pacs"): (DeliveryStatus.DELIVERED, None),
    }
    assert end_of(one, analysis_id)[0] is AnalysisStatus.FAILED


def test_a_destination_taken_out_of_the_file_is_waited_for(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    file = one.folder / "data" / "destinations.toml"
    text = file.read_text()
    file.write_text("")
    one.deliver.run()
    assert deliveries(one, analysis_id)["SR", "pacs"][0] is DeliveryStatus.DUE
    file.write_text(text)
    one.clock.forward(40)
    one.deliver.run()
    assert end_of(one, analysis_id)[0] is AnalysisStatus.COMPLETED


# --- Failure notices -------------------------------------------------------------------------------


def notice_of(archive: Pacs) -> list[str]:
    return sorted(stored.sop_class_uid for stored in archive.kept.values())


def test_damaged_pixels_end_failed_with_a_notice_in_the_pacs(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph(PixelData=b"\0" * 100))
    one.analyse.run()
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.PIXELS_MISSING)
    assert notice_of(archive) == sorted([SR, SC])


def test_used_up_attempts_end_failed_with_a_notice_in_the_pacs(one: Node, archive: Pacs) -> None:
    def choke(images: object) -> None:
        raise RuntimeError("device lost")

    one.detector.before = choke
    analysis_id = one.put(make_radiograph())
    for _ in range(3):
        one.analyse.run()
        one.clock.forward(100)
    assert one.deliver.run() == 2  # the notice, and its delivery
    seen = one.analysis(analysis_id)
    assert (seen.status, seen.outcome, seen.reason_code, seen.attempts) == (
        AnalysisStatus.FAILED,
        Outcome.ERROR,
        ReasonCode.INTERNAL,
        3,
    )
    assert notice_of(archive) == sorted([SR, SC])
    (image,) = seen.images
    assert image.outcome is Outcome.ERROR


def test_a_package_nobody_has_ends_failed_with_a_notice_in_the_pacs(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph(), package_id="not-here")
    one.beat()
    assert one.deliver.run() == 0  # a worker may still come up
    one.clock.forward(70)
    one.beat()
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.NO_PACKAGE)
    assert notice_of(archive) == sorted([SR, SC])


def test_without_any_analyse_worker_the_notice_comes_after_the_deadline(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph())
    one.clock.forward(3700)
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.NO_PACKAGE)
    assert notice_of(archive) == sorted([SR, SC])


def test_a_notice_names_the_patient_and_the_reason(one: Node, archive: Pacs) -> None:
    one.put(make_radiograph(), package_id="not-here")
    one.clock.forward(3700)
    one.deliver.run()
    (report,) = archive.kept_of(SR)
    assert report.dataset.PatientName == "Müller^Jörg"
    text = report.dataset.to_json()
    assert "not-here" in text
    assert "Absent" not in text


def other_weights(package: ModelPackage) -> ModelPackage:
    """The same package id with a later version's weights."""
    weights = package.manifest.weights.model_copy(update={"sha256": "0" * 64})
    changes = {"version": "2.0.0", "name": "Newer package", "weights": weights}
    return ModelPackage(package.folder, package.manifest.model_copy(update=changes))


@pytest.mark.parametrize("on_disk", ["pinned", "other weights", "nothing"])
def test_a_notice_names_the_package_that_was_pinned_and_no_other(
    one: Node, archive: Pacs, on_disk: str
) -> None:
    def choke(images: object) -> None:
        raise RuntimeError("device lost")

    one.detector.before = choke
    one.put(make_radiograph())
    for _ in range(3):
        one.analyse.run()  # pins the weights this worker has
        one.clock.forward(100)
    found = {"pinned": [one.package], "other weights": [other_weights(one.package)], "nothing": []}[on_disk]
    one.deliver.packages = {package.id: package for package in found}
    one.deliver.run()
    (report,) = archive.kept_of(SR)
    said = texts(report.dataset, codes.ALGORITHM_PARAMETERS)
    assert said[:2] == [f"package {one.package.id}", f"weights SHA-256 {one.package.sha256}"]
    known = on_disk == "pinned"
    assert texts(report.dataset, codes.ALGORITHM_NAME) == ["Hip test package" if known else "hip-test"]
    assert texts(report.dataset, codes.ALGORITHM_VERSION) == (["1.0.0"] if known else [])
    whole = report.dataset.to_json()
    assert "Newer" not in whole
    assert "2.0.0" not in whole
    assert "0" * 64 not in whole


def test_a_notice_of_an_analysis_without_pinned_weights_names_the_package_alone(
    one: Node, archive: Pacs
) -> None:
    one.put(make_radiograph())  # queued without a hash, and no worker ever claimed it
    one.clock.forward(3700)
    one.deliver.run()
    (report,) = archive.kept_of(SR)
    assert texts(report.dataset, codes.ALGORITHM_NAME) == ["hip-test"]
    assert texts(report.dataset, codes.ALGORITHM_PARAMETERS) == ["package hip-test"]


def test_a_notice_that_cannot_be_built_still_ends_the_study(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph(), package_id="not-here")
    for path in list(one.rooms.spool.files("instances")):
        one.rooms.spool.remove(path)
    one.clock.forward(3700)
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.SPOOL_MISSING)
    assert archive.kept == {}


def test_a_killed_worker_three_times_is_worker_lost(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph())
    for _ in range(3):
        faults.arm("analyse.claimed=raise")
        with pytest.raises(faults.FaultInjected):
            one.analyse.run()
        faults.arm("")
        one.clock.forward(130)
        one.sweep()
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.WORKER_LOST)
    assert notice_of(archive) == sorted([SR, SC])


def test_a_late_answer_after_a_notice_is_a_new_object(one: Node, archive: Pacs) -> None:
    first = one.put(make_radiograph(), package_id="not-here")
    one.clock.forward(3700)
    one.deliver.run()
    with ledger.transaction(one.rooms.sessions) as session:
        ledger.open_replay(session, 1, "analyse", "test", one.clock())
    (second,) = one.queue_studies()
    one.analyse.run()
    one.deliver.run()
    assert end_of(one, first)[0] is AnalysisStatus.FAILED
    assert end_of(one, second) == (AnalysisStatus.COMPLETED, None)
    assert len(archive.kept) == 4


# --- Zombies and faults ----------------------------------------------------------------------------


def test_a_worker_that_slept_past_its_lease_records_nothing(one: Node, archive: Pacs) -> None:
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    slept: list[bool] = []
    answer = archive.next_answer

    def sleep_once(sop_class_uid: str) -> Any:
        if not slept:
            slept.append(True)
            one.clock.forward(500)
            assert one.sweep().leases_expired == 2
            one.deliver.run()  # another worker, in between
        return answer(sop_class_uid)

    archive.next_answer = sleep_once  # type: ignore[method-assign]
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.COMPLETED, None)
    assert len(archive.kept) == 2
    assert {d.attempts for r in one.analysis(analysis_id).results for d in r.deliveries} == {2}


@pytest.mark.parametrize("point", ["deliver.claimed", "deliver.sent", "deliver.recorded"])
def test_a_fault_at_any_step_loses_and_doubles_nothing(one: Node, archive: Pacs, point: str) -> None:
    analysis_id = one.put(make_radiograph())
    one.analyse.run()
    faults.arm(f"{point}=raise")
    with pytest.raises(faults.FaultInjected):
        one.deliver.run()
    faults.arm("")
    one.clock.forward(130)
    one.sweep()
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.COMPLETED, None)
    assert len(archive.kept) == 2
    for stored in archive.received:
        assert stored.data_set == archive.kept[stored.sop_instance_uid].data_set


@pytest.mark.parametrize("point", ["notice.claimed", "notice.written"])
def test_a_fault_while_a_notice_is_built_brings_one_notice(one: Node, archive: Pacs, point: str) -> None:
    analysis_id = one.put(make_radiograph(), package_id="not-here")
    one.clock.forward(3700)
    faults.arm(f"{point}=raise")
    with suppress(faults.FaultInjected):  # the second point is one the job survives
        one.deliver.run()
    faults.arm("")
    one.clock.forward(130)
    one.sweep()
    one.deliver.run()
    assert end_of(one, analysis_id) == (AnalysisStatus.FAILED, ReasonCode.NO_PACKAGE)
    assert notice_of(archive) == sorted([SR, SC])


def test_the_time_a_slow_transfer_takes_is_covered_by_its_lease(tmp_path: Path, children: Children) -> None:
    policy = Policy(lease_s=0.6, dimse_timeout_s=5)
    with pacs() as archive, node(tmp_path, children, archive.destination(), policy=policy) as made:
        analysis_id = made.put(make_radiograph())
        made.analyse.run()
        answer = archive.next_answer

        def slowly(sop_class_uid: str) -> Any:
            time.sleep(1.0)
            assert made.sweep().leases_expired == 0
            return answer(sop_class_uid)

        archive.next_answer = slowly  # type: ignore[method-assign]
        made.deliver.run()
        assert end_of(made, analysis_id) == (AnalysisStatus.COMPLETED, None)
        assert archive.repeats == 0


@pytest.mark.peers("orthanc")
def test_orthanc_keeps_the_results_of_a_study_beside_its_images(
    tmp_path: Path, children: Children, orthanc: Orthanc
) -> None:
    place = Destination("orthanc", orthanc.ae_title, "127.0.0.1", orthanc.dicom_port)
    with node(tmp_path, children, place) as made:
        ds = make_radiograph()
        analysis_id = made.put(ds)
        made.analyse.run()
        made.deliver.run()
        assert end_of(made, analysis_id) == (AnalysisStatus.COMPLETED, None)
        found = orthanc.instances(StudyInstanceUID=ds.StudyInstanceUID)
        assert len(found) == 2
        for result in made.analysis(analysis_id).results:
            (copy,) = orthanc.instances(SOPInstanceUID=result.sop_instance_uid)
            (tmp_path / "copy.dcm").write_bytes(orthanc.file(copy))
            assert dcmread(tmp_path / "copy.dcm") == dcmread(made.rooms.spool.path(result.relative_path))


def test_after_an_outage_the_newest_study_goes_first(one: Node, archive: Pacs) -> None:
    for seed in range(3):
        one.put(make_radiograph(seed=seed))
        one.analyse.run()
    one.deliver.run()
    went = list(dict.fromkeys(str(stored.dataset.PatientID) for stored in archive.received))
    assert went == ["P1002", "P1001", "P1000"]
