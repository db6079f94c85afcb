"""Where commands print."""

import sys

from rich.console import Console

_PIPE_WIDTH = 200


def screen() -> Console:
    """Standard output: as wide as the terminal, and wide enough for whole lines where it is a pipe."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
