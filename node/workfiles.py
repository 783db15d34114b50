"""What a run keeps between its steps: one file a step, whole or absent, removed when it is closed.

A worker that died in a later step goes on from these, so they hold arrays and figures only, no
header of the CT: `work/JOB_ID-RUN/stack.npz` and `synthesis.npz` in the data folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np

from node.durable import sync_folder, write_file
from node.errors import NoSpace
from node.faults import Point, reach
from pipeline.course import Course
from pipeline.geometry import Float32, Grid, Volume
from pipeline.hyperintensity import Areas
from pipeline.places import Mask, Places

FORMAT: Final = 4
"""Of the files. What another version of the program kept is made again, so that no result has half
of what this one would give it."""

_COURSE: Final = dataclasses.fields(Course)


@dataclass(frozen=True, eq=False)
class Prepared:
    """The sagittal stack of a CT that passed the gate.

    Args:
        stack: HU on the grid of the model.
        places: Parts of the spine in it.
        course: Of the canal, between its walls.
        header_uids: SOP Instance UIDs of the CT in slice order.
        measurements: JSON: what the gate measured.
        warnings: What a reader of the result should know.
        side_notes: Row of the stack and short text, for the margin: the names of the levels.
        timings_s: Seconds by stage.
    """

    stack: Volume
    places: Places
    course: Course
    header_uids: tuple[str, ...]
    measurements: Mapping[str, Any]
    warnings: tuple[str, ...]
    side_notes: tuple[tuple[int, str], ...]
    timings_s: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Made:
    """The result of the model, before it is marked.

    Args:
        images: ``(contrast, slice, row, column)`` signal relative to CSF, float32.
        spread: The same shape, or empty when no ensemble was run.
        unsupported: ``(slice, row, column)``; None when the support is not known.
        areas: As `pipeline.hyperintensity.unsupported_areas` finds them; None without support.
        contrasts: Names along the first axis; all there are, whichever are delivered.
        grid: Where the images are.
        foot_notes: For the margin, as `pipeline.labeling.mark` takes them.
        warnings: What a reader of the result should know.
        facts: JSON: seed, samples, device, dtype, model, fidelity, as the synthesis reports them.
        timings_s: Seconds by stage.
    """

    images: Float32
    spread: Float32
    unsupported: Mask | None
    areas: Areas | None
    contrasts: tuple[str, ...]
    grid: Grid
    frame_of_reference_uid: str
    foot_notes: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: Mapping[str, Any]
    timings_s: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.images.shape != (len(self.contrasts), *self.grid.shape):
            raise ValueError(
                f"images are {self.images.shape}, expected {len(self.contrasts)} contrasts of"
                f" {self.grid.shape}"
            )


class WorkFiles:
    """The work folder of one run.

    Args:
        folder: Of all runs; made when missing.
        job_id: Of the synthesis.
        run: A retry starts with nothing of the run before it.
    """

    def __init__(self, folder: Path, job_id: str, run: int) -> None:
        self._folder: Final = folder / f"{job_id}-{run}"

    def save_prepared(self, prepared: Prepared) -> None:
        """Keep the stack, durably."""
        facts = {
            "frame_of_reference_uid": prepared.stack.frame_of_reference_uid,
            "header_uids": list(prepared.header_uids),
            "measurements": dict(prepared.measurements),
            "warnings": list(prepared.warnings),
            "side_notes": list(prepared.side_notes),
            "vertebrae": list(prepared.places.names),
            "timings_s": dict(prepared.timings_s),
        }
        self._save(
            "stack.npz",
            facts,
            values=prepared.stack.values,
            affine=prepared.stack.grid.affine,
            regions=prepared.places.regions,
            vertebrae=prepared.places.vertebrae,
            **{f"course_{part.name}": getattr(prepared.course, part.name) for part in _COURSE},
        )

    def load_prepared(self) -> Prepared | None:
        """The stack, or None when the step that keeps it must run (again)."""
        loaded = self._load("stack.npz")
        if loaded is None:
            return None
        facts, arrays = loaded
        values = arrays["values"]
        grid = Grid(values.shape, arrays["affine"])
        return Prepared(
            Volume(values, grid, facts["frame_of_reference_uid"]),
            Places(arrays["regions"], arrays["vertebrae"], tuple(facts["vertebrae"])),
            Course(**{part.name: arrays[f"course_{part.name}"] for part in _COURSE}),
            tuple(facts["header_uids"]),
            facts["measurements"],
            tuple(facts["warnings"]),
            tuple((row, text) for row, text in facts["side_notes"]),
            facts["timings_s"],
        )

    def save_made(self, made: Made) -> None:
        """Keep the result of the model, durably."""
        facts = {
            "contrasts": list(made.contrasts),
            "frame_of_reference_uid": made.frame_of_reference_uid,
            "foot_notes": list(made.foot_notes),
            "warnings": list(made.warnings),
            "facts": dict(made.facts),
            "timings_s": dict(made.timings_s),
        }
        arrays = {"images": made.images, "spread": made.spread, "affine": made.grid.affine}
        if made.unsupported is not None:
            arrays["unsupported"] = made.unsupported
        if made.areas is not None:
            arrays["areas"] = made.areas
        self._save("synthesis.npz", facts, **arrays)

    def load_made(self) -> Made | None:
        """The result, or None when the step that keeps it must run (again)."""
        loaded = self._load("synthesis.npz")
        if loaded is None:
            return None
        facts, arrays = loaded
        images = arrays["images"]
        return Made(
            images,
            arrays["spread"],
            arrays.get("unsupported"),
            arrays.get("areas"),
            tuple(facts["contrasts"]),
            Grid(images.shape[1:], arrays["affine"]),
            facts["frame_of_reference_uid"],
            tuple(facts["foot_notes"]),
            tuple(facts["warnings"]),
            facts["facts"],
            facts["timings_s"],
        )

    def hand_on(self, following: WorkFiles) -> None:
        """Leave everything to a later run of the same job, which may have begun."""
        with contextlib.suppress(OSError):
            self._folder.rename(following._folder)
        self.remove()

    def remove(self) -> None:
        """Forget the run; harmless when it is forgotten."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _save(self, name: str, facts: Mapping[str, Any], **arrays: Any) -> None:
        content = io.BytesIO()
        text = json.dumps({**facts, "format": FORMAT}, sort_keys=True, allow_nan=False)
        np.savez(content, facts=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)
        try:
            self._write(name, content.getbuffer())
        except OSError as error:
            if not NoSpace.is_cause(error):
                raise
            # What was written of it only makes the disk fuller.
            (self._folder / f"{name}.part").unlink(missing_ok=True)
            raise NoSpace(f"the work folder's disk is full: {error.strerror}") from error

    def _write(self, name: str, content: memoryview) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"{name}.part"
        write_file(part, content)
        reach(Point.WORK_WRITTEN)
        part.replace(self._folder / name)
        # The file's name, the folder's, and that of the folder of all: a step that the engine has
        # on record is not run again.
        for folder in (self._folder, self._folder.parent, self._folder.parent.parent):
            sync_folder(folder)
        reach(Point.WORK_DURABLE)

    def _load(self, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        try:
            with np.load(self._folder / name, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        except (FileNotFoundError, BadZipFile):
            return None
        facts: dict[str, Any] = json.loads(arrays.pop("facts").tobytes())
        return (facts, arrays) if facts.get("format") == FORMAT else None
