"""Walk the rules for one object: analyse, analyse with flags, or skip, and why."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hipnode.findings import Reason
from hipnode.selection.facts import Facts
from hipnode.selection.header import Header, Vote, read_header
from hipnode.selection.rules import FACTS, Rule, Rulebook, load_rulebook
from hipnode.status import ReasonCode

#: The rule no file can change.
OWN_OUTPUT = "own output"


@dataclass(frozen=True)
class Decision:
    """What happens to one object.

    reason: of the deciding rule; of the first flag when the film is uncertain.
    flags: "analysed although ...", in the order of the rules; they go into every result.
    rule: the rule that ended the walk; matched: all that held, in order.
    depth: how far down the rules the walk came, for the study's reason when all is skipped.
    votes: each attribute looked at, with its value and what it says.
    """

    decision: Literal["analyse", "analyse_flag", "skip"]
    reason: Reason
    flags: tuple[Reason, ...] = ()
    rule: str = ""
    package: str = ""
    votes: tuple[Vote, ...] = ()
    matched: tuple[str, ...] = ()
    depth: int = 0

    @property
    def skipped(self) -> bool:
        """Whether the object is left out."""
        return self.decision == "skip"


class Selection:
    """The rules in force."""

    def __init__(self, book: Rulebook) -> None:
        self.book = book

    @classmethod
    def load(cls, path: Path | None) -> "Selection":
        """The shipped rules, or a site's file over them. Raises SettingsError that lists each problem."""
        return cls(load_rulebook(path))

    @property
    def packages(self) -> tuple[str, ...]:
        """Ids of the model packages the rules in force may ask for."""
        asking = [rule for rule in self.book.rules if rule.then != "skip"]
        by_default = any(rule.then == "analyse" and not rule.package for rule in asking)
        named = [*(rule.package for rule in asking), str(self.book.site["package"]) if by_default else ""]
        return tuple(dict.fromkeys(name for name in named if name))

    def decide(self, facts: Facts, own: bool = False) -> Decision:
        """Decide on one object. own: the caller knows its UID as one of ours (RELIABILITY section 5)."""
        header = read_header(facts, self.book, own)
        if header.facts["own"]:  # before any rule of a site: our output must never come back as input
            return Decision(
                "skip", Reason.of(ReasonCode.OWN_OUTPUT), (), OWN_OUTPUT, "", header.votes, (OWN_OUTPUT,), 0
            )
        flags: list[tuple[Rule, Reason]] = []
        matched: list[str] = []
        for depth, rule in enumerate(self.book.rules):
            if not all(_holds(key, values, header, facts) for key, values in rule.when.items()):
                continue
            matched.append(rule.name)
            reason = Reason(rule.reason, _sentence(rule, header, facts, self.book))
            if rule.then == "flag":
                flags.append((rule, reason))
                continue
            return self._ended(rule, reason, flags, header, matched, depth)
        raise AssertionError("a rulebook ends with a rule that always holds")

    def _ended(
        self,
        rule: Rule,
        reason: Reason,
        flags: list[tuple[Rule, Reason]],
        header: Header,
        matched: list[str],
        depth: int,
    ) -> Decision:
        ending: Literal["analyse", "analyse_flag", "skip"] = "skip" if rule.then == "skip" else "analyse"
        if ending == "analyse" and flags:
            ending = self.book.site["uncertain"]
            if ending != "analyse":
                reason = flags[0][1]
        # The rule that analyses names the package; a flag may name one for its own films.
        named = [rule.package, *(flag.package for flag, _ in flags), str(self.book.site["package"])]
        return Decision(
            decision=ending,
            reason=reason,
            flags=tuple(flag for _, flag in flags),
            rule=rule.name,
            package=next(name for name in named if name) if ending != "skip" else "",
            votes=header.votes,
            matched=tuple(matched),
            depth=depth,
        )


def _holds(key: str, values: tuple[Any, ...], header: Header, facts: Facts) -> bool:
    """Whether a fact, or a header value, is one of those asked for."""
    if key in FACTS:
        return header.facts[key] in values
    said = [facts.sop_class_name] if key == "SOPClass" else facts.attributes.get(key, ())
    return any(_equal(str(value), there) for value in values for there in said)


def _equal(asked: str, there: str) -> bool:
    """Equal but for case and blanks at the ends; as numbers where both are; `DXA*` is a beginning."""
    asked, there = asked.strip().casefold(), there.strip().casefold()
    if asked.endswith("*"):
        return there.startswith(asked[:-1])
    if asked == there:
        return True
    try:
        return float(asked) == float(there)
    except ValueError:
        return False


def _sentence(rule: Rule, header: Header, facts: Facts, book: Rulebook) -> str:
    """The rule's sentence with header values, switches and witnesses put in."""
    words = _Words(book.site)
    words.update({key: "\\".join(values) for key, values in facts.attributes.items()})
    words.update(header.words)
    if "region" not in rule.when:  # two witnesses each: those of the region, or those of the view
        words["a"], words["b"] = header.words["view_a"], header.words["view_b"]
    return rule.say.format_map(words)


class _Words(dict[str, Any]):
    """What a sentence may name; an attribute that is absent or empty is called so."""

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, "")
        return "none" if value == "" else value
