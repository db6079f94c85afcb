"""The ledger's schema: brought up to date, looked at, taken back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from hipnode.errors import SettingsError
from hipnode.ledger import sessions, transaction
from hipnode.tables import Base


def migrations_folder() -> Path:
    """The folder of the migrations: inside the package from a wheel, beside it in a checkout.

    Raises SettingsError where neither is.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_alembic", here.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise SettingsError(f"The migrations are missing beside {here}; install hipnode again.")


def head() -> str:
    """The newest revision this version knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def knows(revision: str) -> bool:
    """Whether this version has that revision's migration; one it has not comes from a newer version."""
    try:
        return ScriptDirectory.from_config(_config()).get_revision(revision) is not None
    except CommandError:
        return False


def current(database_url: str) -> str | None:
    """The revision of a database; None when it is empty or not there yet. Raises LedgerDown."""
    file = _file(database_url)
    if file is not None and not file.exists():
        return None
    with _opened(database_url) as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def upgrade(database_url: str, revision: str = "head") -> str:
    """Bring a database to `revision`, wholly or not at all; safe to repeat. Its revision then.

    Raises LedgerDown when it does not answer, SettingsError when its schema is newer than this version.
    """
    file = _file(database_url)
    if file is not None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _run(command.upgrade, database_url, revision)


def downgrade(database_url: str, revision: str) -> str:
    """Take a database back to `revision` ("base": empty); what the tables held beyond it is lost."""
    return _run(command.downgrade, database_url, revision)


def check(database_url: str) -> list[str]:
    """How the tables in a database differ from those this version expects, one sentence each."""
    with _opened(database_url) as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        return [_sentence(difference) for difference in compare_metadata(context, Base.metadata)]


def require_head(database_url: str) -> None:
    """Raise SettingsError, with what to type, unless the database is at the newest revision."""
    found, wanted = current(database_url), head()
    if found != wanted:
        raise SettingsError(
            f"The database is at revision {found or 'none'}, this version of hipnode needs {wanted}. "
            "Run `hipnode db upgrade`."
        )


def _run(what: object, database_url: str, revision: str) -> str:
    config = _config()
    with _opened(database_url) as session:
        config.attributes["connection"] = session.connection()
        try:
            what(config, revision)  # type: ignore[operator]
        except CommandError as error:
            raise SettingsError(f"The database cannot be brought to {revision}: {error}") from error
        return MigrationContext.configure(session.connection()).get_current_revision() or ""


@contextmanager
def _opened(database_url: str) -> Iterator[Session]:
    make = sessions(database_url)
    try:
        with transaction(make) as session:
            yield session
    finally:
        make.kw["bind"].dispose()


def _file(database_url: str) -> Path | None:
    """The file of an SQLite database, None for another."""
    url = make_url(database_url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def _sentence(difference: object) -> str:
    if isinstance(difference, list):
        return "; ".join(_sentence(each) for each in difference)
    if isinstance(difference, tuple):
        return " ".join(str(getattr(part, "name", part)) for part in difference if part is not None)
    return str(difference)
