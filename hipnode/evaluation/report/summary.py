"""The page that may be read alone: what was found, in words for a reader who is no statistician. Pure.

It is never more certain than the data: every share stands with its counts and the range the data allow.
"""

from hipnode.evaluation.record import ANY, Evaluation, ModelResult, Question, Readers, StratumRow
from hipnode.evaluation.report.document import Cell, Section, Table
from hipnode.evaluation.report.naming import CLASS_WORDS, Naming, group_words
from hipnode.evaluation.report.words import MINUS, article, count, listed, per_hundred, plural
from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.readers import AI, NO_AI

FEW = 10  # cases of a kind; below, nothing is said about it
MOST_GROUPS = 4  # named in the summary; all are in the tables
_COLUMNS = ("cases", "marked", "missed", "marked of 100", "others", "false alarms", "false alarms of 100")
_NOTES = (
    f"In brackets the range that so many cases allow. † fewer than {FEW} cases: nothing can be concluded.",
    "A fracture of another type is among the others here, so that a wrong type is a miss of one and a false alarm of "
    "another.",
)


def summary_section(evaluation: Evaluation, naming: Naming) -> Section:
    """One page in plain words; the first model in sentences, the classes and other models in a small table."""
    model = evaluation.models[0]
    question = model.any_fracture
    only = naming.question(ANY)
    with_it = only if len(naming.facts.classes) == 1 and only.lower() != "fracture" else "a fracture"
    lines = [
        _what(evaluation, model, naming, with_it),
        *_found(model, question, naming, with_it),
        *_alarms(question, naming, with_it),
        *_meaning(evaluation, question, naming, with_it),
        *_order(question, naming, with_it),
        *_type(model, naming),
        *_place(model),
        *_groups(model),
        *_readers(evaluation.readers),
        *_comparison(evaluation),
        f"These numbers are about {plural(naming.unit)} like the ones at hand. They say nothing about other patients, "
        "other scanners or another threshold, and nothing about errors of the reference itself.",
    ]
    return Section("In plain words", tuple(lines), _tables(evaluation, naming))


def of_hundred(estimate: Estimate) -> str:
    """ "91 of 100 (88 to 93)", the range in brackets being the 95 % interval; "not known" without value."""
    if estimate.value is None:
        return "not known"
    text = f"{per_hundred(estimate.value)} of 100"
    return f"{text} ({_range(estimate)})" if estimate.low is not None else text


def _range(estimate: Estimate) -> str:
    low, high = per_hundred(estimate.low or 0.0), per_hundred(estimate.high or 0.0)
    return low if low == high else f"{low} to {high}"


def _without(estimate: Estimate) -> Estimate:
    """One minus a share: of a specificity the false alarms."""
    if estimate.value is None or estimate.events is None:
        return estimate
    low = None if estimate.high is None else 1 - estimate.high
    high = None if estimate.low is None else 1 - estimate.low
    return Estimate(1 - estimate.value, low, high, estimate.n, estimate.n - estimate.events, estimate.method)


def _what(evaluation: Evaluation, model: ModelResult, naming: Naming, with_it: str) -> str:
    judged = evaluation.facts.judged
    several = len(evaluation.models)
    who = f"The model {model.name} was" if several == 1 else f"{several} models were"
    part = "" if judged.name == "all" else f" (the {judged.name} part of the labels)"
    text = (
        f"{who} held against the reference (the labels, taken as true) on {count(judged.units, naming.unit)} of "
        f"{count(judged.patients, 'patient')}{part}; by the reference {count(judged.positives.get(ANY, 0))} of them "
        f"{'has' if judged.positives.get(ANY, 0) == 1 else 'have'} {with_it}."
    )
    return text if several == 1 else f"{text} The sentences below are about the first, {model.name}."


def _found(model: ModelResult, question: Question, naming: Naming, with_it: str) -> list[str]:
    counts, found = question.used.counts, question.used.estimates["sensitivity"]
    if not counts.positives:
        return [
            f"No {naming.unit} here has {with_it}, so nothing can be said about what the model finds or misses."
        ]
    text = (
        f"What it finds: of {count(counts.positives, naming.unit)} with {with_it} it marked {count(counts.tp)} and "
        f"missed {count(counts.fn)}. That is {of_hundred(found)}; the range in brackets is what so many cases allow, "
        "and the share among other such cases probably lies in it."
    )
    if counts.positives < FEW:
        text += " So few cases can hardly show how good the model is."
    if model.optimistic:
        text += (
            " The threshold was chosen on these same cases, so this is better than what new cases will show."
        )
    lines = [text]
    silent = model.unread
    if silent.units:
        lines.append(
            f"{count(silent.units, naming.unit)} could not be read by the model and "
            f"{'is' if silent.units == 1 else 'are'} not in these numbers. With the fractures not read "
            f"({count(silent.positives.get(ANY, 0))}) counted as missed it finds "
            f"{of_hundred(silent.sensitivity_of_all)}."
        )
    return lines


def _alarms(question: Question, naming: Naming, with_it: str) -> list[str]:
    counts = question.used.counts
    if not counts.negatives:
        return [f"Every {naming.unit} here has {with_it}, so nothing can be said about false alarms."]
    alarms = _without(question.used.estimates["specificity"])
    return [
        f"False alarms: of {count(counts.negatives, naming.unit)} without it marked {count(counts.fp)} nevertheless: "
        f"{of_hundred(alarms)}.".replace("without it marked", f"without {with_it} it marked")
    ]


def _meaning(evaluation: Evaluation, question: Question, naming: Naming, with_it: str) -> list[str]:
    used = question.used
    counts = used.counts
    lines = []
    if counts.positives and counts.negatives and counts.tp + counts.fp:
        share = counts.positives / counts.n
        text = (
            f"What a mark means: of {count(counts.tp + counts.fp, naming.unit)} marked, {count(counts.tp)} had "
            f"{with_it}: {of_hundred(used.estimates['ppv'])}. This holds where {per_hundred(share)} of 100 have one, "
            "as here; where fractures are rarer, more of the marks are false alarms."
        )
        if used.at_prevalence is not None and evaluation.prevalence is not None:
            text += (
                f" At the prevalence given for the site, {evaluation.prevalence:.1%}, it would be "
                f"{of_hundred(used.at_prevalence[0])}."
            )
        lines.append(text)
    if counts.fn and counts.negatives:
        lines.append(
            f"No mark is no all-clear: of {count(counts.fn + counts.tn, naming.unit)} left unmarked "
            f"{count(counts.fn)} had {with_it} all the same."
        )
    return lines


def _order(question: Question, naming: Naming, with_it: str) -> list[str]:
    if question.auc.value is None:
        return []
    return [
        f"The order: of 100 pairs of {article(naming.unit)} with and one without {with_it} the one with it gets the "
        f"higher score in {of_hundred(question.auc).replace(' of 100', '')}; guessing would reach 50. This is the AUC, "
        "which depends on no threshold."
    ]


def _type(model: ModelResult, naming: Naming) -> list[str]:
    classes = len(naming.facts.classes)
    if classes < 2 or NO_FRACTURE not in model.outcomes:
        return []
    marked = int(model.confusion[:classes, :classes].sum())
    right = int(sum(model.confusion[k, k] for k in range(classes)))
    if not marked:
        return []
    return [f"The type: of {count(marked)} fractures it marked it named the type rightly in {count(right)}."]


def _place(model: ModelResult) -> list[str]:
    found = next((c for c in model.localisation.classes if c.name == ANY), None)
    if found is None or not found.lesions:
        return []
    return [
        f"The place: {count(found.lesions)} fractures are drawn in the reference; the model put a mark of the right "
        f"type at the right place on {of_hundred(found.right_place)}."
    ]


def _groups(model: ModelResult) -> list[str]:
    rows = [row for row in model.strata.rows if row.question == ANY and row.column != "y_class"]
    lines = []
    worse = [(row, metric) for row in rows for metric in row.flagged if _is_worse(row, metric)]
    if worse:
        named = [_group(row, metric) for row, metric in worse[:MOST_GROUPS]]
        more = f"; and {len(worse) - MOST_GROUPS} more in the tables" if len(worse) > MOST_GROUPS else ""
        lines.append(
            f"Where to be careful: it does worse in {'; '.join(named)}{more}. Of the {count(model.strata.intervals)} "
            f"comparisons made about {max(1, round(model.strata.intervals / 20))} would stand out by chance alone."
        )
    small = [f"{group_words(row.column)} {row.value}" for row in rows if 0 < row.events < FEW]
    if small:
        shown = listed(small[:6]) if len(small) <= 6 else ", ".join(small[:6]) + f" and {len(small) - 6} more"
        lines.append(f"Groups with fewer than {FEW} fractures, about which nothing is known: {shown}.")
    if not rows:
        lines.append(
            "The labels name no groups (age, sex, site), so nobody can say for whom it works less well."
        )
    return lines


def _is_worse(row: StratumRow, metric: str) -> bool:
    here = row.sensitivity if metric == "sensitivity" else row.specificity
    overall = row.overall_sensitivity if metric == "sensitivity" else row.overall_specificity
    return here.value is not None and overall is not None and here.value < overall


def _group(row: StratumRow, metric: str) -> str:
    if metric == "sensitivity":
        return f"{group_words(row.column)} {row.value} (finds {of_hundred(row.sensitivity)})"
    return f"{group_words(row.column)} {row.value} (false alarms in {of_hundred(_without(row.specificity))})"


def _readers(readers: Readers | None) -> list[str]:
    question = next((q for q in readers.questions if q.name == ANY), None) if readers is not None else None
    if readers is None or question is None:
        return []
    spread = {(s.metric, s.condition): s.mean for s in question.spreads}
    lines = []
    for metric, what in (("sensitivity", "fractures found"), ("specificity", "others rightly left unmarked")):
        before = next((v for (m, c), v in spread.items() if m == metric and c == NO_AI), None)
        after = next((v for (m, c), v in spread.items() if m == metric and c == AI), None)
        both = next(
            (d.difference for d in question.differences if d.reader is None and d.metric == metric), None
        )
        if before is None or after is None or both is None or both.value is None:
            continue
        text = f"{what}: {per_hundred(before)} of 100 without AI and {per_hundred(after)} with it"
        if both.low is not None and both.high is not None:
            shown = "; so small a difference may be chance" if both.low <= 0 <= both.high else ""
            text += f" ({_signed(both.value)} on the cases read both ways, range {_signed(both.low)} to "
            text += f"{_signed(both.high)}{shown})"
        lines.append(text)
    if not lines:
        return []
    limits = sum(check.state == "note" for check in readers.design)
    said = f" The design limits what this can say in {count(limits, 'point')}." if limits else ""
    return [f"People: {count(len(readers.readers), 'reader')}, on average {'; '.join(lines)}.{said}"]


def _signed(share: float) -> str:
    """A difference of shares in points of 100 with its sign: "+7", "−1", "0"."""
    points = round(share * 100)
    return f"{points:+d}".replace("-", MINUS) if points else "0"


def _comparison(evaluation: Evaluation) -> list[str]:
    lines = []
    for made in evaluation.comparisons:
        if made.question != ANY:
            continue
        gap = made.areas.difference
        if gap.value is None or gap.low is None or gap.high is None:
            continue
        better = made.first if gap.low > 0 else made.second if gap.high < 0 else None
        says = (
            f"{better} puts cases in better order"
            if better
            else "these cases do not show which of the two is better"
        )
        lines.append(f"{made.first} and {made.second}: {says} (by the AUC, on the same cases).")
    return lines


def _tables(evaluation: Evaluation, naming: Naming) -> tuple[Table, ...]:
    models = evaluation.models
    tables = []
    if len(naming.facts.classes) > 1:
        title = f"Each type of fracture: {models[0].name}" if len(models) > 1 else "Each type of fracture"
        rows = [_row(CLASS_WORDS.get(q.name, q.name), q) for q in models[0].classes]
        tables.append(Table("summary-classes", title, naming.unit, ("type", *_COLUMNS), tuple(rows), _NOTES))
    if len(models) > 1:
        rows = [_row(m.name, m.any_fracture) for m in models]
        title = f"Each model, {naming.question(ANY)}"
        tables.append(
            Table("summary-models", title, naming.unit, ("model", *_COLUMNS), tuple(rows), _NOTES[:1])
        )
    return tuple(tables)


def _row(name: str, question: Question) -> tuple[Cell, ...]:
    counts, found = question.used.counts, question.used.estimates
    return (
        name, counts.positives, counts.tp, counts.fn, _words(found["sensitivity"]), counts.negatives, counts.fp,
        _words(_without(found["specificity"])),
    )  # fmt: skip


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not known"
    mark = "†" if estimate.n < FEW else ""
    return f"{per_hundred(estimate.value)} ({_range(estimate)}){mark}"
