"""`hipnode models`: what is installed, what it is for, and whether it is whole."""

import json

import pytest

from hipnode.packages import ModelPackage, load_package, shipped_folder
from tests.packages import make_package
from tests.test_cli import ended, run, site

__all__ = ["site"]

SHIPPED = "hip-damoyolo-t-phantom"


@pytest.fixture
def package(site) -> ModelPackage:
    return make_package(site / "data" / "packages" / "hip-test")


def test_without_a_package_of_its_own_a_site_has_what_ships(site):
    assert [one["id"] for one in json.loads(run("models", "list", "--json").output)] == [SHIPPED]
    assert run("models", "verify").exit_code == 0


def test_list_names_each_package_with_its_hash_and_origin(package):
    listed = {one["id"]: one for one in json.loads(run("models", "list", "--json").output)}
    assert listed["hip-test"]["sha256"] == package.sha256
    assert listed["hip-test"]["classes"] == ["DF", "VF", "SF", "UF"]
    text = run("models", "list").output
    assert "hip-test" in text
    assert package.sha256[:12] in text
    assert "never seen an image" in text


def test_show_tells_what_a_package_reads_and_answers_and_then_its_card(package):
    text = " ".join(run("models", "show", "hip-test").output.split())
    for words in (
        "hip-test 1.0.0", "by hipnode project", "Research use only.", "never seen an image",
        "BodyPartExamined HIP or PELVIS",
        "ViewPosition AP", "256 x 192 pixels", "Displaced femoral neck fracture (99HIPNODE HN-DFN), fires at 0.4",
        "not calibrated", "SR, SC", package.sha256, "# A test package",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("sha256") < text.index("# A test package")


def test_show_as_json_holds_the_manifest_and_the_card(package):
    told = json.loads(run("models", "show", "hip-test", "--json").output)
    assert told["weights"]["sha256"] == package.sha256
    assert told["decision"]["thresholds"]["VF"] == 0.3
    assert (told["input"]["width"], told["input"]["height"]) == (256, 192)
    assert (told["views"], told["body_parts"]) == (["AP"], ["HIP", "PELVIS"])
    assert told["model_card"] == "# A test package\n"


def test_verify_names_what_is_whole_and_what_is_not(package):
    whole = run("models", "verify")
    assert whole.exit_code == 0
    assert f"hip-test 1.0.0: the weights are the manifest's ({package.sha256[:12]})" in whole.output
    package.weights_file.write_bytes(b"changed")
    broken = run("models", "verify")
    assert broken.exit_code == 1
    assert "The weights of the model package hip-test" in broken.output
    version = load_package(shipped_folder() / SHIPPED, verify=False).version
    assert f"{SHIPPED} {version}: the weights are the manifest's" in broken.output
    assert run("models", "verify", SHIPPED).exit_code == 0
    assert run("models", "verify", "hip-test").exit_code == 1
    judged = {one["id"]: one for one in json.loads(run("models", "verify", "--json").stdout)}
    assert (judged["hip-test"]["whole"], judged[SHIPPED]["whole"]) == (False, True)
    assert "SHA-256 differs" in judged["hip-test"]["problem"]


def test_a_package_with_a_broken_manifest_is_named_by_its_folder(site, package):
    (package.folder / "model.toml").write_text("id = 5")
    assert run("models", "list").exit_code == 1
    assert run("models", "verify", SHIPPED).exit_code == 0
    broken = run("models", "verify", "hip-test")
    assert broken.exit_code == 1
    assert "model.toml cannot be used" in broken.output


def test_show_says_why_a_package_cannot_be_used(package, monkeypatch, capsys):
    package.model_card.unlink()
    code, error = ended(monkeypatch, capsys, "models", "show", "hip-test")
    assert code == 1
    assert "MODEL_CARD.md is missing" in error


def test_two_packages_of_one_id_are_a_problem_of_that_id(site, package):
    make_package(site / "data" / "packages" / "twin", b"other weights")
    twins = run("models", "verify", "hip-test")
    assert twins.exit_code == 1
    assert "Two different model packages are called hip-test" in twins.output
    assert run("models", "verify", SHIPPED).exit_code == 0


@pytest.mark.parametrize("command", [("show",), ("show", "--json"), ("verify",), ("verify", SHIPPED)])
def test_an_unknown_id_is_wrong_use_everywhere(package, monkeypatch, capsys, command):
    code, error = ended(monkeypatch, capsys, "models", *command, "nobody")
    assert code == 2
    assert f"There is no model package nobody; there are: {SHIPPED}, hip-test." in error
    assert "Traceback" not in error
