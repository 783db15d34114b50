"""Series and study of an instance in quarantine, so that a hold on them reaches it.

Of what was put there before they are not known, save where its rival is on record.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("series_uid", "study_uid"):
        op.add_column("quarantine", sa.Column(name, sa.String(64), nullable=True))
