"""Series: which are still coming in, which are complete and undecided, what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import String, cast, func, insert, select, update
from sqlalchemy.orm import Session

from node.audit import Kind
from node.clock import from_text, to_text
from node.ledger.database import Database, move
from node.ledger.presence import removed_of_series
from node.ledger.receiving import Ending
from node.records import AssociationRecord, InstanceRecord, SelectionRecord, SeriesRecord
from node.states import SERIES_MOVES, SeriesState
from node.summary import InstanceSummary


@dataclass(frozen=True)
class IncomingSeries:
    """A series in state `receiving`, without its instances.

    Args:
        last_instance_at: UTC.
        open_associations: How many associations that brought instances of it are still open.
        was_cut_off: The last association that brought some ended other than by release.
    """

    series_uid: str
    study_uid: str
    version: int
    last_instance_at: datetime
    open_associations: int
    was_cut_off: bool


@dataclass(frozen=True)
class Unread:
    """An instance whose header has not been summarized; `path` is relative to the archive."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str


@dataclass(frozen=True)
class HeldInstance:
    """An instance on record; `path` is relative to the archive, and the file is there unless
    retention deleted it at `removed_at`."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    size_bytes: int
    path: str
    summary: InstanceSummary
    removed_at: str | None = None


@dataclass(frozen=True)
class HeldSeries:
    """A series with its instances, by SOP Instance UID, as one consistent view."""

    series_uid: str
    study_uid: str
    modality: str
    state: SeriesState
    version: int
    calling_ae: str
    peer_address: str
    instances: tuple[HeldInstance, ...]

    @property
    def sources(self) -> Mapping[str, str]:
        """SOP Instance UID to digest, of exactly these instances."""
        return {one.sop_instance_uid: one.digest for one in self.instances}


class Series:
    """Every verb of completion and selection."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def incoming(self) -> tuple[IncomingSeries, ...]:
        """Series in state `receiving`, the longest silent first."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(SeriesRecord)
                .filter_by(state=str(SeriesState.RECEIVING))
                .order_by(SeriesRecord.last_instance_at)
            )
            return tuple(_incoming(session, row) for row in rows)

    def summaries(self, series_uid: str) -> tuple[InstanceSummary, ...]:
        """What the headers of a series' instances say."""
        with self._database.reading() as session:
            rows = session.scalars(select(InstanceRecord.summary).filter_by(series_uid=series_uid))
            return tuple(InstanceSummary.from_json(row) for row in rows)

    def unread(self, series_uid: str) -> tuple[Unread, ...]:
        """The instances of a series whose headers nobody has summarized."""
        with self._database.reading() as session:
            rows = session.execute(
                select(
                    InstanceRecord.sop_instance_uid,
                    InstanceRecord.transfer_syntax_uid,
                    InstanceRecord.path,
                ).where(
                    InstanceRecord.series_uid == series_uid,
                    cast(InstanceRecord.summary, String) == "null",
                )
            )
            return tuple(Unread(*row) for row in rows)

    def note_summaries(self, summaries: Mapping[str, InstanceSummary]) -> None:
        """Keep what the headers of these instances say, by SOP Instance UID."""
        rows = [
            {"sop_instance_uid": uid, "summary": one.to_json()} for uid, one in summaries.items()
        ]
        if rows:
            with self._database.transaction() as session:
                session.execute(update(InstanceRecord), rows)

    def get(self, series_uid: str) -> HeldSeries | None:
        """A series with its instances; None when it is not on record."""
        with self._database.reading() as session:
            row = session.get(SeriesRecord, series_uid)
            return None if row is None else _held(session, row)

    def of_study(self, study_uid: str) -> tuple[HeldSeries, ...]:
        """All series of a study, in the order they began to arrive."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(SeriesRecord)
                .filter_by(study_uid=study_uid)
                .order_by(SeriesRecord.first_instance_at, SeriesRecord.series_uid)
            )
            return tuple(_held(session, row) for row in rows)

    def counts(self, study_uid: str) -> dict[str, int]:
        """How many instances of each series of a study are on record, deleted ones among them."""
        with self._database.reading() as session:
            rows = session.execute(
                select(SeriesRecord.series_uid, func.count())
                .join(InstanceRecord, InstanceRecord.series_uid == SeriesRecord.series_uid)
                .where(SeriesRecord.study_uid == study_uid)
                .group_by(SeriesRecord.series_uid)
            )
            return {str(uid): int(count) for uid, count in rows}

    def undecided_studies(self) -> tuple[str, ...]:
        """Studies with a complete series that selection has not decided about."""
        with self._database.reading() as session:
            return tuple(
                session.scalars(
                    select(SeriesRecord.study_uid)
                    .filter_by(state=str(SeriesState.COMPLETE))
                    .group_by(SeriesRecord.study_uid)
                    .order_by(func.min(SeriesRecord.completed_at))
                )
            )

    def complete(
        self, seen: IncomingSeries, reason: str, actor: str, lacks: Mapping[str, Any] | None = None
    ) -> None:
        """Move a series to `complete`, as it was seen.

        Args:
            seen: The series.
            reason: Why it is taken for complete.
            actor: Who does.
            lacks: JSON: what an archive has more of its study, if it was asked and has.

        Raises:
            LostRace: When a slice came in since.
        """
        with self._database.transaction() as session:
            key = {
                "series_uid": seen.series_uid,
                "version": seen.version,
                "last_instance_at": to_text(seen.last_instance_at),
            }
            values = {"completed_at": self._database.now()}
            source, target = SeriesState.RECEIVING, SeriesState.COMPLETE
            move(session, SeriesRecord, key, SERIES_MOVES, source, target, values)
            count = session.scalar(
                select(func.count())
                .select_from(InstanceRecord)
                .filter_by(series_uid=seen.series_uid)
            )
            detail: dict[str, Any] = {"version": seen.version, "instances": count, "reason": reason}
            if lacks:
                detail["archive"] = dict(lacks)
            self._database.append_audit(
                session, Kind.SERIES_COMPLETED, seen.series_uid, actor, detail
            )

    def decide(
        self,
        series_uid: str,
        version: int,
        decision: SeriesState,
        code: str,
        reason: str,
        detail: Mapping[str, Any],
        actor: str,
    ) -> None:
        """Record why this version of a series was selected or declined, and move it there.

        Args:
            series_uid: Of a series in state `complete`.
            version: The version that was judged.
            decision: `SELECTED` or `DECLINED`.
            code: Stable machine word.
            reason: For people; nothing of the patient.
            detail: JSON: what was measured.
            actor: Who decided.

        Raises:
            LostRace: When a late slice opened the series again since.
        """
        with self._database.transaction() as session:
            key = {"series_uid": series_uid, "version": version}
            move(session, SeriesRecord, key, SERIES_MOVES, SeriesState.COMPLETE, decision)
            session.execute(
                insert(SelectionRecord).values(
                    **key,
                    decision=str(decision),
                    code=code,
                    reason=reason,
                    detail=dict(detail),
                    decided_at=self._database.now(),
                )
            )
            is_selected = decision is SeriesState.SELECTED
            self._database.append_audit(
                session,
                Kind.SERIES_SELECTED if is_selected else Kind.SERIES_DECLINED,
                series_uid,
                actor,
                {"version": version, "code": code, "reason": reason},
            )


def _incoming(session: Session, row: SeriesRecord) -> IncomingSeries:
    associations = session.execute(
        select(AssociationRecord.closed_at, AssociationRecord.ending)
        .where(
            AssociationRecord.id.in_(
                select(InstanceRecord.association_id).filter_by(series_uid=row.series_uid)
            )
        )
        .order_by(AssociationRecord.id.desc())
    ).all()
    return IncomingSeries(
        series_uid=row.series_uid,
        study_uid=row.study_uid,
        version=row.version,
        last_instance_at=from_text(row.last_instance_at),
        open_associations=sum(one.closed_at is None for one in associations),
        was_cut_off=bool(associations)
        and associations[0].ending not in (None, str(Ending.RELEASED)),
    )


def _held(session: Session, row: SeriesRecord) -> HeldSeries:
    instances = session.scalars(
        select(InstanceRecord)
        .filter_by(series_uid=row.series_uid)
        .order_by(InstanceRecord.sop_instance_uid)
    )
    removed = removed_of_series(session, row.series_uid)
    return HeldSeries(
        series_uid=row.series_uid,
        study_uid=row.study_uid,
        modality=row.modality,
        state=SeriesState(row.state),
        version=row.version,
        calling_ae=row.calling_ae,
        peer_address=row.peer_address,
        instances=tuple(
            HeldInstance(
                one.sop_instance_uid,
                one.sop_class_uid,
                one.transfer_syntax_uid,
                one.digest,
                one.size_bytes,
                one.path,
                InstanceSummary.from_json(one.summary),
                removed.get(one.path),
            )
            for one in instances
        ),
    )
