"""What happened to every id of a call: an :class:`Outcome` each, a :class:`Report` together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from nvcatalog.errors import RefusedError, listed

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["collection", "image", "words", "extra"]
Status = Literal[
    "cached",
    "downloaded",
    "adopted",
    "kept_old",
    "not_found",
    "private",
    "broken_on_server",
    "corrupt_on_server",
    "failed",
    "missing_offline",
]

# Ids that a warning names of those that are missing for one reason, and reasons that it names.
_NAMED = 3
#: The file or the terms are here.
HERE: frozenset[str] = frozenset({"cached", "downloaded", "adopted", "kept_old"})


class Outcome(NamedTuple):
    """What happened to one id.

    Attributes
    ----------
    kind : {'collection', 'image', 'words', 'extra'}
        What was asked for.
    id : int or None
        The collection's or image's id (for words, the image's; for an extra file, the image's or the NIDM pack's);
        None for a record known only by its place.
    status : str
        One of ``cached``, ``downloaded``, ``adopted``, ``kept_old``, ``not_found``, ``private``,
        ``broken_on_server``, ``corrupt_on_server``, ``failed``, ``missing_offline``.
    reason : str or None
        Why, in words, where the status does not say it all.
    """

    kind: Kind
    id: int | None
    status: Status
    reason: str | None = None

    @property
    def here(self) -> bool:
        """Whether what was asked for is part of the answer."""
        return self.status in HERE

    @property
    def missing(self) -> bool:
        """Whether the answer is incomplete for this id.

        Terms that Neurosynth lastingly has not are no gap in the answer: there is nothing to wait for.
        """
        if self.kind == "words" and self.status == "not_found":
            return False
        return not self.here or self.status == "kept_old"


def outcome_of(kind: Kind, id_: int, error: Exception) -> Outcome:
    """Return what trouble with an id, the server's or the disk's, means for it."""
    return Outcome(kind, id_, error.status if isinstance(error, RefusedError) else "failed", str(error))


def counts_text(outcomes: Iterable[Outcome], kind: str) -> str:
    """Say how many of a kind ended with each status; nothing for none."""
    counts = Counter(outcome.status for outcome in outcomes if outcome.kind == kind)
    named = {"image": "images", "words": "terms", "collection": "collections", "extra": "extra files"}[kind]
    return f"{named}: " + ", ".join(f"{n} {status}" for status, n in counts.most_common()) if counts else ""


def missing_text(
    missing: Sequence[Outcome],
    what: str = "Not all that was asked for is here",
    given_up: Iterable[str | None] = (),
) -> str:
    """Say how much is missing, name the first few, and say why a server was given up where these do not."""
    counts = ", ".join(f"{n} {status}" for status, n in Counter(o.status for o in missing).most_common())
    alike: dict[tuple[str, str, str | None], list[int]] = {}  # one reason is said once, however many ids have it
    for kind, id_, status, reason in missing:
        alike.setdefault((kind, status, reason), []).extend([] if id_ is None else [id_])
    named = [
        f"{kind}{' ' * bool(ids)}{listed(ids, _NAMED)} {status} ({reason})"
        for (kind, status, reason), ids in islice(alike.items(), _NAMED)
    ]
    more = "; …" if len(alike) > _NAMED else ""
    text = f"{what}: {counts}. {'; '.join(named)}{more}; .report has them all."
    for reason in filter(None, given_up):
        text += " Stopped early." if reason in text else f" Stopped early: {reason}."
    return text


class Report(Sequence[Outcome]):
    """The outcomes of a call, in request order.

    Attributes
    ----------
    notes : tuple of str
        What else there is to say of the call, in lines: why a condition keeps so few images, which collections a
        DOI names.

    Examples
    --------
    >>> report = Report([Outcome("image", 10426, "cached"), Outcome("image", 3, "not_found", "HTTP 404")])
    >>> report.counts
    {'cached': 1, 'not_found': 1}
    >>> report.missing
    (Outcome(kind='image', id=3, status='not_found', reason='HTTP 404'),)
    """

    def __init__(self, outcomes: Iterable[Outcome] = (), notes: Iterable[str] = ()) -> None:
        self._outcomes = tuple(outcomes)
        self.notes = tuple(notes)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Report: ...
    def __getitem__(self, index: int | slice) -> Outcome | Report:
        """Return one outcome, or a report over some."""
        return Report(self._outcomes[index]) if isinstance(index, slice) else self._outcomes[index]

    def __len__(self) -> int:
        """Return how many ids are accounted for."""
        return len(self._outcomes)

    def __eq__(self, other: object) -> bool:
        """Compare the outcomes, in order."""
        return self._outcomes == other._outcomes if isinstance(other, Report) else NotImplemented

    def __hash__(self) -> int:
        """Hash the outcomes."""
        return hash(self._outcomes)

    def __repr__(self) -> str:
        """Show the counts: a report of 10,000 ids is no thing to print."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return "\n".join([f"<Report: {counts or 'no outcomes'}>", *self.notes])

    @property
    def counts(self) -> dict[str, int]:
        """How many ids ended with each status, most frequent first."""
        return dict(Counter(outcome.status for outcome in self._outcomes).most_common())

    @property
    def missing(self) -> tuple[Outcome, ...]:
        """The outcomes that leave the answer incomplete."""
        return tuple(outcome for outcome in self._outcomes if outcome.missing)

    def df(self) -> pd.DataFrame:
        """Return the outcomes as a dataframe with the columns ``kind``, ``id``, ``status``, ``reason``."""
        import pandas as pd

        frame = pd.DataFrame(self._outcomes, columns=["kind", "id", "status", "reason"])
        return frame.astype({"id": "Int64"})
