"""`demo`: the journey on the screen while it happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from node.commands.common import Exit, err, local_time, out, print_json, table
from node.demo import Outcome, Sight, run
from node.journey import STAGES, Journey


def demo(ct_folder: Path | None, folder: Path, as_json: bool) -> None:
    """Run the demo and tell where things are."""
    began = time.monotonic()
    if as_json:
        outcome = run(ct_folder, folder, lambda sight: None)
    else:
        try:
            with Live(Text("starting"), console=out, refresh_per_second=8) as live:
                outcome = run(
                    ct_folder,
                    folder,
                    lambda sight: live.update(_screen(sight, time.monotonic() - began)),
                )
        finally:
            if not out.is_terminal:
                # Into a file, the live table is printed once and without the end of its last line.
                out.print()
    elapsed_s = time.monotonic() - began
    if as_json:
        print_json(_summary(outcome, elapsed_s))
    else:
        _tell(outcome, elapsed_s)
    if outcome.is_done:
        return
    for uid, journey in outcome.journeys.items():
        state = journey.state if journey else "not received"
        reason = journey.reason if journey else f"see {outcome.folder / 'node' / 'node.log'}"
        err.print(f"[bold]{state}[/bold] series {uid}: {reason}", highlight=False)
    raise typer.Exit(Exit.DECLINED if outcome.is_declined else Exit.FAILED)


def _screen(sight: Sight, elapsed_s: float) -> Group:
    """What is shown at a moment."""
    head = Text.assemble((f"{elapsed_s:5.0f} s  ", "dim"), (sight.step, "bold"))
    parts: list[Any] = [head]
    if sight.total:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            "  sent",
            ProgressBar(total=sight.total, completed=sight.sent, width=40),
            f"{sight.sent} of {sight.total}",
        )
        parts.append(bar)
    for uid, journey in list((sight.journeys or {}).items())[:4]:
        parts.append(_journey(uid, journey))
    return Group(*parts)


def _journey(uid: str, journey: Journey | None) -> Table:
    """The stages of one series, with their times."""
    rows = table(f"series ...{uid[-12:]}", "when", "seconds after the last instance")
    if journey is None:
        return rows
    reached = [stage for stage in STAGES if stage in journey.moments]
    for stage in STAGES:
        if stage in reached:
            seconds = journey.seconds_between("received", stage)
            when = local_time(journey.moments[stage])[11:]
            rows.add_row(f"[green]{stage}[/green]", when, f"{seconds:.1f}")
        elif not journey.is_over:
            rows.add_row(f"[dim]{stage}[/dim]", "", "")
    if journey.is_declined or journey.state == "failed":
        rows.add_row(f"[red]{journey.state}[/red]", "", journey.reason or "")
    return rows


def _tell(outcome: Outcome, elapsed_s: float) -> None:
    for journey in outcome.journeys.values():
        if journey is not None and journey.timings_s:
            parts = ", ".join(f"{name} {s:.1f}" for name, s in journey.timings_s.items())
            out.print(f"[dim]seconds by stage: {parts}[/dim]", highlight=False)
    if outcome.is_done:
        out.print(f"{len(outcome.results)} instances arrived, after {elapsed_s:.0f} s in all")
        out.print(f"  picture     {outcome.picture}")
        out.print(f"  DICOM       {outcome.folder / 'dicom'}")
    out.print(f"  provenance  {outcome.provenance}")
    out.print(f"  node's log  {outcome.folder / 'node' / 'node.log'}")


def _summary(outcome: Outcome, elapsed_s: float) -> dict[str, Any]:
    return {
        "elapsed_s": round(elapsed_s, 2),
        "instances": len(outcome.results),
        "picture": outcome.picture,
        "dicom": outcome.folder / "dicom",
        "provenance": outcome.provenance,
        "series": {
            uid: None
            if journey is None
            else {
                "state": journey.state,
                "reason": journey.reason,
                "job_id": journey.job_id,
                "moments": dict(journey.moments),
                "timings_s": dict(journey.timings_s),
            }
            for uid, journey in outcome.journeys.items()
        },
    }
