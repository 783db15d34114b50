"""Files are whole, durable in the right order, inside their folder, and as they were sent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from node.archive import Archive, Archived, Encoding, _file_meta, checked_uid
from node.errors import Refuse, Retry
from pipeline.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from tests.node.samples import SERIES_UID, ct, encode, new_archive, store

HOSTILE = [
    "", ".", "..", "1.", ".1", "1..2", "../1", "1/2", "1\\2", "1\0", "1.2\n", "1.2 ", "1" * 65,
    "~", "1.2.dcm", "１.２", "-1", "con",
]  # fmt: skip


CONTENT = encode(ct(1))


def encoding(uid: str = f"{SERIES_UID}.1") -> Encoding:
    return Encoding(str(CTImageStorage), uid, str(ExplicitVRLittleEndian), "CT1")


def keep(archive: Archive, content: bytes = CONTENT, uid: str = f"{SERIES_UID}.1") -> Archived:
    return store(archive, SERIES_UID, encoding(uid), content)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_data_set_is_kept_byte_for_byte(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    stored = keep(archive)
    assert archive.read_data_set(stored.path) == CONTENT
    assert stored.digest == hashlib.sha256(CONTENT).hexdigest()
    assert stored.size_bytes == len(CONTENT)
    meta = read_file_meta_info(archive.resolve(stored.path))
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.SourceApplicationEntityTitle == "CT1"
    assert dcmread(archive.resolve(stored.path)).pixel_array.shape == (16, 16)


@given(st.integers(1, 64), st.text("ABC_ 1", min_size=1, max_size=16))
def test_file_meta_information_is_what_pydicom_writes(length: int, calling_ae: str) -> None:
    uid = "1" * length
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(CTImageStorage)
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = calling_ae
    stream = DicomBytesIO()
    write_file_meta_info(stream, meta)
    written = _file_meta(
        Encoding(str(CTImageStorage), uid, str(ExplicitVRLittleEndian), calling_ae)
    )
    assert written == stream.getvalue()


@settings(max_examples=25)
@given(st.binary(max_size=300))
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    archive = new_archive(tmp_path_factory.mktemp("archive"))
    assert archive.read_data_set(keep(archive, content).path) == content


def test_a_file_is_durable_before_it_has_its_name_and_the_name_before_we_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = new_archive(tmp_path)
    keep(archive, uid="1.2.3")  # the folder exists from now on
    calls: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        real_fsync(descriptor)

    def replace(source: Any, target: Any) -> None:
        # What is renamed was synced when it was whole.
        assert Path(source).read_bytes().endswith(CONTENT)
        calls.append(("replace", str(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    place = archive.resolve(keep(archive).path)
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0][1].startswith(str(archive.folder / "incoming"))
    assert calls[1][1] == str(place)
    assert calls[2][1] == str(place.parent)


def test_new_folders_are_durable_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = new_archive(tmp_path)
    synced: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd))[1],
    )
    before: list[str] = []
    monkeypatch.setattr(os, "replace", lambda a, b: (before.extend(synced), real_replace(a, b))[1])
    place = archive.resolve(keep(archive).path)
    assert {str(place.parent.parent), str(archive.folder / "instances")} <= set(before)


@pytest.mark.parametrize("uid", HOSTILE)
def test_hostile_uids_never_leave_the_folder(tmp_path: Path, uid: str) -> None:
    archive = new_archive(tmp_path)
    with pytest.raises(Refuse):
        store(archive, uid, encoding(), CONTENT)
    with pytest.raises(Refuse):
        keep(archive, uid=uid)
    assert files(tmp_path) == set()


@given(st.text(max_size=80))
def test_only_digits_and_single_dots_are_a_uid(text: str) -> None:
    try:
        checked_uid(text)
    except Refuse:
        return
    assert set(text) <= set("0123456789.")
    assert len(text) <= 64
    assert Path("/a") / text == Path("/a", text)
    assert ".." not in text


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 129, "a\0"])
def test_hostile_output_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refuse):
        new_archive(tmp_path).store_output("ab" * 32, name, b"x")
    with pytest.raises(Refuse):
        new_archive(tmp_path).store_output(name, "x.dcm", b"x")


@pytest.mark.parametrize("path", ["../node.sqlite", "/etc/passwd", "instances/../../x"])
def test_a_recorded_path_cannot_lead_out(tmp_path: Path, path: str) -> None:
    with pytest.raises(Refuse):
        new_archive(tmp_path).resolve(path)


def test_other_bytes_of_a_uid_lie_beside_it(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    first = keep(archive)
    second = keep(archive, encode(ct(1, KVP="120")))
    assert first.path != second.path
    assert archive.read_data_set(first.path) == CONTENT
    archive.remove([second.path])
    archive.remove([second.path])
    assert files(archive.folder) == {first.path}


def test_the_same_again_replaces_it_with_itself(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    # As after a crash between the rename and the ledger, and with a file that was lost since.
    assert keep(archive) == keep(archive)
    archive.remove([keep(archive).path])
    again = keep(archive)
    assert archive.read_data_set(again.path) == CONTENT


def test_quarantine_lies_apart(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    kept = keep(archive)
    apart = archive.set_apart(kept.path)
    assert apart.startswith("quarantine/")
    assert archive.read_data_set(apart) == CONTENT
    # As when two senders bring the same contradiction at once.
    assert archive.set_apart(kept.path) == apart
    assert files(archive.folder) == {apart}


def test_outputs_are_replaced_as_a_whole(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    archive.store_output("ab" * 32, "T2-001.dcm", b"old")
    stored = archive.store_output("ab" * 32, "T2-001.dcm", b"new")
    assert archive.resolve(stored.path).read_bytes() == b"new"
    assert stored.path == f"outputs/{'ab' * 32}/T2-001.dcm"


def test_leftovers_of_a_crash_are_swept_by_their_owner_only(tmp_path: Path) -> None:
    incoming = new_archive(tmp_path).folder / "incoming"
    for name in ("receive-0.7.1.tmp", "receive-0.7.2.tmp", "work-0.9.1.tmp"):
        (incoming / name).write_bytes(b"half")
    assert new_archive(tmp_path).sweep() == 2
    assert files(incoming) == {"work-0.9.1.tmp"}
    assert Archive(tmp_path / "archive", "work-0").sweep() == 1


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_nothing_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    archive = new_archive(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    keep(archive, uid="1.2.3")
    before = files(archive.folder)
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(Retry, match="No space left"):
        keep(archive)
    assert files(archive.folder) == before


def test_a_foreign_file_is_no_instance_of_ours(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    stored = archive.store_output("ab" * 32, "x.dcm", b"no DICOM")
    with pytest.raises(Refuse):
        archive.read_data_set(stored.path)
    assert archive.free_bytes() > 0
