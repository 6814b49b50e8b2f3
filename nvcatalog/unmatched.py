"""Say what each term keeps alone, where all together keep no image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nvcatalog import records
from nvcatalog._store import Store
from nvcatalog.errors import shown, storable
from nvcatalog.filter_sql import to_sql
from nvcatalog.filters import IsIn
from nvcatalog.shelf import values_like

_HOLDS = {"bool": "True or False", "int": "numbers", "bigint": "numbers", "float": "numbers", "text": "text"}


def explain(
    store: Store,
    image_terms: Mapping[str, Any],
    collection_terms: Mapping[str, Any],
    functions: Iterable[str] = (),
) -> list[str]:
    """Say in lines how many records each term keeps, and which values there are where it keeps none.

    Parameters
    ----------
    store : Store
        The catalog.
    image_terms, collection_terms : mapping
        Field -> value or special value, as for :class:`~nvcatalog.filters.ResultFilter`.
    functions : iterable of str
        The names of functions that were given beside them.
    """
    if not store.exists:
        return []
    images = _Table(store, "images", records.IMAGE_FIELDS)
    collections = _Table(store, "collections", records.COLLECTION_FIELDS)
    n_images, image_parts = images.parts(image_terms)
    n_collections, collection_parts = collections.parts(collection_terms)
    parts = [*(image_parts if n_images else ()), *(part.of_collection() for part in collection_parts)]
    parts += [_Part("?", name, "a function") for name in functions]
    if not (n_collections and parts):
        return []
    width = max(len(part.figure) for part in parts)
    known = f"{n_images:,} images and {n_collections:,} collections known here"
    title = f"Of {known}, each term alone keeps (≤ at most so many, ? not counted):"
    return [title, *(part.line(width) for part in parts)]


@dataclass(frozen=True)
class _Part:
    figure: str
    text: str
    hint: str

    def of_collection(self) -> _Part:
        return _Part(self.figure, f"collections with {self.text}", self.hint)

    def line(self, width: int) -> str:
        return f"  {self.figure:>{width}}  {self.text}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class _Table:
    store: Store
    name: str
    columns: Mapping[str, str]

    def parts(self, terms: Mapping[str, Any]) -> tuple[int, list[_Part]]:
        """Return how many records there are, and what each term keeps of them."""
        asked = [
            to_sql({name: value}, self.columns, prefix=f"p{i}_", extra="extra")
            for i, (name, value) in enumerate(terms.items())
        ]
        tests = [test for each in asked for test in (each.where, each.certain)]
        counts = ", ".join(["count(*)", *(f"count(*) FILTER (WHERE {test})" for test in tests)])
        params = {name: value for each in asked for name, value in each.params.items()}
        rows = self._ask(f"SELECT {counts} FROM {self.name} WHERE gone_at IS NULL", params)  # noqa: S608 - our own
        total, *kept = rows[0]
        parts = [
            self._part(name, value, None if each.leftover else most, certain)
            for (name, value), each, most, certain in zip(terms.items(), asked, kept[::2], kept[1::2], strict=True)
        ]
        return total, parts

    def _part(self, name: str, value: object, most: int | None, certain: int) -> _Part:
        figure = "?" if most is None else f"{most:,}" if most == certain else f"≤{most:,}"
        return _Part(figure, f"{storable(name)}: {shown(value)}", "" if most else self._hint(name, value))

    def _hint(self, name: str, value: object) -> str:
        """Say what may have been meant by a term that keeps nothing, or that SQL cannot tell about."""
        kind = self.columns.get(name)
        wanted = value.values_ if type(value) is IsIn else (value,)
        if several := [each for each in wanted if isinstance(each, list | tuple | set | frozenset)]:
            return f"for any of several give IsIn({', '.join(map(shown, _some(several[0])))})"
        texts = [each for each in wanted if type(each) is str]
        if kind is None or not texts:
            return ""
        if kind != "text":
            return f"the field holds {_HOLDS[kind]}" if kind in _HOLDS else ""
        values = self._values(name)
        same = [each for each in values if each.casefold() == texts[0].casefold()]
        near = same or values_like(texts[0], values)
        return f"there is {', '.join(map(shown, near))}" if near else ""

    def _values(self, column: str) -> list[str]:
        query = f"""
            SELECT "{column}" FROM {self.name} WHERE "{column}" <> '' AND gone_at IS NULL
            GROUP BY ALL ORDER BY count(*) DESC, "{column}" LIMIT 1000
        """  # noqa: S608 - names of our own
        return [value for (value,) in self._ask(query, {})]

    def _ask(self, query: str, params: Mapping[str, object]) -> list[Any]:
        with self.store.reading() as connection:
            return connection.execute(query, dict(params)).fetchall()


def _some(values: Iterable[object]) -> Iterator[object]:
    return islice(sorted(values, key=str) if isinstance(values, set | frozenset) else values, 3)
