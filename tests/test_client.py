"""What NeuroVault answers is checked before it is believed, and lists end, complete or known to be not."""

from __future__ import annotations

import json
import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from waiting import PATIENCE_S, then_patient

from nvcatalog import _http
from nvcatalog._http import Service
from nvcatalog.client import LARGEST_PAGE, ImageList, NeuroVault, root
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import HostGivenUpError, RefusedError, TransientError
from nvcatalog.records import pack_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nvcatalog.demo.wire import Answer

BIG = 900  # a collection that World.demo has not


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, pages_of_100: None) -> None:
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.001)


@pytest.fixture
def service(server: DemoServer) -> Iterator[Service]:
    with closing(Service("NeuroVault", server.neurovault_url, connections=2, timeout_s=PATIENCE_S)) as service:
        yield service


@pytest.fixture
def vault(service: Service) -> NeuroVault:
    return NeuroVault(service)


def add_images(world: World, count: int) -> list[int]:
    return world.add_synthetic(BIG, count, first_id=50_001, file_bytes=1000)


def read_list(vault: NeuroVault, collection_id: int = BIG) -> ImageList:
    listing = ImageList()
    for _, listing in vault.images_of(collection_id):  # noqa: B007 - the last one is the whole
        pass
    return listing


def pages(server: DemoServer, collection_id: int = BIG) -> list[tuple[int, int]]:
    """Return offset and limit of each page asked for."""
    hits = server.hits(f"/api/collections/{collection_id}/images/")
    return [(int(hit.query["offset"]), int(hit.query["limit"])) for hit in hits]


def meanwhile(happen: Callable[[], object]) -> faults.Fault:
    """Let something happen on the server behind an answer."""

    def change(answer: Answer) -> Answer:
        happen()
        return answer

    return faults.Fault("something happens", change)


def edited(edit: Callable[[Any], Any]) -> faults.Fault:
    return faults.rewrite(lambda body: json.dumps(edit(json.loads(body))).encode())


# Links


@pytest.mark.parametrize("original", ["https://neurovault.org", "http://other.example:81/nv"])
def test_a_mirror_names_its_original_in_every_link_and_is_asked_for_what_they_lead_to(
    server: DemoServer, world: World, vault: NeuroVault, original: str
) -> None:
    world.add_nidm_pack(555, "pack")
    world.edit_image(9034, description=f"see {server.neurovault_url}/images/9034/")
    vault.stand_for(original)
    given = [vault.collection(555), vault.image(9034), *(pack for page, _ in vault.packs_of(555) for pack in page)]
    assert given[0]["url"] == f"{original}/collections/555/"
    assert given[1]["description"] == f"see {server.neurovault_url}/images/9034/"
    assert given[2]["statmaps"][0]["file"].startswith(f"{original}/media/images/555/pack/")
    assert vault.file_url(given[1]) == world.file_path(9034).lstrip("/")
    assert vault.file_url({"file": f"{server.neurovault_url}/media/x.nii.gz"}) == "media/x.nii.gz"
    with pytest.raises(RefusedError, match="leads elsewhere"):
        vault.file_url({"file": "https://elsewhere.example/media/x.nii.gz"})


# Single records


def test_records_come_as_the_server_gives_them(server: DemoServer, world: World, vault: NeuroVault) -> None:
    collection, image = world.collection(555), world.image(9034)
    assert collection is not None
    assert image is not None
    assert vault.collection(555)["name"] == collection["name"]
    assert vault.image(9034)["file_size"] == image["file_size"]
    assert [hit.path for hit in server.log] == ["/api/collections/555/", "/api/images/9034/"]


def test_an_id_written_as_text_is_the_same_id(server: DemoServer, vault: NeuroVault) -> None:
    server.fail("/api/images/9034/", edited(lambda record: record | {"id": "9034"}))
    assert vault.image(9034)["id"] == "9034"


def test_what_does_not_exist_is_not_found(vault: NeuroVault) -> None:
    for ask in (vault.collection, vault.image):
        with pytest.raises(RefusedError, match="HTTP 404") as caught:
            ask(999_999)
        assert (caught.value.status, caught.value.lasting) == ("not_found", True)


def test_what_the_api_forbids_is_private(world: World, vault: NeuroVault) -> None:
    world.make_private(555, "ABCDEFGH")
    for ask in (vault.collection, lambda id_: read_list(vault, id_)):
        with pytest.raises(RefusedError, match="HTTP 403") as caught:
            ask(555)
        assert (caught.value.status, caught.value.lasting) == ("private", True)


@pytest.mark.parametrize("code", [400, 401, 405, 406, 410, 418])
def test_any_other_refusal_is_not_remembered(server: DemoServer, vault: NeuroVault, code: int) -> None:
    server.fail("/api/images/9034/", faults.api_error(code, "No."))
    with pytest.raises(RefusedError, match=f"HTTP {code}.*No") as caught:
        vault.image(9034)
    assert (caught.value.status, caught.value.lasting) == ("failed", False)


@pytest.mark.parametrize(
    "trouble",
    [
        faults.html(),
        faults.status(404),
        faults.cut_json(),
        faults.nan_json(),
        faults.wrong_bytes(b""),
        faults.wrong_bytes(b'{"id": Infinity}'),
        faults.wrong_bytes(b'{"id": 9034, "age": 1e999}'),
        faults.wrong_bytes(b"\xff\xfe"),
        faults.wrong_bytes(b'"\xed\xa0\x80"'),
        faults.wrong_bytes(b"[" * 100_000),
        faults.wrong_bytes(b'{"id": 9034} {"id": 9034}'),
        faults.wrong_bytes(b"9" * 5000),
    ],
    ids=lambda fault: fault.name,
)
def test_a_record_that_cannot_be_read_is_asked_for_again(
    server: DemoServer, vault: NeuroVault, trouble: faults.Fault
) -> None:
    fault = server.fail("/api/images/9034/", trouble, times=2)
    assert vault.image(9034)["id"] == 9034
    fault.remove()
    server.fail("/api/images/9034/", trouble)
    with pytest.raises(TransientError):
        vault.image(9034)


@pytest.mark.parametrize(
    "body", [[], [{"id": 9034}], None, 9034, "9034", {}, {"id": 9035}, {"id": True}, {"id": 9e99}]
)
def test_json_that_is_not_that_record_is_not_believed(server: DemoServer, vault: NeuroVault, body: object) -> None:
    server.fail("/api/images/9034/", faults.wrong_bytes(json.dumps(body).encode()))
    with pytest.raises(TransientError, match="not that record"):
        vault.image(9034)


def test_an_image_that_names_no_collection_has_no_place(server: DemoServer, vault: NeuroVault) -> None:
    server.fail("/api/images/9034/", edited(lambda record: record | {"collection_id": None, "collection": "?"}))
    with pytest.raises(RefusedError, match="names no collection") as caught:
        vault.image(9034)
    assert not caught.value.lasting


def test_a_record_the_server_cannot_render_is_broken(world: World, vault: NeuroVault) -> None:
    world.poison_image(9034)
    world.poison_collection(3)
    for ask, id_ in ((vault.image, 9034), (vault.collection, 3)):
        with pytest.raises(RefusedError, match="HTTP 500") as caught:
            ask(id_)
        assert (caught.value.status, caught.value.lasting) == ("broken_on_server", True)


def test_a_broken_record_where_the_probe_looks_first_does_not_mislead(world: World, vault: NeuroVault) -> None:
    first_image, first_collection = world.image_ids()[0], world.collection_ids()[0]
    world.poison_image(first_image)
    world.poison_collection(first_collection)
    with pytest.raises(RefusedError):
        vault.image(first_image)
    with pytest.raises(RefusedError):
        vault.collection(first_collection)


@pytest.mark.parametrize("pattern", ["/*", "/api/images/*"])
def test_a_sick_server_breaks_no_record(server: DemoServer, vault: NeuroVault, pattern: str) -> None:
    server.fail(pattern, faults.status(500))
    with pytest.raises(TransientError, match="HTTP 500"):
        vault.image(9034)


def test_a_server_that_renders_nothing_any_more_breaks_no_record(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    world.poison_image(9034)
    server.fail("/api/images/", faults.status(503))
    with pytest.raises(TransientError, match="HTTP 500"):
        vault.image(9034)


def test_many_broken_records_do_not_end_the_server(world: World, vault: NeuroVault, service: Service) -> None:
    for image_id in world.image_ids(555):
        world.poison_image(image_id)
    for _ in range(2):
        for image_id in world.image_ids(555):
            with pytest.raises(RefusedError):
                vault.image(image_id)
    assert service.health.given_up is None


# Lists: pages


def test_pages_grow_to_1000(server: DemoServer, world: World, vault: NeuroVault) -> None:
    ids = add_images(world, 2600)
    listing = read_list(vault)
    assert sorted(listing.ids) == ids
    assert listing.complete
    assert pages(server) == [(0, 100), (100, 200), (300, 400), (700, 800), (1500, 1000), (2500, 1000)]


def test_pages_do_not_grow_while_they_are_slow(
    server: DemoServer, world: World, vault: NeuroVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvcatalog.client._PAGE_PATIENCE_S", 0.0)
    add_images(world, 250)
    assert read_list(vault).complete
    assert pages(server) == [(0, 100), (100, 100), (200, 100)]


def test_a_list_that_leaves_room_on_a_page_costs_one_request(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 99)
    assert read_list(vault).complete
    assert pages(server) == [(0, 100)]


def test_behind_a_full_last_page_a_list_is_looked_for_more_since_the_count_may_be_too_low(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 100)
    assert read_list(vault).complete
    assert pages(server) == [(0, 100), (100, 200)]


def test_an_empty_collection_is_complete(world: World, vault: NeuroVault) -> None:
    world.add_collection(id=901)
    listing = read_list(vault, 901)
    assert (listing.ids, listing.complete) == (set(), True)


def test_pages_say_what_is_new_as_they_come(world: World, vault: NeuroVault) -> None:
    ids = add_images(world, 250)
    arrived = [[record["id"] for record in page] for page, _ in vault.images_of(BIG)]
    assert arrived == [ids[:100], ids[100:]]


def test_next_is_not_followed(server: DemoServer, world: World, vault: NeuroVault) -> None:
    add_images(world, 150)
    with DemoServer(World.empty()) as other:
        link = f"{other.neurovault_url}/api/collections/{BIG}/images/"
        server.fail("/api/collections/*/images/", edited(lambda page: page | {"next": link}))
        assert read_list(vault).complete
        assert other.requests == 0


@pytest.mark.parametrize(
    "trouble",
    [
        faults.slow(3600),
        faults.stall(0.5, 3600),
        faults.status(503),
        faults.status(504),
        faults.cut(),
    ],
    ids=lambda fault: fault.name,
)
def test_pages_that_do_not_come_are_halved(server: DemoServer, world: World, trouble: faults.Fault) -> None:
    ids = add_images(world, 150)
    with closing(Service("NeuroVault", server.neurovault_url, connections=2, timeout_s=0.4)) as service:
        for limit, fault in ((100, trouble), (50, then_patient(service, trouble))):
            server.fail(f"/api/collections/{BIG}/images/", fault, query={"limit": limit}, times=1)
        listing = read_list(NeuroVault(service))
    assert sorted(listing.ids) == ids
    assert listing.complete
    assert pages(server)[:4] == [(0, 100), (0, 50), (0, 25), (25, 50)]


def test_a_list_is_given_up_after_its_smallest_page_failed_twice(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 150)
    server.fail(f"/api/collections/{BIG}/images/", faults.status(503))
    with pytest.raises(TransientError, match="HTTP 503"):
        read_list(vault)
    assert [limit for _, limit in pages(server)] == [100, 50, 25, 12, 6, 3, 1, 1]


def test_a_failing_list_is_not_hammered(
    server: DemoServer, vault: NeuroVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.5)
    monkeypatch.setattr("nvcatalog._http.Health.pause", lambda self, seconds: pauses.append(seconds))
    server.fail("/api/collections/555/images/", faults.status(503))
    with pytest.raises(TransientError):
        read_list(vault, 555)
    taken = [pause for pause in pauses if pause > 0]
    assert len(taken) == 7
    assert min(taken) >= 0.25
    assert sum(taken) > 5


def test_a_page_that_forbids_is_tried_until_the_server_counts_as_blocked(
    server: DemoServer, vault: NeuroVault, service: Service
) -> None:
    server.fail("/api/*", faults.status(403))
    with pytest.raises(HostGivenUpError):
        read_list(vault, 555)
    assert server.requests == 3
    assert service.health.blocked


@pytest.mark.parametrize(
    "change",
    [
        {"results": None},
        {"results": {}},
        {"results": "all"},
        {"count": None},
        {"count": "20"},
        {"count": True},
        {"count": -1},
        {"count": 20.0},
        {"count": 10**30},
    ],
    ids=repr,
)
def test_a_page_of_another_shape_is_not_believed(
    server: DemoServer, vault: NeuroVault, change: dict[str, Any]
) -> None:
    server.fail("/api/collections/555/images/", edited(lambda page: page | change))
    with pytest.raises(TransientError, match="not a page of records"):
        read_list(vault, 555)


@pytest.mark.parametrize("page", [b"[]", b"null", b'[{"id": 1}]', b'{"detail": "x"}'])
def test_json_that_is_no_page_is_not_believed(server: DemoServer, vault: NeuroVault, page: bytes) -> None:
    server.fail("/api/collections/555/images/", faults.wrong_bytes(page))
    with pytest.raises(TransientError, match="not a page of records"):
        read_list(vault, 555)


@pytest.mark.parametrize("record", [None, 7, [], {}, {"id": None}, {"id": 0}, {"id": 2**40}, {"name": "no id"}])
def test_a_record_without_an_id_is_broken_and_the_others_arrive(
    server: DemoServer, world: World, vault: NeuroVault, record: object
) -> None:
    def spoil(page: Any) -> Any:
        page["results"][4] = record
        return page

    server.fail("/api/collections/555/images/", edited(spoil))
    listing = read_list(vault, 555)
    assert listing.broken == [5]
    assert sorted(listing.ids) == sorted({*world.image_ids(555)} - {world.image_ids(555)[4]})
    assert listing.complete


# Lists: their end


def test_an_empty_page_ends_the_list_whatever_the_count_says(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 300)
    server.fail(f"/api/collections/{BIG}/images/", faults.empty_page(), after=1)
    listing = read_list(vault)
    assert not listing.complete
    assert listing.count == 300
    assert server.requests == 4  # the first page, and an empty one in each of three passes


def test_a_count_that_is_too_small_is_not_complete(server: DemoServer, vault: NeuroVault) -> None:
    server.fail("/api/collections/555/images/", edited(lambda page: page | {"count": 15}))
    assert not read_list(vault, 555).complete


@pytest.mark.parametrize("change", [{"count": 100}, {"count": 100, "next": None}, {"count": 40}], ids=repr)
def test_a_count_that_is_too_small_hides_no_image(
    server: DemoServer, world: World, vault: NeuroVault, change: dict[str, Any]
) -> None:
    ids = add_images(world, 120)
    server.fail(f"/api/collections/{BIG}/images/", edited(lambda page: page | change))
    listing = read_list(vault)
    assert sorted(listing.ids) == ids
    assert not listing.complete
    assert pages(server)[:2] == [(0, 100), (100, 200)]


def test_a_page_that_names_a_next_one_is_not_the_last(server: DemoServer, world: World, vault: NeuroVault) -> None:
    # As from a server that gives no more than 50 at once, and counts too few.
    ids = add_images(world, 70)

    def at_most_50(page: Any) -> Any:
        return page | {"count": 50, "results": page["results"][:50], "next": page["results"][50:] and "more"}

    server.fail(f"/api/collections/{BIG}/images/", edited(at_most_50))
    assert sorted(read_list(vault).ids) == ids


@pytest.mark.parametrize(
    "refusal", [faults.api_error(404, "Invalid page."), faults.status(500)], ids=lambda f: f.name
)
def test_a_server_that_has_no_page_behind_the_last_ends_the_list(
    server: DemoServer, world: World, vault: NeuroVault, refusal: faults.Fault
) -> None:
    add_images(world, 100)
    server.fail(f"/api/collections/{BIG}/images/", refusal, query={"offset": 100})
    listing = read_list(vault)
    assert listing.complete
    assert listing.broken == []


def test_a_server_that_repeats_itself_does_not_page_for_ever(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 250)

    def first_page_again(page: Any) -> Any:
        records = [world.image(50_001 + number) for number in range(100)]
        return page | {"results": records}

    server.fail(f"/api/collections/{BIG}/images/", edited(first_page_again))
    listing = read_list(vault)
    assert len(listing.ids) == 100
    assert not listing.complete
    assert len(pages(server)) == 6  # in each of three passes one, and one that brings nothing new


@pytest.mark.parametrize("broken", [0, 1, 100])
def test_a_huge_count_does_not_make_a_repeated_page_endless(
    server: DemoServer, world: World, vault: NeuroVault, broken: int
) -> None:
    ids = add_images(world, 100)
    repeated = [*({"name": "no id"} for _ in range(broken)), *(world.image(id_) for id_ in ids[broken:])]
    server.fail(f"/api/collections/{BIG}/images/", edited(lambda page: {"count": 2**31 - 1, "results": repeated}))
    listing = read_list(vault)
    assert not listing.complete
    assert len(listing.ids) == 100 - broken
    assert len(pages(server)) == 6


def test_an_image_deleted_while_paging_leaves_none_out(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    ids = add_images(world, 250)
    server.fail(
        f"/api/collections/{BIG}/images/", meanwhile(lambda: world.delete_image(ids[10])), times=1
    )  # the record at the edge of the pages moves to a place that has been read
    listing = read_list(vault)
    assert sorted(listing.ids) == [id_ for id_ in ids if id_ != ids[10]]
    assert listing.complete


def test_an_image_added_while_paging_is_there(server: DemoServer, world: World, vault: NeuroVault) -> None:
    ids = add_images(world, 250)
    server.fail(f"/api/collections/{BIG}/images/", meanwhile(lambda: world.add_image(BIG, id=60_000)), times=1)
    listing = read_list(vault)
    assert sorted(listing.ids) == [*ids, 60_000]
    assert listing.complete


def test_a_list_that_never_stands_still_is_not_complete(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 150)
    server.fail(f"/api/collections/{BIG}/images/", meanwhile(lambda: world.add_image(BIG)))
    listing = read_list(vault)
    assert not listing.steady
    assert not listing.complete


def test_a_collection_deleted_while_paging_is_not_found(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 150)
    server.fail(f"/api/collections/{BIG}/images/", meanwhile(lambda: world.delete_collection(BIG)), times=1)
    with pytest.raises(RefusedError, match="HTTP 404"):
        read_list(vault)


# Lists: broken records


@pytest.mark.parametrize("count", [1, 20, 100, 130, 700])
@pytest.mark.parametrize("where", ["first", "last", "middle", "first and last", "three together", "three apart"])
def test_only_broken_records_are_left_out(
    server: DemoServer, world: World, vault: NeuroVault, count: int, where: str
) -> None:
    ids = add_images(world, count)
    places = {
        "first": {0},
        "last": {count - 1},
        "middle": {count // 2},
        "first and last": {0, count - 1},
        "three together": {count // 3, count // 3 + 1, count // 3 + 2} & set(range(count)),
        "three apart": {count // 5, count // 2, 4 * count // 5},
    }[where]
    for place in places:
        world.poison_image(ids[place])
    listing = read_list(vault)
    assert listing.broken == [place + 1 for place in sorted(places)]
    assert sorted(listing.ids) == [id_ for place, id_ in enumerate(ids) if place not in places]
    assert listing.complete
    # Down to the record and up again by halves and doubles, each once more, and what a whole list costs.
    assert server.requests <= len(places) * (2 * math.log2(LARGEST_PAGE) + 4) + 8


def test_a_list_of_broken_records_only_costs_two_requests_for_each(
    server: DemoServer, world: World, vault: NeuroVault, service: Service
) -> None:
    ids = add_images(world, 120)
    for id_ in ids:
        world.poison_image(id_)
    listing = read_list(vault)
    assert listing.broken == list(range(1, 121))
    assert listing.ids == set()
    assert listing.complete
    assert server.requests <= 2 * 120 + 20
    assert service.health.given_up is None


def test_every_other_record_broken_still_leaves_the_others(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    ids = add_images(world, 60)
    for id_ in ids[::2]:
        world.poison_image(id_)
    listing = read_list(vault)
    assert listing.broken == list(range(1, 61, 2))
    assert sorted(listing.ids) == ids[1::2]
    assert listing.complete


def test_a_500_that_passes_breaks_no_record(server: DemoServer, world: World, vault: NeuroVault) -> None:
    ids = add_images(world, 150)
    server.fail(f"/api/collections/{BIG}/images/", faults.status(500), times=7)  # down to one record, once
    listing = read_list(vault)
    assert (listing.broken, sorted(listing.ids), listing.complete) == ([], ids, True)


@pytest.mark.parametrize(
    "value", ["NaN", "-Infinity", "1e999", "9" * 5000, "[" * 5000 + "]" * 5000, "'", "x" * 9000]
)
def test_a_record_that_is_no_json_is_left_out_and_the_others_arrive(
    server: DemoServer, world: World, vault: NeuroVault, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(_http, "LARGEST_JSON", 10_000 if "x" in value else _http.LARGEST_JSON)
    ids = add_images(world, 5 if "x" in value else 130)
    bad = ids[3]
    mark, written = b'"name":"broken"', value if "x" not in value else f'"{value}"'
    world.edit_image(bad, name="broken")
    server.fail("/api/*", faults.rewrite(lambda body: body.replace(mark, b'"name":' + written.encode())))
    listing = read_list(vault)
    assert listing.broken == [4]
    assert sorted(listing.ids) == [id_ for id_ in ids if id_ != bad]
    assert listing.complete


def test_lists_of_nothing_but_bad_json_break_no_record(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    add_images(world, 10)
    server.fail("/api/*", faults.cut_json())
    with pytest.raises(TransientError, match="cannot be read"):
        read_list(vault)
    server.heal()
    server.fail(f"/api/collections/{BIG}/images/", faults.cut_json(), times=5)  # down to one record, once
    listing = read_list(vault)
    assert (listing.broken, len(listing.ids), listing.complete) == ([], 10, True)


@pytest.mark.parametrize("pattern", ["/*", f"/api/collections/{BIG}/images/"])
def test_a_list_that_only_answers_500_ends_and_breaks_no_record(
    server: DemoServer, world: World, vault: NeuroVault, pattern: str
) -> None:
    add_images(world, 150)
    server.fail(pattern, faults.status(500))
    with pytest.raises(TransientError, match="HTTP 500"):
        read_list(vault)
    assert server.requests <= 15


def test_a_server_that_counts_and_renders_nothing_breaks_no_record(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    # As when its disk is not mounted: every record that has a file is a 500, and every page but an empty one.
    add_images(world, 30)
    for id_ in world.image_ids():
        world.poison_image(id_)
    with pytest.raises(TransientError, match="HTTP 500"):
        read_list(vault)
    assert server.requests <= 15


def test_a_503_in_place_of_a_500_breaks_no_record(server: DemoServer, world: World, vault: NeuroVault) -> None:
    add_images(world, 10)
    server.fail(f"/api/collections/{BIG}/images/", faults.status(503), times=7)
    server.fail(f"/api/collections/{BIG}/images/", faults.status(500), times=1)
    with pytest.raises(TransientError, match="HTTP 500"):
        read_list(vault)


# Packs


def test_packs_come_as_the_server_gives_them_with_the_ids_of_their_images(
    server: DemoServer, world: World, vault: NeuroVault
) -> None:
    packs = [world.add_nidm_pack(555, f"{name}.nidm", n_maps=n) for name, n in (("a", 2), ("b", 0), ("c", 1))]
    [(records_, listing)] = vault.packs_of(555)
    assert listing.complete
    assert [record["id"] for record in records_] == sorted(listing.ids) == packs
    assert records_[0]["zip_file"] == f"{server.neurovault_url}/collections/555/a.nidm.zip"
    assert pack_rows(records_[0], 555) == [
        {"pack_id": packs[0], "collection_id": 555, "image_id": packs[0] + number} for number in (1, 2)
    ]
    assert pack_rows(records_[1], 555) == []
    assert [hit.path for hit in server.log] == ["/api/collections/555/nidm_results/"]


def test_a_collection_without_packs_has_a_complete_list_of_none(vault: NeuroVault) -> None:
    [(page, listing)] = vault.packs_of(555)
    assert (page, listing.ids, listing.complete) == ([], set(), True)


def test_packs_are_paged_as_images_are(server: DemoServer, world: World, vault: NeuroVault) -> None:
    world.add_collection(id=BIG)
    packs = [world.add_nidm_pack(BIG, f"{number}.nidm", n_maps=0) for number in range(130)]
    server.fail(f"/api/collections/{BIG}/nidm_results/", faults.status(503), times=1)
    *_, (_, listing) = vault.packs_of(BIG)
    assert sorted(listing.ids) == packs
    hits = server.hits(f"/api/collections/{BIG}/nidm_results/")
    assert [(hit.query["offset"], hit.query["limit"]) for hit in hits] == [
        ("0", "100"),
        ("0", "50"),
        ("50", "100"),
    ]


def test_a_pack_with_an_image_that_cannot_be_rendered_is_broken_and_the_others_come(
    world: World, vault: NeuroVault
) -> None:
    packs = [world.add_nidm_pack(555, f"{name}.nidm", n_maps=1) for name in "abc"]
    world.poison_image(packs[1] + 1)
    *_, (_, listing) = vault.packs_of(555)
    assert (sorted(listing.ids), listing.broken, listing.complete) == ([packs[0], packs[2]], [2], True)


def test_packs_of_a_collection_that_is_not_there_or_private_are_refused(world: World, vault: NeuroVault) -> None:
    world.make_private(555, "ABCDEFGH")
    for collection_id, status in ((99_999, "not_found"), (555, "private")):
        with pytest.raises(RefusedError) as caught:
            list(vault.packs_of(collection_id))
        assert caught.value.status == status


# Links


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("{root}/media/images/3/a.nii.gz", "media/images/3/a.nii.gz"),
        ("http://neurovault.org/media/images/3/a.nii.gz", "media/images/3/a.nii.gz"),
        ("https://NEUROVAULT.org:443/media/a%20b+c.nii.gz", "media/a%20b+c.nii.gz"),
        ("https://neurovault.org/media/a.nii.gz?v=2#top", "media/a.nii.gz?v=2"),
        ("https://neurovault.org//elsewhere.example/a", "elsewhere.example/a"),
        ("https://neurovault.org/https://elsewhere.example/a", "https://elsewhere.example/a"),
    ],
)
def test_a_file_is_fetched_from_our_root(server: DemoServer, vault: NeuroVault, link: str, path: str) -> None:
    assert vault.file_url({"file": link.format(root=server.neurovault_url)}) == path


def test_a_root_with_a_path_is_not_doubled() -> None:
    with closing(Service("NeuroVault", "https://mirror.example/nv", connections=1, timeout_s=1)) as service:
        vault = NeuroVault(service)
        assert vault.file_url({"file": "https://mirror.example/nv/media/a"}) == "media/a"
        assert vault.file_url({"file": "https://neurovault.org/media/a"}) == "media/a"


@pytest.mark.parametrize(
    "link",
    [
        "https://elsewhere.example/media/a.nii.gz",
        "https://neurovault.org.elsewhere.example/a",
        "file:///etc/passwd",
        "ftp://neurovault.org/a",
        "/media/images/3/a.nii.gz",
        "http://[",
        "C:\\a.nii.gz",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
def test_a_link_to_anywhere_else_is_refused_and_not_remembered(vault: NeuroVault, link: str) -> None:
    with pytest.raises(RefusedError, match="leads elsewhere") as caught:
        vault.file_url({"file": link})
    assert (caught.value.status, caught.value.lasting) == ("failed", False)


@pytest.mark.parametrize("record", [{}, {"file": None}, {"file": ""}, {"file": 7}, {"file": ["a"]}])
def test_a_record_without_a_file_is_broken(vault: NeuroVault, record: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="names no file") as caught:
        vault.file_url(record)
    assert caught.value.status == "broken_on_server"


def test_the_root_is_neurovaults_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert root() == "https://neurovault.org"
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", "http://127.0.0.1:8000/")
    assert root() == "http://127.0.0.1:8000"
