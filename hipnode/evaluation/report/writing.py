"""The one door of the report: a document becomes files in a folder."""

import hashlib
import re
from pathlib import Path

from hipnode.errors import HipnodeError
from hipnode.evaluation.report.document import Document
from hipnode.evaluation.report.html import as_html
from hipnode.evaluation.report.markdown import as_markdown
from hipnode.evaluation.report.spreadsheets import as_csv
from hipnode.evaluation.report.words import slug

SUMS = "SHA256SUMS"
_OURS = re.compile(r"[0-9a-f]{64}  ((?:tables|figures|files)/[a-z0-9-]+\.[a-z]{2,6})")
_FILE = re.compile(r"[a-z0-9-]+\.[a-z]{2,6}")


class ReportNotWritten(HipnodeError):
    """The folder for the report cannot be written; the text says why."""


def write(document: Document, out_dir: Path) -> Path:
    """Write report.html, report.md, figures/, tables/, files/ and SHA256SUMS; returns the page's path.

    The same document gives the same bytes. Tables and figures of an earlier report in the folder, as its
    SHA256SUMS names them, are removed; other files stay. Raises ReportNotWritten with the reason, and
    ValueError for a file of the document whose name is not lower case with one suffix.
    """
    bad = [name for name, _ in document.files if not _FILE.fullmatch(name)]
    if bad:
        raise ValueError(f"{bad[0]!r} is no name for a file beside the report")
    tables = {name: f"tables/{file}.csv" for name, file in _files([t.name for t in document.tables()])}
    figures = {name: f"figures/{file}.svg" for name, file in _files([f.name for f in document.figures()])}
    files = {
        "report.html": as_html(document, tables),
        "report.md": as_markdown(document, {**tables, **figures}),
        **{tables[t.name]: as_csv(t) for t in document.tables()},
        **{figures[f.name]: f.svg for f in document.figures()},
        **{f"files/{name}": text for name, text in document.files},
    }
    sums = [f"{hashlib.sha256(text.encode()).hexdigest()}  {path}\n" for path, text in sorted(files.items())]
    try:
        _clear(out_dir)
        for path, text in {**files, SUMS: "".join(sums)}.items():
            (out_dir / path).parent.mkdir(parents=True, exist_ok=True)
            (out_dir / path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        said = error.strerror or "it cannot be written"
        raise ReportNotWritten(
            f"The report could not be written to {out_dir}: {said}. Name a folder that you may write."
        ) from error
    return out_dir / "report.html"


def _files(names: list[str]) -> list[tuple[str, str]]:
    """(name, its file name without suffix): safe in a path, and never that of another."""
    slugs = [slug(name)[:60].strip("-") for name in names]
    clashes = {s for s in slugs if slugs.count(s) > 1}
    return [
        (name, f"{s}-{hashlib.sha256(name.encode()).hexdigest()[:8]}" if s in clashes else s)
        for name, s in zip(names, slugs, strict=True)
    ]


def _clear(out_dir: Path) -> None:
    """Take away the tables and figures of an earlier report, which would pass for this one's."""
    sums = out_dir / SUMS
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        if found := _OURS.fullmatch(line):
            (out_dir / found[1]).unlink(missing_ok=True)
