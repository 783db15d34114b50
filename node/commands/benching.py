"""`bench synthesis`: the built-in model beside Stable Diffusion 1.5, on the same stack."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from node.commands.common import err, out, print_json, table

if TYPE_CHECKING:
    from pipeline.timing import BuiltIn, Machine, OneSlice, Seconds, Sizes

TARGET_S = 15.0
TARGET_BYTES = 2e9
TARGET_RATIO = 100.0
"""Of image and support map; of the process; of Stable Diffusion's time to ours."""

Measured = TypeVar("Measured")


def synthesis(
    model_folder: Path | None,
    slices: int,
    samples: int,
    sd_steps: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure both, each in a process of its own, and say how far apart they are."""
    # torch, only now; its functions run in the other processes
    from pipeline.reformat import STACK_SHAPE  # noqa: PLC0415
    from pipeline.timing import SD_1_5  # noqa: PLC0415

    shape = (slices, *STACK_SHAPE[1:])
    ours, theirs = measure(model_folder, shape, samples, SD_1_5, sd_steps, device)
    report = report_of(ours, theirs)
    if as_json:
        print_json(report)
    else:
        _tell(report)


def measure(
    model_folder: Path | None,
    shape: tuple[int, int, int],
    samples: int,
    sizes: Sizes,
    sd_steps: int,
    device: str | None,
) -> tuple[BuiltIn, OneSlice]:
    """Both models, one after the other."""
    from pipeline import timing  # noqa: PLC0415

    with err.status("built-in model"):
        ours = apart(timing.built_in, model_folder, shape, samples, device)
    with err.status(f"Stable Diffusion, one slice, {sd_steps} steps"):
        theirs = apart(timing.stable_diffusion, sizes, shape, sd_steps, device)
    return ours, theirs


def apart(function: Callable[..., Measured], *arguments: object) -> Measured:
    """Call a function in a new process, whose peak memory is then the function's."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def report_of(ours: BuiltIn, theirs: OneSlice) -> dict[str, Any]:
    """What was measured, what follows from it, and what the targets say; rounded."""
    image_s = theirs.study_s(ours.slices, 0)
    study_s = theirs.study_s(ours.slices, ours.samples)
    ratios = {
        "image": _ratio(image_s, ours.image_s),
        "image_and_samples": _ratio(study_s, ours.study_s),
    }
    return {
        "slices": ours.slices,
        "samples": ours.samples,
        "processors": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "built_in": {
            "measured": {
                "image_s": _seconds(ours.image_s),
                "image_and_samples_s": _seconds(ours.study_s),
            },
            "parameters": ours.parameters,
            "image_gflop": round(ours.flops / 1e9, 1),
            "share_of_peak": round(ours.share_of_peak, 3),
            **_facts(ours.machine),
        },
        "stable_diffusion": {
            "weights": "random",
            "measured": {
                "slices": 1,
                "contrasts": 1,
                "steps": theirs.steps,
                "encode_s": _seconds(theirs.encode_s),
                "step_s": _seconds(theirs.step_s),
                "decode_s": _seconds(theirs.decode_s),
            },
            "extrapolated": {
                "slices": ours.slices,
                "contrasts": 2,
                "steps": 25,
                "image_s": _seconds(image_s),
                "image_and_samples_s": _seconds(study_s),
            },
            "parameters": theirs.parameters,
            "step_gflop": round(theirs.step_flops / 1e9, 1),
            "share_of_peak": round(theirs.share_of_peak, 3),
            **_facts(theirs.machine),
        },
        "ratio": ratios,
        "targets": {
            "within_15_s": ours.study_s.wall <= TARGET_S,
            "within_2_gb": ours.machine.rss_bytes <= TARGET_BYTES,
            "100_times_faster": all(
                ratio >= TARGET_RATIO for one in ratios.values() for ratio in one.values()
            ),
        },
    }


def _seconds(took: Seconds) -> dict[str, float]:
    return {"wall": round(took.wall, 3), "processor": round(took.processor, 3)}


def _ratio(theirs: Seconds, ours: Seconds) -> dict[str, float]:
    return {
        "wall": round(theirs.wall / ours.wall, 1),
        "processor": round(theirs.processor / ours.processor, 1),
    }


def _facts(machine: Machine) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "peak_rss_mb": round(machine.rss_bytes / 1e6),
        "device": machine.device,
        "device_name": machine.name,
        "dtype": machine.dtype,
        "threads": machine.threads,
        "matrix_product_gflops": round(machine.peak_flops / 1e9),
    }
    if machine.device_bytes:
        facts["peak_device_mb"] = round(machine.device_bytes / 1e6)
    return facts


def _tell(report: dict[str, Any]) -> None:
    ours, theirs = report["built_in"], report["stable_diffusion"]
    was, one, far = ours["measured"], theirs["measured"], theirs["extrapolated"]
    rows = table("seconds by the clock (of the processor)", "built-in", "Stable Diffusion 1.5")
    rows.add_section()
    rows.add_row("measured", f"{report['slices']} slices, T2 and STIR", "1 slice, random weights")
    rows.add_row("  encoding", "", _words(one["encode_s"]))
    rows.add_row(f"  a step, of {one['steps']}", "", _words(one["step_s"]))
    rows.add_row("  decoding", "", _words(one["decode_s"]))
    steps = f"{far['steps']} steps x {far['slices']} slices x {far['contrasts']} contrasts"
    rows.add_row("", "", f"extrapolated: {steps}")
    rows.add_row("image", _words(was["image_s"]), _words(far["image_s"]))
    many = f"image and {report['samples']} samples"
    rows.add_row(many, _words(was["image_and_samples_s"]), _words(far["image_and_samples_s"]))
    rows.add_row("parameters", f"{ours['parameters']:,}", f"{theirs['parameters']:,}")
    rows.add_row("peak memory, MB", f"{ours['peak_rss_mb']:,}", f"{theirs['peak_rss_mb']:,}")
    shares = (f"{one['share_of_peak']:.0%}" for one in (ours, theirs))
    rows.add_row("of a matrix product's speed", *shares)
    out.print(rows)
    ratio = report["ratio"]
    out.print(
        f"Stable Diffusion takes {_times(ratio['image'])} for the image,"
        f" {_times(ratio['image_and_samples'])} with the samples",
        f"{ours['device_name']}, {ours['device']}, {ours['dtype']}, {ours['threads']} threads,"
        f" {report['processors']} processors, load average {report['load_average']}",
        sep="\n",
        highlight=False,
    )
    for name, is_met in report["targets"].items():
        out.print(f"{name.replace('_', ' ')}: {'yes' if is_met else 'no'}", highlight=False)


def _words(took: dict[str, float]) -> str:
    return f"{took['wall']:,.2f} ({took['processor']:,.2f})"


def _times(ratio: dict[str, float]) -> str:
    return f"{ratio['wall']:,.0f} ({ratio['processor']:,.0f}) times as long"
