"""At which brightness of CSF the canal is hatched: what each threshold finds, and what it costs.

``python -m pipeline.evaluation.faint_csf --pool POOL`` prints the table that
`pipeline.narrowing.FAINT_CSF` was chosen from, on phantoms that are neither trained on nor judged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.canal_rows import read_rows
from pipeline.contrast import Contrast
from pipeline.course import ACROSS_MM, Course
from pipeline.evaluation.pages import markdown_table
from pipeline.evaluation.run import TUNING, cases, fill_pool
from pipeline.evaluation.scores import model_method
from pipeline.geometry import Float64
from pipeline.narrowing import FAINT_CSF
from pipeline.phantom import Tissue
from pipeline.phantom.tissues import CORD_TISSUES
from pipeline.synthesis import Model, load_model
from pipeline.training.calibrate import seed_range

THRESHOLDS = (0.60, 0.65, 0.70, 0.75, 0.775, 0.80, 0.825, 0.85)
SAC = (*CORD_TISSUES, Tissue.CSF, Tissue.NERVE, Tissue.DURA)
TIGHT_MM = 2.0
"""A sac so little deeper than its cord is tight."""

LEAST_CORD_MM = 3.0


def read(model: Model, pool: Path, seeds: range) -> Float64:
    """Brightness and truth at every point of the canal, ``(point, 3)``.

    Args:
        model: Under test.
        pool: Folder of phantom pairs; missing ones are drawn into it.
        seeds: Of the phantoms.

    Returns:
        Mean peak of both columns in the pseudo-T2; whether the true T2 lacks CSF on one side;
        whether the sac is tight.
    """
    run = model_method(model)
    fill_pool(pool, seeds, _tell)
    parts = []
    for case in cases(pool, seeds, "phantoms", _tell):
        t2 = np.zeros_like(case.ct)
        t2[case.canal_slices] = run(case.ct[case.canal_slices])[Contrast.T2]
        course = case.course.between_walls(case.ct)
        lacks = ~read_rows(case.pair.t2, course).is_resolved
        columns = (read_rows(t2, course).csf, lacks, tight(case.pair.labels, course))
        parts.append(np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1))
    return np.concatenate(parts)


def tight(labels: NDArray[np.uint8], course: Course) -> NDArray[np.bool_]:
    """Points where the dural sac is hardly deeper than the cord, by the label map, ``(n,)``."""
    across = np.rint(course.across(labels, order=0))
    inside = np.abs(ACROSS_MM) <= course.half_mm[:, None] + 1
    step = float(ACROSS_MM[1] - ACROSS_MM[0])
    sac, cord = (
        (np.isin(across, tissues) & inside).sum(axis=1) * step for tissues in (SAC, CORD_TISSUES)
    )
    found: NDArray[np.bool_] = (cord > LEAST_CORD_MM) & (sac - cord < TIGHT_MM)
    return found


def table(points: Float64) -> str:
    """Markdown: by threshold, the share of points below it."""
    csf, lacks, is_tight = points[:, 0], points[:, 1] > 0, points[:, 2] > 0
    kinds = (lacks, is_tight, ~lacks & ~is_tight)
    head = ["threshold"] + [
        f"{name} ({mask.sum()})"
        for name, mask in zip(("no CSF on one side", "tight sac", "others"), kinds, strict=True)
    ]
    rows = []
    for threshold in THRESHOLDS:
        name = f"{threshold:g}" + (" (taken)" if threshold == FAINT_CSF else "")
        rows.append([name, *(f"{(csf[mask] < threshold).mean():.0%}" for mask in kinds)])
    return markdown_table(head, rows)


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)


def main() -> None:
    """Print how many points of the canal each threshold takes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, help="model folder; none means the built-in weights")
    parser.add_argument("--pool", type=Path, required=True, help="folder of phantom pairs")
    parser.add_argument("--seeds", type=seed_range, default=TUNING, help="A:B")
    asked = parser.parse_args()
    print(table(read(load_model(asked.model), asked.pool, asked.seeds)))


if __name__ == "__main__":
    main()
