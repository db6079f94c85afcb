"""How commands print: where to, and values in the form people and programs read."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

_PIPE_WIDTH = 200


def screen() -> Console:
    """Standard output: as wide as the terminal, and wide enough for whole lines where it is a pipe."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def plain(text: object) -> str:
    """A value from outside for a terminal: no control characters, and no markup to Rich."""
    return escape("".join(c if c.isprintable() else "?" for c in str(text)))


def as_json(value: Any) -> str:
    """Records as JSON: instants in ISO 8601, keys as the fields are called."""
    return json.dumps(
        asdict(value) if hasattr(value, "__dataclass_fields__") else value, indent=2, default=_as_plain
    )


def _as_plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return str(value)
