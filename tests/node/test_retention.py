"""What retention deletes, what it never touches, and what a crash in between leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import event, update
from typer.testing import CliRunner

from config.settings import RetentionSettings, load
from node import audit, proof
from node.__main__ import app
from node.archive import Archive, Archived, Encoding, Incoming
from node.atna.telling import Telling
from node.clock import to_text, utc_now
from node.commands.proving import reproduce
from node.errors import Refuse
from node.intact import intact_source
from node.intake import Answer, Intake, Offer, Sender
from node.ledger import Ledger, migrate, open_ledger
from node.ledger.entries import Destination, Output, Packaged
from node.ledger.receiving import Arrival
from node.ledger.retention import Marked, Standing, Unit, UnitKind
from node.records import QuarantineRecord
from node.retention import Keeper, must_stay, plan
from node.states import SeriesState, SynthesisState
from tests.node.journeys import (
    SERIES_UID,
    SLICES,
    STUDY_UID,
    ct_slice,
    ledger_url,
    new_synthesis,
    put_ct_on_record,
    settings_for,
)
from tests.node.samples import encode, received, store
from tests.node.test_atna import SCHEMA, event_of
from tests.peers import free_port

RULES = load().retention
NOW = utc_now()
LATER = timedelta(days=40)
DAY_OLD = to_text(NOW - timedelta(days=1))


def rules(**changes: Any) -> RetentionSettings:
    return RULES.model_copy(update=changes)


def unit(key: str, days: float, size_bytes: int = 0, **standing: Any) -> Unit:
    since = to_text(NOW - timedelta(days=days))
    return Unit(UnitKind.RECEIVED, key, since, 1, size_bytes, Standing(**standing))


def goes(units: list[Unit], settings: RetentionSettings) -> list[str]:
    return [one.unit.key for one in plan(units, settings, NOW).going]


# The rule


@pytest.mark.parametrize("state", list(SynthesisState))
def test_only_what_is_over_may_go(state: SynthesisState) -> None:
    over = (SynthesisState.COMMITTED, SynthesisState.DECLINED, SynthesisState.DISMISSED)
    is_over = state in over
    standing = Standing(series_state=SeriesState.SELECTED, syntheses=frozenset({state}))
    assert (must_stay(standing) is None) == is_over
    both = Standing(syntheses=frozenset({state, SynthesisState.COMMITTED}))
    assert (must_stay(both) is None) == is_over


@pytest.mark.parametrize("state", list(SeriesState))
def test_a_series_nobody_has_decided_about_stays(state: SeriesState) -> None:
    decided = state in (SeriesState.SELECTED, SeriesState.DECLINED)
    assert (must_stay(Standing(series_state=state)) is None) == decided


def test_nothing_goes_by_default() -> None:
    old = [unit("a", 5000, 10**12), replace(unit("b", 5000), kind=UnitKind.QUARANTINE)]
    assert goes(old, RULES) == []


def test_without_a_rule_the_ledger_is_not_read_unit_by_unit(tmp_path: Path) -> None:
    """And with one, the number of statements does not grow with the number of series."""
    place, counts = Place(tmp_path), list[int]()
    statements: list[str] = []
    event.listen(
        place.ledger.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2])
    )
    association = place.ledger.receiving.open_association("t", "CT1", "X", "127.0.0.1")
    for days in (0, 30, 30):
        place.keeper = Keeper(
            place.settings.model_copy(update={"retention": rules(received_days=days)}),
            place.ledger,
            place.archive,
        )
        statements.clear()
        place.keeper.run_once(utc_now())
        counts.append(len(statements))
        assert any("FROM series" in one for one in statements) is bool(days)
        for number in range(9):
            uid = f"1.8.{number}"
            one = received(number, series_uid=uid, sop_instance_uid=f"{uid}.1", path=f"x/{uid}")
            arrival = Arrival(one, association, "CT1", "127.0.0.1")
            place.ledger.receiving.record_instances([arrival])
    assert counts[0] < counts[1] == counts[2]


def test_age_counts_from_the_last_event() -> None:
    settings = rules(received_days=30)
    assert goes([unit("old", 30.01), unit("young", 29.99)], settings) == ["old"]


def test_size_takes_the_oldest_that_may_go_and_no_more() -> None:
    units = [
        unit("young", 1, 40),
        unit("held", 9, 40, is_held=True),
        unit("old", 5, 40),
        unit("older", 7, 40),
    ]
    assert goes(units, rules(archive_maximum_bytes=160)) == []
    assert goes(units, rules(archive_maximum_bytes=159)) == ["older"]
    assert goes(units, rules(archive_maximum_bytes=119)) == ["older", "old"]
    # The held one is never the answer, however full it is.
    assert goes(units, rules(archive_maximum_bytes=1)) == ["older", "old", "young"]


def test_age_frees_room_before_size_asks_for_it() -> None:
    units = [unit("a", 50, 100), unit("b", 10, 100)]
    settings = rules(received_days=30, archive_maximum_bytes=150)
    assert goes(units, settings) == ["a"]


# The files


class Place:
    """A data folder with one CT on record, decided, and its synthesis."""

    def __init__(self, folder: Path, url: str | None = None, **retention: Any) -> None:
        base = settings_for(folder, [])
        self.settings = base.model_copy(update={"retention": rules(**retention)})
        folder.mkdir(parents=True, exist_ok=True)
        if url is None:
            url = ledger_url(self.settings)
            migrate(url)
        self.ledger: Ledger = open_ledger(url, utc_now)
        self.archive = Archive(folder / "archive", "receive-0")
        put_ct_on_record(self.ledger, self.archive)
        (incoming,) = self.ledger.series.incoming()
        self.ledger.series.complete(incoming, "test", "tests")
        self.ledger.series.decide(SERIES_UID, 1, SeriesState.SELECTED, "x", "x", {}, "tests")
        self.new = new_synthesis(self.ledger)
        self.keeper = Keeper(self.settings, self.ledger, self.archive)

    def bring_to(self, wanted: SynthesisState) -> None:
        """Through the ledger's own verbs, as a worker would."""
        job, verbs = self.new.job_id, self.ledger.syntheses
        steps: dict[SynthesisState, Callable[[], object]] = {
            SynthesisState.QUEUED: lambda: verbs.create(self.new, "tests"),
            SynthesisState.RUNNING: lambda: verbs.start(job, 1, "tests"),
            SynthesisState.PACKAGED: self._package,
            SynthesisState.DELIVERING: self._deliver,
            SynthesisState.DELIVERED: self._delivered,
            SynthesisState.COMMITTED: lambda: verbs.commit(job, "tests"),
        }
        for state, step in steps.items():
            step()
            if state is wanted:
                break
        assert verbs.get(job).state == wanted

    def store_output(self) -> Archived:
        return self.archive.store_output(self.new.job_id, "2.25.9.dcm", b"an output")

    def _package(self) -> None:
        self.package(self.store_output(), 1)

    def package(self, kept: Archived, run: int) -> None:
        output = Output("2.25.9", "2.25.8", "T2", 0, "00", kept.digest, kept.path)
        packaged = Packaged([output], {}, "cpu", {}, {}, [])
        self.ledger.syntheses.package(self.new.job_id, run, packaged, "tests")

    def _deliver(self) -> None:
        to = Destination("pacs", "PACS", "127.0.0.1", 104)
        self.ledger.deliveries.begin(self.new.job_id, 1, [to], "tests")

    def _delivered(self) -> None:
        (number,) = self.ledger.deliveries.open_of(self.new.job_id)
        attempt = self.ledger.deliveries.begin_attempt(number, "tests")
        assert attempt is not None
        self.ledger.deliveries.answer(attempt, "2.25.9", 0x0000)
        self.ledger.deliveries.delivered(attempt, "tests")

    def files(self, folder: str) -> int:
        place = self.archive.folder / folder
        return sum(path.is_file() for path in place.rglob("*"))

    def kinds(self) -> list[str]:
        assert audit.verify(self.ledger.reports.events()) is None
        return [event.kind for event in self.ledger.reports.events()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, received_days=30, outputs_days=30)


def test_a_committed_synthesis_goes_and_its_record_stays(tmp_path: Path, database_url: str) -> None:
    place = Place(tmp_path, database_url, received_days=30, outputs_days=30)
    place.bring_to(SynthesisState.COMMITTED)
    assert place.keeper.run_once(utc_now()) == 0
    before = place.ledger.reports.show(place.new.job_id)["sources"]
    assert place.keeper.run_once(utc_now() + LATER) == SLICES + 1
    assert (place.files("instances"), place.files("outputs")) == (0, 0)
    assert place.kinds().count("file.removed") == SLICES + 1
    story = place.ledger.reports.show(SERIES_UID)
    assert (story["instances"], story["syntheses"][0]["sources"]) == (SLICES, before)
    assert place.ledger.reports.show("2.25.9")["removed_at"] is not None
    # It says so, and not that the disk is broken.
    held = place.ledger.series.get(SERIES_UID)
    assert held is not None
    with pytest.raises(Refuse, match=r"deleted by retention at 20\d\d-"):
        intact_source(place.archive, held.instances[0], held.instances[0].digest)
    assert place.keeper.run_once(utc_now() + LATER) == 0


@pytest.mark.parametrize(
    "state",
    [s for s in SynthesisState if s.name not in ("COMMITTED", "DECLINED", "FAILED", "DISMISSED")],
)
def test_what_is_on_its_way_stays_at_any_age(place: Place, state: SynthesisState) -> None:
    place.bring_to(state)
    assert place.keeper.run_once(utc_now() + 100 * LATER) == 0
    assert place.files("instances") == SLICES


def test_the_dead_letter_stays_until_it_is_settled(place: Place) -> None:
    place.bring_to(SynthesisState.RUNNING)
    place.ledger.syntheses.fail(place.new.job_id, 1, "an accident", "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 0
    why = {one.why for one in place.keeper.plan(utc_now() + LATER).staying}
    assert why == {"in the dead letter"}
    place.ledger.syntheses.dismiss(place.new.job_id, "it cannot succeed", "tests")
    mark_all(place)
    # Retried in time, it keeps what it needs.
    with pytest.raises(Refuse, match="retention"):
        place.ledger.syntheses.retry(place.new.job_id, "tests")
    assert take(place, 0) is Answer.STORED
    assert place.keeper.run_once(utc_now()) == SLICES - 1
    for number in range(1, SLICES):
        assert take(place, number) is Answer.STORED
    assert place.ledger.syntheses.retry(place.new.job_id, "tests") == 2
    assert place.keeper.run_once(utc_now() + LATER) == 0


def test_a_proof_whose_sink_is_gone_is_dismissed_by_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes of the next one, which finds no node here."""
    place.ledger.proofs.begin(STUDY_UID, "PROOFGONE", "127.0.0.1", 104)
    place.bring_to(SynthesisState.RUNNING)
    place.ledger.syntheses.fail(place.new.job_id, 1, "the destination is away", "tests")
    monkeypatch.setattr(proof, "_phantom", lambda folder: [])
    monkeypatch.setattr(proof, "DEADLINE_S", 0.0)
    assert not proof.prove(place.settings, place.ledger, free_port())["ok"]
    assert place.ledger.syntheses.get(place.new.job_id).state is SynthesisState.DISMISSED
    assert place.keeper.run_once(utc_now()) == SLICES
    assert place.files("instances") == 0


@pytest.mark.parametrize("which", ["study", "series", "instance", "job", "output"])
def test_a_hold_on_any_part_keeps_the_whole(place: Place, which: str) -> None:
    place.bring_to(SynthesisState.COMMITTED)
    uid = {
        "study": STUDY_UID,
        "series": SERIES_UID,
        "instance": "2.25.3000",
        "job": place.new.job_id,
        "output": "2.25.9",
    }[which]
    place.ledger.retention.place_hold(uid, "a claim", "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 0
    with pytest.raises(Refuse, match="already"):
        place.ledger.retention.place_hold(uid, "again", "tests")
    place.ledger.retention.release_hold(uid, "tests")
    with pytest.raises(Refuse, match="found none"):
        place.ledger.retention.release_hold(uid, "tests")
    assert place.keeper.run_once(utc_now() + LATER) == SLICES + 1


def test_a_hold_on_nothing_is_refused(place: Place) -> None:
    with pytest.raises(Refuse, match="on record"):
        place.ledger.retention.place_hold("2.25.404", "a typo", "tests")


def mark_all(place: Place) -> None:
    for one in place.keeper.plan(utc_now() + LATER).going:
        place.ledger.retention.mark(one.unit.kind, one.unit.key, one.rule, must_stay, "tests")


def test_a_hold_overtakes_a_mark(tmp_path: Path, database_url: str) -> None:
    place = Place(tmp_path, database_url, received_days=30, outputs_days=30)
    place.bring_to(SynthesisState.COMMITTED)
    mark_all(place)
    assert len(place.ledger.retention.marked()) == SLICES + 1
    place.ledger.retention.place_hold(STUDY_UID, "just in time", "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 0
    assert place.files("instances") == SLICES
    assert place.kinds().count("file.kept") == SLICES + 1


def test_what_a_crash_deleted_is_gone_though_held_since(place: Place) -> None:
    """Killed after the unlink and before the commit: the next life says what is true."""
    place.bring_to(SynthesisState.COMMITTED)
    mark_all(place)
    first = place.ledger.retention.marked()[0]
    place.archive.remove([first.path])
    place.ledger.retention.place_hold(STUDY_UID, "too late for one", "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 1
    kinds = place.kinds()
    assert (kinds.count("file.removed"), kinds.count("file.kept")) == (1, SLICES)
    place.ledger.retention.release_hold(STUDY_UID, "tests")


def test_a_crash_after_the_mark_is_finished_by_the_next_life(place: Place) -> None:
    place.bring_to(SynthesisState.COMMITTED)
    mark_all(place)
    # The marks are enough: no rule is asked again about them.
    assert place.keeper.run_once(utc_now()) == SLICES + 1


def take(place: Place, what: int | Dataset) -> Answer:
    ds = ct_slice(what) if isinstance(what, int) else what
    sender = Sender("CT1", "X", "127.0.0.1")
    offer = Offer(CTImageStorage, ds.SOPInstanceUID, CTImageStorage, ExplicitVRLittleEndian, sender)
    association = place.ledger.receiving.open_association("tests", "CT1", "X", "127.0.0.1")
    roomy = place.settings.receive.model_copy(update={"minimum_free_bytes": 0})
    settings = place.settings.model_copy(update={"receive": roomy})
    intake = Intake(settings, place.ledger, place.archive)
    reception = intake.begin(offer)
    reception.write(memoryview(encode(ds)))
    return intake.take(reception, association).answer


def test_the_same_bytes_again_put_a_deleted_instance_back(place: Place) -> None:
    place.bring_to(SynthesisState.COMMITTED)
    place.keeper.run_once(utc_now() + LATER)
    assert take(place, 0) is Answer.STORED
    assert place.files("instances") == 1
    held = place.ledger.series.get(SERIES_UID)
    assert held is not None
    here = [one for one in held.instances if one.removed_at is None]
    assert [one.sop_instance_uid for one in here] == ["2.25.3000"]
    assert intact_source(place.archive, here[0], here[0].digest).exists()
    assert "file.restored" in place.kinds()


def test_the_same_bytes_again_take_a_mark_away(place: Place) -> None:
    place.bring_to(SynthesisState.COMMITTED)
    mark_all(place)
    assert take(place, 0) is Answer.STORED
    assert place.keeper.run_once(utc_now()) == SLICES
    assert place.files("instances") == 1


def test_success_is_not_said_of_a_file_that_was_deleted_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention deletes between the receiver's write and its record: the sender hears 0xA700."""
    place.bring_to(SynthesisState.COMMITTED)
    mark_all(place)
    keep = place.archive.keep

    def keep_and_lose(incoming: Incoming, series_uid: str) -> Any:
        archived = keep(incoming, series_uid)
        place.keeper.run_once(utc_now())
        return archived

    monkeypatch.setattr(place.archive, "keep", keep_and_lose)
    assert take(place, 0) is Answer.OUT_OF_RESOURCES
    monkeypatch.undo()
    assert take(place, 0) is Answer.STORED
    assert place.files("instances") == 1


def age(path: Path) -> Path:
    old = (utc_now() - timedelta(days=2)).timestamp()
    os.utime(path, (old, old))
    return path


def test_what_crashes_left_is_swept_and_what_is_on_record_is_not(place: Place) -> None:
    place.bring_to(SynthesisState.DELIVERING)
    job = place.new.job_id
    for path in place.archive.folder.rglob("*.dcm"):
        age(path)
    known = place.files("instances") + place.files("outputs")
    stray = place.archive.folder / "instances" / "00" / "2.25.1" / "2.25.1-0.dcm"
    stray.parent.mkdir(parents=True)
    for path in (stray, place.archive.folder / "quarantine" / "2.25.1-0.dcm"):
        path.write_bytes(b"x")
        age(path)
    fresh = place.archive.folder / "incoming" / "receive-9.1.1.tmp"
    fresh.write_bytes(b"being written")
    # An output of a job that has not been packaged: its next life writes it again.
    pending = age(place.archive.resolve(place.archive.store_output(job, "2.25.10.dcm", b"y").path))
    work = place.settings.node.data_folder / "work"
    for name in (f"{job}-1", f"{job}-0", "of-no-job-1"):
        (work / name).mkdir(parents=True)
        age(work / name)
    assert place.keeper.run_once(utc_now()) == 4
    assert place.files("instances") + place.files("outputs") == known + 1
    assert not stray.exists()
    assert pending.exists()
    assert fresh.exists()
    assert [path.name for path in work.iterdir()] == [f"{job}-1"]


def test_an_output_that_was_swept_and_is_made_again_is_on_record_as_there(place: Place) -> None:
    """A run stores some outputs and fails, is dismissed, and retried once they are swept."""
    place.bring_to(SynthesisState.RUNNING)
    job, syntheses = place.new.job_id, place.ledger.syntheses
    age(place.archive.resolve(place.store_output().path))
    syntheses.fail(job, 1, "the disk", "tests")
    syntheses.dismiss(job, "no disk", "tests")
    assert place.keeper.run_once(utc_now()) == 1
    assert syntheses.retry(job, "tests") == 2
    syntheses.start(job, 2, "tests")
    kept = place.store_output()
    place.package(kept, 2)
    assert place.ledger.reports.show("2.25.9")["removed_at"] is None
    assert place.ledger.retention.known_paths([kept.path]) == {kept.path}
    assert place.kinds().count("file.restored") == 1
    age(place.archive.resolve(kept.path))
    syntheses.fail(job, 2, "an accident", "tests")
    syntheses.dismiss(job, "it cannot succeed", "tests")
    assert place.keeper.run_once(utc_now()) == 0
    assert place.archive.resolve(kept.path).exists()


def test_quarantine_goes_by_age_and_not_while_its_rival_is_held(tmp_path: Path) -> None:
    place = Place(tmp_path, quarantine_days=7)
    encoding = Encoding(CTImageStorage, "2.25.3000", ExplicitVRLittleEndian, "CT1")
    kept = store(place.archive, SERIES_UID, encoding, b"other bytes")
    apart = place.archive.set_apart(kept.path)
    association = place.ledger.receiving.open_association("t", "CT1", "X", "127.0.0.1")
    rival = received(0, sop_instance_uid="2.25.3000", digest=kept.digest, path=apart)
    for _ in range(2):
        place.ledger.receiving.quarantine(rival, "other bytes", association, "CT1")
    place.ledger.retention.place_hold(SERIES_UID, "a claim", "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 0
    place.ledger.retention.release_hold(SERIES_UID, "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 1
    assert place.files("quarantine") == 0
    assert place.files("instances") == SLICES


@pytest.mark.parametrize("held", ["its series", "its study", "the study that is held", "itself"])
def test_quarantine_of_another_study_is_held_with_what_it_names(tmp_path: Path, held: str) -> None:
    place = Place(tmp_path, quarantine_days=7)
    other = ct_slice(SLICES)
    other.StudyInstanceUID = "1.2.3.9"
    assert take(place, other) is Answer.OTHER_STUDY
    uids = [SERIES_UID, "1.2.3.9", STUDY_UID, str(other.SOPInstanceUID)]
    words = ["its series", "its study", "the study that is held", "itself"]
    uid = dict(zip(words, uids, strict=True))[held]
    place.ledger.retention.place_hold(uid, "a claim", "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 0
    place.ledger.retention.release_hold(uid, "tests")
    # An earlier version did not note what it names: it stays while anything is held.
    with place.ledger.database.transaction() as session:
        session.execute(update(QuarantineRecord).values(series_uid=None, study_uid=None))
    place.ledger.retention.place_hold(STUDY_UID, "a claim", "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 0
    place.ledger.retention.release_hold(STUDY_UID, "tests")
    assert place.keeper.run_once(utc_now() + LATER) == 1
    assert place.files("quarantine") == 0


def test_a_path_that_leads_out_is_refused(place: Place) -> None:
    outside = Marked(1, UnitKind.WORK, "x", "x", "../../etc", None, "x")
    from node.retention import _Shelf

    with pytest.raises(Refuse):
        _Shelf(place.archive, place.settings.node.data_folder / "work").delete([outside])


def test_the_commands_hold_show_and_delete(tmp_path: Path) -> None:
    place = Place(tmp_path, received_days=0.0)
    place.bring_to(SynthesisState.COMMITTED)
    site = tmp_path / "site.toml"
    site.write_text(
        f'[node]\ndata_folder = "{tmp_path}"\n'
        "[retention]\nreceived_days = 0.0000001\noutputs_days = 0.0000001\n"
    )

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--config", str(site), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    assert run("audit", "hold", STUDY_UID, "--reason", "claim 7")["deleted_before"] == 0
    assert [one["reason"] for one in run("audit", "holds")] == ["claim 7"]
    plan = run("retention", "--dry-run")
    assert plan["would_go"] == []
    assert {one["because"] for one in plan["would_stay"]} == {"under audit hold"}
    run("audit", "release", STUDY_UID)
    plan = run("retention", "--dry-run")
    assert {(one["kind"], one["files"]) for one in plan["would_go"]} == {
        ("received", SLICES),
        ("outputs", 1),
    }
    assert place.files("instances") == SLICES
    assert run("retention") == {"deleted_files": SLICES + 1}
    # `audit reproduce` says so before it looks for a model.
    with pytest.raises(Refuse, match="the CT was deleted by retention at"):
        reproduce(site, place.new.job_id, None, None, True)
    assert run("audit", "hold", STUDY_UID)["deleted_before"] == SLICES


def test_what_was_deleted_is_told_by_unit(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event and one message for a series and for a job, however many transactions it took."""
    monkeypatch.setattr("node.retention.BATCH", 2)
    place = Place(tmp_path, database_url, received_days=30, outputs_days=30)
    place.bring_to(SynthesisState.COMMITTED)
    telling = Telling(place.settings, place.ledger.outbox, place.archive)
    assert place.keeper.run_once(utc_now() + LATER) == SLICES + 1
    told = [one for one in place.ledger.reports.events() if one.kind == "retention.removed"]
    assert [(one.subject, one.detail["files"], one.detail["is_study_gone"]) for one in told] == [
        (place.new.job_id, 1, False),
        (SERIES_UID, SLICES, True),
    ]
    messages = [etree.fromstring(telling.tell(one) or b"") for one in told]
    for message in messages:
        SCHEMA.assertValid(message)
        study = message.find("ParticipantObjectIdentification")
        assert study.get("ParticipantObjectID") == STUDY_UID
    # PS3.15 A.5.3.6: with the last of its instances the study is deleted, which is A.5.3.8.
    assert [event_of(one) for one in messages] == [("110103", "D", "0"), ("110105", "D", "0")]
    counts = [one.find(".//SOPClass").get("NumberOfInstances") for one in messages]
    assert counts == ["1", str(SLICES)]


def test_an_output_still_tells_whose_the_deleted_ct_was(tmp_path: Path) -> None:
    place = Place(tmp_path, received_days=30)
    place.bring_to(SynthesisState.COMMITTED)
    about = place.ledger.outbox.about_series(SERIES_UID)
    assert about is not None
    assert about.header_path.startswith("instances/")
    assert place.keeper.run_once(utc_now() + LATER) == SLICES
    about = place.ledger.outbox.about_series(SERIES_UID)
    assert about is not None
    assert about.header_path.startswith("outputs/")
