"""Account for every id of a call: what happened to it, in request order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nvcatalog.known import Known
from nvcatalog.plan import Plan, Request
from nvcatalog.report import Kind, Outcome, Status


@dataclass
class Notes:
    """What the steps of a call noted on their way.

    Attributes
    ----------
    outcomes : dict
        What listing and moving say of an id, by kind and id.
    taken_over : set of int
        Images whose file was here without a row.
    words_taken_over : set of int
        Images whose terms were.
    bad_files : dict of int to str
        Images whose file here is no whole map, and why.
    unreadable : dict
        Metadata files here that could not be read, by kind and id.
    """

    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    taken_over: set[int] = field(default_factory=set)
    words_taken_over: set[int] = field(default_factory=set)
    bad_files: dict[int, str] = field(default_factory=dict)
    unreadable: dict[tuple[str, int | None], Outcome] = field(default_factory=dict)


def settle(request: Request, plan: Plan, known: Known, notes: Notes) -> list[Outcome]:
    """Return an outcome for everything that was asked for: collections that are not whole, images, terms.

    Parameters
    ----------
    request : Request
        What was asked for.
    plan : Plan
        What was decided before anything moved.
    known : Known
        What is known now.
    notes : Notes
        What happened in between.
    """
    accounts = _Accounts(request, plan, known, notes)
    images = [accounts.image(id_) for id_ in plan.images]
    outcomes = [outcome for id_ in request.collection_ids for outcome in accounts.collection(id_)] + images
    if request.words:
        outcomes += [accounts.words(id_) for id_, image in zip(plan.images, images, strict=True) if image.here]
    outcomes += [outcome for id_ in accounts.parents_of(images) for outcome in accounts.parent(id_)]
    outcomes = [accounts.with_its_file(outcome) for outcome in outcomes]
    return outcomes + accounts.lost(outcomes)


class _Accounts:
    def __init__(self, request: Request, plan: Plan, known: Known, notes: Notes) -> None:
        self._request = request
        self._plan = plan
        self._known = known
        self._notes = notes
        self._held = known.images_by_collection()

    def collection(self, id_: int) -> Iterator[Outcome]:
        """Say what keeps a collection from being whole; one that is speaks through its images."""
        known = self._known.collections.get(id_)
        if outcome := self._notes.outcomes.get(("collection", id_)):
            yield outcome
        elif refusal := self._known.refusals.get(("collection", id_)):
            yield Outcome("collection", id_, refusal.status, refusal.reason)
        elif self._request.mode == "offline" and not (known and known.complete):
            reason = "its list was never read to the end" if id_ in self._held else "unknown here, never listed"
            yield Outcome("collection", id_, "missing_offline", reason)
        elif id_ not in self._held and known and known.listed_count == 0:
            yield Outcome("collection", id_, "cached", "it holds no images")
        for refusal in self._known.positions.get(id_, ()):
            yield Outcome("image", None, refusal.status, refusal.reason)

    def parents_of(self, images: list[Outcome]) -> list[int]:
        """Return the collections that nobody asked for and images of the answer belong to."""
        here = [known for each in images if each.here and (known := self._known.images.get(each.id or 0))]
        return sorted({image.collection_id for image in here} - {*self._request.collection_ids})

    def parent(self, id_: int) -> Iterator[Outcome]:
        """Say why the record of a single image's collection is not part of the answer, or is an old one."""
        known = self._known.collections.get(id_)
        has_record = known is not None and known.record is not None
        refusal = self._known.refusals.get(("collection", id_))
        if outcome := self._notes.outcomes.get(("collection", id_)):
            yield outcome._replace(status="kept_old") if has_record else outcome
        elif refusal and not has_record:
            yield Outcome("collection", id_, refusal.status, refusal.reason)
        elif not has_record:
            status: Status = "missing_offline" if self._request.mode == "offline" else "failed"
            yield Outcome("collection", id_, status, "its record is not here")

    def image(self, id_: int) -> Outcome:
        """Say how an image came to be here, or why it is not."""
        outcome = self._notes.outcomes.get(("image", id_)) or self._plan.settled.get(("image", id_))
        image = self._known.images.get(id_)
        is_here = image is not None and image.map(self._request.kind) is not None and id_ in self._plan.here
        if is_here and outcome is None:
            return self._as_here("image", id_, taken_over=id_ in self._notes.taken_over)
        if is_here and outcome is not None and not outcome.here:
            return outcome._replace(status="kept_old")
        outcome = outcome or Outcome("image", id_, "failed", "its record could not be read")
        bad = self._notes.bad_files.get(id_)
        return outcome._replace(reason=bad) if bad and outcome.status == "missing_offline" else outcome

    def words(self, id_: int) -> Outcome:
        """Say how an image's terms came to be here, or why they are not."""
        outcome = self._notes.outcomes.get(("words", id_)) or self._plan.settled.get(("words", id_))
        if outcome is None and id_ not in self._known.with_words:
            outcome = Outcome("words", id_, "failed", "its terms were not asked for")
        return outcome or self._as_here("words", id_, taken_over=id_ in self._notes.words_taken_over)

    def _as_here(self, kind: Kind, id_: int, *, taken_over: bool) -> Outcome:
        """Say that something is here; and what the server said, where it refused to renew it."""
        refusal = self._known.refusals.get((kind, id_))
        reason = f"when it was last asked for: {refusal.reason}" if refusal else None
        return Outcome(kind, id_, "adopted" if taken_over else "cached", reason)

    def with_its_file(self, outcome: Outcome) -> Outcome:
        """Name the metadata file that could not be read: what it cost offline, what was mended online."""
        unreadable = self._notes.unreadable.get((outcome.kind, outcome.id))
        named = outcome.status in ("adopted", "cached", "missing_offline")
        return outcome._replace(reason=unreadable.reason) if unreadable and named else outcome

    def lost(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Account for what is known offline by the name of an unreadable file alone."""
        if self._request.mode != "offline":
            return []
        accounted = {(outcome.kind, outcome.id) for outcome in outcomes}
        lost = (outcome for key, outcome in self._notes.unreadable.items() if key not in accounted)
        return [outcome._replace(status="missing_offline") for outcome in lost]
