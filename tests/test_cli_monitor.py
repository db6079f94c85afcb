"""`hipnode monitor` and `hipnode monitor import-reports` through the real door, on a real ledger."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.children import Children
from hipnode.tables import AnalysisImage, Finding
from tests.factories import make_radiograph
from tests.pipeline import node as pipeline
from tests.test_cli import ended, ledger_site, run, site
from tests.watched_ledger import fill

__all__ = ["ledger_site", "site"]

STUDIES = 1400
DAYS = 140


@pytest.fixture
def sessions(ledger_site: Path) -> Iterator[sessionmaker[Session]]:
    made = ledger.sessions(f"sqlite:///{ledger_site / 'data' / 'hipnode.db'}")
    yield made
    made.kw["bind"].dispose()


@pytest.fixture
def watched_site(sessions: sessionmaker[Session], ledger_site: Path) -> Path:
    """A site of 140 days whose package fires three times as often in the last four weeks."""
    fill(sessions, STUDIES, DAYS, datetime.now(UTC), changed=280)
    return ledger_site


def test_a_new_node_has_nothing_to_judge(ledger_site: Path) -> None:
    result = run("monitor", "--out", "pages")
    assert result.exit_code == 0, result.output
    assert "nothing to judge" in (ledger_site / "pages" / "report.html").read_text(encoding="utf-8")
    assert "nothing to judge" in result.output


def test_what_moved_is_told_on_the_terminal_and_in_the_report(watched_site: Path) -> None:
    result = run("monitor", "--since", "60d", "--out", "pages")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "The share of studies in which DF fired was above its limits" in said
    assert "what to do: Read some of the films it marked" in said
    assert "Implant" in said or "IMPLANT" in said
    assert "import-reports FILE.csv' brings them" in said
    page = (watched_site / "pages" / "report.html").read_text(encoding="utf-8")
    assert "What moved" in page
    assert "<svg" in page
    with (watched_site / "pages" / "tables" / "p-chart-df-points.csv").open(encoding="utf-8") as stream:
        points = list(csv.DictReader(stream))
    assert sum(int(p["n"]) for p in points) > 400
    assert any(p["outside"] == "yes" for p in points)


def test_json_is_json_and_names_no_study_by_its_identifiers(watched_site: Path) -> None:
    result = run("monitor", "--since", "60d", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    (package,) = told["packages"]
    assert package["package"]["package_id"] == "hip"
    assert sum(week["period"]["studies"] for week in told["weeks"]) == sum(
        point["n"] for point in told["rates"][0]["chart"]["points"]
    )
    assert {alarm["what"] for alarm in told["alarms"]} >= {"DF: how often", "DF: scores"}
    assert "1.2." not in result.stdout
    assert package["scores"][0]["rolling"]["edges"][0] is None


def test_limits_can_begin_anew_after_a_change_that_is_to_stay(watched_site: Path) -> None:
    recent = (datetime.now(UTC) - timedelta(days=27)).date().isoformat()
    told = json.loads(run("monitor", "--since", "20d", "--json", "--limits-from", recent).stdout)
    assert told["alarms"] == []
    assert told["packages"][0]["baseline"] < 500
    assert "no limits yet" in told["packages"][0]["rates"][0]["chart"]["says"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "tomorrow"), "neither like 30m"),
        (("--since", "2026-03-02", "--until", "2026-03-01"), "lies after --until"),
        (("--limits-from", "x"), "neither like 30m"),
    ],
)
def test_wrong_days_are_wrong_use(ledger_site: Path, arguments: tuple[str, ...], says: str) -> None:
    result = run("monitor", *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split()).replace("│ ", "")


def test_reports_come_in_are_changed_and_agree(watched_site: Path, sessions: sessionmaker[Session]) -> None:
    with ledger.reading(sessions) as session:
        fired = {i for (i,) in session.query(Finding.analysis_image_id)}
    file = watched_site / "finals.csv"

    def write(wrong: int) -> None:
        lines = [
            f"1.2.{i},{'N' if i in fired and i % wrong == 0 else 'DF' if i in fired else 'N'},text\n"
            for i in range(1, STUDIES + 1)
        ]
        file.write_text(
            "StudyInstanceUID,class,report\n" + "".join(lines) + "1.9.9,N,text\n", encoding="utf-8"
        )

    write(wrong=4)
    result = run("monitor", "import-reports", str(file))
    assert result.exit_code == 0, result.output
    assert "Reports: 1,400 new, 0 changed, 0 known already." in result.output
    assert "never received their study: 1 of 1,401 rows (row 1402)" in result.output
    write(wrong=10**9)
    changed = sum(i % 4 == 0 for i in fired)
    assert f"Reports: 0 new, {changed} changed" in run("monitor", "import-reports", str(file)).output
    told = json.loads(run("monitor", "--since", "60d", "--json").stdout)
    every = next(a for a in told["packages"][0]["agreement"] if " to " in a["stretch"])
    assert every["agreement"]["counts"]["fp"] == every["agreement"]["counts"]["fn"] == 0
    assert every["agreement"]["estimates"]["sensitivity"]["value"] == 1.0
    assert told["packages"][0]["errors"][0]["level"] == 0.0


def test_a_wrong_file_keeps_nothing_and_lists_every_problem(
    watched_site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = watched_site / "finals.csv"
    file.write_text("StudyInstanceUID,class\n1.2.1,DF\n1.2.1,N\n1.2.2,XX\n1.2.3,DF\n", encoding="utf-8")
    code, said = ended(monkeypatch, capsys, "monitor", "import-reports", str(file))
    assert code == 1
    assert [line.split(": ")[0] for line in said.strip().splitlines()] == [
        "finals.csv, row 3",
        "finals.csv, row 4",
    ]
    file.write_text("StudyInstanceUID,class\n1.2.3,DF\n", encoding="utf-8")
    assert "Reports: 1 new" in run("monitor", "import-reports", str(file)).output, "nothing was kept before"
    file.write_text("StudyInstanceUID,class\n7.7,DF\n", encoding="utf-8")
    code, said = ended(monkeypatch, capsys, "monitor", "import-reports", str(file))
    assert (code, "no row names a study this node received" in said) == (1, True)
    code, said = ended(monkeypatch, capsys, "monitor", "import-reports", "nowhere.csv")
    assert (code, said.strip()) == (1, "nowhere.csv: does not exist")


def test_what_a_worker_saw_below_the_threshold_is_watched(site: Path) -> None:
    with Children(1, 30, 2 * 2**30, 64 * 10**6) as children, pipeline(site, children) as made:
        made.detector.score = 0.31237
        made.put(make_radiograph())
        assert made.analyse.run()
        with ledger.reading(made.rooms.sessions) as session:
            assert list(session.scalars(select(AnalysisImage.scores))) == [{"DF": 0.3124}]
        told = json.loads(run("monitor", "--json").stdout)
    (package,) = told["packages"]
    assert (package["package"]["package_id"], package["read"], package["scored"]) == ("hip-test", 1, 1)
    assert [score["name"] for score in package["scores"]] == ["DF"]
    assert package["rates"][0]["chart"]["points"][-1]["positives"] == 0
