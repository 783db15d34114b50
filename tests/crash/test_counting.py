"""What the crash suite counts, it sees: each kind of harm, done by hand to a node that is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from node.audit import Kind
from node.records import AuditEventRecord
from node.states import SynthesisState
from tests.crash.counting import findings
from tests.crash.scanner import Work
from tests.node.journeys import SERIES_UID
from tests.node.test_retention import Place
from tests.peers import ScriptedPeer


class Counted:
    """A committed synthesis, as the crash suite would count it."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        self.place.bring_to(SynthesisState.COMMITTED)
        held = self.place.ledger.series.get(SERIES_UID)
        assert held is not None
        self.work = Work(1)
        self.work.acknowledged = dict(held.sources)
        self.work.series = {SERIES_UID: set(held.sources)}
        self.peer = ScriptedPeer(heard=[("2.25.9", "a digest", 0x0000)])
        self.committed = {"2.25.9"}
        self.data = folder

    def found(self) -> list[str]:
        place = self.place
        seen = (self.work, self.peer, self.committed)
        return list(findings(place.ledger, place.archive, self.data, *seen))

    def delete(self, uid: str, unit: str) -> None:
        """On record alone."""
        self.place.ledger.outbox.note(Kind.FILE_REMOVED, uid, "test", {"unit": unit})

    def begin_another(self) -> None:
        self.place.ledger.syntheses.create(replace(self.place.new, job_id="f" * 64), "test")

    def an_instance(self) -> Path:
        return next((self.place.archive.folder / "instances").rglob("*.dcm"))

    def tamper(self) -> None:
        with self.place.ledger.database.engine.begin() as connection:
            connection.execute(
                update(AuditEventRecord).where(AuditEventRecord.sequence == 2).values(actor="x")
            )


HARM: dict[str, Callable[[Counted], object]] = {
    "was acknowledged and is gone": lambda it: it.an_instance().unlink(),
    "a row without its file": lambda it: it.an_instance().unlink(),
    "was acknowledged with other bytes": lambda it: it.an_instance().write_bytes(
        it.an_instance().read_bytes() + b"x"
    ),
    "a file without a row": lambda it: it.an_instance().with_suffix(".tmp").touch(),
    "a work folder was left": lambda it: (it.data / "work" / "job-1").mkdir(parents=True),
    "a lock was left": lambda it: (
        (it.data / "locks").mkdir(),
        (it.data / "locks" / "work.lock").write_text("1"),
    ),
    "was deleted before its synthesis": lambda it: (
        it.begin_another(),
        it.delete("2.25.3000", "received"),
    ),
    "the PACS had not taken it over": lambda it: (
        it.committed.clear(),
        it.delete("2.25.9", "outputs"),
    ),
    "the PACS has not taken over what was made": lambda it: (
        it.committed.clear(),
        it.delete("2.25.3000", "received"),
    ),
    "never arrived": lambda it: it.peer.heard.clear(),
    "arrived with 2 contents": lambda it: it.peer.heard.append(("2.25.9", "another", 0)),
    "which is no output on record": lambda it: it.peer.heard.append(("2.25.7", "d", 0)),
    "not made from all that was acknowledged": lambda it: it.work.series[SERIES_UID].add("2.25.5"),
    "the audit chain is broken at 2": lambda it: it.tamper(),
    "association 2 is open": lambda it: it.place.ledger.receiving.open_association(
        "t", "CT1", "X", "127.0.0.1"
    ),
}


def test_a_node_that_is_whole_gives_nothing_to_find(tmp_path: Path) -> None:
    assert Counted(tmp_path).found() == []


@pytest.mark.parametrize("harm", HARM)
def test_each_kind_of_harm_is_found(tmp_path: Path, harm: str) -> None:
    counted = Counted(tmp_path)
    HARM[harm](counted)
    assert any(harm in finding for finding in counted.found())
