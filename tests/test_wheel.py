"""The wheel in an environment of its own, outside the repository, with nothing but what it says it needs."""

import json
import os
import re
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hipnode import __version__, migrations, scu
from hipnode.destinations import RemoteAE
from tests.check_dist import problems_of_sdist, problems_of_wheel
from tests.factories import make_radiograph, save
from tests.peers import free_port, running, wait_for

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, as `make lint` builds them."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(release: Path) -> Path:
    (wheel,) = release.glob("*.whl")
    return wheel


def needed(requirements: list[str]) -> dict[str, Distribution]:
    """What a plain `pip install` of these would bring, by name, as far as it is installed here."""
    found: dict[str, Distribution] = {}
    todo = [(requirement, "") for requirement in requirements]
    while todo:
        text, extra = todo.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        known = distribution(requirement.name)
        assert known.version in requirement.specifier, f"{text}: {known.version} is installed here"
        fresh = requirement.name not in found
        found[requirement.name] = known
        for each in ("", *requirement.extras) if fresh else requirement.extras:
            todo += [(more, each) for more in known.requires or []]
    return found


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hipnode` in a fresh virtual environment without torch: the wheel installed by pip, its declared
    dependencies linked in from here, so that the test needs no network."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False)
    (site,) = (folder / "lib").glob("python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"hipnode-{__version__}.dist-info/METADATA").decode()
    for known in needed(re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)).values():
        for top in {
            file.parts[0] for file in known.files or [] if file.parts[0] not in ("..", "__pycache__")
        }:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(known.locate_file(top))))
    python = folder / "bin" / "python"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    torch = subprocess.run([python, "-c", "import torch"], capture_output=True)
    assert torch.returncode == 1, "torch is meant to be out of reach here"
    return folder / "bin" / "hipnode"


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """The environment of a new site; its data folder is `tmp_path/data`."""
    return {
        "PATH": os.environ["PATH"],
        "HIPNODE_DATA": str(tmp_path / "data"),
        "HIPNODE_PORT": str(free_port()),
        "HIPNODE_HTTP_PORT": str(free_port()),
        "HIPNODE_LOW_WATER_BYTES": "0",
        "HIPNODE_STABLE_AGE_S": "1",
    }


def run(program: Path, site: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [program, *arguments], env=site, cwd=Path(site["HIPNODE_DATA"]).parent,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def serving(program: Path, site: dict[str, str], tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`hipnode db upgrade`, then `hipnode serve` and `hipnode worker deliver`."""
    upgraded = run(program, site, "db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert migrations.head() in upgraded.stdout
    commands = {"serve": [str(program), "serve"], "deliver": [str(program), "worker", "deliver"]}
    with (
        running(commands["serve"], tmp_path, "serve.log", env=site) as serve,
        running(commands["deliver"], tmp_path, "deliver.log", env=site),
    ):
        yield serve


def test_sdist_and_wheel_hold_what_they_should(release: Path, wheel: Path) -> None:
    (sdist,) = release.glob("*.tar.gz")
    assert problems_of_wheel(wheel) + problems_of_sdist(sdist) == []


def test_a_wheel_that_lacks_something_is_found_out(wheel: Path, tmp_path: Path) -> None:
    lost = ("hipnode/selection.toml", "hipnode/_alembic/env.py", "hipnode/_deploy/systemd/hipnode.target")
    broken = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(broken, "w") as part:
        for name in whole.namelist():
            if name.endswith("METADATA"):
                part.writestr(name, "Requires-Dist: torch==2.13.0\n")
            elif name not in lost and not name.endswith(".safetensors"):
                part.writestr(name, whole.read(name))
        part.writestr("tests/test_x.py", "")
    told = "\n".join(problems_of_wheel(broken))
    for name in (*lost, "model.safetensors", "tests/test_x.py does not belong", "without the extra"):
        assert name in told


def test_the_version_is_that_of_the_checkout(program: Path, site: dict[str, str]) -> None:
    assert run(program, site, "--version").stdout == f"hipnode {__version__}\n"
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert __version__ not in pyproject, "the version is said in hipnode/__init__.py and nowhere else"


def test_a_node_from_the_wheel_takes_a_study(
    program: Path, site: dict[str, str], serving: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    node = RemoteAE("HIPNODE", "127.0.0.1", int(site["HIPNODE_PORT"]))
    wait_for(lambda: scu.echo(node, "TESTER").ok, "the node answers C-ECHO", 60)
    film = save(make_radiograph(), tmp_path / "film.dcm")
    (outcome,) = scu.send([scu.Outgoing(0, film)], node, "MODALITY")
    assert outcome.peer_status == 0x0000

    def listed() -> list[dict[str, object]]:
        return list(json.loads(run(program, site, "studies", "list", "--json").stdout))

    # closed by the tick, with the shipped rules and the shipped package
    wait_for(lambda: [row["status"] for row in listed()] == ["queued"], "the study is queued", 60, every_s=1)
    url = f"http://127.0.0.1:{site['HIPNODE_HTTP_PORT']}/healthz"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
    assert serving.poll() is None


def test_what_ships_with_the_wheel_is_found(program: Path, site: dict[str, str], tmp_path: Path) -> None:
    models = json.loads(run(program, site, "models", "list", "--json").stdout)
    assert [model["id"] for model in models] == ["hip-damoyolo-t-phantom"]
    assert run(program, site, "models", "verify").returncode == 0
    units = run(program, site, "install", "systemd", "--prefix", str(tmp_path / "root"))
    assert units.returncode == 0, units.stderr
    node = (tmp_path / "root/etc/systemd/system/hipnode-node.service").read_text()
    assert f"ExecStart={program} serve\n" in node


def test_without_the_worker_extra_the_analyse_worker_says_what_to_install(
    program: Path, site: dict[str, str]
) -> None:
    done = run(program, site, "worker", "analyse")
    assert done.returncode == 1
    assert "hipnode[worker]" in done.stderr
    assert "Traceback" not in done.stderr
