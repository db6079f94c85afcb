"""A document as Markdown (GitHub's dialect), its figures beside it as SVG files. Pure."""

import re
from collections.abc import Mapping

from hipnode.evaluation.report.cells import lead, notes, shown
from hipnode.evaluation.report.document import Cell, Document, Figure, Section, Table
from hipnode.evaluation.report.glossary import terms_of

SPECIAL = re.compile(r"([\\`*_\[\]{}|~#])")
WARNINGS = "What limits these numbers"


def as_markdown(document: Document, files: Mapping[str, str]) -> str:
    """The report as one text. files: name of a part -> path of its CSV or SVG beside the report.

    What a site wrote (names of classes, sites, readers) is escaped and cannot become markup.
    """
    lines = [f"# {plain(document.title)}", ""]
    if document.warnings:
        lines += [f"**{WARNINGS}**", "", *(f"* {plain(w)}" for w in document.warnings), ""]
    lines += _section(document.summary, files)
    for section in document.sections:
        lines += _section(section, files)
    lines += ["## How this report was made", "", "| what | value |", "| --- | --- |"]
    lines += [f"| {plain(what)} | {plain(value)} |" for what, value in document.facts]
    terms = terms_of(document)
    if terms:
        lines += ["", "## Words used", "", *(f"* **{plain(term)}**: {plain(says)}" for term, says in terms)]
    return "\n".join(lines).rstrip() + "\n"


def plain(text: str) -> str:
    """Text with nothing in it that Markdown or HTML would read as markup; one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = SPECIAL.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return re.sub(r"^([-+]|\d+[.)])(?= )", r"\\\1", line)


def _section(section: Section, files: Mapping[str, str]) -> list[str]:
    lines = [f"## {plain(section.title)}", ""]
    for paragraph in section.paragraphs:
        words, rest = lead(paragraph)
        lines += [f"**{plain(words)}** {plain(rest)}" if words else plain(paragraph), ""]
    for part in section.parts:
        lines += _table(part, files) if isinstance(part, Table) else _figure(part, files)
    return lines


def _table(table: Table, files: Mapping[str, str]) -> list[str]:
    lines = [f"### {plain(table.title)}", "", f"Unit: {plain(table.unit)}.", ""]
    lines.append("| " + " | ".join(map(plain, table.columns)) + " |")
    lines.append("|" + "|".join([" --- ", *[" ---: "] * (len(table.columns) - 1)]) + "|")
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
    said = [plain(note) for note in notes(table)]
    if table.name in files:
        said.append(f"Counts: [{plain(files[table.name])}]({files[table.name]})")
    return [*lines, "", "  \n".join(said), ""]


def _cell(cell: Cell) -> str:
    made = shown(cell)
    limits = f" ({made.interval})" if made.interval else ""
    behind = f" {made.support}" if made.support else ""
    return plain(made.text + limits + behind) or " "


def _figure(figure: Figure, files: Mapping[str, str]) -> list[str]:
    lines = [f"### {plain(figure.title)}", ""]
    if figure.name in files:
        lines += [f"![{plain(figure.alt)}]({files[figure.name]})", ""]
    lines += [plain(figure.caption), ""]
    for table in figure.counts:
        if table.name in files:
            lines += [f"Counts: [{plain(files[table.name])}]({files[table.name]})", ""]
    return lines
