"""`audit reproduce`: a result made again from the archived CT, compared with the record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from node.archive import Archive
from node.commands.common import Exit, open_node, out, print_json
from node.commands.making import progress, run, synthesis_settings
from node.errors import Refuse
from node.intact import intact_source
from node.ledger import Ledger
from node.ledger.entries import Output, SynthesisEntry
from node.program import program_digest
from node.stages import PackagedInstance
from node.workflow import order_of


def reproduce(
    config: Path | None,
    uid: str,
    model_folder: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Make a job's outputs again from the archived CT and compare the pixels."""
    settings, ledger, archive = open_node(config)
    entry = ledger.syntheses.get(_job_of(ledger.reports.show(uid)))
    recorded = ledger.syntheses.outputs(entry.job_id)
    if not recorded:
        raise Refuse(f"job {entry.job_id[:12]} is {entry.state}; it has no outputs to reproduce")
    sources = _sources(ledger, archive, entry)
    wanted = synthesis_settings(settings, entry.contrasts, None, model_folder, device)
    # torch, only after all that can be wrong without it
    from node.computing import load, real_stages  # noqa: PLC0415

    with progress(as_json) as (say, told):
        say("loading the model")
        model = load(wanted)
        if model.digest != entry.model_digest:
            raise Refuse(
                f"expected model {entry.model_digest[:12]}, found {model.digest[:12]}; name the"
                " folder of the model that made it with --model"
            )
        stages = real_stages(model, settings.node.zone, told)
        _, _, instances = run(stages, sources, order_of(entry), say)
        again = list(instances)
    verdict = {
        "job_id": entry.job_id,
        **_compared(recorded, again),
        "same_program": entry.parameters.get("program") == program_digest(),
        "device": f"{model.device} {model.dtype}",
    }
    _tell(verdict, as_json)


def _compared(recorded: Sequence[Output], again: Sequence[PackagedInstance]) -> dict[str, Any]:
    """Which instances have the pixels on record, and which are the very files."""
    made = {one.sop_instance_uid: one for one in again}
    known = {one.sop_instance_uid: one for one in recorded}
    same = {
        uid
        for uid in known.keys() & made.keys()
        if known[uid].pixel_digest == made[uid].pixel_digest
    }
    files = [uid for uid in same if _digest(made[uid]) == known[uid].digest]
    return {
        "instances": len(known),
        "identical_pixels": len(same),
        "identical_files": len(files),
        "different": sorted((known.keys() | made.keys()) - same),
    }


def _tell(verdict: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(verdict)
    else:
        out.print(
            f"{verdict['identical_pixels']} of {verdict['instances']} instances have the same"
            f" pixels again, {verdict['identical_files']} are the same files",
            highlight=False,
        )
        if not verdict["same_program"]:
            out.print("another program made them: where it drew differently, pixels differ")
    if verdict["different"]:
        raise typer.Exit(Exit.FAILED)


def _sources(ledger: Ledger, archive: Archive, entry: SynthesisEntry) -> dict[str, Path]:
    """The archived files of a job's CT by SOP Instance UID, each compared with the record."""
    held = ledger.series.get(entry.series_uid)
    known = {one.sop_instance_uid: one for one in held.instances} if held else {}
    if missing := sorted(entry.sources.keys() - known.keys()):
        raise Refuse(f"expected instance {missing[0]} on record, found none")
    return {
        uid: intact_source(archive, known[uid], digest) for uid, digest in entry.sources.items()
    }


def _job_of(story: Mapping[str, Any]) -> str:
    """The one job that a story is about.

    Raises:
        Refuse: When it is about none or several.
    """
    if "job_id" in story:
        return str(story["job_id"])
    jobs = [job["job_id"] for job in story.get("syntheses", [])] or story.get("used_by", [])
    if len(jobs) != 1:
        raise Refuse(f"expected the UID of one synthesis or output, found {len(jobs)} syntheses")
    return str(jobs[0])


def _digest(instance: PackagedInstance) -> str:
    return hashlib.sha256(instance.content).hexdigest()
