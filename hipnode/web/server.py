"""The pages, and the server that shows them in a thread of its own.

/healthz answers while the process lives. /readyz answers 200 when studies can be taken, else 503; its
JSON says whether they can be finished too. /metrics is Prometheus text.
"""

import socket
import threading
import time
from collections.abc import Mapping

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hipnode import __version__
from hipnode.errors import HipnodeError
from hipnode.web.health import Answer, Check, Watched, checks_of, verdict
from hipnode.web.metrics import CONTENT_TYPE, Metrics

CHECK_WITHIN_S = 3.0
KEPT_S = 1.0
"""So long answers are given again: whoever asks without end makes no more work than that."""
METRICS_WITHIN_S = 9.0
"""Prometheus waits ten seconds for a page unless told otherwise."""


class Health:
    """Asks the checks side by side. One that takes longer than `within_s` counts as failed."""

    def __init__(self, checks: Mapping[str, Check], within_s: float = CHECK_WITHIN_S) -> None:
        self.checks = dict(checks)
        self._within_s = within_s
        self._running: set[str] = set()  # checks that hang are not started again beside themselves
        self._lock = anyio.Lock()
        self._said: dict[str, Answer] = {}
        self._said_at = -KEPT_S

    async def ask(self) -> dict[str, Answer]:
        """Every part's answer, by name; it may be KEPT_S old."""
        async with self._lock:
            if time.monotonic() - self._said_at >= KEPT_S:
                said: dict[str, Answer] = {}
                async with anyio.create_task_group() as group:
                    for name, check in self.checks.items():
                        group.start_soon(self._ask, name, check, said)
                self._said, self._said_at = said, time.monotonic()
            return self._said

    async def _ask(self, name: str, check: Check, said: dict[str, Answer]) -> None:
        said[name] = Answer(False, f"No answer within {self._within_s:g} s.")
        if name in self._running:
            return
        self._running.add(name)

        def run() -> Answer:
            try:
                return check.ask()
            finally:
                self._running.discard(name)

        with anyio.move_on_after(self._within_s):
            try:
                said[name] = await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
            except HipnodeError as error:
                said[name] = Answer(False, str(error))
            except Exception as error:  # noqa: BLE001  a check that breaks is an answer too
                said[name] = Answer(False, f"The check failed ({type(error).__name__}).")


def make_app(
    checks: Mapping[str, Check], metrics: Metrics | None = None, within_s: float = CHECK_WITHIN_S
) -> Starlette:
    """The ASGI application."""
    health = Health(checks, within_s)

    async def healthz(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "alive", "version": __version__})

    async def readyz(_request: Request) -> JSONResponse:
        body = verdict(health.checks, await health.ask())
        return JSONResponse(body, status_code=200 if body["takes_studies"] else 503)

    async def figures(_request: Request) -> Response:
        assert metrics is not None  # noqa: S101  the route is there only with it
        answers = await health.ask()
        with anyio.move_on_after(METRICS_WITHIN_S):
            page = await anyio.to_thread.run_sync(metrics.page, answers, abandon_on_cancel=True)
            return Response(page, media_type=CONTENT_TYPE)
        return PlainTextResponse("The figures were not counted in time.\n", status_code=503)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz)]
    if metrics is not None:
        routes.append(Route("/metrics", figures))
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


def start_web(host: str, port: int, node: Watched) -> Web:
    """Serve the pages on host:port (0: a free one). Raises OSError when that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    web = Web(make_app(checks_of(node), Metrics(node)), listener)
    web.start()
    return web
