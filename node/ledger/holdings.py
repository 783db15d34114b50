"""Holdings: every file of the archive that is on record and was not deleted by retention."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from node.ledger.database import Database
from node.ledger.presence import is_live
from node.records import InstanceRecord, OutputRecord, QuarantineRecord


@dataclass(frozen=True)
class Holding:
    """One file.

    Args:
        path: Relative to the archive.
        digest: SHA-256, in hex.
        is_whole: Whether the digest is of the whole file; of the data set alone otherwise.
    """

    path: str
    digest: str
    is_whole: bool


class Holdings:
    """What the archive must have."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def files(self) -> Generator[Holding, None, None]:
        """Every file, in one consistent view, which stands until the last one was taken."""
        with self._database.reading() as session:
            for record in (InstanceRecord, QuarantineRecord, OutputRecord):
                query = select(record.path, record.digest).where(is_live(record.path)).distinct()
                rows = session.execute(query.execution_options(yield_per=1000))
                for path, digest in rows:
                    yield Holding(path, digest, record is OutputRecord)
