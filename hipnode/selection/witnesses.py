"""What a header's attributes say of region, view and the rest: votes per attribute, then one fact each.

Texts of the image decide; texts of the order (which may hold several images) add a sign, flag, or
settle a region nobody else names, but never the view. A list of regions or views decides nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hipnode.selection.facts import Code, Facts
from hipnode.selection.rules import Rulebook
from hipnode.selection.words import Hit, find, fold, joined, one_word

Region = Literal["hip", "other", "within_pelvis", "femur", "list"]
View = Literal["ap", "pa", "tilted", "lateral", "list"]

BODY_PART = "BodyPartExamined"
ANATOMY = "AnatomicRegionSequence"
IMAGE_TEXTS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
IMAGE_CODES = ("PerformedProtocolCodeSequence",)
ORDER_TEXTS = ("StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription")
ORDER_CODES = ("ProcedureCodeSequence", "RequestedProcedureCodeSequence")

_REGION_LISTS = ("hip", "femur", "within_pelvis", "other_region")
_VIEW_LISTS: tuple[Literal["ap", "pa", "tilted", "lateral"], ...] = ("ap", "pa", "tilted", "lateral")


@dataclass(frozen=True)
class Text:
    """One text of the header: where it stands and what it is when folded."""

    attribute: str
    folded: str


@dataclass(frozen=True)
class RegionVote:
    """What one attribute says of the body region. words: kind -> the word as it stands there."""

    attribute: str
    vote: Region
    words: dict[str, str]

    def word(self, *kinds: str) -> str:
        """The first word of one of these kinds."""
        return next((self.words[kind] for kind in kinds if kind in self.words), "")


@dataclass(frozen=True)
class ViewVote:
    """What one attribute says of the view."""

    attribute: str
    vote: View
    word: str
    only_other: bool = False  #: lateral or tilted words, and neither AP nor a count


@dataclass(frozen=True)
class RegionFact:
    """The region fact and its witnesses, for the sentences."""

    fact: str
    region_word: str = ""
    a: str = ""
    x: str = ""
    b: str = ""
    y: str = ""


@dataclass(frozen=True)
class ViewFact:
    """The view fact and its witnesses, for the sentences."""

    fact: str
    view_word: str = ""
    a: str = ""
    b: str = ""


def texts_of(facts: Facts, keywords: Iterable[str], sequences: Iterable[str]) -> list[Text]:
    """The texts that are not empty: attributes as they are, codes by their meanings."""
    texts = [Text(k, fold(" ".join(facts.values(k)))) for k in keywords]
    texts += [Text(s, fold(code.meaning)) for s in sequences for code in facts.codes.get(s, ())]
    return [text for text in texts if text.folded]


def says(book: Rulebook, kind: str, raw: Iterable[str]) -> bool:
    """Whether a word of a list stands in one of these header values.

    Names of programs are often written in camel case (TraumaCad), so both spellings count.
    """
    return any(book.words[kind].find(fold(text)) or book.words[kind].find(fold(text.upper())) for text in raw)


# Region


def region_vote(book: Rulebook, text: Text) -> RegionVote | None:
    """What one text says of the region; None when it names none."""
    hits = find(text.folded, [book.words[kind] for kind in _REGION_LISTS])
    kinds = {hit.kind for hit in hits}
    words: dict[str, str] = {}
    for hit in hits:
        words.setdefault(hit.kind, hit.word)
    vote: Region
    if not kinds:
        return None
    if "hip" in kinds and "other_region" in kinds:
        vote = "list"
    elif "hip" in kinds and "within_pelvis" in kinds:
        together = any(joined(text.folded, a, b) for a, b in _pairs(hits, ("hip",), ("within_pelvis",)))
        vote = "list" if together else "within_pelvis"
    elif "hip" in kinds:
        vote = "hip"
    elif "other_region" in kinds:
        vote = "other"
    elif "within_pelvis" in kinds:
        vote = "within_pelvis"
    else:
        vote = "femur"
    return RegionVote(text.attribute, vote, words)


def _pairs(hits: list[Hit], one: tuple[str, ...], other: tuple[str, ...]) -> list[tuple[Hit, Hit]]:
    return [(a, b) for a in hits for b in hits if a.kind in one and b.kind in other]


def body_part_vote(book: Rulebook, facts: Facts) -> RegionVote | None:
    """BodyPartExamined; a bucket such as EXTREMITY says nothing."""
    folded = fold(" ".join(facts.values(BODY_PART)))
    if not folded or any(hit.word == folded for hit in book.words["bucket"].find(folded)):
        return None
    return region_vote(book, Text(BODY_PART, folded))


def anatomy_votes(book: Rulebook, facts: Facts) -> list[RegionVote]:
    """Each code of Anatomic Region Sequence: known by its value, else read by its meaning."""
    votes = []
    for code in facts.codes.get(ANATOMY, ()):
        vote = _anatomy_vote(book, code)
        if vote is not None:
            votes.append(vote)
    return votes


def _anatomy_vote(book: Rulebook, code: Code) -> RegionVote | None:
    if code.key in book.codes["bucket"]:
        return None
    if code.key in book.codes["hip"]:
        return RegionVote(ANATOMY, "hip", {"hip": fold(code.meaning) or code.value})
    if code.key in book.codes["femur"]:
        return RegionVote(ANATOMY, "femur", {"femur": fold(code.meaning) or code.value})
    return region_vote(book, Text(ANATOMY, fold(code.meaning)))


def coded_region(votes: list[RegionVote]) -> RegionVote | None:
    """One vote of BodyPartExamined and the coded region: femur gives way, else what differs is a list."""
    if not votes:
        return None
    decided = [v for v in votes if v.vote != "femur"] or votes
    if len({v.vote for v in decided}) == 1:
        return decided[0]
    words = {kind: word for vote in reversed(decided) for kind, word in vote.words.items()}
    return RegionVote(decided[0].attribute, "list", words)


def region_fact(
    texts: list[RegionVote], coded: RegionVote | None, order: list[RegionVote], anything: bool
) -> RegionFact:
    """Weigh the votes of the image's texts, the coded region and the order (docs/selection.md, region).

    anything: whether any attribute that could name a region has a value at all.
    """
    code = coded.vote if coded else None
    if code == "within_pelvis":
        code = "other"
    hips = [v for v in texts if v.vote == "hip"]
    others = [v for v in texts if v.vote in ("other", "within_pelvis")]
    lists = [v for v in texts if v.vote == "list"]
    if others and not hips:
        outside = [v for v in others if v.vote != "within_pelvis"]
        if code == "hip" and outside:
            return _conflict(coded, outside[0])
        return _other(others[0])
    if hips and others:
        return _conflict(hips[0], others[0])
    if hips:
        return _conflict(hips[0], coded) if code in ("other", "list") else RegionFact("hip")
    if lists:
        if code == "hip":
            return RegionFact("hip")
        return _other(coded) if code == "other" else RegionFact("unclear")
    return _without_texts(texts, coded, code, order, anything)


def _without_texts(
    texts: list[RegionVote],
    coded: RegionVote | None,
    code: str | None,
    order: list[RegionVote],
    anything: bool,
) -> RegionFact:
    """No text of the image names a region other than the femur."""
    hips = [v for v in order if v.vote == "hip"]
    others = [v for v in order if v.vote in ("other", "within_pelvis")]
    lists = [v for v in order if v.vote == "list"]
    if code == "hip":
        return RegionFact("hip")
    if code == "other":
        return _conflict(hips[0], coded) if hips and not others and not lists else _other(coded)
    if code == "list":
        return RegionFact("unclear")
    if code == "femur" or texts:
        return RegionFact("unclear" if hips else "femur")
    if lists or (hips and others):
        return RegionFact("unclear")
    if hips:
        return RegionFact("hip")
    if others:
        return _other(others[0])
    if order:
        return RegionFact("femur")
    return RegionFact("no_sign" if anything else "not_given")


def _conflict(hip: RegionVote | None, other: RegionVote | None) -> RegionFact:
    a = (hip.attribute, hip.word("hip")) if hip else ("", "")
    b = (other.attribute, other.word("other_region", "within_pelvis", "femur", "hip")) if other else ("", "")
    return RegionFact("conflict", b[1], *a, *b)


def _other(vote: RegionVote | None) -> RegionFact:
    return RegionFact("other", vote.word("other_region", "within_pelvis") if vote else "")


# View


def view_vote(book: Rulebook, text: Text) -> ViewVote | None:
    """What one text says of the view; None when it names none."""
    hits = find(text.folded, [book.words[kind] for kind in _VIEW_LISTS])
    if text.attribute == "ViewPosition":
        hits += _position_hits(book, text.folded)
    return _weighed(book, text, hits)


def _weighed(book: Rulebook, text: Text, hits: list[Hit]) -> ViewVote | None:
    fronts = [h for h in hits if h.kind in ("ap", "pa")]
    others = [h for h in hits if h.kind in ("tilted", "lateral")]
    counted = book.words["many_views"].find(text.folded)
    vote: View
    if len({h.kind for h in fronts}) == 2:
        vote = "list"
    elif fronts and others:
        angled = [h for h in others if h.kind == "tilted" or book.words["tilted_beside_ap"].find(h.word)]
        pairs = _pairs(hits, ("ap", "pa"), ("tilted", "lateral"))
        listed = any(joined(text.folded, a, b) or one_word(text.folded, a, b) for a, b in pairs)
        if listed or not angled:
            vote = "list"
        else:
            return ViewVote(text.attribute, "tilted", angled[0].word)
    elif others:
        tilted = [h for h in others if h.kind == "tilted"]
        vote = "tilted" if tilted else "lateral"
        return ViewVote(text.attribute, vote, (tilted or others)[0].word, only_other=not counted)
    elif fronts:
        vote = "ap" if fronts[0].kind == "ap" else "pa"
    elif counted:
        vote = "list"
    else:
        return None
    return ViewVote(text.attribute, vote, (fronts or counted)[0].word)


def _position_hits(book: Rulebook, folded: str) -> list[Hit]:
    """The two-letter codes of ViewPosition, which are no words of a text (LL there is "lower limb")."""
    hits = []
    for kind, words in (("lateral", "view_position_lateral"), ("tilted", "view_position_tilted")):
        hits += [Hit(kind, h.word, h.start, h.end, h.blankless) for h in book.words[words].find(folded)]
    return hits


def code_view_vote(book: Rulebook, attribute: str, code: Code) -> ViewVote | None:
    """A code of a view or view modifier: known by its value, else read by its meaning."""
    for kind in _VIEW_LISTS:
        if code.key in book.codes[kind]:
            return ViewVote(attribute, kind, fold(code.meaning) or code.value)
    return view_vote(book, Text(attribute, fold(code.meaning)))


def orientation_vote(facts: Facts) -> ViewVote | None:
    """A row direction along the patient's front-to-back axis is a lateral (PS3.3 C.7.6.1.1.1)."""
    value = tuple(v.strip().upper() for v in facts.attributes.get("PatientOrientation", ()))
    if len(value) == 2 and value[0] in ("A", "P") and value[1] in ("F", "H"):
        return ViewVote("PatientOrientation", "lateral", "\\".join(value))
    return None


def view_fact(votes: list[ViewVote], order: list[ViewVote]) -> ViewFact:
    """Weigh the votes of the image; the order may only raise a doubt (docs/selection.md, view)."""
    by_kind = {kind: [v for v in votes if v.vote == kind] for kind in (*_VIEW_LISTS, "list")}
    front = by_kind["ap"] or by_kind["pa"]
    if by_kind["tilted"]:
        return ViewFact("tilted", by_kind["tilted"][0].word)
    if by_kind["lateral"]:
        lateral = by_kind["lateral"][0]
        if front:
            return ViewFact("conflict", lateral.word, front[0].attribute, lateral.attribute)
        return ViewFact("lateral", lateral.word)
    if by_kind["pa"]:
        return ViewFact("pa", by_kind["pa"][0].word)
    if by_kind["ap"]:
        return ViewFact("ap", by_kind["ap"][0].word)
    if by_kind["list"]:
        return ViewFact("unclear", by_kind["list"][0].word)
    doubts = [v for v in order if v.only_other]
    return ViewFact("unclear", doubts[0].word) if doubts else ViewFact("not_given")
