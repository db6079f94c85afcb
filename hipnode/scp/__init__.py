"""The way in: a C-STORE and C-ECHO SCP (PS3.4 annex B, A) hardened against slow and hostile peers.

`start_scp` opens it. What a study goes through here: `server` gives a connection its place, `wire`
reads PDUs, `messages` puts DIMSE messages together, `association` serves them one after the other,
`store` keeps or drops the object and says which status the sender hears. `knocks` counts who came.
"""

import ssl
from collections.abc import Callable

from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.scp.contexts import RADIOGRAPH_CLASSES
from hipnode.scp.knocks import Knocks
from hipnode.scp.peers import AllowedPeers, entry_for
from hipnode.scp.refusals import explain_refusal
from hipnode.scp.server import HardServer, Limits, listen, stop
from hipnode.scp.store import OwnMarks, StoreHandler, own_marks
from hipnode.spool import Spool

__all__ = [
    "RADIOGRAPH_CLASSES",
    "AllowedPeers",
    "Limits",
    "OwnMarks",
    "Scp",
    "entry_for",
    "explain_refusal",
    "own_marks",
    "start_scp",
]


class Scp:
    """A running SCP."""

    def __init__(self, server: HardServer, handler: StoreHandler, knocks: Knocks) -> None:
        self._server = server
        self._handler = handler
        self._knocks = knocks
        self.host: str = server.server_address[0]
        self.port: int = server.server_address[1]  #: the port it listens on, also when 0 was asked for

    @property
    def listening(self) -> bool:
        """Whether it takes connections."""
        return self._server.accepting

    @property
    def associations(self) -> int:
        """How many associations are open now."""
        return self._server.associated

    def receiving(self) -> set[str]:
        """Study Instance UIDs of which a data set is arriving, as far as its bytes tell already."""
        return self._handler.transfers.studies()

    def stop(self, grace_s: float = 10.0) -> None:
        """Take no new connections, let transfers under way end for up to `grace_s`, cut the rest."""
        stop(self._server, grace_s)
        self._knocks.stop()


def start_scp(
    ae_title: str,
    host: str,
    port: int,
    *,
    spool: Spool,
    sessions: sessionmaker[Session],
    peers: AllowedPeers,
    limits: Limits | None = None,
    marks: OwnMarks | None = None,
    on_stored: Callable[[ledger.Recorded], None] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Scp:
    """Listen on host:port (port 0: a free one) and keep the radiographs peers send.

    marks: how our own output is known beside the table of emitted UIDs; `own_marks()` without.
    on_stored: called after each acknowledged instance, in the association's thread; keep it short.
    ssl_context: a server context; without one the association is plain TCP.
    Raises OSError when the address cannot be had.
    """
    limits = limits or Limits()
    handler = StoreHandler(spool, sessions, limits=limits, marks=marks or own_marks(), on_stored=on_stored)
    knocks = Knocks(sessions, handler.turn)
    try:
        server = listen(
            ae_title,
            host,
            port,
            limits=limits,
            peers=peers,
            service=handler,
            knocks=knocks,
            ssl_context=ssl_context,
        )
    except BaseException:
        knocks.stop()
        raise
    return Scp(server, handler, knocks)
