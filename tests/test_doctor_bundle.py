"""The support bundle: it holds what a supporter asks for, and nothing of a patient and no secret."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hipnode import ledger, migrations
from hipnode.destinations import Destination
from hipnode.doctor import examine, write_bundle
from hipnode.errors import SettingsError
from hipnode.findings import Reason
from hipnode.ledger import PeerSeen
from hipnode.spool import Spool
from hipnode.status import Outcome, ReasonCode
from tests.doctor_site import site
from tests.factories import encoded, make_radiograph
from tests.ledger_steps import Journey
from tests.node import ROOT
from tests.peers import free_port

NOW = datetime.now(UTC)
NAME, ID, ACCESSION = "Canary^Yellow", "CANARYID77", "CANARYACC5"
UIDS = ("1.2.826.77.1", "1.2.826.77.2", "1.2.826.77.3")
WORDS = "the film of Canary was too dark"


def journey(url: str) -> None:
    """A study that failed, one that was delivered, one that was refused, each full of canaries."""
    make = ledger.sessions(url)
    steps = Journey(make, NOW)
    instance = {
        "series_instance_uid": UIDS[1],
        "patient_id": ID,
        "accession_number": ACCESSION,
    }
    for content in ("", "other bytes"):
        steps.receive(UIDS[0], UIDS[2], content, **instance)
    steps.receive("1.2.826.77.9", **instance)
    steps.later(11).close()
    first, claim = steps.claim()
    sent = steps.tell(first)
    assert sent.due == 2
    steps.tell(claim, outcome=Outcome.NOT_ANALYSED, reason=Reason(ReasonCode.IMAGE_QUALITY, WORDS))
    steps.send("refused")
    steps.receive("1.2.826.77.7", **instance)
    (open_,) = steps.do(ledger.studies_due_to_close, steps.later(11).now, 10, 300)
    steps.do(ledger.fail, open_, Reason(ReasonCode.INTERNAL, WORDS), steps.now)
    with ledger.transaction(make) as session:
        ledger.note(session, NOW, "analyse@host:1", "analysis", study_id=1, was="queued", became="failed",
                    why=Reason(ReasonCode.INTERNAL, WORDS))  # fmt: skip
        ledger.note(
            session, NOW, "PACS", "study", study_id=1, became=f"study {UIDS[0]}", why=f"{NAME}: {WORDS}"
        )
        ledger.record_peers(
            session, [PeerSeen("PACS", "10.1.2.3", "HIPNODE", associations=1, instances=2)], NOW
        )
    make.kw["bind"].dispose()


def canaries(url: str) -> list[str]:
    """Whatever identifies somebody in the ledger, and what was planted."""
    make = ledger.sessions(url)
    with ledger.reading(make) as session:
        studies = [ledger.show_study(session, row.study_id) for row in ledger.list_studies(session)]
    make.kw["bind"].dispose()
    found = ["Canary", ID, ACCESSION, *UIDS, "1.2.826.77", "too dark", "P1"]
    for study in studies:
        assert study is not None
        found += [study.summary.study_instance_uid, study.summary.accession_number]
        found += [one.sop_instance_uid for one in study.instances]
        found += [one.sop_instance_uid for analysis in study.analyses for one in analysis.results]
        found += [one.series_instance_uid for analysis in study.analyses for one in analysis.results]
    return [word for word in found if len(word) > 3]


def test_no_canary_is_in_the_bundle(tmp_path: Path) -> None:
    pacs = Destination("PACS", "PACS", "127.0.0.1", free_port())
    data = tmp_path / "data"
    with site(tmp_path, pacs) as one:
        journey(one.settings.database)
        film = make_radiograph(PatientName=NAME, PatientID=ID, AccessionNumber=ACCESSION)
        Spool(one.settings.spool).quarantine(encoded(film), "Study Instance UID is missing")
    out = tmp_path / "bundle"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HIPNODE_")}
    done = subprocess.run(
        [sys.executable, "-m", "hipnode", "doctor", "--support-bundle", str(out)],
        env=kept | {
            "HIPNODE_DATA": str(data), "HIPNODE_ENV_FILE": os.devnull, "PYTHONPATH": str(ROOT),
            "HIPNODE_PORT": str(free_port()), "HIPNODE_HTTP_PORT": str(free_port()),
            "HIPNODE_BROKER_URL": f"redis://user:HUSHHUSH@127.0.0.1:{free_port()}/0",
        },
        cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert f"are in {out}; they hold no patient data." in done.stdout
    files = {path.name: path.read_text() for path in out.iterdir()}
    for name, text in {**files, "what was printed": done.stdout + done.stderr}.items():
        for word in [*canaries(f"sqlite:///{data / 'hipnode.db'}"), "HUSHHUSH"]:
            assert word not in text, f"{word} in {name}"
    assert set(files) == {
        "doctor.json", "settings.json", "versions.json", "packages.json", "migration.json", "counts.json",
        "queue.json", "workers.json", "peers.json", "events.json", "selection.toml", "destinations.toml",
    }  # fmt: skip
    assert json.loads(files["settings.json"])["HIPNODE_BROKER_URL"].startswith("redis://user:***@127.0.0.1")
    assert {r["check"] for r in json.loads(files["doctor.json"])["records"]} >= {"broker", "destination-echo"}
    events: list[dict[str, Any]] = json.loads(files["events.json"])
    assert {"queued", "failed"} <= {event["became"] for event in events} | {event["was"] for event in events}
    assert {event["code"] for event in events} >= {"INTERNAL", "REVISION_CONFLICT"}
    assert json.loads(files["peers.json"])[0]["calling_ae_title"] == "PACS"
    assert json.loads(files["migration.json"])["revision"] == migrations.head()
    assert json.loads(files["versions.json"])["pynetdicom"].startswith("3.")
    assert 'name = "PACS"' in files["destinations.toml"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (out, *out.iterdir()))


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with site(tmp_path) as one:
        with pytest.raises(SettingsError, match="is not empty"):
            write_bundle(one, [], tmp_path / "full")
        with pytest.raises(SettingsError, match="cannot be used"):
            write_bundle(one, [], tmp_path / "full" / "mine.txt" / "below")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_bundle_can_be_written_while_the_database_is_away(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://me:HUSHHUSH@127.0.0.1:{free_port()}/hip"
    with site(tmp_path, prepared=False, database_url=url) as one:
        written = write_bundle(one, examine(one), tmp_path / "bundle")
    text = "".join(path.read_text() for path in written)
    assert "HUSHHUSH" not in text
    assert '"trouble": "does not run: nothing listens there"' in text
    assert "peers.json" not in [path.name for path in written]
