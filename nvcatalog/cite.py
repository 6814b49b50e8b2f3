"""Cite the collections behind images: BibTeX and plain text, made of nothing but what their owners typed."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nvcatalog import neurosynth, records
from nvcatalog._store import Store, moment
from nvcatalog.errors import SelectionWarning
from nvcatalog.meant import Meant, without_gone

_COLLECTIONS = """
    WITH came AS (
        SELECT image_id, max(downloaded_at) AS at
        FROM files
        WHERE kind IN ('original', 'resampled')
        GROUP BY image_id
    )
    SELECT i.collection_id, any_value(c.name), any_value(c.authors), any_value(c.doi), any_value(c.preprint_doi),
           count(*), epoch_us(coalesce(max(came.at), max(i.fetched_at))),
           i.collection_id IN (SELECT collection_id FROM private_collections) AS is_private
    FROM images AS i
    LEFT JOIN collections AS c ON c.collection_id = i.collection_id
    LEFT JOIN came ON came.image_id = i.image_id
    WHERE i.image_id IN (SELECT unnest($ids::INTEGER[]))
    GROUP BY i.collection_id
    ORDER BY i.collection_id
"""
_REFERENCES = """
    SELECT DISTINCT reference
    FROM words_status
    WHERE status = 'present' AND image_id IN (SELECT unnest($ids::INTEGER[]))
"""


@dataclass(frozen=True)
class CitedCollection:
    """What is known of a collection that is to be cited.

    Attributes
    ----------
    collection_id : int
        Which.
    name, authors : str or None
        As its owner typed them.
    doi, preprint_doi : str or None
        Of its paper and of the preprint, normalised.
    n_images : int
        How many of its images are meant.
    accessed : datetime or None
        When the last of them came.
    """

    collection_id: int
    name: str | None = None
    authors: str | None = None
    doi: str | None = None
    preprint_doi: str | None = None
    n_images: int = 1
    accessed: datetime | None = None

    @property
    def best_doi(self) -> str | None:
        """The paper's DOI, else the preprint's; None for a text that cannot be one."""
        dois = (doi for doi in (self.doi, self.preprint_doi) if doi and doi.startswith("10."))
        return next(dois, None)

    @property
    def title(self) -> str:
        """Its name, or its number where it has none."""
        return _line(self.name) or f"NeuroVault collection {self.collection_id}"

    @property
    def url(self) -> str:
        """Where it will be found for good."""
        return f"https://identifiers.org/neurovault.collection:{self.collection_id}"


class Citations:
    """The citations that go with some images.

    Parameters
    ----------
    collections : sequence of CitedCollection
        The collections they are of.
    terms : bool
        Whether Neurosynth's terms are part of it.

    Attributes
    ----------
    collections : tuple of CitedCollection
        By id.
    without_doi : tuple of CitedCollection
        Those whose owners gave no DOI: ask them how they want to be cited.
    terms : bool
        As given.

    Examples
    --------
    >>> print(Citations([CitedCollection(555, "Obesity & food", doi="10.1111/obr.12221")]).text())
    Maps of 1 NeuroVault collection.
    <BLANKLINE>
    Obesity & food. NeuroVault collection 555 (1 map). doi:10.1111/obr.12221.
        https://identifiers.org/neurovault.collection:555
    <BLANKLINE>
    The repository:
    <BLANKLINE>
    Gorgolewski KJ, Varoquaux G, Rivera G, et al. (2015). NeuroVault.org: a web-based repository for
        collecting and sharing unthresholded statistical maps of the human brain. Frontiers in
        Neuroinformatics 9:8. doi:10.3389/fninf.2015.00008
    """

    def __init__(self, collections: Iterable[CitedCollection], *, terms: bool = False) -> None:
        self.collections = tuple(sorted(collections, key=lambda each: each.collection_id))
        self.without_doi = tuple(each for each in self.collections if each.best_doi is None)
        self.terms = terms

    def __repr__(self) -> str:
        """Say how many collections there are, and which have no DOI."""
        lacking = ", ".join(str(each.collection_id) for each in self.without_doi[:10])
        more = f" and {len(self.without_doi) - 10} more" if len(self.without_doi) > 10 else ""
        without = f", {len(self.without_doi)} without a DOI ({lacking}{more})" if lacking else ""
        terms = ", with Neurosynth's terms" if self.terms else ""
        number = f"{len(self.collections)} collection{'' if len(self.collections) == 1 else 's'}"
        return f"<Citations: {number}{without}{terms}; .bibtex() and .text() write them>"

    def bibtex(self) -> str:
        """Return a ``@misc`` for each collection, those without a DOI last, and the papers of the repositories.

        Each has the key ``neurovault_<id>``. No year is made up: the day that a collection was made is not the
        one it was published. Authors in the form that NeuroVault gives them, ``C. R. Fox and M. Walter``, are
        people to BibTeX; however else they were typed, they are one group in braces, printed as typed.
        """
        parts = [_misc(each) for each in self.collections if each.best_doi is not None]
        if self.without_doi:
            parts.append("% Without a DOI: ask their owners how they want to be cited.\n")
            parts += map(_misc, self.without_doi)
        return "\n".join([*parts, _REPOSITORY, *([_TERMS] if self.terms else [])])

    def text(self) -> str:
        """Return the same as plain text."""
        number = f"{len(self.collections)} NeuroVault collection{'' if len(self.collections) == 1 else 's'}"
        parts = [f"Maps of {number}."]
        parts += [_plain(each) for each in self.collections if each.best_doi is not None]
        if self.without_doi:
            parts.append("Without a DOI; ask their owners how they want to be cited:")
            parts += map(_plain, self.without_doi)
        parts += ["The repository:", _REPOSITORY_TEXT]
        parts += ["The terms:", _TERMS_TEXT] if self.terms else []
        return "\n\n".join(parts) + "\n"


def cite(store: Store, meant: Meant, *, private: bool = False, gone: bool = False) -> Citations:
    """Return the citations that go with some images of a catalog.

    Parameters
    ----------
    store : Store
        The catalog.
    meant : Meant
        The images; Neurosynth is cited where it says that their terms were used, or else where any is here. Terms
        of other decoders are not Neurosynth's.
    private : bool
        Whether private collections are cited too; the links lead nowhere for whom they are not open to.
    gone : bool
        Whether images count that the server no longer has, where they are not named.

    Warns
    -----
    SelectionWarning
        When there is nothing to cite, and when something is left out: images that the catalog does not know,
        private collections, and what the server no longer has.
    """
    meant, about_gone = without_gone(store, meant, gone=gone)
    ids = {"ids": list(meant.image_ids)}
    with store.reading() as connection:
        rows = connection.execute(_COLLECTIONS, ids).fetchall()
        references = {reference for (reference,) in connection.execute(_REFERENCES, ids).fetchall()}
    _tell(meant, rows, private=private, about_gone=about_gone)
    return Citations(
        (_cited(*row) for *row, is_private in rows if private or not is_private),
        terms=_are_neurosynths(meant, references),
    )


def _are_neurosynths(meant: Meant, references: set[str | None]) -> bool:
    """Whether terms were used, and Neurosynth's among them."""
    if not references:  # as of an answer of nilearn's, which knows no other decoder
        return bool(meant.terms)
    return meant.terms is not False and any(map(neurosynth.is_its_own, references))


def _cited(
    id_: int | None,
    name: str | None,
    authors: str | None,
    doi: str | None,
    preprint_doi: str | None,
    n_images: int,
    accessed: int | None,
) -> CitedCollection:
    typed = records.null_placeholders({"name": name, "authors": authors})
    return CitedCollection(
        id_ or 0, **typed, doi=doi, preprint_doi=preprint_doi, n_images=n_images, accessed=moment(accessed)
    )


def _tell(meant: Meant, rows: Sequence[tuple[Any, ...]], *, private: bool, about_gone: str | None) -> None:
    unknown = len(meant.image_ids) - sum(row[5] for row in rows)
    hidden = 0 if private else sum(row[-1] for row in rows)
    if not meant.image_ids:
        warnings.warn("No image was chosen: NeuroVault alone is cited", SelectionWarning, stacklevel=4)
    if unknown:
        text = f"{unknown} of {len(meant.image_ids)} images are unknown to the catalog, and not cited"
        warnings.warn(text, SelectionWarning, stacklevel=4)
    if hidden:
        text = f"{hidden} private collections are not cited; private=True cites them too"
        warnings.warn(text, SelectionWarning, stacklevel=4)
    if about_gone:
        warnings.warn(about_gone, SelectionWarning, stacklevel=4)


# BibTeX

# What BibTeX or LaTeX would take for something else. Braces become macros, since BibTeX counts escaped ones too.
_ESCAPED = str.maketrans({
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{special: f"\\{special}" for special in "&%$#_"},
})  # fmt: skip


def escaped(text: str) -> str:
    r"""Return text as it stands in a field of BibTeX: on one line, its special characters made harmless.

    Examples
    --------
    >>> print(escaped("Faces > shapes, 50% {left} & right"))
    Faces \textgreater{} shapes, 50\% \textbraceleft{}left\textbraceright{} \& right
    """
    return _line(text).translate(_ESCAPED)


def _line(text: str | None) -> str:
    """Return text on one line, without characters that control anything."""
    visible = "".join(" " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else each for each in text or "")
    return " ".join(visible.split())


def _verbatim(link: str) -> str:
    r"""Return a link or a DOI for a field that is not read as text: what would end it is encoded, but not twice.

    Examples
    --------
    >>> print(_verbatim("10.1/50% of\\it%20"))
    10.1/50%25%20of%5Cit%20
    """
    return re.sub(
        r"[{}\\\s]|%(?![0-9A-Fa-f]{2})", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), link
    )


# As NeuroVault fills it in, given a DOI: "S. M. Tom, Craig R. Fox and Martin Walter", family names last.
_BETWEEN_NAMES = re.compile(r",? and |, ")


def _authors(typed: str) -> str:
    """Return authors as BibTeX takes them: one by one where it is sure who they are, else as typed, in one group.

    BibTeX would make two people of "Tom SM, Fox CR and Li W", and call the first Fox CR Tom SM. What is nobody's
    name is a group of its own.

    Examples
    --------
    >>> _authors("S. M. Tom, Craig R. Fox and Martin Walter"), _authors("Tom SM, Fox CR and Li W")
    ('S. M. Tom and Craig R. Fox and Martin Walter', '{Tom SM, Fox CR and Li W}')
    >>> _authors("S. M. Tom and ENIGMA Consortium")
    'S. M. Tom and {ENIGMA Consortium}'
    """
    line = _line(typed)
    names = _BETWEEN_NAMES.split(line)
    is_sure = " and " in line and all(_is_of_many(name) or _is_given_name_first(name) for name in names)
    if not is_sure:
        return f"{{{escaped(line)}}}"
    return " and ".join(f"{{{escaped(name)}}}" if _is_of_many(name) else escaped(name) for name in names)


_OF_MANY = re.compile(
    r"consorti(um|a)|collaboration|initiative|investigators|project|network|(working|study)?group|team|committee"
    r"|society|foundation|association|cent(er|re)|institute?|university|department|lab(oratory)?|study",
    re.IGNORECASE,
)


def _is_of_many(name: str) -> bool:
    """Whether a name is that of no person, by a last word that no person is called."""
    words = name.split()
    return len(words) > 1 and not words[0][0].islower() and _OF_MANY.fullmatch(words[-1]) is not None


def _is_given_name_first(name: str) -> bool:
    words = name.split()
    is_spelt = len(words) > 1 and words[0][0].isupper() and len(words[-1]) > 1 and words[-1][-1].islower()
    # "ENIGMA Sleep" may be anything.
    return is_spelt and not (len(words[0]) > 2 and words[0].isalpha() and words[0].isupper())


def _misc(collection: CitedCollection) -> str:
    fields = {
        "title": f"{{{escaped(collection.title)}}}",  # a second pair of braces: it keeps its capitals
        "author": _authors(collection.authors) if collection.authors else None,
        "howpublished": f"NeuroVault collection {collection.collection_id}",
        "doi": _verbatim(collection.best_doi) if collection.best_doi else None,
        "url": collection.url,
        "urldate": f"{collection.accessed:%Y-%m-%d}" if collection.accessed else None,
    }
    if collection.best_doi is None and (typed := collection.doi or collection.preprint_doi):
        fields["note"] = f"DOI as typed: {escaped(typed)}"
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    return f"@misc{{neurovault_{collection.collection_id},\n{lines}}}\n"


_REPOSITORY = """@article{gorgolewski_2015,
  title = {{NeuroVault.org}: a web-based repository for collecting and sharing unthresholded statistical maps of
    the human brain},
  author = {Gorgolewski, K. J. and Varoquaux, G. and Rivera, G. and Schwarz, Y. and Ghosh, S. S. and Maumet, C. and
    Sochat, V. V. and Nichols, T. E. and Poldrack, R. A. and Poline, J.-B. and Yarkoni, T. and Margulies, D. S.},
  journal = {Frontiers in Neuroinformatics},
  volume = {9},
  pages = {8},
  year = {2015},
  doi = {10.3389/fninf.2015.00008},
}
"""
_TERMS = """@article{yarkoni_2011,
  title = {Large-scale automated synthesis of human functional neuroimaging data},
  author = {Yarkoni, T. and Poldrack, R. A. and Nichols, T. E. and Van Essen, D. C. and Wager, T. D.},
  journal = {Nature Methods},
  volume = {8},
  pages = {665--670},
  year = {2011},
  doi = {10.1038/nmeth.1635},
}
"""


# Plain text

_REPOSITORY_TEXT = """\
Gorgolewski KJ, Varoquaux G, Rivera G, et al. (2015). NeuroVault.org: a web-based repository for
    collecting and sharing unthresholded statistical maps of the human brain. Frontiers in
    Neuroinformatics 9:8. doi:10.3389/fninf.2015.00008"""
_TERMS_TEXT = """\
Yarkoni T, Poldrack RA, Nichols TE, Van Essen DC, Wager TD (2011). Large-scale automated synthesis
    of human functional neuroimaging data. Nature Methods 8, 665-670. doi:10.1038/nmeth.1635"""


def _plain(collection: CitedCollection) -> str:
    authors = f"{_sentence(collection.authors)} " if collection.authors else ""
    doi = collection.best_doi or collection.doi or collection.preprint_doi
    known_by = f" doi:{_line(doi)}." if collection.best_doi else f" DOI as typed: {_line(doi)}." if doi else ""
    maps = f"{collection.n_images} map{'' if collection.n_images == 1 else 's'}"
    accessed = f" (accessed {collection.accessed:%Y-%m-%d})" if collection.accessed else ""
    about = f"{authors}{_sentence(collection.title)} NeuroVault collection {collection.collection_id} ({maps})."
    return f"{about}{known_by}\n    {collection.url}{accessed}"


def _sentence(text: str) -> str:
    line = _line(text)
    return line if line.endswith((".", "!", "?")) else f"{line}."
