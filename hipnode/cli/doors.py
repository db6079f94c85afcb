"""The doors several commands go through: the ledger and the queue of the site."""

import os

from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger, queue
from hipnode.errors import SettingsError
from hipnode.settings import Settings


def make_data_folder(settings: Settings) -> None:
    """Make the data folder where it is not there. Raises SettingsError where it cannot be written."""
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(_no_folder(settings, f"cannot be made: {error.strerror}")) from error
    if not os.access(settings.data, os.W_OK | os.X_OK):
        raise SettingsError(_no_folder(settings, "cannot be written by this user"))


def _no_folder(settings: Settings, why: str) -> str:
    return f"The data folder {settings.data} {why}. Set HIPNODE_DATA to a folder this user may write."


def open_ledger(settings: Settings) -> sessionmaker[Session]:
    """Sessions on the site's ledger. Raises SettingsError where there is none yet."""
    if not settings.database_url and not (settings.data / "hipnode.db").exists():
        raise SettingsError(
            f"There is no ledger in {settings.data}. Set HIPNODE_DATA to the node's data folder, "
            "or start the node with `hipnode up`."
        )
    return ledger.sessions(settings.database)


def configure_queue(settings: Settings) -> None:
    """Point the Celery app at the site's broker."""
    queue.configure(settings.broker, settings.data / "broker")


def ring_bells(settings: Settings) -> None:
    """Tell the workers that something is due; without a broker the sweep tells them."""
    configure_queue(settings)
    queue.ring_analyse()
    queue.ring_deliver()
