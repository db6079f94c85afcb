"""`hipnode studies list` and `watch`: which studies, how old, how long where they are, what is next."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from hipnode import ledger
from hipnode.cli import watching
from hipnode.cli.worklist import study_table
from hipnode.errors import LedgerDown
from hipnode.findings import Reason
from hipnode.status import AnalysisStatus, Outcome, ReasonCode
from tests.ledger_steps import Journey
from tests.node import ROOT
from tests.peers import wait_for
from tests.test_cli import ended, ledger_site, run, site

__all__ = ["ledger_site", "site"]


@pytest.fixture
def journey(ledger_site: Path) -> Journey:
    """Four studies of the last hours: completed, failed, waiting for its second try, and no radiograph."""
    made = Journey(ledger.sessions(f"sqlite:///{ledger_site / 'data' / 'hipnode.db'}"))
    made.now = datetime.now(UTC) - timedelta(hours=20)
    made.delivering("1.2", outcome=Outcome.FINDINGS)
    made.send("delivered")
    made.later(3600).delivering("1.3", outcome=Outcome.NONE)
    made.send("refused")
    made.now = datetime.now(UTC) - timedelta(hours=5)
    made.queued("1.4")
    (claim,) = made.claim()
    made.do(ledger.release, claim, Reason.of(ReasonCode.WORKER_LOST), made.now, 36000)
    made.receive("1.5", role="ignored", relative_path=None, reason_code=ReasonCode.NOT_A_RADIOGRAPH)
    return made


def listed(*arguments: str) -> list[str]:
    result = run("studies", "list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [row["study_instance_uid"] for row in json.loads(result.output)]


@pytest.mark.parametrize(
    ("arguments", "uids"),
    [
        ((), ["1.5", "1.4", "1.3", "1.2"]),
        (("--status", "failed"), ["1.3"]),
        (("--status", "failed", "--status", "queued"), ["1.4", "1.3"]),
        (("--reason", "DESTINATION_REFUSED"), ["1.3"]),
        (("--reason", "destination_refused", "--reason", "worker_lost"), ["1.4", "1.3"]),
        (("--reason", "NOT_A_RADIOGRAPH"), ["1.5"]),
        (("--since", "6h"), ["1.5", "1.4"]),
        (("--until", "6h"), ["1.3", "1.2"]),
        (("--since", "1170m", "--until", "6h"), ["1.3"]),
        (("--accession", "A1.3"), ["1.3"]),
        (("--accession", "A1.*", "--status", "completed"), ["1.2"]),
        (("--accession", "A9"), []),
        (("--limit", "1"), ["1.5"]),
    ],
)
def test_the_worklist_is_cut_by_status_reason_time_and_accession_number(journey, arguments, uids):
    assert listed(*arguments) == uids


def test_wrong_filters_are_wrong_use(ledger_site):
    for wrong in (("--reason", "TIRED"), ("--status", "tired"), ("--until", "soon"), ("--limit", "0")):
        assert run("studies", "list", *wrong).exit_code == 2, wrong
    assert "--since" in run("studies", "list", "--help").output
    assert "Ask for more of them." in run("studies", "list", "--status", "failed").output


def test_json_tells_age_time_in_status_and_the_next_attempt(journey):
    rows = {row["study_instance_uid"]: row for row in json.loads(run("studies", "list", "--json").output)}
    waiting = rows["1.4"]
    assert waiting["status"] == "queued"
    assert 4.9 < waiting["in_status_s"] / 3600 < waiting["age_s"] / 3600 < 5.1
    assert 4.9 < waiting["next_attempt_s"] / 3600 < 5.1
    assert datetime.fromisoformat(waiting["due_at"]) > datetime.now(UTC)
    assert 19.9 < rows["1.2"]["age_s"] / 3600 < 20.1
    assert rows["1.2"]["next_attempt_s"] is None
    assert (rows["1.5"]["status"], rows["1.5"]["in_status_s"]) == (None, None)


def test_the_table_shows_them_too(journey):
    text = run("studies", "list").output
    assert "in status" in text
    (line,) = (line for line in text.splitlines() if "WORKER_LOST" in line)
    assert line.count("5 h") == 3  # its age, its time in status, its next try
    (line,) = (line for line in text.splitlines() if "completed" in line)
    assert "20 h" in line


def test_on_a_narrow_terminal_a_study_stays_one_line(journey):
    with ledger.reading(journey.make) as session:
        rows = ledger.list_studies(session)
    console = Console(width=80, file=io.StringIO())
    console.print(study_table(rows, datetime.now(UTC), 80))
    head, *lines = console.file.getvalue().splitlines()
    assert head.split() == ["id", "accession", "status", "outcome", "reason", "age", "in", "status", "next"]
    assert len(lines) == len(rows)


def test_a_limit_that_cuts_is_told(journey):
    assert "These are the last 2; --limit shows more." in run("studies", "list", "--limit", "2").output
    assert "--limit" not in run("studies", "list").output


def test_what_stands_in_a_header_does_not_reach_the_terminal_as_a_command(journey):
    journey.receive("1.6", accession_number="\x1b[2J[/red]A\x07")
    text = run("studies", "list").output
    assert "\x1b[2J" not in text
    assert "?[2J[/red]A?" in text
    assert "?[2J[/red]A?" in run("studies", "show", "1.6").output


# --- watch ---------------------------------------------------------------------------------------


def test_one_look_at_an_empty_node(ledger_site):
    text = run("studies", "watch", "--once").output
    assert "receiving 0, queued 0, analysing 0, delivering 0; in 24 h completed 0" in text
    assert "workers: none alive" in text


def test_one_look_tells_counts_queue_age_workers_and_the_newest_studies(journey):
    with ledger.transaction(journey.make) as session:
        now = datetime.now(UTC)
        ledger.heartbeat(
            session, ledger.WorkerBeat("analyse@here:1", "analyse", {"hip": "f" * 64}, "cpu"), now
        )
        ledger.heartbeat(session, ledger.WorkerBeat("deliver@here:2", "deliver"), now - timedelta(hours=1))
    text = run("studies", "watch", "--once").output
    assert "queued 1 (oldest 5 h)" in text
    assert "completed 1, failed 1, not_applicable 0" in text
    assert "workers: analyse 1" in text
    assert "deliver 1" not in text  # not heard of for an hour
    lines = [line for line in text.splitlines() if line.startswith("study ")]
    assert lines[0].startswith("study 4 no image NOT_A_RADIOGRAPH")
    assert lines[1].startswith("study 3 queued WORKER_LOST for 5 h")
    assert "A1.4" not in text  # what is piped may end in a log


def test_results_under_way_are_counted_by_destination(journey):
    journey.delivering("1.7")
    assert "to send to pacs: 2 (oldest" in run("studies", "watch", "--once").output


def test_without_a_terminal_it_prints_one_look_after_the_other_until_ctrl_c(journey, monkeypatch):
    seen = 0

    def pause(seconds: float) -> None:
        nonlocal seen
        assert seconds == watching.EVERY_S
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", pause)
    result = run("studies", "watch")
    assert result.exit_code == 0
    assert result.output.count("workers: ") == 3


def test_a_database_that_goes_away_is_told_and_asked_again(journey, monkeypatch):
    looks, look = [], watching.look

    def shaky(session, now):
        looks.append(now)
        if len(looks) == 2:
            raise LedgerDown("The database is busy.")
        if len(looks) == 4:
            raise KeyboardInterrupt
        return look(session, now)

    monkeypatch.setattr(watching, "look", shaky)
    monkeypatch.setattr(watching.time, "sleep", lambda _: None)
    result = run("studies", "watch")
    assert result.exit_code == 0
    assert result.output.count("workers: ") == 2
    assert "The database is busy." in result.output


def test_a_first_look_without_a_database_ends_with_a_sentence(site, monkeypatch, capsys):
    monkeypatch.setenv("HIPNODE_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    code, error = ended(monkeypatch, capsys, "studies", "watch")
    assert code == 1
    assert "database does not answer" in error


def test_on_a_terminal_one_view_renews_itself_and_ctrl_c_ends_it_cleanly(journey, ledger_site):
    main, terminal = pty.openpty()
    environment = {**os.environ, "HIPNODE_DATA": str(ledger_site / "data"), "TERM": "xterm", "COLUMNS": "160"}
    environment["LINES"] = "50"
    process = subprocess.Popen(
        [sys.executable, "-m", "hipnode", "studies", "watch"],
        cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE,
        # where the tests run in the background of a shell, it is ignored, and that is handed on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    os.close(terminal)
    shown = bytearray()

    def shows(word: bytes) -> bool:
        while select.select([main], [], [], 0.1)[0]:
            try:
                shown.extend(os.read(main, 65536))
            except OSError:  # the other end is closed
                break
        return word in shown

    try:
        wait_for(lambda: shows(b"WORKER_LOST"), "the first look", 60)
        journey.now = datetime.now(UTC)
        journey.queued("1.9")
        wait_for(lambda: shows(b"1.9"), "a new study shows by itself", 60)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: shows(b"never") or process.poll() is not None, "it ends", 30)
        assert process.returncode == 0
        assert process.stderr.read() == b""
        assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1  # the screen is given back
        assert b"no worker has been heard of" in shown
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        os.close(main)


def test_the_view_fits_its_words_to_what_was_seen(journey):
    with ledger.reading(journey.make) as session:
        seen = watching.look(session, datetime.now(UTC))
    console = Console(width=200, file=io.StringIO())
    console.print(watching.view(seen, 200))
    console.print(watching.view(LedgerDown("The database is busy."), 200))
    text = console.file.getvalue()
    assert "no worker has been heard of" in text
    assert "The database is busy." in text
    assert {status.value for status in AnalysisStatus} <= set(text.split())
