"""The command line as a user meets it: exit codes, JSON, errors that help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydicom import dcmread

from node.commands.common import settings_of
from node.errors import Refuse
from node.states import SynthesisState
from tests.node.journeys import open_parts
from tests.node.test_deliver import write_instance
from tests.node.test_workflow import Node
from tests.peers import LOOPBACK, ScriptedPeer, free_port

ROOT = Path(__file__).resolve().parents[2]


def pseudomri(*arguments: object, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    if data is not None:
        environment["PSEUDOMRI_NODE__DATA_FOLDER"] = str(data)
    done = subprocess.run(
        [sys.executable, "-m", "node", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def failed(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, [])
    node.ledger.syntheses.fail(node.job_id, 1, "a reason", "tests")
    yield node
    node.ledger.close()


def test_without_a_command_there_is_help() -> None:
    done = pseudomri()
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


def test_no_node_no_ledger(tmp_path: Path) -> None:
    done = pseudomri("status", data=tmp_path / "nothing")
    assert done.returncode == 2
    assert "pseudomri serve" in done.stderr
    assert not (tmp_path / "nothing").exists()


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text("[node]\nport = 99999\nprot = 1\n")
    done = pseudomri("status", "--config", config)
    assert done.returncode == 2
    assert "node.port" in done.stderr
    assert "node.prot" in done.stderr


def test_an_environment_that_is_wrong_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDOMRI_DELIVERY__DESTINATIONS", "[{")
    with pytest.raises(Refuse, match="PSEUDOMRI_DELIVERY__DESTINATIONS: expected JSON"):
        settings_of(None)


@pytest.mark.parametrize("found", [None, "folder", "file beneath a file"])
def test_a_site_file_that_cannot_be_read_is_named(tmp_path: Path, found: str | None) -> None:
    site = tmp_path / "site.toml"
    if found == "folder":
        site.mkdir()
    elif found:
        site.write_text("")
        site = site / "site.toml"
    with pytest.raises(Refuse, match=rf"--config: expected a TOML file to read, {site}: \w+"):
        settings_of(site)


@pytest.mark.parametrize("content", [b"[node\n", b"\xff\xfe"])
def test_a_site_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    site = tmp_path / "site.toml"
    site.write_bytes(content)
    with pytest.raises(Refuse, match=f"--config: {site} is no TOML: "):
        settings_of(site)


def test_status_and_jobs_for_programs_and_people(failed: Node) -> None:
    data = failed.settings.node.data_folder
    status = json.loads(pseudomri("status", "--json", data=data).stdout)
    assert status["syntheses"] == {"failed": 1}
    (job,) = json.loads(pseudomri("jobs", "--failed", "--json", data=data).stdout)
    assert job["job_id"] == failed.job_id
    assert job["reason"] == "a reason"
    shown = pseudomri("jobs", data=data).stdout
    assert failed.job_id[:12] in shown
    assert "a reason" in shown


def test_retry_is_for_failed_jobs(failed: Node) -> None:
    data = failed.settings.node.data_folder
    done = pseudomri("retry", failed.job_id[:10], "--json", data=data)
    assert json.loads(done.stdout) == {"job_id": failed.job_id, "run": 2}
    assert failed.state == SynthesisState.QUEUED
    again = pseudomri("retry", failed.job_id[:10], data=data)
    assert again.returncode == 2
    assert "only a failed or dismissed job" in again.stderr
    assert pseudomri("retry", "0000000", data=data).returncode == 2


def test_dismiss_is_for_failed_jobs_and_tells_nobody_why_but_the_record(failed: Node) -> None:
    data = failed.settings.node.data_folder
    assert pseudomri("dismiss", failed.job_id[:10], data=data).returncode == 2  # no reason
    done = pseudomri("dismiss", failed.job_id[:10], "--reason", "for the record", data=data)
    assert done.returncode == 0
    assert "for the record" not in done.stdout + done.stderr
    assert failed.state == SynthesisState.DISMISSED
    assert "for the record" in pseudomri("audit", "show", failed.job_id, data=data).stdout
    again = pseudomri("dismiss", failed.job_id[:10], "--reason", "x", data=data)
    assert again.returncode == 2
    assert "only a failed job" in again.stderr


def test_the_record_can_be_shown_verified_and_exported(failed: Node) -> None:
    data = failed.settings.node.data_folder
    story = json.loads(pseudomri("audit", "show", failed.job_id, data=data).stdout)
    assert story["state"] == "failed"
    verdict = json.loads(pseudomri("audit", "verify", "--json", data=data).stdout)
    assert verdict["intact"]
    lines = pseudomri("audit", "export", data=data).stdout.splitlines()
    assert len(lines) == verdict["events"]
    assert json.loads(lines[-1])["hash"] == verdict["head"]
    assert pseudomri("audit", "verify", "--head", verdict["head"], data=data).returncode == 0
    assert pseudomri("audit", "verify", "--head", "0" * 64, data=data).returncode == 4
    assert pseudomri("audit", "show", "1.2.3", data=data).returncode == 2


def test_a_changed_record_is_found(failed: Node) -> None:
    ledger, _ = open_parts(failed.settings)
    with ledger.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE audit_event SET actor = 'mallory' WHERE sequence = 2")
    done = pseudomri("audit", "verify", "--json", data=failed.settings.node.data_folder)
    assert done.returncode == 4
    assert json.loads(done.stdout)["broken_at"] == 2


def test_send_tells_what_was_refused(tmp_path: Path) -> None:
    for number in range(3):
        write_instance(tmp_path, number)
    (tmp_path / "notes.txt").write_text("passed over")
    with ScriptedPeer(answer=lambda uid, times: 0xA700 if uid == "2.25.2" else 0) as peer:
        address = f"{LOOPBACK}:{peer.port}"
        done = pseudomri("send", tmp_path, address, "--called", "PEER", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 4
    assert report["accepted"] == 2
    assert report["refused"] == {"2.25.2": "0xA700"}


def test_send_and_echo_to_nobody(tmp_path: Path) -> None:
    write_instance(tmp_path, 0)
    address = f"{LOOPBACK}:{free_port()}"
    assert pseudomri("send", tmp_path, address).returncode == 4
    done = pseudomri("echo", address)
    assert done.returncode == 4
    assert "nothing listens" in done.stderr


@pytest.mark.parametrize("address", ["nowhere", "host:", ":104", "host:99999"])
def test_a_wrong_address_is_a_usage_error(tmp_path: Path, address: str) -> None:
    write_instance(tmp_path, 0)
    done = pseudomri("send", tmp_path, address)
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


def test_a_folder_without_dicom_is_a_usage_error(tmp_path: Path) -> None:
    for command in (["send", tmp_path, "host:104"], ["synthesize", tmp_path, tmp_path / "out"]):
        done = pseudomri(*command)
        assert done.returncode == 2
        assert "expected DICOM files" in done.stderr


def test_what_is_no_neck_ct_is_declined(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = write_instance(tmp_path / "in", 0)
    ds = dcmread(path)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.8", "2.25.9"
    ds.save_as(path)
    done = pseudomri("synthesize", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 3
    assert done.stderr.startswith("declined series.class")


def test_an_unknown_finding_is_a_usage_error(tmp_path: Path) -> None:
    done = pseudomri("phantom", tmp_path / "p", "--finding", "hiccups")
    assert done.returncode == 2
    assert "cord_oedema" in done.stderr


def test_training_on_a_device_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = pseudomri("train", tmp_path / "t", "--steps", "1", "--device", "tpu")
    assert done.returncode == 2
    assert "expected cpu or cuda, found tpu" in done.stderr
    if not torch.cuda.is_available():
        done = pseudomri("train", tmp_path / "t", "--steps", "1", "--device", "cuda")
        assert done.returncode == 2
        assert "expected a GPU" in done.stderr
    assert not (tmp_path / "t").exists()


SECRET = "HUNTER2"
URL = f"postgresql://u:{SECRET}@db/x"


@pytest.mark.parametrize(
    "text",
    [
        f'[node]\ndatabase_url = "{URL}"\n[receive]\ntls = true\n',
        f'[delivery]\nweb_destinations = [{{ name = "c", url = "https://u:{SECRET}@pacs/dw" }}]\n',
        f'[delivery]\nweb_destinations = [{{ name = "c", url = "htps://u:{SECRET}/@pacs/dw" }}]\n',
        f'[delivery]\nweb_destinations = [{{ url = "https://u:{SECRET}@pacs/dw" }}]\n',
        f'[node]\ndatabase_uri = "{URL}"\npassword = "{SECRET}"\n',
        f'node = "{URL}"\n',
        f'[node]\nport = "{URL}"\n',
    ],
)
def test_no_error_of_the_settings_quotes_a_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(Refuse, match="settings: ") as error:
        settings_of(tmp_path / "site.toml")
    # With what led to it, as --traceback shows it.
    assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        # Nobody listens there.
        (f"postgresql://u:{SECRET}@{LOOPBACK}:1/x", f"postgresql://u:***@{LOOPBACK}:1/x to answer"),
        (f"postgresql://u@{LOOPBACK}:1/x?password={SECRET}", "Connection refused"),
        (f"postgresql:/u:{SECRET}@{LOOPBACK}:notaport/x", "expected postgresql://USER"),
        (f"postgresql://u:{SECRET}@{LOOPBACK}:notaport/x", "expected postgresql://USER"),
    ],
)
def test_a_database_that_is_away_is_named_without_its_password(
    tmp_path: Path, url: str, expected: str
) -> None:
    (tmp_path / "archive").mkdir()
    site = tmp_path / "site.toml"
    site.write_text(f'[node]\ndatabase_url = "{url}"\ndata_folder = "{tmp_path}"\n')
    done = pseudomri("status", "--config", site)
    assert done.returncode in (2, 4)
    assert expected in done.stderr
    assert SECRET not in done.stdout + done.stderr
