"""What a full disk gives back to the queue does not count, for as long as the ledger says."""

import pytest

from hipnode import ledger
from hipnode.errors import IllegalTransition
from hipnode.findings import Reason
from hipnode.status import AnalysisStatus, ReasonCode
from tests.ledger_steps import Journey, empty_sqlite, journey, make, postgres_ledger

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]

FULL = Reason(ReasonCode.INTERNAL, "The disk is full.")


def release(journey: Journey, free_for_s: float) -> bool:
    (claim,) = journey.claim()
    again: bool = journey.do(ledger.release, claim, FULL, journey.now, 30, 3, free_for_s)
    return again


def test_an_attempt_does_not_count_until_the_study_waited_too_long(journey: Journey) -> None:
    journey.queued()
    attempts = []
    for _ in range(7):
        release(journey, 100)
        attempts.append(journey.analysis(1).attempts)
        journey.later(30)
        if attempts[-1] > 0:
            journey.later(60)
    assert attempts[:4] == [0, 0, 0, 0], "at 0, 30, 60 and 90 s"
    assert attempts[4:] == [1, 2, 3]
    assert journey.claim() == []
    assert [n.reason for n in journey.notices()] == [FULL]


@pytest.mark.parametrize("free_for_s", [0, 100])
def test_earlier_attempts_stay_counted(journey: Journey, free_for_s: float) -> None:
    journey.queued()
    release(journey, 0)
    assert release(journey.later(30), free_for_s)
    assert journey.analysis(1).attempts == (1 if free_for_s else 2)


def test_a_clock_set_back_does_not_make_attempts_free_for_ever(journey: Journey) -> None:
    journey.queued()
    (claim,) = journey.claim()
    journey.do(ledger.release, claim, FULL, journey.later(-7200).now, 30, 3, 100)
    assert journey.analysis(1).attempts == 1


def test_a_notice_given_back_is_due_again_and_its_try_is_not_counted(journey: Journey) -> None:
    journey.queued()
    journey.later(3600)
    for _ in range(5):
        (notice,) = journey.notices()
        journey.do(ledger.release_notice, notice, journey.now, 30)
        assert journey.notices() == []
        assert journey.do(ledger.due, journey.now).notices == 0
        journey.later(30)
    (notice,) = journey.notices()
    assert journey.status(1) is AnalysisStatus.QUEUED
    journey.later(121)
    assert len(journey.notices()) == 1
    with pytest.raises(IllegalTransition):
        journey.do(ledger.release_notice, notice, journey.now, 30)
