"""The versions of the ledger's schema, for Alembic."""
