"""Acceptance runs in the ledger: frozen first, begun once, ended once, and nothing rewritten unseen."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.ledger import AcceptancePlan, AcceptanceRefused
from hipnode.status import AcceptanceOutcome
from tests.ledger_steps import START, empty_sqlite, make, postgres_ledger

__all__ = ["empty_sqlite", "make", "postgres_ledger"]

PLAN = AcceptancePlan(
    package_id="hip",
    package_version="1.0",
    package_sha256="f" * 64,
    protocol_name="yearly",
    protocol_sha256="a" * 64,
    protocol="name = 'yearly'",
    data_sha256="b" * 64,
    cases=frozenset({"c1", "c2", "c3"}),
    code_version="0.1",
)
RESULTS = {"hypotheses": [{"value": 0.95, "low": 0.9, "n": 200}]}
LATER = START + timedelta(hours=1)


def begin(make: sessionmaker[Session], plan: AcceptancePlan = PLAN, now=START, owner: str = "host:1"):
    with ledger.transaction(make) as session:
        return ledger.begin_acceptance(session, plan, "anna", owner, now)


def end(make: sessionmaker[Session], run, outcome=AcceptanceOutcome.PASS, now=START) -> str:
    with ledger.transaction(make) as session:
        return ledger.end_acceptance(session, run, outcome, RESULTS, "anna", now)


def rows(make: sessionmaker[Session], package: str | None = None):
    with ledger.reading(make) as session:
        return ledger.list_acceptances(session, package)


def test_a_run_is_in_the_books_before_it_has_a_result_and_ends_once(make):
    run = begin(make)
    (open_,) = rows(make)
    assert (open_.outcome, open_.results, open_.frozen_at, open_.frozen_by) == (None, None, START, "anna")
    assert (open_.protocol, open_.data_sha256) == (PLAN.protocol, PLAN.data_sha256)
    assert (run.resumed, run.earlier, run.others) == (False, (), 0)
    seal = end(make, run, now=LATER)
    (ended,) = rows(make, "hip")
    assert (ended.outcome, ended.ended_at, ended.results) == (AcceptanceOutcome.PASS, LATER, RESULTS)
    assert (ended.seal, ended.intact) == (seal, True)
    with pytest.raises(AcceptanceRefused, match="has ended"):
        end(make, run, AcceptanceOutcome.FAIL)
    assert rows(make) == [ended]


def test_the_test_part_is_used_once_unless_it_is_said_why(make):
    end(make, begin(make), AcceptanceOutcome.FAIL)
    with pytest.raises(AcceptanceRefused, match=r"run 1 on 2026-03-01 \(fail\).*--again"):
        begin(make)
    run = begin(make, replace(PLAN, again="the detector panel was replaced"))
    assert [row.id for row in run.earlier] == [1]
    assert rows(make)[1].again == "the detector panel was replaced"


@pytest.mark.parametrize(
    "trick",
    [
        {"cases": frozenset({"c1", "c2"})},  # the case that went wrong left out
        {"cases": frozenset({"c3", "c4", "c5"})},  # one old case among new ones
        {"protocol_sha256": "9" * 64, "protocol_name": "easier"},
        {"data_sha256": "9" * 64},  # a label mended
        {"package_id": "hip-copy"},  # the same weights under another name
        {"package_version": "1.1"},
    ],
)
def test_what_a_cheat_would_change_does_not_make_the_test_part_new(make, trick):
    end(make, begin(make), AcceptanceOutcome.FAIL)
    with pytest.raises(AcceptanceRefused, match="used before"):
        begin(make, replace(PLAN, **trick))


def test_new_cases_and_new_weights_may_be_tested_and_the_use_by_others_is_told(make):
    end(make, begin(make))
    fresh = begin(make, replace(PLAN, cases=frozenset({"d1"})), owner="host:2")
    assert fresh.earlier == ()
    end(make, fresh)
    other = begin(make, replace(PLAN, package_sha256="e" * 64))
    assert (other.earlier, other.others) == ((), 1)


def test_predictions_made_elsewhere_are_known_by_the_name_of_their_package(make):
    elsewhere = replace(PLAN, package_sha256="")
    end(make, begin(make, elsewhere))
    with pytest.raises(AcceptanceRefused, match="used before"):
        begin(make, elsewhere)
    with pytest.raises(AcceptanceRefused, match="used before"):
        begin(make, PLAN)


def test_films_that_come_back_under_another_name_are_known_by_their_content(make):
    run = begin(make)
    with ledger.transaction(make) as session:
        ledger.touch_more_cases(session, run, PLAN, ["film 1", "film 2"])
    end(make, run)
    renamed = replace(PLAN, cases=frozenset({"new 1", "new 2"}), data_sha256="9" * 64)
    second = begin(make, renamed)
    assert second.earlier == ()
    with pytest.raises(AcceptanceRefused, match="used before"), ledger.transaction(make) as session:
        ledger.touch_more_cases(session, second, renamed, ["film 2", "film 3"])
    with ledger.transaction(make) as session:
        ledger.leave_acceptance(session, second)
    reason = replace(renamed, again="the films were renamed")
    third = begin(make, reason, LATER)
    with ledger.transaction(make) as session:
        third = ledger.touch_more_cases(session, third, reason, ["film 2", "film 3"])
        third = ledger.touch_more_cases(
            session, third, reason, ["film 2", "film 3"]
        )  # taken up again: no harm
    assert [row.id for row in third.earlier] == [1]
    assert rows(make)[1].again == "the films were renamed"


def test_a_reason_is_kept_only_where_there_was_something_to_give_one_for(make):
    begin(make, replace(PLAN, again="to be safe"))
    assert rows(make)[0].again is None


def test_a_run_that_is_going_on_is_left_alone(make):
    begin(make)
    for plan in (PLAN, replace(PLAN, cases=frozenset({"x"}), again="why")):
        with pytest.raises(AcceptanceRefused, match="going on"):
            begin(make, plan, START + ledger.acceptances.LEASE - timedelta(seconds=1), "host:2")


def test_a_killed_run_is_finished_as_it_was_frozen_and_the_dead_one_writes_nothing(make):
    dead = begin(make)
    alive = begin(make, now=LATER, owner="host:2")
    assert (alive.number, alive.resumed, alive.frozen_at) == (dead.number, True, START)
    with pytest.raises(AcceptanceRefused, match="taken up by another"):
        end(make, dead)
    with pytest.raises(AcceptanceRefused, match="taken up by another"), ledger.transaction(make) as session:
        ledger.renew_acceptance(session, dead, LATER)
    end(make, alive)
    assert (rows(make)[0].fence, rows(make)[0].outcome) == (2, AcceptanceOutcome.PASS)


def test_a_run_that_broke_off_is_taken_up_at_once(make):
    run = begin(make)
    with ledger.transaction(make) as session:
        ledger.leave_acceptance(session, run)
    assert begin(make).resumed


def test_a_sign_of_life_keeps_others_out(make):
    run = begin(make)
    with ledger.transaction(make) as session:
        ledger.renew_acceptance(session, run, LATER)
    with pytest.raises(AcceptanceRefused, match=r"going on \(host:1\)"):
        begin(make, now=LATER + timedelta(seconds=30))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol_sha256": "9" * 64}, "differs from it in the protocol"),
        ({"data_sha256": "9" * 64}, "differs from it in the labels"),
        ({"package_sha256": "9" * 64}, "the weights of the package"),
        (
            {"code_version": "0.2", "data_sha256": "9" * 64},
            "in the labels and the version of hipnode",
        ),
    ],
)
def test_a_changed_protocol_or_data_does_not_finish_a_run(make, change, words):
    begin(make)
    with pytest.raises(AcceptanceRefused, match=rf"(?s){words}.*accept abandon 1"):
        begin(make, replace(PLAN, **change), LATER)


def test_a_run_given_up_says_why_and_its_cases_count_as_used(make):
    begin(make)
    with ledger.transaction(make) as session, pytest.raises(AcceptanceRefused, match="going on"):
        ledger.abandon_acceptance(session, 1, "anna", "wrong folder", START)
    with ledger.transaction(make) as session:
        ledger.abandon_acceptance(session, 1, "anna", "wrong folder", LATER)
    (row,) = rows(make)
    assert (row.outcome, row.results, row.intact) == (
        AcceptanceOutcome.ABANDONED,
        {"why": "wrong folder"},
        True,
    )
    with pytest.raises(AcceptanceRefused, match=r"\(abandoned\)"):
        begin(make, now=LATER)
    for number, words in ((1, "ended with abandoned"), (7, "no acceptance run 7")):
        with ledger.transaction(make) as session, pytest.raises(AcceptanceRefused, match=words):
            ledger.abandon_acceptance(session, number, "anna", "", LATER)


def test_of_many_that_begin_at_once_one_does(make):
    said: list[object] = []
    together = threading.Barrier(6)

    def one(number: int) -> None:
        together.wait()
        try:
            said.append(
                begin(make, replace(PLAN, cases=frozenset({f"own {number}"})), owner=f"host:{number}")
            )
        except AcceptanceRefused as error:
            said.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [str(each) for each in said if isinstance(each, AcceptanceRefused)]
    assert (len(said), len(refused), len(rows(make))) == (6, 5, 1)
    assert all("going on" in words or "at this moment" in words for words in refused), refused


@pytest.mark.parametrize(
    "forgery",
    [
        "outcome = 'pass'",
        "ended_at = frozen_at",
        "protocol = 'name = ''easier'''",
        "again = NULL",
        "fence = 7",
    ],
)
def test_a_row_that_was_rewritten_by_hand_is_not_intact(make, forgery):
    end(make, begin(make), AcceptanceOutcome.FAIL)
    end(make, begin(make, replace(PLAN, again="why")), AcceptanceOutcome.FAIL, LATER)
    with ledger.transaction(make) as session:
        session.execute(text(f"UPDATE acceptances SET {forgery} WHERE id = 2"))  # noqa: S608
    assert [row.intact for row in rows(make)] == [True, False]


def test_ten_thousand_cases_are_known_again(make):
    many = replace(PLAN, cases=frozenset(f"case {i}" for i in range(10_000)))
    end(make, begin(make, many))
    with pytest.raises(AcceptanceRefused, match="used before"):
        begin(make, replace(PLAN, cases=frozenset({"new", "case 7777"})))
    with ledger.reading(make) as session:
        assert ledger.show_acceptance(session, 1).outcome is AcceptanceOutcome.PASS
        assert ledger.show_acceptance(session, 2) is None
