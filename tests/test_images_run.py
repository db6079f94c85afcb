"""The images at work, as compose.yaml and compose.try.yaml say. docker/try-buildah.sh builds them and runs this."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from hipnode import __version__, scu
from hipnode.destinations import RemoteAE
from tests.containers import Container, Image, beside, filled_in
from tests.peers import Orthanc, Postgres, need, running, wait_for

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE = filled_in(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))
TRY = filled_in(yaml.safe_load((DEPLOY / "compose.try.yaml").read_text()))
SERVICES = {
    name: beside(service, TRY["services"].get(name, {})) for name, service in COMPOSE["services"].items()
}
HOST = "192.168.241.2"  # of the try-out's network; docker/try-buildah.sh gives it to this machine
HOSTS = {"postgres": "127.0.0.1", "redis": "127.0.0.1", "node": HOST, "orthanc": HOST}

UNPACKED = os.environ.get("HIPNODE_IMAGES", "")
pytestmark = pytest.mark.skipif(
    not UNPACKED, reason="HIPNODE_IMAGES names no unpacked images: sh docker/try-buildah.sh"
)


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder deploy/ of a site that has run prepare.sh, and nothing else."""
    top = tmp_path_factory.mktemp("site")
    shutil.copytree(DEPLOY, top / "deploy", ignore=shutil.ignore_patterns(".env", "secrets", "site"))
    (top / "hipnode").mkdir()
    shutil.copy(DEPLOY.parent / "hipnode" / "__init__.py", top / "hipnode")
    subprocess.run(["sh", top / "deploy" / "prepare.sh"], check=True)
    return top / "deploy"


@pytest.fixture(scope="module")
def postgres(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """PostgreSQL at its usual port, with the user, database and password of the compose file."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    rules = server.data / "pg_hba.conf"
    rules.write_text("host hipnode hipnode all scram-sha-256\n" + rules.read_text())
    server.port = 5432
    server.start()
    password = (deploy / "secrets" / "postgres_password").read_text().strip()
    with psycopg.connect(
        host="127.0.0.1", user=server.user, dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE ROLE hipnode LOGIN PASSWORD '{password}'".encode())
        connection.execute("CREATE DATABASE hipnode OWNER hipnode")
    yield
    server.kill()


@pytest.fixture(scope="module")
def redis(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Redis as the compose file starts it."""
    command = [each.replace("/run/secrets/", f"{deploy}/secrets/") for each in SERVICES["redis"]["command"]]
    with running([str(need(command[0])), *command[1:]], tmp_path_factory.mktemp("redis"), "redis.log"):
        yield


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """The Orthanc to try against, with its own configuration but for its folders and its way to the node."""
    given = json.loads((DEPLOY / "orthanc" / "orthanc.json").read_text())
    kept = ("DicomAet", "DicomPort", "HttpPort", "StableAge", "OverwriteInstances", "DicomAlwaysAllowStore")
    server = Orthanc(
        tmp_path_factory.mktemp("orthanc"),
        (DEPLOY / "orthanc" / "route.lua").read_text(),
        DicomModalities={"hipnode": ["HIPNODE", HOST, 11112]},
        **{key: given[key] for key in kept},
    )
    server.url = f"http://127.0.0.1:{given['HttpPort']}"
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volume `data`: empty, with the owner and mode an engine copies from the image."""
    folder = tmp_path_factory.mktemp("data")
    image = Image(Path(UNPACKED) / "node").root / "var" / "lib" / "hipnode"
    shutil.copystat(image, folder)
    os.chown(folder, image.stat().st_uid, image.stat().st_gid)
    return folder


@pytest.fixture(scope="module")
def site(
    deploy: Path,
    data: Path,
    postgres: None,
    redis: None,
    orthanc: Orthanc,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Container]]:
    """The containers of hipnode: the database is prepared, the others run and are healthy."""
    folder = tmp_path_factory.mktemp("containers")
    made = {}
    for name in ("migrate", "node", "analyse", "deliver"):
        image = Image(Path(UNPACKED) / SERVICES[name]["build"]["target"])
        made[name] = Container(
            name, SERVICES[name], image, folder, here=deploy, volumes={"data": data}, hosts=HOSTS
        )
    assert made["migrate"].start().wait() == 0, made["migrate"].log
    parts = {name: made[name].start() for name in ("node", "analyse", "deliver")}
    try:
        for name, part in parts.items():
            wait_for(part.healthy, f"{name} is healthy", 300, 1)
        yield parts
    finally:
        for part in parts.values():
            part.end("KILL")
            part.wait()


def test_the_images_say_which_version_they_hold():
    for target in ("node", "worker-cpu"):
        image = Image(Path(UNPACKED) / target)
        assert image.labels["org.opencontainers.image.version"] == __version__
        assert image.user == "10001:10001"


def test_nothing_in_a_container_may_write_beside_its_volume_and_tmp(site):
    for part in site.values():
        assert part.run("id", "-u").stdout.strip() == "10001"
        for place in ("/etc/hipnode", "/opt/hipnode", "/usr", "/"):
            refused = part.run("touch", f"{place}/x")
            assert refused.returncode != 0
            assert "Read-only file system" in refused.stderr
        assert part.run("touch", "/tmp/x", "/var/lib/hipnode/x").returncode == 0
        assert part.run("rm", "/var/lib/hipnode/x").returncode == 0
        status = part.run("cat", "/proc/self/status").stdout
        assert "CapBnd:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


def test_the_node_image_has_no_torch_and_no_pip(site):
    for module in ("torch", "pip"):
        assert site["node"].run("python", "-c", f"import {module}").returncode != 0
    assert site["analyse"].run("python", "-c", "import torch").returncode == 0


def test_no_password_stands_in_an_environment_or_a_log(site, deploy):
    for name in ("postgres_password", "redis_conf"):
        password = (deploy / "secrets" / name).read_text().split()[-1]
        for part in site.values():
            assert password not in part.run("env").stdout
            assert password not in part.log


def test_a_known_peer_gets_its_echo_and_a_stranger_does_not(site):
    node = RemoteAE("HIPNODE", HOST, 11112)
    assert scu.echo(node, "ORTHANC").ok
    assert not scu.echo(node, "STRANGER").ok


def test_a_film_that_orthanc_gets_is_read_and_the_result_comes_back(site, orthanc, data):
    made = site["analyse"].run(
        "hipnode", "phantom", "--count", "1", "--outcome", "DF", "--dicom", "--out", "/var/lib/hipnode/try"
    )
    assert made.returncode == 0, made.stderr
    (film,) = (data / "try").glob("*.dcm")
    orthanc.post("/instances", film.read_bytes())

    def modalities() -> set[str]:
        tags = [orthanc.get(f"/instances/{each}/simplified-tags") for each in orthanc.get("/instances")]
        return {each["Modality"] for each in tags}

    def status() -> str:
        (study,) = json.loads(site["node"].run("hipnode", "studies", "list", "--json").stdout)
        return str(study["status"])

    wait_for(lambda: {"SR", "OT"} <= modalities(), "report and overlay are back", 300, 1)
    wait_for(lambda: status() == "completed", "the study is completed", 60, 1)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in data.rglob("*")}
    assert owners == {(10001, 10001)}


def test_the_doctor_has_nothing_to_cure_in_a_container_and_writes_its_bundle(site):
    examined = json.loads(site["node"].run("hipnode", "doctor", "--json").stdout)["records"]
    assert [each for each in examined if each["state"] == "fail"] == []
    assert site["node"].run("hipnode", "doctor", "--support-bundle", "/tmp/bundle").returncode == 0
    packed = site["node"].run("sh", "-c", "tar -c -C /tmp bundle | tar -t")
    assert len(packed.stdout.split()) > 2


def test_each_part_ends_in_good_order_when_it_is_told_to(site):
    for name, part in site.items():
        part.end()
        assert part.wait(60) == 0, f"{name}: {part.log[-2000:]}"
