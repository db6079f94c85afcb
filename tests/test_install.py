"""`hipnode install systemd`: what it writes, that systemd takes it, and that it respects what a site changed."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hipnode.cli import app
from hipnode.cli.install import PROGRAM, UNSEEN, deploy_folder, hidden_from_units, site_files
from hipnode.destinations import load_destinations
from hipnode.settings import load_settings
from tests.peers import need

ROOT = Path(__file__).resolve().parents[1]
UNITS = "etc/systemd/system"
SERVICES = ("hipnode-node.service", "hipnode-deliver.service", "hipnode-analyse@.service")
MOST_EXPOSED = 20  # of 100, as `systemd-analyze security` counts; a service without hardening has 92 to 96


def install(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["install", "systemd", *map(str, arguments)])


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def unit(name: str) -> str:
    return (ROOT / "deploy" / "systemd" / name).read_text()


def systemd_analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_PAGER": ""},
    )


def test_dry_run_prints_each_file_and_writes_none(tmp_path: Path) -> None:
    done = install("--dry-run", "--prefix", tmp_path)
    assert done.exit_code == 0
    for path in (
        *(f"{UNITS}/{name}" for name in SERVICES),
        f"{UNITS}/hipnode.target",
        "usr/local/bin/hipnode",
    ):
        assert f"### /{path} " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_was_shown(tmp_path: Path) -> None:
    assert install("--prefix", tmp_path).exit_code == 0
    shown = install("--dry-run").stdout
    written = tree(tmp_path)
    assert set(written) == {file.path for file in site_files(PROGRAM)}
    for text in written.values():
        assert text in shown
    assert PROGRAM not in shown, "the units start the program that wrote them"


def test_the_units_start_commands_that_exist() -> None:
    started = re.findall(r"^Exec\w+=(.+)$", "".join(map(unit, SERVICES)), re.MULTILINE)
    assert [shlex.split(line)[0] for line in started] == [PROGRAM] * 4
    for line in started:
        arguments = [word for word in shlex.split(line)[1:] if word != "%I"]
        device = ["cpu"] if "--device" in arguments else []
        done = CliRunner().invoke(app, [*arguments, *device, "--help"])
        assert done.exit_code == 0, line


def test_systemd_takes_the_units_without_a_word(tmp_path: Path) -> None:
    assert install("--prefix", tmp_path).exit_code == 0
    folder = tmp_path / UNITS
    # as `systemctl enable` makes it; for cuda:0 it does the same, but `verify` takes what follows a colon for an alias
    (folder / "hipnode-analyse@cpu.service").symlink_to("hipnode-analyse@.service")
    done = systemd_analyze("verify", "--man=no", *sorted(folder.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", SERVICES)
def test_the_units_are_hardened(name: str, tmp_path: Path) -> None:
    assert install("--prefix", tmp_path).exit_code == 0
    done = systemd_analyze(
        "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", tmp_path / UNITS / name
    )
    assert done.returncode == 0, done.stdout[-400:]
    assert "Overall exposure level" in done.stdout


def test_the_services_differ_in_nothing_they_need_not() -> None:
    """The lines are repeated in three files, because systemd knows no include: they must not drift apart."""
    own = r"^(Description|After|Exec\w+|Timeout\w+|MemoryDeny\w+|PrivateDevices|Device\w+|DefaultInstance)="
    kept = [
        [
            line
            for line in unit(name).splitlines()
            if line and not line.startswith("#") and not re.match(own, line) and "OMP_" not in line
        ]
        for name in SERVICES
    ]
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) > 30


def test_the_written_settings_are_read_and_name_the_services_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert install("--prefix", tmp_path).exit_code == 0
    for name in [name for name in os.environ if name.startswith("HIPNODE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HIPNODE_ENV_FILE", str(tmp_path / "etc/hipnode/hipnode.env"))
    settings = load_settings()
    assert settings.data == Path("/var/lib/hipnode")
    assert settings.destinations == Path("/etc/hipnode/destinations.toml")
    shipped = tmp_path / "etc/hipnode/destinations.toml"
    assert load_destinations(shipped) == []
    shipped.write_text(re.sub("^# (?=\\[|[a-z_]+ =)", "", shipped.read_text(), flags=re.MULTILINE))
    assert [(d.name, d.port) for d in load_destinations(shipped)] == [("PACS", 104)]


def test_nobody_but_the_service_reads_the_settings(tmp_path: Path) -> None:
    assert install("--prefix", tmp_path).exit_code == 0
    modes = {p: stat.S_IMODE((tmp_path / p).stat().st_mode) for p in tree(tmp_path)}
    assert modes.pop("usr/local/bin/hipnode") == 0o755
    assert {mode for path, mode in modes.items() if path.startswith("etc/hipnode")} == {0o640}
    assert {mode for path, mode in modes.items() if path.startswith(UNITS)} == {0o644}


def test_a_second_run_changes_nothing_and_says_so(tmp_path: Path) -> None:
    install("--prefix", tmp_path)
    before = tree(tmp_path)
    again = install("--prefix", tmp_path)
    assert again.exit_code == 0
    assert again.stdout.count("left as it is") == len(before)
    assert tree(tmp_path) == before


def test_a_new_version_replaces_the_old_ones_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hipnode.cli.install.__version__", "0.0.1")
    install("--prefix", tmp_path)
    monkeypatch.undo()
    again = install("--prefix", tmp_path)
    assert again.exit_code == 0
    assert again.stdout.count(": replaced") == 5
    assert "hipnode 0.0.1 wrote" not in "".join(tree(tmp_path).values())


def test_what_was_changed_by_hand_is_kept_and_named(tmp_path: Path) -> None:
    install("--prefix", tmp_path)
    node = tmp_path / UNITS / "hipnode-node.service"
    mine = node.read_text().replace("RestartSec=5", "RestartSec=9")
    node.write_text(mine)
    again = install("--prefix", tmp_path)
    assert again.exit_code == 1
    assert re.search(r"hipnode-node\.service: kept: .*--force", again.stdout)
    assert node.read_text() == mine
    forced = install("--prefix", tmp_path, "--force")
    assert forced.exit_code == 0
    assert "RestartSec=9" not in node.read_text()


def test_settings_are_never_written_again(tmp_path: Path) -> None:
    install("--prefix", tmp_path)
    settings = tmp_path / "etc/hipnode/hipnode.env"
    settings.write_text("HIPNODE_AE_TITLE=MINE\n")
    assert install("--prefix", tmp_path, "--force").exit_code == 0
    assert settings.read_text() == "HIPNODE_AE_TITLE=MINE\n"


def test_uninstall_leaves_settings_and_what_is_not_ours(tmp_path: Path) -> None:
    install("--prefix", tmp_path)
    deliver = tmp_path / UNITS / "hipnode-deliver.service"
    deliver.write_text("[Service]\nExecStart=/bin/true\n")
    done = install("--prefix", tmp_path, "--uninstall")
    assert done.exit_code == 0
    assert set(tree(tmp_path)) == {
        "etc/hipnode/hipnode.env",
        "etc/hipnode/destinations.toml",
        f"{UNITS}/hipnode-deliver.service",
    }
    assert "hipnode-deliver.service: kept" in done.stdout


def test_without_root_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hipnode.cli import main

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["hipnode", "install", "systemd"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "run it as root" in capsys.readouterr().err


@pytest.mark.parametrize("folder", UNSEEN)
def test_a_program_that_the_units_cannot_see_is_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", "/usr")
    monkeypatch.setattr("sys.executable", "/usr/bin/env")
    assert hidden_from_units(Path("/usr/bin/env")) == ""
    assert folder in hidden_from_units(Path(folder) / "venv" / "bin" / "hipnode")


def test_a_folder_the_user_may_not_enter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hipnode.cli.install.UNSEEN", ())
    monkeypatch.setattr("sys.prefix", "/usr")
    monkeypatch.setattr("sys.executable", "/usr/bin/env")
    closed = tmp_path / "opt"
    (closed / "bin").mkdir(parents=True)
    closed.chmod(0o700)
    assert f"may not enter {closed}" in hidden_from_units(closed / "bin" / "hipnode")


@pytest.mark.parametrize("closed", [False, True])
def test_the_short_command_hands_over_settings_and_arguments(tmp_path: Path, closed: bool) -> None:
    """Run with a program that prints what it was given, in place of hipnode and of the change of user.

    closed: called in a folder the other user may not enter, as /root is.
    """
    here = tmp_path / "here"
    here.mkdir()
    teller = tmp_path / "teller"
    teller.write_text('#!/bin/sh\npwd; echo "$HIPNODE_ENV_FILE"; for a in "$@"; do echo "<$a>"; done\n')
    teller.chmod(0o755)
    # root may enter every folder, unless it gives up the right to
    drop = f"{need('setpriv')} --inh-caps=-all --bounding-set=-all" if os.geteuid() == 0 else ""
    for name in ("runuser", "sudo"):
        stand_in = tmp_path / name
        stand_in.write_text(
            '#!/bin/sh\nshift 2; [ "$1" != -- ] || shift\n'
            + (f'chmod 000 .\nexec {drop} "$@"\n' if closed else 'exec "$@"\n')
        )
        stand_in.chmod(0o755)
    (command,) = (f for f in site_files(str(teller)) if f.path == "usr/local/bin/hipnode")
    script = tmp_path / "hipnode"
    script.write_text(command.text)
    done = subprocess.run(
        ["sh", script, "studies", "show", "a b"],
        cwd=here, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    here.chmod(0o755)
    told = ["/etc/hipnode/hipnode.env", "<studies>", "<show>", "<a b>"]
    assert (done.stdout.splitlines(), done.stderr) == (["/" if closed else str(here), *told], "")


def test_the_units_are_found_in_the_checkout() -> None:
    assert deploy_folder() == ROOT / "deploy"
    assert Path(sys.prefix, "bin", "hipnode").exists()
