"""What stress tests did to sensitivity and specificity, on the same units in pairs. Reads stress.jsonl; else pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hipnode.decision import DecisionRule
from hipnode.evaluation.acceptance.judgement import paired_difference
from hipnode.evaluation.cases import Cases, gather
from hipnode.evaluation.films.runs import kind_of
from hipnode.evaluation.films.stress import NOT_TESTED, Change
from hipnode.evaluation.report.document import Section, Table
from hipnode.evaluation.report.words import MINUS, count, listed, with_interval
from hipnode.evaluation.statistics.classes import multi_label
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import share_by_patient
from hipnode.evaluation.tables import Tables, load_stressed


@dataclass(frozen=True)
class StressRow:
    """One change at one level, any fracture.

    n: units read untouched to which the change was made (a PNG has no header to change)
    refused: share of them that was refused under the change; failed: units that could not be read under it
    sensitivity, specificity: of those read under it; the changes: minus the same units untouched, in pairs
    """

    change: Change
    n: int
    refused: Estimate
    failed: int
    sensitivity: Estimate
    specificity: Estimate
    sensitivity_change: Estimate
    specificity_change: Estimate


def stressed_tables(tables: Tables, path: Path) -> dict[str, Tables]:
    """The tables once for each change in stress.jsonl, by its name: same labels, the changed films' predictions.

    Raises TablesUnusable.
    """
    return {
        name: replace(
            tables,
            predictions=tuple(p for p in rows if not p.not_read),
            unread=tuple(p for p in rows if p.not_read),
        )
        for name, rows in load_stressed(path, tables.classes).items()
    }


def stress_rows(
    tables: Tables,
    stressed: Mapping[str, Tables],
    changes: Sequence[Change],
    model: tuple[str, str],
    split: str,
    rule: DecisionRule,
) -> tuple[StressRow, ...]:
    """A row for each change. split: as `gather` takes it; rule: with the thresholds in use."""
    untouched = gather(tables, model, split, rule)
    before = dict(zip(untouched.case_ids, _called(untouched, rule), strict=True))
    rows = []
    for one in changes:
        under = stressed.get(one.name)
        if under is None:
            continue
        # A unit that was not read untouched has no pair.
        cases = gather(_only(under, before.keys()), model, split, rule)
        codes = [unread.reason for unread in cases.unread]
        refused = sum(kind_of(code) == "refused" for code in codes)
        n = len(cases) + len(codes)
        first = np.array([before[case] for case in cases.case_ids], dtype=np.bool_)
        with_, now = cases.any_truth, _called(cases, rule)
        rows.append(
            StressRow(
                one,
                n,
                share_by_patient(np.arange(n) < refused),
                len(codes) - refused,
                share_by_patient(now[with_], cases.patients[with_]),
                share_by_patient(~now[~with_], cases.patients[~with_]),
                paired_difference(now[with_], first[with_], cases.patients[with_]),
                paired_difference(~now[~with_], ~first[~with_], cases.patients[~with_]),
            )
        )
    return tuple(rows)


def stress_table(rows: Sequence[StressRow], unit: str) -> Table:
    """The rows as reports print them."""
    columns = (
        "change", "level", "n", "refused", "failed", "sensitivity", "change of sensitivity",
        "specificity", "change of specificity",
    )  # fmt: skip
    body = tuple(
        (
            _name(row.change), _level(row.change), row.n, row.refused.events, row.failed,
            row.sensitivity, row.sensitivity_change, row.specificity, row.specificity_change,
        )
        for row in rows
    )  # fmt: skip
    kinds = {_name(row.change): row.change.transform for row in rows}
    what = tuple(
        f"{name.capitalize()}: {kind.says}; the level is {kind.level}." for name, kind in kinds.items()
    )
    notes = (
        f"Any fracture, per {unit}, on films that were read untouched. Sensitivity and specificity are of the films "
        "read under the change, and their changes are against the same films untouched, in pairs.",
        *what,
        *NOT_TESTED,
    )
    return Table("stress", "Stress tests", unit, columns, body, notes)


def stress_section(rows: Sequence[StressRow], unit: str) -> Section:
    """The stress tests of a report: what they showed in words, and the table."""
    said = ["The films were read again after changes made on purpose: some that a model should bear, some that must be "
            "refused."]  # fmt: skip
    for row in (row for row in rows if row.change.transform.must_refuse):
        what, refused = row.change.transform.says.split(";")[0], row.refused.events or 0
        said.append(
            f"When {what}, the film must be refused: of {count(row.n, unit)} "
            f"{'all' if refused == row.n else f'only {refused}'} were refused, {with_interval(row.refused)}."
        )
    lost, held = [], 0
    for row in (row for row in rows if not row.change.transform.must_refuse):
        for what, change in (
            ("sensitivity", row.sensitivity_change),
            ("specificity", row.specificity_change),
        ):
            held += change.high is not None
            if change.value is not None and change.high is not None and change.high < 0:
                level = f"{_name(row.change)} {_level(row.change)}"
                lost.append(f"{what} by {-100 * change.value:.0f} points under {level}")
    if lost:
        said.append(
            f"The whole interval is on the side of a loss for {listed(lost)}. Of {held} comparisons about one in forty "
            "would be by chance alone."
        )
    elif held:
        said.append(f"In none of {held} comparisons is the whole interval on the side of a loss.")
    return Section("Stress tests", tuple(said), (stress_table(rows, unit),))


def _name(change: Change) -> str:
    return change.transform.name.replace("_", " ")


def _level(change: Change) -> str:
    return f"{change.level:g}".replace("-", MINUS)


def _called(cases: Cases, rule: DecisionRule) -> NDArray[np.bool_]:
    return np.asarray(multi_label(cases.scores, cases.classes, rule).any(axis=1))


def _only(tables: Tables, kept: Collection[str]) -> Tables:
    return replace(
        tables,
        predictions=tuple(p for p in tables.predictions if p.case_id in kept),
        unread=tuple(p for p in tables.unread if p.case_id in kept),
    )
