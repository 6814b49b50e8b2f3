"""A local NeuroVault and Neurosynth over real HTTP, healthy or as broken as a test wants it.

`DemoServer` is what `nvcatalog demo` shows the package with, and the tests' double for both sites.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self

from nvcatalog.demo.api import Settings, neurosynth, neurovault
from nvcatalog.demo.wire import Answer, Request, Sender, read_request
from nvcatalog.demo.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from nvcatalog.demo.faults import Fault


@dataclass(frozen=True)
class Hit:
    """One request the server got.

    Parameters
    ----------
    method, path, query, headers
        The request; header names are in lower case.
    status
        The status answered, 0 where the connection was reset.
    time
        When it came, by `time.monotonic`.
    service
        ``neurovault`` or ``neurosynth``.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int
    time: float
    service: str


@dataclass(eq=False)
class ActiveFault:
    """A fault in force; `remove` ends it."""

    pattern: str
    fault: Fault
    times: int | None
    after: int
    query: dict[str, str]
    server: DemoServer

    def remove(self) -> None:
        """Let the server answer well again; removing it twice is fine."""
        with self.server.lock, contextlib.suppress(ValueError):
            self.server.faults.remove(self)

    def matches(self, request: Request) -> bool:
        """Return whether a request is one this fault is about."""
        same_query = all(request.query.get(key) == value for key, value in self.query.items())
        return same_query and fnmatchcase(request.path, self.pattern)

    def strikes(self) -> bool:
        """Return whether a matching request is hit, and count it."""
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            if self.times == 0:
                return False
            self.times -= 1
        return True


class DemoServer:
    """A NeuroVault and a Neurosynth on two free ports of this machine.

    Parameters
    ----------
    world
        What is served; the shipped records by default.
    latency_s
        Seconds before the first byte of each answer.
    ranges, etags
        Whether files can be fetched in parts, and carry an ETag. Both sites exist.
    honour_filters
        Whether ``DOI``, ``name`` and ``owner`` filter the list of collections, or are ignored.
    ordered
        Whether the list of collections is in order, or shuffled and missing rows when paged.
    port
        NeuroVault's port, Neurosynth's is the next one; two free ports by default.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        latency_s: float = 0.0,
        ranges: bool = True,
        etags: bool = True,
        honour_filters: bool = False,
        ordered: bool = True,
        port: int = 0,
    ) -> None:
        self.world = World.demo() if world is None else world
        self.latency_s = latency_s
        self.settings = Settings(ranges=ranges, etags=etags, honour_filters=honour_filters, ordered=ordered)
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.faults: list[ActiveFault] = []
        self.log: list[Hit] = []
        self.errors: list[Exception] = []
        self.peak_connections: Counter[str] = Counter()
        self.connections_opened = 0
        self._answering: Counter[str] = Counter()
        self._open: set[socket.socket] = set()
        self._ports = (port, port + 1 if port else 0)
        self._listeners: list[_Listener] = []

    # Its life

    def start(self) -> Self:
        """Begin to listen and to answer."""
        self.stopping.clear()
        for service, port in zip(("neurovault", "neurosynth"), self._ports, strict=True):
            listener = _Listener(self, service, port)
            self._listeners.append(listener)
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def close(self) -> None:
        """Stop listening and hang up on every client."""
        self.stopping.set()
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()
        self._listeners.clear()
        with self.lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, and raise what went wrong in here without having been ordered."""
        self.close()
        if self.errors and error is None:
            raise self.errors[0]

    # Where it is

    @property
    def neurovault_url(self) -> str:
        """The root of the local NeuroVault."""
        return self._listeners[0].root

    @property
    def neurosynth_url(self) -> str:
        """The root of the local Neurosynth."""
        return self._listeners[1].root

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send nvcatalog here."""
        return {
            "NVCATALOG_NEUROVAULT_URL": self.neurovault_url,
            "NVCATALOG_NEUROSYNTH_URL": self.neurosynth_url,
        }

    # What it was asked

    @property
    def requests(self) -> int:
        """How many requests came so far, to both services."""
        return len(self.log)

    def hits(self, pattern: str) -> list[Hit]:
        """Return the requests whose path matches, such as ``/media/*`` or ``/api/decode*``."""
        with self.lock:
            return [hit for hit in self.log if fnmatchcase(hit.path, pattern)]

    def reset_log(self) -> None:
        """Forget the requests and the peaks so far."""
        with self.lock:
            self.log.clear()
            self.peak_connections.clear()
            self.connections_opened = len(self._open)

    # What it does wrong

    def fail(
        self,
        pattern: str,
        fault: Fault,
        *,
        times: int | None = None,
        after: int = 0,
        query: dict[str, object] | None = None,
    ) -> ActiveFault:
        """Misbehave for requests whose path matches.

        Where several faults would strike one request the one ordered first does; so two with ``times`` follow
        each other. `faults.together` makes one fault of several.

        Parameters
        ----------
        pattern
            A pattern of `fnmatch` for the path, such as ``/media/*``.
        fault
            What happens instead, from `nvcatalog.demo.faults`.
        times
            How many requests it strikes; all by default.
        after
            How many matching requests it lets pass first.
        query
            Items of the query that must be there too.
        """
        items = {key: str(value) for key, value in (query or {}).items()}
        active = ActiveFault(pattern, fault, times, after, items, self)
        with self.lock:
            self.faults.append(active)
        return active

    def heal(self) -> None:
        """Answer well again."""
        with self.lock:
            self.faults.clear()

    # Answering, for the listeners

    def answer(self, service: str, request: Request) -> Answer:
        """Return the answer to a request, bad where a fault strikes, and note both."""
        came = time.monotonic()
        if service == "neurovault":
            answer = neurovault(self.world, self.settings, request)
        else:
            answer = neurosynth(self.world, request)
        with self.lock:
            struck = next((f for f in self.faults if f.matches(request) and f.strikes()), None)
            if struck is not None:
                answer = struck.fault.change(answer)
            status = 0 if answer.reset else answer.status
            self.log.append(
                Hit(request.method, request.path, request.query, request.headers, status, came, service)
            )
        return answer

    @contextlib.contextmanager
    def connected(self, connection: socket.socket) -> Iterator[None]:
        """Know a client's connection for as long as it is open."""
        with self.lock:
            self._open.add(connection)
            self.connections_opened += 1
        try:
            yield
        finally:
            with self.lock:
                self._open.discard(connection)

    def count(self, names: tuple[str, ...], change: int) -> None:
        """Count an answer as being given (1) or as given (-1)."""
        with self.lock:
            for name in names:
                self._answering[name] += change
                self.peak_connections[name] = max(self.peak_connections[name], self._answering[name])


class _Listener(socketserver.ThreadingTCPServer):
    """One of the two ports."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, demo: DemoServer, service: str, port: int) -> None:
        self.demo, self.service = demo, service
        super().__init__(("127.0.0.1", port), _Connection)
        self.root = f"http://127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.StreamRequestHandler):
    """One client's connection, on a thread of its own."""

    disable_nagle_algorithm = True
    server: _Listener

    def handle(self) -> None:
        demo = self.server.demo
        with demo.connected(self.connection), contextlib.suppress(OSError):  # clients hang up as they like
            while not demo.stopping.is_set() and self._answer_one(demo):
                pass

    def _answer_one(self, demo: DemoServer) -> bool:
        request = read_request(self.rfile)
        if request is None:
            return False
        counted = _Counted(demo, _names(self.server.service, request))
        try:
            answer = self._answer(demo, request)
            return Sender(self.connection, demo.stopping.wait, counted.end).send(request, answer)
        finally:
            counted.end()

    def _answer(self, demo: DemoServer, request: Request) -> Answer:
        try:
            answer = demo.answer(self.server.service, request)
        except Exception as error:
            demo.errors.append(error)
            raise
        if demo.latency_s:
            demo.stopping.wait(demo.latency_s)
        return answer

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()


class _Counted:
    """One answer, counted from now until its end is sent or cannot be."""

    def __init__(self, demo: DemoServer, names: tuple[str, ...]) -> None:
        self.demo, self.names, self.ended = demo, names, False
        demo.count(names, 1)

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.demo.count(self.names, -1)


def _names(service: str, request: Request) -> tuple[str, ...]:
    """Return under which names a request counts towards the peaks."""
    if service == "neurosynth":
        return (service,)
    return (service, "media" if request.path.startswith("/media/") else "api")
