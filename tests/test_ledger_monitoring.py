"""What the ledger keeps and gives for monitoring: scores of every look, and studies as they are watched."""

from datetime import timedelta

from sqlalchemy import null, select, update

from hipnode import ledger
from hipnode.findings import Box, Candidate, Finding, ImageReading, Reason, StudyReading
from hipnode.ledger import monitoring, reports
from hipnode.status import AcceptanceOutcome, AnalysisStatus, Outcome, ReasonCode
from hipnode.tables import Acceptance, AnalysisImage
from hipnode.watched import (
    Ending,
    Imported,
    LastAcceptance,
    NotCounted,
    Package,
    Reported,
    ReportRow,
    WatchedStudy,
)
from tests.ledger_steps import (
    PACKAGES,
    PACS,
    START,
    Journey,
    decided,
    empty_sqlite,
    journey,
    make,
    postgres_ledger,
    result,
)
from tests.test_tables import analysis

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

HIP = Package("hip", PACKAGES["hip"])
DF, NONE = Reported(True, ("DF",)), Reported(False, ())
BOX = Box(0.0, 0.0, 10.0, 10.0)


def candidates(*seen: tuple[str, float]) -> tuple[Candidate, ...]:
    return tuple(Candidate(name, score, BOX) for name, score in seen)


def test_the_best_score_of_each_class_counts_whether_it_fired_or_not() -> None:
    image = ImageReading(
        "1.9", Outcome.NONE, candidates=candidates(("DF", 0.2), ("DF", 0.31), ("VF", 0.0512))
    )
    assert image.best_scores == {"DF": 0.31, "VF": 0.0512}
    assert ImageReading("1.9", Outcome.NONE).best_scores == {}


def test_scores_are_kept_of_images_that_were_looked_at(journey: Journey) -> None:
    analysis_id = journey.queued("1.2", images=3)
    (claim,) = journey.claim()
    one, two, three = journey.do(ledger.images_of, analysis_id)
    fired = (Finding("DF", 0.9312, BOX),)
    reading = StudyReading(
        Outcome.PARTIAL,
        Reason.of(ReasonCode.DECODE_FAILED),
        (
            ImageReading(one.sop_instance_uid, Outcome.FINDINGS, None, fired, candidates(("DF", 0.9312), ("UF", 0.06))),
            ImageReading(two.sop_instance_uid, Outcome.NONE),
            ImageReading(three.sop_instance_uid, Outcome.ERROR, Reason.of(ReasonCode.DECODE_FAILED)),
        ),
    )  # fmt: skip
    journey.do(ledger.record_results, claim, reading, [], [PACS], journey.now, journey.now)

    def kept() -> list[object]:
        query = select(AnalysisImage.scores).order_by(AnalysisImage.analysis_id, AnalysisImage.instance_id)
        with ledger.reading(journey.make) as session:
            return list(session.scalars(query))

    assert kept() == [{"DF": 0.9312, "UF": 0.06}, {}, None]


def looked(journey: Journey, study: str, *scores: tuple[str, float], fired: bool = False) -> int:
    """A study received, read with these candidates and delivered. Its analysis' id."""
    analysis_id = journey.queued(study)
    (claim,) = journey.claim()
    found = tuple(Finding(name, score, BOX) for name, score in scores) if fired else ()
    outcome = Outcome.FINDINGS if fired else Outcome.NONE
    images = tuple(
        ImageReading(i.sop_instance_uid, outcome, None, found, candidates(*scores))
        for i in journey.do(ledger.images_of, analysis_id)
    )
    reading = StudyReading(outcome, None, images)
    journey.do(ledger.record_results, claim, reading, [result(study)], [PACS], journey.now, journey.now)
    journey.later(4)
    journey.send("delivered")
    return analysis_id


def watched(journey: Journey) -> list[WatchedStudy]:
    with ledger.reading(journey.make) as session:
        return monitoring.watched(session, START, journey.now + timedelta(days=1))


def test_an_empty_ledger_has_nothing_to_watch(journey: Journey) -> None:
    assert watched(journey) == []
    with ledger.reading(journey.make) as session:
        assert monitoring.first_ended(session, 500) == []
        assert monitoring.not_counted(session, START, START + timedelta(days=1)) == NotCounted(0, 0)
        assert monitoring.classes_seen(session) == ()


def test_a_study_that_was_read(journey: Journey) -> None:
    looked(journey, "1.2", ("DF", 0.9312), ("UF", 0.06), fired=True)
    (study,) = watched(journey)
    assert study == WatchedStudy(
        study_id=1, received_at=START, package=HIP, ending=Ending.READ, latency_s=15.0, sender="PACS",
        classes=("DF", "UF"), scores={"DF": 0.9312, "UF": 0.06},
    )  # fmt: skip


def test_refusals_failures_and_lost_deliveries_are_told_apart(journey: Journey) -> None:
    journey.receive("1.2")
    journey.later(11)
    (opened,) = journey.do(ledger.studies_due_to_close, journey.now, 10, 300)
    implant = Reason.of(ReasonCode.IMPLANT)
    journey.do(ledger.end_not_applicable, opened, implant, [decided(1, ours=False)], journey.now)
    veto, lost = Reason.of(ReasonCode.PACKAGE_VETO), Reason.of(ReasonCode.DECODE_FAILED)
    journey.delivering("1.3", outcome=Outcome.NOT_ANALYSED, reason=veto)
    journey.send("delivered")
    journey.delivering("1.4", outcome=Outcome.ERROR, reason=lost)
    journey.send("delivered")
    journey.delivering("1.5", outcome=Outcome.FINDINGS)
    journey.send("refused")
    journey.delivering("1.6", outcome=Outcome.PARTIAL, reason=lost)
    journey.send("delivered")
    told = [(s.ending.value, s.reason_code, s.delivered, s.partial) for s in watched(journey)]
    assert told == [
        ("refused", ReasonCode.IMPLANT, True, False),
        ("refused", ReasonCode.PACKAGE_VETO, True, False),
        ("failed", ReasonCode.DECODE_FAILED, False, False),
        ("read", ReasonCode.DESTINATION_REFUSED, False, False),
        ("read", ReasonCode.DECODE_FAILED, True, True),
    ]
    assert [s.package for s in watched(journey)][:2] == [None, HIP]
    assert [s.latency_s is None for s in watched(journey)] == [True, True, True, True, False]


def test_a_replay_takes_the_place_of_the_look_before_it_once_it_has_ended(journey: Journey) -> None:
    looked(journey, "1.2", ("DF", 0.9), fired=True)
    journey.later(3600)
    journey.do(ledger.open_replay, 1, "analyse", "someone", journey.now)
    assert [s.classes for s in watched(journey)] == [("DF",)], "the replay is still open"
    journey.later(11)
    journey.close()
    (claim,) = journey.claim()
    journey.tell(claim, outcome=Outcome.NONE)
    journey.send("delivered")
    (study,) = watched(journey)
    assert (study.classes, study.latency_s, study.received_at) == ((), None, START)


def test_looks_in_the_shadow_stand_apart(journey: Journey) -> None:
    looked(journey, "1.2", ("DF", 0.9), fired=True)
    with ledger.transaction(journey.make) as session:
        session.add(
            analysis(1, number=2, package_id="new", shadow=True, status=AnalysisStatus.COMPLETED,
                     outcome=Outcome.NONE, ended_at=START)
        )  # fmt: skip
    both = watched(journey)
    assert [(s.package.package_id, s.package.shadow) for s in both if s.package] == [
        ("hip", False),
        ("new", True),
    ]
    with ledger.reading(journey.make) as session:
        assert [s.package for s in monitoring.first_ended(session, 10)] == [HIP]


def test_what_is_open_and_what_brought_no_radiograph_is_counted_apart(journey: Journey) -> None:
    journey.receive("1.2", role="ignored", relative_path=None, reason_code=ReasonCode.NOT_A_RADIOGRAPH)
    journey.queued("1.3")
    assert watched(journey) == []
    with ledger.reading(journey.make) as session:
        assert monitoring.not_counted(session, START, journey.now) == NotCounted(1, 1)
        assert monitoring.not_counted(session, journey.now, journey.now) == NotCounted(0, 0)


def test_the_first_studies_are_those_of_one_package_that_have_what_is_asked_for(journey: Journey) -> None:
    journey.delivering("1.2", outcome=Outcome.NONE)
    journey.send("delivered")
    with ledger.transaction(journey.make) as session:  # as before scores were kept
        session.execute(update(AnalysisImage).values(scores=null()))
    second = journey.now
    for number in range(3, 7):
        looked(journey, f"1.{number}", ("DF", number / 10))
    with ledger.reading(journey.make) as session:
        first = monitoring.first_read(session, HIP, 2)
        assert [(s.study_id, s.scores) for s in first] == [(1, None), (2, {"DF": 0.3})]
        assert [s.study_id for s in monitoring.first_read(session, HIP, 2, scored=True)] == [2, 3]
        assert [
            s.study_id for s in monitoring.first_read(session, HIP, 2, second + timedelta(seconds=1))
        ] == [3, 4]
        assert monitoring.first_read(session, Package("hip", "0" * 64), 2) == []


def rows(*told: tuple[int, str, str, Reported]) -> list[ReportRow]:
    return [ReportRow(*each) for each in told]


def test_reports_are_matched_kept_changed_and_known_again(journey: Journey) -> None:
    looked(journey, "1.2", ("DF", 0.9), fired=True)
    looked(journey, "1.3", ("DF", 0.1))
    looked(journey, "1.4", ("DF", 0.1))
    brought = rows((2, "1.2", "", DF), (3, "", "A1.3", NONE), (4, "1.99", "", NONE), (5, "1.2", "A1.2", DF))

    def bring(some: list[ReportRow]) -> Imported:
        matched = journey.do(reports.match_reports, some)
        assert matched.problems == ()
        return journey.do(reports.record_reports, matched, "someone", journey.now)

    assert bring(brought) == Imported(new=2, changed=0, same=0, unknown=(4,))
    assert bring(brought) == Imported(new=0, changed=0, same=2, unknown=(4,))
    assert [s.report for s in watched(journey)] == [DF, NONE, None]
    assert bring(rows((2, "1.3", "", Reported(True, None)))) == Imported(new=0, changed=1, same=0)
    assert [s.report for s in watched(journey)] == [DF, Reported(True, None), None]
    with ledger.reading(journey.make) as session:
        told = monitoring.reported(session, HIP, journey.now + timedelta(days=1))
    assert [(s.study_id, s.scores) for s in told] == [(1, None), (2, None)]
    (changed,) = [e for e in journey.show(2).events if e.what == "report"]
    assert changed.why == "the final report says fracture, it said no fracture"


def test_rows_that_contradict_each_other_or_name_two_studies_are_problems(journey: Journey) -> None:
    looked(journey, "1.2", ("DF", 0.1))
    looked(journey, "1.3", ("DF", 0.1))
    journey.receive("1.4", accession_number="A1.3")
    brought = rows((2, "1.2", "", DF), (3, "", "A1.2", NONE), (4, "", "A1.3", NONE), (5, "1.3", "A1.2", NONE))
    matched = journey.do(reports.match_reports, brought)
    assert [(row, says[:30]) for row, says in matched.problems] == [
        (3, "row 2 says something else of t"),
        (4, "its accession number is that o"),
        (5, "its Study Instance UID and its"),
    ]
    assert not any("1.2" in says or "A1" in says for _, says in matched.problems)


def test_the_last_verdict_on_a_packages_weights_is_known(journey: Journey) -> None:
    def verdict(number: int, outcome: AcceptanceOutcome | None, sha256: str = HIP.sha256) -> Acceptance:
        return Acceptance(
            id=number, package_id=f"p{number}", package_version="1", package_sha256=sha256, protocol_name=f"n{number}",
            protocol_sha256="1", protocol="", data_sha256="2", code_version="0.1", frozen_at=START, frozen_by="who",
            ended_at=START + timedelta(days=number) if outcome else None, outcome=outcome,
        )  # fmt: skip

    def last(package: Package) -> LastAcceptance | None:
        with ledger.reading(journey.make) as session:
            return monitoring.last_acceptance(session, package)

    assert last(HIP) is None
    with ledger.transaction(journey.make) as session:
        session.add_all(
            [
                verdict(1, AcceptanceOutcome.FAIL),
                verdict(2, AcceptanceOutcome.PASS),
                verdict(3, AcceptanceOutcome.ABANDONED),
                verdict(4, None),
                verdict(5, AcceptanceOutcome.FAIL, "0" * 64),
                verdict(6, AcceptanceOutcome.PASS, ""),
            ]
        )
    assert last(HIP) == LastAcceptance(AcceptanceOutcome.PASS, "n2", (START + timedelta(days=2)).date())
    assert last(Package("hip", "")) is None
