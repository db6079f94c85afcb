"""Who knocked at the SCP, and when a worker last answered a bell."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("workers", sa.Column("bell_at", INSTANT, nullable=True))
    op.create_table(
        "peers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("called_ae_title", sa.String(length=16), nullable=False),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("associations", sa.BigInteger(), nullable=False),
        sa.Column("refusals", sa.BigInteger(), nullable=False),
        sa.Column("instances", sa.BigInteger(), nullable=False),
        sa.Column("stores_refused", sa.BigInteger(), nullable=False),
        sa.Column("last_refusal", sa.String(length=32), nullable=True),
        sa.Column("last_refused_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_peers"),
        sa.UniqueConstraint(
            "calling_ae_title",
            "address",
            "called_ae_title",
            name="uq_peers_calling_ae_title_address_called_ae_title",
        ),
    )
    op.create_index("ix_peers_last_seen_at", "peers", ["last_seen_at"])


def downgrade() -> None:
    op.drop_table("peers")
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("bell_at")
