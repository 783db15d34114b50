"""Which bright areas of the spine are outlined: the true ones, or the invented ones?

``python -m pipeline.evaluation.outlines --pool POOL --seeds A:B`` runs the model with its ensemble
on held-out phantoms and sorts the areas that `pipeline.hyperintensity` finds by what is truly
there. An outline says that the CT does not support an area, so a true injury may have one too; what
must not happen is an invented one without. In the canal no area is looked for: what is invented in
the cord has no outline and is not counted here.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.contrast import Contrast
from pipeline.evaluation.injuries import Share
from pipeline.evaluation.pages import markdown_table
from pipeline.hyperintensity import bright_areas, unsupported_areas
from pipeline.phantom import Tissue
from pipeline.synthesis import SAMPLES, load_model
from pipeline.training.calibrate import Seen, run, seed_range

INJURIES: Final = (
    Tissue.HAEMATOMA,
    Tissue.INTERSPINOUS_OEDEMA,
    Tissue.MARROW_OEDEMA,
    Tissue.DISC_INJURY,
)

INVENTED_BELOW: Final = 0.3
"""True STIR signal, mean over an area: nearer to muscle (0.24) than to what counts as bright. From
here to `pipeline.hyperintensity.BRIGHT` (0.4) the model drew brighter than the truth, and it counts
as bright normal tissue all the same."""


class Truth(StrEnum):
    """What is where the model drew a bright area."""

    INJURY = "an injury with a CT sign"
    OCCULT = "an injury without one"
    BRIGHT = "bright normal tissue"
    INVENTED = "nothing bright: invented"


class Tally:
    """Adds up areas, phantom by phantom."""

    def __init__(self) -> None:
        self._areas: Counter[tuple[Truth, bool]] = Counter()
        self._phantoms: Counter[tuple[bool, bool]] = Counter()

    def add(self, seen: Seen) -> None:
        """Take up the areas of a phantom.

        Raises:
            ValueError: When the synthesis has no support map.
        """
        support = seen.synthesis.support
        if support is None:
            raise ValueError("expected a calibrated model, found one without calibration.json")
        stir, spacing_mm = seen.synthesis.images[Contrast.STIR], seen.stack.grid.spacing_mm
        areas = bright_areas(stir, seen.places, spacing_mm)
        drawn = unsupported_areas(stir, support.unsupported, seen.places, spacing_mm) > 0
        for number in range(1, int(areas.max()) + 1):
            area = areas == number
            self._areas[_truth(seen, area), bool(drawn[area].any())] += 1
        self._phantoms[seen.is_injured, bool(drawn.any())] += 1

    def count(self, truth: Truth) -> tuple[int, int]:
        """How many such areas were outlined, of how many."""
        outlined = self._areas[truth, True]
        return outlined, outlined + self._areas[truth, False]

    def table(self) -> str:
        """Markdown."""
        rows = [(str(truth), Share.count(*self.count(truth))) for truth in Truth]
        for is_injured, name in ((False, "uninjured"), (True, "injured")):
            with_one = self._phantoms[is_injured, True]
            share = Share.count(with_one, with_one + self._phantoms[is_injured, False])
            rows.append((f"{name} phantoms with an outline, of all", share))
        return markdown_table(
            ("a bright area shows", "areas", "outlined", "share, exact 95% limits"),
            ((name, str(s.of), str(s.hits), f"{s.low:.2f} to {s.high:.2f}") for name, s in rows),
        )


def _truth(seen: Seen, area: np.ndarray) -> Truth:
    """What most of an area is."""
    if np.isin(seen.pair.labels[area], INJURIES).mean() >= 0.5:
        return Truth.OCCULT if seen.pair.occult[area].mean() >= 0.5 else Truth.INJURY
    return Truth.INVENTED if seen.pair.stir[area].mean() < INVENTED_BELOW else Truth.BRIGHT


def tally(phantoms: Iterable[Seen]) -> Tally:
    """All of them."""
    found = Tally()
    for seen in phantoms:
        found.add(seen)
    return found


def main() -> None:
    """Print which bright areas of held-out phantoms are outlined."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, help="model folder; none means the built-in weights")
    parser.add_argument("--pool", type=Path, required=True, help="folder of phantom pairs")
    parser.add_argument("--seeds", type=seed_range, default=range(100_000, 100_020), help="A:B")
    asked = parser.parse_args()
    model = load_model(asked.model)
    phantoms = run(
        model, asked.pool, asked.seeds, SAMPLES, tell=lambda text: print(text, file=sys.stderr)
    )
    print(tally(phantoms).table())


if __name__ == "__main__":
    main()
