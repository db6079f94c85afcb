"""The reader study of one evaluation: every number of the reads that a site brings. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.cases import Cases
from hipnode.evaluation.record import ANY, Kappa, ReaderDifference, ReaderQuestion, Readers
from hipnode.evaluation.statistics.agreement import answer_counts, cohen_kappa, fleiss_kappa
from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.statistics.counts import ClassTable, class_table, one_hot
from hipnode.evaluation.statistics.intervals import Method
from hipnode.evaluation.statistics.reader_design import Read as DesignRead
from hipnode.evaluation.statistics.reader_design import design_checks, imrmc_table, imrmc_text, mrmcaov_table
from hipnode.evaluation.statistics.readers import (
    AI,
    CONDITIONS,
    NO_AI,
    Metric,
    ReadingTime,
    changed_decisions,
    mcnemar_of,
    mean_difference,
    panel,
    per_reader,
    reader_differences,
    reading_time,
    spread,
)
from hipnode.evaluation.statistics.resampling import Resamples
from hipnode.evaluation.tables import Read

METRICS: tuple[Metric, ...] = ("sensitivity", "specificity", "accuracy")


@dataclass(frozen=True, eq=False)
class Study:
    """What the reads are held against.

    single: (n,) the one outcome of each case, "" where it has several classes
    called: (n, K) the model's calls; named: (n,) its single-label calls
    """

    cases: Cases
    single: tuple[str, ...]
    called: NDArray[np.bool_]
    named: tuple[str, ...]
    model: str
    seed: int
    resamples: int
    washout_days: float | None
    prevalence: float | None
    interval: Method = "wilson"


def study_readers(reads: Sequence[Read], study: Study) -> Readers | None:
    """All about the readers on the units of the study; None where no read is of them."""
    place = {case: i for i, case in enumerate(study.cases.case_ids)}
    here = [read for read in reads if read.case_id in place]
    if not here:
        return None
    first, later = _first_phases(here)
    says = _set_aside(len(reads) - len(here), len(later))
    # the order of the labels, so that nothing hangs on the order of the reads
    seen = sorted({read.case_id for read in here}, key=place.__getitem__)
    patients = {case: str(study.cases.patients[place[case]]) for case in seen}
    any_truth = {case: bool(study.cases.any_truth[place[case]]) for case in seen}
    designed = [
        DesignRead(
            r.case_id, r.reader_id, r.condition, r.y_read != NO_FRACTURE, r.phase, r.order, r.confidence
        )
        for r in first
    ]
    outcomes = (*study.cases.classes, NO_FRACTURE)
    questions = [_question(ANY, first, seen, study, place, patients)]
    if len(study.cases.classes) > 1:
        questions += [_question(name, first, seen, study, place, patients) for name in study.cases.classes]
    rjafroc, imrmc = None, None
    try:
        rjafroc = imrmc_text(designed, any_truth)
    except ValueError as error:
        says.append(f"No file for RJafroc: {error}.")
    try:
        imrmc = imrmc_table(designed, any_truth)
    except ValueError as error:
        says.append(f"No table for iMRMC: {error}.")
    readers = tuple(sorted({read.reader_id for read in here}))
    return Readers(
        cases=len(seen),
        patients=len(set(patients.values())),
        readers=readers,
        ai_model=study.model,
        questions=tuple(questions),
        tables=_tables(first, study, place, outcomes),
        outcomes=outcomes,
        kappas=tuple(_kappas(first, later, study, place, _Drawn(seen, study, place))),
        times=tuple(_time(reader, first) for reader in readers),
        design=design_checks(
            designed, any_truth, washout_days=study.washout_days, clinic_prevalence=study.prevalence
        ),
        says=tuple(says),
        mrmcaov=mrmcaov_table(designed, any_truth),
        imrmc=imrmc,
        imrmc_text=rjafroc,
    )


def _set_aside(strangers: int, repeated: int) -> list[str]:
    says = []
    if strangers:
        says.append(f"{strangers} reads are of cases that are not judged here and are set aside.")
    if repeated:
        says.append(
            f"{repeated} reads repeat a case in the same condition in a later phase; they count for the agreement of "
            "a reader with himself or herself only."
        )
    return says


def _first_phases(reads: Sequence[Read]) -> tuple[list[Read], list[Read]]:
    """The first read of each reader, condition and case, and the later ones; phases I, II, ... 9, 10 in order."""
    first: dict[tuple[str, str, str], Read] = {}
    later = []
    for read in sorted(reads, key=lambda r: (_phase(r.phase), r.row)):
        key = (read.reader_id, read.condition, read.case_id)
        if key in first:
            later.append(read)
        else:
            first[key] = read
    return list(first.values()), later


def _phase(phase: str | None) -> tuple[tuple[int, int, str], ...]:
    """Numbers in a name sort as numbers."""
    parts = re.findall(r"\d+|\D+", phase or "")
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts)


def _question(
    name: str,
    reads: Sequence[Read],
    seen: Sequence[str],
    study: Study,
    place: dict[str, int],
    patients: dict[str, str],
) -> ReaderQuestion:
    if name == ANY:
        truth, ai = study.cases.any_truth, np.asarray(study.called.any(axis=1))
        yes = [read.y_read != NO_FRACTURE for read in reads]
    else:
        k = study.cases.classes.index(name)
        truth, ai = study.cases.truth[:, k], study.called[:, k]
        yes = [read.y_read == name for read in reads]
    all_reads = panel(
        [r.case_id for r in reads],
        [r.reader_id for r in reads],
        [r.condition for r in reads],
        yes,
        {case: bool(truth[place[case]]) for case in seen},
        patients,
    )
    used = [c for c in CONDITIONS if any(r.condition == c for r in reads)]
    differences: list[ReaderDifference] = []
    for metric in METRICS if len(used) == len(CONDITIONS) else ():
        alone = reader_differences(all_reads, metric, seed=study.seed, resamples=study.resamples)
        for reader, difference in zip(all_reads.readers, alone, strict=True):
            test = mcnemar_of(all_reads, reader, metric)
            differences.append(ReaderDifference(reader, metric, difference, test))
        together = mean_difference(all_reads, metric, seed=study.seed, resamples=study.resamples)
        differences.append(ReaderDifference(None, metric, together, None))
    changes = changed_decisions(all_reads, [bool(ai[place[c]]) for c in seen]) if differences else ()
    spreads = tuple(spread(all_reads, metric, condition) for metric in METRICS for condition in used)
    return ReaderQuestion(name, per_reader(all_reads, study.interval), spreads, tuple(differences), changes)


def _tables(
    reads: Sequence[Read], study: Study, place: dict[str, int], outcomes: tuple[str, ...]
) -> dict[tuple[str, str], ClassTable]:
    made = {}
    for reader, condition in sorted({(r.reader_id, r.condition) for r in reads}):
        given = [
            (place[r.case_id], r.y_read)
            for r in reads
            if (r.reader_id, r.condition) == (reader, condition) and study.single[place[r.case_id]]
        ]
        units = [i for i, _ in given]
        made[reader, condition] = class_table(
            one_hot([study.single[i] for i in units], outcomes),
            one_hot([answer for _, answer in given], outcomes),
            outcomes,
            seed=study.seed,
            patients=study.cases.patients[units],
            resamples=study.resamples,
            method=study.interval,
        )
    return made


class _Drawn:
    """The cases that were read, and resamples of their patients that all kappas share."""

    def __init__(self, seen: Sequence[str], study: Study, place: dict[str, int]) -> None:
        units = [place[case] for case in seen]
        self.place = {case: i for i, case in enumerate(seen)}
        self.resampled = Resamples.draw(
            study.cases.codes[units], len(units), seed=study.seed, resamples=study.resamples
        )

    def of(self, cases: Sequence[str]) -> Resamples | None:
        """Resamples of these cases; None where each is of another patient, so that none are needed."""
        here = self.resampled.of_units(np.array([self.place[case] for case in cases], dtype=np.int64))
        return here if len(np.unique(here.codes)) < len(cases) else None


def _kappas(
    first: Sequence[Read], later: Sequence[Read], study: Study, place: dict[str, int], drawn: _Drawn
) -> list[Kappa]:
    """Agreement in answers: each pair of readers, with the reference, with oneself, and of all readers."""
    reference = {case: study.single[i] for case, i in place.items() if study.single[i]}
    made = []
    for condition in CONDITIONS:
        answers: dict[str, dict[str, str]] = {}
        for read in first:
            if read.condition == condition:
                answers.setdefault(read.reader_id, {})[read.case_id] = read.y_read
        readers = sorted(answers)
        for a, b in combinations(readers, 2):
            made.append(_kappa("reader-reader", a, b, condition, answers[a], answers[b], drawn))
        for reader in readers:
            mine = answers[reader]
            made.append(_kappa("reader-reference", reader, "reference", condition, mine, reference, drawn))
            again = {
                r.case_id: r.y_read
                for r in reversed(later)
                if (r.reader_id, r.condition) == (reader, condition)
            }
            if again:
                made.append(_kappa("intra-observer", reader, reader, condition, mine, again, drawn))
        common = sorted(
            set.intersection(*(set(a) for a in answers.values())) if answers else set(),
            key=lambda c: place[c],
        )
        if len(readers) > 1 and common:
            counted = answer_counts([[answers[r][case] for case in common] for r in readers])
            value = fleiss_kappa(
                counted, _patients(common, study, place), seed=study.seed, resamples=study.resamples
            )
            made.append(Kappa("fleiss", f"{len(readers)} readers", "", condition, value))
    model = {case: study.named[place[case]] for case in drawn.place}
    made.append(_kappa("model-reference", study.model, "reference", None, model, reference, drawn))
    return made


def _kappa(
    kind: str,
    first: str,
    second: str,
    condition: str | None,
    a: dict[str, str],
    b: dict[str, str],
    drawn: _Drawn,
) -> Kappa:
    """On the cases that both answered and that were read; the model too, so that it stands beside the readers."""
    both = sorted(a.keys() & b.keys() & drawn.place.keys(), key=drawn.place.__getitem__)
    value = cohen_kappa([a[c] for c in both], [b[c] for c in both], resampled=drawn.of(both))
    return Kappa(kind, first, second, condition, value)


def _patients(cases: Sequence[str], study: Study, place: dict[str, int]) -> NDArray[np.int64] | None:
    """The patients of cases, where one has several; else cases are independent and None says so."""
    codes = study.cases.codes[[place[case] for case in cases]]
    return codes if len(np.unique(codes)) < len(codes) else None


def _time(reader: str, reads: Sequence[Read]) -> ReadingTime:
    taken: dict[str, dict[str, float]] = {NO_AI: {}, AI: {}}
    for read in reads:
        if read.reader_id == reader and read.seconds is not None:
            taken[read.condition][read.case_id] = read.seconds
    both = sorted(taken[NO_AI].keys() & taken[AI].keys())
    return reading_time(reader, [taken[NO_AI][c] for c in both], [taken[AI][c] for c in both])
