"""Is this machine's clock set by somebody, and does the ledger hold times that have not come yet."""

import ctypes
import shutil
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

from hipnode import ledger
from hipnode.doctor.records import Record, fail, note, ok, warn
from hipnode.errors import HipnodeError
from hipnode.ledger.health import latest_instant

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

_STA_UNSYNC = 0x0040  #: adjtimex(2): the clock is not synchronised
_AHEAD = timedelta(seconds=5)
_SET = "Let this machine take its time from an NTP server: `timedatectl set-ntp true`, or chrony."


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is read; the rest is room."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_byte * 256),
    ]


def check_clock(_site: "Site") -> list[Record]:
    """Does something keep the clock right."""
    synchronised = kernel_says_synchronised()
    if synchronised is None or not synchronised:  # a daemon may keep it without telling the kernel
        synchronised = _timedatectl() or synchronised
    if synchronised is None:
        return [
            note(
                "clock-sync", "Whether the clock is synchronised is not known here.", "Check it on the host."
            )
        ]
    if synchronised:
        return [ok("clock-sync", "The clock of this machine is synchronised.")]
    says = "The clock of this machine is not synchronised: dates in results and in the log may drift."
    return [warn("clock-sync", says, _SET)]


def check_ledger_clock(site: "Site") -> list[Record]:
    """Nothing in the ledger may lie in the future."""
    if site.sessions is None:
        return []
    try:
        with ledger.reading(site.sessions) as session:
            latest = latest_instant(session)
    except HipnodeError:
        return []
    ahead = latest - site.clock() if latest is not None else timedelta()
    if ahead > _AHEAD:
        whose = "this clock was set back, or another machine's is ahead"
        says = f"The ledger holds entries {_words(ahead)} in the future: {whose}."
        cure = (
            f"On every machine of this installation: {_SET[:1].lower()}{_SET[1:]} Then start the node again."
        )
        return [fail("clock-ledger", says, cure)]
    return [ok("clock-ledger", "No entry of the ledger lies in the future.")]


def kernel_says_synchronised() -> bool | None:
    """What adjtimex(2) says; None where it may not be asked."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        timex = _Timex()
        if libc.adjtimex(ctypes.byref(timex)) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return not timex.status & _STA_UNSYNC


def _timedatectl() -> bool | None:
    program = shutil.which("timedatectl")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "show", "--property=NTPSynchronized", "--value"],
            capture_output=True, text=True, timeout=3, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


def _words(passed: timedelta) -> str:
    seconds = passed.total_seconds()
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
