"""Analyses move as the table says, for whoever holds the fence, and for nobody else."""

import itertools
import random
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from hipnode import ledger
from hipnode.errors import IllegalTransition
from hipnode.findings import Reason
from hipnode.status import TERMINAL, TRANSITIONS, AnalysisStatus, Outcome, ReasonCode
from hipnode.tables import Analysis, Event
from tests.ledger_steps import (
    PACKAGES,
    Journey,
    decided,
    empty_sqlite,
    journey,
    make,
    postgres_ledger,
    received,
)

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

A = AnalysisStatus
DECODE = Reason.of(ReasonCode.DECODE_FAILED)


def opened(journey: Journey) -> ledger.OpenAnalysis:
    analysis = journey.show().analyses[0]
    return ledger.OpenAnalysis(analysis.analysis_id, 1, "1.2", analysis.number, fence(journey))


def fence(journey: Journey) -> int:
    return journey.do(lambda s: s.scalar(select(Analysis.fence).order_by(Analysis.id.desc())))


def set_status(journey: Journey, status: A) -> None:
    journey.do(lambda s: s.execute(update(Analysis).values(status=status)))


def test_all_pairs_of_statuses_move_as_the_table_says(journey: Journey) -> None:
    journey.receive()
    holder = opened(journey)
    for was, to in itertools.product(A, A):
        set_status(journey, was)
        if to in TRANSITIONS[was]:
            journey.do(ledger.advance, holder, to, journey.now)
            assert journey.status(1) is to
        else:
            with pytest.raises(IllegalTransition):
                journey.do(ledger.advance, holder, to, journey.now)
            assert journey.status(1) is was


def test_every_move_leaves_one_event(journey: Journey) -> None:
    journey.delivering()
    journey.send("delivered")
    moves = [(e.was, e.became, e.who) for e in journey.show().events if e.what == "analysis"]
    assert moves == [
        (None, "receiving", "PACS"),
        ("receiving", "queued", "intake"),
        ("queued", "analysing", "w:1"),
        ("analysing", "delivering", "w:1"),
        ("delivering", "completed", "d:1"),
    ]


def test_a_refused_move_leaves_no_event(journey: Journey) -> None:
    journey.receive()
    before = journey.show().events
    with pytest.raises(IllegalTransition):
        journey.do(ledger.advance, opened(journey), A.COMPLETED, journey.now)
    assert journey.show().events == before


def test_events_and_move_are_one_transaction(journey: Journey) -> None:
    journey.receive()

    def broken(session) -> None:
        ledger.advance(session, opened(journey), A.FAILED, journey.now, DECODE)
        raise RuntimeError

    # reads first: SQLite lets nobody read a write that is under way through another connection
    holder = opened(journey)

    def half(session) -> None:
        ledger.advance(session, holder, A.FAILED, journey.now, DECODE)
        raise RuntimeError

    before = journey.show()
    with pytest.raises(RuntimeError):
        journey.do(half)
    assert journey.show() == before


@pytest.mark.parametrize("end", sorted(TERMINAL))
def test_an_end_has_its_time_and_its_reason(journey: Journey, end: A) -> None:
    journey.receive()
    set_status(journey, A.DELIVERING if end is not A.NOT_APPLICABLE else A.ANALYSING)
    journey.do(ledger.advance, opened(journey), end, journey.later(3).now, DECODE)
    analysis = journey.analysis(1)
    assert (analysis.ended_at, analysis.due_at, analysis.lease_until) == (journey.now, None, None)
    assert (analysis.reason_code, analysis.reason) == (DECODE.code, DECODE.sentence)


class TestClaim:
    def test_nothing_is_claimed_from_an_empty_ledger(self, journey: Journey) -> None:
        assert journey.claim() == []
        assert journey.notices() == []

    def test_a_claim_counts_the_attempt_before_work_starts(self, journey: Journey) -> None:
        journey.queued()
        (claim,) = journey.claim(lease_s=60)
        analysis = journey.analysis(claim.analysis_id)
        assert (analysis.status, analysis.attempts, claim.attempts) == (A.ANALYSING, 1, 1)
        assert (analysis.lease_owner, (analysis.lease_until - journey.now).total_seconds()) == ("w:1", 60)
        assert (claim.package_id, claim.package_sha256) == ("hip", PACKAGES["hip"])
        assert (claim.calling_ae_title, claim.peer_address) == ("PACS", "10.0.0.1")

    @pytest.mark.parametrize("packages", [{}, {"other": "f" * 64}, {"hip": "0" * 64}])
    def test_only_a_worker_with_the_package_claims(self, journey: Journey, packages: dict[str, str]) -> None:
        journey.queued()
        assert journey.do(ledger.claim_analyses, packages, 10, 60, "w", journey.now) == []

    def test_a_package_queued_without_a_hash_is_pinned_by_the_claim(self, journey: Journey) -> None:
        journey.receive()
        journey.later(11)
        (one,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)
        journey.do(ledger.queue_analysis, one, "hip", None, [decided(1)], journey.now)
        (claim,) = journey.claim()
        assert claim.package_sha256 == PACKAGES["hip"]
        assert journey.analysis(claim.analysis_id).package_sha256 == PACKAGES["hip"]

    def test_a_claim_takes_as_many_as_asked_for_oldest_first(self, journey: Journey) -> None:
        ids = [journey.queued(f"1.{n}") for n in range(2, 6)]
        assert [c.analysis_id for c in journey.claim(3)] == ids[:3]
        assert [c.analysis_id for c in journey.claim(3)] == ids[3:]

    def test_what_was_tried_before_is_taken_alone(self, journey: Journey) -> None:
        journey.queued("1.2")
        (claim,) = journey.claim()
        journey.do(ledger.release, claim, DECODE, journey.now, 1)
        ids = [journey.queued("1.3"), journey.queued("1.4")]
        assert [c.attempts for c in journey.claim()] == [2]
        assert [c.analysis_id for c in journey.claim()] == ids

    def test_images_come_with_their_flags(self, journey: Journey) -> None:
        for _ in range(3):
            journey.receive()
        journey.later(11).close(skip=[2])
        images = journey.do(ledger.images_of, 1)
        assert [i.instance_id for i in images] == [1, 3]
        assert [f.code for f in images[0].flags] == [ReasonCode.VIEW_PA]

    def test_of_eight_workers_that_claim_one_study_one_gets_it(self, journey: Journey) -> None:
        journey.queued()
        taken = [c for claims in at_once(8, lambda n: journey.claim(owner=f"w:{n}")) for c in claims]
        assert len(taken) == 1
        assert journey.analysis(1).attempts == 1

    def test_of_eight_holders_of_one_fence_one_moves_it(self, journey: Journey) -> None:
        journey.queued()
        (claim,) = journey.claim()

        def move(_n: int) -> bool:
            try:
                journey.do(ledger.advance, claim, A.DELIVERING, journey.now)
            except IllegalTransition:
                return False
            return True

        assert sorted(at_once(8, move)) == [False] * 7 + [True]

    def test_eight_workers_share_forty_studies_and_double_none(self, journey: Journey) -> None:
        for n in range(40):
            journey.receive(f"1.{n + 2}")
        journey.later(11).close()

        def work(n: int) -> list[int]:
            mine: list[int] = []
            while claims := journey.claim(3, owner=f"w:{n}"):
                mine += [c.analysis_id for c in claims]
            return mine

        # SKIP LOCKED may show one worker an empty queue while another still looks
        taken = [i for ids in at_once(8, work) for i in ids] + work(9)
        assert sorted(taken) == list(range(1, 41))


class TestFence:
    def test_a_worker_that_slept_past_its_lease_writes_nothing(self, journey: Journey) -> None:
        journey.queued()
        (slept,) = journey.claim(lease_s=60)
        assert journey.do(ledger.sweep, journey.later(61).now, 60).leases_expired == 1
        (other,) = journey.claim(owner="w:2")
        assert (other.attempts, other.fence > slept.fence) == (2, True)
        before = journey.show()
        for late in (
            lambda: journey.tell(slept),
            lambda: journey.do(ledger.release, slept, DECODE, journey.now, 1),
            lambda: journey.do(ledger.hold, slept, 60, journey.now),
        ):
            with pytest.raises(IllegalTransition):
                late()
        assert journey.show() == before
        journey.tell(other)
        assert journey.status(1) is A.DELIVERING

    def test_a_lease_that_was_taken_back_is_lost_even_before_the_next_claim(self, journey: Journey) -> None:
        journey.queued()
        (slept,) = journey.claim(lease_s=60)
        journey.do(ledger.sweep, journey.later(61).now, 60)
        with pytest.raises(IllegalTransition):
            journey.tell(slept)

    def test_a_lease_is_extended_while_work_goes_on(self, journey: Journey) -> None:
        journey.queued()
        (claim,) = journey.claim(lease_s=60)
        held = journey.do(ledger.hold, claim, 60, journey.later(50).now)
        assert (held.lease_until - journey.now).total_seconds() == 60
        assert journey.do(ledger.sweep, journey.later(50).now, 60).leases_expired == 0
        assert held == replace(claim, lease_until=held.lease_until)

    def test_a_clock_set_back_does_not_make_a_lease_endless(self, journey: Journey) -> None:
        journey.queued()
        journey.claim(lease_s=60)
        assert journey.do(ledger.sweep, journey.later(-7200).now, 60).leases_expired == 1

    def test_a_clock_set_back_does_not_postpone_what_is_due(self, journey: Journey) -> None:
        journey.queued()
        journey.later(-7200)
        assert journey.claim() == []
        journey.do(ledger.sweep, journey.now, 60)
        assert len(journey.claim()) == 1


class TestRetry:
    def test_the_pause_doubles_and_then_the_notice_is_due(self, journey: Journey) -> None:
        journey.queued()
        pauses = []
        for attempt in (1, 2, 3):
            (claim,) = journey.claim()
            assert claim.attempts == attempt
            again = journey.do(ledger.release, claim, DECODE, journey.now, 10)
            assert again is (attempt < 3)
            pause = (journey.analysis(1).due_at - journey.now).total_seconds()
            pauses.append(pause)
            journey.later(pause - 0.1)
            if again:
                assert journey.claim() == []
            journey.later(0.1)
        assert pauses == [10, 20, 0]
        assert journey.claim() == []
        (notice,) = journey.notices()
        assert notice.reason == DECODE

    def test_a_worker_that_dies_three_times_ends_in_a_notice(self, journey: Journey) -> None:
        journey.queued()
        for _ in range(3):
            assert len(journey.claim(lease_s=60)) == 1
            journey.do(ledger.sweep, journey.later(61).now, 60)
        assert journey.claim() == []
        (notice,) = journey.notices()
        assert notice.reason == Reason.of(ReasonCode.WORKER_LOST)
        journey.tell(notice, outcome=Outcome.ERROR, reason=notice.reason)
        assert journey.status(1) is A.DELIVERING
        journey.send("delivered")
        analysis = journey.analysis(1)
        assert (analysis.status, analysis.outcome) == (A.FAILED, Outcome.ERROR)
        assert analysis.reason_code is ReasonCode.WORKER_LOST


class TestNotice:
    def beat(self, journey: Journey, packages: dict[str, str]) -> None:
        journey.do(ledger.heartbeat, ledger.WorkerBeat("host:1", "analyse", packages, "cpu"), journey.now)

    def test_a_package_nobody_has_is_named_when_other_workers_live(self, journey: Journey) -> None:
        journey.queued()
        self.beat(journey, {"other": "0" * 64})
        assert journey.notices() == []
        journey.later(61)
        self.beat(journey, {"other": "0" * 64})
        (notice,) = journey.notices()
        assert notice.reason.code is ReasonCode.NO_PACKAGE
        assert "hip" in notice.reason.sentence

    def test_another_hash_of_the_package_is_another_package(self, journey: Journey) -> None:
        journey.queued()
        journey.later(61)
        self.beat(journey, {"hip": "0" * 64})
        assert [n.reason.code for n in journey.notices()] == [ReasonCode.NO_PACKAGE]

    @pytest.mark.parametrize(("seconds", "due"), [(61, 0), (3599, 0), (3600, 1)])
    def test_without_any_worker_a_study_waits_for_its_deadline(
        self, journey: Journey, seconds: float, due: int
    ) -> None:
        journey.queued()
        journey.later(seconds)
        assert journey.do(ledger.due, journey.now).notices == due
        assert [n.reason.code for n in journey.notices()] == [ReasonCode.NO_PACKAGE] * due

    def test_a_long_queue_alone_is_no_failure(self, journey: Journey) -> None:
        journey.queued()
        journey.later(4000)
        self.beat(journey, PACKAGES)
        assert journey.notices() == []
        journey.later(24 * 3600)
        self.beat(journey, PACKAGES)
        assert [n.reason.code for n in journey.notices()] == [ReasonCode.WORKER_LOST]

    def test_a_notice_under_way_is_nobody_elses(self, journey: Journey) -> None:
        journey.queued()
        journey.later(3600)
        assert len(journey.notices()) == 1
        assert journey.notices() == []
        assert journey.claim() == []
        journey.later(121)
        assert len(journey.notices()) == 1

    def test_a_notice_that_cannot_be_built_ends_all_the_same(self, journey: Journey) -> None:
        journey.queued()
        journey.later(3600)
        for _ in range(3):
            assert len(journey.notices()) == 1
            journey.later(121)
        assert journey.notices() == []
        analysis = journey.analysis(1)
        assert (analysis.status, analysis.reason_code) == (A.FAILED, ReasonCode.NO_PACKAGE)

    def test_of_two_that_built_a_notice_one_records_it(self, journey: Journey) -> None:
        journey.queued()
        journey.later(3600)
        (slept,) = journey.notices()
        (other,) = journey.later(121).notices()
        with pytest.raises(IllegalTransition):
            journey.tell(slept, outcome=Outcome.ERROR, reason=slept.reason)
        journey.tell(other, outcome=Outcome.ERROR, reason=other.reason)

    def test_what_nobody_comes_for_ends_in_the_sweep(self, journey: Journey) -> None:
        journey.queued()
        assert journey.do(ledger.sweep, journey.later(25 * 3600).now).overdue == 1
        assert (journey.status(1), journey.analysis(1).reason_code) == (A.FAILED, ReasonCode.NO_PACKAGE)

    @pytest.mark.parametrize(("most", "code"), [(1, DECODE.code), (2, ReasonCode.NO_PACKAGE)])
    def test_what_nobody_comes_for_names_what_used_up_the_attempts_this_site_allows(
        self, journey: Journey, most: int, code: ReasonCode
    ) -> None:
        journey.queued()
        (claim,) = journey.claim()
        journey.do(ledger.release, claim, DECODE, journey.now, 1, most)
        assert journey.do(ledger.sweep, journey.later(25 * 3600).now, max_attempts=most).overdue == 1
        assert (journey.status(1), journey.analysis(1).reason_code) == (A.FAILED, code)

    def test_two_packages_look_at_one_study(self, journey: Journey) -> None:
        journey.receive()
        journey.later(11)
        (one,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)

        def both(session) -> None:
            ledger.queue_analysis(session, one, "hip", PACKAGES["hip"], [decided(1)], journey.now)
            ledger.queue_sibling(session, one, "pelvis", None, [decided(1)], journey.now)

        journey.do(both)
        assert [(a.number, a.package_id) for a in journey.show().analyses] == [(1, "pelvis"), (1, "hip")]
        assert [c.package_id for c in journey.claim()] == ["hip"]
        journey.receive()
        assert {a.number for a in journey.show().analyses} == {1, 2}


def test_a_study_with_nothing_for_us_ends_with_its_reason(journey: Journey) -> None:
    journey.receive()
    journey.later(11)
    (one,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)
    reason = Reason(ReasonCode.OTHER_REGION, "The header names KNEE, not hip or pelvis.")
    journey.do(ledger.end_not_applicable, one, reason, [decided(1, False)], journey.now)
    summary = journey.show().summary
    assert (summary.status, summary.reason_code, summary.reason) == (
        A.NOT_APPLICABLE,
        *reason.__dict__.values(),
    )
    assert journey.analysis(1).images[0].decision == "skip"


def test_a_worker_may_find_a_study_not_applicable(journey: Journey) -> None:
    journey.queued()
    (claim,) = journey.claim()
    journey.do(ledger.end_not_applicable, claim, DECODE, [decided(1, False)], journey.now)
    assert journey.status(1) is A.NOT_APPLICABLE


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_every_study_comes_to_one_end_with_a_reason(journey: Journey, seed: int) -> None:
    """A random walk of arrivals, workers that live and die, and destinations that answer or do not."""
    chance = random.Random(seed)
    held: list[ledger.Claim] = []
    for _ in range(60):
        journey.later(chance.uniform(0, 40))
        step = chance.choice(
            ["receive", "close", "claim", "tell", "release", "sleep", "send", "notice", "sweep"]
        )
        if step == "receive":
            journey.receive(f"1.{chance.randint(2, 4)}")
        elif step == "close":
            journey.close()
        elif step == "claim":
            held += journey.claim(chance.randint(1, 3), lease_s=30)
        elif step == "notice":
            held += journey.notices(deadline_s=200)
        elif step in ("tell", "release") and held:
            claim = held.pop(chance.randrange(len(held)))
            try:
                if step == "tell" or claim.reason:
                    outcome = (
                        Outcome.ERROR if claim.reason else chance.choice([Outcome.NONE, Outcome.FINDINGS])
                    )
                    journey.tell(claim, outcome=outcome, reason=claim.reason)
                else:
                    journey.do(ledger.release, claim, DECODE, journey.now, 5)
            except IllegalTransition:
                pass  # its lease had run out
        elif step == "send":
            journey.send(chance.choice(["delivered", "retry", "refused", "unsupported"]), give_up_s=120)
        elif step == "sweep":
            journey.do(ledger.sweep, journey.now, 30)
    for _ in range(40):
        journey.later(130)
        journey.do(ledger.sweep, journey.now, 30)
        journey.close()
        for claim in journey.claim(lease_s=30) + journey.notices(deadline_s=200):
            journey.tell(claim, outcome=Outcome.ERROR if claim.reason else Outcome.NONE, reason=claim.reason)
        journey.send("delivered")
    with ledger.reading(journey.make) as session:
        for row in ledger.list_studies(session):
            detail = ledger.show_study(session, row.study_id)
            assert detail is not None
            for analysis in detail.analyses:
                assert analysis.status in TERMINAL
                assert analysis.status is A.COMPLETED or analysis.reason_code is not None
                chain = session.execute(
                    select(Event.was, Event.became)
                    .where(Event.analysis_id == analysis.analysis_id, Event.what == "analysis")
                    .order_by(Event.id)
                ).all()
                for (_, became), (was, _) in itertools.pairwise(chain):
                    assert was == became
                    assert A(was) in TRANSITIONS
                assert chain[-1].became == analysis.status


def at_once(n: int, function):
    """Call function(0..n-1) in n threads that start together; the results in order."""
    barrier, results = threading.Barrier(n), [None] * n

    def run(i: int) -> None:
        barrier.wait()
        results[i] = function(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_arrivals_closing_claims_and_replays_at_once_stand_in_nobodys_way(journey: Journey) -> None:
    """Every transaction that touches one study in the order it likes: none is a deadlock's victim."""
    start, over = journey.now, journey.now + timedelta(seconds=400)

    def bring(n: int) -> None:
        for i in range(15):
            journey.do(ledger.record_instance, received("1.2", f"1.2.9.{n}.{i}"), start)

    def close(_n: int) -> None:
        for i in range(15):
            for one in journey.do(ledger.studies_due_to_close, over, 10, 300):
                images = journey.do(ledger.sources_of_study, one.study_id)
                decisions = [decided(image.instance_id) for image in images]
                with suppress(IllegalTransition):
                    if i % 2:
                        journey.do(ledger.end_not_applicable, one, DECODE, decisions, start)
                    else:
                        journey.do(ledger.queue_analysis, one, "hip", PACKAGES["hip"], decisions, start)

    def work(n: int) -> None:
        for _ in range(15):
            for claim in journey.do(ledger.claim_analyses, PACKAGES, 2, 60, f"w:{n}", over):
                journey.tell(claim)
            journey.send("delivered")
            journey.do(ledger.sweep, over)
            journey.do(ledger.open_replay, 1, "analyse", "ann", start)

    journey.receive()
    troubles = at_once(6, lambda n: _trouble((bring, bring, close, close, work, work)[n], n))
    assert troubles == [None] * 6


def _trouble(function, n: int) -> BaseException | None:
    try:
        function(n)
    except Exception as error:  # noqa: BLE001  (the test tells)
        return error
    return None
