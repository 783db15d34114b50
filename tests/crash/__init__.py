"""The crash suite: the real node under load, killed again and again; then everything is counted.

`python -m tests.crash --kills 200 --seed 1`. `node` runs the node, `scanner` and `pacs` are its
peers, `killer` kills, `counting` counts, `harness` puts them together.
"""
