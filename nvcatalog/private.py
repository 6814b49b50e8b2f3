"""Open private collections: find which one each token is for, and keep the tokens where they belong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nvcatalog import lookup, records
from nvcatalog._store import Store
from nvcatalog.client import NeuroVault
from nvcatalog.errors import RefusedError, ServerError
from nvcatalog.ids import Token
from nvcatalog.known import Known
from nvcatalog.landing import Lander
from nvcatalog.plan import Request
from nvcatalog.report import Outcome, Status


class Opener:
    """Turns the ids and tokens that a call names into ids alone.

    Parameters
    ----------
    collections, images : sequence of int or Token
        What the call names, in its order.
    store : Store
        The catalog, which remembers tokens that were used before.

    Attributes
    ----------
    lost : list of Outcome
        A line for each token that opens nothing.
    """

    def __init__(self, collections: Sequence[int | Token], images: Sequence[int | Token], store: Store) -> None:
        self.lost: list[Outcome] = []
        self._collections = collections
        self._images = images
        self._store = store
        self._opened = lookup.collections_of_tokens(store, self._tokens())

    def request(self, request: Request) -> Request:
        """Return the request with the ids of what is open so far."""
        collections = (
            self._opened.get(each.text) if isinstance(each, Token) else each for each in self._collections
        )
        images = (
            each if isinstance(each, int) else each.image_id if each.text in self._opened else None
            for each in self._images
        )
        return replace(request, collection_ids=_distinct(collections), image_ids=_distinct(images))

    def tell(self, known: Known) -> Known:
        """Note of which collections the images are that were named with a token."""
        for each in self._images:
            if isinstance(each, Token) and each.image_id and each.text in self._opened:
                known.parents[each.image_id] = self._opened[each.text]
        return known

    def open(self, vault: NeuroVault | None, lander: Lander) -> set[int]:
        """Ask for the collections of tokens that were never used here, and return those that are open now."""
        new = [token for token in dict.fromkeys(self._tokens()) if token not in self._opened]
        for token in new:
            if vault is None:
                self._lose("missing_offline", "a private collection's token that was never used here")
                continue
            try:
                record = vault.collection_of_token(token)
            except RefusedError as error:
                wrong = error.status in ("not_found", "private")
                self._lose(error.status, "no collection has this token" if wrong else str(error))
            except ServerError as error:
                self._lose("failed", str(error))
            else:
                self._opened[token] = records.record_id(record)
                lander.batch.add_record("collection", record)
                if vault.needs_token(self._opened[token]):
                    lander.batch.add("access", {"collection_id": self._opened[token], "token": token})
        return {self._opened[token] for token in new if token in self._opened}

    def _tokens(self) -> list[str]:
        return [each.text for each in (*self._collections, *self._images) if isinstance(each, Token)]

    def _lose(self, status: Status, reason: str) -> None:
        self.lost.append(Outcome("collection", None, status, reason))


def _distinct(ids: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(id_ for id_ in ids if id_ is not None))
