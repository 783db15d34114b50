"""What the README and the operations guide tell people to type exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from node.__main__ import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def code_of(page: Path) -> str:
    return "\n".join(a or b for a, b in CODE.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists(page: Path) -> None:
    for line in re.findall(r"^pseudomri (.+)$", code_of(page), re.MULTILINE):
        words = line.split("#")[0].split()
        command: Any = typer.main.get_command(app)
        # A group has commands of its own; what remains are arguments and options.
        while hasattr(command, "commands"):
            assert words, line
            assert words[0] in command.commands, f"{page.name}: no such command: pseudomri {line}"
            command = command.commands[words.pop(0)]
        options = {name for one in command.params for name in one.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"^make ([a-z]+)", code_of(page), re.MULTILINE):
        assert target in targets


def test_every_metric_is_explained_and_every_explained_one_exists() -> None:
    source = (ROOT / "node" / "web" / "metrics.py").read_text()
    made = set(re.findall(r'_(?:gauge|info|counter|by_state|counter_of_pairs)\(\s*"(\w+)"', source))
    made |= set(re.findall(r'\{PREFIX\}(\w+)"', source))
    page = (ROOT / "docs" / "metrics.md").read_text()
    told = set(re.findall(r"^\| `pseudomri_(\w+)` ", page, re.MULTILINE))
    # The exposition adds an ending to counters and infos.
    assert {re.sub(r"_(total|info)$", "", name) for name in told} == made
    alerts = (ROOT / "docs" / "alerts.yml").read_text()
    used = set(re.findall(r"pseudomri_(\w+?)[\[{ )]", alerts))
    assert used
    assert used <= told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
