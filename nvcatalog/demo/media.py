"""Files as NeuroVault serves them: behind nginx with ranges and ETags, or in its other set-up without."""

from __future__ import annotations

import re
from dataclasses import replace
from email.utils import formatdate, parsedate_to_datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from nvcatalog.demo.wire import HTML_TYPE, Answer, Request, html_answer

if TYPE_CHECKING:
    from nvcatalog.demo.world import StoredFile, World

# A pack of NIDM results has its files beside the collection's page, and not under /media/.
_PACK_FILE = re.compile(r"/collections/(\d{1,18})/([^/]+\.nidm_?\d*)[./].+")
_MISSING = html_answer("Not Found", 404, "The requested resource was not found on this server.")
_PRIVATE = html_answer("403 Forbidden", 403)
# What Django's empty refusal looks like: the view of a pack that it does not know forbids.
_FORBIDDEN = Answer(403, b"", content_type=HTML_TYPE)
_OCTETS = "application/octet-stream"
_TYPES = {".xml": "application/xml", ".zip": "application/zip", ".ttl": "text/turtle", ".jpg": "image/jpeg"}


def media(world: World, request: Request, *, ranges: bool, etags: bool) -> Answer:
    """Return the answer to a request for a file."""
    path = _path_on_disk(world, request.path)
    if isinstance(path, Answer):
        return path
    stored = world.file_at(path)
    if stored is None:
        return _FORBIDDEN if _is_of_unknown_pack(world, path) else _MISSING
    if request.method not in ("GET", "HEAD"):
        return html_answer("Method Not Allowed", 405)
    kind = _TYPES.get(PurePosixPath(path).suffix, _OCTETS)
    answer = Answer(200, stored.read(), _headers(stored, path, ranges=ranges, etags=etags), kind)
    if _is_unchanged(request, stored, etags=etags):
        return _not_modified(answer, plain=ranges or etags)
    return _in_range(request, answer, stored, etags=etags) if ranges else answer


def _path_on_disk(world: World, path: str) -> str | Answer:
    """Return where a path's file is kept: a private collection's is reached by its token alone."""
    match = re.match(r"/(?:media/images|collections)/([^/]+)/", path)
    if match is None:
        return path
    folder = match[1]
    by_token = world.collection_of_token(folder)
    if by_token is not None:
        return path.replace(f"/{folder}/", f"/{by_token}/", 1)
    is_private = re.fullmatch(r"\d{1,18}", folder) and world.token(int(folder))
    return _PRIVATE if is_private else path


def _is_of_unknown_pack(world: World, path: str) -> bool:
    match = _PACK_FILE.fullmatch(path)
    if match is None or world.collection(int(match[1])) is None:
        return False
    packs = map(world.pack, world.pack_ids(int(match[1])))
    return all(pack is None or pack["name"] != match[2] for pack in packs)


def _headers(stored: StoredFile, path: str, *, ranges: bool, etags: bool) -> tuple[tuple[str, str], ...]:
    headers = [("Last-Modified", formatdate(stored.uploaded_at, usegmt=True))]
    if etags:
        headers.append(("ETag", stored.etag))
    if ranges:
        headers.append(("Accept-Ranges", "bytes"))
    if not ranges and not etags:
        # Django's development backend answers like this; the encoding is bogus.
        headers.append(("Content-Disposition", f'inline; filename="{path.rpartition("/")[2]}"'))
        headers.append(("Content-Encoding", "utf-8"))
    return tuple(headers)


def _is_unchanged(request: Request, stored: StoredFile, *, etags: bool) -> bool:
    if etags and (known := request.headers.get("if-none-match")):
        return known.strip() == "*" or stored.etag in known
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    return stored.uploaded_at <= parsedate_to_datetime(since).timestamp()


def _not_modified(answer: Answer, *, plain: bool) -> Answer:
    """Return a 304; Django's (not `plain`) announces the length of the file it does not send."""
    if plain:
        headers = tuple(item for item in answer.headers if item[0] != "Accept-Ranges")
        return replace(answer, status=304, body=b"", headers=headers, content_type=None)
    headers = tuple(item for item in answer.headers if item[0] == "Content-Encoding")
    return replace(answer, status=304, body=b"", headers=headers, content_length=len(answer.body))


def _in_range(request: Request, answer: Answer, stored: StoredFile, *, etags: bool) -> Answer:
    """Return the part asked for: 206, 416 past the end, and the whole file where the part makes no sense."""
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "").strip())
    if wanted is None or wanted[0] == "bytes=-" or not _if_range_holds(request, answer, stored, etags=etags):
        return answer
    size = len(answer.body)
    if wanted[1]:
        start, end = int(wanted[1]), min(int(wanted[2]) if wanted[2] else size, size - 1)
    else:
        start, end = max(0, size - int(wanted[2])), size - 1
    if start >= size or start > end:
        page = html_answer("416 Requested Range Not Satisfiable", 416)
        return replace(page, headers=(("Content-Range", f"bytes */{size}"),))
    headers = tuple(item for item in answer.headers if item[0] != "Accept-Ranges")
    headers += (("Content-Range", f"bytes {start}-{end}/{size}"),)
    return replace(answer, status=206, body=answer.body[start : end + 1], headers=headers)


def _if_range_holds(request: Request, answer: Answer, stored: StoredFile, *, etags: bool) -> bool:
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    last_modified = dict(answer.headers)["Last-Modified"]
    return condition == last_modified or (etags and condition == stored.etag)
