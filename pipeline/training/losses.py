"""What the network is punished for.

No adversarial loss: it paints what the distribution of training images expects, findings included
(Cohen et al. 2018, arXiv 1805.08841).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.phantom.tissues import CORD_TISSUES, Tissue

GRADIENT_SHARE = 0.3
"""Weight of the gradient term: sharp thin CSF and cortex without ringing."""

TISSUE_WEIGHTS: dict[Tissue, float] = {
    Tissue.AIR: 0.4,
    # what the reading is about, in the few pixels it has
    Tissue.CSF: 2.5,
    Tissue.CORD: 3.0,
    Tissue.CORD_GRAY: 3.0,
    Tissue.CORD_OEDEMA: 4.0,
    # against CSF at 2.5: where CT cannot tell, the heavier of two neighbors wins
    Tissue.BRAINSTEM: 2.5,
    Tissue.CEREBELLUM: 2.0,
    Tissue.NUCLEUS: 4.0,
    Tissue.ANNULUS: 2.0,
    Tissue.DISC_INJURY: 6.0,
    Tissue.HAEMATOMA: 4.0,
    Tissue.INTERSPINOUS: 2.0,
    Tissue.INTERSPINOUS_OEDEMA: 5.0,
    Tissue.MARROW_OEDEMA: 4.0,
    Tissue.FRACTURE_LINE: 4.0,
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


AROUND_THE_CORD = (Tissue.CSF, Tissue.NERVE, Tissue.BRAINSTEM, Tissue.CEREBELLUM)
"""What touches the cord where nothing is narrowed."""

TOUCHING_WEIGHT = 4.0
"""Of what lies at the cord and is no CSF, where patients with a narrowed canal are trained on. That
is in one row of twenty, and a network that is wrong there alone loses next to nothing; but a rim of
CSF that is not there is what a surgeon must not be shown."""

TOUCHING_PX = 2
"""How near to the cord: 1.5 mm."""

OCCULT_SHARE = 0.2
"""Weight of a lesion that the CT does not show, of what it has otherwise: the CT holds no reason to
draw it, and a network that is punished for leaving it out learns to draw lesions at random. That it
may be there is what the doubt learns, with its full weight."""

DOUBT_QUANTILE = 0.9
"""Of the absolute error; the calibration of the support map scales it."""

CONSISTENCY_SHARE = 0.25
"""Weight of what two scans of one patient, that differ in noise alone, are drawn apart."""

DOUBT_SHARE = 0.5
"""Weight of the doubt's loss. It does not move the image: the error it learns is held fixed."""


def loss_weights(labels: Tensor, ct_labels: Tensor, touching: float = 1.0) -> Tensor:
    """Weights of the image's and of the doubt's loss.

    Args:
        labels: ``(batch, 1, row, column)``, `pipeline.phantom.tissues.Tissue`.
        ct_labels: The same as far as the CT shows it; where they differ, a lesion is occult.
        touching: Of what lies at the cord and is no CSF, times its tissue's own.

    Returns:
        ``(batch, 2, row, column)``: by tissue for the image; for the doubt all tissues alike.
    """
    occult = (labels != ct_labels).float()
    image = _table(labels.device)[labels.long()] * (1 - (1 - OCCULT_SHARE) * occult)
    image = image * (1 + (touching - 1) * _touching(labels))
    doubt = torch.where(labels == Tissue.AIR, TISSUE_WEIGHTS[Tissue.AIR], 1.0)
    return torch.cat((image, doubt), dim=1)


def _touching(labels: Tensor) -> Tensor:
    """1 where something else than CSF lies at the cord, in the slice; 0 elsewhere."""
    cord = _is_one_of(labels, CORD_TISSUES).float()
    size = 2 * TOUCHING_PX + 1
    near = functional.max_pool2d(cord, size, stride=1, padding=TOUCHING_PX)
    return near * ~_is_one_of(labels, (*CORD_TISSUES, *AROUND_THE_CORD))


def _is_one_of(labels: Tensor, tissues: Sequence[Tissue]) -> Tensor:
    return torch.isin(labels, torch.tensor(tissues, device=labels.device, dtype=labels.dtype))


@functools.cache
def _table(device: torch.device) -> Tensor:
    """Weight of each tissue, by its number."""
    weights = [TISSUE_WEIGHTS.get(tissue, 1.0) for tissue in sorted(Tissue)]
    return torch.tensor(weights, device=device)


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


def consistency_loss(predicted: Tensor, weights: Tensor) -> Tensor:
    """Weighted L1 between two scans of the same slices: noise must not draw.

    Args:
        predicted: Signal ``(2 batch, contrast, row, column)``, the second half of the same patients
            under other noise.
        weights: ``(2 batch, 1, row, column)``, both halves alike.
    """
    one, other = predicted.chunk(2)
    ours, _ = weights.chunk(2)
    return ((one - other).abs() * ours).mean() / ours.mean()


def doubt_loss(doubt: Tensor, error: Tensor, weights: Tensor) -> Tensor:
    """Pinball loss (Koenker and Bassett 1978): least where doubt is the quantile of the error.

    Args:
        doubt: ``(batch, contrast, row, column)``, at least 0, in units of signal.
        error: Absolute error of the image, the same shape, without gradient.
        weights: ``(batch, 1, row, column)``.
    """
    short = error - doubt
    pinball = torch.maximum(DOUBT_QUANTILE * short, (DOUBT_QUANTILE - 1) * short)
    return (pinball * weights).mean() / weights.mean()
