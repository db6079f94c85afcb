"""hipnode doctor on disk, rights and clock, and on work that waits or failed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from hipnode import ledger
from hipnode.doctor import Site
from hipnode.doctor.clock import check_ledger_clock
from hipnode.doctor.database import compare_clocks
from hipnode.doctor.storage import check_disk, check_folders, check_leftovers
from hipnode.doctor.work import check_arrivals, check_failures, check_outcomes, check_queue
from hipnode.findings import Reason
from hipnode.spool import Spool
from hipnode.status import ReasonCode
from tests.doctor_site import NOBODY, arrive, records_of, site, the
from tests.ledger_steps import Journey
from tests.peers import need

# --- Disk, folders, clock --------------------------------------------------------------------------


def test_a_full_disk_is_named_with_its_mark(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False, low_water_bytes=2**60) as one:
        full = the(check_disk(one), "disk-space")
    assert (full.state, "C-STORE is refused with A700" in full.says) == ("fail", True)
    assert "HIPNODE_LOW_WATER_BYTES" in full.cure


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB with nothing free."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        (place / "data").mkdir(mode=0o700)
        with pytest.raises(OSError, match="No space left"):
            (place / "film").write_bytes(bytes(8 * 2**20))
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_without_a_byte_left_is_named_and_not_taken_for_a_lack_of_rights(small_disk: Path) -> None:
    with site(small_disk, prepared=False) as one:
        assert the(check_disk(one), "disk-space").state == "fail"
        folder = the(check_folders(one), "data-folder")
    assert (folder.state, "no space left on device" in folder.says) == ("fail", True)
    assert "Free space" in folder.cure
    assert "chown" not in folder.cure


def test_the_days_left_follow_from_the_last_week(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with site(tmp_path) as one:
        assert "days are left" not in the(check_disk(one), "disk-space").says  # no history yet
        arrive(one, one.clock() - timedelta(days=4), size_bytes=free)
        soon = the(check_disk(one), "disk-space")
    assert soon.state == "warn"
    assert "about 4 days are left" in soon.says


def test_a_folder_open_to_others_or_with_files_of_others_is_named(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        assert [r.state for r in check_folders(one)] == ["ok"]
        one.settings.data.chmod(0o755)
        assert the(check_folders(one), "data-folder").cure == f"chmod 700 {one.settings.data}"
        one.settings.data.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(one.settings.data / "hipnode.db", NOBODY, NOBODY)
            assert "that do not belong to root: 1," in the(check_folders(one), "data-folder-owner").says
    with site(tmp_path / "..", prepared=False, data=tmp_path / "not" / "yet") as one:
        assert the(check_folders(one), "data-folder").state == "note"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_user_who_may_not_write_the_data_folder_is_told_whose_it_is(tmp_path: Path) -> None:
    need("setpriv")
    with site(tmp_path):
        pass
    for path in (tmp_path / "data", *(tmp_path / "data").iterdir()):
        os.chown(path, NOBODY, NOBODY)
    # Root without its right to pass permissions by: the interpreter may lie where nobody else can read it.
    drop = "-dac_override,-dac_read_search"
    code, records = records_of(tmp_path, prefix=("setpriv", f"--inh-caps={drop}", f"--bounding-set={drop}"))
    assert code == 1
    folder = the(records, "data-folder")
    assert folder.state == "fail"
    assert "cannot be written by this user (root): permission denied" in folder.says
    assert "Run hipnode as nobody" in folder.cure
    assert "sudo -u nobody hipnode doctor" in the(records, "data-folder-user").cure
    assert the(records, "database").state == "fail"
    assert not [r for r in records if "itself failed" in r.says]


def test_what_is_in_quarantine_is_counted(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        assert check_leftovers(one) == []
        Spool(one.settings.spool).quarantine(b"no identity", "Study Instance UID is missing")
        assert "could not be read: 1, the newest" in the(check_leftovers(one), "quarantine").says


def test_a_ledger_from_the_future_tells_of_a_clock_that_is_off(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        assert the(check_ledger_clock(one), "clock-ledger").state == "ok"
        arrive(one, one.clock() + timedelta(hours=5))
    code, records = records_of(tmp_path)
    off = the(records, "clock-ledger")
    assert (code, off.state) == (1, "fail")
    assert "5 hours in the future" in off.says
    assert "NTP" in off.cure


def test_clocks_of_two_machines_are_compared() -> None:
    assert [compare_clocks("clock", "Redis", s).state for s in (0.5, -3, 40)] == ["ok", "warn", "fail"]
    assert "3.0 s behind" in compare_clocks("clock", "Redis", -3).says


# --- Work ------------------------------------------------------------------------------------------


def test_what_waits_too_long_and_what_does_not_arrive_is_named(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        assert the(check_arrivals(one), "arrivals").state == "warn"
        assert {r.state for r in check_queue(one)} == {"ok"}
        assert the(check_failures(one), "failures").state == "ok"
        arrive(one, one.clock() - timedelta(hours=2))
        assert the(check_arrivals(one), "arrivals").state == "ok"
        stuck = next(r for r in check_queue(one) if r.state == "fail")
        assert "still open for more images after 2 hours" in stuck.says
        queue_all(one, ago_s=2000)
        waits = the(check_queue(one), "queue-age")
        assert (waits.state, "analyse worker: 1, the oldest" in waits.says) == ("fail", True)
    with site(tmp_path, analysis_deadline_s=1e6) as one:
        assert the(check_queue(one), "queue-age").state == "warn"


def test_how_studies_ended_says_why_nothing_comes_back(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        assert check_outcomes(one) == []
        arrive(one, one.clock(), role="ignored", reason_code=ReasonCode.NOT_A_RADIOGRAPH)
        none_ours = the(check_arrivals(one), "arrivals")
        assert (none_ours.state, "1 within 7 days" in none_ours.says) == ("warn", True)
        assert one.sessions is not None
        steps = Journey(one.sessions, one.clock() - timedelta(minutes=1))
        steps.receive("1.2.8")
        (opened,) = steps.do(ledger.studies_due_to_close, steps.later(11).now, 10, 300)
        region = Reason.of(ReasonCode.OTHER_REGION)
        steps.do(ledger.end_not_applicable, opened, region, [], steps.now)
        left_out = the(check_outcomes(one), "outcomes")
        assert (left_out.state, "(1 OTHER_REGION)" in left_out.says) == ("warn", True)
        assert "hipnode explain" in left_out.cure
        steps.delivering("1.2.9", routes=())
        nowhere, ended = check_outcomes(one)
        assert (nowhere.state, "no destination takes them: 1" in nowhere.says) == ("warn", True)
        assert (ended.state, "1 completed" in ended.says) == ("ok", True)
        assert the(check_failures(one), "failures").state == "ok"
        steps.receive("1.2.10")
        (opened,) = steps.do(ledger.studies_due_to_close, steps.later(11).now, 10, 300)
        steps.do(ledger.fail, opened, Reason.of(ReasonCode.SPOOL_MISSING), steps.now)
        lost = the(check_failures(one), "failures")
        assert (lost.state, "1 SPOOL_MISSING" in lost.says) == ("warn", True)
        assert "hipnode replay --failed" in lost.cure


def queue_all(one: Site, ago_s: float) -> None:
    assert one.sessions is not None
    with ledger.transaction(one.sessions) as session:
        at = one.clock() - timedelta(seconds=ago_s)
        session.execute(
            text("UPDATE analyses SET status = 'queued', due_at = :at, queued_at = :at"), {"at": at}
        )
