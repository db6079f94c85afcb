"""A file of prediction rows that grows row by row and goes on after a kill."""

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from hipnode.evaluation.films.runs import DataUnusable
from hipnode.packages import ModelPackage, sha256_of

Row = dict[str, Any]
Key = tuple[str, str]  #: case_id, and the stress or ""


class Rows:
    """The rows of one JSON lines file, all of one package; a context manager that holds the file alone.

    needed: without, a file that is not there is not made.
    keys: the rows there; not_read: case_id -> why a case was not read, "" where it was; film_sha256: case_id ->
    SHA-256 of its film. A last line that a kill cut off is removed. Raises DataUnusable when the file is of
    another package or no such file, or another process writes to it.
    """

    def __init__(self, path: Path, package: ModelPackage, *, needed: bool = True) -> None:
        self._path, self._package, self._needed = path, package, needed
        self.keys: set[Key] = set()
        self.not_read: dict[str, str] = {}
        self.film_sha256: dict[str, str] = {}
        self._stream: TextIO | None = None

    def __enter__(self) -> "Rows":
        if self._needed:
            self._stream = self._path.open("a", encoding="utf-8")
            try:
                self._take_over(self._stream)
            except BaseException:
                self._stream.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, row: Row) -> None:
        """Write a row, unless it is there already."""
        if self._stream is None:
            raise ValueError(f"{self._path.name} was not opened for rows")
        key = (row["case_id"], row.get("stress", ""))
        if key in self.keys:
            return
        self._stream.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n")
        self._stream.flush()
        self._note(row)

    def check(self, cases: Iterable[tuple[str, Path]], labels: str) -> None:
        """Raise DataUnusable unless every row is of one of these cases and of its film (case_id, path)."""
        films = dict(cases)
        other = [case for case in self.film_sha256 if case not in films]
        digests = {path: sha256_of(path) for case, path in films.items() if case in self.film_sha256}
        changed = [
            case
            for case in self.film_sha256
            if case in films and self.film_sha256[case] != digests[films[case]]
        ]
        if other:
            raise self._unusable(f"holds {len(other)} predictions of cases that are not in {labels}")
        if changed:
            raise self._unusable(f"holds {len(changed)} predictions of films that have changed since")

    def _take_over(self, stream: TextIO) -> None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataUnusable(
                f"{self._path.name}: another process is writing to it; wait for its end."
            ) from error
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            stream.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                package = (row["model_id"], row["model_version"], row["package_sha256"])
                self._note(row)
            except (ValueError, KeyError, TypeError) as error:
                raise self._unusable(f"has a line that no such run wrote (row {number})") from error
            if package != (self._package.id, self._package.version, self._package.sha256):
                raise self._unusable(f"holds predictions of another package ({package[0]} {package[1]})")

    def _note(self, row: Row) -> None:
        case = str(row["case_id"])
        self.keys.add((case, str(row.get("stress", ""))))
        if not row.get("stress"):
            self.not_read[case] = row["not_read"] or ""
            self.film_sha256[case] = row["film_sha256"]

    def _unusable(self, says: str) -> DataUnusable:
        return DataUnusable(f"{self._path.name} {says}: give another --out, or remove that file.")
