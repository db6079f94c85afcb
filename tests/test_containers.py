"""The images and compose files hold to what they promise; what needs no engine to be known."""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from contextlib import suppress
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import redis as redis_client
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hipnode import __version__
from hipnode.destinations import load_destinations
from hipnode.scp import AllowedPeers
from hipnode.settings import Settings, load_settings
from tests.peers import free_port, need, running, wait_for

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
GPU = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
TRY = yaml.safe_load((DEPLOY / "compose.try.yaml").read_text())
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
IMAGES = ("node", "worker-cpu", "worker-cuda")

WHOLE = {**COMPOSE["services"], "orthanc": TRY["services"]["orthanc"]}
"""Every service that is defined from nothing; the other entries of GPU and TRY change one of these."""
OURS = ("migrate", "node", "analyse", "deliver")

every_service = pytest.mark.parametrize("name", WHOLE)


# --- Services ------------------------------------------------------------------------------------


@every_service
def test_a_service_has_no_privileges_and_writes_only_where_it_is_told(name):
    service = WHOLE[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] not in ("", "root", "0", "0:0")
    assert service.get("network_mode") is None


@every_service
def test_a_service_cannot_eat_the_machine(name):
    service = WHOLE[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert all(re.fullmatch(r"/[\w/]+:size=\d+m,mode=1777", each) for each in service["tmpfs"])


@every_service
def test_images_are_pinned_by_version(name):
    image = WHOLE[name]["image"]
    tag = image.partition(":")[2]
    assert tag == "${HIPNODE_VERSION:?run deploy/prepare.sh}" or re.match(r"\d+(\.\d+)+(-|$)", tag), image


def test_hipnode_runs_as_the_user_of_its_images():
    for name in OURS:
        assert WHOLE[name]["user"] == "10001:10001"
    for target in IMAGES:
        assert re.findall(r"^USER (.*)$", STAGES[target], re.MULTILINE) == ["10001:10001"]


def test_only_the_dicom_port_is_open_to_others():
    published = {name: service["ports"] for name, service in WHOLE.items() if "ports" in service}
    assert published == {
        "node": ["0.0.0.0:11112:11112", "127.0.0.1:8080:8080"],
        "orthanc": ["127.0.0.1:8042:8042"],
    }


def test_database_broker_and_analysis_reach_nothing_outside():
    assert COMPOSE["networks"]["inside"]["internal"] is True
    for name in ("postgres", "redis", "migrate", "analyse"):
        assert WHOLE[name]["networks"] == ["inside"]


@every_service
def test_what_is_waited_for_can_come_about(name):
    for other, wait in WHOLE[name].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert "test" in WHOLE[other]["healthcheck"]
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert WHOLE[other]["restart"] == "no"


@pytest.mark.parametrize("services", [COMPOSE["services"], GPU["services"], TRY["services"]])
def test_every_setting_that_is_given_exists_and_can_be_used(services, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for service in services.values():
        given = {k: v for k, v in service.get("environment", {}).items() if k.startswith("HIPNODE_")}
        with monkeypatch.context() as patched:
            for name, value in given.items():
                assert name.removeprefix("HIPNODE_").lower() in Settings.model_fields
                patched.setenv(name, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value))
            AllowedPeers.parse(load_settings().allowed_peers)


def test_every_part_of_hipnode_has_the_same_data_site_and_settings():
    for name in OURS:
        for key in ("environment", "volumes", "secrets", "tmpfs"):
            assert WHOLE[name][key] == WHOLE["node"][key]
    data = WHOLE["node"]["environment"]["HIPNODE_DATA"]
    assert f"data:{data}" in WHOLE["node"]["volumes"]
    assert "./site:/etc/hipnode:ro" in WHOLE["node"]["volumes"]
    assert f"HIPNODE_DATA={data}" in STAGES["runtime"]
    assert "WORKDIR /etc/hipnode" in STAGES["runtime"]  # where hipnode.env is looked for


# --- Secrets -------------------------------------------------------------------------------------


def test_secrets_come_from_files_only():
    used = {name for service in WHOLE.values() for name in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    assert all(entry == {"file": f"./secrets/{name}"} for name, entry in COMPOSE["secrets"].items())
    for services in (COMPOSE["services"], GPU["services"], TRY["services"]):
        for service in services.values():
            for name, value in service.get("environment", {}).items():
                assert not re.search("PASSWORD|SECRET|TOKEN|_URL$", name) or value.startswith(
                    "/run/secrets/"
                ), name


def test_a_secret_of_hipnode_is_named_like_its_setting():
    for name in WHOLE["node"]["secrets"]:
        assert name.removeprefix("hipnode_") in Settings.model_fields


@pytest.fixture
def prepared(tmp_path):
    """What deploy/prepare.sh makes of a checkout: its folder deploy/."""
    deploy = tmp_path / "deploy"
    deploy.mkdir()
    shutil.copy(DEPLOY / "prepare.sh", deploy)
    (tmp_path / "hipnode").mkdir()
    shutil.copy(ROOT / "hipnode" / "__init__.py", tmp_path / "hipnode")
    prepare(deploy)
    return deploy


def prepare(deploy: Path) -> None:
    subprocess.run(["sh", deploy / "prepare.sh"], check=True, capture_output=True)


def test_preparing_writes_every_file_compose_reads_and_git_ignores_them(prepared):
    made = {path.relative_to(prepared).as_posix() for path in prepared.rglob("*")} - {"prepare.sh"}
    wanted = {Path(entry["file"]).as_posix() for entry in COMPOSE["secrets"].values()}
    assert wanted <= made
    assert {"site/hipnode.env", "site/destinations.toml", "site/packages"} <= made
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"deploy/.env", "deploy/secrets/", "deploy/site/"} <= set(ignored)
    assert {each.partition("/")[0] for each in made} == {".env", "secrets", "site"}
    assert (prepared / ".env").read_text().split() == [
        "COMPOSE_PROJECT_NAME=hipnode",
        f"HIPNODE_VERSION={__version__}",
    ]


def test_the_passwords_that_are_made_fit_each_other_and_the_settings(prepared, monkeypatch):
    monkeypatch.chdir(prepared / "site")
    monkeypatch.setenv("HIPNODE_SECRETS_DIR", str(prepared / "secrets"))
    settings = load_settings()
    ledger = (prepared / "secrets" / "postgres_password").read_text().strip()
    broker = (prepared / "secrets" / "redis_conf").read_text().split()[1]
    assert settings.database == f"postgresql+psycopg://hipnode:{ledger}@postgres/hipnode"
    assert settings.broker == f"redis://:{broker}@redis:6379/0"
    assert re.fullmatch("[0-9a-f]{48}", ledger)
    assert re.fullmatch("[0-9a-f]{48}", broker)
    assert ledger != broker
    assert load_destinations(prepared / "site" / "destinations.toml") == []
    # not the default: some engines show every peer as 127.0.0.1
    assert AllowedPeers.parse(settings.allowed_peers).entries == ()
    postgres = WHOLE["postgres"]["environment"]
    assert (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]) == ("hipnode", "hipnode")


def test_containers_may_read_the_secrets_and_other_users_of_the_machine_may_not(prepared):
    folder = prepared / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}


def test_preparing_again_changes_the_version_and_nothing_else(prepared):
    before = {file.name: file.read_text() for file in (prepared / "secrets").iterdir()}
    (prepared / "site" / "hipnode.env").write_text("HIPNODE_AE_TITLE=OURS\n")
    with (prepared / ".env").open("a") as file:
        file.write("COMPOSE_FILE=compose.yaml:compose.gpu.yaml\n")
    (prepared.parent / "hipnode" / "__init__.py").write_text('__version__ = "9.9.9"\n')
    prepare(prepared)
    assert {file.name: file.read_text() for file in (prepared / "secrets").iterdir()} == before
    assert (prepared / "site" / "hipnode.env").read_text() == "HIPNODE_AE_TITLE=OURS\n"
    assert (prepared / ".env").read_text().split() == [
        "COMPOSE_PROJECT_NAME=hipnode",
        "COMPOSE_FILE=compose.yaml:compose.gpu.yaml",
        "HIPNODE_VERSION=9.9.9",
    ]


@pytest.mark.peers("redis")
def test_redis_takes_its_password_file_and_asks_for_the_password(prepared, tmp_path):
    password = (prepared / "secrets" / "redis_conf").read_text().split()[1]
    port = free_port()
    inside, outside = "/run/secrets/redis_conf", str(prepared / "secrets" / "redis_conf")
    program, *arguments = (each.replace(inside, outside) for each in WHOLE["redis"]["command"])
    check = WHOLE["redis"]["healthcheck"]["test"][1].replace(inside, outside).replace("$$", "$")
    check = check.replace("redis-cli", f"{need('redis-cli')} -p {port}")
    with running([str(need(program)), *arguments, "--port", str(port)], tmp_path, "redis.log"):
        wait_for(
            lambda: subprocess.run(["sh", "-c", check], check=False).returncode == 0,
            "the health check passes",
        )
        with redis_client.Redis(port=port, password=password) as client:
            assert client.ping() is True
        with redis_client.Redis(port=port) as client, pytest.raises(redis_client.AuthenticationError):
            client.ping()
        wrong = check.replace(outside, os.devnull)
        assert subprocess.run(["sh", "-c", wrong], check=False, capture_output=True).returncode != 0


# --- Images --------------------------------------------------------------------------------------


def test_each_image_has_a_user_a_health_check_and_the_version_of_the_wheel():
    assert set(IMAGES) <= set(STAGES)
    for target in IMAGES:
        assert "HEALTHCHECK" in STAGES[target]
        assert "COPY --from=hipnode /opt/hipnode /opt/hipnode" in STAGES[target]
    assert 'org.opencontainers.image.version="${VERSION}"' in STAGES["runtime"]
    assert 'test -e "/wheels/hipnode-${VERSION}-py3-none-any.whl"' in STAGES["hipnode"]


def test_compose_builds_the_images_the_dockerfile_has():
    built = [service["build"] for service in WHOLE.values() if "build" in service]
    assert {each["target"] for each in built} == {"node", "worker-cpu"}
    assert GPU["services"]["analyse"]["build"]["target"] == "worker-cuda"
    for each in built:
        assert (DEPLOY / each["context"] / each["dockerfile"]).resolve() == ROOT / "docker" / "Dockerfile"
        assert each["args"]["VERSION"].startswith("${HIPNODE_VERSION")
        assert all(re.search(rf"^ARG {name}=?$", DOCKERFILE, re.MULTILINE) for name in each["args"])


def test_the_base_is_pinned_and_nothing_else_is_pulled():
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    sources = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    sources += re.findall(r"--from=(\S+)", DOCKERFILE)
    assert set(sources) <= {"${BASE}", *STAGES}


def test_the_health_checks_ask_where_the_parts_answer():
    port = WHOLE["node"]["environment"]["HIPNODE_HTTP_PORT"]
    assert f"'127.0.0.1', {port}," in STAGES["node"]
    assert "'/healthz'" in STAGES["node"]
    for target in ("worker-cpu", "worker-cuda"):
        assert '"worker", "check", "analyse"' in STAGES[target]
    assert WHOLE["deliver"]["healthcheck"]["test"] == ["CMD", "hipnode", "worker", "check", "deliver"]


def test_the_gpu_file_reserves_one_gpu_for_the_worker_that_has_cuda():
    analyse = GPU["services"]["analyse"]
    assert analyse["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    assert analyse["command"][-1] == "cuda:0"
    assert analyse["image"].startswith("hipnode-worker-cuda:")


def pins(file: str) -> dict[str, str]:
    """Package -> version of one of the files the images install from."""
    lines = (ROOT / "docker" / file).read_text().splitlines()
    given = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pin for name, pin in given}


@pytest.mark.parametrize(
    ("files", "extra"),
    [(["requirements-node.txt"], ""), (["requirements-node.txt", "requirements-worker.txt"], "worker")],
)
def test_the_pinned_versions_are_whole_and_fit_the_wheel(files, extra):
    pinned = {name: pin for file in files for name, pin in pins(file).items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"hipnode": [*project["dependencies"], *project["optional-dependencies"].get(extra, [])]}
    # what a package needs is known here where that very version is installed
    asked |= {name: requires(name) or [] for name in pinned if installed(name) == pinned[name]}
    assert len(asked) > 1
    for package, lines in asked.items():
        for needed in map(Requirement, lines):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                found = pinned.get(canonicalize_name(needed.name))
                assert found is not None, f"{package} needs {needed.name}"
                assert needed.specifier.contains(found, prereleases=True), f"{package} needs {needed}"


def installed(name: str) -> str | None:
    """The version installed here, without its local part (torch's +cpu)."""
    with suppress(PackageNotFoundError):
        return version(name).partition("+")[0]
    return None


def test_the_node_image_installs_no_torch():
    assert "torch" not in pins("requirements-node.txt")
    assert pins("requirements-worker.txt")["torch"] == "2.13.0"
    assert re.search(r"^FROM tools AS node-packages$", DOCKERFILE, re.MULTILINE)
    assert "requirements-worker" not in STAGES["node-packages"] + STAGES["node"]
    assert re.findall(r"--from=(\S+)", STAGES["node"]) == ["node-packages", "hipnode"]


def test_the_build_gets_all_the_wheel_is_made_of_and_no_secret():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    through = [line[1:] for line in lines if line.startswith("!")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {*wheel["packages"], *wheel["force-include"]}
    needed |= {"docker/requirements-node.txt", "docker/requirements-worker.txt"}
    for path in needed:
        assert any(fnmatch(path, each) or path.startswith(f"{each}/") for each in through), path
    for private in ("deploy/secrets/redis_conf", "deploy/site/hipnode.env", "deploy/.env", ".git/config"):
        assert not any(fnmatch(private, each) or private.startswith(f"{each}/") for each in through)


# --- The Orthanc to try against ------------------------------------------------------------------


def test_orthanc_and_hipnode_know_each_other_by_the_names_compose_gives_them():
    orthanc = yaml.safe_load((DEPLOY / "orthanc" / "orthanc.json").read_text())
    assert orthanc["DicomModalities"]["hipnode"] == ["HIPNODE", "node", 11112]
    (destination,) = load_destinations(DEPLOY / "orthanc" / "destinations.toml")
    remote = destination.remote
    assert (remote.ae_title, remote.host, remote.port) == (
        orthanc["DicomAet"],
        "orthanc",
        orthanc["DicomPort"],
    )
    given = TRY["services"]["node"]["environment"]["HIPNODE_ALLOWED_PEERS"]
    subnet = COMPOSE["networks"]["dicom"]["ipam"]["config"][0]["subnet"]
    assert given == f"{orthanc['DicomAet']}@{subnet}"
    assert all(TRY["services"][name]["environment"]["HIPNODE_ALLOWED_PEERS"] == given for name in OURS[1:])
