"""A small engine: runs a service of a compose file from an unpacked image, with runc.

It does with runc what Docker does: read-only root, no capabilities, no new privileges, the user, environment,
command, secrets, volumes and tmpfs the compose file and the image name, the system calls of the profile that comes
with Debian's container tools. It makes no network (every container is in that of the test, where names lead to its own
addresses) and sets no limits.
"""

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.peers import need

_TMPFS = {"source": "tmpfs", "type": "tmpfs"}
_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", **_TMPFS, "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666"],
    },
    {
        "destination": "/dev/shm",
        **_TMPFS,
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
]
_NAMESPACES = ("pid", "ipc", "uts", "mount")
_PROFILE = Path("/usr/share/containers/seccomp.json")


class Image:
    """An image as docker/try-buildah.sh leaves it in a folder: rootfs and image.json."""

    def __init__(self, folder: Path) -> None:
        self.root = (folder / "rootfs").resolve(strict=True)
        config = json.loads((folder / "image.json").read_text())["Docker"]["config"]
        self.user: str = config["User"]
        self.entrypoint: list[str] = config["Entrypoint"]
        self.folder: str = config["WorkingDir"]
        self.environment = dict(line.split("=", 1) for line in config["Env"])
        self.labels: dict[str, str] = config["Labels"]
        self.health: list[str] = config["Healthcheck"]["Test"]


class Container:
    """One service. `volumes`: named volume -> folder; `hosts`: name -> address; `here`: the compose files' folder."""

    def __init__(
        self,
        name: str,
        service: Mapping[str, Any],
        image: Image,
        folder: Path,
        *,
        here: Path,
        volumes: Mapping[str, Path],
        hosts: Mapping[str, str],
    ) -> None:
        self.name, self.folder, self.image = name, folder / name, image
        self.folder.mkdir()
        self._runc = [str(need("runc")), "--root", str(folder / "runc")]
        self.health = service.get("healthcheck", {}).get("test", image.health)[1:]
        hosts_file = self.folder / "hosts"
        hosts_file.write_text("".join(f"{address} {host}\n" for host, address in hosts.items()))
        binds = [(str(hosts_file), "/etc/hosts", "ro")]
        binds += [(str(here / "secrets" / each), f"/run/secrets/{each}", "ro") for each in service["secrets"]]
        for volume in service["volumes"]:
            source, destination, mode = [*volume.split(":"), "rw"][:3]
            binds.append((str(volumes.get(source) or (here / source).resolve()), destination, mode))
        user, group = map(int, service["user"].split(":"))
        environment = {**image.environment, **service["environment"]}
        config = {
            "ociVersion": "1.0.2",
            "hostname": name,
            "root": {"path": str(image.root), "readonly": service["read_only"]},
            "process": {
                "user": {"uid": user, "gid": group},
                "args": [*image.entrypoint, *service["command"]],
                "env": [f"{key}={value}" for key, value in environment.items()],
                "cwd": image.folder,
                "capabilities": {} if service["cap_drop"] == ["ALL"] else None,
                "noNewPrivileges": "no-new-privileges:true" in service["security_opt"],
            },
            "mounts": [
                *_MOUNTS,
                *(_tmpfs(each) for each in service["tmpfs"]),
                *(
                    {"destination": to, "type": "bind", "source": of, "options": ["rbind", mode]}
                    for of, to, mode in binds
                ),
            ],
            "linux": {"namespaces": [{"type": each} for each in _NAMESPACES], "seccomp": _system_calls()},
        }
        (self.folder / "config.json").write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Container":
        """Start it; its output goes to <folder>/log."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._runc, "run", "--bundle", str(self.folder), self.name],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def wait(self, timeout_s: float = 120) -> int:
        """Wait for its end; its exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as its user."""
        return subprocess.run(
            [*self._runc, "exec", self.name, *arguments],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def healthy(self) -> bool:
        """Whether its health check passes now."""
        return self.run(*self.health).returncode == 0

    def end(self, signal: str = "TERM") -> None:
        """Send its first process a signal, as an engine does."""
        subprocess.run([*self._runc, "kill", self.name, signal], capture_output=True, check=False)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self.folder / "log").read_text()


def _system_calls() -> dict[str, Any]:
    """The profile's rules for a process without capabilities on this kind of machine."""
    profile = json.loads(_PROFILE.read_text())
    assert platform.machine() == "x86_64", "which rules of the profile hold elsewhere is not known here"
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
        for rule in profile["syscalls"]
        if "caps" not in rule["includes"] and "amd64" in rule["includes"].get("arches", ["amd64"])
    ]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    }


def _tmpfs(entry: str) -> dict[str, Any]:
    destination, _, options = entry.partition(":")
    return {
        "destination": destination,
        **_TMPFS,
        "options": ["nosuid", "nodev", "noexec", *options.split(",")],
    }


def filled_in(value: Any) -> Any:
    """A compose file with its ${NAME:-default} replaced by the defaults."""
    if isinstance(value, dict):
        return {key: filled_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled_in(each) for each in value]
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) if isinstance(value, str) else value


def beside(service: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A service with what a second compose file says of it: mappings and lists are joined, the rest replaced."""
    joined = dict(service)
    for key, value in other.items():
        mine = service.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            joined[key] = {**mine, **value}
        elif isinstance(mine, list) and key != "command":
            joined[key] = [*mine, *value]
        else:
            joined[key] = value
    return joined
