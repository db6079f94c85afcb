"""`hipnode up` and `hipnode serve`: run the node."""

import errno
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import structlog
import typer

from hipnode import ledger, logs, migrations, queue
from hipnode.children import Children
from hipnode.cli.doors import configure_queue, make_data_folder
from hipnode.destinations import DestinationsFile, load_destinations
from hipnode.errors import HipnodeError, PackageError, SettingsError
from hipnode.installation import installation_uid
from hipnode.intake import Intake, Pace, reconcile
from hipnode.packages import find_packages
from hipnode.scp import AllowedPeers, Limits, own_marks, start_scp
from hipnode.selection import Selection
from hipnode.settings import Settings, load_settings
from hipnode.spool import Spool
from hipnode.supervisor import Supervisor
from hipnode.web import Watched, start_web

log = structlog.get_logger(__name__)


def up(
    device: Annotated[str, typer.Option(help="Device of the analyse worker: cpu or cuda:N.")] = "cpu",
) -> None:
    """Run the whole node on this machine: SCP, health page, one analyse and one deliver worker.

    Prepares the database, starts what dies again, ends all parts on Ctrl-C or SIGTERM.

    Example: `HIPNODE_HOST=0.0.0.0 HIPNODE_ALLOWED_PEERS='PACS@10.1.2.3/32' hipnode up`
    """
    settings = load_settings()
    logs.configure(settings.log_json)
    _check(settings)
    if find_spec("torch") is None:
        raise HipnodeError(
            "`hipnode up` runs an analyse worker, which needs torch: install hipnode[worker], "
            "or run `hipnode serve` and `hipnode worker deliver` here and the analyse worker elsewhere."
        )
    make_data_folder(settings)
    _probe_ports(settings)
    migrations.upgrade(settings.database)
    log.info("node.starting", ae_title=settings.ae_title, port=settings.port, data=str(settings.data))
    if not settings.destinations.exists():
        log.warning("destinations.none", expected=str(settings.destinations), why="results stay here")
    Supervisor(
        [
            ("serve", ["serve"]),
            ("worker analyse", ["worker", "analyse", "--device", device]),
            ("worker deliver", ["worker", "deliver"]),
        ]
    ).run()


def serve() -> None:
    """Run the SCP with intake and the health page. Needs no torch; workers run beside it.

    The database must be prepared: `hipnode db upgrade`.
    """
    settings = load_settings()
    logs.configure(settings.log_json)
    selection, peers = _check(settings)
    make_data_folder(settings)
    migrations.require_head(settings.database)
    make = ledger.sessions(settings.database)
    configure_queue(settings)
    spool = Spool(settings.spool, settings.low_water_bytes)
    packages, limits = _Installed(settings.package_folders), _limits(settings)
    children = Children(  # two: a study whose files hang has one of them at most
        2, settings.decode_timeout_s, settings.decode_memory_bytes, settings.decode_max_pixels
    )
    destinations = DestinationsFile(settings.destinations)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    # A file kept before a crash but never acknowledged goes into the books before the port opens.
    reconcile(make, spool, datetime.now(UTC))
    with children:
        with _port("HIPNODE_PORT", settings.host, settings.port):
            scp = start_scp(
                settings.ae_title, settings.host, settings.port,
                spool=spool, sessions=make, peers=peers, limits=limits,
                marks=own_marks(installation_uid(settings.data)),
            )  # fmt: skip
        intake = Intake(
            sessions=make,
            spool=spool,
            children=children,
            selection=selection,
            packages=packages,
            receiving=scp.receiving,
            pace=_pace(settings),
        )
        try:
            with _port("HIPNODE_HTTP_PORT", settings.http_host, settings.http_port):
                web = start_web(
                    settings.http_host,
                    settings.http_port,
                    Watched(
                        sessions=make,
                        spool=spool,
                        scp=scp,
                        intake_alive=lambda: intake.alive,
                        packages=lambda: {id_: packages.get(id_) for id_ in selection.packages},
                        destinations=lambda: [one.name for one in destinations.current()],
                        peers={title for title, _ in peers.entries if title != "*"},
                        backlog_limit=settings.backlog_limit,
                        max_associations=settings.max_associations,
                        bell=queue.Bell(),
                    ),
                )
        except BaseException:
            scp.stop()
            raise
        intake.start()
        log.info(
            "node.listening",
            ae_title=settings.ae_title,
            host=settings.host,
            port=scp.port,
            http_port=web.port,
        )
        ended.wait()
        log.info("node.stopping")
        scp.stop()
        intake.stop()
        web.stop()


class _Installed(Mapping[str, str]):
    """Id -> SHA-256 of the model packages as they lie on disk when asked: new weights need no new start.

    A broken package is the workers' trouble: studies still come in.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._told: set[str] = set()

    def _look(self) -> dict[str, str]:
        problems: list[PackageError] = []
        found = find_packages(self._folders, verify=False, problems=problems)
        for problem in problems:
            if str(problem) not in self._told:
                log.error("package.left_out", why=str(problem))
        self._told = {str(problem) for problem in problems}
        return {package.id: package.sha256 for package in found.values()}

    def __getitem__(self, package_id: str) -> str:
        return self._look()[package_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look())

    def __len__(self) -> int:
        return len(self._look())


def _limits(settings: Settings) -> Limits:
    most = settings.max_associations
    return Limits(
        max_associations=most,
        # one PACS may open them all, and knock again while it is told to wait
        max_connections_per_peer=max(Limits.max_connections_per_peer, 2 * most),
        max_unassociated=max(Limits.max_unassociated, 2 * most),
        max_instance_bytes=settings.max_instance_bytes,
        backlog_limit=settings.backlog_limit,
    )


@contextmanager
def _port(setting: str, host: str, port: int) -> Iterator[None]:
    """Turn the system's refusal of an address into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = f"Another program, or another hipnode, holds it; {setting} names the port."
        else:
            hint = f"{setting.replace('PORT', 'HOST')} names the address, {setting} the port."
        raise HipnodeError(f"Cannot listen on {host} port {port}: {error.strerror}. {hint}") from error


def _probe_ports(settings: Settings) -> None:
    """Ask for both ports once before anything starts: the parts would ask for them again and again."""
    for setting, host, port in (
        ("HIPNODE_PORT", settings.host, settings.port),
        ("HIPNODE_HTTP_PORT", settings.http_host, settings.http_port),
    ):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with _port(setting, host, port), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))


def _pace(settings: Settings) -> Pace:
    retry_s = settings.retry_s * 2.0 ** min(settings.max_attempts, 20)
    return Pace(
        stable_age_s=settings.stable_age_s,
        stable_cap_s=settings.stable_cap_s,
        tick_s=settings.tick_s,
        sweep_s=settings.sweep_s,
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        deadline_s=settings.analysis_deadline_s,
        give_up_s=settings.delivery_give_up_s,
        longest_pause_s=max(900, 2 * settings.delivery_retry_cap_s, retry_s),
    )


def _check(settings: Settings) -> tuple[Selection, AllowedPeers]:
    """Read every site file before anything starts, so that a mistake is told at once."""
    if settings.destinations_file and not settings.destinations_file.exists():
        raise SettingsError(
            f"HIPNODE_DESTINATIONS_FILE names {settings.destinations_file}, which is not there. "
            "Write it, or leave the setting out for a node without destinations."
        )
    load_destinations(settings.destinations)
    return Selection.load(settings.selection_file), AllowedPeers.parse(settings.allowed_peers)
