"""Where things truly are: what measurements on a phantom are compared with. LPS mm."""

from __future__ import annotations

import numpy as np

from pipeline.geometry import Float64
from pipeline.phantom.canal import cord_normal
from pipeline.phantom.person import Patient


def discs_mm(person: Patient) -> dict[str, Float64]:
    """Front wall of the canal at the middle of each disc, ``"C2/3"`` to ``"T5/6"``, ``(3,)``."""
    names = ("C2", *(level.name for level in person.spine.levels))
    return {
        _disc_name(above, level.name): person.frame.position_mm(level.disc_middle)
        for above, level in zip(names, person.spine.levels, strict=False)
    }


def canal_ap_mm(person: Patient) -> dict[str, float]:
    """AP diameter of the bony canal behind the middle of each body, from ``"C3"`` down."""
    return {v.name: person.canal.width.at(v.middle) for v in person.spine.levels}


def centerline_mm(person: Patient, step_mm: float = 3.0) -> Float64:
    """The middle of the canal from the atlas to the last body, ``(point, 3)``, head first."""
    last = person.spine.levels[-1].bottom
    along = np.arange(8 * person.size, last, step_mm)
    return np.stack(
        [person.frame.position_mm(s, -person.canal.width.at(s) / 2) for s in along.tolist()]
    )


def cord_center_mm(person: Patient, along: float) -> Float64:
    """Center of the cord at a position along the spine, ``(3,)``."""
    normal = cord_normal(person.canal, person.spine, person.injuries, along)
    return person.frame.position_mm(along, normal)


def _disc_name(above: str, below: str) -> str:
    """``"C2/3"``, but ``"C7/T1"``."""
    return f"{above}/{below}" if above[0] != below[0] else f"{above}/{below[1:]}"
