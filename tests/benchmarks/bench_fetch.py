"""Time a fetch of one fresh collection: nvcatalog, nilearn, and curl on the same files.

A local server in a process of its own waits a while before the first byte of every answer, as a server far
away does. Each side starts with an empty folder, in a fresh process that has imported all it needs before
its clock starts. nvcatalog's time is that of the whole call: lists, files, proofs, catalog and snapshot; nilearn's
too is that of its whole call; curl is told the addresses and only moves the files.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import _bench as bench
from _bench import Measurement

COLLECTION = 1


def nvcatalog_side(folder: str, root: str, workers: int) -> Measurement:
    """Fetch with nvcatalog."""
    os.environ["NVCATALOG_NEUROVAULT_URL"] = root
    bench.import_all(bench.CALL_MODULES)
    from nvcatalog import fetch_neurovault_ids

    with bench.Stopwatch() as watch:
        maps = fetch_neurovault_ids([COLLECTION], data_dir=folder, max_workers=workers, verbose=0)
    return watch.measurement(images=len(maps.images))


def nilearn_side(folder: str, root: str) -> Measurement:
    """Fetch with nilearn."""
    neurovault = bench.nilearn_at(root)
    with bench.Stopwatch() as watch, redirect_stdout(io.StringIO()):
        maps = neurovault.fetch_neurovault_ids([COLLECTION], data_dir=folder, verbose=0)
    return watch.measurement(images=len(maps.images))


def curl_side(folder: str, links: list[str], workers: int) -> Measurement:
    """Move the same files with curl, which is told their addresses."""
    config = Path(folder) / "config"
    lines = [f'url = "{link}"\noutput = "{folder}/{link.rpartition("/")[2]}"\n' for link in links]
    config.write_text("".join(lines))
    command = ["curl", "-Z", "--parallel-max", str(workers), "-s", "-S", "-f", "-K", str(config)]
    with bench.Stopwatch() as watch:
        subprocess.run(
            command, check=True, stderr=subprocess.PIPE
        )  # where some versions draw a table all the same
    return watch.measurement(images=len(list(Path(folder).glob("*.nii.gz"))))


def links_of(root: str) -> list[str]:
    """Return the addresses of the collection's files."""
    import requests

    url = f"{root}/api/collections/{COLLECTION}/images/"
    # One request is enough for as many as are served here.
    return [record["file"] for record in requests.get(url, params={"limit": 1000}, timeout=60).json()["results"]]


def measure(options: argparse.Namespace, root: str) -> dict[str, list[Measurement]]:
    """Run all sides in turns, so that a busy minute of the machine hits all of them."""
    curl = shutil.which("curl") is not None
    if not curl:
        print("There is no curl here: that side is left out.")
    sides: dict[str, list[Measurement]] = {name: [] for name in ("nvcatalog", "nilearn", *["curl"] * curl)}
    links = links_of(root)
    for turn in range(options.repeat):
        if curl:
            sides["curl"].append(_in_empty_folder(curl_side, links, options.workers))
        sides["nvcatalog"].append(_in_empty_folder(nvcatalog_side, root, options.workers))
        if turn < options.nilearn_repeat:
            sides["nilearn"].append(_in_empty_folder(nilearn_side, root))
    return sides


def _in_empty_folder(side: Callable[..., Measurement], *args: Any) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
        return bench.in_fresh_process(side, folder, *args)


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__)
    parser.add_argument("--nilearn-repeat", type=int, default=2, help="runs of nilearn, which take long")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--file-bytes", type=int, default=220_000)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each first byte")
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    world = ("--empty", "--synthetic", f"{COLLECTION}:{options.images}", "--file-bytes", str(options.file_bytes))
    with bench.serving(*world, "--latency", str(options.latency)) as addresses:
        sides = measure(options, addresses["neurovault"])
    for name, runs in sides.items():
        assert all(run.facts["images"] == options.images for run in runs), f"{name} did not bring all images"
    bench.table(sides, base="nvcatalog")
    ours = bench.median_s(sides["nvcatalog"])
    bench.verdict("times faster than nilearn", bench.median_s(sides["nilearn"]) / ours, at_least=6)
    if "curl" in sides:
        bench.verdict("times as long as curl", ours / bench.median_s(sides["curl"]), at_most=1.3)


if __name__ == "__main__":
    main()
