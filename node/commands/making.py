"""`synthesize`: the pipeline without the network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from config.settings import SelectionSettings, Settings, SynthesisSettings
from node.candidate import SeriesSummary
from node.clock import to_text, utc_now
from node.commands.common import err, out, print_json, settings_of
from node.errors import Refuse
from node.program import program_digest
from node.selection import Declined as NotSelected
from node.selection import Selected, select
from node.stages import Order, PackagedInstance, Stages
from node.states import SeriesState
from node.summary import Pixels, summarize
from node.workfiles import Made, Prepared
from pipeline.contrast import Contrast
from pipeline.errors import Declined
from pipeline.provenance import (
    JobIdentity,
    job_id,
    seed_of,
    software_versions,
    synthesis_parameters,
)

if TYPE_CHECKING:
    from pipeline.synthesis import Model

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class FolderSeries:
    """One series found in a folder: SOP Instance UID to file, and the headers."""

    uid: str
    files: Mapping[str, Path]
    headers: tuple[Dataset, ...]


def synthesize(
    ct_folder: Path,
    out_folder: Path,
    contrasts: Sequence[str],
    seed: int | None,
    samples: int | None,
    model_folder: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """CT files in, labelled instances out, and how they came about beside them."""
    settings = settings_of(None)
    wanted = synthesis_settings(settings, contrasts, samples, model_folder, device)
    series = _chosen(_series_in(ct_folder), settings.selection, wanted.contrasts)
    # torch, only after all that can be wrong without it
    from node.computing import load, real_stages  # noqa: PLC0415

    with progress(as_json) as (say, told):
        say("loading the model")
        model = load(wanted)
        stages = real_stages(model, settings.node.zone, told)
        order = _order(series, model, wanted, seed)
        prepared, made, instances = run(stages, series.files, order, say)
        written = _write(instances, out_folder)
    record = _record(series, order, model, prepared, made, written)
    (out_folder / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")
    if as_json:
        print_json(record)
        return
    for warning in (*prepared.warnings, *made.warnings):
        err.print(f"[yellow]warning[/yellow] {warning}", highlight=False)
    out.print(f"{len(written)} instances and provenance.json in {out_folder}", highlight=False)


def run(
    stages: Stages, files: Mapping[str, Path], order: Order, say: Callable[[str], None]
) -> tuple[Prepared, Made, Iterator[PackagedInstance]]:
    """A job from its CT to the instances, which are made as they are asked for.

    Args:
        stages: Around a loaded model.
        files: Of the CT, by SOP Instance UID.
        order: What is to be made.
        say: Told what is being done.

    Raises:
        Declined: As the stages.
    """
    say("finding the cervical spine")
    prepared = stages.prepare(list(files.values()))
    say("synthesizing")
    made = stages.synthesize(prepared, order)
    say("packaging")
    headers = [_header_of(files[uid]) for uid in prepared.header_uids]
    return prepared, made, stages.package(made, prepared, headers, order)


def _record(
    series: FolderSeries,
    order: Order,
    model: Model,
    prepared: Prepared,
    made: Made,
    written: list[dict[str, Any]],
) -> dict[str, Any]:
    """How the outputs came about; JSON-ready."""
    return {
        "job_id": order.identity.job_id,
        "series_uid": series.uid,
        "sources": len(series.files),
        "seed": order.identity.seed,
        "samples": order.samples,
        "model": {"name": model.name, "version": model.version, "digest": model.digest},
        "device": f"{model.device} {model.dtype}",
        "software": software_versions(),
        "created_at": order.created_at,
        "measurements": {**prepared.measurements, "synthesis": dict(made.facts)},
        "warnings": [*prepared.warnings, *made.warnings],
        "timings_s": {**prepared.timings_s, **made.timings_s},
        "outputs": written,
    }


def synthesis_settings(
    settings: Settings,
    contrasts: Sequence[str],
    samples: int | None,
    model_folder: Path | None,
    device: str | None,
) -> SynthesisSettings:
    """The configured ones, with what the command line says instead."""
    given = {
        "contrasts": tuple(contrasts) or None,
        "samples": samples,
        "model_folder": model_folder,
        "device": device,
    }
    document = settings.synthesis.model_dump()
    document |= {name: value for name, value in given.items() if value is not None}
    try:
        return SynthesisSettings(**document)
    except ValueError as error:
        raise Refuse(f"expected --contrast T2|STIR, --device cpu|cuda: {error}") from error


def _series_in(folder: Path) -> list[FolderSeries]:
    """The series of all DICOM files under a folder.

    Raises:
        Refuse: When there is no DICOM file.
    """
    if not folder.is_dir():
        raise Refuse(f"expected a folder of DICOM files, found none at {folder}")
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            ds = _header_of(path)
            found.setdefault(str(ds.SeriesInstanceUID), []).append((path, ds))
        except (InvalidDicomError, AttributeError):
            continue
    if not found:
        raise Refuse(f"expected DICOM files in {folder}, found none")
    return [
        FolderSeries(
            uid,
            {str(ds.SOPInstanceUID): path for path, ds in members},
            tuple(ds for _, ds in members),
        )
        for uid, members in found.items()
    ]


def chosen_paths(folder: Path, settings: Settings) -> list[Path]:
    """Files of the CT series in a folder that the node would select.

    Raises:
        Refuse: When the folder holds no DICOM file, or several such series.
        Declined: When the node would select none.
    """
    series = _chosen(_series_in(folder), settings.selection, settings.synthesis.contrasts)
    return list(series.files.values())


def _chosen(
    found: Sequence[FolderSeries], settings: SelectionSettings, contrasts: tuple[str, ...]
) -> FolderSeries:
    """The series that the node would select, by the same rule.

    Raises:
        Declined: With the reason of the last series, when none is selected.
    """
    summaries = [
        SeriesSummary(
            one.uid,
            SeriesState.COMPLETE,
            "",
            tuple(summarize(ds, Pixels.PRESENT, settings.trauma_words) for ds in one.headers),
        )
        for one in found
    ]
    decisions = select(summaries, settings, contrasts)
    selected = [one for one in found if isinstance(decisions[one.uid], Selected)]
    if len(selected) > 1:
        raise Refuse(
            f"expected one CT series to choose from {len(found)}, found {len(selected)} of"
            " different regions; put the one you want into a folder of its own"
        )
    if selected:
        return selected[0]
    reasons = [one for one in decisions.values() if isinstance(one, NotSelected)]
    why = reasons[-1]
    raise Declined(why.code, found=why.found, expected=why.expected, remedy=why.remedy)


def _order(
    series: FolderSeries, model: Model, settings: SynthesisSettings, seed: int | None
) -> Order:
    """What to make, with the identity that the node would give it."""
    digests = {uid: _data_set_digest(path) for uid, path in series.files.items()}
    parameters = synthesis_parameters(settings.samples, program_digest(), seed)
    job = job_id(series.uid, 1, digests, model.digest, settings.contrasts, parameters)
    identity = JobIdentity(
        job_id=job,
        contrasts=tuple(Contrast(name) for name in settings.contrasts),
        seed=seed_of(job) if seed is None else seed,
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
        parameters=parameters,
    )
    return Order(identity, to_text(utc_now()), settings.samples)


def _write(instances: Iterator[PackagedInstance], folder: Path) -> list[dict[str, Any]]:
    written = []
    for one in instances:
        path = folder / one.contrast / f"{one.slice_index:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.content)
        written.append(
            {
                "path": str(path.relative_to(folder)),
                "sop_instance_uid": one.sop_instance_uid,
                "pixel_digest": one.pixel_digest,
            }
        )
    return written


def _header_of(path: Path) -> Dataset:
    """A DICOM file without its pixel data."""
    return dcmread(path, stop_before_pixels=True)


def _data_set_digest(path: Path) -> str:
    """SHA-256 of the data set after the file meta information, as the archive reckons it."""
    content = path.read_bytes()
    meta = dcmread(path, stop_before_pixels=True).file_meta
    # PS3.10 7.1: preamble, prefix and the group length element take 144 bytes.
    start = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    return hashlib.sha256(content[start:]).hexdigest()


@contextmanager
def progress(is_quiet: bool) -> Iterator[tuple[Callable[[str], None], OnProgress]]:
    """A bar that says what is being done and, while the model runs, how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=is_quiet, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def say(what: str) -> None:
            bar.update(task, description=what, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield say, told
