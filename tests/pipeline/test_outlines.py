"""Areas are sorted by what is truly there, and counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.contrast import Contrast
from pipeline.evaluation.outlines import Truth, tally
from pipeline.phantom import Tissue, TrainingPair
from pipeline.support import SupportMap
from pipeline.training.calibrate import Seen
from tests.pipeline.test_calibrate import pretended
from tests.pipeline.test_hyperintensity import BEHIND, IN_BODY, stir_with, where
from tests.pipeline.toy_spine import SHAPE, toy_spine

DISC = (slice(2, 3), slice(108, 113), slice(100, 112))


def seen(tissue: Tissue, ct_tissue: Tissue, doubted: bool) -> Seen:
    """An injury in a body, an invented area behind, and a bright disc; only the disc is sure."""
    toy = toy_spine()
    labels, ct_labels = toy.pair.labels.copy(), toy.pair.labels.copy()
    labels[IN_BODY], ct_labels[IN_BODY] = tissue, ct_tissue
    truth = stir_with(IN_BODY, DISC)
    pair = TrainingPair(toy.pair.ct, toy.pair.t2, truth, labels, ct_labels)
    drawn = stir_with(IN_BODY, DISC, BEHIND)
    unsupported = where(IN_BODY, BEHIND) if doubted else where(BEHIND)
    made = pretended(toy, 1)
    zeros = np.zeros(SHAPE, dtype=np.float32)
    support = SupportMap(dict.fromkeys(made.images, zeros), unsupported)
    images = {**made.images, Contrast.STIR: drawn}
    synthesis = replace(made, images=images, support=support)
    return Seen(toy.stack, toy.places, toy.course, pair, synthesis, True)


def test_each_kind_of_area_is_counted_and_whether_it_was_outlined() -> None:
    found = tally(
        [
            seen(Tissue.MARROW_OEDEMA, Tissue.MARROW_OEDEMA, doubted=False),
            seen(Tissue.MARROW_OEDEMA, Tissue.MARROW, doubted=True),
        ]
    )
    assert found.count(Truth.INJURY) == (0, 1)
    assert found.count(Truth.OCCULT) == (1, 1)
    assert found.count(Truth.BRIGHT) == (0, 2)
    assert found.count(Truth.INVENTED) == (2, 2)
    assert "| nothing bright: invented | 2 | 2 | 0.16 to 1.00 |" in found.table()
    assert "| an injury with a CT sign | 1 | 0 | 0.00 to 0.97 |" in found.table()
    assert "| injured phantoms with an outline, of all | 2 | 2 | 0.16 to 1.00 |" in found.table()


def test_a_model_without_calibration_has_nothing_to_count() -> None:
    one = seen(Tissue.MARROW_OEDEMA, Tissue.MARROW, doubted=True)
    bare = replace(one, synthesis=replace(one.synthesis, support=None))
    with pytest.raises(ValueError, match="calibrated"):
        tally([bare])
