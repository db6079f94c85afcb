"""What it means when a peer does not answer, and what to do about it."""

from hipnode.destinations import RemoteAE
from hipnode.scu import EchoReport, Trouble


def explain_trouble(
    report: EchoReport, remote: RemoteAE, our_ae_title: str, our_port: int, file: object
) -> tuple[str, str]:
    """What happened, without full stop, and what to do; ("", "") for a peer that answered.

    file: the destinations file that names the peer
    """
    nodes = f"with the address of this machine and port {our_port}, to its DICOM nodes"
    words: dict[Trouble | None, tuple[str, str]] = {
        None: ("", ""),
        Trouble.HOST_UNKNOWN: (
            f"the host name {remote.host} has no address",
            f"Correct `host` in {file}, or add the name to the DNS or to /etc/hosts.",
        ),
        Trouble.CONNECTION_REFUSED: (
            f"{remote.host} is there, but nothing listens on port {remote.port}",
            f"Start the DICOM service of the PACS, or correct `port` in {file}.",
        ),
        Trouble.TIMEOUT: (
            f"no connection within {report.seconds:.0f} s: packets are dropped on the way, or the host is down",
            f"Open the firewall from this machine to {remote.host} port {remote.port}/tcp; check that the host "
            f"is up and `host` in {file} is right.",
        ),
        Trouble.UNREACHABLE: (
            f"the network knows no way to {remote.host}",
            f"Check `host` in {file}, and routing and VPN of this machine.",
        ),
        Trouble.CALLED_AE_TITLE: (
            f"it answers that it is not called {remote.ae_title} (called AE title not recognised)",
            f"Correct `ae_title` in {file}; case counts, and the PACS administrator knows it.",
        ),
        Trouble.CALLING_AE_TITLE: (
            f"it does not know our AE title {our_ae_title} (calling AE title not recognised)",
            f"Let the PACS add {our_ae_title}, {nodes}.",
        ),
        Trouble.REJECTED: (
            _clause(report.detail),
            f"Look into the log of the PACS; often it wants {our_ae_title} added, {nodes}.",
        ),
        Trouble.NO_CONTEXT: (
            "it takes no C-ECHO",
            f"Let the PACS accept the Verification SOP Class from {our_ae_title}.",
        ),
        Trouble.NO_ANSWER: (
            "it takes the connection and gives no DICOM answer",
            f"Check that `port` in {file} is the DICOM port, not HTTP and not one that asks for TLS; that the "
            f"PACS knows {our_ae_title}; and that it does not hang.",
        ),
        Trouble.FAILED: (_clause(report.detail), "Look into the log of the PACS for our association."),
    }
    return words[report.trouble]


def _clause(sentence: str) -> str:
    sentence = sentence.removesuffix(".")
    return sentence[:1].lower() + sentence[1:]
