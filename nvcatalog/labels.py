"""Read the names of an atlas's regions from the label file that came with it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from nvcatalog._xml import XmlError, XmlReader
from nvcatalog.errors import LabelsError

_CHUNK = 1 << 18
_INDEX = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")


def read_labels(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """Return index and name of each region, in the order and the words of the file.

    Both forms that are about are read: FSL's ``<label index="0" x="…" …>name</label>`` and SPM's
    ``<label><index>0</index><name>name</name></label>``. In FSL's own atlases the voxels of a region hold its
    index + 1, in most others its index: what an uploader meant only the atlas itself can tell.

    Parameters
    ----------
    path : path-like
        The label file.

    Raises
    ------
    LabelsError
        When it is no label file.
    OSError
        When it cannot be read.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels.xml")
    ...     _ = path.write_text('<atlas><data><label index="0">Gyrus &amp; pole</label></data></atlas>')
    ...     read_labels(path)
    [(0, 'Gyrus & pole')]
    """
    reader = _LabelReader()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                reader.feed(chunk)
        reader.close()
    except XmlError as error:
        raise LabelsError(f"{path} is no label file: {error}. Fetch it again with mode='overwrite'") from error
    if not reader.labels:
        raise LabelsError(f"{path} is no label file: its <{reader.root}> holds no <label>")
    return reader.labels


class _LabelReader(XmlReader):
    """Collects the labels; of what is inside one, the texts by element."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[tuple[int, str]] = []
        self._open: list[str] = []  # the elements from the label inwards
        self._texts: dict[str, str] = defaultdict(str)
        self._parser.CharacterDataHandler = self._take_text

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "label" and not self._open:
            self._texts.clear()
            self._texts["index"] = attributes.get("index", "")
        if name == "label" or self._open:
            self._open.append(name)
            self._texts[name] += ""

    def _take_text(self, text: str) -> None:
        if self._open:
            self._texts[self._open[-1]] += text

    def end(self, name: str) -> None:
        if not self._open:
            return
        self._open.pop()
        if not self._open:
            index = self._texts["index"]
            if not _INDEX.fullmatch(index):
                raise XmlError(
                    f"line {self.line}: a label with the index {index[:40]!r}, which is no whole number"
                )
            self.labels.append((int(index), self._texts["name" if "name" in self._texts else "label"]))
