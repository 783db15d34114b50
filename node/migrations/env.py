"""How Alembic runs our migrations: on the connection that `node.ledger.schema` hands over."""

from __future__ import annotations

from alembic import context

from node.records import Record

# The connection is already inside a write transaction, so all steps become durable together.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Record.metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
)
context.run_migrations()
