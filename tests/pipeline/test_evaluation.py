"""The evaluation: it finds what is there, and an error that is put in comes out as that error."""

import base64
import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from node.commands.judging import seeds_of
from node.errors import Refuse
from pipeline import labeling
from pipeline.canal_rows import read_rows
from pipeline.contrast import ALL_CONTRASTS, Contrast, SeriesKind
from pipeline.course import ACROSS_MM, Course
from pipeline.evaluation import canal_alone, report
from pipeline.evaluation.canal import CanalTally, true_cord_mm
from pipeline.evaluation.course import phantom_course
from pipeline.evaluation.injuries import (
    FOUND_BY_SIGNAL,
    Sample,
    Share,
    auc,
    detect,
    samples_of,
)
from pipeline.evaluation.pages import finite
from pipeline.evaluation.reference_free import ReferenceFree, measure
from pipeline.evaluation.run import Evaluation, Plan, RealNeck, evaluate_all
from pipeline.evaluation.scores import Score
from pipeline.evaluation.targets import Target, baseline_targets
from pipeline.geometry import Float32, Grid
from pipeline.phantom import Finding, Patient, TrainingPair, patient
from pipeline.synthesis import load_model
from pipeline.training.data import fill, load, pair_grid, pair_path
from tests.pipeline.models import save_tiny

INJURED, TUNED = 100_000, 99_503


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for seed in (INJURED, TUNED):
        fill(folder, range(seed, seed + 1))
    return folder


@pytest.fixture(scope="module")
def phantom(pool: Path) -> tuple[Patient, TrainingPair, Grid, Course]:
    person = patient(INJURED)
    grid = pair_grid(person)
    return person, load(pair_path(pool, INJURED)), grid, phantom_course(person, grid)


@pytest.fixture(scope="module")
def found(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    model = load_model(save_tiny(tmp_path_factory.mktemp("model")), "cpu")
    others = range(TUNED, TUNED + 1)
    plan = Plan(pool, range(INJURED, INJURED + 1), tuning=others, lookup=others, steps=2)
    return evaluate_all(plan, model, regression=model)


def test_one_run_has_every_method_and_the_codec_is_lossless(found: Evaluation) -> None:
    assert list(found.scores) == ["model", "lookup", "regression", "codec only"]
    mae = {
        name: next(s.mae for s in scores if (s.contrast, s.tissue) == ("T2", "CSF"))
        for name, scores in found.scores.items()
    }
    assert mae["codec only"] < 1e-5
    # the same weights in another role are the same images
    assert mae["regression"] == mae["model"] > 0.1
    model, slow = (
        next(s for s in scores if s.tissue == "BODY") for scores in found.stepped.values()
    )
    assert model.pixels == slow.pixels < next(s.pixels for s in found.scores["model"])
    assert model.mae != slow.mae


def test_the_canal_is_judged_against_the_true_t2_level_by_level(found: Evaluation) -> None:
    canal = replace(
        found.canal,
        ap_error_like_truth_mm={"C3": 0.3, "C4": 0.6},
        ap_error_mm={"C3": 0.7, "C4": 0.9},
        truth_ap_error_mm={"C3": 0.6, "C4": 1.5},
    )
    told = {target.name: target for target in report.targets(replace(found, canal=canal))}
    like_truth = told["canal AP, mm from the true T2, worst level"]
    assert (like_truth.value, like_truth.is_reached) == (0.6, False)
    further = told["canal AP, mm further from bone than the true T2, worst level"]
    assert further.value == pytest.approx(0.1)
    assert not further.is_reached


def test_the_canal_alone_is_the_canal_of_the_whole(
    found: Evaluation, pool: Path, tmp_path: Path
) -> None:
    canals, _ = canal_alone.judge(
        load_model(save_tiny(tmp_path), "cpu"), pool, range(INJURED, INJURED + 1)
    )
    # rounded: fewer slices at a time are summed in another order
    for ours, whole in (
        (canals.canal.score(), found.canal),
        (canals.effaced.score(), found.effaced),
    ):
        assert finite(asdict(ours)) == finite(asdict(whole))


def test_json_has_no_nan_and_the_page_stands_alone(found: Evaluation) -> None:
    document = report.as_json(found)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["facts"]["judged"] == [INJURED, INJURED + 1]
    page = report.as_html(found)
    assert not re.search(r'(src|href)="(?!data:)', page)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    # CT, and for both contrasts: truth, error, model, lookup, regression, codec, few steps
    assert len(pictures) == 1 + 2 * 7
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    assert first.size == (256, 256)
    assert np.asarray(first).std() > 20
    text = report.as_markdown(found)
    for title in (
        "Tissues", "Many steps", "Canal and cord", "CSF where there is none", "Injuries",
        "Measures without",
    ):  # fmt: skip
        assert f"### {title}" in text


def test_no_picture_of_a_patient_leaves_the_page_without_the_mark(found: Evaluation) -> None:
    grey = np.random.default_rng(7).uniform(0, 1, (3, 256, 256)).astype(np.float32)
    images = dict.fromkeys(ALL_CONTRASTS, grey)
    neck = RealNeck(ReferenceFree(1, 1, 1, 1, 1, 0, 0, {}, {}), 1000 * grey, images)
    page = report.as_html(replace(found, real=neck))
    shown = re.findall(r'alt="pseudo-(T2|STIR)" src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(shown) == 2 * 3
    for kind in ALL_CONTRASTS:
        slices = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), dtype=np.uint16)
            for name, picture in shown
            if name == kind
        ]
        assert labeling.has_mark(np.stack(slices), SeriesKind(kind))


def test_what_a_figure_does_not_say_stands_beside_it(found: Evaluation) -> None:
    for text in (report.as_markdown(found), report.as_html(found)):
        assert "The baseline is no fair one" in text
        assert "Stenosis and translation have no signal of their own" in text
    canal = replace(found.canal, ap_measured=0.75)
    assert "| APs that could be measured | 75.0% |" in report.as_markdown(
        replace(found, canal=canal)
    )


def test_false_csf_is_a_target(found: Evaluation) -> None:
    effaced = replace(found.effaced, false_csf=Share.count(52, 85), phantoms=13)
    told = {target.name: target for target in report.targets(replace(found, effaced=effaced))}
    (name,) = (name for name in told if name.startswith("CSF drawn"))
    assert told[name].value == pytest.approx(52 / 85)
    assert not told[name].is_reached
    assert told[name].note == "52 of 85 rows, 13 phantoms"


def test_rows_without_csf_in_the_truth_are_none_that_a_model_should_resolve(
    phantom: tuple[Patient, TrainingPair, Grid, Course],
) -> None:
    person, pair, grid, course = phantom
    blank = np.full_like(pair.t2, 0.6)
    blank[:, : pair.t2.shape[1] // 2] = pair.t2[:, : pair.t2.shape[1] // 2]
    partly = TrainingPair(pair.ct, blank, pair.stir, pair.labels, pair.ct_labels)
    tally = CanalTally()
    tally.add(blank, partly, person, course, grid)
    score = tally.score()
    assert score.resolved_truth < 0.9
    assert {v for v in score.resolved.values() if np.isfinite(v)} == {1.0}


def test_the_truth_is_found_by_its_own_thresholds(found: Evaluation) -> None:
    by_image = {(d.finding, d.image): d for d in found.detections}
    true = by_image[Finding.DISC_INJURY, "true STIR"]
    assert true.sensitivity_visible.value == true.specificity.value == true.auc_visible == 1


def test_the_truth_has_no_canal_error_and_a_moved_cord_has_its_shift(
    phantom: tuple[Patient, TrainingPair, Grid, Course],
) -> None:
    person, pair, grid, course = phantom
    same = CanalTally()
    same.add(pair.t2, pair, person, course, grid)
    score = same.score()
    assert set(score.ap_error_like_truth_mm.values()) == {0.0}
    moved = np.roll(pair.t2, 2, axis=2)
    rows, still = read_rows(moved, course), read_rows(pair.t2, course)
    # two columns of 0.75 mm to the back, seen along lines that are not quite horizontal
    assert np.nanmedian(rows.cord_mm - still.cord_mm) == pytest.approx(-1.5, abs=0.4)
    assert np.nanmedian(np.abs(still.cord_mm - true_cord_mm(pair, course))) < 0.6


def test_a_drawn_canal_is_measured_where_it_was_drawn() -> None:
    columns = np.indices((120, 120))[1]
    across = (80 - columns) * 0.75  # to the front of column 80, mm
    t2 = np.where(np.abs(across) < 6, 1.0, 0.05)
    t2 = np.where(np.abs(across - 1.5) < 3, 0.4, t2)
    stack = np.stack([t2, t2, t2]).astype(np.float32)
    at = np.arange(25, 95, 0.5 / 0.75)
    index = np.stack((np.ones_like(at), at, np.full_like(at, 80.0)), axis=1)
    front = np.tile([0.0, -1 / 0.75], (len(at), 1))
    course = Course(index, front, np.full(len(at), 6.5), np.zeros((len(at), 3)))
    found_rows = read_rows(stack, course)
    assert found_rows.resolved == 1
    assert found_rows.cord_mm == pytest.approx(np.full(len(at), 1.5), abs=0.3)
    assert found_rows.ap_mm == pytest.approx(np.full(len(at), 12.0), abs=0.8)
    assert read_rows(np.full_like(stack, 0.7), course).resolved == 0
    assert course.across(stack).shape == (len(at), len(ACROSS_MM))


def test_regions_do_not_know_where_the_injury_is(
    phantom: tuple[Patient, TrainingPair, Grid, Course],
) -> None:
    person, pair, grid, course = phantom
    flat: Float32 = np.ones_like(pair.t2)
    samples = samples_of({"flat": flat}, pair, person, course, grid)
    assert {s.is_injured for s in samples} == {True, False}
    regions = [s for s in samples if s.finding in FOUND_BY_SIGNAL]
    assert {v for s in regions for v in s.values.values()} == {1.0}
    # and where nothing is drawn no CSF is lost, and no wall is seen
    assert {(s.finding, *s.values.values()) for s in samples if s not in regions} == {
        (Finding.CANAL_STENOSIS, 0.0)
    }


def test_thresholds_are_chosen_on_the_tuning_phantoms_alone() -> None:
    def sample(is_injured: bool, value: float) -> Sample:
        values = {("STIR", "mean"): value, ("STIR", "p95"): value}
        return Sample(Finding.DISC_INJURY, is_injured, True, values)

    tuning = [sample(False, 0.1), sample(False, 0.2), sample(True, 0.8), sample(True, 0.9)]
    judged = [sample(False, 0.1), sample(True, 0.3), sample(True, 0.7)]
    (one,) = detect(tuning, judged)
    assert one.threshold == pytest.approx(0.5)
    assert (one.sensitivity_visible.hits, one.sensitivity_visible.of) == (1, 2)
    # which a threshold on the judged themselves would have found
    assert one.auc_visible == 1


def test_exact_limits_and_the_area_are_those_of_the_books() -> None:
    # Clopper-Pearson of 8 of 10, and the rule of three's exact form for 0 of 10
    share = Share.count(8, 10)
    assert (share.low, share.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert Share.count(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)


def test_measures_without_a_truth_see_a_lost_cord_and_a_bright_marrow(
    phantom: tuple[Patient, TrainingPair, Grid, Course],
) -> None:
    _, pair, _, course = phantom
    true = measure(pair.ct, {Contrast.T2: pair.t2, Contrast.STIR: pair.stir}, course)
    blank = np.full_like(pair.t2, 0.6)
    lost = measure(pair.ct, {Contrast.T2: blank, Contrast.STIR: blank}, course)
    assert true.resolved > 0.8 > lost.resolved == 0
    assert true.csf_p95 > 0.9 > lost.csf_p95
    assert true.dark_edges > 0.5 > lost.dark_edges == 0
    assert set(true.stir_p99) == {"marrow", "muscle", "prevertebral"}
    assert lost.stir_p99["marrow"] == pytest.approx(0.6)


def test_a_plan_keeps_judged_tuned_and_trained_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="held-out"):
        Plan(tmp_path, range(0, 5))
    with pytest.raises(ValueError, match="thresholds"):
        Plan(tmp_path, range(100_000, 100_005), range(100_004, 100_010))
    assert seeds_of("100000:100050") == range(100_000, 100_050)
    with pytest.raises(Refuse, match="expected A:B"):
        seeds_of("100000-100050")


@given(value=st.floats(-5, 5), limit=st.floats(-5, 5))
def test_a_target_is_reached_on_its_own_side(value: float, limit: float) -> None:
    most = Target("", value, limit, at_most=True)
    least = Target("", value, limit, at_most=False)
    assert most.is_reached or least.is_reached
    assert (most.is_reached and least.is_reached) == (value == limit)


def test_a_target_says_how_many_it_rests_on() -> None:
    few = Target("", 1.0, 0.9, at_most=False, share=Share.count(8, 8))
    assert (few.is_reached, few.verdict) == (True, "yes (n = 8, at least 0.63)")
    many = Target("", 52 / 85, 0.1, at_most=True, share=Share.count(52, 85))
    assert many.verdict == "**no** (n = 85, at most 0.72)"
    assert Target("", 1.0, 0.9, at_most=False).verdict == "yes"


def test_what_could_not_be_measured_is_not_reached() -> None:
    assert not Target("", float("nan"), 1.0, at_most=True).is_reached
    assert not Target("", 1.0, float("nan"), at_most=True).is_reached


def test_a_baseline_that_is_as_good_is_named() -> None:
    def score(tissue: str, mae: float) -> Score:
        return Score(Contrast.T2, tissue, mae, 20, 0.5, 0.4, 0.4, 100)

    ours = [score("CSF", 0.1), score("CORD", 0.1), score("FAT", 0.9)]
    theirs = [score("CSF", 0.2), score("CORD", 0.1), score("FAT", 0.1)]
    (target,) = baseline_targets({"model": ours, "lookup": theirs}, "model")
    assert target.value == 1
    assert target.note == "cord T2"
    assert not target.is_reached
    ours, theirs = [*ours, score("CORD_OEDEMA", 0.191)], [*theirs, score("CORD_OEDEMA", 0.189)]
    spine, lesions = baseline_targets({"model": ours, "lookup": theirs}, "model")
    assert spine == target
    assert (lesions.name, lesions.value) == ("lesions, of 1, where lookup has no larger error", 1)
    assert lesions.note == "cord oedema T2"
