"""With extras=True, what lies beside the maps comes too: labels, surfaces, packs of NIDM results."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import fetch as fetch
from fetching import ids
from fetching import no_waiting as no_waiting

from nvcatalog import Catalog
from nvcatalog.demo import World, faults
from nvcatalog.errors import IncompleteWarning, LabelsError

if TYPE_CHECKING:
    from fetching import Fetch

    from nvcatalog.demo import DemoServer

pytestmark = pytest.mark.usefixtures("no_waiting")
ATLAS, MAP, HELD = 14227, 3, 8718
REGIONS = ["Left pole & gyrus", "Right pole"]
KINDS = ["labels", "nidm_ttl", "nidm_zip", "surface_left", "surface_right"]


@pytest.fixture
def world() -> World:
    """Return an atlas with labels, a map with surfaces, and a pack of two maps."""
    world = World.empty()
    world.add_collection(id=3, images=[{"id": MAP}])
    world.add_collection(id=1197, images=[{"id": ATLAS, "image_type": "atlas"}])
    world.add_labels(ATLAS, REGIONS)
    world.add_surfaces(MAP)
    world.add_nidm_pack(3, "spm_example.nidm")
    return world


def extras_of(maps: Any) -> dict[tuple[int | None, str], str]:
    return {(o.id, (o.reason or "").partition(":")[0]): o.status for o in maps.report if o.kind == "extra"}


def rows(data_dir: Path, query: str) -> list[tuple[Any, ...]]:
    return Catalog(data_dir).sql(query).fetchall()


def test_everything_beside_the_maps_comes_and_is_in_the_catalog(
    fetch: Fetch, world: World, server: DemoServer, data_dir: Path
) -> None:
    (pack,) = world.pack_ids()
    maps = fetch(collection_ids=[3, 1197], extras=True)
    assert maps.report.counts == {"downloaded": 4 + 5}
    files = rows(data_dir, "SELECT kind, path, size FROM files WHERE kind <> 'original' ORDER BY kind")
    assert [kind for kind, _, _ in files] == KINDS
    folder = data_dir / "neurovault"
    assert all((folder / path).stat().st_size == size for _, path, size in files)
    assert zipfile.is_zipfile(folder / f"collection_3/nidm_{pack}.zip")
    assert Catalog(data_dir).labels(ATLAS) == list(enumerate(REGIONS))

    server.reset_log()
    for mode in ("download_new", "offline"):
        again = fetch(collection_ids=[3, 1197], extras=True, mode=mode)
        assert set(extras_of(again).values()) == {"cached"}
    assert server.requests == 0


def test_without_being_asked_for_they_do_not_come(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    maps = fetch(collection_ids=[3, 1197])
    assert maps.report.counts == {"downloaded": 4}
    assert not server.hits("/collections/*")
    with pytest.raises(LabelsError, match=r"image 14227 has no label file .* fetch it with extras=True"):
        Catalog(data_dir).labels(ATLAS)
    assert len(extras_of(fetch(collection_ids=[3, 1197], extras=True))) == 5


def test_a_pack_comes_with_any_of_its_images(fetch: Fetch, world: World, data_dir: Path) -> None:
    (pack,) = world.pack_ids()
    fetch(collection_ids=[3])
    held = [id_ for (id_,) in rows(data_dir, f"SELECT image_id FROM nidm_packs WHERE pack_id = {pack}")]
    assert len(held) == 2
    assert set(extras_of(fetch(image_ids=[held[0]], extras=True))) == {(pack, "nidm_zip"), (pack, "nidm_ttl")}
    assert set(extras_of(fetch(image_ids=[MAP], extras=True))) == {(MAP, "surface_left"), (MAP, "surface_right")}


def test_packs_are_listed_where_a_collection_counts_more_than_its_images(
    fetch: Fetch, world: World, server: DemoServer, data_dir: Path
) -> None:
    fetch(collection_ids=[3, 1197])
    assert [hit.path for hit in server.hits("*nidm_results*")] == ["/api/collections/3/nidm_results/"]
    assert len(rows(data_dir, "SELECT * FROM nidm_packs")) == 2


def test_one_that_is_lost_on_the_server_is_reported_remembered_and_costs_no_map(
    fetch: Fetch, server: DemoServer, data_dir: Path
) -> None:
    server.fail("*.gii", faults.status(404))
    with pytest.warns(IncompleteWarning, match="extra 3 not_found .surface_left: HTTP 404"):
        maps = fetch(collection_ids=[3], extras=True)
    assert MAP in ids(maps)
    server.reset_log()
    with pytest.warns(IncompleteWarning, match="surface_left: HTTP 404"):
        fetch(collection_ids=[3], extras=True)
    assert server.requests == 0
    server.heal()
    assert set(extras_of(fetch(collection_ids=[3], extras=True, mode="overwrite")).values()) == {"downloaded"}
    assert set(extras_of(fetch(collection_ids=[3], extras=True)).values()) == {"cached"}


def test_one_that_is_gone_from_the_disk_is_fetched_again(fetch: Fetch, data_dir: Path) -> None:
    fetch(collection_ids=[1197], extras=True)
    (data_dir / "neurovault/collection_1197/image_14227_labels.xml").unlink()
    with pytest.warns(IncompleteWarning, match="extra 14227 missing_offline .labels: not here"):
        fetch(collection_ids=[1197], extras=True, mode="offline")
    assert extras_of(fetch(collection_ids=[1197], extras=True)) == {(ATLAS, "labels"): "downloaded"}


def test_those_of_a_private_collection_come_with_its_token_and_are_in_no_snapshot(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    import pandas as pd

    world.make_private(3, "ABCDEFGH")
    assert set(extras_of(fetch(collection_ids=["ABCDEFGH", 1197], extras=True)).values()) == {"downloaded"}
    snapshot = Catalog(data_dir).snapshot()
    assert pd.read_parquet(snapshot / "files")["image_id"].unique().tolist() == [ATLAS]
    assert pd.read_parquet(snapshot / "nidm_packs").empty
    assert set(pd.read_parquet(snapshot / "raw_records")["id"]) == {1197, ATLAS}
    assert set(pd.read_parquet(snapshot / "outcomes")["id"]) == {ATLAS}


def test_packs_that_could_not_be_had_are_reported_and_asked_for_again(
    fetch: Fetch, server: DemoServer, data_dir: Path
) -> None:
    server.fail("/api/collections/3/nidm_results/*", faults.status(503))
    with pytest.warns(IncompleteWarning, match="collection 3 failed .its NIDM packs"):
        fetch(collection_ids=[3], extras=True)
    server.heal()
    assert {kind for _, kind in extras_of(fetch(collection_ids=[3], extras=True))} >= {"nidm_zip", "nidm_ttl"}
    assert len(rows(data_dir, "SELECT * FROM nidm_packs")) == 2


def test_a_pack_comes_with_an_image_whose_collection_was_never_listed(
    fetch: Fetch, world: World, server: DemoServer
) -> None:
    (pack,), held = world.pack_ids(), world.image_ids(3)[-1]
    wanted = {(pack, "nidm_zip"), (pack, "nidm_ttl")}
    plan = fetch(image_ids=[held], extras=True, dry_run=True)
    assert plan.extras_to_fetch == 2
    assert extras_of(fetch(image_ids=[held], extras=True)) == dict.fromkeys(wanted, "downloaded")
    assert len(server.hits("*nidm_results*")) == 1
    server.reset_log()
    assert extras_of(fetch(image_ids=[held], extras=True)) == dict.fromkeys(wanted, "cached")
    assert server.requests == 0


def test_an_image_whose_pack_is_unknown_says_so(fetch: Fetch, world: World, server: DemoServer) -> None:
    held, lone = world.image_ids(3)[-1], world.add_image(3, {"image_type": "NIDM results statistic map"})
    world.edit_image(lone, nidm_results="/collections/3/lost.nidm")
    fetch(image_ids=[held])
    with pytest.warns(IncompleteWarning, match="nidm_zip: its NIDM pack was never listed"):
        fetch(image_ids=[held], extras=True, mode="offline")
    server.fail("/api/collections/3/nidm_results/", faults.status(503))
    with pytest.warns(IncompleteWarning, match="nidm_zip: its NIDM packs: "):
        assert extras_of(fetch(image_ids=[held], extras=True)) == {(held, "nidm_zip"): "failed"}
    server.heal()
    for asks in (1, 0):
        server.reset_log()
        with pytest.warns(IncompleteWarning, match="collection 3 lists no NIDM pack with this image"):
            assert (lone, "nidm_zip") in extras_of(fetch(image_ids=[held, lone], extras=True))
        assert len(server.hits("*nidm_results*")) == asks


def test_what_cannot_be_renewed_is_kept(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch(collection_ids=[1197], extras=True)
    server.fail("*.xml", faults.status(404))
    with pytest.warns(IncompleteWarning, match="extra 14227 kept_old"):
        fetch(collection_ids=[1197], extras=True, mode="overwrite")
    assert Catalog(data_dir).labels(ATLAS) == list(enumerate(REGIONS))


def test_a_dry_run_counts_them(fetch: Fetch, server: DemoServer) -> None:
    plan = fetch(collection_ids=[3, 1197], extras=True, dry_run=True)
    assert plan.extras_to_fetch == 5
    assert "5 files beside them to fetch" in repr(plan)
    assert not server.hits("*.gii")
