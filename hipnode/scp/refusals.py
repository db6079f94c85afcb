"""What the code of a refusal means to people, and what they can do about it."""

from hipnode.ledger import PeerRow
from hipnode.scp.peers import AllowedPeers, entry_for

#: code -> (what happened, what to do)
_WORDS: dict[str, tuple[str, str]] = {
    "TOO_MANY": (
        "it wanted more associations than this node serves at the same time",
        "It tries again by itself; lower the number of its parallel associations, or raise "
        "HIPNODE_MAX_ASSOCIATIONS.",
    ),
    "STOPPING": ("the node was about to end", "It tries again by itself."),
    "TLS": (
        "there was no TLS connection",
        "Let it call without TLS where this node listens without it; otherwise check the certificates.",
    ),
    "NO_CONTEXT": (
        "it asked for no service of this node",
        "This node takes C-STORE and C-ECHO: let it send to this node, not query or print.",
    ),
    "NOT_DICOM": (
        "what it said is no DICOM (a web browser, a port scanner, or TLS)",
        "If it is a DICOM system, switch TLS off for this node; the health page is on another port.",
    ),
    "PROTOCOL": (
        "it broke the DICOM protocol and the association was aborted",
        "The node's log says how; report it to the maker of the sending system.",
    ),
    "TOO_SLOW": (
        "it fell silent in the middle of a message",
        "Check the network between the two: a firewall that drops connections, a wrong MTU, a cut line.",
    ),
    "TOO_LARGE": (
        "an object was larger than HIPNODE_MAX_INSTANCE_BYTES",
        "Leave such objects out of the route, or raise the setting if they are radiographs.",
    ),
    "A700": (
        "the node was out of resources for an object (disk, database or backlog)",
        "`hipnode doctor` looks at all three; the peer sends again by itself.",
    ),
    "A900": (
        "an object was not what its C-STORE request said it was",
        "Report it to the maker of the sending system.",
    ),
    "C000": (
        "an object's UIDs could not be read",
        "A copy is in the spool's quarantine, with the reason; report it to the maker of the sending system.",
    ),
}


def explain_refusal(peer: PeerRow, ae_title: str, allowed_peers: str) -> tuple[str, str]:
    """What the last refusal of this peer means, and what to do; ("", "") where it was never refused.

    ae_title, allowed_peers: the node's own, as they are set now.
    """
    code = peer.last_refusal
    if code is None:
        return "", ""
    if code == "CALLED_AE_TITLE":
        called = peer.called_ae_title
        return (
            f"it called {called or 'nobody'}, and this node is {ae_title}",
            f"Correct the called AE title in the peer to {ae_title} (case counts), or set HIPNODE_AE_TITLE.",
        )
    if code == "NOT_ALLOWED":
        what = "it is not in HIPNODE_ALLOWED_PEERS"
        if AllowedPeers.parse(allowed_peers).allows(peer.calling_ae_title, peer.address):
            return what + " as it was then", "It is now: start the node again if it was not, and let it call."
        entry = entry_for(peer.calling_ae_title, peer.address)
        return what, f"If it is yours, add {entry} to HIPNODE_ALLOWED_PEERS and start the node again."
    return _WORDS.get(code, (f"a C-STORE was answered 0x{code}", "The node's log says why."))
