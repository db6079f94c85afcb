"""How many cases an acceptance run needs, and a protocol to start from. Pure.

Everything counts patients with the finding (for a sensitivity) or without it (for a specificity), one unit of
each: two hips or two films of one patient are less than two.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.roc import Z_95

MOST = 20_000  # patients; who needs more has set the bound too near to what is expected
STEPS = (20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)


class NoPlan(ValueError):
    """No number of cases does what was asked; the text says why."""


@dataclass(frozen=True)
class Step:
    """What n patients give: the interval if the expected share of them is right, and the chance to pass.

    found: the expected share of n, rounded to whole patients
    """

    n: int
    found: int
    low: float
    high: float
    chance: float


def chance_to_pass(expected: float, bound: float, n: ArrayLike) -> NDArray[np.float64]:
    """The chance that the lower Wilson limit of a binomial(n, expected) count lies above the bound; exact.

    The limit is above the bound where the score test is: count - n b > z sqrt(n b (1 - b)) (Wilson 1927).
    """
    numbers = np.atleast_1d(np.asarray(n, dtype=np.int64))
    most_wrong = np.floor(numbers * bound + Z_95 * np.sqrt(numbers * bound * (1 - bound)))
    return np.asarray(binom.sf(most_wrong, numbers, expected))


def patients_needed(expected: float, bound: float, power: float = 0.8) -> int:
    """The n from which on the chance to pass is never below `power`; the chance goes up and down with n.

    Raises NoPlan where that is not so below MOST patients.
    """
    if not 0 < bound < expected < 1:
        raise NoPlan(
            f"the bound ({bound:g}) must lie below what is expected ({expected:g}), both between 0 and 1: a package "
            "that is just as good as the bound passes in 1 of 40 runs only, however many cases there are"
        )
    if not 0.5 <= power < 1:
        raise NoPlan(f"the chance to pass ({power:g}) must be 0.5 or more and below 1")
    end = 64
    while end <= MOST:
        numbers = np.arange(1, end + 1)
        enough = chance_to_pass(expected, bound, numbers) >= power
        last = int(np.flatnonzero(~enough)[-1]) + 1
        if last < 0.8 * end:  # the saw's teeth grow smaller; a fifth more without a gap is the end of them
            return last + 1
        end *= 2
    raise NoPlan(
        f"more than {MOST:,} patients would be needed to tell {expected:g} from {bound:g}; take a lower bound"
    )


def steps(expected: float, bound: float) -> tuple[Step, ...]:
    """What STEPS patients give."""
    rows = []
    for n in STEPS:
        found = round(expected * n)
        estimate = wilson(found, n)
        chance = float(chance_to_pass(expected, bound, n)[0])
        rows.append(Step(n, found, estimate.low or 0.0, estimate.high or 0.0, chance))
    return tuple(rows)


def template(
    package: str, sha256: str, classes: tuple[str, ...], bound: float, positives: int, negatives: int
) -> str:
    """A protocol to fill in, with a comment on every choice."""
    rarest = classes[1] if len(classes) > 1 else classes[0]
    return f'''# The acceptance protocol. Change it now: after the run has begun, a changed file is another protocol.
name = "Acceptance of {package}"
date = 2000-01-01  # the day it was agreed on
# written_by = "A. Name"  # who answers for it
# role = "medical physics"
package = "{package}"
sha256 = "{sha256}"  # of its weights (`hipnode models show`); without this line any weights of that name

unit = "hip"  # what a row of the labels is: hip, image or patient
view = "single-label"  # what the node writes: the best class of a hip; multi-label: each class by itself
not_read = "wrong"  # a film without an answer counts as a wrong answer; or: "left out"
seed = 1
resamples = 2000

[thresholds]
from = "package"  # as the node fires; "protocol": values = {{DF = 0.3}}; "validation": chosen on that part

[minimum]  # patients; with fewer the outcome is "not enough cases", no pass and no fail
positives = {positives}  # with the class a hypothesis is about
negatives = {negatives}  # without it

# All hypotheses must hold. A bound is reached when the lower limit of the 95 % interval is above it.
[[hypotheses]]
metric = "sensitivity"  # sensitivity, specificity, auc, right_place or unread
class = "any"  # any fracture, or one of {", ".join(classes)}
bound = {bound:g}

[[hypotheses]]
metric = "specificity"
class = "any"
bound = {bound:g}

# [[hypotheses]]
# metric = "sensitivity"
# class = "{rarest}"
# bound = {bound:g}
# minimum = {positives}

[strata]
columns = []  # columns of the labels, such as ["sex", "age", "manufacturer", "implant"]
fewest = 20  # units a subgroup needs to be able to fail the run
flagged = "note"  # a subgroup that is worse is printed; "fail": it fails the run

# Films changed on purpose; only with --data. What they may cost is judged on the same films in pairs.
# [[stress]]
# transform = "rotation"  # rotation, crop, exposure, inversion, noise, burnt_in_text
# levels = [5]
# largest_drop = 0.05  # of sensitivity and of specificity

# [[stress]]
# transform = "wrong_body_part"  # must be refused; DICOM films only
# levels = [1]
# refused = 1.0
'''
