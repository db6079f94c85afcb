"""One number of an evaluation, with what a reader needs to judge it. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, the counts behind it and the method of the interval.

    value: None where it is undefined (0/0, one class only); never a silent 0
    low, high: limits of the 95 % interval unless `method` names another level; None where there is none
    n: units behind the value (cases, hips, images, readers x cases)
    events: units that carry the information (positives, correct ones, discordant pairs); None where
        the word has no meaning
    method: how the interval was made, as printed beside it, e.g. "Wilson", "DeLong", "bootstrap of 812
        patients (2000)"; where value is None, the reason in a few words
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    events: int | None
    method: str

    @property
    def few_events(self) -> bool:
        """Whether fewer than 10 events stand behind the value, which the tables warn about."""
        return self.events is not None and self.events < 10


def undefined(n: int, events: int | None, why: str) -> Estimate:
    """The estimate of a value that does not exist, with the reason in its place."""
    return Estimate(None, None, None, n, events, why)
