"""Reads a log of `strace -f -y -xx`: which call began and ended when, in the order of the log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

_LINE = re.compile(r"(\d+)\s+(?:<\.\.\. )?(\w+)(.*)$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"\((\d+)<([^>]*)>")
_RESULT = re.compile(r"\) += (-?\d+)(?:<([^>]*)>)?[^=]*$")
_UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True)
class Call:
    """One system call.

    Args:
        thread: That made it.
        name: Of the call.
        arguments: As strace prints them.
        result: What it returned; -1 while it is not known, or for a failure.
        opened: Path of the descriptor it returned.
    """

    thread: int
    name: str
    arguments: str
    result: int = -1
    opened: str = ""

    @cached_property
    def texts(self) -> list[str]:
        """The strings among the arguments."""
        return [_decoded(text).decode(errors="replace") for text in _STRING.findall(self.arguments)]

    @cached_property
    def data(self) -> bytes:
        """All bytes among the arguments."""
        return b"".join(_decoded(text) for text in _STRING.findall(self.arguments))

    @property
    def words(self) -> list[str]:
        """The arguments, as far as they are plain."""
        return self.arguments.rstrip(")").rpartition(",")[2].split()

    @property
    def fd(self) -> int:
        """The descriptor that is the first argument; -1 when there is none."""
        found = _FD.match(self.arguments)
        return int(found.group(1)) if found else -1

    @property
    def path(self) -> str:
        """Where that descriptor leads."""
        found = _FD.match(self.arguments)
        return _plain(found.group(2)) if found else ""

    @property
    def is_file(self) -> bool:
        """Whether that is a file or folder, not a socket or a pipe."""
        return self.path.startswith("/")


def calls(log: Path) -> Iterator[tuple[Call, bool]]:
    """Every call twice: when it has begun, and, if it succeeded, when it has ended."""
    begun: dict[int, Call] = {}
    with log.open(errors="replace") as lines:
        for line in lines:
            found = _LINE.match(line.rstrip("\n"))
            if not found:
                continue
            thread, name, rest = int(found.group(1)), found.group(2), found.group(3)
            if line[found.end(1) :].lstrip().startswith("<..."):
                call = begun.pop(thread, None)
                if call is None:
                    continue
                call = replace(call, arguments=call.arguments + rest.removeprefix(" resumed>"))
            else:
                call = Call(thread, name, rest.removesuffix(_UNFINISHED))
                yield call, False
                if rest.endswith(_UNFINISHED):
                    begun[thread] = call
                    continue
            ended = _RESULT.search(call.arguments)
            if ended and int(ended.group(1)) >= 0:
                yield _ended(call, ended), True


def _ended(call: Call, found: re.Match[str]) -> Call:
    return Call(
        call.thread,
        call.name,
        call.arguments[: found.start()] + ")",
        int(found.group(1)),
        _plain(found.group(2) or ""),
    )


def _plain(text: str) -> str:
    return _decoded(text).decode(errors="replace") if text.startswith("\\x") else text


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
