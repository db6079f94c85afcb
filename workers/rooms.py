"""What both kinds of worker need to do their jobs: doors to other rooms, and the site's numbers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime

from sqlalchemy.orm import Session, sessionmaker

from hipnode.children import Children
from hipnode.destinations import DestinationsFile
from hipnode.logs import where as where
from hipnode.results import Installation
from hipnode.settings import Settings
from hipnode.spool import Spool
from workers.leases import utc_now

LONGEST_JOB_S = 900.0
"""No lease is extended beyond this, and a worker busy longer counts as stuck."""

ROUND_S = 60.0
"""A bell is answered for this long; if more is due then, the bell is rung again."""


NO_ROOM_PAUSE_S = 30.0
"""So long what could not be written is left alone: a full disk is not the study's fault, and no attempt."""


@dataclass(frozen=True)
class Policy:
    """How often and how long to try; see hipnode.settings for each."""

    lease_s: float = 120
    max_attempts: int = 3
    retry_s: float = 10
    analysis_deadline_s: float = 3600
    delivery_give_up_s: float = 86400
    delivery_retry_s: float = 5
    delivery_retry_cap_s: float = 600
    dimse_timeout_s: float = 30

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        """The numbers of an installation."""
        return cls(**{each.name: getattr(settings, each.name) for each in fields(cls)})


@dataclass(frozen=True)
class Rooms:
    """The rooms a job works in. `stopping` is set when the process is asked to end."""

    sessions: sessionmaker[Session]
    spool: Spool
    children: Children
    destinations: DestinationsFile
    installation: Installation
    owner: str
    policy: Policy = field(default_factory=Policy)
    clock: Callable[[], datetime] = utc_now
    stopping: threading.Event = field(default_factory=threading.Event)
