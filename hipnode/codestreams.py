"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read without decoding it.

A stream can claim 65,535 x 65,535 pixels in a hundred bytes; a decoder would believe it.
"""

from dataclasses import dataclass

_SOI, _EOI, _SOS, _SOF_LS = 0xD8, 0xD9, 0xDA, 0xF7
#: SOF0, 1, 2 and 3: baseline, extended, progressive, lossless (ISO/IEC 10918-1 table B.1).
_SOF_JPEG = (0xC0, 0xC1, 0xC2, 0xC3)
_SOF_LOSSLESS = 0xC3
_STANDALONE = (0x01, *range(0xD0, 0xD8))  # TEM and RSTn carry no length


@dataclass(frozen=True)
class Codestream:
    """The frame or image header of a codestream."""

    rows: int
    columns: int
    components: int
    precision: int  #: bits per sample
    lossy: bool
    complete: bool  #: it ends where it says it ends


def jpeg(data: bytes) -> Codestream | None:
    """The first frame header of a JPEG stream (ISO/IEC 10918-1 B.2.2); None when it is no such stream."""
    return _jpeg(data, _SOF_JPEG)


def jpeg_ls(data: bytes) -> Codestream | None:
    """The frame header of a JPEG-LS stream (ISO/IEC 14495-1 C.2.2); None when it is no such stream."""
    return _jpeg(data, (_SOF_LS,))


def _jpeg(data: bytes, frame_markers: tuple[int, ...]) -> Codestream | None:
    if data[:2] != b"\xff\xd8":
        return None
    at, frame, near = 2, None, 0
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if length < 2 or marker in (_SOI, _EOI):
            return None
        if marker in frame_markers and len(body) >= 6:
            frame = (marker, body)
        elif marker == _SOS:
            # The parameter after the component selectors is JPEG-LS's NEAR.
            near = body[-3] if len(body) >= 3 else 0
            break
        at += 2 + length
    if frame is None:
        return None
    marker, body = frame
    return Codestream(
        rows=int.from_bytes(body[1:3], "big"),
        columns=int.from_bytes(body[3:5], "big"),
        components=body[5],
        precision=body[0],
        lossy=near > 0 if marker == _SOF_LS else marker != _SOF_LOSSLESS,
        complete=_ends_with_eoi(data),
    )


def _ends_with_eoi(data: bytes) -> bool:
    """Whether EOI stands at the end; padding of the last fragment may follow it.

    libjpeg fills a cut-off picture with gray and only warns, so a missing end is an error to us.
    """
    return data.rstrip(b"\0\xff").endswith(b"\xff\xd9") or data.rstrip(b"\0").endswith(b"\xff\xd9")


def jpeg_2000(data: bytes) -> Codestream | None:
    """The SIZ segment of a JPEG 2000 codestream, bare or in JP2 boxes (ISO/IEC 15444-1 A.5.1); else None."""
    if data[4:8] == b"jP  ":
        start = data.find(b"jp2c\xff\x4f\xff\x51")
        data = data[start + 4 :] if start >= 0 else b""
    if data[:4] != b"\xff\x4f\xff\x51" or len(data) < 43:
        return None

    def long(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "big")

    precision = data[42]
    return Codestream(
        rows=long(12) - long(20),
        columns=long(8) - long(16),
        components=int.from_bytes(data[40:42], "big"),
        precision=(precision & 0x7F) + 1,
        lossy=not _reversible(data),
        complete=_tile_parts_complete(data),
    )


def _segments_of_main_header(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, offset of its length field, length) up to and with the first SOT."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], at + 2, length))
        if data[at + 1] == 0x90 or length < 2:
            break
        at += 2 + length
    return found


def _reversible(data: bytes) -> bool:
    """Whether COD names the 5-3 reversible wavelet; a lossy film may use it too, cut short."""
    return any(
        marker == 0x52 and data[at + 11 : at + 12] == b"\x01"
        for marker, at, _ in _segments_of_main_header(data)
    )


def _tile_parts_complete(data: bytes) -> bool:
    """Walk the tile-parts by their Psot (A.4.2): the data must reach to the end of the last one.

    Psot 0 means "up to EOC". A missing EOC alone is forgiven: some encoders leave it out.
    """
    header = _segments_of_main_header(data)
    if not header or header[-1][0] != 0x90:
        return False
    at = header[-1][1] - 2
    while data[at : at + 2] == b"\xff\x90":
        if at + 12 > len(data):
            return False
        length = int.from_bytes(data[at + 6 : at + 10], "big")
        if length == 0:
            return data.rstrip(b"\0").endswith(b"\xff\xd9")
        if length < 12 or at + length > len(data):
            return False
        at += length
    return data[at : at + 2] == b"\xff\xd9" or not data[at:].strip(b"\0")
