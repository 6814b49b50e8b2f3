"""HTTP as the demo server speaks it: read one request from a socket, write one answer back.

The standard library's request handler parses headers as e-mail, which costs more than all else the demo does
for a small answer, and it cannot be told to break an answer half-way. This module does just the part of
HTTP/1.1 the demo needs and leaves every byte of the answer under the control of a fault.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedIOBase

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"

# The end of a long body is sent after the answer counts as done, so that a client which starts its next
# request on the last byte is never counted twice.
_TAIL_BYTES = 16_384
# nginx leaves smaller bodies alone.
_GZIP_MIN_BYTES = 20


@dataclass(frozen=True)
class Request:
    """One request, taken apart."""

    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def root(self) -> str:
        """The server as the client called it; every link in an answer starts with it."""
        return f"http://{self.headers.get('host', '127.0.0.1')}"

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants to use the connection again."""
        return "close" not in self.headers.get("connection", "").lower()

    @property
    def accepts_gzip(self) -> bool:
        """Whether the client can read a gzipped answer."""
        return "gzip" in self.headers.get("accept-encoding", "").lower()


@dataclass(frozen=True)
class Answer:
    """What goes back, and how badly: a fault is a change to this value.

    Parameters
    ----------
    status
        The HTTP status.
    body
        The whole body, before gzip.
    headers
        Further headers in order; a name may occur twice.
    content_type
        The Content-Type, or None for none.
    content_length
        Announced in place of the real length.
    compress
        Whether the body may be gzipped for a client that accepts it.
    wait_s
        Seconds of silence before the first byte.
    stop_at
        The share of the body after which the connection is closed.
    stall_at
        The share of the body after which the server is silent for ``stall_s`` seconds.
    stall_s
        How long that silence lasts.
    reset
        Reset the connection in place of answering.
    """

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str | None = JSON_TYPE
    content_length: int | None = None
    compress: bool = False
    wait_s: float = 0.0
    stop_at: float | None = None
    stall_at: float | None = None
    stall_s: float = 0.0
    reset: bool = False


def json_answer(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Return `value` as the real servers write JSON: UTF-8 as it is, no spaces, gzipped on request."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return Answer(status=status, body=body, headers=headers, compress=True)


def html_answer(title: str, status: int, text: str = "") -> Answer:
    """Return a plain page, as Django shows for an error."""
    page = f'\n<!doctype html>\n<html lang="en">\n<head>\n  <title>{title}</title>\n</head>\n<body>\n'
    page += f"  <h1>{title}</h1><p>{text}</p>\n</body>\n</html>\n"
    return Answer(status=status, body=page.encode(), content_type=HTML_TYPE)


def read_request(stream: BufferedIOBase) -> Request | None:
    """Return the next request on a connection, None when the client has hung up."""
    line = stream.readline(65_537).decode("latin-1").strip()
    if not line:
        return None
    method, target, _version = line.split(" ", 2)
    headers = _read_headers(stream)
    stream.read(int(headers.get("content-length", "0")))  # an uploaded body is of no interest here
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, target, unquote(parts.path), query, headers)


def _read_headers(stream: BufferedIOBase) -> dict[str, str]:
    headers: dict[str, str] = {}
    while line := stream.readline(65_537).decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


@dataclass
class Sender:
    """Writes answers to one connection.

    Parameters
    ----------
    connection
        The client's socket.
    pause
        Sleeps for some seconds, less when the server is being closed.
    done
        Called once an answer is all but sent.
    """

    connection: socket.socket
    pause: Callable[[float], object]
    done: Callable[[], None] = field(default=lambda: None)

    def send(self, request: Request, answer: Answer) -> bool:
        """Send one answer and return whether the connection can be used again."""
        self.pause(answer.wait_s)
        if answer.reset:
            self.done()
            reset(self.connection)
            return False
        answer, chunked = _encode(request, answer)
        keep = request.keep_alive and answer.stop_at is None and _length_is_right(answer)
        head = _head(answer, keep=keep, chunked=chunked)
        if request.method == "HEAD" or answer.status == HTTPStatus.NOT_MODIFIED:
            self._finish(head)
            return keep
        body = _as_chunk(answer.body) if chunked else answer.body
        self._send_body(head, body, answer)
        return keep

    def _send_body(self, head: bytes, body: bytes, answer: Answer) -> None:
        view = memoryview(body)
        if answer.stop_at is not None:
            view = view[: int(len(body) * answer.stop_at)]
        if answer.stall_at is not None:
            middle = int(len(body) * answer.stall_at)
            self.connection.sendall(head + view[:middle])
            self.pause(answer.stall_s)
            head, view = b"", view[middle:]
        if len(view) > 2 * _TAIL_BYTES:
            self.connection.sendall(head)
            self.connection.sendall(view[:-_TAIL_BYTES])
            head, view = b"", view[-_TAIL_BYTES:]
        self._finish(head + view)

    def _finish(self, data: bytes) -> None:
        self.done()
        self.connection.sendall(data)


def reset(connection: socket.socket) -> None:
    """Close a connection with a TCP reset, as a crashing proxy does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _encode(request: Request, answer: Answer) -> tuple[Answer, bool]:
    """Gzip the body where client and answer allow it; nginx then sends it in chunks, without a length."""
    small = len(answer.body) < _GZIP_MIN_BYTES
    if not (answer.compress and request.accepts_gzip) or small or answer.content_length is not None:
        return answer, False
    body = gzip.compress(answer.body, compresslevel=1, mtime=0)
    return replace(answer, body=body, headers=(*answer.headers, ("Content-Encoding", "gzip"))), True


def _as_chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _length_is_right(answer: Answer) -> bool:
    without_body = answer.status == HTTPStatus.NOT_MODIFIED
    return without_body or answer.content_length in (None, len(answer.body))


def _head(answer: Answer, *, keep: bool, chunked: bool) -> bytes:
    length = len(answer.body) if answer.content_length is None else answer.content_length
    lines = [f"HTTP/1.1 {answer.status} {_reason(answer.status)}", "Server: nvcatalog-demo"]
    lines.append(f"Date: {formatdate(usegmt=True)}")
    if answer.content_type is not None:
        lines.append(f"Content-Type: {answer.content_type}")
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    elif answer.status != HTTPStatus.NOT_MODIFIED or answer.content_length is not None:
        lines.append(f"Content-Length: {length}")
    lines.append(f"Connection: {'keep-alive' if keep else 'close'}")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
