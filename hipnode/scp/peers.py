"""Who may connect: AE titles and networks. An AE title is a label, so it counts only with its network."""

import ipaddress
import re
from dataclasses import dataclass

from hipnode.errors import SettingsError

_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # PS3.5 section 6.2: no backslash, no controls
_UNFIT = frozenset(",?*\"'`$;&|<>(){}[]!~")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class AllowedPeers:
    """The allow list. Empty allows nobody."""

    entries: tuple[tuple[str, _Network], ...] = ()  #: (AE title or "*", network)

    @classmethod
    def parse(cls, text: str) -> "AllowedPeers":
        """Read "AE@CIDR,AE@CIDR": `*` stands for any AE title, an address alone for itself.

        Raises SettingsError that names the entry and what it should be.
        """
        return cls(tuple(_entry(part.strip()) for part in text.split(",") if part.strip()))

    def allows(self, ae_title: str, address: str) -> bool:
        """Whether a peer with this calling AE title may connect from this IP address."""
        ip = _address(address)
        return ip is not None and any(
            name in ("*", ae_title.strip()) and ip in network for name, network in self.entries
        )

    def knows_address(self, address: str) -> bool:
        """Whether any AE title at all may connect from this IP address."""
        ip = _address(address)
        return ip is not None and any(ip in network for _, network in self.entries)


def entry_for(ae_title: str, address: str) -> str:
    """The entry of HIPNODE_ALLOWED_PEERS that lets this peer in, and no other; "" where there is none.

    A title that cannot stand in the list (none was named, or it holds a comma) becomes `*`, and so does one
    with signs a shell takes for its own: the peer chose it, and somebody will copy the entry.
    """
    ip = _address(address)
    if ip is None:
        return ""
    title = ae_title.strip()
    fit = _AE_TITLE.fullmatch(title) and not set(title) & _UNFIT
    return f"{title if fit else '*'}@{ip}/{ip.max_prefixlen}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])  # a link-local peer comes with its interface
    except ValueError:
        return None
    # A socket that listens on IPv6 and IPv4 shows an IPv4 peer as ::ffff:a.b.c.d.
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _entry(part: str) -> tuple[str, _Network]:
    name, at, place = (piece.strip() for piece in part.rpartition("@"))
    advice = "write AE@CIDR, for example PACS@10.1.2.0/24, or *@10.1.2.3 for any AE title at one address"
    if not at or not name:
        raise SettingsError(f"HIPNODE_ALLOWED_PEERS: {part!r} has no AE title and @; {advice}.")
    if name != "*" and not _AE_TITLE.fullmatch(name):
        raise SettingsError(
            f"HIPNODE_ALLOWED_PEERS: {name!r} is no AE title (1 to 16 printable characters, no backslash)."
        )
    try:
        return name, ipaddress.ip_network(place)
    except ValueError as error:
        try:
            meant = f"; did you mean {ipaddress.ip_network(place, strict=False)}?"
        except ValueError:
            meant = f"; {advice}."
        raise SettingsError(f"HIPNODE_ALLOWED_PEERS: {place!r} is no network{meant}") from error
