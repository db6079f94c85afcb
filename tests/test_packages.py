"""Model packages: what a manifest may say, what a changed file does, which images are vetoed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hipnode.errors import PackageError
from hipnode.findings import Reason
from hipnode.images import Radiograph
from hipnode.packages import (
    MANIFEST,
    MODEL_CARD,
    WEIGHTS,
    find_packages,
    load_package,
    shipped_folder,
    to_toml,
    write_package,
)
from hipnode.status import ReasonCode
from tests.packages import content, make_package


def radiograph(body_part: str = "", view: str = "") -> Radiograph:
    return Radiograph(np.zeros((8, 8), np.uint8), "1.2.3", body_part=body_part, view=view)


def test_a_package_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = make_package(tmp_path / "p", b"weights")
    read = load_package(tmp_path / "p")
    assert read == written
    assert (read.id, read.version, read.input_size) == ("hip-test", "1.0.0", (256, 192))
    assert read.body_parts == ("HIP", "PELVIS")
    assert read.views == ("AP",)
    assert read.weights_file.read_bytes() == b"weights"
    assert read.model_card.read_text() == "# A test package\n"
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [MODEL_CARD, WEIGHTS, MANIFEST]


def test_reports_say_what_results_say_of_the_weights(tmp_path: Path) -> None:
    assert make_package(tmp_path).cautions == (
        "hip-test: Seeded random weights; they have never seen an image.",
        "hip-test: Research use only.",
        "hip-test: Reads AP views only.",
    )


def test_results_can_name_who_looked(tmp_path: Path) -> None:
    algorithm = make_package(tmp_path, b"weights").algorithm
    assert algorithm.name == 'Hip "test" package — Größe'
    assert [c.name for c in algorithm.classes] == ["DF", "VF", "SF", "UF"]
    assert algorithm.class_named("VF").code_value == "HN-VFN"
    assert algorithm.thresholds == {"DF": 0.4, "VF": 0.3, "SF": 0.5, "UF": 0.5}
    assert not algorithm.calibrated
    assert algorithm.origin.startswith("Seeded random weights")
    assert algorithm.limits == ("Research use only.", "Reads AP views only.")
    assert len(algorithm.sha256) == 64


def test_the_rule_is_the_manifests(tmp_path: Path) -> None:
    plain = make_package(tmp_path / "a").rule
    assert (plain.tau_min, plain.nms_iou, plain.valgus_priority) == (0.05, 0.7, None)
    decision = {
        "thresholds": {"DF": 0.4, "VF": 0.3, "SF": 0.5, "UF": 0.5},
        "tau_min": 0.1,
        "nms_iou": 0.6,
        "valgus_priority": 0.2,
    }
    rule = make_package(tmp_path / "b", decision=decision).rule
    assert (rule.tau_min, rule.nms_iou, rule.valgus_priority) == (0.1, 0.6, 0.2)
    assert rule.fires("DF", 0.4)
    assert not rule.fires("DF", 0.3999)


def test_calibration_and_two_levels_are_the_manifests(tmp_path: Path) -> None:
    plain = make_package(tmp_path / "a")
    assert (plain.rule.calibration, plain.rule.definite, plain.rule.certainty(0.9)) == (None, {}, None)
    assert plain.rule.level("DF", 0.9) is None
    decision = {"thresholds": GOOD, "definite": {"DF": 0.8}}
    for calibration, at_a_quarter in (
        ({"method": "temperature", "temperature": 0.5}, 0.1),  # odds 1/3, squared
        ({"method": "platt", "slope": 1.0, "intercept": 0.0}, 0.25),
        ({"method": "isotonic", "scores": [0.0, 0.5], "values": [0.1, 0.9]}, 0.5),
    ):
        folder = tmp_path / calibration["method"]  # type: ignore[operator]
        package = make_package(
            folder, decision=decision, calibration={**calibration, "n": 80, "positives": 20}
        )
        assert package.algorithm.calibrated
        assert package.rule.certainty(0.25) == pytest.approx(at_a_quarter)
        assert load_package(folder) == package
        assert (package.rule.level("DF", 0.8), package.rule.level("DF", 0.7999)) == ("definite", "possible")
        assert package.rule.level("VF", 0.9) is None


GOOD = {"DF": 0.4, "VF": 0.3, "SF": 0.5, "UF": 0.5}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": None}, ["id: Field required"]),
        ({"id": "../other"}, ["id: "]),
        ({"origin": ""}, ["origin: "]),
        ({"limits": []}, ["limits: "]),
        ({"wings": 2}, ["wings: Extra inputs are not permitted"]),
        ({"task": "classify"}, ["task: Input should be 'detect'"]),
        ({"body_parts": ["hip"]}, ["body_parts.0: "]),
        ({"input": {"width": 500, "height": 512}}, ["input.width: ", "multiple of 32"]),
        ({"input": {"width": 512}}, ["input.height: Field required"]),
        ({"classes": []}, ["classes: "]),
        ({"decision": {"thresholds": {"DF": 0.4}}}, ["must name each class once (DF, VF, SF, UF)"]),
        ({"decision": {"thresholds": {**GOOD, "DF": 1.5}}}, ["decision.thresholds.DF: "]),
        (
            {"decision": {"thresholds": {**GOOD, "DF": 0.01}}},
            ["decision.thresholds.DF: 0.01 is below tau_min"],
        ),
        ({"decision": {"thresholds": GOOD, "valgus_priority": 0.01}}, ["valgus_priority: is below tau_min"]),
        ({"calibration": {"method": "guess"}}, ["calibration.method: Input should be 'none'"]),
        ({"calibration": {"method": "temperature"}}, ["temperature has the numbers temperature"]),
        ({"calibration": {"method": "none", "intercept": 0.0}}, ["none has the numbers none"]),
        (
            {"calibration": {"method": "temperature", "temperature": -1}},
            ["temperature: Input should be greater"],
        ),
        (
            {"calibration": {"method": "isotonic", "scores": [0.1, 0.4], "values": [0.3, 0.2]}},
            ["values that do not fall"],
        ),
        ({"calibration": {"method": "isotonic", "scores": [0.1], "values": [0.3, 0.5]}}, ["as many values"]),
        (
            {"decision": {"thresholds": GOOD, "definite": {"DF": 0.3, "XX": 0.5}}},
            ["decision.definite.DF: 0.3 is below the threshold 0.4", "decision.definite.XX: is no class"],
        ),
        (
            {
                "classes": [{"name": "DF", "meaning": "m", "code": "c", "scheme": "s"}],
                "decision": {"thresholds": {"DF": 0.4}, "valgus_priority": 0.2},
            },
            ["valgus_priority: needs classes VF and DF"],
        ),
        ({"id": "UPPER", "version": "a b", "task": "x"}, ["id: ", "version: ", "task: "]),  # all are named
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_manifest_is_refused_with_each_problem(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(PackageError) as caught:
        make_package(tmp_path / "p", **changes)
    assert [w for w in words if w not in str(caught.value)] == []
    assert not (tmp_path / "p").exists()


def test_an_edited_weights_file_is_refused(tmp_path: Path) -> None:
    package = make_package(tmp_path, b"weights")
    package.weights_file.write_bytes(b"weightz")
    with pytest.raises(PackageError, match="SHA-256 differs"):
        load_package(tmp_path)
    assert load_package(tmp_path, verify=False).id == "hip-test"


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, MODEL_CARD])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    make_package(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(PackageError, match=name):
        load_package(tmp_path)


@pytest.mark.parametrize("text", [b"id = ", b"\xff\xfe"], ids=["no value", "no text"])
def test_a_manifest_that_is_no_toml_is_refused(text: bytes, tmp_path: Path) -> None:
    make_package(tmp_path)
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(PackageError, match="not valid TOML"):
        load_package(tmp_path)


def test_a_manifest_cannot_name_weights_elsewhere(tmp_path: Path) -> None:
    make_package(tmp_path)
    manifest = tmp_path / MANIFEST
    manifest.write_text(manifest.read_text().replace(f'"{WEIGHTS}"', '"../../secret"'))
    with pytest.raises(PackageError, match=r"weights\.file"):
        load_package(tmp_path)


def test_packages_are_found_in_folders_and_as_folders(tmp_path: Path) -> None:
    assert find_packages([], shipped=False) == {}
    assert find_packages([tmp_path / "nowhere"], shipped=False) == {}
    make_package(tmp_path / "many" / "a", id="a")
    make_package(tmp_path / "many" / "b", id="b")
    make_package(tmp_path / "one", id="c")
    (tmp_path / "many" / "notes").mkdir()
    found = find_packages([tmp_path / "many", tmp_path / "one"], shipped=False)
    assert {id_: p.folder.name for id_, p in found.items()} == {"a": "a", "b": "b", "c": "one"}


def test_a_broken_package_is_an_error_or_is_named_beside_the_others(tmp_path: Path) -> None:
    make_package(tmp_path / "a", id="a").weights_file.write_bytes(b"other")
    make_package(tmp_path / "b", id="b")
    with pytest.raises(PackageError, match="package a "):
        find_packages([tmp_path], shipped=False)
    problems: list[PackageError] = []
    assert set(find_packages([tmp_path], shipped=False, problems=problems)) == {"b"}
    assert len(problems) == 1


def test_two_packages_of_one_name_must_be_one(tmp_path: Path) -> None:
    make_package(tmp_path / "a", b"one")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert set(find_packages([tmp_path], shipped=False)) == {"hip-test"}
    make_package(tmp_path / "z", b"two")
    with pytest.raises(PackageError, match="Two different model packages are called hip-test"):
        find_packages([tmp_path], shipped=False)


def test_the_shipped_folder_is_found_without_importing_the_workers() -> None:
    code = (
        "import sys; from hipnode.packages import find_packages, shipped_folder; find_packages([]);"
        "print(shipped_folder()); assert not {'workers', 'torch'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == shipped_folder()
    assert Path(done.stdout.strip()).parts[-2:] == ("workers", "packages")


@pytest.mark.parametrize("package", sorted(find_packages([], verify=False)))
def test_a_shipped_package_is_whole_small_and_says_what_it_is(package: str) -> None:
    shipped = find_packages([])[package]
    assert shipped.weights_file.stat().st_size < 40e6
    first_line = shipped.model_card.read_text("utf-8").splitlines()[0]
    assert "phantom" in first_line.lower()
    assert "no clinical validity" in first_line.lower()
    assert "phantom" in shipped.algorithm.origin.lower()


@pytest.mark.parametrize(
    ("body_part", "view", "vetoed"),
    [
        ("", "", False),  # silence never vetoes
        ("HIP", "AP", False),
        ("PELVIS", "", False),
        ("", "PA", False),  # frontal; selection flags it
        ("", "LL", True),
        ("HIP", "RLO", True),
        ("", "LATERAL", True),
        ("", "SOMETHING", False),  # no defined term, no statement
        ("KNEE", "AP", True),
        ("CHEST", "", True),
        ("EXTREMITY", "AP", False),  # a bucket
        ("FEMUR", "AP", False),  # next door
        ("HUEFTE", "AP", False),
    ],
)
def test_only_a_plain_contradiction_vetoes(body_part: str, view: str, vetoed: bool, tmp_path: Path) -> None:
    veto = make_package(tmp_path).veto(radiograph(body_part, view))
    assert (veto is not None) == vetoed
    if veto is not None:
        assert veto.code is ReasonCode.PACKAGE_VETO
        assert veto.sentence.startswith("The model package hip-test reads")


def test_a_contradiction_selection_looked_into_is_no_veto(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    region, view = Reason.of(ReasonCode.REGION_CONFLICT), Reason.of(ReasonCode.VIEW_CONFLICT)
    assert package.veto(radiograph("KNEE"), (region,)) is None
    assert package.veto(radiograph("HIP", "LL"), (view,)) is None
    assert package.veto(radiograph("KNEE"), (view,)) is not None
    assert package.veto(radiograph("HIP", "LL"), (region,)) is not None


def test_a_package_for_another_region_refuses_hips(tmp_path: Path) -> None:
    wrist = make_package(tmp_path / "a", body_parts=["WRIST"], views=["LL", "RL"])
    assert wrist.veto(radiograph("HIP")) is not None
    assert wrist.veto(radiograph("WRIST", "LL")) is None
    assert wrist.veto(radiograph("WRIST", "AP")) is not None
    anything = make_package(tmp_path / "b", body_parts=[], views=[])
    assert anything.veto(radiograph("KNEE", "LL")) is None


def test_toml_text_survives_awkward_values() -> None:
    import tomllib

    table = {
        "text": 'quotes " backslash \\ tab \t newline \n Ü 股',
        "numbers": [1, 2.5, 1e-7],
        "empty": [],
        "table": {"odd key": 1, "ü": True, "inner": {"a-b": "c"}},
        "rows": [{"name": "a", "more": {"x": 1}}, {"name": "b"}],
    }
    assert tomllib.loads(to_toml(table)) == table


def test_writing_again_replaces_the_package(tmp_path: Path) -> None:
    make_package(tmp_path, b"one")
    again = write_package(tmp_path, content(version="2.0.0"), b"two", "card")
    assert load_package(tmp_path) == again
    assert again.version == "2.0.0"
