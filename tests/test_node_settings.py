"""What a site sets reaches the place where it acts."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from hipnode import ledger
from hipnode.cli.node import _Installed, _limits, _pace
from hipnode.errors import SpoolFull
from hipnode.intake import Intake
from hipnode.selection import Selection
from hipnode.settings import Settings
from hipnode.spool import Spool
from hipnode.tables import Delivery
from tests.factories import make_radiograph
from tests.ledger_steps import Journey, empty_sqlite, journey, make, postgres_ledger
from tests.packages import make_package as make_weights
from tests.pipeline import make_package
from tests.test_intake import Reader
from workers.runtime import DEAF_S, _deaf_s, _OnDisk

__all__ = ["empty_sqlite", "journey", "make", "postgres_ledger"]


@pytest.mark.parametrize(("cap_s", "left_alone"), [(3600, True), (60, False)])
def test_a_long_pause_between_deliveries_is_not_cut_short_by_the_sweep(
    journey: Journey, tmp_path: Path, cap_s: float, left_alone: bool
) -> None:
    journey.delivering()
    batches = journey.do(ledger.claim_deliveries, 1, 60, "d:1", journey.now)
    journey.do(ledger.record_outcomes, batches[0], [], journey.now, 86400, lambda _n: 3000.0)
    intake = Intake(
        sessions=journey.make,
        spool=Spool(tmp_path / "spool"),
        children=Reader(),
        selection=Selection.load(None),
        packages={},
        pace=_pace(Settings(delivery_retry_cap_s=cap_s)),
        clock=lambda: journey.now,
    )
    intake.sweep()
    with ledger.reading(journey.make) as session:
        due = set(session.scalars(select(Delivery.due_at)))
    assert due == {journey.now + timedelta(seconds=3000 if left_alone else 0)}


def test_below_the_low_water_mark_results_are_still_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path, low_water_bytes=1 << 60)
    with pytest.raises(SpoolFull):
        spool.quarantine(b"rubbish", "test")
    ds = make_radiograph()
    kept = spool.write_result(ds)
    assert spool.verify(kept.relative_path, kept.sha256)


def test_one_pacs_may_open_as_many_associations_as_the_site_allows() -> None:
    limits = _limits(Settings(max_associations=200))
    assert limits.max_associations == 200
    assert min(limits.max_connections_per_peer, limits.max_unassociated) > 200


@pytest.mark.parametrize("sweep_s", [10, 300])
def test_a_worker_is_not_deaf_because_the_sweep_rings_rarely(sweep_s: float) -> None:
    assert _deaf_s(Settings(sweep_s=sweep_s)) >= max(DEAF_S, 2 * sweep_s)


def test_a_broken_package_folder_does_not_close_the_way_in(tmp_path: Path) -> None:
    broken = tmp_path / "packages" / "broken"
    broken.mkdir(parents=True)
    (broken / "model.toml").write_text("half a copy")
    sound = make_package(tmp_path / "packages")
    assert _Installed([tmp_path / "packages"])[sound.id] == sound.sha256


def test_new_weights_are_pinned_without_a_new_start(tmp_path: Path) -> None:
    installed = _Installed([tmp_path])
    assert installed.get("hip-test") is None
    first = make_package(tmp_path)
    assert installed["hip-test"] == first.sha256
    shutil.rmtree(first.folder)
    second = make_weights(tmp_path / "hip-test", b"other weights")
    assert installed["hip-test"] == second.sha256 != first.sha256


def test_a_deliver_worker_knows_packages_as_they_lie_on_the_disk_now(tmp_path: Path) -> None:
    known = _OnDisk(Settings(data=tmp_path))
    assert known.get("late") is None
    late = make_package(tmp_path / "packages", "late")
    assert known["late"].manifest == late.manifest
    assert set(known) >= {"late"}
    assert len(known) == len(set(known))
    late.weights_file.unlink()
    assert known.get("late") is None
