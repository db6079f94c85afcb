"""Real neighbours for the tests: private instances on free ports in temporary folders.

A neighbour that is not installed skips the test by name; with HIPNODE_REQUIRE_PEERS=1
(as in CI) that is a failure instead.
"""

import getpass
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

_PLACES = [
    "/usr/sbin",
    "/usr/local/sbin",
    *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True),
]


def find_program(name: str) -> Path | None:
    """The path of an installed program, also where Debian hides it from PATH."""
    # Debian's own server binaries come first: a wrapper on PATH may refuse to run as another user.
    found = shutil.which(name, path=os.pathsep.join(reversed(_PLACES))) or shutil.which(name)
    return Path(found) if found else None


def need(name: str) -> Path:
    """The program `name`, or the test is skipped (failed where neighbours are required)."""
    found = find_program(name)
    if found is None:
        missing(f"{name} is not installed")
    assert found is not None
    return found


def missing(why: str) -> None:
    """Skip the test because a neighbour is missing; fail it where neighbours are required."""
    if os.environ.get("HIPNODE_REQUIRE_PEERS") == "1":
        pytest.fail(f"{why}, and HIPNODE_REQUIRE_PEERS=1", pytrace=False)
    pytest.skip(why)


def free_port() -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(ready: Callable[[], Any], what: str, timeout_s: float = 30, every_s: float = 0.05) -> Any:
    """Call `ready` until it gives something true; returns it. Fails the test after timeout_s."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = ready()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"{what} did not happen within {timeout_s} s")


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """End a process group and wait for it; kill it after ten seconds."""
    if process.poll() is None:
        os.killpg(process.pid, how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@contextmanager
def running(
    arguments: list[str], folder: Path, log: str, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in its own process group, its output in folder/log; end it on leaving."""
    with (folder / log).open("ab") as output:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )
        try:
            yield process
        finally:
            stop(process)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- Redis ---------------------------------------------------------------------------------------


class Redis:
    """A private Redis that a test may kill, restart and flush."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._program = need("redis-server")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it on its port and wait until it answers."""
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self._program,
                    "--port",
                    str(self.port),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--dir",
                    self.folder,
                    *options,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(lambda: _answers(self.port), "redis-server answers")

    def kill(self) -> None:
        """SIGKILL it."""
        if self.process is not None:
            stop(self.process, signal.SIGKILL)
            self.process = None


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of this test's own."""
    server = Redis(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis: Redis) -> str:
    """The URL of a Redis of this test's own."""
    return redis.url


# --- PostgreSQL ----------------------------------------------------------------------------------


class Postgres:
    """A private PostgreSQL cluster; `database()` makes a fresh database in it."""

    def __init__(self, folder: Path) -> None:
        self._numbers = itertools.count(1)
        self.folder, self.port = folder, free_port()
        self.data = folder / "pg"
        self.data.mkdir()
        # initdb refuses root: the cluster then belongs to the postgres account of the package.
        self._as: list[str] = []
        if os.geteuid() == 0:
            self._as = ["runuser", "-u", "postgres", "--"]
            for place in (self.data, *self.data.parents):
                if place == Path("/tmp") or len(place.parts) < 3:
                    break
                place.chmod(place.stat().st_mode | 0o055)
            shutil.chown(self.data, "postgres", "postgres")
        self.user = "postgres" if self._as else getpass.getuser()
        initdb = need("initdb")
        self._server = need("postgres") if not self._as else initdb.with_name("postgres")
        subprocess.run(
            [*self._as, initdb, "-D", self.data, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"],
            check=True,
            capture_output=True,
            cwd="/",
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the cluster and wait until it takes queries."""
        with (self.folder / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self._as,
                    self._server,
                    "-D",
                    self.data,
                    "-p",
                    str(self.port),
                    "-k",
                    self.data,
                    "-h",
                    "127.0.0.1",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        wait_for(self._takes_queries, "postgres takes queries")

    def _takes_queries(self) -> bool:
        try:
            with psycopg.connect(self._dsn("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _dsn(self, name: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={self.user} dbname={name}"

    def database(self) -> str:
        """Make an empty database; returns its SQLAlchemy URL."""
        name = f"hipnode_{next(self._numbers)}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{self.user}@127.0.0.1:{self.port}/{name}"

    def kill(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it at once, as a crash would (SIGQUIT is PostgreSQL's immediate shutdown)."""
        if self.process is not None:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, how)
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One PostgreSQL cluster for the session."""
    need("initdb")
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of an empty PostgreSQL database of this test's own."""
    return postgres.database()


# --- Orthanc -------------------------------------------------------------------------------------


class Orthanc:
    """A private Orthanc archive: DICOM on `.dicom_port`, REST on `.url`."""

    def __init__(self, folder: Path, lua: str = "", **configuration: Any) -> None:
        self.folder, self.ae_title = folder, "ORTHANC"
        self.dicom_port, self.http_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self._program = need("Orthanc")
        scripts = []
        if lua:
            (folder / "route.lua").write_text(lua)
            scripts.append(str(folder / "route.lua"))
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "Name": "PACS",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "DicomAet": self.ae_title,
                    "DicomPort": self.dicom_port,
                    "HttpPort": self.http_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomAlwaysAllowStore": True,
                    "DicomCheckCalledAet": False,
                    "StableAge": 1,
                    "LuaScripts": scripts,
                    "Plugins": [],
                    "OverwriteInstances": False,
                    **configuration,
                }
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until REST answers."""
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, self.folder / "orthanc.json"], stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._alive, "Orthanc answers")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            stop(self.process)
            self.process = None

    def _alive(self) -> bool:
        try:
            return bool(self.get("/system"))
        except (urllib.error.URLError, OSError):
            return False

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """One REST call; JSON in, JSON (or bytes) out."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            if "json" in (answer.headers.get("Content-Type") or ""):
                return json.loads(content)
            return content

    def get(self, path: str) -> Any:
        """GET a path."""
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON (or bytes) to a path."""
        return self.request("POST", path, body)

    def know(self, name: str, ae_title: str, port: int) -> None:
        """Register a remote AE on this machine under `name`."""
        self.request("PUT", f"/modalities/{name}", {"AET": ae_title, "Host": "127.0.0.1", "Port": port})

    def instances(self, **match: str) -> list[str]:
        """Orthanc ids of the instances whose attributes match."""
        return list(self.post("/tools/find", {"Level": "Instance", "Query": match}))

    def file(self, instance: str) -> bytes:
        """The DICOM file of an instance."""
        return bytes(self.get(f"/instances/{instance}/file"))


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """An Orthanc of this test's own."""
    folder = tmp_path / "orthanc"
    folder.mkdir()
    server = Orthanc(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def films() -> Path:
    """The folder of real films, where there is one (HIPNODE_FILMS)."""
    folder = os.environ.get("HIPNODE_FILMS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HIPNODE_FILMS names no folder of real films")
    return Path(folder)
