"""The errors one by one: which units were missed, called falsely, called another class or not read. Pure.

The columns of the list follow the audit of Liu et al., Lancet Digit Health 2022;4:e384-97: to each error belong
a cause, a harm and a mitigation, which people fill in.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.report.spreadsheets import guarded
from hipnode.evaluation.statistics.classes import NO_FRACTURE

KINDS = ("missed", "false alarm", "another class", "not read")
COLUMNS = ("case_id", "what", "reference", "called", "highest_score", "cause", "harm", "mitigation")


@dataclass(frozen=True)
class Reviewed:
    """One error. what: one of KINDS; score: the best class's, None if not read."""

    case_id: str
    what: str
    reference: tuple[str, ...]
    called: tuple[str, ...]
    score: float | None


def errors(
    case_ids: Sequence[str],
    classes: Sequence[str],
    truth: NDArray[np.bool_],
    called: NDArray[np.bool_],
    scores: NDArray[np.float64],
    read: NDArray[np.bool_] | None = None,
) -> tuple[Reviewed, ...]:
    """The units whose (n, K) called classes are not those of the reference, or that were not read.

    read: (n,) bool; what stands in the other rows of called and scores is not looked at. None: all were read.
    """
    answered = np.ones(len(truth), dtype=np.bool_) if read is None else read
    said = called & answered[:, None]
    made = []
    for i in np.flatnonzero(~answered | (truth != said).any(axis=1)).tolist():
        if not answered[i]:
            what = "not read"
        elif not said[i].any():
            what = "missed"
        elif not truth[i].any():
            what = "false alarm"
        else:
            what = "another class"
        reference, named = (
            tuple(name for name, has in zip(classes, row[i], strict=True) if has) for row in (truth, said)
        )
        score = float(scores[i].max()) if answered[i] and len(classes) else None
        made.append(Reviewed(case_ids[i], what, reference, named, score))
    return tuple(made)


def as_csv(rows: Sequence[Reviewed]) -> str:
    """The list as a failure register: COLUMNS, a row an error, the last three to be filled in."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(COLUMNS)
    for row in rows:
        reference, called = (";".join(names) or NO_FRACTURE for names in (row.reference, row.called))
        score = "" if row.score is None else f"{row.score:.4f}"
        called = "" if row.what == "not read" else called
        out.writerow([guarded(row.case_id), row.what, reference, called, score, "", "", ""])
    return text.getvalue()
