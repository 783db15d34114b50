"""`retention` and `audit hold`: what is deleted, and what must not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.clock import utc_now
from node.commands.common import local_time, open_node, out, print_json, table
from node.ledger.retention import Unit
from node.retention import Keeper

ACTOR = "operator"


def retention(config: Path | None, is_dry_run: bool, as_json: bool) -> None:
    """Carry out the rules once, or only say what they would do."""
    settings, ledger, archive = open_node(config)
    keeper = Keeper(settings, ledger, archive)
    if not is_dry_run:
        files = keeper.run_once(utc_now())
        if as_json:
            print_json({"deleted_files": files})
        else:
            out.print(f"{files} files deleted; `pseudomri audit export` names each")
        return
    plan = keeper.plan(utc_now())
    going = [_line(one.unit, one.rule) for one in plan.going]
    staying = [_line(one.unit, one.why) for one in plan.staying]
    if as_json:
        print_json({"would_go": going, "would_stay": staying})
        return
    rows = table("", "what", "", "files", "MB", "since", "because")
    for word, lines in (("[red]goes[/red]", going), ("stays", staying)):
        for line in lines:
            rows.add_row(
                word,
                line["kind"],
                line["key"],
                str(line["files"]),
                f"{line['size_bytes'] / 1e6:.1f}",
                local_time(line["since"]),
                line["because"],
            )
    out.print(rows)
    size_bytes = sum(line["size_bytes"] for line in going)
    out.print(f"{len(going)} would go, {size_bytes / 1e6:.1f} MB; {len(staying)} would stay")


def hold(config: Path | None, uid: str, reason: str, as_json: bool) -> None:
    """Place a hold."""
    _, ledger, _ = open_node(config)
    gone = ledger.retention.place_hold(uid, reason, ACTOR)
    if as_json:
        print_json({"uid": uid, "deleted_before": gone})
        return
    out.print(f"{uid} is under hold: nothing of it is deleted until `pseudomri audit release`")
    if gone:
        out.print(f"[red]{gone} received instances of it were deleted before[/red]")


def release(config: Path | None, uid: str, as_json: bool) -> None:
    """End a hold."""
    _, ledger, _ = open_node(config)
    ledger.retention.release_hold(uid, ACTOR)
    if as_json:
        print_json({"uid": uid})
    else:
        out.print(f"{uid} is released; the rules of retention apply to it again")


def holds(config: Path | None, as_json: bool) -> None:
    """The holds that stand."""
    _, ledger, _ = open_node(config)
    found = ledger.retention.holds()
    if as_json:
        print_json([vars(one) for one in found])
        return
    rows = table("uid", "since", "by", "reason")
    for one in found:
        rows.add_row(one.uid, local_time(one.placed_at), one.placed_by, one.reason)
    out.print(rows)


def _line(unit: Unit, because: str) -> dict[str, Any]:
    return {
        "kind": str(unit.kind),
        "key": unit.key,
        "files": unit.files,
        "size_bytes": unit.size_bytes,
        "since": unit.since,
        "because": because,
    }
