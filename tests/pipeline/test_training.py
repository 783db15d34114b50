"""Training: the loss falls, and a killed run goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluation.scores import evaluate, lookup_method, noisy, ssim_map, table
from pipeline.intensity import blur
from pipeline.model.pipeline import PseudoMRIPipeline
from pipeline.phantom import PHANTOM_VERSION, Tissue, TrainingPair, patient
from pipeline.provenance import digest_folder
from pipeline.synthesis import load_model
from pipeline.training.augment import Augmentation, augment, blur_each
from pipeline.training.codec_study import Reconstruction, study_table
from pipeline.training.data import (
    HELD_OUT_FROM,
    NARROWED_FROM,
    NARROWING,
    Batch,
    Pool,
    load,
    pair_path,
    store,
    training_patient,
)
from pipeline.training.loop import CannotTrain, Run, TrainingConfig, train
from pipeline.training.losses import (
    DOUBT_QUANTILE,
    OCCULT_SHARE,
    TISSUE_WEIGHTS,
    TOUCHING_WEIGHT,
    consistency_loss,
    doubt_loss,
    loss_weights,
    reconstruction_loss,
)
from tests.pipeline.models import TINY_WIDTHS

CROP = 32


def fake_pair(seed: int, size: int = 48) -> TrainingPair:
    """A bright canal with a gray cord in muscle: enough for a network to learn in seconds."""
    rng = np.random.default_rng(seed)
    labels = np.full((5, size, size), Tissue.MUSCLE, np.uint8)
    left = int(rng.integers(10, 22))
    labels[:, :, left : left + 14] = Tissue.CSF
    labels[:, :, left + 4 : left + 10] = Tissue.CORD
    hu, t2, stir = np.zeros((3, len(Tissue)), np.float32)
    for tissue, row in {
        Tissue.MUSCLE: (55, 0.2, 0.2),
        Tissue.CSF: (10, 1.0, 1.0),
        Tissue.CORD: (38, 0.4, 0.4),
    }.items():
        hu[tissue], t2[tissue], stir[tissue] = row
    return TrainingPair(hu[labels], t2[labels], stir[labels], labels, labels.copy())


@pytest.fixture(scope="module")
def pool_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for seed in range(4):
        store(pair_path(folder, seed), fake_pair(seed))
    return folder


def config(work_dir: Path, pool_dir: Path, **changes: object) -> TrainingConfig:
    settings: dict[str, object] = {
        "work_dir": work_dir,
        "pool_dir": pool_dir,
        "steps": 40,
        "batch": 1,
        "widths": TINY_WIDTHS,
        "augmentation": Augmentation(crop_px=CROP, noise_hu=(1.0, 4.0)),
        "learning_rate": 5e-3,
        "warmup_steps": 5,
        "makers": 0,
        "min_pairs": 2,
    }
    return TrainingConfig(**(settings | changes))  # type: ignore[arg-type]


def test_a_pair_comes_back_from_disk(tmp_path: Path) -> None:
    pair = fake_pair(1)
    store(pair_path(tmp_path, 1), pair)
    back = load(pair_path(tmp_path, 1))
    assert np.abs(back.ct - pair.ct).max() <= 0.5
    assert np.abs(back.t2 - pair.t2).max() <= 1 / 2000
    assert np.array_equal(back.labels, pair.labels)
    assert [p.name for p in tmp_path.iterdir()] == [f"000001.v{PHANTOM_VERSION}.npy"]


def test_the_pool_takes_up_its_own_seeds_as_they_appear(tmp_path: Path) -> None:
    pool = Pool(tmp_path, range(0, 10))
    with pytest.raises(LookupError, match="no phantom pairs"):
        pool.draw(1, torch.Generator())
    for seed in (3, 12):
        store(pair_path(tmp_path, seed), fake_pair(seed))
    assert pool.refresh() == 1
    batch = pool.draw(3, torch.Generator().manual_seed(0))
    assert batch.slices_hu.shape == (3, 3, 48, 48)
    assert batch.signal.shape == (3, 2, 48, 48)
    assert batch.labels.dtype == torch.uint8


def test_augmentation_moves_truth_and_weights_with_the_ct(pool_dir: Path) -> None:
    pool = Pool(pool_dir, range(10))
    pool.refresh()
    rng = torch.Generator().manual_seed(4)
    batch = pool.draw(6, rng)
    how = Augmentation(
        crop_px=CROP,
        tissue_hu=0,
        nervous_hu=0,
        csf_hu=0,
        marrow_hu=0,
        foam_hu=0,
        bone_loss_hu=0,
        noise_hu=(1e-3, 2e-3),
        field_hu=0,
    )
    weights = loss_weights(batch.labels, batch.ct_labels[:, 1:2])
    hu, signal, moved = augment(batch, weights, how, rng)
    assert hu.shape == (6, 3, CROP, CROP)
    assert signal.shape == (6, 2, CROP, CROP)
    # bright truth lies where the CT shows the canal's low HU, whatever was done to both
    for one_hu, one_signal in zip(hu[:, 1], signal[:, 0], strict=True):
        inside = one_hu > 0
        bright = one_hu[(one_signal > 0.9) & inside].mean()
        dark = one_hu[(one_signal < 0.3) & inside].mean()
        assert bright < dark
    assert moved.min() > 0


def test_augmentation_follows_its_generator_alone(pool_dir: Path) -> None:
    pool = Pool(pool_dir, range(10))
    pool.refresh()

    def once(seed: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        batch: Batch = pool.draw(2, rng)
        weights = loss_weights(batch.labels, batch.ct_labels[:, 1:2])
        return augment(batch, weights, Augmentation(crop_px=CROP), rng)[0]

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


def test_scans_of_a_patient_differ_in_their_noise_alone(pool_dir: Path) -> None:
    pool = Pool(pool_dir, range(10))
    pool.refresh()

    def scanned(noise_hu: tuple[float, float]) -> tuple[torch.Tensor, ...]:
        rng = torch.Generator().manual_seed(2)
        batch = pool.draw(3, rng)
        weights = loss_weights(batch.labels, batch.ct_labels[:, 1:2])
        how = Augmentation(crop_px=CROP, noise_hu=noise_hu, streak_hu=(1e-4, 2e-4))
        return augment(batch, weights, how, rng, scans=2)

    for planes in scanned((5.0, 10.0))[1:]:
        one, other = planes.chunk(2)
        assert torch.equal(one, other)
    one, other = scanned((5.0, 10.0))[0].chunk(2)
    assert 3 < float((one - other).std()) < 60
    one, other = scanned((1e-4, 2e-4))[0].chunk(2)
    torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_every_sample_is_blurred_by_its_own_width() -> None:
    image = torch.randn((3, 2, 20, 20), generator=torch.Generator().manual_seed(0))
    widths = torch.tensor([0.0, 0.5, 1.1]).view(-1, 1, 1, 1)
    blurred = blur_each(image, widths)
    torch.testing.assert_close(blurred[0], image[0])
    for index in (1, 2):
        # the other one cuts its kernel at 3 sigma
        expected = blur(image[index : index + 1], float(widths[index]))[0]
        torch.testing.assert_close(blurred[index], expected, atol=0.02, rtol=0)


def test_what_noise_draws_apart_costs() -> None:
    one = torch.rand((2, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    weights = torch.ones((4, 1, 8, 8))
    weights[:, :, :4] = 3
    assert float(consistency_loss(torch.cat((one, one)), weights)) == 0
    apart = torch.cat((one, one + 0.1))
    assert float(consistency_loss(apart, weights)) == pytest.approx(0.1, abs=1e-6)
    # where the weight is 3 of a mean of 2, half of the picture counts for three quarters
    other = one.clone()
    other[:, :, :4] += 0.1
    assert float(consistency_loss(torch.cat((one, other)), weights)) == pytest.approx(0.075)


def test_an_occult_lesion_costs_the_image_little_and_the_doubt_all() -> None:
    healthy = torch.full((1, 1, 2, 2), int(Tissue.NUCLEUS))
    torn = torch.full((1, 1, 2, 2), int(Tissue.DISC_INJURY))
    visible, occult = loss_weights(torn, torn), loss_weights(torn, healthy)
    torch.testing.assert_close(occult[:, 0], OCCULT_SHARE * visible[:, 0])
    assert torch.equal(occult[:, 1], visible[:, 1])


def test_the_doubt_that_costs_least_is_the_quantile_of_the_error() -> None:
    error = torch.rand((1, 1, 100, 100), generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(error)
    tried = torch.linspace(0, 1, 101)
    costs = [float(doubt_loss(one * ones, error, ones)) for one in tried]
    assert float(tried[int(np.argmin(costs))]) == pytest.approx(DOUBT_QUANTILE, abs=0.02)


def test_a_perfect_prediction_costs_nothing_and_weights_only_shift_the_blame() -> None:
    truth = torch.rand((1, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    weights = torch.ones((1, 1, 8, 8))
    assert float(reconstruction_loss(truth, truth, weights)[0]) == 0
    off = truth + 0.1
    _, even = reconstruction_loss(off, truth, weights)
    _, doubled = reconstruction_loss(off, truth, 2 * weights)
    assert float(even) == pytest.approx(0.1, abs=1e-6)
    assert float(doubled) == pytest.approx(0.1, abs=1e-6)


def test_the_loss_falls_and_the_model_loads(tmp_path: Path, pool_dir: Path) -> None:
    folder = train(config(tmp_path, pool_dir, steps=150))
    losses = [json.loads(x)["loss"] for x in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]
    model = PseudoMRIPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    assert model.config.version == "1"


def test_phantoms_are_made_beside_the_training_by_several_processes(tmp_path: Path) -> None:
    pool_dir = tmp_path / "pool"
    train(config(tmp_path, pool_dir, seeds=range(2), steps=1, makers=2, min_pairs=2))
    made = [pair_path(pool_dir, seed) for seed in (0, 1, HELD_OUT_FROM)]
    assert sorted(pool_dir.iterdir()) == made
    assert list((tmp_path / "pictures").iterdir())


@pytest.mark.parametrize("makers", [0, 1])
def test_training_ends_when_nobody_is_left_who_makes_phantoms(
    tmp_path: Path, makers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a folder that the makers cannot use, once the picture's phantom is not asked for
    monkeypatch.setattr("pipeline.training.loop.fill", lambda *_: None)
    pool = tmp_path / "pool"
    pool.write_text("no folder")
    with pytest.raises(CannotTrain, match="expected 2 phantom pairs, found 0"):
        train(config(tmp_path, pool, steps=1, makers=makers))


def test_a_checkpoint_of_the_other_kind_is_not_resumed(tmp_path: Path, pool_dir: Path) -> None:
    Run(config(tmp_path, pool_dir)).save()
    with pytest.raises(CannotTrain, match="is_plain=True"):
        Run(config(tmp_path, pool_dir, is_plain=True))


def test_a_run_needs_exactly_one_budget(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="minutes or in steps"):
        TrainingConfig(work_dir=tmp_path)
    with pytest.raises(ValueError, match="minutes or in steps"):
        TrainingConfig(work_dir=tmp_path, minutes=1, steps=1)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, pool_dir: Path) -> None:
    def finished(folder: Path, *stops: int) -> dict[str, torch.Tensor]:
        pool = Pool(pool_dir, range(10))
        pool.refresh()
        for stop in stops:
            run = Run(config(folder, pool_dir, steps=6))
            while run.step < stop:
                run.take_step(pool)
            run.save()
        return run.average

    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, parts = finished(tmp_path / "whole", 6), finished(tmp_path / "parts", 2, 6)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=0)


CHILD = """
import sys
from pathlib import Path
from pipeline.training.loop import train
from tests.pipeline.test_training import config
train(config(Path(sys.argv[1]), Path(sys.argv[2]), steps=100000, checkpoint_minutes=1e-9))
"""


def test_killed_in_the_middle_it_goes_on_from_its_checkpoint(
    tmp_path: Path, pool_dir: Path
) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(pool_dir)]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=dict(os.environ))
    try:
        deadline = time.monotonic() + 300
        losses = tmp_path / "losses.jsonl"
        while not losses.exists() and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    # it saves after every step, so the kill most likely fell into a save; the checkpoint is whole
    resumed = Run(config(tmp_path, pool_dir, steps=100_000))
    begun_at = resumed.step
    assert begun_at >= 24
    train(config(tmp_path, pool_dir, steps=begun_at + 30))
    assert Run(config(tmp_path, pool_dir, steps=1)).step == begun_at + 30
    steps = [json.loads(line)["step"] for line in losses.read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_a_save_that_dies_leaves_the_old_checkpoint(
    tmp_path: Path, pool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(config(tmp_path, pool_dir))
    run.step = 7
    run.save()

    def half(_: object, sink: object) -> None:
        sink.write(b"half a checkpoint")  # type: ignore[attr-defined]
        raise OSError("no space left on device")

    monkeypatch.setattr("pipeline.training.loop.torch.save", half)
    run.step = 8
    with pytest.raises(OSError, match="no space"):
        run.save()
    assert Run(config(tmp_path, pool_dir)).step == 7


def logged(folder: Path, *steps: int, torn: str = "") -> Path:
    """The losses on disk of a run that was killed while it wrote."""
    losses = folder / "losses.jsonl"
    losses.write_text("".join(f'{{"step": {step}}}\n' for step in steps) + torn)
    return losses


def test_a_line_of_losses_that_a_kill_cut_off_is_forgotten(tmp_path: Path, pool_dir: Path) -> None:
    losses = logged(tmp_path, 25, 50, torn='{"step": 7')
    Run(config(tmp_path, pool_dir))
    assert losses.read_text() == ""  # without a checkpoint it begins anew
    run = Run(config(tmp_path, pool_dir))
    run.step = 30
    run.save()
    logged(tmp_path, 25, 50, torn='{"step": 7')
    Run(config(tmp_path, pool_dir))
    assert losses.read_text() == '{"step": 25}\n'
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "losses.jsonl"}


def test_a_resumption_that_dies_keeps_the_losses(
    tmp_path: Path, pool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(config(tmp_path, pool_dir))
    run.step = 25
    run.save()
    losses = logged(tmp_path, 25, 50)

    def half(path: Path, text: str) -> None:
        path.write_bytes(text[:5].encode())
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="no space"):
            Run(config(tmp_path, pool_dir))
    assert losses.read_text() == '{"step": 25}\n{"step": 50}\n'
    Run(config(tmp_path, pool_dir))
    assert losses.read_text() == '{"step": 25}\n'


def test_evaluation_knows_a_perfect_method_from_a_lookup_table() -> None:
    pairs = [fake_pair(seed) for seed in range(3)]
    lookup = evaluate(lookup_method(pairs), pairs)
    truths = iter(pairs)

    def perfect(_: object) -> dict[object, object]:
        pair = next(truths)
        return {"T2": pair.t2, "STIR": pair.stir}

    best = evaluate(perfect, pairs)  # type: ignore[arg-type]
    assert all(s.mae == 0 and s.ssim == pytest.approx(1) for s in best)
    csf = next(s for s in lookup if s.tissue == "CSF" and s.contrast == "T2")
    assert csf.mae > 0.01
    assert csf.true_mean == pytest.approx(1)
    text = table({"perfect": best, "lookup": lookup})
    assert "| csf | T2 | 1.00 |" in text


def test_similarity_is_one_for_equals_and_less_for_noise() -> None:
    pair = fake_pair(0)
    assert ssim_map(pair.t2, pair.t2).min() == pytest.approx(1)
    assert ssim_map(noisy(100 * pair.t2, np.random.default_rng(0)) / 100, pair.t2).mean() < 0.95


def test_the_codec_study_prints_a_row_for_each_tissue() -> None:
    rows = [Reconstruction("CSF", "T2", 0.02, 0.0), Reconstruction("CORD", "T2", 0.01, 0.0)]
    text = study_table(rows)
    assert text.count("\n") == 3
    assert "| csf | T2 | 0.0200 | 0.0000 |" in text


def test_half_of_what_is_drawn_has_a_narrowed_canal(tmp_path: Path) -> None:
    narrowed = range(NARROWED_FROM, NARROWED_FROM + 2)
    for seed in (0, 1, 2, narrowed[0]):
        pair = fake_pair(seed)
        # told from the others by its signal
        marked = replace(pair, t2=np.full_like(pair.t2, 0.5)) if seed in narrowed else pair
        store(pair_path(tmp_path, seed), marked)
    pool = Pool(tmp_path, range(10), narrowed=narrowed)
    assert pool.refresh() == 4
    batch = pool.draw(400, torch.Generator().manual_seed(0))
    share = (batch.signal[:, 0].flatten(1).std(dim=1) < 1e-3).float().mean()
    assert 0.4 < float(share) < 0.6


def test_the_patients_of_the_narrowed_seeds_have_their_canal_narrowed() -> None:
    people = [training_patient(seed) for seed in range(NARROWED_FROM, NARROWED_FROM + 60)]
    first = [person.findings[0] for person in people]
    kinds = {injury.finding for person in people for injury in person.findings}
    assert all(any(i.finding in NARROWING for i in person.findings) for person in people)
    assert kinds > set(NARROWING)
    assert 1 <= sum(not injury.ct_visible for injury in first) <= 20
    # any other seed is the phantom's own patient
    assert [training_patient(seed).injuries for seed in range(40)] == [
        patient(seed).injuries for seed in range(40)
    ]


def test_what_lies_at_the_cord_and_is_no_csf_counts_more() -> None:
    labels = torch.full((1, 1, 9, 20), int(Tissue.CSF))
    labels[..., 8:12] = Tissue.CORD
    wide = loss_weights(labels, labels)[0, 0]
    labels[:, :, 4, :8] = Tissue.ANNULUS
    assert torch.equal(loss_weights(labels, labels, 1.0), loss_weights(labels, labels))
    narrowed = loss_weights(labels, labels, TOUCHING_WEIGHT)[0, 0]
    annulus = TISSUE_WEIGHTS[Tissue.ANNULUS]
    assert narrowed[4, 7] == narrowed[4, 6] == TOUCHING_WEIGHT * annulus
    assert narrowed[4, 5] == annulus
    # nothing else has changed: neither the cord nor the CSF around it
    narrowed[4, :8] = wide[4, :8]
    assert torch.equal(narrowed, wide)


def test_slices_that_are_far_apart_blur_from_row_to_row_alone() -> None:
    image = torch.zeros((1, 1, 21, 21))
    image[..., 10, 10] = 1
    width = torch.full((1, 1, 1, 1), 1.1)
    blurred = blur_each(image, 0 * width, width)[0, 0]
    assert float(blurred[:, 10].sum()) == pytest.approx(1, abs=1e-3)
    assert float(blurred[9, 10]) > 0.2
    assert float(blurred[10, 9]) == pytest.approx(0, abs=1e-6)


def test_a_run_begins_with_the_weights_of_a_model(tmp_path: Path, pool_dir: Path) -> None:
    begun = train(config(tmp_path / "first", pool_dir, steps=3))
    there = load_model(begun).pipeline.denoiser.state_dict()
    run = Run(config(tmp_path / "second", pool_dir, start=begun))
    for name, weights in run.denoiser.state_dict().items():
        assert torch.equal(weights, there[name]), name
        assert torch.equal(run.average[name], there[name]), name
    words = f"phantom-neck 1 (`{digest_folder(begun)[:12]}`)"
    assert run.begun == words
    # which is known of a run that goes on, also when it is called without the model
    second = config(tmp_path / "second", pool_dir, steps=2)
    second.work_dir.mkdir()
    run.save()
    train(replace(second, start=tmp_path / "gone"))
    lines = (tmp_path / "second" / "losses.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["begun"] == words
    assert Run(second).begun == words
    with pytest.raises(CannotTrain, match="to begin with, found another"):
        Run(config(tmp_path / "wide", pool_dir, start=begun, widths=(16, 32)))
    with pytest.raises(CannotTrain, match=r"model_index\.json is missing"):
        Run(config(tmp_path / "none", pool_dir, start=tmp_path))
