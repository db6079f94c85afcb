"""The bootstrap of patients as weights, so that a statistic is computed for many resamples at once. Pure.

Patients are drawn with replacement, not units: two hips or two films of one patient are no two
observations (Field and Welsh, J R Stat Soc B 2007;69:369-90, cluster bootstrap). A resample is a row of
weights: how often each unit is in it. Statistics that take weights need no loop over resamples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_RESAMPLES = 2000
CELLS_AT_ONCE = 2_000_000  # weights in memory at a time: 16 MB
FEWEST_DRAWS = 0.95  # below this share of resamples with a value, the interval would be of another quantity
NO_WIDTH = 1e-12  # rounding apart, all the same


def codes_of(patients: ArrayLike | None, units: int) -> NDArray[np.int64]:
    """(units,) the number of each unit's patient, from 0; every unit its own where patients is None."""
    if patients is None:
        return np.arange(units)
    names = np.asarray(patients)
    if names.shape != (units,):
        raise ValueError(f"{units} units need {units} patients, not {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def bootstrap_weights(
    patients: NDArray[np.int64],
    *,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
    strata: ArrayLike | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Blocks (b, units) of weights, `resamples` rows in all; the same rows for a seed whatever the block.

    patients: (units,) from `codes_of`
    strata: (units,) labels; patients are drawn within their stratum, so that a rare class is in every
        resample as often as in the data. A patient with several labels is a stratum of that combination.
    """
    if resamples < 1:
        raise ValueError(f"a bootstrap needs at least one resample, not {resamples}")
    generator = np.random.default_rng(seed)
    count = int(patients.max()) + 1 if len(patients) else 0
    groups = _groups(patients, count, strata)
    block = max(1, CELLS_AT_ONCE // max(len(patients), 1))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        times = np.zeros((rows, count))
        for row in times:  # one row after the other, so that blocks do not change what is drawn
            for group in groups:
                drawn = generator.integers(0, len(group), len(group))
                row[group] = np.bincount(drawn, minlength=len(group))
        yield times[:, patients]


def _groups(patients: NDArray[np.int64], count: int, strata: ArrayLike | None) -> list[NDArray[np.int64]]:
    if strata is None:
        return [np.arange(count)]
    labels = np.unique(np.asarray(strata), return_inverse=True)[1]
    present = np.zeros((count, int(labels.max()) + 1 if len(labels) else 0), dtype=np.bool_)
    present[patients, labels] = True
    kinds = np.unique(present, axis=0, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max()) + 1 if count else 0)]


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    patients: NDArray[np.int64],
    *,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
    strata: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """(resamples,) the statistic of every resample; NaN where it has no value there.

    statistic: (b, units) weights -> (b,) values
    """
    blocks = bootstrap_weights(patients, seed=seed, resamples=resamples, strata=strata)
    return np.concatenate([statistic(weights) for weights in blocks])


@dataclass(frozen=True, eq=False)
class Resamples:
    """The resamples of a report, drawn once: its intervals share them, and sums cost a product of matrices.

    times: (resamples, patients) how often each patient is in each resample
    codes: (units,) int64, the patient of each unit; what is summed may be other units of the same patients
    """

    times: NDArray[np.uint8]
    codes: NDArray[np.int64]

    @classmethod
    def draw(
        cls,
        patients: ArrayLike | None,
        units: int,
        *,
        seed: int,
        resamples: int = DEFAULT_RESAMPLES,
        strata: ArrayLike | None = None,
    ) -> "Resamples":
        """The resamples that `bootstrap` would draw for this seed."""
        codes = codes_of(patients, units)
        one = np.unique(codes, return_index=True)[1]  # a unit of each patient carries the patient's weight
        blocks = bootstrap_weights(codes, seed=seed, resamples=resamples, strata=strata)
        # nobody is drawn more than 255 times: with n patients that often has a chance below 1 / 255!
        return cls(np.concatenate([w[:, one].astype(np.uint8) for w in blocks]), codes)

    @property
    def patients(self) -> int:
        """How many patients were drawn from."""
        return int(self.times.shape[1])

    def of_units(self, units: NDArray[np.int64]) -> "Resamples":
        """The same resamples for other units, each given by the index of the unit that it belongs to."""
        return Resamples(self.times, self.codes[units])

    def sums(self, table: ArrayLike) -> NDArray[np.float64]:
        """(resamples, columns) the column sums of a (units, columns) table in each resample."""
        values = np.asarray(table, dtype=np.float64)
        if values.shape[:1] != self.codes.shape or values.ndim != 2:
            raise ValueError(f"a table of {values.shape} is not of {len(self.codes)} units")
        of_patients = np.zeros((self.patients, values.shape[1]))
        np.add.at(of_patients, self.codes, values)
        return np.concatenate([times.astype(np.float64) @ of_patients for times in self._blocks()])

    def draws(
        self,
        statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        order: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """(resamples, ...) the statistic of (b, units) weights; the units stand in `order` where it is given."""
        codes = self.codes if order is None else self.codes[order]
        blocks = self._blocks(len(codes))
        return np.concatenate([statistic(times[:, codes].astype(np.float64)) for times in blocks])

    def _blocks(self, width: int = 0) -> Iterator[NDArray[np.uint8]]:
        rows = max(1, CELLS_AT_ONCE // max(width, self.patients, 1))
        for start in range(0, len(self.times), rows):
            yield self.times[start : start + rows]


def percentile_interval(draws: NDArray[np.float64], drawn: str) -> tuple[float | None, float | None, str]:
    """The 2.5 and 97.5 percentiles and the words for the method (Efron and Tibshirani 1993, chapter 13).

    drawn: what was resampled, for the words, e.g. "812 patients"
    Where more than 5 % of the resamples have no value there is no interval, and the words say so. Nor is there
    one where all have the same: no error among 10 cases makes every resample perfect, and an interval of no
    width would claim certainty.
    """
    there = draws[np.isfinite(draws)]
    if len(there) < FEWEST_DRAWS * len(draws):
        return None, None, f"no interval: {len(draws) - len(there)} of {len(draws)} resamples have no value"
    if np.ptp(there) < NO_WIDTH:
        return None, None, f"no interval: every resample of {drawn} gives the same value"
    low, high = np.percentile(there, [2.5, 97.5])
    lost = f", {len(draws) - len(there)} without a value" if len(there) < len(draws) else ""
    return float(low), float(high), f"bootstrap of {drawn} ({len(draws)}{lost})"
