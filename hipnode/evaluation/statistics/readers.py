"""Human readers without and with AI: what each did, what changed, and whether it can be chance. Pure.

One yes/no question at a time (a class, or any fracture). A study with one condition only leaves the other
unread; what needs both is then undefined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import wilcoxon
from statsmodels.stats import contingency_tables

from hipnode.evaluation.statistics.counts import Counts, proportions_by_patient
from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.intervals import Method, share_by_patient, strata_when_few
from hipnode.evaluation.statistics.resampling import (
    DEFAULT_RESAMPLES,
    bootstrap_weights,
    codes_of,
    percentile_interval,
)

NO_AI, AI = "no_ai", "ai"
CONDITIONS = (NO_AI, AI)
UNREAD = -1
EXACT_BELOW = 25  # discordant pairs
Metric = Literal["sensitivity", "specificity", "accuracy"]
NOT_READ = "undefined: no such case was read"


@dataclass(frozen=True, eq=False)
class Panel:
    """All reads of one question.

    answers: (2, readers, cases) int8: 1 yes, 0 no, -1 not read; first without AI, then with it
    truth: (cases,) bool; patients: (cases,) int64, the number of each case's patient
    """

    readers: tuple[str, ...]
    cases: tuple[str, ...]
    answers: NDArray[np.int8]
    truth: NDArray[np.bool_]
    patients: NDArray[np.int64]

    def row(self, reader: str) -> int:
        """The reader's row. Raises ValueError for a name that is not on the panel."""
        if reader not in self.readers:
            raise ValueError(f"no reader {reader!r}; the panel has {', '.join(self.readers)}")
        return self.readers.index(reader)


@dataclass(frozen=True)
class ReaderResult:
    """One reader in one condition: the 2 x 2 table and its proportions by name (by patient)."""

    reader: str
    condition: str
    counts: Counts
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class Spread:
    """Mean and sample SD (n - 1) of a metric over the readers; None where no (or one) reader has a value."""

    metric: Metric
    condition: str
    mean: float | None
    sd: float | None
    readers: int


@dataclass(frozen=True)
class McNemar:
    """A test on discordant pairs. lost: right without AI and wrong with it; gained: the other way round.

    p: two-sided; None where no pair is discordant.
    """

    lost: int
    gained: int
    p: float | None
    method: str


@dataclass(frozen=True)
class Changes:
    """What one reader did with the AI, among cases of one truth where the AI was right, or was wrong.

    harmed: correct to wrong; corrected: wrong to correct
    harm, benefit: harmed among those right before, corrected among those wrong before (Wilson). Harm where
        the AI was wrong is automation bias; benefit where it was right is what AI is for.
    """

    reader: str
    fracture: bool
    ai_right: bool
    stayed_right: int
    harmed: int
    corrected: int
    stayed_wrong: int
    harm: Estimate
    benefit: Estimate


@dataclass(frozen=True)
class ReadingTime:
    """Seconds per case of one reader, on the cases timed in both conditions.

    without_ai, with_ai: (first quartile, median, third quartile)
    p: Wilcoxon's signed rank test, two-sided; None where no time differs
    """

    reader: str
    n: int
    without_ai: tuple[float, float, float] | None
    with_ai: tuple[float, float, float] | None
    median_difference: float | None
    p: float | None


def panel(
    case_ids: Sequence[str],
    reader_ids: Sequence[str],
    conditions: Sequence[str],
    yes: Sequence[bool],
    truth: Mapping[str, bool],
    patients: Mapping[str, str] | None = None,
) -> Panel:
    """Reads, one per row, become a panel. truth, patients: case id -> reference, patient id.

    The cases are those of `truth`, in its order. Raises ValueError with all that is wrong: a case without
    truth, a condition that is neither no_ai nor ai, a case read twice by one reader in one condition.
    """
    cases = {case: i for i, case in enumerate(truth)}
    readers = {reader: i for i, reader in enumerate(sorted(set(reader_ids)))}
    answers = np.full((2, len(readers), len(cases)), UNREAD, dtype=np.int8)
    wrong = []
    for case, reader, condition, answer in zip(case_ids, reader_ids, conditions, yes, strict=True):
        if case not in cases:
            wrong.append(f"case {case} of reader {reader} has no reference")
        elif condition not in CONDITIONS:
            wrong.append(f"condition {condition!r} of case {case} is neither no_ai nor ai")
        elif answers[at := (CONDITIONS.index(condition), readers[reader], cases[case])] != UNREAD:
            wrong.append(f"case {case} was read twice by reader {reader} in condition {condition}")
        else:
            answers[at] = bool(answer)
    if patients is not None:
        wrong += [f"case {case} has no patient" for case in cases if case not in patients]
    if wrong:
        raise ValueError("; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" if len(wrong) > 20 else ""))
    names = None if patients is None else [patients[case] for case in cases]
    reference = np.array([bool(v) for v in truth.values()], dtype=np.bool_)
    return Panel(tuple(readers), tuple(cases), answers, reference, codes_of(names, len(cases)))


def per_reader(reads: Panel, method: Method = "wilson") -> tuple[ReaderResult, ...]:
    """Each reader's table in each condition in which the reader read anything. method: of the intervals"""
    rows = []
    for c, condition in enumerate(CONDITIONS):
        for reader, answers in zip(reads.readers, reads.answers[c], strict=True):
            if (answers == UNREAD).all():
                continue
            tp, fn, fp, tn = (
                int(((answers == answer) & (reads.truth == there)).sum())
                for answer, there in ((1, True), (0, True), (1, False), (0, False))
            )
            there = answers != UNREAD
            estimates = proportions_by_patient(
                reads.truth[there], answers[there] == 1, reads.patients[there], method
            )
            rows.append(ReaderResult(reader, condition, Counts(tp, fn, fp, tn), estimates))
    return tuple(rows)


def spread(reads: Panel, metric: Metric, condition: str) -> Spread:
    """Mean and SD of a metric over readers, each reader one value."""
    right, read = _right(reads, metric)
    c = CONDITIONS.index(condition)
    counts = read[c].sum(axis=1)
    values = right[c].sum(axis=1)[counts > 0] / counts[counts > 0]
    mean = float(values.mean()) if len(values) else None
    return Spread(
        metric, condition, mean, float(values.std(ddof=1)) if len(values) > 1 else None, len(values)
    )


def reader_difference(
    reads: Panel, reader: str, metric: Metric, *, seed: int = 0, resamples: int = DEFAULT_RESAMPLES
) -> Estimate:
    """One reader's metric with AI minus without, on the cases read in both; paired bootstrap of patients.

    events: discordant pairs.
    """
    row = reads.row(reader)
    return reader_differences(reads, metric, seed=seed, resamples=resamples)[row]


def reader_differences(
    reads: Panel, metric: Metric, *, seed: int = 0, resamples: int = DEFAULT_RESAMPLES
) -> tuple[Estimate, ...]:
    """`reader_difference` of every reader, in their order, from resamples that are drawn once."""
    right, read = _paired(reads, metric)
    draws = _differences(reads, right, read, seed, resamples)
    made = []
    for row in range(len(reads.readers)):
        n = int(read[row].sum())
        discordant = int((right[0, row] != right[1, row]).sum())
        if not n:
            made.append(undefined(0, 0, NOT_READ))
            continue
        value = float((right[1, row].sum() - right[0, row].sum()) / n)
        patients = len(np.unique(reads.patients[read[row]]))
        low, high, method = percentile_interval(draws[:, row], f"{patients} patients")
        made.append(Estimate(value, low, high, n, discordant, method if low is None else f"paired {method}"))
    return tuple(made)


def mean_difference(
    reads: Panel, metric: Metric, *, seed: int = 0, resamples: int = DEFAULT_RESAMPLES
) -> Estimate:
    """The readers' mean metric with AI minus without: two-way bootstrap, readers and patients drawn alike.

    The built-in stand-in for an MRMC analysis with random readers and random cases; its variance is somewhat
    too large, never too small, for both factors together (Owen, Ann Appl Stat 2007;1:386-411). n: paired
    reads; events: discordant pairs. No interval for one reader: there is no sample of readers.
    """
    right, read = _paired(reads, metric)
    there = read.any(axis=1)
    right, read = right[:, there], read[there]
    n, discordant = int(read.sum()), int((right[0] != right[1]).sum())
    if not n:
        return undefined(0, 0, NOT_READ)
    value = float(((right[1].sum(axis=1) - right[0].sum(axis=1)) / read.sum(axis=1)).mean())
    count = len(read)
    if count < 2:
        return Estimate(value, None, None, n, discordant, "no interval: one reader only")
    differences = _differences(reads, right, read, seed, resamples)  # (resamples, readers)
    generator = np.random.default_rng([seed, 1])  # not the stream that drew the patients
    times = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn = np.where(times > 0, np.nan_to_num(differences), 0.0)
    lost = ((times > 0) & np.isnan(differences)).any(axis=1)
    draws = np.where(lost, np.nan, (times * drawn).sum(axis=1) / count)
    patients = len(np.unique(reads.patients[read.any(axis=0)]))
    low, high, method = percentile_interval(draws, f"{count} readers and {patients} patients")
    return Estimate(value, low, high, n, discordant, method if low is None else f"two-way {method}")


def mcnemar(lost: int, gained: int) -> McNemar:
    """McNemar's test (Psychometrika 1947;12:153-7): exact below 25 discordant pairs, else with correction."""
    if lost < 0 or gained < 0:
        raise ValueError("numbers of pairs are not negative")
    if not lost + gained:
        return McNemar(0, 0, None, "no discordant pair")
    exact = lost + gained < EXACT_BELOW
    result = contingency_tables.mcnemar([[0, lost], [gained, 0]], exact=exact, correction=True)
    return McNemar(lost, gained, float(result.pvalue), "exact" if exact else "chi-square with correction")


def mcnemar_of(reads: Panel, reader: str, metric: Metric) -> McNemar:
    """McNemar for one reader: sensitivity takes the fracture cases, specificity the others, accuracy all."""
    right, _ = _paired(reads, metric)
    before, after = right[:, reads.row(reader)]
    return mcnemar(int((before & ~after).sum()), int((~before & after).sum()))


def changed_decisions(reads: Panel, ai_yes: ArrayLike) -> tuple[Changes, ...]:
    """(before, after) by truth and by whether the AI was right, per reader. ai_yes: (cases,) the AI's answer."""
    ai = np.asarray(ai_yes)
    if ai.shape != reads.truth.shape or not np.isin(ai, (0, 1)).all():
        raise ValueError(f"the AI needs one yes or no for each of {len(reads.cases)} cases")
    ai_right = ai.astype(np.bool_) == reads.truth
    right, read = _paired(reads, "accuracy")
    rows = []
    for r, reader in enumerate(reads.readers):
        for there, helped in ((t, h) for t in (True, False) for h in (True, False)):
            here = read[r] & (reads.truth == there) & (ai_right == helped)
            before, after = right[0, r][here], right[1, r][here]
            kept, harmed = int((before & after).sum()), int((before & ~after).sum())
            corrected, stayed = int((~before & after).sum()), int((~before & ~after).sum())
            owners = reads.patients[here]
            harm = share_by_patient(~after[before], owners[before])
            benefit = share_by_patient(after[~before], owners[~before])
            rows.append(Changes(reader, there, helped, kept, harmed, corrected, stayed, harm, benefit))
    return tuple(rows)


def reading_time(reader: str, without_ai: ArrayLike, with_ai: ArrayLike) -> ReadingTime:
    """Medians, quartiles and the paired test of the seconds of the same cases; NaN where not timed."""
    before, after = np.asarray(without_ai, dtype=np.float64), np.asarray(with_ai, dtype=np.float64)
    if before.ndim != 1 or before.shape != after.shape:
        raise ValueError(f"paired times have one length, not {before.shape} and {after.shape}")
    timed = np.isfinite(before) & np.isfinite(after)
    before, after = before[timed], after[timed]
    if (before < 0).any() or (after < 0).any():
        raise ValueError("a reading time is not negative")
    if not len(before):
        return ReadingTime(reader, 0, None, None, None, None)
    change = after - before
    p = float(wilcoxon(change[change != 0]).pvalue) if change.any() else None
    return ReadingTime(
        reader, len(change), _quartiles(before), _quartiles(after), float(np.median(change)), p
    )


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, median, third = np.percentile(values, [25, 50, 75])
    return float(first), float(median), float(third)


def _right(reads: Panel, metric: Metric) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(2, readers, cases): which reads were right, and which count for the metric at all."""
    asked = {
        "sensitivity": reads.truth,
        "specificity": ~reads.truth,
        "accuracy": np.ones_like(reads.truth),
    }
    if metric not in asked:
        raise ValueError(f"a reader has a sensitivity, specificity or accuracy, not {metric!r}")
    read = (reads.answers != UNREAD) & asked[metric]
    return read & ((reads.answers == 1) == reads.truth), read


def _paired(reads: Panel, metric: Metric) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(2, readers, cases) right and (readers, cases) read in both conditions."""
    right, read = _right(reads, metric)
    both = np.asarray(read.all(axis=0))
    return right & both, both


def _differences(
    reads: Panel, right: NDArray[np.bool_], read: NDArray[np.bool_], seed: int, resamples: int
) -> NDArray[np.float64]:
    """(resamples, readers) with AI minus without; NaN where a resample has no case of a reader."""
    gained = (right[1].astype(np.float64) - right[0]).T  # (cases, readers)
    drawn = []
    rare = strata_when_few(reads.truth)
    for weights in bootstrap_weights(reads.patients, seed=seed, resamples=resamples, strata=rare):
        total = weights @ read.T.astype(np.float64)
        drawn.append(np.divide(weights @ gained, total, out=np.full_like(total, np.nan), where=total > 0))
    return np.concatenate(drawn)
