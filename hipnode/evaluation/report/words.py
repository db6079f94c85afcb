"""Numbers and units as the report says them: the one place that rounds. Pure."""

import re
from math import isfinite

from hipnode.evaluation.statistics.estimates import Estimate

NONE = "–"
MINUS = "\u2212"


def plural(unit: str, n: int | None = None) -> str:
    """The unit's word for n of them; without n the plural."""
    if n == 1:
        return unit
    return unit[:-1] + "ies" if unit.endswith("y") else unit + "s"


def article(word: str) -> str:
    """The word with its article: "a hip", "an image"."""
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def count(n: int, unit: str | None = None) -> str:
    """A whole number with thousands apart, and its unit: "1,888 hips"."""
    number_ = f"{n:,}".replace("-", MINUS)
    return number_ if unit is None else f"{number_} {plural(unit, n)}"


def number(value: float | None) -> str:
    """A measured number with the digits it deserves: three decimals below 10, one below 1,000."""
    if value is None or not isfinite(value):
        return NONE
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    text = f"{value:,.{digits}f}"
    return (text[1:] if float(text.replace(",", "")) == 0 and value < 0 else text).replace("-", MINUS)


def interval(estimate: Estimate) -> str:
    """The limits as "0.883–0.928", or with "to" where a minus sign would meet the dash; empty without limits."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    between = " to " if estimate.low < 0 else "–"
    return f"{number(estimate.low)}{between}{number(estimate.high)}"


def with_interval(estimate: Estimate) -> str:
    """A value and its interval in one line: "0.908 (0.883–0.928)"."""
    limits = interval(estimate)
    return f"{number(estimate.value)} ({limits})" if limits else number(estimate.value)


def support(estimate: Estimate) -> str:
    """What stands behind a value: "562/619" events of n, or "n 619" where events have no meaning."""
    return f"n {estimate.n:,}" if estimate.events is None else f"{estimate.events:,}/{estimate.n:,}"


def p_value(p: float | None) -> str:
    """A p value as journals print it."""
    if p is None or not isfinite(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def per_hundred(value: float) -> str:
    """A share as a number of 100 that never says all or none where it is not: "91", "over 99", "under 1"."""
    if 0 < value < 0.005:
        return "under 1"
    if 0.995 < value < 1:
        return "over 99"
    return f"{value * 100:.0f}"


def listed(words: list[str] | tuple[str, ...]) -> str:
    """Words as a sentence lists them: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def slug(text: str) -> str:
    """A name of lower-case letters, digits and hyphens for parts and files; other signs become hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
