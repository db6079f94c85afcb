"""Where the numbers come from: hashes of what went in, versions of what computed it. No machine path."""

import hashlib
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import hipnode
from hipnode.evaluation.tables import Tables

_COUNTED = ("numpy", "scipy", "statsmodels", "scikit-learn")


@dataclass(frozen=True)
class Provenance:
    """What went into an evaluation.

    labels_sha256, predictions_sha256, reads_sha256: of the content that was used, not of the file: the order
        of rows and columns and the file format do not matter; reads_sha256 None without reads
    package: (id, version, sha256 of the weights), None where the predictions came as a file
    code: version of hipnode, and the commit when it runs in a checkout
    command: the command line with base names of files only
    libraries: (name, version)
    """

    labels_sha256: str
    predictions_sha256: str
    reads_sha256: str | None
    package: tuple[str, str, str] | None
    code: str
    seed: int
    resamples: int
    command: str
    libraries: tuple[tuple[str, str], ...]


def provenance(
    tables: Tables,
    *,
    seed: int,
    resamples: int,
    command: str,
    package: tuple[str, str, str] | None = None,
) -> Provenance:
    """The provenance of an evaluation of these tables."""
    return Provenance(
        labels_sha256=content_sha256(tables.labels),
        predictions_sha256=content_sha256(tables.predictions),
        reads_sha256=content_sha256(tables.reads) if tables.reads else None,
        package=package,
        code=code_version(),
        seed=seed,
        resamples=resamples,
        command=command,
        libraries=tuple((name, version(name)) for name in _COUNTED),
    )


def content_sha256(records: Sequence[object]) -> str:
    """SHA-256 of the records of a table, the same in any order of rows and in any of the three formats."""
    lines = []
    for record in records:
        values = {name: value for name, value in vars(record).items() if name != "row"}  # nor where it stood
        lines.append(json.dumps(values, sort_keys=True, separators=(",", ":"), default=vars))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def code_version() -> str:
    """The version of hipnode and, where it runs from a git checkout, the commit and whether it was changed."""
    checkout = Path(hipnode.__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return hipnode.__version__
    try:
        commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return hipnode.__version__
    return f"{hipnode.__version__} (commit {commit}{', with changes' if changed else ''})"


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *words], check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()


def command_line(words: Sequence[str]) -> str:
    """The command as typed, with base names for paths: a report that travels says nothing of our disks."""
    return " ".join(_short(word) for word in words)


def _short(word: str) -> str:
    option, equals, value = word.partition("=")
    shown = f"{option}={_base(value)}" if equals and option.startswith("-") else _base(word)
    return f"'{shown}'" if any(c.isspace() for c in shown) else shown


def _base(word: str) -> str:
    return re.split(r"[\\/]", word.rstrip("\\/"))[-1] or word
