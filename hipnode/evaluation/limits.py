"""What must hold among the numbers, and what limits them, in sentences that stand above the report. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from hipnode.evaluation.cases import ALL, Cases
from hipnode.evaluation.record import ANY, CaseFacts, Identity, ModelResult, Readers
from hipnode.evaluation.report.words import count
from hipnode.evaluation.statistics.counts import Counts, micro_specificity

FEW_UNITS = 100
FEW_EVENTS = 10
CLOSE = 1e-9


class _Asked(Protocol):
    @property
    def prevalence(self) -> float | None: ...


def identities(model: ModelResult) -> tuple[Identity, ...]:
    """Identities among the numbers of a model, each tried on the numbers that are printed."""
    tables = {"multi-label": model.multi_label, "single-label": model.single_label}
    made = []
    for view, table in tables.items():
        between = [row.name for row in table.rows if not _between(row.counts)]
        says = f"accuracy lies between sensitivity and specificity in each of {len(table.rows)} classes"
        made.append(_identity(f"{model.name}, {view}: weighted mean", not between, says, ", ".join(between)))
        sizes = {row.counts.n for row in table.rows}
        says = f"the four counts of every class add up to the same {min(sizes, default=0)} units"
        made.append(_identity(f"{model.name}, {view}: totals", len(sizes) == 1, says, str(sorted(sizes))))
    single = model.single_label
    accuracy, k = model.accuracy.value, len(model.outcomes)
    if accuracy is not None:
        micro = single.micro["sensitivity"].value
        says = f"micro sensitivity over {k} outcomes is the accuracy, {accuracy:.4f}"
        made.append(
            _identity(f"{model.name}: micro sensitivity", _close(micro, accuracy), says, f"it is {micro}")
        )
        micro, wanted = single.micro["specificity"].value, micro_specificity(accuracy, k)
        says = f"micro specificity is 1 - (1 - accuracy) / ({k} - 1), {wanted:.4f}"
        made.append(
            _identity(f"{model.name}: micro specificity", _close(micro, wanted), says, f"it is {micro}")
        )
    for place in model.localisation.classes:
        if place.pixels is None:
            continue
        iou, dice = (place.pixels.pooled[name].value for name in ("iou", "dice"))
        if iou is not None:
            says = f"pooled Dice of {place.name} is 2 IoU / (1 + IoU)"
            made.append(
                _identity(f"{model.name}: Dice", _close(dice, 2 * iou / (1 + iou)), says, f"it is {dice}")
            )
    return tuple(made)


def _identity(name: str, holds: bool, says: str, otherwise: str) -> Identity:
    return Identity(name, holds, says if holds else f"does not hold: {says} ({otherwise})")


def _between(counts: Counts) -> bool:
    values = [counts.value(name) for name in ("accuracy", "sensitivity", "specificity")]
    accuracy, known = values[0], [v for v in values[1:] if v is not None]
    return accuracy is None or min(known) - CLOSE <= accuracy <= max(known) + CLOSE


def _close(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) < CLOSE


def warnings(
    facts: CaseFacts,
    models: Sequence[ModelResult],
    validation: Mapping[str, Cases | None],
    readers: Readers | None,
    asked: _Asked,
) -> tuple[str, ...]:
    """What a reader must know before the numbers, one sentence each; the gravest first."""
    said = [*_of_cases(facts)]
    for model in models:
        said += _of_model(model, facts, validation[model.name])
    if facts.clustered:
        said.append(
            f"{count(facts.judged.units, facts.unit)} of {count(facts.judged.patients, 'patient')}: intervals of "
            "proportions are widened for units of one patient, and the bootstrap draws patients. Tests of McNemar and "
            "the intervals of predictive values at another prevalence count every unit as independent."
        )
    if asked.prevalence is None:
        share = facts.judged.positives[ANY] / facts.judged.units
        said.append(
            f"Predictive values are those of a sample in which {share:.0%} of the {facts.unit}s have a fracture; for "
            "the prevalence of a clinic give --prevalence."
        )
    if readers is not None and len(models) > 1:
        said.append(f"The answers of {readers.ai_model} count as the AI of the reader study.")
    return tuple(dict.fromkeys(said))


def _of_cases(facts: CaseFacts) -> list[str]:
    judged, unit = facts.judged, facts.unit
    n, positives = judged.units, judged.positives
    said = []
    if n < FEW_UNITS:
        said.append(
            f"Only {count(n, unit)} to judge by: no number here is precise, see the width of its interval."
        )
    if not positives[ANY]:
        said.append(
            f"No {unit} has a fracture: nothing can be said about what is found, only about false alarms."
        )
    if positives[ANY] == n:
        said.append(f"Every {unit} has a fracture: nothing can be said about false alarms.")
    if len(facts.classes) > 1:
        empty = [name for name in facts.classes if not positives[name]]
        few = [f"{name} ({positives[name]})" for name in facts.classes if 0 < positives[name] < FEW_EVENTS]
        if empty and positives[ANY]:
            said.append(
                f"No {unit} has {', '.join(empty)}: how often it is found is undefined and in no average."
            )
        if few:
            said.append(f"Fewer than {FEW_EVENTS} {unit}s have {', '.join(few)}: its numbers say little.")
    elif 0 < positives[ANY] < FEW_EVENTS:
        said.append(
            f"Only {count(positives[ANY], unit)} with a fracture: what is said about finding it says little."
        )
    if 0 < n - positives[ANY] < FEW_EVENTS:
        said.append(f"Only {count(n - positives[ANY], unit)} without a fracture: specificity says little.")
    if judged.name == ALL:
        said.append(
            "The labels name no split: whether the model was trained or tuned on these cases cannot be seen here."
        )
    if unit == "hip or image":
        said.append(
            "Some rows are hips and others whole images; n mixes both, and numbers cannot be compared with those of "
            "either unit. Label every row by hip, or none."
        )
    if facts.several_classes:
        said.append(
            f"Left out of the single-label view: {count(facts.several_classes, unit)} with more than one class."
        )
    return said


def _of_model(model: ModelResult, facts: CaseFacts, validation: Cases | None) -> list[str]:
    said, unit = [], facts.unit
    same = [t.class_name for t in model.thresholds if t.chosen_on == "same cases"]
    if same:
        said.append(
            f"{model.name}: the threshold of {', '.join(same)} was chosen on the cases it is judged on, so that "
            "sensitivity and specificity are too good; give --threshold, or labels with a validation split."
        )
    without = [t.class_name for t in model.thresholds if t.chosen_on == "convention"]
    if without:
        said.append(
            f"{model.name}: no case could tell a threshold of {', '.join(without)}; 0.5 was taken by convention."
        )
    if validation is not None and any(t.chosen_on == "validation" for t in model.thresholds):
        counts = zip(validation.classes, validation.truth.sum(axis=0).tolist(), strict=True)
        few = [f"{name} ({n})" for name, n in counts if n < FEW_EVENTS]
        if few:
            said.append(
                f"{model.name}: the validation part has fewer than {FEW_EVENTS} {unit}s of {', '.join(few)}; "
                "thresholds and calibration chosen on it may not hold."
            )
    points = (p for q in (model.any_fracture, *model.classes) for p in q.points)
    some = "the " if validation is None else "some of the "
    if not same and any(p.chosen_on == "same cases" for p in points):
        said.append(
            f"{model.name}: {some}other operating points (Youden, 95 % sensitivity, 90 % specificity) were chosen on "
            "the cases they are judged on and are too good; the thresholds in use were not."
        )
    if model.unread.units:
        n = model.unread.units
        said.append(
            f"{model.name} did not read {n:,} of {count(facts.judged.units, unit)}, {model.unread.positives[ANY]} of "
            "them with a fracture; they are in no number but the sensitivity among all."
        )
    if any(c.fitted_on == "cross-fitted" for c in model.any_fracture.calibration if not c.says):
        said.append(
            f"{model.name}: there is no validation part; calibration is shown cross-fitted over five folds of "
            "patients of the judged cases, and no calibrator is kept."
        )
    return said
