"""The places results go to: does each answer, has it ever called us, and does it store (write-back)."""

import os
import socket
import tempfile
import uuid
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hipnode import scu
from hipnode.destinations import Destination, RemoteAE
from hipnode.doctor.records import Record, fail, note, ok, warn
from hipnode.doctor.running import run_checks
from hipnode.doctor.sitefiles import is_own_call
from hipnode.doctor.testobject import build_test_object
from hipnode.installation import installation_uid
from hipnode.ledger import PeerRow
from hipnode.results import Installation, encode
from hipnode.scu import EchoReport, Outgoing, StoreOutcome, Timeouts, Trouble, Verdict

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

ECHO_WITHIN_S = 10.0
_SENDERS = 3  #: of "back to the sender", so many that called last are asked
_STORE_PATIENCE = Timeouts(connect_s=5, acse_s=10, dimse_s=20, network_s=20)


def check_destinations(site: "Site") -> list[Record]:
    """A C-ECHO to each destination, all at the same time, and what the ledger knows of its calls to us."""

    def look(destination: Destination) -> list[Record]:
        # In this order: a C-ECHO need not wait for a database that does not answer.
        return [*_echo(site, destination), *_called_us(site, destination)]

    calls = [("destination-echo", partial(look, destination)) for destination in site.destinations()]
    return run_checks(calls, ECHO_WITHIN_S)


def write_back(site: "Site", destination: Destination) -> list[Record]:
    """Send one test object to a destination. Its UIDs and how to remove it are in the records."""
    check, name = "write-back", _named(destination)
    if destination.sender:
        says = f"{destination.name} is the sender of each study; there is no one place to write to."
        return [warn(check, says, "Name a destination that has a host.")]
    ds = build_test_object(_installation(site), site.clock())
    with tempfile.TemporaryDirectory(prefix="hipnode-doctor-") as folder:
        file = Path(folder, "test.dcm")
        file.write_bytes(encode(ds))
        (outcome,) = scu.send(
            [Outgoing(0, file)], destination.remote, site.settings.ae_title, timeouts=_STORE_PATIENCE
        )
    where = f"StudyInstanceUID {ds.StudyInstanceUID}, SOPInstanceUID {ds.SOPInstanceUID}"
    if outcome.verdict is Verdict.DELIVERED:
        status = f"0x{outcome.peer_status or 0:04X}" + (f" ({outcome.warning})" if outcome.warning else "")
        says = f"{name} stored the test object and answered {status}: {where}."
        remove = (
            f"Delete the study of patient {ds.PatientID} ({ds.PatientName}) in {destination.name}; C-STORE has no "
            "deletion, so hipnode cannot. Later test objects of this installation join the same study."
        )
        return [
            ok(check, says),
            note("write-back-removal", f"{name} keeps the test object until it is deleted.", remove),
        ]
    return [
        fail(check, f"{name} did not store the test object. {outcome.detail} ({where})", _store_cure(outcome))
    ]


def _installation(site: "Site") -> Installation:
    """The node's own device UID; where we may not read or make it, one for this call."""
    data, device = site.settings.data, f"2.25.{uuid.uuid4().int}"
    with suppress(OSError):
        if data.stat().st_uid == os.geteuid():  # a file we make must be the node's
            device = installation_uid(data)
    return Installation(device, site.settings.ae_title)


def _store_cure(outcome: StoreOutcome) -> str:
    if outcome.verdict is Verdict.UNSUPPORTED:
        return (
            "Let the PACS accept Secondary Capture Image Storage (1.2.840.10008.5.1.4.1.1.7) from our AE title, "
            'or leave SC out for this destination: kinds = ["SR"] in destinations.toml.'
        )
    if outcome.verdict is Verdict.REFUSED:
        return (
            "Look up this status in the PACS' log or conformance statement: often it takes no objects of unknown "
            "patients, or none from our AE title."
        )
    return "See the C-ECHO of this destination; a peer that is full or busy answers 0xA7xx: look at its log."


def _others(site: "Site") -> list[PeerRow]:
    """Who called us, but this command itself."""
    return [p for p in site.peers() if not is_own_call(p.calling_ae_title, p.address, site.settings)]


def _echo(site: "Site", destination: Destination) -> list[Record]:
    if not destination.sender:
        report = scu.echo(destination.remote, site.settings.ae_title, site.timeouts)
        return [_echoed(site, destination, destination.remote, report)]
    senders = [p for p in _others(site) if p.instances and destination.serves(p.calling_ae_title)][:_SENDERS]
    if not senders:
        says = f"{destination.name} is the sender of each study, and nobody has sent one within 7 days."
        return [note("destination-echo", says, "Send a study, then run this again.")]
    records = []
    for peer in senders:
        remote = RemoteAE(destination.ae_title or peer.calling_ae_title, peer.address, destination.port)
        report = scu.echo(remote, site.settings.ae_title, site.timeouts)
        records.append(_echoed(site, replace(destination, host=peer.address), remote, report))
    return records


def _echoed(site: "Site", destination: Destination, remote: RemoteAE, report: EchoReport) -> Record:
    name = f"{destination.name} ({remote.ae_title} at {remote.host}:{remote.port})"
    if report.ok:
        return ok("destination-echo", f"{name} answers C-ECHO in {report.seconds:.2f} s.")
    what, cure = _said(site, remote, report)
    return fail(
        "destination-echo", f"{name}: {what}.", cure.replace("{file}", str(site.settings.destinations))
    )


def _said(site: "Site", remote: RemoteAE, report: EchoReport) -> tuple[str, str]:
    ours, port = site.settings.ae_title, site.settings.port
    match report.trouble:
        case Trouble.HOST_UNKNOWN:
            what = f"the host name {remote.host} has no address"
            return what, "Correct `host` in {file}, or add the name to the DNS or /etc/hosts."
        case Trouble.CONNECTION_REFUSED:
            what = f"{remote.host} is there, and nothing listens on port {remote.port}"
            return what, "Start the DICOM service of the PACS, or correct `port` in {file}."
        case Trouble.TIMEOUT:
            what = f"no connection within {site.timeouts.connect_s:g} s"
            return f"{what}: packets are dropped on the way, or the host is down", (
                f"Open the firewall from this machine to {remote.host} port {remote.port}/tcp; "
                "check that the host is up and `host` in {file} is right."
            )
        case Trouble.UNREACHABLE:
            return (
                "the network knows no way there",
                "Check `host` in {file}, routing and VPN of this machine.",
            )
        case Trouble.CALLED_AE_TITLE:
            what = f"it answers that it is not called {remote.ae_title} (called AE title not recognised)"
            return (
                what,
                "Correct `ae_title` in {file}: the PACS administrator knows its AE title, case counts.",
            )
        case Trouble.CALLING_AE_TITLE:
            what = f"it does not know our AE title {ours} (calling AE title not recognised)"
            return (
                what,
                f"Let the PACS add {ours}, this machine's address and port {port} to its DICOM nodes.",
            )
        case Trouble.REJECTED:
            return _lower(report.detail), (
                f"Look into the PACS' log; often {ours} with this machine's address must be added to its DICOM nodes."
            )
        case Trouble.NO_CONTEXT:
            return "it takes no C-ECHO", "Let the PACS accept the Verification SOP Class from our AE title."
        case Trouble.NO_ANSWER:
            what = "it takes the connection and gives no DICOM answer"
            return what, (
                "Check that `port` in {file} is the DICOM port (not HTTP, and not one that asks for TLS), that "
                f"the PACS knows {ours}, and that it does not hang."
            )
        case _:
            return _lower(report.detail), "Look into the log of the PACS for our association."


def _called_us(site: "Site", destination: Destination) -> list[Record]:
    """Whether this destination's system has ever called us: then its route works."""
    check = "destination-route"
    if destination.sender or site.sessions is None:
        return []
    here = _addresses(destination.host)
    calls = [p for p in _others(site) if p.calling_ae_title == destination.ae_title or p.address in here]
    calls = [p for p in calls if p.associations]
    if calls:
        seen = max(p.last_seen_at for p in calls)
        sent = sum(p.instances for p in calls)
        says = f"{destination.name} has called us, last at {seen:%Y-%m-%d %H:%M} UTC, and sent {sent} objects so far."
        return [ok(check, says)]
    says = f"{destination.name} has not called us within 7 days: if it is to send studies, its route does not work yet."
    cure = (
        f"In the PACS, add a DICOM node {site.settings.ae_title} with this machine's address and port "
        f"{site.settings.port}, send it a C-ECHO, and route hip and pelvis radiographs to it."
    )
    return [note(check, says, cure)]


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def _named(destination: Destination) -> str:
    return f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"


def _lower(text: str) -> str:
    text = text.removesuffix(".")
    return text[:1].lower() + text[1:]
