"""A file is under its name only when it is proven whole; everything else leaves nothing behind."""

from __future__ import annotations

import errno
import gzip
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import always, raw_server
from waiting import PATIENCE_S, then_patient

from nvcatalog import Catalog, proving, records, storage
from nvcatalog._http import Service
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.demo.maps import small_map
from nvcatalog.errors import (
    DataDirError,
    FolderWarning,
    HostGivenUpError,
    InvalidOptionError,
    NoSpaceError,
    RefusedError,
    TransientError,
)
from nvcatalog.proving import NotAMapError, Proof, Prover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nvcatalog.demo.wire import Answer

nib: Any = nibabel  # untyped
REAL = small_map(10426)
IMAGE_ID = 9034
MAP_PATH = "/media/images/555/*"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.001)


def prove(data: bytes, *, chunk: int = 1 << 16) -> Proof:
    prover = Prover()
    for start in range(0, len(data), chunk):
        prover.feed(data[start : start + chunk])
    return prover.finish()


def unpacked(*, header: Callable[[Any], None] = lambda header: None, kind: Any = nib.Nifti1Image) -> bytes:
    """Return an uncompressed map of 4 x 3 x 2 voxels whose header has been tampered with."""
    image = kind(np.arange(24, dtype=np.float32).reshape(4, 3, 2), np.diag([-2.0, 2.0, 2.0, 1.0]))
    data = bytearray(image.to_bytes())
    size = image.header.sizeof_hdr
    fields = type(image.header)(bytes(data[:size]), check=False)
    header(fields)
    data[:size] = fields.binaryblock
    return bytes(data)


def tampered(**fields: Any) -> bytes:
    def tamper(header: Any) -> None:
        for name, value in fields.items():
            header[name] = value

    return gzip.compress(unpacked(header=tamper))


# Proving what is whole


def test_a_proof_says_what_was_found() -> None:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(REAL))
    proof = prove(REAL)
    assert proof.size == len(REAL)
    assert proof.sha256 == hashlib.sha256(REAL).hexdigest()
    assert proof.shape == image.shape
    assert proof.voxel_size_mm == pytest.approx(tuple(map(float, image.header.get_zooms())))
    assert proof.dtype == str(image.get_data_dtype())


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 20])
def test_a_proof_does_not_depend_on_how_the_bytes_arrive(chunk: int) -> None:
    assert prove(REAL, chunk=chunk) == prove(REAL)


def with_extension(size: int) -> bytes:
    """Return a map with a header extension, as AFNI writes them, longer than what is kept of a file."""
    image = nib.Nifti1Image(np.ones((4, 3, 2), dtype=np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("afni", b"x" * size))
    return gzip.compress(image.to_bytes(), compresslevel=0)


def one_voxel() -> bytes:
    return gzip.compress(nib.Nifti1Image(np.ones((1, 1, 1), dtype=np.uint8), np.eye(4)).to_bytes())


def big_endian() -> bytes:
    header = nib.Nifti1Header(endianness=">")
    return gzip.compress(nib.Nifti1Image(np.ones((4, 3, 2), dtype=">f4"), np.eye(4), header).to_bytes())


def in_members(data: bytes, *, size: int) -> bytes:
    return b"".join(gzip.compress(data[start : start + size]) for start in range(0, len(data), size))


@pytest.mark.parametrize("chunk", [100, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(unpacked(kind=nib.Nifti2Image)),
        big_endian(),
        one_voxel(),
        with_extension(100_000),
        in_members(unpacked(), size=50),
        in_members(unpacked(), size=200),
        gzip.compress(b"") + REAL,
        REAL + gzip.compress(b""),
        REAL + bytes(1000),
        gzip.compress(gzip.decompress(REAL) + b"more than was declared" * 10_000),
        tampered(descrip=b"\xff" * 80),
        tampered(qform_code=77, sform_code=-3),
        tampered(pixdim=[np.nan, -1, 0, np.inf, 0, 0, 0, 0]),
    ],
    ids=[
        "NIfTI-2",
        "big-endian",
        "one voxel",
        "long extension",
        "many members",
        "a header in two members",
        "an empty member before",
        "an empty member behind",
        "padding behind",
        "more voxels than declared",
        "odd description",
        "odd codes",
        "odd voxel sizes",
    ],
)
def test_what_nibabel_reads_is_a_map(data: bytes, chunk: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(1, logger="nibabel.global"):
        proof = prove(data, chunk=chunk)
    assert proof.sha256 == hashlib.sha256(data).hexdigest()
    assert caplog.records == []  # nibabel would write its complaints to stderr
    with np.errstate(all="ignore"):
        head = gzip.decompress(data)
        kind = nib.Nifti2Image if head[4:7] == b"n+2" else nib.Nifti1Image
        assert kind.from_bytes(head).shape == proof.shape


def test_files_here_are_proven_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "image_1.nii.gz"
    path.write_bytes(REAL)
    assert proving.prove(path) == prove(REAL)
    path.write_bytes(REAL[:-1])
    with pytest.raises(NotAMapError, match="cut off"):
        proving.prove(path)
    with pytest.raises(FileNotFoundError):
        proving.prove(tmp_path / "image_2.nii.gz")
    os.mkfifo(tmp_path / "image_3.nii.gz")
    with pytest.raises(OSError, match="a pipe"):  # for whose first byte one would wait for ever
        proving.prove(tmp_path / "image_3.nii.gz")


# Proving what is not


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "an empty file"),
        (bytes(1000), "not a whole gzip file"),
        (b"<html><body>Down for maintenance</body></html>", "not a whole gzip file"),
        (gzip.decompress(REAL), "not a whole gzip file"),
        (zlib.compress(gzip.decompress(REAL)), "not a whole gzip file"),
        (b"\x1f\x8b", "cut off"),
        (REAL[:1], "cut off"),
        (REAL[:20], "cut off"),
        (REAL[: len(REAL) // 2], "cut off"),
        (REAL[:-1], "cut off"),
        (REAL[:-8], "cut off"),
        (REAL[:-8] + bytes(8), "not a whole gzip file"),
        (REAL + b"garbage", "not a whole gzip file"),
        (REAL + REAL[:1000], "cut off"),
        (REAL + bytes(10) + b"garbage", "not a whole gzip file"),
        (gzip.compress(b""), "no NIfTI header"),
        (gzip.compress(b"<html></html>"), "no NIfTI header"),
        (gzip.compress(gzip.decompress(REAL)[:300]), "no NIfTI header"),
        (gzip.compress(bytes(100_000)), "no NIfTI header"),
        (gzip.compress(REAL), "no NIfTI header"),
        (gzip.compress(gzip.decompress(REAL)[:-1]), "that its header declares"),
        (gzip.compress(gzip.decompress(REAL)[:400]), "that its header declares"),
        (tampered(magic=b"ni1"), "no NIfTI header"),
        (tampered(magic=b"n+3"), "no NIfTI header"),
        (tampered(magic=b""), "no NIfTI header"),
        (tampered(dim=[3, -4, 3, 2, 1, 1, 1, 1]), "declares the shape"),
        (tampered(dim=[3, 0, 3, 2, 1, 1, 1, 1]), "declares the shape"),
        (tampered(dim=[3, -1, 1, 1, 1, 1, 1, 1], glmin=-5), "declares the shape"),
        (tampered(dim=[0, 4, 3, 2, 1, 1, 1, 1]), "declares the shape"),
        (tampered(dim=[7, *[32767] * 7]), "that its header declares"),
        (tampered(dim=[3, 4, 3, 3, 1, 1, 1, 1]), "that its header declares"),
        (tampered(datatype=64), "that its header declares"),
        (tampered(datatype=0), "cannot be read"),
        (tampered(datatype=7777), "cannot be read"),
        (tampered(vox_offset=np.nan), "cannot be read"),
        (tampered(vox_offset=np.inf), "cannot be read"),
        (tampered(vox_offset=-1e30), "cannot be read"),
        (tampered(vox_offset=100), "cannot be read"),
        (tampered(vox_offset=1e30), "that its header declares"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("chunk", [13, 1 << 20])
def test_what_is_no_whole_map_is_refused(
    data: bytes, why: str, chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(1, logger="nibabel.global"), pytest.raises(NotAMapError, match=why):
        prove(data, chunk=chunk)
    assert caplog.records == []  # nibabel would write its complaints to stderr


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(unpacked() + bytes(200_000_000), compresslevel=1)
    prover = Prover()
    fed = 0
    for start in range(0, len(bomb), 10_000):
        fed += 1
        prover.feed(bomb[start : start + 10_000])
        if prover.trouble:
            break
    assert fed * 10_000 < len(bomb) / 2
    with pytest.raises(NotAMapError, match="far more than the 448 bytes"):
        prover.finish()


@pytest.mark.parametrize(
    "piece",
    [gzip.compress(b"", mtime=0), bytes(20), b"\0\0\0\xff\xff"],
    ids=["empty members", "padding", "empty blocks"],
)
@pytest.mark.parametrize("behind", [b"", REAL], ids=["alone", "behind a map"])
def test_what_unpacks_to_nothing_for_ever_is_no_map(
    monkeypatch: pytest.MonkeyPatch, piece: bytes, behind: bytes
) -> None:
    monkeypatch.setattr(proving, "_MOST_BEHIND_VOXELS", 100_000)
    prover = Prover()
    prover.feed(behind or gzip.compress(b"", mtime=0)[:10])
    while prover.trouble is None and prover.size < 10_000_000:
        prover.feed(piece * 1000)
    assert prover.size < 3_000_000
    with pytest.raises(NotAMapError):
        prover.finish()


def test_a_header_that_declares_more_than_anyone_has_is_refused_before_its_voxels_come() -> None:
    prover = Prover()
    prover.feed(tampered(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]) + gzip.compress(bytes(1000)))
    assert "17,179,869,184 are the most that is taken" in str(prover.trouble)


@pytest.mark.parametrize(
    "fields",
    [
        {"dim": [3, 2**40, 2**40, 2**40, 1, 1, 1, 1]},
        {"dim": [3, -(2**40), 1, 1, 1, 1, 1, 1]},
        {"dim": [-3, 4, 3, 2, 1, 1, 1, 1]},
        {"dim": [200, 4, 3, 2, 1, 1, 1, 1]},
        {"dim": [7, 2**62, 2**62, 2**62, 2**62, 2**62, 2**62, 2**62]},
        {"vox_offset": 2**62},
        {"vox_offset": -(2**62)},
        {"datatype": 2048, "dim": [3, 4, 3, 2, 1, 1, 1, 1]},
        {"bitpix": 0, "datatype": 0},
    ],
    ids=repr,
)
def test_a_second_nifti_header_is_believed_no_more_than_a_first(fields: dict[str, Any]) -> None:
    def tamper(header: Any) -> None:
        for name, value in fields.items():
            header[name] = value

    with pytest.raises(NotAMapError):
        prove(gzip.compress(unpacked(header=tamper, kind=nib.Nifti2Image)))


def test_proving_a_large_map_takes_little_memory() -> None:
    program = """
        import gzip, resource, numpy, nibabel
        from nvcatalog.proving import Prover
        image = nibabel.Nifti1Image(numpy.zeros((300, 300, 300), dtype=numpy.float64), numpy.eye(4))
        header = image.header
        header.set_data_offset(352)
        packed = gzip.compress(header.binaryblock + bytes(4)) + gzip.compress(bytes(54_000_000)) * 4
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        prover = Prover()
        prover.feed(packed)
        assert prover.finish().shape == (300, 300, 300)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 50_000_000  # the map is 216 MB


# Proving what has been damaged

_DAMAGES = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, len(REAL) - 1), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, len(REAL)), st.just(0)),
    st.tuples(st.just("zero"), st.integers(0, len(REAL) - 1), st.integers(1, 5000)),
    st.tuples(st.just("leave out"), st.integers(0, len(REAL) - 1), st.integers(1, 5000)),
    st.tuples(st.just("repeat"), st.integers(0, len(REAL) - 1), st.integers(1, 5000)),
    st.tuples(st.just("append"), st.integers(0, 255), st.integers(1, 100)),
    st.tuples(st.just("swap"), st.integers(0, len(REAL) - 1), st.integers(0, len(REAL) - 1)),
)


def damaged(data: bytes, how: str, first: int, second: int) -> bytes:
    if how == "flip":
        return data[:first] + bytes([data[first] ^ second]) + data[first + 1 :]
    if how == "cut":
        return data[:first]
    if how == "zero":
        return data[:first] + bytes(len(data[first : first + second])) + data[first + second :]
    if how == "leave out":
        return data[:first] + data[first + second :]
    if how == "repeat":
        return data[: first + second] + data[first:]
    if how == "append":
        return data + bytes([first]) * second
    changed = bytearray(data)
    changed[first], changed[second] = changed[second], changed[first]
    return bytes(changed)


@given(st.lists(_DAMAGES, min_size=1, max_size=3), st.sampled_from([1000, 1 << 20]))
@settings(max_examples=400, derandomize=True)
def test_damage_is_found_unless_it_touches_no_voxel(damages: list[tuple[str, int, int]], chunk: int) -> None:
    data = REAL
    for how, first, second in damages:
        data = damaged(data, how, first % len(data), second % len(data)) if data else data
    try:
        proof = prove(data, chunk=chunk)
    except NotAMapError:
        return
    # What gzip cannot see: its header's name and time, and padding. The content is the same.
    assert gzip.decompress(data) == gzip.decompress(REAL)
    assert proof.sha256 == hashlib.sha256(data).hexdigest()


def test_every_single_cut_is_found_and_every_flipped_bit_that_matters() -> None:
    whole = gzip.compress(unpacked(), mtime=0)
    for place in range(len(whole)):
        with pytest.raises(NotAMapError):
            prove(whole[:place])
        for bit in range(8):
            data = damaged(whole, "flip", place, 1 << bit)
            try:
                prove(data)
            except NotAMapError:
                continue
            # gzip's own header, and bits of its code tables that nothing uses: the content is the same.
            assert gzip.decompress(data) == unpacked()


@given(st.binary(min_size=348, max_size=348), st.sampled_from(["first", "second"]), st.data())
@settings(max_examples=300, derandomize=True)
def test_no_header_does_more_than_be_refused(noise: bytes, kind: str, data: st.DataObject) -> None:
    head = bytearray(unpacked() if kind == "first" else unpacked(kind=nib.Nifti2Image))
    size = 348 if kind == "first" else 540
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    head[start:stop] = (noise * 2)[: stop - start]
    head[slice(344, 348) if kind == "first" else slice(4, 8)] = b"n+1\0" if kind == "first" else b"n+2\0"
    try:
        proof = prove(gzip.compress(bytes(head)))
    except NotAMapError:
        return
    assert min(proof.shape) >= 1
    assert len(proof.voxel_size_mm) == min(len(proof.shape), 3)


# Downloading


@pytest.fixture
def service(server: DemoServer) -> Iterator[Service]:
    with closing(Service("NeuroVault", server.neurovault_url, connections=6, timeout_s=PATIENCE_S)) as service:
        yield service


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "collection_555" / f"image_{IMAGE_ID}.nii.gz"


def download(service: Service, world: World, target: Path, *, announced: int | None = None) -> Proof:
    return storage.download(service, world.file_path(IMAGE_ID), target, announced_size=announced)


def size_of(world: World) -> int:
    return len(world.image_bytes(IMAGE_ID))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def asked(server: DemoServer) -> list[tuple[str | None, str | None]]:
    """Return ``Range`` and ``If-Range`` of each request for a file."""
    return [(hit.headers.get("range"), hit.headers.get("if-range")) for hit in server.hits("/media/*")]


def other_file(data: bytes, etag: str = '"another"', *, code: int = 200, **headers: str) -> faults.Fault:
    """Answer with another file."""
    return faults.status(code, data, {"ETag": etag, **headers}, "application/octet-stream")


def test_a_file_arrives_whole_and_alone(server: DemoServer, world: World, service: Service, target: Path) -> None:
    proof = download(service, world, target, announced=size_of(world))
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)
    assert names(target.parent) == [target.name]
    assert proof.size == size_of(world)
    assert proof.etag
    assert proof.last_modified
    assert server.requests == 1
    assert server.log[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "setup", [{"etags": False}, {"ranges": False}, {"etags": False, "ranges": False}], ids=str
)
def test_a_file_arrives_from_either_set_up_of_the_site(setup: dict[str, bool], world: World, target: Path) -> None:
    with DemoServer(world, **setup) as server:
        server.fail("/media/*", faults.cut(0.5), times=1)
        with closing(Service("NeuroVault", server.neurovault_url, connections=1, timeout_s=PATIENCE_S)) as service:
            download(service, world, target, announced=size_of(world))
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)
    assert len(asked(server)) == 2


def test_a_cut_off_transfer_goes_on_where_it_was(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    etag = world.file_at(world.file_path(IMAGE_ID)).etag  # type: ignore[union-attr]  # it is there
    server.fail("/media/*", faults.cut(0.25), times=1)
    server.fail("/media/*", faults.cut(0.5), times=1)
    download(service, world, target, announced=size_of(world))
    quarter = size_of(world) // 4
    rest = quarter + (size_of(world) - quarter) // 2
    assert asked(server) == [(None, None), (f"bytes={quarter}-", etag), (f"bytes={rest}-", etag)]
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


def test_a_stalled_transfer_goes_on_where_it_was(server: DemoServer, world: World, target: Path) -> None:
    with closing(Service("NeuroVault", server.neurovault_url, connections=1, timeout_s=1)) as service:
        server.fail("/media/*", then_patient(service, faults.stall(0.5, 3600)), times=1)
        download(service, world, target, announced=size_of(world))
    half = size_of(world) // 2
    assert [range_ for range_, _ in asked(server)] == [None, f"bytes={half}-"]
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


def test_without_an_etag_a_transfer_begins_anew(world: World, target: Path) -> None:
    with DemoServer(world, etags=False) as server:
        server.fail("/media/*", faults.cut(0.5), times=1)
        with closing(Service("NeuroVault", server.neurovault_url, connections=1, timeout_s=PATIENCE_S)) as service:
            download(service, world, target)
    assert asked(server) == [(None, None), (None, None)]


def test_a_weak_etag_does_not_do(server: DemoServer, world: World, service: Service, target: Path) -> None:
    weak = faults.Fault("weak", lambda answer: replace(answer, headers=(("ETag", 'W/"1"'),)))
    server.fail("/media/*", faults.together(weak, faults.cut(0.5)), times=1)
    download(service, world, target)
    assert asked(server) == [(None, None), (None, None)]
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


def test_a_file_replaced_between_two_tries_arrives_whole(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    new = small_map(1)
    assert len(new) != size_of(world)
    server.fail("/media/*", faults.cut(0.5), times=1)
    server.fail("/media/*", other_file(new), times=1)  # If-Range does not hold: 200, and the whole new file
    proof = download(service, world, target)
    assert target.read_bytes() == new
    assert proof.etag == '"another"'


def test_a_part_of_another_file_is_not_put_behind_this_one(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    half = size_of(world) // 2
    part = world.image_bytes(IMAGE_ID)[half:]
    server.fail("/media/*", faults.cut(0.5), times=1)
    server.fail(
        "/media/*",
        other_file(part, code=206, **{"Content-Range": f"bytes {half}-{size_of(world) - 1}/{size_of(world)}"}),
        times=1,
    )
    download(service, world, target)
    assert [range_ for range_, _ in asked(server)] == [None, f"bytes={half}-", None]
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


def test_parts_of_different_files_under_one_etag_make_neither_a_file_nor_a_refusal(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    half = size_of(world) // 2
    etag = world.file_at(world.file_path(IMAGE_ID)).etag  # type: ignore[union-attr]  # it is there
    range_ = {"Content-Range": f"bytes {half}-{size_of(world) - 1}/{size_of(world)}"}
    other = other_file(b"x" * (size_of(world) - half), etag, code=206, **range_)
    for announced in (size_of(world), None):
        server.fail("/media/*", faults.cut(0.5), times=1)
        server.fail("/media/*", other, times=1)
        download(service, world, target, announced=announced)
        assert target.read_bytes() == world.image_bytes(IMAGE_ID)
        target.unlink()
        for _ in range(2):
            server.fail("/media/*", faults.cut(0.5), times=1)
            server.fail("/media/*", other, times=1)
        with pytest.raises(TransientError, match="make no file"):
            download(service, world, target, announced=announced)
        assert names(target.parent) == []


@pytest.mark.parametrize("content_range", ["bytes 0-10/100", "bytes 5-", "", "nonsense"])
def test_a_part_that_was_not_asked_for_is_not_used(
    server: DemoServer, world: World, service: Service, target: Path, content_range: str
) -> None:
    server.fail("/media/*", faults.cut(0.5), times=1)
    wrong = faults.Fault(
        "another part", lambda answer: replace(answer, status=206, headers=(("Content-Range", content_range),))
    )
    server.fail("/media/*", wrong, times=1)
    download(service, world, target)
    assert [range_ is None for range_, _ in asked(server)] == [True, False, True]
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


def test_a_range_that_cannot_be_had_makes_the_transfer_begin_anew(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    server.fail("/media/*", faults.cut(0.5), times=1)
    server.fail("/media/*", faults.status(416), times=1)
    download(service, world, target)
    assert [range_ is None for range_, _ in asked(server)] == [True, False, True]
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


def test_trouble_between_two_parts_does_not_lose_the_first(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    server.fail("/media/*", faults.cut(0.5), times=1)
    server.fail("/media/*", faults.status(503), times=1)
    server.fail("/media/*", faults.html(), times=1)
    download(service, world, target, announced=size_of(world))
    half = f"bytes={size_of(world) // 2}-"
    assert [range_ for range_, _ in asked(server)] == [None, half, half, half]
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


@pytest.mark.parametrize("encoding", ["utf-8", "gzip", "x-gzip", "deflate"])
def test_the_bytes_are_kept_as_sent_whatever_their_encoding_is_said_to_be(
    server: DemoServer, world: World, service: Service, target: Path, encoding: str
) -> None:
    named = faults.Fault(
        encoding, lambda answer: replace(answer, headers=(*answer.headers, ("Content-Encoding", encoding)))
    )
    server.fail("/media/*", named)
    server.fail("/media/*", faults.cut(0.5), times=1)
    download(service, world, target, announced=size_of(world))
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


# What is refused


@pytest.mark.parametrize(
    "trouble",
    [
        faults.html(),
        faults.status(503),
        faults.cut(0.5),
        faults.cut(0.0),
        faults.reset(),
        faults.wrong_length(7),
        faults.wrong_length(-7),
        faults.wrong_bytes(b""),
        faults.wrong_bytes(REAL),
        faults.wrong_bytes(b"garbage"),
    ],
    ids=lambda fault: fault.name,
)
def test_what_may_be_right_next_time_is_tried_again_and_leaves_nothing(
    server: DemoServer, world: World, service: Service, target: Path, trouble: faults.Fault
) -> None:
    fault = server.fail("/media/*", trouble)
    with pytest.raises(TransientError):
        download(service, world, target, announced=size_of(world))
    assert server.requests == 4
    assert names(target.parent) == []
    fault.remove()
    server.fail("/media/*", trouble, times=3)
    download(service, world, target, announced=size_of(world))
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)


def test_a_file_of_another_size_is_not_even_read(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    with pytest.raises(TransientError, match=f"says 7 bytes, the server {size_of(world):,}"):
        download(service, world, target, announced=7)
    assert names(target.parent) == []


def test_files_of_another_size_do_not_end_the_server(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    for _ in range(30):
        with pytest.raises(TransientError, match="says 7 bytes"):
            download(service, world, target, announced=7)
    assert service.health.given_up is None


def test_a_file_that_never_ends_is_left_when_it_is_too_long(tmp_path: Path) -> None:
    def pour(connection: Any, request: object) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"%x\r\n%b\r\n" % (len(REAL), REAL))

    for announced, error in ((100_000, TransientError), (None, RefusedError), (-5, RefusedError)):
        with (
            raw_server(pour) as server,
            closing(Service("NeuroVault", server.url, connections=1, timeout_s=PATIENCE_S)) as service,
            pytest.raises(error),
        ):
            storage.download(service, "x", tmp_path / "image_1.nii.gz", announced_size=announced)
    assert names(tmp_path) == []


def test_what_is_no_map_takes_no_room_on_the_disk(tmp_path: Path) -> None:
    garbage = b"no map" * 1_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(garbage) + garbage
    with (
        raw_server(always(answer)) as server,
        closing(Service("NeuroVault", server.url, connections=1, timeout_s=PATIENCE_S)) as service,
        (tmp_path / "x").open("w+b") as file,
    ):
        transfer = storage._Transfer(service, "x", file, len(garbage), Prover)
        with pytest.raises(RefusedError, match="served as announced and unreadable"):
            transfer.run()
        file.flush()
        assert (tmp_path / "x").stat().st_size < 600_000


def test_no_size_is_believed_that_no_file_may_have() -> None:
    assert records.LARGEST_FILE == proving.LARGEST


@pytest.mark.parametrize("announced", [10**12, None])
def test_a_file_larger_than_any_map_is_left_before_it_is_read(
    server: DemoServer, world: World, service: Service, target: Path, announced: int | None
) -> None:
    server.fail("/media/*", faults.Fault("vast", lambda answer: replace(answer, content_length=10**12)))
    with pytest.raises(RefusedError, match="more than the 17,179,869,184 bytes that are taken"):
        download(service, world, target, announced=announced)
    assert server.requests == 1
    assert names(target.parent) == []


def test_a_file_without_any_length_that_ends_early_is_not_refused_for_good(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + REAL[:1000]
    with (
        raw_server(always(answer)) as server,
        closing(Service("NeuroVault", server.url, connections=1, timeout_s=PATIENCE_S)) as service,
        pytest.raises(RefusedError, match="cut off") as caught,
    ):
        storage.download(service, "x", tmp_path / "image_1.nii.gz", announced_size=None)
    assert not caught.value.lasting


@pytest.mark.parametrize(
    ("code", "status", "lasting"),
    [(404, "not_found", True), (410, "not_found", True), (403, "failed", False), (401, "failed", False)],
)
def test_a_refusal_is_not_tried_again(
    server: DemoServer, world: World, service: Service, target: Path, code: int, status: str, lasting: bool
) -> None:
    server.fail("/media/*", faults.status(code))
    with pytest.raises(RefusedError, match=f"HTTP {code}") as caught:
        download(service, world, target)
    assert (caught.value.status, caught.value.lasting) == (status, lasting)
    assert server.requests == 1
    assert names(target.parent) == []


@pytest.mark.parametrize("code", [403, 404])
def test_pages_in_place_of_files_do_not_end_the_server(
    server: DemoServer, world: World, service: Service, target: Path, code: int
) -> None:
    server.fail("/media/*", faults.status(code))
    for _ in range(110):
        with pytest.raises(RefusedError):
            download(service, world, target)
    assert service.health.given_up is None


def test_a_challenge_in_place_of_a_file_ends_the_server(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    server.fail("/media/*", faults.challenge())
    with pytest.raises(HostGivenUpError, match="challenge"):
        download(service, world, target)
    assert service.health.blocked
    assert names(target.parent) == []


@pytest.mark.parametrize(
    "data",
    [
        REAL[:-10],
        b"",
        b"no map",
        gzip.compress(b"no map"),
        gzip.decompress(REAL),
        REAL[:100] + bytes(len(REAL) - 100),
    ],
    ids=["cut off", "empty", "garbage", "gzipped garbage", "plain", "zeros"],
)
def test_a_file_served_as_announced_that_is_no_map_is_refused_for_good(
    server: DemoServer, world: World, service: Service, target: Path, data: bytes
) -> None:
    world.replace_file(IMAGE_ID, data)
    with pytest.raises(RefusedError, match="served as announced and unreadable") as caught:
        download(service, world, target, announced=len(data))
    assert (caught.value.status, caught.value.lasting) == ("corrupt_on_server", True)
    assert server.requests == 1
    assert names(target.parent) == []


def test_what_was_there_stays_until_the_new_one_is_proven(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    target.parent.mkdir()
    target.write_bytes(b"what was there")
    server.fail("/media/*", faults.cut(0.5))
    with pytest.raises(TransientError):
        download(service, world, target)
    assert target.read_bytes() == b"what was there"
    server.heal()
    download(service, world, target)
    assert target.read_bytes() == world.image_bytes(IMAGE_ID)
    assert names(target.parent) == [target.name]


def test_an_interrupted_transfer_leaves_nothing(
    server: DemoServer, world: World, service: Service, target: Path
) -> None:
    def interrupt(answer: Answer) -> Answer:
        service.health.interrupt()
        return answer

    server.fail("/media/*", faults.Fault("interrupted", interrupt))
    with pytest.raises(HostGivenUpError, match="interrupted"):
        download(service, world, target)
    assert names(target.parent) == []


def test_a_name_that_is_a_folder_is_an_error_and_leaves_nothing(
    world: World, service: Service, target: Path
) -> None:
    target.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        download(service, world, target)
    assert names(target.parent) == [target.name]


# A full disk


_FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from nvcatalog import storage
    from nvcatalog._http import Service
    from nvcatalog.errors import NoSpaceError

    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    folder = Path(sys.argv[1])
    service = Service("NeuroVault", sys.argv[2], connections=1, timeout_s=300)
    for write in (
        lambda: storage.download(service, sys.argv[3], folder / "image_1.nii.gz", announced_size=None),
        lambda: storage.write_whole(folder / "record.json", b"x" * 20_000),
    ):
        try:
            write()
        except NoSpaceError as error:
            print(error)
"""


def test_a_full_disk_is_said_and_leaves_nothing(server: DemoServer, world: World, tmp_path: Path) -> None:
    assert size_of(world) > 10_000
    (tmp_path / "record.json").write_text("old")
    arguments = [str(tmp_path), server.neurovault_url, world.file_path(IMAGE_ID)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_FULL_DISK), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    said = done.stdout.splitlines()
    assert len(said) == 2
    assert all("Free some space and call again" in line for line in said)
    assert names(tmp_path) == ["record.json"]
    assert (tmp_path / "record.json").read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_only_at_the_end_is_said_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(NoSpaceError, match="Free some space"):
        storage.write_whole(tmp_path / "record.json", b"{}")
    assert names(tmp_path) == []
    with pytest.raises(NoSpaceError, match="Free some space"):
        storage.make_folder(tmp_path / "neurovault")


# Sidecars


def test_json_is_whole_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "image_1_metadata.json"
    values = [{"value": "x" * 200_000}, {"value": "y"}]
    storage.write_json(path, values[0])
    stop = threading.Event()
    seen = []

    def read() -> None:
        while not stop.is_set():
            seen.append(json.loads(path.read_text()))

    reader = threading.Thread(target=read)
    reader.start()
    for number in itertools.count():
        storage.write_json(path, values[number % 2])
        if number >= 200 and len(seen) >= 20:
            break
    stop.set()
    reader.join()
    assert all(value in values for value in seen)
    assert names(tmp_path) == [path.name]


def test_json_keeps_what_people_write(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    storage.write_json(path, {"Unicode clé": "日本 🧠", "lone": "\ud800"})
    assert json.loads(path.read_bytes()) == {"Unicode clé": "日本 🧠", "lone": "?"}


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="Circular"):
        storage.write_json(path, endless)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["record.json"]


def test_folders_that_are_gone_need_no_sync(tmp_path: Path) -> None:
    storage.sync_folders({tmp_path, tmp_path / "gone"})
    assert list(tmp_path.iterdir()) == []


# Places


def test_paths_are_made_of_ids_as_nilearn_does() -> None:
    assert storage.image_path(555, 9034) == "collection_555/image_9034.nii.gz"
    assert storage.sidecar_path(555, 9034) == "collection_555/image_9034_metadata.json"
    assert storage.collection_sidecar_path(555) == "collection_555/collection_metadata.json"
    assert storage.words_path(555, 9034) == "collection_555/neurosynth_words_for_image_9034.json"
    assert storage.image_paths(555, 9034) == {
        "relative_path": "collection_555/image_9034.nii.gz",
        "resampled_relative_path": "collection_555/image_9034_resampled.nii.gz",
    }


def test_a_file_counts_with_its_recorded_size_only(tmp_path: Path) -> None:
    path = tmp_path / "image_1.nii.gz"
    assert "is gone" in (storage.why_not_here(path, 3) or "")
    path.write_bytes(b"abc")
    assert storage.why_not_here(path, 3) is None
    assert "has 3 bytes, 4 are recorded" in (storage.why_not_here(path, 4) or "")


def test_the_folder_says_what_it_is_and_can_be_left_out_of_backups(tmp_path: Path) -> None:
    folder = tmp_path / "neurovault"
    storage.make_folder(folder)
    assert (folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    (folder / "README.md").write_text("my own notes")
    storage.make_folder(folder)
    assert (folder / "README.md").read_text() == "my own notes"


@pytest.mark.parametrize("below", ["", "/below/that"])
def test_a_folder_below_a_file_is_an_error_that_names_the_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(DataDirError, match="a file is a file"):
        storage.data_folder(f"{tmp_path}/a file{below}")


@pytest.mark.parametrize("odd", [3, ["/tmp/a"], ("a", "b"), b"a", True, {"data_dir": "a"}, object])
def test_what_is_no_path_makes_no_folder(odd: Any) -> None:
    with pytest.raises(
        InvalidOptionError, match=rf"data_dir is {re.escape(repr(odd))}, a \w+; give a path"
    ) as told:
        storage.data_folder(odd)
    assert isinstance(told.value, TypeError)


def test_the_first_folder_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "second" / "neurovault").mkdir(parents=True)
    monkeypatch.setenv("NILEARN_SHARED_DATA", str(tmp_path / "first"))
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "second"))
    assert storage.data_folder() == tmp_path / "second" / "neurovault"
    assert storage.data_folder(tmp_path / "third") == tmp_path / "third" / "neurovault"
    assert not (tmp_path / "third").exists()


def test_that_the_default_is_there_and_what_a_variable_names_is_not_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Path(os.environ["HOME"], "nilearn_data", "neurovault")
    default.mkdir(parents=True)
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "fresh"))

    named = tmp_path / "fresh"
    text = f"{default} is used.* {named}/neurovault, which .* is not there yet.* data_dir='{named}'"
    with pytest.warns(FolderWarning, match=text) as warned:
        Catalog()
    assert warned[0].filename == __file__
    assert storage.data_folder() == default  # and nothing is said: warnings are errors here

    (tmp_path / "fresh" / "neurovault").mkdir(parents=True)
    assert storage.data_folder() == tmp_path / "fresh" / "neurovault"
    monkeypatch.setenv("NILEARN_DATA", f"/proc/cannot be made{os.pathsep}{default.parent}")
    assert storage.data_folder() == default
