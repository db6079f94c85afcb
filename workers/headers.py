"""Source headers for results, read where it is safe to: in a killable child."""

from pathlib import Path

from pydicom import Dataset

from hipnode.children import Children


def read_header(children: Children, path: Path) -> Dataset:
    """The data set of a stored source without its pixel data. Raises ImageRejected."""
    return children.call(_header, str(path))


def _header(path: str) -> Dataset:
    from hipnode.headers import read_object

    return read_object(Path(path), pixels=False)[0]
