"""How often the 95 % intervals of the evaluation hold the truth, on simulated studies of known answer."""

from collections.abc import Callable

import numpy as np
import typer
from scipy.stats import norm

from hipnode.evaluation.statistics.agreement import cohen_kappa
from hipnode.evaluation.statistics.counts import class_table
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import share_by_patient, wilson
from hipnode.evaluation.statistics.operating import at_threshold, predictive_values
from hipnode.evaluation.statistics.readers import CONDITIONS, mean_difference, panel
from hipnode.evaluation.statistics.roc import auc as auc_of
from hipnode.evaluation.statistics.roc import average_precision, delong

STUDIES = 1000
RESAMPLES = 1000
MANY = 400_000  # units of the simulation that stands for the truth where there is no formula
GAP = 1.5  # deviations between the scores of the classes
CUT = 0.75

Generator = np.random.Generator
Scored = tuple[np.ndarray, np.ndarray, np.ndarray]


def films(generator: Generator, n: int, share: float) -> Scored:
    """Labels, scores and patients: one film each."""
    labels = generator.random(n) < share
    return labels, generator.normal(size=n) + GAP * labels, np.arange(n)


def hips(generator: Generator, patients: int) -> Scored:
    """Labels, scores and patients: two hips each, alike in both."""
    who = np.repeat(np.arange(patients), 2)
    frail = np.repeat(generator.normal(size=patients), 2)
    labels = generator.random(2 * patients) < norm.cdf(frail - 0.5)
    return labels, labels + frail + generator.normal(size=2 * patients), who


def reader_study(generator: Generator, readers: int, cases: int) -> Estimate:
    """The two-way interval of the accuracy gained; on average over readers and cases 0.08."""
    truth = {f"c{i}": bool(i % 2) for i in range(cases)}
    hard = generator.normal(0, 0.08, cases)
    rows = []
    for r in range(readers):
        for condition, chance in zip(CONDITIONS, (0.74, 0.82), strict=True):
            own = generator.normal(0, 0.04)
            right = generator.random(cases) < chance + own + hard
            rows += [
                (c, f"r{r}", condition, t == ok) for (c, t), ok in zip(truth.items(), right, strict=True)
            ]
    reads = panel(*zip(*rows, strict=True), truth)
    return mean_difference(reads, "accuracy", seed=int(generator.integers(2**31)), resamples=RESAMPLES)


def agreeing(generator: Generator, n: int) -> Estimate:
    """Two readers who give the same of three answers 70 % of the time and else guess: kappa .7."""
    first, guess = generator.integers(0, 3, (2, n))
    return cohen_kappa(first, np.where(generator.random(n) < 0.7, first, guess))


def found(scored: Scored, by_patient: bool = True) -> Estimate:
    """Sensitivity at CUT, with the interval that knows the patients or with Wilson's of the hips."""
    labels, scores, who = scored
    return share_by_patient(scores[labels] >= CUT, who[labels] if by_patient else None)


def f1_of(scored: Scored) -> Estimate:
    """F1 at CUT, bootstrap of patients."""
    labels, scores, who = scored
    table = class_table(
        labels[:, None], scores[:, None] >= CUT, ["any"], seed=1, patients=who, resamples=RESAMPLES
    )
    return table.rows[0].estimates["f1"]


def elsewhere(scored: Scored) -> Estimate:
    """PPV at a prevalence of 5 %, Mercaldo's limits."""
    return predictive_values(at_threshold(scored[0], scored[1], CUT), 0.05)[0]


def covered(truth: float, study: Callable[[Generator], Estimate], seed: int) -> tuple[float, int]:
    """The share of studies whose interval holds the truth, and how many had no interval."""
    generator = np.random.default_rng(seed)
    estimates = [study(generator) for _ in range(STUDIES)]
    there = [e for e in estimates if e.low is not None and e.high is not None]
    return sum(e.low <= truth <= e.high for e in there) / len(there), STUDIES - len(there)


def main() -> None:
    """Print the coverage of each interval; 95 % is meant, and 1,000 studies tell it to about 1.4 points."""
    big = np.random.default_rng(0)
    area = float(norm.cdf(GAP / 2**0.5))
    labels, scores, _ = films(big, MANY, 0.3)
    precision = average_precision(labels, scores, resamples=1).value
    many_hips = hips(big, MANY // 2)
    clustered = delong(*many_hips[:2]).value
    sensitivity = float((many_hips[1][many_hips[0]] >= CUT).mean())
    called = many_hips[1] >= CUT
    f1 = float(2 * (called & many_hips[0]).sum() / (called.sum() + many_hips[0].sum()))
    se, alarms = float(norm.sf(CUT - GAP)), float(norm.sf(CUT))
    ppv = 0.05 * se / (0.05 * se + 0.95 * alarms)
    draw = {"resamples": RESAMPLES}
    rows: list[tuple[str, float, Callable[[Generator], Estimate]]] = [
        ("Wilson, 54 of 60 expected", 0.9, lambda g: wilson(int(g.binomial(60, 0.9)), 60)),
        ("sensitivity by patient, 200 x 2 hips", sensitivity, lambda g: found(hips(g, 200))),
        (
            "sensitivity as if hips were patients",
            sensitivity,
            lambda g: found(hips(g, 200), by_patient=False),
        ),
        ("F1 by patient, 200 x 2 hips", f1, lambda g: f1_of(hips(g, 200))),
        ("PPV at 5 %, Mercaldo, 300 films", ppv, lambda g: elsewhere(films(g, 300, 0.3))),
        ("AUC, DeLong, 300 films", area, lambda g: delong(*films(g, 300, 0.3))),
        ("AUC, bootstrap, 80 films", area, lambda g: auc_of(*films(g, 80, 0.3), **draw)),
        ("AUC, DeLong by patient, 200 x 2 hips", clustered, lambda g: delong(*hips(g, 200))),
        ("AUC, DeLong as if hips were patients", clustered, lambda g: delong(*hips(g, 200)[:2])),
        ("average precision, 300 films", precision, lambda g: average_precision(*films(g, 300, 0.3), **draw)),
        ("kappa, asymptotic, 150 cases", 0.7, lambda g: agreeing(g, 150)),
        ("gain with AI, two-way, 6 readers x 120", 0.08, lambda g: reader_study(g, 6, 120)),
    ]
    typer.echo(f"interval (95 %, {STUDIES} studies)               holds the truth   no interval")
    for name, truth, study in rows:
        share, without = covered(truth, study, seed=1)
        typer.echo(f"{name:<42} {share:>14.1%} {without:>13}")


if __name__ == "__main__":
    main()
