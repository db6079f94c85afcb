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
from hipnode.scu import EchoReport, Outgoing, StoreOutcome, Timeouts, Verdict
from hipnode.troubles import explain_trouble

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
    settings = site.settings
    what, cure = explain_trouble(report, remote, settings.ae_title, settings.port, settings.destinations)
    return fail("destination-echo", f"{name}: {what}.", cure)


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
        f"In the PACS, add a DICOM node {site.settings.ae_title} at {_our_address(destination.host)} port "
        f"{site.settings.port}, send it a C-ECHO, and route hip and pelvis radiographs to it."
    )
    return [note(check, says, cure)]


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def _our_address(host: str) -> str:
    """The address a host sees us under, unless something between translates it."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 104, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # UDP: nothing is sent
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError):
        return "this machine's address"


def _named(destination: Destination) -> str:
    return f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
