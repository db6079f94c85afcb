"""What arrives, and which analysis it opens; on SQLite and PostgreSQL."""

import threading
from collections import Counter

import pytest
from sqlalchemy import func, select

from hipnode import ledger
from hipnode.errors import IllegalTransition, LedgerDown
from hipnode.findings import Reason
from hipnode.status import AnalysisStatus, ReasonCode
from hipnode.tables import Analysis, Instance, Study
from tests.ledger_steps import Journey, decided, empty_sqlite, journey, make, postgres_ledger, received

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

A = AnalysisStatus


def count(journey: Journey, table: type) -> int:
    return journey.do(lambda s: s.scalar(select(func.count()).select_from(table)))


def test_a_first_image_opens_analysis_one(journey: Journey) -> None:
    recorded = journey.receive("1.2", "1.2.9.1")
    assert (recorded.fresh, recorded.revision, recorded.spare) == (True, 1, None)
    (analysis,) = journey.show().analyses
    assert (analysis.status, analysis.number, analysis.package_id) == (A.RECEIVING, 1, None)


def test_the_same_bytes_again_change_nothing(journey: Journey) -> None:
    first = journey.receive("1.2", "1.2.9.1")
    again = journey.receive("1.2", "1.2.9.1", relative_path="instances/new.dcm")
    assert (again.fresh, again.instance_id) == (False, first.instance_id)
    assert again.spare == "instances/new.dcm"
    assert (count(journey, Instance), count(journey, Analysis)) == (1, 1)


def test_the_kept_file_is_never_the_spare_one(journey: Journey) -> None:
    journey.receive("1.2", "1.2.9.1", relative_path="instances/a.dcm")
    assert journey.receive("1.2", "1.2.9.1", relative_path="instances/a.dcm").spare is None


def test_other_bytes_under_a_known_uid_are_a_flagged_revision(journey: Journey) -> None:
    journey.queued()
    before = journey.show().analyses
    second = journey.receive("1.2", "1.2.9.1", "changed", patient_id="P2")
    assert (second.fresh, second.revision) == (True, 2)
    detail = journey.show()
    assert [i.reason_code for i in detail.instances] == [None, ReasonCode.REVISION_CONFLICT]
    assert detail.analyses == before
    assert any(e.why and "REVISION_CONFLICT" in e.why for e in detail.events)


def test_the_latest_revision_serves_and_carries_the_flag(journey: Journey) -> None:
    journey.receive("1.2", "1.2.9.1")
    second = journey.receive("1.2", "1.2.9.1", "changed")
    (image,) = journey.do(ledger.sources_of_study, second.study_id)
    assert image.instance_id == second.instance_id
    assert [f.code for f in image.flags] == [ReasonCode.REVISION_CONFLICT]


def test_a_known_uid_in_another_study_gets_an_end_but_no_result(journey: Journey) -> None:
    journey.receive("1.2", "1.2.9.1")
    other = journey.receive("1.3", "1.2.9.1", "other study")
    assert journey.do(ledger.sources_of_study, other.study_id) == []
    (analysis,) = journey.show(other.study_id).analyses
    assert analysis.status is A.RECEIVING
    journey.receive("1.3", "1.3.9.1")
    assert len(journey.do(ledger.sources_of_study, other.study_id)) == 1


def test_images_that_come_while_receiving_join(journey: Journey) -> None:
    for _ in range(3):
        journey.receive()
        journey.later(5)
    assert count(journey, Analysis) == 1
    assert journey.close() == []
    journey.later(6)
    assert len(journey.close()) == 1


def test_a_late_image_takes_a_queued_analysis_back(journey: Journey) -> None:
    analysis_id = journey.queued()
    journey.receive()
    assert journey.status(analysis_id) is A.RECEIVING
    assert journey.analysis(analysis_id).images == ()
    assert journey.analysis(analysis_id).package_id is None
    assert journey.claim() == []
    journey.later(11)
    assert journey.close() == [analysis_id]
    assert len(journey.do(ledger.images_of, analysis_id)) == 2


def test_an_image_after_the_claim_opens_the_next_number_over_all(journey: Journey) -> None:
    first = journey.queued()
    (claim,) = journey.claim()
    journey.receive()
    detail = journey.show()
    assert [(a.number, a.status) for a in detail.analyses] == [(2, A.RECEIVING), (1, A.ANALYSING)]
    journey.tell(claim)
    journey.send("delivered")
    journey.later(11)
    (second,) = journey.close()
    assert second != first
    assert len(journey.do(ledger.images_of, second)) == 2


@pytest.mark.parametrize("end", ["delivering", "completed"])
def test_an_image_after_the_end_opens_the_next_number(journey: Journey, end: str) -> None:
    journey.delivering()
    if end == "completed":
        journey.send("delivered")
    journey.receive()
    assert journey.show().analyses[0].number == 2


def test_a_retry_that_waits_is_not_taken_back(journey: Journey) -> None:
    journey.queued()
    (claim,) = journey.claim()
    journey.do(ledger.release, claim, _reason(), journey.now, 10)
    journey.receive()
    assert [a.number for a in journey.show().analyses] == [2, 1]


@pytest.mark.parametrize("role", ["ignored", "own"])
def test_what_is_no_source_leaves_a_row_and_opens_nothing(journey: Journey, role: str) -> None:
    code = ReasonCode.NOT_A_RADIOGRAPH if role == "ignored" else ReasonCode.OWN_OUTPUT
    journey.receive(role=role, relative_path=None, reason_code=code)
    detail = journey.show()
    assert detail.analyses == ()
    assert detail.instances[0].reason_code is code
    assert (detail.summary.status, detail.summary.reason_code) == (None, code)
    assert detail.summary.reason == code.sentence


def test_a_radiograph_after_ignored_objects_opens_an_analysis(journey: Journey) -> None:
    journey.receive(role="ignored", relative_path=None, reason_code=ReasonCode.NOT_A_RADIOGRAPH)
    journey.receive()
    assert len(journey.show().analyses) == 1
    assert len(journey.do(ledger.sources_of_study, 1)) == 1


def test_our_results_are_known_by_instance_and_by_series(journey: Journey) -> None:
    journey.delivering()
    sr = journey.show().analyses[0].results[0]
    assert journey.do(ledger.known_result_uid, sr.sop_instance_uid, "1.1")
    assert journey.do(ledger.known_result_uid, "1.1", sr.series_instance_uid)
    assert not journey.do(ledger.known_result_uid, "1.1", "1.1")


def test_a_lost_file_is_brought_back_by_the_same_bytes(journey: Journey) -> None:
    recorded = journey.receive("1.2", "1.2.9.1", relative_path="instances/a.dcm")
    journey.do(ledger.mark_missing, recorded.instance_id, "test", journey.now)
    (image,) = journey.do(ledger.sources_of_study, 1)
    assert image.missing
    back = journey.receive("1.2", "1.2.9.1", relative_path="instances/b.dcm")
    assert (back.fresh, back.instance_id, back.spare) == (True, recorded.instance_id, None)
    (image,) = journey.do(ledger.sources_of_study, 1)
    assert (image.missing, image.relative_path) == (False, "instances/b.dcm")


def test_a_lost_file_of_an_ended_study_sent_again_opens_the_next_number(journey: Journey) -> None:
    recorded = journey.receive("1.2", "1.2.9.1")
    journey.later(11)
    (opened,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)
    journey.do(ledger.mark_missing, recorded.instance_id, "test", journey.now)
    journey.do(ledger.fail, opened, _reason(ReasonCode.SPOOL_MISSING), journey.now)
    journey.receive("1.2", "1.2.9.1", relative_path="instances/b.dcm")
    assert [(a.number, a.status) for a in journey.show().analyses] == [(2, A.RECEIVING), (1, A.FAILED)]


def test_other_bytes_in_place_of_a_lost_file_open_the_next_number(journey: Journey) -> None:
    recorded = journey.receive("1.2", "1.2.9.1")
    journey.later(11)
    (opened,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)
    journey.do(ledger.mark_missing, recorded.instance_id, "test", journey.now)
    journey.do(ledger.fail, opened, _reason(ReasonCode.SPOOL_MISSING), journey.now)
    journey.receive("1.2", "1.2.9.1", "encoded anew by the archive")
    assert [(a.number, a.status) for a in journey.show().analyses] == [(2, A.RECEIVING), (1, A.FAILED)]
    (image,) = journey.do(ledger.sources_of_study, 1)
    assert not image.missing


def test_a_file_that_is_gone_without_anybody_noticing_is_replaced(journey: Journey) -> None:
    journey.receive("1.2", "1.2.9.1", relative_path="instances/a.dcm")
    again = received("1.2", "1.2.9.1", relative_path="instances/b.dcm")
    recorded = journey.do(ledger.record_instance, again, journey.now, lambda path: path == "instances/b.dcm")
    assert (recorded.fresh, recorded.spare) == (True, None)


def test_the_sender_of_an_adopted_file_is_learnt(journey: Journey) -> None:
    journey.receive("1.2", "1.2.9.1", calling_ae_title="", peer_address="")
    journey.receive("1.2", "1.2.9.1", calling_ae_title="CR7", peer_address="10.0.0.9")
    journey.later(11).close()
    (claim,) = journey.claim()
    assert (claim.calling_ae_title, claim.peer_address) == ("CR7", "10.0.0.9")


def test_an_image_adopted_without_its_sender_hides_no_sender_of_the_study(journey: Journey) -> None:
    journey.receive("1.2", "1.2.9.1", calling_ae_title="CR7", peer_address="10.0.0.9")
    journey.receive("1.2", "1.2.9.2", calling_ae_title="", peer_address="")
    journey.later(11).close()
    (claim,) = journey.claim()
    assert (claim.calling_ae_title, claim.peer_address) == ("CR7", "10.0.0.9")


def test_an_adopted_study_that_went_nowhere_is_looked_at_again_for_its_sender(journey: Journey) -> None:
    journey.receive("1.2", "1.2.9.1", calling_ae_title="", peer_address="")
    journey.later(11).close()
    (claim,) = journey.claim()
    assert journey.tell(claim, routes=()).status is AnalysisStatus.COMPLETED
    for _ in range(2):
        again = journey.receive("1.2", "1.2.9.1", calling_ae_title="CR7", peer_address="10.0.0.9")
        assert not again.fresh
    assert [a.number for a in journey.show().analyses] == [2, 1]
    journey.later(11).close()
    (claim,) = journey.claim()
    assert claim.calling_ae_title == "CR7"


def test_demographics_come_from_the_latest_image(journey: Journey) -> None:
    journey.receive(patient_id="P1", accession_number="A1")
    journey.receive(patient_id="P2", accession_number="A2")
    assert journey.show().summary.accession_number == "A2"
    assert journey.do(lambda s: s.scalar(select(Study.patient_id))) == "P2"
    notes = [e.why for e in journey.show().events if e.what == "study"]
    assert notes == ["another Patient ID"]


@pytest.mark.parametrize("text", ["", "x" * 300, "a\\b^c", "nul\0inside", "Müller 山田", "\x1b$B"])
def test_odd_identifiers_are_kept_within_their_columns(journey: Journey, text: str) -> None:
    journey.receive(patient_id=text, accession_number=text, calling_ae_title=text, peer_address=text)
    assert len(journey.show().summary.accession_number) <= 64


def test_eight_associations_that_bring_one_study_open_one_analysis(journey: Journey) -> None:
    images = [received("1.2", f"1.2.9.{n}") for n in range(24)]
    problems: list[Exception] = []

    def bring(mine: list[ledger.ReceivedInstance]) -> None:
        try:
            for one in mine:
                journey.do(ledger.record_instance, one, journey.now)
        except Exception as error:  # noqa: BLE001  (the test tells)
            problems.append(error)

    threads = [threading.Thread(target=bring, args=(images[n::4] + images[:6],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert (count(journey, Study), count(journey, Instance), count(journey, Analysis)) == (1, 24, 1)


def test_eight_associations_that_bring_the_same_bytes_keep_one_row(journey: Journey) -> None:
    fresh: list[bool] = []

    def bring(n: int) -> None:
        one = received("1.2", "1.2.9.1", relative_path=f"instances/{n}.dcm")
        fresh.append(journey.do(ledger.record_instance, one, journey.now).fresh)

    threads = [threading.Thread(target=bring, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(fresh) == {True: 1, False: 7}


def test_different_bytes_of_one_uid_at_once_get_different_revisions(journey: Journey) -> None:
    revisions: list[int] = []

    def bring(n: int) -> None:
        one = received("1.2", "1.2.9.1", f"content {n}")
        revisions.append(journey.do(ledger.record_instance, one, journey.now).revision)

    threads = [threading.Thread(target=bring, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(revisions) == [1, 2, 3, 4, 5, 6]


class TestStability:
    def test_nothing_is_stable_in_an_empty_ledger(self, journey: Journey) -> None:
        assert journey.do(ledger.studies_due_to_close, journey.now, 10, 300) == []

    @pytest.mark.parametrize(("seconds", "closes"), [(0, 0), (9.9, 0), (10, 1), (1000, 1)])
    def test_a_study_is_stable_after_its_age(self, journey: Journey, seconds: float, closes: int) -> None:
        journey.receive()
        assert len(journey.do(ledger.studies_due_to_close, journey.later(seconds).now, 10, 300)) == closes

    def test_a_transfer_under_way_holds_its_study_only(self, journey: Journey) -> None:
        journey.receive("1.2")
        journey.receive("1.3")
        journey.later(20)
        stable = journey.do(ledger.studies_due_to_close, journey.now, 10, 300, {"1.2"})
        assert [one.study_instance_uid for one in stable] == ["1.3"]

    def test_the_cap_ends_every_wait(self, journey: Journey) -> None:
        for _ in range(40):
            journey.receive()
            journey.later(8)
        (opened,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300, {"1.2"})
        assert opened.over

    def test_a_clock_set_back_makes_nothing_wait(self, journey: Journey) -> None:
        journey.receive()
        assert journey.do(ledger.studies_due_to_close, journey.later(-3600).now, 10, 300)

    def test_an_image_that_comes_while_the_study_is_closed_is_not_lost(self, journey: Journey) -> None:
        journey.receive()
        (opened,) = journey.do(ledger.studies_due_to_close, journey.later(11).now, 10, 300)
        journey.receive()
        with pytest.raises(IllegalTransition):
            journey.do(ledger.queue_analysis, opened, "hip", None, [decided(1)], journey.now)
        assert journey.close() == []
        journey.later(11).close()
        assert len(journey.do(ledger.images_of, opened.analysis_id)) == 2

    @pytest.mark.parametrize("how", ["queued", "not applicable"])
    def test_beyond_the_cap_what_came_meanwhile_is_the_next_number(self, journey: Journey, how: str) -> None:
        journey.receive()
        (opened,) = journey.do(ledger.studies_due_to_close, journey.later(301).now, 10, 300)
        journey.receive()
        if how == "queued":
            journey.do(ledger.queue_analysis, opened, "hip", None, [decided(1)], journey.now)
        else:
            journey.do(ledger.end_not_applicable, opened, _reason(), [decided(1, False)], journey.now)
        assert [(a.number, a.status) for a in journey.show().analyses] == [
            (2, A.RECEIVING),
            (1, A.QUEUED if how == "queued" else A.NOT_APPLICABLE),
        ]


def test_backlog_counts_what_is_not_at_its_end(journey: Journey) -> None:
    assert journey.do(ledger.backlog) == 0
    journey.delivering("1.2")
    journey.queued("1.3")
    journey.receive("1.4")
    assert journey.do(ledger.backlog) == 3
    journey.send("delivered")
    assert journey.do(ledger.backlog) == 2


def test_a_database_that_is_not_there_says_so(tmp_path) -> None:
    sessions = ledger.sessions(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'x.db'}")
    with pytest.raises(LedgerDown), ledger.transaction(sessions) as session:
        session.connection()
    dead = ledger.sessions("postgresql+psycopg://nobody@127.0.0.1:1/x")
    with pytest.raises(LedgerDown), ledger.reading(dead):
        pass


def _reason(code: ReasonCode = ReasonCode.OTHER_REGION) -> Reason:
    return Reason.of(code)
