"""Does the bone tell a picture of another patient? The edge figures of pictures that are not his.

``python -m pipeline.evaluation.strangers --pool POOL`` prints the table that
`pipeline.fidelity.LEAST_GAIN` was chosen from. The pictures are true T2 images, so it holds for
any weights; what a model reaches with the right patient stands in its calibration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.bone_edges import edge_agreement
from pipeline.evaluation.pages import markdown_table
from pipeline.evaluation.run import Case, cases, fill_pool
from pipeline.fidelity import LEAST_GAIN
from pipeline.geometry import Float32, Volume
from pipeline.training.calibrate import SEEDS, phantom_places, seed_range
from pipeline.training.data import load, pair_path

OTHERS = 2
"""Strangers for each patient."""

MOVED_MM = (1.0, 2.0, 3.0, 5.0)

Measured = dict[str, list[tuple[float, ...]]]
"""By picture, the three figures of each patient."""


def pictures(case: Case, pool: Path, seeds: range) -> Iterator[tuple[str, Float32]]:
    """T2 images that a wrong synthesis might show, with what is wrong of them.

    Args:
        case: The patient.
        pool: Folder of phantom pairs.
        seeds: Of the phantoms, his among them.
    """
    own = case.pair.t2
    yield "his own", own
    row_mm = case.grid.spacing_mm[1]
    for moved_mm in MOVED_MM:
        yield f"moved down by {moved_mm:g} mm", np.roll(own, round(moved_mm / row_mm), axis=1)
    for step in range(1, OTHERS + 1):
        other = seeds[(case.person.seed - seeds.start + step) % len(seeds)]
        yield "another patient's", load(pair_path(pool, other)).t2
    yield "upside down", np.ascontiguousarray(own[:, ::-1])
    noise = np.random.default_rng(case.person.seed).uniform(0, 1, own.shape)
    yield "noise", noise.astype(np.float32)


def measure(pool: Path, seeds: range) -> Measured:
    """Median Dice, distance in mm and gain over the vertebrae, by what is wrong of the picture.

    Args:
        pool: Folder of phantom pairs; missing ones are drawn into it.
        seeds: Of the phantoms.
    """
    fill_pool(pool, seeds, _tell)
    found: Measured = {}
    for case in cases(pool, seeds, "phantoms", _tell):
        stack = Volume(case.ct, case.grid, "2.25.1")
        places = phantom_places(case.person, stack)
        for name, t2 in pictures(case, pool, seeds):
            edges = edge_agreement(case.ct, t2, places, case.grid.spacing_mm[1]).values()
            figures = [(one.dice, one.assd_mm, one.gain) for one in edges]
            found.setdefault(name, []).append(tuple(np.median(figures, axis=0).tolist()))
    return found


def table(found: Measured) -> str:
    """Markdown: by kind of picture, median, least and most of its figures, and how many of its
    pictures would be declined."""
    head = ["picture", "n", "surface Dice", "mm", "times chance", f"below {LEAST_GAIN:g}"]
    rows = []
    for name, values in found.items():
        columns = np.array(values).T
        spans = [f"{np.median(v):.2f} ({v.min():.2f} to {v.max():.2f})" for v in columns]
        below = f"{(columns[-1] < LEAST_GAIN).mean():.0%}"
        rows.append([name, str(len(values)), *spans, below])
    return markdown_table(head, rows)


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)


def main() -> None:
    """Print how well bone edges tell a picture of another patient."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--pool", type=Path, required=True, help="folder of phantom pairs")
    parser.add_argument("--seeds", type=seed_range, default=SEEDS, help="A:B")
    asked = parser.parse_args()
    print(table(measure(asked.pool, asked.seeds)))


if __name__ == "__main__":
    main()
