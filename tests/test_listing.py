"""Lists and records land as they come; what a call knows afterwards is what the server said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import PATIENCE_S, hold_until_together

from nvcatalog._store import Store
from nvcatalog.client import NeuroVault
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.known import Known, KnownImage, LocalFile, Refusal
from nvcatalog.landing import Lander
from nvcatalog.listing import Lister
from nvcatalog.plan import ToList
from nvcatalog.report import Outcome
from nvcatalog.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = 900


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.001)


class Bench:
    """A lister with everything around it, as a fetch has it."""

    def __init__(self, vault: NeuroVault, folder: Path) -> None:
        folder.mkdir()
        self.vault = vault
        self.store = Store(folder)
        self.known = Known()
        self.lander = Lander(self.store, writable=True)
        self.lister = Lister(vault, self.known, self.lander, verbose=0)

    def run(self, collections: tuple[int, ...] = (), images: tuple[int, ...] = (), **options: Any) -> Any:
        return self.lister.run(ToList(collections, images), **options)

    def landed(self, collections: tuple[int, ...] = (), images: tuple[int, ...] = ()) -> Known:
        self.lander.land()
        return self.store.known(collections, images)


@pytest.fixture
def bench(server: DemoServer, tmp_path: Path) -> Iterator[Bench]:
    with Servers(timeout_s=PATIENCE_S) as servers:
        yield Bench(servers.neurovault, tmp_path / "neurovault")


def refusal(kind: str, id_: int, *, modified: datetime | None = None) -> Refusal:
    seen = datetime.now(UTC) - timedelta(hours=1)
    return Refusal(kind, id_, "not_found", "HTTP 404", modified, seen)


def test_a_collection_is_known_with_all_its_images(server: DemoServer, world: World, bench: Bench) -> None:
    assert bench.run((555,)) == {}
    assert bench.known.images_of(555) == world.image_ids(555)
    collection = bench.known.collections[555]
    assert (collection.complete, collection.listed_count, collection.fresh) == (True, 20, True)
    assert all(bench.known.images[id_].fresh for id_ in world.image_ids(555))
    assert server.requests == 2


def test_most_collections_take_one_page(server: DemoServer, world: World, bench: Bench) -> None:
    ids = world.add_synthetic(BIG, 249, first_id=50_001, file_bytes=1000)
    bench.run((BIG,))
    assert bench.known.images_of(BIG) == ids
    assert [hit.query for hit in server.log if hit.path.endswith("/images/")] == [{"limit": "250", "offset": "0"}]


def test_what_was_listed_lands(world: World, bench: Bench) -> None:
    bench.run((555,))
    known = bench.landed((555,))
    assert known.images_of(555) == world.image_ids(555)
    assert known.collections[555].complete
    assert known.collections[555].record == bench.known.collections[555].record


def test_record_and_list_may_come_in_either_order(server: DemoServer, world: World, bench: Bench) -> None:
    server.fail("/api/collections/555/", faults.slow(0.3))
    server.fail("/api/collections/3/images/", faults.slow(0.3))
    bench.run((555, 3))
    for id_ in (555, 3):
        assert bench.landed((id_,)).collections[id_].complete


def test_two_connections_are_enough(server: DemoServer, bench: Bench) -> None:
    hold_until_together(server, "/api/*", 2)
    bench.run(tuple(bench_id for bench_id in server.world.collection_ids()), (10426,))
    assert server.peak_connections["api"] == 2
    assert server.connections_opened == 2


def test_single_images_bring_their_collections_records_and_not_their_lists(
    server: DemoServer, bench: Bench
) -> None:
    bench.run(images=(9034, 9035))
    assert sorted(hit.path for hit in server.log) == [
        "/api/collections/555/",
        "/api/images/9034/",
        "/api/images/9035/",
    ]
    assert not bench.known.collections[555].complete


def test_known_parents_are_read_again_only_on_request(server: DemoServer, bench: Bench) -> None:
    bench.run(images=(9034,))
    server.reset_log()
    bench.run(images=(9035,))
    assert [hit.path for hit in server.log] == ["/api/images/9035/"]
    bench.run(images=(9036,), refresh_parents=True)
    assert [hit.path for hit in server.log][1:] == ["/api/images/9036/", "/api/collections/555/"]


@pytest.mark.parametrize("late", ["/api/collections/3/", "/api/collections/3/images/"])
def test_a_list_counts_as_read_once_its_packs_are_too(
    server: DemoServer, world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    pack = world.add_nidm_pack(3, "spm_example.nidm")
    server.fail(late, faults.slow(0.2))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bench.lister, "_put_packs", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run((3,))
    assert not bench.landed((3,)).collections[3].complete
    with Servers(timeout_s=PATIENCE_S) as servers:
        lister = Lister(servers.neurovault, bench.landed((3,)), bench.lander, verbose=0)
        assert lister.run(ToList((3,))) == {}
    assert bench.landed((3,)).collections[3].complete
    with bench.store.reading() as connection:
        assert connection.execute("SELECT DISTINCT pack_id FROM nidm_packs").fetchall() == [(pack,)]


def test_an_image_that_a_list_lacks_is_gone_though_its_packs_cannot_be_had(
    server: DemoServer, world: World, bench: Bench
) -> None:
    world.add_nidm_pack(555, "spm_example.nidm")
    bench.run((555,))
    world.delete_image(9034)
    server.fail("/api/collections/555/nidm_results/", faults.status(503))
    assert bench.run((555,))["collection", 555].status == "failed"
    known = bench.landed((555,))
    assert known.images[9034].gone
    assert bench.known.images[9034].gone
    assert not known.collections[555].complete


def test_a_file_that_is_here_stays_known(bench: Bench) -> None:
    file = LocalFile("collection_555/image_9034.nii.gz", 7, "present")
    bench.known.images[9034] = KnownImage(9034, 555, {"id": 9034, "collection_id": 555}, file=file)
    bench.run((555,))
    assert bench.known.images[9034].file == file
    assert len(bench.known.images[9034].record) == 55


# What is not there


def test_each_id_that_gives_nothing_has_an_outcome(world: World, bench: Bench) -> None:
    world.make_private(3, "ABCDEFGH")
    world.poison_image(9034)
    outcomes = bench.run((777, 3), (9034, 888_888))
    assert {key: outcome.status for key, outcome in outcomes.items()} == {
        ("collection", 777): "not_found",
        ("collection", 3): "private",
        ("image", 9034): "broken_on_server",
        ("image", 888_888): "not_found",
    }
    refusals = bench.landed((777, 3), (9034, 888_888)).refusals
    assert {key: refusal.status for key, refusal in refusals.items()} == {
        key: outcome.status for key, outcome in outcomes.items()
    }


@pytest.mark.parametrize("late", ["/api/collections/777/", "/api/collections/777/images/"])
def test_a_collections_own_answer_says_why_whichever_comes_first(
    server: DemoServer, bench: Bench, late: str
) -> None:
    server.fail(late, faults.slow(0.2))
    reason = "HTTP 404 for /api/collections/777/"
    assert bench.run((777,)) == {("collection", 777): Outcome("collection", 777, "not_found", reason)}
    assert bench.landed((777,)).refusals["collection", 777].reason == reason


def test_trouble_that_may_pass_is_no_refusal(server: DemoServer, bench: Bench) -> None:
    server.fail("/api/collections/555/*", faults.status(503))
    server.fail("/api/images/10426/", faults.status(403))
    outcomes = bench.run((555,), (10426,))
    assert {outcome.status for outcome in outcomes.values()} == {"failed"}
    assert bench.known.refusals == {}
    assert bench.landed((555,), (10426,)).refusals == {}


def test_images_of_a_collection_that_cannot_be_rendered_are_known(world: World, bench: Bench) -> None:
    world.poison_collection(555)
    outcomes = bench.run((555,))
    assert {key: outcome.status for key, outcome in outcomes.items()} == {("collection", 555): "broken_on_server"}
    assert bench.known.images_of(555) == world.image_ids(555)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("trouble", [faults.status(503), faults.empty_page()], ids=lambda fault: fault.name)
def test_a_broken_collection_is_not_left_alone_before_its_list_has_come(
    server: DemoServer, world: World, bench: Bench, late: bool, trouble: faults.Fault
) -> None:
    world.poison_collection(555)
    server.fail("/api/collections/555/images/", faults.together(trouble, faults.slow(0.1)) if late else trouble)
    if not late:
        server.fail("/api/collections/555/", faults.together(faults.status(500), faults.slow(0.3)))
    (outcome,) = bench.run((555,)).values()
    assert outcome.status == "failed"
    assert "its list: " in str(outcome.reason)
    assert "cannot render this record" in str(outcome.reason)
    assert bench.known.refusals == bench.landed((555,)).refusals == {}


def test_what_a_list_lacks_is_known_where_the_collections_own_record_is_broken(world: World, bench: Bench) -> None:
    world.poison_collection(555)
    world.poison_image(9034)
    bench.run((555,))
    known = bench.landed((555,))
    assert [place.reason for place in known.positions[555]] == ["record 1 of collection 555"]
    assert known.refusals["collection", 555].status == "broken_on_server"


@pytest.mark.usefixtures("pages_of_100")
def test_pages_before_the_trouble_are_known_and_the_collection_is_not_complete(
    server: DemoServer, world: World, bench: Bench
) -> None:
    ids = world.add_synthetic(BIG, 250, first_id=50_001, file_bytes=1000)
    server.fail(f"/api/collections/{BIG}/images/", faults.status(503), after=1)
    outcomes = bench.run((BIG,))
    assert outcomes["collection", BIG].status == "failed"
    known = bench.landed((BIG,))
    assert known.images_of(BIG) == ids[:100]
    assert not known.collections[BIG].complete
    server.heal()
    assert bench.run((BIG,)) != {}  # what went wrong in this call stays in its outcomes
    assert bench.landed((BIG,)).collections[BIG].complete


def test_a_list_that_comes_short_is_not_complete(server: DemoServer, bench: Bench) -> None:
    server.fail("/api/collections/555/images/", faults.empty_page())
    (outcome,) = bench.run((555,)).values()
    assert outcome[:3] == ("collection", 555, "failed")
    assert outcome.reason == "the server counts 20 images and listed 0; call again"
    assert not bench.landed((555,)).collections[555].complete


@pytest.mark.usefixtures("pages_of_100")
def test_a_list_that_does_not_stand_still_says_so(server: DemoServer, world: World, bench: Bench) -> None:
    world.add_synthetic(BIG, 150, first_id=50_001, file_bytes=1000)

    def grow(answer: Any) -> Any:
        world.add_image(BIG)
        return answer

    server.fail(f"/api/collections/{BIG}/images/", faults.Fault("grows", grow))
    (outcome,) = bench.run((BIG,)).values()
    assert "changed while it was listed" in (outcome.reason or "")


# Broken records


def test_places_of_broken_records_are_remembered_until_they_are_mended(world: World, bench: Bench) -> None:
    for id_ in (9034, 9040):
        world.poison_image(id_)
    assert bench.run((555,)) == {}
    known = bench.landed((555,))
    assert [(place.id, place.position, place.reason) for place in known.positions[555]] == [
        (555, 1, "record 1 of collection 555"),
        (555, 7, "record 7 of collection 555"),
    ]
    assert known.collections[555].complete
    world.cure(9034)
    bench.run((555,))
    known = bench.landed((555,))
    assert [place.position for place in known.positions[555]] == [7]
    assert known.images_of(555) == [id_ for id_ in world.image_ids(555) if id_ != 9040]


def test_a_collection_of_broken_records_only_is_complete_and_says_so(world: World, bench: Bench) -> None:
    for id_ in world.image_ids(555):
        world.poison_image(id_)
    assert bench.run((555,)) == {}
    known = bench.landed((555,))
    assert [place.position for place in known.positions[555]] == list(range(1, 21))
    assert known.collections[555].complete
    assert known.images_of(555) == []


# What has changed


def test_an_image_that_is_gone_from_a_whole_list_is_gone(world: World, bench: Bench) -> None:
    bench.run((555,))
    world.delete_image(9034)
    bench.run((555,))
    assert bench.known.images[9034].gone
    assert bench.landed((555,)).images[9034].gone


def test_an_image_that_the_server_cannot_render_any_more_is_not_gone(world: World, bench: Bench) -> None:
    bench.run((555,))
    world.poison_image(9034)
    bench.run((555,))
    assert bench.known.collections[555].complete
    assert not bench.known.images[9034].gone
    assert not bench.landed((555,)).images[9034].gone


def test_an_image_missing_from_part_of_a_list_is_not_gone(server: DemoServer, bench: Bench) -> None:
    bench.run((555,))
    server.fail("/api/collections/555/images/", faults.empty_page())
    bench.run((555,))
    assert not any(image.gone for image in bench.known.images.values())
    assert not any(image.gone for image in bench.landed((555,)).images.values())


def test_a_record_that_comes_refutes_what_was_refused_about_it(bench: Bench) -> None:
    for key in (("collection", 555), ("image", 9034)):
        bench.known.refusals[key] = refusal(*key)
        bench.lander.batch.add_refusal(bench.known.refusals[key])
    bench.lander.land()
    assert len(bench.landed((555,), (9034,)).refusals) == 2
    bench.run((555,))
    assert bench.known.refusals == {}
    assert bench.landed((555,), (9034,)).refusals == {}


def test_a_record_that_comes_does_not_refute_what_was_refused_about_its_file(bench: Bench) -> None:
    kept = refusal("image", 9034, modified=datetime(2020, 1, 1, tzinfo=UTC))
    bench.known.refusals["image", 9034] = kept
    bench.run((555,))
    assert bench.known.refusals == {("image", 9034): kept}


def test_an_interrupted_list_ends_at_once(
    server: DemoServer, world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_synthetic(BIG, 300, first_id=50_001, file_bytes=1000)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.lander, "land_if_due", interrupt)
    server.fail(f"/api/collections/{BIG}/images/", faults.retry_after(100), after=1)
    with pytest.raises(KeyboardInterrupt):
        bench.run((BIG,))  # without waiting out the 100 s
    with pytest.raises(Exception, match="interrupted"):
        bench.vault.collection(555)
