"""The connections to one server: each with a session of its own, and a place that other processes can ask for."""

from __future__ import annotations

import http.client
import http.cookiejar
import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from nvcatalog import __version__
from nvcatalog._locks import Slot, Slots, Wait
from nvcatalog.errors import InvalidOptionError

# How soon an idle connection learns that others wait for its place.
_LOOK_ROUND_S = 0.25


class Line:
    """One connection, kept alive from request to request.

    Parameters
    ----------
    session : requests.Session
        Its own, with all that requests need.
    slot : Slot or None
        Its place among those of all processes.
    """

    def __init__(self, session: requests.Session, slot: Slot | None) -> None:
        self.session = session
        self._slot = slot

    def sign(self) -> None:
        """Show the other processes that this connection is in use."""
        if self._slot:
            self._slot.sign()

    @property
    def is_due(self) -> bool:
        """Whether another process waits for the place of this one."""
        return self._slot is not None and self._slot.is_due

    def cut(self) -> None:
        """End what is under way on it: whoever waits for bytes learns that there are no more."""
        for adapter in self.session.adapters.values():
            if isinstance(adapter, _Adapter):
                adapter.cut()

    def close(self) -> None:
        """Close the connection, then leave its place."""
        self.session.close()
        if self._slot:
            self._slot.release()


class Lines:
    """The open connections to a server; how many there may be is for the caller, and the folder's slots, to say.

    Parameters
    ----------
    root : str
        The server.
    slots : Slots or None
        The places that all processes on a folder share; None where this one is alone.
    """

    def __init__(self, root: str, slots: Slots | None) -> None:
        self._root, self._slots = root, slots
        self._idle: list[Line] = []
        self._lent: dict[int, Line] = {}
        self._settings: dict[str, Any] | None = None
        self._change = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def one(self, wait: Wait) -> Iterator[Line]:
        """Lend a connection: one that is open and idle, else a new one as soon as there is a place for it.

        Parameters
        ----------
        wait : callable
            Sleeps for so many seconds, or raises.
        """
        with self._change:
            line = self._idle.pop() if self._idle else None
        if line is None:
            line = Line(self._session(), self._slots.take(wait) if self._slots else None)
        line.sign()
        self._lent[threading.get_ident()] = line
        try:
            yield line
        finally:
            del self._lent[threading.get_ident()]
            self._give_back(line)

    def sign(self) -> None:
        """Show the other processes that the connection lent to this thread is in use."""
        self._lent[threading.get_ident()].sign()

    def close(self) -> None:
        """Close those that are idle, and the others when they come back."""
        with self._change:
            self._closed = True
            idle, self._idle = self._idle, []
            self._change.notify_all()
        for line in idle:
            line.close()

    def cut(self) -> None:
        """End what is under way on those that are lent."""
        for line in list(self._lent.values()):
            line.cut()

    def _give_back(self, line: Line) -> None:
        keep = not line.is_due
        with self._change:
            keep = keep and not self._closed
            if keep:
                self._idle.append(line)
                self._watch()
        if not keep:
            line.close()

    def _watch(self) -> None:
        """See to it that nobody waits for a connection that idles here."""
        if self._slots and self._watcher is None:
            self._watcher = threading.Thread(target=self._look_round, name="nvcatalog-idle", daemon=True)
            self._watcher.start()

    def _look_round(self) -> None:
        while True:
            with self._change:
                self._change.wait(_LOOK_ROUND_S)
                if self._closed:
                    return
                due = [line for line in self._idle if line.is_due]
                self._idle = [line for line in self._idle if line not in due]
            for line in due:
                line.close()

    def _session(self) -> requests.Session:
        session = _Session()
        session.headers["User-Agent"] = _user_agent()
        session.headers["Accept-Encoding"] = "gzip"  # what we unpack ourselves, and no further than it may
        # The API needs no cookies, and a server could set more with each answer.
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        adapter = _Adapter(pool_maxsize=1, pool_block=True)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        with self._change:
            if self._settings is None:
                self._settings = _environment_settings(session, self._root)
        for name, value in self._settings.items():
            setattr(session, name, value)
        return session


def _environment_settings(session: requests.Session, root: str) -> dict[str, Any]:
    """Read proxies, certificates and netrc once: all requests go to one host, and requests reads them for each."""
    settings = session.merge_environment_settings(root, {}, None, None, None)
    auth = requests.utils.get_netrc_auth(root)
    bundle = settings["verify"]
    if root.startswith("https") and isinstance(bundle, str) and not Path(bundle).exists():
        raise InvalidOptionError(
            f"REQUESTS_CA_BUNDLE, or CURL_CA_BUNDLE, names certificates that are not there: {bundle}"
        )
    return {
        "proxies": settings["proxies"],
        "verify": settings["verify"],
        "cert": settings["cert"],
        "auth": auth,
        "trust_env": False,
    }


def _user_agent() -> str:
    contact = " ".join(os.environ.get("NVCATALOG_CONTACT", "").split())
    return f"nvcatalog/{__version__} (NeuroVault client; {contact or 'no contact given'})".encode(
        "ascii", "replace"
    ).decode()


class _Session(requests.Session):
    """A session that knows no redirects: even told not to follow one, requests reads its body and its link."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class _Arriving(io.RawIOBase):
    """The bytes of an answer, until a deadline: a socket's own timeout starts again with each byte."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.allow(float("inf"), "")

    def allow(self, seconds: float, what: str) -> None:
        """Give so much time to what comes next."""
        self._deadline, self._what = time.monotonic() + seconds, what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"{self._what} only drips")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose head, and each piece of whose body, must come in twice the time one waits for a byte."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout_s = sock.gettimeout()
        self._patience_s = 2 * timeout_s if timeout_s else float("inf")
        self._arriving = _Arriving(self.fp.detach())
        self._arriving.allow(self._patience_s, "the head of the answer")
        self.fp = io.BufferedReader(self._arriving)

    def read1(self, n: int = -1) -> bytes:
        # A piece of which only the length, or what may follow the last one, comes and comes would never be there.
        self._arriving.allow(self._patience_s, "the body of the answer")
        return super().read1(n)


class _Connection(HTTPConnection):
    response_class = _Answer


class _TlsConnection(HTTPSConnection):
    response_class = _Answer


class _Cut:
    """A pool that can end what is under way on its last connection, which it has lent and no longer knows."""

    _last: HTTPConnection | None = None

    def _new_conn(self) -> Any:
        self._last = super()._new_conn()  # type: ignore[misc]  # the pool's, which stands behind this one
        return self._last

    def cut(self) -> None:
        sock = self._last.sock if self._last else None
        if isinstance(sock, socket.socket):
            with suppress(OSError):  # it is closed already
                # Below TLS, whose state belongs to the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Pool(_Cut, HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(_Cut, HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """An adapter whose connections, through a proxy or not, wait for no head without end."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_our_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        _use_our_pools(manager)
        return manager

    def cut(self) -> None:
        """End what is under way."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over otherwise
                pool = manager.pools.get(key)
                if isinstance(pool, _Cut):
                    pool.cut()


def _use_our_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
