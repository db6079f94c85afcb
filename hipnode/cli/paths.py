"""Paths a user names on the command line."""

from pathlib import Path

import typer


def dicom_files(paths: list[Path]) -> list[Path]:
    """The files themselves, each once, folders opened, in a stable order. Wrong paths are a usage error."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            if not inside:
                raise typer.BadParameter(f"{path} holds no files.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise typer.BadParameter(f"{path} does not exist.")
    return list(dict.fromkeys(found))
