"""What is made of a stack: series, what stands on their border beside the mark, and the record."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from config.settings import load
from node import computing
from node.computing import LEGEND, judged, real_stages, side_notes
from node.errors import Retry, Stop
from node.picture import _unsupported
from node.stages import Order
from node.workfiles import Made, Prepared, WorkFiles
from pipeline import labeling
from pipeline.anatomy import Anatomy, Coverage
from pipeline.contrast import ALL_CONTRASTS, Contrast, SeriesKind
from pipeline.errors import Declined
from pipeline.fidelity import NARROWED, OUTLINED
from pipeline.hyperintensity import outline
from pipeline.levels import Level
from pipeline.phantom import Tissue
from pipeline.reformat import STACK_SHAPE, stack_grid
from pipeline.support import Calibration
from pipeline.symmetry import MidsagittalPlane
from pipeline.synthesis import Model, Synthesis, load_model, synthesize
from tests.label_contract import assert_label_contract
from tests.pipeline.models import save_tiny
from tests.pipeline.test_fidelity import reference
from tests.pipeline.test_hyperintensity import IN_BODY
from tests.pipeline.test_secondary_capture import ct_headers, identity_of
from tests.pipeline.test_support import calibration
from tests.pipeline.toy_spine import DISCS, FIRST_DISC, LEVEL_ROWS, discs_mm, toy_spine

NAMES = ("C2/3", "C3/4", "C4/5", "C5/6", "C6/7", "C7/T1", "T1/2")


def anatomy(is_confirmed: bool) -> Anatomy:
    plane = MidsagittalPlane(np.zeros(3), np.array([-1.0, 0, 0]))
    levels = tuple(
        Level(name, np.array([0.0, 0, z]), np.array([0.0, -15, z]), 40.0 - z, 1.0)
        for name, z in zip(NAMES, np.linspace(40, -56, 7), strict=True)
    )
    line = np.zeros((120, 3))
    return Anatomy(line, plane, levels, is_confirmed, {}, {}, Coverage(120, 120, "dens"), (), {})


def test_confirmed_levels_are_named_where_they_are() -> None:
    found = anatomy(True)
    grid = stack_grid(found)
    notes = side_notes(found, grid)
    assert [name for _, name in notes] == ["C2", "C3", "C4", "C5", "C6", "C7", "T1"]
    discs = [grid.to_index(level.disc_mm)[1] for level in found.levels]
    for (row, _), (above, below) in zip(notes[1:], pairwise(discs), strict=True):
        assert row == pytest.approx((above + below) / 2, abs=0.5)
    # half a vertebra above the disc C2/3
    assert notes[0][0] == pytest.approx(discs[0] - 8.0 / grid.spacing_mm[1], abs=0.5)
    without_last = dataclasses.replace(found, levels=found.levels[:-1])
    assert side_notes(without_last, grid)[-1][1] == "T1"


def test_unconfirmed_levels_are_not_named_but_said_to_be_so_on_every_slice() -> None:
    found = anatomy(False)
    notes = side_notes(found, stack_grid(found))
    assert "".join(text for _, text in notes) == "levelsuncon-firmed"
    pixels = np.zeros(STACK_SHAPE, dtype=np.uint16)
    marked = labeling.mark(pixels, SeriesKind.T2, notes)
    plain = labeling.mark(pixels, SeriesKind.T2)
    assert all((one != other).any() for one, other in zip(marked, plain, strict=True))
    assert labeling.has_mark(marked, SeriesKind.T2)


# --- from the stack to the instances ---------------------------------------------------------


@pytest.fixture(scope="module")
def headers() -> list[Dataset]:
    return ct_headers(FrameOfReferenceUID="2.25.7")


@pytest.fixture(scope="module")
def prepared(headers: list[Dataset]) -> Prepared:
    toy = toy_spine()
    uids = tuple(str(ds.SOPInstanceUID) for ds in headers)
    levels = {name: list(point) for name, point in discs_mm(toy.stack.grid).items()}
    found = {"levels_confirmed": True, "levels_mm": levels}
    return Prepared(toy.stack, toy.places, toy.course, uids, found, (), ((40, "C3"),), {})


@pytest.fixture(scope="module")
def order(headers: list[Dataset]) -> Order:
    return Order(identity_of(headers), "2026-03-04T05:06:07+00:00", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """With random weights and no calibration."""
    return load_model(save_tiny(tmp_path_factory.mktemp("tiny")), "cpu")


def for_two_samples(scale: float) -> Calibration:
    return dataclasses.replace(calibration(scale), samples=2)


def packaged(
    model: Model, prepared: Prepared, order: Order, headers: list[Dataset], folder: Path
) -> list[Dataset]:
    """Through every stage, and through the work folder between them."""
    stages = real_stages(model)
    files = WorkFiles(folder, order.identity.job_id, 1)
    files.save_prepared(prepared)
    loaded = files.load_prepared()
    assert loaded is not None
    np.testing.assert_array_equal(loaded.places.regions, prepared.places.regions)
    files.save_made(stages.synthesize(loaded, order))
    made = files.load_made()
    assert made is not None
    json.dumps(made.facts, allow_nan=False)
    return [
        dcmread(io.BytesIO(one.content)) for one in stages.package(made, loaded, headers, order)
    ]


def test_an_uncalibrated_model_makes_two_series_and_says_so(
    model: Model, prepared: Prepared, order: Order, headers: list[Dataset], tmp_path: Path
) -> None:
    results = packaged(model, prepared, order, headers, tmp_path)
    assert_label_contract(results, headers)
    assert {ds.ImageType[4] for ds in results} == {"T2", "STIR"}
    assert "SUPPORT BY THE CT NOT KNOWN" in results[0].ImageComments
    made = real_stages(model).synthesize(prepared, order)
    assert any("not calibrated" in warning for warning in made.warnings)
    assert made.facts["fidelity"]["verdict"].startswith("not judged")


def test_a_calibrated_model_makes_the_support_map_too(
    model: Model, prepared: Prepared, order: Order, headers: list[Dataset], tmp_path: Path
) -> None:
    known = dataclasses.replace(model, calibration=for_two_samples(4.0))
    results = packaged(known, prepared, order, headers, tmp_path)
    assert_label_contract(results, headers)
    assert all(NARROWED in ds.ImageComments for ds in results)
    by_kind = {
        kind: [ds for ds in results if ds.ImageType[4] == kind] for kind in ("T2", "SUPPORT")
    }
    assert len(results) == 3 * len(by_kind["SUPPORT"])
    assert {ds.SeriesNumber for ds in by_kind["SUPPORT"]} == {9003}
    assert LEGEND in by_kind["SUPPORT"][0].ImageComments
    assert "UNSUPPORTED (9003)" in by_kind["T2"][0].ImageComments
    support = synthesize(prepared.stack, known, seed=order.identity.seed, samples=2).support
    assert support is not None
    share = support.unsupported.mean()
    assert 0 < share < 1
    for index, pair in enumerate(zip(by_kind["T2"], by_kind["SUPPORT"], strict=True)):
        covered = _unsupported(pair)
        assert covered is not None
        told = labeling.unmarked(covered)
        # the hatch is what the map says, but for pixels that happen to have its gray
        assert not (told & ~support.unsupported[index]).any()
        assert told.sum() > 0.95 * support.unsupported[index].sum()


def test_a_bright_area_without_support_is_outlined_in_every_series_and_on_record(
    model: Model, prepared: Prepared, order: Order, headers: list[Dataset], tmp_path: Path
) -> None:
    known = dataclasses.replace(model, calibration=calibration())
    result = synthesize(prepared.stack, known, samples=2)
    assert result.support is not None
    stir = np.full(result.grid.shape, 0.15, dtype=np.float32)
    unsupported = np.zeros(stir.shape, dtype=np.bool_)
    stir[IN_BODY], unsupported[IN_BODY] = 0.6, True
    support = dataclasses.replace(result.support, unsupported=unsupported)
    images = {Contrast.T2: result.images[Contrast.T2], Contrast.STIR: stir}
    made = judged(dataclasses.replace(result, images=images, support=support), prepared, known)
    (area,) = made.facts["outlined"]
    assert (area["first"], area["last"]) == (3, 3)
    assert any("1 bright areas on STIR may be invented" in warning for warning in made.warnings)
    files = WorkFiles(tmp_path, order.identity.job_id, 1)
    files.save_made(made)
    kept = files.load_made()
    assert kept is not None
    assert made.areas is not None
    np.testing.assert_array_equal(kept.areas, made.areas)
    line = outline(made.areas)
    without = dataclasses.replace(made, areas=None)
    for one, other in zip(
        read(known, kept, prepared, order, headers),
        read(known, without, prepared, order, headers),
        strict=True,
    ):
        assert OUTLINED in one.ImageComments
        drawn = labeling.unmarked(one.pixel_array) != labeling.unmarked(other.pixel_array)
        index = int(one.InstanceNumber) - 1
        assert not (drawn & ~line[index]).any()
        assert drawn.any() == (index == 2)
        if one.ImageType[4] == "STIR":  # where no pixel has a signal of the line
            np.testing.assert_array_equal(drawn, line[index])


def test_faint_csf_is_hatched_named_in_every_series_and_on_record(
    model: Model, prepared: Prepared, order: Order, headers: list[Dataset]
) -> None:
    known = dataclasses.replace(model, calibration=calibration())
    row = FIRST_DISC + 3 * LEVEL_ROWS  # of C5/6
    drawn = faded(known, prepared, {row: 0.5})
    made = judged(drawn, prepared, known)
    (narrowed,) = made.facts["narrowed"]
    assert narrowed["near"] == "C5/6"
    assert any(warning.startswith("faint CSF near C5/6") for warning in made.warnings)
    assert made.unsupported is not None
    hatched = np.flatnonzero(made.unsupported.any(axis=(0, 2)))
    assert abs(hatched.mean() - row) < 2
    for ds in read(known, made, prepared, order, headers):
        assert f"{NARROWED}, MOST AT C5/6" in ds.ImageComments
    unsure = dict(prepared.measurements) | {"levels_confirmed": False}
    unnamed = judged(drawn, dataclasses.replace(prepared, measurements=unsure), known)
    assert [one["near"] for one in unnamed.facts["narrowed"]] == [""]
    assert NARROWED in unnamed.foot_notes


def test_of_many_faint_stretches_the_margin_names_the_faintest(
    model: Model, prepared: Prepared
) -> None:
    known = dataclasses.replace(model, calibration=calibration())
    signal = {"C2/3": 0.7, "C4/5": 0.6, "C6/7": 0.2, "T1/2": 0.4}
    rows = {name: FIRST_DISC + DISCS.index(name) * LEVEL_ROWS for name in signal}
    drawn = faded(known, prepared, {rows[name]: csf for name, csf in signal.items()})
    made = judged(drawn, prepared, known)
    assert f"{NARROWED}, MOST AT C6/7, T1/2 (+2)" in made.foot_notes
    # The record and the warnings go from head to foot.
    assert [one["near"] for one in made.facts["narrowed"]] == list(signal)


def faded(model: Model, prepared: Prepared, csf: Mapping[int, float]) -> Synthesis:
    """The toy's truth, supported throughout, with other CSF around some rows."""
    result = synthesize(prepared.stack, model, samples=2)
    assert result.support is not None
    truth = toy_spine().pair
    t2 = truth.t2.copy()
    for row, signal in csf.items():
        around = slice(row - 6, row + 6)
        t2[:, around][truth.labels[:, around] == Tissue.CSF] = signal
    support = dataclasses.replace(result.support, unsupported=np.zeros(t2.shape, dtype=np.bool_))
    images = {Contrast.T2: t2, Contrast.STIR: truth.stir}
    return dataclasses.replace(result, images=images, support=support)


def test_where_no_area_can_be_looked_for_the_record_does_not_say_that_there_is_none(
    model: Model, prepared: Prepared
) -> None:
    known = dataclasses.replace(model, calibration=calibration())
    for samples, can_be in ((2, True), (0, False)):
        made = judged(synthesize(prepared.stack, known, samples=samples), prepared, known)
        assert (made.facts["outlined"] is not None) == can_be


@pytest.mark.parametrize("contrast", ALL_CONTRASTS)
def test_one_contrast_alone_is_as_it_is_beside_the_other(
    model: Model, prepared: Prepared, order: Order, headers: list[Dataset], contrast: Contrast
) -> None:
    """Judged by both, outlined, and with the same support map, whichever is delivered."""
    known = dataclasses.replace(model, calibration=for_two_samples(4.0))
    made = judged(synthesize(prepared.stack, known, samples=2), prepared, known)
    both = {
        (ds.ImageType[4], ds.InstanceNumber): ds.PixelData
        for ds in read(known, made, prepared, order, headers)
    }
    alone = dataclasses.replace(
        order, identity=dataclasses.replace(order.identity, contrasts=(contrast,))
    )
    results = read(known, made, prepared, alone, headers)
    assert {ds.ImageType[4] for ds in results} == {contrast, "SUPPORT"}
    assert all(ds.PixelData == both[ds.ImageType[4], ds.InstanceNumber] for ds in results)


def test_what_an_earlier_program_kept_is_made_again(
    model: Model, prepared: Prepared, order: Order, tmp_path: Path
) -> None:
    files = WorkFiles(tmp_path, order.identity.job_id, 1)
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr("node.workfiles.FORMAT", 1)
        files.save_prepared(prepared)
        files.save_made(real_stages(model).synthesize(prepared, order))
        assert files.load_prepared() is not None
    assert files.load_prepared() is None
    assert files.load_made() is None


def read(
    model: Model, made: Made, prepared: Prepared, order: Order, headers: list[Dataset]
) -> list[Dataset]:
    instances = real_stages(model).package(made, prepared, headers, order)
    return [dcmread(io.BytesIO(one.content)) for one in instances]


def test_fewer_samples_than_calibrated_is_a_warning(
    model: Model, prepared: Prepared, order: Order, headers: list[Dataset]
) -> None:
    known = dataclasses.replace(model, calibration=calibration())
    made = real_stages(known).synthesize(prepared, order)
    assert any("calibrated with 8 samples, drawn 2" in warning for warning in made.warnings)
    # In every slice, instead of shares and a legend that promise more.
    for ds in read(known, made, prepared, order, headers):
        assert "HATCH NOT CALIBRATED: 2 OF 8 SAMPLES" in ds.ImageComments
        assert LEGEND not in ds.ImageComments
        assert "UNSUPPORTED (9003)" not in ds.ImageComments


def test_a_picture_that_is_not_this_patients_is_declined(model: Model, prepared: Prepared) -> None:
    """Random weights draw no dark rims."""
    full = dataclasses.replace(calibration(), reference=reference())
    known = dataclasses.replace(model, calibration=full)
    result = synthesize(prepared.stack, known, samples=2)
    flat = {contrast: np.full_like(result.images[contrast], 0.5) for contrast in ALL_CONTRASTS}
    with pytest.raises(Declined) as declined:
        judged(dataclasses.replace(result, images=flat), prepared, known)
    assert declined.value.code == "fidelity.edge_gain"


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_a_device_that_does_not_work_now_may_work_later(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(*_: object) -> None:
        raise error("Found no NVIDIA driver on your system.\nPlease check")

    monkeypatch.setattr(computing, "load_model", load_model)
    with pytest.raises(Retry, match=r"on device auto: Found no NVIDIA driver on your system\.; "):
        computing.load(load().synthesis)


def test_a_folder_without_a_model_never_will(tmp_path: Path) -> None:
    settings = load().synthesis.model_copy(update={"model_folder": tmp_path})
    with pytest.raises(Stop, match=r"expected to run .* check synthesis\.model_folder"):
        computing.load(settings)
