"""`hipnode evaluate` against files of known answers, and against files that are wrong, through the real door.

What a number must be is computed here with pandas, scikit-learn and plain numpy, not with our functions.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from hipnode.cli import main
from tests.evaluation_files import DISCORDANT, PUBLISHED, four_classes, published_films, reader_study

FILMS = 60
IDENTIFIER = "PAT"  # begins every patient's


@pytest.fixture(autouse=True)
def door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # what the command sets up for its process


def evaluate(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["hipnode", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def tables_of(folder: Path) -> Callable[[str], pd.DataFrame]:
    return lambda name: pd.read_csv(folder / "tables" / f"{name}.csv")


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pd.DataFrame, Callable[[str], pd.DataFrame]]:
    folder = tmp_path_factory.mktemp("published")
    labels, predictions = published_films(folder)
    films = pd.read_csv(labels)
    films["patient_id"] = films["case_id"]  # one film each, as the published limits count them
    films.to_csv(labels, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *_: None)
        words = (
            "--labels",
            labels,
            "--predictions",
            predictions,
            "--threshold",
            "0.15",
            "--prevalence",
            "0.05",
        )
        assert evaluate(*words, "--out", folder / "out", "--resamples", "400") == 0
    return films.merge(pd.read_csv(predictions), on="case_id"), tables_of(folder / "out")


def test_published_counts_give_the_published_proportions_and_wilson_limits(published):
    (row,) = published[1]("any-fracture").to_dict("records")
    assert {name: row[name.upper()] for name in PUBLISHED} == PUBLISHED
    told = {
        "accuracy": (0.9243, 0.9114, 0.9354),
        "sensitivity": (0.9079, 0.8826, 0.9282),
        "specificity": (0.9322, 0.9171, 0.9448),
        "PPV": (0.8673, 0.839, 0.891),
        "NPV": (0.9540, 0.941, 0.964),
    }
    for name, limits in told.items():
        found = [row[name], row[f"{name} low"], row[f"{name} high"]]
        assert found == pytest.approx(limits, abs=6e-4 if name.isupper() else 6e-5), name
        assert row[f"{name} method"] == "Wilson"


def delong(y: np.ndarray, s: np.ndarray) -> tuple[float, float, float]:
    """Pair by pair, without ranks: Biometrics 1988;44:837-45."""
    psi = (s[y][:, None] > s[~y][None, :]) + (s[y][:, None] == s[~y][None, :]) / 2
    half = 1.959963984540054 * np.sqrt(
        psi.mean(1).var(ddof=1) / y.sum() + psi.mean(0).var(ddof=1) / (~y).sum()
    )
    return psi.mean(), psi.mean() - half, psi.mean() + half


def test_areas_are_those_of_other_software(published):
    films, table = published
    y, s = (films.y_class == "fracture").to_numpy(), films.p_fracture.to_numpy()
    (row,) = table("areas").to_dict("records")
    assert [row["AUC"], row["AUC low"], row["AUC high"]] == pytest.approx(delong(y, s), abs=1e-9)
    assert row["AUC"] == pytest.approx(metrics.roc_auc_score(y, s), abs=1e-12)
    assert row["average precision"] == pytest.approx(metrics.average_precision_score(y, s), abs=1e-12)
    assert row["average precision low"] < row["average precision"] < row["average precision high"]


def test_operating_points_are_found_again_by_trying_every_score(published):
    films, table = published
    y, s = (films.y_class == "fracture").to_numpy(), films.p_fracture.to_numpy()
    rows = {
        rule.partition(";")[0]: row for rule, row in table("operating-points").set_index("rule").iterrows()
    }
    cuts = np.unique(s)
    sensitivity = np.array([(s[y] >= cut).mean() for cut in cuts])
    specificity = np.array([(s[~y] < cut).mean() for cut in cuts])
    gain = sensitivity + specificity - 1
    assert rows["Youden"]["Youden J"] == pytest.approx(gain.max(), abs=1e-12)
    assert rows["Youden"]["threshold"] in cuts[gain > gain.max() - 1e-12]
    assert rows["sensitivity at least 0.95"]["threshold"] == cuts[sensitivity >= 0.95].max()
    assert rows["specificity at least 0.9"]["threshold"] == cuts[specificity >= 0.90].min()


def test_calibration_and_groups_are_those_of_other_software(published):
    films, table = published
    y, s = (films.y_class == "fracture").to_numpy(), films.p_fracture.to_numpy()
    given = table("calibration").iloc[0]
    assert given["Brier"] == pytest.approx(metrics.brier_score_loss(y, s), abs=1e-12)
    assert given["log loss"] == pytest.approx(metrics.log_loss(y, np.clip(s, 1e-6, 1 - 1e-6)), abs=1e-9)
    edges = np.linspace(0, 1, 16)
    which = np.clip(np.searchsorted(edges, s, side="left"), 1, 15)
    gap = sum(abs((y[which == b] - s[which == b]).sum()) for b in range(1, 16)) / len(y)
    assert given["ECE"] == pytest.approx(gap, abs=1e-12)
    women = films[films.sex == "F"]
    row = table("groups").set_index(["group", "value"]).loc["sex", "F"]
    assert row["n"] == len(women)
    assert row["sensitivity"] == pytest.approx((women.p_fracture[women.y_class == "fracture"] >= 0.15).mean())


def test_predictive_values_at_another_prevalence_are_those_of_bayes(published):
    row = published[1]("at-prevalence").iloc[0]
    se, sp, pi = 562 / 619, 1183 / 1269, 0.05
    assert row["PPV"] == pytest.approx(se * pi / (se * pi + (1 - sp) * (1 - pi)))
    assert row["NPV"] == pytest.approx(sp * (1 - pi) / (sp * (1 - pi) + (1 - se) * pi))


def test_four_classes_from_boxes_are_counted_as_pandas_counts_them(tmp_path):
    labels, predictions = four_classes(tmp_path, 150)
    assert evaluate("--labels", labels, "--predictions", predictions, "--out", tmp_path / "out", "--threshold", "0.3",
                    "--resamples", "100", "--compat", "bjj2025") == 0  # fmt: skip
    names = ["DF", "VF", "SF", "UF"]
    films = pd.read_csv(labels).merge(pd.read_csv(predictions), on="case_id", suffixes=("", "_seen"))
    films = films[films.split == "test"]
    marks = films.boxes_seen.map(json.loads)
    scores = np.array(
        [[max([m["score"] for m in row if m["class"] == k], default=0) for k in names] for row in marks]
    )
    truth = np.stack([films.y_class == k for k in names], axis=1)
    table = tables_of(tmp_path / "out")
    for k, row in enumerate(table("classes-multi-label").to_dict("records")[:4]):
        tn, fp, fn, tp = metrics.confusion_matrix(truth[:, k], scores[:, k] >= 0.3).ravel()
        assert [row[c] for c in ("class", "TP", "FN", "FP", "TN")] == [names[k], tp, fn, fp, tn]
        assert row["F1"] == pytest.approx(metrics.f1_score(truth[:, k], scores[:, k] >= 0.3))
    named = np.where((scores >= 0.3).any(1), np.array(names)[scores.argmax(1)], "N")
    recalls = metrics.recall_score(films.y_class, named, labels=[*names, "N"], average=None)
    three = table("bjj2025-table-3-model").set_index("Class")["m 2 Se"]
    assert [three.iloc[i] for i in range(4)] == pytest.approx(recalls[:4])
    assert three.filter(like="compat").iloc[0] == pytest.approx(recalls.mean())


def test_readers_with_known_discordances_give_known_p_values(tmp_path):
    labels, predictions, reads = reader_study(tmp_path)
    assert evaluate("--labels", labels, "--predictions", predictions, "--reads", reads, "--out", tmp_path / "out",
                    "--threshold", "0.5", "--resamples", "100") == 0  # fmt: skip
    rows = tables_of(tmp_path / "out")("readers-differences").set_index(["reader", "what"])
    for reader, pairs in DISCORDANT.items():
        for what, (lost, gained) in zip(("sensitivity", "specificity"), pairs, strict=True):
            row = rows.loc[reader, what]
            assert (row["lost"], row["gained"]) == (lost, gained)
            assert row["with minus without AI"] == pytest.approx((gained - lost) / 60)
    # exact binomial of 4 and 15, of 0 and 5, and chi-square with correction of 10 and 18
    assert rows.loc["anna", "sensitivity"]["p"] == "0.019"
    assert rows.loc["ben", "sensitivity"]["p"] == "0.062"
    assert rows.loc["cem", "sensitivity"]["p"] == "0.19"


# Files that are wrong. Each: what is changed in good files, and words that must be said.


def good(n: int = FILMS) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(4)
    fracture = np.arange(n) % 2 == 0
    labels = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(n)],
            "patient_id": [f"{IDENTIFIER}{i}" for i in range(n)],
            "y_class": np.where(fracture, "fracture", "N"),
            "split": "test",
            "sex": np.where(np.arange(n) % 3, "M", "F"),
        }
    )
    p = np.clip(np.where(fracture, 0.7, 0.3) + rng.normal(0, 0.2, n), 0.01, 0.99).round(3)
    predictions = pd.DataFrame({"case_id": labels.case_id, "model_id": "m", "p_fracture": p})
    reads = pd.DataFrame(
        [
            (case, reader, condition, "fracture" if (i + len(condition)) % 3 else "N")
            for i, case in enumerate(labels.case_id)
            for reader in "ab"
            for condition in ("no_ai", "ai")
        ],
        columns=["case_id", "reader_id", "condition", "y_read"],
    )
    return {"labels": labels, "predictions": predictions, "reads": reads}


def with_cells(table: str, **cells: object) -> Callable[[dict[str, Any]], None]:
    """Sets columns of a table, in its fourth row only where the value is a text that ends with !."""

    def change(files: dict[str, Any]) -> None:
        for column, value in cells.items():
            if isinstance(value, str) and value.endswith("!"):
                frame = files[table].astype(object)
                frame.loc[3, column] = value[:-1]
                files[table] = frame
            else:
                files[table][column] = value

    return change


def twice(table: str) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files[table] = pd.concat([files[table], files[table].iloc[[3]]])

    return change


def text(table: str, made: Callable[[str], str | bytes]) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files[table] = made(files[table].to_csv(index=False))

    return change


def leak(files: dict[str, Any]) -> None:
    files["labels"]["split"] = np.where(np.arange(FILMS) < 30, "validation", "test")
    files["labels"].loc[29, "patient_id"] = f"{IDENTIFIER}30"


def semicolons(files: dict[str, Any]) -> None:
    files["labels"] = files["labels"].to_csv(index=False, sep=";")
    files["predictions"] = files["predictions"].to_csv(index=False, sep=";", decimal=",")


def boxes(xyxy: str) -> Callable[[dict[str, Any]], None]:
    mark = f'[{{"xyxy": {xyxy}, "class": "fracture", "score": 0.9}}]'
    return with_cells("predictions", boxes=mark)


def dropped(table: str, rows: slice) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files[table] = files[table].iloc[rows]

    return change


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a patient in two parts": (leak, "row 32: its patient is in split test here and in validation at row 31"),
    "an unknown class": (with_cells("labels", y_class="XX!"), "labels.csv, row 5: y_class has the unknown class 'XX'"),
    "an unknown answer": (with_cells("reads", y_read="XX!"), "reads.csv, row 5: y_read is 'XX'; known are fracture, N"),
    "an unknown condition": (with_cells("reads", condition="AI!"), "reads.csv, row 5: condition is 'AI'"),
    "a case twice": (twice("labels"), "labels.csv, row 62: its case_id is in row 5 already"),
    "a prediction twice": (twice("predictions"), "predictions.csv, row 62: its case, model and version are in row 5"),
    "a read twice": (twice("reads"), "reads.csv, row 242: its case, reader, condition and phase are in row 5"),
    "missing predictions": (dropped("predictions", slice(50)), "no prediction for 10 of 60 cases, the first at row 52"),
    "a stranger": (with_cells("predictions", case_id="zz!"), "predictions.csv, row 5: its case is not in labels.csv"),
    "an inverted box": (boxes("[50, 10, 20, 60]"), "predictions.csv, row 2: box 1 is inverted or empty"),
    "boxes no JSON": (with_cells("predictions", boxes="[[1,2!"), "predictions.csv, row 5: boxes is not JSON"),
    "an empty file": (text("labels", lambda _: ""), "labels.csv: has no rows"),
    "a header alone": (dropped("labels", slice(0)), "labels.csv: has no rows"),
    "no header": (text("labels", lambda t: t.partition("\n")[2]), "labels.csv: has no column case_id"),
    "decimal commas": (semicolons, "(decimals take a point)"),
    "latin-1": (text("labels", lambda t: t.replace("test", "Süd").encode("latin-1")), "labels.csv: is not UTF-8"),
    "an empty score": (with_cells("predictions", p_fracture="!"), "predictions.csv, row 5: p_fracture is empty"),
    "a score in words": (with_cells("predictions", p_fracture="high!"), "predictions.csv, row 5: p_fracture is 'high'"),
    "per cent": (with_cells("predictions", p_fracture=87.0), "p_fracture is 87, not a number in 0..1"),
    "a missing column": (text("labels", lambda t: t.replace("patient_id", "pid")), "has no column patient_id"),
    "no test part": (with_cells("labels", split="train"), "labels.csv: no row is of split test (there is train)"),
    "an open quote": (text("labels", lambda t: t.replace("c3,", '"c3,', 1)), "labels.csv: is no whole CSV"),
}  # fmt: skip


def bring(folder: Path, files: dict[str, Any]) -> list[object]:
    words: list[object] = []
    for name, table in files.items():
        path = folder / f"{name}.csv"
        made = table if isinstance(table, str | bytes) else table.to_csv(index=False)
        path.write_bytes(made if isinstance(made, bytes) else made.encode())
        words += [f"--{name}", path]
    return [*words, "--out", folder / "out", "--resamples", "100", "--threshold", "0.5"]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gets_one_clear_sentence_and_no_number(name, tmp_path, capsys):
    change, says = WRONG[name]
    files = good()
    change(files)
    assert evaluate(*bring(tmp_path, files)) == 1
    said = capsys.readouterr()
    assert says in said.err
    assert "nothing was done" in said.err
    assert "sensitivity" not in said.out
    assert not (tmp_path / "out" / "report.html").exists()
    for word in ("Traceback", "Internal error", IDENTIFIER):
        assert word not in said.out + said.err


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"y_class": "fracture"},
            ("Every image has a fracture", "specificity –, 0 of 0", "AUC –, 60 against 0"),
        ),
        ({"y_class": "N"}, ("No image has a fracture", "sensitivity –, 0 of 0", "AUC –, 0 against 60")),
        ({"patient_id": f"{IDENTIFIER}1"}, ("60 images of 1 patient:", "sensitivity 0.")),
    ],
    ids=["only fractures", "no fracture", "one patient"],
)
def test_one_class_only_and_one_patient_leave_no_silent_number(columns, says, tmp_path, capsys):
    files = good()
    for column, value in columns.items():
        files["labels"][column] = value
    assert evaluate(*bring(tmp_path, files)) == 0
    said = capsys.readouterr()
    for words in says:
        assert words in " ".join(said.out.split())
    assert "nan" not in said.out.lower()
    report = (tmp_path / "out" / "report.md").read_text()
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", report)


def test_ten_cases_are_said_to_be_few_and_a_perfect_score_claims_no_certainty(tmp_path, capsys):
    files = good(10)
    files["predictions"]["p_fracture"] = [0.9, 0.1] * 5
    assert evaluate(*bring(tmp_path, files)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Only 10 images to judge by" in said
    assert "sensitivity 1.000 (0.566–1.000), 5 of 5" in said
    areas = pd.read_csv(tmp_path / "out" / "tables" / "areas.csv").iloc[0]
    assert areas["AUC low"] < 0.7
    assert pd.isna(areas["average precision low"])


def test_no_report_names_a_patient(tmp_path):
    files = good(10)
    files["labels"]["patient_name"] = [f"{IDENTIFIER}NAME{i}" for i in range(10)]
    assert evaluate(*bring(tmp_path, files)) == 0
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path.name for path in written if IDENTIFIER in path.read_text()] == []


def test_odd_names_of_classes_and_models_come_out_as_they_are(tmp_path):
    name = 'Größe, "a" | <script>alert(1)</script>'
    files = good(10)
    del files["reads"]
    files["labels"]["y_class"] = files["labels"]["y_class"].replace("fracture", name)
    files["predictions"] = (
        files["predictions"].rename(columns={"p_fracture": f"p_{name}"}).assign(model_id=name)
    )
    assert evaluate(*bring(tmp_path, files)) == 0
    assert "<script>alert" not in (tmp_path / "out" / "report.html").read_text()
    assert pd.read_csv(tmp_path / "out" / "tables" / "thresholds.csv")["class"].tolist() == [name]


def test_files_with_bom_crlf_and_semicolons_give_the_same_numbers(tmp_path):
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    plain.mkdir()
    odd.mkdir()
    files = good()
    assert evaluate(*bring(plain, files)) == 0
    for name, table in good().items():
        files[name] = ("\ufeff" + table.to_csv(index=False, sep=";")).replace("\n", "\r\n")
    assert evaluate(*bring(odd, files)) == 0
    same = [p.name for p in (plain / "out" / "tables").iterdir()]
    for name in same:
        assert (plain / "out" / "tables" / name).read_bytes() == (odd / "out" / "tables" / name).read_bytes()


def test_the_folder_for_the_report_may_not_be_a_file(tmp_path, capsys):
    words = bring(tmp_path, good())
    (tmp_path / "out").write_text("kept")
    assert evaluate(*words) == 1
    assert f"{tmp_path / 'out'} is a file; name a folder for the report" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (tmp_path / "out").read_text() == "kept"
