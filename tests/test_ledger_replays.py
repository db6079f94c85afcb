"""Replay: a study is put back to work once, whoever asks how often, and nothing is sent twice."""

import pytest
from sqlalchemy.orm import Session

from hipnode import ledger
from hipnode.findings import Reason
from hipnode.status import AnalysisStatus, DeliveryStatus, Outcome, ReasonCode
from tests.ledger_steps import PACS, Journey, decided, empty_sqlite, journey, make, postgres_ledger, result
from tests.test_ledger_deliveries import ARCHIVE, statuses
from tests.test_ledger_moves import at_once

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

A, D = AnalysisStatus, DeliveryStatus


def failed(journey: Journey) -> int:
    analysis_id = journey.delivering(routes=[PACS, ARCHIVE])
    journey.send("delivered", skip=["archive"])
    journey.send("refused")
    assert journey.status(analysis_id) is A.FAILED
    return analysis_id


@pytest.mark.parametrize("from_", ["analyse", "deliver"])
@pytest.mark.parametrize("state", ["receiving", "queued", "analysing", "delivering"])
def test_while_an_analysis_is_open_nothing_is_done(journey: Journey, state: str, from_: str) -> None:
    journey.receive()
    if state != "receiving":
        journey.later(11).close()
    if state in ("analysing", "delivering"):
        (claim,) = journey.claim()
    if state == "delivering":
        journey.tell(claim)
    done = journey.do(ledger.open_replay, 1, from_, "ann", journey.now)
    assert done.analysis_id is None
    assert state in done.said
    assert len(journey.show().analyses) == 1


def test_replay_twice_opens_one(journey: Journey) -> None:
    failed(journey)
    first = journey.do(ledger.open_replay, 1, "analyse", "ann", journey.now)
    second = journey.do(ledger.open_replay, 1, "analyse", "ann", journey.now)
    assert (first.number, second.analysis_id) == (2, None)
    assert sum(e.who == "ann" for e in journey.show().events) == 2


def test_of_eight_replays_at_once_one_opens(journey: Journey) -> None:
    failed(journey)
    done = at_once(8, lambda n: journey.do(ledger.open_replay, 1, "analyse", f"ann{n}", journey.now))
    assert sorted(d.analysis_id is not None for d in done) == [False] * 7 + [True]


def test_a_replay_from_analyse_is_closed_by_the_next_tick(journey: Journey) -> None:
    failed(journey)
    done = journey.do(ledger.open_replay, 1, "analyse", "ann", journey.now)
    assert journey.close() == [done.analysis_id]
    assert journey.analysis(done.analysis_id).asked_by == "ann"


def test_the_same_answer_again_completes_without_a_second_copy(journey: Journey) -> None:
    journey.delivering(files=[result("same")])
    journey.send("delivered")
    journey.do(ledger.open_replay, 1, "analyse", "ann", journey.now)
    journey.close()
    (claim,) = journey.claim()
    assert journey.tell(claim, files=[result("same", number=2)]).status is A.COMPLETED
    assert journey.send("delivered") == {}


def test_another_answer_is_another_object_and_is_sent(journey: Journey) -> None:
    journey.delivering(files=[result("failed")])
    journey.send("delivered")
    journey.do(ledger.open_replay, 1, "analyse", "ann", journey.now)
    journey.close()
    (claim,) = journey.claim()
    assert journey.tell(claim, files=[result("found")]).due == 1
    assert journey.send("delivered") == {claim.analysis_id: A.COMPLETED}


@pytest.mark.parametrize("from_", ["analyse", "deliver"])
def test_a_failed_delivery_goes_out_again_and_a_delivered_one_does_not(journey: Journey, from_: str) -> None:
    first = failed(journey)
    journey.later(1000)
    done = journey.do(ledger.open_replay, 1, from_, "ann", journey.now)
    if from_ == "analyse":
        journey.close()
        (claim,) = journey.claim()
        files = [result(f"{first}", "SR", number=2), result(f"{first}", "SC", number=2)]
        journey.tell(claim, files=files, routes=[PACS, ARCHIVE])
    else:
        assert "2 to send" in done.said
    batches = journey.do(ledger.claim_deliveries, 10, 60, "d", journey.now)
    assert [(b.destination, [i.attempts for i in b.items]) for b in batches] == [("archive", [1, 1])]
    outcomes = [ledger.StoreOutcome(i.delivery_id, "delivered", 0) for i in batches[0].items]
    ends = journey.do(ledger.record_outcomes, batches[0], outcomes, journey.now, 100, lambda _n: 1.0)
    assert ends == {done.analysis_id: A.COMPLETED}
    assert journey.status(first) is A.FAILED, "terminal is terminal"


def test_time_allowed_begins_anew_with_a_replay(journey: Journey) -> None:
    journey.delivering()
    journey.send("retry", give_up_s=0)
    journey.later(100000)
    journey.do(ledger.open_replay, 1, "deliver", "ann", journey.now)
    assert journey.send("retry", give_up_s=100) == {}


def test_replay_of_a_delivery_has_the_images_findings_and_results_of_before(journey: Journey) -> None:
    first = failed(journey)
    done = journey.do(ledger.open_replay, 1, "deliver", "ann", journey.now)
    was, is_ = journey.analysis(first), journey.analysis(done.analysis_id)
    assert (is_.number, is_.outcome, is_.package_id, is_.images) == (2, was.outcome, "hip", was.images)
    assert [r.result_id for r in is_.results] == [r.result_id for r in was.results]
    assert is_.reason_code is None
    assert journey.show().summary.findings == 1


def test_a_notice_is_redelivered_as_what_it_is(journey: Journey) -> None:
    why = Reason.of(ReasonCode.DECODE_FAILED)
    journey.delivering(outcome=Outcome.ERROR, reason=why)
    journey.send("retry", give_up_s=0)
    done = journey.do(ledger.open_replay, 1, "deliver", "ann", journey.now)
    assert journey.send("delivered") == {done.analysis_id: A.FAILED}
    assert journey.analysis(done.analysis_id).reason_code is ReasonCode.DECODE_FAILED


def test_where_everything_arrived_a_replay_of_delivery_completes_at_once(journey: Journey) -> None:
    journey.delivering()
    journey.send("delivered")
    done = journey.do(ledger.open_replay, 1, "deliver", "ann", journey.now)
    assert journey.status(done.analysis_id) is A.COMPLETED
    assert "Nothing was left to send" in done.said


def test_a_destination_added_later_gets_what_it_takes(journey: Journey) -> None:
    journey.delivering(routes=[])
    done = journey.do(ledger.open_replay, 1, "deliver", "ann", journey.now, [ledger.Route("new", ("SR",))])
    assert journey.send("delivered") == {done.analysis_id: A.COMPLETED}
    assert statuses(journey, done.analysis_id) == {("SR", "new"): D.DELIVERED}
    assert journey.analysis(done.analysis_id).reason_code is None


def test_a_destination_dropped_since_keeps_nothing_open(journey: Journey) -> None:
    failed(journey)
    done = journey.do(ledger.open_replay, 1, "deliver", "ann", journey.now, [PACS])
    assert journey.status(done.analysis_id) is A.COMPLETED


@pytest.mark.parametrize(
    ("role", "from_", "word"), [("ignored", "analyse", "image"), ("source", "deliver", "results")]
)
def test_what_cannot_be_replayed_is_said(journey: Journey, role: str, from_: str, word: str) -> None:
    journey.receive(role=role, relative_path=None if role == "ignored" else "instances/x.dcm")
    journey.later(11)
    for one in journey.do(ledger.studies_due_to_close, journey.now, 10, 300):
        journey.do(ledger.fail, one, Reason.of(ReasonCode.INTERNAL), journey.now)
    plan = journey.do(ledger.plan_replay, 1, from_)
    done = journey.do(ledger.open_replay, 1, from_, "ann", journey.now)
    assert plan == done
    assert (done.analysis_id, word in done.said) == (None, True)


def test_a_plan_says_what_would_be_done_and_does_nothing(journey: Journey) -> None:
    failed(journey)
    before = journey.show()
    assert journey.do(ledger.plan_replay, 1, "deliver").number == 2
    assert journey.show() == before


def test_of_two_packages_the_one_that_failed_is_shown_and_sent_again(journey: Journey) -> None:
    journey.receive()
    journey.later(11)
    (one,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)

    def both(session: Session) -> None:
        ledger.queue_analysis(session, one, "hip", None, [decided(1)], journey.now)
        ledger.queue_sibling(session, one, "pelvis", None, [decided(1)], journey.now)

    journey.do(both)
    for verdict, package in (("refused", "hip"), ("delivered", "pelvis")):
        (claim,) = journey.do(ledger.claim_analyses, {package: "f" * 64}, 10, 120, "w:1", journey.now)
        journey.tell(claim)
        journey.send(verdict)
    (row,) = journey.do(ledger.list_studies, [A.FAILED])
    assert (row.package_id, row.reason_code) == ("hip", ReasonCode.DESTINATION_REFUSED)
    done = journey.do(ledger.open_replay, 1, "deliver", "ann", journey.now)
    assert "2 to send" in done.said
    assert journey.send("delivered") == {done.analysis_id: A.COMPLETED}
    assert journey.show().summary.status is A.COMPLETED
