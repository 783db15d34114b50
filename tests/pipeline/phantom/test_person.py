"""A seed is a patient: what is drawn, what can be forced, what stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.phantom import LEVELS, Finding, Morphology, Variation, patient
from pipeline.phantom.canal import CORD_CENTER_LIMITS, CORD_KNOTS_MM
from pipeline.phantom.injuries import CT_VISIBLE, INJURED_FRACTION, OCCURRENCE, Injuries
from pipeline.phantom.tissues import TABLE, Palette, Tissue


def _draws(count: int, findings: list[Finding] | None = None) -> list[Injuries]:
    return [Injuries.draw(np.random.default_rng(seed), findings) for seed in range(count)]


def test_an_empty_collection_gives_a_sound_neck() -> None:
    person = patient(3, [])
    assert person.findings == ()
    assert person.injured_level is None


@pytest.mark.parametrize("finding", Finding)
def test_a_forced_finding_is_the_only_one(finding: Finding) -> None:
    person = patient(3, [finding])
    assert [injury.finding for injury in person.findings] == [finding]
    assert person.injured_level in LEVELS


def test_findings_can_be_given_by_name() -> None:
    injuries = Injuries.draw(np.random.default_rng(1), ["cord_oedema"])  # type: ignore[list-item]
    assert injuries.get(Finding.CORD_OEDEMA) is not None


def test_about_45_percent_are_injured() -> None:
    share = np.mean([bool(injuries.found) for injuries in _draws(2000)])
    assert share == pytest.approx(INJURED_FRACTION, abs=0.04)


def test_ct_signs_come_as_often_as_documented() -> None:
    draws = _draws(1500, list(Finding))
    for finding, expected in CT_VISIBLE.items():
        seen = np.mean([injuries.visible(finding) is not None for injuries in draws])
        assert seen == pytest.approx(expected, abs=0.05), finding


def test_every_finding_has_an_occurrence_and_a_ct_probability() -> None:
    assert set(OCCURRENCE) == set(CT_VISIBLE) == set(Finding)


def test_a_finding_is_the_same_alone_or_among_others() -> None:
    alone = patient(5, [Finding.DISC_INJURY]).findings[0]
    among = patient(5, list(Finding)).injuries.get(Finding.DISC_INJURY)
    assert alone == among


def test_variation_fixes_level_wear_size_and_visibility() -> None:
    fixed = Variation(size=1.1, wear=0.0, level="C6/7", ct_visible=False)
    person = patient(8, [Finding.CORD_OEDEMA, Finding.TRANSLATION], fixed)
    assert person.size == 1.1
    assert person.injured_level == "C6/7"
    assert not any(one.ct_visible for one in person.findings)
    assert person.injuries.morphology is Morphology.NONE, "it went back into its place"
    shown = patient(8, [Finding.TRANSLATION], replace(fixed, ct_visible=True))
    assert shown.injuries.morphology is Morphology.TRANSLATION


def test_no_seed_has_a_finding_that_weights_have_not_learned_of() -> None:
    found = {one.finding for injuries in _draws(500) for one in injuries.found}
    assert found == set(Finding) - {Finding.FACET_DISLOCATION}


def test_an_injury_does_not_redraw_the_anatomy() -> None:
    sound, injured = patient(11, []), patient(11, list(Finding))
    assert sound.spine.levels == injured.spine.levels
    assert sound.size == injured.size
    assert sound.frame.posture == injured.frame.posture
    assert sound.craniovertebral == injured.craniovertebral
    assert np.array_equal(sound.palette.hu, injured.palette.hu)


def test_another_seed_is_another_patient() -> None:
    assert patient(1, []).spine.levels != patient(2, []).spine.levels


def test_cord_lies_where_its_limits_allow_and_varies_between_levels() -> None:
    centers = []
    for seed in range(8):
        person = patient(seed, [])
        knots = np.array(CORD_KNOTS_MM, dtype=np.float32) * np.float32(person.size)
        centers.append(person.canal.cord_center(knots))
    values = np.array(centers)
    assert values.min() >= CORD_CENTER_LIMITS[0] - 1e-3
    assert values.max() <= CORD_CENTER_LIMITS[1] + 1e-3
    assert values.std(axis=1).mean() > 0.03


def test_palettes_spread_the_nervous_system_and_its_contrast() -> None:
    palettes = [Palette.draw(np.random.default_rng(seed)) for seed in range(400)]
    cord = np.array([p.hu[Tissue.CORD] for p in palettes])
    gap = np.array([p.cord_csf_gap_hu for p in palettes])
    assert 35 < cord.mean() < 50
    assert cord.std() > 7
    assert gap.min() == 0
    assert 25 < gap.max() <= 30
    assert np.mean([p.is_enhanced for p in palettes]) == pytest.approx(0.6, abs=0.08)
    assert all(p.hu[Tissue.CORD_OEDEMA] == p.hu[Tissue.CORD] for p in palettes)


def test_the_table_names_every_tissue_once() -> None:
    assert set(TABLE) == set(Tissue)
    assert TABLE[Tissue.CSF].t2 == TABLE[Tissue.CSF].stir == 1.0
    assert max(Tissue) < 256
