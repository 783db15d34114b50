"""The model as one thing: it comes back from disk as it went, and gives the same image twice."""

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intensity import CHANNELS
from pipeline.model.codec import PixelUnshuffleCodec, compressing_codec
from pipeline.model.denoiser import interpolate
from pipeline.model.pipeline import PseudoMRIPipeline
from pipeline.model.scheduler import build_scheduler, noise_fields, set_sigmas
from tests.pipeline.models import phantom_like_stack, save_tiny, tiny_pipeline


@given(
    factor=st.sampled_from([1, 2, 4]),
    blocks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_the_codec_loses_nothing(factor: int, blocks: tuple[int, int], seed: int) -> None:
    codec = PixelUnshuffleCodec(factor=factor)
    shape = (2, 2, blocks[0] * factor, blocks[1] * factor)
    signal = 1.2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    latent = codec.encode(signal)
    assert latent.shape == (2, codec.latent_channels, *blocks)
    torch.testing.assert_close(codec.decode(latent), signal, atol=1e-6, rtol=0)


def test_the_compressing_codec_makes_a_sixteenth_of_the_positions() -> None:
    codec = compressing_codec()
    latent = codec.encode(torch.zeros((1, 2, 32, 32))).latent_dist.mode()
    assert latent.shape == (1, 4, 8, 8)
    assert codec.decode(latent).sample.shape == (1, 2, 32, 32)


def test_saved_and_loaded_it_gives_the_same_image(tmp_path: Path) -> None:
    made = tiny_pipeline()
    made.save_pretrained(tmp_path, safe_serialization=True)
    loaded = PseudoMRIPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    stack = phantom_like_stack()
    torch.testing.assert_close(made(stack), loaded(stack), atol=1e-5, rtol=0)
    assert loaded.config.name == "tiny"
    assert loaded.config.version == "0.1"
    assert loaded.config.spread_sigma == 0.8
    assert not list(tmp_path.rglob("*.bin"))


def test_the_same_weights_are_saved_as_the_same_bytes(tmp_path: Path) -> None:
    one, two = save_tiny(tmp_path / "one"), save_tiny(tmp_path / "two")
    weights = "denoiser/diffusion_pytorch_model.safetensors"
    digests = {hashlib.sha256((f / weights).read_bytes()).hexdigest() for f in (one, two)}
    assert len(digests) == 1


def test_the_image_is_the_same_twice_and_slice_by_slice() -> None:
    pipeline, stack = tiny_pipeline(), phantom_like_stack(slices=6)
    image = pipeline(stack)
    assert torch.equal(image, pipeline(stack))
    for i in (1, 4):
        alone = pipeline(stack[i - 1 : i + 2])[1]
        torch.testing.assert_close(alone, image[i], atol=1e-5, rtol=0)


def test_one_step_from_zero_noise_is_the_prediction_itself() -> None:
    pipeline, stack = tiny_pipeline(), phantom_like_stack()
    inputs: list[torch.Tensor] = []
    pipeline.denoiser.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    pipeline(stack)
    latent = inputs[0][:, CHANNELS * 4 :]
    assert latent.shape[1] == pipeline.codec.latent_channels
    assert not latent.any()


def test_samples_differ_by_seed_only() -> None:
    pipeline, stack = tiny_pipeline(), phantom_like_stack()
    image = pipeline(stack)

    def sample(seed: int) -> torch.Tensor:
        return pipeline.sample(stack, image, torch.Generator().manual_seed(seed))

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_starting_below_level_one_needs_an_image() -> None:
    with pytest.raises(ValueError, match="image to start from"):
        tiny_pipeline()(phantom_like_stack(), sigmas=(0.5,))


def test_the_scheduler_visits_the_levels_it_is_given_and_ends_at_zero() -> None:
    scheduler = build_scheduler()
    set_sigmas(scheduler, (1.0, 0.5))
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(scheduler.timesteps, torch.tensor([1000.0, 500.0]))


@pytest.mark.parametrize("sigmas", [(), (0.5, 0.5), (0.2, 0.6), (1.2,), (1.0, 0.0)])
def test_levels_that_do_not_fall_within_0_and_1_are_refused(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fall strictly"):
        set_sigmas(build_scheduler(), sigmas)


def test_the_noisy_latent_goes_from_image_to_noise() -> None:
    x0, eps = torch.ones(4), torch.full((4,), -1.0)
    assert torch.equal(interpolate(x0, eps, 0.0), x0)
    assert torch.equal(interpolate(x0, eps, 1.0), eps)
    assert torch.equal(interpolate(x0, eps, 0.5), torch.zeros(4))


def test_a_noise_field_has_unit_variance_structure_and_a_seed() -> None:
    def field(seed: int) -> torch.Tensor:
        return noise_fields(1, (8, 64, 64), torch.Generator().manual_seed(seed))[0]

    assert float(field(1).std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(field(1), field(1))
    # pooled over 8 x 8 positions white noise would keep an eighth of its deviation
    coarse = torch.nn.functional.avg_pool2d(field(1)[None], 8).std()
    assert float(coarse) > 0.25
