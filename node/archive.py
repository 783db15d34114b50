"""The archive: instance files that are durable before anybody relies on them, none half-written.

A file grows under `incoming/`, is made durable, then renamed to its place, and the rename is made
durable too; a crash leaves either the whole file or a leftover that the next start sweeps. Names
carry the digest of the content, of an instance the transfer syntax with it, so that two senders of
one UID, or two workers on one job, can never overwrite each other.

An instance takes these steps one by one (`receive`, `Incoming.write`, `keep`), so that its bytes go
to the disk as they arrive.

    incoming/    being written
    instances/   XX/SERIES_UID/SOP_INSTANCE_UID-DIGEST.dcm    XX: two digits of the series' hash
    quarantine/  SOP_INSTANCE_UID-DIGEST.dcm                  contradicts what is held
    outputs/     JOB_ID/SOP_INSTANCE_UID-DIGEST.dcm           what a synthesis made
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import re
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from node.durable import sync_folder
from node.errors import NoSpace, Refuse, Retry
from node.faults import Point, reach
from pipeline.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# PS3.5 9.1, save that leading zeros pass: some old scanners write them, and they harm nobody.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH: Final = 64
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_FOLDERS: Final = ("incoming", "instances", "quarantine", "outputs")
_PREAMBLE: Final = bytes(128) + b"DICM"
# Enough of a SHA-256 in a file's name; the whole of it is in the ledger.
_DIGEST_IN_NAME: Final = 16
# Peers with small PDUs (16 KiB is common) would otherwise cost a system call for each.
_GATHERED_BYTES: Final = 64 * 1024
# After so many bytes of a file the disk is told to begin with them.
_EARLY_BYTES: Final = 256 * 1024
# Of a data set that is kept at hand while it arrives: it tells who the instance is.
HEAD_BYTES: Final = 16 * 1024

Buffer = bytes | memoryview


@dataclass(frozen=True)
class Encoding:
    """What the file meta information of an instance must say.

    Args:
        calling_ae: Of the sender, for Source Application Entity Title (0002,0016).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str


@dataclass(frozen=True)
class Archived:
    """A durable file; `path` is relative to the archive, `digest` that of the content given."""

    path: str
    digest: str
    size_bytes: int


class Incoming:
    """An instance on its way in: a file under `incoming/` that grows.

    Made by `Archive.receive`. Whoever has it calls `discard` in the end, which removes what was not
    kept. `head` is the beginning of the data set, `HEAD_BYTES` at most.
    """

    def __init__(self, path: str, encoding: Encoding) -> None:
        self.encoding: Final = encoding
        self.size_bytes = 0
        # Plain text: this comes by the hundreds a second, and paths as objects took a twentieth.
        self._path: Final = path
        self._hash: Final = hashlib.sha256()
        meta = _PREAMBLE + _file_meta(encoding)
        self._start: Final = len(meta)
        # Small fragments are gathered; those larger than the buffer pass it by.
        self._stream: Final = io.BufferedWriter(io.FileIO(path, "wb"), _GATHERED_BYTES)
        self._stream.write(meta)
        self._is_in_place = False
        self._begun_bytes = 0
        self.head = b""

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the data set so far, as it was sent."""
        return self._hash.hexdigest()

    @property
    def name(self) -> str:
        """Of the file: the same bytes in another transfer syntax are another instance's, whose file
        meta information differs."""
        content = f"{self.digest} {self.encoding.transfer_syntax_uid}"
        digest = hashlib.sha256(content.encode("ascii")).hexdigest()
        return f"{self.encoding.sop_instance_uid}-{digest[:_DIGEST_IN_NAME]}.dcm"

    def write(self, fragment: Buffer) -> None:
        """Add the next bytes of the data set.

        Raises:
            OSError: When the disk does not take them.
        """
        self._stream.write(fragment)
        self._hash.update(fragment)
        if self.size_bytes < HEAD_BYTES:
            self.head += bytes(fragment[: HEAD_BYTES - self.size_bytes])
        self.size_bytes += len(fragment)
        if self.size_bytes - self._begun_bytes >= _EARLY_BYTES:
            # The disk begins now, so that less is left for the sync in the end.
            os.posix_fadvise(self._stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._begun_bytes = self.size_bytes

    def open(self) -> BinaryIO:
        """What came so far, opened at its beginning; the caller closes it.

        Raises:
            OSError: When the disk does not take or give it.
        """
        self._stream.flush()
        stream = io.BufferedReader(io.FileIO(self._path))
        stream.seek(self._start)
        return stream

    def discard(self) -> None:
        """Close the file, and remove it unless it was kept; harmless when done before."""
        with contextlib.suppress(OSError):  # a full disk refuses the last buffer once more
            self._stream.close()
        if not self._is_in_place:
            with contextlib.suppress(OSError):  # gone, or left to `sweep`
                os.unlink(self._path)

    def settle(self, target: str) -> None:
        """Make the content durable and give it its name; the name is not durable yet."""
        self._stream.flush()
        reach(Point.ARCHIVE_WRITTEN)
        os.fsync(self._stream.fileno())
        # Nobody reads it before its series is complete, but for the head, which is looked at soon.
        # The memory is the next instance's at once: to copy into pages that the system had to find
        # first took a third of a receiver's time on a virtual machine.
        os.posix_fadvise(self._stream.fileno(), HEAD_BYTES, 0, os.POSIX_FADV_DONTNEED)
        reach(Point.ARCHIVE_SYNCED)
        os.replace(self._path, target)
        self._is_in_place = True
        reach(Point.ARCHIVE_RENAMED)


class Archive:
    """The folder of all instances and outputs.

    Args:
        folder: Made when missing. All of it is on one file system, so that a rename is atomic.
        owner: The stable name of the writing process; its leftovers are swept by its next life.
    """

    def __init__(self, folder: Path, owner: str = "node") -> None:
        self.folder: Final = folder
        self._owner: Final = _checked_name(owner)
        self._serial: Final = itertools.count()
        self._making: Final = threading.Lock()
        self._durable: Final[set[Path]] = set()
        self._known: Final[set[str]] = set()
        for name in _FOLDERS:
            self._make_folder(folder / name)

    def receive(self, encoding: Encoding) -> Incoming:
        """Begin an instance.

        Raises:
            Refuse: When a UID is none (PS3.5 9.1).
            OSError: When the disk does not take a new file.
        """
        checked_uid(encoding.sop_class_uid)
        checked_uid(encoding.sop_instance_uid)
        return Incoming(self._temporary(), encoding)

    def keep(self, incoming: Incoming, series_uid: str) -> Archived:
        """Put an instance in its place, byte for byte as it was sent.

        Both content and name are durable when this returns. Each instance syncs its folder for
        itself: those that come at one time mostly lie in different ones, and the system lets syncs
        that run together share their writes.

        Raises:
            Refuse: When a UID is none (PS3.5 9.1); nothing is in place.
            Retry: When the disk did not take it.
        """
        series = checked_uid(series_uid)
        shard = hashlib.sha256(series.encode("ascii")).hexdigest()[:2]
        folder = f"instances/{shard}/{series}"
        path = f"{folder}/{incoming.name}"
        with _disk():
            if folder not in self._known or not os.path.isdir(f"{self.folder}/{folder}"):
                self._make_folder(self.folder / folder)
                self._known.add(folder)
            incoming.settle(f"{self.folder}/{path}")
            sync_folder(f"{self.folder}/{folder}")
        reach(Point.ARCHIVE_DURABLE)
        return Archived(path, incoming.digest, incoming.size_bytes)

    def move(self, path: str, target: str) -> None:
        """Give a file, which is on no record, another name, durably.

        Raises:
            Retry: When the disk did not do it.
        """
        source, place = self.resolve(path), self.resolve(target)
        with _disk():
            self._make_folder(place.parent)
            # Gone when another sender of the very same bytes was faster: then they lie there.
            with contextlib.suppress(FileNotFoundError):
                os.replace(source, place)
            reach(Point.QUARANTINE_MOVED)
            sync_folder(place.parent)

    def set_apart(self, path: str) -> str:
        """Move an instance that is on no record to the quarantine, durably; returns its new path.

        Raises:
            Retry: When the disk did not do it.
        """
        apart = f"quarantine/{self.resolve(path).name}"
        self.move(path, apart)
        return apart

    def store_output(self, job_id: str, name: str, content: bytes) -> Archived:
        """Make one file of a synthesis durable; the same name again replaces it as a whole.

        Raises:
            Refuse: When a name could leave the folder.
            Retry: When the disk did not take it.
        """
        path = Path("outputs", _checked_name(job_id), _checked_name(name))
        self._write(path, content)
        return Archived(path.as_posix(), hashlib.sha256(content).hexdigest(), len(content))

    def expect(self, path: str) -> None:
        """Make sure that a file which was just written is there.

        Raises:
            Retry: When it is not: retention deleted it in that moment.
        """
        if not self.resolve(path).exists():
            raise Retry("retention deleted this instance in this very moment; send it again")

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files, durably; harmless for those that are gone. Empty folders stay: one that
        another process is about to fill must not vanish under it."""
        places = [self.resolve(path) for path in paths]
        for place in places:
            place.unlink(missing_ok=True)
        for folder in {place.parent for place in places}:
            if folder.is_dir():
                sync_folder(folder)

    def strays(self, older_than: float) -> Iterator[str]:
        """Every file, by path, that was last written before a moment of `time.time`."""
        for name in _FOLDERS:
            for found in (self.folder / name).rglob("*"):
                # It may be renamed or deleted while we look.
                with contextlib.suppress(FileNotFoundError):
                    if found.is_file() and found.stat().st_mtime < older_than:
                        yield found.relative_to(self.folder).as_posix()

    def size_bytes(self, paths: Iterable[str]) -> int:
        """Of these files together, those that are there."""
        total = 0
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                total += self.resolve(path).stat().st_size
        return total

    def resolve(self, path: str) -> Path:
        """Where a file of the archive lies.

        Raises:
            Refuse: When `path` leads out of the archive.
        """
        found = (self.folder / path).resolve()
        if not found.is_relative_to(self.folder.resolve()):
            raise Refuse(f"expected a path inside the archive, found {path}")
        return found

    def read_data_set(self, path: str) -> bytes:
        """The data set of a stored instance, as it was sent; its SHA-256 is the ledger's digest.

        Raises:
            FileNotFoundError: When there is no such file.
            Refuse: When the file is not one of ours.
        """
        return _without_meta(self.resolve(path).read_bytes())

    def open_data_set(self, path: str) -> BinaryIO:
        """A stored instance, opened at the beginning of its data set; the caller closes it.

        Raises:
            FileNotFoundError: When there is no such file.
            Refuse: When the file is not one of ours.
        """
        stream = self.resolve(path).open("rb")
        try:
            start = len(_PREAMBLE)
            stream.seek(start + _data_set_offset(stream.read(start + 12)))
        except BaseException:
            stream.close()
            raise
        return stream

    def free_bytes(self) -> int:
        """What the file system of the archive still takes."""
        system = os.statvfs(self.folder)
        return system.f_bavail * system.f_frsize

    def sweep(self) -> int:
        """Remove what an earlier life of this owner left half-written; returns how many files."""
        leftovers = list((self.folder / "incoming").glob(f"{self._owner}.*.tmp"))
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    def _write(self, path: Path, content: bytes) -> None:
        """Write, make durable, rename, make the rename durable."""
        temporary, target = Path(self._temporary()), self.folder / path
        with _disk():
            try:
                with temporary.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    reach(Point.ARCHIVE_WRITTEN)
                    os.fsync(stream.fileno())
                self._make_folder(target.parent)
                reach(Point.ARCHIVE_SYNCED)
                os.replace(temporary, target)
                reach(Point.ARCHIVE_RENAMED)
                sync_folder(target.parent)
                reach(Point.ARCHIVE_DURABLE)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def _temporary(self) -> str:
        """A path that no other file has, by whose name `sweep` knows its owner."""
        name = f"{self._owner}.{os.getpid()}.{next(self._serial)}.tmp"
        return f"{self.folder}/incoming/{name}"

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and all above it, durably.

        A folder that exists may have been made a moment ago by another thread or process and not
        be durable yet, so everything above it is made durable once by each of them.
        """
        if folder in self._durable and folder.is_dir():
            return
        with self._making:
            folder.mkdir(parents=True, exist_ok=True)
            for above in folder.parents:
                sync_folder(above)
                if above == self.folder.parent:
                    break
            self._durable.add(folder)


def output_name(sop_instance_uid: str, content: bytes) -> str:
    """How an output's file is called: other content, other file."""
    digest = hashlib.sha256(content).hexdigest()
    return f"{checked_uid(sop_instance_uid)}-{digest[:_DIGEST_IN_NAME]}.dcm"


def checked_uid(uid: str) -> str:
    """The UID itself.

    Raises:
        Refuse: When it is none: other characters could lead a file out of its folder.
    """
    if len(uid) > _UID_LENGTH or not _UID.fullmatch(uid):
        raise Refuse("expected a UID of digits and dots, at most 64 characters, found another text")
    return uid


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Refuse("expected a name of letters, digits, dots and dashes, found another text")
    return name


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Say `Retry` when the disk refused."""
    try:
        yield
    except OSError as error:
        kind = NoSpace if NoSpace.is_cause(error) else Retry
        raise kind(f"the archive's disk refused a file: {error.strerror}") from error


def _file_meta(encoding: Encoding) -> bytes:
    """File Meta Information (PS3.10 7.1) with the transfer syntax the peer really used.

    Explicit VR little endian, as pydicom writes it, which takes a fifth of what an instance costs.
    """
    elements = b"".join(
        (
            _element(0x0001, b"OB", b"\x00\x01"),
            _element(0x0002, b"UI", encoding.sop_class_uid.encode("ascii")),
            _element(0x0003, b"UI", encoding.sop_instance_uid.encode("ascii")),
            _element(0x0010, b"UI", encoding.transfer_syntax_uid.encode("ascii")),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii")),
            _element(0x0016, b"AE", encoding.calling_ae.encode("ascii")),
        )
    )
    return _element(0x0000, b"UL", struct.pack("<L", len(elements))) + elements


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    """One data element of group 2 (PS3.5 7.1.2)."""
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    head = struct.pack("<HH2s", 0x0002, number, vr)
    long = struct.pack("<xxL", len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return head + long + value


def _without_meta(content: bytes) -> bytes:
    """What follows the file meta information."""
    start = len(_PREAMBLE)
    return content[start + _data_set_offset(content[: start + 12]) :]


def _data_set_offset(head: bytes) -> int:
    """Where the data set begins, behind the preamble: the first element of the file meta
    information tells the length of the others (PS3.10 7.1).

    Raises:
        Refuse: When there is none.
    """
    start = len(_PREAMBLE)
    if head[start - 4 : start] != b"DICM" or head[start : start + 4] != b"\x02\x00\x00\x00":
        raise Refuse("expected a DICOM file with file meta information, found another file")
    return 12 + int.from_bytes(head[start + 8 : start + 12], "little")
