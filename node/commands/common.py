"""What the commands share: settings, output for people and for programs, exit codes."""

from __future__ import annotations

import json
import tomllib
from enum import IntEnum
from pathlib import Path
from typing import Any

import pydantic
import typer
from pydantic_core import ErrorDetails
from rich.console import Console
from rich.table import Table

from config.settings import Settings, WrongVariable, load
from node.archive import Archive
from node.clock import from_text
from node.errors import NodeError, Refuse, Stop
from node.ledger import Ledger
from node.logs import describe
from node.parts import open_parts
from pipeline.errors import Declined

# Messages are for people and for grep: no wrapping, except in tables.
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    USAGE = 2
    DECLINED = 3
    FAILED = 4


def settings_of(config: Path | None) -> Settings:
    """The settings of this call.

    Raises:
        Refuse: With every wrong key, what was expected and what was found.
    """
    try:
        return load(config)
    except OSError as error:
        raise Refuse(
            f"--config: expected a TOML file to read, {config}: {error.strerror}"
        ) from error
    except WrongVariable as error:
        raise Refuse(str(error)) from error
    except pydantic.ValidationError as error:
        wrong = "; ".join(map(_wrong, error.errors(include_url=False)))
        raise Refuse(f"settings: {wrong}. See config/default.toml for what there is") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refuse(f"--config: {config} is no TOML: {error}") from error


def _wrong(error: ErrorDetails) -> str:
    """One wrong key; what was found there only where it cannot be a secret."""
    text = f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
    found = error["input"]
    # Of a key that is missing or does not fit others, it is the whole section; of a key that there
    # is not, it may be anything.
    if error["type"] in ("missing", "value_error", "extra_forbidden"):
        return text
    if isinstance(found, str):
        # What stands before a host may be a password.
        _, at, host = found.rpartition("@")
        found = f"***@{host}" if at else found
    return f"{text}, found {found!r}" if isinstance(found, str | int | float) else text


def open_node(config: Path | None) -> tuple[Settings, Ledger, Archive]:
    """Ledger and archive of the node that these settings name.

    Raises:
        Refuse: When no node has run there, or its folder is not mounted; nothing is created.
    """
    settings = settings_of(config)
    folder, is_shared = settings.node.data_folder, bool(settings.node.database_url)
    # An archive that a command made would be taken for the mounted one at the next start.
    if not (folder / ("archive" if is_shared else "node.sqlite")).exists():
        raise Refuse(
            f"expected the data folder of a node, found none at {folder}; start one with"
            " `pseudomri serve`, or name its settings with --config"
            + (". Is the shared folder mounted?" if is_shared else "")
        )
    ledger, archive = open_parts(settings, "command")
    return settings, ledger, archive


def print_json(value: Any) -> None:
    """One JSON document on standard output, and nothing else there."""
    typer.echo(json.dumps(value, indent=2, default=str))


def table(*columns: str) -> Table:
    """A plain table for people."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # The last one takes what room is left.
        made.add_column(column, no_wrap=column != columns[-1])
    return made


def local_time(text: str | None) -> str:
    """A moment of the ledger on the clock of whoever looks."""
    return from_text(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else ""


def exit_code(error: Exception) -> Exit:
    """Tell the user what went wrong, and the shell how badly."""
    if isinstance(error, Declined):
        err.print(f"[bold]declined[/bold] {error}", highlight=False, markup=True)
        return Exit.DECLINED
    if isinstance(error, Refuse | Stop):
        err.print(f"[bold]pseudomri:[/bold] {error}", highlight=False)
        return Exit.USAGE
    if isinstance(error, NodeError):
        err.print(f"[bold]failed:[/bold] {error}", highlight=False)
        return Exit.FAILED
    err.print(
        f"[bold]failed:[/bold] {describe(error)}; `pseudomri --traceback ...` tells more",
        highlight=False,
    )
    return Exit.FAILED
