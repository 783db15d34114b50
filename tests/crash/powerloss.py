"""What a power cut could leave, from a log of file operations.

A receiver runs under strace. Its log is replayed into a model of a disk that keeps no more than it
must: the content of a file up to its last fsync, the names of a folder up to its last fsync, and of
everything after that nothing, all, or any part. Cut after every operation, each instance that was
acknowledged on the wire by then must be there: file, content and row.

    python -m tests.crash.powerloss [--instances 20] [--drop file|folder|ledger]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import select
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from node.archive import _without_meta
from tests.crash.strace import Call, calls
from tests.node.samples import SERIES_UID, ct, encode
from tests.node.scu import associated, store

ROOT = Path(__file__).parents[2]
SENDERS = 2
Rows = tuple[tuple[str, ...], ...]
_INSTANCES = "SELECT sop_instance_uid, path FROM instance"
# Parts of the writes of a database that may have reached the disk: none, all, and so many others.
RANDOM_PARTS = 2
TRACED = (
    "openat,creat,write,pwrite64,writev,ftruncate,lseek,fsync,fdatasync,rename,renameat,renameat2,"
    "unlink,unlinkat,mkdir,mkdirat,sendto,sendmsg,close"
)


@dataclass(eq=False)
class Inode:
    """A file, or a folder when `entries` is given.

    Args:
        durable: Its content as the last fsync left it.
        pending: The writes since then, as offset and bytes; a truncation has None for bytes.
        entries: The durable names of a folder.
        changed: What the names have been since the last fsync, in order.
        written: How many writes there ever were.
        synced: When the fsync began that made it what it durably is.
    """

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    entries: dict[str, Inode] | None = None
    changed: list[tuple[str, Inode | None]] = field(default_factory=list)
    written: int = 0
    synced: int = 0

    def write(self, offset: int, data: bytes | None) -> None:
        _apply(self.content, offset, data)
        self.pending.append((offset, data))
        self.written += 1

    def now(self) -> dict[str, Inode]:
        """The names of a folder as a program sees them."""
        names = dict(self.entries or {})
        for name, inode in self.changed:
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        return names

    def could_be(self, name: str) -> list[Inode | None]:
        """What a name may lead to after a cut: as it was durable, or as a later change left it."""
        assert self.entries is not None
        return [self.entries.get(name), *(inode for n, inode in self.changed if n == name)]

    def contents(self, dice: random.Random) -> Iterator[bytes]:
        """What the content may be after a cut."""
        yield self.durable
        if not self.pending:
            return
        yield bytes(self.content)
        for _ in range(RANDOM_PARTS):
            part = bytearray(self.durable)
            for offset, data in self.pending:
                if dice.random() < 0.5:
                    _apply(part, offset, data)
            yield bytes(part)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data


class Disk:
    """Everything under one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = Inode(entries={})
        self._open: dict[int, tuple[Inode, int]] = {}
        # What an fsync that has begun will have made durable.
        self._syncing: dict[int, tuple[int, Inode, bytes, int, dict[str, Inode]]] = {}
        self._syncs = 0
        self.revision = 0

    def begin(self, call: Call) -> None:
        """A call has begun: an fsync is good for what was written before it."""
        if call.name in ("fsync", "fdatasync") and (inode := self._inode(call.path)):
            self._syncs += 1
            state = (self._syncs, inode, bytes(inode.content), inode.written, inode.now())
            self._syncing[call.thread] = state

    def end(self, call: Call) -> None:
        """A call has succeeded."""
        handler = getattr(self, f"_{call.name}", None)
        if handler is not None:
            handler(call)

    def folder(self, path: str) -> Inode | None:
        found = self._inode(path)
        return found if found is not None and found.entries is not None else None

    def survivors(self, path: str) -> list[Inode | None]:
        """What a path may lead to after a cut, whichever part of the changes was lost."""
        reached: list[Inode | None] = [self._top]
        for name in Path(path).parts:
            following: list[Inode | None] = []
            for inode in reached:
                if inode is None or inode.entries is None:
                    following.append(None)
                else:
                    following += inode.could_be(name)
            reached = list(dict.fromkeys(following))
        return reached

    def _openat(self, call: Call) -> None:
        parent, name = self._parent(call.opened)
        if parent is None:
            return
        inode = parent.now().get(name)
        if inode is None:
            if "O_CREAT" not in call.arguments:
                return
            inode = Inode()
            self._change(parent, name, inode)
        elif "O_TRUNC" in call.arguments:
            inode.write(0, None)
        self._open[call.result] = (inode, 0)

    def _write(self, call: Call) -> None:
        if call.fd in self._open and call.is_file:
            inode, offset = self._open[call.fd]
            inode.write(offset, call.data[: call.result])
            self._open[call.fd] = (inode, offset + call.result)
            self.revision += 1

    def _pwrite64(self, call: Call) -> None:
        if call.fd in self._open:
            inode, _ = self._open[call.fd]
            inode.write(int(call.words[-1]), call.data[: call.result])
            self.revision += 1

    def _ftruncate(self, call: Call) -> None:
        if call.fd in self._open:
            self._open[call.fd][0].write(int(call.words[-1]), None)
            self.revision += 1

    def _lseek(self, call: Call) -> None:
        if call.fd in self._open:
            self._open[call.fd] = (self._open[call.fd][0], call.result)

    def _close(self, call: Call) -> None:
        self._open.pop(call.fd, None)

    def _fsync(self, call: Call) -> None:
        if call.thread not in self._syncing:
            return
        began, inode, content, written, names = self._syncing.pop(call.thread)
        if began < inode.synced:
            # One that began later, and is good for more, has ended before.
            return
        inode.synced = began
        if inode.entries is None:
            inode.durable = content
            del inode.pending[: len(inode.pending) - (inode.written - written)]
        else:
            current = inode.now()
            inode.entries = names
            inode.changed = [
                (name, current.get(name))
                for name in names.keys() | current.keys()
                if names.get(name) is not current.get(name)
            ]
        self.revision += 1

    _fdatasync = _fsync

    def _rename(self, call: Call) -> None:
        source, name = self._parent(call.texts[0])
        target, new_name = self._parent(call.texts[1])
        if source is None or target is None:
            return
        inode = source.now()[name]
        self._change(source, name, None)
        self._change(target, new_name, inode)

    _renameat = _renameat2 = _rename

    def _unlink(self, call: Call) -> None:
        # Below an open folder, as those who remove a whole tree do it.
        parent, name = self._parent(str(Path(call.path, call.texts[0])))
        if parent is not None:
            self._change(parent, name, None)

    _unlinkat = _unlink

    def _mkdir(self, call: Call) -> None:
        parent, name = self._parent(call.texts[0])
        if parent is not None:
            self._change(parent, name, Inode(entries={}))

    _mkdirat = _mkdir

    def _change(self, folder: Inode, name: str, inode: Inode | None) -> None:
        folder.changed.append((name, inode))
        self.revision += 1

    def _parent(self, path: str) -> tuple[Inode | None, str]:
        place = Path(path)
        return self.folder(str(place.parent)), place.name

    def _inode(self, path: str) -> Inode | None:
        place = Path(path)
        if not place.is_absolute() or not place.is_relative_to(self._root):
            return None
        inode = self._top
        for name in place.relative_to(self._root).parts:
            if inode.entries is None or (found := inode.now().get(name)) is None:
                return None
            inode = found
        return inode


@dataclass(frozen=True)
class Loss:
    """An acknowledged instance that a power cut could take."""

    operation: int
    sop_instance_uid: str
    reason: str


def losses(log: Path, root: Path, promised: dict[str, str]) -> tuple[list[Loss], int]:
    """What could be lost by a cut after any operation, each instance once, and how many cuts that
    were.

    Args:
        log: Of strace.
        root: The data folder.
        promised: Digest by SOP Instance UID of what was sent.
    """
    disk, dice = Disk(root), random.Random(1)
    acknowledged: dict[str, None] = {}
    lost: dict[str, Loss] = {}
    cuts, seen = 0, (-1, 0)
    for number, (call, has_ended) in enumerate(calls(log)):
        if has_ended:
            disk.end(call)
        else:
            disk.begin(call)
            acknowledged.update(dict.fromkeys(_answered(call, promised)))
        if (disk.revision, len(acknowledged)) == seen or not acknowledged:
            continue
        seen = (disk.revision, len(acknowledged))
        cuts += 1
        for uid, reason in _missing(disk, acknowledged, promised, dice):
            lost.setdefault(uid, Loss(number, uid, reason))
    if not acknowledged:
        raise AssertionError("expected acknowledgements in the log, found none")
    return list(lost.values()), cuts


def _answered(call: Call, promised: dict[str, str]) -> Iterator[str]:
    """The instances that a C-STORE response on a socket acknowledges."""
    if call.is_file or call.name not in ("write", "sendto", "sendmsg", "writev"):
        return
    # Status (0000,0900) of Success, in the implicit little endian of every command set.
    if b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" in call.data:
        yield from (uid for uid in promised if names(call.data, uid))


def names(data: bytes, uid: str) -> bool:
    """Whether a command set is about this instance."""
    padded = uid.encode() + b"\x00" * (len(uid) % 2)
    # Affected SOP Instance UID (0000,1000), with its length.
    return b"\x00\x00\x00\x10" + len(padded).to_bytes(4, "little") + padded in data


def _missing(
    disk: Disk, acknowledged: dict[str, None], promised: dict[str, str], dice: random.Random
) -> Iterator[tuple[str, str]]:
    paths: dict[str, str] = {}
    for found in databases(disk, "node.sqlite", _INSTANCES, dice):
        rows = dict(found)
        for uid in acknowledged:
            if uid not in rows:
                yield uid, "no row"
            else:
                paths[uid] = rows[uid]
    for uid, path in paths.items():
        for inode in disk.survivors(f"archive/{path}"):
            if inode is None:
                yield uid, "no file"
            elif _digest(inode.durable) != promised[uid]:
                yield uid, "a file without its content"


def _digest(content: bytes) -> str:
    try:
        return hashlib.sha256(_without_meta(content)).hexdigest()
    except Exception:
        return ""


def databases(disk: Disk, name: str, query: str, dice: random.Random) -> Iterator[Rows]:
    """What a query finds in every state in which a SQLite database may be left; nothing where its
    tables are not there yet."""
    for database in disk.survivors(name):
        for journal in disk.survivors(f"{name}-wal"):
            for content in database.contents(dice) if database else (b"",):
                for log in journal.contents(dice) if journal else (None,):
                    yield _rows(content, log, query)


_read: dict[tuple[bytes, bytes, str], Rows] = {}


def _rows(content: bytes, log: bytes | None, query: str) -> Rows:
    key = (hashlib.sha256(content).digest(), hashlib.sha256(log or b"").digest(), query)
    if key not in _read:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "node.sqlite"
            path.write_bytes(content)
            if log is not None:
                Path(folder, "node.sqlite-wal").write_bytes(log)
            with contextlib.closing(sqlite3.connect(path)) as connection:
                try:
                    _read[key] = tuple(connection.execute(query).fetchall())
                except sqlite3.DatabaseError:
                    _read[key] = ()
    return _read[key]


def record(folder: Path, instances: int, dropped: str = "") -> tuple[Path, Path, dict[str, str]]:
    """Run a receiver under strace and send to it; the log, its data folder, what was sent."""
    data, log = folder / "data", folder / "strace.log"
    data.mkdir(parents=True)
    trace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "262144", "-e", f"trace={TRACED}"]
    command = [*trace, "-o", str(log), sys.executable, "-m", "tests.crash.recorded", str(data)]
    sent = {
        f"{SERIES_UID}.{n}": hashlib.sha256(encode(ct(n))).hexdigest() for n in range(instances)
    }
    with subprocess.Popen(
        [*command, *([dropped] if dropped else [])], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 120)[0], "the receiver does not start"
            port = int(process.stdout.readline())
            threads = [
                threading.Thread(target=_send, args=(port, range(first, instances, SENDERS)))
                for first in range(SENDERS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            # strace goes with the process it traces.
            for traced in psutil.Process(process.pid).children():
                traced.kill()
    return log, data, sent


def _send(port: int, numbers: range) -> None:
    with associated(port) as association:
        for number in numbers:
            status, comment = store(association, ct(number))
            assert status == 0x0000, comment


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.powerloss")
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--drop", choices=["file", "folder", "ledger"], default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recorded = record(Path(folder), options.instances, options.drop)
        lost, cuts = losses(*recorded)
    for one in lost:
        print(f"LOST at operation {one.operation}: {one.sop_instance_uid}, {one.reason}")
    print(
        f"{cuts} power cuts, {options.instances} acknowledged instances, {len(lost)} could be lost"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
