"""The ports we listen on: free, ours, or somebody else's; and whether the node that runs is well."""

import errno
import os
from typing import TYPE_CHECKING

from hipnode import __version__
from hipnode.doctor.nodes import NodeSeen, Port
from hipnode.doctor.records import Record, fail, note, ok, warn
from hipnode.scu import Trouble

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

_SAME_SETTINGS = (
    "Give `hipnode doctor` the settings the node runs with (same environment, same HIPNODE_ENV_FILE, same folder "
    "as its hipnode.env), or start the node again with these."
)


def check_ports(site: "Site") -> list[Record]:
    """The DICOM port and the port of the health page."""
    seen, settings = site.node(), site.settings
    return [_scp(seen, settings.ae_title), _health(seen)]


def check_node(site: "Site") -> list[Record]:
    """Does the node run here, and can it take a study and finish it."""
    seen = site.node()
    if not seen.runs:
        says = f"No node runs on this machine: nothing of ours listens on port {site.settings.port}."
        cure = "Start it: `hipnode up`, or `hipnode serve` and the workers; with systemd `systemctl status 'hipnode*'`."
        return [warn("node", says, cure)]
    if seen.health is None:
        return [ok("node", f"The node runs: {seen.scp.by}.")]
    version = str(seen.health.get("version", ""))
    records = []
    if version and version != __version__:
        says = f"The node that runs is version {version}, this command is version {__version__}."
        records.append(warn("node-version", says, "Start the node again after an upgrade."))
    ready = seen.ready or {}
    if seen.ready is None or (seen.is_ready and ready.get("status") == "ready"):
        records.append(ok("node", f"The node runs, version {version or 'unknown'}, and says it is ready."))
    else:
        says = str(ready.get("says") or ready.get("status") or "it is not ready")
        records.append(
            fail("node", f"The node runs and says: {says}", "See the findings below on what it names.")
        )
    return records


def _scp(seen: NodeSeen, ae_title: str) -> Record:
    port, echo = seen.scp, seen.echo
    if port.port == 0:
        says = "HIPNODE_PORT is 0: the SCP takes another free port at each start."
        return note("port-scp", says, "Set HIPNODE_PORT to a fixed port, for a PACS must know it.")
    if not port.taken:
        return _free("port-scp", port, "HIPNODE_PORT", "HIPNODE_HOST")
    if seen.scp_is_ours:
        answered = f"answers C-ECHO as {ae_title}" if echo is not None else "listens"
        return ok("port-scp", f"Our own node {answered} on port {port.port}: {port.by}.")
    if echo is not None and echo.trouble in (Trouble.CALLED_AE_TITLE, Trouble.CALLING_AE_TITLE):
        other = (
            f"whose AE title is not {ae_title}" if echo.trouble is Trouble.CALLED_AE_TITLE else "that bars us"
        )
        says = f"Port {port.port} is held by a DICOM node {other}: {port.by}."
        if any(holder.is_hipnode for holder in port.holders) or seen.health_is_ours:
            return fail("port-scp", says, _SAME_SETTINGS)
        return fail("port-scp", says, _another_port(port, "HIPNODE_PORT"))
    says = f"Port {port.port} is taken by {port.by}, which does not answer as our node."
    return fail("port-scp", says, _another_port(port, "HIPNODE_PORT"))


def _health(seen: NodeSeen) -> Record:
    port = seen.http
    if port.port == 0:
        return note(
            "port-health", "HIPNODE_HTTP_PORT is 0: the health page takes another free port at each start."
        )
    if seen.health_is_ours:
        return ok("port-health", f"The health page of our node answers on port {port.port}.")
    if port.taken:
        says = f"Port {port.port} is taken by {port.by}, which does not answer as our health page."
        return fail("port-health", says, _another_port(port, "HIPNODE_HTTP_PORT"))
    if port.error == 0 and seen.scp_is_ours:
        says = f"The node runs, and its health page is not on port {port.port}."
        return warn("port-health", says, _SAME_SETTINGS)
    return _free("port-health", port, "HIPNODE_HTTP_PORT", "HIPNODE_HTTP_HOST")


def _free(check: str, port: Port, port_setting: str, host_setting: str) -> Record:
    if port.error == 0:
        return ok(check, f"Port {port.port} on {port.host} is free.")
    if port.error == errno.EACCES:
        says = f"Port {port.port} is free, and below 1024: this user may not listen on it, perhaps the service may."
        cure = (
            f"Give the service that right (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or set {port_setting} "
            "above 1023."
        )
        return warn(check, says, cure)
    if port.error == errno.EADDRNOTAVAIL:
        says = f"{port.host} is no address of this machine, so nothing can listen on it."
        return fail(check, says, f"Set {host_setting} to an address of this machine, or to 0.0.0.0 for all.")
    says = f"Port {port.port} on {port.host} cannot be had: {os.strerror(port.error)}."
    return fail(check, says, f"Correct {host_setting} and {port_setting}.")


def _another_port(port: Port, setting: str) -> str:
    return f"End that program, or set {setting} to another port (and tell those who call port {port.port})."
