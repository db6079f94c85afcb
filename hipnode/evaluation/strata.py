"""The same numbers within each stratum, and which strata stand apart from the whole. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.record import Strata, StratumRow
from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.statistics.counts import count, proportions_by_patient
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import Method

NOT_STATED = "not stated"
_Asked = tuple[str, NDArray[np.bool_], NDArray[np.bool_]]


def stratify(
    columns: dict[str, tuple[str | None, ...]],
    asked: Sequence[_Asked],
    patients: NDArray[np.int64],
    says: Sequence[str] = (),
    method: Method = "wilson",
) -> Strata:
    """Sensitivity and specificity of each question in each value of each column.

    columns: (n,) values, None where a unit has none; asked: (question, (n,) truth, (n,) called)
    patients: (n,) their numbers, for the intervals. Of the fracture type (y_class) only ANY is asked.
    """
    rows, intervals = [], 0
    for column, values in columns.items():
        given = np.array([NOT_STATED if v is None else v for v in values], dtype=np.str_)
        for value in _in_order(set(given.tolist())):
            here = given == value
            for question, truth, called in asked if column != "y_class" else asked[:1]:
                row = _row(column, value, question, here, truth, called, patients, method)
                intervals += (row.sensitivity.low is not None) + (row.specificity.low is not None)
                rows.append(row)
    return Strata(tuple(rows), intervals, tuple(says))


def _row(
    column: str,
    value: str,
    question: str,
    here: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    called: NDArray[np.bool_],
    patients: NDArray[np.int64],
    method: Method,
) -> StratumRow:
    counts, whole = count(truth[here], called[here]), count(truth, called)
    estimates = proportions_by_patient(truth[here], called[here], patients[here], method)
    overall = {name: whole.value(name) for name in ("sensitivity", "specificity")}
    return StratumRow(
        column, value, question, counts.n, counts.positives, counts,
        estimates["sensitivity"], estimates["specificity"], overall["sensitivity"], overall["specificity"],
        tuple(name for name, v in overall.items() if _excludes(estimates[name], v)),
    )  # fmt: skip


def _excludes(estimate: Estimate, value: float | None) -> bool:
    if value is None or estimate.low is None or estimate.high is None:
        return False
    return not estimate.low <= value <= estimate.high


def _in_order(values: set[str]) -> list[str]:
    """Values as a reader expects them: under 50 first, N and what is not stated last."""
    return sorted(values, key=lambda v: (v == NOT_STATED, v == NO_FRACTURE, not v.startswith("<"), v))
