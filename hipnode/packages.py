"""Model packages: a folder with `model.toml`, `model.safetensors` and `MODEL_CARD.md`, pinned by hash.

No torch here: the node lists, checks and names packages; only a worker loads their weights.
A package that ships with the project lies in workers/packages; that folder is found without
importing the workers.
"""

import hashlib
import json
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hipnode.decision import DISPLACED, VALGUS_IMPACTED, Calibration, DecisionRule
from hipnode.errors import PackageError, PackageUnknown
from hipnode.findings import Algorithm, FindingClass, Reason
from hipnode.images import Radiograph
from hipnode.status import ReasonCode

MANIFEST = "model.toml"
WEIGHTS = "model.safetensors"
MODEL_CARD = "MODEL_CARD.md"
LARGEST_STRIDE = 32

# Defined terms of ViewPosition: CR Series (PS3.3 C.8.1.1), DX Positioning (C.8.7.5), and the oblique
# ones in use. AP and PA are both frontal; selection flags the PA film.
FRONTAL_VIEWS = frozenset({"AP", "PA"})
OTHER_VIEWS = frozenset(
    {"LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "ML", "LM", "LATERAL", "OBLIQUE"}
)
# Defined terms of BodyPartExamined (PS3.16 Annex L) that name one region and nothing else. Not here:
# buckets (EXTREMITY, LEG, WHOLEBODY, ABDOMENPELVIS), and FEMUR and THIGH, which are next door to a hip.
_REGIONS = """
    ABDOMEN ANKLE BREAST CALCANEUS CHEST CLAVICLE COCCYX CSPINE ELBOW FINGER FOOT FOREARM HAND HEAD HEART
    HIP HUMERUS JAW KNEE LSPINE LSSPINE LUNG MANDIBLE NECK PATELLA PELVIS RIB SCAPULA SHOULDER SKULL
    SSPINE STERNUM THUMB TIBIA TMJ TOE TSPINE TLSPINE WRIST ZYGOMA
"""
REGIONS = frozenset(_REGIONS.split())

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]  # VR LO
Short = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16)]  # VR SH
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1024)]  # VR ST
Term = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_ ]{0,15}$")]  # VR CS
Score = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=LARGEST_STRIDE, le=4096, multiple_of=LARGEST_STRIDE)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassEntry(_Table):
    """One class, in the order of the network's outputs, and its code in results."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,15}$")]
    meaning: Name
    code: Short
    scheme: Short


class InputEntry(_Table):
    """How stored pixels become the network's input."""

    width: Side
    height: Side
    aspect: Literal["stretch"] = "stretch"  #: the aspect ratio is not kept
    resize: Literal["antialias", "bilinear"] = "antialias"  #: see workers/detector/resize.py
    channels: Literal["gray-to-rgb"] = "gray-to-rgb"  #: one gray value in three channels
    intensity: Literal["display-8bit"] = "display-8bit"  #: hipnode.images display values, 0..255


class WeightsEntry(_Table):
    """The weights and where they come from."""

    file: Literal["model.safetensors"] = "model.safetensors"
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    form: Literal["training", "fused"] = "training"  #: fused: smaller, and cannot be trained further
    licence: Name
    training_data: Sentence


class DecisionEntry(_Table):
    """The numbers of hipnode.decision.DecisionRule."""

    thresholds: dict[str, Score]
    tau_min: Score = 0.05
    nms_iou: Score = 0.7
    valgus_priority: Score | None = None
    definite: dict[str, Score] = {}  #: class -> score from which it is definite; below, possible


class CalibrationEntry(_Table):
    """How scores become probabilities, one map for all classes: hipnode.decision.Calibration.

    n, positives: the validation answers (picture and class) it was fitted on
    """

    method: Literal["none", "temperature", "platt", "isotonic"] = "none"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    intercept: Annotated[float, Field(allow_inf_nan=False)] | None = None
    scores: Annotated[tuple[Share, ...], Field(min_length=1)] | None = None
    values: Annotated[tuple[Share, ...], Field(min_length=1)] | None = None
    n: Annotated[int, Field(ge=0)] | None = None
    positives: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "CalibrationEntry":
        given = {
            name for name in ("temperature", "slope", "intercept", "scores", "values") if getattr(self, name)
        }
        given |= {"intercept"} if self.intercept is not None else set()
        wanted = _NUMBERS[self.method]
        if given != wanted:
            raise ValueError(f"{self.method} has the numbers {', '.join(sorted(wanted)) or 'none'}")
        scores, values = self.scores or (), self.values or ()
        if len(scores) != len(values):
            raise ValueError("isotonic has as many values as scores")
        if list(scores) != sorted(set(scores)) or list(values) != sorted(values):
            raise ValueError("isotonic has rising scores and values that do not fall")
        return self

    def calibration(self) -> Calibration | None:
        """What the decision rule applies."""
        if self.method == "none":
            return None
        return Calibration(
            self.method,
            self.temperature or 1.0,
            self.slope or 1.0,
            self.intercept or 0.0,
            self.scores or (),
            self.values or (),
        )


_NUMBERS: dict[str, set[str]] = {
    "none": set(),
    "temperature": {"temperature"},
    "platt": {"slope", "intercept"},
    "isotonic": {"scores", "values"},
}


class ValidationEntry(_Table):
    """What the package was last tested on."""

    data_set: Name
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    images_per_class: dict[str, Annotated[int, Field(ge=0)]]
    table: Name = MODEL_CARD  #: the file in the package that holds the numbers


class Manifest(_Table):
    """Everything `model.toml` may say; a word it does not know is an error."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}$")]
    name: Name  #: as results write it
    manufacturer: Name
    origin: Sentence  #: one sentence on where the weights come from; stands in every result
    recipe: Name
    task: Literal["detect"]
    network: Literal["damoyolo_t"]
    body_parts: tuple[Term, ...]  #: BodyPartExamined the package reads; empty: any
    views: tuple[Term, ...]  #: ViewPosition the package reads; empty: any
    laterality_handling: Sentence
    limits: Annotated[tuple[Sentence, ...], Field(min_length=1)]  #: stand in every result
    outputs: tuple[Literal["SR", "SC", "GSPS"], ...] = ("SR", "SC")
    classes: Annotated[tuple[ClassEntry, ...], Field(min_length=1)]
    input: InputEntry
    weights: WeightsEntry
    decision: DecisionEntry
    calibration: CalibrationEntry = CalibrationEntry()
    validation: ValidationEntry | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "Manifest":
        names = [c.name for c in self.classes]
        rule = self.decision
        problems = []
        if len(set(names)) < len(names):
            problems.append("classes: two classes have the same name")
        if set(rule.thresholds) != set(names):
            problems.append(
                f"decision.thresholds: must name each class once ({', '.join(names)}), "
                f"but names {', '.join(rule.thresholds) or 'none'}"
            )
        problems += [
            f"decision.thresholds.{name}: {score:g} is below tau_min {rule.tau_min:g}"
            for name, score in rule.thresholds.items()
            if score < rule.tau_min
        ]
        problems += [
            f"decision.definite.{name}: is no class"
            if name not in rule.thresholds
            else f"decision.definite.{name}: {score:g} is below the threshold {rule.thresholds[name]:g}"
            for name, score in rule.definite.items()
            if score < rule.thresholds.get(name, 1)
        ]
        if rule.valgus_priority is not None:
            if not {VALGUS_IMPACTED, DISPLACED} <= set(names):
                problems.append(f"decision.valgus_priority: needs classes {VALGUS_IMPACTED} and {DISPLACED}")
            if rule.valgus_priority < rule.tau_min:
                problems.append(f"decision.valgus_priority: is below tau_min {rule.tau_min:g}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True)
class ModelPackage:
    """One model package on disk. Its weights were hashed if it was loaded with verify."""

    folder: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """The package's name in selection.toml and in the ledger."""
        return self.manifest.id

    @property
    def version(self) -> str:
        """The package's version."""
        return self.manifest.version

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights file, as the manifest gives it."""
        return self.manifest.weights.sha256

    @property
    def weights_file(self) -> Path:
        """The safetensors file."""
        return self.folder / self.manifest.weights.file

    @property
    def model_card(self) -> Path:
        """The page that says what the model is for, and what not."""
        return self.folder / MODEL_CARD

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the network's input, pixels."""
        return self.manifest.input.width, self.manifest.input.height

    @property
    def body_parts(self) -> tuple[str, ...]:
        """BodyPartExamined values the package reads; empty: any."""
        return self.manifest.body_parts

    @property
    def views(self) -> tuple[str, ...]:
        """ViewPosition values the package reads; empty: any."""
        return self.manifest.views

    @property
    def cautions(self) -> tuple[str, ...]:
        """What stands in every result of the package and in every report on it: origin of the weights, limits."""
        return tuple(f"{self.id}: {says}" for says in (self.manifest.origin, *self.manifest.limits))

    @cached_property
    def algorithm(self) -> Algorithm:
        """Who looked, as results name it."""
        m = self.manifest
        return Algorithm(
            name=m.name,
            version=m.version,
            manufacturer=m.manufacturer,
            package_id=m.id,
            sha256=m.weights.sha256,
            classes=tuple(FindingClass(c.name, c.meaning, c.code, c.scheme) for c in m.classes),
            thresholds=dict(m.decision.thresholds),
            calibrated=m.calibration.method != "none",
            origin=m.origin,
            limits=m.limits,
        )

    @cached_property
    def rule(self) -> DecisionRule:
        """The decision rule with this package's numbers."""
        d = self.manifest.decision
        return DecisionRule(
            dict(d.thresholds),
            d.tau_min,
            d.nms_iou,
            d.valgus_priority,
            dict(d.definite),
            self.manifest.calibration.calibration(),
        )

    def veto(self, radiograph: Radiograph, flags: Collection[Reason] = ()) -> Reason | None:
        """Why this package does not read the image, or None.

        Only a plain contradiction vetoes: a header that says nothing, or a word that is no defined
        term, never does. flags: what selection remarked on the image; where it saw witnesses
        that contradict each other and decided to look, one of them alone is no veto.
        """
        codes = {flag.code for flag in flags}
        if (
            radiograph.view in OTHER_VIEWS | FRONTAL_VIEWS
            and self.views
            and not _reads_view(radiograph.view, self.views)
            and not codes & {ReasonCode.VIEW_CONFLICT, ReasonCode.VIEW_UNCLEAR}
        ):
            return Reason(
                ReasonCode.PACKAGE_VETO,
                f"The model package {self.id} reads {', '.join(self.views)} views; "
                f"the image says {radiograph.view}.",
            )
        if (
            radiograph.body_part in REGIONS
            and self.body_parts
            and radiograph.body_part not in self.body_parts
            and not codes & {ReasonCode.REGION_CONFLICT, ReasonCode.REGION_UNCLEAR}
        ):
            return Reason(
                ReasonCode.PACKAGE_VETO,
                f"The model package {self.id} reads {', '.join(self.body_parts)}; "
                f"the image says {radiograph.body_part}.",
            )
        return None


def _reads_view(view: str, views: Collection[str]) -> bool:
    return view in views or (view in FRONTAL_VIEWS and bool(FRONTAL_VIEWS.intersection(views)))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_package(folder: Path, verify: bool = True) -> ModelPackage:
    """Read one package folder; with `verify`, hash its weights.

    Raises PackageError that names every problem of the manifest, a missing file, or a hash that is
    not the manifest's.
    """
    try:
        content = tomllib.loads((folder / MANIFEST).read_text("utf-8"))
    except OSError as error:
        raise PackageError(f"{folder} is no model package: {MANIFEST} cannot be read.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackageError(f"{folder / MANIFEST} is not valid TOML: {error}.") from error
    package = ModelPackage(folder, _manifest(content, folder / MANIFEST))
    for path in (package.weights_file, package.model_card):
        if not path.is_file():
            raise PackageError(f"The model package in {folder} is incomplete: {path.name} is missing.")
    if verify:
        check_weights(package)
    return package


def check_weights(package: ModelPackage) -> None:
    """Hash the weights. Raises PackageError unless they are those the manifest names."""
    if sha256_of(package.weights_file) != package.sha256:
        problem = PackageError(
            f"The weights of the model package {package.id} in {package.folder} are not those its manifest names "
            f"(SHA-256 differs). Copy the package again; do not edit {WEIGHTS}."
        )
        problem.package_id = package.id
        raise problem


def _manifest(content: dict[str, Any], source: Path) -> Manifest:
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        lines = [
            ": ".join(part for part in (".".join(str(p) for p in e["loc"]), e["msg"]) if part)
            for e in error.errors()
        ]
        raise PackageError(f"{source} cannot be used:\n  " + "\n  ".join(lines)) from error


def shipped_folder() -> Path | None:
    """The folder of the packages that ship with the project, or None where the workers are not installed."""
    spec = find_spec("workers")  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "packages"


def find_packages(
    folders: Iterable[Path],
    verify: bool = True,
    shipped: bool = True,
    problems: list[PackageError] | None = None,
) -> dict[str, ModelPackage]:
    """Every package in these folders, and with `shipped` in the project's own, by id.

    A folder is a package itself or holds packages; one that is not there holds none. Raises
    PackageError for the first package that cannot be used; with `problems`, it is appended there
    and the others are still found. Two packages of one id with different weights are such a problem:
    the first one found stays.
    """
    own = shipped_folder() if shipped else None
    found: dict[str, ModelPackage] = {}
    for folder in [*folders, *([own] if own else [])]:
        for place in _package_places(folder):
            try:
                _add(found, load_package(place, verify))
            except PackageError as error:
                error.package_id = error.package_id or place.name
                if problems is None:
                    raise
                problems.append(error)
    return found


def named_package(found: Mapping[str, ModelPackage], id_: str, folder: Path) -> ModelPackage:
    """The package of this id among those found. Raises PackageUnknown, which tells where to put one.

    folder: where the site puts its packages
    """
    if id_ in found:
        return found[id_]
    raise PackageUnknown(
        f"There is no model package {id_}; there are: {', '.join(sorted(found)) or 'none'}. "
        f"Put it into {folder} or name its folder in HIPNODE_PACKAGES."
    )


def _package_places(folder: Path) -> list[Path]:
    if (folder / MANIFEST).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))


def _add(found: dict[str, ModelPackage], package: ModelPackage) -> None:
    known = found.setdefault(package.id, package)
    if known.sha256 != package.sha256 or known.manifest != package.manifest:
        problem = PackageError(
            f"Two different model packages are called {package.id}: in {known.folder} "
            f"and in {package.folder}. Give one another id, or remove it."
        )
        problem.package_id = package.id
        raise problem


def write_package(folder: Path, content: dict[str, Any], weights: bytes, card: str) -> ModelPackage:
    """Write a package folder and read it back.

    content: the manifest as `model.toml` says it (see Manifest); `weights.sha256` is filled in here
    weights: a safetensors file
    card: the text of MODEL_CARD.md
    Raises PackageError if the manifest is not valid; nothing is written then.
    """
    digest = hashlib.sha256(weights).hexdigest()
    content = {**content, "weights": {**content.get("weights", {}), "file": WEIGHTS, "sha256": digest}}
    manifest = _manifest(content, folder / MANIFEST)
    folder.mkdir(parents=True, exist_ok=True)
    # The manifest last: a folder without one is no package yet.
    for name, data in (
        (WEIGHTS, weights),
        (MODEL_CARD, card.encode()),
        (MANIFEST, to_toml(manifest.model_dump(mode="json", exclude_none=True)).encode()),
    ):
        part = folder / f"{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)
    written = load_package(folder)
    if written.manifest != manifest:
        raise PackageError(f"{folder / MANIFEST} does not read back as it was written.")
    return written


def to_toml(table: dict[str, Any]) -> str:
    """TOML text of a table of strings, numbers, lists, tables and lists of tables."""
    return "\n".join(_lines(table, ())) + "\n"


def _lines(table: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not _is_table(v) and not _is_tables(v)]
    for key, value in table.items():
        name = ".".join(_key(k) for k in (*path, key))
        if _is_table(value) and value:
            lines += ["", f"[{name}]", *_lines(value, (*path, key))]
        elif _is_tables(value):
            for row in value:
                lines += ["", f"[[{name}]]", *_lines(row, (*path, key))]
    return lines


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else _value(key)


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    # A JSON string without escaped letters is a TOML basic string; numbers and booleans agree.
    return json.dumps(value, ensure_ascii=False)
