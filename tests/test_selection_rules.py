"""selection.toml: a site's own rules, switches and words; a bad file names every problem at once."""

from pathlib import Path
from typing import Any

import pytest

from hipnode.errors import SettingsError
from hipnode.selection import Decision, Selection, facts_of
from hipnode.status import ReasonCode
from tests.headers import header

R = ReasonCode


def decide(folder: Path, toml: str, **keywords: Any) -> Decision:
    path = folder / "selection.toml"
    path.write_text(toml, encoding="utf-8")
    return Selection.load(path).decide(facts_of(header(**{"BodyPartExamined": "HIP", **keywords})))


def test_an_empty_file_is_the_shipped_one(tmp_path: Path) -> None:
    assert decide(tmp_path, "").reason.code == R.HIP_AP


@pytest.mark.parametrize(
    ("uncertain", "decision", "reason"),
    [
        ("analyse_flag", "analyse_flag", R.VIEW_PA),
        ("skip", "skip", R.VIEW_PA),
        ("analyse", "analyse", R.HIP_AP),
    ],
)
def test_the_site_says_what_happens_to_uncertain_films(
    tmp_path: Path, uncertain: str, decision: str, reason: R
) -> None:
    made = decide(tmp_path, f'site.uncertain = "{uncertain}"', ViewPosition="PA")
    assert (made.decision, made.reason.code) == (decision, reason)
    assert [flag.code for flag in made.flags] == [R.VIEW_PA]
    assert bool(made.package) == (decision != "skip")


def test_switches_turn_skips_into_flags(tmp_path: Path) -> None:
    silent = decide(tmp_path, 'site.region_not_given = "flag"', BodyPartExamined=None)
    assert (silent.decision, silent.reason.code) == ("analyse_flag", R.NO_REGION_GIVEN)
    implant = decide(tmp_path, 'site.implant = "flag"', SeriesDescription="THA")
    assert (implant.decision, implant.reason.code) == ("analyse_flag", R.IMPLANT)


def test_numbers_of_the_site_are_used(tmp_path: Path) -> None:
    assert decide(tmp_path, "site.min_age = 0", PatientAge="004Y").reason.code == R.HIP_AP
    assert decide(tmp_path, "site.min_age = 0", SeriesDescription="child hip").reason.code == R.HIP_AP
    assert decide(tmp_path, "site.min_age = 65", PatientAge="064Y").reason.sentence == "Patient under 65."
    assert decide(tmp_path, "site.min_side_px = 3000").reason.code == R.TOO_SMALL
    assert decide(tmp_path, "site.max_aspect = 1.1").reason.code == R.LONG_LEG


def test_a_rule_above_asks_for_any_attribute(tmp_path: Path) -> None:
    toml = """
    above = [
      {name = "densitometer", when = {StationName = "DXA*"}, then = "skip", say = "Sent by {StationName}."},
      {name = "two rooms", when = {StationName = ["R1", "r2"], view = "pa"}, then = "analyse", package = "pa-model"},
      {name = "high", when = {KVP = 120}, then = "flag", reason = "IMAGE_QUALITY", say = "{KVP} kV."},
    ]
    """
    skipped = decide(tmp_path, toml, StationName="DXA1")
    assert (skipped.decision, skipped.reason.code) == ("skip", R.SITE_RULE)
    assert (skipped.reason.sentence, skipped.rule) == ("Sent by DXA1.", "densitometer")
    analysed = decide(tmp_path, toml, StationName="R2", ViewPosition="PA")
    assert (analysed.decision, analysed.package) == ("analyse", "pa-model")
    assert decide(tmp_path, toml, StationName="R3", ViewPosition="PA").reason.code == R.VIEW_PA
    assert decide(tmp_path, toml, KVP="120.0").reason.sentence == "120.0 kV."
    assert decide(tmp_path, toml, KVP="70").reason.code == R.HIP_AP


def test_rules_of_the_site_replace_the_shipped_ones(tmp_path: Path) -> None:
    toml = 'rule = [{name = "all", when = {}, then = "analyse", reason = "HIP_AP", package = "other"}]'
    made = decide(tmp_path, toml, BodyPartExamined="KNEE")
    assert (made.decision, made.rule, made.package) == ("analyse", "all", "other")
    assert made.reason.sentence == R.HIP_AP.sentence


def test_the_example_of_the_manual_works(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[1] / "docs" / "selection.md").read_text("utf-8")
    toml = manual.split("```toml\n")[1].split("```")[0]
    trial = decide(tmp_path, toml, InstitutionalDepartmentName="Trauma", ViewPosition="AP")
    assert (trial.decision, trial.package) == ("analyse", "trial-model")
    assert decide(tmp_path, toml, StationName="DXA2").reason.sentence == "Sent by DXA2."
    assert decide(tmp_path, toml, PatientAge="017Y").reason.code == R.HIP_AP


def test_no_rule_makes_our_output_input(tmp_path: Path) -> None:
    toml = 'rule = [{name = "all", when = {}, then = "analyse", reason = "HIP_AP"}]'
    assert decide(tmp_path, toml, Manufacturer="hipnode").reason.code == R.OWN_OUTPUT


def test_a_list_of_words_is_replaced_by_the_sites(tmp_path: Path) -> None:
    toml = 'words.hip = ["KOXA*"]'
    assert decide(tmp_path, toml, BodyPartExamined="KOXALGIE").reason.code == R.HIP_AP
    assert decide(tmp_path, toml).reason.code == R.NO_HIP_SIGN


BAD = """
surprise = 1
above = [
  {name = "one", when = {region = "knee"}, then = "skip"},
  {name = "two", when = {Nonsense = "x"}, then = "perhaps"},
  {name = "three", when = {PatientName = "x"}, then = "skip", reason = "BECAUSE"},
  {when = {}, then = "site.nothing"},
  {name = "five", then = "skip", colour = "red", say = "{PatientID}"},
  {name = "six", when = {own = 1.5}, then = "flag", say = "{"},
  "seven",
]
[site]
uncertain = "maybe"
min_age = "old"
unknown = 1
other_modalities = [1]
[words]
knee = ["KNEE"]
hip = "HIP"
femur = ["", "*"]
"""


def test_a_bad_file_names_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "selection.toml"
    path.write_text(BAD)
    with pytest.raises(SettingsError) as caught:
        Selection.load(path)
    told = str(caught.value)
    assert str(path) in told
    for problem in (
        "surprise: there is no such table",
        "rule 'one': region is never 'knee'; it may be conflict, femur, hip",
        "rule 'two': Nonsense is no fact",
        "rule 'two': then is 'perhaps'",
        "rule 'three': PatientName is no fact and no attribute a rule may ask for",
        "rule 'three': 'BECAUSE' is no reason code",
        "rule 4 has no name",
        "rule 4: then is 'site.nothing'",
        "rule 'five' has no `when`",
        "rule 'five': colour is no part of a rule",
        "rule 'five': the sentence names {PatientID}",
        "rule 'six': own is never 1.5; it may be false, true",
        "rule 'six': the sentence cannot be filled in",
        "rule 7 is no table",
        "site.uncertain is 'maybe'; it may be analyse_flag, skip, analyse",
        "site.min_age is 'old'",
        "site.unknown: there is no such switch",
        "site.other_modalities must be a list of strings",
        "words.knee: there is no such list",
        "words.hip must be a list",
        "words.femur must be a list",
    ):
        assert problem in told, problem


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("rule = [", "is no TOML file"),
        ("rule = []", "the last rule must hold always"),
        ('rule = [{name = "x", when = {own = true}, then = "skip"}]', "the last rule must hold always"),
        ('rule = [{name = "x", when = {}, then = "flag"}]', "the last rule must hold always"),
        ("rule = 7", "rule must be a list of rules"),
        ("site = 7", "[site] must be a table"),
    ],
)
def test_a_file_that_cannot_decide_is_refused(tmp_path: Path, toml: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        decide(tmp_path, toml)
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Selection.load(tmp_path / "absent.toml")


def test_the_shipped_file_uses_only_known_reasons_and_each_once() -> None:
    rules = Selection.load(None).book.rules
    names = [rule.name for rule in rules]
    assert len(set(names)) == len(names)
    assert rules[-1].reason == R.HIP_AP
    assert {rule.then for rule in rules} == {"skip", "flag", "analyse"}
