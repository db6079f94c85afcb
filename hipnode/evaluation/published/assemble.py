"""From an evaluation to the published tables, one section for each paper. Pure."""

from dataclasses import replace

from hipnode.evaluation.published.bjj2025 import (
    table_three,
    table_three_check,
    table_two_cases,
    table_two_check,
    table_two_pixels,
)
from hipnode.evaluation.published.others import bath, pelvixnet, pelvixnet_findings, wrist
from hipnode.evaluation.published.printed import BATH2022, BJJ2025, PELVIXNET2021, TABLE_III_MEAN, WRIST2018
from hipnode.evaluation.record import ANY, Evaluation, ModelResult, Readers
from hipnode.evaluation.report.document import Section, Table
from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.statistics.counts import ClassTable
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.readers import AI, NO_AI

ORIENTATION = (
    "The printed numbers are of other films, other patients and other mixes of classes; they are here for "
    "orientation and show no difference in quality."
)
CONDITION_WORDS = {NO_AI: "without AI", AI: "with AI"}


def sections(evaluation: Evaluation, *, compat_bjj2025: bool = False) -> tuple[Section, ...]:
    """One section for each of the four papers, in the order of their systems A to D.

    compat_bjj2025: print the macro row of its table III also with an empty class counted as 0.
    """
    models = evaluation.models
    endings = {id(m): f"-{i}" if len(models) > 1 else "" for i, m in enumerate(models, start=1)}
    unit = evaluation.facts.unit
    two: list[Table] = []
    three: list[Table] = []
    later: dict[str, list[Table]] = {BATH2022: [], PELVIXNET2021: [], WRIST2018: []}
    for model in models:
        ending = endings[id(model)]
        of = model.name if len(models) > 1 else ""
        two.append(_titled(of, table_two_cases(model.multi_label, model.localisation.classes, unit, ending)))
        pixels = table_two_pixels(model.localisation.classes, ending)
        two += [_titled(of, pixels)] if pixels is not None else []
        three.append(
            table_three(
                {model.name: model.single_label},
                unit,
                f"bjj2025-table-3-model{ending}",
                f"Table III, the model alone: {model.name}",
                compat=compat_bjj2025,
            )
        )
        later[BATH2022].append(_titled(of, _bath(model, evaluation.readers, unit, ending)))
        later[PELVIXNET2021].append(_titled(of, pelvixnet(model.any_fracture, unit, ending)))
        by_finding = [r for r in model.strata.rows if r.column == "y_class" and r.question == ANY]
        findings = pelvixnet_findings(by_finding, unit, ending)
        later[PELVIXNET2021] += [_titled(of, findings)] if findings is not None else []
        later[WRIST2018].append(_titled(of, wrist(model.any_fracture, unit, ending)))
    if evaluation.readers is not None:
        three += _reader_tables(evaluation.readers, unit, compat_bjj2025)
    headings = {
        BATH2022: "Two stages: crop, then class",
        PELVIXNET2021: "Any finding on the film",
        WRIST2018: "One cut-off of one class",
    }
    first = Section(
        f"Four fracture classes ({BJJ2025}, tables II and III)",
        (
            "Table II of the paper does not say what it counts; here it stands twice, per case and per pixel of the "
            "boxes. Table III is about surgeons who saw the model's answer, not about the model.",
            ORIENTATION,
        ),
        (*two, table_two_check(), *three, table_three_check()),
    )
    rest = tuple(
        Section(f"{headings[paper]} ({paper})", (ORIENTATION,), tuple(tables))
        for paper, tables in later.items()
    )
    return (first, *rest)


def _reader_tables(readers: Readers, unit: str, compat: bool) -> list[Table]:
    """Table III of the readers, one for each condition; the paper's own stands beside that with AI."""
    made = []
    for condition, words in CONDITION_WORDS.items():
        read: dict[str, ClassTable] = {
            reader: table for (reader, c), table in readers.tables.items() if c == condition
        }
        if read:
            name = f"bjj2025-table-3-{condition.replace('_', '-')}"
            title = f"Table III, readers {words}"
            theirs = condition == AI and not TABLE_III_MEAN.keys().isdisjoint(readers.outcomes)
            made.append(table_three(read, unit, name, title, compat=compat, printed=theirs))
    return made


def _bath(model: ModelResult, readers: Readers | None, unit: str, ending: str) -> Table:
    areas: dict[str, Estimate] = {NO_FRACTURE: model.any_fracture.auc}
    areas |= {question.name: question.auc for question in model.classes}
    comparator: list[Estimate] = []
    if readers is not None:
        alone = [table.micro["sensitivity"] for (_, c), table in readers.tables.items() if c == NO_AI]
        comparator = [each for each in alone if each.value is not None]
    return bath(unit, model.accuracy, model.kappa, areas, model.localisation.jaccard, comparator, ending)


def _titled(model: str, table: Table) -> Table:
    return replace(table, title=f"{table.title}: {model}") if model else table
