"""Pictures of tables: reliability, confusion, readers, strata and the p-chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipnode.evaluation.report.curves import Mark
from hipnode.evaluation.report.document import Cell, Figure, Table
from hipnode.evaluation.report.drawing import GREY, INK, PALE, drawing, sheet, style, svg_of, word
from hipnode.evaluation.report.words import count, interval, number, plural, with_interval
from hipnode.evaluation.statistics.calibration import Bin
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.monitoring import PChart
from hipnode.evaluation.statistics.readers import AI, NO_AI, ReaderResult
from hipnode.evaluation.statistics.roc import RocCurve

LONGEST_UPRIGHT = 9  # letters of an outcome that fit above its column
FOREST_ROWS = 38  # strata that fit one page
BLUE, RED = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Reliability:
    """One panel: bins of scores under one calibration ("as given", "Platt"), and their calibration error."""

    label: str
    bins: tuple[Bin, ...]
    error: Estimate


@dataclass(frozen=True)
class ForestRow:
    """One stratum: its column, its value, and per measure the estimate and whether it is flagged."""

    group: str
    value: str
    estimates: tuple[Estimate, ...]
    flagged: tuple[bool, ...]


def reliability_figure(
    name: str, title: str, panels: Sequence[Reliability], unit: str, *, explained: bool = True
) -> Figure:
    """Share with the finding against the score, with the number of cases of each bin below; up to four panels.

    explained: False where the figure before it says how to read it.
    """
    with drawing():
        figure = sheet(174 if len(panels) > 2 else 24 + 50 * len(panels), 66)
        grid = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=(3.2, 1))
        for place, panel in enumerate(panels):
            _one_reliability(grid[0][place], grid[1][place], panel)
        grid[0][0].set_ylabel("Share with the finding")
        grid[1][0].set_ylabel(plural(unit).capitalize())
        figure.supxlabel("Score (mean of the bin)", fontsize=8)
        svg = svg_of(figure)
    n = sum(b.n for b in panels[0].bins) if panels else 0
    over = f"Over {count(n, unit)}"
    caption = f"{over}; to be read as the figure before."
    if explained:
        caption = (
            f"Does a score mean what it says? {over}: points on the diagonal mean it does (of all with score 0.8, "
            "eight of ten have the finding); below it the scores promise too much, above it too little. Bars are 95 % "
            "Wilson intervals; the lower row says how many cases stand behind each point."
        )
    errors = "; ".join(f"{p.label} {with_interval(p.error)}" for p in panels)
    rows = tuple(
        (p.label, b.low, b.high, b.n, b.positives, b.mean_score, b.share_positive)
        for p in panels
        for b in p.bins
    )
    columns = ("scores", "bin from", "to", "n", "positives", "mean score", "share positive")
    counts = (Table(f"{name}-bins", title, unit, columns, rows),)
    return Figure(
        name, title, caption, f"Reliability plot. Expected calibration error: {errors}.", svg, counts
    )


def confusion_figure(
    name: str, title: str, matrix: NDArray[np.int64], outcomes: Sequence[str], unit: str
) -> Figure:
    """Reference by row, the model's answer by column; shade and per cent are of the row."""
    totals = matrix.sum(axis=1)
    shares = np.divide(matrix, totals[:, None], out=np.zeros(matrix.shape), where=totals[:, None] > 0)
    k = len(outcomes)
    with drawing():
        side = min(24 + 17 * k, 150)
        figure = sheet(side + 10, side)
        axes = figure.subplots()
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1.15, edgecolor="white", linewidth=2)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for i in range(k):
            for j in range(k):
                dark = shares[i, j] > 0.6
                percent = f"\n{shares[i, j]:.0%}" if totals[i] else ""
                axes.text(j + 0.5, i + 0.5, f"{matrix[i, j]:,}{percent}", ha="center", va="center", fontsize=7.5,
                          color="white" if dark else INK, fontweight="bold" if i == j else "normal")  # fmt: skip
        names = [word(o) for o in outcomes]
        long = max(map(len, names), default=0) > LONGEST_UPRIGHT
        slant = {"rotation": 35, "ha": "left"} if long else {}
        axes.set_xticks(np.arange(k) + 0.5, names, **slant)
        axes.set_yticks(
            np.arange(k) + 0.5, [f"{o}\n(n {t:,})" for o, t in zip(names, totals.tolist(), strict=True)]
        )
        axes.set_xlabel("The model says")
        axes.set_ylabel("The reference says")
        axes.xaxis.set_label_position("top")
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.spines[:].set_visible(False)
        svg = svg_of(figure)
    right = int(np.trace(matrix))
    total = int(matrix.sum())
    caption = (
        f"Every one of {count(total, unit)} stands in one cell: by row what it is, by column what the model says; "
        f"per cent and shade are shares of the row. On the diagonal the model is right ({right:,} of {total:,})."
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (o, *map(int, line)) for o, line in zip(outcomes, matrix.tolist(), strict=True)
    )
    counts = (Table(f"{name}-counts", title, unit, ("reference", *(f"says {o}" for o in outcomes)), rows),)
    return Figure(name, title, caption, caption, svg, counts)


def readers_figure(
    name: str, title: str, results: Sequence[ReaderResult], unit: str, curve: RocCurve | None = None,
    model: Mark | None = None,
) -> Figure:  # fmt: skip
    """Each reader as a point in ROC space, without AI (open) and with it (full), joined by an arrow."""
    places = {
        (r.reader, r.condition): (1 - c, s)
        for r in results
        if (s := r.estimates["sensitivity"].value) is not None
        and (c := r.estimates["specificity"].value) is not None
    }
    readers = list(dict.fromkeys(r.reader for r in results))
    with drawing():
        figure = sheet(130, 104)
        axes = figure.subplots()
        if curve is not None and curve.positives and curve.negatives:
            axes.plot(
                1 - curve.specificity,
                curve.sensitivity,
                color=GREY,
                linewidth=1,
                label="Model, all thresholds",
            )
        if model is not None and model.sensitivity is not None and model.specificity is not None:
            axes.plot([1 - model.specificity], [model.sensitivity], "*", color=INK, markersize=10, clip_on=False,
                      label=word(model.label))  # fmt: skip
        for i, reader in enumerate(readers):
            _one_reader(axes, i, word(reader), places.get((reader, NO_AI)), places.get((reader, AI)))
        _reader_limits(axes, list(places.values()), model)
        axes.grid(True)
        axes.set_xlabel("False alarms: share without the finding that was called (1 − specificity)")
        axes.set_ylabel("Found: share with the finding that was called (sensitivity)")
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower left", ncols=3)
        svg = svg_of(figure)
    caption = (
        f"{count(len(readers), 'reader')}: open signs without AI, full signs with it. An arrow up finds more, an "
        f"arrow to the left alarms less. Unit of the counts: {unit} read. The axes show a part only; see their ends."
    )
    said = "; ".join(
        f"{r.reader} {r.condition} sensitivity {number(r.estimates['sensitivity'].value)}, "
        f"specificity {number(r.estimates['specificity'].value)}"
        for r in results
    )
    return Figure(name, title, caption, f"Readers in ROC space: {said}.", svg)


def forest_figures(
    name: str,
    title: str,
    measures: Sequence[str],
    overall: Sequence[Estimate],
    rows: Sequence[ForestRow],
    unit: str,
    *,
    explained: bool = True,
) -> tuple[Figure, ...]:
    """Strata one below the other with their intervals against the overall value; as many pages as it takes.

    explained: False where the figure before it says how to read it.
    """
    pages = [rows[i : i + FOREST_ROWS] for i in range(0, len(rows), FOREST_ROWS)]
    figures = []
    for number_, page in enumerate(pages, start=1):
        last = f" ({number_} of {len(pages)})" if len(pages) > 1 else ""
        called = name if number_ == 1 else f"{name}-{number_}"
        with drawing():
            figure = sheet(174, 17 + 3.6 * (len(page) + len({r.group for r in page})))
            panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
            for place, (axes, measure) in enumerate(zip(panels, measures, strict=True)):
                _one_forest(
                    axes,
                    measure,
                    overall[place],
                    [(r.estimates[place], r.flagged[place]) for r in page],
                    page,
                )
            svg = svg_of(figure)
        caption = f"Unit: {unit}; to be read as the figure before."
        if explained and number_ == 1:
            caption = (
                "Each line is one group of cases, the bar its 95 % interval, the number beside it how many cases stand "
                "behind it. The vertical line is the value over all cases, the band its interval. Full squares mark "
                f"groups whose interval leaves out the overall value. Unit: {unit}. With many groups one in twenty is "
                "marked by chance alone."
            )
        flagged = [f"{r.group} {r.value}" for r in page if any(r.flagged)]
        alt = f"Strata of {', '.join(measures)}. Marked: {', '.join(flagged) if flagged else 'none'}."
        figures.append(Figure(called, title + last, caption, alt, svg))
    return tuple(figures)


def p_chart_figure(name: str, title: str, chart: PChart, unit: str = "study") -> Figure:
    """Share of positives per period with the limits that its number allows."""
    points = chart.points
    x = np.arange(len(points))
    with drawing():
        figure = sheet(174, 70)
        axes = figure.subplots()
        if chart.centre is not None:
            axes.axhline(chart.centre, color=INK, linewidth=0.8, label=f"Baseline {number(chart.centre)}")
            lower, upper = [p.lower for p in points], [p.upper for p in points]
            axes.fill_between(x, lower, upper, step="mid", color=PALE, linewidth=0, label="Limits")
        known = [(i, p) for i, p in enumerate(points) if p.share is not None]
        axes.plot(
            [i for i, _ in known], [p.share for _, p in known], "-o", color=BLUE, markersize=3, label="Share"
        )
        out = [(i, p) for i, p in known if p.outside]
        axes.plot(
            [i for i, _ in out], [p.share for _, p in out], "D", color=RED, markersize=6, label="Outside"
        )
        step = max(1, len(points) // 12)
        axes.set_xticks(x[::step], [word(p.period) for p in points[::step]], rotation=30, ha="right")
        axes.set_ylabel("Share positive")
        axes.set_ylim(bottom=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4)
        svg = svg_of(figure)
    n = sum(p.n for p in points)
    says = f"{chart.says[:1].upper()}{chart.says[1:]}"
    caption = (
        f"Share of positive {plural(unit)} per period, {count(n, unit)} in all. {says}. "
        "A point outside its limits is a reason to look, not a proof."
    )
    rows = tuple(
        (p.period, p.positives, p.n, p.share, p.lower, p.upper, "yes" if p.outside else "") for p in points
    )
    columns = ("period", "positives", "n", "share", "lower limit", "upper limit", "outside")
    return Figure(name, title, caption, caption, svg, (Table(f"{name}-points", title, unit, columns, rows),))


def _one_reliability(upper: Any, lower: Any, panel: Reliability) -> None:
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
    for b in panel.bins:
        if b.mean_score is not None and b.share_positive is not None:
            limits = wilson(b.positives, b.n)
            upper.plot([b.mean_score] * 2, [limits.low, limits.high], color=BLUE, linewidth=0.8)
            upper.plot([b.mean_score], [b.share_positive], "o", color=BLUE, markersize=3.5, clip_on=False)
    widths = [b.high - b.low for b in panel.bins]
    lower.bar([b.low for b in panel.bins], [b.n for b in panel.bins], widths, align="edge", color=PALE,
              edgecolor=GREY, linewidth=0.4)  # fmt: skip
    upper.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    lower.set_yticks((0, max((b.n for b in panel.bins), default=0)))
    upper.set_title(f"{word(panel.label)}\nECE {number(panel.error.value)}")
    upper.grid(True)


def _one_reader(
    axes: Any, place: int, label: str, before: tuple[float, float] | None, after: tuple[float, float] | None
) -> None:
    look = style(place + 1)  # the first is the model's black
    if before is not None and after is not None and before != after:
        arrow = {"arrowstyle": "-|>", "color": look.colour, "linewidth": 1.1, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", xy=after, xytext=before, arrowprops=arrow)
    for point, full in ((before, False), (after, True)):
        if point is not None:
            face = look.colour if full else "white"
            axes.plot([point[0]], [point[1]], look.marker, markersize=6, markerfacecolor=face,
                      markeredgecolor=look.colour, clip_on=False, zorder=4,
                      label=label if full or after is None else None)  # fmt: skip


def _reader_limits(axes: Any, points: Sequence[tuple[float, float]], model: Mark | None) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if model is not None and model.sensitivity is not None and model.specificity is not None:
        xs, ys = [*xs, 1 - model.specificity], [*ys, model.sensitivity]
    right = min(1.0, 0.1 * (np.ceil(10 * max(xs, default=1.0) + 0.5)))
    bottom = max(0.0, 0.1 * (np.floor(10 * min(ys, default=0.0) - 0.5)))
    axes.set(xlim=(0, right), ylim=(bottom, 1))


def _one_forest(
    axes: Any,
    measure: str,
    overall: Estimate,
    values: Sequence[tuple[Estimate, bool]],
    rows: Sequence[ForestRow],
) -> None:
    if overall.value is not None:
        if overall.low is not None and overall.high is not None:
            axes.axvspan(overall.low, overall.high, color=PALE, linewidth=0)
        axes.axvline(overall.value, color=INK, linewidth=0.8)
    y = 0.0
    ticks: list[tuple[float, str]] = []
    group = None
    lowest = min(v for v in (1.0, overall.value, overall.low) if v is not None)
    for row, (estimate, flagged) in zip(rows, values, strict=True):
        if row.group != group:
            group = row.group
            ticks.append((y, f"{word(group)}:"))
            y -= 1
        ticks.append((y, word(row.value)))
        if estimate.value is not None:
            lowest = min(lowest, estimate.value)
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [y, y], color=BLUE, linewidth=1)
                lowest = min(lowest, estimate.low)
            face = RED if flagged else "white"
            axes.plot(
                [estimate.value], [y], "s", color=RED if flagged else BLUE, markerfacecolor=face, markersize=4,
                clip_on=False,
            )  # fmt: skip
        axes.text(1.02, y, f"{estimate.n:,}", transform=axes.get_yaxis_transform(), fontsize=6.5, va="center")
        y -= 1
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().endswith(":") else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(max(0.0, np.floor(lowest * 10) / 10), 1.005), ylim=(y + 0.4, 0.8))
    axes.grid(True, axis="x")
    value = f"all: {number(overall.value)} ({interval(overall)})" if interval(overall) else "all: –"
    axes.set_title(f"{word(measure)}\n{value}", fontsize=8)
    axes.text(1.02, 0.4, "n", transform=axes.get_yaxis_transform(), fontsize=6.5, va="bottom")
