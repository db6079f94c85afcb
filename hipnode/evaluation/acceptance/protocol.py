"""The acceptance protocol: what was decided before the run, read from `protocol.toml` and hashed. Pure.

Its hash is that of what it says, not of the file: comments, blanks and the order of keys do not change it,
everything else does. A word it does not know is an error, and all problems are told at once.
"""

import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence
from datetime import date
from math import floor
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hipnode.errors import HipnodeError
from hipnode.evaluation.films.stress import StressUnknown, change
from hipnode.evaluation.statistics.intervals import Z_95
from hipnode.evaluation.statistics.resampling import DEFAULT_RESAMPLES

ANY = "any"  # the question whether there is any fracture
FEWEST = 10  # patients; below, a value alone or an area says nothing (the tables warn below 10 events)
METRICS = {
    "sensitivity": "positives",
    "specificity": "negatives",
    "auc": "both",
    "right_place": "positives",
    "unread": "all",
}
"""What a hypothesis may be about, and of which units it needs a minimum. `right_place`: the class is called
and a box of it covers the reference with IoU 0.5 or more; `unread`: the share of units without an answer."""

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hypothesis(_Table):
    """One number that must lie on the right side of its bound.

    class_name: a class, or "any": any fracture at all
    by: "lower limit": the 95 % interval as a whole lies above the bound (for `unread`: below it);
        "value": only the value does, which chance can do for a package that is no better than the bound
    minimum: patients it needs in place of the protocol's own
    """

    metric: Literal["sensitivity", "specificity", "auc", "right_place", "unread"]
    class_name: Annotated[Line, Field(alias="class")] = ANY
    bound: Share
    by: Literal["lower limit", "value"] = "lower limit"
    minimum: Count | None = None

    @property
    def below(self) -> bool:
        """Whether small values are the good ones."""
        return self.metric == "unread"

    @property
    def says(self) -> str:
        """The hypothesis in words."""
        of = (
            ""
            if self.metric == "unread"
            else f" for {'any fracture' if self.class_name == ANY else self.class_name}"
        )
        names = {"auc": "AUC", "right_place": "sensitivity at the right place", "unread": "share not read"}
        limit = "upper" if self.below else "lower"
        what = f"{limit} 95 % limit" if self.by == "lower limit" else "value"
        return f"{names.get(self.metric, self.metric)}{of}: {what} {'below' if self.below else 'above'} {self.bound:g}"


class Thresholds(_Table):
    """Where a class starts to count as called.

    source: "package": as the package fires; "protocol": as `values` says; "validation": chosen on the
        validation part, by Youden or as the highest threshold with `sensitivity`
    """

    source: Annotated[Literal["package", "protocol", "validation"], Field(alias="from")] = "package"
    values: dict[str, Share] = Field(default_factory=dict)
    sensitivity: Share | None = None


class Minimum(_Table):
    """How many patients a hypothesis needs: with what it is about, or without."""

    positives: Count
    negatives: Count


class Strata(_Table):
    """Which subgroups are looked at, and what a flagged one does.

    fewest: units a stratum needs to be able to fail the run
    flagged: "note": it is printed; "fail": a stratum that is worse than the whole fails the run
    """

    columns: tuple[Line, ...] = ()
    fewest: Count = 20
    flagged: Literal["note", "fail"] = "note"


class Stress(_Table):
    """One change made to the films (`hipnode.evaluation.films.stress`), and what may come of it.

    largest_drop: how much sensitivity and specificity of any fracture may lose, each
    refused: the share that must be refused, for a change after which a film must not be read
    by: "value", or with "lower limit" the 95 % interval as a whole
    """

    transform: Line
    levels: Annotated[tuple[float, ...], Field(min_length=1)]
    largest_drop: Share | None = None
    refused: Annotated[float, Field(gt=0, le=1)] | None = None
    by: Literal["lower limit", "value"] = "value"


class Protocol(_Table):
    """All that is fixed before the run."""

    name: Line
    date: date
    written_by: Line | None = None
    role: Line | None = None
    package: Line
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    unit: Literal["hip", "image", "patient"]
    view: Literal["single-label", "multi-label"] = "single-label"
    not_read: Literal["wrong", "left out"] = "wrong"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    resamples: Annotated[int, Field(ge=200, le=100_000)] = DEFAULT_RESAMPLES
    thresholds: Thresholds = Thresholds()
    minimum: Minimum
    hypotheses: Annotated[tuple[Hypothesis, ...], Field(min_length=1)]
    strata: Strata = Strata()
    stress: tuple[Stress, ...] = ()

    @property
    def sha256_of_content(self) -> str:
        """SHA-256 of what the protocol says."""
        said = self.model_dump(mode="json", by_alias=True)
        plain = json.dumps(said, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

    def needed(self, hypothesis: Hypothesis) -> tuple[int, int]:
        """(patients with, patients without) a hypothesis needs; for `unread` both together make the number."""
        own = hypothesis.minimum
        positives, negatives = own or self.minimum.positives, own or self.minimum.negatives
        kind = METRICS[hypothesis.metric]
        return (positives if kind != "negatives" else 0, negatives if kind != "positives" else 0)


class ProtocolUnusable(HipnodeError):
    """A protocol cannot be used; `problems` lists all that is wrong and the text one per line."""

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{file}: {problem}" for problem in problems))


def load_protocol(path: Path) -> tuple[Protocol, str]:
    """A protocol and the text it was read from. Raises ProtocolUnusable with every problem."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise ProtocolUnusable(path.name, ["does not exist"]) from error
    except UnicodeDecodeError as error:
        raise ProtocolUnusable(path.name, ["is not UTF-8; save it as UTF-8 text"]) from error
    except OSError as error:
        raise ProtocolUnusable(path.name, [f"cannot be read ({error.strerror})"]) from error
    return parse_protocol(text, path.name), text


def parse_protocol(text: str, file: str = "protocol.toml") -> Protocol:
    """The protocol a text holds. Raises ProtocolUnusable with every problem."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolUnusable(file, [f"is not valid TOML: {error}"]) from error
    try:
        protocol = Protocol.model_validate(content)
    except ValidationError as error:
        found = cast("list[dict[str, Any]]", error.errors())
        raise ProtocolUnusable(file, _sentences(found)) from error
    problems = _contradictions(protocol)
    if problems:
        raise ProtocolUnusable(file, problems)
    return protocol


def fewest_to_pass(bound: float) -> int:
    """The smallest n for which n of n has a lower Wilson limit above the bound: n/(n + z^2) > bound."""
    return floor(bound * Z_95**2 / (1 - bound) + 1e-9) + 1


def misfits(protocol: Protocol, package: str, sha256: str | None, classes: Sequence[str]) -> list[str]:
    """Why a protocol does not fit the package it is to be run on, one sentence each.

    sha256: of the package's weights, None where they are not here
    """
    problems = []
    if protocol.package != package:
        problems.append(f"package: is {protocol.package}, and the package of this run is {package}")
    elif protocol.sha256 and sha256 and protocol.sha256 != sha256:
        says = f"sha256: is {protocol.sha256[:12]}..., and the weights of {package} here are {sha256[:12]}..."
        problems.append(says)
    elif protocol.sha256 and not sha256:
        problems.append(
            f"sha256: cannot be checked, because the package {package} is not installed; name it with --package"
        )
    known = ", ".join((*classes, ANY))
    for number, one in enumerate(protocol.hypotheses, start=1):
        if one.class_name not in (*classes, ANY):
            problems.append(f"hypothesis {number}: class is {one.class_name!r}; known are {known}")
    if protocol.thresholds.source == "protocol" and set(protocol.thresholds.values) != set(classes):
        problems.append(f"thresholds.values: must name each class once ({', '.join(classes)})")
    return problems


def _contradictions(protocol: Protocol) -> list[str]:
    problems = []
    said: dict[tuple[str, str], int] = {}
    for number, one in enumerate(protocol.hypotheses, start=1):
        key = (one.metric, one.class_name)
        if said.setdefault(key, number) != number:
            problems.append(f"hypothesis {number}: says again what hypothesis {said[key]} is about")
        if one.metric == "unread" and one.class_name != ANY:
            problems.append(f"hypothesis {number}: unread is about all units; leave class out")
        if one.metric == "auc" and one.bound < 0.5:
            problems.append(f"hypothesis {number}: an AUC of 0.5 is chance; the bound must not be below it")
        problems += _unattainable(protocol, number, one)
    chosen = protocol.thresholds
    if chosen.source == "protocol" and not chosen.values:
        problems.append('thresholds: from = "protocol" needs values, as in values = {DF = 0.3}')
    if chosen.source != "protocol" and chosen.values:
        problems.append(f'thresholds: values are of no use with from = "{chosen.source}"')
    if chosen.source != "validation" and chosen.sensitivity is not None:
        problems.append(f'thresholds: sensitivity is of no use with from = "{chosen.source}"')
    for what, names in (
        ("strata: column", protocol.strata.columns),
        ("stress: transform", [s.transform for s in protocol.stress]),
    ):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        problems += [f"{what} {name} is named twice" for name in twice]
    for one_stress in protocol.stress:
        problems += _stress_problems(one_stress)
    return problems


def _stress_problems(one: Stress) -> list[str]:
    try:
        made = [change(one.transform, level) for level in one.levels]
    except StressUnknown as error:
        return [f"stress: {error}"]
    kind = made[0].transform
    wanted, other = ("refused", "largest_drop") if kind.must_refuse else ("largest_drop", "refused")
    problems = []
    if getattr(one, wanted) is None:
        problems.append(f"stress {one.transform}: {wanted} is missing")
    if getattr(one, other) is not None:
        must = "must be refused" if kind.must_refuse else "is to be read"
        problems.append(f"stress {one.transform}: {other} has no meaning for a film that {must}")
    return problems


def _unattainable(protocol: Protocol, number: int, one: Hypothesis) -> list[str]:
    """A minimum with which not even a package without a mistake could pass."""
    with_, without = protocol.needed(one)
    if one.by == "value" or one.metric == "auc":
        smallest = min(n for n in (with_, without) if n)
        says = f"hypothesis {number}: a minimum of {smallest} patients says nothing; take {FEWEST} or more"
        return [says] if smallest < FEWEST else []
    fewest = fewest_to_pass(1 - one.bound if one.below else one.bound)
    minimum = with_ + without
    if minimum >= fewest:
        return []
    return [
        f"hypothesis {number}: with the minimum of {minimum} patients a package without any mistake could not "
        f"pass {one.bound:g}; it needs {fewest} or more (`hipnode accept plan` says how many are sensible)"
    ]


def _known(kind: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in kind.model_fields.items()]


_TABLES: dict[str, type[BaseModel]] = {
    "hypotheses": Hypothesis, "thresholds": Thresholds, "minimum": Minimum, "strata": Strata, "stress": Stress,
}  # fmt: skip
_SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "missing": lambda _: "is missing",
    "literal_error": lambda c: f"must be {c['expected']}",
    "greater_than": lambda c: f"must be more than {c['gt']:g}",
    "greater_than_equal": lambda c: f"must be {c['ge']:g} or more",
    "less_than": lambda c: f"must be less than {c['lt']:g}",
    "less_than_equal": lambda c: f"must be {c['le']:g} or less",
    "too_short": lambda _: "must not be empty",
    "string_too_short": lambda _: "must not be empty",
    "string_too_long": lambda c: f"must not be longer than {c['max_length']} characters",
    "string_type": lambda _: "must be text in quotes",
    "int_parsing": lambda _: "must be a whole number",
    "int_from_float": lambda _: "must be a whole number",
    "float_parsing": lambda _: "must be a number",
    "string_pattern_mismatch": lambda _: "must be 64 digits 0-9 a-f, as `hipnode models show` prints it",
}


def _sentences(errors: Sequence[dict[str, Any]]) -> list[str]:
    """The problems; a list whose entries are all wrong is not called empty as well."""
    inside = {error["loc"][:1] for error in errors if len(error["loc"]) > 1}
    return [_sentence(e) for e in errors if e["type"] != "too_short" or e["loc"] not in inside]


def _sentence(error: dict[str, Any]) -> str:
    """One problem pydantic found, as a sentence that names its place as the file writes it."""
    place = error["loc"]
    words: list[str] = []
    for part in place:
        if isinstance(part, int):
            words[-1] = f"{words[-1]}[{part + 1}]"  # the first one is 1 to whoever wrote the file
        else:
            words.append(str(part)[:60])
    where = ".".join(words)
    if error["type"] == "extra_forbidden":
        inside = _TABLES.get(str(place[0])) if len(place) > 1 else Protocol
        known = ", ".join(_known(inside)) if inside else "none"
        return f"{where}: is no word of a protocol; known here are {known}"
    made = _SENTENCES.get(error["type"])
    says = made(error.get("ctx", {})) if made else f"cannot be used: {error['msg'].lower()}"
    value = error["input"]
    shown = f", not {value!r}" if isinstance(value, str | int | float) and error["type"] != "missing" else ""
    return f"{where}: {says}{shown[:80]}"
