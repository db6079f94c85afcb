"""What one model says of the cases: counts, classes, thresholds and curves, as sections. Pure."""

from collections.abc import Sequence

from hipnode.evaluation.record import ANY, ModelResult, Point, Question
from hipnode.evaluation.report.charts import confusion_figure
from hipnode.evaluation.report.curves import Line, Mark, precision_figure, roc_figure, score_figure
from hipnode.evaluation.report.document import Cell, Figure, Section, Table
from hipnode.evaluation.report.naming import CHOSEN_WORDS, COUNT_COLUMNS, Naming, counts_of
from hipnode.evaluation.report.words import count, listed, with_interval
from hipnode.evaluation.review import KINDS
from hipnode.evaluation.statistics.counts import AVERAGED, ClassTable

PROPORTIONS = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1", "balanced_accuracy")
PROPORTION_COLUMNS = ("sensitivity", "specificity", "PPV", "NPV", "accuracy", "F1", "balanced acc.")


def class_section(model: ModelResult, naming: Naming) -> Section:
    """Any fracture, and each class in both views, with the confusion matrix."""
    several = naming.facts.several_classes
    views = [
        "In the multi-label view each class is called from its own threshold, so that one unit may get several "
        "classes. In the single-label view every unit gets one answer: the best class that was called, or N (no "
        "fracture). Each table says which view it uses."
    ]
    if several:
        views.append(
            f"{count(several, naming.unit)} with more than one class in the reference "
            f"{'is' if several == 1 else 'are'} no part of the single-label view."
        )
    parts: list[Table | Figure] = [_used_table(model, naming)]
    if len(naming.facts.classes) > 1:
        parts.append(
            _class_table(model.multi_label, "classes-multi-label", "Each class, multi-label view", naming)
        )
    title = "Each outcome, single-label view"
    parts.append(_class_table(model.single_label, "classes-single-label", title, naming))
    parts.append(
        confusion_figure(
            naming.part("confusion"), naming.title("Confusion matrix, single-label view"), model.confusion,
            model.outcomes, naming.unit,
        )
    )  # fmt: skip
    agreed = (
        f"In the single-label view the model names the right one of {len(model.outcomes)} outcomes with accuracy "
        f"{with_interval(model.accuracy)}; Cohen's kappa against the reference is {with_interval(model.kappa)}."
    )
    return Section(naming.title("Classes"), (*views, agreed), tuple(parts))


def threshold_section(model: ModelResult, naming: Naming) -> Section:
    """The thresholds in use, what others would do, predictive values at the site's prevalence, two levels."""
    rows = tuple((t.class_name, t.value, t.says) for t in model.thresholds)
    scores = f"Scores: {model.score_from}; compared with four decimals."
    if model.score_from == "boxes":
        scores += (
            f" Boxes below {model.rule.tau_min:g} are dropped, overlaps above {model.rule.nms_iou:g} merged."
        )
    if model.rule.valgus_priority is not None:
        scores += f" VF is named before DF from a score of {model.rule.valgus_priority:g} on."
    used = Table(
        naming.part("thresholds"), naming.title("Thresholds in use"), naming.unit,
        ("class", "threshold", "where it comes from"), rows, (scores,),
    )  # fmt: skip
    points = Table(
        naming.part("operating-points"), naming.title("Thresholds in use, and others"), naming.unit,
        ("class", "rule", "threshold", *COUNT_COLUMNS, "sensitivity", "specificity", "PPV", "NPV", "Youden J"),
        tuple(
            (naming.question(q.name), _rule(q, p), p.threshold, *counts_of(p),
             *(p.estimates[m] for m in ("sensitivity", "specificity", "ppv", "npv")), p.youden)
            for q in naming.questions(model) for p in _different(q)
        ),
        ("PPV and NPV as among these cases; with another share of fractures they are others.",),
    )  # fmt: skip
    parts: list[Table | Figure] = [used, points]
    restated = _restated(model, naming)
    parts += [restated] if restated is not None else []
    words = ["A case is called when its score is at or above the threshold."]
    levels, why = _levels(naming.questions(model), naming)
    parts += [levels] if levels is not None else []
    return Section(naming.title("Thresholds"), (*words, *why), tuple(parts))


def curve_section(model: ModelResult, naming: Naming) -> Section:
    """ROC and precision-recall curves with their areas, and the scores."""
    questions = naming.questions(model)
    areas = Table(
        naming.part("areas"), naming.title("Areas under the curves"), naming.unit,
        ("class", "n", "positives", "AUC", "average precision"),
        tuple(
            (naming.question(q.name), q.curve.positives + q.curve.negatives, q.curve.positives, q.auc,
             q.average_precision)
            for q in questions
        ),
        ("Average precision is step-wise; by chance alone it equals the share of positives.",),
    )  # fmt: skip
    lines = [Line(naming.question(q.name), q.curve, q.auc) for q in questions]
    precisions = [Line(naming.question(q.name), q.curve, q.average_precision) for q in questions]
    first = questions[0]
    mark = Mark(
        f"{naming.question(first.name)}, in use",
        first.used.estimates["sensitivity"].value,
        first.used.estimates["specificity"].value,
    )
    edges, positives, negatives = first.score_counts
    at = [("in use", first.used.threshold)] if first.used.threshold is not None else []
    figures = (
        roc_figure(naming.part("roc"), naming.title("ROC curves"), lines, naming.unit, [mark]),
        precision_figure(
            naming.part("precision-recall"), naming.title("Precision-recall curves"), precisions, naming.unit
        ),
        score_figure(
            naming.part("scores"), naming.title(f"Scores of {naming.question(first.name)}"), edges, positives,
            negatives, at, naming.unit,
        ),
    )  # fmt: skip
    return Section(naming.title("Curves over all thresholds"), (), (areas, *figures))


def _used_table(model: ModelResult, naming: Naming) -> Table:
    used = model.any_fracture.used
    return Table(
        naming.part("any-fracture"),
        naming.title(f"{naming.question(model.any_fracture.name).capitalize()} against none, thresholds in use"),
        naming.unit,
        ("question", "n", "positives", *COUNT_COLUMNS, *PROPORTION_COLUMNS[:5]),
        ((naming.question(model.any_fracture.name), used.counts.n, used.counts.positives, *counts_of(used),
          *(used.estimates[m] for m in PROPORTIONS[:5])),),
    )  # fmt: skip


def _class_table(table: ClassTable, name: str, title: str, naming: Naming) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (r.name, r.counts.positives, r.counts.tp, r.counts.fn, r.counts.fp, r.counts.tn,
         *(r.estimates[m] for m in PROPORTIONS))
        for r in table.rows
    ]  # fmt: skip
    sums = table.micro_counts
    micro = (sums.positives, sums.tp, sums.fn, sums.fp, sums.tn, *(table.micro.get(m) for m in PROPORTIONS))
    macro = (None,) * 5 + tuple(table.macro.get(m) for m in PROPORTIONS)
    rows += [(f"micro (K = {table.micro_over})", *micro), ("macro", *macro)]
    over = listed([f"{_column(m)} {table.macro_over[m]}" for m in AVERAGED])
    notes = (
        f"Micro: counts of the {table.micro_over} rows added, then divided. Macro: plain mean over the rows in which "
        f"the value is defined, and for sensitivity, PPV and F1 only rows with a positive; over so many rows: {over}.",
    )
    columns = ("class", "positives", *COUNT_COLUMNS, *PROPORTION_COLUMNS)
    return Table(naming.part(name), naming.title(title), naming.unit, columns, tuple(rows), notes)


def _column(metric: str) -> str:
    return PROPORTION_COLUMNS[PROPORTIONS.index(metric)]


def _rule(question: Question, point: Point) -> str:
    if point is question.used:
        return "in use" if point.rule == "in use" else f"in use: {point.rule}"
    return f"{point.rule}; {CHOSEN_WORDS[point.chosen_on]}"


def _different(question: Question) -> tuple[Point, ...]:
    """The threshold in use, and the others that are not the same one over again."""
    return (question.used, *(p for p in question.points if p.threshold != question.used.threshold))


def _restated(model: ModelResult, naming: Naming) -> Table | None:
    asked = [(q, p) for q in naming.questions(model) for p in (_different(q) if q.name == ANY else (q.used,))]
    rows = tuple(
        (naming.question(q.name), _rule(q, p), p.threshold, *p.at_prevalence)
        for q, p in asked
        if p.at_prevalence is not None
    )
    if not rows:
        return None
    return Table(
        naming.part("at-prevalence"), naming.title("Predictive values at the site's own prevalence"), naming.unit,
        ("class", "rule", "threshold", "PPV", "NPV"), rows,
        ("Bayes' rule from sensitivity and specificity; the prevalence counts as known.",),
    )  # fmt: skip


def _levels(questions: Sequence[Question], naming: Naming) -> tuple[Table | None, tuple[str, ...]]:
    rows: list[tuple[Cell, ...]] = []
    why = []
    for question in questions:
        if question.levels is None:
            why.append(f"No two-level display for {naming.question(question.name)}. {question.levels_says}")
            continue
        two = question.levels
        for level, low in zip(
            two.levels, (None, two.possible.threshold, two.definite.threshold), strict=True
        ):
            rows.append(
                (naming.question(question.name), level.name, low, level.positives, level.negatives,
                 level.share_positive, level.likelihood_ratio)
            )  # fmt: skip
    if not rows:
        return None, tuple(why)
    chosen = {CHOSEN_WORDS[q.levels_chosen_on] for q in questions if q.levels_chosen_on is not None}
    table = Table(
        naming.part("two-levels"), naming.title("A display of two levels: possible and definite"), naming.unit,
        ("class", "answer", "from score", "with it", "without it", "share with it", "likelihood ratio"), tuple(rows),
        (f"Possible: sensitivity at least 95 %; definite: specificity at least 90 %; {'; '.join(sorted(chosen))}.",),
    )  # fmt: skip
    return table, tuple(why)


def error_section(model: ModelResult, naming: Naming) -> Section:
    """How many errors of each kind there are, and where each of them is a line."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (kind, sum(error.what == kind for error in model.errors)) for kind in KINDS
    )
    words = (
        f"Each is a line in files/{errors_file(naming)}, named by its case_id, with columns for cause, harm and "
        "mitigation. Look at every missed fracture and at a sample of the false alarms: a good average hides an "
        "obvious fracture that was missed (Oakden-Rayner et al., Lancet Digit Health 2022;4:e351-8)."
    )
    notes = ("At the thresholds in use, each class by itself: a class too many or too few is another class.",)
    table = Table(
        naming.part("errors"), naming.title("To be looked at"), naming.unit, ("what", "n"), rows, notes
    )
    return Section(naming.title("Errors to review"), (words,), (table,))


def errors_file(naming: Naming) -> str:
    """The name of the list of errors."""
    return f"{naming.part('errors')}.csv"
