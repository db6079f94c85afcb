"""`hipnode peers`: who called, what came, what was refused and how to let it in."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger, scu
from hipnode.destinations import RemoteAE
from hipnode.scp import AllowedPeers
from tests.factories import make_radiograph
from tests.node import PARTS, running_node
from tests.peers import wait_for
from tests.test_cli import ended, ledger_site, run, site

__all__ = ["ledger_site", "site"]


@pytest.fixture
def knocked(ledger_site: Path) -> sessionmaker[Session]:
    """A ledger that knows a PACS, a stranger, one that asked for another AE title, and one with bad objects."""
    sessions = ledger.sessions(f"sqlite:///{ledger_site / 'data' / 'hipnode.db'}")
    seen, now = ledger.PeerSeen, datetime.now(UTC)
    with ledger.transaction(sessions) as session:
        ledger.record_peers(session, [seen("PACS", "127.0.0.1", "HIPNODE", 3, 0, 40)], now)
        ledger.record_peers(
            session,
            [
                seen("STRANGER", "10.1.2.3", "HIPNODE", refusals=7, last_refusal="NOT_ALLOWED"),
                seen("TYPO", "10.1.2.4", "HIPNOD", refusals=1, last_refusal="CALLED_AE_TITLE"),
            ],
            now - timedelta(hours=2),
        )
        bad = seen("CT", "127.0.0.1", "HIPNODE", 1, 0, 5, 2, "C000")
        ledger.record_peers(session, [bad], now - timedelta(days=2))
    return sessions


def titles(*arguments: str) -> list[str]:
    return [one["calling_ae_title"] for one in json.loads(run("peers", "--json", *arguments).output)]


def test_nobody_has_called_yet(ledger_site):
    text = run("peers").output
    assert "Nobody called. This node is HIPNODE at 127.0.0.1 port 11112" in text
    assert json.loads(run("peers", "--json").output) == []
    assert run("peers", "--refused").output.strip() == "Nobody was refused."


def test_the_table_counts_what_each_sent_and_was_refused(knocked):
    text = run("peers").output
    lines = {line.split()[0]: line.split() for line in text.splitlines()[:5]}
    assert lines["PACS"][:7] == ["PACS", "127.0.0.1", "HIPNODE", "3", "0", "40", "0"]
    assert lines["STRANGER"][:7] == ["STRANGER", "10.1.2.3", "HIPNODE", "0", "7", "0", "0"]
    assert lines["CT"][:7] == ["CT", "127.0.0.1", "HIPNODE", "1", "0", "5", "2"]


def test_each_refusal_is_told_with_its_cure(knocked):
    text = run("peers", "--refused").output
    assert "add STRANGER@10.1.2.3/32 to HIPNODE_ALLOWED_PEERS" in text
    assert "it called HIPNOD, and this node is HIPNODE" in text
    assert "CT at 127.0.0.1: an object's UIDs could not be read." in text
    assert "PACS at" not in text


def test_a_crowd_of_strangers_does_not_fill_the_screen_with_words(knocked):
    with ledger.transaction(knocked) as session:
        crowd = [
            ledger.PeerSeen("X", f"10.6.6.{n}", refusals=1, last_refusal="NOT_ALLOWED") for n in range(20)
        ]
        ledger.record_peers(session, crowd, datetime.now(UTC))
    text = run("peers").output
    assert text.count("it is not in HIPNODE_ALLOWED_PEERS") == 10
    assert "13 more were refused; --json explains all of them." in text


def test_they_can_be_cut_by_time_and_by_refusal(knocked):
    assert titles() == ["PACS", "STRANGER", "TYPO", "CT"]
    assert titles("--since", "1h") == ["PACS"]
    assert titles("--refused", "--since", "3h") == ["STRANGER", "TYPO"]
    assert titles("--refused", "--since", "1m") == []
    assert "Nobody was refused since 1m." in run("peers", "--refused", "--since", "1m").output
    assert run("peers", "--since", "yesterday").exit_code == 2


def test_the_entry_in_the_json_lets_the_peer_in(knocked):
    told = {one["calling_ae_title"]: one for one in json.loads(run("peers", "--json").output)}
    entry = told["STRANGER"]["allowed_peers_entry"]
    assert AllowedPeers.parse(entry).allows("STRANGER", "10.1.2.3")
    assert not AllowedPeers.parse(entry).allows("STRANGER", "10.1.2.4")
    assert (told["PACS"]["allowed_peers_entry"], told["PACS"]["refusal"]) == (None, None)
    assert told["TYPO"]["cure"].startswith("Correct the called AE title")
    assert told["CT"]["stores_refused"] == 2


def test_a_peer_that_was_let_in_since_is_not_told_to_be_let_in_again(knocked, monkeypatch):
    monkeypatch.setenv("HIPNODE_ALLOWED_PEERS", "STRANGER@10.1.2.0/24")
    assert "It is now: start the node again if it was not" in run("peers", "--refused").output


def test_without_a_ledger_a_sentence_says_what_to_do(site, monkeypatch, capsys):
    code, error = ended(monkeypatch, capsys, "peers")
    assert code == 2
    assert "hipnode up" in error


def test_a_stranger_at_a_running_node_is_shown_and_its_entry_lets_it_in(tmp_path: Path) -> None:
    serve = {"serve": PARTS["serve"]}
    patience = scu.Timeouts(connect_s=5, acse_s=10, dimse_s=20, network_s=20)
    with running_node(
        tmp_path, 1, serve, HIPNODE_ALLOWED_PEERS="TESTER@127.0.0.1,MODALITY@127.0.0.1"
    ) as node:
        here = RemoteAE("HIPNODE", "127.0.0.1", node.port)
        assert node.store(make_radiograph()) == 0x0000
        assert scu.echo(here, "PACS-1", patience).trouble is scu.Trouble.CALLING_AE_TITLE

        def shown() -> dict[str, dict]:
            return {one["calling_ae_title"]: one for one in json.loads(node.hipnode("peers", "--json"))}

        wait_for(
            lambda: {"MODALITY", "PACS-1"} <= shown().keys(), "both stand in the ledger", 60, every_s=0.5
        )
        assert shown()["MODALITY"]["instances"] == 1
        told = node.hipnode("peers", "--refused", "--since", "10m")
        (entry,) = re.findall(r"add (\S+) to HIPNODE_ALLOWED_PEERS", told)
        node.processes["serve"].terminate()
        node.processes["serve"].wait()
        node.environment["HIPNODE_ALLOWED_PEERS"] += f",{entry}"
        node.start("serve")
        node.listens()
        assert scu.echo(here, "PACS-1", patience).ok
