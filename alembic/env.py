"""Where Alembic meets the ledger: on the connection hipnode.migrations hands in, else on the settings'."""

from alembic import context
from sqlalchemy import Connection, text

from hipnode.ledger import sessions
from hipnode.settings import load_settings
from hipnode.tables import Base


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite changes a table by writing it anew
        transactional_ddl=True,  # SQLite can, when BEGIN is ours: a migration is whole or not at all
        compare_type=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # a large table may take longer than any statement of the ledger is allowed to
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            # two processes that start together take turns
            connection.execute(text("SELECT pg_advisory_xact_lock(7215113)"))
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with sessions(load_settings().database)() as session:
        migrate(session.connection())
        session.commit()
