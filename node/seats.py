"""The places for associations, which all acceptors of a node share.

Each is a stretch of one file, and whoever has it holds a lock on that stretch: so the kernel gives
back what a process had that died. In the stretch stands the address that has the place.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.errors import Refuse

# An address and its zone (RFC 4007), which pynetdicom's peers are told apart by.
_BYTES: Final = 64


class Seats:
    """The places of a node, as one acceptor sees them.

    POSIX gives up all locks of a process on a file with the first descriptor that it closes: there
    is one object to a process and file, and it is never closed.

    Args:
        path: Of the file; made when missing, with its folder.
        count: How many places there are.
        per_address: How many of them one address may have.
    """

    def __init__(self, path: Path, count: int, per_address: int) -> None:
        self._count: Final = count
        self._per_address: Final = per_address
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: Final = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock: Final = threading.Lock()
        self._ours: Final[set[int]] = set()

    def take(self, address: str) -> int:
        """Take a place; returns its number, for `give_back`.

        Raises:
            Refuse: When there is none, or none for this address.
        """
        name = address.encode()[:_BYTES].ljust(_BYTES, b"\0")
        with self._turn():
            content = os.pread(self._file, self._count * _BYTES, 0)
            free = [seat for seat in range(self._count) if self._is_free(seat)]
            if not free:
                raise Refuse("too many associations")
            of_address = sum(
                content[seat * _BYTES : (seat + 1) * _BYTES] == name
                for seat in range(self._count)
                if seat not in free
            )
            if of_address >= self._per_address:
                raise Refuse("too many associations of this peer")
            seat = free[0]
            self._claim(seat)
            self._ours.add(seat)
            os.pwrite(self._file, name, seat * _BYTES)
            return seat

    def give_back(self, seat: int) -> None:
        """Leave a place."""
        with self._lock:
            self._ours.discard(seat)
            fcntl.lockf(self._file, fcntl.LOCK_UN, _BYTES, seat * _BYTES)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Look and take without anybody between; a stretch of its own, behind all that may be."""
        with self._lock:
            start = (1 << 32) * _BYTES
            fcntl.lockf(self._file, fcntl.LOCK_EX, _BYTES, start)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, _BYTES, start)

    def _is_free(self, seat: int) -> bool:
        if seat in self._ours or not self._claim(seat):
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN, _BYTES, seat * _BYTES)
        return True

    def _claim(self, seat: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _BYTES, seat * _BYTES)
        except OSError:
            return False
        return True
