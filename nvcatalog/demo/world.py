"""The collections, images and files the demo server knows, which may be changed while it serves them.

Records are kept as the API gives them, but for links: those on the server are kept without its root
(``/media/images/555/x.nii.gz``) and get the root the client used when they are served.
"""

from __future__ import annotations

import functools
import itertools
import posixpath
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from nvcatalog.demo.crowd import Images, crowd_collection, crowd_file, crowd_sizes
from nvcatalog.demo.decoding import REFERENCE, decode_values
from nvcatalog.demo.extras import THALAMUS, label_file, pack_archive, pack_turtle, surface
from nvcatalog.demo.maps import small_map, synthetic_map
from nvcatalog.demo.shipped import Record, shipped, template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

STATISTIC_MAP, ATLAS, NIDM_MAP = "statistic_map", "atlas", "NIDM results statistic map"
_FILE_KEYS = ("file", "label_description_file", "surface_left_file", "surface_right_file")
# Neurosynth refuses larger files.
MAX_DECODED_BYTES = 4_000_000
_CROWD_UPLOADED_AT = 1_400_000_000
# The real server writes dates in Berlin's time.
_BERLIN_WINTER = timezone(timedelta(hours=1))


@dataclass(frozen=True)
class StoredFile:
    """One file under ``/media/`` or ``/collections/``; of an image's files its map alone has the image's id."""

    image_id: int | None
    size: int
    uploaded_at: int
    read: Callable[[], bytes]

    @property
    def etag(self) -> str:
        """The ETag as nginx makes it: time and size."""
        return f'"{self.uploaded_at:x}-{self.size:x}"'


class World:
    """Everything the demo serves.

    Every method may be called while a server answers from this world.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._collections: dict[int, Record] = {}
        self._images = Images()
        self._packs: dict[int, Record] = {}
        self._files: dict[str, StoredFile] = {}
        self._tokens: dict[int, str] = {}
        self._former_tokens: dict[str, int] = {}
        self._words: dict[int, dict[str, float] | int | None] = {}
        self._poisoned_images: set[int] = set()
        self._poisoned_collections: set[int] = set()
        self._broken_media: set[int] = set()

    @classmethod
    def empty(cls) -> World:
        """Return a world without any record."""
        return cls()

    @classmethod
    def demo(cls) -> World:
        """Return the shipped world: real records, small files made from real maps."""
        world = cls()
        for record in shipped("collections.jsonl"):
            world._collections[record["id"]] = record
        for record in shipped("images.jsonl"):
            world._images[record["id"]] = record
            uploaded_at = int(datetime.fromisoformat(record["modify_date"]).timestamp())
            world._store(record["id"], None, uploaded_at)
            if record["image_type"] == ATLAS:
                labels = label_file(record["name"], THALAMUS)
                world._keep(record["label_description_file"], labels, uploaded_at)
        return world

    # Adding records

    def add_collection(
        self,
        record: Mapping[str, Any] | None = None,
        *,
        id: int | None = None,  # noqa: A002  the API's own name, and every test's
        images: int | Iterable[Mapping[str, Any]] = (),
    ) -> int:
        """Add a collection and return its id.

        Parameters
        ----------
        record
            Fields that differ from an empty collection's.
        id
            The collection's id; the next free one by default.
        images
            Its images: their records, or how many to make up.
        """
        with self.lock:
            new_id = id if id is not None else max(self._collections, default=0) + 1
            now = _now_after(None)
            self._collections[new_id] = {
                **template("collection"),
                "id": new_id,
                "url": f"/collections/{new_id}/",
                "download_url": f"/collections/{new_id}/download",
                "name": f"Collection {new_id}",
                "add_date": now,
                "modify_date": now,
                **(record or {}),
            }
            for image in [{}] * images if isinstance(images, int) else images:
                self.add_image(new_id, image)
            return new_id

    def add_image(
        self,
        collection_id: int,
        record: Mapping[str, Any] | None = None,
        *,
        id: int | None = None,  # noqa: A002  the API's own name, and every test's
        data: bytes | None = None,
    ) -> int:
        """Add an image and return its id.

        Parameters
        ----------
        collection_id
            The collection it belongs to, which must exist.
        record
            Fields that differ from a plain group Z map's; ``image_type`` chooses another kind of record. Keys
            the API does not know become free-form keys.
        id
            The image's id; by default the record's, else the next free one.
        data
            The file's bytes, whatever they are; a small valid map by default.
        """
        given = dict(record or {})
        with self.lock:
            new_id = id if id is not None else given.pop("id", None) or self._next_image_id()
            self._images[new_id] = {**self._new_image(collection_id, new_id, given), **given, "id": new_id}
            self._store(new_id, data, int(time.time()))
            self._touch_collection(collection_id)
            return new_id

    def add_synthetic(
        self, collection_id: int, n_images: int, *, first_id: int | None = None, file_bytes: int = 220_000
    ) -> list[int]:
        """Add many valid maps of noise of about `file_bytes` each, for timing, and return their ids.

        The collection is made when there is none.
        """
        with self.lock:
            if collection_id not in self._collections:
                self.add_collection(id=collection_id)
            start = self._next_image_id() if first_id is None else first_id
            uploaded_at = int(time.time())
            for image_id in range(start, start + n_images):
                given = {
                    "name": f"noise {image_id}",
                    "file": f"/media/images/{collection_id}/noise_{image_id}.nii.gz",
                }
                self._images[image_id] = {**self._new_image(collection_id, image_id, {}), **given}
                self._store(image_id, None, uploaded_at, functools.partial(synthetic_map, image_id, file_bytes))
            self._touch_collection(collection_id)
            return list(range(start, start + n_images))

    def add_labels(self, image_id: int, names: Iterable[str]) -> str:
        """Give an atlas a label file with the names of its regions, and return the file's path."""
        with self.lock:
            record = self._images[image_id]
            stem = record["file"].removesuffix(".gz").removesuffix(".nii")
            path = f"{stem}_{image_id}.xml"
            self._keep(path, label_file(record["name"], list(names)))
            self.edit_image(image_id, label_description_file=path)
            return path

    def add_surfaces(self, image_id: int) -> tuple[str, str]:
        """Give a map its values on both hemispheres, as the server does some time after an upload.

        Returns
        -------
        tuple of str
            The paths of the left and the right one.
        """
        with self.lock:
            folder = f"/media/images/{self._images[image_id]['collection_id']}"
            left, right = f"{folder}/{image_id}.L.func.gii", f"{folder}/{image_id}.R.func.gii"
            self._keep(left, surface(image_id, "left"))
            self._keep(right, surface(image_id, "right"))
            self.edit_image(image_id, surface_left_file=left, surface_right_file=right)
            return left, right

    def add_many(self, n_collections: int, n_images: int) -> list[int]:
        """Add so many collections that hold so many images together, and return the collections' ids.

        Some collections are empty, most hold few images and some many, as on the real site. However many they are,
        they take little memory and little time: their records are made when they are asked for.
        """
        with self.lock:
            first_id, first_image = max(self._collections, default=0) + 1, self._next_image_id()
            now = _now_after(None)
            for id_, size in enumerate(crowd_sizes(n_collections, n_images), start=first_id):
                record = crowd_collection(id_) | {"add_date": now, "modify_date": now}
                self._collections[id_] = record
                self._images.add_crowd(id_, range(first_image, first_image + size))
                first_image += size
            return list(range(first_id, first_id + n_collections))

    def add_nidm_pack(self, collection_id: int, name: str, *, n_maps: int = 2) -> int:
        """Add a NIDM pack with its archive, its Turtle file and its maps, and return the pack's id.

        The base names of the maps clash between packs, and their links are in a folder of the pack's name.
        """
        with self.lock:
            pack_id = self._next_image_id()
            now = _now_after(None)
            self._packs[pack_id] = {
                "id": pack_id,
                "zip_file": f"/collections/{collection_id}/{name}.zip",
                "ttl_file": f"/collections/{collection_id}/{name}.ttl",
                "statmaps": [],
                "url": f"/collections/{collection_id}/{name}",
                "name": name,
                "description": "",
                "add_date": now,
                "modify_date": now,
                "polymorphic_ctype": 12,
                "collection": collection_id,
            }
            for number in range(n_maps):
                base = "TStatistic.nii.gz" if number == 0 else f"TStatistic_{number:04d}.nii.gz"
                record = {
                    "image_type": NIDM_MAP,
                    "file": f"/media/images/{collection_id}/{name}/{base}",
                    "nidm_results": f"/collections/{collection_id}/{name}",
                    "nidm_results_ttl": f"/collections/{collection_id}/{name}.ttl",
                    "name": f"Statistic Map: contrast {number}",
                    "description": f"NIDM Results: {name}.zip > {base}",
                }
                self._packs[pack_id]["statmaps"].append(self.add_image(collection_id, record))
            self._keep_pack(pack_id)
            return pack_id

    def _keep_pack(self, pack_id: int) -> None:
        """Put the files of a pack under its links."""
        pack = self._packs[pack_id]
        maps = {posixpath.basename(self._images[i]["file"]): self.image_bytes(i) for i in pack["statmaps"]}
        turtle = pack_turtle(pack["name"], list(maps))
        self._keep(pack["ttl_file"], turtle)
        self._keep(pack["zip_file"], pack_archive({"nidm.ttl": turtle, **maps}))

    # Changing them

    def edit_image(self, image_id: int, fields: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Change fields of an image; its ``modify_date`` and its collection's move."""
        with self.lock:
            record = self._images[image_id]
            modified = {"modify_date": _now_after(record["modify_date"])}
            self._images[image_id] = {**record, **modified, **(fields or {}), **more}
            self._touch_collection(record["collection_id"])

    def move_image(self, image_id: int, collection_id: int) -> None:
        """Move an image to another collection, its file too; the ``modify_date`` of both moves."""
        with self.lock:
            stored, former = self._file_of(image_id), self._images[image_id]["file"]
            self._files.pop(unquote(former), None)
            link = re.sub(r"^/media/images/\d+/", f"/media/images/{collection_id}/", former)
            link = self._free_name(link) if unquote(link) in self._files else link
            self._files[unquote(link)] = stored
            place = {"collection_id": collection_id, "collection": f"/collections/{collection_id}/"}
            self.edit_image(image_id, place, file=link)
            self._touch_collection(collection_id)

    def edit_collection(self, collection_id: int, fields: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Change fields of a collection; its ``modify_date`` moves."""
        with self.lock:
            self._touch_collection(collection_id)
            self._collections[collection_id].update({**(fields or {}), **more})

    def replace_file(self, image_id: int, data: bytes) -> None:
        """Replace an image's file: under a new link, as the real server does; the old one is 404."""
        with self.lock:
            record = self._images[image_id]
            self._files.pop(unquote(record["file"]), None)
            record["file"] = self._free_name(record["file"])
            self._store(image_id, data, int(time.time()))
            self.edit_image(image_id)

    def delete_image(self, image_id: int) -> None:
        """Remove an image and its files."""
        with self.lock:
            record = self._images.pop(image_id)
            for link in filter(None, map(record.get, _FILE_KEYS)):
                self._files.pop(unquote(link), None)
            self._touch_collection(record["collection_id"])

    def delete_collection(self, collection_id: int) -> None:
        """Remove a collection with all its images and packs."""
        with self.lock:
            for image_id in self.image_ids(collection_id):
                self.delete_image(image_id)
            for pack_id in self.pack_ids(collection_id):
                pack = self._packs.pop(pack_id)
                for key in ("zip_file", "ttl_file"):
                    self._files.pop(pack[key], None)
            del self._collections[collection_id]

    def make_private(self, collection_id: int, token: str) -> None:
        """Hide a collection from everybody who has not its token, eight capital letters."""
        with self.lock:
            self._tokens[collection_id] = token
            self.edit_collection(collection_id, private=True)

    def make_public(self, collection_id: int, *, token_opens: bool = True) -> None:
        """Show a private collection to everybody; its token may go on opening it, or lead nowhere."""
        with self.lock:
            token = self._tokens.pop(collection_id)
            if token_opens:
                self._former_tokens[token] = collection_id
            self.edit_collection(collection_id, private=False)

    def poison_image(self, image_id: int) -> None:
        """Make a record one the server cannot render: it and every page that holds it answer 500."""
        with self.lock:
            self._poisoned_images.add(image_id)

    def poison_collection(self, collection_id: int) -> None:
        """Make a collection one the server cannot render; its images still can be listed."""
        with self.lock:
            self._poisoned_collections.add(collection_id)

    def broken_media(self, image_id: int) -> None:
        """Lose an image's file: its link is 404 and its ``file_size`` 0."""
        with self.lock:
            self._broken_media.add(image_id)
            self._images[image_id]["file_size"] = 0

    def cure(self, id: int) -> None:  # noqa: A002  an image's or a collection's
        """Undo what `poison_image`, `poison_collection` and `broken_media` did to an id."""
        with self.lock:
            self._poisoned_images.discard(id)
            self._poisoned_collections.discard(id)
            if id in self._broken_media:
                self._broken_media.discard(id)
                self._images[id]["file_size"] = self._file_of(id).size

    # What there is

    def collection_ids(self, *, private: bool = False) -> list[int]:
        """Return the ids of all collections in order, private ones only on request."""
        with self.lock:
            return sorted(i for i in self._collections if private or i not in self._tokens)

    def image_ids(self, collection_id: int | None = None) -> list[int]:
        """Return the ids of a collection's images, or of all public images, in order."""
        with self.lock:
            if collection_id is not None:
                return sorted(self._images.held_by(collection_id))
            hidden = set().union(*map(self._images.held_by, self._tokens))
            return sorted(image_id for image_id in self._images if image_id not in hidden)

    def pack_ids(self, collection_id: int | None = None) -> list[int]:
        """Return the ids of a collection's NIDM packs, or of all public ones, in order."""
        with self.lock:
            if collection_id is None:
                return sorted(i for i, r in self._packs.items() if r["collection"] not in self._tokens)
            return sorted(i for i, r in self._packs.items() if r["collection"] == collection_id)

    def collections(self, ids: Iterable[int]) -> list[Record]:
        """Return records of collections, with the number of images they hold now, packs included."""
        with self.lock:
            packs = Counter(record["collection"] for record in self._packs.values())
            numbers = ((id_, len(self._images.held_by(id_)) + packs[id_]) for id_ in ids)
            return [{**self._collections[id_], "number_of_images": number} for id_, number in numbers]

    def collection(self, collection_id: int) -> Record | None:
        """Return one collection's record, None when there is none."""
        with self.lock:
            return self.collections([collection_id])[0] if collection_id in self._collections else None

    def image(self, image_id: int) -> Record | None:
        """Return one image's record, None when there is none."""
        with self.lock:
            return self._images.copy_of(image_id)

    def pack(self, pack_id: int) -> Record | None:
        """Return one NIDM pack, its maps in full, None when there is none."""
        with self.lock:
            record = self._packs.get(pack_id)
            if record is None:
                return None
            maps = [self.image(image_id) for image_id in record["statmaps"]]
            return {**record, "statmaps": [image for image in maps if image is not None]}

    def token(self, collection_id: int) -> str | None:
        """Return the token of a private collection, None for a public one."""
        with self.lock:
            return self._tokens.get(collection_id)

    def collection_of_token(self, token: str) -> int | None:
        """Return the collection a token opens."""
        with self.lock:
            opened = (i for i, known in self._tokens.items() if known == token)
            return next(opened, self._former_tokens.get(token))

    def is_poisoned(self, *, image_ids: Iterable[int] = (), collection_ids: Iterable[int] = ()) -> bool:
        """Return whether the server fails to render any of these records."""
        with self.lock:
            images = not self._poisoned_images.isdisjoint(image_ids)
            return images or not self._poisoned_collections.isdisjoint(collection_ids)

    def file_at(self, path: str) -> StoredFile | None:
        """Return the file under a path of the server, None for none."""
        with self.lock:
            stored = self._files.get(path) or self._crowd_file(path)
            return None if stored is None or stored.image_id in self._broken_media else stored

    def file_path(self, image_id: int) -> str:
        """Return the path of an image's file, such as ``/media/images/555/x.nii.gz``; a fault can be put on it."""
        with self.lock:
            return str(self._images[image_id]["file"])

    def image_bytes(self, image_id: int) -> bytes:
        """Return the bytes of an image's file."""
        with self.lock:
            return self._file_of(image_id).read()

    # Neurosynth

    def words(self, image_id: int) -> dict[str, float] | None:
        """Return the correlations Neurosynth gives for an image, None when it gives none."""
        values: dict[str, float] | None = self.decode(image_id)[1]["data"].get("values")
        return values

    def set_words(self, image_id: int, words: dict[str, float] | int | None) -> None:
        """Decide what Neurosynth says: these values, nothing (None), or an error status."""
        with self.lock:
            self._words[image_id] = words

    def decode(self, image_id: int) -> tuple[int, Record]:
        """Return status and JSON of Neurosynth's answer about an image."""
        with self.lock:
            record = self._images.get(image_id)
            decided = self._words.get(image_id, "by rule")
            if isinstance(decided, int):
                return _decode_error(decided)
            if decided is None or (record is None and not isinstance(decided, dict)):
                return 200, {"data": {}}
            if record is not None and not isinstance(decided, dict) and (refusal := self._refusal(record)):
                return _decode_error(refusal)
            values = decided if isinstance(decided, dict) else decode_values(image_id, _about(record or {}))
            return 200, {"data": _decoding(image_id, record or {}, dict(values))}

    def _refusal(self, record: Record) -> int | None:
        """Return the lasting status with which Neurosynth declines an image, None when it decodes it.

        What the real site says of an atlas is not known; 404 makes the demo have such a case.
        """
        if record["collection_id"] in self._tokens or record["image_type"] == ATLAS:
            return 404
        if not record["file"].endswith((".nii", ".nii.gz")):
            return 415
        return 413 if record["file_size"] > MAX_DECODED_BYTES else None

    # Plumbing

    def _next_image_id(self) -> int:
        return max(0, max(self._images, default=0), max(self._packs, default=0)) + 1

    def _new_image(self, collection_id: int, image_id: int, given: Mapping[str, Any]) -> Record:
        now = _now_after(None)
        return {
            **template(given.get("image_type", STATISTIC_MAP)),
            "url": f"/images/{image_id}/",
            "id": image_id,
            "file": f"/media/images/{collection_id}/map_{image_id}.nii.gz",
            "collection": f"/collections/{collection_id}/",
            "collection_id": collection_id,
            "name": f"map {image_id}",
            "add_date": now,
            "modify_date": now,
        }

    def _store(
        self, image_id: int, data: bytes | None, uploaded_at: int, read: Callable[[], bytes] | None = None
    ) -> None:
        """Keep an image's file and say its size in the record."""
        record = self._images[image_id]
        kind = record.get("map_type") or record["image_type"]
        if data is not None:
            content: Callable[[], bytes] = functools.partial(bytes, data)
        else:
            content = read or functools.partial(small_map, image_id, kind)
        size = len(content())
        self._files[unquote(record["file"])] = StoredFile(image_id, size, uploaded_at, content)
        record["file_size"] = size

    def _keep(self, path: str, data: bytes, uploaded_at: int | None = None) -> None:
        """Keep a file that is no image's own."""
        uploaded_at = int(time.time()) if uploaded_at is None else uploaded_at
        self._files[unquote(path)] = StoredFile(None, len(data), uploaded_at, functools.partial(bytes, data))

    def _file_of(self, image_id: int) -> StoredFile:
        path = unquote(self._images[image_id]["file"])
        stored = self._files.get(path) or self._crowd_file(path)
        if stored is None:
            raise KeyError(path)
        return stored

    def _crowd_file(self, path: str) -> StoredFile | None:
        """Return the file of an image that came with a crowd, unless it has been replaced or moved."""
        found = re.fullmatch(r".*/crowd-(\d+)\.nii\.gz", path)
        record = self._images.copy_of(int(found[1])) if found else None
        if record is None or record["file"] != path:
            return None
        content = functools.partial(crowd_file, record["id"])
        return StoredFile(record["id"], len(content()), _CROWD_UPLOADED_AT, content)

    def _free_name(self, path: str) -> str:
        """``x.nii.gz`` becomes ``x_1.nii.gz``, or the next number that no other file has."""
        folder, name = posixpath.split(path)
        stem, dot, suffix = name.partition(".")
        numbered = re.fullmatch(r"(.*)_(\d+)", stem)
        first = int(numbered[2]) + 1 if numbered else 1
        base = f"{folder}/{numbered[1] if numbered else stem}"
        names = (f"{base}_{number}{dot}{suffix}" for number in itertools.count(first))
        return next(name for name in names if name not in self._files)

    def _touch_collection(self, collection_id: int) -> None:
        record = self._collections[collection_id]
        record["modify_date"] = _now_after(record["modify_date"])


def _now_after(previous: str | None) -> str:
    """Return the time now as the API writes it, always later than `previous`."""
    now = datetime.now(_BERLIN_WINTER)
    if previous is not None:
        now = max(now, datetime.fromisoformat(previous) + timedelta(microseconds=1))
    return now.astimezone(_BERLIN_WINTER).isoformat()


def _about(record: Record) -> str:
    keys = ("name", "description", "contrast_definition", "cognitive_paradigm_cogatlas")
    return " ".join(str(record.get(key) or "") for key in keys)


def _decoding(image_id: int, record: Record, values: dict[str, float]) -> Record:
    return {
        "id": f"{image_id:032x}",
        "url": f"/decode/{image_id:032x}",
        "neurovault_id": image_id,
        "comments": [],
        "image": record.get("file"),
        "reference": REFERENCE,
        "values": values,
    }


def _decode_error(status: int) -> tuple[int, Record]:
    return status, {"data": {"error": f"The image cannot be decoded ({status})."}, "status": status}
