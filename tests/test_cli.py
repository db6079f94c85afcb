"""The command line: what it prints, how it exits, and that wrong input gets one sentence."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from hipnode import migrations
from hipnode.children import Children
from hipnode.cli import app, main
from hipnode.cli.times import instant
from tests.factories import make_radiograph, save
from tests.pacs import pacs
from tests.peers import free_port
from tests.pipeline import Node as Pipeline
from tests.pipeline import node as pipeline
from workers.rooms import Policy

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that the command line takes for the site's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPNODE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HIPNODE_DATABASE_URL", raising=False)
    monkeypatch.delenv("HIPNODE_ENV_FILE", raising=False)
    return tmp_path


@pytest.fixture
def ledger_site(site: Path) -> Path:
    migrations.upgrade(f"sqlite:///{site / 'data' / 'hipnode.db'}")
    return site


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[Any, str]:
    """Exit code and standard error of the real door, where errors become sentences."""
    monkeypatch.setattr("sys.argv", ["hipnode", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # what a command sets up for its process
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr().err


def test_help_lists_every_command_also_those_of_the_workers():
    text = run("--help").output
    for name in (
        "up",
        "serve",
        "studies",
        "replay",
        "peers",
        "echo",
        "send",
        "models",
        "monitor",
        "explain",
        "db",
        "demo",
        "analyse",
        "train",
        "phantom",
        "worker",
    ):
        assert f" {name} " in text, name


@pytest.mark.parametrize(
    "arguments",
    [
        ("studies", "list"),
        ("studies", "show", "1"),
        ("replay", "--failed"),
        ("explain", "x"),
        ("db", "check"),
        ("studies", "watch"),
        ("peers",),
        ("echo",),
        ("send",),
        ("models", "verify"),
    ],
)
def test_every_command_has_help_with_a_sentence(arguments: tuple[str, ...]):
    name = arguments[:2] if arguments[0] in ("studies", "db", "models") else arguments[:1]
    result = run(*name, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_a_command_that_does_not_exist_is_wrong_use(monkeypatch, capsys):
    code, error = ended(monkeypatch, capsys, "studys")
    assert code == 2
    assert "studys" in error


def test_without_a_ledger_a_sentence_says_what_to_do(site, monkeypatch, capsys):
    code, error = ended(monkeypatch, capsys, "studies", "list")
    assert code == 2
    assert "hipnode up" in error
    assert "Traceback" not in error


def test_a_wrong_setting_is_named(site, monkeypatch, capsys):
    monkeypatch.setenv("HIPNODE_PORT", "seven")
    code, error = ended(monkeypatch, capsys, "studies", "list")
    assert code == 2
    assert "HIPNODE_PORT" in error


def test_a_database_out_of_reach_is_named(site, monkeypatch, capsys):
    monkeypatch.setenv("HIPNODE_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    code, error = ended(monkeypatch, capsys, "studies", "list")
    assert code == 1
    assert "database does not answer" in error


def test_an_unprepared_database_says_db_upgrade(site, monkeypatch, capsys):
    (site / "data").mkdir()
    (site / "data" / "hipnode.db").touch()
    code, error = ended(monkeypatch, capsys, "studies", "list")
    assert code == 1
    assert "hipnode db upgrade" in error


@pytest.mark.parametrize("command", [("peers",), ("studies", "watch")])
def test_a_database_of_the_last_version_says_db_upgrade(ledger_site, monkeypatch, capsys, command):
    migrations.downgrade(f"sqlite:///{ledger_site / 'data' / 'hipnode.db'}", "0001")
    code, error = ended(monkeypatch, capsys, *command)
    assert code == 1
    assert "is at revision 0001, this version of hipnode needs" in error
    assert "Run `hipnode db upgrade`." in error


@pytest.mark.parametrize("command", [("up",), ("serve",), ("worker", "deliver"), ("db", "upgrade")])
def test_a_data_folder_that_cannot_be_made_is_named(site, monkeypatch, capsys, command):
    (site / "file").touch()
    monkeypatch.setenv("HIPNODE_DATA", str(site / "file" / "data"))
    code, error = ended(monkeypatch, capsys, *command)
    assert code in (1, 2)
    assert str(site / "file" / "data") in error
    assert "Not a directory" in error


@pytest.mark.parametrize("setting", ["HIPNODE_PORT", "HIPNODE_HTTP_PORT"])
@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_taken_port_is_named_with_its_setting(ledger_site, monkeypatch, capsys, command, setting):
    for name in ("HIPNODE_PORT", "HIPNODE_HTTP_PORT"):
        monkeypatch.setenv(name, "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(setting, str(port))
        code, error = ended(monkeypatch, capsys, command)
    assert code == 1
    assert f"port {port}" in error
    assert setting in error


def test_an_address_of_another_machine_is_named_with_its_setting(ledger_site, monkeypatch, capsys):
    monkeypatch.setenv("HIPNODE_HOST", "192.0.2.1")  # RFC 5737: nobody's
    code, error = ended(monkeypatch, capsys, "serve")
    assert code == 1
    assert "192.0.2.1" in error
    assert "HIPNODE_HOST" in error


def test_a_destinations_file_that_is_named_must_be_there(ledger_site, monkeypatch, capsys):
    monkeypatch.setenv("HIPNODE_DESTINATIONS_FILE", "nowhere.toml")
    code, error = ended(monkeypatch, capsys, "serve")
    assert code == 2
    assert "nowhere.toml, which is not there" in error


def test_a_worker_asks_for_a_prepared_database(site, monkeypatch, capsys):
    code, error = ended(monkeypatch, capsys, "worker", "deliver")
    assert code == 2
    assert "hipnode db upgrade" in error


def test_an_absent_device_is_wrong_use_also_without_a_package(ledger_site, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr("workers.runtime.find_packages", lambda *_, **__: {})
    code, error = ended(monkeypatch, capsys, "worker", "analyse", "--device", "cuda:63")
    assert code == 2
    assert "cuda:63 is not there" in error


def test_an_empty_worklist_says_so(ledger_site):
    assert "No studies" in run("studies", "list").output
    assert json.loads(run("studies", "list", "--json").output) == []
    assert run("replay", "--failed").output.strip() == "Nothing to replay."


def test_db_commands_prepare_and_judge_the_database(site):
    assert run("db", "current").exit_code == 1
    assert "revision" in run("db", "upgrade").output
    assert "fits" in run("db", "check").output
    assert run("db", "current").output.strip() == migrations.head()


def test_replay_wants_studies_or_failed(ledger_site):
    assert run("replay").exit_code == 2
    assert run("replay", "1", "--failed").exit_code == 2
    assert "No study is called 17" in run("replay", "17").output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("90s", datetime(2026, 11, 20, 11, 58, 30, tzinfo=UTC)),
        ("30m", datetime(2026, 11, 20, 11, 30, tzinfo=UTC)),
        ("7d", datetime(2026, 11, 13, 12, tzinfo=UTC)),
        ("2026-11-19T08:00", datetime(2026, 11, 19, 8, tzinfo=UTC)),
        ("2026-11-19T08:00+09:00", datetime(2026, 11, 18, 23, tzinfo=UTC)),
    ],
)
def test_since_reads_spans_and_instants(text, expected):
    assert instant(text, NOW) == expected


def test_since_that_is_neither_is_wrong_use():
    with pytest.raises(typer.BadParameter, match="yesterday"):
        instant("yesterday", NOW)
    with pytest.raises(typer.BadParameter, match="before the calendar"):
        instant("9999999d", NOW)
    with pytest.raises(typer.BadParameter, match="before the calendar"):
        instant("99999999999d", NOW)


def test_explain_prints_the_rule_and_every_vote(site):
    path = site / "film.dcm"
    save(make_radiograph(), path)
    result = run("explain", str(path))
    assert result.exit_code == 0
    assert "analyse HIP_AP" in result.output
    assert "BodyPartExamined" in result.output
    (one,) = json.loads(run("explain", "--json", str(path)).output)
    assert (one["decision"], one["reason"], one["flags"]) == ("analyse", "HIP_AP", [])
    assert {"attribute", "value", "vote"} == set(one["votes"][0])


def test_explain_says_in_one_sentence_what_it_cannot_read(site):
    path = site / "notes.txt"
    path.write_text("no DICOM")
    result = run("explain", str(path))
    assert result.exit_code == 1
    assert "cannot be read" in " ".join(result.output.split())
    assert run("explain", str(site / "nowhere")).exit_code == 2


@pytest.fixture
def worked(site: Path) -> Iterator[Pipeline]:
    """A node of the site's with one study COMPLETED and one FAILED for want of its destination."""
    with Children(1, 30, 2 * 2**30, 64 * 10**6) as children, pacs() as archive:
        policy = Policy(delivery_give_up_s=0.001, dimse_timeout_s=2)
        with pipeline(site, children, policy=policy) as made:
            (site / "data" / "destinations.toml").write_text(
                f"""
[[destination]]
name = "PACS"
ae_title = "PACS"
host = "127.0.0.1"
port = {archive.port}
sources = ["CR"]

[[destination]]
name = "DOWN"
ae_title = "DOWN"
host = "127.0.0.1"
port = {free_port()}
sources = ["LATE"]
"""
            )
            made.receive(make_radiograph(seed=1, AccessionNumber="GOOD"), "CR")
            made.receive(make_radiograph(seed=2, AccessionNumber="BAD"), "LATE")
            made.queue_studies()
            made.analyse.run()
            made.deliver.run()
            yield made


def test_the_worklist_shows_status_outcome_and_reason(worked):
    rows = {row["accession_number"]: row for row in json.loads(run("studies", "list", "--json").output)}
    assert (rows["GOOD"]["status"], rows["GOOD"]["outcome"]) == ("completed", "findings")
    assert (rows["BAD"]["status"], rows["BAD"]["reason_code"]) == ("failed", "DESTINATION_DOWN")
    assert "DESTINATION_DOWN" in run("studies", "list", "--status", "failed").output
    assert "GOOD" not in run("studies", "list", "--status", "failed").output


def test_show_tells_the_whole_story_and_no_name(worked):
    text = run("studies", "show", "GOOD").output
    for word in ("completed", "findings", "DF 0.90", "SR to PACS: delivered", "history"):
        assert word in text, word
    detail = json.loads(run("studies", "show", "GOOD", "--json").output)
    assert [r["kind"] for r in detail["analyses"][0]["results"]] == ["SR", "SC"]
    assert str(make_radiograph(seed=1).PatientName) not in text


def test_replay_opens_the_next_analysis_once(worked):
    before = json.loads(run("replay", "--failed", "--dry-run", "--json").output)
    assert [(one["from"], one["number"]) for one in before] == [("deliver", 2)]
    assert len(json.loads(run("studies", "show", "BAD", "--json").output)["analyses"]) == 1
    assert "Analysis 2" in run("replay", "BAD").output
    assert "Nothing done" in run("replay", "BAD").output
    detail = json.loads(run("studies", "show", "BAD", "--json").output)
    assert [a["number"] for a in detail["analyses"]] == [2, 1]
    assert detail["analyses"][0]["status"] == "delivering"


def test_results_that_had_nowhere_to_go_are_sent_by_a_replay_once_there_is_a_destination(site: Path) -> None:
    with Children(1, 30, 2 * 2**30, 64 * 10**6) as children, pipeline(site, children) as made:
        made.receive(make_radiograph(AccessionNumber="ALONE"))
        made.queue_studies()
        made.analyse.run()
        assert "Nothing was left to send" in run("replay", "ALONE").output
        text = '[[destination]]\nname = "PACS"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
        (site / "data" / "destinations.toml").write_text(text)
        assert "2 to send" in run("replay", "ALONE").output
