"""The key is found where the Oxen tools keep it, and is never told to anybody but the hub."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from oxenbatch.errors import ConfigProblem, KeyRefused
from oxenbatch.hub import Hub, check_key
from oxenbatch.settings import CONFIG_FILE, config_folder, find_key

HUB = "https://hub.oxen.ai"
KEY = "SFMyNTY.secret-word"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / CONFIG_FILE


def write(path: Path, text: str | bytes, mode: int = 0o600) -> dict[str, str]:
    """The environment of a user whose file says so."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return {"OXEN_CONFIG_DIR": str(path.parent)}


def entry(host: str, token: str = KEY) -> str:
    return f'[[host_configs]]\nhost = "{host}"\nauth_token = "{token}"\n'


@pytest.mark.parametrize("value", [KEY, f" {KEY} ", f"{KEY}\n", f"\t{KEY}\r\n"])
def test_the_environments_key_wins_and_is_stripped(value: str, config: Path) -> None:
    environ = write(config, entry("hub.oxen.ai", "another"))

    assert find_key(HUB, environ | {"OXEN_API_KEY": value}) == KEY


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_an_empty_variable_is_as_good_as_none(value: str, config: Path) -> None:
    assert find_key(HUB, write(config, entry("hub.oxen.ai")) | {"OXEN_API_KEY": value}) == KEY


@pytest.mark.parametrize(
    "host",
    ["hub.oxen.ai", "https://hub.oxen.ai", "https://hub.oxen.ai/", "hub.oxen.ai/", "http://hub.oxen.ai",
     "HUB.oxen.ai", "https://hub.oxen.ai:443", " hub.oxen.ai "],
)  # fmt: skip
def test_a_host_is_found_however_it_is_written(host: str, config: Path) -> None:
    assert find_key(HUB, write(config, entry(host))) == KEY


@pytest.mark.parametrize(
    ("hub", "key"),
    [
        ("https://hub.oxen.ai", "one"),
        ("https://hub.oxen.ai/", "one"),
        ("https://hub.oxen.ai:443/api", "one"),
        ("https://Hub.Oxen.ai", "one"),
        ("http://localhost:3001", "two"),
        ("https://dev.hub.oxen.ai", "three"),
    ],
)
def test_each_host_has_its_own_key(hub: str, key: str, config: Path) -> None:
    hosts = [entry("hub.oxen.ai", "one"), entry("localhost:3001", "two"), entry("https://dev.hub.oxen.ai", "three")]

    assert find_key(hub, write(config, 'default_host = "dev.hub.oxen.ai"\n' + "".join(hosts))) == key


@pytest.mark.parametrize(
    "hub",
    [
        "https://oxen.ai",
        "https://evil.com",
        "https://hub.oxen.ai.evil.com",
        "https://hub.oxen.ai:444",
        "http://localhost",
    ],
)
def test_no_host_gets_anothers_key_not_even_the_default_ones(hub: str, config: Path) -> None:
    environ = write(config, 'default_host = "hub.oxen.ai"\n' + entry("hub.oxen.ai"))

    with pytest.raises(KeyRefused):
        find_key(hub, environ)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'default_host = "hub.oxen.ai"',
        "host_configs = 5",
        "host_configs = [5]",
        '[host_configs]\nhost = "hub.oxen.ai"',
        '[[host_configs]]\nhost = "hub.oxen.ai"',
        "[[host_configs]]\nhost = 5\nauth_token = 'k'",
        "[[host_configs]]\nauth_token = 'k'",
        '[[host_configs]]\nhost = "hub.oxen.ai"\nauth_token = 5',
        entry("hub.oxen.ai", "  "),
        entry("hub.other.ai"),
        entry("https://[broken"),
        entry(""),
    ],
)
def test_a_missing_key_names_both_ways_to_give_one_and_the_sandbox(text: str, config: Path) -> None:
    with pytest.raises(KeyRefused) as refused:
        find_key(HUB, write(config, text))

    told = str(refused.value)
    assert all(way in told for way in ("OXEN_API_KEY", "oxen config --auth hub.oxen.ai", str(config), "--sandbox"))
    assert refused.value.exit_code == 77


def test_a_missing_file_is_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused):
        find_key(HUB, {"OXEN_CONFIG_DIR": str(tmp_path / "nowhere")})


def test_an_empty_entry_does_not_hide_a_good_one(config: Path) -> None:
    assert find_key(HUB, write(config, entry("hub.oxen.ai") + entry("hub.oxen.ai", ""))) == KEY


@pytest.mark.parametrize(
    "text", [f"auth_token = {KEY}", f'auth_token = "{KEY}', b"\xff\xfe" + KEY.encode(), "[[[", "a = 1\na = 2"]
)
def test_a_broken_file_is_a_configuration_problem_that_does_not_tell_the_key(text: str | bytes, config: Path) -> None:
    with pytest.raises(ConfigProblem, match=CONFIG_FILE) as problem:
        find_key(HUB, write(config, text))

    assert problem.value.exit_code == 78
    assert "secret" not in str(problem.value)


def test_a_folder_in_the_files_place_is_a_configuration_problem(config: Path) -> None:
    config.mkdir()

    with pytest.raises(ConfigProblem, match="cannot be read"):
        find_key(HUB, {"OXEN_CONFIG_DIR": str(config.parent)})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(mode: int, config: Path) -> None:
    with pytest.raises(ConfigProblem, match="chmod 600") as problem:
        find_key(HUB, write(config, entry("hub.oxen.ai"), mode))

    assert KEY not in str(problem.value)


def test_an_open_file_without_a_key_for_this_hub_is_nobodys_business(config: Path) -> None:
    with pytest.raises(KeyRefused):
        find_key(HUB, write(config, entry("hub.other.ai"), 0o644))


def test_a_word_in_the_hubs_address_is_not_told() -> None:
    with pytest.raises(KeyRefused) as refused:
        find_key("https://user:secret@hub.oxen.ai", {"OXEN_CONFIG_DIR": "/nowhere"})

    assert "secret" not in str(refused.value)


def test_settings_are_where_the_oxen_tools_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ox")

    assert config_folder({}) == Path("/home/ox/.config/oxen")
    assert config_folder({"OXEN_CONFIG_DIR": ""}) == Path("/home/ox/.config/oxen")
    assert config_folder({"OXEN_CONFIG_DIR": "~/keys"}) == Path("/home/ox/keys")


# -- a key that may stand in a header ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, f" {KEY}\n", "a.b-c_d~e+f/g="])
def test_a_sound_key_is_taken_without_the_spaces_around_it(key: str) -> None:
    assert check_key(key) == key.strip()


@pytest.mark.parametrize(
    "key",
    ["", " ", "\n", "secret\nword", "secret\r\nX-Evil: 1", "secret word", "secret\tword", "secret\0word", "secret\x7f",
     "secret\x1b[2J", "sécret", "secret\u200b", "“secret”", "密钥"],
)  # fmt: skip
def test_a_key_that_no_hub_gave_is_refused_and_never_echoed(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigProblem, match="OXEN_API_KEY") as problem:
        Hub(HUB, key)

    for told in (str(problem.value), repr(problem.value), caplog.text):
        assert "secret" not in told
        assert "word" not in told


@pytest.mark.parametrize("key", ['"secret"', "'secret'", '"secret', "`secret`"])
def test_a_key_in_quotes_is_refused_before_the_hub_refuses_it(key: str) -> None:
    with pytest.raises(ConfigProblem, match="quotes"):
        check_key(key)


def test_a_hub_does_not_show_its_key() -> None:
    hub = Hub(HUB, KEY)

    assert repr(hub) == "<Hub https://hub.oxen.ai:443>"
    assert KEY not in str(hub)
