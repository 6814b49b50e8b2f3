"""Decide, from what is known and what is on disk, which images are here, to fetch, or known to be unavailable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from nvcatalog import neurosynth, records, storage
from nvcatalog.errors import InvalidModeError, shown
from nvcatalog.known import Known, KnownCollection, KnownImage, LocalFile, MapKind, Refusal
from nvcatalog.report import Outcome, Report

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["download_new", "overwrite", "offline"]
MODES: tuple[Mode, ...] = get_args(Mode)

#: How long a server's refusal is believed.
REFUSAL_LASTS = timedelta(days=7)
#: How the origin of a resampled file begins; the interpolation follows.
RESAMPLED = "resampled: "
#: What a map on the 3 mm grid takes at most, gzipped.
_RESAMPLED_BYTES = 2_500_000
_NEVER = datetime.min.replace(tzinfo=UTC)


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
    kind : {'original', 'resampled'}
        Which maps are wanted.
    interpolation : str or None
        How maps are resampled, where the caller chose.
    extras : bool
        Whether the files beside the maps are wanted.
    max_age : timedelta or None
        How old what is known of a collection may be before it is asked for again; None for any age.
    """

    collection_ids: tuple[int, ...]
    image_ids: tuple[int, ...]
    mode: Mode
    words: bool
    kind: MapKind = "original"
    interpolation: str | None = None
    max_age: timedelta | None = None
    extras: bool = False


@dataclass(frozen=True)
class ToList:
    """Which records must be read from the server before anything can be planned.

    Attributes
    ----------
    collection_ids : tuple of int
        Collections of which both record and list are needed.
    image_ids : tuple of int
        Images whose own record is needed.
    list_ids : tuple of int
        Collections of which only the list is: their record has just been read.
    pack_ids : tuple of int
        Collections of which only the NIDM packs are: they hold images asked for by their own ids.
    """

    collection_ids: tuple[int, ...] = ()
    image_ids: tuple[int, ...] = ()
    list_ids: tuple[int, ...] = ()
    pack_ids: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.collection_ids or self.image_ids or self.list_ids or self.pack_ids)


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
    to_resample : tuple of int
        Images whose file is here, and is only to be resampled.
    words_to_fetch : frozenset of int
        Images whose terms are to be asked for.
    settled : dict of (str, int) to Outcome
        What is decided without the network: known refusals, and what is missing offline.
    extras_to_fetch : int
        How many files beside the maps are to be downloaded; their sizes nobody knows before.
    cost : Cost or None
        What carrying it out takes, where somebody asked.
    report : Report
        What is known to be missing, with the reason.
    """

    images: tuple[int, ...] = ()
    here: Mapping[int, LocalFile] = field(default_factory=dict)
    to_fetch: tuple[int, ...] = ()
    words_to_fetch: frozenset[int] = frozenset()
    settled: Mapping[tuple[str, int], Outcome] = field(default_factory=dict)
    to_resample: tuple[int, ...] = ()
    extras_to_fetch: int = 0
    cost: Cost | None = None
    report: Report = field(default_factory=Report)

    def __repr__(self) -> str:
        """Say how many images are here, to fetch and unavailable, and what it costs to fetch them."""
        cost = f"; {self.cost}" if self.cost else ""
        resample = f" ({len(self.to_resample)} to resample)" if self.to_resample else ""
        here = len(self.here) + len(self.to_resample)
        words = f", terms of {len(self.words_to_fetch)} to fetch" if self.words_to_fetch else ""
        words += f", {self.extras_to_fetch} files beside them to fetch" if self.extras_to_fetch else ""
        return (
            f"<Plan: {len(self.images)} images: {here} here{resample}, {len(self.to_fetch)} to fetch, "
            f"{len(self.unavailable)} unavailable{words}{cost}>"
        )

    @property
    def unavailable(self) -> tuple[Outcome, ...]:
        """The images that are known to be missing, each with the reason."""
        return tuple(outcome for (kind, _), outcome in self.settled.items() if kind == "image")

    @property
    def offered(self) -> int:
        """How many images the answer has when everything goes well."""
        return len({*self.here, *self.to_fetch, *self.to_resample})

    def followed_by(self, later: Plan) -> Plan:
        """Return one plan of both, without their costs."""
        return Plan(
            images=self.images + later.images,
            here={**self.here, **later.here},
            to_fetch=self.to_fetch + later.to_fetch,
            words_to_fetch=self.words_to_fetch | later.words_to_fetch,
            settled={**self.settled, **later.settled},
            to_resample=self.to_resample + later.to_resample,
        )

    def df(self) -> pd.DataFrame:
        """Return a row an image: ``image_id``, ``fate`` (here, to resample, to fetch, unavailable), ``reason``."""
        import pandas as pd

        fates = dict.fromkeys(self.here, "here") | dict.fromkeys(self.to_resample, "to resample")
        fates |= dict.fromkeys(self.to_fetch, "to fetch")
        fates |= {cast("int", outcome.id): "unavailable" for outcome in self.unavailable}
        reasons = {outcome.id: outcome.reason for outcome in self.unavailable}
        rows = [(id_, fates.get(id_, "unavailable"), reasons.get(id_)) for id_ in self.images]
        return pd.DataFrame(rows, columns=["image_id", "fate", "reason"])


@dataclass(frozen=True)
class Cost:
    """What a plan takes.

    Attributes
    ----------
    bytes : int
        The sizes of the files to fetch, as far as their records say.
    unknown_sizes : int
        How many files to fetch have a record without a size.
    bytes_more : int
        By how much the disk fills: a file that replaces another, or is kept only resampled, takes less.
    free_bytes : int
        The free space of the disk.
    expected_s : float or None
        How long it takes at the speed of past fetches into this folder; None when there were none.
    """

    bytes: int
    unknown_sizes: int
    bytes_more: int
    free_bytes: int
    expected_s: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the disk has room for it."""
        return self.bytes_more <= self.free_bytes

    def __str__(self) -> str:
        """Say the figures in words."""
        number = f"{self.unknown_sizes} file{'' if self.unknown_sizes == 1 else 's'}"
        unknown = f" and {number} of unknown size" if self.unknown_sizes else ""
        time = f", about {_duration(self.expected_s)}" if self.expected_s is not None else ""
        return f"{self.bytes / 1e6:,.1f} MB{unknown} to fetch, {self.free_bytes / 1e6:,.0f} MB free{time}"


def parse_mode(mode: object) -> Mode:
    """Return a mode whatever its case.

    Raises
    ------
    InvalidModeError
        When it is none.
    """
    if isinstance(mode, str) and mode.lower() in MODES:
        return cast("Mode", mode.lower())
    raise InvalidModeError(f"'mode' must be one of {', '.join(map(repr, MODES))}; got {shown(mode)}")


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

    def is_refused(kind: str, id_: int) -> bool:
        return refusal_holds(known.refusals.get((kind, id_)), None, mode=request.mode, now=now)

    def unknown_collection(id_: int) -> bool:
        if request.mode == "overwrite":
            return True
        if is_refused("collection", id_):
            return False
        collection = known.collections.get(id_)
        places = known.positions.get(id_, ())
        expired = any(not refusal_holds(place, None, mode=request.mode, now=now) for place in places)
        return collection is None or not collection.complete or expired or is_old(collection, request, now)

    def unknown_image(id_: int) -> bool:
        if request.mode == "overwrite":
            return True
        image = known.images.get(id_)
        if image is None:
            return not is_refused("image", id_)
        collection = known.collections.get(image.collection_id)
        lacks_parent = collection is None or collection.record is None
        is_old_record = request.max_age is not None and (image.fetched_at or _NEVER) < now - request.max_age
        return (lacks_parent and not is_refused("collection", image.collection_id)) or is_old_record

    collections = tuple(id_ for id_ in request.collection_ids if unknown_collection(id_))
    listed_anyway = {id_ for id_ in known.images if known.images[id_].collection_id in collections}
    images = tuple(id_ for id_ in request.image_ids if unknown_image(id_) and id_ not in listed_anyway)
    return ToList(collections, images)


def is_old(collection: KnownCollection, request: Request, now: datetime) -> bool:
    """Whether a collection's list was read longer ago than the caller allows."""
    return request.max_age is not None and (collection.listed_at or _NEVER) < now - request.max_age


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
    to_resample: list[int] = []
    settled: dict[tuple[str, int], Outcome] = {}
    asked = frozenset(request.image_ids)
    for image_id in wanted_images(request, known):
        image = known.images.get(image_id)
        file, trouble = _look(folder, image, request.kind)
        otherwise = _made_otherwise(file, request)
        if file is not None and otherwise is None:
            here[image_id] = file
        elif request.mode != "overwrite" and request.kind != "original" and _look(folder, image, "original")[0]:
            to_resample.append(image_id)
        elif image is not None and image.gone and image_id not in asked:
            continue  # its collection no longer holds it, and nor do we
        images.append(image_id)
        is_here = image_id in here or image_id in to_resample[-1:]
        outcome = _settle(request, known, image_id, otherwise or trouble, now)
        if outcome is not None and (not is_here or image is None):
            settled["image", image_id] = outcome
        elif image is not None and (not is_here or request.mode == "overwrite"):
            to_fetch.append(image_id)
    to_fetch = [] if request.mode == "offline" else to_fetch
    words, no_words = _plan_words(request, known, (*here, *to_resample, *to_fetch), now)
    return Plan(tuple(images), here, tuple(to_fetch), words, settled | no_words, tuple(to_resample))


def _look(folder: Path, image: KnownImage | None, kind: MapKind) -> tuple[LocalFile | None, str | None]:
    """Return an image's file when it is there with its recorded size, else None and what was found instead."""
    file = image.map(kind) if image else None
    if file is None:
        return None, "its file is not here"
    trouble = storage.why_not_here(storage.place(folder, file.path), file.size)
    return (file, None) if trouble is None else (None, trouble)


def _made_otherwise(file: LocalFile | None, request: Request) -> str | None:
    """Say how a file here was resampled, where the caller chose otherwise; of nilearn's nobody knows how."""
    made = ((file.origin if file else None) or "").partition(RESAMPLED)[2]
    chosen = request.interpolation
    if request.kind != "resampled" or not chosen or not made or made == chosen:
        return None
    return (
        f"it is here resampled with interpolation={made!r}, and the map to make it anew of is not: "
        f"fetch it online, or leave out interpolation={chosen!r}"
    )


def cost_of(plan: Plan, known: Known, *, kind: MapKind, free_bytes: int, bytes_per_s: float | None = None) -> Cost:
    """Return what carrying out a plan takes.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    known : Known
        The records of its images, which say how large their files are.
    kind : {'original', 'resampled'}
        Which files stay.
    free_bytes : int
        The free space of the disk.
    bytes_per_s : float or None
        The speed of past fetches.
    """
    sizes = [_size(known.images[id_]) for id_ in plan.to_fetch]
    known_sizes = [size for size in sizes if size]
    more = 0
    for id_, size in zip(plan.to_fetch, sizes, strict=True):
        replaced = known.images[id_].map(kind)
        stays = min(size, _RESAMPLED_BYTES) if kind == "resampled" else size
        more += stays - (replaced.size if replaced and not replaced.is_shared and id_ in plan.here else 0)
    total = sum(known_sizes)
    expected_s = total / bytes_per_s if bytes_per_s and known_sizes else None
    return Cost(total, len(sizes) - len(known_sizes), max(0, more), free_bytes, expected_s)


def _size(image: KnownImage) -> int:
    return records.file_size_of(image.record) or 0


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"


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
            here = image_id in known.with_words  # of a decoder other than Neurosynth's, as it may be
            settled["words", image_id] = outcome._replace(status="kept_old") if here else outcome
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
