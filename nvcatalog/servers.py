"""The connections of one call, to NeuroVault and Neurosynth: opened by its requests, closed together."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from nvcatalog import client, neurosynth
from nvcatalog._http import LONGEST_RETRY_AFTER_S, Health, Service, root_from_environment, same_host
from nvcatalog._locks import Pause, Slots
from nvcatalog._progress import REQUESTS, telling_of_waits
from nvcatalog.errors import WrongServerError


def check_server(root: str, ours: str | None, folder: Path) -> str:
    """Return the root that a folder's records belong to, unless they are another server's.

    Parameters
    ----------
    root : str
        The server that is about to be asked.
    ours : str or None
        The root that the folder's catalog remembers.
    folder : Path
        The data folder.

    Raises
    ------
    WrongServerError
        When the two differ, and neither is declared a mirror of the other (``NVCATALOG_MIRROR_OF``).
    """
    mirrored = os.environ.get("NVCATALOG_MIRROR_OF", "").strip()
    if mirrored:
        mirrored = root_from_environment("NVCATALOG_MIRROR_OF", client.DEFAULT_ROOT)
    if ours is None:
        return mirrored or root
    if not _is_same(root, ours) and not (mirrored and _is_same(mirrored, ours)):
        raise WrongServerError(
            f"{folder} was filled from {ours}, and this call would fetch from {root}. "
            f"Give another data_dir, or, if {root} is a mirror of {ours}, set NVCATALOG_MIRROR_OF={ours}"
        )
    return ours


def _is_same(root: str, ours: str) -> bool:
    """Whether a server is the one that a catalog remembers, whatever its scheme.

    One host may have several, below different paths. What was taken over of nilearn's names only a host: any path.
    """
    path, our_path = (urlsplit(each).path.rstrip("/") for each in (root, ours))
    return same_host(root, ours) and our_path in ("", path)


class Servers:
    """Both servers as one call uses them.

    Parameters
    ----------
    timeout_s : float
        How long to wait for a connection, and for the next byte; Neurosynth gets at least a minute.
    max_workers : int or None
        Connections for NeuroVault's files; None means the polite default.
    verbose : int
        From 2 on it is said what is waited for long, from 3 on each request is logged.
    folder : Path or None
        The data folder, whose other processes share the connections with this call; None where nothing can be
        written.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        max_workers: int | None = None,
        verbose: int = 0,
        folder: Path | None = None,
    ) -> None:
        self._telling = telling_of_waits(verbose)
        log_requests = verbose >= REQUESTS
        self.max_workers = max_workers or client.FILE_CONNECTIONS
        self.neurovault_root = client.root()
        self.neurosynth_root = neurosynth.root()
        self.neurovault_health = Health("NeuroVault", pause=_pause(folder, "neurovault"))
        self.neurosynth_health = Health("Neurosynth", neurosynth.LIMITS, pause=_pause(folder, "neurosynth"))
        # Not made when first needed: that is in several threads at once, and each would make its own.
        self.files = Service(
            "NeuroVault",
            self.neurovault_root,
            connections=self.max_workers,
            slots=_slots(folder, "files", self.max_workers),
            timeout_s=timeout_s,
            health=self.neurovault_health,
            log_requests=log_requests,
        )
        self._lists = Service(
            "NeuroVault",
            self.neurovault_root,
            connections=client.LIST_CONNECTIONS,
            slots=_slots(folder, "lists", client.LIST_CONNECTIONS),
            timeout_s=timeout_s,
            health=self.neurovault_health,
            log_requests=log_requests,
        )
        self._decoder = Service(
            "Neurosynth",
            self.neurosynth_root,
            connections=neurosynth.CONNECTIONS,
            slots=_slots(folder, "neurosynth", neurosynth.CONNECTIONS),
            timeout_s=max(timeout_s, neurosynth.SHORTEST_TIMEOUT_S),
            health=self.neurosynth_health,
            log_requests=log_requests,
        )
        self.neurovault = client.NeuroVault(self._lists, self.files)
        self.neurosynth = neurosynth.Neurosynth(self._decoder)

    def __enter__(self) -> Self:
        self._telling.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._telling.__exit__(kind, error, trace)
        for service in (self.files, self._lists, self._decoder):
            service.close()

    def is_mirror_of(self, root: str) -> bool:
        """Whether records that belong to a root, as :func:`check_server` gives it, are asked of another server."""
        return not _is_same(self.neurovault_root, root)

    @property
    def asked(self) -> bool:
        """Whether any request went out."""
        return self.neurovault_health.asked or self.neurosynth_health.asked

    def stop(self) -> None:
        """Let no further request through, and end those under way."""
        for service in (self.files, self._lists, self._decoder):
            service.interrupt()


def _pause(folder: Path | None, server: str) -> Pause | None:
    return None if folder is None else Pause(folder, server, LONGEST_RETRY_AFTER_S)


def _slots(folder: Path | None, name: str, count: int) -> Slots | None:
    return None if folder is None else Slots(folder, name, count)
