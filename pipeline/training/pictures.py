"""CT, truth and prediction side by side: a training is watched with the eyes, not by its loss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.geometry import Float32
from pipeline.model.pipeline import PseudoMRIPipeline
from pipeline.phantom import TrainingPair

SOFT_WINDOW_HU = (-135.0, 215.0)
WHITE_SIGNAL = 0.9
GAMMA = 0.8
"""A little lighter than linear, as MRI is usually windowed."""


def contact_sheet(pipeline: PseudoMRIPipeline, pair: TrainingPair) -> Image.Image:
    """Two slices, the middle one and one beside it: CT, true T2, predicted T2, the same of STIR.

    Args:
        pipeline: The model as it is now.
        pair: Held out.
    """
    rows = []
    for index in (len(pair.ct) // 2, len(pair.ct) // 4):
        around = np.clip([index - 1, index, index + 1], 0, len(pair.ct) - 1)
        predicted = pipeline(torch.tensor(pair.ct[around]))[1].numpy()
        row = [_gray(pair.ct[index], *SOFT_WINDOW_HU, gamma=1.0)]
        for truth, image in zip((pair.t2, pair.stir), predicted, strict=True):
            row += [_gray(truth[index], 0, WHITE_SIGNAL), _gray(image, 0, WHITE_SIGNAL)]
        rows.append(np.hstack(row))
    return Image.fromarray(np.vstack(rows))


def _gray(values: Float32, black: float, white: float, gamma: float = GAMMA) -> NDArray[np.uint8]:
    share = np.clip((values - black) / (white - black), 0, 1)
    out: NDArray[np.uint8] = np.rint(255 * share**gamma).astype(np.uint8)
    return out
