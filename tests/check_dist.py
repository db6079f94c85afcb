"""What a release is made of: `python -m tests.check_dist DIR` looks into the sdist and the wheel in DIR.

Ends with 1 and a line for each thing that is missing, that does not belong there, or that is said in two ways.
"""

import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import hipnode

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 40 * 2**20
PACKAGE = "workers/packages/hip-damoyolo-t-phantom"
# In the wheel under the first name, in the checkout under the second.
MOVED = {"hipnode/_alembic": "alembic", "hipnode/_deploy/systemd": "deploy/systemd"}
NEEDED = {
    "hipnode/selection.toml",
    "hipnode/results/attribute_types.json",
    "hipnode/_deploy/hipnode.env.example",
    *(f"{PACKAGE}/{name}" for name in ("model.toml", "model.safetensors", "MODEL_CARD.md")),
}
COMMANDS = {"worker", "analyse", "phantom", "train", "build"}


def problems_of_wheel(wheel: Path) -> list[str]:
    """What is wrong with a wheel, one sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"hipnode-{hipnode.__version__}.dist-info"
        if f"{info}/METADATA" not in names:
            return [f"{wheel.name} is not of version {hipnode.__version__} (hipnode/__init__.py)."]
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    wanted = NEEDED | _sources("hipnode") | _sources("workers")
    for inside, outside in MOVED.items():
        wanted |= {f"{inside}/{path}" for path in _files(ROOT / outside)}
    problems = [f"{name} is missing." for name in sorted(wanted - names)]
    for name in sorted(names):
        top = name.split("/")[0]
        if (
            top not in ("hipnode", "workers", info)
            or "__pycache__" in name
            or name.endswith((".pyc", ".part"))
        ):
            problems.append(f"{name} does not belong into a wheel.")
    required = metadata.get_all("Requires-Dist") or []
    if not [r for r in required if re.match(r"torch\b.*extra == ['\"]worker['\"]", r)]:
        problems.append("torch is not in the extra `worker`.")
    if [r for r in required if re.match(r"(torch|safetensors)\b", r) and "extra ==" not in r]:
        problems.append("torch or safetensors is required without the extra `worker`.")
    missing = COMMANDS - set(re.findall(r"^(\w+) = workers\.", entry_points, re.MULTILINE))
    problems += [f"The entry point of `hipnode {name}` is missing." for name in sorted(missing)]
    if "hipnode = hipnode.cli:main" not in entry_points:
        problems.append("The command `hipnode` is missing.")
    if wheel.stat().st_size > MOST_BYTES:
        problems.append(f"{wheel.name} has {wheel.stat().st_size} bytes, more than {MOST_BYTES}.")
    return [f"{wheel.name}: {problem}" for problem in problems]


def problems_of_sdist(sdist: Path) -> list[str]:
    """What is missing in a source distribution, one sentence each. The wheel is built from it, which shows the rest."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "pyproject.toml", "tests/conftest.py"}
    return [f"{sdist.name}: {name} is missing." for name in sorted(wanted - names)]


def _sources(package: str) -> set[str]:
    return {f"{package}/{path}" for path in _files(ROOT / package) if path.endswith(".py")}


def _files(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if "__pycache__" not in path}


def main() -> int:
    """Check both files of a folder; the exit code."""
    folder = Path(sys.argv[1])
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.stdout.write(
            f"{folder} must hold one wheel and one sdist: it holds {len(wheels)} and {len(sdists)}.\n"
        )
        return 1
    problems = problems_of_wheel(wheels[0]) + problems_of_sdist(sdists[0])
    said = problems or [f"{wheels[0].name} and {sdists[0].name} hold what they should."]
    sys.stdout.write("\n".join(said) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
