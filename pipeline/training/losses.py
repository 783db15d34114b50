"""What the network is punished for.

No adversarial loss: it paints what the distribution of training images expects, findings included
(Cohen et al. 2018, arXiv 1805.08841).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.phantom.tissues import Tissue

GRADIENT_SHARE = 0.3
"""Weight of the gradient term: sharp thin CSF and cortex without ringing."""

TISSUE_WEIGHTS: dict[Tissue, float] = {
    Tissue.AIR: 0.4,
    # what the reading is about, in the few pixels it has; bone oedema no more than healthy bone, or
    # every uneven vertebra of a real patient turns bright
    Tissue.CSF: 2.5,
    Tissue.CORD: 3.0,
    Tissue.CORD_GRAY: 3.0,
    Tissue.CORD_OEDEMA: 2.0,
    # against CSF at 2.5: where CT cannot tell, the heavier of two neighbors wins
    Tissue.BRAINSTEM: 2.5,
    Tissue.CEREBELLUM: 2.0,
    Tissue.NUCLEUS: 4.0,
    Tissue.ANNULUS: 2.0,
    Tissue.DISC_INJURY: 3.0,
    Tissue.HAEMATOMA: 3.0,
    Tissue.INTERSPINOUS: 2.0,
    Tissue.INTERSPINOUS_OEDEMA: 2.0,
    Tissue.MARROW_OEDEMA: 1.5,
    Tissue.FRACTURE_LINE: 2.0,
    # thin dark lines that L1 gives up first
    Tissue.DURA: 2.0,
    Tissue.LIGAMENT: 2.0,
    Tissue.FLAVUM: 2.0,
    Tissue.CORTEX: 1.5,
    Tissue.EPIDURAL_FAT: 2.0,
    Tissue.MARROW: 2.0,
    # flow voids: dark on MRI, bright on an enhanced CT
    Tissue.ARTERY: 2.0,
}


def tissue_weights(labels: Tensor) -> Tensor:
    """Loss weight of each pixel ``(batch, 1, row, column)`` from labels of the same shape."""
    table = torch.ones(len(Tissue))
    for tissue, weight in TISSUE_WEIGHTS.items():
        table[tissue] = weight
    return table[labels.long()]


def reconstruction_loss(predicted: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted L1 and the gradient's L1.

    Args:
        predicted: Signal ``(batch, contrast, row, column)``.
        truth: The same shape.
        weights: ``(batch, 1, row, column)``.

    Returns:
        The total loss, and its weighted L1 part alone, in units of signal.
    """
    error = (predicted - truth).abs() * weights
    weighted = error.mean() / weights.mean()
    down = (predicted.diff(dim=2) - truth.diff(dim=2)).abs().mean()
    across = (predicted.diff(dim=3) - truth.diff(dim=3)).abs().mean()
    return weighted + GRADIENT_SHARE * (down + across), weighted
