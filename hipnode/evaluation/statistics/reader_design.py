"""What the design of a reader study allows, and its reads in the form the R packages for MRMC take. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hipnode.evaluation.statistics.readers import AI, CONDITIONS, NO_AI

ENOUGH_WASHOUT_DAYS = 28  # the usual four weeks between two readings of a case
PREVALENCE_FACTOR = 2.0  # further from the clinic than this, predictive values do not carry over
Key = tuple[str, str]


@dataclass(frozen=True)
class Read:
    """One reading of one case.

    phase: session; names sort in order of time. order: place in the reader's list of that phase
    confidence: any rating, higher for more likely yes
    """

    case_id: str
    reader_id: str
    condition: str
    yes: bool
    phase: str | None = None
    order: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class DesignCheck:
    """One property of the design. state: ok, or note where it limits what the numbers can say."""

    name: str
    state: Literal["ok", "note"]
    says: str


@dataclass(frozen=True)
class RTable:
    """A table to write as CSV and read in R. columns: names as the package wants them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


def design_checks(
    reads: Sequence[Read],
    truth: Mapping[str, bool],
    *,
    washout_days: float | None = None,
    clinic_prevalence: float | None = None,
) -> tuple[DesignCheck, ...]:
    """What a reader of the results must know about how the reads were made.

    truth: case id -> reference. washout_days: between a reader's two readings of one case, as the study says.
    """
    unknown = sorted({r.condition for r in reads} - set(CONDITIONS))
    if unknown:
        raise ValueError(f"a condition is no_ai or ai, not {', '.join(unknown)}")
    if clinic_prevalence is not None and not 0 < clinic_prevalence < 1:
        raise ValueError(f"a prevalence lies between 0 and 1, not at {clinic_prevalence:g}")
    return (
        _crossed(reads, truth),
        _condition_order(reads),
        _case_order(reads),
        _washout(reads, washout_days),
        _prevalence(truth, clinic_prevalence),
    )


def mrmcaov_table(reads: Sequence[Read], truth: Mapping[str, bool]) -> RTable:
    """The long table of R's MRMCaov: mrmc(binary_sens(truth, rating), treatment, reader, case, data).

    rating is the confidence where every read has one (then empirical_auc(truth, rating) makes sense), else
    the answer as 1 and 0.
    """
    ratings = _ratings(reads)
    rows = tuple(
        (r.reader_id, r.condition, r.case_id, int(_truth_of(truth, r.case_id)), rating)
        for r, rating in zip(reads, ratings, strict=True)
    )
    return RTable(
        ("reader", "treatment", "case", "truth", "rating"), tuple(sorted(rows, key=lambda row: row[:3]))
    )


def imrmc_table(reads: Sequence[Read], truth: Mapping[str, bool]) -> RTable:
    """The table of R's iMRMC doIMRMC(): first a truth row for every case, then the reads."""
    for r in reads:
        _truth_of(truth, r.case_id)
    if any(r.reader_id in ("truth", "-1") for r in reads):
        raise ValueError(
            "iMRMC keeps the reader names truth and -1 for the reference; give the reader another name"
        )
    read = {r.case_id for r in reads}
    reference = tuple(("truth", case, "truth", int(there)) for case, there in truth.items() if case in read)
    answers = ((r.reader_id, r.case_id, r.condition, x) for r, x in zip(reads, _ratings(reads), strict=True))
    return RTable(
        ("readerID", "caseID", "modalityID", "score"), reference + tuple(sorted(answers, key=lambda a: a[:3]))
    )


def imrmc_text(reads: Sequence[Read], truth: Mapping[str, bool]) -> str:
    """The .imrmc file of the iMRMC application, which R's RJafroc reads: DfReadDataFile(name, format = "iMRMC").

    Both want numbers for names: cases count from 1 in the order of `truth`, readers from 1 in the order of
    their names, condition 1 is no_ai and 2 is ai. Raises ValueError where a read is missing or there twice;
    RJafroc takes a fully crossed study only.
    """
    readers = {name: i for i, name in enumerate(sorted({r.reader_id for r in reads}), start=1)}
    used = [c for c in CONDITIONS if any(r.condition == c for r in reads)]
    cases = {case: i for i, case in enumerate(truth, start=1)}
    for r in reads:
        _truth_of(truth, r.case_id)
    lines = sorted(
        (readers[r.reader_id], cases[r.case_id], CONDITIONS.index(r.condition) + 1, rating)
        for r, rating in zip(reads, _ratings(reads), strict=True)
    )
    places = {line[:3] for line in lines}
    wanted = len(readers) * len(used) * len(cases)
    if not wanted or len(places) != wanted or len(lines) != wanted:
        raise ValueError(
            f"{len(places)} of {wanted} reads are there, {len(lines) - len(places)} twice; RJafroc needs every "
            "reader to read every case once in every condition"
        )
    positives = sum(map(bool, truth.values()))
    head = [f"NR: {len(readers)}", f"N0: {len(cases) - positives}", f"N1: {positives}", f"NM: {len(used)}"]
    reference = [f"-1,{number},0,{int(truth[case])}" for case, number in cases.items()]
    body = [",".join(map(str, line)) for line in lines]
    return "\n".join(["Reader study", "", *head, "", "BEGIN DATA:", *reference, *body, ""])


def _ratings(reads: Sequence[Read]) -> list[float]:
    given = [r.confidence for r in reads if r.confidence is not None]
    return given if len(given) == len(reads) else [int(r.yes) for r in reads]


def _truth_of(truth: Mapping[str, bool], case: str) -> bool:
    if case not in truth:
        raise ValueError(f"case {case} was read and has no reference")
    return bool(truth[case])


def _crossed(reads: Sequence[Read], truth: Mapping[str, bool]) -> DesignCheck:
    readers = {r.reader_id for r in reads}
    used = [c for c in CONDITIONS if any(r.condition == c for r in reads)]
    wanted = len(readers) * len(used) * len(truth)
    done = len({(r.reader_id, r.condition, r.case_id) for r in reads if r.case_id in truth})
    if len(used) < 2:
        only = "with AI" if used == [AI] else "without AI" if used else "at all"
        words = f"No case was read {'in the other condition' if used else only}"
        words += f": all reads are {only}; they say nothing about what AI changes." if used else "."
        return DesignCheck("crossed", "note", words)
    if done == wanted:
        return DesignCheck(
            "crossed",
            "ok",
            f"Every one of {len(readers)} readers read all {len(truth)} cases in both conditions.",
        )
    return DesignCheck(
        "crossed",
        "note",
        f"{wanted - done} of {wanted} reads are missing; paired numbers use the cases read in both conditions.",
    )


def _condition_order(reads: Sequence[Read]) -> DesignCheck:
    """Which condition came first for each reader and case, by phase where it tells, else by order."""
    places: dict[Key, dict[str, tuple[str, float] | None]] = defaultdict(dict)
    for r in reads:
        known = r.phase is not None or r.order is not None
        places[r.reader_id, r.case_id][r.condition] = (r.phase or "", r.order or 0.0) if known else None
    pairs = {key: both for key, both in places.items() if len(both) == 2}
    first: dict[Key, str] = {}
    for key, both in pairs.items():
        before, after = both[NO_AI], both[AI]
        if before is not None and after is not None and before != after:
            first[key] = NO_AI if before < after else AI
    name = "counterbalancing"
    if not pairs:
        return DesignCheck(name, "note", "No case was read in both conditions by one reader.")
    if len(first) < len(pairs):
        return DesignCheck(
            name,
            "note",
            f"The order of the conditions is not known for {len(pairs) - len(first)} of {len(pairs)} pairs of "
            "reads; an effect of order cannot be told from an effect of AI.",
        )
    unaided = sum(condition == NO_AI for condition in first.values())
    share = f"{unaided} of {len(first)} pairs were read without AI first"
    if 0.4 <= unaided / len(first) <= 0.6:
        return DesignCheck(name, "ok", f"Counterbalanced: {share}.")
    return DesignCheck(
        name, "note", f"Not counterbalanced: {share}; practice and memory are part of the difference."
    )


def _case_order(reads: Sequence[Read]) -> DesignCheck:
    lists: dict[Key, list[tuple[float, str]]] = defaultdict(list)
    for r in reads:
        if r.order is None:
            return DesignCheck("case-order", "note", "The order of the cases is not recorded for every read.")
        lists[r.reader_id, r.condition].append((r.order, r.case_id))
    orders = [tuple(case for _, case in sorted(cases)) for cases in lists.values()]
    different = len(set(orders))
    if different < len(orders):
        one = f"All {len(orders)} lists of cases have the same order"
        some = f"{len(orders)} lists of cases have {different} different orders"
        return DesignCheck(
            "case-order", "note", f"{one if different == 1 else some}; a new random order for each is best."
        )
    return DesignCheck("case-order", "ok", f"Each of {len(orders)} lists of cases has its own order.")


def _washout(reads: Sequence[Read], days: float | None) -> DesignCheck:
    if days is None:
        phases = {r.phase for r in reads if r.phase is not None}
        together = (
            "; both conditions are in one phase, so AI was an addition to the same look"
            if len(phases) == 1
            else ""
        )
        return DesignCheck("washout", "note", f"The days between the two readings are not stated{together}.")
    if days < ENOUGH_WASHOUT_DAYS:
        return DesignCheck(
            "washout", "note", f"{days:g} days between the two readings; readers may remember (28 are usual)."
        )
    return DesignCheck("washout", "ok", f"{days:g} days between the two readings.")


def _prevalence(truth: Mapping[str, bool], clinic: float | None) -> DesignCheck:
    if not truth:
        return DesignCheck("prevalence", "note", "There are no cases.")
    hits = sum(map(bool, truth.values()))
    here = f"{hits} of {len(truth)} cases ({hits / len(truth):.0%}) are positive in the reading set"
    if clinic is None:
        return DesignCheck("prevalence", "note", f"{here}; the clinic's share is not stated.")
    beside = f"{here}, {clinic:.1%} in the clinic"
    share = hits / len(truth)
    if clinic / PREVALENCE_FACTOR <= share <= clinic * PREVALENCE_FACTOR:
        return DesignCheck("prevalence", "ok", f"{beside}.")
    return DesignCheck(
        "prevalence",
        "note",
        f"{beside}; predictive values of the set do not hold there, and readers who expect fractures call more.",
    )
