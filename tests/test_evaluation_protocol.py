"""The acceptance protocol: what it may say, what it means, and what its hash holds fast."""

import re
from datetime import date
from pathlib import Path

import pytest

from hipnode.evaluation.acceptance.protocol import (
    Hypothesis,
    ProtocolUnusable,
    fewest_to_pass,
    load_protocol,
    misfits,
    parse_protocol,
)
from hipnode.evaluation.statistics.intervals import wilson

SMALL = """
name = "Acceptance 2026"
date = 2026-03-01
package = "hip-test"
unit = "hip"

[minimum]
positives = 50
negatives = 100

[[hypotheses]]
metric = "sensitivity"
class = "any"
bound = 0.85

[[hypotheses]]
metric = "specificity"
bound = 0.80
"""
CLASSES = ("DF", "VF", "SF", "UF")


def problems(text: str) -> list[str]:
    with pytest.raises(ProtocolUnusable) as caught:
        parse_protocol(text)
    return [str(problem) for problem in caught.value.problems]


def test_a_small_protocol_has_the_strict_defaults():
    protocol = parse_protocol(SMALL)
    assert (protocol.date, protocol.unit, protocol.view) == (date(2026, 3, 1), "hip", "single-label")
    assert (protocol.not_read, protocol.thresholds.source, protocol.resamples) == ("wrong", "package", 2000)
    assert [h.by for h in protocol.hypotheses] == ["lower limit", "lower limit"]
    assert protocol.hypotheses[1].class_name == "any"
    assert protocol.hypotheses[0].says == "sensitivity for any fracture: lower 95 % limit above 0.85"


def test_the_hash_is_of_what_is_said_and_not_of_how_it_is_written():
    first = parse_protocol(SMALL).sha256_of_content
    again = "# agreed on Monday\n" + SMALL.replace("bound = 0.80", "bound=0.8  # as before").replace(
        'package = "hip-test"\nunit = "hip"', 'unit = "hip"\npackage = "hip-test"'
    )
    assert parse_protocol(again).sha256_of_content == first
    assert (
        parse_protocol(SMALL.replace("[minimum]", "view = 'single-label'\n[minimum]")).sha256_of_content
        == first
    )
    for was, became in (
        ("0.85", "0.84"), ("positives = 50", "positives = 49"), ('"any"', '"VF"'), ("2026-03-01", "2026-03-02"),
        ("[minimum]", "seed = 2\n[minimum]"), ("[minimum]", "[strata]\ncolumns = ['sex']\n[minimum]"),
    ):  # fmt: skip
        assert parse_protocol(SMALL.replace(was, became, 1)).sha256_of_content != first, became


def test_every_problem_is_told_at_once_with_its_place():
    text = """
name = ""
pakage = "x"
package = "hip-test"
unit = "knee"
seed = -1
[minimum]
positives = "many"
[[hypotheses]]
metric = "ppv"
bound = 85
[[hypotheses]]
metric = "auc"
bound = 0.9
klass = "VF"
[strata]
flagged = "maybe"
"""
    said = problems(text)
    for words in (
        "name: must not be empty", "date: is missing", "pakage: is no word of a protocol; known here are name, date",
        "unit: must be 'hip', 'image' or 'patient', not 'knee'", "seed: must be 0 or more, not -1",
        "minimum.positives: must be a whole number", "minimum.negatives: is missing",
            "hypotheses[1].metric: must be 'sensitivity'",
        "hypotheses[1].bound: must be less than 1, not 85",
        "hypotheses[2].klass: is no word of a protocol; known here are metric, class, bound, by, minimum",
        "strata.flagged: must be 'note' or 'fail', not 'maybe'",
    ):  # fmt: skip
        assert any(problem.startswith(words) for problem in said), (words, said)
    assert len(said) == 11


@pytest.mark.parametrize(
    ("was", "became", "words"),
    [
        ("bound = 0.80", 'bound = 0.80\n[[hypotheses]]\nmetric = "specificity"\nbound = 0.7', "3: says again"),
        ("positives = 50", "positives = 20", "hypothesis 1: .*20 patients .*could not pass 0.85; it needs 22 or more"),
        ("bound = 0.80", 'bound = 0.80\nby = "value"\nminimum = 3', "a minimum of 3 patients says nothing"),
        ('metric = "specificity"\nbound = 0.80', 'metric = "auc"\nbound = 0.4', "AUC of 0.5 is chance"),
        ('metric = "specificity"', 'class = "VF"\nmetric = "unread"', "unread is about all units"),
        ("[minimum]", '[thresholds]\nfrom = "protocol"\n[minimum]', "needs values"),
        ("[minimum]", "[thresholds]\nvalues = {DF = 0.3}\n[minimum]", 'of no use with from = "package"'),
        ("[minimum]", '[thresholds]\nsensitivity = 0.9\n[minimum]', "sensitivity is of no use"),
        ("[minimum]", "[strata]\ncolumns = ['sex', 'sex']\n[minimum]", "column sex is named twice"),
        ("bound = 0.80", 'bound = 0.80\n[[stress]]\ntransform = "rotaton"\nlevels = [5]',
         "no stress test 'rotaton'; there are rot"),
        ("bound = 0.80", 'bound = 0.80\n[[stress]]\ntransform = "crop"\nlevels = [0.1, 2]', "level of crop is 2"),
        ("bound = 0.80", 'bound = 0.80\n[[stress]]\ntransform = "crop"\nlevels = [0.1]', "largest_drop is missing"),
        ("bound = 0.80", 'bound = 0.80\n[[stress]]\ntransform = "wrong_body_part"\nlevels = [1]\nlargest_drop = 0.1',
         "largest_drop has no meaning for a film that must be refused"),
        ("bound = 0.85", "bound = nan", "must be less than 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_said(was, became, words):
    said = problems(SMALL.replace(was, became, 1))
    assert any(re.search(words, problem) for problem in said), said


def test_a_file_that_is_none_is_told_in_a_sentence(tmp_path: Path):
    (tmp_path / "latin.toml").write_bytes("name = 'Prüfung'".encode("latin-1"))
    (tmp_path / "broken.toml").write_text("name = ")
    (tmp_path / "folder.toml").mkdir()
    for name, words in (
        ("none.toml", "none.toml: does not exist"), ("latin.toml", "latin.toml: is not UTF-8"),
        ("broken.toml", "broken.toml: is not valid TOML"), ("folder.toml", "folder.toml: cannot be read"),
    ):  # fmt: skip
        with pytest.raises(ProtocolUnusable, match=re.escape(words)):
            load_protocol(tmp_path / name)
    (tmp_path / "good.toml").write_bytes(b"\xef\xbb\xbf" + SMALL.encode())  # as Notepad saves it
    protocol, text = load_protocol(tmp_path / "good.toml")
    assert (protocol.name, text) == ("Acceptance 2026", SMALL)


@pytest.mark.parametrize("bound", [0.5, 0.8, 0.85, 0.9, 0.95, 0.99])
def test_the_fewest_to_pass_is_where_a_faultless_package_begins_to_pass(bound):
    n = fewest_to_pass(bound)
    assert wilson(n, n).low > bound
    assert wilson(n - 1, n - 1).low <= bound


def test_a_protocol_is_held_against_the_package_it_is_run_on():
    protocol = parse_protocol(
        SMALL.replace('class = "any"', 'class = "XX"').replace(
            "[minimum]",
            f'sha256 = "{"a" * 64}"\n[thresholds]\nfrom = "protocol"\nvalues = {{DF = 0.3}}\n[minimum]',
        )
    )
    said = " | ".join(misfits(protocol, "hip-test", "b" * 64, CLASSES))
    for words in (
        "sha256: is aaaaaaaaaaaa..., and the weights of hip-test here are bbbbbbbbbbbb...",
        "hypothesis 1: class is 'XX'; known are DF, VF, SF, UF, any",
        "thresholds.values: must name each class once (DF, VF, SF, UF)",
    ):
        assert words in said, said
    assert "cannot be checked" in " ".join(misfits(protocol, "hip-test", None, CLASSES))
    assert misfits(protocol, "other", "a" * 64, CLASSES)[0] == (
        "package: is hip-test, and the package of this run is other"
    )
    assert misfits(parse_protocol(SMALL), "hip-test", None, CLASSES) == []


def test_a_hypothesis_may_need_fewer_or_more_than_the_protocol():
    protocol = parse_protocol(SMALL.replace("bound = 0.80", "bound = 0.80\nminimum = 30"))
    assert [protocol.needed(h) for h in protocol.hypotheses] == [(50, 0), (0, 30)]
    both = Hypothesis.model_validate({"metric": "auc", "bound": 0.9})
    assert protocol.needed(both) == (50, 100)
