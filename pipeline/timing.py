"""How long a synthesis takes and what it needs, beside Stable Diffusion on the same stack.

Each function is called in a process of its own (`node.commands.benching`), so that peak memory is
its own. Stable Diffusion has random weights: none can be reached here, and time does not depend on
them.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Generator
from torch.utils.flop_counter import FlopCounterMode

from pipeline.contrast import ALL_CONTRASTS
from pipeline.geometry import Grid, Volume
from pipeline.intensity import with_neighbors
from pipeline.model.stable_diffusion import Sampling, StableDiffusion, ct_image
from pipeline.reformat import STACK_SHAPE, STACK_SPACING_MM
from pipeline.synthesis import has_bfloat16, load_model, synthesize

TOKENS = 77

Result = TypeVar("Result")


@dataclass(frozen=True)
class Seconds:
    """How long something took.

    Args:
        wall: By the clock.
        processor: Of this process, all threads together: hardly longer on a machine that other
            work shares.
    """

    wall: float
    processor: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.processor + other.processor)

    def __mul__(self, times: float) -> Seconds:
        return Seconds(times * self.wall, times * self.processor)


@dataclass(frozen=True)
class Sizes:
    """Of a Stable Diffusion.

    Args:
        unet: Channels of the levels, all but the last with attention.
        vae: Channels of the levels.
        layers: Of each level.
        cross: Channels of a prompt's embedding.
        heads: Of an attention.
        groups: Of a group normalization.
    """

    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    vae: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    cross: int = 768
    heads: int = 8
    groups: int = 32


SD_1_5 = Sizes()
"""Version 1.5: 860 million parameters and an autoencoder of 84 million."""


@dataclass(frozen=True)
class Machine:
    """What computed, and under what conditions.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        name: Of the processor or the accelerator.
        threads: Of torch.
        dtype: Of the arithmetic.
        peak_flops: What a large matrix product reaches here, in operations a second (of processor
            time on a processor).
        rss_bytes: Highest resident memory of the process.
        device_bytes: Highest memory of the accelerator; 0 without one.
    """

    device: str
    name: str
    threads: int
    dtype: str
    peak_flops: float
    rss_bytes: int
    device_bytes: int


@dataclass(frozen=True)
class BuiltIn:
    """The built-in model, all of it measured.

    Args:
        machine: What computed.
        slices: Of the stack.
        samples: Of the support map.
        parameters: Of the network.
        image_s: T2 and STIR of all slices.
        study_s: Image and support map, from all samples of all slices.
        flops: Of the image, in operations (a multiplication with an addition is two).
    """

    machine: Machine
    slices: int
    samples: int
    parameters: int
    image_s: Seconds
    study_s: Seconds
    flops: int

    @property
    def share_of_peak(self) -> float:
        """Operations a second of image and samples, of what a matrix product reaches."""
        return _share(self.flops * (1 + self.samples), self.study_s, self.machine)


@dataclass(frozen=True)
class OneSlice:
    """Stable Diffusion on one slice and contrast, measured.

    Args:
        machine: What computed.
        steps: Taken.
        parameters: Of network and autoencoder.
        encode_s: The CT into its latent.
        step_s: One step, three evaluations of the network.
        decode_s: The latent into an image.
        step_flops: Of one step.
    """

    machine: Machine
    steps: int
    parameters: int
    encode_s: Seconds
    step_s: Seconds
    decode_s: Seconds
    step_flops: int

    def study_s(self, slices: int, samples: int, steps: int = Sampling().steps) -> Seconds:
        """Extrapolated: every slice in both contrasts, for the image and for each sample."""
        of_contrast = self.step_s * steps + self.decode_s
        return (self.encode_s + of_contrast * len(ALL_CONTRASTS)) * (slices * (1 + samples))

    @property
    def share_of_peak(self) -> float:
        """Operations a second of a step, of what a matrix product reaches."""
        return _share(self.step_flops, self.step_s, self.machine)


def built_in(
    folder: Path | None, shape: tuple[int, int, int], samples: int, device: str | None
) -> BuiltIn:
    """Measure the built-in model on a stack of the given shape, after a run that warms up.

    Args:
        folder: Of the model; none means the built-in weights.
        shape: ``(slice, row, column)``.
        samples: Of the support map; 0 for none.
        device: ``"cpu"``, ``"cuda"``, or none for CUDA where there is one.
    """
    model = load_model(folder, device)
    stack = random_stack(shape)
    with FlopCounterMode(display=False) as counter:
        synthesize(stack, model, samples=0)
    image_s, _ = _timed(model.device, lambda: synthesize(stack, model, samples=0))
    study_s, _ = _timed(model.device, lambda: synthesize(stack, model, samples=samples))
    dtype = torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    return BuiltIn(
        machine=_machine(model.device, dtype),
        slices=shape[0],
        samples=samples,
        parameters=sum(p.numel() for p in model.pipeline.denoiser.parameters()),
        image_s=image_s,
        study_s=study_s,
        flops=counter.get_total_flops(),
    )


def stable_diffusion(
    sizes: Sizes, shape: tuple[int, int, int], steps: int, device: str | None
) -> OneSlice:
    """Measure a Stable Diffusion with random weights on the middle slice of the same stack.

    Args:
        sizes: `SD_1_5`, or smaller for a test.
        shape: ``(slice, row, column)`` of the stack.
        steps: To measure, after one that warms up.
        device: ``"cpu"``, ``"cuda"``, or none for CUDA where there is one.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if has_bfloat16(chosen) else torch.float32
    warm = random_stable_diffusion(sizes, chosen, dtype, Sampling(steps=1))
    model = StableDiffusion(
        warm.vae, warm.unet, warm.scheduler, warm.embeddings, Sampling(steps=steps)
    )
    hu = with_neighbors(torch.tensor(random_stack(shape).values))[shape[0] // 2, None]
    noise = model.noise(shape[1], shape[2], Generator().manual_seed(0))
    with torch.inference_mode():
        ct = warm.encode(ct_image(hu))
        with FlopCounterMode(display=False) as counter:
            warm.denoise(ct, 0, noise)
        encode_s, ct = _timed(chosen, lambda: model.encode(ct_image(hu)))
        denoise_s, latent = _timed(chosen, lambda: model.denoise(ct, 0, noise))
        decode_s, _ = _timed(chosen, lambda: model.decode(latent))
    networks = (model.unet, model.vae)
    return OneSlice(
        machine=_machine(chosen, dtype),
        steps=steps,
        parameters=sum(p.numel() for network in networks for p in network.parameters()),
        encode_s=encode_s,
        step_s=denoise_s * (1 / steps),
        decode_s=decode_s,
        step_flops=counter.get_total_flops(),
    )


def random_stable_diffusion(
    sizes: Sizes, device: str, dtype: torch.dtype, sampling: Sampling
) -> StableDiffusion:
    """A Stable Diffusion of the given sizes with random weights."""
    before = torch.get_default_dtype()
    # made in the precision it runs in: in float32 first, the peak would be twice that of running it
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            vae, unet = build_networks(sizes)
            embeddings = torch.randn((len(ALL_CONTRASTS) + 1, TOKENS, sizes.cross))
    finally:
        torch.set_default_dtype(before)
    return StableDiffusion(
        vae=vae.eval().to(memory_format=torch.channels_last),
        unet=unet.eval().to(memory_format=torch.channels_last),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        embeddings=embeddings,
        sampling=sampling,
    )


def build_networks(sizes: Sizes) -> tuple[AutoencoderKL, UNet2DConditionModel]:
    """Autoencoder and network, on torch's default device and in its default precision."""
    levels = len(sizes.unet)
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=sizes.unet,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        layers_per_block=sizes.layers,
        cross_attention_dim=sizes.cross,
        # the number of heads, whatever diffusers calls it
        attention_head_dim=sizes.heads,
        norm_num_groups=sizes.groups,
    )
    vae = AutoencoderKL(
        block_out_channels=sizes.vae,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae),
        layers_per_block=sizes.layers,
        norm_num_groups=sizes.groups,
    )
    return vae, unet


def random_stack(shape: tuple[int, int, int] = STACK_SHAPE) -> Volume:
    """A stack of HU without any anatomy: neither model takes longer for a neck."""
    values = np.random.default_rng(0).normal(40, 200, shape).astype(np.float32)
    return Volume(values, Grid.from_steps(shape, np.zeros(3), np.diag(STACK_SPACING_MM)), "2.25.0")


def _machine(device: str, dtype: torch.dtype) -> Machine:
    on_cuda = device == "cuda"
    # read first: the product below takes memory of its own
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device_bytes = torch.cuda.max_memory_allocated() if on_cuda else 0
    return Machine(
        device=device,
        name=torch.cuda.get_device_name() if on_cuda else processor(),
        threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        peak_flops=_peak_flops(device, dtype),
        rss_bytes=rss,
        device_bytes=device_bytes,
    )


def _peak_flops(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations a second of a large matrix product, the best of a few."""
    side = 8192 if device == "cuda" else 2048
    matrix = torch.randn((side, side), device=device).to(dtype)
    took = [_timed(device, lambda: matrix @ matrix)[0] for _ in range(repeats)]
    return float(2 * side**3 / min(_busy_s(one, device) for one in took))


def _share(flops: int, took: Seconds, machine: Machine) -> float:
    return flops / _busy_s(took, machine.device) / machine.peak_flops


def _busy_s(took: Seconds, device: str) -> float:
    """Seconds that the device was at it: on a processor not those of other processes."""
    return took.wall if device == "cuda" else took.processor


def _timed(device: str, run: Callable[[], Result]) -> tuple[Seconds, Result]:
    """Seconds of a computation and what it gave; an accelerator is waited for."""
    if device == "cuda":
        torch.cuda.synchronize()
    began, busy = time.perf_counter(), time.process_time()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return Seconds(time.perf_counter() - began, time.process_time() - busy), result


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor calls itself; "unknown" where the system does not say."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"
