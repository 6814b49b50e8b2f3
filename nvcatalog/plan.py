"""Decide, from what is known and what is on disk, which images are here, to fetch, or known to be unavailable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, cast, get_args

from nvcatalog import neurosynth, records, storage
from nvcatalog.errors import InvalidModeError
from nvcatalog.known import Known, KnownImage, LocalFile, Refusal
from nvcatalog.report import Outcome

Mode = Literal["download_new", "overwrite", "offline"]
MODES: tuple[Mode, ...] = get_args(Mode)

#: How long a server's refusal is believed.
REFUSAL_LASTS = timedelta(days=7)


@dataclass(frozen=True)
class Request:
    """What a call asks for.

    Attributes
    ----------
    collection_ids, image_ids : tuple of int
        Distinct, in request order.
    mode : {'download_new', 'overwrite', 'offline'}
        When the servers are asked.
    words : bool
        Whether the terms are wanted.
    """

    collection_ids: tuple[int, ...]
    image_ids: tuple[int, ...]
    mode: Mode
    words: bool


@dataclass(frozen=True)
class ToList:
    """Which records must be read from the server before anything can be planned."""

    collection_ids: tuple[int, ...] = ()
    image_ids: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.collection_ids or self.image_ids)


@dataclass(frozen=True)
class Plan:
    """What a fetch will do, image by image; a pure value.

    Attributes
    ----------
    images : tuple of int
        Every image of the answer, in request order.
    here : dict of int to LocalFile
        Images whose file is on disk with its recorded size.
    to_fetch : tuple of int
        Images whose file is to be downloaded.
    words_to_fetch : frozenset of int
        Images whose terms are to be asked for.
    settled : dict of (str, int) to Outcome
        What is decided without the network: known refusals, and what is missing offline.
    """

    images: tuple[int, ...]
    here: Mapping[int, LocalFile]
    to_fetch: tuple[int, ...]
    words_to_fetch: frozenset[int]
    settled: Mapping[tuple[str, int], Outcome] = field(default_factory=dict)


def parse_mode(mode: object) -> Mode:
    """Return a mode whatever its case.

    Raises
    ------
    InvalidModeError
        When it is none.
    """
    if isinstance(mode, str) and mode.lower() in MODES:
        return cast("Mode", mode.lower())
    raise InvalidModeError(f"'mode' must be one of {', '.join(map(repr, MODES))}; got {mode!r}")


def refusal_holds(refusal: Refusal | None, modify_date: datetime | None, *, mode: Mode, now: datetime) -> bool:
    """Whether a refusal is still believed: not when its record has moved, after a week, or in overwrite."""
    if refusal is None or mode == "overwrite":
        return False
    if mode == "offline":
        return True
    # A refusal without a date was of the record itself: that there is one now is a change too.
    moved = modify_date is not None and modify_date != refusal.modify_date
    return not moved and now - refusal.seen_at < REFUSAL_LASTS


def what_to_list(request: Request, known: Known, *, now: datetime) -> ToList:
    """Return which lists and records the catalog cannot answer for."""
    if request.mode == "offline":
        return ToList()

    def unknown_collection(id_: int) -> bool:
        if request.mode == "overwrite":
            return True
        if refusal_holds(known.refusals.get(("collection", id_)), None, mode=request.mode, now=now):
            return False
        collection = known.collections.get(id_)
        places = known.positions.get(id_, ())
        expired = any(not refusal_holds(place, None, mode=request.mode, now=now) for place in places)
        return collection is None or not collection.complete or expired

    def unknown_image(id_: int) -> bool:
        if request.mode == "overwrite":
            return True
        image = known.images.get(id_)
        if image is None:
            return not refusal_holds(known.refusals.get(("image", id_)), None, mode=request.mode, now=now)
        collection = known.collections.get(image.collection_id)
        return collection is None or collection.record is None

    collections = tuple(id_ for id_ in request.collection_ids if unknown_collection(id_))
    listed_anyway = {id_ for id_ in known.images if known.images[id_].collection_id in collections}
    images = tuple(id_ for id_ in request.image_ids if unknown_image(id_) and id_ not in listed_anyway)
    return ToList(collections, images)


def wanted_images(request: Request, known: Known) -> tuple[int, ...]:
    """Return the ids of the answer: collections in the order given, images by id inside, then ``image_ids``."""
    held = known.images_by_collection() if request.collection_ids else {}
    in_collections = (id_ for collection in request.collection_ids for id_ in held.get(collection, ()))
    return tuple(dict.fromkeys((*in_collections, *request.image_ids)))


def make_plan(request: Request, known: Known, folder: Path, *, now: datetime | None = None) -> Plan:
    """Decide about every image asked for.

    The only things looked at are ``known`` and the files it names: each is stat-ed, and one that is not
    there with its recorded size counts as missing.
    """
    now = now or datetime.now(UTC)
    here: dict[int, LocalFile] = {}
    images: list[int] = []
    to_fetch: list[int] = []
    settled: dict[tuple[str, int], Outcome] = {}
    for image_id in wanted_images(request, known):
        image = known.images.get(image_id)
        file = image.file if image else None
        trouble = storage.why_not_here(folder / file.path, file.size) if file else "its file is not here"
        if file is not None and trouble is None:
            here[image_id] = file
        elif image is not None and image.gone and image_id not in request.image_ids:
            continue  # its collection no longer holds it, and nor do we
        images.append(image_id)
        outcome = _settle(request, known, image_id, trouble, now)
        if outcome is not None and (image_id not in here or image is None):
            settled["image", image_id] = outcome
        elif image is not None and (image_id not in here or request.mode == "overwrite"):
            to_fetch.append(image_id)
    to_fetch = [] if request.mode == "offline" else to_fetch
    words, no_words = _plan_words(request, known, (*here, *to_fetch), now)
    return Plan(tuple(images), here, tuple(to_fetch), words, settled | no_words)


def _settle(request: Request, known: Known, image_id: int, trouble: str | None, now: datetime) -> Outcome | None:
    """Return the outcome of an image that need not or cannot be asked for, if that is known already."""
    image = known.images.get(image_id)
    refusal = known.refusals.get(("image", image_id))
    modify_date = records.modify_date_of(image.record) if image and refusal else None
    if refusal is not None and refusal_holds(refusal, modify_date, mode=request.mode, now=now):
        return Outcome("image", image_id, refusal.status, refusal.reason)
    if request.mode == "offline":
        return Outcome("image", image_id, "missing_offline", trouble if image else "unknown here, never fetched")
    return None


def _plan_words(
    request: Request, known: Known, candidates: Iterable[int], now: datetime
) -> tuple[frozenset[int], dict[tuple[str, int], Outcome]]:
    """Return whose terms to ask for, and what is known about the others that have none."""
    if not request.words:
        return frozenset(), {}
    to_ask, settled = set(), {}
    for image_id in dict.fromkeys(candidates):
        if image_id in known.with_words and request.mode != "overwrite":
            continue
        outcome = _settle_words(request, known.images[image_id], known.refusals.get(("words", image_id)), now)
        if outcome is None:
            to_ask.add(image_id)
        else:
            settled["words", image_id] = outcome
    return frozenset(to_ask), settled


def _settle_words(request: Request, image: KnownImage, refusal: Refusal | None, now: datetime) -> Outcome | None:
    if refusal is not None and refusal_holds(
        refusal, records.modify_date_of(image.record), mode=request.mode, now=now
    ):
        return Outcome("words", image.image_id, refusal.status, refusal.reason)
    reason = neurosynth.why_not_asked(image.record)
    if reason is not None:
        return Outcome("words", image.image_id, "not_found", reason)
    if request.mode == "offline":
        return Outcome("words", image.image_id, "missing_offline", "its terms were never fetched")
    return None
