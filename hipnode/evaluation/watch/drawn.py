"""The drawings of a monitoring report: a p-chart for each class, and how far the scores moved."""

from math import isfinite

import numpy as np

from hipnode.evaluation.report.charts import p_chart_figure
from hipnode.evaluation.report.document import Cell, Figure, Table
from hipnode.evaluation.report.drawing import GREY, drawing, sheet, style, svg_of, word
from hipnode.evaluation.report.words import slug
from hipnode.evaluation.statistics.monitoring import PSI_ALARM
from hipnode.evaluation.watch.pages import UNIT
from hipnode.evaluation.watch.records import PackageWatch, Watch


def figures(watch: Watch) -> tuple[tuple[Figure, ...], ...]:
    """The figures of each package, for `pages.document`."""
    one = len(watch.packages) == 1
    return tuple(
        _of_package(package, watch, "" if one else f"-{slug(str(package.package))}")
        for package in watch.packages
    )


def _of_package(package: PackageWatch, watch: Watch, suffix: str) -> tuple[Figure, ...]:
    charts = tuple(
        p_chart_figure(f"p-chart-{slug(rate.name)}{suffix}", f"How often: {rate.name}", rate.chart, UNIT)
        for rate in package.rates
    )
    if not any(d.value is not None for s in package.scores for d in (*s.weeks, s.rolling)):
        return charts
    return (*charts, _psi(package, watch, suffix))


def _psi(package: PackageWatch, watch: Watch, suffix: str) -> Figure:
    """The index of each class by week, and the line from which it counts."""
    title = "Whether the scores moved"
    x = np.arange(len(watch.weeks))
    with drawing():
        figure = sheet(174, 70)
        axes = figure.subplots()
        axes.axhline(PSI_ALARM, color=GREY, linewidth=0.8, linestyle=":", label=f"PSI {PSI_ALARM:g}")
        for place, score in enumerate(package.scores):
            look = style(place)
            values = [np.nan if d.value is None else d.value for d in score.weeks]
            axes.plot(
                x,
                values,
                label=word(score.name),
                color=look.colour,
                linestyle=look.dash,
                marker=look.marker,
                markersize=3,
            )
        step = max(1, len(x) // 12)
        axes.set_xticks(x[::step], [word(f.name) for f in watch.weeks[::step]], rotation=30, ha="right")
        axes.set_ylabel("PSI")
        axes.set_ylim(bottom=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=6)
        svg = svg_of(figure)
    caption = (
        "Population stability index of each class' scores by week, against its first 500 studies. Weeks of few studies "
        "lie high by chance; the table says how high."
    )
    rows: list[tuple[Cell, ...]] = []
    for score in package.scores:
        stretches = [*zip((f.name for f in watch.weeks), score.weeks, strict=True)]
        for name, drift in (*stretches, (watch.rolling.name, score.rolling)):
            for i, (before, now) in enumerate(zip(drift.expected, drift.observed, strict=True)):
                low, high = (e if isfinite(e) else None for e in drift.edges[i : i + 2])
                rows.append((score.name, name, low, high, before, now))
    columns = ("class", "stretch", "above", "up to", "first studies", "studies")
    counts = (Table(f"psi{suffix}-bins", title, UNIT, columns, tuple(rows)),)
    return Figure(f"psi{suffix}", title, caption, caption, svg, counts)
