"""From a stack to T2, STIR and their spread."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Generator

from pipeline.contrast import ALL_CONTRASTS, Contrast
from pipeline.geometry import Float32, Grid, Volume
from pipeline.model.ensemble import ensemble_spread
from pipeline.phantom import Tissue, patient, render, stack_grid
from pipeline.provenance import digest_folder
from pipeline.support import raw_half_width
from pipeline.synthesis import Model, Synthesis, load_model, synthesize
from tests.pipeline.models import phantom_like_stack, save_tiny
from tests.pipeline.test_support import calibration


def volume(values: Float32) -> Volume:
    grid = Grid.from_steps(values.shape, np.zeros(3), np.diag([3.0, 0.75, 0.75]))
    return Volume(values, grid, "2.25.7")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(save_tiny(tmp_path_factory.mktemp("tiny")), "cpu")


@pytest.fixture(scope="module")
def stack() -> Volume:
    return volume(phantom_like_stack().numpy())


def test_it_says_what_it_is_and_what_made_it(tiny: Model, stack: Volume) -> None:
    done = synthesize(stack, tiny, seed=11, samples=3)
    assert set(done.images) == set(done.spread) == set(ALL_CONTRASTS)
    assert done.grid is stack.grid
    assert done.frame_of_reference_uid == "2.25.7"
    assert (done.seed, done.samples, done.device) == (11, 3, "cpu")
    assert (done.model_name, done.model_version) == ("tiny", "0.1")
    assert done.dtype in ("bfloat16", "float32")
    assert done.timings_s.keys() == {"image", "spread", "support"}
    for values in (*done.images.values(), *done.spread.values(), *done.doubt.values()):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert not values.flags.writeable


def test_two_runs_give_the_same_bytes(tiny: Model, stack: Volume) -> None:
    one, two = (synthesize(stack, tiny, seed=5, samples=2) for _ in range(2))
    for contrast in ALL_CONTRASTS:
        assert one.images[contrast].tobytes() == two.images[contrast].tobytes()
        assert one.spread[contrast].tobytes() == two.spread[contrast].tobytes()


def test_the_seed_moves_the_spread_and_never_the_image(tiny: Model, stack: Volume) -> None:
    one, two = (synthesize(stack, tiny, seed=s, samples=2) for s in (5, 6))
    assert np.array_equal(one.images[Contrast.T2], two.images[Contrast.T2])
    assert not np.array_equal(one.spread[Contrast.T2], two.spread[Contrast.T2])


def test_without_samples_there_is_no_spread(tiny: Model, stack: Volume) -> None:
    assert synthesize(stack, tiny, samples=0).spread == {}


def test_progress_counts_every_slice_of_every_pass(tiny: Model, stack: Volume) -> None:
    told: list[tuple[int, int]] = []
    synthesize(stack, tiny, samples=2, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (15, 15)
    assert told == sorted(told)


@pytest.mark.parametrize("samples", [-1, 1])
def test_a_spread_of_one_sample_is_refused(tiny: Model, stack: Volume, samples: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        synthesize(stack, tiny, samples=samples)


def test_a_size_the_network_cannot_halve_is_refused(tiny: Model) -> None:
    with pytest.raises(ValueError, match="divisible by 16"):
        synthesize(volume(np.zeros((3, 40, 64), np.float32)), tiny)


def test_a_synthesis_that_does_not_fit_its_grid_cannot_be_made(tiny: Model, stack: Volume) -> None:
    done = synthesize(stack, tiny, samples=0)
    wrong = {Contrast.T2: np.zeros((1, 2, 3), np.float32)}
    with pytest.raises(ValueError, match="grid"):
        Synthesis(**{**vars(done), "images": wrong})
    with pytest.raises(ValueError, match="doubt"):
        Synthesis(**{**vars(done), "doubt": {}})


def test_the_spread_is_that_of_the_samples(tiny: Model, stack: Volume) -> None:
    """Computed in the latent and summed up, against the images themselves."""
    hu = torch.tensor(stack.values)
    image, _ = tiny.pipeline.image(hu)
    drawn, summed = (Generator().manual_seed(5) for _ in range(2))
    members = torch.stack([tiny.pipeline.sample(hu, image, drawn) for _ in range(3)])
    spread = ensemble_spread(tiny.pipeline, hu, image, summed, 3)
    assert members.std(dim=0).max() > 0.01
    torch.testing.assert_close(spread, members.std(dim=0), atol=1e-5, rtol=1e-4)


def test_a_calibrated_model_says_where_the_ct_does_not_support_it(
    tmp_path: Path, stack: Volume
) -> None:
    folder = save_tiny(tmp_path)
    assert load_model(folder, "cpu").calibration is None
    calibration(5.0).save(folder)
    model = load_model(folder, "cpu")
    done = synthesize(stack, model, samples=2)
    assert done.support is not None
    assert set(done.support.half_width) == set(ALL_CONTRASTS)
    raw = raw_half_width(done.spread[Contrast.STIR], done.doubt[Contrast.STIR])
    np.testing.assert_allclose(done.support.half_width[Contrast.STIR], 5 * raw, rtol=1e-6)
    assert done.support.unsupported.shape == stack.values.shape
    assert synthesize(stack, model, samples=0).support is None


def test_weights_that_the_digest_does_not_cover_are_not_read(tmp_path: Path) -> None:
    """diffusers takes a pickle where it finds no safetensors: other weights, the same digest."""
    folder = save_tiny(tmp_path)
    (weights,) = (folder / "denoiser").glob("*.safetensors")
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(folder, "cpu")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
        load_model(tmp_path)


def test_the_digest_is_the_folders(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    assert load_model(folder, "cpu").digest == digest_folder(folder)


def test_the_built_in_model_knows_csf_from_cord_and_fat_on_t2_from_fat_on_stir() -> None:
    person = patient(100_007)
    grid = stack_grid(person, shape=(3, 256, 256))
    truth = render(person, grid, supersample=1)
    done = synthesize(Volume(truth.ct, grid, "2.25.7"), load_model(None, "cpu"), samples=0)

    def mean(contrast: Contrast, *tissues: Tissue) -> float:
        return float(done.images[contrast][np.isin(truth.labels, tissues)].mean())

    for contrast in ALL_CONTRASTS:
        cord = mean(contrast, Tissue.CORD, Tissue.CORD_GRAY)
        assert mean(contrast, Tissue.CSF) > cord + 0.2
        assert mean(contrast, Tissue.CORTEX) < 0.2
        assert mean(contrast, Tissue.AIR) < 0.1
    assert mean(Contrast.T2, Tissue.FAT) > 0.5
    assert mean(Contrast.STIR, Tissue.FAT) < 0.2
