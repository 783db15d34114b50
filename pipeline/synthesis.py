"""A sagittal CT stack becomes T2 and STIR, and a map of where the model was guessing.

The image is the model's one deterministic step: it depends on the CT and the weights alone. The
seed drives only the ensemble of the spread. The same machine with the same number of threads gives
the same bytes again.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.utils.logging import disable_progress_bar
from torch import Generator, Tensor

from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.geometry import Float32, Grid, Volume
from pipeline.model.ensemble import ensemble_spread
from pipeline.model.pipeline import PseudoMRIPipeline
from pipeline.model.stable_diffusion import (
    StableDiffusion,
    is_stable_diffusion,
    load_stable_diffusion,
)
from pipeline.provenance import digest_folder
from pipeline.support import Calibration, SupportMap, support_map

SAMPLES = 8
"""Enough that the standard deviation of a pixel is known to a quarter of itself."""

BUILT_IN = "weights"
"""Folder inside the package."""

Progress = Callable[[int, int], None]
"""Told slices done and slices in all, over the image and every sample."""


@dataclass(frozen=True, eq=False)
class Model:
    """Weights in memory, ready for one device.

    Args:
        method: What draws the images.
        name: From the folder's ``model_index.json``.
        version: From there too.
        digest: `pipeline.provenance.digest_folder` of the folder.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: Of the arithmetic, ``"bfloat16"`` or ``"float32"``; it changes the last digits, so
            it goes on record.
        calibration: From the folder; None when its support is not calibrated.
    """

    method: PseudoMRIPipeline | StableDiffusion
    name: str
    version: str
    digest: str
    device: str
    dtype: str
    calibration: Calibration | None = None

    @property
    def pipeline(self) -> PseudoMRIPipeline:
        """The method, for what Stable Diffusion cannot do: other steps, its codec, its doubt.

        Raises:
            ValueError: When this is Stable Diffusion.
        """
        if isinstance(self.method, StableDiffusion):
            raise ValueError(f"expected a model of `pseudomri train`, {self.name} is another kind")
        return self.method


@dataclass(frozen=True, eq=False)
class Synthesis:
    """The pseudo-MRI of a stack and what it was made with.

    Args:
        images: Signal relative to CSF = 1, ``(slice, row, column)`` float32, of every contrast,
            whichever are delivered: one pass gives all, and each is judged by all of them.
        spread: Standard deviation of the ensemble in the same unit and shape; empty when no
            samples were drawn.
        doubt: The quantile of its absolute error that the model itself expects, in the same unit
            and shape; 0 from a model that does not tell.
        support: Where the CT does not support the image; None when the model is not calibrated or
            no samples were drawn.
        grid: Of images, spread and doubt alike.
        frame_of_reference_uid: (0020,0052), the CT's.
        seed: Of the ensemble.
        samples: Members of the ensemble.
        device: What computed it.
        dtype: Of the arithmetic.
        model_name: Of the weights.
        model_version: Of the weights.
        model_digest: Of the model folder.
        timings_s: Seconds of each part.

    Raises:
        ValueError: When an array does not fit the grid, or spread and samples disagree.
    """

    images: Mapping[Contrast, Float32]
    spread: Mapping[Contrast, Float32]
    doubt: Mapping[Contrast, Float32]
    support: SupportMap | None
    grid: Grid
    frame_of_reference_uid: str
    seed: int
    samples: int
    device: str
    dtype: str
    model_name: str
    model_version: str
    model_digest: str
    timings_s: Mapping[str, float]

    def __post_init__(self) -> None:
        for kind in (self.images, self.spread, self.doubt):
            for contrast, values in kind.items():
                if values.shape != self.grid.shape or values.dtype != "float32":
                    found = f"{values.dtype} {values.shape}"
                    raise ValueError(f"{contrast} is {found}, the grid is {self.grid.shape}")
        if not self.images or (self.samples > 0 and self.spread.keys() != self.images.keys()):
            raise ValueError("a synthesis has images, and a spread for each that was sampled")
        if self.doubt.keys() != self.images.keys():
            raise ValueError("a synthesis has a doubt for each of its images")


def load_model(folder: Path | None = None, device: str | None = None) -> Model:
    """Load a model folder.

    Args:
        folder: As `PseudoMRIPipeline.save_pretrained` or `pipeline.training.lora` wrote it; none
            means the built-in weights.
        device: ``"cpu"``, ``"cuda"``, or none for CUDA where there is one.

    Raises:
        FileNotFoundError: When the folder holds no model.
        ValueError: For another device, or parts that do not fit each other.
    """
    if folder is None:
        with importlib.resources.as_file(importlib.resources.files("pipeline") / BUILT_IN) as own:
            return load_model(own, device)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"no model in {folder}: model_index.json is missing; name a folder written by "
            f"`pseudomri train`"
        )
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen not in ("cpu", "cuda"):
        raise ValueError(f"expected device cpu or cuda, found {chosen}")
    # three components load in a blink; their progress bar would only litter logs
    disable_progress_bar()
    dtype = torch.bfloat16 if has_bfloat16(chosen) else torch.float32
    if is_stable_diffusion(folder):
        method = load_stable_diffusion(folder, chosen, dtype)
        name, version = method.name, method.version
    else:
        method = _load_pipeline(folder, chosen)
        name, version = method.config.name, method.config.version
    return Model(
        method=method,
        name=name,
        version=version,
        digest=digest_folder(folder),
        device=chosen,
        dtype=str(dtype).removeprefix("torch."),
        calibration=Calibration.load(folder),
    )


def _load_pipeline(folder: Path, device: str) -> PseudoMRIPipeline:
    pipeline: PseudoMRIPipeline = PseudoMRIPipeline.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        low_cpu_mem_usage=False,
        # Its digest covers these files; a pickle beside them would run code, too.
        use_safetensors=True,
    ).to(device)
    pipeline.denoiser.eval().to(memory_format=torch.channels_last)
    return pipeline


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated it is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16", False) or can.get("amx_bf16", False))


def synthesize(
    stack: Volume,
    model: Model,
    *,
    seed: int = 0,
    samples: int = SAMPLES,
    progress: Progress | None = None,
) -> Synthesis:
    """Synthesize a sagittal stack.

    Args:
        stack: CT in HU as `pipeline.reformat` makes it, ``(slice, row, column)``; rows and columns
            divisible by 16.
        model: As `load_model` gives it.
        seed: Of the ensemble, 0..2**63 - 1.
        samples: Members of the ensemble; 0 for no spread, else at least 2.
        progress: Told after every batch of slices.

    Raises:
        ValueError: When samples is 1 or negative, or the size is wrong.
    """
    if samples < 0 or samples == 1:
        raise ValueError(f"expected 0 or at least 2 samples, found {samples}")
    if stack.grid.shape[1] % 16 or stack.grid.shape[2] % 16:
        raise ValueError(f"rows and columns must be divisible by 16, found {stack.grid.shape}")
    tell = _Counter(len(stack.values) * (1 + samples), progress)
    hu = torch.tensor(stack.values)
    with _reproducible(model):
        began = time.perf_counter()
        image, doubt = model.method.image(hu, on_slices=tell)
        imaged = time.perf_counter()
        # on the CPU, so that a seed means the same on every device
        generator = Generator().manual_seed(seed)
        spread = _spread(model, hu, image, generator, samples, tell) if samples else None
        sampled = time.perf_counter()
    support = _support(spread, doubt, model.calibration)
    return Synthesis(
        images=_by_contrast(image),
        spread={} if spread is None else _by_contrast(spread),
        doubt=_by_contrast(doubt),
        support=support,
        grid=stack.grid,
        frame_of_reference_uid=stack.frame_of_reference_uid,
        seed=seed,
        samples=samples,
        device=model.device,
        dtype=model.dtype,
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
        timings_s={
            "image": imaged - began,
            "spread": sampled - imaged,
            "support": time.perf_counter() - sampled,
        },
    )


def _spread(
    model: Model,
    hu: Tensor,
    image: Tensor,
    generator: Generator,
    samples: int,
    tell: Callable[[int], None],
) -> Tensor:
    """Standard deviation over samples, ``(slice, contrast, row, column)``."""
    if isinstance(model.method, StableDiffusion):
        return model.method.spread(hu, generator, samples, tell)
    return ensemble_spread(model.method, hu, image, generator, samples, tell)


def _support(
    spread: Tensor | None, doubt: Tensor, calibration: Calibration | None
) -> SupportMap | None:
    if spread is None or calibration is None:
        return None
    return support_map(_by_contrast(spread), _by_contrast(doubt), calibration)


def _by_contrast(values: Tensor) -> dict[Contrast, Float32]:
    """Split ``(slice, contrast, row, column)``; each array is whole, own and read-only."""
    out: dict[Contrast, Float32] = {}
    for contrast in ALL_CONTRASTS:
        own = values[:, ALL_CONTRASTS.index(contrast)].contiguous().numpy().copy()
        own.setflags(write=False)
        out[contrast] = own
    return out


class _Counter:
    """Adds up slices for the caller's progress bar."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, slices: int) -> None:
        self._done += slices
        if self._progress is not None:
            self._progress(self._done, self._total)


@contextlib.contextmanager
def _reproducible(model: Model) -> Iterator[None]:
    """The model's arithmetic, and only kernels that add in a fixed order where torch has them."""
    # read by cuBLAS when it starts; harmless on a CPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    # an aid for finding uninitialized reads, which would write every tensor once more than needed
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    half = model.dtype == "bfloat16"
    try:
        with torch.autocast(model.device, dtype=torch.bfloat16, enabled=half):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
