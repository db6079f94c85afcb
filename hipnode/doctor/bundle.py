"""The support bundle: what a supporter asks for, in files, without patient data and without secrets.

Nothing is copied that could hold a patient's name, id, accession number or UID: no log, no free text of
an event, no reason sentence, no file of the spool. Who looks at the site's own files (selection.toml,
destinations.toml) finds what the site wrote there.
"""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipnode import __version__, ledger, migrations
from hipnode.doctor.records import Record, summary
from hipnode.errors import HipnodeError, SettingsError
from hipnode.ledger.figures import open_work
from hipnode.ledger.health import counts, last_events
from hipnode.packages import find_packages
from hipnode.status import AnalysisStatus, DeliveryStatus

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

EVENTS = 500
_LIBRARIES = (
    "alembic", "celery", "highdicom", "imagecodecs", "kombu", "numpy", "pebble", "pillow", "psycopg", "pydantic",
    "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "pynetdicom", "redis", "sqlalchemy", "starlette", "torch", "uvicorn",
)  # fmt: skip
_STATUSES = {status.value for status in (*AnalysisStatus, *DeliveryStatus)}
_SECRET = re.compile(r"(://[^:/@\s]*):.*@")  #: the password in a URL, whatever signs it holds


def write_bundle(site: "Site", records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the bundle into `folder`, which is made, or must be empty. The files written.

    Raises SettingsError where it holds something or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        full = any(folder.iterdir())
    except OSError as error:
        raise SettingsError(f"{folder} cannot be used for the support bundle: {error.strerror}.") from error
    if full:
        raise SettingsError(f"{folder} is not empty; name a new folder for the support bundle.")
    content: dict[str, Any] = {
        "doctor.json": {"summary": summary(records), "records": [asdict(record) for record in records]},
        "settings.json": settings_without_secrets(site),
        "versions.json": versions(),
        "packages.json": _packages(site),
        "migration.json": _migration(site),
        **_ledger(site),
    }
    written = [
        _write(folder / name, json.dumps(value, indent=2, default=_plain, ensure_ascii=False))
        for name, value in content.items()
    ]
    for name, text in (
        ("selection.toml", _selection(site)),
        ("destinations.toml", _read(site.settings.destinations)),
    ):
        if text is not None:
            written.append(_write(folder / name, text))
    return written


def settings_without_secrets(site: "Site") -> dict[str, Any]:
    """Every setting in force; a password in a URL is left out."""
    return {f"HIPNODE_{name.upper()}": _bare(value) for name, value in site.settings.model_dump().items()}


def versions() -> dict[str, str]:
    """hipnode, Python, the system, and the libraries that matter."""
    found = {"hipnode": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = _SECRET.sub(r"\1:***@", str(value))
    return re.sub(r"((?:password|passwd|secret|token)=)[^&\s]+", r"\1***", text, flags=re.IGNORECASE)


def _packages(site: "Site") -> list[dict[str, Any]]:
    problems: list[Any] = []
    found = find_packages(site.settings.package_folders, verify=False, problems=problems)
    return [
        {"id": p.id, "version": p.version, "sha256": p.sha256, "folder": str(p.folder)}
        for p in found.values()
    ] + [{"problem": str(problem)} for problem in problems]


def _migration(site: "Site") -> dict[str, Any]:
    found = site.database()
    return {
        "database": found.name,
        "revision": found.revision,
        "head": migrations.head(),
        "trouble": found.trouble,
        "prepared": not found.missing,
    }


def _ledger(site: "Site") -> dict[str, Any]:
    """Counts, ages, workers, peers and events; empty where the ledger cannot be asked."""
    if site.sessions is None:
        return {}
    try:
        with ledger.reading(site.sessions) as session:
            work = open_work(session)
            said: dict[str, Any] = {
                "counts.json": counts(session),
                "queue.json": {"studies_since": work.since, "deliveries_since": work.deliveries_since},
                "workers.json": [asdict(row) for row in ledger.workers(session)],
                "peers.json": [asdict(row) for row in ledger.list_peers(session)],
                "events.json": [asdict(row) for row in last_events(session, EVENTS)],
            }
    except HipnodeError as error:
        return {"ledger.json": {"trouble": str(error)}}
    for event in said["events.json"]:
        for side in ("was", "became"):
            if event[side] not in _STATUSES:
                event[side] = None
    return said


def _selection(site: "Site") -> str | None:
    if site.settings.selection_file is not None:
        return _read(site.settings.selection_file)
    return files("hipnode").joinpath("selection.toml").read_text("utf-8")


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return None


def _write(path: Path, text: str) -> Path:
    path.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")
    path.chmod(0o600)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return str(value)
