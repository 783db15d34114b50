"""The stages as they really are: the pipeline from CT files to labelled instances.

Importing this module brings torch in; only the worker and the direct command do.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo
from pathlib import Path

import numpy as np
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy.interpolate import make_interp_spline

from config.settings import SynthesisSettings
from node.clock import from_text
from node.codestream import check_codestreams
from node.errors import Retry, Stop
from node.logs import describe
from node.stages import Order, PackagedInstance, Stages
from node.workfiles import Made, Prepared
from pipeline.anatomy import Anatomy, find_anatomy
from pipeline.canal_width import mid_vertebrae
from pipeline.contrast import ALL_CONTRASTS, Contrast, SeriesKind
from pipeline.course import anatomy_course
from pipeline.fidelity import SHARES, Fidelity, foot_notes, measure_fidelity
from pipeline.geometry import Float32, Grid, Volume
from pipeline.hyperintensity import Areas, facts_of, outlined, unsupported_areas
from pipeline.levels import GAP_MM
from pipeline.narrowing import Narrowing, find_narrowings, hatch_faint
from pipeline.places import find_places
from pipeline.provenance import pixel_digest, software_versions
from pipeline.reformat import sagittal_stack
from pipeline.secondary_capture import Equipment, build_series
from pipeline.support import hatched
from pipeline.synthesis import Model, Synthesis, load_model, synthesize
from pipeline.volume import CTSeries, read_series

Progress = Callable[[int, int], None]
"""Told how much of how much is done."""

# "levels unconfirmed" in lines that the margin holds, one under the other.
UNCONFIRMED = ("levels", "uncon-", "firmed")
UNCONFIRMED_ROWS = 12

# What the margin of the support map says instead of the shares.
LEGEND = "HATCHED: THE CT DOES NOT SUPPORT WHAT IS DRAWN"


def load(settings: SynthesisSettings) -> Model:
    """The model of the settings, in memory and run once, so that no patient waits for it.

    Raises:
        Stop: When there is no such model.
        Retry: When the device does not run it now: no driver, no memory, no CUDA in this torch.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = None if settings.device == "auto" else settings.device
    wanted = settings.model_folder or "the built-in model"
    expected = f"expected to run {wanted} on device {settings.device}"
    try:
        model = load_model(settings.model_folder, device)
        blank = np.full((1, 256, 256), -1024, dtype=np.float32)
        synthesize(Volume(blank, Grid(blank.shape, np.eye(4)), "2.25.0"), model, samples=0)
    except (OSError, ValueError) as error:
        raise Stop(f"{expected}: {describe(error)}; check synthesis.model_folder") from error
    except (RuntimeError, AssertionError) as error:
        # torch's own words, which nobody else has: no patient has been near it yet.
        said = str(error).partition("\n")[0]
        raise Retry(
            f"{expected}: {said}; check the driver, what else uses the device, and synthesis.device"
        ) from error
    return model


def real_stages(
    model: Model, time_zone: tzinfo | None = None, progress: Progress | None = None
) -> Stages:
    """The stages around a loaded model.

    Args:
        model: As `pipeline.synthesis.load_model` gives it.
        time_zone: Of the site; None for that of this host.
        progress: Told slices done and slices in all while the model runs.
    """
    equipment = Equipment(software_versions(), time_zone=time_zone)

    def run(prepared: Prepared, order: Order) -> Made:
        result = synthesize(
            prepared.stack,
            model,
            seed=order.identity.seed,
            samples=order.samples,
            progress=progress,
        )
        return judged(result, prepared, model)

    def write(
        made: Made, prepared: Prepared, headers: Sequence[Dataset], order: Order
    ) -> Iterator[PackagedInstance]:
        return package(made, prepared, headers, order, equipment)

    return Stages(model_digest=model.digest, prepare=prepare, synthesize=run, package=write)


def judged(result: Synthesis, prepared: Prepared, model: Model) -> Made:
    """A synthesis with its fidelity record, ready to be marked.

    Raises:
        Declined: ``fidelity.*``, when a figure is out of all proportion.
    """
    began = time.perf_counter()
    reference = model.calibration.reference if model.calibration else None
    areas = _areas(result, prepared)
    result = hatch_faint(result, prepared.course)
    fidelity = measure_fidelity(prepared.stack, result, prepared.places, reference)
    fidelity.check()
    narrowed = _narrowed(result, prepared)
    outlines = None if areas is None else facts_of(areas, result.grid.spacing_mm)
    elapsed_s = time.perf_counter() - began
    spread = [result.spread[contrast] for contrast in ALL_CONTRASTS] if result.spread else []
    return Made(
        images=np.stack([result.images[contrast] for contrast in ALL_CONTRASTS]),
        spread=np.array(spread, dtype=np.float32),
        unsupported=None if result.support is None else result.support.marked,
        areas=areas,
        contrasts=tuple(str(contrast) for contrast in ALL_CONTRASTS),
        grid=result.grid,
        frame_of_reference_uid=result.frame_of_reference_uid,
        foot_notes=foot_notes(
            fidelity,
            has_outlines=bool(outlines),
            narrowed=_faintest_first(narrowed),
            shortfall=_shortfall(result, model),
        ),
        warnings=(
            *_outlined(outlines),
            *(one.sentence() for one in narrowed),
            *fidelity.warnings,
            *_shortfalls(result, model),
        ),
        facts={
            **_facts(result, fidelity, model),
            "outlined": outlines,
            "narrowed": [one.to_json() for one in narrowed],
        },
        timings_s={
            name: round(s, 3) for name, s in {**result.timings_s, "fidelity": elapsed_s}.items()
        },
    )


def _areas(result: Synthesis, prepared: Prepared) -> Areas | None:
    """What is bright on STIR without support; None when the support is not known."""
    if result.support is None:
        return None
    stir, spacing_mm = result.images[Contrast.STIR], result.grid.spacing_mm
    return unsupported_areas(stir, result.support.unsupported, prepared.places, spacing_mm)


def _narrowed(result: Synthesis, prepared: Prepared) -> tuple[Narrowing, ...]:
    """Where the drawn CSF hints at a narrowed canal."""
    found = prepared.measurements
    names = found["levels_mm"] if found["levels_confirmed"] else {}
    return find_narrowings(result.images[Contrast.T2], prepared.course, names)


def _faintest_first(narrowed: Sequence[Narrowing]) -> tuple[str, ...]:
    """For the margin, which holds two of them; the record goes from head to foot."""
    faintest = sorted(narrowed, key=lambda one: one.csf)
    return tuple(dict.fromkeys(one.near for one in faintest))


def _outlined(outlines: Sequence[object] | None) -> tuple[str, ...]:
    if not outlines:
        return ()
    return (
        f"outlined: {len(outlines)} bright areas on STIR may be invented. Read the CT there,"
        " and an MRI where the question needs one.",
    )


def _shortfall(result: Synthesis, model: Model) -> str | None:
    """For the margin: that a hatch is there whose intervals promise nothing."""
    calibration = model.calibration
    if calibration is None or not 0 < result.samples < calibration.samples:
        return None
    return f"HATCH NOT CALIBRATED: {result.samples} OF {calibration.samples} SAMPLES"


def _shortfalls(result: Synthesis, model: Model) -> tuple[str, ...]:
    """Why the support map promises less than it could."""
    calibration = model.calibration
    if calibration is None:
        return ("support not calibrated: this model has no calibration.json",)
    if not result.samples:
        return ("no support map: it needs samples, and synthesis.samples is 0",)
    if result.samples < calibration.samples:
        return (
            f"support calibrated with {calibration.samples} samples, drawn {result.samples}: its"
            " intervals promise nothing; set synthesis.samples",
        )
    return ()


def _facts(result: Synthesis, fidelity: Fidelity, model: Model) -> dict[str, object]:
    """How the synthesis came about, as JSON for the record."""
    calibration = model.calibration
    return {
        "seed": result.seed,
        "samples": result.samples,
        "device": result.device,
        # Another number of threads sums in another order: other bits, and the same picture but for
        # an area whose support lies at a limit.
        "threads": torch.get_num_threads(),
        "dtype": result.dtype,
        "spread": {str(name): _summary(values) for name, values in result.spread.items()},
        "doubt": {str(name): _summary(values) for name, values in result.doubt.items()},
        "support": None
        if result.support is None or calibration is None
        else {
            "alpha": calibration.alpha,
            "delta": calibration.delta,
            "limit": calibration.limit,
            "lambdas": {str(name): scale for name, scale in calibration.lambdas.items()},
            "unsupported": round(float(result.support.marked.mean()), 4),
        },
        "fidelity": fidelity.to_json(),
    }


def _summary(values: Float32) -> dict[str, float]:
    """How large spread or doubt are, in units of signal (CSF = 1), for the record."""
    median, high = np.percentile(values, (50, 95))
    return {"median": round(float(median), 4), "p95": round(float(high), 4)}


def prepare(paths: Sequence[Path]) -> Prepared:
    """From CT files, in any order, to the sagittal stack of the model.

    Raises:
        Declined: When the series is no gapless cervical CT, with what was found.
    """
    began = time.perf_counter()
    datasets = [dcmread(path) for path in paths]
    check_codestreams(datasets)
    series = read_series(datasets)
    was_read = time.perf_counter()
    anatomy = find_anatomy(series.volume)
    was_found = time.perf_counter()
    stack = sagittal_stack(series.volume, anatomy)
    discs_mm = {level.name: level.disc_mm for level in anatomy.levels}
    places = find_places(stack, anatomy.centerline_mm, discs_mm)
    course = anatomy_course(anatomy, stack.grid).between_walls(stack.values)
    was_cut = time.perf_counter()
    return Prepared(
        stack=stack,
        places=places,
        course=course,
        header_uids=tuple(str(header.SOPInstanceUID) for header in series.headers),
        measurements=_measurements(series, anatomy),
        warnings=anatomy.warnings,
        side_notes=side_notes(anatomy, stack.grid),
        timings_s={
            "read": round(was_read - began, 3),
            "anatomy": round(was_found - was_read, 3),
            "reformat": round(was_cut - was_found, 3),
        },
    )


def package(
    made: Made,
    prepared: Prepared,
    headers: Sequence[Dataset],
    order: Order,
    equipment: Equipment,
) -> Iterator[PackagedInstance]:
    """The labelled instances of every series, each as the bytes of its file.

    Args:
        made: Images of the model.
        prepared: The stack they were made from.
        headers: Of the CT, without pixel data, in slice order.
        order: Whose they are.
        equipment: Who made them.
    """
    for kind, values in _series_values(made, order.identity.contrasts):
        is_support = kind is SeriesKind.SUPPORT
        series = build_series(
            values,
            made.grid,
            made.frame_of_reference_uid,
            kind,
            headers,
            order.identity,
            from_text(order.created_at),
            equipment,
            prepared.side_notes,
            _legend(made.foot_notes) if is_support else made.foot_notes,
        )
        for index, ds in enumerate(series):
            content = io.BytesIO()
            ds.save_as(content, enforce_file_format=True)
            yield PackagedInstance(
                str(ds.SOPInstanceUID),
                str(ds.SeriesInstanceUID),
                str(kind),
                index,
                pixel_digest(ds.PixelData),
                content.getvalue(),
            )


def _series_values(
    made: Made, contrasts: Sequence[Contrast]
) -> Iterator[tuple[SeriesKind, Float32]]:
    """What each series shows: the contrasts that are wanted, and T2 under the hatch.

    All of them with the outlines: each may be looked at without the others.
    """
    images = dict(zip(made.contrasts, made.images, strict=True))
    shown = [(SeriesKind(contrast), images[contrast]) for contrast in contrasts]
    if made.unsupported is not None:
        shown.append((SeriesKind.SUPPORT, hatched(images[Contrast.T2], made.unsupported)))
    for kind, image in shown:
        yield kind, image if made.areas is None else outlined(image, made.areas)


def _legend(foot_notes: Sequence[str]) -> tuple[str, ...]:
    """The notes of the support map: its hatch shows the shares, so it is explained instead."""
    first, *others = foot_notes
    return (LEGEND if first.startswith(SHARES) else first, *others)


def side_notes(anatomy: Anatomy, grid: Grid) -> tuple[tuple[int, str], ...]:
    """The vertebrae C2 to T1 at the rows of their middles, or that no name can be trusted."""
    if not anatomy.levels_confirmed:
        first = grid.shape[1] // 2 - UNCONFIRMED_ROWS
        return tuple((first + n * UNCONFIRMED_ROWS, text) for n, text in enumerate(UNCONFIRMED))
    arcs_mm = [level.arc_mm for level in anatomy.levels]
    row_at = make_interp_spline(
        arcs_mm, [grid.to_index(level.disc_mm)[1] for level in anatomy.levels], k=1
    )
    middles = mid_vertebrae(anatomy.levels)
    # T1/2 is a level only where it shows.
    middles.setdefault("T1", arcs_mm[-1] + GAP_MM[-1] / 2)
    rows = [(round(float(row_at(arc_mm))), name) for name, arc_mm in middles.items()]
    # A note needs half its height on both sides.
    return tuple((row, name) for row, name in rows if 8 <= row < grid.shape[1] - 8)


def _measurements(series: CTSeries, anatomy: Anatomy) -> dict[str, object]:
    """What the gate saw, as JSON for the record."""
    return {
        **{name: round(float(value), 4) for name, value in anatomy.measurements.items()},
        "levels_confirmed": anatomy.levels_confirmed,
        "levels_mm": {
            level.name: [round(float(x), 2) for x in level.disc_mm] for level in anatomy.levels
        },
        "canal_ap_mm": {name: round(float(mm), 2) for name, mm in anatomy.canal_ap_mm.items()},
        "canal_ap_withheld": dict(anatomy.canal_ap_withheld),
        "coverage": {
            "canal_mm": round(float(anatomy.coverage.canal_mm), 1),
            "below_skull_mm": round(float(anatomy.coverage.below_skull_mm), 1),
            "upper_anchor": anatomy.coverage.upper_anchor,
        },
        "corrections": list(series.corrections),
        "spacing_mm": [round(float(x), 4) for x in series.volume.grid.spacing_mm],
    }
