"""The document of an evaluation: summary first, then every table and figure of its record. Pure."""

import json
from collections.abc import Sequence

from hipnode.evaluation.record import ANY, Evaluation, ModelResult, SplitFacts
from hipnode.evaluation.report.document import Cell, Document, Section, Table
from hipnode.evaluation.report.model_sections import (
    class_section,
    curve_section,
    error_section,
    errors_file,
    threshold_section,
)
from hipnode.evaluation.report.naming import Naming
from hipnode.evaluation.report.place_sections import calibration_section, place_section, strata_section
from hipnode.evaluation.report.reader_sections import comparison_section, reader_files, reader_section
from hipnode.evaluation.report.summary import summary_section
from hipnode.evaluation.report.words import count, listed, plural, with_interval
from hipnode.evaluation.review import as_csv


def evaluation_document(
    evaluation: Evaluation, more: Sequence[Section] = (), *, with_errors: bool = True
) -> Document:
    """Everything of the record as a document.

    more: sections after the models' own, e.g. the published tables
    with_errors: whether the errors are listed, case by case; an acceptance run has a list of its own
    """
    naming = Naming(evaluation.facts)
    sections = [_case_section(evaluation, naming)]
    several = len(evaluation.models) > 1
    for place, model in enumerate(evaluation.models, start=1):
        own = Naming(evaluation.facts, f"-{place}", model.name) if several else naming
        sections += [
            class_section(model, own), threshold_section(model, own), curve_section(model, own),
            place_section(model, own), calibration_section(model, own), strata_section(model, own),
            *([error_section(model, own)] if with_errors else []),
        ]  # fmt: skip
    if evaluation.comparisons:
        sections.append(comparison_section(evaluation.comparisons, naming))
    if evaluation.readers is not None:
        sections.append(reader_section(evaluation, evaluation.readers, naming))
    sections += [*more, _identity_section(evaluation)]
    names = listed([model.name for model in evaluation.models])
    return Document(
        title=f"Evaluation of {names} on {count(evaluation.facts.judged.units, naming.unit)}",
        summary=summary_section(evaluation, naming),
        sections=tuple(sections),
        facts=_facts(evaluation),
        warnings=evaluation.warnings,
        files=_files(evaluation, with_errors),
    )


def _case_section(evaluation: Evaluation, naming: Naming) -> Section:
    facts = evaluation.facts
    rows = tuple(_split_row(split, facts.classes) for split in facts.splits)
    names = facts.classes if len(facts.classes) > 1 else ()
    columns = ("part", "n", "patients", "images", naming.question(ANY), "none of them", *names)
    notes = [f"Judged here: {facts.judged.name}."]
    if facts.clustered:
        notes.append(
            "Patients with several units are drawn as a whole wherever an interval is made by bootstrap."
        )
    cases = Table("cases", "The labels", naming.unit, columns, rows, tuple(notes))
    tables = [cases, *_unread_tables(evaluation, naming)]
    words = (
        f"n counts {plural(naming.unit)} in all that follows, unless a table says another unit. Numbers of different "
        "units (hips, images, patients, pixels) cannot be compared with each other.",
    )
    timed = [m for m in evaluation.models if m.runtime_ms is not None]
    times = tuple(
        f"{m.name} took {m.runtime_ms[1]:,.0f} ms for one prediction (median; middle half {m.runtime_ms[0]:,.0f} to "
        f"{m.runtime_ms[2]:,.0f} ms)."
        for m in timed
        if m.runtime_ms is not None
    )
    return Section("Cases", (*words, *times), tuple(tables))


def _split_row(split: SplitFacts, classes: tuple[str, ...]) -> tuple[Cell, ...]:
    positives = split.positives.get(ANY, 0)
    each = tuple(split.positives.get(name, 0) for name in classes) if len(classes) > 1 else ()
    return (split.name, split.units, split.patients, split.images, positives, split.units - positives, *each)


def _unread_tables(evaluation: Evaluation, naming: Naming) -> list[Table]:
    tables = []
    for place, model in enumerate(evaluation.models, start=1):
        if not model.unread.units:
            continue
        several = len(evaluation.models) > 1
        rows: list[tuple[Cell, ...]] = [*model.unread.reasons]
        rows.append(("all", model.unread.units, model.unread.positives.get(ANY, 0)))
        note = (
            "They are in no other number. Sensitivity for any fracture among those read: "
            f"{_short(model, read=True)}; with unread fractures counted as missed: {_short(model, read=False)}."
        )
        name = f"not-read-{place}" if several else "not-read"
        title = f"Not read by {model.name}"
        tables.append(
            Table(name, title, naming.unit, ("reason", "n", "with a fracture"), tuple(rows), (note,))
        )
    return tables


def _short(model: ModelResult, *, read: bool) -> str:
    used = model.any_fracture.used.estimates["sensitivity"]
    return with_interval(used if read else model.unread.sensitivity_of_all)


def _identity_section(evaluation: Evaluation) -> Section:
    rows = tuple((i.name, "holds" if i.holds else "DOES NOT HOLD", i.says) for i in evaluation.identities)
    table = Table("identities", "Identities", "check", ("identity", "result", "what was compared"), rows)
    words = "These must hold among the numbers above, whatever the data. Where one does not, this report is wrong."
    return Section("Checks of the numbers against each other", (words,), (table,))


def _facts(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    p = evaluation.provenance
    facts = [
        ("Labels, SHA-256 of the content", p.labels_sha256),
        ("Predictions, SHA-256", p.predictions_sha256),
    ]
    facts += [("Reads, SHA-256", p.reads_sha256)] if p.reads_sha256 is not None else []
    if p.package is not None:
        facts += [
            ("Model package", f"{p.package[0]} {p.package[1]}"),
            ("Package weights, SHA-256", p.package[2]),
        ]
    facts += [
        ("Code", f"hipnode {p.code}"), ("Seed", str(p.seed)), ("Resamples of patients", f"{p.resamples:,}"),
        ("Command", p.command), ("Libraries", ", ".join(f"{name} {version}" for name, version in p.libraries)),
    ]  # fmt: skip
    facts += (
        [("Site's prevalence, as given", f"{evaluation.prevalence:g}")]
        if evaluation.prevalence is not None
        else []
    )
    return tuple(facts)


def _files(evaluation: Evaluation, with_errors: bool) -> tuple[tuple[str, str], ...]:
    files = list(reader_files(evaluation.readers)) if evaluation.readers is not None else []
    for place, model in enumerate(evaluation.models, start=1):
        records = {
            question.name: {
                made.name: made.calibrator.record()
                for made in question.calibration
                if made.calibrator is not None
            }
            for question in (model.any_fracture, *model.classes)
        }
        records = {name: made for name, made in records.items() if made}
        ending = f"-{place}" if len(evaluation.models) > 1 else ""
        if with_errors:
            files.append((errors_file(Naming(evaluation.facts, ending)), as_csv(model.errors)))
        if records:
            files.append((f"calibrators{ending}.json", json.dumps(records, indent=1, sort_keys=True) + "\n"))
    return tuple(files)
