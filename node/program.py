"""Which program draws: a digest of the sources that decide the pixels of a result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

# They make and judge models; what they gave is in the weights, which have a digest of their own.
_ASIDE: Final = frozenset({"training", "evaluation", "phantom"})


@cache
def program_digest() -> str:
    """SHA-256 over names and contents of our sources from the CT's files to the marked slices.

    A version number says what was released; between two releases pixels change too, and a UID must
    never name other pixels.
    """
    return digest_sources(resources.files("pipeline"), resources.files("node") / "computing.py")


def digest_sources(pipeline: Traversable, computing: Traversable) -> str:
    """The digest of these sources; comments count, since nothing here knows what matters.

    Args:
        pipeline: The folder of the pipeline.
        computing: The module that calls it.
    """
    digest = hashlib.sha256()
    for name, source in sorted([*_sources(pipeline, ""), ("computing.py", computing)]):
        content = source.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode("ascii") + content)
    return digest.hexdigest()


def _sources(folder: Traversable, place: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        name = f"{place}{entry.name}"
        if entry.is_dir() and name not in _ASIDE:
            yield from _sources(entry, f"{name}/")
        elif name.endswith(".py"):
            yield f"pipeline/{name}", entry
