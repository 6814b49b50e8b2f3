"""Ask NeuroVault: a collection, an image, the list of a collection's images; and check what it answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from nvcatalog import _http, records
from nvcatalog.errors import RefusedError, TransientError
from nvcatalog.records import Record

DEFAULT_ROOT = "https://neurovault.org"
FILE_CONNECTIONS = 6
LIST_CONNECTIONS = 2

FIRST_PAGE, LARGEST_PAGE = 100, 1000
_PAGE_PATIENCE_S = 5.0
_PASSES = 3
_COLLECTION_PASSES = 6
# An offset behind every list: the answer is a page without records, and so needs none to be rendered.
_BEHIND_THE_LAST = 1_000_000_000
_LARGEST_COUNT = 2**31 - 1
# Where other records are looked for when one answers 500: a few places, since one there may be broken too.
_PROBES = (0, 1, 10)
_PROBE_VALID_S = 5.0

_Kind = Literal["collections", "images"]
#: What the list of collections may be asked for; a server may ignore each of them.
FILTERS = ("DOI", "name", "owner")


def root() -> str:
    """Return NeuroVault's root: ``NVCATALOG_NEUROVAULT_URL``, else https://neurovault.org."""
    return _http.root_from_environment("NVCATALOG_NEUROVAULT_URL", DEFAULT_ROOT)


@dataclass
class ImageList:
    """What one reading of a collection's list gave.

    Attributes
    ----------
    records : set of int
        The ids of the records; the records themselves are handed over page by page, and not kept.
    broken : list of int
        The places, from 1, of records that the server cannot render.
    count : int
        How many records the server says there are.
    counts : set of int
        What it said on the pages so far.
    """

    records: set[int] = field(default_factory=set)
    broken: list[int] = field(default_factory=list)
    count: int = 0
    counts: set[int] = field(default_factory=set)

    def counted(self, count: int) -> None:
        """Note what a page says the count is."""
        self.count = count
        self.counts.add(count)

    @property
    def steady(self) -> bool:
        """Whether every page gave the same count: none did where the list changed while it was read."""
        return len(self.counts) == 1

    @property
    def complete(self) -> bool:
        """Whether distinct ids and broken records make up the server's count."""
        return self.steady and len(self.records) + len(self.broken) == self.count


class CollectionList(ImageList):
    """What several readings of the list of collections gave together."""

    @property
    def complete(self) -> bool:
        """Whether distinct ids and broken records make up the last count; one deleted meanwhile is one more."""
        return bool(self.counts) and len(self.records) + len(self.broken) >= self.count


class NeuroVault:
    """NeuroVault's API over one :class:`~nvcatalog._http.Service`."""

    def __init__(self, service: _http.Service) -> None:
        self._service = service
        self._well_at: dict[_Kind, float] = {}

    def stop(self) -> None:
        """Let no further request through; those under way end with their next bytes."""
        self._service.health.interrupt()

    def collection(self, collection_id: int) -> Record:
        """Return a collection's record.

        Raises
        ------
        RefusedError
            When it does not exist, is private, or cannot be rendered by the server.
        TransientError, HostGivenUpError
            When no answer could be had, for now or for this call.
        """
        return self._record("collections", collection_id)

    def image(self, image_id: int) -> Record:
        """Return an image's record; raises as :meth:`collection` does."""
        record = self._record("images", image_id)
        try:
            records.collection_id_of(record)
        except ValueError as error:
            raise RefusedError(str(error), status="broken_on_server", lasting=False) from error
        return record

    def images_of(self, collection_id: int) -> Iterator[tuple[list[Record], ImageList]]:
        """Yield a collection's image records page by page, each with the list so far.

        The list is paged by offset, so an upload or a deletion meanwhile repeats or skips a record: a pass
        during which the count moved, or which came short of it, is followed by another.
        """
        for _ in range(_PASSES):
            listing = ImageList()
            yield from self._one_pass("images", f"api/collections/{collection_id}/images/", listing)
            if listing.complete:
                return

    def collections(
        self, filters: Mapping[str, str | int] | None = None
    ) -> Iterator[tuple[list[Record], CollectionList]]:
        """Yield the public collections page by page, those not seen before, each with the list so far.

        The server keeps no order here, so that pages repeat some and skip others: the list is read again until
        the distinct ids make up its count.

        Parameters
        ----------
        filters : mapping, optional
            Some of :data:`FILTERS` with the value asked for. The server may ignore them: look at what comes.
        """
        whole = CollectionList()
        for _ in range(_COLLECTION_PASSES):
            listing = ImageList()
            for page, _ in self._one_pass("collections", "api/collections/", listing, filters):
                new = {records.record_id(record): record for record in page}
                fresh = [record for id_, record in new.items() if id_ not in whole.records]
                whole.records.update(new)
                whole.broken = listing.broken
                whole.counted(listing.count)
                yield fresh, whole
            if whole.complete:
                return

    def file_url(self, record: Record) -> str:
        """Return where an image's file is, below our root, whatever host the record's link names.

        Raises
        ------
        RefusedError
            When the link is none, or leads to a host that is neither ours nor neurovault.org.
        """
        link, root = record.get("file"), self._service.root
        if not isinstance(link, str) or not link:
            raise RefusedError("the record names no file", status="broken_on_server")
        if not (_http.same_host(link, root) or _http.same_host(link, DEFAULT_ROOT)):
            raise RefusedError(
                f"the file's link leads elsewhere and is not followed: {link}", status="failed", lasting=False
            )
        parts = urlsplit(link)
        # A root may have a path of its own, which our own server's links begin with and neurovault.org's do not.
        path = parts.path.removeprefix(urlsplit(root).path).lstrip("/")
        return path + (f"?{parts.query}" if parts.query else "")

    # Records

    def _record(self, kind: _Kind, id_: int) -> Record:
        path = f"api/{kind}/{id_}/"
        try:
            record = self._json(path)
        except TransientError as error:
            if error.status == 500 and self._renders_others(kind):
                raise RefusedError(
                    f"the server cannot render this record: HTTP 500 for {path}", status="broken_on_server"
                ) from error
            raise
        if not isinstance(record, dict) or _id_or_none(record) != id_:
            raise TransientError(f"{path} answered with something that is not that record")
        return record

    def _renders_others(self, kind: _Kind) -> bool:
        """Whether the server renders records at all: a 500 is about one record only where others come."""
        if time.monotonic() - self._well_at.get(kind, float("-inf")) < _PROBE_VALID_S:
            self._service.health.succeeded()
            return True
        for offset in _PROBES:
            try:
                self._page(f"api/{kind}/", offset, 1)
            except TransientError as error:
                if error.status != 500:
                    return False
            else:
                self._well_at[kind] = time.monotonic()
                return True
        return False

    # Lists

    def _one_pass(
        self, kind: _Kind, path: str, listing: ImageList, filters: Mapping[str, str | int] | None = None
    ) -> Iterator[tuple[list[Record], ImageList]]:
        place = _Place()
        former: list[Any] = []
        while True:
            started = time.monotonic()
            try:
                page = self._page(path, place.offset, place.limit, filters)
            except TransientError as error:
                if place.try_again(error):
                    self._service.health.pause(place.pause_s(error))
                    continue
                if error.status != 500 or not place.is_suspect or not self._renders_others_of(kind, path, listing):
                    raise
                new = []
                listing.broken.append(place.offset + 1)
                place.skip_one()
            else:
                self._well_at[kind] = time.monotonic()
                known, broken = len(listing.records), len(listing.broken)
                new = _read_page(page, place.offset, listing)
                # A server that ignores the offset repeats a page for ever, places without an id included.
                brings_broken = len(listing.broken) > broken and page["results"] != former
                is_new = len(listing.records) > known or brings_broken
                former = page["results"]
                place.advance(len(former), is_new=is_new, seconds=time.monotonic() - started)
            yield new, listing
            # What does not move on ends the list whatever the count says: it may be wrong for ever.
            if place.offset >= listing.count or place.stands_still:
                return

    def _renders_others_of(self, kind: _Kind, path: str, listing: ImageList) -> bool:
        """Whether the list is there and other records are rendered, so that a 500 is about the one asked for."""
        if not listing.counts:
            listing.counted(self._page(path, _BEHIND_THE_LAST, 1)["count"])
        return self._renders_others(kind)

    def _page(
        self, path: str, offset: int, limit: int, filters: Mapping[str, str | int] | None = None
    ) -> dict[str, Any]:
        # Asked once: what to try next after a failure, most likely a smaller page, is the caller's to decide.
        page = self._json(path, {**(filters or {}), "limit": limit, "offset": offset}, tries=1)
        results = page.get("results") if isinstance(page, dict) else None
        count = page.get("count") if isinstance(page, dict) else None
        if not isinstance(results, list) or type(count) is not int or not 0 <= count <= _LARGEST_COUNT:
            raise TransientError(f"{path} answered with something that is not a page of records")
        return {"count": count, "results": results}

    def _json(self, path: str, params: Mapping[str, str | int] | None = None, *, tries: int | None = None) -> Any:
        """Return an answer's JSON, asked for again while the trouble looks passing."""
        for attempt in self._service.attempts(tries):
            with attempt, self._service.get(path, params=params) as response:
                return _believable_json(self._service, response)
        raise AssertionError("the last attempt returns or raises")


@dataclass
class _Place:
    """Where in a list to read next: large pages while they come, ever smaller ones around a broken record."""

    offset: int = 0
    limit: int = FIRST_PAGE
    stands_still: bool = False
    _failures: int = 0  # in a row
    _alone: int = 0  # of these, with a page of one record
    _suspect_until: int = 0  # one record between the offset and here made a page fail

    def advance(self, count: int, *, is_new: bool, seconds: float) -> None:
        """Move on behind a page that came; one that brought nothing new is the last."""
        self.stands_still = not is_new
        self.offset += count
        self._failures = self._alone = 0
        if self.offset < self._suspect_until:
            self.limit = max(1, (self._suspect_until - self.offset) // 2)
        elif seconds < _PAGE_PATIENCE_S:
            self.limit = min(self.limit * 2, LARGEST_PAGE)

    def try_again(self, error: TransientError) -> bool:
        """Halve the page that failed; False once a single record has failed twice."""
        self._failures += 1
        self._alone += self.limit == 1
        if self._alone == 2:
            return False
        if error.status == 500:
            self._suspect_until = self.offset + self.limit
        self.limit = max(1, self.limit // 2)
        return True

    @property
    def is_suspect(self) -> bool:
        """Whether the record here answered 500 before, or is what is left of a page that did."""
        return self._suspect_until == self.offset + 1

    def pause_s(self, error: TransientError) -> float:
        """Return how long to wait before the next try: a 500 is most likely about a record and no sign of load."""
        return 0.0 if error.status == 500 else _http.pause_s(min(self._failures, 3), error)

    def skip_one(self) -> None:
        """Move on behind a broken record: carefully, for where one is broken the next ones often are too."""
        self.offset += 1
        self.limit = 1
        self._failures = self._alone = 0


def _read_page(page: dict[str, Any], offset: int, listing: ImageList) -> list[Record]:
    """Add a page to the list, and return its usable records; one without an id is as good as broken."""
    listing.counted(page["count"])
    new = {}
    for place, record in enumerate(page["results"], start=offset + 1):
        id_ = _id_or_none(record)
        if id_ is None:
            listing.broken.append(place)
        else:
            new[id_] = record
    listing.records.update(new)
    return list(new.values())


def _id_or_none(record: object) -> int | None:
    try:
        return records.record_id(record) if isinstance(record, dict) else None
    except ValueError:
        return None


def _believable_json(service: _http.Service, response: requests.Response) -> Any:
    """Return the JSON of an answer whose status, type and text all say that it is the API's."""
    body = service.json_body(response)
    status, where = response.status_code, urlsplit(response.url).path
    if status == 404:
        raise RefusedError(f"HTTP 404 for {where}", status="not_found")
    if status == 403:
        raise RefusedError(f"HTTP 403 for {where}", status="private")
    if status != 200:
        raise RefusedError(f"HTTP {status} for {where}: {body[:200]!r}", status="failed", lasting=False)
    try:
        return records.parse_json(body)
    except ValueError as error:
        raise TransientError(f"{service.name}: {where} answered with JSON that cannot be read: {error}") from error
