"""Give rows to files that are here without one, and tell those that nobody can vouch for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nvcatalog import _replaced, extras, lookup, proving
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress
from nvcatalog._store import Store
from nvcatalog.adopt import Adopter, prove_files, sidecar_ids
from nvcatalog.known import Known
from nvcatalog.landing import Lander
from nvcatalog.layout import MAPS, Place, place_of
from nvcatalog.verify import KnownSidecars, file_rows, why_no_sidecar

_PROVERS = min(4, os.cpu_count() or 1)

# Maps that are whole and no longer, or not yet, the one of their record: by image and kind, and what tells.
_Unlike = dict[tuple[int, str], str]


@dataclass
class Strays:
    """What became of whole files without a row, by path.

    Attributes
    ----------
    adopted : list of str
        They are what a record says: they have a row now.
    bad : dict of str to str
        They are not, and why.
    unknown : list of str
        They are of images that nobody here knows.
    troubles : list of str
        What could not land, and why.
    """

    adopted: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def check(folder: Path, paths: Iterable[str], *, verbose: int) -> dict[str, str | None]:
    """Read files to their last byte and return, by path, why each is no whole file of its kind.

    For a whole one that is None; what is not there any more is left out.

    Parameters
    ----------
    folder : Path
        The data folder.
    paths : iterable of str
        The files, relative to it.
    verbose : int
        The call's verbosity.
    """
    paths = list(paths)
    found: dict[str, str | None] = {}
    lane = Lane(partial(_prove, folder), paths, min(_PROVERS, len(paths)))
    with Progress("Checking", total=len(paths), verbose=verbose) as progress:
        for path, trouble in in_parallel([lane]):
            found[path] = trouble
            progress.step()
    return found


def take_over(store: Store, whole: Iterable[str]) -> Strays:
    """Give rows to whole files that belong to what the catalog, or a sidecar beside them, knows.

    What is not whole must not be there any more: else it would be registered for its size.

    Parameters
    ----------
    store : Store
        The catalog.
    whole : iterable of str
        The files, relative to the data folder.
    """
    strays, paths = Strays(), list(whole)
    if paths:
        _Adoption(store, paths, strays).run()
    return strays


def _prove(folder: Path, path: str) -> list[tuple[str, str | None]]:
    """Read a file to its last byte and say why it is none of its kind."""
    place = place_of(path)
    try:
        if place.is_map:
            proving.prove(folder / path)
        elif place.has_row:
            extras.prove(folder / path, place.extra_kind)
        else:
            return [(path, why_no_sidecar(folder, path))]
    except FileNotFoundError:
        return []  # somebody has moved it
    except proving.NotWholeError as error:
        return [(path, f"no whole file: {error}")]
    except OSError as error:
        return [(path, f"it cannot be read: {error.strerror or error}")]
    return [(path, None)]


class _Adoption:
    """Takes over files that are whole."""

    def __init__(self, store: Store, paths: list[str], strays: Strays) -> None:
        self._store = store
        self._folder = store.folder
        self._places = {path: place_of(path) for path in paths}
        self._strays = strays

    def run(self) -> None:
        """Take over what can be, and judge the rest by what the catalog knows then."""
        lander = Lander(self._store, writable=True)
        known = self._look()
        try:
            unlike_record = self._adopt(known, lander)
        finally:
            lander.finish()
        self._strays.troubles += lander.troubles
        self._judge(self._look(), unlike_record)

    def _look(self) -> Known:
        folders = {place.collection_id or 0 for place in self._places.values()}
        # By id too: a copy in the wrong folder must not pass for an image that the catalog has elsewhere.
        beside = (id_ for folder in folders for id_ in sidecar_ids(self._folder, folder))
        return self._store.known(folders, {*beside, *(place.id for place in self._places.values() if place.id)})

    def _adopt(self, known: Known, lander: Lander) -> _Unlike:
        """Register and prove; return which maps are whole and other ones than their records say."""
        # What is known is proven before anything is registered: that counts for what somebody left here long ago.
        unlike_record = self._prove(known, lander, {})
        adopter = Adopter(self._folder, known, lander, land_as_it_goes=True)
        for folder in sorted({place.collection_id or 0 for place in self._places.values()}):
            adopter.take_collection(folder)
        unlike_record |= self._prove(known, lander, unlike_record)
        for place in self._places.values():
            image = known.images.get(place.id or 0)
            if place.kind == "words" and image and image.collection_id == place.collection_id:
                adopter.take_words(image)
        self._adopt_extras(lander)
        lander.land()
        for image_id, kind in unlike_record:
            lander.batch.drop_file(image_id, kind)
        return unlike_record

    def _prove(self, known: Known, lander: Lander, but: _Unlike) -> _Unlike:
        """Prove the maps of known images against their records; return those that are others."""
        found: _Unlike = {}
        for kind in MAPS:
            places = (place for place in self._places.values() if place.kind == kind)
            ids = [p.id for p in places if p.id in known.images and (p.id, kind) not in but]
            _, bad = prove_files(self._folder, known, filter(None, ids), lander, kind=kind, verbose=0)
            found |= {(id_, kind): why for id_, why in bad.items()}
        return found

    def _adopt_extras(self, lander: Lander) -> None:
        """Give rows to files beside the maps that a record names."""
        places = {path: place for path, place in self._places.items() if place.has_row and not place.is_map}
        named = self._named_extras(places.values())
        marks = _replaced.marks_in(self._folder)
        for path in places.keys() & named.keys():
            extra = named[path]
            with suppress(OSError):  # gone since it was read
                proof = extras.prove(self._folder / path, extra.kind)
                lander.batch.add_file(extra.item_id, path, proof, origin="found", kind=extra.kind)
                lander.marks += _replaced.settled(marks.get((extra.item_id, extra.kind), ()))

    def _named_extras(self, places: Iterable[Place]) -> dict[str, extras.Extra]:
        """Return what the records of these images and packs name, by path."""
        places = list(places)
        ids, folders = {place.id or 0 for place in places}, {place.collection_id or 0 for place in places}
        packs = lookup.packs(self._store, [], folders).values()
        named = {extra.path: extra for folder, record in packs for extra in extras.of_pack(record, folder)}
        images, folder_of = (
            lookup.records_of(self._store, "image", ids),
            lookup.collection_of_images(self._store, ids),
        )
        for id_ in images.keys() & folder_of.keys():
            named |= {extra.path: extra for extra in extras.of_image(images[id_], folder_of[id_])}
        return named

    def _judge(self, known: Known, unlike_record: _Unlike) -> None:
        """Tell what is taken over now, what cannot be, and what nobody knows."""
        ids = {place.id for place in self._places.values() if place.id}
        rows = {row.path for row in file_rows(self._store, ids)}
        knows = KnownSidecars(self._store, self._places.values())
        for path, place in self._places.items():
            if path in rows or (not place.has_row and knows(place)):
                self._strays.adopted.append(path)
            elif why := self._why_not(place, known, unlike_record):
                self._strays.bad[path] = why
            else:
                self._strays.unknown.append(path)

    def _why_not(self, place: Place, known: Known, unlike_record: _Unlike) -> str | None:
        """Say what is known to be wrong with a file that has no row; None where nothing is known of it."""
        image = known.images.get(place.id or 0)
        if why := unlike_record.get((place.id or 0, place.kind)):
            return why
        if image is None:
            return None
        if image.collection_id != place.collection_id:
            return f"image {image.image_id} is in collection {image.collection_id}"
        if (file := image.map(place.map_kind) if place.is_map else None) is not None:
            return f"the file of image {image.image_id} is {file.path}"
        return "no record names such a file" if place.has_row and not place.is_map else None
