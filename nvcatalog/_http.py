"""The only network code: polite, pooled requests to one server, with back-off and a sense of when to stop."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError, NewConnectionError

from nvcatalog._connections import Lines
from nvcatalog._locks import Pause, Slots
from nvcatalog._progress import WAIT_TOLD_AFTER_S, logger, waiting_for
from nvcatalog.errors import (
    HostGivenUpError,
    InvalidOptionError,
    NotTheAPIError,
    RefusedError,
    ServerError,
    TransientError,
)

#: Tries of one request before it counts as failed, and the first pause between two.
TRIES = 4
BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
#: A server that asks for a longer pause than this is left alone for the rest of the call.
LONGEST_RETRY_AFTER_S = 120.0
# Nor is one waited for that asks for pause after pause, and gives nothing in between.
_LONGEST_PAUSES_S = 600.0
#: A page of 1,000 records is some 3 MB. An answer in JSON must not fill the memory, where it may take 25 times as
#: much as it is long.
LARGEST_JSON = 32 * 1024 * 1024
#: What stands in records and messages where a private collection's token does in links.
TOKEN = "{token}"  # noqa: S105 - the very thing that is no token
_CHUNK = 1 << 18
# A body that brings less than this in the time one would wait for silence to end only drips, and never ends.
_LEAST_BYTES = 1024
# An answer in JSON must be whole in so many times the time one would wait for a byte of it.
_JSON_TIMEOUTS = 10
_REDIRECTS = 5
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_PLAIN = frozenset({"", "identity", "utf-8"})  # the last is Django's slip, and says nothing
_GZIPPED = frozenset({"gzip", "x-gzip"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


class UnfitAnswerError(TransientError):
    """Raised when a whole answer is not what was asked for: worth another try, but no sign of a sick server."""


class UnreadableError(TransientError):
    """Raised when what came is no JSON, or too much of it: for one record perhaps, while others can be read."""


class _ChallengeError(NotTheAPIError):
    """Raised for a page that asks whether one is human: no further request will be answered otherwise."""


@dataclass(frozen=True)
class Limits:
    """When a server is given up for the rest of a call."""

    transient_in_a_row: int = 100
    connects_without_success: int = 3
    not_the_api_in_a_row: int = 3


def root_from_environment(variable: str, default: str) -> str:
    """Return a server's root without a trailing slash, from the environment or its well-known place."""
    root = (os.environ.get(variable, "").strip() or default).rstrip("/")
    if "@" in root:
        # Messages, logs and the user's own scripts show a root; the password must not be in it, nor in this one.
        raise InvalidOptionError(f"{variable} holds credentials; put them into ~/.netrc, and give {default} alike")
    if _host(root) is None or "?" in root or "#" in root:
        raise InvalidOptionError(f"{variable} is {root!r}; give a server's root, such as {default}")
    return root


class Service:
    """One server, as one call uses it: its connections, its health, and the pauses it asked for.

    Parameters
    ----------
    name : str
        What messages call it.
    root : str
        The URL its paths hang from.
    connections : int
        How many connections are kept open at most.
    timeout_s : float
        How long to wait for a connection, and for the next byte of an answer.
    health : Health, optional
        Shared by the services that lead to one server.
    log_requests : bool
        Whether each request is logged.
    slots : Slots, optional
        The places for connections that all processes on a folder share; by default this one is alone.
    """

    def __init__(
        self,
        name: str,
        root: str,
        *,
        connections: int,
        timeout_s: float,
        health: Health | None = None,
        log_requests: bool = False,
        slots: Slots | None = None,
    ) -> None:
        self.name = name
        self.root = root
        self._secrets: set[str] = set()
        self.health = health or Health(name)
        self._timeout_s = timeout_s
        self._silence = f"{root} (no answer for {WAIT_TOLD_AFTER_S:g} s)"
        self._log_requests = log_requests
        # Held from the check of the server's health to the end of its answer: whoever waits for a connection
        # then learns first that there will be none.
        self._limit = threading.BoundedSemaphore(connections)
        self._lines = Lines(root, slots)

    def close(self) -> None:
        """Close the connections."""
        self._lines.close()

    def interrupt(self) -> None:
        """Let no further request through, and end those under way, however silent the server is."""
        self.health.interrupt()
        self._lines.cut()

    def keep_secret(self, token: str) -> None:
        """Let a token be part of requests, and of no message and no log."""
        self._secrets.add(token)
        _hidden.secrets.add(token)
        _URLLIB3_LOG.addFilter(_hidden)  # once, however often

    def attempts(self, tries: int | None = None) -> Iterator[Attempt]:
        """Yield attempts until one succeeds: ``for attempt in service.attempts(): with attempt: …``.

        Raises
        ------
        TransientError
            What went wrong in the last attempt.
        HostGivenUpError
            When the server has been given up.
        """
        tries = tries or TRIES
        for number in range(1, tries + 1):
            attempt = Attempt(self.health, is_last=number == tries)
            yield attempt
            if attempt.error is None:
                return
            self.health.pause(pause_s(number, attempt.error))

    @contextmanager
    def get(
        self,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        """Ask once and yield the answer with its body unread; its status is the caller's to judge."""
        # Put together by hand: urljoin would follow a path such as "https://elsewhere/x" there.
        url = f"{self.root}/{path.lstrip('/')}"
        try:
            with self._answer(url, params, headers) as response:
                yield response
        except ServerError as error:
            error.reword(partial(hide, secrets=self._secrets))
            raise

    @contextmanager
    def _answer(
        self, url: str, params: Mapping[str, str | int] | None, headers: Mapping[str, str] | None
    ) -> Iterator[requests.Response]:
        """Ask, and follow redirects on the same host."""
        with self._limit, self._lines.one(self.health.pause) as line:
            for _ in range(_REDIRECTS + 1):
                self.health.check()
                self.health.count_request()
                started = time.monotonic()
                with self._once(line.session, url, params, headers) as response:
                    if self._log_requests:
                        waited_s = time.monotonic() - started
                        shown = hide(response.url, self._secrets)
                        logger.info("GET %s: %d (%.2f s)", shown, response.status_code, waited_s)
                    if not response.is_redirect:
                        yield response
                        return
                    _read_rest(response)
                    url, params = self._target(response), None
        raise RefusedError(f"{url} redirects without end", status="failed", lasting=False)

    def chunks(self, response: requests.Response) -> Iterator[bytes]:
        """Yield a body as it arrives, byte for byte as sent, whatever its ``Content-Encoding`` says.

        Raises
        ------
        TransientError
            When it only drips.
        HostGivenUpError
            When the call has been interrupted.
        """
        arrived, waited_s = 0, 0.0
        while True:
            started = time.monotonic()
            with waiting_for(self._silence):
                chunk: bytes = response.raw.read1(_CHUNK, decode_content=False)
            waited_s += time.monotonic() - started
            if not chunk:
                return
            if self.health.interrupted:
                raise HostGivenUpError(f"{self.name}: interrupted")
            self._lines.sign()
            arrived += len(chunk)
            if arrived >= _LEAST_BYTES:
                arrived, waited_s = 0, 0.0
            elif waited_s >= self._timeout_s:
                raise TransientError(f"{self.name}: only {arrived} bytes came in {waited_s:.0f} s")
            yield chunk

    def json_body(self, response: requests.Response, *, largest: int | None = None) -> bytes:
        """Return the body of an answer that says it is the API's JSON, whatever its status.

        Parameters
        ----------
        response : requests.Response
            The answer, its body unread.
        largest : int, optional
            How many bytes it may have, packed or not; by default :data:`LARGEST_JSON`.

        Raises
        ------
        TransientError
            When it is a web page, larger than any answer should be, or does not come to its end in time;
            ``NotTheAPIError`` for one that forbids.
        """
        raise_if_transient(response, self.name)
        status, where = response.status_code, urlsplit(response.url).path
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            error = NotTheAPIError if status == 403 else TransientError
            raise error(f"{self.name}: HTTP {status} for {where} with a page instead of JSON", status=status)
        self.health.heard_the_api()
        try:
            return self._whole_body(response, _Body(response, LARGEST_JSON if largest is None else largest))
        except _NoBodyError as error:
            wrong = UnreadableError if isinstance(error, _TooLargeError) else TransientError
            raise wrong(f"{self.name}: {where} answered with {error}") from error

    def _whole_body(self, response: requests.Response, body: _Body) -> bytes:
        started, patience_s = time.monotonic(), _JSON_TIMEOUTS * self._timeout_s
        for chunk in self.chunks(response):
            body.take(chunk)
            if time.monotonic() - started > patience_s:
                raise _NoBodyError(f"only {body.arrived:,} bytes in {patience_s:g} s")
        return body.whole()

    @contextmanager
    def _once(
        self,
        session: requests.Session,
        url: str,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
    ) -> Iterator[requests.Response]:
        try:
            with waiting_for(self._silence):
                answer = session.get(
                    url,
                    params=params,
                    headers=headers,
                    stream=True,
                    timeout=self._timeout_s,
                    allow_redirects=False,
                )
            with answer as response:
                try:
                    yield response
                except ServerError:
                    _read_rest(response)
                    raise
        except requests.ConnectionError as error:
            # A connection that was never made says more about the server than one that broke.
            reason = f"{_host(self.root)}: {_plain(error)}"
            self.health.connect_failed(reason, never_connected=_never_connected(error))
            raise TransientError(f"{self.name}: {_plain(error)}") from error
        except (requests.RequestException, HTTPError) as error:
            raise TransientError(f"{self.name}: {_plain(error)}") from error

    def _target(self, response: requests.Response) -> str:
        """Return where an answer redirects to: a place on the same host."""
        location = response.headers["Location"]
        target = _joined(response.url, location)
        if target is None or not same_host(target, self.root):
            message = f"{response.url} redirects to another host ({location}), which is not followed"
            raise RefusedError(message, status="failed", lasting=False)
        here, there = urlsplit(response.url), urlsplit(target)
        if (here.scheme, there.scheme) == ("https", "http"):
            # The server's mistake about itself, never a reason to leave TLS.
            there = there._replace(scheme=here.scheme, netloc=here.netloc)
        return there.geturl()


class _NoBodyError(Exception):
    """Says what came instead of a body."""


class _TooLargeError(_NoBodyError):
    """Says that it is too large."""


class _Body:
    """The body of an answer as it arrives, unpacked; neither as it comes nor unpacked may it be too large."""

    def __init__(self, response: requests.Response, largest: int) -> None:
        self.arrived = 0
        self._content = bytearray()
        self._largest = largest
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _PLAIN | _GZIPPED:
            raise _NoBodyError(f"something packed in a way that was not asked for: {encoding}")
        self._gzip = zlib.decompressobj(wbits=31) if encoding in _GZIPPED else None
        length = response.headers.get("Content-Length", "")
        self._check(int(length[:19]) if length.isdecimal() else 0)

    def take(self, chunk: bytes) -> None:
        """Take what has arrived."""
        self.arrived += len(chunk)
        try:
            unpacked = self._gzip.decompress(chunk, self._largest + 1) if self._gzip else chunk
        except zlib.error as error:
            raise _NoBodyError(f"gzip that cannot be unpacked ({error})") from error
        self._content += unpacked
        self._check(max(self.arrived, len(self._content)))

    def _check(self, size: int) -> None:
        if size > self._largest:
            raise _TooLargeError(f"more than {self._largest:,} bytes")

    def whole(self) -> bytes:
        """Return the content, once all has arrived."""
        if self._gzip and not self._gzip.eof:
            raise _NoBodyError("gzip that is cut off")
        return bytes(self._content)


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return a text with ``{token}`` in the place of each secret."""
    for secret in secrets:
        text = text.replace(secret, TOKEN)
    return text


class _Hidden(logging.Filter):
    """Keeps tokens out of what urllib3 logs of every request, for those who look at that."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if self.secrets:
            record.msg, record.args = hide(record.getMessage(), self.secrets), ()
        return True


_hidden = _Hidden()
_URLLIB3_LOG = logging.getLogger("urllib3.connectionpool")


class Attempt:
    """One try of a request: transient trouble inside its block is remembered, everything else passes through."""

    def __init__(self, health: Health, *, is_last: bool) -> None:
        self.error: TransientError | None = None
        self._health = health
        self._is_last = is_last

    def __enter__(self) -> None:
        self._health.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, TransientError):
            self.error = error
            self._health.failed(error)
            return not self._is_last
        if error is None or isinstance(error, RefusedError):
            self._health.succeeded()
        return False


class Health:
    """Whether a server still answers, shared by all workers of a call; once given up it stays so.

    A pause that it asked for is shared by all processes on a folder, where there is a ``pause``.
    """

    def __init__(self, name: str, limits: Limits | None = None, *, pause: Pause | None = None) -> None:
        self.given_up: str | None = None
        self.blocked = False
        self.interrupted = False
        self.any_success = False
        self.requests = 0
        self._name = name
        self._pause = pause
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._transient = self._connects = self._not_the_api = 0
        self._resume_at = self._paused_s = 0.0  # when a pause is over; how long all were since the last success

    def check(self) -> None:
        """Wait out a pause the server asked for; raise when it has been given up."""
        shared_s = self._pause.left_s if self._pause else 0.0
        with waiting_for(f"{self._name}, which asked for a pause"):
            self.pause(max(shared_s, self._resume_at - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """Sleep, but wake at once when the server is given up."""
        if seconds > 0:
            self._stopped.wait(seconds)
        if self.given_up:
            raise HostGivenUpError(self.given_up)

    def interrupt(self) -> None:
        """Let no further request through; an answer under way ends with its next bytes."""
        self.interrupted = True
        self._give_up("interrupted", blocked=False)

    @property
    def asked(self) -> bool:
        """Whether any request went out."""
        return self.requests > 0

    def count_request(self) -> None:
        """Count a request that goes out, whatever becomes of it."""
        with self._lock:
            self.requests += 1

    def succeeded(self) -> None:
        """Count an answer, a refusal of one id included: the server is well."""
        with self._lock:
            self.any_success = True
            self._transient = 0
            self._paused_s = 0.0

    def heard_the_api(self) -> None:
        """Note an answer that only the API itself can have given, and no firewall in its place."""
        with self._lock:
            self._not_the_api = 0

    def connect_failed(self, reason: str, *, never_connected: bool) -> None:
        """Count a connection that could not be made."""
        with self._lock:
            self._connects += never_connected
            hopeless = not self.any_success and self._connects >= self._limits.connects_without_success
        if hopeless:
            self._stop(f"no connection in {self._limits.connects_without_success} tries ({reason})")

    def failed(self, error: TransientError) -> None:
        """Count a transient failure, and decide whether it is one too many."""
        if isinstance(error, UnfitAnswerError):
            self.succeeded()
            return
        with self._lock:
            self._transient += 1
            self._not_the_api += isinstance(error, NotTheAPIError)
            transient, not_the_api = self._transient, self._not_the_api
            if error.retry_after_s:
                now = time.monotonic()
                former, self._resume_at = self._resume_at, max(self._resume_at, now + error.retry_after_s)
                self._paused_s += self._resume_at - max(former, now)
            paused_s = self._paused_s
        asked_s = error.retry_after_s or 0.0
        if (
            self._pause and 0 < asked_s <= LONGEST_RETRY_AFTER_S
        ):  # who is asked for more gives up, and waits for nothing
            self._pause.ask(asked_s)
        if asked_s > LONGEST_RETRY_AFTER_S:
            self._stop(f"it asked for a pause of {asked_s:.0f} s ({error})")
        elif paused_s > _LONGEST_PAUSES_S:
            self._stop(f"it asked for pauses of {paused_s:.0f} s and gave nothing ({error})")
        elif isinstance(error, _ChallengeError) or not_the_api >= self._limits.not_the_api_in_a_row:
            self._stop(f"something else answers in its place ({error})", blocked=True)
        elif transient >= self._limits.transient_in_a_row:
            self._stop(f"{transient} failures in a row, the last one: {error}")

    def _stop(self, reason: str, *, blocked: bool = False) -> None:
        if self._give_up(reason, blocked=blocked):
            logger.info("Giving up %s", self.given_up)  # what it costs is in the report, and warned of

    def _give_up(self, reason: str, *, blocked: bool) -> bool:
        """Give the server up for the rest of the call; the first reason stays."""
        with self._lock:
            is_first = self.given_up is None
            if is_first:
                self.given_up, self.blocked = f"{self._name}: {reason}", blocked
        self._stopped.set()
        return is_first


def pause_s(number: int, error: TransientError) -> float:
    """Return how long to wait after the try with this number, jittered lest many clients come back at once."""
    backoff: float = min(BACKOFF_S * 2 ** (number - 1), _LONGEST_BACKOFF_S) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
    return max(error.retry_after_s or 0.0, backoff)


def raise_if_transient(response: requests.Response, name: str) -> None:
    """Raise for an answer that may be right next time, and for one that is a firewall's."""
    status = response.status_code
    message = f"{name}: HTTP {status} for {response.url}"
    if response.headers.get("cf-mitigated") == "challenge":
        raise _ChallengeError(f"{message}: a challenge page", status=status)
    if status in _TRANSIENT:
        raise TransientError(message, status=status, retry_after_s=_retry_after_s(response))


def same_host(url: str, root: str) -> bool:
    """Whether a link leads to the host (and port) of ``root``, whatever its scheme says."""
    host = _host(url)
    return host is not None and host == _host(root)


def _host(url: str) -> str | None:
    """Return a link's host, with its port unless that is the scheme's own; None where it leads to no server."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    is_usual = port == _DEFAULT_PORTS[parts.scheme]
    return parts.netloc.lower().removesuffix(f":{port}") if is_usual else parts.netloc.lower()


def _joined(url: str, location: str) -> str | None:
    try:
        return urljoin(url, location)
    except ValueError:
        return None  # no link at all


def _retry_after_s(response: requests.Response) -> float | None:
    """Read ``Retry-After``: seconds, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None  # a header we cannot read asks for nothing; back-off still applies


def _read_rest(response: requests.Response) -> None:
    """Read the little that is left of an error's page: a connection with unread bytes serves no next request."""
    with suppress(HTTPError):  # the answer has been judged already
        for _ in range(4):
            if not response.raw.read1(1 << 14, decode_content=False):
                return


def _never_connected(error: requests.ConnectionError) -> bool:
    if isinstance(error, (requests.ConnectTimeout, requests.exceptions.ProxyError, requests.exceptions.SSLError)):
        return True
    return isinstance(getattr(error.args[0] if error.args else None, "reason", None), NewConnectionError)


def _plain(error: Exception) -> str:
    """Return what went wrong in words, without the plumbing of three libraries around it."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__ or (cause.args and isinstance(cause.args[0], BaseException)):
        inner = cause.args[0] if cause.args and isinstance(cause.args[0], BaseException) else None
        cause = inner or cause.__cause__ or cause.__context__ or cause
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"{type(error).__name__}: {reason}"
