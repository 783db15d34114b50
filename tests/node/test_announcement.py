"""Instance Availability Notification: a scripted PACS announces, DCMTK's archive has it fetched."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from config.settings import Source
from node import announcement
from node.announced import RETRY_S, AnnouncedSeries
from node.audit import Kind
from node.errors import LostRace
from node.fetching import PROCESS
from node.ledger.announcements import Announced
from node.records import AnnouncementRecord
from tests.node.certificates import Authority
from tests.node.samples import SERIES_UID, STUDY_UID, Clock, new_archive, new_ledger
from tests.node.scu import associated
from tests.node.test_fetching import SLICES, archive, settings, station
from tests.node.test_receive import Station
from tests.peers import LOOPBACK, free_port


def notification(**changes: Any) -> Dataset:
    """What a PACS says about a study with a CT series and a secondary capture."""
    ds = Dataset()
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.StudyInstanceUID = STUDY_UID
    ds.ReferencedSeriesSequence = [
        series(SERIES_UID, CTImageStorage, **changes),
        series(f"{STUDY_UID}.9", SecondaryCaptureImageStorage, **changes),
    ]
    return ds


def series(uid: str, sop_class_uid: str, **changes: Any) -> Dataset:
    ds = Dataset()
    ds.SeriesInstanceUID = uid
    ds.ReferencedSOPSequence = []
    for number in range(SLICES):
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = f"{uid}.{number}"
        item.InstanceAvailability = "ONLINE"
        item.RetrieveAETitle = "QRSCP"
        for keyword, value in changes.items():
            if value is None:
                delattr(item, keyword)
            else:
                setattr(item, keyword, value)
        ds.ReferencedSOPSequence.append(item)
    return ds


def announce(port: int, ds: Dataset) -> int:
    with associated(port, classes=[announcement.SOP_CLASS], calling_ae="PACS") as association:
        status, _ = association.send_n_create(ds, announcement.SOP_CLASS, "1.2.3.4")
        return int(status.Status)


def rows(at: Station) -> list[tuple[str, str, int]]:
    with at.ledger.database.reading() as session:
        found = session.query(AnnouncementRecord).order_by(AnnouncementRecord.id)
        return [(row.series_uid, row.state, row.instances) for row in found]


def test_what_is_announced_is_fetched(tmp_path: Path) -> None:
    node = tmp_path / "node"
    with station(node, is_fetching=True) as at, archive("dcmqrscp", tmp_path, at.port) as (port, _):
        assert announce(at.port, notification()) == 0x0000
        # Announced again while it waits: it is fetched once.
        assert announce(at.port, notification()) == 0x0000
        assert rows(at) == [(SERIES_UID, "pending", SLICES)]
        source = Source(name="pacs", ae_title="QRSCP", host=LOOPBACK, port=port)
        ledger = at.ledger
        loop = AnnouncedSeries(settings(node, source), ledger, at.archive, Clock())
        assert loop.run_once() == 1
        assert loop.run_once() == 0
        assert rows(at) == [(SERIES_UID, "fetched", SLICES)]
        assert len(at.held()) == SLICES
        kinds = at.kinds()
        assert kinds.count(Kind.ANNOUNCEMENT_RECEIVED) == 2
        assert kinds[-1] == Kind.ANNOUNCEMENT_FETCHED


def test_without_the_setting_it_only_goes_on_record(tmp_path: Path) -> None:
    with station(tmp_path / "node") as at:
        assert announce(at.port, notification()) == 0x0000
        assert rows(at) == [(SERIES_UID, "noted", SLICES)]
        assert at.ledger.announcements.due() == ()


@pytest.mark.parametrize("availability", ["OFFLINE", "UNAVAILABLE"])
def test_what_cannot_be_had_is_passed_over(tmp_path: Path, availability: str) -> None:
    with station(tmp_path / "node") as at:
        assert announce(at.port, notification(InstanceAvailability=availability)) == 0x0000
        assert rows(at) == []


def test_what_is_no_notification_is_refused(tmp_path: Path) -> None:
    with station(tmp_path / "node") as at:
        assert announce(at.port, notification(RetrieveAETitle=None)) == 0x0120
        assert announce(at.port, notification(InstanceAvailability=None)) == 0x0120
        hostile = notification()
        hostile.StudyInstanceUID = "1.2/../../x"
        assert announce(at.port, hostile) == 0x0106
        assert rows(at) == []


def test_it_is_tried_again_and_then_left_to_a_person(tmp_path: Path) -> None:
    clock = Clock()
    node = tmp_path / "node"
    node.mkdir()
    ledger = new_ledger(node, clock)
    announced = Announced(STUDY_UID, SERIES_UID, "NOBODY", SLICES)
    ledger.announcements.note([announced], "PACS", is_wanted=True)
    loop = AnnouncedSeries(settings(node), ledger, new_archive(node), clock)
    for tries in range(1, 5):
        assert loop.run_once() == 1
        clock.advance(RETRY_S * tries - 1)
        assert loop.run_once() == 0
        clock.advance(1)
    assert loop.run_once() == 1
    clock.advance(3600)
    assert loop.run_once() == 0
    last = list(ledger.reports.events())[-1]
    assert (last.kind, last.subject, last.actor) == (Kind.ANNOUNCEMENT_FAILED, SERIES_UID, PROCESS)
    assert last.detail["reason"] == "expected a source of AE title NOBODY, found none"
    ledger.close()


def test_what_is_announced_during_a_fetch_is_fetched_too(tmp_path: Path) -> None:
    with station(tmp_path / "node") as at:
        announcements = at.ledger.announcements
        announcements.note([Announced("1.2", "1.2.3", "PACS", 100)], "PACS", is_wanted=True)
        (seen,) = announcements.due()
        announcements.note([Announced("1.2", "1.2.3", "PACS", 400)], "PACS", is_wanted=True)
        with pytest.raises(LostRace):
            announcements.fetched(seen, "tests")
        (again,) = announcements.due()
        assert again.announced.instances == 400
        announcements.fetched(again, "tests")
        assert announcements.due() == ()


def test_our_expired_certificate_holds_up_no_other_announcement(tmp_path: Path) -> None:
    node, ca = tmp_path / "node", Authority(tmp_path / "ca")
    expired = ca.issue("us", begin=timedelta(days=-2), end=timedelta(days=-1))
    with station(node) as at, archive("dcmqrscp", tmp_path, at.port) as (port, _):
        secure = Source(name="far", ae_title="FAR", host=LOOPBACK, port=free_port(), tls=True)
        plain = Source(name="pacs", ae_title="QRSCP", host=LOOPBACK, port=port)
        announced = [
            Announced(STUDY_UID, f"{SERIES_UID}.7", "FAR", SLICES),
            Announced(STUDY_UID, SERIES_UID, "QRSCP", SLICES),
        ]
        at.ledger.announcements.note(announced, "PACS", is_wanted=True)
        ours = settings(node, secure, plain, tls=ca.settings(expired))
        assert AnnouncedSeries(ours, at.ledger, at.archive, Clock()).run_once() == 2
        assert [state for _, state, _ in rows(at)] == ["pending", "fetched"]
        with at.ledger.database.reading() as session:
            first = session.query(AnnouncementRecord).filter_by(retrieve_ae="FAR").one()
        assert "tls.certificate_file: expected a valid certificate" in str(first.reason)
