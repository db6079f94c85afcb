"""The words of the reports explained to a reader who is no statistician; the words are in glossary.toml."""

import re
import tomllib
from functools import cache
from importlib.resources import files

from hipnode.evaluation.report.cells import notes
from hipnode.evaluation.report.document import Cell, Document, Table


def terms_of(document: Document) -> tuple[tuple[str, str], ...]:
    """(term, meaning) of the terms that this document uses, in alphabetical order."""
    text = "\n".join(_texts(document))
    return tuple((term, says) for term, used, says in _terms() if used.search(text))


@cache
def _terms() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    read = files("hipnode.evaluation.report").joinpath("glossary.toml").read_text(encoding="utf-8")
    entries = [(t["term"], re.compile(t["used"]), t["says"]) for t in tomllib.loads(read)["terms"]]
    return tuple(sorted(entries, key=lambda entry: entry[0].lower()))


def _texts(document: Document) -> list[str]:
    texts = [*document.warnings]
    for section in (document.summary, *document.sections):
        texts += [section.title, *section.paragraphs]
        for part in section.parts:
            if isinstance(part, Table):
                cells = [_word(cell) for row in part.rows for cell in row]
                texts += [part.title, *part.columns, *notes(part), *cells]
            else:
                texts += [part.title, part.caption]
    return texts


def _word(cell: Cell) -> str:
    return cell if isinstance(cell, str) else ""
