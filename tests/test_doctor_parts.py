"""hipnode doctor on a broken database, broker, worker or model package."""

import os
from pathlib import Path

import pytest
from sqlalchemy import text

from hipnode import ledger, migrations
from hipnode.doctor.bundle import settings_without_secrets
from hipnode.doctor.database import check_database, check_database_clock
from hipnode.doctor.packages import check_packages, check_torch
from hipnode.doctor.refusals import check_refusals
from hipnode.doctor.work import check_queue
from hipnode.doctor.workers import check_broker, check_workers
from tests.doctor_site import beat, command, failed, site, the
from tests.node import site_selection
from tests.peers import Postgres, Redis, free_port
from tests.pipeline import make_package

# --- Database --------------------------------------------------------------------------------------


def test_a_schema_that_is_behind_ahead_or_missing_is_told_apart(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        assert "hipnode db upgrade" in the(check_database(one), "migration").cure
    with site(tmp_path) as one:
        assert [r.state for r in check_database(one)] == ["ok", "ok"]
        url = one.settings.database
    migrations.downgrade(url, "0001")
    with site(tmp_path, prepared=False) as one:
        behind = the(check_database(one), "migration")
        assert (behind.state, "behind" in behind.says) == ("fail", True)
        assert check_workers(one) == check_queue(one) == check_refusals(one) == []
    make = ledger.sessions(url)
    with ledger.transaction(make) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    make.kw["bind"].dispose()
    with site(tmp_path, prepared=False) as one:
        ahead = the(check_database(one), "migration")
        assert (ahead.state, "ahead" in ahead.says) == ("fail", True)
        assert "Install the hipnode version" in ahead.cure


def test_a_stale_schema_is_named_on_the_command_line(tmp_path: Path) -> None:
    with site(tmp_path) as one:
        migrations.downgrade(one.settings.database, "0001")
    code, out, _ = command(tmp_path)
    lines = out.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("fail  migration"))
    assert code == 1
    assert "-> Back up the database, then run `hipnode db upgrade`." in lines[place + 1]
    assert lines[-1].startswith("1 failed, ")


def test_what_keeps_a_postgres_away_is_told_apart(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.database()
    place = url.partition("@")[2]
    faults = {
        f"postgresql+psycopg://nobody_here:pw@{place}": "does not know this user",
        url.rpartition("/")[0] + "/no_such_database": "has no database of this name",
        f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/hip": "does not run",
        "postgresql+psycopg://me:secret@no-such-host.invalid/hip": "has no address",
    }
    for wrong, meaning in faults.items():
        with site(tmp_path, prepared=False, database_url=wrong) as one:
            found = the(check_database(one), "database")
            assert (found.state, meaning in found.says) == ("fail", True), found
            assert "secret" not in found.says + found.cure
            assert check_workers(one) == []
    with site(tmp_path, database_url=url) as one:
        assert failed(check_database(one)) == []
        assert the(check_database_clock(one), "clock-database").state == "ok"


def test_urls_that_are_none_are_named_and_not_shown(tmp_path: Path) -> None:
    database = "postgresql+psycopg://me:se/cr@et@host:port/hip"
    with site(
        tmp_path, prepared=False, database_url=database, broker_url="redis://:secret@host:port/0"
    ) as one:
        records = [the(check_database(one), "database"), the(check_broker(one), "broker")]
        shown = settings_without_secrets(one)
    assert [r.state for r in records] == ["fail", "fail"]
    assert shown["HIPNODE_DATABASE_URL"] == "postgresql+psycopg://me:***@host:port/hip"
    assert "se/cr" not in str([records, shown])
    assert "secret" not in str([records, shown])


def test_a_database_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        (one.settings.data / "hipnode.db").write_bytes(b"no database at all, " * 100)
        found = the(check_database(one), "database")
    assert found.state == "fail"
    assert "no SQLite file" in found.says


# --- Broker and workers ----------------------------------------------------------------------------


def test_a_dead_broker_a_wrong_password_and_a_missing_one_are_told_apart(
    tmp_path: Path, redis: Redis
) -> None:
    with site(tmp_path, prepared=False, broker_url=redis.url) as one:
        assert [r.state for r in check_broker(one)] == ["ok", "ok"]
    redis.kill()
    with site(tmp_path, prepared=False, broker_url=redis.url) as one:
        dead = the(check_broker(one), "broker")
        assert (dead.state, "nothing listens there" in dead.says) == ("fail", True)
        assert "Start it" in dead.cure
    redis.start("--requirepass", "right")
    for user, says in (("", "asks for a password"), (":wrong@", "does not accept")):
        with site(tmp_path, prepared=False, broker_url=f"redis://{user}127.0.0.1:{redis.port}/0") as one:
            refused = the(check_broker(one), "broker")
            assert (refused.state, says in refused.says) == ("fail", True), refused
            assert "wrong" not in refused.says + refused.cure
    with site(tmp_path, prepared=False, broker_url=f"redis://:right@127.0.0.1:{redis.port}/0") as one:
        assert failed(check_broker(one)) == []


def test_a_worker_that_died_and_a_package_nobody_holds_are_named(tmp_path: Path) -> None:
    chosen = site_selection(tmp_path, "hip-ours")
    with site(tmp_path, selection_file=chosen) as one:
        assert [r.state for r in check_workers(one)] == [
            "warn",
            "warn",
        ]  # not started yet, and no node either
    with site(tmp_path, selection_file=chosen) as one:
        beat(one, "deliver", ago_s=1)
        beat(one, "analyse", ago_s=300)
        dead = next(r for r in check_workers(one) if "analyse" in r.says)
        assert (dead.state, "analyse@elsewhere:7 was last heard 5 min ago" in dead.says) == ("fail", True)
        assert "hipnode worker analyse" in dead.cure
    with site(tmp_path, selection_file=chosen) as one:
        beat(one, "analyse", ago_s=1, **{"hip-old": "0" * 64})
        missing = the(check_workers(one), "worker-packages")
        assert missing.state == "fail"
        assert "names hip-ours" in missing.says
        assert "they have: hip-old" in missing.says


# --- Packages --------------------------------------------------------------------------------------


def test_missing_weights_a_wrong_hash_and_a_package_that_is_not_there(tmp_path: Path) -> None:
    chosen = site_selection(tmp_path, "hip-ours")
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        assert any("hip-ours, and it is not on this disk" in said for said in failed(check_packages(one)))
    package = make_package(tmp_path / "data" / "packages", "hip-ours")
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        assert failed(check_packages(one)) == []
        shipped = next(r for r in check_packages(one) if r.check == "model-weights")
        assert "no clinical validity" in shipped.says
    package.weights_file.write_bytes(b"other weights")
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        wrong = [r for r in check_packages(one) if r.state == "fail"]
        assert any("SHA-256 differs" in r.says and "hipnode models verify" in r.cure for r in wrong)
    package.weights_file.unlink()
    with site(tmp_path, prepared=False, selection_file=chosen) as one:
        assert any("model.safetensors is missing" in said for said in failed(check_packages(one)))


def test_weights_a_worker_has_loaded_are_compared_with_the_disk(tmp_path: Path) -> None:
    package = make_package(tmp_path / "data" / "packages", "hip-ours")
    with site(tmp_path, selection_file=site_selection(tmp_path, "hip-ours")) as one:
        beat(one, "analyse", ago_s=1, **{"hip-ours": "0" * 64})
        assert "other weights of hip-ours" in the(check_packages(one), "worker-packages").says
        assert package.sha256 != "0" * 64


def test_torch_is_asked_in_a_child(tmp_path: Path) -> None:
    with site(tmp_path, prepared=False) as one:
        records = check_torch(one)
    assert [(r.check, r.state) for r in records][:1] == [("torch", "ok")]
    assert {r.check for r in records} == {"torch", "gpu"}


def test_a_gpu_this_torch_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "bin" / "nvidia-smi"  # as the driver's own program prints it
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.86.15, 143771 MiB'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    with site(tmp_path, prepared=False) as one:
        gpu = next(r for r in check_torch(one) if r.check == "gpu")
    if "torch can use" in gpu.says:
        pytest.skip("this machine has a GPU that torch can use")
    assert gpu.state == "warn"
    assert "NVIDIA H200, driver 570.86.15, 143771 MiB" in gpu.says
    assert "CUDA" in gpu.cure
