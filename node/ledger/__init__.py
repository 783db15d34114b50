"""The ledger: every database verb of the node, one noun per module.

`database` (transactions, the audit chain's lock, moves), `schema` (versions), then in the order of
the journey: `receiving`, `series`, `syntheses`, `deliveries`, and `reports` for those who only
read. SQLAlchemy is imported here, in `node.records` and in `node.migrations`, nowhere else.
"""
