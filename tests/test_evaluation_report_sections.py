"""An evaluation as a report: its words and tables say what the record holds, and nothing of a patient."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest

from hipnode.evaluation.assemble import Options, evaluate
from hipnode.evaluation.provenance import provenance
from hipnode.evaluation.record import ANY, Evaluation
from hipnode.evaluation.report.document import Document, Section, Table
from hipnode.evaluation.report.evaluation import evaluation_document
from hipnode.evaluation.report.naming import Naming
from hipnode.evaluation.report.summary import summary_section
from hipnode.evaluation.report.writing import write
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.tables import Label, Prediction, Read, TableBox, Tables
from hipnode.evaluation.thresholds import Wanted

EVIL = "<b>West|*"
VOID = {"meta", "link", "br", "img", "path", "use", "wbr"}


def run(tables: Tables, **options: object) -> Evaluation:
    chosen = replace(Options(resamples=50, thresholds=Wanted(all=0.5)), **options)  # type: ignore[arg-type]
    return evaluate(tables, chosen, provenance(tables, seed=1, resamples=50, command="hipnode evaluate"))


def binary(tp: int, fn: int, fp: int, tn: int) -> Tables:
    """One class with these counts at 0.5."""
    says = [(True, 0.9)] * tp + [(True, 0.1)] * fn + [(False, 0.8)] * fp + [(False, 0.2)] * tn
    labels = [
        Label(i, f"ID77-{i}", f"SECRET-{i}", ("fracture",) if y else ()) for i, (y, _) in enumerate(says)
    ]
    answers = [Prediction(i, f"ID77-{i}", "m", "1", {"fracture": p}) for i, (_, p) in enumerate(says)]
    return Tables(("fracture",), tuple(labels), tuple(answers), ())


def whole() -> Tables:
    """Two classes, boxes, two models, two readers, groups of odd names, a validation part."""
    labels, answers, reads = [], [], []
    for i in range(80):
        name = ("DF", "VF", "", "")[i % 4]
        box = (100.0, 100.0, 300.0, 260.0)
        labels.append(
            Label(
                i, f"ID77-{i}", f"SECRET-{i // 2}", (name,) if name else (), hip="LR"[i % 2],
                boxes=(TableBox(name, box, 1.0),) if name else (), split="validation" if i // 4 % 2 else "test",
                strata={"sex": "FM"[i // 8 % 2], "site": EVIL if i % 3 else "North"}, size=(1000, 800),
            )
        )  # fmt: skip
        for place, model in enumerate(("new", "old")):
            hit = (i + place) % 9 != 0
            score = 0.9 - i / 200 if hit else 0.2
            marks = (TableBox(name, (box[0] + 9 * place, *box[1:]), score),) if name else ()
            marks += (TableBox("DF", (500.0, 500.0, 600.0, 700.0), 0.6),) if i % 11 == place else ()
            answers.append(Prediction(i, f"ID77-{i}", model, "1", {}, marks, runtime_ms=20.0 + i))
        for reader in ("R1", "R2"):
            for condition, wrong in (("no_ai", i % 5 == 0), ("ai", i % 10 == 0)):
                said = name or "N"
                answer = {"N": "DF", "DF": "N", "VF": "N"}[said] if wrong else said
                phase = "1" if condition == "ai" else "0"
                reads.append(Read(i, f"ID77-{i}", reader, condition, answer, phase, i, None, 9 + i % 5))
    return Tables(("DF", "VF"), tuple(labels), tuple(answers), tuple(reads))


@pytest.fixture(scope="module")
def full() -> Evaluation:
    return run(whole(), prevalence=0.05)


@pytest.fixture(scope="module")
def document(full: Evaluation) -> Document:
    return evaluation_document(full, [Section("Published", ("Beside the papers.",))])


def summary_of(tables: Tables, **options: object) -> str:
    found = run(tables, **options)
    return "\n".join(summary_section(found, Naming(found.facts)).paragraphs)


def table(document: Document, name: str) -> Table:
    return next(t for t in document.tables() if t.name == name)


def test_the_summary_says_counts_and_the_range_they_allow() -> None:
    said = summary_of(binary(45, 5, 6, 44))
    assert "on 100 images of 100 patients; by the reference 50 of them have a fracture." in said
    assert "of 50 images with a fracture it marked 45 and missed 5. That is 90 of 100 (79 to 96)" in said
    assert "of 50 images without a fracture it marked 6 nevertheless: 12 of 100 (6 to 24)." in said
    assert "of 51 images marked, 45 had a fracture: 88 of 100 (77 to 94)" in said
    assert "of 49 images left unmarked 5 had a fracture all the same." in said
    assert "The labels name no groups" in said


def test_every_error_is_a_line_in_a_file_and_counted_in_a_table() -> None:
    document = evaluation_document(run(binary(45, 5, 6, 44)))
    assert table(document, "errors").rows == (
        ("missed", 5), ("false alarm", 6), ("another class", 0), ("not read", 0),
    )  # fmt: skip
    lines = dict(document.files)["errors.csv"].splitlines()
    assert len(lines) == 1 + 11
    assert sum(",missed,fracture,N," in line for line in lines) == 5


def test_the_summary_gives_the_predictive_value_of_the_site() -> None:
    assert "At the prevalence given for the site, 5.0%, it would be 28 of 100" in summary_of(
        binary(45, 5, 6, 44), prevalence=0.05
    )


def test_the_summary_never_says_all_where_one_was_missed() -> None:
    assert "That is over 99 of 100" in summary_of(binary(999, 1, 6, 44))


def test_a_threshold_chosen_on_the_same_cases_is_said_where_the_number_is() -> None:
    said = summary_of(binary(45, 5, 6, 44), thresholds=Wanted())
    assert (
        "The threshold was chosen on these same cases, so this is better than what new cases will show."
        in said
    )


def test_few_cases_are_called_few() -> None:
    assert "So few cases can hardly show how good the model is." in summary_of(binary(4, 0, 1, 5))


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (
            binary(0, 0, 3, 27),
            "No image here has a fracture, so nothing can be said about what the model finds",
        ),
        (binary(9, 3, 0, 0), "Every image here has a fracture, so nothing can be said about false alarms."),
    ],
)
def test_one_class_only_is_said_and_not_numbered(tables: Tables, says: str) -> None:
    document = evaluation_document(run(tables))
    assert says in "\n".join(document.summary.paragraphs)
    assert document.warnings
    assert table(document, "areas").rows[0][3].value is None  # type: ignore[union-attr]


def test_the_summary_tells_what_ai_changed_for_readers(document: Document) -> None:
    (people,) = [p for p in document.summary.paragraphs if p.startswith("People: ")]
    assert (
        "2 readers, on average fractures found: 80 of 100 without AI and 90 with it (+10 on the cases"
        in people
    )


def test_every_table_has_a_unit_and_every_estimate_its_n(document: Document) -> None:
    assert len(document.tables()) > 25
    for each in document.tables():
        assert each.unit, each.name
        for row in each.rows:
            for cell in row:
                assert not isinstance(cell, Estimate) or (cell.n >= 0 and cell.method), (each.name, row[0])


def test_the_class_table_holds_the_record(full: Evaluation, document: Document) -> None:
    counts = full.models[0].multi_label.rows[0].counts
    row = table(document, "classes-multi-label-1").rows[0]
    assert row[:6] == ("DF", counts.positives, counts.tp, counts.fn, counts.fp, counts.tn)
    assert row[6] == full.models[0].multi_label.rows[0].estimates["sensitivity"]
    assert row[9] == full.models[0].multi_label.rows[0].estimates["npv"]


def test_false_marks_are_per_unit_of_the_evaluation(document: Document) -> None:
    assert table(document, "froc-rates-1").columns[0] == "false marks per hip, at most"
    assert "over 40 hips" in next(f.caption for f in document.figures() if f.name == "froc-1")


def test_counts_of_every_operating_point_add_up(full: Evaluation, document: Document) -> None:
    for row in table(document, "operating-points-1").rows:
        assert sum(int(x) for x in row[3:7]) == full.facts.judged.units  # type: ignore[arg-type]


def test_each_model_has_its_parts_and_the_pair_is_compared(document: Document) -> None:
    titles = [section.title for section in document.sections]
    assert {"Classes (new 1)", "Classes (old 1)", "Models against each other"} <= set(titles)
    assert table(document, "comparison-auc").rows[0][0] == "new 1 against old 1"
    assert table(document, "summary-models").rows[1][0] == "old 1"


def test_readers_are_printed_with_what_ai_changed(full: Evaluation, document: Document) -> None:
    assert full.readers is not None
    asked = full.readers.questions[0]
    gained = {(d.reader, d.metric): d.mcnemar.gained for d in asked.differences if d.mcnemar is not None}
    rows = [
        r
        for r in table(document, "readers-differences").rows
        if r[1] == "any fracture" and r[0] != "mean of all"
    ]
    assert {(r[0], r[2]): r[5] for r in rows} == gained
    assert max(gained.values()) > 0
    kinds = {row[0] for row in table(document, "readers-kappa").rows}
    assert {"two readers", "reader and reference", "model and reference", "all readers (Fleiss)"} <= kinds


def test_the_reads_stand_beside_the_report_as_r_takes_them(full: Evaluation, document: Document) -> None:
    files = dict(document.files)
    rows = list(csv.DictReader(StringIO(files["reads-mrmcaov.csv"])))
    assert list(rows[0]) == ["reader", "treatment", "case", "truth", "rating"]
    assert len(rows) == 40 * 2 * 2
    assert files["reads.imrmc"].startswith("Reader study")


def test_calibrators_fitted_on_validation_are_kept_beside_the_report(document: Document) -> None:
    records = json.loads(dict(document.files)["calibrators-1.json"])
    assert records[ANY]["temperature"]["numbers"]["temperature"] > 0


def test_groups_are_printed_and_odd_names_stay_words(document: Document) -> None:
    rows = table(document, "groups-1").rows
    assert {row[0] for row in rows} >= {"sex", "site", "side", "class in the reference"}
    assert EVIL in {row[1] for row in rows}


def test_more_sections_stand_before_the_checks(document: Document) -> None:
    titles = [s.title for s in document.sections]
    assert titles[-2:] == ["Published", "Checks of the numbers against each other"]


def test_the_facts_name_hashes_code_seed_and_command(document: Document) -> None:
    facts = dict(document.facts)
    assert len(facts["Labels, SHA-256 of the content"]) == 64
    assert (facts["Seed"], facts["Command"]) == ("1", "hipnode evaluate")


class Balance(HTMLParser):
    """Counts open elements; every closing tag must close the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_written_report_is_whole_and_holds_no_patient(document: Document, tmp_path: Path) -> None:
    page = write(document, tmp_path)
    reader = Balance()
    reader.feed(page.read_text())
    assert (reader.open, reader.wrong) == ([], [])
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) > 40
    for path in written:
        text = path.read_text()
        assert "SECRET" not in text, path.name
        assert "ID77" not in text or path.parent.name == "files", path.name
    assert "&lt;b&gt;West|*" in page.read_text()
    assert "<b>West" not in page.read_text()
    assert "://" not in page.read_text().replace("http://www.w3.org/", "")
