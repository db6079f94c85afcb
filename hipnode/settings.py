"""Everything a site may change, read once at the door from `HIPNODE_*`, `hipnode.env` and secret files.

A secret file holds one setting and is named like it in lower case, for example
/run/secrets/hipnode_database_url. The environment wins over hipnode.env, and that over a secret file.

Settings are made in the command line, the web door and Alembic's env.py; every other room
gets the values it needs as arguments.
"""

import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hipnode.errors import SettingsError

SECRETS = Path("/run/secrets")
"""Where container engines put secret files; HIPNODE_SECRETS_DIR names another folder."""


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "hipnode"


class Settings(BaseSettings):
    """The settings of one installation. Frozen: nothing changes after start."""

    model_config = SettingsConfigDict(env_prefix="HIPNODE_", frozen=True, extra="ignore")

    data: Path = Field(
        default_factory=_state_folder, description="Data folder: spool, database, broker files"
    )
    ae_title: str = Field("HIPNODE", min_length=1, max_length=16, description="AE title of this node")
    host: str = Field("127.0.0.1", description="Address the C-STORE SCP listens on; 0.0.0.0 for all")
    port: int = Field(11112, ge=0, le=65535, description="Port of the C-STORE SCP; 0 takes a free one")
    allowed_peers: str = Field(
        "*@127.0.0.0/8,*@::1/128",
        description="Who may connect: AE@CIDR, comma separated; * for any AE title",
    )
    http_host: str = Field("127.0.0.1", description="Address of the health page")
    http_port: int = Field(8080, ge=0, le=65535, description="Port of the health page")
    database_url: str = Field("", description="SQLAlchemy URL; empty is SQLite in the data folder")
    broker_url: str = Field("", description="Celery broker URL; empty is files in the data folder")
    selection_file: Path | None = Field(
        None, description="selection.toml of this site; unset is the shipped one"
    )
    destinations_file: Path | None = Field(
        None, description="destinations.toml; unset is destinations.toml in the data folder"
    )
    packages: str = Field(
        "", description="Folders with model packages beside the shipped ones, separated by ':'"
    )

    stable_age_s: float = Field(
        10, gt=0, description="Seconds without a new instance before a study counts as complete"
    )
    stable_cap_s: float = Field(
        300, gt=0, description="Seconds after which a study is closed even if images keep coming"
    )
    tick_s: float = Field(1, gt=0, description="Seconds between looks for complete studies")
    sweep_s: float = Field(10, gt=0, description="Seconds between sweeps: overdue work, expired leases")
    lease_s: float = Field(120, gt=0, description="Seconds a worker holds what it claimed")
    max_attempts: int = Field(3, ge=1, description="How often an analysis is tried before it fails")
    retry_s: float = Field(
        10, gt=0, description="Seconds before a failed analysis is tried again; doubles each time"
    )
    analysis_deadline_s: float = Field(
        3600, gt=0, description="Seconds a queued study waits for a worker before it fails"
    )
    batch_size: int = Field(0, ge=0, description="Studies a worker takes at once; 0 chooses by device")

    delivery_give_up_s: float = Field(
        86400, gt=0, description="Seconds after which an undelivered result is given up"
    )
    delivery_retry_s: float = Field(
        5, gt=0, description="Seconds before the first repeat of a delivery; doubles each time"
    )
    delivery_retry_cap_s: float = Field(
        600, gt=0, description="Longest pause between two tries of a delivery"
    )
    dimse_timeout_s: float = Field(30, gt=0, description="Seconds a destination may take for one answer")

    max_associations: int = Field(16, ge=1, description="Associations served at the same time")
    max_instance_bytes: int = Field(
        512 * 2**20, gt=0, description="Largest data set accepted by C-STORE, bytes"
    )
    low_water_bytes: int = Field(
        2 * 2**30, ge=0, description="Free disk space below which C-STORE is refused with A700"
    )
    backlog_limit: int = Field(
        10000, gt=0, description="Unfinished studies above which C-STORE is refused with A700"
    )

    decode_children: int = Field(2, ge=1, description="Child processes that decode pixel data")
    decode_timeout_s: float = Field(30, gt=0, description="Seconds one image may take to decode")
    decode_memory_bytes: int = Field(2 * 2**30, gt=0, description="Address space of a decoding child, bytes")
    decode_max_pixels: int = Field(64 * 10**6, gt=0, description="Largest image decoded, pixels")

    log_json: bool = Field(False, description="Log one JSON object a line instead of text")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # ours can say which file is wrong
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where settings come from; the first that knows one wins."""
        return init_settings, env_settings, dotenv_settings, _SecretFiles(settings_cls)

    @field_validator("data", "selection_file", "destinations_file", mode="before")
    @classmethod
    def _empty_path(cls, path: object, info: ValidationInfo) -> object:
        # HIPNODE_DATA= with nothing behind it is a line filled in half, not the present folder.
        if path != "":
            return path
        return _state_folder() if info.field_name == "data" else None

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, title: str) -> str:
        # PS3.5 6.2, VR AE; blanks around it do not count
        if not title.strip() or not title.isascii() or not title.isprintable() or "\\" in title:
            raise ValueError("an AE title is 1 to 16 printable ASCII characters without '\\'")
        return title.strip()

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, url: str) -> str:
        # The usual short form would ask SQLAlchemy for a driver that is not ours.
        url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
        if url and not url.startswith(("postgresql+psycopg://", "sqlite:///")):
            raise ValueError("write postgresql://user@host/name, sqlite:////path/to/file, or leave it empty")
        return url

    @field_validator("broker_url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        if url and not re.match(r"(rediss?|sentinel|amqps?|filesystem|memory)://", url):
            raise ValueError("write redis://host:6379/0, or leave it empty for files in the data folder")
        return url

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data / 'hipnode.db'}"

    @property
    def broker(self) -> str:
        """The Celery broker URL in force."""
        return self.broker_url or "filesystem://"

    @property
    def spool(self) -> Path:
        """The folder of received and built DICOM files."""
        return self.data / "spool"

    @property
    def destinations(self) -> Path:
        """The file that names the destinations."""
        return self.destinations_file or self.data / "destinations.toml"

    @property
    def package_folders(self) -> list[Path]:
        """Folders searched for model packages, beside the shipped ones."""
        return [self.data / "packages", *(Path(p) for p in self.packages.split(":") if p)]


class _SecretFiles(PydanticBaseSettingsSource):
    """The settings that have a secret file."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """One of them, as pydantic-settings asks for it."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """All of them; what cannot be read is left out, and told by load_settings."""
        return {**_read_secrets()[0]}


def _read_secrets() -> tuple[dict[str, str], list[str]]:
    """Setting -> content of its secret file without white space around it; and what cannot be read."""
    named = os.environ.get("HIPNODE_SECRETS_DIR")
    folder = Path(named) if named else SECRETS
    # A /run/secrets that is not there, or that this user may not enter, is not meant for us.
    if not folder.is_dir() or not os.access(folder, os.X_OK):
        return {}, [f"HIPNODE_SECRETS_DIR names {folder}, which this user cannot enter."] if named else []
    values, problems = {}, []
    for name in Settings.model_fields:
        file = folder / f"hipnode_{name}"
        try:
            values[name] = file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            problems.append(f"HIPNODE_{name.upper()}: {file} cannot be read ({why}).")
    return values, problems


def load_settings() -> Settings:
    """Read the environment, `HIPNODE_ENV_FILE` or ./hipnode.env where there is one, and secret files.

    Raises SettingsError that names each wrong setting and what it may be.
    """
    file = os.environ.get("HIPNODE_ENV_FILE")
    if file and not Path(file).exists():
        raise SettingsError(f"HIPNODE_ENV_FILE names {file}, which is not there.")
    problems, cause = _read_secrets()[1], None
    try:
        settings = _read(file or "hipnode.env")
    except ValidationError as error:
        problems, cause = problems + _wrong(error), error
    if problems:
        raise SettingsError("These settings cannot be used:\n  " + "\n  ".join(problems)) from cause
    return settings


def load_usable_settings() -> tuple[Settings, list[str]]:
    """The same for a diagnosis: in place of each setting that cannot be used its default, and a sentence."""
    problems = _read_secrets()[1]
    file: str | None = os.environ.get("HIPNODE_ENV_FILE") or "hipnode.env"
    if file != "hipnode.env" and not Path(file or "").exists():
        problems.append(f"HIPNODE_ENV_FILE names {file}, which is not there.")
    try:
        return _read(file), problems
    except ValidationError as error:
        wrong = error
    except (OSError, UnicodeDecodeError) as unreadable:
        problems.append(f"{file} cannot be read ({getattr(unreadable, 'strerror', 'it is no text')}).")
        file = None
        try:
            return _read(file), problems
        except ValidationError as error:
            wrong = error
    names = {str(e["loc"][0]) for e in wrong.errors()}
    fields = Settings.model_fields
    defaults = {name: fields[name].get_default(call_default_factory=True) for name in names}
    return _read(file, **defaults), problems + _wrong(wrong)


def _read(file: str | None, **instead: Any) -> Settings:
    """The settings as they stand; `instead` comes before the environment and the file."""
    return Settings(_env_file=file, **instead)  # type: ignore[call-arg]  # pydantic-settings adds it


def _wrong(error: ValidationError) -> list[str]:
    secrets = _read_secrets()[0]
    return [_sentence(each, secrets) for each in error.errors()]


def _sentence(error: ErrorDetails, secrets: dict[str, str]) -> str:
    name = "_".join(str(part) for part in error["loc"])
    says = f"HIPNODE_{name.upper()}: {error['msg'].removeprefix('Value error, ')}"
    if name in secrets and secrets[name] == error["input"]:
        return f"{says} (it stands in the secret file hipnode_{name})"
    # a URL may hold a password
    return says if name.endswith("_url") else f"{says} (it is {error['input']!r})"
