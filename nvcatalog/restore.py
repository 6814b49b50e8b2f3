"""Fetch files again that are lost: by the engine of every fetch, and nothing beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from nvcatalog import resample
from nvcatalog._store import Store
from nvcatalog.beside import Besides
from nvcatalog.call import Call
from nvcatalog.errors import CatalogWarning, IncompleteWarning, MissingExtraError
from nvcatalog.extras import Extra
from nvcatalog.known import Known
from nvcatalog.landing import Lander
from nvcatalog.layout import MAPS
from nvcatalog.options import Options
from nvcatalog.plan import RESAMPLED, Plan, Request
from nvcatalog.servers import Servers


class LostFile(NamedTuple):
    """A file that is to be had again: whose it is, and how it came to be."""

    item_id: int
    kind: str
    collection_id: int
    origin: str | None

    @property
    def is_of_pack(self) -> bool:
        """Whether it belongs to a NIDM pack, and not to an image."""
        return self.kind.startswith("nidm_")


@dataclass
class Restored:
    """What came of an attempt to have lost files again.

    Attributes
    ----------
    reasons : dict of (int, str) to str
        Why a file could not be had, by image (or pack) and kind.
    refused : dict of int to str
        What the server lastingly says of images that it has not.
    warnings : list of (str, type)
        What else there is to warn of.
    """

    reasons: dict[tuple[int, str], str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    warnings: list[tuple[str, type[Warning]]] = field(default_factory=list)

    def add(self, call: _Restoring) -> None:
        """Take note of what came of one call."""
        for outcome in call.report:
            if outcome.id is not None and outcome.kind in ("image", "extra"):
                reason = outcome.reason or outcome.status
                kind = call.request.kind if outcome.kind == "image" else reason.partition(":")[0]
                self.reasons[outcome.id, kind] = reason
        refusals = call.known.refusals.values()
        self.refused |= {refusal.id: refusal.reason for refusal in refusals if refusal.kind == "image"}
        self.warnings += call.told


def restore(folder: Path, lost: Iterable[LostFile], strangers: Iterable[int], options: Options) -> Restored:
    """Fetch lost files again, and make those anew that were made of others.

    Parameters
    ----------
    folder : Path
        The data folder.
    lost : iterable of LostFile
        The files.
    strangers : iterable of int
        Images of which a file is here and no record: the record is read, and the file taken over where it fits.
    options : Options
        How the calls go.
    """
    restored, lost = Restored(), list(lost)
    originals = {file.item_id for file in lost if file.kind == "original"}
    beside = [file for file in lost if file.kind not in MAPS]
    strangers = set(strangers)
    if originals or beside or strangers:
        restored.add(_Restoring(folder, options, originals, strangers=strangers, beside=beside).run_alone())
    for way, ids in _by_interpolation(lost).items():
        try:
            resample.require()
        except MissingExtraError as error:
            restored.reasons |= dict.fromkeys(((id_, "resampled") for id_ in ids), str(error))
        else:
            how = replace(options, kind="resampled", interpolation=way)
            restored.add(_Restoring(folder, how, ids).run_alone())
    return restored


def _by_interpolation(lost: list[LostFile]) -> dict[str | None, set[int]]:
    """Return the images whose resampled map is lost, by how it had been made; of nilearn's nobody knows how."""
    ways: dict[str | None, set[int]] = {}
    for file in lost:
        if file.kind == "resampled":
            ways.setdefault((file.origin or "").partition(RESAMPLED)[2] or None, set()).add(file.item_id)
    return ways


class _Restoring(Call):
    """A call for lost files alone: what else of their images is not here stays so."""

    def __init__(
        self,
        folder: Path,
        options: Options,
        lost: set[int],
        *,
        strangers: Iterable[int] = (),
        beside: Iterable[LostFile] = (),
    ) -> None:
        self._lost = lost
        self._beside = list(beside)
        self.told: list[tuple[str, type[Warning]]] = []
        super().__init__(
            options.request(image_ids=tuple(sorted({*lost, *strangers}))),
            options,
            folder,
            function="repair",
            parameters={"image_ids": sorted(lost), "extras": [file[:2] for file in self._beside]},
        )

    def run_alone(self) -> _Restoring:
        """Go all the way, without an answer; who called tells how it went."""
        options = self.options
        with Servers(
            timeout_s=options.timeout_s, max_workers=options.max_workers, verbose=options.verbose
        ) as servers:
            self.run(servers)
        return self

    def _without_unread(self, plan: Plan) -> Plan:
        """Leave out what is not lost: of an image that was unknown, only what is here is of interest."""
        plan = super()._without_unread(plan)
        return replace(
            plan,
            images=tuple(id_ for id_ in plan.images if id_ in self._lost or id_ in plan.here),
            to_fetch=tuple(id_ for id_ in plan.to_fetch if id_ in self._lost),
            to_resample=tuple(id_ for id_ in plan.to_resample if id_ in self._lost),
        )

    def _fetch_extras(self, servers: Servers) -> None:
        if not self._beside:
            return
        images = {file.item_id for file in self._beside if not file.is_of_pack}
        collections = {file.collection_id for file in self._beside if file.is_of_pack}
        known = self.store.known([], images)
        request = replace(self.request, collection_ids=tuple(sorted(collections)))
        wanted = {(file.item_id, file.kind) for file in self._beside}
        besides = _LostBesides(request, self.store, known, self.lander, servers, wanted)
        self._extras = besides.run(sorted(known.images), verbose=self.options.verbose)
        self._bytes += besides.bytes

    def _tell(self, servers: Servers) -> None:
        healths = (servers.neurovault_health, servers.neurosynth_health)
        self.told = [*self._warnings, *((text, CatalogWarning) for text in self.lander.troubles)]
        self.told += [(f"Stopped early: {each.given_up}", IncompleteWarning) for each in healths if each.given_up]


class _LostBesides(Besides):
    """Of all files beside maps, those that are lost."""

    def __init__(
        self,
        request: Request,
        store: Store,
        known: Known,
        lander: Lander,
        servers: Servers,
        wanted: set[tuple[int, str]],
    ) -> None:
        super().__init__(request, store, known, lander, servers, listed={})
        self._those = wanted

    def _wanted(self, image_ids: list[int]) -> Iterator[tuple[int, Extra]]:
        for collection_id, extra in super()._wanted(image_ids):
            if (extra.item_id, extra.kind) in self._those:
                yield collection_id, extra
