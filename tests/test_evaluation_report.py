import csv
import hashlib
import html
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from hipnode.evaluation.report.cells import notes, shown
from hipnode.evaluation.report.document import Document, Figure, Section, Table
from hipnode.evaluation.report.glossary import terms_of
from hipnode.evaluation.report.html import as_html
from hipnode.evaluation.report.markdown import as_markdown
from hipnode.evaluation.report.spreadsheets import as_csv, guarded
from hipnode.evaluation.report.words import interval, listed, number, p_value, per_hundred, plural, slug
from hipnode.evaluation.report.writing import ReportNotWritten, write
from hipnode.evaluation.statistics.estimates import Estimate, undefined
from hipnode.evaluation.statistics.intervals import wilson

EVIL = '<script>alert("1")</script> | *b* [x](http://y) & $z$'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><text>{}</text></svg>'


def make_table(name: str = "classes", first: str = "DF") -> Table:
    rows = (
        (first, 60, 45, wilson(45, 50), Estimate(0.5, 0.4, 0.6, 60, 50, "bootstrap of 40 patients (200)")),
        ("VF", 60, 3, wilson(3, 4), undefined(60, 0, "undefined: one class only")),
    )
    return Table(name, "Each class", "hip", ("class", "n", "TP", "sensitivity", "F1"), rows, ("Own note.",))


def make_document(table: Table | None = None, text: str = "Plain.") -> Document:
    behind = Table("roc-points", "Points", "hip", ("curve", "TP"), (("any", 3),))
    figure = Figure("roc", "ROC", "Caption.", "In words.", SVG.format("curve"), (behind,))
    section = Section("Classes", (text,), (table or make_table(), figure))
    return Document(
        "Report", Section("In plain words", ("Good.",)), (section,), (("Seed", "1"),), ("Few cases.",)
    )


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0.000"), (-0.0001, "0.000"), (0.90789, "0.908"), (-0.25, "−0.250"), (1.0, "1.000"),
        (12.34, "12.3"), (1234.5, "1,234"), (float("nan"), "–"), (float("inf"), "–"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_in_one_place(value: float | None, text: str) -> None:
    assert number(value) == text


def test_limits_below_zero_are_joined_by_a_word() -> None:
    assert interval(Estimate(0.0, -0.1, 0.1, 9, 3, "x")) == "−0.100 to 0.100"
    assert interval(wilson(45, 50)) == "0.786–0.957"
    assert interval(undefined(0, 0, "why")) == ""


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0"), (0.001, "under 1"), (0.9079, "91"), (0.999, "over 99"), (1.0, "100")]
)
def test_of_a_hundred_is_never_all_where_one_was_missed(share: float, text: str) -> None:
    assert per_hundred(share) == text


def test_small_words() -> None:
    assert [plural("study"), plural("hip", 1), plural("image", 2)] == ["studies", "hip", "images"]
    assert [p_value(None), p_value(0.0001), p_value(0.0192), p_value(0.5)] == [
        "–",
        "< 0.001",
        "0.019",
        "0.50",
    ]
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["", "a", "a, b and c"]
    assert [slug("ROC of DF"), slug("../../etc"), slug("漢")] == ["roc-of-df", "etc", "part"]


def test_an_estimate_prints_value_interval_events_and_n() -> None:
    made = shown(wilson(45, 50))
    assert (made.text, made.interval, made.support) == ("0.900", "0.786–0.957", "45/50")
    assert shown(wilson(3, 4)).text == "0.750†"
    assert shown(undefined(5, 0, "why")).text == "–"
    assert shown(Estimate(2.0, None, None, 7, None, "no interval: one reader only")).support == "n 7"


def test_a_table_says_itself_how_its_intervals_were_made() -> None:
    said = notes(make_table())
    assert said[0] == (
        "With each value its 95 % interval and events/n. Intervals: Wilson (sensitivity); bootstrap of 40 patients "
        "(200) (F1)."
    )
    assert said[1].startswith("† fewer than 10 events")
    assert said[2:] == ("– or no interval: undefined: one class only.", "Own note.")


def test_csv_holds_every_number_unrounded() -> None:
    first, second = rows_of(as_csv(make_table()))
    assert float(first["sensitivity"]) == 0.9
    assert float(first["sensitivity low"]) == wilson(45, 50).low
    assert (first["sensitivity events"], first["sensitivity n"], first["sensitivity method"]) == (
        "45",
        "50",
        "Wilson",
    )
    assert (second["F1"], second["F1 method"], second["unit"]) == ("", "undefined: one class only", "hip")


@pytest.mark.parametrize("word", ["=1+1", "+1+2", "-1+cmd", "@SUM(A1)", "\t=1"])
def test_csv_gives_a_spreadsheet_no_formula(word: str) -> None:
    first, _ = rows_of(as_csv(make_table(first=word)))
    assert first["class"] == "'" + word


@pytest.mark.parametrize("word", ["-1", "+49", "-0.5", "DF", ""])
def test_csv_leaves_other_words_and_numbers_alone(word: str) -> None:
    assert guarded(word) == word


def test_a_long_name_may_be_broken_in_a_table_and_stays_escaped() -> None:
    page = as_html(make_document(make_table(first="<i>" + "x" * 30)), {})
    assert "&lt;i&gt;xxxxx<wbr>xxxxxxxx<wbr>" in page
    assert "sensi<wbr>" not in page


def test_a_negative_number_stays_a_number_in_csv() -> None:
    table = Table("t", "t", "hip", ("a", "gain"), (("x", -0.5),))
    assert rows_of(as_csv(table))[0]["gain"] == "-0.5"


def test_what_a_site_wrote_is_text_in_the_page() -> None:
    page = as_html(make_document(make_table(first=EVIL), EVIL), {})
    assert "<script" not in page
    assert page.replace("<wbr>", "").count(html.escape(EVIL).replace("&quot;", "&#34;")) == 2
    assert "default-src 'none'" in page


def test_what_a_site_wrote_is_text_in_markdown() -> None:
    text = as_markdown(make_document(make_table(first=EVIL), EVIL), {})
    line = next(x for x in text.splitlines() if x.startswith("| &lt;script"))
    assert "<script" not in text
    assert "\\[x\\](http" in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 6
    assert "\\*b\\*" in line


def test_the_words_that_open_a_paragraph_are_bold_in_both() -> None:
    document = make_document(text="False alarms: 6 of 100.")
    assert "**False alarms:** 6 of 100." in as_markdown(document, {})
    assert "<b>False alarms:</b> 6 of 100." in as_html(document, {})
    assert (
        "**"
        not in as_markdown(make_document(text="No colon. Here: none."), {}).partition("## Classes")[2][:60]
    )


def test_a_line_break_in_a_name_breaks_no_table() -> None:
    text = as_markdown(make_document(make_table(first="a\n| b\r\n# c")), {})
    assert "| a \\| b \\# c | 60 | 45 |" in text


@pytest.mark.parametrize(
    "svg",
    [
        "no svg",
        SVG.format("<script/>"),
        '<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>',
        '<svg xmlns="http://www.w3.org/2000/svg"><use href="http://elsewhere/x.svg#a"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><foreignObject/></svg>',
    ],
)
def test_a_figure_that_is_more_than_a_drawing_is_refused(svg: str) -> None:
    bad = Figure("bad", "t", "c", "a", svg)
    document = replace(make_document(), sections=(Section("s", (), (bad,)),))
    with pytest.raises(ValueError, match="figure bad"):
        as_html(document, {})


def test_the_page_numbers_tables_and_figures_and_lists_them() -> None:
    page = as_html(make_document(), {"classes": "tables/classes.csv"})
    assert "Table 1. Each class" in page
    assert "Figure 1. ROC" in page
    assert '<a href="tables/classes.csv">' in page
    assert page.index("Few cases.") < page.index("Good.") < page.index("Contents")
    assert "Unit: hip" in page


def test_a_table_too_wide_for_the_page_goes_on_below_with_its_first_column() -> None:
    columns = ("class", *(f"R{i}" for i in range(24)))
    wide = Table("wide", "Wide", "hip", columns, (("DF", *[wilson(45, 50)] * 24),))
    page = as_html(replace(make_document(), sections=(Section("s", (), (wide,)),)), {})
    assert page.count("</b>, continued") == 2
    assert page.count('<th scope="row">DF</th>') == 3
    assert all(page.count(f">R{i}</th>") == 1 for i in range(24))
    assert "continued" not in as_html(make_document(), {})


def test_the_glossary_explains_the_words_that_are_used_and_no_others() -> None:
    terms = dict(terms_of(make_document()))
    assert {"Sensitivity", "F1", "Wilson", "Bootstrap", "TP, FN, FP, TN"} <= terms.keys()
    assert not {"CUSUM", "Kappa", "PSI"} & terms.keys()


def test_write_makes_the_whole_report_and_its_sums(tmp_path: Path) -> None:
    page = write(make_document(), tmp_path / "new" / "out")
    out = page.parent
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert written == [
        "SHA256SUMS", "figures/roc.svg", "report.html", "report.md", "tables/classes.csv", "tables/roc-points.csv",
    ]  # fmt: skip
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    for linked in re.findall(r"\]\(([^)]+)\)", (out / "report.md").read_text()):
        assert (out / linked).is_file()


def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    write(make_document(), tmp_path / "a")
    write(make_document(), tmp_path / "b")
    assert (tmp_path / "a/SHA256SUMS").read_bytes() == (tmp_path / "b/SHA256SUMS").read_bytes()


def test_a_new_report_leaves_no_table_of_the_old_one_and_nothing_else_away(tmp_path: Path) -> None:
    write(make_document(make_table("old")), tmp_path)
    (tmp_path / "tables" / "mine.csv").write_text("kept")
    write(make_document(make_table("new")), tmp_path)
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"mine.csv", "new.csv", "roc-points.csv"}


def test_a_forged_list_of_sums_removes_nothing_outside(tmp_path: Path) -> None:
    victim = tmp_path / "victim.csv"
    victim.write_text("kept")
    out = tmp_path / "out"
    out.mkdir()
    (out / "SHA256SUMS").write_text(f"{'0' * 64}  tables/../../victim.csv\n{'0' * 64}  ../victim.csv\n")
    write(make_document(), out)
    assert victim.read_text() == "kept"


def test_names_that_are_no_file_names_get_safe_ones_of_their_own(tmp_path: Path) -> None:
    tables = (make_table("../evil"), make_table("Evil"), make_table("x" * 300))
    document = replace(make_document(), sections=(Section("s", (), tables),))
    write(document, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out" / "tables").iterdir())
    assert len(names) == 3
    assert all(re.fullmatch(r"(evil-[0-9a-f]{8}|x{60})\.csv", name) for name in names)


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ReportNotWritten, match=r"could not be written to .*file.*Name a folder that you may write"
    ):
        write(make_document(), tmp_path / "file")


def test_two_parts_of_one_name_are_refused() -> None:
    twice = Figure("b", "t", "c", "a", SVG.format(""), (make_table("classes"),))
    with pytest.raises(ValueError, match="called classes"):
        replace(make_document(), sections=(Section("s", (), (make_table("classes"), twice)),))
