"""Untrusted bytes are parsed and decoded in child processes that may be killed (RELIABILITY: I9).

Each child has a limit of address space, each task a limit of time; a child that crashes, hangs or
is killed costs its own task and is replaced. Children are spawned (nothing of the parent is
inherited) when the first task comes, and end with their parent even when that is killed with SIGKILL.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as TaskTimeout
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pebble
import structlog

from hipnode.errors import ImageRejected
from hipnode.status import ReasonCode

if TYPE_CHECKING:  # the parent of a child that never decodes needs no codecs
    from hipnode.images import Radiograph
    from hipnode.selection import Facts

_T = TypeVar("_T")

#: Tasks after which a child is replaced, so that what a codec leaks does not add up.
_TASKS_PER_CHILD = 500
#: Seconds a child may take to start before the first task of a fresh pool; imports on a busy disk.
_START_S = 60.0
#: Seconds between looks whether the pool that has a task still runs.
_LOOK_S = 0.5

CRASHED = "The process that read the image crashed on it."
UNREAD = "The image could not be read."
STOPPING = "The node is stopping."
#: Rejections that may come from the machine (memory, a kill, an end) and not from the image: worth another try.
PERHAPS_NOT_THE_IMAGE = frozenset({CRASHED, UNREAD, STOPPING})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Answer(Generic[_T]):
    """What a child sends back: a value, or a code and sentence (exceptions do not cross processes)."""

    value: _T | None = None
    code: ReasonCode | None = None
    sentence: str = ""

    @property
    def rejection(self) -> ImageRejected | None:
        return ImageRejected(self.code, self.sentence) if self.code is not None else None

    def unwrapped(self) -> _T:
        """The value; raises the rejection in its place."""
        if self.code is not None:
            raise ImageRejected(self.code, self.sentence)
        return self.value  # type: ignore[return-value]  # there is a value whenever there is no code


class Children:
    """A pool of killable child processes. A context manager; also usable without, then call `close`.

    max_workers: children at the same time.
    time_limit_s: wall seconds per file, counted from when a child takes it up.
    memory_limit_bytes: address space of one child.
    max_pixels: larger images are rejected before they are decoded.
    """

    def __init__(
        self, max_workers: int, time_limit_s: float, memory_limit_bytes: int, max_pixels: int
    ) -> None:
        self.max_workers = max_workers
        self.time_limit_s = time_limit_s
        self.memory_limit_bytes = memory_limit_bytes
        self.max_pixels = max_pixels
        self._lock = threading.Lock()
        self._pool: pebble.ProcessPool | None = None
        self._closed = False

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the children at once; tasks under way are rejected. May be called twice."""
        self._closed = True
        self._discard_pool()

    def read_radiograph(self, path: Path) -> "Radiograph":
        """Parse and decode one stored film.

        Raises ImageRejected: PIXELS_MISSING, DECODE_FAILED (damaged, unreadable, or the child
        crashed on it) or DECODE_LIMIT (time, memory or pixels).
        """
        return self._answers(read_radiograph_file, [(str(path), self.max_pixels)])[0].unwrapped()

    def read_radiographs(self, paths: Sequence[Path]) -> "list[Radiograph | ImageRejected]":
        """Parse and decode films side by side; in the order of `paths`, a rejection in its place."""
        answers = self._answers(read_radiograph_file, [(str(path), self.max_pixels) for path in paths])
        return [answer.rejection or answer.unwrapped() for answer in answers]

    def read_facts(self, path: Path) -> "Facts":
        """Header facts of one stored object; pixel data is not read.

        Raises ImageRejected as `read_radiograph`.
        """
        return self._answers(read_facts_file, [(str(path),)])[0].unwrapped()

    def call(self, function: Callable[..., _T], *args: Any) -> _T:
        """Run an importable function in a child under the same limits. Raises ImageRejected."""
        answers: list[_Answer[_T]] = self._answers(_guarded, [(function, *args)])
        return answers[0].unwrapped()

    # Inside

    def _answers(
        self, function: Callable[..., _Answer[_T]], tasks: list[tuple[Any, ...]]
    ) -> list[_Answer[_T]]:
        futures = []
        for args in tasks:
            pool = self._running_pool()
            futures.append((pool, pool.schedule(function, args=args, timeout=self.time_limit_s)))
        # A queue moves at least one task per limit; after that the pool itself is broken.
        patience = _START_S + (self.time_limit_s + 10) * (len(tasks) + self.max_workers)
        deadline = time.monotonic() + patience
        return [self._answer(pool, future, deadline) for pool, future in futures]

    def _answer(
        self, pool: pebble.ProcessPool, future: "pebble.ProcessFuture[_Answer[_T]]", deadline: float
    ) -> _Answer[_T]:
        # A pool that is stopped forgets what it had taken; nobody may wait for that.
        while not wait([future], min(_LOOK_S, max(0.0, deadline - time.monotonic()))).done:
            if self._pool is not pool:
                _log.warning("child.silent", error="the pool was stopped")
                return _Answer(code=ReasonCode.DECODE_FAILED, sentence=STOPPING if self._closed else UNREAD)
            if time.monotonic() >= deadline:
                break
        try:
            answer: _Answer[_T] = future.result(timeout=0)
        except TaskTimeout:
            if not future.done():  # not the task's own limit: the pool no longer moves
                _log.error("children.replaced", why="they do not answer")
                self._discard_pool()
            return _Answer(
                code=ReasonCode.DECODE_LIMIT,
                sentence=f"Reading the image took more than {self.time_limit_s:g} s.",
            )
        except pebble.ProcessExpired as error:
            _log.warning("child.died", exit_code=error.exitcode)
            return _Answer(code=ReasonCode.DECODE_FAILED, sentence=CRASHED)
        except Exception as error:  # noqa: BLE001 - a broken pool must not take the node down with it
            _log.warning("child.silent", error=type(error).__name__)
            return _Answer(code=ReasonCode.DECODE_FAILED, sentence=STOPPING if self._closed else UNREAD)
        return answer

    def _running_pool(self) -> pebble.ProcessPool:
        with self._lock:
            if self._closed:
                raise ImageRejected(ReasonCode.DECODE_FAILED, STOPPING)
            if self._pool is not None and not self._pool.active:
                _stop(self._pool)
                self._pool = None
            if self._pool is None:
                # One OpenBLAS thread per child: each reserves address space, which is limited there.
                os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
                self._pool = pebble.ProcessPool(
                    max_workers=self.max_workers,
                    max_tasks=_TASKS_PER_CHILD,
                    initializer=_settle_in,
                    initargs=(self.memory_limit_bytes,),
                    context=multiprocessing.get_context("spawn"),
                )
            return self._pool

    def _discard_pool(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            _stop(pool)


def _stop(pool: pebble.ProcessPool) -> None:
    pool.stop()
    pool.join()


# In the child


def _settle_in(memory_limit_bytes: int) -> None:
    """Limits, silence and an end that comes with the parent's."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold patient data
    # pydicom's warnings and tracebacks quote header values.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import pydicom

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    import hipnode.decoders
    import hipnode.images
    import hipnode.selection  # noqa: F401 - before the limit, so that it bounds the data, not the code

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_limit_bytes if hard == resource.RLIM_INFINITY else min(memory_limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _end_with_parent() -> None:
    """Wait for the parent's end, however it comes. PR_SET_PDEATHSIG would mean the parent's thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def read_radiograph_file(path: str, max_pixels: int) -> "_Answer[Radiograph]":
    """One film, parsed and decoded in this process; the child's task."""
    return _guarded(_radiograph, Path(path), max_pixels)


def read_facts_file(path: str) -> "_Answer[Facts]":
    """Header facts of one object, parsed in this process; the child's task."""
    return _guarded(_facts, Path(path))


def _guarded(function: Callable[..., _T], *args: Any) -> "_Answer[_T]":
    """Malformed files raise a dozen exception types; here they become one answer, without values."""
    try:
        return _Answer(value=function(*args))
    except ImageRejected as rejection:
        return _Answer(code=rejection.code, sentence=rejection.sentence)
    except MemoryError:
        return _Answer(
            code=ReasonCode.DECODE_LIMIT, sentence="Reading the image took more memory than allowed."
        )
    except RecursionError:
        return _Answer(code=ReasonCode.DECODE_FAILED, sentence="The header is nested too deeply.")
    except Exception as error:  # noqa: BLE001 - see above; the type alone is named, texts quote the file
        return _Answer(
            code=ReasonCode.DECODE_FAILED, sentence=f"The file is damaged ({type(error).__name__})."
        )


def _radiograph(path: Path, max_pixels: int) -> "Radiograph":
    from hipnode.decoders import read_stored
    from hipnode.headers import read_object
    from hipnode.images import to_radiograph

    ds, transfer_syntax = read_object(path, pixels=True)
    return to_radiograph(ds, read_stored(ds, transfer_syntax, max_pixels))


def _facts(path: Path) -> "Facts":
    from hipnode.headers import read_object
    from hipnode.selection import facts_of

    ds, _ = read_object(path, pixels=False)
    return facts_of(ds)
