"""The worklist, one study in full, finding one by what is typed; and the workers' heartbeats."""

from datetime import timedelta

import pytest
from sqlalchemy import event

from hipnode import ledger
from hipnode.findings import Reason
from hipnode.ledger.studies import count_ended, newest_studies
from hipnode.status import AnalysisStatus, DeliveryStatus, Outcome, ReasonCode
from tests.ledger_steps import PACKAGES, START, Journey, decided, empty_sqlite, journey, make, postgres_ledger

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

A = AnalysisStatus


@pytest.fixture
def worklist(journey: Journey) -> Journey:
    """Four studies a minute apart: completed, failed, receiving, and one without a radiograph."""
    journey.delivering("1.2")
    journey.send("delivered")
    journey.later(60)
    journey.delivering("1.3", outcome=Outcome.NONE)
    journey.send("refused")
    journey.later(60)
    journey.receive("1.4")
    journey.later(60)
    journey.receive("1.5", role="ignored", relative_path=None, reason_code=ReasonCode.NOT_A_RADIOGRAPH)
    return journey


def listed(journey: Journey, **filters) -> list[str]:
    with ledger.reading(journey.make) as session:
        return [s.study_instance_uid for s in ledger.list_studies(session, **filters)]


def test_an_empty_ledger_has_an_empty_worklist(journey: Journey) -> None:
    assert listed(journey) == []
    with ledger.reading(journey.make) as session:
        assert ledger.show_study(session, 1) is None


def test_what_changed_last_comes_first(worklist: Journey) -> None:
    assert listed(worklist) == ["1.5", "1.4", "1.3", "1.2"]
    assert listed(worklist, limit=2) == ["1.5", "1.4"]


@pytest.mark.parametrize(
    ("status", "uids"),
    [
        ([], ["1.5", "1.4", "1.3", "1.2"]),
        ([A.COMPLETED], ["1.2"]),
        ([A.FAILED, A.RECEIVING], ["1.4", "1.3"]),
        ([A.QUEUED], []),
    ],
)
def test_the_worklist_by_status(worklist: Journey, status: list[A], uids: list[str]) -> None:
    assert listed(worklist, status=status) == uids


def test_the_worklist_since_an_instant(worklist: Journey) -> None:
    assert listed(worklist, since=worklist.now) == ["1.5"]
    assert listed(worklist, since=worklist.now - timedelta(seconds=61)) == ["1.5", "1.4"]
    assert listed(worklist, since=START) == ["1.5", "1.4", "1.3", "1.2"]
    assert listed(worklist, since=worklist.now + timedelta(seconds=1), status=[A.FAILED]) == []


def test_a_line_shows_the_latest_analysis(worklist: Journey) -> None:
    worklist.do(ledger.open_replay, 2, "analyse", "ann", worklist.now)
    with ledger.reading(worklist.make) as session:
        line = next(s for s in ledger.list_studies(session) if s.study_id == 2)
    assert (line.number, line.status, line.outcome, line.reason_code) == (2, A.RECEIVING, None, None)
    assert listed(worklist, status=[A.FAILED]) == []


def test_every_line_that_ended_badly_has_a_reason_to_read(worklist: Journey) -> None:
    with ledger.reading(worklist.make) as session:
        for line in ledger.list_studies(session):
            if line.status in (None, A.FAILED, A.NOT_APPLICABLE):
                assert line.reason_code is not None
                assert line.reason


def test_the_worklist_takes_one_query_however_long(worklist: Journey) -> None:
    asked: list[str] = []
    event.listen(worklist.make.kw["bind"], "before_cursor_execute", lambda *a: asked.append(a[2]))
    with ledger.reading(worklist.make) as session:
        assert len(ledger.list_studies(session)) == 4
    assert sum("studies" in q for q in asked) == 1


def test_a_study_is_shown_in_full(worklist: Journey) -> None:
    detail = worklist.show(1)
    (analysis,) = detail.analyses
    assert (detail.summary.accession_number, detail.summary.images, detail.summary.findings) == ("A1.2", 1, 1)
    assert (analysis.package_id, analysis.package_sha256, analysis.attempts) == ("hip", PACKAGES["hip"], 1)
    assert [r.kind for r in analysis.results] == ["SR", "SC"]
    assert analysis.results[0].deliveries[0].status is DeliveryStatus.DELIVERED
    assert analysis.results[0].deliveries[0].delivered_at is not None
    assert analysis.created_at < analysis.queued_at <= analysis.analysed_at <= analysis.ended_at
    assert [i.role for i in detail.instances] == ["source"]
    assert [e.at for e in detail.events] == sorted(e.at for e in detail.events)


class TestResolve:
    def find(self, journey: Journey, text: str) -> list[int]:
        with ledger.reading(journey.make) as session:
            return ledger.resolve_study(session, text)

    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("", []),
            ("nothing", []),
            ("1.3", [2]),
            (" 1.3 ", [2]),
            ("A1.3", [2]),
            ("2", [2]),
            ("99", []),
            ("99999999999999999999", []),
            ("²", []),
            ("1.3' OR '1'='1", []),
        ],
    )
    def test_by_uid_accession_number_and_id(self, worklist: Journey, text: str, ids: list[int]) -> None:
        assert self.find(worklist, text) == ids

    def test_an_accession_number_may_name_several_studies(self, journey: Journey) -> None:
        journey.receive("1.2", accession_number="7")
        journey.receive("1.3", accession_number="7")
        assert self.find(journey, "7") == [1, 2]

    def test_an_accession_number_goes_before_a_row_id(self, journey: Journey) -> None:
        journey.receive("1.2")
        journey.receive("1.3", accession_number="1")
        assert self.find(journey, "1") == [2]

    def test_studies_without_accession_number_are_not_found_by_nothing(self, journey: Journey) -> None:
        journey.receive("1.2", accession_number="")
        assert self.find(journey, "") == []


class TestWorkers:
    def beat(self, journey: Journey, name: str, **changes) -> None:
        journey.do(
            ledger.heartbeat, ledger.WorkerBeat(name, "analyse", PACKAGES, "cpu", **changes), journey.now
        )

    def test_a_heartbeat_is_one_row_a_worker(self, journey: Journey) -> None:
        assert journey.do(ledger.workers) == []
        self.beat(journey, "host:1")
        self.beat(journey.later(10), "host:1")
        self.beat(journey.later(1), "host:2")
        one = journey.do(ledger.workers)[1]
        assert (one.name, one.kind, one.packages, one.device) == ("host:1", "analyse", PACKAGES, "cpu")
        assert (one.seen_at - one.started_at).total_seconds() == 10
        assert [w.name for w in journey.do(ledger.workers)] == ["host:2", "host:1"]

    def test_a_heartbeat_without_news_of_a_bell_keeps_the_last_one(self, journey: Journey) -> None:
        self.beat(journey, "host:1")
        assert journey.do(ledger.workers)[0].bell_at is None
        rung = journey.now
        self.beat(journey, "host:1", bell_at=rung)
        self.beat(journey.later(10), "host:1")
        (worker,) = journey.do(ledger.workers)
        assert (worker.bell_at, worker.seen_at) == (rung, journey.now)

    def test_a_worker_says_goodbye_or_is_forgotten_after_a_day(self, journey: Journey) -> None:
        self.beat(journey, "host:1")
        self.beat(journey, "host:2")
        journey.do(ledger.goodbye, "host:2")
        assert [w.name for w in journey.do(ledger.workers)] == ["host:1"]
        self.beat(journey.later(90000), "host:3")
        assert [w.name for w in journey.do(ledger.workers)] == ["host:3"]

    def test_only_living_analyse_workers_count_as_having_a_package(self, journey: Journey) -> None:
        assert journey.do(ledger.live_packages, journey.now) is None
        journey.do(ledger.heartbeat, ledger.WorkerBeat("d", "deliver"), journey.now)
        assert journey.do(ledger.live_packages, journey.now) is None
        self.beat(journey, "host:1")
        assert journey.do(ledger.live_packages, journey.now) == set(PACKAGES.items())
        assert journey.do(ledger.live_packages, journey.later(61).now) is None


def test_due_counts_what_waits_now(journey: Journey) -> None:
    assert journey.do(ledger.due, journey.now) == ledger.Due(0, 0, 0)
    journey.queued("1.2")
    assert journey.do(ledger.due, journey.now) == ledger.Due(1, 0, 0)
    (claim,) = journey.claim()
    assert journey.do(ledger.due, journey.now) == ledger.Due(0, 0, 0)
    journey.tell(claim)
    assert journey.do(ledger.due, journey.now) == ledger.Due(0, 0, 2)
    journey.send("retry")
    assert journey.do(ledger.due, journey.now) == ledger.Due(0, 0, 0)
    assert journey.do(ledger.due, journey.later(5).now) == ledger.Due(0, 0, 2)


def test_nothing_of_a_patient_stands_in_events(journey: Journey) -> None:
    journey.receive("1.2", patient_id="CANARY-ID", accession_number="CANARY-ACC")
    journey.receive("1.2", "1.2.9.1", "changed", patient_id="CANARY-2")
    journey.later(11)
    (one,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)
    reason = Reason.of(ReasonCode.OTHER_REGION)
    journey.do(ledger.end_not_applicable, one, reason, [decided(1, False)], journey.now)
    assert "CANARY" not in repr(journey.show().events)


class TestFilters:
    @pytest.mark.parametrize(
        ("reasons", "uids"),
        [
            ([], ["1.5", "1.4", "1.3", "1.2"]),
            ([ReasonCode.DESTINATION_REFUSED], ["1.3"]),
            ([ReasonCode.NOT_A_RADIOGRAPH], ["1.5"]),  # a study without an analysis
            ([ReasonCode.DESTINATION_REFUSED, ReasonCode.NOT_A_RADIOGRAPH], ["1.5", "1.3"]),
            ([ReasonCode.SPOOL_MISSING], []),
        ],
    )
    def test_by_reason(self, worklist: Journey, reasons: list[ReasonCode], uids: list[str]) -> None:
        assert listed(worklist, reasons=reasons) == uids

    def test_until_an_instant_and_between_two(self, worklist: Journey) -> None:
        assert listed(worklist, until=worklist.now) == ["1.5", "1.4", "1.3", "1.2"]
        minute = timedelta(seconds=60)
        assert listed(worklist, until=worklist.now - minute) == ["1.4", "1.3", "1.2"]
        assert listed(worklist, since=worklist.now - minute, until=worklist.now - minute) == ["1.4"]
        assert listed(worklist, until=START - minute) == []

    @pytest.mark.parametrize(
        ("number", "uids"),
        [
            ("", []),
            ("A1.2", ["1.2"]),
            (" A1.2 ", ["1.2"]),
            ("a1.2", []),
            ("A1.*", ["1.5", "1.4", "1.3", "1.2"]),
            ("*.3", ["1.3"]),
            ("A1_2", []),
            ("A%*", []),
            ("A1.2' OR '1'='1", []),
        ],
    )
    def test_by_accession_number(self, worklist: Journey, number: str, uids: list[str]) -> None:
        assert listed(worklist, accession_number=number) == uids


class TestWaiting:
    """Since when a study is where it is, and when it is tried next."""

    def line(self, journey: Journey) -> ledger.StudySummary:
        with ledger.reading(journey.make) as session:
            (line,) = ledger.list_studies(session)
        return line

    def test_a_study_without_a_radiograph_waits_for_nothing(self, journey: Journey) -> None:
        journey.receive("1.5", role="ignored", relative_path=None, reason_code=ReasonCode.NOT_A_RADIOGRAPH)
        assert (self.line(journey).status_since, self.line(journey).due_at) == (None, None)

    def test_it_is_counted_from_the_last_time_a_status_was_entered(self, journey: Journey) -> None:
        journey.receive()
        assert self.line(journey).status_since == START
        journey.receive()  # another image: still receiving
        journey.later(11).close()
        queued = journey.now
        assert (self.line(journey).status_since, self.line(journey).due_at) == (queued, queued)
        (claim,) = journey.later(5).claim()
        assert (self.line(journey).status_since, self.line(journey).due_at) == (journey.now, None)
        reason = Reason.of(ReasonCode.WORKER_LOST)
        journey.later(5).do(ledger.release, claim, reason, journey.now, 10)
        released = journey.now
        assert self.line(journey).status_since == released
        assert self.line(journey).due_at == released + timedelta(seconds=10)
        (claim,) = journey.later(10).claim()
        journey.tell(claim)
        told = journey.now
        assert (self.line(journey).status_since, self.line(journey).due_at) == (told, told)
        journey.later(5).send("retry")
        assert self.line(journey).status_since == told
        assert self.line(journey).due_at > journey.now
        journey.later(30).send("delivered")
        assert (self.line(journey).status, self.line(journey).due_at) == (A.COMPLETED, None)
        assert self.line(journey).status_since == journey.now


class TestWatching:
    """What a live view asks."""

    def test_the_newest_studies_are_those_that_came_last_whatever_changed_since(
        self, worklist: Journey
    ) -> None:
        worklist.do(ledger.open_replay, 1, "analyse", "ann", worklist.now)  # the oldest changed last
        with ledger.reading(worklist.make) as session:
            newest = newest_studies(session, 3)
            assert newest == [
                s for id_ in (4, 3, 2) for s in ledger.list_studies(session) if s.study_id == id_
            ]
            assert newest_studies(session, 0) == []

    def test_what_ended_since_is_counted_by_how(self, worklist: Journey) -> None:
        with ledger.reading(worklist.make) as session:
            assert count_ended(session, START) == {A.COMPLETED: 1, A.FAILED: 1}
            assert count_ended(session, START + timedelta(seconds=60)) == {A.FAILED: 1}
            assert count_ended(session, worklist.now) == {}
