"""Every sentence a reader meets in a result, made once and used by report, overlay, text and preview.

The words follow two rules: a negative answer says what it does not exclude, and an answer that was
not given says so; nothing here calls a film unremarkable.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hipnode.errors import SelfCheckFailed
from hipnode.findings import Algorithm, Alternative, Finding, FindingClass, ImageReading, Side, StudyReading
from hipnode.status import Outcome

NODE_NAME = "hipnode"  #: stands where no package looked
RESEARCH_USE = "For research use only; not for diagnosis."
NOT_FOR_MEASUREMENT = "Not for measurement."
NO_STATEMENT = "No statement about fracture is made."

_READ = (Outcome.FINDINGS, Outcome.NONE)
_SIDES: Mapping[Side, str] = {Side.RIGHT: "right", Side.LEFT: "left"}


@dataclass(frozen=True)
class Mark:
    """A finding with the name it has in every object of the study."""

    number: int  #: from 1, over all images of the study
    image_uid: str
    finding: Finding
    known: FindingClass
    alternative: FindingClass | None
    image: str = ""  #: "image 1 of 2", where the study has several

    @property
    def name(self) -> str:
        """The name in every object, "AI-1"."""
        return f"AI-{self.number}"

    @property
    def side(self) -> str:
        """ "R", "L", or "" where the header does not give it."""
        return str(self.finding.side.side) if self.finding.side else ""

    @property
    def tracking_identifier(self) -> str:
        """What a viewer lists the finding as, e.g. "AI-1 R Displaced femoral neck fracture"."""
        return " ".join(part for part in (self.name, self.side, self.known.meaning) if part)

    @property
    def label(self) -> tuple[str, ...]:
        """The lines beside the box in the overlay."""
        score = score_text(self.finding, short=True)
        return f"{self.name}  {self.side or 'side not given'}  {score}", self.known.meaning

    @property
    def short_sentence(self) -> str:
        """The finding in the overlay's strip: without how the side is known, and without the rule."""
        finding = self.finding
        side = f", {_SIDES[finding.side.side]}" if finding.side else ", side not given"
        text = f"{self.name}: {self.known.meaning}{side}, {score_text(finding)}{self._level}"
        if self.alternative and finding.alternative:
            other = score_text(finding.alternative, short=True)
            text += f"; or {_lower(self.alternative.meaning)}, {other}"
        return f"{text}."

    @property
    def sentence(self) -> str:
        """The finding in words, with score, side and how it is known, alternative and rule."""
        finding = self.finding
        side = (
            f"{_SIDES[finding.side.side]} (side known from {finding.side.source})"
            if finding.side
            else "side not given by the image"
        )
        place = f"{side}, {self.image}" if self.image else side
        text = f"{self.name}: {self.known.meaning}, {place}, {score_text(finding)}{self._level}."
        if self.alternative and finding.alternative:
            other = score_text(finding.alternative)
            text += f" Alternative: {_lower(self.alternative.meaning)}, {other}."
        if finding.rule:
            text += f" Class chosen by rule: {finding.rule}."
        return text

    @property
    def _level(self) -> str:
        return f", {self.finding.level} by the package's two thresholds" if self.finding.level else ""


@dataclass(frozen=True)
class Statement:
    """What a result says, in the order a reader takes it in."""

    heading: str  #: a few words, the banner
    summary: str  #: one sentence
    findings: tuple[str, ...]  #: one sentence each
    notes: tuple[str, ...]  #: images that failed, "analysed although ..."
    algorithm: str  #: who looked
    provenance: tuple[str, ...]  #: where the weights come from, limits, intended use

    @property
    def wording(self) -> list[str]:
        """Every sentence: part of the canonical content."""
        return [self.heading, self.summary, *self.findings, *self.notes, self.algorithm, *self.provenance]


def score_text(said: Finding | Alternative, short: bool = False) -> str:
    """The certainty in words; the score where the package is not calibrated."""
    if said.certainty is not None:
        percent = f"{min(max(round(100 * said.certainty), 1), 99)} %"  # no film says 0 or 100
        return percent if short else f"certainty {percent}"
    return f"AI score {said.score:.2f}" + ("" if short else " (uncalibrated)")


def number_marks(reading: StudyReading, algorithm: Algorithm | None) -> list[Mark]:
    """Name the findings of a study, image by image. Raises SelfCheckFailed on a class nobody declared."""
    marks: list[Mark] = []
    count = len(reading.images)
    for position, image in enumerate(reading.images, 1):
        for finding in image.findings:
            other = finding.alternative
            marks.append(
                Mark(
                    number=len(marks) + 1,
                    image_uid=image.sop_instance_uid,
                    finding=finding,
                    known=_class_named(algorithm, finding.class_name),
                    alternative=_class_named(algorithm, other.class_name) if other else None,
                    image=f"image {position} of {count}" if count > 1 else "",
                )
            )
    return marks


def say_study(reading: StudyReading, marks: Sequence[Mark], algorithm: Algorithm | None) -> Statement:
    """What the report says of the whole study."""
    who = _who(algorithm)
    count = len(reading.images)
    notes: list[str] = []
    for position, image in enumerate(reading.images, 1):
        name = f"Image {position} of {count}: " if count > 1 else ""
        if image.outcome is Outcome.NONE and count > 1:
            notes.append(f"{name}{_nothing_found(who)}")
        elif image.outcome not in _READ and (count > 1 or image.reason != reading.reason):
            notes.append(f"{name}{_not_analysed(image)}")
        notes += [f"{name}{_although(flag.sentence, image)}" for flag in image.flags]
    outcome = reading.outcome
    reason = reading.reason.sentence if reading.reason else ""
    if outcome is Outcome.PARTIAL:
        found = "POSSIBLE FRACTURE MARKED" if marks else "NO FRACTURE DETECTED IN WHAT WAS READ"
        heading = f"AI: {found}, STUDY ONLY PARTLY ANALYSED"
        summary = f"Partly analysed by {who}: {_read_of(reading)} images could be read. " + (
            _found(marks, who, count) if marks else _nothing_found(who)
        )
    elif outcome is Outcome.FINDINGS:
        heading, summary = "AI: POSSIBLE FRACTURE MARKED", _found(marks, who, count)
    elif outcome is Outcome.NONE:
        heading, summary = _NOTHING, _nothing_found(who)
    elif outcome is Outcome.NOT_ANALYSED:
        heading, summary = "AI: NOT ANALYSED", f"Not analysed: {reason} {NO_STATEMENT}"
    else:
        heading, summary = "AI: ANALYSIS FAILED", f"The analysis failed: {reason} {NO_STATEMENT}"
    return Statement(
        heading, summary, tuple(m.sentence for m in marks), tuple(notes), who, _provenance(algorithm)
    )


def say_image(
    images: Sequence[ImageReading],
    marks: Sequence[Mark],
    algorithm: Algorithm | None,
    reading: StudyReading,
) -> Statement:
    """What one overlay says: of one image of `reading`, or of several that ended alike. `marks`: theirs."""
    who, image = _who(algorithm), images[0]
    beside = _marked_beside(images, reading)
    reason = image.reason.sentence if image.reason else ""
    if image.outcome is Outcome.FINDINGS:
        heading, summary = "AI: POSSIBLE FRACTURE MARKED", _found(marks, who, 1)
    elif image.outcome is Outcome.NONE:
        heading, summary = (_NOTHING_HERE if beside else _NOTHING), _nothing_found(who, bool(beside))
    elif image.outcome is Outcome.NOT_ANALYSED:
        heading, summary = "AI: NOT ANALYSED", f"{reason} {NO_STATEMENT}"
    else:
        heading, summary = "AI: ANALYSIS FAILED", f"{reason} {NO_STATEMENT}"
    notes = [beside] if beside else []
    notes += [_although(flag.sentence, image) for flag in image.flags]
    if reading.outcome is Outcome.PARTIAL:
        notes.append(f"The study was only partly analysed: {_read_of(reading)} images could be read.")
    short = tuple(mark.short_sentence for mark in marks)
    return Statement(heading, summary, short, tuple(notes), who, _provenance(algorithm))


def result_text(
    reading: StudyReading, algorithm: Algorithm | None, analysed_at: datetime, width: int = 0
) -> str:
    """The result as plain text, the same sentences as in the report. width: wrap at it, 0 does not wrap."""
    marks = number_marks(reading, algorithm)
    said = say_study(reading, marks, algorithm)
    lines = [said.heading, "", said.summary]
    for mark in marks:
        box = mark.finding.box
        lines.append(
            f"  {mark.sentence} Box: columns {box.column_min:.0f} to {box.column_max:.0f}, "
            f"rows {box.row_min:.0f} to {box.row_max:.0f}."
        )
    lines += [f"  {note}" for note in said.notes]
    lines += ["", said.algorithm, f"Analysed {analysed_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"]
    if algorithm:
        weights = f", weights SHA-256 {algorithm.sha256}" if algorithm.sha256 else ""
        lines.append(f"Package {algorithm.package_id}{weights}")
    lines += said.provenance
    if width:
        lines = [
            wrapped
            for line in lines
            for wrapped in (textwrap.wrap(line, width, subsequent_indent="    ") or [""])
        ]
    return "\n".join(lines) + "\n"


_NOTHING = "AI: NO FRACTURE DETECTED, DOES NOT EXCLUDE FRACTURE"
_NOTHING_HERE = "AI: NO FRACTURE DETECTED IN THIS IMAGE, DOES NOT EXCLUDE FRACTURE"


def _class_named(algorithm: Algorithm | None, name: str) -> FindingClass:
    try:
        if algorithm is not None:
            return algorithm.class_named(name)
    except KeyError:
        pass
    raise SelfCheckFailed(f"A finding names the class {name!r}, which the model package does not declare.")


def _who(algorithm: Algorithm | None) -> str:
    return f"{algorithm.name} {algorithm.version}".strip() if algorithm else NODE_NAME


def _read_of(reading: StudyReading) -> str:
    read = sum(image.outcome in _READ for image in reading.images)
    return f"{read} of {len(reading.images)}"


def _found(marks: Sequence[Mark], who: str, images: int) -> str:
    count = "1 region" if len(marks) == 1 else f"{len(marks)} regions"
    where = _where(marks, images)
    return f"{count} suspicious for fracture marked by {who}{where}; other fractures are not excluded."


def _where(marks: Sequence[Mark], images: int) -> str:
    """In how many images and in which hips the regions lie: two regions may be one hip, seen twice."""
    marked = len({mark.image_uid for mark in marks})
    where = f" in {marked} of {images} images" if images > 1 else ""
    if len(marks) == 1:
        return where
    sides = {mark.finding.side.side if mark.finding.side else None for mark in marks}
    if None in sides:
        return where + (", which may show the same hip" if marked > 1 else "")
    if len(sides) == 2:
        return f"{where}, in the right and the left hip"
    (side,) = {mark.finding.side.side for mark in marks if mark.finding.side}
    return f"{where}, {'both' if len(marks) == 2 else 'all'} in the {_SIDES[side]} hip"


def _marked_beside(images: Sequence[ImageReading], reading: StudyReading) -> str:
    """Which other images of the study are marked: an overlay may be the only one a reader opens."""
    mine = {image.sop_instance_uid for image in images}
    places = {image.sop_instance_uid: place for place, image in enumerate(reading.images, 1)}
    others = [
        places[i.sop_instance_uid] for i in reading.images if i.findings and i.sop_instance_uid not in mine
    ]
    if not others:
        return ""
    here = _images([places[uid] for uid in mine]).capitalize()
    verb = "is marked" if len(others) == 1 else "are marked"
    also = " as well" if any(image.findings for image in images) else ""
    return f"{here} of {len(places)}; {_images(others)} of this study {verb}{also}."


def _images(places: Sequence[int]) -> str:
    *most, last = sorted(places)
    return f"images {', '.join(map(str, most))} and {last}" if most else f"image {last}"


def _nothing_found(who: str, here: bool = False) -> str:
    return f"No fracture detected{' in this image' if here else ''} by {who}; does not exclude fracture."


def _not_analysed(image: ImageReading) -> str:
    reason = image.reason.sentence if image.reason else "no reason was recorded."
    return f"Not analysed: {reason} {NO_STATEMENT}"


def _although(sentence: str, image: ImageReading) -> str:
    return f"{'Analysed although' if image.outcome in _READ else 'Noted before'}: {sentence}"


def _provenance(algorithm: Algorithm | None) -> tuple[str, ...]:
    of_package = (algorithm.origin, *algorithm.limits) if algorithm else ()
    return (*(text for text in of_package if text), RESEARCH_USE, NOT_FOR_MEASUREMENT)


def _lower(meaning: str) -> str:
    """A meaning in the middle of a sentence; an acronym at its start stays."""
    return meaning if meaning[1:2].isupper() else meaning[:1].lower() + meaning[1:]
