"""Audit messages for the hospital's audit repository (IHE ATNA): PS3.15 A.5 over syslog.

`message` is the schema, `telling` makes messages of our audit events, `syslog` carries them,
`spool` sends them in order from where it stopped, at least once each.
"""
