"""Backup of a running node, and restore into an empty place.

    FOLDER/manifest.sha256    a line for every file, as `sha256sum --check` reads it
    FOLDER/ledger-XXXX.sqlite the ledger at one moment, of SQLite or PostgreSQL alike
    FOLDER/archive/           every file that this ledger names
    FOLDER/atna-XXXX.key      the key of the pseudonyms, where there is one

A file is durable before its row is, so a ledger never names a file that was not there: first the
ledger is copied, then the files. Both are done twice. The first time takes long, and retention may
delete what is not copied yet; the second time only what is new is left, which retention leaves
alone, and that ledger counts. The manifest is put in place last, so FOLDER always holds a whole
backup: the new one, or still the one before.

The workflow engine's state is not part of it: what is in flight begins again after a restore, and a
destination is not sent again what it had answered for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from config.settings import Settings
from node import audit
from node.archive import Archive
from node.atna.telling import KEY_FILE
from node.audit import Kind
from node.clock import utc_now
from node.durable import write_file
from node.errors import Refuse
from node.faults import Point, reach
from node.intact import intact_instance, intact_output
from node.ledger import Ledger, copying, migrate, open_ledger, sqlite_url
from node.ledger.holdings import Holding
from node.lock import hold
from node.logs import describe
from node.parts import ledger_url

MANIFEST: Final = "manifest.sha256"
RESTORING: Final = "restoring"
# Folders that a file system makes by itself.
_NOBODYS: Final = frozenset({"lost+found", RESTORING})

log = structlog.get_logger()


@dataclass(frozen=True)
class Report:
    """What a backup or a restore came to.

    Args:
        files: Of the archive, as the ledger names them.
        copied: How many of them were not there from an earlier backup.
        events: Length of the audit chain.
        head: Hash of its last event.
        damaged: Paths of files that are missing or not what the ledger says; all others are there.
    """

    files: int
    copied: int
    events: int
    head: str
    damaged: tuple[str, ...]


def backup(settings: Settings, folder: Path) -> Report:
    """Copy ledger and archive of a node, which may be running, into a folder.

    An earlier backup in it is replaced, and its files are kept where they are the same. What came
    of it is on record, a failure too as far as the ledger takes it.

    Raises:
        Refuse: When the ledger's audit chain is broken, or the folder lies inside the archive.
        Stop: When another backup writes there.
        Retry: When the ledger does not answer.
    """
    data_folder = settings.node.data_folder.absolute()
    if folder.absolute().is_relative_to(data_folder):
        raise Refuse(f"expected a folder outside of the node's own, {data_folder}, found {folder}")
    archive = Archive(data_folder / "archive", "backup")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold(folder, "backup"):
        try:
            return _backed_up(settings, folder, archive)
        except Exception as error:
            detail = {"folder": str(folder.absolute()), "reason": describe(error)}
            # What keeps us from a backup may be the ledger, which then cannot tell.
            with suppress(Exception), _opened_at(ledger_url(settings)) as ledger:
                ledger.outbox.note(Kind.BACKUP_FAILED, "ledger", "operator", detail)
            raise


def _backed_up(settings: Settings, folder: Path, archive: Archive) -> Report:
    mirror = _Mirror(folder, archive, _read_manifest(folder))
    part = folder / "ledger.part"
    for _ in range(2):
        part.unlink(missing_ok=True)
        copying.snapshot(ledger_url(settings), part)
        with _opened_at(sqlite_url(part)) as ledger:
            mirror.fetch(ledger.holdings.files())
            events, head = _chain(ledger)
    mirror.keep_key(settings.node.data_folder.absolute() / KEY_FILE)
    name = mirror.close(part)
    with _opened_at(ledger_url(settings)) as ledger:
        detail = {
            "folder": str(folder.absolute()),
            "files": mirror.files,
            "damaged": len(mirror.damaged),
            "head": head,
        }
        ledger.outbox.note(Kind.NODE_BACKED_UP, name, "operator", detail)
    return Report(mirror.files, mirror.copied, events, head, tuple(mirror.damaged))


def restore(settings: Settings, folder: Path) -> Report:
    """Put a backup into the empty data folder and database that the settings name.

    What the backup lacks or has damaged is left out and reported; the rest is there.

    Raises:
        Refuse: When there is no backup, its ledger is damaged, or the place is not empty.
    """
    lines = _read_manifest(folder)
    ledger_name = next((name for name in lines if name.startswith("ledger-")), None)
    key_name = next((name for name in lines if name.startswith("atna-")), None)
    if ledger_name is None:
        raise Refuse(f"expected a backup, found no {MANIFEST} with a ledger in {folder}")
    data_folder = settings.node.data_folder
    _refuse_unless_empty(data_folder)
    if settings.node.database_url:
        copying.refuse_unless_empty(settings.node.database_url)
    part = data_folder / RESTORING
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700, parents=True)
    damaged = {name for name in lines if not _fetch(folder / name, part / name, lines[name])}
    if ledger_name in damaged:
        raise Refuse(f"{ledger_name} is missing or damaged; restore an older backup")
    os.replace(part / ledger_name, part / "node.sqlite")
    migrate(sqlite_url(part / "node.sqlite"))
    archive = Archive(part / "archive", "restore")
    with _opened_at(sqlite_url(part / "node.sqlite")) as ledger:
        files = list(ledger.holdings.files())
        bad = tuple(one.path for one in files if not _is_intact(archive, one))
        bad += tuple(name for name in damaged if name == key_name)
        detail = {"files": len(files), "damaged": len(bad)}
        ledger.outbox.note(Kind.NODE_RESTORED, ledger_name, "operator", detail)
        events, head = _chain(ledger)
    if key_name and key_name not in damaged:
        (part / key_name).chmod(0o600)
        os.replace(part / key_name, data_folder / KEY_FILE)
    os.sync()
    os.replace(part / "archive", data_folder / "archive")
    if settings.node.database_url:
        copying.copy(sqlite_url(part / "node.sqlite"), settings.node.database_url)
    else:
        os.replace(part / "node.sqlite", data_folder / "node.sqlite")
    shutil.rmtree(part)
    copied = sum(one.path not in bad for one in files)
    return Report(len(files), copied, events, head, bad)


class _Mirror:
    """The files of a backup.

    Args:
        folder: Of the backup.
        archive: Of the node.
        before: The manifest of the backup that lies there.
    """

    def __init__(self, folder: Path, archive: Archive, before: dict[str, str]) -> None:
        self._folder: Final = folder
        self._archive: Final = archive
        self._before: Final = before
        self._lines: dict[str, str] = {}
        self.copied = 0
        self.files = 0
        self.damaged: list[str] = []

    def fetch(self, holdings: Iterator[Holding]) -> None:
        """Have these files, and count no others."""
        known, self._lines, self.damaged, self.files = self._lines, {}, [], 0
        for holding in holdings:
            self.files += 1
            name = f"archive/{holding.path}"
            digest = known.get(name) or self._kept(name, holding) or self._copy(name, holding)
            if digest is None:
                self.damaged.append(holding.path)
            else:
                self._lines[name] = digest

    def keep_key(self, key: Path) -> None:
        """Have the key too, for us alone: without it the pseudonyms of a restored node differ."""
        if not key.is_file():
            return
        digest = _digest(key)
        name = f"atna-{digest[:16]}.key"
        write_file(self._folder / name, key.read_bytes(), 0o600)
        self._lines[name] = digest

    def close(self, ledger: Path) -> str:
        """Put the new backup in place of the one before, at once and for good; the ledger's name
        in it."""
        digest = _digest(ledger)
        name = f"ledger-{digest[:16]}.sqlite"
        os.replace(ledger, self._folder / name)
        self._lines[name] = digest
        manifest = self._folder / f"{MANIFEST}.part"
        manifest.write_text("".join(f"{d}  {n}\n" for n, d in sorted(self._lines.items())))
        reach(Point.BACKUP_COPIED)
        # One call for all that was written; only then may the manifest speak for it.
        os.sync()
        os.replace(manifest, self._folder / MANIFEST)
        os.sync()
        for superfluous in self._before.keys() - self._lines.keys():
            (self._folder / superfluous).unlink(missing_ok=True)
        return name

    def _kept(self, name: str, holding: Holding) -> str | None:
        """The digest of a file that an earlier backup has, if it is this one."""
        digest, copy = self._before.get(name), self._folder / name
        is_same = not holding.is_whole or digest == holding.digest
        if not is_same or not copy.is_file():
            return None
        source = self._archive.resolve(holding.path)
        # Either may have lost its end; reading all of both each time would take hours.
        is_as_long = source.is_file() and source.stat().st_size == copy.stat().st_size
        return digest if is_as_long or _digest(copy) == digest else None

    def _copy(self, name: str, holding: Holding) -> str | None:
        if not _is_intact(self._archive, holding):
            return None
        source, target = self._archive.resolve(holding.path), self._folder / name
        digest = _digest(source)
        self.copied += 1
        return digest if _fetch(source, target, digest) else None


def _fetch(source: Path, target: Path, digest: str) -> bool:
    """Copy a file, whole or not at all; whether it had this digest."""
    if not source.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    if _digest(part) != digest:
        part.unlink()
        return False
    os.replace(part, target)
    return True


def _is_intact(archive: Archive, holding: Holding) -> bool:
    check = intact_output if holding.is_whole else intact_instance
    try:
        check(archive, holding.path, holding.digest)
    except Refuse as error:
        log.error("file is missing or damaged", path=holding.path, reason=str(error))
        return False
    return True


def _read_manifest(folder: Path) -> dict[str, str]:
    """Digest by name of file; empty when there is no backup."""
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _refuse_unless_empty(folder: Path) -> None:
    found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if others := [name for name in found if name not in _NOBODYS]:
        raise Refuse(
            f"expected node.data_folder {folder} to be empty, found {others[0]} in it; a restore"
            " never overwrites. Move it away, or name another folder"
        )


def _chain(ledger: Ledger) -> tuple[int, str]:
    """Length and head of the audit chain, which must be whole."""
    events, head = 0, audit.GENESIS

    def counted() -> Iterator[audit.Event]:
        nonlocal events, head
        for event in ledger.reports.events():
            events, head = event.sequence, event.hash
            yield event

    broken = audit.verify(counted())
    if broken is not None:
        raise Refuse(f"the audit chain breaks at event {broken.sequence}: {broken.reason}")
    return events, head


@contextmanager
def _opened_at(url: str) -> Iterator[Ledger]:
    ledger = open_ledger(url, utc_now)
    try:
        yield ledger
    finally:
        ledger.close()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
