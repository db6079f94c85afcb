"""The Celery tasks: they answer a bell with the job of this process, and do nothing else.

No torch here: the analyse job is handed in by `workers.runtime`.
"""

from collections.abc import Callable

import structlog

from hipnode.queue import ANALYSE, DELIVER, TASKS, app

logger = structlog.get_logger(__name__)

_answers: dict[str, Callable[[], object]] = {}


def employ(queue_name: str, answer: Callable[[], object]) -> None:
    """Let bells of this queue be answered by `answer` in this process."""
    _answers[queue_name] = answer


def dismiss() -> None:
    """Nobody answers in this process any more."""
    _answers.clear()


@app.task(name=TASKS[ANALYSE])  # type: ignore[untyped-decorator]  # celery carries no types
def analyse_due() -> None:
    """Analyse what is due."""
    _answer(ANALYSE)


@app.task(name=TASKS[DELIVER])  # type: ignore[untyped-decorator]
def deliver_due() -> None:
    """Build the failure notices that are due, and send results."""
    _answer(DELIVER)


def _answer(queue_name: str) -> None:
    answer = _answers.get(queue_name)
    if answer is None:
        logger.error(
            "bell.unanswered", why="this process has no job for the queue it listens to", queue=queue_name
        )
        return
    answer()
