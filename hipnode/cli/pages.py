"""A report's document on a terminal: its words and tables, without its figures."""

from rich.console import Console
from rich.table import Table as Grid

from hipnode.cli.screen import plain, screen
from hipnode.evaluation.report.cells import shown
from hipnode.evaluation.report.document import Cell, Document, Section, Table

_SHORT = 60  # characters of a cell that a column may hold


def print_document(document: Document) -> None:
    """The summary, what limits the numbers, and every table."""
    console = screen()
    console.print(f"[bold]{plain(document.title)}[/bold]")
    _print(console, document.summary)
    for warning in document.warnings:
        console.print(plain(f"Note: {warning}"))
    for section in document.sections:
        console.print(f"\n[bold]{plain(section.title)}[/bold]")
        _print(console, section)
    console.print(
        "\n[bright_black]Behind each share: events/n. † fewer than 10 events. Intervals: --out.[/bright_black]"
    )
    for what, value in document.facts:
        console.print(f"[bright_black]{plain(what)}: {plain(value)}[/bright_black]")


def _print(console: Console, section: Section) -> None:
    for paragraph in section.paragraphs:
        console.print(plain(paragraph))
    for part in section.parts:
        if isinstance(part, Table):
            _print_table(console, part)


def _print_table(console: Console, table: Table) -> None:
    console.print(
        f"\n[bold]{plain(table.title)}[/bold] [bright_black](n: {plain(table.unit)})[/bright_black]"
    )
    if any(len(str(cell)) > _SHORT for row in table.rows for cell in row if isinstance(cell, str)):
        _print_lines(console, table)
        return
    grid = Grid(box=None, pad_edge=False)
    for place, name in enumerate(table.columns):
        numbers = any(not isinstance(row[place], str) for row in table.rows)
        grid.add_column(plain(name), justify="right" if numbers else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(plain(_cell(cell)) for cell in row))
    console.print(grid)
    for note in table.notes:
        console.print(f"[bright_black]{plain(note)}[/bright_black]")


def _print_lines(console: Console, table: Table) -> None:
    """A table with sentences in it: a paragraph a row."""
    for row in table.rows:
        first, *rest = (_cell(cell) for cell in row)
        console.print(f"[bold]{plain(first)}[/bold]")
        for name, text in zip(table.columns[1:], rest, strict=True):
            console.print(plain(f"  {name}: {text}"))
    for note in table.notes:
        console.print(f"[bright_black]{plain(note)}[/bright_black]")


def _cell(cell: Cell) -> str:
    """A value; behind an Estimate what it was counted from. Its interval stands in the report."""
    made = shown(cell)
    return f"{made.text} {made.support}".strip()
