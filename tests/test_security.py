"""Certificates are checked, secrets stay where they are, and files have the rights that the umask leaves."""

from __future__ import annotations

import ast
import json
import os
import ssl
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import no_waiting as no_waiting
from test_package import PACKAGE, sources, tree_of
from waiting import PATIENCE_S

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog._http import Service
from nvcatalog.errors import HostGivenUpError, IncompleteWarning, InvalidOptionError, WordsWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")
TOKEN = "ABCDEFGH"


# What the code may not do


DANGEROUS = {"pickle", "marshal", "shelve", "subprocess", "ctypes", "code", "pty", "joblib", "dill", "yaml"}


def test_nothing_runs_what_strangers_wrote() -> None:
    imported = {
        (path.name, name.split(".")[0])
        for paths in sources().values()
        for path in paths
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (getattr(node, "module", None) or "", *(alias.name for alias in node.names))
    }
    assert ("_http.py", "requests") in imported
    assert {(where, module) for where, module in imported if module in DANGEROUS} == set()


def test_no_option_opens_what_is_closed() -> None:
    calls = [
        (path.relative_to(PACKAGE), ast.unparse(keyword))
        for paths in sources().values()
        for path in paths
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in {"shell", "allow_pickle", "verify", "check_hostname", "cert_reqs"}
    ]
    assert calls == []
    loaders = [
        (path.name, ast.unparse(node))
        for paths in sources().values()
        for path in paths
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in {"load", "fromfile", "memmap", "read_pickle"}
        if ast.unparse(node.value) in {"np", "numpy", "pd", "pandas"}
    ]
    assert loaders == []  # numpy loads pickles only where it is told to, and is told to load nothing at all


# TLS


@pytest.fixture(autouse=True)
def usual_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the developer's own."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate that nobody vouches for, with its key, for the loopback."""
    path = tmp_path_factory.mktemp("tls") / "self-signed.pem"
    asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    about = ["-days", "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    try:
        done = subprocess.run([*asked, *about, "-keyout", "-", "-out", "-"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stderr
    path.write_bytes(done.stdout)
    return path


@contextmanager
def tls_server(certificate: Path, asked: threading.Event | None = None) -> Iterator[str]:
    """Answer each request over TLS with the record of a collection, and yield the root.

    Where it is to say that it was asked, it answers nothing at all.
    """
    import socketserver

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    body = b'{"id": 555}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                with context.wrap_socket(self.request, server_side=True) as secure:
                    secure.recv(10_000)
                    if asked is None:
                        secure.sendall(answer)
                    else:
                        asked.set()
                        secure.recv(1)
            except OSError:
                pass  # the client did not like the certificate

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def service_for(root: str) -> Service:
    return Service("NeuroVault", root, connections=1, timeout_s=PATIENCE_S)


def ask(service: Service) -> Any:
    try:
        for attempt in service.attempts():
            with attempt, service.get("api/collections/555/") as response:
                return json.loads(service.json_body(response))
    finally:
        service.close()


def test_an_interrupted_call_waits_for_no_silent_server_over_tls(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    asked = threading.Event()
    with tls_server(certificate, asked) as root, ThreadPoolExecutor(1) as threads:
        service = service_for(root)
        asking = threads.submit(ask, service)
        assert asked.wait(PATIENCE_S)
        service.interrupt()
        with pytest.raises(HostGivenUpError, match="interrupted"):
            asking.result(PATIENCE_S / 2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"CURL_CA_BUNDLE": ""},
        {"REQUESTS_CA_BUNDLE": ""},
        {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""},
        {"PYTHONHTTPSVERIFY": "0"},
        {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""},
        {"SSL_CERT_FILE": "{certificate}"},
        {"NODE_TLS_REJECT_UNAUTHORIZED": "0", "GIT_SSL_NO_VERIFY": "1"},
    ],
    ids=str,
)
def test_no_setting_turns_the_check_of_certificates_off(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value.format(certificate=certificate))
    with tls_server(certificate) as root, pytest.raises(HostGivenUpError, match="certificate verify failed"):
        ask(service_for(root))


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_institutes_own_certificates_can_be_given(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(certificate))
    with tls_server(certificate) as root:
        assert ask(service_for(root)) == {"id": 555}


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "no.pem"))
    with pytest.raises(InvalidOptionError, match=r"REQUESTS_CA_BUNDLE.*no\.pem"):
        ask(service_for("https://127.0.0.1:1"))


# Who may read and write what


@pytest.fixture
def world(world: World) -> World:
    """Return the demo's world with all the files that its records name."""
    for image_id in world.image_ids(1058):
        world.add_surfaces(image_id)
    return world


@contextmanager
def umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def use_in_every_way(data_dir: Path, beside: Path) -> None:
    """Leave every kind of file that there is."""
    fetch_neurovault_ids(
        collection_ids=[1058],
        image_ids=[10426],
        data_dir=data_dir,
        verbose=0,
        extras=True,
        fetch_neurosynth_words=True,
    )
    catalog = Catalog(data_dir)
    catalog.sync(verbose=0)
    catalog.snapshot()
    catalog.snapshot("kept")
    for format_ in ("parquet", "csv"):
        catalog.export(beside / format_, format=format_)
    catalog.freeze(beside / "maps.lock.json", private=True)
    (data_dir / "neurovault" / "collection_1058" / "image_999.nii.gz").write_bytes(b"no map")
    catalog.repair(verbose=0)


def modes(*folders: Path) -> dict[str, int]:
    found = (path for folder in folders for path in (folder, *folder.rglob("*")) if not path.is_symlink())
    return {str(path.relative_to(folders[0].parent)): stat.S_IMODE(path.stat().st_mode) for path in found}


@pytest.mark.parametrize("mask", [0o002, 0o077], ids=oct)
@pytest.mark.usefixtures("server")
def test_files_have_the_rights_that_the_umask_leaves_and_locks_those_that_a_group_needs(
    tmp_path: Path, mask: int, migrations_run: None
) -> None:
    data_dir, beside = tmp_path / "nilearn_data", tmp_path / "beside"
    with umask(mask):
        beside.mkdir()
        use_in_every_way(data_dir, beside)
    found = modes(data_dir, beside)
    folders = {name: mode for name, mode in found.items() if (tmp_path / name).is_dir()}
    locks = {
        name: mode
        for name, mode in found.items()
        if "/.locks/" in name or name.endswith(("catalog.lock", "snapshots/.lock"))
    }
    assert len(locks) > 5
    assert set(locks.values()) == {0o666}  # whoever may open the folder may lock in it
    assert {name: oct(mode) for name, mode in folders.items() if mode != 0o777 & ~mask} == {}
    rest = found.keys() - folders.keys() - locks.keys()
    assert len(rest) > 50
    assert {name: oct(found[name]) for name in rest if found[name] != 0o666 & ~mask} == {}


# Tokens


def files_with(secret: bytes, *folders: Path) -> list[str]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sorted({path.name for path in files if secret in path.read_bytes()})


def test_a_token_is_in_no_file_but_the_catalog_whatever_is_done(
    server: DemoServer, world: World, tmp_path: Path
) -> None:
    world.make_private(1058, TOKEN)
    data_dir, beside = tmp_path / "nilearn_data", tmp_path / "beside"
    beside.mkdir()
    with pytest.warns(WordsWarning):  # of private images Neurosynth knows nothing
        fetch_neurovault_ids(collection_ids=[TOKEN], data_dir=data_dir, verbose=0, fetch_neurosynth_words=True)
    use_in_every_way(data_dir, beside)
    catalog = Catalog(data_dir)
    (beside / "doctor").write_text(str(catalog.doctor()))
    (beside / "cited").write_text(catalog.cite(private=True).bibtex())
    (beside / "report").write_text(catalog.sql("SELECT * FROM outcomes").df().to_csv())
    server.close()
    with pytest.warns(IncompleteWarning):  # what went wrong is told without it too
        maps = fetch_neurovault_ids(collection_ids=[TOKEN], data_dir=data_dir, verbose=0, mode="overwrite")
    (beside / "told").write_text(str([*maps.report, *maps.images_meta, *maps.collections_meta]))
    assert files_with(TOKEN.encode(), data_dir, beside) == ["catalog.duckdb"]
