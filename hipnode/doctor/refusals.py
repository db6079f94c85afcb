"""Who knocked and was refused lately, and what to change so that it is let in."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from hipnode.doctor.records import Record, fail, note, ok, warn
from hipnode.doctor.sitefiles import is_own_call
from hipnode.doctor.work import since_words
from hipnode.errors import SettingsError
from hipnode.ledger import PeerRow
from hipnode.scp import AllowedPeers, entry_for, explain_refusal

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

LATELY = timedelta(hours=24)
_SHOWN = 10

#: Refusals after which nothing is heard of a peer but another knock.
_AT_THE_DOOR = frozenset(
    {"NOT_ALLOWED", "CALLED_AE_TITLE", "TOO_MANY", "STOPPING", "TLS", "NOT_DICOM", "NO_CONTEXT"}
)
_HARMLESS = frozenset({"STOPPING", "NOT_DICOM"})  #: a restart, a port scanner


def check_refusals(site: "Site") -> list[Record]:
    """The peers whose last knock was refused, one finding each."""
    if site.sessions is None:
        return []
    settings, now = site.settings, site.clock()
    others = [p for p in site.peers() if not is_own_call(p.calling_ae_title, p.address, settings)]
    refused = [p for p in others if _stands(p, others, now)]
    records = [record for peer in refused[:_SHOWN] for record in _record(site, peer, others)]
    if len(refused) > _SHOWN:
        says = f"{len(refused) - _SHOWN} more peers were refused."
        records.append(note("refused-peers", says, "`hipnode peers` shows all of them."))
    if records:
        return records
    calls = max((p.last_seen_at for p in others if p.associations), default=None)
    last = f"; the last one connected {since_words(calls, now)} ago" if calls else ""
    return [ok("refused-peers", f"No peer stands refused within 7 days{last}.")]


def _record(site: "Site", peer: PeerRow, others: list[PeerRow]) -> list[Record]:
    assert peer.last_refused_at is not None  # noqa: S101  # the caller has looked
    code = peer.last_refusal or ""
    who = f"{peer.calling_ae_title or 'A peer without AE title'} at {peer.address}"
    ago = since_words(peer.last_refused_at, site.clock())
    when = f"last {ago} ago, refusals so far: {max(peer.refusals, peer.stores_refused, 1)}"
    if code == "NOT_ALLOWED":
        if _allowed_now(site, peer):
            says = f"{who} was refused ({when}); HIPNODE_ALLOWED_PEERS names it now."
            return [
                note(
                    "refused-peers",
                    says,
                    "Start the node again if it has not been since, and let it call again.",
                )
            ]
        says = f"{who} was refused ({when}): it is not in HIPNODE_ALLOWED_PEERS."
        return [_severe(site, peer, others)("refused-peers", says, _let_in(site, peer))]
    if code == "CALLED_AE_TITLE":
        title = site.settings.ae_title
        called = peer.called_ae_title or "nothing"
        says = f"{who} was refused ({when}): it called {called}, and our AE title is {title}."
        cure = f"Correct the called AE title in {peer.calling_ae_title or 'the peer'} to {title}, case counts"
        if re.fullmatch(r"[\w .+-]{1,16}", called) and peer.called_ae_title:  # it may be copied into a shell
            cure += f"; or set HIPNODE_AE_TITLE={called} and start the node again"
        cure += "."
        return [_severe(site, peer, others)("refused-peers", says, cure)]
    meaning, cure = explain_refusal(peer, site.settings.ae_title, site.settings.allowed_peers)
    state = note if code in _HARMLESS else warn
    return [state("refused-peers", f"{who} was refused ({when}): {meaning}.", cure)]


def _severe(site: "Site", peer: PeerRow, others: list[PeerRow]) -> Callable[[str, str, str], Record]:
    """Fail where this is why nothing comes: a peer we know, or the only one that calls. Else a scanner may be it."""
    at = peer.last_refused_at
    if at is None or site.clock() - at > LATELY:
        return warn
    named = {(d.ae_title, d.host) for d in site.destinations()}
    known = any(peer.calling_ae_title == title or peer.address == host for title, host in named)
    sends = any(p.instances and site.clock() - p.last_seen_at <= LATELY for p in others)
    return fail if known or not sends else warn


def _stands(peer: PeerRow, others: list[PeerRow], now: datetime) -> bool:
    """Whether the peer was refused and did not get in after that.

    Of a peer whose objects are refused we only know when that was last: it connects all the same.
    """
    at = peer.last_refused_at
    if at is None:
        return False
    if peer.last_refusal not in _AT_THE_DOOR:
        return now - at <= LATELY
    same = [p for p in others if (p.calling_ae_title, p.address) == (peer.calling_ae_title, peer.address)]
    return not any(p.associations and p.last_seen_at > at for p in same)


def _allowed_now(site: "Site", peer: PeerRow) -> bool:
    try:
        allowed = AllowedPeers.parse(site.settings.allowed_peers)
    except SettingsError:
        return False
    return allowed.allows(peer.calling_ae_title, peer.address)


def _let_in(site: "Site", peer: PeerRow) -> str:
    """The setting with one more entry, as it is to be written."""
    entry = entry_for(peer.calling_ae_title, peer.address)
    whole = ",".join(part for part in (site.settings.allowed_peers.strip().strip(","), entry) if part)
    return f"If it is yours, add {entry}: HIPNODE_ALLOWED_PEERS='{whole}', and start the node again."
