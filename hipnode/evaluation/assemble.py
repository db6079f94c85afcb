"""From checked tables to the whole record of an evaluation. Pure.

One order of events: what is judged (the test part), with which thresholds (chosen elsewhere where that can
be), then every number of every model from the same resamples of patients, the models in pairs, the readers,
and at last what limits it all.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import DecisionRule
from hipnode.evaluation import limits
from hipnode.evaluation.cases import ALL, VALIDATION, Cases, check, facts_of, gather, models_in
from hipnode.evaluation.comparing import compare
from hipnode.evaluation.places import localise
from hipnode.evaluation.provenance import Provenance
from hipnode.evaluation.questions import Asked, answer
from hipnode.evaluation.readings import Study, study_readers
from hipnode.evaluation.record import (
    ANY,
    CaseFacts,
    Comparison,
    Evaluation,
    ModelResult,
    Question,
    Threshold,
    Unread,
)
from hipnode.evaluation.review import Reviewed, errors
from hipnode.evaluation.statistics.agreement import cohen_kappa
from hipnode.evaluation.statistics.classes import NO_FRACTURE, multi_label, single_label
from hipnode.evaluation.statistics.counts import class_table, confusion, one_hot
from hipnode.evaluation.statistics.intervals import Method, share_by_patient, strata_when_few
from hipnode.evaluation.statistics.resampling import DEFAULT_RESAMPLES, Resamples, codes_of
from hipnode.evaluation.strata import stratify
from hipnode.evaluation.tables import Problem, Tables, TablesUnusable
from hipnode.evaluation.thresholds import Wanted, choose, rule_with

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a site may choose.

    unit: hip, image or patient; None takes it from the hip column
    constants: thresholds to judge beside the ones in use, e.g. a published one
    prevalence: share of fractures in the site's own patients, for predictive values
    peak_radius_px: how near a heat map's peak must be to a reference point
    washout_days: between a reader's two readings of a case
    interval: of proportions
    """

    unit: str | None = None
    thresholds: Wanted = field(default_factory=Wanted)
    constants: tuple[float, ...] = ()
    prevalence: float | None = None
    seed: int = 1
    resamples: int = DEFAULT_RESAMPLES
    peak_radius_px: float | None = None
    washout_days: float | None = None
    interval: Method = "wilson"


@dataclass(frozen=True, eq=False)
class _Answered:
    """One model's answers to the judged cases, n of them.

    called: (n, K) bool; named: (n,) the single-label calls; truth: (n,) the one outcome, "" where several
    """

    name: str
    cases: Cases
    validation: Cases | None
    thresholds: tuple[Threshold, ...]
    rule: DecisionRule
    called: NDArray[np.bool_]
    named: tuple[str, ...]
    truth: tuple[str, ...]
    resampled: Resamples

    @property
    def clustered(self) -> bool:
        """Whether a patient has several units."""
        return self.resampled.patients < len(self.cases)

    @property
    def asked(self) -> list[tuple[str, NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]]:
        """(question, truth, score, called) of any fracture and of each class."""
        cases = self.cases
        of_classes = [
            (name, cases.truth[:, k], cases.scores[:, k], self.called[:, k])
            for k, name in enumerate(cases.classes)
        ]
        return [(ANY, cases.any_truth, cases.any_score, np.asarray(self.called.any(axis=1))), *of_classes]


def evaluate(
    tables: Tables, options: Options, provenance: Provenance, say: Say = lambda _: None
) -> Evaluation:
    """The record of these tables. say: hears what is being computed. Raises TablesUnusable.

    The same tables, options and seed give the same record, whatever the order of the rows (models stand in
    the order of theirs).
    """
    problems = check(tables)
    if problems:
        raise TablesUnusable(problems)
    tables = replace(tables, labels=tuple(sorted(tables.labels, key=lambda label: label.case_id)))
    facts = facts_of(tables, options.unit)
    answered = [_answers(tables, model, facts, options) for model in models_in(tables)]
    models = []
    for each, (model_id, version) in zip(answered, models_in(tables), strict=True):
        models.append(_result(each, model_id, version, facts, options, say))
    comparisons: list[Comparison] = []
    for first, second in combinations(answered, 2):
        say(f"{first.name} and {second.name} in pairs")
        comparisons += _compare(first, second, options)
    readers = None
    if tables.reads:
        say("readers")
        readers = study_readers(tables.reads, _study(answered[0], options))
    validation = {each.name: each.validation for each in answered}
    return Evaluation(
        facts=facts,
        models=tuple(models),
        comparisons=tuple(comparisons),
        readers=readers,
        prevalence=options.prevalence,
        seed=options.seed,
        resamples=options.resamples,
        identities=tuple(i for model in models for i in limits.identities(model)),
        warnings=limits.warnings(facts, models, validation, readers, options),
        provenance=provenance,
    )


def _answers(tables: Tables, model: tuple[str, str], facts: CaseFacts, options: Options) -> _Answered:
    name = " ".join(model).rstrip()
    base = options.thresholds.rule
    split = facts.judged.name
    cases = gather(tables, model, split, base or DecisionRule())
    if not len(cases):
        says = f"model {name} has no answer to any of the {facts.judged.units} judged cases"
        raise TablesUnusable([Problem(tables.files[1], None, says)])
    validation = gather(tables, model, VALIDATION, base or DecisionRule()) if split != ALL else None
    validation = validation if validation is not None and len(validation) else None
    thresholds = choose(cases, validation, options.thresholds)
    rule = rule_with(thresholds, base)
    return _Answered(
        name=name,
        cases=cases,
        validation=validation,
        thresholds=thresholds,
        rule=rule,
        called=multi_label(cases.scores, cases.classes, rule, None),
        named=tuple(single_label(cases.scores, cases.classes, rule, None)),
        truth=tuple(_one_outcome(row, cases.classes) for row in cases.truth),
        resampled=Resamples.draw(
            cases.codes,
            len(cases),
            seed=options.seed,
            resamples=options.resamples,
            strata=strata_when_few(cases.truth),
        ),
    )


def _one_outcome(row: NDArray[np.bool_], classes: Sequence[str]) -> str:
    if row.sum() > 1:
        return ""
    return classes[int(row.argmax())] if row.any() else NO_FRACTURE


def _result(
    each: _Answered, model_id: str, version: str, facts: CaseFacts, options: Options, say: Say
) -> ModelResult:
    cases, name = each.cases, each.name
    say(f"{name}: {len(cases):,} {facts.unit}s of {each.resampled.patients:,} patients, counts")
    patients = cases.codes if each.clustered else None
    outcomes = (*cases.classes, NO_FRACTURE)
    one = [i for i, outcome in enumerate(each.truth) if outcome]
    truth, named = [each.truth[i] for i in one], [each.named[i] for i in one]
    questions = [_question(each, k, options, say) for k in range(len(each.asked))]
    say(f"{name}: localisation")
    thresholds = np.array([t.value for t in each.thresholds])
    places = localise(cases, thresholds, each.resampled, facts.unit, options.peak_radius_px)
    timed = cases.runtime_ms[np.isfinite(cases.runtime_ms)]
    asked = [(question, there, called) for question, there, _, called in each.asked]
    say(f"{name}: strata")
    return ModelResult(
        model_id=model_id,
        version=version,
        score_from=cases.score_from,
        rule=each.rule,
        thresholds=each.thresholds,
        any_fracture=questions[0],
        classes=tuple(questions[1:]),
        multi_label=class_table(
            cases.truth,
            each.called,
            cases.classes,
            seed=0,
            patients=patients,
            method=options.interval,
            resampled=each.resampled,
        ),
        single_label=class_table(
            one_hot(truth, outcomes),
            one_hot(named, outcomes),
            outcomes,
            seed=0,
            patients=None if patients is None else patients[one],
            method=options.interval,
            resampled=each.resampled.of_units(np.array(one, dtype=np.int64)),
        ),
        outcomes=outcomes,
        confusion=confusion(truth, named, outcomes),
        accuracy=share_by_patient(
            [a == b for a, b in zip(truth, named, strict=True)], cases.codes[one], options.interval
        ),
        kappa=cohen_kappa(
            truth,
            named,
            None if patients is None else patients[one],
            seed=options.seed,
            resamples=options.resamples,
        ),
        localisation=places,
        strata=stratify(
            cases.columns,
            asked if len(cases.classes) > 1 else asked[:1],
            cases.codes,
            cases.not_strata,
            options.interval,
        ),
        runtime_ms=_quartiles(timed) if len(timed) else None,
        unread=_unread(each, options),
        errors=_errors(each),
    )


def _errors(each: _Answered) -> tuple[Reviewed, ...]:
    """The errors of the thresholds in use, and after them the units that were not read."""
    cases = each.cases
    silent = (Reviewed(u.case_id, "not read", u.classes, (), None) for u in cases.unread)
    return (*errors(cases.case_ids, cases.classes, cases.truth, each.called, cases.scores), *silent)


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, median, third = np.percentile(values, [25, 50, 75]).tolist()
    return first, median, third


def _question(each: _Answered, place: int, options: Options, say: Say) -> Question:
    """place: 0 for any fracture, then the classes."""
    name, truth, score, called = each.asked[place]
    say(f"{each.name}: {'any fracture' if name == ANY else name}")
    thresholds = each.thresholds[place - 1 : place] if place else each.thresholds
    validation = None
    if each.validation is not None:
        of = each.validation
        validation = (
            (of.truth[:, place - 1], of.scores[:, place - 1]) if place else (of.any_truth, of.any_score)
        )
    asked = Asked(
        name, truth, score, called, each.cases.codes, each.clustered, validation, each.resampled,
        options.prevalence, options.seed, options.interval,
    )  # fmt: skip
    return answer(asked, thresholds, options.constants)


def _unread(each: _Answered, options: Options) -> Unread:
    """What was not read, and the sensitivity that counts it as missed."""
    silent = each.cases.unread
    reasons = Counter(unit.reason for unit in silent)
    positives = {ANY: sum(bool(unit.classes) for unit in silent)}
    positives |= {name: sum(name in unit.classes for unit in silent) for name in each.cases.classes}
    found = np.asarray(each.called.any(axis=1))[each.cases.any_truth]
    among = [*each.cases.patients[each.cases.any_truth], *(unit.patient for unit in silent if unit.classes)]
    return Unread(
        units=len(silent),
        positives=positives,
        reasons=tuple(
            (reason, units, sum(bool(u.classes) for u in silent if u.reason == reason))
            for reason, units in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ),
        sensitivity_of_all=share_by_patient([*found, *[False] * positives[ANY]], among, options.interval),
    )


def _compare(first: _Answered, second: _Answered, options: Options) -> list[Comparison]:
    """Both on the units that both read."""
    place = {case: i for i, case in enumerate(second.cases.case_ids)}
    pairs = [(i, place[case]) for i, case in enumerate(first.cases.case_ids) if case in place]
    if not pairs:
        return []
    a, b = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    codes = codes_of(first.cases.patients[a], len(a))
    resampled = Resamples.draw(
        codes,
        len(a),
        seed=options.seed,
        resamples=options.resamples,
        strata=strata_when_few(first.cases.truth[a]),
    )
    return [
        compare(
            (first.name, second.name),
            name,
            truth[a],
            (one[a], two[b]),
            (called[a], other[b]),
            codes,
            resampled,
        )
        for (name, truth, one, called), (_, _, two, other) in zip(first.asked, second.asked, strict=True)
    ]


def _study(each: _Answered, options: Options) -> Study:
    return Study(
        cases=each.cases,
        single=each.truth,
        called=each.called,
        named=each.named,
        model=each.name,
        seed=options.seed,
        resamples=options.resamples,
        washout_days=options.washout_days,
        prevalence=options.prevalence,
        interval=options.interval,
    )
