"""Times as they are typed and read on the command line."""

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def instant(text: str | None, now: datetime) -> datetime | None:
    """`30m`, `12h`, `7d` ago, or an ISO date and time (UTC where it names no offset) as an instant."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+)([smhd])", text.strip()):
        try:
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError as error:
            raise typer.BadParameter(f"{text} ago is before the calendar begins.") from error
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither like 30m, 12h, 7d nor a date and time.") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def span(at: datetime | None, now: datetime) -> str:
    """How long ago `at` was, or in how long it will be, in its largest unit; "" for None."""
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    sign, seconds = ("in ", -seconds) if seconds < 0 else ("", seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{sign}{seconds / size:.0f} {unit}"
    return f"{sign}{seconds:.0f} s"
