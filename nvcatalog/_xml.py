"""Read XML that strangers wrote: nothing in it is expanded or fetched, and nothing may grow without end."""

from __future__ import annotations

import re
from xml.parsers import expat

# Far more than real files have: a GIfTI file of a thousand time points has some ten thousand elements.
_MOST_ELEMENTS = 1_000_000
_DEEPEST = 100
# Expat keeps an unfinished tag or comment, and reads it again from its beginning with each piece that comes.
_LONGEST_TAG = 1 << 18
# Of any other name Python would look for a codec, and run it.
_ENCODING = re.compile(
    r"utf-?8|utf-?16|us-ascii|ascii|iso-8859-\d\d?|latin-?1|(?:windows-|cp)125\d", re.IGNORECASE
)


class XmlError(ValueError):
    """Raised when a text is no whole XML, or does what no data file has reason to do."""


class XmlReader:
    """Reads XML piece by piece; what comes of it is for subclasses to take.

    Attributes
    ----------
    root : str or None
        The name of the outermost element, once it has come.
    """

    def __init__(self) -> None:
        self.root: str | None = None
        self._depth = self._elements = self._size = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.XmlDeclHandler = self._declare
        self._parser.StartDoctypeDeclHandler = self._begin_doctype
        self._parser.SkippedEntityHandler = self._skip_entity
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    @property
    def line(self) -> int:
        """The line that is being read, from 1."""
        return self._parser.CurrentLineNumber

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes.

        Raises
        ------
        XmlError
            When they cannot be part of such a text.
        """
        self._size += len(chunk)
        self._parse(chunk, is_last=False)
        if self._size - self._parser.CurrentByteIndex > _LONGEST_TAG:
            raise XmlError(f"line {self.line}: a single tag of more than {_LONGEST_TAG:,} bytes")

    def close(self) -> None:
        """Make sure that the text is whole; raises as :meth:`feed` does."""
        self._parse(b"", is_last=True)

    def _parse(self, chunk: bytes, *, is_last: bool) -> None:
        try:
            self._parser.Parse(chunk, is_last)
        except XmlError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two are about its encoding
            raise XmlError(str(error)) from error

    # What subclasses take

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Take the begin of an element."""

    def end(self, name: str) -> None:
        """Take the end of an element."""

    # What expat calls

    def _declare(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and not _ENCODING.fullmatch(encoding):
            raise XmlError(f"the encoding {encoding[:40]!r}, which is none of the usual")

    def _begin_doctype(self, name: str, _system: str | None, _public: str | None, has_subset: int) -> None:
        # Defined entities, and attributes with defaults, make a short text as long as its writer likes.
        if has_subset:
            raise XmlError(f"it defines entities or the like for its type {name[:40]!r}, which are not expanded")

    def _skip_entity(self, name: str, _is_parameter: int) -> None:
        raise XmlError(f"line {self.line}: the undefined entity {name[:40]!r}")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.root = self.root or name
        self._depth += 1
        self._elements += 1
        if self._depth > _DEEPEST or self._elements > _MOST_ELEMENTS:
            raise XmlError(
                f"line {self.line}: more than {_DEEPEST} elements in one another, or {_MOST_ELEMENTS:,}"
            )
        self.start(name, attributes)

    def _end(self, name: str) -> None:
        self._depth -= 1
        self.end(name)
