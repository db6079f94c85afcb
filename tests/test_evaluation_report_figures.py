from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from hipnode.evaluation.report.charts import (
    FOREST_ROWS,
    ForestRow,
    Reliability,
    confusion_figure,
    forest_figures,
    p_chart_figure,
    readers_figure,
    reliability_figure,
)
from hipnode.evaluation.report.curves import (
    Line,
    Mark,
    froc_figure,
    precision_figure,
    roc_figure,
    score_figure,
)
from hipnode.evaluation.report.document import Figure
from hipnode.evaluation.report.drawing import LONGEST_WORD, thinned, word
from hipnode.evaluation.report.html import checked_svg
from hipnode.evaluation.statistics.calibration import reliability
from hipnode.evaluation.statistics.classes import Boxes
from hipnode.evaluation.statistics.counts import Counts, confusion
from hipnode.evaluation.statistics.estimates import undefined
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.evaluation.statistics.localisation import froc
from hipnode.evaluation.statistics.monitoring import ChartPoint, PChart
from hipnode.evaluation.statistics.readers import ReaderResult
from hipnode.evaluation.statistics.roc import auc, roc_curve

ODD = "_a<b> & $x$ 股\x00骨"
TRUTH = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
SCORES = np.array([0.9, 0.8, 0.7, 0.4, 0.35, 0.6, 0.3, 0.2, 0.1, 0.05])


def make_line(label: str = "DF") -> Line:
    return Line(label, roc_curve(TRUTH, SCORES), auc(TRUTH, SCORES, resamples=50))


def result(reader: str, condition: str, tp: int, tn: int) -> ReaderResult:
    counts = Counts(tp, 10 - tp, 10 - tn, tn)
    return ReaderResult(reader, condition, counts, counts.proportions())


def all_figures() -> list[Figure]:
    boxes = Boxes.of([(0, 0, (0, 0, 10, 10), 1.0), (1, 0, (0, 0, 10, 10), 1.0)])
    marks = Boxes.of([(0, 0, (0, 0, 10, 9), 0.9), (1, 0, (50, 50, 60, 60), 0.5)])
    row = ForestRow("site", ODD, (wilson(4, 10), undefined(0, 0, "undefined: 0 of 0")), (True, False))
    points = (ChartPoint(ODD, 3, 10, 0.3, 0.1, 0.5, False), ChartPoint("W2", 9, 10, 0.9, 0.1, 0.5, True))
    edges, ten = np.linspace(0, 1, 3), np.array([4, 6])
    return [
        roc_figure(
            "roc", "ROC", [make_line(), make_line(ODD)], "hip", [Mark(ODD, 0.9, 0.8), Mark("none", None, 1.0)]
        ),
        precision_figure("pr", "PR", [make_line(ODD)], "hip"),
        froc_figure("froc", "FROC", [(ODD, froc(boxes, marks, 2))]),
        score_figure("scores", "Scores", edges, ten, ten, [(ODD, 0.15)], "hip"),
        reliability_figure(
            "reliability", "R", [Reliability(ODD, reliability(TRUTH, SCORES, 10), wilson(1, 9))], "hip"
        ),
        confusion_figure("confusion", "C", confusion([ODD, "N"], ["N", "N"], [ODD, "N"]), [ODD, "N"], "hip"),
        readers_figure(
            "readers", "R", [result(ODD, "no_ai", 7, 8), result(ODD, "ai", 8, 9)], "hip", make_line().curve
        ),
        *forest_figures(
            "strata", "S", ("Sensitivity", "Specificity"), (wilson(8, 10), wilson(5, 9)), [row], "hip"
        ),
        p_chart_figure("p-chart", "P", PChart(0.3, 500, points, "")),
    ]


def all_empty() -> list[Figure]:
    only = Line("DF", roc_curve(TRUTH[:5], SCORES[:5]), auc(TRUTH[:5], SCORES[:5]))
    none = Line("VF", roc_curve([], []), undefined(0, 0, "none"))
    no_boxes, nought = froc(Boxes.of([]), Boxes.of([]), 1), undefined(0, 0, "none")
    zero = np.zeros(2, dtype=np.int64)
    return [
        roc_figure("roc", "ROC", [only, none], "hip"),
        precision_figure("pr", "PR", [none], "hip"),
        froc_figure("froc", "FROC", [("DF", no_boxes)]),
        score_figure("scores", "Scores", np.linspace(0, 1, 3), zero, zero, [], "hip"),
        reliability_figure("reliability", "R", [Reliability("as given", reliability([], [], 10), nought)], "hip"),
        confusion_figure("confusion", "C", np.zeros((2, 2), np.int64), ["DF", "N"], "hip"),
        readers_figure("readers", "R", [], "hip"),
        *forest_figures("strata", "S", ("Se",), (nought,), [ForestRow("sex", "F", (nought,), (False,))], "hip"),
        p_chart_figure("p-chart", "P", PChart(None, 0, (), "Too few studies.")),
    ]  # fmt: skip


def texts_of(figure: Figure) -> str:
    root = ElementTree.fromstring(figure.svg)  # noqa: S314 # our own drawing
    return " ".join("".join(e.itertext()) for e in root.iter() if e.tag.endswith("text"))


def test_every_figure_is_a_drawing_that_keeps_a_sites_words_as_text() -> None:
    for figure in all_figures():
        assert checked_svg(figure) == figure.svg
        assert "<script" not in figure.svg
        if figure.name not in ("p-chart",):
            assert "a<b> & $x$ 股 骨" in texts_of(figure), figure.name


def test_figures_without_data_are_drawn_all_the_same() -> None:
    for figure in all_empty():
        assert checked_svg(figure) == figure.svg
        assert figure.caption


def test_the_same_data_give_the_same_bytes_whatever_the_site_has_set() -> None:
    first = [figure.svg for figure in all_figures()]
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        second = [figure.svg for figure in all_figures()]
    assert first == second


def test_drawing_leaves_the_sites_settings_as_they_were() -> None:
    with mpl.rc_context({"font.size": 30}):
        roc_figure("roc", "ROC", [make_line()], "hip")
        assert mpl.rcParams["font.size"] == 30


def test_the_roc_figure_carries_its_counts_at_every_threshold() -> None:
    figure = roc_figure("roc", "ROC", [make_line()], "hip")
    (table,) = figure.counts
    assert table.rows[1] == ("DF", 0.9, 1, 4, 0, 5)
    assert table.rows[-1] == ("DF", 0.05, 5, 0, 5, 0)
    assert "AUC 0.920" in texts_of(figure)


def test_a_mark_outside_the_enlarged_corner_stands_in_the_whole_curve_only() -> None:
    near = roc_figure("roc", "ROC", [make_line()], "hip", [Mark("M", 0.9, 0.9)])
    far = roc_figure("roc", "ROC", [make_line()], "hip", [Mark("M", 0.2, 0.2)])
    assert near.svg.count("<use") - far.svg.count("<use") == 1


def test_a_curve_of_one_class_is_named_as_left_out() -> None:
    only = Line("SF", roc_curve(TRUTH[:5], SCORES[:5]), auc(TRUTH[:5], SCORES[:5]))
    assert (
        "Without curve, as only one kind of case is there: SF." in roc_figure("r", "R", [only], "hip").caption
    )


def test_the_confusion_figure_counts_what_its_matrix_says() -> None:
    matrix = np.array([[45, 5], [6, 44]])
    figure = confusion_figure("confusion", "C", matrix, ["DF", "N"], "hip")
    assert "the model is right (89 of 100)" in figure.caption
    assert figure.counts[0].rows == (("DF", 45, 5), ("N", 6, 44))
    assert "90%" in texts_of(figure)


def test_strata_that_fill_more_than_a_page_go_on_the_next() -> None:
    rows = [ForestRow("site", f"S{i}", (wilson(8, 10),), (False,)) for i in range(FOREST_ROWS + 1)]
    first, second = forest_figures("strata", "Strata", ("Sensitivity",), (wilson(8, 10),), rows, "hip")
    assert (first.name, second.name, second.title) == ("strata", "strata-2", "Strata (2 of 2)")
    assert "S38" in texts_of(second)


def test_a_flagged_stratum_is_named_in_words_too() -> None:
    row = ForestRow("site", "North", (wilson(1, 50),), (True,))
    (figure,) = forest_figures("strata", "Strata", ("Sensitivity",), (wilson(45, 50),), [row], "hip")
    assert figure.alt.endswith("Marked: site North.")


def test_a_thinned_curve_keeps_its_ends_and_its_shape() -> None:
    x = np.linspace(0, 1, 20_001)
    y = np.sqrt(x)
    thin_x, thin_y = thinned(x, y)
    assert (thin_x[0], thin_x[-1], thin_y[-1]) == (0, 1, 1)
    assert len(thin_x) < 800
    assert np.abs(np.interp(x, thin_x, thin_y) - y).max() < 0.003


@pytest.mark.parametrize(
    ("text", "drawn"), [("", ""), ("_x", " _x"), ("a\nb", "a b"), ("z" * 60, "z" * (LONGEST_WORD - 1) + "…")]
)
def test_a_word_in_a_figure_is_one_short_line(text: str, drawn: str) -> None:
    assert word(text) == drawn


def test_a_mark_outside_the_enlarged_corner_does_not_squeeze_the_figure() -> None:
    """matplotlib warns where the layout fails, and warnings are errors here."""
    figure = roc_figure("roc", "ROC", [make_line()], "hip", [Mark("in use", 0.0, 0.2)])
    assert "in use" in texts_of(figure)
