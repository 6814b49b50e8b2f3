"""Read which images a caller means: by a condition, by a fetched answer, by ids, or all that are here."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from nvcatalog import where as conditions
from nvcatalog._store import Store
from nvcatalog.errors import InvalidOptionError, listed, shown
from nvcatalog.ids import parse_ids
from nvcatalog.known import MapKind
from nvcatalog.where import Condition


@dataclass(frozen=True)
class Meant:
    """The images that a caller means.

    Attributes
    ----------
    image_ids : tuple of int
        Each once.
    about : dict
        What they were chosen by, as JSON can hold it.
    kind : {'original', 'resampled'}
        Which of their maps an answer names.
    paths : dict of int to str
        Where an answer has its files.
    terms : bool or None
        Whether an answer was asked for with terms; None where nobody can tell.
    named : bool
        Whether each was named, by its id or in an answer, and not found by what is true for it.
    n_gone : int
        How many more a condition about ids is true for: gone from the server, and without a file here.
    """

    image_ids: tuple[int, ...]
    about: dict[str, Any]
    kind: MapKind = "original"
    paths: Mapping[int, str] = field(default_factory=dict)
    terms: bool | None = None
    named: bool = False
    n_gone: int = 0


def images_meant(
    store: Store,
    *,
    where: str | None = None,
    bunch: Any = None,
    image_ids: Iterable[int | str] | int | str | None = None,
    params: Mapping[str, Any] | None = None,
    kind: MapKind | None = None,
) -> Meant:
    """Return the images that a caller means.

    Parameters
    ----------
    store : Store
        The catalog.
    where, params
        A condition over ``stat_maps``, and values for each ``$name`` in it.
    bunch
        What a fetcher returned, nilearn's included.
    image_ids
        Ids, as the fetchers take them.
    kind : {'original', 'resampled'} or None
        Of which maps all that are here are meant, where none of these is given; None means of either.

    Raises
    ------
    InvalidOptionError
        When several are given, or what is given as an answer is none.
    QueryError, InvalidIdError, InvalidIdTypeError
        When the condition cannot be asked, or an id is none.
    """
    named = {"where": where, "bunch": bunch, "image_ids": image_ids}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise InvalidOptionError(
            f"give one of where, bunch and image_ids (--where or --images); got {' and '.join(given)}"
        )
    if params and where is None:
        raise InvalidOptionError("params are values for the $names of a condition; give where (--where)")
    if where is not None:
        condition = Condition(where, params=params or {})
        about = {"where": where} | ({"params": as_json(params)} if params else {})
        ids = conditions.select(store, condition).image_ids
        # Who writes out ids misses each; of what is merely alike, nobody expects what the server has no more.
        n_gone = conditions.count_gone(store, condition) if "image_id" in where.lower() else 0
        return Meant(ids, about, n_gone=n_gone)
    if bunch is not None:
        return _of_answer(bunch)
    if image_ids is not None:
        return Meant(parse_ids(image_ids, kind="image"), {"image_ids": "as given"}, named=True)
    return Meant(_all_here(store, kind), {"all": "images with a file here"})


def ids_given(image_ids: Iterable[int | str] | int | str | None) -> tuple[int, ...] | None:
    """Return the ids that a caller names, before anything is open: what gives them may take its time."""
    return None if image_ids is None else parse_ids(image_ids, kind="image")


def _of_answer(bunch: Any) -> Meant:
    metas, images = (getattr(bunch, name, None) for name in ("images_meta", "images"))
    if not isinstance(metas, list) or not isinstance(images, list) or len(metas) != len(images):
        raise InvalidOptionError(f"bunch is a {type(bunch).__name__}; give what a fetcher returned")
    ids = parse_ids([meta.get("id") for meta in metas], kind="image", distinct=False)
    paths = {id_: os.fspath(path) for id_, path in zip(ids, images, strict=True)}
    is_resampled = bool(paths) and all(path.endswith("_resampled.nii.gz") for path in paths.values())
    with_terms = hasattr(bunch, "word_frequencies") or any(
        outcome.kind == "words" for outcome in getattr(bunch, "report", ())
    )
    about = {"answer": f"of {len(paths)} images"}
    kind: MapKind = "resampled" if is_resampled else "original"
    return Meant(tuple(paths), about, kind, paths, with_terms, named=True)


def _all_here(store: Store, kind: MapKind | None) -> tuple[int, ...]:
    if not store.exists:
        return ()
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT DISTINCT image_id
            FROM files
            WHERE kind IN (SELECT unnest($kinds::VARCHAR[])) AND state IN ('present', 'unverified')
            ORDER BY image_id
            """,
            {"kinds": [kind] if kind else ["original", "resampled"]},
        ).fetchall()
    return tuple(id_ for (id_,) in rows)


def without_gone(store: Store, meant: Meant, *, gone: bool) -> tuple[Meant, str | None]:
    """Leave out what the server no longer has, unless it is named or asked for, and say what became of it."""
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT image_id FROM images "
            "WHERE gone_at IS NOT NULL AND image_id IN (SELECT unnest($ids::INTEGER[])) ORDER BY image_id",
            {"ids": list(meant.image_ids)},
        ).fetchall()
    if gone or not rows:
        return meant, None
    ids = {id_ for (id_,) in rows}
    left = meant.image_ids if meant.named else tuple(id_ for id_ in meant.image_ids if id_ not in ids)
    return replace(meant, image_ids=left), of_gone(sorted(ids), named=meant.named)


def of_gone(image_ids: Collection[int], *, named: bool) -> str:
    """Say what becomes of images that the server no longer has.

    Examples
    --------
    >>> of_gone([3, 4], named=False)
    '2 images are gone from the server, and left out: 3, 4. gone=True takes them too'
    """
    fate = "taken as they are here" if named else "left out"
    more = "" if named else ". gone=True takes them too"
    return f"{len(image_ids):,} images are gone from the server, and {fate}: {listed(image_ids)}{more}"


def as_json(value: Any) -> Any:
    """Return a parameter's value as JSON can hold it, as text where nothing else fits.

    Examples
    --------
    >>> as_json({"n": 20, "stats": ("t", "z"), "since": date(2020, 1, 2), "most": float("inf")})
    {'n': 20, 'stats': ['t', 'z'], 'since': '2020-01-02', 'most': 'inf'}
    >>> as_json([Decimal("1.5"), timedelta(days=1)])
    ['1.5', '1 day, 0:00:00']
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal | time | timedelta):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((as_json(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's and pandas's
        return as_json(value.tolist())
    return shown(value)
