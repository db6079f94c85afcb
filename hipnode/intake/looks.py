"""Headers of complete studies, read in threads beside the tick.

A file on which the reading child hangs costs its limit of time, and a study may bring a hundred: that
holds up the study itself, while the others are closed and the sweep goes on.
"""

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.errors import ImageRejected, SpoolMissing
from hipnode.ledger import Image, OpenAnalysis
from hipnode.logs import about
from hipnode.selection import Facts
from hipnode.spool import Spool
from hipnode.status import ReasonCode

AT_ONCE = 4
"""Studies looked at side by side; each has one child at most, so that one study never has them all."""

STUDY_S, IMAGE_S = 60.0, 0.1
"""Seconds for the headers of a study, and more for each image of it (one takes milliseconds)."""


class FactsReader(Protocol):
    """Reads header facts in a killable child (hipnode.children.Children); several threads ask at once."""

    def read_facts(self, path: Path) -> Facts:
        """Header facts of one stored file. Raises ImageRejected."""


@dataclass(frozen=True)
class Look:
    """What the headers of a study say, by instance id, and why some say nothing.

    whole: False where the time for the study ran out before all were asked.
    """

    images: tuple[Image, ...]
    facts: Mapping[int, Facts]
    rejected: Mapping[int, ImageRejected]
    whole: bool


@dataclass(frozen=True)
class _UnderWay:
    """A look, and the analysis as it was when the look began."""

    opened: OpenAnalysis
    look: Future[Look]


class Looks:
    """The looks under way, one for each study at most. For one thread; the reading is done in others."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        spool: Spool,
        children: FactsReader,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions, self._spool, self._children, self._clock = sessions, spool, children, clock
        self._under_way: dict[int, _UnderWay] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="headers")

    def __len__(self) -> int:
        return len(self._under_way)

    def of(self, opened: OpenAnalysis) -> Future[Look]:
        """The look at a study, begun now or under way. Its result raises what reading the ledger raises."""
        known = self._under_way.get(opened.analysis_id)
        if known is None:
            known = _UnderWay(opened, self._threads.submit(self._look_at, opened))
            self._under_way[opened.analysis_id] = known
        return known.look

    def take(self, analysis_id: int) -> OpenAnalysis:
        """End a look: the analysis as it was when it began, whose fence tells whether images came since."""
        return self._under_way.pop(analysis_id).opened

    def forget(self, due: Collection[int]) -> None:
        """Drop looks at analyses that are not due any more (an image came); one that runs ends first."""
        for analysis_id, known in list(self._under_way.items()):
            if analysis_id not in due and (known.look.cancel() or known.look.done()):
                del self._under_way[analysis_id]

    def stop(self) -> None:
        """Begin no look any more; one that runs ends with its reader."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look_at(self, opened: OpenAnalysis) -> Look:
        with about(opened.study_instance_uid, analysis_id=opened.analysis_id):
            return self._look(opened)

    def _look(self, opened: OpenAnalysis) -> Look:
        with ledger.reading(self._sessions) as session:
            images = ledger.sources_of_study(session, opened.study_id)
        facts: dict[int, Facts] = {}
        rejected: dict[int, ImageRejected] = {}
        end = time.monotonic() + STUDY_S + IMAGE_S * len(images)
        for number, image in enumerate(images):
            if time.monotonic() > end:
                late = ImageRejected(ReasonCode.DECODE_LIMIT, "Reading the study's headers took too long.")
                rejected |= {left.instance_id: late for left in images[number:]}
                return Look(tuple(images), facts, rejected, whole=False)
            try:
                facts[image.instance_id] = self._children.read_facts(self._path(image))
            except ImageRejected as error:
                rejected[image.instance_id] = error
        return Look(tuple(images), facts, rejected, whole=True)

    def _path(self, image: Image) -> Path:
        """Where the image lies. Raises ImageRejected, with a note in the books, when it does not."""
        missing = image.missing or not self._spool.holds(image.relative_path)
        if image.missing and image.relative_path:  # it was missed once: is it back, and whole?
            with suppress(SpoolMissing):
                self._spool.verify(image.relative_path, image.sha256)
                missing = False
        if missing != image.missing:
            noted = ledger.mark_missing if missing else ledger.mark_found
            with ledger.transaction(self._sessions) as session:
                noted(session, image.instance_id, "intake", self._clock())
        if missing:
            raise ImageRejected(ReasonCode.SPOOL_MISSING)
        return self._spool.path(image.relative_path)
