"""Two models on the same units: areas, sensitivity, specificity and accuracy in pairs. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.record import Comparison, PairedDifference
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import OF_NOTHING, share_by_patient
from hipnode.evaluation.statistics.readers import Metric, mcnemar
from hipnode.evaluation.statistics.resampling import Resamples, percentile_interval
from hipnode.evaluation.statistics.roc import compare_areas

METRICS: tuple[Metric, ...] = ("sensitivity", "specificity", "accuracy")


def compare(
    names: tuple[str, str],
    question: str,
    truth: NDArray[np.bool_],
    scores: Sequence[NDArray[np.float64]],
    called: Sequence[NDArray[np.bool_]],
    patients: NDArray[np.int64],
    resampled: Resamples,
) -> Comparison:
    """First against second on (n,) truth. scores, called: of both, (n,) each; resampled: of these units."""
    clustered = resampled.patients < len(truth)
    areas = compare_areas(truth, scores[0], scores[1], patients if clustered else None)
    asked = {"sensitivity": truth, "specificity": ~truth, "accuracy": np.ones_like(truth)}
    right = [c == truth for c in called]
    differences = tuple(_difference(m, asked[m], right, patients, resampled) for m in METRICS)
    return Comparison(names[0], names[1], question, areas, differences)


def _difference(
    metric: Metric,
    asked: NDArray[np.bool_],
    right: Sequence[NDArray[np.bool_]],
    patients: NDArray[np.int64],
    resampled: Resamples,
) -> PairedDifference:
    first, second = (share_by_patient(r[asked], patients[asked]) for r in right)
    lost, gained = int((right[0] & ~right[1] & asked).sum()), int((~right[0] & right[1] & asked).sum())
    n = int(asked.sum())
    test = mcnemar(lost, gained)
    if not n:
        return PairedDifference(metric, first, second, Estimate(None, None, None, 0, 0, OF_NOTHING), test)
    apart = (right[0].astype(np.float64) - right[1]) * asked
    sums = resampled.sums(np.column_stack([apart, asked]))
    draws = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    low, high, method = percentile_interval(draws, f"{resampled.patients} patients")
    value = (lost - gained) / n
    return PairedDifference(
        metric,
        first,
        second,
        Estimate(value, low, high, n, lost + gained, method if low is None else f"paired {method}"),
        test,
    )
