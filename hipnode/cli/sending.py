"""Files of a user's, sent as they are stored."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, MediaStorageDirectoryStorage
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hipnode import scu
from hipnode.destinations import RemoteAE

MOST_CONTEXTS = 100
"""Presentation contexts of one association; PS3.8 has room for 128."""

_VERDICTS: dict[scu.Verdict, Literal["stored", "not stored", "refused", "not taken"]] = {
    scu.Verdict.DELIVERED: "stored",
    scu.Verdict.RETRY: "not stored",
    scu.Verdict.REFUSED: "refused",
    scu.Verdict.UNSUPPORTED: "not taken",
}
_CURES = {
    0x0122: "The peer does not take this SOP class; let it accept the class from our AE title.",
    0x0124: "The peer does not let our AE title store; its administrator can.",
    0xA700: "The peer is out of room or resources; try again later.",
    0xA900: "The object is not what its SOP class asks for; look at it with a validator such as dciodvfy.",
    0xC000: "The peer cannot understand the object, or knows no such patient; its log says which.",
}


@dataclass(frozen=True)
class Sent:
    """What became of one file."""

    file: str
    verdict: Literal["stored", "not stored", "refused", "not taken", "not readable", "skipped"]
    status: str | None = None  #: DIMSE status of the answer, such as 0x0000
    says: str = ""

    @property
    def failed(self) -> bool:
        """Whether the file should be in the destination and is not."""
        return self.verdict not in ("stored", "skipped")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def send_files(paths: Sequence[Path], remote: RemoteAE, our_ae_title: str, dimse_s: float) -> list[Sent]:
    """Send each file in its own transfer syntax; what became of each, in their order.

    dimse_s: seconds the peer may take for one answer, beyond the time the bytes need
    Shows progress on stderr where that is a terminal. Raises nothing for what peer and files do.
    """
    sent: dict[int, Sent] = {}
    kinds: dict[int, tuple[str, str]] = {}
    for number, path in enumerate(paths):
        found = _kind(path)
        if isinstance(found, Sent):
            sent[number] = found
        else:
            kinds[number] = found
    timeouts = scu.Timeouts(connect_s=10, acse_s=15, dimse_s=dimse_s, network_s=max(30.0, dimse_s))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sending", total=len(kinds))
        for group in _groups(kinds):
            items = [scu.Outgoing(number, paths[number]) for number in group]
            outcomes = scu.send(
                items,
                remote,
                our_ae_title,
                timeouts=timeouts,
                as_stored=True,
                told=lambda _: progress.advance(bar),
            )
            for outcome in outcomes:
                number = outcome.delivery_id
                sent[number] = _judged(paths[number], kinds[number], outcome)
    return [sent[number] for number in range(len(paths))]


def _kind(path: Path) -> tuple[str, str] | Sent:
    """SOP class and transfer syntax of a file; or why it is not sent."""
    try:
        meta = read_file_meta_info(path)
        sop_class, syntax = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
        named = bool(meta.MediaStorageSOPInstanceUID and sop_class and syntax)
    except InvalidDicomError:
        return Sent(str(path), "not readable", None, "It is no DICOM file (PS3.10): it has no DICM prefix.")
    except OSError as error:
        return Sent(str(path), "not readable", None, f"{error.strerror or 'It cannot be read'}.")
    except Exception:  # noqa: BLE001  pydicom raises anything on odd bytes
        named = False
    if not named:
        what = "Its file meta information does not name SOP class, SOP instance and transfer syntax."
        return Sent(str(path), "not readable", None, what)
    if sop_class == MediaStorageDirectoryStorage:
        return Sent(str(path), "skipped", None, "A DICOMDIR is the table of contents of a medium.")
    return sop_class, syntax


def _groups(kinds: dict[int, tuple[str, str]]) -> list[list[int]]:
    """The files, so that each group fits one association."""
    groups: list[list[int]] = []
    contexts: set[tuple[str, str]] = set()
    for number, kind in kinds.items():
        if not groups or len(contexts | {kind}) > MOST_CONTEXTS:
            groups.append([])
            contexts = set()
        contexts.add(kind)
        groups[-1].append(number)
    return groups


def _judged(path: Path, kind: tuple[str, str], outcome: scu.StoreOutcome) -> Sent:
    status = outcome.peer_status
    says = outcome.warning or ""
    if outcome.verdict is scu.Verdict.UNSUPPORTED and status is None:
        sop_class, syntax = (UID(uid).name for uid in kind)
        says = (
            f"The peer does not take {sop_class} in {syntax}, and nothing is re-encoded. "
            "Let it accept that, or convert a copy of the file."
        )
    elif outcome.verdict is not scu.Verdict.DELIVERED:
        says = f"{outcome.detail} {_cure(status)}".strip()
    return Sent(str(path), _VERDICTS[outcome.verdict], None if status is None else f"0x{status:04X}", says)


def _cure(status: int | None) -> str:
    if status is None:
        return ""
    for known, cure in _CURES.items():
        same = status == known if known < 0xA000 else status >> 8 == known >> 8
        if same or (known == 0xC000 and status >> 12 == 0xC):
            return cure
    return "Look it up in the peer's conformance statement and log."
