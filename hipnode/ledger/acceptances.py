"""Acceptance runs: begun once, with the protocol frozen, before there is a result; ended once.

A run is begun in one transaction with its protocol, its data and its test cases. While it has no outcome
nobody has seen a result, and the same run may be taken up again after a crash: a lease says whether somebody
is at it, a fence that whoever slept past the lease ends nothing. Once it has an outcome nothing changes it,
and its seal shows whether anybody did.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hipnode.errors import HipnodeError
from hipnode.ledger.events import note
from hipnode.status import AcceptanceOutcome
from hipnode.tables import Acceptance, AcceptanceCase

LEASE = timedelta(seconds=60)
"""How long a run counts as going on after its last sign of life."""

_AT_ONCE = 500  # case hashes in one query, below what the databases take


class AcceptanceRefused(HipnodeError):
    """A run cannot begin, go on or end; the text says why and what to do."""


@dataclass(frozen=True)
class AcceptancePlan:
    """What a run is fixed to before it begins.

    package_sha256: of the weights; empty where they are not here
    protocol_sha256: of what the protocol says; protocol: its text
    data_sha256: of the labels, all parts; cases: a hash per test case
    again: why test cases may be used that an earlier run of the package has used
    """

    package_id: str
    package_version: str
    package_sha256: str
    protocol_name: str
    protocol_sha256: str
    protocol: str
    data_sha256: str
    cases: frozenset[str]
    code_version: str
    again: str | None = None


@dataclass(frozen=True)
class AcceptanceRow:
    """A run as the ledger knows it. outcome None: not ended, no result was seen. results: see `end_acceptance`.

    fence: how often it was taken up; more than 1: it was interrupted
    intact: False where an ended row is not what its seal was made of
    """

    id: int
    package_id: str
    package_version: str
    package_sha256: str
    protocol_name: str
    protocol_sha256: str
    protocol: str
    data_sha256: str
    code_version: str
    frozen_at: datetime
    frozen_by: str
    again: str | None
    fence: int
    lease_until: datetime | None
    lease_owner: str | None
    ended_at: datetime | None
    outcome: AcceptanceOutcome | None
    results: dict[str, Any] | None
    seal: str | None
    intact: bool


@dataclass(frozen=True)
class AcceptanceRun:
    """A run in our hands.

    number: the row's id; frozen_by, again: as the row says; resumed: it was begun earlier, nobody saw a result
    earlier: runs of this package that used some of these test cases, oldest first
    others: how many runs of other packages did
    """

    number: int
    fence: int
    owner: str
    frozen_at: datetime
    frozen_by: str
    again: str | None
    resumed: bool
    earlier: tuple[AcceptanceRow, ...]
    others: int


def begin_acceptance(
    session: Session, plan: AcceptancePlan, who: str, owner: str, now: datetime
) -> AcceptanceRun:
    """Freeze a run, or take up the one that was begun with the same plan and has no outcome.

    who: the person; owner: the process, as host:pid. Raises AcceptanceRefused: another run of the package is
    open or going on, or an earlier one used some of the test cases and the plan does not say why again.
    """
    open_ = session.scalar(
        select(Acceptance)
        .where(Acceptance.package_id == plan.package_id, Acceptance.outcome.is_(None))
        .with_for_update()
    )
    if open_ is not None:
        return _take_up(session, open_, plan, who, owner, now)
    earlier, others = _earlier(session, plan)
    if earlier and not plan.again:
        raise AcceptanceRefused(_used_before(earlier, plan))
    row = Acceptance(
        **{f.name: getattr(plan, f.name) for f in fields(plan) if f.name not in ("cases", "again")},
        again=plan.again if earlier else None,
        frozen_at=now,
        frozen_by=who[:128],
        fence=1,
        lease_until=now + LEASE,
        lease_owner=owner[:128],
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        raise AcceptanceRefused(
            f"Another run for the package {plan.package_id} began at this moment. See `hipnode accept list`."
        ) from error
    session.add_all([AcceptanceCase(acceptance_id=row.id, case_sha256=case) for case in sorted(plan.cases)])
    note(session, now, who, "acceptance", became=f"frozen {row.id}", why=plan.again if earlier else None)
    return AcceptanceRun(row.id, 1, owner, now, row.frozen_by, row.again, False, earlier, others)


def touch_more_cases(
    session: Session, run: AcceptanceRun, plan: AcceptancePlan, cases: Collection[str]
) -> AcceptanceRun:
    """Add what else identifies the test cases (the films' own hashes), known only once they were read.

    Raises AcceptanceRefused where an earlier run of the package used one of them under another name and the
    plan does not say why again; the caller shows no result then.
    """
    _hold(session, run)
    known = set(
        session.scalars(select(AcceptanceCase.case_sha256).where(AcceptanceCase.acceptance_id == run.number))
    )
    earlier, others = _earlier(session, replace(plan, cases=frozenset(cases) | plan.cases), but=run.number)
    if earlier and not (run.again or plan.again):
        raise AcceptanceRefused(_used_before(earlier, plan))
    if earlier and not run.again:
        session.execute(update(Acceptance).where(Acceptance.id == run.number).values(again=plan.again))
        run = replace(run, again=plan.again)
    session.add_all(
        [AcceptanceCase(acceptance_id=run.number, case_sha256=case) for case in sorted(set(cases) - known)]
    )
    return replace(run, earlier=earlier, others=others)


def renew_acceptance(session: Session, run: AcceptanceRun, now: datetime) -> None:
    """A sign of life. Raises AcceptanceRefused when the run is no longer ours."""
    _hold(session, run, lease_until=now + LEASE)


def leave_acceptance(session: Session, run: AcceptanceRun) -> None:
    """Let go of a run that broke off before a result; it can be taken up at once."""
    session.execute(
        update(Acceptance)
        .where(Acceptance.id == run.number, Acceptance.fence == run.fence, Acceptance.outcome.is_(None))
        .values(lease_until=None, lease_owner=None)
    )


def end_acceptance(
    session: Session,
    run: AcceptanceRun,
    outcome: AcceptanceOutcome,
    results: Mapping[str, Any],
    who: str,
    now: datetime,
) -> str:
    """Write the outcome, once and for all. The row's seal; to be called before anybody is shown a result.

    results: plain values: what came of each hypothesis, and the headline numbers. No patient, no case.
    Raises AcceptanceRefused when the run has an outcome or is no longer ours.
    """
    _hold(session, run, outcome=outcome, results=dict(results), ended_at=now, lease_until=None)
    seal = _seal_row(session, run.number)
    note(session, now, who, "acceptance", was=f"frozen {run.number}", became=str(outcome))
    return seal


def abandon_acceptance(session: Session, number: int, who: str, why: str, now: datetime) -> None:
    """Give up a run that has no outcome. Its test cases count as used: it is not known who saw what.

    Raises AcceptanceRefused where there is no such run, it has an outcome, or somebody is at it.
    """
    row = session.scalar(select(Acceptance).where(Acceptance.id == number).with_for_update())
    if row is None:
        raise AcceptanceRefused(f"There is no acceptance run {number}; see `hipnode accept list`.")
    if row.outcome is not None:
        raise AcceptanceRefused(f"Run {number} ended with {row.outcome}; what has ended stays as it ended.")
    _not_going_on(row, now)
    row.outcome, row.ended_at, row.results, row.fence = (
        AcceptanceOutcome.ABANDONED,
        now,
        {"why": why},
        row.fence + 1,
    )
    row.lease_until = None
    session.flush()
    _seal_row(session, number)
    note(session, now, who, "acceptance", was=f"frozen {number}", became="abandoned", why=why)


def list_acceptances(session: Session, package_id: str | None = None) -> list[AcceptanceRow]:
    """The runs, of one package or of all, oldest first."""
    of = [] if package_id is None else [Acceptance.package_id == package_id]
    return _rows(session, *of)


def show_acceptance(session: Session, number: int) -> AcceptanceRow | None:
    """One run, None where there is none of this number."""
    return next(iter(_rows(session, Acceptance.id == number)), None)


def _take_up(
    session: Session, row: Acceptance, plan: AcceptancePlan, who: str, owner: str, now: datetime
) -> AcceptanceRun:
    _not_going_on(row, now)
    changed = [
        words
        for words, same in (
            ("the protocol", row.protocol_sha256 == plan.protocol_sha256),
            ("the labels", row.data_sha256 == plan.data_sha256),
            ("the weights of the package", row.package_sha256 == plan.package_sha256),
            ("the version of hipnode", row.code_version == plan.code_version),
        )
        if not same
    ]
    if changed:
        raise AcceptanceRefused(
            f"Run {row.id} of the package {row.package_id} was frozen on {_day(row.frozen_at)} and has no outcome "
            f"yet; this command differs from it in {' and '.join(changed)}. Finish it as it was frozen, or give it up "
            f'with `hipnode accept abandon {row.id} --why "..."`.'
        )
    row.fence += 1
    row.lease_until, row.lease_owner = now + LEASE, owner[:128]
    session.flush()
    note(session, now, who, "acceptance", was=f"frozen {row.id}", became="taken up again")
    earlier, others = _earlier(session, plan, but=row.id)
    return AcceptanceRun(
        row.id, row.fence, owner, row.frozen_at, row.frozen_by, row.again, True, earlier, others
    )


def _is_same(row: AcceptanceRow, plan: AcceptancePlan) -> bool:
    """Whether a run was of the package of a plan: the same weights, or where they are unknown the same id."""
    if row.package_sha256 and plan.package_sha256:
        return row.package_sha256 == plan.package_sha256
    return row.package_id == plan.package_id


def _not_going_on(row: Acceptance, now: datetime) -> None:
    if row.lease_until is not None and row.lease_until > now:
        raise AcceptanceRefused(
            f"Run {row.id} of the package {row.package_id} is going on ({row.lease_owner}). If that process was "
            f"killed, try again after {row.lease_until:%H:%M:%S} UTC."
        )


def _hold(session: Session, run: AcceptanceRun, **values: Any) -> None:
    values = {"fence": run.fence} | values  # without values: whether it is ours
    held = session.scalar(
        update(Acceptance)
        .where(Acceptance.id == run.number, Acceptance.fence == run.fence, Acceptance.outcome.is_(None))
        .values(**values)
        .returning(Acceptance.id)
    )
    if held is None:
        raise AcceptanceRefused(
            f"Run {run.number} was taken up by another process or has ended; this one writes nothing. "
            "See `hipnode accept list`."
        )


def _earlier(session: Session, plan: AcceptancePlan, but: int = 0) -> tuple[tuple[AcceptanceRow, ...], int]:
    """The runs of the plan's package that used any of its test cases, and how many runs of others did."""
    wanted, touching = sorted(plan.cases), set()
    for start in range(0, len(wanted), _AT_ONCE):
        some = AcceptanceCase.case_sha256.in_(wanted[start : start + _AT_ONCE])
        touching |= set(session.scalars(select(AcceptanceCase.acceptance_id).where(some).distinct()))
    touching.discard(but)
    earlier = tuple(row for row in _rows(session, Acceptance.id.in_(touching)) if _is_same(row, plan))
    return earlier, len(touching) - len(earlier)


def _used_before(earlier: Collection[AcceptanceRow], plan: AcceptancePlan) -> str:
    runs = ", ".join(f"run {row.id} on {_day(row.frozen_at)} ({row.outcome or 'open'})" for row in earlier)
    return (
        f"Test cases of this data were used before with the package {plan.package_id}: {runs}. A test part is "
        'used once. If there is a reason to use it again, give it with --again "..."; it is kept and printed '
        "on the report."
    )


def _rows(session: Session, *of: ColumnElement[bool]) -> list[AcceptanceRow]:
    found = session.scalars(select(Acceptance).where(*of).order_by(Acceptance.id))
    names = [f.name for f in fields(AcceptanceRow) if f.name != "intact"]
    return [
        AcceptanceRow(
            **{name: getattr(row, name) for name in names},
            intact=row.outcome is None or row.seal == _seal(row),
        )
        for row in found
    ]


def _seal_row(session: Session, number: int) -> str:
    row = session.scalar(
        select(Acceptance).where(Acceptance.id == number).execution_options(populate_existing=True)
    )
    assert row is not None  # noqa: S101  (it was updated in this transaction)
    row.seal = _seal(row)
    session.flush()
    return row.seal


def _seal(row: Acceptance) -> str:
    said = {
        column.key: getattr(row, column.key)
        for column in Acceptance.__table__.c
        if column.key not in ("seal", "lease_until", "lease_owner")
    }
    plain = json.dumps(said, sort_keys=True, ensure_ascii=True, default=_plain)
    return hashlib.sha256(plain.encode()).hexdigest()


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"
