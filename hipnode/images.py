"""Dataset + stored pixel values -> Radiograph: what a viewer would show, as the detector sees it.

The grayscale pipeline of PS3.4 N.2: Modality LUT, VOI LUT or window, presentation. Stored values
have at most 16 bits, so the whole pipeline is worked out once per possible value and applied as a
table: a 15 MB film takes a fraction of what per-pixel arithmetic takes.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from hipnode.findings import Box, KnownSide, Side

Values = NDArray[np.float64]

#: Share of the seen pixels that may be clipped at each end when no window is usable.
_CLIPPED_PERCENT = 0.5
#: A window is used if it and the film's own range cover at least this share of each other.
_LEAST_OVERLAP = 0.05
#: Pixels looked at to find borders and percentiles: every n-th, about this many a side.
_SAMPLED_SIDE = 400
#: A border ends where the value leaves that of the film's edge by this share of the range.
_BORDER_TOLERANCE = 0.02
#: A box this near the midline (share of the width) belongs to neither side.
_MIDLINE = 0.04
#: A film this much wider than high shows both hips.
_PELVIS_ASPECT = 1.1


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One film as a reader sees it, and what its header says of side and place.

    pixels: (rows, columns) uint8 display values, 0 black to 255 white, bone bright
        (MONOCHROME1 already inverted), upright as stored: row 0 is the first stored row.
    side: of the whole image, from ImageLaterality or Laterality; None when both sides
        are in it or nothing is said.
    patient_orientation: direction of the rows and of the columns (PS3.3 C.7.6.1.1.1).
    body_part, view: BodyPartExamined and ViewPosition in upper case, "" when absent.
    both_sides: the header says that both hips are in the image.
    """

    pixels: NDArray[np.uint8]
    sop_instance_uid: str
    side: KnownSide | None = None
    patient_orientation: tuple[str, str] | None = None
    body_part: str = ""
    view: str = ""
    both_sides: bool = False

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels are {self.pixels.shape} {self.pixels.dtype}, not (rows, columns) uint8")


def to_radiograph(ds: Dataset, stored: NDArray[Any]) -> Radiograph:
    """The film as displayed, with what the header says of side, place and view.

    stored: (Rows, Columns) stored values of at most 16 bits, as `decoders.read_stored` gives them.
    """
    return Radiograph(
        pixels=display_pixels(ds, stored),
        sop_instance_uid=str(ds.get("SOPInstanceUID", "")),
        side=_side(ds),
        patient_orientation=_orientation(ds),
        body_part=_text(ds, "BodyPartExamined"),
        view=_text(ds, "ViewPosition"),
        both_sides=_laterality(ds) == "B",
    )


def display_pixels(ds: Dataset, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Stored values -> (rows, columns) uint8, 0 black, 255 white, as a viewer shows the film first.

    VOI LUT Sequence before window (the first of each); a window that cannot be meant, or none,
    gives way to the percentiles of what lies inside the collimation.
    """
    if stored.size == 0:
        return np.zeros(stored.shape, np.uint8)
    low, high = int(stored.min()), int(stored.max())
    every = np.arange(low, high + 1)  # each stored value that may occur
    padding = _padding(ds, every)
    modality = _modality(ds, every)
    seen = _seen_range(stored, low, modality, padding)
    display = _voi(ds, modality, seen)
    if _is_inverted(ds):
        display = 1 - display
    display[padding] = 0
    table = np.round(np.clip(display, 0, 1) * 255).astype(np.uint8)
    index = stored if low == 0 and stored.dtype.kind == "u" else stored.astype(np.int32) - low
    return table[index]


def shows_both_hips(radiograph: Radiograph) -> bool:
    """Whether both hips are in the film, or may be: named so, or wider than high and without laterality."""
    rows, columns = radiograph.pixels.shape
    if radiograph.both_sides or "PELVIS" in radiograph.body_part:
        return True
    return radiograph.side is None and columns >= _PELVIS_ASPECT * rows


def side_at(radiograph: Radiograph, box: Box) -> KnownSide | None:
    """The patient's side at a box of this film, and the attribute it is known from; None if unknown.

    A film of one hip has its laterality. On a film of both (BodyPartExamined PELVIS, laterality B,
    or wider than high and without laterality) the half of the image decides, by PatientOrientation:
    L\\F says columns run towards the patient's left, so the left half of the image is the right hip.
    """
    if not shows_both_hips(radiograph):
        return radiograph.side
    if radiograph.patient_orientation is None:
        return None
    along_rows, down = radiograph.patient_orientation
    if along_rows not in ("L", "R") or down[:1] not in ("F", "H"):
        return None
    from_middle = box.centre[0] / radiograph.pixels.shape[1] - 0.5
    if abs(from_middle) < _MIDLINE:
        return None
    at_right_of_image = from_middle > 0
    left = at_right_of_image == (along_rows == "L")
    return KnownSide(Side.LEFT if left else Side.RIGHT, "PatientOrientation")


# Modality LUT (PS3.3 C.11.1)


def _modality(ds: Dataset, stored: NDArray[np.int64]) -> Values:
    """Modality values of each stored value: through the LUT, else slope and intercept."""
    lut = _lut(ds, "ModalityLUTSequence", bool(stored[0] < 0))
    if lut is not None:
        first, data, _ = lut
        return _looked_up(stored.astype(np.float64), first, data)
    slope, intercept = _number(ds, "RescaleSlope"), _number(ds, "RescaleIntercept")
    values = stored.astype(np.float64)
    return values * slope + (intercept or 0.0) if slope else values  # a slope of 0 is no slope


def _looked_up(values: Values, first: int, data: Values) -> Values:
    """Entries of a LUT; values before and after it get its first and last entry."""
    entries: Values = data[np.clip(np.round(values) - first, 0, len(data) - 1).astype(np.int64)]
    return entries


def _lut(ds: Dataset, keyword: str, signed: bool) -> tuple[int, Values, int] | None:
    """(first value mapped, entries, bits) of the first item (PS3.3 C.11.1.1); None when unusable."""
    items = ds.get(keyword)
    if not items:
        return None
    try:
        entries, first, bits = (int(n) for n in items[0].LUTDescriptor)
        raw = items[0].LUTData
    except (AttributeError, TypeError, ValueError):
        return None
    entries = entries % 65536 or 65536  # 0 means 65,536
    if isinstance(raw, bytes):
        narrow = len(raw) in (entries, entries + entries % 2) and bits <= 8
        data = np.frombuffer(raw[: len(raw) // 2 * 2] if not narrow else raw, "u1" if narrow else "<u2")
    else:
        data = np.atleast_1d(np.asarray(raw, dtype=np.int64)) & 0xFFFF
    data = data[:entries].astype(np.float64)
    if len(data) < 2 or data.min() == data.max():
        return None
    if signed and first > 32767:  # the descriptor's VR is US in many files with signed pixels
        first -= 65536
    if not 1 <= bits <= 16 or data.max() >= 1 << bits:
        bits = max(int(data.max()).bit_length(), 1)
    return first, data, bits


# VOI LUT and window (PS3.3 C.11.2)


def _voi(ds: Dataset, modality: Values, seen: tuple[float, float]) -> Values:
    """Display values 0..1 of each modality value."""
    lut = _lut(ds, "VOILUTSequence", bool(modality.min() < 0))
    if lut is not None:
        first, data, bits = lut
        if _overlap(seen, (first, first + len(data) - 1)) >= _LEAST_OVERLAP * (seen[1] - seen[0]):
            return _looked_up(modality, first, data) / ((1 << bits) - 1)
    centre, width = _number(ds, "WindowCenter"), _number(ds, "WindowWidth")
    function = _text(ds, "VOILUTFunction") or "LINEAR"
    if centre is not None and width is not None and _fits(centre, width, function, seen):
        return _windowed(modality, centre, width, function)
    low, high = seen
    if high <= low:
        return np.zeros_like(modality)
    if _is_raw_exposure(ds):  # proportional to exposure: its logarithm is what films show
        least = modality.min()
        modality, low, high = np.log1p(modality - least), np.log1p(low - least), np.log1p(high - least)
    return (modality - low) / (high - low)


def _is_raw_exposure(ds: Dataset) -> bool:
    """Whether the values of a FOR PROCESSING image are linear in the exposure (PS3.3 C.8.11.3.1.2)."""
    return (
        _text(ds, "PresentationIntentType") == "FOR PROCESSING"
        and _text(ds, "PixelIntensityRelationship") == "LIN"
    )


def _fits(centre: float, width: float, function: str, seen: tuple[float, float]) -> bool:
    """Whether a window can be meant for this film: it shows the film's range and is of its order."""
    if width < 1 and (function == "LINEAR" or width <= 0):
        return False
    if seen[0] == seen[1]:
        return True
    window = (centre - width / 2, centre + width / 2)
    overlap = _overlap(seen, window)
    return overlap >= _LEAST_OVERLAP * (seen[1] - seen[0]) and overlap >= _LEAST_OVERLAP * width


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    return min(a[1], b[1]) - max(a[0], b[0])


def _windowed(values: Values, centre: float, width: float, function: str) -> Values:
    """PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT), scaled to 0..1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _is_inverted(ds: Dataset) -> bool:
    """Whether low values are shown white. One of the two attributes is enough: they never cancel out."""
    return (
        _text(ds, "PhotometricInterpretation") == "MONOCHROME1"
        or _text(ds, "PresentationLUTShape") == "INVERSE"
    )


# What part of the film counts


def _padding(ds: Dataset, stored: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the stored values are padding (PS3.3 C.7.5.1.1.2)."""
    first = _number(ds, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = _number(ds, "PixelPaddingRangeLimit")
    ends = (first, first if last is None else last)
    return (stored >= min(ends)) & (stored <= max(ends))


def _seen_range(
    stored: NDArray[Any], low: int, modality: Values, padding: NDArray[np.bool_]
) -> tuple[float, float]:
    """Lower and upper percentile of the modality values inside the collimation, padding left out."""
    step = max(1, math.isqrt(stored.size) // _SAMPLED_SIDE)
    index = stored[::step, ::step].astype(np.int64) - low
    values, padded = modality[index], padding[index]
    if padded.all():
        return float(modality.min()), float(modality.max())
    inside = ~padded & ~_border(values, padded)
    # Less than a twentieth left: the film itself is that even, or the guess was wrong.
    kept = values[inside] if inside.mean() > 0.05 else values[~padded]
    ends = np.percentile(kept, [_CLIPPED_PERCENT, 100 - _CLIPPED_PERCENT])
    if ends[0] == ends[1]:
        ends = np.array([kept.min(), kept.max()])
    return float(ends[0]), float(ends[1])


def _border(values: Values, padded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Collimated borders, black or white, straight, oblique or round: where even runs from an edge end.

    From each end of each row and column inwards, as long as the value stays what it is at the edge.
    Body parts that reach the edge are cut by no more than the few pixels their shading allows.
    """
    ends = np.percentile(values[~padded], [_CLIPPED_PERCENT, 100 - _CLIPPED_PERCENT])
    tolerance = _BORDER_TOLERANCE * max(ends[1] - ends[0], 1e-9)
    border = np.zeros(values.shape, bool)
    for turns in range(4):
        view = np.rot90(values, turns)
        even = np.abs(view - np.median(view[:, :3], axis=1, keepdims=True)) <= tolerance
        even |= np.rot90(padded, turns)
        border |= np.rot90(np.logical_and.accumulate(even, axis=1), -turns)
    return border


# Header values, read with care: a value that cannot be read is no value


def _number(ds: Dataset, keyword: str) -> float | None:
    """The first value of a numeric attribute; None when absent, empty, no number or not finite."""
    try:
        value = ds.get(keyword)
        if value is None or value == "":
            return None
        if not isinstance(value, str | int | float) and hasattr(value, "__getitem__"):
            value = value[0]
        number = float(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return value.strip().upper() if isinstance(value, str) else ""


def _orientation(ds: Dataset) -> tuple[str, str] | None:
    value = ds.get("PatientOrientation")
    if value is None or isinstance(value, str) or len(value) != 2:
        return None
    return str(value[0]).strip().upper(), str(value[1]).strip().upper()


def _laterality(ds: Dataset) -> str:
    """ImageLaterality, else Laterality; "" when absent or when the two name different sides."""
    image, series = _text(ds, "ImageLaterality"), _text(ds, "Laterality")
    if {image, series} == {"R", "L"}:
        return ""
    return image or series


def _side(ds: Dataset) -> KnownSide | None:
    side = _laterality(ds)
    if side not in ("R", "L"):
        return None
    return KnownSide(Side(side), "ImageLaterality" if _text(ds, "ImageLaterality") else "Laterality")
