"""The tables of the ledger: what was received, decided, made and sent, and who did it.

Times are UTC ISO 8601 text with microseconds: they sort, they read, and they are the same in
SQLite and PostgreSQL. Structured detail is JSON. Nothing here names a patient.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, MetaData, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Constraint names are fixed so that a migration can name them on every database.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

Uid = String(64)
Digest = String(64)
Moment = String(32)
# SQLite only counts a plain INTEGER primary key up by itself.
Counter = BigInteger().with_variant(Integer, "sqlite")


class Record(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(naming_convention=NAMING)


class AssociationRecord(Record):
    """One association that a peer opened with us."""

    __tablename__ = "association"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    process: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    opened_at: Mapped[str] = mapped_column(Moment)
    closed_at: Mapped[str | None] = mapped_column(Moment, index=True)
    ending: Mapped[str | None] = mapped_column(String(32))


class SeriesRecord(Record):
    """One received series; `version` counts how often it was reopened by a late slice."""

    __tablename__ = "series"

    series_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    study_uid: Mapped[str] = mapped_column(Uid, index=True)
    modality: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    version: Mapped[int] = mapped_column(Integer)
    calling_ae: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    first_instance_at: Mapped[str] = mapped_column(Moment)
    last_instance_at: Mapped[str] = mapped_column(Moment)
    completed_at: Mapped[str | None] = mapped_column(Moment)


class InstanceRecord(Record):
    """One instance answered with success. Its file was durable before this row."""

    __tablename__ = "instance"

    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    series_uid: Mapped[str] = mapped_column(ForeignKey("series.series_uid"), index=True)
    association_id: Mapped[int] = mapped_column(ForeignKey("association.id"))
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    transfer_syntax_uid: Mapped[str] = mapped_column(Uid)
    digest: Mapped[str] = mapped_column(Digest)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(Text)
    received_at: Mapped[str] = mapped_column(Moment)
    # What completion and selection need of the header: orientation, positions, spacing, kernel, ...
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)


class QuarantineRecord(Record):
    """An instance that contradicts what we hold: kept apart, never overwritten."""

    __tablename__ = "quarantine"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    association_id: Mapped[int] = mapped_column(ForeignKey("association.id"))
    digest: Mapped[str] = mapped_column(Digest)
    path: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    received_at: Mapped[str] = mapped_column(Moment)
    # As it says of itself; not known of rows of schema 8 and before.
    series_uid: Mapped[str | None] = mapped_column(Uid)
    study_uid: Mapped[str | None] = mapped_column(Uid)


class SelectionRecord(Record):
    """Why a version of a series was chosen or declined."""

    __tablename__ = "selection"

    series_uid: Mapped[str] = mapped_column(ForeignKey("series.series_uid"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    decision: Mapped[str] = mapped_column(String(16))
    code: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    decided_at: Mapped[str] = mapped_column(Moment)


class SynthesisRecord(Record):
    """One synthesis: what is made from what, by which weights, when, and how far it is."""

    __tablename__ = "synthesis"

    job_id: Mapped[str] = mapped_column(Digest, primary_key=True)
    series_uid: Mapped[str] = mapped_column(ForeignKey("series.series_uid"), index=True)
    series_version: Mapped[int] = mapped_column(Integer)
    study_uid: Mapped[str] = mapped_column(Uid, index=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    # Counted up by every retry, so that each run is a workflow of its own.
    run: Mapped[int] = mapped_column(Integer)
    priority: Mapped[int] = mapped_column(Integer)
    contrasts: Mapped[list[str]] = mapped_column(JSON)
    # {sop instance uid: digest} of exactly the instances this synthesis is made from
    sources: Mapped[dict[str, str]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    model_name: Mapped[str] = mapped_column(String(64))
    model_version: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(Digest)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    software: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    device: Mapped[str | None] = mapped_column(String(128))
    timings_s: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    measurements: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    warnings: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(Moment)
    updated_at: Mapped[str] = mapped_column(Moment)
    # Since when it waits for its result: created, or retried by hand. A run that was postponed
    # waits on.
    queued_at: Mapped[str] = mapped_column(Moment, server_default=text("''"))
    # Set once the workflow engine has accepted this run; a queued row without it is offered again.
    dispatched_at: Mapped[str | None] = mapped_column(Moment)
    # A run that found the disk full is not offered again before this.
    waits_until: Mapped[str | None] = mapped_column(Moment)


class OutputRecord(Record):
    """One secondary capture instance that a synthesis produced."""

    __tablename__ = "output"

    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("synthesis.job_id"), index=True)
    series_uid: Mapped[str] = mapped_column(Uid, index=True)
    contrast: Mapped[str] = mapped_column(String(16))
    slice_index: Mapped[int] = mapped_column(Integer)
    pixel_digest: Mapped[str] = mapped_column(Digest)
    digest: Mapped[str] = mapped_column(Digest)
    path: Mapped[str] = mapped_column(Text)


class DeliveryRecord(Record):
    """A synthesis on its way to one destination; the address is resolved when it is created."""

    __tablename__ = "delivery"
    __table_args__ = (
        Index("uq_delivery_job_id_destination", "job_id", "destination", unique=True),
    )

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("synthesis.job_id"), index=True)
    destination: Mapped[str] = mapped_column(String(64))
    ae_title: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(255))
    port: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16), index=True)
    created_at: Mapped[str] = mapped_column(Moment)
    updated_at: Mapped[str] = mapped_column(Moment)
    # Since when something is to be sent: created, retried by hand, or refused in the end by a
    # destination that had it. Attempts between leave it as it is.
    opened_at: Mapped[str] = mapped_column(Moment, server_default=text("''"))


class DeliveryAttemptRecord(Record):
    """One try at a delivery, with what came of it."""

    __tablename__ = "delivery_attempt"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), index=True)
    started_at: Mapped[str] = mapped_column(Moment)
    ended_at: Mapped[str | None] = mapped_column(Moment)
    outcome: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)


class DeliveredInstanceRecord(Record):
    """The peer's own status for one instance of one delivery, the latest one."""

    __tablename__ = "delivered_instance"

    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("delivery_attempt.id"))
    status: Mapped[int] = mapped_column(Integer)
    answered_at: Mapped[str] = mapped_column(Moment)


class HoldRecord(Record):
    """A UID whose files retention must leave alone until the hold is released."""

    __tablename__ = "hold"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    uid: Mapped[str] = mapped_column(Digest, index=True)
    reason: Mapped[str] = mapped_column(Text)
    placed_at: Mapped[str] = mapped_column(Moment)
    placed_by: Mapped[str] = mapped_column(String(128))
    released_at: Mapped[str | None] = mapped_column(Moment)


class RemovalRecord(Record):
    """One file that a rule of retention named: first marked, then deleted. The rows that tell what
    the file was stay for ever."""

    __tablename__ = "removal"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    # What the rule judged as one: a series, a job, a run, or the path itself.
    unit: Mapped[str] = mapped_column(Text)
    # Of the audit events: the instance, the run, or the path.
    subject: Mapped[str] = mapped_column(String(128))
    path: Mapped[str] = mapped_column(Text, index=True)
    digest: Mapped[str | None] = mapped_column(Digest)
    rule: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), index=True)
    marked_at: Mapped[str] = mapped_column(Moment)
    ended_at: Mapped[str | None] = mapped_column(Moment)


class CommitmentRecord(Record):
    """One storage commitment transaction: who was asked about what, and what came of it."""

    __tablename__ = "commitment"

    transaction_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), index=True)
    # Of the synthesis, so that a retry by hand begins with all its tries again.
    run: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16), index=True)
    requested_at: Mapped[str] = mapped_column(Moment)
    ended_at: Mapped[str | None] = mapped_column(Moment)
    # {sop instance uid: Failure Reason (0008,1197)}
    failures: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    reason: Mapped[str | None] = mapped_column(Text)


class ProofRecord(Record):
    """A study that is sent through the node to show that it works; never a patient's."""

    __tablename__ = "proof"

    study_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(255))
    port: Mapped[int] = mapped_column(Integer)
    began_at: Mapped[str] = mapped_column(Moment)
    ended_at: Mapped[str | None] = mapped_column(Moment)
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class OutboxRecord(Record):
    """How far a receiver of audit events, such as the syslog server, has been told."""

    __tablename__ = "outbox"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)
    moved_at: Mapped[str] = mapped_column(Moment)


class AnnouncementRecord(Record):
    """A series that a PACS announced to be available, and whether it was fetched."""

    __tablename__ = "announcement"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    study_uid: Mapped[str] = mapped_column(Uid)
    series_uid: Mapped[str] = mapped_column(Uid, index=True)
    # From whom it can be fetched, and who said so.
    retrieve_ae: Mapped[str] = mapped_column(String(16))
    calling_ae: Mapped[str] = mapped_column(String(16))
    instances: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16), index=True)
    tries: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[str] = mapped_column(Moment)
    due_at: Mapped[str] = mapped_column(Moment)


class WorkerRecord(Record):
    """One life of a worker process; the workflow engine knows it by `executor_id`."""

    __tablename__ = "worker"

    id: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    beats: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[str] = mapped_column(Moment)
    last_beat_at: Mapped[str] = mapped_column(Moment)
    # Who takes up what it left.
    taken_by: Mapped[int | None] = mapped_column(BigInteger)


class AuditEventRecord(Record):
    """One audit event; `hash` = sha256 over the previous hash and this event's canonical JSON."""

    __tablename__ = "audit_event"

    sequence: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(Moment)
    kind: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(128), index=True)
    actor: Mapped[str] = mapped_column(String(128))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    previous_hash: Mapped[str] = mapped_column(Digest)
    hash: Mapped[str] = mapped_column(Digest)
