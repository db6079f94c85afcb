"""Who this installation is: one device UID, made once and kept in the data folder."""

import os
import uuid
from contextlib import suppress
from pathlib import Path

_FILE = "installation.uid"


def installation_uid(data: Path) -> str:
    """The UID (2.25.<uuid>, PS3.5 B.2) under which every result of this installation names its device.

    The first process that asks makes it; several may ask at the same time.
    """
    path = data / _FILE
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = path.with_name(f"{_FILE}.{os.getpid()}")
    with mine.open("w", encoding="ascii") as file:
        file.write(f"2.25.{uuid.uuid4().int}\n")
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):  # another process was first: its UID holds
        os.link(mine, path)
    mine.unlink()
    return path.read_text(encoding="ascii").strip()
