"""Each query that ships gives what pandas makes of the same real records, written without looking at its SQL."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nvcatalog import Catalog, shelf
from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store

DATA = Path(__file__).parent / "data"
Record = dict[str, Any]
Rows = list[tuple[Any, ...]]


def real_records(name: str) -> list[Record]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


OWN = 1_000_000  # where the numbers of images that are made up here begin
PLACES = [record["id"] for record in real_records("collections.jsonl")[:9]]  # and the collections they are in
TYPES = ("T map", "Z map", "variance", "univariate-beta map", "F", "parcellation")
LEVELS = ("group", "single-subject", "group", "S", "G", None)
SUBJECTS = (None, 0, 8, 11, 20, 35)
SETS = ("terms_20k", "mine", None, "terms_20k", "terms_20k")
CHANGED = datetime(2025, 11, 20, tzinfo=UTC)


# The records


def variants(images: list[Record]) -> list[Record]:
    """Return the images as others might have given them, so that each query has something to tell apart."""
    made = []
    for n, image in enumerate(images):
        changes: Record = {
            "id": OWN + n,
            "collection_id": PLACES[n % len(PLACES)],
            "map_type": TYPES[(n // 5) % len(TYPES)],
            "analysis_level": LEVELS[n % len(LEVELS)],
            "number_of_subjects": SUBJECTS[(n // 2) % len(SUBJECTS)],
            "brain_coverage": 30.0 + n % 70,
            "is_thresholded": n % 11 == 0,
            "not_mni": n % 13 == 0,
            "contrast_definition": ("faces > houses", " Faces > Houses", "go", None)[n % 4],
            "name": f"sub-{n % 30:02} {('beta', 'varcope', 'T map')[n % 3]} of run {n // 40}",
            "SubjectID" if n % 2 else "subjectid": f"s{n % 8}",
        }
        if n % 10 == 0:
            changes |= {"Site": {"city": "Bonn"}, 'odd "key"': n}
        if n % 9 == 0:
            changes["nidm_results"] = f"https://neurovault.org/collections/1/pack_{n // 40}.nidm"
        made.append({**image, **changes})
    return made


def pairs() -> list[Record]:
    """Return effects and their variances, as packs and uploaders of many subjects give them."""
    made: list[Record] = []

    def add(name: str, map_type: str, **about: Any) -> None:
        about = {"analysis_level": "single-subject", "contrast_definition": "go > stop"} | about
        place = {"id": 2 * OWN + len(made), "collection_id": PLACES[0]}
        made.append({**place, "name": name, "map_type": map_type, **about})

    for subject in range(5):
        add(f"sub-{subject}_beta_1", "univariate-beta map")
        add(f"SUB {subject} varcope 1", "variance")
    add("mean", "univariate-beta map", analysis_level="group")
    add("variance of the mean", "variance", analysis_level="group")
    for n, levels in enumerate([("group", "G"), ("S", "single-subject"), ("", None), ("M", "meta-analysis")]):
        for level, map_type in zip(levels, ("univariate-beta map", "variance"), strict=True):
            add(f"{map_type} of {n}", map_type, analysis_level=level, contrast_definition=f"written {n}")
    for name in ("cope1", "cope1", "varcope1"):  # nobody can tell which of two
        add(name, "univariate-beta map" if name == "cope1" else "variance", contrast_definition="ambiguous")
    add("beta 3", "univariate-beta map", contrast_definition=None)  # and of what are these?
    add("varcope 3", "variance", contrast_definition=None)
    pack: Record = {"nidm_results": "https://neurovault.org/collections/3/spm.nidm", "contrast_definition": None}
    for contrast in ("Visual", "Audi"):
        add(f"Statistic Map: {contrast}", "T map", **pack)
        add(f"Z-Statistic Map: {contrast}", "Z map", **pack)
    return made


def fill(folder: Path) -> None:
    store = Store(folder)
    collections, images = real_records("collections.jsonl"), real_records("images.jsonl")
    images += variants(images) + pairs()
    random = np.random.default_rng(5)
    batch = Batch()
    for record in collections:
        batch.add_record("collection", record)
    for record in images:
        batch.add_record("image", record)
    for n, record in enumerate(images[::3]):
        about = {"size": 1000, "state": "present" if n % 7 else "unverified", "sha256": "0"}
        shape = {"shape": [91, 109, 91 - n % 2], "voxel_size_mm": [2.0, 2.0, 2.0004 if n % 2 else 2.0]}
        path = f"collection_{record['collection_id']}/image_{record['id']}.nii.gz"
        batch.add("files", {"image_id": record["id"], "kind": "original", "path": path, **about, **shape})
    for n, record in enumerate(images[::4]):
        terms = {f"term {t}": round(float(random.uniform(-1, 1)), 3) for t in range(12 + n % 2)}
        batch.words[record["id"]] = Words(terms if n else dict.fromkeys(terms, 0.0), SETS[n % 5])
    assert store.land(batch) == []
    later = Batch()
    for record in images[200:230]:
        later.add_record("image", {**record, "name": f"{record['name']} again", "note": "new"})
    assert store.land(later) == []
    with store.writing() as connection:
        connection.execute("UPDATE images SET gone_at = TIMESTAMPTZ '2025-11-22' WHERE image_id % 17 = 0")
        connection.execute(
            "UPDATE collections SET gone_at = TIMESTAMPTZ '2024-01-01' WHERE collection_id % 29 = 0"
        )
        connection.execute("UPDATE collections SET private = true WHERE collection_id = $id", {"id": PLACES[1]})
        connection.execute(
            "INSERT INTO refusals BY NAME SELECT unnest($kinds) AS kind, unnest($ids) AS id, 'private' AS status",
            {"kinds": ["collection", "image", "image"], "ids": [PLACES[2], OWN + 4, OWN + 30]},
        )
        connection.execute(
            "UPDATE record_history SET replaced_at = TIMESTAMPTZ '2025-11-23' + to_hours(id % 5)",
        )
        connection.execute("""
            INSERT INTO fetches BY NAME
            SELECT 'fetch ' || n AS fetch_id, TIMESTAMPTZ '2025-11-01' + to_days((n // 2)::INTEGER) AS started_at,
                started_at + to_milliseconds(1500) AS finished_at, 'fetch_where' AS function, '{}' AS parameters,
                'download_new' AS mode, 'https://neurovault.org' AS server, '0.1.0' AS version, n AS requested,
                n AS returned, n AS downloaded, 0 AS missing, 1234567 AS bytes
            FROM range(5) AS r(n)
        """)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """Return a catalog of real records and their variants; queries change nothing, so all tests share it, open."""
    data_dir = tmp_path_factory.mktemp("data")
    (data_dir / "neurovault").mkdir()
    fill(data_dir / "neurovault")
    with Store(data_dir / "neurovault").reading():  # what is open need not be opened again by each test
        yield Catalog(data_dir)


# The same in pandas

STATS = {
    "t": ("T map", "T"),
    "z": ("Z map", "Z"),
    "f": ("F map", "F"),
    "beta": ("univariate-beta map", "U"),
    "varcope": ("variance", "V"),
    "p": ("P map (given null hypothesis)", "P"),
}
STAT_OF = {map_type: stat for stat, types in STATS.items() for map_type in types}
LEVEL_OF = {"S": "single-subject", "G": "group", "M": "meta-analysis", "Other": "other", "": None}


TABLES = (
    "collections",
    "images",
    "files",
    "refusals",
    "terms",
    "words",
    "words_status",
    "raw_records",
    "record_history",
    "fetches",
)


def as_frame(catalog: Catalog, table: str) -> pd.DataFrame:
    rows = catalog.sql(f"SELECT * FROM {table}").arrow()
    return pd.DataFrame(rows.to_pylist(), columns=rows.column_names, dtype=object)


class Frames:
    """The tables of the catalog as dataframes of objects, and what pandas makes of them."""

    def __init__(self, tables: dict[str, pd.DataFrame], *, private: bool = False, gone: bool = False) -> None:
        self._tables = tables
        self._private, self._gone = private, gone

    def table(self, name: str) -> pd.DataFrame:
        return self._tables[name]

    def public(self, kind: str) -> pd.DataFrame:
        """Return collections or images without those that are private, unless they are wanted."""
        frame = self.table(f"{kind}s")
        collections, refusals = self.table("collections"), self.table("refusals")
        refused = refusals[refusals["status"] == "private"].groupby("kind")["id"].apply(set)
        hidden = refused["collection"] | set(collections[collections["private"] == True]["collection_id"])  # noqa: E712
        hide = frame["collection_id"].isin(hidden) | frame[f"{kind}_id"].isin(refused[kind])
        return frame if self._private else frame[~hide]

    @cached_property
    def collections(self) -> pd.DataFrame:
        frame = self.public("collection")
        return frame if self._gone else frame[frame["gone_at"].isna()]

    @cached_property
    def images(self) -> pd.DataFrame:
        """All images that are wanted, with file, level and statistic."""
        frame = self.public("image")
        frame = (frame if self._gone else frame[frame["gone_at"].isna()]).copy()
        files = self.table("files")
        files = files[(files["kind"] == "original") & (files["state"] == "present")]
        frame = frame.merge(files[["image_id", "path", "shape", "voxel_size_mm"]], on="image_id", how="left")
        frame["stat"] = frame["map_type"].map(STAT_OF)
        frame["level"] = [LEVEL_OF.get(level, level) for level in frame["analysis_level"]]
        frame["n_subjects"] = [n if n and n > 0 else None for n in frame["number_of_subjects"]]
        for ours, theirs in (("task", "paradigm"), ("contrast", "contrast")):
            frame[ours] = [told(text) for text in frame[f"cognitive_{theirs}_cogatlas"]]
            frame[f"{ours}_id"] = [told(text) for text in frame[f"cognitive_{theirs}_cogatlas_id"]]
        about = self.table("collections")[["collection_id", "name", "doi", "owner"]]
        return frame.merge(about.rename(columns={"name": "collection_name"}), on="collection_id", how="left")

    @cached_property
    def maps(self) -> pd.DataFrame:
        frame = self.images
        return frame[frame["image_type"] != "atlas"]

    @cached_property
    def words(self) -> pd.DataFrame:
        frame = self.table("words").merge(self.table("terms"), on="term_id")
        frame = frame.merge(self.table("words_status")[["image_id", "reference"]], on="image_id")
        return frame.astype({"weight": float, "image_id": int})


def told(text: str | None) -> str | None:
    decoded = html.unescape(text.strip()) if text else ""
    return None if decoded.lower() in {"", "none", "none / other", "null", "n/a", "na"} else decoded


def records_of(frame: pd.DataFrame) -> list[Record]:
    """Return the rows as dictionaries with None for what is missing."""
    return [
        {str(key): None if last(value)[0] else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]


def within(frame: pd.DataFrame, collection_ids: list[int] | None) -> pd.DataFrame:
    return frame if collection_ids is None else frame[frame["collection_id"].isin(collection_ids)]


def of_task(frame: pd.DataFrame, task: str | None) -> pd.DataFrame:
    if task is None:
        return frame
    return frame[(frame["task"].str.lower() == task.lower()) | (frame["task_id"] == task)]


def of_contrast(frame: pd.DataFrame, contrast: str | None) -> pd.DataFrame:
    if contrast is None:
        return frame
    wanted = contrast.lower()
    typed = frame["contrast_definition"].str.strip().str.lower() == wanted
    return frame[(frame["contrast"].str.lower() == wanted) | (frame["contrast_id"] == contrast) | typed]


def at_level(frame: pd.DataFrame, level: str | None) -> pd.DataFrame:
    return frame if level is None else frame[frame["level"] == level]


def here(frame: pd.DataFrame) -> int:
    return int(frame["path"].notna().sum())


def columns(frame: pd.DataFrame, names: str) -> Rows:
    return list(frame[names.split()].itertuples(index=False, name=None))


def last(value: Any) -> tuple[bool, Any]:
    """Sort what is missing behind everything else."""
    missing = value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
    return missing, 0 if missing else value


# What each query should give


def images_per_collection(f: Frames, min_images: int = 1, collection_ids: Any = None) -> Rows:
    sizes = f.images.groupby("collection_id")["path"].agg(["size", "count"])
    rows = []
    for _, c in within(f.collections, collection_ids).iterrows():
        size, count = sizes.loc[c["collection_id"]] if c["collection_id"] in sizes.index else (0, 0)
        if size >= min_images:
            rows.append((c["collection_id"], c["name"], size, count))
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def collections_overview(
    f: Frames, min_images: int = 0, has_doi: bool | None = None, collection_ids: Any = None
) -> Rows:
    rows = []
    with_words = set(f.words["image_id"])
    for _, c in within(f.collections, collection_ids).iterrows():
        images = f.images[f.images["collection_id"] == c["collection_id"]]
        if len(images) >= min_images and (has_doi is None or (c["doi"] is not None) == has_doi):
            levels = list(images["level"])
            most = images["n_subjects"].dropna().max()
            about = (len(images), levels.count("group"), levels.count("single-subject"), most, here(images))
            words = sum(image in with_words for image in images["image_id"])
            head = (c["collection_id"], c["name"], c["doi"], c["owner_name"])
            rows.append((*head, *about, words, bool(c["complete"]), c["modify_date"]))
    return sorted(rows, key=lambda row: (-row[4], row[0]))


def search(frame: pd.DataFrame, text: str, fields: str, shown: str, key: str) -> Rows:
    words = text.lower().split()

    def has_all(*values: Any) -> bool:
        return all(any(word in (value or "").lower() for value in values) for word in words)

    rows = [
        (*columns(pd.DataFrame([row]), shown)[0], has_all(row["name"]))
        for _, row in frame.iterrows()
        if has_all(*(row[field] for field in fields.split()))
    ]
    place = shown.split().index(key)
    return sorted(rows, key=lambda row: (not row[-1], row[place]))[:100]


def collection_search(f: Frames, text: str, collection_ids: Any = None) -> Rows:
    frame = within(f.collections, collection_ids)
    shown = "collection_id name doi authors journal_name description"
    return search(frame, text, "name authors journal_name description", shown, "collection_id")


def image_search(f: Frames, text: str, collection_ids: Any = None) -> Rows:
    fields = "name description contrast_definition cognitive_contrast_cogatlas"
    shown = f"image_id collection_id {fields} map_type analysis_level"
    return search(within(f.images, collection_ids), text, fields, shown, "image_id")


def tasks(f: Frames, level: str | None = None, min_collections: int = 1, collection_ids: Any = None) -> Rows:
    rows = [
        (task, maps["task_id"].dropna().min(), maps["collection_id"].nunique(), len(maps), here(maps))
        for task, maps in within(at_level(f.maps, level), collection_ids).groupby("task")
    ]
    return sorted((row for row in rows if row[2] >= min_collections), key=lambda row: (-row[2], -row[3], row[0]))


def contrasts_of_task(f: Frames, task: str, level: str | None = None, collection_ids: Any = None) -> Rows:
    rows = [
        (contrast, maps["contrast_id"].dropna().min(), maps["collection_id"].nunique(), len(maps), here(maps))
        for contrast, maps in within(at_level(of_task(f.maps, task), level), collection_ids).groupby(
            "contrast", dropna=False
        )
    ]
    return sorted(rows, key=lambda row: (-row[2], -row[3], last(row[0])))


def maps_of_task(
    f: Frames,
    task: str,
    contrast: str | None = None,
    level: str | None = None,
    stat: str | None = None,
    collection_ids: Any = None,
) -> Rows:
    frame = within(at_level(of_contrast(of_task(f.maps, task), contrast), level), collection_ids)
    frame = frame if stat is None else frame[frame["stat"] == stat]
    names = (
        "image_id collection_id collection_name name task contrast contrast_definition analysis_level stat "
        "n_subjects path"
    )
    return columns(frame.sort_values(["collection_id", "image_id"]), names)


IBMA = {"task": None, "min_subjects": 11, "min_coverage": 40, "stats": ["t", "z"], "neuroscout": None}


def ibma_steps(f: Frames, params: Record) -> list[tuple[pd.DataFrame, str]]:
    """Return the maps left after each step, and the column that the step looks at."""
    asked: Record = IBMA | params
    steps = [(within(f.maps, asked.get("collection_ids")), "")]

    def keep(column: str, test: Callable[[Any], bool], wanted: Any = True) -> None:
        left = steps[-1][0]
        if wanted is not None:
            left = left[[not last(value)[0] and test(value) for value in left[column]]]
        steps.append((left, column))

    steps.append((of_task(steps[-1][0], asked["task"]), "task"))
    keep("modality", lambda value: value == "fMRI-BOLD")
    keep("level", lambda value: value == "group")
    keep("stat", lambda value: value in asked["stats"], asked["stats"])
    keep("is_thresholded", lambda value: value is False)
    keep("not_mni", lambda value: value is False)
    keep("brain_coverage", lambda value: value > asked["min_coverage"], asked["min_coverage"])
    keep("n_subjects", lambda value: value >= asked["min_subjects"], asked["min_subjects"])
    left = steps[-1][0]
    by_robot = left["owner"] == 5761
    steps.append((left if asked["neuroscout"] is None else left[by_robot == asked["neuroscout"]], ""))
    return steps


def ibma_candidates(f: Frames, **params: Any) -> Rows:
    frame = ibma_steps(f, params)[-1][0].sort_values(["collection_id", "image_id"])
    frame = frame.assign(from_neuroscout=frame["owner"] == 5761)
    names = (
        "image_id collection_id collection_name doi name task contrast contrast_definition stat n_subjects "
        "brain_coverage from_neuroscout path"
    )
    return columns(frame, names)


def ibma_attrition(f: Frames, **params: Any) -> Rows:
    rows: Rows = []
    before: pd.DataFrame | None = None
    for number, (left, column) in enumerate(ibma_steps(f, params)):
        removed = before[~before["image_id"].isin(left["image_id"])] if before is not None else left[:0]
        unknown = sum(last(value)[0] or value == "" for value in removed[column]) if column else 0
        rows.append((number, ..., len(left), left["collection_id"].nunique(), len(removed), unknown))
        before = left
    return rows


def decoder_table(
    f: Frames, label: str = "task", min_images: int = 2, min_collections: int = 2, collection_ids: Any = None
) -> Rows:
    frame = within(f.maps, collection_ids)
    frame = frame[[not last(value)[0] and value != "" for value in frame[label]]]
    frame = frame.groupby(label).filter(
        lambda maps: len(maps) >= min_images and maps["collection_id"].nunique() >= min_collections
    )
    return columns(frame.sort_values(["collection_id", "image_id"]), f"image_id {label} collection_id path")


def levels_of_collection(f: Frames, collection_id: int) -> Rows:
    rows = []
    for level, maps in within(f.maps, [collection_id]).groupby("level", dropna=False):
        rows_here = records_of(maps)
        contrasts = {row["contrast"] or (row["contrast_definition"] or "").strip() for row in rows_here} - {""}
        n = maps["n_subjects"].dropna()
        rows.append(
            (level, len(maps), sorted(set(maps["stat"].dropna())), len(contrasts), n.min(), n.max(), here(maps))
        )
    return sorted(rows, key=lambda row: (-row[1], last(row[0])))


def subjects_of_contrast(
    f: Frames, collection_id: int, contrast: str | None = None, subject_key: str | None = None
) -> Rows:
    rows = []
    frame = at_level(of_contrast(within(f.maps, [collection_id]), contrast), "single-subject")
    for row in records_of(frame):
        if subject_key is None:
            found = re.search(r"\bsub-([A-Za-z0-9]+)", f"{row['name']} {(row['file'] or '').split('/')[-1]}")
            subject = found[1] if found else None
        else:
            written = json.loads(row["extra"] or "{}")
            fields = {key.lower(): value for key, value in written.items()}
            subject = written.get(subject_key, fields.get(subject_key.lower()))
        rest = columns(pd.DataFrame([row]), "image_id name contrast contrast_definition stat path")[0]
        rows.append((subject, *rest))
    return sorted(rows, key=lambda row: (last(row[0]), row[1]))


def sample_sizes(f: Frames, task: str | None = None, collection_ids: Any = None) -> Rows:
    rows = []
    for level, maps in within(of_task(f.maps, task), collection_ids).groupby("level", dropna=False):
        typed = list(maps["number_of_subjects"])
        missing, zero = sum(last(n)[0] for n in typed), typed.count(0)
        n = maps["n_subjects"].dropna().astype(float)
        figures = (n.min(), n.median(), n.max())
        rows.append((level, len(maps), len(maps) - missing - zero, missing, zero, *figures))
    return sorted(rows, key=lambda row: (-row[1], last(row[0])))


def paired_maps(f: Frames, stat_a: str = "beta", stat_b: str = "varcope", collection_ids: Any = None) -> Rows:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in records_of(within(f.maps, collection_ids)):
        typed = (row["contrast_definition"] or "").strip().lower()
        contrast = typed or (row["contrast"].lower() if row["contrast"] else None)
        pack = row["nidm_results"] or None
        if row["stat"] in (stat_a, stat_b) and (pack or contrast):
            groups.setdefault((row["collection_id"], pack, row["level"], row["task"], contrast), []).append(row)
    rows = []
    for (collection_id, pack, *_), members in groups.items():
        by = "pack" if pack else "contrast"
        pairs = [(one_pair(members, stat_a, stat_b), by)]
        if pairs[0][0] is None:
            stems: dict[str, list[Record]] = {}
            for member in members:
                stems.setdefault(stem(member["name"]), []).append(member)
            pairs = [(one_pair(few, stat_a, stat_b), f"{by} and name") for few in stems.values()]
        rows += [
            (a["image_id"], b["image_id"], collection_id, how, a["name"], b["name"], a["path"], b["path"])
            for pair, how in pairs
            if pair
            for a, b in [pair]
        ]
    return sorted(rows, key=lambda row: (row[2], row[0]))


def one_pair(members: list[Record], stat_a: str, stat_b: str) -> tuple[Record, Record] | None:
    ones, others = ([m for m in members if m["stat"] == stat] for stat in (stat_a, stat_b))
    return (ones[0], others[0]) if len(ones) == len(others) == 1 and stat_a != stat_b else None


def stem(name: str) -> str:
    """Drop the words by which the names here tell statistics apart."""
    words = re.findall(r"[a-z]+|[0-9]+", name.lower())
    return " ".join(word for word in words if word not in ("beta", "varcope", "t", "map", "z", "statistic"))


def atlases(f: Frames, species: str | None = None, collection_ids: Any = None) -> Rows:
    frame = within(f.images, collection_ids)
    atlas = (frame["image_type"] == "atlas") | frame["label_description_file"].notna()
    frame = frame.assign(kind=np.where(atlas, "atlas", "parcellation"), labels=None)
    frame = frame[atlas | frame["map_type"].isin(["parcellation", "Pa"])]
    if species is not None:
        frame = frame[frame["subject_species"].str.lower() == species.lower()]
    names = (
        "image_id collection_id collection_name name kind subject_species target_template_image shape "
        "voxel_size_mm path labels"
    )
    return columns(frame.sort_values(["collection_id", "image_id"]), names)


def spaces(f: Frames, level: str | None = None, collection_ids: Any = None) -> Rows:
    frame = within(at_level(f.maps, level), collection_ids)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row in records_of(frame):
        size = row["voxel_size_mm"] and tuple(round(mm, 3) for mm in row["voxel_size_mm"])
        key = (row["target_template_image"], row["not_mni"], row["shape"] and tuple(row["shape"]), size)
        groups.setdefault(key, []).append(row["collection_id"])
    rows = [
        (template, space, shape and list(shape), size and list(size), len(ids), len(set(ids)))
        for (template, space, shape, size), ids in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row[4], *(last(value) for value in row[:4])))


def extra_fields(f: Frames, min_count: int = 1, collection_ids: Any = None) -> Rows:
    found: dict[tuple[str, str], dict[int, tuple[int, Any]]] = {}
    for kind, key, frame in (("image", "image_id", f.images), ("collection", "collection_id", f.collections)):
        for row in records_of(within(frame, collection_ids)):
            for text in (row["extra"], row.get("data") if kind == "image" else None):
                fields = json.loads(text) if isinstance(text, str) else {}
                for field, value in fields.items() if isinstance(fields, dict) else ():
                    found.setdefault((kind, field), {})[row[key]] = row["collection_id"], value
    rows = []
    for (kind, field), of in found.items():
        shown = [of[id_][1] for id_ in sorted(of) if of[id_][1] is not None]
        places = {place for place, _ in of.values()} - {None}
        rows.append((kind, field, len(of), len(places), as_text(shown[0]) if shown else None))
    return sorted((r for r in rows if r[2] >= min_count), key=lambda row: (-row[2], row[0], row[1]))


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


COMPLETE: dict[str, Callable[[Any], Any]] = {
    "task": bool,
    "contrast": bool,
    "contrast_definition": str.strip,
    "description": str.strip,
    "map_type": bool,
    "analysis_level": bool,
    "modality": bool,
    "n_subjects": bool,
    "statistic_parameters": lambda value: True,
    "smoothness_fwhm": lambda value: True,
    "target_template_image": bool,
    "subject_species": bool,
    "age": lambda value: True,
    "sex": bool,
    "handedness": bool,
    "figure": bool,
    "is_thresholded": lambda value: True,
    "not_mni": lambda value: True,
    "brain_coverage": lambda value: True,
    "file_size": bool,
    "doi": bool,
}


def metadata_completeness(f: Frames, by: str | None = None, collection_ids: Any = None) -> Rows:
    frame = within(f.maps, collection_ids)
    parts: dict[str, Callable[[Record], Any]] = {
        "collection": lambda row: row["collection_id"],
        "owner": lambda row: row["owner"],
        "year": lambda row: row["add_date"] and row["add_date"].year,
        "modality": lambda row: row["modality"] or None,
        "level": lambda row: row["level"],
        "neuroscout": lambda row: str(row["owner"] == 5761).lower(),
    }
    groups: dict[str | None, list[Record]] = {}
    for row in records_of(frame):
        part = parts[by](row) if by else None
        part = None if part is None else str(int(part) if isinstance(part, float) else part)
        groups.setdefault(part, []).append(row)
    rows = []
    for part, members in groups.items():
        for field, says in COMPLETE.items():
            values = [row[field] for row in members]
            filled = sum(value is not None and bool(says(value)) for value in values)
            rows.append((part, field, len(members), filled, math.floor(1000 * filled / len(members) + 0.5) / 10))
    return sorted(rows, key=lambda row: (last(row[0]), -row[4], row[1]))


def top_terms(f: Frames, image_id: int, limit: int = 20, n: int | None = None) -> Rows:
    rows = columns(f.words[f.words["image_id"] == image_id], "term weight reference")
    return sorted(rows, key=lambda row: (-abs(row[1]), row[0]))[: n or limit]


def in_turn(rows: Rows, key: Callable[[tuple[Any, ...]], Any]) -> Rows:
    """Return the first rows of each reference set, which is their last column, then the second ones."""
    ranked = []
    for reference in {row[-1] for row in rows}:
        one_set = sorted((row for row in rows if row[-1] == reference), key=key)
        ranked += [(rank, last(reference), row) for rank, row in enumerate(one_set)]
    return [row for _, _, row in sorted(ranked, key=lambda each: each[:2])]


def of_set(frame: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    return frame if reference is None else frame[frame["reference"].fillna("") == reference]


def images_by_term(
    f: Frames, term: str, min_weight: float = -2, reference: str | None = None, collection_ids: Any = None
) -> Rows:
    frame = of_set(f.words[(f.words["term"] == term) & (f.words["weight"] >= min_weight)], reference)
    frame = frame.merge(within(f.images, collection_ids), on="image_id")
    rows = columns(frame, "image_id name collection_id weight reference")
    return in_turn(rows, key=lambda row: (-row[3], row[0]))[:100]


def similar_by_terms(f: Frames, image_id: int, collection_ids: Any = None, limit: int = 20) -> Rows:
    matrix = f.words.pivot(index="image_id", columns="term", values="weight").fillna(0)  # noqa: PD010
    reference = f.table("words_status").set_index("image_id")["reference"]
    mine = matrix.loc[image_id]
    rows = []
    for row in columns(within(f.images, collection_ids), "image_id name collection_id"):
        if row[0] in matrix.index and row[0] != image_id and reference[row[0]] == reference[image_id]:
            other = matrix.loc[row[0]]
            length = float(np.linalg.norm(mine) * np.linalg.norm(other))
            cosine = float(np.dot(mine, other)) / length if length else None
            rows.append((*row, cosine, reference[image_id]))
    return sorted(rows, key=lambda row: (row[3] is None, -(row[3] or 0), row[0]))[:limit]


def terms_of_selection(f: Frames, image_ids: list[int], reference: str | None = None, limit: int = 100) -> Rows:
    found = of_set(f.words[f.words["image_id"].isin(image_ids)], reference)
    means = found.groupby(["term", "reference"], dropna=False)["weight"].agg(["size", "mean", "min", "max"])
    rows = [(term, *row, None if last(set_)[0] else set_) for (term, set_), *row in means.itertuples(name=None)]
    return in_turn(rows, key=lambda row: (-row[2], row[0]))[:limit]


def terms_between(f: Frames, a: list[int], b: list[int], reference: str | None = None) -> Rows:
    one, other = (
        {(row[0], row[-1]): row for row in terms_of_selection(f, ids, reference, limit=10**6)} for ids in (a, b)
    )
    rows = [
        (key[0], one[key][2] - other[key][2], one[key][2], other[key][2], one[key][1], other[key][1], key[1])
        for key in one.keys() & other.keys()
    ]
    return in_turn(rows, key=lambda row: (-abs(row[1]), row[0]))


def changed_since(f: Frames, date: datetime, fields: bool = False, collection_ids: Any = None) -> Rows:
    history = f.table("record_history")
    history = history[history["replaced_at"] >= date].sort_values("replaced_at")
    now = {(row["kind"], row["id"]): json.loads(row["raw"]) for row in f.table("raw_records").to_dict("records")}
    rows = []
    for kind in ("collection", "image"):
        for row in records_of(within(f.public(kind), collection_ids)):
            id_ = row[f"{kind}_id"]
            former = history[(history["kind"] == kind) & (history["id"] == id_)]
            times = [row["add_date"], row["modify_date"], *former["replaced_at"]]
            times = [time for time in times if time is not None]
            gone = row["gone_at"]
            if not any(time >= date for time in [*times, *([gone] if gone else [])]):
                continue
            old, new = json.loads(former["raw"].iloc[0]) if len(former) else None, now[kind, id_]
            differ = old and sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            change = "new" if row["add_date"] is not None and row["add_date"] >= date else "changed"
            change = "gone" if gone and gone >= date else change
            head = (kind, id_, row["collection_id"], row["name"], change)
            rows.append((*head, gone or max(times), differ if fields else None))
    return sorted(rows, key=lambda row: (-row[5].timestamp(), row[0], row[1]))


def fetch_history(f: Frames) -> Rows:
    frame = f.table("fetches").sort_values("fetch_id", kind="stable")
    frame = frame.sort_values("started_at", ascending=False, kind="stable")
    seconds = [round(time.total_seconds(), 3) for time in frame["finished_at"] - frame["started_at"]]
    frame = frame.assign(seconds=seconds, megabytes=[round(size / 1e6, 3) for size in frame["bytes"]])
    names = (
        "started_at seconds function mode requested returned downloaded missing megabytes server version "
        "parameters"
    )
    return columns(frame, names)


IMAGES = list(range(OWN, OWN + 60))
THEIRS = {"reference": "mine"}
CASES: dict[str, list[Record]] = {
    "images_per_collection": [{}, {"min_images": 0}, {"min_images": 5}],
    "collections_overview": [{}, {"min_images": 1, "has_doi": True}, {"has_doi": False}],
    "collection_search": [{"text": "neural"}, {"text": "Study of THE"}, {"text": "no such thing"}],
    "image_search": [{"text": "faces sub-0"}, {"text": "RUN 2 beta"}, {"text": "%"}],
    "tasks": [{}, {"level": "group"}, {"level": "single-subject", "min_collections": 2}],
    "contrasts_of_task": [
        {"task": "Balloon Analogue Risk Task (BART)"},
        {"task": "trm_4d559bcd67c18", "level": "group"},
    ],
    "maps_of_task": [
        {"task": "rest eyes closed"},
        {"task": "rest eyes closed", "level": "group", "stat": "t"},
        {"task": "rest eyes closed", "contrast": "faces > houses"},
        {"task": "object one-back task", "level": "single-subject"},
    ],
    "ibma_candidates": [
        {},
        {"min_subjects": None, "min_coverage": None, "stats": None},
        {"task": "rest eyes closed", "stats": ["beta", "varcope"], "min_subjects": 8},
        {"neuroscout": False},
        {"neuroscout": True},
    ],
    "decoder_table": [
        {},
        {"label": "contrast", "min_collections": 1},
        {"label": "level"},
        {"label": "stat", "min_images": 20},
        {"label": "modality"},
    ],
    "levels_of_collection": [{"collection_id": PLACES[0]}, {"collection_id": 2**31 - 1}],
    "subjects_of_contrast": [
        {"collection_id": PLACES[0]},
        {"collection_id": PLACES[0], "subject_key": "SUBJECTID"},
        {"collection_id": PLACES[0], "contrast": "faces > houses", "subject_key": 'odd "key"'},
    ],
    "sample_sizes": [{}, {"task": "rest eyes closed"}],
    "paired_maps": [{}, {"stat_a": "t", "stat_b": "z"}, {"stat_a": "z", "stat_b": "z"}],
    "atlases": [{}, {"species": "Homo Sapiens"}],
    "spaces": [{}, {"level": "group"}],
    "extra_fields": [{}, {"min_count": 10}],
    "metadata_completeness": [
        {},
        *({"by": by} for by in ("collection", "owner", "year", "modality", "level", "neuroscout")),
    ],
    "top_terms": [{"image_id": OWN + 4}, {"image_id": OWN + 4, "limit": 3}, {"image_id": OWN + 8, "n": 2}],
    "images_by_term": [
        {"term": "term 3"},
        {"term": "term 3", "min_weight": 0.5},
        {"term": "none"},
        THEIRS | {"term": "term 3"},
    ],
    "similar_by_terms": [{"image_id": OWN + 4}, {"image_id": OWN + 8, "limit": None}],
    "terms_of_selection": [
        {"image_ids": IMAGES},
        THEIRS | {"image_ids": IMAGES},
        {"image_ids": IMAGES, "reference": ""},
    ],
    "terms_between": [{"a": IMAGES[:30], "b": IMAGES[30:]}, THEIRS | {"a": IMAGES[:30], "b": IMAGES[30:]}],
    "changed_since": [
        {"date": datetime(2024, 6, 1, tzinfo=UTC)},
        {"date": CHANGED},
        {"date": CHANGED, "fields": True},
    ],
    "fetch_history": [{}],
}
CASES["ibma_attrition"] = CASES["ibma_candidates"]
SHIPPED = shelf.listing().column("name").to_pylist()


# What else each query is asked for, and the frames in which pandas then looks.
WIDER: tuple[tuple[Record, Record], ...] = (
    ({}, {}),
    ({"private": True}, {"private": True}),
    ({"gone": True}, {"gone": True}),
    ({"collection_ids": PLACES[:3]}, {"private": True}),
)
NAMED = ("levels_of_collection", "subjects_of_contrast")  # a collection, which may be a private one


@pytest.fixture(scope="module")
def frames(catalog: Catalog) -> Callable[[Record], Frames]:
    """Return what makes the frames for a query that is asked for more."""
    tables = {table: as_frame(catalog, table) for table in TABLES}
    made: dict[str, Frames] = {}

    def of(wanted: Record) -> Frames:
        return made.setdefault(str(wanted), Frames(tables, **wanted))

    return of


def plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row with one kind of nothing, and numbers that are as exact as a sum in another order is."""
    return tuple(plain_value(value) for value in row)


def plain_value(value: Any) -> Any:
    if last(value)[0]:
        return None
    if isinstance(value, list):
        return [plain_value(each) for each in value]
    return pytest.approx(float(value), abs=1e-9) if isinstance(value, float | np.floating) else value


def test_every_query_is_checked() -> None:
    assert sorted(CASES) == SHIPPED


@pytest.mark.parametrize(("name", "params"), [(name, params) for name, cases in CASES.items() for params in cases])
@pytest.mark.filterwarnings("ignore::nvcatalog.errors.SelectionWarning")  # some find nothing, and it is known why
def test_a_query_gives_what_pandas_makes_of_the_same_records(
    catalog: Catalog, frames: Callable[[Record], Frames], name: str, params: Record
) -> None:
    for asked, wanted in WIDER if params == CASES[name][0] else WIDER[:1]:
        if not all(takes(name, parameter) for parameter in asked):
            continue
        found = catalog.query(name, params | asked).fetchall()
        looked_in = frames(wanted | {"private": True} if name in NAMED else wanted)
        within_these = {key: value for key, value in asked.items() if key == "collection_ids"}
        expected = [plain(row) for row in globals()[name](looked_in, **params, **within_these)]
        if name == "ibma_attrition":  # pandas has no words for the criteria
            found = [(step, ..., *rest) for step, _, *rest in found]
        assert found == expected, asked


@pytest.mark.parametrize("name", SHIPPED)
def test_the_limit_cuts_a_stable_order_and_none_restricts_nothing(catalog: Catalog, name: str) -> None:
    params = CASES[name][0]
    everything = catalog.query(name, params, limit=None).fetchall()
    assert len(everything) > 2, "the test's records say nothing about this query"
    assert catalog.query(name, params, limit=2).fetchall() == everything[:2]
    assert catalog.query(name, params, limit=0).fetchall() == []

    optional = [each for each in shelf.find(name).parameters if not each.required]
    may_be_none = [each for each in optional if each.default is None or each.kind in ("count", "number")]
    free: Record = {each.name: None for each in may_be_none}
    assert len(catalog.query(name, free | params)) >= len(everything)


def test_the_steps_of_attrition_are_told_as_they_were_asked_for(catalog: Catalog) -> None:
    asked = {
        "task": "rest eyes closed",
        "min_subjects": 8,
        "min_coverage": 12.5,
        "stats": "t",
        "neuroscout": False,
    }
    steps = [row[1] for row in catalog.query("ibma_attrition", asked).fetchall()]
    assert steps[1] == "task is rest eyes closed"
    assert steps[4] == "statistic is t"
    assert steps[7:] == ["covers more than 12.5 % of the brain", "at least 8 subjects", "not Neuroscout's"]
    free = dict.fromkeys(asked)
    steps = [row[1] for row in catalog.query("ibma_attrition", free).fetchall()]
    assert [steps[n] for n in (1, 4, 7, 8, 9)] == [
        "any task",
        "any statistic",
        "any coverage",
        "any number of subjects",
        "any owner",
    ]


def test_ibma_candidates_are_by_default_those_of_the_view(catalog: Catalog) -> None:
    flagged = catalog.sql("""
        SELECT image_id
        FROM stat_maps
        WHERE ibma_candidate AND gone_at IS NULL AND image_id NOT IN (SELECT image_id FROM private_images)
        ORDER BY image_id
    """)
    found = catalog.query("ibma_candidates").df()["image_id"].sort_values().to_list()
    assert found == [image_id for (image_id,) in flagged.fetchall()]
    assert len(found) > 3


@pytest.mark.parametrize("name", SHIPPED)
def test_a_query_says_what_its_rows_are_and_what_each_parameter_means(name: str) -> None:
    query = shelf.find(name)
    sql = "\n".join(line for line in query.text.splitlines() if not line.startswith("--"))

    assert query.summary.endswith(".")
    assert len(query.summary) < 130
    assert "limit" in {each.name for each in query.parameters}
    for each in query.parameters:
        assert each.kind, each.name
        assert re.search(r"\((?:[^()]+), (?:required|default [^()]+)\)$", each.comment), each.name
        assert ";" not in each.comment, "a semicolon separates them where they are listed"
        assert f"${each.name}" in sql
    assert "ORDER BY" in sql
    assert "SELECT *\n" not in sql.rsplit("FROM", 1)[0].rsplit(")\nSELECT", 1)[-1]
    assert all(len(line) <= 120 or line.startswith("-- $") for line in query.text.splitlines())
    assert query.text.endswith("\n")


def takes(name: str, parameter: str) -> bool:
    return parameter in {each.name for each in shelf.find(name).parameters}


def small(folder: Path, *images: Record) -> Catalog:
    batch = Batch()
    for id_ in sorted({image.get("collection_id", 3) for image in images}):
        batch.add_record("collection", {"id": id_, "name": "small"})
    for image in images:
        batch.add_record("image", {"collection_id": 3, "name": "a map", **image})
    store = Store(folder / "neurovault")
    store.folder.mkdir()
    store.land(batch)
    return Catalog(folder)


def test_the_field_of_a_subject_is_the_one_that_is_named_before_one_in_another_case(tmp_path: Path) -> None:
    catalog = small(tmp_path, {"id": 4, "analysis_level": "S", "SubJ": None, "subj": "08"})
    for key, subject in (("subj", "08"), ("SubJ", None)):
        rows = catalog.query("subjects_of_contrast", {"collection_id": 3, "subject_key": key}).fetchall()
        assert [row[0] for row in rows] == [subject]


def test_images_are_like_one_another_by_no_more_than_1(tmp_path: Path) -> None:
    catalog = small(tmp_path, *({"id": id_} for id_ in range(4, 64)))
    signs = {id_: 1 - 2 * (id_ % 2) for id_ in range(4, 64)}
    words = {
        id_: Words({f"term {t}": sign * id_ / (t + 3) for t in range(7)}, "mine") for id_, sign in signs.items()
    }
    Store(catalog.folder).land(Batch(words=words))
    cosines = catalog.query("similar_by_terms", {"image_id": 4, "limit": None}).df()["cosine"]
    assert cosines.between(-1, 1).all()
    assert len(cosines) == 59


def test_weights_too_large_to_be_squared_make_no_image_alike(tmp_path: Path) -> None:
    catalog = small(tmp_path, {"id": 4}, {"id": 5}, {"id": 6})
    weights = {4: {"a": 0.0, "b": 0.0}, 5: {"a": -1e300, "b": 0.5}, 6: {"a": 1.0, "b": 0.5}}
    Store(catalog.folder).land(Batch(words={id_: Words(each, "mine") for id_, each in weights.items()}))
    for id_ in weights:
        found = catalog.query("similar_by_terms", image_id=id_).fetchall()
        assert [row[3] for row in found] == [None, None]


def test_names_that_differ_in_case_alone_are_one(tmp_path: Path) -> None:
    names = ["Stop Signal Task", "stop signal task", "rest"]
    images = [
        {"id": 4 + n, "collection_id": 3 + n, "cognitive_paradigm_cogatlas": name, "modality": name.lower()}
        for n, name in enumerate(names)
    ]
    contrasts = {"cognitive_contrast_cogatlas": "Go", "cognitive_paradigm_cogatlas": names[0]}
    images += [{"id": 20, **contrasts}, {"id": 21, **contrasts, "cognitive_contrast_cogatlas": "GO"}]
    catalog = small(tmp_path, *images)
    assert catalog.query("tasks", min_collections=2).fetchall() == [("Stop Signal Task", None, 2, 4, 0)]
    rows = catalog.query("decoder_table").fetchall()
    assert [row[:3] for row in rows] == [
        (4, "Stop Signal Task", 3),
        (20, "Stop Signal Task", 3),
        (21, "Stop Signal Task", 3),
        (5, "Stop Signal Task", 4),
    ]
    rows = catalog.query("contrasts_of_task", task=" STOP signal task ").fetchall()
    assert [(contrast, maps) for contrast, _, _, maps, _ in rows] == [(None, 2), ("GO", 2)]
    assert len(catalog.query("maps_of_task", task="stop signal task ")) == 4


def test_an_extra_field_may_have_any_name(tmp_path: Path) -> None:
    odd = {name: f"value {place}" for place, name in enumerate(["*", "", "a\\", "\\", 'a\\"b', "x/y~", "$"])}
    catalog = small(tmp_path, {"id": 4, **odd})
    found = catalog.query("extra_fields").df().set_index("field")["example"]
    assert found.to_dict() == odd


def test_maps_pair_by_the_statistics_that_they_have_in_the_view(tmp_path: Path) -> None:
    types = [(stat, map_type) for stat, both in STATS.items() for map_type in both]
    kinds = [(a, b) for a in types for b in types if a[0] < b[0]]
    images = [
        {"id": 2 * n + place, "map_type": map_type, "contrast_definition": f"contrast {n}"}
        for n, pair in enumerate(kinds, start=1)
        for place, (_, map_type) in enumerate(pair)
    ]
    catalog = small(tmp_path, *images)
    stats = dict(catalog.sql("SELECT image_id, stat FROM stat_maps").fetchall())
    for stat_a, stat_b in itertools.combinations(sorted(STATS), 2):
        found = catalog.query("paired_maps", {"stat_a": stat_a, "stat_b": stat_b}).fetchall()
        assert len(found) == 4
        assert {(stats[row[0]], stats[row[1]]) for row in found} == {(stat_a, stat_b)}
