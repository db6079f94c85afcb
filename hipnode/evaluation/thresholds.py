"""From which score a class counts as called: given, the package's, or chosen on validation cases. Pure.

A threshold chosen on the cases that it is judged on makes them look better than new cases will be; it is
marked so wherever it is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hipnode.decision import DecisionRule
from hipnode.evaluation.cases import Cases
from hipnode.evaluation.record import ChosenOn, Threshold
from hipnode.evaluation.statistics.operating import OperatingPoint, youden

BY_CONVENTION = 0.5
SAME_CASES = "chosen on the cases it is judged on, so that its numbers are too good"


@dataclass(frozen=True)
class Wanted:
    """The thresholds someone asks for.

    each: class -> threshold; all: for every other class; rule: of the model package
    """

    each: Mapping[str, float] = field(default_factory=dict)
    all: float | None = None
    rule: DecisionRule | None = None


def wanted(texts: Sequence[str], classes: Sequence[str], rule: DecisionRule | None = None) -> Wanted:
    """From "0.15" for all classes and "DF=0.3" for one. Raises ValueError with every problem."""
    each: dict[str, float] = {}
    for_all: list[float] = []
    problems = []
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            problems.append(f"threshold {text!r} is no number; write 0.15, or DF=0.3 for one class")
            continue
        if not 0 <= value <= 1:
            problems.append(f"threshold {text!r} is not in 0..1")
        elif equals and name not in classes:
            problems.append(f"threshold {text!r} is of an unknown class; known are {', '.join(classes)}")
        elif name in each or (not equals and for_all):
            problems.append(f"threshold {text!r} is the second for {name or 'all classes'}")
        elif equals:
            each[name] = value
        else:
            for_all.append(value)
    if problems:
        raise ValueError("\n".join(problems))
    return Wanted(each, for_all[0] if for_all else None, rule)


def choose(cases: Cases, validation: Cases | None, ask: Wanted) -> tuple[Threshold, ...]:
    """A threshold for each class: as given, the package's, Youden's on validation, else on the same cases."""
    found = []
    for k, name in enumerate(cases.classes):
        given = ask.each.get(name, ask.all)
        if given is not None:
            found.append(Threshold(name, given, "given", "given"))
            continue
        if ask.rule is not None and name in ask.rule.thresholds:
            found.append(Threshold(name, ask.rule.thresholds[name], "package", "of the model package"))
            continue
        point, where = on_other_cases(
            youden,
            (validation.truth[:, k], validation.scores[:, k]) if validation is not None else None,
            (cases.truth[:, k], cases.scores[:, k]),
        )
        if point is None:
            says = (
                f"{BY_CONVENTION:g} by convention: there are no cases with and without {name} to choose it on"
            )
            found.append(Threshold(name, BY_CONVENTION, "convention", says))
        else:
            says = "Youden on validation" if where == "validation" else f"Youden, {SAME_CASES}"
            found.append(Threshold(name, point.threshold, where, says))
    return tuple(found)


Labelled = tuple[NDArray[np.bool_], NDArray[np.float64]]


def on_other_cases(
    rule: Callable[[ArrayLike, ArrayLike], OperatingPoint | None], validation: Labelled | None, same: Labelled
) -> tuple[OperatingPoint | None, ChosenOn]:
    """A rule's point on validation cases, or where they have none on the same cases, and which it was."""
    if validation is not None:
        point = rule(*validation)
        if point is not None:
            return point, "validation"
    return rule(*same), "same cases"


def worst_of(thresholds: Sequence[Threshold]) -> ChosenOn:
    """Where the least trustworthy of them was chosen: what they decide together is no better."""
    order: tuple[ChosenOn, ...] = ("same cases", "convention", "validation", "package", "given")
    return next(where for where in order if any(t.chosen_on == where for t in thresholds))


def rule_with(thresholds: Sequence[Threshold], base: DecisionRule | None) -> DecisionRule:
    """The decision rule with these thresholds; the rest of it from the package, or hipnode's defaults."""
    base = base or DecisionRule()
    return DecisionRule(
        {t.class_name: t.value for t in thresholds}, base.tau_min, base.nms_iou, base.valgus_priority
    )
