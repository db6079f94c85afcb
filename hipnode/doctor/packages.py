"""The model packages on this disk: whole, named by the selection, and what runs them (torch, GPU)."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hipnode.doctor.records import Record, fail, note, ok, one_line, warn
from hipnode.errors import PackageError
from hipnode.packages import ModelPackage, find_packages, shipped_folder

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

_CHILD_S = 9.0

#: Run in a child: hipnode itself never imports torch.
_ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "built_for": torch.version.cuda,
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
}))
"""


def check_packages(site: "Site") -> list[Record]:
    """Each package whole (hash), each one the selection names there, and which are for trial only."""
    problems: list[PackageError] = []
    found = find_packages(site.settings.package_folders, verify=True, problems=problems)
    records = [_broken(problem) for problem in problems]
    own = shipped_folder()
    for package in found.values():
        records.append(
            ok("model-packages", f"{package.id} {package.version} is whole ({package.sha256[:12]}).")
        )
        if own is not None and package.folder.parent == own:
            says = f"{package.id} ships with hipnode and has no clinical validity: {package.algorithm.origin}"
            records.append(
                note("model-weights", says, "For your own weights see README.md, Bring your own weights.")
            )
    for id_ in site.package_ids():
        if id_ not in found:
            records.append(_missing(site, id_, found))
    return records + _outdated(site, found)


def check_torch(site: "Site") -> list[Record]:
    """torch, GPU and driver, where an analyse worker runs or is to run."""
    gpus = _nvidia_smi()
    if find_spec("torch") is None:
        says = "torch is not installed: no analyse worker can run from this installation."
        if site.live_workers("analyse"):
            return [note("torch", f"{says} One runs elsewhere.")]
        cure = "Install hipnode[worker] here, or run `hipnode worker analyse` on another machine."
        return [warn("torch", says, cure), *_gpu_without_torch(gpus)]
    try:
        asked = _torch()
    except subprocess.TimeoutExpired:
        says = f"torch is installed and was not imported within {_CHILD_S:g} s."
        return [
            warn("torch", says, "Run this again when the machine is less busy."),
            *_gpu_without_torch(gpus),
        ]
    if asked is None:
        cure = (
            f'Run `{sys.executable} -c "import torch"` to see the error, and install hipnode[worker] again.'
        )
        return [fail("torch", "torch is installed and cannot be imported.", cure), *_gpu_without_torch(gpus)]
    return [ok("torch", f"torch {asked['version']} can be imported."), *_gpu(asked, gpus, site)]


def _broken(problem: PackageError) -> Record:
    cure = (
        "Copy the whole package folder again from its source and run `hipnode models verify`; a package nobody needs "
        "may be removed. Then start the analyse worker again."
    )
    return fail("model-packages", one_line(problem), cure)


def _missing(site: "Site", id_: str, found: dict[str, ModelPackage]) -> Record:
    if any(id_ in worker.packages for worker in site.live_workers("analyse")):
        return note(
            "model-packages",
            f"{id_}, which the selection names, is not on this disk; a worker has it loaded.",
        )
    says = f"The selection names the model package {id_}, and it is not on this disk."
    there = ", ".join(sorted(found)) or "none"
    cure = (
        f"Put it into {site.settings.data / 'packages'} (there are: {there}), or name another one as `package` in "
        "[site] of selection.toml. On a machine that runs no analyse worker, look at the worker's machine."
    )
    return fail("model-packages", says, cure)


def _outdated(site: "Site", found: dict[str, ModelPackage]) -> list[Record]:
    records = []
    for worker in site.live_workers("analyse"):
        for id_, sha256 in worker.packages.items():
            if id_ in found and found[id_].sha256 != sha256:
                says = f"{worker.name} has loaded other weights of {id_} than lie on this disk."
                records.append(fail("worker-packages", says, "Start the analyse worker again."))
    return records


def _gpu(asked: dict[str, Any], gpus: list[str], site: "Site") -> list[Record]:
    if asked["devices"]:
        names = ", ".join(gpus or asked["devices"])
        records = [ok("gpu", f"torch can use {len(asked['devices'])} GPU: {names}.")]
        live = site.live_workers("analyse")
        if live and not any((worker.device or "").startswith("cuda") for worker in live):
            says = "A GPU is there, and every analyse worker runs on the CPU."
            records.append(note("gpu", says, "Start the worker with `--device cuda:0`."))
        return records
    if gpus and not asked["built_for"]:
        says = f"A GPU is there ({', '.join(gpus)}), and this torch is built for the CPU only."
        return [
            warn("gpu", says, "Install the torch wheel with CUDA, or let the worker run with `--device cpu`.")
        ]
    if gpus:
        says = f"A GPU is there ({', '.join(gpus)}), and torch {asked['version']} cannot use it."
        cure = f"Update the NVIDIA driver to one that knows CUDA {asked['built_for']}; in a container, give it the GPU."
        return [warn("gpu", says, cure)]
    return [note("gpu", "There is no GPU: studies are analysed on the CPU, a few seconds each.")]


def _gpu_without_torch(gpus: list[str]) -> list[Record]:
    return [note("gpu", f"A GPU is there: {', '.join(gpus)}.")] if gpus else []


def _torch() -> dict[str, Any] | None:
    """What torch says of itself; None where it cannot be imported. Raises TimeoutExpired."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_CHILD_S, check=True
        )
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def _nvidia_smi() -> list[str]:
    """Name, driver and memory of each GPU as the driver tells; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run([program, *query], capture_output=True, text=True, timeout=_CHILD_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [_gpu_line(line) for line in done.stdout.splitlines() if line.strip()]


def _gpu_line(line: str) -> str:
    name, driver, memory = ([part.strip() for part in line.split(",")] + ["", ""])[:3]
    return f"{name}, driver {driver}, {memory}"
