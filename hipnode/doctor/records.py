"""What a check finds: a state, a sentence, and what to do about it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it stands with one thing."""

    OK = "ok"
    NOTE = "note"  #: worth knowing, nothing is wrong
    WARN = "warn"  #: works, or may work, and somebody should look
    FAIL = "fail"  #: does not work


@dataclass(frozen=True)
class Record:
    """One finding. No patient data in it.

    check: what was looked at, in kebab case. says: one sentence. cure: what to do; "" where nothing is.
    """

    check: str
    state: State
    says: str
    cure: str = ""


def ok(check: str, says: str) -> Record:
    """It is as it should be."""
    return Record(check, State.OK, says)


def note(check: str, says: str, cure: str = "") -> Record:
    """Nothing is wrong; somebody may want to know."""
    return Record(check, State.NOTE, says, cure)


def warn(check: str, says: str, cure: str) -> Record:
    """It works so far."""
    return Record(check, State.WARN, says, cure)


def fail(check: str, says: str, cure: str) -> Record:
    """It does not work."""
    return Record(check, State.FAIL, says, cure)


def one_line(text: object) -> str:
    """A text of several lines as one."""
    return " ".join(str(text).split())


def summary(records: Iterable[Record]) -> dict[str, int]:
    """How many records are in each state, every state named."""
    counts = Counter(record.state for record in records)
    return {state.value: counts[state] for state in State}


def sentence(counts: dict[str, int]) -> str:
    """The last line of the text output."""
    words = {"fail": "failed", "warn": "to look at", "note": "to know", "ok": "well"}
    said = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts.get(state))
    return f"{said or 'Nothing was looked at'}."
