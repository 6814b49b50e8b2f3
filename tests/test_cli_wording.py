"""What the library says in Python is said in commands and flags where the command line says it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nvcatalog
from nvcatalog.cli.wording import in_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(nvcatalog.__file__).parent
OPTIONS = (
    "data_dir|image_ids|collection_ids|exclude_owners?|max_images|max_age|max_workers|older_than|order_by|"
    "min_abs_weight|fetch_neurosynth_words|vectorize_words"
)
PYTHON = re.compile(
    rf"\w\(\)| \.(?:report|left)\b|\bCatalog\.(?!add_words \(in Python)|(?<![\w./-])(?:{OPTIONS})\b"
    r"|\b[a-z_]+=(?:True|False|None|'|\{|X)"
)
# No command leads to these, and none is about Python: they begin so.
NOT_SAID_HERE = (
    "base is X, a X",
    "data_dir is X, a X",
    "bunch is a X",
    "Catalog().words takes that",  # to matrices that an answer has
    "<Citations",
    "X is a set of Neurosynth's",  # to terms of one's own
    "X images have X (X): X. An image has those of one set",
    "forget_words takes",
    "At most %d images",  # to filters
    "collection_id=X contradicts",
    "sample_sizes has",  # to NIMADS
    "X. to_nimads(…)",
    "$X is a parameter of the condition and X an option",  # to keywords
    "it is here resampled with interpolation=X",
    "tables is a X",
    "X is no name for a table",
    "X: name the columns; *, ALL and COLUMNS()",
    "X: X() is not for conditions",  # a function of SQL
    ", base=X",
)


def messages() -> Iterator[tuple[str, str]]:
    """Yield each text of several words in the package that is no docstring and no SQL; X stands for values."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if {"cli", "demo"}.isdisjoint(path.relative_to(PACKAGE).parts):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            parts = {
                id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
            }
            docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                text = _text(node)
                if (
                    " " in text.strip()
                    and id(node) not in parts | docs
                    and not re.search(r"\b(SELECT|UPDATE|INTO)\b", text)
                ):
                    yield path.stem, text


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_message_that_a_command_can_lead_to_speaks_python() -> None:
    said = [(name, in_commands(text)) for name, text in messages()]
    left = [f"{name}: {text}" for name, text in said if PYTHON.search(text) and not text.startswith(NOT_SAID_HERE)]
    assert not left, "\n".join(left)


@pytest.mark.parametrize(
    ("said", "here"),
    [
        (
            "/a has no catalog yet: fetch something, or adopt() what is there",
            "take over what is there: nvcatalog adopt",
        ),
        (
            "x: nvcatalog rebuild --data-dir '/a', or Catalog.rebuild() in Python. It",
            "rebuild --data-dir '/a'. It",
        ),
        ("Catalog.repair() mends changed files", "nvcatalog repair mends changed files"),
        ("Not all that was asked for is here: 1 failed. x; .report has them all.", "; stdout has a row for each."),
        (
            "Not all of NeuroVault's metadata: 1. x; .report has them all.",
            "; nvcatalog sql 'FROM outcomes' has them",
        ),
        ("/a cannot be read: x. Catalog.freeze writes such a file", "nvcatalog freeze writes such a file"),
        ("3 files could not be put right: x; .left has them all", "; stdout has a row for each"),
        ("a later version; mode='overwrite' asks the server", "; --mode overwrite asks"),
        ("dry_run=True only looks", "--dry-run only looks"),
        ("/a cannot be written: no. Give another data_dir", "Give another --data-dir"),
        ("order_by goes with a condition", "--order-by goes with a condition"),
        (
            "max_images is 1.5; give a whole number, or None for all",
            "--max-images is 1.5; give a whole number, or -1",
        ),
        ("/my data_dir/x is gone", "/my data_dir/x is gone"),
    ],
)
def test_a_message_names_what_can_be_typed(said: str, here: str) -> None:
    assert here in in_commands(said)
