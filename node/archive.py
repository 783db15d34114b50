"""The archive: instance files that are durable when `store` returns, and nothing half-written.

A file is written under `incoming/`, made durable, then renamed to its place, and the rename is made
durable too; a crash leaves either the whole file or a leftover that the next start sweeps. Names
carry the digest of the content, so that two senders of one UID can never overwrite each other.

    incoming/    being written
    instances/   XX/SERIES_UID/SOP_INSTANCE_UID-DIGEST.dcm    XX: two digits of the series' hash
    quarantine/  SOP_INSTANCE_UID-DIGEST.dcm                  contradicts what is held
    outputs/     JOB_ID/NAME                                  what a synthesis made
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from node.errors import Refuse, Retry
from pipeline.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# PS3.5 9.1, save that leading zeros pass: some old scanners write them, and they harm nobody.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH: Final = 64
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_FOLDERS: Final = ("incoming", "instances", "quarantine", "outputs")
_PREAMBLE: Final = bytes(128) + b"DICM"
# Enough of a SHA-256 in a file's name; the whole of it is in the ledger.
_DIGEST_IN_NAME: Final = 16


@dataclass(frozen=True)
class Encoded:
    """A data set as its sender encoded it, with what its file meta information must say.

    Args:
        content: The encoded data set, without preamble or group 2.
        calling_ae: Of the sender, for Source Application Entity Title (0002,0016).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the data set as it was sent."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Archived:
    """A durable file; `path` is relative to the archive, `digest` that of the content given."""

    path: str
    digest: str
    size_bytes: int


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
        for name in _FOLDERS:
            self._make_folder(folder / name)

    def store(self, series_uid: str, encoded: Encoded) -> Archived:
        """Make an instance durable, byte for byte as it was sent.

        Raises:
            Refuse: When a UID is none (PS3.5 9.1); nothing was written.
            Retry: When the disk did not take it; nothing is in place.
        """
        series = checked_uid(series_uid)
        shard = hashlib.sha256(series.encode("ascii")).hexdigest()[:2]
        return self._store_part10(Path("instances", shard, series), encoded)

    def quarantine(self, encoded: Encoded) -> Archived:
        """Make an instance durable apart from all others.

        Raises:
            Refuse, Retry: As `store`.
        """
        return self._store_part10(Path("quarantine"), encoded)

    def store_output(self, job_id: str, name: str, content: bytes) -> Archived:
        """Make one file of a synthesis durable; the same name again replaces it as a whole.

        Raises:
            Refuse: When a name could leave the folder.
            Retry: When the disk did not take it.
        """
        path = Path("outputs", _checked_name(job_id), _checked_name(name))
        self._write(path, (content,))
        return Archived(path.as_posix(), hashlib.sha256(content).hexdigest(), len(content))

    def discard(self, path: str) -> None:
        """Remove a file that never came on record; harmless when it is gone."""
        self.resolve(path).unlink(missing_ok=True)

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
                _sync_folder(folder)

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

    def free_bytes(self) -> int:
        """What the file system of the archive still takes."""
        return shutil.disk_usage(self.folder).free

    def sweep(self) -> int:
        """Remove what an earlier life of this owner left half-written; returns how many files."""
        leftovers = list((self.folder / "incoming").glob(f"{self._owner}.*.tmp"))
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    def _store_part10(self, parent: Path, encoded: Encoded) -> Archived:
        uid, digest = checked_uid(encoded.sop_instance_uid), encoded.digest
        path = parent / f"{uid}-{digest[:_DIGEST_IN_NAME]}.dcm"
        self._write(path, (_PREAMBLE, _file_meta(encoded), encoded.content))
        return Archived(path.as_posix(), digest, len(encoded.content))

    def _write(self, path: Path, parts: Iterable[bytes]) -> None:
        """Write, make durable, rename, make the rename durable."""
        temporary = (
            self.folder / "incoming" / f"{self._owner}.{os.getpid()}.{next(self._serial)}.tmp"
        )
        target = self.folder / path
        try:
            try:
                with temporary.open("wb") as stream:
                    stream.writelines(parts)
                    stream.flush()
                    os.fsync(stream.fileno())
                self._make_folder(target.parent)
                os.replace(temporary, target)
                _sync_folder(target.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise Retry(f"the archive's disk refused a file: {error.strerror}") from error

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
                _sync_folder(above)
                if above == self.folder.parent:
                    break
            self._durable.add(folder)


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


def _file_meta(encoded: Encoded) -> bytes:
    """File Meta Information (PS3.10 7.1) with the transfer syntax the peer really used."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(encoded.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(encoded.sop_instance_uid)
    meta.TransferSyntaxUID = UID(encoded.transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = encoded.calling_ae
    stream = DicomBytesIO()
    write_file_meta_info(stream, meta)
    content: bytes = stream.getvalue()
    return content


def _without_meta(content: bytes) -> bytes:
    """What follows the file meta information, whose first element tells its length (PS3.10 7.1)."""
    start = len(_PREAMBLE)
    if content[start - 4 : start] != b"DICM" or content[start : start + 4] != b"\x02\x00\x00\x00":
        raise Refuse("expected a DICOM file with file meta information, found another file")
    length = int.from_bytes(content[start + 8 : start + 12], "little")
    return content[start + 12 + length :]


def _sync_folder(folder: Path) -> None:
    """Make a rename or a new entry in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
