"""Human readers, and models against each other, as sections. Pure."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

from hipnode.evaluation.record import ANY, Comparison, Evaluation, Kappa, ReaderQuestion, Readers
from hipnode.evaluation.report.charts import readers_figure
from hipnode.evaluation.report.curves import Mark
from hipnode.evaluation.report.document import Cell, Figure, Section, Table
from hipnode.evaluation.report.naming import CONDITION_WORDS, COUNT_COLUMNS, Naming
from hipnode.evaluation.report.spreadsheets import guarded
from hipnode.evaluation.report.words import NONE, count, p_value
from hipnode.evaluation.statistics.reader_design import RTable

MOST_READERS = 8  # beyond, the kappas of all their pairs are a file and not a table
KAPPA_WORDS = {
    "reader-reader": "two readers",
    "reader-reference": "reader and reference",
    "model-reference": "model and reference",
    "intra-observer": "one reader, two phases",
    "fleiss": "all readers (Fleiss)",
}


def reader_section(evaluation: Evaluation, readers: Readers, naming: Naming) -> Section:
    """The reader study: what each did, what AI changed, agreement, time, and what the design allows."""
    words = [
        f"{count(len(readers.readers), 'reader')} and {count(readers.cases, naming.unit)} of "
        f"{count(readers.patients, 'patient')}. The AI's answers are those of {readers.ai_model}.",
        *readers.says,
    ]
    parts: list[Table | Figure] = []
    classes = [q for q in readers.questions if q.name != ANY]
    behind: tuple[Table, ...] = ()
    many = len(readers.readers) > MOST_READERS
    if many:
        behind = (_kappa_table(readers, "readers-kappa-all", readers.kappas),)
    if classes:
        results = _result_table("readers-results-classes", classes, naming)
        behind += (results, _change_table("readers-changes-classes", classes, naming))
    asked, model = (
        readers.questions[0],
        next((m for m in evaluation.models if m.name == readers.ai_model), None),
    )
    curve, mark = None, None
    if model is not None:
        used = model.any_fracture.used.estimates
        curve = model.any_fracture.curve
        mark = Mark("Model, threshold in use", used["sensitivity"].value, used["specificity"].value)
    title = f"Readers, {naming.question(asked.name)}"
    drawn = readers_figure("readers", title, asked.results, naming.unit, curve, mark)
    parts.append(replace(drawn, counts=(*drawn.counts, *behind)))
    kappas = [k for k in readers.kappas if not many or k.kind != "reader-reader"]
    if many:
        words.append(
            "The kappas of all pairs of readers are a file beside this report: readers-kappa-all.csv."
        )
    parts += [
        _result_table("readers-results", [asked], naming), _difference_table(readers, naming),
        _change_table("readers-changes", [asked], naming), _kappa_table(readers, "readers-kappa", kappas),
        *_time_tables(readers), _design_table(readers),
    ]  # fmt: skip
    words.append(
        "Readers and cases are both samples. The mean over readers has an interval from a two-way bootstrap of readers "
        "and patients, a stand-in for a full MRMC analysis; the reads are beside this report as files for the R "
        "packages MRMCaov, iMRMC and RJafroc."
    )
    return Section("Readers without and with AI", tuple(words), tuple(parts))


def reader_files(readers: Readers) -> tuple[tuple[str, str], ...]:
    """The reads as the R packages for MRMC take them: (name, text)."""
    files = [("reads-mrmcaov.csv", _csv(readers.mrmcaov))]
    if readers.imrmc is not None:
        files.append(("reads-imrmc.csv", _csv(readers.imrmc)))
    if readers.imrmc_text is not None:
        files.append(("reads.imrmc", readers.imrmc_text))
    return tuple(files)


def comparison_section(comparisons: tuple[Comparison, ...], naming: Naming) -> Section:
    """Models in pairs on the same cases."""
    areas: list[tuple[Cell, ...]] = []
    shares: list[tuple[Cell, ...]] = []
    for made in comparisons:
        pair = f"{made.first} against {made.second}"
        label = naming.question(made.question)
        a = made.areas
        areas.append((pair, label, a.first, a.second, a.difference, p_value(a.p)))
        for d in made.differences:
            test = d.mcnemar
            shares.append(
                (
                    pair,
                    label,
                    d.metric,
                    d.first,
                    d.second,
                    d.difference,
                    test.lost,
                    test.gained,
                    p_value(test.p),
                )
            )
    words = (
        "Differences are the first model minus the second on the same cases. Only the difference and its interval tell "
        "whether they differ; two overlapping intervals of single models do not. Of many comparisons one in twenty has "
        "p below 0.05 by chance."
    )
    first = Table(
        "comparison-auc", "Areas under the ROC curve in pairs", naming.unit,
        ("models", "class", "first", "second", "difference", "p"), tuple(areas),
    )  # fmt: skip
    second = Table(
        "comparison-shares", "Sensitivity, specificity and accuracy in pairs", naming.unit,
        ("models", "class", "what", "first", "second", "difference", "only first right", "only second right", "p"),
        tuple(shares),
        ("p: McNemar's test on the cases where only one of the two is right.",),
    )  # fmt: skip
    return Section("Models against each other", (words,), (first, second))


def _result_table(name: str, questions: Sequence[ReaderQuestion], naming: Naming) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for question in questions:
        label = naming.question(question.name)
        for r in question.results:
            e = r.estimates
            rows.append(
                (r.reader, CONDITION_WORDS[r.condition], label, r.counts.tp, r.counts.fn, r.counts.fp, r.counts.tn,
                 e["sensitivity"], e["specificity"], e["ppv"], e["npv"], e["accuracy"])
            )  # fmt: skip
        rows += _spread_rows(question, label)
    columns = (
        "reader",
        "condition",
        "class",
        *COUNT_COLUMNS,
        "sensitivity",
        "specificity",
        "PPV",
        "NPV",
        "accuracy",
    )
    notes = ("Mean and SD over readers: each reader counts once; sample SD (n - 1).",)
    return Table(name, "Each reader in each condition", f"{naming.unit} read", columns, tuple(rows), notes)


def _spread_rows(question: ReaderQuestion, label: str) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for condition, words in CONDITION_WORDS.items():
        found = {s.metric: s for s in question.spreads if s.condition == condition and s.readers}
        if not found:
            continue
        for name in ("mean", "SD"):
            values: list[Cell] = []
            for metric in ("sensitivity", "specificity", "ppv", "npv", "accuracy"):
                one = {str(k): v for k, v in found.items()}.get(metric)
                values.append(None if one is None else one.mean if name == "mean" else one.sd)
            rows.append(
                (f"{name} of {max(s.readers for s in found.values())}", words, label, *(None,) * 4, *values)
            )
    return rows


def _difference_table(readers: Readers, naming: Naming) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for question in readers.questions:
        for d in question.differences:
            if question.name != ANY and d.metric == "accuracy":
                continue  # what it adds to the other two is the mix of the cases
            test = d.mcnemar
            last = (None, None, NONE) if test is None else (test.lost, test.gained, p_value(test.p))
            who = d.reader if d.reader is not None else "mean of all"
            rows.append((who, naming.question(question.name), d.metric, d.difference, *last))
    columns = ("reader", "class", "what", "with minus without AI", "lost", "gained", "p")
    notes = (
        "Lost: right without AI and wrong with it; gained: the other way round; p: McNemar's test on these, "
        "two-sided, exact below 25 of them, else chi-square with continuity correction. Mean of all: readers and "
        "patients drawn by lot.",
    )
    title = "What AI changes, on the cases read in both conditions"
    return Table("readers-differences", title, f"{naming.unit} read", columns, tuple(rows), notes)


def _change_table(name: str, questions: Sequence[ReaderQuestion], naming: Naming) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (c.reader, naming.question(q.name), "has it" if c.fracture else "has it not",
         "right" if c.ai_right else "wrong", c.stayed_right, c.harmed, c.corrected, c.stayed_wrong, c.harm, c.benefit)
        for q in questions
        for c in q.changes
    ]  # fmt: skip
    columns = ("reader", "class", "case", "AI was", "stayed right", "right to wrong", "wrong to right", "stayed wrong",
               "harmed of right", "corrected of wrong")  # fmt: skip
    notes = (
        "Harmed of right where the AI was wrong is automation bias; corrected of wrong where it was right is what AI "
        "is for.",
    )
    return Table(name, "Changed decisions", f"{naming.unit} read", columns, tuple(rows), notes)


def _kappa_table(readers: Readers, name: str, kappas: Sequence[Kappa]) -> Table:
    rows = tuple(
        (KAPPA_WORDS.get(k.kind, k.kind), k.first, k.second or NONE,
         CONDITION_WORDS[k.condition] if k.condition is not None else NONE, k.kappa)
        for k in kappas
    )  # fmt: skip
    columns = ("agreement of", "first", "second", "condition", "kappa")
    notes = (f"Over the outcomes {', '.join(readers.outcomes)}; events are the cases on which they agree.",)
    return Table(name, "Agreement", "case", columns, rows, notes)


def _time_tables(readers: Readers) -> list[Table]:
    rows: list[tuple[Cell, ...]] = []
    for t in readers.times:
        if t.without_ai is not None and t.with_ai is not None:
            before, after = (
                f"{m:.1f} ({low:.1f} to {high:.1f})" for low, m, high in (t.without_ai, t.with_ai)
            )
            rows.append((t.reader, t.n, before, after, t.median_difference, p_value(t.p)))
    if not rows:
        return []
    columns = ("reader", "n", "without AI: median (quartiles), s", "with AI: median (quartiles), s",
               "median difference, s", "p")  # fmt: skip
    notes = ("Seconds per case, on the cases timed in both conditions; p: Wilcoxon's signed rank test.",)
    return [Table("readers-time", "Reading time", "read", columns, tuple(rows), notes)]


def _design_table(readers: Readers) -> Table:
    rows = tuple(
        (check.name, "in order" if check.state == "ok" else "limits", check.says) for check in readers.design
    )
    title = "What the design allows to say"
    return Table("readers-design", title, "read", ("property", "state", "what was found"), rows)


def _csv(table: RTable) -> str:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([guarded(c) if isinstance(c, str) else c for c in row] for row in table.rows)
    return buffer.getvalue()
