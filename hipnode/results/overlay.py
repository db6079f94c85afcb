"""Draws the overlay: the film as displayed, marks in it, and strips of text outside it.

Text in the picture is only the label of a mark. All else stands in two strips added above and below
the film, so no anatomy is covered. Sizes follow the longer side of the film: what is drawn for a
film of 2,800 pixels can still be read when a viewer shows it at 512. Marks have one colour (orange
of the Okabe-Ito set, which all kinds of colour vision tell from gray) with a dark rim, so they show
on bone and on background. The font is Pillow's own (Aileron, public domain CC0), which has the
letters of ASCII; a sign it cannot draw is written with letters it can, or as "?".
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hipnode.findings import Box
from hipnode.results.wording import Mark, Statement
from hipnode.status import Outcome

Rgb = tuple[int, int, int]
MARK: Rgb = (255, 176, 0)
PLAIN: Rgb = (245, 245, 245)
MUTED: Rgb = (190, 190, 190)
NO_ANSWER: Rgb = (120, 200, 255)
STRIP: Rgb = (20, 20, 20)
RULE: Rgb = (90, 90, 90)

REFERENCE_PX = 512  #: the size at which everything must still be readable
BODY_PX, HEADING_PX, LABEL_PX = 12.0, 14.5, 11.0  #: font sizes at that size
LINE_PX, MIN_LINE_PX = 1.5, 3.0
PLATE = 0.6  #: how much a label dims the film under it
CARD_PX = 1024  #: width of an overlay without a picture

_SPELLED = {"ß": "ss", "Ø": "O", "ø": "o", "Ł": "L", "ł": "l", "Æ": "AE", "æ": "ae", "Đ": "D", "đ": "d"}
_SPELLED |= {
    "–": "-",
    "—": "-",
    "−": "-",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "…": "...",
    "µ": "u",
    "≥": ">=",
}


@dataclass(frozen=True)
class Rect:
    """Left, top, right, bottom, in pixels of the picture as drawn."""

    left: float
    top: float
    right: float
    bottom: float

    def grown(self, by: float) -> "Rect":
        """Larger by so many pixels on each side."""
        return Rect(self.left - by, self.top - by, self.right + by, self.bottom + by)


def draw_overlay(
    pixels: NDArray[np.uint8] | None,
    marks: Sequence[Mark],
    said: Statement,
    outcome: Outcome,
    when: str,
    max_size_px: int = 0,
) -> NDArray[np.uint8]:
    """The overlay of one film: (rows, columns, 3) uint8 RGB.

    pixels: (rows, columns) uint8 display values, bone bright; None draws a card with the text alone.
    marks: boxes in pixels of the stored image.
    when: the instant of the analysis in words.
    max_size_px: longest side of the film as drawn; 0 is its own size.
    """
    film, scale = _film(pixels, max_size_px)
    rows, columns = film.shape
    width = max(columns, REFERENCE_PX) if pixels is not None else min(CARD_PX, max_size_px or CARD_PX)
    unit = max(width, rows) / REFERENCE_PX if pixels is not None else width / REFERENCE_PX
    above = _strip_above(said, outcome, width, unit)
    below = _strip_below(said, when, width, unit)
    if pixels is None:
        rows = max(0, width // 2 - above.shape[0] - below.shape[0])
    canvas = np.empty((above.shape[0] + rows + below.shape[0], width, 3), np.uint8)
    canvas[: above.shape[0]] = above
    canvas[above.shape[0] + rows :] = below
    picture = canvas[above.shape[0] : above.shape[0] + rows]
    picture[:, columns:] = STRIP
    if pixels is None:
        return canvas
    picture = picture[:, :columns]
    for channel in range(3):  # four times as fast as broadcasting
        picture[:, :, channel] = film
    _draw_marks(picture, film, marks, scale, unit)
    return canvas


def drawable(text: str) -> str:
    """`text` in letters the font has: accents are dropped, other signs become "?"."""
    spelled = "".join(_SPELLED.get(c, c) for c in text)
    plain = "".join(c for c in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in plain)


def _film(pixels: NDArray[np.uint8] | None, max_size_px: int) -> tuple[NDArray[np.uint8], float]:
    """The film at the size it is drawn, and drawn pixels per stored pixel."""
    if pixels is None:
        return np.zeros((0, 0), np.uint8), 1.0
    longest = max(pixels.shape)
    if not max_size_px or longest <= max_size_px:
        return np.ascontiguousarray(pixels), 1.0
    scale = max_size_px / longest
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    # Reducing first by whole steps keeps this well under the time a full Lanczos filter takes.
    small = Image.fromarray(np.ascontiguousarray(pixels)).resize(
        size, Image.Resampling.BICUBIC, reducing_gap=2.0
    )
    return np.asarray(small), scale


# --- Strips --------------------------------------------------------------------------------------


def _strip_above(said: Statement, outcome: Outcome, width: int, unit: float) -> NDArray[np.uint8]:
    colours = {Outcome.FINDINGS: MARK, Outcome.NONE: PLAIN}
    lines = [(said.heading, HEADING_PX, colours.get(outcome, NO_ANSWER))]
    lines.append((said.summary, BODY_PX, PLAIN))
    lines += [(text, BODY_PX, PLAIN) for text in (*said.findings, *said.notes)]
    return _strip(lines, width, unit, rule_at_end=True)


def _strip_below(said: Statement, when: str, width: int, unit: float) -> NDArray[np.uint8]:
    """Algorithm, time, origin, limits, intended use. Short sentences share a line."""
    text = " ".join([f"{said.algorithm}, {when}.", *said.provenance])
    return _strip([(text, BODY_PX, MUTED)], width, unit, rule_at_end=False)


def _strip(
    lines: Sequence[tuple[str, float, Rgb]], width: int, unit: float, rule_at_end: bool
) -> NDArray[np.uint8]:
    margin = round(6 * unit)
    wrapped = [
        (part, _font(size * unit), colour)
        for text, size, colour in lines
        for part in _wrap(drawable(text), _font(size * unit), width - 2 * margin)
    ]
    pitches = [round(1.22 * font.size) for _, font, _ in wrapped]
    height = sum(pitches) + 2 * margin
    strip = Image.new("RGB", (width, height), STRIP)
    draw = ImageDraw.Draw(strip)
    top = margin
    for (text, font, colour), pitch in zip(wrapped, pitches, strict=True):
        draw.text((margin, top), text, font=font, fill=colour)
        top += pitch
    thick = max(1, round(0.7 * unit))
    edge = (0, height - thick, width, height) if rule_at_end else (0, 0, width, thick - 1)
    draw.rectangle(edge, fill=RULE)
    return np.asarray(strip)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break at blanks so that each line fits; a word longer than the line is cut."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width and len(word) > 1:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines += [word[:cut]] if lines[-1] else []
            lines[-1] = word[:cut]
            lines.append("")
            word = word[cut:]
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]


@lru_cache(64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(round(size))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType, which the overlay's text needs")
    return font


# --- Marks ---------------------------------------------------------------------------------------


def _draw_marks(
    picture: NDArray[np.uint8], film: NDArray[np.uint8], marks: Sequence[Mark], scale: float, unit: float
) -> None:
    """Boxes first, then labels where they hide neither a box nor, if it can be helped, bone."""
    line = max(MIN_LINE_PX, LINE_PX * unit)
    boxes = [_scaled(mark.finding.box, scale) for mark in marks]
    for box in boxes:
        _draw_frame(picture, box, line)
    taken: list[Rect] = []
    ground = _Ground(film)
    for mark, box in zip(marks, boxes, strict=True):
        label = _label(mark.label, unit, film.shape)
        if label is None:
            continue
        place = _place(label, box, line, boxes, taken, ground)
        taken.append(place)
        _draw_leader(picture, box.grown(line), place, line)
        _write(picture, label, round(place.left), round(place.top))


def _scaled(box: Box, scale: float) -> Rect:
    left, right = sorted((box.column_min * scale, box.column_max * scale))
    top, bottom = sorted((box.row_min * scale, box.row_max * scale))
    return Rect(left, top, right, bottom)


def _draw_frame(picture: NDArray[np.uint8], box: Rect, line: float) -> None:
    """An anti-aliased frame whose inner edge is the box, with a dark rim on both sides."""
    rim = max(1.0, line / 4)
    _paint(picture, box.grown(line + rim), box.grown(-rim), (0, 0, 0), 0.55)
    _paint(picture, box.grown(line), box, MARK, 1.0)


def _paint(picture: NDArray[np.uint8], outer: Rect, inner: Rect, colour: Rgb, opacity: float) -> None:
    """Blend a colour into what lies in `outer` and not in `inner`, by the share of each pixel covered."""
    rows, columns = picture.shape[:2]
    top, bottom = _clip(outer.top, outer.bottom, rows)
    left, right = _clip(outer.left, outer.right, columns)
    if top >= bottom or left >= right:
        return
    covered = np.outer(
        _cover(outer.top, outer.bottom, top, bottom), _cover(outer.left, outer.right, left, right)
    )
    covered -= np.outer(
        _cover(inner.top, inner.bottom, top, bottom), _cover(inner.left, inner.right, left, right)
    )
    at = np.nonzero(covered > 0)
    share = (covered[at] * opacity)[:, None]
    region = picture[top:bottom, left:right]
    region[at] = np.rint(region[at] * (1 - share) + np.array(colour) * share).astype(np.uint8)


def _clip(low: float, high: float, size: int) -> tuple[int, int]:
    return max(0, int(np.floor(low))), min(size, int(np.ceil(high)))


def _cover(low: float, high: float, first: int, last: int) -> NDArray[np.float64]:
    """How much of each pixel first..last-1 lies between low and high, 0..1."""
    at = np.arange(first, last, dtype=np.float64)
    covered: NDArray[np.float64] = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, 1)
    return covered


@dataclass(frozen=True)
class _Label:
    """Lines of text and the plate they stand on, in pixels."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont
    pad: int
    pitch: int
    wide: int
    high: int


def _label(lines: Sequence[str], unit: float, film: tuple[int, ...]) -> _Label | None:
    """A label that fits the film: smaller, then its first line alone; None where the film is too small."""
    texts = tuple(drawable(text) for text in lines)
    for shrink, chosen in ((1.0, texts), (0.85, texts), (0.7, texts), (0.85, texts[:1])):
        font = _font(LABEL_PX * unit * shrink)
        pad = round(0.3 * font.size)
        pitch = round(1.15 * font.size)
        wide = round(max(font.getlength(text) for text in chosen)) + 2 * pad
        high = pitch * len(chosen) + pad
        if wide <= film[1] and high <= film[0]:
            return _Label(chosen, font, pad, pitch, wide, high)
    return None


def _write(picture: NDArray[np.uint8], label: _Label, left: int, top: int) -> None:
    """Dim the film under the label, so that it stays visible, and write on it."""
    left = min(left, picture.shape[1] - label.wide)
    top = min(top, picture.shape[0] - label.high)
    region = picture[top : top + label.high, left : left + label.wide]
    plate = Image.fromarray((region * np.float32(1 - PLATE)).astype(np.uint8))
    draw = ImageDraw.Draw(plate)
    for row, text in enumerate(label.lines):
        draw.text((label.pad, row * label.pitch + label.pad // 3), text, font=label.font, fill=MARK)
    region[...] = np.asarray(plate)


def _place(
    label: _Label, box: Rect, line: float, boxes: Sequence[Rect], taken: Sequence[Rect], ground: "_Ground"
) -> Rect:
    """Where the label goes: inside the film, off every box and label, near its box, where little shows."""
    wide, high = label.wide, label.high
    frame = box.grown(2 * line)
    reach = 5 * high
    step = max(1.0, high / 3)
    tops = np.clip(np.arange(frame.top - high - reach, frame.bottom + reach, step), 0, ground.rows - high)
    lefts = np.clip(np.arange(frame.left - wide - reach, frame.right + reach, step), 0, ground.columns - wide)
    # Flush with the frame comes first, where a reader expects it.
    tops = np.concatenate([np.clip([frame.top - high, frame.bottom, frame.top], 0, ground.rows - high), tops])
    lefts = np.concatenate([np.clip([frame.left, frame.right], 0, ground.columns - wide), lefts])
    top, left = (grid.ravel() for grid in np.meshgrid(tops, lefts, indexing="ij"))
    cost = ground.busy(top, left, high, wide)
    gap_x = np.maximum(np.maximum(frame.left - (left + wide), left - frame.right), 0)
    gap_y = np.maximum(np.maximum(frame.top - (top + high), top - frame.bottom), 0)
    cost += 0.08 * np.hypot(gap_x, gap_y) / high
    for other in [*(b.grown(line) for b in boxes), *taken]:
        covered_x = np.minimum(left + wide, other.right) - np.maximum(left, other.left)
        covered_y = np.minimum(top + high, other.bottom) - np.maximum(top, other.top)
        cost += 10 * np.maximum(covered_x, 0) * np.maximum(covered_y, 0) / (wide * high)
    best = int(np.argmin(cost))
    return Rect(float(left[best]), float(top[best]), float(left[best]) + wide, float(top[best]) + high)


class _Ground:
    """How much there is to see in any rectangle of a film: brightness (bone is bright) and structure.

    Sums over a thinned film, so that a rectangle costs four look-ups (an integral image).
    """

    def __init__(self, film: NDArray[np.uint8]) -> None:
        self.rows, self.columns = film.shape
        self._thin = max(1, min(film.shape) // 256)
        small = film[:: self._thin, :: self._thin].astype(np.float64) / 255
        self._sums = [np.pad(power.cumsum(0).cumsum(1), ((1, 0), (1, 0))) for power in (small, small**2)]

    def busy(
        self, top: NDArray[np.float64], left: NDArray[np.float64], high: float, wide: float
    ) -> NDArray[np.float64]:
        """Mean brightness plus twice its spread, about 0..2, of rectangles given by their corners."""
        last_row, last_column = (size - 1 for size in self._sums[0].shape)
        r0 = np.minimum((top / self._thin).astype(int), last_row - 1)
        c0 = np.minimum((left / self._thin).astype(int), last_column - 1)
        r1 = np.clip(((top + high) / self._thin).astype(int), r0 + 1, last_row)
        c1 = np.clip(((left + wide) / self._thin).astype(int), c0 + 1, last_column)
        area = (r1 - r0) * (c1 - c0)
        mean, square = (
            (total[r1, c1] - total[r0, c1] - total[r1, c0] + total[r0, c0]) / area for total in self._sums
        )
        busy: NDArray[np.float64] = mean + 2 * np.sqrt(np.maximum(square - mean**2, 0))
        return busy


def _draw_leader(picture: NDArray[np.uint8], box: Rect, label: Rect, line: float) -> None:
    """A thin line from the frame to its label, where they do not touch."""
    x0, x1 = _nearest(box.left, box.right, label.left, label.right)
    y0, y1 = _nearest(box.top, box.bottom, label.top, label.bottom)
    if np.hypot(x1 - x0, y1 - y0) <= 2 * line:
        return
    rows, columns = picture.shape[:2]
    thick = max(1.5, line / 2)
    top, bottom = _clip(min(y0, y1) - thick, max(y0, y1) + thick, rows)
    left, right = _clip(min(x0, x1) - thick, max(x0, x1) + thick, columns)
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    length = np.hypot(x1 - x0, y1 - y0)
    along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length**2, 0, 1)
    distance = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
    share = np.clip(thick / 2 + 0.5 - distance, 0, 1)[:, :, None]
    region = picture[top:bottom, left:right]
    region[...] = np.rint(region * (1 - share) + np.array(MARK) * share).astype(np.uint8)


def _nearest(low: float, high: float, other_low: float, other_high: float) -> tuple[float, float]:
    """The closest points of two intervals on a line."""
    if other_high < low:
        return low, other_high
    if other_low > high:
        return high, other_low
    middle = (max(low, other_low) + min(high, other_high)) / 2
    return middle, middle
