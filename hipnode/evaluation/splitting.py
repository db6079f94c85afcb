"""Patients dealt to parts: train, validation and test, or folds; seeded, with the classes spread evenly.

A patient is in one part with all hips and films: a part that knows the patient is no other part.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hipnode.errors import HipnodeError
from hipnode.evaluation.table_files import Problem, TablesUnusable, read_rows


class SplitRefused(HipnodeError):
    """Cases cannot be split as asked; the text says why."""


def deal(
    patients: Sequence[str], outcomes: Sequence[str], shares: Mapping[str, float], *, seed: int
) -> dict[str, str]:
    """Patient -> part. outcomes: one per unit, e.g. its class; shares: part -> share of the patients.

    The patients of each combination of outcomes are shuffled and dealt so that each part gets its share of
    each, rare combinations first. The order of the units does not matter, the names of the patients do.
    Raises SplitRefused for shares that are not a whole, and for fewer patients than parts.
    """
    if len(patients) != len(outcomes):
        raise ValueError(f"{len(patients)} patients and {len(outcomes)} outcomes are not of the same units")
    total = sum(shares.values())
    if not shares or min(shares.values()) <= 0 or abs(total - 1) > 1e-9:
        raise SplitRefused(f"the shares of the parts are above 0 and add up to 1, not to {total:g}")
    kinds: dict[str, set[str]] = defaultdict(set)
    for patient, outcome in zip(patients, outcomes, strict=True):
        kinds[patient].add(outcome)
    if len(kinds) < len(shares):
        raise SplitRefused(f"{len(kinds)} patients cannot make {len(shares)} parts")
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient in sorted(kinds):
        groups[tuple(sorted(kinds[patient]))].append(patient)
    generator = np.random.default_rng(seed)
    parts = list(shares)
    made = dict.fromkeys(parts, 0)
    home: dict[str, str] = {}
    for kind in sorted(groups, key=lambda k: (len(groups[k]), k)):
        members = groups[kind]
        here = dict.fromkeys(parts, 0)
        for place, i in enumerate(generator.permutation(len(members)).tolist(), start=1):
            # the part that lacks most of this kind; of equals the one that lacks most of all
            part = max(
                parts,
                key=lambda p: (
                    round(shares[p] * place - here[p], 9),
                    round(shares[p] * (len(home) + 1) - made[p], 9),
                    -parts.index(p),
                ),
            )
            home[members[i]] = part
            here[part] += 1
            made[part] += 1
    return home


def folds(patients: Sequence[str], outcomes: Sequence[str], count: int, *, seed: int) -> list[int]:
    """The fold of each unit, 0 to count - 1, all units of a patient in one. Raises SplitRefused as `deal`."""
    shares = {str(i): 1 / count for i in range(count)}
    home = deal(patients, outcomes, shares, seed=seed)
    return [int(home[patient]) for patient in patients]


def split_labels(labels: Path, shares: Mapping[str, float], *, seed: int) -> list[dict[str, Any]]:
    """The rows of a labels file with their split, in their order. shares: as for `deal`.

    Raises TablesUnusable with every problem, a split that is there already among them: the test part is dealt
    once, and who deals again until the numbers please has no test part. Raises SplitRefused as `deal`.
    """
    problems = []
    rows = read_rows(labels)
    for row, values in rows:
        empty = [c for c in ("case_id", "patient_id", "y_class") if not str(values.get(c) or "").strip()]
        if empty:
            problems.append(Problem(labels.name, row, f"{', '.join(empty)} is empty"))
        if str(values.get("split") or "").strip():
            problems.append(
                Problem(labels.name, row, "it has a split already; cases are dealt to parts once")
            )
    if not rows:
        problems.append(Problem(labels.name, None, "has no rows"))
    if problems:
        raise TablesUnusable(problems)
    patients = [str(values["patient_id"]).strip() for _, values in rows]
    home = deal(patients, [str(values["y_class"]).strip() for _, values in rows], shares, seed=seed)
    return [{**values, "split": home[patient]} for (_, values), patient in zip(rows, patients, strict=True)]
