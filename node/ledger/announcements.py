"""Announcements: which series a PACS said it has, and whether we fetched them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import insert, select

from node.audit import Kind
from node.clock import to_text
from node.errors import LostRace
from node.ledger.database import Database, move
from node.records import AnnouncementRecord
from node.states import ANNOUNCEMENT_MOVES, AnnouncementState


@dataclass(frozen=True)
class Announced:
    """One series that is available.

    Args:
        retrieve_ae: Of the AE that it can be fetched from.
        instances: How many CT instances of it were named.
    """

    study_uid: str
    series_uid: str
    retrieve_ae: str
    instances: int


@dataclass(frozen=True)
class PendingAnnouncement:
    """An announced series that waits to be fetched."""

    id: int
    announced: Announced
    tries: int


class Announcements:
    """Every verb of the announcement table."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def note(self, announced: Sequence[Announced], calling_ae: str, is_wanted: bool) -> None:
        """Put on record what a PACS announced, all or nothing.

        A series that waits to be fetched, or is being fetched, is not put down twice; when there is
        more of it by now it is fetched again at once.

        Args:
            announced: One per series.
            calling_ae: Who said so.
            is_wanted: Whether it is to be fetched.
        """
        state = AnnouncementState.PENDING if is_wanted else AnnouncementState.NOTED
        with self._database.transaction() as session:
            now = self._database.now()
            for one in announced:
                waiting = session.scalar(
                    select(AnnouncementRecord).filter_by(
                        series_uid=one.series_uid, state=str(AnnouncementState.PENDING)
                    )
                )
                if waiting is not None and one.instances > waiting.instances:
                    waiting.instances, waiting.due_at = one.instances, now
                if waiting is None:
                    values = {**vars(one), "calling_ae": calling_ae, "state": str(state)}
                    times = {"received_at": now, "due_at": now}
                    session.execute(insert(AnnouncementRecord).values(**values, **times, tries=0))
                detail = {"retrieve_ae": one.retrieve_ae, "instances": one.instances}
                self._database.append_audit(
                    session, Kind.ANNOUNCEMENT_RECEIVED, one.series_uid, calling_ae, detail
                )

    def due(self) -> tuple[PendingAnnouncement, ...]:
        """What is to be fetched now, the oldest first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(AnnouncementRecord)
                .where(
                    AnnouncementRecord.state == str(AnnouncementState.PENDING),
                    AnnouncementRecord.due_at <= self._database.now(),
                )
                .order_by(AnnouncementRecord.id)
            )
            return tuple(
                PendingAnnouncement(
                    row.id,
                    Announced(row.study_uid, row.series_uid, row.retrieve_ae, row.instances),
                    row.tries,
                )
                for row in rows
            )

    def postpone(self, seen: PendingAnnouncement, due_at: datetime, reason: str) -> None:
        """Try again later."""
        values = {"tries": seen.tries + 1, "due_at": to_text(due_at), "reason": reason}
        self._end(seen, AnnouncementState.PENDING, None, "", values)

    def fetched(self, seen: PendingAnnouncement, actor: str) -> None:
        """All of it is here."""
        kind = Kind.ANNOUNCEMENT_FETCHED
        self._end(seen, AnnouncementState.FETCHED, kind, actor, {"reason": None})

    def fail(self, seen: PendingAnnouncement, reason: str, actor: str) -> None:
        """It is not tried again; a person may."""
        kind = Kind.ANNOUNCEMENT_FAILED
        self._end(seen, AnnouncementState.FAILED, kind, actor, {"reason": reason})

    def _end(
        self,
        seen: PendingAnnouncement,
        target: AnnouncementState,
        kind: Kind | None,
        actor: str,
        values: dict[str, object],
    ) -> None:
        with self._database.transaction() as session:
            row = session.get_one(AnnouncementRecord, seen.id)
            if (row.tries, row.instances) != (seen.tries, seen.announced.instances):
                raise LostRace(f"announcement {seen.id}: tried by somebody else, or there is more")
            source, key = AnnouncementState(row.state), {"id": seen.id, "tries": seen.tries}
            move(session, AnnouncementRecord, key, ANNOUNCEMENT_MOVES, source, target, values)
            if kind is not None:
                detail = {key: value for key, value in values.items() if value}
                series_uid = seen.announced.series_uid
                self._database.append_audit(session, kind, series_uid, actor, detail)
