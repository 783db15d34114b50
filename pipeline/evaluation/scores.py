"""How good is it on phantoms it has never seen, tissue by tissue, and against what baseline.

Phantom figures say how well the phantom was learned. They are no claim about patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.geometry import Float32, Volume
from pipeline.phantom import TrainingPair, patient, stack_grid
from pipeline.phantom.tissues import Tissue
from pipeline.synthesis import Model, synthesize

Images = Mapping[Contrast, Float32]
Method = Callable[[Float32], Images]
"""From a CT stack in HU to signal, ``(slice, row, column)`` each."""

NOISE_HU = 10.0
"""The phantom's CT is clean; a soft kernel at 3 mm leaves about this much, a little correlated."""

LOOKUP_BLUR_PX = 1.0
LOOKUP_STEP_HU = 10
LOOKUP_RANGE_HU = (-1024, 1600)

REPORTED: tuple[Tissue, ...] = (
    Tissue.CSF,
    Tissue.CORD,
    Tissue.CORD_OEDEMA,
    Tissue.NUCLEUS,
    Tissue.ANNULUS,
    Tissue.DISC_INJURY,
    Tissue.MARROW,
    Tissue.MARROW_OEDEMA,
    Tissue.CORTEX,
    Tissue.LIGAMENT,
    Tissue.HAEMATOMA,
    Tissue.INTERSPINOUS,
    Tissue.INTERSPINOUS_OEDEMA,
    Tissue.EPIDURAL_FAT,
    Tissue.FAT,
    Tissue.MUSCLE,
    Tissue.ARTERY,
    Tissue.CEREBELLUM,
)


@dataclass(frozen=True)
class Score:
    """One method in one contrast and one tissue, over all held-out phantoms.

    Args:
        contrast: Of the image.
        tissue: Name of the tissue, or ``"BODY"`` for everything but air.
        mae: Mean absolute error, signal relative to CSF = 1.
        psnr_db: Peak signal to noise ratio with peak 1, from the same pixels.
        ssim: Structural similarity, mean of the map over the same pixels.
        true_mean: Mean true signal.
        mean: Mean predicted signal; far below the truth means the tissue fades.
        pixels: Evaluated.
    """

    contrast: Contrast
    tissue: str
    mae: float
    psnr_db: float
    ssim: float
    true_mean: float
    mean: float
    pixels: int


def evaluate(method: Method, pairs: Iterable[TrainingPair], seed: int = 0) -> list[Score]:
    """Score a method on phantoms whose CT is given a scanner's noise first.

    Args:
        method: From HU to signal.
        pairs: Held-out phantoms.
        seed: Of the noise, so that every method sees the same.
    """
    rng = np.random.default_rng(seed)
    tally = Tally()
    for pair in pairs:
        tally.add(method(noisy(pair.ct, rng)), pair)
    return tally.scores()


class Tally:
    """Adds up one method's scores, phantom by phantom."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Contrast, str], _Sums] = {}

    def add(self, images: Images, pair: TrainingPair) -> None:
        """Compare the images of one phantom with its truth."""
        masks = {"BODY": pair.labels != Tissue.AIR}
        masks |= {tissue.name: pair.labels == tissue for tissue in REPORTED}
        for contrast, truth in ((Contrast.T2, pair.t2), (Contrast.STIR, pair.stir)):
            similarity = ssim_map(images[contrast], truth)
            for name, mask in masks.items():
                total = self._sums.setdefault((contrast, name), _Sums())
                total.add(images[contrast][mask], truth[mask], similarity[mask])

    def scores(self) -> list[Score]:
        """One score for each contrast and tissue that was there."""
        return [total.score(*key) for key, total in self._sums.items() if total.pixels]


class _Sums:
    """Running sums over phantoms, so that none has to stay in memory."""

    def __init__(self) -> None:
        self.pixels = 0
        self.absolute = self.squared = self.similarity = self.true = self.predicted = 0.0

    def add(self, image: Float32, truth: Float32, similarity: Float32) -> None:
        error = image.astype(np.float64) - truth
        self.pixels += error.size
        self.absolute += float(np.abs(error).sum())
        self.squared += float((error**2).sum())
        self.similarity += float(similarity.sum(dtype=np.float64))
        self.true += float(truth.sum(dtype=np.float64))
        self.predicted += float(image.sum(dtype=np.float64))

    def score(self, contrast: Contrast, tissue: str) -> Score:
        n = self.pixels
        return Score(
            contrast,
            tissue,
            mae=self.absolute / n,
            psnr_db=float(-10 * np.log10(max(self.squared / n, 1e-12))),
            ssim=self.similarity / n,
            true_mean=self.true / n,
            mean=self.predicted / n,
            pixels=n,
        )


def noisy(ct: Float32, rng: np.random.Generator) -> Float32:
    """The CT with `NOISE_HU` of noise, correlated over a pixel like a soft kernel's."""
    noise = gaussian_filter(rng.standard_normal(ct.shape), (0, 0.6, 0.6))
    out: Float32 = (ct + NOISE_HU * noise / noise.std()).astype(np.float32)
    return out


def ssim_map(image: Float32, truth: Float32) -> Float32:
    """Structural similarity of each pixel, slice by slice (Wang et al. 2004, eq. 13; peak 1)."""
    sigma = (0, 1.5, 1.5)
    c1, c2 = 0.01**2, 0.03**2

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, sigma))

    x, y = image.astype(np.float64), truth.astype(np.float64)
    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2
    cov = mean(x * y) - mu_x * mu_y
    top = (2 * mu_x * mu_y + c1) * (2 * cov + c2)
    out: Float32 = (top / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))).astype(np.float32)
    return out


def model_method(model: Model) -> Method:
    """The model's deterministic image."""

    def run(ct: Float32) -> Images:
        # only pixels are compared: where the stack lies is of no meaning here
        stack = Volume(ct, stack_grid(patient(0), shape=ct.shape), "2.25.1")
        return synthesize(stack, model, samples=0).images

    return run


def lookup_method(pairs: Iterable[TrainingPair], seed: int = 1) -> Method:
    """The baseline to beat: the mean signal of every HU, learned from training phantoms.

    Args:
        pairs: Training phantoms, not the held-out ones.
        seed: Of their noise.
    """
    edges = np.arange(*LOOKUP_RANGE_HU, LOOKUP_STEP_HU)
    rng = np.random.default_rng(seed)
    counts = np.zeros(len(edges) + 1)
    sums = np.zeros((len(ALL_CONTRASTS), len(edges) + 1))
    for pair in pairs:
        bins = _bins(noisy(pair.ct, rng), edges)
        counts += np.bincount(bins, minlength=len(counts))
        for i, truth in enumerate((pair.t2, pair.stir)):
            sums[i] += np.bincount(bins, weights=truth.ravel(), minlength=len(counts))
    table = sums / np.maximum(counts, 1)

    def run(ct: Float32) -> Images:
        bins = _bins(ct, edges)
        return {
            contrast: table[i][bins].reshape(ct.shape).astype(np.float32)
            for i, contrast in enumerate(ALL_CONTRASTS)
        }

    return run


def _bins(ct: Float32, edges: NDArray[np.int_]) -> NDArray[np.intp]:
    """HU bin of each pixel, after the blur that a table of single pixels needs against noise."""
    return np.digitize(gaussian_filter(ct, (0, LOOKUP_BLUR_PX, LOOKUP_BLUR_PX)).ravel(), edges)


def table(scores: Mapping[str, list[Score]]) -> str:
    """Markdown of several methods, one row per tissue and contrast.

    Args:
        scores: By name of the method; all have the same rows.
    """
    names = list(scores)
    head = [f"{n} {what}" for n in names for what in ("MAE", "PSNR dB", "SSIM", "mean")]
    lines = ["| tissue | contrast | true mean | " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * (3 + len(head)))
    for row in zip(*scores.values(), strict=True):
        cells = [f"{s.mae:.3f} | {s.psnr_db:.1f} | {s.ssim:.3f} | {s.mean:.2f}" for s in row]
        first = row[0]
        label = first.tissue.lower().replace("_", " ")
        lines.append(
            f"| {label} | {first.contrast.value} | {first.true_mean:.2f} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)
