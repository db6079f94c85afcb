"""What else lies in the beam or is written on a film, drawn without knowing the outcome.

Calcified vessels, phleboliths, osteophytes, tubes, wires, garments, a calibration ball in the beam; side
marker, small print and edge ticks on the finished picture. Chances are those of hip films of old patients.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from workers.phantom.abdomen import window
from workers.phantom.layers import Layers
from workers.phantom.rays import Geometry


def add_calcifications(
    layers: Layers, geometry: Geometry, midline: float, rng: np.random.Generator
) -> list[str]:
    """Tram lines along femoral and iliac arteries, phleboliths, islands and joint spurs. Gives their names."""
    x, y = geometry.plane(0.0)
    names = []
    cortical = layers["cortical"]
    if rng.random() < 0.22:
        names.append("vessel calcification")
        for side in (-1.0, 1.0):
            if rng.random() < 0.75:
                course = np.array(
                    [[midline - 36, 70], [midline - 18, 10], [midline - 12, -70], [midline - 26, -230]]
                )
                course = course * [side, 1.0] + rng.normal(0.0, 6.0, (4, 2))
                _tram_lines(cortical, x, y, course, rng)
    if rng.random() < 0.35:
        names.append("phleboliths")
        for _ in range(int(rng.integers(1, 7))):
            _speck(
                cortical,
                x,
                y,
                rng,
                (rng.normal(0, 42), rng.normal(5, 16)),
                rng.uniform(1.2, 2.8),
                rng.uniform(1.0, 3.5),
            )
    if rng.random() < 0.18:
        names.append("specks")
        for _ in range(int(rng.integers(1, 6))):
            _speck(
                cortical,
                x,
                y,
                rng,
                (rng.uniform(-190, 190), rng.uniform(-170, 150)),
                rng.uniform(0.8, 4.5),
                rng.uniform(0.6, 4.0),
            )
    for side in (-1.0, 1.0):
        if rng.random() < 0.30:
            names.append("osteophytes")
            for _ in range(int(rng.integers(1, 5))):
                turn = float(
                    rng.choice([rng.normal(0.75, 0.25), rng.normal(-1.9, 0.3), rng.normal(2.4, 0.3)])
                )
                reach = 26.0 + float(rng.normal(2.0, 3.0))
                at = (side * (midline + reach * math.cos(turn)), reach * math.sin(turn))
                _spur(cortical, x, y, rng, at, float(rng.uniform(2.5, 6.5)), float(rng.uniform(1.0, 4.0)))
    return names


def _speck(
    target: Tensor,
    x: Tensor,
    y: Tensor,
    rng: np.random.Generator,
    at: tuple[float, float],
    radius: float,
    deep: float,
) -> None:
    where = window(x, y, at[0], at[1], 3.0 * radius)
    if where is None:
        return
    d = ((x[:, where[1]] - at[0]).square() + (y[where[0]] - at[1]).square()).sqrt() / radius
    ball = (1.0 - d.square()).clamp_min(0.0).sqrt()
    ring = torch.exp(-(((d - 0.8) / 0.25).square()))
    target[where] += deep * (ball if rng.random() < 0.6 else ring * 0.7)


def _spur(
    target: Tensor,
    x: Tensor,
    y: Tensor,
    rng: np.random.Generator,
    at: tuple[float, float],
    size: float,
    deep: float,
) -> None:
    where = window(x, y, at[0], at[1], 2.5 * size)
    if where is None:
        return
    turn = float(rng.uniform(0, math.pi))
    dx, dy = x[:, where[1]] - at[0], y[where[0]] - at[1]
    u = (dx * math.cos(turn) + dy * math.sin(turn)) / (1.5 * size)
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / (0.7 * size)
    target[where] += deep * (1.0 - u * u - v * v).clamp_min(0.0).sqrt()


def _tram_lines(
    target: Tensor, x: Tensor, y: Tensor, course: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Two dashed lines 5 to 8 mm apart along a curve."""
    t = np.linspace(0.0, 1.0, 90)[:, None]
    path = (
        (1 - t) ** 3 * course[0]
        + 3 * t * (1 - t) ** 2 * course[1]
        + 3 * t * t * (1 - t) * course[2]
        + t**3 * course[3]
    )
    path[:, 0] += np.sin(np.linspace(0, float(rng.uniform(5, 14)), 90)) * 2.0
    gap = float(rng.uniform(2.5, 4.0))
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    for way in (-1.0, 1.0):
        dense = np.convolve(rng.standard_normal(90 + 6), np.ones(7) / 2.6, mode="valid")
        for k in range(90):
            if dense[k] > 0.5:
                at = path[k] + way * gap * np.array([-along[k, 1], along[k, 0]])
                where = window(x, y, at[0], at[1], 4.0)
                if where is not None:
                    d = (x[:, where[1]] - at[0]).square() + (y[where[0]] - at[1]).square()
                    target[where] += (0.5 + float(dense[k])) * 0.7 * torch.exp(-d / 1.4**2)


def add_objects(layers: Layers, geometry: Geometry, midline: float, rng: np.random.Generator) -> list[str]:
    """Tubes, wires, garments, a calibration ball. Gives their names."""
    names = []
    rows, columns = geometry.rows, geometry.columns
    scale = 2
    canvas = {name: Image.new("L", (columns * scale, rows * scale), 0) for name in ("plastic", "metal")}
    pen = {name: ImageDraw.Draw(image) for name, image in canvas.items()}
    mm = scale * geometry.magnification / geometry.pitch_mm  # pixels of the canvas per mm in the patient
    size = (columns * scale, rows * scale)
    if rng.random() < 0.20:
        names.append("tube")
        for _ in range(int(rng.integers(1, 3))):
            wide = float(rng.uniform(3.0, 8.0))
            path = _curve(rng, *size)
            pen["plastic"].line(path, fill=255, width=max(2, round(wide * mm)), joint="curve")
            pen["plastic"].line(path, fill=90, width=max(1, round(0.55 * wide * mm)), joint="curve")
    if rng.random() < 0.10:
        names.append("wire")
        for _ in range(int(rng.integers(1, 4))):
            pen["metal"].line(
                _curve(rng, *size),
                fill=int(rng.uniform(40, 200)),
                width=max(1, round(0.8 * mm)),
                joint="curve",
            )
    if rng.random() < 0.12:
        names.append("snaps")
        for _ in range(int(rng.integers(1, 5))):
            cx, cy, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(2.5, 6.0) * mm
            pen["metal"].ellipse((cx - r, cy - r, cx + r, cy + r), outline=200, width=max(2, int(r * 0.45)))
    if rng.random() < 0.05:
        names.append("buckle")
        cx, cy, a, b = (
            rng.uniform(0, size[0]),
            rng.uniform(0, size[1]),
            rng.uniform(8, 16) * mm,
            rng.uniform(12, 26) * mm,
        )
        pen["metal"].rounded_rectangle(
            (cx - a, cy - b, cx + a, cy + b), 4 * mm, outline=255, width=max(2, round(3.0 * mm))
        )
    if rng.random() < 0.05:
        names.append("zip")
        cx, cy, lean = rng.uniform(0.3, 0.7) * size[0], rng.uniform(0.5, 0.8) * size[1], rng.normal(0.0, 0.15)
        for k in range(int(rng.integers(20, 50))):
            a, b = cx + lean * k * 2.6 * mm + (k % 2) * 1.6 * mm, cy + k * 2.6 * mm
            pen["metal"].rectangle((a, b, a + 2.6 * mm, b + 1.3 * mm), fill=150)
    for name, layer, deep in (
        ("plastic", "muscle", rng.uniform(3.0, 9.0)),
        ("metal", "steel", rng.uniform(0.3, 3.0)),
    ):
        if canvas[name].getbbox() is not None:
            small = np.asarray(canvas[name].resize((columns, rows), Image.Resampling.BOX), np.float32) / 255.0
            layers[layer].add_(torch.from_numpy(small).to(layers.mm.device), alpha=float(deep))
    if rng.random() < 0.06:
        names.append("calibration ball")
        x, y = geometry.plane(0.0)
        side = float(rng.choice([-1.0, 1.0]))
        at = (
            (side * (midline + rng.uniform(60, 95)), rng.uniform(-140, 10))
            if rng.random() < 0.6
            else (rng.normal(0, 8), rng.uniform(-150, -95))
        )
        ball = (
            2.0 * (12.5**2 - (x - float(at[0])).square() - (y - float(at[1])).square()).clamp_min(0.0).sqrt()
        )
        layers["steel"].add_(ball)
    return names


def _curve(rng: np.random.Generator, width: int, height: int) -> list[tuple[float, float]]:
    """A smooth curve from edge to edge."""
    points = rng.uniform(0, 1, (4, 2)) * [width, height]
    points[0] = [rng.uniform(0, width), 0 if rng.random() < 0.5 else height]
    points[3] = [0 if rng.random() < 0.5 else width, rng.uniform(0, height)]
    t = np.linspace(0, 1, 80)[:, None]
    path = (
        (1 - t) ** 3 * points[0] + 3 * t * (1 - t) ** 2 * points[1] + 3 * t**2 * (1 - t) * points[2] + t**3 * points[3]
    )  # fmt: skip
    return [(float(a), float(b)) for a, b in path]


def write_marks(picture: Tensor, side: str | None, rng: np.random.Generator) -> list[str]:
    """Side marker, ticks on the margins and small print on the finished picture (0..1), in place.

    side: "L" or "R" for a hip film; None for a pelvis, whose marker stands on its own side of the picture.
    """
    rows, columns = picture.shape
    names = []
    canvas = Image.new("L", (columns, rows), 0)
    draw = ImageDraw.Draw(canvas)
    if rng.random() < 0.45:
        names.append("marker")
        size = int(rng.uniform(0.03, 0.06) * rows)
        letter = side or str(rng.choice(["L", "R"]))
        text = letter if rng.random() < 0.7 else {"L": "LT", "R": "RT"}[letter]
        across = float(rng.choice([0.05, 0.86]))
        if side is None:
            across = 0.88 if letter == "L" else 0.05
        at = (across * columns, float(rng.uniform(0.04, 0.85)) * rows)
        draw.text(at, text, fill=255, font=ImageFont.load_default(size))
    if rng.random() < 0.15:
        names.append("print")
        at = (float(rng.uniform(0.03, 0.5)) * columns, float(rng.choice([0.01, 0.96])) * rows)
        word = str(
            rng.choice(
                ["AP", "AP SUPINE", "PORT", "PELVIS AP" if side is None else "HIP AP", "70 kV 16 mAs", "ER 2"]
            )
        )
        draw.text(at, word, fill=230, font=ImageFont.load_default(max(9, int(0.02 * rows))))
    if rng.random() < 0.8:
        names.append("ticks")
        for edge in (0, columns - 1):
            for _ in range(int(rng.integers(2, 16))):
                r, n = int(rng.integers(0, rows)), int(rng.integers(1, 4))
                draw.rectangle((max(0, edge - n), r, min(columns - 1, edge + n), r), fill=255)
    marks = torch.from_numpy(np.asarray(canvas, np.float32) / 255.0).to(picture.device)
    bright = float(rng.uniform(0.75, 1.0))
    picture += marks * (bright - picture).clamp_min(0.0)
    return names
