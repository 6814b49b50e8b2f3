"""A server that writes whatever bytes a test wants, and as slowly: for answers that no real server would give."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import TYPE_CHECKING

from nvcatalog.demo.wire import read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nvcatalog.demo.wire import Request

    Script = Callable[[socket.socket, Request], None]


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.server.connections.append(self.connection)
        with contextlib.suppress(OSError):  # the client hung up, or the test is over
            while request := read_request(self.rfile):
                self.server.paths.append(request.path)
                self.server.script(self.connection, request)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.script = script
        self.connections: list[socket.socket] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def raw_server(script: Script) -> Iterator[_Server]:
    """Serve with a script that is called for each request, and writes to the client's socket what it likes."""
    server = _Server(script)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def always(answer: bytes) -> Script:
    """Return a script that gives the same bytes to everybody and hangs up."""

    def script(connection: socket.socket, request: Request) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    return script
