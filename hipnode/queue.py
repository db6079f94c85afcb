"""The queue: one Celery app, two queues, and how their bells are rung.

A message is a bell. It carries nothing, may be lost, doubled or late, and is worth nothing after
BELL_LASTS_S, because the sweep rings again while work is due. What is due stands in the ledger.
"""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import structlog
from amqp.exceptions import AMQPError  # type: ignore[import-untyped]
from celery import Celery
from kombu import Connection
from kombu.exceptions import KombuError
from kombu.transport import filesystem
from kombu.utils.encoding import bytes_to_str, str_to_bytes
from kombu.utils.json import dumps, loads
from redis.exceptions import RedisError

logger = structlog.get_logger(__name__)

ANALYSE = "analyse"
DELIVER = "deliver"
TASKS = {ANALYSE: "hipnode.analyse_due", DELIVER: "hipnode.deliver_due"}
"""Queue -> the task that answers its bell, declared in workers/tasks.py."""

BELL_LASTS_S = 60
ENOUGH_BELLS = 20
"""With so many bells waiting, one more tells a worker nothing new."""

WORKER_FLAGS = ("--without-gossip", "--without-mingle", "--without-heartbeat")
"""For `celery worker`: no chatter between workers, which costs an idle node its rest."""

_FAILURES = (KombuError, AMQPError, RedisError, OSError, EOFError)

_POLLING_S = 0.02
_CLOCK_TICK_NS = 100_000_000
_CONNECT_S = 2.0
_ANSWER_S = 3.0

app = Celery("hipnode", include=["workers.tasks"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    event_serializer="json",
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    result_backend=None,
    # A lost worker is the lease's business. Late acks, or a broker that delivers again, would start
    # a poisonous study without end and outside the count of its attempts.
    task_acks_late=False,
    task_reject_on_worker_lost=False,
    worker_prefetch_multiplier=1,
    task_default_queue=ANALYSE,
    task_create_missing_queues=True,
    task_routes={task: {"queue": queue} for queue, task in TASKS.items()},
    task_publish_retry=False,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=_CONNECT_S,
    enable_utc=True,
    timezone="UTC",
)


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu carries no types
    """kombu's channel of files, made safe to read while it is written.

    kombu writes a message under its final name, so that a reader may meet it empty and stop at it,
    and parks what it reads in the system's folder for temporary files. Here a message is renamed into
    place, and to claim it is to rename it within the data folder.
    """

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.time_ns():020d}_{os.getpid()}_{threading.get_ident()}.{queue}.msg"
        final = Path(self.data_folder_out, name)
        part = final.with_name(f"{name}.part")
        part.write_bytes(str_to_bytes(dumps(payload)))
        part.rename(final)

    def _get(self, queue: str) -> Any:
        changed_ns = _changed_ns(self.data_folder_in)
        with os.scandir(self.data_folder_in) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            mine = Path(self.processed_folder, name)
            with suppress(FileNotFoundError):  # another worker was quicker
                Path(self.data_folder_in, name).rename(mine)
                payload = mine.read_bytes()
                mine.unlink()
                return loads(bytes_to_str(payload))
        self.connection.looked(changed_ns)
        raise Empty


class Transport(filesystem.Transport):  # type: ignore[misc]
    """kombu's `filesystem://` with the channel above, and with little to do while nothing comes.

    A round through all channels costs an idle worker 1 % of a core at 50 a second. After a round that
    found every queue empty, the folder is asked for its last change, and a round made when it has one.
    """

    Channel = Channel
    _empty_at_ns: int | None = None

    def looked(self, changed_ns: int) -> None:
        """A queue was found empty in the folder as it was at its last change, `changed_ns`."""
        if self._empty_at_ns is None:  # of several queues, the one looked at first knows least
            self._empty_at_ns = changed_ns

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one message, or raise TimeoutError after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._empty_at_ns = None
            try:
                super().drain_events(connection, timeout=0)
            except TimeoutError:
                self._rest(end)
                if end is not None and time.monotonic() >= end:
                    raise
            else:
                return

    def _rest(self, end: float | None) -> None:
        """Sleep once, and on while the folder of an empty queue has not changed."""
        folder = self.client.transport_options["data_folder_in"]
        while True:
            time.sleep(_POLLING_S)
            empty_at_ns = self._empty_at_ns
            # None: no queue was looked at, since the worker has all it may hold at a time. A change
            # just before the look may share its clock tick with one just after it.
            if empty_at_ns is None or time.time_ns() - empty_at_ns < _CLOCK_TICK_NS:
                return
            if _changed_ns(folder) != empty_at_ns or (end is not None and time.monotonic() >= end):
                return


def _changed_ns(folder: str) -> int:
    return os.stat(folder).st_mtime_ns  # noqa: PTH116  (50 times a second)


def configure(broker_url: str, folder: Path) -> Celery:
    """Point the app at its broker: `redis://...`, or `filesystem://` with its files below `folder`.

    Every process calls this once before it rings or works; the app is returned for the worker.
    """
    global _bell  # one connection a process, see Bell
    if _bell is not None:
        _bell.close()
    _bell = None
    if broker_url.startswith("filesystem:"):
        app.conf.update(broker_url="filesystem://", broker_transport=f"{__name__}:Transport")
        app.conf.broker_transport_options = _folders(folder)
    else:
        app.conf.update(broker_url=broker_url, broker_transport=None)
        app.conf.broker_transport_options = _REDIS if broker_url.startswith(("redis", "sentinel")) else {}
    return app


_REDIS: dict[str, Any] = {
    "socket_connect_timeout": _CONNECT_S,
    # Longer than a BRPOP waits; without it a publish on a half-open connection never returns.
    "socket_timeout": 30.0,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "retry_on_timeout": False,
    # Above the longest task by far; a bell that is delivered again is harmless anyway.
    "visibility_timeout": 3600,
}


def _folders(folder: Path) -> dict[str, Any]:
    messages, control, taken = folder / "messages", folder / "control", folder / "taken"
    for each in (folder, messages, control, taken):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
        "processed_folder": str(taken),
        "store_processed": True,
        "polling_interval": _POLLING_S,
    }


class Bell:
    """One publishing connection, kept open, with short patience: who rings has other things to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def ring(self, queue: str) -> bool:
        """Ring, unless enough bells wait already, so that they never pile up where no worker lives.

        False when the broker did not take it; nothing is lost, the sweep rings again.
        """
        with self._lock:
            try:
                if self._waiting(queue) < ENOUGH_BELLS:
                    app.send_task(
                        TASKS[queue],
                        queue=queue,
                        expires=BELL_LASTS_S,
                        retry=False,
                        connection=self._open(),
                        ignore_result=True,
                    )
            except _FAILURES as error:
                logger.warning("bell.not_rung", queue=queue, error=type(error).__name__)
                self._drop()
                return False
        return True

    def waiting(self, queue: str) -> int | None:
        """How many bells wait in the queue; None when the broker does not say."""
        with self._lock:
            try:
                return self._waiting(queue)
            except _FAILURES as error:
                logger.warning("broker.silent", queue=queue, error=type(error).__name__)
                self._drop()
                return None

    def close(self) -> None:
        """Let the connection go."""
        with self._lock:
            self._drop()

    def _waiting(self, queue: str) -> int:
        with self._open().channel() as channel:
            return int(channel.queue_declare(queue=queue).message_count)

    def _open(self) -> Connection:
        if self._connection is None:
            options = dict(app.conf.broker_transport_options)
            if "socket_timeout" in options:
                options["socket_timeout"] = _ANSWER_S
            self._connection = app.connection_for_write(connect_timeout=_CONNECT_S, transport_options=options)
            self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_S)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(*_FAILURES):
                connection.release()


_bell: Bell | None = None
_bell_lock = threading.Lock()


def bell() -> Bell:
    """This process' bell."""
    global _bell
    with _bell_lock:
        if _bell is None:
            _bell = Bell()
        return _bell


def ring_analyse() -> bool:
    """Tell the analyse workers that something is due. Never raises; False when nobody heard."""
    return bell().ring(ANALYSE)


def ring_deliver() -> bool:
    """Tell the deliver workers that something is due. Never raises; False when nobody heard."""
    return bell().ring(DELIVER)


def purge_stale(older_than_s: float = 2 * BELL_LASTS_S) -> int:
    """Remove expired messages of the embedded broker, which no worker came to take. How many."""
    options = app.conf.broker_transport_options or {}
    removed, limit = 0, time.time() - older_than_s
    for key in ("data_folder_in", "processed_folder"):
        folder = Path(options[key]) if key in options else None
        for entry in folder.iterdir() if folder is not None and folder.is_dir() else ():
            with suppress(FileNotFoundError):  # a worker was quicker
                if entry.stat().st_mtime < limit:
                    entry.unlink()
                    removed += 1
    return removed
