"""`hipnode evaluate` as a user meets it: a report from two tables, and clear words for what is wrong."""

import csv
import json
import random
import re

import pytest
from typer.testing import CliRunner

from hipnode.cli import app

LABELS = ["case_id", "patient_id", "hip", "y_class", "split", "sex"]


def command(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def written(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture
def site(tmp_path):
    """A folder with labels and predictions of 240 hips, half of them for validation."""
    draw = random.Random(6)
    labels, predictions = [], []
    for i in range(240):
        y = draw.choice(["DF", "VF", "N", "N"])
        split = "validation" if i % 4 < 2 else "test"
        labels.append([f"c{i}", f"p{i // 2}", "LR"[i % 2], y, split, draw.choice("FM")])
        scores = [round(min(1, max(0, draw.gauss(0.7 if y == c else 0.3, 0.2))), 3) for c in ("DF", "VF")]
        predictions.append([f"c{i}", "m", "1", *scores])
    written(tmp_path / "labels.csv", LABELS, labels)
    written(
        tmp_path / "predictions.csv", ["case_id", "model_id", "model_version", "p_DF", "p_VF"], predictions
    )
    return tmp_path


def given(site, *more, out="report"):
    files = ["--labels", site / "labels.csv", "--predictions", site / "predictions.csv"]
    return command(*files, "--out", site / out, "--resamples", 200, *more)


def rows_of(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_two_tables_become_a_report_and_again_the_same_bytes(site):
    options = ("--prevalence", "0.1", "--threshold", "0.6", "--threshold", "VF=0.55", "--also-at", "0.45")
    said = given(site, *options)
    assert said.exit_code == 0, said.output
    assert "m 1, 120 hips, any fracture:" in said.output
    assert re.search(r"sensitivity 0\.\d+ \(0\.\d+–[01]\.\d+\), \d+ of \d+", said.output)
    assert "AUC 0." in said.output
    assert str(site / "report" / "report.html") in said.output.replace("\n", "")
    page = (site / "report" / "report.html").read_text()
    assert str(site) not in page
    assert "--labels labels.csv --predictions predictions.csv" in page
    assert "constant 0.45" in page
    classes = {row[0] for row in rows_of(site / "report" / "tables" / "classes-multi-label.csv")}
    assert classes >= {"DF", "VF"}
    assert given(site, *options, out="again/report").exit_code == 0
    one, two = ((site / folder / "SHA256SUMS").read_text() for folder in ("report", "again/report"))
    assert one == two


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "Name a folder for the report"),
        (("--out", "OUT"), "Give --labels and --predictions"),
        (("--out", "OUT", "--labels", "x.csv"), "Give --labels and --predictions"),
        (("--out", "OUT", "--data", "x"), "needs the --package"),
        (("--out", "OUT", "--labels", "a", "--predictions", "b", "--stress"), "--stress changes films"),
        (("--out", "OUT", "--labels", "a", "--predictions", "b", "--compat", "x"), "bjj2025"),
        (
            ("--out", "OUT", "--labels", "a", "--predictions", "b", "--prevalence", "7"),
            "a share above 0 and below 1",
        ),
        (
            ("--out", "OUT", "--labels", "a", "--predictions", "b", "--unit", "knee"),
            "'hip', 'image', 'patient'",
        ),
    ],
)
def test_wrong_use_is_said_in_a_sentence(tmp_path, words, says):
    said = command(*(str(tmp_path / w) if w == "OUT" else w for w in words))
    assert said.exit_code == 2
    assert says in " ".join(said.output.replace("│", " ").split())


def test_every_problem_is_listed_and_nothing_is_written(site):
    rows = rows_of(site / "labels.csv")[1:]
    rows[0][3], rows[5][4], rows[7][0] = "XX", "someday", rows[6][0]
    written(site / "labels.csv", LABELS, rows)
    said = given(site)
    assert said.exit_code == 1
    assert "labels.csv, row 2: y_class has the unknown class 'XX'" in said.output
    assert "labels.csv, row 7: split is 'someday'" in said.output
    assert "labels.csv, row 9: its case_id is" in said.output
    assert "problems; nothing was done." in said.output
    assert list((site / "report").iterdir()) == []


def test_an_unknown_class_of_a_threshold_is_wrong_use(site):
    said = given(site, "--threshold", "SF=0.3")
    assert said.exit_code == 2
    assert "unknown class" in said.output


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(site):
    (site / "report").write_text("a file")
    said = given(site)
    assert said.exit_code == 1
    assert "is a file; name a folder" in str(said.exception)


def test_without_its_libraries_the_command_names_the_extra(site, monkeypatch):
    from hipnode.cli import needs

    monkeypatch.setattr(needs, "find_spec", lambda name: None if name == "scipy" else object())
    said = given(site)
    assert said.exit_code == 1
    assert str(said.exception) == "This command needs scipy: install hipnode[evaluation]."


def without_split(site):
    rows = [[*row[:4], "", row[5]] for row in rows_of(site / "labels.csv")][1:]
    return written(site / "plain.csv", LABELS, rows)


@pytest.mark.parametrize("name", ["new.csv", "new.jsonl"])
def test_cases_are_dealt_to_parts_by_patient(site, name):
    said = command("split", "--labels", without_split(site), "--out", site / name, "--seed", 3)
    assert said.exit_code == 0, said.output
    assert re.search(r"test: 16[4-8] cases of 8[2-4] patients \(DF \d+, N \d+, VF \d+\)", said.output)
    text = (site / name).read_text()
    rows = (
        list(csv.DictReader(text.splitlines()))
        if name == "new.csv"
        else list(map(json.loads, text.splitlines()))
    )
    home = {}
    assert all(home.setdefault(row["patient_id"], row["split"]) == row["split"] for row in rows)
    again = command("split", "--labels", site / name, "--out", site / "twice.csv")
    assert again.exit_code == 1
    assert "row 2: it has a split already" in again.output or "row 1: it has a split already" in again.output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--shares", "validation=0.5,test=0.6"), 1, "add up to 1"),
        (("--shares", "half"), 2, "is like validation=0.3,test=0.7"),
        (("--shares", "dev=0.5,test=0.5"), 2, "names parts among"),
    ],
)
def test_shares_that_cannot_be_are_refused(site, words, code, says):
    said = command("split", "--labels", without_split(site), "--out", site / "new.csv", *words)
    assert said.exit_code == code
    assert says in (said.output + str(said.exception))
