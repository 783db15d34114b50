"""Fetching from Orthanc and DCMTK's archive: by C-GET and C-MOVE, whole or what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from structlog.testing import capture_logs

from config.settings import Settings, Source, load
from node.association import Rejected, Unreachable
from node.audit import Kind
from node.clock import utc_now
from node.completion import CompletionLoop
from node.counting import ArchiveCount, archive_count
from node.errors import Refuse, Stop
from node.fetching import Fetcher, source_named
from node.found import FoundSeries, FoundStudy, Missing
from node.ledger.entries import Destination
from node.ledger.receiving import Ending
from node.query import Query
from node.records import RemovalRecord
from node.states import RemovalState
from tests.node.certificates import Authority
from tests.node.samples import (
    PATIENT,
    SERIES_UID,
    STUDY_UID,
    Clock,
    ct,
    new_ledger,
    record,
    with_meta,
)
from tests.node.scu import associated, store_bytes, write_file
from tests.node.test_receive import Station
from tests.peers import (
    LOOPBACK,
    ScriptedPeer,
    dcmqrscp,
    dcmsend,
    free_port,
    start_orthanc,
)

SLICES = 5
SECOND_UID = f"{STUDY_UID}.2"
METHODS = ("get", "move")
ARCHIVES = ("orthanc", "dcmqrscp")


def fill(folder: Path, port: int, ae_title: str) -> None:
    """A study in an archive: a CT series, and a secondary capture that nobody asked for."""
    folder.mkdir()
    for number in range(SLICES):
        write_file(with_meta(ct(number)), folder / f"{number}.dcm")
    other = ct(
        99,
        SOPClassUID=SecondaryCaptureImageStorage,
        SeriesInstanceUID=f"{STUDY_UID}.9",
        SOPInstanceUID=f"{STUDY_UID}.9.1",
        Modality="OT",
    )
    write_file(with_meta(other), folder / "other.dcm")
    sent = dcmsend(folder, port, called=ae_title)
    assert sent.returncode == 0, sent.stdout


@contextmanager
def archive(kind: str, folder: Path, move_to: int) -> Iterator[tuple[int, str]]:
    """One of the archives with the study in it; port and AE title."""
    if kind == "orthanc":
        modalities = {"us": ("PSEUDOMRI", LOOPBACK, move_to)}
        with start_orthanc(folder / kind, modalities) as orthanc:
            fill(folder / "sent", orthanc.dicom_port, "ORTHANC")
            yield orthanc.dicom_port, "ORTHANC"
    else:
        with dcmqrscp(folder / kind, {"PSEUDOMRI": (LOOPBACK, move_to)}) as port:
            fill(folder / "sent", port, "QRSCP")
            yield port, "QRSCP"


@contextmanager
def station(folder: Path, **receive: Any) -> Iterator[Station]:
    """Our receiver, for what is moved to us; folder is the data folder of the node."""
    folder.mkdir(exist_ok=True)
    running = Station(folder, **receive)
    try:
        yield running
    finally:
        running.stop()


def fetcher(at: Station, folder: Path, port: int, ae_title: str, method: str) -> Fetcher:
    source = Source.model_validate(
        {"name": "pacs", "ae_title": ae_title, "host": LOOPBACK, "port": port, "method": method}
    )
    return Fetcher(settings(folder, source), source, at.ledger, at.archive)


def the_series(asking: Fetcher, **meant: str) -> FoundSeries:
    """The only CT series of what is meant."""
    ((series,),) = [found.series for found in asking.find(**meant)]
    return series


def add_series(folder: Path, port: int, ae_title: str) -> None:
    """A second CT series of the study, of two slices, in an archive."""
    folder.mkdir()
    for number in range(2):
        changes = {"SeriesInstanceUID": SECOND_UID, "SOPInstanceUID": f"{SECOND_UID}.{number}"}
        write_file(with_meta(ct(number, **changes)), folder / f"{number}.dcm")
    sent = dcmsend(folder, port, called=ae_title)
    assert sent.returncode == 0, sent.stdout


def settings(
    folder: Path, *sources: Source, tls: dict[str, Any] | None = None, **receive: Any
) -> Settings:
    document = load().model_dump(mode="json", exclude_none=True)
    document["node"] |= {"data_folder": str(folder)}
    document["receive"] |= {"minimum_free_bytes": 0, **receive}
    document["retrieve"]["sources"] = [source.model_dump() for source in sources]
    document["retrieve"]["network_timeout_s"] = 20
    document["tls"] |= tls or {}
    return Settings(**document)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_study_comes_and_then_what_is_missing(tmp_path: Path, kind: str) -> None:
    node = tmp_path / "node"
    with station(node) as at, archive(kind, tmp_path, at.port) as (port, ae_title):
        by_get = fetcher(at, node, port, ae_title, "get")
        found = the_series(by_get, accession_number=PATIENT[3])
        assert (found.study_uid, found.series_uid) == (STUDY_UID, SERIES_UID)
        assert found.count in (SLICES, None)
        # Two of them were sent to us before.
        with associated(at.port) as association:
            for number in (0, 3):
                content = (tmp_path / "sent" / f"{number}.dcm").read_bytes()
                length = int.from_bytes(content[140:144], "little")
                uid = f"{SERIES_UID}.{number}"
                ds = content[144 + length :]
                assert store_bytes(association, ds, str(ct(0).SOPClassUID), uid)[0] == 0
        with by_get.alone():
            result = by_get.fetch(found)
        assert (result.wanted, result.held_before, result.held) == (SLICES, 2, SLICES)
        assert result.is_complete
        assert len(at.held()) == SLICES
        # What was here was not asked for again.
        assert Kind.INSTANCE_DUPLICATE not in at.kinds()
        # All is here: nothing is asked for, by C-MOVE either.
        by_move = fetcher(at, node, port, ae_title, "move")
        again = the_series(by_move, series_uid=SERIES_UID)
        with by_move.alone():
            assert by_move.fetch(again).held_before == SLICES
        assert at.kinds().count(Kind.INSTANCE_RECEIVED) == SLICES
        assert at.kinds().count(Kind.QUERY_ISSUED) >= 2
        assert at.endings() == ["released", "released"]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_study_is_moved_to_our_port(tmp_path: Path, kind: str) -> None:
    node = tmp_path / "node"
    with station(node) as at, archive(kind, tmp_path, at.port) as (port, ae_title):
        by_move = fetcher(at, node, port, ae_title, "move")
        found = the_series(by_move, study_uid=STUDY_UID)
        seen = []
        with by_move.alone():
            assert by_move.fetch(found, seen.append).is_complete
        assert len(at.held()) == SLICES
        assert seen[-1].completed == SLICES


def test_what_retention_deleted_comes_again(tmp_path: Path) -> None:
    node = tmp_path / "node"
    with station(node) as at, archive("dcmqrscp", tmp_path, at.port) as (port, ae_title):
        by_get = fetcher(at, node, port, ae_title, "get")
        found = the_series(by_get, study_uid=STUDY_UID)
        with by_get.alone():
            assert by_get.fetch(found).is_complete
        series = at.ledger.series.get(SERIES_UID)
        assert series is not None
        path = series.instances[0].path
        at.archive.resolve(path).unlink()
        with at.ledger.database.transaction() as session:
            session.add(
                RemovalRecord(
                    kind="series",
                    unit=SERIES_UID,
                    subject=series.instances[0].sop_instance_uid,
                    path=path,
                    rule="a test",
                    state=str(RemovalState.REMOVED),
                    marked_at=at.ledger.database.now(),
                    ended_at=at.ledger.database.now(),
                )
            )
        with by_get.alone():
            result = by_get.fetch(found)
        assert (result.held_before, result.held) == (SLICES - 1, SLICES)
        assert at.archive.resolve(path).is_file()


def test_what_does_not_come_is_told(tmp_path: Path) -> None:
    """The archive says success or failure; what counts is what is here."""
    node = tmp_path / "node"
    peers = {"allow_any_peer": False, "peers": []}
    with station(node, **peers) as at, archive("dcmqrscp", tmp_path, at.port) as (port, ae_title):
        by_move = fetcher(at, node, port, ae_title, "move")
        found = the_series(by_move, study_uid=STUDY_UID)
        with by_move.alone():
            result = by_move.fetch(found)
        assert "C-MOVE with 0xA" in result.trouble
        assert (result.wanted, result.held, result.is_complete) == (SLICES, 0, False)
        source = by_move._source.model_copy(update={"method": "get"})
        small = settings(node, source, maximum_dataset_bytes=100)
        by_get = Fetcher(small, source, at.ledger, at.archive)
        with by_get.alone():
            result = by_get.fetch(found)
        assert "C-GET with 0xA702" in result.trouble
        assert (result.wanted, result.held, result.is_complete) == (SLICES, 0, False)
        assert at.kinds().count(Kind.INSTANCE_REFUSED) == SLICES


def test_one_at_a_time(tmp_path: Path) -> None:
    with station(tmp_path / "node") as at:
        one = fetcher(at, tmp_path / "node", 1, "PACS", "get")
        with one.alone(), pytest.raises(Stop, match="another one runs"), one.alone():
            raise AssertionError("two at a time")


def test_an_archive_without_query_is_told_of(tmp_path: Path) -> None:
    with station(tmp_path / "node") as at:
        with ScriptedPeer() as peer:
            asking = fetcher(at, tmp_path / "node", peer.port, "PEER", "get")
            with pytest.raises(Rejected, match="accepts no presentation context for Study Root"):
                asking.find(study_uid=STUDY_UID)
        with pytest.raises(Unreachable):
            fetcher(at, tmp_path / "node", free_port(), "PEER", "get").find(study_uid=STUDY_UID)


def test_a_source_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(Refuse, match=r"retrieve\.sources \(none\), found 'pacs'"):
        source_named(settings(tmp_path), "pacs")


def run_fetch(
    folder: Path, port: int, ae_title: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """The command, with an archive at this port as source `pacs`."""
    site = folder / "site.toml"
    site.write_text(
        f'[node]\ndata_folder = "{folder / "node"}"\n'
        "[receive]\nminimum_free_bytes = 0\n"
        f'[retrieve]\nsources = [{{ name = "pacs", ae_title = "{ae_title}",'
        f' host = "{LOOPBACK}", port = {port} }}]\n'
    )
    command = [sys.executable, "-m", "node", "fetch", *arguments, "--config", str(site)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command(tmp_path: Path) -> None:
    with archive("dcmqrscp", tmp_path, 1) as (port, ae_title):
        run = partial(run_fetch, tmp_path, port, ae_title)
        done = run("pacs", "--accession", PATIENT[3], "--json")
        assert done.returncode == 0, done.stderr
        (story,) = json.loads(done.stdout)
        assert (story["held"], story["is_complete"]) == (SLICES, True)
        assert PATIENT[0] not in done.stdout + done.stderr
        nothing = run("pacs", "--accession", "NO-SUCH-ONE")
        assert (nothing.returncode, "no such CT series" in nothing.stderr) == (4, True)
        assert run("other", "--study", STUDY_UID).returncode == 2
        # Another series came since.
        add_series(tmp_path / "more", port, ae_title)
        more = run("pacs", "--study", STUDY_UID)
        assert more.returncode == 0, more.stderr
        words = " ".join(more.stdout.split())
        assert f"2 of 2 instances here, 2 new: {SECOND_UID}" in words
        assert f"2 of 2 CT series are all here: study {STUDY_UID}" in words


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_tells_what_is_missing_of_a_study(tmp_path: Path, kind: str) -> None:
    """A series that nobody sent us is told once the other is complete, of both archives."""
    clock, counts = Clock(), kind == "orthanc"
    with archive(kind, tmp_path, 1) as (port, ae_title):
        add_series(tmp_path / "more", port, ae_title)
        ledger = new_ledger(tmp_path, clock)
        source = Source(name="pacs", ae_title=ae_title, host=LOOPBACK, port=port)
        base = settings(tmp_path, source)
        retrieve = base.retrieve.model_copy(update={"count_source": "pacs"})
        count = archive_count(base.model_copy(update={"retrieve": retrieve}), ledger)
        assert count is not None
        found = count(STUDY_UID)
        assert found is not None
        # dcmqrscp counts nothing, but it lists.
        assert found.counted_series == (3 if counts else None)
        assert found.counted_instances == (SLICES + 3 if counts else None)
        assert found.listed_series == 3
        assert found.count(SERIES_UID) == (SLICES if counts else None)
        association = ledger.receiving.open_association("receive-0", "CT1", "US", LOOPBACK)
        for number in range(SLICES):
            record(ledger, number, association)
        ledger.receiving.close_association(association, Ending.RELEASED)
        loop = CompletionLoop(ledger, base.completion, lambda _: None, count)
        assert loop.run_once(clock.advance(10)) == 1
        event = list(ledger.reports.events())[-1]
        assert event.kind == Kind.SERIES_COMPLETED
        expected = 2 if counts else None
        missing = [{"series_uid": SECOND_UID, "expected": expected, "found": 0}]
        assert event.detail["archive"] == {"missing": missing}
        ledger.close()


def test_a_study_of_which_the_archive_does_not_list_all_is_told(tmp_path: Path) -> None:
    """Orthanc ends its list at a limit and says that it was canceled."""
    modalities = {"us": ("PSEUDOMRI", LOOPBACK, 1)}
    with start_orthanc(tmp_path / "orthanc", modalities, LimitFindResults=2) as orthanc:
        fill(tmp_path / "sent", orthanc.dicom_port, "ORTHANC")
        add_series(tmp_path / "more", orthanc.dicom_port, "ORTHANC")
        done = run_fetch(tmp_path, orthanc.dicom_port, "ORTHANC", "pacs", "--study", STUDY_UID)
    assert done.returncode == 4
    assert f"expected 3 series in study {STUDY_UID}, found 2 listed" in done.stderr


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ({}, (Missing("1", 3, 0), Missing("2", None, 0))),
        ({"1": 2, "2": 1}, (Missing("1", 3, 2),)),
        ({"1": 3, "2": 1, "3": 9}, ()),
        # More than the archive has, of another sender.
        ({"1": 4, "2": 1}, ()),
    ],
)
def test_what_is_missing(held: dict[str, int], missing: tuple[Missing, ...]) -> None:
    study = FoundStudy("0", (FoundSeries("0", "1", 3), FoundSeries("0", "2", None)))
    assert study.missing(held) == missing


def test_a_silent_archive_is_left_alone(tmp_path: Path) -> None:
    now, asked = [0.0], []

    class Silent(Query):
        def study(self, study_uid: str) -> FoundStudy:
            asked.append(study_uid)
            raise Unreachable("it is away")

    count = ArchiveCount(
        Silent(Destination("p", "P", "h", 1), "US", 1, lambda *_: None), lambda: now[0]
    )
    assert [count("2"), count("3")] == [None, None]
    now[0] = 59.0
    assert count("4") is None
    assert asked == ["2"]
    now[0] = 61.0
    assert count("4") is None
    assert asked == ["2", "4"]


def test_our_expired_certificate_costs_the_count_and_no_more(tmp_path: Path) -> None:
    """Completion asks in its own turn: it must go on, and not be kept waiting again."""
    ca = Authority(tmp_path / "ca")
    expired = ca.issue("us", begin=timedelta(days=-2), end=timedelta(days=-1))
    source = Source(name="pacs", ae_title="PACS", host=LOOPBACK, port=free_port(), tls=True)
    base = settings(tmp_path, source, tls=ca.settings(expired))
    retrieve = base.retrieve.model_copy(update={"count_source": "pacs"})
    ledger = new_ledger(tmp_path, utc_now)
    count = archive_count(base.model_copy(update={"retrieve": retrieve}), ledger)
    assert count is not None
    with capture_logs() as logs:
        assert [count("1"), count("2")] == [None, None]
    (line,) = logs
    assert "tls.certificate_file: expected a valid certificate" in line["reason"]
    # Nothing was asked, and so nothing is on record as asked.
    assert list(ledger.reports.events()) == []
    ledger.close()
