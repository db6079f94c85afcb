"""selection.toml: ordered named rules, switches, words and codes. A bad file names all its problems."""

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from hipnode.errors import SettingsError
from hipnode.selection.facts import may_be_asked
from hipnode.selection.words import WordList
from hipnode.status import ReasonCode

#: The facts a rule may ask for, and what each may be (docs/selection.md calls them by these names).
FACTS: dict[str, frozenset[str | bool]] = {
    "own": frozenset({True, False}),
    "object": frozenset({"radiograph", "digitised", "screen", "not_image", "other_class"}),
    "modality": frozenset({"radiography", "unusual", "other"}),
    "colour": frozenset({True, False}),
    "frames": frozenset({"one", "many"}),
    "derived": frozenset({True, False}),
    "species": frozenset({"human", "animal", "not_given"}),
    "size": frozenset({"enough", "small"}),
    "long_leg": frozenset({True, False}),
    "exam": frozenset({"plain", "bone_density", "special"}),
    "calibration": frozenset({True, False}),
    "raw": frozenset({True, False}),
    "region": frozenset({"hip", "other", "femur", "no_sign", "not_given", "conflict", "unclear"}),
    "view": frozenset({"ap", "pa", "tilted", "lateral", "conflict", "unclear", "not_given"}),
    "age": frozenset({"adult", "child", "not_given"}),
    "implant": frozenset({"none", "named", "asked"}),
}
#: Words the sentence of a rule may name beside header values and switches.
_WITNESSES = frozenset({"region_word", "view_word", "a", "b", "x", "y", "SOPClass"})
_ENDINGS = ("skip", "analyse", "flag")
_RULE_KEYS = frozenset({"name", "when", "then", "reason", "say", "package"})

_SITE_TYPES: dict[str, type | tuple[type, ...]] = {
    "package": str,
    "min_age": (int, float),
    "min_side_px": int,
    "max_aspect": (int, float),
    "other_modalities": list,
    "unusual_modalities": list,
    "image_type_skip": list,
    "image_type_long_leg": list,
}
_SWITCHES: dict[str, tuple[str, ...]] = {
    "uncertain": ("analyse_flag", "skip", "analyse"),
    "region_not_given": ("skip", "flag", "analyse"),
    "implant": ("skip", "flag", "analyse"),
}


@dataclass(frozen=True)
class Rule:
    """One rule: when all of `when` holds, then ..."""

    name: str
    when: Mapping[str, tuple[Any, ...]]  #: fact or keyword -> values of which one must hold
    then: str  #: "skip", "analyse" or "flag"
    reason: ReasonCode
    say: str
    package: str


@dataclass(frozen=True)
class Rulebook:
    """A whole selection.toml, checked."""

    rules: tuple[Rule, ...]
    site: Mapping[str, Any]
    words: Mapping[str, WordList]
    codes: Mapping[str, frozenset[str]]


@dataclass
class _Problems:
    where: str
    found: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.found.append(text)


def load_rulebook(path: Path | None) -> Rulebook:
    """The shipped selection.toml, or a site's: what that leaves out stays as shipped.

    `above` in a site's file stands above the rules, `rule` replaces them; [site], [words] and
    [codes] are taken key by key. Raises SettingsError that lists every problem of the file.
    """
    shipped = tomllib.loads(resources.files("hipnode").joinpath("selection.toml").read_text("utf-8"))
    where = "the shipped selection.toml"
    given: dict[str, Any] = {}
    if path is not None:
        where = str(path)
        given = _parsed(path)
    problems = _Problems(where)
    for key in given.keys() - {"rule", "above", "site", "words", "codes"}:
        problems.add(f"{key}: there is no such table; rule, above, site, words and codes are")
    site = {**shipped["site"], **_table(given, "site", problems)}
    words = {**shipped["words"], **_table(given, "words", problems)}
    codes = {**shipped["codes"], **_table(given, "codes", problems)}
    _check_site(site, problems)
    _check_lists("words", words, shipped["words"], problems)
    _check_lists("codes", codes, shipped["codes"], problems)
    raw = [
        *_rule_tables(given, "above", [], problems),
        *_rule_tables(given, "rule", shipped["rule"], problems),
    ]
    rules = tuple(rule for i, table in enumerate(raw, 1) if (rule := _rule(table, i, site, problems)))
    if not problems.found and (not rules or rules[-1].when or rules[-1].then == "flag"):
        problems.add("the last rule must hold always (when = {}) and say skip or analyse")
    if problems.found:
        raise SettingsError("\n  ".join([f"{where} cannot be used:", *problems.found]))
    return Rulebook(
        rules=rules,
        site=site,
        words={kind: WordList(kind, entries) for kind, entries in words.items()},
        codes={kind: frozenset(entries) for kind, entries in codes.items()},
    )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML file: {error}.") from error


def _table(given: dict[str, Any], key: str, problems: _Problems) -> dict[str, Any]:
    table = given.get(key, {})
    if isinstance(table, dict):
        return table
    problems.add(f"[{key}] must be a table")
    return {}


def _rule_tables(given: dict[str, Any], key: str, default: list[Any], problems: _Problems) -> list[Any]:
    tables = given.get(key, default)
    if isinstance(tables, list):
        return tables
    problems.add(f"{key} must be a list of rules")
    return []


def _check_site(site: dict[str, Any], problems: _Problems) -> None:
    for key, value in site.items():
        if key in _SWITCHES:
            if value not in _SWITCHES[key]:
                problems.add(f"site.{key} is {value!r}; it may be {', '.join(_SWITCHES[key])}")
        elif key not in _SITE_TYPES:
            problems.add(f"site.{key}: there is no such switch")
        elif not isinstance(value, _SITE_TYPES[key]) or isinstance(value, bool):
            problems.add(f"site.{key} is {value!r}, which is of the wrong type")
        elif isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            problems.add(f"site.{key} must be a list of strings")


def _check_lists(table: str, given: dict[str, Any], known: Mapping[str, Any], problems: _Problems) -> None:
    for key, value in given.items():
        if key not in known:
            problems.add(f"{table}.{key}: there is no such list")
        elif not isinstance(value, list) or not all(isinstance(v, str) and v.strip("* ") for v in value):
            problems.add(f"{table}.{key} must be a list of strings that are not empty")


def _rule(table: Any, number: int, site: Mapping[str, Any], problems: _Problems) -> Rule | None:
    """One checked rule; None, with its problems noted, when it cannot be used."""
    if not isinstance(table, dict):
        problems.add(f"rule {number} is no table")
        return None
    name = table.get("name")
    called = f"rule {name!r}" if isinstance(name, str) and name else f"rule {number}"
    before = len(problems.found)
    if not isinstance(name, str) or not name:
        problems.add(f"{called} has no name")
    for key in table.keys() - _RULE_KEYS:
        problems.add(f"{called}: {key} is no part of a rule")
    when = _when(table.get("when"), called, problems)
    then = _then(table.get("then"), called, site, problems)
    reason = table.get("reason", ReasonCode.SITE_RULE)
    if reason not in ReasonCode.__members__:
        problems.add(f"{called}: {reason!r} is no reason code")
    say, package = table.get("say", ""), table.get("package", "")
    if not isinstance(say, str) or not isinstance(package, str):
        problems.add(f"{called}: say and package must be strings")
    else:
        _check_sentence(say, called, site, problems)
    if len(problems.found) > before:
        return None
    return Rule(str(name), when, then, ReasonCode[reason], say or ReasonCode[reason].sentence, package)


def _when(when: Any, called: str, problems: _Problems) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, dict):
        problems.add(f"{called} has no `when` table; when = {{}} holds always")
        return {}
    asked: dict[str, tuple[Any, ...]] = {}
    for key, value in when.items():
        values = tuple(value) if isinstance(value, list) else (value,)
        if key in FACTS:
            for v in values:
                if not isinstance(v, str | bool) or v not in FACTS[key]:
                    may = ", ".join(sorted(str(known).lower() for known in FACTS[key]))
                    problems.add(f"{called}: {key} is never {v!r}; it may be {may}")
        elif key != "SOPClass" and not may_be_asked(key):
            problems.add(f"{called}: {key} is no fact and no attribute a rule may ask for")
        elif not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
            problems.add(f"{called}: {key} must be compared with strings or numbers")
        asked[key] = values
    return asked


def _then(then: Any, called: str, site: Mapping[str, Any], problems: _Problems) -> str:
    if isinstance(then, str) and then.startswith("site."):
        switch = then.removeprefix("site.")
        if switch in _SWITCHES and site.get(switch) in _ENDINGS:
            return str(site[switch])
    if then in _ENDINGS:
        return str(then)
    problems.add(f"{called}: then is {then!r}; it may be skip, analyse, flag or site.<switch>")
    return "skip"


def _check_sentence(say: str, called: str, site: Mapping[str, Any], problems: _Problems) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(say) if name is not None]
    except ValueError as error:
        problems.add(f"{called}: the sentence cannot be filled in ({error})")
        return
    for name in names:
        if name not in _WITNESSES and name not in site and not may_be_asked(name):
            problems.add(f"{called}: the sentence names {{{name}}}, which is nothing a rule may tell")
