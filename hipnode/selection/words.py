"""Words of many languages in header texts: folding, matching, and which two words are joined.

A text is folded to upper case tokens separated by single blanks; a joiner ("+", "/", ",", "und")
becomes the token "+". Words of scripts written without blanks are found anywhere in it.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Letters that do not decompose into a base letter and a mark.
_LETTERS = str.maketrans(
    {"Ø": "O", "ø": "o", "Ł": "L", "ł": "l", "ß": "ss", "İ": "I", "ı": "i", "Đ": "D", "đ": "d"}
    | {"Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe"}
)
_JOINERS = frozenset("+&/,;・、と及和및")
_JOINING_WORDS = frozenset({"AND", "UND", "ET", "Y", "E", "EN", "OG", "OCH"})
# a.p., A-P, a.-p., A/P (and the same of PA), standing alone
_BEAM = re.compile(r"(?<![^\W_])(?:(A)\s*[./-]+\s*(P)|(P)\s*[./-]+\s*(A))(?![^\W_])")
_BLANKLESS = re.compile(
    "[\u0590-\u08ff"  # Hebrew, Arabic
    "\u0e00-\u0e7f"  # Thai
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"  # Hangul
    "\u3040-\u30ff"  # Kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"  # Han
)


def fold(text: str) -> str:
    """Tokens in upper case without accents, separated by blanks; joiners are tokens "+"."""
    text = _split_camel_case(text).translate(_LETTERS)
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    upper = unicodedata.normalize("NFC", bare).upper()
    upper = _BEAM.sub(lambda m: "".join(g for g in m.groups() if g), upper)
    tokens = _separated(upper).split()
    for i in range(1, len(tokens) - 1):
        if tokens[i] in _JOINING_WORDS and "+" not in (tokens[i - 1], tokens[i + 1]):
            tokens[i] = "+"
    return " ".join(tokens)


def _split_camel_case(text: str) -> str:
    """HipAP -> Hip AP, XTable -> X Table; HIPs stays."""
    parts = []
    for i, letter in enumerate(text):
        after_lower = i > 0 and text[i - 1].islower() and letter.isupper()
        last_capital = (
            i > 0
            and text[i - 1].isupper()
            and letter.isupper()
            and text[i + 1 : i + 2].islower()
            and text[i + 2 : i + 3].islower()
        )
        parts.append(" " + letter if after_lower or last_capital else letter)
    return "".join(parts)


def _separated(text: str) -> str:
    """Blanks where words end: at what is no letter or digit, and where the script changes."""
    out: list[str] = []
    before = ""
    for letter in text:
        if letter in _JOINERS:
            out.append(" + ")
            before = ""
            continue
        if not letter.isalnum() and not unicodedata.category(letter).startswith("M"):
            out.append(" ")
            before = ""
            continue
        if before and bool(_BLANKLESS.match(before)) != bool(_BLANKLESS.match(letter)):
            out.append(" ")
        out.append(letter)
        before = letter
    return "".join(out)


@dataclass(frozen=True)
class Hit:
    """A word of a list found in a folded text, at text[start:end]."""

    kind: str  #: the list's name
    word: str  #: as it stands in the text
    start: int
    end: int
    blankless: bool  #: of a script written without blanks


class WordList:
    """One list of words. In each, `*` ends a word anyhow; several words must follow each other."""

    def __init__(self, kind: str, words: Iterable[str]) -> None:
        self.kind = kind
        plain: list[str] = []
        self._blankless: list[str] = []
        for word in words:
            if _BLANKLESS.search(word):
                self._blankless.append(fold(word.rstrip("*")).replace(" ", ""))
            else:
                parts = [
                    re.escape(fold(part.rstrip("*"))) + r"\S*" * part.endswith("*") for part in word.split()
                ]
                plain.append(" ".join(parts))
        self._plain = [re.compile(rf"(?<!\S){pattern}(?!\S)") for pattern in plain]

    def find(self, text: str) -> list[Hit]:
        """Each place of a folded text where a word of the list stands."""
        hits = [
            Hit(self.kind, m.group(), m.start(), m.end(), blankless=False)
            for pattern in self._plain
            for m in pattern.finditer(text)
        ]
        if self._blankless and _BLANKLESS.search(text):
            places = [i for i, letter in enumerate(text) if letter != " "]
            dense = text.replace(" ", "")
            for word in self._blankless:
                for m in re.finditer(re.escape(word), dense):
                    start, end = places[m.start()], places[m.end() - 1] + 1
                    hits.append(Hit(self.kind, text[start:end], start, end, blankless=True))
        return hits


def find(text: str, lists: Sequence[WordList]) -> list[Hit]:
    """Hits of all lists, in the order of the text; a phrase swallows the shorter word inside it."""
    hits = {hit for words in lists for hit in words.find(text)}
    kept = [
        hit
        for hit in hits
        if not any(
            other.start <= hit.start
            and hit.end <= other.end
            and other.end - other.start > hit.end - hit.start
            for other in hits
        )
    ]
    return sorted(kept, key=lambda hit: (hit.start, hit.end, hit.kind))


def joined(text: str, a: Hit, b: Hit) -> bool:
    """Whether a joiner stands between two hits."""
    first, second = sorted((a, b), key=lambda hit: hit.start)
    return "+" in text[first.end : second.start].split()


def one_word(text: str, a: Hit, b: Hit) -> bool:
    """Whether two hits stand in one word of a script written without blanks."""
    first, second = sorted((a, b), key=lambda hit: hit.start)
    return a.blankless and b.blankless and " " not in text[first.start : second.end]
