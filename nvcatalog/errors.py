"""Everything nvcatalog raises or warns with: one tree, so that one ``except`` can catch it all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

#: How a server can refuse an id; the outcomes of a report have the same names.
RefusedStatus = Literal["not_found", "private", "broken_on_server", "corrupt_on_server", "failed"]


class NVCatalogError(Exception):
    """The root of every error that nvcatalog raises on purpose."""


def shown(value: object) -> str:
    """Return what the caller gave as messages show it: its repr, unless that is endless or cannot be made."""
    try:
        text = storable(repr(value))
    except ValueError:  # Python writes out no integer of more than some thousand digits
        return f"a {type(value).__name__} too large to show"
    except Exception:  # noqa: BLE001 - a class of the caller's own, whose repr may raise anything
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def storable(text: str) -> str:
    r"""Return a text as it can be stored and printed, half a character as its escape: ``\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def said(text: str) -> str:
    r"""Return what a server said as messages show it: not endless, and nothing that steers a terminal.

    Examples
    --------
    >>> print(said("\x1b[2Jgone"))
    \x1b[2Jgone
    """
    text = text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def listed(values: Iterable[object], most: int = 5) -> str:
    """Return the first few of many things as messages name them."""
    texts = list(map(str, values))
    return ", ".join(texts[:most]) + (", …" if len(texts) > most else "")


_LONGEST_SHOWN = 300
_LONGEST_SAID = 1000


# What the caller typed


class InvalidModeError(NVCatalogError, ValueError):
    """Raised when ``mode`` is none of 'download_new', 'overwrite' and 'offline'."""


class InvalidIdError(NVCatalogError, ValueError):
    """Raised when an id has the right type and cannot be one: zero, a negative, a word."""


class InvalidIdTypeError(NVCatalogError, TypeError):
    """Raised when an id is of a type that cannot name an image: ``True``, ``1.5``, ``None``."""


class InvalidOptionError(NVCatalogError, ValueError):
    """Raised when an option has a value that cannot be used, such as a negative ``timeout``."""


class InvalidOptionTypeError(InvalidOptionError, TypeError):
    """Raised when an option is of a type that cannot be used, such as a list for ``data_dir``."""


class QueryError(NVCatalogError, ValueError):
    """Raised when DuckDB refuses a query: bad SQL, a missing parameter, something the fence forbids."""


class LockFileError(NVCatalogError, ValueError):
    """Raised when a lock file cannot be read: damaged, or of a newer version; names the line and the reason."""


class WordsError(NVCatalogError, ValueError):
    """Raised when terms are of several reference sets where one is wanted, or when they cannot land."""


class MixedSetsError(WordsError):
    """Raised when one matrix would have terms of several reference sets.

    ``sets`` has how many images are of each, None being older answers that name none; ``largest`` is one of them.
    """

    def __init__(self, sets: Mapping[str | None, int]) -> None:
        figures = [f"{repr(name) if name else 'one without a name'} ({n:,} images)" for name, n in sets.items()]
        self.sets, self.largest = sets, max(sets, key=lambda name: sets[name])
        super().__init__(
            f"the terms of these images are of {len(sets)} reference sets, which do not go into one matrix: "
            f"{', '.join(figures)}. Choose one, as in reference={self.largest or ''!r}"
        )


class MissingExtraError(NVCatalogError, ImportError):
    """Raised when a feature needs an optional dependency that is not installed."""


# The folder


class LabelsError(NVCatalogError, ValueError):
    """Raised when an atlas's label file cannot be read as one."""


class DataDirError(NVCatalogError, OSError):
    """Raised when the data folder is a file, or cannot be made."""


class NoSpaceError(NVCatalogError, OSError):
    """Raised when the disk is full; everything proven until then is kept."""


class TooManyFilesError(NVCatalogError, OSError):
    """Raised when this process may open no further file for now; a fetch turns it into outcomes."""


class ResampleError(NVCatalogError):
    """Raised when a map cannot be brought to the 3 mm grid: an odd shape, an affine that leads nowhere."""


class FreezeError(NVCatalogError):
    """Raised when images cannot be frozen: their files are not here, or nothing has proven them yet."""


# The catalog


class CatalogError(NVCatalogError):
    """The root of what can be wrong with a catalog file."""


class CatalogLockedError(CatalogError):
    """Raised when another process keeps the catalog open longer than ``lock_timeout``, or none can be opened."""


class CatalogCorruptError(CatalogError):
    """Raised when ``catalog.duckdb`` cannot be read as a DuckDB database."""


class WrongServerError(CatalogError, ValueError):
    """Raised when a catalog of one server is about to be filled from another."""


class MigrationError(CatalogError):
    """Raised when the migrations and a catalog's ledger do not fit: edited, missing, misnamed, failing."""


class CatalogTooNewError(MigrationError):
    """Raised when a newer version of nvcatalog has migrated the catalog."""


class SnapshotError(NVCatalogError):
    """Raised when a Parquet snapshot was asked for and could not be written."""


class ExportError(NVCatalogError):
    """Raised when an export was asked for and could not be written."""


# The servers. These end one request; a fetch turns them into outcomes and never lets them out.


class ServerError(NVCatalogError):
    """The root of what a server can answer instead of what was asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(said(message))
        self._message = message

    def reword(self, change: Callable[[str], str]) -> None:
        """Change what it says, as it was before it was cut: what is cut in half is no longer found."""
        self._message = change(self._message)
        self.args = (said(self._message),)


class TransientError(ServerError):
    """Raised when an answer may well be right next time: a time-out, a 503, a cut-off body."""

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class RefusedError(ServerError):
    """Raised when the server has answered for good about one id: ``status`` is the outcome's."""

    def __init__(
        self, message: str, *, status: RefusedStatus, lasting: bool = True, http_status: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.lasting = lasting
        self.http_status = http_status


class NotTheAPIError(TransientError):
    """Raised when a 403 is not the API's own JSON: a firewall, a proxy, a log-in page."""


class HostGivenUpError(ServerError):
    """Raised for every request to a host once it has been given up for this call."""


# Warnings


class NVCatalogWarning(UserWarning):
    """The root of nvcatalog's warnings."""


class IncompleteWarning(NVCatalogWarning):
    """Warns that an answer lacks something that was asked for; its report says what and why."""


class WordsWarning(NVCatalogWarning):
    """Warns, once, that Neurosynth has no terms for an image and will not have any."""


class BlockedWarning(NVCatalogWarning):
    """Warns that a firewall or challenge page answers in the server's place."""


class CatalogWarning(NVCatalogWarning):
    """Warns that rows could not land, or that there is no catalog where one was looked for."""


class SnapshotWarning(NVCatalogWarning):
    """Warns that the Parquet snapshot could not be published; the catalog itself is fine."""


class FilterWarning(NVCatalogWarning):
    """Warns that filters may not mean what was meant: default terms that still apply, a field no record has."""


class SelectionWarning(NVCatalogWarning):
    """Warns that a condition or filters select no image, or a condition more images than are fetched."""


class FrozenWarning(NVCatalogWarning):
    """Warns that images of a frozen set are no longer what was frozen; the report says what differs."""


class FolderWarning(NVCatalogWarning):
    """Warns that the data folder cannot be written, so that the call works offline; or is not the one named."""
