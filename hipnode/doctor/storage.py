"""Disk space and how long it lasts, the owner and modes of the data folder, and what lies about in it."""

import errno
import os
import pwd
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hipnode import ledger
from hipnode.doctor.records import Record, fail, note, ok, warn
from hipnode.errors import HipnodeError
from hipnode.ledger.health import Growth, growth

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

WINDOW = timedelta(days=7)
SHORT_DAYS = 14.0
_KEPT = "This version keeps all it received and built until the low-water mark; nothing is removed by itself."
_LEAST = 64 * 2**20  #: bytes; with less, a study and the database do not fit, whatever the mark
_ENTRIES = 2000  #: of a folder, so many are looked at


def check_folders(site: "Site") -> list[Record]:
    """The data folder: there, ours, writable, closed to others."""
    data, me = site.settings.data, os.geteuid()
    try:
        there = data.stat()
    except FileNotFoundError:
        parent = next(p for p in data.parents if p.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return [note("data-folder", f"{data} is not there yet; it is made when the node starts.")]
        says = f"{data} is not there, and this user ({_user(me)}) may not make it in {parent}."
        cure = (
            f"As root: install -d -m 0700 -o USER {data}, with the user hipnode runs as; or set HIPNODE_DATA."
        )
        return [fail("data-folder", says, cure)]
    if not data.is_dir():
        return [fail("data-folder", f"{data} is no folder.", "Set HIPNODE_DATA to a folder.")]
    records = _foreign(data, there.st_uid, me)
    for folder in (data, *(place for place in _spool(site) if _is_dir(place))):
        if (trouble := _cannot_write(folder)) is not None:
            return [*records, _unwritable(folder, data, there.st_uid, trouble)]
    if there.st_mode & 0o077:
        says = (
            f"{data} is open to other users (mode {there.st_mode & 0o777:04o}): it holds images of patients."
        )
        records.append(warn("data-folder", says, f"chmod 700 {data}"))
    spool = site.settings.spool
    if _is_dir(spool) and spool.stat().st_mode & 0o077:
        says = f"{spool} is open to other users (mode {spool.stat().st_mode & 0o777:04o})."
        records.append(warn("data-folder", says, f"chmod 700 {spool}"))
    return records or [
        ok("data-folder", f"{data} belongs to {_user(there.st_uid)}, is writable and closed to others.")
    ]


def check_disk(site: "Site") -> list[Record]:
    """Free space against the low-water mark, and the days left at the rate of the last week."""
    place = next((p for p in (site.settings.spool, *site.settings.spool.parents) if _is_dir(p)), Path("/"))
    stat = os.statvfs(place)
    free, low = stat.f_bavail * stat.f_frsize, site.settings.low_water_bytes
    says = f"{_size(free)} are free on the file system of {place}"
    if free < max(low, _LEAST):
        cure = (
            "Free space on it, or move HIPNODE_DATA to a larger disk; studies delivered long ago may be removed only "
            "together with the database. HIPNODE_LOW_WATER_BYTES names the mark."
        )
        mark = f"below the low-water mark of {_size(low)}" if free < low else "next to nothing"
        said = f"{says}, {mark}: C-STORE is refused with A700."
        return [fail("disk-space", said, cure)]
    records = []
    if stat.f_files and stat.f_favail < 10_000:
        records.append(
            warn("disk-inodes", f"Only {stat.f_favail} inodes are left there.", "Remove small files.")
        )
    rate = _bytes_per_day(site)
    if rate is None:
        return [*records, ok("disk-space", f"{says}; the low-water mark is {_size(low)}. {_KEPT}")]
    days = (free - low) / rate
    said = (
        f"{says}: at {_size(rate)} a day (mean of the last {WINDOW.days} days) about {days:.0f} days are left"
    )
    if days < SHORT_DAYS:
        return [
            *records,
            warn("disk-space", f"{said}. {_KEPT}", "Make room on it, or move HIPNODE_DATA in time."),
        ]
    return [*records, ok("disk-space", f"{said} until the low-water mark of {_size(low)}. {_KEPT}")]


def check_leftovers(site: "Site") -> list[Record]:
    """Objects in quarantine, and cut transfers that nobody cleared away."""
    spool = site.settings.spool
    if not _is_dir(spool):
        return []
    records = []
    quarantined = [p for p in _entries(spool / "quarantine") if p.suffix == ".dcm"]
    if quarantined:
        newest = max((_modified(p) for p in quarantined), default=0.0)
        found = f"{len(quarantined)}, the newest {_ago(newest)} old"
        says = f"Objects in quarantine, whose UIDs could not be read: {found}."
        why = f"The .json beside each in {spool / 'quarantine'} says why"
        cure = f"{why}; tell the maker of the device, then remove them."
        records.append((warn if time.time() - newest < 86400 else note)("quarantine", says, cure))
    else:
        records.append(ok("quarantine", "No object is in quarantine."))
    parts = [p for p in _entries(spool / "incoming") if time.time() - _modified(p) > 7200]
    if parts:
        says = f"Cut transfers that lie in {spool / 'incoming'} for more than two hours: {len(parts)}."
        records.append(
            note("cut-transfers", says, "The node removes them after an hour while it runs: is it running?")
        )
    return records


def _bytes_per_day(site: "Site") -> float | None:
    """Mean growth of the spool; None before there is a day of history."""
    if site.sessions is None:
        return None
    now = site.clock()
    try:
        with ledger.reading(site.sessions) as session:
            grown = growth(session, now - WINDOW)
    except HipnodeError:
        return None
    if grown.first_at is None or now - grown.first_at < timedelta(days=1):
        return None
    total = grown.instance_bytes + _result_bytes(site.settings.spool, grown)
    return total / ((now - grown.first_at).total_seconds() / 86400) or None


def _result_bytes(spool: Path, grown: Growth) -> float:
    """Size of the results, from the mean of the newest."""
    sizes = []
    for path in grown.result_paths:
        with suppress(OSError):
            sizes.append((spool / path).stat().st_size)
    return grown.results * sum(sizes) / len(sizes) if sizes else 0.0


def _foreign(data: Path, owner: int, me: int) -> list[Record]:
    """Files in the data folder that do not belong to its owner, and a caller who is not its owner."""
    records = []
    if owner != me:
        says = f"This runs as {_user(me)}, and the data folder belongs to {_user(owner)}, who may see other things."
        cure = f"Run this as the user hipnode runs as: sudo -u {_user(owner)} hipnode doctor."
        records.append(note("data-folder-user", says, cure))
    foreign = [p for p in _some_files(data) if _owner(p) not in (owner, None)]
    if foreign:
        found = f"{len(foreign)}, for example {foreign[0]}"
        says = f"Files in the data folder that do not belong to {_user(owner)}: {found}."
        cure = f"They were made by a command run as another user; as root: chown -R {_user(owner)} {data}."
        records.append(fail("data-folder-owner", says, cure))
    return records


def _some_files(data: Path) -> Iterator[Path]:
    """The entries near the top of the data folder, and of the spool's folders."""
    for folder in (
        data,
        data / "broker",
        *(data / "broker" / n for n in ("messages", "taken")),
        data / "spool",
    ):
        yield from _entries(folder)
    for name in ("incoming", "instances", "results", "quarantine"):
        yield from _entries(data / "spool" / name)


def _entries(folder: Path) -> Iterator[Path]:
    """Up to _ENTRIES entries of a folder; none where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= _ENTRIES:
                return
            yield Path(entry.path)


def _spool(site: "Site") -> list[Path]:
    spool = site.settings.spool
    return [spool, *(spool / name for name in ("incoming", "instances", "results", "quarantine"))]


def _unwritable(folder: Path, data: Path, owner: int, trouble: OSError) -> Record:
    says = f"{folder} cannot be written by this user ({_user(os.geteuid())}): {(trouble.strerror or 'error').lower()}."
    if trouble.errno in (errno.ENOSPC, errno.EDQUOT):
        cure = "Free space or inodes on its file system, or raise the quota; see disk-space."
    elif trouble.errno == errno.EROFS:
        cure = (
            "Mount it for writing (after a disk error the kernel makes it read-only: look at dmesg); with systemd "
            "ReadWritePaths or StateDirectory must name it, in a container it must be a volume."
        )
    elif trouble.errno in (errno.EACCES, errno.EPERM):
        cure = (
            f"Run hipnode as {_user(owner)}, who owns the data folder; or give it to the user hipnode "
            f"runs as: chown -R USER {data} && chmod 700 {data}."
        )
    else:
        cure = "Look at the disk or the network share (dmesg), then run this again."
    return fail("data-folder", says, cure)


def _cannot_write(folder: Path) -> OSError | None:
    """Why a file cannot be made in a folder; None where it can."""
    probe = folder / f".doctor-{secrets.token_hex(4)}"
    try:
        with probe.open("xb") as file:
            file.write(b"hipnode")
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        return error
    return None


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _size(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"


def _ago(modified: float) -> str:
    hours = (time.time() - modified) / 3600
    return (
        f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.0f} h" if hours >= 2 else f"{60 * hours:.0f} min"
    )
