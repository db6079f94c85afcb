"""The health page: is the node alive, and can it take a study and finish it. No patient data, no login.

/healthz answers while the process lives. /readyz answers 200 when the database answers, the disk is
above its low-water mark and the SCP listens, else 503; its JSON names each part.
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

import anyio
import uvicorn
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from hipnode import __version__, ledger
from hipnode.errors import HipnodeError
from hipnode.spool import Spool

CHECK_WITHIN_S = 3.0

Check = Callable[[], str]  #: "" is well; else what is wrong, fit to show


class Listener(Protocol):
    """What the health page needs to know of the SCP."""

    @property
    def listening(self) -> bool: ...  # noqa: D102


def checks_of(sessions: sessionmaker[Session], spool: Spool, scp: Listener) -> dict[str, Check]:
    """The parts the node needs to take a study and finish it."""

    def database() -> str:
        try:
            with ledger.reading(sessions) as session:
                session.execute(text("SELECT 1"))
        except HipnodeError as error:
            return str(error)
        return ""

    def disk() -> str:
        try:
            free = spool.free_bytes()
        except OSError:
            return "the spool's file system does not answer"
        if free < spool.low_water_bytes:
            return f"{free >> 20} MiB free, {spool.low_water_bytes >> 20} MiB are needed"
        return ""

    def listener() -> str:
        return "" if scp.listening else "the SCP does not listen"

    return {"database": database, "disk": disk, "scp": listener}


def make_app(checks: dict[str, Check], within_s: float = CHECK_WITHIN_S) -> Starlette:
    """The ASGI application. A check that takes longer than `within_s` counts as failed."""
    running: set[str] = set()  # checks that hang are not started again beside themselves

    async def healthz(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "alive", "version": __version__})

    async def readyz(_request: Request) -> JSONResponse:
        said: dict[str, str] = {}
        async with anyio.create_task_group() as group:
            for name, check in checks.items():
                group.start_soon(ask, name, check, said)
        ready = all(answer == "ok" for answer in said.values())
        body = {"status": "ready" if ready else "not ready", "checks": dict(sorted(said.items()))}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def ask(name: str, check: Check, said: dict[str, str]) -> None:
        said[name] = f"no answer within {within_s:g} s"
        if name in running:
            return
        running.add(name)

        def run() -> str:
            try:
                return check()
            finally:
                running.discard(name)

        with anyio.move_on_after(within_s):
            try:
                said[name] = await anyio.to_thread.run_sync(run, abandon_on_cancel=True) or "ok"
            except Exception as error:  # noqa: BLE001  a check that breaks is an answer too
                said[name] = f"the check failed ({type(error).__name__})"

    routes = [Route("/healthz", healthz), Route("/readyz", readyz)]
    return Starlette(routes=routes)


class Web:
    """A running web server in a thread of its own."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False)
        self._server = uvicorn.Server(config)
        self._socket = listener
        self.port: int = listener.getsockname()[1]  #: the port it listens on, also when 0 was asked for
        self._thread = threading.Thread(target=self._run, name="hipnode-web", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Start, and wait until it answers. Raises RuntimeError if it does not within ten seconds."""
        self._thread.start()
        end = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > end or not self._thread.is_alive():
                raise RuntimeError("the health page did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()


def start_web(host: str, port: int, *, sessions: sessionmaker[Session], spool: Spool, scp: Listener) -> Web:
    """Serve the health page on host:port (0: a free one). Raises OSError when that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    web = Web(make_app(checks_of(sessions, spool, scp)), listener)
    web.start()
    return web
