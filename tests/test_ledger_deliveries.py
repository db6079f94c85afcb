"""Results on their way: kept once, sent once, tried again, and how the analysis ends."""

import itertools
import random

import pytest
from sqlalchemy import select, update

from hipnode import ledger
from hipnode.errors import IllegalTransition
from hipnode.findings import Reason
from hipnode.ledger.deliveries import move_delivery
from hipnode.status import DELIVERY_TRANSITIONS, AnalysisStatus, DeliveryStatus, Outcome, ReasonCode
from hipnode.tables import Delivery
from tests.ledger_steps import PACS, Journey, empty_sqlite, journey, make, postgres_ledger, read, result
from tests.test_ledger_moves import at_once

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

A, D = AnalysisStatus, DeliveryStatus
ARCHIVE = ledger.Route("archive", ("SR", "SC"))


def statuses(journey: Journey, analysis_id: int) -> dict[tuple[str, str], D]:
    return {
        (r.kind, d.destination): d.status for r in journey.analysis(analysis_id).results for d in r.deliveries
    }


class TestResults:
    def test_what_was_read_stands_in_the_books(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        analysis = journey.analysis(analysis_id)
        assert (analysis.status, analysis.outcome, analysis.analysed_at) == (
            A.DELIVERING,
            Outcome.FINDINGS,
            journey.now,
        )
        (image,) = analysis.images
        assert image.outcome is Outcome.FINDINGS
        (finding,) = image.findings
        assert (finding.hip, finding.class_name, finding.score) == ("R", "DF", 0.93)
        assert (finding.alternative_class, finding.alternative_score) == ("VF", 0.41)
        assert finding.box == (10.5, 20.0, 110.25, 220.0)
        assert journey.show().summary.findings == 1

    def test_every_result_goes_to_every_destination_that_takes_it(self, journey: Journey) -> None:
        routes = [PACS, ledger.Route("viewer", ("SC",))]
        analysis_id = journey.delivering(routes=routes)
        assert statuses(journey, analysis_id) == {
            ("SR", "pacs"): D.DUE,
            ("SC", "pacs"): D.DUE,
            ("SC", "viewer"): D.DUE,
        }

    def test_each_destination_gets_its_variant(self, journey: Journey) -> None:
        files = [result("1", "SR", "plain"), result("1", "SR", "3d"), result("1", "SC")]
        routes = [
            ledger.Route("old", ("SR", "SC"), {"SR": "plain"}),
            ledger.Route("new", ("SR",), {"SR": "3d"}),
        ]
        analysis_id = journey.delivering(files=files, routes=routes)
        sent = [
            (r.variant, d.destination) for r in journey.analysis(analysis_id).results for d in r.deliveries
        ]
        assert sent == [("plain", "old"), ("3d", "new"), ("plain", "old")]

    @pytest.mark.parametrize("routes", [[], [ledger.Route("pacs", ())], [ledger.Route("pacs", ("GSPS",))]])
    def test_nobody_to_tell_completes_with_that_reason(
        self, journey: Journey, routes: list[ledger.Route]
    ) -> None:
        analysis = journey.analysis(journey.delivering(routes=routes))
        assert (analysis.status, analysis.reason_code) == (A.COMPLETED, ReasonCode.NO_DESTINATION)

    def test_a_reason_of_the_look_survives_nobody_to_tell(self, journey: Journey) -> None:
        veto = Reason.of(ReasonCode.PACKAGE_VETO)
        analysis_id = journey.delivering(routes=[], outcome=Outcome.NOT_ANALYSED, reason=veto)
        assert journey.analysis(analysis_id).reason_code is ReasonCode.PACKAGE_VETO

    def test_a_failed_look_with_nobody_to_tell_is_failed(self, journey: Journey) -> None:
        why = Reason.of(ReasonCode.DECODE_FAILED)
        analysis = journey.analysis(journey.delivering(routes=[], outcome=Outcome.ERROR, reason=why))
        assert (analysis.status, analysis.reason_code) == (A.FAILED, ReasonCode.DECODE_FAILED)

    def test_a_success_clears_the_reason_of_an_earlier_attempt(self, journey: Journey) -> None:
        journey.queued()
        (claim,) = journey.claim()
        journey.do(ledger.release, claim, Reason.of(ReasonCode.INTERNAL), journey.now, 0)
        (claim,) = journey.claim()
        journey.tell(claim)
        assert journey.analysis(1).reason_code is None

    def test_a_reading_of_a_foreign_image_is_refused_whole(self, journey: Journey) -> None:
        journey.queued()
        (claim,) = journey.claim()
        journey.receive("1.3")
        journey.later(11).close()
        foreign = journey.do(ledger.images_of, 2)
        with pytest.raises(IllegalTransition):
            journey.do(
                ledger.record_results, claim, read(foreign, Outcome.NONE), [], [], journey.now, journey.now
            )
        assert journey.status(1) is A.ANALYSING

    def test_a_known_result_is_used_and_the_new_file_spared(self, journey: Journey) -> None:
        first = journey.delivering(files=[result("same")])
        journey.send("delivered")
        journey.receive()
        journey.later(11).close()
        (claim,) = journey.claim()
        told = journey.tell(claim, files=[result("same", number=2)])
        assert told == ledger.RecordedResults(A.COMPLETED, 0, (result("same", number=2).relative_path,))
        before, after = journey.analysis(first), journey.analysis(claim.analysis_id)
        assert [r.result_id for r in after.results] == [r.result_id for r in before.results]
        assert after.results[0].sha256 == result("same").sha256

    def test_a_known_result_whose_file_is_lost_takes_the_new_bytes(self, journey: Journey) -> None:
        journey.delivering(files=[result("same")])
        journey.send("delivered")
        journey.receive()
        journey.later(11).close()
        (claim,) = journey.claim()
        told = journey.do(
            ledger.record_results,
            claim,
            _nothing(journey, claim),
            [result("same", number=2)],
            [PACS],
            journey.now,
            journey.now,
            lambda _path, _sha256: False,
        )
        assert told.spare == ()
        assert journey.analysis(2).results[0].sha256 == result("same", number=2).sha256

    def test_a_result_of_another_study_is_no_result_of_this(self, journey: Journey) -> None:
        journey.delivering("1.2", files=[result("same")])
        journey.queued("1.3")
        (claim,) = journey.claim()
        with pytest.raises(IllegalTransition):
            journey.tell(claim, files=[result("same")])
        assert journey.status(2) is A.ANALYSING


class TestEnds:
    """(verdict of SR, verdict of SC) at one destination -> how the analysis ends."""

    @pytest.mark.parametrize(
        ("verdicts", "end", "code"),
        [
            (("delivered", "delivered"), A.COMPLETED, None),
            (("unsupported", "delivered"), A.COMPLETED, None),
            (("delivered", "unsupported"), A.COMPLETED, None),
            (("unsupported", "unsupported"), A.FAILED, ReasonCode.KIND_UNSUPPORTED),
            (("refused", "delivered"), A.FAILED, ReasonCode.DESTINATION_REFUSED),
            (("refused", "refused"), A.FAILED, ReasonCode.DESTINATION_REFUSED),
            (("unsupported", "refused"), A.FAILED, ReasonCode.KIND_UNSUPPORTED),
        ],
    )
    def test_one_destination(
        self, journey: Journey, verdicts: tuple[str, str], end: A, code: ReasonCode | None
    ) -> None:
        analysis_id = journey.delivering()
        assert journey.send(*verdicts) == {analysis_id: end}
        analysis = journey.analysis(analysis_id)
        assert (analysis.status, analysis.reason_code) == (end, code)
        if code:
            assert "pacs" in (analysis.reason or "")

    def test_a_kind_refused_for_good_is_seen_on_its_delivery(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        journey.send("unsupported", "delivered")
        (sr, sc) = journey.analysis(analysis_id).results
        assert (sr.deliveries[0].status, sr.deliveries[0].reason_code) == (
            D.FAILED,
            ReasonCode.KIND_UNSUPPORTED,
        )
        assert (sc.deliveries[0].status, sc.deliveries[0].peer_status) == (D.DELIVERED, 0)

    def test_an_analysis_ends_when_the_last_destination_has_it(self, journey: Journey) -> None:
        analysis_id = journey.delivering(routes=[PACS, ARCHIVE])
        assert journey.send("delivered", skip=["archive"]) == {}
        assert journey.status(analysis_id) is A.DELIVERING
        assert journey.send("delivered") == {analysis_id: A.COMPLETED}

    def test_a_destination_left_without_fails_the_analysis(self, journey: Journey) -> None:
        analysis_id = journey.delivering(routes=[PACS, ARCHIVE])
        journey.send("delivered", skip=["archive"])
        assert journey.send("refused") == {analysis_id: A.FAILED}
        assert "archive" in (journey.analysis(analysis_id).reason or "")
        assert statuses(journey, analysis_id)["SR", "pacs"] is D.DELIVERED

    @pytest.mark.parametrize("verdict", ["delivered", "refused", "unsupported"])
    def test_a_failed_look_ends_failed_whatever_became_of_the_notice(
        self, journey: Journey, verdict: str
    ) -> None:
        why = Reason(ReasonCode.DECODE_FAILED, "The pixel data is damaged.")
        analysis_id = journey.delivering(outcome=Outcome.ERROR, reason=why)
        journey.send(verdict)
        analysis = journey.analysis(analysis_id)
        assert (analysis.status, analysis.reason_code, analysis.reason) == (A.FAILED, *why.__dict__.values())

    @pytest.mark.parametrize("outcome", [Outcome.NONE, Outcome.PARTIAL, Outcome.NOT_ANALYSED])
    def test_every_other_outcome_completes(self, journey: Journey, outcome: Outcome) -> None:
        why = None if outcome is Outcome.NONE else Reason.of(ReasonCode.DECODE_LIMIT)
        analysis_id = journey.delivering(outcome=outcome, reason=why)
        journey.send("delivered")
        analysis = journey.analysis(analysis_id)
        assert (analysis.status, analysis.outcome) == (A.COMPLETED, outcome)
        assert analysis.reason_code == (why.code if why else None)

    def test_two_destinations_that_answer_at_once_end_it_once(self, journey: Journey) -> None:
        for n in range(8):
            journey.queued(f"1.{n + 2}")
        for claim in journey.claim():
            journey.tell(claim, routes=[PACS, ARCHIVE])
        batches = journey.do(ledger.claim_deliveries, 100, 60, "d", journey.now)
        assert len(batches) == 16

        def answer(n: int) -> dict[int, A]:
            ends: dict[int, A] = {}
            for batch in batches[n::4]:
                outcomes = [ledger.StoreOutcome(i.delivery_id, "delivered", 0) for i in batch.items]
                ends |= journey.do(ledger.record_outcomes, batch, outcomes, journey.now, 100, lambda _n: 1.0)
            return ends

        ended = [i for ends in at_once(4, answer) for i in ends]
        assert sorted(ended) == list(range(1, 9))


class TestTries:
    def test_a_destination_that_is_down_is_tried_again_and_given_up(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        for attempt in range(1, 5):
            assert journey.send("retry", give_up_s=20) == {}
            delivery = journey.analysis(analysis_id).results[0].deliveries[0]
            assert (delivery.status, delivery.attempts) == (D.DUE, attempt)
            assert delivery.reason_code is ReasonCode.DESTINATION_DOWN
            assert journey.send("delivered") == {}, "not before its time"
            journey.later(5)
        assert journey.send("retry", give_up_s=20) == {analysis_id: A.FAILED}
        analysis = journey.analysis(analysis_id)
        assert analysis.reason_code is ReasonCode.DESTINATION_DOWN
        assert "5 times" in (analysis.reason or "")

    def test_the_last_try_is_not_later_than_the_time_allowed(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        (batch,) = journey.do(ledger.claim_deliveries, 1, 60, "d", journey.now)
        journey.do(ledger.record_outcomes, batch, [], journey.now, 20, lambda _n: 600.0)
        due_at = journey.analysis(analysis_id).results[0].deliveries[0].due_at
        assert (due_at - journey.now).total_seconds() == 20

    def test_an_item_without_an_answer_is_sent_again(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        (batch,) = journey.do(ledger.claim_deliveries, 1, 60, "d", journey.now)
        first = ledger.StoreOutcome(batch.items[0].delivery_id, "delivered", 0xB000, "coerced")
        journey.do(ledger.record_outcomes, batch, [first], journey.now, 100, lambda _n: 5.0)
        assert list(statuses(journey, analysis_id).values()) == [D.DELIVERED, D.DUE]
        assert [e.why for e in journey.show().events if e.what == "warning"] == ["coerced"]

    def test_pauses_double_up_to_the_cap_and_are_jittered(self) -> None:
        whole = ledger.exponential(5, 600, lambda: 1.0)
        assert [whole(n) for n in (1, 2, 3, 7, 8, 500)] == [5, 10, 20, 320, 600, 600]
        half = ledger.exponential(5, 600, lambda: 0.0)
        assert [half(n) for n in (1, 2)] == [2.5, 5]
        chance = ledger.exponential(5, 600, random.Random(1).random)
        assert len({chance(4) for _ in range(50)}) > 40

    def test_what_is_due_of_a_study_goes_out_together(self, journey: Journey) -> None:
        journey.delivering("1.2")
        journey.delivering("1.3")
        batches = journey.do(ledger.claim_deliveries, 10, 60, "d", journey.now)
        assert [(b.study_id, b.destination, [i.kind for i in b.items]) for b in batches] == [
            (2, "pacs", ["SR", "SC"]),  # the newest first
            (1, "pacs", ["SR", "SC"]),
        ]
        journey.do(ledger.record_outcomes, batches[0], [], journey.now, 100, lambda _n: 5.0)
        (again,) = journey.do(ledger.claim_deliveries, 10, 60, "d", journey.later(5).now)
        assert [i.attempts for i in again.items] == [2, 2]

    @pytest.mark.parametrize("limit", [0, 1, 2])
    def test_no_more_batches_than_asked_for(self, journey: Journey, limit: int) -> None:
        for n in range(3):
            journey.delivering(f"1.{n + 2}")
        assert len(journey.do(ledger.claim_deliveries, limit, 60, "d", journey.now)) == limit

    def test_a_batch_knows_who_sent_the_study(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        (batch,) = journey.do(ledger.claim_deliveries, 1, 60, "d", journey.now)
        assert (batch.analysis_id, batch.calling_ae_title, batch.peer_address) == (
            analysis_id,
            "PACS",
            "10.0.0.1",
        )

    def test_eight_senders_share_the_batches_and_double_none(self, journey: Journey) -> None:
        for n in range(12):
            journey.queued(f"1.{n + 2}")
        for claim in journey.claim(100):
            journey.tell(claim)

        def work(n: int) -> list[int]:
            mine: list[int] = []
            while batches := journey.do(ledger.claim_deliveries, 2, 60, f"d:{n}", journey.now):
                mine += [i.delivery_id for b in batches for i in b.items]
            return mine

        taken = [i for ids in at_once(8, work) for i in ids] + work(9)
        assert sorted(taken) == list(range(1, 25))

    def test_a_cause_on_our_side_fails_the_delivery(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        (batch,) = journey.do(ledger.claim_deliveries, 1, 60, "d", journey.now)
        lost = Reason.of(ReasonCode.SPOOL_MISSING)
        ends = {}
        for item in batch.items:
            ends |= journey.do(ledger.fail_delivery, batch, item.delivery_id, lost, journey.now)
        assert ends == {analysis_id: A.FAILED}
        assert journey.analysis(analysis_id).reason_code is ReasonCode.SPOOL_MISSING


class TestLeases:
    def test_a_sender_that_died_is_replaced(self, journey: Journey) -> None:
        journey.delivering()
        (dead,) = journey.do(ledger.claim_deliveries, 1, 60, "d:1", journey.now)
        assert journey.do(ledger.claim_deliveries, 1, 60, "d:2", journey.now) == []
        assert journey.do(ledger.sweep, journey.later(61).now, 60).leases_expired == 2
        (other,) = journey.do(ledger.claim_deliveries, 1, 60, "d:2", journey.now)
        assert [i.attempts for i in other.items] == [2, 2]
        late = [ledger.StoreOutcome(i.delivery_id, "refused", 0xC000) for i in dead.items]
        assert journey.do(ledger.record_outcomes, dead, late, journey.now, 100, lambda _n: 5.0) == {}
        assert set(statuses(journey, 1).values()) == {D.SENDING}

    def test_a_long_transfer_keeps_its_lease(self, journey: Journey) -> None:
        journey.delivering()
        (batch,) = journey.do(ledger.claim_deliveries, 1, 60, "d:1", journey.now)
        journey.do(ledger.hold_sending, batch, 60, journey.later(50).now)
        assert journey.do(ledger.sweep, journey.later(50).now, 60).leases_expired == 0
        journey.do(ledger.sweep, journey.later(61).now, 60)
        with pytest.raises(IllegalTransition):
            journey.do(ledger.hold_sending, batch, 60, journey.now)

    def test_a_result_nobody_sends_ends_in_the_sweep(self, journey: Journey) -> None:
        analysis_id = journey.delivering()
        assert journey.do(ledger.sweep, journey.later(86400).now).overdue == 0
        assert journey.do(ledger.sweep, journey.later(3600).now).overdue == 2
        analysis = journey.analysis(analysis_id)
        assert (analysis.status, analysis.reason_code) == (A.FAILED, ReasonCode.DESTINATION_DOWN)


def test_all_pairs_of_delivery_statuses_move_as_the_table_says(journey: Journey) -> None:
    journey.delivering(files=[result("1")])
    for was, to in itertools.product(D, D):
        journey.do(lambda s, was=was: s.execute(update(Delivery).values(status=was)))
        moved = journey.do(move_delivery, 1, 0, to, "test", journey.now)
        assert moved is (to in DELIVERY_TRANSITIONS[was])
        assert journey.do(lambda s: s.scalar(select(Delivery.status))) is (to if moved else was)


def test_a_commitment_is_noted(journey: Journey) -> None:
    journey.delivering()
    journey.send("delivered")
    assert journey.do(ledger.record_committed, [1, 2, 99], "commit", journey.now) == 2
    assert journey.do(ledger.record_committed, [1], "commit", journey.now) == 0
    assert set(statuses(journey, 1).values()) == {D.COMMITTED}


def _nothing(journey: Journey, claim: ledger.Claim):
    return read(journey.do(ledger.images_of, claim.analysis_id), Outcome.NONE)
