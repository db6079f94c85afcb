"""The one door to matplotlib: drawings as SVG for print, for grey printers and for colour-blind readers.

The same data give the same bytes: no date, no random ids, no site's matplotlibrc. Text stays text, so that it
can be searched and takes the report's typeface.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Sheet
from numpy.typing import NDArray

TYPEFACE = "Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK, GREY, PALE = "#1a1a1a", "#666666", "#d9d9d9"
LONGEST_WORD = 28
FINEST = 0.003  # of an axis; points of a curve nearer than this are one in print
MM = 1 / 25.4

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hipnode",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that every machine measures alike
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.4,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 3.2,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # a class may be called $x$
}


@dataclass(frozen=True)
class Style:
    """How one curve looks: told from the others by colour, and without colour by dash and marker."""

    colour: str
    dash: Any
    marker: str


# Okabe and Ito, Color Universal Design (2008); yellow is left out, it is no line on white paper
STYLES = (
    Style("#000000", "-", "o"),
    Style("#0072B2", (0, (6, 2)), "s"),
    Style("#D55E00", (0, (6, 1.5, 1.2, 1.5)), "^"),
    Style("#009E73", (0, (1.2, 1.2)), "D"),
    Style("#CC79A7", (0, (9, 2, 3, 2)), "v"),
    Style("#E69F00", (0, (3, 1.5)), "P"),
    Style("#56B4E9", (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5)), "X"),
)


def style(place: int) -> Style:
    """The look of the curve at a place in the legend; after seven they begin again."""
    return STYLES[place % len(STYLES)]


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the site has set; signs without glyph are the browser's to draw."""
    base = {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith(("backend", "date.epoch"))}
    with mpl.rc_context({**base, **_RC}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def sheet(width_mm: float, height_mm: float) -> Any:
    """An empty figure of that size; the report's column is 174 mm wide."""
    made = Sheet(figsize=(width_mm * MM, height_mm * MM), layout="constrained")
    FigureCanvasSVG(made)
    return made


def word(text: object) -> str:
    """A site's word as it may stand in a figure: printable, not too long, and no name matplotlib hides."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    short = clean if len(clean) <= LONGEST_WORD else clean[: LONGEST_WORD - 1] + "…"
    return " " + short if short.startswith("_") else short


def svg_of(figure: Any) -> str:
    """The figure as one <svg> element without prolog, ids of groups or metadata."""
    buffer = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s*<defs>\s*<style type="text/css">.*?</style>\s*</defs>', "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing points at them, and a page has many figures
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)  # once for all, below
    root = f'<svg font-family="{TYPEFACE}" stroke-linejoin="round" stroke-linecap="butt" '
    return text.replace("<svg ", root, 1).strip() + "\n"


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of (n,) points of a curve on axes of length 1 those that print apart, first and last always."""
    if len(x) < 3:
        return x, y
    length = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
    steps = np.floor(length / FINEST)
    keep = np.r_[True, steps[1:] != steps[:-1]]
    keep[-1] = True
    return x[keep], y[keep]
