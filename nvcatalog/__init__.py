"""Fetch brain maps from NeuroVault into a catalog you can ask in SQL."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nvcatalog.catalog import Catalog as Catalog
    from nvcatalog.errors import NVCatalogError as NVCatalogError
    from nvcatalog.fetch import fetch_neurovault_ids as fetch_neurovault_ids
    from nvcatalog.neurovault import (
        fetch_neurovault_auditory_computation_task as fetch_neurovault_auditory_computation_task,
    )
    from nvcatalog.report import Outcome as Outcome
    from nvcatalog.report import Report as Report

# Public name -> the module it lives in, imported when first asked for: `import nvcatalog` is instant.
_HOMES = {
    "Catalog": "nvcatalog.catalog",
    "NVCatalogError": "nvcatalog.errors",
    "Outcome": "nvcatalog.report",
    "Report": "nvcatalog.report",
    "fetch_neurovault_auditory_computation_task": "nvcatalog.neurovault",
    "fetch_neurovault_ids": "nvcatalog.fetch",
}

__all__ = [
    "Catalog",
    "NVCatalogError",
    "Outcome",
    "Report",
    "__version__",
    "fetch_neurovault_auditory_computation_task",
    "fetch_neurovault_ids",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nvcatalog' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
