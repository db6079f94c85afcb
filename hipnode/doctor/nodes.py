"""Does a node run on this machine: who holds its ports, and does what holds them answer as hipnode."""

import errno
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from hipnode.destinations import RemoteAE
from hipnode.errors import SettingsError
from hipnode.scp import AllowedPeers
from hipnode.scu import EchoReport, Timeouts, echo
from hipnode.settings import Settings

_LISTEN = "0A"  #: TCP_LISTEN as /proc/net/tcp writes it
_HTTP_S = 3.0


@dataclass(frozen=True)
class Holder:
    """A process that listens on a port."""

    pid: int
    command: str

    @property
    def is_hipnode(self) -> bool:
        """Whether it is a command of ours."""
        return self.command.startswith("hipnode")

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})"


@dataclass(frozen=True)
class Port:
    """A port we would listen on. error: errno of the refusal, 0 for a free port."""

    host: str
    port: int
    error: int
    holders: tuple[Holder, ...] = ()

    @property
    def taken(self) -> bool:
        """Whether somebody listens there."""
        return self.error == errno.EADDRINUSE

    @property
    def by(self) -> str:
        """Who listens there, in words."""
        return " and ".join(map(str, self.holders)) or "a process of another user"


@dataclass(frozen=True)
class NodeSeen:
    """What was found on the ports of our settings.

    echo: the answer to a C-ECHO to ourselves; None where none was sent.
    health, ready: JSON of /healthz and /readyz; None without an answer. is_ready: /readyz said 200.
    """

    scp: Port
    http: Port
    echo: EchoReport | None = None
    health: dict[str, Any] | None = None
    ready: dict[str, Any] | None = None
    is_ready: bool = False

    @property
    def health_is_ours(self) -> bool:
        """Whether the health page of a hipnode answers."""
        return self.health is not None and self.health.get("status") == "alive"

    @property
    def scp_is_ours(self) -> bool:
        """Whether our SCP holds the DICOM port."""
        if not self.scp.taken:
            return False
        if self.echo is not None:
            return self.echo.ok
        return self.health_is_ours or any(holder.is_hipnode for holder in self.scp.holders)

    @property
    def runs(self) -> bool:
        """Whether a node runs here."""
        return self.scp_is_ours or self.health_is_ours


def look_at_node(settings: Settings, timeouts: Timeouts) -> NodeSeen:
    """Try both ports, and talk to what holds them. Does not raise."""
    scp, http = (
        look_at_port(settings.host, settings.port),
        look_at_port(settings.http_host, settings.http_port),
    )
    heard = None
    here = reachable(settings.host)
    # A node that does not let us in would only note one more refused peer.
    if scp.taken and _lets_us_in(settings, here):
        heard = echo(RemoteAE(settings.ae_title, here, settings.port), settings.ae_title, timeouts)
    health = ready = None
    is_ready = False
    if http.taken:
        place = reachable(settings.http_host), settings.http_port
        _, health = get_json(*place, "/healthz")
        if health is not None:
            code, ready = get_json(*place, "/readyz")
            is_ready = code == 200
    return NodeSeen(scp, http, heard, health, ready, is_ready)


def look_at_port(host: str, port: int) -> Port:
    """Whether we could listen on host:port now, and who does where we cannot."""
    if port == 0:
        return Port(host, port, 0)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        code = errno.EADDRNOTAVAIL if isinstance(error, socket.gaierror) or not number else number
        if code == errno.EACCES and _listening_inodes(port):
            code = errno.EADDRINUSE  # a low port: the right to it is asked first, and the service has it
        holders = tuple(holders_of(port)) if code == errno.EADDRINUSE else ()
        return Port(host, port, code, holders)
    return Port(host, port, 0)


def holders_of(port: int) -> Iterator[Holder]:
    """The processes that listen on a TCP port, as far as /proc shows them to this user."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):  # it ended, or belongs to another user
            if any(_target(link) in sockets for link in (process / "fd").iterdir()):
                yield Holder(int(process.name), _command(process))


def get_json(host: str, port: int, path: str) -> tuple[int, dict[str, Any] | None]:
    """(HTTP status, JSON object) of a page; (0, None) where there is none. Asks no proxy."""
    connection = HTTPConnection(host, port, timeout=_HTTP_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        found = json.loads(answer.read(1 << 20))
    except (OSError, HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()
    return answer.status, found if isinstance(found, dict) else None


def reachable(host: str) -> str:
    """An address at which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _lets_us_in(settings: Settings, address: str) -> bool:
    try:
        address = socket.gethostbyname(address) if ":" not in address else address
        return AllowedPeers.parse(settings.allowed_peers).allows(settings.ae_title, address)
    except (SettingsError, OSError):
        return False


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _command(process: Path) -> str:
    """What a process is, without its arguments, which may hold secrets."""
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    for place, word in enumerate(words[:4]):
        if word.rpartition("/")[2] == "hipnode":
            return " ".join(["hipnode", *(w for w in words[place + 1 : place + 2] if w.isalpha())])
    return (process / "comm").read_text(errors="replace").strip()
