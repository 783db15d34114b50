"""Backup of a node that works, and what a restore makes of it; the ledger in another database."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from node import audit
from node.atna.telling import KEY_FILE
from node.backup import MANIFEST, backup, restore
from node.clock import utc_now
from node.engine import Dispatcher, engine_url
from node.errors import Refuse
from node.faults import VARIABLE, Point
from node.ledger import copying, open_ledger
from node.lock import hold
from node.parts import ledger_url
from node.receive import Receiver
from node.reconcile import Reconciler
from node.records import RemovalRecord
from node.states import RemovalState, SynthesisState
from tests.node.journeys import KILLED, open_parts, prepare_node, settings_for
from tests.node.samples import ct
from tests.node.scu import associated, store
from tests.node.test_workflow import OUTPUTS, Node, to
from tests.peers import LOOPBACK, ScriptedPeer, free_port, wait_until
from tests.postgresql import PostgreSQL

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def peer() -> Iterator[ScriptedPeer]:
    with ScriptedPeer() as running:
        yield running


def elsewhere(settings: Settings, folder: Path, url: str = "") -> Settings:
    """The same node at another place."""
    document = settings.model_dump(mode="json", exclude_none=True)
    document["node"] |= {"data_folder": str(folder), "database_url": url}
    return Settings(**document)


def pseudomri(settings: Settings, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(settings),
        timeout=120,
        check=False,
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "node", *map(str, arguments)]


def environment(settings: Settings) -> dict[str, str]:
    """Settings as variables, and nothing of this process's own."""
    document = settings.model_dump(mode="json", exclude_none=True)
    sections = {f"PSEUDOMRI_{k.upper()}": json.dumps(v) for k, v in document.items()}
    return {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), **sections}


def finish(node: Node, settings: Settings) -> None:
    """What the roles of a started node do, until its one synthesis is committed."""
    node.settings = settings
    node.ledger.close()
    prepare_node(settings)
    node.ledger, node.archive = open_parts(settings)
    with node.worker() as worker:
        reconciler = Reconciler(node.ledger, engine_url(settings), 60, "tests")
        dispatcher = Dispatcher(node.ledger.syntheses, engine_url(settings))
        reconciler.run_once()
        dispatcher.run_once()
        committer = worker.committer()

        def committed() -> bool:
            committer.run_once()
            return node.state == SynthesisState.COMMITTED

        wait_until(committed, 60, "committed")
        reconciler.close()
        dispatcher.close()
    node.check_audit()


def test_a_node_that_receives_all_the_while(tmp_path: Path, database_url: str) -> None:
    """Whatever moment it hits: every row of the backup has its file, and the next one has more."""
    node = Node(tmp_path / "first", [])
    url = "" if database_url.startswith("sqlite") else database_url
    settings = elsewhere(node.settings, tmp_path / "data", url)
    settings = settings.model_copy(
        update={"receive": settings.receive.model_copy(update={"allow_any_peer": True})}
    )
    prepare_node(settings)
    ledger, archive = open_parts(settings, "receive-0")
    receiver = Receiver(settings, ledger, archive)
    receiver.start()
    acknowledged: list[str] = []
    stop = threading.Event()

    def send() -> None:
        with associated(receiver.port) as association:
            for number in range(2000):
                if stop.is_set():
                    return
                ds = ct(number)
                status, _ = store(association, ds)
                assert status == 0
                acknowledged.append(str(ds.SOPInstanceUID))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        wait_until(lambda: len(acknowledged) >= 5)
        before = list(acknowledged)
        first = backup(settings, tmp_path / "backup")
        wait_until(lambda: len(acknowledged) >= len(before) + 5)
        second = backup(settings, tmp_path / "backup")
    finally:
        stop.set()
        sender.join()
        receiver.stop(5)
        ledger.close()
    assert first.damaged == second.damaged == ()
    assert second.copied < second.files
    assert second.files > first.files >= len(before)
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", MANIFEST], cwd=tmp_path / "backup", check=False
    )
    assert checked.returncode == 0
    listed = (tmp_path / "backup" / MANIFEST).read_text().count("\n")
    assert listed == second.files + 1
    target = elsewhere(settings, tmp_path / "restored")
    report = restore(target, tmp_path / "backup")
    assert (report.files, report.damaged) == (second.files, ())
    restored, archive = open_parts(target)
    (series,) = restored.series.of_study("1.2.826.0.1.77.1")
    held = {one.sop_instance_uid for one in series.instances}
    assert set(before) <= held <= set(acknowledged)
    assert all(archive.resolve(one.path).is_file() for one in series.instances)
    assert audit.verify(restored.reports.events()) is None
    restored.close()


@pytest.mark.parametrize("where", ["after-synthesize", "within-send"])
def test_what_was_in_flight_begins_again_after_a_restore(
    tmp_path: Path, peer: ScriptedPeer, where: str
) -> None:
    node = Node(tmp_path / "node", [to(peer)])
    node.dispatch()
    assert node.worker_process(where).wait(60) == KILLED
    answered = set(peer.accepted()) if where == "within-send" else set()
    backup(node.settings, tmp_path / "backup")
    target = elsewhere(node.settings, tmp_path / "restored")
    restore(target, tmp_path / "backup")
    finish(node, target)
    assert len(peer.accepted()) == OUTPUTS
    assert all(len(digests) == 1 for digests in peer.accepted().values())
    # The one whose answer was not on record came twice.
    assert sum(peer.times(uid) - 1 for uid in answered) <= 1


def test_damage_is_told_and_everything_else_restored(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", [])
    paths = sorted((node.archive.folder / "instances").rglob("*.dcm"))
    paths[0].write_bytes(paths[0].read_bytes()[:-1] + b"\x7f")
    report = backup(node.settings, tmp_path / "backup")
    assert report.damaged == (str(paths[0].relative_to(node.archive.folder)),)
    copies = sorted((tmp_path / "backup" / "archive" / "instances").rglob("*.dcm"))
    assert len(copies) == len(paths) - 1
    copies[0].unlink()
    target = elsewhere(node.settings, tmp_path / "restored")
    again = restore(target, tmp_path / "backup")
    assert len(again.damaged) == 2
    restored, _ = open_parts(target)
    assert restored.reports.status()["instances"] == len(paths)
    assert [e.kind for e in restored.reports.events()][-1] == audit.Kind.NODE_RESTORED
    restored.close()


def test_a_copy_that_lost_its_end_is_made_again(tmp_path: Path) -> None:
    """Without a word of damage; and one whose source did so is left as it is."""
    node = Node(tmp_path / "node", [])
    folder = tmp_path / "backup"
    files = backup(node.settings, folder).files
    copies = sorted((folder / "archive" / "instances").rglob("*.dcm"))
    content = copies[0].read_bytes()
    copies[0].write_bytes(content[:-100])
    source = node.archive.folder.parent / copies[1].relative_to(folder)
    source.write_bytes(content[:-100])
    report = backup(node.settings, folder)
    assert (report.files, report.copied, report.damaged) == (files, 1, ())
    assert copies[0].read_bytes() == content
    again = restore(elsewhere(node.settings, tmp_path / "restored"), folder)
    assert again.damaged == ()


def test_the_key_of_the_pseudonyms_is_in_it_and_nobody_reads_it(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", [])
    key = node.settings.node.data_folder / KEY_FILE
    key.write_bytes(b"a secret of the site")
    for _ in range(2):
        backup(node.settings, tmp_path / "backup")
        (kept,) = (tmp_path / "backup").glob("atna-*.key")
        assert kept.stat().st_mode & 0o777 == 0o600
    # Carried by something that knows no modes.
    kept.chmod(0o644)
    for name, damaged in (("good", ()), ("bad", (kept.name,))):
        target = elsewhere(node.settings, tmp_path / name)
        assert restore(target, tmp_path / "backup").damaged == damaged
        restored = target.node.data_folder / KEY_FILE
        assert restored.exists() is not bool(damaged)
        if restored.exists():
            assert restored.read_bytes() == key.read_bytes()
            assert restored.stat().st_mode & 0o777 == 0o600
        kept.write_bytes(b"another")


def test_what_retention_deletes_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file goes after the first copy of the ledger was made, and before the file's own."""
    node = Node(tmp_path / "node", [])
    paths = sorted((node.archive.folder / "instances").rglob("*.dcm"))
    real, gone = copying.snapshot, str(paths[0].relative_to(node.archive.folder))

    def snapshot(url: str, target: Path) -> None:
        real(url, target)
        if not paths[0].exists():
            return
        with node.ledger.database.transaction() as session:
            session.add(
                RemovalRecord(
                    kind="received",
                    unit="2.25.1000",
                    subject="2.25.1000",
                    path=gone,
                    rule="for the test",
                    state=str(RemovalState.REMOVED),
                    marked_at="2026",
                    ended_at="2026",
                )
            )
            paths[0].unlink()

    monkeypatch.setattr("node.backup.copying.snapshot", snapshot)
    report = backup(node.settings, tmp_path / "backup")
    assert (report.damaged, report.files) == ((), len(paths) - 1)


def test_a_backup_that_is_killed_leaves_the_one_before(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", [])
    folder = tmp_path / "backup"
    backup(node.settings, folder)
    before = (folder / MANIFEST).read_bytes()
    armed = tmp_path / "faults" / Point.BACKUP_COPIED
    armed.parent.mkdir()
    armed.touch()
    killed = subprocess.run(
        command("backup", folder),
        cwd=ROOT,
        env=environment(node.settings) | {VARIABLE: str(armed.parent)},
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (folder / MANIFEST).read_bytes() == before
    assert restore(elsewhere(node.settings, tmp_path / "restored"), folder).damaged == ()
    assert backup(node.settings, folder).damaged == ()
    assert len(list(folder.glob("ledger*"))) == 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", [])
    backup(node.settings, tmp_path / "backup")
    with pytest.raises(Refuse, match="to be empty, found"):
        restore(node.settings, tmp_path / "backup")
    with pytest.raises(Refuse, match="expected a backup"):
        restore(elsewhere(node.settings, tmp_path / "x"), tmp_path)
    with pytest.raises(Refuse, match="outside"):
        backup(node.settings, node.settings.node.data_folder / "backup")
    ledger = next((tmp_path / "backup").glob("ledger-*"))
    ledger.write_bytes(ledger.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(Refuse, match="damaged"):
        restore(elsewhere(node.settings, tmp_path / "y"), tmp_path / "backup")


def test_from_sqlite_to_postgresql_with_work_in_flight(
    tmp_path: Path, peer: ScriptedPeer, postgresql: PostgreSQL
) -> None:
    """The real command; refused into a database that is not empty."""
    node = Node(tmp_path / "node", [to(peer)])
    node.dispatch()
    assert node.worker_process("within-send").wait(60) == KILLED
    url = postgresql.new_database()
    before = list(node.ledger.reports.events())
    copied = pseudomri(node.settings, "database", "copy", url, "--json")
    assert copied.returncode == 0, copied.stderr
    counts = json.loads(copied.stdout)
    assert counts["audit_event"] == len(before)
    again = pseudomri(node.settings, "database", "copy", url)
    assert again.returncode == 2
    assert "expected an empty database" in again.stderr
    target = elsewhere(node.settings, node.settings.node.data_folder, url)
    with contextlib.closing(open_ledger(ledger_url(target), utc_now)) as ledger:
        assert list(ledger.reports.events())[: len(before)] == before
        # The sequences go on where the ids end.
        ledger.receiving.open_association("receive-0", "CT1", "US", "127.0.0.1")
    finish(node, target)
    assert len(peer.accepted()) == OUTPUTS
    assert all(len(digests) == 1 for digests in peer.accepted().values())


def test_a_database_that_cannot_be_reached_is_told_of(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    """What was expected, what the database says, what to look at; and no password."""
    settings = settings_for(tmp_path / "data", [])
    prepare_node(settings)
    postgresql.want_password("stranger", "other")

    cases = {
        f"postgresql://me:s3cret@{LOOPBACK}:{free_port()}/ledger": "refused",
        postgresql.url("postgres").replace(
            "pseudomri@", "stranger:s3cret@"
        ): "password authentication failed",
        postgresql.url("absent").replace("pseudomri@", "pseudomri:s3cret@"): "does not exist",
    }
    for url, says in cases.items():
        failed = pseudomri(settings, "database", "copy", url)
        told = " ".join(failed.stderr.split())
        assert failed.returncode == 4, told
        assert told.startswith("failed: expected the ledger's database at postgresql://"), told
        assert says in told
        assert "was this database made" in told
        assert "s3cret" not in told + failed.stdout
        assert "Traceback" not in told


def test_nothing_is_copied_while_any_part_of_the_node_may_write(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    """The web role and a fetch as they are started by hand; the locks of worker and acceptors."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        pacs = {"name": "pacs", "ae_title": "PACS", "host": LOOPBACK}
        sections = {
            "web": {"port": 0},
            "retrieve": {"sources": [pacs | {"port": silent.getsockname()[1]}]},
        }
        settings = settings_for(tmp_path / "data", [], sections)
        prepare_node(settings)
        data, url = settings.node.data_folder, postgresql.new_database()

        def refusal() -> str:
            refused = pseudomri(settings, "database", "copy", url)
            assert refused.returncode == 2
            return refused.stderr

        with beginning(settings, "serve", "--role", "web") as web:
            assert web.stdout is not None
            assert web.stdout.readline().startswith("ready")
            assert "runs the web role" in refusal()
        with beginning(settings, "fetch", "pacs", "--study", "1.2.3"):
            connection, _ = silent.accept()
            with connection:
                assert "expected no other fetch" in refusal()
    for name in ("receive-1", "work"):
        with hold(data, name):
            assert f"runs the {name} role" in refusal()
    copying.refuse_unless_empty(url)
    assert pseudomri(settings, "database", "copy", url).returncode == 0


@contextlib.contextmanager
def beginning(settings: Settings, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on for as long as the block does."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(settings)
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_copy_that_fails_leaves_the_target_empty(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path / "node", [])
    url = postgresql.new_database()
    source = ledger_url(node.settings)

    def broken(*_: Any) -> Any:
        return audit.Broken(1, "for the test")

    monkeypatch.setattr("node.ledger.copying.audit.verify", broken)
    with pytest.raises(Refuse, match="breaks at event 1"):
        copying.copy(source, url)
    monkeypatch.undo()
    copying.refuse_unless_empty(url)
    assert copying.copy(source, url)["instance"] == 4


def test_a_backup_of_postgresql_is_restored_into_postgresql(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    node = Node(tmp_path / "node", [])
    url = postgresql.new_database()
    copying.copy(ledger_url(node.settings), url)
    settings = elsewhere(node.settings, node.settings.node.data_folder, url)
    backup(settings, tmp_path / "backup")
    target = elsewhere(settings, tmp_path / "restored", postgresql.new_database())
    restore(target, tmp_path / "backup")
    ledger, _ = open_parts(target)
    assert ledger.reports.status()["instances"] == 4
    assert sorted(p.name for p in (tmp_path / "restored").iterdir()) == ["archive"]
    third = elsewhere(target, tmp_path / "third", target.node.database_url)
    with pytest.raises(Refuse, match="expected an empty database"):
        restore(third, tmp_path / "backup")
    ledger.close()
