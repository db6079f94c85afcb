"""What the ledger keeps and gives for monitoring: scores of every look, and studies as they are watched."""

from sqlalchemy import select

from hipnode import ledger
from hipnode.findings import Box, Candidate, Finding, ImageReading, Reason, StudyReading
from hipnode.status import Outcome, ReasonCode
from hipnode.tables import AnalysisImage
from tests.ledger_steps import PACS, Journey, empty_sqlite, journey, make, postgres_ledger

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

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
