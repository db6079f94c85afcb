"""`hipnode train` and `hipnode models build` as a hospital types them, from LabelImg files to a package."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hipnode.cli import app
from hipnode.packages import load_package
from tests import labelled
from workers.training.samples import DataError

NAMES = ("VF", "DF", "SF", "UF")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """40 pictures; those without a fracture have no file, as LabelImg leaves them."""
    folder = tmp_path_factory.mktemp("films")
    for i in range(40):
        pixels = np.random.default_rng(i).integers(20, 60, (labelled.ROWS, labelled.COLUMNS)).astype(np.uint8)
        if i % 4:
            box = (6 + i % 9, 10, 40, 52)
            pixels[box[1] : box[3], box[0] : box[2]] = 220
            name = NAMES[(i // 4 + i) % 4]
            (folder / f"{i:02d}.xml").write_text(labelled.voc(f"{i:02d}", [(name, box)]))
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def test_a_check_reads_everything_and_trains_nothing(films, tmp_path):
    refused = run("train", "--data", films, "--out", tmp_path / "run", "--check")
    assert isinstance(refused.exception, DataError)
    assert "00.png: has no label" in str(refused.exception)
    assert "10 pictures have no label" in str(refused.exception)
    told = run("train", "--data", films, "--out", tmp_path / "run", "--check", "--unlabelled", "none")
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["train", "validation", "test"]
    assert lines[0].startswith("train: 30 pictures (")
    assert lines[0].endswith("none 8), patients not named")
    assert not (tmp_path / "run").exists()


def test_labelled_films_become_a_package_in_two_commands(films, tmp_path):
    pytest.importorskip("scipy")
    out = tmp_path / "packages" / "hip-mine"
    trained = run(
        "train", "--data", films, "--out", tmp_path / "run", "--unlabelled", "none", "--threads", 1,
        "--epochs", 1, "--size", 64, "--batch", 8, "--patience", 5,
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert "hipnode models build" in trained.stdout
    notes = tmp_path / "notes.md"
    notes.write_text("## Ours\n\nSeen by two readers.\n")
    built = run(
        "models", "build", tmp_path / "run", "--out", out, "--data-name", "films of a test site",
        "--manufacturer", "A hospital", "--notes", notes,
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    package = load_package(out)
    assert (package.id, package.manifest.manufacturer) == ("hip-mine", "A hospital")
    assert package.manifest.recipe == "bjj2025"
    assert package.manifest.input.width == 64
    card = package.model_card.read_text("utf-8")
    assert card.endswith("Seen by two readers.\n")
    assert "The data do not name every patient" in card
    again = run("models", "build", tmp_path / "run", "--out", out)
    assert "holds a package already" in str(again.exception)


def test_the_other_commands_of_models_stay(tmp_path):
    told = run("models", "--help")
    for name in ("list", "show", "verify", "build"):
        assert f" {name} " in told.stdout
