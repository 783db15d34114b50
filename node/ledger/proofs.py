"""Proofs: which studies are sent through the node to show that it works, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import insert, select, update

from config.settings import PROOF_SINK
from node.audit import Kind
from node.ledger.database import Database
from node.ledger.entries import Destination
from node.records import ProofRecord, SynthesisRecord
from node.states import SynthesisState

AE_PREFIX: Final = "PROOF"


class Proofs:
    """Every verb of the proof table."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def begin(self, study_uid: str, calling_ae: str, host: str, port: int) -> None:
        """Name a study as a proof, before anything of it is sent.

        A proof that was left open by a prover that died is closed. There is one at a time: the
        caller holds its lock.
        """
        with self._database.transaction() as session:
            now = self._database.now()
            session.execute(
                update(ProofRecord)
                .filter_by(ended_at=None)
                .values(ended_at=now, outcome={"ok": False, "wrong": "the prover died"})
            )
            session.execute(
                insert(ProofRecord).values(
                    study_uid=study_uid,
                    calling_ae=calling_ae,
                    host=host,
                    port=port,
                    began_at=now,
                )
            )
            self._database.append_audit(session, Kind.PROOF_BEGUN, study_uid, "proof", {})

    def end(self, study_uid: str, outcome: Mapping[str, Any]) -> None:
        """Note what came of it."""
        with self._database.transaction() as session:
            values = {"ended_at": self._database.now(), "outcome": dict(outcome)}
            session.execute(update(ProofRecord).filter_by(study_uid=study_uid).values(**values))
            detail = {"ok": bool(outcome["ok"])}
            self._database.append_audit(session, Kind.PROOF_ENDED, study_uid, "proof", detail)

    def is_expected(self, calling_ae: str) -> bool:
        """Whether a proof that is under way calls by this AE title, which nobody else knows."""
        with self._database.reading() as session:
            query = select(ProofRecord.study_uid).filter_by(calling_ae=calling_ae, ended_at=None)
            return session.scalar(query) is not None

    def sink_of(self, study_uid: str) -> Destination | None:
        """Where the results of this study go, and nowhere else; None when it is no proof."""
        with self._database.reading() as session:
            row = session.get(ProofRecord, study_uid)
            return (
                None if row is None else Destination(PROOF_SINK, "PROOF_SINK", row.host, row.port)
            )

    def dead_letters(self) -> tuple[tuple[str, str], ...]:
        """Job id and series UID of failed syntheses of proofs: of no patient, and to nobody."""
        failed = (
            select(SynthesisRecord.job_id, SynthesisRecord.series_uid)
            .join(ProofRecord, ProofRecord.study_uid == SynthesisRecord.study_uid)
            .where(SynthesisRecord.state == str(SynthesisState.FAILED))
        )
        with self._database.reading() as session:
            return tuple((job_id, series_uid) for job_id, series_uid in session.execute(failed))

    def last(self) -> dict[str, Any] | None:
        """The latest proof; None when there was none."""
        with self._database.reading() as session:
            query = select(ProofRecord).order_by(ProofRecord.began_at.desc()).limit(1)
            row = session.scalars(query).first()
            if row is None:
                return None
            moments = {"began_at": row.began_at, "ended_at": row.ended_at}
            return moments | dict(row.outcome or {"ok": None})
