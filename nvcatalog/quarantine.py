"""Set files aside that nobody can vouch for, so that nothing finds them and nothing is lost."""

from __future__ import annotations

import errno
import shutil
from datetime import UTC, datetime
from pathlib import Path

from nvcatalog.layout import QUARANTINE


class Quarantine:
    """A folder below the data folder, made when the first file goes there.

    Parameters
    ----------
    folder : Path
        The data folder.

    Attributes
    ----------
    place : Path or None
        Where the files are, once there are any: ``quarantine/<time>``. ``WHY.txt`` in it says of each why.
    """

    def __init__(self, folder: Path) -> None:
        self.place: Path | None = None
        self._folder = folder

    def take(self, path: str, reason: str) -> str | None:
        """Move a file there and return where it is now, relative to the data folder; None where there is none.

        Raises
        ------
        OSError
            When it cannot be moved.
        """
        source = self._folder / path
        if not (source.exists() or source.is_symlink()):
            return None
        self.place = self.place or self._make()
        # nilearn reads every sidecar below the data folder, wherever it is.
        target = self.place / (f"{path}.quarantined" if path.endswith(".json") else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (self.place / "WHY.txt").open("a", encoding="utf-8") as why:
            why.write(f"{path}: {reason}\n")
        try:
            _move(source, target)
        except FileNotFoundError:  # somebody else has moved it
            return None
        return target.relative_to(self._folder).as_posix()

    def _make(self) -> Path:
        home = self._folder / QUARANTINE
        home.mkdir(exist_ok=True)
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        number = 0
        while True:
            place = home / (f"{moment}-{number}" if number else moment)
            try:
                place.mkdir()
            except FileExistsError:
                number += 1
            else:
                return place


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)  # a collection's folder may be a link to another disk
