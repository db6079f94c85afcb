"""Changes made to films to see what an algorithm bears, and films it must refuse. Pure: pixels or facts in and out.

Pixels are what the detector gets: (rows, columns) uint8 display values, bone bright. A change of the header is
told to selection in place of what the film says. Suggested as part of an audit by Liu et al., Lancet Digit
Health 2022;4:e384-97. Needs none of the extra `hipnode[evaluation]`.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hipnode.errors import HipnodeError
from hipnode.selection import Code, Facts
from hipnode.selection.witnesses import (
    ANATOMY,
    BODY_PART,
    IMAGE_CODES,
    IMAGE_TEXTS,
    ORDER_CODES,
    ORDER_TEXTS,
)

Pixels = NDArray[np.uint8]

#: What the specification of stress tests names and this module cannot do, with the reason.
NOT_TESTED = (
    "A missing side marker is not tested: no number here comes from the letter on the film, sides come from headers.",
    "A film of another region under a hip header is not tested: it needs films of other regions. "
    "Put them into the data folder as cases without a fracture.",
    "A hip with an implant in the picture is not tested: none is drawn into a film. Implant named tests that the "
    "header alone is enough for a refusal; films with implants belong into the data folder, with a column implant.",
)


class StressUnknown(HipnodeError):
    """There is no such stress test, or not at this level."""


@dataclass(frozen=True)
class Transform:
    """One kind of change. least, most: limits of its level; standard: the levels of a standard run.

    level: what the level is, with its unit; must_refuse: the film is one that must not be read
    """

    name: str
    says: str
    level: str
    least: float
    most: float
    standard: tuple[float, ...]
    film: Callable[[Pixels, float], Pixels] | None = None
    header: Callable[[Facts], Facts] | None = None

    @property
    def must_refuse(self) -> bool:
        """Whether a film under this change must be refused; else it should be read as the untouched one."""
        return self.header is not None


@dataclass(frozen=True)
class Change:
    """A transform at one level (a `hipnode.evaluation.films.runs.Stress`)."""

    transform: Transform
    level: float

    @property
    def name(self) -> str:
        """As the rows of stress.jsonl carry it."""
        return f"{self.transform.name} {self.level:g}"

    @property
    def changes_header(self) -> bool:
        """Whether selection is told something else, and the pixels stay."""
        return self.transform.header is not None

    def film(self, pixels: Pixels) -> Pixels:
        """The changed pixels; the same film and level always give the same."""
        return pixels if self.transform.film is None else self.transform.film(pixels, self.level)

    def header(self, facts: Facts) -> Facts:
        """The changed facts."""
        return facts if self.transform.header is None else self.transform.header(facts)


def change(transform: str, level: float) -> Change:
    """The change of a name and level. Raises StressUnknown."""
    known = TRANSFORMS.get(transform)
    if known is None:
        raise StressUnknown(f"There is no stress test {transform!r}; there are {', '.join(TRANSFORMS)}.")
    if not known.least <= level <= known.most:
        raise StressUnknown(
            f"The level of {transform} is {level:g}; it is {known.level} and lies in {known.least:g} to {known.most:g}."
        )
    return Change(known, level)


def standard() -> tuple[Change, ...]:
    """All transforms at their standard levels."""
    return tuple(Change(kind, level) for kind in TRANSFORMS.values() for level in kind.standard)


def _rotated(pixels: Pixels, degrees: float) -> Pixels:
    """Turned about its middle; the film keeps its size and what comes in from outside is black."""
    return np.array(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=0))


def _cropped(pixels: Pixels, share: float) -> Pixels:
    rows, columns = pixels.shape
    top, left = round(rows * share / 2), round(columns * share / 2)
    return np.ascontiguousarray(pixels[top : rows - top, left : columns - left])


def _exposed(pixels: Pixels, gamma: float) -> Pixels:
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return np.asarray(table[pixels])


def _inverted(pixels: Pixels, _level: float) -> Pixels:
    return np.asarray(255 - pixels)


def _noisy(pixels: Pixels, sd: float) -> Pixels:
    """White noise, drawn from a seed that is the film's own: the same film has the same noise everywhere."""
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(pixels).tobytes()))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(sd)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _written_on(pixels: Pixels, lines: float) -> Pixels:
    """Lines of white text on the film from the upper left corner, each 3 % of its height."""
    image = Image.fromarray(pixels)
    size = max(10, round(0.03 * pixels.shape[0]))
    text = "\n".join(["HIP AP 70 kV 16 mAs"] * round(lines))
    ImageDraw.Draw(image).multiline_text((size, size), text, fill=255, font=ImageFont.load_default(size))
    return np.array(image)


def _of_a_knee(facts: Facts) -> Facts:
    """All that names a region or an exam names the knee."""
    silenced = {*IMAGE_TEXTS, *ORDER_TEXTS}
    attributes = {keyword: values for keyword, values in facts.attributes.items() if keyword not in silenced}
    codes = {kind: found for kind, found in facts.codes.items() if kind not in {*IMAGE_CODES, *ORDER_CODES}}
    return replace(
        facts,
        attributes=attributes | {BODY_PART: ("KNEE",), "SeriesDescription": ("KNEE AP",)},
        codes=codes | {ANATOMY: (Code("72696002", "SCT", "Knee"),)},
    )


def _after_surgery(facts: Facts) -> Facts:
    """The series is called a post-operative control, and nothing asks for a fracture."""
    silenced = {*IMAGE_TEXTS, *ORDER_TEXTS}
    attributes = {keyword: values for keyword, values in facts.attributes.items() if keyword not in silenced}
    return replace(facts, attributes=attributes | {"SeriesDescription": ("HIP AP POST OP THA",)})


TRANSFORMS: dict[str, Transform] = {
    kind.name: kind
    for kind in (
        Transform("rotation", "the film is turned counter-clockwise", "in degrees", -180, 180, (-10, 5, 10, 20),
                  _rotated),
        Transform("crop", "the film is cut evenly on all sides", "the share of height and width that is lost",
                  0, 0.8, (0.1, 0.2, 0.3), _cropped),
        Transform("exposure", "the film is shown too bright (below 1) or too dark (above 1)",
                  "the gamma of its display", 0.1, 10, (0.5, 0.7, 1.5, 2), _exposed),
        Transform("inversion", "black and white are exchanged", "always 1", 1, 1, (1,), _inverted),
        Transform("noise", "white noise is added", "its SD in gray levels of 255", 0, 128, (5, 10, 20), _noisy),
        Transform("burnt_in_text", "text is written on the film", "the number of lines", 1, 20, (1, 4), _written_on),
        Transform("wrong_body_part", "the header says knee and nothing of a hip; must be refused", "always 1",
                  1, 1, (1,), header=_of_a_knee),
        Transform("implant_named", "the header says post-operative, hip replacement; must be refused unless the site "
                  "has switched that off", "always 1", 1, 1, (1,), header=_after_surgery),
    )
}  # fmt: skip
