"""The digest of the sources that draw."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import node
import pipeline
from node.program import digest_sources, program_digest

PIPELINE, NODE = (Path(str(package.__file__)).parent for package in (pipeline, node))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program") / "pipeline"
    shutil.copytree(PIPELINE, folder, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    return folder


def test_the_same_sources_have_the_same_digest_wherever_they_lie(copy: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", program_digest())
    assert digest_sources(copy, NODE / "computing.py") == program_digest()


@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ("labeling.py", True),
        ("model/ensemble.py", True),
        ("training/loop.py", False),
        ("evaluation/gate.py", False),
        ("phantom/canal.py", False),
    ],
)
def test_what_draws_counts_and_what_teaches_or_judges_does_not(
    copy: Path, changed: str, matters: bool
) -> None:
    before = digest_sources(copy, NODE / "computing.py")
    source = copy / changed
    content = source.read_text()
    source.write_text(content + "\n# changed\n")
    try:
        assert (digest_sources(copy, NODE / "computing.py") != before) is matters
    finally:
        source.write_text(content)


def test_a_changed_caller_counts(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "computing.py"
    other.write_text((NODE / "computing.py").read_text() + "\n")
    assert digest_sources(copy, other) != program_digest()
