"""destinations.toml: where results go, which sources each place serves and what it takes.

    [[destination]]
    name = "pacs"             # how deliveries, logs and commands call it
    ae_title = "PACS"
    host = "10.0.0.5"
    port = 104
    sources = ["CR_ROOM_1"]   # calling AE titles whose studies it gets; left out: all
    kinds = ["SR", "SC"]      # left out: all
    sr_class = "comprehensive"   # or "comprehensive3d"
    sc_max_px = 0             # longest side of the overlay in pixels; 0 is the full size

    [[destination]]
    name = "back"
    sender = true             # the host the study came from; ae_title left out: its calling AE title
    port = 104

A node without this file has no destination: results are built and kept, and studies end
with the reason NO_DESTINATION.
"""

import difflib
import threading
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from hipnode.errors import SettingsError

logger = structlog.get_logger(__name__)

KINDS = ("SR", "SC")
SR_CLASSES = ("comprehensive", "comprehensive3d")


@dataclass(frozen=True)
class RemoteAE:
    """An application entity we can call."""

    ae_title: str
    host: str
    port: int


@dataclass(frozen=True)
class Sender:
    """Who sent instances of a study: the calling AE title and the address it called from."""

    ae_title: str
    address: str


@dataclass(frozen=True)
class Destination:
    """One place results are delivered to.

    With `sender` set, `host` (and `ae_title` where it is "") are those of the peer the study
    came from: `routes_for` fills them in.
    """

    name: str
    ae_title: str
    host: str
    port: int
    sources: frozenset[str] = frozenset()  #: calling AE titles; empty is all
    kinds: tuple[str, ...] = KINDS
    sr_class: str = "comprehensive"
    sc_max_px: int = 0  #: longest side of the overlay, pixels; 0 is the full size
    sender: bool = False

    @property
    def remote(self) -> RemoteAE:
        """The application entity to call."""
        return RemoteAE(self.ae_title, self.host, self.port)

    def serves(self, calling_ae_title: str) -> bool:
        """True where studies sent by this AE title go here."""
        return not self.sources or calling_ae_title.strip() in self.sources

    def of_sender(self, sender: Sender) -> "Destination":
        """This destination for a study of `sender`: itself, unless it is "back to the sender"."""
        if not self.sender:
            return self
        return replace(self, ae_title=self.ae_title or sender.ae_title.strip(), host=sender.address)


def load_destinations(path: Path | None) -> list[Destination]:
    """Read destinations.toml. No path or no file is no destination.

    Raises SettingsError that lists every problem of the file, one sentence each.
    """
    if path is None or not path.exists():
        return []
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from error
    problems: list[str] = []
    for key in table:
        if key != "destination":
            problems.append(f"The top of the file knows only [[destination]], not {key!r}.")
    entries = table.get("destination", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SettingsError(f"{path}: destinations are written as [[destination]], with two brackets.")
    found = [_Entry(number, entry, problems).read() for number, entry in enumerate(entries, 1)]
    names = [destination.name for destination in found]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        problems.append(f"The name {name!r} is used {names.count(name)} times; each needs its own.")
    if problems:
        raise SettingsError(f"{path} cannot be used:\n  " + "\n  ".join(problems))
    return found


def routes_for(
    destinations: Iterable[Destination], calling_ae_title: str, peer_address: str
) -> list[Destination]:
    """The destinations of a study that this peer sent, "back to the sender" filled in."""
    return routes_for_senders(destinations, [Sender(calling_ae_title, peer_address)])


def routes_for_senders(destinations: Iterable[Destination], senders: Iterable[Sender]) -> list[Destination]:
    """The destinations of a study whose instances came from `senders`, the latest last.

    A destination gets the study if it serves one of them; "back to the sender" goes to the
    latest sender it serves.
    """
    known = list(senders)
    routes = []
    for destination in destinations:
        served = [sender for sender in known if destination.serves(sender.ae_title)]
        if served:
            routes.append(destination.of_sender(served[-1]))
    return routes


class DestinationsFile:
    """destinations.toml as it is now: read again when it changed.

    A file that cannot be used when the process starts raises SettingsError. One that becomes so
    later is logged once, and the destinations read last stay in force.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._known = load_destinations(path)

    def current(self) -> list[Destination]:
        """The destinations in force."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._known = load_destinations(self._path)
                    logger.info("destinations.read", count=len(self._known))
                except SettingsError as error:
                    logger.error("destinations.not_read", why=str(error))  # noqa: TRY400  # the text says it all
            return self._known

    def named(self, name: str) -> Destination | None:
        """The destination of this name, if the file has it."""
        return next((destination for destination in self.current() if destination.name == name), None)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            state = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return (state.st_mtime_ns, state.st_size) if state is not None else None


class _Entry:
    """Reads one [[destination]] and notes each problem as a sentence."""

    FIELDS: Mapping[str, tuple[type, str]] = {
        "name": (str, "text"),
        "ae_title": (str, "text"),
        "host": (str, "text"),
        "port": (int, "a whole number"),
        "sources": (list, "a list of AE titles"),
        "kinds": (list, "a list of result kinds"),
        "sr_class": (str, "text"),
        "sc_max_px": (int, "a whole number of pixels"),
        "sender": (bool, "true or false"),
    }

    def __init__(self, number: int, entry: dict[str, Any], problems: list[str]) -> None:
        self.entry, self.problems = entry, problems
        name = entry.get("name")
        self.label = f"Destination {name!r}" if isinstance(name, str) and name else f"Destination {number}"

    def read(self) -> Destination:
        """The destination; what could not be read has its default and a noted problem."""
        for key in self.entry:
            if key not in self.FIELDS:
                near = difflib.get_close_matches(key, self.FIELDS, 1)
                self._note(f"does not know {key!r}" + (f"; is {near[0]!r} meant?" if near else "."))
        sender = self._get("sender", False)
        return Destination(
            name=self._name(),
            ae_title=self._title(sender),
            host=self._host(sender),
            port=self._number("port", 1, 65535, None),
            sources=frozenset(self._titles("sources")),
            kinds=tuple(self._choices("kinds", KINDS)),
            sr_class=self._choice("sr_class", SR_CLASSES),
            sc_max_px=self._number("sc_max_px", 0, 65535, 0),
            sender=sender,
        )

    def _note(self, what: str) -> None:
        self.problems.append(f"{self.label} {what}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.entry.get(key, default)
        kind, words = self.FIELDS[key]
        # bool is an int to Python, not to the person who writes `port = true`.
        if key in self.entry and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            self._note(f"has {key} = {value!r}; it is {words}.")
            return default
        return value

    def _name(self) -> str:
        name = str(self._get("name", "")).strip()
        if "name" not in self.entry or (isinstance(self.entry["name"], str) and not name):
            self._note("needs a name.")
        elif len(name) > 64:
            self._note("has a name of more than 64 characters.")
        return name

    def _title(self, sender: bool) -> str:
        title = str(self._get("ae_title", "")).strip()
        if "ae_title" not in self.entry:
            if not sender:
                self._note("needs an ae_title.")
        elif isinstance(self.entry["ae_title"], str):
            self._check_title(title, "ae_title")
        return title

    def _check_title(self, title: str, where: str) -> None:
        # PS3.5 6.2, VR AE: 1 to 16 characters, no backslash, no control character.
        if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
            self._note(f"has {title!r} in {where}; an AE title is 1 to 16 ASCII characters without '\\'.")

    def _host(self, sender: bool) -> str:
        host = str(self._get("host", "")).strip()
        if sender and host:
            self._note("has sender = true and a host; the host is then the sender's, leave one of them out.")
        elif not sender and not host and isinstance(self.entry.get("host", ""), str):
            self._note("needs a host (or sender = true).")
        return host

    def _number(self, key: str, low: int, high: int, default: int | None) -> int:
        if default is None and key not in self.entry:
            self._note(f"needs a {key}.")
            return 0
        value = self._get(key, default)
        if value is None:
            return 0
        if not low <= value <= high:
            self._note(f"has {key} = {value}; it is {low} to {high}.")
        return int(value)

    def _titles(self, key: str) -> list[str]:
        titles = self._get(key, [])
        if key in self.entry and titles == []:
            self._note(f"has an empty list of {key} and would get nothing; leave it out for all.")
        if not all(isinstance(title, str) for title in titles):
            self._note(f"has {key} = {titles!r}; it is a list of AE titles.")
            return []
        for title in titles:
            self._check_title(title.strip(), key)
        return [title.strip() for title in titles]

    def _choices(self, key: str, known: tuple[str, ...]) -> list[str]:
        values = self._get(key, list(known))
        if values == []:
            self._note(f"has an empty list of {key} and would get nothing; it is some of {_names(known)}.")
        for value in values:
            if value not in known:
                self._note(f"has {value!r} in {key}; it is some of {_names(known)}.")
        return [value for value in known if value in values]

    def _choice(self, key: str, known: tuple[str, ...]) -> str:
        value = str(self._get(key, known[0]))
        if value not in known:
            self._note(f"has {key} = {value!r}; it is one of {_names(known)}.")
            return known[0]
        return value


def _names(known: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in known)
