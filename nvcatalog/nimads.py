"""Describe maps as NIMADS, which meta-analysis tools read: studies, the analyses of each, and their maps."""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nvcatalog import records, storage
from nvcatalog._store import Store, moment
from nvcatalog.errors import InvalidOptionError, MissingExtraError, SelectionWarning, shown
from nvcatalog.known import MapKind
from nvcatalog.meant import Meant
from nvcatalog.where import real_number

if TYPE_CHECKING:
    import pandas as pd

#: A number of subjects for all, or one for each image or study.
SampleSizes = float | Mapping[Any, Any] | None

RemarkKind = Literal[
    "left_out",
    "no_file",
    "several_analyses",
    "apart",
    "no_sample_size",
    "unused_size",
    "thresholded",
    "not_mni",
    "gone",
]


class Remark(NamedTuple):
    """Something to know of a map or a study before a meta-analysis is believed.

    Attributes
    ----------
    kind : str
        'left_out': no part of it, `text` says why. 'no_file': its file is not here. 'several_analyses': a study
        that contributes several, which are not independent. 'apart': maps of one analysis that are of one kind,
        and so each an analysis of its own, or of several levels or subjects, and so an analysis of each.
        'no_sample_size': nobody says how many subjects. 'unused_size': a key of `sample_sizes` that is none of
        the images and studies. 'thresholded', 'not_mni': as the record has it.
        'gone': no longer on the server, and taken because it is named.
    study : str or None
        The study's id in the dictionary; None for what is left out.
    image_id : int or None
        The image; None for a study.
    text : str
        In words.
    """

    kind: RemarkKind
    study: str | None
    image_id: int | None
    text: str


class Remarks(Sequence[Remark]):
    """All there is to know of a NIMADS dictionary.

    Examples
    --------
    >>> remarks = Remarks([Remark("left_out", None, 14227, "an atlas")])
    >>> remarks.counts, remarks.of("left_out")[0].text
    ({'left_out': 1}, 'an atlas')
    """

    def __init__(self, remarks: Iterable[Remark] = ()) -> None:
        self._remarks = tuple(remarks)

    def __getitem__(self, index: Any) -> Any:
        """Return one remark, or several."""
        return self._remarks[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._remarks)

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<Remarks: {', '.join(f'{n} {kind}' for kind, n in self.counts.items()) or 'none'}>"

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each kind, most frequent first."""
        return dict(Counter(remark.kind for remark in self._remarks).most_common())

    def of(self, kind: RemarkKind) -> tuple[Remark, ...]:
        """Return those of a kind."""
        return tuple(remark for remark in self._remarks if remark.kind == kind)

    def df(self) -> pd.DataFrame:
        """Return them as a dataframe with the columns ``kind``, ``study``, ``image_id``, ``text``."""
        import pandas as pd

        return pd.DataFrame(self._remarks, columns=list(Remark._fields)).astype({"image_id": "Int64"})


class Nimads(dict[str, Any]):
    """A NIMADS studyset: a plain dictionary, which JSON can hold, with what is to be known of it.

    Attributes
    ----------
    report : Remarks
        What is left out and why, which studies are not independent, and the like.
    """

    def __init__(self, studyset: Mapping[str, Any], report: Remarks) -> None:
        super().__init__(studyset)
        self.report = report


class Found(NamedTuple):
    """What the catalog of a data folder knows of images."""

    folder: Path
    meant: Meant
    kind: MapKind
    rows: list[Any]


def look_up(
    store: Store,
    meant: Meant,
    *,
    study: str = "collection_id",
    analysis: str = "image_id",
    resampled: bool = False,
) -> Found:
    """Ask the catalog for all that is to be known of images for a studyset.

    Parameters
    ----------
    store : Store
        The catalog.
    meant : Meant
        The images.
    study, analysis : str
        What makes a study, and an analysis in it: columns of ``stat_maps``, or ``doi`` with the preprint's where
        the paper has none, or ``pack_id``. Where that says nothing, it is the collection, and the image.
    resampled : bool
        Whether it is their resampled maps that are meant, whatever else says so.

    Raises
    ------
    InvalidOptionError
        For what is no column.
    """
    kind: MapKind = "resampled" if resampled else meant.kind
    with store.reading() as connection:
        names = {column[0].lower(): column[0] for column in connection.execute("DESCRIBE stat_maps").fetchall()}
        keys = {"study": _key(names, "study", study), "analysis": _key(names, "analysis", analysis)}
        query = _ROWS.format(doi=_DOI, **keys)
        rows = connection.execute(query, {"ids": list(meant.image_ids), "kind": kind}).fetchall()
    return Found(store.folder, meant, kind, rows)


def to_nimads(
    found: Found,
    *,
    sample_sizes: SampleSizes = None,
    without_files: bool = False,
    private: bool = False,
    gone: bool = False,
) -> Nimads:
    """Return images of a catalog as a NIMADS studyset.

    Parameters
    ----------
    found : Found
        The images.
    sample_sizes
        How many subjects there are; where it does not say, the records do.
    without_files : bool
        Whether maps that are not here are part of it, too.
    private : bool
        Whether those of private collections are.
    gone : bool
        Whether those that the server no longer has are, where they are not named.

    Raises
    ------
    InvalidOptionError
        For sizes that are none.

    Warns
    -----
    SelectionWarning
        When anything is left out, or not independent.
    """
    meant, kind = found.meant, found.kind
    rows = [_read(found.folder, _Row._make(values)) for values in found.rows]
    why = {row.image_id: _why_left_out(row, private=private, gone=gone or meant.named) for row in rows}
    left_out = [Remark("left_out", None, id_, text) for id_, text in why.items() if text]
    maps = [row for row in rows if not why[row.image_id]]
    no_file = [_no_file(row, kind) for row in maps if row.path is None]
    if not without_files:
        maps = [row for row in maps if row.path is not None]
    builder = _Builder(found.folder, _size_reader(sample_sizes, rows))
    studies = [builder.study(id_, members) for id_, members in _grouped(maps, lambda row: row.study)]
    named = [Remark("gone", row.study, row.image_id, "no longer on the server") for row in maps if row.gone]
    unused = _unused_sizes(sample_sizes, rows)
    report = Remarks([*left_out, *no_file, *builder.remarks, *unused, *([] if gone else named)])
    _tell(report, n_maps=len(maps))
    name = f"NeuroVault: {meant.about['where']}" if "where" in meant.about else "NeuroVault"
    return Nimads({"id": "nvcatalog", "name": name, "studies": studies}, report)


def nimare() -> Any:
    """Return NiMARE's module for NIMADS.

    Raises
    ------
    MissingExtraError
        When NiMARE is not installed, or does not work beside what is.
    """
    try:
        from nimare import nimads
    except ImportError as error:
        found = (
            "is not installed" if error.name == "nimare" else f"does not work beside what is installed ({error})"
        )
        raise MissingExtraError(
            f"NiMARE {found}; pip install 'nvcatalog[nimare]', in an environment of its own if this one needs a "
            "nilearn that is too new for it"
        ) from error
    return nimads


# What the catalog knows


class _Row(NamedTuple):
    """What the catalog knows of an image that is meant."""

    image_id: int
    known: bool
    private: bool
    gone: bool
    stat: str | None
    map_type: str | None
    image_type: str | None
    study: str
    analysis: str | None
    collection_id: int
    collection_name: str | None
    description: str | None
    authors: str | None
    journal_name: str | None
    doi: str | None
    name: str | None
    n_subjects: int | None
    task: str | None
    contrast: str | None
    contrast_definition: str | None
    modality: str | None
    analysis_level: str | None
    space: str | None
    is_thresholded: bool | None
    not_mni: bool | None
    link: str | None
    added_at: datetime | None
    path: str | None
    size: int | None
    sha256: str | None


_DOI = "CASE WHEN c.doi LIKE '10.%' THEN c.doi WHEN c.preprint_doi LIKE '10.%' THEN c.preprint_doi END"
_KEYS = {"doi": _DOI, "pack_id": "(SELECT min(pack_id) FROM nidm_packs AS p WHERE p.image_id = w.image_id)"}

_ROWS = """
    SELECT w.image_id, i.image_id IS NOT NULL,
           w.image_id IN (SELECT image_id FROM private_images), i.gone_at IS NOT NULL,
           m.stat, i.map_type, i.image_type,
           {study}, {analysis}, coalesce(i.collection_id, 0),
           c.name, c.description, c.authors, c.journal_name, {doi},
           i.name, m.n_subjects, m.task, m.contrast, i.contrast_definition, i.modality,
           CASE lower(i.analysis_level)
               WHEN 's' THEN 'single-subject'
               WHEN 'g' THEN 'group'
               WHEN 'm' THEN 'meta-analysis'
               ELSE nullif(lower(i.analysis_level), '')
           END,
           i.target_template_image, i.is_thresholded, i.not_mni, i.file, epoch_us(i.add_date),
           f.path, f.size, f.sha256
    FROM (SELECT unnest($ids::INTEGER[]) AS image_id) AS w
    LEFT JOIN images AS i ON i.image_id = w.image_id
    LEFT JOIN stat_maps AS m ON m.image_id = w.image_id
    LEFT JOIN collections AS c ON c.collection_id = i.collection_id
    LEFT JOIN files AS f
        ON f.image_id = w.image_id AND f.kind = $kind AND f.state IN ('present', 'unverified')
    ORDER BY i.collection_id, w.image_id
"""
# What says nothing, such as "None", is nothing.
_TYPED = (
    "study",
    "analysis",
    "collection_name",
    "description",
    "authors",
    "journal_name",
    "name",
    "contrast_definition",
    "modality",
)
# The label of a subject in BIDS, by which its maps and their files are named.
_SUBJECT = re.compile(r"\bsub-[A-Za-z0-9]+")


def _read(folder: Path, row: _Row) -> _Row:
    """Return a row with its time as one, its placeholders as nothing, and a path only where the file is here."""
    typed = records.null_placeholders({name: getattr(row, name) for name in _TYPED})
    typed["study"] = typed["study"] or (str(row.collection_id) if row.collection_id else "")
    here = row.path is not None and storage.why_not_here(folder / row.path, row.size or 0) is None
    return row._replace(
        added_at=moment(row.added_at),  # type: ignore[arg-type]  # DuckDB gives microseconds
        path=row.path if here else None,
        **typed,
    )


def _key(names: Mapping[str, str], option: str, value: object) -> str:
    """Return what groups images, in SQL."""
    known = {**{name: f'm."{column}"' for name, column in names.items()}, **_KEYS}
    wanted = value.lower() if isinstance(value, str) else ""
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=3)
        near = f"; did you mean {' or '.join(close)}?" if close else ""
        raise InvalidOptionError(f"{option} is {shown(value)}; give a column of stat_maps, or pack_id{near}")
    return f"CAST({known[wanted]} AS VARCHAR)"


def _why_left_out(row: _Row, *, private: bool, gone: bool) -> str | None:
    if not row.known:
        return "unknown to this catalog"
    if row.private and not private:
        return "of a private collection; private=True takes it too"
    if row.gone and not gone:
        return "gone from the server; gone=True takes it too"
    if row.image_type == "atlas":
        return "an atlas"
    return None if row.stat in _VALUE_TYPES else row.map_type or "of no map type"


_VALUE_TYPES = ("t", "z", "beta", "varcope", "p")


def _no_file(row: _Row, kind: MapKind) -> Remark:
    how = " with resample=True" if kind == "resampled" else ""
    return Remark("no_file", row.study, row.image_id, f"its file is not here; fetch it{how}")


# Sample sizes


def _size_reader(given: Any, rows: Sequence[_Row]) -> Callable[[_Row], int | None]:
    """Return what tells how many subjects are behind a map: what was given, else what its record says."""
    if given is None:
        return lambda row: row.n_subjects
    if not hasattr(given, "items"):  # a pandas Series has, too, and is no Mapping
        everywhere = _size(given, "sample_sizes")
        return lambda row: everywhere or row.n_subjects
    sizes = {_size_key(key): _size(value, f"sample_sizes[{shown(key)}]") for key, value in given.items()}
    images, studies = ({read(row) for row in rows} for read in (_image_key, _study_key))
    reads = [read for read, keys in ((_image_key, images), (_study_key, studies)) if sizes.keys() <= keys]
    if len(reads) != 1 and (both := sizes.keys() & images & studies):
        raise InvalidOptionError(
            f"sample_sizes has {min(both)}, which is an image as well as a study; with one beside it that is not "
            "both, all are read as that is; or have other studies, as with study='doi'"
        )
    readers = reads if len(reads) == 1 else [_image_key, _study_key]
    return lambda row: next(filter(None, (sizes.get(read(row)) for read in readers)), row.n_subjects)


def _image_key(row: _Row) -> str:
    return str(row.image_id)


def _study_key(row: _Row) -> str:
    return row.study


def _unused_sizes(given: Any, rows: Sequence[_Row]) -> list[Remark]:
    """Note the keys that are none of the images meant, though these may be left out, and none of their studies."""
    keys = given.keys() if hasattr(given, "items") else ()
    meant = {str(row.image_id) for row in rows} | {row.study for row in rows}
    unused = [shown(key) for key in keys if _size_key(key) not in meant]
    return [Remark("unused_size", None, None, f"{key} is no image and no study of these") for key in unused]


def _size_key(key: Any) -> str:
    """Return a key as ids are written: whole numbers, which pandas may make floats of, without a fraction."""
    number = real_number(key)
    if number.is_integer():
        return str(int(number))
    return records.normal_doi(key) or key if isinstance(key, str) and "/" in key else str(key)


def _size(value: Any, name: str) -> int | None:
    number = real_number(value)
    if value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType":
        return None
    if not number >= 1 or not number.is_integer():
        raise InvalidOptionError(f"{name} is {shown(value)}; give a whole number of subjects, or None for unknown")
    return int(number)


# Building


def _grouped(rows: Iterable[_Row], key: Callable[[_Row], str]) -> Iterator[tuple[str, list[_Row]]]:
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    yield from groups.items()


def _of_whom(row: _Row) -> str:
    found = _SUBJECT.search(f"{row.name or ''} {(row.link or '').rpartition('/')[2]}")
    return f"{row.analysis_level} {found[0] if found else ''}"


class _Builder:
    """Builds studies, and notes what is to be known of them."""

    def __init__(self, folder: Path, size_of: Callable[[_Row], int | None]) -> None:
        self._folder, self._size_of = folder, size_of
        self.remarks: list[Remark] = []

    def study(self, id_: str, rows: list[_Row]) -> dict[str, Any]:
        """Return a study with all its analyses."""
        first = rows[0]
        analyses = [self._analysis(*group) for group in self._analyses(id_, rows)]
        if len(analyses) > 1:
            ids = ", ".join(each["id"] for each in analyses)
            self.remarks.append(
                Remark("several_analyses", id_, None, f"{len(analyses)} analyses, not independent: {ids}")
            )
        links = [f"https://identifiers.org/neurovault.collection:{each}" for each in _collections(rows)]
        about = {
            "doi": first.doi,
            "description": first.description,
            "publication": first.journal_name,
            "authors": first.authors,
        }
        return {
            "id": id_,
            "name": first.collection_name or f"NeuroVault collection {first.collection_id}",
            **_present(about),
            "metadata": {"urls": links},
            "analyses": analyses,
        }

    def _analyses(self, study: str, rows: list[_Row]) -> Iterator[tuple[str, list[_Row]]]:
        """Yield the maps of each analysis, which is of one level and subject.

        Two of one kind would be told apart by chance: then each is its own.
        """
        for name, members in _grouped(rows, lambda row: row.analysis or str(row.image_id)):
            parts = [part for _, part in _grouped(members, _of_whom)]
            for part in parts:
                alike = max(Counter(row.stat for row in part).values()) > 1
                if alike or len(parts) > 1:
                    why = "among them several of one kind" if alike else "which are of several levels or subjects"
                    text = f"one of {len(members)} maps of {name!r}, {why}"
                    self.remarks += [Remark("apart", study, row.image_id, text) for row in part]
                for these in [[row] for row in part] if alike else [part]:
                    yield (name if len(these) > 1 else these[0].name or name), these

    def _analysis(self, name: str, rows: list[_Row]) -> dict[str, Any]:
        self._look_at(rows)
        return {
            "id": "-".join(str(row.image_id) for row in rows),
            "name": name,
            **_present({"description": _common(rows, "contrast_definition")}),
            "conditions": [],
            "weights": [],
            "images": [_image(self._folder, row) for row in rows],
            "points": [],
            "metadata": self._metadata(rows),
        }

    def _metadata(self, rows: list[_Row]) -> dict[str, Any]:
        sizes = {self._size_of(row) for row in rows}
        size = sizes.pop() if len(sizes) == 1 else None
        if size is None:
            why = f"its maps have different ones: {sorted(filter(None, sizes))}" if sizes else "nobody says"
            self.remarks += [Remark("no_sample_size", row.study, row.image_id, why) for row in rows]
        names = ("task", "contrast", "contrast_definition", "modality", "analysis_level", "collection_id")
        return {
            **_present({name: _common(rows, name) for name in names}),
            **({"sample_sizes": [size]} if size else {}),
        }

    def _look_at(self, rows: list[_Row]) -> None:
        for row in rows:
            if row.is_thresholded:
                self.remarks.append(Remark("thresholded", row.study, row.image_id, "most of its voxels are empty"))
            if row.not_mni:
                self.remarks.append(Remark("not_mni", row.study, row.image_id, "not in MNI space, as it seems"))


def _image(folder: Path, row: _Row) -> dict[str, Any]:
    """Return an image. One that is here has no link: NiMARE would follow that instead."""
    about = {"image_id": row.image_id, "map_type": row.map_type, "url": row.link, "sha256": row.sha256}
    return {
        "id": str(row.image_id),
        **({"filename": str(folder / row.path)} if row.path else {"url": row.link}),
        "space": row.space or ("MNI" if row.not_mni is False else None),
        "value_type": row.stat,
        **({"add_date": row.added_at.isoformat()} if row.added_at else {}),
        "metadata": _present(about),
    }


def _collections(rows: list[_Row]) -> list[int]:
    return sorted({row.collection_id for row in rows})


def _common(rows: list[_Row], name: str) -> Any:
    """Return what all of them have in a column, None where they differ."""
    values = {getattr(row, name) for row in rows}
    return values.pop() if len(values) == 1 else None


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# Telling

_MOST_NAMED = 5


def _tell(report: Remarks, *, n_maps: int) -> None:
    lines = [] if n_maps else ["There is no map for a meta-analysis"]
    if left_out := report.of("left_out"):
        reasons = ", ".join(f"{n} {why}" for why, n in Counter(each.text for each in left_out).most_common())
        lines.append(f"{len(left_out)} images are left out ({reasons})")
    if no_file := report.of("no_file"):
        lines.append(
            f"{len(no_file)} maps are not here; fetch them first ({_named(each.image_id for each in no_file)})"
        )
    if several := report.of("several_analyses"):
        who = "1 study contributes" if len(several) == 1 else f"{len(several)} studies contribute"
        lines.append(
            f"{who} several analyses, which are not independent ({_named(each.study for each in several)})"
        )
    if unused := report.of("unused_size"):
        lines.append(f"{len(unused)} of sample_sizes are of no use ({_named(each.text for each in unused)})")
    for kind, text in _FURTHER.items():
        if found := report.of(kind):
            lines.append(f"{len(found)} {text} ({_named(each.image_id for each in found)})")
    if lines:
        warnings.warn(f"{'; '.join(lines)}. to_nimads(…).report has them all", SelectionWarning, stacklevel=4)


_FURTHER: dict[RemarkKind, str] = {
    "apart": "maps are apart, since their analyses have several of one kind, or several levels or subjects",
    "no_sample_size": "maps have no sample size",
    "thresholded": "maps are thresholded",
    "not_mni": "maps seem not to be in MNI space",
    "gone": "maps are gone from the server, and taken because they are named",
}


def _named(things: Iterable[object]) -> str:
    names = [str(thing) for thing in things]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
