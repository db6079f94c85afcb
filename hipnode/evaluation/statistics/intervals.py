"""Intervals of proportions and of sums over units, and how many units an interval needs. Pure.

Every interval is 95 % and two-sided.
"""

from collections.abc import Callable
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint

from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.resampling import (
    DEFAULT_RESAMPLES,
    bootstrap_weights,
    codes_of,
    percentile_interval,
)

FEW_FOR_STRATA = 20  # units of an outcome; below, the bootstrap draws within each outcome
OF_NOTHING = "undefined: 0 of 0"
Z_95 = 1.96
Sums = NDArray[np.float64]
Method = Literal["wilson", "clopper-pearson"]
_STATSMODELS_NAMES = {"wilson": "wilson", "clopper-pearson": "beta"}
_PRINTED = {"wilson": "Wilson", "clopper-pearson": "Clopper-Pearson"}


def proportion(successes: int, n: int, method: Method = "wilson") -> Estimate:
    """successes of n with its interval; events are the successes.

    wilson: Wilson, J Am Stat Assoc 1927;22:209-12; clopper-pearson: Biometrika 1934;26:404-13, never
    narrower than 95 %. Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    if n == 0:
        return undefined(0, 0, OF_NOTHING)
    low, high = proportion_confint(successes, n, alpha=0.05, method=_STATSMODELS_NAMES[method])
    # statsmodels leaves limits at 0 and 1 a rounding error away from the value they belong to
    return Estimate(
        successes / n,
        0.0 if successes == 0 else float(low),
        1.0 if successes == n else float(high),
        n,
        successes,
        _PRINTED[method],
    )


def wilson(successes: int, n: int) -> Estimate:
    """successes of n with the Wilson score interval."""
    return proportion(successes, n)


def clopper_pearson(successes: int, n: int) -> Estimate:
    """successes of n with the exact interval of Clopper and Pearson."""
    return proportion(successes, n, "clopper-pearson")


def share_by_patient(
    hits: ArrayLike, patients: ArrayLike | None = None, method: Method = "wilson"
) -> Estimate:
    """The share of (n,) bool that is true: `proportion`, made wider where patients have several units that agree.

    n counts units. With one unit a patient it is the interval of the units. Else n is divided by the
    design effect of the patients (Rao and Scott, Biometrics 1992;48:577-85; both intervals with it:
    Dean and Pagano, J Surv Stat Methodol 2015;3:484-503), never below 1. Where all units are alike no effect can
    be seen, and the patients count as n.
    """
    values = np.asarray(hits, dtype=np.bool_)
    n, found = len(values), int(values.sum())
    codes = np.unique(codes_of(patients, n), return_inverse=True)[1]
    m = int(codes.max()) + 1 if n else 0
    if m == n:
        return proportion(found, n, method)
    if found in (0, n):
        effect = n / m
    elif m == 1:
        return Estimate(found / n, None, None, n, found, "no interval: all units are of one patient")
    else:
        value = found / n
        apart = np.bincount(codes, values - value, minlength=m)
        effect = max(1.0, m / (m - 1) * float((apart**2).sum()) / n**2 / (value * (1 - value) / (n - 1)))
    low, high = proportion_confint(found / effect, n / effect, alpha=0.05, method=_STATSMODELS_NAMES[method])
    return Estimate(
        found / n,
        0.0 if found == 0 else float(low),
        1.0 if found == n else float(high),
        n,
        found,
        f"{_PRINTED[method]}, design effect {effect:.2f} of {m} patients",
    )


def sample_size(expected: float, half_width: float) -> int:
    """How many units a proportion needs for an interval of plus or minus half_width: z^2 p(1-p)/d^2.

    Per class (positives for a sensitivity), not in total; every unit of another patient.
    """
    if not 0 < expected < 1 or not 0 < half_width < 1:
        raise ValueError("the expected proportion and the half width lie between 0 and 1")
    # 1e-9: 0.5 with 0.01 is 9604 and not 9605 for a rounding error
    return ceil(Z_95**2 * expected * (1 - expected) / half_width**2 - 1e-9)


def strata_when_few(outcomes: ArrayLike) -> NDArray[np.int64] | None:
    """(units,) the outcomes as strata where one that occurs has fewer than 20 units, else None."""
    labels, codes, counts = np.unique(np.asarray(outcomes), axis=0, return_inverse=True, return_counts=True)
    if len(labels) < 2 or counts.min() >= FEW_FOR_STRATA:
        return None
    return codes.reshape(-1).astype(np.int64)


def resampled_sums(
    table: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
    strata: ArrayLike | None = None,
) -> Sums:
    """(resamples, columns) the column sums of each bootstrap resample of patients.

    table: (units, columns) what each unit adds to each sum. All that is computed from sums (F1, micro and
    macro averages, kappa, mean IoU) can share one call, and then shares its resamples.
    """
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"a table has two dimensions, not {values.ndim}")
    codes = codes_of(patients, len(values))
    blocks = bootstrap_weights(codes, seed=seed, resamples=resamples, strata=strata)
    return np.concatenate([weights @ values for weights in blocks])


def from_sums(
    statistic: Callable[[Sums], NDArray[np.float64]],
    table: ArrayLike,
    draws: Sums,
    *,
    patients: int,
    events: int | None = None,
    n: int | None = None,
) -> Estimate:
    """The statistic of a table's column sums, with the percentile interval over `resampled_sums`.

    statistic: (..., columns) sums -> (...) values, NaN where undefined
    patients: how many were drawn from, for the words; n: units behind the value, the table's rows if None
    """
    values = np.asarray(table, dtype=np.float64)
    n = len(values) if n is None else n
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(values.sum(axis=0)))
        spread = statistic(draws)
    if not np.isfinite(value):
        return undefined(n, events, OF_NOTHING)
    low, high, method = percentile_interval(np.asarray(spread), f"{patients} patients")
    return Estimate(value, low, high, n, events, method)


def number_of_patients(patients: ArrayLike | None, units: int) -> int:
    """How many patients the units belong to; every unit its own where patients is None."""
    codes = codes_of(patients, units)
    return int(codes.max()) + 1 if units else 0
