"""What waits and for how long, what failed lately, and when the last image came."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.orm import Session

from hipnode import ledger
from hipnode.doctor.records import Record, fail, ok, warn
from hipnode.errors import HipnodeError
from hipnode.ledger.figures import OpenWork, open_work
from hipnode.ledger.health import arrived, ends
from hipnode.status import AnalysisStatus, DeliveryStatus, ReasonCode

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

T = TypeVar("T")

SLOW = timedelta(minutes=5)
QUIET = timedelta(hours=24)
WEEK = timedelta(days=7)

_CURES: dict[str, str] = {
    ReasonCode.NO_PACKAGE: "Install the package the finding above names",
    ReasonCode.WORKER_LOST: "Look into the analyse worker's log (memory, GPU)",
    ReasonCode.DESTINATION_DOWN: "Bring the destination back (see its C-ECHO above)",
    ReasonCode.DESTINATION_REFUSED: "Look into the PACS' log for why it refused; --write-back shows its status",
    ReasonCode.SPOOL_MISSING: "Find out who removes files from the spool, and send the studies again",
    ReasonCode.INTERNAL: "`hipnode studies show` names the analysis; its log line has the cause",
}


def check_queue(site: "Site") -> list[Record]:
    """The studies and results that wait longest."""
    work = _ask(site, open_work)
    if work is None:
        return []
    return [*_studies(site, work), *_results(site, work)]


def check_outcomes(site: "Site") -> list[Record]:
    """How the studies of the last week ended, and whether any of them came to a result."""
    found = _ask(site, lambda session: ends(session, site.clock() - WEEK))
    if not found:
        return []
    by_status: Counter[AnalysisStatus] = Counter()
    for (status, _), count in found.items():
        by_status[status] += count
    ended = ", ".join(f"{count} {status.value}" for status, count in by_status.most_common())
    says = f"How studies ended within 7 days: {ended}"
    records = []
    nowhere = found[AnalysisStatus.COMPLETED, ReasonCode.NO_DESTINATION]
    if nowhere:
        cure = f"Name the PACS in {site.settings.destinations}, then `hipnode replay STUDY --from deliver`."
        told = f"Studies whose results went nowhere within 7 days, for no destination takes them: {nowhere}."
        records.append(warn("outcomes", told, cure))
    if by_status[AnalysisStatus.COMPLETED]:
        return [*records, ok("outcomes", f"{says}.")]
    left_out = Counter(
        {code: n for (status, code), n in found.items() if status is AnalysisStatus.NOT_APPLICABLE}
    )
    if not left_out:
        return records  # what failed is told by check_failures
    reasons = ", ".join(f"{count} {code}" for code, count in left_out.most_common(3))
    cure = (
        "`hipnode studies list --status not_applicable` shows them, `hipnode explain FILE` the rule that decided; "
        "where it is wrong, change selection.toml (docs/selection.md)."
    )
    return [*records, warn("outcomes", f"{says}: no film was one for hipnode ({reasons}).", cure)]


def check_failures(site: "Site") -> list[Record]:
    """Studies that failed within a day, by reason."""
    found = _ask(site, lambda session: ends(session, site.clock() - QUIET))
    if found is None:
        return []
    failed = Counter(
        {code: count for (status, code), count in found.items() if status is AnalysisStatus.FAILED}
    )
    if not failed:
        return [ok("failures", "No study failed in the last 24 hours.")]
    told = ", ".join(f"{count} {code or 'without reason'}" for code, count in failed.most_common())
    cures = (_CURES[code] for code, _ in failed.most_common() if code in _CURES)
    first = next(cures, "`hipnode studies list --status failed` shows them")
    cure = f"{first}; then `hipnode replay --failed --since 24h`."
    return [warn("failures", f"Studies that failed in the last 24 hours: {failed.total()} ({told}).", cure)]


def check_arrivals(site: "Site") -> list[Record]:
    """When the last radiograph came in, and whether anything else does."""
    found = _ask(site, lambda session: arrived(session, site.clock() - WEEK))
    if found is None:
        return []
    last, roles = found
    title, port = site.settings.ae_title, site.settings.port
    route = f"In the PACS, route hip and pelvis radiographs to {title}, this machine's address, port {port}"
    others = sum(count for role, count in roles.items() if role != "source")
    if not roles["source"] and others:
        says = f"Objects arrive ({others} within 7 days), and none of them is a radiograph."
        return [
            warn(
                "arrivals",
                says,
                "Let the route send CR and DX images, not only reports and other modalities.",
            )
        ]
    if last is None:
        return [warn("arrivals", "No image has ever arrived.", f"{route}; refused peers are named above.")]
    passed = site.clock() - last
    if passed > QUIET:
        cure = f"{route}; see whether the PACS' queue to {title} stands still, and who was refused."
        return [warn("arrivals", f"The last image arrived {_words(passed)} ago.", cure)]
    return [ok("arrivals", f"The last image arrived {_words(passed)} ago.")]


def _studies(site: "Site", work: OpenWork) -> list[Record]:
    now, records = site.clock(), []
    cap = timedelta(seconds=site.settings.stable_cap_s + 3 * site.settings.sweep_s) + SLOW
    receiving = work.since.get(AnalysisStatus.RECEIVING)
    if receiving is not None and now - receiving > cap:
        says = f"A study is still open for more images after {_words(now - receiving)}: no tick closes it."
        records.append(fail("queue-age", says, "Start the node (`hipnode up` or `hipnode serve`) again."))
    count = sum(n for (status, _), n in work.analyses.items() if status == AnalysisStatus.QUEUED)
    queued = work.since.get(AnalysisStatus.QUEUED)
    if not count or queued is None:
        return records or [ok("queue-age", "No study waits for an analyse worker.")]
    says = f"Studies that wait for an analyse worker: {count}, the oldest for {_words(now - queued)}"
    if now - queued <= SLOW:
        return [*records, ok("queue-age", f"{says}.")]
    deadline = timedelta(seconds=site.settings.analysis_deadline_s)
    cure = (
        "See workers, bells and worker-packages; where all of them are well, start more workers or use a GPU."
    )
    if now - queued > deadline / 2:
        return [*records, fail("queue-age", f"{says}; after {_words(deadline)} they fail.", cure)]
    return [*records, warn("queue-age", f"{says}.", cure)]


def _results(site: "Site", work: OpenWork) -> list[Record]:
    now, records = site.clock(), []
    give_up = timedelta(seconds=site.settings.delivery_give_up_s)
    for destination, since in sorted(work.deliveries_since.items()):
        mine = {state: n for (name, state, _), n in work.deliveries.items() if name == destination}
        count = mine.get(DeliveryStatus.DUE, 0) + mine.get(DeliveryStatus.SENDING, 0)
        says = f"Results that wait to be sent to {destination}: {count}, the oldest for {_words(now - since)}"
        known = {one.name for one in site.destinations()}
        if destination not in known:
            cure = f"Put {destination} back into {site.settings.destinations}, or let them be given up."
            records.append(
                fail("delivery-age", f"{says}, and destinations.toml does not name it any more.", cure)
            )
        elif now - since <= SLOW:
            records.append(ok("delivery-age", f"{says}."))
        else:
            cure = f"See the C-ECHO of {destination} and the deliver worker; they are given up after {_words(give_up)}."
            severe = now - since > give_up / 2
            records.append((fail if severe else warn)("delivery-age", f"{says}.", cure))
    return records or [ok("delivery-age", "No result waits to be sent.")]


def _ask(site: "Site", ask: Callable[[Session], T]) -> T | None:
    if site.sessions is None:
        return None
    try:
        with ledger.reading(site.sessions) as session:
            return ask(session)
    except HipnodeError:
        return None


def _words(passed: timedelta) -> str:
    seconds = max(0.0, passed.total_seconds())
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def since_words(at: datetime, now: datetime) -> str:
    """How long ago, in words."""
    return _words(now - at)
