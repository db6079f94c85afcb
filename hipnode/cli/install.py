"""`hipnode install systemd`: units, settings and a short command for a machine that runs hipnode as a service."""

import grp
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hipnode import __version__
from hipnode.errors import HipnodeError, SettingsError

USER = "hipnode"
PROGRAM = "/opt/hipnode/bin/hipnode"  #: as it stands in the shipped files; replaced by the installed one
UNITS = "etc/systemd/system"
MAKE_USER = f"useradd --system --user-group --home-dir /var/lib/hipnode --shell /usr/sbin/nologin {USER}"
#: Folders the hardened units do not see (ProtectHome, PrivateTmp).
UNSEEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # named, not used

_MARK = re.compile(r"# hipnode \S+ wrote the lines above, sha256 ([0-9a-f]{64})\n\Z")

install = typer.Typer(no_args_is_help=True, help="Set this machine up to run hipnode.")


@install.callback()
def _group() -> None:
    pass


@dataclass(frozen=True)
class SiteFile:
    """A file of an installation. path: relative to the prefix; mode: as for chmod.

    kept: the site's own once it is there; it is never written again and stays when hipnode goes.
    """

    path: str
    text: str
    mode: int = 0o644
    kept: bool = False


@install.command()
def systemd(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be written, write nothing.")
    ] = False,
    prefix: Annotated[
        Path, typer.Option(help="Write under this folder instead of /, to look at it or to package it.")
    ] = Path("/"),
    force: Annotated[bool, typer.Option("--force", help="Replace files that were changed by hand.")] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Remove what this command wrote; settings and data stay.")
    ] = False,
) -> None:
    """Write systemd units for this installation, and settings to fill in. Run it again after an upgrade.

    Example: `/opt/hipnode/bin/hipnode install systemd --dry-run`
    """
    files = site_files(_program())
    hidden = hidden_from_units(Path(_program()))
    if dry_run:
        _print(files)
        if hidden:
            typer.echo(hidden, err=True)
        return
    ours = prefix == Path("/")
    if ours and os.geteuid() != 0:
        raise SettingsError("This writes into /etc: run it as root, or look with --dry-run first.")
    if uninstall:
        _report([_remove(prefix, file) for file in files if not file.kept])
        typer.echo("Settings stay in /etc/hipnode, studies and results in /var/lib/hipnode.")
        return
    if ours:
        if hidden:
            raise HipnodeError(hidden)
        if not _group_exists():
            raise HipnodeError(f"There is no user {USER} yet. Make it, then run this again:\n  {MAKE_USER}")
    done = [_write(prefix, file, force) for file in files]
    if ours:
        _hand_to_group(prefix)
    _report(done)
    typer.echo(
        "Next:\n"
        "  fill in /etc/hipnode/hipnode.env and /etc/hipnode/destinations.toml\n"
        "  systemctl daemon-reload\n"
        "  systemctl enable --now hipnode.target hipnode-node hipnode-deliver hipnode-analyse@cpu\n"
        "With a GPU it is hipnode-analyse@cuda:0. A machine that only analyses enables only that and hipnode.target."
    )
    if any(said.startswith("kept") for _, said in done):
        raise typer.Exit(1)


def deploy_folder() -> Path:
    """The folder of units and example settings: inside the package from a wheel, beside it in a checkout.

    Raises SettingsError where neither is.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_deploy", package.parent / "deploy"):
        if (folder / "hipnode.env.example").is_file():
            return folder
    raise SettingsError(f"The units are missing beside {package}; install hipnode again.")


def site_files(program: str) -> list[SiteFile]:
    """What an installation consists of beside the program itself.

    program: absolute path of the `hipnode` command the units start.
    """
    folder = deploy_folder()
    units = [
        SiteFile(f"{UNITS}/{unit.name}", _marked(unit.read_text(encoding="utf-8").replace(PROGRAM, program)))
        for unit in sorted((folder / "systemd").iterdir())
    ]
    settings = (folder / "hipnode.env.example").read_text(encoding="utf-8")
    for name, value in (
        ("HIPNODE_DATA", "/var/lib/hipnode"),
        ("HIPNODE_DESTINATIONS_FILE", "/etc/hipnode/destinations.toml"),
    ):
        settings = re.sub(rf"^# {name}=.*$", f"{name}={value}", settings, flags=re.MULTILINE)
    files = [
        *units,
        SiteFile("etc/hipnode/hipnode.env", settings, 0o640, kept=True),
        SiteFile("etc/hipnode/destinations.toml", _DESTINATIONS, 0o640, kept=True),
    ]
    if program != "/usr/local/bin/hipnode":
        files.append(SiteFile("usr/local/bin/hipnode", _marked(_COMMAND.replace(PROGRAM, program)), 0o755))
    return files


def hidden_from_units(program: Path) -> str:
    """Why a service could not start `program`, with what to do; "" when it could."""
    places = {program, program.parent.resolve(), Path(sys.prefix), Path(sys.executable).resolve()}
    for place in sorted(places):
        if any(place.is_relative_to(folder) for folder in UNSEEN):
            return (
                f"{place} lies where the hardened units cannot see it ({', '.join(UNSEEN)}). "
                "Install hipnode elsewhere, with the Python of the system: /usr/bin/python3 -m venv /opt/hipnode"
            )
        for folder in (place, *place.parents):
            if folder.exists() and not folder.stat().st_mode & 0o001:
                return f"The user {USER} may not enter {folder}: chmod o+rx {folder}, and what lies under it."
    return ""


_DESTINATIONS = """\
# Where results go. Take the marks off and fill in your archive; `hipnode echo PACS` then asks whether it answers.
# [[destination]]
# name = "PACS"
# ae_title = "PACS"
# host = "10.1.2.3"
# port = 104
"""

_COMMAND = f"""\
#!/bin/sh
# hipnode with the settings of this machine, as the user its services run as. Files must be open to that user;
# from a folder that is not, it runs in /.
[ "$1" != install ] || exec {PROGRAM} "$@"
set -- env HIPNODE_ENV_FILE=/etc/hipnode/hipnode.env HIPNODE_SECRETS_DIR=/etc/hipnode/secrets \\
    sh -c 'cd . 2>/dev/null || cd /; exec "$0" "$@"' {PROGRAM} "$@"
case "$(id -un)" in
{USER}) exec "$@" ;;
root) exec runuser -u {USER} -- "$@" ;;
*) exec sudo -u {USER} "$@" ;;
esac
"""


def _program() -> str:
    program = Path(sys.prefix) / "bin" / "hipnode"
    if not program.exists():
        raise HipnodeError(f"There is no command {program} for the units to start; install hipnode again.")
    return str(program)


def _marked(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}# hipnode {__version__} wrote the lines above, sha256 {digest}\n"


def _as_written(text: str) -> bool:
    """Whether a file is as some version of this command wrote it."""
    mark = _MARK.search(text)
    return mark is not None and hashlib.sha256(text[: mark.start()].encode()).hexdigest() == mark[1]


def _print(files: list[SiteFile]) -> None:
    for file in files:
        typer.echo(f"### /{file.path} (mode {file.mode:04o})\n{file.text}")


def _write(prefix: Path, file: SiteFile, force: bool) -> tuple[Path, str]:
    path = prefix / file.path
    said = "written"
    if path.exists():
        found = path.read_text(encoding="utf-8", errors="replace")
        if file.kept or found == file.text:
            return path, "left as it is"
        if not _as_written(found) and not force:
            return path, "kept: it was changed by hand, or is not ours; --force replaces it"
        said = "replaced"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text(file.text, encoding="utf-8")
    part.chmod(file.mode)
    part.replace(path)
    return path, said


def _remove(prefix: Path, file: SiteFile) -> tuple[Path, str]:
    path = prefix / file.path
    if not path.exists():
        return path, "was not there"
    if not _as_written(path.read_text(encoding="utf-8", errors="replace")):
        return path, "kept: it was changed by hand, or is not ours"
    path.unlink()
    return path, "removed"


def _report(done: list[tuple[Path, str]]) -> None:
    for path, said in done:
        typer.echo(f"{path}: {said}")


def _group_exists() -> bool:
    try:
        grp.getgrnam(USER)
    except KeyError:
        return False
    return True


def _hand_to_group(prefix: Path) -> None:
    """Let the services' user read /etc/hipnode, and nobody else."""
    for path in _site_folder(prefix):
        shutil.chown(path, group=USER)
        path.chmod(0o750 if path.is_dir() else 0o640)


def _site_folder(prefix: Path) -> Iterator[Path]:
    folder = prefix / "etc/hipnode"
    (folder / "secrets").mkdir(exist_ok=True)
    yield folder
    yield folder / "secrets"
    yield folder / "hipnode.env"
    yield folder / "destinations.toml"
