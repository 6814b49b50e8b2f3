"""Read the records and templates that ship with the demo."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

Record = dict[str, Any]


def shipped(name: str) -> list[Record]:
    """Return the records of a file in ``data/``, new at each call."""
    return [json.loads(line) for line in _text(name).splitlines()]


def template(name: str) -> Record:
    """Return an empty record of a kind, new at each call."""
    record: Record = json.loads(_text("templates.json"))[name]
    return record


@functools.lru_cache(maxsize=4)
def _text(name: str) -> str:
    return files("nvcatalog.demo").joinpath("data", name).read_text("utf-8")
