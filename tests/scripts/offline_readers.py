"""Many processes read one folder offline: every answer is right, and somebody who writes is not kept waiting.

python tests/scripts/offline_readers.py                                 # 4 processes, 200 calls each
python tests/scripts/offline_readers.py --processes 64 --calls 0 --writer-calls 30
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World


def read(folder: Path, seed: int, calls: int, stop: Path, ids: list[int]) -> dict[str, Any]:
    """Fetch some of the images offline, again and again, and count the answers that are right."""
    warnings.simplefilter("error")
    waits: list[float] = []
    draw, right = random.Random(seed), 0
    while len(waits) < max(1, calls) or (not calls and not stop.exists()):
        wanted = draw.sample(ids, 5)
        started = time.monotonic()
        maps = fetch_neurovault_ids(image_ids=wanted, data_dir=folder, mode="offline", verbose=0)
        waits.append(time.monotonic() - started)
        named = [f"image_{id_}.nii.gz" for id_ in wanted]
        if len(waits) == 1:
            print("reading", flush=True)
        right += (
            [meta["id"] for meta in maps.images_meta] == wanted
            and [Path(path).name for path in maps.images] == named
            and maps.report.counts == {"cached": len(wanted)}
        )
    return {"right": right, "calls": len(waits), "longest": max(waits, default=0.0)}


def write(folder: Path, calls: int) -> list[float]:
    """Land a row at a time, as a fetch does, and return how long each took."""
    store, waits = Store(folder / "neurovault"), []
    for number in range(calls):
        batch = Batch()
        batch.add_record("collection", {"id": 1, "name": f"name {number}"})
        started = time.monotonic()
        store.land(batch)
        waits.append(time.monotonic() - started)
        time.sleep(random.uniform(0, 0.5))
    return waits


def filled(folder: Path, images: int) -> list[int]:
    """Fetch images into a folder, and return their ids."""
    world = World.empty()
    ids = world.add_synthetic(1, images, file_bytes=20_000)
    with DemoServer(world) as server:
        os.environ.update(server.environment)
        fetch_neurovault_ids(image_ids=ids, data_dir=folder, verbose=0)
    Catalog(folder).snapshot()
    return ids


def run(folder: Path, options: argparse.Namespace) -> None:
    """Let readers, and a writer where one is asked for, loose on a folder, and check what they got."""
    ids, stop = filled(folder, options.images), folder / "stop"
    jobs = [json.dumps([str(folder), seed, options.calls, str(stop), ids]) for seed in range(options.processes)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen([sys.executable, __file__, "--job", job], **pipes) for job in jobs]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
        if options.writer_calls:
            waits = write(folder, options.writer_calls)
            median, most = statistics.median(waits), max(waits)
            print(f"{len(waits)} landings: median {median:.2f} s, longest {most:.2f} s")
            stop.touch()
        told = [json.loads(reader.communicate()[0] or "{}") for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
    assert not any(reader.returncode for reader in readers), "a reader failed; its error is above"
    calls, right = (sum(each[name] for each in told) for name in ("calls", "right"))
    longest = max(each["longest"] for each in told)
    print(f"{right} of {calls} answers are right; the longest call took {longest:.2f} s")
    assert right == calls


def main() -> None:
    """Fill a folder, and read it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--calls", type=int, default=200, help="of each; 0 means until the writer is done")
    parser.add_argument("--writer-calls", type=int, default=0, help="landings meanwhile; 0 means no writer")
    parser.add_argument("--images", type=int, default=20, help="in the folder")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        folder, seed, calls, stop, ids = json.loads(options.job)
        print(json.dumps(read(Path(folder), seed, calls, Path(stop), ids)))
        return
    with tempfile.TemporaryDirectory(prefix="nvcatalog-") as home:
        run(Path(home), options)


if __name__ == "__main__":
    main()
