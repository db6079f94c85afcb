"""What a command needs beyond the node itself, said before it begins."""

from importlib.util import find_spec

from hipnode.errors import HipnodeError

_EVALUATION = ("scipy", "statsmodels", "sklearn", "pyarrow", "matplotlib", "jinja2")


class ExtraMissing(HipnodeError):
    """A command needs packages that are not installed; the text names the extra."""


def need_evaluation() -> None:
    """Raise ExtraMissing where the libraries of the extra `evaluation` are not all there."""
    lacking = [name for name in _EVALUATION if find_spec(name) is None]
    if lacking:
        raise ExtraMissing(f"This command needs {', '.join(lacking)}: install hipnode[evaluation].")
