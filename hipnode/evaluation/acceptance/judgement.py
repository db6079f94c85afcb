"""The judgement of an acceptance run: the package's answers against a frozen protocol. Pure.

Every hypothesis must hold. Each is tested at the one-sided level of 2.5 % (the lower limit of a two-sided
95 % interval), and because all must hold, a package that misses one of the bounds passes with no greater chance
than that, about 2.5 %, without a correction for their number (intersection-union test, Berger, Technometrics
1982;24:295-300).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.acceptance.protocol import ANY, Hypothesis, Protocol, Stress
from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.intervals import OF_NOTHING, number_of_patients, share_by_patient
from hipnode.evaluation.statistics.roc import auc
from hipnode.status import AcceptanceOutcome

NOT_GIVEN = "(not given)"
SLACK = 1e-12  # a drop of exactly what is allowed is allowed, whatever its last binary digit
WORST, BEST = -1.0, 2.0  # scores outside 0..1, for units without an answer where those count as wrong


class Verdict(StrEnum):
    """What came of one hypothesis."""

    HOLDS = "holds"
    NOT_SHOWN = "not shown"  #: the interval reaches to the wrong side of the bound, the value may not
    DOES_NOT_HOLD = "does not hold"  #: the value lies on the wrong side of the bound
    TOO_FEW = "not enough cases"


@dataclass(frozen=True, eq=False)
class Answers:
    """What a package said of n units, K classes.

    patients: (n,) one name per unit
    truth: (n, K) bool, the reference
    scores: (n, K) float in 0..1
    called: (n, K) bool, in the view of the protocol
    placed: (n, K) bool, called and in the right place; None where the tables have no boxes
    read: (n,) bool, whether the package answered at all; what stands in the other rows is not looked at
    """

    classes: tuple[str, ...]
    patients: NDArray[np.str_]
    truth: NDArray[np.bool_]
    scores: NDArray[np.float64]
    called: NDArray[np.bool_]
    placed: NDArray[np.bool_] | None
    read: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n, k = len(self.patients), len(self.classes)
        shapes = {self.truth.shape, self.scores.shape, self.called.shape}
        if shapes != {(n, k)} or self.read.shape != (n,):
            raise ValueError(
                f"answers of {n} units and {k} classes have the shapes {shapes}, {self.read.shape}"
            )

    def take(self, which: NDArray[np.bool_]) -> "Answers":
        """Those of a mask (n,)."""
        return replace(
            self,
            patients=self.patients[which],
            truth=self.truth[which],
            scores=self.scores[which],
            called=self.called[which],
            placed=None if self.placed is None else self.placed[which],
            read=self.read[which],
        )

    def of(self, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
        """(truth, called, score), (n,) each, of a class or of any fracture (its score: the best class's)."""
        if name != ANY:
            k = self.classes.index(name)
            return self.truth[:, k], self.called[:, k] & self.read, self.scores[:, k]
        truth = np.asarray(self.truth.any(axis=1))
        return truth, self.called.any(axis=1) & self.read, self.scores.max(axis=1)


@dataclass(frozen=True)
class Judgement:
    """One hypothesis, its number and what came of it.

    positives, negatives: patients with the class among the units, and without it
    says: the verdict as one sentence for a reader who is no statistician
    """

    hypothesis: Hypothesis
    estimate: Estimate
    positives: int
    negatives: int
    verdict: Verdict
    says: str


@dataclass(frozen=True)
class StratumJudgement:
    """One subgroup and one number of any fracture, against that of all units.

    flagged: "worse" or "better" where the interval excludes the overall value, else ""
    fails: whether the protocol lets it fail the run
    """

    column: str
    value: str
    metric: str
    estimate: Estimate
    overall: float | None
    flagged: str
    fails: bool


@dataclass(frozen=True)
class StressJudgement:
    """One number of any fracture on films changed in one way at one level.

    metric: sensitivity, specificity or refused (for a change after which a film must not be read)
    changed: the number on the changed films; difference: changed minus untouched, over the same units in
        pairs, None for refused
    """

    stress: Stress
    level: float
    metric: str
    changed: Estimate
    difference: Estimate | None
    verdict: Verdict

    @property
    def says(self) -> str:
        """What was allowed and what was found, as a sentence."""
        what = f"{self.stress.transform.replace('_', ' ')} {self.level:g}"
        if self.verdict is Verdict.TOO_FEW:
            return f"{what}: no unit to measure {self.metric} on."
        if self.difference is None:
            return f"{what}: {shown(self.changed)} refused; needed is {self.stress.refused:g}."
        drop = self.stress.largest_drop or 0.0
        return f"{what}: {self.metric} changes by {shown(self.difference, share=False)}; allowed is a drop of {drop:g}."


@dataclass(frozen=True)
class Acceptance:
    """The whole judgement. reasons: why it is no pass, one sentence each; empty for a pass."""

    outcome: AcceptanceOutcome
    judgements: tuple[Judgement, ...]
    strata: tuple[StratumJudgement, ...]
    stress: tuple[StressJudgement, ...]
    reasons: tuple[str, ...]


def judge(
    protocol: Protocol,
    answers: Answers,
    strata: Mapping[str, Sequence[str | None]],
    stress: Sequence[StressJudgement] = (),
) -> Acceptance:
    """Hold the answers against the protocol.

    strata: column -> (n,) values, for each column the protocol names
    stress: what `judge_stress` found, for each the protocol names
    """
    judgements = tuple(judge_hypothesis(protocol, one, answers) for one in protocol.hypotheses)
    subgroups = tuple(
        row
        for column in protocol.strata.columns
        for row in _stratum(protocol, answers, column, strata[column])
    )
    missing = [j.says for j in judgements if j.verdict is Verdict.TOO_FEW]
    failed = [j.says for j in judgements if j.verdict in (Verdict.NOT_SHOWN, Verdict.DOES_NOT_HOLD)]
    failed += [
        f"{row.column} {row.value}: {row.metric} {shown(row.estimate)} is worse than that of all units "
        f"({row.overall:.3f})."
        for row in subgroups
        if row.fails and row.overall is not None
    ]
    failed += [s.says for s in stress if s.verdict in (Verdict.NOT_SHOWN, Verdict.DOES_NOT_HOLD)]
    missing += [s.says for s in stress if s.verdict is Verdict.TOO_FEW]
    if failed:  # all must hold, so one that does not settles it, whatever the others may lack
        outcome = AcceptanceOutcome.FAIL
    elif missing:
        outcome = AcceptanceOutcome.NOT_ENOUGH
    else:
        outcome = AcceptanceOutcome.PASS
    return Acceptance(outcome, judgements, subgroups, tuple(stress), tuple(failed + missing))


def judge_hypothesis(protocol: Protocol, one: Hypothesis, answers: Answers) -> Judgement:
    """One hypothesis against the answers."""
    counted = (
        answers if protocol.not_read == "wrong" or one.metric == "unread" else answers.take(answers.read)
    )
    positives, negatives = patients_with_and_without(one, counted.patients, counted.truth, answers.classes)
    estimate = measured(protocol, one.metric, one.class_name, answers)
    short = shortage(protocol, one, counted.patients, counted.truth, answers.classes)
    if short or estimate.value is None:
        why = short or f"there is no number ({estimate.method})"
        says = f"{one.says}: not enough cases; {why}."
        return Judgement(one, estimate, positives, negatives, Verdict.TOO_FEW, says)
    verdict = held(estimate, one.bound, one.by, below=one.below)
    edge = estimate.high if one.below else estimate.low
    words = {
        Verdict.HOLDS: "holds",
        Verdict.NOT_SHOWN: f"not shown; so many cases leave it possible that it is {edge or 0.0:.3f}",
        Verdict.DOES_NOT_HOLD: "does not hold",
    }[verdict]
    says = f"{one.says}: {words}. Found {shown(estimate, share=one.metric != 'auc')}."
    return Judgement(one, estimate, positives, negatives, verdict, says)


def held(estimate: Estimate, bound: float, by: str, *, below: bool = False) -> Verdict:
    """Which side of the bound an estimate is on: the whole interval, or with by="value" the value."""
    value, edge = estimate.value, estimate.high if below else estimate.low
    if value is None or (by == "lower limit" and edge is None):
        return Verdict.TOO_FEW
    if (value >= bound) if below else (value <= bound):
        return Verdict.DOES_NOT_HOLD
    if by == "value":
        return Verdict.HOLDS
    assert edge is not None  # noqa: S101  (looked at above)
    return Verdict.HOLDS if ((edge < bound) if below else (edge > bound)) else Verdict.NOT_SHOWN


def measured(protocol: Protocol, metric: str, name: str, answers: Answers) -> Estimate:
    """The number of a metric for a class or ANY, units without an answer counted as the protocol says."""
    wrong = protocol.not_read == "wrong"
    if metric == "unread":
        return share_by_patient(~answers.read, answers.patients)
    if not wrong:
        answers = answers.take(answers.read)
    truth, called, score = answers.of(name)
    if metric == "auc":
        score = np.where(answers.read, score, np.where(truth, WORST, BEST))
        return auc(truth, score, answers.patients, seed=protocol.seed, resamples=protocol.resamples)
    if metric == "specificity":
        return share_by_patient((~called & answers.read)[~truth], answers.patients[~truth])
    if metric == "right_place":
        if answers.placed is None:
            return undefined(int(truth.sum()), None, "no boxes in labels or predictions")
        placed = answers.placed if name == ANY else answers.placed[:, [answers.classes.index(name)]]
        called = placed.any(axis=1) & answers.read
    return share_by_patient(called[truth], answers.patients[truth])


def judge_stress(stress: Stress, level: float, untouched: Answers, changed: Answers) -> list[StressJudgement]:
    """Sensitivity and specificity of any fracture on changed films against the same films untouched.

    untouched, changed: the same units in the same order.
    """
    rows = []
    truth = untouched.of(ANY)[0]
    for metric, which in (("sensitivity", truth), ("specificity", ~truth)):
        before, after = untouched.take(which), changed.take(which)
        good_before, good_after = (_good(metric, one) for one in (before, after))
        difference = paired_difference(good_after, good_before, before.patients)
        rows.append(
            StressJudgement(
                stress,
                level,
                metric,
                share_by_patient(good_after, before.patients),
                difference,
                held(difference, -(stress.largest_drop or 0.0) - SLACK, stress.by),
            )
        )
    return rows


def judge_refusal(stress: Stress, level: float, refused: Estimate) -> StressJudgement:
    """Films that must be refused: the share that was, which may be the bound itself."""
    verdict = held(refused, (stress.refused or 1.0) - SLACK, stress.by)
    return StressJudgement(stress, level, "refused", refused, None, verdict)


def paired_difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], patients: NDArray[np.str_]
) -> Estimate:
    """Share of first minus share of second on the same units; events are the units that differ.

    Interval: Agresti and Min, Stat Med 2005;24:729-40 (half a unit added to each cell of the table of pairs), so
    that few or no units that differ leave it some width. Where patients have several units, the units are divided
    by the design effect of the difference, never below 1; without any that differ the patients count as n.
    """
    n = len(first)
    if n == 0:
        return undefined(0, 0, OF_NOTHING)
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    value, count = (gained - lost) / n, number_of_patients(patients, n)
    effect = 1.0
    if count < n:
        plain = (gained + lost - (gained - lost) ** 2 / n) / n**2
        if plain > 0 and count > 1:
            codes = np.unique(patients, return_inverse=True)[1]
            apart = np.bincount(codes, first.astype(float) - second - value, minlength=count)
            effect = max(1.0, count / (count - 1) * float((apart**2).sum()) / n**2 / plain)
        else:
            effect = n / count
    cells, units = np.array([gained, lost]) / effect + 0.5, n / effect + 2
    middle = float(cells[0] - cells[1]) / units
    half = 1.96 * float(np.sqrt(cells.sum() - (cells[0] - cells[1]) ** 2 / units)) / units
    method = "paired, Agresti-Min" + (
        f", design effect {effect:.2f} of {count} patients" if count < n else ""
    )
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Estimate(value, min(low, value), max(high, value), n, gained + lost, method)


def patients_with_and_without(
    one: Hypothesis, patients: NDArray[np.str_], truth: NDArray[np.bool_], classes: Sequence[str]
) -> tuple[int, int]:
    """How many patients have a unit with the class of a hypothesis, and how many one without it."""
    has = truth.any(axis=1) if one.class_name == ANY else truth[:, list(classes).index(one.class_name)]
    return len(set(patients[has].tolist())), len(set(patients[~has].tolist()))


def shortage(
    protocol: Protocol,
    one: Hypothesis,
    patients: NDArray[np.str_],
    truth: NDArray[np.bool_],
    classes: Sequence[str],
) -> str:
    """What a hypothesis lacks, in words; "" where there are enough patients. It looks at no answer."""
    with_, without = protocol.needed(one)
    if one.metric == "unread":
        count, needed = len(set(patients.tolist())), with_ + without
        return f"{count} patients of {needed} needed" if count < needed else ""
    positives, negatives = patients_with_and_without(one, patients, truth, classes)
    kind = "a fracture" if one.class_name == ANY else one.class_name
    lacking = []
    if positives < with_:
        lacking.append(f"{positives} patients with {kind} of {with_} needed")
    if negatives < without:
        lacking.append(f"{negatives} patients without {kind} of {without} needed")
    return " and ".join(lacking)


def case_key(image_uid: str | None, file: str | None, hip: str | None, case_id: str) -> str:
    """The hash by which the ledger knows a test case again: its image and hip, or its name where it has none."""
    side = hip or ""
    what = f"image {image_uid} {side}" if image_uid else f"file {file} {side}" if file else f"case {case_id}"
    return hashlib.sha256(what.encode()).hexdigest()


def shown(estimate: Estimate, *, share: bool = True) -> str:
    """An estimate in words: value and interval, and of a share the counts before them."""
    if estimate.value is None:
        return f"no value ({estimate.method})"
    interval = "" if estimate.low is None else f" (95 % interval {estimate.low:.3f} to {estimate.high:.3f})"
    number = f"{estimate.value:.3f}{interval}"
    if share and estimate.events is not None:
        return f"{estimate.events} of {estimate.n}, {number}"
    return f"{number}, n {estimate.n}"


def _good(metric: str, answers: Answers) -> NDArray[np.bool_]:
    called = answers.of(ANY)[1]
    return called if metric == "sensitivity" else ~called & answers.read


def _stratum(
    protocol: Protocol, answers: Answers, column: str, values: Sequence[str | None]
) -> list[StratumJudgement]:
    named = np.array([value if value else NOT_GIVEN for value in values])
    rows = []
    # "<50" before "50-64", what was not given last
    for value in sorted(set(named.tolist()), key=lambda v: (v == NOT_GIVEN, not v.startswith("<"), v)):
        part = answers.take(named == value)
        for metric in ("sensitivity", "specificity"):
            overall = measured(protocol, metric, ANY, answers).value
            estimate = measured(protocol, metric, ANY, part)
            flagged = ""
            if overall is not None and estimate.low is not None and estimate.high is not None:
                flagged = "worse" if estimate.high < overall else "better" if estimate.low > overall else ""
            fails = protocol.strata.flagged == "fail" and flagged == "worse"
            fails = fails and estimate.n >= protocol.strata.fewest
            rows.append(StratumJudgement(column, value, metric, estimate, overall, flagged, fails))
    return rows
