"""What a collection holds beside its maps comes whole, of its kind, under a name made of ids; or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from contextlib import closing
from typing import TYPE_CHECKING, Any

import nibabel
import nilearn.datasets.neurovault as theirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import always, raw_server
from waiting import PATIENCE_S

from nvcatalog import extras, proving, sidecars, storage
from nvcatalog._http import Service
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.demo.extras import pack_archive
from nvcatalog.errors import HostGivenUpError, RefusedError, TransientError
from nvcatalog.extras import LARGEST, Extra, Kind
from nvcatalog.labels import read_labels
from nvcatalog.proving import NotWholeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

nib: Any = nibabel  # untyped
ATLAS, MAP = 14227, 9034
KINDS: tuple[Kind, ...] = ("labels", "surface_left", "surface_right", "nidm_zip", "nidm_ttl")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.001)


@pytest.fixture
def world() -> World:
    """Return an atlas with labels, a map with surfaces, and a collection of one map and a pack of two."""
    world = World.empty()
    world.add_collection(id=1056, images=[{"id": ATLAS, "image_type": "atlas"}])
    world.add_collection(id=555, images=[{"id": MAP}])
    world.add_collection(id=1197, images=[{"id": 16256}])
    world.add_labels(ATLAS, ["Primary motor cortex", "Gyrus & pole"])
    world.add_surfaces(MAP)
    world.add_nidm_pack(1197, "spm_example.nidm")
    return world


@pytest.fixture
def service(server: DemoServer) -> Iterator[Service]:
    with closing(Service("NeuroVault", server.neurovault_url, connections=2, timeout_s=PATIENCE_S)) as service:
        yield service


@pytest.fixture
def every(world: World, server: DemoServer, service: Service) -> dict[Kind, Extra]:
    """Return an extra file of each kind, as the served records name them."""

    def served(path: str) -> Any:
        with service.get(path) as response:
            return json.loads(service.json_body(response))

    [pack_id] = world.pack_ids(1197)
    found = [
        *extras.of_image(served(f"api/images/{ATLAS}/"), 1056),
        *extras.of_image(served(f"api/images/{MAP}/"), 555),
        *extras.of_pack(served(f"api/nidm_results/{pack_id}/"), 1197),
    ]
    return {extra.kind: extra for extra in found}


def content_of(world: World, extra: Extra, server: DemoServer) -> bytes:
    stored = world.file_at(extra.link.removeprefix(server.neurovault_url))
    assert stored is not None
    return stored.read()


def place_of(extra: Extra, server: DemoServer) -> str:
    return extra.link.removeprefix(server.neurovault_url)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# What records name


def test_an_atlas_names_its_labels_a_map_its_surfaces_and_a_pack_its_files(every: dict[Kind, Extra]) -> None:
    pack_id = every["nidm_zip"].item_id
    assert {kind: extra.path for kind, extra in every.items()} == {
        "labels": "collection_1056/image_14227_labels.xml",
        "surface_left": "collection_555/image_9034_left.gii",
        "surface_right": "collection_555/image_9034_right.gii",
        "nidm_zip": f"collection_1197/nidm_{pack_id}.zip",
        "nidm_ttl": f"collection_1197/nidm_{pack_id}.ttl",
    }


@pytest.mark.parametrize("link", [None, "", "None", " n/a ", "null", 7, [], {}])
def test_what_names_no_file_gives_none(link: object) -> None:
    record = {"label_description_file": link, "surface_left_file": link, "zip_file": link, "ttl_file": link}
    assert extras.of_image({"id": 1, **record}, 1) == []
    assert extras.of_image({"id": 1}, 1) == []
    assert extras.of_pack({"id": 1, **record}, 1) == []


def test_no_name_of_the_server_becomes_part_of_a_path() -> None:
    record = {"id": "9034", "surface_left_file": "https://neurovault.org/media/../../x", "name": "../x"}
    assert [extra.path for extra in extras.of_image(record, 555)] == ["collection_555/image_9034_left.gii"]
    with pytest.raises(ValueError, match="without a usable id"):
        extras.of_image(record | {"id": "../9034"}, 555)


def test_all_files_of_one_number_have_names_of_their_own() -> None:
    number = 7
    paths = [extras.extra_path(kind, 3, number) for kind in KINDS]
    paths += [
        storage.image_path(3, number),
        storage.sidecar_path(3, number),
        storage.collection_sidecar_path(3),
        storage.words_path(3, number),
        storage.image_paths(3, number)["resampled_relative_path"],
    ]
    assert len({path.lower() for path in paths}) == 10
    assert [path for path in paths if path.endswith("_metadata.json")] == paths[6:8]


# Downloading


def test_each_arrives_as_it_was_served_and_alone(
    every: dict[Kind, Extra], world: World, server: DemoServer, service: Service, tmp_path: Path
) -> None:
    for extra in every.values():
        before = names(tmp_path)
        proof = extras.download(service, extra, tmp_path)
        data = content_of(world, extra, server)
        path = tmp_path / extra.path
        assert path.read_bytes() == data
        assert names(tmp_path) == sorted([*before, path.name])
        assert (proof.size, proof.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert (proof.shape, proof.voxel_size_mm, proof.dtype) == ((), (), None)
        assert proof.etag
        assert extras.prove(path, extra.kind) == proving.Proof(proof.size, proof.sha256)
    assert len(every) == 5


def test_what_arrives_can_be_used(
    every: dict[Kind, Extra], world: World, service: Service, tmp_path: Path
) -> None:
    for extra in every.values():
        extras.download(service, extra, tmp_path)
    paths = {kind: tmp_path / extra.path for kind, extra in every.items()}
    assert read_labels(paths["labels"]) == [(0, "Primary motor cortex"), (1, "Gyrus & pole")]
    assert nib.load(paths["surface_left"]).darrays[0].data.shape == (162,)
    [first, _] = [world.image_bytes(id_) for id_ in world.image_ids(1197)[-2:]]
    with zipfile.ZipFile(paths["nidm_zip"]) as archive:
        assert archive.read("nidm.ttl") == paths["nidm_ttl"].read_bytes()
        assert archive.read("TStatistic.nii.gz") == first


def test_nilearn_still_reads_a_folder_that_holds_them(
    every: dict[Kind, Extra], world: World, service: Service, tmp_path: Path
) -> None:
    folder = tmp_path / "neurovault"
    for collection_id, image_id in ((1056, ATLAS), (555, MAP), (1197, world.image_ids(1197)[-1])):
        record, collection = world.image(image_id), world.collection(collection_id)
        assert record is not None
        assert collection is not None
        sidecars.write_collection(folder, collection_id, collection)
        sidecars.write_image(folder, collection_id, image_id, record)
        storage.download(
            service,
            world.file_path(image_id),
            folder / storage.image_path(collection_id, image_id),
            announced_size=None,
        )
    for extra in every.values():
        extras.download(service, extra, folder)
    maps = theirs.fetch_neurovault_ids(
        collection_ids=[1056, 555, 1197], mode="offline", data_dir=tmp_path, verbose=0, resample=False
    )
    assert sorted(meta["id"] for meta in maps.images_meta) == sorted([ATLAS, MAP, world.image_ids(1197)[-1]])


def test_those_of_a_private_collection_come_by_its_token(
    world: World, server: DemoServer, service: Service, tmp_path: Path
) -> None:
    world.make_private(1197, "ABCDEFGH")
    world.add_surfaces(16256)
    with service.get("api/images/ABCDEFGH-16256/") as response:
        image = json.loads(service.json_body(response))
    with service.get("api/collections/ABCDEFGH/nidm_results/") as response:
        [pack] = json.loads(service.json_body(response))["results"]
    for extra in (*extras.of_image(image, 1197), *extras.of_pack(pack, 1197)):
        assert "/ABCDEFGH/" in extra.link
        extras.download(service, extra, tmp_path)
        by_id = Extra(extra.kind, extra.item_id, extra.link.replace("ABCDEFGH", "1197"), extra.path)
        with pytest.raises(RefusedError, match="HTTP 403") as caught:
            extras.download(service, by_id, tmp_path)
        assert not caught.value.lasting
    assert len(names(tmp_path)) == 4
    assert not [name for name in names(tmp_path) if "ABCDEFGH" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_transfer_goes_on_where_it_was(
    every: dict[Kind, Extra], world: World, server: DemoServer, service: Service, tmp_path: Path, kind: Kind
) -> None:
    extra = every[kind]
    server.fail(place_of(extra, server), faults.cut(0.5), times=1)
    extras.download(service, extra, tmp_path)
    data = content_of(world, extra, server)
    assert (tmp_path / extra.path).read_bytes() == data
    ranges = [hit.headers.get("range") for hit in server.hits(place_of(extra, server))]
    assert ranges == [None, f"bytes={len(data) // 2}-"]


# What is refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "trouble",
    [faults.html(), faults.status(503), faults.cut(0.0), faults.reset(), faults.wrong_length(7)],
    ids=lambda fault: fault.name,
)
def test_what_may_be_right_next_time_is_tried_again_and_leaves_nothing(
    every: dict[Kind, Extra],
    server: DemoServer,
    service: Service,
    tmp_path: Path,
    kind: Kind,
    trouble: faults.Fault,
) -> None:
    extra = every[kind]
    fault = server.fail(place_of(extra, server), trouble)
    with pytest.raises(TransientError):
        extras.download(service, extra, tmp_path)
    assert len(server.hits(place_of(extra, server))) == 4
    assert names(tmp_path) == []
    fault.remove()
    server.fail(place_of(extra, server), trouble, times=2)
    extras.download(service, extra, tmp_path)
    assert names(tmp_path) == [extra.path.rpartition("/")[2]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("code", "status", "lasting"), [(404, "not_found", True), (403, "failed", False), (410, "not_found", True)]
)
def test_a_refusal_is_not_tried_again(
    every: dict[Kind, Extra],
    server: DemoServer,
    service: Service,
    tmp_path: Path,
    kind: Kind,
    code: int,
    status: str,
    lasting: bool,
) -> None:
    server.fail(place_of(every[kind], server), faults.status(code))
    with pytest.raises(RefusedError, match=f"HTTP {code}") as caught:
        extras.download(service, every[kind], tmp_path)
    assert (caught.value.status, caught.value.lasting) == (status, lasting)
    assert len(server.hits(place_of(every[kind], server))) == 1
    assert names(tmp_path) == []


def test_a_challenge_ends_the_server(
    every: dict[Kind, Extra], server: DemoServer, service: Service, tmp_path: Path
) -> None:
    server.fail("/media/*", faults.challenge())
    with pytest.raises(HostGivenUpError, match="challenge"):
        extras.download(service, every["labels"], tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "link",
    [
        "https://elsewhere.example/media/images/3/x",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "/media/images/3/x",
        "https://neurovault.org.elsewhere.example/x",
    ],
)
def test_a_link_to_anywhere_else_is_not_followed(
    server: DemoServer, service: Service, tmp_path: Path, kind: Kind, link: str
) -> None:
    with pytest.raises(RefusedError, match="leads elsewhere") as caught:
        extras.download(service, Extra(kind, 1, link, "collection_1/x"), tmp_path)
    assert (caught.value.status, caught.value.lasting) == ("failed", False)
    assert server.requests == 0
    assert names(tmp_path) == []


def test_a_redirect_to_another_host_is_not_followed(
    every: dict[Kind, Extra], server: DemoServer, service: Service, tmp_path: Path
) -> None:
    server.fail("/media/*", faults.redirect("http://elsewhere.example/x.xml"))
    with pytest.raises(RefusedError, match="redirects to another host"):
        extras.download(service, every["labels"], tmp_path)


LAUGHS = b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><a>&b;</a>'
PAGE = b"<!DOCTYPE html>\n<html><body>Down for maintenance</body></html>"
XHTML = b"<html xmlns='http://www.w3.org/1999/xhtml'><body>Down</body></html>"
ZIP = pack_archive({"nidm.ttl": b"x" * 1000, "a/b.nii.gz": b"y" * 1000})


def bad_directory(data: bytes) -> bytes:
    """Return an archive whose directory is not where, or not what, its end says."""
    start = data.index(b"PK\1\2")
    return data[:start] + b"PK\1\3" + data[start + 4 :]


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        ("labels", b"", "an empty file"),
        ("labels", b"Frontal pole", "no whole label file: .*syntax error|not well-formed"),
        ("labels", PAGE, "outermost element is <html>"),
        ("labels", XHTML, "outermost element is <html>"),
        ("labels", LAUGHS, "defines entities"),
        ("labels", b"<atlas><data><label", "no whole label file: unclosed token"),
        ("labels", b"<atlas><data>", "no whole label file: no element found"),
        ("labels", b"\xff\xfe<\0a\0>\0\0", "no whole label file"),
        ("surface_left", b"<atlas/>", "no GIfTI file: its outermost element is <atlas>"),
        ("surface_right", XHTML, "no GIfTI file: its outermost element is <html>"),
        ("surface_left", PAGE, "outermost element is <html>"),
        ("surface_left", LAUGHS, "defines entities"),
        ("surface_left", b"<GIFTI><DataArray>", "no whole GIfTI file: no element found"),
        ("surface_left", b"\x1f\x8b\x08gzipped", "no whole GIfTI file"),
        ("nidm_zip", b"", "an empty file"),
        ("nidm_zip", b"P", "no whole zip archive"),
        ("nidm_zip", PAGE, "no zip archive .it starts with"),
        ("nidm_zip", b"\x1f\x8b\x08gzipped", "no zip archive"),
        ("nidm_zip", ZIP[:4], "no whole zip archive"),
        ("nidm_zip", ZIP[: len(ZIP) // 2], "no whole zip archive"),
        ("nidm_zip", ZIP[:-1], "no whole zip archive"),
        ("nidm_zip", ZIP[:-22], "no whole zip archive"),
        ("nidm_zip", ZIP[:10] + ZIP[20:], "no whole zip archive"),
        ("nidm_zip", bad_directory(ZIP), "no whole zip archive: Bad magic number"),
        ("nidm_ttl", b"", "an empty file"),
        ("nidm_ttl", PAGE, "a web page"),
        ("nidm_ttl", b"\xef\xbb\xbf \n<HTML lang='en'>", "a web page"),
        ("nidm_ttl", b"@prefix a: <b> . # caf\xe9", "no text in UTF-8"),
        ("nidm_ttl", "@prefix a: <b> . # café".encode()[:-1], "no text in UTF-8 .unexpected end"),
        ("nidm_ttl", b"PK\3\4\0\0", "a byte that is zero"),
        ("nidm_ttl", b"\x1f\x8b\x08gzipped", "no text in UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_whole_file_of_its_kind_is_found(kind: Kind, data: bytes, why: str, chunk: int) -> None:
    prover = extras._prover(kind)
    for start in range(0, len(data), chunk):
        prover.feed(data[start : start + chunk])
    with pytest.raises(NotWholeError, match=why):
        prover.finish()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("labels", b"<metadata><label><index>1</index><name>A</name></label></metadata>"),
        ("labels", b'<?xml version="1.0" encoding="ISO-8859-1"?><atlas>caf\xe9</atlas>'),
        ("labels", b"\xef\xbb\xbf<atlas/>"),
        ("surface_left", b'<!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/gifti.dtd">\n<GIFTI/>'),
        ("nidm_zip", ZIP),
        ("nidm_zip", pack_archive({})),
        ("nidm_zip", pack_archive({f"{n}": b"" for n in range(1000)})),
        ("nidm_ttl", b"\xef\xbb\xbf@prefix a: <b> ."),
        ("nidm_ttl", "<htmls> a <é> .".encode()),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_what_is_whole_is_taken_however_it_arrives(kind: Kind, data: bytes, chunk: int) -> None:
    prover = extras._prover(kind)
    for start in range(0, len(data), chunk):
        prover.feed(data[start : start + chunk])
    assert prover.finish() == proving.Proof(len(data), hashlib.sha256(data).hexdigest())


def test_an_archive_is_proven_by_its_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../etc/passwd", b"x" * (3 << 20))  # never unpacked: its names do no harm
        archive.comment = b"y" * 60_000
    for read_from in (storage._CHUNK, 5_000_000):
        prover = extras._prover("nidm_zip")
        for start in range(0, len(stream.getvalue()), read_from):
            prover.feed(stream.getvalue()[start : start + read_from])
        assert prover.finish().size == len(stream.getvalue())
    monkeypatch.setattr(extras, "_LONGEST_DIRECTORY", 2000)
    prover = extras._prover("nidm_zip")
    prover.feed(pack_archive({f"file {n}": b"" for n in range(100)}))
    with pytest.raises(NotWholeError, match="its directory has more than 2,000 bytes"):
        prover.finish()


@given(st.integers(1, len(ZIP) - 1))
@settings(max_examples=100)
def test_an_archive_that_is_cut_off_anywhere_is_not_whole(place: int) -> None:
    prover = extras._prover("nidm_zip")
    prover.feed(ZIP[:place])
    with pytest.raises(NotWholeError, match="no whole zip archive"):
        prover.finish()


@given(st.binary(max_size=200), st.integers(0, len(ZIP)), st.sampled_from(KINDS))
@settings(max_examples=300)
def test_no_bytes_do_more_than_be_refused(noise: bytes, place: int, kind: Kind) -> None:
    for data in (noise, ZIP[:place] + noise + ZIP[place + len(noise) :], b"<atlas>" + noise + b"</atlas>"):
        prover = extras._prover(kind)
        prover.feed(data)
        try:
            prover.finish()
        except NotWholeError:
            continue
        assert data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data", [LAUGHS[:-1], PAGE, b"\xff\0garbage", ZIP[:-30]], ids=["XML", "page", "bytes", "zip"]
)
def test_a_file_served_as_announced_that_is_none_of_its_kind_is_refused_for_good(
    every: dict[Kind, Extra], server: DemoServer, service: Service, tmp_path: Path, kind: Kind, data: bytes
) -> None:
    if kind == "nidm_ttl" and data == LAUGHS[:-1]:
        return  # a text like any other
    server.fail(place_of(every[kind], server), faults.wrong_bytes(data))
    with pytest.raises(RefusedError, match="served as announced and unreadable") as caught:
        extras.download(service, every[kind], tmp_path)
    assert (caught.value.status, caught.value.lasting) == ("corrupt_on_server", True)
    assert len(server.hits(place_of(every[kind], server))) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_too_large_is_left_before_it_is_read(
    every: dict[Kind, Extra], service: Service, tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LARGEST, kind, 100)
    monkeypatch.delattr(Service, "chunks")
    with pytest.raises(RefusedError, match="more than the 100 bytes that are taken of such a file"):
        extras.download(service, every[kind], tmp_path)
    assert names(tmp_path) == []


def test_a_file_without_end_is_left_when_it_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pour(connection: Any, request: object) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"2710\r\n%b\r\n" % (b"# x\n" * 2500))

    monkeypatch.setitem(LARGEST, "nidm_ttl", 100_000)
    with (
        raw_server(pour) as server,
        closing(Service("NeuroVault", server.url, connections=1, timeout_s=PATIENCE_S)) as service,
        pytest.raises(RefusedError, match="more than the 100,000 bytes"),
    ):
        extras.download(service, Extra("nidm_ttl", 1, f"{server.url}/x", "x.ttl"), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "nonsense", "1e3"])
def test_a_length_that_cannot_be_does_no_harm(tmp_path: Path, length: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n<atlas/>".encode()
    with (
        raw_server(always(answer)) as server,
        closing(Service("NeuroVault", server.url, connections=1, timeout_s=PATIENCE_S)) as service,
    ):
        try:
            proof = extras.download(service, Extra("labels", 1, f"{server.url}/x", "x.xml"), tmp_path)
        except TransientError:
            assert names(tmp_path) == []
        else:
            assert proof.size == 8


def test_files_here_are_proven_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "nidm_1.zip"
    path.write_bytes(ZIP)
    assert extras.prove(path, "nidm_zip").size == len(ZIP)
    path.write_bytes(ZIP[:-1])
    with pytest.raises(NotWholeError):
        extras.prove(path, "nidm_zip")
    with pytest.raises(FileNotFoundError):
        extras.prove(tmp_path / "nidm_2.zip", "nidm_zip")


def test_what_was_there_stays_until_the_new_one_is_proven(
    every: dict[Kind, Extra], server: DemoServer, service: Service, tmp_path: Path
) -> None:
    path = tmp_path / every["labels"].path
    path.parent.mkdir()
    path.write_bytes(b"what was there")
    server.fail("/media/*", faults.wrong_bytes(b"no XML"))
    with pytest.raises(RefusedError):
        extras.download(service, every["labels"], tmp_path)
    assert path.read_bytes() == b"what was there"
    assert names(tmp_path) == [path.name]
