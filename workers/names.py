"""What a worker is called in the ledger."""

import os
import socket


def worker_name(kind: str) -> str:
    """The name of this process, a worker of this kind."""
    return f"{here(kind)}{os.getpid()}"


def here(kind: str) -> str:
    """How the names of this kind's workers on this machine, or in this container, begin."""
    return f"{kind}@{socket.gethostname()[:64]}:"
