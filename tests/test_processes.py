"""Many processes on one folder: no error, each file downloaded once, and no more connections than one has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fetching import traces

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog.demo import DemoServer, World

# Loads what a fetch needs once, and forks: as joblib and multiprocessing do.
FORKED = """
import json, multiprocessing, random, sys, warnings

folder, first, total, each, fetchers, askers = sys.argv[1], *map(int, sys.argv[2:])

def fetch(seed):
    warnings.simplefilter("error")
    from nvcatalog import fetch_neurovault_ids
    ids = random.Random(seed).sample(range(first, first + total), each)
    maps = fetch_neurovault_ids(image_ids=ids, data_dir=folder, verbose=0)
    return sorted(meta["id"] for meta in maps.images_meta) == sorted(ids) and len(maps.images) == each

def ask(seed):
    warnings.simplefilter("ignore")  # the first ones meet an empty folder
    from nvcatalog import Catalog
    return all(Catalog(folder).sql("SELECT count(*) FROM files").fetchall()[0][0] <= total for _ in range(20))

if __name__ == "__main__":
    import nvcatalog.call, nvcatalog.fetch, nvcatalog.catalog
    with multiprocessing.get_context("fork").Pool(fetchers + askers) as pool:
        done = [pool.apply_async(fetch, (seed,)) for seed in range(fetchers)]
        done += [pool.apply_async(ask, (seed,)) for seed in range(askers)]
        print(json.dumps([each.get() for each in done]))
"""


# Reads what is here again and again, as the jobs of an array do.
READERS = """
import multiprocessing, sys, warnings

def read(folder):
    warnings.simplefilter("error")
    from nvcatalog import fetch_neurovault_ids
    asked = {"collection_ids": [1], "mode": "offline", "data_dir": folder, "verbose": 0}
    return sum(len(fetch_neurovault_ids(**asked).images) for _ in range(25))

if __name__ == "__main__":
    import nvcatalog.call, nvcatalog.fetch
    with multiprocessing.get_context("fork").Pool(4) as pool:
        print(pool.map(read, [sys.argv[1]] * 4))
"""


@pytest.fixture
def world() -> World:
    return World.empty()


def test_processes_on_one_folder_share_the_work_and_the_connections(world: World, tmp_path: Path) -> None:
    fetchers, total, each = 5, 30, 20
    ids = world.add_synthetic(1, total)
    with DemoServer(world, latency_s=0.01) as server:
        script = tmp_path / "forked.py"
        script.write_text(FORKED)
        numbers = map(str, (min(ids), total, each, fetchers, 2))
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path), *numbers],
            env=os.environ | server.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [True] * (fetchers + 2)
        fetched = Counter(hit.path for hit in server.hits("/media/*"))
        assert set(fetched.values()) == {1}
        assert server.peak_connections["media"] <= 6
        assert server.peak_connections["api"] <= 2
    assert Catalog(tmp_path).sql("SELECT count(*) FROM files").fetchall() == [(len(fetched),)]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("six_processes.py", ["--rounds", "1", "--processes", "2", "--images", "6", "--readers", "1"]),
        ("offline_readers.py", ["--processes", "2", "--calls", "0", "--writer-calls", "3"]),
    ],
)
def test_what_a_person_can_try_with_many_more_works_with_few(script: str, options: list[str]) -> None:
    command = [sys.executable, str(Path(__file__).parent / "scripts" / script), *options]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_processes_that_read_offline_all_get_all_of_it_and_write_nothing(world: World, tmp_path: Path) -> None:
    ids = world.add_synthetic(1, 10)
    with DemoServer(world) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        fetch_neurovault_ids(collection_ids=[1], data_dir=tmp_path / "data", verbose=0)
    before = traces(tmp_path / "data")
    script = tmp_path / "readers.py"
    script.write_text(READERS)
    command = [sys.executable, str(script), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [25 * len(ids)] * 4
    assert traces(tmp_path / "data") == before
