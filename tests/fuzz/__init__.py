"""Hostile input for the receiving side: PDUs, DIMSE messages and data sets, by the thousand.

`python -m tests.fuzz --inputs N --seed S` runs as many as wanted, prints a table; docs/fuzzing.md
has what it found. The makers take a `random.Random`, so that Hypothesis can drive and shrink them.
"""
