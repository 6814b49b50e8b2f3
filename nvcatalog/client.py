"""Ask NeuroVault: a collection, an image, the lists of what a collection holds; and check what it answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from nvcatalog import _http, records
from nvcatalog.errors import RefusedError, TransientError
from nvcatalog.records import Record

DEFAULT_ROOT = "https://neurovault.org"
FILE_CONNECTIONS = 6
LIST_CONNECTIONS = 2

# Most collections fit on the first page; a page of 1,000 records is some 3 MB.
FIRST_PAGE, LARGEST_PAGE = 250, 1000
_PAGE_PATIENCE_S = 5.0
_PASSES = 3
_COLLECTION_PASSES = 6
# An offset behind every list: the answer is a page without records, and so needs none to be rendered.
_BEHIND_THE_LAST = 1_000_000_000
_LARGEST_COUNT = 2**31 - 1
# More than NeuroVault has in all: a list that is longer brings ever new ids, and has no end.
_LONGEST_LIST = 1_000_000
# Where other records are looked for when one answers 500: a few places, since one there may be broken too.
_PROBES = (0, 1, 10)
_PROBE_VALID_S = 5.0

_Kind = Literal["collections", "images"]
#: What the list of collections may be asked for; a server may ignore each of them.
FILTERS = ("DOI", "name", "owner")


def root() -> str:
    """Return NeuroVault's root: ``NVCATALOG_NEUROVAULT_URL``, else https://neurovault.org."""
    return _http.root_from_environment("NVCATALOG_NEUROVAULT_URL", DEFAULT_ROOT)


def below_root(link: object, root: str) -> str:
    """Return where a record's link leads, below our root, whatever host it names.

    Raises
    ------
    RefusedError
        When the link is none, or leads to a host that is neither ours nor neurovault.org.
    """
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


@dataclass
class ImageList:
    """What one reading of a collection's list gave.

    Attributes
    ----------
    ids : set of int
        The ids of the records; the records themselves are handed over page by page, and not kept.
    broken : list of int
        The places, from 1, of records that the server cannot render.
    count : int
        How many records the server says there are.
    counts : set of int
        What it said on the pages so far.
    """

    ids: set[int] = field(default_factory=set)
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
        return self.steady and len(self.ids) + len(self.broken) == self.count


class CollectionList(ImageList):
    """What several readings of the list of collections gave together."""

    @property
    def complete(self) -> bool:
        """Whether distinct ids and broken records make up the last count; one deleted meanwhile is one more."""
        return bool(self.counts) and len(self.ids) + len(self.broken) >= self.count


class NeuroVault:
    """NeuroVault's API over one :class:`~nvcatalog._http.Service`.

    A private collection whose token is known is asked for by it; in what is returned ``{token}`` stands in its
    place. Once it turns out to be public the token is forgotten.

    Attributes
    ----------
    made_public : set of int
        Collections whose tokens were forgotten.
    """

    def __init__(self, service: _http.Service, files: _http.Service | None = None) -> None:
        self._service = service
        self._files = files
        self.made_public: set[int] = set()
        self._tokens: dict[int, str] = {}
        self._well_at: dict[_Kind, float] = {}
        self._original: str | None = None

    def stand_for(self, root: str) -> None:
        """Return records as the server at another root does: this one is its mirror, whatever its links say."""
        self._original = root

    def open_with(self, collection_id: int, token: str) -> None:
        """Use a token for all that is asked about its collection from now on."""
        self._tokens[collection_id] = token
        self._keep_secret(token)

    def needs_token(self, collection_id: int) -> bool:
        """Whether a collection is asked for by a token."""
        return collection_id in self._tokens

    def collection_of_token(self, token: str) -> Record:
        """Return the record of the private collection that a token opens; raises as :meth:`collection` does."""
        self._keep_secret(token)
        record = self._json(f"api/collections/{token}/")
        if not isinstance(record, dict) or (id_ := _id_or_none(record)) is None:
            raise TransientError("a token was answered with something that is no collection")
        self._tokens[id_] = token
        return self._public_or(_without(token, record), id_, partial(self._record, "collections", id_, str(id_)))

    def _keep_secret(self, token: str) -> None:
        for service in (self._service, self._files):
            if service is not None:
                service.keep_secret(token)

    def stop(self) -> None:
        """Let no further request through, and end those under way."""
        for service in (self._service, self._files):
            if service is not None:
                service.interrupt()

    def collection(self, collection_id: int) -> Record:
        """Return a collection's record.

        Raises
        ------
        RefusedError
            When it does not exist, is private, or cannot be rendered by the server.
        TransientError, HostGivenUpError
            When no answer could be had, for now or for this call.
        """
        by_id = partial(self._record, "collections", collection_id, str(collection_id))
        token = self._tokens.get(collection_id)
        if token is None:
            return by_id()
        return self._by_token(
            partial(self._record, "collections", collection_id, token, token), collection_id, by_id
        )

    def image(self, image_id: int, collection_id: int | None = None) -> Record:
        """Return an image's record; raises as :meth:`collection` does.

        Parameters
        ----------
        image_id : int
            The image.
        collection_id : int or None
            The collection it is in, where that is known: a private one's image is found only by its token.
        """
        by_id = partial(self._record, "images", image_id, str(image_id))
        token = self._tokens.get(collection_id or 0)
        if collection_id is None or token is None:
            record = by_id()
        else:
            by_token = partial(self._record, "images", image_id, f"{token}-{image_id}", token)
            record = self._by_token(by_token, collection_id, by_id)
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
        yield from self._parts(collection_id, "images")

    def packs_of(self, collection_id: int) -> Iterator[tuple[list[Record], ImageList]]:
        """Yield the records of a collection's NIDM packs page by page, as :meth:`images_of` does those of images.

        A pack's ``statmaps`` are the records of its images; :func:`~nvcatalog.records.pack_rows` has their ids.
        """
        yield from self._parts(collection_id, "nidm_results")

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
                fresh = [record for id_, record in new.items() if id_ not in whole.ids]
                whole.ids.update(new)
                for id_ in new.keys() & self._tokens.keys():
                    self._forget_token(id_)  # what is in this list is public
                whole.broken = listing.broken
                whole.counted(listing.count)
                yield fresh, whole
            if whole.complete:
                return

    def file_url(self, record: Record) -> str:
        """Return where an image's file is; raises as :meth:`place_of` does."""
        return self.place_of(record.get("file"), _collection_id_or_none(record))

    def place_of(self, link: object, collection_id: int | None) -> str:
        """Return where a link leads, below our root; raises as :func:`below_root` does.

        Parameters
        ----------
        link : object
            What a record of the collection names.
        collection_id : int or None
            The collection: a private one's link needs its token.
        """
        token = None
        if isinstance(link, str) and _http.TOKEN in link:
            token = self._tokens.get(collection_id or 0)
            if collection_id in self.made_public:
                token = str(collection_id)
            if token is None:
                raise RefusedError("its collection is private, and no token of it is here", status="private")
        if isinstance(link, str) and self._original is not None:
            link = _moved(link, self._original, self._service.root)
        path = below_root(link, self._service.root)  # what is wrong with a link is told without the token
        return path if token is None else path.replace(_http.TOKEN, token)

    # Records

    def _by_token(self, ask: Callable[[], Record], collection_id: int, ask_by_id: Callable[[], Record]) -> Record:
        """Ask for a record by its collection's token, and without one where that leads nowhere any more."""
        try:
            record = ask()
        except RefusedError as error:
            if error.status != "not_found":
                raise
            try:
                record = ask_by_id()
            except RefusedError:
                raise error from None
            self._found_public(record, collection_id)
            return record
        return self._public_or(record, collection_id, ask_by_id)

    def _public_or(self, record: Record, collection_id: int, ask_by_id: Callable[[], Record]) -> Record:
        """Return what a token brought, or the public record where there is one: links of private ones hold it."""
        if _http.TOKEN in str(record.get("url")):
            return record
        try:
            record = ask_by_id()
        except RefusedError:
            return record
        self._found_public(record, collection_id)
        return record

    def _found_public(self, record: Record, collection_id: int) -> None:
        """Forget the token of what is public; but an image of another collection is opened by any token."""
        if _collection_id_or_none(record) in (None, collection_id):
            self._forget_token(collection_id)

    def _forget_token(self, collection_id: int) -> None:
        self._tokens.pop(collection_id, None)
        self.made_public.add(collection_id)

    def _record(self, kind: _Kind, id_: int, key: str, token: str | None = None) -> Record:
        path = f"api/{kind}/{key}/"
        try:
            record = self._json(path)
        except TransientError as error:
            if error.status == 500 and self._renders_others(kind):
                raise RefusedError(
                    f"the server cannot render this record: HTTP 500 for api/{kind}/{id_}/",
                    status="broken_on_server",
                ) from error
            raise
        if not isinstance(record, dict) or _id_or_none(record) != id_:
            raise TransientError(f"api/{kind}/{id_}/ answered with something that is not that record")
        hidden: Record = _without(token, record)
        return hidden

    def _renders_others(self, kind: _Kind) -> bool:
        """Whether the server renders records at all: a 500 is about one record only where others come."""
        if time.monotonic() - self._well_at.get(kind, float("-inf")) < _PROBE_VALID_S:
            self._service.health.succeeded()
            return True
        for offset in _PROBES:
            try:
                self._page(f"api/{kind}/", offset, 1)
            except TransientError as error:
                if not _is_about_a_record(error):
                    return False
            else:
                self._well_at[kind] = time.monotonic()
                return True
        return False

    # Lists

    def _parts(self, collection_id: int, kind: str) -> Iterator[tuple[list[Record], ImageList]]:
        token = self._tokens.get(collection_id)
        begun = False
        try:
            for part in self._parts_by(token, collection_id, kind):
                begun = True
                yield part
        except RefusedError as error:
            if token is None or begun or error.status != "not_found":
                raise
            try:
                for part in self._parts_by(None, collection_id, kind):
                    self._forget_token(collection_id)
                    yield part
            except RefusedError:
                raise error from None

    def _parts_by(
        self, token: str | None, collection_id: int, kind: str
    ) -> Iterator[tuple[list[Record], ImageList]]:
        path = f"api/collections/{token or collection_id}/{kind}/"
        for _ in range(_PASSES):
            listing = ImageList()
            for page, whole in self._one_pass("images", path, listing):
                yield (page if token is None else [_without(token, record) for record in page]), whole
            if listing.complete:
                return

    def _one_pass(
        self, kind: _Kind, path: str, listing: ImageList, filters: Mapping[str, str | int] | None = None
    ) -> Iterator[tuple[list[Record], ImageList]]:
        place = _Place()
        former: list[Any] = []
        while True:
            if place.offset >= _LONGEST_LIST:
                raise TransientError(f"{path} lists {place.offset:,} records and more, which is taken for endless")
            started = time.monotonic()
            try:
                page = self._page(path, place.offset, place.limit, filters)
            except RefusedError:
                if place.is_behind(listing):
                    return  # the server says itself that there is nothing
                raise
            except TransientError as error:
                if place.try_again(error):
                    self._service.health.pause(place.pause_s(error))
                    continue
                if error.status == 500 and place.is_behind(listing):
                    return
                is_broken = _is_about_a_record(error) and place.is_suspect
                if not is_broken or not self._renders_others_of(kind, path, listing):
                    raise
                new = []
                listing.broken.append(place.offset + 1)
                place.skip_one()
            else:
                self._well_at[kind] = time.monotonic()
                known, broken = len(listing.ids), len(listing.broken)
                new = _read_page(page, place.offset, listing)
                # A server that ignores the offset repeats a page for ever, places without an id included.
                brings_broken = len(listing.broken) > broken and page["results"] != former
                is_new = len(listing.ids) > known or brings_broken
                former = page["results"]
                place.advance(page, is_new=is_new, seconds=time.monotonic() - started)
            yield new, listing
            # What does not move on ends the list whatever the count says: it may be wrong for ever.
            if place.stands_still or (place.is_behind(listing) and not place.hints_at_more):
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
        return {"count": count, "results": results, "next": page.get("next")}

    def _json(self, path: str, params: Mapping[str, str | int] | None = None, *, tries: int | None = None) -> Any:
        """Return an answer's JSON, asked for again while the trouble looks passing."""
        for attempt in self._service.attempts(tries):
            with attempt, self._service.get(path, params=params) as response:
                answer = _believable_json(self._service, response)
                return answer if self._original is None else self._as_the_original(self._original, answer)
        raise AssertionError("the last attempt returns or raises")

    def _as_the_original(self, root: str, answer: Any) -> Any:
        return _with_texts(answer, lambda text: _moved(text, self._service.root, root))


@dataclass
class _Place:
    """Where in a list to read next: large pages while they come, ever smaller ones around a broken record."""

    offset: int = 0
    limit: int = field(default_factory=lambda: FIRST_PAGE)
    stands_still: bool = False
    hints_at_more: bool = False  # whatever the count says, which may be too low
    _failures: int = 0  # in a row
    _alone: int = 0  # of these, with a page of one record
    _suspect_until: int = 0  # one record between the offset and here made a page fail

    def advance(self, page: Mapping[str, Any], *, is_new: bool, seconds: float) -> None:
        """Move on behind a page that came; one that brought nothing new is the last."""
        count = len(page["results"])
        self.stands_still = not is_new
        self.hints_at_more = bool(page["next"]) or count >= self.limit
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
        if _is_about_a_record(error):
            self._suspect_until = self.offset + self.limit
        self.limit = max(1, self.limit // 2)
        return True

    def is_behind(self, listing: ImageList) -> bool:
        """Whether as many were read as the server counts."""
        return bool(listing.counts) and self.offset >= listing.count

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
        self.hints_at_more = False
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
    listing.ids.update(new)
    return list(new.values())


def _without(token: str | None, value: Any) -> Any:
    """Return what the server gave with ``{token}`` in the place of a token, however deep it is."""
    return value if token is None else _with_texts(value, lambda text: text.replace(token, _http.TOKEN))


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return what the server gave with every text in it changed."""
    try:
        return _changed(value, change)
    except RecursionError as error:
        raise TransientError("the server answered with JSON that is nested too deeply") from error


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _changed(item, change) for key, item in value.items()}
    return value


def _moved(link: str, old: str, new: str) -> str:
    """Return a link below one root as it is below another; any other text as it is."""
    found = _start_of_links(old).match(link)
    return link if found is None else new + link[found.end() :]


@cache
def _start_of_links(root: str) -> re.Pattern[str]:
    parts = urlsplit(root)
    # A link may say http:// on an https site, and need not know of a path that a proxy has put before it.
    start = rf"https?://{re.escape(parts.netloc)}(?:{re.escape(parts.path)})?(?=/|$)"
    return re.compile(start, re.IGNORECASE)


def _collection_id_or_none(record: Record) -> int | None:
    try:
        return records.collection_id_of(record)
    except ValueError:
        return None


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
        message = f"HTTP {status} for {where}: {body[:200]!r}"
        raise RefusedError(message, status="failed", lasting=False, http_status=status)
    try:
        return records.parse_json(body)
    except ValueError as error:
        message = f"{service.name}: {where} answered with JSON that cannot be read: {error}"
        raise _http.UnreadableError(message) from error


def _is_about_a_record(error: TransientError) -> bool:
    """Whether a failure may be that of one record, which the server cannot render, or renders as no JSON."""
    return error.status == 500 or isinstance(error, _http.UnreadableError)
