"""Curves over thresholds: ROC, precision-recall, FROC, and the scores themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.report.document import Figure, Table
from hipnode.evaluation.report.drawing import GREY, INK, drawing, sheet, style, svg_of, thinned, word
from hipnode.evaluation.report.words import count, number, plural, with_interval
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.localisation import FROC_RATES, Froc
from hipnode.evaluation.statistics.roc import RocCurve

CORNER = 0.4  # side of the ROC figure's enlarged corner


@dataclass(frozen=True)
class Line:
    """One class's or one model's curve with its area (AUC or average precision)."""

    label: str
    curve: RocCurve
    area: Estimate


@dataclass(frozen=True)
class Mark:
    """A point in ROC space: an operating point that is in use, or a person."""

    label: str
    sensitivity: float | None
    specificity: float | None


def roc_figure(name: str, title: str, lines: Sequence[Line], unit: str, marks: Sequence[Mark] = ()) -> Figure:
    """ROC curves, whole and with the corner that matters enlarged; curves of one class only are left out."""
    drawn = [line for line in lines if line.curve.positives and line.curve.negatives]
    with drawing():
        figure = sheet(174, 92)
        whole, corner = figure.subplots(1, 2)
        for axes in (whole, corner):
            for place, line in enumerate(drawn):
                look = style(place)
                x, y = thinned(1 - line.curve.specificity, line.curve.sensitivity)
                axes.plot(x, y, color=look.colour, linestyle=look.dash, label=_legend(line))
            for place, mark in enumerate(m for m in marks if None not in (m.sensitivity, m.specificity)):
                alarms, found = 1 - (mark.specificity or 0.0), mark.sensitivity or 0.0
                if axes is corner and (alarms > CORNER or found < 1 - CORNER):
                    continue  # unclipped it would stand outside the axes
                axes.plot(
                    [alarms], [found], style(place).marker, markersize=6,
                    markerfacecolor="white", markeredgecolor=INK, label=word(mark.label), clip_on=False, zorder=5,
                )  # fmt: skip
            axes.set_xlabel("False alarms: share without the finding\nthat was marked (1 − specificity)")
            axes.set_aspect("equal")
            axes.grid(True)
        whole.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
        whole.set_ylabel("Found: share with the finding\nthat was marked (sensitivity)")
        whole.set(xlim=(0, 1), ylim=(0, 1), title="Whole curve")
        corner.set(xlim=(0, CORNER), ylim=(1 - CORNER, 1), title="Its upper left corner")
        _legend_below(figure, whole)
        svg = svg_of(figure)
    areas = "; ".join(f"{line.label} {with_interval(line.area)}" for line in drawn)
    caption = (
        f"Each curve shows what one class gains and costs at every threshold, over {_counts(drawn, unit)}. The nearer "
        "the upper left corner the better; the thin diagonal is guessing. AUC is the area under the curve with its "
        "95 % interval."
    )
    return Figure(
        name,
        title,
        caption + _left_out(lines, drawn),
        f"ROC curves. AUC: {areas}.",
        svg,
        (_points(name, lines, unit),),
    )


def precision_figure(name: str, title: str, lines: Sequence[Line], unit: str) -> Figure:
    """Precision against recall, step by step, as average precision adds them up."""
    drawn = [line for line in lines if line.curve.positives]
    with drawing():
        figure = sheet(112, 96)
        axes = figure.subplots()
        for place, line in enumerate(drawn):
            look = style(place)
            x, y = thinned(line.curve.sensitivity[1:], line.curve.precision[1:])
            axes.plot(
                np.r_[0.0, x], np.r_[y[:1], y], color=look.colour, linestyle=look.dash, drawstyle="steps-pre",
                label=_legend(line, "AP"),
            )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        axes.set_xlabel("Found: share with the finding that was marked (recall)")
        axes.set_ylabel("Right: share of the marked\nthat has the finding (precision)")
        axes.grid(True)
        _legend_below(figure, axes, columns=1)
        svg = svg_of(figure)
    caption = (
        f"How many of the marked {plural(unit)} are right, at each share found, over {_counts(drawn, unit)}. It "
        "depends on how common the finding is among these cases: elsewhere the curve lies elsewhere. AP is "
        "average precision with its 95 % interval."
    )
    areas = "; ".join(f"{line.label} {with_interval(line.area)}" for line in drawn)
    return Figure(name, title, caption, f"Precision-recall curves. Average precision: {areas}.", svg)


def froc_figure(name: str, title: str, curves: Sequence[tuple[str, Froc]], unit: str = "image") -> Figure:
    """Lesions found against false marks per unit (of classic FROC the image), with the usual rates marked."""
    drawn = [(label, froc) for label, froc in curves if froc.lesions]
    furthest = max((float(f.false_marks_per_image.max(initial=0.0)) for _, f in drawn), default=0.0)
    right = min(max(1.05 * furthest, 0.1), 1.05 * FROC_RATES[-1])
    with drawing():
        figure = sheet(112, 92)
        axes = figure.subplots()
        for place, (label, froc) in enumerate(drawn):
            look = style(place)
            x = np.r_[0.0, froc.false_marks_per_image, right]
            y = np.r_[0.0, froc.sensitivity, froc.sensitivity[-1:] if len(froc.sensitivity) else 0.0]
            x, y = thinned(x / right, y)
            axes.plot(
                x * right,
                y,
                color=look.colour,
                linestyle=look.dash,
                drawstyle="steps-post",
                label=word(label),
            )
            rates = [(r, s) for r, s in froc.at.items() if s is not None and r <= right]
            axes.plot(*_columns(rates), look.marker, color=look.colour, markersize=4)
        axes.set(xlim=(0, right), ylim=(0, 1.01))
        axes.set_xlabel(f"False marks per {unit}")
        axes.set_ylabel("Lesions found (sensitivity)")
        axes.grid(True)
        _legend_below(figure, axes, columns=3)
        svg = svg_of(figure)
    what = "; ".join(f"{label} {count(f.lesions, 'lesion')}" for label, f in drawn)
    images = max((f.images for _, f in drawn), default=0)
    rates_said = ", ".join(f"{rate:g}" for rate in FROC_RATES)
    caption = (
        f"FROC curve over {count(images, unit)} ({what}): a lesion counts as found when a mark of its class "
        f"overlaps it enough. Signs stand at {rates_said} false marks per {unit}, as far as the curve reaches."
    )
    return Figure(name, title, caption, caption, svg, (_froc_points(name, drawn, unit),))


def score_figure(
    name: str, title: str, edges: NDArray[Any], positives: NDArray[Any], negatives: NDArray[Any],
    thresholds: Sequence[tuple[str, float]], unit: str,
) -> Figure:  # fmt: skip
    """How the scores of cases with and without the finding are spread, and where the thresholds lie.

    edges: (k + 1,) of the bins; positives, negatives: (k,) cases in each
    """
    with drawing():
        figure = sheet(140, 74)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, bars, colour, hatch, says in (
            (upper, positives, "#0072B2", "", "With the finding"),
            (lower, negatives, "#E69F00", "////", "Without it"),
        ):
            axes.bar(edges[:-1], bars, np.diff(edges), align="edge", color=colour, hatch=hatch, edgecolor="white",
                     linewidth=0.3)  # fmt: skip
            axes.set_ylabel(plural(unit).capitalize())
            axes.set_title(f"{says}: {count(int(bars.sum()), unit)}")
            for place, (label, at) in enumerate(thresholds):
                look = style(place)
                axes.axvline(
                    at, color=INK, linestyle=look.dash, linewidth=1, label=f"{word(label)} {number(at)}"
                )
        lower.set(xlim=(0, 1), xlabel="Score")
        if thresholds:
            _legend_below(figure, lower, columns=3)
        svg = svg_of(figure)
    caption = (
        f"Scores of {count(int(positives.sum()), unit)} with and {count(int(negatives.sum()), unit)} without the "
        "finding. What lies right of a threshold is marked; the two panels have their own scales."
    )
    rows = tuple(
        (float(low), float(high), int(a), int(b))
        for low, high, a, b in zip(edges[:-1], edges[1:], positives, negatives, strict=True)
    )
    behind = Table(f"{name}-bars", title, unit, ("score from", "to", "with the finding", "without it"), rows)
    return Figure(name, title, caption, caption, svg, (behind,))


def _legend(line: Line, area: str = "AUC") -> str:
    return f"{word(line.label)}: {area} {with_interval(line.area)}"


def _legend_below(figure: Any, axes: Any, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def _counts(lines: Sequence[Line], unit: str) -> str:
    if not lines:
        return "no cases"
    total = max(line.curve.positives + line.curve.negatives for line in lines)
    each = ", ".join(f"{line.label} {line.curve.positives:,}" for line in lines)
    return f"{count(total, unit)} (with the finding: {each})"


def _left_out(lines: Sequence[Line], drawn: Sequence[Line]) -> str:
    missing = [line.label for line in lines if line not in drawn]
    return f" Without curve, as only one kind of case is there: {', '.join(missing)}." if missing else ""


def _points(name: str, lines: Sequence[Line], unit: str) -> Table:
    rows: list[tuple[str, float, int, int, int, int]] = []
    for line in lines:
        c = line.curve
        for t, tp, fp in zip(c.thresholds, c.true_positives, c.false_positives, strict=True):
            hits, alarms = int(tp), int(fp)
            rows.append((line.label, float(t), hits, c.positives - hits, alarms, c.negatives - alarms))
    columns = ("curve", "threshold", "TP", "FN", "FP", "TN")
    return Table(f"{name}-points", "Counts at every threshold", unit, columns, tuple(rows))


def _froc_points(name: str, curves: Sequence[tuple[str, Froc]], unit: str) -> Table:
    rows = tuple(
        (label, float(t), round(float(s) * f.lesions), f.lesions, round(float(x) * f.images), f.images)
        for label, f in curves
        for t, s, x in zip(f.thresholds, f.sensitivity, f.false_marks_per_image, strict=True)
    )
    columns = ("curve", "threshold", "found", "lesions", "false marks", plural(unit))
    return Table(f"{name}-points", "Counts at every threshold", "lesion", columns, rows)


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
