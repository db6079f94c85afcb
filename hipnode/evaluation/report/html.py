"""A document as one HTML page: style and figures inside, no script, nothing from the network. Pure."""

import re
from collections.abc import Mapping
from functools import cache
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from hipnode.evaluation.report.cells import lead, notes, shown
from hipnode.evaluation.report.document import Document, Figure, Table
from hipnode.evaluation.report.glossary import terms_of
from hipnode.evaluation.statistics.estimates import Estimate

PAGE_MM = 192  # of columns as `_width` has them; the browser can press them together a little
FEW_ESTIMATES = 3  # columns of them that leave room for one line per row
LONGEST_WHOLE = 17
_PIECES = re.compile(r".{1,8}", re.DOTALL)
SHORT_ROWS = 8  # a table that short stays on one page
SVG_PARTS = frozenset(
    {"svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "pattern", "title"}
)


def as_html(document: Document, files: Mapping[str, str]) -> str:
    """The report as one page. files: name of a part -> path of its CSV beside the report.

    What a site wrote (names of classes, sites, readers) is escaped; the page forbids script and network to itself.
    Raises ValueError for a figure whose SVG holds more than a drawing.
    """
    drawings = {figure.name: figure for figure in document.figures()}
    printed = [p for s in (document.summary, *document.sections) for p in s.parts]
    numbers: dict[str, int] = {}
    for is_drawing in (True, False):
        names = [p.name for p in printed if (p.name in drawings) is is_drawing]
        numbers |= {name: place for place, name in enumerate(names, start=1)}
    return _template().render(
        document=document,
        css=Markup(_source("report.css")),  # noqa: S704 # ours
        files=files,
        drawings=drawings,
        numbers=numbers,
        anchors={p.name: f"part-{i}" for i, p in enumerate(printed, start=1)},
        looks={t.name: _looks(t) for t in printed if isinstance(t, Table)},
        blocks=_blocks,
        breakable=_breakable,
        lead=lead,
        terms=terms_of(document),
        shown=shown,
        notes=notes,
        svg=checked_svg,
    )


def _looks(table: Table) -> tuple[str, list[str]]:
    """CSS classes of a table and of its columns: numbers to the right, estimates and text to the left."""
    columns = []
    for i in range(len(table.columns)):
        cells = [row[i] for row in table.rows]
        estimates = any(isinstance(cell, Estimate) for cell in cells)
        words = i == 0 or any(isinstance(cell, str) for cell in cells)
        columns.append("est" if estimates else "" if words else "num")
    looks = ["many"] if len(columns) > 10 else []
    looks += ["few"] if columns.count("est") <= FEW_ESTIMATES else []
    looks += ["short"] if len(table.rows) <= SHORT_ROWS else []
    return " ".join(looks), columns


def _blocks(table: Table) -> list[list[int]]:
    """The columns that stand side by side on A4; the rest follow below, each time behind the first column."""
    widths = [_width(table, i) for i in range(len(table.columns))]
    blocks = [[0]]
    for i in range(1, len(widths)):
        taken = sum(widths[k] for k in blocks[-1])
        if taken + widths[i] > PAGE_MM and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(i)
    return blocks


def _width(table: Table, column: int) -> float:
    """About how many mm a column needs in the smaller type."""
    made = [shown(row[column]) for row in table.rows]
    if any(cell.interval for cell in made):
        return 16.0
    longest = max((len(cell.text) for cell in made), default=0)
    words = max(len(word) for word in table.columns[column].split() or [""])
    return min(max(1.3 * max(longest, words) + 2, 7), 34)


def _breakable(text: str) -> Markup:
    """The text, escaped; in words too long for a column of a table the browser may break the line."""
    words = (_PIECES.findall(word) if len(word) > LONGEST_WHOLE else [word] for word in text.split(" "))
    return Markup(" ").join(Markup("<wbr>").join(pieces) for pieces in words)


def checked_svg(figure: Figure) -> Markup:
    """The figure's SVG, fit to stand in a page. Raises ValueError for script, links or anything foreign in it."""
    try:
        root = ElementTree.fromstring(figure.svg)  # noqa: S314 # our own drawing
    except ElementTree.ParseError as error:
        raise ValueError(f"figure {figure.name} is no SVG: {error}") from error
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        links = [v for k, v in element.attrib.items() if k.rpartition("}")[2] == "href"]
        outside = [v for v in links if not v.startswith("#")]
        if kind not in SVG_PARTS or outside or any(k.lower().startswith("on") for k in element.attrib):
            raise ValueError(f"figure {figure.name} holds more than a drawing: <{kind}>")
    return Markup(figure.svg)  # noqa: S704 # checked above


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("hipnode.evaluation.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


@cache
def _template() -> Template:
    return _environment().get_template("report.html.j2")


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None  # noqa: S101 # given above
    return environment.loader.get_source(environment, name)[0]
