"""`phantom` and `train`: patients who do not exist, and a model that learns from them."""

from __future__ import annotations

import os
from pathlib import Path

from node.commands.common import err, out, print_json
from node.errors import Refuse
from pipeline.phantom import Artifact, Finding, Variation, patient
from pipeline.phantom.dicom import write

FIRST_PAIRS = 40


def phantom(
    folder: Path,
    seed: int,
    findings: list[str],
    artifacts: list[str],
    is_healthy: bool,
    as_json: bool,
) -> None:
    """Write CT, true T2 and STIR of a phantom patient as DICOM, and what is broken."""
    _check("--finding", findings, [finding.value for finding in Finding])
    _check("--artifact", artifacts, [artifact.value for artifact in Artifact])
    disturbed = [Artifact(name) for name in artifacts]
    if findings and is_healthy:
        raise Refuse("expected --finding or --healthy, found both")
    wanted = None if not findings and not is_healthy else [Finding(name) for name in findings]
    with err.status("drawing the patient"):
        # fillings are in the face
        shown = Variation(is_face_blanked=False) if Artifact.DENTAL in disturbed else None
        person = patient(seed, wanted, shown)
        written = write(person, folder, artifacts=disturbed)
    if as_json:
        print_json(
            {
                "seed": seed,
                "injured_level": person.injured_level,
                "findings": [injury.finding.value for injury in person.findings],
                "artifacts": artifacts,
                "ct": len(written.ct),
                "t2": len(written.t2),
                "stir": len(written.stir),
                "folder": folder,
            }
        )
        return
    names = ", ".join(injury.finding.value for injury in person.findings) or "no injury"
    out.print(
        f"phantom {seed} in {folder}: {len(written.ct)} CT, {len(written.t2)} T2 and"
        f" {len(written.stir)} STIR slices; {names}",
        highlight=False,
    )


def _check(option: str, found: list[str], known: list[str]) -> None:
    if unknown := sorted(set(found) - set(known)):
        raise Refuse(f"{option}: expected one of {', '.join(sorted(known))}, found {unknown[0]}")


def train(
    folder: Path,
    patients: int,
    narrowed: int,
    start: Path | None,
    minutes: float | None,
    steps: int | None,
    threads: int,
    device: str,
    is_plain: bool,
    name: str,
    version: str,
) -> None:
    """Train a model on phantom patients; called again, it goes on."""
    # torch, which `phantom` does not need
    import torch  # noqa: PLC0415

    from pipeline.training import card  # noqa: PLC0415
    from pipeline.training.augment import THICKEST_PX, Augmentation  # noqa: PLC0415
    from pipeline.training.data import NARROWED_FROM, NARROWED_TO  # noqa: PLC0415
    from pipeline.training.loop import CannotTrain, TrainingConfig, for_gpu  # noqa: PLC0415
    from pipeline.training.loop import train as run  # noqa: PLC0415
    from pipeline.training.progress import shown  # noqa: PLC0415

    if device not in ("cpu", "cuda"):
        raise Refuse(f"--device: expected cpu or cuda, found {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise Refuse("--device cuda: expected a GPU that torch can use, found none")
    if narrowed > (most := NARROWED_TO - NARROWED_FROM):
        raise Refuse(f"--narrowed: expected at most {most}, found {narrowed}")
    settings = for_gpu(os.cpu_count() or 1) if device == "cuda" else {"min_pairs": FIRST_PAIRS}
    # Training begins with so many patients; there may be fewer in all.
    settings["min_pairs"] = min(settings["min_pairs"], patients + narrowed)
    try:
        config = TrainingConfig(
            work_dir=folder,
            seeds=range(patients),
            narrowed=range(NARROWED_FROM, NARROWED_FROM + narrowed),
            start=start,
            augmentation=Augmentation(thick_px=THICKEST_PX),
            minutes=minutes,
            steps=steps,
            threads=threads,
            is_plain=is_plain,
            name=name,
            version=version,
            **settings,
        )
    except ValueError as error:
        raise Refuse(f"expected --minutes or --steps: {error}") from error
    try:
        with shown(err) as tell:
            model = run(config, tell)
    except CannotTrain as error:
        raise Refuse(str(error)) from error
    with err.status("measuring the model for its card"):
        card.write(config)
    out.print(f"the model and its card are in {model}; use it with --model", highlight=False)
