"""The gate: the real neck under every disturbance, phantoms with known truth, and wrong bodies.

Distances on the real neck are repeatability against its own undisturbed analysis; no expert has
read it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pipeline.anatomy import Anatomy, find_anatomy
from pipeline.errors import Declined
from pipeline.geometry import Float64, Grid, Volume
from pipeline.levels import Anchor, best_chain
from pipeline.symmetry import MidsagittalPlane
from pipeline.volume import CTSeries
from tests.pipeline import perturbed
from tests.pipeline.perturbed import Perturbed

# Read by eye on the straightened spine: height of each disc in the canal, LPS z in mm.
DISC_Z_MM = {
    "C2/3": 695,
    "C3/4": 682.5,
    "C4/5": 670,
    "C5/6": 662,
    "C6/7": 650,
    "C7/T1": 637,
    "T1/2": 621,
}
CANAL_AP_MM = {
    "C2": 14.5,
    "C3": 11.7,
    "C4": 12.4,
    "C5": 11.6,
    "C6": 11.7,
    "C7": 11.7,
    "T1": 12.6,
}


@pytest.fixture(scope="module")
def ct(neck_series: CTSeries) -> Volume:
    return neck_series.volume


@pytest.fixture(scope="module")
def anatomy(ct: Volume) -> Anatomy:
    return find_anatomy(ct)


def declined(volume: Volume) -> Declined:
    with pytest.raises(Declined) as caught:
        find_anatomy(volume)
    assert caught.value.found
    assert caught.value.expected
    assert caught.value.remedy
    return caught.value


@pytest.mark.data
def test_discs_and_diameters_of_the_real_neck(anatomy: Anatomy) -> None:
    assert anatomy.levels_confirmed
    assert anatomy.warnings == ()
    found = {level.name: level.position_mm[2] for level in anatomy.levels}
    assert found.keys() == DISC_Z_MM.keys()
    assert all(abs(found[name] - z) <= 2.0 for name, z in DISC_Z_MM.items())
    assert anatomy.canal_ap_mm.keys() == CANAL_AP_MM.keys()
    assert all(abs(anatomy.canal_ap_mm[name] - mm) <= 1.0 for name, mm in CANAL_AP_MM.items())


@pytest.mark.data
def test_the_centerline_runs_down_the_canal(ct: Volume, anatomy: Anatomy) -> None:
    line = anatomy.centerline_mm
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    assert np.allclose(steps, 1.0, atol=0.05)
    assert (np.diff(line[:, 2]) < 0).all()
    # Cord and fluid, neither bone nor air, from the foramen magnum to the last slice's T4.
    index = np.round(ct.grid.to_index(line)).astype(int)
    inside = (index >= 0).all(axis=1) & (index < np.array(ct.grid.shape)).all(axis=1)
    hu = ct.values[tuple(index[inside].T)]
    assert inside.mean() > 0.98
    assert ((hu > -60) & (hu < 160)).mean() > 0.97
    assert len(line) > 200


def _like_the_original(found: Anatomy, change: Perturbed, original: Anatomy) -> None:
    line, _ = cKDTree(change.back(found.centerline_mm)).query(original.centerline_mm[20:130])
    assert line.mean() <= 0.8
    normal = np.linalg.inv(change.motion)[:3, :3] @ found.plane.normal
    angle = np.degrees(np.arccos(np.clip(normal @ original.plane.normal, -1, 1)))
    assert angle <= 1.0
    positions = {level.name: level.position_mm for level in original.levels}
    for level in found.levels:
        assert np.linalg.norm(change.back(level.position_mm) - positions[level.name]) <= 2.6
    for vertebra, mm in found.canal_ap_mm.items():
        assert abs(mm - original.canal_ap_mm[vertebra]) <= 2.2


ACCEPTED: dict[str, Callable[[Volume], Perturbed]] = {
    **{
        f"{axis} {degrees}": (
            lambda ct, axis=axis, degrees=degrees: perturbed.turned(ct, axis, degrees)
        )
        for axis in "xyz"
        for degrees in (-15, 10)
    },
    "100 HU noise": lambda ct: perturbed.noisy(ct, 100),
    "2 mm slices": lambda ct: perturbed.thicker(ct, 2),
    "3 mm slices": lambda ct: perturbed.thicker(ct, 3),
    "spine only": lambda ct: perturbed.cut(ct, x_mm=(-50, 50), y_mm=(-230, -50)),
    "gantry 18.5": lambda ct: perturbed.gantry_tilted(ct, 18.5),
    "gantry -18.5": lambda ct: perturbed.gantry_tilted(ct, -18.5),
    "without skull": lambda ct: perturbed.cut(ct, z_mm=(530, 735)),
}


@pytest.mark.data
@pytest.mark.parametrize("disturb", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_the_real_neck_disturbed(
    ct: Volume, anatomy: Anatomy, disturb: Callable[[Volume], Perturbed]
) -> None:
    change = disturb(ct)
    found = find_anatomy(change.volume)
    assert found.levels_confirmed
    _like_the_original(found, change, anatomy)


@pytest.mark.data
def test_no_diameter_beside_metal(ct: Volume, anatomy: Anatomy) -> None:
    screws = np.array([level.position_mm for level in anatomy.levels[1:5]])
    change = perturbed.screwed(ct, screws)
    found = find_anatomy(change.volume)
    _like_the_original(found, change, anatomy)
    assert {"C4", "C5", "C6"} <= found.canal_ap_withheld.keys()
    assert "metal" in found.canal_ap_withheld["C5"]
    assert any("withheld" in warning for warning in found.warnings)


@pytest.mark.data
def test_levels_without_ribs_are_unconfirmed(ct: Volume) -> None:
    found = find_anatomy(perturbed.cut(ct, z_mm=(622, 900)).volume)
    assert not found.levels_confirmed
    assert any("unconfirmed" in warning for warning in found.warnings)


DECLINED: dict[str, tuple[Callable[[Volume], Perturbed], str]] = {
    "5 mm slices": (lambda ct: perturbed.thicker(ct, 5), "slices.coarse"),
    "head to C1": (lambda ct: perturbed.cut(ct, z_mm=(735, 900)), "canal.short"),
    "head to C5": (lambda ct: perturbed.cut(ct, z_mm=(660, 900)), "coverage.short"),
    "from C2 down": (lambda ct: perturbed.cut(ct, z_mm=(0, 720)), "coverage.no_anchor"),
    "from C3 down": (lambda ct: perturbed.cut(ct, z_mm=(0, 695)), "coverage.no_anchor"),
    "chest": (lambda ct: perturbed.cut(ct, z_mm=(0, 640)), "coverage.no_anchor"),
    "front to back": (lambda ct: perturbed.flipped(ct, [1]), "canal.bodies"),
    "upside down": (lambda ct: perturbed.flipped(ct, [0]), "skull.caudal"),
    "without intercept": (lambda ct: perturbed.rescaled(ct, 1, 1024), "hu.scale"),
    "density map": (lambda ct: perturbed.rescaled(ct, 0.1, 0), "hu.scale"),
}


@pytest.mark.data
@pytest.mark.parametrize(("spoil", "code"), DECLINED.values(), ids=DECLINED.keys())
def test_the_real_neck_spoiled(ct: Volume, spoil: Callable[[Volume], Perturbed], code: str) -> None:
    assert declined(spoil(ct).volume).code == code


@cache
def phantom_ct(seed: int, region: str) -> Volume:
    from pipeline.phantom import Region, ct_series, patient

    person = patient(seed)
    return ct_series(person, spacing_mm=(1.5, 1.0, 1.0), region=Region(region))


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5])
def test_phantoms_are_necks(seed: int) -> None:
    from pipeline.phantom import patient
    from pipeline.phantom.landmarks import centerline_mm, discs_mm

    found = find_anatomy(phantom_ct(seed, "neck"))
    line, _ = cKDTree(centerline_mm(patient(seed), 1.0)).query(found.centerline_mm[40:])
    assert np.median(line) <= 2.0
    truth = discs_mm(patient(seed))
    for level in found.levels:
        assert abs(_height_apart_mm(found, level.position_mm, truth[level.name])) <= 4.0


def _height_apart_mm(found: Anatomy, one: Float64, other: Float64) -> float:
    """Difference of heights along the canal: where each is nearest to the centerline."""
    tree = cKDTree(found.centerline_mm)
    return float(tree.query(one)[1] - tree.query(other)[1])


@pytest.mark.parametrize("region", ["head_only", "chest", "lumbar"])
def test_phantoms_of_other_regions_are_declined(region: str) -> None:
    assert declined(phantom_ct(0, region)).code in {
        "canal.absent",
        "canal.short",
        "coverage.no_anchor",
        "coverage.short",
    }


def _water(shape: tuple[int, int, int], hu: float) -> Volume:
    values = np.full(shape, -1000.0, dtype=np.float32)
    values[:, 10:-10, 10:-10] = hu
    grid = Grid.from_steps(shape, np.zeros(3), np.array([[0, 0, 2.0], [0, 1.0, 0], [1.0, 0, 0]]))
    return Volume(values, grid, "1.2.3")


def test_a_water_phantom_has_no_canal() -> None:
    assert declined(_water((60, 120, 120), 40.0)).code == "canal.absent"


def test_air_alone_has_no_soft_tissue() -> None:
    assert declined(_water((60, 120, 120), -1000.0)).code == "hu.scale"


def test_the_chain_needs_both_anchors_to_skip_a_fused_disc() -> None:
    arc = np.arange(0.0, 160.0, 0.5)
    discs = np.array([30.0, 46, 62, 78, 94, 112])
    evidence = np.full(arc.size, -0.5)
    for disc in np.delete(discs, 2):  # the third is fused and does not show
        evidence += 2.0 * np.exp(-0.5 * ((arc - disc) / 1.5) ** 2)
    gaps = [16.0, 16, 16, 16, 18]
    chain = best_chain(evidence, arc, gaps, Anchor(30, 5), Anchor(112, 4), 5)
    assert np.allclose(arc[list(chain.heights)], discs, atol=1.0)


def test_a_plane_checks_itself() -> None:
    with pytest.raises(ValueError, match="right"):
        MidsagittalPlane(np.zeros(3), np.array([1.0, 0, 0]))
    plane = MidsagittalPlane(np.array([5.0, 0, 0]), np.array([-1.0, 0, 0]))
    assert np.allclose(plane.mirrored(np.array([[8.0, 1, 2]])), [[2.0, 1, 2]])
