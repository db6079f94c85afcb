"""The doors several commands go through: the ledger and the queue of the site."""

from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger, queue
from hipnode.errors import SettingsError
from hipnode.settings import Settings


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
