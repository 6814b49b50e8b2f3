"""What is rare in records and terms is answered like everything else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog.demo import DemoServer, World

ODD = ["*", "", "a\\", "\\", 'a\\"b', "x/y~", "plain"]


def add_words(catalog: Catalog, weights: dict[str, float]) -> None:
    frame = pd.DataFrame({"image_id": 10426, "term": list(weights), "weight": list(weights.values())})
    catalog.add_words(frame, reference="mine", replace=True)


def test_a_field_may_have_any_name(world: World, server: DemoServer, data_dir: Path) -> None:
    image = {name: f"value {place}" for place, name in enumerate(ODD)}
    collection_id = world.add_collection({"name": "odd"}, images=[image])
    fetch_neurovault_ids(collection_ids=[collection_id], data_dir=data_dir, verbose=0)
    found = Catalog(data_dir).query("extra_fields").df().set_index("field")["example"]
    assert found[ODD].to_dict() == image


def test_weights_that_change_places_are_a_change(server: DemoServer, data_dir: Path) -> None:
    fetch_neurovault_ids(image_ids=[10426], data_dir=data_dir, verbose=0)
    catalog = Catalog(data_dir)
    add_words(catalog, {"a": 0.1, "b": 0.2, "c": 0.3})
    former = catalog.snapshot()
    add_words(catalog, {"a": 0.3, "b": 0.1, "c": 0.2})
    assert ("words", "changed", "image", 10426) in catalog.diff(former).fetchall()


def test_a_connection_to_the_latest_snapshot_stays_with_it(server: DemoServer, data_dir: Path) -> None:
    fetch_neurovault_ids(image_ids=[10426], data_dir=data_dir, verbose=0)
    catalog = Catalog(data_dir)
    add_words(catalog, {"a": 0.1})
    catalog.snapshot()
    with catalog.connect("latest") as connection:
        add_words(catalog, {"a": 0.9})
        catalog.snapshot()
        assert connection.sql("SELECT weight FROM image_words WHERE term = 'a'").fetchall() == [(0.1,)]
        ((fetched_at,),) = connection.sql("SELECT fetched_at FROM images").fetchall()
        assert fetched_at.utcoffset().total_seconds() == 0
