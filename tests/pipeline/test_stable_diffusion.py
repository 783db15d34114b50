"""Stable Diffusion from a folder: taught, saved, loaded, run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from pipeline.contrast import ALL_CONTRASTS
from pipeline.geometry import Grid, Volume
from pipeline.model.low_rank import attach, merge, state_of
from pipeline.model.stable_diffusion import (
    CLASS_NAME,
    LORA_FILE,
    Sampling,
    StableDiffusion,
    is_stable_diffusion,
    load_parts,
    load_stable_diffusion,
)
from pipeline.phantom import TrainingPair
from pipeline.provenance import digest_folder
from pipeline.synthesis import load_model, synthesize
from pipeline.training.data import Batch, pair_path, store
from pipeline.training.lora import LoraConfig, LoraTraining, prepare, train_lora
from tests.pipeline.models import phantom_like_stack, save_tiny
from tests.pipeline.tiny_stable_diffusion import CROSS, save_tiny_stable_diffusion

SHORT = Sampling(steps=2)


def load(folder: Path) -> StableDiffusion:
    loaded = load_stable_diffusion(folder, "cpu", torch.float32)
    return dataclasses.replace(loaded, sampling=SHORT)


def batch() -> Batch:
    slices_hu = phantom_like_stack(3, 32)[None].repeat(2, 1, 1, 1)
    signal = torch.rand((2, 2, 32, 32), generator=Generator().manual_seed(1))
    labels = torch.zeros((2, 1, 32, 32), dtype=torch.uint8)
    return Batch(slices_hu, signal, labels, labels.repeat(1, 3, 1, 1))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image base, made wider, and three steps of its LoRA."""
    base = save_tiny_stable_diffusion(tmp_path_factory.mktemp("base"), in_channels=4)
    folder = tmp_path_factory.mktemp("taught")
    prepare(base, folder, seed=0)
    training = LoraTraining(folder, rank=2, learning_rate=1e-2, seed=0)
    for step in range(3):
        training.step(batch(), Generator().manual_seed(step))
    training.save()
    return folder


@pytest.fixture(scope="module")
def stack() -> Tensor:
    return phantom_like_stack(2, 32)


def test_a_step_lowers_the_loss_of_its_own_batch(taught: Path) -> None:
    training = LoraTraining(taught, rank=2, learning_rate=1e-3, seed=0)
    before = training.step(batch(), Generator().manual_seed(7))
    with torch.no_grad():
        after = float(training.loss(batch(), Generator().manual_seed(7)))
    assert after < before


def test_what_was_learned_goes_on_from_the_folder_and_is_merged_alike(taught: Path) -> None:
    training = LoraTraining(taught, rank=2, learning_rate=1e-3, seed=5)
    saved = load_file(taught / LORA_FILE)
    assert all(torch.equal(value, saved[name]) for name, value in state_of(training.unet).items())
    assert any(value.any() for name, value in saved.items() if "lora_B" in name)
    vae, merged, _ = load_parts(taught)
    merge(merged, saved)
    inputs = torch.randn((1, 8, 8, 8), generator=Generator().manual_seed(2))
    prompts = torch.randn((1, 5, CROSS), generator=Generator().manual_seed(3))
    with torch.no_grad():
        one, two = (net(inputs, 10, prompts).sample for net in (training.unet.eval(), merged))
    assert torch.allclose(one, two, atol=1e-5)
    assert vae.config.latent_channels == 4


def test_a_run_goes_from_pairs_to_a_folder_that_loads(tmp_path: Path) -> None:
    ct = phantom_like_stack(3, 32).numpy()
    signal, labels = np.full_like(ct, 0.5), np.zeros(ct.shape, dtype=np.uint8)
    pool = tmp_path / "pool"
    pool.mkdir()
    store(pair_path(pool, 0), TrainingPair(ct, signal, signal, labels, labels))
    base = save_tiny_stable_diffusion(tmp_path / "base", with_contrasts=True)
    config = LoraConfig(base, tmp_path / "out", pool, range(1), steps=2, rank=2)
    told: list[int] = []
    losses = train_lora(config, lambda step, _: told.append(step))
    assert (len(losses), told) == (2, [1, 2])
    assert load(tmp_path / "out").name == "base"
    assert not (base / LORA_FILE).exists()


@pytest.mark.parametrize("with_contrasts", [False, True])
def test_a_folder_has_its_embeddings_whole_or_not_at_all(
    with_contrasts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn, or copied from the base; whoever finds them takes the folder for whole."""
    base = save_tiny_stable_diffusion(tmp_path / "base", with_contrasts=with_contrasts)

    def half(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.lora.save_file", half)
        patch.setattr("pipeline.training.lora.shutil.copyfile", half)
        with pytest.raises(OSError, match="no space"):
            prepare(base, tmp_path / "out", seed=0)
    prepare(base, tmp_path / "out", seed=0)
    assert load(tmp_path / "out").name == "base"


def test_before_it_learns_a_lora_changes_nothing(tmp_path: Path) -> None:
    _, unet, _ = load_parts(save_tiny_stable_diffusion(tmp_path))
    inputs, prompts = torch.ones((1, 8, 8, 8)), torch.ones((1, 5, CROSS))
    with torch.no_grad():
        plain = unet(inputs, 10, prompts).sample
        attach(unet, 2, Generator().manual_seed(0))
        assert torch.equal(plain, unet(inputs, 10, prompts).sample)


def test_two_loads_give_the_same_bytes(taught: Path, stack: Tensor) -> None:
    one, two = (load(taught).image(stack)[0] for _ in range(2))
    assert one.shape == (2, 2, 32, 32)
    assert one.dtype == torch.float32
    assert one.numpy().tobytes() == two.numpy().tobytes()


def test_image_follows_ct_and_contrast_and_samples_follow_the_seed(
    taught: Path, stack: Tensor
) -> None:
    model = load(taught)
    image, doubt = model.image(stack)
    assert not torch.equal(image[:, 0], image[:, 1])
    assert not torch.equal(image, model.image(-stack)[0])
    assert not doubt.any()
    samples = [model.sample(stack, Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    told: list[int] = []
    spread = model.spread(stack, Generator().manual_seed(4), 2, told.append)
    assert spread.shape == image.shape
    assert (spread >= 0).all()
    assert spread.any()
    assert sum(told) == 4


def test_a_synthesis_takes_its_folder_as_it_takes_its_own(tmp_path: Path) -> None:
    folder = save_tiny_stable_diffusion(tmp_path, with_contrasts=True)
    index = {"_class_name": CLASS_NAME, "name": "site", "version": "3", "sampling": {"steps": 2}}
    (folder / "model_index.json").write_text(json.dumps(index))
    model = load_model(folder, "cpu")
    assert str(model.method.unet.dtype) == f"torch.{model.dtype}"
    assert (model.name, model.version, model.digest) == ("site", "3", digest_folder(folder))
    grid = Grid.from_steps((2, 32, 32), np.zeros(3), np.diag([3.0, 0.75, 0.75]))
    volume = Volume(phantom_like_stack(2, 32).numpy(), grid, "2.25.7")
    one, two = (synthesize(volume, model, seed=9, samples=2) for _ in range(2))
    for contrast in ALL_CONTRASTS:
        assert one.images[contrast].tobytes() == two.images[contrast].tobytes()
        assert one.spread[contrast].tobytes() == two.spread[contrast].tobytes()
        assert one.spread[contrast].any()
    with pytest.raises(ValueError, match="pseudomri train"):
        _ = model.pipeline
    (folder / "model_index.json").write_text(json.dumps({**index, "sampling": {"step": 2}}))
    with pytest.raises(ValueError, match="steps, guidance, image_guidance"):
        load_model(folder, "cpu")


def test_a_folder_that_does_not_know_the_contrasts_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_stable_diffusion(tmp_path / "base")
    assert is_stable_diffusion(folder)
    assert not is_stable_diffusion(save_tiny(tmp_path / "own"))
    with pytest.raises(FileNotFoundError, match=r"pipeline\.training\.lora"):
        load(folder)


def test_a_lora_of_another_network_is_refused(taught: Path, tmp_path: Path) -> None:
    _, unet, _ = load_parts(save_tiny_stable_diffusion(tmp_path))
    state = load_file(taught / LORA_FILE)
    state.popitem()
    with pytest.raises(ValueError, match="another network"):
        merge(unet, state)
    with pytest.raises(ValueError, match="the rank of the saved state"):
        LoraTraining(taught, rank=3, learning_rate=1e-3, seed=0)
