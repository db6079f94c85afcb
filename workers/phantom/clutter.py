"""What else is on a film: gas, stool, skin folds, vessels, garments, lines, a ball, a marker.

Drawn without knowing the outcome. Everything that attenuates is added to the sum of mu x L before
Beer-Lambert; letters and ticks are written on the finished picture.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from workers.phantom.projection import MU
from workers.phantom.texture import cloud


def add_gas(image: Tensor, x: Tensor, y: Tensor, rng: np.random.Generator) -> int:
    """Bowel gas and stool, mostly medial and above; x (1, columns), y (rows, 1) mm. Gives the count."""
    count = int(rng.integers(0, 26)) if rng.random() < 0.85 else 0
    for _ in range(count):
        cx, cy = float(rng.normal(-85.0, 38.0)), float(rng.normal(62.0, 38.0))
        if cx > -15 and cy < 35:
            continue
        a, b = float(np.exp(rng.normal(2.3, 0.45))), float(np.exp(rng.normal(2.1, 0.45)))
        turn = float(rng.uniform(0, math.pi))
        window = _window(x, y, cx, cy, 1.6 * max(a, b))
        if window is None:
            continue
        rows, columns = window
        dx, dy = x[:, columns] - cx, y[rows] - cy
        u = (dx * math.cos(turn) + dy * math.sin(turn)) / a
        v = (dy * math.cos(turn) - dx * math.sin(turn)) / b
        bulge = 1.0 + 0.25 * torch.sin(3.0 * torch.atan2(v, u) + float(rng.uniform(0, 6)))
        radius = torch.sqrt(u * u + v * v) / bulge
        deep = torch.sqrt((1.0 - radius.square()).clamp_min(0.0))
        wall = torch.exp(-(((radius - 1.06) * 9.0).square()))
        amount = float(rng.uniform(0.35, 1.2)) * min(a, b) * 0.2 * MU["muscle"]
        image[rows, columns] += amount * (-deep + 0.12 * wall)
    return count


def _window(x: Tensor, y: Tensor, cx: float, cy: float, reach: float) -> tuple[slice, slice] | None:
    """Row and column slices within `reach` mm of (cx, cy)."""
    columns = ((x[0] - cx).abs() < reach).nonzero()
    rows = ((y[:, 0] - cy).abs() < reach).nonzero()
    if not len(columns) or not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def add_mottle(image: Tensor, body: Tensor, rng: np.random.Generator) -> None:
    """Uneven muscle and fat: clouds in proportion to the tissue (body in mm)."""
    rows, columns = image.shape
    amount = float(np.exp(rng.uniform(math.log(0.003), math.log(0.018))))
    image += (
        cloud(rng, rows, columns, 5, 5, float(rng.uniform(0.5, 0.75))) * body * (amount * 0.1 * MU["muscle"])
    )


def add_folds(image: Tensor, x: Tensor, y: Tensor, rng: np.random.Generator) -> int:
    """Skin and muscle edges: long soft steps that may cross neck and trochanter. Gives the count."""
    count = int(rng.integers(0, 7))
    x, y = x[:, ::2], y[::2]  # half the resolution is enough for soft edges
    total = torch.zeros(y.shape[0], x.shape[1])
    for _ in range(count):
        turn = float(rng.normal(0.0, 0.6)) if rng.random() < 0.6 else float(rng.uniform(0, math.pi))
        cx, cy = float(rng.uniform(-60, 90)), float(rng.uniform(-150, 90))
        bend = float(rng.normal(0, 0.0025))
        dx, dy = x - cx, y - cy
        along = dx * math.cos(turn) + dy * math.sin(turn)
        across = dy * math.cos(turn) - dx * math.sin(turn) + bend * along.square()
        width = float(np.exp(rng.uniform(math.log(0.5), math.log(4.0))))
        fade = float(np.exp(rng.uniform(math.log(6.0), math.log(90.0))))
        reach = torch.exp(-((along / float(rng.uniform(50, 160))).square()) - across.clamp_min(0.0) / fade)
        step = torch.sigmoid(across * (2.0 / width)) * reach
        total.add_(step, alpha=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.02, 0.13)))
    image += functional.interpolate(
        total[None, None], size=tuple(image.shape), mode="bilinear", align_corners=False
    )[0, 0]
    return count


def add_small_things(
    image: Tensor, x: Tensor, y: Tensor, pitch: float, rng: np.random.Generator
) -> list[str]:
    """Calcified vessels and specks, tubes and wires, snaps, a calibration ball. Gives their names."""
    names = []
    if rng.random() < 0.3:
        names.append("specks")
        for _ in range(int(rng.integers(1, 8))):
            cx, cy = float(rng.uniform(-100, 100)), float(rng.uniform(-150, 110))
            window = _window(x, y, cx, cy, 8.0)
            if window is not None:
                radius = float(rng.uniform(0.6, 2.6))
                d = ((x[:, window[1]] - cx).square() + (y[window[0]] - cy).square()) / radius**2
                image[window] += float(rng.uniform(0.05, 0.35)) * torch.exp(-d)
    rows, columns = image.shape
    overlay = Image.new("L", (columns * 2, rows * 2), 0)
    draw = ImageDraw.Draw(overlay)
    if rng.random() < 0.16:
        names.append("line")
        for _ in range(int(rng.integers(1, 3))):
            _curve(draw, rng, columns * 2, rows * 2, max(1, round(float(rng.uniform(0.6, 3.5)) / pitch * 2)))
    if rng.random() < 0.08:
        names.append("snaps")
        for _ in range(int(rng.integers(1, 5))):
            cx, cy = float(rng.uniform(0, columns * 2)), float(rng.uniform(0, rows * 2))
            r = float(rng.uniform(3.0, 6.0)) / pitch * 2
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=255, width=max(2, int(r * 0.45)))
    if names and names[-1] in ("line", "snaps"):
        small = overlay.resize((columns, rows), Image.Resampling.BILINEAR)
        weight = float(np.exp(rng.uniform(math.log(0.05), math.log(1.6))))
        image += torch.from_numpy(np.asarray(small, np.float32) / 255.0) * weight
    if rng.random() < 0.06:
        names.append("ball")
        side, level = float(rng.choice([-1.0, 1.0])), float(rng.uniform(-140, 20))
        cx = float(rng.uniform(75, 110)) if side > 0 else float(rng.uniform(-85, -50))
        radius = 12.5
        d = (x - cx).square() + (y - min(level, -60.0 if side < 0 else level)).square()
        image += 2.0 * torch.sqrt((radius**2 - d).clamp_min(0.0)) * (1.8 / 10.0)
    return names


def _curve(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int, thick: int) -> None:
    """A smooth curve from edge to edge, a tube or a wire."""
    points = rng.uniform(0, 1, (4, 2)) * [width, height]
    points[0] = [rng.uniform(0, width), 0 if rng.random() < 0.5 else height]
    points[3] = [0 if rng.random() < 0.5 else width, rng.uniform(0, height)]
    t = np.linspace(0, 1, 60)[:, None]
    path = (
        (1 - t) ** 3 * points[0]
        + 3 * t * (1 - t) ** 2 * points[1]
        + 3 * t**2 * (1 - t) * points[2]
        + t**3 * points[3]
    )
    draw.line([(float(a), float(b)) for a, b in path], fill=255, width=thick, joint="curve")


def write_marks(picture: Tensor, side: str, rng: np.random.Generator) -> list[str]:
    """Side marker, ticks on the margins and small print on the finished picture (0..1), in place."""
    rows, columns = picture.shape
    names = []
    canvas = Image.new("L", (columns, rows), 0)
    draw = ImageDraw.Draw(canvas)
    if rng.random() < 0.55:
        names.append("marker")
        size = int(rng.uniform(0.035, 0.07) * rows)
        text = side if rng.random() < 0.7 else {"L": "LT", "R": "RT"}[side]
        at = (float(rng.choice([0.05, 0.84])) * columns, float(rng.uniform(0.04, 0.85)) * rows)
        draw.text(at, text, fill=255, font=ImageFont.load_default(size))
    if rng.random() < 0.2:
        names.append("print")
        at = (float(rng.uniform(0.03, 0.5)) * columns, float(rng.choice([0.01, 0.96])) * rows)
        word = str(rng.choice(["AP", "AP SUPINE", "PORT", "HIP AP", "70 kV 16 mAs", "ER 2"]))
        draw.text(at, word, fill=230, font=ImageFont.load_default(max(9, int(0.02 * rows))))
    if rng.random() < 0.6:
        names.append("ticks")
        for edge in (0, columns - 1):
            for _ in range(int(rng.integers(2, 16))):
                r, n = int(rng.integers(0, rows)), int(rng.integers(1, 4))
                draw.rectangle((max(0, edge - n), r, min(columns - 1, edge + n), r), fill=255)
    marks = torch.from_numpy(np.asarray(canvas, np.float32) / 255.0)
    bright = float(rng.uniform(0.8, 1.0))
    picture += marks * (bright - picture).clamp_min(0.0)
    return names
