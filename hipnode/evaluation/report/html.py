"""A document as one HTML page: style and figures inside, no script, nothing from the network. Pure."""

from collections.abc import Mapping
from functools import cache
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from hipnode.evaluation.report.cells import notes, shown
from hipnode.evaluation.report.document import Document, Figure
from hipnode.evaluation.report.glossary import terms_of

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
    texts = {
        t.name: [i == 0 or any(isinstance(row[i], str) for row in t.rows) for i in range(len(t.columns))]
        for t in document.tables()
    }
    return _template().render(
        document=document,
        css=Markup(_source("report.css")),  # noqa: S704 # ours
        files=files,
        drawings=drawings,
        numbers=numbers,
        anchors={p.name: f"part-{i}" for i, p in enumerate(printed, start=1)},
        texts=texts,
        terms=terms_of(document),
        shown=shown,
        notes=notes,
        svg=checked_svg,
    )


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
