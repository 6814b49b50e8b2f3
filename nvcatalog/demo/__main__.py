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
    files_as_plain = {"ranges": False, "etags": False} if options.plain_files else {}
    with DemoServer(world, latency_s=options.latency, port=options.port, **files_as_plain) as server:
        addresses = {"neurovault": server.neurovault_url, "neurosynth": server.neurosynth_url}
        sys.stdout.write(json.dumps(addresses) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


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
    return parser


def _pair(text: str) -> tuple[int, int]:
    collection_id, _, n_images = text.partition(":")
    return int(collection_id), int(n_images)


if __name__ == "__main__":
    main()
