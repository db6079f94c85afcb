"""Agreement of readers, of phases and of a model with the reference: Cohen's and Fleiss' kappa. Pure."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats import inter_rater

from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.resampling import (
    DEFAULT_RESAMPLES,
    Resamples,
    bootstrap,
    codes_of,
    percentile_interval,
)

ALWAYS_ONE_ANSWER = "undefined: only one answer was ever given"
NO_CHOICE = "no interval: one of the two gave only one answer, and kappa is 0 whatever the other says"


def cohen_kappa(
    first: ArrayLike,
    second: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    interval: Literal["asymptotic", "bootstrap"] = "asymptotic",
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    resampled: Resamples | None = None,
) -> Estimate:
    """Cohen's kappa (po - pe) / (1 - pe) of two lists of answers about the same cases.

    Two readers; a reader and the reference; a model and the reference; one reader's two phases
    (intra-observer). Asymptotic: the variance of Fleiss, Cohen and Everitt (Psychol Bull 1969;72:323-7) as in
    statsmodels. With `patients` the interval is the bootstrap of patients, whatever was asked: the
    asymptotic one takes cases as independent. resampled: resamples of these cases to use for it; None draws them
    from seed. events: cases with the same answer.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"two lists of answers about the same cases have one length, not {a.shape} and {b.shape}"
        )
    n, same = len(a), int((a == b).sum())
    if not n:
        return undefined(0, 0, "undefined: no cases")
    answers, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    if len(answers) < 2:
        return undefined(n, same, ALWAYS_ONE_ANSWER)
    k = len(answers)
    cells = codes[:n] * k + codes[n:]
    table = np.bincount(cells, minlength=k * k).reshape(k, k)
    value = float(_kappas(table[None].astype(np.float64))[0])
    if same == n:
        return Estimate(value, None, None, n, same, "no interval: no disagreement was seen")
    if (table.sum(axis=0) > 0).sum() < 2 or (table.sum(axis=1) > 0).sum() < 2:
        return Estimate(value, None, None, n, same, NO_CHOICE)
    if interval == "asymptotic" and patients is None and resampled is None:
        with np.errstate(divide="ignore", invalid="ignore"):  # its test of kappa = 0, which is not used
            result = inter_rater.cohens_kappa(table)
        low, high = float(result.kappa_low), float(result.kappa_upp)
        return Estimate(value, max(low, -1.0), min(high, 1.0), n, same, "asymptotic (Fleiss-Cohen-Everitt)")
    one_hot = np.eye(k * k)[cells]  # (cases, k * k)
    if resampled is not None:
        shared = _kappas(resampled.sums(one_hot).reshape(-1, k, k))
        return Estimate(value, *_ordered(shared, f"{len(np.unique(resampled.codes))} patients", n, same))
    codes_of_patients = codes_of(patients, n)
    draws = bootstrap(
        lambda weights: _kappas((weights @ one_hot).reshape(-1, k, k)),
        codes_of_patients,
        seed=seed,
        resamples=resamples,
    )
    drawn = f"{n} cases" if patients is None else f"{codes_of_patients.max() + 1} patients"
    return Estimate(value, *_ordered(draws, drawn, n, same))


def fleiss_kappa(
    counts: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> Estimate:
    """Fleiss' kappa of all readers (Psychol Bull 1971;76:378-82), interval by bootstrap of cases or patients.

    counts: (cases, answers) how many readers gave each answer; the same number of readers for every case
    events: cases on which all readers agree.
    """
    table = np.asarray(counts)
    if table.ndim != 2 or (table < 0).any() or (table != np.round(table)).any():
        raise ValueError("Fleiss' kappa needs a table of cases by answers with numbers of readers in it")
    table = table.astype(np.float64)
    n = len(table)
    readers = table.sum(axis=1)
    if not n:
        return undefined(0, 0, "undefined: no cases")
    if (readers != readers[0]).any() or readers[0] < 2:
        raise ValueError(
            "Fleiss' kappa needs every case read by the same number of readers, two at least; "
            f"here between {int(readers.min())} and {int(readers.max())} read a case"
        )
    unanimous = int((table.max(axis=1) == readers[0]).sum())
    if (table.sum(axis=0) > 0).sum() < 2:
        return undefined(n, unanimous, ALWAYS_ONE_ANSWER)
    value = float(inter_rater.fleiss_kappa(table, method="fleiss"))
    if unanimous == n:
        return Estimate(value, None, None, n, unanimous, "no interval: no disagreement was seen")
    pairs = ((table**2).sum(axis=1) - readers) / (readers * (readers - 1))  # agreeing pairs of a case
    codes = codes_of(patients, n)

    def kappas(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = weights.sum(axis=1)
        shares = weights @ table / (total * readers[0])[:, None]
        return _beyond_chance(weights @ pairs / total, (shares**2).sum(axis=1))

    draws = bootstrap(kappas, codes, seed=seed, resamples=resamples)
    drawn = f"{n} cases" if patients is None else f"{codes.max() + 1} patients"
    return Estimate(value, *_ordered(draws, drawn, n, unanimous))


def answer_counts(answers: ArrayLike) -> NDArray[np.int64]:
    """(cases, answers) counts for `fleiss_kappa` from (readers, cases) answers; columns in sorted order."""
    given = np.asarray(answers)
    names = np.unique(given)
    return np.stack([(given == name).sum(axis=0) for name in names], axis=1)


def _kappas(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """(b,) Cohen's kappa of (b, k, k) tables; NaN where chance agreement is complete."""
    total = tables.sum(axis=(1, 2))
    total = np.where(total > 0, total, np.nan)  # a resample may have none of these cases
    observed = np.trace(tables, axis1=1, axis2=2) / total
    expected = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
    return _beyond_chance(observed, expected)


def _beyond_chance(observed: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    room = 1 - expected
    return np.divide(observed - expected, room, out=np.full_like(room, np.nan), where=room > 1e-12)


def _ordered(
    draws: NDArray[np.float64], drawn: str, n: int, events: int
) -> tuple[float | None, float | None, int, int, str]:
    low, high, method = percentile_interval(draws, drawn)
    return low, high, n, events, method
