"""Whether a score still means what it meant: the share of reported fractures among studies of one score."""

from collections.abc import Iterable, Sequence

from hipnode.evaluation.statistics.monitoring import BASELINE_STUDIES, shift
from hipnode.evaluation.watch.records import Band
from hipnode.watched import WatchedStudy

EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Lower edges of the bands; the last one ends with 1."""


def bands(first: Sequence[WatchedStudy], last_days: Sequence[WatchedStudy]) -> tuple[Band, ...]:
    """Studies by their best score of any class, with a report: the rolling days against the first with scores.

    first: the first 500 studies of which scores are kept; with fewer nothing is compared. Bands without a study on
    either side are left out.
    """
    first = first if len(first) >= BASELINE_STUDIES else ()
    before = _by_band(first)
    now = _by_band(after(last_days, first))
    made = []
    for place, low in enumerate(EDGES):
        high = EDGES[place + 1] if place + 1 < len(EDGES) else 1.0
        hits, n, old_hits, old_n = *now[place], *before[place]
        if n or old_n:
            made.append(Band(low, high, shift(hits, n, old_hits, old_n)))
    return tuple(made)


def after(studies: Iterable[WatchedStudy], first: Sequence[WatchedStudy]) -> list[WatchedStudy]:
    """The studies that came after the first ones, which set the limits: neither they nor any before them."""
    if not first:
        return list(studies)
    setters, last = {s.study_id for s in first}, first[-1].received_at
    return [s for s in studies if s.received_at >= last and s.study_id not in setters]


def _by_band(studies: Sequence[WatchedStudy]) -> list[tuple[int, int]]:
    """(with a reported fracture, all) of each band."""
    counts = [[0, 0] for _ in EDGES]
    for study in studies:
        if study.report is not None and study.scores is not None:
            best = max(study.scores.values(), default=0.0)
            place = max(i for i, low in enumerate(EDGES) if best >= low)
            counts[place][0] += study.report.fracture
            counts[place][1] += 1
    return [(hits, n) for hits, n in counts]
