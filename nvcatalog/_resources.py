"""Find the folders of SQL that ship with the package: ``migrations`` and ``queries``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def sql_folder(name: Literal["migrations", "queries"]) -> Traversable:
    """Return the ``migrations`` or ``queries`` folder.

    A checkout wins over the copy inside the package: an editable install must never read SQL of the
    day it was built.
    """
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    return files("nvcatalog") / "_sql" / name
