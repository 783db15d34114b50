"""Counterfactual tests: the same patient with one thing changed, and what a method makes of it.

`subjects` draws the twins; `occult` changes the MRI and not the CT; `visible` adds a CT sign;
`evidence` moves the cord within the canal; `run` does all three with any method; `verdict` says
what is asked and what was reached; `report` writes it. docs/counterfactual.md explains it.
"""
