"""Many processes on one folder fetch, ask and export at once: nothing fails, and nothing comes twice.

python tests/scripts/six_processes.py --rounds 5
python tests/scripts/six_processes.py --rounds 1 --processes 50 --images 30 --readers 0 --exporters 0
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog.demo import DemoServer, World

_SHARED = 0.6  # of all images, those that one process wants


def fetch(folder: Path, seed: int, ids: list[int]) -> dict[str, Any]:
    """Fetch these images; a warning is an error."""
    warnings.simplefilter("error")
    random.Random(seed).shuffle(ids)
    started = time.monotonic()
    maps = fetch_neurovault_ids(image_ids=ids, data_dir=folder, verbose=0)
    seconds = time.monotonic() - started
    assert [meta["id"] for meta in maps.images_meta] == ids
    assert all(Path(path).stat().st_size for path in maps.images)
    return {"seconds": seconds, "counts": maps.report.counts}


def ask(folder: Path, stop: Path) -> dict[str, Any]:
    """Count files in SQL, again and again: there are never fewer than before, unless a snapshot answers."""
    waits, snapshots, known = [], 0, 0
    while not stop.exists():
        started = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            [(count,)] = Catalog(folder).sql("SELECT count(*) FROM files").fetchall()
        waits.append(time.monotonic() - started)
        snapshots += len(warned)
        assert warned or count >= known, (count, known)
        known = max(count, known)
    return {"calls": len(waits), "longest": max(waits, default=0.0), "snapshots": snapshots}


def export(folder: Path, stop: Path) -> dict[str, Any]:
    """Export the metadata, again and again."""
    warnings.simplefilter("ignore")  # of how old a snapshot is
    longest, calls = 0.0, 0
    while not stop.exists():
        started = time.monotonic()
        Catalog(folder).export(folder / "out", overwrite=True, verbose=0)
        longest, calls = max(longest, time.monotonic() - started), calls + 1
    return {"calls": calls, "longest": longest}


def _start(server: DemoServer, job: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--job", json.dumps([job, *map(str, args)])]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | server.environment, **pipes)


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    if process.returncode or err:
        raise SystemExit(f"A process failed:\n{err}")
    told: dict[str, Any] = json.loads(out)
    return told


def one_round(folder: Path, options: argparse.Namespace) -> None:
    """Let all of them loose on a new folder, and check what has come of it."""
    world = World.empty()
    ids = world.add_synthetic(1, round(options.images / _SHARED), file_bytes=options.file_bytes)
    stop = folder / "stop"
    with DemoServer(world, latency_s=0.01) as server:
        os.environ.update(server.environment)
        fetch_neurovault_ids(image_ids=ids[:1], data_dir=folder, verbose=0)  # the others are to find a catalog
        fetchers = [
            _start(server, "fetch", folder, seed, json.dumps(random.Random(seed).sample(ids, options.images)))
            for seed in range(options.processes)
        ]
        others = [_start(server, "ask", folder, stop) for _ in range(options.readers)]
        others += [_start(server, "export", folder, stop) for _ in range(options.exporters)]
        try:
            fetched = [_result(process) for process in fetchers]
            stop.touch()
            told = [_result(process) for process in others]
        finally:
            for process in (*fetchers, *others):
                process.kill()
        hits = Counter(hit.path for hit in server.hits("/media/*"))
        peaks = dict(server.peak_connections)
    counts = sum((Counter(each["counts"]) for each in fetched), Counter[str]())
    rows = Catalog(folder).sql("SELECT image_id FROM files JOIN images USING (image_id) ORDER BY ALL").fetchall()
    seconds = sorted(each["seconds"] for each in fetched)
    print(f"{len(hits)} files, {dict(counts)}; {seconds[0]:.1f} to {seconds[-1]:.1f} s; at most {peaks} at once")
    for each in told:
        by = f"; {each['snapshots']} by snapshot" if "snapshots" in each else " (exports)"
        print(f"    {each['calls']} calls, the longest of {each['longest']:.2f} s{by}")
    assert set(hits.values()) == {1}, hits.most_common(5)
    assert len(rows) == len(hits), (len(rows), len(hits))
    assert peaks["media"] <= 6, peaks
    assert peaks.get("api", 0) <= 2, peaks
    assert Catalog(folder).verify(deep=True, verbose=0), Catalog(folder).verify(deep=True, verbose=0).problems


def main() -> None:
    """Run as many rounds as are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=6, help="that fetch")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--exporters", type=int, default=1)
    parser.add_argument("--images", type=int, default=300, help="that each of them wants")
    parser.add_argument("--file-bytes", type=int, default=50_000)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job, folder, *args = json.loads(options.job)
        jobs = {"ask": ask, "export": export}
        told = (
            fetch(Path(folder), int(args[0]), json.loads(args[1]))
            if job == "fetch"
            else jobs[job](Path(folder), Path(args[0]))
        )
        print(json.dumps(told))
        return
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="nvcatalog-") as folder:
            print(f"Round {number + 1}: ", end="", flush=True)
            one_round(Path(folder), options)


if __name__ == "__main__":
    main()
