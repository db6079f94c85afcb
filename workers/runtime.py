"""A worker process: wires the rooms, keeps the network resident, answers bells until told to stop.

The database is the truth: a worker looks for work by itself when it starts, writes a heartbeat,
and ends with a clear line when work waits and no bell reaches it any more (a broker connection
that is open and dead), so that its supervisor starts it again.
"""

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn, Protocol

import structlog
from celery import signals
from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning
from kombu import Connection

from hipnode import ledger, queue
from hipnode.children import Children
from hipnode.destinations import DestinationsFile
from hipnode.errors import ImageRejected, LedgerDown, PackageError
from hipnode.installation import installation_uid
from hipnode.ledger import WorkerBeat
from hipnode.packages import ModelPackage, find_packages
from hipnode.results import Installation
from hipnode.settings import Settings
from hipnode.spool import Spool
from workers import tasks
from workers.analyse_job import AnalyseJob, Loaded
from workers.deliver_job import DeliverJob
from workers.names import worker_name
from workers.rooms import LONGEST_JOB_S, ROUND_S, Policy, Rooms, where

logger = structlog.get_logger(__name__)

BEAT_S = 10.0
"""Seconds between heartbeats; each also looks whether work waits."""

BELL_S = 1.0
"""An answered bell is written down at most this often."""

DEAF_S = 120.0
"""Work that waits this long without any bell heard means that the connection to the broker is dead."""

RECONNECT_S = 5.0
"""Longest pause between two tries to reach the broker."""

STUCK_S = LONGEST_JOB_S + 2 * ROUND_S
"""A job longer than this does not come back."""

EXIT_BROKEN = 70  # EX_SOFTWARE of sysexits.h

DELIVER_THREADS = 4
BATCH_CPU, BATCH_CUDA = 4, 16


class PatientConnection(Connection):  # type: ignore[misc]  # kombu carries no types
    """Tries again every few seconds: kombu's pauses grow to 30 s, longer than two sweeps."""

    def ensure_connection(self, *arguments: Any, **options: Any) -> Connection:
        """As kombu's, with short pauses."""
        return super().ensure_connection(*arguments, **{"interval_max": RECONNECT_S, **options})


class Job(Protocol):
    """What answers a bell."""

    def run(self) -> int:
        """Work until nothing is due; how much was done."""


def start_analyse_worker(settings: Settings, device: str = "cpu", precision: str = "auto") -> None:
    """Analyse queued studies on `device` until SIGTERM.

    Raises DeviceMissing when the device is not there, PackageError when packages are there and
    none of them can be used, SettingsError.
    """
    run_analyse_worker(settings, _load(settings, device, precision), device)


def run_analyse_worker(settings: Settings, loaded: Mapping[str, Loaded], device: str) -> None:
    """Analyse queued studies with these packages and networks until SIGTERM."""
    with _rooms(settings, "analyse") as rooms:
        # Children need seconds to start; the first study need not wait for that.
        for _ in range(settings.decode_children):
            threading.Thread(target=_warm, args=(rooms.children,), name="warm up", daemon=True).start()
        size = settings.batch_size or (BATCH_CUDA if device.startswith("cuda") else BATCH_CPU)
        job = AnalyseJob(rooms, loaded, size)
        beat = WorkerBeat(rooms.owner, "analyse", job.packages, device)
        worker = Worker(queue.ANALYSE, job, rooms, beat, lambda: job.broken, _deaf_s(settings))
        worker.run(settings, ["--pool", "solo", "--concurrency", "1"])


def start_deliver_worker(settings: Settings) -> None:
    """Deliver results and build failure notices until SIGTERM. Needs no torch. Raises SettingsError."""
    with _rooms(settings, "deliver") as rooms:
        job = DeliverJob(rooms, _OnDisk(settings))
        beat = WorkerBeat(rooms.owner, "deliver")
        worker = Worker(queue.DELIVER, job, rooms, beat, deaf_s=_deaf_s(settings))
        worker.run(settings, ["--pool", "threads", "--concurrency", str(DELIVER_THREADS)])


def _deaf_s(settings: Settings) -> float:
    """DEAF_S, or longer where the site has the sweep ring more rarely than that."""
    return max(DEAF_S, 3 * settings.sweep_s)


@dataclass
class Worker:
    """One process behind one queue."""

    queue_name: str
    job: Job
    rooms: Rooms
    beat: WorkerBeat
    broken: Callable[[], bool] = lambda: False
    deaf_s: float = DEAF_S
    stuck_s: float = STUCK_S
    beat_s: float = BEAT_S
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: dict[int, float] = field(default_factory=dict)  #: thread id -> start, monotonic
    _looked: float = field(default_factory=time.monotonic)  #: when a bell was last answered
    _waiting_since: float | None = None  #: work has waited, and no bell was heard, since
    _bell_at: datetime | None = None  #: when a bell was last answered
    _rung: threading.Event = field(default_factory=threading.Event)  #: that is not written down yet

    def run(self, settings: Settings, pool: list[str]) -> None:
        """Look once, then answer bells until SIGTERM or SIGINT."""
        app = queue.configure(settings.broker, settings.data / "broker")
        app.amqp.Connection = PatientConnection
        tasks.employ(self.queue_name, self.answer_bell)
        _keep_logging()
        signals.worker_shutting_down.connect(self._stop, weak=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.rooms.stopping.set())
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        packages = sorted(self.beat.packages)
        logger.info("worker.started", queue=self.queue_name, packages=packages, device=self.beat.device)
        try:
            # Bells rung while nobody listened are not needed: whatever they meant is in the ledger.
            if self.queue_name == queue.ANALYSE:
                self.answer()
            else:
                threading.Thread(target=self.answer, name="first look", daemon=True).start()
            if not self.rooms.stopping.is_set():
                listen = ["--queues", self.queue_name, "--hostname", self.beat.name, *queue.WORKER_FLAGS]
                app.worker_main(["--quiet", "worker", *pool, *listen])
        finally:
            self._stop()
            tasks.dismiss()
            self._goodbye()
            logger.info("worker.ended", queue=self.queue_name)

    def answer_bell(self) -> None:
        """Do the job because a bell rang. The thread that watches writes down that it did, not the job's."""
        self._bell_at = self.rooms.clock()
        self._rung.set()
        self.answer()

    def answer(self) -> None:
        """Do the job once. Nothing is raised: a broker has no use for it, and a traceback may quote data."""
        me = threading.get_ident()
        with self._lock:
            self._running[me] = self._looked = time.monotonic()
        try:
            self.job.run()
        except LedgerDown as error:
            logger.warning("job.not_done", queue=self.queue_name, why=str(error))
        except Exception as error:  # noqa: BLE001
            logger.error("job.not_done", queue=self.queue_name, where=where(error))  # noqa: TRY400  # see above
        finally:
            with self._lock:
                self._running.pop(me, None)
                self._looked = time.monotonic()
        if self.broken():
            self._leave("the detector fails on every study")

    def _stop(self, **_: object) -> None:
        self.rooms.stopping.set()

    # --- Heartbeat and watchdog ----------------------------------------------------------------

    def _watch(self) -> None:
        """Beat every beat_s, and write down a bell that was answered in between at most every BELL_S."""
        stopping = self.rooms.stopping
        while not stopping.is_set():
            self._try(self._beat)
            until = time.monotonic() + self.beat_s
            while not stopping.wait(min(BELL_S, self.beat_s)) and time.monotonic() < until:
                if self._rung.is_set():
                    self._try(self._say_alive)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except LedgerDown as error:
            logger.warning("heartbeat.not_written", why=str(error))
        except Exception as error:  # noqa: BLE001  # a watchdog that dies watches nothing
            logger.error("heartbeat.not_written", where=where(error))  # noqa: TRY400

    def _say_alive(self) -> None:
        self._rung.clear()
        with ledger.transaction(self.rooms.sessions) as session:
            ledger.heartbeat(session, replace(self.beat, bell_at=self._bell_at), self.rooms.clock())

    def _beat(self) -> None:
        self._say_alive()
        sessions, now, policy = self.rooms.sessions, self.rooms.clock(), self.rooms.policy
        with ledger.reading(sessions) as session:
            due = ledger.due(session, now, policy.max_attempts, policy.analysis_deadline_s)
        work = due.analyses if self.queue_name == queue.ANALYSE else due.notices + due.deliveries
        self.look_after(work, time.monotonic())

    def look_after(self, work_due: int, now: float) -> None:
        """End the process if it is deaf or stuck. now: monotonic seconds."""
        with self._lock:
            longest = max((now - start for start in self._running.values()), default=0.0)
            if not work_due or self._running:
                self._waiting_since = None
            elif self._waiting_since is None or self._waiting_since < self._looked:
                self._waiting_since = now
            waited = now - self._waiting_since if self._waiting_since is not None else 0.0
        if longest > self.stuck_s:
            self._leave(f"a job has not come back for {longest:.0f} s")
        if waited > self.deaf_s:
            self._leave(f"work has waited for {waited:.0f} s and no bell was heard")

    def _leave(self, why: str) -> NoReturn:
        """End at once: the main thread may hang in a dead connection and would not hear SIGTERM."""
        logger.critical("worker.gives_up", queue=self.queue_name, why=why)
        logging.shutdown()
        os._exit(EXIT_BROKEN)

    def _goodbye(self) -> None:
        try:
            with ledger.transaction(self.rooms.sessions) as session:
                ledger.goodbye(session, self.beat.name)
        except LedgerDown as error:
            logger.warning("heartbeat.left", why=str(error))


@contextmanager
def _rooms(settings: Settings, kind: str) -> Iterator[Rooms]:
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    children = Children(
        settings.decode_children,
        settings.decode_timeout_s,
        settings.decode_memory_bytes,
        settings.decode_max_pixels,
    )
    with children:
        yield Rooms(
            sessions=ledger.sessions(settings.database),
            spool=Spool(settings.spool, settings.low_water_bytes),
            children=children,
            destinations=DestinationsFile(settings.destinations),
            installation=Installation(installation_uid(settings.data), settings.ae_title),
            owner=worker_name(kind),
            policy=Policy.of(settings),
        )


def _packages(settings: Settings, verify: bool) -> dict[str, ModelPackage]:
    problems: list[PackageError] = []
    found = find_packages(settings.package_folders, verify=verify, problems=problems)
    for problem in problems:
        logger.error("package.left_out", why=str(problem))
    if problems and not found:
        raise problems[0]
    return found


class _OnDisk(Mapping[str, ModelPackage]):
    """The model packages as they lie on disk when asked: a notice may be of one that came after the start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def _found(self) -> dict[str, ModelPackage]:
        try:
            return _packages(self._settings, verify=False)
        except PackageError:  # logged; results are delivered all the same
            return {}

    def __getitem__(self, package_id: str) -> ModelPackage:
        return self._found()[package_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


def _load(settings: Settings, device: str, precision: str) -> dict[str, Loaded]:
    from workers.detector import find_device, load_detector  # torch starts here

    find_device(device)  # without a package, too, an absent device is an error
    loaded = {}
    for id_, package in _packages(settings, verify=True).items():
        start = time.monotonic()
        loaded[id_] = Loaded(
            package, load_detector(package, device, precision, batch_size=settings.batch_size)
        )
        logger.info("package.loaded", package=id_, device=device, seconds=round(time.monotonic() - start, 1))
    if not loaded:
        logger.warning("package.none", why="studies will end with NO_PACKAGE")
    return loaded


def _warm(children: Children) -> None:
    with suppress(ImageRejected):  # the first film meets the same trouble, and says so
        children.call(os.getpid)


def _keep_logging() -> None:
    """Celery leaves logging alone where somebody listens to this signal."""
    signals.setup_logging.connect(_say_nothing, weak=False)
    logging.getLogger("celery").setLevel(logging.WARNING)
    # "No hostname was supplied": the embedded broker has none.
    logging.getLogger("kombu.connection").setLevel(logging.ERROR)
    # It writes "Warm shutdown" past the log, between its JSON lines too.
    celery_worker.safe_say = lambda *_: None
    # Celery warns root of pickled messages; ours are JSON, and the bell carries nothing.
    warnings.filterwarnings("ignore", category=SecurityWarning)


def _say_nothing(**_: object) -> None:
    """Take the place of Celery's own set-up of logging."""
