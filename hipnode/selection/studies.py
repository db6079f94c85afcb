"""Decisions beyond one object: which films of a study are kept, and `explain` for people."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hipnode.errors import ImageRejected
from hipnode.findings import Reason
from hipnode.selection.deciding import Decision, Selection
from hipnode.selection.facts import Facts
from hipnode.status import ReasonCode


@dataclass(frozen=True)
class StudySelection:
    """The films of one study after a look at them together.

    decisions: one per film, in the order given; a FOR PROCESSING film whose FOR PRESENTATION
        twin is kept has become a skip.
    kept: positions of the films to be analysed.
    reason: why the study is not applicable, when nothing is kept; else None.
    """

    decisions: tuple[Decision, ...]
    kept: tuple[int, ...]
    reason: Reason | None


def select_study(films: Sequence[tuple[Facts, Decision]]) -> StudySelection:
    """Look at all objects of a study together.

    When all are skipped, the reason is that of the film that got furthest down the rules: the
    nearest miss. An empty study has reason NOT_A_RADIOGRAPH.
    """
    shown = [facts for facts, decision in films if not decision.skipped and not _is_raw(facts)]
    decisions = []
    for facts, decision in films:
        if not decision.skipped and _is_raw(facts) and any(_are_twins(facts, other) for other in shown):
            decision = replace(
                decision, decision="skip", reason=Reason.of(ReasonCode.TWIN_FOR_PRESENTATION), package=""
            )
        decisions.append(decision)
    kept = tuple(i for i, decision in enumerate(decisions) if not decision.skipped)
    reason = None
    if not kept:
        nearest = max(decisions, key=lambda decision: decision.depth, default=None)
        reason = nearest.reason if nearest else Reason.of(ReasonCode.NOT_A_RADIOGRAPH)
    return StudySelection(tuple(decisions), kept, reason)


def select_films(films: Sequence[Facts], selection: Selection) -> list[Decision]:
    """The decision on each film of any number of studies, made study by study, in the order given."""
    places: dict[str, list[int]] = {}
    for place, facts in enumerate(films):
        places.setdefault(facts.first("StudyInstanceUID"), []).append(place)
    made: dict[int, Decision] = {}
    for study in places.values():
        chosen = select_study([(films[place], selection.decide(films[place])) for place in study])
        made.update(zip(study, chosen.decisions, strict=True))
    return [made[place] for place in range(len(films))]


def _is_raw(facts: Facts) -> bool:
    return facts.first("PresentationIntentType").upper() == "FOR PROCESSING" or (
        facts.sop_class_uid == "1.2.840.10008.5.1.4.1.1.1.1.1"
    )


def _are_twins(raw: Facts, shown: Facts) -> bool:
    """Whether two films are one exposure: by reference, by irradiation event, by time, else by place."""
    if raw.sop_instance_uid in shown.source_uids:
        return True
    for keywords in (("IrradiationEventUID",), ("AcquisitionDate", "AcquisitionTime")):
        a, b = ([facts.values(k) for k in keywords] for facts in (raw, shown))
        if all(a) and all(b):
            return a == b
    place = ("BodyPartExamined", "ViewPosition", "ImageLaterality", "Laterality")
    return all(raw.values(keyword) == shown.values(keyword) for keyword in place)


@dataclass(frozen=True)
class Explanation:
    """Would this file be analysed, and why or why not.

    `decision` is None, and `error` one sentence, when the file cannot be read.
    """

    file: Path
    decision: Decision | None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: file, decision, reason, sentence, flags, rule, matched, package, votes."""
        if self.decision is None:
            return {"file": str(self.file), "decision": None, "error": self.error}
        made = self.decision
        return {
            "file": str(self.file),
            "decision": made.decision,
            "reason": made.reason.code.value,
            "sentence": made.reason.sentence,
            "flags": [flag.code.value for flag in made.flags],
            "flag_sentences": [flag.sentence for flag in made.flags],
            "rule": made.rule,
            "matched": list(made.matched),
            "package": made.package,
            "votes": [{"attribute": v.attribute, "value": v.value, "vote": v.vote} for v in made.votes],
        }


def explain(
    paths: Iterable[Path], selection: Selection, read_facts: Callable[[Path], Facts]
) -> Iterator[Explanation]:
    """Decide on files by their headers alone, as they come; an unreadable one does not stop the rest.

    read_facts: `Children.read_facts`, so that a malformed file costs a child and not this process.
    """
    for path in paths:
        try:
            if not path.is_file():
                yield Explanation(path, None, f"There is no file {path}.")
                continue
            yield Explanation(path, selection.decide(read_facts(path)))
        except ImageRejected as rejection:
            yield Explanation(path, None, f"{path} cannot be read: {rejection.sentence}")
