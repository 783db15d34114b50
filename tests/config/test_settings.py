"""The settings refuse what they do not know, and the default file explains every key."""

from __future__ import annotations

import re
import tomllib
import traceback
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from config.settings import DEFAULT_FILE, PROOF_SINK, SENDER, Settings, WrongVariable, load

EXAMPLE = DEFAULT_FILE.parent / "sites" / "example.toml"
WEB = 'url = "https://pacs/dicom-web"'


def write(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_load_and_are_frozen() -> None:
    settings = load()
    assert settings.node.ae_title == "PSEUDOMRI"
    with pytest.raises(ValidationError, match="frozen"):
        settings.node.port = 1  # type: ignore[misc]


def test_every_field_has_its_default_in_the_file_or_is_optional() -> None:
    tables = tomllib.loads(DEFAULT_FILE.read_text(encoding="utf-8"))
    for name, field in Settings.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        required = {key for key, value in section.model_fields.items() if value.is_required()}
        assert required == set(tables[name]), name


def test_every_default_states_its_reason() -> None:
    lines = DEFAULT_FILE.read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.match(r"^\w+ = ", line)]
    silent = [line for line in values if "#" not in line]
    # These say all there is to say by their own name.
    obvious = {"ae_title", "bind_address", "contrasts", "network_timeout_s", "level", "format"}
    assert [line for line in silent if line.split(" = ")[0] not in obvious] == []


def test_example_site_is_laid_over_the_defaults() -> None:
    settings = load(EXAMPLE)
    assert settings.delivery.destinations[0].ae_title == "PACS"
    assert settings.completion == load().completion


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[node]\ncolour = 1\n", "node.colour"),
        ("[nodes]\nport = 1\n", "nodes"),
        ("[node]\nport = 70000\n", "node.port"),
        ('[node]\nae_title = "SEVENTEEN_LETTERS"\n', "node.ae_title"),
        ('[node]\nae_title = "BACK\\\\SLASH"\n', "node.ae_title"),
        ('[synthesis]\ncontrasts = ["T1"]\n', "synthesis.contrasts"),
        ('[synthesis]\ncontrasts = ["T2", "T2"]\n', "each once"),
        ("[synthesis]\ncontrasts = []\n", "synthesis"),
        ("[synthesis]\nsamples = 1\n", "at least 2"),
        ("[completion]\nquiet_s = 0\n", "completion.quiet_s"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ValidationError) as error:
        load(write(tmp_path, text))
    assert expected in str(error.value)


def test_two_destinations_of_one_name_are_refused(tmp_path: Path) -> None:
    one = '{ name = "pacs", ae_title = "A", host = "h", port = 104 }'
    with pytest.raises(ValidationError, match="names must differ"):
        load(write(tmp_path, f"[delivery]\ndestinations = [{one}, {one}]\n"))


@pytest.mark.parametrize("name", [SENDER, PROOF_SINK])
@pytest.mark.parametrize("where", ["destinations", "web_destinations"])
def test_the_names_that_the_node_gives_are_not_for_a_site(
    tmp_path: Path, name: str, where: str
) -> None:
    how = {"destinations": 'ae_title = "A", host = "h", port = 104', "web_destinations": WEB}
    site = f'[delivery]\n{where} = [{{ name = "{name}", {how[where]} }}]\n'
    with pytest.raises(ValidationError, match=re.escape(f"found '{name}'")):
        load(write(tmp_path, site))


def test_the_environment_wins_over_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSEUDOMRI_NODE__PORT", "11113")
    assert load(write(tmp_path, "[node]\nport = 104\n")).node.port == 11113


SECRET = "HUNTER2"


@pytest.mark.parametrize(
    "name",
    ["PSEUDOMRI_NOD__PORT", "PSEUDOMRI_NODE_PORT", "PSEUDOMRI_RECEIVE_TLS", "PSEUDOMRI__NODE"],
)
def test_a_variable_of_no_section_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    with pytest.raises(WrongVariable, match=f"{name}: expected .*PSEUDOMRI_NODE__PORT") as error:
        load()
    assert SECRET not in "".join(traceback.format_exception(error.value))


def test_a_variable_of_no_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDOMRI_NODE__PROT", "1")
    with pytest.raises(ValidationError, match=r"node\.prot"):
        load()


@pytest.mark.parametrize("name", ["PSEUDOMRI_DELIVERY__DESTINATIONS", "PSEUDOMRI_DELIVERY"])
def test_a_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, f"[{{ name = {SECRET} }}]")
    with pytest.raises(WrongVariable, match=f"{name}: expected JSON") as error:
        load()
    assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("name", ["PSEUDOMRI_FAULTS", "PSEUDOMRI_TEST_DATA", "PSEUDOMRIX"])
def test_variables_that_are_no_settings_are_let_through(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/somewhere")
    load()
