"""What /metrics says: Prometheus text, counted from the ledger when it is asked for.

Counters come from rows, so that neither a restart nor a replay makes them go down. A page is kept for
KEPT_S; a look at the ledger reads one snapshot, is stopped when it takes long, and blocks no writer. After
a start the history is counted in slices, CATCH_UP_S of work for each scrape; until all of it is counted,
what is counted from it is left out rather than shown too low.

Labels hold words of ours and names of the site's own configuration; what comes from the wire and is not
named there counts under "other".
"""

import copy
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hipnode import __version__, ledger
from hipnode.errors import LedgerDown
from hipnode.ledger import figures
from hipnode.ledger.analyses import WORKER_ALIVE_S
from hipnode.ledger.figures import SCORE_BOUNDS, STAGE_BOUNDS_S, Buckets, Happened, Marks, OpenWork
from hipnode.status import TERMINAL, AnalysisStatus, ReasonCode
from hipnode.web.health import Answer, Watched

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"

KEPT_S = 5.0
QUERY_S = 5.0
"""A look at the ledger is stopped after this."""
CATCH_UP_S = 2.0
"""So much of a scrape goes into counting what happened before the start."""
SLICE, LEAST_SLICE = 20_000, 500
"""Rows counted in one look; half as many after one that took too long."""
SETTLED_S = 300.0
"""No transaction is open for so long: what lies below an id seen then is there or never comes."""
HOLD_BACK = 2_000
"""Rows counted anew while nothing was seen so long ago, right after the start."""
REFUSED_LATELY = timedelta(hours=1)

_REFUSALS = (  # as hipnode.scp names them, and the DIMSE statuses it refuses with
    "CALLED_AE_TITLE", "NOT_ALLOWED", "TOO_MANY", "STOPPING", "TLS", "NO_CONTEXT", "NOT_DICOM", "PROTOCOL",
    "TOO_SLOW", "TOO_LARGE", "A700", "A900", "C000",
)  # fmt: skip
_FAILURES = sorted(  # those that an alert asks for are there from the start, with 0
    code.value
    for code in ReasonCode
    if list(ReasonCode).index(code) >= list(ReasonCode).index(ReasonCode.IDENTITY_UNREADABLE)
)


@dataclass
class _Peer:
    """Counts of the peers of one calling AE title since this process started."""

    associations: int = 0
    refusals: int = 0
    stores_refused: int = 0


@dataclass
class _Seen:
    """The ledger as last looked at. happened None: not all of the history is counted yet."""

    open: OpenWork
    happened: Happened | None
    backlog: int
    workers: list[ledger.WorkerRow]
    peers: dict[str, _Peer]
    refused_lately: Counter[str]
    at: datetime
    took_s: float = 0.0


@dataclass
class _History:
    """What happened up to a mark below which nothing changes any more, and the marks seen lately."""

    upto: Marks = field(default_factory=Marks)
    happened: Happened = field(default_factory=Happened)
    seen: deque[tuple[float, Marks]] = field(default_factory=deque)

    def settled(self, newest: Marks, now: float) -> Marks:
        """Up to where rows are settled. now: monotonic seconds."""
        if not self.seen or now - self.seen[-1][0] >= SETTLED_S / 20:
            self.seen.append((now, newest))
        while len(self.seen) > 1 and now - self.seen[1][0] >= SETTLED_S:
            self.seen.popleft()
        at, mark = self.seen[0]
        if now - at < SETTLED_S:
            mark = Marks(mark.event - HOLD_BACK, mark.instance - HOLD_BACK)
        return Marks(max(self.upto.event, mark.event), max(self.upto.instance, mark.instance))


class Metrics(Collector):
    """The node's figures."""

    def __init__(self, node: Watched) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._history, self._slice = _History(), SLICE
        self._peer_rows: dict[tuple[str, str, str], ledger.PeerRow] | None = None
        self._peers: dict[str, _Peer] = {name: _Peer() for name in (*sorted(node.peers), OTHER)}
        self._answers: Mapping[str, Answer] = {}
        self._started_at = node.clock()
        self._page = b""
        self._page_at = -KEPT_S
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def page(self, answers: Mapping[str, Answer]) -> bytes:
        """The page. answers: what the checks of /readyz say. It may be KEPT_S old."""
        with self._lock:
            if time.monotonic() - self._page_at >= KEPT_S:
                self._answers = answers
                self._page = generate_latest(self.registry)
                self._page_at = time.monotonic()
            return self._page

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield from self._node_figures()
        started = time.monotonic()
        try:
            seen = self._look()
        except LedgerDown:
            yield _gauge("hipnode_ledger_readable", "Whether the ledger could be read for this page.", 0)
            return
        seen.took_s = time.monotonic() - started
        yield _gauge("hipnode_ledger_readable", "Whether the ledger could be read for this page.", 1)
        yield _gauge("hipnode_ledger_read_seconds", "How long reading the ledger took.", seen.took_s)
        yield _gauge(
            "hipnode_history_counted",
            "Whether all that happened before the start is counted; until then counters are left out.",
            seen.happened is not None,
        )
        yield from _open_figures(seen, self._destination)
        yield from self._worker_figures(seen)
        yield from _peer_figures(seen)
        if seen.happened is not None:
            yield from _analysis_figures(seen.happened)
            yield from self._delivery_figures(seen.happened)
            yield from _instance_figures(seen.happened)

    # --- The ledger ----------------------------------------------------------------------------

    def _look(self) -> _Seen:
        """One look at the ledger. Raises LedgerDown."""
        node, now = self._node, self._node.clock()
        counted = self._catch_up()
        with ledger.snapshot(node.sessions, QUERY_S) as session:
            newest = figures.marks(session)
            done = None
            if counted:
                done = copy.deepcopy(self._history.happened)
                done.add(figures.happened(session, self._history.upto, newest))
            peers = ledger.list_peers(session)
            seen = _Seen(
                figures.open_work(session),
                done,
                ledger.backlog(session),
                ledger.workers(session),
                self._peers,
                Counter(
                    row.last_refusal if row.last_refusal in _REFUSALS else OTHER
                    for row in peers
                    if row.last_refused_at is not None and row.last_refused_at >= now - REFUSED_LATELY
                ),
                now,
            )
        self._count_peers(peers)
        return seen

    def _catch_up(self) -> bool:
        """Count what has settled since the last look, for CATCH_UP_S. Whether nothing is left."""
        end = time.monotonic() + CATCH_UP_S
        try:
            while not self._count_slice():
                if time.monotonic() >= end:
                    return False
        except LedgerDown:
            self._slice = max(LEAST_SLICE, self._slice // 2)
            raise
        return True

    def _count_slice(self) -> bool:
        """Count the next slice of what has settled. Whether nothing is left."""
        history = self._history
        with ledger.snapshot(self._node.sessions, QUERY_S) as session:
            newest = figures.marks(session)
            if newest.event < history.upto.event or newest.instance < history.upto.instance:
                # another database than before: one restored from a copy
                history = self._history = _History()
            settled = history.settled(newest, time.monotonic())
            upto = Marks(
                min(settled.event, history.upto.event + self._slice),
                min(settled.instance, history.upto.instance + self._slice),
            )
            if upto != history.upto:
                history.happened.add(figures.happened(session, history.upto, upto))
                history.upto = upto
        return upto == settled

    def _count_peers(self, rows: Iterable[ledger.PeerRow]) -> None:
        """Add what the rows grew by. Rows of strangers come and go, so sums over them would go down."""
        now = {(row.calling_ae_title, row.address, row.called_ae_title): row for row in rows}
        before = self._peer_rows
        if before is None:
            before = {key: row for key, row in now.items() if row.first_seen_at < self._started_at}
        for key, row in now.items():
            peer = self._peers[row.calling_ae_title if row.calling_ae_title in self._node.peers else OTHER]
            old = before.get(key)
            if old is not None and old.first_seen_at != row.first_seen_at:
                old = None  # forgotten, and come again
            peer.associations += row.associations - (old.associations if old else 0)
            peer.refusals += row.refusals - (old.refusals if old else 0)
            peer.stores_refused += row.stores_refused - (old.stores_refused if old else 0)
        self._peer_rows = now

    # --- Families ------------------------------------------------------------------------------

    def _node_figures(self) -> Iterator[Metric]:
        node = self._node
        build = GaugeMetricFamily("hipnode_build_info", "Version of this node.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        checks = GaugeMetricFamily(
            "hipnode_check", "Whether a part is well, as /readyz says it.", labels=["check"]
        )
        for name, answer in sorted(self._answers.items()):
            checks.add_metric([name], answer.ok)
        yield checks
        try:
            free = node.spool.free_bytes()
        except OSError:
            pass
        else:
            yield _gauge("hipnode_disk_free_bytes", "Free space of the spool's file system.", free)
        yield _gauge(
            "hipnode_disk_low_water_bytes",
            "Free space below which C-STORE is refused.",
            node.spool.low_water_bytes,
        )
        yield _gauge("hipnode_associations_open", "Associations open now.", node.scp.associations)
        yield _gauge(
            "hipnode_associations_limit", "Associations served at the same time.", node.max_associations
        )
        yield _gauge(
            "hipnode_backlog_limit", "Unfinished analyses above which C-STORE is refused.", node.backlog_limit
        )

    def _destination(self, name: str) -> str:
        return name if name in self._node.destinations() else OTHER

    def _worker_figures(self, seen: _Seen) -> Iterator[Metric]:
        ages: dict[str, list[float]] = {"analyse": [], "deliver": []}
        loaded: Counter[str] = Counter(dict.fromkeys(self._node.packages(), 0))
        for worker in seen.workers:
            age = max(0.0, (seen.at - worker.seen_at).total_seconds())
            ages.setdefault(worker.kind, []).append(age)
            if age <= WORKER_ALIVE_S:
                loaded.update(worker.packages.keys())
        alive = GaugeMetricFamily(
            "hipnode_workers_alive", "Workers with a heartbeat in the last minute.", labels=["kind"]
        )
        heartbeat = GaugeMetricFamily(
            "hipnode_worker_heartbeat_age_seconds",
            "Since the latest heartbeat of any worker of the kind.",
            labels=["kind"],
        )
        for kind, each in sorted(ages.items()):
            alive.add_metric([kind], sum(age <= WORKER_ALIVE_S for age in each))
            if each:
                heartbeat.add_metric([kind], min(each))
        yield alive
        yield heartbeat
        package = GaugeMetricFamily(
            "hipnode_package_workers",
            "Living analyse workers that have a model package loaded; packages of the selection also with 0.",
            labels=["package"],
        )
        for id_, count in sorted(loaded.items()):
            package.add_metric([id_], count)
        yield package

    def _delivery_figures(self, done: Happened) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "hipnode_deliveries_ended", "Results delivered or given up.", labels=["destination", "status"]
        )
        retries = CounterMetricFamily(
            "hipnode_delivery_retries", "Deliveries that are tried again.", labels=["destination"]
        )
        latest = GaugeMetricFamily(
            "hipnode_last_delivered_timestamp_seconds",
            "When a result was last delivered; 0: never.",
            labels=["destination"],
        )
        known = sorted(self._node.destinations())
        named = {
            name: self._destination(name) for name in (*done.delivered, *done.given_up, *done.sent_again)
        }
        for name in dict.fromkeys((*known, *named.values())):
            its = [each for each, label in named.items() if label == name]
            ended.add_metric([name, "delivered"], sum(done.delivered[each] for each in its))
            ended.add_metric([name, "failed"], sum(done.given_up[each] for each in its))
            retries.add_metric([name], sum(done.sent_again[each] for each in its))
            at = [done.delivered_at[each].timestamp() for each in its if each in done.delivered_at]
            latest.add_metric([name], max(at, default=0.0))
        yield ended
        yield retries
        yield latest


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


def _open_figures(seen: _Seen, destination_label: Callable[[str], str]) -> Iterator[Metric]:
    def age(instant: datetime | None) -> float:
        return 0.0 if instant is None else max(0.0, (seen.at - instant).total_seconds())

    analyses = GaugeMetricFamily(
        "hipnode_analyses_open", "Analyses that have not ended.", labels=["status", "reason"]
    )
    # one without a reason for every status, so that a sum is 0 and not absent
    open_ = {(s.value, ""): 0 for s in AnalysisStatus if s not in TERMINAL} | seen.open.analyses
    for (status, reason), count in sorted(open_.items()):
        analyses.add_metric([status, reason], count)
    yield analyses
    yield _gauge("hipnode_backlog", "Unfinished analyses, as the C-STORE limit counts them.", seen.backlog)
    oldest = GaugeMetricFamily(
        "hipnode_queue_oldest_age_seconds",
        "How long the study waits that waits longest: to be complete, to be analysed, to be delivered.",
        labels=["queue"],
    )
    oldest.add_metric(["receive"], age(seen.open.since.get(AnalysisStatus.RECEIVING)))
    oldest.add_metric(["analyse"], age(seen.open.since.get(AnalysisStatus.QUEUED)))
    oldest.add_metric(["deliver"], age(min(seen.open.deliveries_since.values(), default=None)))
    yield oldest
    deliveries = GaugeMetricFamily(
        "hipnode_deliveries_open",
        "Results on their way; due with a reason: the last try did not succeed.",
        labels=["destination", "status", "reason"],
    )
    counts: Counter[tuple[str, str, str]] = Counter()
    for (name, status, reason), count in seen.open.deliveries.items():
        counts[destination_label(name), status, reason] += count
    for labels, count in sorted(counts.items()):
        deliveries.add_metric(labels, count)
    yield deliveries
    waits = GaugeMetricFamily(
        "hipnode_delivery_oldest_age_seconds",
        "How long the result waits that waits longest for its destination.",
        labels=["destination"],
    )
    since: dict[str, float] = {}
    for name, at in seen.open.deliveries_since.items():
        label = destination_label(name)
        since[label] = max(since.get(label, 0.0), age(at))
    for label, seconds in sorted(since.items()):
        waits.add_metric([label], seconds)
    yield waits


def _analysis_figures(done: Happened) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "hipnode_analyses_ended", "Analyses that have ended.", labels=["status", "reason"]
    )
    known = {(s.value, ""): 0 for s in sorted(TERMINAL)} | {("failed", code): 0 for code in _FAILURES}
    for (status, reason), count in sorted((known | done.ended).items()):
        ended.add_metric([status, reason], count)
    yield ended
    outcomes = CounterMetricFamily(
        "hipnode_outcomes", "What looks at studies came to.", labels=["package", "outcome"]
    )
    for labels, count in sorted(done.outcomes.items()):
        outcomes.add_metric(labels, count)
    yield outcomes
    yield CounterMetricFamily(
        "hipnode_analysis_retries", "Analyses put back to be tried again.", value=done.retries
    )
    stages = HistogramMetricFamily(
        "hipnode_stage_duration_seconds",
        "How long completed analyses were in each stage; total: from their first instance to their end.",
        labels=["stage"],
    )
    for stage in figures.STAGES:
        _add(stages, [stage], done.stages.get(stage), STAGE_BOUNDS_S)
    yield stages
    scores = HistogramMetricFamily(
        "hipnode_finding_score", "Scores of findings (a class that fired).", labels=["package", "class"]
    )
    for (package_id, class_name), buckets in sorted(done.scores.items()):
        _add(scores, [package_id, class_name], buckets, SCORE_BOUNDS)
    yield scores


def _instance_figures(done: Happened) -> Iterator[Metric]:
    instances = CounterMetricFamily(
        "hipnode_received_instances", "Instances taken, repeats not counted.", labels=["role"]
    )
    size = CounterMetricFamily("hipnode_received_bytes", "Bytes of their data sets.", labels=["role"])
    latest = GaugeMetricFamily(
        "hipnode_last_received_timestamp_seconds",
        "When an instance was last taken; 0: never.",
        labels=["role"],
    )
    for role in ("source", "ignored", "own"):
        instances.add_metric([role], done.instances[role])
        size.add_metric([role], done.bytes[role])
        at = done.received_at.get(role)
        latest.add_metric([role], at.timestamp() if at else 0.0)
    yield from (instances, size, latest)


def _peer_figures(seen: _Seen) -> Iterator[Metric]:
    label = ["calling_ae_title"]
    accepted = CounterMetricFamily(
        "hipnode_associations_accepted", "Associations accepted since the start.", labels=label
    )
    refused = CounterMetricFamily(
        "hipnode_associations_refused", "Associations refused since the start.", labels=label
    )
    stores = CounterMetricFamily(
        "hipnode_stores_refused", "C-STORE answered with a failure since the start.", labels=label
    )
    for title, peer in sorted(seen.peers.items()):
        accepted.add_metric([title], peer.associations)
        refused.add_metric([title], peer.refusals)
        stores.add_metric([title], peer.stores_refused)
    yield from (accepted, refused, stores)
    lately = GaugeMetricFamily(
        "hipnode_peers_refused_lately",
        "Peers that were refused within the last hour, by the last reason.",
        labels=["reason"],
    )
    for reason in (*_REFUSALS, OTHER):
        lately.add_metric([reason], seen.refused_lately[reason])
    yield lately


def _add(
    family: HistogramMetricFamily, labels: list[str], found: Buckets | None, bounds: Iterable[float]
) -> None:
    bounds = tuple(bounds)
    buckets = found or Buckets([0] * len(bounds))
    named = [(f"{bound:g}", float(count)) for bound, count in zip(bounds, buckets.at_most, strict=True)]
    family.add_metric(labels, [*named, ("+Inf", float(buckets.count))], buckets.total)
