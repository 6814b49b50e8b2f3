"""Fetch brain maps from NeuroVault into a catalog you can ask in SQL."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nvcatalog.catalog import Catalog as Catalog
    from nvcatalog.errors import NVCatalogError as NVCatalogError
    from nvcatalog.fetch import fetch_neurovault as fetch_neurovault
    from nvcatalog.fetch import fetch_neurovault_ids as fetch_neurovault_ids
    from nvcatalog.filters import Contains as Contains
    from nvcatalog.filters import GreaterOrEqual as GreaterOrEqual
    from nvcatalog.filters import GreaterThan as GreaterThan
    from nvcatalog.filters import IsIn as IsIn
    from nvcatalog.filters import IsNull as IsNull
    from nvcatalog.filters import LessOrEqual as LessOrEqual
    from nvcatalog.filters import LessThan as LessThan
    from nvcatalog.filters import NotContains as NotContains
    from nvcatalog.filters import NotEqual as NotEqual
    from nvcatalog.filters import NotIn as NotIn
    from nvcatalog.filters import NotNull as NotNull
    from nvcatalog.filters import Pattern as Pattern
    from nvcatalog.filters import ResultFilter as ResultFilter
    from nvcatalog.filters import basic_collection_terms as basic_collection_terms
    from nvcatalog.filters import basic_image_terms as basic_image_terms
    from nvcatalog.freeze import fetch_frozen as fetch_frozen
    from nvcatalog.neurovault import (
        fetch_neurovault_auditory_computation_task as fetch_neurovault_auditory_computation_task,
    )
    from nvcatalog.plan import Plan as Plan
    from nvcatalog.report import Outcome as Outcome
    from nvcatalog.report import Report as Report
    from nvcatalog.select import fetch_collection as fetch_collection
    from nvcatalog.select import fetch_where as fetch_where

# Module -> the public names that live in it, imported when first asked for: `import nvcatalog` is instant.
_HOMES = {
    "catalog": ("Catalog",),
    "errors": ("NVCatalogError",),
    "fetch": (
        "fetch_neurovault",
        "fetch_neurovault_ids",
    ),
    "filters": (
        "Contains",
        "GreaterOrEqual",
        "GreaterThan",
        "IsIn",
        "IsNull",
        "LessOrEqual",
        "LessThan",
        "NotContains",
        "NotEqual",
        "NotIn",
        "NotNull",
        "Pattern",
        "ResultFilter",
        "basic_collection_terms",
        "basic_image_terms",
    ),
    "freeze": ("fetch_frozen",),
    "neurovault": ("fetch_neurovault_auditory_computation_task",),
    "plan": ("Plan",),
    "select": ("fetch_collection", "fetch_where"),
    "report": (
        "Outcome",
        "Report",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
# Modules that people reach as attributes, as they do in nilearn.
_MODULES = ("errors", "filters", "neurovault")

__all__ = [
    "Catalog",
    "Contains",
    "GreaterOrEqual",
    "GreaterThan",
    "IsIn",
    "IsNull",
    "LessOrEqual",
    "LessThan",
    "NVCatalogError",
    "NotContains",
    "NotEqual",
    "NotIn",
    "NotNull",
    "Outcome",
    "Pattern",
    "Plan",
    "Report",
    "ResultFilter",
    "__version__",
    "basic_collection_terms",
    "basic_image_terms",
    "fetch_collection",
    "fetch_frozen",
    "fetch_neurovault",
    "fetch_neurovault_auditory_computation_task",
    "fetch_neurovault_ids",
    "fetch_where",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"nvcatalog.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nvcatalog' has no attribute {name!r}")
    return getattr(import_module(f"nvcatalog.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
