"""`backup`, `restore` and `database copy`: the node as a whole, somewhere else."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import typer

from node import backup as keep
from node.app import Place, Role
from node.audit import Kind
from node.clock import utc_now
from node.commands.common import Exit, err, open_node, out, print_json, settings_of, table
from node.engine import prepare_engine
from node.errors import Refuse
from node.fetching import PROCESS as FETCHING
from node.ledger import copying, open_ledger
from node.lock import alone, hold
from node.parts import ledger_url, process_name


def backup(config: Path | None, folder: Path, as_json: bool) -> None:
    """Copy ledger and archive into a folder, while the node runs."""
    settings, ledger, _ = open_node(config)
    ledger.close()
    _tell(keep.backup(settings, folder), as_json, f"backed up to {folder}")


def restore(config: Path | None, folder: Path, as_json: bool) -> None:
    """Put a backup into an empty data folder and database."""
    settings = settings_of(config)
    _tell(keep.restore(settings, folder), as_json, f"restored to {settings.node.data_folder}")


def copy_database(config: Path | None, url: str, as_json: bool) -> None:
    """Copy the ledger of a node that does not run into an empty database."""
    settings, ledger, _ = open_node(config)
    ledger.close()
    source = ledger_url(settings)
    if not source.startswith("sqlite") or not url.startswith("postgresql"):
        raise Refuse(
            "expected to copy from SQLite to postgresql://...; to go another way, make a backup"
            " and restore it under settings that name the other database"
        )
    acceptors = [Place(Role.RECEIVE, number) for number in range(settings.receive.processes)]
    with ExitStack() as locks:
        # Whoever writes to this ledger holds one of them.
        for place in (*acceptors, Place(Role.WORK), Place(Role.WEB)):
            name = process_name(settings, place.name)
            locks.enter_context(hold(settings.node.data_folder, name))
        locks.enter_context(alone(settings.node.data_folder, FETCHING))
        counts = copying.copy(source, url)
        prepare_engine(url)
        target = open_ledger(url, utc_now)
        rows_in_all = {"rows": sum(counts.values())}
        target.outbox.note(Kind.NODE_MOVED, "ledger", "operator", rows_in_all)
        target.close()
    if as_json:
        print_json(counts)
        return
    rows = table("table", "rows")
    for name, count in counts.items():
        rows.add_row(name, str(count))
    out.print(rows)
    out.print("the audit chain is whole; now set node.database_url, and keep node.sqlite aside")


def _tell(report: keep.Report, as_json: bool, what: str) -> None:
    if as_json:
        print_json(vars(report))
    else:
        out.print(
            f"{what}: {report.files} files ({report.copied} copied),"
            f" {report.events} events, head {report.head}"
        )
    if report.damaged:
        named = ", ".join(report.damaged[:3])
        err.print(
            f"[red]{len(report.damaged)} missing or damaged[/red]: {named}; all others are there"
        )
        raise typer.Exit(Exit.FAILED)
