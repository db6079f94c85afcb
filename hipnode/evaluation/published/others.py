"""The tables of the three other reference papers for one's own cases, beside what they print. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction

from hipnode.evaluation.published.printed import (
    ACCURACY_BATH,
    AUC_BATH,
    BATH2022,
    HOSPITAL_BATH,
    JACCARD,
    KAPPA_BATH,
    PELVIXNET,
    PELVIXNET2021,
    PELVIXNET_COUNTS,
    PELVIXNET_CUT,
    PELVIXNET_FOUND,
    WRIST,
    WRIST2018,
    WRIST_COUNTS,
    between,
    wald,
)
from hipnode.evaluation.record import Calibration, Point, Question, StratumRow
from hipnode.evaluation.report.document import Cell, Table
from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.statistics.counts import Counts, rounds_to
from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.localisation import JaccardSummary
from hipnode.evaluation.statistics.roc import hanley_mcneil

PROPORTIONS = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
}
ECE_BINS = 15


def bath(
    unit: str,
    accuracy: Estimate,
    kappa: Estimate,
    areas: Mapping[str, Estimate],
    jaccard: JaccardSummary | None,
    comparator: Sequence[Estimate] = (),
    ending: str = "",
) -> Table:
    """Crop stage, classes and gain over readers in the form of Sci Rep 2022;12:2058.

    areas: class -> AUC, N (no fracture) among them. comparator: the accuracy of each reader without AI; none,
    and there is no gain. Raises ValueError for a comparator without value.
    """
    rows: list[tuple[Cell, ...]] = []
    if jaccard is not None:
        crops = jaccard.above_half.n
        spread = "" if jaccard.sd is None else f" (SD {jaccard.sd:.2f})"
        mean = None if jaccard.mean is None else f"{jaccard.mean:.2f}{spread}"
        rows += [
            ("Jaccard index, mean of reference boxes", crops, None, mean, JACCARD["mean"]),
            ("Jaccard index above 0.5", crops, jaccard.above_half.events, jaccard.above_half, JACCARD["half"]),
            ("Jaccard index above 0.7", crops, jaccard.above_seven_tenths.events, jaccard.above_seven_tenths,
             JACCARD["seven"]),
        ]  # fmt: skip
    rows.append(_row("Accuracy, one answer each", accuracy, ACCURACY_BATH))
    rows.append(_row("Cohen's kappa against the reference", kappa, KAPPA_BATH))
    for name, area in areas.items():
        none = name == NO_FRACTURE
        rows.append(
            _row(f"AUC of {'no fracture' if none else name}", area, AUC_BATH["no fracture"] if none else None)
        )
    if comparator:
        known = [each.value for each in comparator if each.value is not None]
        if len(known) != len(comparator):
            raise ValueError("a reader without any read is no comparator")
        human = sum(known) / len(known)
        reads = sum(each.n for each in comparator)
        rows.append(
            (f"Accuracy of {len(known)} reader{'s'[: len(known) - 1]} without AI, mean", reads, None, human,
             f"{HOSPITAL_BATH} (original diagnosis)")
        )  # fmt: skip
        absolute, relative = _gain(float(ACCURACY_BATH), float(HOSPITAL_BATH))
        if accuracy.value is not None:
            points, share = _gain(accuracy.value, human)
            rows += [
                ("Gain over them, points", accuracy.n, None, f"{100 * points:.1f}", f"{100 * absolute:.1f}"),
                (
                    "Gain over them, relative %", accuracy.n, None,
                    "-" if share is None else f"{100 * share:.1f}", f"{100 * (relative or 0):.1f}",
                ),
            ]  # fmt: skip
    low, high = _kappa_n()
    gain_notes = ("The gains have no interval here: readers and model are compared in their own tables.",)
    if not comparator:
        gain_notes = ("No reads without AI were given, so that no gain over readers can be told.",)
    return Table(
        f"bath2022{ending}",
        "Crops, classes and gain over readers",
        unit,
        ("Measure", "n", "Events", "Here", "Printed"),
        tuple(rows),
        (
            f"Printed: {BATH2022}, three outcomes: no fracture, trochanteric (AUC {AUC_BATH['trochanteric']}), "
            f"intracapsular (AUC {AUC_BATH['intracapsular']}).",
            "AUC of no fracture is that of any fracture, seen from the other side.",
            "The paper's gain of 19 % is relative, 100 (0.92 - 0.775) / 0.775; in points of accuracy it is 14.5. "
            "A relative gain looks larger the worse the readers are.",
            f"An accuracy of {ACCURACY_BATH} and a kappa of {KAPPA_BATH} go together for about {low} to {high} hips.",
            *gain_notes,
        ),
    )


def pelvixnet(question: Question, unit: str, ending: str = "") -> Table:
    """Any fracture at the threshold in use, in the form of Nat Commun 2021;12:1066, with its limits and Wilson's."""
    counts = question.used.counts
    public = PELVIXNET_COUNTS.proportions()
    rows: list[tuple[Cell, ...]] = []
    for name, label in PROPORTIONS.items():
        here = question.used.estimates[name]
        rows.append(
            (*_row(label, here)[:4], _limits(here), PELVIXNET.get(name), public[name], _limits(public[name]))
        )
    rows.append(
        (*_row("AUROC", question.auc)[:4], None, PELVIXNET["auc"], "0.9729 (DeLong 0.9647-0.9811)", None)
    )
    ap = question.average_precision
    rows.append(
        (
            *_row("AUPRC (average precision)", ap)[:4],
            None,
            PELVIXNET["ap"],
            "0.9633 (bootstrap 0.954-0.972)",
            None,
        )
    )
    given = next((c for c in question.calibration if c.name == "as given"), None)
    rows.append((*_row(f"ECE, {ECE_BINS} bins", _of(given, "ece", question))[:4], None, None, "0.030", None))
    rows.append((*_row("Brier score", _of(given, "brier", question))[:4], None, None, "0.051", None))
    best = _youden(question)
    if best is not None:
        gain = None if best.youden is None else f"{best.youden:.3f} at {_at(best)}{_too_good(best)}"
        rows.append(
            ("Youden's J, highest", counts.n, counts.positives, gain, None, None, "0.848 at 0.294", None)
        )
    return Table(
        f"pelvixnet2021{ending}",
        f"Any fracture at the threshold in use ({_at(question.used)})",
        unit,
        (
            "Measure", "n", "Events", "Here", "Wald limits", "Printed",
            "From the paper's public table", "Its Wald limits",
        ),
        tuple(rows),
        (
            f"Printed: {PELVIXNET2021}; 1,888 films, 619 abnormal, threshold {PELVIXNET_CUT}. Its public "
            "table gives " + ", ".join(f"{k.upper()} {n:,}" for k, n in asdict(PELVIXNET_COUNTS).items()) + ".",
            *_misprint(),
            "Wald limits are for comparison with papers; they are too narrow near 0 and 1. Ours are Wilson's.",
            "The paper's interval of the AUROC is wider than DeLong's; its script averages pointwise bands.",
        ),
    )  # fmt: skip


def pelvixnet_findings(strata: Sequence[StratumRow], unit: str, ending: str = "") -> Table | None:
    """Share of each finding in which any fracture was called. strata: rows of one column, for any fracture.

    None without a row that has a fracture.
    """
    rows: list[tuple[Cell, ...]] = [
        (row.value, row.sensitivity.n, row.sensitivity.events, row.sensitivity)
        for row in strata
        if row.events
    ]
    if not rows:
        return None
    rows += [(f"{name}, printed", n, found, wilson(found, n)) for name, (found, n) in PELVIXNET_FOUND.items()]
    return Table(
        f"pelvixnet2021-findings{ending}",
        f"{unit.capitalize()}s called, whatever the class, by finding",
        unit,
        ("Finding", "n", "Events (called)", "Called of all"),
        tuple(rows),
        (
            f"Printed: counts at {PELVIXNET_CUT} from the public table of {PELVIXNET2021}; a film can have several "
            "findings.",
        ),
    )


def wrist(question: Question, unit: str, ending: str = "") -> Table:
    """Any fracture at Youden's threshold, in the form of Clin Radiol 2018;73:439-445."""
    public = WRIST_COUNTS.proportions()
    best = _youden(question)
    rows: list[tuple[Cell, ...]] = []
    for name in ("sensitivity", "specificity"):
        why = undefined(question.used.counts.n, None, "undefined: one class only")
        here = why if best is None else best.estimates[name]
        rows.append((*_row(PROPORTIONS[name], here)[:4], WRIST[name], public[name]))
    area = question.auc
    counts = question.used.counts
    theirs = hanley_mcneil(float(WRIST["auc"]), WRIST_COUNTS.positives, WRIST_COUNTS.negatives)
    rows.append((*_row("AUC", area)[:4], WRIST["auc"], theirs))
    if area.value is not None:
        simple = hanley_mcneil(area.value, counts.positives, counts.negatives)
        rows.append((*_row("AUC, Hanley-McNeil limits", simple)[:4], WRIST["auc"], theirs))
    words = "-" if best is None else f"{_at(best)}{_too_good(best)}"
    return Table(
        f"wrist2018{ending}",
        f"Any fracture at Youden's threshold ({words})",
        unit,
        ("Measure", "n", "Events", "Here", "Printed", "Printed, with the limits its counts allow"),
        tuple(rows),
        (
            f"Printed: {WRIST2018}; 50 films with and 50 without a fracture of the wrist; no limits are printed.",
            "Hanley-McNeil limits need only the area and two numbers of cases and assume the shape of the curve.",
            "The paper took the cut-off that does best. Judged on the cases it was chosen on, it looks too good.",
        ),
    )


def _row(label: str, here: Estimate, printed: str | None = None) -> tuple[Cell, ...]:
    return label, here.n, here.events, here, printed


def _gain(ours: float, theirs: float) -> tuple[float, float | None]:
    return ours - theirs, (ours - theirs) / theirs if theirs else None


def _limits(estimate: Estimate) -> str | None:
    """Wald limits of a proportion whose events are its successes; none at 0 and 1, where they have no width."""
    if estimate.events is None or estimate.events in (0, estimate.n):
        return None
    limits = wald(estimate.events, estimate.n)
    return None if limits is None else f"{limits[0]:.3f}-{limits[1]:.3f}"


def _of(given: Calibration | None, name: str, question: Question) -> Estimate:
    found = None if given is None else getattr(given, name)
    counts = question.used.counts
    return (
        found
        if isinstance(found, Estimate)
        else undefined(counts.n, counts.positives, "undefined: see calibration")
    )


def _youden(question: Question) -> Point | None:
    return next((point for point in question.points if point.rule == "Youden"), None)


def _at(point: Point) -> str:
    return "one for each class" if point.threshold is None else f"{point.threshold:.3g}"


def _too_good(point: Point) -> str:
    return ", chosen on these cases, so too good" if point.chosen_on == "same cases" else ""


def _misprint() -> tuple[str, ...]:
    """What arithmetic says about the printed limits of PelviXNet's sensitivity."""
    counts: Counts = PELVIXNET_COUNTS
    value, _, limits = PELVIXNET["sensitivity"].partition(" ")
    _, _, upper = limits.strip("()").partition("-")
    exact = wald(counts.tp, counts.positives)
    if exact is None or rounds_to(upper)[1] >= Fraction(exact[1]):
        return ()
    return (
        f"The printed upper limit of sensitivity, {upper}, is {'the value itself' if upper == value else 'too low'} "
        f"and cannot be a limit: {counts.tp} of {counts.positives} give {between(_fractions(exact))} (Wald).",
    )


def _fractions(limits: tuple[float, float]) -> tuple[Fraction, Fraction]:
    return Fraction(limits[0]), Fraction(limits[1])


def _kappa_n() -> tuple[int, int]:
    """Between how many cases kappa's printed interval and accuracy allow: var = po (1 - po) / (n (1 - pe)^2).

    The large-sample variance with the margins taken as known (Cohen, Educ Psychol Meas 1960;20:37-46).
    """
    kappa, _, limits = KAPPA_BATH.partition(" ")
    low, _, high = limits.strip("()").partition("-")
    sizes = []
    for narrow in (0, 1):
        width = (rounds_to(high)[1 - narrow] - rounds_to(low)[narrow]) / 2
        accuracy = float(ACCURACY_BATH)
        room = (1 - accuracy) / (1 - float(kappa))  # 1 - pe, as 1 - kappa = (1 - po) / (1 - pe)
        error = float(width) / 1.96
        sizes.append(accuracy * (1 - accuracy) / (error * room) ** 2)
    return 10 * round(min(sizes) / 10), 10 * round(max(sizes) / 10)
