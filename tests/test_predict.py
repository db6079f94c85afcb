"""A data folder's films read with a package: a row for every case, whatever happens to its film.

The network is real with seeded random weights; thresholds are set so low that it finds something.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEGLSLossless
from typer.testing import CliRunner

from hipnode.cli import app
from hipnode.evaluation.films import data
from hipnode.evaluation.films.data import NoRunner, predict_folder
from hipnode.evaluation.films.runs import DataUnusable, Run, kind_of, sentence_of
from hipnode.evaluation.films.stress import change, standard
from hipnode.evaluation.films.stressed import stressed_tables
from hipnode.evaluation.tables import TablesUnusable, load
from hipnode.findings import Box, Candidate, KnownSide, Side
from hipnode.images import Radiograph, side_at
from hipnode.settings import Settings
from tests.factories import hip_picture, make_radiograph, save
from tests.packages import CLASSES, make_seeded_package

pytest.importorskip("torch")
from workers.offline import analyse_files
from workers.predict import of_hip

KNEE = {
    "BodyPartExamined": "KNEE", "SeriesDescription": "Knee AP", "AnatomicRegionSequence": None,
    "StudyDescription": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    make_seeded_package(folder / "hip-test")
    make_seeded_package(folder / "hip-other", id="hip-other")
    return folder


@pytest.fixture
def site(tmp_path: Path, packages: Path) -> "Site":
    return Site(tmp_path, packages)


class Site:
    """A data folder, its settings, and where predictions go."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.films, self.out = folder / "data", folder / "out"
        self.films.mkdir()
        self.settings = Settings(
            _env_file=None, data=folder / "state", packages=str(packages), decode_children=1
        )

    def film(self, name: str, **keywords: Any) -> str:
        """A DICOM film; gives its SOP Instance UID."""
        ds = make_radiograph(**{"Rows": 640, "Columns": 512, **keywords})
        (self.films / name).parent.mkdir(exist_ok=True)
        save(ds, self.films / name)
        return str(ds.SOPInstanceUID)

    def label(self, *rows: dict[str, Any]) -> None:
        filled = [
            {"case_id": f"c{i}", "patient_id": f"p{i}", "y_class": "N", **row}
            for i, row in enumerate(rows, 1)
        ]
        text = "".join(json.dumps(row) + "\n" for row in filled)
        (self.films / "labels.jsonl").write_text(text)

    def predict(self, package: str = "hip-test", **more: Any) -> Run:
        return predict_folder(self.films, package, self.out, self.settings, **more)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "predictions.jsonl").read_text().splitlines()]


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "runtime_ms"} for row in rows]


def test_films_are_found_by_name_and_by_uid_and_read_as_the_command_analyse_reads_them(site):
    site.film("sub/a.dcm", seed=1)
    uid = site.film("b.dcm", seed=2)
    site.label({"file": "sub/a.dcm", "y_class": "DF"}, {"image_uid": uid})
    steps: list[tuple[int, int]] = []

    run = site.predict(progress=lambda done, total: steps.append((done, total)))

    seen = load(run.labels, run.predictions, tuple(CLASSES))
    assert [p.case_id for p in seen.predictions] == ["c1", "c2"]
    told = analyse_files(
        [site.films / "sub" / "a.dcm", site.films / "b.dcm"], site.out / "analysed", site.settings, "hip-test"
    )
    for answer, prediction in zip(told, seen.predictions, strict=True):
        assert [(c["class"], c["score"]) for c in answer["candidates"]] == [
            (b.class_name, b.score) for b in prediction.boxes
        ]
        assert len(prediction.boxes) > 0
        assert (prediction.model_id, prediction.model_version) == ("hip-test", "1.0.0")
    assert (run.units, run.films, run.films_now, run.refused, run.failed) == (2, 2, 2, 0, 0)
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert run.said.startswith("hip-test 1.0.0 looked at 2 films, ")


def test_a_film_that_is_refused_or_damaged_has_a_row_that_says_so(site):
    site.film("hip.dcm", seed=1)
    site.film("knee.dcm", seed=2, **KNEE)
    ds = make_radiograph(seed=3, transfer_syntax=JPEGLSLossless)
    ds.PixelData = ds.PixelData[:200] + bytes(64)
    save(ds, site.films / "damaged.dcm")
    (site.films / "text.dcm").write_text("no DICOM")
    site.label(*({"file": f"{name}.dcm"} for name in ("hip", "knee", "damaged", "text")))

    run = site.predict()

    seen = load(run.labels, run.predictions, tuple(CLASSES))
    assert [p.case_id for p in seen.predictions] == ["c1"]
    assert [(p.case_id, p.not_read) for p in seen.unread] == [
        ("c2", "OTHER_REGION"),
        ("c3", "DECODE_FAILED"),
        ("c4", "DECODE_FAILED"),
    ]
    assert (run.refused, run.failed) == (1, 2)
    assert run.said.endswith(": 4 cases, 1 refused, 2 failed (DECODE_FAILED 2, OTHER_REGION 1).")
    assert sentence_of("OTHER_REGION") == "The header names another body region."


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_rows(site):
    for i in range(1, 5):
        site.film(f"{i}.dcm", seed=i)
    site.label(*({"file": f"{i}.dcm"} for i in range(1, 5)))

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.predict(progress=stop)
    before = site.rows()
    assert [row["case_id"] for row in before] == ["c1", "c2"]
    with (site.out / "predictions.jsonl").open("a") as file:
        file.write('{"case_id":"c3","model_id":"hip-te')  # a kill in the middle of a line

    run = site.predict()

    assert (run.films, run.films_now) == (4, 2)
    after = site.rows()
    assert after[:2] == before  # not read again
    site.out = site.out / "at-once"
    site.predict()
    assert without_time(after) == without_time(site.rows())


def test_predictions_of_something_else_are_not_added_to(site):
    site.film("a.dcm", seed=1)
    site.label({"file": "a.dcm"})
    site.predict()
    written = site.out / "predictions.jsonl"
    good = written.read_bytes()

    def refused(says: str, **more: Any) -> None:
        before = written.read_bytes()
        with pytest.raises(DataUnusable) as unusable:
            site.predict(**more)
        assert str(unusable.value) == f"predictions.jsonl {says}: give another --out, or remove that file."
        assert written.read_bytes() == before

    refused("holds predictions of another package (hip-test 1.0.0)", package="hip-other")
    written.write_text('{"case_id": "c1"}\n')
    refused("has a line that no such run wrote (row 1)")
    written.write_bytes(good)
    site.label({"file": "a.dcm", "case_id": "x9"})
    refused("holds 1 predictions of cases that are not in labels.jsonl")
    site.label({"file": "a.dcm"})
    site.film("a.dcm", seed=7)
    refused("holds 1 predictions of films that have changed since")


def test_two_runs_at_once_do_not_write_to_one_file(site):
    site.film("a.dcm", seed=1)
    site.label({"file": "a.dcm"})
    met: list[str] = []

    def again(_done: int, _total: int) -> None:
        with pytest.raises(DataUnusable) as refused:
            site.predict()
        met.append(str(refused.value))

    site.predict(progress=again)
    assert set(met) == {"predictions.jsonl: another process is writing to it; wait for its end."}


def test_films_as_png_are_read_and_what_cannot_be_shown_one_way_is_not(site):
    gray = np.round(hip_picture() * 255).astype(np.uint8)
    colour = np.stack([gray, gray, 255 - gray], axis=2)
    pictures = {
        "gray": Image.fromarray(gray),
        "same": Image.fromarray(np.stack([gray] * 3, axis=2)),
        "colour": Image.fromarray(colour),
        "deep": Image.fromarray(gray.astype(np.uint16) * 257),
    }
    for name, picture in pictures.items():
        picture.save(site.films / f"{name}.png")
    site.label(*({"file": f"{name}.png"} for name in pictures))
    site.predict()
    rows = site.rows()
    assert [row["not_read"] for row in rows] == [None, None, "NOT_GRAYSCALE", "DECODE_FAILED"]
    assert rows[0]["boxes"] == rows[1]["boxes"] != []
    assert (rows[0]["rows"], rows[0]["columns"]) == gray.shape


def test_both_hips_of_a_pelvis_are_cases_of_their_own(site):
    pelvis = {"BodyPartExamined": "PELVIS", "ImageLaterality": "B", "Columns": 900, "Rows": 640}
    site.film("pelvis.dcm", seed=1, PatientOrientation=["L", "F"], **pelvis)
    site.film("unsaid.dcm", seed=2, PatientOrientation=None, **pelvis)
    site.film("left.dcm", seed=3, ImageLaterality="L")
    site.label(
        {"file": "pelvis.dcm", "hip": "R", "patient_id": "p"},
        {"file": "pelvis.dcm", "hip": "L", "patient_id": "p"},
        {"file": "unsaid.dcm", "hip": "L"},
        {"file": "left.dcm", "hip": "L"},
        {"file": "left.dcm", "hip": "R"},
    )
    run = site.predict()
    right, left, unsaid, same, other = site.rows()
    assert right["boxes"]
    assert left["boxes"]
    assert all(sum(box["xyxy"][::2]) / 2 < 450 for box in right["boxes"])
    assert all(sum(box["xyxy"][::2]) / 2 > 450 for box in left["boxes"])
    assert same["boxes"]
    assert (same["not_read"], unsaid["not_read"], other["not_read"]) == (None, "SIDE_UNKNOWN", "OTHER_SIDE")
    assert (run.films, run.units, run.failed, run.refused) == (3, 5, 2, 0)
    assert kind_of("SIDE_UNKNOWN") == "failed"
    assert sentence_of("OTHER_SIDE") == "The film shows the other hip than the label names."


@pytest.mark.parametrize(
    ("shape", "side", "orientation", "hip", "alone", "expected"),
    [
        ((100, 200), None, ("L", "F"), None, True, [10, 100, 190]),  # the whole film
        ((100, 200), None, ("L", "F"), "R", True, [10]),  # the middle belongs to neither
        ((100, 200), None, ("R", "F"), "R", True, [190]),
        ((100, 200), None, None, "R", True, "SIDE_UNKNOWN"),
        ((200, 150), "R", None, "R", True, [10, 100, 190]),
        ((200, 150), "R", None, "L", True, "OTHER_SIDE"),
        ((200, 150), None, None, "L", True, [10, 100, 190]),  # one hip, and the label says which
        ((200, 150), None, None, "L", False, "SIDE_UNKNOWN"),
    ],
)
def test_boxes_go_to_the_hip_that_the_decision_rule_names(shape, side, orientation, hip, alone, expected):
    known = KnownSide(Side(side), "ImageLaterality") if side else None
    film = Radiograph(np.zeros(shape, np.uint8), "", known, orientation)
    boxes = [Box(middle - 5, 10, middle + 5, 20) for middle in (10, 100, 190)]
    candidates = [Candidate("DF", 0.5, box, side_at(film, box)) for box in boxes]
    kept, why = of_hip(candidates, film, hip, alone=alone)
    assert ([c.box.centre[0] for c in kept] if why is None else str(why)) == expected


def test_every_film_that_is_not_there_is_named_with_its_row(site):
    site.film("a.dcm", seed=1)
    (site.films.parent / "elsewhere.dcm").write_bytes(b"")
    site.label(
        {"file": "a.dcm"},
        {"file": "gone.dcm"},
        {"file": "../elsewhere.dcm"},
        {},
        {"file": "a.dcm"},
    )
    with pytest.raises(TablesUnusable) as refused:
        site.predict()
    assert str(refused.value).splitlines() == [
        "labels.jsonl, row 2: file is not in the data folder",
        "labels.jsonl, row 3: file lies outside the data folder",
        "labels.jsonl, row 4: names no film: fill in file or image_uid",
        "labels.jsonl, row 5: names the film and hip of row 1 again",
    ]
    second = site.film("b.dcm", seed=2)
    other = site.film("twice.dcm", seed=3)
    site.film("again.dcm", seed=3, SeriesDescription="Hip AP again")
    site.label(
        {"file": "a.dcm", "image_uid": site.film("c.dcm", seed=4)},
        {"image_uid": "1.2.3"},
        {"image_uid": other},
        {"image_uid": second},
        {"file": "b.dcm"},
    )
    with pytest.raises(DataUnusable) as unusable:
        site.predict()
    assert str(unusable.value).splitlines() == [
        "labels.jsonl, row 1: the film in file has another SOP Instance UID than image_uid",
        "labels.jsonl, row 2: no film in the data folder has this image_uid",
        "labels.jsonl, row 3: 2 different films have this image_uid; name one in the column file",
        "labels.jsonl, row 5: names the film and hip of row 4 again",
    ]
    assert not (site.out / "predictions.jsonl").exists() or not site.rows()


def test_a_data_folder_has_one_labels_file(site, tmp_path):
    for folder, says in (
        (tmp_path / "nowhere", "nowhere: does not exist"),
        (site.films, "data: holds no labels; put one of labels.csv, "),
    ):
        with pytest.raises(TablesUnusable, match=says):
            predict_folder(folder, "hip-test", site.out, site.settings)
    (site.films / "labels.csv").write_text("case_id,patient_id,y_class\n")
    (site.films / "labels.jsonl").write_text("{}\n")
    with pytest.raises(TablesUnusable, match=r"holds labels\.csv, labels\.jsonl; put one of"):
        site.predict()
    with pytest.raises(TablesUnusable, match=r"labels.csv: is no folder"):
        predict_folder(site.films / "labels.csv", "hip-test", site.out, site.settings)


def test_what_the_model_was_trained_on_is_not_read_and_validation_bears_no_stress(site):
    for name in ("train", "validation", "test"):
        site.film(f"{name}.dcm", seed=len(name))
    site.label(*({"file": f"{name}.dcm", "split": name} for name in ("train", "validation", "test")))
    changes = [change("rotation", 20), change("wrong_body_part", 1)]

    run = site.predict(stresses=changes)

    seen = load(run.labels, run.predictions, tuple(CLASSES))
    assert [p.case_id for p in seen.predictions] == ["c2", "c3"]
    under = stressed_tables(seen, run.stressed)
    assert {name: [p.case_id for p in t.predictions] for name, t in under.items()} == {
        "rotation 20": ["c3"],
        "wrong_body_part 1": [],
    }
    assert [p.not_read for p in under["wrong_body_part 1"].unread] == ["OTHER_REGION"]
    assert under["rotation 20"].predictions[0].boxes != seen.predictions[1].boxes
    assert site.predict(stresses=changes).films_now == 0
    assert site.predict(stresses=[*changes, change("inversion", 1)]).films_now == 1
    assert len(load(run.labels, run.predictions, tuple(CLASSES)).predictions) == 2


def test_where_nothing_reads_films_the_extra_is_named(site, monkeypatch):
    monkeypatch.setattr(data, "entry_points", lambda group: ())
    with pytest.raises(NoRunner, match=r"install hipnode\[worker\]"):
        site.predict()


def test_the_runner_needs_nothing_of_the_evaluation_extra():
    missing = "import sys; sys.modules.update(dict.fromkeys(['scipy', 'pyarrow', 'statsmodels', 'sklearn']))"
    both = "import workers.predict, hipnode.evaluation.films.stress"
    code = f"{missing}; {both}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_command_reads_films_tests_them_under_stress_and_reports(site, packages, monkeypatch):
    monkeypatch.delenv("HIPNODE_ENV_FILE", raising=False)
    monkeypatch.setenv("HIPNODE_DATA", str(site.settings.data))
    monkeypatch.setenv("HIPNODE_PACKAGES", str(packages))
    site.film("broken.dcm", seed=1)
    site.film("whole.dcm", seed=2)
    site.film("knee.dcm", seed=3, **KNEE)
    site.label(
        {"file": "broken.dcm", "y_class": "DF"}, {"file": "whole.dcm"}, {"file": "knee.dcm", "y_class": "SF"}
    )
    words = [
        "--package",
        "hip-test",
        "--data",
        site.films,
        "--out",
        site.out,
        "--resamples",
        "200",
        "--stress",
    ]

    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])

    assert result.exit_code == 0, result.output
    assert "3 films" in result.stderr
    assert "1 refused, 0 failed" in result.stderr
    assert "Note: hip-test: Research use only." in result.stdout
    with (site.out / "tables" / "stress.csv").open(encoding="utf-8-sig", newline="") as file:
        stress = list(csv.DictReader(file))
    assert len(stress) == len(standard())
    assert {row["n"] for row in stress} == {"2"}
    knee = next(row for row in stress if row["change"] == "wrong body part")
    assert (knee["n"], knee["refused"], knee["failed"]) == ("2", "2", "0")
    page = (site.out / "report.html").read_text(encoding="utf-8")
    assert "--stress" in page
    assert "hip-test: Seeded random weights; they have never seen an image." in page
    assert str(site.films) not in page
