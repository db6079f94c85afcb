"""Final reports of studies, and each class' best score in each image, also below its threshold."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("analysis_images", sa.Column("scores", sa.JSON(), nullable=True))
    op.create_table(
        "final_reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("fracture", sa.Boolean(), nullable=False),
        sa.Column("classes", sa.JSON(), nullable=True),
        sa.Column("imported_at", INSTANT, nullable=False),
        sa.Column("imported_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_final_reports_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_final_reports"),
        sa.UniqueConstraint("study_id", name="uq_final_reports_study_id"),
    )


def downgrade() -> None:
    op.drop_table("final_reports")
    # not as a batch: SQLite would write the table anew, and dropping the old one would take the findings
    # that refer to its rows with it
    op.drop_column("analysis_images", "scores")
