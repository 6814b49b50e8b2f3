"""What NeuroVault and Neurosynth answer: from a request and the world to an answer, without any socket.

The quirks are the real server's, as observed on an installation of its published code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from nvcatalog.demo.media import media
from nvcatalog.demo.shipped import Record
from nvcatalog.demo.wire import Answer, Request, html_answer, json_answer
from nvcatalog.demo.world import ATLAS, World

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000

_API_HEADERS = (
    ("Vary", "Accept-Encoding"),
    ("Vary", "Accept, Accept-Language, origin"),
    ("Allow", "GET, HEAD, OPTIONS"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
)
_LINKS = (
    "url", "file", "collection", "surface_left_file", "surface_right_file", "thumbnail", "download_url",
    "reduced_representation", "label_description_file", "nidm_results", "nidm_results_ttl",
    "zip_file", "ttl_file",
)  # fmt: skip
_FILTERS = ("DOI", "name", "owner")
_BAD_OWNER = "Select a valid choice. That choice is not one of the available choices."
# How many rows an unordered list shows twice, in place of as many others.
_LOST_ROWS = 3


@dataclass
class Settings:
    """How a server is set up; the two real configurations differ in these."""

    ranges: bool = True
    etags: bool = True
    honour_filters: bool = False
    ordered: bool = True
    reads: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One request with everything needed to answer it."""

    world: World
    settings: Settings
    request: Request


NOT_FOUND = json_answer({"detail": "Not found."}, 404, _API_HEADERS)
FORBIDDEN = json_answer({"detail": "You do not have permission to perform this action."}, 403, _API_HEADERS)
SERVER_ERROR = html_answer("Server Error (500)", 500)
NO_SUCH_PAGE = html_answer("Not Found", 404, "The requested resource was not found on this server.")


def neurovault(world: World, settings: Settings, request: Request) -> Answer:
    """Answer as neurovault.org does."""
    with world.lock:
        if request.path.startswith(("/media/", "/collections/")):
            return media(world, request, ranges=settings.ranges, etags=settings.etags)
        if not request.path.startswith("/api/"):
            return NO_SUCH_PAGE
        return _api(Call(world, settings, request))


def neurosynth(world: World, request: Request) -> Answer:
    """Answer as neurosynth.org's decoder does; its page for people is a title here."""
    if request.path == "/":
        return html_answer("Neurosynth", 200)
    if request.path == "/api/decode":
        return _redirect_to_slash(request)
    if request.path != "/api/decode/":
        return NO_SUCH_PAGE
    image_id = request.query.get("neurovault", "")
    if not image_id.isdecimal():
        return json_answer({"data": {}})
    status, answer = world.decode(int(image_id))
    return json_answer(_with_root(answer, request.root), status)


def _api(call: Call) -> Answer:
    for pattern, endpoint in _ENDPOINTS:
        if match := pattern.fullmatch(call.request.path):
            if not call.request.path.endswith("/"):
                return _redirect_to_slash(call.request)
            return _refusal(call.request) or _as_page_for_people(call.request, endpoint(call, *match.groups()))
    return NO_SUCH_PAGE


def _redirect_to_slash(request: Request) -> Answer:
    path, mark, query = request.target.partition("?")
    return Answer(301, b"", (("Location", f"{path}/{mark}{query}"),), "text/html; charset=utf-8")


def _refusal(request: Request) -> Answer | None:
    """Return the answer to a request refused whatever it asks for."""
    if "authorization" in request.headers:
        return _json({"detail": "Invalid token."}, 401, ("WWW-Authenticate", "Token"))
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        return _unauthenticated()
    if request.query.get("format") not in (None, "json", "api", ""):
        return NOT_FOUND
    accepted = request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in ("*/*", "application/*", "application/json", "text/html", "text/*")):
        return _json({"detail": "Could not satisfy the request Accept header."}, 406)
    return None


def _as_page_for_people(request: Request, answer: Answer) -> Answer:
    """Wrap JSON into the browsable page where the client prefers HTML, as web browsers do."""
    first = request.headers.get("accept", "*/*").split(",")[0].split(";")[0].strip()
    if first != "text/html" or answer.content_type != Answer.content_type:
        return answer
    page = html_answer("Django REST framework", answer.status, "<pre>")
    return replace(page, body=page.body + answer.body)


def _json(value: Any, status: int = 200, *headers: tuple[str, str]) -> Answer:
    return json_answer(value, status, (*_API_HEADERS, *headers))


def _unauthenticated(*_: Any) -> Answer:
    detail = {"detail": "Authentication credentials were not provided."}
    return _json(detail, 401, ("WWW-Authenticate", "Token"))


# Rendering


def _with_root(record: Any, root: str, token: str | None = None) -> Any:
    """Return a record whose links have the server's root and, in a private collection, its token."""
    if isinstance(record, list):
        return [_with_root(item, root, token) for item in record]
    if not isinstance(record, dict):
        return record
    rendered = dict(record)
    for key in _LINKS:
        link = rendered.get(key)
        if isinstance(link, str) and link.startswith("/"):
            rendered[key] = root + (_tokenised(link, record, token) if token else link)
    for key in ("statmaps", "data"):
        if isinstance(rendered.get(key), list | dict):
            rendered[key] = _with_root(rendered[key], root, token)
    return rendered


def _tokenised(link: str, record: Record, token: str) -> str:
    if link == f"/images/{record.get('id')}/":
        return f"/collections/{token}{link}"
    return re.sub(r"^/(collections|media/images)/\d+/", rf"/\1/{token}/", link)


def _render_collections(call: Call, ids: Sequence[int]) -> list[Record] | None:
    """Return the records, None when one of them cannot be rendered: then the whole page fails."""
    if call.world.is_poisoned(collection_ids=ids):
        return None
    records = call.world.collections(ids)
    return [_with_root(r, call.request.root, call.world.token(r["id"])) for r in records]


def _render_images(call: Call, ids: Sequence[int]) -> list[Record] | None:
    if call.world.is_poisoned(image_ids=ids):
        return None
    records = [record for record in map(call.world.image, ids) if record is not None]
    return [_with_root(r, call.request.root, call.world.token(r["collection_id"])) for r in records]


def _render_atlases(call: Call, ids: Sequence[int]) -> list[Record] | None:
    """Return atlases as their own list shows them: without ``image_type``."""
    records = _render_images(call, ids)
    return None if records is None else [{k: v for k, v in r.items() if k != "image_type"} for r in records]


def _render_packs(call: Call, ids: Sequence[int]) -> list[Record] | None:
    packs = [pack for pack in map(call.world.pack, ids) if pack is not None]
    if call.world.is_poisoned(image_ids=[image["id"] for pack in packs for image in pack["statmaps"]]):
        return None
    return [_with_root(pack, call.request.root, call.world.token(pack["collection"])) for pack in packs]


_Render = Callable[[Call, Sequence[int]], list[Record] | None]


# Paging


def _limit(query: dict[str, str]) -> int:
    """Silly limits are the default, large ones the maximum."""
    text = query.get("limit", "")
    return min(int(text), MAX_LIMIT) if text.isdecimal() and int(text) > 0 else DEFAULT_LIMIT


def _offset(query: dict[str, str]) -> int:
    text = query.get("offset", "")
    return int(text) if text.isdecimal() else 0


def _page(call: Call, ids: Sequence[int], render: _Render) -> Answer:
    limit, offset = _limit(call.request.query), _offset(call.request.query)
    results = render(call, ids[offset : offset + limit])
    if results is None:
        return SERVER_ERROR
    following = offset + limit if offset + limit < len(ids) else None
    page = {
        "count": len(ids),
        "next": None if following is None else _page_link(call.request, limit, following),
        "previous": None if offset == 0 else _page_link(call.request, limit, offset - limit),
        "results": results,
    }
    return _json(page)


def _page_link(request: Request, limit: int, offset: int) -> str:
    query = {key: value for key, value in request.query.items() if key != "offset"} | {"limit": str(limit)}
    if offset > 0:
        query["offset"] = str(offset)
    return f"{request.root}{request.path}?{urlencode(sorted(query.items()))}"


def _unordered(call: Call, ids: list[int], *, lossy: bool) -> list[int]:
    """Return ids as a database without ORDER BY gives them: in another order at each read.

    A lossy list read in several pages repeats its first rows in the middle and never shows those that belong
    there. The next read, which begins at offset 0, loses others.
    """
    path, offset = call.request.path, _offset(call.request.query)
    reads = call.settings.reads.get(path, -1) + (offset == 0)
    call.settings.reads[path] = reads
    turn = (5 + 7 * reads) % max(len(ids), 1)
    order = ids[turn:] + ids[:turn]
    if lossy and offset > 0:
        middle = max(len(order) // 2, _limit(call.request.query))
        order[middle : middle + _LOST_ROWS] = order[: len(order[middle : middle + _LOST_ROWS])]
    return order


# End points


def _root(call: Call) -> Answer:
    names = ("images", "atlases", "collections", "my_collections", "nidm_results")
    return _json({name: f"{call.request.root}/api/{name}/" for name in names})


def _collections(call: Call) -> Answer:
    ids = call.world.collection_ids()
    if call.settings.honour_filters:
        wanted = {key: value for key in _FILTERS if (value := call.request.query.get(key))}
        records = call.world.collections(ids)
        if "owner" in wanted and wanted["owner"] not in {str(r["owner"]) for r in records}:
            return _json({"owner": [_BAD_OWNER]}, 400)
        ids = [r["id"] for r in records if all(str(r.get(key)) == value for key, value in wanted.items())]
    if not call.settings.ordered:
        ids = _unordered(call, ids, lossy=True)
    return _page(call, ids, _render_collections)


def _all_images(call: Call) -> Answer:
    # The real list lost rows at limits of up to 50 and none at 100 or 1000.
    ids = _unordered(call, call.world.image_ids(), lossy=_limit(call.request.query) < DEFAULT_LIMIT)
    return _page(call, ids, _render_images)


def _all_atlases(call: Call) -> Answer:
    return _page(call, _atlases(call.world, None), _render_atlases)


def _all_packs(call: Call) -> Answer:
    return _page(call, call.world.pack_ids(), _render_packs)


def _atlases(world: World, collection_id: int | None) -> list[int]:
    images = [world.image(image_id) for image_id in world.image_ids(collection_id)]
    return [image["id"] for image in images if image is not None and image["image_type"] == ATLAS]


def _find_collection(call: Call, key: str) -> int | Answer:
    """Return the id of the collection a path names by id or token, or why there is none."""
    if re.fullmatch(r"[A-Z]{8}", key):
        by_token = call.world.collection_of_token(key)
        return NOT_FOUND if by_token is None else by_token
    if not re.fullmatch(r"-?\d+(\.\d+)?", key):
        return SERVER_ERROR  # the real server trips over int(key)
    if not key.isdecimal() or len(key) > 18 or call.world.collection(int(key)) is None:
        return NOT_FOUND
    return FORBIDDEN if call.world.token(int(key)) else int(key)


def _collection(call: Call, key: str) -> Answer:
    found = _find_collection(call, key)
    return found if isinstance(found, Answer) else _one(_render_collections(call, [found]))


def _collection_part(call: Call, key: str, part: str) -> Answer:
    found = _find_collection(call, key)
    if isinstance(found, Answer):
        return found
    if part == "images":
        return _page(call, call.world.image_ids(found), _render_images)
    if part == "atlases":
        return _page(call, _atlases(call.world, found), _render_atlases)
    if part == "nidm_results":
        return _page(call, call.world.pack_ids(found), _render_packs)
    return _datatable(_render_collections(call, [found]))


def _find_image(call: Call, token: str | None, key: str) -> int | Answer:
    record = call.world.image(int(key)) if key.isdecimal() and len(key) <= 18 else None
    if record is None:
        return NOT_FOUND
    needed = call.world.token(record["collection_id"])
    if needed is None or token == needed:  # a token before a public image's id is not looked at
        return int(key)
    return FORBIDDEN if token else NOT_FOUND


def _image(call: Call, token: str | None, key: str) -> Answer:
    found = _find_image(call, token, key)
    return found if isinstance(found, Answer) else _one(_render_images(call, [found]))


def _image_datatable(call: Call, token: str | None, key: str) -> Answer:
    found = _find_image(call, token, key)
    return found if isinstance(found, Answer) else _datatable(_render_images(call, [found]))


def _atlas(call: Call, key: str) -> Answer:
    found = _find_image(call, None, key)
    if isinstance(found, Answer):
        return found
    return _image(call, None, key) if found in _atlases(call.world, None) else NOT_FOUND


def _pack(call: Call, key: str) -> Answer:
    known = key.isdecimal() and int(key) in call.world.pack_ids()
    return _one(_render_packs(call, [int(key)])) if known else NOT_FOUND


def _one(records: list[Record] | None) -> Answer:
    return SERVER_ERROR if records is None else _json(records[0])


def _datatable(records: list[Record] | None) -> Answer:
    if records is None:
        return SERVER_ERROR
    return _json({"aaData": [[key, value] for key, value in records[0].items() if value]})


_ENDPOINTS: tuple[tuple[re.Pattern[str], Callable[..., Answer]], ...] = tuple(
    (re.compile(pattern + "/?"), endpoint)
    for pattern, endpoint in (
        (r"/api", _root),
        (r"/api/collections", _collections),
        (r"/api/images", _all_images),
        (r"/api/atlases", _all_atlases),
        (r"/api/nidm_results", _all_packs),
        (r"/api/(?:my_collections|user)", _unauthenticated),
        (r"/api/collections/([^/]+)", _collection),
        (r"/api/collections/([^/]+)/(images|atlases|nidm_results|datatable)", _collection_part),
        (r"/api/images/(?:([A-Z]{8})-)?([^/]+)", _image),
        (r"/api/images/(?:([A-Z]{8})-)?([^/]+)/datatable", _image_datatable),
        (r"/api/atlases/([^/]+)", _atlas),
        (r"/api/nidm_results/([^/]+)", _pack),
    )
)
