"""`bench journey`: from the last C-STORE response to the last stored result."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from node import demo
from node.clock import from_text
from node.commands.common import Exit, err, out, print_json, table
from node.demo import Sight
from node.journey import Journey
from node.loopback import local_destination, local_node


def journey(
    ct_folder: Path | None, folder: Path | None, samples: int | None, as_json: bool
) -> None:
    """Run one journey and tell how long each part of it took."""
    with _folder(folder) as place:
        with err.status("preparing the CT"):
            ct = demo.phantom_ct(place / "phantom") if ct_folder is None else demo.own_ct(ct_folder)
        report = _measure(ct, place, samples)
    if as_json:
        print_json(report)
    else:
        _tell(report)
    if report["state"] != "committed":
        raise typer.Exit(Exit.FAILED)


def _measure(ct: demo.CT, place: Path, samples: int | None) -> dict[str, Any]:
    changes = {} if samples is None else {"synthesis": {"samples": samples}}
    with (
        local_destination(place / "dicom", place / "pacs.log") as pacs,
        err.status("starting the node") as words,
        local_node(place / "node", [demo.as_destination(pacs)], changes) as node,
    ):
        began = time.time()
        series = demo.send_ct(ct, node, lambda sight: words.update(_words(sight)))
        answered = time.time()
        journeys = demo.watch(node.ledger, series, lambda sight: words.update(_words(sight)))
        peaks = node.peak_rss_bytes()
    stored = [path.stat().st_mtime for path in (place / "dicom").rglob("*.dcm")]
    seen = next((one for one in journeys.values() if one is not None and one.job_id), None)
    return {
        "state": seen.state if seen else "no synthesis",
        "instances_sent": len(ct.files),
        "instances_stored": len(stored),
        "sending_s": round(answered - began, 3),
        "journey_s": round(max(stored) - answered, 3) if stored else None,
        "stages_s": _stages(seen, answered, max(stored)) if seen and stored else {},
        "pipeline_s": dict(seen.timings_s) if seen else {},
        "peak_rss_mb": {role: round(peak / 1e6) for role, peak in peaks.items()},
        "processors": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _stages(seen: Journey, answered: float, stored: float) -> dict[str, float]:
    """Seconds of each stretch; together they are the journey."""
    moments = {name: from_text(text).timestamp() for name, text in seen.moments.items()}
    marks = [
        ("waiting for completeness", answered, moments["complete"]),
        ("selection", moments["complete"], moments["selected"]),
        ("queue", moments["selected"], moments["running"]),
        ("synthesis and packaging", moments["running"], moments["packaged"]),
        ("delivery", moments["packaged"], stored),
    ]
    return {name: round(end - begin, 3) for name, begin, end in marks}


def _tell(report: dict[str, Any]) -> None:
    rows = table("stage", "seconds")
    rows.add_row("sending the CT", f"{report['sending_s']:.2f}")
    for name, seconds in report["stages_s"].items():
        rows.add_row(name, f"{seconds:.2f}")
        if name.startswith("synthesis"):
            for part, part_s in report["pipeline_s"].items():
                rows.add_row(f"  [dim]{part}[/dim]", f"[dim]{part_s:.2f}[/dim]")
    if report["journey_s"] is not None:
        rows.add_row("[bold]last answer to last result[/bold]", f"[bold]{report['journey_s']:.2f}")
    out.print(rows)
    peaks = ", ".join(f"{role} {peak} MB" for role, peak in report["peak_rss_mb"].items())
    out.print(
        f"{report['instances_sent']} CT instances, {report['instances_stored']} results;"
        f" peak memory: {peaks}; {report['processors']} processors,"
        f" load average {report['load_average']}",
        highlight=False,
    )


def _words(sight: Sight) -> str:
    share = f" {sight.sent} of {sight.total}" if sight.total else ""
    states = ", ".join(one.state for one in (sight.journeys or {}).values() if one is not None)
    return f"{sight.step}{share} {states}"


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="pseudomri-bench-") as name:
        yield Path(name)
