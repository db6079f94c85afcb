"""Logging: one line an event, no patient data. Studies appear by row id and hashed UID.

An event is named thing.happened (`study.analysed`, `lease.lost`). What a line is about stands under one
name in all rooms: `study` (the hashed Study Instance UID, from reception to delivery), `study_id`,
`analysis_id`, `delivery_id`, `instance_id` (rows of the ledger), `instance` (a hashed SOP Instance UID),
`package`, `destination`, `queue`, `peer` (an IP address), `calling_ae_title`. `reason` is a reason code,
`why` a sentence of ours, `error` the name of an exception, `where` its place in the code.
"""

import hashlib
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import structlog


def hashed(uid: str) -> str:
    """Twelve hex digits that stand for a UID in logs, metrics and file names."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


@contextmanager
def about(study_instance_uid: str, **ids: object) -> Iterator[None]:
    """Every line logged in this block (and thread) carries the study's key, and `ids`."""
    with structlog.contextvars.bound_contextvars(study=hashed(study_instance_uid), **ids):
        yield


def configure(json_lines: bool, level: int = logging.INFO) -> None:
    """Send structlog and the standard library's log to stderr from `level` on, as text or as JSON lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json_lines
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_text,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # pynetdicom logs data sets and titles at INFO; celery and kombu their own heartbeat.
    for name in (
        "pynetdicom",
        "celery.worker.strategy",
        "celery.app.trace",
        "kombu",
        "highdicom",
        "alembic",
        "uvicorn",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    # kombu warns of a broker without host name, which files do not have.
    logging.getLogger("kombu.connection").setLevel(logging.ERROR)
    # A destination that is down is told once, by name, by the one who called it.
    logging.getLogger("pynetdicom.transport").setLevel(logging.CRITICAL)
    # The resource tracker of a process that was killed warns past the log; it starts with these options.
    if (quiet := "ignore:resource_tracker:UserWarning") not in sys.warnoptions:
        sys.warnoptions.append(quiet)
    # pydicom's warnings quote the value they complain about: that may be a patient's. A filter, for
    # pydicom sets the level of its logger itself when it is imported.
    handler.addFilter(lambda record: record.name.split(".")[0] != "pydicom")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(pydicom|pynetdicom|highdicom)(\.|$)")
    # What Python itself would print goes through the log, too, and without texts that may quote values.
    warnings.showwarning = _warned
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_died


def where(error: BaseException) -> str:
    """Where an error was raised, as "ValueError at file.py:12 < file.py:80", its causes included.

    The text of an error may quote a data set, so logs get this instead.
    """
    steps: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(steps) < 4:
        frames = traceback.extract_tb(cause.__traceback__)[-4:]
        places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
        steps.append(f"{type(cause).__name__} at {places}")
        cause = cause.__cause__
    return "; because of ".join(steps)


def _without_text(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """In place of a traceback, whose text may quote a data set: where the error was raised."""
    found = line.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        line.setdefault("where", where(error))
    return line


def _warned(  # the names are those of warnings.showwarning
    message: Warning | str,  # noqa: ARG001
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    place = f"{Path(filename).name}:{lineno}"
    structlog.get_logger(__name__).warning("python.warned", error=category.__name__, where=place)


def _thread_died(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is None or isinstance(arguments.exc_value, SystemExit):
        return
    name = arguments.thread.name if arguments.thread is not None else ""
    structlog.get_logger(__name__).error("thread.died", part=name, where=where(arguments.exc_value))
