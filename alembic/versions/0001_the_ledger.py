"""The ledger: studies, instances, analyses, results, deliveries, events, workers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
WORD = sa.String(length=32)  # a status, role or reason code; which ones there are is the program's business


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("study_instance_uid", name="uq_studies_study_instance_uid"),
    )
    op.create_index("ix_studies_accession_number", "studies", ["accession_number"])
    op.create_index("ix_studies_updated_at", "studies", ["updated_at"])
    op.create_table(
        "workers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("packages", sa.JSON(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=True),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
        sa.UniqueConstraint("name", name="uq_workers_name"),
    )
    op.create_table(
        "analyses",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("package_id", sa.String(length=128), nullable=True),
        sa.Column("package_sha256", sa.String(length=64), nullable=True),
        sa.Column("shadow", sa.Boolean(), nullable=False),
        sa.Column("status", WORD, nullable=False),
        sa.Column("outcome", WORD, nullable=True),
        sa.Column("reason_code", WORD, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("receiving_since", INSTANT, nullable=False),
        sa.Column("last_instance_at", INSTANT, nullable=False),
        sa.Column("queued_at", INSTANT, nullable=True),
        sa.Column("due_at", INSTANT, nullable=True),
        sa.Column("lease_until", INSTANT, nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("notice_attempts", sa.Integer(), nullable=False),
        sa.Column("analysed_at", INSTANT, nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("asked_by", sa.String(length=128), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_analyses_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_analyses"),
        sa.UniqueConstraint(
            "study_id", "package_id", "number", name="uq_analyses_study_id_package_id_number"
        ),
    )
    op.create_index("ix_analyses_status_due_at", "analyses", ["status", "due_at"])
    op.create_index(
        "uq_analyses_receiving",
        "analyses",
        ["study_id"],
        unique=True,
        sqlite_where=sa.text("status = 'receiving'"),
        postgresql_where=sa.text("status = 'receiving'"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("relative_path", sa.String(length=255), nullable=True),
        sa.Column("role", WORD, nullable=False),
        sa.Column("reason_code", WORD, nullable=True),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=64), nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_instances_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("sop_instance_uid", "sha256", name="uq_instances_sop_instance_uid_sha256"),
    )
    op.create_index("ix_instances_study_id", "instances", ["study_id"])
    op.create_table(
        "analysis_images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=128), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("outcome", WORD, nullable=True),
        sa.Column("reason_code", WORD, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["analysis_id"], ["analyses.id"], name="fk_analysis_images_analysis_id_analyses"
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_analysis_images_instance_id_instances"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_analysis_images"),
        sa.UniqueConstraint("analysis_id", "instance_id", name="uq_analysis_images_analysis_id_instance_id"),
    )
    op.create_index("ix_analysis_images_instance_id", "analysis_images", ["instance_id"])
    op.create_table(
        "results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("relative_path", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["analysis_id"], ["analyses.id"], name="fk_results_analysis_id_analyses"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_results_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_results"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_results_sop_instance_uid"),
    )
    op.create_index("ix_results_analysis_id", "results", ["analysis_id"])
    op.create_index("ix_results_series_instance_uid", "results", ["series_instance_uid"])
    op.create_index("ix_results_study_id", "results", ["study_id"])
    op.create_table(
        "analysis_results",
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["analysis_id"], ["analyses.id"], name="fk_analysis_results_analysis_id_analyses"
        ),
        sa.ForeignKeyConstraint(["result_id"], ["results.id"], name="fk_analysis_results_result_id_results"),
        sa.PrimaryKeyConstraint("analysis_id", "result_id", name="pk_analysis_results"),
    )
    op.create_index("ix_analysis_results_result_id", "analysis_results", ["result_id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("status", WORD, nullable=False),
        sa.Column("reason_code", WORD, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT, nullable=True),
        sa.Column("lease_until", INSTANT, nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("peer_status", sa.Integer(), nullable=True),
        sa.Column("delivered_at", INSTANT, nullable=True),
        sa.Column("committed_at", INSTANT, nullable=True),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["results.id"], name="fk_deliveries_result_id_results"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("result_id", "destination", name="uq_deliveries_result_id_destination"),
    )
    op.create_index("ix_deliveries_status_due_at", "deliveries", ["status", "due_at"])
    op.create_table(
        "findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_image_id", sa.Integer(), nullable=False),
        sa.Column("hip", sa.String(length=1), nullable=True),
        sa.Column("hip_source", sa.String(length=64), nullable=True),
        sa.Column("class_name", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("alternative_class", sa.String(length=64), nullable=True),
        sa.Column("alternative_score", sa.Double(), nullable=True),
        sa.Column("rule", sa.String(length=128), nullable=True),
        sa.Column("column_min", sa.Double(), nullable=False),
        sa.Column("row_min", sa.Double(), nullable=False),
        sa.Column("column_max", sa.Double(), nullable=False),
        sa.Column("row_max", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["analysis_image_id"],
            ["analysis_images.id"],
            name="fk_findings_analysis_image_id_analysis_images",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_findings"),
    )
    op.create_index("ix_findings_analysis_image_id", "findings", ["analysis_image_id"])
    op.create_table(
        "analysis_deliveries",
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["analysis_id"], ["analyses.id"], name="fk_analysis_deliveries_analysis_id_analyses"
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name="fk_analysis_deliveries_delivery_id_deliveries"
        ),
        sa.PrimaryKeyConstraint("analysis_id", "delivery_id", name="pk_analysis_deliveries"),
    )
    op.create_index("ix_analysis_deliveries_delivery_id", "analysis_deliveries", ["delivery_id"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("analysis_id", sa.Integer(), nullable=True),
        sa.Column("delivery_id", sa.Integer(), nullable=True),
        sa.Column("was", sa.String(length=32), nullable=True),
        sa.Column("became", sa.String(length=32), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["analysis_id"], ["analyses.id"], name="fk_events_analysis_id_analyses"),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name="fk_events_delivery_id_deliveries"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_events_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_events_study_id", "events", ["study_id"])


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("analysis_deliveries")
    op.drop_table("findings")
    op.drop_table("deliveries")
    op.drop_table("analysis_results")
    op.drop_table("results")
    op.drop_table("analysis_images")
    op.drop_table("instances")
    op.drop_table("analyses")
    op.drop_table("workers")
    op.drop_table("studies")
