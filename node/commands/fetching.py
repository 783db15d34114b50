"""`fetch`: bring a study or series in from a PACS."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from config.settings import Source
from node import logs
from node.app import prepare
from node.association import Rejected
from node.commands.common import Exit, err, out, print_json, settings_of
from node.errors import Refuse, Retry
from node.fetching import PROCESS, Fetched, Fetcher, source_named
from node.found import FoundSeries
from node.parts import open_parts
from node.retrieve import Progress


def fetch(
    source: str,
    accession: str,
    study: str,
    series: str,
    method: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Fetch what is missing of the CT series that are meant; tells what is here in the end."""
    if bool(accession) == bool(study or series):
        raise Refuse("expected --accession, or --study, or --series; see `pseudomri fetch --help`")
    settings = settings_of(config)
    chosen = source_named(settings, source)
    if method is not None:
        chosen = Source.model_validate(chosen.model_dump() | {"method": method})
    logs.configure(settings.logging, PROCESS)
    prepare(settings)
    ledger, archive = open_parts(settings, PROCESS)
    fetcher = Fetcher(settings, chosen, ledger, archive)
    try:
        with fetcher.alone():
            studies = fetcher.find(accession, study, series)
            results = [_fetch(fetcher, one, as_json) for found in studies for one in found.series]
    except (Retry, Rejected) as error:
        err.print(str(error))
        raise typer.Exit(Exit.FAILED) from error
    if not results:
        err.print(f"{source} knows no such CT series")
    _print(results, as_json)
    unlisted = [found.unlisted for found in studies if found.unlisted]
    for one in unlisted:
        err.print(f"{source}: {one}; what it does not list was not fetched")
    if unlisted or not results or not all(one.is_complete for one in results):
        raise typer.Exit(Exit.FAILED)


def _fetch(fetcher: Fetcher, found: FoundSeries, as_json: bool) -> Fetched:
    with typer.progressbar(
        length=found.count or 0, label=found.series_uid[-24:], hidden=as_json
    ) as bar:

        def advance(progress: Progress) -> None:
            done = progress.completed + progress.failed
            bar.length = max(bar.length or 0, done + progress.remaining)
            bar.update(max(0, done - bar.pos))

        return fetcher.fetch(found, advance)


def _print(results: list[Fetched], as_json: bool) -> None:
    if as_json:
        print_json([_story(one) for one in results])
        return
    for one in results:
        new = one.held - one.held_before
        color = "green" if one.is_complete else "red"
        out.print(
            f"[{color}]{one.held} of {one.wanted}[/{color}] instances here, {new} new:"
            f" {one.series_uid}"
        )
        if one.trouble:
            err.print(one.trouble)
    for study, of_it in groupby(results, key=lambda one: one.study_uid):
        whole = [one.is_complete for one in of_it]
        out.print(f"{sum(whole)} of {len(whole)} CT series are all here: study {study}")


def _story(one: Fetched) -> dict[str, Any]:
    return {**vars(one), "is_complete": one.is_complete}
