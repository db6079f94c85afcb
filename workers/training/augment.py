"""Variation of training pictures. Pure: a generator goes in, the same seed gives the same picture.

Pictures are (h, w) uint8 gray; boxes (m, 4) float32 in their pixels, corner origin.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from workers.training.picture import FILL, Picture
from workers.training.recipes import Augmentation
from workers.training.scale_aware import vary_boxes

SMALLEST_SIDE_PX = 2.0
SMALLEST_VISIBLE_SHARE = 0.1
HALF = 0.5
LARGEST_ASPECT = 20.0


def affine_matrix(a: Augmentation, size: int, rng: Generator, centre: float) -> NDArray[np.float64]:
    """(3, 3) forward map: turn, scale and shear about (centre, centre), moved to the output's middle."""
    angle = np.deg2rad(rng.uniform(-a.rotation_deg, a.rotation_deg))
    scale = rng.uniform(*a.scale)
    shear = np.tan(np.deg2rad(rng.uniform(-a.shear_deg, a.shear_deg, 2)))
    move = size / 2 + rng.uniform(-a.shift, a.shift, 2) * size
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.array([[1, shear[0]], [shear[1], 1]]) @ turn
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = move - linear @ np.array([centre, centre])
    return matrix


def warp(pixels: NDArray[np.uint8], matrix: NDArray[np.float64], size: int, fill: int) -> NDArray[np.uint8]:
    """The picture under a forward map, bilinear, (size, size)."""
    back = np.linalg.inv(matrix)
    image = Image.fromarray(pixels)
    warped = image.transform(
        (size, size),
        Image.Transform.AFFINE,
        tuple(back[:2].ravel()),
        Image.Resampling.BILINEAR,
        fillcolor=fill,
    )
    return np.array(warped)


def warp_boxes(
    boxes: NDArray[np.float32], matrix: NDArray[np.float64], *, corners: bool = False
) -> NDArray[np.float32]:
    """(m, 4) boxes under a forward map.

    The box around the mapped inscribed ellipse, or around the four mapped corners. Corners make
    every turned box larger than the thing in it; upstream uses them on mosaics.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:2, :2].T + matrix[:2, 2]
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2
    linear = np.abs(matrix[:2, :2])
    reach = halves @ linear.T if corners else np.sqrt(np.square(halves) @ np.square(linear).T)
    return np.concatenate([centres - reach, centres + reach], 1).astype(np.float32)


def keep_visible(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    size: int,
    least_share: float = SMALLEST_VISIBLE_SHARE,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes clipped to the picture, without slivers and those of which too little is left."""
    clipped = boxes.clip(0, size)
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(1) / np.maximum(before.prod(1), 1e-6)
    aspect = sides.max(1, initial=0) / np.maximum(sides.min(1, initial=np.inf), 1e-6)
    keep = (sides > SMALLEST_SIDE_PX).all(1) & (share > least_share) & (aspect < LARGEST_ASPECT)
    return clipped[keep], labels[keep]


def mirrored_classes(class_names: Sequence[str]) -> NDArray[np.int64]:
    """(classes,) what each class is in a mirror: X-L and X-R change places, all others stay."""
    names = list(class_names)
    other = {"-L": "-R", "-R": "-L"}
    mirrored = [name[:-2] + other[name[-2:]] if name[-2:] in other else name for name in names]
    return np.array([names.index(m) if m in names else i for i, m in enumerate(mirrored)], np.int64)


def flip(picture: Picture, mirrored: NDArray[np.int64] | None = None) -> Picture:
    """Left and right exchanged: pixels, boxes, and with `mirrored` the classes that name a side."""
    width = picture.pixels.shape[1]
    boxes = picture.boxes.copy()
    boxes[:, [0, 2]] = width - picture.boxes[:, [2, 0]]
    labels = picture.labels if mirrored is None else mirrored[picture.labels]
    return Picture(picture.pixels[:, ::-1].copy(), boxes, labels)


def move(
    picture: Picture,
    a: Augmentation,
    size: int,
    rng: Generator,
    *,
    fill: int = 0,
    corners: bool = False,
    least_share: float = SMALLEST_VISIBLE_SHARE,
) -> Picture:
    """One random affine map onto a (size, size) picture; the input is square."""
    matrix = affine_matrix(a, size, rng, picture.pixels.shape[0] / 2)
    moved = warp_boxes(picture.boxes, matrix, corners=corners)
    boxes, labels = keep_visible(moved, picture.labels, size, least_share)
    return Picture(warp(picture.pixels, matrix, size, fill), boxes, labels)


def cut_square(picture: Picture, centre: NDArray[np.float64], size: int, rng: Generator) -> Picture:
    """A (size, size) part about a point (column, row), moved by up to an eighth of its side, kept inside.

    A box of which less than half is left is dropped: a corner of it does not show the fracture.
    """
    whole = picture.pixels.shape[0]
    corner = centre - size / 2 + rng.uniform(-1 / 8, 1 / 8, 2) * size
    left, top = corner.round().astype(int).clip(0, whole - size)
    pixels = picture.pixels[top : top + size, left : left + size].copy()
    shifted = picture.boxes - np.array([left, top, left, top], np.float32)
    return Picture(pixels, *keep_visible(shifted, picture.labels, size, HALF))


def retone(pixels: NDArray[np.uint8], a: Augmentation, rng: Generator) -> NDArray[np.uint8]:
    """Gamma, contrast, brightness, blur, noise and inversion, in this order."""
    gray = pixels.astype(np.float32) / 255
    gray = gray ** np.exp(rng.uniform(*np.log(a.gamma)))
    middle = gray.mean()
    gray = (gray - middle) * rng.uniform(*a.contrast) + middle + rng.uniform(-a.brightness, a.brightness)
    if a.blur_px and rng.random() < 0.5:
        blurred = Image.fromarray((gray.clip(0, 1) * 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(rng.uniform(0.2, a.blur_px))
        )
        gray = np.array(blurred, np.float32) / 255
    if a.noise:
        # Display noise of films grows with brightness (about grey^1.2).
        sd = rng.uniform(0.1, 1) * a.noise
        gray = gray + sd * (0.3 + gray.clip(0, 1)) * rng.standard_normal(gray.shape, dtype=np.float32)
    if rng.random() < a.invert:
        gray = 1 - gray
    return (gray.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def erase(picture: Picture, rng: Generator) -> Picture:
    """One to three rectangles filled with their mean and some noise, none over a box."""
    pixels = picture.pixels.copy()
    size = pixels.shape[0]
    for _ in range(rng.integers(1, 4)):
        width, height = (rng.uniform(0.1, 0.28, 2) * size).astype(int)
        left, top = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
        b = picture.boxes
        touched = (b[:, 0] < left + width) & (b[:, 2] > left) & (b[:, 1] < top + height) & (b[:, 3] > top)
        if touched.any():
            continue
        patch = pixels[top : top + height, left : left + width]
        filled = patch.mean() + rng.uniform(0, 12) * rng.standard_normal(patch.shape)
        pixels[top : top + height, left : left + width] = filled.clip(0, 255)
    return picture._replace(pixels=pixels)


def join_four(pictures: list[Picture], size: int, rng: Generator) -> Picture:
    """A mosaic: four (size, size) pictures around a random centre of a canvas twice as wide."""
    canvas = np.full((2 * size, 2 * size), FILL, np.uint8)
    column, row = rng.uniform(0.5 * size, 1.5 * size, 2).astype(int)
    boxes, labels = [], []
    for index, picture in enumerate(pictures):
        left, top = column - size * (index % 2 == 0), row - size * (index < 2)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size, 2 * size), min(top + size, 2 * size)
        canvas[y0:y1, x0:x1] = picture.pixels[y0 - top : y1 - top, x0 - left : x1 - left]
        boxes.append(picture.boxes + np.array([left, top, left, top], np.float32))
        labels.append(picture.labels)
    kept = keep_visible(np.concatenate(boxes), np.concatenate(labels), 2 * size)
    return Picture(canvas, *kept)


def blend(a: Picture, b: Picture) -> Picture:
    """MixUp: half of each, with the truths of both."""
    pixels = (a.pixels.astype(np.uint16) + b.pixels) // 2
    return Picture(
        pixels.astype(np.uint8), np.concatenate([a.boxes, b.boxes]), np.concatenate([a.labels, b.labels])
    )


def vary(
    pictures: list[Picture],
    a: Augmentation,
    size: int,
    rng: Generator,
    *,
    share: float = 0.0,
    plain: bool = False,
    mirrored: NDArray[np.int64] | None = None,
) -> Picture:
    """One training picture from the first of `pictures` (size, size); the others serve mosaic and mixup.

    pictures: five of them where the recipe has a mosaic or mixup, else one; the fifth, which mixup blends
        in, keeps its aspect ratio
    share: how much of the run is done, 0..1
    plain: the last part of a run, without mosaic and mixup
    mirrored: what each class is in a mirror (`mirrored_classes`); None: no class names a side
    """
    picture = pictures[0]
    if not plain and rng.random() < a.mosaic:
        mosaic_move = replace(a, scale=a.mosaic_scale)
        picture = move(join_four(pictures[:4], size, rng), mosaic_move, size, rng, fill=FILL, corners=True)
        if len(picture.labels) and rng.random() < a.mixup:
            other = flip(pictures[4], mirrored) if rng.random() < 0.5 else pictures[4]
            jitter = Augmentation(scale=(0.5, 1.5))
            # as published, what the jitter cuts off is not left out: a sliver of a box stays a box
            other = move(other, jitter, size, rng, fill=FILL, corners=True, least_share=0.0)
            picture = blend(picture, other)
    elif not a.mosaic:
        picture = move(picture, a, size, rng)
    if rng.random() < a.flip:
        picture = flip(picture, mirrored)
    if a.box_level:
        picture = vary_boxes(picture, share, a.box_level, rng)
    if a.erase and rng.random() < a.erase:
        picture = erase(picture, rng)
    return picture._replace(pixels=retone(picture.pixels, a, rng))
