"""Whatever comes between, kills and damage included, what is promised of a data folder holds after every step."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import duckdb
import pytest
from fetching import no_waiting as no_waiting
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sklearn.utils import Bunch
from stopping import Stopped, hits_of, stopped

from nvcatalog import Catalog, fetch_neurovault, fetch_neurovault_ids, fetch_where, parts, storage
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, Hit, World
from nvcatalog.demo.maps import synthetic_map
from nvcatalog.errors import IncompleteWarning
from nvcatalog.layout import place_of
from nvcatalog.verify import Finding

NOWHERE = 99
PRIVATE, TOKEN = 9, "QWERTYUI"
FILE_BYTES = 2500
PAGE = b"<html><body>Down for maintenance</body></html>"

# Small numbers stand for things of which there may be more or fewer: they are taken modulo how many there are.
ANY = st.integers(0, 100)
COLLECTIONS = st.sets(st.sampled_from([7, 8, PRIVATE]))
NAMES = st.sampled_from(["a", "b", "ü"])
# What a snapshot has of tables with private rows; and the tables that say of other things what is private.
_PUBLIC_IMAGE = "image_id NOT IN (FROM private_images)"
PUBLIC = dict.fromkeys(("images", "files", "words", "words_status"), _PUBLIC_IMAGE)
PUBLIC["collections"] = "collection_id NOT IN (FROM private_collections)"
PUBLIC |= dict.fromkeys(
    ("raw_records", "record_history"),
    "CASE kind WHEN 'image' THEN id NOT IN (FROM private_images) ELSE id NOT IN (FROM private_collections) END",
)
SAY_MORE = {"refusals", "fetches", "outcomes", "terms"}
MODES = st.sampled_from(["download_new", "download_new", "overwrite", "offline"])


class Facts(NamedTuple):
    """What a catalog says, as far as promises are about it."""

    images: dict[int, tuple[int, bool]]  # collection, and whether it is gone
    collections: dict[int, bool]  # whether its list was read whole
    files: dict[tuple[int, str], tuple[str, int, str | None]]
    words: frozenset[int] = frozenset()
    former: int = 0
    refused: frozenset[int] = frozenset()  # images
    private: frozenset[int] = frozenset()  # images
    is_open: bool = False  # whether the private collection is


def facts_of(folder: Path) -> Facts:
    store = Store(folder)
    with store.reading() as connection:

        def ask(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query).fetchall()

        return Facts(
            {i: (c, g) for i, c, g in ask("SELECT image_id, collection_id, gone_at IS NOT NULL FROM images")},
            dict(ask("SELECT collection_id, coalesce(complete, false) FROM collections")),
            {(i, k): (p, s, h) for i, k, p, s, h in ask("SELECT image_id, kind, path, size, sha256 FROM files")},
            frozenset(i for (i,) in ask("SELECT image_id FROM words_status WHERE status = 'present'")),
            ask("SELECT count(*) FROM record_history")[0][0],
            frozenset(i for (i,) in ask("SELECT id FROM refusals WHERE kind = 'image'")),
            frozenset(i for (i,) in ask("FROM private_images")),
            ask("SELECT count(*) FROM access")[0][0] > 0,
        )


def _without_private(facts: Facts) -> Facts:
    """Return what a snapshot has of these; how many former records, nobody counts apart."""
    return facts._replace(
        images={id_: row for id_, row in facts.images.items() if id_ not in facts.private},
        collections={id_: whole for id_, whole in facts.collections.items() if id_ != PRIVATE},
        words=facts.words - facts.private,
        former=facts.former if not facts.private else 0,
    )


def _state_of(data_dir: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of all that is in a folder."""
    found = ((path, path.stat()) for path in data_dir.rglob("*"))
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


class Promises(RuleBasedStateMachine):
    """A server that people edit, a folder that is used, damaged and left by killed processes; what must hold."""

    def __init__(self, server: DemoServer, home: Path) -> None:
        super().__init__()
        self.server = server
        self.data_dir = Path(tempfile.mkdtemp(dir=home))
        self.folder = self.data_dir / "neurovault"
        self.front = Path(tempfile.mkdtemp(dir=home))  # somebody's own folder, before this one
        self.world = server.world = World.empty()
        self.served: dict[int, set[bytes]] = {}
        self.links: dict[str, int] = {}
        self.facts = Facts({}, {}, {})
        self.tainted: set[str] = set()  # files whose bytes a rule has changed
        self.excused: set[str] = set()  # problems that have a reason
        self.parts: set[str] = set()  # temporary files that killed processes left
        self.is_synced = False
        for collection_id, n_images in ((7, 3), (8, 2), (PRIVATE, 2)):
            self.world.add_collection(id=collection_id)
            for _ in range(n_images):
                self._add(collection_id)
        self.world.make_private(PRIVATE, TOKEN)

    def teardown(self) -> None:
        shutil.rmtree(self.data_dir)
        shutil.rmtree(self.front)

    # On the server

    def _serve(self, image_id: int) -> None:
        """Note which bytes the server gives from now on."""
        self.served.setdefault(image_id, set()).add(self.world.image_bytes(image_id))
        self.links[self.world.file_path(image_id).rpartition("/")[2]] = image_id
        self.world.set_words(image_id, {"pain": image_id / 100, "reward": -0.1})
        self.is_synced = False

    @rule(which=ANY, name=NAMES)
    def edit_a_record(self, which: int, name: str) -> None:
        for image_id in self._one(self._on_server(), which):
            self.world.edit_image(image_id, name=name)
            self.is_synced = False

    @rule(which=ANY, other=st.integers(1, 8))
    def replace_a_file(self, which: int, other: int) -> None:
        """With one of the same size or of another."""
        for image_id in self._one(self._on_server(), which):
            size = FILE_BYTES if other % 2 else 2 * FILE_BYTES
            self.world.replace_file(image_id, synthetic_map(image_id + 1000 * other, size))
            self._serve(image_id)

    @rule(which=ANY)
    def delete_an_image(self, which: int) -> None:
        for image_id in self._one(self._on_server(), which):
            self.world.delete_image(image_id)
            self.is_synced = False

    @rule(which=ANY, collection_id=st.sampled_from([7, 8, PRIVATE]))
    def move_an_image(self, which: int, collection_id: int) -> None:
        for image_id in self._one(self._on_server(), which):
            self.world.move_image(image_id, collection_id)
            self.links[self.world.file_path(image_id).rpartition("/")[2]] = image_id
            self.is_synced = False

    @rule(collection_id=st.sampled_from([7, 8, PRIVATE]))
    def add_an_image(self, collection_id: int) -> None:
        self._add(collection_id)

    def _add(self, collection_id: int) -> None:
        # Far from each other, since a file that replaces another is named for the next number.
        first_id = max([*self.served, NOWHERE]) + 50
        for image_id in self.world.add_synthetic(collection_id, 1, first_id=first_id, file_bytes=FILE_BYTES):
            self._serve(image_id)

    # In the folder, behind everybody's back

    @rule(which=ANY)
    def delete_a_file(self, which: int) -> None:
        for path in self._one(self._files(), which):
            (self.folder / path).unlink()
            self.excused.add(path)

    @rule(which=ANY, way=st.sampled_from(["bit", "cut", "zeros", "swap", "page"]), place=ANY)
    def corrupt_a_file(self, which: int, way: str, place: int) -> None:
        for path in self._one([row[0] for row in self.facts.files.values() if row[0] in self._files()], which):
            data = bytearray((self.folder / path).read_bytes()) or bytearray(1)
            # Behind the header of gzip, which has a name that nobody checks.
            at = min(100 + place * len(data) // 100, len(data) - 1)
            if way == "bit":
                data[at] ^= 1
            elif way == "cut":
                data = data[:at]
            elif way == "zeros":
                data[at:] = bytes(len(data) - at)
            else:
                data = bytearray(PAGE if way == "page" else synthetic_map(5000 + place, FILE_BYTES))
            (self.folder / path).write_bytes(data)
            self.excused.add(path)
            self.tainted.add(path)

    @rule(which=ANY, cut=st.booleans())
    def damage_metadata(self, which: int, cut: bool) -> None:
        for path in self._one(sorted(self.folder.glob("collection_*/*.json")), which):
            if cut:
                path.write_bytes(path.read_bytes()[:50])
            else:
                path.unlink()
            self.excused.add(path.relative_to(self.folder).as_posix())

    @rule(which=ANY, way=st.sampled_from(["file", "current", "folder", "manifest"]))
    def damage_a_snapshot(self, which: int, way: str) -> None:
        home = self.folder / "snapshots"
        patterns = {"file": "2*/*/*.parquet", "current": "CURRENT", "folder": "2*", "manifest": "2*/manifest.json"}
        for path in self._one(sorted(home.glob(patterns[way])), which):
            if path.is_dir():
                shutil.rmtree(path)
            elif way == "file":
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.unlink()  # others may share the bytes, by other names
                path.write_bytes(data)
            else:
                path.unlink()
            self.excused |= {f"snapshots/{each.relative_to(home)}" for each in home.rglob("*")}

    # By nvcatalog

    @rule(
        collection_ids=COLLECTIONS,
        image_ids=st.lists(ANY, max_size=2),
        nowhere=st.booleans(),
        mode=MODES,
        words=st.booleans(),
    )
    def fetch(self, collection_ids: set[int], image_ids: list[int], nowhere: bool, mode: str, words: bool) -> None:
        asked = self._asked(image_ids, nowhere)
        before, good = self.facts, self._good()
        options: dict[str, Any] = {"mode": mode, "fetch_neurosynth_words": words, "data_dir": self.data_dir}
        with self._step() as told, _no_connections(mode == "offline"):
            maps = fetch_neurovault_ids(self._named(collection_ids), asked, verbose=0, **options)
        self._check_warned(maps, told)
        self._check_report(maps, collection_ids, asked, words)
        self._check_answer(maps)
        self._check_requests(before, good, mode)
        here = set(_ids(maps))
        if mode == "offline":
            assert good & set(asked) <= here
        else:
            assert (set(asked) & set(self.world.image_ids())) - before.refused <= here
            for id_ in collection_ids:
                if mode == "overwrite" or not before.collections.get(id_):
                    assert set(self.world.image_ids(id_)) <= here
        if mode == "overwrite":
            new = {outcome.id for outcome in maps.report if outcome.status == "downloaded"}
            assert here & set(self.world.image_ids()) <= new

    @rule(name=NAMES, mode=MODES, most=st.none() | st.integers(1, 3))
    def fetch_by_filter(self, name: str, mode: str, most: int | None) -> None:
        before, good, was_synced = self.facts, self._good(), self.is_synced
        options: dict[str, Any] = {"mode": mode, "data_dir": self.data_dir, "image_terms": {"name": name}}
        with self._step() as told, _no_connections(mode == "offline"):
            maps = fetch_neurovault(most, collection_terms={}, verbose=0, **options)
        self._check_warned(maps, told)
        self._check_answer(maps)
        self._check_requests(before, good, mode, may_list=not was_synced)  # what has been edited
        assert all(meta["name"] == name for meta in maps.images_meta)
        assert len(maps.images) <= (most or 1000)
        wanted = {id_ for id_ in self.world.image_ids() if (self.world.image(id_) or {})["name"] == name}
        if mode == "overwrite" or was_synced:
            missed = wanted - before.refused - set(_ids(maps))
            assert not missed or len(maps.images) == most or mode == "offline"

    @rule(name=NAMES, mode=MODES)
    def fetch_by_condition(self, name: str, mode: str) -> None:
        before, good, chosen = self.facts, self._good(), self._known_as(name)
        options: dict[str, Any] = {"mode": mode, "data_dir": self.data_dir, "max_images": None}
        with self._step() as told, _no_connections(mode == "offline"):
            maps = fetch_where("name = $name", name=name, verbose=0, **options)
        self._check_warned(maps, told)
        self._check_answer(maps)
        self._check_requests(before, good, mode)
        assert {outcome.id for outcome in maps.report if outcome.kind == "image"} == chosen
        missed = chosen - set(_ids(maps))
        assert not missed & (good if mode == "offline" else set(self.world.image_ids()) - before.refused)

    @rule(collection_ids=COLLECTIONS, image_ids=st.lists(ANY, max_size=2), mode=MODES, words=st.booleans())
    def fetch_before_a_base(self, collection_ids: set[int], image_ids: list[int], mode: str, words: bool) -> None:
        """Nothing is written to the base, and what is fetched before it is as sound."""
        if not self._catalog.exists():
            return
        asked, state = self._asked(image_ids, nowhere=False), _state_of(self.data_dir)
        good, refused = self._good(), self.facts.refused
        if (self.front / "neurovault/catalog.duckdb").exists():
            refused |= facts_of(self.front / "neurovault").refused
        options: dict[str, Any] = {"mode": mode, "fetch_neurosynth_words": words, "data_dir": self.front}
        with warnings.catch_warnings(record=True) as caught, _no_connections(mode == "offline"):
            warnings.simplefilter("always")
            named = self._named(collection_ids)
            maps = fetch_neurovault_ids(named, asked, base=self.data_dir, verbose=0, **options)
        self._check_warned(maps, [each.category for each in caught])
        assert _state_of(self.data_dir) == state
        here = set(_ids(maps))
        assert (set(asked) & (good if mode == "offline" else set(self.world.image_ids()))) - refused <= here
        for id_, name in zip(_ids(maps), maps.images, strict=True):
            path = Path(name)
            shared = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else None
            assert path.read_bytes() in self.served[id_] or shared in self.tainted
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there may be no catalog yet
            assert not Catalog(self.front).verify(deep=True, verbose=0).problems

    @rule(
        at=st.integers(1, 450),
        collection_ids=COLLECTIONS,
        image_ids=st.lists(ANY, max_size=2),
        mode=MODES,
        words=st.booleans(),
        full=st.booleans(),
    )
    def fetch_and_be_stopped(
        self, at: int, collection_ids: set[int], image_ids: list[int], mode: str, words: bool, full: bool
    ) -> None:
        options = {"mode": mode, "fetch_neurosynth_words": words, "publish": at % 3 == 0}
        ids = {"collection_ids": self._named(collection_ids), "image_ids": self._asked(image_ids, nowhere=False)}
        before, good = self.facts, self._good()
        with self._step(stopped=True):
            end = stopped(at, "fetch", self.data_dir, full=full, **ids, **options)
        self._check_requests(before, good, mode, end)

    @rule()
    def sync(self) -> None:
        was_synced = self.is_synced
        with self._step():
            report = Catalog(self.data_dir).sync(verbose=0)
        assert report.complete
        assert not (was_synced and hits_of(self.server, "/api/collections/*/images/"))
        there = {id_: (c, False) for c in (7, 8) for id_ in self.world.image_ids(c)}
        public = {id_: row for id_, row in self.facts.images.items() if not row[1] and row[0] != PRIVATE}
        assert public == there
        assert {id_: whole for id_, whole in self.facts.collections.items() if id_ != PRIVATE} == {
            7: True,
            8: True,
        }
        rows = Catalog(self.data_dir).sql("SELECT image_id, name FROM images WHERE gone_at IS NULL").fetchall()
        names = {id_: name for id_, name in rows if id_ in public}
        assert names == {id_: (self.world.image(id_) or {})["name"] for id_ in there}
        self.is_synced = True

    @rule(at=st.integers(1, 160), full=st.booleans())
    def sync_and_be_stopped(self, at: int, full: bool) -> None:
        with self._step(stopped=True):
            stopped(at, "sync", self.data_dir, full=full)

    @rule(which=st.lists(ANY, min_size=1, max_size=2))
    def prune(self, which: list[int]) -> None:
        ids = self._asked(which, nowhere=False)
        with self._step(may_forget=ids):
            Catalog(self.data_dir).prune(image_ids=ids, verbose=0)
        assert not {id_ for id_, _ in self.facts.files} & set(ids)

    @rule(at=st.integers(1, 50), which=st.lists(ANY, min_size=1, max_size=2))
    def prune_and_be_stopped(self, at: int, which: list[int]) -> None:
        ids = self._asked(which, nowhere=False)
        with self._step(stopped=True, may_forget=ids):
            stopped(at, "prune", self.data_dir, image_ids=ids)

    @rule(offline=st.booleans())
    def repair(self, offline: bool) -> None:
        lost = {id_ for (id_, _), row in self.facts.files.items() if row[0] in self._wrong(self.facts)}
        with self._step(may_forget=lost if offline else ()):
            done = Catalog(self.data_dir).repair(offline=offline, verbose=0)
        left = {step.path for step in done.left}
        assert {finding.path for finding in self._problems()} <= left
        if not offline:
            on_server = set(self.world.image_ids()) - self.facts.refused
            assert not {step for step in done.left if step.image_id in on_server}

    @rule(at=st.integers(1, 140), offline=st.booleans())
    def repair_and_be_stopped(self, at: int, offline: bool) -> None:
        lost = {id_ for (id_, _), row in self.facts.files.items() if row[0] in self._wrong(self.facts)}
        with self._step(stopped=True, may_forget=lost if offline else ()):
            stopped(at, "repair", self.data_dir, offline=offline)

    @rule(stop_at=st.none() | st.integers(1, 105))
    def publish(self, stop_at: int | None) -> None:
        if not self._catalog.exists():
            return
        if stop_at is not None:
            with self._step(stopped=True):
                stopped(stop_at, "publish", self.data_dir)
        with self._step():
            place = Catalog(self.data_dir).snapshot()
        assert (self.folder / "snapshots/CURRENT").read_text().strip() == place.name
        self._check_snapshot(place)

    @rule()
    def rebuild(self) -> None:
        """The newest snapshot has all but what is private: else only the rows of spoilt files are lost."""
        if not self._catalog.exists():
            return
        with self._step():
            Catalog(self.data_dir).snapshot()
        lost = {id_ for (id_, _), row in self.facts.files.items() if row[0] in self._wrong(self.facts)}
        self._catalog.unlink()
        with self._step(may_forget=lost, may_forget_private=True):
            Catalog(self.data_dir).rebuild(verbose=0)

    # What is there

    @property
    def _catalog(self) -> Path:
        return self.folder / "catalog.duckdb"

    def _one(self, items: list[Any], which: int) -> list[Any]:
        return [items[which % len(items)]] if items else []

    def _on_server(self) -> list[int]:
        """Return the ids of all images there, private ones too."""
        return [*self.world.image_ids(), *self.world.image_ids(PRIVATE)]

    def _named(self, collection_ids: set[int]) -> list[Any]:
        """Return what opens these collections: of the private one its token, until that is known."""
        return [TOKEN if id_ == PRIVATE and not self.facts.is_open else id_ for id_ in sorted(collection_ids)]

    def _known_as(self, name: str) -> set[int]:
        """Return the images that have this name as far as the catalog knows, and are statistic maps."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there may be no catalog yet
            rows = (
                Catalog(self.data_dir)
                .sql("SELECT image_id FROM stat_maps WHERE name = $n", {"n": name})
                .fetchall()
            )
        return {id_ for (id_,) in rows}

    def _asked(self, which: list[int], nowhere: bool) -> list[int]:
        """Return ids of images that are on the server, or have been."""
        ids = [id_ for each in which for id_ in self._one(sorted(self.served), each)]
        return list(dict.fromkeys(ids + [NOWHERE] * nowhere))

    def _files(self) -> list[str]:
        return sorted(
            path.relative_to(self.folder).as_posix() for path in self.folder.glob("collection_*/*.nii.gz")
        )

    def _temporary(self) -> set[str]:
        hidden = [*self.folder.glob(".*"), *self.folder.glob("collection_*/.*"), *self.folder.glob("snapshots/.*")]
        named = {path.relative_to(self.folder).as_posix() for path in hidden}
        return {name for name in named if name.endswith((".part", ".new", ".new.wal"))}

    def _good(self) -> set[int]:
        """Return the images whose file is here, so that nobody need ask for it."""
        good = set()
        for path in self._files():
            id_, data = place_of(path).id or 0, (self.folder / path).read_bytes()
            row = self.facts.files.get((id_, "original"))
            record = self.world.image(id_) if id_ in self.world.image_ids() else None
            is_there = record is not None and record["collection_id"] == place_of(path).collection_id
            now = self.world.image_bytes(id_) if is_there else None
            is_told_of = (
                row is None or storage.sidecar_path(place_of(path).collection_id or 0, id_) not in self.excused
            )
            if (row and row[:2] == (path, len(data))) or (data == now and is_told_of):
                good.add(id_)
        return good

    def _wrong(self, facts: Facts) -> set[str]:
        """Return the files that are not what their rows say."""
        wrong = set()
        for path, size, sha256 in facts.files.values():
            data = (self.folder / path).read_bytes() if (self.folder / path).exists() else None
            if data is None or len(data) != size or sha256 not in (None, hashlib.sha256(data).hexdigest()):
                wrong.add(path)
        return wrong

    def _problems(self) -> tuple[Finding, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there may be no catalog yet
            return Catalog(self.data_dir).verify(deep=True, verbose=0).problems

    # What must hold

    @contextmanager
    def _step(
        self, *, stopped: bool = False, may_forget: Any = (), may_forget_private: bool = False
    ) -> Iterator[list[type[Warning]]]:
        """Let nvcatalog do something, and check what holds after everything."""
        told: list[type[Warning]] = []
        self.server.reset_log()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield told
        told += [each.category for each in caught]
        before, self.facts = self.facts, facts_of(self.folder)
        if may_forget_private:
            before, may_forget = _without_private(before), {*may_forget, *before.private}
        self._check_nothing_is_lost(before, set(may_forget))
        self._check_files()
        self._check_token()
        self._check_leftovers(stopped=stopped)
        self._check_problems(stopped=stopped)

    def _check_nothing_is_lost(self, before: Facts, may_forget: set[int]) -> None:
        after = self.facts
        assert before.images.keys() <= after.images.keys()
        assert before.collections.keys() <= after.collections.keys()
        assert before.words <= after.words
        assert before.former <= after.former
        assert {key for key in before.files.keys() - after.files.keys() if key[0] not in may_forget} == set()

    def _check_files(self) -> None:
        """Whatever has the name of a map is one that the server gave, unless somebody has damaged it."""
        for path in self._files():
            data = (self.folder / path).read_bytes()
            if data in self.served[place_of(path).id or 0]:
                self.tainted.discard(path)
            assert data in self.served[place_of(path).id or 0] or path in self.tainted, path

    def _check_token(self) -> None:
        """The token is in the catalog alone."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        told = {path.name for path in files if TOKEN.encode() in path.read_bytes()}
        assert told <= {"catalog.duckdb", "catalog.duckdb.wal"}, told

    def _check_leftovers(self, *, stopped: bool) -> None:
        assert [path.name for path in self.data_dir.iterdir()] in ([], ["neurovault"])
        left = self._temporary()
        assert stopped or left <= self.parts, left
        self.parts = left

    def _check_problems(self, *, stopped: bool) -> None:
        problems = self._problems()
        wrong = {finding.path for finding in problems if finding.kind in ("missing", "corrupt")}
        assert wrong == self._wrong(self.facts)
        for finding in problems:
            fine = finding.path in self.excused or (stopped and finding.kind in ("stray", "missing", "corrupt"))
            assert fine, finding
        self.excused = {finding.path for finding in problems}

    def _check_warned(self, maps: Bunch, told: list[type[Warning]]) -> None:
        assert bool(maps.report.missing) == any(issubclass(each, IncompleteWarning) for each in told)

    def _check_report(self, maps: Bunch, collection_ids: set[int], asked: list[int], words: bool) -> None:
        told = {outcome.id for outcome in maps.report if outcome.kind == "image"}
        held = {id_ for id_, (c, gone) in self.facts.images.items() if c in collection_ids and not gone}
        assert told >= {*asked, *held}
        for id_ in collection_ids - {self.facts.images[each][0] for each in held}:
            named = {outcome[:2] for outcome in maps.report}
            assert ("collection", id_) in named or (id_ == PRIVATE and ("collection", None) in named)
        here = [outcome.id for outcome in maps.report if outcome.kind == "image" and outcome.here]
        assert _ids(maps) == here
        if words:
            assert {outcome.id for outcome in maps.report if outcome.kind == "words"} == set(here)

    def _check_answer(self, maps: Bunch) -> None:
        status = {outcome.id: outcome.status for outcome in maps.report if outcome.kind == "image"}
        assert len(maps.images) == len(maps.images_meta) == len(maps.collections_meta) == len(set(maps.images))
        for id_, name in zip(_ids(maps), maps.images, strict=True):
            path, size, _ = self.facts.files[id_, "original"]
            assert Path(name) == self.folder / path
            data = Path(name).read_bytes()
            assert len(data) == size
            if status[id_] == "downloaded":
                assert data == self.world.image_bytes(id_)

    def _check_requests(
        self, before: Facts, good: set[int], mode: str, end: Stopped | None = None, *, may_list: bool = False
    ) -> None:
        """Nothing that is known, and as it was, is asked for again."""

        def hits(pattern: str) -> list[Hit]:
            return hits_of(self.server, pattern, end)

        files = Counter(hit.path.rpartition("/")[2] for hit in hits("/media/*"))
        assert set(files.values()) <= {1}
        if mode == "offline":
            assert not hits("*")
        if mode != "download_new":
            return
        assert not good & {self.links[path] for path in files}
        assert not before.words & {int(hit.query["neurovault"]) for hit in hits("/api/decode*")}
        for id_, complete in before.collections.items():
            key = TOKEN if id_ == PRIVATE else id_
            assert may_list or not (complete and hits(f"/api/collections/{key}/images/"))

    def _check_snapshot(self, place: Path) -> None:
        with duckdb.connect(str(self._catalog), read_only=True) as connection:
            for table in parts.TABLES:
                if self.facts.private and table in SAY_MORE:
                    continue
                files = f"read_parquet('{place}/{table}/*.parquet')"
                rows = [
                    sorted(connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM {source}").fetchall(), key=str)
                    for source in (f"{table} WHERE {PUBLIC.get(table, 'true')}", files)
                ]
                assert rows[0] == rows[1], table


def _ids(maps: Bunch) -> list[int]:
    return [meta["id"] for meta in maps.images_meta]


@contextmanager
def _no_connections(forbidden: bool) -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened offline")

    with patch.object(socket.socket, "connect", refuse if forbidden else socket.socket.connect):
        yield


def keep_promises(home: Path, **options: Any) -> None:
    """Go through as many histories as the options say, in folders below a place."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    with DemoServer(World.empty()) as server, patch.dict(os.environ, server.environment):
        how = settings(deadline=None, database=None, suppress_health_check=checks, print_blob=False, **options)
        machine: Any = lambda: Promises(server, home)  # noqa: E731 - it asks for a class, and calls it
        run_state_machine_as_test(machine, settings=how)


@pytest.mark.usefixtures("no_waiting")
def test_the_promises_hold_after_every_step_of_any_history(tmp_path: Path) -> None:
    keep_promises(tmp_path, max_examples=5, stateful_step_count=8, derandomize=True)
