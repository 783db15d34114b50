"""Since when a run waits for its worker, and a delivery for its destination.

Of what an older program left the moment is not known after a retry: the last move counts then,
which may make it seem younger than it is, never older.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default, since SQLite adds no other column that is never null.
    for table, name in (("synthesis", "queued_at"), ("delivery", "opened_at")):
        none = sa.text("''")
        op.add_column(table, sa.Column(name, sa.String(32), nullable=False, server_default=none))
    op.execute(
        "UPDATE synthesis SET queued_at = CASE WHEN run = 1 THEN created_at ELSE updated_at END"
    )
    op.execute(
        "UPDATE delivery SET opened_at = CASE"
        " WHEN (SELECT run FROM synthesis WHERE synthesis.job_id = delivery.job_id) = 1"
        " THEN created_at ELSE updated_at END"
    )
