"""One folder holds one server's records; options that concern servers are checked before any is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvcatalog.errors import InvalidOptionError, WrongServerError
from nvcatalog.options import is_offline_here, parse_timeout
from nvcatalog.servers import check_server

FOLDER = Path("/data/neurovault")
REAL, MIRROR = "https://neurovault.org", "http://mirror.example:8080"


def test_the_first_server_asked_gives_the_catalog_its_name() -> None:
    assert check_server(REAL, None, FOLDER) == REAL


def test_the_scheme_makes_no_other_server() -> None:
    assert check_server(REAL, "http://neurovault.org", FOLDER) == "http://neurovault.org"


def test_nor_does_a_slash_at_the_end() -> None:
    assert check_server(REAL, f"{REAL}/", FOLDER) == f"{REAL}/"
    assert check_server(f"{MIRROR}/a", f"{MIRROR}/a/", FOLDER) == f"{MIRROR}/a/"


def test_two_servers_below_one_host_are_two_servers() -> None:
    with pytest.raises(WrongServerError, match=rf"filled from {MIRROR}/a, .*from {MIRROR}/b"):
        check_server(f"{MIRROR}/b", f"{MIRROR}/a", FOLDER)
    with pytest.raises(WrongServerError):
        check_server(MIRROR, f"{MIRROR}/a", FOLDER)


def test_a_folder_that_names_only_its_host_may_be_of_any_path_there() -> None:
    assert check_server(f"{MIRROR}/a", MIRROR, FOLDER) == MIRROR


def test_two_servers_are_not_mixed_and_the_message_says_what_to_do() -> None:
    with pytest.raises(WrongServerError, match=rf"filled from {REAL}.*NVCATALOG_MIRROR_OF={REAL}"):
        check_server(MIRROR, REAL, FOLDER)


def test_a_declared_mirror_stands_for_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_MIRROR_OF", f"{REAL}/")
    assert check_server(MIRROR, None, FOLDER) == REAL
    assert check_server(MIRROR, REAL, FOLDER) == REAL
    with pytest.raises(WrongServerError):
        check_server(MIRROR, "https://elsewhere.example", FOLDER)


@pytest.mark.parametrize(
    ("text", "offline"), [("", False), ("0", False), ("no", False), ("1", True), (" yes", True)]
)
def test_the_environment_can_forbid_every_request(
    text: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_OFFLINE", text)
    assert is_offline_here() is offline


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, None, "10"])
def test_a_timeout_is_a_number_of_seconds(timeout: object) -> None:
    assert parse_timeout(2) == 2.0
    with pytest.raises(InvalidOptionError, match="give seconds above 0"):
        parse_timeout(timeout)
