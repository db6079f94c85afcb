"""From labels and predictions to what an acceptance run needs: what is wrong before it, and the answers. Pure.

What can be checked before a package looks at a film is checked then, so that a test part is not spent on a
run that could not have ended well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import DecisionRule
from hipnode.evaluation.acceptance.judgement import Answers, case_key, shortage
from hipnode.evaluation.acceptance.protocol import Protocol
from hipnode.evaluation.cases import ALL, MOST_VALUES, TEST, VALIDATION, age_band, gather, unit_of
from hipnode.evaluation.statistics.classes import NO_FRACTURE, multi_label, single_label
from hipnode.evaluation.statistics.counts import one_hot
from hipnode.evaluation.statistics.localisation import match
from hipnode.evaluation.statistics.operating import OperatingPoint, at_sensitivity, youden
from hipnode.evaluation.tables import Label, Tables

LEAST_FOR_A_THRESHOLD = 10  # patients with a class on the validation part; a threshold of fewer is luck


@dataclass(frozen=True)
class ThresholdUsed:
    """The threshold of one class, and how far the site's own cases would move it.

    package: the package's own, None where it is not installed; estimated: on the validation part by the
    protocol's rule (Youden where it has none), None without such a part
    """

    class_name: str
    used: float
    package: float | None
    estimated: float | None


class NoThreshold(Exception):
    """A threshold was to be chosen on validation cases, and they allow none."""


def judged_labels(labels: Sequence[Label]) -> list[Label]:
    """The test part: rows of split test, or all rows where none names a split."""
    return [x for x in labels if x.split == TEST] if any(x.split for x in labels) else list(labels)


def problems_before(protocol: Protocol, labels: Sequence[Label], classes: Sequence[str]) -> list[str]:
    """What keeps a protocol from being run on these labels, one sentence each."""
    problems = []
    test = judged_labels(labels)
    if not test:
        problems.append("no row is of split test; only cases on which nothing was chosen can be judged")
    without = sum(1 for x in labels if not x.split)
    if 0 < without < len(labels):
        problems.append(f"{without} rows have no split and others have one; give every row its split")
    unit = unit_of(test) if test else protocol.unit
    # rows without a hip are one per image or one per patient; which of both only who made them can say
    if unit != protocol.unit and not (unit == "image" and protocol.unit == "patient"):
        problems.append(f"the unit of the protocol is {protocol.unit}, that of the labels {unit}")
    if protocol.unit == "patient" and len({x.patient_id for x in test}) < len(test):
        problems.append("the unit of the protocol is patient, and a patient has more than one row")
    for column in protocol.strata.columns:
        values = {value for value in stratum_values(column, test) if value}
        if not values:
            problems.append(f"strata: the labels have no column {column}, or it is empty")
        elif len(values) > MOST_VALUES:
            problems.append(
                f"strata: column {column} has {len(values)} values; a stratum has {MOST_VALUES} or fewer"
            )
    for name in {h.class_name for h in protocol.hypotheses if h.metric == "right_place"}:
        lacking = [x.row for x in test if any(_lacks_box(x, c) for c in x.classes if name in (c, "any"))]
        if lacking:
            problems.append(
                f"right_place: {len(lacking)} rows with a class have no box of it, first row {lacking[0]}"
            )
    several = [x.row for x in test if len(x.classes) > 1]
    if protocol.view == "single-label" and several:
        problems.append(
            f"{len(several)} rows have more than one class, first row {several[0]}; the single-label view names one: "
            'use view = "multi-label", or one row for each hip'
        )
    if protocol.thresholds.source == "validation":
        problems += _validation_problems([x for x in labels if x.split == VALIDATION], classes)
    return problems


def shortages(protocol: Protocol, labels: Sequence[Label], classes: Sequence[str]) -> list[str]:
    """Which hypotheses these labels have too few patients for, whatever a package answers."""
    test = judged_labels(labels)
    patients = np.array([x.patient_id for x in test], dtype=np.str_)
    found = [
        (h.says, shortage(protocol, h, patients, truth_of(test, classes), classes))
        for h in protocol.hypotheses
    ]
    return [f"{says}: not enough cases; {short}." for says, short in found if short]


def keys_of(labels: Sequence[Label]) -> frozenset[str]:
    """A hash for each test case, by which it is known again."""
    return frozenset(case_key(x.image_uid, x.file, x.hip, x.case_id) for x in labels)


def truth_of(labels: Sequence[Label], classes: Sequence[str]) -> NDArray[np.bool_]:
    """(n, K) bool, the reference."""
    return np.array([[c in x.classes for c in classes] for x in labels], dtype=np.bool_).reshape(
        -1, len(classes)
    )


def stratum_values(column: str, labels: Sequence[Label]) -> list[str | None]:
    """(n,) the values of a stratum column, ages as bands."""
    if column == "site":
        return [x.site for x in labels]
    if column == "hip":
        return [None if x.hip == "none" else x.hip for x in labels]
    if column == "y_class":
        return [";".join(x.classes) or NO_FRACTURE for x in labels]
    values = [x.strata.get(column) for x in labels]
    return [age_band(value) for value in values] if column == "age" else values


def thresholds_of(
    protocol: Protocol, tables: Tables, model: tuple[str, str], package: DecisionRule | None
) -> tuple[ThresholdUsed, ...]:
    """The threshold of each class as the protocol says. Raises NoThreshold.

    package: the rule of the package, None where it is not installed
    """
    base = package or DecisionRule()
    validation = [x for x in tables.labels if x.split == VALIDATION]
    estimated: dict[str, float | None] = dict.fromkeys(tables.classes)
    if validation:
        cases = gather(tables, model, VALIDATION, base)
        for k, name in enumerate(tables.classes):
            point = _point(protocol, cases.truth[:, k], cases.scores[:, k])
            estimated[name] = None if point is None else point.threshold
    own = package.thresholds if package is not None else {}
    source = protocol.thresholds.source
    chosen: Mapping[str, float | None] = estimated
    if source != "validation":
        chosen = own if source == "package" else protocol.thresholds.values
    found = []
    for name in tables.classes:
        used = chosen.get(name)
        if used is None:
            raise NoThreshold(f"no threshold of {name} could be taken from the {source}")
        found.append(ThresholdUsed(name, used, own.get(name), estimated[name]))
    return tuple(found)


def answers_of(
    protocol: Protocol, tables: Tables, model: tuple[str, str], rule: DecisionRule
) -> tuple[Answers, list[Label]]:
    """What a model said of the test part, and the labels in the same order. rule: with the thresholds in use."""
    test = judged_labels(tables.labels)
    place = {x.case_id: i for i, x in enumerate(test)}
    n, names = len(test), tables.classes
    cases = gather(tables, model, TEST if any(x.split for x in tables.labels) else ALL, rule)
    at = np.array([place[case] for case in cases.case_ids], dtype=np.int64)
    scores, called = np.zeros((n, len(names))), np.zeros((n, len(names)), dtype=np.bool_)
    read = np.zeros(n, dtype=np.bool_)
    scores[at], read[at] = cases.scores, True
    if protocol.view == "multi-label":
        called[at] = multi_label(cases.scores, names, rule, None)
    else:
        outcomes = (*names, NO_FRACTURE)
        called[at] = one_hot(single_label(cases.scores, names, rule, None), outcomes)[:, :-1]
    placed = None
    if cases.with_boxes and any(x.boxes for x in test):
        fires = np.array([rule.thresholds[name] for name in names])
        fired = cases.predicted.take(cases.predicted.score >= fires[cases.predicted.class_id])
        hit = match(cases.reference, fired).taken >= 0
        placed = np.zeros_like(called)
        placed[at[fired.unit[hit]], fired.class_id[hit]] = True
        placed &= called
    patients = np.array([x.patient_id for x in test], dtype=np.str_)
    return Answers(names, patients, truth_of(test, names), scores, called, placed, read), test


def _point(protocol: Protocol, truth: NDArray[np.bool_], score: NDArray[np.float64]) -> OperatingPoint | None:
    target = protocol.thresholds.sensitivity
    if not truth.any() or truth.all():
        return None
    return youden(truth, score) if target is None else at_sensitivity(truth, score, target)


def _lacks_box(label: Label, name: str) -> bool:
    return all(box.class_name != name for box in label.boxes)


def _validation_problems(validation: Sequence[Label], classes: Sequence[str]) -> list[str]:
    if not validation:
        return ["thresholds: are to be chosen on validation cases, and no row is of split validation"]
    problems = []
    for name in classes:
        has = {x.patient_id for x in validation if name in x.classes}
        if len(has) < LEAST_FOR_A_THRESHOLD:
            problems.append(
                f"thresholds: {len(has)} patients of split validation have {name}; to choose a threshold it needs "
                f"{LEAST_FOR_A_THRESHOLD} or more"
            )
    return problems
