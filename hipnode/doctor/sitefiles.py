"""What the site wrote: settings, AE title, allow list, selection.toml, destinations.toml."""

import difflib
import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hipnode.destinations import Destination, load_destinations
from hipnode.doctor.nodes import reachable
from hipnode.doctor.records import Record, fail, note, ok, one_line, warn
from hipnode.errors import SettingsError
from hipnode.scp import AllowedPeers
from hipnode.selection import Selection
from hipnode.settings import Settings

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

#: Names that are read elsewhere than in Settings.
_OTHER_NAMES = frozenset(
    {
        "HIPNODE_ENV_FILE",
        "HIPNODE_SECRETS_DIR",
        "HIPNODE_DEBUG",
        "HIPNODE_FAULTS",
        "HIPNODE_FAULT_MARKS",
        "HIPNODE_FILMS",
        "HIPNODE_REQUIRE_PEERS",
    }
)


def unknown_names(environment: Iterable[str]) -> list[str]:
    """The names beginning with HIPNODE_ that no setting has."""
    known = {f"HIPNODE_{name.upper()}" for name in Settings.model_fields} | _OTHER_NAMES
    given = {name.upper() for name in environment}
    return sorted(
        name
        for name in given
        if name.startswith("HIPNODE_") and name not in known and not name.startswith("HIPNODE_TEST")
    )


def check_settings(site: "Site") -> list[Record]:
    """Settings that cannot be used, and names that are none."""
    where = "Correct it in the environment or in hipnode.env; deploy/hipnode.env.example names every setting."
    records = [
        fail("settings", f"{one.removesuffix('.')}. Its default is examined instead.", where)
        for one in site.wrong_settings
    ]
    known = [f"HIPNODE_{name.upper()}" for name in Settings.model_fields]
    for name in site.unknown_settings:
        near = difflib.get_close_matches(name, known, 1)
        cure = f"Write {near[0]}." if near else "Remove it; deploy/hipnode.env.example names every setting."
        records.append(warn("settings", f"{name} is no setting and has no effect.", cure))
    return records or [ok("settings", "All settings can be used.")]


def check_ae_title(site: "Site") -> list[Record]:
    """Our own AE title."""
    title = site.settings.ae_title
    if title != title.upper():
        says = f"The AE title is {title}: case counts, and some PACS write AE titles in capitals only."
        return [
            note("ae-title", says, "Where a peer calls us in capitals, set HIPNODE_AE_TITLE in capitals.")
        ]
    return [ok("ae-title", f"The AE title is {title}; peers must call it exactly so.")]


def check_allow_list(site: "Site") -> list[Record]:
    """HIPNODE_ALLOWED_PEERS, and whether it fits the address we listen on."""
    settings = site.settings
    try:
        allowed = AllowedPeers.parse(settings.allowed_peers)
    except SettingsError as error:
        return [
            fail(
                "allowed-peers",
                one_line(error),
                "Correct HIPNODE_ALLOWED_PEERS; until then the node does not start.",
            )
        ]
    if not allowed.entries:
        return [
            fail(
                "allowed-peers", "HIPNODE_ALLOWED_PEERS is empty: nobody may connect.", _write_entry(settings)
            )
        ]
    if any(name == "*" and network.prefixlen == 0 for name, network in allowed.entries):
        says = "HIPNODE_ALLOWED_PEERS lets every AE title in from every address."
        cure = f"Name the peers, for example HIPNODE_ALLOWED_PEERS='PACS@10.1.2.3/32'. {_NOT_SECRET}"
        return [warn("allowed-peers", says, cure)]
    only_here = all(network.is_loopback for _, network in allowed.entries)
    listens_here = _is_loopback(settings.host)
    if listens_here and not only_here:
        says = f"Peers on other machines are allowed, but the SCP listens on {settings.host} only."
        return [fail("allowed-peers", says, "Set HIPNODE_HOST=0.0.0.0 (or one address of this machine).")]
    if only_here and not listens_here:
        says = f"The SCP listens on {settings.host}, but only this machine may connect."
        return [warn("allowed-peers", says, _write_entry(settings))]
    if only_here:
        says = "Only this machine may connect, and the SCP listens for it alone."
        cure = f"For a PACS elsewhere set HIPNODE_HOST=0.0.0.0. {_write_entry(settings)}"
        elsewhere = [d.name for d in site.destinations() if not d.sender and not _is_loopback(d.host)]
        if elsewhere:
            says = f"{says[:-1]}, while {', '.join(elsewhere)} is on another one and can send nothing here."
            return [warn("allowed-peers", says, cure)]
        return [note("allowed-peers", says, cure)]
    return [ok("allowed-peers", f"Entries that say who may connect: {len(allowed.entries)}.")]


def check_selection(site: "Site") -> list[Record]:
    """selection.toml."""
    path = site.settings.selection_file
    name = str(path) if path else "the shipped selection.toml"
    try:
        rules = len(Selection.load(path).book.rules)
    except (SettingsError, OSError) as error:
        cure = "Correct the file (docs/selection.md), or unset HIPNODE_SELECTION_FILE for the shipped rules."
        return [fail("selection-file", _told(error), cure)]
    return [ok("selection-file", f"{name} can be used: {rules} rules.")]


def check_destinations_file(site: "Site") -> list[Record]:
    """destinations.toml, and destinations that are ourselves."""
    settings, path = site.settings, site.settings.destinations
    example = f"Write {path}: [[destination]] with name, ae_title, host and port (see README.md)."
    try:
        if not path.exists():
            says = f"There is no {path}: results are built and stay here."
            if settings.destinations_file:
                says = f"HIPNODE_DESTINATIONS_FILE names {path}, which is not there: the node does not start."
                return [fail("destinations-file", says, example)]
            return [warn("destinations-file", says, example)]
        found = load_destinations(path)
    except (SettingsError, OSError) as error:
        return [fail("destinations-file", _told(error), f"Correct {path}.")]
    if not found:
        return [warn("destinations-file", f"{path} names no destination: results stay here.", example)]
    records = [ok("destinations-file", f"{path} can be used: {', '.join(d.name for d in found)}.")]
    for one in found:
        if one.ae_title == settings.ae_title and not one.sender and _is_us(one, settings):
            says = f"Destination {one.name} is this node itself: results would come back to it."
            records.append(
                fail("destination-loop", says, f"Put the PACS' AE title, host and port there, in {path}.")
            )
    return records


def _told(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename} cannot be read: {error.strerror}."
    return one_line(error)


_NOT_SECRET = "An AE title is no secret: the network part is what protects."  # noqa: S105


def _write_entry(settings: Settings) -> str:
    return (
        "Name the PACS in HIPNODE_ALLOWED_PEERS, for example 'PACS@10.1.2.3/32'"
        + (f" (now: {settings.allowed_peers})" if settings.allowed_peers else "")
        + ", and start the node again."
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_us(destination: Destination, settings: Settings) -> bool:
    """Whether a destination's address is one this node listens on."""
    if destination.port != settings.port:
        return False
    ours: Mapping[str, object] = dict.fromkeys(
        [settings.host, reachable(settings.host), socket.gethostname()]
    )
    if destination.host in ours or _is_loopback(destination.host):
        return True
    try:
        address = socket.gethostbyname(destination.host)
        with socket.socket() as probe:  # an address of this machine can be bound
            probe.bind((address, 0))
    except OSError:
        return False
    return settings.host in (address, "0.0.0.0", "::", "")  # noqa: S104


def is_own_call(calling_ae_title: str, address: str, settings: Settings) -> bool:
    """Whether a peer is this command, which calls its own node."""
    return calling_ae_title == settings.ae_title and _is_loopback(address)


def environment_names() -> list[str]:
    """The names set in the environment."""
    return list(os.environ)
