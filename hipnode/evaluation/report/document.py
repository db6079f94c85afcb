"""A report as values: sections of paragraphs, tables and figures. Pure; the writers print it."""

from dataclasses import dataclass

from hipnode.evaluation.statistics.estimates import Estimate

Cell = str | int | float | Estimate | None
"""What stands in a table. None and an Estimate without value print as "-"; an Estimate with its interval."""


@dataclass(frozen=True)
class Table:
    """A table that says what was counted.

    name: unique in the document; its CSV is called so, e.g. "classes-multi-label"
    unit: what n counts: hip, image, patient, pixel, lesion, read, study
    columns, rows: every row as long as columns; the first column names the row
    notes: sentences under the table: how intervals were made, what few events mean
    """

    name: str
    title: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of table {self.name} has not {len(self.columns)} cells")


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG.

    name: unique in the document, its file name without suffix
    caption: what is drawn, of how many of what unit, and how to read it
    alt: the figure in words for a reader who cannot see it
    svg: one <svg> element without script
    counts: the numbers that were drawn, written as CSV and not printed
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    counts: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading, what it says in words, and its tables and figures in order."""

    title: str
    paragraphs: tuple[str, ...] = ()
    parts: tuple[Table | Figure, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report.

    summary: one page in plain words, read first and perhaps alone
    warnings: what limits the numbers, one sentence each; printed above the summary's numbers
    facts: (what, value) of the provenance: hashes, versions, seed, command line
    """

    title: str
    summary: Section
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [part.name for s in (self.summary, *self.sections) for part in s.parts]
        names += [table.name for figure in self.figures() for table in figure.counts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two parts of a document are called {', '.join(twice)}")

    def tables(self) -> tuple[Table, ...]:
        """Every table in order, those behind a figure after it."""
        found: list[Table] = []
        for section in (self.summary, *self.sections):
            for part in section.parts:
                found += [part] if isinstance(part, Table) else part.counts
        return tuple(found)

    def figures(self) -> tuple[Figure, ...]:
        """Every figure in order."""
        sections = (self.summary, *self.sections)
        return tuple(part for s in sections for part in s.parts if isinstance(part, Figure))
