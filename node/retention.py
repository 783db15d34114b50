"""Retention: the rules by which files go, and why the others stay.

The rule is pure; the loop asks it, marks what may go, and deletes what is marked. Nothing goes that
is undelivered, uncommitted, in flight, in the dead letter or under audit hold, whatever its age and
however full the disk. The rows that say what a file was, and its digest, stay for ever.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from config.settings import RetentionSettings, Settings
from node.archive import Archive
from node.clock import from_text, to_text
from node.errors import Refuse
from node.faults import Point, reach
from node.ledger import Ledger
from node.ledger.retention import BATCH, Marked, Standing, Unit, UnitKind
from node.states import SETTLED, SeriesState, SynthesisState

ACTOR: Final = "retention"

_UNSETTLED: Final = {
    SynthesisState.QUEUED: "in flight",
    SynthesisState.RUNNING: "in flight",
    SynthesisState.PACKAGED: "undelivered",
    SynthesisState.DELIVERING: "undelivered",
    SynthesisState.DELIVERED: "not committed yet",
    SynthesisState.FAILED: "in the dead letter",
}


@dataclass(frozen=True)
class Going:
    """A unit that a rule deletes."""

    unit: Unit
    rule: str


@dataclass(frozen=True)
class Staying:
    """A unit that stays, and why."""

    unit: Unit
    why: str


@dataclass(frozen=True)
class Plan:
    """What a turn of retention would do."""

    going: tuple[Going, ...]
    staying: tuple[Staying, ...]


def must_stay(standing: Standing) -> str | None:
    """Why a unit must not be deleted whatever the rules say; None when nothing speaks for it."""
    if standing.is_held:
        return "under audit hold"
    if standing.series_state in (SeriesState.RECEIVING, SeriesState.COMPLETE):
        return "in flight"
    for state in sorted(standing.syntheses - SETTLED):
        return _UNSETTLED[state]
    return "on record" if standing.is_expected else None


def plan(units: Sequence[Unit], settings: RetentionSettings, now: datetime) -> Plan:
    """Which units go by which rule, and why the others stay.

    Age first; then, while the archive is larger than it may be, the oldest of what is left.

    Args:
        units: All that is there.
        settings: The rules.
        now: The present moment.
    """
    going: list[Going] = []
    staying: list[Staying] = []
    spare: list[Unit] = []
    for unit in sorted(units, key=lambda one: (one.since, one.kind, one.key)):
        why = must_stay(unit.standing)
        limit = _limit(unit.kind, settings)
        if why is not None:
            staying.append(Staying(unit, why))
        elif limit and from_text(unit.since) + limit <= now:
            going.append(Going(unit, f"{unit.kind} older than {_words(limit)}"))
        else:
            spare.append(unit)
    excess = sum(unit.size_bytes for unit in spare)
    excess += sum(one.unit.size_bytes for one in staying) - settings.archive_maximum_bytes
    for unit in spare:
        is_sizable = unit.kind in (UnitKind.RECEIVED, UnitKind.OUTPUTS)
        if settings.archive_maximum_bytes and excess > 0 and is_sizable:
            excess -= unit.size_bytes
            going.append(Going(unit, f"archive above {settings.archive_maximum_bytes} bytes"))
        else:
            limit = _limit(unit.kind, settings)
            why = f"younger than {_words(limit)}" if limit else "no rule deletes it"
            staying.append(Staying(unit, why))
    return Plan(tuple(going), tuple(staying))


class Keeper:
    """Carries out the rules.

    Args:
        settings: Of the node.
        ledger: Where holds and marks are.
        archive: The files.
    """

    def __init__(self, settings: Settings, ledger: Ledger, archive: Archive) -> None:
        self._rules: Final = settings.retention
        self._work: Final = settings.node.data_folder / "work"
        self._retention: Final = ledger.retention
        self._syntheses: Final = ledger.syntheses
        self._archive: Final = archive

    def plan(self, now: datetime) -> Plan:
        """What `run_once` would do."""
        units = (*self._sized(self._retention.units()), *self._leftovers(now))
        return plan(units, self._rules, now)

    def run_once(self, now: datetime) -> int:
        """Finish what an earlier life began, then mark and delete; how many files went.

        Raises:
            Retry: When the ledger does not answer.
        """
        removed = self._remove_marked()
        rules, units = self._rules, list(self._leftovers(now))
        if rules.archive_maximum_bytes:
            units += self._sized(self._retention.units())
        elif rules.received_days or rules.outputs_days or rules.quarantine_days:
            # Age asks nothing of the file system, and no rule nothing of the ledger.
            units += self._retention.units()
        for one in plan(units, rules, now).going:
            self._retention.mark(one.unit.kind, one.unit.key, one.rule, must_stay, ACTOR)
        reach(Point.RETENTION_MARKED)
        removed += self._remove_marked()
        return removed

    def _remove_marked(self) -> int:
        shelf = _Shelf(self._archive, self._work)
        marked = self._retention.marked()
        batches = [marked[first : first + BATCH] for first in range(0, len(marked), BATCH)]
        return sum(self._retention.remove(one, must_stay, shelf, ACTOR) for one in batches)

    def _sized(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """The units with the sizes that only the file system knows."""
        for unit in units:
            if unit.kind is UnitKind.RECEIVED:
                yield unit
                continue
            is_file = unit.kind is UnitKind.QUARANTINE
            outputs = () if is_file else self._syntheses.outputs(unit.key)
            paths = [unit.key] if is_file else [output.path for output in outputs]
            yield replace(unit, size_bytes=self._archive.size_bytes(paths))

    def _leftovers(self, now: datetime) -> Iterator[Unit]:
        """Work folders, and files of the archive that no row knows: a crash left them."""
        if self._work.is_dir():
            for folder in sorted(self._work.iterdir()):
                yield from self._leftover(UnitKind.WORK, folder.name, folder)
        before = now - timedelta(hours=self._rules.leftover_hours)
        old = list(self._archive.strays(before.timestamp()))
        known = self._retention.known_paths(old)
        for path in old:
            if path not in known:
                yield from self._leftover(UnitKind.STRAY, path, self._archive.resolve(path))

    def _leftover(self, kind: UnitKind, key: str, place: Path) -> Iterator[Unit]:
        try:
            since = to_text(datetime.fromtimestamp(place.stat().st_mtime, UTC))
            size_bytes = sum(path.stat().st_size for path in (place, *place.rglob("*")))
        except FileNotFoundError:
            # Its owner was faster.
            return
        yield Unit(kind, key, since, 1, size_bytes, self._retention.standing(kind, key))


class _Shelf:
    """Marked files in the archive and in the work folder."""

    def __init__(self, archive: Archive, work: Path) -> None:
        self._archive: Final = archive
        self._work: Final = work

    def has(self, one: Marked) -> bool:
        return self._place(one).exists()

    def delete(self, those: Sequence[Marked]) -> None:
        self._archive.remove(one.path for one in those if one.kind is not UnitKind.WORK)
        for one in those:
            if one.kind is UnitKind.WORK:
                shutil.rmtree(self._place(one), ignore_errors=True)

    def _place(self, one: Marked) -> Path:
        if one.kind is not UnitKind.WORK:
            return self._archive.resolve(one.path)
        place = (self._work / one.path).resolve()
        if place.parent != self._work.resolve():
            raise Refuse(f"expected a folder of the work folder, found {one.path}")
        return place


def _limit(kind: UnitKind, rules: RetentionSettings) -> timedelta:
    """The age at which a kind goes; zero when age alone deletes none of it."""
    if kind in (UnitKind.WORK, UnitKind.STRAY):
        return timedelta(hours=rules.leftover_hours)
    days = {
        UnitKind.RECEIVED: rules.received_days,
        UnitKind.OUTPUTS: rules.outputs_days,
        UnitKind.QUARANTINE: rules.quarantine_days,
    }
    return timedelta(days=days[kind])


def _words(limit: timedelta) -> str:
    days = limit / timedelta(days=1)
    return f"{days:g} days" if days >= 2 else f"{limit / timedelta(hours=1):g} hours"
