"""Who knocked at the SCP: what it sent, what it was refused, and why."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from hipnode.tables import Peer

MAX_ROWS = 1000
"""So many peers are remembered; a site has tens of them."""

MAX_STRANGERS = 20
"""So many titles that were only ever refused are remembered of one address."""

_KEY = (Peer.calling_ae_title, Peer.address, Peer.called_ae_title)


@dataclass(frozen=True)
class PeerSeen:
    """What one peer did since it was last recorded. Texts from the wire are cleaned when recorded.

    last_refusal: a short code, such as CALLED_AE_TITLE, NOT_ALLOWED, TOO_MANY, or the DIMSE status
        of a refused C-STORE in hex, such as A700. The last one, whichever it was.
    seen_at, refused_at: when, where that is not the moment of recording.
    """

    calling_ae_title: str
    address: str
    called_ae_title: str = ""
    associations: int = 0
    refusals: int = 0
    instances: int = 0
    stores_refused: int = 0
    last_refusal: str | None = None
    seen_at: datetime | None = None
    refused_at: datetime | None = None


@dataclass(frozen=True)
class PeerRow:
    """A peer as the ledger knows it. Titles are printable ASCII, empty where none was named."""

    calling_ae_title: str
    address: str
    called_ae_title: str
    first_seen_at: datetime
    last_seen_at: datetime
    associations: int  #: accepted
    refusals: int  #: associations rejected, connections dropped
    instances: int  #: C-STORE answered 0x0000
    stores_refused: int  #: C-STORE answered with a failure
    last_refusal: str | None
    last_refused_at: datetime | None


def record_peers(session: Session, seen: Collection[PeerSeen], now: datetime) -> None:
    """Add what was counted to the rows of the peers.

    Never leaves more than MAX_ROWS: peers that were only ever refused go first, the longest unseen
    before others, and of one address no more than MAX_STRANGERS of those stay.
    """
    if not seen:
        return
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    rows = sorted((_row(one, now) for one in seen), key=lambda row: [str(row[c.key]) for c in _KEY])
    for row in rows:  # in one order, so that two writers do not wait for each other
        adding = insert(Peer).values(row)
        new = adding.excluded
        session.execute(
            adding.on_conflict_do_update(
                index_elements=[column.key for column in _KEY],
                set_={
                    "last_seen_at": new.last_seen_at,
                    "associations": Peer.associations + new.associations,
                    "refusals": Peer.refusals + new.refusals,
                    "instances": Peer.instances + new.instances,
                    "stores_refused": Peer.stores_refused + new.stores_refused,
                    "last_refusal": func.coalesce(new.last_refusal, Peer.last_refusal),
                    "last_refused_at": func.coalesce(new.last_refused_at, Peer.last_refused_at),
                },
            )
        )
    for address in {str(row["address"]) for row in rows if not row["associations"]}:
        _keep_latest(session, MAX_STRANGERS, Peer.associations == 0, Peer.address == address)
    known = session.scalar(select(func.count()).where(Peer.associations > 0)) or 0
    _keep_latest(session, max(0, MAX_ROWS - known), Peer.associations == 0)
    if known > MAX_ROWS:
        _keep_latest(session, MAX_ROWS)


def list_peers(session: Session, since: datetime | None = None, refused_only: bool = False) -> list[PeerRow]:
    """The peers seen since, latest first; refused_only: those some association or C-STORE of was refused."""
    columns = [getattr(Peer, name) for name in PeerRow.__dataclass_fields__]
    query = select(*columns).order_by(Peer.last_seen_at.desc(), *_KEY)
    if since is not None:
        query = query.where((Peer.last_refused_at if refused_only else Peer.last_seen_at) >= since)
    if refused_only:
        query = query.where(Peer.last_refused_at.is_not(None))
    return [PeerRow(*row) for row in session.execute(query)]


def _keep_latest(session: Session, count: int, *of: ColumnElement[bool]) -> None:
    latest = select(Peer.id).where(*of).order_by(Peer.last_seen_at.desc(), Peer.id.desc())
    if going := list(session.scalars(latest.offset(count))):
        session.execute(delete(Peer).where(Peer.id.in_(going)))


def _row(one: PeerSeen, now: datetime) -> dict[str, object]:
    seen_at = one.seen_at or now
    refused_at = (one.refused_at or seen_at) if one.last_refusal else None
    return {
        "calling_ae_title": _clean(one.calling_ae_title, 16),
        "address": _clean(one.address, 45),
        "called_ae_title": _clean(one.called_ae_title, 16),
        "first_seen_at": seen_at,
        "last_seen_at": seen_at,
        "associations": one.associations,
        "refusals": one.refusals,
        "instances": one.instances,
        "stores_refused": one.stores_refused,
        "last_refusal": _clean(one.last_refusal, 32) if one.last_refusal else None,
        "last_refused_at": refused_at,
    }


def _clean(text: str, length: int) -> str:
    """Printable ASCII without leading and trailing blanks (PS3.5 section 6.2, AE), cut to the column."""
    return "".join(c if " " <= c <= "~" else "?" for c in text).strip()[:length]
