"""Non-maximum suppression: upstream's figures, a plain reference, and the edges."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import seeded
from workers.detector.nms import candidates, iou, multiclass_nms, nms


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def plain_nms(b: NDArray[np.float32], s: NDArray[np.float32], threshold: float) -> list[int]:
    """The definition, one box at a time."""
    kept: list[int] = []
    for i in np.argsort(-s, kind="stable"):
        if all(iou(b[i : i + 1], b[j : j + 1])[0, 0] <= threshold for j in kept):
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("shape", ["1x3x256x256", "1x3x320x192"])
@pytest.mark.parametrize(
    ("answer", "score", "overlap"), [("det0", 0.05, 0.7), ("det0b", 0.3, 0.5)], ids=["loose", "strict"]
)
def test_it_keeps_what_upstream_keeps(shape: str, answer: str, score: float, overlap: float) -> None:
    with np.load(seeded.FIGURES) as golden:
        found = multiclass_nms(
            *candidates(golden[f"{shape}/scores"][0], golden[f"{shape}/boxes"][0], score), overlap
        )
        wanted = [golden[f"{shape}/{answer}_{part}"] for part in ("boxes", "scores", "labels")]
    for ours, theirs in zip((found.boxes, found.scores, found.class_ids), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("b", "s", "threshold", "kept"),
    [
        (boxes(), [], 0.5, []),
        (boxes((0, 0, 9, 9)), [0.1], 0.5, [0]),
        (boxes((0, 0, 10, 10), (20, 0, 30, 10)), [0.1, 0.9], 0.5, [1, 0]),
        (boxes((0, 0, 10, 10), (0, 0, 10, 9)), [0.8, 0.9], 0.5, [1]),
        (boxes((0, 0, 10, 10), (0, 0, 10, 5)), [0.9, 0.8], 0.5, [0, 1]),  # IoU equal to the threshold stays
        (boxes((0, 0, 10, 10), (0, 0, 10, 10)), [0.5, 0.5], 0.5, [0]),  # a tie: the first
        (boxes((0, 0, 10, 10), (3, 0, 13, 10), (6, 0, 16, 10)), [0.9, 0.8, 0.7], 0.5, [0, 2]),  # 1 is gone
        (boxes((5, 5, 5, 5), (5, 5, 5, 5)), [0.9, 0.8], 0.5, [0, 1]),  # empty boxes overlap nothing
    ],
    ids=["empty", "one", "apart", "same", "at the threshold", "tie", "chain", "no area"],
)
def test_greedy_suppression(
    b: NDArray[np.float32], s: list[float], threshold: float, kept: list[int]
) -> None:
    assert nms(b, np.array(s, np.float32), threshold).tolist() == kept


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_it_agrees_with_the_definition(count: int) -> None:
    g = np.random.default_rng(count)
    centre, half = g.uniform(0, 200, (count, 2)), g.uniform(2, 40, (count, 2))
    b = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    s = g.integers(0, 50, count).astype(np.float32) / 50  # many ties
    assert nms(b, s, 0.4, limit=count + 1).tolist() == plain_nms(b, s, 0.4)


def test_at_most_the_limit_stays_and_it_is_the_best() -> None:
    apart = np.arange(600, dtype=np.float32)[:, None] * 20 + np.array([0, 0, 10, 10], np.float32)
    s = np.linspace(0.1, 0.9, 600, dtype=np.float32)
    assert nms(apart, s).tolist() == list(range(599, 99, -1))
    found = multiclass_nms(apart, s, np.arange(600) % 3)
    assert len(found) == 500
    np.testing.assert_array_equal(found.scores, s[:99:-1])


def test_classes_do_not_suppress_each_other() -> None:
    b = boxes((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 9))
    found = multiclass_nms(b, np.array([0.5, 0.6, 0.4], np.float32), np.array([2, 0, 2]))
    assert found.class_ids.tolist() == [0, 2]
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])


def test_one_point_may_bring_several_classes_and_the_threshold_is_excluded() -> None:
    scores = np.array([[0.05, 0.06, 0.9, 0.01]], np.float32)
    b, s, c = candidates(scores, boxes((1, 2, 3, 4)), np.float32(0.05))
    assert c.tolist() == [1, 2]
    assert s.tolist() == pytest.approx([0.06, 0.9])
    assert b.tolist() == [[1, 2, 3, 4]] * 2


def test_no_candidate_gives_empty_detections() -> None:
    empty: Any = candidates(np.zeros((0, 4), np.float32), boxes())
    assert len(multiclass_nms(*empty)) == 0
