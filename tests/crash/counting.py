"""What is left when the killing is over: everything promised, once, and nothing else."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Set
from pathlib import Path

from sqlalchemy import select

from node.archive import Archive
from node.audit import Kind, verify
from node.errors import Refuse
from node.ledger import Ledger
from node.records import (
    AssociationRecord,
    InstanceRecord,
    OutputRecord,
    QuarantineRecord,
    RemovalRecord,
    SynthesisRecord,
)
from node.states import RemovalState, SynthesisState
from tests.crash.scanner import Work
from tests.peers import ScriptedPeer


def findings(
    ledger: Ledger,
    archive: Archive,
    data: Path,
    work: Work,
    peer: ScriptedPeer,
    committed: Set[str],
) -> Iterator[str]:
    """Everything that is not as it must be; `committed` is what the PACS has taken over."""
    yield from _promises(ledger, archive, work)
    yield from _syntheses(ledger, work)
    yield from _deliveries(ledger, peer)
    yield from _removals(ledger, committed)
    yield from _orphans(ledger, archive, data)
    if (broken := verify(ledger.reports.events())) is not None:
        yield f"the audit chain is broken at {broken.sequence}: {broken.reason}"


def _promises(ledger: Ledger, archive: Archive, work: Work) -> Iterator[str]:
    for uid, digest in work.acknowledged.items():
        try:
            row = ledger.reports.show(uid)
            # Deleted on record is as good: `_removals` looks whether it might.
            is_gone = row["removed_at"] is not None
            content = b"" if is_gone else archive.read_data_set(row["path"])
        except (Refuse, FileNotFoundError) as error:
            yield f"{uid} was acknowledged and is gone: {error}"
            continue
        stored = row["digest"] if is_gone else hashlib.sha256(content).hexdigest()
        if not row["digest"] == digest == stored:
            yield f"{uid} was acknowledged with other bytes"


def _syntheses(ledger: Ledger, work: Work) -> Iterator[str]:
    for uid, instances in work.series.items():
        if not instances:
            continue
        story = ledger.reports.show(uid)
        if story["state"] != "selected":
            yield f"series {uid} is {story['state']}"
        for job in story["syntheses"]:
            if job["state"] != SynthesisState.COMMITTED:
                yield f"synthesis {job['job_id'][:12]} is {job['state']}: {job['reason']}"
        last = story["syntheses"][-1] if story["syntheses"] else {"sources": {}}
        if set(last["sources"]) != instances:
            yield f"the last synthesis of {uid} is not made from all that was acknowledged"


def _deliveries(ledger: Ledger, peer: ScriptedPeer) -> Iterator[str]:
    accepted = peer.accepted()
    with ledger.database.reading() as session:
        query = select(OutputRecord.sop_instance_uid)
        outputs = {uid for (uid,) in session.execute(query)}
    for uid in outputs - accepted.keys():
        yield f"output {uid} never arrived"
    for uid in accepted.keys() - outputs:
        yield f"the PACS has {uid}, which is no output on record"
    for uid, digests in accepted.items():
        if len(digests) != 1:
            yield f"output {uid} arrived with {len(digests)} contents"


def _removals(ledger: Ledger, committed: Set[str]) -> Iterator[str]:
    """CT and outputs that went before the PACS had taken over what was made of them."""
    outputs: defaultdict[str, set[str]] = defaultdict(set)
    with ledger.database.reading() as session:
        for uid, job in session.execute(select(OutputRecord.sop_instance_uid, OutputRecord.job_id)):
            outputs[job].add(uid)
        series = {row.job_id: row.series_uid for row in session.scalars(select(SynthesisRecord))}
        home = {
            row.sop_instance_uid: row.series_uid for row in session.scalars(select(InstanceRecord))
        }
    made_by = {uid: job for job, uids in outputs.items() for uid in uids}
    begun: defaultdict[str, set[str]] = defaultdict(set)
    ended: set[str] = set()
    for event in ledger.reports.events():
        uid = event.subject
        if event.kind == Kind.SYNTHESIS_QUEUED:
            begun[series[uid]].add(uid)
        elif event.kind == Kind.SYNTHESIS_COMMITTED:
            ended.add(uid)
        elif event.kind == Kind.FILE_REMOVED and event.detail["unit"] == "received":
            jobs = begun[home[uid]]
            if not jobs or jobs - ended:
                yield f"{uid} was deleted before its synthesis was committed"
            if any(outputs[job] - committed for job in jobs):
                yield f"{uid} was deleted, and the PACS has not taken over what was made of it"
        elif event.kind != Kind.FILE_REMOVED or uid not in made_by:
            continue
        elif made_by[uid] not in ended or uid not in committed:
            yield f"{uid} was deleted, and the PACS had not taken it over"


def _orphans(ledger: Ledger, archive: Archive, data: Path) -> Iterator[str]:
    files = set(archive.strays(math.inf))
    with ledger.database.reading() as session:
        rows: set[str] = set()
        for record in (InstanceRecord, OutputRecord, QuarantineRecord):
            rows.update(session.scalars(select(record.path)))
        removed = set(
            session.scalars(select(RemovalRecord.path).filter_by(state=str(RemovalState.REMOVED)))
        )
        still_open = list(session.scalars(select(AssociationRecord.id).filter_by(closed_at=None)))
    for path in files - (rows - removed):
        yield f"a file without a row: {path}"
    for path in (rows - removed) - files:
        yield f"a row without its file: {path}"
    for number in still_open:
        yield f"association {number} is open on record"
    for one in ledger.retention.marked():
        yield f"{one.path} is marked and not deleted"
    for folder in sorted((data / "work").glob("*")):
        yield f"a work folder was left: {folder.name}"
    for lock in sorted((data / "locks").glob("*")):
        if lock.stat().st_size:
            yield f"a lock was left: {lock.name}"
