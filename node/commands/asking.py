"""`status`, `jobs`, `retry`, `dismiss` and `audit`: what the ledger knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from config.settings import Settings
from node import audit, tls
from node.clock import utc_now
from node.commands.common import Exit, err, local_time, open_node, out, print_json, table
from node.errors import IllegalMove, Refuse, Stop
from node.lock import whys
from node.states import SynthesisState


def status(config: Path | None, as_json: bool) -> None:
    """Counts by state, and what needs a person."""
    settings, ledger, archive = open_node(config)
    story = ledger.reports.status()
    story["free_bytes"] = archive.free_bytes()
    story["data_folder"] = str(settings.node.data_folder)
    story["certificates"] = _certificates(settings)
    story["ended_roles"] = whys(settings.node.data_folder)
    if as_json:
        print_json(story)
        return
    rows = table("", "", "")
    for what in ("series", "syntheses", "deliveries", "announcements"):
        for number, (state, count) in enumerate(sorted(story[what].items())):
            rows.add_row(what if number == 0 else "", state, str(count))
    rows.add_row("instances", "received", str(story["instances"]))
    if story["quarantined"]:
        rows.add_row("", "[red]in quarantine[/red]", str(story["quarantined"]))
    rows.add_row("associations", "open", str(story["open_associations"]))
    for one in story["workers"]:
        rows.add_row("worker", one["name"], f"last beat {local_time(one['last_beat_at'])}")
    rows.add_row("disk", "free", f"{story['free_bytes'] / 1e9:.1f} GB")
    rows.add_row("last event", local_time(story["last_event_at"]), "")
    out.print(rows)
    for one in story["certificates"]:
        if one["is_due"]:
            out.print(f"[red]{one['setting']}[/red]: {one['says']}")
    for role, why in story["ended_roles"].items():
        out.print(f"[red]{role}[/red] ended and is tried again: {escape(why)}")
    if failed := story["syntheses"].get(str(SynthesisState.FAILED)):
        out.print(
            f"[red]{failed} failed[/red]: `pseudomri jobs --failed`, then `retry` or `dismiss`"
        )


def _certificates(settings: Settings) -> list[dict[str, Any]]:
    """When each certificate of the settings ends, or why it cannot be used."""
    try:
        ends = tls.expiries(settings.tls, settings.delivery.web_destinations, utc_now())
    except Stop as error:
        setting, _, says = str(error).partition(": ")
        return [{"setting": setting, "is_due": True, "says": says}]
    return [
        {
            "setting": end.setting,
            "not_after": end.not_after.isoformat(),
            "days_left": end.days_left,
            "is_due": end.is_due,
            "says": f"ends in {end.days_left} days, on {end.not_after:%Y-%m-%d}",
        }
        for end in ends
    ]


def jobs(config: Path | None, only_failed: bool, limit: int, as_json: bool) -> None:
    """The latest syntheses, failed ones first."""
    _, ledger, _ = open_node(config)
    failed = ledger.reports.jobs((SynthesisState.FAILED,), limit)
    others = [] if only_failed else ledger.reports.jobs((), limit)
    lines = failed + [line for line in others if line["state"] != SynthesisState.FAILED]
    if as_json:
        print_json(lines[:limit])
        return
    rows = table("job", "state", "created", "contrasts", "delivered to", "reason")
    for line in lines[:limit]:
        where = ", ".join(f"{d['destination']} ({d['state']})" for d in line["deliveries"])
        color = {"failed": "red", "committed": "green", "declined": "yellow"}.get(line["state"], "")
        state = f"[{color}]{line['state']}[/{color}]" if color else line["state"]
        rows.add_row(
            line["job_id"][:12],
            state,
            local_time(line["created_at"]),
            " ".join(line["contrasts"]),
            where,
            line["reason"] or "",
        )
    out.print(rows)


def prove(config: Path | None, port: int | None, as_json: bool) -> None:
    """Send a phantom through the running node."""
    # The phantom's parts, which no other question needs.
    from node.proof import prove as run  # noqa: PLC0415

    settings, ledger, _ = open_node(config)
    proof = run(settings, ledger, port)
    if as_json:
        print_json(proof)
    else:
        for stage, seconds in proof["stages_s"].items():
            out.print(f"{stage:24s} {seconds:8.2f} s")
        out.print(f"{proof['instances']} instances arrived after {proof['elapsed_s']:.1f} s")
    if not proof["ok"]:
        err.print(f"[red]not proven[/red]: {proof['wrong']}")
        raise typer.Exit(Exit.FAILED)


def retry(config: Path | None, job: str, as_json: bool) -> None:
    """Queue a failed synthesis again."""
    _, ledger, _ = open_node(config)
    job_id = ledger.reports.find_job(job)
    try:
        run = ledger.syntheses.retry(job_id, "operator")
    except IllegalMove as error:
        state = ledger.syntheses.get(job_id).state
        hint = (
            "the same CT would be declined again"
            if state == SynthesisState.DECLINED
            else "only a failed or dismissed job can be retried"
        )
        raise Refuse(f"job {job_id[:12]} is {state}; {hint}") from error
    if as_json:
        print_json({"job_id": job_id, "run": run})
    else:
        out.print(f"job {job_id[:12]} is queued, run {run}; the running node takes it up")


def dismiss(config: Path | None, job: str, reason: str, as_json: bool) -> None:
    """Settle a failed synthesis for good."""
    _, ledger, _ = open_node(config)
    job_id = ledger.reports.find_job(job)
    try:
        ledger.syntheses.dismiss(job_id, reason, "operator")
    except IllegalMove as error:
        state = ledger.syntheses.get(job_id).state
        raise Refuse(f"job {job_id[:12]} is {state}; only a failed job can be dismissed") from error
    if as_json:
        print_json({"job_id": job_id})
    else:
        out.print(f"job {job_id[:12]} is dismissed; the rules of retention apply to its files")


def show(config: Path | None, uid: str) -> None:
    """Everything on record about a UID, as JSON."""
    _, ledger, _ = open_node(config)
    print_json(ledger.reports.show(uid))


def verify(config: Path | None, head: str | None, as_json: bool) -> None:
    """Walk the whole audit chain."""
    _, ledger, _ = open_node(config)
    last: dict[str, Any] = {"events": 0, "head": audit.GENESIS}

    def counted() -> Any:
        for event in ledger.reports.events():
            last["events"], last["head"] = event.sequence, event.hash
            yield event

    broken = audit.verify(counted(), head)
    verdict = {"intact": broken is None, **last}
    if broken is not None:
        verdict |= {"broken_at": broken.sequence, "reason": broken.reason}
    if as_json:
        print_json(verdict)
    elif broken is None:
        out.print(f"intact: {last['events']} events, head {last['head']}")
    if broken is not None:
        err.print(f"[red]broken[/red] at event {broken.sequence}: {broken.reason}")
        raise typer.Exit(Exit.FAILED)


def export(config: Path | None) -> None:
    """The audit chain, one JSON object a line, in order."""
    _, ledger, _ = open_node(config)
    for event in ledger.reports.events():
        typer.echo(json.dumps(vars(event), sort_keys=True))
