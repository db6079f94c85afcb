"""`hipnode analyse`: files in, an answer for each and SR, overlay and PNG for each study, without a node.

The network is real with seeded random weights; thresholds are set so low that it finds something.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless
from typer.testing import CliRunner, Result

from hipnode.cli import app, main
from tests.dicom_checks import check_file
from tests.factories import make_radiograph, save
from tests.packages import CLASSES, make_seeded_package

pytest.importorskip("torch")

KEYS = {
    "file", "status", "outcome", "reason", "sentence", "flags", "findings", "candidates", "package", "outputs",
}  # fmt: skip
SITE = """
[[above]]
name = "trial"
when = {InstitutionName = "Trial"}
then = "analyse"
reason = "HIP_AP"
package = "hip-trial"

[site]
package = "hip-test"
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages hip-test and hip-second of one network with an input of 128 x 128."""
    folder = tmp_path_factory.mktemp("packages")
    for id_ in ("hip-test", "hip-second"):
        make_seeded_package(folder / id_, id=id_)
    return folder


@pytest.fixture
def site(tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose settings name the packages and a selection file that asks for them."""
    selection = tmp_path / "selection.toml"
    selection.write_text(SITE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HIPNODE_ENV_FILE", raising=False)
    monkeypatch.setenv("HIPNODE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HIPNODE_PACKAGES", str(packages))
    monkeypatch.setenv("HIPNODE_SELECTION_FILE", str(selection))
    monkeypatch.setenv("HIPNODE_DECODE_CHILDREN", "1")
    (tmp_path / "in").mkdir()
    return tmp_path


def film(site: Path, name: str, **keywords: Any) -> Path:
    return save(make_radiograph(**keywords), site / "in" / name)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["analyse", *map(str, arguments)])


def answers(result: Result) -> dict[str, dict[str, Any]]:
    """The answers of `--json` by file name; each has every key."""
    told = json.loads(result.stdout)
    assert all(set(answer) == KEYS for answer in told)
    return {Path(answer["file"]).name: answer for answer in told}


def test_each_study_gets_its_results_and_each_file_its_answer(site: Path, packages: Path):
    film(site, "a1.dcm", seed=1, instance=1)
    film(site, "a2.dcm", seed=1, instance=2)
    film(site, "b.dcm", seed=2)
    film(site, "knee.dcm", seed=3, BodyPartExamined="KNEE", SeriesDescription="Knee AP",
         AnatomicRegionSequence=None, StudyDescription=None)  # fmt: skip
    damaged = make_radiograph(seed=4, transfer_syntax=JPEGLSLossless)
    damaged.PixelData = damaged.PixelData[:200] + bytes(64)
    save(damaged, site / "in" / "damaged.dcm")
    (site / "in" / "notes.txt").write_text("no DICOM")

    result = run(site / "in", "--out", site / "out", "--json")
    told = answers(result)

    assert result.exit_code == 1  # something failed, and is named
    assert {name: (one["status"], one["reason"]) for name, one in told.items()} == {
        "a1.dcm": ("analysed", None),
        "a2.dcm": ("analysed", None),
        "b.dcm": ("analysed", None),
        "knee.dcm": ("skipped", "OTHER_REGION"),
        "damaged.dcm": ("failed", "DECODE_FAILED"),
        "notes.txt": ("failed", "DECODE_FAILED"),
    }
    for name in ("knee.dcm", "damaged.dcm", "notes.txt"):
        assert told[name]["sentence"].endswith(".")
        assert told[name]["findings"] == told[name]["candidates"] == []
    assert told["a1.dcm"]["outputs"] == told["a2.dcm"]["outputs"] != told["b.dcm"]["outputs"]
    assert told["knee.dcm"]["outputs"] == told["notes.txt"]["outputs"] == []
    manifest = (packages / "hip-test" / "model.toml").read_text()
    assert told["b.dcm"]["package"]["id"] == "hip-test"
    assert told["b.dcm"]["package"]["sha256"] in manifest
    # A failed film has its notice.
    for name in ("a1.dcm", "b.dcm", "damaged.dcm"):
        written = [Path(path) for path in told[name]["outputs"]]
        assert {"sr.dcm", "sr.txt", "overlay.dcm", "overlay.png"} <= {path.name for path in written}
        source = dcmread(site / "in" / name)
        for path in written:
            assert path.stat().st_size > 0
            if path.suffix == ".dcm":
                assert dcmread(path).StudyInstanceUID == source.StudyInstanceUID
                check_file(path)


def test_candidates_hold_the_findings_and_stay_inside_the_film(site: Path):
    film(site, "right.dcm", seed=1, ImageLaterality="R")
    one = answers(run(site / "in", "--out", site / "out", "--json"))["right.dcm"]
    assert one["outcome"] == "findings"
    assert len(one["candidates"]) >= len(one["findings"]) >= 1
    source = dcmread(site / "in" / "right.dcm")
    for region in [*one["candidates"], *one["findings"]]:
        column_min, row_min, column_max, row_max = region["box"]
        assert 0 <= column_min < column_max <= source.Columns
        assert 0 <= row_min < row_max <= source.Rows
        assert region["class"] in CLASSES
        assert 0.0001 <= region["score"] <= 1
        assert region["side"] == "R"
        assert region["side_source"]
    boxes = [candidate["box"] for candidate in one["candidates"]]
    assert all(finding["box"] in boxes for finding in one["findings"])


def test_a_missing_package_fails_its_study_and_no_other(site: Path):
    film(site, "ours.dcm", seed=1)
    film(site, "trial.dcm", seed=2, InstitutionName="Trial")
    result = run(site / "in", "--out", site / "out", "--json")
    told = answers(result)
    assert result.exit_code == 1
    assert told["ours.dcm"]["status"] == "analysed"
    assert (told["trial.dcm"]["status"], told["trial.dcm"]["reason"]) == ("failed", "NO_PACKAGE")
    assert "hip-trial" in told["trial.dcm"]["sentence"]
    assert "HIPNODE_PACKAGES" in told["trial.dcm"]["sentence"]


def test_the_package_option_stands_above_the_rules(site: Path):
    film(site, "trial.dcm", seed=2, InstitutionName="Trial")
    result = run(site / "in", "--out", site / "out", "--package", "hip-second", "--json")
    assert answers(result)["trial.dcm"]["package"]["id"] == "hip-second"


def test_two_packages_at_one_study_do_not_overwrite_each_other(site: Path):
    rules = site / "selection.toml"
    rules.write_text(SITE.replace("hip-trial", "hip-second"))
    film(site, "ours.dcm", seed=1, instance=1)
    film(site, "trial.dcm", seed=1, instance=2, InstitutionName="Trial")
    told = answers(run(site / "in", "--out", site / "out", "--json"))
    ours, trial = told["ours.dcm"], told["trial.dcm"]
    assert (ours["package"]["id"], trial["package"]["id"]) == ("hip-test", "hip-second")
    assert not set(ours["outputs"]) & set(trial["outputs"])


def test_the_same_film_twice_is_read_once(site: Path):
    path = film(site, "a.dcm", seed=1)
    (site / "in" / "copy.dcm").write_bytes(path.read_bytes())
    result = run(path, site / "in", "--out", site / "out", "--json")
    told = json.loads(result.stdout)
    assert [Path(one["file"]).name for one in told] == ["a.dcm", "copy.dcm"]
    assert told[0]["candidates"] == told[1]["candidates"]
    check_file(Path(told[0]["outputs"][0]))


def test_other_bytes_under_one_uid_are_named_and_not_read(site: Path):
    film(site, "a.dcm", seed=1)
    film(site, "b.dcm", seed=1, SeriesDescription="Hip AP again")
    result = run(site / "in", "--out", site / "out", "--json")
    told = answers(result)
    assert result.exit_code == 1
    assert told["a.dcm"]["status"] == "analysed"
    assert (told["b.dcm"]["status"], told["b.dcm"]["reason"]) == ("failed", "REVISION_CONFLICT")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_film_without_identity_is_named_and_not_read(site: Path, keyword: str):
    path = film(site, "a.dcm", seed=1)
    anonymous = dcmread(path)
    delattr(anonymous, keyword)
    anonymous.save_as(path)
    told = answers(run(path, "--out", site / "out", "--json"))["a.dcm"]
    assert (told["status"], told["reason"]) == ("failed", "IDENTITY_UNREADABLE")
    assert told["sentence"] == f"The file has no {keyword}."


def test_text_says_what_was_found_and_where_it_lies(site: Path):
    film(site, "a.dcm", seed=1)
    result = run(site / "in", "--out", site / "out")
    assert result.exit_code == 0
    assert "a.dcm: analysed" in result.stdout
    assert f"Results are in {site / 'out'}." in result.stdout


def test_nothing_written_is_not_said_to_be_somewhere(site: Path):
    (site / "in" / "notes.txt").write_text("no DICOM")
    result = run(site / "in", "--out", site / "out")
    assert result.exit_code == 1
    assert "notes.txt: failed, DECODE_FAILED: " in result.stdout
    assert "Results are in" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--out", "file/out"), 1, "file/out: Not a directory."),
        (("--out", "out", "--device", "cuda:63"), 2, "cuda:63 is not there"),
        (("--out", "out", "--package", "nobody"), 2, "hip-second, hip-test"),
    ],
)
def test_wrong_use_ends_with_a_sentence(site: Path, monkeypatch, capsys, arguments, code, word):
    film(site, "a.dcm", seed=1)
    (site / "file").touch()
    monkeypatch.setattr("sys.argv", ["hipnode", "analyse", "in", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code
    assert word in capsys.readouterr().err
