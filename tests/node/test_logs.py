"""What may be said of an error: our words, never a foreign one's."""

from __future__ import annotations

import errno
import io
import json
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import structlog
from pydicom import dcmread

from config.settings import LoggingSettings
from node import logs
from node.errors import Refuse
from node.logs import describe
from node.status import is_accepted
from pipeline.errors import Declined


def caught(action: object) -> BaseException:
    with pytest.raises(BaseException) as found:
        action()  # type: ignore[operator]
    return found.value


def test_our_own_words_are_safe() -> None:
    assert describe(Refuse("no such job")) == "Refuse: no such job"
    declined = Declined("canal.short", found="4 mm", expected="9 mm", remedy="Scan more.")
    assert describe(declined) == "Declined: canal.short: found 4 mm; expected 9 mm. Scan more."


def test_foreign_words_are_not_told_but_the_place_is() -> None:
    error = caught(lambda: is_accepted("Zebrowska^Wanda"))  # type: ignore[arg-type]
    said = describe(error)
    assert said.startswith("TypeError in node/status.py:")
    assert said.endswith("(is_accepted)")
    assert "Zebrowska" not in said


def test_a_foreign_class_is_named_in_full(tmp_path: Path) -> None:
    (tmp_path / "Zebrowska").write_text("no DICOM")
    said = describe(caught(lambda: dcmread(tmp_path / "Zebrowska")))
    assert said.startswith("pydicom.errors.InvalidDicomError in ")
    assert "Zebrowska" not in said


def test_trouble_with_a_disk_is_told_apart() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/data/Zebrowska")
    assert describe(error) == "OSError ENOSPC in an unknown place"


def test_json_lines_name_the_role() -> None:
    said = io.StringIO()
    with redirect_stderr(said):
        logs.configure(LoggingSettings(level="INFO", format="json"), "work")
        structlog.get_logger().info("packaged", instances=30)
        structlog.get_logger().debug("too fine")
    (line,) = said.getvalue().splitlines()
    assert json.loads(line) | {"timestamp": ""} == {
        "event": "packaged",
        "instances": 30,
        "level": "info",
        "role": "work",
        "timestamp": "",
    }
    structlog.reset_defaults()
