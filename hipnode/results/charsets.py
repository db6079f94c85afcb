"""Text of a source data set, decoded by its SpecificCharacterSet (PS3.3 C.12.1.1.2, PS3.5 6.1.2.5).

pydicom decodes too, but warns, guesses silently, or splits person names before it decodes (which
breaks names in GB18030 and JIS X 0208, where a byte of a character may be "^", "=" or a backslash).
Here bytes are decoded first and split afterwards, and nothing raises or warns.

The fallback, for a missing, unknown or wrong character set: the bytes as UTF-8 if they are valid
UTF-8, otherwise as Latin-1, which takes any byte.
"""

import re
import unicodedata
from collections.abc import Sequence

#: ISO registration number -> Python codec of the single-byte and multi-byte sets of PS3.3 C.12.1.1.2.
_REGISTERED = {
    6: "ascii",
    13: "shift_jis",  # JIS X 0201: shift_jis without its two-byte part
    58: "gb2312",
    87: "iso2022_jp",
    100: "latin_1",
    101: "iso8859_2",
    109: "iso8859_3",
    110: "iso8859_4",
    126: "iso8859_7",
    127: "iso8859_6",
    138: "iso8859_8",
    144: "iso8859_5",
    148: "iso8859_9",
    149: "euc_kr",
    159: "iso2022_jp_2",
    166: "tis_620",
    192: "utf_8",
    203: "iso8859_15",
}

#: Names without a registration number, and spellings met in the field.
_NAMED = {
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO2022GBK": "gbk",
    "ISO202258": "gb2312",
    "UTF8": "utf_8",
    "UNICODE": "utf_8",
    "LATIN1": "latin_1",
    "ASCII": "ascii",
    "ISO88591": "latin_1",
    "SHIFTJIS": "shift_jis",
    "EUCKR": "euc_kr",
}

#: These take no escape sequences (PS3.5 6.1.2.5.4) and are decoded whole.
_WHOLE = frozenset({"utf_8", "gb18030", "gbk"})

#: Escape sequence -> (codec, whether the codec wants to see the sequence), PS3.3 tables C.12-3 and C.12-4.
_ESCAPES = {
    b"\x1b(B": ("", False),  # back to ASCII in G0; what is in G1 stays
    b"\x1b(J": ("shift_jis", False),
    b"\x1b)I": ("shift_jis", False),
    b"\x1b-A": ("latin_1", False),
    b"\x1b-B": ("iso8859_2", False),
    b"\x1b-C": ("iso8859_3", False),
    b"\x1b-D": ("iso8859_4", False),
    b"\x1b-F": ("iso8859_7", False),
    b"\x1b-G": ("iso8859_6", False),
    b"\x1b-H": ("iso8859_8", False),
    b"\x1b-L": ("iso8859_5", False),
    b"\x1b-M": ("iso8859_9", False),
    b"\x1b-T": ("tis_620", False),
    b"\x1b-b": ("iso8859_15", False),
    b"\x1b$)C": ("euc_kr", False),
    b"\x1b$)A": ("gb2312", False),
    b"\x1b$B": ("iso2022_jp", True),
    b"\x1b$(D": ("iso2022_jp_2", True),
}
_FRAGMENT = re.compile(rb"(?=\x1b)")


def codecs_of(names: Sequence[str]) -> tuple[str, ...]:
    """Python codecs of SpecificCharacterSet, misspelt names included; unknown ones are left out."""
    found = []
    for name in names:
        folded = re.sub(r"[\s_.-]", "", name).upper()
        registered = re.fullmatch(r"ISO(?:2022)?IR(\d+)", folded)
        if not folded:
            codec = "ascii"  # an empty first value is the default repertoire
        elif registered:
            codec = _REGISTERED.get(int(registered[1]), "")
        else:
            codec = _NAMED.get(folded, "")
        if codec:
            found.append(codec)
    return tuple(found)


def decode(raw: bytes, codecs: Sequence[str]) -> str:
    """The text of a value. `codecs` come from `codecs_of`; never raises."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    try:
        return _decode_declared(raw, codecs)
    except (UnicodeDecodeError, LookupError):
        pass  # the declaration is wrong: the documented fallback follows
    try:
        return raw.decode("utf_8")
    except UnicodeDecodeError:
        return raw.decode("latin_1")


def _decode_declared(raw: bytes, codecs: Sequence[str]) -> str:
    for codec in codecs:
        if codec in _WHOLE:
            return raw.decode(codec)
    first = codecs[0] if codecs else "ascii"
    if b"\x1b" not in raw:
        # A single set; or one that comes second and was written without its escape sequence.
        for codec in codecs:
            try:
                return raw.decode(codec)
            except UnicodeDecodeError:
                continue
        return raw.decode(first)
    return "".join(_decode_fragment(part, first) for part in _FRAGMENT.split(raw) if part)


def _decode_fragment(part: bytes, first: str) -> str:
    """One stretch of text up to the next escape sequence."""
    if not part.startswith(b"\x1b"):
        return part.decode(first)
    for sequence, (codec, keep) in _ESCAPES.items():
        if part.startswith(sequence):
            text = part if keep else part[len(sequence) :]
            return text.decode(codec or first)
    raise LookupError("unknown escape sequence")


def printable(text: str) -> str:
    """`text` without control characters and lone surrogates, which no VR of one line may hold."""
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs"))
