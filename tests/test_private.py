"""Private collections are fetched by their tokens, which stay in one table and nowhere else."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fetching import FOUR, ids, outcomes_of
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog
from nvcatalog.demo import faults
from nvcatalog.errors import IncompleteWarning, InvalidIdError
from nvcatalog.ids import Token, parse_ids, parse_ids_and_tokens

if TYPE_CHECKING:
    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")
TOKEN = "ABCDEFGH"


@pytest.fixture(autouse=True)
def private(world: World) -> None:
    """Make collection 3 private."""
    world.make_private(3, TOKEN)


def files_with_the_token(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.name for path in files if TOKEN.encode() in path.read_bytes())


@pytest.mark.parametrize("link", [TOKEN, f"https://neurovault.org/collections/{TOKEN}/"])
def test_a_private_collection_comes_by_its_token_or_link(fetch: Fetch, link: str) -> None:
    maps = fetch(collection_ids=[link, 658])
    assert ids(maps) == [*FOUR, 10426]
    assert maps.report.counts == {"downloaded": 5}
    assert "{token}" in maps.images_meta[0]["file"]


@pytest.mark.parametrize("link", [f"{TOKEN}-4", f"https://neurovault.org/collections/{TOKEN}/images/4/"])
def test_an_image_of_it_comes_with_the_token_before_its_id(fetch: Fetch, link: str) -> None:
    maps = fetch(image_ids=[10426, link])
    assert ids(maps) == [10426, 4]
    assert maps.report.counts == {"downloaded": 2}


def test_once_opened_it_is_known_by_its_id_and_its_token(fetch: Fetch, server: DemoServer, world: World) -> None:
    fetch(image_ids=[f"{TOKEN}-4"])
    assert ids(fetch(collection_ids=[3])) == FOUR
    server.reset_log()
    assert ids(fetch(collection_ids=[TOKEN])) == FOUR
    assert ids(fetch(collection_ids=[TOKEN], mode="offline")) == FOUR
    assert server.requests == 0
    world.replace_file(4, world.image_bytes(10426))
    assert fetch(collection_ids=[3], mode="overwrite").report.counts == {"downloaded": 4}


@pytest.mark.parametrize("late", ["/api/images/4/", f"/api/collections/{TOKEN}/images/"])
def test_an_image_of_it_may_be_named_by_its_number_beside_the_token(
    fetch: Fetch, server: DemoServer, late: str
) -> None:
    server.fail(late, faults.slow(0.3))
    maps = fetch(collection_ids=[TOKEN], image_ids=[4])
    assert maps.report.counts == {"downloaded": 4}
    assert ids(fetch(image_ids=[4], mode="offline")) == [4]


def test_without_a_token_it_is_private(fetch: Fetch) -> None:
    with pytest.warns(IncompleteWarning, match="collection 3 private"):
        assert outcomes_of(fetch(collection_ids=[3]), "collection") == {3: "private"}
    with pytest.warns(IncompleteWarning, match="collection 3 private"):
        fetch(collection_ids=[3], mode="offline")
    assert ids(fetch(collection_ids=[TOKEN])) == FOUR
    assert ids(fetch(collection_ids=[3], mode="offline")) == FOUR


def test_a_wrong_token_is_not_found_and_not_repeated(fetch: Fetch, data_dir: Path) -> None:
    with pytest.warns(IncompleteWarning) as warned:
        maps = fetch(collection_ids=["WRONGONE"], image_ids=["WRONGONE-4", 10426])
    assert ids(maps) == [10426]
    assert outcomes_of(maps, "collection") == {None: "not_found"}
    assert all("WRONG" not in str(warning.message) for warning in warned)
    assert [outcome.reason for outcome in maps.report.missing] == ["no collection has this token"]


def test_offline_a_token_never_used_is_missing(fetch: Fetch) -> None:
    with pytest.warns(IncompleteWarning, match="never used here"):
        assert outcomes_of(fetch(collection_ids=[TOKEN], mode="offline"), "collection") == {
            None: "missing_offline"
        }


def test_the_token_is_in_one_table_and_in_no_file_log_or_message(
    fetch: Fetch,
    server: DemoServer,
    data_dir: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    fetch(collection_ids=[658])
    server.fail(f"/media/images/{TOKEN}/*", faults.status(404))
    with pytest.warns(IncompleteWarning) as warned:
        maps = fetch(collection_ids=[TOKEN], verbose=3)
    server.heal()
    fetch(collection_ids=[TOKEN], verbose=3, mode="overwrite")
    Catalog(data_dir).snapshot()

    assert files_with_the_token(data_dir) == ["catalog.duckdb"]
    said = [caplog.text, capfd.readouterr().err, repr(maps), *(str(warning.message) for warning in warned)]
    assert all(TOKEN not in text for text in said)
    assert "{token}" in caplog.text
    for (table,) in Catalog(data_dir).sql("SELECT table_name FROM information_schema.tables").fetchall():
        rows = Catalog(data_dir).sql(f"SELECT * FROM {table}").fetchall()
        assert (TOKEN in str(rows)) == (table == "access"), table
    parameters = Catalog(data_dir).sql("SELECT parameters FROM fetches WHERE parameters LIKE '%token%'").fetchall()
    assert len(parameters) == 2


def test_a_link_that_leads_elsewhere_does_not_tell_the_token(
    fetch: Fetch, world: World, server: DemoServer, data_dir: Path
) -> None:
    world.edit_image(3, file=f"http://elsewhere.example/{TOKEN}/x.nii.gz")
    spoilt = faults.Fault("other parts", lambda answer: replace(answer, body=bytes(len(answer.body))))
    server.fail(world.file_path(4).replace("/3/", f"/{TOKEN}/"), spoilt)
    with pytest.warns(IncompleteWarning, match=r"elsewhere\.example/\{token\}/x") as warned:
        maps = fetch(collection_ids=[TOKEN])
    assert all(TOKEN not in text for text in (str(list(maps.report)), *(str(each.message) for each in warned)))
    assert files_with_the_token(data_dir) == ["catalog.duckdb"]
    outcomes = (
        Catalog(data_dir).sql("SELECT reason FROM outcomes UNION ALL SELECT reason FROM refusals").fetchall()
    )
    assert TOKEN not in str(outcomes)


def test_its_rows_are_in_no_snapshot(fetch: Fetch, data_dir: Path) -> None:
    import pandas as pd

    fetch(collection_ids=[TOKEN, 658])
    snapshot = Catalog(data_dir).snapshot()
    assert pd.read_parquet(snapshot / "images")["image_id"].tolist() == [10426]
    assert pd.read_parquet(snapshot / "collections")["collection_id"].tolist() == [658]
    assert not (snapshot / "access").exists()


def test_a_token_does_not_show_itself() -> None:
    (token,) = parse_ids_and_tokens(f"{TOKEN}-4", kind="image")
    assert token == Token(TOKEN, 4)
    assert repr(token) == "{token}-4"
    with pytest.raises(InvalidIdError) as raised:
        parse_ids(TOKEN, kind="collection")
    assert TOKEN not in str(raised.value)
    with pytest.raises(InvalidIdError, match="as in ABCDEFGH-243"):
        parse_ids_and_tokens("QWERTYUI", kind="image")


def test_a_token_opens_images_too_that_were_refused_before(fetch: Fetch) -> None:
    with pytest.warns(IncompleteWarning, match="not_found"):
        fetch(image_ids=FOUR)
    assert fetch(collection_ids=[TOKEN]).report.counts == {"downloaded": 4}


# When it has become public


def asked_by_token(server: DemoServer) -> list[str]:
    return [hit.path for hit in server.log if TOKEN in hit.path]


@pytest.mark.parametrize("opens", [True, False])
@pytest.mark.parametrize("wanted", [{"collection_ids": [3]}, {"image_ids": FOUR}])
def test_what_has_become_public_is_no_longer_asked_for_by_its_token(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path, opens: bool, wanted: dict[str, list[int]]
) -> None:
    fetch(collection_ids=[TOKEN])
    world.make_public(3, token_opens=opens)
    maps = fetch(**wanted, mode="overwrite")
    assert (ids(maps), maps.report.counts) == (FOUR, {"downloaded": 4})
    assert all("{token}" not in meta["file"] for meta in maps.images_meta)
    assert Catalog(data_dir).sql("FROM access").fetchall() == []
    server.reset_log()
    assert fetch(**wanted, mode="overwrite").report.counts == {"downloaded": 4}
    assert asked_by_token(server) == []


@pytest.mark.parametrize("opens", [True, False])
def test_a_sync_forgets_tokens_of_what_the_list_of_collections_holds(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path, opens: bool
) -> None:
    fetch(collection_ids=[TOKEN])
    world.make_public(3, token_opens=opens)
    server.reset_log()
    assert Catalog(data_dir).sync(verbose=0).complete
    assert asked_by_token(server) == []
    assert Catalog(data_dir).sql("FROM access").fetchall() == []
    assert fetch(image_ids=FOUR).report.counts == {"cached": 4}


def test_a_token_stays_when_it_is_tried_on_an_image_of_a_public_collection(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    # The server does not look at the token of a public image, nor does it open a private one of elsewhere.
    fetch(collection_ids=[TOKEN])
    assert ids(fetch(image_ids=[f"{TOKEN}-10426"])) == [10426]
    world.edit_image(8719, collection_id=1058, collection="/collections/1058/")
    with pytest.warns(IncompleteWarning, match="image 8719 kept_old"):  # its file has stayed where it was
        fetch(image_ids=[f"{TOKEN}-8719"], mode="overwrite")
    assert Catalog(data_dir).sql("SELECT collection_id FROM access").fetchall() == [(3,)]
    assert ids(fetch(collection_ids=[3], mode="overwrite")) == [3, 4, 8718]


def test_a_token_of_what_is_public_is_not_kept(fetch: Fetch, world: World, data_dir: Path) -> None:
    world.make_public(3)
    assert ids(fetch(collection_ids=[TOKEN])) == FOUR
    assert Catalog(data_dir).sql("FROM access").fetchall() == []


def test_what_is_gone_is_not_taken_for_public(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[TOKEN])
    world.delete_image(4)
    with pytest.warns(IncompleteWarning, match="image 4 kept_old"):
        fetch(image_ids=[4], mode="overwrite")
    assert Catalog(data_dir).sql("SELECT collection_id FROM access").fetchall() == [(3,)]


@pytest.mark.parametrize("opens", [True, False])
def test_a_file_whose_link_held_the_token_still_comes(
    fetch: Fetch, world: World, data_dir: Path, opens: bool
) -> None:
    fetch(collection_ids=[TOKEN], dry_run=True)
    world.make_public(3, token_opens=opens)
    fetch(image_ids=[3])
    assert fetch(image_ids=FOUR).report.counts == {"cached": 1, "downloaded": 3}
