"""Installations for the tests of the doctor: sound but for what a test breaks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hipnode import migrations
from hipnode.destinations import Destination
from hipnode.doctor import Record, Site, State
from hipnode.scu import Timeouts
from hipnode.settings import Settings
from tests.peers import free_port
from tests.pipeline import destinations_toml

QUICK = Timeouts(connect_s=1, acse_s=1, dimse_s=1, network_s=1)


def settings(folder: Path, *destinations: Destination, **changes: Any) -> Settings:
    """Settings of an installation in `folder`/data."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    if destinations:
        (data / "destinations.toml").write_text(destinations_toml(*destinations))
    values = {"data": data, "port": free_port(), "http_port": free_port(), "low_water_bytes": 0, **changes}
    return Settings(_env_file=None, **values)


@contextmanager
def site(folder: Path, *destinations: Destination, prepared: bool = True, **changes: Any) -> Iterator[Site]:
    """An installation whose database is at the newest revision, unless it is not `prepared`.

    clock: of the doctor; the other changes are settings.
    """
    options = {"clock": changes.pop("clock")} if "clock" in changes else {}
    found = settings(folder, *destinations, **changes)
    if prepared:
        migrations.upgrade(found.database)
    examined = Site(found, timeouts=QUICK, **options)
    try:
        yield examined
    finally:
        examined.close()


def the(records: Sequence[Record], check: str) -> Record:
    """The one record of a check."""
    (found,) = [record for record in records if record.check == check]
    return found


def failed(records: Sequence[Record]) -> list[str]:
    """The sentences of what failed."""
    return [f"{record.check}: {record.says}" for record in records if record.state is State.FAIL]
