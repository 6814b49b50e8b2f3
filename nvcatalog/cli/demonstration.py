"""The demonstration: the whole way on a local server, without the internet."""

from __future__ import annotations

import shlex
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.markup import escape

from nvcatalog.cli.output import Format, err, out, show

if TYPE_CHECKING:
    from nvcatalog.catalog import Catalog


def earlier_demo(place: str) -> dict[str, str]:
    """Let a folder that an earlier demo filled be filled further: its server had another port."""
    from nvcatalog._store import FILE_NAME

    catalog = _catalog(place)
    if not (catalog.folder / FILE_NAME).is_file():
        return {}
    roots = catalog.sql("SELECT value FROM catalog_info WHERE key = 'server_root'").fetchall()
    local = [root for (root,) in roots if urlsplit(root).hostname in ("127.0.0.1", "localhost", "::1")]
    return {"NVCATALOG_MIRROR_OF": local[0]} if local else {}


def serve_until_stopped(environment: dict[str, str]) -> None:
    """Keep the server up until Ctrl-C; what it says can be pasted into a shell as it is."""
    lines = (
        "# A local NeuroVault and Neurosynth are up until Ctrl-C. In another shell:",
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        "unset NILEARN_SHARED_DATA NVCATALOG_BASE",  # they would come before the demo's folder
        "# and then, say: nvcatalog fetch --collections 555 --images 10426 --words",
    )
    try:
        out.print("\n".join(lines), markup=False, soft_wrap=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        err.print("Stopped.")


def demonstrate(place: str) -> bool:
    """Fetch with terms from the local server, ask it two things; return whether anything is missing."""
    from nvcatalog.fetch import fetch_neurovault_ids

    _say("A NeuroVault on this machine (real records, small maps). Fetching as from neurovault.org:")
    _code("maps = fetch_neurovault_ids(collection_ids=[555], image_ids=[10426], fetch_neurosynth_words=True)")
    maps = fetch_neurovault_ids(
        collection_ids=[555], image_ids=[10426], fetch_neurosynth_words=True, data_dir=place, verbose=1
    )
    rows, columns = maps.word_frequencies.shape
    _say(f"{len(maps.images)} maps, {rows} x {columns} weights of terms. Again, without a request:")
    again = fetch_neurovault_ids(collection_ids=[555], image_ids=[10426], data_dir=place, verbose=1)
    catalog = _catalog(place)
    _ask(catalog, "SELECT modality, map_type, count(*) AS n FROM images GROUP BY ALL ORDER BY n DESC")
    _ask(
        catalog,
        "SELECT image_id, name, round(weight, 2) AS r FROM image_words JOIN images USING (image_id)\n"
        "WHERE term = 'motor' ORDER BY weight DESC LIMIT 5",
    )
    _say("The terms most similar to image 10426 (r: correlation with the term's map):")
    show(catalog.query("top_terms", image_id=10426, limit=5).arrow(), Format.table)
    _say_what_is_real(place)
    return bool(maps.report.missing or again.report.missing)


def _say_what_is_real(place: str) -> None:
    _say(
        "Real: the records of collection 555, and the names of the terms. Made up for the demo: the voxels of\n"
        "these small maps, the record of image 10426 (in the shape of a real one), and the correlations."
    )
    _say(
        f"All of it is in {place}: maps, catalog.duckdb, and snapshots/ as Parquet. The same with neurovault.org:"
    )
    _code("nvcatalog fetch --collections 555 --images 10426 --words")


def _ask(catalog: Catalog, query: str) -> None:
    _code(query)
    show(catalog.sql(query).arrow(), Format.table)


def _say(text: str) -> None:
    out.print(f"\n{text}", markup=False, soft_wrap=True)


def _code(text: str) -> None:
    out.print(f"[cyan]{escape(text)}[/]", soft_wrap=True)


def _catalog(place: str) -> Catalog:
    from nvcatalog.catalog import Catalog

    return Catalog(place)
