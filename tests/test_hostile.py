"""Whatever a server does, a fetch ends, says what is missing, keeps what is good, and can be repeated."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import no_waiting as no_waiting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_server import raw_server
from waiting import PATIENCE_S, hold_until_together

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import BlockedWarning, IncompleteWarning
from nvcatalog.storage import image_path

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from nvcatalog.demo.wire import Answer, Request

pytestmark = pytest.mark.usefixtures("no_waiting")

OURS = 900  # a collection of the test's own


def fetch(data_dir: Path, **request: Any) -> Any:
    return fetch_neurovault_ids(data_dir=data_dir, verbose=0, **request)


def statuses(maps: Any) -> dict[int | None, str]:
    return {outcome.id: outcome.status for outcome in maps.report if outcome.kind == "image"}


def strays(data_dir: Path) -> list[str]:
    """Return files that are none a user or nilearn would expect."""
    return [path.name for path in data_dir.rglob("*") if path.name.endswith((".part", ".new", ".tmp"))]


def refusals(data_dir: Path) -> int:
    (count,) = Catalog(data_dir).sql("SELECT count(*) FROM refusals").fetchall()[0]
    return int(count)


def edited(edit: Callable[[Any], Any]) -> faults.Fault:
    return faults.rewrite(lambda body: json.dumps(edit(json.loads(body))).encode())


def test_a_folder_that_is_removed_meanwhile_costs_only_the_files_on_their_way_there(
    server: DemoServer, data_dir: Path
) -> None:
    folder = data_dir / "neurovault" / "collection_3"

    def remove(answer: Answer) -> Answer:
        while folder.exists():  # the call may write a sidecar between its emptying and its removal
            shutil.rmtree(folder, ignore_errors=True)
        return answer

    server.fail("/media/images/3/*", faults.Fault("removes the folder", remove), times=1)
    with pytest.warns(IncompleteWarning, match="failed.*No such file or directory"):
        maps = fetch(data_dir, collection_ids=[3, 1058], max_workers=1)
    assert {id_: status for id_, status in statuses(maps).items() if id_ in server.world.image_ids(1058)} == (
        dict.fromkeys(server.world.image_ids(1058), "downloaded")
    )
    assert set(statuses(fetch(data_dir, collection_ids=[3])).values()) <= {"cached", "downloaded"}


WITH_FEW_FILES = """
import resource, sys, warnings
from nvcatalog import fetch_neurovault_ids
warnings.simplefilter("ignore")
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
for limit in (17, 21):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    maps = fetch_neurovault_ids(collection_ids=[555], data_dir=f"{sys.argv[1]}/{limit}", verbose=0)
    print(limit, *sorted({outcome.status for outcome in maps.report}), len(maps.report))
"""


def test_a_process_that_may_open_few_files_gets_what_it_can(server: DemoServer, data_dir: Path) -> None:
    command = [sys.executable, "-c", WITH_FEW_FILES, str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        limit, _, said = line.partition(" ")
        assert said in {"downloaded 20", "downloaded failed 20", "failed 20"}
        maps = fetch(data_dir / limit, collection_ids=[555])
        assert set(statuses(maps).values()) <= {"cached", "adopted", "downloaded"}
    assert done.stdout.count("\n") == 2


def each_record(changes: list[dict[str, Any]]) -> faults.Fault:
    """Change fields of each record of a page: the first change is for the first record."""

    def edit(page: Any) -> Any:
        for record, fields in zip(page["results"], changes, strict=True):
            record |= fields
        return page

    return edited(edit)


@pytest.fixture
def ours(world: World) -> list[int]:
    """Add a collection of five images, and return their ids."""
    world.add_collection(id=OURS, images=5)
    return world.image_ids(OURS)


# Connections


def test_six_connections_for_files_and_two_for_lists(server: DemoServer, data_dir: Path) -> None:
    hold_until_together(server, "/api/*", 2)
    hold_until_together(server, "/media/*", 6)
    maps = fetch(data_dir, collection_ids=[555], image_ids=[10426])
    assert server.peak_connections["media"] == 6
    assert server.peak_connections["api"] == 2
    assert server.connections_opened == 8
    assert set(statuses(maps).values()) == {"downloaded"}


@pytest.mark.parametrize("workers", [1, 10])
def test_max_workers_replaces_the_six(server: DemoServer, data_dir: Path, workers: int) -> None:
    hold_until_together(server, "/api/*", 2)
    hold_until_together(server, "/media/*", workers)
    fetch(data_dir, collection_ids=[555], max_workers=workers)
    assert server.peak_connections["media"] == workers
    assert server.peak_connections["api"] == 2
    assert server.connections_opened == workers + 2


def test_files_that_are_not_found_do_not_cost_their_connections(
    server: DemoServer, world: World, ours: list[int], data_dir: Path
) -> None:
    for id_ in ours[:4]:
        world.broken_media(id_)
    with pytest.warns(IncompleteWarning, match="4 not_found"):
        fetch(data_dir, collection_ids=[OURS], max_workers=1)
    assert server.connections_opened <= 3  # one for the five files, and one or two for the record and the list


def test_what_a_killed_process_left_beside_a_file_is_removed_a_day_later(
    server: DemoServer, ours: list[int], data_dir: Path
) -> None:
    target = data_dir / "neurovault" / image_path(OURS, ours[0])
    target.parent.mkdir(parents=True)
    old = target.with_name(f".{target.name}.4711-0123abcd.part")
    young = target.with_name(f".{target.name}.4712-0123abcd.part")
    foreign = target.with_name(".mine.part")
    for file in (old, young, foreign):
        file.write_bytes(b"half")
    for file in (old, foreign):
        os.utime(file, (time.time() - 2 * 24 * 3600,) * 2)
    fetch(data_dir, image_ids=ours[:1])
    assert [file.exists() for file in (old, young, foreign, target)] == [False, True, True, True]


# Servers in trouble


def test_a_sick_server_costs_nothing_that_lasts(server: DemoServer, data_dir: Path) -> None:
    server.fail("/*", faults.status(500))
    with pytest.warns(IncompleteWarning):
        maps = fetch(data_dir, collection_ids=[555], image_ids=[10426])
    assert {outcome.status for outcome in maps.report} == {"failed"}
    server.heal()
    assert len(fetch(data_dir, collection_ids=[555], image_ids=[10426]).images) == 21


def test_a_server_that_fails_now_and_then_is_borne_with(server: DemoServer, world: World, data_dir: Path) -> None:
    server.fail("/api/*", faults.status(503), times=2)
    for number, id_ in enumerate(world.image_ids(555)):
        server.fail(world.file_path(id_), faults.status(503), times=number % 4)
    maps = fetch(data_dir, collection_ids=[555], max_workers=2)
    assert set(statuses(maps).values()) == {"downloaded"}


def test_a_hundred_failures_in_a_row_stop_a_fetch(server: DemoServer, world: World, data_dir: Path) -> None:
    ids = world.add_synthetic(OURS, 60, file_bytes=2000)
    server.fail("/media/*", faults.status(503))
    with pytest.warns(IncompleteWarning, match="Stopped early: NeuroVault: 100 failures in a row"):
        maps = fetch(data_dir, collection_ids=[OURS])
    assert 100 <= len(server.hits("/media/*")) <= 112  # the other workers may have asked once or twice more
    assert list(statuses(maps)) == ids
    server.heal()
    assert len(fetch(data_dir, collection_ids=[OURS]).images) == 60


def test_bad_files_in_any_number_do_not_stop_a_fetch(server: DemoServer, world: World, data_dir: Path) -> None:
    ids = world.add_synthetic(OURS, 130, file_bytes=2000)
    for id_ in ids[:120]:
        world.replace_file(id_, b"no map")
    with pytest.warns(IncompleteWarning, match="120 corrupt_on_server"):
        maps = fetch(data_dir, collection_ids=[OURS])
    assert [id_ for id_, status in statuses(maps).items() if status == "downloaded"] == ids[120:]
    assert strays(data_dir) == []


@pytest.mark.parametrize("trouble", [faults.challenge(), faults.status(403)], ids=lambda fault: fault.name)
def test_a_firewall_is_called_so_and_nothing_is_stored_about_the_ids(
    server: DemoServer, data_dir: Path, trouble: faults.Fault
) -> None:
    fetch(data_dir, image_ids=[9034])
    server.fail("/*", trouble)
    with pytest.warns() as caught:
        maps = fetch(data_dir, collection_ids=[555], image_ids=[10426, 9034])
    assert {warning.category for warning in caught} == {BlockedWarning, IncompleteWarning}
    assert len(maps.images) == 1
    assert refusals(data_dir) == 0
    assert len([hit for hit in server.log if hit.status == 403]) <= 5
    server.heal()
    assert len(fetch(data_dir, collection_ids=[555]).images) == 20


def test_a_firewall_before_the_files_ends_them(server: DemoServer, data_dir: Path) -> None:
    server.fail("/media/*", faults.challenge())
    with pytest.warns(BlockedWarning, match="challenge page"), pytest.warns(IncompleteWarning):
        maps = fetch(data_dir, collection_ids=[555])
    assert set(statuses(maps).values()) == {"failed"}
    assert len(server.hits("/media/*")) < 20
    assert refusals(data_dir) == 0


def test_files_that_are_forbidden_are_no_firewall(server: DemoServer, data_dir: Path) -> None:
    server.fail("/media/*", faults.status(403))
    with pytest.warns(IncompleteWarning, match="20 failed"):
        fetch(data_dir, collection_ids=[555])
    assert len(server.hits("/media/*")) == 20
    assert refusals(data_dir) == 0


def test_a_server_that_asks_for_a_long_pause_is_left_alone(server: DemoServer, data_dir: Path) -> None:
    server.fail("/media/*", faults.retry_after(3600))
    with pytest.warns(IncompleteWarning, match=r"NeuroVault: it asked for a pause of 3600 s .* Stopped early\."):
        fetch(data_dir, collection_ids=[555])
    assert len(server.hits("/media/*")) < 20


# Answers that are none


@pytest.mark.parametrize(
    "trouble",
    [
        faults.html(),
        faults.wrong_bytes(b'{"id": 900, "count": true, "results": "all"}'),
        faults.wrong_bytes(b"[" * 50_000),
        faults.cut(0.5),
        faults.wrong_length(100),
        faults.redirect("http://[/"),
        faults.status(200, b"\x1f\x8b nonsense", {"Content-Encoding": "gzip"}, "application/json"),
    ],
    ids=lambda fault: fault.name,
)
def test_nonsense_is_never_taken_for_a_record(
    server: DemoServer, ours: list[int], data_dir: Path, trouble: faults.Fault
) -> None:
    server.fail("/api/*", trouble)
    with pytest.warns(IncompleteWarning):
        maps = fetch(data_dir, collection_ids=[OURS], image_ids=[10426])
    assert maps.images == []
    assert {outcome.status for outcome in maps.report} == {"failed"}
    assert refusals(data_dir) == 0
    server.heal()
    assert len(fetch(data_dir, collection_ids=[OURS], image_ids=[10426]).images) == len(ours) + 1


def test_nonsense_is_never_taken_for_a_file(server: DemoServer, world: World, data_dir: Path) -> None:
    troubles = [
        faults.html(),
        faults.wrong_bytes(b""),
        faults.wrong_bytes(b"\x00" * 1000),
        faults.wrong_bytes(b"[]"),
        faults.wrong_bytes(world.image_bytes(10426)),
        faults.cut(0.5),
        faults.cut(0.0),
        faults.reset(),
        faults.wrong_length(100),
        faults.wrong_length(-100),
        faults.redirect("http://[/"),
        faults.redirect("file:///etc/passwd"),
        faults.redirect("/api/"),
        faults.status(200, b"\x1f\x8b nonsense", {"Content-Encoding": "gzip"}, "application/octet-stream"),
        faults.status(206, world.image_bytes(10426), {"Content-Range": "bytes 7-"}, "application/octet-stream"),
        faults.status(416),
        faults.status(304, b""),
    ]
    world.add_collection(id=OURS, images=len(troubles))
    for id_, trouble in zip(world.image_ids(OURS), troubles, strict=True):
        server.fail(world.file_path(id_), trouble)
    with pytest.warns(IncompleteWarning):
        maps = fetch(data_dir, collection_ids=[OURS])
    assert set(statuses(maps).values()) == {"failed"}
    assert not list(data_dir.rglob("*.nii.gz"))
    assert strays(data_dir) == []
    assert refusals(data_dir) == 0
    server.heal()
    assert set(statuses(fetch(data_dir, collection_ids=[OURS])).values()) == {"downloaded"}


def test_odd_records_cost_no_file(server: DemoServer, world: World, data_dir: Path) -> None:
    odd: list[dict[str, Any]] = [
        {"name": "a\x00b\u2028'; DROP TABLE images; --"},
        {"name": "\ud800 lone", "\udfff key": "\udbff"},
        {"file_size": "20 kB"},
        {"file_size": -1},
        {"file_size": 1e300},
        {"file_size": 0},
        {"number_of_subjects": 10**400},
        {"modify_date": "yesterday"},
        {"modify_date": "9999-12-31T23:59:59-23:59"},
        {"modify_date": 17},
        {"collection_id": 3},
        {"collection_id": "../../etc"},
        {"collection": None},
        {"image_type": ["statistic_map"]},
        {"map_type": {"a": [1, {"b": None}]}},
        {"age": "old", "BMI": [], "not_mni": "maybe", "handedness": 7},
        {"IMAGE_ID": 1, "Image_Id": 2, "extra": 3, "raw": 4, "": 5, "a\x00": 6},
        {"relative_path": "/etc/passwd", "absolute_path": "/etc/passwd"},
        {f"key {number}": number for number in range(10_000)},
        {"description": "x" * 1_000_000},
    ]
    world.add_collection(id=OURS, images=len(odd))
    server.fail(f"/api/collections/{OURS}/images/", each_record(odd))
    maps = fetch(data_dir, collection_ids=[OURS])
    ids = world.image_ids(OURS)
    assert statuses(maps) == dict.fromkeys(ids, "downloaded")
    assert [Path(path).read_bytes() for path in maps.images] == [world.image_bytes(id_) for id_ in ids]
    assert {path.parent for path in map(Path, maps.images)} == {data_dir / "neurovault" / f"collection_{OURS}"}
    assert Catalog(data_dir).sql("SELECT image_id FROM images ORDER BY image_id").fetchall() == [(i,) for i in ids]
    requests = server.requests
    assert fetch(data_dir, collection_ids=[OURS]).images == maps.images
    assert server.requests == requests


def test_odd_links_cost_their_images_only(server: DemoServer, world: World, data_dir: Path) -> None:
    links: list[tuple[object, str]] = [
        ("https://elsewhere.example/media/x.nii.gz", "failed"),
        ("file:///etc/passwd", "failed"),
        ("http://[", "failed"),
        ("http://169.254.169.254/", "failed"),
        ("//elsewhere.example/x.nii.gz", "failed"),
        ("http://neurovault.org@elsewhere.example/x", "failed"),
        ("http://neurovault.org:secret@elsewhere.example/x", "failed"),
        ("http://me@neurovault.org/media/images/900/map_{id}.nii.gz", "failed"),
        ("http://neurovault.org:8080/x", "failed"),
        ("http://[::ffff:169.254.169.254]/x", "failed"),
        ("http://2852039166/latest/meta-data/", "failed"),
        ("http://neurovault.org.elsewhere.example/x", "failed"),
        ("gopher://neurovault.org/x", "failed"),
        ("data:application/gzip;base64,H4sI", "failed"),
        ("../../../etc/passwd", "failed"),
        ("\x1b[2J\x1b]0;owned\x07http://elsewhere.example/", "failed"),
        ("http://elsewhere.example/" + "x" * 100_000, "failed"),
        ("https://neurovault.org/%2e%2e/%2e%2e/etc/passwd", "not_found"),
        ("https://neurovault.org/..%2f..%2fetc%2fpasswd", "not_found"),
        ("https://neurovault.org/media/\x1b[2J\x00\x07", "not_found"),
        ("", "broken_on_server"),
        (None, "broken_on_server"),
        (["x"], "broken_on_server"),
        ("https://neurovault.org/../../etc/passwd", "not_found"),
        ("https://neurovault.org/http://169.254.169.254/x", "not_found"),
        ("https://neurovault.org//169.254.169.254/x", "not_found"),
        ("https://neurovault.org/media/\r\nX-Injected: yes", "not_found"),
        ("http://neurovault.org/media/images/900/map_{id}.nii.gz", "downloaded"),
        ("{root}/media/images/900/map_{id}.nii.gz", "downloaded"),
        ("HTTPS://NEUROVAULT.ORG:443/media/images/900/map_{id}.nii.gz?a=/../../x&b=%0d%0a#/etc", "downloaded"),
    ]
    world.add_collection(id=OURS, images=len(links))
    ids = world.image_ids(OURS)

    def filled(link: object, id_: int) -> object:
        return link.format(root=server.neurovault_url, id=id_) if isinstance(link, str) else link

    changes = [{"file": filled(link, id_)} for id_, (link, _) in zip(ids, links, strict=True)]
    server.fail(f"/api/collections/{OURS}/images/", each_record(changes))
    with pytest.warns(IncompleteWarning):
        maps = fetch(data_dir, collection_ids=[OURS])
    assert statuses(maps) == {id_: status for id_, (_, status) in zip(ids, links, strict=True)}
    assert not any("x-injected" in hit.headers for hit in server.log)
    # What a link says is told, but steers no terminal and fills no screen.
    told = [str(outcome.reason) for outcome in maps.report]
    assert all(text.isprintable() and len(text) < 1100 for text in told)
    assert {path.name for path in data_dir.parent.iterdir()} == {data_dir.name}


def test_duplicate_keys_in_json_are_no_trouble(server: DemoServer, ours: list[int], data_dir: Path) -> None:
    twice = faults.rewrite(lambda body: body.replace(b'"id":', b'"id":0,"id":'))
    server.fail(f"/api/collections/{OURS}/images/", twice)
    assert list(statuses(fetch(data_dir, collection_ids=[OURS]))) == ours


@pytest.mark.parametrize("depth", [400, 600, 5000])
@pytest.mark.filterwarnings("ignore::nvcatalog.errors.IncompleteWarning")
def test_deep_json_is_kept_or_reported(server: DemoServer, ours: list[int], data_dir: Path, depth: int) -> None:
    deep = b'"deep":' + b"[" * depth + b'"\\ud800"' + b"]" * depth + b","
    nested = faults.rewrite(lambda body: body.replace(b'"name":', deep + b'"name":'))
    server.fail(f"/api/collections/{OURS}/images/", nested)
    maps = fetch(data_dir, collection_ids=[OURS])
    assert {outcome.status for outcome in maps.report} in ({"downloaded"}, {"broken_on_server"})
    server.heal()
    assert list(statuses(fetch(data_dir, collection_ids=[OURS], mode="overwrite"))) == ours


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["id", "file", "file_size", "collection_id", "collection", "modify_date", "image_type", "name", "age", "url"]
) | st.text(max_size=8)


@given(
    in_list=st.dictionaries(_KEYS, _VALUES, max_size=4),
    in_page=st.dictionaries(st.sampled_from(["count", "results", "next"]), _VALUES, max_size=1),
    in_collection=st.dictionaries(_KEYS, _VALUES, max_size=3),
)
@settings(
    max_examples=10,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_json_ends_a_fetch_in_an_error(
    server: DemoServer,
    world: World,
    tmp_path_factory: pytest.TempPathFactory,
    in_list: dict[str, Any],
    in_page: dict[str, Any],
    in_collection: dict[str, Any],
) -> None:
    def spoil(page: Any) -> Any:
        for record in page["results"][1:2]:
            record |= in_list
        return page | in_page

    if OURS not in world.collection_ids():
        world.add_collection(id=OURS, images=3)
    server.heal()
    server.fail(f"/api/collections/{OURS}/images/", edited(spoil))
    server.fail(f"/api/collections/{OURS}/", edited(lambda record: record | in_collection))
    with pytest.warns() as caught:
        maps = fetch(tmp_path_factory.mktemp("data"), collection_ids=[OURS], image_ids=[999_999])
    assert IncompleteWarning in {warning.category for warning in caught}
    assert 999_999 in statuses(maps)


# Files that are none


def test_a_bomb_is_refused(server: DemoServer, world: World, data_dir: Path) -> None:
    head = gzip.decompress(world.image_bytes(9034))
    world.replace_file(9034, gzip.compress(head + bytes(150_000_000), compresslevel=1))
    with pytest.warns(IncompleteWarning, match="unpacks to far more"):
        maps = fetch(data_dir, image_ids=[9034])
    assert statuses(maps) == {9034: "corrupt_on_server"}
    assert strays(data_dir) == []


def test_files_in_both_nifti_versions_are_maps(server: DemoServer, world: World, data_dir: Path) -> None:
    import nibabel

    nib: Any = nibabel
    first = nib.Nifti1Image.from_bytes(gzip.decompress(world.image_bytes(9034)))
    world.replace_file(9034, gzip.compress(nib.Nifti2Image.from_image(first).to_bytes()))
    maps = fetch(data_dir, image_ids=[9034])
    assert nib.load(maps.images[0]).shape == first.shape


def test_a_transfer_that_drips_ends(data_dir: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    record = json.dumps(world.image(9034) | {"file": "https://neurovault.org/media/x"}).encode()  # type: ignore[operator]  # it is there
    collection = json.dumps(world.collection(555)).encode()

    def script(connection: socket.socket, request: Request) -> None:
        if request.path.startswith("/media"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(world.image_bytes(9034)))
            while True:
                connection.sendall(b"\x1f")
                threading.Event().wait(0.02)
        body = record if request.path.startswith("/api/images") else collection
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with raw_server(script) as server:
        monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", server.url)
        with pytest.warns(IncompleteWarning, match="only [0-9]+ bytes came"):
            maps = fetch(data_dir, image_ids=[9034], timeout=1)
    assert statuses(maps) == {9034: "failed"}
    assert strays(data_dir) == []


# A full disk

_FULL_DISK = """
    import resource, sys
    from nvcatalog import fetch_neurovault_ids
    from nvcatalog.errors import NoSpaceError

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1_000, 2_000_000, 20_000_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        try:
            fetch_neurovault_ids(collection_ids=[900], data_dir=f"{sys.argv[1]}/{limit}", verbose=0)
        except NoSpaceError as error:
            print(limit, error)
"""


def test_a_full_disk_ends_a_fetch_and_spoils_nothing(server: DemoServer, world: World, data_dir: Path) -> None:
    world.add_synthetic(OURS, 8, file_bytes=10_000)
    large = world.add_synthetic(OURS, 1, file_bytes=25_000_000)
    command = [sys.executable, "-c", textwrap.dedent(_FULL_DISK), str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("call again") == 3
    assert not list(data_dir.rglob("*.part"))
    for limit in (1_000, 2_000_000, 20_000_000):
        server.reset_log()
        maps = fetch(data_dir / str(limit), collection_ids=[OURS])
        assert len(maps.images) == 9
        assert maps.images[-1].endswith(f"image_{large[0]}.nii.gz")
    assert strays(data_dir) == []
    assert statuses(maps)[large[0]] == "downloaded"
    # Whoever came to the large one had left at most five others under way: what was here stayed here.
    assert len(server.hits("/media/*")) <= 6
