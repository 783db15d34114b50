"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite only counts a plain INTEGER primary key up by itself.
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "association",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("process", sa.String(64), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("called_ae", sa.String(16), nullable=False),
        sa.Column("peer_address", sa.String(64), nullable=False),
        sa.Column("opened_at", sa.String(32), nullable=False),
        sa.Column("closed_at", sa.String(32), nullable=True),
        sa.Column("ending", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_association"),
    )
    op.create_index("ix_association_closed_at", "association", ["closed_at"], unique=False)

    op.create_table(
        "audit_event",
        sa.Column("sequence", COUNTER, autoincrement=False, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_event"),
    )
    op.create_index("ix_audit_event_kind", "audit_event", ["kind"], unique=False)
    op.create_index("ix_audit_event_subject", "audit_event", ["subject"], unique=False)

    op.create_table(
        "series",
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("peer_address", sa.String(64), nullable=False),
        sa.Column("first_instance_at", sa.String(32), nullable=False),
        sa.Column("last_instance_at", sa.String(32), nullable=False),
        sa.Column("completed_at", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("series_uid", name="pk_series"),
    )
    op.create_index("ix_series_state", "series", ["state"], unique=False)
    op.create_index("ix_series_study_uid", "series", ["study_uid"], unique=False)

    op.create_table(
        "instance",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("association_id", COUNTER, nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("received_at", sa.String(32), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.id"], name="fk_instance_association_id"
        ),
        sa.ForeignKeyConstraint(
            ["series_uid"], ["series.series_uid"], name="fk_instance_series_uid"
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name="pk_instance"),
    )
    op.create_index("ix_instance_series_uid", "instance", ["series_uid"], unique=False)

    op.create_table(
        "quarantine",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("association_id", COUNTER, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("received_at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.id"], name="fk_quarantine_association_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
    )
    op.create_index(
        "ix_quarantine_sop_instance_uid", "quarantine", ["sop_instance_uid"], unique=False
    )

    op.create_table(
        "selection",
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("decided_at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_uid"], ["series.series_uid"], name="fk_selection_series_uid"
        ),
        sa.PrimaryKeyConstraint("series_uid", "version", name="pk_selection"),
    )
    op.create_table(
        "synthesis",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("series_version", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("contrasts", sa.JSON(), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("model_name", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("software", sa.JSON(), nullable=True),
        sa.Column("device", sa.String(128), nullable=True),
        sa.Column("timings_s", sa.JSON(), nullable=True),
        sa.Column("measurements", sa.JSON(), nullable=True),
        sa.Column("warnings", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("dispatched_at", sa.String(32), nullable=True),
        sa.ForeignKeyConstraint(
            ["series_uid"], ["series.series_uid"], name="fk_synthesis_series_uid"
        ),
        sa.PrimaryKeyConstraint("job_id", name="pk_synthesis"),
    )
    op.create_index("ix_synthesis_series_uid", "synthesis", ["series_uid"], unique=False)
    op.create_index("ix_synthesis_state", "synthesis", ["state"], unique=False)
    op.create_index("ix_synthesis_study_uid", "synthesis", ["study_uid"], unique=False)

    op.create_table(
        "delivery",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("ae_title", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["synthesis.job_id"], name="fk_delivery_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
    )
    op.create_index("ix_delivery_job_id", "delivery", ["job_id"], unique=False)
    op.create_index("ix_delivery_state", "delivery", ["state"], unique=False)
    op.create_index(
        "uq_delivery_job_id_destination", "delivery", ["job_id", "destination"], unique=True
    )

    op.create_table(
        "output",
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("contrast", sa.String(16), nullable=False),
        sa.Column("slice_index", sa.Integer(), nullable=False),
        sa.Column("pixel_digest", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["synthesis.job_id"], name="fk_output_job_id"),
        sa.PrimaryKeyConstraint("sop_instance_uid", name="pk_output"),
    )
    op.create_index("ix_output_job_id", "output", ["job_id"], unique=False)
    op.create_index("ix_output_series_uid", "output", ["series_uid"], unique=False)

    op.create_table(
        "delivery_attempt",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("delivery_id", COUNTER, nullable=False),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32), nullable=True),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["delivery.id"], name="fk_delivery_attempt_delivery_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_delivery_attempt"),
    )
    op.create_index(
        "ix_delivery_attempt_delivery_id", "delivery_attempt", ["delivery_id"], unique=False
    )

    op.create_table(
        "delivered_instance",
        sa.Column("delivery_id", COUNTER, nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("attempt_id", COUNTER, nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("answered_at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["delivery_attempt.id"], name="fk_delivered_instance_attempt_id"
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["delivery.id"], name="fk_delivered_instance_delivery_id"
        ),
        sa.PrimaryKeyConstraint("delivery_id", "sop_instance_uid", name="pk_delivered_instance"),
    )
