"""Run the demo server in a process of its own: ``python -m nvcatalog.demo``.

It writes one line of JSON with its two addresses, then serves until its standard input ends or it is
terminated. So it never outlives the process that started it with a pipe.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING

from nvcatalog.demo import faults
from nvcatalog.demo.server import DemoServer
from nvcatalog.demo.world import World

if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Serve until told otherwise."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _leave)
    world = World.empty() if options.empty else World.demo()
    for collection_id, n_images in options.synthetic:
        world.add_synthetic(collection_id, n_images, file_bytes=options.file_bytes)
    for n_collections, n_images in options.many:
        world.add_many(n_collections, n_images)
    how = {"ranges": not options.plain_files, "etags": not options.plain_files, "ordered": not options.quirks}
    with DemoServer(world, latency_s=options.latency, port=options.port, **how) as server:
        if options.quirks:
            _add_quirks(server)
        addresses = {"neurovault": server.neurovault_url, "neurosynth": server.neurosynth_url}
        sys.stdout.write(json.dumps(addresses) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


def _add_quirks(server: DemoServer) -> None:
    """Break what is broken on the real site now and then: two records, and one page that comes empty."""
    world = server.world
    world.poison_image(world.image_ids()[len(world.image_ids()) // 2])
    world.poison_collection(world.collection_ids()[len(world.collection_ids()) // 3])
    server.fail("/api/collections/", faults.empty_page(), times=1, after=2)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nvcatalog.demo", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="NeuroVault's port; Neurosynth's is the next")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer's first byte")
    parser.add_argument("--empty", action="store_true", help="without the shipped records")
    parser.add_argument("--plain-files", action="store_true", help="files without ranges and ETags")
    parser.add_argument("--file-bytes", type=int, default=220_000, help="size of the synthetic files")
    parser.add_argument(
        "--synthetic",
        type=_pair,
        action="append",
        default=[],
        metavar="COLLECTION:N",
        help="add a collection of N maps of noise",
    )
    parser.add_argument(
        "--many",
        type=_pair,
        action="append",
        default=[],
        metavar="COLLECTIONS:IMAGES",
        help="add so many collections that hold so many images together; records alone are served quickly",
    )
    parser.add_argument(
        "--quirks",
        action="store_true",
        help="the list of collections in no order, with an empty page; an image and a collection are broken",
    )
    return parser


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition(":")
    return int(first), int(second)


if __name__ == "__main__":
    main()
