"""What every test starts from: a local server, a folder of its own, no way to the internet."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from hypothesis import HealthCheck, settings
from waiting import PATIENCE_S

import nvcatalog
from nvcatalog import landing, snapshot
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long an example takes, or the making of one, says more about the machine than about the code.
settings.register_profile("nvcatalog", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nvcatalog")

# What starts tests in the background may have them ignore Ctrl-C, and all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start take the nvcatalog that is tested, not the one of the folder they start in.
os.environ["PYTHONSAFEPATH"] = "1"

_create = Store._create
_LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None}
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def pytest_report_header() -> str:
    """Say which nvcatalog is tested: an installed one, or that of the checkout."""
    return f"nvcatalog: {Path(nvcatalog.__file__).parent}"


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections: it stays, and is a million objects."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let Python clear up at its end as ever."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, homes: Iterator[Path]) -> None:
    """Forget the developer's own settings; a home of its own keeps tests out of real caches."""
    settings = [name for name in os.environ if name.startswith("NVCATALOG_")]
    for name in (*settings, "NILEARN_DATA", "NILEARN_SHARED_DATA", *_PROXIES, *map(str.lower, _PROXIES)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(next(homes)))


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return folders that are still to be made: pytest's own way looks at all that there are, each time."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(scope="session")
def new_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalog that has been through every migration."""
    store = Store(tmp_path_factory.mktemp("catalog"))
    with store.writing():
        return store.path


@pytest.fixture(autouse=True)
def migrations_run_once(new_catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test's new catalogs be copies of one: they take a fraction of the time."""
    monkeypatch.setattr(Store, "_create", lambda store: shutil.copy(new_catalog, store.path))


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    """Forget what a test leaves to be published: the next one to read a snapshot would have to do it."""
    yield
    snapshot._waiting.clear()


@pytest.fixture(autouse=True)
def rows_land_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what comes first land with the rest, as what comes next does; the first landing has its own tests."""
    monkeypatch.setattr(landing, "_FIRST_AFTER_S", landing._EVERY_S)


@pytest.fixture
def migrations_run(migrations_run_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test make its catalogs itself, after all."""
    monkeypatch.setattr(Store, "_create", _create)


@pytest.fixture(autouse=True)
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""

    def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
        def only_here(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX and address[0] not in _LOOPBACK:
                raise AssertionError(f"a test tried to connect to {address}")
            return connect(self, address)

        return only_here

    def only_local_names(host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in _LOOPBACK:
            raise AssertionError(f"a test tried to look up {name}")
        return look_up(host, *args, **kwargs)

    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", only_local_names)


@pytest.fixture
def pages_of_100(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lists begin with pages of 100 records: more than one of them takes few images then."""
    monkeypatch.setattr("nvcatalog.client.FIRST_PAGE", 100)


@pytest.fixture
def world() -> World:
    """Return the shipped records and files; change them as the test needs."""
    return World.demo()


@pytest.fixture
def server(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoServer]:
    """Serve the world, with nvcatalog pointed at it."""
    with DemoServer(world) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return where nilearn would keep its data; not made yet."""
    return tmp_path / "nilearn_data"


@pytest.fixture
def client() -> Iterator[requests.Session]:
    """Return a plain HTTP client, to look at the server itself."""
    with requests.Session() as session:
        yield session


@pytest.fixture
def get(server: DemoServer, client: requests.Session) -> Callable[..., requests.Response]:
    """Return a function that gets a path of the local NeuroVault."""

    def get(path: str, **options: Any) -> requests.Response:
        return client.get(server.neurovault_url + path, timeout=PATIENCE_S, **options)

    return get


@pytest.fixture
def decode(server: DemoServer, client: requests.Session) -> Callable[[int], requests.Response]:
    """Return a function that asks the local Neurosynth about an image."""

    def decode(image_id: int) -> requests.Response:
        return client.get(f"{server.neurosynth_url}/api/decode/?neurovault={image_id}", timeout=PATIENCE_S)

    return decode
