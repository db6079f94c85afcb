"""Figures of the ledger for the metrics page: aggregates that only read.

What is open is counted anew each time; an index leads to it. What has happened is counted in slices of
the tables that only grow, events and instances, by their ids: the sums of slices never go down, not
over a restart either, and a slice that nobody writes to any more is counted once.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from hipnode.status import TERMINAL, AnalysisStatus, DeliveryStatus
from hipnode.tables import Analysis, AnalysisImage, Delivery, Event, Finding, Instance

STAGE_BOUNDS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
SCORE_BOUNDS = tuple(step / 20 for step in range(1, 20))

STAGES = ("receiving", "queued", "analysing", "delivering", "total")
"""How long a study was in each status, and from its first instance to its end, seconds."""

_S, _D = AnalysisStatus, DeliveryStatus
_OPEN = sorted(status for status in AnalysisStatus if status not in TERMINAL)


@dataclass(frozen=True)
class Marks:
    """Row ids up to which something was counted."""

    event: int = 0
    instance: int = 0


@dataclass
class Buckets:
    """A histogram: how many values were at most each bound, how many there were, and their sum."""

    at_most: list[int]
    count: int = 0
    total: float = 0.0

    def put(self, value: float, bounds: Sequence[float]) -> None:
        """Take in one value."""
        for place in range(bisect_left(bounds, value), len(bounds)):
            self.at_most[place] += 1
        self.count, self.total = self.count + 1, self.total + value

    def add(self, other: "Buckets") -> None:
        """Take in the values of another one with the same bounds."""
        self.at_most = [mine + its for mine, its in zip(self.at_most, other.at_most, strict=True)]
        self.count += other.count
        self.total += other.total


@dataclass
class Happened:
    """What happened in a slice of the ledger. Slices add up."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)  #: (status, reason or "") of analyses
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  #: (package, outcome) of looks
    retries: int = 0  #: analyses given back or taken back, to be tried again
    delivered: Counter[str] = field(default_factory=Counter)  #: results, by destination
    given_up: Counter[str] = field(default_factory=Counter)  #: deliveries FAILED, by destination
    sent_again: Counter[str] = field(default_factory=Counter)  #: deliveries put back to DUE, by destination
    delivered_at: dict[str, datetime] = field(default_factory=dict)  #: the last, by destination
    stages: dict[str, Buckets] = field(default_factory=dict)  #: of COMPLETED analyses that were claimed
    scores: dict[tuple[str, str], Buckets] = field(default_factory=dict)  #: of findings: (package, class)
    instances: Counter[str] = field(default_factory=Counter)  #: by role
    bytes: Counter[str] = field(default_factory=Counter)  #: as received, by role
    received_at: dict[str, datetime] = field(default_factory=dict)  #: the last, by role

    def add(self, other: "Happened") -> None:
        """Take in what happened in another slice."""
        self.retries += other.retries
        for name in ("ended", "outcomes", "delivered", "given_up", "sent_again", "instances", "bytes"):
            getattr(self, name).update(getattr(other, name))
        for name in ("delivered_at", "received_at"):
            mine, its = getattr(self, name), getattr(other, name)
            mine |= {key: max(at, mine.get(key, at)) for key, at in its.items()}
        for name in ("stages", "scores"):
            mine, its = getattr(self, name), getattr(other, name)
            for key, buckets in its.items():
                mine.setdefault(key, Buckets([0] * len(buckets.at_most))).add(buckets)


@dataclass(frozen=True)
class OpenWork:
    """What is under way now. Instants: the earliest."""

    analyses: Counter[tuple[str, str]]  #: (status, reason or "")
    since: dict[str, datetime]  #: status -> since when the one that waits longest waits
    deliveries: Counter[tuple[str, str, str]]  #: (destination, status, reason or "")
    deliveries_since: dict[str, datetime]  #: destination -> when the oldest of them was opened


def marks(session: Session) -> Marks:
    """The newest ids this session sees."""
    return Marks(
        session.scalar(select(func.max(Event.id))) or 0, session.scalar(select(func.max(Instance.id))) or 0
    )


def happened(session: Session, after: Marks, upto: Marks) -> Happened:
    """What happened after one mark, up to another."""
    done = Happened()
    if after.event < upto.event:
        events = (Event.id > after.event, Event.id <= upto.event)
        _count_analyses(session, events, done)
        _count_deliveries(session, events, done)
        done.stages = _stages(session, events)
        done.scores = _scores(session, events)
    if after.instance < upto.instance:
        rows = session.execute(
            select(Instance.role, func.count(), func.sum(Instance.size_bytes), func.max(Instance.received_at))
            .where(Instance.id > after.instance, Instance.id <= upto.instance)
            .group_by(Instance.role)
        )
        for role, count, size_bytes, at in rows:
            done.instances[role.value], done.bytes[role.value] = count, int(size_bytes)
            done.received_at[role.value] = at
    return done


def open_work(session: Session) -> OpenWork:
    """What is under way now; found by status, so that what has ended costs nothing."""
    analyses: Counter[tuple[str, str]] = Counter()
    since: dict[str, datetime] = {}
    rows = session.execute(
        select(
            Analysis.status,
            Analysis.reason_code,
            func.count(),
            func.min(func.coalesce(Analysis.queued_at, Analysis.receiving_since)),
        )
        .where(Analysis.status.in_(_OPEN))
        .group_by(Analysis.status, Analysis.reason_code)
    )
    for status, reason, count, earliest in rows:
        analyses[status.value, reason.value if reason else ""] = count
        since[status.value] = min(earliest, since.get(status.value, earliest))
    deliveries: Counter[tuple[str, str, str]] = Counter()
    opened: dict[str, datetime] = {}
    sent = session.execute(
        select(
            Delivery.destination,
            Delivery.status,
            Delivery.reason_code,
            func.count(),
            func.min(Delivery.opened_at),
        )
        .where(Delivery.status.in_([_D.DUE, _D.SENDING]))
        .group_by(Delivery.destination, Delivery.status, Delivery.reason_code)
    )
    for destination, state, reason, count, earliest in sent:
        deliveries[destination, state.value, reason.value if reason else ""] = count
        opened[destination] = min(earliest, opened.get(destination, earliest))
    return OpenWork(analyses, since, deliveries, opened)


def _count_analyses(session: Session, events: Sequence[ColumnElement[bool]], done: Happened) -> None:
    moved = (*events, Event.what == "analysis")
    ended = session.execute(
        select(Event.became, Analysis.reason_code, func.count())
        .join(Analysis, Analysis.id == Event.analysis_id)
        .where(*moved, Event.became.in_(sorted(TERMINAL)))  # an analysis ends once
        .group_by(Event.became, Analysis.reason_code)
    )
    for became, reason, count in ended:
        done.ended[str(became), reason.value if reason else ""] = count
    looks = session.execute(
        select(Analysis.package_id, Analysis.outcome, func.count())
        .join(Event, Event.analysis_id == Analysis.id)
        .where(*moved, *_LOOKED)
        .group_by(Analysis.package_id, Analysis.outcome)
    )
    for package_id, outcome, count in looks:
        done.outcomes[package_id or "", outcome.value if outcome else ""] = count
    again = select(func.count()).where(*moved, Event.was == _S.ANALYSING, Event.became == _S.QUEUED)
    done.retries = session.scalar(again) or 0


#: The event of a look whose results were kept: not a notice, not a repeated delivery.
_LOOKED = (Event.was == _S.ANALYSING, Event.became == _S.DELIVERING)


def _count_deliveries(session: Session, events: Sequence[ColumnElement[bool]], done: Happened) -> None:
    rows = session.execute(
        select(Delivery.destination, Event.was, Event.became, func.count(), func.max(Event.at))
        .join(Event, Event.delivery_id == Delivery.id)
        .where(*events, Event.what == "delivery")
        .group_by(Delivery.destination, Event.was, Event.became)
    )
    for destination, was, became, count, at in rows:
        if became == _D.DELIVERED:
            done.delivered[destination] += count
            done.delivered_at[destination] = max(at, done.delivered_at.get(destination, at))
        elif became == _D.FAILED:
            done.given_up[destination] += count
        elif became == _D.DUE and was == _D.SENDING:
            done.sent_again[destination] += count


def _stages(session: Session, events: Sequence[ColumnElement[bool]]) -> dict[str, Buckets]:
    claim = aliased(Event)
    last_claim = (
        select(func.max(claim.at))
        .where(
            claim.study_id == Analysis.study_id,  # this column has an index
            claim.analysis_id == Analysis.id,
            claim.became == _S.ANALYSING,
        )
        .correlate(Analysis)
        .scalar_subquery()
    )
    rows = session.execute(
        select(
            Analysis.receiving_since,
            Analysis.queued_at,
            last_claim,
            Analysis.analysed_at,
            Analysis.ended_at,
        )
        .join(Event, Event.analysis_id == Analysis.id)
        .where(*events, Event.what == "analysis", Event.became == _S.COMPLETED)
    ).all()
    stages = {stage: Buckets([0] * len(STAGE_BOUNDS_S)) for stage in STAGES}
    for row in rows:
        times = [at for at in row if at is not None]
        if len(times) < len(row):  # a repeated delivery looks at nothing, and has no claim
            continue
        for stage, start, end in zip(STAGES, (*times[:-1], times[0]), (*times[1:], times[-1]), strict=True):
            # two machines' clocks must not make it negative
            stages[stage].put(max(0.0, (end - start).total_seconds()), STAGE_BOUNDS_S)
    return stages


def _scores(session: Session, events: Sequence[ColumnElement[bool]]) -> dict[tuple[str, str], Buckets]:
    rows = session.execute(
        select(Analysis.package_id, Finding.class_name, *_histogram(Finding.score, SCORE_BOUNDS))
        .join(Event, Event.analysis_id == Analysis.id)
        .join(AnalysisImage, AnalysisImage.analysis_id == Analysis.id)
        .join(Finding, Finding.analysis_image_id == AnalysisImage.id)
        .where(*events, Event.what == "analysis", *_LOOKED)
        .group_by(Analysis.package_id, Finding.class_name)
    )
    return {(row[0] or "", row[1]): _buckets(iter(row[2:]), SCORE_BOUNDS) for row in rows}


def _histogram(
    value: ColumnElement[Any] | InstrumentedAttribute[Any], bounds: Sequence[float]
) -> list[ColumnElement[Any]]:
    """Columns that `_buckets` reads."""
    at_most = [func.coalesce(func.sum(case((value <= bound, 1), else_=0)), 0) for bound in bounds]
    return [*at_most, func.count(value), func.coalesce(func.sum(value), 0.0)]


def _buckets(row: Iterator[Any], bounds: Sequence[float]) -> Buckets:
    return Buckets([int(next(row)) for _ in bounds], int(next(row)), float(next(row)))
