"""Scale-aware augmentation at the level of boxes, with the policy that DAMO-YOLO trains with.

The search behind it: Chen et al., CVPR 2021 (SA-AutoAug). The numbers are those of tinyvision/DAMO-YOLO,
damo/config/augmentations.py (`autoaug_params`), read out into names below. Two of the five colour steps
change saturation only and have nothing to do on a gray picture.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from workers.training.picture import FILL, Picture

Gray = NDArray[np.float32]


class Policy(NamedTuple):
    """A colour step and a geometric step, each with the chance it has at the end of a run.

    colour: what it does to (h, w) float32 gray 0..1; None: nothing, on gray
    geometry: "mirror", "turn" (degrees), "lean" (degrees), "right" or "down" (pixels); its amount
    """

    colour: str | None
    colour_chance: float
    geometry: str
    amount: float
    geometry_chance: float


POLICIES = (
    Policy(None, 0.4, "right", 48.0, 0.4),
    Policy("darken", 0.2, "turn", 6.0, 0.4),
    Policy("soften", 0.4, "lean", 9.0, 0.2),
    Policy("lift", 0.2, "mirror", 0.0, 0.5),
    Policy(None, 0.0, "down", 96.0, 0.2),
)
AREAS = (2048.0, 10240.0, 51200.0)  # square pixels of a picture whose shorter side has 800
COLOUR_SHARES = (7 / 13, 5 / 13, 1 / 13)  # of the box probability, for small, middle and large boxes
GEOMETRY_SHARE = 1 / 3
REACH = (6.0, 2.0, 0.4)  # how far a colour step reaches around small, middle and large boxes


def vary_boxes(picture: Picture, share: float, probability: float, rng: Generator) -> Picture:
    """One policy on some of the boxes.

    share: how much of the run is done, 0..1; the chances grow with it. probability: of a box (0.3)
    A box that is moved leaves its copy: pixels and truth of both stand in the result.
    """
    policy = POLICIES[int(rng.integers(len(POLICIES)))]
    splits = tuple(area * min(picture.pixels.shape) / 800 for area in AREAS)
    if rng.random() < policy.colour_chance * share and policy.colour:
        picture = _recoloured(picture, policy.colour, splits, probability, rng)
    if rng.random() < policy.geometry_chance * share:
        picture = _moved(picture, policy, probability, rng)
    return picture


def _size_class(box: NDArray[np.float32], splits: tuple[float, ...]) -> int:
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    return 0 if area < splits[0] else 1 if area < splits[1] else 2


def _recolour(gray: Gray, how: str) -> Gray:
    if how == "darken":
        return gray * 0.82
    if how == "lift":  # what is dark becomes brighter
        return np.where(gray <= 0.5, np.minimum(gray + 0.0859375, 1), gray).astype(np.float32)
    edge = np.pad(gray, 1, mode="reflect")  # soften: towards a 3 x 3 mean with weight 5 in the middle
    rows, columns = gray.shape
    total = sum(edge[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) + 4 * gray
    return np.asarray(total / 13 * 0.54 + gray * 0.46, np.float32)


def _bell(rows: int, columns: int, middle: tuple[float, float], sd: tuple[float, float]) -> Gray:
    """(rows, columns) Gaussian of height 1 about (row, column)."""
    down = np.exp(-0.5 * ((np.arange(rows) - middle[0]) / sd[0]) ** 2)
    across = np.exp(-0.5 * ((np.arange(columns) - middle[1]) / sd[1]) ** 2)
    return np.outer(down, across).astype(np.float32)


def _recoloured(
    picture: Picture, how: str, splits: tuple[float, ...], probability: float, rng: Generator
) -> Picture:
    rows, columns = picture.pixels.shape
    weight = np.zeros((rows, columns), np.float32)
    for box in picture.boxes:
        size = _size_class(box, splits)
        if rng.random() >= probability * COLOUR_SHARES[size]:
            continue
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        area = width * height
        about = (splits[0], (splits[0] + splits[1]) / 2, splits[2])[size]
        reach = REACH[size] * (about / area if area < splits[2] else 1.0)
        sd = math.sqrt(reach * rows * columns / (2 * math.pi))
        middle = float(box[1] + height // 2), float(box[0] + width // 2)
        weight += _bell(rows, columns, middle, (height / rows * sd, width / columns * sd))
    if not weight.any():
        return picture
    gray: Gray = picture.pixels.astype(np.float32) / np.float32(255)
    weight = weight.clip(0, 1)
    mixed = gray * (1 - weight) + _recolour(gray, how) * weight
    return picture._replace(pixels=(mixed * 255 + 0.5).clip(0, 255).astype(np.uint8))


def _moved(picture: Picture, policy: Policy, probability: float, rng: Generator) -> Picture:
    chosen = [i for i in range(len(picture.boxes)) if rng.random() < probability * GEOMETRY_SHARE]
    amount = -policy.amount if rng.random() < 0.5 else policy.amount
    if not chosen:
        return picture
    pixels = picture.pixels.astype(np.float32)
    rows, columns = picture.pixels.shape
    step = np.array([amount if policy.geometry == "right" else 0, amount if policy.geometry == "down" else 0])
    copies, labels = [], []
    for i in chosen:
        corners = picture.boxes[i].astype(int).clip(0, [columns, rows, columns, rows])
        left, top, right, bottom = corners
        if left >= right or top >= bottom:
            continue
        patch = _turned(picture.pixels[top:bottom, left:right], policy.geometry, amount)
        x0, x1 = (np.array([left, right]) + step[0]).clip(0, columns).astype(int)
        y0, y1 = (np.array([top, bottom]) + step[1]).clip(0, rows).astype(int)
        patch = patch[: y1 - y0, : x1 - x0]
        height, width = patch.shape
        if not height or not width:
            continue
        sd = math.sqrt(height * width / (2 * math.pi))
        weight = _bell(height, width, (height // 2, width // 2), (sd, sd))
        place = pixels[y0:y1, x0:x1]
        pixels[y0:y1, x0:x1] = weight * patch + (1 - weight) * place
        offset = np.array([x1 - right, y1 - bottom] * 2, np.float32)  # what was cut off is not moved into
        if step.any() and offset.any():
            copies.append((picture.boxes[i] + offset).clip(0, [columns, rows, columns, rows]))
            labels.append(picture.labels[i])
    boxes = np.concatenate([picture.boxes, np.array(copies, np.float32).reshape(-1, 4)])
    kept = np.concatenate([picture.labels, np.array(labels, np.int64)])
    return Picture((pixels + 0.5).clip(0, 255).astype(np.uint8), boxes, kept)


def _turned(patch: NDArray[np.uint8], how: str, amount: float) -> Gray:
    """The part of the picture mirrored, turned or leant about its middle; as it is for the others."""
    if how == "mirror":
        return patch[:, ::-1].astype(np.float32)
    if how not in ("turn", "lean"):
        return patch.astype(np.float32)
    angle = math.radians(amount)
    if how == "turn":
        back = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    else:
        back = np.array([[1, math.tan(angle)], [0, 1]])
    middle = np.array([patch.shape[1], patch.shape[0]]) / 2
    shift = middle - back @ middle
    matrix = (back[0, 0], back[0, 1], shift[0], back[1, 0], back[1, 1], shift[1])
    image = Image.fromarray(np.ascontiguousarray(patch))
    kind, smooth = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(image.transform(image.size, kind, matrix, smooth, fillcolor=FILL), np.float32)
