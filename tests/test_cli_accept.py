"""`hipnode accept`: frozen before, run once, kept; what a quality officer sees, and what a cheat meets."""

import csv
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from hipnode import ledger, migrations
from hipnode.cli import acceptance_run
from hipnode.evaluation.acceptance.planning import NoPlan, chance_to_pass, patients_needed, steps
from hipnode.evaluation.acceptance.protocol import parse_protocol
from hipnode.evaluation.statistics.intervals import wilson
from hipnode.ledger import AcceptanceRow
from hipnode.packages import ModelPackage
from hipnode.settings import load_settings
from hipnode.status import AcceptanceOutcome
from tests.packages import make_package, make_seeded_package
from tests.test_cli import ended, run, site

__all__ = ["site"]

PROTOCOL = """
name = "Yearly"
date = 2026-03-01
package = "hip-test"
unit = "hip"
resamples = 200
[thresholds]
from = "protocol"
values = {DF = 0.5}
[minimum]
positives = 30
negatives = 30
[[hypotheses]]
metric = "sensitivity"
bound = 0.7
[[hypotheses]]
metric = "specificity"
bound = 0.7
"""


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger to copy, which is quicker than to migrate one for each test."""
    path = tmp_path_factory.mktemp("ledger") / "hipnode.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def hospital(site: Path, empty_ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Hospital"]:
    monkeypatch.setattr(acceptance_run, "code_version", lambda: "1")  # the checkout may change under a test
    (site / "data").mkdir(exist_ok=True)
    shutil.copyfile(empty_ledger, site / "data" / "hipnode.db")
    place = Hospital(site)
    yield place
    place.make.kw["bind"].dispose()


class Hospital:
    """A site with a protocol and predictions of known answers; one class, so that reports are made quickly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make = ledger.sessions(load_settings().database)
        (folder / "protocol.toml").write_text(PROTOCOL)
        self.cases()

    def cases(
        self, found: int = 36, missed: int = 4, alarms: int = 2, left: int = 38, model: str = "hip-test"
    ) -> None:
        rows = [(1, 1)] * found + [(1, 0)] * missed + [(0, 1)] * alarms + [(0, 0)] * left
        labels = ["case_id,patient_id,hip,y_class,sex,split"]
        answers = ["case_id,model_id,p_DF"]
        for i, (truth, called) in enumerate(rows):
            labels.append(f"c{i},p{i},L,{'DF' if truth else 'N'},{'F' if i % 2 else 'M'},test")
            answers.append(f"c{i},{model},{0.9 if called else 0.01}")
        (self.folder / "labels.csv").write_text("\n".join(labels) + "\n")
        (self.folder / "predictions.csv").write_text("\n".join(answers) + "\n")

    def accept(self, *more: str, out: str = "out") -> Result:
        return run(
            "accept", "--protocol", "protocol.toml", "--labels", "labels.csv", "--predictions", "predictions.csv",
            "--out", out, "--by", "A. Meyer", *more,
        )  # fmt: skip

    def change(self, was: str, became: str) -> None:
        text = (self.folder / "protocol.toml").read_text()
        assert was in text
        (self.folder / "protocol.toml").write_text(text.replace(was, became))

    def rows(self) -> list[AcceptanceRow]:
        with ledger.reading(self.make) as session:
            return ledger.list_acceptances(session)


def test_a_pass_is_kept_beside_the_package_and_printed_verdict_first(hospital):
    done = hospital.accept()
    assert done.exit_code == 0, done.output
    assert done.output.startswith("PASS\n")
    assert "Found 36 of 40, 0.900 (95 % interval 0.769 to 0.960)." in done.output
    (row,) = hospital.rows()
    assert (row.outcome, row.package_id, row.frozen_by) == (AcceptanceOutcome.PASS, "hip-test", "A. Meyer")
    assert row.intact
    assert row.protocol == PROTOCOL
    first, second = row.results["hypotheses"]
    assert (first["value"], first["events"], first["n"], first["verdict"]) == (0.9, 36, 40, "holds")
    assert (second["events"], second["n"]) == (38, 40)
    page = (hospital.folder / "out" / "report.md").read_text()
    for words in (
        "# Acceptance of hip-test: PASS", "It found 36 of 40 hips with a fracture, and rightly left 38 of 40",
        "frozen in the ledger as run 1", "by A. Meyer", "no earlier run of this package", "about 1 of 40",
        "The predictions were made elsewhere", row.seal, row.protocol_sha256, row.data_sha256,
    ):  # fmt: skip
        assert words in page, words
    assert (hospital.folder / "out" / "report.html").stat().st_size > 10_000
    assert (hospital.folder / "out" / "protocol.toml").read_text() == PROTOCOL
    assert str(hospital.folder) not in page


@pytest.fixture
def package(hospital: "Hospital") -> ModelPackage:
    """The package of the protocol, with its own thresholds; the predictions get its classes."""
    for name in ("labels.csv", "predictions.csv"):
        lines = (hospital.folder / name).read_text().splitlines()
        if name == "predictions.csv":
            lines = [lines[0] + ",p_VF,p_SF,p_UF", *(line + ",0,0,0" for line in lines[1:])]
        (hospital.folder / name).write_text("\n".join(lines) + "\n")
    hospital.change('from = "protocol"\nvalues = {DF = 0.5}', 'from = "package"')
    return make_package(hospital.folder / "data" / "packages" / "hip-test")


def test_models_show_prints_the_acceptances(hospital, package):
    assert "acceptance" not in run("models", "show", "hip-test").output
    hospital.accept()
    text = " ".join(run("models", "show", "hip-test").output.split())
    assert "acceptance run 1 pass, 20" in text
    assert "predictions made elsewhere, weights not known" in text
    told = json.loads(run("models", "show", "hip-test", "--json").output)
    assert [(one["id"], one["outcome"]) for one in told["acceptances"]] == [(1, "pass")]


def test_a_fail_exits_with_1_says_why_and_is_kept(hospital):
    hospital.cases(found=30, missed=10)
    done = hospital.accept()
    assert done.exit_code == 1
    assert done.output.startswith("FAIL\n")
    assert "sensitivity for any fracture: lower 95 % limit above 0.7: not shown" in done.output
    (row,) = hospital.rows()
    assert row.outcome is AcceptanceOutcome.FAIL
    assert len(row.results["reasons"]) == 1
    shown = run("accept", "show", "1").output
    assert "Run 1: fail" in shown
    assert 'metric = "sensitivity"' in shown
    assert "not shown, 0.750" in shown
    with (hospital.folder / "out" / "files" / "review.csv").open() as stream:
        listed = list(csv.DictReader(stream))
    assert [one["what"] for one in listed] == ["missed"] * 10 + ["false alarm"] * 2
    assert listed[0]["case_id"] == "c30"


def test_the_test_part_is_used_once_and_a_second_use_is_printed(hospital):
    hospital.cases(found=30, missed=10)
    hospital.accept()
    again = hospital.accept(out="second")
    assert again.exit_code == 1
    assert "used before" in str(again.exception)
    assert len(hospital.rows()) == 1
    hospital.change("bound = 0.7\n[[", "bound = 0.5\n[[")  # an easier protocol does not make the cases new
    assert "used before" in str(hospital.accept(out="second").exception)
    done = hospital.accept("--again", "the first bound was a slip", out="second")
    assert done.exit_code == 0, done.output
    page = (hospital.folder / "second" / "report.md").read_text()
    assert "run 1 on" in page
    assert "(fail). The reason given for using them again: the first bound was a slip." in page
    assert "about 1 of 40" not in page
    assert [row.again for row in hospital.rows()] == [None, "the first bound was a slip"]
    assert "the first bound was a slip" in run("accept", "list").output


def test_too_few_cases_are_told_before_an_answer_is_looked_at_and_do_not_spend_the_cases(hospital):
    hospital.cases(found=20, missed=0)
    done = hospital.accept()
    assert done.exit_code == 1
    assert done.output.startswith("NOT ENOUGH CASES\n")
    assert "20 patients with a fracture of 30 needed" in done.output
    (row,) = hospital.rows()
    assert (row.outcome, row.results["hypotheses"]) == (AcceptanceOutcome.NOT_ENOUGH, [])
    assert "no answer was looked at" in (hospital.folder / "out" / "report.md").read_text()
    hospital.cases()
    assert hospital.accept(out="next year").exit_code == 0


def test_a_run_that_breaks_before_its_outcome_is_finished_by_the_same_command(hospital, monkeypatch):
    def crash(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(acceptance_run, "_judge", crash)
        hospital.accept()
    (row,) = hospital.rows()
    assert (row.outcome, row.results) == (None, None)
    assert "no outcome yet" in run("accept", "list").output
    assert not (hospital.folder / "out" / "report.html").exists()
    hospital.change("0.7", "0.6")
    assert "differs from it in the protocol" in str(hospital.accept(out="other").exception)
    hospital.change("0.6", "0.7")
    hospital.cases(found=37, missed=3)  # answers mended after the freeze
    assert "differs from it in the labels" in str(hospital.accept(out="other").exception)
    hospital.cases()
    assert hospital.accept().exit_code == 0
    (row,) = hospital.rows()
    assert (row.outcome, row.fence) == (AcceptanceOutcome.PASS, 2)
    assert "was interrupted before it had an outcome" in (hospital.folder / "out" / "report.md").read_text()


def test_the_outcome_is_in_the_ledger_before_anything_is_shown(hospital, monkeypatch):
    def no_room(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(acceptance_run, "write", no_room)
        done = hospital.accept()
    assert isinstance(done.exception, OSError)
    assert done.output.startswith("PASS\n")
    assert hospital.rows()[0].outcome is AcceptanceOutcome.PASS


def test_a_report_that_is_missing_is_made_again_from_the_same_answers_only(hospital):
    hospital.accept()
    first = (hospital.folder / "out" / "report.md").read_text()
    assert "files that are not of this run" in str(hospital.accept().exception)
    for name in ("report.html", "report.md"):
        (hospital.folder / "out" / name).unlink()
    assert hospital.accept().exit_code == 0
    assert (hospital.folder / "out" / "report.md").read_text() == first
    assert len(hospital.rows()) == 1
    hospital.cases(found=40, missed=0)
    assert "files that are not of this run" in str(hospital.accept().exception)


def test_a_run_given_up_is_kept_with_its_reason(hospital, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(acceptance_run, "_judge", lambda *_: 1 / 0)
        hospital.accept()
    assert run("accept", "abandon", "1", "--why", " ").exit_code == 2
    assert run("accept", "abandon", "1", "--why", "wrong labels").exit_code == 0
    assert "abandoned" in run("accept", "list").output
    assert "wrong labels" in run("accept", "show", "1").output
    assert "used before" in str(hospital.accept(out="other").exception)


def test_a_record_that_was_changed_by_hand_is_told_wherever_it_is_shown(hospital):
    from sqlalchemy import text

    hospital.cases(found=30, missed=10)
    hospital.accept()
    with ledger.transaction(hospital.make) as session:
        session.execute(text("UPDATE acceptances SET outcome = 'pass'"))
    make_package(hospital.folder / "data" / "packages" / "hip-test")
    for command in (("accept", "list"), ("accept", "show", "1"), ("models", "show", "hip-test")):
        assert "CHANGED AFTERWARDS" in " ".join(run(*command).output.split()), command


def test_answers_made_before_the_freeze_do_not_slip_in_through_the_folder(hospital):
    (hospital.folder / "out").mkdir()
    (hospital.folder / "out" / "predictions.jsonl").write_text("{}\n")
    assert "files that are not of this run" in str(hospital.accept().exception)
    assert hospital.rows() == []
    hospital.accept(out="good")
    record = json.loads((hospital.folder / "good" / "acceptance.json").read_text())
    (hospital.folder / "out" / "acceptance.json").write_text(json.dumps({**record, "run": 9}))
    assert "files that are not of this run" in str(hospital.accept("--again", "why not").exception)
    assert "out.txt is a file" in str(
        ((hospital.folder / "out.txt").write_text(""), hospital.accept("--again", "x", out="out.txt"))[
            1
        ].exception
    )


def test_everything_that_is_wrong_is_told_before_the_run_is_frozen(hospital):
    hospital.change('unit = "hip"', 'unit = "image"')
    hospital.change("[minimum]", '[strata]\ncolumns = ["bone"]\n[minimum]')
    hospital.change("[[hypotheses]]\nmetric = \"specificity\"", '[[stress]]\ntransform = "rotation"\nlevels = [5]\n'
                    'largest_drop = 0.1\n[[hypotheses]]\nclass = "XX"\nmetric = "specificity"')  # fmt: skip
    hospital.cases(model="other")
    said = str(hospital.accept().exception)
    for words in (
        "unit of the protocol is image, that of the labels hip", "no column bone", "class is 'XX'",
        "the predictions are of other, the protocol is about hip-test", "stress tests need the films",
    ):  # fmt: skip
        assert words in said, said
    assert all(line.startswith("protocol.toml: ") for line in said.splitlines())
    assert hospital.rows() == []


def test_a_protocol_may_pin_the_weights(hospital):
    sha256 = "a" * 64
    hospital.change("unit =", f'sha256 = "{sha256}"\nunit =')
    assert "cannot be checked" in str(
        hospital.accept().exception
    )  # of these predictions nobody knows the weights
    lines = (hospital.folder / "predictions.csv").read_text().splitlines()
    for weights, ends in ((sha256, 0), ("0" * 64, 1)):
        text = "\n".join([lines[0] + ",package_sha256", *(f"{line},{weights}" for line in lines[1:])])
        (hospital.folder / "predictions.csv").write_text(text + "\n")
        assert hospital.accept(out=f"out {ends}").exit_code == ends
    assert [row.package_sha256 for row in hospital.rows()] == [sha256]


def test_weights_that_are_not_the_manifests_are_not_accepted(hospital, package):
    package.weights_file.write_bytes(b"other weights")
    assert "SHA-256 differs" in str(hospital.accept().exception)
    assert hospital.rows() == []


def test_wrong_use_is_told_in_a_sentence(hospital, monkeypatch, capsys):
    for words, options in (
        ("Give --protocol and --out", ["accept"]),
        ("Give --data, or --labels", ["accept", "--protocol", "p.toml", "--out", "o"]),
        (
            "Give --data, or --labels",
            ["accept", "--protocol", "p", "--out", "o", "--data", "d", "--labels", "l"],
        ),
        ("needs a reason", ["accept", "--protocol", "p", "--out", "o", "--data", "d", "--again", " "]),
    ):
        done = run(*options)
        assert done.exit_code == 2
        assert words in " ".join(done.output.replace("│", " ").split()), done.output
    for words, options in (
        ("none.toml: does not exist", ["--protocol", "none.toml", "--data", "d"]),
        (
            "There is no model package other",
            ["--protocol", "protocol.toml", "--data", "d", "--package", "other"],
        ),
        ("no model package hip-test", ["--protocol", "protocol.toml", "--data", "d"]),
    ):
        code, said = ended(monkeypatch, capsys, "accept", "--out", "o", *options)
        assert code in (1, 2)
        assert words in said
        assert "Traceback" not in said


OF_FILMS = """
name = "Films"
date = 2026-03-01
package = "hip-seeded"
unit = "hip"
resamples = 200
[minimum]
positives = 10
negatives = 10
[[hypotheses]]
metric = "sensitivity"
bound = 0.01
by = "value"
[[stress]]
transform = "inversion"
levels = [1]
largest_drop = 0.99
"""


@pytest.fixture
def seeded(site: Path) -> ModelPackage:
    return make_seeded_package(site / "data" / "packages" / "hip-seeded", id="hip-seeded")


def films(folder: Path, count: int = 24) -> None:
    """Gray films of noise, half of them with a fracture by their labels."""
    import numpy as np

    folder.mkdir()
    rng = np.random.default_rng(4)
    rows = []
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (160, 128), dtype=np.uint8)).save(folder / f"{i}.png")
        row = {"case_id": f"c{i}", "patient_id": f"p{i}", "file": f"{i}.png", "hip": "L", "split": "test"}
        rows.append(json.dumps({**row, "y_class": "DF" if i % 2 else "N"}) + "\n")
    (folder / "labels.jsonl").write_text("".join(rows))


def test_films_are_read_stressed_and_known_again_under_another_name(seeded, hospital):
    films(hospital.folder / "films")
    (hospital.folder / "protocol.toml").write_text(OF_FILMS)
    options = ("accept", "--package", "hip-seeded", "--protocol", "protocol.toml", "--data", "films")
    done = run(*options, "--out", "out")
    assert done.exit_code in (0, 1), done.exception  # random weights: only that a verdict is reached
    (row,) = hospital.rows()
    assert row.outcome in (AcceptanceOutcome.PASS, AcceptanceOutcome.FAIL)
    assert (row.results["units"], row.results["read"]) == (24, 24)
    assert len(row.results["stress"]) == 2
    page = (hospital.folder / "out" / "report.md").read_text()
    assert "Seeded random weights; they have never seen an image." in page
    assert "before any film was read" in page
    assert "inversion 1" in page
    assert row.package_sha256 == seeded.sha256
    # answers mended after the outcome do not become a report
    answers = hospital.folder / "out" / "predictions.jsonl"
    answers.write_text(answers.read_text().replace('"score":0.', '"score":0.9', 1))
    (hospital.folder / "out" / "report.html").unlink()
    assert "not those it was judged by" in str(run(*options, "--out", "out").exception)
    # the same pictures as new cases
    (hospital.folder / "films").rename(hospital.folder / "new films")
    labels = hospital.folder / "new films" / "labels.jsonl"
    for i in range(24):
        (hospital.folder / "new films" / f"{i}.png").rename(hospital.folder / "new films" / f"n{i}.png")
    text = labels.read_text().replace('"file": "', '"file": "n').replace('"case_id": "', '"case_id": "n')
    labels.write_text(text)
    second = run(*options[:-1], "new films", "--out", "out2")
    assert "used before" in str(second.exception)
    assert not (hospital.folder / "out2" / "report.html").exists()
    assert [row.outcome for row in hospital.rows()][1] is None


def test_a_plan_says_how_many_and_writes_a_protocol_that_can_be_used(hospital):
    done = run("accept", "plan", "--expect", "0.92", "--bound", "0.85")
    assert "184 patients" in done.output
    assert "114 patients: for an interval" in done.output
    make_package(hospital.folder / "data" / "packages" / "hip-test")
    assert run("accept", "plan", "--write", "new.toml", "--package", "hip-test").exit_code == 0
    protocol = parse_protocol((hospital.folder / "new.toml").read_text())
    assert (protocol.package, protocol.minimum.positives, len(protocol.hypotheses)) == ("hip-test", 184, 2)
    assert protocol.date == datetime.now(UTC).date()
    assert "exists" in str(run("accept", "plan", "--write", "new.toml", "--package", "hip-test").exception)
    assert "must lie below" in " ".join(run("accept", "plan", "--expect", "0.8").output.split())


def test_the_chance_to_pass_is_that_of_counting_every_outcome():
    """Independent of the score test in closed form: sum the binomial over counts whose Wilson limit is above."""
    from math import comb

    for expected, bound, n in ((0.92, 0.85, 50), (0.99, 0.85, 22), (0.8, 0.6, 31)):
        by_hand = sum(
            comb(n, k) * expected**k * (1 - expected) ** (n - k)
            for k in range(n + 1)
            if wilson(k, n).low > bound
        )
        assert chance_to_pass(expected, bound, n)[0] == pytest.approx(by_hand)
    assert chance_to_pass(0.85, 0.85, 5000)[0] == pytest.approx(0.025, abs=0.004)


def test_the_number_of_patients_is_the_last_at_which_the_chance_is_too_low_plus_one():
    n = patients_needed(0.92, 0.85, 0.8)
    chances = chance_to_pass(0.92, 0.85, range(1, 1000))
    assert (chances[n - 1 :] >= 0.8).all()
    assert chances[n - 2] < 0.8
    assert patients_needed(0.9999, 0.5) < 20
    with pytest.raises(NoPlan, match="take a lower bound"):
        patients_needed(0.9, 0.899)
    with pytest.raises(NoPlan, match="must be 0"):
        patients_needed(0.9, 0.8, 0.3)
    hundred = next(step for step in steps(0.92, 0.85) if step.n == 100)
    assert (hundred.found, hundred.low) == (92, pytest.approx(wilson(92, 100).low))
