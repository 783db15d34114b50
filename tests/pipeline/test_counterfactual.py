"""The shipped weights keep what no model may break; known methods get the score they must."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.commands import countering
from node.errors import Refuse
from pipeline.contrast import Contrast
from pipeline.course import Course
from pipeline.evaluation.counterfactual import report, run
from pipeline.evaluation.counterfactual.curves import response_curves
from pipeline.evaluation.counterfactual.evidence import (
    TRUTH,
    Condition,
    Following,
    answers,
    cord_margin,
    evidence,
    response,
)
from pipeline.evaluation.counterfactual.occult import Marked, Occult, occult
from pipeline.evaluation.counterfactual.run import Plan, Results, counterfactuals
from pipeline.evaluation.counterfactual.subjects import SEEDS, Subject
from pipeline.evaluation.counterfactual.verdict import is_quiet, verdicts
from pipeline.evaluation.counterfactual.visible import Visible, measure
from pipeline.evaluation.scores import Images, model_method
from pipeline.geometry import Float32, Float64, Grid
from pipeline.phantom import Finding, Rendered, Tissue, Variation
from pipeline.support import Calibration, SupportMap
from pipeline.synthesis import load_model
from tests.pipeline.models import save_tiny

SEED = SEEDS.start
SMALL = (128, 128)
BLIND, CLEAR = Condition(0.0, 4.0), Condition(25.0, 4.0)
ABOUT = {"name": "built-in", "version": "1", "digest": "0123456789abcdef0123"}


# the shipped weights


@pytest.fixture(scope="module")
def shipped() -> Results:
    findings = (Finding.PREVERTEBRAL_HAEMATOMA, Finding.CORD_OEDEMA)
    plan = Plan(range(SEED, SEED + 1), findings, (BLIND, CLEAR), SMALL)
    model = load_model(None, "cpu")
    assert model.calibration is not None
    # two samples instead of eight: a third of the time, and what is asked of the map has room
    quick = replace(model, calibration=replace(model.calibration, samples=2))
    return counterfactuals(plan, model_method(model), run.model_supporter(quick))


def test_shipped_weights_know_nothing_that_the_ct_does_not_show(shipped: Results) -> None:
    assert [row.finding for row in shipped.occult] == list(shipped.plan.findings)
    for row in shipped.occult:
        assert row.is_identical
        # the lesion is there, and it is not drawn
        assert row.true_stir > row.drawn_stir
        # the map marks something, and not everything
        assert row.marked is not None
        assert 0.02 < row.marked.unsupported_body < 0.3


def test_shipped_weights_change_where_the_ct_changes_and_hardly_elsewhere(shipped: Results) -> None:
    haematoma = shipped.visible[0]
    assert haematoma.finding is Finding.PREVERTEBRAL_HAEMATOMA
    assert haematoma.true_change > 0.2
    assert haematoma.inside > 0.03
    assert is_quiet(haematoma)
    assert haematoma.inside > 15 * haematoma.elsewhere


def test_shipped_weights_follow_a_moved_cord_when_they_see_it(shipped: Results) -> None:
    truth, blind, clear = shipped.evidence
    assert truth.condition == TRUTH
    assert truth.response == pytest.approx(1, abs=0.1)
    assert truth.error_mm < 0.4
    # the limits of the verdict; measured 1.01, 0.22 mm and 1.00
    assert clear.response > 0.8
    assert clear.error_mm < 0.5
    assert clear.resolved > 0.95
    # 0.15 measured: there is nothing to follow
    assert blind.response < 0.3


def test_the_map_marks_the_cord_that_is_drawn_from_habit(shipped: Results) -> None:
    _, blind, clear = shipped.evidence
    assert blind.unsupported is not None
    assert clear.unsupported is not None
    # 0.72 and 0.26 measured with eight samples
    assert blind.unsupported > 0.5
    assert clear.unsupported < blind.unsupported - 0.2


# methods whose truth is known


COLUMNS = np.indices((3, 96, 96))[2]
MIDDLE, PIXEL_MM = 56.0, 0.75
STRAIGHT = Grid.from_steps(
    (3, 96, 96), np.zeros(3), np.array([[-3.0, 0, 0], [0, 0, -0.75], [0, 0.75, 0]])
)


def drawn_canal(shift_mm: float, gap_hu: float) -> Rendered:
    """A straight canal, 13 mm deep; the CT has the gap, the MRI always shows the cord."""
    front_mm = (MIDDLE - COLUMNS) * PIXEL_MM
    labels = np.where(np.abs(front_mm) < 6.5, Tissue.CSF, Tissue.CORTEX)
    labels = np.where(np.abs(front_mm + shift_mm) < 3.1, Tissue.CORD, labels).astype(np.uint8)
    signal = np.select([labels == Tissue.CSF, labels == Tissue.CORD], [1.0, 0.4], 0.05)
    hu = np.select([labels == Tissue.CSF, labels == Tissue.CORD], [30.0, 30.0 + gap_hu], 900.0)
    t2, ct = signal.astype(np.float32), hu.astype(np.float32)
    return Rendered(STRAIGHT, labels, ct, t2, t2.copy(), labels.copy())


def straight_course() -> Course:
    rows = np.arange(16, 80, 0.5 / PIXEL_MM)
    index = np.stack((np.ones_like(rows), rows, np.full_like(rows, MIDDLE)), axis=1)
    front = np.tile([0.0, -1 / PIXEL_MM], (len(rows), 1))
    return Course(index, front, np.full(len(rows), 6.5), np.zeros((len(rows), 3)))


def oracle(ct: Float32) -> Images:
    """Reads the cord as far as the CT shows it at all."""
    signal = np.where(ct > 500, 0.05, np.where(ct > 32, 0.4, 1.0)).astype(np.float32)
    return {Contrast.T2: signal, Contrast.STIR: signal}


def habit(ct: Float32) -> Images:
    """Draws the same cord whatever the CT says."""
    signal = drawn_canal(0.0, 0.0).t2
    return {Contrast.T2: signal, Contrast.STIR: signal}


def marking(unsupported: NDArray[np.bool_], half_width: float = 0.1) -> SupportMap:
    widths = np.full(unsupported.shape, half_width, dtype=np.float32)
    return SupportMap({Contrast.T2: widths, Contrast.STIR: widths}, unsupported)


def follow(
    method: object, *conditions: Condition, is_marked: bool | None = None
) -> list[Following]:
    still = np.zeros(STRAIGHT.shape, dtype=np.float32)
    supporter = None if is_marked is None else lambda ct: marking(np.full(ct.shape, is_marked))
    rows = evidence(1, drawn_canal, straight_course(), still, method, supporter, conditions)  # type: ignore[arg-type]
    return list(rows)


def test_an_oracle_follows_and_a_habit_does_not() -> None:
    truth, seen = follow(oracle, CLEAR)
    assert truth.response == pytest.approx(1, abs=0.1)
    assert (seen.response, seen.error_mm) == (truth.response, truth.error_mm)
    _, ignored = follow(habit, CLEAR)
    assert ignored.response == pytest.approx(0, abs=1e-9)
    # off by 1.5 mm two times in three
    assert ignored.error_mm == pytest.approx(1.0, abs=0.15)
    assert seen.resolved == ignored.resolved == 1
    assert seen.unsupported is None


def test_what_is_not_drawn_is_not_judged() -> None:
    _, unseen = follow(oracle, BLIND)
    assert unseen.resolved == 0
    assert math.isnan(unseen.response)
    assert math.isnan(unseen.error_mm)
    (_, answer) = answers(follow(oracle, BLIND))
    assert math.isnan(answer.response)


@pytest.mark.parametrize("is_marked", [True, False])
def test_the_margin_is_looked_up_in_the_map(is_marked: bool) -> None:
    rows = follow(habit, BLIND, CLEAR, is_marked=is_marked)
    assert [row.unsupported for row in rows] == [None, float(is_marked), float(is_marked)]


def test_the_margin_is_a_pixel_on_both_sides_of_the_cord() -> None:
    margin = cord_margin(drawn_canal(0.0, 0.0), straight_course())
    assert not margin[[0, 2]].any()
    assert set(np.flatnonzero(margin[1, 48])) == {51, 52, 60, 61}


shifts = st.lists(st.floats(-3, 3), min_size=2, max_size=5).filter(lambda v: np.std(v) > 0.3)


@settings(max_examples=40)
@given(shifts, st.floats(-0.5, 1.5), st.lists(st.floats(-4, 4), min_size=1, max_size=6))
def test_the_response_is_the_slope_whatever_the_canal_is_like(
    moved: list[float], slope: float, places: list[float]
) -> None:
    true = np.add.outer(moved, places)
    constant = np.linspace(-2, 2, len(places))
    assert response(true, slope * true + constant) == pytest.approx(slope, abs=1e-6)


@settings(max_examples=40)
@given(shifts, st.integers(0, 2**32 - 1))
def test_points_that_are_not_seen_or_do_not_move_change_nothing(
    moved: list[float], seed: int
) -> None:
    true = np.add.outer(moved, np.arange(4.0))
    measured = 0.7 * true + 1
    held: Float64 = np.full((len(moved), 1), 0.3)
    wild = np.random.default_rng(seed).normal(0, 9, held.shape)
    hidden = np.full_like(held, np.nan)
    true = np.concatenate((true, held, np.add.outer(moved, [5.0])), axis=1)
    measured = np.concatenate((measured, wild, hidden), axis=1)
    assert response(true, measured) == pytest.approx(0.7)
    assert math.isnan(response(held, wild))


# lesions


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of(SEED, 3, (96, 96))


@pytest.fixture(scope="module")
def sound(subject: Subject) -> Rendered:
    return subject.twin()


def plain(ct: Float32) -> Images:
    dark = np.full_like(ct, 0.2)
    return {Contrast.T2: dark, Contrast.STIR: dark}


def judged(subject: Subject, sound: Rendered, support: SupportMap | None) -> Occult:
    row = occult(subject, sound, Finding.CORD_OEDEMA, plain, plain(sound.ct), support)
    assert row is not None
    return row


def test_a_lesion_is_compared_with_the_rest_of_its_tissue(
    subject: Subject, sound: Rendered
) -> None:
    cord = np.isin(sound.labels, (Tissue.CORD, Tissue.CORD_GRAY))
    whole = judged(subject, sound, marking(cord)).marked
    assert whole is not None
    assert whole.unsupported == whole.unsupported_rest == 1
    assert 0 < whole.unsupported_body < 0.2
    # true STIR of oedema is far above 0.2
    assert whole.outside > 0.9
    assert whole.beyond > 0.1
    blind = judged(subject, sound, marking(~cord, half_width=2.0)).marked
    assert blind is not None
    assert blind.unsupported == blind.unsupported_rest == blind.outside == blind.beyond == 0
    assert blind.half_width == blind.half_width_rest == 2


def test_a_method_that_is_not_the_same_twice_is_found(subject: Subject, sound: Rendered) -> None:
    assert judged(subject, sound, None).is_identical
    calls = iter((0.0, 1e-6))

    def unsteady(ct: Float32) -> Images:
        return {Contrast.STIR: np.full_like(ct, next(calls))}

    drawn = unsteady(sound.ct)
    row = occult(subject, sound, Finding.CORD_OEDEMA, unsteady, drawn, None)
    assert row is not None
    assert not row.is_identical


class LeakySubject(Subject):
    """Shows on the CT what it was asked to hide."""

    def twin(
        self, findings: Iterable[Finding] = (), variation: Variation | None = None
    ) -> Rendered:
        hidden = super().twin(findings, variation)
        return replace(hidden, ct=hidden.ct + hidden.occult)


def test_a_phantom_that_shows_occult_findings_is_refused(subject: Subject, sound: Rendered) -> None:
    leaky = LeakySubject(subject.person, subject.grid, subject.course)
    with pytest.raises(ValueError, match="shows an occult cord_oedema"):
        judged(leaky, sound, None)


def with_lesion() -> tuple[Rendered, Rendered]:
    """Sound and injured: a bright patch in the slice, far from most of it."""
    sound = drawn_canal(0.0, 0.0)
    patch = np.zeros(STRAIGHT.shape, dtype=bool)
    patch[:, 40:50, 10:20] = True
    labels = np.where(patch, Tissue.HAEMATOMA, sound.labels).astype(np.uint8)
    stir = np.where(patch, 0.8, sound.stir).astype(np.float32)
    return sound, replace(sound, labels=labels, stir=stir, ct_labels=labels)


@settings(max_examples=25)
@given(st.floats(0, 2), st.floats(0, 0.2))
def test_a_change_is_told_from_a_change_elsewhere(share: float, leak: float) -> None:
    sound, twin = with_lesion()
    before = {Contrast.T2: sound.t2, Contrast.STIR: sound.stir}
    after = {c: v + np.float32(leak) for c, v in before.items()}
    after[Contrast.STIR] = sound.stir + np.float32(share) * (twin.stir - sound.stir)
    row = measure(twin, sound, after, before, 1, Finding.PREVERTEBRAL_HAEMATOMA)
    assert row.true_change == pytest.approx(0.75, abs=1e-5)
    assert row.response == pytest.approx(share, abs=1e-5)
    # of the two contrasts only the T2 leaks
    assert row.elsewhere == pytest.approx(leak / 2, abs=1e-6)
    assert is_quiet(row) == (row.elsewhere <= 0.005)


def test_a_model_has_a_map_when_it_is_calibrated(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    assert run.model_supporter(load_model(folder, "cpu")) is None
    none: dict[str, float] = {}
    scales = {Contrast.T2: 50.0, Contrast.STIR: 1e-6}
    Calibration(
        (1,), 0.1, 0.1, 0.25, scales, {Contrast.T2: none, Contrast.STIR: none}, samples=2
    ).save(folder)
    supporter = run.model_supporter(load_model(folder, "cpu"))
    assert supporter is not None
    support = supporter(drawn_canal(0.0, 20.0).ct)
    assert support.unsupported.shape == STRAIGHT.shape
    wide, narrow = (support.half_width[c].mean() for c in (Contrast.T2, Contrast.STIR))
    assert wide > 1e5 * narrow > 0


# the whole


def place(unsupported: float, body: float = 0.2) -> Marked:
    return Marked(0.3, 0.3, 0.5, 0.1, unsupported, 0.4, body)


def following(gap: float, noise: float, value: float, mark: float | None) -> Following:
    return Following(1, Condition(gap, noise), value, 0.8 - value / 5, 1.0, mark)


@pytest.fixture
def known() -> Results:
    disc = Finding.DISC_INJURY
    return Results(
        Plan(range(SEED, SEED + 2), (disc,)),
        (
            Occult(1, disc, 50, True, 0.6, 0.2, place(0.6)),
            Occult(2, disc, 50, False, 0.6, 0.2, place(0.4)),
            Occult(3, disc, 50, True, 0.6, 0.2, place(0.9, body=0.8)),
        ),
        (
            Visible(1, disc, 50, 0.4, 0.3, 0.3, 0.001, 0.01),
            Visible(2, disc, 50, 0.4, 0.1, 0.1, 0.001, 0.2),
        ),
        (
            following(TRUTH.gap_hu, TRUTH.noise_hu, 1.0, None),
            following(25, 4, 0.9, 0.1),
            following(25, 4, 0.4, None),
            following(25, 20, 0.1, None),
            following(5, 20, math.nan, 0.6),
            following(0, 4, 0.1, 0.7),
            following(0, 20, 0.1, 0.2),
        ),
        is_calibrated=True,
        seconds=1.0,
    )


def test_what_passed_is_counted(known: Results) -> None:
    assert [(v.passed, v.of) for v in verdicts(known)] == [
        (2, 3), (2, 3), (1, 3), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3),
    ]  # fmt: skip
    first = answers(known.evidence)[1]
    assert (first.phantoms, first.response, first.least, first.most) == (2, 0.65, 0.4, 0.9)
    assert first.unsupported == 0.1


@given(st.integers(0, 10**6), st.integers(0, 50))
def test_only_phantoms_that_nothing_else_uses(first: int, count: int) -> None:
    seeds = range(first, first + count)
    if seeds and set(seeds) <= set(SEEDS):
        assert Plan(seeds).seeds == seeds
    else:
        with pytest.raises(ValueError, match="97000:98000"):
            Plan(seeds)


def test_a_report_says_when_nothing_was_calibrated(shipped: Results) -> None:
    hidden = tuple(replace(row, marked=None) for row in shipped.occult)
    followed = tuple(replace(row, unsupported=None) for row in shipped.evidence)
    bare = replace(shipped, occult=hidden, evidence=followed, is_calibrated=False)
    text = report.as_markdown(bare, ABOUT)
    for line in text.splitlines():
        if "unsupported |" in line and "asked" in line:
            assert line.endswith("| 0 of 0 | not calibrated |")
    # in the head, for three demands, in a row for each finding and in one for each condition
    assert text.count("not calibrated") == 1 + 3 + len(bare.plan.findings) + 2
    document = report.as_json(bare, ABOUT)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["is_calibrated"] is False
    assert document["verdicts"][1] == {
        "test": "occult",
        "asked": "at least 50% of the lesion is marked unsupported",
        "passed": 0,
        "of": 0,
        "share": None,
    }


def test_the_page_stands_alone_and_its_curves_are_where_the_figures_are(known: Results) -> None:
    page = report.as_html(known, ABOUT)
    assert not re.search(r'(src|href)="', page)
    svg = re.search(r"<svg.*?</svg>", page)
    assert svg is not None
    shown = [a for a in answers(known.evidence) if a.condition != TRUTH]
    assert svg[0] == response_curves(shown)
    root = ElementTree.fromstring(svg[0])
    lines = root.findall("{*}polyline")
    assert len(lines) == 2
    (blind, clear) = (point.split(",") for point in lines[0].attrib["points"].split())
    # a higher response is farther up, a larger gap farther to the right
    assert float(clear[0]) > float(blind[0])
    assert float(clear[1]) < float(blind[1])


def test_the_command_prints_writes_and_refuses(
    known: Results,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Plan] = []

    def tested(plan: Plan, *_: object) -> Results:
        asked.append(plan)
        return known

    monkeypatch.setattr(run, "counterfactuals", tested)
    countering.counterfactual(f"{SEED}:{SEED + 2}", None, tmp_path / "page.html", False)
    printed = capsys.readouterr().out
    assert "### Passed" in printed
    assert printed.split("### Passed")[1].strip() in report.as_markdown(known, ABOUT)
    assert "<svg" in (tmp_path / "page.html").read_text()
    countering.counterfactual(f"{SEED}:{SEED + 1}", None, None, True)
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["passed"] == 2
    assert [plan.seeds for plan in asked] == [range(SEED, SEED + 2), range(SEED, SEED + 1)]
    nowhere = tmp_path / "no" / "page.html"
    for seeds, html in (("1:2", None), ("97000", None), (f"{SEED}:{SEED + 1}", nowhere)):
        with pytest.raises(Refuse):
            countering.counterfactual(seeds, None, html, False)
