"""The package as a whole: what may import what, what ships, and what its names promise."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import json
import logging
import pkgutil
import re
import subprocess
import sys
import tarfile
import tomllib
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nvcatalog
from nvcatalog import errors, neurovault
from nvcatalog._resources import sql_folder
from nvcatalog.errors import NVCatalogWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = Path(nvcatalog.__file__).parent
CHECKOUT = Path(__file__).parent.parent

# A row imports only from rows before it.
ROWS = tuple(
    tuple(row.split())
    for row in (
        "errors _resources _progress _parallel _background _xml _sklearn",
        "_gate _locks ids records report proving _replaced",
        "_connections _line",
        "_http",
        "known client neurosynth storage migrate queries words filters labels _marks _kinds",
        "_instances _batch sidecars servers filter_sql resample extras _expressions parts shelf _layers _troubles",
        "_blank",
        "_store kept layout",
        "plan landing snapshot outdated lookup where synced lockfile decoders _successor _places",
        "adopt listing moving accounts options private beside seed meant "
        "connecting wish _formats usage verify quarantine unmatched",
        "choosing sync cite comparing matrix export nimads strays prune base",
        "bunch rebuild",
        "call doctor",
        "fetch freeze restore",
        "select outward repair",
        "upkeep neurovault",
        "catalog",
        "demo",
        "cli __init__",
        "__main__",
    )
)
HEAVY = (
    "duckdb",
    "pyarrow",
    "requests",
    "typer",
    "sklearn",
    "scipy",
    "pandas",
    "nibabel",
    "numpy",
    "rich",
    "tqdm",
)


def sources() -> dict[str, list[Path]]:
    """Return the files of each module; those of a folder count as one module."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        found.setdefault(parts[0] if len(parts) > 1 else path.stem, []).append(path)
    return found


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def names_used(path: Path) -> frozenset[str]:
    """Return each name that a file uses, with the dots before and in it."""
    return frozenset(
        ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name | ast.Attribute)
    )


def imports_of(path: Path, modules: set[str]) -> Iterator[str]:
    """Yield each of our modules that a file imports, wherever in it and for whatever purpose."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nvcatalog."))
        elif isinstance(node, ast.ImportFrom) and node.module == "nvcatalog":
            # What is no module is a public name, and at home in the last row; the version alone is everybody's.
            names = (alias.name for alias in node.names if alias.name != "__version__")
            yield from (name if name in modules else "__init__" for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nvcatalog."):
            yield (node.module or "").split(".")[1]


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment or None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# Structure


def test_every_module_has_its_row_and_imports_only_from_rows_before_it() -> None:
    row_of = {module: number for number, row in enumerate(ROWS) for module in row}
    modules = sources()

    assert set(row_of) == set(modules)
    assert {"call", "storage", "errors"} <= set(imports_of(PACKAGE / "fetch.py", set(modules)))
    wrong = [
        f"{module} imports {imported}"
        for module, paths in modules.items()
        for path in paths
        for imported in imports_of(path, set(modules))
        if imported != module and row_of[imported] >= row_of[module]
    ]
    assert wrong == []


def test_contributors_are_shown_the_same_rows() -> None:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.*) \|$", text, re.MULTILINE)

    shown = tuple(frozenset(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", row))) for row in rows)
    assert shown == tuple(map(frozenset, ROWS))


@pytest.mark.parametrize(
    ("what", "only_in"),
    [
        ("duckdb.connect", {"_instances"}),
        ("print", {"cli"}),
        ("sys.stdout", {"cli"}),
        ("logging.basicConfig", set()),
        ("logger.warning", set()),  # Python writes it to stderr unasked; what a user must know is a warning
        ("logger.error", set()),
        ("requests.Session", {"_connections", "_http"}),
        ("requests.get", set()),
        ("socket.create_connection", {"_http"}),
        ("os.system", set()),
        ("eval", set()),
        ("exec", set()),
        ("pickle.load", set()),
        ("pickle.loads", set()),
    ],
)
def test_what_one_module_answers_for_is_done_nowhere_else(what: str, only_in: set[str]) -> None:
    users = {module for module, paths in sources().items() for path in paths if what in names_used(path)}
    assert users - {"demo"} <= only_in, f"{what} is used in {users}"
    assert what != "duckdb.connect" or users == {"_instances"}, "the test looks for the wrong thing"


def test_every_module_opens_with_a_sentence_and_fits_on_a_few_screens() -> None:
    for path in (path for paths in sources().values() for path in paths):
        docstring = ast.get_docstring(tree_of(path))
        assert docstring, f"{path} says nothing about itself"
        assert docstring.splitlines()[0].endswith("."), path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, path


def test_no_function_is_longer_than_forty_lines_apart_from_what_is_said_about_it() -> None:
    long = []
    for path in (path for paths in sources().values() for path in paths):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > 40:
                    long.append(f"{path.name}: {node.name} has {lines} lines")
    assert long == []


def test_every_error_and_warning_says_when_it_comes() -> None:
    classes = [
        each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == errors.__name__
    ]

    assert len(classes) > 20
    for each in classes:
        assert issubclass(each, errors.NVCatalogError | errors.NVCatalogWarning)
        assert re.match(r"(Raised|Warns|The root of)", each.__doc__ or ""), each


# Importing


def test_importing_it_loads_nothing_heavy() -> None:
    script = f"import json, sys, nvcatalog; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"

    assert json.loads(run(sys.executable, "-c", script)) == []


def test_its_errors_can_be_imported_without_anything_heavy() -> None:
    script = f"import sys, nvcatalog.errors, nvcatalog.report; print([m for m in {HEAVY} if m in sys.modules])"

    assert run(sys.executable, "-c", script) == "[]\n"


def test_every_public_name_is_there_listed_and_known_to_type_checkers() -> None:
    for name in nvcatalog.__all__:
        assert getattr(nvcatalog, name) is not None
    assert dir(nvcatalog) == sorted(nvcatalog.__all__)
    typed = {
        alias.asname
        for node in ast.walk(tree_of(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nvcatalog.")
        for alias in node.names
    }
    assert typed | {"__version__"} == set(nvcatalog.__all__) == set(nvcatalog._HOME_OF) | {"__version__"}


def test_a_name_it_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nvcatalog' has no attribute 'fetch_everything'"):
        _ = nvcatalog.fetch_everything
    with pytest.raises(ImportError):
        importlib.import_module("nvcatalog.everything")


def test_the_library_installs_no_log_handler() -> None:
    for module in pkgutil.walk_packages([str(PACKAGE)], "nvcatalog."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    assert logging.getLogger("nvcatalog").handlers == []


# What public names promise


def test_every_public_name_and_method_is_documented() -> None:
    undocumented = []
    for name in set(nvcatalog.__all__) - {"__version__"}:
        thing = getattr(nvcatalog, name)
        members = inspect.getmembers(thing, lambda member: callable(member) or isinstance(member, property))
        mine = [
            (f"{name}.{key}", value)
            for key, value in members
            if not key.startswith("_") and inspect.isclass(thing)
        ]
        undocumented += [key for key, value in [(name, thing), *mine] if not (value.__doc__ or "").strip()]
    assert undocumented == []


def test_parameters_that_are_documented_are_those_there_are() -> None:
    catalog = nvcatalog.Catalog
    methods = [value for key, value in inspect.getmembers(catalog, inspect.isfunction) if not key.startswith("_")]
    functions: list[Callable[..., object]] = [
        nvcatalog.fetch_neurovault_ids,
        nvcatalog.fetch_neurovault_auditory_computation_task,
        neurovault.neurosynth_words_vectorized,
        *methods,
    ]
    for function in functions:
        text = inspect.getdoc(function) or ""
        section = re.search(r"Parameters\n-+\n(.*?)(?:\n\n[A-Z]\w+\n-+\n|\Z)", text, re.DOTALL)
        documented = re.findall(r"^(\**\w+) : |^(\*\*\w+)$", section[1], re.MULTILINE) if section else []
        names = [
            ("**" if p.kind is p.VAR_KEYWORD else "") + p.name
            for p in inspect.signature(function).parameters.values()
        ]
        assert [one or other for one, other in documented] == names[names[:1] == ["self"] :], function


@functools.cache
def modules_with_examples() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "nvcatalog.")]
    return [name for name in names if not name.endswith("__main__") and examples_of(name)]


def examples_of(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


def test_what_people_start_with_has_an_example() -> None:
    with_examples = {test.name for name in modules_with_examples() for test in examples_of(name)}

    assert {
        "nvcatalog.fetch.fetch_neurovault_ids",
        "nvcatalog.catalog.Catalog",
        "nvcatalog.queries.Answer",
    } <= with_examples


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(
    name: str, request: pytest.FixtureRequest, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NILEARN_DATA", str(data_dir))
    said: list[str] = []
    for test in examples_of(name):
        if re.search("Catalog|fetch", test.docstring or ""):
            request.getfixturevalue("server")
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NVCatalogWarning)
            runner.run(test, out=said.append)
    assert said == [], "".join(said)


# What ships


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["version"] == nvcatalog.__version__


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel that was built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, CHECKOUT)
    return folder


def names_in(folder: str) -> set[str]:
    return {file.name for file in sql_folder(folder).iterdir()}  # type: ignore[arg-type]  # one of the two


def data_files() -> set[str]:
    files = (path for path in (PACKAGE / "demo" / "data").rglob("*") if path.is_file())
    return {str(path.relative_to(PACKAGE)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_has_the_code_its_sql_its_data_its_types_and_its_licences(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())

    expected = {f"nvcatalog/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*.py")}
    expected |= {f"nvcatalog/_sql/migrations/{name}" for name in names_in("migrations")}
    expected |= {f"nvcatalog/_sql/queries/{name}" for name in names_in("queries")}
    expected |= {f"nvcatalog/{name}" for name in data_files()} | {"nvcatalog/py.typed"}
    info = f"nvcatalog-{nvcatalog.__version__}.dist-info"
    assert {name for name in files if name.startswith("nvcatalog/")} == expected
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE", f"{info}/entry_points.txt"} <= files
    assert len(data_files()) > 3


def test_the_sdist_has_all_that_is_needed_to_build_and_test_it(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}

    expected = {f"migrations/{name}" for name in names_in("migrations")}
    expected |= {f"queries/{name}" for name in names_in("queries")}
    expected |= {f"nvcatalog/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*.py")}
    expected |= {f"nvcatalog/{name}" for name in data_files()}
    expected |= {f"tests/{path.name}" for path in Path(__file__).parent.glob("*.py")}
    expected |= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    }
    assert expected <= files
    assert not [name for name in files if name.startswith((".venv", ".git/", "dist", "build"))]


INSTALLED = """
import pathlib, sys, nvcatalog
from nvcatalog._resources import sql_folder
from nvcatalog.shelf import find
from nvcatalog._store import Store
from nvcatalog.demo import World
folder = pathlib.Path(sys.argv[1])
with Store(folder).writing() as connection:
    tables = connection.sql("SHOW TABLES").fetchall()
print(nvcatalog.__file__)
print(sql_folder("migrations"))
print(len(tables), len(World.demo().image_ids()), find("top_terms").text.startswith("-- "))
"""


def test_an_installed_wheel_finds_its_sql_and_its_data_and_not_those_of_a_checkout(
    built: Path, tmp_path: Path
) -> None:
    [wheel] = built.glob("*.whl")
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site, wheel)
    (tmp_path / "data").mkdir()

    said = run(sys.executable, "-c", INSTALLED, tmp_path / "data", cwd=tmp_path, PYTHONPATH=str(site)).splitlines()

    assert said[0] == str(site / "nvcatalog" / "__init__.py")
    assert said[1] == str(site / "nvcatalog" / "_sql" / "migrations")
    n_tables, n_images, has_queries = said[2].split()
    assert int(n_tables) > 10
    assert int(n_images) >= 20
    assert has_queries == "True"


def test_the_installed_command_starts(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        entry = archive.read(name).decode()

    found = re.search(r"^nvcatalog = (\S+):(\w+)$", entry, re.MULTILINE)
    assert found
    assert callable(getattr(importlib.import_module(found[1]), found[2]))
