"""Whatever a server does on purpose, a fetch ends and says so, and the next call, to a healthy one, completes."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fetching import no_waiting as no_waiting
from raw_server import raw_server
from waiting import PATIENCE_S

from nvcatalog import Catalog, _http, client, fetch_neurovault_ids
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.demo.maps import nifti_gz
from nvcatalog.demo.wire import Sender
from nvcatalog.errors import BlockedWarning, IncompleteWarning

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from nvcatalog.demo.wire import Request

pytestmark = pytest.mark.usefixtures("no_waiting")

OURS, OTHERS = 900, 901  # collections of the tests' own
WORDS = {"fetch_neurosynth_words": True, "vectorize_words": False}


@pytest.fixture
def world() -> World:
    """Return two small collections."""
    world = World.empty()
    world.add_collection(id=OURS, images=3)
    world.add_collection(id=OTHERS, images=2)
    return world


def fetch(data_dir: Path, **request: Any) -> Any:
    return fetch_neurovault_ids(data_dir=data_dir, verbose=0, **({"collection_ids": [OURS]} | request))


def statuses(maps: Any, kind: str = "image") -> set[str]:
    return {outcome.status for outcome in maps.report if outcome.kind == kind}


def reasons(maps: Any) -> str:
    return " ".join(str(outcome.reason) for outcome in maps.report.missing)


def edited(edit: Callable[[Any], Any]) -> faults.Fault:
    return faults.rewrite(lambda body: json.dumps(edit(json.loads(body))).encode())


def with_fields(**fields: Any) -> faults.Fault:
    """Change each record of a page, or the one record that an answer is."""

    def edit(answer: Any) -> Any:
        for record in answer.get("results", [answer]):
            record |= fields
        return answer

    return edited(edit)


def assert_good(data_dir: Path, world: World, **request: Any) -> None:
    """Make sure that a healthy server's files arrive whole, and that nothing lies where it does not belong."""
    maps = fetch(data_dir, **request)
    assert maps.report.missing == ()
    assert [Path(path).read_bytes() for path in maps.images] == [
        world.image_bytes(meta["id"]) for meta in maps.images_meta
    ]
    assert_tidy(data_dir)


def assert_tidy(data_dir: Path) -> None:
    """Make sure that nothing was written outside the folder, and no unfinished file is left in it."""
    assert {path.name for path in data_dir.parent.iterdir()} <= {data_dir.name}
    assert {path.name for path in data_dir.iterdir()} == {"neurovault"}
    assert not list(data_dir.rglob("*.part"))
    verified = Catalog(data_dir).verify(deep=True, verbose=0)
    assert not verified.problems, verified.problems


def refusals(data_dir: Path) -> list[Any]:
    return Catalog(data_dir).sql("SELECT kind, id, status FROM refusals").fetchall()


# Redirects

LISTS, RECORD, FILES = f"/api/collections/{OURS}/images/", f"/api/collections/{OURS}/", "/media/*"
DECODER = "/api/decode/"


@pytest.mark.parametrize(("what", "n_places"), [(LISTS, 5), (RECORD, 2), (FILES, 5), (DECODER, 2)])
def test_a_redirect_in_a_circle_or_to_anywhere_else_costs_what_was_asked_for_and_reaches_nobody(
    server: DemoServer, world: World, data_dir: Path, what: str, n_places: int
) -> None:
    with DemoServer(World.demo()) as other:
        host = other.neurovault_url.removeprefix("http://")
        places = [
            "?again",
            f"http://{host}/api/collections/3/",
            f"http://127.0.0.1@{host}/x",
            "file:///etc/passwd",
            "\x1b[2Jhttp://[",
        ]
        for number, place in enumerate(places[:n_places]):
            server.heal()
            server.fail(what, faults.redirect(place, code=(301, 302, 303, 307, 308)[number % 5]))
            with pytest.warns(IncompleteWarning) as warned:
                maps = fetch(data_dir, **WORDS, mode="overwrite")
            kind = {LISTS: "collection", RECORD: "collection", FILES: "image", DECODER: "words"}[what]
            assert statuses(maps, kind) <= {"failed", "kept_old"}, place
            assert "\x1b" not in "".join(str(warning.message) for warning in warned)
        assert other.requests == 0
    assert refusals(data_dir) == []
    server.heal()
    assert_good(data_dir, world, **WORDS)


# What never ends


class _Switch:
    """Whether a server behaves badly."""

    bad = True


@contextmanager
def pouring(
    server: DemoServer,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    head: bytes,
    pieces: Callable[[], Iterator[bytes]],
    pause_s: float,
) -> Iterator[_Switch]:
    """Stand before the demo's server, and send pieces of a body without end where a path begins so."""
    switch, over = _Switch(), threading.Event()

    def script(connection: socket.socket, request: Request) -> None:
        if switch.bad and request.path.startswith(where):
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
            for piece in pieces():
                connection.sendall(piece)
                over.wait(pause_s)
        Sender(connection, over.wait).send(request, server.answer("neurovault", request))

    with raw_server(script) as front:
        monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", front.url)
        yield switch
        over.set()


JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY_MEMBERS = gzip.compress(b"", mtime=0) * 10_000
# A map of which all is there but the end, which never comes.
BEGUN = nifti_gz(np.zeros((4, 4, 4), dtype=np.float32), np.eye(4))[:-20]


def repeated(piece: bytes, first: bytes = b"") -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain([first], itertools.repeat(piece))


@pytest.mark.parametrize(
    ("where", "head", "pieces", "pause_s"),
    [
        ("/api/collections/", b"", repeated(b"X-Drip: x\r\n"), 0.01),
        ("/api/collections/", JSON + b"\r\n", repeated(b" " * 100), 0.005),
        ("/api/collections/", JSON + b"\r\n", repeated(b" " * 100_000), 0.0),
        ("/api/collections/", JSON + b"Content-Length: 2000000000\r\n\r\n", repeated(b"["), 0.02),
        ("/api/collections/", JSON + CHUNKED, repeated(b"X: x\r\n" * 1000, b"0\r\n"), 0.0),
        ("/api/collections/", JSON + b"Content-Encoding: gzip\r\n\r\n", repeated(EMPTY_MEMBERS), 0.0),
        ("/media/", b"\r\n", repeated(EMPTY_MEMBERS), 0.0),
        ("/media/", b"\r\n", repeated(bytes(100_000), gzip.compress(b"")), 0.0),
        ("/media/", b"\r\n", repeated(BEGUN), 0.0),
        ("/media/", CHUNKED, repeated(b"X: x\r\n" * 1000, b"0\r\n"), 0.0),
        ("/media/", b"\r\n", repeated(b"\x1f"), 0.02),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_never_ends_is_left_and_reported(
    server: DemoServer,
    world: World,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    head: bytes,
    pieces: Callable[[], Iterator[bytes]],
    pause_s: float,
) -> None:
    monkeypatch.setattr(_http, "TRIES", 1)
    monkeypatch.setattr(client, "FIRST_PAGE", 1)
    monkeypatch.setattr(_http, "LARGEST_JSON", 1_000_000)
    monkeypatch.setattr(_http, "_JSON_TIMEOUTS", 3)
    monkeypatch.setattr("nvcatalog.proving._MOST_BEHIND_VOXELS", 1_000_000)
    for image_id in world.image_ids(OURS):
        world.edit_image(image_id, file_size=0)
    with pouring(server, monkeypatch, where, head, pieces, pause_s) as switch:
        with pytest.warns(IncompleteWarning):
            maps = fetch(data_dir, timeout=0.1)
        assert maps.images == []
        assert {outcome.status for outcome in maps.report} <= {"failed", "corrupt_on_server"}
        assert not any(path.stat().st_size > 3_000_000 for path in data_dir.rglob("*.nii.gz*"))
        switch.bad = False
        assert_good(data_dir, world, timeout=PATIENCE_S)


def test_a_list_that_brings_ever_new_images_is_left(
    server: DemoServer, world: World, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_LONGEST_LIST", 500)
    ids = itertools.count(10_000)

    def ever_new(page: Any) -> Any:
        record = page["results"][0] if page["results"] else world.image(world.image_ids(OURS)[0])
        new = [{**(record or {}), "id": next(ids), "file": None} for _ in range(100)]
        return {"count": 2**31 - 1, "next": "more", "results": new}

    server.fail(LISTS, edited(ever_new))
    with pytest.warns(IncompleteWarning, match="taken for endless"):
        fetch(data_dir)
    assert len(server.hits(LISTS)) <= 6
    server.heal()
    assert_good(data_dir, world)
    assert len(fetch(data_dir, mode="offline").images) == 3


# Records


@pytest.mark.parametrize("opened_by", ["a token", "a mirror"])
@pytest.mark.parametrize("depth", [300, 5_000])
@pytest.mark.filterwarnings("ignore::nvcatalog.errors.IncompleteWarning")
def test_deep_json_behind_a_token_or_a_mirror_is_kept_or_reported(
    server: DemoServer,
    world: World,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened_by: str,
    depth: int,
) -> None:
    fetch(data_dir, image_ids=world.image_ids(OTHERS), collection_ids=[])
    ours: Any = OURS
    if opened_by == "a token":
        world.make_private(OURS, "ABCDEFGH")
        ours = "ABCDEFGH"
    else:
        monkeypatch.setenv("NVCATALOG_MIRROR_OF", server.neurovault_url)
        server.close()
        server = DemoServer(world)
        server.start()
        monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", server.neurovault_url)
    deep = b'"deep":' + b'{"a":[' * depth + b"1" + b"]}" * depth + b',"name":'
    server.fail("/api/collections/*", faults.rewrite(lambda body: body.replace(b'"name":', deep)))
    maps = fetch(data_dir, collection_ids=[ours])
    assert {outcome.status for outcome in maps.report} in (
        {"downloaded"},
        {"failed"},
        {"failed", "broken_on_server"},
    )
    server.heal()
    maps = fetch(data_dir, collection_ids=[ours], mode="overwrite")
    assert {outcome.status for outcome in maps.report} == {"downloaded"}
    server.close()


def with_last_id(server: DemoServer, world: World, given: str) -> list[int]:
    """Let the list write its last id in another way, and return the others."""
    *others, last = world.image_ids(OURS)
    written = given.format(last)
    as_json = json.dumps(written) if given in ("{}", " {}", "../{}") else written
    was = json.dumps(last).encode()
    server.heal()
    server.fail(LISTS, faults.rewrite(lambda body: body.replace(b'"id":' + was, b'"id":' + as_json.encode())))
    return others


@pytest.mark.parametrize("given", ["{}", "{}.0"])
def test_an_id_is_a_number_or_its_digits(server: DemoServer, world: World, data_dir: Path, given: str) -> None:
    with_last_id(server, world, given)
    assert len(fetch(data_dir).images) == 3


def test_a_record_whose_id_is_neither_is_broken(server: DemoServer, world: World, data_dir: Path) -> None:
    for given in (" {}", "null", "true", "[{}]", "-{}", "../{}", "{}" + "0" * 400):
        others = with_last_id(server, world, given)
        with pytest.warns(IncompleteWarning, match="record 3 of collection 900"):
            maps = fetch(data_dir, mode="overwrite")
        assert [meta["id"] for meta in maps.images_meta] == others, given
    server.heal()
    assert_good(data_dir, world, mode="overwrite")


def test_an_image_that_two_collections_list_is_there_once_and_stays(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    both = world.image_ids(OURS)[0]
    record = (world.image(both) or {}) | {"file": f"http://neurovault.org{world.file_path(both)}"}

    def claim(page: Any) -> Any:
        return {**page, "count": page["count"] + 1, "results": [record, *page["results"]]}

    server.fail(f"/api/collections/{OTHERS}/images/", edited(claim))
    maps = fetch(data_dir, collection_ids=[OURS, OTHERS])
    ids = [meta["id"] for meta in maps.images_meta]
    assert sorted(ids) == sorted({*world.image_ids(OURS), *world.image_ids(OTHERS)})
    assert statuses(maps) == {"downloaded"}
    requests = server.requests
    for _ in range(2):
        again = fetch(data_dir, collection_ids=[OURS, OTHERS])
        assert again.images == maps.images
    assert server.requests == requests
    assert len(list(data_dir.rglob(f"image_{both}.nii.gz"))) == 1
    assert_tidy(data_dir)


def test_records_that_name_another_collection_go_where_they_were_asked_for(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    claimed: list[Any] = [OTHERS, str(OTHERS), -1, 2**40, "../../..", None, True, [OURS]]
    for _ in claimed[3:]:
        world.add_image(OURS, {})

    def claim(page: Any) -> Any:
        for record, collection_id in zip(page["results"], claimed, strict=True):
            record |= {"collection_id": collection_id, "collection": "http://x/collections/../../etc/"}
        return page

    server.fail(LISTS, edited(claim))
    maps = fetch(data_dir)
    assert len(maps.images) == len(claimed)
    assert {Path(path).parent for path in maps.images} == {data_dir / "neurovault" / f"collection_{OURS}"}
    assert_tidy(data_dir)
    server.heal()
    assert_good(data_dir, world)


def test_a_collections_record_of_another_id_is_not_believed(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    for id_ in (OTHERS, "../../x", None, 2**40, [OURS]):
        server.heal()
        server.fail(RECORD, with_fields(id=id_))
        with pytest.warns(IncompleteWarning, match="not that record"):
            fetch(data_dir)
    server.heal()
    assert_good(data_dir, world)


def test_a_megabyte_of_white_space_does_not_keep_a_fetch_busy(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    blank = " " * 1_000_000 + "x"
    fields = dict.fromkeys(("name", "description", "modality", "DOI", "authors", "contrast_definition"), blank)
    for where in (LISTS, RECORD):
        server.fail(where, with_fields(**fields))
    maps = fetch(data_dir)
    assert [meta["modality"] for meta in maps.images_meta] == [blank] * 3


ODD: list[dict[str, Any]] = [
    {"number_of_subjects": int("9" * 4200), "nested": {"a": [-int("8" * 4000)]}},
    {"Age": 1, "AGE": 2, "aGe": 3, "ID": 7, "id ": 8, "Collection_ID": 9},
    {"name": "\x1b[2J\x1b]0;owned\x07", "\x1b[31m": "\x9b31m", "\u202egnp.exe": "\u202e"},
    {"modify_date": "0001-01-01T00:00:00Z", "add_date": "9999-12-31T23:59:59Z"},
    {"modify_date": "1677-09-21T00:12:43Z", "add_date": "infinity"},
    {"name": "a\x00b", "a\x00b": "c\x00d", "k" * 100_000: 1},
    {"age": 1e308, "BMI": -1e308, "statistic_parameters": 5e-324},
    {"deep": json.loads("[" * 300 + "]" * 300), "big": "x" * 3_000_000},
    {"'; DROP TABLE images; --": 1, "$[0]": 2, "a.b[*]": 3, 'a"b': 4, "__proto__": {}},
    {"map_type": ["T map"], "analysis_level": {"a": 1}, "modality": 4.5, "is_valid": "maybe"},
]


def test_what_odd_records_leave_in_the_catalog_can_be_used_in_every_way(
    server: DemoServer, world: World, data_dir: Path, tmp_path: Path
) -> None:
    world.add_collection(id=902, images=len(ODD))

    def spoil(page: Any) -> Any:
        return {**page, "results": [record | odd for record, odd in zip(page["results"], ODD, strict=True)]}

    server.fail("/api/collections/902/images/", edited(spoil))
    maps = fetch(data_dir, collection_ids=[902])
    assert len(maps.images) == len(ODD)
    catalog = Catalog(data_dir)
    for view in ("images", "stat_maps", "local_images", "raw_records"):
        assert len(catalog.sql(f"SELECT * FROM {view}").df()) >= len(ODD)
    names = catalog.sql("SELECT raw->>'name', json_keys(extra) FROM raw_records JOIN images ON id = image_id")
    assert len(names.fetchall()) == len(ODD)
    catalog.snapshot()
    for format_ in ("parquet", "csv"):
        catalog.export(tmp_path / "out" / format_, format=format_)
    assert catalog.verify(deep=True, verbose=0).problems == ()
    assert "902" in catalog.cite().text()
    assert fetch(data_dir, collection_ids=[902], mode="offline").images == maps.images


# Neurosynth


NO_TERMS = {
    "3 MB": b'{"data": {"values": {"pain": 0.1}, "comments": "' + b"x" * 3_000_000 + b'"}}',
    "deep": b'{"data": {"values": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}}",
    "long number": b'{"data": {"values": {"pain": ' + b"9" * 5000 + b"}}}",
    "infinite": b'{"data": {"values": {"pain": 1e999}}}',
    "a list": b'{"data": {"values": {"pain": [0.1]}}}',
    "pairs": b'{"data": {"values": [["pain", 0.1]]}}',
    "in a list": b'[{"data": {"values": {"pain": 0.1}}}]',
    "null": b"null",
}


def test_an_answer_of_neurosynth_that_is_none_is_not_stored(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    for name, answer in NO_TERMS.items():
        server.heal()
        server.fail(DECODER, faults.wrong_bytes(answer))
        with pytest.warns(IncompleteWarning, match=r"words [0-9, ]+ failed"):
            maps = fetch(data_dir, **WORDS)
        assert len(maps.images) == 3, name
        assert not list(data_dir.rglob("neurosynth_words*")), name
        assert refusals(data_dir) == [], name
    server.heal()
    assert_good(data_dir, world, **WORDS)


def test_terms_of_any_spelling_are_kept_apart(server: DemoServer, world: World, data_dir: Path) -> None:
    terms = {
        "pain": 0.1,
        "Pain": 0.2,
        "PAIN ": 0.3,
        "true": 0.4,
        "001": 0.5,
        "a\x00b": 0.6,
        "\x1b[2J": -0.7,
        "": 0.8,
    }
    text = json.dumps({"data": {"values": terms}})[:-2] + ', "values": ' + json.dumps(terms | {"pain": 0.9}) + "}}"
    server.fail(DECODER, faults.wrong_bytes(text.encode()))
    maps = fetch(data_dir, fetch_neurosynth_words=True)
    expected = terms | {"pain": 0.9}
    assert sorted(maps.vocabulary.tolist()) == sorted(expected)
    row = dict(zip(maps.vocabulary.tolist(), maps.word_frequencies[0].tolist(), strict=True))
    assert row == expected
    offline = fetch(data_dir, fetch_neurosynth_words=True, mode="offline")
    assert offline.vocabulary.tolist() == maps.vocabulary.tolist()


def test_a_firewall_before_neurosynth_costs_no_file_and_poisons_nothing(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    for trouble in (faults.challenge(), faults.status(403)):
        server.heal()
        server.fail(DECODER, trouble)
        with pytest.warns(BlockedWarning), pytest.warns(IncompleteWarning):
            maps = fetch(data_dir, **WORDS)
        assert len(maps.images) == 3
        assert refusals(data_dir) == []
    server.heal()
    assert_good(data_dir, world, **WORDS)


# What is merely odd, and known of the real server


def test_a_size_of_zero_is_a_file_that_is_missing_or_one_that_is_empty(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    missing, empty, whole = world.image_ids(OURS)
    world.broken_media(missing)
    world.replace_file(empty, b"")
    for image_id in (missing, empty, whole):  # what the server says of all three
        world.edit_image(image_id, file_size=0)
    with pytest.warns(IncompleteWarning):
        maps = fetch(data_dir)
    assert [(outcome.id, outcome.status) for outcome in maps.report] == [
        (missing, "not_found"),
        (empty, "corrupt_on_server"),
        (whole, "downloaded"),
    ]
    assert_tidy(data_dir)


def test_names_that_clash_and_packs_among_the_images_are_told_apart_by_their_ids(
    world: World, data_dir: Path, server: DemoServer
) -> None:
    packs = [world.add_nidm_pack(OURS, f"{name}.nidm") for name in "ab"]
    for image_id in world.image_ids(OURS):
        world.edit_image(image_id, name="the same")
    maps = fetch(data_dir)
    assert len({*maps.images}) == len(maps.images) == 3 + 4
    assert len({Path(path).read_bytes() for path in maps.images}) == 7
    with pytest.warns(IncompleteWarning, match="1 not_found"):  # a pack's number is no image's
        assert fetch(data_dir, collection_ids=[], image_ids=packs[:1]).images == []
    assert server.hits("/api/images/") == []  # that list keeps no order, and loses rows


def test_a_map_of_four_dimensions_or_of_another_field_of_view_is_a_map(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    shapes = [(3, 4, 5, 6), (1, 1, 1), (2, 3)]
    for image_id, shape in zip(world.image_ids(OURS), shapes, strict=True):
        world.replace_file(image_id, nifti_gz(np.ones(shape, dtype=np.int16), np.diag([1.0, 9, 0.5, 1])))
    assert_good(data_dir, world)
    found = Catalog(data_dir).sql("SELECT shape FROM files ORDER BY image_id").fetchall()
    assert [tuple(shape) for (shape,) in found] == shapes


def test_links_by_http_and_to_pages_do_no_harm(server: DemoServer, world: World, data_dir: Path) -> None:
    page = f"http://neurovault.org/collections/{OURS}/"
    odd = {
        "url": "http://neurovault.org/images/1/",
        "collection": page,
        "tags": ["a"],
        "thumbnail": "javascript:x",
    }
    server.fail(LISTS, with_fields(**odd))
    server.fail(RECORD, with_fields(url=page, download_url=f"{page}download", tags=[{"name": "a"}]))
    assert_good(data_dir, world)
    assert {hit.path for hit in server.log if not hit.path.startswith("/media/")} == {LISTS, RECORD}
