"""Sending results: what is sent, over which association, and what each answer means."""

import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from hipnode.destinations import RemoteAE
from hipnode.scu import Outgoing, StoreOutcome, Timeouts, Trouble, Verdict, echo, send, verdict_of
from tests.pacs import ABORT, CUT, HANG, pacs
from tests.peers import Orthanc, free_port

QUICK = Timeouts(connect_s=2, acse_s=1, dimse_s=1, network_s=1)
SR, SC = ComprehensiveSRStorage, SecondaryCaptureImageStorage


def result(folder: Path, sop_class_uid: str, delivery_id: int, pixels: int = 0) -> Outgoing:
    """A file as the spool keeps results: file meta information and an explicit data set."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID = meta.MediaStorageSOPClassUID = sop_class_uid
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = "김^희중"
    ds.PatientID = "4711"
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    if pixels:
        ds.PixelData = bytes(pixels)
        ds["PixelData"].VR = "OB"
    path = folder / f"{delivery_id}.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    return Outgoing(delivery_id, path)


@pytest.fixture
def both(tmp_path: Path) -> list[Outgoing]:
    return [result(tmp_path, SR, 1), result(tmp_path, SC, 2)]


def verdicts(outcomes: list[StoreOutcome]) -> list[tuple[int, Verdict, int | None]]:
    return [(one.delivery_id, one.verdict, one.peer_status) for one in outcomes]


def test_nothing_to_send_calls_nobody() -> None:
    assert send([], RemoteAE("PACS", "127.0.0.1", free_port()), "HIPNODE") == []


def test_all_results_of_a_study_go_over_one_association_byte_for_byte(both: list[Outgoing]) -> None:
    with pacs() as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert verdicts(outcomes) == [(1, Verdict.DELIVERED, 0), (2, Verdict.DELIVERED, 0)]
    assert archive.requests == ["HIPNODE>PACS"]
    for item, stored in zip(both, archive.received, strict=True):
        assert item.path.read_bytes().endswith(stored.data_set)
        assert dcmread(item.path) == stored.dataset


def test_a_peer_of_implicit_little_endian_alone_gets_the_same_elements(both: list[Outgoing]) -> None:
    with pacs(syntaxes=(ImplicitVRLittleEndian,)) as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert {one.verdict for one in outcomes} == {Verdict.DELIVERED}
    for item, stored in zip(both, archive.received, strict=True):
        assert stored.transfer_syntax_uid == ImplicitVRLittleEndian
        assert dcmread(item.path) == stored.dataset


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.DELIVERED),
        (0xB000, Verdict.DELIVERED),
        (0xB006, Verdict.DELIVERED),
        (0xB007, Verdict.DELIVERED),
        (0x0111, Verdict.DELIVERED),
        (0xA700, Verdict.RETRY),
        (0xA7FF, Verdict.RETRY),
        (0x0110, Verdict.RETRY),
        (0xFE00, Verdict.RETRY),
        (0x9999, Verdict.RETRY),
        (0xA900, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
        (0xC211, Verdict.REFUSED),
        (0x0117, Verdict.REFUSED),
        (0x0124, Verdict.REFUSED),
        (0x0122, Verdict.UNSUPPORTED),
    ],
)
def test_each_status_has_one_meaning(status: int, verdict: Verdict) -> None:
    assert verdict_of(status) is verdict


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC000, 0x0122])
def test_a_status_counts_for_its_instance_alone(both: list[Outgoing], status: int) -> None:
    with pacs(answers={SR: [status]}) as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert verdicts(outcomes) == [(1, verdict_of(status), status), (2, Verdict.DELIVERED, 0)]
    assert len(archive.requests) == 1


def test_a_coercion_is_a_delivery_whose_warning_is_kept_without_patient_data(both: list[Outgoing]) -> None:
    warning = Dataset()
    warning.Status = 0xB000
    warning.OffendingElement = [0x00100020, 0x00080050]
    warning.ErrorComment = "PatientID 4711 is now 4712"
    with pacs(answers={SR: [warning]}) as archive:
        first, second = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert (first.verdict, first.peer_status) == (Verdict.DELIVERED, 0xB000)
    assert first.warning == "The peer coerced data elements: (0010,0020), (0008,0050)."
    assert second.warning is None


def test_a_kind_the_peer_does_not_negotiate_is_unsupported_and_the_others_arrive(
    both: list[Outgoing],
) -> None:
    with pacs(takes=(SC,)) as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert verdicts(outcomes) == [(1, Verdict.UNSUPPORTED, None), (2, Verdict.DELIVERED, 0)]


def test_a_peer_that_negotiates_none_of_our_kinds_supports_none(both: list[Outgoing]) -> None:
    with pacs(takes=()) as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert [one.verdict for one in outcomes] == [Verdict.UNSUPPORTED] * 2


def test_a_rejected_association_is_tried_again_later(both: list[Outgoing]) -> None:
    with pacs(require_calling=["SOMEBODY"]) as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert [one.verdict for one in outcomes] == [Verdict.RETRY] * 2
    assert "rejected the association" in outcomes[0].detail


def test_a_peer_that_is_down_is_tried_again_later(both: list[Outgoing]) -> None:
    port = free_port()
    outcomes = send(both, RemoteAE("PACS", "127.0.0.1", port), "HIPNODE", timeouts=QUICK)
    assert verdicts(outcomes) == [(1, Verdict.RETRY, None), (2, Verdict.RETRY, None)]
    assert outcomes[0].detail == f"127.0.0.1:{port} does not take connections."


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_host_nobody_knows_is_tried_again_later(both: list[Outgoing], host: str) -> None:
    outcomes = send(both, RemoteAE("PACS", host, 104), "HIPNODE", timeouts=QUICK)
    assert [one.verdict for one in outcomes] == [Verdict.RETRY] * 2
    assert "cannot be found" in outcomes[0].detail


@pytest.mark.parametrize("answer", [ABORT, CUT, HANG])
def test_an_instance_without_an_answer_is_sent_again_and_does_not_hold_up_the_next(
    both: list[Outgoing], answer: str
) -> None:
    with pacs(answers={SR: [answer]}) as archive:
        start = time.monotonic()
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
        took = time.monotonic() - start
        archive.release.set()
    assert verdicts(outcomes) == [(1, Verdict.RETRY, None), (2, Verdict.DELIVERED, 0)]
    assert len(archive.requests) == 2
    assert took < 5


def test_a_peer_that_takes_the_connection_and_says_nothing_is_given_up(both: list[Outgoing]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        outcomes = send(
            both, RemoteAE("PACS", "127.0.0.1", silent.getsockname()[1]), "HIPNODE", timeouts=QUICK
        )
        assert time.monotonic() - start < 5
    assert [one.verdict for one in outcomes] == [Verdict.RETRY] * 2
    assert "did not answer the association request" in outcomes[0].detail


def test_a_peer_that_answers_half_a_pdu_is_given_up(both: list[Outgoing]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def half() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"\x02\x00\x00\x00\x01\x00half of an A-ASSOCIATE-AC")
                time.sleep(3)

        thread = threading.Thread(target=half)
        thread.start()
        start = time.monotonic()
        outcomes = send(
            both, RemoteAE("PACS", "127.0.0.1", listener.getsockname()[1]), "HIPNODE", timeouts=QUICK
        )
        took = time.monotonic() - start
        thread.join()
    assert [one.verdict for one in outcomes] == [Verdict.RETRY] * 2
    assert took < 5


def test_a_peer_that_stops_reading_is_cut_and_no_thread_stays(tmp_path: Path) -> None:
    stuck = threading.Event()
    large = [result(tmp_path, SC, 1, pixels=40 * 2**20)]
    seen: list[int] = []

    def stop_reading(event: evt.Event) -> None:
        seen.append(len(event.data))
        if sum(seen) > 2**20:
            stuck.wait(20)

    with pacs(on_data=stop_reading) as archive:
        ours = set(threading.enumerate())
        start = time.monotonic()
        outcomes = send(large, archive.remote, "HIPNODE", timeouts=QUICK)
        took = time.monotonic() - start
        left = [t for t in threading.enumerate() if t not in ours and "Requestor" in t.name]
        stuck.set()
    assert verdicts(outcomes) == [(1, Verdict.RETRY, None)]
    assert took < 10, took
    assert left == []


def test_a_large_result_has_time_for_its_bytes_beyond_the_time_for_an_answer(tmp_path: Path) -> None:
    large = [result(tmp_path, SC, 1, pixels=2 * 2**20)]
    slept: list[float] = []

    def slowly(event: evt.Event) -> None:
        if len(event.data) > 1000:
            time.sleep(0.02)
            slept.append(0.02)

    with pacs(on_data=slowly) as archive:
        outcomes = send(large, archive.remote, "HIPNODE", timeouts=QUICK)
    assert sum(slept) > QUICK.dimse_s
    assert verdicts(outcomes) == [(1, Verdict.DELIVERED, 0)]


def test_nothing_is_begun_after_the_time_allowed(both: list[Outgoing]) -> None:
    with pacs(answers={SR: [HANG]}) as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK, budget_s=0.5)
        archive.release.set()
    assert verdicts(outcomes) == [(1, Verdict.RETRY, None), (2, Verdict.RETRY, None)]
    assert [stored.sop_class_uid for stored in archive.received] == [SR]


def test_a_file_that_cannot_be_read_does_not_hold_up_the_others(both: list[Outgoing]) -> None:
    both[0].path.unlink()
    with pacs() as archive:
        outcomes = send(both, archive.remote, "HIPNODE", timeouts=QUICK)
    assert [one.verdict for one in outcomes] == [Verdict.RETRY, Verdict.DELIVERED]


def test_an_echo_says_how_it_went(tmp_path: Path) -> None:
    with pacs() as archive:
        report = echo(archive.remote, "HIPNODE", QUICK)
    assert (report.ok, report.detail) == (True, "The peer answered.")
    down = echo(RemoteAE("PACS", "127.0.0.1", free_port()), "HIPNODE", QUICK)
    assert (down.ok, down.trouble) == (False, Trouble.CONNECTION_REFUSED)
    assert "does not take connections" in down.detail


def test_an_echo_tells_the_causes_apart() -> None:
    def trouble(remote: RemoteAE, calling: str = "HIPNODE") -> Trouble | None:
        return echo(remote, calling, Timeouts(connect_s=0.5, acse_s=0.5, dimse_s=0.5)).trouble

    with pacs(require_calling=["OTHER"], require_called=True) as archive:
        assert trouble(archive.remote) is Trouble.CALLING_AE_TITLE
        assert trouble(replace(archive.remote, ae_title="ELSE"), "OTHER") is Trouble.CALLED_AE_TITLE
        assert trouble(archive.remote, "OTHER") is None
    assert trouble(RemoteAE("PACS", "no-such-host.invalid", 104)) is Trouble.HOST_UNKNOWN
    assert trouble(RemoteAE("PACS", "", 104)) is Trouble.HOST_UNKNOWN
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent, ExitStack() as full:
        remote = RemoteAE("PACS", "127.0.0.1", silent.getsockname()[1])
        assert trouble(remote) is Trouble.NO_ANSWER  # the kernel takes the call, nobody answers it
        for _ in range(8):
            knock = full.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex((remote.host, remote.port))
        assert trouble(remote) is Trouble.TIMEOUT


def test_many_short_associations_leave_no_thread(both: list[Outgoing]) -> None:
    before = threading.active_count()
    with pacs() as archive:
        for _ in range(10):
            assert all(o.verdict is Verdict.DELIVERED for o in send(both, archive.remote, "HIPNODE"))
    time.sleep(0.3)
    assert threading.active_count() <= before + 1


@pytest.mark.peers("orthanc")
def test_orthanc_keeps_what_was_sent(orthanc: Orthanc, both: list[Outgoing]) -> None:
    remote = RemoteAE(orthanc.ae_title, "127.0.0.1", orthanc.dicom_port)
    assert echo(remote, "HIPNODE").ok
    assert verdicts(send(both, remote, "HIPNODE")) == [(1, Verdict.DELIVERED, 0), (2, Verdict.DELIVERED, 0)]
    for item in both:
        sent = dcmread(item.path)
        (found,) = orthanc.instances(SOPInstanceUID=sent.SOPInstanceUID)
        copy = tmp_copy(orthanc.file(found))
        assert copy == sent


def tmp_copy(content: bytes) -> Any:
    from io import BytesIO

    return dcmread(BytesIO(content))


@pytest.mark.parametrize(
    "remote", [RemoteAE("", "127.0.0.1", 1), RemoteAE("PACS", "", 1), RemoteAE("A\\B", "127.0.0.1", 1)]
)
def test_a_peer_that_cannot_be_called_is_a_retry(both: list[Outgoing], remote: RemoteAE) -> None:
    """Back to a sender nobody knows: its title or its address is not there."""
    outcomes = send(both, remote, "HIPNODE", timeouts=QUICK)
    assert verdicts(outcomes) == [(1, Verdict.RETRY, None), (2, Verdict.RETRY, None)]
    assert all(one.detail for one in outcomes)
