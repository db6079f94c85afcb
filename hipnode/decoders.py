"""Pixel data -> stored pixel values. One decoder per transfer syntax, chosen here and nowhere else.

Everything is checked before a decoder runs: size, bits, the real length, and what the codestream
says of itself. Native codecs are still only run in a killable child (`hipnode.children`).

Not here on purpose: GDCM (open CVEs) and pylibjpeg-libjpeg (GPL-3). Big endian and deflated data
sets are refused: nobody sends radiographs in them, and deflate lets 300 KiB become 600 MiB.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from hipnode import codestreams
from hipnode.codestreams import Codestream
from hipnode.errors import ImageRejected
from hipnode.status import ReasonCode
from hipnode.transfer_syntaxes import RADIOGRAPH_SYNTAXES, UNCOMPRESSED

_JPEG = (JPEGLosslessSV1, JPEGLossless, JPEGBaseline8Bit, JPEGExtended12Bit)
_JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)

_T = TypeVar("_T")
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"

#: Bytes after the last pixel that are taken for padding. Some writers fill up to a block.
MAX_PADDING = 65536


@dataclass(frozen=True)
class PixelFormat:
    """How stored pixel values lie in the cells of Pixel Data (PS3.5 section 8.1)."""

    rows: int
    columns: int
    bits_allocated: int  #: 8 or 16
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def size_bytes(self) -> int:
        """Length of the native pixel data without padding."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value the stored bits can hold."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def pixel_format(ds: Dataset, max_pixels: int) -> PixelFormat:
    """Read and check the Image Pixel attributes.

    Raises ImageRejected: DECODE_LIMIT above `max_pixels`, DECODE_FAILED for what is no single
    grayscale frame of 8 or 16 bits, each with the attribute's keyword in the sentence.
    """
    rows, columns = _integer(ds, "Rows"), _integer(ds, "Columns")
    if rows < 1 or columns < 1:
        raise _failed(f"Rows x Columns is {rows} x {columns}.")
    if rows * columns > max_pixels:
        raise ImageRejected(
            ReasonCode.DECODE_LIMIT, f"{rows} x {columns} pixels are more than the limit of {max_pixels}."
        )
    samples, frames = _integer(ds, "SamplesPerPixel", 1), _integer(ds, "NumberOfFrames", 1)
    if samples != 1 or frames > 1:
        raise _failed(f"SamplesPerPixel is {samples}, NumberOfFrames {frames}; only one gray frame is read.")
    allocated = _integer(ds, "BitsAllocated", 16)
    stored = _integer(ds, "BitsStored", allocated)
    high = _integer(ds, "HighBit", stored - 1)
    if allocated not in (8, 16) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise _failed(f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high} do not fit together.")
    representation = _integer(ds, "PixelRepresentation", 0)
    if representation not in (0, 1):
        raise _failed(f"PixelRepresentation is {representation}.")
    return PixelFormat(rows, columns, allocated, stored, high, representation == 1)


def read_stored(ds: Dataset, transfer_syntax: UID | str, max_pixels: int) -> NDArray[Any]:
    """Stored pixel values of a single-frame grayscale image.

    Returns (rows, columns), uint8, uint16, int8 or int16: only the bits that BitsStored and
    HighBit name (old overlays in the others are gone), sign extended where the pixels are signed.
    Raises ImageRejected: PIXELS_MISSING, DECODE_LIMIT or DECODE_FAILED. MemoryError passes through.
    """
    transfer_syntax = UID(transfer_syntax)
    if transfer_syntax not in RADIOGRAPH_SYNTAXES:
        raise _failed(f"Transfer syntax {transfer_syntax.name} is not read.")
    form = pixel_format(ds, max_pixels)
    if "PixelData" not in ds:
        if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
            raise _failed("Floating point pixel data is not read.")
        raise ImageRejected(ReasonCode.PIXELS_MISSING, "The image has no Pixel Data.")
    data = ds["PixelData"].value
    if not isinstance(data, bytes | bytearray) or not data:
        raise ImageRejected(ReasonCode.PIXELS_MISSING, "The Pixel Data is empty.")
    if transfer_syntax in UNCOMPRESSED:
        return _native(data, form)
    frame = _only_frame(data)
    if transfer_syntax == RLELossless:
        return _rle(frame, form)
    return _codestream(frame, transfer_syntax, form)


def _native(data: bytes | bytearray, form: PixelFormat) -> NDArray[Any]:
    _check_length(len(data), form)
    cells = np.frombuffer(data, f"<u{form.bits_allocated // 8}", form.rows * form.columns)
    return stored_values(cells.reshape(form.rows, form.columns), form)


def _rle(frame: bytes, form: PixelFormat) -> NDArray[Any]:
    segments = int.from_bytes(frame[:4], "little")
    if segments != form.bits_allocated // 8:
        raise _failed(f"The RLE header names {segments} segments, {form.bits_allocated // 8} are due.")
    buffer = bytearray(form.size_bytes)  # the decoder cannot write more than this, whatever the stream says
    cells = f"<u{form.bits_allocated // 8}"
    written = _run(lambda: imagecodecs.dicomrle_decode(frame, cells, out=buffer))
    if len(written) < form.size_bytes:
        raise ImageRejected(
            ReasonCode.PIXELS_MISSING, f"The RLE data ends after {len(written)} of {form.size_bytes} bytes."
        )
    return stored_values(np.frombuffer(buffer, cells).reshape(form.rows, form.columns), form)


def _codestream(frame: bytes, transfer_syntax: UID, form: PixelFormat) -> NDArray[Any]:
    """JPEG, JPEG-LS and JPEG 2000: the codestream's own header must agree before it is decoded."""
    family, decode = _decoder(transfer_syntax)
    stream = family(frame)
    if stream is None:
        raise _failed(f"The pixel data is no {transfer_syntax.name} stream.")
    if (stream.rows, stream.columns, stream.components) != (form.rows, form.columns, 1):
        raise _failed(
            f"The stream holds {stream.rows} x {stream.columns} pixels of {stream.components} component(s), "
            f"the header says {form.rows} x {form.columns} of 1."
        )
    if not 1 <= stream.precision <= 16:
        raise _failed(f"The stream has {stream.precision} bits per pixel.")
    if not stream.complete:
        raise _failed("The stream is cut off before its end.")
    cells = _run(lambda: decode(frame))
    if cells.shape != (form.rows, form.columns) or cells.dtype.kind not in "ui" or cells.itemsize > 2:
        raise _failed(f"The decoder gave {cells.shape} {cells.dtype}.")
    if cells.dtype.kind == "i":  # JPEG 2000 carries the sign itself
        return _clipped(cells, form)
    if stream.precision <= form.bits_stored and not form.signed:
        return cells  # cannot hold other bits: nothing to mask
    cells = cells.astype(f"<u{form.bits_allocated // 8}")
    if stream.lossy:  # what goes over the stored bits is overshoot, not another plane
        return _sign_extended(np.minimum(cells, (1 << form.bits_stored) - 1).astype(cells.dtype), form)
    if stream.precision <= form.high_bit:  # the encoder left the empty bits below out
        form = replace(form, high_bit=form.bits_stored - 1)
    return stored_values(cells, form)


def _decoder(
    transfer_syntax: UID,
) -> tuple[Callable[[bytes], Codestream | None], Callable[[bytes], NDArray[Any]]]:
    if transfer_syntax in _JPEG:
        # libjpeg-turbo 3: all predictors, 2 to 16 bits lossless, 12 bit extended, and it takes
        # the non-conformant scan headers of a 12-bit film that other decoders refuse.
        return codestreams.jpeg, imagecodecs.jpeg8_decode
    if transfer_syntax in _JPEG_LS:
        return codestreams.jpeg_ls, imagecodecs.jpegls_decode  # CharLS
    return codestreams.jpeg_2000, lambda frame: imagecodecs.jpeg2k_decode(frame, numthreads=1)  # OpenJPEG


def stored_values(cells: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    """The stored bits of each unsigned cell (PS3.5 section 8.1.1), sign extended where signed."""
    shift = form.high_bit + 1 - form.bits_stored
    if shift:
        cells = cells >> shift
    if form.bits_stored < form.bits_allocated:
        cells = cells & cells.dtype.type((1 << form.bits_stored) - 1)
    return _sign_extended(cells, form)


def _sign_extended(cells: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    if not form.signed:
        return cells
    up = cells.itemsize * 8 - form.bits_stored
    extended: NDArray[Any] = (cells << up).view(f"<i{cells.itemsize}") >> up
    return extended


def _clipped(cells: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    kind = "i" if form.signed else "u"
    inside: NDArray[Any] = np.clip(cells, *form.limits)
    return inside.astype(f"<{kind}{form.bits_allocated // 8}")


def _only_frame(data: bytes | bytearray) -> bytes:
    """All fragments of the one frame, joined (PS3.5 A.4). The offset table is passed over: with one
    frame it says nothing, and in some files it says something wrong.
    """
    fragments = []
    at = 0
    while at + 8 <= len(data):
        tag, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM or at + 8 + length > len(data):
            raise _failed("The encapsulated pixel data is damaged.")
        fragments.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    frame = b"".join(fragments[1:])
    if not frame:
        raise ImageRejected(ReasonCode.PIXELS_MISSING, "The encapsulated pixel data is empty.")
    return frame


def _check_length(length: int, form: PixelFormat) -> None:
    if length < form.size_bytes:
        raise ImageRejected(
            ReasonCode.PIXELS_MISSING, f"The Pixel Data has {length} of {form.size_bytes} bytes."
        )
    if length > form.size_bytes + MAX_PADDING:
        raise _failed(
            f"The Pixel Data has {length} bytes, {form.rows} x {form.columns} are {form.size_bytes}."
        )


def _run(decode: Callable[[], _T]) -> _T:
    try:
        return decode()
    except MemoryError:
        raise
    except Exception as error:  # each codec has its own exception types; all say the stream is bad
        raise _failed(f"The decoder gave up ({type(error).__name__}).") from error


def _integer(ds: Dataset, keyword: str, default: int | None = None) -> int:
    try:
        value = ds.get(keyword)
        if value is None or value == "":
            if default is None:
                raise _failed(f"{keyword} is missing.")
            return default
        return int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _failed(f"{keyword} is not one integer.") from error


def _failed(sentence: str) -> ImageRejected:
    return ImageRejected(ReasonCode.DECODE_FAILED, sentence)
